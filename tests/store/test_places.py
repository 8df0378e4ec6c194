"""Files that the runner puts in their place whole."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from runner.store import locks
from runner.store.environment import write_atomically
from tests.conftest import Box


@pytest.mark.parametrize("late", [False, True])
def test_a_signal_at_the_rename_is_told_as_that_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """`make faults` found it: SIGTERM came when the file had its name already, and there was nothing more to take away."""
    rename = os.replace

    def struck(source: str, target: Path) -> None:
        if late:
            rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", struck)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "note", b"words\n")
    assert [path.name for path in tmp_path.iterdir()] == (["note"] if late else [])


def test_a_lock_that_is_given_up_is_free_though_a_child_still_has_it_open(box: Box, tmp_path: Path) -> None:
    with box.session() as session:
        with locks.hold(tmp_path / "lock", session.env, what="it"):
            child = os.fork()  # a program that another thread starts, before it is executed
            if child == 0:
                signal.pause()
        try:
            with locks.hold(tmp_path / "lock", session.env, what="it"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_transition_is_reported_once_the_name_of_its_ref_is_on_the_disk(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git waits for the file of a ref, and gives it its name after that: a power cut lost a transition that had been reported."""
    protocol = box.new({"01-a": "kind: human\n"})
    before, flush = box.git("rev-parse", protocol), os.fsync
    found = list[str]()

    def flushed(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}") == str(box.path / ".git/refs/heads"):
            found.append(box.git("rev-parse", protocol))
        flush(handle)

    def failed(handle: int) -> None:
        flushed(handle)
        if len(found) > 1:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flushed)
        box.runner("pause", protocol, rc=0)
    assert found == [box.git("rev-parse", protocol)] != [before]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failed)
        assert "refs/heads: Input/output error" in box.runner("resume", protocol, rc=2).err
    box.runner("pause", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""
