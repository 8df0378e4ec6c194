"""Which commits the lines of a file come from, as `git blame` tells it; nothing of the repository's configuration runs.

Lines are followed through renames and, where they have 20 letters and digits, through moves within a commit. A copy belongs to the
commit that made it: a line that a commit added, and that stands elsewhere too, is that commit's. Grafts are the caller's, for one
question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import InsufficientHistoryError, UsageError
from runner.git.process import git_error
from runner.lines import lines_of

if TYPE_CHECKING:
    from runner.git.database import Database

_HEADER = re.compile(rb"(?P<oid>[0-9a-f]{40,64}) (?P<old>[0-9]+) (?P<now>[0-9]+)(?: [0-9]+)?")
_ESCAPE = re.compile(rb"\\([abtnvfr\"\\]|[0-7]{3})")
_ESCAPES = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b'"': 34, b"\\": 92}
_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, slots=True)
class Blamed:
    """A line, and where it comes from.

    `commit`: which brought it, None where none has it yet; `path`, `old`: its file and number there; `before`: (commit, path)
    of the file before that; `cut`: it has no parent here, so in a shallow clone an older commit may have brought it.
    """

    line: int
    text: str
    commit: str | None
    path: str
    old: int
    before: tuple[str, str] | None
    cut: bool


def blame(
    git: Database,
    path: str,
    ranges: Sequence[tuple[int, int]],
    *,
    commit: str | None = None,
    work_tree: Path | None = None,
    grafts: Mapping[str, Sequence[str]] | None = None,
    config: Sequence[str] = (),
) -> list[Blamed]:
    """Return the lines of the ranges (first and last, from 1) of a file in `commit`, or as it is in `work_tree` now.

    `grafts`: the parents that a commit shall have instead of its own.

    Raises:
        UsageError: there is no such file, or it has fewer lines.
        InsufficientHistoryError: a partial clone does not have its history.
    """
    wanted = {line for first, last in ranges for line in range(first, last + 1)}
    # An empty list: commits that a file of the tree says to pass over would be told as somebody else's.
    args = [
        "--line-porcelain",
        "--no-textconv",
        "--ignore-revs-file=",
        *(f"-L{first},{last}" for first, last in ranges),
    ]
    lines = "".join(f"{' '.join((oid, *parents))}\n" for oid, parents in (grafts or {}).items())
    args += ["-S", "/dev/stdin"] if lines else []
    args += [commit] if commit else []
    git_dir = git.git_dir if work_tree is not None else None

    def ask(*more: str) -> list[Blamed]:
        code, out, err = git.try_run(
            "blame", *more, *args, "--", path, data=lines.encode(), git_dir=git_dir, work_tree=work_tree, config=config
        )
        if code and ("no such path" in err or "has only" in err or "cannot stat path" in err or "Cannot lstat" in err):
            what = lines_of(err)[0].removeprefix("fatal: ")
            raise UsageError(what, f"{path}:{ranges[0][0]}", "name a file that is committed, and lines that it has")
        if code and git.is_partial():
            raise InsufficientHistoryError(
                "the file's history is not in this clone", path, "run `git fetch --refetch --no-filter`"
            )
        if code:
            raise git_error(["git", "blame", *more, *args], code, err)
        return _lines(out, git.zero)

    every = ask("-M", "-C20")
    found = [line for line in every if line.line in wanted]
    if len(found) < len(wanted):
        last = max((line.line for line in every), default=0)
        raise UsageError(f"the file has {last} lines", f"{path}:{max(wanted)}", "name lines that it has")
    added = {line.line: line for line in ask()}
    gone: dict[str | None, set[str]] = {}
    for at, line in enumerate(found):
        here = added[line.line]
        if (here.commit, here.path, here.old) == (line.commit, line.path, line.old):
            continue
        if here.commit not in gone:
            parents = (grafts or {}).get(here.commit or "")
            gone[here.commit] = _removed(git, here.commit, parents, git_dir=git_dir, work_tree=work_tree, config=config)
        if line.text.strip() not in gone[here.commit]:
            found[at] = here
    return found


def _removed(git: Database, commit: str | None, parents: Sequence[str] | None, **where: Any) -> set[str]:
    """Return the lines that a commit took away somewhere, or that are gone from the work tree."""
    args = ["diff", "-U0", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"]
    out = b""
    for parent in [f"{commit}^"] if parents is None else parents:
        out += git.try_run(*args, *([parent, commit] if commit else ["HEAD"]), "--", **where)[1]
    rows = (row[1:].decode("utf-8", "replace").strip() for row in out.split(b"\n") if row[:1] == b"-")
    return set(rows)


def _lines(out: bytes, zero: str) -> list[Blamed]:
    found: list[Blamed] = []
    rows = iter(out.split(b"\n"))
    for row in rows:
        head = _HEADER.fullmatch(row)
        if head is None:
            continue
        path, before, cut = "", None, False
        for row in rows:
            if row.startswith(b"\t"):
                break
            key, _, value = row.partition(b" ")
            if key == b"filename":
                path = _name(value)
            elif key == b"previous":
                older, _, name = value.partition(b" ")
                before = (older.decode(), _name(name))
            elif key == b"boundary":
                cut = True
        commit, text = head["oid"].decode(), row[1:].decode("utf-8", "replace").removesuffix("\r")
        by = None if commit == zero else commit
        found.append(Blamed(int(head["now"]), text, by, path, int(head["old"]), before, cut))
    return found


def _name(quoted: bytes) -> str:
    """Return a file's name as git quotes it in C's manner where it has to."""
    if quoted.startswith(b'"') and quoted.endswith(b'"'):
        quoted = _ESCAPE.sub(
            lambda match: bytes([_ESCAPES[match[1]] if match[1] in _ESCAPES else int(match[1], 8)]), quoted[1:-1]
        )
    return quoted.decode("utf-8", "surrogateescape")


def hunks(
    git: Database, before: str, now: str | None, *, work_tree: Path | None = None, config: Sequence[str] = ()
) -> list[tuple[range, range]]:
    """Return (lines before, lines now) of each place where two blobs differ.

    `before`, `now`: `COMMIT:PATH`; without `now`, the file at that path as it is in `work_tree`.
    """
    commit, _, path = before.partition(":")
    args = ["diff", "-U0", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"]
    args += [before, now] if now is not None else [commit, "--", path]
    git_dir = git.git_dir if work_tree is not None else None
    code, out, _ = git.try_run(*args, git_dir=git_dir, work_tree=work_tree, config=config)
    found = []
    for match in map(_HUNK.match, out.split(b"\n") if code == 0 else []):
        if match is not None:
            old, before_count, new, count = (1 if part is None else int(part) for part in match.groups())
            found.append((range(old, old + before_count), range(new, new + count)))
    return found
