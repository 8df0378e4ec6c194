"""Signals that have to wait: one that came in the middle of starting a program would leave that program behind, known to nobody."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Have SIGINT, SIGTERM and SIGHUP wait until what is given is called, which is done where whatever they raise is caught.

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
