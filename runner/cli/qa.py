"""`runner qa`."""

from __future__ import annotations

import click

from runner.app import judge
from runner.app.judge import Judged
from runner.cli import options, telling
from runner.cli.session import Session
from runner.lines import lines_of
from runner.store import finding


@click.command("qa", short_help="Judge a step's work by hand; nothing is recorded.")
@options.protocol
@options.step
@click.option("--full", is_flag=True, help="Have a model judge it too, whatever the step says.")
@options.work
@click.pass_obj
def command(session: Session, protocol: str | None, step: str | None, full: bool) -> None:
    """Run the QA of STEP (default: the one that waits for it, else the last that has work) on PROTOCOL as it stands.

    Nothing is recorded. Exit 1 where it does not pass.
    """
    project = session.project
    name, slug = finding.find_with_step(project, protocol, step)
    with telling.Teller(session, each=True).at_work(name):
        done = judge.by_hand(project, name, slug, full=full)
    _tell(session, done)
    raise SystemExit(0 if done.passed else 1)


def _tell(session: Session, done: Judged) -> None:
    for check in done.evidence:
        passed = check["code"] == 0
        session.line(
            ("passed " if passed else f"exit {check['code']} ", "green" if passed else "red"), f" {check['check']}"
        )
        if not passed:
            for line in lines_of(check["tail"]):
                session.line(f"        {line}")
    if done.report:
        session.line("")
        for line in lines_of(done.report):
            session.line(line)
        session.line("")
    word, colour = ("PASS", "green") if done.passed else ("FAIL", "red")
    session.line((word, colour), f"  {done.step}, attempt {done.attempt}{f': {done.reason}' if done.reason else ''}")
