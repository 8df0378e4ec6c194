"""`resources`: what a process of a command or check may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from runner.sandbox.host import Host
from runner.sandbox.process import Command, Limits
from tests.conftest import Box, command

EXECUTORS = pytest.mark.parametrize("executor", ["sandbox", "host"])
READ = "/usr/bin/python3 -c 'import resource as r; print(r.getrlimit(r.RLIMIT_DATA)[0] >> 20)'"
BIG = "/usr/bin/python3 -c 'bytearray(300 << 20)'"


def configure(box: Box, resources: str) -> None:
    box.write(".protocols/config.yaml", f"resources: {resources}\n")
    box.commit("resources")


def failure(box: Box, executor: str, line: str, more: str = "") -> str:
    """What is printed as a step with this command, or the check in `more`, fails."""
    return box.runner("run", box.new({"01-a": command(line, more)}), "--executor", executor, rc=1).err


@EXECUTORS
@pytest.mark.parametrize("of_check", [False, True], ids=["command", "check"])
def test_a_process_that_wants_more_memory_gets_none(box: Box, executor: str, of_check: bool) -> None:
    configure(box, "{memory: 200M}")
    check = f'qa: {{checks: ["{BIG}"]}}\n'
    told = failure(box, executor, "true", check) if of_check else failure(box, executor, BIG)
    assert "  | MemoryError\n" in told
    assert "it got no more than `resources: {memory: …}` allows, as it says by `MemoryError`" in told


def test_without_a_limit_it_gets_what_it_wants(box: Box) -> None:
    box.runner("run", box.new({"01-a": command(BIG)}), rc=0)


@EXECUTORS
def test_a_process_that_used_up_its_time_fails_with_that_reason(box: Box, executor: str) -> None:
    told = failure(box, executor, "while :; do :; done", "resources: {cpu: 1s}\n")
    assert "exit 152, `while :; do :; done`: a process used up its time on the processors" in told


@EXECUTORS
def test_a_file_that_becomes_too_large_fails_with_that_reason(box: Box, executor: str) -> None:
    configure(box, "{disk: 1M}")
    told = failure(box, executor, "exec head -c 2000000 /dev/zero > a")
    assert "exit 153, `exec head -c 2000000 /dev/zero > a`: a file became larger than it may" in told


def test_the_sandbox_s_own_folders_hold_no_more(box: Box) -> None:
    told = failure(
        box,
        "sandbox",
        "for n in 1 2 3; do head -c 700000 /dev/zero > /tmp/$n || exit 5; done",
        "resources: {disk: 1M}\n",
    )
    assert "exit 5" in told
    assert "it got no more than `resources: {disk: …}` allows, as it says by `No space left on device`" in told


def test_words_of_a_lack_are_no_reason_without_a_limit(box: Box) -> None:
    assert "allows" not in failure(box, "host", "echo MemoryError: No space left on device; exit 1")


def test_a_command_that_was_killed_may_have_lacked_memory(box: Box) -> None:
    assert "exit 137, `kill -9 $$`: it was killed; the machine" in failure(box, "host", "kill -9 $$")


@EXECUTORS
def test_a_step_lowers_a_limit_and_cannot_raise_it(box: Box, executor: str) -> None:
    configure(box, "{memory: 1G, processes: 100}")
    lower, higher = (
        command(f"{READ} > {name}.txt", f"resources: {{memory: {most}}}\n")
        for name, most in (("a", "600M"), ("b", "2G"))
    )
    protocol = box.new({"01-a": lower, "02-b": higher})
    box.runner("run", protocol, "--executor", executor, rc=0)
    assert [box.git("show", f"{protocol}:{name}.txt") for name in ("a", "b")] == ["600\n", "1024\n"]


def test_the_number_of_processes_is_set_in_the_sandbox_alone(box: Box) -> None:
    configure(box, "{processes: 100}")
    line = "/usr/bin/python3 -c 'import resource as r; print(r.getrlimit(r.RLIMIT_NPROC)[0])'"
    protocol = box.new({"01-a": command("true")})
    assert box.runner("shell", protocol, "--executor", "sandbox", "--", "sh", "-c", line, rc=0).out == "100\n"
    assert box.runner("shell", protocol, "--executor", "host", "--", "sh", "-c", line, rc=0).out != "100\n"


@pytest.mark.parametrize(
    "given", ["{memory: lots}", "{memory: 4GB}", "{disk: 0G}", "{processes: 0}", "{cpu: 30}", "{ram: 4G}"]
)
def test_what_is_no_limit_is_refused(box: Box, given: str) -> None:
    refused = box.runner("new", "A plan", "--plan", box.plan({"01-a": command("true", f"resources: {given}\n")}), rc=2)
    assert "01-a.md" in refused.err and "next:" in refused.err


@pytest.mark.parametrize("sandbox", [Bubblewrap(), Host()], ids=["sandbox", "host"])
def test_what_answers_the_calls_of_an_agent_may_take_as_long_as_its_calls(
    sandbox: Bubblewrap | Host, tmp_path: Path
) -> None:
    read = "import resource as r; print(r.getrlimit(r.RLIMIT_CPU)[0], r.getrlimit(r.RLIMIT_DATA)[0])"
    line = Command(("/usr/bin/python3", "-c", read), tmp_path, {"PATH": "/usr/bin:/bin"}, 20, (tmp_path,))
    session = sandbox.limited(Limits(cpu=1, memory=300 << 20)).open(line)
    told = session.stdout.read()
    session.close()
    assert told.split() == [b"-1", b"%d" % (300 << 20)]
