"""A transition that is recorded: through the library, held open, against git's own plumbing and other ways of committing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import ground as ground_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, Spread, at_most, in_turns, timed
from benchmarks.plumbing import Plumbing, written
from runner.store.project import Session

FILES = 5000


def run(ground: Ground) -> Iterator[Figure]:
    """Measure one transition, how it grows with the history, and the other ways."""
    start = ground.repository(FILES, bare=True)
    yield from _against_plumbing(ground, start)
    yield from _grown(ground, start)
    yield _siblings(ground, start)
    for files in (100, FILES):
        yield from _other_ways(ground, files)


def _against_plumbing(ground: Ground, start: Path) -> Iterator[Figure]:
    """Some transitions through the library, then the very objects they wrote with plumbing, and again."""
    turns, each = (4, 5) if ground.quick else (12, 10)
    at, other = ground.twin(start), ground.twin(start)
    library: list[float] = []
    bare: list[float] = []
    with ground.session(at) as session:
        protocol = ground_.new(session)
        ref = session.project.branch(protocol)
        ground.git(other, "fetch", "-q", str(at), f"{ref}:{ref}")
        tip = session.git.resolve(ref)
        assert tip is not None
        with Plumbing(other) as plumbing:
            for turn in range(-1, turns):
                tips, spent = [tip], []
                for _ in range(each):
                    began = time.perf_counter()
                    tips.append(ground_.record(session, protocol).commit)
                    spent.append(time.perf_counter() - began)
                moves = [(written(at, old, new), ref, old) for old, new in pairwise(tips)]
                again = [timed(partial(plumbing.write, *move)) for move in moves]
                tip = tips[-1]
                if turn >= 0:
                    library += spent
                    bare += again
    base = Spread(tuple(bare))
    count = f"{FILES:,} files"
    yield Figure(f"transition, {count}: bare held-open plumbing", base.text(), 1.0)
    yield at_most(f"transition, {count}: library, against plumbing", Spread(tuple(library)), base, 1.5)
    yield from _following(ground, 10 if ground.quick else 50, base)


def _following(ground: Ground, rounds: int, base: Spread) -> Iterator[Figure]:
    with ground.session(ground.repository(FILES)) as session:
        protocol = ground_.new(session)
        found = in_turns(rounds, {"": lambda: ground_.record(session, protocol)}, warm=5)[""]
    yield at_most(f"transition, {FILES:,} files: a worktree follows, against plumbing", found, base)


def _grown(ground: Ground, start: Path) -> Iterator[Figure]:
    """A transition with a long history behind it, in turns with one with a short history."""
    many = 200 if ground.quick else 1000
    rounds = 10 if ground.quick else 40
    with ground.session(ground.twin(start)) as young, ground.session(ground.twin(start)) as old:
        acts: dict[str, Callable[[], object]] = {}
        for name, session, count in (("young", young, 10), ("old", old, many)):
            protocol = ground_.new(session)
            for _ in range(count - rounds // 2 if count > rounds else 1):
                ground_.record(session, protocol)
            acts[name] = partial(ground_.record, session, protocol)
        found = in_turns(rounds, acts)
    yield at_most(f"transition: the {many:,}th, against the 10th", found["old"], found["young"], 1.2)


def _siblings(ground: Ground, start: Path) -> Figure:
    """A transition where a thousand protocols have been merged, in turns with one where none has."""
    many = 1000
    alone, among = ground.twin(start), ground.twin(start)
    lines = [
        b"commit refs/heads/main\ncommitter A <a@example.test> 1700000000 +0000\ndata 6\nmerged\nfrom refs/heads/main^0\n"
    ]
    for number in range(2, many + 2):
        for name in ("plan.md", "01-a.md", "state.json", "log.md"):
            lines.append(
                b"M 100644 inline .protocols/%04d-merged/%s\ndata 4\n%03d\n\n" % (number, name.encode(), number % 999)
            )
    ground.git(among, "fast-import", "--quiet", data=b"".join(lines))
    with ground.session(alone) as one, ground.session(among) as other:
        first, second = ground_.new(one), ground_.new(other)
        acts: dict[str, Callable[[], object]] = {
            "alone": lambda: ground_.record(one, first),
            "among": lambda: ground_.record(other, second),
        }
        found = in_turns(10 if ground.quick else 40, acts, warm=3)
    return at_most(f"transition: {many:,} sibling folders, against none", found["among"], found["alone"], 2.5)


def _other_ways(ground: Ground, files: int) -> Iterator[Figure]:
    """The same two files of the record committed as a program would without plumbing of its own."""
    rounds = 5 if ground.quick else 15
    start = ground.repository(files)
    with ground.session(start) as session:
        protocol = ground_.new(session)
        record = _records(session, protocol)
        spawned, by_library = _Checkout(ground, start, protocol), _Checkout(ground, start, protocol)
        found = in_turns(
            rounds,
            {
                "library": _library(ground, start),
                "git": lambda: spawned.by_git(next(record)),
                "GitPython": lambda: by_library.by_gitpython(next(record)),
            },
        )
    count = f"{files:,} files"
    yield at_most(f"ways, {count}: library, against git add && git commit", found["library"], found["git"])
    yield Figure(f"ways, {count}: git add && git commit, spawned, without fsync", found["git"].text(), 1.0)
    yield at_most(f"ways, {count}: GitPython index.add + commit, against them", found["GitPython"], found["git"])


def _library(ground: Ground, start: Path) -> Callable[[], object]:
    session = ground.session(ground.twin(start))
    return partial(ground_.record, session, ground_.new(session))


def _records(session: Session, protocol: str) -> Iterator[dict[str, bytes]]:
    """Return state.json and log.md as transition after transition leaves them."""
    folder = f".protocols/{protocol}"
    log = session.git.blob(f"{session.project.branch(protocol)}:{folder}/log.md") or b""
    state = session.git.blob(f"{session.project.branch(protocol)}:{folder}/state.json") or b""
    number = 2
    while True:
        number += 1
        log += b"- 2026-11-20 06:47:03Z %s paused\n" % protocol.encode()
        log += b'  <!-- %d paused %s {"actor":"alice@example.test"} -->\n' % (number, protocol.encode())
        yield {
            f"{folder}/state.json": state.replace(b'"revision": 2', b'"revision": %d' % number),
            f"{folder}/log.md": log,
        }


class _Checkout:
    """A clone with the protocol's branch checked out."""

    def __init__(self, ground: Ground, start: Path, protocol: str) -> None:
        self.at = ground.twin(start, bare=False)
        ground.git(self.at, "checkout", "-q", protocol)
        self._repo: Any = None

    def _put(self, files: dict[str, bytes]) -> list[str]:
        for path, data in files.items():
            (self.at / path).write_bytes(data)
        return list(files)

    def by_git(self, files: dict[str, bytes]) -> None:
        subprocess.run(["git", "add", "--", *self._put(files)], cwd=self.at, check=True)
        subprocess.run(["git", "commit", "-q", "-m", "step"], cwd=self.at, check=True)

    def by_gitpython(self, files: dict[str, bytes]) -> None:
        import git

        if self._repo is None:
            self._repo = git.Repo(self.at)
        self._repo.index.add(self._put(files))
        self._repo.index.commit("step")
