"""`runner sync`."""

from __future__ import annotations

import click

from runner.app import sync
from runner.cli import options
from runner.cli.session import Session
from runner.store import publishing


@click.command("sync")
@options.protocol
@click.option(
    "--no-work", is_flag=True, help="Record approvals and answers, but leave the work that follows to `runner run`."
)
@click.pass_obj
def command(session: Session, protocol: str | None, no_work: bool) -> None:
    """Fetch PROTOCOL (default: every protocol, here and on the remote), reconcile diverged branches, and push.

    With `forge:`, also read the request (reviews, comment commands, CI, close and merge), resume the protocol if they
    allow it, and update request, comment and statuses.

    If both sides advanced, the remote's transitions are kept; those of this clone are saved under refs/runner/lost/ and are
    repeated. Commits and answers by people are kept on both sides; of two answers to one question, the remote's is used.
    """
    project = session.project
    every = sync.sync(project, [publishing.find(project, protocol)] if protocol else None, work=not no_work)
    if not every:
        session.note("there is no protocol to publish")
    for done in every:
        said = f"error: {done.error.what}" if done.error else done.said
        session.note("  ".join(filter(None, (done.protocol, said, done.tip[:7], done.title, done.url))))
    for done in every:
        if done.error is not None:  # once the others are reported
            raise done.error
