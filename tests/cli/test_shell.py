"""`runner shell`: the sandbox as a step had it, in a workspace of its own, at a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from runner.store import locks
from tests.conftest import Box, clone, command, slack

EXECUTORS = pytest.mark.parametrize("executor", ["sandbox", "host"])
FAILS = 'qa: {checks: ["true", "grep -q other a.txt"]}\n'


def spaces(box: Box) -> list[str]:
    return sorted(path.name for path in box.home.glob(".local/state/protocol-runner/*/0*"))


@pytest.fixture
def failed(box: Box) -> str:
    """A protocol whose step has left work that its second check refused."""
    protocol = box.new(
        {"01-a": command("echo of the step > a.txt; echo k=v > $RUNNER_RESULT", FAILS), "02-b": command("true")}
    )
    box.runner("run", protocol, rc=1)
    return protocol


# --- where it starts -----------------------------------------------------------------------------------------------------


def test_it_has_the_work_that_a_failed_check_refused(box: Box, failed: str) -> None:
    done = box.runner("shell", failed, "a", "--", "sh", "-c", "cat a.txt; exit 5")
    assert (done.code, done.out) == (5, "of the step\n")
    assert done.err == f"{failed}, 01-a as attempt 1 left it; your changes are discarded at the end\n"


def test_it_has_what_was_kept_of_a_command_that_failed_and_what_people_committed_since(box: Box) -> None:
    protocol = box.new({"01-a": command("echo of the step > a.txt; exit 3", "on_failure: {retry: 1}\n")})
    box.runner("step", protocol, rc=0)  # attempt 2 has not started
    tree = box.worktree(protocol)
    (tree / "b.txt").write_text("of a person\n")
    box.commit("b", cwd=tree)
    line = "cat a.txt b.txt; echo attempt $RUNNER_ATTEMPT"
    assert (
        box.runner("shell", protocol, "a", "--", "sh", "-c", line, rc=0).out == "of the step\nof a person\nattempt 1\n"
    )
    (tree / "a.txt").write_text("of a person\n")
    box.commit("in its way", cwd=tree)
    told = box.runner("shell", protocol, "a", "--", "true", rc=4).err
    assert "conflicts: a.txt" in told and "next: add --start" in told
    assert box.runner("shell", protocol, "a", "--start", "--", "ls", rc=0).out.split() == ["README.md", "src"]


def test_of_a_completed_step_it_has_the_work_of_that_step_alone(box: Box) -> None:
    protocol = box.new({"01-a": command("touch a.txt"), "02-b": command("touch b.txt")})
    box.runner("run", protocol, rc=0)
    assert box.runner("shell", protocol, "a", "--", "ls", rc=0).out.split() == ["README.md", "a.txt", "src"]
    assert box.runner("shell", protocol, "b", "--start", "--", "ls", rc=0).out.split() == ["README.md", "a.txt", "src"]
    assert box.runner("shell", protocol, "--", "ls", rc=0).out.split() == ["README.md", "a.txt", "b.txt", "src"]


def test_a_step_that_did_not_start_has_what_it_would_start_from(box: Box, failed: str) -> None:
    done = box.runner("shell", failed, "b", "--", "cat", "a.txt", rc=0)
    assert done.out == "of the step\n" and f"{failed}, 02-b as it starts;" in done.err


def test_a_check_has_a_clean_export(box: Box, failed: str) -> None:
    line = "pwd; test -e .git || cat a.txt"
    done = box.runner("shell", failed, "a", "--check", "2", "--", "sh", "-c", line, rc=0)
    assert done.out.endswith("/check\nof the step\n") and done.err.endswith("\ncheck 2: grep -q other a.txt\n")
    assert "a has 2 checks" in box.runner("shell", failed, "a", "--check", "3", "--", "true", rc=2).err
    assert "name the step" in box.runner("shell", failed, "--check", "1", "--", "true", rc=2).err


@EXECUTORS
def test_the_environment_is_that_of_the_step(box: Box, executor: str) -> None:
    box.env |= {"DEPLOY_TOKEN": "sk-0123456789-abcdefghij", "RUNNER_EXECUTOR": executor}
    show = "env | sed 's/=.*shell-1/=X/; s/=.*[0-9]-a-plan/=X/' | sort"
    protocol = box.new({"01-a": command(f"{show} > env.txt")}, front="inputs: {who: you}\n")
    box.runner("run", protocol, rc=0)
    inside = box.runner("shell", protocol, "a", "--", "sh", "-c", show, rc=0).out
    assert inside == box.git("show", f"{protocol}:env.txt") and "RUNNER_INPUT_WHO=you" in inside and "sk-" not in inside


def test_what_the_setup_made_is_there_and_not_made_again(box: Box) -> None:
    box.write(".protocols/config.yaml", "workspace: {setup: 'mkdir ~/made && echo of the setup > ~/made/x'}\n")
    box.commit("a setup")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    protocol = box.new({"01-a": command("pwd > pwd.txt; echo of the step > ~/planted", FAILS)})
    box.runner("run", protocol, rc=1)
    for where in ([], ["--check", "1"]):
        line = "cat ~/made/x pwd.txt; ls ~; pwd"
        done = box.runner("shell", protocol, "a", *where, "--", "sh", "-c", line, rc=0)
        assert done.out == f"of the setup\n{box.path}\nmade\n{box.path}\n" and "setting up" not in done.err


def test_the_words_after_the_dashes_are_the_command(box: Box, failed: str) -> None:
    assert box.runner("shell", failed, "--", "echo", "--", "--start", "a", rc=0).out == "-- --start a\n"
    assert box.runner("shell", failed, "a", "--", "no-such-program").code == 127
    assert "there is no terminal" in box.runner("shell", failed, "a", "--", rc=2).err


# --- what it leaves ------------------------------------------------------------------------------------------------------


def test_nothing_of_it_is_kept_or_recorded(box: Box, failed: str) -> None:
    before, there = box.git("for-each-ref"), spaces(box)
    line = "echo x > $HOME/planted; echo x > a.txt; git add -A; git commit -qm x; mkdir -p l/m; chmod 0 l; true"
    box.runner("shell", failed, "a", "--", "sh", "-c", line, rc=0)
    assert box.git("for-each-ref") == before and spaces(box) == there
    assert not list(box.home.glob("**/planted"))


def test_it_opens_beside_a_running_step_and_beside_another_shell(box: Box) -> None:
    flag = box.path.parent / "flag"
    wait = f"until [ -e {flag} ]; do sleep 0.05; done"
    protocol = box.new({"01-a": command(f"touch going.txt; {wait}; ls > ls.txt")})
    running = box.start("run", protocol, "--executor", "host")
    try:
        until = time.monotonic() + 30 * slack()
        while not list(box.home.glob("**/going.txt")) and time.monotonic() < until:
            time.sleep(0.02)
        with (
            box.session() as session,
            locks.hold(session.dirs.lock(f"{protocol}.shell-1"), session.env, what="a shell"),
        ):
            done = box.runner("shell", protocol, "a", "--", "sh", "-c", "pwd; ls; touch mine.txt", rc=0)
    finally:
        flag.touch()
        running.communicate()
    assert done.out.splitlines()[0].endswith(f"{protocol}.shell-2/work") and "going.txt" not in done.out
    assert running.returncode == 0 and box.git("show", f"{protocol}:ls.txt").split() == [
        "README.md",
        "going.txt",
        "ls.txt",
        "src",
    ]


def test_what_a_setup_printed_that_failed_is_still_there_when_the_shell_is_gone(box: Box) -> None:
    box.write(".protocols/config.yaml", "workspace: {setup: 'echo of the setup; exit 9'}\n")
    box.commit("a setup")
    told = box.runner("shell", box.new({"01-a": command("true")}), "--", "true", rc=1).err
    (file,) = re.findall(r"all that it printed is in (\S+)", told)
    assert "  | of the setup\n" in told and Path(file).read_text() == "of the setup\n" and spaces(box) == []


@pytest.mark.slow
def test_two_that_make_the_environment_at_once_both_open(box: Box) -> None:
    box.write(".protocols/config.yaml", "workspace: {setup: 'sleep 3; echo of the setup > ~/x; mkdir ~/made'}\n")
    box.commit("a setup")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    protocol = box.new({"01-a": command("true")})
    both = [box.start("shell", protocol, "a", "--", "cat", "/run/runner/home/x") for _ in range(2)]
    told = [one.communicate() for one in both]
    assert all("setting up" in err for _, err in told)  # at once
    assert [out for out, _ in told] == ["of the setup\n"] * 2, told


def killed(box: Box, protocol: str, executor: str) -> tuple[int, str]:
    """Kill a runner with an open shell; return the process id that its command has for itself, and what `clean` said before."""
    line = "echo $$ > $HOME/up; exec sleep 60"
    with box.start("shell", protocol, "a", "--executor", executor, "--", "sh", "-c", line) as opened:
        try:
            until = time.monotonic() + 30 * slack()
            while not (found := [path for path in box.home.glob("**/up") if path.read_text()]):
                assert time.monotonic() < until
                time.sleep(0.02)
            cleaned = box.runner("clean", protocol, "--dry-run", rc=0)
            return int(found[0].read_text()), cleaned.out + cleaned.err
        finally:
            opened.kill()


def test_what_a_killed_shell_left_is_removed_by_clean(box: Box, failed: str) -> None:
    _, told = killed(box, failed, "sandbox")
    assert f"{failed}.shell-1" in spaces(box) and re.search(rf"{failed}\.shell-1.*a shell is open in it", told)
    box.runner("clean", failed, "--yes", rc=0)
    assert spaces(box) == []


def test_what_a_killed_shell_left_is_removed_by_the_next_one(box: Box, failed: str) -> None:
    pid, _ = killed(box, failed, "host")
    os.kill(pid, 0)
    assert box.runner("shell", failed, "--", "sh", "-c", "ls $HOME", rc=0).out == ""
    assert not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()
    assert f"{failed}.shell-1" not in spaces(box)


def test_in_another_clone_it_has_the_same_work(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo of the step > a.txt", FAILS)})
    remote.runner("run", protocol, rc=1)
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "bob")
    other.runner("sync", protocol, rc=0)
    assert other.runner("shell", protocol, "a", "--", "cat", "a.txt", rc=0).out == "of the step\n"


# --- the terminal --------------------------------------------------------------------------------------------------------


class Terminal:
    """A person's terminal with `runner shell` in it. What is typed and shown goes through `own`; `other` is the runner's end."""

    def __init__(self, box: Box, *args: str, env: dict[str, str] | None = None) -> None:
        self.own, self.other = pty.openpty()
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        self.before = termios.tcgetattr(self.other)
        more = {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", "SHELL": "/bin/sh", **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner", "shell", *args],
            cwd=box.path, env=box.environment(more), stdin=self.other, stdout=self.other, stderr=self.other,
            preexec_fn=lambda: os.login_tty(os.dup(0)),
        )  # fmt: skip
        self.shown = ""

    def see(self, what: str) -> str:
        """Wait until this is shown, and return what was shown up to it."""
        until = time.monotonic() + 30 * slack()
        while (at := re.search(what, self.shown)) is None:
            assert time.monotonic() < until and self.read(), self.shown
        found, self.shown = self.shown[: at.end()], self.shown[at.end() :]
        return found

    def read(self) -> bool:
        if not select.select([self.own], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self.own, 65536)
        except OSError:
            return False
        self.shown += data.decode()
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.own, text.encode())

    def end(self) -> int:
        """Wait until the runner ends; the terminal is then as it was."""
        until = time.monotonic() + 30 * slack()
        while self.process.poll() is None:
            assert time.monotonic() < until, self.shown
            self.read()
        assert termios.tcgetattr(self.other) == self.before
        return self.process.returncode

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.own)
        os.close(self.other)


@EXECUTORS
def test_a_shell_at_a_terminal_has_job_control_and_its_exit_code_is_passed_on(
    box: Box, failed: str, executor: str
) -> None:
    with Terminal(box, failed, "a", "--executor", executor) as at:
        at.see("discarded at the end")
        at.type("cat a.txt; stty size; echo $TERM\n")
        seen = at.see("of the step\r\n33 77\r\nxterm\r\n")
        assert f"({failed} a) $ " in seen and "can't access tty" not in seen
        at.type("sh -c 'echo go; exec sleep 100'\n")
        at.see("go\r\n")
        at.type("\x03")
        at.type("echo a$?b\n")
        at.see("a130b")
        job = "import os, signal, time; signal.signal(18, lambda *_: os.write(1, b'ba' b'ck\\n'));"
        job += " os.write(1, b'go\\n'); time.sleep(99)"
        at.type(f'python3 -c "{job}"\n')
        at.see("go\r\n")
        at.type("\x1a")
        at.see("Stopped")
        at.type("fg\n")
        at.see("back\r\n")  # said by the job: the shell prints its command before it gives it the terminal
        at.type("\x03")
        at.type("exit 7\n")
        assert at.end() == 7


@EXECUTORS
def test_a_command_at_a_terminal_takes_ctrl_c_itself(box: Box, failed: str, executor: str) -> None:
    line = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    with Terminal(box, failed, "a", "--executor", executor, "--", "sh", "-c", line) as at:
        at.see("ready\r\n")
        at.type("\x03")
        at.see("caught")
        assert at.end() == 9


def test_the_window_may_change_its_size(box: Box, failed: str) -> None:
    with Terminal(box, failed, "a", "--executor", "sandbox") as at:
        at.see("discarded at the end")
        at.type("echo rea''dy\n")
        at.see("ready")
        fcntl.ioctl(at.own, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 55, 0, 0))
        time.sleep(0.3)
        at.type("stty size; exit\n")
        at.see("44 55")
        assert at.end() == 0


def test_nothing_in_the_sandbox_can_type_into_the_persons_terminal(box: Box, failed: str) -> None:
    code = (
        "import fcntl, os, termios\n"
        "for fd in (*range(20), os.open('/dev/tty', os.O_RDWR)):\n"
        "    try:\n"
        "        print('device', os.fstat(fd).st_rdev)\n"
        "        for char in b'echo planted': fcntl.ioctl(fd, termios.TIOCSTI, bytes([char]))\n"
        "    except OSError: pass\n"
    )
    with Terminal(box, failed, "a", "--executor", "sandbox", "--", "/usr/bin/python3", "-c", code) as at:
        persons = os.fstat(at.other).st_rdev
        assert at.end() == 0
        while at.read() and select.select([at.own], [], [], 0)[0]:
            pass
        assert str(persons) not in re.findall(r"device (\d+)", at.shown) and "device" in at.shown
        waiting = fcntl.ioctl(at.other, termios.FIONREAD, b"\0" * 4)
        assert struct.unpack("i", waiting) == (0,)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_runner_ends_the_shell_and_gives_the_terminal_back(box: Box, failed: str, number: int) -> None:
    with Terminal(box, failed, "a", "--executor", "sandbox") as at:
        at.see("discarded at the end")
        at.type("sleep 100 & echo rea''dy\n")
        at.see("ready")
        at.process.send_signal(number)
        assert at.end() == 130
    assert f"{failed}.shell-1" not in spaces(box)
