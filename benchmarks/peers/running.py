"""One task, done by one agent against the endpoint, and what came of it; and the report of many."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent.packages import Package
from benchmarks.agent.running import DO, FLOW, PLAN, Scratch, carry_out
from benchmarks.agent.tasks import Task, write
from benchmarks.peers.agents import Agent, flow_scripts, runner_script
from benchmarks.peers.endpoint import GEMINI, Endpoint, waited
from benchmarks.peers.installing import Missing, last_line
from runner.engines import Usage
from runner.engines.registry import cost_usd

RUNNER = "runner"
WAYS = {RUNNER: PLAN, f"{RUNNER} do": DO, f"{RUNNER} {FLOW}": FLOW}


@dataclass(frozen=True, slots=True)
class Run:
    """What an agent did with a task. `solved`: the test that judges holds in its tree.

    `turns`: answered requests that offered tools; `bytes_sent`: of all requests' bodies; `outside`: seconds of the whole in
    which no request was under way; `said`: what the endpoint had to refuse, or why it was not solved.
    """

    agent: str
    task: str
    solved: bool
    turns: int
    requests: int
    bytes_sent: int
    first_bytes: int
    input_tokens: int
    output_tokens: int
    seconds: float
    outside: float
    said: str
    cached_tokens: int = 0


def run_runner(
    task: Task | Package, endpoint: Endpoint, model: str, executor: str, name: str = RUNNER
) -> Run | Missing:
    """Let the runner do a task on one of its ways: in its own sandbox, checked and committed."""
    endpoint.expect(runner_script(task), flow_scripts(task))
    env = {"GEMINI_API_KEY": endpoint.key, "GOOGLE_GEMINI_BASE_URL": endpoint.url, "NO_PROXY": "*"}
    done = carry_out(task, f"{GEMINI}:{model}", executor, way=WAYS[name], env=env)
    return _run(name, task, endpoint, done.solved, done.seconds, done.said)


def run_peer(
    agent: Agent, program: Path, task: Task | Package, endpoint: Endpoint, model: str, executor: str, limit: float
) -> Run | Missing:
    """Let a peer do a task, for `limit` seconds at most; what never asked the endpoint anything has not started."""
    endpoint.expect(agent.script(task), tools=agent.tools)
    root = Path(tempfile.mkdtemp(prefix="runner-peer-")).resolve()
    try:
        (root / "tmp").mkdir()
        env = {"TMPDIR": str(root / "tmp"), "NO_PROXY": "127.0.0.1", **agent.env(endpoint.url, endpoint.key)}
        scratch = Scratch(root, executor, env)
        write(root / "home", agent.home)
        scratch.lay(task)
        began = time.monotonic()
        code, said = _start(scratch, agent.argv(program, endpoint.url, model, task.wish), limit)
        seconds = time.monotonic() - began
        if not endpoint.exchanges:
            return Missing(f"does not start: {code}: {last_line(said)}")
        return _run(agent.name, task, endpoint, scratch.holds(task, scratch.at), seconds, f"{code}: {last_line(said)}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _start(scratch: Scratch, argv: Sequence[str], limit: float) -> tuple[str, str]:
    with subprocess.Popen(
        scratch.inside(*argv),
        cwd=scratch.at,
        env=scratch.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="replace",
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
            code = f"exit {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            code = f"stopped after {limit:.0f} s"
    return code, err if err.strip() else out


def _run(
    agent: str, task: Task | Package, endpoint: Endpoint, solved: bool, seconds: float, said: str
) -> Run | Missing:
    # A copy: a request that is still being answered changes nothing any more.
    all_ = list(endpoint.exchanges)
    if not all_:
        return Missing(f"does not start: {last_line(said)}")
    return Run(
        agent=agent,
        task=task.name,
        solved=solved,
        turns=sum(one.turn and one.status == 200 for one in all_),
        requests=len(all_),
        bytes_sent=sum(one.size for one in all_),
        first_bytes=next((one.size for one in all_ if one.turn), all_[0].size),
        input_tokens=sum(one.input_tokens for one in all_),
        output_tokens=sum(one.output_tokens for one in all_),
        seconds=seconds,
        outside=max(0.0, seconds - waited(all_)),
        said="; ".join(dict.fromkeys(endpoint.wrong)) or ("" if solved else said),
        cached_tokens=sum(one.cached_tokens for one in all_),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """An agent and its runs; a `Missing` among them is a task at which it did not start."""

    agent: str
    version: str
    runs: Sequence[Run | Missing]

    def done(self) -> list[Run]:
        """Return the runs that there were."""
        return [one for one in self.runs if isinstance(one, Run)]


def markdown(rows: Sequence[Row], *, counted: str, model: str = "") -> str:
    """Return the rows as a table. `counted`: how tokens were; what was not measured is an empty cell with its reason.

    `model`: the one whose prices the cost has, the same for all rows.
    """
    lines = [
        f"| agent | solved | turns | requests | first request | sent | {counted} in | cached | out | cost | a task |"
        " outside the model | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        done = row.done()
        reasons = list(dict.fromkeys(one.reason for one in row.runs if isinstance(one, Missing)))
        reasons += [f"{one.task}: {last_line(one.said)}" for one in done if one.said]
        why = "; ".join(reasons)
        if not done:
            lines.append(f"| {row.agent} {row.version} | | | | | | | | | | | | {why} |")
            continue
        seconds = statistics.median(one.seconds for one in done)
        outside = statistics.median(one.outside for one in done)
        lines.append(
            f"| {row.agent} {row.version} | {sum(one.solved for one in done)} of {len(row.runs)} |"
            f" {sum(one.turns for one in done)} | {sum(one.requests for one in done)} |"
            f" {statistics.median(one.first_bytes for one in done) / 1000:.1f} kB |"
            f" {sum(one.bytes_sent for one in done) / 1000:,.0f} kB | {sum(one.input_tokens for one in done):,} |"
            f" {sum(one.cached_tokens for one in done):,} | {sum(one.output_tokens for one in done):,} | {_cost(done, model)} |"
            f" {seconds:.2f} s | {outside:.2f} s | {why} |"
        )
    return "\n".join(lines)


def _cost(done: Sequence[Run], model: str) -> str:
    used = {kind: sum(getattr(one, f"{kind}_tokens") for one in done) for kind in ("input", "output", "cached")}
    price = cost_usd("gemini", model, Usage(**used)) if model else None
    return "" if price is None else f"${price:.2f}"
