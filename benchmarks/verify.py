"""Proving a long history: through the library and as a whole process, with the memory that it takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, in_turns, within
from benchmarks.startup import CLICK
from runner.store.project import Project
from runner.trust import verify


def run(ground: Ground) -> Iterator[Figure]:
    """Measure `verify` of many small transitions, and of a protocol of many steps."""
    many, steps = (200, 20) if ground.quick else (1000, 200)
    at = ground.repository(5000, bare=True)
    with ground.project(at) as project:
        protocol = ground_.new(project)
        for _ in range(many - 1):
            ground_.record(project, protocol)
        ended = ground_.new(project, steps, title="Many steps")
        for number in range(1, steps + 1):
            ground_.finish_step(project, ended, f"step-{number}")
    rounds = 2 if ground.quick else 5
    found = in_turns(
        rounds,
        {
            "click": lambda: ground.run(CLICK, at),
            "library": lambda: _through_library(ground, at, protocol, many),
            "process": lambda: ground.runner(at, "verify", protocol),
            "steps": lambda: _through_library(ground, at, ended, steps + 1),
        },
    )
    name = f"verify: {many:,} transitions, 5,000 files"
    yield within(f"{name}, library", found["library"], 2.0, found["click"])
    yield within(f"{name}, whole process", found["process"], 2.0, found["click"])
    yield Figure(f"{name}, memory of the process", f"{_memory(ground, at, protocol)} MiB at most")
    yield Figure(
        f"verify: {steps} steps done, one transition each, library",
        found["steps"].text(),
        found["steps"].median / found["click"].median,
    )


def _through_library(ground: Ground, at: Path, protocol: str, transitions: int) -> None:
    with ground.project(at) as project:
        report = verify.verify(project.git, protocol, _tip(project, protocol))
    assert report.ok and report.transitions == transitions, report


def _tip(project: Project, protocol: str) -> str:
    tip = project.git.ref(project.branch(protocol))
    assert tip is not None
    return tip


def _memory(ground: Ground, at: Path, protocol: str) -> int:
    """Return the most memory that the runner's own process had, in MiB."""
    process = subprocess.Popen(["runner", "verify", protocol], cwd=at, env=ground.env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss // 1024
