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


def test_a_transcript_seeds_a_journal_elsewhere(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append({"kind": "response", "text": "hi"})
    other = Journal(tmp_path / "b.jsonl")
    other.seed(journal.transcript())
    assert Journal(tmp_path / "b.jsonl").records == journal.records
