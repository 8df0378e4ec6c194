"""How fast pushes follow each other: by a clock of our own, and by processes that take places at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.store.remote import PUSHES_PER_MINUTE, RATE_WINDOW, Mirror, keep_rate, next_push
from tests.conftest import Box, set_env


def keeps(times: list[float], limit: int) -> bool:
    """Return whether no minute has more than `limit` of the times."""
    every = sorted(times)
    return all(later - earlier >= RATE_WINDOW - 1e-6 for earlier, later in zip(every, every[limit:], strict=False))


@given(st.integers(1, 6), st.lists(st.floats(0, 90), max_size=60))
def test_no_minute_has_more_than_the_limit_and_nobody_waits_without_need(limit: int, gaps: list[float]) -> None:
    now, made = 0.0, list[float]()
    for gap in gaps:
        now += gap
        recent = [time for time in made if now - RATE_WINDOW < time]
        at = next_push(recent, now, limit)
        made.append(at)
        assert at >= now and (at == now or not keeps([*made[:-1], at - 0.5], limit))
    assert made == sorted(made) and keeps(made, limit)


def test_pushes_wait_and_none_is_lost(remote: Box, tmp_path: Path) -> None:
    """Real pushes by a clock that only waiting moves: each arrives, three a minute, whichever process makes it."""
    now, times = [1000.0], list[float]()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    remote.env[PUSHES_PER_MINUTE] = "3"
    with remote.session() as one, remote.session() as two:
        head = remote.git("rev-parse", "HEAD").strip()
        for number in range(10):
            session = (one, two)[number % 2]
            set_env(session, now=lambda: now[0], sleep=sleep)
            mirror = Mirror.of(session.project)
            assert mirror is not None
            mirror.push({f"refs/heads/n{number}": (head, None)})
            times.append(now[0])
            now[0] += 1
    assert keeps(times, 3) and not keeps(times, 2)
    assert times[-1] - times[0] == 3 * RATE_WINDOW
    there = remote.git("for-each-ref", "--format=%(refname)", "refs/heads/n*", cwd=tmp_path / "origin.git").split()
    assert len(there) == 10


def test_a_clock_that_was_wrong_holds_up_nobody_for_long(remote: Box) -> None:
    remote.env[PUSHES_PER_MINUTE] = "1"
    with remote.session() as session:
        slept: list[float] = []
        who = session.env._replace(now=lambda: 1000.0, sleep=slept.append)
        ahead = who._replace(now=lambda: 1000.0 + 400 * 24 * 3600)
        keep_rate(session.dirs, ahead)
        keep_rate(session.dirs, who)
        assert slept == []
        (session.dirs.beside / "pushes").write_bytes(b"\xff torn")
        keep_rate(session.dirs, who)
        assert slept == []


@pytest.mark.parametrize("wrong", ["0", "-1", "many", "1.5"])
def test_a_limit_that_is_none_is_told(remote: Box, wrong: str) -> None:
    remote.env[PUSHES_PER_MINUTE] = wrong
    with remote.session() as session, pytest.raises(UsageError, match="not a number of pushes"):
        keep_rate(session.dirs, session.env)


TAKER = """
import sys
from pathlib import Path
from runner.store.remote import PUSHES_PER_MINUTE, keep_rate
from tests.conftest import Box
with Box(Path(sys.argv[1]), Path(sys.argv[2]), {PUSHES_PER_MINUTE: "5"}).session() as session:
    waits = []
    who = session.env._replace(now=lambda: 5000.0, sleep=waits.append)
    for _ in range(20):
        keep_rate(session.dirs, who)
"""


@pytest.mark.slow
def test_processes_that_take_places_at_once_take_different_ones(box: Box) -> None:
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", TAKER, str(box.path), str(box.home)]
    started = [subprocess.Popen(argv, env=env) for _ in range(4)]
    assert [one.wait() for one in started] == [0] * 4
    times = [float(line) for line in (box.path / ".git/runner/pushes").read_text().split()]
    assert len(times) == 80 and keeps(times, 5) and max(times) == 5000.0 + 15 * RATE_WINDOW
