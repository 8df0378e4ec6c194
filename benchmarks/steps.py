"""A thousand steps that do nothing, each durable and each a commit, in one process; beside workflow libraries' on SQLite.

The peers are installed as `benchmarks/peers/libraries.toml` pins them, and each runs as a process of its own that prints the seconds
of its steps, of CPU and by the clock; one that cannot be installed is an empty row with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.ground import Ground
from benchmarks.measure import Figure, Spread, at_most, timed
from benchmarks.peers import installing
from benchmarks.plumbing import Plumbing, written
from runner.app import create
from runner.app.run import run as run_protocol
from runner.store.project import Session

PEERS = Path(__file__).resolve().parents[1] / "build/peers"

_LANGGRAPH = """
import sqlite3, sys, time
from typing import TypedDict
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
class State(TypedDict):
    done: int
count = int(sys.argv[1])
graph = StateGraph(State)
graph.add_node("step", lambda state: {"done": state["done"] + 1})
graph.add_edge(START, "step")
graph.add_conditional_edges("step", lambda state: END if state["done"] >= count else "step")
made = graph.compile(checkpointer=SqliteSaver(sqlite3.connect("steps.db", check_same_thread=False)))
told = {"configurable": {"thread_id": str(time.time_ns())}, "recursion_limit": count + 5}
began, used = time.perf_counter(), time.process_time()
assert made.invoke({"done": 0}, told, durability="sync")["done"] == count
print(time.process_time() - used, time.perf_counter() - began)
"""
_DBOS = """
import sys, time
from dbos import DBOS
DBOS(config={"name": "steps", "system_database_url": "sqlite:///steps.db", "run_admin_server": False, "log_level": "ERROR"})
@DBOS.step()
def step(at):
    return at
@DBOS.workflow()
def work(count):
    for at in range(count):
        step(at)
DBOS.launch()
began, used = time.perf_counter(), time.process_time()
work(int(sys.argv[1]))
print(time.process_time() - used, time.perf_counter() - began)
DBOS.destroy()
"""
SCRIPTS = {"langgraph": _LANGGRAPH, "dbos": _DBOS}


def run(ground: Ground) -> Iterator[Figure]:
    """Measure one protocol of many steps and the same steps in the peers, in turns; seconds are those of a step."""
    count, rounds = (100, 2) if ground.quick else (1000, 3)
    pins, times, why = installing.pins(installing.LIBRARIES), dict[str, list[float]](), dict[str, str]()
    plumbing: list[float] = []
    for turn in range(rounds):
        took, at, commits = _ours(ground, count)
        times.setdefault("runner", []).append(took)
        plumbing += _plumbing(ground, at, commits[:: max(1, count // 100)])
        for name, script in SCRIPTS.items():
            if name in why:
                continue
            python = installing.install(pins[name], PEERS / name)
            if isinstance(python, installing.Missing):
                why[name] = python.reason
                continue
            at = ground.at / f"{name}-{turn}"
            at.mkdir()
            try:
                told = ground.run([python, "-c", script, str(count)], at, {"PYTHONPATH": ""})
            except SystemExit as error:
                why[name] = installing.last_line(str(error))
                continue
            times.setdefault(name, []).append(float(told.split()[-1]))
    each = {name: Spread(tuple(took / count for took in found)) for name, found in times.items()}
    title = f"steps: {count:,} that do nothing"
    yield Figure(f"{title}, the runner, each durable and a commit", each["runner"].text(), 1.0)
    yield at_most(f"{title}, the same objects by bare held-open plumbing", Spread(tuple(plumbing)), each["runner"])
    for name in SCRIPTS:
        label = f"{name} {pins[name].version}"
        if name in each:
            yield Figure(f"{title}, {label} on SQLite", each[name].text(), each[name].median / each["runner"].median)
            yield at_most(
                f"{title}, the runner, against {label}", each["runner"], each[name], 1.7 if name == "dbos" else 1.0
            )
        else:
            yield Figure(f"{title}, {label}: {why[name]}", "")


def _ours(ground: Ground, count: int) -> tuple[float, Path, list[str]]:
    """Return the seconds that all the steps of a new protocol take, where it lies, and its commits.

    The reading of its files is among the seconds.
    """
    files = {"plan.md": b"---\ntitle: A plan\n---\nWhat and why.\n"}
    for number in range(1, count + 1):
        files[f"{number:04d}-s{number}.md"] = b"---\ntitle: S\nkind: tool\ntool: echo\nwith: {text: a}\n---\nDo it.\n"
    at = ground.repository(50, bare=True)
    with Session.open(at, ground.environment(), {"executor": "host"}) as session:
        protocol = create.create(session, "A plan", files, where="plan").protocol
        began = time.perf_counter()
        made = list(run_protocol(session, protocol, max_steps=count + 1, adopt=True, tell=lambda done: None))
        took = time.perf_counter() - began
    assert made[-1].state.status == "completed", made[-1].state.status
    return took, at, [done.commit for done in made]


def _plumbing(ground: Ground, at: Path, commits: list[str]) -> list[float]:
    """Return the seconds that git's own plumbing takes for the objects of each of these commits, and a ref that moves to it."""
    other = ground.repository(50, bare=True)
    moves = [written(at, f"{commit}^", commit) for commit in commits]
    times = []
    with Plumbing(other) as plumbing:
        old = ""
        for objects in moves:
            times.append(timed(partial(plumbing.write, objects, "refs/heads/plumbing", old or "0" * len(commits[0]))))
            old = objects[-1].oid
    return times[1:]
