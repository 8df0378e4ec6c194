"""`checks:` of config.yaml: the default of agent steps, and of `qa: light` and `full`, that name none."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Box, command
from tests.executor.minds import ENGINE, agent, finish, mind, say, sound, texts, write

CONFIG = ".protocols/config.yaml"


def shared(box: Box, checks: str = "[test -f done.txt]") -> str:
    """Commit default checks on the trusted branch; return the commit."""
    box.write(CONFIG, f"checks: {checks}\n" if checks else "{}\n")
    return box.commit("checks")


def evidence(box: Box, protocol: str, name: str = "qa-passed") -> list[str]:
    lines = box.runner("log", protocol, "--json", rc=0).out.splitlines()
    return [one["check"] for line in lines if (event := json.loads(line))["event"] == name for one in event["evidence"]]


@pytest.mark.parametrize("qa", ["qa: light\n", "qa: {policy: light}\n"])
def test_a_qa_that_names_no_check_has_the_default_ones(box: Box, qa: str) -> None:
    shared(box)
    protocol = box.new({"01-a": command("echo x > done.txt", qa)})
    box.runner("run", protocol, rc=0)
    assert evidence(box, protocol) == ["test -f done.txt"]
    assert "test -f done.txt  passed" in box.runner("show", protocol, "a", rc=0).out
    sound(box, protocol)


def test_a_default_check_that_fails_fails_the_step(box: Box) -> None:
    shared(box)
    protocol = box.new({"01-a": command("echo x > other.txt", "qa: light\n")})
    assert "test -f done.txt" in box.runner("run", protocol, rc=1).err
    assert evidence(box, protocol, "qa-failed") == ["test -f done.txt"]
    sound(box, protocol)


@pytest.mark.parametrize("qa", ["", "qa: skip\n", "outputs: [done.txt]\n", "qa: {checks: ['true']}\n"])
def test_other_steps_than_agents_have_none_that_do_not_ask(box: Box, qa: str) -> None:
    shared(box, "['false']")
    protocol = box.new({"01-a": command("echo x > done.txt", qa)})
    box.runner("run", protocol, rc=0)
    assert "false" not in evidence(box, protocol)
    sound(box, protocol)


def test_an_agent_step_that_says_nothing_is_checked_by_the_default_and_told_so(box: Box) -> None:
    shared(box, "[make test, test -f done.txt]")
    box.write("Makefile", "test:\n\ttest -f done.txt\n")
    box.commit("make")
    with mind(box, say(write("done.txt", "x\n")), finish()) as wire:
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=0)
        assert "It is checked with: `make test`; `test -f done.txt`" in texts(wire.bodies[0])
    assert box.state(protocol)["steps"]["a"]["qa"] == "light"
    assert evidence(box, protocol) == ["make test", "test -f done.txt"]
    sound(box, protocol)


def test_a_review_follows_the_default_checks(box: Box) -> None:
    shared(box)
    with mind(box, say(text=json.dumps({"verdict": "PASS", "summary": "Good."}))):
        protocol = box.new({"01-a": command("echo x > done.txt", f"qa: full\nengine: {ENGINE}\n")})
        box.runner("run", protocol, rc=0)
    assert evidence(box, protocol) == ["test -f done.txt", "review"]
    sound(box, protocol)


def test_a_plan_can_still_skip_qa_for_its_agents(box: Box) -> None:
    shared(box, "['false']")
    with mind(box, say(write("done.txt", "x\n")), finish()):
        protocol = box.new({"01-a": agent()}, front="qa: skip\n")
        box.runner("run", protocol, rc=0)
    assert evidence(box, protocol) == []
    sound(box, protocol)


def test_default_checks_of_now_are_recorded_for_a_step_that_was_planned_before_them(box: Box) -> None:
    with mind(box, say(write("done.txt", "x\n")), finish()):
        protocol = box.new({"01-a": agent()})
        assert box.state(protocol)["steps"]["a"]["qa"] == "skip"
        shared(box)
        box.runner("run", protocol, rc=0)
    assert evidence(box, protocol) == ["test -f done.txt"]
    assert "plan-edited" in box.runner("log", protocol, rc=0).out
    sound(box, protocol)


def test_a_fork_and_an_undo_read_the_plan_with_the_default_checks_of_their_time(box: Box) -> None:
    with mind(box, say(write("done.txt", "x\n")), finish()):
        protocol = box.new({"01-a": command("true"), "02-b": agent()})
        box.runner("step", protocol, rc=0)
        shared(box)
        fork = box.runner("fork", protocol, rc=0).out.strip()
        assert box.state(fork)["steps"]["b"]["qa"] == "light" and box.state(protocol)["steps"]["b"]["qa"] == "skip"
        box.runner("run", fork, rc=0)
    sound(box, fork)
    box.runner("undo", fork, rc=0)
    sound(box, fork)


def test_a_change_of_the_default_while_a_step_waits_for_its_checks_is_followed(box: Box) -> None:
    shared(box, "['false']")
    protocol = box.new({"01-a": command("echo x > done.txt", "qa: light\n")})
    box.runner("step", protocol, rc=0)
    shared(box)
    box.runner("run", protocol, rc=0)
    assert evidence(box, protocol) == ["test -f done.txt"]
    sound(box, protocol)


def test_only_the_trusted_branch_says_what_the_default_is(box: Box) -> None:
    shared(box)
    protocol = box.new({"01-a": command("mkdir -p .x && echo x > y.txt", "qa: light\n")})
    tree = box.worktree(protocol)
    box.write(str(tree / CONFIG), "checks: ['true']\n")
    box.git("add", "-A", cwd=tree)
    box.git("commit", "-qm", "my own checks", cwd=tree)
    box.runner("run", protocol, rc=1)
    assert evidence(box, protocol, "qa-failed") == ["test -f done.txt"]


def as_by(box: Box, protocol: str, was: str, now: str) -> str:
    """Let the protocol's last commit name another trusted commit, where the trusted branch is moved to; return its text."""
    text = box.git("cat-file", "commit", protocol).replace(f"Runner-Trusted: {was}", f"Runner-Trusted: {now}")
    tip = box.git("hash-object", "-t", "commit", "-w", "--stdin", data=text).strip()
    box.git("reset", "-q", "--hard", now)
    box.git("update-ref", f"refs/heads/{protocol}", tip)
    return text


@pytest.mark.parametrize("key", ['"checks"', '"\\u0063hecks"', "checks  "])
def test_the_key_may_be_written_otherwise(box: Box, key: str) -> None:
    box.write(CONFIG, f"{key}: [test -f done.txt]\n")
    box.commit("checks")
    protocol = box.new({"01-a": command("echo x > done.txt", "qa: light\n")})
    box.runner("run", protocol, rc=0)
    assert evidence(box, protocol) == ["test -f done.txt"]
    sound(box, protocol)


@pytest.mark.parametrize(
    "config", ["checks: []  # none\n", "checks: [ ]\n", "{publish: never}\n", "checks:  # none yet\n  []\n"]
)
def test_a_list_without_checks_may_be_written_otherwise(box: Box, config: str) -> None:
    box.write(CONFIG, config)
    box.commit("no checks")
    with mind(box, say(write("done.txt", "x\n")), finish()):
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=0)
    sound(box, protocol)


def test_qa_by_hand_says_that_the_plan_skips_it(box: Box) -> None:
    shared(box)
    protocol = box.new({"01-a": command("true"), "02-b": command("true", "qa: skip\n")}, front="qa: skip\n")
    box.runner("run", protocol, rc=0)
    for slug, file, line in (("a", "plan.md", 3), ("b", "02-b.md", 5)):
        told = box.runner("qa", protocol, slug, rc=2).err
        assert (
            f"{slug} has no QA: {file} says `qa: skip`" in told and f"{file}:{line}" in told and "runner edit" in told
        )


def test_verify_finds_evidence_of_other_checks_than_the_default(box: Box) -> None:
    """The record says that `true` passed, and the trusted commit that it names wants another check."""
    loose, strict = shared(box, "['true']"), shared(box, "['false']")
    box.git("reset", "-q", "--hard", loose)
    protocol = box.new({"01-a": command("echo x > done.txt", "qa: light\n")})
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert "qa-passed" in as_by(box, protocol, loose, strict)
    told = box.runner("verify", protocol, rc=4)
    assert "looked at true, and the step wants false" in told.out + told.err


def test_verify_finds_an_agent_step_that_was_recorded_without_its_default_checks(box: Box) -> None:
    loose = box.git("rev-parse", "HEAD").strip()
    strict = shared(box)
    box.git("reset", "-q", "--hard", loose)
    protocol = box.new({"01-a": agent()})
    as_by(box, protocol, loose, strict)
    told = box.runner("verify", protocol, rc=4)
    assert "`planned` does not say what the plan's files say" in told.out + told.err


def test_where_the_trusted_commit_is_gone_the_record_of_default_checks_is_believed(box: Box) -> None:
    with mind(box, say(write("done.txt", "x\n")), finish()):
        protocol = box.new({"01-a": agent()})
        gone = shared(box)
        box.runner("run", protocol, rc=0)
    box.git("commit", "-q", "--amend", "-m", "the same checks")
    _lose(box, gone)
    assert gone[:12] in box.runner("verify", protocol, rc=0).err
    shared(box, "")  # none today
    box.runner("verify", protocol, rc=0)


def test_where_the_trusted_commit_is_gone_a_record_without_default_checks_is_believed(box: Box) -> None:
    with mind(box, say(write("done.txt", "x\n")), finish()):
        protocol = box.new({"01-a": agent()})
        box.write("other.txt", "x\n")
        gone = box.commit("another")
        box.runner("run", protocol, rc=0)
    box.git("reset", "-q", "--hard", "HEAD^")
    shared(box)
    _lose(box, gone)
    assert gone[:12] in box.runner("verify", protocol, rc=0).err


def _lose(box: Box, oid: str) -> None:
    box.git("reflog", "expire", "--expire=now", "--all")
    box.git("gc", "-q", "--prune=now")
    assert "missing" in box.git("cat-file", "--batch-check", data=f"{oid}\n")


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        ("make test", "GNUmakefile", "test:\n\ttrue\n"),
        ("sh -c 'npm test || true'", "package.json", '{"scripts": {"test": "true"}}'),
        ("python3 -m unittest discover || true", "unittest.py", "raise SystemExit(0)\n"),
    ],
)
def test_what_a_check_reads_to_learn_what_to_do_waits_for_a_person_where_an_agent_changed_it(
    box: Box, check: str, path: str, text: str
) -> None:
    box.write("Makefile", "test:\n\ttest -f done.txt\n")
    box.write("package.json", '{"scripts": {"test": "jest"}}')
    shared(box, json.dumps([check]))
    with mind(box, say(write("done.txt", "x\n"), write(path, text)), finish()):
        protocol = box.new({"01-a": agent()})
        told = box.runner("run", protocol, rc=3)
    assert f"{path} (protected: a check names or reads it)" in told.out + told.err
    box.runner("verify", protocol, rc=0)


def test_new_tests_and_dependencies_wait_for_nobody(box: Box) -> None:
    box.write("Makefile", "test:\n\ttrue\n")
    box.write("package.json", '{"scripts": {"test": "jest"}}')
    shared(box, json.dumps(["make test", "true npm test", "true pytest tests"]))
    calls = [
        write("tests/test_a.py", "def test_a(): pass\n"),
        write("tests/conftest.py", "\n"),
        write("package.json", '{"scripts": {"test": "jest"}, "devDependencies": {"jest": "30"}}'),
    ]
    with mind(box, say(*calls), finish()):
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=0)
    sound(box, protocol)


# --- `runner do --check` ------------------------------------------------------------------------------------------------


def test_do_runs_the_checks_of_the_command_line_in_place_of_the_default(box: Box) -> None:
    shared(box, "['false']")
    line = """test "$(cat 'done.txt')" = "x: y # z" """
    with mind(box, say(write("done.txt", "x: y # z\n")), finish()):
        told = box.runner("do", "Write it", "--check", line, "--check", "true", rc=0, env={"RUNNER_ENGINE": ENGINE})
    protocol = told.out.strip()
    assert evidence(box, protocol) == [line, "true"] and "  checks  " not in told.err
    sound(box, protocol)


def test_do_fails_where_its_check_does(box: Box) -> None:
    with mind(box, say(write("done.txt", "x\n")), finish(), finish(), finish()):
        told = box.runner("do", "Write it", "--check", "test -e other.txt", rc=1, env={"RUNNER_ENGINE": ENGINE})
    assert "test -e other.txt" in told.err
    assert evidence(box, told.out.strip(), "qa-failed") == ["test -e other.txt"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("Write it", "--check", " "), "a check is empty"),
        (("Write it", "--check", "a\x1bb"), "U+001B"),
        (("--workflow", "echo-add", "--check", "true"), "--check goes with a TEXT"),
    ],
)
def test_do_makes_nothing_of_a_check_that_is_none(box: Box, words: tuple[str, ...], what: str) -> None:
    told = box.runner("do", *words, rc=2)
    assert what in told.err and "--check" in told.err and box.git("branch", "--list", "0001-*") == ""
