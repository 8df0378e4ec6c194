"""`runner cancel`."""

from __future__ import annotations

import click

from runner.app import steer
from runner.cli import options, steering
from runner.cli.session import Session
from runner.executor import looking


@click.command("cancel", short_help="End a protocol.")
@options.protocol
@options.offline
@click.option("-m", "reason", metavar="TEXT", help="Why, in the record.")
@click.pass_obj
def command(session: Session, protocol: str | None, reason: str | None) -> None:
    """End PROTOCOL, and stop the work on it: here at once, elsewhere as the lease is renewed. What was paid
    is recorded. Its branch stays; `runner undo` takes this back."""
    steering.tell(session, steer.cancel(session.project, looking.find_protocol(session.project, protocol), reason))
