"""lease.json and its intents: read as they are written, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.errors import IntegrityError
from runner.protocol import ref_files
from tests.protocol.test_schema import validator

REF = "refs/runner/leases/0007-rate-limit"
WHOLE: dict[str, Any] = {
    "schema": 1,
    "holder": "alice@example.test",
    "host": "runner-1",
    "ci": "https://forge.test/a/b/actions/runs/7",
    "expires": "2026-11-20T06:50:11Z",
    "nonce": "6f0c" * 8,
}
INTENT: dict[str, Any] = {
    "kind": "intent",
    "time": "2026-11-20T06:50:11Z",
    "call": "deploy.1.3",
    "tool": "deploy_prod",
    "digest": f"sha256:{'0' * 64}",
    "arguments": {"version": "1.2"},
    "text": "deploy_prod version=1.2",
    "decision": None,
    "revision": 7,
}


@pytest.mark.parametrize("more", [{}, {"ci": None}, {"expires": None}])
def test_what_is_written_is_read_and_the_schema_takes_it(more: dict[str, Any]) -> None:
    made = ref_files.Lease.model_validate(WHOLE | more)
    assert ref_files.parse(ref_files.render(made), REF) == made
    validator("lease").validate(json.loads(ref_files.render(made)))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("schema", 2),
        ("holder", ""),
        ("holder", "a b"),
        ("host", "x\ny"),
        ("host", "\u202e"),
        ("ci", "x" * 201),
        ("expires", "tomorrow"),
        ("nonce", "1"),
        ("more", 1),
    ],
)
def test_what_is_none_is_refused_by_the_field_and_by_the_schema(field: str, bad: object) -> None:
    wrong = WHOLE | {field: bad}
    with pytest.raises(IntegrityError, match=field) as told:
        ref_files.parse(json.dumps(wrong).encode(), REF)
    assert f"--delete {REF}" in told.value.hint
    assert not validator("lease").is_valid(wrong)


def test_an_intent_is_the_line_of_a_transcript_under_its_calls_name() -> None:
    data = ref_files.render_intent(INTENT)
    assert ref_files.parse_intent(data, "deploy.1.3.json", REF) == INTENT
    validator("transcript").validate({key: value for key, value in json.loads(data).items() if key != "revision"})
    for name, wrong in [
        ("deploy.1.4.json", data),
        ("deploy.1.3.json", data + data),
        ("deploy.1.3.json", b"{}"),
        ("deploy.1.3.json", b"[]"),
        ("deploy.1.3.json", data.replace(b'"revision": 7', b'"revision": "7"')),
        ("deploy.1.3.json", data.replace(b"intent", b"held")),
        ("../x.1.3.json", data.replace(b"deploy.1.3", b"../x.1.3")),
    ]:
        with pytest.raises(IntegrityError, match="a lease that cannot be read"):
            ref_files.parse_intent(wrong, name, REF)


def test_names_from_outside_fit() -> None:
    assert [ref_files.printable(one) for one in ("vm", "a b", "ü", "", "x" * 300)] == [
        "vm",
        "a?b",
        "?",
        "unnamed",
        "x" * 200,
    ]
