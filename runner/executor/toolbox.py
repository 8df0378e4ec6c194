"""The tools that a step may call: built-in ones, and functions of Python modules that the trusted branch names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner import beneath
from runner.errors import MalformedFileError, UsageError
from runner.executor import permission, permissions
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import agent_file, log, paths
from runner.protocol.agent_file import AgentFile
from runner.protocol.config import ToolModule
from runner.protocol.plans import Plan, Step
from runner.protocol.state import State
from runner.store import workspace
from runner.tools import contracts, registry
from runner.tools.agent import AgentTools
from runner.tools.base import Contract, Tool, ToolError
from runner.tools.commands import Commands
from runner.tools.python import PythonTools
from runner.values import dataclass

DEFAULT_TIMEOUT = 600.0
ALWAYS = ("finish", "ask_person")  # whatever a coworker's list says


@contextlib.contextmanager
def open_tool(session: WorkspaceSession, plan: Plan, step: Step, where: str) -> Iterator[Tool]:
    """Give the tool that the step names.

    Raises:
        UsageError: there is none of that name.
    """
    name = step.header.tool
    assert name is not None
    with contextlib.ExitStack() as stack:
        tools: dict[str, Tool] = dict(registry.builtin())
        refused: dict[str, str] = {}
        for module in _modules(session, plan, step, where):
            opened = stack.enter_context(_opened(session, module))
            twice = sorted(tools.keys() & opened.tools.keys())
            if twice:
                raise MalformedFileError(
                    f"there are two tools `{twice[0]}`: {tools[twice[0]].contract.source} and"
                    f" {opened.tools[twice[0]].contract.source}",
                    where,
                    "rename one of the functions",
                )
            tools |= opened.tools
            refused |= opened.refused
        try:
            tool = registry.find(name, tools, refused)
        except UsageError as error:
            raise UsageError(error.what, where, error.hint) from error
        yield tool


@dataclass(frozen=True, slots=True)
class LoopTool:
    """A tool that the loop carries out: its arguments are checked here, and what it means is the loop's matter."""

    contract: Contract
    opened: AgentTools

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Return what the model is told; an artifact has to be a file of the workspace, a result what the log can hold.

        Raises:
            ToolError: the arguments are not those of the contract.
        """
        match self.contract.name:
            case "publish_artifact":
                given = contracts.read_arguments(self.contract, contracts.PublishArtifactInput, arguments)
                return self.opened.artifact(given.path)
            case "ask_person":
                contracts.read_arguments(self.contract, contracts.AskPersonInput, arguments)
                return {"asked": True}
            case _:
                contracts.read_arguments(self.contract, contracts.FinishInput, arguments)
                try:
                    log.refuse_unreadable(dict(arguments), "the arguments")
                except UsageError as error:
                    raise ToolError(f"{error.where}: {error.what}; {error.hint}") from error
                return {"done": True}


@contextlib.contextmanager
def open_agent_tools(
    session: WorkspaceSession, plan: Plan, step: Step, state: State, coworker: AgentFile | None, where: str
) -> Iterator[dict[str, Tool]]:
    """Give the tools that an agent step may call: those of the sandbox, and a project's functions.

    A coworker that lists tools by name gets those, and `finish` and `ask_person` in any case. A model's commands on the host
    itself, which nothing keeps in the workspace, are there where a policy says what they may do, or the coworker lists them.

    Raises:
        UsageError: the coworker names a tool that there is not.
    """
    env = session.environment(plan, step, state)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(
            AgentTools(
                Commands(
                    session.sandbox, session.space.work, env, (session.space.objects,), (session.home, session.out)
                ),
                default_timeout=DEFAULT_TIMEOUT,
                allowed=permission.hosts_of(session.project),
            )
        )
        tools: dict[str, Tool] = {
            **opened.tools,
            **{name: LoopTool(contract, opened) for name, contract in contracts.LOOP.items()},
        }
        own: dict[str, Tool] = {}
        for module in _modules(session, plan, step, where):
            own |= stack.enter_context(_opened(session, module)).tools
        named = [tool for tool in coworker.tools if isinstance(tool, str)] if coworker else []
        rules = permissions.trusted_config(session.project).policy
        if rules is None or rules.words.network is None:  # there is no host that it could ask
            del tools["fetch"]
        tools = {
            name: tool
            for name, tool in tools.items()
            if tool.contract.effect != "external" or rules is not None or name in named
        } | own
        if named:
            for name in named:
                if name not in tools:
                    registry.find(name, {**opened.tools, **tools, **own})
            kept = {*named, *own, *ALWAYS}
            tools = {name: tool for name, tool in tools.items() if name in kept}
        yield tools


def _modules(session: WorkspaceSession, plan: Plan, step: Step, where: str) -> list[ToolModule]:
    project = session.project
    found = list(project.config.tools)
    name = step.header.agent or plan.header.agent
    if name:
        path = paths.agent_file(name)
        data = project.trusted.blob(project.git, path)
        if data is None:
            raise MalformedFileError(
                f"there is no coworker `{name}`", where, f"write {path} on {project.trusted.branch}, the trusted branch"
            )
        at = f"{path} on {project.trusted.branch}"
        found += agent_file.parse(data, at).tool_modules()
    return found


@contextlib.contextmanager
def _opened(session: WorkspaceSession, module: ToolModule) -> Iterator[PythonTools]:
    project = session.project
    code = _export_trusted(session)
    interpreter = project.config.workspace.python or "python3"
    environ = project.who.environ
    with PythonTools(
        session.sandbox,
        interpreter=(interpreter,),
        code=code,
        work=session.space.work,
        module=module,
        env={"PATH": environ.get("PATH", ""), **{name: environ[name] for name in module.env if name in environ}},
        timeout=DEFAULT_TIMEOUT,
        readable=(session.space.objects,),
    ) as opened:
        yield opened


def _export_trusted(session: WorkspaceSession) -> Path:
    """Return a folder that holds the trusted branch's tree, made anew where the branch has moved."""
    folder = session.space.root / "trusted"
    stamp = session.space.root / "trusted-commit"
    commit = session.project.trusted.commit
    if stamp.exists() and stamp.read_text() == commit and folder.is_dir():
        return folder
    stamp.unlink(missing_ok=True)
    made = workspace.export(session.project.git, session.space, commit, session.project.who)
    beneath.remove(folder)
    made.rename(folder)
    stamp.write_text(commit)
    return folder
