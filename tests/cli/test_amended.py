"""A rebased or amended history that verifies: adopted, it keeps what its record has, and nothing is paid for twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.folders import matching
from tests.conftest import Box
from tests.executor.minds import agent, ask, finish, mind, say, sound, write


def amend(box: Box, protocol: str) -> str:
    """Make the branch's last commit anew with the same message and files; return the one that it replaces."""
    old = box.git("rev-parse", protocol).strip()
    box.git("commit", "-q", "--amend", "--no-edit", "--reset-author", cwd=box.worktree(protocol))
    assert box.git("rev-parse", protocol).strip() != old
    return old


def rebase(box: Box, protocol: str) -> str:
    """Put the branch on a base that moved; return its tip before."""
    old = box.git("rev-parse", protocol).strip()
    box.write("base.txt", "moved\n")
    box.commit("the base moves")
    box.git("rebase", "-q", "main", cwd=box.worktree(protocol))
    return old


@pytest.mark.parametrize("rewrite", [amend, rebase])
def test_a_model_that_was_heard_is_not_asked_again(box: Box, rewrite: Callable[[Box, str], str]) -> None:
    first = say(write("a.txt", "a\n"), ask("Which colour?"))
    with mind(box, first, say(write("b.txt", "blue\n")), finish()) as wire:
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1
        rewrite(box, protocol)
        told = box.runner("doctor", "--fix", protocol, rc=0).err
        assert "no revision was lost" in told
        box.runner("answer", protocol, "blue", rc=0)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.git("show", f"{protocol}:a.txt") + box.git("show", f"{protocol}:b.txt") == "a\nblue\n"
    assert box.state(protocol)["spent"]["input_tokens"] == 300
    sound(box, protocol)


@pytest.mark.parametrize("rewrite", [amend, rebase])
def test_the_transcripts_that_the_record_names_stay(box: Box, rewrite: Callable[[Box, str], str]) -> None:
    with mind(box, finish("one"), finish("two")):
        protocol = box.new({"01-a": agent(), "02-b": agent()})
        box.runner("run", protocol, rc=0)
    shown = box.runner("show", protocol, "a", "--transcript", rc=0).out
    old = rewrite(box, protocol)
    box.runner("doctor", "--fix", protocol, rc=0)
    assert box.runner("show", protocol, "a", "--transcript", rc=0).out == shown
    kept = box.git("rev-list", f"refs/runner/history/{protocol}").split()
    assert old not in kept  # what was taken out is not published with it
    sound(box, protocol)


def test_attempts_whose_end_was_reset_away_begin_again(box: Box) -> None:
    with mind(box, finish("one"), finish("better")) as wire:
        protocol = box.new({"01-a": agent()})
        box.runner("step", protocol, rc=0)
        box.git("reset", "-q", "--hard", "HEAD~1", cwd=box.worktree(protocol))
        box.runner("doctor", "--fix", protocol, rc=0)
        assert not matching(box.path / ".git/runner/journal" / protocol, "*.jsonl")
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2
    sound(box, protocol)
