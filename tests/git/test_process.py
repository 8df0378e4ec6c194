"""Processes that are held open: what they say and how they end, whatever is still on the way."""

from __future__ import annotations

import os

import pytest

from runner.git.process import GitError, Held, git_error


def held(script: str) -> Held:
    return Held(["sh", "-c", script], {"PATH": os.environ["PATH"]})


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
