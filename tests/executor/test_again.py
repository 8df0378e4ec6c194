"""A step that was removed from the plan after an attempt, and is put back: its next attempt starts with the edit."""

from __future__ import annotations

from tests.conftest import Box, command


def put_back(box: Box, line: str) -> str:
    """Remove a step after a failed attempt, put it back with another command, and run it."""
    protocol = box.new(
        {"01-a": command("exit 3", "on_failure: {retry: 1}\n"), "02-b": command("true"), "03-c": command("true")}
    )
    box.runner("step", protocol, rc=0)
    tree = box.worktree(protocol)
    file = tree / f".protocols/{protocol}/01-a.md"
    text = file.read_text()
    file.unlink()
    box.git("commit", "-qam", "without a", cwd=tree)
    box.runner("step", protocol, rc=0)
    file.write_text(text.replace("exit 3", line))
    box.git("add", ".", cwd=tree)
    box.git("commit", "-qm", "a again", cwd=tree)
    box.runner("step", protocol)
    return protocol


def test_its_work_is_recorded_once_under_the_number_of_that_attempt(box: Box) -> None:
    protocol = put_back(box, "echo x >> $HOME/ran")
    known = box.state(protocol)["steps"]["a"]
    assert (known["status"], known["attempt"]) == ("completed", 3)
    assert [path.read_text() for path in box.home.rglob("ran")] == ["x\n"]
    box.runner("verify", protocol, rc=0)


def test_the_work_of_its_failure_is_kept_under_the_number_of_that_attempt(box: Box) -> None:
    protocol = put_back(box, "echo x > left.txt; exit 4")
    ref = f"refs/runner/attempts/{protocol}/a.3"
    assert f'"kept":"{ref}"' in box.log(protocol)
    assert box.git("show", f"{ref}:left.txt") == "x\n"
    box.runner("verify", protocol, rc=0)
