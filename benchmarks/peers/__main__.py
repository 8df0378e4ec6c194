"""The report: `python -m benchmarks.peers [TASK...]`; exit 1 where an agent that started did not solve its task.

By itself the endpoint answers by a script that knows the solutions: every agent gets the same answers, in its own tools, so
what differs is what it sends and how long it takes outside the model. With `--gemini`, `--openai` or `--anthropic MODEL`
requests are passed on to the real endpoint, with the key of GEMINI_API_KEY, OPENAI_API_KEY or ANTHROPIC_API_KEY. With
`--packages` the tasks are the whole packages of `benchmarks.agent.packages`, and the runner does each by `do` and by plan,
review and merge.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.agent.packages import Package, packages
from benchmarks.agent.running import ROOT, executor_here
from benchmarks.agent.tasks import TASKS, Task
from benchmarks.peers.agents import AGENTS
from benchmarks.peers.endpoint import GEMINI, MESSAGES, RESPONSES, Endpoint, Upstream, serving
from benchmarks.peers.installing import Missing, install, pins
from benchmarks.peers.running import RUNNER, WAYS, Row, Run, markdown, run_peer, run_runner
from runner import __version__

FOLDER = ROOT / "build/peers"
SCRIPTED = "gemini-2.5-flash"  # a name that every agent knows; no such model is asked
LIMIT, PACKAGE_LIMIT, LIVE_LIMIT = 45.0, 300.0, 900.0  # seconds for a peer's task


def main() -> None:
    """Install what is missing, run the tasks, print the table and keep both forms of it below `FOLDER`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Run the tasks on other agents too."
    )
    names = [*WAYS, *(agent.name for agent in AGENTS)]
    parser.add_argument("--packages", action="store_true", help="the tasks are whole packages of the index")
    parser.add_argument("names", nargs="*", metavar="TASK", help="default: all")
    parser.add_argument("--agent", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="so many tasks at a time; times then mean less"
    )
    parser.add_argument("--gemini", metavar="MODEL", help="a real model for those that speak Gemini's format")
    parser.add_argument("--openai", metavar="MODEL", help="a real model for codex, which speaks OpenAI's responses")
    parser.add_argument(
        "--anthropic", metavar="MODEL", help="a real model for claude-code, which speaks Anthropic's messages"
    )
    asked = parser.parse_args()
    tasks = {task.name: task for task in (packages() if asked.packages else TASKS)}
    for name in asked.names:
        if name not in tasks:
            parser.error(f"there is no task `{name}`; there are {', '.join(tasks)}")
    own = [name for name in WAYS if (name != RUNNER) == asked.packages]
    chosen = asked.agent or [name for name in names if name in own or name not in WAYS]
    executor = executor_here()
    models = {GEMINI: asked.gemini, RESPONSES: asked.openai, MESSAGES: asked.anthropic}
    live = any(models.values())
    if live and executor != "sandbox":
        parser.error("a real model's commands are only run where bubblewrap works")
    upstreams = _upstreams(parser, asked) if live else None
    if not live:
        models = dict.fromkeys(models, SCRIPTED)

    if missing := [name for name in chosen if name in WAYS and name not in own]:
        parser.error(f"`{missing[0]}` is for {'small tasks' if asked.packages else '--packages'}")
    pinned = pins()
    peers = {agent.name: agent for agent in AGENTS if agent.name in chosen}
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: install(pinned[name], FOLDER / name), peers)
        programs = dict(zip(peers, found, strict=True))
    limit = LIVE_LIMIT if live else PACKAGE_LIMIT if asked.packages else LIMIT

    def one(name: str, task: Task | Package, endpoint: Endpoint) -> Run | Missing:
        model = models[peers[name].format if name in peers else GEMINI]
        if model is None:
            return Missing("no model of its format was named")
        if name in WAYS:
            return run_runner(task, endpoint, model, executor, name)
        program, before = programs[name], runs[name][:1]
        if isinstance(program, Missing):
            return program
        if before and isinstance(before[0], Missing):
            return before[0]  # what does not start once is not waited for again
        return run_peer(peers[name], program, task, endpoint, model, executor, limit)

    def all_(task: Task | Package) -> list[Run | Missing]:
        with serving(upstreams) as endpoint:
            return [
                one(name, task, endpoint) for name in runs
            ]  # in turns, so that a busy moment of the machine hits all

    runs: dict[str, list[Run | Missing]] = {name: [] for name in names if name in chosen}
    versions = {**dict.fromkeys(WAYS, __version__), **{name: pin.version for name, pin in pinned.items()}}
    with ThreadPoolExecutor(asked.jobs) as pool:
        named = [tasks[name] for name in asked.names or tasks]
        for task, done in zip(named, pool.map(all_, named), strict=True):
            for name, run in zip(runs, done, strict=True):
                runs[name].append(run)
            # Kept after each task: who stops it has what was measured.
            rows = [Row(name, versions[name], done) for name, done in runs.items()]
            table = markdown(rows, counted="tokens" if live else "≈tokens", model=models[GEMINI] or "")
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / "report.md").write_text(table + "\n", encoding="utf-8")
            plain = {"schema": 1, "live": live, "executor": executor, "models": models}
            plain["agents"] = [
                {**dataclasses.asdict(row), "runs": list(map(dataclasses.asdict, row.runs))} for row in rows
            ]
            (FOLDER / "report.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
            print(f"{task.name}: done", file=sys.stderr)
    print(table)
    print(f"each run: {FOLDER / 'report.json'}", file=sys.stderr)
    sys.exit(1 if failed(rows) else 0)


def failed(rows: list[Row]) -> bool:
    """Return whether someone who started did not solve a task; the runner has to start, too."""
    return any(not one.solved for row in rows for one in row.done()) or any(
        isinstance(one, Missing) for row in rows if row.agent in WAYS for one in row.runs
    )


def _upstreams(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> dict[str, Upstream]:
    found = {}
    for format_, model, key, url, default in (
        (GEMINI, asked.gemini, "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "https://generativelanguage.googleapis.com"),
        (RESPONSES, asked.openai, "OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1"),
        (MESSAGES, asked.anthropic, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    ):
        if not model:
            continue
        if not os.environ.get(key):
            parser.error(f"{key} is not set")
        base = (os.environ.get(url) or default).rstrip("/")
        found[format_] = Upstream(base + {GEMINI: "/v1beta", MESSAGES: "/v1"}.get(format_, ""), os.environ[key])
    return found


if __name__ == "__main__":
    main()
