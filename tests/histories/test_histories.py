"""Each stored history keeps the verdict that it was stored with, of both verifiers."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.protocol.events import MODELS
from runner.trust import rules
from tests.conftest import mostly_slow
from tests.histories import stored
from tests.histories.__main__ import keep, listed
from tests.histories.made import Desk
from tests.histories.stored import DIGESTS, HERE, Shelf, cases

BESIDE = {"transcript", "base", "seal", "mark", "handed-over"}  # 24 to 27 and of a job: no walk along a chain asks them


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    held = Shelf(tmp_path_factory.mktemp("shelf"))
    yield held
    held.close()


@pytest.mark.parametrize("name", cases())
def test_a_stored_history_keeps_its_verdict(name: str, shelf: Shelf) -> None:
    case = cases()[name]
    assert shelf.verdict(case) == (case.verdict, case.transitions)
    if case.says:
        assert shelf.says(case) == case.says
    if shelf.ref(case, "tip") is not None:
        code, why = shelf.second(case)
        assert code == case.second, why
        assert ("not judged" in why) == case.unjudged, why


def test_every_event_is_in_a_stored_history_that_holds(shelf: Shelf) -> None:
    """A new event wants a function in `made` that stores one (`make histories`)."""
    found = {event for case in cases().values() if not case.verdict for event in shelf.events(case)}
    assert set(MODELS) - found == set()


def test_every_rule_finds_something_in_a_stored_history() -> None:
    """And nothing else is found there, in one at least."""
    alone = {next(iter(case.rules)) for case in cases().values() if len(case.rules) == 1}
    assert {*(name for _, name, _ in rules.OF_COMMIT), *BESIDE, "readable"} - alone == set()


def test_what_is_listed_is_stored() -> None:
    missing = [name for name in listed() if name not in cases()]
    assert not missing, f"run `make histories`: {missing}"


def test_what_was_stored_is_as_it_was() -> None:
    """A bundle is never written again, and nobody takes out what it has: each is listed with its digest."""
    found = {f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in HERE.glob("*.bundle")}
    assert found == set(DIGESTS.read_text().splitlines())


# What clones may lack something of: a chain of code, one of words, one whose step a model did, and one that is signed.
LACKING = (
    "good/a_step_of_a_person_s",
    "words/a_word_on_a_call/used",
    "words/a_step_done_with_its_word/used",
    "words/a_transition_that_a_runner_signed/used",
    "words/a_key_that_was_revoked_after_its_word/used",
    "words/a_word_on_a_result/used",
    "words/v2_a_merge_of_two_clones_with_harmless_edits/used",
    "good/edited_by_people_and_undone",
    "good/work_that_was_merged_onto_an_edit",
    "good/a_fork",
)


@pytest.mark.parametrize("name", mostly_slow(LACKING))
def test_what_is_not_here_is_never_taken_for_good_nor_for_bad(name: str, shelf: Shelf) -> None:
    """Whatever object a clone lacks, it cannot tell, or needs none of it and says what it would."""
    case, cannot = cases()[name], 0
    with shelf.lacking(case) as (oids, verdict):
        for oid in oids:
            told = verdict(oid)
            assert told in ((case.verdict, case.transitions), ((stored.CANNOT_TELL,), 0)), (oid, told)
            cannot += told[1] == 0
    assert cannot > len(oids) // 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["attacks/a_foxtrot_merge", "words/a_result_that_her_own_runner_made/used", "beside/signed_and_sealed"]
)
def test_what_is_made_again_is_the_same_but_for_its_times(name: str, shelf: Shelf, tmp_path: Path) -> None:
    """The clock of the desk goes on with each look at it, and how often a command looks is no promise: ids differ with that."""
    case, fresh = cases()[name], Shelf(tmp_path / "shelf", bundles=tmp_path)
    made = listed()[name](Desk(tmp_path / "desk"))
    try:
        again = keep(fresh, name, case.bundle, made)
    finally:
        fresh.close()
    without = [re.sub(r"[0-9a-f]{12,}", "ID", str(dataclasses.asdict(one))) for one in (again, case)]
    assert without[0] == without[1]
    assert shelf.ref(case, "tip") is not None and "tip" in made.refs


@pytest.mark.slow
@pytest.mark.window(10)
@pytest.mark.parametrize("name", listed())
def test_what_the_attacks_make_today_is_found_today(name: str, tmp_path: Path) -> None:
    """By the formats as they are now, which need not be those of what is stored; a tenth at each commit, all at night."""
    fresh = Shelf(tmp_path, bundles=tmp_path)
    try:
        keep(fresh, name, "0000", listed()[name](Desk(tmp_path / "desk")))  # compares it with what is meant
    finally:
        fresh.close()
