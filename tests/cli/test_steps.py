"""One commit a step; a person's own work untouched."""

from __future__ import annotations

from tests.conftest import Box, command


def test_three_steps_make_three_commits_and_verify(box: Box) -> None:
    protocol = box.new(
        {"01-a": command("echo a > a.txt"), "02-b": command("cat a.txt > b.txt"), "03-c": command("true")}
    )
    assert protocol == "0001-a-plan"
    before = box.count(protocol)
    for number in range(3):
        box.runner("step", protocol, rc=0)
        assert box.count(protocol) == before + number + 1
    assert box.state(protocol)["status"] == "completed"
    assert box.git("show", f"{protocol}:b.txt") == "a\n"
    box.runner("verify", protocol, rc=0)
    assert box.runner("step", protocol, rc=0) is not None
    assert box.count(protocol) == before + 3
    assert box.git("fsck", "--no-dangling") == ""
    assert box.git("status", "--porcelain") == ""
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""
