"""The tools of a step, built in or functions of Python modules that the trusted branch names, and the policy's verdict on a call."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import beneath
from runner.errors import MalformedFileError, UsageError, installs
from runner.executor import permissions
from runner.executor.step_run import StepRun
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import log, paths
from runner.protocol.agent_file import AgentFile
from runner.protocol.config import McpServer, ToolModule
from runner.sandbox import Command
from runner.store import workspace
from runner.store.project import Project
from runner.tools import Contract, Tool, ToolError, files, registry, servers
from runner.tools.agent import CORE, WITHOUT_SHELL, AgentTools
from runner.tools.commands import Commands, WorkspaceAlias
from runner.tools.python import ProjectPython, PythonTools, ToolModuleError
from runner.tools.servers import ServerTools
from runner.trust import policy
from runner.trust.policy import Decision
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.tools.mcp_client import Connection

DEFAULT_TIMEOUT = 600.0
CALL_TIMEOUT = 120.0  # of an MCP server: for its start, and for each call
MOST_LINKS = 40  # as the tools follow
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
        tools: dict[str, Tool] = dict(registry.builtin())
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
            one = _server(run, server, {})
            tools |= stack.enter_context(servers.opened([one]))
            refused |= one.refused
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
        """Return the model's result; an artifact has to be a file of the workspace, a result a value that the log can hold.

        Raises:
            ToolError: the arguments are not those of the contract.
        """
        match self.contract.name:
            case "publish_artifact":
                given = registry.read_arguments(self.contract, registry.PublishArtifactInput, arguments)
                return self.opened.artifact(given.path)
            case "ask_person":
                registry.read_arguments(self.contract, registry.AskPersonInput, arguments)
                return {"asked": True}
            case _:
                ended = registry.read_arguments(self.contract, registry.FinishInput, arguments)
                if self.contract is not registry.FINISH and ended.status == "done" and ended.result is None:
                    raise ToolError("`result` is missing: the step promises it, with the fields that the schema says")
                try:
                    log.refuse_unreadable(dict(arguments), "the arguments")
                except UsageError as error:
                    raise ToolError(f"{error.where}: {error.what}; {error.hint}") from error
                return {"done": True}


@contextlib.contextmanager
def open_own_tools(run: StepRun) -> Iterator[dict[str, Tool]]:
    """Give the runner's own tools of an agent step, those that the loop carries out included."""
    session = run.workspace
    folders = (session.home(), session.out())
    commands = Commands(
        session.sandbox, session.space.work, session.environment(run), (session.space.objects,), folders
    )
    with AgentTools(commands, default_timeout=DEFAULT_TIMEOUT, allowed=hosts_of(run.project)) as opened:
        loop = {name: LoopTool(contract, opened) for name, contract in registry.LOOP.items()}
        if run.step.header.result is not None:
            loop["finish"] = LoopTool(registry.finish_with(run.step.header.result), opened)
        yield {**opened.tools, **loop}


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
        builtin = stack.enter_context(open_own_tools(run))
        tools = dict(builtin)
        own: dict[str, Tool] = {}
        for module in _modules(run):
            own |= stack.enter_context(_opened(run.workspace, module)).tools
        named = _named(run)
        outside = stack.enter_context(open_server_tools(run, answered))
        rules = permissions.trusted_config(run.project).policy
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
    rules = permissions.trusted_config(run.project).policy
    shell = tools.get("shell")
    if shell is None or judge_of(run)(shell.contract, {"command": "true"}, False).verdict != "allow":
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
            found.append(_server(run, name, answered))
        except ToolModuleError as error:
            if wanted:
                raise
            run.project.env.say(f"{error.what}; next: {error.hint}")
    return found


def _server(run: StepRun, name: str, answered: Mapping[str, str]) -> ServerTools:
    project, server = run.project, run.project.config.mcp[name]
    where = paths.words_file(name)
    data = project.trusted.blob(project.git, where)
    if server.package is not None and server.lock is not None:
        why = servers.unlocked(server.package, project.trusted.blob(project.git, server.lock))
        if why is not None:
            what = f"the tools of the MCP server `{name}` are disabled: {server.lock}: {why}"
            raise ToolModuleError(
                what, f"mcp: {name}", "lock the declared version on the trusted branch, or declare the locked one"
            )
    words = None if data is None else servers.parse(data, f"{where} on {project.trusted.branch}")

    def connect() -> Connection:
        return connection_to(run.workspace, name, server, lambda question: answered.get(run.redactor.text(question)))

    return ServerTools(name, server, words, connect)


def connection_to(
    session: WorkspaceSession,
    name: str,
    server: McpServer,
    answers: Callable[[str], str | None],
    code: Path | None = None,
) -> Connection:
    """Start an MCP server in the sandbox, or reach its URL.

    Its command has the trusted branch's tree as its current folder, so that no step can change the program, and the workspace where
    an argument holds `{workspace}`. A path below a folder of the environment (`node_modules`, `.venv`) is that one, read-only.
    `code`: a folder with another commit's tree.

    Raises:
        ToolModuleError: it does not start, or does not answer.
    """
    try:
        from runner.tools.mcp_client import Connection
    except ModuleNotFoundError as error:
        what = f"the MCP server `{name}` needs the package {error.name}, which is not installed"
        raise ToolModuleError(what, f"mcp: {name}", installs("mcp")) from error

    environ = session.project.env.environ
    lacking = [one for one in (*server.env, *((server.bearer,) if server.bearer else ())) if one not in environ]
    if lacking:
        what = f"the MCP server `{name}` gets the variable {lacking[0]}, which is not set"
        raise ToolModuleError(what, f"mcp: {name}", "set it, or remove it from the entry on the trusted branch")
    if server.url is not None:
        return Connection(name, (server.url, environ[server.bearer] if server.bearer else None), CALL_TIMEOUT, answers)
    code, work = code or _export_trusted(session), session.space.work
    inside = session.sandbox.place.inside(work)
    folders = session.own.folders if session.own else {}

    def argument(word: str) -> str:
        is_made = any(word == folder or word.startswith(f"{folder}/") for folder in folders)
        return str(inside / word) if is_made else word.replace("{workspace}", str(inside))

    # Its own HOME: what a step left in that of the steps could be run with the server's variables.
    home = session.space.root / f"mcp-{name}"
    home.mkdir(parents=True, exist_ok=True)
    command = Command(
        argv=tuple(map(argument, server.command)),
        cwd=code,
        env={**session.base_environment(), "HOME": str(home), **{one: environ[one] for one in server.env}},
        writable=(work, home),
        readable=(code, session.space.objects),
        network=session.network(
            server.network,
            f"`network` of {name} in {paths.CONFIG}",
            session.network_log(f"the MCP server `{name}` was"),
        ),
    )
    sandbox = session.sandbox
    return Connection(name, lambda: sandbox.open(command), CALL_TIMEOUT, answers)


@contextlib.contextmanager
def _opened(session: WorkspaceSession, module: ToolModule) -> Iterator[PythonTools]:
    project = session.project
    code = _export_trusted(session)
    interpreter = project.config.workspace.python or "python3"
    environ = project.env.environ
    python = ProjectPython(
        interpreter=(interpreter,),
        code=code,
        work=session.space.work,
        env={
            "PATH": session.path,
            **{name: environ[name] for name in module.env if name in environ},
        },
        readable=(session.space.objects,),
        network=session.network(
            module.network,
            f"`network` of {module.module} in {paths.CONFIG}",
            session.network_log(f"the tools of {module.module} were"),
        ),
    )
    with PythonTools(session.sandbox, module, python, timeout=DEFAULT_TIMEOUT) as opened:
        yield opened


def _export_trusted(session: WorkspaceSession) -> Path:
    """Return a folder that holds the trusted branch's tree, made anew where the branch has moved."""
    folder = session.space.root / "trusted"
    stamp = session.space.root / "trusted-commit"
    commit = session.project.trusted.commit
    if stamp.exists() and stamp.read_text() == commit and folder.is_dir():
        return folder
    stamp.unlink(missing_ok=True)
    made = workspace.export(session.project.git, session.space, commit, session.project.env)
    beneath.remove(folder)
    made.rename(folder)
    stamp.write_text(commit)
    return folder


# --- which calls may be made ------------------------------------------------------------------------------------------------

# (contract, arguments, whether the conversation has untrusted text) -> the decision about the call
Judge = Callable[[Contract, Mapping[str, Any], bool], Decision]

ALLOWED = Decision("allow", "default: it does nothing by itself", "", 0, "")


def judge_of(run: StepRun) -> Judge:
    """Return what judges a step's calls: the policy of the trusted branch, and the stricter rules of its agent file (design §5).

    A call is judged by its real effect: paths after links are followed, a URL's host, the program's arguments. `calls` checks whether
    an approval that a rule asks for was given.
    """
    project, agent, session = run.project, run.agent, run.workspace
    work = session.space.work
    folders = session.own.folders if session.own else {}

    @cache
    def names() -> tuple[str, ...]:
        alias = WorkspaceAlias(work, session.sandbox.place.inside(work))
        return *alias.real, alias.name

    found = permissions.trusted_config(project)
    at = f"{run.agent_file} on {project.trusted.branch}" if agent else ""
    data = project.trusted.blob(project.git, run.agent_file) if agent else None
    rules = found.rules_of(agent, data or b"", at)
    listed = listed_by(agent)
    own = {contract.name for contract in registry.LOOP.values()}

    def judge(contract: Contract, arguments: Mapping[str, Any], untrusted: bool) -> Decision:
        if contract.name in own and contract.source == registry.LOOP[contract.name].source:
            return ALLOWED
        paths_of = _paths(contract, arguments, work, names, folders)
        if contract.source.startswith("mcp:"):  # a server is given whole paths, and follows links
            arguments = {**arguments, "path": None, "paths": paths_of}
        subject = policy.call(contract.name, arguments, effect=contract.effect, paths=paths_of)
        subject = dataclasses.replace(
            subject,
            step=run.slug,
            untrusted=untrusted,
            hosts=(*subject.hosts, *_reached(project, contract)),
            listed=at if listed(contract) else "",
            vouched=True,  # agent files are read from the trusted branch alone
            configured=paths.CONFIG if contract.network else "",
        )
        return policy.evaluate(rules, subject)

    return judge


def _reached(project: Project, contract: Contract) -> tuple[str, ...]:
    """Return the host of an MCP server's URL, which the runner itself asks; the hosts of a command are the sandbox's matter."""
    server = project.config.mcp.get(contract.source.partition(" ")[0].removeprefix("mcp:"))
    return contract.network if server is not None and server.url is not None else ()


def hosts_of(project: Project) -> Callable[[str], str | None]:
    """Return a function that gives the policy's reason against fetching from a host, or None."""
    rules = permissions.trusted_config(project).rules

    def wrong(host: str) -> str | None:
        said = policy.evaluate(rules, policy.Subject(tool="fetch", effect="read", hosts=(host,)))
        return None if said.verdict == "allow" else f"{said.why} ({said.where})"

    return wrong


def listed_by(agent: AgentFile | None) -> Callable[[Contract], bool]:
    """Return a test whether an agent file lists a tool: by its name, or by its module."""
    names = {tool for tool in agent.tools if isinstance(tool, str)} if agent else set()
    modules = {module.module for module in agent.tool_modules()} if agent else set()
    return lambda contract: contract.name in names or contract.source.rpartition(":")[0] in modules


def _paths(
    contract: Contract,
    arguments: Mapping[str, Any],
    work: Path,
    names: Callable[[], Sequence[str]],
    folders: Mapping[str, Path],
) -> tuple[str, ...]:
    """Return the paths of a call of the runner's own tools, and of a server's, from the root, after links are followed."""
    if contract.source.startswith("mcp:"):
        listed = arguments.get("paths")
        named: list[Any] = [arguments.get("path"), *(listed if isinstance(listed, list) else ())]
    elif contract.source != "built in":
        return tuple(path for path in (arguments.get("path"),) if isinstance(path, str) and path)
    else:
        named = [arguments.get("path")]
    if contract.name == "apply_patch":
        try:
            named = [file["path"] for file in files.parse(str(arguments.get("patch", "")))]
        except ToolError:  # it is refused when it is carried out
            named = []
    elif contract.name == "remember":
        named = [f"{paths.MEMORY}{arguments['name']}.md"] if arguments.get("name") else [paths.MEMORY.rstrip("/")]
    elif policy.is_agents(contract.name):  # what is outside, the sandbox holds
        named = [
            path for path in (*named, *arguments.get("paths", ())) if isinstance(path, str) and not path.startswith("/")
        ]
    # One that leads out is named as it was given: no rule is about it, and the tool refuses it.
    given = [path for path in named if isinstance(path, str) and path]
    if not given:
        return ()
    root = os.path.realpath(work)
    return tuple(_below(root, names(), path, folders) or path for path in given)


def _below(root: str, names: Sequence[str], path: str, folders: Mapping[str, Path]) -> str | None:
    """Return the path from the root after links, as the tools find it; None where it leads out.

    `names`: the root's, with which absolute paths and links start; `folders`: the binds over paths below it.
    """
    at, todo, links = list[str](), deque([path]), 0
    while todo:
        part = todo.popleft()
        if part.startswith("/"):
            name = next((name for name in names if part == name or part.startswith(f"{name}/")), None)
            if name is None:
                return None
            at, part = [], part[len(name) + 1 :]
        if "/" in part:
            todo.extendleft(reversed(part.lstrip("/").split("/")))
        elif part == ".." and not at:
            return None
        elif part == "..":
            at.pop()
        elif part not in ("", "."):
            inner = "/".join((*at, part))
            bound = next((name for name in folders if inner == name or inner.startswith(f"{name}/")), None)
            here = os.path.join(root, inner) if bound is None else f"{folders[bound]}{inner[len(bound) :]}"
            if os.path.islink(here) and (links := links + 1) <= MOST_LINKS:
                todo.appendleft(os.readlink(here))
            else:
                at.append(part)
    return "/".join(at) or "."
