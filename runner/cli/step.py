"""`runner step`."""

from __future__ import annotations

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("step", short_help="Advance a protocol by one transition, one commit.")
@options.protocol
@click.option("--step", "only", metavar="SLUG", help="This step, where it may go on now.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@click.option("--no-adopt", is_flag=True, help="Refuse where plan files have changes that are not committed.")
@options.work
@click.pass_obj
def command(session: Session, protocol: str | None, only: str | None, dry_run: bool, no_adopt: bool) -> None:
    """Advance PROTOCOL by one transition, which makes one commit."""
    from runner.app import go
    from runner.cli import telling
    from runner.executor import advance
    from runner.store import finding

    project = session.project
    name = finding.find(project, protocol)
    done = advance.step(project, name, only=only, adopt=not no_adopt)
    telling.advanced(session, done)
    raise SystemExit(go.exit_code(done))
