"""`status`, `list` and `doctor` after a plain `git fetch`: what was fetched is not ignored."""

from __future__ import annotations

import pytest

from tests.conftest import Box, clone, command, mostly_slow

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt"), "03-c": "kind: human\n"}


@pytest.fixture
def other(remote: Box) -> Box:
    """Another clone, which published two transitions of a protocol; git fetched them here."""
    protocol = remote.new(STEPS)
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "bob")
    other.runner("sync", protocol, rc=0)
    other.runner("step", protocol, rc=0)
    other.runner("step", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    remote.git("fetch", "-q", "origin")
    return other


WHERE = (["list"], ["status"], ["status", "1"])


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("args", mostly_slow(WHERE))
def test_newer_transitions_are_counted_with_the_command_that_takes_them_up(remote: Box, args: list[str]) -> None:
    done = remote.runner(*args, rc=0)
    assert "origin has 2 newer transitions" in done.out and "runner sync 1" in done.out + done.err
    remote.runner("sync", "1", rc=0)
    done = remote.runner(*args, rc=0)
    assert "newer" not in done.out and "sync" not in done.out + done.err


@pytest.mark.parametrize("args", mostly_slow(WHERE, 1))
def test_a_branch_that_is_ahead_is_not_behind(other: Box, args: list[str]) -> None:
    other.runner("step", "1")
    assert "newer" not in other.runner(*args, rc=0).out


@pytest.mark.parametrize("args", mostly_slow(WHERE, 1))
def test_another_protocol_with_the_same_id_is_not_newer_transitions(remote: Box, args: list[str]) -> None:
    bob = clone(remote, "bob")
    for box in (remote, bob):
        protocol = box.new(STEPS)
    remote.runner("sync", protocol, rc=0)
    bob.runner("sync", protocol, rc=4)
    bob.git("fetch", "-q", "origin")
    done = bob.runner(*args, rc=0)
    assert "origin has another protocol with this id" in done.out and "newer" not in done.out
    assert f"runner fork --renumber {protocol}" in done.out + done.err and "runner sync" not in done.out + done.err
    bob.runner("fork", "--renumber", protocol, rc=0)
    assert "another protocol" not in bob.runner("status", rc=0).out


def test_doctor_looks_with_the_trusted_branch_that_git_fetched(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: sometimes\n")
    remote.commit("a mistake")
    remote.git("push", "-q", "origin", "main")
    bob = clone(remote, "bob")
    bob.runner("policy", "test", "--live", rc=0)
    assert "`publish` should be" in bob.runner("doctor", rc=2).out
    remote.write(".protocols/config.yaml", "publish: never\n")
    remote.commit("corrected")
    remote.git("push", "-q", "origin", "main")
    bob.git("fetch", "-q", "origin")
    told = bob.runner("doctor", rc=0).out
    assert "as last fetched by git" in told and "runner policy test --live" in told


def test_doctor_does_not_look_with_a_fetched_branch_that_went_back(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: sometimes\n")
    remote.commit("a mistake")
    remote.git("push", "-q", "origin", "main")
    remote.runner("policy", "test", "--live", rc=0)
    remote.git("update-ref", "refs/remotes/origin/main", "main~1")
    assert "`publish` should be" in remote.runner("doctor", rc=2).out


@pytest.mark.parametrize("is_fetched", mostly_slow([False, True]))
def test_a_branch_that_diverged_is_said_to_lack_the_newer_transitions(remote: Box, is_fetched: bool) -> None:
    protocol = remote.new(STEPS)
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "bob")
    other.runner("sync", protocol, rc=0)
    for box in (other, remote):
        box.runner("step", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    if is_fetched:
        remote.git("fetch", "-q", "origin")
    elsewhere = remote.runner(rc=0).err  # its main was asked for by `step`; its branches are as git fetched them
    assert "\nmain of origin as of " in f"\n{elsewhere}"
    assert "has diverged from origin" in remote.runner("run", protocol, rc=3).err
    told = remote.runner("status", rc=0).out
    assert "origin has 1 newer transition" in told and told.rstrip().endswith("runner sync 1")
