"""Loose objects, written as `git hash-object -w` writes them: as durable, with less waiting.

git waits for the disk once for each object. Here each is sent to it as soon as it is written, and they are waited for together
(`settle`), before anything can name or read one: only then does an object get its name, so a power cut leaves it whole or not
at all. The disk is asked as `core.fsync=loose-object` with `core.fsyncMethod=fsync` asks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import zlib
from pathlib import Path
from queue import SimpleQueue

from runner.git.process import GitError, git_error

_LEVEL = 1  # git's own for loose objects: they are packed later
_THREADS = 4  # that wait for the disk, whose journal serves them all at once; more bring nothing


class Loose:
    """Writes into an `objects` folder, for one thread; those that wait for the disk are its own.

    `algorithm`: hashlib's name of the object format; `shared`: core.sharedRepository, if it is set.
    """

    def __init__(self, objects: Path, algorithm: str, shared: str | None) -> None:
        self._objects, self._algorithm = os.fspath(objects), algorithm
        self._bits, self._exactly = _shared(shared)
        self._begun: dict[str, str] = {}  # the temporary name of each object that has none of its own yet
        self._begin()

    def _begin(self) -> None:
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._answers: SimpleQueue[OSError | None] = SimpleQueue()
        self._threads = 0

    def write(self, kind: str, data: bytes) -> str:
        """Start to write an object and return its id; `settle` completes it.

        Raises:
            GitError: it cannot be written; no unsettled object is kept.
        """
        header = b"%s %d\0" % (kind.encode(), len(data))
        digest = hashlib.new(self._algorithm, header)
        digest.update(data)
        oid = digest.hexdigest()
        folder, name = f"{self._objects}/{oid[:2]}", self._name(oid)
        if oid in self._begun or _is_there(name):
            return oid
        temporary = f"{folder}/tmp_obj_{os.urandom(6).hex()}"  # by this name `git gc` knows what a crash left behind
        handle = -1
        try:
            self._begun[oid] = temporary
            handle = self._open(folder, temporary)
            packer = zlib.compressobj(_LEVEL)
            rest = memoryview(packer.compress(header) + packer.compress(data) + packer.flush())
            while rest:
                rest = rest[os.write(handle, rest) :]
            if self._bits:
                self._share(handle, 0o444)
            if self._threads < min(_THREADS, len(self._begun)):
                self._threads += 1
                threading.Thread(target=_wait, args=(self._asked, self._answers), daemon=True).start()
            self._asked.put(handle)
        except OSError as error:
            if handle >= 0:
                os.close(handle)
            self.forget()
            raise _failed(error, name) from error
        except BaseException:  # Ctrl-C
            self.forget()
            raise
        return oid

    def settle(self) -> None:
        """Wait until all started objects are on the disk, and rename them to their ids.

        Raises:
            GitError: the disk refused; no unsettled object is kept.
        """
        if not self._begun:
            return
        try:
            errors = [error for error in (self._answers.get() for _ in self._begun) if error is not None]
            if errors:
                raise errors[0]
            for oid, temporary in self._begun.items():
                os.rename(temporary, self._name(oid))
            self._begun = {}
        except OSError as error:
            self.forget()
            raise _failed(error, self._objects) from error
        except BaseException:  # Ctrl-C: how many answers were heard is not known any more
            self.forget()
            raise

    def forget(self) -> None:
        """Remove unsettled objects, and let the threads end. Nothing is waited for: that could be for ever."""
        for temporary in self._begun.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        self._begun = {}
        for _ in range(self._threads):
            self._asked.put(None)
        self._begin()

    def _name(self, oid: str) -> str:
        return f"{self._objects}/{oid[:2]}/{oid[2:]}"

    def _open(self, folder: str, temporary: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(temporary, flags, 0o444)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
                if self._bits:
                    self._share(folder, 0o777)
            return os.open(temporary, flags, 0o444)

    def _share(self, at: int | str, most: int) -> None:
        """Let those read a file (`most`: 0o444), and use a folder (0o777), whom the repository is shared with."""
        bits = (self._bits | (self._bits & 0o444) >> 2) & most
        bits |= stat.S_ISGID if most == 0o777 else 0
        os.chmod(at, bits if self._exactly else stat.S_IMODE(os.stat(at).st_mode) | bits)


def _wait(asked: SimpleQueue[int | None], answers: SimpleQueue[OSError | None]) -> None:
    """Wait for the disk, a file at a time, and close it, until there is to be an end."""
    while (handle := asked.get()) is not None:
        error = None
        try:
            os.fsync(handle)
        except OSError as told:
            error = told
        try:
            os.close(handle)
        except OSError as told:
            error = error or told
        answers.put(error)


def _is_there(name: str) -> bool:
    """Return whether the object is there, and have it count as new, so that nothing prunes it. An empty file is a power cut's."""
    try:
        if os.stat(name).st_size == 0:
            return False
        with contextlib.suppress(PermissionError):
            os.utime(name)
        return True
    except OSError:  # whatever it is, writing it says so
        return False


def _shared(value: str | None) -> tuple[int, bool]:
    """Return (permissions, whether exactly those) for core.sharedRepository; 0: as the person's umask has it."""
    told = (value or "umask").lower()
    if told in ("group", "true", "yes", "on", "1"):
        return 0o660, False
    if told in ("all", "world", "everybody", "2"):
        return 0o664, False
    if told[0] == "0" and told.strip("01234567") == "" and told != "0":
        return int(told, 8) & 0o666, True
    return 0, False


def _failed(error: OSError, where: str) -> GitError:
    return git_error(["git", "hash-object"], 128, f"fatal: {where}: {error.strerror}")
