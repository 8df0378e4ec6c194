"""A held call's file: what is written is read again, and nothing else is taken for one."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import resources
from runner.errors import IntegrityError
from runner.protocol import transcript
from runner.protocol.transcript import HeldCall

DIGEST = "sha256:" + "0" * 64


def held(**arguments: object) -> HeldCall:
    return HeldCall(
        tool="send_report",
        arguments=arguments,
        effect="external",
        repeat="never",
        source="incidents:send_report",
        code=DIGEST,
        step="tell",
        attempt=1,
        number=3,
        env=("SMTP_TOKEN",),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=20).filter(lambda key: "\ud800" not in key), JSON, max_size=4))
def test_what_is_written_is_read_again_and_fits_the_schema(arguments: dict[str, object]) -> None:
    made = held(**arguments)
    data = transcript.render_call(made)
    assert data.isascii() and data.endswith(b"}\n")
    assert transcript.parse_call(data, "x").arguments == arguments
    jsonschema.Draft202012Validator(json.loads(resources.schema("call"))).validate(json.loads(data))
    assert "\n" not in made.text()


def test_the_line_for_people() -> None:
    assert held(to="ops@example.test", subject="All well", n=3).text() == (
        'send_report to=ops@example.test subject="All well" n=3'
    )
    assert held(text="x" * 500).text().endswith("x…")
    assert held(text="a\nb\x1b[2J\u202e").text().isprintable()
    assert held().model_copy(update={"tool": "a\x1b[2J\nb"}).text() == r'"a\u001b[2J\nb"'
    assert held().name == "tell.1.3"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b"  ", b" "),
        lambda data: data.replace(b'"schema": 1', b'"schema": 2'),
        lambda data: data.replace(b'"number": 3', b'"number": 0'),
        lambda data: data.replace(b'"env"', b'"more": 1,\n  "env"'),
        lambda data: data.replace(b'"a": 1', b'"a": NaN'),
        lambda data: data.replace(b'"a": 1', b'"a": 1e999'),
        lambda data: data.replace(b'"a": 1', b'"a": ' + b"9" * 4300 + b"0"),
        lambda data: data.replace(b'"a": 1', b'"a": ' + b"[" * 5000 + b"]" * 5000),
        lambda data: data.replace(b'"env"', '"\u202e": 1,\n  "env"'.encode()),
        lambda data: b"{}",
        lambda data: b"",
    ],
)
def test_anything_else_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(IntegrityError) as refused:
        transcript.parse_call(change(transcript.render_call(held(a=1))), "x")
    assert refused.value.what.isprintable()
