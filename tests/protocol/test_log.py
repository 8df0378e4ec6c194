"""log.md: what is written is read again, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import IntegrityError, UsageError
from runner.protocol import events as ev
from runner.protocol import log
from runner.protocol.events import Entry
from tests.protocol import histories
from tests.protocol.histories import PROTOCOL, entry

HEAD = b"## 1 paused a\n- time: 2026-11-20T06:47:03Z\n- actor: alice\n"


SCHEMAS = pytest.mark.parametrize("schema", [1, 2])


@SCHEMAS
@given(one=histories.entries)
def test_what_is_written_is_read_again(schema: int, one: Entry) -> None:
    data = log.append(b"", [one], schema)

    assert data.isascii()
    assert log.parse(data, "log.md") == [one]


@SCHEMAS
@given(found=st.lists(histories.entries, max_size=6), data=st.data())
def test_entries_added_one_by_one_are_the_whole_log(schema: int, found: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(found)))

    whole = log.append(b"", found, schema)
    assert log.append(log.append(b"", found[:at], schema), found[at:], schema) == whole
    assert log.parse(whole, "log.md") == found


@given(histories.texts)
def test_a_text_stays_a_text_and_on_its_line(text: str) -> None:
    written = log.render(entry(1, ev.Paused(subject=PROTOCOL, reason=text)))

    assert written.count("\n") == 4
    (read,) = log.parse_raw(written.encode() + b"\n", "log.md")
    assert read.fields == {"reason": text}


@given(st.from_regex(log.BARE.pattern, fullmatch=True))
def test_a_bare_word_is_one_that_json_cannot_read(word: str) -> None:
    import json

    try:
        json.loads(word)
    except ValueError:
        readable = len(word) > 4300  # Python reads no longer numbers; they are numbers all the same
    else:
        readable = True
    assert log.is_bare(word) is not readable


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb"])
def test_half_characters_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not valid Unicode") as refused:
        log.render(entry(1, ev.Paused(subject=PROTOCOL, reason=text)))

    assert refused.value.where == f"the field `reason` of `paused {PROTOCOL}`"


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        ({"a": [float("-inf")]}, "not finite"),
        (10**300, "300 digits"),
        (nested(65), "nested deeper than 64"),
        ({"\ud800": 1}, "not valid Unicode"),
    ],
)
def test_values_that_could_not_be_read_again_are_refused(value: object, what: str) -> None:
    done = ev.StepFinished(subject="a", attempt=1, digest="d", start="s", executor="host", result=value)

    with pytest.raises(UsageError, match=what):
        log.render(entry(1, done))


def test_a_deep_value_is_read_again() -> None:
    done = ev.StepFinished(subject="a", attempt=1, digest="d", start="s", executor="host", result=nested(64))

    for schema in (1, 2):
        assert log.parse(log.append(b"", [entry(1, done)], schema), "log.md")[0].event == done


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (b"text\n\n", 1, "no headline"),
        (b"## 01 paused a\n\n", 1, "no headline"),
        (b"## 0 paused a\n\n", 1, "no headline"),
        (b"## 1 Paused a\n\n", 1, "no headline"),
        (b"## 1 paused A\n\n", 1, "no headline"),
        (b"## 1 paused a b\n\n", 1, "no headline"),
        (b"##  1 paused a\n\n", 1, "no headline"),
        (b"\n" + HEAD + b"\n", 1, "no headline"),
        (HEAD + b"\n\n", 5, "no headline"),
        (HEAD, 4, "cut off"),
        (HEAD + b"\n" + HEAD, 8, "cut off"),
        (HEAD + b"reason: x\n\n", 4, "no field"),
        (HEAD + b"- reason:x\n\n", 4, "no field"),
        (HEAD + b"- reason: x\r\n\n", 4, "no field"),
        (HEAD + b"- reason: x\n- reason: x\n\n", 5, "no field"),
        (HEAD + b"- reason: a b\n\n", 4, "neither a bare word nor JSON"),
        (HEAD + b"- reason: NaN\n\n", 4, "neither a bare word nor JSON"),
        (HEAD + b"- reason: 1e999\n\n", 4, "neither a bare word nor JSON"),
        (HEAD + b"- reason: " + b"1" * 5000 + b"\n\n", 4, "neither a bare word nor JSON"),
        (HEAD + b"- reason: " + b"[" * 60_000 + b"\n\n", 4, "nested too deep"),
        (HEAD + b'- reason: "x"\n\n', 4, "not written as the runner writes it"),
        (HEAD + b'- reason: {"b": 1,"a": 2}\n\n', 4, "not written as the runner writes it"),
        (HEAD + b'- reason: {"a": 1, "a": 1}\n\n', 4, "not written as the runner writes it"),
        (HEAD + b"- reason: 1e5\n\n", 4, "not written as the runner writes it"),
        (b"## 1 paused a\n- actor: a\n\n", 1, "when and by whom"),
        (b"## 1 paused a\n- time: now\n- actor: a\n\n", 1, "when and by whom"),
        (b"## 1 paused a\n- time: 2026-11-20T06:47:03Z\n- actor: 1\n\n", 1, "when and by whom"),
        (HEAD + b"\n" + "## 2 paused ä\n\n".encode(), 5, "not ASCII"),
    ],
)
def test_what_is_not_of_the_grammar_is_refused_by_line(data: bytes, line: int, what: str) -> None:
    with pytest.raises(IntegrityError, match=what) as refused:
        log.parse_raw(data, "log.md")

    assert refused.value.where == f"log.md:{line}"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"## 1 exploded a\n- time: 2026-11-20T06:47:03Z\n- actor: a\n\n", "`exploded` is not known to this version"),
        (HEAD + b"- reason: 5\n\n", "bad field `reason`"),
        (HEAD + b"- resaon: x\n\n", "bad field `resaon`"),
        (HEAD + b'- reason: "\\ud800"\n\n', "bad field"),
        (HEAD.replace(b"paused", b"step-completed") + b"\n", "bad field `attempt`"),
        (HEAD.replace(b"paused", b"step-completed") + b"- attempt: true\n\n", "bad field `attempt`"),
        (HEAD.replace(b"paused", b"step-completed") + b"- attempt: 1.0\n\n", "bad field `attempt`"),
        (
            HEAD.replace(b"paused", b"planned") + b'- plan: d\n- steps: {"a": {"place": 1}}\n\n',
            "bad field `steps.a.title`",
        ),
        (
            HEAD.replace(b"paused", b"step-failed") + b'- attempt: 1\n- reason: x\n- spent: {"euro": 1}\n\n',
            "bad field `spent.euro`",
        ),
    ],
)
def test_an_event_with_other_fields_than_its_own_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(IntegrityError, match=what) as refused:
        log.parse(data, "log.md")

    assert refused.value.where == "log.md, entry 1"


@given(st.binary(max_size=200) | st.text(alphabet='#- :abz12\n{}[]",.', max_size=200).map(str.encode))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, HEAD + b"- reason: " + data + b"\n\n", HEAD + data + b"\n\n"):
        try:
            found = log.parse(candidate, "log.md")
        except IntegrityError:
            continue
        assert log.append(b"", found, 1) == candidate


def test_long_text_is_cut_at_500_characters() -> None:
    assert log.cut("ä" * 500) == "ä" * 500
    assert len(log.cut("ä" * 501)) == 500
    assert log.cut_tail(b"\xff" + b"x" * 1000) == "…" + "x" * 499


@pytest.mark.parametrize(
    ("name", "shown"),
    [("alice@example.test", "alice@example.test"), ("Alice B", "unnamed"), ("1", "unnamed"), ("a" * 255, "unnamed")],
)
def test_an_actor_that_is_no_bare_word_is_unnamed(name: str, shown: str) -> None:
    assert log.actor(name) == shown
