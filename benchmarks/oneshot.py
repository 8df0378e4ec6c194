"""`runner step` that only records, as a whole process, beside the same commit by git spawned from bare Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial

from benchmarks import startup
from benchmarks.ground import Ground
from benchmarks.measure import Figure, at_most, in_turns
from benchmarks.step import COMMIT
from runner.app import create

PYDANTIC = "from pydantic import BaseModel\nclass One(BaseModel):\n    x: int"


def run(ground: Ground) -> Iterator[Figure]:
    """Measure the asking for a person's work in a repository of many files, its worktree following, and what it is made of."""
    rounds = 3 if ground.quick else 15
    at, plain = ground.repository(5000), ground.repository(5000)
    files = {
        "plan.md": b"---\ntitle: A plan\n---\nWhat and why.\n",
        "01-a.md": b"---\ntitle: A\nkind: human\n---\nDo it.\n",
    }
    with ground.session(at) as session:
        made = [create.create(session, "A plan", files, where="plan") for _ in range(rounds + 1)]
    # A checkout of this very second is read whole at the first look, by whatever git looks: that is no cost of a step.
    time.sleep(1.1)
    for folder in (plain, *(one.path for one in made if one.path)):
        ground.git(folder, "update-index", "-q", "--refresh")
    protocols = [one.protocol for one in made]
    found = in_turns(
        rounds,
        {
            "git": lambda: ground.run([sys.executable, "-c", COMMIT], plain),
            "click": lambda: ground.run(startup.CLICK, at),
            "pydantic": partial(ground.run, [sys.executable, "-c", PYDANTIC], at),
            "step": lambda: ground.run(["sh", "-c", f"runner step {protocols.pop()}; test $? = 3"], at),
        },
    )
    yield Figure("oneshot, 5,000 files: python that spawns git add && git commit", found["git"].text(), 1.0)
    yield at_most('oneshot: python -c "import click", against it', found["click"], found["git"])
    yield at_most("oneshot: python with a pydantic model of one field, against it", found["pydantic"], found["git"])
    yield at_most("oneshot, 5,000 files: runner step that records, against it", found["step"], found["git"], 4)
