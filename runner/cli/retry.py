"""`runner retry`."""

from __future__ import annotations

import click

from runner.app import steer
from runner.cli import options, steering
from runner.cli.session import Session
from runner.executor import looking


@click.command("retry", short_help="Try what failed again.")
@options.protocol
@options.offline
@click.option("--step", metavar="SLUG", help="This step, though another failed, or none.")
@click.option("--keep", is_flag=True, help="Go on from the work of the last attempt.")
@click.pass_obj
def command(session: Session, protocol: str | None, step: str | None, keep: bool) -> None:
    """Let a new attempt begin of the step of PROTOCOL that failed or is blocked. `runner run` carries it out."""
    name = looking.find_protocol(session.project, protocol)
    steering.tell(session, steer.retry(session.project, name, step=step, keep=keep))
