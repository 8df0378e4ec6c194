"""Signals that have to wait, and the one that stops the work on a protocol.

A signal that came in the middle of starting a program would leave that program behind, known to nobody. SIGUSR1 says that the
protocol at work was cancelled: it ends this work alone, and means nothing while there is none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP = signal.SIGUSR1
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handlers = dict[int, Callable[[int, FrameType | None], object] | int | None]  # as `signal.getsignal` gives them
_stop = {"requested": False, "waits": 0}  # since the work started; how many `stoppable` blocks are open


class StopRequested(KeyboardInterrupt):
    """The protocol at work was cancelled. Whatever tidies up after Ctrl-C tidies up after this."""


def told(error: BaseException) -> tuple[str, str]:
    """Return how a person ended a command, and what to type then. `error`: KeyboardInterrupt, with the command that resumes if that is
    another one; or click's Abort."""
    by = error if isinstance(error, KeyboardInterrupt) else error.__context__
    if isinstance(by, EOFError):  # Ctrl-D at a question
        return "the input ended before an answer", "the same command asks again"
    words = str(by) if type(by) is KeyboardInterrupt else ""
    return "interrupted; nothing is lost", words or "the same command resumes"


def listen() -> None:
    """Take SIGUSR1 for a request to stop. For the main thread."""
    signal.signal(STOP, _on_stop)


def _on_stop(number: int, frame: object) -> None:
    first, _stop["requested"] = not _stop["requested"], True
    if _stop["waits"] and first:  # what tidies up after it is not cut again
        raise StopRequested


def send_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception came in a finalizer, where Python prints it and continues. For `sys.unraisablehook`."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGINT
    if issubclass(lost.exc_type, StopRequested):
        number, _stop["requested"] = STOP, False
    later = threading.Timer(0.01, os.kill, (os.getpid(), number))  # in this thread the finalizer is not over yet
    later.daemon = True
    later.start()


def request_stop() -> None:
    """Stop the work of this process, from another thread of it."""
    os.kill(os.getpid(), STOP)


def begin_work() -> None:
    """Forget requests to stop: they were about earlier work."""
    _stop["requested"] = False


def check_stop() -> None:
    """Raise StopRequested where a stop was requested since the work started. To be called before something starts."""
    if _stop["requested"]:
        raise StopRequested


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let a request to stop cut the block, which waits for a command or a model and writes nothing of ours."""
    check_stop()
    _stop["waits"] += 1
    try:
        yield
    finally:
        _stop["waits"] -= 1


class Once:
    """Whether one of the signals came, or none may interrupt any more."""

    is_over = False


@contextlib.contextmanager
def once() -> Iterator[Once]:
    """Let the first of SIGINT, SIGTERM and SIGHUP interrupt the block; drop those after it, which would interrupt its cleanup."""
    state = Once()

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = known[number]
        if not state.is_over and callable(handler):
            state.is_over = True
            handler(number, frame)

    known: Handlers = {number: handler for number in _ENDS if callable(handler := signal.getsignal(number))}
    with _replaced(known, interrupt):
        yield state


@contextlib.contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Hold SIGINT, SIGTERM, SIGHUP and SIGUSR1 back until the given function is called, where their exceptions are caught.

    In a thread that is not the main one, which none of them interrupts, nothing is done; one that is ignored stays so.
    """
    came: list[tuple[int, FrameType | None]] = []
    known: Handlers = {}
    if threading.current_thread() is threading.main_thread():
        every = ((number, signal.getsignal(number)) for number in (*_ENDS, STOP))
        known = {number: handler for number, handler in every if handler not in (signal.SIG_IGN, None)}

    def deliver() -> None:
        while came:
            number, frame = came.pop(0)
            handler = known[number]
            if callable(handler):
                handler(number, frame)
            else:
                signal.raise_signal(number)

    try:
        with _replaced(known, lambda number, frame: came.append((number, frame))) as restore:

            def let() -> None:
                restore()
                deliver()

            yield let
    finally:
        deliver()


@contextlib.contextmanager
def _replaced(known: Handlers, handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    """Have `handler` take the signals of `known` until the given function is called, or the block ends."""
    left = dict(known)

    def restore() -> None:
        for number in list(left):
            signal.signal(number, left[number])  # one that comes right here may raise, and this is done again
            del left[number]

    try:
        for number in known:
            signal.signal(number, handler)
        yield restore
    finally:
        restore()
