"""Many runners, one remote, one seed: what has to hold after every step of the scheduler. `make simulate` goes through a thousand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.gate import WHOLE
from tests.simulation.__main__ import attempt
from tests.simulation.planted import MOST, PLANTED, planted
from tests.simulation.seeds import FOUND, FOUND_LAST


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


@pytest.mark.parametrize("seeds", ["0..3", pytest.param("4..11", marks=pytest.mark.slow)])
def test_a_few_seeds_hold(seeds: str) -> None:
    first, last = seeds.split("..")
    assert f"{int(last) - int(first) + 1} seeds, 0 of them bad" in simulate(seeds)


@pytest.mark.simulate
@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_stays_mended(seed: int) -> None:
    why, _ = attempt(seed)
    assert why == ""


@pytest.mark.slow
def test_a_seed_is_the_same_every_time() -> None:
    traces = {re.findall("trace (.*)", simulate("11..11", hashes))[0] for hashes in ("0", "1", "random")}
    assert len(traces) == 1


@pytest.mark.simulate
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_bug_is_found(what: str) -> None:
    last = FOUND_LAST[what]
    seeds = (*range(MOST), last) if WHOLE else (last, *range(MOST))
    with planted(what):
        found = next((seed for seed in seeds if attempt(seed)[0]), None)
    assert found is not None, f"{what}: not found in {MOST} seeds"
    assert attempt(found)[0] == "", f"seed {found} does not hold without it either"
    if found != last:
        warnings.warn(f"{what}: found by seed {found}; FOUND_LAST in tests/simulation/seeds.py wants it", stacklevel=1)
