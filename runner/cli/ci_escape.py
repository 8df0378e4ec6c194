"""Escape the commands that a CI would run when it reads a job's output.

GitHub, Gitea and Forgejo run lines that start with `::`, the older form `##[…]` and Azure's `##vso[…]` anywhere in a line; GitLab
acts on control characters. All output of the runner (a model's text, a tool's output, a title, a traceback) passes through here,
and the first character of such a command is replaced by an escape. JSON keeps its meaning.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TextIO

_MARK = re.compile(r"(##\w*)\[")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def is_needed(environ: Mapping[str, str]) -> bool:
    """Return whether a CI reads the output."""
    return environ.get("CI", "").lower() not in ("", "0", "false") or "GITHUB_ACTIONS" in environ


def line(text: str) -> str:
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
            self._stream.write(f"{line(one)}\n")
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
        self._stream.write(line(self._rest))
        self._rest = ""
        self._stream.flush()
