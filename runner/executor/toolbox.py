"""The tools of a step: built in, functions of Python modules that the trusted branch names, and those of MCP servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import beneath
from runner.errors import MalformedFileError, UsageError, installs
from runner.executor import calls
from runner.executor.step_run import StepRun
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import log, paths
from runner.protocol.config import McpServer, ToolModule
from runner.sandbox.process import Command
from runner.store import workspace as workspaces
from runner.store.project import Project
from runner.tools import Contract, Tool, ToolError, mcp_client, registry, servers
from runner.tools.agent import CORE, WITHOUT_SHELL, AgentTools
from runner.tools.commands import Commands
from runner.tools.python import PythonTools, ToolModuleError, command_of
from runner.tools.servers import ServerTools
from runner.trust import trusted_config

DEFAULT_TIMEOUT = 600.0
CALL_TIMEOUT = 120.0  # of an MCP server: for its start, and for each call
ALWAYS = ("finish", "ask_person")  # whatever a coworker's list says


@contextlib.contextmanager
def open_tool(run: StepRun) -> Iterator[Tool]:
    """Give the tool that the step names.

    Raises:
        UsageError: there is none of that name.
    """
    name, where = run.step.header.tool, run.where
    assert name is not None
    with contextlib.ExitStack() as stack:
        tools: dict[str, Tool] = dict(registry.BUILTIN)
        refused: dict[str, str] = {}
        for module in _modules(run):
            opened = stack.enter_context(_opened(run.workspace, module))
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
        server, _, rest = name.removeprefix("mcp:").partition("/")
        if rest and name.startswith("mcp:") and server in run.project.config.mcp:
            one = server_tools(run.project, server, _connects(run, server, {}))
            tools |= stack.enter_context(servers.opened([one]))
            refused |= one.refused
        try:
            tool = registry.find(name, tools, refused)
        except UsageError as error:
            raise UsageError(error.what, where, error.hint) from error
        yield tool


def _of_loop(contract: Contract, opened: AgentTools) -> Tool:
    """Return a tool that the loop carries out: its arguments are checked here, and what it means is the loop's matter.

    An artifact has to be a file of the workspace, a result a value that the log can hold.
    """

    def call(arguments: Mapping[str, Any]) -> Any:
        match contract.name:
            case "publish_artifact":
                given = registry.read_arguments(contract, registry.PublishArtifactInput, arguments)
                return opened.artifact(given.path)
            case "ask_person":
                registry.read_arguments(contract, registry.AskPersonInput, arguments)
                return {"asked": True}
            case _:
                ended = registry.read_arguments(contract, registry.FinishInput, arguments)
                if contract is not registry.FINISH and ended.status == "done" and ended.result is None:
                    raise ToolError("`result` is missing: the step promises it, with the fields that the schema says")
                try:
                    log.refuse_unreadable(dict(arguments), "the arguments")
                except UsageError as error:
                    raise ToolError(f"{error.where}: {error.what}; {error.hint}") from error
                return {"done": True}

    return Tool(contract, call)


@contextlib.contextmanager
def open_own_tools(run: StepRun) -> Iterator[AgentTools]:
    """Give the runner's own tools of an agent step, those that the loop carries out included."""
    workspace = run.workspace
    folders = (workspace.home(), workspace.out())
    commands = Commands(
        workspace.sandbox, workspace.space.work, run.environment(workspace), (workspace.space.objects,), folders
    )
    with AgentTools(commands, default_timeout=DEFAULT_TIMEOUT, allowed=calls.hosts_of(run.project)) as opened:
        contracts = dict(registry.LOOP)
        if run.step.header.result is not None:
            contracts["finish"] = registry.finish_with(run.step.header.result)
        opened.tools |= {name: _of_loop(contract, opened) for name, contract in contracts.items()}
        yield opened


@contextlib.contextmanager
def open_server_tools(run: StepRun, answered: Mapping[str, str]) -> Iterator[dict[str, Tool]]:
    """Give the tools of the MCP servers of an agent's step: all, or those that its agent file lists. `answered`: as below."""
    named = _named(run)
    with servers.opened(_servers(run, named, answered)) as opened:
        yield {name: tool for name, tool in opened.items() if not named or name in named}


@contextlib.contextmanager
def open_agent_tools(run: StepRun, answered: Mapping[str, str]) -> Iterator[dict[str, Tool]]:
    """Give the tools of an agent step: those of the sandbox, and functions of the project.

    An agent file that lists tools by name limits them to these, `finish` and `ask_person`. Commands on the host itself, which nothing
    keeps in the workspace, exist where a policy governs them, or the agent file lists them. `answered`: people's answers to the
    questions of tools, as they are when a call is made.

    Raises:
        UsageError: the agent file names a tool that does not exist.
    """
    with contextlib.ExitStack() as stack:
        builtin = stack.enter_context(open_own_tools(run)).tools
        tools = dict(builtin)
        own: dict[str, Tool] = {}
        for module in _modules(run):
            own |= stack.enter_context(_opened(run.workspace, module)).tools
        named = _named(run)
        outside = stack.enter_context(open_server_tools(run, answered))
        rules = trusted_config.of(run.project).policy
        if rules is None or rules.content.network is None:  # there is no host that it could ask
            del tools["fetch"]
        tools = (
            {
                name: tool
                for name, tool in tools.items()
                if tool.contract.effect != "external" or rules is not None or name in named
            }
            | own
            | outside
        )
        if named:
            for name in named:
                if name not in tools:
                    registry.find(name, {**builtin, **tools, **own})
            kept = {*named, *own, *ALWAYS}
            tools = {name: tool for name, tool in tools.items() if name in kept}
        yield tools


def offered(run: StepRun, tools: Mapping[str, Tool]) -> frozenset[str]:
    """Return which of the tools a model is shown; it may call the others too, by the names that it knows them by.

    These are all that an agent file lists by name, and the project's own. Else those that small work needs, those that stand in for
    a shell that a rule holds back, those for memory where there is any, and each that the plan, the step or a rule names.
    """
    wanted = {*CORE, *ALWAYS, "fetch"}
    if _named(run):
        return frozenset(tools)
    rules = trusted_config.of(run.project).policy
    shell = tools.get("shell")
    if shell is None or calls.judge_of(run)(shell.contract, {"command": "true"}, False).verdict != "allow":
        wanted |= {*WITHOUT_SHELL}
    if run.project.git.tree(f"{run.project.trusted.commit}:{paths.MEMORY.rstrip('/')}"):
        wanted |= {"remember", "recall"}
    said = "\n".join((run.plan.prose, run.plan.context or "", run.step.prose))
    allowed = {name for rule in (rules.content.rules if rules else ()) if rule.allow for name in rule.allow.tool or ()}
    wanted |= {name for name, tool in tools.items() if tool.contract.source != "built in" or f"`{name}`" in said}
    wanted |= allowed
    return frozenset(wanted & tools.keys())


def _named(run: StepRun) -> list[str]:
    """Return the tools that the step's agent file lists by name."""
    return [tool for tool in run.agent.tools if isinstance(tool, str)] if run.agent else []


def _modules(run: StepRun) -> list[ToolModule]:
    return [*run.project.config.tools, *(run.agent.tool_modules() if run.agent else ())]


def _servers(run: StepRun, named: Sequence[str], answered: Mapping[str, str]) -> list[ServerTools]:
    """Return the MCP servers of an agent's step: all, or those whose tools the agent file lists.

    Raises:
        ToolModuleError: the agent file lists a tool of one whose tools are disabled; of others a line is printed.
    """
    found = []
    for name in run.project.config.mcp:
        wanted = any(tool.startswith(f"mcp:{name}/") for tool in named)
        if named and not wanted:
            continue
        try:
            found.append(server_tools(run.project, name, _connects(run, name, answered)))
        except ToolModuleError as error:
            if wanted:
                raise
            run.project.env.say(f"{error.what}; next: {error.hint}")
    return found


def server_tools(project: Project, name: str, connect: Callable[[], mcp_client.Connection]) -> ServerTools:
    """Return the tools of an MCP server, by the list that the trusted branch pins.

    Raises:
        ToolModuleError: they are disabled.
    """
    server, where = project.config.mcp[name], paths.pinned_tools_file(name)
    data = project.trusted.blob(project.git, where)
    if server.package is not None and server.lock is not None:
        why = servers.unlocked(server.package, project.trusted.blob(project.git, server.lock))
        if why is not None:
            what = f"the tools of the MCP server `{name}` are disabled: {server.lock}: {why}"
            raise ToolModuleError(
                what, f"mcp: {name}", "lock the declared version on the trusted branch, or declare the locked one"
            )
    words = None if data is None else servers.parse(data, f"{where} on {project.trusted.branch}")
    return ServerTools(name, server, words, connect)


def _connects(run: StepRun, name: str, answered: Mapping[str, str]) -> Callable[[], mcp_client.Connection]:
    server = run.project.config.mcp[name]
    return lambda: connection_to(run.workspace, name, server, lambda asked: answered.get(run.redactor.text(asked)))


def connection_to(
    workspace: WorkspaceSession,
    name: str,
    server: McpServer,
    answers: Callable[[str], str | None],
    code: Path | None = None,
) -> mcp_client.Connection:
    """Start an MCP server in the sandbox, or reach its URL.

    Its command has the trusted branch's tree as its current folder, so that no step can change the program, and the workspace where
    an argument holds `{workspace}`. A path below a folder of the environment (`node_modules`, `.venv`) is that one, read-only.
    `code`: a folder with another commit's tree.

    Raises:
        ToolModuleError: it does not start, or does not answer.
    """
    try:
        opened = mcp_client.Connection
    except ModuleNotFoundError as error:
        what = f"the MCP server `{name}` needs the package {error.name}, which is not installed"
        raise ToolModuleError(what, f"mcp: {name}", installs("mcp")) from error

    environ = workspace.project.env.environ
    lacking = [one for one in (*server.env, *((server.bearer,) if server.bearer else ())) if one not in environ]
    if lacking:
        what = f"the MCP server `{name}` gets the variable {lacking[0]}, which is not set"
        raise ToolModuleError(what, f"mcp: {name}", "set it, or remove it from the entry on the trusted branch")
    if server.url is not None:
        return opened(name, (server.url, environ[server.bearer] if server.bearer else None), CALL_TIMEOUT, answers)
    code, work = code or _export_trusted(workspace), workspace.space.work
    inside = workspace.sandbox.place.inside(work)
    folders = workspace.own.folders if workspace.own else {}

    def argument(word: str) -> str:
        is_made = any(word == folder or word.startswith(f"{folder}/") for folder in folders)
        return str(inside / word) if is_made else word.replace("{workspace}", str(inside))

    # Its own HOME: what a step left in that of the steps could be run with the server's variables.
    home = workspace.space.root / f"mcp-{name}"
    home.mkdir(parents=True, exist_ok=True)
    command = Command(
        argv=tuple(map(argument, server.command)),
        cwd=code,
        env={**workspace.base_environment(), "HOME": str(home), **{one: environ[one] for one in server.env}},
        writable=(work, home),
        readable=(code, workspace.space.objects),
        network=workspace.network(
            server.network,
            f"`network` of {name} in {paths.CONFIG}",
            workspace.network_log(f"the MCP server `{name}` was"),
        ),
    )
    sandbox = workspace.sandbox
    return opened(name, lambda: sandbox.open(command), CALL_TIMEOUT, answers)


@contextlib.contextmanager
def _opened(workspace: WorkspaceSession, module: ToolModule) -> Iterator[PythonTools]:
    session = workspace.session
    environ = session.env.environ
    command = command_of(
        module,
        (session.project.config.workspace.python or "python3",),
        _export_trusted(workspace),
        workspace.space.work,
        {"PATH": workspace.path, **{name: environ[name] for name in module.env if name in environ}},
        readable=(workspace.space.objects,),
        network=workspace.network(
            module.network,
            f"`network` of {module.module} in {paths.CONFIG}",
            workspace.network_log(f"the tools of {module.module} were"),
        ),
    )
    with PythonTools(workspace.sandbox, module, command, timeout=DEFAULT_TIMEOUT) as opened:
        yield opened


def _export_trusted(workspace: WorkspaceSession) -> Path:
    """Return a folder that holds the trusted branch's tree, made anew where the branch has moved."""
    folder = workspace.space.root / "trusted"
    stamp = workspace.space.root / "trusted-commit"
    commit = workspace.project.trusted.commit
    if stamp.exists() and stamp.read_text() == commit and folder.is_dir():
        return folder
    stamp.unlink(missing_ok=True)
    made = workspaces.export(workspace.space, commit)
    beneath.remove(folder)
    made.rename(folder)
    stamp.write_text(commit)
    return folder
