"""Who works on what, on this machine: `flock` on a file of the clone's, which the system lets go when its holder dies.

Also the locks that git leaves behind when it is killed: the holder of the protocol's lock may remove those that are
open in no process (design §6, dead locks).

`RequestNote` names the protocol that a command has started to create, so that the same command, typed again, finishes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from runner.errors import HeldError, UsageError
from runner.protocol import ids
from runner.store.environment import Environment, matching

GLANCE = 0.1  # seconds; whoever asks who holds a lock (`is_held`) has it for a moment, and that is no reason to be refused it
STALE_AFTER = 60.0  # seconds, where nobody can be asked who has a file open


@contextlib.contextmanager
def hold(path: Path, env: Environment, *, what: str, wait: float = 0.0) -> Iterator[bool]:
    """Hold the lock at `path` while the block runs; its file says who has it. Gives whether its last holder did not let go
    of it in order: it was killed, perhaps.

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
        until = env.monotonic() + max(wait, GLANCE)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if env.monotonic() >= until:
                    raise HeldError(
                        f"{what} is held by another runner: {_holder(path)}",
                        str(path),
                        "wait for it, or stop it; its work is not lost",
                    ) from error
                env.sleep(0.02)
        was_cut = os.fstat(handle).st_size > 0
        holder = json.dumps({"pid": env.pid, "host": env.host, "since": env.timestamp()}).encode() + b"\n"
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same; who has it is a courtesy
            os.ftruncate(handle, 0)
            os.pwrite(handle, holder, 0)
        try:
            yield was_cut
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        # A program that another thread starts has our descriptor until it is executed: closed here alone, the lock would last so long.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has only just started"


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


def signal_holder(path: Path, env: Environment, number: signal.Signals) -> bool:
    """Send a signal to the process of this machine that holds the lock at `path`; return whether there is one.

    A process id alone may be another container's, or be given anew: where there is /proc, the process has to have the file open.
    """
    if is_held(path) is None:
        return False
    try:
        holder = json.loads(path.read_bytes())
        pid, inode = int(holder["pid"]), path.stat()
        if holder["host"] != env.host or pid == os.getpid():
            return False
        if Path("/proc/self/fd").is_dir() and not any(
            os.path.samestat(open_file.stat(), inode) for open_file in matching(Path(f"/proc/{pid}/fd"), "*")
        ):
            return False
        os.kill(pid, number)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def is_dead(lock: Path, now: float) -> bool:
    """Return whether a lock file of git's has no owner any more.

    git closes some of its locks while it still owns them (`git commit` its index's while the editor is open, `git gc` that of
    packed-refs), so a living git whose folder is in the repository, or whose arguments name it, counts as an owner too. Processes of
    other users cannot be looked into, and need not be: the lock would be theirs. One of theirs is judged by its age. Those of
    another container cannot be seen; the kernel knows what they have open.
    """
    try:
        status = lock.stat()
    except OSError:
        return False
    if _is_written(lock):
        return False
    age = now - status.st_mtime
    is_seen = Path("/proc/self/fd").is_dir()
    if not is_seen or os.geteuid() not in (0, status.st_uid):
        if age <= STALE_AFTER:
            return False
        if not is_seen:
            return True
    real = os.path.realpath(lock)
    folders, ours = _repository(Path(real)), _ancestors()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(handle) == real:
                        return False
            if age < 24 * 3600 and int(process.name) not in ours and _is_git_at(process, folders):
                return False
        except OSError:  # it ended, or it is another user's
            continue
    return os.path.lexists(lock)  # its owner may have ended meanwhile, and taken it away


def _is_written(path: Path) -> bool:
    """Return whether the kernel says that some process, seen from here or not, has a file of ours open for writing."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Not given beside a writer. Who would open it meanwhile (`git commit -p` opens its own again) waits till it is given back, and
        # the kernel tells us so by a signal: one that is ignored, since SIGIO would end us.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # another user's file, or a file system that knows of no leases
        pass
    finally:
        os.close(handle)
    return False


def _ancestors() -> set[int]:
    """Return this process and those that started it: `git runner step` is a git that waits for us."""
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _repository(lock: Path) -> list[Path]:
    """Return the folders that a git which owns the lock may run in: the git directory, and its work tree."""
    at = next((folder for folder in lock.parents if (folder / "HEAD").is_file()), lock.parent)
    with contextlib.suppress(OSError):  # a linked worktree's own
        return [at, Path(os.path.realpath((at / (at / "gitdir").read_text().strip()).parent))]
    return [at.parent if at.name == ".git" else at]


def _is_git_at(process: Path, folders: list[Path]) -> bool:
    if not (process / "comm").read_text().startswith("git"):
        return False
    cwd = Path(os.readlink(process / "cwd"))
    command = (process / "cmdline").read_bytes()
    held_open = any(
        word in command for word in (b"--batch-command", b"--stdin-paths")
    )  # a runner's own: these lock nothing
    named = any(os.fsencode(folder) in command for folder in folders)
    return not held_open and (named or any(cwd.is_relative_to(folder) for folder in folders))


def remove_dead(lock: Path, env: Environment) -> bool:
    """Take away a git lock that has no owner, and say so; return whether there was one."""
    if not lock.exists() or not is_dead(lock, env.now()):
        return False
    with contextlib.suppress(FileNotFoundError):
        lock.unlink()
        env.say(f"removed a lock that a dead git process had left: {lock}")
        return True
    return False


# --- the protocol that a command creates -----------------------------------------------------------------------------


class RequestNote:
    """The note of one request to create a protocol: it names the protocol before the first ref moves, until its id was printed.

    The process that makes the request locks it; another process with the same request at that moment creates its own protocol.
    `told`: the protocol (id) and the tip that an earlier process of the same request started to publish.
    """

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
        """Note the protocol; it is on the disk when this returns."""
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
