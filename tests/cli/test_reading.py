"""status, list, show, log, diff: what they say, that they write nothing, and that they load nothing heavy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runner import resources
from runner.app import timeline
from runner.protocol.log import RawEntry
from tests.conftest import Box, command

READING = (["status"], ["status", "1"], ["list"], ["show", "1"], ["show", "1", "a"], ["log", "1"], ["diff", "1"])
QUICK = (["status"], ["log", "1"], ["show", "1", "--json"])  # of which `make test` looks what they load
AS_JSON = (["status", "--json"], ["list", "--json"], ["show", "1", "--json"], ["log", "1", "--json"])
HEAVY = (
    "pydantic",
    "yaml",
    "jsonschema",
    "rich",
    "git",
    "typing_extensions",
    "decimal",
    "runner.protocol.events",
    "tempfile",
)

ASKS = "kind: human\n"


def matches(name: str, value: Any) -> None:
    """Hold a value to a schema of ours."""
    jsonschema.Draft202012Validator(json.loads(resources.schema(name))).validate(value)


def everything(box: Box) -> dict[str, str]:
    """Every file of the repository, its git directory and its worktrees, by digest."""
    roots = [box.path, box.path.parent / "repo.worktrees", box.home]
    files = [file for root in roots for file in sorted(root.rglob("*")) if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# --- nothing there -----------------------------------------------------------------------------------------------------


def test_where_there_is_nothing_it_is_said_and_is_no_error(box: Box) -> None:
    for words in (["status"], [], ["list"]):
        assert "no protocols; `runner new` makes one" in box.runner(*words, rc=0).err
    assert box.runner("status", "--json", rc=0).json() == {"protocols": []}


def test_a_repository_without_commits_is_no_error(tmp_path: Path, box: Box) -> None:
    empty = tmp_path / "empty"
    box.git("init", "-q", empty)
    assert "no commits yet" in box.runner("status", cwd=empty, rc=0).err
    assert box.runner("list", "--json", cwd=empty, rc=0).json() == {"protocols": []}
    assert "no commits yet" in box.runner("show", cwd=empty, rc=2).err


def test_outside_a_repository_it_is_wrong_usage(tmp_path: Path, box: Box) -> None:
    (tmp_path / "nowhere").mkdir()
    assert "not a git repository" in box.runner("status", cwd=tmp_path / "nowhere", rc=2).err


def test_what_show_prints_of_a_step_and_doctor_of_a_clone_has_a_schema(box: Box) -> None:
    protocol = box.new({"01-a": command("echo x; exit 3"), "02-b": command("true")})
    box.runner("run", protocol, rc=1)
    for slug in ("a", "b"):
        matches("show-step", box.runner("show", protocol, slug, "--json", rc=0).json())
    matches("show-output", box.runner("show", protocol, "a", "--output", "--json", rc=0).json())
    matches("doctor-config", box.runner("doctor", "--config", "--json", rc=0).json())
    state = box.worktree(protocol) / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"attempt": 1', '"attempt": 2'))
    box.commit("forged", cwd=box.worktree(protocol))
    found = box.runner("doctor", "--json").json()
    assert found["findings"]
    matches("doctor", found)


def test_what_engines_and_the_policy_say_has_a_schema(box: Box) -> None:
    engines = box.runner("engines", "--json", rc=0).json()
    matches("engines", engines)
    missing = {one["name"]: one["missing"] for one in engines["engines"]}
    assert missing["recorded:FILE"] is None and missing["openai:MODEL"]
    assert "not with NAME" in box.runner("engines", "recorded:x", "--json", rc=2).err
    assert box.runner("policy", "test", "--json", rc=0).json() == {"examples": [], "notes": []}
    rules = "rules: [{deny: {path: .env}}]\nexamples: [{path: .env, expect: %s}]\n"
    people = "repo: '0123456789abcdef0123456789abcdef'\nroles: {maintainer: [alice@example.test]}\n"
    for expected, code in (("deny", 0), ("allow", 1)):
        (box.path / "p.yaml").write_text(people + rules % expected)
        tested = box.runner("policy", "test", "--json", "-f", "p.yaml", rc=code).json()
        matches("policy-test", tested)
        assert [(one["expected"], one["verdict"]) for one in tested["examples"]] == [(expected, "deny")]
    for tool, verdict, code in (("read_file", "allow", 0), ("send_mail", "ask", 3)):
        found = box.runner("policy", "check", "--tool", tool, "--json", "-f", "p.yaml", rc=code).json()
        matches("policy-check", found)
        assert found["verdict"] == verdict and bool(found["needs"]) == (verdict == "ask")


def test_an_audit_says_as_json_where_its_page_is(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    found = box.runner("audit", "1", "--json", rc=0).json()
    matches("acted", found)
    assert found["lines"] == [str(box.path / f"{protocol}.html")]
    assert [one["protocol"] for one in found["protocols"]] == [protocol]


# --- status ------------------------------------------------------------------------------------------------------------


def test_a_line_a_protocol_says_what_waits_and_what_to_type(box: Box) -> None:
    ready = box.new({"01-a": command("true"), "02-b": command("true")}, title="Ready")
    failed = box.new({"01-a": command("echo no >&2; exit 7")}, title="Failed")
    waits = box.new({"01-ask": ASKS}, title="Waits")
    paused = box.new({"01-a": command("true")}, title="Paused")
    box.runner("run", failed, rc=1)
    box.runner("run", waits, rc=3)
    box.runner("pause", paused, rc=0)
    shown = box.runner("status", rc=0).out.splitlines()
    assert [line.split()[:2] for line in shown] == [
        ["0004", "paused"],
        ["0003", "waits"],
        ["0002", "failed"],
        ["0001", "ready"],
    ]
    assert shown[0].endswith("  runner resume 4")
    assert "for anyone: 01-ask, since" in shown[1] and shown[1].endswith("  runner answer 3 TEXT")
    assert "01-a: exit 7, `echo no >&2; exit 7`" in shown[2] and shown[2].endswith("  runner show 2 a")
    assert "01-a: 01-a, 0 of 2 steps done" in shown[3] and shown[3].endswith("  runner run 1")
    told = {row["protocol"]: row for row in box.runner("status", "--json", rc=0).json()["protocols"]}
    assert told[ready]["next"] == {"action": "run-step", "step": "a", "by": "runner"}
    assert told[waits]["next"] == {"action": "none", "step": "ask", "by": "anyone"}
    assert told[failed]["command"] == "runner show 2 a" and told[failed]["reason"].startswith("a: exit 7")
    assert {word["status"] for word in told.values()} == {"planned", "failed", "running", "paused"}


def test_two_of_one_number_are_named_whole(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    other = "0001-other"
    tree = box.worktree(protocol)
    box.git("branch", other, protocol)
    box.git("worktree", "add", "-q", tree.parent / other, other)
    (tree.parent / other / ".protocols" / protocol).rename(tree.parent / other / ".protocols" / other)
    box.commit("another with the same number", cwd=tree.parent / other)
    shown = box.runner("status", rc=0).out.splitlines()
    assert [line.split()[0] for line in shown] == [other, protocol]
    assert shown[1].endswith(f"runner run {protocol}")
    assert "ambiguous" in box.runner("show", "1", rc=2).err


def test_one_protocol_is_shown_step_by_step(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-ask": ASKS, "03-c": command("true")}, title="Three steps")
    box.runner("run", protocol, rc=3)
    shown = box.runner("status", protocol, rc=0).out
    assert shown.startswith(f"{protocol}  Three steps\n")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "waits · 1 of 3 steps done · from main" in lines[1]
    assert "01-a completed 01-a" in lines and "02-ask waits 02-ask" in lines
    assert "03-c pending 03-c · needs ask" in lines
    assert any(line.startswith("waits w") and "for anyone: 02-ask, since" in line for line in lines)
    assert "trusted main of this clone: not protected" in lines
    assert "next runner answer 1 TEXT" in lines
    words = box.worktree(protocol) / f".protocols/{protocol}/03-c.md"
    words.write_text(words.read_text() + "More.\n")
    assert "03-c.md: the next step picks these edits up" in box.runner("status", protocol, rc=0).out
    (words.parent / "plan.md").write_text((words.parent / "plan.md").read_text() + "More.\n")
    box.git("commit", "-qm", "more", f".protocols/{protocol}/plan.md", cwd=box.worktree(protocol))
    assert "edited        03-c.md, plan.md: the next step" in box.runner("status", protocol, rc=0).out
    box.runner("step", protocol)
    assert "edited" not in box.runner("status", protocol, rc=0).out


def test_who_is_at_work_is_named(box: Box) -> None:
    protocol = box.new({"01-a": command("touch began; sleep 30")})
    process = box.start("step", protocol)
    lock = box.path / ".git/runner/locks" / protocol
    try:
        until = time.monotonic() + 100
        while not (lock.exists() and lock.read_bytes()) and time.monotonic() < until:
            time.sleep(0.02)
        shown = box.runner("status", rc=0).out
        assert shown.startswith("0001  works ") and f"process {process.pid} on " in shown
        assert f"process {process.pid} on " in box.runner("status", protocol, rc=0).out
        assert " works " in box.runner("list", rc=0).out
    finally:
        process.terminate()
        process.communicate(timeout=100)
    assert box.runner("status", rc=0).out.startswith("0001  ready ")


@pytest.mark.parametrize("how", ["merge", "fast-forward", "squash"])
def test_merged_is_a_fact_that_git_tells(box: Box, how: str) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")}, title="Merge me")
    box.runner("run", protocol, rc=0)
    waiting = box.runner("status", rc=0).out
    assert "waits for merge: Merge me" in waiting and waiting.rstrip().endswith("runner merge 1")
    assert "completed · waits for merge" in box.runner("status", protocol, rc=0).out
    assert "completed · waits for merge" in box.runner("list", rc=0).out
    if how == "merge":
        box.git("merge", "-q", "--no-ff", "-m", "merge", protocol)
    elif how == "fast-forward":
        box.git("merge", "-q", "--ff-only", protocol)
    else:
        box.git("merge", "-q", "--squash", protocol)
        box.commit("squashed")
    merged = box.git("rev-parse", "HEAD").strip()
    box.write("later.txt", "more\n")
    box.commit("later")
    assert f"completed · merged in {merged[:7]}" in box.runner("status", protocol, rc=0).out
    assert "no protocol is open" in box.runner("status", rc=0).err
    assert "completed · merged " in box.runner("list", rc=0).out
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    assert f"completed · merged in {merged[:7]}" in box.runner("show", protocol, rc=0).out


def test_a_damaged_record_is_listed_and_hides_nothing_else(box: Box) -> None:
    good = box.new({"01-a": command("true")}, title="Good")
    for number, data in enumerate(("{", '{"steps": {"a": 5}, "waiting": []}', "[]", '{"schema": 2}'), 2):
        bad = box.new({"01-a": command("true")}, title="Bad")
        tree = box.worktree(bad)
        (tree / f".protocols/{bad}/state.json").write_text(data)
        box.commit("damage", cwd=tree)
        assert f"{number:04d}  unreadable" in box.runner("status", rc=0).out
        assert f"runner doctor {number}" in box.runner("status", bad, rc=0).out
    told = box.runner("list", "--json", rc=0).json()
    assert [row["status"] for row in told["protocols"]] == ["planned", *["unreadable"] * 4]
    matches("list", told)
    assert told["protocols"][0]["protocol"] == good


# --- shapes ------------------------------------------------------------------------------------------------------------


def test_json_is_what_the_schemas_say(box: Box) -> None:
    box.new({"01-a": command("echo a > a.txt", "outputs: [a.txt]\n"), "02-ask": ASKS, "03-c": command("true")})
    box.new({"01-a": command("exit 1")}, title="Fails")
    for rc, words in ((3, "1"), (1, "2")):
        box.runner("run", words, rc=rc)
        shown = box.runner("show", words, "--json", rc=0).json()
        matches("show", shown)
        assert Path(shown["path"]).is_dir()
        state = box.state(shown["protocol"])
        assert {key: shown[key] for key in state} == state
        for line in box.runner("log", words, "--json", rc=0).out.splitlines():
            matches("log", json.loads(line))
    for name in ("status", "list"):
        told = box.runner(name, "--json", rc=0).json()
        matches(f"{name}", told)
        assert len(told["protocols"]) == 2
    one = box.runner("status", "1", "--json", rc=0).json()
    matches("status", one)
    assert [row["protocol"] for row in one["protocols"]] == ["0001-a-plan"]


# --- show --------------------------------------------------------------------------------------------------------------


def test_a_step_is_shown_with_its_words_attempts_evidence_and_output(box: Box) -> None:
    failing = 'qa: {policy: light, checks: ["test -f missing"]}\non_failure: {retry: 1, then: fail}\n'
    protocol = box.new(
        {"01-a": command("true"), "02-b": command("printf 'one\\n\\033[31mtwo\\n'; echo b > b.txt", failing)}
    )
    box.runner("run", protocol, rc=1)
    shown = box.runner("show", protocol, "02-b", rc=0).out
    assert shown.startswith(f"02-b of {protocol}  02-b\n")
    assert "failed · command · attempt 2 · qa light · needs a" in shown
    assert f".protocols/{protocol}/02-b.md" in shown and "\n  Do it.\n" in shown
    assert shown.count("step-finished ") == 2 and "step-retried" in shown and shown.count("exit 1  <1 s") == 2
    assert "test -f missing" in shown and "runner retry 1" in shown
    assert "    one\n" in shown and "\\x1b[31mtwo" in shown and "\x1b" not in shown
    told = box.runner("show", protocol, "b", "--json", rc=0).json()
    assert (told["protocol"], told["step"], told["status"]) == (protocol, "b", "failed")


def test_a_step_that_is_not_there_is_wrong_usage_and_near_ones_are_offered(box: Box) -> None:
    protocol = box.new({"01-middleware": command("true")})
    assert "did you mean middleware?" in box.runner("show", protocol, "middlewear", rc=2).err
    assert "there is no step `nothing`" in box.runner("diff", protocol, "nothing", rc=2).err


def test_in_its_worktree_a_step_alone_is_enough(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    box.new({"01-z": command("true")}, title="Another")
    box.runner("step", protocol, rc=0)
    tree = box.worktree(protocol)
    assert box.runner("show", "02-b", cwd=tree, rc=0).out.startswith(f"02-b of {protocol}")
    assert "+a" in box.runner("diff", "a", cwd=tree, rc=0).out
    assert box.runner("log", cwd=tree, rc=0).out.splitlines()[0].split()[2:4] == ["created", "0001-a-plan"]
    assert "there is no protocol `02-b`" in box.runner("show", "02-b", rc=2).err


def test_a_protocol_is_shown_with_its_plan_and_what_it_made(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt", "outputs: [a.txt]\n")})
    box.runner("run", protocol, rc=0)
    shown = box.runner("show", protocol, rc=0).out
    assert "\n  What and why.\n" in shown and "a.txt  by 01-a" in shown


# --- log ---------------------------------------------------------------------------------------------------------------


def test_the_log_gives_every_event_older_segments_too(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    before = box.runner("log", protocol, "--json", rc=0).out
    events = [json.loads(line) for line in before.splitlines()]
    assert [event["revision"] for event in events] == list(range(1, len(events) + 1))
    assert [event["event"] for event in events] == [
        "created",
        "planned",
        "step-finished",
        "step-completed",
        "completed",
    ]
    assert events[2]["subject"] == "a" and events[2]["actor"] == "alice@example.test" and events[2]["attempt"] == 1
    lines = box.runner("log", protocol, rc=0).out.splitlines()
    assert [line.split()[2] for line in lines] == [event["event"] for event in events]
    assert "attempt 1 · from " in lines[2] and lines[3].endswith("  attempt 1  (alice@example.test)")
    assert "sha256:" not in "".join(lines) and not re.search("[0-9a-f]{40}|[{]", "".join(lines))
    # The same log in two pieces, as it is when it has grown.
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    log = (folder / "log.md").read_text()
    at = log.index("\n- ", log.index("  <!-- 2 ")) + 1
    (folder / "log").mkdir()
    (folder / "log/0001.md").write_text(log[:at])
    (folder / "log.md").write_text(log[at:])
    box.commit("two pieces", cwd=folder)
    assert box.runner("log", protocol, "--json", rc=0).out == before


@pytest.mark.parametrize("value", ["x", -1, True, None, [], {}, [[]], {"x": []}, 1.5])
def test_a_forged_entry_is_shown_whatever_its_fields_hold(value: Any) -> None:
    keys = (*timeline._SHOWN, *timeline._ELSEWHERE, "of_tomorrow")
    checks = {"check": value, "code": value, "seconds": value, "tail": value}
    spent = dict.fromkeys(("seconds", "usd", "input_tokens", "output_tokens"), value)
    for name in ("step-failed", "approval-counted", "undone", "of-tomorrow"):
        for fields in (
            dict.fromkeys(keys, value),
            {"evidence": [checks, value], "spent": spent, "steps": {"a": value}},
        ):
            timeline.account(RawEntry(1, name, "a", "", "", fields), "0001-a")


@pytest.mark.no_agreement("the record is forged")
def test_a_step_is_shown_whatever_a_forged_entry_says_is_done(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    tree = box.worktree(protocol)
    file = tree / f".protocols/{protocol}/log.md"
    log = file.read_text()
    for value in ("true", '"a\\nb"', '["a"]', '{"a":1}'):
        for event in ("step-finished", "forked"):
            said = event.removeprefix("step-")
            forged = log.replace("step-finished a", f"{event} a").replace(" a finished", f" a {said}")
            forged = forged.replace('"nonce":', f'"done":{value},"nonce":', 1)
            file.write_text(forged.replace('"executor":', f'"done":{value},"executor":', 1))
            box.commit("forged", cwd=tree)
            assert box.runner("show", protocol, "a", rc=0).out.startswith("01-a of ")


def test_following_ends_with_the_protocol(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    process = box.start("log", protocol, "--json", "--follow")
    try:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline())["event"] for _ in range(2)]
        assert first == ["created", "planned"] and process.poll() is None
        box.runner("run", protocol, rc=0)
        rest, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert [json.loads(line)["event"] for line in rest.splitlines()][-1] == "completed" and process.returncode == 0


# --- diff --------------------------------------------------------------------------------------------------------------


def test_diff_as_json_names_the_files_with_their_lines(box: Box) -> None:
    work = "printf 'one\\ntwo\\n' > 'a b.txt'; head -c 9 /dev/zero > zero.bin; rm README.md"
    protocol = box.new({"01-a": command(work), "02-b": command("true")})
    gone = len(box.git("show", "main:README.md").splitlines())
    box.runner("run", protocol, rc=0)
    told = box.runner("diff", protocol, "--json", rc=0).json()
    matches("diff", told)
    assert (told["protocol"], told["step"]) == (protocol, None)
    assert [told["from"], told["to"]] == box.git("rev-parse", "main", protocol).split()
    assert [(one["path"], one["added"], one["removed"]) for one in told["files"]] == [
        ("README.md", 0, gone),
        ("a b.txt", 2, 0),
        ("zero.bin", None, None),
    ]
    of_step = box.runner("diff", protocol, "a", "--json", rc=0).json()
    matches("diff", of_step)
    assert (of_step["step"], of_step["files"]) == ("a", told["files"])
    pending = box.new({"01-a": command("true")})
    none = box.runner("diff", pending, "a", "--json", rc=0).json()
    matches("diff", none)
    assert (none["from"], none["to"], none["files"]) == (None, None, [])
    assert "--stat does not go with --json" in box.runner("diff", protocol, "--stat", "--json", rc=2).err


def test_the_diff_is_the_work_without_the_record(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    box.runner("run", protocol, rc=0)
    box.write("on-main.txt", "not the protocol's\n")
    box.commit("main goes on")
    shown = box.runner("diff", protocol, rc=0).out
    assert (
        "+++ b/a.txt\n" in shown and "+++ b/b.txt\n" in shown and ".protocols" not in shown and "on-main" not in shown
    )
    assert ".protocols/0001-a-plan/state.json" in box.runner("diff", protocol, "--record", "--stat", rc=0).out
    assert "2 files changed" in box.runner("diff", protocol, "--stat", rc=0).out
    one = box.runner("diff", protocol, "b", rc=0).out
    assert "b.txt" in one and "a.txt" not in one
    box.git("merge", "-q", "--no-ff", "-m", "merge", protocol)
    assert box.runner("diff", protocol, rc=0).out == shown  # merged, it is still what the protocol brought


def test_the_diff_of_a_failed_attempt_is_what_was_kept_of_it(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("echo half > b.txt; exit 1")})
    box.runner("run", protocol, rc=1)
    assert "+half" in box.runner("diff", protocol, "b", rc=0).out
    assert box.runner("diff", protocol, rc=0).out == ""
    told = box.runner("diff", protocol, "a", rc=0)
    assert (told.out, told.err) == ("", "a changed nothing\n")


def test_the_diff_of_a_persons_step_is_what_they_committed(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-ask": ASKS})
    box.runner("run", protocol, rc=3)
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("by hand\n")
    box.commit("my work", cwd=tree)
    box.runner("answer", protocol, "done", rc=0)
    box.runner("run", protocol, rc=0)
    shown = box.runner("diff", protocol, "ask", rc=0).out
    assert "+by hand" in shown and "a.txt" not in shown


def test_nothing_of_the_repositorys_configuration_runs(box: Box, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    for key in (
        "diff.external",
        "diff.evil.command",
        "diff.evil.textconv",
        "core.pager",
        "core.fsmonitor",
        "pager.diff",
    ):
        box.git("config", key, f"touch {canary}; cat")
    box.write(".git/info/attributes", "* diff=evil\n")
    for words in (*READING, *AS_JSON):
        box.runner(*words, rc=0)
    assert not canary.exists() and "+a" in box.runner("diff", protocol, rc=0).out
    box.git("diff", "main", protocol, "--", "a.txt", check=False)
    assert canary.exists()  # it would have run


# --- they only read, and quickly -----------------------------------------------------------------------------------------


def test_reading_changes_no_byte(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-ask": ASKS})
    box.runner("run", protocol, rc=3)
    (box.worktree(protocol) / f".protocols/{protocol}/02-ask.md").write_text("---\ntitle: edited\nkind: human\n---\n")
    before = everything(box)
    for words in (*READING, *AS_JSON, ["step", "1", "--dry-run"], ["completion", "zsh"]):
        box.runner(*words)
    assert everything(box) == before


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=" ".join(words), marks=() if words in QUICK else pytest.mark.slow)
        for words in [*READING[:6], *AS_JSON]
    ],
)
def test_reading_loads_nothing_heavy(box: Box, words: list[str]) -> None:
    protocol = box.new({"01-a": command("true"), "02-ask": ASKS})
    box.runner("run", protocol, rc=3)
    _, loaded = box.loaded(*words)
    assert "runner.store.record" in loaded and not loaded & set(HEAVY)


def test_a_status_loads_nothing_of_engines_tools_and_servers(box: Box) -> None:
    """However many of them the project has: it is as fast as in one that has none."""
    box.new({"01-a": "kind: agent\n"})
    _, before = box.loaded("status")
    box.write(
        ".protocols/config.yaml",
        "engine: {plan: 'anthropic:a', execute: ['openai:a', 'gemini:b'], review: 'ollama:c'}\n"
        "acp: {mine: {command: [mine], mode: ask}}\ncli: {tool: {command: [tool]}}\n"
        f"mcp: {{docs: {{command: [docs], tools: 'sha256:{'0' * 64}'}}}}\n",
    )
    box.commit("engines and servers")
    box.new({"01-a": "kind: agent\nengine: acp:mine\n", "02-b": "kind: agent\nengine: openai:gpt-6.1-terra\n"})
    box.loaded("status")  # what is kept of a file that was parsed is read by the next one
    _, after = box.loaded("status")
    assert not [name for name in after if name.startswith(("runner.engines", "runner.tools", "runner.executor."))]
    assert len(after) <= len(before) and len(after) < 250


def test_a_status_starts_few_gits(box: Box, tmp_path: Path) -> None:
    for _ in range(3):
        box.new({"01-a": command("true")})
    real, told, bin_ = shutil.which("git"), tmp_path / "told", tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "git").write_text(f'#!/bin/sh\necho x >> {told}\nexec {real} "$@"\n')
    (bin_ / "git").chmod(0o755)
    box.runner("status", rc=0, env={"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"})
    assert len(told.read_text().split()) <= 5


def test_a_number_is_looked_for_however_many_zeros_were_written_before_it(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.git("branch", f"0{protocol}", protocol)
    assert f"`1` is ambiguous: 0{protocol}, {protocol}" in box.runner("status", "1", rc=2).err
    assert f"next          runner run {protocol}\n" in box.runner("status", protocol, rc=0).out
    box.git("branch", "-D", f"0{protocol}")
    assert "next          runner run 1\n" in box.runner("status", "1", rc=0).out


# --- what people are told while it goes on ---------------------------------------------------------------------------------


def test_a_step_and_its_checks_are_one_line_of_a_run(box: Box) -> None:
    checked = 'qa: {policy: light, checks: ["test -f b.txt"]}\n'
    protocol = box.new({"01-a": command("true"), "02-b": command("echo b > b.txt", checked)})
    told = [" ".join(line.split()) for line in box.runner("run", protocol, rc=0).err.splitlines()]
    assert told == [
        "01-a done <1 s",
        "02-b done <1 s b.txt test -f b.txt passed",
        "completed 2 of 2 steps done",
        "next runner merge 1",
    ]


def test_each_transition_is_a_line_of_a_step(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt", 'qa: {policy: light, checks: ["true"]}\n')})
    assert box.runner("step", protocol, rc=0).err.splitlines()[0] == "01-a  finished  <1 s   a.txt"
    assert box.runner("step", protocol, rc=0).err.splitlines()[0] == "01-a  done      <1 s   true passed"
    assert box.runner("step", protocol, rc=0).err.startswith("  completed     1 of 1 step done\n")


def test_a_failure_is_told_with_the_end_of_its_output(box: Box) -> None:
    protocol = box.new(
        {"01-a": command("echo first; echo last; echo x > x.txt; exit 3", "on_failure: {retry: 1, then: fail}\n")}
    )
    told = box.runner("run", protocol, rc=1).err
    assert told.count("01-a  failed    exit 3, `echo first") == 2 and told.count("  | first\n  | last\n") == 2
    assert "01-a  retries   attempt 2\n" in told
    assert "its work      kept at refs/runner/attempts/0001-a-plan/a.2" in told
    assert told.endswith("  next          runner show 1 a, then runner retry 1\n")
    for words in (("log", protocol), ("show", protocol, "a")):
        assert "kept at refs/runner/attempts/0001-a-plan/a.2" in box.runner(*words, rc=0).out
    assert "failed        a: exit 3" in box.runner("run", protocol, rc=1).err


def test_quiet_says_nothing_but_what_was_asked_for(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-ask": ASKS})
    done = box.runner("-q", "run", protocol, rc=3)
    assert (done.out, done.err) == ("", "")
    assert box.runner("-q", "status", rc=0).out.startswith("0001  waits")


def test_a_dry_run_says_what_would_happen(box: Box) -> None:
    protocol = box.new(
        {"01-a": command("true", 'qa: {policy: light, checks: ["true"]}\n'), "02-ask": ASKS, "03-c": command("true")}
    )

    def would() -> list[str]:
        return box.runner("step", protocol, "--dry-run").out.splitlines()

    assert would() == ["would run 01-a: 01-a, attempt 1"]
    box.runner("step", protocol, rc=0)
    assert would() == ["would check 01-a: qa light"]
    box.runner("step", protocol, rc=0)
    assert would() == ["would ask for the work of 02-ask: 02-ask"]
    box.runner("step", protocol, rc=3)
    assert would() == ["would do nothing: 02-ask: Do it."]
    assert box.runner("step", protocol, "--dry-run", rc=3).err == "  next          runner answer 1 TEXT\n"
    box.runner("answer", protocol, "yes", rc=0)
    assert would() == ["would record the commits since it was asked for as the work of 02-ask"]
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    (folder / "04-new.md").write_text("---\ntitle: new\nkind: command\nrun: 'true'\n---\n")
    count = box.count(protocol)
    assert would()[0] == "would first commit your changes of 04-new.md; they are not looked at here"
    box.commit("a new step", cwd=folder)
    assert would()[0] == "would record the plan's edit" and box.count(protocol) == count + 1
    assert "there is no step `nope`" in box.runner("step", protocol, "--step", "nope", rc=2).err


def on_terminal(box: Box, *words: str, env: dict[str, str] | None = None) -> str:
    """Run the command line with a terminal as stdout and stderr, and return what it showed."""
    ours, theirs = os.openpty()
    environment = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", **(env or {})}
    argv = [sys.executable, "-m", "runner", *words]
    process = subprocess.Popen(
        argv, cwd=box.path, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux tells the end of a terminal by an error
        while data := os.read(ours, 65536):
            shown += data
    os.close(ours)
    process.wait(timeout=100)
    return shown.decode()


def test_a_terminal_shows_colours_and_what_is_at_work(box: Box) -> None:
    protocol = box.new({"01-a": command("printf '\\033[2Jsteered\\n'; exit 1")})
    shown = on_terminal(box, "run", protocol, env={"NO_COLOR": ""})
    assert (
        protocol.partition("-")[0] in shown and "\x1b[?25l" in shown
    )  # something moves, and the cursor is away meanwhile
    assert "\x1b[31mfailed" in shown and "| \\x1b[2Jsteered\r\n" in shown and "\x1b[2J" not in shown
    assert "\x1b[31mfailed" in on_terminal(box, "status", env={"NO_COLOR": ""})
    assert "\x1b" not in on_terminal(box, "status")  # NO_COLOR
    assert "\x1b[31mfailed" not in on_terminal(box, "run", protocol)


# --- completion ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_the_shells(box: Box, shell: str) -> None:
    assert f"_RUNNER_COMPLETE={shell}_complete" in box.runner("completion", shell, rc=0).out


def test_commands_protocols_and_steps_complete(box: Box, tmp_path: Path) -> None:
    protocol = box.new({"01-alpha": command("true")})

    def complete(line: str, cwd: Path = box.path) -> list[str]:
        words = {"_RUNNER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        code = "import sys; sys.argv = ['runner']; from runner.cli.main import main; main()"
        out = subprocess.run(
            [sys.executable, "-c", code],
            cwd=cwd,
            env={**box.environment(words), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        return out.stdout.split()

    assert complete("runner sta") == complete("runner help sta") == ["plain,status"]
    assert complete("runner show 00") == [f"plain,{protocol}"]
    for verb in ("edit", "skip", "approve", "answer", "undo", "fork"):
        assert complete(f"runner {verb} 00") == [f"plain,{protocol}"], verb
    assert (
        complete("runner show 1 al") == complete("runner edit 1 al") == complete("runner undo 1 al") == ["plain,alpha"]
    )
    for typed in (
        "retry 1 --step",
        "step 1 --step",
        "run 1 --until",
        "plan 1 --split",
        "edit 1 --move",
        "edit --after",
    ):
        assert complete(f"runner {typed} al") == ["plain,alpha"], typed
    assert complete("runner run 1 --publish a") == ["plain,ask", "plain,always"]
    assert complete("runner new --executor h") == ["plain,host"]
    assert complete("runner schema policy-t") == ["plain,policy-test"]
    assert complete("runner new --workflow bug") == complete("runner do --workflow bug") == ["plain,bugfix"]
    assert complete("runner show 00", tmp_path) == []


def test_json_tells_done_from_advanced_and_says_what_to_type(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})

    def told() -> list[tuple[bool, str | None]]:
        answers = [box.runner(*words, "--json", rc=0).json() for words in (("show", protocol), ("list",))]
        rows = [answers[0], *answers[1]["protocols"]]
        return [(row["done"], row["command"]) for row in rows]

    box.runner("run", protocol, "--max-steps", "1", rc=0)
    assert told() == [(False, "runner run 1")] * 2
    box.runner("run", protocol, rc=0)
    assert told() == [(True, "runner merge 1")] * 2
    box.runner("merge", protocol, rc=0)
    assert told() == [(True, None)] * 2


@pytest.mark.parametrize("words", [("status",), ("status", "1"), ("show", "1")])
def test_a_branch_that_was_rewritten_is_said_to_be(box: Box, words: tuple[str, ...]) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("mine")
    box.commit("mine", cwd=tree)
    assert "rewritten" not in box.runner(*words, rc=0).out
    box.git("reset", "-q", "--hard", "HEAD~2", cwd=tree)
    told = box.runner(*words, rc=0).out
    assert "rewritten" in told and "runner doctor --fix 1" in told and "runner run 1" not in told
    assert "was rewritten" in box.runner("run", protocol, rc=4).err
