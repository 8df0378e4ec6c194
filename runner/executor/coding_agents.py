"""A coding agent at work on a step: the engine `acp:NAME` or `cli:NAME` in the step's sandbox, and the gate of its calls.

It sees the workspace, a HOME of its own and its programs, and of the environment what its row and config.yaml of the trusted branch
name. What it asks is judged as a tool's call, `acp:NAME/KIND`; what it does without asking is judged as soon as it is known, and ends
the attempt where it needed more than that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from runner import beneath
from runner.engines import Call, Engine, EngineError, ModelTurn, Request, Response, ToolTurn, UserTurn, agents
from runner.engines.acp import KINDS, AcpEngine
from runner.engines.agents import Agent
from runner.errors import RunnerError, UnsupportedError
from runner.executor import permissions, toolbox
from runner.executor.calls import Calls, DeniedError, Gate
from runner.executor.effects import Made
from runner.executor.step_run import KeptOutput, StepRun
from runner.executor.workspace_session import step_path
from runner.protocol import paths
from runner.sandbox import Network, Session
from runner.tools import Contract, Tool, ToolError
from runner.tools.commands import MOST_ARGUMENT, WorkspaceAlias
from runner.trust import policy
from runner.values import dataclass

PROMPT: Final = "task.txt"  # in HOME
_ARGUMENTS: Final = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "paths": {"type": "array"},
        "command": {"type": "string"},
        "url": {"type": "string"},
        "title": {"type": "string"},
        "edits": {"type": "array"},
        "input": {"type": "object"},
    },
}


@contextlib.contextmanager
def open_agent(run: StepRun, name: str) -> Iterator[tuple[Engine, dict[str, Tool], Gate]]:
    """Give the agent as an engine, the tools that its calls are, and their gate.

    Raises:
        RefusedError: the policy does not allow it. UnsupportedError: commands do not run in a sandbox. See `agents.need`.
    """
    permissions.refuse_engine(run.project, name, run.slug)
    path = step_path(run.project.env.environ.get("PATH", ""))
    row = agents.need(name, run.project.config, None if run.workspace.sandbox.image else path)
    if run.workspace.sandbox.name == "host":
        raise UnsupportedError(
            "a coding agent runs in the sandbox alone: nothing else holds it",
            "executor: host",
            "use `--executor sandbox`",
        )
    with contextlib.ExitStack() as stack:
        tools = stack.enter_context(toolbox.open_own_tools(run))
        if name.startswith("cli:"):
            yield CliEngine(name, row, run), tools, Calls.of(run)
            return
        engine = _acp(run, name, row, tools)
        stack.callback(engine.close)
        tools |= {one.contract.name: one for one in (AgentCall.of(engine, kind) for kind in KINDS)}
        yield engine, tools, AgentGate(Calls.of(run), toolbox.judge_of(run), engine)


def _acp(run: StepRun, name: str, row: Agent, tools: Mapping[str, Tool]) -> AcpEngine:
    session, work = run.workspace, run.workspace.space.work
    alias = WorkspaceAlias(work, session.sandbox.place.inside(work))

    def start() -> Session:
        command = session.command(
            row.command, _prepared(run, name, row), timeout=None, network=_network(run, name, row)
        )
        return session.sandbox.open(command)

    def write(path: str, text: str) -> None:
        try:
            tools["write_file"].call({"path": path, "content": text})
        except ToolError as error:
            raise EngineError(str(error), path, "") from error

    return AcpEngine(
        name, row, start=start, cwd=str(alias.path), plain=alias.hide, write=write, until=time.monotonic() + run.timeout
    )


def _prepared(run: StepRun, name: str, row: Agent) -> dict[str, str]:
    """Return the environment of an agent, with its files written below HOME."""
    session, environ = run.workspace, run.project.env.environ
    model = agents.split(name)[2]
    home = session.home()
    for path, text in row.files.items():
        _put(home, path, text.replace("{model}", model))
    return {
        **session.environment(run),
        **row.env,
        **({row.model: model} if row.model and model else {}),
        **{one: environ[one] for one in row.passed if one in environ},
    }


def _network(run: StepRun, name: str, row: Agent) -> Network | None:
    return run.workspace.network(row.network, f"`network` of `{name}` in {paths.CONFIG}")


def _put(home: Path, path: str, text: str) -> None:
    """Write a file below HOME, whatever an earlier command made of its place."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        beneath.remove(home.parent, f"{home.name}/{path}")
        beneath.copy(home.parent, f"{home.name}/{path}", Path(file.name))


# --- the calls of an ACP agent ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentCall:
    """A call that the agent makes itself; to be called is to be permitted."""

    contract: Contract
    engine: AcpEngine

    @classmethod
    def of(cls, engine: AcpEngine, kind: str) -> AgentCall:
        """Return the tool for the calls of a kind."""
        name = f"{engine.prefix}/{kind}"
        contract = Contract(
            name=name,
            description=f"A call of the coding agent {engine.prefix}.",
            effect=policy.effect_of(name) or "external",
            parameters=_ARGUMENTS,
            returns=None,
            source="built in",
        )
        return cls(contract, engine)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Let the agent make it; see `AcpEngine.permit`."""
        return self.engine.permit(self.contract.name, arguments)


@dataclass(frozen=True, slots=True)
class AgentGate:
    """Judges calls as `Calls` does; one that is over already cannot be held: it was allowed, or it was wrong."""

    calls: Calls
    judge: toolbox.Judge
    engine: AcpEngine

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`."""
        if tool.contract.name == f"{self.engine.prefix}/switch_mode":
            why = {"verdict": "deny", "why": "the mode is the one that the table names", "where": "built in"}
            raise DeniedError("not done: the mode stays as it is", why)
        if not self.engine.over or not isinstance(tool, AgentCall):
            return self.calls.make(number, tool, arguments, untrusted)
        said = self.judge(tool.contract, arguments, untrusted)
        if said.verdict != "allow":
            decision = {"verdict": "deny", "why": said.why, "where": said.where}
            raise DeniedError(f"it was made without asking, and {said.why} ({said.where})", decision)
        return Made(tool.call(arguments))


# --- agents that only have a command line -------------------------------------------------------------------------------


@dataclass(slots=True)
class CliEngine:
    """A program that is started with the task, works and ends. What it changed is the only thing that is known of its work."""

    name: str
    row: Agent
    run: StepRun
    provider: str = "cli"
    _until: float = dataclasses.field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._until += self.run.timeout

    @property
    def model(self) -> str:
        """The program's name and its model's."""
        return self.name.partition(":")[2]

    def ask(
        self,
        request: Request,
        *,
        timeout: float,
        on_text: Callable[[str], None] | None = None,
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> Response:
        """Run the program to its end, with the task and what its checks found. See `Engine.ask`."""
        session, first = self.run.workspace, request.turns[0]
        assert isinstance(first, UserTurn)
        found = [
            f"Your work is here already, and is not done:\n{one.content}"
            for turn in request.turns[-1:]
            if isinstance(turn, ToolTurn)
            for one in turn.results
        ]
        prompt = "\n\n".join((first.text, request.system, *found))
        env, kept, home = _prepared(self.run, self.name, self.row), KeptOutput(self.run.redactor), session.home()
        _put(home, PROMPT, prompt)
        words = {
            "{prompt}": prompt.encode()[:MOST_ARGUMENT].decode(errors="ignore"),
            "{prompt_file}": os.path.join(session.sandbox.place.inside(home), PROMPT),
            "{model}": agents.split(self.name)[2],
        }
        argv = tuple(words.get(word, word) for word in self.row.command)

        def take(data: bytes) -> None:
            kept.take(data)
            if on_bytes is not None:
                on_bytes(data)

        seconds = max(1.0, self._until - time.monotonic())
        outcome = session.run(
            argv, env, timeout=seconds, network=_network(self.run, self.name, self.row), on_output=take
        )
        text, problem = kept.data().decode(errors="replace"), ""
        if outcome.timed_out:
            problem = f"{self.name}: its time is over"
        elif not outcome.ok:
            problem = f"{self.name}: exit {outcome.code}: {session.explain(argv, outcome) or _last(text)}"
        elif not self._has_changed():
            problem = f"{self.name}: it ended, and changed no file"
        summary = _last(text) or "the program ended"
        finish = Call(id="finish-1", name="finish", arguments={"status": "done", "summary": summary})
        return Response(
            turn=ModelTurn(text=text[-4000:], calls=() if problem else (finish,), provider=self.provider),
            finish="failed" if problem else "stop",
            problem=problem,
            model=self.model,
            raw={"output": text},
        )

    def _has_changed(self) -> bool:
        """Return whether there is any work; what of it cannot be taken is told where it is collected."""
        try:
            return bool(self.run.workspace.collect(self.run.view.tip).changed)
        except RunnerError:
            return True

    def close(self) -> None:
        """Nothing is left of it: the sandbox ended it."""


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
