"""The verifier's checks, each taken out once: some stored history then gets a wrong verdict."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.histories.mutants import MODULES, Mutant, lives, mutants, traced
from tests.histories.stored import Case, Shelf, cases
from tests.histories.test_histories import LACKING

Outcome = tuple[object, ...]
Judge = Callable[[], Outcome]
FEWEST = 250  # mutants; a refactoring that halves them has hidden the checks from this test


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[dict[str, Judge]]:
    shelf = Shelf(tmp_path)
    with contextlib.ExitStack() as held:
        yield judges(shelf, held)
    shelf.close()


def judges(shelf: Shelf, held: contextlib.ExitStack) -> dict[str, Judge]:
    """Return what judges each stored history, and some of them for clones that lack something, by a name."""
    found: dict[str, Judge] = {name: functools.partial(_judged, shelf, case) for name, case in cases().items()}
    for name in LACKING:
        oids, verdict = held.enter_context(shelf.lacking(cases()[name]))
        found |= {f"{name} without {oid}": functools.partial(verdict, oid) for oid in oids}
    return found


def _judged(shelf: Shelf, case: Case) -> Outcome:
    return (*shelf.verdict(case), shelf.says(case) if case.says else "")


def outcome(judge: Judge) -> Outcome:
    """Return what a judge says; that it breaks is a wrong verdict too."""
    try:
        return judge()
    except Exception as error:
        return (type(error).__name__,)


# Checks that no history can show, each for a reason. A line that is not needed any more fails the test.
NOT_SHOWN: dict[str, str] = {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.no_agreement("ours is disabled in part")
def test_each_check_is_needed(judge: dict[str, Judge]) -> None:
    right: dict[str, Outcome] = {}
    ran: dict[tuple[str, int], list[str]] = {}
    for name, one in judge.items():
        lines: set[tuple[str, int]] = set()
        with traced(lines):
            right[name] = one()
        for line in lines:
            ran.setdefault(line, []).append(name)
    every = [mutant for module in MODULES for mutant in mutants(module)]
    assert len(every) >= FEWEST
    survived = [mutant for mutant in every if not is_found(mutant, judge, right, ran)]
    told = {mutant.key: mutant.place for mutant in survived}
    new = [f"{place}: {key}" for key, place in told.items() if key not in NOT_SHOWN]
    assert not new, f"{len(new)} of {len(every)} checks that no stored history needs; store one:\n" + "\n".join(new)
    assert set(NOT_SHOWN) <= set(told), f"a history shows these by now: {set(NOT_SHOWN) - set(told)}"


def is_found(
    mutant: Mutant,
    judge: dict[str, Judge],
    right: dict[str, Outcome],
    ran: dict[tuple[str, int], list[str]],
) -> bool:
    """Return whether some history that the check spoke about gets another verdict without it."""
    names = dict.fromkeys(name for line in mutant.lines for name in ran.get((mutant.module, line), ()))
    with lives(mutant):
        return any(outcome(judge[name]) != right[name] for name in names)
