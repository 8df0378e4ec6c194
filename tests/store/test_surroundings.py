"""Where the machine is not as one would wish: the runner works, or says what is missing and leaves everything as it was."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import click
import pytest

from runner.store import locks
from runner.store.environment import writable_state_home
from tests.conftest import Box, command, mostly_slow, slack

HERE = Path(__file__).parents[2]
STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")}
NOBODY = dict.fromkeys(
    ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"), ""
)


def wait_until(true: Callable[[], object], seconds: float = 100.0) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def clear(result_code: int, text: str) -> None:
    """An error that a person can do something with."""
    assert result_code in (2, 4, 75), text
    assert text.count("\n  at:   ") == 1 and text.count("\n  next: ") == 1 and "Traceback" not in text, text


# --- git and the repository --------------------------------------------------------------------------------------------


def test_no_git(box: Box, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    result = box.runner("status", env={"PATH": str(tmp_path / "bin")})
    clear(result.code, result.err)
    assert "no git" in result.err and "2.38" in result.err


@pytest.mark.parametrize("version", ["git version 2.20.1", "git version 2.37.9.windows.1", "nonsense"])
def test_too_old_a_git(box: Box, tmp_path: Path, version: str) -> None:
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho '{version}'\n")
    fake.chmod(0o755)
    result = box.runner("status", env={"PATH": f"{fake.parent}:{os.environ['PATH']}"})
    clear(result.code, result.err)
    assert "too old" in result.err and version in result.err


def test_no_repository(box: Box, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (["status"], ["step"], ["new", "x", "--plan", str(box.plan(STEPS))], ["verify"]):
        result = box.runner(*words, cwd=tmp_path / "empty")
        clear(result.code, result.err)
        assert "not a git repository" in result.err and "git init" in result.err


def test_no_commits_yet(box: Box, tmp_path: Path) -> None:
    box.git("init", "-q", tmp_path / "fresh")
    result = box.runner("new", "x", "--plan", box.plan(STEPS), cwd=tmp_path / "fresh", rc=2)
    clear(result.code, result.err)
    assert "no commits yet" in result.err
    assert box.git("for-each-ref", cwd=tmp_path / "fresh") == ""


def test_missing_identity(box: Box) -> None:
    (box.home / ".gitconfig").write_text("")
    before = box.git("for-each-ref")
    result = box.runner("new", "x", "--plan", box.plan(STEPS), env=NOBODY, rc=2)
    clear(result.code, result.err)
    assert "who you are" in result.err and "git config --global user.name" in result.err
    assert box.git("for-each-ref") == before


def test_work_and_reading_need_no_identity(box: Box) -> None:
    protocol = box.new(STEPS)
    (box.home / ".gitconfig").write_text("")
    for words in (["step", protocol], ["run", protocol], ["show", protocol], ["verify", protocol]):
        box.runner(*words, env=NOBODY, rc=0)


def test_branch_checked_out_in_the_main_checkout(box: Box) -> None:
    protocol = box.new(STEPS)
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("checkout", "-q", protocol)
    box.write("mine.txt", "untracked\n")
    box.runner("run", protocol, rc=0)
    assert (box.path / "b.txt").read_text() == "b\n" and (box.path / "mine.txt").read_text() == "untracked\n"
    assert box.git("status", "--porcelain") == "?? mine.txt\n"


def test_branch_checked_out_twice(box: Box, tmp_path: Path) -> None:
    protocol = box.new(STEPS)
    first = box.worktree(protocol)
    box.git("worktree", "add", "-q", "--force", tmp_path / "second", protocol)
    box.runner("run", protocol, rc=0)
    for path in (first, tmp_path / "second"):
        assert (path / "b.txt").exists() and box.git("status", "--porcelain", cwd=path) == ""


def test_one_of_two_worktrees_has_something_in_the_way(box: Box, tmp_path: Path) -> None:
    protocol = box.new(STEPS)
    first = box.worktree(protocol)
    box.git("worktree", "add", "-q", "--force", tmp_path / "second", protocol)
    (tmp_path / "second/a.txt").write_text("mine\n")
    tip = box.git("rev-parse", protocol)
    result = box.runner("step", protocol, rc=4)
    assert "a.txt" in result.err and str(tmp_path / "second") in result.err
    assert box.git("rev-parse", protocol) == tip
    assert not (first / "a.txt").exists()
    assert not list(box.path.rglob("index.lock")) and not list((box.path / ".git/runner/follows").glob("*"))


@pytest.mark.parametrize("prune", [True, False])
def test_worktree_folder_deleted_by_hand(box: Box, prune: bool) -> None:
    protocol = box.new(STEPS)
    shutil.rmtree(box.worktree(protocol))
    if prune:
        box.git("worktree", "prune")
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert box.runner("show", protocol, "--json", rc=0).json()["path"] is None


def test_workspace_deleted_or_spoilt_between_the_steps(box: Box) -> None:
    protocol = box.new({f"0{n}-s{n}": command(f"echo {n} > f{n}") for n in range(1, 6)})
    root = box.home / ".local/state/protocol-runner"

    def replace_by_a_file(space: Path) -> None:
        shutil.rmtree(space / "work")
        (space / "work").write_text("a file")

    spoil: list[Callable[[Path], object]] = [
        shutil.rmtree,
        lambda space: shutil.rmtree(space / "work"),
        lambda space: (space / "index").write_bytes(b""),
        replace_by_a_file,
    ]
    box.runner("step", protocol, rc=0)
    for harm in spoil:
        harm(next(root.glob(f"*/{protocol}")))
        box.runner("step", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    assert box.git("show", "--stat", "--format=", f"{protocol}~1", "--", "f1") == ""


# --- places that cannot be written -------------------------------------------------------------------------------------


def _for_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def as_nobody(box: Box, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as another user than root, who owns nothing here."""
    if os.getuid() != 0:
        pytest.skip("allowed: only root can become somebody else")
    # An interpreter that others may run: ours, or the system's of the same version with our packages.
    packages = Path(click.__file__).resolve().parents[1]
    named = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    python = next(
        (one for one in (sys.executable, named) if Path(one).exists() and _for_all(Path(one).resolve())), None
    )
    if python is None or not _for_all(HERE) or not _for_all(packages):
        pytest.skip("allowed: the sources or Python stand where no other user can read them")
    more = {"PYTHONPATH": f"{HERE}:{packages}", "PYTHONDONTWRITEBYTECODE": "1", **env}
    return subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-m", "runner", *words],
        cwd=box.path,
        env=box.environment(more),
        capture_output=True,
        text=True,
    )


@pytest.fixture
def open_box(box: Box, tmp_path: Path) -> Box:
    """A repository that everybody can read and only its owner can write."""
    for folder in (tmp_path, *tmp_path.parents):  # left so: another worker may be using them
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    (box.home / ".gitconfig").write_text(
        '[user]\n name = N\n email = n@example.test\n[safe]\n directory = *\n[protocol "file"]\n allow = always\n'
    )
    box.home.chmod(0o755)
    return box


def test_repository_that_cannot_be_written(open_box: Box, tmp_path: Path) -> None:
    protocol = open_box.new(STEPS)
    refs = open_box.git("for-each-ref")
    # Where nobody's state lies: the machine's own temporary folder may remember an earlier run's repository.
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    for words in (["status"], ["show", protocol], ["verify", protocol]):
        done = as_nobody(open_box, *words, TMPDIR=str(temporary))
        assert done.returncode == 0, done.stdout + done.stderr
    done = as_nobody(open_box, "step", protocol, TMPDIR=str(temporary))
    clear(done.returncode, done.stderr)
    assert "cannot be written" in done.stderr
    assert open_box.git("for-each-ref") == refs


def test_home_that_cannot_be_written(open_box: Box, tmp_path: Path) -> None:
    """Its place is the temporary folder then, where it is this user's alone."""
    subprocess.run(["chmod", "-R", "a+rwX", open_box.path], check=True)
    open_box.path.parent.chmod(0o777)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    made = as_nobody(open_box, "new", "x", "--plan", str(open_box.plan(STEPS)), TMPDIR=str(temporary))
    assert made.returncode == 0, made.stderr
    done = as_nobody(open_box, "run", made.stdout.strip(), TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    folder = temporary / "protocol-runner-65534"
    assert folder.stat().st_uid == 65534 and not folder.stat().st_mode & 0o077


@pytest.mark.slow
def test_what_a_step_locked_is_opened_again(open_box: Box) -> None:
    """As another user than root, whom modes do hold back."""
    subprocess.run(["chown", "-R", "65534:65534", open_box.path.parent], check=True)
    lock = "mkdir -p deep/er; echo x > deep/er/f; echo y > g; chmod 0 g deep/er deep src"
    leave = "mkdir junk; echo j > junk/j; chmod 0 junk README.md"
    plan = {
        "01-a": command(lock),
        "02-b": command(
            f'cat deep/er/f g src/app.py; test "$RUNNER_ATTEMPT" = 2 || {{ {leave}; kill -9 $PPID; sleep 9; }}'
        ),
        "03-c": command(
            "chmod 0 .git; chmod 0 .; true", 'qa: {policy: light, checks: ["mkdir x; chmod 0 x", "true"]}\n'
        ),
        "04-d": command("echo end > end", 'qa: {policy: light, checks: ["test ! -e x"]}\n'),
    }
    made = as_nobody(open_box, "new", "x", "--plan", str(open_box.plan(plan)))
    assert made.returncode == 0, made.stderr
    protocol = made.stdout.strip()
    done = as_nobody(open_box, "step", protocol)
    assert done.returncode == 0, done.stderr
    open_box.git("config", "--global", "safe.directory", "*")
    names = open_box.git("ls-tree", "-r", "--name-only", protocol).split()
    assert {"deep/er/f", "g", "src/app.py"} <= set(names)
    as_nobody(open_box, "step", protocol)  # its runner is killed: nothing is recorded, and what it left is locked
    assert "step-failed" not in open_box.log(protocol)
    text = open_box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md").replace(
        'test \\"$RUNNER_ATTEMPT\\" = 2', "true"
    )
    path = open_box.worktree(protocol) / f".protocols/{protocol}/02-b.md"
    path.write_text(text)
    done = as_nobody(open_box, "run", protocol)
    assert done.returncode == 0, done.stderr
    names = open_box.git("ls-tree", "-r", "--name-only", protocol).split()
    assert "junk/j" not in names and {"README.md", "end"} <= set(names)


def test_state_folder_that_is_somebody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    from runner.errors import UsageError

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"protocol-runner-{os.getuid()}"
    unwritable = Path("/nonexistent/.local/state/protocol-runner")
    assert writable_state_home(unwritable) == folder and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="not yours alone"):
        writable_state_home(unwritable)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"not yours alone|cannot be written"):
        writable_state_home(unwritable)


@pytest.mark.parametrize("home", ["missing", "unset", "empty", "a file"])
@pytest.mark.slow
def test_home_that_is_not_there(box: Box, tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("")
    env = box.environment({"TMPDIR": str(tmp_path), "PYTHONPATH": str(HERE)})
    if home == "unset":
        del env["HOME"]
    else:
        env["HOME"] = {"missing": str(tmp_path / "none/such"), "empty": "", "a file": str(tmp_path / "file")}[home]
    plan = str(box.plan(STEPS))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runner", *words], cwd=box.path, env=env, capture_output=True, text=True
        )

    made = run("new", "A plan", "--plan", plan)
    assert made.returncode == 0, made.stderr
    done = run("run", made.stdout.strip())
    assert done.returncode == 0, done.stderr
    assert not Path("/nonexistent/.local").exists()


def test_temporary_folder_that_cannot_be_written(box: Box, tmp_path: Path) -> None:
    protocol = box.runner("new", "A plan", "--plan", box.plan(STEPS), env={"TMPDIR": "/nonexistent"}, rc=0).out.strip()
    box.runner("run", protocol, env={"TMPDIR": "/nonexistent"}, rc=0)


@pytest.mark.parametrize("lang", [{"LANG": "C"}, {"LANG": "C", "LC_ALL": "POSIX"}])
@pytest.mark.slow
def test_plain_locale(box: Box, lang: dict[str, str]) -> None:
    made = box.start("new", "Grüße — ≤ 100", "--plan", box.plan({"01-a": command("echo ü > 'ünï.txt'")}), env=lang)
    out, err = made.communicate(timeout=100)
    assert made.returncode == 0, err
    for words in (["run"], ["show"], ["verify"]):
        done = box.start(*words, out.strip(), env=lang)
        _, err = done.communicate(timeout=100)
        assert done.returncode == 0, err
    assert "ünï.txt" in box.git("-c", "core.quotePath=false", "ls-tree", "--name-only", out.strip())


def test_folder_that_is_gone(box: Box, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" -P -m runner status'],
        env=box.environment({"PYTHONPATH": str(HERE)}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "folder" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk]).returncode:
        pytest.skip("allowed: a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path, leave: int) -> None:
    """Fill a disk but for `leave` bytes."""
    free = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(b"\0" * max(0, free.f_bavail * free.f_frsize - leave))


@pytest.mark.parametrize("leave", mostly_slow([8192, 0, 40960, 131072], 1))
def test_full_disk_under_the_repository(small_disk: Path, box: Box, leave: int) -> None:
    """Nothing is published that is not whole, and when there is room again, the same command goes on."""
    box.git("clone", "-q", "--no-hardlinks", box.path, small_disk / "repo", cwd=small_disk)
    small = Box(small_disk / "repo", box.home, box.env)
    small.git("remote", "remove", "origin")
    protocol = small.runner("new", "A plan", "--plan", box.plan(STEPS), rc=0).out.strip()
    tip = small.git("rev-parse", protocol)
    fill(small_disk, leave)
    result = small.runner("step", protocol)
    assert result.code in (0, 2) and "Traceback" not in result.err, result.err
    if result.code:
        assert "room on the disk" in result.err, result.err
        assert small.git("rev-parse", protocol) == tip
    (small_disk / "filler").unlink()
    small.runner("run", protocol, rc=0)
    small.runner("verify", protocol, rc=0)
    assert small.git("fsck", "--no-dangling") == ""
    assert small.git("status", "--porcelain", cwd=small.worktree(protocol)) == ""


@pytest.mark.parametrize("leave", [0, 16384])
def test_full_disk_under_the_workspace(small_disk: Path, box: Box, leave: int) -> None:
    env = {"XDG_STATE_HOME": str(small_disk / "state")}
    protocol = box.runner("new", "A plan", "--plan", box.plan(STEPS), env=env, rc=0).out.strip()
    fill(small_disk, leave)
    result = box.runner("step", protocol, env=env)
    assert result.code in (0, 1, 2) and "Traceback" not in result.err, result.err
    (small_disk / "filler").unlink()
    if box.state(protocol)["status"] == "failed":
        assert "No space left" in box.log(protocol)
        return
    box.runner("run", protocol, env=env, rc=0)
    box.runner("verify", protocol, env=env, rc=0)


# --- locks -------------------------------------------------------------------------------------------------------------


def test_locks_that_a_dead_git_left(box: Box) -> None:
    protocol = box.new(STEPS)
    git_dir = Path(box.git("rev-parse", "--absolute-git-dir", cwd=box.worktree(protocol)).strip())
    box.runner("step", protocol, rc=0)
    space = next((box.home / ".local/state/protocol-runner").glob(f"*/{protocol}"))
    dead = [
        box.path / f".git/refs/heads/{protocol}.lock",
        box.path / ".git/packed-refs.lock",
        box.path / ".git/HEAD.lock",
        git_dir / "index.lock",
        git_dir / "runner-index",
        git_dir / "runner-index.lock",
        space / "index.lock",
    ]
    for lock in dead:
        lock.write_text("")
    result = box.runner("step", protocol, rc=0)
    assert not [lock for lock in dead if lock.exists()]
    for lock in dead:
        if not lock.name.startswith("runner-index"):
            assert str(lock) in result.err
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""


def holder(lock: Path, cwd: Path, *, keep_open: bool) -> subprocess.Popen[str]:
    """Start a living process that owns a lock: with the file open, or as git does beside an editor, closed."""
    if keep_open:
        lines = f"import time; f = open({str(lock)!r}, 'w'); time.sleep(60)"
        argv = [sys.executable, "-c", lines]
    else:  # its name is git's
        program = cwd.parent / "git"
        shutil.copy2(shutil.which("sleep") or "/bin/sleep", program)
        lock.write_text("")
        argv = [str(program), "60"]
    return subprocess.Popen(argv, cwd=cwd, text=True)


@pytest.mark.parametrize(
    ("keep_open", "main"),
    [
        (True, True),
        (False, False),
        (True, False),
        (False, True),
    ],
)
@pytest.mark.slow
def test_index_lock_of_a_living_git(box: Box, keep_open: bool, main: bool) -> None:
    protocol = box.new(STEPS)
    tree = box.worktree(protocol)
    if main:
        box.git("worktree", "remove", "--force", tree)
        box.git("checkout", "-q", protocol)
        tree = box.path
    lock = Path(box.git("rev-parse", "--absolute-git-dir", cwd=tree).strip()) / "index.lock"
    alive = holder(lock, tree, keep_open=keep_open)
    try:
        wait_until(lock.exists)
        tip, began = box.git("rev-parse", protocol), time.monotonic()
        result = box.runner("step", protocol, rc=4)
        assert 4.5 < time.monotonic() - began < 20 * slack()
        assert "another git process is running" in result.err and str(lock) in result.err
        assert box.git("rev-parse", protocol) == tip and lock.exists()
        assert box.git("for-each-ref", f"refs/runner/attempts/{protocol}") != "", "the work is kept"
    finally:
        alive.kill()
        alive.wait()
    box.runner("run", protocol, rc=0)
    assert box.git("status", "--porcelain", cwd=tree).replace("?? git\n", "") == ""


def test_packed_refs_lock_of_a_living_gc(box: Box) -> None:
    """`git gc` closes this lock while it owns it."""
    protocol = box.new(STEPS)
    lock = box.path / ".git/packed-refs.lock"
    alive = holder(lock, box.path, keep_open=False)
    try:
        time.sleep(0.1)
        assert not locks.is_dead(lock, time.time())
        box.runner("step", protocol)
        assert lock.exists()
    finally:
        alive.kill()
        alive.wait()
    assert locks.is_dead(lock, time.time())
    box.runner("run", protocol, rc=0)


@pytest.mark.parametrize(("theirs", "dead"), [(False, True), (True, False)], ids=["ours", "anothers"])
@pytest.mark.skipif(
    os.geteuid() != 0, reason="allowed: only root can be somebody else; whoever is not has the other tests"
)
def test_fresh_lock_that_somebody_looks_at_who_is_not_root(theirs: bool, dead: bool) -> None:
    """Processes of others cannot be looked into: that says nothing of a lock that none of them can have made."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "index.lock"
        lock.write_text("")
        if not theirs:
            os.chown(lock, nobody, nobody)
        os.chmod(folder, 0o755)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(nobody)
            os.setuid(nobody)
            os._exit(int(locks.is_dead(lock, time.time())))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == dead


@pytest.mark.slow
def test_lock_that_is_open_outside_of_our_container_is_not_dead(tmp_path: Path) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("allowed: no processes can be set apart here")
    lines = "import pathlib, sys; from runner.store import locks; print(locks.is_dead(pathlib.Path(sys.argv[1]), 0))"
    lock = tmp_path / "index.lock"

    def is_dead() -> str:
        argv = [*apart, sys.executable, "-c", lines, str(lock)]
        env = {**os.environ, "PYTHONPATH": str(HERE)}
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.strip()

    with lock.open("w"):
        assert is_dead() == "False"
    assert is_dead() == "True"


def test_lock_of_our_own_is_not_dead(box: Box) -> None:
    from runner.git import Git
    from runner.store import worktree

    with Git.open(box.path) as git, worktree.locked(git.worktrees()[0], box.session().env) as copy:
        lines = (
            "import pathlib, sys; from runner.store import locks; print(locks.is_dead(pathlib.Path(sys.argv[1]), 2e9))"
        )
        other = subprocess.run(
            [sys.executable, "-c", lines, copy.parent / "index.lock"],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
        )
        assert other.stdout.strip() == "False", other.stderr
    assert not (box.path / ".git/index.lock").exists() and not (box.path / ".git/runner-index").exists()


# --- two at once, and the end of a process -----------------------------------------------------------------------------


def test_a_lock_that_is_given_up_in_an_error_is_not_one_that_was_cut(box: Box, tmp_path: Path) -> None:
    lock, env = tmp_path / "lock", box.session().env
    with pytest.raises(KeyError), locks.hold(lock, env, what="it"):
        raise KeyError
    with locks.hold(lock, env, what="it") as was_cut:
        assert not was_cut


def test_who_asks_for_a_moment_who_holds_a_lock_refuses_it_to_nobody(box: Box, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    asking = lock.open()
    fcntl.flock(asking, fcntl.LOCK_SH)
    who = (box.session().env)._replace(sleep=lambda seconds: fcntl.flock(asking, fcntl.LOCK_UN))
    with locks.hold(lock, who, what="it"):
        assert locks.is_held(lock)


def test_two_processes_on_one_protocol(box: Box, tmp_path: Path) -> None:
    protocol = box.new(
        {"01-a": command(f"touch {tmp_path}/began; while test ! -e {tmp_path}/go; do sleep 0.05; done; echo a > a.txt")}
    )
    first = box.start("step", protocol)
    wait_until((tmp_path / "began").exists)
    began = time.monotonic()
    second = box.runner("step", protocol, rc=75)
    assert f"process {first.pid}" in second.err and protocol in second.err and time.monotonic() - began < 3 * slack()
    other = box.new({"01-a": command("echo o > o.txt")}, title="Other")
    box.runner("run", other, rc=0)
    box.runner("status", rc=0)
    (tmp_path / "go").touch()
    _, err = first.communicate(timeout=100)
    assert first.returncode == 0, err
    assert box.count(protocol) == box.count("main") + 2
    assert box.runner("verify", protocol, rc=0)


def children_of(folder: Path) -> list[str]:
    """The processes that stand in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(folder) and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("number", "deaf"),
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, True),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
    ],
)
def test_signals_during_a_step(box: Box, tmp_path: Path, number: signal.Signals, deaf: bool) -> None:
    deafness = "trap '' INT TERM; " if deaf else ""
    line = f"{deafness}echo left > left.txt; (sleep 300 & sleep 301 & touch {tmp_path}/began; wait); sleep 302"
    protocol = box.new({"01-a": command(f"test -e {tmp_path}/began && echo a > a.txt || {{ {line}; }}")})
    tip = box.git("rev-parse", protocol)
    process = box.start("run", protocol)
    wait_until((tmp_path / "began").exists)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert box.git("rev-parse", protocol) == tip and "Traceback" not in err
    wait_until(lambda: not children_of(box.home))
    box.runner("run", protocol, rc=0)
    assert box.git("ls-tree", "-r", "--name-only", protocol, "--", "left.txt") == ""
    box.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_kill_at_random_moments(box: Box, tmp_path: Path) -> None:
    """Whatever it was doing: the next `run` finishes, the worktree follows, everything verifies."""
    chance = random.Random(7)
    protocol = box.new({f"{n:02d}-s{n}": command(f"echo {n} > f{n}; echo {n} >> README.md") for n in range(1, 9)})
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("mine\n")
    (tree / "src/app.py").write_text("print('mine')\n")
    kills = 0
    while box.state(protocol)["status"] != "completed":
        process = box.start("run", protocol)
        try:
            process.wait(timeout=(0.25 + chance.random() * 0.5) * 1.05**kills)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        assert kills < 60, "it does not come to an end"
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert kills, "nothing was killed, so nothing is shown"
    assert box.git("status", "--porcelain", cwd=tree) == " M src/app.py\n?? mine.txt\n"
    assert (tree / "README.md").read_text() == "# a project\n" + "".join(f"{n}\n" for n in range(1, 9))
    assert box.git("fsck", "--no-dangling") == ""
    events = [line for line in box.log(protocol).splitlines() if line.startswith("  <!-- ")]
    assert len([line for line in events if "step-completed" in line]) == 8, "a step was recorded twice"


def test_killed_while_it_held_the_lock(box: Box, tmp_path: Path) -> None:
    line = f"[ -e {tmp_path}/began ] || {{ touch {tmp_path}/began; sleep 60; }}; echo a > a.txt"
    protocol = box.new({"01-a": command(line)})
    process = box.start("step", protocol)
    wait_until((tmp_path / "began").exists)
    process.kill()
    process.communicate()
    box.runner("step", protocol, rc=0)
    assert json.loads(box.git("show", f"{protocol}:.protocols/{protocol}/state.json"))["status"] == "completed"


def test_a_project_stays_what_it_is_when_the_trusted_branch_moves(box: Box) -> None:
    with box.session() as session:
        before, config = session.project, session.project.config
        session.trust(before.trusted._replace(note="asked again"))
        assert (
            session.project.trusted.note == "asked again" and session.project.config is config
        )  # it is not read again
        session.proposals["0001-a 1"] = 1
        box.write(".protocols/config.yaml", "publish: ask\n")
        box.git("add", "-A")
        box.git("commit", "-qm", "another configuration")
        session.trust(before.trusted._replace(commit=box.git("rev-parse", "HEAD").strip()))
        assert session.project.config.publish == "ask" and session.proposals == {}
        assert before.config is config and config.publish == "never" and before.trusted.note != "asked again"
        with pytest.raises(FrozenInstanceError):
            before.trusted = session.project.trusted  # type: ignore[misc]
