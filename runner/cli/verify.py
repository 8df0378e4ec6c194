"""`runner verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runner.cli import options
from runner.cli.session import Session

if TYPE_CHECKING:
    from runner.trust.verify import Report

UNSIGNED = "unsigned: proves consistency, not who ran them"
SIGNED = "each signed by a key that the policy lists"


@click.command("verify", short_help="Prove that the state is what the history says.")
@options.protocol
@click.option("--all", "everything", is_flag=True, help="Every protocol that is known here.")
@click.option("--live", is_flag=True, help="Ask the remote first: what it has by now, and whose word counts.")
@options.as_json
@click.pass_obj
def command(session: Session, protocol: str | None, everything: bool, live: bool, as_json: bool) -> None:
    """Prove that PROTOCOL's state is what its history says, offline but with --live.

    Exit 0: it verifies; 4: it does not; 5: this clone does not have what it takes to tell.
    """
    from runner.app import verify
    from runner.errors import UsageError

    project = session.project
    if everything and protocol:
        raise UsageError("either a protocol or --all", "runner verify", "leave one of them out")
    names = verify.known(project) if everything else [verify.find(project, protocol)]
    if project.git.refs("refs/replace/"):
        session.note("refs/replace/ is there: `git log` shows other objects than those that are verified here")
    told, codes = [], {0}
    for name in names:
        report, code = verify.prove(project, name, live=live)
        codes.add(code)
        told.append(_plain(report))
        if not as_json:
            tell(session, report)
    if as_json:
        session.json({"ok": codes == {0}, "protocols": told})
    elif not names:
        session.note("no protocols; `runner new` makes one")
    raise SystemExit(4 if 4 in codes else max(codes))


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
        session.result("  ".join(filter(None, [found.rule, found.commit[:12], found.path, found.text])))
    for note in report.notes:
        session.note(f"{report.protocol}  {note}")
    if report.ok:
        plural = "" if report.transitions == 1 else "s"
        hand = SIGNED if report.signed == report.transitions else UNSIGNED
        words = f" · {report.approvals} approval{'' if report.approvals == 1 else 's'}" if report.approvals else ""
        session.result(f"{report.protocol}  verified · {report.transitions} transition{plural}{words} · {hand}")
    elif not report.tip:
        session.result(f"{report.protocol}  cannot tell")
    else:
        plural = "" if len(report.findings) == 1 else "s"
        session.result(f"{report.protocol}  does not verify · {len(report.findings)} finding{plural}")
