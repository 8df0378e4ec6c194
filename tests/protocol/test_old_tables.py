"""Temporary: what each old table says is what `EVENTS` and `WAITS` say."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from runner.app import audit, chain, go, page, steer
from runner.cli import status as status_
from runner.executor import answers, calls, conclude
from runner.protocol import events as ev
from runner.protocol.events import EVENTS, EventType
from runner.protocol.state import WAITS
from runner.store import lease, publishing, transaction
from runner.trust import acts, bench, checks, manifest, replay


def names(found: Iterable[object]) -> set[str]:
    """Names of events, of their subclasses too."""
    return {
        row.model.name
        for row in EVENTS.values()
        if any(issubclass(row.model, one) if isinstance(one, type) else row.model.name == one for one in found)
    }


def where(test: Callable[[EventType], object]) -> set[str]:
    return {name for name, row in EVENTS.items() if test(row)}


def test_follows() -> None:
    for before in (None, *(row.model for row in EVENTS.values())):
        for row in EVENTS.values():
            old = row.model in checks.FOLLOWS.get(before, ())
            blank = object.__new__(before) if before else None
            assert ev.may_follow(blank, object.__new__(row.model)) == old, (before, row.model)


CASES: dict[str, tuple[Iterable[object], Callable[[EventType], object]]] = {
    "of people": (ev.OF_PEOPLE, lambda r: r.said_by in ("person", "forge")),
    "said": (acts._SAID, lambda r: r.said_by in ("person", "either")),
    "of protocol": (checks._OF_PROTOCOL, lambda r: r.about == "protocol"),
    "begun": (checks._BEGUN, lambda r: r.role == "work" and r.step),
    "prefix": (checks._PREFIX, lambda r: r.role in ("edit", "approval")),
    "deeds": (checks._DEEDS, lambda r: r.role in ("work", "qa")),
    "words": (checks._WORDS, lambda r: r.role == "approval"),
    "transaction words": (transaction._WORDS, lambda r: r.role == "approval"),
    "late": (acts._LATE, lambda r: r.role == "work" and r.model is not ev.StepFinished),
    "replay work": (replay._WORK, lambda r: r.role == "work"),
    "conclude work": (conclude._WORK, lambda r: r.role == "work"),
    # These two come after `created`, in its commit.
    "done": (replay.DONE | {"imported", "forked"}, lambda r: r.role in ("start", "plan", "work", "qa") and not r.opens),
    "bench waits": (bench._WAITS, lambda r: r.has_work and r.opens),
    "asking": (go._ASKING, lambda r: r.opens),
    "chain work": (chain.WORK, lambda r: r.has_work or r.model is ev.BudgetReached),
    "ends": (calls._ENDS, lambda r: r.ends_attempt),
    "stops": (lease._STOPS, lambda r: r.stops),
    "effects": (audit._EFFECTS, lambda r: r.about == "call"),
    "answers": (publishing.ANSWERS, lambda r: r.command == "answer"),
    "answers by role": (publishing.ANSWERS, lambda r: r.role == "answer"),
    "commands": (answers._SAID, lambda r: r.command not in ("", "answer")),
}


@pytest.mark.parametrize("case", CASES)
def test_tables(case: str) -> None:
    old, test = CASES[case]
    assert names(old) == where(test)


def test_commands() -> None:
    assert {name: EVENTS[name].command for name in answers._SAID} == answers._SAID


def test_waits() -> None:
    approvals = {kind for kind, row in WAITS.items() if row.ended_by == "approval"}
    assert approvals == set(manifest.KINDS) == status_.WORDS
    answered = {kind for kind, row in WAITS.items() if row.ended_by == "answer"}
    assert answered == set(steer.ANSWERABLE) == set(page._ANSWERED)
    assert set(EVENTS["approval-refused"].ends) == set(manifest.KINDS)
    assert EVENTS["answered"].ends == ("human", "question")
    assert EVENTS["effect-decided"].ends == ("effect",)
