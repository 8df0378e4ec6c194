"""Killed at a system call, on a machine that stays and on one that is gone: the next run finishes the work, and nothing is done twice.

`make faults` tries a window of points that moves with the commit, and those that are always tried; `make faults KILLS=320 POINTS=100`
more of them, `make faults AT='git:rename:17'` that point. Each sweep prints how many it tried and fails where too few struck anything.
"""

from __future__ import annotations

import os

import pytest

from tests.faults.ground import ANSWERS, Ground, Grounds, sweep
from tests.faults.points import ALWAYS, ALWAYS_A_PACK
from tests.gate import is_due, turn

INTERRUPTED = 130
KILLS = int(os.environ.get("RUNNER_KILLS", "40"))
POINTS = int(os.environ.get("RUNNER_POINTS", "16"))  # of the sweeps that go through the same calls in another way
TWICE = POINTS * 2 // 5  # each of them is three runs


pytestmark = pytest.mark.usefixtures("strikes")


def finished(ground: Ground) -> None:
    """Run on, and hold what comes of it against a run that nobody disturbed."""
    heard, doubt = ground.heard(), ground.in_doubt()
    ran = ground.finish()
    assert sum(one.asked for one in ran) == ANSWERS - heard, "an answer was asked for twice, or never"
    assert ground.doubts() == doubt, "a doubt that nobody was told of, or one that was none"
    ground.sound()


def killed(ground: Ground, point: str) -> bool:
    """Kill the process that comes to the point; at every third one all of them, as when the machine stops."""
    whole = ["--whole"] if sum(point.encode()) % 3 == 0 else []
    done = ground.strike("--signal", "KILL", "--at", point, *whole)
    assert done.left == (), done.left
    assert ground.heard() <= done.asked <= ground.heard() + 1
    finished(ground)
    return done.struck > 0


def killed_twice(ground: Ground, point: str) -> bool:
    """Kill it at the point, and whoever goes on soon after it began."""
    ground.strike("--signal", "KILL", "--at", point)
    number = sum(point.encode())
    call = ("openat", "rename", "fsync", "unlink", "pwrite64", "execve")[number % 6]
    again = ground.strike(
        "--signal", "KILL", "--at", f"{('runner', 'git')[number % 5 == 0]}:{call}:{1 + number % 13}", "--whole"
    )
    assert again.left == (), again.left
    heard = ground.heard()
    ran = ground.finish()
    assert sum(one.asked for one in ran) == ANSWERS - heard, "an answer was asked for twice, or never"
    ground.sound()
    return again.struck > 0


def terminated(ground: Ground, point: str) -> bool:
    """Ask the runner to end, as `kill` and Ctrl-C do."""
    name = "TERM" if sum(point.encode()) % 2 else "INT"
    done = ground.strike("--signal", name, "--root", "--at", point)
    assert done.left == (), done.left
    # Before it has said what it does with a signal, the system's own way holds: there is nothing yet to say.
    early = done.code < 0 and not done.asked and not ground.heard()
    assert early or done.code in (0, INTERRUPTED), f"exit {done.code}: {done.err}"
    assert early or done.code == 0 or "interrupted; nothing is lost" in done.err
    finished(ground)
    return done.struck > 0 and done.code == INTERRUPTED


def gone(ground: Ground, point: str) -> bool:
    """The machine stops, and its folder is thrown away; another clone goes on."""
    done = ground.strike("--signal", "KILL", "--whole", "--at", point)
    bare = ground.live / "origin.git"
    published = "<!-- " in (
        log := ground.box.git("show", f"{ground.protocol}:.protocols/{ground.protocol}/log.md", cwd=bare)
    )
    assert published
    other = ground.elsewhere("bob")
    begun = ground.told()
    ran = ground.finish(other)
    if "step-finished think" in log:
        assert sum(one.asked for one in ran) == 0, "an answer that was published was asked for again"
    assert not begun or "step-finished tell" in log or ground.doubts(other) == 1, "a doubt that nobody was told of"
    ground.sound(other)
    return done.struck > 0


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_run_that_is_killed_is_finished_by_the_next(grounds: Grounds) -> None:
    sweep(grounds, killed, 2, who=("git",), calls=("rename",), least=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_at_a_dozen_places_is_finished_by_the_next(grounds: Grounds) -> None:
    sweep(grounds, killed, 12, calls=("openat", "rename", "fsync", "execve"), least=0.9)


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_a_run_that_is_killed_anywhere_is_finished_by_the_next(grounds: Grounds) -> None:
    sweep(grounds, killed, KILLS, hot=(*ALWAYS, *ALWAYS_A_PACK), turn=turn(), least=0.93)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_anywhere_and_once_more_as_it_goes_on_is_finished_by_the_next(grounds: Grounds) -> None:
    sweep(grounds, killed_twice, TWICE, turn=turn(), least=0.3)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_run_that_is_told_to_end_anywhere_is_finished_by_the_next(grounds: Grounds) -> None:
    sweep(grounds, terminated, POINTS, turn=turn(), least=0.66)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_machine_that_is_gone_is_replaced_by_another(grounds: Grounds) -> None:
    # On a busy machine a lease of one second is renewed so often that the calls of two runs are not the same. Four at a time: most of
    # what one takes, it waits for the lease.
    config = "lease: {ttl: 4s, grace: 1s}\n"
    hot = [place for place in ALWAYS if is_due(place.why, 2)]
    sweep(grounds, gone, POINTS, "--ephemeral", config=config, hot=hot, workers=4, turn=turn(), least=0.9)
