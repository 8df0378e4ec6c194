"""The shared part of all commands: the project, opened once; messages for people on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner import signals
from runner.cli import streams
from runner.cli.streams import program, safe, safe_line
from runner.errors import UsageError
from runner.lines import cut, lines_of
from runner.protocol import model_answers
from runner.store.environment import Environment
from runner.store.project import Project, Session

if TYPE_CHECKING:
    from rich.progress import Progress

    from runner.protocol.transcript import Line

Cell = str | tuple[str, str]  # text, or (text, colour)
COLOURS = {
    "waits": "yellow", "paused": "yellow", "failed": "red", "blocked": "red", "unreadable": "red", "done": "green",
    "completed": "green", "works": "cyan", "ready": "cyan",
}  # fmt: skip


def state_home(environ: dict[str, str]) -> Path:
    """Return where the person's own state lies; absolute, as the XDG specification wants."""
    given = environ.get("XDG_STATE_HOME", "")
    if given.startswith("/"):
        return Path(given) / "protocol-runner"
    home = environ.get("HOME") or "/nonexistent"
    return Path(home) / ".local/state/protocol-runner"


def in_columns(rows: Collection[tuple[Cell, ...]], by: str = "") -> Iterator[tuple[Cell, ...]]:
    """Yield rows whose cells, but for the last ones, are as wide as their column. `by`: what each starts with."""
    columns = list(zip(*rows, strict=True))[:-1]
    widths = [max(len(cell if isinstance(cell, str) else cell[0]) for cell in column) for column in columns]
    for row in rows:
        cells: list[Cell] = [by]
        for cell, width in zip(row, widths, strict=False):
            cells += (cell.ljust(width), "  ") if isinstance(cell, str) else ((cell[0].ljust(width), cell[1]), "  ")
        yield (*cells, row[-1])


class _Beginning(click.Choice[str]):
    """One of several answers, by its first letters: `y` is yes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        meant = [choice for choice in self.choices if choice.startswith(str(value).strip().lower())]
        return super().convert(meant[0] if len(meant) == 1 else value, param, ctx)


class Console:
    """One call of the command line."""

    def __init__(self, cwd: Path, environ: dict[str, str], *, quiet: bool = False) -> None:
        self.cwd, self.environ, self.quiet = cwd, environ, quiet
        self.options: dict[str, str] = {}
        self.acts = ""  # the name of the command, where it ends with JSON
        self.about: list[str] = []  # the protocols that it is about
        self.asked: dict[str, str | None] = {}  # how the person named each
        self.above: Callable[[str], None] | None = None  # prints above what moves on the terminal, where something does
        self.on_output: Callable[[str, bytes], None] | None = (
            None  # takes what the running command prints, where it is shown
        )
        self.moving: Progress | None = None  # what moves on the terminal now, and must stand still for a question
        self._session: Session | None = None
        self.closing = ExitStack()  # what lasts as long as the console

    def environment(self) -> Environment:
        """Return clock, randomness and names of this machine."""
        return Environment(
            now=time.time,
            monotonic=time.monotonic,
            sleep=time.sleep,
            random_hex=lambda count: os.urandom((count + 1) // 2).hex()[:count],
            host=os.uname().nodename,
            pid=os.getpid(),
            state_home=state_home(self.environ),
            environ=self.environ,
            hear=self.hear,
            hear_output=self.hear_output,
            say=self.note,
            ask=self.ask,
            ask_text=self.ask_text,
            boot=_boot,
            uptime=_uptime,
            beside=_beside,
            interrupt=signals.request_stop,
        )

    @property
    def session(self) -> Session:
        """The session with the project of the folder that the command runs in."""
        if self._session is None:
            self._session = Session.open(self.cwd, self.environment(), self.options)
        return self._session

    @property
    def project(self) -> Project:
        """That project, as the session has it now."""
        return self.session.project

    @property
    def here(self) -> Project | None:
        """The project; None outside of a repository."""
        try:
            return self.project
        except UsageError:
            return None

    def reopen(self) -> Session:
        """Return the project opened anew: configuration, remote and trusted branch may be others by now."""
        git = self._session.git if self._session is not None else None
        self.close()
        at = git.at if git is not None and git.cwd == self.cwd else None  # where it is, git need not be asked again
        self._session = Session.open(self.cwd, self.environment(), self.options, at)
        return self._session

    def means(self, protocol: str, asked: str | None = None) -> str:
        """Return the protocol, which the command is about. `asked`: how the person named it."""
        self.about.append(protocol)
        self.asked[protocol] = asked
        return protocol

    def close(self) -> None:
        """Close all that is open."""
        self.closing.close()
        if self._session is not None:
            self._session.close()

    def note(self, line: str) -> None:
        """Print a message to stderr, with commands as they are typed."""
        if not self.quiet:
            self._err(safe(line).replace("`runner ", f"`{program()} "))

    def result(self, line: str) -> None:
        """Give a line of the result, on stdout."""
        streams.put(safe(line) if streams.keeps() else streams.fitted(safe(line), sys.stdout))

    def line(self, *cells: Cell, err: bool = False, verbatim: bool = False) -> None:
        """Give a line made of parts, on stdout or as a note; a part may be (text, colour), which a terminal shows.

        Text is escaped before it is coloured, and stays on this line: a path may hold an LF. A line that is longer than the terminal
        breaks between words, unless it is `verbatim`.
        """
        if err and self.quiet:
            return
        if err:
            self._err(self._painted(cells, err=True))
        else:
            text = self._painted(cells)
            streams.put(text if verbatim or streams.keeps() else streams.fitted(text, sys.stdout))

    def fact(self, label: str, *cells: Cell, err: bool = False) -> None:
        """Give a labelled line below what it is about: `  next          runner run 7`. Cells are those of `line`."""
        self.line(f"  {label:12}  ", *cells, err=err)

    def lines(self, lines: Iterable[tuple[Cell, ...]], *, breaks: bool = False) -> None:
        """Give lines as `line` does, in one go: quick where there are thousands; nothing where there are none.

        `breaks`: those that are longer than the terminal, which a command at their end should not be.
        """
        lines = list(lines)
        if not lines:
            return
        if self._is_plain(err=False):
            texts = ["".join([cell if isinstance(cell, str) else cell[0] for cell in cells]) for cells in lines]
            if not "".join(texts).isprintable():
                texts = list(map(safe_line, texts))
            text = "\n".join([text.rstrip() for text in texts])
        else:
            text = "\n".join(map(self._painted, lines))
        streams.put(streams.fitted(text, sys.stdout) if breaks and not streams.keeps() else text)

    def _painted(self, cells: tuple[Cell, ...], *, err: bool = False) -> str:
        found = ""
        for cell in cells:
            text, colour = (cell, "") if isinstance(cell, str) else cell
            # As it is where a stream shows no colours, or `NO_COLOR` is set.
            shown = safe_line(text)
            found += shown if not colour or self._is_plain(err=err) else click.style(shown, fg=colour)
        return found.rstrip()

    def _err(self, text: str) -> None:
        if self.above is not None:
            self.above(streams.fitted(text, sys.stderr))
        else:
            streams.say(text)

    def _is_plain(self, *, err: bool) -> bool:
        """Return whether a stream shows no colours."""
        stream = sys.stderr if err else sys.stdout
        is_plain = self.environ.get("NO_COLOR") or self.environ.get("TERM") == "dumb" or not stream.isatty()
        return bool(is_plain) or (not err and streams.keeps())

    def when(self, stamp: str) -> str:
        """Return a timestamp of the record in local time, where a person reads it at a terminal; elsewhere as it is."""
        if streams.keeps() or not sys.stdout.isatty():
            return stamp
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return stamp

    def pages(self) -> None:
        """Have the person's pager show what the command prints, where it is more than the terminal has lines.

        The pager is the one of git: GIT_PAGER, `core.pager` of the person's own configuration, PAGER, else less.
        """
        if streams.keeps() or not sys.stdout.isatty() or self.environ.get("TERM", "dumb") == "dumb":
            return
        own = self.project.git.personal_settings().get("core.pager", [""])[-1]
        pager = self.environ.get("GIT_PAGER", own or self.environ.get("PAGER", "less"))
        if pager not in ("", "cat"):
            streams.page()
            click.get_current_context().call_on_close(partial(streams.end_page, pager, self.environ))

    def json(self, value: Any) -> None:
        """Give a result as JSON, on stdout."""
        streams.put(json.dumps(value, indent=2, sort_keys=True))

    def json_rows(self, rows: Iterable[Any]) -> None:
        """Give `{"protocols": [ … ]}` as JSON, a protocol a line: quick where there are thousands."""
        text = ",\n".join(map(json.JSONEncoder(sort_keys=True, check_circular=False).encode, rows))
        streams.put(f'{{"protocols": [\n{text}\n]}}' if text else '{"protocols": []}')

    def shows_progress(self) -> bool:
        """Return whether stderr is a terminal on which something may move."""
        return sys.stderr.isatty() and not self.quiet and self.environ.get("TERM") != "dumb"

    def hear(self, record: Line) -> None:
        """Print a record of a running agent: its messages and tool calls."""
        if record.kind == "response":
            text = _verdict(record.text) or record.text
            first = next((line.strip() for line in lines_of(text) if line.strip()), "")
            if first:
                self.note(f"  {cut(first, 160)}")
            for call in record.calls:
                self.note(
                    f"  · {call.name}  {cut(_told(call.name, call.arguments or {}), 120)}".rstrip().replace("\n", " ")
                )
        elif record.kind == "results":
            for one in record.results:
                if one.error:
                    self.note(f"    {one.name}: {cut(_why(one.content), 160)}".replace("\n", " "))

    def hear_output(self, what: str, output: bytes) -> None:
        """Take what a command or check printed, where it is shown."""
        if self.on_output is not None:
            self.on_output(what, output)

    def ask(self, question: str, choices: tuple[str, ...]) -> str | None:
        """Ask the person at the terminal for one of `choices`, the first being what Enter means; None where nobody is."""
        if not self.is_terminal():
            return None
        with self._standing_still():
            chosen: str = click.prompt(safe(question), type=_Beginning(choices), default=choices[0], err=True)
        return chosen

    def ask_text(self, question: str) -> str | None:
        """Ask the person at the terminal for a line of text, which may be empty; None without a terminal."""
        if not self.is_terminal():
            return None
        with self._standing_still():
            said: str = click.prompt(
                f"{safe(question)}\n", default="", show_default=False, prompt_suffix="> ", err=True
            )
        return said

    @contextmanager
    def waiting(self, what: str, now: Callable[[], str] = str) -> Iterator[None]:
        """On a terminal, show that something takes its time, and how long already. `now`: what it does now, on one line."""
        if not self.shows_progress():
            yield
            return
        from rich.console import Console as Terminal
        from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
        from rich.table import Column
        from rich.text import Text

        class Now(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(safe_line(now()))

        last = Now(Column(no_wrap=True, overflow="ellipsis", ratio=1))
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), last)
        console = Terminal(stderr=True)
        with Progress(*columns, console=console, transient=True, expand=True) as progress:
            progress.add_task(what)
            self.above = lambda text: console.print(Text.from_ansi(text), soft_wrap=True)
            self.moving = progress
            try:
                yield
            finally:
                self.above = self.moving = None

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        if self.moving is not None:
            self.moving.stop()
        try:
            yield
        finally:
            if self.moving is not None:
                self.moving.start()

    def is_terminal(self) -> bool:
        """Return whether a person can be asked here."""
        return sys.stdin.isatty() and sys.stderr.isatty()


def _boot() -> str:
    """Return the id of this boot of the machine; empty if the system has none."""
    try:
        if sys.platform == "darwin":
            import ctypes

            told, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
            failed = ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", told, ctypes.byref(size), None, 0)
            return "" if failed else told.value.decode("ascii", "replace")
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, AttributeError):
        return ""


def _uptime() -> float:
    # Linux's monotonic clock stands still while the machine sleeps; macOS' of that name goes on.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _beside(seconds: float, beat: Callable[[], float]) -> Callable[[], None]:
    """Call `beat` in a thread, which sleeps but for that and ends with the process."""
    import threading

    over = threading.Event()

    def go(wait: float) -> None:
        while not over.wait(wait):
            wait = beat()

    threading.Thread(target=go, args=(seconds,), daemon=True).start()
    return over.set


def _why(content: Any) -> str:
    """Return why a call did not do what it was to do; of a `finish` whose checks failed, the first of what they found."""
    if isinstance(content, dict) and "not_done" in content:
        return f"{content['not_done'].partition('. ')[0]}: {' '.join(lines_of(content['found'])[1:2])}"
    return str(content)


def _plain(value: object) -> str:
    """Return an argument on one line, a command's words too; nothing where it has parts of its own."""
    words = value if isinstance(value, list) else [value]
    return "" if any(isinstance(word, dict | list) for word in words) else " ".join(map(str, words))


def _told(name: str, arguments: Mapping[str, object]) -> str:
    """Return a call's arguments on one line; of `finish` the status only where it is not `done`."""
    if name == "finish" and arguments.get("status") == "done":
        arguments = {key: value for key, value in arguments.items() if key != "status"}
    named = ((f"{key}=" if isinstance(value, int) else "", _plain(value)) for key, value in arguments.items())
    return ", ".join(f"{key}{cut(text, 80)}" for key, text in named if text)


def _verdict(text: str) -> str:
    """Return a judge's answer in words; nothing where the text is none."""
    if not text.lstrip().startswith("{"):
        return ""

    found, _ = model_answers.read_verdict(text)
    return f"{found.verdict}: {found.summary}" if found else ""
