"""The journal: whole records or none, and nothing guessed over."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from runner.errors import IntegrityError
from runner.executor.journal import Journal

RECORDS = st.lists(
    st.dictionaries(st.text(max_size=8), st.text(max_size=40) | st.integers(), max_size=4), min_size=1, max_size=6
)


@settings(max_examples=40)
@given(RECORDS)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    journal = Journal(path)
    for record in records:
        journal.append(record)
    assert Journal(path).records == records


def test_a_torn_last_record_is_cut_off_at_every_byte_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append({"n": 1})
    whole = path.read_bytes()
    journal.append({"n": 2, "text": "ü\n"})
    both = path.read_bytes()
    for end in range(len(whole), len(both)):
        path.write_bytes(both[:end])
        torn = Journal(path)
        assert torn.records == [{"n": 1}], end
        torn.append({"n": 3})
        assert Journal(path).records == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_damaged_record_in_the_middle_is_refused(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append({"n": 1})
    journal.append({"n": 2})
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="damaged"):
        Journal(path)


def test_a_record_that_was_taken_out_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append({"n": number})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[1])
    with pytest.raises(IntegrityError):
        Journal(path)


def test_what_the_history_has_is_gone_on_from_elsewhere_and_where_it_was_cut(tmp_path: Path) -> None:
    there = Journal(tmp_path / "there.jsonl")
    for number in range(3):
        there.append({"n": number, "text": "ä"})
    told = there.transcript()
    for many in range(4):  # records that are here already: a kill while they were taken up, or an older state
        here = Journal(tmp_path / f"{many}.jsonl")
        for record in there.records[:many]:
            here.append(record)
        here.take_up(told)
        assert here.records == there.records
        assert here.filed == 3
        here.append({"n": 3})
        again = Journal(tmp_path / f"{many}.jsonl")
        again.take_up(told)
        assert (len(again.records), again.filed) == (4, 3)
    assert not list(tmp_path.glob("*lost*"))


def test_what_went_another_way_than_the_history_is_kept_beside(tmp_path: Path) -> None:
    there, here = Journal(tmp_path / "there.jsonl"), Journal(tmp_path / "here.jsonl")
    for journal, texts in ((there, "abc"), (here, "axyz")):
        for text in texts:
            journal.append({"text": text})
    ours = list(here.records)
    here.take_up(there.transcript())
    assert Journal(tmp_path / "here.jsonl").records == here.records == there.records
    assert Journal(tmp_path / "here.lost-1.jsonl").records == ours
    assert Journal(tmp_path / "here.lost-1.jsonl").alike(there.transcript()) == 1


def test_a_length_without_end_is_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path).append({"n": 1})
    path.write_bytes(b"9" * 5000 + b"\n" + path.read_bytes())
    with pytest.raises(IntegrityError, match="damaged"):
        Journal(path)
