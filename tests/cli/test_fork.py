"""`runner fork`: another way from a revision on, with what was done there and its proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Box, clone, command
from tests.executor.minds import agent, finish, mind
from tests.people import governed, person

STEPS = {
    "01-a": command("echo a > a.txt; echo text=A >> $RUNNER_RESULT", "outputs: [a.txt]"),
    "02-b": command("echo b > b.txt"),
    "03-c": command("echo c$RUNNER_STEPS_A_TEXT > c.txt"),
}
slow = pytest.mark.slow


def events(box: Box, protocol: str) -> list[Any]:
    return [json.loads(line) for line in box.runner("log", protocol, "--json", rc=0).out.splitlines()]


def revision(box: Box, protocol: str, event: str, subject: str) -> int:
    """The revision of the last such event."""
    found = [one["revision"] for one in events(box, protocol) if (one["event"], one["subject"]) == (event, subject)]
    return int(found[-1])


def commit(box: Box, protocol: str, number: int) -> str:
    """The transition that ends at a revision."""
    args = ("--first-parent", f"--grep=^Runner-Protocol: {protocol}$", f"--grep=^Runner-Revision: {number}$")
    return box.git("log", "-1", "--format=%H", "--all-match", *args, protocol).strip()


def forked(box: Box, name: str, *more: str | Path) -> str:
    return box.runner("fork", name, *more, rc=0).out.strip()


@pytest.fixture
def origin(box: Box) -> str:
    """A protocol whose steps are all done."""
    protocol = box.new(STEPS)
    box.runner("run", protocol, rc=0)
    return protocol


def test_a_fork_goes_on_from_a_revision_and_proves_what_it_took_over(box: Box, origin: str) -> None:
    before = box.git("rev-parse", origin)
    at = revision(box, origin, "step-completed", "a")
    told = box.runner("fork", f"{origin}@{at}", "--title", "Another way", rc=0)
    other = told.out.strip()
    assert other == "0002-another-way"
    assert f"1 of 3 steps done · from {origin}@{at} {commit(box, origin, at)[:7]}" in told.err
    assert box.git("rev-parse", f"{other}^").strip() == commit(box, origin, at)
    state = box.state(other)
    assert [state["steps"][slug]["status"] for slug in "abc"] == ["completed", "pending", "pending"]
    assert state["steps"]["a"]["result"] == {"text": "A"} and state["status"] == "planned"
    assert f"done at {origin}@{at}" in box.runner("show", other, "a", rc=0).out
    tree = box.worktree(other)
    assert (tree / "a.txt").exists() and not (tree / "b.txt").exists()
    step = tree / f".protocols/{other}/02-b.md"
    step.write_text(step.read_text().replace("echo b", "echo other"))
    box.runner("run", other, rc=0)
    assert box.git("show", f"{other}:b.txt") == "other\n" and box.git("show", f"{other}:c.txt") == "cA\n"
    assert box.git("rev-parse", origin) == before
    shown = box.runner("verify", other, origin, rc=0)
    assert f"started at {origin}@{at}, which verifies" in shown.out + shown.err


def test_a_fork_goes_on_from_where_a_step_was_completed(box: Box, origin: str) -> None:
    other = forked(box, f"{origin}@02-b", "--title", "Another way")
    assert box.git("rev-parse", f"{other}^").strip() == commit(
        box, origin, revision(box, origin, "step-completed", "b")
    )
    box.runner("undo", origin, "b", rc=0)
    assert "b was not completed" in box.runner("fork", f"{origin}@b", rc=2).err


def test_what_is_said_of_a_fork_is_what_its_record_says(box: Box, origin: str) -> None:
    told = box.runner("fork", f"{origin}@2", "--title", "Another way", rc=0)
    assert "0002-another-way  planned" in told.err and "title         A plan, as its plan has it" in told.err
    assert "next          runner run 2" in told.err
    row = box.runner("show", "2", "--json", rc=0).json()
    assert (row["status"], row["title"]) == ("planned", "A plan")
    assert "title  " not in box.runner("fork", f"{origin}@2", rc=0).err


@slow
def test_between_a_step_s_work_and_its_end_it_is_refused_and_what_can_be_forked_is_named(box: Box, origin: str) -> None:
    done, work = revision(box, origin, "step-completed", "a"), revision(box, origin, "step-finished", "a")
    told = box.runner("fork", f"1@{work}", rc=4).err
    assert (
        "the work of a was not checked yet" in told
        and f"`runner fork {origin}@2` or `runner fork {origin}@{done}`" in told
    )
    assert box.git("branch", "--list", "0002-*") == ""


def test_a_revision_that_is_none_is_refused_with_near_ones(box: Box, origin: str) -> None:
    told = box.runner("fork", "1@99", rc=2).err
    assert "no transition of 0001-a-plan ends at revision 99" in told and "near ones: 0001-a-plan@" in told
    assert "ends at revision 0" in box.runner("fork", "1@0", rc=2).err
    assert "there is no step `x`" in box.runner("fork", "1@x", rc=2).err
    assert "is not a revision" in box.runner("fork", "1@", rc=2).err


@slow
def test_without_a_revision_it_is_the_last_one_and_a_step_that_failed_is_tried_another_way(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo junk > junk.txt; false")})
    box.runner("run", protocol, rc=1)
    other = forked(box, protocol)
    tree = box.worktree(other)
    (tree / f".protocols/{other}/02-b.md").write_text("---\ntitle: b\nkind: command\nrun: echo b > b.txt\n---\n")
    box.runner("run", other, rc=0)
    assert box.git("ls-tree", "--name-only", other, "a.txt", "b.txt", "junk.txt").split() == ["a.txt", "b.txt"]
    box.runner("verify", other, rc=0)


@slow
def test_work_that_a_check_refused_does_not_come_along(box: Box) -> None:
    checked = 'qa: {policy: light, checks: ["false"]}\n'
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt", checked)})
    box.runner("run", protocol, rc=1)
    told = box.runner("fork", protocol, rc=4).err
    at = revision(box, protocol, "step-completed", "a")
    assert "the work of b" in told and f"`runner fork {protocol}@{at}`" in told
    other = forked(box, f"{protocol}@{at}")
    assert box.git("ls-tree", "--name-only", other, "b.txt") == ""


@slow
def test_a_fork_of_a_fork_of_a_fork(box: Box, origin: str) -> None:
    at = revision(box, origin, "step-completed", "a")
    names = [f"{origin}@{at}"]
    for _ in range(3):
        names.append(forked(box, names[-1]))
    assert names[1:] == ["0002-a-plan", "0003-a-plan", "0004-a-plan"]
    box.runner("run", names[-1], rc=0)
    shown = box.runner("verify", names[-1], rc=0)
    assert "0003-a-plan: 0002-a-plan: started at" in shown.out + shown.err


@slow
def test_no_word_comes_along_and_what_needs_one_waits_again(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice])
    steps = {"01-a": command("echo a > a.txt", "approval: before\n"), "02-b": command("echo b > b.txt")}
    protocol = box.new(steps, front="approval: before\n")
    for subject in ("plan", "a"):
        box.runner("run", protocol, rc=3)
        box.runner("approve", protocol, subject, "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=0)
    other = forked(box, f"{protocol}@{revision(box, protocol, 'step-completed', 'a')}")
    assert box.git("ls-tree", "-r", "--name-only", other, f".protocols/{other}/approvals") == ""
    box.runner("run", other, rc=3)
    assert [wait["subject"] for wait in box.state(other)["waiting"]] == ["plan"]
    # The word on the other's plan, put where this one's would be: it names another protocol and another genesis.
    folder = f".protocols/{protocol}/approvals"
    tree = box.worktree(other)
    word = box.git("show", f"{protocol}:{box.git('ls-tree', '-r', '--name-only', protocol, folder).split()[0]}")
    own = tree / f".protocols/{other}/approvals"
    own.mkdir()
    (own / box.git("ls-tree", "--name-only", f"{protocol}:{folder}").split()[0]).write_text(word)
    box.commit("his word", cwd=tree)
    box.runner("run", other, rc=3)
    assert box.state(other)["steps"]["b"]["status"] == "pending"
    box.runner("approve", other, "plan", "--yes", rc=0, env=alice.env)
    box.runner("run", other, rc=0)
    box.runner("verify", other, protocol, rc=0)


@slow
@pytest.mark.parametrize("first", ["the fork", "the other"])
def test_both_are_taken(box: Box, origin: str, first: str) -> None:
    other = forked(box, f"{origin}@{revision(box, origin, 'step-completed', 'a')}")
    (box.worktree(other) / f".protocols/{other}/02-b.md").write_text(
        "---\ntitle: b\nkind: command\nrun: echo d > d.txt\n---\n"
    )
    box.runner("run", other, rc=0)
    for name in (other, origin) if first == "the fork" else (origin, other):
        box.git("merge", "-q", "--no-ff", "-m", f"Merge {name}", name)
    box.runner("verify", "--all", rc=0)
    status = {one["protocol"]: one for one in box.runner("list", "--json", rc=0).json()["protocols"]}
    assert {name: one["status"] for name, one in status.items()} == {origin: "completed", other: "completed"}
    assert box.state(origin, "main") == box.state(origin) and box.state(other, "main") == box.state(other)


@slow
def test_a_fork_that_is_taken_alone_leaves_the_other_as_unmerged_as_it_was(box: Box, origin: str) -> None:
    other = forked(box, f"{origin}@{revision(box, origin, 'step-completed', 'a')}")
    box.runner("run", other, rc=0)
    box.runner("merge", other, rc=0)
    assert "merged in" in box.runner("status", other, rc=0).out
    assert "waits for merge" in box.runner("status", origin, rc=0).out
    box.runner("verify", "--all", rc=0)
    assert f"{origin}" in box.runner("why", "a.txt:1", rc=0).out


@slow
def test_of_a_protocol_whose_branch_is_gone_by_its_history(box: Box, origin: str) -> None:
    at = revision(box, origin, "step-completed", "a")
    box.git("merge", "-q", "--squash", origin)
    box.commit("squashed")
    box.git("worktree", "remove", "--force", box.worktree(origin))
    box.git("branch", "-qD", origin)
    other = forked(box, f"{origin}@{at}")
    box.runner("run", other, rc=0)
    box.runner("verify", other, rc=0)


@slow
def test_a_record_that_does_not_verify_is_not_forked_but_what_stood_before_is(box: Box, origin: str) -> None:
    done = revision(box, origin, "step-completed", "a")
    checked = commit(box, origin, done)
    message = box.git("log", "-1", "--format=%B", checked).rstrip("\n") + "\n"
    code = f"100644 blob {box.git('rev-parse', 'main:README.md').strip()}\tcode-that-no-step-made\n"
    tree = box.git("mktree", data=box.git("ls-tree", checked) + code).strip()
    box.git("worktree", "remove", "--force", box.worktree(origin))
    bad = box.git("commit-tree", tree, "-p", f"{checked}~1", data=message).strip()
    box.git("update-ref", f"refs/heads/{origin}", bad)
    assert "does not verify" in box.runner("fork", f"{origin}@{done}", rc=4).err
    forked(box, f"{origin}@2")


@slow
def test_a_fork_that_is_published_verifies_in_a_fresh_clone_and_in_none_that_is_cut_off(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.runner("run", protocol, rc=0)
    other = remote.runner(
        "fork",
        f"{protocol}@{revision(remote, protocol, 'step-completed', 'a')}",
        rc=0,
        env={"RUNNER_PUBLISH": "always"},
    ).out.strip()
    theirs = clone(remote, "bob")
    assert "refs/runner/numbers/0002" in theirs.git("ls-remote", "origin")
    theirs.git("switch", "-q", other)
    theirs.runner("verify", other, rc=0)
    theirs.runner("run", other, rc=0)
    cut = remote.path.parent / "cut"
    remote.git("clone", "-q", "--depth", "1", "-b", other, f"file://{remote.path.parent}/origin.git", cut)
    assert "--unshallow" in remote.runner("verify", other, cwd=cut, rc=5).out


@slow
def test_what_a_model_said_in_the_other_is_asked_of_the_remote(remote: Box) -> None:
    remote.env["RUNNER_PUBLISH"] = "always"
    with mind(remote, finish()):
        protocol = remote.new({"01-a": agent(), "02-b": command("echo b > b.txt")})
        remote.runner("step", protocol, rc=0)
    other = forked(remote, protocol)
    remote.runner("run", other, rc=0)
    theirs = clone(remote, "bob")
    theirs.git("switch", "-q", other)
    assert f"refs/runner/history/{protocol}" in theirs.runner("verify", other, rc=5).out
    theirs.runner("verify", "--live", other, rc=0)
    theirs.git("push", "-q", "origin", f":refs/runner/history/{protocol}")
    theirs.runner("verify", "--live", other, rc=5)


@slow
def test_undo_and_retry_of_a_fork_stay_within_it(box: Box, origin: str) -> None:
    other = forked(box, f"{origin}@{revision(box, origin, 'step-completed', 'b')}")
    assert "only just started" in box.runner("undo", other, rc=4).err
    box.runner("run", other, rc=0)
    box.runner("undo", f"{other}@2", rc=0)
    state = box.state(other)
    assert [state["steps"][slug]["status"] for slug in "abc"] == ["completed", "completed", "pending"]
    box.runner("run", other, rc=0)
    box.runner("verify", other, rc=0)
