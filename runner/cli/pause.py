"""`runner pause`."""

from __future__ import annotations

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("pause", short_help="Stop a protocol for now.")
@options.protocol
@options.offline
@click.option("-m", "reason", metavar="TEXT", help="Why, in the record.")
@click.pass_obj
def command(session: Session, protocol: str | None, reason: str | None) -> None:
    """Stop PROTOCOL for now. A step that is at work ends, and nothing follows it."""
    from runner.app import steer
    from runner.cli import steering
    from runner.executor import looking

    steering.tell(session, steer.pause(session.project, looking.find_protocol(session.project, protocol), reason))
