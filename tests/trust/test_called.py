"""Calls that only the transcript tells of: made against the policy of then, by a runner that asked for nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.protocol import events as ev
from runner.protocol.ids import digest
from tests.attacks.forge import Forge
from tests.attacks.test_attacks import finish
from tests.conftest import Box
from tests.executor.test_calls import outside, tool
from tests.people import Person, govern, person, policy

WAITS = 3


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "carol")


def findings(box: Box, protocol: str) -> list[tuple[str, str]]:
    told = box.runner("verify", protocol, "--json").json()["protocols"][0]
    return [(one["rule"], one["text"]) for one in told["findings"]]


def test_a_call_that_had_its_word_holds(box: Box, alice: Person) -> None:
    outside(box)
    govern(box, [alice])
    protocol = box.new({"01-send": tool("send_report", to="ops", subject="done")})
    box.runner("run", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert findings(box, protocol) == []


OF_CALL = {
    "time": "2026-11-20T07:00:00Z",
    "call": "send.1.1",
    "tool": "send_report",
    "digest": digest(b""),
    "decision": None,
}
INTENT = {"kind": "intent", **OF_CALL, "arguments": {"to": "ops", "subject": "done"}, "text": "send_report"}
OUTCOME = {"kind": "outcome", **OF_CALL, "content": "sent", "error": False}


def imitated(box: Box, protocol: str, data: str) -> Forge:
    """Finish the step as a runner would that asked nobody, and file a transcript of it."""
    forge = Forge(box, protocol, trusted=box.git("rev-parse", "main").strip())
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    forge.see()
    done = [ev.StepCompleted(subject="send", attempt=1)]
    forge.imitate(finish(forge, "send", transcript=digest(data.encode()), executor="host"), *done)
    blob = box.git("hash-object", "-w", "--stdin", data=data).strip()
    runs = box.git("mktree", data=f"100644 blob {blob}\tsend.1.jsonl\n").strip()
    tree = box.git("mktree", data=f"040000 tree {runs}\truns\n").strip()
    made = box.git("commit-tree", tree, "-p", forge.tip, data=f"{protocol}: history\n").strip()
    box.git("update-ref", f"refs/runner/history/{protocol}", made)
    return forge


@pytest.mark.parametrize(("rules", "wrong"), [
    ("", "needed an approval by `default: external calls ask`"),
    ("rules: [{deny: {tool: send_report}}]\n", "denies the call of send_report"),
    ("rules: [{allow: {tool: send_report}}]\n", ""),
])  # fmt: skip
def test_a_call_that_nobody_was_asked_about_is_found(box: Box, alice: Person, rules: str, wrong: str) -> None:
    outside(box)
    govern(box, [alice], text=policy([alice], more=rules))
    protocol = box.new({"01-send": tool("send_report", to="ops", subject="done")})
    imitated(box, protocol, "".join(json.dumps(one) + "\n" for one in (INTENT, OUTCOME)))
    found = findings(box, protocol)
    assert [rule for rule, _ in found] == (["needed"] if wrong else []), found
    assert all(wrong in text for _, text in found)


def told_of(*calls: tuple[str, dict[str, object], str]) -> str:
    """Return a transcript of a turn: (the name that the model called, its arguments, the name in the results), all by one id."""
    asked = [{"id": "1", "name": name, "arguments": given, "problem": ""} for name, given, _ in calls]
    usage = {"input": 1, "output": 1, "cached": 0}
    texts = dict.fromkeys(("engine", "model", "text", "thoughts", "finish", "provider"), "")
    said = {
        "kind": "response",
        "time": OF_CALL["time"],
        **texts,
        "calls": asked,
        "usage": usage,
        "usd": None,
        "turn": None,
        "raw": None,
    }
    done = [{"id": "1", "name": name, "content": "", "error": False} for *_, name in calls]
    results = {"kind": "results", "time": OF_CALL["time"], "results": done, "tree": "", "ended": None}
    return "".join(json.dumps(one) + "\n" for one in (said, results))


DEPLOY = "make deploy"


@pytest.mark.parametrize("calls", [
    [("shell", {"command": DEPLOY}, "shell")],
    [("exec_command", {"cmd": DEPLOY}, "shell")],
    [("Bash", {"command": DEPLOY, "description": "ship it"}, "shell")],
    [("run_shell_command", {"command": "deploy", "directory": "a"}, "shell")],
    [("shell", {"command": ["bash", "-lc", DEPLOY]}, "shell")],
    [("functions.shell", {"script": DEPLOY}, "shell")],
    [("exec_command", {"cmd": DEPLOY}, "read_file")],
    [("exec_command", {"cmd": DEPLOY}, "finish")],
    [("shell", {"command": DEPLOY}, "shell"), ("shell", {"command": "ls"}, "shell")],
])  # fmt: skip
def test_a_call_by_another_name_hides_nothing(
    box: Box, alice: Person, calls: list[tuple[str, dict[str, object], str]]
) -> None:
    govern(box, [alice], text=policy([alice], more="rules: [{deny: {argv: [sh, -c, '*deploy*']}}]\n"))
    protocol = box.new({"01-send": "kind: agent\n"})
    imitated(box, protocol, told_of(*calls))
    ((rule, text),) = findings(box, protocol)
    assert rule == "needed" and "the policy denies the call of shell" in text, text


def test_a_transcript_that_is_none_is_found_and_hides_nothing(box: Box, alice: Person) -> None:
    outside(box)
    govern(box, [alice])
    protocol = box.new({"01-send": tool("send_report", to="ops", subject="done")})
    imitated(box, protocol, "whatever the log names by its digest\n")
    assert [rule for rule, _ in findings(box, protocol)] == ["transcript"]


def test_a_log_that_was_damaged_since_hides_nothing(box: Box, alice: Person) -> None:
    outside(box)
    govern(box, [alice])
    protocol = box.new({"01-send": tool("send_report", to="ops", subject="done")})
    forge = imitated(box, protocol, json.dumps(INTENT) + "\n")
    forge.commit({f"{forge.folder}/log.md": "cut off"})
    assert {rule for rule, _ in findings(box, protocol)} == {"record-changed", "needed"}


@pytest.mark.slow
def test_a_fork_does_not_hide_a_call_that_nobody_was_asked_about(box: Box, alice: Person) -> None:
    outside(box)
    govern(box, [alice])
    send = tool("send_report", to="ops", subject="done")
    protocol = box.new({"01-send": send, "02-again": send})
    ref = f"refs/runner/history/{protocol}"
    imitated(box, protocol, "".join(json.dumps(one) + "\n" for one in (INTENT, OUTCOME)))
    told = box.runner("fork", protocol, rc=4).err
    assert f"{protocol} does not verify: needed: send: the call of send_report needed an approval by" in told
    kept = box.git("rev-parse", ref).strip()
    box.git("update-ref", "-d", ref)
    other = box.runner("fork", protocol, rc=0).out.strip()
    assert "is not in this clone" in box.runner("verify", other, rc=5).out
    third = box.runner("fork", other, rc=0).out.strip()
    box.git("update-ref", ref, kept)
    for name in (other, third):
        ((rule, text),) = findings(box, name)
        assert rule == "forked" and f"{protocol} does not verify: needed: send: the call of send_report" in text
