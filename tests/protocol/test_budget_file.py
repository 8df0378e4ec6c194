"""A day of the ledger: read as it is written, nothing else is taken for one, and its arithmetic."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import IntegrityError, MalformedFileError
from runner.protocol import policy_file, ref_files
from runner.protocol.policy_file import DayBudget
from tests.protocol.test_policy_file import PEOPLE
from tests.protocol.test_schema import validator

NONCE = "6f0c" * 8
RESERVED: dict[str, Any] = {
    "by": "alice@example.test",
    "host": "workshop",
    "ci": None,
    "protocol": None,
    "time": "2026-11-20T06:47:03Z",
    "usd": "0.4",
    "tokens": 0,
}
WHOLE: dict[str, Any] = {
    "schema": 1,
    "day": "2026-11-20",
    "usd": "3.2",
    "tokens": 31200,
    "unpriced": 0,
    "open": {NONCE: RESERVED},
}


@pytest.mark.parametrize("more", [{}, {"open": {}}, {"unpriced": 7}])
def test_what_is_written_is_read_and_the_schema_takes_it(more: dict[str, Any]) -> None:
    made = ref_files.Day.model_validate(WHOLE | more)
    assert ref_files.parse_day(ref_files.render(made), "2026-11-20", "ref") == made
    validator("ledger").validate(json.loads(ref_files.render(made)))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("schema", 2),
        ("day", "2026-11-2"),
        ("usd", "-3"),
        ("usd", "1e9"),
        ("usd", 3),
        ("tokens", -1),
        ("unpriced", True),
        ("open", {"1": RESERVED}),
        ("open", {NONCE: RESERVED | {"usd": "-0.4"}}),
        ("open", {NONCE: RESERVED | {"by": "a b"}}),
        ("more", 1),
    ],
)
def test_what_is_none_is_refused_by_the_field_and_by_the_schema(field: str, bad: object) -> None:
    wrong = WHOLE | {field: bad}
    with pytest.raises(IntegrityError, match=field) as told:
        ref_files.parse_day(json.dumps(wrong).encode(), "2026-11-20", "ref")
    assert "next:" in str(told.value)
    assert not validator("ledger").is_valid(wrong)


def test_a_file_of_another_day_is_no_days() -> None:
    with pytest.raises(IntegrityError, match="another day"):
        ref_files.parse_day(json.dumps(WHOLE).encode(), "2026-11-21", "ref")


def test_what_is_reserved_counts_and_what_is_settled_takes_its_place() -> None:
    day, cap = ref_files.Day.model_validate(WHOLE), DayBudget.model_validate({"usd": 10, "tokens": 40_000})
    assert day.left(cap) == (Decimal("6.4"), 8_800)
    assert day.left(cap, but=NONCE) == (Decimal("6.8"), 8_800)
    assert day.left(DayBudget()) == (None, None)
    done = day.settle(NONCE, Decimal("0.1"), 200, 5)
    assert done.open == {} and (done.usd, done.tokens, done.unpriced) == ("3.3", 31_400, 5)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(0, 400)), max_size=30),
    st.integers(0, 1000),
)
def test_the_sum_never_passes_the_cap(acts: list[tuple[int, int, int]], cents: int) -> None:
    """Runners that reserve no more than is left, and spend no more than they reserved, whoever of them is never heard of again."""
    cap = DayBudget.model_construct(usd=Decimal(cents) / 100, tokens=cents * 10)
    day, spent = ref_files.Day(day="2026-11-20"), Decimal(0)
    for who, wanted, used in acts:
        nonce = f"{who:032x}"
        left, tokens = day.left(cap, but=nonce)
        assert left is not None and tokens is not None
        usd = min(Decimal(wanted) / 100, left)
        reserved = ref_files.Reserved.model_validate(
            RESERVED | {"usd": ref_files.amount(usd), "tokens": min(wanted, tokens)}
        )
        day = ref_files.parse_day(ref_files.render(day.reserve(nonce, reserved)), day.day, "ref")
        if used % 3:  # else it died
            paid = min(Decimal(used) / 100, usd)
            spent += paid
            day = day.settle(nonce, paid, min(used, tokens), 0)
        assert spent <= Decimal(day.usd) <= Decimal(cents) / 100
        assert all(one is not None and one >= 0 for one in day.left(cap))


@pytest.mark.parametrize("text", ["{turns: 1}", "{usd: -1}", "{usd: x}", "10"])
def test_a_days_budget_is_in_money_and_tokens(text: str) -> None:
    with pytest.raises(MalformedFileError):
        policy_file.parse((PEOPLE + f"budget: {{day: {text}}}\n").encode(), ".protocols/policy.yaml")
