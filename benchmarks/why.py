"""Where a line comes from, in a repository with a long history: `runner why` as a whole process against a plain `git blame`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, at_most, in_turns, within
from benchmarks.startup import CLICK

FILES = 500


def run(ground: Ground) -> Iterator[Figure]:
    """Measure a line that a step wrote, which came in a squash in the middle of the history, and an old one of a person's."""
    many = 1000 if ground.quick else 10_000
    at = ground.repository(FILES)
    _commits(ground, at, many // 2)
    protocol = _squashed(ground, at)
    _commits(ground, at, many // 2)
    ground.git(at, "gc", "-q")
    ground.git(at, "checkout", "-q", "-f", "main")
    told = json.loads(ground.runner(at, "why", "made.txt:3", "--json"))["origins"][0]
    assert (told["protocol"], told["step"]) == (protocol, "step-1"), told
    found = in_turns(
        3 if ground.quick else 7,
        {
            "click": lambda: ground.run(CLICK, at),
            "blame": lambda: ground.git(at, "blame", "--porcelain", "-L3,3", "made.txt"),
            "why": lambda: ground.runner(at, "why", "made.txt:3"),
            "old blame": lambda: ground.git(at, "blame", "--porcelain", "-L3,3", "src/p00/q00/f0001.py"),
            "old why": lambda: ground.runner(at, "why", "src/p00/q00/f0001.py:3"),
        },
    )
    name = f"why: a step's line, {many:,} commits, squashed"
    yield within(name, found["why"], 0.5, found["click"])
    yield at_most(f"{name}, against git blame --porcelain -L", found["why"], found["blame"])
    name = f"why: the oldest line, {many:,} commits"
    yield within(name, found["old why"], 0.5, found["click"])
    yield at_most(f"{name}, against git blame --porcelain -L", found["old why"], found["old blame"])


def _commits(ground: Ground, at: Path, count: int) -> None:
    """Add so many commits to main, each of which adds a line to one of the files but the first two."""
    tip = ground.git(at, "rev-parse", "main").decode().strip()
    out = []
    for number in range(count):
        text = b"".join(b"x%d = %d\n" % (line, line * number) for line in range(40))
        path = 2 + number % (FILES - 2)
        name = b"src/p%02d/q%02d/f%04d.py" % (path // 250, path // 25 % 10, path)
        begin = b"commit refs/heads/main\ncommitter Alice <alice@example.test> 1700000000 +0000\ndata 4\nmore\n"
        begin += f"from {tip}\n".encode() if number == 0 else b""
        out.append(begin + b"M 100644 inline %s\ndata %d\n%s\n" % (name, len(text), text))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=at, input=b"".join(out), check=True)


def _squashed(ground: Ground, at: Path) -> str:
    """Run a protocol that makes a file, squash it onto main, delete its branch, and return its id."""
    with ground.session(at) as session:
        protocol = ground_.new(session, 1, "seq 9 > made.txt")
    ground.runner(at, "run", protocol, "--executor", "host")
    ground.git(at, "checkout", "-q", "-f", "main")
    ground.git(at, "merge", "-q", "--squash", protocol)
    ground.git(at, "commit", "-qm", "Squashed")
    where = json.loads(ground.runner(at, "show", protocol, "--json"))["path"]
    if where:
        ground.git(at, "worktree", "remove", "--force", where)
    ground.git(at, "branch", "-qD", protocol)
    return protocol
