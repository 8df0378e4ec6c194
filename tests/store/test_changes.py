"""What is noticed of a repository: refs in each form, edits that are whole, and that something was lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.store.changes import Changes, Clocks
from tests.conftest import Box

LONG = 60.0  # seconds; nothing here takes as long unless it is broken
ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that can be made to have slept."""

    def __init__(self) -> None:
        self.slept = 0.0

    def clocks(self) -> Clocks:
        """What is handed in."""
        return Clocks(time.monotonic, lambda: time.monotonic() + self.slept)


def at(box: Box) -> Path:
    """The repository's common folder, as git names it."""
    return Path(os.path.realpath(box.path / ".git"))


@pytest.fixture(params=[pytest.param(True, id="events"), pytest.param(False, id="polling", marks=pytest.mark.slow)])
def changes(box: Box, request: pytest.FixtureRequest) -> Iterator[Changes]:
    with Changes(at(box), Clock().clocks(), events=request.param) as found:
        found.arm()
        yield found


def quiet(changes: Changes) -> None:
    """Take up all that is still on its way, and look again, as a watcher does."""
    while changes.wait(0.3) != {"timer"}:
        changes.arm()


@pytest.mark.slow
def test_refs_in_every_form_are_noticed(box: Box, changes: Changes) -> None:
    def noticed(*args: str) -> None:
        quiet(changes)
        box.git(*args)
        assert "changed" in changes.wait(LONG), args
        changes.arm()

    noticed("branch", "one")
    noticed("branch", "folder/two")
    noticed("commit", "-qm", "more", "--allow-empty")
    noticed("pack-refs", "--all")
    noticed("update-ref", "refs/heads/one", "HEAD")
    noticed("branch", "-D", "folder/two")
    noticed("branch", "folder/two")  # git took the folder away, and makes it again
    noticed("update-ref", "refs/remotes/origin/one", "HEAD")
    noticed("worktree", "add", "-q", str(box.path.parent / "tree"), "one")
    noticed("worktree", "remove", str(box.path.parent / "tree"))


def test_a_ref_that_moves_is_noticed_and_objects_are_not(box: Box, changes: Changes) -> None:
    quiet(changes)
    box.git("hash-object", "-w", "README.md")
    (at(box) / "index.lock").touch()
    (at(box) / "refs/heads/main.lock").touch()
    (at(box) / "index.lock").unlink()
    if changes.polls is None:
        assert changes.wait(0.3) == {"timer"}
    box.git("update-ref", "refs/heads/other", "HEAD")
    assert "changed" in changes.wait(LONG)


def test_a_save_is_one_edit_and_an_editors_own_files_are_none(box: Box) -> None:
    folder = box.path / "work"
    folder.mkdir()
    plan = folder / "plan.md"
    plan.write_text("one\n")
    with Changes(at(box), Clock().clocks()) as changes:
        changes.arm({"0001-a": folder})
        for name in (".plan.md.swp", "4913", "plan.md~", ".#plan.md", "#plan.md#"):
            (folder / name).write_text("x")
            (folder / name).unlink()
        assert changes.wait(0.5) == {"timer"}
        assert changes.edited() == set()
        # As vim saves: a try, the old file aside, a new one in its place, the old one away.
        (folder / "4913").touch()
        (folder / "4913").unlink()
        plan.rename(folder / "plan.md~")
        plan.write_text("two\n")
        (folder / "plan.md~").unlink()
        assert changes.wait(LONG) == {"edited"}
        assert changes.edited() == {"0001-a"}
        assert changes.wait(0.5) == {"timer"}


def test_a_machine_that_slept_is_noticed(box: Box) -> None:
    clock = Clock()
    with Changes(at(box), clock.clocks()) as changes:
        changes.arm()
        assert changes.wait(0.1) == {"timer"}
        clock.slept = 3600
        assert changes.wait(LONG) == {"woke"}
        assert changes.wait(0.1) == {"timer"}


def test_a_repository_that_is_deleted_or_replaced_is_gone(box: Box, changes: Changes) -> None:
    assert not changes.is_gone()
    kept = box.path.parent / "kept"
    shutil.copytree(box.path, kept)
    shutil.rmtree(box.path)
    changes.wait(LONG)
    assert changes.is_gone()
    shutil.move(kept, box.path)
    assert changes.is_gone()  # what is watched is the old one
    box.git("status")


STARVED = """
import sys, time
from pathlib import Path
from runner.store.changes import Changes, Clocks
with Changes(Path(sys.argv[1]), Clocks(time.monotonic, time.monotonic)) as changes:
    changes.arm()
    print("ready", changes.polls, flush=True)
    while True:
        why = changes.wait(60)
        print(*sorted(why), flush=True)
        changes.arm()
        if "lost" in why or changes.polls:
            break
"""


def program(box: Box, *before: str) -> subprocess.Popen[str]:
    """Start a watcher of its own process."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", STARVED, str(at(box))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="allowed: inotify is Linux's")
def test_a_queue_that_ran_over_is_noticed(box: Box) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with program(box) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready None\n"
            process.send_signal(signal.SIGSTOP)
            heads = at(box) / "refs/heads"
            for number in range(most // 2 + 1000):  # each comes and goes: two events at least
                (heads / f"x{number}.lock").touch()
                (heads / f"x{number}.lock").unlink()
            process.send_signal(signal.SIGCONT)
            told = list(process.stdout)
        finally:
            process.kill()
    assert "lost" in told[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="allowed: inotify is Linux's")
@pytest.mark.parametrize(
    "limit", ["max_inotify_watches", pytest.param("max_inotify_instances", marks=pytest.mark.slow)]
)
def test_without_events_the_files_times_tell(box: Box, limit: str) -> None:
    starve = ["unshare", "--user", "--map-root-user", "sh", "-c", f'echo 1 > /proc/sys/user/{limit}; exec "$@"', "sh"]
    if limit == "max_inotify_instances":
        starve[-2] = starve[-2].replace("echo 1", "echo 0")
    if subprocess.run([*starve, "true"], capture_output=True).returncode:
        pytest.skip("allowed: no user namespaces here")
    with program(box, *starve) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("ready inotify")
            box.git("update-ref", "refs/heads/other", "HEAD")
            assert process.stdout.readline() == "changed\n"
        finally:
            process.kill()
