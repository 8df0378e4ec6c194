"""Tools for a model that plans or judges: the files and history of a commit, and commands that may be checks.

It reads in a workspace of its own, which the first call makes and the end removes; no work is in it. A command runs in the sandbox, in
a clean export of the commit, as a check does. The answer is a call too, so that every model can give it after others.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from runner.errors import RunnerError
from runner.executor import permissions
from runner.executor.asking import LOOKS, Consultation
from runner.executor.effects import Made
from runner.executor.step_run import KeptOutput, Redactor
from runner.executor.workspace_session import WorkspaceSession
from runner.lines import lines_of_output
from runner.protocol.file_models import Field
from runner.protocol.transcript import Result
from runner.store import workspace
from runner.store.project import Project
from runner.tools import Contract, Tool, ToolError, registry
from runner.tools.agent import AgentTools
from runner.tools.commands import Commands, WorkspaceAlias, bounded, folded
from runner.trust import policy
from runner.values import dataclass

READING: Final = ("read_file", "search_text", "list_files", "git")
TOKENS = 100_000  # of all requests; after that the model has to answer
CHECK_TIMEOUT = 600.0


class RunCheckInput(registry.Given):
    """Arguments of `run_check`."""

    command: str = Field(min_length=1, description="a line of shell")


class RunCheckOutput(registry.Value):
    """Result of `run_check`."""

    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """A tool that is opened at its first call."""

    contract: Contract
    function: Callable[[Mapping[str, Any]], Any]

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """See `Tool.call`."""
        return self.function(arguments)


@dataclass(slots=True)
class Gate:
    """Lets a call be made until the model has to answer; what it answers with is judged by the caller."""

    loop: Consultation

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `calls.Gate.make`."""
        loop = self.loop
        if tool.contract.name == loop.proposal:
            return Made({"received": True})
        if loop.looked > LOOKS or loop.total.input_tokens > TOKENS:
            raise ToolError(f"not done: there are no more calls than these; answer now, with `{loop.proposal}`")
        return Made(tool.call(arguments))


@dataclass(frozen=True, slots=True)
class Proposal:
    """The tool that a model answers with: `name` and `description` for the model, and the schema of what it takes."""

    name: str
    description: str
    takes: Mapping[str, Any]


@contextlib.contextmanager
def open_tools(
    project: Project,
    name: str,
    commit: str,
    loop: Consultation,
    proposal: Proposal,
    commands: Sequence[str] = (),
) -> Iterator[bool]:
    """Give the loop what it can look with at the commit, and a tool to answer with; yield whether it can try any command there.

    `name`: of the workspace; the caller holds its lock. `commands`: what may run the tests. Where no command can be run, there are no
    tools. A command is judged by the policy as an agent's shell; on the host it is one of the project's own checks.
    """
    try:
        place = workspace.place(project.dirs, name, project.config.workspace.path)
        session = WorkspaceSession.open(project, name, space=workspace.shell(place, 0))
    except RunnerError:  # the steps say so; a plan can be written all the same
        yield False
        return
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, session)
        opened: dict[str, Tool] = {}

        def call(tool: str) -> Callable[[Mapping[str, Any]], Any]:
            def made(arguments: Mapping[str, Any]) -> Any:
                if not opened:
                    workspace.reset(project.git, session.space, commit, name, project.env, clean=True)
                    opened.update(stack.enter_context(_reading(session)).tools)
                return opened[tool].call(arguments)

            return made

        def check(arguments: Mapping[str, Any]) -> Any:
            line = registry.read_arguments(contract, RunCheckInput, arguments).command.strip()
            if line not in project.config.checks:
                if not any_command:
                    raise ToolError(f"on this machine only these are run: {'; '.join(commands)}")
                _refuse(project, line)
            return _check(session, commit, line, loop.redactor)

        contracts = {one: tool.contract for one, tool in _reading(session).tools.items() if one in READING}
        tools: dict[str, Tool] = {one: Deferred(contract, call(one)) for one, contract in contracts.items()}
        # Where nothing keeps a command in its place, it is one of the project's.
        any_command = session.sandbox.name != "host"
        if not any_command:
            commands = project.config.checks
        if commands:
            told = " or ".join(f"`{line}`" for line in commands)
            more = "or another command that is to be a check, " if any_command else ""
            about = f"Run {told}, {more}in a clean checkout, without network."
            contract = registry.contract_of("run_check", about, "workspace", RunCheckInput, RunCheckOutput)
            tools["run_check"] = Deferred(contract, check)
        answers = Contract(
            name=proposal.name,
            description=proposal.description,
            effect="read",
            parameters=proposal.takes,
            returns=None,
            source="built in",
        )
        tools[proposal.name] = Deferred(answers, dict)
        loop.tools, loop.proposal, loop.gate = tools, proposal.name, Gate(loop)
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


def _remove(session: WorkspaceSession) -> None:
    with contextlib.suppress(OSError):  # `runner clean` removes what is left
        workspace.remove(session.space)


def _reading(session: WorkspaceSession) -> AgentTools:
    readable = (session.space.objects,)
    commands = Commands(session.sandbox, session.space.work, session.base_environment(), readable, ())
    return AgentTools(commands, default_timeout=CHECK_TIMEOUT)


def _refuse(project: Project, command: str) -> None:
    """Refuse a command that the policy of the trusted branch does not allow an agent's shell, or leaves to people.

    Raises:
        ToolError: with the rule.
    """
    subject = policy.call("shell", {"command": command}, effect="workspace", paths=())
    said = policy.evaluate(permissions.trusted_config(project).rules, dataclasses.replace(subject, untrusted=True))
    if said.verdict != "allow":
        raise ToolError(f"the policy does not allow it: {said.why} ({said.where})")


def _check(session: WorkspaceSession, commit: str, line: str, redactor: Redactor) -> dict[str, Any]:
    """Run a command in a clean export of the commit; return its exit code and the start and end of its output."""
    project = session.project
    project.env.say(f"trying `{line}`")
    kept = KeptOutput(redactor)
    try:
        session.prepare(commit)
        folder = session.export(commit)
        outcome = session.run(
            line, session.base_environment(folder), timeout=CHECK_TIMEOUT, cwd=folder, on_output=kept.take
        )
    except RunnerError as error:
        raise ToolError(f"it cannot be run here: {error.what}") from error
    alias = WorkspaceAlias(folder, session.sandbox.place.inside(folder))
    text, _ = bounded(folded(alias.hide_all("\n".join(lines_of_output(kept.data())))))
    why = alias.hide_all(session.explain(line, outcome) or ("timed out" if outcome.timed_out else ""))
    return {"exit_code": outcome.code, "output": "\n".join(filter(None, (text, why)))}
