"""Read, write and search the workspace's files, by a worker process in the sandbox, and by ripgrep where it is installed.

The first call starts the worker, and the next one after a time-out starts it again. It runs under the runner's interpreter, so
beside a container and not in it; the sandbox shows it the standard library and no packages, and lets it write the workspace alone.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.lines import lines_of
from runner.sandbox import Command, Sandbox, SandboxUnavailableError, Session
from runner.tools import ToolError
from runner.tools.commands import Commands, WorkspaceAlias, exchange
from runner.tools.worker import MOST_OF_MATCH, MOST_SHOWN, SKIPPED, RefusedError, matcher

WORKER = Path(__file__).with_name("worker.py").resolve()
START = 30.0  # seconds for its start
LARGEST = "5M"  # of a file that ripgrep searches


class FileWorker:
    """A client of the worker; `close` ends the worker."""

    def __init__(self, sandbox: Sandbox, work: Path, alias: WorkspaceAlias) -> None:
        interpreter, needed = interpreter_and_library()
        self._sandbox, self._alias = sandbox.helper, alias
        folder = alias.path if self._sandbox is sandbox else self._sandbox.place.inside(work)
        self._session: Session | None = None
        self._lock = threading.Lock()  # one exchange at a time
        self._command = Command(
            argv=(str(interpreter), "-I", "-S", "-B", str(WORKER), str(folder), *alias.real, alias.name),
            cwd=work,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            writable=(work,),
            readable=(WORKER, *needed),
            links=((alias.name, str(folder)),),
        )

    def ask(self, call: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a call and return its result.

        Raises:
            ToolError: the worker refused it, or it timed out.
        """
        with self._lock:
            return self._ask(call, arguments, timeout)

    def _ask(self, call: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if self._session is None:
            self._start()
        assert self._session is not None
        try:
            answer = exchange(self._session, {"call": call, "arguments": dict(arguments)}, timeout)
        except TimeoutError:
            self.close(0.0)
            raise ToolError(f"timed out after {timeout:g} s; ask for less at once") from None
        except BaseException:
            self.close(0.0)
            raise
        if answer is None:
            raise self._death("the worker for files ended")
        if "error" in answer:
            raise ToolError(self._alias.hide_all(answer["error"]))
        if "crash" in answer:
            raise RuntimeError(f"the worker for files failed at `{call}`:\n{answer['crash']}")
        result: dict[str, Any] = self._alias.hide(answer["result"])
        return result

    def close(self, grace: float = 2.0) -> bytes:
        """End the worker if it runs; return the end of its stderr."""
        session, self._session = self._session, None
        return session.close(grace).tail if session is not None else b""

    def _start(self) -> None:
        self._session = self._sandbox.open(self._command)
        try:
            ready = exchange(self._session, None, START)
        except TimeoutError:
            ready = None
        except BaseException:
            self.close(0.0)
            raise
        if ready is None:
            raise self._death("the worker for files could not be started")

    def _death(self, what: str) -> SandboxUnavailableError:
        said = lines_of(self.close(0.5).decode(errors="replace").strip())
        return SandboxUnavailableError(
            f"{what}: {said[-1] if said else 'it said nothing'}",
            where=self._command.argv[0],
            hint="look whether the workspace is there and memory is left; `runner doctor` shows whether the sandbox works",
        )


def interpreter_and_library() -> tuple[Path, tuple[Path, ...]]:
    """Return the interpreter of this process outside its virtual environment, and the paths that it needs to start with `-I -S`.

    Where HOME is its installation, or inside it, these are the library alone.
    """
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
        most, found, said, size = given["max"] or 100, list[str](), bytearray(), 0
        notes: list[str] = []
        inside = given["path"] + "/" if given["path"] != "." else ""
        try:
            fits = matcher(given["glob"])
        except RefusedError:
            return None

        def take(data: bytes) -> None:
            nonlocal size
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
                if len(found) >= most or size > MOST_SHOWN:
                    raise _EnoughError
                more = "…" if len(text) > MOST_OF_MATCH else ""
                found.append(f"{name}:{number}:{text[:MOST_OF_MATCH]}{more}")
                size += len(found[-1])

        try:
            outcome = self._commands.listen(tuple(_argv(given)), timeout, take)
        except _EnoughError:
            notes.append(f"there are more than {len(found)} matches; narrow the pattern, path or glob")
        else:
            if outcome.timed_out:
                raise ToolError(f"timed out after {timeout:g} s; narrow the path or glob")
            if outcome.code not in (0, 1):
                return None
        alias = self._commands.alias
        return {"matches": [alias.hide(line) for line in found], "note": "; ".join(notes)}


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
