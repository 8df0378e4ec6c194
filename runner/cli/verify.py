"""`runner verify`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from runner.app import histories, verify
from runner.cli import ci, options
from runner.cli.session import Session
from runner.errors import UsageError
from runner.lines import counted
from runner.trust.walk import Report

UNSIGNED = "unsigned: proves consistency, not who ran them"
SIGNED = "each signed by a key that the policy lists"


@click.command("verify")
@options.protocols
@click.option("--all", "everything", is_flag=True, help="Verify every protocol in this clone.")
@click.option("--live", is_flag=True, help="Fetch new commits, policy and keys first.")
@click.option(
    "--ci",
    "in_job",
    is_flag=True,
    help="Also report to the CI: annotations and a summary on GitHub, a report on GitLab.",
)
@click.option(
    "--handed-over",
    "from_work",
    is_flag=True,
    help="Also refuse events of people and of the forge in commits that are not on the remote yet; fetches as --live does.",
)
@options.fetches
@options.as_json
@click.pass_obj
def command(
    session: Session,
    protocols: tuple[str, ...],
    everything: bool,
    live: bool,
    in_job: bool,
    from_work: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Verify that the state of each PROTOCOL follows from its history; offline, except with --live or for one that is not in this
    clone.

    Exit 0: all verify; 4: at least one does not; 5: cannot decide, because objects are missing in this clone. They are
    fetched if you agree, at the terminal or with --yes.
    """
    project = session.project
    histories.alone(project)
    if everything and protocols:
        raise UsageError("PROTOCOL and --all do not go together", "runner verify", "give one of them")
    names = (
        verify.known(project)
        if everything
        else [options.looked_up(session, name, partial(verify.find, project)) for name in protocols or (None,)]
    )
    if project.git.refs("refs/replace/"):
        session.note("refs/replace/ exists: `git log` shows other objects than the ones verified here")
    live = live or from_work
    wanted = dict.fromkeys(names)
    judged = {name: verify.prove(project, name, live=live, from_work=from_work) for name in wanted}
    lacking = [name for name, (_, code) in judged.items() if code == 5]
    if not project.git.is_shallow() and options.fetch_missing(session, lacking, yes=yes):
        judged |= {name: verify.prove(project, name) for name in lacking}
    reports, codes = [report for report, _ in judged.values()], {0, *(code for _, code in judged.values())}
    for report in () if as_json else reports:
        tell(session, report)
    if as_json:
        session.json({"ok": codes == {0}, "protocols": [_plain(report) for report in reports]})
    elif not names:
        session.note("no protocols; `runner new` makes one")
    if in_job:
        _tell_ci(session, reports)
    raise SystemExit(4 if 4 in codes else max(codes))


def _tell_ci(session: Session, reports: Sequence[Report]) -> None:
    found = []
    for report in reports:
        for one in report.findings:
            file, line = verify.place_of(session.project, report, one)
            text = f"{one.text} ({'commit ' + one.commit[:12] if one.commit else one.path})"
            found.append(ci.Annotation(file, line, f"{report.protocol} {one.rule}", text))
        ci.summarise(session, report.protocol, _verdict(report), [f"{one.rule}: {one.text}" for one in report.findings])
    ci.annotate(session, found)


def _plain(report: Report) -> dict[str, Any]:
    return {
        "protocol": report.protocol,
        "ok": report.ok,
        "transitions": report.transitions,
        "approvals": report.approvals,
        "findings": [
            {"rule": found.rule, "commit": found.commit, "path": found.path, "text": found.text}
            for found in report.findings
        ],
    }


def tell(session: Session, report: Report) -> None:
    """Give what verify found, a line a finding, and the verdict."""
    for found in report.findings:
        session.result(_line("  ".join(filter(None, [found.rule, found.commit[:12], found.path, found.text]))))
    for note in report.notes:
        session.note(_line(f"{report.protocol}  {note}"))
    session.result(f"{report.protocol}  {_verdict(report)}")


def _line(text: str) -> str:
    """Return text on one line: a file's name may contain a line break and a text that looks like a verdict."""
    return text.replace("\n", "\\n")


def _verdict(report: Report) -> str:
    if report.ok:
        hand = SIGNED if report.signed == report.transitions else UNSIGNED
        words = f" · {counted(report.approvals, 'approval')}" if report.approvals else ""
        return f"verified · {counted(report.transitions, 'transition')}{words} · {hand}"
    if not report.tip:
        return "cannot tell"
    return f"does not verify · {counted(len(report.findings), 'finding')}"
