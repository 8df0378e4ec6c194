"""The seeds that `make simulate` goes through: those that once found something, and a window that moves with the commit.

A seed that `make nightly` or a wider range finds is added to FOUND by whoever fixes what it found.
"""

from __future__ import annotations

from tests.gate import turn

# What once did not hold, beside the tests that came of it: not all of it can be told to two clones by hand.
FOUND = (3, 11, 21, 36, 42, 54, 57, 65, 73, 239, 348, 405, 449, 664, 784)
WINDOW = 120
# Where each planted bug was found last, by its name in test_simulation.py; it is looked for there first.
FOUND_LAST: dict[str, int] = {
    "a call is not announced before it begins": 14,
    "a push moves a ref wherever it is": 2,
    "a lost answer of a tool is taken for a failure": 12,
    "people's commits are not carried over": 0,
}


def window() -> str:
    """Return the commit's own range of seeds, as `SEEDS` is given."""
    return f"{turn()}..{turn() + WINDOW - 1}"
