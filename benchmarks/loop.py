"""The agent's loop: what a turn costs beside model and tool, and a step with recorded answers as a whole process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks import step as step_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, Spread, at_most, in_turns, within
from runner.app import create
from runner.engines import Call, Json, ModelTurn, Request, Response, Usage, registry
from runner.executor import advance
from runner.sandbox.bubblewrap import Bubblewrap
from runner.sandbox.mounts import toolchains
from runner.sandbox.process import Command
from runner.store.project import Session

FILES = 1000
AGENT = {
    "plan.md": b"---\ntitle: A plan\n---\nWhat and why.\n",
    "01-a.md": b"---\ntitle: A\nkind: agent\nqa: skip\n---\nDo it.\n",
}
COMMAND = {**AGENT, "01-a.md": b"---\ntitle: A\nkind: command\nrun: echo a > a.txt\nqa: skip\n---\nDo it.\n"}
# What a model calls, by turns: one that repeats the same call ends its attempt. `publish_artifact` is carried out by the loop: it is
# hardly any work of a tool.
CALLS: Mapping[str, tuple[str, tuple[dict[str, Json], dict[str, Json]]]] = {
    "nothing": ("publish_artifact", ({"path": "src/p00/q00/f0000.py"}, {"path": "src/p00/q00/f0001.py"})),
    "command": ("run", ({"argv": ["true"]}, {"argv": ["true", "again"]})),
    "file": ("write_file", ({"path": "a.txt", "content": "a\n"}, {"path": "a.txt", "content": "b\n"})),
}


class Instant:
    """A model that takes no time: so many turns that call one tool, and `finish`. It notes when it was asked and answered."""

    provider, model = "instant", "instant"

    def __init__(self, what: str) -> None:
        """`what`: a name of `CALLS` and a number of turns, `nothing*20`."""
        name, _, turns = what.partition("*")
        self.name, self._call, self._left = f"instant:{what}", CALLS[name], int(turns)
        MADE.append(self)
        self.between: list[float] = []
        self._answered: float | None = None

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Call the tool once more, or finish."""
        if self._answered is not None:
            self.between.append(time.perf_counter() - self._answered)
        name, given = self._call
        arguments: Mapping[str, Json] = given[self._left % 2]
        if not self._left:
            name, arguments = "finish", {"status": "done", "summary": "done"}
        self._left -= 1
        call = Call(id=f"c{self._left}", name=name, arguments=dict(arguments))
        turn = ModelTurn(text="", calls=(call,), provider=self.provider, raw={"call": name})
        self._answered = time.perf_counter()
        return Response(turn=turn, usage=Usage(input=1000, output=50), model=self.model)

    def close(self) -> None:
        """Nothing is held."""


MADE: list[Instant] = []


def run(ground: Ground) -> Iterator[Figure]:
    """Measure turns in this process, and whole processes in turns."""
    found_as = registry.open_engine
    registry.open_engine = lambda name, environ, base: (
        Instant(name.partition(":")[2]) if name.startswith("instant:") else found_as(name, environ, base)
    )
    turns, rounds = (10, 3) if ground.quick else (60, 10)
    at = ground.repository(FILES)
    base = in_turns(rounds, {"click": lambda: ground.run([sys.executable, "-c", "import click"], at)})["click"]
    executors = ["host", *(["sandbox"] if step_._sandbox(ground) else [])]
    for executor in executors:
        found = _turns(ground, at, executor, f"nothing*{turns}")
        yield within(f"loop, {FILES:,} files: a turn beside model and tool, {executor}", found, 0.015, base)
        wrote = _turns(ground, at, executor, f"file*{turns}")
        yield Figure(f"loop, {FILES:,} files: a turn that writes a file, the tool included, {executor}", wrote.text())
    if "sandbox" in executors:
        found = _turns(ground, at, "sandbox", f"command*{turns}")
        yield within(f"loop, {FILES:,} files: a turn with a sandboxed command", found, 0.040, base)
        yield from _bubblewrap(ground, found, turns)
    yield from _processes(ground, at, executors, rounds)


def _bubblewrap(ground: Ground, turn: Spread, rounds: int) -> Iterator[Figure]:
    """Measure what of such a turn nobody gets around: bwrap with one mount, and with the mounts of a command's."""
    work = ground.at / "sandboxed"
    work.mkdir()
    sandbox, env = Bubblewrap(toolchains(ground.env["PATH"], ground.home)), {"PATH": ground.env["PATH"]}
    command = Command(("true",), work, env, 20, writable=(work,))
    argv = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    found = in_turns(
        rounds,
        {"bare": lambda: subprocess.run(argv, check=True), "ours": lambda: sandbox.run(command)},
    )
    yield Figure("loop: bwrap alone, one mount", found["bare"].text())
    yield at_most("loop: a command in our sandbox, against bwrap alone", found["ours"], found["bare"])
    yield at_most("loop: a turn with a sandboxed command, against bwrap alone", turn, found["bare"])


def _turns(ground: Ground, at: Path, executor: str, what: str) -> Spread:
    """Carry a step out here and return the times from an answer to the next question, without the first."""
    with Session.open(at, ground.environment(), {"engine": f"instant:{what}", "executor": executor}) as session:
        advance.step(session, create.create(session, "A plan", AGENT, where="plan").protocol)
    times = MADE[-1].between
    if len(times) < int(what.partition("*")[2]):
        raise SystemExit(f"{what}: the step ended after {len(times)} turns")
    return Spread(tuple(times[1:]))


def _processes(ground: Ground, at: Path, executors: list[str], rounds: int) -> Iterator[Figure]:
    """Measure `runner step`: an agent's step of recorded answers against a command, both leaving one file."""
    for executor in executors:
        cassette = ground.at / f"{executor}.jsonl"
        options = {"engine": "instant:file*1", "executor": executor, "record": str(cassette)}
        with Session.open(at, ground.environment(), options) as session:
            advance.step(session, create.create(session, "A plan", AGENT, where="plan").protocol)
            made = {
                kind: [create.create(session, "A plan", files, where="plan").protocol for _ in range(rounds + 2)]
                for kind, files in (("agent", AGENT), ("command", COMMAND))
            }
        env = {"RUNNER_EXECUTOR": executor, "RUNNER_ENGINE": f"recorded:{cassette}"}

        def act(kind: str, env: Mapping[str, str] = env, made: dict[str, list[str]] = made) -> None:
            ground.runner(at, "step", made[kind].pop(), env=env)

        found = in_turns(rounds, {kind: partial(act, kind) for kind in made})
        yield at_most(
            f"loop: runner step, recorded answers, {executor}, against a command step",
            found["agent"],
            found["command"],
            3.0,
        )
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "runner", "step", made["agent"].pop()],
            cwd=at, env={**ground.env, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        )  # fmt: skip
        names = [
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
        ]
        sdk = [name for name in names if name.split(".")[0] == "google"]
        yield Figure(
            f"loop: modules of an SDK in that step, {executor}", f"{len(sdk)} of {len(names)}", None, "0", not sdk
        )
