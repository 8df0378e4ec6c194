"""A command in a sandbox, its outcome, and its processes: read and fed while they live, and ended together.

One command in, one outcome out, and nothing survives it. The part that is the same wherever a command runs; a `Group` finds and
signals the processes of one place. A sandbox knows nothing of protocols, steps or policy: the caller names the folders, the
environment and the time limit of a command. People choose where commands run, by `runner.sandbox.choose`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self, cast

from runner import signals
from runner.errors import SandboxError
from runner.lines import lines_of, pattern

if TYPE_CHECKING:
    from runner.sandbox.network import Contact, Network, Proxy

PRLIMIT = "/usr/bin/prlimit"
CPU_GRACE = 5  # seconds between SIGXCPU and SIGKILL
# How shells, env and make name a program that they could not start: "sh: 1: foo: not found", "env: 'foo': No such …".
_NOT_STARTED = pattern(
    rb"([\w.+@/-]+)['\"\xe2\x80\x99]*: (?:command not found|not found|No such file or directory|Permission denied)"
)


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run, and all that it gets: nothing else is there for it.

    Raises:
        ValueError: the caller built a command that cannot be: no argv, a NUL, a `cwd` outside the folders given.
    """

    argv: tuple[str, ...]  # run as it is, no shell
    cwd: Path  # absolute; below one of `writable` or `readable`
    env: Mapping[str, str]  # the whole environment, nothing is inherited
    timeout: float | None = None  # seconds, in `Sandbox.run`
    writable: tuple[Path, ...] = ()  # folders bound read-write at the same path
    readable: tuple[Path, ...] = ()  # folders or files bound read-only at the same path
    links: tuple[
        tuple[str, str], ...
    ] = ()  # name and target of links that the sandbox shows besides; the host has none
    network: Network | None = None
    keep: int = 64 * 1024  # bytes of the output's tail that Outcome.tail holds

    def __post_init__(self) -> None:
        paths = (*self.writable, *self.readable)
        if not self.argv or self.keep < 0:
            raise ValueError("a command needs an argv, and keeps no fewer than 0 bytes")
        if not all(path.is_absolute() and ".." not in path.parts for path in (self.cwd, *paths)):
            raise ValueError("a command's paths are absolute and without ..")
        if not any(self.cwd.is_relative_to(path) for path in paths):
            raise ValueError(f"{self.cwd} is below none of the folders that the command gets")
        if any(not name or "=" in name for name in self.env):
            raise ValueError("the name of an environment variable is empty or has a =")
        # Options reach bubblewrap separated by NUL: one inside a value would be an option of the value's making.
        texts = (*self.argv, *self.env, *self.env.values(), *map(str, (self.cwd, *paths)), *chain(*self.links))
        if any("\0" in text for text in texts):
            raise ValueError("a command holds no NUL")


def not_started(command: Command, error: OSError) -> SandboxError:
    """Return the error of a command that the system did not start."""
    hint = "where it is too long, hand the text over in a file"
    return SandboxError(f"the command could not be started: {error.strerror}", where=command.argv[0], hint=hint)


class Place(NamedTuple):
    """What a sandbox shows elsewhere than at its own path. The host can show nothing elsewhere.

    `at`: where commands find a folder that they get, by the folder. `shown`: further read-only files, by their path inside;
    it is shown to commands that get the folder it is in.
    """

    at: Mapping[Path, Path] = {}
    shown: Mapping[Path, Path] = {}

    def inside(self, path: Path) -> Path:
        """Return where commands find a path of the machine."""
        for folder, there in self.at.items():
            if path.is_relative_to(folder):
                return there / path.relative_to(folder)
        return path


class Limits(NamedTuple):
    """The most that each process of a command may use; None: as much as it wants.

    `memory`: bytes of its own data (RLIMIT_DATA); `cpu`: seconds on processors; `processes`: of the user in this sandbox; `disk`:
    bytes of a file, and of each folder of the sandbox that lies in memory.
    """

    memory: int | None = None
    cpu: int | None = None
    processes: int | None = None
    disk: int | None = None

    def options(self) -> list[str]:
        """Return the options of prlimit(1) that set them, as far as the runner itself may."""
        bounds = (
            ("data", resource.RLIMIT_DATA, self.memory, 0),
            ("cpu", resource.RLIMIT_CPU, self.cpu, CPU_GRACE),
            ("nproc", resource.RLIMIT_NPROC, self.processes, 0),
            ("fsize", resource.RLIMIT_FSIZE, self.disk, 0),
        )
        found = []
        for name, kind, most, more in bounds:
            if most is not None:
                hard = resource.getrlimit(kind)[1]
                soft, end = (one if hard == resource.RLIM_INFINITY else min(one, hard) for one in (most, most + more))
                found.append(f"--{name}={soft}:{end}")
        return found


def limited_by(options: list[str], *, asked: bool) -> tuple[str, ...]:
    """Return the prefix that sets limits; none where prlimit is not installed, and nobody asked for them.

    Raises:
        SandboxError: it is not, and somebody did.
    """
    if not options:
        return ()
    if Path(PRLIMIT).exists():
        return (PRLIMIT, *options, "--")
    if asked:
        raise SandboxError("`resources` needs prlimit(1)", where=PRLIMIT, hint="install util-linux, or remove the key")
    return ()


class CommandOutcome(NamedTuple):
    """How a command ended, and what it said."""

    code: int  # exit code; 128+N where signal N ended it; 124 where it ran out of time
    timed_out: bool
    seconds: float
    digest: str  # "sha256:..." of the whole combined stdout and stderr
    size: int  # bytes of output in all
    tail: bytes  # its last `keep` bytes
    out_of_memory: bool = False  # a process of it was killed since all together used more than they may
    network: tuple[Contact, ...] = ()  # the hosts that it asked for, where it has a network

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself, with exit code 0."""
        return self.code == 0 and not self.timed_out


class Image(NamedTuple):
    """A container's image on this machine. `name` has its digest; `env`: its variables; `id`: the engine's own name of it."""

    name: str
    id: str
    env: Mapping[str, str]


def last_line(said: bytes) -> str:
    """Return the last line of what bubblewrap or a container engine said, without its name."""
    lines = lines_of(said.decode(errors="replace").strip())
    return lines[-1].removeprefix("bwrap: ").removeprefix("Error: ") if lines else "it said nothing"


def found_outside(outcome: CommandOutcome, argv: tuple[str, ...], path: str) -> tuple[str, str] | None:
    """Return the program (its name, and where it is on `path`) that a command ended for, since it is not there inside; else None.

    `outcome` is that of `argv` in a sandbox, `path` the person's own PATH. The program may be one that a shell or
    script started: the last lines of the output name it. Exit code 126 or 127 and finding it on `path` decide.
    """
    if outcome.code not in (126, 127):
        return None
    words = " ".join(argv).split()
    named = [name.decode(errors="replace") for name in reversed(_NOT_STARTED.findall(outcome.tail[-2048:]))]
    for name in sorted(named, key=lambda name: name not in words):  # the one that was asked for, else the last one
        if "/" in name and not name.startswith("/"):
            continue  # a path of the workspace's, which is the same inside and outside
        if found := shutil.which(name, path=path):
            return name, found
    return None


def explain(outcome: CommandOutcome, argv: tuple[str, ...], path: str) -> str | None:
    """Say that a program is outside the sandbox but not inside, where that is why the command ended; see `found_outside`."""
    found = found_outside(outcome, argv, path)
    return f"{found[0]} is found outside the sandbox ({found[1]}) but not inside" if found else None


GRACE = 2.0  # seconds between SIGTERM and SIGKILL
LINGER = 0.5  # seconds that an output may stay open after its command is over
TICK = 0.05  # seconds between two looks at whether the command is over
UNKILLABLE = 5.0  # seconds after SIGKILL: a process that is still there hangs in the kernel, and cannot be ended
TIMED_OUT = 124
CHUNK = 64 * 1024


class Process(NamedTuple):
    """A line of the process table (proc(5), /proc/PID/stat)."""

    parent: int
    session: int
    started: int  # clock ticks since boot
    zombie: bool


def process_of(pid: int) -> Process | None:
    """Return the process that has this id; None where it is gone, or where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the name before may hold anything, a ")" too
    return Process(int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in b"ZX")


def processes() -> dict[int, Process]:
    """Return the process table by process id; empty where there is no /proc."""
    names = (path.name for path in Path("/proc").glob("[0-9]*"))
    return {int(name): process for name in names if (process := process_of(int(name))) is not None}


def descendants(roots: Iterable[int], table: dict[int, Process]) -> set[int]:
    """Return `roots` and all that descends from them in `table`."""
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    queue = list(roots)
    while queue:
        if (pid := queue.pop()) not in found:
            found.add(pid)
            queue += children.get(pid, [])
    return found


def end_all(variable: bytes) -> int:
    """End the processes that were started with `variable` in their environment, and their descendants; return their number.

    It ends none where there is no /proc, or where this process is inside: a command that calls the runner, or a person's shell.
    """
    ended: set[int] = set()
    own, table = {os.getpid()}, processes()
    pid = os.getppid()
    while pid in table and pid not in own:
        own.add(pid)
        pid = table[pid].parent
    if any(variable in _environment(pid) for pid in own):
        return 0
    by = time.monotonic() + UNKILLABLE
    while time.monotonic() < by:
        table = {pid: process for pid, process in processes().items() if not process.zombie}
        found = descendants((pid for pid in table if variable in _environment(pid)), table) - own
        if not found:
            break
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
        time.sleep(TICK / 5)
    return len(ended)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or is another user's
        return []


class Group(ABC):
    """A command's process and everything that it started."""

    process: subprocess.Popen[bytes]
    out_of_memory = False
    proxy: Proxy | None = None

    @abstractmethod
    def remains(self) -> bool:
        """Say whether any of them still lives."""

    @abstractmethod
    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of them."""

    @abstractmethod
    def release(self, said: bytes) -> None:
        """Give back what the group held of the system; `said` is the last of its output.

        Raises:
            SandboxError: it never was the command that ran.
        """

    def end(self, wait: Callable[[float], None], grace: float = GRACE) -> None:
        """End them all: SIGTERM, `grace` seconds, SIGKILL; `wait` lets the given time pass meanwhile."""
        gone = False
        try:
            gone = not self.remains()
            if not gone:
                self.send(signal.SIGTERM)
            by = time.monotonic() + grace
            while not gone and time.monotonic() < by:
                wait(TICK)
                gone = not self.remains()
        finally:
            by = time.monotonic() + UNKILLABLE
            while not gone and time.monotonic() < by:
                self.send(signal.SIGKILL)
                time.sleep(TICK / 5)
                gone = not self.remains()

    def code(self) -> int:
        """Return the exit code as a shell would say it."""
        code = self.process.poll()
        if code is None:
            return 128 + signal.SIGKILL
        return code if code >= 0 else 128 - code


Stdio = tuple[int, int, int]  # stdin, stdout and stderr, as Popen takes them
Spawn = Callable[[Command, Stdio], Group]


def started(argv: tuple[str, ...], stdio: Stdio, **more: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own. `more`: as `Popen` has it."""
    return subprocess.Popen(argv, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2], start_new_session=True, **more)


def asked(argv: tuple[str, ...], seconds: float, env: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Ask a program something, such as what it can; return its exit code and what it said, of errors only where it failed."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=seconds, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 127, str(error).encode()
    return done.returncode, done.stdout + (done.stderr if done.returncode else b"")


def program(command: Command, unset: tuple[str, ...] = ("PWD",)) -> tuple[str, ...]:
    """Return the argv that runs `command` in its folder, through env(1).

    env turns a program that cannot be started into exit code 127 or 126 and a line that names it, in every sandbox
    alike; and it takes away the variables `unset`, which bubblewrap or a shell sets, where the caller did not give them.

    Raises:
        SandboxError: the program's name looks like an assignment, or its folder is not there.
    """
    if "=" in command.argv[0]:
        raise SandboxError(
            "the name of a program has a = in it", where=command.argv[0], hint="start it from a script, or rename it"
        )
    if not command.cwd.is_dir():
        raise SandboxError(
            "the folder that the command runs in is not there", where=str(command.cwd), hint="make it in a step before"
        )
    kept = [word for name in unset if name not in command.env for word in ("-u", name)]
    return ("/usr/bin/env", *kept, "--", *command.argv)


class Output:
    """A command's output, however long: a digest, a count and a tail."""

    def __init__(self, keep: int) -> None:
        self._digest, self._tail, self._keep, self._size = hashlib.sha256(), bytearray(), keep, 0

    def take(self, data: bytes) -> None:
        """Add the next part of the output."""
        self._digest.update(data)
        self._size += len(data)
        self._tail += data
        if len(self._tail) > 2 * self._keep + CHUNK:
            del self._tail[: len(self._tail) - self._keep]

    def tail(self) -> bytes:
        """Return the last bytes of the output."""
        return bytes(self._tail[max(0, len(self._tail) - self._keep) :])

    def outcome(self, group: Group, timed_out: bool, started: float) -> CommandOutcome:
        """Return the outcome of a command that was started at `started` (monotonic) and is over now."""
        seconds = time.monotonic() - started
        digest = "sha256:" + self._digest.hexdigest()
        code = TIMED_OUT if timed_out else group.code()
        asked = group.proxy.contacts() if group.proxy else ()
        return CommandOutcome(code, timed_out, seconds, digest, self._size, self.tail(), group.out_of_memory, asked)


class _Pump:
    """Carries a command's output out, a turn at a time, without ever blocking on it."""

    def __init__(self, process: subprocess.Popen[bytes], listeners: list[Callable[[bytes], None]]) -> None:
        assert process.stdout is not None
        self.listeners, self._process, self._stdout = listeners, process, process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)

    @property
    def is_open(self) -> bool:
        """Whether somebody may still write output."""
        return not self._stdout.closed

    def turn(self, seconds: float) -> None:
        """Carry what can be carried now; wait for it, or for the command's end, at most `seconds`."""
        if self.is_open:
            if self._selector.select(seconds):
                self._read()
        elif self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        else:
            time.sleep(seconds)

    def _read(self) -> None:
        data = os.read(self._stdout.fileno(), CHUNK)
        if not data:
            self.close()
        for listener in self.listeners if data else ():
            listener(data)

    def close(self) -> None:
        self._selector.close()
        self._stdout.close()


def _to_its_end(
    group: Group, command: Command, on_output: Callable[[bytes], None] | None, let: Callable[[], None]
) -> CommandOutcome:
    started = time.monotonic()
    by = None if command.timeout is None else started + command.timeout
    output, timed_out, pump = Output(command.keep), False, cast("_Pump | None", None)
    try:
        try:
            let()
            pump = _Pump(group.process, [output.take, *([on_output] if on_output else [])])
            while group.process.poll() is None and not timed_out:
                left = TICK if by is None else by - time.monotonic()
                timed_out = left <= 0
                pump.turn(max(0.0, min(TICK, left)))
            if not timed_out:
                _drain(pump, LINGER)
                pump.listeners = []  # what a shell says of its children being ended is not the command's output
        except BaseException:
            if pump is not None:
                pump.listeners = [output.take]  # a listener that raised is not called again on the way out
            raise
        finally:
            group.end(pump.turn if pump is not None else time.sleep)
        _drain(pump, LINGER)
    finally:
        if pump is not None:
            pump.close()
        failure = release(group, output)
    if failure is not None:
        raise failure
    return output.outcome(group, timed_out, started)


def _feed(stdin: int, left: bytearray) -> None:
    """Write what a pipe takes now of what is left."""
    try:
        del left[: os.write(stdin, left[:CHUNK])]
    except BlockingIOError:
        return
    except BrokenPipeError:
        left.clear()  # it does not read all of it, which is its business, or is gone, which its stdout says too


def _drain(pump: _Pump, seconds: float) -> None:
    by = time.monotonic() + seconds
    while pump.is_open and time.monotonic() < by:
        pump.turn(TICK)


def release(group: Group, output: Output) -> SandboxError | None:
    """Release a group; return why it never was the command that ran, or None."""
    if group.proxy is not None:
        group.proxy.close()
    try:
        group.release(output.tail())
    except SandboxError as error:
        return error
    return None


class Sandbox(ABC):
    """A place to run commands in. They differ in how a command is started, and in what it sees; one suite holds all of them.

    `name`: the value of config.yaml's `executor`, and after a + each loosened protection: `sandbox+user-namespaces`. `place`: what it
    shows elsewhere. `image`: what commands see in the place of this machine's programs, which are not there then.
    """

    name: str
    place = Place()
    image: Image | None = None
    limits = Limits()

    @property
    def helper(self) -> Sandbox:
        """The sandbox for programs of the runner's own on the same folders: this one, if it has the runner's interpreter."""
        return self

    def limited(self, limits: Limits) -> Self:
        """Return this sandbox, whose commands may use no more than `limits`."""
        found = copy(self)
        found.limits = limits
        return found

    def placed(self, place: Place) -> Self:
        """Return this sandbox, which shows what `place` says where it can."""
        found = copy(self)
        found.place = place
        return found

    @abstractmethod
    def _spawn(self, command: Command, stdio: Stdio) -> Group:
        """Start `command` with these."""

    @abstractmethod
    def check(self) -> str | None:
        """Run `true` inside; return None where that works, else one line that says why it does not."""

    @abstractmethod
    def attach(self, command: Command) -> CommandOutcome:
        """Run `command` at a terminal of its own, connected with that of this process, to its end; see `terminal`.

        Stdin and stdout are terminals here (`terminal.is_there`). There is no time limit.

        Raises:
            SandboxError: the command was not started.
        """

    def run(self, command: Command, on_output: Callable[[bytes], None] | None = None) -> CommandOutcome:
        """Run `command` to its end, handing out its combined output as it comes.

        A program that is not there ends with 127, one that may not be run with 126. When time runs out, or an
        exception (KeyboardInterrupt, one of `on_output`'s) comes by, and likewise when the command is over, whatever
        it started is ended: SIGTERM, 2 seconds, SIGKILL. SIGTERM to the runner itself ends it without this, unless
        the command line turns it into an exception.

        Raises:
            SandboxError: the command was not started.
        """
        with signals.held() as let:
            group = self._spawn(command, (subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT))
            return _to_its_end(group, command, on_output, let)

    def open(self, command: Command) -> Session:
        """Start `command` and leave its pipes to the caller, who must `close` it. There is no time limit.

        Raises:
            SandboxError: the command was not started.
        """
        # A call has a time limit, their sum none.
        return Session(self.limited(self.limits._replace(cpu=None))._spawn, command)


class Session:
    """A child with pipes to it. The caller flushes `stdin` after writing."""

    stdin: BinaryIO
    stdout: BinaryIO

    def __init__(self, spawn: Spawn, command: Command) -> None:
        self._started = time.monotonic()
        with signals.held() as let:
            self._group = spawn(command, (subprocess.PIPE, subprocess.PIPE, subprocess.PIPE))
            process = self._group.process
            self.stdin, self.stdout = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)
            self._stderr, self._output = cast("BinaryIO", process.stderr), Output(command.keep)
            self._outcome: CommandOutcome | None = None
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            try:
                let()
            except BaseException:
                self.close(0.0)
                raise

    def _listen(self) -> None:
        with suppress(OSError, ValueError):  # closed by `close`, which had waited long enough
            while data := os.read(self._stderr.fileno(), CHUNK):
                self._output.take(data)

    def close(self, grace: float = 2.0) -> CommandOutcome:
        """Close stdin, wait `grace` seconds, then end the whole group; the outcome's output is that of stderr.

        A second call gives the first one's outcome.
        """
        if self._outcome is not None:
            return self._outcome
        with suppress(OSError):  # data that was not flushed, or that a dead child did not read
            self.stdin.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._group.process.wait(grace)
        finally:
            self._group.end(time.sleep)
            self._listener.join(LINGER)
            self.stdout.close()
            failure = release(self._group, self._output)
        self._outcome = self._output.outcome(self._group, False, self._started)
        if not self._listener.is_alive():
            self._stderr.close()
        if failure is not None:
            raise failure
        return self._outcome


class TooLongError(Exception):
    """A child sent a line with more bytes than one may have."""


class Pipes:
    """The pipes to and from a child, a line at a time, without ever blocking on either.

    `take` gets its output before it is parsed; `beside`: what else ends a wait, and what is called where that can be read.
    """

    def __init__(self, session: Session, most: int) -> None:
        """`most`: bytes of a line."""
        self.session, self._most = session, most
        self.take: Callable[[bytes], None] = lambda data: None
        self.beside: dict[int, Callable[[], None]] = {}
        self._in, self._out = bytearray(), bytearray()

    def send(self, message: Mapping[str, Any]) -> None:
        """Have JSON sent as a line, by the next wait."""
        self._out += json.dumps(message, allow_nan=False).encode() + b"\n"

    def line(self, timeout: float) -> bytes | None:
        """Send what waits to be sent, and return the child's next line; None where something beside could be read.

        Raises:
            TimeoutError: neither happened in time. EOFError: the child ended. TooLongError: the line is too long.
        """
        by, searched = time.monotonic() + timeout, 0
        while (end := self._in.find(b"\n", searched)) < 0 and len(self._in) <= self._most:
            searched = len(self._in)
            if not self._exchange(by):
                return None
        if not 0 <= end <= self._most:
            raise TooLongError(f"more than {self._most:,} bytes")
        line = bytes(self._in[:end])
        del self._in[: end + 1]
        return line

    @property
    def has_more(self) -> bool:
        """Whether the child has sent more than the lines that were returned."""
        return bool(self._in)

    def _exchange(self, by: float) -> bool:
        """Send and receive until there is output, or something beside can be read; return whether there is output."""
        stdin, stdout = self.session.stdin, self.session.stdout
        with selectors.DefaultSelector() as selector:
            for number in (stdout.fileno(), *self.beside):
                selector.register(number, selectors.EVENT_READ)
            if self._out:
                os.set_blocking(stdin.fileno(), False)
                selector.register(stdin, selectors.EVENT_WRITE)
            while (wait := by - time.monotonic()) > 0:
                for key, _ in selector.select(wait):
                    if key.fd == stdout.fileno():
                        data = os.read(key.fd, CHUNK)
                        if not data:
                            raise EOFError
                        self._in += data
                        self.take(data)
                        return True
                    if key.fd in self.beside:
                        self.beside[key.fd]()
                        return False
                    _feed(key.fd, self._out)
                    if not self._out:
                        selector.unregister(stdin)
        raise TimeoutError

    def flush(self, seconds: float) -> None:
        """Send the rest, for so long at most."""
        by = time.monotonic() + seconds
        self.beside.clear()
        with suppress(OSError, EOFError):  # a TimeoutError is an OSError
            while self._out:
                self._exchange(by)


# --- bounds on all processes of a command together ---------------------------------------------------------------------
# systemd makes a cgroup for it: a scope of the user's own manager, or root's. It is used only where one that was made for the
# purpose had the bounds that it was given (cgroups version 2). Elsewhere what each process may use (`Limits.options`) is all
# that holds.

_TRIAL = 20.0  # seconds for the trial
_CGROUPS = "/sys/fs/cgroup"
_READ_BOUNDS = (
    f'read -r own </proc/self/cgroup && cat "{_CGROUPS}${{own#0::}}/memory.max" "{_CGROUPS}${{own#0::}}/pids.max"'
)


def scope_of(limits: Limits) -> tuple[str, ...]:
    """Return the arguments before a command that put it into a scope, with no environment; none where nothing is bounded.

    systemd-run, which needs `scope_environment`, becomes the command, so that this is the caller's own child.
    """
    if limits.memory is None and limits.processes is None:
        return ()
    systemd = shutil.which("systemd-run")
    trial = Limits(memory=64 << 20, processes=64)
    return _scoped(systemd, limits) if systemd and _shown(_scoped(systemd, trial)) == b"67108864\n64\n" else ()


def scope_environment() -> dict[str, str]:
    """Return the variables by which systemd-run finds the user's manager."""
    return {name: os.environ[name] for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS") if name in os.environ}


def open_events(pid: int) -> int | None:
    """Open what counts the kills for want of memory in a process's cgroup; None where there is none. The caller closes it."""
    with suppress(OSError):
        own = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("0::")[2]
        return os.open(f"{_CGROUPS}{own}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    return None


def has_killed(events: int) -> bool:
    """Return whether a process was killed; not where systemd has removed the cgroup already."""
    try:
        data = os.pread(events, 4096, 0)
    except OSError:
        return False
    return any(line.startswith(b"oom_kill ") and line.split()[1] != b"0" for line in data.split(b"\n"))


def _scoped(systemd: str, limits: Limits) -> tuple[str, ...]:
    bounds = (
        [f"--property=MemoryMax={limits.memory}", "--property=MemorySwapMax=0"] if limits.memory is not None else []
    )
    bounds += [f"--property=TasksMax={limits.processes}"] if limits.processes is not None else []
    manager = () if os.geteuid() == 0 else ("--user",)
    return (systemd, *manager, "--scope", "--quiet", "--collect", *bounds, "--", "/usr/bin/env", "-i")


@cache
def _shown(words: tuple[str, ...]) -> bytes:
    """Return the bounds that a process has in a scope."""
    return asked((*words, "/bin/sh", "-c", _READ_BOUNDS), _TRIAL, scope_environment())[1]
