"""`runner fork`."""

from __future__ import annotations

import click

from runner.app import forge, fork
from runner.cli import options, steer
from runner.cli.new import tell_made
from runner.cli.session import Session
from runner.store import publishing


@click.command("fork")
@click.argument("protocol", required=False, metavar="[PROTOCOL][@REVISION]")
@click.option("--title", metavar="TITLE", default="", help="What its id is made of; its title stays its plan's.")
@click.option("--base", metavar="BRANCH", help="The branch that it is merged into; otherwise the other one's.")
@click.option(
    "--renumber",
    is_flag=True,
    help="Where another protocol with PROTOCOL's id was published first: give this one another number.",
)
@options.offline
@click.pass_obj
def command(session: Session, protocol: str | None, title: str, base: str | None, renumber: bool) -> None:
    """Begin another protocol where PROTOCOL stood at REVISION (its last, where none is named), and print its id.

    It has a number, a branch and a worktree of its own, and the plan, the code and the finished steps of that revision;
    the steps that follow are yours to edit. PROTOCOL is not touched. No approval comes along: what waits for one is asked
    again. A revision at which a step's work was not done is refused.

    With --renumber the fork takes PROTOCOL's place: what you committed since comes along, and PROTOCOL's branch makes way for the
    other protocol of that id, which `runner sync` brings. Its old history is kept under refs/runner/lost/.
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
    forge.tell_published(project, made.protocol)
