"""`runner sync`."""

from __future__ import annotations

import click

from runner.app import sync
from runner.cli import options
from runner.cli.session import Session
from runner.store import publishing


@click.command("sync", short_help="Publish what is here, and bring what is there.")
@options.protocol
@click.option(
    "--no-work", is_flag=True, help="Record what was said, and leave the work that it asks for to `runner run`."
)
@click.pass_obj
def command(session: Session, protocol: str | None, no_work: bool) -> None:
    """Bring what others pushed of PROTOCOL (without it: of every protocol, here or there), settle what is apart, and push.

    With `forge:` it hears the request too (reviews, comment commands, CI, close and merge), goes on where these say so,
    and makes request, comment and statuses say how PROTOCOL stands.

    Where both sides have advanced, the remote's transitions stand; those made here are kept under refs/runner/lost/ and are
    done again. People's commits and answers of both sides are kept; of two answers to one question the remote's decides.
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
