"""The journal: whole records or none, and nothing guessed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from runner.errors import IntegrityError
from runner.executor.journal import DamagedJournalError, Journal
from runner.protocol.transcript import Unknown

RECORDS = st.lists(
    st.dictionaries(st.text(max_size=8), st.text(max_size=40) | st.integers(), max_size=4), min_size=1, max_size=6
)


@settings(max_examples=20)
@given(RECORDS)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    journal = Journal(path)
    for record in records:
        journal.append(Unknown(record))
    # In the order of their keys too: a result whose keys had moved would be a request that no provider has in its cache.
    assert json.dumps(Journal(path).rows) == json.dumps(records)


def test_a_torn_last_record_is_cut_off_at_every_byte_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append(Unknown({"n": 1}))
    whole = path.read_bytes()
    journal.append(Unknown({"n": 2, "text": "ü\n"}))
    both = path.read_bytes()
    for end in range(len(whole), len(both)):
        path.write_bytes(both[:end])
        torn = Journal(path)
        assert torn.rows == [{"n": 1}], end
        torn.append(Unknown({"n": 3}))
        assert Journal(path).rows == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_damaged_record_in_the_middle_is_refused(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append(Unknown({"n": 1}))
    journal.append(Unknown({"n": 2}))
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="damaged"):
        Journal(path)


def test_a_record_that_was_taken_out_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append(Unknown({"n": number}))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[1])
    with pytest.raises(IntegrityError):
        Journal(path)


def test_what_the_history_has_is_gone_on_from_elsewhere_and_where_it_was_cut(tmp_path: Path) -> None:
    there = Journal(tmp_path / "there.jsonl")
    for number in range(3):
        there.append(Unknown({"n": number, "text": "ä"}))
    told = there.transcript()
    for many in range(4):  # records that are here already: a kill while they were taken up, or an older state
        here = Journal(tmp_path / f"{many}.jsonl")
        for record in there.rows[:many]:
            here.append(Unknown(record))
        here.take_up(told)
        assert here.rows == there.rows
        assert here.filed == 3
        here.append(Unknown({"n": 3}))
        again = Journal(tmp_path / f"{many}.jsonl")
        again.take_up(told)
        assert (len(again.rows), again.filed) == (4, 3)
    assert not list(tmp_path.glob("*lost*"))


def test_what_went_another_way_than_the_history_is_kept_beside(tmp_path: Path) -> None:
    there, here = Journal(tmp_path / "there.jsonl"), Journal(tmp_path / "here.jsonl")
    for journal, texts in ((there, "abc"), (here, "axyz")):
        for text in texts:
            journal.append(Unknown({"text": text}))
    ours = list(here.rows)
    here.take_up(there.transcript())
    assert Journal(tmp_path / "here.jsonl").rows == here.rows == there.rows
    assert Journal(tmp_path / "here.lost-1.jsonl").rows == ours
    assert Journal(tmp_path / "here.lost-1.jsonl").alike(there.transcript()) == 1


def test_a_length_without_end_is_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path).append(Unknown({"n": 1}))
    path.write_bytes(b"9" * 5000 + b"\n" + path.read_bytes())
    with pytest.raises(IntegrityError, match="damaged"):
        Journal(path)


# --- damage ----------------------------------------------------------------------------------------------------------------


def starts(path: Path) -> list[int]:
    """Where each record begins, and the end."""
    found = [0]
    for line in path.read_bytes().splitlines(keepends=True):
        found.append(found[-1] + len(line))
    return found


@settings(max_examples=30)
@given(RECORDS, st.data())
def test_cut_anywhere_all_whole_records_are_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    for record in records:
        Journal(path).append(Unknown(record))
    whole, begins = path.read_bytes(), starts(path)
    for end in {data.draw(st.integers(0, len(whole))) for _ in range(20)}:
        path.write_bytes(whole[:end])
        count = sum(begin <= end for begin in begins[1:])
        journal = Journal(path)
        assert journal.rows == records[:count], end
        journal.append(Unknown({"after": end}))
        assert Journal(path).rows == [*records[:count], {"after": end}]


@settings(max_examples=30)
@given(RECORDS, st.data())
def test_a_byte_that_changed_is_told_with_its_record_and_place(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], data: st.DataObject
) -> None:
    """In the last record too: it was whole, so it may have been used."""
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    for record in records:
        Journal(path).append(Unknown(record))
    whole, begins = path.read_bytes(), starts(path)
    for at in {data.draw(st.integers(0, len(whole) - 1)) for _ in range(20)}:
        damaged = bytearray(whole)
        damaged[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(damaged))
        number = sum(begin <= at for begin in begins[:-1])
        with pytest.raises(DamagedJournalError) as told:
            Journal(path)
        assert (told.value.number, told.value.offset) == (number, begins[number - 1]), at
        assert str(path) in told.value.where and f"byte {begins[number - 1]}" in told.value.what
        assert path.read_bytes() == bytes(damaged)  # nothing is mended by looking


@pytest.mark.parametrize("hole", [(0, 512), (512, 1024), (1024, None), (0, None)])
def test_sectors_that_never_came_to_the_disk_are_a_torn_record(tmp_path: Path, hole: tuple[int, int | None]) -> None:
    """After a power cut a file may have its length and not its bytes."""
    path = tmp_path / "a.jsonl"
    Journal(path).append(Unknown({"n": 1}))
    length = path.stat().st_size
    Journal(path).append(Unknown({"text": "x" * 3000}))
    data = bytearray(path.read_bytes())
    begin, end = max(hole[0], length), hole[1] or len(data)
    data[begin:end] = bytes(end - begin)
    path.write_bytes(bytes(data))
    assert Journal(path).rows == [{"n": 1}]


def test_a_record_that_follows_a_hole_is_not_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for number in range(3):
        Journal(path).append(Unknown({"n": number, "text": "x" * 1000}))
    data = bytearray(path.read_bytes())
    data[1536:2048] = bytes(512)
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedJournalError, match="record 2 "):
        Journal(path)


# --- a disk that says no ---------------------------------------------------------------------------------------------------

WRITE = """
import sys
from pathlib import Path
from runner.executor.journal import Journal
from runner.protocol.transcript import Unknown
journal = Journal(Path(sys.argv[1]))
for number in range(2):
    try:
        journal.append(Unknown({"n": number, "text": "x" * 5000}))
        print("kept", number)
    except OSError as error:
        print(error.filename, error.strerror)
"""


def under(tmp_path: Path, *inject: str) -> list[str]:
    """Append two records under strace, which has a system call fail, and return what was told."""
    argv = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(tmp_path / "trace"),
        *inject,
        sys.executable,
        "-c",
        WRITE,
        str(tmp_path / "j" / "a.jsonl"),
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 6))
def test_where_the_disk_says_no_nothing_is_written_again(tmp_path: Path, number: int) -> None:
    """fsync fails once, and would succeed the next time: what it was about may be lost, so that is not believed."""
    told = under(tmp_path, "-e", f"inject=fsync:error=EIO:when={number}")
    calls = (tmp_path / "trace").read_text()
    path = tmp_path / "j" / "a.jsonl"
    if "INJECTED" not in calls:
        assert told == ["kept 0", "kept 1"] and number > 4  # the file, its two folders, the file again
        return
    assert told[-1] == f"{path} Input/output error"
    kept = sum(line.startswith("kept") for line in told)
    assert len(Journal(path).rows) == kept
    assert calls.rpartition("INJECTED")[2].count("pwrite64") == 0


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    told = under(tmp_path, "-e", "inject=pwrite64:error=ENOSPC:when=2")
    path = tmp_path / "j" / "a.jsonl"
    assert told == ["kept 0", f"{path} No space left on device"]
    assert [record["n"] for record in Journal(path).rows] == [0]


@pytest.mark.slow
def test_a_write_that_is_short_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A file may not grow past a limit, which stops a write in its middle."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n{WRITE}"
    argv = [sys.executable, "-c", limit, str(tmp_path / "a.jsonl")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == ["kept 0", f"{tmp_path / 'a.jsonl'} File too large"]
    assert [record["n"] for record in Journal(tmp_path / "a.jsonl").rows] == [0]


STORED = (  # as the first version wrote it
    b'7 2bfd14f43d17fc7cea24e0917a8879b4b2f880b8baeec1b9d90fbaad655e71bd {"n":1}\n'
    b'35 9989ccf1261420cfdc40b8930b9092db98a409e6641a26b3b8e3d82f58fec870 {"kind":"response","text":"\\u00fc"}\n'
)


def test_a_journal_of_the_first_version_is_read_and_still_written_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(STORED)
    journal = Journal(path)
    assert journal.rows == [{"n": 1}, {"kind": "response", "text": "ü"}]
    again = Journal(tmp_path / "b.jsonl")
    for record in journal.rows:
        again.append(Unknown(record))
    assert again.path.read_bytes() == STORED


def test_a_record_without_the_fields_of_its_kind_is_refused_where_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path).append(Unknown({"kind": "dreamt"}))
    Journal(path).append(Unknown({"kind": "intent", "call": "a.1.1"}))
    journal = Journal(path)
    assert len(journal.rows) == 2
    with pytest.raises(IntegrityError, match="record 2 ") as told:
        _ = journal.records
    assert f"mv {path}" in told.value.hint


@pytest.mark.parametrize("row", [{"kind": "dreamt"}, {"kind": ["response"]}, {"n": 1}, [], None, "response"])
def test_a_record_of_no_kind_that_is_known_is_kept_as_it_is(tmp_path: Path, row: object) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path).append(Unknown(row))
    again = Journal(path)
    assert again.records == [Unknown(row)] and again.transcript() == json.dumps(row).encode() + b"\n"


def test_the_bytes_of_an_answer_are_kept_until_it_is_a_record_or_another_is_asked_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "folder/a.jsonl")
    kept = tmp_path / "folder/a.arriving"
    keep = journal.arriving()
    keep(b"data: {")
    keep(b'"half')
    assert kept.read_bytes() == b'data: {"half' and kept.stat().st_mode & 0o777 == 0o600
    journal.arriving()(b"anew")
    assert kept.read_bytes() == b"anew"
    journal.append(Unknown({"n": 1}))
    assert not kept.exists() and Journal(journal.path).rows == [{"n": 1}]
