"""The protocol that a command started and whose id it has not printed yet, so that the same command, typed again, finishes that.

A note for each request, locked by the process that makes it: it names the protocol before the first ref moves, and goes once its id
was printed. The note of a process that lives belongs to that one; another with the same request makes a protocol of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from runner.protocol import ids


class Note:
    """`told`: the protocol (id) and the commit of its branch that an earlier process of the same request had begun to publish."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1
        self.told: tuple[str, str] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        while self._handle < 0:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return  # another process does the same at this moment
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                os.close(handle)  # its process ended between the two
                continue
            self._handle = handle
        protocol, _, rest = os.read(self._handle, 4096).decode("utf-8", "replace").partition(" ")
        if ids.is_protocol_id(protocol) and ids.OID.fullmatch(rest.removesuffix("\n")) and rest.endswith("\n"):
            self.told = protocol, rest.removesuffix("\n")

    def write(self, protocol: str, tip: str) -> None:
        """Note what is made; it is on the disk when this returns."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{protocol} {tip}\n".encode(), 0)
            os.fsync(self._handle)

    def remove(self) -> None:
        """Forget it: the command printed its id."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._handle)
            self._handle = -1
