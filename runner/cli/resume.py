"""`runner resume`."""

from __future__ import annotations

import click

from runner.app import steer
from runner.cli import options, steering
from runner.cli.session import Session
from runner.executor import looking


@click.command("resume", short_help="Let it go on.")
@options.protocol
@options.offline
@click.pass_obj
def command(session: Session, protocol: str | None) -> None:
    """Let PROTOCOL go on from where it was paused or blocked."""
    steering.tell(session, steer.resume(session.project, looking.find_protocol(session.project, protocol)))
