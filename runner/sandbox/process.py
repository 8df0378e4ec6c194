"""A command's processes: read and fed while they live, and ended together.

The part that is the same wherever a command runs. A `Group` finds and signals the processes of one place.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, cast

from runner import signals
from runner.sandbox.base import Command, Outcome, SandboxError
from runner.values import dataclass

GRACE = 2.0  # seconds between SIGTERM and SIGKILL
LINGER = 0.5  # seconds that an output may stay open after its command is over
TICK = 0.05  # seconds between two looks at whether the command is over
UNKILLABLE = 5.0  # seconds after SIGKILL: a process that is still there hangs in the kernel, and cannot be ended
TIMED_OUT = 124
CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Process:
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


# Starts a command with the given stdin, stdout and stderr (as Popen takes them).
Spawn = Callable[[Command, int, int, int], Group]


def program(command: Command) -> tuple[str, ...]:
    """Return the argv that runs `command` in its folder, through env(1).

    env turns a program that cannot be started into exit code 127 or 126 and a line that names it, in every sandbox
    alike; and it takes away PWD where the caller did not give it, which bubblewrap sets.

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
    kept = () if "PWD" in command.env else ("-u", "PWD")
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

    def outcome(self, code: int, timed_out: bool, started: float) -> Outcome:
        """Return the outcome of a command that was started at `started` (monotonic) and is over now."""
        seconds = time.monotonic() - started
        digest = "sha256:" + self._digest.hexdigest()
        return Outcome(TIMED_OUT if timed_out else code, timed_out, seconds, digest, self._size, self.tail())


class _Pump:
    """Carries a command's stdin in and its output out, a turn at a time, without ever blocking on either."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: bytes, listeners: list[Callable[[bytes], None]]
    ) -> None:
        self.listeners = listeners
        self._process, self._left = process, memoryview(stdin)
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._stdout = process.stdout
        self._selector.register(self._stdout, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE, data=process.stdin)

    @property
    def is_open(self) -> bool:
        """Whether somebody may still write output."""
        return not self._stdout.closed

    def turn(self, seconds: float) -> None:
        """Carry what can be carried now; wait for it, or for the command's end, at most `seconds`."""
        if not self._selector.get_map():
            if self._process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
            else:
                time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if key.data is not None:
                self._feed(key.data)
            else:
                data = os.read(key.fd, CHUNK)
                if not data:
                    self._drop(self._stdout)
                for listener in self.listeners if data else ():
                    listener(data)

    def _feed(self, stdin: IO[bytes]) -> None:
        try:
            self._left = self._left[os.write(stdin.fileno(), self._left[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = self._left[:0]  # the command does not read all of it, which is its business
        if not self._left:
            self._drop(stdin)

    def _drop(self, stream: IO[bytes]) -> None:
        self._selector.unregister(stream)
        stream.close()

    def close(self) -> None:
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def run(spawn: Spawn, command: Command, on_output: Callable[[bytes], None] | None) -> Outcome:
    """Run `command` to its end, as `Sandbox.run` promises."""
    stdin = subprocess.PIPE if command.stdin else subprocess.DEVNULL
    with signals.held() as let:
        group = spawn(command, stdin, subprocess.PIPE, subprocess.STDOUT)
        return _to_its_end(group, command, on_output, let)


def _to_its_end(
    group: Group, command: Command, on_output: Callable[[bytes], None] | None, let: Callable[[], None]
) -> Outcome:
    started = time.monotonic()
    by = None if command.timeout is None else started + command.timeout
    output, timed_out, pump = Output(command.keep), False, cast("_Pump | None", None)
    try:
        try:
            let()
            pump = _Pump(group.process, command.stdin, [output.take, *([on_output] if on_output else [])])
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
        failure = _release(group, output)
    if failure is not None:
        raise failure
    return output.outcome(group.code(), timed_out, started)


def _drain(pump: _Pump, seconds: float) -> None:
    by = time.monotonic() + seconds
    while pump.is_open and time.monotonic() < by:
        pump.turn(TICK)


def _release(group: Group, output: Output) -> SandboxError | None:
    try:
        group.release(output.tail())
    except SandboxError as error:
        return error
    return None


class PipeSession:
    """A `Session` over the pipes of a group."""

    stdin: BinaryIO
    stdout: BinaryIO

    def __init__(self, spawn: Spawn, command: Command) -> None:
        self._started = time.monotonic()
        with signals.held() as let:
            self._group = spawn(command, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE)
            process = self._group.process
            self.stdin, self.stdout = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
            self._stderr, self._output = cast(BinaryIO, process.stderr), Output(command.keep)
            self._lock, self._timed_out, self._outcome = threading.Lock(), False, cast("Outcome | None", None)
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            self._timer = None if command.timeout is None else threading.Timer(command.timeout, self._expire)
            if self._timer is not None:
                self._timer.daemon = True
                self._timer.start()
            try:
                let()
            except BaseException:
                self.close(0.0)
                raise

    def _listen(self) -> None:
        with suppress(OSError, ValueError):  # closed by `close`, which had waited long enough
            while data := os.read(self._stderr.fileno(), CHUNK):
                self._output.take(data)

    def _expire(self) -> None:
        with self._lock:
            if self._outcome is None and self._group.process.poll() is None:
                self._timed_out = True
                self._group.end(time.sleep)

    def close(self, grace: float = 2.0) -> Outcome:
        """Close stdin, wait `grace` seconds, then end the whole group; see `Session.close`."""
        with suppress(OSError):  # data that was not flushed, or that a dead child did not read
            self.stdin.close()
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            if self._outcome is not None:
                return self._outcome
            try:
                with suppress(subprocess.TimeoutExpired):
                    self._group.process.wait(grace)
            finally:
                self._group.end(time.sleep)
                self._listener.join(LINGER)
                self.stdout.close()
                failure = _release(self._group, self._output)
            self._outcome = self._output.outcome(self._group.code(), self._timed_out, self._started)
            if not self._listener.is_alive():
                self._stderr.close()
            if failure is not None:
                raise failure
            return self._outcome
