"""A disk that is full, fails, or takes half of what it is given, at one call after another: told, and never taken for success."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import Box, command
from tests.faults.ground import ANSWERS, Ground, Grounds, sweep
from tests.faults.points import ALWAYS_ON_A_BAD_DISK
from tests.faults.test_kill import POINTS, finished
from tests.gate import turn

MANY = max(10, POINTS // 4)  # of each of five sweeps
WRITES = ("openat", "write", "pwrite64", "mkdir", "rename", "link", "ftruncate")
DONE = (0, 1, 2, 3, 69)  # a git that failed at the remote's side of things is a remote that is away


pytestmark = pytest.mark.usefixtures("strikes")


def told(ground: Ground, *how: str) -> bool:
    """Strike, see that it ended in order and claims no more than there is, and go on."""
    done = ground.strike(*how)
    assert done.left == (), done.left
    assert done.code in DONE, f"exit {done.code}: {done.err}"
    assert "Traceback" not in done.err and "This is a bug" not in done.err, done.err
    if done.code in (2, 69):
        assert "error: " in done.err and "next: " in done.err, done.err
    if done.code == 0:  # then all is done, and everywhere
        assert done.asked == ANSWERS
        assert ground.box.git("rev-parse", ground.protocol) == ground.box.git(
            "rev-parse", ground.protocol, cwd=ground.live / "origin.git"
        )
    assert done.code != 1, f"a fault of the machine is no failed step: {done.err}"
    finished(ground)
    return done.struck > 0


def full(ground: Ground, point: str) -> bool:
    """From this call on nothing of this kind goes onto the disk any more."""
    return told(ground, "--error", "ENOSPC", "--on", "--at", point)


def full_once(ground: Ground, point: str) -> bool:
    """There is no room for this one."""
    return told(ground, "--error", "ENOSPC", "--at", point)


def broken(ground: Ground, point: str) -> bool:
    """The disk says that it could not."""
    return told(ground, "--error", "EIO", "--at", point)


def short(ground: Ground, point: str) -> bool:
    """Half of it is written; who wrote it has to write the rest. Nobody else ever learns of it."""
    done = ground.strike("--short", "--at", point)
    assert done.code == 0, f"exit {done.code}: {done.err}"
    finished(ground)
    return done.struck > 0


def not_synced(ground: Ground, point: str) -> bool:
    """The disk did not take what it was given: the process ends, and asks for it no second time."""
    done = ground.strike("--error", "EIO", "--at", point)
    # What the mirror notes of the remote is asked for again, so that nothing is lost with it; the push itself was answered.
    noted = "/mirror/" in done.where and done.code == 0
    # Where the workspace's files could not be added they are added again from the start: into new files, which are synced.
    noted = noted or (done.where.startswith("git fsync ") and "/objects/" in done.where and done.code == 0)
    # Where a branch is on the remote is noted for the person's own git: it is set again by what fetches or pushes it next.
    noted = noted or (done.where.startswith("git fsync ") and "/refs/remotes/" in done.where and done.code == 0)
    # The note of the trusted branch is made again by the next command where it was not kept.
    noted = noted or (
        re.search(r"^runner fsync \S+/protocol-runner/repo-[0-9a-f]+(/\.trusted\.json\.[0-9a-f]+)?$", done.where)
        is not None
        and done.code == 0
    )
    assert noted or done.code in (2, 69), f"exit {done.code}: {done.err}"
    assert noted or ("Traceback" not in done.err and "error: " in done.err), done.err
    finished(ground)
    return done.struck > 0


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", [full, full_once, broken], ids=lambda fault: str(fault.__name__))
def test_what_cannot_be_written_is_told_and_the_next_run_recovers(
    grounds: Grounds, fault: Callable[[Ground, str], bool]
) -> None:
    hot = ALWAYS_ON_A_BAD_DISK
    sweep(grounds, fault, MANY, who=("runner", "git"), calls=WRITES, hot=hot, turn=turn(), least=0.85)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_short_write_is_gone_on_with(grounds: Grounds) -> None:
    sweep(grounds, short, MANY, who=("runner", "git"), calls=("write", "send", "pwrite64"), turn=turn(), least=0.8)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_after_an_fsync_that_failed_the_process_stops(grounds: Grounds) -> None:
    sweep(grounds, not_synced, MANY, who=("runner", "git"), calls=("fsync", "fdatasync"), turn=turn(), least=0.85)


# --- a file system that is really full -----------------------------------------------------------------------------------

FULL = """
import os, subprocess, sys
size, folder, *argv = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
kept = folder + "-kept"
os.rename(folder, kept)
os.mkdir(folder)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
subprocess.run(["cp", "-a", kept + "/.", folder], check=True)
used = sum(s.f_frsize * (s.f_blocks - s.f_bfree) for s in [os.statvfs(folder)])
subprocess.run(["mount", "-o", f"remount,size={used + int(size)}", folder], check=True)
code = subprocess.run(argv, cwd=folder + "/repo").returncode
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
subprocess.run(["rm", "-rf", kept], check=True)
subprocess.run(["cp", "-a", folder, kept], check=True)
subprocess.run(["umount", folder], check=True)
os.rmdir(folder)
os.rename(kept, folder)
sys.exit(code)
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_file_system_that_is_full_is_told_and_once_there_is_room_the_run_goes_on(grounds: Grounds) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("allowed: only root may mount a file system")
    tried = 0
    for kib in (0, 8, 24, 48, 96, 160, 256):
        ground = grounds.get()
        argv = ["unshare", "-m", sys.executable, "-c", FULL, str(kib * 1024), str(ground.live), *ground.argv()]
        done = subprocess.run(argv, env=ground.environment(ground.box), capture_output=True, text=True, timeout=300)
        assert done.returncode in DONE and "Traceback" not in done.stderr, f"{kib} KiB: {done.stderr}"
        assert done.returncode != 1, f"{kib} KiB: {done.stderr}"
        tried += done.returncode != 0
        finished(ground)
    print(f"{tried} sizes were too small")
    assert tried >= 4


@pytest.mark.faults
def test_a_step_that_fills_the_disk_fails_with_what_its_command_said(box: Box) -> None:
    protocol = box.new({"01-a": command("ulimit -f 1; yes > big.txt")})
    done = box.runner("run", protocol)
    assert done.code == 1 and "Traceback" not in done.err
    box.runner("verify", protocol, rc=0)
