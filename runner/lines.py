"""Lines of text as git, editors and people count them, and the characters that are shown as they are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, AnyStr, Final, cast

if TYPE_CHECKING:
    from decimal import Decimal

LAST: Final = 40  # lines of an output that a failure prints
WIDTH: Final = 2000  # characters of each of them


class _Pattern:
    """A pattern that is not compiled yet. What it is asked for is kept, so the next time it is as quick as the library's."""

    def __init__(self, text: str | bytes, flags: int) -> None:
        self.pattern, self._flags = text, flags

    def __getattr__(self, name: str) -> Any:
        made = getattr(re.compile(self.pattern, self._flags), name)
        setattr(self, name, made)
        return made


def pattern(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return what `re.compile` returns, compiled when it is first used: a command loads eighty of them, and uses ten."""
    return cast("re.Pattern[AnyStr]", _Pattern(text, flags))


_COLOURS = pattern(r"\x1b\[[0-9;:]*[mK]")


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text. LF alone ends one; an LF at the end of the text starts no other.

    `str.splitlines` also splits at CR, VT, FF, FS, GS, RS, NEL, U+2028 and U+2029. With them, the author of a
    file, a ref's name or a message could make readers see a line that is not there, or a parser read one. Here those characters stay
    in the line, and are escaped where it is printed.
    """
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def with_ends(text: str) -> list[str]:
    """Return the lines of a text, each with its LF; the last may have none."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def headline(text: str) -> str:
    """Return text on one line: its first line that says something, marked where others follow."""
    first, *more = [line for line in lines_of(text.strip()) if line.strip()] or [""]
    return f"{first.rstrip()} …" if more else first


def one_line(text: str, most: int) -> str:
    """Return somebody else's text on one line of at most so many characters, without what is not printable."""
    return cut(" ".join("".join(char if char.isprintable() else " " for char in text).split()), most)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 step`, `2 steps`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def few(names: Sequence[object], most: int = 3, between: str = ", ") -> str:
    """Return the first of some names, and how many more there are."""
    return between.join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def money(usd: str | Decimal) -> str:
    """Return an amount in words: `$0.02`; of less than a cent the first digit that counts: `$0.004`."""
    text = format(usd, "f") if hasattr(usd, "as_tuple") else str(usd)
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
        return f"${usd}"  # of a forged entry, which is shown all the same
    amount = float(text)  # to be shown; a Decimal would cost a command that reads its import
    if amount >= 0.01 or not amount:
        return f"${amount:.2f}"
    return f"${float(f'{amount:.1g}'):.5f}".rstrip("0") if amount >= 0.00001 else "<$0.00001"


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters; a longer one ends with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_harmless(char: str) -> bool:
    """Return whether a character is shown as itself: it neither steers a terminal nor turns the direction of a text round."""
    return char.isprintable() and not "\u202a" <= char <= "\u202e" and not "\u2066" <= char <= "\u2069"


_ANSI = pattern(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_SEEN = frozenset("\n\t\ufe0e\ufe0f")  # with an emoji before them, the last two are seen
_UNSEEN = pattern(r"[\u034f\u115f\u1160\u17b4\u17b5\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


def visible(text: str) -> str:
    r"""Return a text without terminal colours, and with each character that a person would not see as its number: `\u{200b}`."""
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    return "".join(f"\\u{{{ord(one):x}}}" if _is_hidden(one) else one for one in text)


def _is_hidden(one: str) -> bool:
    if (one.isascii() and one.isprintable()) or one in _SEEN:
        return False
    return _UNSEEN.match(one) is not None or unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def lines_of_output(data: bytes) -> list[str]:
    """Return the lines of a program's output without colours. Other escapes stay: who prints them makes them harmless."""
    return lines_of(_COLOURS.sub("", data.decode("utf-8", "replace").replace("\r\n", "\n")).rstrip())
