"""A batch of transitions (ADR 0019): killed anywhere, what is on the disk counts; nobody hears of what the branch does not have."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import signals
from runner.app import run
from runner.errors import RunnerError
from runner.executor import advance, load
from runner.executor.advance import Advanced
from runner.git.process import GitError
from runner.store import batch, locks
from runner.store.batch import Record, parse
from tests.conftest import Box, command, make_box

ECHO = "kind: tool\ntool: echo\nwith: {text: a}\n"
BATCH = {f"{number:02d}-s{number}": ECHO for number in range(1, 8)}
ENDS = len(BATCH) + 1  # commits of the whole protocol


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a batch ends with its steps."""
    monkeypatch.setattr(batch, "LONGEST", 3600.0)


def work(box: Box, protocol: str, most: int = 100) -> list[Advanced]:
    told: list[Advanced] = []

    def tell(done: Advanced) -> None:
        box.git("merge-base", "--is-ancestor", done.commit, protocol)  # it is reported: the branch has it
        told.append(done)

    with box.session() as session:
        made = list(run.run(session, protocol, max_steps=most, adopt=True, tell=tell))
    assert [one for one in made if one.entries] == told
    return made


def moves(box: Box, protocol: str) -> int:
    """How often the branch moved since it was made."""
    return len(box.git("reflog", "show", f"refs/heads/{protocol}").splitlines()) - 1


def sound(box: Box, protocol: str) -> None:
    """The protocol is done, and nothing is left over."""
    assert box.state(protocol)["status"] == "completed"
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--full", "--strict", "--no-dangling") == ""
    assert list((box.path / ".git/runner/pending").glob("*")) == []
    assert list((box.path / ".git/objects").rglob("tmp_*")) == []
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""


@pytest.fixture(params=["sha1", "sha256"])
def any_box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    return make_box(tmp_path / "repo", f"--object-format={request.param}")


def test_pure_steps_are_a_commit_each_and_one_move_of_the_branch(any_box: Box) -> None:
    protocol = any_box.new(BATCH)
    made = work(any_box, protocol)
    assert [len(one.before) for one in made if one.before] == [len(BATCH) - 2]
    assert any_box.count(protocol) - any_box.count("main") == ENDS
    assert moves(any_box, protocol) == 2  # the last one, with the history of the whole, by itself
    assert len(list((any_box.path / ".git/objects/pack").glob("*.pack"))) == 1
    sound(any_box, protocol)


def test_a_batch_ends_before_what_is_not_pure_and_where_it_was_told_to(box: Box) -> None:
    steps = {f"{number:02d}-s{number}": ECHO for number in range(1, 5)}
    protocol = box.new({**steps, "05-c": command("echo c > c.txt"), "06-human": "kind: human\n"})
    assert [one.said or one.events[-1].subject for one in work(box, protocol, most=3)] and moves(box, protocol) == 1
    work(box, protocol)
    assert moves(box, protocol) == 4  # the fourth, the command, the question
    assert (box.worktree(protocol) / "c.txt").exists()


def test_until_ends_a_batch(box: Box) -> None:
    protocol = box.new(BATCH)
    box.runner("run", protocol, "--until", "s3", rc=0)
    assert [one["status"] for one in box.state(protocol)["steps"].values()] == ["completed"] * 3 + ["pending"] * 4


# --- killed --------------------------------------------------------------------------------------------------------------

CALLS = ("open", "pwrite", "fdatasync", "fsync", "write", "rename", "unlink")
ABOUT = re.compile(r"/runner/pending|/objects/pack|/refs/heads")


def killed_at(box: Box, protocol: str, at: int) -> str:
    """Run a protocol, as `killed`."""

    def act() -> None:
        with box.session() as session:
            list(run.run(session, protocol, max_steps=100, adopt=True, tell=lambda done: None))

    return killed(act, at)


def killed(act: Callable[[], object], at: int) -> str:
    """Act in a process that ends, with nothing tidied up, as it comes to its `at`-th call about packs; return the call."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        seen = Counter[str]()

        def struck(name: str, real: Any) -> Any:
            def call(first: Any, *args: Any, **named: Any) -> Any:
                path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
                if ABOUT.search(path) and not (name == "open" and not args[0] & os.O_CREAT):
                    seen["all"] += 1
                    if seen["all"] == at:
                        if name in ("pwrite", "write"):
                            real(first, bytes(args[0])[: len(args[0]) // 2], *args[1:])  # torn
                        os.write(writer, f"{name} {path}".encode())
                        os._exit(9)
                return real(first, *args, **named)

            return call

        for name in CALLS:
            setattr(os, name, struck(name, getattr(os, name)))
        try:
            act()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        where = said.read()
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == (9 if where else 0)
    return where


def places(tmp_path: Path, *init: str) -> Iterator[tuple[Box, str, str]]:
    """Yield a repository and its protocol after a kill, and the call that it was killed at, for all calls of a run."""
    for at in range(1, 200):
        box = make_box(tmp_path / f"{at}/repo", *init)
        protocol = box.new(BATCH)
        where = killed_at(box, protocol, at)
        if not where:
            return
        yield box, protocol, where
    raise AssertionError("it never ends")


@pytest.mark.parametrize("object_format", ["sha1", pytest.param("sha256", marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_killed_at_any_call_the_next_holder_of_the_lock_has_what_was_on_the_disk(
    tmp_path: Path, object_format: str
) -> None:
    seen = []
    for box, protocol, where in places(tmp_path, f"--object-format={object_format}"):
        file = box.path / ".git/runner/pending" / protocol
        records = parse(file.read_bytes()) if file.exists() else []
        began = box.count(protocol)
        with box.session() as session, load.at_work(session, protocol):
            tip = session.git.ref(f"refs/heads/{protocol}")
        if records and began == box.count("main") + 1:
            assert tip == records[-1].tip and box.count(protocol) == began + len(records), where
        else:
            assert box.count(protocol) == began, where
        assert box.git("fsck", "--full", "--strict", "--no-dangling") == "", where
        assert [one.state.status for one in work(box, protocol)][-1:] == ["completed"], where
        assert box.count(protocol) - box.count("main") == ENDS, where
        for path in (box.path / ".git/objects").rglob("tmp_*"):
            path.unlink()  # git's own `gc` does so, a day later
        sound(box, protocol)
        seen.append((where.partition(" ")[0], len(records)))
    assert {count for _, count in seen} == set(range(len(BATCH) - 1)), seen  # killed with each number of records
    assert {call for call, _ in seen} == {*CALLS}, seen


def packs(box: Box) -> int:
    found = [
        path.suffix for path in (box.path / ".git/objects/pack").glob("pack-*") if path.suffix in (".idx", ".pack")
    ]
    assert found.count(".idx") == found.count(".pack")
    return found.count(".idx")


def test_a_plan_of_many_files_is_one_pack(any_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    few = any_box.new(BATCH)
    assert packs(any_box) == 0
    before = {path for path in (any_box.path / ".git/objects").rglob("*") if path.is_file()}
    many = any_box.new({f"{number:03d}-s{number}": ECHO for number in range(1, 101)})
    made = {path for path in (any_box.path / ".git/objects").rglob("*") if path.is_file()} - before
    assert packs(any_box) == 1 and len(made) == 2, made
    assert sum(path.stat().st_size for path in made) < 32 * 1024
    monkeypatch.setattr(batch, "FEW", 3)
    for _ in range(2):
        any_box.new({f"{number:03d}-s{number}": ECHO for number in range(1, 101)}, title="Another one")
    assert packs(any_box) == 1
    work(any_box, few)
    work(any_box, many)
    sound(any_box, many)


def test_a_new_protocol_that_is_killed_as_its_pack_is_written_is_made_once(box: Box) -> None:
    seen = []
    for number in range(1, 100):
        steps = {f"{at:02d}-s{at}": ECHO for at in range(1, 21)}
        plan = ("new", f"Plan {number}", "--plan", box.plan(steps, title=f"Plan {number}"))
        seen.append(killed(partial(box.runner, *plan, rc=0), number))
        if not seen[-1]:
            break
        assert box.git("fsck", "--full", "--strict", "--no-dangling") == "", seen[-1]
        protocol = box.runner(*plan, rc=0).out.strip()
        assert box.git("for-each-ref", "--format=%(refname:short)", "refs/heads/0*").split() == [
            f"{one:04d}-plan-{one}" for one in range(1, number + 1)
        ], seen[-1]
    assert len([one for one in seen if "/objects/pack" in one]) > 6, seen
    work(box, protocol)
    for path in (box.path / ".git/objects").rglob("tmp_*"):
        path.unlink()
    sound(box, protocol)


def test_packs_of_many_runs_are_made_one(any_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "FEW", 3)
    many = any_box.new({f"{number:03d}-s{number}": ECHO for number in range(1, 50)})
    counts = []
    for _ in range(12):
        work(any_box, many, most=4)
        counts.append(packs(any_box))
    assert counts == [2, 1, 2, 3, 2, 3, 4, 1, 2, 3, 2, 3]  # one is the plan's
    (any_box.path / ".git/runner/packs").unlink()  # nothing depends on it
    work(any_box, many)
    sound(any_box, many)


def test_packs_whose_index_cannot_be_read_stay(any_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "FEW", 3)
    many = any_box.new({f"{number:03d}-s{number}": ECHO for number in range(1, 50)})
    work(any_box, many, most=4)
    name = (any_box.path / ".git/runner/packs").read_text().split()[-1]
    pack = any_box.path / f".git/objects/pack/{name}.pack"
    pack.with_suffix(".idx").chmod(0o644)
    any_box.git("index-pack", "--index-version=1", str(pack))
    for _ in range(3):
        work(any_box, many, most=4)
    assert packs(any_box) == 5  # one is the plan's
    any_box.git("index-pack", str(pack))
    work(any_box, many, most=4)
    assert packs(any_box) == 1
    work(any_box, many)
    sound(any_box, many)


def test_packs_are_made_one_whatever_the_configuration_says_of_packs(
    any_box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "FEW", 3)
    for setting in ("pack.writeReverseIndex true", "pack.indexVersion 1", "pack.packSizeLimit 1m"):
        any_box.git("config", *setting.split())
    with any_box.session() as session:
        for number in range(9):
            with session.git.collecting():
                for part in range(10):
                    session.git.write("blob", random.Random(f"{number} {part}").randbytes(20_000))
            batch.fold(session.project)
    assert packs(any_box) == 1
    there = sorted(path.suffix for path in (any_box.path / ".git/objects/pack").iterdir())
    assert there in ([".idx", ".pack"], [".idx", ".pack", ".rev"])


def test_a_pack_that_is_made_as_another_process_makes_packs_one_is_made_one_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "FEW", 3)
    with box.session() as session:
        before = packs(box)
        for number in range(3):
            with session.git.collecting():
                for part in range(10):
                    session.git.write("blob", f"{number} {part}".encode())
            with contextlib.ExitStack() as stack:
                if number < 2:
                    stack.enter_context(locks.hold(session.dirs.lock("packs"), session.env, what="the packs"))
                batch.fold(session.project)
            assert packs(box) == before + (number + 1 if number < 2 else 1)


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_as_packs_are_made_one_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "FEW", 2)
    seen = []
    for at in range(21, 60, 2):
        box = make_box(tmp_path / f"{at}/repo")
        protocol = box.new({f"{number:03d}-s{number}": ECHO for number in range(1, 12)})
        work(box, protocol, most=5)
        seen.append(killed_at(box, protocol, at))
        assert box.git("fsck", "--full", "--strict", "--no-dangling") == "", seen[-1]
        work(box, protocol)
        for path in (box.path / ".git/objects").rglob("tmp_*"):
            path.unlink()
        sound(box, protocol)
        if not seen[-1]:
            break
    assert not seen[-1] and any(one.startswith("unlink") and one.endswith((".idx", ".pack")) for one in seen), seen


def test_what_people_recorded_after_a_kill_comes_first(box: Box) -> None:
    protocol = box.new(BATCH)
    where = killed_at(box, protocol, 8)
    file = box.path / ".git/runner/pending" / protocol
    assert where and parse(file.read_bytes())
    box.runner("pause", protocol, rc=0)
    paused = box.git("rev-parse", protocol)
    box.runner("run", protocol, rc=3)
    assert box.git("rev-parse", protocol) == paused and not file.exists()
    box.runner("resume", protocol, rc=0)
    assert work(box, protocol)[-1].state.status == "completed"
    sound(box, protocol)


def test_what_people_commit_beside_a_batch_comes_first(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = box.new(BATCH)
    tree, note, done = box.worktree(protocol), batch.Batch.note, list[str]()

    def beside(self: batch.Batch) -> None:
        note(self)
        if len(self.tips) == 3 and not done:
            done.append(box.commit("a person's", cwd=tree))

    monkeypatch.setattr(batch.Batch, "note", beside)
    assert work(box, protocol)[-1].state.status == "completed"
    assert box.git("rev-list", protocol).split()[-1 - box.count("main") - 1] == done[0]
    assert box.count(protocol) - box.count("main") == ENDS + 1
    sound(box, protocol)


def test_what_people_edit_beside_a_batch_is_picked_up_before_the_step_that_uses_it(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = box.new(BATCH)
    tree, note = box.worktree(protocol), batch.Batch.note

    def beside(self: batch.Batch) -> None:
        note(self)
        if len(self.tips) == 2:
            path = tree / f".protocols/{protocol}/03-s3.md"
            path.write_text(path.read_text().replace("text: a", "text: b"))

    monkeypatch.setattr(batch.Batch, "note", beside)
    made = work(box, protocol)
    assert made[-1].state.steps["s3"].result == {"text": "b"} and made[-1].state.steps["s4"].result == {"text": "a"}
    assert box.count(protocol) - box.count("main") == ENDS + 1  # the edit is a commit of the person's
    sound(box, protocol)


@pytest.mark.parametrize("name", ["fdatasync", "pwrite"])
def test_a_disk_that_takes_no_record_ends_the_run_and_loses_nothing_before(
    box: Box, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    protocol = box.new(BATCH)
    real, calls = getattr(os, name), list[int]()

    def full(handle: int, *args: Any) -> Any:
        if "/runner/pending/" in os.readlink(f"/proc/self/fd/{handle}"):
            calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(handle, *args)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, full)
        with pytest.raises(GitError, match="No space left"):
            work(box, protocol)
    with box.session() as session, load.at_work(session, protocol):
        assert box.count(protocol) >= box.count("main") + 3
    assert work(box, protocol)[-1].state.status == "completed"
    sound(box, protocol)


def test_an_error_in_a_batch_comes_after_what_was_done_before_it(box: Box) -> None:
    protocol = box.new({**BATCH, "08-add": "kind: tool\ntool: add\nwith: {a: 1, b: 2}\n", "09-z": ECHO})
    path = box.worktree(protocol) / f".protocols/{protocol}/plan.md"
    calls = list[int]()
    real = advance.consider

    def broken(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise RunnerError("it cannot be read", "here", "now")
        return real(*args)

    told = list[Advanced]()
    with pytest.MonkeyPatch.context() as patched, box.session() as session:
        patched.setattr(advance, "consider", broken)
        told += run.run(session, protocol, max_steps=3, adopt=True, tell=lambda done: None)
    assert len(told) == 3 and moves(box, protocol) == 1 and path.exists()
    assert work(box, protocol)[-1].state.status == "completed"
    sound(box, protocol)


# --- beside others -------------------------------------------------------------------------------------------------------

STOPS = """
import sys, time
from pathlib import Path
from runner.cli.main import main
from runner.store import batch

note, mark = batch.Batch.note, Path(sys.argv.pop(1))

def noted(self):
    note(self)
    if len(self.tips) == 3 and not mark.exists():
        mark.touch()
        time.sleep(300)

batch.Batch.note, batch.LONGEST = noted, 3600.0
main()
"""


def test_others_see_the_branch_before_a_batch_and_ctrl_c_keeps_what_is_done(any_box: Box, tmp_path: Path) -> None:
    box, mark = any_box, tmp_path / "mark"
    protocol = box.new(BATCH)
    tree, before = box.worktree(protocol), box.git("rev-parse", protocol)
    seen = [box.runner(*words, rc=0).out for words in (("status", protocol, "--json"), ("list", "--json"))]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS, mark, "run", protocol],
        cwd=tree,  # a linked worktree
        env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.02)
        assert len(parse((box.path / ".git/runner/pending" / protocol).read_bytes())) == 3
        now = [box.runner(*words, rc=0).out for words in (("status", protocol, "--json"), ("list", "--json"))]
        assert [re.sub(r'"(age|running|at_work)": [^,}]*', "", text) for text in now] == [
            re.sub(r'"(age|running|at_work)": [^,}]*', "", text) for text in seen
        ]
        box.runner("verify", protocol, rc=0)
        assert "is held by another runner" in box.runner("run", protocol, rc=75).err
        assert box.git("status", "--porcelain", cwd=tree) == "" and box.git("rev-parse", protocol) == before
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said
    assert box.git("rev-parse", f"{protocol}~3") == before
    assert work(box, protocol)[-1].state.status == "completed"
    sound(box, protocol)


def test_a_cancel_in_the_middle_of_a_batch_throws_the_batch_away(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = box.new(BATCH)
    note, started = batch.Batch.note, list[subprocess.Popen[str]]()

    def beside(self: batch.Batch) -> None:
        note(self)
        if len(self.tips) == 3 and not started:
            started.append(box.start("cancel", protocol))
            while box.state(protocol)["status"] != "cancelled" or not signals._stop["requested"]:
                time.sleep(0.02)

    monkeypatch.setattr(batch.Batch, "note", beside)
    said = box.runner("run", protocol, rc=4).err
    assert "was cancelled, and its work was stopped" in said
    assert started[0].wait(60) == 0
    assert {one["status"] for one in box.state(protocol)["steps"].values()} <= {"pending", "cancelled"}
    assert list((box.path / ".git/runner/pending").glob("*")) == []
    box.runner("undo", protocol, rc=0)
    assert work(box, protocol)[-1].state.status == "completed"
    sound(box, protocol)


def test_what_loses_a_race_goes_on_alone(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who commits all the time delays a run, and does not stop it."""
    protocol = box.new(BATCH)
    tree, end, calls = box.worktree(protocol), batch.Batch.end, list[int]()

    def beside(self: batch.Batch, *args: Any) -> None:
        calls.append(len(self.tips))
        box.commit("a person's", cwd=tree)
        end(self, *args)

    monkeypatch.setattr(batch.Batch, "end", beside)
    assert work(box, protocol)[-1].state.status == "completed"
    assert len(calls) == len(BATCH) - 1 and moves(box, protocol) == 2 * len(BATCH) - 1
    sound(box, protocol)


# --- the file ------------------------------------------------------------------------------------------------------------

OIDS = [f"{number:040x}" for number in range(6)]


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5), st.data())
def test_of_a_torn_or_damaged_file_the_whole_records_before_count(bodies: list[bytes], data: st.DataObject) -> None:
    records = [
        Record(OIDS[at + 1], OIDS[at], at == 0 or data.draw(st.booleans()), len(body), body)
        for at, body in enumerate(bodies)
    ]
    whole = b"".join(one.render() for one in records)
    assert parse(whole) == records
    ends = [len(b"".join(one.render() for one in records[:count])) for count in range(len(records) + 1)]
    cut = data.draw(st.integers(0, len(whole)))
    assert parse(whole[:cut]) == records[: sum(end <= cut for end in ends) - 1]
    if cut < len(whole):
        bad = whole[:cut] + bytes((whole[cut] ^ data.draw(st.integers(1, 255)),)) + whole[cut + 1 :]
        assert parse(bad) == records[: sum(end <= cut for end in ends) - 1]


def test_records_that_do_not_follow_each_other_are_not_taken() -> None:
    one, other = Record(OIDS[1], OIDS[0], True, 0, b""), Record(OIDS[3], OIDS[2], False, 0, b"")
    assert parse(one.render() + other.render()) == [one]
    assert parse(other.render()) == []


def test_a_file_of_records_that_are_published_changes_nothing(box: Box) -> None:
    protocol = box.new(BATCH)
    file = box.path / ".git/runner/pending" / protocol
    killed_at(box, protocol, 10)
    kept = file.read_bytes()
    work(box, protocol)
    before = subprocess.run(["git", "rev-parse", protocol], cwd=box.path, capture_output=True, check=True).stdout
    file.write_bytes(kept)  # as a power cut gives back what was removed
    with box.session() as session, load.at_work(session, protocol):
        pass
    assert box.git("rev-parse", protocol).encode() == before and not file.exists()


@pytest.mark.parametrize("text", [b"", b"transition 2 of another version\n", b"schema 2\n\0\1"])
def test_a_file_of_another_format_is_thrown_away(box: Box, text: bytes) -> None:
    protocol = box.new(BATCH)
    file = box.path / ".git/runner/pending" / protocol
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    assert work(box, protocol)[-1].state.status == "completed"
    sound(box, protocol)


def test_where_the_file_cannot_be_written_nothing_is_recorded(box: Box) -> None:
    protocol = box.new(BATCH)
    before = box.git("rev-parse", protocol)
    (box.path / ".git/runner/pending").write_bytes(b"")  # where the folder goes
    said = box.runner("run", protocol).err
    assert "cannot be written" in said and str(box.path / ".git/runner/pending") in said
    assert box.git("rev-parse", protocol) == before
