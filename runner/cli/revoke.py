"""`runner revoke`."""

from __future__ import annotations

import click

from runner.cli.approve import say, words
from runner.cli.session import Session


@click.command("revoke", short_help="Take back your own word on something.")
@words
@click.pass_obj
def command(session: Session, named: tuple[str, ...], reason: str, yes: bool) -> None:
    """Take back your own word on SUBJECT of PROTOCOL, yes or no, as far as it was not used yet."""
    say(session, "revoke", named, reason, yes=yes)
