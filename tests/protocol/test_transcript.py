"""Transcripts: what the program writes is of the schema; what is no transcript is refused by its line."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest

from runner import resources
from runner.errors import IntegrityError
from runner.protocol import transcript
from tests.conftest import Box, command
from tests.executor.minds import agent, ask, finish, mind, say, write

ANSWER: dict[str, Any] = {
    "kind": "response", "time": "2026-11-20T06:47:03Z", "engine": "a:b", "model": "b", "text": "x", "thoughts": "",
    "calls": [{"id": "1", "name": "finish", "arguments": None, "problem": "no JSON"}], "finish": "stop", "provider": "a",
    "usage": {"input": 1, "output": 2, "cached": 0}, "usd": "0.01", "turn": {"any": ["thing"]}, "raw": None,
}  # fmt: skip


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_what_agents_and_judges_write_is_of_the_schema(box: Box) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(resources.schema("transcript")))
    verdict = say(text=json.dumps({"verdict": "PASS", "summary": "fine", "findings": []}))
    said = [
        say(write("a.txt", "a\n"), ("read_file", {"path": "no.txt"}), text="ä\ud83d"),
        say(ask("Which?")),
        finish(n=1),
        verdict,
    ]
    with mind(box, *said, say(text="no verdict"), verdict):
        protocol = box.new(
            {
                "01-x": agent("qa: full\n"),
                "02-y": command("echo y > y.txt", "qa: full\nengine: gemini:gemini-2.5-flash\n"),
            }
        )
        box.runner("run", protocol, rc=3)
        box.runner("answer", protocol, "Blue.", rc=0)
        box.runner("run", protocol, rc=0)
    kinds = set()
    for name in box.git("ls-tree", "-r", "--name-only", f"refs/runner/history/{protocol}").split():
        data = box.git("show", f"refs/runner/history/{protocol}:{name}").encode()
        for record in transcript.parse(data, name):
            row = transcript.plain(record)
            validator.validate(row)
            assert not validator.is_valid(row | {"more": 1})
            kinds.add(record.kind)
    assert kinds == {"response", "results"}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "said"}, {"more": 1}, {"text": None}, {"usd": "-1"}, {"usd": 0.5}, {"usd": "1e9"}, {"calls": [{}]},
        {"usage": {"input": -5, "output": 2, "cached": 0}}, {"usage": {"input": 1.5, "output": 2, "cached": 0}},
        {"usage": {"input": 2**60, "output": 2, "cached": 0}},
    ],
)  # fmt: skip
def test_what_is_none_is_refused_by_its_line(change: dict[str, Any]) -> None:
    assert [transcript.plain(one) for one in transcript.parse(lines(ANSWER, ANSWER), "x")] == [ANSWER, ANSWER]
    with pytest.raises(IntegrityError) as error:
        transcript.parse(lines(ANSWER, ANSWER | change), "runs/x.1.jsonl")
    assert error.value.where == "runs/x.1.jsonl:2"


@pytest.mark.parametrize("data", [b"x\n", b"[]\n", b'{"kind": "task"', b"\xff\n", b"[" * 100_000, b"\n"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        transcript.parse(data, "x")


def test_a_forged_history_is_refused_and_not_gone_on_from(box: Box) -> None:
    with mind(box, say(ask("Which?")), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=3)
        box.runner("answer", protocol, "Blue.", rc=0)
        (box.path / f".git/runner/journal/{protocol}/x.1.jsonl").unlink()
        ref = f"refs/runner/history/{protocol}"
        told = json.loads(box.git("show", f"{ref}:runs/x.1.jsonl").splitlines()[0])
        told["usage"]["input"] = -1_000_000
        blob = box.git("hash-object", "-w", "--stdin", data=json.dumps(told) + "\n").strip()
        runs = box.git("mktree", data=f"100644 blob {blob}\tx.1.jsonl\n").strip()
        tree = box.git("mktree", data=f"040000 tree {runs}\truns\n").strip()
        box.git("update-ref", ref, box.git("commit-tree", "-m", "x", "-p", ref, tree).strip())
        refused = box.runner("run", protocol, rc=4)
        assert "runs/x.1.jsonl" in refused.err and "no line of a transcript" in refused.err
        assert len(wire.bodies) == 1


def test_each_record_is_in_the_table_by_its_own_kind() -> None:
    assert {*transcript.KINDS.values()} == {*get_args(transcript.Line)}
    for kind, model in transcript.KINDS.items():
        assert get_args(get_type_hints(model)["kind"]) == (kind,)
