"""A scope of systemd's around a command, by its command line: no machine of ours has a user manager with cgroups version 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.sandbox import process
from runner.sandbox.process import Limits
from tests.sandbox.test_sandbox import bubblewrap, sh

ENV = {"PATH": "/usr/bin:/bin", "OWN": "1"}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What systemd-run was asked for, a line a time; this one makes no cgroup, and says that the trial has its bounds."""
    log, fake = tmp_path / "asked", tmp_path / "bin/systemd-run"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/bin/sh
echo "$*" >> {log}
while [ "$1" != -- ]; do shift; done
shift
case "$*" in *memory.max*) test -e {tmp_path}/useless || printf '67108864\\n64\\n' ;; *) exec "$@" ;; esac
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    log.touch()
    process._shown.cache_clear()
    yield log
    process._shown.cache_clear()


def test_memory_and_processes_are_bounded_together(asked: Path, tmp_path: Path) -> None:
    sandbox = bubblewrap().limited(Limits(memory=512 << 20, processes=100))
    outcome = sandbox.run(sh(tmp_path, "env", env=ENV))
    assert set(outcome.tail.decode().split()) - {"PWD=" + str(tmp_path)} == {
        "PATH=/usr/bin:/bin",
        "OWN=1",
        "HOME=/run/runner/home",
    }
    trial, own = asked.read_text().splitlines()
    assert "--property=MemoryMax=67108864 --property=MemorySwapMax=0 --property=TasksMax=64 --" in trial
    assert (
        "--scope --quiet --collect --property=MemoryMax=536870912 --property=MemorySwapMax=0 --property=TasksMax=100 --"
        in own
    )
    sandbox.run(sh(tmp_path, "true", env=ENV))
    assert len(asked.read_text().splitlines()) == 3  # tried once


def test_without_a_limit_there_is_no_scope(asked: Path, tmp_path: Path) -> None:
    assert bubblewrap().limited(Limits(cpu=60)).run(sh(tmp_path, "true", env=ENV)).ok
    assert asked.read_text() == ""


def test_a_scope_that_does_not_bound_is_not_used(asked: Path, tmp_path: Path) -> None:
    (tmp_path / "useless").touch()
    assert bubblewrap().limited(Limits(processes=100)).run(sh(tmp_path, "true", env=ENV)).ok
    assert len(asked.read_text().splitlines()) == 1  # the trial


def test_the_end_of_the_group_is_the_end_of_all_of_it(asked: Path, tmp_path: Path) -> None:
    outcome = bubblewrap().limited(Limits(processes=100)).run(sh(tmp_path, "sleep 60", env=ENV, timeout=1.0))
    assert outcome.timed_out and outcome.seconds < 10


@pytest.mark.parametrize(
    ("said", "killed"), [("low 0\noom 1\noom_kill 2\n", True), ("oom 1\noom_kill 0\n", False), ("", False)]
)
def test_a_kill_for_want_of_memory_is_read_from_the_cgroup(tmp_path: Path, said: str, killed: bool) -> None:
    (tmp_path / "memory.events").write_text(said)
    with (tmp_path / "memory.events").open() as events:
        assert process.has_killed(events.fileno()) is killed
