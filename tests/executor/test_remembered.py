"""What a process keeps of a protocol from one transition to the next is what git would tell it again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.app import run
from runner.executor import advance
from runner.protocol import state
from runner.store import batch, snapshot
from runner.store.project import Session
from tests.conftest import Box, mostly_slow, set_env

ECHO = "kind: tool\ntool: echo\nwith: {text: a}\n"
PROTOCOL = {"01-a": ECHO, "02-b": ECHO, "03-c": "kind: command\nrun: echo c > c.txt\n", "04-d": ECHO}


def agrees(session: Session, tip: str, protocol: str) -> None:
    """What is kept is the snapshot that a fresh look gives, down to the bytes of state.json."""
    kept, fresh = session.snapshot, snapshot.read(session.git, tip, protocol)
    assert kept is not None and kept == fresh
    assert (kept.files.plan_files, kept.files.parts) == (fresh.files.plan_files, fresh.files.parts)
    assert session.git.blob(fresh.files["state.json"].oid) == state.render(kept.state, kept.rendered)


def test_what_is_kept_after_each_transition_is_what_a_fresh_look_gives(box: Box) -> None:
    protocol = box.new(PROTOCOL)
    with box.session() as session:
        for _ in range(2):
            agrees(session, advance.step(session, protocol).commit, protocol)
        plan = session.plan
        path = box.worktree(protocol) / f".protocols/{protocol}/04-d.md"
        path.write_text(path.read_text().replace("text: a", "text: b"))
        box.commit("another text", cwd=box.worktree(protocol))
        done = advance.step(session, protocol)
        assert [event.name for event in done.events][:1] == ["plan-edited"] and session.plan != plan
        agrees(session, done.commit, protocol)
        done = advance.step(session, protocol)
        assert done.state.status == "completed" and done.state.steps["d"].result == {"text": "b"}
        agrees(session, done.commit, protocol)
    box.runner("verify", protocol, rc=0)


def test_two_protocols_of_one_process_are_not_taken_for_each_other(box: Box) -> None:
    one, other = box.new(PROTOCOL), box.new({"01-a": ECHO})
    with box.session() as session:
        for protocol in (one, other, one):
            agrees(session, advance.step(session, protocol).commit, protocol)


def test_a_builtin_tool_needs_no_workspace(box: Box, tmp_path: Path) -> None:
    box.write(".protocols/config.yaml", f"workspace: {{path: {tmp_path}/work, setup: exit 1}}\n")
    box.commit("a setup that fails")
    protocol = box.new({"01-a": ECHO, "02-b": "kind: command\nrun: 'true'\n"})
    assert "done" in box.runner("step", protocol, rc=0).err
    assert not list(tmp_path.glob("work/**/*"))
    assert "setup failed" in box.runner("step", protocol, rc=1).err


# --- a run's looks for a person's edits ------------------------------------------------------------------------------------


def running(session: Session, protocol: str) -> Iterator[str]:
    """Run a protocol while the clock stands still, so that one look for edits has to do; give what each transition made."""
    set_env(session, monotonic=lambda: 0.0)
    for done in run.run(session, protocol, max_steps=20, adopt=True, tell=lambda done: None):
        yield ", ".join(f"{one.name} {one.subject}" for one in done.events)


def _next(at: Path) -> None:
    path = at / "02-b.md"
    path.write_text(path.read_text().replace("text: a", "text: b"))


def _later(at: Path) -> None:
    path = at / "03-c.md"
    path.write_text(path.read_text().replace("text: a", "text: b"))


def _renamed_over(at: Path) -> None:
    new = at / ".02-b.md.swp"
    new.write_text((at / "02-b.md").read_text().replace("text: a", "text: b"))
    new.rename(at / "02-b.md")


def _plan(at: Path) -> None:
    (at / "plan.md").write_text("---\ntitle: Another plan\n---\nWhat and why.\n")


def _new(at: Path) -> None:
    (at / "04-d.md").write_text((at / "03-c.md").read_text())


def _gone(at: Path) -> None:
    (at / "03-c.md").unlink()


@pytest.mark.parametrize("edit", mostly_slow([_next, _later, _renamed_over, _plan, _new, _gone]))
def test_an_edit_between_two_transitions_of_a_run_is_picked_up_before_a_step_uses_it(
    box: Box, edit: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST", 1)  # each is reported before the next
    protocol = box.new({"01-a": ECHO, "02-b": ECHO, "03-c": ECHO})
    at = box.worktree(protocol)
    with box.session() as session:
        made = []
        for told in running(session, protocol):
            made.append(told)
            if len(made) == 1:
                edit(at / f".protocols/{protocol}")
        assert session.snapshot is not None
        results = {slug: step.result for slug, step in session.snapshot.state.steps.items()}
    b = {"text": "b" if edit in (_next, _renamed_over) else "a"}
    c = {"text": "b" if edit is _later else "a"}
    d = {"d": {"text": "a"}} if edit is _new else {}
    assert results == {"a": {"text": "a"}, "b": b, **({} if edit is _gone else {"c": c}), **d}
    # Found with the step that uses it, or that a file came or went; another step's own file waits for that step.
    assert ["plan-edited plan" in told for told in made][:3] == [False, edit is not _later, edit is _later][: len(made)]
    box.runner("verify", protocol, rc=0)
    assert box.git("status", "--porcelain", cwd=at) == ""
    assert "picked up" not in box.git("log", "-1", "--format=%B", protocol)


def test_an_edit_of_what_is_done_is_found_before_a_run_reports_its_end(box: Box) -> None:
    protocol = box.new({"01-a": ECHO, "02-b": "kind: human\n"})
    at = box.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    with box.session() as session:
        made = []
        for told in running(session, protocol):
            made.append(told)
            at.write_text(at.read_text().replace("Do it.", "Do it well."))
    assert len(made) >= 2 and "plan-edited plan" in made[1], made
    box.runner("verify", protocol, rc=0)


_listed: list[str] = []
_listening = False


def _hear(event: str, given: tuple[object, ...]) -> None:
    if _listening and event == "os.scandir":
        _listed.append(str(given[0]))


def test_a_run_lists_the_folder_once_a_batch(box: Box) -> None:
    global _listening
    protocol = box.new({f"{number:02d}-s{number}": ECHO for number in range(1, 11)})
    at = f"{box.worktree(protocol)}/.protocols/{protocol}"
    sys.addaudithook(_hear)
    with box.session() as session:
        _listening = True
        try:
            made = list(running(session, protocol))
        finally:
            _listening = False
    assert len(made) == 10
    assert 1 <= _listed.count(at) <= 4, _listed  # one look, and that of the end: to list it, and to compare it
