"""`runner status` and `list` as whole processes, where a protocol with a long history waits for an approval."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import chains
from benchmarks.ground import Ground
from benchmarks.measure import Figure, at_most, in_turns
from benchmarks.startup import CLICK

STEPS = 10


def run(ground: Ground) -> Iterator[Figure]:
    """Measure `status`, which names who can give the approval, with many transitions and with few, in a large tree and a small one."""
    few, many, files = (50, 500, 500) if ground.quick else (50, 2000, 5000)
    short, long, large = (
        chains.make(ground, size, count, STEPS, words=True, waits=True)
        for size, count in ((100, few), (100, many), (files, few))
    )
    assert "runner approve 1, by " in ground.runner(long.at, "status")
    found = in_turns(
        3 if ground.quick else 7,
        {
            "click": lambda: ground.run(CLICK, short.at),
            "short": lambda: ground.runner(short.at, "status"),
            "long": lambda: ground.runner(long.at, "status"),
            "large": lambda: ground.runner(large.at, "status"),
            "list": lambda: ground.runner(long.at, "list"),
            "short list": lambda: ground.runner(short.at, "list"),
        },
    )
    name = "status: one waits for an approval"
    yield at_most(f"{name}, {few:,} transitions, against import click", found["short"], found["click"])
    yield at_most(f"{name}, {many:,} transitions, against that", found["long"], found["short"], 2.0)
    yield at_most(f"{name}, {files:,} files, against that", found["large"], found["short"], 1.2)
    name = "list: one waits for an approval"
    yield at_most(f"{name}, {many:,} transitions, against {few:,}", found["list"], found["short list"], 1.2)
