"""The disk under a simulated process: what it writes is real, and what it did not wait for may be gone after a power cut.

The functions of `os` that change files are replaced while the block lasts. `fsync` is a seam, and costs nothing; a process that
was killed changes nothing any more, whatever its `finally` blocks try. Of what was written and not fsynced, a power cut leaves
the beginning, or nothing; of a rename, the old file or the new one, empty where its bytes were not waited for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.scheduler import Crash, Scheduler

CHANGES = (
    "unlink",
    "remove",
    "rename",
    "replace",
    "mkdir",
    "rmdir",
    "link",
    "symlink",
    "chmod",
    "ftruncate",
    "write",
    "pwrite",
    "utime",
)


@dataclass(slots=True)
class Unsynced:
    """What a machine has not on its disk yet. `tails`: file to the length that is safe; `renames`: what stood there before;
    `safe`: files that were waited for and have not their name yet."""

    tails: dict[str, int] = field(default_factory=dict)
    renames: dict[str, bytes | None] = field(default_factory=dict)
    safe: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Disk:
    """`mine()`: what the machine of the process that runs has not on its disk yet."""

    scheduler: Scheduler
    mine: Callable[[], Unsynced | None]
    real: dict[str, Callable[..., Any]] = field(default_factory=dict)

    @contextlib.contextmanager
    def laid(self) -> Iterator[None]:
        """Be the disk while the block lasts."""
        self.real = {name: getattr(os, name) for name in (*CHANGES, "open", "fsync", "fdatasync")}
        try:
            for name in CHANGES:
                setattr(os, name, self._alive(self.real[name]))
            laid: dict[str, Callable[..., Any]] = {
                "pwrite": self._written("pwrite"),
                "write": self._written("write"),
                "open": self._opened,
            }
            laid |= {"replace": self._replaced, "rename": self._replaced, "unlink": self._unlinked}
            laid |= {"remove": self._unlinked, "fsync": self._fsync, "fdatasync": self._fsync}
            for name, function in laid.items():
                setattr(os, name, function)
            yield
        finally:
            for name, function in self.real.items():
                setattr(os, name, function)

    def _refuse(self) -> None:
        task = self.scheduler.current
        if task is not None and task.dying:
            raise Crash

    def _alive(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self._refuse()
            return function(*args, **named)

        return call

    def _opened(self, path: Any, flags: int, *args: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._refuse()
        handle: int = self.real["open"](path, flags, *args, **named)
        return handle

    def _written(self, name: str) -> Callable[..., int]:
        def call(handle: int, data: Any, *args: Any) -> int:
            self._refuse()
            mine = self.mine()
            if mine is not None:
                path = os.readlink(f"/proc/self/fd/{handle}")
                if path.startswith("/") and "/locks/" not in path:  # what a lock's file says is a courtesy
                    mine.safe.discard(path)
                    mine.tails.setdefault(path, os.fstat(handle).st_size)
            done: int = self.real[name](handle, data, *args)
            return done

        return call

    def _replaced(self, old: Any, new: Any, **named: Any) -> None:
        self._refuse()
        mine, source, target = self.mine(), os.path.abspath(os.fspath(old)), os.path.abspath(os.fspath(new))
        if mine is not None and _is_kept(target) and os.path.isfile(source):
            before = None
            if os.path.exists(target):
                with open(target, "rb") as file:
                    before = file.read()
            mine.renames.setdefault(target, before)
            length = mine.tails.pop(source, None)
            if length is None and source not in mine.safe and os.path.basename(source).startswith("."):
                length = 0  # a temporary file: what a buffer wrote nobody sees here, and it was not waited for
            mine.tails.pop(target, None)
            if length is not None:
                mine.tails[target] = length
            mine.safe.discard(source)
        self.real["replace"](old, new, **named)

    def _unlinked(self, path: Any, **named: Any) -> None:
        self._refuse()
        mine, target = self.mine(), os.fspath(path)
        if mine is not None and "dir_fd" not in named and _is_kept(target) and os.path.isfile(target):
            with open(target, "rb") as file:
                mine.renames.setdefault(target, file.read())
        self.real["unlink"](path, **named)

    def _fsync(self, handle: int) -> None:
        self._refuse()
        if self.scheduler.current is None:
            return
        path = os.readlink(f"/proc/self/fd/{handle}")
        self.scheduler.seam("append" if path.endswith(".jsonl") else "fsync", _shown(path))
        mine = self.mine()
        if mine is None:
            return
        if os.path.isdir(path):
            for name in [name for name in mine.renames if os.path.dirname(name) == path]:
                del mine.renames[name]
        mine.tails.pop(path, None)
        mine.safe.add(path)

    def cut(self, mine: Unsynced) -> None:
        """The power is cut: lose what was not waited for."""
        rng = self.scheduler.rng
        for path, safe in mine.tails.items():  # as they were written: temporary names are random
            if os.path.isfile(path) and (length := os.path.getsize(path)) > safe and rng.random() < 0.7:
                kept = rng.randint(safe, length)
                self.scheduler.tell(f"of a file in {_shown(path)} {length - kept} bytes are lost")
                os.truncate(path, kept)
        for path, before in mine.renames.items():
            if rng.random() < 0.5:
                self.scheduler.tell(f"a file in {_shown(path)} is what it was")
                if before is None:
                    with contextlib.suppress(FileNotFoundError):
                        self.real["unlink"](path)
                else:
                    with open(path, "wb") as file:
                        file.write(before)
        mine.tails.clear()
        mine.renames.clear()
        mine.safe.clear()


def _shown(path: str) -> str:
    return os.path.basename(os.path.dirname(path)).partition("-")[
        0
    ]  # what follows may be a digest of the folder's name


def _is_kept(path: str) -> bool:
    """Return whether it is something that the runner keeps: not a workspace, nor a temporary file."""
    *folders, name = path.split("/")
    return not {"work", "check"}.intersection(folders) and not name.startswith(".")
