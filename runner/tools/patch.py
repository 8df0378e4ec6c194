"""Parse a patch into one change per file: a unified diff, or the form `*** Begin Patch` of OpenAI's models.

`worker`, which has the files, finds each hunk by its text. Models often miscount, so the counts of a hunk's header only decide
where they fit the lines that follow. Besides hunks, a patch may create and delete files, and set the mode of a file that it
creates. Renames, copies, other modes and binary patches are refused by name.
"""

from __future__ import annotations

import re
from typing import Any

from runner.tools import ToolError

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_REFUSED = ("rename ", "copy ", "similarity ", "dissimilarity ", "old mode", "new mode", "GIT binary", "Binary files")
_NOTHING = "/dev/null"
_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_NAMED = re.compile(r"\*\*\* (Update|Add|Delete) File: (.+)")


def parse(patch: str) -> list[dict[str, Any]]:
    """Return the changes, in the patch's order: `path`, `kind`, `mode` and `hunks`, as the worker's `apply_patch` takes them.

    Of a hunk: `line` of the patch, `start` in the file (None where the patch does not say), `after` (a line of the file that is
    before it, or None), `old` and `new`.

    Raises:
        ToolError: it is no patch; the line is named.
    """
    lines = patch.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    files: list[dict[str, Any]] = []
    begun = patch.lstrip().startswith(_BEGIN)
    at = 0
    while at < len(lines):
        if not lines[at].strip() or (begun and lines[at].strip() in (_BEGIN, _END)):
            at += 1
            continue
        at, file = (_named_file if begun else _file)(lines, at)
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


def _named_file(lines: list[str], at: int) -> tuple[int, dict[str, Any]]:
    """Parse a file of the form `*** Begin Patch`."""
    named = _NAMED.fullmatch(lines[at].rstrip())
    if named is None:
        raise _wrong(
            at, lines[at], "`*** Update File: FILE`, `*** Add File: FILE` or `*** Delete File: FILE` is expected"
        )
    kind = {"Update": "change", "Add": "create", "Delete": "delete"}[named[1]]
    file: dict[str, Any] = {"path": named[2].strip(), "kind": kind, "mode": None, "hunks": []}
    first, at = at, at + 1
    if at < len(lines) and lines[at].startswith("*** Move to:"):
        raise _wrong(at, lines[at], "renames are not for a patch; create the one file and delete the other")
    while (
        at < len(lines) and kind != "delete" and not lines[at].startswith(("*** Update", "*** Add", "*** Delete", _END))
    ):
        head = lines[at] if lines[at].startswith("@@") else ""
        at, old, new = _lines_of_hunk(lines, at + bool(head))
        if kind == "create" and (old or head):
            raise _wrong(first, lines[first], "a new file is added lines alone")
        if old or new:
            after = head.strip("@ ") or None
            file["hunks"].append({"line": at, "start": None, "after": after, "old": old, "new": new})
        at += at < len(lines) and lines[at].strip() == "*** End of File"
        if at < len(lines) and not lines[at].startswith(("@@", "*** ")):
            raise _wrong(at, lines[at], "a line of a hunk begins with a space, - or +")
    if kind == "change" and not file["hunks"]:
        raise _wrong(first, lines[first], "a hunk is expected: `@@`, then lines that begin with a space, - or +")
    return at, file


def _hunks(lines: list[str], at: int) -> tuple[int, list[dict[str, Any]]]:
    hunks: list[dict[str, Any]] = []
    while at < len(lines) and lines[at].startswith("@@"):
        line, head, first = at + 1, _HUNK.match(lines[at]), at + 1
        counts = (int(head[2] or 1), int(head[4] or 1)) if head else None
        at, old, new = _lines_of_hunk(lines, first, counts)
        ends = at == len(lines) or lines[at].startswith(("@@", "diff --git ", "--- ")) or not lines[at].strip()
        if counts is not None and (counts != (len(old), len(new)) or not ends):  # miscounted: what follows decides
            at, old, new = _lines_of_hunk(lines, first)
        if at < len(lines) and lines[at].strip() and not lines[at].startswith(("@@", "diff --git ", "--- ")):
            raise _wrong(at, lines[at], "a line of a hunk begins with a space, - or +")
        if not old and not new:
            raise _wrong(line - 1, lines[line - 1], "the hunk is empty")
        after = None if head else lines[line - 1].strip("@ ") or None
        hunks.append({"line": line, "start": int(head[1]) if head else None, "after": after, "old": old, "new": new})
    return at, hunks


def _lines_of_hunk(
    lines: list[str], at: int, counts: tuple[int, int] | None = None
) -> tuple[int, list[str], list[str]]:
    """Return where the hunk that starts at a line ends, and its old and its new lines; without `counts`, by what follows it."""
    old, new, blank = list[str](), list[str](), 0
    while at < len(lines) and (counts is None or len(old) < counts[0] or len(new) < counts[1]):
        line = lines[at]
        if line[:1] not in ("", " ", "-", "+"):
            break
        if counts is None and line.startswith("--- ") and lines[at + 1 : at + 2] and lines[at + 1].startswith("+++ "):
            break  # the next file
        sign, text = line[:1] or " ", line[1:] + "\n"
        blank = blank + 1 if not line else 0
        if sign in " -":
            old.append(text)
        if sign in " +":
            new.append(text)
        at += 1
        if at < len(lines) and lines[at].startswith("\\"):
            for side in (old,) * (sign in " -") + (new,) * (sign in " +"):
                side[-1] = text[:-1]
            at += 1
    if counts is None and blank:  # they part the hunk from the next one
        del old[-blank:], new[-blank:]
    return at, old, new


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
