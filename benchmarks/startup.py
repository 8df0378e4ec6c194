"""What a person waits for: whole processes of the commands that only read, against loading click alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, at_most, in_turns, within

CLICK = [sys.executable, "-c", "import click"]


def run(ground: Ground) -> Iterator[Figure]:
    """Measure `status` with one protocol, and `list` over many branches and over many protocols that main has."""
    rounds = 5 if ground.quick else 15
    at = ground.repository(50)
    with ground.session(at) as session:
        protocol = ground_.new(session)
    found = in_turns(
        rounds,
        {
            "python": lambda: ground.run([sys.executable, "-c", "pass"], at),
            "click": lambda: ground.run(CLICK, at),
            "status": lambda: ground.runner(at, "status"),
        },
    )
    yield Figure("start: python -c pass", found["python"].text())
    yield Figure('start: python -c "import click"', found["click"].text(), 1.0)
    yield at_most("start: runner status, one protocol, against import click", found["status"], found["click"], 3.0)
    for count in (1000, 2000 if ground.quick else 10_000):
        copies(ground, at, protocol, count)
        yield from _list(ground, at, count, 3 if ground.quick else 5, "branches")
    ended = ground.repository(50)
    with ground.session(ended) as session:
        protocol = ground_.new(session)
    ground.git(ended, "merge", "-q", protocol)
    copies(ground, ended, protocol, count, merged=True)
    yield from _list(ground, ended, count, 3 if ground.quick else 5, "folders in main")


def _list(ground: Ground, at: Path, count: int, rounds: int, of: str) -> Iterator[Figure]:
    listed = len(json.loads(ground.runner(at, "list", "--json"))["protocols"])
    assert listed >= count, f"{listed} protocols are listed, {count} were made"
    small = ground.repository(50)
    with ground.session(small) as session:
        ground_.new(session)
    found = in_turns(
        rounds,
        {
            "click": lambda: ground.run(CLICK, at),
            "status": lambda: ground.runner(small, "status"),
            "list": lambda: ground.runner(at, "list"),
            "list --json": lambda: ground.runner(at, "list", "--json"),
        },
        warm=0,
    )
    for words in ("list", "list --json"):
        name = f"start: runner {words}, {count:,} {of}"
        if count == 1000 and of == "branches":
            yield within(f"{name}, beyond status of one", found[words], 0.3, found["click"], found["status"])
        else:
            yield within(name, found[words], 1.0, found["click"])


def copies(ground: Ground, at: Path, protocol: str, count: int, *, merged: bool = False) -> None:
    """Make so many protocols like the one that is there, each on a branch of its own or, merged, all in main."""
    paths = ground.git(at, "ls-tree", "-r", "--name-only", protocol, f".protocols/{protocol}/").decode().split()
    files = {path: ground.git(at, "show", f"{protocol}:{path}") for path in paths}
    slug = protocol.partition("-")[2]
    known = ground.git(at, "for-each-ref", "--format=%(refname:short)", "refs/heads").decode().split()
    out = list[bytes]()
    for number in range(2, count + 2):
        name = f"{number:04d}-{slug}"
        if name in known:
            continue
        if not merged or not out:
            out.append(
                f"commit refs/heads/{'main' if merged else name}\ncommitter A <a@example.test> 1700000000 +0000\n"
                "data 4\ncopy\nfrom refs/heads/main^0\n".encode()
            )
        for path, data in files.items():
            text = data.replace(protocol.encode(), name.encode())
            out.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.replace(protocol, name).encode(), len(text), text))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=at, input=b"".join(out), check=True)
