"""Which reviews count: each case is a file of `reviews/`, in the words of design §4, with its result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.executor.forge_reviews import Reason, count_reviews
from runner.forge import Access, AccountKind, Dismissal, Identity, Membership, Review, ReviewState

CASES = sorted((Path(__file__).parent / "reviews").glob("*.json"))
HOST = "github.com"
ASKED = "a" * 40
RECORD_ONLY = "b" * 40  # after it; adds an approval file and nothing else
OLDER = "0" * 40
NEWER_CODE = "c" * 40
COMMITS = {"asked": ASKED, "record-only": RECORD_ONLY, "older": OLDER, "newer-code": NEWER_CODE, "unknown": None}

# login: id, kind, access; the policy lists alice, bob and carol (carol twice), and agent as an agent
PEOPLE: dict[str, tuple[int, AccountKind | None, Access]] = {
    "alice": (1, AccountKind.PERSON, Access.WRITE),
    "bob": (2, AccountKind.PERSON, Access.ADMIN),
    "carol": (3, AccountKind.PERSON, Access.WRITE),
    "carol-too": (4, AccountKind.PERSON, Access.WRITE),
    "gone": (5, AccountKind.PERSON, Access.READ),
    "app[bot]": (6, AccountKind.BOT, Access.WRITE),
    "agent": (7, AccountKind.PERSON, Access.WRITE),
    "stranger": (8, AccountKind.PERSON, Access.WRITE),
    "unclear": (9, None, Access.WRITE),
}
LISTED = {
    "alice": "alice",
    "bob": "bob",
    "carol": "carol",
    "carol-too": "carol",
    "gone": "gone",
    "app[bot]": "app",
    "agent": "agent",
    "unclear": "unclear",
}


def identity(login: str, number: int | None = None) -> Identity:
    found = PEOPLE.get(login)
    return Identity(
        host=HOST, id=number or (found[0] if found else 99), login=login, kind=found[1] if found else AccountKind.PERSON
    )


def review(index: int, given: dict[str, Any]) -> Review:
    dismissed = None
    if "dismissed" in given:
        by = given["dismissed"].get("by")
        commit = COMMITS[given["dismissed"]["commit"]] if "commit" in given["dismissed"] else None
        dismissed = Dismissal(by=identity(by) if by else None, time=None, commit=commit)
    return Review(
        id=str(index),
        by=identity(given["by"], given.get("id")),
        state=ReviewState(given["said"]),
        commit=COMMITS[given.get("commit", "asked")],
        time=f"2026-11-20T06:{index:02}:00Z",
        dismissed=dismissed,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_case(case: Path) -> None:
    told = json.loads(case.read_text())
    counted = count_reviews(
        [review(index, given) for index, given in enumerate(told["reviews"])],
        principals={identity(login): principal for login, principal in LISTED.items()},
        agents={identity("agent")},
        members={identity(n): Membership(access=a, kind=k) for n, (_, k, a) in PEOPLE.items() if n != told.get("left")},
        fresh={ASKED, RECORD_ONLY},
        authors={identity(login) for login in told.get("wrote", [])},
    )
    assert [*counted.approvals] == told["approvals"], told["about"]
    assert [*counted.objections] == told.get("objections", []), told["about"]
    assert {one.id: reason.name.lower() for one, reason in counted.refused} == told.get("refused", {}), told["about"]


def test_every_reason_has_a_case() -> None:
    shown = {why for case in CASES for why in json.loads(case.read_text()).get("refused", {}).values()}
    assert shown == {reason.name.lower() for reason in Reason}


def _given(by: str, said: str, commit: str, gone: bool) -> dict[str, Any]:
    return {"by": by, "said": said, "commit": commit, **({"dismissed": {"by": "bob"}} if gone else {})}


@given(
    st.lists(
        st.builds(
            _given,
            st.sampled_from(list(PEOPLE)), st.sampled_from([s.value for s in ReviewState]),
            st.sampled_from(list(COMMITS)), st.booleans(),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_nobody_counts_twice_and_everything_is_accounted_for(reviews: list[dict[str, Any]]) -> None:
    given_ = [review(index, each) for index, each in enumerate(reviews)]
    counted = count_reviews(
        given_,
        principals={identity(login): principal for login, principal in LISTED.items()},
        agents={identity("agent")},
        members={identity(n): Membership(access=a, kind=k) for n, (_, k, a) in PEOPLE.items()},
        fresh={ASKED, RECORD_ONLY},
        authors=set(),
    )
    names = [*counted.approvals]
    assert len(names) == len(set(names)) and set(names) <= {"alice", "bob", "carol"}
    assert all(one.commit in (ASKED, RECORD_ONLY) and one.dismissed is None for one in counted.approvals.values())
    told = [
        one.id for one in (*counted.approvals.values(), *counted.objections.values(), *(r for r, _ in counted.refused))
    ]
    assert sorted(told) == sorted(r.id for r in given_ if r.state is not ReviewState.COMMENTED)


def test_an_identity_is_host_and_id() -> None:
    alice = identity("alice")
    assert dataclasses.replace(alice, login="alice-renamed", kind=None) == alice
    assert dataclasses.replace(alice, id=77) != alice
    assert dataclasses.replace(alice, host="git.example.test") != alice
