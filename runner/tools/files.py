"""Start and ask the worker: the process in the sandbox that reads and writes the workspace's files during an attempt.

The first call starts it, and the next one after a time-out starts it again. It runs under the runner's interpreter, of which the
sandbox sees the standard library and no packages; it may only write the workspace.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.lines import lines_of
from runner.sandbox import Command, Sandbox, SandboxUnavailableError, Session
from runner.tools.base import ToolError
from runner.tools.json_lines import exchange
from runner.tools.model_text import WorkspaceAlias

WORKER = Path(__file__).with_name("worker.py").resolve()
START = 30.0  # seconds for its start


class FileWorker:
    """A client of the worker; `close` ends the worker."""

    def __init__(self, sandbox: Sandbox, work: Path, alias: WorkspaceAlias) -> None:
        interpreter, needed = interpreter_and_library()
        self._sandbox, self._alias = sandbox, alias
        self._session: Session | None = None
        self._command = Command(
            argv=(str(interpreter), "-I", "-S", "-B", str(WORKER), str(work), *alias.real, alias.name),
            cwd=work,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            writable=(work,),
            readable=(WORKER, *needed),
            links=((alias.name, alias.real[-1]),),
        )

    def ask(self, call: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a call and return its result.

        Raises:
            ToolError: the worker refused it, or it timed out.
        """
        if self._session is None:
            self._start()
        assert self._session is not None
        try:
            answer = exchange(self._session, {"call": call, "arguments": dict(arguments)}, timeout)
        except TimeoutError:
            self.close(0.0)
            raise ToolError(f"no end after {timeout:g} s; ask for less at once") from None
        except BaseException:
            self.close(0.0)
            raise
        if answer is None:
            raise self._death("the worker for files ended")
        if "error" in answer:
            raise ToolError(self._alias.hide(answer["error"]))
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
            hint="look whether the workspace is there and memory is left; `runner doctor` tells whether the sandbox works",
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
