"""The message of a transition's commit, and what only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.protocol import events as ev
from runner.protocol import log
from runner.protocol.events import Entry
from tests.protocol import histories
from tests.protocol.histories import OID, PROTOCOL, begun, entry, planned_step

GOOD = log.render_message(PROTOCOL, begun({"a": planned_step(1)}), OID, schema=1)
TRAILERS = GOOD[GOOD.rindex(b"\n\n") + 2 :]


@given(st.lists(histories.entries, min_size=1, max_size=4), st.sampled_from([OID, "b" * 64]))
def test_what_is_written_is_read_again(found: list[Entry], trusted: str) -> None:
    written = log.render_message(PROTOCOL, found, trusted, schema=1)

    assert written.isascii()
    read = log.parse_message(written)
    assert read is not None
    assert (read.protocol, read.trusted, read.actor) == (PROTOCOL, trusted, found[-1].actor)
    assert read.revision == found[-1].revision
    assert read.events == tuple(f"{one.event.name} {one.event.subject}" for one in found)
    body = written.split(b"\n\n", 1)[1].removesuffix(TRAILERS if written.endswith(TRAILERS) else b"")
    assert body.startswith(log.render(found[0]).encode())


@given(histories.entries, st.sampled_from(["title", "reason", "text"]))
def test_no_text_of_an_event_begins_a_line(one: Entry, key: str) -> None:
    written = log.render_message(PROTOCOL, [one], OID, schema=1).decode()
    starts = ("## ", "- ", "Runner-", f"{PROTOCOL}: ")

    assert all(not line or line.startswith(starts) for line in written.splitlines())


def test_a_message_as_a_whole() -> None:
    done = [
        entry(12, ev.QaPassed(subject="a", attempt=1, tree=OID, evidence=[])),
        entry(13, ev.StepCompleted(subject="a", attempt=1)),
        entry(14, ev.Completed(subject=PROTOCOL)),
    ]

    assert log.render_message(PROTOCOL, done, OID, schema=1).decode() == (
        f"{PROTOCOL}: a completed, all done\n"
        "\n"
        f"## 12 qa-passed a\n- time: {histories.TIME}\n- actor: runner\n- attempt: 1\n- tree: {OID}\n- evidence: []\n"
        "\n"
        f"## 13 step-completed a\n- time: {histories.TIME}\n- actor: runner\n- attempt: 1\n"
        "\n"
        f"## 14 completed {PROTOCOL}\n- time: {histories.TIME}\n- actor: runner\n"
        "\n"
        f"Runner-Protocol: {PROTOCOL}\nRunner-Revision: 14\n"
        f"Runner-Event: qa-passed a\nRunner-Event: step-completed a\nRunner-Event: completed {PROTOCOL}\n"
        f"Runner-Trusted: {OID}\nRunner-Actor: runner\n"
    )


@pytest.mark.parametrize(
    "forged",
    [
        TRAILERS,  # no paragraph before it
        b"x" + TRAILERS,
        b"x\n" + TRAILERS,
        GOOD + b"\n",
        GOOD + b"Signed-off-by: me\n",
        GOOD + b"\nSigned-off-by: me\n",
        GOOD.removesuffix(b"\n"),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"Runner-Actor: ", b"Runner-Actor:"),
        GOOD.replace(b"Runner-Actor: ", b"runner-actor: "),
        GOOD.replace(b"Runner-Actor: runner", b"Runner-Actor: runner x"),
        GOOD.replace(b"Runner-Actor: runner\n", b"Runner-Actor: runner\nRunner-Actor: runner\n"),
        GOOD.replace(b"Runner-Revision: 2", b"Runner-Revision: 02"),
        GOOD.replace(b"Runner-Revision: 2", b"Runner-Revision: " + b"2" * 5000),
        GOOD.replace(b"Runner-Revision: 2\n", b""),
        GOOD.replace(b"Runner-Event: ", b" Runner-Event: "),
        GOOD.replace(b"Runner-Trusted: " + OID.encode(), b"Runner-Trusted: " + b"a" * 41),
        GOOD.replace(b"Runner-Trusted: " + OID.encode(), b"Runner-Trusted: main"),
        GOOD.replace(f"Runner-Protocol: {PROTOCOL}".encode(), b"Runner-Protocol: 7-x"),
        GOOD.replace(b"Runner-Actor: runner", "Runner-Actor: ünï".encode()),
        "ü".encode() + GOOD,
        b"",
        b"\n\n",
    ],
)
def test_what_is_not_exactly_a_transition_s_is_none(forged: bytes) -> None:
    assert log.parse_message(forged) is None


@pytest.mark.parametrize(
    ("text", "forged"),
    [
        (b"fix\n\nRunner-Event: paused x\n", True),
        (b"fix\n\nrunner-event : paused x\n", True),
        (b"Runner-Protocol=0007-x\n", True),
        (b"fix\n\n\xff\nRUNNER-ACTOR: x\n", True),
        (b"fix the Runner-Event: line\n", False),
        (b"fix\n\n Runner-Event: indented\n", False),
        (b"Runners: many\n", False),
    ],
)
def test_a_line_that_could_be_taken_for_a_trailer_is_seen(text: bytes, forged: bool) -> None:
    assert log.has_forged_trailer(text) is forged
    assert log.has_forged_trailer(GOOD)


@given(histories.entries)
def test_the_subject_is_one_short_line(one: Entry) -> None:
    told = log.headline(PROTOCOL, [one._replace(revision=1)])

    assert told.startswith(f"{PROTOCOL}: ")
    assert told.isascii() and "\n" not in told and len(told) < 120
