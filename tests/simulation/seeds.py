"""The seeds that `make simulate` goes through: those that once found something, and a window that moves with the commit.

A seed that `make nightly` or a wider range finds is added to FOUND by whoever fixes what it found.
"""

from __future__ import annotations

from tests.gate import turn

# What once did not hold, beside the tests that came of it. A seed is one schedule of one version of the code: what it found then it
# need not meet again, so what can be shown on real git has a test there. Those of before the world was widened are left out.
FOUND = (6, 38, 75, 81, 101, 134, 908, 700055, 9300016, 9300027, 9300215, 9500139, 4115743661, 4403012114)
WINDOW = 120
# Where each planted bug was found last, by its name in planted.py; it is looked for there first.
FOUND_LAST: dict[str, int] = {
    "a call is not announced before it begins": 59,
    "a push moves a ref wherever it is": 8,
    "a lost answer of a tool is taken for a failure": 23,
    "people's commits are not carried over": 29,
    "a local ref moves wherever it is": 4,
    "a push that moved nothing is taken for done": 86,
    "an effect is not in the journal before it begins": 3,
    "the lease is not looked at before something begins": 134,
    "an announcement does not look at what the branch says": 224,
    "the torn end of a journal is taken for damage": 12,
    "a lease is taken over at once": 1,
    "a lease is taken over without grace": 13,
    "who takes a lease over forgets what it announced": 38,
    "who gives a lease up drops what it announced": 43,
    "work is published without the lease": 28,
    "a journal is not waited for": 10,
}


def window() -> str:
    """Return the commit's own range of seeds, as `SEEDS` is given."""
    return f"{turn()}..{turn() + WINDOW - 1}"
