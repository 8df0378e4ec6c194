"""`runner reject`."""

from __future__ import annotations

import click

from runner.cli.approve import say, words
from runner.cli.session import Session


@click.command("reject", short_help="Say no to what waits, with a signature.")
@words
@click.pass_obj
def command(session: Session, named: tuple[str, ...], reason: str, yes: bool) -> None:
    """Say no to SUBJECT of PROTOCOL, or to the one thing that waits. It holds until you approve it, or it changes."""
    say(session, "reject", named, reason, yes=yes)
