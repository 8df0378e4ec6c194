"""`runner step` as a whole process: what one step that does nothing costs, and where that goes."""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, at_most, duration, in_turns, timed

COMMIT = """
import pathlib, subprocess, sys, time
at = pathlib.Path(".protocols/0001-a")
at.mkdir(parents=True, exist_ok=True)
(at / "state.json").write_text(str(time.time_ns()) * 100)
with (at / "log.md").open("a") as log:
    log.write(str(time.time_ns()) * 5)
subprocess.run(["git", "add", ".protocols"], check=True)
subprocess.run(["git", "commit", "-q", "-m", "step"], check=True)
"""


def run(ground: Ground) -> Iterator[Figure]:
    """Measure a step in a repository of many files, its worktree following, on the host and in the sandbox."""
    rounds = 3 if ground.quick else 10
    at, plain = ground.repository(5000), ground.repository(5000)
    executors = ["host", *(["sandbox"] if _sandbox(ground) else [])]
    with ground.session(at) as session:
        protocols = {name: ground_.new(session, rounds + 5) for name in executors}
    # The first step makes the workspace: it is told by itself.
    first = {name: timed(partial(_step, ground, at, protocols[name], name)) for name in executors}
    found = in_turns(
        rounds,
        {
            "git": lambda: ground.run([sys.executable, "-c", COMMIT], plain),
            **{name: partial(_step, ground, at, protocols[name], name) for name in executors},
        },
    )
    yield Figure("step, 5,000 files: python that spawns git add && git commit", found["git"].text(), 1.0)
    for name in executors:
        yield at_most(f"step, 5,000 files: runner step, {name}, against it", found[name], found["git"])
        yield Figure(f"step, 5,000 files: the first one, {name}, workspace made", duration(first[name]))
    yield Figure("step: imports of the process", _imports(ground, at, protocols["host"]))
    yield Figure("step: programs started", _programs(ground, at, protocols["host"]))


def _step(ground: Ground, at: Path, protocol: str, executor: str, env: Mapping[str, str] | None = None) -> None:
    ground.runner(at, "step", protocol, env={"RUNNER_EXECUTOR": executor, **(env or {})})


def _sandbox(ground: Ground) -> bool:
    """Return whether commands can be run in the sandbox on this machine."""
    try:
        done = subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _imports(ground: Ground, at: Path, protocol: str) -> str:
    """Return how many modules one step loads, and how long that takes as Python counts it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runner", "step", protocol],
        cwd=at, env={**ground.env, "RUNNER_EXECUTOR": "host"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    times = [int(match[1]) for match in re.finditer(r"^import time: +(\d+) \|", done.stderr, re.MULTILINE)]
    return f"{len(times)} modules, {duration(sum(times) / 1e6)}"


def _programs(ground: Ground, at: Path, protocol: str) -> str:
    """Return which git commands one step starts, counted by a `git` that notes its arguments and becomes the real one."""
    real = shutil.which("git")
    folder, notes = ground.at / "counting", ground.at / "counted"
    folder.mkdir()
    (folder / "git").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" | tr "\\n" " " >>{notes}; echo >>{notes}\nexec {real} "$@"\n'
    )
    (folder / "git").chmod(0o755)
    _step(ground, at, protocol, "host", {"PATH": f"{folder}:{ground.env['PATH']}"})
    counted: collections.Counter[str] = collections.Counter()
    for line in notes.read_text().splitlines():
        words = re.sub(r"-c \S+ |--\S+ ", "", line + " ").split()
        counted[words[0] if words else "?"] += 1
    # What is held open, and what is spawned for a single act, alike.
    told = ", ".join(f"{name} {count}" if count > 1 else name for name, count in counted.most_common())
    return f"{sum(counted.values())} git: {told}"
