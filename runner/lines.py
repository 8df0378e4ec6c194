"""Lines of text as git, editors and people count them, and the characters that are shown as they are."""

from __future__ import annotations


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text. LF alone ends one; an LF at the end of the text starts no other.

    `str.splitlines` also splits at CR, VT, FF, FS, GS, RS, NEL, U+2028 and U+2029. With them, the author of a
    file, a ref's name or a message could make readers see a line that is not there, or a parser read one. Here those characters stay
    in the line, and are escaped where it is printed.
    """
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def is_harmless(char: str) -> bool:
    """Return whether a character is shown as itself: it neither steers a terminal nor turns the direction of a text round."""
    return char.isprintable() and not "\u202a" <= char <= "\u202e" and not "\u2066" <= char <= "\u2069"
