"""Whether a call may be made: what the policy of the trusted branch says of it, and what the coworker's own file adds (design §5).

What a call names is judged as it is: paths after links were followed, the host of a URL, the argv that is run. Whether a word
that is asked for was given is `permissions`'s and `calls`'.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.executor import permissions
from runner.protocol import paths, strict_yaml
from runner.protocol.agent_file import AgentFile
from runner.protocol.plans import Plan, Step
from runner.store.project import Project
from runner.tools import patch
from runner.tools.base import Contract, ToolError
from runner.tools.contracts import LOOP
from runner.tools.model_text import WORKSPACE
from runner.trust import policy
from runner.trust.policy import Decision

# (the contract, its arguments, whether text that nobody vouches for stands in the context) -> what is said of the call
Judge = Callable[[Contract, Mapping[str, Any], bool], Decision]

ALLOWED = Decision("allow", "default: it does nothing by itself", "", 0, "")


def judge_of(project: Project, plan: Plan, step: Step, coworker: AgentFile | None, work: Path) -> Judge:
    """Return what judges a step's calls. `coworker`: the step's, as the trusted branch has it; `work`: the workspace."""
    found = permissions.trusted_config(project)
    file = paths.agent_file(step.header.agent or plan.header.agent or "")
    at = f"{file} on {project.trusted.branch}" if coworker else ""
    rules = found.rules
    if coworker is not None and coworker.policies is not None:
        data = project.trusted.blob(project.git, file) or b""
        _, lines = strict_yaml.load_yaml(strict_yaml.decode(data, at), at)
        rules = policy.compiled(found.policy, [policy.More(coworker.policies, at, lines, ("policies",))])
    listed = listed_by(coworker)
    own = {contract.name for contract in LOOP.values()}

    def judge(contract: Contract, arguments: Mapping[str, Any], untrusted: bool) -> Decision:
        if contract.name in own and contract.source == LOOP[contract.name].source:
            return ALLOWED
        subject = policy.call(contract.name, arguments, effect=contract.effect, paths=_paths(contract, arguments, work))
        subject = dataclasses.replace(
            subject,
            step=step.slug,
            untrusted=untrusted,
            listed=at if listed(contract) else "",
            vouched=True,  # coworkers are read from the trusted branch alone
            configured=paths.CONFIG if contract.network else "",
        )
        return policy.evaluate(rules, subject)

    return judge


def hosts_of(project: Project) -> Callable[[str], str | None]:
    """Return what says why a host may not be asked for a page, or None where it may: the policy's word on its name."""
    rules = permissions.trusted_config(project).rules

    def wrong(host: str) -> str | None:
        said = policy.evaluate(rules, policy.Subject(tool="fetch", effect="read", hosts=(host,)))
        return None if said.verdict == "allow" else f"{said.why} ({said.where})"

    return wrong


def listed_by(coworker: AgentFile | None) -> Callable[[Contract], bool]:
    """Return what says whether a coworker's file lists a tool: by its name, or by the module that it is of."""
    names = {tool for tool in coworker.tools if isinstance(tool, str)} if coworker else set()
    modules = {module.module for module in coworker.tool_modules()} if coworker else set()
    return lambda contract: contract.name in names or contract.source.rpartition(":")[0] in modules


def _paths(contract: Contract, arguments: Mapping[str, Any], work: Path) -> tuple[str, ...]:
    """Return what a call of ours touches, from the repository's root and after links were followed."""
    if contract.source != "built in":
        return tuple(path for path in (arguments.get("path"),) if isinstance(path, str) and path)
    named: list[Any] = [arguments.get("path")]
    if contract.name == "apply_patch":
        try:
            named = [file["path"] for file in patch.parse(str(arguments.get("patch", "")))]
        except ToolError:  # it is refused when it is carried out
            named = []
    elif contract.name == "remember":
        named = [f"{paths.MEMORY}{arguments['name']}.md"] if arguments.get("name") else [paths.MEMORY.rstrip("/")]
    root = os.path.realpath(work)
    found = []
    for path in named:
        if not isinstance(path, str) or not path:
            continue
        real = os.path.realpath(os.path.join(root, path))
        if path.startswith(f"{WORKSPACE}/") and not root.startswith(
            f"{WORKSPACE}/"
        ):  # the workspace's name for a model
            real = os.path.realpath(os.path.join(root, path.removeprefix(f"{WORKSPACE}/")))
        # One that leads out is named as it was given: no rule is about it, and the tool refuses it.
        found.append(os.path.relpath(real, root) if real == root or real.startswith(root + os.sep) else path)
    return tuple(found)
