"""Clocks that are wrong, and two versions of the runner on one repository."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.executor.journal import Journal
from runner.protocol.transcript import Unknown
from tests.conftest import Box, command
from tests.faults.ground import Grounds
from tests.faults.test_kill import finished

FAKETIME = shutil.which("faketime")


def at(when: str) -> dict[str, str]:
    """Return the environment of a machine whose clock is wrong."""
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"), None)
    if FAKETIME is None or library is None or sys.platform != "linux":
        pytest.skip("faketime is not installed")
    return {"LD_PRELOAD": str(library), "FAKETIME": when}


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("first", "then"),
    [("+0", "-1d"), ("+0", "+10y"), ("-2y", "+0"), ("+10y", "+0"), ("-3d", "-5d")],
)
def test_a_clock_that_was_set_does_not_stop_a_run_that_was_cut(grounds: Grounds, first: str, then: str) -> None:
    ground = grounds.get()
    ground.options = ("--max-steps", "1")
    done = ground.run(env=at(first))
    assert done.code == 0, done.err
    ground.options = ()
    done = ground.run(env=at(then))
    assert done.code == 0, done.err
    finished(ground)


def newer(box: Box, name: str, change: Callable[[str], str]) -> tuple[str, str]:
    """Make a protocol whose last transition is one of a newer version's: `change` makes its bytes. Return its id and its tip."""
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    where = box.worktree(protocol)
    path = where / f".protocols/{protocol}/{name}"
    path.write_text(change(path.read_text()))
    box.git("commit", "-qa", "--amend", "--no-edit", cwd=where)
    shutil.rmtree(box.home / ".local/state/protocol-runner")  # what was seen of the branch before
    return protocol, box.git("rev-parse", protocol)


@pytest.mark.no_agreement("the record is none of this version's")
def test_a_state_of_a_newer_version_is_refused_and_left_as_it_is(box: Box) -> None:
    def change(text: str) -> str:
        return json.dumps(json.loads(text) | {"schema": 3}, indent=2, sort_keys=True) + "\n"

    protocol, tip = newer(box, "state.json", change)
    for words in (("step", protocol), ("run", protocol), ("pause", protocol)):
        done = box.runner(*words)
        assert done.code in (2, 4), done.err
        assert "schema 3" in done.err and "use a newer protocol-runner" in done.err, done.err
    assert box.git("rev-parse", protocol) == tip


@pytest.mark.no_agreement("the record is none of this version's")
def test_an_event_of_a_newer_version_is_refused_and_left_as_it_is(box: Box) -> None:
    protocol, tip = newer(
        box,
        "log.md",
        lambda text: text.replace("step-completed a", "step-dreamt a").replace(" a completed", " a dreamt"),
    )
    done = box.runner("step", protocol)
    assert done.code in (2, 4) and "step-dreamt" in done.err and "newer" in done.err, done.err
    assert box.git("rev-parse", protocol) == tip


def test_a_journal_with_records_of_a_kind_that_is_not_known_is_read(box: Box) -> None:
    """What another version noted of an attempt is passed over, and what this one knows of it is made use of."""
    protocol = box.new({"01-a": command("echo a > a.txt")})
    path = box.path / f".git/runner/journal/{protocol}/a.1.jsonl"
    path.parent.mkdir(parents=True)
    Journal(path).append(Unknown({"kind": "dreamt", "time": "2026-11-20T06:47:03Z"}))
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
