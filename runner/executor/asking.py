"""Open the engines of a phase as the policy allows, and ask one of them single questions.

Each question is a conversation of its own. Before its answer the model may call tools, for a plan or a verdict: to read the
files and the history of a commit, and to run commands that may be checks. They read in a workspace of their own, which the
first call makes and the end removes; a command runs in the sandbox, in a clean export of the commit, as a check does. The
answer is a call too, so that every model can give it after others. Each answer is found in the journal by the digest of its
question, so that no question is asked, and no call made, twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from runner import resources
from runner.engines import MOST_OUTPUT, Engine, Request, Turn, Usage, agents, registry
from runner.engines.recorded import Recorder
from runner.errors import RunnerError, UsageError
from runner.executor import spending
from runner.executor.effects import Made
from runner.executor.journal import Journal
from runner.executor.loop import CONTEXT, BudgetStop, Limits, Loop, turn_of
from runner.executor.workspace_session import KeptOutput, WorkspaceSession, step_path
from runner.lines import lines_of_output
from runner.protocol import paths, transcript
from runner.protocol.config import AgentFile, EngineSettings
from runner.protocol.file_models import Field
from runner.protocol.ids import digest
from runner.protocol.plans import Plan, Step
from runner.protocol.transcript import Result, Results, Undecided
from runner.store import publishing
from runner.store import workspace as workspaces
from runner.store.environment import Redactor
from runner.store.project import Project, Session
from runner.tools import Contract, Tool, ToolError
from runner.tools import registry as tool_registry
from runner.tools.agent import AgentTools
from runner.tools.commands import Commands, WorkspaceAlias, bounded, folded
from runner.trust import permit, policy, trusted_config

LOOKS = 12  # rounds of calls before a plan or a verdict


@dataclass(slots=True)
class Consultation(Loop):
    """Asks single questions. `proposal`: the tool whose arguments are an answer; `looked`: the rounds of calls so far."""

    proposal: str = ""
    looked: int = 0

    def consult(self, request: Request) -> tuple[transcript.Response, list[Turn]]:
        """Return the answer to a request before which the model may call tools, and the turns from the request to the answer.

        The answer is text, or the arguments of a call of `proposal` as JSON. After `LOOKS` rounds of calls the gate refuses more; a
        model that still makes some gave no answer. What the journal has is neither asked nor called again.

        Raises:
            BudgetStop, EngineError: as `question`.
        """
        turns: list[Turn] = []
        while True:
            asked = replace(request, turns=(*request.turns, *turns))
            record = self.question(asked, replace(asked, tools=self._specs(), schema=None) if self.tools else asked)
            turn = turn_of(record)
            turns.append(turn)
            if not turn.calls:
                return record, turns
            self.looked += 1
            done = self._results_of(record)
            if len(done) < len(turn.calls):
                ended = self._tools(turns, turn, done)
                if ended is not None:
                    raise BudgetStop(ended.text)
            else:
                self._hear(turns, done)
            for call in turn.calls:
                if call.name == self.proposal and call.arguments is not None:
                    return record.model_copy(update={"text": json.dumps(call.arguments)}), turns
            if self.looked > LOOKS + 1:
                return record, turns

    def _results_of(self, response: transcript.Response) -> list[Result]:
        """Return the results that the journal has of a response's calls."""
        found: list[Result] = []
        for record in reversed(self.journal.records):
            if isinstance(record, Results):
                found[:0] = record.results
            elif isinstance(record, transcript.Response):
                if record.request == response.request:
                    return found
                found = []
        return []

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """Make a call until the model has to answer: the gate of its calls. What it answers with is judged by the caller."""
        if tool.contract.name == self.proposal:
            return Made({"received": True})
        if self.looked > LOOKS or self.total.input_tokens > TOKENS:
            raise ToolError(f"not done: there are no more calls than these; answer now, with `{self.proposal}`")
        return Made(tool.call(arguments))

    def question(self, request: Request, sent: Request | None = None) -> transcript.Response:
        """Return the answer to a request that stands for itself, journaled; one that the journal has is not asked again,
        unless nothing could be made of it (a record `undecided` came after it).

        `sent`: the request with the tools that there are, which may be others in another clone.

        Raises:
            BudgetStop: it could cost more than is left. EngineError: no engine answered.
        """
        found = self.known(request)
        if found is not None:
            return found
        return self._answer(transcript.Response, *self._ask(sent or request), kind="response", request=_digest(request))

    def known(self, request: Request) -> transcript.Response | None:
        """Return the answer that the journal has to a request that stands for itself."""
        asked = _digest(request)
        for record in reversed(self.journal.records):
            if isinstance(record, Undecided):
                break
            if isinstance(record, transcript.Response) and record.request == asked:
                return record
        return None

    def undecided(self, *problems: str) -> None:
        """Note that nothing could be made of the answers so far: the questions are asked anew."""
        self.journal.undecided(self.env.timestamp(), *problems)


def _digest(request: Request) -> str:
    """Return the digest of a request, of which every letter counts: it is no recording."""
    return digest(json.dumps(request.plain(), sort_keys=True).encode())


def answer_schema(name: str) -> dict[str, Any]:
    """Return a shipped schema as a model is given it for its answer."""
    schema: dict[str, Any] = json.loads(resources.schema(name))
    return {key: value for key, value in schema.items() if not key.startswith("$") or key == "$defs"}


def engine_names(
    project: Project, plan: Plan | None, step: Step | None, agent: AgentFile | None, phase: str = "execute"
) -> tuple[str, ...]:
    """Return the engines of a phase, in the order in which they are asked: from option, environment, step, plan, agent file or config.

    `plan`, `step`: None before there is one, or where the phase is not about one.

    A coding agent does the work of a step: another phase has the engine that is named after it.

    Raises:
        UsageError: no engine is named and none is found; it lists the variables to set. A coding agent is one of several.
    """
    environ = project.env.environ
    headers = [of.header.engine for of in (step, plan) if of is not None]
    for one in (project.options.get("engine"), environ.get("RUNNER_ENGINE"), *headers, agent.engine if agent else None):
        if one and (phase == "execute" or not agents.is_agent(one)):
            return (one,)
    config = project.config.engine
    named: tuple[str, ...] = getattr(config, phase) or (config.plan if phase == "decompose" else ()) or config.default
    if phase != "execute":
        named = tuple(one for one in named if not agents.is_agent(one))
    elif len(named) > 1 and (found := next(filter(agents.is_agent, named), None)):
        raise UsageError(
            f"`{found}` is one of several engines: a coding agent has none to fall back on",
            f"{paths.CONFIG}, engine",
            "name it alone, or in the step's `engine:`",
        )
    return named or (registry.default_name(environ),)


@contextlib.contextmanager
def open_engines(project: Project, names: tuple[str, ...], step: str | None = None) -> Iterator[tuple[Engine, ...]]:
    """Open the engines; the option `record` names a cassette that gets their answers. Paths are relative to the repository's top.

    `step`: the step of the attempt.

    Raises:
        RefusedError: the policy does not allow one of them.
    """
    top, record = project.git.top or project.git.cwd, project.options.get("record")
    with contextlib.ExitStack() as stack:
        found = []
        for name in names:
            permit.refuse_denied(permit.engine(trusted_config.of(project), name, step))
            engine = registry.open_engine(name, project.env.environ, top)
            if record:
                engine = Recorder(engine, top / record, price, Redactor(project.env.environ).value)
            stack.callback(engine.close)
            found.append(engine)
        yield tuple(found)


def need(project: Project, names: tuple[str, ...]) -> None:
    """Check that the engines of a step can be used; no request is made.

    Raises:
        EngineError: something that one needs is missing. RefusedError: the policy does not allow it.
    """
    if agents.is_agent(names[0]):
        permit.refuse_denied(permit.engine(trusted_config.of(project), names[0], None))
        path = step_path(project.env.environ.get("PATH", ""))
        agents.need(names[0], project.config, None if project.setting("executor") == "container" else path)
        return
    with open_engines(project, names):
        pass


def questioner(
    session: Session,
    journal: Journal,
    engines: tuple[Engine, ...],
    redactor: Redactor,
    limits: Limits,
    protocol: str = "",
) -> Consultation:
    """Return what asks single questions and journals the answers, without tools; `open_tools` gives it some."""
    return Consultation(
        journal=journal,
        engines=engines,
        limits=limits,
        redactor=redactor,
        price=price,
        most_output=most_output,
        settings=settings_of(session),
        env=session.env,
        ensure=lambda: publishing.ensure_lease(session),
        total=spending.of(journal.records),
        shared_budget=spending.shared_budget(session, protocol),
    )


def price(engine: Engine, usage: Usage) -> Decimal | None:
    """Return what a response costs, in US dollars; a recorded one's, at the price of its model."""
    return registry.cost_usd(engine.provider, engine.model, usage)


def settings_of(session: Session) -> Callable[[Engine], EngineSettings]:
    """Return a function that gives how config.yaml wants an engine to be asked."""
    return lambda engine: session.project.config.engine.settings.get(engine.name, EngineSettings())


def context_of(session: Session, engines: Sequence[Engine]) -> int:
    """Return the tokens that a conversation may have: by config.yaml, else what each of the models takes, `CONTEXT` at most."""
    found = []
    for engine in engines:
        said = settings_of(session)(engine)
        room = registry.window(engine.provider, engine.model) or 2 * CONTEXT
        left = max(int(room * 0.8) - (said.output or MOST_OUTPUT), room // 4)  # the size is an estimate
        found.append(said.context or min(CONTEXT, left))
    return min(found)


def most_output(engine: Engine) -> int | None:
    """Return the most tokens that an answer of an engine's model can have; None where it is not known."""
    return registry.most_output(engine.model)


READING: Final = ("read_file", "search_text", "list_files", "git")
TOKENS = 100_000  # of all requests; after that the model has to answer
CHECK_TIMEOUT = 600.0


class RunCheckInput(tool_registry.Given):
    """Arguments of `run_check`."""

    command: str = Field(min_length=1, description="a line of shell")


def proposal(name: str, description: str, takes: Mapping[str, Any]) -> Contract:
    """Return the tool that a model answers with. `takes`: the schema of the answer."""
    takes = tool_registry.inlined(takes)
    return Contract(
        name=name, description=description, effect="read", parameters=takes, returns=None, source="built in"
    )


@contextlib.contextmanager
def open_tools(
    session: Session,
    name: str,
    commit: str,
    loop: Consultation,
    answers: Contract,
    commands: Sequence[str] = (),
) -> Iterator[bool]:
    """Give the loop what it can look with at the commit, and the tool `answers`; yield whether it can try any command there.

    `name`: of the workspace; the caller holds its lock. `commands`: what may run the tests. Where no command can be run, there are no
    tools. A command is judged by the policy as an agent's shell; on the host it is one of the project's own checks.
    """
    try:
        place = workspaces.place(session.project, name, session.project.config.workspace.path)
        workspace = WorkspaceSession.open(session, name, space=workspaces.shell(place, 0))
    except RunnerError:  # the steps say so; a plan can be written all the same
        yield False
        return
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, workspace)
        opened: dict[str, Tool] = {}

        def call(tool: str) -> Callable[[Mapping[str, Any]], Any]:
            def made(arguments: Mapping[str, Any]) -> Any:
                if not opened:
                    workspaces.reset(workspace.space, commit, name, clean=True)
                    opened.update(stack.enter_context(_reading(workspace)).tools)
                return opened[tool].call(arguments)

            return made

        def check(arguments: Mapping[str, Any]) -> Any:
            line = tool_registry.read_arguments(contract, RunCheckInput, arguments).command.strip()
            if line not in session.project.config.checks:
                if not any_command:
                    raise ToolError(f"on this machine only these are run: {'; '.join(commands)}")
                _refuse(session.project, line)
            return _check(workspace, commit, line, loop.redactor)

        contracts = {one: tool.contract for one, tool in _reading(workspace).tools.items() if one in READING}
        tools: dict[str, Tool] = {one: Tool(contract, call(one)) for one, contract in contracts.items()}
        # Where nothing keeps a command in its place, it is one of the project's.
        any_command = workspace.sandbox.name != "host"
        if not any_command:
            commands = session.project.config.checks
        if commands:
            told = " or ".join(f"`{line}`" for line in commands)
            more = "or another command that is to be a check, " if any_command else ""
            about = f"Run {told}, {more}in a clean checkout, without network."
            contract = tool_registry.contract_of("run_check", about, "workspace", RunCheckInput)
            tools["run_check"] = Tool(contract, check)
        tools[answers.name] = Tool(answers, dict)
        loop.tools, loop.proposal, loop.gate = tools, answers.name, loop
        loop.offered = frozenset(tools) - {"list_files"}  # the names of the files are in the request
        yield any_command


def has_run(result: Result) -> bool:
    """Return whether a result is of a check that ran: a command that is not there did not."""
    told = result.content
    return (
        result.name == "run_check"
        and not result.error
        and isinstance(told, dict)
        and told["exit_code"] not in (126, 127)
    )


def _remove(workspace: WorkspaceSession) -> None:
    with contextlib.suppress(OSError):  # `runner clean` removes what is left
        workspaces.remove(workspace.space)


def _reading(workspace: WorkspaceSession) -> AgentTools:
    readable = (workspace.space.objects,)
    commands = Commands(workspace.sandbox, workspace.space.work, workspace.base_environment(), readable, ())
    return AgentTools(commands, default_timeout=CHECK_TIMEOUT)


def _refuse(project: Project, command: str) -> None:
    """Refuse a command that the policy of the trusted branch does not allow an agent's shell, or leaves to people.

    Raises:
        ToolError: with the rule.
    """
    subject = policy.call("shell", {"command": command}, effect="workspace", paths=())
    said = policy.evaluate(trusted_config.of(project).rules, subject._replace(untrusted=True))
    if said.verdict != "allow":
        raise ToolError(f"the policy does not allow it: {said.why} ({said.where})")


def _check(workspace: WorkspaceSession, commit: str, line: str, redactor: Redactor) -> dict[str, Any]:
    """Run a command in a clean export of the commit; return its exit code and the start and end of its output."""
    session = workspace.session
    session.env.say(f"trying `{line}`")
    kept = KeptOutput(redactor)
    try:
        workspace.prepare(commit)
        folder = workspace.export(commit)
        outcome = workspace.run(
            line, workspace.base_environment(folder), timeout=CHECK_TIMEOUT, cwd=folder, on_output=kept.take
        )
    except RunnerError as error:
        raise ToolError(f"it cannot be run here: {error.what}") from error
    alias = WorkspaceAlias(folder, workspace.sandbox.place.inside(folder))
    text, _ = bounded(folded(alias.hide_all("\n".join(lines_of_output(kept.data())))))
    why = alias.hide_all(workspace.explain(line, outcome) or ("timed out" if outcome.timed_out else ""))
    return {"exit_code": outcome.code, "output": "\n".join(filter(None, (text, why)))}
