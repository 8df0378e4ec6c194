"""`runner verify`."""

from __future__ import annotations

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("verify", short_help="Prove that the state is what the history says.")
@options.protocol
@options.as_json
@click.pass_obj
def command(session: Session, protocol: str | None, as_json: bool) -> None:
    """Prove that PROTOCOL's state is what its history says, offline."""
    from runner.store import finding
    from runner.trust import verify

    project = session.project
    name = finding.find(project, protocol)
    report = verify.verify(project.git, name, finding.known(project)[name])
    for finding_ in report.findings:
        session.result(f"{finding_.rule}  {finding_.commit[:12]}  {finding_.path}  {finding_.text}")
    session.result(f"{name}  {'verified' if report.ok else 'does not verify'} · {report.transitions} transitions")
    raise SystemExit(0 if report.ok else 4)
