"""`runner watch`."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

import click

from runner.app import watch
from runner.app.watch import Happened
from runner.cli import options, streams
from runner.cli.progress import Progress
from runner.cli.session import Session
from runner.errors import RunnerError
from runner.lines import counted
from runner.protocol.plans import seconds_of
from runner.store import record
from runner.store.changes import Changes, Clocks
from runner.store.project import Project


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return float(seconds_of(value)) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(f"{error}; one is written as 30s, 5m or 1h") from error


@click.command("watch")
@options.protocols
@click.option(
    "--all", "everything", is_flag=True, help="Include protocols that are only on the remote (with publish: always)."
)
@click.option(
    "--fetch-every",
    metavar="TIME",
    default="60s",
    show_default=True,
    callback=_seconds,
    help="How often to fetch, give or take a fifth (with publish: always).",
)
@click.option(
    "--look-every",
    metavar="TIME",
    default="60s",
    show_default=True,
    callback=_seconds,
    help="How often to check all files without a file event.",
)
@click.option(
    "--adopt",
    metavar="TIME",
    callback=_seconds,
    help="Commit your edits of plan files once they are unchanged for this long.",
)
@click.option("--poll", is_flag=True, help="Poll the files instead of using the system's file events.")
@options.as_json
@options.work
@click.pass_obj
def command(session: Session, /, poll: bool, as_json: bool, **wanted: Any) -> None:
    """Run each PROTOCOL (default: all with a branch in this clone) whenever it can advance, until Ctrl-C.

    It reacts to commits: an edit, an approval, an answer. What waits for people it tells by the
    command `runner.notify` and to the addresses `runner.mail` of your own git configuration, and as `notify:` of config.yaml says.
    A protocol with uncommitted edits of plan files waits, unless --adopt is given; so does one with an unfinished rebase or merge.
    """
    shown = _Shown(session, as_json)
    clocks = Clocks(time.monotonic, _boottime)
    common = session.project.git.common_dir
    # A worktree may go away while it is stood in.
    session.cwd = next((tree.path for tree in session.project.git.worktrees() if tree.git_dir == common), common)
    if "record" in session.options:
        session.options["record"] = os.path.abspath(session.options["record"])
    os.chdir(session.cwd)

    def reopen() -> Project:
        return watch.unattended(session.reopen())

    with Changes(common, clocks, events=not poll) as changes:
        try:
            watch.watch(reopen, changes, watch.Wanted(**wanted), shown.tell)
        except BaseException as error:
            shown.ended(error)
            raise


def _boottime() -> float:
    """Return seconds of a clock that includes the machine's sleep; macOS has only the wall clock for that."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


class _Shown:
    """Reports events: as JSON on stdout, one per line, or as text on stderr."""

    def __init__(self, session: Session, as_json: bool) -> None:
        self._session, self._as_json = session, as_json
        self._tellers: dict[str, Progress] = {}
        self._about: str | None = None  # the protocol that the lines before were about

    def tell(self, told: Happened) -> None:
        """Report one event."""
        if self._as_json:
            self._line(_plain(told))
            return
        match told.kind:
            case "started":
                self._begin(told.protocol)
            case "advanced" | "rests":
                assert told.done is not None and told.protocol is not None
                if self._about != told.protocol:
                    self._begin(told.protocol)
                teller = self._tellers.setdefault(told.protocol, Progress(self._session, each=False))
                if told.kind == "advanced":
                    teller.advanced(told.done)
                else:
                    teller.end(told.done)
                    del self._tellers[told.protocol]
            case _:
                self._about = None
                self._session.note(_words(told))

    def _begin(self, protocol: str | None) -> None:
        self._about = protocol
        self._session.line((str(protocol), "cyan"), err=True)

    def ended(self, error: BaseException) -> None:
        """Report to a program that no more events follow, and why; a person sees the error itself."""
        if self._as_json and not isinstance(error, BrokenPipeError):
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            why = error.what if isinstance(error, RunnerError) else "interrupted"
            self._line({"event": "ended", "time": stamp, "reason": why})

    def _line(self, row: dict[str, Any]) -> None:
        streams.put(json.dumps(row))


def _plain(told: Happened) -> dict[str, Any]:
    row: dict[str, Any] = {"event": told.kind, "time": told.time}
    row |= {"protocol": told.protocol} if told.protocol else {}
    done = told.done
    if done is not None:
        row |= {"commit": done.commit, "revision": done.state.revision, "status": str(done.state.status)}
        if told.kind == "advanced":
            row["events"] = [
                {"revision": one.revision, "event": one.event.name, "subject": one.event.subject}
                for one in done.entries
            ]
        else:
            found = record.outlook({"schema": 1, **dataclasses.asdict(done.state)})
            row |= {"next": {"action": found.action, "step": found.step, "by": found.by}, "reason": found.reason}
    return row | dict(told.facts)


def _words(told: Happened) -> str:
    facts, name = told.facts, told.protocol or "the repository"
    again = f"; retries in {facts['again']} s, or when something changes" if "again" in facts else ""
    match told.kind:
        case "watching":
            count = facts["protocols"]
            fetches = f", polling the remote every {facts['fetches']:g} s" if facts["fetches"] else ""
            return f"watching {counted(count, 'protocol')}, {facts['due']} to check{fetches}; Ctrl-C ends it"
        case "polling":
            return f"no events from the system ({facts['reason']}): polling the files every 2 s"
        case "lost":
            return "the system lost some events: all protocols are checked again"
        case "woke":
            return "the machine slept, or its clock jumped: all protocols are checked again"
        case "fetched":
            return f"pushed by others: {', '.join(facts['protocols'])}"
        case "unreachable":
            return f"{facts['what']}; nothing is done until it answers"
        case "held-up":
            hint = f"; {facts['hint']}" if "hint" in facts else ""
            return f"{name}  held up: {facts['reason']}{hint}{again}"
        case "failed":
            return f"{name}  error: {facts['what']}\n  at:   {facts['where']}\n  next: {facts['hint']}{again}"
    raise AssertionError(f"unreachable: {told.kind}")
