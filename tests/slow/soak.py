"""`runner watch` over many protocols: do its memory and its descriptors stay, and how large does the repository grow?

`python -m tests.slow.soak [PROTOCOLS]` prints it; each protocol is ten transitions of the watcher's: four tools, a person asked, their
work taken once this process answered, four tools, each one commit. Nothing waits for another, so that the watcher is woken all the
time while it is at work.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from runner.app import create, steer
from runner.errors import ConflictError, HeldError
from runner.store.project import Session
from tests.conftest import Box, make_box

EACH = 10  # transitions of the watcher's a protocol
SILENT = 900.0  # seconds without an event after which it hangs
TOOL = b"---\ntitle: Say it\nkind: tool\ntool: echo\nwith: {text: hello}\n---\nSay it.\n"
PERSON = b"---\ntitle: Look at it\nkind: human\n---\nLook.\n"
PLAN = {
    "plan.md": b"---\ntitle: Soak\n---\nWhat and why.\n",
    **{f"{number:02d}-s{number}.md": PERSON if number == 5 else TOOL for number in range(1, EACH)},
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The watcher at a moment. `memory`: resident KiB; `files`: descriptors; `children`: processes that it holds."""

    transitions: int
    memory: int
    files: int
    threads: int
    children: int


@dataclass(slots=True)
class Soaked:
    """What came of it. `sizes`: KiB and loose objects of the repository, before and after maintenance."""

    protocols: int
    seconds: float
    transitions: int = 0
    samples: list[Sample] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def ends(self) -> tuple[Sample, Sample]:
        """Return the medians after a tenth and at the end."""
        first = [one for one in self.samples if 0.1 <= one.transitions / self.transitions <= 0.2]
        last = [one for one in self.samples if one.transitions / self.transitions >= 0.9]
        return _median(first), _median(last)

    def text(self) -> str:
        """Return a table for people."""
        early, late = self.ends()
        (before, loose), (after, left) = self.sizes
        rows = [
            ("resident memory", f"{early.memory / 1024:.1f} MiB", f"{late.memory / 1024:.1f} MiB"),
            ("open descriptors", str(early.files), str(late.files)),
            ("threads", str(early.threads), str(late.threads)),
            ("repository, before and after maintenance", f"{before / 1024:.1f} MiB", f"{after / 1024:.1f} MiB"),
            ("loose objects, before and after", f"{loose:,}", f"{left:,}"),
        ]
        each = self.seconds / self.transitions * 1000
        head = (
            f"{self.protocols:,} protocols, {self.transitions:,} transitions, {self.seconds:.0f} s ({each:.1f} ms each)"
        )
        lines = [head, "", "| | after a tenth | at the end |", "|---|---|---|"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _median(samples: list[Sample]) -> Sample:
    """Return the middle of the samples: descriptors and children come and go with each git that is asked."""
    return Sample(
        samples[len(samples) // 2].transitions,
        int(median(one.memory for one in samples)),
        int(median(one.files for one in samples)),
        max(one.threads for one in samples),
        int(median(one.children for one in samples)),
    )


def soak(box: Box, protocols: int, say: Any = lambda line: None) -> Soaked:
    """Make the protocols, watch them to their end, and maintain the repository."""
    with box.session() as session:
        names = [create.create(session, "Soak", PLAN, where="plan").protocol for _ in range(protocols)]
    say(f"{protocols:,} protocols made")
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "watch", "--json"],
        cwd=box.path, env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    began = time.monotonic()
    found = Soaked(protocols, 0.0)
    errors: list[str] = []
    assert process.stderr is not None
    stderr = process.stderr
    threading.Thread(target=lambda: errors.extend(stderr), daemon=True).start()
    hang = threading.Timer(SILENT, process.kill)
    try:
        completed, every = 0, max(1, protocols * EACH // 200)
        with box.session() as session:
            assert process.stdout is not None
            for line in process.stdout:
                row = json.loads(line)
                hang.cancel()
                hang = threading.Timer(SILENT, process.kill)
                hang.start()
                assert row["event"] not in ("failed", "polling"), row
                if row["event"] == "advanced":
                    found.transitions += 1
                    if found.transitions % every == 0:
                        found.samples.append(_sample(process.pid, found.transitions))
                    if found.transitions % (protocols * EACH // 10) == 0:
                        say(f"{found.transitions:,} transitions, {found.samples[-1].memory / 1024:.1f} MiB")
                elif row["event"] == "rests" and row["status"] == "running":
                    _answer(session, row["protocol"])
                elif row["event"] == "rests" and row["status"] == "completed":
                    completed += 1
                    if completed == protocols:
                        break
    finally:
        hang.cancel()
        found.seconds = time.monotonic() - began
        if process.poll() is None:
            process.terminate()  # a job in the background has Ctrl-C ignored
        try:
            process.wait(timeout=100)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.stdout is not None
        process.stdout.close()
    assert completed == protocols, f"it ended after {completed} protocols: {''.join(errors)}"
    found.sizes.append(_size(box))
    box.git("maintenance", "run", "--task=gc", "--quiet")
    found.sizes.append(_size(box))
    box.git("fsck", "--no-dangling", "--no-progress")
    box.runner("verify", *random.Random(1).sample(names, min(20, protocols)), rc=0)
    return found


def _answer(session: Session, protocol: str) -> None:
    """Do a person's part, beside the watcher."""
    for _ in range(100):
        try:
            steer.answer(session, protocol, None, "done")
            return
        except (ConflictError, HeldError):
            time.sleep(0.05)
    raise AssertionError(f"{protocol} could not be answered")


def _sample(pid: int, transitions: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    memory, threads = int(status["VmRSS"].split()[0]), int(status["Threads"])
    return Sample(transitions, memory, len(os.listdir(f"/proc/{pid}/fd")), threads, len(children))


def _size(box: Box) -> tuple[int, int]:
    told = dict(line.split(": ") for line in box.git("count-objects", "-v").splitlines())
    used = sum(path.lstat().st_blocks for path in (box.path / ".git").rglob("*")) // 2
    return used, int(told["count"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="runner-soak-") as folder:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
        print(soak(make_box(Path(folder) / "repo"), count, lambda line: print(line, file=sys.stderr)).text())
