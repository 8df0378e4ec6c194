"""Commands run in bubblewrap: a file system, a process table and a network of their own.

A command sees the system's programs read-only, the toolchains it is given, and the folders that it names (`mounts`); HOME, /tmp,
/run and /var/tmp are empty and its own; nothing else of the machine is there: no agent's or docker's socket, no
credentials, no other process. It has no capabilities, and it ends with the runner whatever ends that. A command has no key of the
kernel's keyrings, no user namespace of its own (unless asked for), and not the system calls that a filter refuses (`seccomp`).

A fork bomb is bounded by RLIMIT_NPROC, which the kernel counts per user namespace from Linux 5.14 on (before: all
processes of the user's). The kernel exempts root from it: where the runner is root, the pids limit of the container or
service around it is what bounds one. `Limits` bound a process's memory, its time on the processors, its files and /tmp; what all
processes of a command use together is bounded only where systemd makes a scope (`scope_of`). With `network`, the runner answers on the
sandbox's loopback (`network`); the machine's own network is never there.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from runner.errors import SandboxError
from runner.sandbox import mounts, network, terminal
from runner.sandbox.process import (
    Command,
    CommandOutcome,
    Group,
    Limits,
    Sandbox,
    Stdio,
    asked,
    descendants,
    has_killed,
    last_line,
    limited_by,
    not_started,
    open_events,
    processes,
    program,
    scope_environment,
    scope_of,
    started,
)
from runner.sandbox.seccomp import filter_for

MOST_PROCESSES = 4096
_SETSID = "/usr/bin/setsid"
STARTS_WITHIN = 60.0  # seconds; signals wait for it, since an unknown process cannot be ended

COPIED = 256 * 1024  # bytes; each mount makes bwrap read the whole table of mounts again, a copy costs next to nothing
FEW = 8  # files of a folder that are copied
_FACTS = 50  # that are remembered

_MACHINE = os.uname().machine if sys.maxsize > 2**32 else ""  # the kernel's; none where this userland is a 32-bit one
_KEYCTL = {"x86_64": 250, "aarch64": 219}  # the system call's number
_JOIN_SESSION_KEYRING = 1  # linux/keyctl.h


_FORBIDS = (  # settings of the kernel below /proc/sys that keep user namespaces from bwrap: name, value, one that allows them
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu since 23.10
    ("kernel/unprivileged_userns_clone", "0", "1"),  # Debian's kernels
    ("user/max_user_namespaces", "0", "15000"),
)


def remedy(sysctls: Path) -> str:
    """Return what to do where bubblewrap does not work. `sysctls`: /proc/sys."""
    if sys.platform != "linux":
        return "run them in a container, by podman or docker: `executor: container` (docs/environments.md)"
    if shutil.which("bwrap") is None:
        return "install bubblewrap (`apt-get install bubblewrap`, `dnf install bubblewrap`)"
    for name, forbids, allows in _FORBIDS:
        with suppress(OSError):
            if (sysctls / name).read_text().strip() == forbids:
                setting = name.replace("/", ".")
                return f"{setting} is {forbids}, which forbids user namespaces: `sudo sysctl -w {setting}={allows}` allows them"
    return "bubblewrap is installed; a container that runs this has to allow user namespaces"


class Bubblewrap(Sandbox):
    """Runs commands in bubblewrap; `toolchains` are folders bound read-only, where they exist.

    `user_namespaces`: whether commands may make some, as browsers do for sandboxes of their own.
    """

    def __init__(
        self, toolchains: tuple[Path, ...] = (), *, user_namespaces: bool = False, memory: Path | None = None
    ) -> None:
        """`memory`: the file that says what worked when it was tried by an earlier process."""
        self.toolchains, self.user_namespaces, self.memory = toolchains, user_namespaces, memory
        self._bwrap = shutil.which("bwrap")
        self.name = "sandbox+user-namespaces" if user_namespaces else "sandbox"

    def attach(self, command: Command) -> CommandOutcome:
        """Run `command` at a terminal of its own; see `Sandbox.attach`.

        bwrap starts it in a session without a terminal, and setsid(1) makes one that the new terminal controls.

        Raises:
            SandboxError: setsid is not installed, or the command was not started.
        """
        if not Path(_SETSID).exists():
            raise SandboxError("a shell in the sandbox needs setsid(1)", where=_SETSID, hint="install util-linux")
        argv = (_SETSID, "-c", "--", "/usr/bin/env", "--", *command.argv)
        return terminal.attach(self._spawn, dataclasses.replace(command, argv=argv))

    def check(self) -> str | None:
        """Return None where bubblewrap works here, else why not; see `Sandbox.check`."""
        if sys.platform != "linux":
            return "bubblewrap is for Linux"
        fact = ("works", *self.toolchains, self.user_namespaces)
        if self._facts.holds(*fact):
            return None
        try:
            outcome = self.run(
                Command(("true",), Path("/usr"), {"PATH": "/usr/bin:/bin"}, 20, readable=(Path("/usr"),))
            )
        except SandboxError as error:
            why = error.what
        else:
            why = "" if outcome.ok else f"bubblewrap cannot run `true`: {last_line(outcome.tail)}"
        if not why:
            self._facts.note(*fact)
        return why or None

    @cached_property
    def _facts(self) -> _Facts:
        return _Facts(self.memory, self._bwrap)

    @cached_property
    def _can_disable_userns(self) -> bool:
        """Whether this bwrap can forbid user namespaces here: from 0.8 on, by a sysctl that has to be writable."""
        fact, bwrap = "--disable-userns", str(self._bwrap)
        try:
            if os.statvfs("/proc/sys/user").f_flag & os.ST_RDONLY:
                return False  # in a container, such as Docker's
            if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
                return False  # there are none; root has a sandbox without
            if os.stat(bwrap).st_mode & stat.S_ISUID:
                return False  # it refuses the option then
            if self._facts.holds(fact):
                return True
        except OSError:
            return False
        if b"--disable-userns" not in asked((bwrap, "--help"), STARTS_WITHIN, env={})[1]:
            return False
        self._facts.note(fact)
        return True

    def _spawn(self, command: Command, stdio: Stdio) -> Group:
        bwrap, argv = self._bwrap, program(command)
        bounds = self.limits._replace(processes=self.limits.processes or MOST_PROCESSES)
        limits = limited_by([*bounds.options(), "--core=0:0"], asked=self.limits != Limits())
        if bwrap is None:
            raise SandboxError("bubblewrap (bwrap) is not installed", where="PATH", hint="install bubblewrap")
        # By descriptor: an argument can be read by every user of the machine, and environment variables are secrets.
        # Nor may they be bwrap's own environment: LD_PRELOAD would be obeyed outside the sandbox.
        options, copied = os.memfd_create("options"), list[int]()
        scope = scope_of(self.limits)
        report, status = os.pipe()
        go = _gate(copied) if command.network else None
        try:
            with open(options, "wb", closefd=False) as file:
                file.write(b"".join(os.fsencode(option) + b"\0" for option in self._options(command, copied)))
            os.lseek(options, 0, os.SEEK_SET)
            process = _beside_keyring(
                lambda: started(
                    (*scope, bwrap, "--args", str(options), "--json-status-fd", str(status), "--", *limits, *argv),
                    stdio,
                    cwd="/",
                    env=scope_environment() if scope else {},
                    pass_fds=(options, status, *copied),
                )
            )
        except OSError as error:
            _close(report, go)
            raise not_started(command, error) from error
        except SandboxError:
            _close(report, go)
            raise
        finally:
            _close(options, status, *copied)
        return _BubblewrapGroup(process, report, command.network, go, is_bounded=bool(scope), facts=self._facts)

    def _options(self, command: Command, copied: list[int]) -> Iterator[str]:
        """Yield bwrap's options; `copied` gets the files that they name by descriptor, for the caller to close."""
        yield from ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
        if not self.user_namespaces and self._can_disable_userns:
            yield from ("--unshare-user", "--disable-userns")
        if (calls := filter_for(_MACHINE, user_namespaces=self.user_namespaces)) is not None:
            copied.append(os.memfd_create("seccomp"))
            os.pwrite(copied[-1], calls, 0)
            yield from ("--seccomp", str(copied[-1]))
        if command.network:  # `_gate` made it: nothing of the command runs before the proxy listens
            yield from ("--block-fd", str(copied[0]))
        for name in mounts.SYSTEM:
            if os.path.islink(name):
                yield from ("--symlink", os.readlink(name), name)
            elif os.path.exists(name):
                yield from ("--ro-bind", name, name)
        for name, status in mounts.of_etc():
            yield from _copies(name, status, copied) or ("--ro-bind", os.path.realpath(name), name)
        # What of /proc is the machine's and not a process's is read-only; root does not see what no other user may read.
        yield from ("--proc", "/proc", "--dev", "/dev", "--ro-bind", "/proc/sys", "/proc/sys")
        for entry, is_secret in mounts.entries_of_proc():
            yield from ("--ro-bind-try", "/dev/null" if is_secret else entry, entry)
        for folder in ("/tmp", "/run", "/var/tmp", str(mounts.HOME)):
            yield from (*(("--size", str(self.limits.disk)) if self.limits.disk else ()), "--tmpfs", folder)
        for is_writable, path, there in mounts.binds(command, self.place, self.toolchains):
            yield from ("--bind" if is_writable else "--ro-bind", str(path), str(there))
        for link, target in command.links:
            if not any(self.place.inside(path).is_relative_to(link) for path in (*command.writable, *command.readable)):
                yield from ("--symlink", target, link)
        yield from ("--remount-ro", "/", "--chdir", str(self.place.inside(command.cwd)))
        for name, value in (network.with_proxy(command.env) if command.network else command.env).items():
            if name != "HOME":
                yield from ("--setenv", name, value)
        yield from ("--setenv", "HOME", str(self.place.inside(mounts.home_of(command))))


class _BubblewrapGroup(Group):
    """bwrap, and the process table inside, whose first process is bwrap's child: when that ends, all of it has."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        report: int,
        reached: network.Network | None,
        go: int | None,
        *,
        is_bounded: bool,
        facts: _Facts,
    ) -> None:
        """`go`: the end of a pipe to which one byte is written when the network is there; `is_bounded`: by a cgroup of its own."""
        self.process, self._report, self._said = process, report, b""
        self._facts = facts
        self._events: int | None = None
        self._first: int | None = None
        self._handle: int | None = None
        self._was_ended = False
        try:
            # {"child-pid": 4711, …} is written as soon as there is one; at the end of the file there never was.
            poll = select.poll()
            poll.register(report, select.POLLIN)
            until = time.monotonic() + STARTS_WITHIN
            while b"}" not in self._said:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    raise SandboxError(
                        f"bubblewrap started nothing within {STARTS_WITHIN:g} s",
                        where="executor: sandbox",
                        hint="check whether a folder that it binds hangs, such as a network folder; nothing was run",
                    )
                if not (data := os.read(report, 4096)):
                    break
                self._said += data
            if b"}" in self._said:
                self._first = int(self._said.partition(b'"child-pid":')[2].split(b",")[0].strip(b" }\n"))
                with suppress(ProcessLookupError):
                    self._handle = os.pidfd_open(self._first)
                self._events = open_events(self._first) if is_bounded else None
                if self._first and reached is not None and go is not None:
                    self.proxy = network.Proxy(reached, self._first)
                    os.write(go, b".")
        except BaseException:
            self.send(signal.SIGKILL)  # before its pipe ends, which lets the command start
            if self.proxy:
                self.proxy.close()
            process.wait()
            _close(report, self._handle, self._events)
            raise
        finally:
            _close(go)

    def remains(self) -> bool:
        if self.process.poll() is None:
            return True
        if self._handle is None:
            return False
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return not poll.poll(1000)  # bwrap is gone, so the kernel is ending the processes inside

    def send(self, number: signal.Signals) -> None:
        self._was_ended = True
        if number == signal.SIGKILL or self._first is None:
            self.process.kill()
            if self._handle is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, number)
            return
        # To those inside alone: bwrap would die of it at once and take them along without their time of grace.
        for pid in descendants([self._first], processes()) - {self._first}:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def release(self, said: bytes) -> None:
        if self._events is not None:
            self.out_of_memory = self.process.returncode != 0 and has_killed(self._events)
            os.close(self._events)
        with open(self._report, "rb") as report:
            ended = b'"exit-code"' in self._said + report.read()
        if self._handle is not None:
            os.close(self._handle)
            with suppress(ChildProcessError):  # ours only while a host command made us adopt orphans
                os.waitpid(self._first or 0, os.WNOHANG)
        if not ended and not self._was_ended and self.process.returncode == 1:
            self._facts.forget()
            raise SandboxError(
                f"bubblewrap could not make the sandbox: {last_line(said)}",
                where="executor: sandbox",
                hint="check that the file that it names exists; `runner doctor` shows whether bubblewrap works at all",
            )


def _gate(copied: list[int]) -> int:
    """Make a pipe that a command waits for; return the end that lets it go, and have the caller close the other with `copied`."""
    held, go = os.pipe()
    copied.append(held)
    return go


def _close(*handles: int | None) -> None:
    for handle in handles:
        if handle is not None:
            os.close(handle)


# --- what was tried ----------------------------------------------------------------------------------------------------


class _Facts:
    """What held when it was tried by this process or an earlier one, with this bwrap, on this boot of the machine, in this container.

    Nothing is known where the program was replaced, or a setting of the kernel by which it would no longer work. `memory`: the file
    of earlier processes, a digest a line.
    """

    def __init__(self, memory: Path | None, bwrap: str | None) -> None:
        self._memory, self._machine = memory, [str(part) for part in (bwrap, os.geteuid(), *os.uname())]
        for name in ("self/ns/user", "self/ns/mnt"):
            with suppress(OSError):
                self._machine.append(os.readlink(f"/proc/{name}"))
        for name in ("kernel/random/boot_id", *(name for name, *_ in _FORBIDS)):
            with suppress(OSError):
                self._machine.append(Path(f"/proc/sys/{name}").read_text())
        with suppress(OSError):
            status = os.stat(str(bwrap))
            self._machine += map(
                str, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
            )
        self._known = self._noted()

    def _noted(self) -> list[str]:
        try:
            return self._memory.read_text("ascii").split() if self._memory else []
        except (OSError, ValueError):
            return []

    def _digest(self, fact: tuple[object, ...]) -> str:
        told = "\0".join([*map(str, fact), *self._machine])
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()

    def holds(self, *fact: object) -> bool:
        """Return whether a fact is known to hold."""
        return self._digest(fact) in self._known

    def note(self, *fact: object) -> None:
        """Note a fact; where that cannot be written, the next process tries again."""
        self._known.append(self._digest(fact))
        if self._memory is None:
            return
        made = self._memory.with_name(f"{self._memory.name}.{os.getpid()}")
        with suppress(OSError):
            self._memory.parent.mkdir(0o700, parents=True, exist_ok=True)
            made.write_text("\n".join([*self._noted()[1 - _FACTS :], self._known[-1]]) + "\n", "ascii")
            os.replace(made, self._memory)

    def forget(self) -> None:
        """Forget all facts: a sandbox could not be made."""
        self._known.clear()
        if self._memory is not None:
            with suppress(OSError):
                self._memory.unlink()


def _beside_keyring(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Return the process that `start` starts with a new, empty session keyring, in a thread that lives as long as this process.

    bwrap ends with the thread that started it. A keyring is a thread's, and its children have it: a `preexec_fn` that made one in
    the child would have Python copy the tables of all its memory for each command.

    Raises:
        OSError: `start` does. SandboxError: the kernel gave no keyring.
    """
    answer = SimpleQueue[subprocess.Popen[bytes] | Exception]()
    _starter(os.getpid()).put((start, answer))
    found = answer.get()
    if isinstance(found, Exception):
        raise found
    return found


@cache
def _starter(pid: int) -> SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], SimpleQueue[Any]]]:
    """Start the thread of `_beside_keyring` in this process, `pid`; return what it takes its work from."""
    asked = SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], SimpleQueue[Any]]]()

    def work() -> None:
        while True:
            start, answer = asked.get()
            try:
                _leave_keyring()
                answer.put(start())
            except Exception as error:
                answer.put(error)

    threading.Thread(target=work, name="bubblewrap", daemon=True).start()
    return asked


def _leave_keyring() -> None:
    """Give this thread a new, empty session keyring instead of ours; nothing happens where the call's number is not known.

    Besides the filter, which keeps commands from asking: the kernel itself looks for keys there, for a file system, say.

    Raises:
        SandboxError: the kernel gives none.
    """
    if (number := _KEYCTL.get(_MACHINE)) is None:
        return
    import ctypes  # here, because most uses of this package never come by

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    made = call(ctypes.c_long(number), ctypes.c_long(_JOIN_SESSION_KEYRING), ctypes.c_void_p(None))
    if made == -1 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):  # no keys, or out of reach
        raise SandboxError(
            "the command was not started: the kernel gave it no session keyring of its own",
            where="executor: sandbox",
            hint="look at /proc/key-users: the user may have reached the limit in /proc/sys/kernel/keys/maxkeys",
        )


def _copies(path: str, status: os.stat_result, copied: list[int]) -> list[str]:
    """Return the options by which bwrap copies a small file, or a folder of a few; none where it has to bind what is there.

    `copied` gets the files that they name by descriptor.
    """
    found, files = list[str](), list[str]()
    with suppress(OSError):
        if _is_small(status):
            files.append(path)
        elif stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                inner = list(itertools.islice(entries, FEW + 1))
            files += [one.path for one in inner if not one.is_symlink() and _is_small(one.stat())]
            links = [one.path for one in inner if one.is_symlink()]
            if len(inner) > FEW or len(files) + len(links) < len(inner):
                return []
            found += ["--dir", path, *(word for one in links for word in ("--symlink", os.readlink(one), one))]
        for file in files:
            copied.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
            found += ["--file", str(copied[-1]), file]
        return found
    return []


def _is_small(status: os.stat_result) -> bool:
    """Return whether it is a small file that every user may read, and that is no program: what a copy of it is, too."""
    mode = status.st_mode
    return stat.S_ISREG(mode) and status.st_size <= COPIED and bool(mode & stat.S_IROTH) and not mode & 0o111
