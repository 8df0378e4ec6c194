"""`runner undo`."""

from __future__ import annotations

import click

from runner.app import undo
from runner.cli import options, steering
from runner.cli.session import Session
from runner.executor import looking


@click.command("undo", short_help="Take the last transition back, or all since a revision.")
@click.argument("protocol", required=False, metavar="[PROTOCOL][@REVISION]")
@options.offline
@click.pass_obj
def command(session: Session, protocol: str | None) -> None:
    """Take the last transition of PROTOCOL back, or all since REVISION: code and steps stand as they did.

    It is one more transition; nothing is rewritten. What was spent, and people's own files, stay.

    Where the remote refused what was never published (a file that is too big, a secret), that is taken out of the branch and its
    history instead, and kept under refs/runner/lost/.
    """
    name, revision = steering.at_revision(protocol)
    steering.tell(session, undo.undo(session.project, looking.find_protocol(session.project, name), revision))
