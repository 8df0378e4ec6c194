"""Parse a unified diff strictly into one change per file.

`worker`, which has the files, checks whether it fits them. Besides hunks, a patch may create and delete files, and set the mode of a
file that it creates. Renames, copies, other modes and binary patches are refused by name.
"""

from __future__ import annotations

import re
from typing import Any

from runner.tools import ToolError

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_REFUSED = ("rename ", "copy ", "similarity ", "dissimilarity ", "old mode", "new mode", "GIT binary", "Binary files")
_NOTHING = "/dev/null"


def parse(patch: str) -> list[dict[str, Any]]:
    """Return the changes, in the patch's order: `path`, `kind`, `mode` and `hunks`, as the worker's `apply_patch` takes them.

    Raises:
        ToolError: it is not a unified diff; the line is named.
    """
    lines = patch.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    files: list[dict[str, Any]] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        at, file = _file(lines, at)
        if any(file["path"] == other["path"] for other in files):
            raise ToolError(f"the patch changes {file['path']} twice")
        files.append(file)
    if not files:
        raise ToolError("the patch is empty; a unified diff is expected: `--- a/FILE`, `+++ b/FILE`, `@@ -1,2 +1,3 @@`")
    return files


def _file(lines: list[str], at: int) -> tuple[int, dict[str, Any]]:
    named, mode, made, gone = "", None, False, False
    first = at
    if lines[at].startswith("diff --git "):
        named, at = _same_name(lines[at]), at + 1
        while at < len(lines) and not lines[at].startswith(("--- ", "diff --git ")) and lines[at].strip():
            line = lines[at]
            if line.startswith(_REFUSED):
                raise _wrong(at, line, "renames, copies, changes of a mode and binary files are not for a patch")
            if line.startswith("new file mode "):
                made, mode = True, _mode(at, line)
            elif line.startswith("deleted file mode "):
                gone = True
            elif not line.startswith("index "):
                raise _wrong(at, line, "`---`, `index`, `new file mode` or `deleted file mode` is expected")
            at += 1
    if at >= len(lines) or not lines[at].startswith("--- "):
        if not (made or gone):
            hint = "`diff --git` or `--- FILE` is expected" if at == first else "`--- FILE` is expected"
            raise _wrong(at, lines[at] if at < len(lines) else "the end", hint)
        return at, {"path": named, "kind": "create" if made else "delete", "mode": mode, "hunks": []}
    if at + 1 >= len(lines) or not lines[at + 1].startswith("+++ "):
        raise _wrong(at + 1, lines[at + 1] if at + 1 < len(lines) else "the end", "`+++ FILE` is expected")
    old, new = _name(lines[at][4:]), _name(lines[at + 1][4:])
    made, gone = made or old == _NOTHING, gone or new == _NOTHING
    old, new = _bare(old, new)
    if (made and old != _NOTHING) or (gone and new != _NOTHING) or (made and gone):
        raise _wrong(at, lines[at], "a file that is created or deleted has /dev/null on the other side")
    if not made and not gone and old != new:
        raise _wrong(at, f"{old} and {new}", "one file has one name; delete the one and create the other")
    at, hunks = _hunks(lines, at + 2)
    if not hunks:
        raise _wrong(at, lines[at] if at < len(lines) else "the end", "a hunk `@@ -1,2 +1,3 @@` is expected")
    if made and (len(hunks) > 1 or hunks[0]["old"]):
        raise _wrong(
            hunks[0]["line"] - 1,
            lines[hunks[0]["line"] - 1],
            "a new file is one hunk of added lines: `@@ -0,0 +1,9 @@`",
        )
    kind = "create" if made else "delete" if gone else "change"
    return at, {"path": old if gone else new, "kind": kind, "mode": mode, "hunks": hunks}


def _hunks(lines: list[str], at: int) -> tuple[int, list[dict[str, Any]]]:
    hunks: list[dict[str, Any]] = []
    while at < len(lines) and lines[at].startswith("@@"):
        head = _HUNK.match(lines[at])
        if head is None:
            raise _wrong(at, lines[at], "`@@ -LINE,COUNT +LINE,COUNT @@` is expected")
        start, olds, news = int(head[1]), int(head[2] or 1), int(head[4] or 1)
        hunk: dict[str, Any] = {"line": at + 1, "start": start, "old": [], "new": []}
        at += 1
        while at < len(lines) and (len(hunk["old"]) < olds or len(hunk["new"]) < news):
            sign, text = lines[at][:1] or " ", lines[at][1:] + "\n"
            if sign not in (" ", "-", "+"):
                break
            if sign in " -":
                hunk["old"].append(text)
            if sign in " +":
                hunk["new"].append(text)
            at += 1
            if at < len(lines) and lines[at].startswith("\\"):
                for side in ("old",) * (sign in " -") + ("new",) * (sign in " +"):
                    hunk[side][-1] = text[:-1]
                at += 1
        if (len(hunk["old"]), len(hunk["new"])) != (olds, news) or (
            at < len(lines)
            and lines[at][:1] in ("+", "-", " ")
            and not lines[at].startswith("--- ")
            and lines[at].strip()
        ):
            told = f"it says {olds} old and {news} new lines, but another number follows"
            raise _wrong(hunk["line"] - 1, lines[hunk["line"] - 1], told)
        if not hunk["old"] and not hunk["new"]:
            raise _wrong(hunk["line"] - 1, lines[hunk["line"] - 1], "the hunk is empty")
        hunks.append(hunk)
    return at, hunks


def _name(text: str) -> str:
    name = text.split("\t")[0]
    if name.startswith('"') and name.endswith('"') and len(name) > 1:  # git quotes as C does, byte by byte
        try:
            return name[1:-1].encode("latin-1").decode("unicode_escape").encode("latin-1").decode()
        except UnicodeError:
            raise ToolError(f"the name {name} cannot be read") from None
    return name.rstrip("\r")


def _bare(old: str, new: str) -> tuple[str, str]:
    """Return the names without git's a/ and b/."""
    if old in (_NOTHING,) and new.startswith("b/"):
        return old, new[2:]
    if new in (_NOTHING,) and old.startswith("a/"):
        return old[2:], new
    if old.startswith("a/") and new.startswith("b/"):
        return old[2:], new[2:]
    return old, new


def _same_name(line: str) -> str:
    """Return the name that `diff --git a/X b/X` gives twice; empty where it gives two."""
    names = line.removeprefix("diff --git ")
    old, new = _name(names[: len(names) // 2]), _name(names[len(names) // 2 + 1 :])
    return new[2:] if old[:2] == "a/" and new[:2] == "b/" and old[2:] == new[2:] else ""


def _mode(at: int, line: str) -> int:
    modes = {"100644": 0o644, "100755": 0o755}
    if (mode := modes.get(line.rpartition(" ")[2])) is None:
        raise _wrong(at, line, "a new file's mode is 100644 or 100755")
    return mode


def _wrong(at: int, line: str, expected: str) -> ToolError:
    return ToolError(f"line {at + 1} of the patch, {line[:120]!r}: {expected}; nothing was changed")
