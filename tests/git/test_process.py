"""Processes that are held open: what they say and how they end, whatever is still on the way."""

from __future__ import annotations

import os

import pytest

from runner.git import Git
from runner.git.process import GitError, HeldProcess, git_error
from tests.conftest import Box


def held(script: str) -> HeldProcess:
    return HeldProcess(["sh", "-c", script], {"PATH": os.environ["PATH"]})


@pytest.mark.timeout(20)
def test_one_that_still_speaks_can_be_ended() -> None:
    # As after Ctrl-C in the middle of a big blob: more is on the way than a pipe holds.
    found = held("read line; echo $line; head -c 1000000 /dev/zero")
    assert found.ask(b"go\n") == b"go"
    found.close()
    assert found.process.returncode == 0


def test_one_that_died_says_why() -> None:
    with pytest.raises(GitError, match="fatal: it is broken"):
        held("read line; echo warning >&2; echo fatal: it is broken >&2; exit 3").ask(b"go\n")


@pytest.mark.parametrize(
    "said",
    [
        "error: unable to write file: No space left on device",
        "fatal: /w/index.lock write error. Out of diskspace",
        "fatal: write error: Disk quota exceeded",
    ],
)
def test_a_full_disk_has_one_hint_whatever_git_calls_it(said: str) -> None:
    assert git_error(["git", "read-tree"], 128, said).hint == "make room on the disk; nothing was published"


def test_refs_that_were_packed_twice_within_a_second_are_not_taken_for_the_first_ones(box: Box) -> None:
    """On a disk that gives the inode of a file that is gone to the next one, as ext4 does; here it is written in place."""
    old, new = box.commit("one"), box.commit("two")
    box.git("update-ref", "refs/heads/other", old)
    box.git("pack-refs", "--all")
    packed = box.path / ".git/packed-refs"
    with Git.open(box.path) as git:
        while True:
            stamp = int(packed.stat().st_mtime)
            assert git.ref("refs/heads/other") == old
            packed.write_text(packed.read_text().replace(f"{old} refs/heads/other", f"{new} refs/heads/other"))
            if int(packed.stat().st_mtime) == stamp:
                break
            box.git("update-ref", "refs/heads/other", old)
            box.git("pack-refs", "--all")
        assert git.ref("refs/heads/other") == new
        git.update_refs({"refs/heads/other": (old, new)}, "test")
    assert box.git("rev-parse", "refs/heads/other").strip() == old
