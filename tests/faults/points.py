"""Which calls of a run are struck: points that are always tried, and a window over the rest that moves with the commit.

A point is `who:call:N` as `strike.py` takes it, the N-th such call of a run. What `make nightly` finds is added to those that are
always tried, by what the call is about, since its number changes with the code.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Trace = Sequence[tuple[str, str, str]]  # who, call, what it is about
NOWHERE = ("/dev/null", "/dev/tty")


@dataclass(frozen=True, slots=True)
class Place:
    """The first or last call of `who` that is about a path. `why`: what has happened when it is about to be made."""

    who: str
    call: str
    about: str  # a regular expression
    why: str
    last: bool = True


ALWAYS = (
    Place("tool", "fsync", r"/ledger$", "the effect was written"),
    Place("tool", "send", r"pipe:", "the effect happened, and the tool has not answered"),
    Place("runner", "pwrite64", r"/journal/.*/tell\.1", "nothing yet, the intent of the effect is not written", last=False),
    Place("runner", "fsync", r"/journal/.*/tell\.1", "the intent is written", last=False),
    Place("runner", "pwrite64", r"/journal/.*/tell\.1", "the tool has answered, and no outcome is written"),
    Place("runner", "fsync", r"/journal/.*/tell\.1", "the outcome is written"),
    Place("runner", "fsync", r"/journal/.*/think\.1", "an answer of the model was paid for and written"),
    Place("git", "link", r"/objects/", "an object is complete under a temporary name"),
    Place("runner", "rename", r"/repo/\.git/objects/", "an object of a transition is complete under a temporary name"),
    Place("runner", "rename", r"/follows/", "what the worktree is to follow is written"),
    Place("runner", "openat", r"/\.protocols/[^/]*/state\.json$", "the branch moved, and no file of the worktree is written"),
    Place("runner", "write", r"/\.protocols/[^/]*/state\.json$", "the branch moved, and a file of the worktree is empty"),
    Place("runner", "rename", r"/worktrees/[^/]*/index$", "the worktree's files are written, and its index is not"),
    Place("git", "fsync", r"/repo/\.git/refs/heads/", "the branch's lock has the new commit"),
    Place("git", "rename", r"/repo/\.git/refs/runner/history/", "both refs are locked, and neither moved"),
    Place("git", "rename", r"/repo/\.git/refs/heads/", "the history moved, and the branch did not"),
    Place("runner", "rename", r"/marks/", "the branch moved, and its checkpoint did not"),
    Place("runner", "fsync", r"/runner/pending$", "a first record is on the disk, and the name of its file perhaps not", last=False),
    Place("runner", "pwrite64", r"/runner/pending/", "the last record of a batch but for one is not written"),
    Place("runner", "fdatasync", r"/runner/pending/", "the last record is written, and not waited for"),
    Place("runner", "unlink", r"/runner/pending/", "the branch has the batch, and its records are still there"),
    Place("git", "openat", r"/mirror/refs/there/runner/leases/", "the remote took the lease, and the clone noted nothing"),
    Place("git", "rename", r"/mirror/refs/there/runner/leases/", "the remote took the lease, and its note is locked"),
    Place("git", "openat", r"/mirror/refs/there/heads/", "the remote took the work, and the clone noted nothing"),
    Place("git", "rename", r"/refs/remotes/origin/", "the remote took the work, and the tracking ref is locked"),
)  # fmt: skip

ALWAYS_A_PACK = (  # of a batch that no question to git splits, as a lease does that grows old
    Place("runner", "write", r"/objects/pack/tmp_pack_", "all is done, and the pack of the batch is empty"),
    Place("runner", "rename", r"/objects/pack/pack-[0-9a-f]*\.idx$", "the pack of a batch is there, and git cannot read it yet"),
    Place("runner", "fsync", r"/objects/pack$", "git can read the pack, and the branch has not moved"),
)  # fmt: skip

ALWAYS_ON_A_BAD_DISK = (
    Place("git", "mkdir", r"/repo/\.git/objects/", "what an agent's tools wrote is stored in the middle of its step", last=False),
    Place("git", "rename", r"/worktrees/[^/]*/runner-index$", "the worktree's index is about to be refreshed", last=False),
)  # fmt: skip


def always(trace: Trace, wanted: Sequence[Place]) -> list[str]:
    """Return the points of places in a trace; one that is not there any more is an error, and not a point less."""
    found: dict[Place, str] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for who, call, about in trace:
        seen[who, call] += 1
        for place in wanted:
            if (place.who, place.call) == (who, call) and re.search(place.about, about):
                point = f"{who}:{call}:{seen[who, call]}"
                found[place] = point if place.last else found.get(place, point)
    gone = [place for place in wanted if place not in found]
    assert not gone, f"no such call in a run any more, correct it in tests/faults/points.py: {gone}"
    return list(dict.fromkeys(found[place] for place in wanted))


def about(trace: Trace, point: str) -> str:
    """Return what a point of a trace is about, for a person to find the call by; nothing where the trace has no such call."""
    who, call, number = point.split(":")
    found = [about for one, name, about in trace if (one, name) == (who, call)]
    return found[int(number) - 1] if int(number) <= len(found) else ""


def points(
    trace: Trace, limit: int, who: Sequence[str], calls: Sequence[str] = (), turn: int | None = None
) -> list[str]:
    """Return `limit` points of a trace, one kind of call after the other in turn; a kind is who makes it, and which call.

    Of each kind they are spread over the whole run. `turn` moves them, and which kinds there is room for; None leaves them in the
    middle of their share.
    """
    seen: Counter[tuple[str, str]] = Counter()
    kinds: dict[tuple[str, str], list[str]] = {}
    for one, call, about in trace:
        seen[one, call] += 1
        if one in who and (not calls or call in calls) and about not in NOWHERE:
            kinds.setdefault((one, call), []).append(f"{one}:{call}:{seen[one, call]}")
    order = list(kinds)
    if turn is not None and order:
        order = order[turn % len(order) :] + order[: turn % len(order)]
    taken = dict.fromkeys(order, 0)
    while sum(taken.values()) < limit and any(taken[kind] < len(kinds[kind]) for kind in order):
        for kind in order:
            if taken[kind] < len(kinds[kind]) and sum(taken.values()) < limit:
                taken[kind] += 1
    found = []
    for kind in order:
        there, count = kinds[kind], taken[kind]
        share = 0.5 if turn is None else _share(kind, turn)
        found += [there[int((at + share) * len(there) / count)] for at in range(count)]
    return sorted(found, key=lambda point: hashlib.sha256(point.encode()).digest())


def _share(kind: tuple[str, str], turn: int) -> float:
    """Return where in its share of the run a kind is struck this time, at least 0 and less than 1."""
    return int.from_bytes(hashlib.sha256(f"{kind} {turn}".encode()).digest()[:4]) / 2**32
