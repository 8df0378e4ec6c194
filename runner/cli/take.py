"""`runner take`."""

from __future__ import annotations

import click

from runner.app import take
from runner.cli import options
from runner.cli.session import Session
from runner.executor import looking


@click.command("take", short_help="Merge a protocol's work here, or say how.")
@options.protocol
@options.offline
@click.pass_obj
def command(session: Session, protocol: str | None) -> None:
    """Merge PROTOCOL into its base, here, as one commit of yours; nothing is pushed. Where that cannot be, say how."""
    project = session.project
    done = take.take(project, looking.find_protocol(project, protocol))
    session.note(f"{done.protocol}  completed · {'' if done.new else 'already '}merged in {done.commit[:7]}")
    if done.new and project.trusted.remote:
        session.note(f"  next          git push {project.trusted.remote} {done.base}")
