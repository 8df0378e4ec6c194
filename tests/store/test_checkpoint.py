"""What this machine saw last covers people's commits: a branch that is rolled back behind one is refused, and says what helps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command
from tests.people import Person, governed, person
from tests.store.test_remote import publish

STEPS = {"01-a": command("echo a > a.txt", "approval: before\n"), "02-b": command("echo b > b.txt")}


def tip(box: Box, protocol: str) -> str:
    return box.git("rev-parse", protocol).strip()


def roll_back(box: Box, protocol: str, to: str) -> None:
    box.git("reset", "-q", "--hard", to, cwd=box.worktree(protocol))


def refused(box: Box, protocol: str, env: Mapping[str, str] | None = None) -> None:
    """No step runs, `verify` and `doctor` report it, and what is named leads on."""
    before = box.count(protocol)
    ran = box.runner("run", protocol, rc=4, env=env)
    assert f"runner doctor --fix {protocol}" in ran.err and box.count(protocol) == before
    assert "mark" in box.runner("verify", protocol, rc=4, env=env).out
    assert f"runner doctor --fix {protocol}" in box.runner("doctor", protocol, rc=4, env=env).out
    box.runner("status", protocol, rc=0)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here")
def test_a_rejection_is_not_forgotten_when_the_branch_is_rolled_back(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir(exist_ok=True)
    alice: Person = person(tmp_path / "people", "alice")
    box = governed(tmp_path / "repo", [alice])
    protocol = box.new(STEPS)
    box.runner("run", protocol, rc=3)
    asked = tip(box, protocol)
    box.runner("reject", protocol, "--yes", "-m", "no", rc=0, env=alice.env)
    roll_back(box, protocol, asked)
    refused(box, protocol, alice.env)  # it is her machine that saw it
    box.runner("doctor", "--forget", protocol, rc=0, env=alice.env)
    box.runner("run", protocol, rc=3, env=alice.env)


def test_an_edit_is_not_forgotten_either(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    box.runner("step", protocol, rc=0)
    before = tip(box, protocol)
    box.runner("edit", protocol, "b", rc=0, env={"EDITOR": "sed -i s/echo/printf/"})
    assert tip(box, protocol) != before
    roll_back(box, protocol, before)
    refused(box, protocol)
    box.runner("doctor", "--fix", protocol, rc=0)
    box.runner("run", protocol, rc=0)


def test_what_verify_saw_is_not_forgotten(box: Box) -> None:
    """A person's own commit, which no command of ours made."""
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    before = tip(box, protocol)
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("mine\n")
    box.commit("mine", cwd=tree)
    box.runner("verify", protocol, rc=0)
    roll_back(box, protocol, before)
    refused(box, protocol)


def test_reading_sees_nothing(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    before = tip(box, protocol)
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("mine\n")
    box.commit("mine", cwd=tree)
    for name in ("status", "show", "log", "diff"):
        box.runner(name, protocol, rc=0)
    box.runner("list", rc=0)
    roll_back(box, protocol, before)
    box.runner("run", protocol, rc=0)


def test_a_merge_that_makes_a_persons_commit_a_second_parent_is_no_roll_back(remote: Box) -> None:
    """Bob pulls hers into his own: her commit is not on the chain any more, and nothing of it is gone."""
    publish(remote)
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    bob = clone(remote, "bob")
    bob.git("checkout", "-q", protocol)
    bob.write("bob.txt", "bob\n")
    bob.commit("bob's")
    remote.runner("edit", protocol, "b", rc=0, env={"EDITOR": "sed -i s/echo/printf/"})
    hers = tip(remote, protocol)
    bob.git("pull", "-q", "--no-rebase", "--no-edit", "origin", protocol)
    bob.git("push", "-q", "origin", protocol)
    tree = remote.worktree(protocol)
    remote.git("pull", "-q", "--ff-only", "origin", protocol, cwd=tree)
    assert hers not in remote.git("rev-list", "--first-parent", protocol).split()
    remote.runner("verify", protocol, rc=0)
    remote.runner("doctor", protocol, rc=0)
    remote.runner("run", protocol, rc=0)


def test_an_edit_that_is_not_published_and_a_lost_race_are_no_roll_back(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    remote.runner("sync", protocol, rc=0)
    bob = clone(remote, "bob")
    bob.runner("step", protocol, rc=0)
    bob.runner("sync", protocol, rc=0)
    remote.env["RUNNER_PUBLISH"] = "never"
    origin = remote.path.parent / "origin.git"
    origin.rename(origin.with_suffix(".away"))
    remote.runner("step", protocol, rc=0)
    remote.runner("edit", protocol, "b", rc=0, env={"EDITOR": "sed -i s/echo/printf/"})
    origin.with_suffix(".away").rename(origin)
    remote.runner("sync", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)
    remote.runner("undo", protocol, rc=0)
    remote.runner("run", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)
