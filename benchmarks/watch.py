"""`runner watch`: from a ref that moves to the step, what idling costs, and peers that start a command when a file changes.

The write is one rename of a loose ref, as git's own last act is: to a commit, made before, that lets a paused protocol go on.
The step is a command that writes down when it began; so is the peers' command. A peer that cannot be installed is an empty row.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import ROOT, Ground
from benchmarks.measure import Figure, Spread
from benchmarks.peers.installing import WATCHERS, Missing, install, pins
from runner.store.project import Session

LATEST = 600.0  # seconds that one event is waited for
TICK = os.sysconf("SC_CLK_TCK")
# Each begins its own way: what is run, given the program, the folder that is watched and a line of shell.
PEERS: dict[str, Callable[[Path, Path, str], list[str | Path]]] = {
    "watchfiles": lambda program, at, line: [program, f"sh -c '{line}'", at],
    "watchmedo": lambda program, at, line: [program, "shell-command", f"--command={line}", at],
}


class Watching:
    """`runner watch --json` as a process of its own, and what it told, each with the time when it was read."""

    def __init__(self, ground: Ground, at: Path, executor: str = "host") -> None:
        # Another state than that of whoever made the protocols: to it, this history goes forward.
        env = {**ground.env, "RUNNER_EXECUTOR": executor, "XDG_STATE_HOME": str(ground.at / f"state-{at.name}")}
        argv = [sys.executable, "-m", "runner", "watch", "--json"]
        self.process = subprocess.Popen(
            argv,
            cwd=at,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._told: list[tuple[float, dict[str, object]]] = []
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.until("watching")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self._told.append((time.time(), json.loads(line)))
                self._more.notify_all()

    def until(self, event: str, protocol: str | None = None) -> float:
        """Wait for an event of a protocol, and return when it was told."""

        def found() -> float | None:
            rows = ((at, row) for at, row in self._told if row["event"] == event)
            return next((at for at, row in rows if row.get("protocol") == protocol), None)

        with self._more:
            if not self._more.wait_for(lambda: found() is not None, timeout=LATEST):
                raise SystemExit(f"no `{event}` of {protocol} within {LATEST:g} s: {self._told[-3:]}")
            return found() or 0.0

    def cpu(self) -> float:
        """Return the seconds of CPU that it and those of its children that have ended took."""
        told = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, told[11:15])) / TICK

    def close(self) -> None:
        """End it; a job in the background has Ctrl-C ignored."""
        self.process.terminate()
        self.process.wait(timeout=LATEST)


def run(ground: Ground) -> Iterator[Figure]:
    """Measure the way from a write to the step beside the peers', and what nothing costs."""
    count = 6 if ground.quick else 40
    peers = {name: _peer(ground, name, count) for name in PEERS}
    base = next((found for found in peers.values() if isinstance(found, Spread)), None)
    for executor in ("host", "sandbox"):
        begun, first = _latency(ground, count, executor)
        ratio = begun.median / base.median if base else None
        goal, met = "median < 100 ms", begun.median < 0.1
        yield Figure(f"watch: a ref moves, the step is begun, {executor}", begun.text(), ratio, goal, met)
        ratio = first.median / base.median if base else None
        yield Figure(f"watch: a ref moves, the step's first instruction, {executor}", first.text(), ratio)
    for name, found in peers.items():
        shown = f"watch: a file moves, the command's first instruction, {name} {pins(WATCHERS)[name].version}"
        if isinstance(found, Missing):
            yield Figure(f"{shown}: {found.reason}", "")
        else:
            yield Figure(shown, found.text(), found.median / base.median if base else None)
    yield from _idle(ground)


def _latency(ground: Ground, count: int, executor: str) -> tuple[Spread, Spread]:
    """Return the times from the write to `started`, and to the command's first instruction.

    Between the two lies what `runner step` does as well: the protocol's workspace is made, and the command started.
    """
    at = ground.repository(100)
    ready: list[tuple[str, str]] = []
    with Session.open(at, ground.environment()) as session:
        for _ in range(count):
            name = ground_.new(session, 1, "date +%s%N > began.txt")
            paused, resumed = (ground_.record(session, name).commit for _ in range(2))
            session.git.update_refs({session.project.branch(name): (paused, resumed)}, "bench")
            ready.append((name, resumed))
    watching = Watching(ground, at, executor)
    begun, first = [], []
    try:
        for name, resumed in ready:
            wrote = _write(at / ".git/refs/heads" / name, f"{resumed}\n")
            begun.append(watching.until("started", name) - wrote)
            watching.until("rests", name)
            first.append(int(ground.git(at, "show", f"{name}:began.txt")) / 1e9 - wrote)
    finally:
        watching.close()
    return Spread(tuple(begun)), Spread(tuple(first))


def _write(path: Path, text: str) -> float:
    """Put a file in the place of another one some time after what was before, and return when."""
    time.sleep(0.3 + random.random() * 0.2)
    new = path.with_name(f"{path.name}.lock")
    new.write_text(text)
    wrote = time.time()
    os.replace(new, path)
    return wrote


def _peer(ground: Ground, name: str, count: int) -> Spread | Missing:
    """Return the times from the write to the command's first instruction."""
    program = install(pins(WATCHERS)[name], ROOT / "build/peers" / name)
    if isinstance(program, Missing):
        return program
    at, began = ground.at / f"watched-{name}", ground.at / f"began-{name}"
    at.mkdir()
    file = at / "file"
    file.touch()
    argv = PEERS[name](program, at, f"date +%s%N > {began}")
    process = subprocess.Popen(
        argv, env=ground.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    times = []
    try:
        time.sleep(5)  # none of them says when it is ready
        for _ in range(count):
            began.write_text("")
            wrote, until = _write(file, "x\n"), time.monotonic() + 10
            while not (told := began.read_text().strip()):
                if time.monotonic() > until:
                    return Missing("the command did not run within 10 s")
                time.sleep(0.001)
            times.append(int(told) / 1e9 - wrote)
            time.sleep(2)  # what it does after the first event of a write is over
    finally:
        process.terminate()
        process.wait(timeout=LATEST)
    return Spread(tuple(times))


def _idle(ground: Ground) -> Iterator[Figure]:
    """Watch many protocols in which nothing happens, with the looks that the timer makes."""
    count, seconds = (50, 15) if ground.quick else (1000, 180)
    at = ground.repository(100)
    with Session.open(at, ground.environment()) as session:
        for _ in range(count):
            ground_.record(session, ground_.new(session, 1))
    watching = Watching(ground, at)
    try:
        time.sleep(2)
        began, cpu = time.monotonic(), watching.cpu()
        time.sleep(seconds)
        share = (watching.cpu() - cpu) / (time.monotonic() - began) * 100
    finally:
        watching.close()
    yield Figure(f"watch: idle, {count:,} protocols, of a core", f"{share:.2f} %", None, "< 0.5 %", share < 0.5)
