"""Files that the runner puts in their place whole."""

from __future__ import annotations

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
    with box.project() as project:
        with locks.hold(tmp_path / "lock", project.env, what="it"):
            child = os.fork()  # a program that another thread starts, before it is executed
            if child == 0:
                signal.pause()
        try:
            with locks.hold(tmp_path / "lock", project.env, what="it"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
