"""`runner log` and `runner diff`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from runner.cli import options, streams, transcript
from runner.cli.session import Session
from runner.errors import InsufficientHistoryError, RunnerError
from runner.executor.journal import Journal
from runner.lines import lines_of
from runner.protocol import paths
from runner.protocol.log import RawEntry
from runner.store import lookup, record
from runner.store.environment import matching
from runner.store.project import Project

POLL = 0.5  # seconds between two looks at the branch


@click.command("log")
@options.protocol
@options.as_json
@click.option(
    "--follow", is_flag=True, help="Print new events, and the turns of a running step, until the protocol ends."
)
@click.pass_obj
def command(session: Session, protocol: str | None, as_json: bool, follow: bool) -> None:
    """Show the events of PROTOCOL, the oldest first. With --json, one object per line."""
    project = session.project
    name = lookup.find(project, protocol)
    show = _json if as_json else _block
    tip = lookup.tip(project, name)
    shown = _show(session, show, record.events(project.git, name, tip), 0)
    at_work = _AtWork(session, project, name) if follow and not as_json else None
    while follow and record.row(project.git, name, tip)["status"] not in record.ENDED:
        tip, shown = _next(session, project, name, tip, shown, show, at_work)


Show = Callable[[Session, "RawEntry"], None]


class _AtWork:
    """The journals of a protocol's attempts, read beside the runner that writes them; no lock is taken."""

    def __init__(self, session: Session, project: Project, protocol: str) -> None:
        self._session, self._folder = session, project.dirs.journal(protocol)
        self._sizes: dict[str, int] = {}
        self._shown: dict[str, int] = {}
        row = record.row(project.git, protocol, lookup.tip(project, protocol))
        open_now = {
            f"{slug}.{step.get('attempt', 1)}{'.qa' if step['status'] == 'needs_qa' else ''}.jsonl"
            for slug, step in row["steps"].items()
            if step["status"] in ("pending", "running", "needs_qa")
        }
        for path in self._files():
            if path.name not in open_now:  # what has ended stands in the history
                self._shown[path.name] = len(self._records(path))

    def _files(self) -> list[Path]:
        return [path for path in matching(self._folder, "*.jsonl") if ".lost-" not in path.name]

    def _records(self, path: Path) -> list[dict[str, Any]]:
        try:
            self._sizes[path.name] = path.stat().st_size
            return Journal(path).rows
        except (RunnerError, OSError):  # it is being replaced, or damaged: whoever runs the step says so
            return []

    def look(self) -> None:
        """Show the new entries since the last call."""
        for path in self._files():
            try:
                if path.stat().st_size == self._sizes.get(path.name, 0):
                    continue
            except OSError:
                continue
            found, before = self._records(path), self._shown.get(path.name, 0)
            if len(found) > before:
                if before == 0:
                    self._session.line("")
                    self._session.line((path.name.removesuffix(".jsonl"), "yellow"), "  is at work")
                transcript.show(self._session, found, after=before, brief=True)
                self._shown[path.name] = len(found)


def _next(
    session: Session, project: Project, name: str, tip: str, shown: int, show: Show, at_work: _AtWork | None
) -> tuple[str, int]:
    while True:
        if at_work is not None:
            at_work.look()
        if (now := lookup.tip(project, name)) != tip:
            break
        time.sleep(POLL)
    if at_work is not None:
        at_work.look()  # what was written between the two
    return now, _show(session, show, record.events(project.git, name, now), shown)


def _show(session: Session, show: Show, entries: Sequence[RawEntry], after: int) -> int:
    for entry in entries:
        if entry.revision > after:
            show(session, entry)
    return max(after, entries[-1].revision) if entries else after


def _json(session: Session, entry: RawEntry) -> None:
    told = {"revision": entry.revision, "event": entry.event, "subject": entry.subject}
    streams.put(json.dumps({**told, "time": entry.time, "actor": entry.actor, **entry.fields}))


def _block(session: Session, entry: RawEntry) -> None:
    if entry.revision > 1:
        session.line("")
    session.line((f"{entry.revision:>4}", "yellow"), f"  {entry.event} {entry.subject}")
    session.line(f"      {entry.time}  by {entry.actor}")
    for key, value in entry.fields.items():
        if isinstance(value, str) and "\n" in value:
            session.line(f"      {key}:")
            for line in lines_of(value):
                session.line(f"        {line}")
        else:
            session.line(f"      {key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")


@click.command("diff")
@options.protocol
@options.step
@click.option("--stat", is_flag=True, help="Print only the files and the number of lines.")
@click.option("--record", "with_record", is_flag=True, help="Include the protocol's own folder.")
@click.pass_obj
def diff_command(session: Session, protocol: str | None, step: str | None, stat: bool, with_record: bool) -> None:
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
    show_diff(session, out)


def _start(session: Session, name: str, tip: str) -> str | None:
    """Return the commit of the base that the protocol started from, by its first event."""
    entries = record.events(session.project.git, name, tip)
    start = entries[0].fields.get("start") if entries else None
    return session.project.git.resolve(start) if isinstance(start, str) else None


def show_diff(session: Session, out: bytes) -> None:
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
