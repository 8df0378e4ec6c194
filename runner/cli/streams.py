"""The standard streams: open in every case, and a message that cannot be written never decides what a command did.

GitHub, Gitea and Forgejo run lines of a job's output that start with `::`, the older form `##[…]` and Azure's `##vso[…]` anywhere
in a line; GitLab acts on control characters. In a job all output of the runner (a model's text, a tool's output, a title, a
traceback) passes through `Escaped`, which replaces the first character of such a command by an escape. JSON keeps its meaning.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO
from unicodedata import east_asian_width

import click

from runner.errors import UsageError
from runner.lines import is_harmless, lines_of, pattern

NARROW = 40  # columns; a narrower terminal breaks lines as it does
NO_PAGER = 127  # the exit code of a shell that does not find a program


class LostResultError(UsageError):
    """stdout took not all of a result: a reader must not take what it got for the whole."""


def safe(text: str) -> str:
    """Return text that cannot steer a terminal: control and bidi characters are shown as escapes."""
    if text.isprintable():  # no control or bidi character is
        return text
    return "".join(
        char if char in "\n\t" or is_harmless(char) else char.encode("unicode_escape").decode() for char in text
    )


def safe_line(text: str) -> str:
    """Return text as `safe` does, its line ends as escapes too."""
    return safe(text).replace("\n", "\\n")


def program() -> str:
    """Return the name that was typed: `runner` or `git runner`."""
    return "git runner" if Path(sys.argv[0]).name == "git-runner" else "runner"


def open_missing() -> None:
    """Open `/dev/null` in the place of each standard stream that this process was started without.

    Else the next file that is opened gets the number 2, and messages would be written into a journal or a lock.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # open() takes the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = os.fdopen(
                number, "w" if number else "r", encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def say(text: str) -> None:
    """Write a message to stderr; where that cannot be written, this and all that follow are dropped."""
    try:
        click.echo(fitted(text, sys.stderr), err=True)
    except OSError:
        drop(2)


_ESCAPE = pattern(r"\x1b\[[0-9;]*m")
_WORD = pattern(r"(?:\x1b\[[0-9;]*m|`[^`]*`|[^ ])+")
_LABEL = pattern(r"(?<=\S) {2,}|^ +|^(?:error|note|found): ")
_COMMAND = pattern(r" *next(?::| ) *(?:git|runner|ssh-keygen) |.* && | *\|")  # to be copied; or what others printed


def fitted(text: str, stream: TextIO) -> str:
    """Return prose for a stream: on a terminal, lines that are longer than it break between words, below their own text.

    A command stays whole, so that it can be copied, and so does what is quoted.
    """
    if len(text) < NARROW or not stream.isatty():
        return text
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return text
    return "\n".join(_fitted(line, width) for line in text.split("\n")) if width >= NARROW else text


def _fitted(line: str, width: int) -> str:
    plain = _ESCAPE.sub("", line)
    if _cells(plain) <= width or _COMMAND.match(plain):
        return line
    indent = max((found.end() for found in _LABEL.finditer(plain) if found.end() <= width // 2), default=2)
    rows, at = [""], 0
    for word in _WORD.finditer(line):
        gap, size = line[at : word.start()], _cells(_ESCAPE.sub("", word[0]))
        at = word.end()
        if rows[-1].strip() and _cells(_ESCAPE.sub("", rows[-1])) + len(gap) + size > width:
            rows.append(" " * indent + word[0])
        else:
            rows[-1] += gap + word[0]
    return "\n".join(rows)


def _cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def page() -> None:
    """Hold the output back from now on, for `end_page`."""
    global _page
    _page = []


def end_page(pager: str, environ: Mapping[str, str]) -> None:
    """Give what was held back: through a pager, where the terminal has fewer lines, and nothing went wrong."""
    global _page
    text, _page = "".join(_page or ()), None
    columns, lines = shutil.get_terminal_size()
    taken = sum(max(1, -(-_cells(_ESCAPE.sub("", line)) // max(columns, 1))) for line in text.split("\n"))
    if taken <= lines or sys.exc_info()[0] is not None:
        put(text, nl=False)
        return
    less = {"LESS": "FRX", "LV": "-c"}
    with subprocess.Popen(["sh", "-c", pager], stdin=subprocess.PIPE, env={**less, **environ}) as started:
        with contextlib.suppress(KeyboardInterrupt, OSError):  # the pager ended before the text did, or handles Ctrl-C
            started.communicate(text.encode("utf-8", "replace"))
        while started.returncode is None:
            with contextlib.suppress(KeyboardInterrupt):
                started.wait()
    if started.returncode == NO_PAGER:
        put(text, nl=False)


def drop(number: int) -> None:
    """Let all that is still written to a standard stream vanish, what its buffer holds too."""
    with contextlib.suppress(OSError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)


def put(text: str | bytes, *, nl: bool = True) -> None:
    """Write a part of the result to stdout.

    Raises:
        LostResultError: stdout cannot be written. BrokenPipeError: nobody reads it any more.
    """
    held = _page if _page is not None else _kept
    if held is not None:
        held.append((text if isinstance(text, str) else text.decode("utf-8", "replace")) + "\n" * nl)
        return
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop(1)
        what = f"the result could not be written: {error.strerror}"
        raise LostResultError(
            what, "stdout", "write the result somewhere else; the command itself has completed"
        ) from error


_page: list[str] | None = None  # the output, where a pager is to show it
_kept: list[str] | None = None  # the output, where it becomes a part of one JSON object


def keep(*, on: bool = True) -> None:
    """Keep the output from now on, instead of writing it; `on=False`: write it again."""
    global _kept
    _kept = [] if on else None


def keeps() -> bool:
    """Return whether the output is kept."""
    return _kept is not None


def for_child() -> int | None:
    """Return where an editor's stdout goes: to ours, or to stderr where ours is one JSON object."""
    return 2 if keeps() else None


def kept() -> list[str]:
    """Return the lines that were kept; later output is written again."""
    found = lines_of("".join(_kept or ()))
    keep(on=False)
    return found


def put_output(data: bytes, show: Callable[[bytes], None]) -> None:
    """Give bytes that others wrote, as they are. `show` gives them to a terminal, which they might steer; a CI gets text."""
    if sys.stdout.isatty():
        show(data)
    elif hasattr(sys.stdout, "buffer"):
        put(data, nl=False)
    else:
        put(data.decode("utf-8", "replace"), nl=False)


# --- what a CI would run -------------------------------------------------------------------------------------------------

_MARK = pattern(r"(##\w*)\[")
_CONTROL = pattern(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def is_read_by_ci(environ: Mapping[str, str]) -> bool:
    """Return whether a CI reads the output."""
    return environ.get("CI", "").lower() not in ("", "0", "false") or "GITHUB_ACTIONS" in environ


def escaped(text: str) -> str:
    """Return the line with CI commands escaped."""
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    text = _MARK.sub(r"\1\\u005b", text)
    bare = text.lstrip()
    return f"{text[: len(text) - len(bare)]}\\u003a{bare[1:]}" if bare.startswith("::") else text


class Escaped(io.TextIOBase):
    """A stream in front of another; it passes whole lines on, since a part of a line cannot be judged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest = stream, ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the stream's, which is UTF-8 where it does not say."""
        return self._stream.encoding or "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The stream's."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write the lines that are whole now."""
        if not isinstance(text, str):
            raise TypeError("a text is needed")
        *whole, self._rest = (self._rest + text).split("\n")
        for one in whole:
            self._stream.write(f"{escaped(one)}\n")
        return len(text)

    def command(self, text: str) -> None:
        """Write a line that the CI is to obey: one of ours, whose parts were escaped as it wants them."""
        if self._rest:
            self.write("\n")
        self._stream.write(f"{text}\n")

    def flush(self) -> None:
        """Pass it on; a line that is not whole stays."""
        self._stream.flush()

    def end(self) -> None:
        """Write the last, incomplete line."""
        self._stream.write(escaped(self._rest))
        self._rest = ""
        self._stream.flush()
