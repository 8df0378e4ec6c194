"""`status` and `list` after a plain `git fetch`: a branch here that is behind the fetched one is said to be."""

from __future__ import annotations

import pytest

from tests.conftest import Box, clone, command

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


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("args", [["status"], ["status", "1"], ["list"]])
def test_newer_transitions_are_counted_with_the_command_that_takes_them_up(remote: Box, args: list[str]) -> None:
    done = remote.runner(*args, rc=0)
    assert "origin has 2 newer transitions" in done.out and "runner sync 1" in done.out + done.err
    remote.runner("sync", "1", rc=0)
    done = remote.runner(*args, rc=0)
    assert "newer" not in done.out and "sync" not in done.out + done.err


@pytest.mark.parametrize("args", [["status"], ["status", "1"], ["list"]])
def test_a_branch_that_is_ahead_is_not_behind(other: Box, args: list[str]) -> None:
    other.runner("step", "1")
    assert "newer" not in other.runner(*args, rc=0).out
