"""Standard streams that are closed, full or gone: what was done decides the exit code, not whether a message could be written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Box, command, mostly_slow


def shell(box: Box, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `runner` is this checkout's."""
    text = f'runner() {{ "{sys.executable}" -m runner "$@"; }}\n{line}'
    return subprocess.run(["bash", "-c", text], cwd=box.path, env=box.environment(), capture_output=True, text=True)


@pytest.mark.parametrize("how", mostly_slow(["0<&- >&- 2>&-", "2> >(true)", "2>&-", "2>/dev/full"]))
def test_a_step_that_nobody_can_hear_about_is_done_and_exits_0(box: Box, how: str) -> None:
    protocol = box.new({"01-a": command("echo a; echo b >&2")})
    assert shell(box, f"runner step {protocol} {how}").returncode == 0
    assert box.state(protocol)["status"] == "completed"


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full"])
def test_a_failed_step_that_nobody_can_hear_about_exits_1(box: Box, how: str) -> None:
    protocol = box.new({"01-a": command("exit 3")})
    assert shell(box, f"runner run {protocol} {how}").returncode == 1


def test_a_refusal_that_nobody_can_hear_about_keeps_its_code(box: Box) -> None:
    assert shell(box, "runner show 7 2>/dev/full").returncode == 2


def test_in_ci_too(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    assert shell(box, f"CI=true runner step {protocol} 2>/dev/full").returncode == 0


def test_no_file_gets_the_number_of_a_closed_stream(box: Box) -> None:
    """Else a message would be written into the journal or the lock that got it."""
    code = (
        "import os; from runner.cli import streams; streams.open_missing(); os._exit(os.open('/dev/null', os.O_RDONLY))"
    )
    for how in ("", "0<&-", "2>&-", "0<&- >&- 2>&-"):
        assert shell(box, f'{sys.executable} -c "{code}" {how}').returncode == 3, how


def test_a_result_that_cannot_be_written_exits_2_and_says_so(box: Box) -> None:
    box.new({"01-a": command("true")})
    told = shell(box, "runner list > /dev/full")
    assert told.returncode == 2
    assert told.stderr.startswith("error: the result could not be written: No space left on device\n  at:   stdout\n")
    assert "nothing was published" not in told.stderr
