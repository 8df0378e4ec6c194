"""`runner audit`."""

from __future__ import annotations

from functools import partial

import click

from runner.app import audit, histories, verify
from runner.cli import options, streams
from runner.cli.session import Session
from runner.cli.verify import tell
from runner.errors import InTheWayError, UsageError


@click.command("audit")
@options.protocol
@click.option(
    "-o",
    "output",
    metavar="FILE",
    help="The file; `-` is stdout. Default: PROTOCOL.html. Only an earlier page is overwritten.",
)
@click.option(
    "--attest",
    "attested",
    is_flag=True,
    help="Print in-toto statements (SLSA provenance) to stdout instead, one per completed step.",
)
@options.fetches
@click.pass_obj
def command(session: Session, protocol: str | None, output: str | None, attested: bool, yes: bool) -> None:
    """Write one HTML page about PROTOCOL: verdict, plan, approvals, effects, cost, timeline, diff.

    The page is self-contained and has no scripts. Exit codes 0, 4 and 5 are those of `runner verify`: the page is written in
    each case, statements only with 0.
    """
    project = session.project
    histories.alone(project)
    name = options.looked_up(session, protocol, partial(verify.find, project))
    histories.take(project, [name])
    report, code = verify.prove(project, name)
    if code == 5 and not project.git.is_shallow() and options.fetch_missing(session, [name], yes=yes):
        report, code = verify.prove(project, name)
    if not attested:
        now = project.env.timestamp()
        page = audit.audit(project, name, report, cannot_tell=code == 5, now=now)
        if page.lacks and options.fetch_missing(session, [name], yes=yes):
            page = audit.audit(project, name, report, cannot_tell=code == 5, now=now)
        _put(
            session, output or f"{name}.html", page.data, f'<meta name="generator" content="{audit.GENERATOR} '.encode()
        )
        if page.lacks:
            hint = f"`runner audit {name} --yes` fetches it from {project.trusted.remote}"
            session.note(f"the page has no difference, which is not in this clone: {hint}")
    elif not code:
        _put(session, output or "-", audit.attest(project, name), audit.BEGINS)
    if code:
        tell(session, report)
    raise SystemExit(code)


def _put(session: Session, name: str, data: bytes, mark: bytes) -> None:
    """Write a file and say which, or give it on stdout where its name is `-`; `mark`: a text near the start of an older page.

    Raises:
        InTheWayError: something else has that name. UsageError: it cannot be written there.
    """
    if name == "-":
        streams.put(data.decode(), nl=False)
        return
    path = session.cwd / name
    try:
        # Through a link, which a branch may have there, nothing is written.
        if path.is_symlink() or (path.exists() and (not path.is_file() or mark not in path.read_bytes()[:4096])):
            raise InTheWayError("something else has that name", str(path), "name another file with -o")
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"it cannot be written: {error.strerror}", str(path), "name another file with -o") from error
    session.result(str(path))
