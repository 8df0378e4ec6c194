"""The first minutes in a project: what comes after `init`, what a protocol starts from, and whose hooks run."""

from __future__ import annotations

import pytest

from tests.conftest import Box, add_origin, command

STEPS = {"01-a": command("true")}
NO_KEY = {"GEMINI_API_KEY": "", "GOOGLE_API_KEY": "", "RUNNER_ENGINE": ""}


@pytest.fixture
def pushed(box: Box) -> Box:
    """A repository whose origin has its main, and is its default."""
    add_origin(box)
    box.git("push", "-q", "origin", "main")
    box.git("remote", "set-head", "origin", "main")
    return box


# --- without a model ----------------------------------------------------------------------------------------------------


def test_after_init_what_works_without_a_model_is_named(box: Box) -> None:
    told = box.runner("init", "--commit", "--yes", "--no-try", rc=0, env=NO_KEY).err
    assert "no model can write plans yet: " in told and "set GEMINI_API_KEY" in told
    assert told.splitlines()[-1] == "  next          runner new --manual TITLE"
    box.runner("new", "--manual", "TITLE", rc=0, env=NO_KEY)


def test_after_init_with_a_model_it_can_be_asked(box: Box) -> None:
    told = box.runner("init", "--commit", "--yes", "--no-try", rc=0, env={**NO_KEY, "GEMINI_API_KEY": "x"}).err
    assert "no model" not in told and told.splitlines()[-1] == "  next          runner new TITLE"


def test_a_new_protocol_without_a_model_names_the_plan_by_hand(box: Box) -> None:
    said = box.runner("new", "Fix the 'tests'", rc=2, env=NO_KEY).err
    assert """`runner new --manual 'Fix the '"'"'tests'"'"''` makes a plan for you to write""" in said


# --- what it starts from ------------------------------------------------------------------------------------------------


def test_a_branch_that_a_new_protocol_does_not_start_from_is_named(pushed: Box) -> None:
    pushed.git("remote", "set-head", "origin", "main")  # as a clone has it
    plan = pushed.plan(STEPS)
    pushed.git("switch", "-qc", "feature")
    assert "it starts from" not in pushed.runner("new", "One", "--plan", plan, rc=0).err
    pushed.write("x.txt", "x\n")
    pushed.commit("of the feature")
    words = "it starts from main, and you are on feature: `--base feature` starts from that, and merges into it\n"
    assert words in pushed.runner("new", "Two", "--plan", plan, rc=0).err
    told = pushed.runner("new", "Three", "--plan", plan, "--base", "feature", rc=0).err
    assert "it starts from" not in told and "x.txt" in pushed.git("ls-tree", "--name-only", "0003-three")


def test_commits_of_main_that_a_new_protocol_starts_without_are_said(pushed: Box) -> None:
    pushed.write("x.txt", "x\n")
    pushed.commit("not pushed")
    plan = pushed.plan(STEPS)
    told = pushed.runner("new", "One", "--plan", plan, rc=0).err
    assert told.count("it starts from origin/main, without 1 commit of your main: ") == 1
    assert "`git push origin main` first, or `--base main`, takes it along" in told
    assert "x.txt" not in pushed.git("ls-tree", "--name-only", "0001-one")
    told = pushed.runner("new", "Two", "--plan", plan, "--base", "main", rc=0).err
    assert "it starts from" not in told and "x.txt" in pushed.git("ls-tree", "--name-only", "0002-two")
    pushed.git("push", "-q", "origin", "main")
    assert "it starts from" not in pushed.runner("new", "Three", "--plan", plan, rc=0).err


# --- hooks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "tools/hooks"])
def test_a_hook_that_init_did_not_run_is_named_with_what_runs_it(box: Box, folder: str) -> None:
    if folder:
        box.git("config", "core.hooksPath", folder)
    hook = box.path / (folder or ".git/hooks") / "pre-commit"
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {box.path}/ran\n")
    hook.chmod(0o755)
    told = box.runner("init", "--commit", "--yes", "--no-try", rc=0).err
    assert f"{folder or '.git/hooks'}/pre-commit did not run" in told and not (box.path / "ran").exists()
    (line,) = (line for line in told.splitlines() if "ORIG_HEAD" in line)
    for typed in line.partition(": ")[2].split(" && "):
        box.git(*typed.removeprefix("git ").split())
    assert (box.path / "ran").exists() and box.git("log", "-1", "--format=%s") == "Set up protocol-runner\n"


def test_a_sample_of_a_hook_is_none(box: Box) -> None:
    (box.path / ".git/hooks").mkdir(exist_ok=True)
    (box.path / ".git/hooks/pre-commit.sample").write_text("#!/bin/sh\n")
    (box.path / ".git/hooks/commit-msg").write_text("not executable\n")
    assert "did not run" not in box.runner("init", "--commit", "--yes", "--no-try", rc=0).err


# --- edits of the rules that are not read -----------------------------------------------------------------------------------


UNREAD = "as edited here: not read before it is committed on main"


def test_an_edit_of_the_configuration_that_is_in_no_commit_is_said_once(box: Box) -> None:
    protocol = box.new({**STEPS, "02-b": command("true")})
    box.write(".protocols/config.yaml", "publish: never\n")
    told = box.runner("run", protocol, rc=0).err
    assert told.count(f".protocols/config.yaml {UNREAD}, the trusted branch") == 1
    other = box.runner("new", "Other", "--plan", box.plan(STEPS, name="other"), rc=0)
    assert UNREAD in other.err
    box.commit("set up")
    assert UNREAD not in box.runner("run", other.out.strip(), rc=0).err


def test_an_edit_that_is_committed_and_not_pushed_is_said(pushed: Box) -> None:
    protocol = pushed.new(STEPS)
    pushed.write(".protocols/config.yaml", "publish: never\n")
    pushed.commit("set up")
    assert f".protocols/config.yaml {UNREAD} of origin" in pushed.runner("run", protocol, rc=0).err


def test_a_checkout_that_is_only_older_has_no_edit(pushed: Box) -> None:
    pushed.write(".protocols/config.yaml", "publish: never\n")
    pushed.commit("set up")
    pushed.git("push", "-q", "origin", "main")
    protocol = pushed.new(STEPS)
    pushed.git("checkout", "-q", "-b", "old", "HEAD~1")
    pushed.write(".protocols/config.yaml", "lease: {ttl: 20m}\n")
    pushed.commit("another version, from before")
    assert UNREAD not in pushed.runner("run", protocol, rc=0).err
