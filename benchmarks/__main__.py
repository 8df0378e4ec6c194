"""The table: `python -m benchmarks [--quick] [NAME...]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks import (
    goals,
    house,
    job,
    loop,
    oneshot,
    policy,
    startup,
    status,
    step,
    steps,
    transition,
    verify,
    watch,
    why,
)
from benchmarks.ground import Ground
from benchmarks.measure import Figure, table

BENCHMARKS: dict[str, Callable[[Ground], Iterator[Figure]]] = {
    "goals": goals.run,
    "transition": transition.run,
    "startup": startup.run,
    "verify": verify.run,
    "oneshot": oneshot.run,
    "status": status.run,
    "step": step.run,
    "steps": steps.run,
    "house": house.run,
    "loop": loop.run,
    "job": job.run,
    "policy": policy.run,
    "why": why.run,
    "watch": watch.run,
}


def main() -> None:
    """Measure what was named, all where nothing was, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds, to see that it works")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark `{name}`; there are {', '.join(BENCHMARKS)}")
    ground = Ground(quick=asked.quick)
    figures: list[Figure] = []
    try:
        for name in asked.names or BENCHMARKS:
            began = time.monotonic()
            figures += BENCHMARKS[name](ground)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    finally:
        ground.close()
    print(table(figures))


if __name__ == "__main__":
    main()
