"""`runner pause`."""

from __future__ import annotations

import click

from runner.app import steer
from runner.cli import options, steering
from runner.cli.session import Session
from runner.executor import looking


@click.command("pause", short_help="Stop a protocol for now.")
@options.protocol
@options.offline
@click.option("-m", "reason", metavar="TEXT", help="Why, in the record.")
@click.pass_obj
def command(session: Session, protocol: str | None, reason: str | None) -> None:
    """Stop PROTOCOL for now. A step that is at work ends, and nothing follows it."""
    steering.tell(session, steer.pause(session.project, looking.find_protocol(session.project, protocol), reason))
