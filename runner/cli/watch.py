"""`runner watch`, `runner fleet` and `runner fleet plan`: protocols that run without a person at the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import click

from runner import run_all, signals
from runner.app import fleet, run, watch
from runner.app.fleet import EndedTurn, Ready
from runner.app.watch import Happened
from runner.cli import options, status, streams
from runner.cli.console import Console
from runner.cli.progress import Progress
from runner.errors import RunnerError, UsageError
from runner.lines import counted, lines_of
from runner.store import lookup, record, remote
from runner.store.changes import Changes, Clocks
from runner.store.project import Session

LIKE = "30s, 5m or 1h"


@click.command("watch")
@options.protocols
@options.flag("--all", "everything", help="Include protocols that are only on the remote (with publish: always).")
@options.time(
    "--fetch-every",
    like=LIKE,
    default="60s",
    show_default=True,
    help="How often to fetch, give or take a fifth (with publish: always).",
)
@options.time(
    "--look-every",
    like=LIKE,
    default="60s",
    show_default=True,
    help="How often to check all files without a file event.",
)
@options.time(
    "--adopt",
    like=LIKE,
    help="Commit your edits of plan files once they are unchanged for this long.",
)
@options.flag("--poll", help="Poll the files instead of using the system's file events.")
@options.as_json
@options.work
@click.pass_obj
def command(console: Console, /, poll: bool, as_json: bool, **wanted: Any) -> None:
    """Run each PROTOCOL (default: all with a branch in this clone) whenever it can advance, until Ctrl-C.

    It reacts to commits: an edit, an approval, an answer. It notifies people of waits: by `runner.notify` and
    `runner.mail` of your git configuration, and by `notify:` of config.yaml. A protocol with an unfinished rebase or merge waits;
    so does one with uncommitted plan edits, unless you give --adopt.
    """
    shown = _Shown(console, as_json)
    clocks = Clocks(time.monotonic, _boottime)
    common = console.project.git.common_dir
    # A worktree may go away while it is stood in.
    console.cwd = next((tree.path for tree in console.project.git.worktrees() if tree.git_dir == common), common)
    if "record" in console.options:
        console.options["record"] = os.path.abspath(console.options["record"])
    os.chdir(console.cwd)
    run_all()

    def reopen() -> Session:
        return watch.unattended(console.reopen())

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

    def __init__(self, console: Console, as_json: bool) -> None:
        self._console, self._as_json = console, as_json
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
                teller = self._tellers.setdefault(told.protocol, Progress(self._console, each=False))
                if told.kind == "advanced":
                    teller.advanced(told.done)
                else:
                    teller.end(told.done)
                    del self._tellers[told.protocol]
            case _:
                self._about = None
                self._console.note(_words(told))

    def _begin(self, protocol: str | None) -> None:
        self._about = protocol
        self._console.line((str(protocol), "cyan"), err=True)

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
            found = record.outlook_of(done.state)
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


MOST = 256  # jobs that a matrix of GitHub may have
ROOT = str(Path(__file__).parents[2])
MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from runner.cli.main import main; main()"
TICK = 0.05  # seconds between two looks at who is done
TURN_PATIENCE = 15.0  # seconds that a turn has to end what it started, after SIGTERM
SAID = 65_536  # bytes of what a turn said that are read


@click.group("fleet", invoke_without_command=True)
@click.option(
    "-j",
    "--jobs",
    default=4,
    show_default=True,
    type=options.Number(1, 1000),
    help="The number of protocols at a time.",
)
@options.number("--max-steps", default=10, show_default=True, help="The maximum number of transitions per turn.")
@options.number(
    "--max-pushes-per-minute",
    "pushes",
    help="The limit for all of them together, and for other runners in this clone that have this limit.",
)
@options.flag("--json", "as_json", help="Print events as JSON, one per line.")
@options.work
@click.pass_context
def fleet_command(ctx: click.Context, jobs: int, max_steps: int, pushes: int | None, as_json: bool) -> None:
    """Run every protocol that can advance, in turns, until none can.

    A turn is `runner run` in its own process. The protocol that waited longest is first, so a busy protocol delays no other.
    All state is in git: after a kill, the same command continues.
    """
    if ctx.invoked_subcommand is not None:
        return
    run_all()
    console: Console = ctx.obj
    session = console.session
    session.project.setting("publish"), session.project.setting("executor")  # a wrong one is told once, here
    argv = ["--max-steps", str(max_steps)]
    for name in ("engine", "executor", "publish", "record"):
        if console.options.get(name):
            argv += [f"--{name}", console.options[name]]
    argv += ["--offline"] if console.options.get("offline") else []
    environ = {**console.environ, run.TURN: "1", **({remote.PUSHES_PER_MINUTE: str(pushes)} if pushes else {})}
    limits = f"{jobs} at a time" + (f", {pushes} push{'es' if pushes > 1 else ''} a minute" if pushes else "")
    teller = _Teller(console, as_json, limits)
    folder = str(session.git.top or session.git.common_dir)
    with console.waiting("fleet"), open_turns(folder, argv, environ) as turns:
        try:
            codes = fleet.run(session, turns, jobs=jobs, tell=teller.tell)
        except KeyboardInterrupt:
            teller.interrupted()
            raise
    code = fleet.exit_code(codes.values())
    if waiting := [name for name, code in codes.items() if code in (1, 3)]:
        run.notify(session, *waiting)
    if as_json:
        teller.line({"event": "done", "code": code, "protocols": dict(sorted(codes.items()))})
    elif not codes:
        console.note("no protocol can advance")
    else:
        sight = fleet.Sight(session)
        rows = sight.rows({name: tip for name, tip in sight.tips().items() if name in codes})
        status.show_all(console, list(rows.values()), {name: "" for name in sight.tips()})
    raise SystemExit(code)


@fleet_command.command("plan", short_help="Print which protocols can advance, for the jobs of a CI.")
@options.protocols
@options.flag("--json", "as_json", help="Print a matrix for GitHub, as one line of JSON.")
@options.flag(
    "--gitlab", help="Print a child pipeline for GitLab; each protocol has a job to work and a job to publish."
)
@options.number("--limit", default=MOST, show_default=True, help="The maximum number of protocols.")
@click.option(
    "--reserve",
    metavar="USD",
    type=click.FloatRange(0, min_open=True),
    help="Reserve this much of the day budget for each protocol that asks a model next, and leave one out if too little is left. "
    "Pushes the ledger.",
)
@options.number("--reserve-tokens", metavar="N", help="The same, for a day budget in tokens.")
@click.pass_obj
def plan(
    console: Console,
    protocols: tuple[str, ...],
    as_json: bool,
    gitlab: bool,
    limit: int,
    reserve: float | None,
    reserve_tokens: int | None,
) -> None:
    """Print which of the protocols (default: all) can advance, the longest wait first.

    Changes nothing and does not use the network, except to reserve.
    """
    from decimal import Decimal
    from math import isfinite

    if as_json and gitlab:
        raise UsageError("`--json` and `--gitlab` do not go together", "`runner fleet plan`", "give one of them")
    if reserve is not None and not isfinite(reserve):  # click lets `nan` and `inf` pass
        raise UsageError(f"`{reserve}` is not an amount of money", "`--reserve`", "give US dollars, such as 0.50")
    if reserve or reserve_tokens:
        console.options["publish"] = "always"
    session = console.session
    only = [lookup.find(session, name) for name in protocols] or None
    found = fleet.Sight(session).ready(only)
    if len(found) > limit:
        console.note(f"{len(found) - limit} more can advance; they are first in the next plan")
    found = found[:limit]
    if reserve or reserve_tokens:
        found, left_out = fleet.reserve(session, found, Decimal(str(reserve or 0)), reserve_tokens or 0)
        for one in left_out:
            console.note(f"{one.protocol} waits: the day budget has too little left to reserve for it")
    if as_json:
        streams.put(json.dumps({"include": [fleet.described(one) for one in found]}, separators=(",", ":")))
    elif gitlab:
        streams.put(fleet.child_pipeline(session.project, found), nl=False)
    elif not found:
        console.note("no protocol can advance")
    else:
        for one in found:
            about = f"{one.step}: {one.title}" if one.step else one.title
            console.line(f"{one.protocol}  ", (one.action, "cyan"), f"  {about}")


def _apart(ended: EndedTurn) -> list[str]:
    """Return the reason for the end of a turn that could not print it."""
    found = []
    if ended.code > 128 and ended.code not in (130, 141):  # those two it says, or nobody reads
        with contextlib.suppress(ValueError):
            found.append(f"  {'ended':12}  by {signal.Signals(ended.code - 128).name}, from outside")
    if fleet.is_tried_again(ended):
        found.append(f"  {'retries':12}  in a moment, {fleet.TRIES} times at most")
    return found


class _Teller:
    """Reports turns: to people, the start of each and its output at its end; else one line of JSON each."""

    def __init__(self, console: Console, as_json: bool, limits: str) -> None:
        self._console, self._json, self._limits = console, as_json, limits
        self._said: dict[str, tuple[int, str]] = {}
        self._begun: dict[str, str] = {}  # at which tip
        self._at_work: list[str] = []  # the numbers

    def tell(self, event: str, one: Ready, ended: EndedTurn | None) -> None:
        """Report the start or the end of a turn."""
        if self._json:
            more = {"action": one.action, "step": one.step} if ended is None else {"code": ended.code}
            self.line({"event": event, "protocol": one.protocol, **more})
            return
        number = one.protocol.partition("-")[0]
        (self._at_work.append if ended is None else self._at_work.remove)(number)
        if self._console.moving is not None:
            for task in self._console.moving.task_ids:
                self._console.moving.update(task, description=", ".join(self._at_work) or "fleet")
        # One that is held is tried again, and says the same again.
        if ended is None and self._begun.get(one.protocol) != one.tip:
            if not self._begun:
                self._console.note(f"{self._limits}; Ctrl-C ends them, and nothing is lost")
            self._begun[one.protocol] = one.tip
            self._console.note(f"{number}  starts    {f'{one.step}: ' if one.step else ''}{one.title}")
        elif ended is not None and self._said.get(one.protocol) != (ended.code, ended.said):
            self._said[one.protocol] = (ended.code, ended.said)
            for text in [*lines_of(ended.said), *_apart(ended)]:
                self._console.note(f"{number}  {text}")

    def interrupted(self) -> None:
        """Name the turns that are being ended, which may take a moment."""
        if self._at_work:
            self._console.note(f"ending: {', '.join(self._at_work)}")

    def line(self, told: dict[str, Any]) -> None:
        """Give an event, with the time."""
        time = self._console.project.env.timestamp()
        streams.put(json.dumps({**told, "time": time}, sort_keys=True))


# --- a turn is a process of its own ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Turns:
    """`argv`: what comes after `runner run ID`; `folder`: where the project is."""

    folder: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    _at_work: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = field(default_factory=dict)

    def start(self, one: Ready) -> None:
        """Start a turn in its own console, so that Ctrl-C at the terminal reaches it only through us."""
        said = tempfile.TemporaryFile()  # noqa: SIM115 no pipe: it goes on to its end where we are killed
        # -P and another folder: nothing that lies in the project is imported. A turn is of the very code that we are.
        argv = [sys.executable, "-P", "-c", MAIN, ROOT, "-C", self.folder, "run", one.protocol, *self.argv]
        with signals.held():
            process = subprocess.Popen(
                argv,
                cwd="/",
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            self._at_work[one.protocol] = (process, said)

    def next(self, timeout: float) -> EndedTurn | None:
        """Return a turn that ended; None where none does within so many seconds."""
        until = time.monotonic() + timeout
        while True:
            for protocol, (process, said) in self._at_work.items():
                if process.poll() is not None:
                    del self._at_work[protocol]
                    return EndedTurn(protocol, _code(process.returncode), _numbered(said))
            if time.monotonic() >= until:
                return None
            time.sleep(TICK)

    def end(self) -> None:
        """End the running turns: SIGTERM, then SIGKILL to those that ignore it, with their descendants."""
        for process, _ in self._at_work.values():
            for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process receives it too
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
        until = time.monotonic() + TURN_PATIENCE
        for process, said in self._at_work.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            said.close()
        self._at_work.clear()


@contextlib.contextmanager
def open_turns(folder: str, argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[Turns]:
    """Run turns while the block lasts; end the running ones when it ends.

    A second Ctrl-C does not interrupt that: only a turn itself can end the processes that it started.
    """
    found = Turns(folder, argv, environ)
    with signals.once() as interrupted:
        try:
            yield found
        finally:
            interrupted.is_over = True  # the first Ctrl-C may come while a failed fleet ends its turns
            found.end()


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _numbered(said: IO[bytes]) -> str:
    with said:
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - SAID))
        return said.read().decode("utf-8", "replace").strip()
