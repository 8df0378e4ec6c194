"""Pause, resume, cancel, retry, answer, undo and merge: what people say, also beside a runner that is at work."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.app import describe, run
from runner.app.describe import Describer
from runner.errors import HeldError
from runner.executor import load
from runner.git import Git
from runner.store import locks, project, record
from runner.store.environment import read_checkpoint
from tests.conftest import Box, clone, command, mostly_slow


@dataclass(frozen=True)
class Gate:
    """A command that says when it is at work, and waits to be let go."""

    folder: Path

    def line(self, then: str = "true") -> str:
        """The shell line; `then` is done after the wait."""
        return f"touch {self.folder}/begun; while [ ! -e {self.folder}/go ]; do sleep 0.02; done; {then}"

    def wait(self) -> None:
        """Wait until the command is at work."""
        until = time.monotonic() + 100
        while not (self.folder / "begun").exists():
            assert time.monotonic() < until, "the step did not begin"
            time.sleep(0.02)

    def open(self) -> None:
        """Let it go on."""
        (self.folder / "go").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    folder = tmp_path / "gate"
    folder.mkdir()
    return Gate(folder)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How a started command ended: (exit code, stderr)."""
    _, err = process.communicate(timeout=100)
    return process.returncode, err


def healthy(box: Box, protocol: str) -> None:
    """The history verifies, nothing is lost, the person's worktree is clean."""
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--no-dangling") == ""
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""


def human(prose: str = "") -> str:
    return f"kind: human\n{prose}"


# --- pause, resume, cancel ---------------------------------------------------------------------------------------------


def test_cancel_stops_no_other_protocol_s_work(box: Box, gate: Gate) -> None:
    other = box.new({"01-a": command("true")}, title="Another one")
    protocol = box.new({"01-a": command(gate.line("echo a > a.txt"))})
    process = box.start("step", protocol)
    gate.wait()
    box.runner("cancel", other, rc=0)
    gate.open()
    assert ended(process)[0] == 0 and box.state(protocol)["status"] == "completed"


def test_pause_stops_and_resume_goes_on(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    box.runner("step", protocol, rc=0)
    told = box.runner("pause", protocol, "-m", "lunch", rc=0)
    assert "paused" in told.err and "runner resume 1" in told.err
    assert '"reason":"lunch"' in box.log(protocol)
    box.runner("run", protocol, rc=3)
    assert box.state(protocol)["status"] == "paused"
    box.runner("resume", protocol, rc=0)
    assert box.state(protocol)["status"] == "running"
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    healthy(box, protocol)


def test_saying_it_twice_changes_nothing(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    assert "it is not paused" in box.runner("resume", protocol, rc=0).err
    for verb, told in (("pause", "already paused"), ("cancel", "already cancelled")):
        box.runner(verb, protocol, rc=0)
        tip = box.git("rev-parse", protocol)
        assert told in box.runner(verb, protocol, rc=0).err
        assert box.git("rev-parse", protocol) == tip


def test_a_pause_before_the_first_step_resumes_to_planned(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("pause", protocol, rc=0)
    box.runner("resume", protocol, rc=0)
    assert box.state(protocol)["status"] == "planned"


@pytest.mark.parametrize("verb", [["pause"], ["resume"], ["retry"], ["answer", "yes"], ["cancel"], ["edit"]])
def test_what_has_ended_cannot_be_steered(box: Box, verb: list[str]) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    tip = box.git("rev-parse", protocol)
    told = box.runner(verb[0], protocol, *verb[1:], rc=4)
    assert f"{protocol} is completed: there is nothing to {verb[0]}" in told.err
    assert "runner undo 1" in told.err
    assert box.git("rev-parse", protocol) == tip


def test_cancel_ends_it_and_its_branch_stays(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    box.runner("cancel", protocol, "-m", "not needed any more", rc=0)
    assert box.state(protocol)["status"] == "cancelled"
    assert '"reason":"not needed any more"' in box.log(protocol)
    box.runner("resume", protocol, rc=4)
    tip = box.git("rev-parse", protocol)
    box.runner("step", protocol)
    assert box.git("rev-parse", protocol) == tip
    healthy(box, protocol)


@pytest.mark.parametrize(
    ("text", "what"), [("", "is empty"), ("x" * 501, "501 characters"), ("a\u202eb", "U+202E"), ("a\x1b[2Jb", "U+001B")]
)
def test_a_text_that_cannot_be_kept_whole_is_refused(box: Box, text: str, what: str) -> None:
    protocol = box.new({"01-a": command("true")})
    tip = box.git("rev-parse", protocol)
    assert what in box.runner("pause", protocol, "-m", text, rc=2).err
    assert box.git("rev-parse", protocol) == tip


def test_pause_while_a_step_is_at_work_lets_it_end_and_stops(box: Box, gate: Gate) -> None:
    protocol = box.new({"01-a": command(gate.line("echo a > a.txt")), "02-b": command("echo b > b.txt")})
    process = box.start("run", protocol)
    gate.wait()
    assert "the running step finishes" in box.runner("pause", protocol, rc=0).err
    gate.open()
    code, err = ended(process)
    assert code == 3, err
    state = box.state(protocol)
    assert state["status"] == "paused"
    assert state["steps"]["a"]["status"] == "completed" and state["steps"]["b"]["status"] == "pending"
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    healthy(box, protocol)
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.log(protocol).count("step-finished a") == 1
    healthy(box, protocol)


def test_pause_while_the_last_step_is_at_work_keeps_it_paused(box: Box, gate: Gate) -> None:
    protocol = box.new({"01-a": command(gate.line("echo a > a.txt"))})
    process = box.start("run", protocol)
    gate.wait()
    box.runner("pause", protocol, rc=0)
    gate.open()
    assert ended(process)[0] == 3
    assert box.state(protocol)["status"] == "paused"
    assert box.state(protocol)["steps"]["a"]["status"] == "completed"
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    healthy(box, protocol)


@pytest.mark.slow
def test_pause_while_checks_run_leaves_the_verdict_for_later(box: Box, gate: Gate) -> None:
    qa = f"qa: {{policy: light, checks: ['{gate.line()}']}}\n"
    protocol = box.new({"01-a": command("echo a > a.txt", qa), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    process = box.start("run", protocol)
    gate.wait()
    box.runner("pause", protocol, rc=0)
    gate.open()
    assert ended(process)[0] == 3
    assert box.state(protocol)["status"] == "paused"
    assert box.state(protocol)["steps"]["a"]["status"] == "needs_qa"
    healthy(box, protocol)
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    healthy(box, protocol)


def test_cancel_ends_the_command_that_is_at_work(box: Box, gate: Gate) -> None:
    protocol = box.new({"01-a": command(gate.line("echo a > a.txt"))})
    process = box.start("step", protocol)
    gate.wait()
    assert "the running step was stopped" in box.runner("cancel", protocol, rc=0).err
    code, err = ended(process)  # nobody opened the gate
    assert code == 4 and f"{protocol} was cancelled, and its work was stopped" in err and "runner undo 1" in err
    assert box.state(protocol)["status"] == "cancelled"
    assert "a.txt" not in box.git("ls-tree", "--name-only", protocol)
    healthy(box, protocol)
    gate.open()
    box.runner("undo", protocol, rc=0)
    assert box.state(protocol)["status"] == "planned"
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    healthy(box, protocol)


@pytest.mark.slow
def test_a_step_that_fails_while_paused_is_recorded(box: Box, gate: Gate) -> None:
    protocol = box.new({"01-a": command(gate.line("exit 3"))})
    process = box.start("run", protocol)
    gate.wait()
    box.runner("pause", protocol, rc=0)
    gate.open()
    assert ended(process)[0] == 1
    assert box.state(protocol)["steps"]["a"]["status"] == "failed"
    assert box.state(protocol)["status"] == "failed"
    healthy(box, protocol)


@pytest.mark.slow
def test_many_at_once_lose_no_word(box: Box, gate: Gate) -> None:
    steps = {f"{number:02d}-s{number}": command("true") for number in range(1, 5)}
    protocol = box.new({**steps, "05-s5": command(gate.line())})
    runner = box.start("run", protocol)
    others = [box.start(verb, protocol) for verb in ("pause", "resume", "pause", "resume")]
    codes = [ended(process) for process in others]  # until here it cannot be completed, however late they come
    assert [code for code, _ in codes] == [0] * 4, codes
    gate.open()
    code, said = ended(runner)
    assert code in (0, 3), said
    healthy(box, protocol)
    box.runner("resume", protocol)
    box.runner("run", protocol)
    assert box.state(protocol)["status"] == "completed"
    healthy(box, protocol)


@pytest.mark.parametrize("look", ["ref", "read_checkpoint"])
@pytest.mark.parametrize("verb", ["resume", "status", "list"])
def test_a_runner_that_moves_on_between_two_looks_did_not_rewrite_the_history(
    box: Box, monkeypatch: pytest.MonkeyPatch, look: str, verb: str
) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("pause", protocol, rc=0)
    moved = list[bool]()

    def moving(real: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*args: Any) -> Any:
            found = real(*args)
            if not moved and (look != "ref" or args[1] == f"refs/heads/{protocol}"):
                moved.append(True)
                box.runner("resume", protocol, rc=0)
            return found

        return looked

    with box.session() as session:
        if look == "ref":
            monkeypatch.setattr(Git, "ref", moving(Git.ref))
        else:
            for module in (project, describe):
                monkeypatch.setattr(module, look, moving(read_checkpoint))
        if verb == "resume":
            assert load.read(session, protocol).state.status in ("paused", "planned")
        else:
            row = record.row(session.git, protocol, str(session.project.tip(protocol)))
            branches = session.project.branches() if verb == "list" else None
            if branches and look == "ref":
                box.runner("resume", protocol, rc=0)
                moved.append(True)
            assert (
                Describer(session, branches).describe(row, str(session.project.tip(protocol)), "1").term != "rewritten"
            )
    assert moved


# --- retry -------------------------------------------------------------------------------------------------------------


def test_retry_begins_a_new_attempt_from_before_the_failed_one(box: Box) -> None:
    protocol = box.new({"01-a": command("ls; echo half >> a.txt; test -e allowed")})
    box.runner("run", protocol, rc=1)
    kept = f"refs/runner/attempts/{protocol}/a.1"
    assert box.git("show", f"{kept}:a.txt") == "half\n"
    tree = box.worktree(protocol)
    (tree / "allowed").touch()
    box.commit("allow it", cwd=tree)
    told = box.runner("retry", protocol, rc=0)
    assert "attempt 2" in told.err and "runner run 1" in told.err
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "half\n"
    assert box.state(protocol)["steps"]["a"]["attempt"] == 2
    healthy(box, protocol)


def test_retry_keep_goes_on_from_the_failed_work(box: Box) -> None:
    protocol = box.new({"01-a": command("echo half >> a.txt; test $(wc -l < a.txt) -ge 2")})
    box.runner("run", protocol, rc=1)
    told = box.runner("retry", protocol, "--keep", rc=0)
    assert "from the work of the last one" in told.err
    assert f'"kept":"refs/runner/attempts/{protocol}/a.1"' in box.log(protocol)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "half\nhalf\n"
    healthy(box, protocol)


def test_retry_keep_that_conflicts_by_now_is_refused_and_can_be_taken_back(box: Box) -> None:
    protocol = box.new({"01-a": command("echo ours > README.md; test -e ok")})
    box.runner("run", protocol, rc=1)
    box.runner("retry", protocol, "--keep", rc=0)
    tree = box.worktree(protocol)
    (tree / "README.md").write_text("mine\n")
    (tree / "ok").touch()
    box.commit("mine", cwd=tree)
    assert "`runner undo` reverts the retry" in box.runner("run", protocol, rc=4).err
    box.git("revert", "--no-edit", "HEAD", cwd=tree)
    box.runner("undo", protocol, rc=0)
    assert box.state(protocol)["status"] == "failed"
    (tree / "ok").touch()
    box.commit("ok", cwd=tree)
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:README.md") == "ours\n"
    healthy(box, protocol)


def test_retry_keep_without_work_says_so(box: Box) -> None:
    protocol = box.new({"01-a": command("false")})
    box.runner("run", protocol, rc=1)
    assert "left no work to start from" in box.runner("retry", protocol, "--keep", rc=4).err


def test_retry_where_nothing_failed_is_refused(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    assert "nothing failed" in box.runner("retry", protocol, rc=4).err
    assert "b is pending: it did not fail" in box.runner("retry", protocol, "--step", "02-b", rc=4).err
    assert "did you mean `a`?" in box.runner("retry", protocol, "--step", "aa", rc=2).err


def test_a_finished_step_is_done_again_when_it_is_named(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a >> a.txt"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    box.runner("retry", protocol, "--step", "01-a", rc=0)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "a\na\n"
    assert box.state(protocol)["steps"]["a"]["attempt"] == 2
    healthy(box, protocol)


def test_a_blocked_protocol_resumes_by_a_retry(box: Box) -> None:
    protocol = box.new({"01-a": command("test -e ok", "on_failure: {then: block}\n")})
    box.runner("run", protocol, rc=3)
    assert box.state(protocol)["status"] == "blocked"
    told = box.runner("resume", protocol, rc=4)
    assert "runner retry 1" in told.err
    tree = box.worktree(protocol)
    (tree / "ok").touch()
    box.commit("ok", cwd=tree)
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


# --- answer ------------------------------------------------------------------------------------------------------------


def asked(box: Box) -> str:
    protocol = box.new({"01-review": human(), "02-b": command("echo $RUNNER_STEPS_REVIEW_ANSWER > b.txt")})
    box.runner("run", protocol, rc=3)
    return protocol


@pytest.mark.parametrize("which", [[], ["w3"], ["review"], ["01-review"], ["1"]])
def test_an_answer_ends_a_human_step(box: Box, which: list[str]) -> None:
    protocol = asked(box)
    told = box.runner("answer", protocol, *which, "looks good", rc=0)
    assert "review answered" in told.err
    assert "  01-review  answered " in box.runner("status", protocol, rc=0).out
    assert box.git("log", "-1", "--format=%an", protocol) == "Alice\n"
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "looks good\n"
    healthy(box, protocol)


def test_an_answer_needs_no_protocol_where_one_is_open(box: Box) -> None:
    protocol = asked(box)
    told = box.runner("answer", "1", rc=2).err
    assert f"`1` is the protocol {protocol}: what is the answer?" in told
    assert "next: runner answer 1 TEXT; or, if that is the answer, runner answer PROTOCOL 1\n" in told
    box.runner("answer", "review", "fine", rc=0)
    assert box.state(protocol)["waiting"] == []


def test_an_answer_is_read_from_stdin(box: Box) -> None:
    protocol = asked(box)
    process = subprocess.run(
        ["python3", "-c", "import sys; print('from a file')"], capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        [__import__("sys").executable, "-m", "runner", "answer", protocol, "-"],
        cwd=box.path,
        env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        input=process.stdout,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert '"text":"from a file"' in box.log(protocol)


def test_an_answer_where_nothing_waits(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-review": human()})
    assert "nothing waits for an answer" in box.runner("answer", protocol, "yes", rc=2).err
    box.runner("run", protocol, rc=3)
    told = box.runner("answer", protocol, "w99", "yes", rc=2).err
    assert "as `w99`" in told and "(review)" in told
    box.runner("answer", protocol, "yes", rc=0)
    box.runner("answer", protocol, "yes", rc=2)


@pytest.mark.parametrize("answered", [False, True], ids=["waits", "answered"])
@pytest.mark.parametrize("reopened", ["retry --step a", "edit --add New --kind command --run true --after a"])
def test_a_person_is_asked_again_where_what_they_look_at_is_made_again(box: Box, reopened: str, answered: bool) -> None:
    """Seen: their answer of before counted for work that was made after it."""
    protocol = box.new({"01-a": command("true"), "02-h": human()})
    box.runner("run", protocol, rc=3)
    if answered:
        box.runner("answer", protocol, "good", rc=0)
    verb, *options = reopened.split()
    box.runner(verb, protocol, *options, rc=0)
    box.runner("step", protocol, rc=0)
    box.runner("answer", protocol, "too early", rc=2)
    box.runner("run", protocol, rc=3)
    state = box.state(protocol)
    assert [wait["subject"] for wait in state["waiting"]] == ["h"] and state["steps"]["h"]["attempt"] == 2
    box.runner("answer", protocol, "good as it is now", rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["steps"]["h"]["result"] == {"answer": "good as it is now"}
    healthy(box, protocol)


def test_an_answer_says_what_is_not_committed(box: Box) -> None:
    protocol = asked(box)
    (box.worktree(protocol) / "notes.txt").write_text("mine\n")
    assert "not committed, so not part of it: notes.txt" in box.runner("answer", protocol, "done", rc=0).err


def test_an_answer_is_signed_where_the_person_signs(box: Box, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    box.git("config", "--global", "gpg.format", "ssh")
    box.git("config", "--global", "user.signingkey", key)
    box.git("config", "--global", "commit.gpgsign", "true")
    protocol = asked(box)
    box.runner("answer", protocol, "yes", rc=0)
    assert "gpgsig" in box.git("cat-file", "commit", protocol)
    box.runner("pause", protocol, rc=0)
    assert "gpgsig" not in box.git("cat-file", "commit", protocol)
    healthy(box, protocol)


# --- undo --------------------------------------------------------------------------------------------------------------


def three(box: Box) -> str:
    return box.new({f"0{n}-{s}": command(f"echo {s} >> all.txt") for n, s in ((1, "a"), (2, "b"), (3, "c"))})


def test_undo_takes_the_last_transition_back(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    told = box.runner("undo", protocol, rc=0)
    assert "open again: c (pending, attempt 2)" in told.err
    state = box.state(protocol)
    assert state["status"] == "running"
    assert [state["steps"][slug]["status"] for slug in "abc"] == ["completed", "completed", "pending"]
    assert box.git("show", f"{protocol}:all.txt") == "a\nb\n"
    assert (box.worktree(protocol) / "all.txt").read_text() == "a\nb\n"
    healthy(box, protocol)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:all.txt") == "a\nb\nc\n"
    healthy(box, protocol)


def test_undo_said_again_goes_further_back_and_a_revision_goes_forward(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    last = box.state(protocol)["revision"]
    for standing in ("a\nb\n", "a\n"):
        box.runner("undo", protocol, rc=0)
        assert box.git("show", f"{protocol}:all.txt") == standing
    box.runner("undo", protocol, rc=0)
    assert "all.txt" not in box.git("ls-tree", "--name-only", protocol)
    assert box.state(protocol)["status"] == "planned"
    assert "only just started" in box.runner("undo", protocol, rc=4).err
    box.runner("undo", f"{protocol}@{last}", rc=0)
    assert box.git("show", f"{protocol}:all.txt") == "a\nb\nc\n"
    assert box.state(protocol)["status"] == "completed"
    healthy(box, protocol)


def test_undo_to_a_revision_that_is_none_offers_near_ones(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    told = box.runner("undo", f"{protocol}@3", rc=2)
    assert f"{protocol}@2" in told.err and f"{protocol}@4" in told.err
    box.runner("undo", f"{protocol}@x", rc=2)
    tip = box.git("rev-parse", protocol)
    assert "nothing was reverted" in box.runner("undo", f"1@{box.state(protocol)['revision']}", rc=0).err
    assert box.git("rev-parse", protocol) == tip


def test_undo_of_a_step_goes_back_to_before_it_started(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.runner("undo", protocol, "02-b", rc=0)
    assert box.git("show", f"{protocol}:all.txt") == "a\n"
    assert [box.state(protocol)["steps"][slug]["status"] for slug in "abc"] == ["completed", "pending", "pending"]
    assert "b has not started" in box.runner("undo", protocol, "b", rc=2).err
    box.runner("run", protocol, rc=0)
    box.runner("undo", f"{protocol}@c", rc=0)
    assert box.git("show", f"{protocol}:all.txt") == "a\nb\n"
    assert "there is no step `d`" in box.runner("undo", protocol, "d", rc=2).err
    assert "not both" in box.runner("undo", f"{protocol}@2", "b", rc=2).err
    healthy(box, protocol)


def test_undo_keeps_words_and_what_was_spent(box: Box) -> None:
    protocol = box.new({"01-a": command("sleep 0.6; echo a > a.txt"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    spent = box.state(protocol)["spent"]
    assert spent["seconds"] >= 1
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    (folder / "context.md").write_text("Remember.\n")
    box.commit("context", cwd=box.worktree(protocol))
    box.runner("undo", protocol, rc=0)
    assert box.state(protocol)["spent"] == spent
    assert (folder / "context.md").read_text() == "Remember.\n"
    assert not (box.worktree(protocol) / "a.txt").exists()
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def test_undo_drops_artifacts_and_waits_and_asks_again(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt", "outputs: [a.txt]\n"), "02-review": human()})
    box.runner("run", protocol, rc=3)
    state = box.state(protocol)
    assert len(state["artifacts"]) == 1 and len(state["waiting"]) == 1
    box.runner("undo", f"{protocol}@2", rc=0)
    state = box.state(protocol)
    assert state["artifacts"] == [] and state["waiting"] == [] and state["status"] == "planned"
    assert state["steps"]["review"] == {**state["steps"]["review"], "status": "pending", "attempt": 2}
    box.runner("run", protocol, rc=3)
    box.runner("answer", protocol, "yes", rc=0)
    box.runner("undo", protocol, rc=0)
    assert box.state(protocol)["steps"]["review"]["status"] == "pending"
    box.runner("run", protocol, rc=3)
    box.runner("answer", protocol, "yes", rc=0)
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def test_undo_of_a_verdict_and_of_a_failure(box: Box) -> None:
    qa = "qa: {policy: light, checks: ['true']}\n"
    protocol = box.new({"01-a": command("echo a > a.txt", qa), "02-b": command("test -e ok")})
    box.runner("run", protocol, rc=1)
    box.runner("undo", protocol, rc=0)
    state = box.state(protocol)
    assert state["status"] == "running" and state["steps"]["b"]["status"] == "pending"
    assert state["steps"]["b"]["attempt"] == 2
    box.runner("undo", protocol, rc=0)
    assert box.state(protocol)["steps"]["a"] == {
        **box.state(protocol)["steps"]["a"],
        "status": "needs_qa",
        "attempt": 2,
    }
    (box.worktree(protocol) / "ok").touch()
    box.commit("ok", cwd=box.worktree(protocol))
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def with_mine(box: Box) -> tuple[str, Path, str]:
    """Make a protocol whose first two steps are done, with a person's commit between them; return it, its worktree, and the commit."""
    protocol = three(box)
    box.runner("step", protocol, rc=0)
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("mine\n")
    mine = box.commit("my own file", cwd=tree)
    box.runner("step", protocol, rc=0)
    return protocol, tree, mine


def test_undo_refuses_to_take_peoples_code_away_until_they_reverted_it(box: Box) -> None:
    protocol, tree, mine = with_mine(box)
    tip = box.git("rev-parse", protocol)
    told = box.runner("undo", f"{protocol}@2", rc=4)
    assert f"{mine[:7]} (my own file)" in told.err and f"git revert {mine[:7]}" in told.err
    assert box.git("rev-parse", protocol) == tip
    box.git("revert", "--no-edit", mine, cwd=tree)
    box.runner("undo", f"{protocol}@2", rc=0)
    assert not (tree / "all.txt").exists()
    healthy(box, protocol)


def test_undo_keeps_what_people_committed_before_the_step_that_it_takes_back(box: Box) -> None:
    """Seen: they were to revert it first."""
    protocol, tree, mine = with_mine(box)
    before = box.git("rev-parse", f"{mine}:mine.txt")
    box.runner("undo", protocol, rc=0)
    assert box.git("rev-parse", f"{protocol}:mine.txt") == before and (tree / "mine.txt").exists()
    healthy(box, protocol)


def test_undo_goes_back_before_what_people_committed_and_reverted_since(box: Box) -> None:
    protocol, tree, mine = with_mine(box)
    box.git("revert", "--no-edit", mine, cwd=tree)
    box.runner("undo", protocol, rc=0)
    assert not (tree / "mine.txt").exists()
    healthy(box, protocol)


def test_undo_says_that_a_step_that_was_skipped_stays_out_of_the_plan(box: Box) -> None:
    protocol = box.new({f"0{at}-s{at}": command("true") for at in (1, 2, 3)})
    box.runner("step", protocol, rc=0)
    box.runner("skip", protocol, "s2", rc=0)
    box.runner("step", protocol, rc=0)
    assert "the plan stays as it is now, without s2\n" in box.runner("undo", f"{protocol}@4", rc=0).err


def test_undo_leaves_uncommitted_work_alone(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    tree = box.worktree(protocol)
    (tree / "all.txt").write_text("mine\n")
    tip = box.git("rev-parse", protocol)
    assert "all.txt" in box.runner("undo", protocol, rc=4).err
    assert (tree / "all.txt").read_text() == "mine\n" and box.git("rev-parse", protocol) == tip
    box.git("checkout", "-q", "all.txt", cwd=tree)
    (tree / "README.md").write_text("mine\n")
    box.runner("undo", protocol, rc=0)
    assert box.git("status", "--porcelain", cwd=tree) == " M README.md\n"


def test_undo_waits_for_nobody_who_is_at_work(box: Box, gate: Gate) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command(gate.line())})
    box.runner("step", protocol, rc=0)
    process = box.start("step", protocol)
    gate.wait()
    assert f"process {process.pid}" in box.runner("undo", protocol, rc=75).err
    gate.open()
    assert ended(process)[0] == 0


def test_of_a_cancelled_protocol_status_shows_why_and_how_to_take_it_back(box: Box) -> None:
    protocol = three(box)
    box.runner("step", protocol, rc=0)
    box.runner("cancel", protocol, "-m", "the customer left", rc=0)
    told = box.runner("status", protocol, rc=0).out
    assert "reason        the customer left" in told
    assert "undo          runner undo 1 reverts it" in told
    row = box.runner("status", protocol, "--json", rc=0).json()["protocols"][0]
    assert (row["reason"], row["undo"], row["command"]) == ("the customer left", "runner undo 1", None)
    box.runner("undo", "1", rc=0)
    assert box.state(protocol)["status"] == "running"
    assert "undo" not in box.runner("status", protocol, rc=0).out
    assert "undo" not in box.runner("status", protocol, "--json", rc=0).json()["protocols"][0]


# --- merge -------------------------------------------------------------------------------------------------------------


def test_merge_of_one_that_waits_names_the_command_that_shows_for_what(box: Box) -> None:
    protocol = box.new({"01-review": human()})
    box.runner("run", protocol, rc=3)
    told = box.runner("merge", protocol, rc=4).err
    assert "only a completed protocol can be merged" in told
    assert "next: `runner status 1` shows what it waits for" in told


def test_merge_of_one_that_was_cancelled_while_it_waited_names_gits_merge(box: Box) -> None:
    protocol = box.new({"01-review": human()})
    box.runner("run", protocol, rc=3)
    box.runner("cancel", protocol, rc=0)
    assert f"next: `git merge {protocol}` merges it without the runner" in box.runner("merge", protocol, rc=4).err


def test_merge_merges_into_the_base_and_its_checkout_follows(box: Box) -> None:
    protocol = three(box)
    assert "only a completed protocol can be merged" in box.runner("merge", protocol, rc=4).err
    box.runner("run", protocol, rc=0)
    box.write("other.txt", "mine\n")
    box.write("README.md", "# half done\n")
    base = box.git("rev-parse", "main").strip()
    tip = box.git("rev-parse", protocol).strip()
    told = box.runner("merge", protocol, rc=0)
    made = box.git("rev-parse", "main").strip()
    assert f"completed · merged in {made[:7]}" in told.err
    assert box.git("log", "-1", "--format=%P|%an|%s", "main") == f"{base} {tip}|Alice|Merge {protocol}\n"
    assert (box.path / "all.txt").read_text() == "a\nb\nc\n"
    assert box.git("status", "--porcelain") == " M README.md\n?? other.txt\n"
    assert f"already merged in {made[:7]}" in box.runner("merge", protocol, rc=0).err
    box.commit("more")
    assert f"already merged in {made[:7]}" in box.runner("merge", protocol, rc=0).err
    healthy(box, protocol)


def test_merge_by_squash_makes_one_commit_that_verifies(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    base = box.git("rev-parse", "main").strip()
    told = box.runner("merge", protocol, "--squash", rc=0).err
    made = box.git("rev-parse", "main").strip()
    assert f"merged in {made[:7]}" in told and "1 new commit in main" in told
    assert box.git("log", "-1", "--format=%P|%an", made) == f"{base}|Alice\n"
    title = box.state(protocol)["title"]
    message = box.git("log", "-1", "--format=%B", made)
    assert message.splitlines()[0] == title and f"Protocol: {protocol}" in message
    assert box.git("log", "-1", "--format=%(trailers:key=Protocol,valueonly)", made).strip() == protocol
    assert all(f"- {step['title']}" in message for step in box.state(protocol)["steps"].values())
    assert f"already merged in {made[:7]}" in box.runner("merge", protocol, rc=0).err
    assert "completed · merged" in box.runner("list", rc=0).out
    assert protocol in box.runner("why", "all.txt:2", rc=0).out
    healthy(box, protocol)


def test_what_was_squashed_undone_and_done_again_is_merged_again(box: Box) -> None:
    protocol = box.new({"01-a": command("date +%N > a.txt; echo x | tee b.txt")})
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, "--squash", rc=0)
    box.write("c.txt", "main goes on\n")
    box.commit("main goes on")
    first = box.git("show", "main:a.txt")
    assert "until this is merged again" in box.runner("undo", protocol, "a", rc=0).err
    box.runner("run", protocol, rc=0)
    assert "1 new commit in main" in box.runner("merge", protocol, "--squash", rc=0).err
    assert box.git("show", "main:a.txt") == box.git("show", f"{protocol}:a.txt") != first
    assert box.git("show", "main:c.txt") and "completed · merged" in box.runner("list", rc=0).out
    healthy(box, protocol)


def test_merge_takes_a_message_and_says_what_it_would_do(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    base, branches = box.git("rev-parse", "main"), box.git("for-each-ref")
    told = box.runner("merge", protocol, "-m", "Three letters", "--dry-run", rc=0)
    assert (
        "Three letters" in told.out
        and "can be merged" in told.err
        and "new commits in main · 1 file changed" in told.err
    )
    assert box.git("for-each-ref") == branches and box.git("status", "--porcelain") == ""
    box.runner("merge", protocol, "-m", "Three letters", rc=0)
    assert box.git("log", "-1", "--format=%s|%P", "main").startswith(f"Three letters|{base.strip()} ")


def test_merge_leaves_no_uncommitted_work_behind_unasked(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    tree = box.worktree(protocol)
    (tree / "NEWS.txt").write_text("news\n")
    base = box.git("rev-parse", "main")
    told = box.runner("merge", protocol, rc=4).err
    assert "NEWS.txt" in told and f"runner merge {int(protocol[:4])} --leave" in told
    assert box.git("rev-parse", "main") == base
    box.runner("merge", protocol, "--leave", rc=0)
    assert not (box.path / "NEWS.txt").exists() and (tree / "NEWS.txt").exists()


def test_merge_of_a_cancelled_protocol_names_its_branch(box: Box) -> None:
    box.write(".protocols/config.yaml", "branch: runner/{id}\n")
    box.commit("branches have a prefix")
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("cancel", protocol, rc=0)
    told = box.runner("merge", protocol, rc=4).err
    assert f"`git merge runner/{protocol}`" in told
    box.git("merge", "-q", f"runner/{protocol}")


def test_merge_of_a_base_that_went_on(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.write("src/app.py", "print('hello again')\n")
    box.commit("meanwhile")
    box.runner("merge", protocol, rc=0)
    assert (box.path / "all.txt").exists()
    assert (box.path / "src/app.py").read_text() == "print('hello again')\n"
    assert box.git("status", "--porcelain") == ""


def test_merge_names_conflicts_and_changes_nothing(box: Box) -> None:
    protocol = box.new({"01-a": command("echo ours > README.md")})
    box.runner("run", protocol, rc=0)
    box.write("README.md", "theirs\n")
    base = box.commit("meanwhile")
    told = box.runner("merge", protocol, rc=4)
    assert "conflict: README.md" in told.err and f"git switch main && git merge {protocol}" in told.err
    squash = box.runner("merge", protocol, "--squash", rc=4, cwd=box.worktree(protocol)).err
    assert f"next: `cd {box.path} && git merge --squash {protocol}`, resolve it, commit; `runner status 1`" in squash
    assert box.git("rev-parse", "main").strip() == base
    assert box.git("status", "--porcelain") == ""
    box.git("merge", "-q", protocol, "-X", "ours")
    assert "already merged" in box.runner("merge", protocol, rc=0).err


def test_merge_does_not_write_over_a_file_of_the_persons(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.write("all.txt", "mine\n")
    base = box.git("rev-parse", "main")
    assert "all.txt" in box.runner("merge", protocol, rc=4).err
    assert box.git("rev-parse", "main") == base and (box.path / "all.txt").read_text() == "mine\n"


def test_merge_knows_what_was_squashed(box: Box) -> None:
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.git("merge", "-q", "--squash", protocol)
    made = box.commit("all of it")
    assert f"already merged in {made[:7]}" in box.runner("merge", protocol, rc=0).err
    (box.worktree(protocol) / "more.txt").write_text("more\n")
    box.commit("more", cwd=box.worktree(protocol))
    box.runner("merge", protocol, rc=0)
    assert (box.path / "more.txt").exists()


def test_merge_says_how_where_it_cannot(remote: Box) -> None:
    box = remote
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.write(".protocols/config.yaml", "forge: {name: github, url: 'http://127.0.0.1:9/a/b'}\n")
    box.commit("a forge")
    box.git("push", "-q", "origin", "main")
    for publish in ("ask", "always"):
        told = box.runner("merge", protocol, rc=4, env={"RUNNER_PUBLISH": publish})
        assert "merge its request; `runner sync 1` then shows it as merged" in told.err
        for words in (["status"], ["status", protocol], ["run", protocol]):
            said = box.runner(*words, env={"RUNNER_PUBLISH": publish})
            assert "merge its request, then runner sync 1" in said.out + said.err
        row = box.runner("show", protocol, "--json", rc=0, env={"RUNNER_PUBLISH": publish}).json()
        assert row["command"] == "runner sync 1"
        assert "`runner merge 1 --local` merges it here" in told.err
    box.runner("merge", protocol, "--local", rc=0)
    assert box.git("rev-parse", "main^2") == box.git("rev-parse", protocol)


@pytest.mark.parametrize("publish", mostly_slow(["ask", "always", "never"], 1))
def test_without_a_forge_what_is_published_is_merged_here(remote: Box, publish: str) -> None:
    box, env = remote, {"RUNNER_PUBLISH": publish}
    protocol = three(box)
    told = box.runner("run", protocol, rc=0, env=env).err
    assert "next          runner merge 1" in told
    told = box.runner("merge", protocol, rc=0, env=env).err
    assert "git push origin main" in told
    box.git("push", "-q", "origin", "main")
    assert "merged in" in box.runner("status", protocol, rc=0, env=env).out


@pytest.mark.parametrize("more", [[], ["--squash"]])
def test_what_merge_says_to_push_proves_the_protocol_in_another_clone(remote: Box, more: list[str]) -> None:
    box = remote
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    told = box.runner("merge", protocol, *more, rc=0).err
    box.git(*told.rpartition("next          git ")[2].split())
    other = clone(box, "other")
    other.runner("verify", protocol, "--yes", rc=0)


def test_a_base_that_is_on_the_remote_only_or_behind_it_is_merged_into_as_it_is_there(remote: Box) -> None:
    box = remote
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    there = box.commit("meanwhile")
    box.git("push", "-q", "origin", "main")
    box.git("reset", "-q", "--hard", "HEAD~1")
    box.runner("merge", protocol, rc=0)
    assert box.git("rev-parse", "main~1").strip() == there
    assert (box.path / "all.txt").exists() and box.git("status", "--porcelain") == ""
    box.git("checkout", "-q", "--detach", "origin/main")
    box.git("branch", "-D", "-q", "main")
    box.runner("merge", protocol, rc=0)
    assert box.git("rev-parse", "main~1").strip() == there
    box.git("push", "-q", "origin", "main")


def test_a_base_that_is_no_branch_is_not_merged_here_and_next_says_what_does(box: Box) -> None:
    box.git("checkout", "-q", "--detach")
    protocol = three(box)
    told = box.runner("run", protocol, rc=0).err
    assert f"next          git merge {protocol}" in told
    assert "there is no branch" in box.runner("merge", protocol, rc=4).err
    box.git("merge", "-q", protocol)


def test_a_run_waits_for_who_comes_in_between_two_transitions(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    with box.session(executor="host") as session:
        place, env = session.dirs.lock(protocol), session.env
        with locks.hold(place, env, what="a sync"), pytest.raises(HeldError, match="held by another runner"):
            next(run.run(session, protocol, max_steps=9, adopt=True, tell=lambda done: None))
        made = run.run(session, protocol, max_steps=9, adopt=True, tell=lambda done: None)
        next(made)
        with ExitStack() as between:
            between.enter_context(locks.hold(place, env, what="a sync"))
            letting_go = threading.Timer(0.5, between.close)
            letting_go.start()
            done = next(made)
            letting_go.join()
        assert done.state.status == "completed"


@pytest.mark.parametrize("then", ["", "commit"])
def test_a_failed_step_that_is_taken_out_of_the_plan_leaves_a_protocol_that_resumes(box: Box, then: str) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("false"), "03-c": command("echo c > c.txt")})
    box.runner("run", protocol, rc=1)
    tree = box.worktree(protocol)
    (tree / f".protocols/{protocol}/02-b.md").unlink()
    if then:
        box.commit("not needed", cwd=tree)
    told = box.runner("run", protocol, rc=1).err
    assert "next          runner resume 1\n" in told and "retry" not in told
    assert "runner resume 1" in box.runner("status", rc=0).out
    refused = box.runner("retry", protocol, rc=4).err
    assert "`runner resume 1` resumes" in refused and "runner retry" not in refused
    assert "next          runner run 1\n" in box.runner("resume", protocol, rc=0).err
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:c.txt") == "c\n"
    box.runner("verify", protocol, rc=0)


def test_undo_of_a_retry_says_that_the_step_is_failed_again(box: Box) -> None:
    protocol = box.new({"01-a": command("false")})
    box.runner("run", protocol, rc=1)
    box.runner("retry", protocol, rc=0)
    told = box.runner("undo", protocol, rc=0).err
    assert "  failed again: a (attempt 2)\n" in told and "open again" not in told
    box.runner("verify", protocol, rc=0)


def test_run_says_why_a_protocol_without_its_failed_step_is_failed(box: Box) -> None:
    protocol = box.new({"01-a": command("false"), "02-b": command("true")})
    box.runner("run", protocol, rc=1)
    box.runner("skip", protocol, "a", rc=0)
    for _ in range(2):
        told = box.runner("run", protocol, rc=1).err
        assert (
            "  failed        the step that failed is no longer in the plan\n  next          runner resume 1\n" in told
        )
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=0)


@pytest.mark.parametrize("then", ["", "commit"])
def test_a_failed_step_whose_file_is_deleted_needs_resume_alone(box: Box, then: str) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("false"), "03-c": command("echo c > c.txt")})
    box.runner("run", protocol, rc=1)
    tree = box.worktree(protocol)
    (tree / f".protocols/{protocol}/02-b.md").unlink()
    if then:
        box.commit("not needed", cwd=tree)
    assert "next          runner resume 1\n" in box.runner("status", protocol, rc=0).out
    before = box.count(protocol)
    assert "next          runner run 1\n" in box.runner("resume", protocol, rc=0).err
    assert box.count(protocol) == before + (1 if then else 2)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:c.txt") == "c\n" and box.git("status", "--porcelain", cwd=tree) == ""
    box.runner("verify", protocol, rc=0)


def test_a_step_that_failed_and_got_another_number_is_still_to_be_retried(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("false")})
    box.runner("run", protocol, rc=1)
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    (folder / "02-b.md").rename(folder / "05-b.md")
    before = box.count(protocol)
    assert "runner retry 1" in box.runner("resume", protocol, rc=4).err
    assert box.count(protocol) == before
    assert "then runner retry 1" in box.runner("status", protocol, rc=0).out


def test_resume_does_not_open_a_protocol_whose_step_failed(box: Box) -> None:
    protocol = box.new({"01-a": command("false")})
    box.runner("run", protocol, rc=1)
    assert "runner retry 1" in box.runner("resume", protocol, rc=4).err


@pytest.mark.parametrize(("option", "parents"), [((), 1), (("--no-ff",), 2)])
def test_merge_squashes_where_the_configuration_says_so_and_no_option_else(
    box: Box, option: tuple[str, ...], parents: int
) -> None:
    box.write(".protocols/config.yaml", "merge: {as: squash}\n")
    box.commit()
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, *option, rc=0)
    assert len(box.git("log", "-1", "--format=%P", "main").split()) == parents


def test_merge_of_a_protocol_that_lacks_commits_of_the_base_is_refused_until_they_are_merged(box: Box) -> None:
    box.write(".protocols/config.yaml", "merge: {base: up-to-date}\n")
    box.commit()
    protocol = three(box)
    box.runner("run", protocol, rc=0)
    box.write("other.txt", "mine\n")
    box.commit("more")
    told = box.runner("merge", protocol, "--squash", rc=4).err
    assert f"main has 1 commit that {protocol} does not have" in told
    assert "`merge: {base: up-to-date}` in .protocols/config.yaml on main" in told
    line = re.search(r"next: `(git -C .* merge main)`, then `runner merge 1`", told)
    assert line
    box.git(*shlex.split(line[1])[1:])
    box.runner("merge", protocol, "--squash", rc=0)
    assert (box.path / "all.txt").read_text() == "a\nb\nc\n"
    healthy(box, protocol)


def test_what_the_person_wrote_for_a_step_is_committed_with_the_answer_and_nothing_else_that_is_staged(
    box: Box,
) -> None:
    protocol = asked(box)
    tree, plan = box.worktree(protocol), f".protocols/{protocol}/plan.md"
    (tree / "notes.txt").write_text("mine\n")
    (tree / "README.md").unlink()
    (tree / plan).write_text((tree / plan).read_text() + "More.\n")
    box.git("add", plan, cwd=tree)
    told = box.runner("answer", protocol, "done", "--commit", rc=0).err
    made = box.git("rev-parse", "--short=7", protocol).strip()
    assert f"committed as yours: {made}" in told
    assert box.git("show", "--no-renames", "--name-status", "--format=%an", protocol).split() == [
        *("Alice", "D", "README.md", "A", "notes.txt"),
    ]
    assert box.git("status", "--porcelain", cwd=tree) == f"M  {plan}\n"


def test_a_run_until_a_step_that_was_just_skipped_is_refused_and_not_run_to_the_end(box: Box) -> None:
    protocol = three(box)
    box.runner("skip", "1", "b", rc=0)
    assert "b was taken out of the plan" in box.runner("run", "1", "--until", "b", rc=2).err
    assert box.state(protocol)["steps"]["c"]["status"] == "pending"


def test_a_step_of_a_completed_protocol_is_done_again_after_what_retry_says(box: Box) -> None:
    protocol = box.new({"01-a": command("echo x >> a.txt"), "02-b": command("true")})
    box.runner("run", protocol, rc=0)
    told = box.runner("retry", "1", "--step", "a", rc=4).err
    assert "`runner undo 1 a` goes back to before a" in told
    box.runner("undo", "1", "a", rc=0)
    box.runner("run", "1", rc=0)
    assert box.state(protocol)["status"] == "completed" and box.state(protocol)["steps"]["a"]["attempt"] == 2
