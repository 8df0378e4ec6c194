"""Asking a policy beforehand: what would it say of this, and does it say what its examples expect. Changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.protocol import paths, policy_file
from runner.protocol.config import Config
from runner.protocol.policy_file import Effect, Example, PolicyFile
from runner.protocol.state import read_json
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.tools import ToolError, files
from runner.trust import policy
from runner.trust.policy import Decision, Policy, Subject
from runner.values import dataclass

Effects = Mapping[str, Effect]


@dataclass(frozen=True, slots=True)
class Tried:
    """An example, and what the policy says of it. `where`: as `file:line`."""

    where: str
    text: str
    expected: str
    said: Decision

    @property
    def holds(self) -> bool:
        """Whether the decision is the expected one."""
        return self.said.verdict == self.expected


def look(project: Project) -> None:
    """Ask the remote for the trusted branch.

    Raises:
        UnreachableError: it does not answer.
    """
    mirror = Mirror.of(project.git, project.dirs, project.env)
    if mirror is not None:
        project.trust(mirror.look())


def in_force(project: Project) -> PolicyFile | None:
    """Return the policy of the trusted branch as last fetched, or None where it has none.

    Raises:
        MalformedFileError: it cannot be carried out.
    """
    data = project.trusted.blob(project.git, paths.POLICY)
    return None if data is None else policy_file.parse(data, f"{paths.POLICY} on {project.trusted.branch}")


def read(path: Path, where: str) -> PolicyFile:
    """Return the policy in a file, which has no force.

    Raises:
        UsageError: there is no such file. MalformedFileError: it cannot be carried out.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", where, "name a file such as .protocols/policy.yaml"
        ) from error
    return policy_file.parse(data, where)


def effects_of(config: Config) -> dict[str, Effect]:
    """Return the effects of all tools that are known without an agent file: ours, and those that config.yaml declares."""
    found = dict(policy.BUILT_IN)
    declared = [("", module.effects) for module in config.tools]
    declared += [(f"mcp:{name}/", server.effects) for name, server in config.mcp.items()]
    for before, effects in declared:
        found |= {f"{before}{name}": told if isinstance(told, str) else "external" for name, told in effects.items()}
    return found


def call(tool: str, arguments: Mapping[str, Any], effects: Effects, effect: Effect | None = None) -> Subject:
    """Return the subject of a call that is only thought of: its paths are as the arguments have them."""
    named: tuple[str, ...] | None = None
    if tool == "apply_patch":
        try:
            named = tuple(file["path"] for file in files.parse(str(arguments.get("patch", ""))))
        except ToolError:
            named = ()
    return policy.call(tool, arguments, effect=effect or effects.get(tool, "external"), paths=named)


def followed(subject: Subject, top: Path) -> Subject:
    """Return the subject of a call of ours, with its paths after the links of a checkout were followed."""
    if subject.tool not in policy.BUILT_IN:
        return subject
    root = os.path.realpath(top)
    found = []
    for path in subject.paths:
        real = "" if "\0" in path else os.path.realpath(os.path.join(root, path))
        found.append(os.path.relpath(real, root) if real.startswith(root + os.sep) else path)
    return replace(subject, paths=tuple(found))


def arguments(given: tuple[str, ...]) -> dict[str, Any]:
    """Return what `--args` gave: JSON objects, and `name=value`, whose value is JSON where it reads as such and else text.

    Raises:
        UsageError: it is neither.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            loaded = read_json(text)
            if not isinstance(loaded, dict):
                raise UsageError(
                    f"`{text[:80]}` is not a JSON object",
                    "--args",
                    """write it as '{"path": "a.txt"}', or path=a.txt""",
                )
            found |= loaded
        elif equals and name:
            loaded = read_json(value)
            found[name] = value if loaded is None else loaded
        else:
            raise UsageError(
                f"`{text[:80]}` is not an argument", "--args", """write it as path=a.txt, or as '{"path": "a.txt"}'"""
            )
    return found


def examples(file: PolicyFile, effects: Effects) -> Iterator[Tried]:
    """Yield each example of the policy with what the policy says of it."""
    ready = policy.compiled(file)
    for at, example in enumerate(file.content.examples):
        subject, text = _subject(example, effects)
        yield Tried(file.at("examples", at), text, example.expect, policy.evaluate(ready, subject))


def _subject(example: Example, effects: Effects) -> tuple[Subject, str]:
    if example.call is not None:
        subject = call(example.call.tool, example.call.args, effects, example.call.effect)
        text = f"call of {example.call.tool} {json.dumps(example.call.args, ensure_ascii=False)}"
    elif example.command is not None:
        subject, text = policy.command(example.command), f"command {example.command}"
    elif example.path is not None:
        subject, text = Subject(kind="change", effect="workspace", paths=(example.path,)), f"change of {example.path}"
    elif example.engine is not None:
        subject, text = Subject(kind="engine", engine=example.engine), f"engine {example.engine}"
    elif example.isolation is not None:
        subject, text = Subject(kind="isolation", isolation=example.isolation), f"isolation {example.isolation}"
    else:
        subject, text = Subject(kind="step"), f"start of step {example.step}"
    told = f"{text} in step {example.step}" if example.step and subject.kind != "step" else text
    return replace(subject, step=example.step, untrusted=example.untrusted), told


def whose(ready: Policy, subject: Subject, said: Decision) -> str:
    """Return whose approval an ask needs, for people to read; empty where none is needed."""
    if said.verdict != "ask":
        return ""
    if ready.file is None:
        return "you, at a terminal"
    kind: policy_file.Kind = "call"
    if subject.kind in ("step", "change"):
        kind = "step" if subject.kind == "step" else "protected-path"
    of = ready.file.content.approvals.of(kind)
    people = policy_file.people(ready.file.content, of.roles)
    who = " or ".join(of.roles) or "anybody with a role"
    return f"{of.count} of {', '.join(people)} ({who})" if people else f"nobody: no one is {who}"
