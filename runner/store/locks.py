"""Who works on what, on this machine: `flock` on a file of the clone's, which the system lets go when its holder dies.

Also the locks that git leaves behind when it is killed: whoever holds the protocol's lock may take away those that are
open in no process (design §6, dead locks).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from runner.errors import HeldError, UsageError
from runner.store.surroundings import Surroundings

STALE_AFTER = 60.0  # seconds, where nobody can be asked who has a file open


@contextlib.contextmanager
def hold(path: Path, who: Surroundings, *, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock at `path` while the block runs; its file says who has it.

    Raises:
        HeldError: another process holds it, still after `wait` seconds; the message names it.
        UsageError: the clone cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(
            f"the repository cannot be written: {error.strerror}", str(path.parent), "use a clone of your own"
        ) from error
    try:
        until = who.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if who.monotonic() >= until:
                    raise HeldError(
                        f"{what} is held by another runner: {_holder(path)}",
                        str(path),
                        "wait for it, or stop it; its work is not lost",
                    ) from error
                who.sleep(0.02)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": who.pid, "host": who.host, "since": who.timestamp()}).encode() + b"\n", 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_bytes())
        return f"process {told['pid']} on {told['host']}, since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has only just begun"


def is_held(path: Path) -> str | None:
    """Return who holds the lock at `path` now, or None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(path)
    finally:
        os.close(handle)
    return None


def is_dead(lock: Path, now: float) -> bool:
    """Return whether a lock file of git's has no owner any more.

    `git commit` closes its index lock while the editor is open, so a living git that stands in the same work tree counts as
    an owner too.
    """
    try:
        age = now - lock.stat().st_mtime
    except OSError:
        return False
    if not Path("/proc/self/fd").is_dir():
        return age > STALE_AFTER
    real = os.path.realpath(lock)
    tree = lock.parent
    with contextlib.suppress(OSError):
        tree = Path((lock.parent / "gitdir").read_text().strip()).parent
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(handle) == real:
                        return False
            name = (process / "comm").read_text().strip()
            if name.startswith("git") and Path(os.readlink(process / "cwd")).is_relative_to(tree) and age < 24 * 3600:
                return False
        except OSError:  # it ended, or it is another user's: then its age decides
            if process.exists() and not os.access(process / "fd", os.R_OK) and age < STALE_AFTER:
                return False
    return True


def remove_dead(lock: Path, who: Surroundings) -> bool:
    """Take away a git lock that has no owner, and say so; return whether there was one."""
    if not lock.exists() or not is_dead(lock, who.now()):
        return False
    with contextlib.suppress(FileNotFoundError):
        lock.unlink()
        who.say(f"took away a lock that a git had left when it died: {lock}")
        return True
    return False
