"""`runner audit`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("audit", short_help="Write all of a protocol onto one page, for who signs off.")
@options.protocol
@click.option(
    "-o",
    "output",
    metavar="FILE",
    help="Where to; `-` is stdout. PROTOCOL.html without it. Only an older page is replaced.",
)
@click.pass_obj
def command(session: Session, protocol: str | None, output: str | None) -> None:
    """Write all of PROTOCOL onto one HTML page: verdict, plan, words, effects, cost, timeline, difference.

    The page needs nothing else and runs nothing. Exit 0, 4 or 5 as `runner verify` has it; the page is written all the same.
    """
    from runner.app import audit
    from runner.cli import verify
    from runner.store import finding

    project = session.project
    name = finding.find(project, protocol)
    report, code = verify.prove(project, name)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(project.who.now()))
    page = audit.audit(project, name, report, cannot_tell=code == 5, now=now)
    if output == "-":
        click.echo(page.decode(), nl=False)
    else:
        session.result(str(_put(session.cwd / (output or f"{name}.html"), page)))
    if code:
        verify.tell(session, report)
    raise SystemExit(code)


def _put(path: Path, page: bytes) -> Path:
    """Write the page.

    Raises:
        InTheWayError: something else has that name.
    """
    from runner.app.audit import GENERATOR
    from runner.errors import InTheWayError

    marked = f'<meta name="generator" content="{GENERATOR} '.encode()
    if path.exists() and (not path.is_file() or marked not in path.read_bytes()[:4096]):
        raise InTheWayError("something else has that name", str(path), "name another file with -o")
    path.write_bytes(page)
    return path
