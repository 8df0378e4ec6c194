"""`runner diff`."""

from __future__ import annotations

import sys

import click

from runner.cli import options, streams
from runner.cli.session import Session
from runner.errors import InsufficientHistoryError
from runner.protocol import paths
from runner.store import lookup, record

PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")


@click.command("diff")
@options.protocol
@options.step
@click.option("--stat", is_flag=True, help="Print only the files and the number of lines.")
@click.option("--record", "with_record", is_flag=True, help="Include the protocol's own folder.")
@click.pass_obj
def command(session: Session, protocol: str | None, step: str | None, stat: bool, with_record: bool) -> None:
    """Show what PROTOCOL changed against its base, or what the last attempt of STEP changed, without the protocol's own folder."""
    project = session.project
    git = project.git
    name, slug = lookup.find_with_step(project, protocol, step)
    tip = lookup.tip(project, name)
    if slug is not None:
        work = record.work_of(git, name, tip, slug)
        if work is None:
            session.note(f"{slug} has no work to show")
            return
        before, after = work
    else:
        row = record.row(git, name, tip)
        base = record.base_tip(git, str(row.get("base", "")), project.trusted.remote)
        common = git.merge_base(base, tip) if base else None
        if base and common == tip:  # merged: its work is what it had brought when it was
            common = _start(session, name, tip)
        if common is None:
            raise InsufficientHistoryError(
                f"where {name} left {row.get('base')} is not known here", str(row.get("base")), "run `git fetch`"
            )
        before, after = common, tip
    leave = [] if with_record else ["--", f":(top,exclude){paths.folder(name)}"]
    out = git.run(
        "diff", *PLAIN, *(["--stat"] if stat else []), before, after, *leave, env={"GIT_LITERAL_PATHSPECS": "0"}
    )
    show(session, out)


def _start(session: Session, name: str, tip: str) -> str | None:
    """Return the commit of the base that the protocol started from, by its first event."""
    entries = record.events(session.project.git, name, tip)
    start = entries[0].fields.get("start") if entries else None
    return session.project.git.resolve(start) if isinstance(start, str) else None


def show(session: Session, out: bytes) -> None:
    """Print a diff as it is; on a terminal nothing in it can steer the terminal, and it has colours."""
    if not sys.stdout.isatty():
        if hasattr(sys.stdout, "buffer"):
            streams.put(out, nl=False)
        else:
            streams.put(out.decode("utf-8", "replace"), nl=False)
        return
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in out.decode("utf-8", "replace").split("\n")[:-1]:
        session.line((line, colours.get(line[:1], "")))
