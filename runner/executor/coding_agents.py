"""A coding agent at work on a step: the engine `acp:NAME` or `cli:NAME` in the step's sandbox, and the gate of its calls.

It sees the workspace, a HOME of its own and its programs, and of the environment what its row and config.yaml of the trusted branch
name. What it asks is judged as a tool's call, `acp:NAME/KIND`; what it does without asking is judged as soon as it is known, and ends
the attempt where it needed more than that.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runner import beneath
from runner.engines import (
    Call,
    Engine,
    KeyMissingError,
    ModelTurn,
    Request,
    Response,
    ToolSpec,
    ToolTurn,
    Usage,
    UserTurn,
    agents,
    registry,
)
from runner.engines.acp import KINDS, AcpEngine, NotDoneError
from runner.engines.agents import Agent
from runner.engines.endpoints import Egress, Tools
from runner.errors import RunnerError, UnsupportedError
from runner.executor import environments, toolbox
from runner.executor.calls import Calls, DeniedError, Gate, Judge, judge_of
from runner.executor.effects import Made
from runner.executor.loop import Limits, Total
from runner.executor.step_run import StepRun
from runner.executor.workspace_session import KeptOutput, step_path
from runner.lines import lines_of, money, with_ends
from runner.protocol import paths
from runner.sandbox.network import Network
from runner.sandbox.process import Session
from runner.tools import Contract, Tool, ToolError
from runner.tools.agent import AgentTools
from runner.tools.commands import MOST_ARGUMENT, WorkspaceAlias
from runner.trust import permit, policy, trusted_config

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
def open_agent(
    run: StepRun, name: str, answered: Mapping[str, str]
) -> Iterator[tuple[Engine, dict[str, Tool], Gate, Egress | None]]:
    """Give the agent as an engine, the tools that its calls are, their gate, and what counts its requests.

    `answered`: people's answers to the questions of MCP servers' tools, which an agent over ACP may call, too.

    Raises:
        RefusedError: the policy does not allow it. UnsupportedError: commands do not run in a sandbox. See `agents.need`.
    """
    permit.refuse_denied(permit.engine(trusted_config.of(run.project), name, run.slug))
    path = step_path(run.project.env.environ.get("PATH", ""))
    row = agents.need(name, run.project.config, None if run.workspace.sandbox.image else path)
    if run.workspace.sandbox.name == "host":
        raise UnsupportedError(
            "a coding agent runs only in a sandbox, because nothing else confines it",
            "executor: host",
            "use `--executor sandbox`",
        )
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(toolbox.open_own_tools(run))
        place = Place(run, name, row, own, _metered(run, name, row))
        if name.startswith("cli:"):
            yield CliEngine(place), own.tools, Calls.of(run), place.meter
            return
        outside = stack.enter_context(toolbox.open_server_tools(run, answered))
        place.tools = Tools({name: _spec(name, tool) for name, tool in outside.items()})
        stack.callback(place.tools.close)
        until = time.monotonic() + run.timeout
        engine = AcpEngine(name, row, place, until=until, meter=place.meter, tools=place.tools)
        stack.callback(engine.close)
        tools = own.tools | outside | {one.contract.name: one for one in (_call_of(engine, kind) for kind in KINDS)}
        yield engine, tools, AgentGate(Calls.of(run), judge_of(run), engine), place.meter


def used_up(limits: Limits, total: Total, meter: Egress) -> str | None:
    """Return why an agent's model is asked no more. `total`: what its attempt has used, but for what the meter has since."""
    usage, usd = meter.since()
    if limits.tokens is not None and total.tokens + usage.input + usage.output >= limits.tokens:
        return limits.reached("tokens", f"the budget of {limits.tokens:,} tokens is used up")
    if limits.usd is not None and usd is None:
        return limits.reached("usd", "the price of the model is not known, so a budget in money cannot be kept")
    if limits.usd is not None and usd is not None and total.usd + usd >= limits.usd:
        return limits.reached("usd", f"the budget of {money(limits.usd)} is used up")
    return None


def _metered(run: StepRun, name: str, row: Agent) -> Egress | None:
    """Return what counts the requests to the agent's model; None where it has no endpoint, or the trusted branch lets a key in.

    Raises:
        KeyMissingError: there is no key for it. KeyRefusedError: what there is cannot be one.
    """
    environ = run.project.env.environ
    if not row.speaks or row.passed:
        return None
    found = registry.upstream(row.speaks, environ)
    if found is None:
        keys = " or ".join(reversed(registry.ROWS[row.speaks].keys))
        raise KeyMissingError(f"no key for the model of {name} is set", f"looked for {keys}", f"set {keys}")
    return Egress(row.speaks, *found, environments.proxies(environ))


@dataclass(slots=True)
class Place:
    """Where one agent works: its step, its row, the runner's own tools, the endpoint of its model and the tools of MCP servers.

    One over ACP has the runner do files and commands by the tools that a model has; see `acp.Client`.
    """

    run: StepRun
    name: str
    row: Agent
    own: AgentTools
    meter: Egress | None
    tools: Tools | None = None

    @property
    def network(self) -> Network | None:
        """What it reaches."""
        workspace, where = self.run.workspace, f"`network` of `{self.name}` in {paths.CONFIG}"
        log = workspace.network_log()
        found = workspace.network(self.row.hosts, where, log)
        reached = [one.network.serves for one in (self.meter, self.tools) if one is not None]
        serves = {port: answer for one in reached for port, answer in one.items()}
        return (found or Network(log=log))._replace(serves=serves) if serves else found

    @property
    def argv(self) -> tuple[str, ...]:
        """Return its command. Where no hosts are there to be reached it knows no proxy: some ask one for their own loopback."""
        if self.row.hosts:
            return self.row.command
        proxies = [f"{kind}_proxy" for kind in ("http", "https", "all")]
        names = (*map(str.upper, proxies), *proxies, "NODE_USE_ENV_PROXY")
        return ("/usr/bin/env", *(word for name in names for word in ("-u", name)), *self.row.command)

    def environment(self) -> dict[str, str]:
        """Return the environment of the agent, with its files written below HOME."""
        workspace, environ = self.run.workspace, self.run.project.env.environ
        words = {
            "{model}": agents.split(self.name)[2],
            "{endpoint}": self.meter.address if self.meter else "",
            "{key}": "held-by-the-runner" if self.meter else "",
        }
        for path, text in self.row.files.items():
            lines = (agents.filled(line, words) for line in with_ends(text))
            _put(workspace.home(), path, "".join(filter(None, lines)))
        given = {name: agents.filled(text, words) for name, text in self.row.env.items()}
        return {
            **self.run.environment(workspace),
            **{name: text for name, text in given.items() if text is not None},
            **{one: environ[one] for one in self.row.passed if one in environ},
        }

    @property
    def cwd(self) -> str:
        """The workspace as the agent sees it."""
        return str(self._alias.path)

    @property
    def _alias(self) -> WorkspaceAlias:
        workspace = self.run.workspace
        return WorkspaceAlias(workspace.space.work, workspace.sandbox.place.inside(workspace.space.work))

    def plain(self, value: Any) -> Any:
        """Take the workspace's path out of JSON."""
        return self._alias.hide(value)

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self.run.project.env.now()

    def start(self) -> Session:
        """Start the agent, in the sandbox."""
        workspace, environment = self.run.workspace, self.environment()
        return workspace.sandbox.open(workspace.command(self.argv, environment, timeout=None, network=self.network))

    def read(self, path: str) -> str:
        """Return a file's text."""
        with _refusing():
            text = self.own.text(path)
        if text is None:
            raise FileNotFoundError(path)
        return text

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        with _refusing():
            self.own.tools["write_file"].call({"path": path, "content": text})

    def shell(self, command: str, folder: str) -> Session:
        """Start a line of the shell in a folder of the workspace."""
        with _refusing():
            return self.own.start(command, folder)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Have the agent read what a tool refuses."""
    try:
        yield
    except ToolError as error:
        raise NotDoneError(str(error)) from error


def _spec(name: str, tool: Tool) -> ToolSpec:
    contract = tool.contract
    return ToolSpec(name=name, description=contract.description, parameters=contract.parameters)


def _put(home: Path, path: str, text: str) -> None:
    """Write a file below HOME, whatever an earlier command made of its place."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        beneath.remove(home.parent, f"{home.name}/{path}")
        beneath.copy(home.parent, f"{home.name}/{path}", Path(file.name))


# --- the calls of an ACP agent ------------------------------------------------------------------------------------------


def _call_of(engine: AcpEngine, kind: str) -> Tool:
    """Return the tool for the calls of a kind that the agent makes itself: to be called is to be permitted."""
    name = f"{engine.prefix}/{kind}"
    contract = Contract(
        name=name,
        description=f"A call of the coding agent {engine.prefix}.",
        effect=policy.effect_of(name) or "external",
        parameters=_ARGUMENTS,
        returns=None,
        source="built in",
    )
    return Tool(contract, lambda arguments: engine.permit(name, arguments))


@dataclass(frozen=True, slots=True)
class AgentGate:
    """Judges calls as `Calls` does; one that is over already cannot be held: it was allowed, or it was wrong."""

    calls: Calls
    judge: Judge
    engine: AcpEngine

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`."""
        is_own = tool.contract.name.startswith(f"{self.engine.prefix}/")
        over = self.engine.over.popleft() if self.engine.over and is_own else None
        if tool.contract.name == f"{self.engine.prefix}/switch_mode":
            self.engine.is_wrong |= over is not None
            why = {"verdict": "deny", "why": "the mode is the one that the table names", "where": "built in"}
            raise DeniedError("not done: the mode stays as it is", why)
        if over is None:
            return self.calls.make(number, tool, arguments, untrusted)
        said = self.judge(tool.contract, arguments, untrusted)
        if said.verdict != "allow":
            self.engine.is_wrong |= over.status != "failed"
            decision = {"verdict": "deny", "why": said.why, "where": said.where}
            raise DeniedError(f"it was made without asking, and {said.why} ({said.where})", decision)
        return Made({"permission": "not asked", "status": over.status})


# --- agents that only have a command line -------------------------------------------------------------------------------


class CliEngine:
    """A program that is started with the task, works and ends. What it changed is the only thing that is known of its work."""

    provider = "cli"

    def __init__(self, place: Place) -> None:
        self.place, self.meter, self.name, self.model = place, place.meter, place.name, place.name.partition(":")[2]
        self._until = time.monotonic() + place.run.timeout

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Run the program to its end, with the task and what its checks found. See `Engine.ask`."""
        run, workspace, first = self.place.run, self.place.run.workspace, request.turns[0]
        assert isinstance(first, UserTurn)
        found = [
            f"Your work is here already, and is not done:\n{one.content}"
            for turn in request.turns[-1:]
            if isinstance(turn, ToolTurn)
            for one in turn.results
        ]
        prompt = "\n\n".join((first.text, request.system, *found))
        env, kept, home = self.place.environment(), KeptOutput(run.redactor), workspace.home()
        _put(home, PROMPT, prompt)
        words = {
            "{prompt}": prompt.encode()[:MOST_ARGUMENT].decode(errors="ignore"),
            "{prompt_file}": os.path.join(workspace.sandbox.place.inside(home), PROMPT),
            "{model}": agents.split(self.name)[2],
        }
        argv = tuple(agents.filled(word, words) or word for word in self.place.argv)

        def take(data: bytes) -> None:
            kept.take(data)
            if on_bytes is not None:
                on_bytes(data)

        seconds = max(1.0, self._until - time.monotonic())
        outcome = workspace.run(argv, env, timeout=seconds, network=self.place.network, on_output=take)
        text, problem = kept.data().decode(errors="replace"), ""
        if outcome.timed_out:
            problem = f"{self.name}: its time is over"
        elif self.meter is not None and self.meter.refused:
            problem = f"{self.name}: {self.meter.refused}"
        elif not outcome.ok:
            problem = f"{self.name}: exit {outcome.code}: {workspace.explain(argv, outcome) or _last(text)}"
        elif not self._has_changed():
            problem = f"{self.name}: it ended, and changed no file"
        summary = _last(text) or "the program ended"
        usage, usd = self.meter.take() if self.meter is not None else (Usage(), None)
        finish = Call(id="finish-1", name="finish", arguments={"status": "done", "summary": summary})
        return Response(
            turn=ModelTurn(text=text[-4000:], calls=() if problem else (finish,), provider=self.provider),
            finish="failed" if problem else "stop",
            problem=problem,
            usage=usage,
            usd=usd if usage != Usage() else None,
            model=self.model,
            raw={"output": text},
        )

    def _has_changed(self) -> bool:
        """Return whether there is any work; what cannot be taken is reported when it is collected."""
        try:
            return bool(self.place.run.workspace.collect(self.place.run.snapshot.tip).changed)
        except RunnerError:
            return True

    def close(self) -> None:
        """Nothing is left of it: the sandbox ended it."""


def _last(text: str) -> str:
    lines = [line.strip() for line in lines_of(text) if line.strip()]
    return lines[-1][:300] if lines else ""
