"""`runner qa`."""

from __future__ import annotations

import click

from runner.app import qa
from runner.app.qa import Judged
from runner.cli import options, output, progress
from runner.cli.session import Session
from runner.executor import load
from runner.lines import LAST, WIDTH, lines_of, lines_of_output


@click.command("qa")
@options.protocol
@options.step
@click.option("--full", is_flag=True, help="Include a model's review, even if the step does not have one.")
@options.work
@click.pass_obj
def command(session: Session, protocol: str | None, step: str | None, full: bool) -> None:
    """Run the QA of STEP on its current work in PROTOCOL. After a failed attempt, that is the work that it left.

    Default: the step that waits for QA, else the one that failed, else the last that is done. Nothing is recorded. Exit 1: QA failed.
    """
    project = session.project
    name, slug = options.found(session, protocol, step)
    load.find_protocol(session.project, session.means(name))  # a branch that only the remote has is brought here
    with progress.Progress(session, each=True).at_work(name):
        done = qa.by_hand(project, name, slug, full=full)
    _tell(session, done)
    raise SystemExit(0 if done.passed else 1)


def _tell(session: Session, done: Judged) -> None:
    printed = {
        id(check): data
        for check, data in zip(output.commands(done.evidence, reviewed=bool(done.report)), done.outputs, strict=False)
    }
    for check in done.evidence:
        passed = check["code"] == 0
        session.line(
            ("passed " if passed else f"exit {check['code']} ", "green" if passed else "red"), f" {check['check']}"
        )
        if not passed:
            found = lines_of_output(printed[id(check)]) if id(check) in printed else lines_of(check["tail"])
            for line in found[-LAST:]:
                session.line(f"        {line[:WIDTH]}")
    if done.report:
        session.line("")
        for line in lines_of(done.report):
            session.line(line)
        session.line("")
    word, colour = ("PASS", "green") if done.passed else ("FAIL", "red")
    session.line((word, colour), f"  {done.step}, attempt {done.attempt}{f': {done.reason}' if done.reason else ''}")
    if done.again and done.passed:
        session.note(f"{done.step} is still recorded as failed; a new attempt from this work: `{done.again}`")
