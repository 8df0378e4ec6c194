"""What a kill leaves at its worst places, each made by a git that dies there. The sweep over all places is in tests/faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.store import locks
from tests.conftest import Box, clone, command, mostly_slow, waits_for
from tests.faults.ground import left_over

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


# Where a file goes, git looks at all files; where some only come, it is given those.
WAYS = {"read-tree -m -u": "; rm README.md", "checkout-index -u -z --stdin": ""}
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


def test_a_check_whose_clean_export_was_cut_is_no_hindrance(box: Box, dying: DyingGit) -> None:
    steps = {"01-a": command("echo a > a.txt", 'qa: {policy: light, checks: ["test -f a.txt"]}\n')}
    protocol = box.new(steps)
    box.runner("step", protocol, rc=0)
    other = f'*) rmdir "${{0%/*}}/died"; exec {shutil.which("git")} "$@"'
    dying.dies(
        "read-tree --reset -u", f'case $GIT_INDEX_FILE in *check-index) touch "$GIT_INDEX_FILE.lock";; {other};; esac'
    )
    box.runner("step", protocol, rc=2)
    assert dying.is_dead()
    assert next((box.home / ".local/state/protocol-runner").glob(f"*/{protocol}/*.lock")).exists()
    clean_and_done(box, protocol)


@pytest.mark.parametrize(
    ("words", "path", "size"),
    mostly_slow(
        [
            *(("read-tree -m -u", "big.txt", 0), ("read-tree -m -u", ".protocols/{}/state.json", 40)),
            ("checkout-index -u -z --stdin", "big.txt", 40),
            *(("read-tree -m -u", "big.txt", 40), ("read-tree -m -u", ".protocols/{}/state.json", 0)),
            *(("read-tree -m -u", ".protocols/{}/log.md", 0), ("read-tree -m -u", ".protocols/{}/log.md", 40)),
            ("checkout-index -u -z --stdin", "big.txt", 0),
        ],
        keep=3,
    ),
)
def test_a_file_that_a_killed_git_had_begun_to_write_is_not_taken_for_a_persons(
    box: Box, dying: DyingGit, words: str, path: str, size: int
) -> None:
    protocol = box.new({"01-a": command(f"seq 1 500 > big.txt{WAYS[words]}"), "02-b": command("echo b > b.txt")})
    at = box.worktree(protocol) / path.format(protocol)
    dying.dies(words, f'{NOT_YET}; real "$@"; head -c {size} {at} > {at}.cut; mv {at}.cut {at}')
    said = box.runner("step", protocol, rc=0).err
    assert dying.is_dead() and "could not be updated" in said
    assert at.stat().st_size == size
    clean_and_done(box, protocol)


@pytest.mark.parametrize("words", WAYS)
def test_what_is_not_a_part_of_the_new_file_is_a_persons(box: Box, dying: DyingGit, words: str) -> None:
    protocol = box.new({"01-a": command(f"seq 1 500 > big.txt{WAYS[words]}"), "02-b": command("echo b > b.txt")})
    at = box.worktree(protocol) / "big.txt"
    dying.dies(words, f'{NOT_YET}; real "$@"; echo mine > {at}')
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
@pytest.mark.slow
@pytest.mark.window(2)
def test_a_worktree_whose_making_was_cut_is_no_hindrance(box: Box, dying: DyingGit, instead: str, whole: bool) -> None:
    folder = box.path.parent / "repo.worktrees/0001-a-plan"
    told = instead.replace("$PRIVATE", str(box.path / ".git/worktrees/0001-a-plan")).replace("$FOLDER", str(folder))
    dying.dies("worktree add", f"{told}{'; kill -9 $PPID' if whole else ''}")
    plan = box.plan({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    made = box.start("new", "A plan", "--plan", plan)
    said = made.communicate(timeout=100)[1]
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
    dying.dies("update-index -z --index-info", "kill -9 $PPID")  # the first that is run once the branch has moved
    done = remote.start("sync", protocol)
    said = done.communicate(timeout=100)[1]
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


@pytest.mark.parametrize("words", WAYS)
def test_a_take_that_is_cut_before_the_checkout_followed_brings_it_along_the_next_time(
    box: Box, dying: DyingGit, words: str
) -> None:
    protocol = box.new({"01-a": command(f"echo a > a.txt{WAYS[words]}")})
    box.runner("run", protocol, rc=0)
    dying.dies(words, f"{NOT_YET}; kill -9 $PPID")
    done = box.start("merge", protocol)
    said = done.communicate(timeout=100)[1]
    assert dying.is_dead() and done.returncode == -9, said
    assert box.git("status", "--porcelain") != ""
    box.runner("merge", protocol, rc=0)
    assert box.git("status", "--porcelain") == ""
    assert (box.path / "a.txt").exists() and left_over(box) == []


@pytest.mark.slow
def test_a_command_that_outlives_its_runner_is_ended_before_it_is_begun_again(box: Box) -> None:
    """On the host nothing ends it with its runner: it went on in the workspace, beside the one that did its work anew."""
    gate, amid = box.path.parent / "gate", box.path.parent / "amid"
    again = f"[ -e {gate} ] && touch {amid} && echo again >> built.txt && sleep 2 && exit"
    daemon = f"touch {gate}; {waits_for(amid)}; echo daemon >> built.txt"
    begun = f"setsid -f sh -c '{daemon}'; {waits_for(amid)}; echo first >> built.txt; sleep 60"
    protocol = box.new({"01-a": command(f"{again}; {begun}")})
    killed = box.start("run", protocol)
    while not gate.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    killed.kill()
    killed.communicate(timeout=100)
    said = box.runner("run", protocol, rc=0).err
    assert "ended " in said and "had left when it was killed" in said, said
    assert box.git("show", f"{protocol}:built.txt") == "again\n"
    assert "had left" not in box.runner("undo", protocol, rc=0).err


def test_after_a_kill_what_needs_no_workspace_needs_none(box: Box) -> None:
    protocol = box.new({"01-a": "kind: human\n"})
    box.write(".protocols/config.yaml", f"workspace: {{path: {box.path}/.git/inside}}\n")
    box.commit("a workspace that cannot be")
    with box.session() as session:
        lock = session.dirs.lock(protocol)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("a runner that was killed\n")
    assert "inside a git directory" not in box.runner("step", protocol, rc=3).err
    assert box.state(protocol)["steps"]["a"]["status"] == "running"


# --- typed again -------------------------------------------------------------------------------------------------------

LATE = {
    "before the branch moved": ("update-ref -m runner: created --stdin", ":"),
    "after the branch moved": (
        "update-ref -m runner: created --stdin",
        "sed -u '/^commit/q' | real \"$@\" > /dev/null",
    ),
    "before the worktree was there": ("worktree add", ":"),
    "after the worktree was registered": ("worktree add", 'real "$@"'),
    "before its files": ("read-tree -m -u HEAD", ":"),
    "amid its files": (
        "read-tree -m -u HEAD",
        'real "$@"; rm "$(git rev-parse --show-toplevel)"/README.md; kill -9 $PPID',
    ),
}
QUICK_LATE = ("after the branch moved", "amid its files")


def killed(box: Box, *args: str) -> None:
    """Run the command line in a process of its own, whose git kills it too."""
    done = subprocess.run(
        [sys.executable, "-m", "runner", *args],
        cwd=box.path,
        env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done


@pytest.mark.parametrize(
    "when", [pytest.param(one, marks=() if one in QUICK_LATE else pytest.mark.slow) for one in LATE]
)
@pytest.mark.parametrize("verb", ["new", pytest.param("fork", marks=pytest.mark.slow)])
def test_what_was_killed_and_is_typed_again_is_finished_and_not_made_twice(
    box: Box, dying: DyingGit, verb: str, when: str
) -> None:
    there = {box.new({"01-a": command("echo a > a.txt")})} if verb == "fork" else set()
    args = ["fork", "1"] if verb == "fork" else ["new", "Another", "--plan", str(box.plan({"01-a": command("true")}))]
    words, instead = LATE[when]
    dying.dies(words, f"{instead}; kill -9 $PPID")
    killed(box, *args)
    assert dying.is_dead()
    told = box.runner(*args, rc=0).out.strip()
    protocols = {row["protocol"] for row in box.runner("list", "--json", rc=0).json()["protocols"]}
    assert protocols - there == {told}
    assert box.git("status", "--porcelain", cwd=box.worktree(told)) == ""
    box.runner("doctor", rc=0)
    again = box.runner(*args, rc=0).out.strip()  # it was finished and told: this is another one
    assert again != told


def test_two_at_once_with_the_same_words_make_two(box: Box) -> None:
    plan = box.plan({"01-a": command("true")})
    started = [box.start("new", "Same", "--plan", plan) for _ in range(2)]
    told = {child.communicate(timeout=60)[0].strip() for child in started}
    assert [child.returncode for child in started] == [0, 0] and len(told) == 2


def test_what_somebody_went_on_with_is_not_taken_for_unfinished(box: Box, dying: DyingGit) -> None:
    args = ("new", "Another", "--plan", str(box.plan({"01-a": command("true")})))
    dying.dies("worktree add", "kill -9 $PPID")
    killed(box, *args)
    assert dying.is_dead()
    box.runner("run", "1", rc=0)
    assert box.runner(*args, rc=0).out.startswith("0002-")


@pytest.mark.parametrize(
    ("words", "instead"),
    [("read-tree -m -u", NOT_YET), ("update-ref -m runner: transition --stdin", 'real "$@"')],
)
def test_a_cancel_that_was_killed_and_is_typed_again_leaves_nothing_behind(
    box: Box, dying: DyingGit, words: str, instead: str
) -> None:
    protocol = box.new({"01-a": command("true")})
    box.git("update-index", "--index-version", "4", cwd=box.worktree(protocol))  # which git has to write
    dying.dies(words, f"{instead}; kill -9 $PPID")
    killed(box, "cancel", protocol)
    assert dying.is_dead()
    box.runner("cancel", protocol, rc=0)
    assert box.state(protocol)["status"] == "cancelled"
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""
    box.runner("doctor", rc=0)


@pytest.mark.parametrize(
    "when", [pytest.param(one, marks=() if one in QUICK_LATE else pytest.mark.slow) for one in list(LATE)[2:]]
)
def test_doctor_calls_an_unfinished_worktree_that_and_finishes_it(box: Box, dying: DyingGit, when: str) -> None:
    words, instead = LATE[when]
    dying.dies(words, f"{instead}; kill -9 $PPID")
    killed(box, "new", "Another", "--plan", str(box.plan({"01-a": command("true")})))
    assert dying.is_dead()
    told = box.runner("doctor", rc=2).out
    assert "by hand" not in told and ("was not finished" in told or "the update of a worktree" in told)
    box.runner("doctor", "--fix", rc=0)
    box.runner("doctor", rc=0)
    assert box.git("status", "--porcelain", cwd=box.worktree("0001-another")) == ""


def test_what_was_published_before_the_kill_is_finished_too(remote: Box, tmp_path: Path) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    dying, args = (
        DyingGit(remote, tmp_path / "bin"),
        ("new", "Another", "--plan", str(remote.plan({"01-a": command("true")}))),
    )
    dying.dies("push --porcelain", 'real "$@" > /dev/null; kill -9 $PPID')
    killed(remote, *args)
    assert dying.is_dead()
    assert remote.runner(*args, rc=0).out.strip() == "0001-another"
    there = remote.git("for-each-ref", "--format=%(refname)", "refs/heads", cwd=tmp_path / "origin.git").split()
    assert there == ["refs/heads/0001-another", "refs/heads/main"]


# --- another number ----------------------------------------------------------------------------------------------------

OLD, NEW = "0001-a-plan", "0002-a-plan"
RENUMBERED = {
    "before the push": ("push --porcelain", ":"),
    "after the push": ("push --porcelain", 'real "$@" > /dev/null'),
    "before the refs moved": ("update-ref -m runner: created --stdin", ":"),
    "after the refs moved": ("update-ref -m runner: created --stdin", "sed -u '/^commit/q' | real \"$@\" > /dev/null"),
    "before the new worktree": ("worktree add", ":"),
    "amid the new worktree": ("read-tree -m -u HEAD", 'real "$@"; rm "$(git rev-parse --show-toplevel)"/README.md'),
    "before the old worktree was detached": ("update-ref --no-deref HEAD", ":"),
    "before the old worktree went": ("worktree remove", ":"),
    "amid the old worktree": ("worktree remove", 'for last; do :; done; rm "$last"/README.md'),
    "amid the old worktree, which git knows no more": ("worktree remove", 'for last; do :; done; rm "$last"/.git'),
    "after the old worktree": ("worktree remove", 'real "$@"'),
    "before the push was noted": ("update-ref --stdin", ":"),
}
QUICK = ("after the push", "amid the old worktree")


@pytest.fixture
def clash(remote: Box, tmp_path: Path) -> Iterator[tuple[Box, DyingGit]]:
    """A clone with half a protocol, whose id another one has on the remote; publishing is on now."""
    bob = clone(remote, "bob")
    bob.new({"01-a": command("echo b > b.txt"), "02-b": command("true")})
    bob.runner("step", OLD, rc=0)
    remote.new({"01-alice": command("echo alice > alice.txt")})
    remote.runner("sync", OLD, rc=0)
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    bob.git("fetch", "-q", "origin")
    yield bob, DyingGit(bob, tmp_path / "bin")


def numbered(box: Box) -> list[str]:
    """The protocols that the remote has."""
    return box.git("ls-remote", "-q", "--heads", "origin", "0*").split()[1::2]


def of_the_old_id(box: Box) -> list[str]:
    """What lies on this machine by the old id."""
    folders = (box.path / ".git/runner/journal", box.home / ".local/state/protocol-runner")
    found = [str(path) for folder in folders for path in folder.rglob(f"{OLD}*") if "mirror" not in str(path)]
    return found + [str(tree) for tree in (box.path.parent / f"{box.path.name}.worktrees").glob(f"{OLD}*")]


def made_way(bob: Box) -> None:
    """Both protocols are sound, and the other one can be run here."""
    assert numbered(bob) == [f"refs/heads/{OLD}", f"refs/heads/{NEW}"]
    assert bob.git("status", "--porcelain", cwd=bob.worktree(NEW)) == ""
    bob.runner("doctor", rc=0)
    bob.runner("run", NEW, rc=0)
    bob.runner("run", OLD, rc=0)
    assert bob.git("ls-tree", "--name-only", OLD, "alice.txt", "b.txt").split() == ["alice.txt"]
    bob.runner("verify", OLD, NEW, rc=0)
    assert left_over(bob) == []


@pytest.mark.parametrize(
    "when", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in RENUMBERED]
)
def test_a_renumbering_that_was_killed_and_is_typed_again_is_finished(clash: tuple[Box, DyingGit], when: str) -> None:
    bob, dying = clash
    words, instead = RENUMBERED[when]
    dying.dies(words, f"{instead}; kill -9 $PPID")
    killed(bob, "fork", "--renumber", OLD)
    assert dying.is_dead()
    assert bob.runner("fork", "--renumber", OLD, rc=0).out.strip() == NEW
    assert of_the_old_id(bob) == []
    made_way(bob)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "now"), [("run", "completed"), ("cancel", "cancelled")])
def test_what_had_ended_ends_after_a_kill_too(remote: Box, tmp_path: Path, stop: str, now: str) -> None:
    bob = clone(remote, "bob")
    bob.new({"01-a": command("true")})
    bob.runner(stop, OLD, rc=0)
    remote.new({"01-alice": command("true")})
    remote.runner("sync", OLD, rc=0)
    bob.git("fetch", "-q", "origin")
    dying = DyingGit(bob, tmp_path / "bin")
    dying.dies("worktree remove", "kill -9 $PPID")
    killed(bob, "fork", "--renumber", OLD)
    assert dying.is_dead()
    assert bob.runner("fork", "--renumber", OLD, rc=0).out.strip() == NEW
    assert bob.state(NEW)["status"] == now
    bob.runner("fork", "--renumber", OLD, rc=4)
    bob.runner("verify", NEW, rc=0)


@pytest.mark.parametrize("how", ["sync", pytest.param("doctor", marks=pytest.mark.slow)])
def test_sync_and_doctor_finish_a_renumbering_too(clash: tuple[Box, DyingGit], how: str) -> None:
    bob, dying = clash
    dying.dies("push --porcelain", 'real "$@" > /dev/null; kill -9 $PPID')
    killed(bob, "fork", "--renumber", OLD)
    assert dying.is_dead()
    if how == "sync":
        assert f"{OLD} is {NEW} now" in bob.runner("sync", rc=0).err
    else:
        assert f"a command was killed while it gave {OLD} another number" in bob.runner("doctor").out
        assert f"{OLD} is {NEW} now" in bob.runner("doctor", "--fix", rc=0).err
    assert bob.runner("fork", "--renumber", OLD, rc=0).out.strip() == NEW
    made_way(bob)


def test_a_renumbering_that_sync_finished_keeps_nobody_out_of_the_other_protocol(clash: tuple[Box, DyingGit]) -> None:
    bob, dying = clash
    dying.dies("push --porcelain", 'real "$@" > /dev/null; kill -9 $PPID')
    killed(bob, "fork", "--renumber", OLD)
    bob.runner("sync", rc=0)
    with bob.session() as session, locks.hold(session.dirs.lock(OLD), session.env, what="a runner at work"):
        bob.runner("pause", OLD, rc=0)


@pytest.mark.parametrize("verb", ["run", pytest.param("cancel", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "when", [pytest.param(one, marks=() if one == "after the refs moved" else pytest.mark.slow) for one in RENUMBERED]
)
def test_who_works_next_on_the_old_id_finishes_a_renumbering_and_runs_nothing_else(
    clash: tuple[Box, DyingGit], when: str, verb: str
) -> None:
    bob, dying = clash
    words, instead = RENUMBERED[when]
    dying.dies(words, f"{instead}; kill -9 $PPID")
    killed(bob, "fork", "--renumber", OLD)
    assert dying.is_dead()
    assert f"{OLD} is {NEW} now" in bob.runner(verb, OLD, rc=4).err
    assert not bob.git("branch", "--list", OLD) and of_the_old_id(bob) == []
    bob.runner("sync", rc=0)
    assert bob.runner("fork", "--renumber", OLD, rc=0).out.strip() == NEW
    if verb == "run":
        made_way(bob)
