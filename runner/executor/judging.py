"""Whether a step's calls may be made: the judge of an attempt asks the trusted branch's policy, by what a call really touches.

It is apart from `toolbox`, which opens the tools and loads all that they need.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from runner.executor import permissions
from runner.executor.step_run import StepRun
from runner.protocol import paths
from runner.protocol.agent_file import AgentFile
from runner.store.project import Project
from runner.tools import Contract, ToolError, files, registry
from runner.tools.commands import WorkspaceAlias
from runner.trust import policy
from runner.trust.policy import Decision

MOST_LINKS = 40  # as the tools follow

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
