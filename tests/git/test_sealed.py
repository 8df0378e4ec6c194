"""What a repository's own configuration can do to git when it is run sealed: run nothing, and change no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.git import Git
from tests.conftest import Box

SIGNED = (
    "tree {tree}\nparent {parent}\nauthor a <a@example.test> 1700000000 +0000\ncommitter a <a@example.test> 1700000000 +0000\n"
    "gpgsig -----BEGIN PGP SIGNATURE-----\n \n aaaa\n -----END PGP SIGNATURE-----\n\nsigned\n"
)


def test_a_log_that_shows_signatures_runs_no_program(box: Box, tmp_path: Path) -> None:
    trace, program = tmp_path / "trace", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran > {trace}\necho more\n")
    program.chmod(0o755)
    for key, value in (("log.showSignature", "true"), ("gpg.program", program)):
        box.git("config", key, str(value))
    text = SIGNED.format(tree=box.git("rev-parse", "HEAD^{tree}").strip(), parent=box.git("rev-parse", "HEAD").strip())
    oid = box.git("hash-object", "-t", "commit", "-w", "--stdin", data=text).strip()
    with Git.open(box.path) as git:
        assert git.text("log", "-1", "--format=%H", oid) == oid
    assert not trace.exists()


def test_paths_are_the_tree_s_own_in_a_folder_of_a_submodule(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git sets `core.worktree` in a submodule; it would read paths as seen from the folder that somebody stands in."""
    box.git("config", "core.worktree", str(box.path))
    monkeypatch.chdir(box.path / "src")
    with Git.open(Path.cwd()) as git:
        assert git.text("rev-list", "HEAD", "--", "README.md") == box.git("rev-parse", "HEAD").strip()
        assert git.text("rev-list", "HEAD", "--", "app.py") == ""
