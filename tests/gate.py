"""Choose what the gate tries of suites that are too large for every change.

A window moves with the commit, so that a few changes together try the whole; `make nightly` (RUNNER_WHOLE=1) tries all of it at once.
RUNNER_TURN=NUMBER moves the windows by that number instead, to try again what another commit tried.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHOLE = os.environ.get("RUNNER_WHOLE") == "1"


@functools.cache
def turn() -> int:
    """Return the number that windows move by: the first 32 bits of the commit's hash, 0 outside a repository."""
    if given := os.environ.get("RUNNER_TURN"):
        return int(given)
    done = subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout[:8], 16) if done.returncode == 0 else 0


def is_due(name: str, parts: int = 5) -> bool:
    """Return whether one of many cases is tried this time: one of `parts` is, and all are at night."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return WHOLE or (number + turn()) % parts == 0
