"""`python -m tests.simulation A..B`: goes through the seeds from A to B; one alone is told decision by decision.

Without a range it goes through the window of seeds that moves with the commit (seeds.py).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.simulation.seeds import window
from tests.simulation.world import World

WORKERS = 2


def attempt(seed: int, *, loud: bool = False) -> tuple[str, World]:
    """Go through a seed; return what did not hold, or nothing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        world = World(seed, Path(folder), loud=loud)
        try:
            world.run()
        except Exception as error:
            if loud:
                traceback.print_exc()
            return f"{type(error).__name__}: {error}", world
    return "", world


def _row(seed: int) -> tuple[int, str, int, int, int, str]:
    why, world = attempt(seed)
    return seed, why, world.scheduler.steps, world.scheduler.crashes, world.scheduler.stalls, world.scheduler.trace


def main(asked: str) -> int:
    """Go through seeds, and say which did not hold and how to see it again."""
    first, _, last = asked.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    if len(seeds) == 1:
        why, world = attempt(seeds[0], loud=True)
        print(f"seed {seeds[0]}: {why or 'everything held'}\ntrace {world.scheduler.trace}")
        return int(bool(why))
    began, bad, steps, crashes, stalls = time.monotonic(), 0, 0, 0, 0
    with multiprocessing.Pool(min(WORKERS, len(seeds))) as pool:
        for seed, why, *counts, trace in pool.imap(_row, seeds, chunksize=5):
            steps, crashes, stalls = steps + counts[0], crashes + counts[1], stalls + counts[2]
            if why or "-v" in sys.argv:
                print(f"seed {seed}: {why or f'held, {counts[0]} steps, {trace[:12]}'}", flush=True)
            if why:
                bad += 1
                print(f"  make simulate SEEDS={seed}..{seed} shows it again, decision by decision", flush=True)
    print(
        f"{len(seeds)} seeds, {bad} of them bad: {steps:,} scheduling steps, {crashes:,} crashes, {stalls:,} stalls,"
        f" in {time.monotonic() - began:.0f} s"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else window()))
