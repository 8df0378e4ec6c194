"""Signals that have to wait, and the one that stops the work on a protocol.

A signal that came in the middle of starting a program would leave that program behind, known to nobody. SIGUSR1 says that the
protocol at work was cancelled: it ends this work alone, and means nothing while there is none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP = signal.SIGUSR1
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, STOP)
_stop = {"requested": False, "waits": 0}  # since the work started; how many `stoppable` blocks are open


class StopRequested(KeyboardInterrupt):
    """The protocol at work was cancelled. Whatever tidies up after Ctrl-C tidies up after this."""


def listen() -> None:
    """Take SIGUSR1 for a request to stop. For the main thread."""
    signal.signal(STOP, _on_stop)


def _on_stop(number: int, frame: object) -> None:
    first, _stop["requested"] = not _stop["requested"], True
    if _stop["waits"] and first:  # what tidies up after it is not cut again
        raise StopRequested


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


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Let the first of SIGINT, SIGTERM and SIGHUP interrupt the block; drop those after it, which would interrupt its cleanup."""
    interrupted = False
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        handler = known[signal.Signals(number)]
        if not interrupted and callable(handler):
            interrupted = True
            handler(number, frame)

    for number, handler in known.items():
        if callable(handler):
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in known.items():
            if callable(handler):
                signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Hold SIGINT, SIGTERM, SIGHUP and SIGUSR1 back until the given function is called, where their exceptions are caught.

    In a thread that is not the main one, which none of them interrupts, nothing is done; one that is ignored stays so.
    """
    known = {}
    if threading.current_thread() is threading.main_thread():
        known = {
            number: handler
            for number in _NUMBERS
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
        }
    handlers = dict(known)
    came: list[tuple[int, FrameType | None]] = []

    def let() -> None:
        for one in list(known):
            signal.signal(one, known[one])  # one that comes right here may raise, and this is done again
            del known[one]
        while came:
            number, frame = came.pop(0)
            handler = handlers.get(signal.Signals(number))
            if callable(handler):
                handler(number, frame)
            elif handler == signal.SIG_DFL:
                signal.raise_signal(number)

    try:
        for number in known:
            signal.signal(number, lambda number, frame: came.append((number, frame)))
        yield let
    finally:
        let()
