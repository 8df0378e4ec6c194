"""Cassettes: found by digest, given in order, the same bytes again, and never edited."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.engines import ModelTurn, Request, Response, ToolResult, ToolTurn, Usage, UserTurn
from runner.engines.recorded import RecordedEngine, Recorder, RecordingMissingError, dump, read
from runner.errors import MalformedFileError, UnsupportedError, UsageError
from tests.engines import cassettes
from tests.engines.benches import BENCHES, CASSETTES
from tests.engines.scenarios import HELLO, STORED


def asked(*texts: str) -> Request:
    """Return a request of some texts."""
    return Request(system="s", turns=tuple(UserTurn(text=text) for text in texts))


def said(text: str) -> Response:
    """Return an answer of some provider's."""
    turn = ModelTurn(text=text, calls=(), provider="somebody", raw={"theirs": text})
    return Response(turn=turn, thoughts="t", usage=Usage(input=1, output=2), model="m-1", raw=[text])


def cassette(path: Path, *pairs: tuple[Request, Response]) -> Path:
    """Write a cassette."""
    path.write_bytes(b"".join(dump("somebody:m", request.plain(), response) for request, response in pairs))
    return path


def test_the_stored_cassettes_are_made_byte_for_byte_the_same(tmp_path: Path) -> None:
    cassettes.make(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in CASSETTES.iterdir()}
    assert sorted(made) == sorted(f"{name}.jsonl" for name in STORED)


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    engine = RecordedEngine(cassette(tmp_path / "c", (asked("a"), said("b"))), "recorded:c")
    assert engine.ask(asked("a"), timeout=1) == said("b")
    assert (engine.name, engine.provider, engine.model) == ("recorded:c", "recorded", "m")


def test_a_recording_keeps_what_the_answer_cost_where_that_was_known(tmp_path: Path) -> None:
    path = tmp_path / "c"
    original = RecordedEngine(cassette(tmp_path / "original", (asked("a"), said("1")), (asked("b"), said("2"))))
    prices = iter([Decimal("0.00012"), None])
    recorder = Recorder(original, path, lambda engine, usage: next(prices))
    assert [recorder.ask(asked(text), timeout=1).usd for text in "ab"] == [Decimal("0.00012"), None]
    lines = path.read_bytes().splitlines()
    assert json.loads(lines[0])["response"]["usd"] == "0.00012" and "usd" not in json.loads(lines[1])["response"]
    again = RecordedEngine(path)
    assert [again.ask(asked(text), timeout=1).usd for text in "ab"] == [Decimal("0.00012"), None]
    said_first = json.loads(lines[0])
    odd: Any
    for odd in ("-1", "NaN", "much", None, {}):
        path.write_text(json.dumps(said_first | {"response": said_first["response"] | {"usd": odd}}) + "\n")
        with pytest.raises(MalformedFileError):
            RecordedEngine(path)


def test_the_same_request_gets_its_answers_in_order_and_no_more(tmp_path: Path) -> None:
    path = cassette(tmp_path / "c", (asked("a"), said("1")), (asked("b"), said("x")), (asked("a"), said("2")))
    engine = RecordedEngine(path)
    assert [engine.ask(asked(text), timeout=1).turn.text for text in "aab"] == ["1", "2", "x"]
    with pytest.raises(RecordingMissingError, match="all given"):
        engine.ask(asked("a"), timeout=1)
    assert RecordedEngine(path).ask(asked("a"), timeout=1).turn.text == "1"


def test_a_missing_request_is_named_with_the_nearest(tmp_path: Path) -> None:
    engine = RecordedEngine(
        cassette(tmp_path / "c", (asked("z"), said("1")), (asked("a", "b", "c"), said("2")), (asked("a"), said("3")))
    )
    request = asked("a", "b", "other")
    with pytest.raises(RecordingMissingError) as told:
        engine.ask(request, timeout=1)
    assert told.value.exit_code == 2
    assert request.digest() in told.value.what
    assert '{"user": "other"}' in told.value.what
    assert "line 2" in told.value.where
    assert 'turns[2].user is "c", and not "other"' in told.value.where


def test_an_empty_cassette_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingMissingError, match="empty"):
        RecordedEngine(cassette(tmp_path / "c")).ask(asked("a"), timeout=1)


def test_what_differs_from_run_to_run_is_the_same_request(tmp_path: Path) -> None:
    def result(text: str) -> Request:
        turn = ToolTurn(results=(ToolResult(id="c1", name="run", content=text),))
        return Request(system="s", turns=(UserTurn(text="a"), turn))

    engine = RecordedEngine(cassette(tmp_path / "c", (result("1 passed in 0.31s"), said("b"))))
    assert engine.ask(result("1 passed in 12.4s"), timeout=1).turn.text == "b"
    with pytest.raises(RecordingMissingError):
        engine.ask(result("2 passed in 0.31s"), timeout=1)


def test_a_recorder_keeps_before_it_hands_over_and_goes_on_at_the_end(tmp_path: Path) -> None:
    source = cassette(tmp_path / "source", (asked("a"), said("1")), (asked("b"), said("2")))
    made = tmp_path / "made"
    for text in "ab":
        recorder = Recorder(RecordedEngine(source), made)
        recorder.ask(asked(text), timeout=1)
        recorder.close()
    replayed = RecordedEngine(made)
    assert [replayed.ask(asked(text), timeout=1) for text in "ab"] == [said("1"), said("2")]


def test_what_was_not_answered_is_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(RecordedEngine(cassette(tmp_path / "none")), tmp_path / "made")
    with pytest.raises(RecordingMissingError):
        recorder.ask(asked("a"), timeout=1)
    assert (tmp_path / "made").read_bytes() == b""


def test_odd_text_is_kept(tmp_path: Path) -> None:
    odd = "\udcff\u2028\x00\x85 é"
    path = cassette(tmp_path / "c", (asked(odd), said(odd)))
    assert RecordedEngine(path).ask(asked(odd), timeout=1) == said(odd)


def test_an_edited_recording_is_refused(tmp_path: Path) -> None:
    path = cassette(tmp_path / "c", (asked("a"), said("1")), (asked("b"), said("2")))
    path.write_bytes(path.read_bytes().replace(b'"user": "b"', b'"user": "B"'))
    with pytest.raises(MalformedFileError, match="edited") as told:
        RecordedEngine(path)
    assert told.value.where == f"{path}:2"


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"{}", b'"x"', b'{"schema": 1}', b"\xff", b'{"schema": 1, "response": []}']
)
def test_a_line_that_is_no_recording_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(dump("e:m", asked("a").plain(), said("1")) + line + b"\n")
    with pytest.raises(MalformedFileError) as told:
        read(path)
    assert told.value.where == f"{path}:2"


def test_a_cut_off_end_is_not_written_behind(tmp_path: Path) -> None:
    path = cassette(tmp_path / "c", (asked("a"), said("1")))
    whole = path.read_bytes()
    for end in (whole[:-1], whole + whole[:40]):
        path.write_bytes(end)
        with pytest.raises(MalformedFileError):
            Recorder(RecordedEngine(cassette(tmp_path / "none")), path)
        assert path.read_bytes() == end


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = cassette(tmp_path / "c", (asked("a"), said("1")))
    line = {**json.loads(path.read_text()), "schema": 2}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UnsupportedError, match="schema 2"):
        RecordedEngine(path)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        RecordedEngine(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be written"):
        Recorder(RecordedEngine(cassette(tmp_path / "c")), tmp_path / "no" / "folder")


def test_every_field_of_a_response_is_kept(tmp_path: Path) -> None:
    full = dataclasses.replace(said("1"), problem="p", usd=Decimal("0.5"))
    (recording,) = read(cassette(tmp_path / "c", (asked("a"), full)))
    assert recording.response == full
    kept = json.loads((tmp_path / "c").read_text())["response"]
    assert len(kept) >= len(dataclasses.fields(Response)) + len(dataclasses.fields(ModelTurn)) - 1


def test_what_was_written_to_a_cache_is_kept(tmp_path: Path) -> None:
    with BENCHES["anthropic"].holding("cache-write", tmp_path) as stand:
        said = Recorder(stand.engine, tmp_path / "a.jsonl").ask(HELLO, timeout=20)
    assert RecordedEngine(tmp_path / "a.jsonl").ask(HELLO, timeout=1).usage == said.usage
