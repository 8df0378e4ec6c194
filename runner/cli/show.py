"""`runner show`."""

from __future__ import annotations

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("show", short_help="Show a protocol, or one of its steps.")
@options.protocol
@options.as_json
@click.pass_obj
def command(session: Session, protocol: str | None, as_json: bool) -> None:
    """Show PROTOCOL."""
    from runner.store import creating, finding, record

    project = session.project
    name = finding.find(project, protocol)
    row = record.row(project.git, name, finding.known(project)[name])
    path = creating.person_path(project.git, project.branch(name), name)
    row["path"] = str(path) if path else None
    session.json(row)
