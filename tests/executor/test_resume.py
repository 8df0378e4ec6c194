"""Killed anywhere, or on another machine: the step goes on, to the same tree, and no answer is asked for twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command, make_box
from tests.engines.wire_gemini import Answer, Refusal, error
from tests.executor.minds import agent, ask, finish, mind, say, sound, texts, write
from tests.store.test_remote import publish

# Three rounds: a file, then another beside a mistake (and two calls at once), then the end.
STORY = (
    say(("read_file", {"path": "src/app.py"}), write("a.txt", "a\n")),
    say(
        ("edit_file", {"path": "src/app.py", "edits": [{"old": "hello", "new": "bye"}]}),
        ("read_file", {"path": "no.txt"}),
    ),
    finish("three rounds"),
)
RECORDS = 2 * len(STORY)

# The real command line in a process of its own that kills itself at one moment: where a record is written to the journal
# (before, half of it, after), or where refs move (before, after).
KILLED = """
import os, signal, sys
from runner.cli import main
from runner.executor.journal import Journal
from runner.git import Git

where, at = sys.argv[1], int(sys.argv[2])
count = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def appending(self, record, append=Journal.append):
    global count
    mine, count = count == at, count + 1
    if mine and where == "before":
        die()
    append(self, record)
    if mine and where == "torn":
        os.truncate(self.path, self._length - 20)
        die()
    if mine and where == "after":
        die()

def moving(self, *args, update=Git.update_refs, **more):
    global count
    mine, count = count == at, count + 1
    if mine and where == "before-refs":
        die()
    done = update(self, *args, **more)
    if mine and where == "after-refs":
        die()
    return done

if "refs" in where:
    Git.update_refs = moving
else:
    Journal.append = appending
sys.exit(main.call(sys.argv[3:]))
"""


def kill(box: Box, where: str, at: int, *args: str) -> None:
    """Run the command line until it kills itself."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(at), *args],
        cwd=box.path,
        env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, f"{where} {at}: {done.returncode} {done.stderr}"


def moments() -> Iterator[tuple[str, int]]:
    """Name the moments; the records are an answer, its results, and so on."""
    for where in ("before", "torn", "after"):
        yield from ((where, number) for number in range(RECORDS))
    yield from ((where, 0) for where in ("before-refs", "after-refs"))


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tree of src/ and a.txt where nobody killed anything."""
    box = make_box(tmp_path_factory.mktemp("unkilled") / "repo")
    with mind(box, *STORY) as wire:
        protocol = box.new({"01-x": agent(), "02-y": command("cat a.txt > b.txt")})
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == len(STORY)
    return work(box, protocol)


def work(box: Box, protocol: str) -> str:
    """Return the tree outside the record."""
    return box.git("ls-tree", "-r", protocol, "--", "a.txt", "b.txt", "src", "README.md")


@pytest.mark.parametrize(("where", "at"), [*moments()])
@pytest.mark.slow
@pytest.mark.window(6)
def test_killed_at_a_record_of_the_journal_and_between(box: Box, unkilled: str, where: str, at: int) -> None:
    # An answer that had come, and was not whole on the disk, cannot be known: that one alone is asked for once more.
    lost = where in ("before", "torn") and at % 2 == 0
    asked = at // 2
    replies: list[Answer] = [*STORY[: asked + 1], *STORY[asked:]] if lost else list(STORY)
    with mind(box, *replies) as wire:
        protocol = box.new({"01-x": agent(), "02-y": command("cat a.txt > b.txt")})
        kill(box, where, at, "run", protocol)
        box.runner("verify", protocol, rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == len(STORY) + lost
    assert work(box, protocol) == unkilled
    state = box.state(protocol)
    assert state["status"] == "completed"
    assert state["steps"]["x"]["attempt"] == 1
    assert state["spent"]["input_tokens"] == 300
    sound(box, protocol)


def test_status_shows_what_a_killed_step_has_cost(box: Box) -> None:
    with mind(box, *STORY):
        protocol = box.new({"01-x": agent()})
        assert "not recorded" not in box.runner("status", protocol, rc=0).out
        kill(box, "after", 2, "step", protocol)
        (line,) = [line for line in box.runner("status", protocol, rc=0).out.split("\n") if "not recorded" in line]
        assert "2 answers" in line and "$0.0" in line
        cost = line.split()[2].rstrip(",")
        assert f"this attempt so far: {cost}" in box.runner(rc=0).out
        assert f"this attempt so far: {cost}" in box.runner("status", rc=0).out
        box.runner("run", protocol, rc=0)
    assert "not recorded" not in box.runner("status", protocol, rc=0).out
    assert "so far" not in box.runner("status", rc=0).out


@pytest.mark.slow
def test_a_file_that_changed_after_the_last_record_is_put_back(box: Box) -> None:
    with mind(box, *STORY) as wire:
        protocol = box.new({"01-x": agent()})
        kill(box, "after", 1, "run", protocol)
        found = [at for at in box.home.rglob("a.txt")] + [at for at in (box.path / ".git").rglob("a.txt")]
        workspaces = [at for at in found if at.read_text() == "a\n"]
        assert workspaces
        for at in workspaces:
            at.write_text("half written")
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == len(STORY)
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    sound(box, protocol)


@pytest.mark.slow
def test_a_persons_edit_between_kill_and_going_on_stays(box: Box) -> None:
    with mind(box, *STORY) as wire:
        protocol = box.new({"01-x": agent(), "02-y": command("cat a.txt theirs.txt > b.txt")})
        kill(box, "after", 3, "run", protocol)
        at = box.worktree(protocol)
        (at / "theirs.txt").write_text("theirs\n")
        step = at / ".protocols" / protocol / "02-y.md"
        step.write_text(step.read_text().replace("> b.txt", "> c.txt"))
        box.commit("theirs", cwd=at)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == len(STORY)
    assert box.git("show", f"{protocol}:c.txt") == "a\ntheirs\n"
    assert box.git("show", f"{protocol}:src/app.py") == "print('bye')\n"
    sound(box, protocol)


@pytest.mark.slow
def test_work_so_far_that_conflicts_with_a_persons_commit_is_said(box: Box) -> None:
    with mind(box, *STORY) as wire:
        protocol = box.new({"01-x": agent()})
        kill(box, "after", 3, "run", protocol)
        at = box.worktree(protocol)
        (at / "src/app.py").write_text("print('welcome')\n")
        box.commit("theirs", cwd=at)
        refused = box.runner("run", protocol)
        assert refused.code not in (0, 70)
        assert "conflicts" in refused.err
        assert "src/app.py" in refused.err
        assert len(wire.bodies) == 2
        box.git("revert", "--no-edit", "HEAD", cwd=at)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == len(STORY)
    assert box.git("show", f"{protocol}:src/app.py") == "print('bye')\n"
    sound(box, protocol)


def test_work_so_far_that_git_pruned_is_said_with_the_way_to_begin_again(box: Box) -> None:
    """No ref names it while the step is at work; `git gc --prune=now` takes what no ref names."""
    no = Refusal(code=400, body=error(400, "INVALID_ARGUMENT", "no"))
    with mind(box, say(write("a.txt", "a\n")), no, say(write("b.txt", "b\n")), finish()):
        protocol = box.new({"01-x": agent()})
        box.runner("step", protocol, rc=69)
        box.git("gc", "-q", "--prune=now")
        told = box.runner("step", protocol, rc=4).err
        way = re.search(r"`mv (\S+) (\S+)`", told)
        assert "the work so far of the step is not in this clone" in told and way, told
        os.rename(*way.groups())
        box.runner("run", protocol, rc=0)
    assert box.git("ls-tree", "--name-only", protocol, "a.txt", "b.txt") == "b.txt\n"
    sound(box, protocol)


def test_a_damaged_journal_is_refused_and_not_guessed_over(box: Box) -> None:
    with mind(box, *STORY) as wire:
        protocol = box.new({"01-x": agent()})
        kill(box, "after", 3, "run", protocol)
        (journal,) = [at for at in (box.path / ".git").rglob("x.1.jsonl")]
        data = journal.read_bytes()
        journal.write_bytes(data.replace(b"a.txt", b"z.txt", 1))
        refused = box.runner("run", protocol, rc=4)
        assert "damaged" in refused.err
        assert len(wire.bodies) == 2
        journal.write_bytes(data)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == len(STORY)
    sound(box, protocol)


@pytest.mark.slow
def test_a_question_is_answered_and_gone_on_with_in_another_clone(remote: Box) -> None:
    publish(remote)
    script = [say(write("a.txt", "a\n"), ask("Which colour?")), say(write("b.txt", "blue\n")), finish()]
    with mind(remote, *script) as wire:
        protocol = remote.new({"01-x": agent()})
        remote.runner("run", protocol, rc=3)
        other = clone(remote, "bob")
        other.runner("sync", protocol, rc=0)
        assert not list((other.path / ".git").rglob("x.1.jsonl"))
        other.runner("answer", protocol, "Blue.", rc=0)
        other.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 3
    assert "Blue." in texts(wire.bodies[1])
    assert other.git("ls-tree", "-r", "--name-only", protocol, "a.txt", "b.txt").split() == ["a.txt", "b.txt"]
    state = other.state(protocol)
    assert (state["status"], state["spent"]["input_tokens"]) == ("completed", 300)
    sound(other, protocol)
    remote.runner("sync", protocol, rc=0)
    assert remote.git("rev-parse", protocol) == other.git("rev-parse", protocol)
    sound(remote, protocol)


@pytest.mark.slow
def test_a_budget_is_raised_and_gone_on_with_in_another_clone(remote: Box) -> None:
    publish(remote)
    script = [say(write("a.txt", "a\n"), tokens=(3_000, 2_000)), say(write("b.txt", "b\n")), finish()]
    with mind(remote, *script) as wire:
        protocol = remote.new({"01-x": agent()}, front="budget: {tokens: 21500}\n")
        remote.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1
        other = clone(remote, "bob")
        other.runner("sync", protocol, rc=0)
        at = other.path.parent / "bob-edits"
        other.git("worktree", "add", "-q", at, protocol)
        plan = at / ".protocols" / protocol / "plan.md"
        plan.write_text(plan.read_text().replace("21500", "90000"))
        other.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 3
    assert other.git("show", f"{protocol}:a.txt") == "a\n"
    assert other.state(protocol)["spent"]["input_tokens"] == 3_200
    sound(other, protocol)
