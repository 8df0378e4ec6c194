"""`fork --renumber`, killed at a system call from its note on: typed again it finishes what it began and prints the same id."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command
from tests.faults import ground as ground_
from tests.faults.ground import AT, ENDED, ROOT, STRIKE, left_over
from tests.faults.points import Place, always, points
from tests.faults.test_kill import POINTS
from tests.gate import turn

OLD, NEW = "0001-a-plan", "0002-a-plan"
UNREACHABLE = 69


def strike(box: Box, *how: str) -> dict[str, object]:
    """Run the command with `strike.py`, and return what it tells."""
    runs = [sys.executable, "-m", "runner", "fork", "--renumber", OLD]
    done = subprocess.run(
        [sys.executable, "-S", str(STRIKE), "--patience", str(ENDED), *how, "--", *runs],
        cwd=box.path,
        env={**box.environment(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


HOT = (
    Place(
        "git", "write", r"/worktrees/[^/]*/HEAD\.lock$", "the old worktree's HEAD is locked, and nothing is in the lock"
    ),
)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_renumbering_that_is_killed_anywhere_is_finished_when_it_is_typed_again(remote: Box, tmp_path: Path) -> None:
    if (why := ground_.can_strike()) is not None:
        pytest.skip(why)
    bob = clone(remote, "bob")
    bob.new({"01-a": command("echo b > b.txt"), "02-b": command("true")})
    bob.runner("step", OLD, rc=0)
    remote.new({"01-alice": command("echo alice > alice.txt")})
    remote.runner("sync", OLD, rc=0)
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    bob.git("fetch", "-q", "origin")
    parts = [path.name for path in tmp_path.iterdir() if path.name == "origin.git" or "bob" in path.name]
    kept = tmp_path / "kept"
    kept.mkdir()

    def copy(source: Path, target: Path) -> None:
        for name in parts:
            shutil.rmtree(target / name, ignore_errors=True)
            shutil.copytree(source / name, target / name, symlinks=True)

    copy(tmp_path, kept)
    trace = tmp_path / "trace"
    assert strike(bob, "--trace", str(trace))["code"] == 0
    lines = [[*line.split(" ", 2), ""][:3] for line in trace.read_text().splitlines()]
    calls = [(who, call, about) for who, call, about in lines]
    begins = next(at for at, (_, call, about) in enumerate(calls) if call == "rename" and "/renumbering/" in about)
    struck, wrong = 0, []
    late = {f"{who}:{call}:{sum(one[:2] == (who, call) for one in calls[:at + 1])}"
            for at, (who, call, _) in enumerate(calls) if at >= begins}  # fmt: skip
    further = [one for one in points(calls, 40 * POINTS, ("runner", "git"), turn=turn()) if one in late][:POINTS]
    chosen = AT or list(dict.fromkeys([*always(calls, HOT), *further]))
    for point in chosen:
        copy(kept, tmp_path)
        told = strike(bob, "--signal", "KILL", "--at", point)
        struck += bool(told["struck"])
        if told["code"] == 0:  # the git that died was not needed, or its work was done
            assert not bob.git("branch", "--list", OLD)
            continue
        again = bob.runner("fork", "--renumber", OLD)
        left = list((tmp_path / "origin.git").rglob("*.lock"))
        if again.code == UNREACHABLE and "ask the administrator to remove it" in again.err and left:
            for path in left:  # a git that was killed on the remote's side left it
                path.unlink()
            again = bob.runner("fork", "--renumber", OLD)
        there = bob.git("ls-remote", "-q", "--heads", "origin", "0*").split()[1::2]
        fine = again.code == 0 and again.out.strip() == NEW and there == [f"refs/heads/{OLD}", f"refs/heads/{NEW}"]
        fine = fine and (bob.runner("run", NEW).code, bob.runner("run", OLD).code) == (0, 0)
        fine = fine and bob.runner("verify", OLD, NEW).code == 0 and bob.runner("doctor").code == 0
        if not fine or left_over(bob):
            wrong.append(f"{point} {told['where']}: {again.code} {again.out} {again.err} {there} {left_over(bob)}")
    assert not wrong, "\n".join(wrong)
    assert struck > len(chosen) / 2
