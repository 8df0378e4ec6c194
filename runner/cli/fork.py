"""`runner fork`."""

from __future__ import annotations

import click

from runner.app import fork, request
from runner.cli import options, steer
from runner.cli.new import tell_made
from runner.cli.session import Session
from runner.store import publishing


@click.command("fork")
@click.argument("protocol", required=False, metavar="[PROTOCOL][@REVISION]")
@click.option(
    "--title", metavar="TITLE", default="", help="The title that the id is made from; the plan keeps its own."
)
@click.option("--base", metavar="BRANCH", help="The branch to merge into. Default: the same as PROTOCOL's.")
@click.option(
    "--renumber",
    is_flag=True,
    help="Give PROTOCOL another number, if another protocol with its id was published first.",
)
@options.offline
@click.pass_obj
def command(session: Session, protocol: str | None, title: str, base: str | None, renumber: bool) -> None:
    """Create a protocol that continues from PROTOCOL at REVISION (default: its last revision), and print its id.

    It has its own number, branch and worktree, and the plan, code and finished steps of that revision; you can edit the
    steps that follow. PROTOCOL does not change. Approvals are not copied: each step that needs one asks again. A revision
    in the middle of a step's work is refused.

    With --renumber the fork replaces PROTOCOL: your later commits are copied, and PROTOCOL's branch is freed for the other
    protocol with that id, which `runner sync` fetches. The old history is kept under refs/runner/lost/.
    """
    name, revision = steer.at_revision(protocol)
    project = session.project
    origin = publishing.find(project, name)
    if renumber and (title or base):
        raise click.UsageError("--renumber keeps title and base")
    made = (
        fork.renumber(project, origin, revision)
        if renumber
        else fork.fork(project, origin, revision, title=title, base=base)
    )
    tell_made(session, made)
    session.result(made.protocol)
    made.printed()
    request.post_published(project, made.protocol)
