"""What the gate tries of suites that are too large for every change moves with the commit, and a few commits try all of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests import gate
from tests.simulation import seeds


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Make the gate think that it judges a commit whose hash gives this number."""
    monkeypatch.setattr(gate, "WHOLE", False)

    def move(number: int) -> None:
        monkeypatch.setenv("RUNNER_TURN", str(number))
        gate.turn.cache_clear()

    yield move
    gate.turn.cache_clear()


def test_the_windows_move_with_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_TURN", raising=False)
    gate.turn.cache_clear()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=gate.ROOT, capture_output=True, text=True).stdout
    assert gate.turn() == int(head[:8] or "0", 16)


def test_five_commits_in_turn_try_each_case_once(at: Callable[[int], None]) -> None:
    names = [f"case-{number}" for number in range(500)]
    tried = []
    for number in range(7, 12):
        at(number)
        due = [name for name in names if gate.is_due(name)]
        assert 60 < len(due) < 140
        tried += due
    assert sorted(tried) == sorted(names)


def test_at_night_every_case_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WHOLE", True)
    assert all(gate.is_due(f"case-{number}") for number in range(50))


def test_the_window_of_seeds_is_the_commit_s_own(at: Callable[[int], None]) -> None:
    at(5000)
    assert seeds.window() == "5000..5119"
