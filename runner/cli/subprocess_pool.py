"""Turns of a fleet as processes of their own: one that is killed, or takes the memory, takes no other with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import IO

from runner import signals
from runner.app.fleet import Ended, Ready
from runner.values import dataclass

ROOT = str(Path(__file__).parents[2])
MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from runner.cli.main import main; main()"
TICK = 0.05  # seconds between two looks at who is done
PATIENCE = 15.0  # seconds that a turn has to end what it started, once it is told to
SAID = 65_536  # bytes of what a turn said that are read


@dataclass(slots=True)
class Turns:
    """`argv`: what comes after `runner run ID`; `folder`: where the project is."""

    folder: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    _at_work: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = field(default_factory=dict)

    def start(self, one: Ready) -> None:
        """Start a turn in its own session, so that Ctrl-C at the terminal reaches it only through us."""
        said = tempfile.TemporaryFile()  # noqa: SIM115 no pipe: it goes on to its end where we are killed
        # -P and another folder: nothing that lies in the project is imported. A turn is of the very code that we are.
        argv = [sys.executable, "-P", "-c", MAIN, ROOT, "-C", self.folder, "run", one.protocol, *self.argv]
        with signals.held():
            process = subprocess.Popen(
                argv,
                cwd="/",
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            self._at_work[one.protocol] = (process, said)

    def next(self, timeout: float) -> Ended | None:
        """Return a turn that ended; None where none does within so many seconds."""
        until = time.monotonic() + timeout
        while True:
            for protocol, (process, said) in self._at_work.items():
                if process.poll() is not None:
                    del self._at_work[protocol]
                    return Ended(protocol, _code(process.returncode), _words(said))
            if time.monotonic() >= until:
                return None
            time.sleep(TICK)

    def end(self) -> None:
        """End the running turns: SIGTERM, then SIGKILL to those that ignore it, with their descendants."""
        for process, _ in self._at_work.values():
            for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process receives it too
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
        until = time.monotonic() + PATIENCE
        for process, said in self._at_work.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            said.close()
        self._at_work.clear()


@contextlib.contextmanager
def turns(folder: str, argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[Turns]:
    """Run turns while the block lasts; end the running ones when it ends.

    A second Ctrl-C does not interrupt that: only a turn itself can end the processes that it started.
    """
    found = Turns(folder, argv, environ)
    with signals.once():
        try:
            yield found
        finally:
            try:
                found.end()
            finally:
                found.end()  # the first Ctrl-C may come while a failed fleet ends its turns


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _words(said: IO[bytes]) -> str:
    with said:
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - SAID))
        return said.read().decode("utf-8", "replace").strip()
