"""Signals that wait while a program is started: tests/sandbox and tests/cli/test_fleet.py have the programs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import signals
from tests.conftest import Box, command


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    known = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, known)


def test_one_waits_till_it_is_let_and_comes_once() -> None:
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    with signals.held() as let:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not came
        let()
        assert came == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)  # no longer held
        assert len(came) == 2
    assert len(came) == 2


def test_one_that_was_not_let_comes_at_the_end_whatever_else_was_raised() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    with pytest.raises(KeyboardInterrupt), signals.held():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("it could not be started")
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_one_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with signals.held():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # as what is started inherits it
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_thread_changes_nothing() -> None:
    known = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with signals.held() as let:
            seen.append(signal.getsignal(signal.SIGTERM))
            let()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [known]


@pytest.mark.slow
def test_a_closed_terminal_ends_what_was_started(box: Box, tmp_path: Path) -> None:
    told = tmp_path / "told"
    protocol = box.new({"01-a": command(f"echo $$ > {told}.new; mv {told}.new {told}; sleep 600")})
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(box.path)
        env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
        os.execve(sys.executable, [sys.executable, "-m", "runner", "run", protocol], env)
    while not told.exists():
        time.sleep(0.02)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert not Path(f"/proc/{told.read_text().strip()}").exists()
    box.runner("verify", protocol, rc=0)


def test_a_closed_terminal_is_none_of_what_nohup_started(box: Box) -> None:
    known = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        box.runner("--version", rc=0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, known)


def test_ctrl_c_while_the_first_modules_are_read_ends_without_a_word(tmp_path: Path) -> None:
    """`click`, which the command line imports first, stands for any of them; both programs start at the same function."""
    (tmp_path / "click").mkdir()
    (tmp_path / "click/__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = f"{tmp_path}:{Path(__file__).parents[1]}"
    programs = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(programs.values()) == {"runner.__main__:main"}
    for start in (("-m", "runner"), ("-c", "from runner.__main__ import main; main()")):
        done = subprocess.run([sys.executable, *start, "status"], env={"PYTHONPATH": path}, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
