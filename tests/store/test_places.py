"""Files that the runner puts in their place whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.store.places import write_atomically


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
