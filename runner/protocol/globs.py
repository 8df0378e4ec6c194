"""Globs of the policy: their exact meaning, and how they are matched in bounded time.

A glob for **paths** is as seen from the repository's root, with `/`. `*` stands for any characters but `/`, `?` for one of
them, and `**`, alone between slashes, for any number of folders, also none. Without one of these it names the file, or the
folder with all that is in it; `folder/**` is the folder itself too, which may become a link. A glob for **names** (tools,
steps, engines, programs) has `*` for any characters, `/` and `:` included, and `?` for one. A leading dot is nothing
special. `[ ] { } \\` and a leading `!` mean different things elsewhere and are refused.

The path may be hostile, the glob is not: the expressions never try the same characters for two stars of one glob, so the
time is bounded whatever the path.
"""

from __future__ import annotations

import re
import unicodedata

from runner.lines import pattern

LIMIT = 500  # characters of a glob
_REFUSED = pattern(r"[\[\]{}\\]|\A!")
_WILD = pattern(r"[*?]")


def wrong(glob: str) -> tuple[str, str] | None:
    """Return (the error of a glob for names, what to write instead), or None."""
    if not glob.strip() or len(glob) > LIMIT or len(glob.splitlines()) > 1:
        return f"should be one line of 1 to {LIMIT} characters", "write a name, with * for any characters"
    if _REFUSED.search(glob):
        return (
            "should hold none of [ ] { } \\ and no leading !",
            "write ? for such a character, or a glob for each case",
        )
    if "**" in glob:
        return "should not hold **", "write *, which stands for any characters here"
    return None


def wrong_path(glob: str) -> tuple[str, str] | None:
    """Return (the error of a glob for paths, what to write instead), or None."""
    if found := wrong(glob.replace("**", "*")):
        return found
    parts = glob.split("/")
    if glob.startswith(("/", "~")) or "" in parts or "." in parts or ".." in parts:
        hint = "write it without `/` at either end and without `.` and `..`, such as migrations/**"
        return "should be a glob as seen from the repository's root", hint
    if any("**" in part and part != "**" for part in parts):
        return "should have ** alone between slashes", "write folder/**, **/name, or * inside a name"
    return None


def fold(text: str) -> str:
    """Return the text as file systems that ignore case, composition and invisible characters see it."""
    if text.isascii():
        return text.lower()
    shown = "".join(char for char in unicodedata.normalize("NFC", text) if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFC", shown.casefold())


def name_pattern(glob: str) -> str:
    """Return the expression of a glob for names, for `fullmatch`."""
    return _stars(glob, ".")


def path_pattern(glob: str) -> str:
    """Return the expression of a glob for paths, for `fullmatch` against a path in its plainest form."""
    if not _WILD.search(glob):
        return re.escape(glob) + "(?:/.*)?"
    runs: list[list[str]] = [[]]
    for part in glob.split("/"):
        if part != "**":
            runs[-1].append(_stars(part, "[^/]"))
        elif runs[-1] or len(runs) == 1:  # `**/**` is `**`
            runs.append([])
    first, *rest = ["/".join(run) for run in runs]
    if not rest:
        return first
    *middle, last = rest
    # The earliest place for each run between two `**` leaves the most to what follows: it is never tried again.
    between = "".join(f"(?>(?:.*?/)??{run}/)" for run in middle)
    if last:
        return f"{first + '/' if first else ''}{between}(?:.*/)?{last}"
    if not middle:
        return f"{first}(?:/.*)?" if first else ".+"
    between = "".join(f"(?>(?:.*?/)??{run}/)" for run in middle[:-1])
    return f"{first + '/' if first else ''}{between}(?>(?:.*?/)??{middle[-1]}(?=/|\\Z))(?:/.*)?"


def compiled(patterns: list[str]) -> re.Pattern[str]:
    """Return one expression for all of them."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.DOTALL)


def could_hold(glob: str, folder: str) -> bool:
    """Return whether `folder` is above every path that a glob names: a link in its place would move those elsewhere."""
    above = folder.split("/")
    fixed: list[str] = []
    for part in glob.split("/"):
        if part == "**":
            break
        fixed.append(part)
    return len(above) < len(fixed) and all(
        re.fullmatch(_stars(part, "[^/]"), one, re.DOTALL) for part, one in zip(fixed, above, strict=False)
    )


def _stars(glob: str, one: str) -> str:
    if glob == "*":
        return f"{one}+" if one == "[^/]" else f"{one}*"
    first, *rest = [re.escape(chunk).replace(r"\?", one) for chunk in glob.split("*")]
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>{one}*?{chunk})" for chunk in middle if chunk) + f"{one}*{last}"
