"""How fast pushes may follow each other: forges allow a few a minute, and count those of all processes of a clone together.

Each push takes the next free place of a list that lies beside the repository, and waits until its time has come. A place whose
process died stays unused; nothing waits for it.
"""

from __future__ import annotations

import contextlib

from runner.errors import UsageError
from runner.store import locks
from runner.store.environment import Environment
from runner.store.state_dir import StateDir, write_atomically

VARIABLE = "RUNNER_PUSHES_PER_MINUTE"
MINUTE = 60.0
FAR = 3600.0  # a time so far ahead was written by a clock that was wrong


def keep(places: StateDir, who: Environment, *, waits: bool = True) -> None:
    """Wait until one more push keeps the limit, where one is set. Without `waits` it is made at once, and others wait for it.

    Raises:
        UsageError: the limit is no number.
    """
    told = who.environ.get(VARIABLE)
    if not told:
        return
    if not told.isdecimal() or not int(told):
        raise UsageError(f"`{told}` is no number of pushes", VARIABLE, "set it to a whole number from 1, or unset it")
    with locks.hold(places.lock("pushes"), who, what="the list of pushes", wait=MINUTE):
        now = who.now()
        times = _read(places, now)
        at = place(times, now, int(told))
        write_atomically(places.beside / "pushes", "".join(f"{time:.3f}\n" for time in [*times, at]).encode())
    if waits and at > now:
        if at - now >= 1:
            who.say(f"waits {at - now:.0f} s: {told} pushes a minute are allowed")
        who.sleep(at - now)


def place(times: list[float], now: float, limit: int) -> float:
    """Return when one more push may be made, so that no minute has more than `limit`. `times`: of those before it, in order."""
    return max(now, times[-limit] + MINUTE) if len(times) >= limit else now


def _read(places: StateDir, now: float) -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        lines = (places.beside / "pushes").read_text().split()
        return sorted(time for time in map(float, lines) if now - MINUTE < time < now + FAR)
    return []
