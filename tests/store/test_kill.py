"""kill -9 at system calls of the runner and of the git under it: the next run finishes the work, and nothing is done twice.

Also what a kill leaves at its worst places, each made by a git that dies there. The whole sweep is slow; a spread of it always
runs. Both say how many points were tried, and fail where too few of them killed anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Box, clone, command

CALLS = "write,pwrite64,fsync,rename,renameat2,link,unlink,unlinkat,ftruncate,mkdir,execve"
GIT = re.compile(r'execve\("[^"]*/git"')
STEPS = {
    "01-a": command("echo once >> a.txt"),
    "02-b": command("echo b > b.txt; rm src/app.py", 'qa: {policy: light, checks: ["test -f b.txt"]}\n'),
    "03-ask": "kind: human\n",
    "04-c": command("mkdir -p d; cat a.txt b.txt > d/c.txt; chmod +x d/c.txt"),
}


class Point(NamedTuple):
    """The `number`th `call` of the runner itself, or of whichever process under it comes to that first."""

    under: bool
    call: str
    number: int


class Sweep:
    """A protocol that is run again and again from one state, killed at a point and then finished."""

    def __init__(self, box: Box) -> None:
        self.box, self.root = box, box.path.parent
        self.protocol = box.new(STEPS)
        self.kept = self.root.with_name(f"{self.root.name}-kept")
        shutil.copytree(self.root, self.kept, symlinks=True)

    def run(self, *strace: str) -> int:
        """Run the protocol as a process under strace."""
        argv = ["strace", "-qq", *strace, sys.executable, "-m", "runner", "run", self.protocol]
        env = {**self.box.environment(), "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(argv, cwd=self.box.path, env=env, capture_output=True, timeout=60).returncode

    def finish(self) -> None:
        """Do what a person does who finds it cut off: the same command again, and the answer that it asks for."""
        for _ in range(3):
            done = self.box.runner("run", self.protocol)
            if done.code in (0, 3):
                break
        if done.code == 3:
            self.box.runner("answer", self.protocol, "done", rc=0)
            done = self.box.runner("run", self.protocol)
        assert done.code == 0, done.err

    def outcome(self) -> tuple[str, Counter[str]]:
        """What every run has to come to: the files, and how often each event happened."""
        files = self.box.git("ls-tree", "-r", self.protocol, "a.txt", "b.txt", "d", "src")
        return files, Counter(re.findall(r"^## \d+ (.+)$", self.box.log(self.protocol), re.MULTILINE))

    def points(self, limit: int) -> tuple[list[Point], int]:
        """Return `limit` of the points where a run can be killed, spread over the calls in a fixed order, and how many there are."""
        trace = self.root / "trace"
        assert self.run("-f", "-o", str(trace), "-e", f"trace={CALLS}") == 3
        calls = [
            (found[1], found[2], line)
            for line in trace.read_text("utf-8", "replace").splitlines()
            if (found := re.match(r"(\d+) +(\w+)\(", line))
        ]
        main = calls[0][0]
        # The steps' own commands, killed, fail, and rightly so: every process that is neither the runner nor a git.
        steps = {pid for pid, call, line in calls if call == "execve" and not GIT.search(line)} - {main}
        seen: Counter[tuple[str, str]] = Counter()
        first: dict[Point, str] = {}
        for pid, call, _ in calls[1:]:
            seen[pid, call] += 1
            first.setdefault(Point(pid != main, call, seen[pid, call]), pid)
        points = [point for point, pid in first.items() if pid not in steps]
        ordered = sorted(points, key=lambda point: hashlib.sha256(repr(tuple(point)).encode()).digest())
        rank: Counter[tuple[bool, str]] = (
            Counter()
        )  # one of each call in turn: a rename counts for as much as many writes
        turns = {}
        for point in ordered:
            rank[point[:2]] += 1
            turns[point] = rank[point[:2]]
        return sorted(ordered, key=lambda point: turns[point])[:limit], len(points)

    def reset(self) -> None:
        """Put everything back to where it began: the repository, the worktree, the person's own state."""
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root, symlinks=True)

    def go(self, limit: int) -> None:
        """Kill at `limit` points, and hold what each comes to against a run that nobody killed."""
        points, there = self.points(limit)
        self.finish()
        wanted = self.outcome()
        killed, where = 0, self.box.worktree(self.protocol)
        for point in points:
            self.reset()
            inject = f"inject={point.call}:signal=KILL:when={point.number}"
            code = self.run(
                *(["-f"] if point.under else []), "-o", os.devnull, "-e", f"trace={point.call}", "-e", inject
            )
            killed += code not in (0, 3) or point.under
            self.finish()
            assert self.outcome() == wanted, point
            assert self.box.runner("verify", self.protocol).code == 0, point
            assert self.box.git("fsck", "--no-dangling") == "", point
            for folder in (where, self.box.path):
                assert self.box.git("status", "--porcelain", cwd=folder) == "", point
            assert left_over(self.box) == [], point
        print(f"{len(points)} of {there} points tried, {killed} killed")
        assert killed >= 0.8 * min(limit, there), f"only {killed} of {len(points)} points killed anything"


def left_over(box: Box) -> list[str]:
    """Return locks, notes and half-written files that nobody owns any more."""
    git = box.path / ".git"
    found = [
        *git.rglob("*.lock"),
        *git.rglob("runner-index*"),
        *git.glob("runner/follows/*"),
        *git.glob("runner/making/*"),
    ]
    return [str(path) for path in found]


@pytest.fixture
def strace() -> None:
    """What a sweep kills with."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: nothing can be killed at a system call")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("strace")
def test_a_run_that_is_killed_is_finished_by_the_next(box: Box) -> None:
    Sweep(box).go(3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("strace")
def test_a_run_that_is_killed_anywhere_is_finished_by_the_next(box: Box) -> None:
    Sweep(box).go(200)


# --- a git that dies ---------------------------------------------------------------------------------------------------


class DyingGit:
    """A git in front of git: the first one whose arguments have some words in them does, in its place, what a shell is told."""

    def __init__(self, box: Box, folder: Path) -> None:
        self.box, self.folder = box, folder
        folder.mkdir()

    def dies(self, words: str, instead: str) -> None:
        """Let the first git with `words` run `instead` (`real` is the git itself, `$@` what it was told)."""
        script = f"""#!/bin/sh
real() {{ {shutil.which("git")} "$@"; }}
case " $* " in *" {words} "*) if mkdir {self.folder}/died 2>/dev/null; then {instead}; kill -9 $$; fi;; esac
real "$@"
"""
        git = self.folder / "git"
        git.write_text(script)
        git.chmod(0o755)
        self.box.env["PATH"] = f"{self.folder}:{os.environ['PATH']}"

    def is_dead(self) -> bool:
        """Whether it came to that; from now on git is git again."""
        self.box.env.pop("PATH", None)
        return (self.folder / "died").is_dir()


@pytest.fixture
def dying(box: Box, tmp_path: Path) -> Iterator[DyingGit]:
    """A git that can be told to die."""
    yield DyingGit(box, tmp_path / "bin")


# A dry run only asks whether a worktree can follow: it is answered, and the next one dies.
NOT_YET = f"""case " $* " in *" -n "*) rmdir "${{0%/*}}/died"; exec {shutil.which("git")} "$@";; esac"""


def clean_and_done(box: Box, protocol: str) -> None:
    """Run to the end; the worktree is clean, and nobody's edit was taken up."""
    box.runner("run", protocol, rc=0)
    at = box.worktree(protocol)
    assert box.git("status", "--porcelain", cwd=at) == ""
    assert box.state(protocol)["status"] == "completed"
    assert "plan-edited" not in box.log(protocol)
    box.runner("verify", protocol, rc=0)
    assert left_over(box) == []


@pytest.mark.parametrize("path", ["big.txt", ".protocols/{}/state.json", ".protocols/{}/log.md"])
@pytest.mark.parametrize("size", [0, 40])
def test_a_file_that_a_killed_git_had_begun_to_write_is_not_taken_for_a_persons(
    box: Box, dying: DyingGit, path: str, size: int
) -> None:
    protocol = box.new({"01-a": command("seq 1 500 > big.txt"), "02-b": command("echo b > b.txt")})
    at = box.worktree(protocol) / path.format(protocol)
    dying.dies("read-tree -m -u", f'{NOT_YET}; real "$@"; head -c {size} {at} > {at}.cut; mv {at}.cut {at}')
    said = box.runner("step", protocol, rc=0).err
    assert dying.is_dead() and "could not follow" in said
    assert at.stat().st_size == size
    clean_and_done(box, protocol)


def test_what_is_not_a_part_of_the_new_file_is_a_persons(box: Box, dying: DyingGit) -> None:
    protocol = box.new({"01-a": command("seq 1 500 > big.txt"), "02-b": command("echo b > b.txt")})
    at = box.worktree(protocol) / "big.txt"
    dying.dies("read-tree -m -u", f'{NOT_YET}; real "$@"; echo mine > {at}')
    box.runner("step", protocol, rc=0)
    assert dying.is_dead()
    assert "big.txt" in box.runner("run", protocol, rc=0).err
    assert at.read_text() == "mine\n"


def test_a_git_that_dies_after_the_branch_moved_has_moved_it(box: Box, dying: DyingGit) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    dying.dies("update-ref -m runner: transition --stdin", 'head -n 4 | real "$@" > /dev/null')
    box.runner("step", protocol, rc=0)
    assert dying.is_dead()
    assert (box.worktree(protocol) / "a.txt").exists()
    clean_and_done(box, protocol)


@pytest.mark.parametrize(
    "instead",
    [
        pytest.param(":", id="nothing"),
        pytest.param('real "$@"; : > "$PRIVATE/commondir"', id="an-empty-commondir"),
        pytest.param('real "$@"; : > "$FOLDER/.git"', id="an-empty-gitfile"),
        pytest.param('real "$@"; rm "$PRIVATE/HEAD" "$PRIVATE/gitdir"', id="half-of-its-own-folder"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["with-the-runner", "alone"])
def test_a_worktree_whose_making_was_cut_is_no_hindrance(box: Box, dying: DyingGit, instead: str, whole: bool) -> None:
    folder = box.path.parent / "repo.worktrees/0001-a-plan"
    told = instead.replace("$PRIVATE", str(box.path / ".git/worktrees/0001-a-plan")).replace("$FOLDER", str(folder))
    dying.dies("worktree add", f"{told}{'; kill -9 $PPID' if whole else ''}")
    plan = box.plan({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    made = box.start("new", "A plan", "--plan", plan)
    said = made.communicate(timeout=60)[1]
    assert dying.is_dead() and made.returncode == (-9 if whole else 0), said
    box.runner("run", "0001-a-plan", rc=0)
    assert folder.exists() == whole  # one that lived said that there is none
    if whole:
        clean_and_done(box, "0001-a-plan")
    else:
        assert "no worktree" in said
        box.git("worktree", "add", folder, "0001-a-plan")


def test_a_worktree_that_was_not_filled_is_filled_and_no_edit(box: Box, dying: DyingGit) -> None:
    folder = box.path.parent / "repo.worktrees/0001-a-plan"
    dying.dies(
        "read-tree -m -u", f'real "$@"; rm {box.path}/.git/worktrees/0001-a-plan/index {folder}/.protocols/*/02-b.md'
    )
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    assert dying.is_dead()
    clean_and_done(box, protocol)


def test_a_sync_that_is_cut_between_the_branch_and_the_mark_goes_on(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "other")
    other.runner("run", protocol, rc=0)
    remote.runner("step", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    mark = next((remote.home / ".local/state/protocol-runner").glob(f"*/marks/{protocol}.json"))
    before = json.loads(mark.read_text())["tip"]
    dying = DyingGit(remote, remote.path.parent / "bin")
    dying.dies("read-tree -m -u", f"{NOT_YET}; kill -9 $PPID")  # the first that is run once the branch has moved
    done = remote.start("sync", protocol)
    said = done.communicate(timeout=60)[1]
    assert dying.is_dead() and done.returncode == -9, said
    assert remote.git("rev-parse", protocol).strip() != before
    remote.runner("sync", protocol, rc=0)
    assert remote.state(protocol)["status"] == "completed"
    assert before in remote.git("for-each-ref", "refs/runner/lost/")


def test_a_lock_that_a_killed_fetch_left_in_the_mirror_goes(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("sync", protocol, rc=0)
    remote.runner("run", protocol, rc=0)
    mirror = next((remote.home / ".local/state/protocol-runner").glob("*/mirror"))
    lock = mirror / f"refs/there/heads/{protocol}.lock"
    lock.touch()
    other = clone(remote, "other")
    other.git("checkout", "-q", protocol)
    other.git("commit", "--allow-empty", "-qm", "a person's")
    other.git("push", "-q", "origin", protocol)
    said = remote.runner("sync", protocol, rc=0).err
    assert not lock.exists() and str(lock) in said


def test_a_follow_that_is_cut_as_it_lets_go_leaves_no_lock_that_nobody_knows_of(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    lock = Path(
        box.git("rev-parse", "--path-format=absolute", "--git-path", "index.lock", cwd=box.worktree(protocol)).strip()
    )
    unlink = Path.unlink

    def cut(path: Path, missing_ok: bool = False) -> None:
        if path == lock:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", cut)
        box.runner("run", protocol)
    assert lock.exists()
    box.runner("run", protocol, rc=0)
    assert left_over(box) == []


def test_a_take_that_is_cut_before_the_checkout_followed_brings_it_along_the_next_time(
    box: Box, dying: DyingGit
) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    dying.dies("read-tree -m -u", f"{NOT_YET}; kill -9 $PPID")
    done = box.start("take", protocol)
    said = done.communicate(timeout=60)[1]
    assert dying.is_dead() and done.returncode == -9, said
    assert box.git("status", "--porcelain") != ""
    box.runner("take", protocol, rc=0)
    assert box.git("status", "--porcelain") == ""
    assert (box.path / "a.txt").exists() and left_over(box) == []
