"""A command at a terminal of its own, which the person's terminal is connected with: for a shell in a sandbox.

The command gets a pseudo-terminal (pty(7)) and never a descriptor of the person's terminal, into which it could type by TIOCSTI
what their shell runs afterwards. Job control, Ctrl-C and the window's size are those of the pseudo-terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator

from runner import signals
from runner.sandbox.process import CHUNK, LINGER, TICK, Command, CommandOutcome, Group, Output, Spawn, release

STDIN, STDOUT = 0, 1
# Has the terminal at stdin control the session that this process leads, then becomes the command.
TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def is_there() -> bool:
    """Return whether a person types at this process's stdin, and sees its stdout."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.isatty(STDIN) and os.isatty(STDOUT)


def attach(spawn: Spawn, command: Command) -> CommandOutcome:
    """Run `command` to its end, as `Sandbox.attach` promises."""
    own, other = os.openpty()
    started, output = time.monotonic(), Output(command.keep)
    try:
        _resize(own)
        with signals.held() as let:
            try:
                group = spawn(command, (other, other, other))
            finally:
                os.close(other)
            try:
                with _raw(own):
                    let()
                    _carry(own, group, output)
            finally:
                try:
                    group.end(time.sleep)
                finally:
                    failure = release(group, output)
    finally:
        os.close(own)
    if failure is not None:
        raise failure
    return output.outcome(group, False, started)


@contextlib.contextmanager
def _raw(own: int) -> Iterator[None]:
    """Have the person's terminal pass every key on, and the pseudo-terminal follow the window's size."""
    before = termios.tcgetattr(STDIN)
    handler = signal.signal(signal.SIGWINCH, lambda number, frame: _resize(own))
    try:
        tty.setraw(STDIN, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        signal.signal(signal.SIGWINCH, handler)
        # What is still unread goes: an answer of the terminal's that the command asked for would be typed into the person's shell.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(STDIN, termios.TCSAFLUSH, before)


def _resize(own: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(own, termios.TIOCSWINSZ, fcntl.ioctl(STDIN, termios.TIOCGWINSZ, b"\0" * 8))


def _carry(own: int, group: Group, output: Output) -> None:
    """Carry keys in and output out until the command is over, or the person's terminal is gone."""
    os.set_blocking(own, False)
    typed, is_open = b"", True
    until: float | None = None
    while until is None or time.monotonic() < until:
        if until is None and group.process.poll() is not None:
            until = time.monotonic() + LINGER  # output that is under way; what holds it open is ended then
        readers = [*([own] if is_open else []), *([STDIN] if len(typed) < CHUNK and until is None else [])]
        ready, writers, _ = select.select(readers, [own] if typed and is_open else [], [], TICK)
        if own in ready:
            data = _read(own)
            is_open = bool(data)
            output.take(data)
            _show(data)
        elif until is not None:
            return
        if STDIN in ready:
            keys = os.read(STDIN, CHUNK)
            if not keys:
                return
            typed += keys
        if writers:
            with contextlib.suppress(BlockingIOError):
                typed = typed[os.write(own, typed) :]


def _read(own: int) -> bytes:
    try:
        return os.read(own, CHUNK)
    except OSError:  # EIO: nobody has the other end open
        return b""


def _show(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(STDOUT, left) :]
