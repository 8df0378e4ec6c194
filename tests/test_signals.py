"""Signals that wait while a program is started: tests/sandbox and tests/cli/test_fleet.py have the programs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from runner import signals


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    known = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, known)


def test_one_waits_till_it_is_let_and_comes_once() -> None:
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    with signals.held() as let:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not came
        let()
        assert came == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)  # no longer held
        assert len(came) == 2
    assert len(came) == 2


def test_one_that_was_not_let_comes_at_the_end_whatever_else_was_raised() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    with pytest.raises(KeyboardInterrupt), signals.held():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("it could not be started")
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_one_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with signals.held():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # as what is started inherits it
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_thread_changes_nothing() -> None:
    known = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with signals.held() as let:
            seen.append(signal.getsignal(signal.SIGTERM))
            let()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [known]
