"""A protocol with used approvals that a person rebased: adopted as a merge into the history that the approvals were for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Box, add_origin, clone, command, mostly_slow
from tests.people import Person, governed, person
from tests.store.test_remote import here

STEPS = {
    "01-ship": command("echo ran >> ship.txt", "approval: before\n"),
    "02-tell": command("echo told > told.txt", "approval: before\n"),
}


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path, "alice")


@pytest.fixture
def box(tmp_path: Path, alice: Person) -> Box:
    return governed(tmp_path / "repo", [alice])


def shipped(box: Box, alice: Person, *, more: bool = False) -> str:
    """A protocol of which a step was done with an approval; `more`: the next one is approved too, and not done."""
    protocol = box.new(STEPS)
    box.runner("step", protocol, rc=3)
    box.runner("approve", protocol, "ship", "--yes", rc=0, env=alice.env)
    box.runner("step", protocol, rc=0)
    if more:
        box.runner("step", protocol, rc=3)
        box.runner("approve", protocol, "tell", "--yes", rc=0, env=alice.env)
    return protocol


def rebased(box: Box, protocol: str) -> str:
    box.write("base.txt", "moved\n")
    box.commit("the base moves")
    box.git("rebase", "-q", "main", cwd=box.worktree(protocol))
    return here(box, protocol)


@pytest.mark.parametrize("more", mostly_slow([True, False], 1))
def test_it_is_adopted_its_steps_stay_done_and_approvals_are_given_again(box: Box, alice: Person, more: bool) -> None:
    protocol = shipped(box, alice, more=more)
    old = here(box, protocol)
    new = rebased(box, protocol)
    refused = box.runner("run", protocol, rc=4).err
    assert f"runner doctor --fix {protocol}" in refused and "given again" in refused
    assert f"runner doctor --fix {protocol}" in box.runner("doctor", protocol, rc=4).out
    told = box.runner("doctor", "--fix", protocol, rc=0).err
    assert "given again" in told
    assert here(box, f"refs/runner/lost/{protocol}/{new[:12]}") == new
    assert box.git("rev-parse", f"{protocol}^1").strip() == old
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""
    assert box.git("show", f"{protocol}:base.txt") == "moved\n"
    box.runner("verify", protocol, rc=0)
    box.runner("run", protocol, rc=3)
    assert box.state(protocol)["waiting"][0]["subject"] == "tell"
    box.runner("approve", protocol, "tell", "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:ship.txt") == "ran\n"
    box.runner("verify", protocol, rc=0)


def test_one_whose_rebase_stopped_at_a_conflict_is_adopted_with_what_settled_it(box: Box, alice: Person) -> None:
    protocol = shipped(box, alice)
    tree = box.worktree(protocol)
    box.write("ship.txt", "moved\n")
    box.commit("the base moves")
    box.git("rebase", "-q", "main", cwd=tree, check=False)
    assert "<<<<<<<" in (tree / "ship.txt").read_text()
    (tree / "ship.txt").write_text("moved\nran\n")
    box.git("add", "ship.txt", cwd=tree)
    box.git("-c", "core.editor=true", "rebase", "--continue", cwd=tree)
    assert f"runner doctor --fix {protocol}" in box.runner("run", protocol, rc=4).err
    box.runner("doctor", "--fix", protocol, rc=0)
    assert box.git("show", f"{protocol}:ship.txt") == "moved\nran\n"
    box.runner("verify", protocol, rc=0)
    box.runner("run", protocol, rc=3)


def test_nothing_moves_a_branch_whose_rebase_is_not_finished(box: Box) -> None:
    protocol = box.new({"01-a": command("echo ran > a.txt"), "02-ask": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    tree, before = box.worktree(protocol), here(box, protocol)
    box.write("a.txt", "moved\n")
    box.commit("the base moves")
    box.git("rebase", "-q", "main", cwd=tree, check=False)
    told = box.runner("answer", protocol, "fine", rc=4).err
    assert f"a rebase of {protocol} is under way" in told and "git rebase --abort" in told
    assert here(box, protocol) == before
    box.git("rebase", "--abort", cwd=tree)
    box.runner("answer", protocol, "fine", rc=0)
    box.runner("run", protocol, rc=0)


@pytest.fixture
def pushed(box: Box, alice: Person) -> tuple[str, Box]:
    """A protocol of the box of which a step was done with an approval, rebased and pushed by force; and another clone, which has it
    as it was."""
    add_origin(box)
    protocol = shipped(box, alice)
    box.runner("sync", protocol, rc=0)
    other = clone(box, "bob")
    other.runner("sync", protocol, rc=0)
    rebased(box, protocol)
    box.git("push", "-qf", "origin", protocol)
    return protocol, other


@pytest.mark.slow
def test_one_that_was_pushed_by_force_goes_on_in_every_clone(box: Box, pushed: tuple[str, Box]) -> None:
    protocol, other = pushed
    assert f"runner doctor --fix {protocol}" in other.runner("sync", protocol, rc=4).err
    box.runner("doctor", "--fix", protocol, rc=0)
    box.runner("sync", protocol, rc=0)
    for at in (other, clone(box, "carol")):
        at.runner("sync", protocol, rc=0)
        assert here(at, protocol) == here(box, protocol)
        assert here(box, protocol) == box.git("rev-parse", protocol, cwd=box.path.parent / "origin.git").strip()
        at.runner("verify", protocol, rc=0)
        at.runner("run", protocol, rc=3)


@pytest.mark.slow
def test_a_clone_that_has_the_old_history_adopts_what_another_one_pushed(box: Box, pushed: tuple[str, Box]) -> None:
    protocol, other = pushed
    other.runner("doctor", "--fix", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    box.runner("doctor", "--fix", protocol, rc=0)
    box.runner("sync", protocol, rc=0)
    for at in (box, other):
        at.runner("verify", protocol, rc=0)
        at.runner("run", protocol, rc=3)


def test_a_branch_that_git_fast_forwarded_to_the_base_that_merged_it_is_no_rewritten_one(box: Box) -> None:
    """Seen: `git merge main` after `runner merge`; verify 4, and two findings of doctor that contradict each other."""
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    end = box.git("rev-parse", protocol).strip()
    box.runner("merge", protocol, rc=0)
    box.git("merge", "-q", "main", cwd=box.worktree(protocol))
    told = box.runner("verify", protocol, rc=0)
    assert f"judged at its end, {end[:12]}" in told.out + told.err
    told = box.runner("doctor", rc=None)
    assert "was moved to its base, which has merged it" in told.out + told.err
    assert "rewritten" not in told.out + told.err and "does not verify" not in told.out + told.err
    refused = box.runner("undo", protocol, rc=None)
    assert refused.code in (3, 4) and "was moved to its base" in refused.err and "reset --keep" in refused.err
    box.git("reset", "-q", "--keep", end, cwd=box.worktree(protocol))
    box.runner("undo", protocol, rc=0)


def test_a_branch_that_was_moved_to_the_base_is_judged_at_its_end_in_any_clone(remote: Box) -> None:
    """Also where this machine verified an earlier transition last, or has never seen it."""
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-h": "kind: human\n", "03-c": command("true")})
    remote.runner("run", protocol, rc=3)
    remote.runner("sync", protocol, rc=0)
    bob = clone(remote, "bob")
    tree = bob.path.parent / "tree"
    bob.git("worktree", "add", "-q", tree, "-b", protocol, f"origin/{protocol}")
    bob.runner("verify", protocol, rc=0)
    remote.runner("answer", protocol, "ok", rc=0)
    remote.runner("run", protocol, rc=0)
    end = remote.git("rev-parse", protocol).strip()
    remote.runner("merge", protocol, rc=0)
    remote.git("push", "-q", "origin", "main")
    bob.git("fetch", "-q", "origin")
    bob.git("merge", "-q", "origin/main", cwd=tree)
    told = bob.runner("doctor", protocol, rc=None).out
    assert f"reset --keep {end}" in told and "found:" not in told
    bob.runner("verify", protocol, rc=0)
    bob.git("push", "-q", "origin", f"+{protocol}:{protocol}")
    fresh = clone(remote, "fresh")
    fresh.runner("verify", protocol, rc=0)


def test_a_record_that_was_changed_on_the_base_is_found_though_the_branch_was_moved_there(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    box.write(f".protocols/{protocol}/log.md", box.git("show", f"main:.protocols/{protocol}/log.md").replace("a", "b"))
    box.commit("tampered")
    box.git("merge", "-q", "main", cwd=box.worktree(protocol))
    box.runner("verify", protocol, rc=4)
    told = box.runner("doctor", protocol, rc=4).out
    assert "all is well" not in told and "found:" in told
