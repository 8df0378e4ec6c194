"""Read, list, write and remove below a folder that a step's commands may write (design §6).

A command can put a link where a folder was, lock a folder, nest folders deeper than a path may be long, or still write while it is
being ended. So the host never uses a path that leads through such a folder: each folder is opened from the one above it, and no
link is followed. Only the way to the root itself, where commands cannot write, may lead through links. Paths are those below
the root, with `/` between names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

LONGEST = 3_800  # bytes of a path in which other programs can still open any name (PATH_MAX is 4,096, NAME_MAX 255)
OURS = 0o700  # the owner's rights to list a folder, enter it and change its content
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TRIES = 5  # to remove a folder that a process which is being ended still writes in


class Folder(NamedTuple):
    """An open folder of a walk; a name that is taken out of `folders` is not looked into. `path` is cut where it `is_deep`."""

    fd: int
    path: str
    entries: list[os.DirEntry[str]]
    folders: list[str]
    is_deep: bool  # its path is longer than `LONGEST`

    def path_of(self, name: str) -> str:
        """Return the path of an entry of this folder."""
        return f"{self.path}/{name}" if self.path else name


def walk(root: Path, *, unlock: bool = True) -> Iterator[Folder]:
    """Give each folder, the outer ones first. `unlock`: open those that their owner locked to the owner; else they are left out.

    Raises:
        OSError: a folder cannot be read, or was moved meanwhile; NotADirectoryError, FileNotFoundError: the root is none.
    """
    return _walk(None, os.fspath(root), unlock=unlock)


def remove(root: Path, path: str = "") -> None:
    """Remove the file or folder at the path, or the root itself. Nothing there is no error.

    Raises:
        OSError: it cannot be removed.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd, name = stack.enter_context(_above(root, path))
        except FileNotFoundError:
            return
        for left in reversed(range(_TRIES)):
            try:
                _remove(fd, name)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ESTALE) or not left:
                    raise


def ensure(root: Path, path: str) -> bool:
    """See that a folder is at the path, which its owner may use; return whether it was made, in place of whatever was there.

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _opened(root, path):
        return False
    remove(root, path)
    with _above(root, path) as (fd, name):
        os.mkdir(name, dir_fd=fd)
    return True


def make(root: Path, path: str) -> bool:
    """Make the folder at the path, and those above it, where nothing is; return whether one is there now."""
    try:
        os.close(_open(root, path, make=True))
    except OSError:
        return False
    return True


def copy(root: Path, path: str, source: Path) -> bool:
    """Copy a file, with its right to be executed, or a link to the path, and make the folders above it; a file there is replaced.

    Return whether it was; not where something else than folders is on the way.

    Raises:
        OSError: it cannot be read or written.
    """
    above = path.rpartition("/")[0]
    if (above and not make(root, above)) or is_folder(root, path):
        return False
    with _above(root, path) as (fd, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
        if source.is_symlink():
            os.symlink(os.readlink(source), name, dir_fd=fd)
            return True
        with open(source, "rb") as data:
            mode = 0o755 if os.fstat(data.fileno()).st_mode & 0o100 else 0o644
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(data, file)
    return True


def is_folder(root: Path, path: str) -> bool:
    """Return whether a folder is at the path; one that its owner locked is open to the owner afterwards."""
    try:
        with _opened(root, path):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def put(root: Path, path: str, folder: Path) -> None:
    """Move a folder to the path, where nothing is.

    Raises:
        OSError: something is there, or a link is on the way.
    """
    with _above(root, path) as (fd, name):
        os.rename(folder, name, dst_dir_fd=fd)


def link(root: Path, path: str, target: Path) -> None:
    """Put a link to `target` at the path, and make the folders above it.

    Raises:
        OSError: something is there, or the way leads through something else than a folder.
    """
    with _above(root, path, make=True) as (fd, name):
        os.symlink(target, name, dir_fd=fd)


def read(root: Path, path: str, most: int) -> bytes | None:
    """Return a file's first `most` bytes; None where no plain file is at the path, or it is locked."""
    try:
        with _above(root, path) as (fd, name), open(os.open(name, _FILE, dir_fd=fd), "rb") as file:
            return file.read(most) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None


def target(root: Path, path: str) -> str | None:
    """Return where the link at the path leads to; None where there is no link."""
    try:
        with _above(root, path) as (fd, name):
            return os.readlink(name, dir_fd=fd)
    except OSError:
        return None


def names(root: Path, path: str) -> list[str]:
    """Return the names in the folder at the path; none where there is no folder."""
    try:
        with _opened(root, path) as fd:
            return os.listdir(fd)
    except (FileNotFoundError, NotADirectoryError):
        return []


def statuses(root: Path, paths: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Give each path at which something is, with its status; quick where paths of one folder follow each other."""
    folder: str | None = None
    fd: int | None = None
    try:
        for path in paths:
            above, _, name = path.rpartition("/")
            if folder != above:
                if fd is not None:
                    os.close(fd)
                folder, fd = above, None
                with contextlib.suppress(OSError):
                    fd = _open(root, above)
            if fd is not None:
                with contextlib.suppress(OSError):
                    yield path, os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        if fd is not None:
            os.close(fd)


def size(root: Path) -> int:
    """Return how many bytes the files have, as far as they can be looked at."""
    total = 0
    with contextlib.suppress(OSError):
        for at in walk(root, unlock=False):
            for entry in at.entries:
                with contextlib.suppress(OSError):
                    total += 0 if entry.name in at.folders else entry.stat(follow_symlinks=False).st_size
    return total


def unlock(entry: os.DirEntry[str], at: Folder) -> None:
    """Let the owner read and write a file that its owner locked."""
    if not entry.is_file(follow_symlinks=False):
        return
    mode = entry.stat(follow_symlinks=False).st_mode
    if mode & 0o600 != 0o600:
        _unlock(at.fd, entry.name, stat.S_IMODE(mode) | 0o600)


# --- folders, opened from the one above ---------------------------------------------------------------------------------


def _walk(
    fd: int | None, name: str, *, unlock: bool, leave: Callable[[int, str], None] | None = None
) -> Iterator[Folder]:
    """Walk from a folder; two are open at a time, however deep it goes. `leave(above, name)`: all of `name` was given."""
    at = _enter(fd, name, unlock=unlock)
    if at is None:
        return
    way: list[
        tuple[str, str, tuple[int, int], list[str]]
    ] = []  # of each folder above: name below it, path, identity, left
    path = ""
    try:
        while True:
            with os.scandir(at) as entries:
                found = list(entries)
            inside = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
            is_deep = len(os.fsencode(path)) > LONGEST
            given = Folder(at, path, found, inside, is_deep)
            yield given
            left = list(given.folders)
            inner = None
            while inner is None:
                while not left:
                    if not way:
                        return
                    below, path, known, left = way.pop()
                    above = os.open("..", _FOLDER, dir_fd=at)
                    os.close(at)
                    at = above
                    if _identity(at) != known:
                        raise OSError(errno.ESTALE, "a folder was moved while it was looked through", below)
                    if leave:
                        leave(at, below)
                below = left.pop()
                inner = _enter(at, below, unlock=unlock)
            way.append((below, path, _identity(at), left))
            os.close(at)
            at = inner
            path = path if len(path) > LONGEST else f"{path}/{below}" if path else below
    finally:
        os.close(at)


def _enter(fd: int | None, name: str, *, unlock: bool) -> int | None:
    """Open a folder; None where it is gone, no folder any more, or locked and to stay so. Of a root (no `fd`) that is an error."""
    try:
        inner = _open_folder(fd, name, unlock=unlock)
    except OSError as error:
        gone = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, *(() if unlock else (errno.EACCES,)))
        if fd is None or error.errno not in gone:
            raise
        return None
    if not unlock and os.geteuid() and not os.fstat(inner).st_mode & 0o111:  # it could be listed, and not left again
        os.close(inner)
        return None
    return inner


def _open_folder(fd: int | None, name: str, *, unlock: bool = True) -> int:
    try:
        inner = os.open(name, _FOLDER, dir_fd=fd)
    except PermissionError:
        if not unlock:
            raise
        _unlock(fd, name, OURS)
        return os.open(name, _FOLDER, dir_fd=fd)
    mode = os.fstat(inner).st_mode
    if unlock and mode & OURS != OURS:
        with contextlib.suppress(PermissionError):  # another user's: what has to be done there says so
            os.fchmod(inner, stat.S_IMODE(mode) | OURS)
    return inner


def _unlock(fd: int | None, name: str, mode: int) -> None:
    """Set the mode of a file or folder; never that of what a link in its place leads to."""
    if not hasattr(os, "O_PATH"):
        os.chmod(name, mode, dir_fd=fd, follow_symlinks=False)
        return
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if not stat.S_ISLNK(os.fstat(handle).st_mode):
            os.chmod(f"/proc/self/fd/{handle}", mode)  # fchmod takes no handle of this kind
    finally:
        os.close(handle)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _parts(path: str) -> list[str]:
    parts = path.split("/") if path else []
    if not {"", ".", ".."}.isdisjoint(parts):
        raise OSError(errno.EINVAL, "the path leads out of its folder", path)
    return parts


def _open(root: Path, path: str, *, make: bool = False) -> int:
    """Open the folder at the path, unlocking the folders on the way; `make` missing ones."""
    at = _open_folder(None, os.fspath(root))
    try:
        for part in _parts(path):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
            inner = _open_folder(at, part)
            os.close(at)
            at = inner
    except BaseException:
        os.close(at)
        raise
    return at


@contextlib.contextmanager
def _opened(root: Path, path: str) -> Iterator[int]:
    fd = _open(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _above(root: Path, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder that the path's last name is in, of the root itself the one that it is in; give that name too."""
    if path:
        _parts(path)
        folder, _, name = path.rpartition("/")
        fd = _open(root, folder, make=make)
    else:
        fd, name = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), root.name
    try:
        yield fd, name
    finally:
        os.close(fd)


def _remove(fd: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=fd)
        return

    def leave(above: int, inner: str) -> None:
        os.rmdir(inner, dir_fd=above)

    for at in _walk(fd, name, unlock=True, leave=leave):
        inside = set(at.folders)
        for entry in at.entries:
            if entry.name not in inside:
                os.unlink(entry.name, dir_fd=at.fd)
    os.rmdir(name, dir_fd=fd)
