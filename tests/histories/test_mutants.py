"""The verifier's checks, each taken out once: some stored history then gets a wrong verdict. An eighth at a commit, all at night."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gate import is_due
from tests.histories.mutants import MODULES, Mutant, lives, mutants, traced
from tests.histories.stored import Case, Shelf, cases

Outcome = tuple[object, ...]
Judge = Callable[[], Outcome]
FEWEST = 200  # mutants; a refactoring that halves them has hidden the checks from this test


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[dict[str, Judge]]:
    shelf = Shelf(tmp_path)
    yield judges(shelf)
    shelf.close()


def judges(shelf: Shelf) -> dict[str, Judge]:
    """Return what judges each stored history, by its name."""
    return {name: functools.partial(_judged, shelf, case) for name, case in cases().items()}


def _judged(shelf: Shelf, case: Case) -> Outcome:
    return (*shelf.verdict(case), shelf.says(case) if case.says else "")


def outcome(judge: Judge) -> Outcome:
    """Return what a judge says; that it breaks is a wrong verdict too."""
    try:
        return judge()
    except Exception as error:
        return (type(error).__name__,)


# Checks that no stored history shows, by how their keys begin, each for a reason. A line that is not needed any more fails.
NOT_SHOWN = {
    "trust.verify.is_rebased:": "two histories are compared and none is judged: tests/attacks/test_entries.py",
    "trust.verify._are_alike:": "two histories are compared and none is judged: tests/attacks/test_entries.py",
    "trust.rules.transcripts._covers: and policy.is_agents(call.name)": "no other call has the kind of an agent's as its last word",
    "trust.walk.Report.ok: and self.transitions > 0": "a chain without a transition has a finding: a second lock",
    "trust.verify.take: parsed.illegal = f'its fields": "a net below what the events' own validation lets through",
    "trust.verify._record: if size is not None and size > RECORD_MOST": "64 MiB, which are not read, have no place in a bundle",
    "trust.walk.Walk.config_at: in oid": "what is missing is taken away object by object in test_histories",
    "trust.walk.Walk.config_at: in now": "what is missing is taken away object by object in test_histories",
    "trust.rules.permissions._off_branch: or last is None": "a commit between two that are here is here",
    "trust.rules.permissions._starts: if judged and judged[0] is not None": "the same commit is among those that are tried next",
    "trust.rules.permissions.unsigned: in *(email.casefold()": "OpenPGP, whose keys cannot be made the same each time",
    "trust.transitions.History._parsed: if size is not None": "a bound on what is read; a statement is shorter",
    "trust.approval._judge_review: if not who": "nobody is in no role: a better word for it",
    "trust.approval._judge_review: if who in case.view.trusted.agents": "a policy with an agent in a role is refused whole",
    "trust.approval._judge_review: or asked is None": "what waits in the record was asked; a live caller may not know",
    "trust.approval._judge_review: or asked.commit not in case.view.chain": "it is found on the chain; a live caller may not",
    "trust.approval._is_in_role: if approval.approver in case.view.trusted.agents": "such keys are refused whole",
    "trust.approval._judge_review: if _differs_now": "nothing touched it, so it has the same digest: a second lock",
    "trust.approval._is_fresh: if _differs_now": "nothing touched it, so it has the same digest: a second lock",
    "trust.view.View.kept_base: and any(": "where no base was kept, it has the same digest",
    "trust.rules.ends.wrong_fork: if not (ids.is_protocol_id(origin)": "no transition says that it is that: a second lock",
    "trust.rules.ends.wrong_fork: or not (ids.is_protocol_id(origin)": "no transition says that it is that: a second lock",
    "trust.rules.ends.wrong_fork: or origin == walk.protocol": "its own record before its genesis is a finding",
    "trust.rules.ends.wrong_fork: or parsed.parent is None": "a genesis without a parent is a finding",
    "trust.rules.ends.wrong_fork: or report.state is None": "what verifies has a state",
    "trust.rules.ends.older_policies: return f": "a note and no verdict: tests/attacks/test_hostile_places.py",
    "trust.approval._is_seen: return approval.reject(RejectionReason.UNSEEN": "a note and no verdict: test_merge_word",
}


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
    due = [mutant for mutant in every if is_due(mutant.key, 16)]
    survived = [mutant for mutant in due if not is_found(mutant, judge, right, ran)]
    excused = {start for mutant in survived for start in NOT_SHOWN if mutant.key.startswith(start)}
    # Of a reason whose checks are not all tried this time, nothing can be said.
    left = {start for start in NOT_SHOWN for mutant in every if mutant not in due and mutant.key.startswith(start)}
    new = [f"{mutant.place}: {mutant.key}" for mutant in survived if not mutant.key.startswith(tuple(NOT_SHOWN))]
    assert not new, f"{len(new)} of {len(due)} checks that no stored history needs; store one:\n" + "\n".join(new)
    assert set(NOT_SHOWN) - left <= excused, f"a history shows these by now: {set(NOT_SHOWN) - left - excused}"


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
