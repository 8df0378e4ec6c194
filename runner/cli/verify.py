"""`runner verify` and `runner audit`: print the findings of verify, or write one page about the whole protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from runner.app import audit, verify
from runner.cli import ci, options, streams
from runner.cli.console import Console
from runner.cli.streams import safe_line
from runner.errors import ExitCode, InTheWayError, UsageError
from runner.lines import counted
from runner.trust.walk import Report


@click.command("verify")
@options.protocols
@options.flag("--all", "everything", help="Verify every protocol in this clone.")
@options.flag("--live", help="Fetch new commits, policy and keys first.")
@options.flag("--ci", "in_job", help="Also report to the CI: annotations and a summary on GitHub, a report on GitLab.")
@options.flag(
    "--handed-over",
    "from_work",
    help="Also refuse events of people and of the forge in commits that are not on the remote yet; fetches as --live does.",
)
@options.fetches
@options.as_json
@click.pass_obj
def command(
    console: Console,
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

    Exit 0: all verify; 4: at least one does not; 5: cannot tell, because objects are missing in this clone. They are
    fetched if you agree, at the terminal or with --yes.
    """
    session = console.session
    verify.fetch_nothing(session.project)
    if everything and protocols:
        raise UsageError("PROTOCOL and --all do not go together", "runner verify", "give one of them")
    names = (
        verify.known(session.project)
        if everything
        else [options.looked_up(console, name, verify.find) for name in protocols or (None,)]
    )
    if session.git.refs("refs/replace/"):
        console.note("refs/replace/ exists: `git log` shows other objects than the ones verified here")
    live = live or from_work
    wanted = dict.fromkeys(names)
    judged = {name: verify.prove(session, name, live=live, from_work=from_work) for name in wanted}
    lacking = [name for name, (_, code) in judged.items() if code == 5]
    if not session.git.is_shallow() and options.fetch_missing(console, lacking, yes=yes):
        judged |= {name: verify.prove(session, name) for name in lacking}
    reports, codes = [report for report, _ in judged.values()], {0, *(code for _, code in judged.values())}
    for report in () if as_json else reports:
        tell(console, report)
    if as_json:
        console.json({"ok": codes == {0}, "protocols": [_plain(report) for report in reports]})
    elif not names:
        console.note("no protocols; `runner new` makes one")
    if in_job:
        _tell_ci(console, reports)
    raise SystemExit(ExitCode.REFUSED if ExitCode.REFUSED in codes else max(codes))


def _tell_ci(console: Console, reports: Sequence[Report]) -> None:
    found = []
    for report in reports:
        for one in report.findings:
            file, line = verify.place_of(console.project, report, one)
            text = f"{one.text} ({'commit ' + one.commit[:12] if one.commit else one.path})"
            found.append(ci.Annotation(file, line, f"{report.protocol} {one.rule}", text))
        ci.summarise(console, report.protocol, _verdict(report), [f"{one.rule}: {one.text}" for one in report.findings])
    ci.annotate(console, found)


def _plain(report: Report) -> dict[str, Any]:
    return {
        "protocol": report.protocol,
        "ok": report.ok,
        "transitions": report.transitions,
        "approvals": report.approvals,
        "findings": [found._asdict() for found in report.findings],
    }


def tell(console: Console, report: Report) -> None:
    """Give what verify found, a line a finding, whatever a file is called, and the verdict."""
    for found in report.findings:
        console.result(safe_line("  ".join(filter(None, [found.rule, found.commit[:12], found.path, found.text]))))
    for note in report.notes:
        console.note(safe_line(f"{report.protocol}  {note}"))
    console.result(f"{report.protocol}  {_verdict(report)}")


def _verdict(report: Report) -> str:
    if report.ok:
        words = f" · {counted(report.approvals, 'approval')}" if report.approvals else ""
        return f"verified · {counted(report.transitions, 'transition')}{words} · {verify.signed(report)}"
    if not report.tip:
        return "cannot tell"
    return f"does not verify · {counted(len(report.findings), 'finding')}"


# --- the page -----------------------------------------------------------------------------------------------------------


@click.command("audit")
@options.protocol
@click.option(
    "-o",
    "output",
    metavar="FILE",
    help="The file; `-` is stdout. Default: PROTOCOL.html. Only an earlier page is overwritten.",
)
@options.flag(
    "--attest", "attested", help="Print in-toto statements (SLSA provenance) to stdout instead, one per completed step."
)
@options.fetches
@click.pass_obj
def audit_command(console: Console, protocol: str | None, output: str | None, attested: bool, yes: bool) -> None:
    """Write one HTML page about PROTOCOL: verdict, plan, approvals, effects, cost, timeline, diff.

    The page is self-contained and has no scripts. Exit codes 0, 4 and 5 are those of `runner verify`: the page is written in
    each case, statements only with 0.
    """
    session = console.session
    verify.fetch_nothing(session.project)
    name = console.means(options.looked_up(console, protocol, verify.find))
    verify.take_histories(session.project, [name])
    report, code = verify.prove(session, name)
    if code == 5 and not session.git.is_shallow() and options.fetch_missing(console, [name], yes=yes):
        report, code = verify.prove(session, name)
    if not attested:
        now = session.env.timestamp()
        page = audit.audit(session, name, report, cannot_tell=code == 5, now=now)
        if page.lacks and options.fetch_missing(console, [name], yes=yes):
            page = audit.audit(session, name, report, cannot_tell=code == 5, now=now)
        _put(
            console, output or f"{name}.html", page.data, f'<meta name="generator" content="{audit.GENERATOR} '.encode()
        )
        if page.lacks:
            console.note(f"the page has no diff, because objects are missing in this clone: {page.lacks}")
    elif not code:
        _put(console, output or "-", audit.attest(session, name), audit.BEGINS)
    if code:
        tell(console, report)
    raise SystemExit(code)


def _put(console: Console, name: str, data: bytes, mark: bytes) -> None:
    """Write a file and say which, or give it on stdout where its name is `-`; `mark`: a text near the start of an older page.

    Raises:
        InTheWayError: something else has that name. UsageError: it cannot be written there.
    """
    if name == "-":
        streams.put(data.decode(), nl=False)
        return
    path = console.cwd / name
    try:
        # Through a link, which a branch may have there, nothing is written.
        if path.is_symlink() or (path.exists() and (not path.is_file() or mark not in path.read_bytes()[:4096])):
            raise InTheWayError("something else has that name", str(path), "name another file with -o")
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"it cannot be written: {error.strerror}", str(path), "name another file with -o") from error
    console.result(str(path))
