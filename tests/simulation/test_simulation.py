"""Many runners, one remote, one seed: what has to hold after every step of the scheduler. `make simulate` goes through a thousand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from runner.store import lease, publishing
from runner.store.remote import Mirror
from runner.tools import python
from runner.tools.base import ToolError
from tests.simulation.__main__ import attempt
from tests.simulation.seeds import FOUND, FOUND_LAST

FEW = "0..11"


def simulate(seeds: str, hashes: str = "0") -> str:
    """Go through seeds in a process of its own, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", seeds],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hashes},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_a_few_seeds_hold() -> None:
    assert "12 seeds, 0 of them bad" in simulate(FEW)


@pytest.mark.simulate
@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_stays_mended(seed: int) -> None:
    why, _ = attempt(seed)
    assert why == ""


@pytest.mark.slow
def test_a_seed_is_the_same_every_time() -> None:
    traces = {re.findall("trace (.*)", simulate("11..11", hashes))[0] for hashes in ("0", "1", "random")}
    assert len(traces) == 1


def _blind_push(self: Mirror, changes: Any, **named: Any) -> None:
    self.fetch(*changes)
    there = self.refs()
    _push(self, {name: (new, there.get(name)) for name, (new, _) in changes.items()}, **named)


_push = Mirror.push
PLANTED: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "a call is not announced before it begins": (lease, "announce", lambda project, intent: None),
    "a push moves a ref wherever it is": (Mirror, "push", _blind_push),
    "a lost answer of a tool is taken for a failure": (python, "OutcomeUnknownError", ToolError),
    "people's commits are not carried over": (publishing, "_carry", lambda project, commit, onto, protocol: onto),
}


@pytest.mark.simulate
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_bug_is_found(what: str) -> None:
    where, name, wrong = PLANTED[what]
    last = FOUND_LAST.get(what, 0)
    with mock.patch.object(where, name, wrong):
        found = next((seed for seed in (last, *range(MOST)) if attempt(seed)[0]), None)
    assert found is not None, f"{what}: not found in {MOST} seeds"
    if found != last:
        warnings.warn(f"{what}: found by seed {found}; FOUND_LAST in tests/simulation/seeds.py wants it", stacklevel=1)


MOST = 200
