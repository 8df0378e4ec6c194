"""Read, write, patch and search the workspace's files, by a worker process in the sandbox, and by ripgrep where it is installed.

The first call starts the worker, and the next one after a time-out starts it again. It runs under the runner's interpreter, so
beside a container and not in it; the sandbox shows it the standard library and no packages, and lets it write the workspace alone.

A patch is a unified diff, or the form `*** Begin Patch` of OpenAI's models. `worker`, which has the files, finds each hunk by its
text. Models often miscount, so the counts of a hunk's header only decide where they fit the lines that follow. Besides hunks, a
patch may create and delete files, and set the mode of a file that it creates. Renames, copies, other modes and binary patches are
refused.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.errors import SandboxUnavailableError
from runner.lines import lines_of, pattern
from runner.sandbox.process import Command, Sandbox
from runner.tools import ToolError
from runner.tools.commands import Child, Commands, WorkspaceAlias
from runner.tools.worker import SKIPPED, Matches, ToolRefusedError, matcher

WORKER = Path(__file__).with_name("worker.py").resolve()
START = 30.0  # seconds for its start
LARGEST = "5M"  # of a file that ripgrep searches


class FileWorker:
    """A client of the worker; `close` ends the worker."""

    def __init__(self, sandbox: Sandbox, work: Path, alias: WorkspaceAlias) -> None:
        interpreter, needed = interpreter_and_library()
        self._alias, helper = alias, sandbox.helper
        folder = alias.path if helper is sandbox else helper.place.inside(work)
        self._lock = threading.Lock()  # one exchange at a time
        command = Command(
            argv=(str(interpreter), "-I", "-S", "-B", str(WORKER), str(folder), *alias.real, alias.name),
            cwd=work,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            writable=(work,),
            readable=(WORKER, *needed),
            links=((alias.name, str(folder)),),
        )
        self._child = Child(helper, command)

    def ask(self, call: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a call and return its result.

        Raises:
            ToolError: the worker refused it, or it timed out.
        """
        with self._lock:
            if not self._child.is_there:
                self._start()
            try:
                answer = self._child.ask({"call": call, "arguments": dict(arguments)}, timeout)
            except TimeoutError:
                raise ToolError(f"timed out after {timeout:g} s; ask for less at once") from None
        if answer is None:
            raise self._death("the worker for files ended")
        if "error" in answer:
            raise ToolError(self._alias.hide_all(answer["error"]))
        if "crash" in answer:
            raise RuntimeError(f"the worker for files failed at `{call}`:\n{answer['crash']}")
        result: dict[str, Any] = self._alias.hide(answer["result"])
        return result

    def close(self, grace: float) -> None:
        """End the worker if it runs."""
        self._child.end(grace)

    def _start(self) -> None:
        with suppress(TimeoutError):
            if self._child.ask(None, START) is not None:
                return
        raise self._death("the worker for files could not be started")

    def _death(self, what: str) -> SandboxUnavailableError:
        return SandboxUnavailableError(
            f"{what}: {lines_of(self._child.printed)[-1] if self._child.printed else 'it said nothing'}",
            where=self._child.command.argv[0],
            hint="look whether the workspace is there and memory is left; `runner doctor` shows whether the sandbox works",
        )


def interpreter_and_library() -> tuple[Path, tuple[Path, ...]]:
    """Return the interpreter of this process outside its virtual environment, and the paths that it needs to start with `-I -S`.

    Where HOME is its installation, or inside it, these are the library alone.
    """
    import sysconfig  # here, because few steps start the worker

    base = Path(os.path.realpath(sys.base_prefix))
    found = getattr(sys, "_base_executable", None) or sys.executable
    interpreter = Path(os.path.realpath(found))
    if not interpreter.is_relative_to(base) and sys.prefix != sys.base_prefix:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        inside = base / "bin" / version
        interpreter = Path(os.path.realpath(inside)) if inside.exists() else interpreter
    if Path.home().is_relative_to(base) or base == Path(base.anchor):
        paths = [
            Path(sysconfig.get_path(name, vars={"base": str(base), "platbase": str(base)}))
            for name in ("stdlib", "platstdlib")
        ]
        shared = [Path(os.path.realpath(path)) for path in (base / "lib").glob("libpython*.so*")]
        needed = [interpreter, *paths, *shared]
    else:
        needed = [base, interpreter]
    kept = dict.fromkeys(path for path in needed if path.exists())
    return interpreter, tuple(p for p in kept if not any(p != other and p.is_relative_to(other) for other in kept))


class _EnoughError(Exception):
    """There are more matches than wanted."""


class Ripgrep:
    """Runs rg in the sandbox: the same files and results as the worker's own search, faster."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def search(self, given: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Return matches; None where rg is not installed, or cannot do this search.

        Raises:
            ToolError: it timed out.
        """
        matches, said = Matches(given["max"] or 100), bytearray()
        inside = given["path"] + "/" if given["path"] != "." else ""
        try:
            fits = matcher(given["glob"])
        except ToolRefusedError:
            return None

        def take(data: bytes) -> None:
            said.extend(data)
            *lines, rest = bytes(said).split(b"\n")
            said[:] = rest[-1_000_000:]
            for line in lines:
                path, zero, match = line.partition(b"\0")
                if not zero:
                    continue  # rg's note that a binary file matches
                name = path.removeprefix(b"./").decode("utf-8", "backslashreplace")
                if name != given["path"] and not (fits(name.removeprefix(inside)) or fits(name)):
                    continue
                number, _, text = match.decode(errors="replace").rstrip("\r").partition(":")
                if not matches.add(name, number, text):
                    raise _EnoughError

        try:
            outcome = self._commands.listen(tuple(_argv(given)), timeout, take)
            if outcome.timed_out:
                raise ToolError(f"timed out after {timeout:g} s; narrow the path or glob")
            if outcome.code not in (0, 1):
                return None
        except _EnoughError:
            pass
        return {**matches.result(), "matches": self._commands.alias.hide(matches.found)}


def _argv(given: dict[str, Any]) -> list[str]:
    options = ["--no-config", "--no-ignore", "--hidden", "--no-messages", "--no-heading", "--with-filename", "--null"]
    options += ["--line-number", "--color=never", "--sort=path", f"--max-filesize={LARGEST}"]
    options += ["--ignore-case"] if given["ignore_case"] else ["--case-sensitive"]
    # rg does not match the glob: it must fit paths below the searched folder, or whole ones.
    options += [f"--glob=!{name}" for name in sorted(SKIPPED)] + ["--iglob=!.git", "--iglob=!git~1"]
    if ".protocols" not in f"{given['path']} {given.get('glob')}":  # as worker.search_text
        options.append("--glob=!/.protocols/[0-9]*")
    return [
        "rg",
        *options,
        f"--regexp={given['pattern']}",
        "--",
        given["path"] if given["path"] == "." else "./" + given["path"],
    ]


_HUNK = pattern(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_REFUSED = ("rename ", "copy ", "similarity ", "dissimilarity ", "old mode", "new mode", "GIT binary", "Binary files")
_NOTHING = "/dev/null"
_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_NAMED = pattern(r"\*\*\* (Update|Add|Delete) File: (.+)")


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
