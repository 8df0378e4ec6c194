"""`runner watch`: what starts a step, what holds it up, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runner import resources
from runner.store.environment import matching
from tests.conftest import Box, clone, command
from tests.engines.wire_gemini import Refusal, error
from tests.executor.minds import ENGINE, agent, mind, say

LONG = 90.0  # seconds; nothing here takes as long unless it is broken
SKIP = "qa: skip\n"
Row = dict[str, Any]


class Watching:
    """A `runner watch --json` that runs, and what it has told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.rows: list[Row] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._schema = json.loads(resources.schema("watch"))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.rows.append(json.loads(line))
                self._more.notify_all()

    def until(self, event: str, is_it: Callable[[Row], bool] = lambda row: True) -> Row:
        """Wait for an event that has not been waited for, and return it; those before it are over."""

        def found() -> int | None:
            return next((at for at, row in enumerate(self.rows) if row["event"] == event and is_it(row)), None)

        with self._more:
            assert self._more.wait_for(lambda: found() is not None, timeout=LONG), f"no `{event}`: {self.rows}"
            at = found()
            assert at is not None
            told, self.rows = self.rows[: at + 1], self.rows[at + 1 :]
        for row in told:
            jsonschema.validate(row, self._schema)
        return told[-1]

    def rests(self, protocol: str, status: str = "completed") -> Row:
        """Wait until a protocol rests so."""
        return self.until("rests", lambda row: row["protocol"] == protocol and row["status"] == status)

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """End it, and return its exit code and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout=LONG)
        self._reader.join()
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


@contextmanager
def watching(box: Box, *args: str, cwd: Path | None = None) -> Iterator[Watching]:
    """Watch a repository, from the first look on."""
    found = Watching(box.start("watch", "--json", *args, cwd=cwd))
    try:
        found.until("watching")
        yield found
    finally:
        found.end()
        for stream in (found.process.stdout, found.process.stderr):
            assert stream is not None
            stream.close()


def test_goes_on_with_what_is_there_and_with_what_comes_and_ends_clean(box: Box) -> None:
    first = box.new({"01-a": command("echo a > a.txt", SKIP)})
    with watching(box) as found:
        assert found.until("started")["protocol"] == first
        assert [one["event"] for one in found.until("advanced")["events"]][-1] == "completed"
        found.rests(first)
        second = box.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt", SKIP)})
        found.rests(second, "running")
        box.runner("answer", second, "done", rc=0)
        row = found.rests(second)
        assert row["next"] == {"action": "none", "step": None, "by": ""}
        code, said = found.end()
    assert code == 130
    assert "nothing is lost" in said
    assert "Traceback" not in said
    assert found.rows[-1] | {"time": ""} == {"event": "ended", "time": "", "reason": "interrupted"}
    box.runner("verify", first, second, rc=0)


@pytest.mark.slow
def test_an_uncommitted_edit_holds_up_until_it_is_committed_or_undone(box: Box) -> None:
    name = box.new({"01-a": "kind: human\n", "02-b": command("cat note > b.txt", SKIP)})
    box.runner("run", name, rc=3)
    tree = box.worktree(name)
    step = tree / f".protocols/{name}/02-b.md"
    with watching(box) as found:
        step.write_text(step.read_text().replace("cat note", "echo half"))
        box.runner("answer", name, "done", rc=0)
        row = found.until("held-up")
        assert "02-b.md" in row["reason"] and "`runner run" in row["hint"]
        step.write_text(step.read_text().replace("echo half", "echo whole"))
        box.git("commit", "-qam", "an edit", cwd=tree)
        found.rests(name)
        assert (tree / "b.txt").read_text() == "whole\n"
        other = box.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt", SKIP)})
        found.rests(other, "running")
        step = box.worktree(other) / f".protocols/{other}/02-b.md"
        text = step.read_text()
        step.write_text("half")
        box.runner("answer", other, "done", rc=0)
        found.until("held-up")
        step.write_text(text)
        found.rests(other)
    assert "edit 02-b" not in box.git("log", "--format=%s", other)


@pytest.mark.slow
def test_edits_are_adopted_only_once_they_are_left_alone(box: Box) -> None:
    name = box.new({"01-a": "kind: human\n", "02-b": command("false", SKIP)})
    box.runner("run", name, rc=3)
    tree = box.worktree(name)
    step = tree / f".protocols/{name}/02-b.md"
    with watching(box, "--adopt", "2s") as found:
        swap = step.with_name(".02-b.md.swp")
        swap.write_text("")
        step.write_text(step.read_text().replace("false", "echo half"))
        row = found.until("held-up", lambda row: row["protocol"] == name)
        assert "edited" in row["reason"]
        time.sleep(3)
        step.write_text(step.read_text().replace("echo half", "echo whole > b.txt"))
        swap.unlink()
        found.until("advanced", lambda row: any(one["event"] == "plan-edited" for one in row["events"]))
        box.runner("answer", name, "done", rc=0)
        found.rests(name)
    assert (tree / "b.txt").read_text() == "whole\n"
    assert box.git("log", "--format=%an %s", name).count(f"Alice {name}: edit 02-b.md") == 1


@pytest.mark.slow
def test_a_rebase_under_way_is_waited_for(box: Box) -> None:
    name = box.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt", SKIP)})
    box.runner("run", name, rc=3)
    tree = box.worktree(name)
    (tree / "notes.txt").write_text("mine\n")
    notes = box.commit("notes", cwd=tree)
    box.runner("answer", name, "done", rc=0)
    tip = box.git("rev-parse", name)
    box.git("rebase", "-q", "-i", f"{notes}~1", cwd=tree, env={"GIT_SEQUENCE_EDITOR": "sed -i s/^pick/edit/"})
    with watching(box) as found:
        assert "a rebase of it is under way" in found.until("held-up")["reason"]
        time.sleep(5)  # it looks again meanwhile
        assert box.git("rev-parse", name) == tip
        box.git("rebase", "--abort", cwd=tree)
        found.rests(name)
    assert (tree / "b.txt").read_text() == "b\n"
    box.runner("verify", name, rc=0)


@pytest.mark.slow
def test_a_merge_under_way_in_its_worktree_is_waited_for(box: Box) -> None:
    name = box.new({"01-a": command("echo b > b.txt", SKIP)})
    tree = box.worktree(name)
    box.write("more.txt", "more\n")
    box.commit("more")
    box.git("merge", "-q", "--no-commit", "--no-ff", "main", cwd=tree)
    with watching(box) as found:
        assert f"a merge is under way in {tree}" in found.until("held-up")["reason"]
        box.git("commit", "-qm", "merge main", cwd=tree)
        found.rests(name)
    assert (tree / "more.txt").exists()


@pytest.mark.slow
def test_branches_and_worktrees_that_go_and_refs_that_are_packed_stop_nothing(box: Box) -> None:
    gone = box.new({"01-a": "kind: human\n"})
    kept = box.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt", SKIP)})
    tree = box.worktree(gone)
    with watching(box, cwd=tree) as found:  # started in a folder that goes away
        found.rests(kept, "running")
        box.git("worktree", "remove", "--force", str(tree))
        box.git("branch", "-D", gone)
        box.git("checkout", "-q", "-b", "aside")
        box.git("worktree", "remove", "--force", str(box.worktree(kept)))
        box.git("pack-refs", "--all", "--prune")
        box.git("gc", "-q", "--prune=now")
        box.git("checkout", "-q", kept)  # in the main worktree now
        box.runner("answer", kept, "done", rc=0)
        found.rests(kept)
    assert (box.path / "b.txt").read_text() == "b\n"
    box.runner("verify", kept, rc=0)


@pytest.mark.slow
def test_a_repository_that_is_deleted_ends_it(box: Box) -> None:
    box.new({"01-a": "kind: human\n"})
    with watching(box) as found:
        found.until("rests")
        shutil.rmtree(box.path)
        assert found.process.wait(timeout=LONG) == 2
        said = found.end()[1]
    assert "the repository is gone" in said
    assert found.rows[-1]["event"] == "ended"


@pytest.mark.slow
def test_a_repository_that_is_moved_ends_it_at_once(box: Box) -> None:
    box.new({"01-a": "kind: human\n"})
    with watching(box, "--look-every", "1h") as found:
        found.until("rests")
        box.path.rename(box.path.with_name("moved"))
        assert found.process.wait(timeout=LONG) == 2
        said = found.end()[1]
    box.path.with_name("moved").rename(box.path)
    assert "the repository is gone" in said


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_amid_a_step_it_leaves_no_child_and_the_step_is_done_later(box: Box, how: signal.Signals) -> None:
    name = box.new({"01-a": command("echo $$ > pid; [ -e ../../../../again ] || sleep 600; echo a > a.txt", SKIP)})
    with watching(box) as found:
        found.until("started")
        children = _until(lambda: _children(found.process.pid, "sleep"))
        code, _ = found.end(how)
        assert code == 130
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert box.state(name)["steps"]["a"]["status"] == "pending"


def _children(pid: int, name: str) -> list[int]:
    """Return the processes below one that have this name."""
    found, stack = [], [pid]
    while stack:
        at = stack.pop()
        for one in matching(Path(f"/proc/{at}/task"), "*/children"):
            for child in map(int, one.read_text().split()):
                stack.append(child)
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    found.append(child)
    return found


def _until(look: Callable[[], list[int]]) -> list[int]:
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        try:
            if found := look():
                return found
        except OSError:
            continue
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.slow
def test_what_fails_is_told_once_and_tried_again_when_it_moves(box: Box) -> None:
    name = box.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt", SKIP)})
    box.runner("run", name, rc=3)
    tree = box.worktree(name)
    step = tree / f".protocols/{name}/02-b.md"
    text = step.read_text()
    with watching(box) as found:
        step.write_text(text.replace("kind: command", "kind: comand"))
        box.git("commit", "-qam", "a slip", cwd=tree)
        row = found.until("failed")
        assert (row["protocol"], row["code"]) == (name, 2)
        assert "02-b.md" in row["where"]
        time.sleep(6)  # it is tried again meanwhile, and says nothing new
        assert not [one for one in found.rows if one["event"] == "failed"]
        step.write_text(text)
        box.git("commit", "-qam", "mended", cwd=tree)
        box.runner("answer", name, "done", rc=0)
        found.rests(name)


def test_a_provider_that_says_until_when_is_waited_for(box: Box) -> None:
    later = Refusal(code=429, body=error(429, "RESOURCE_EXHAUSTED", "slow"), headers=[("Retry-After", "9001")])
    with mind(box, later) as wire:
        name = box.new({"01-a": agent()})
        with watching(box) as found:
            row = found.until("held-up")
            assert (row["protocol"], row["again"]) == (name, 9001)
            assert re.fullmatch(r"wait 2 h 31 min, until (\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)? UTC", row["hint"])
            assert len(wire.bodies) == 1


def test_a_provider_that_asks_for_years_is_asked_again_after_a_day(box: Box) -> None:
    later = Refusal(code=429, body=error(429, "RESOURCE_EXHAUSTED", "slow"), headers=[("Retry-After", "999999999")])
    with mind(box, later):
        box.new({"01-a": agent()})
        with watching(box) as found:
            row = found.until("held-up")
            assert row["again"] == 86400
            assert re.fullmatch(
                r"wait 277777 h 47 min, until \d{4}-\S+ \S+ UTC; `watch` waits a day at most", row["hint"]
            )


def test_a_review_that_gave_no_verdict_is_not_paid_again_every_few_minutes(box: Box) -> None:
    with mind(box, say(text="Fine."), say(text="Just fine.")) as wire:
        box.new({"01-a": command("echo a > a.txt", f"qa: full\nengine: {ENGINE}\n")})
        with watching(box) as found:
            assert found.until("failed")["again"] == 86400
            time.sleep(5)  # it looked again meanwhile, more than once
            assert len(wire.bodies) == 2


@pytest.mark.slow
def test_two_of_them_in_one_clone_do_nothing_twice(box: Box) -> None:
    count = box.path.parent / "count"
    with watching(box) as one, watching(box) as other:
        names = [box.new({f"0{n}-s{n}": command(f"echo {n} >> {count}", SKIP) for n in (1, 2, 3)}) for _ in range(6)]
        _until(lambda: [1] if all(box.state(name)["status"] == "completed" for name in names) else [])
        for found in (one, other):
            assert found.process.poll() is None
    assert sorted(count.read_text().split()) == sorted(["1", "2", "3"] * 6)
    box.runner("verify", *names, rc=0)


@pytest.mark.slow
def test_a_long_protocol_keeps_no_other_waiting(box: Box) -> None:
    tool = "kind: tool\ntool: echo\nwith: {text: hello}\n"
    long = box.new({f"{n:02d}-s{n}": tool for n in range(1, 71)})
    short = box.new({"01-a": tool})
    with watching(box) as found:
        found.rests(short)
        found.rests(long)
        assert not [row for row in found.rows if row["event"] == "rests"]


@pytest.mark.slow
def test_what_others_push_is_fetched_gone_on_with_and_published(remote: Box) -> None:
    remote.env["RUNNER_PUBLISH"] = "always"
    name = remote.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt", SKIP)})
    other = clone(remote, "bob")
    with watching(remote, "--fetch-every", "1s") as found:
        found.rests(name, "running")
        other.runner("sync", name, rc=0)
        other.runner("answer", name, "done", rc=0)
        assert found.until("fetched")["protocols"] == [name]
        found.rests(name)
        theirs = other.new({"01-a": command("echo c > c.txt", SKIP)})
        assert found.until("fetched")["protocols"] == [theirs]
        bare = remote.path.parent / "origin.git"
        bare.rename(bare.with_name("away.git"))
        found.until("unreachable")
        bare.with_name("away.git").rename(bare)
        mine = remote.new({"01-a": command("echo d > d.txt", SKIP)})
        found.rests(mine)
    there = remote.git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads", cwd=bare)
    assert f"{name} {remote.git('rev-parse', name)}" in there
    assert f"{mine} {remote.git('rev-parse', mine)}" in there
    assert remote.git("branch", "--list", theirs) == ""  # it is not here, and was not asked for
    with watching(remote, "--all") as found:
        found.rests(theirs)
    assert "refs/runner/leases/" not in remote.git("for-each-ref", cwd=bare)


@pytest.mark.slow
def test_what_others_did_since_the_last_fetch_is_not_done_again(remote: Box) -> None:
    remote.env["RUNNER_PUBLISH"] = "always"
    count = remote.path.parent / "count"
    name = remote.new({"01-a": command(f"echo x >> {count}", SKIP)})
    step = remote.worktree(name) / f".protocols/{name}/01-a.md"
    text = step.read_text()
    other = clone(remote, "bob")
    step.write_text(f"{text}More.\n")
    with watching(remote, "--fetch-every", "1h") as found:
        found.until("held-up")
        other.runner("sync", name, rc=0)
        other.runner("run", name, rc=0)
        step.write_text(text)
        found.until("rests")
    assert count.read_text() == "x\n"
    assert remote.git("rev-parse", name) == other.git("rev-parse", name)


def test_what_makes_no_sense_is_refused(box: Box) -> None:
    assert "publish" in box.runner("watch", "--all", rc=2).err
    assert "one is written as 30s" in box.runner("watch", "--fetch-every", "often", rc=2).err
    assert "there is no protocol `x`" in box.runner("watch", "x", rc=2).err


LOST = """
import os, signal, subprocess, sys, time

def dying(self, real=subprocess.Popen.__del__):
    real(self)
    if sys.argv[2:] and sys.argv.pop():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

from runner.cli import main
subprocess.Popen.__del__ = dying
main.main(sys.argv[1:2])
"""


@pytest.mark.slow
def test_ctrl_c_in_a_finalizer_where_python_drops_it_is_not_lost(box: Box) -> None:
    box.new({"01-a": command("echo a > a.txt", SKIP)})
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", LOST, "watch", "once"]
    done = subprocess.run(words, cwd=box.path, env=env, stderr=subprocess.PIPE, text=True, timeout=LONG)
    assert done.returncode == 130
    assert done.stderr.endswith("nothing is lost, the same command resumes\n") and "Traceback" not in done.stderr


STOPPED = """
import os, sys, time
from runner import signals

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signals.STOP)
        time.sleep(1)

sys.unraisablehook = signals.send_again
signals.listen()
try:
    with signals.stoppable():
        Dying()
        time.sleep(60)
except signals.StopRequested:
    print("stopped")
"""


def test_so_is_a_request_to_stop_the_work(box: Box) -> None:
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", STOPPED]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


@pytest.mark.slow
def test_a_person_reads_lines_and_json_is_kept_apart(box: Box) -> None:
    name = box.new({"01-a": command("echo a > a.txt", SKIP)})
    process = box.start("watch")
    assert process.stderr is not None and process.stdout is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if "next" in line:
            break
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=LONG)
    assert out == ""
    assert told[0] == "watching 1 protocol, 1 to check; Ctrl-C ends it\n"
    assert told[1] == f"{name}\n"
    assert told[2].startswith("01-a  done")
    assert told[-1] == f"  next          runner merge {int(name[:4])}\n"
    assert rest.endswith("nothing is lost, the same command resumes\n")


@pytest.mark.slow
def test_what_another_runner_brought_to_its_end_is_told_by_its_name(box: Box, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    name = box.new({"01-a": command(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo a > a.txt", SKIP)})
    other = box.start("run", name)
    while not box.runner("status", rc=0).out.startswith("0001  works"):
        time.sleep(0.05)
    process = box.start("watch")
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if "held up" in line:
            gate.touch()
        if "next" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONG)
    assert other.communicate(timeout=LONG) and other.returncode == 0
    assert told[1] == f"{name}\n" and "held up" in told[2]
    assert told[3] == f"{name}\n" and told[4].startswith("  completed")
