"""What a process keeps of a protocol from one transition to the next is what git would tell it again."""

from __future__ import annotations

from pathlib import Path

from runner.executor import advance
from runner.protocol import state
from runner.store import snapshot
from runner.store.project import Project
from tests.conftest import Box

ECHO = "kind: tool\ntool: echo\nwith: {text: a}\n"
PROTOCOL = {"01-a": ECHO, "02-b": ECHO, "03-c": "kind: command\nrun: echo c > c.txt\n", "04-d": ECHO}


def agrees(project: Project, tip: str, protocol: str) -> None:
    """What is kept is the snapshot that a fresh look gives, down to the bytes of state.json."""
    kept, fresh = project.snapshot, snapshot.read(project.git, tip, protocol)
    assert kept is not None and kept == fresh
    assert (kept.files.words, kept.files.parts) == (fresh.files.words, fresh.files.parts)
    assert project.git.blob(fresh.files["state.json"].oid) == state.render(kept.state, kept.rendered)


def test_what_is_kept_after_each_transition_is_what_a_fresh_look_gives(box: Box) -> None:
    protocol = box.new(PROTOCOL)
    with box.project() as project:
        for _ in range(2):
            agrees(project, advance.step(project, protocol).commit, protocol)
        plan = project.plan
        path = box.worktree(protocol) / f".protocols/{protocol}/04-d.md"
        path.write_text(path.read_text().replace("text: a", "text: b"))
        box.commit("another text", cwd=box.worktree(protocol))
        done = advance.step(project, protocol)
        assert [event.name for event in done.events][:1] == ["plan-edited"] and project.plan != plan
        agrees(project, done.commit, protocol)
        done = advance.step(project, protocol)
        assert done.state.status == "completed" and done.state.steps["d"].result == {"text": "b"}
        agrees(project, done.commit, protocol)
    box.runner("verify", protocol, rc=0)


def test_two_protocols_of_one_process_are_not_taken_for_each_other(box: Box) -> None:
    one, other = box.new(PROTOCOL), box.new({"01-a": ECHO})
    with box.project() as project:
        for protocol in (one, other, one):
            agrees(project, advance.step(project, protocol).commit, protocol)


def test_a_builtin_tool_needs_no_workspace(box: Box, tmp_path: Path) -> None:
    box.write(".protocols/config.yaml", f"workspace: {{path: {tmp_path}/work, setup: exit 1}}\n")
    box.commit("a setup that fails")
    protocol = box.new({"01-a": ECHO, "02-b": "kind: command\nrun: 'true'\n"})
    assert "done" in box.runner("step", protocol, rc=0).err
    assert not list(tmp_path.glob("work/**/*"))
    assert "setup failed" in box.runner("step", protocol, rc=1).err
