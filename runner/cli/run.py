"""`runner run`."""

from __future__ import annotations

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("run", short_help="Step until someone or something else is needed.")
@options.protocol
@click.option(
    "--max-steps", default=100, show_default=True, type=click.IntRange(1), help="At most so many transitions."
)
@click.option("--no-adopt", is_flag=True, help="Refuse where plan files have changes that are not committed.")
@options.work
@click.pass_obj
def command(session: Session, protocol: str | None, max_steps: int, no_adopt: bool) -> None:
    """Step PROTOCOL until someone or something else is needed."""
    from runner.app import go
    from runner.cli import telling
    from runner.store import finding

    project = session.project
    name = finding.find(project, protocol)
    every = go.run(
        project,
        name,
        max_steps=max_steps,
        adopt=not no_adopt,
        tell=lambda one: telling.advanced(session, one, last=False),
    )
    done = list(every)[-1]
    telling.end(session, done)
    raise SystemExit(go.exit_code(done))
