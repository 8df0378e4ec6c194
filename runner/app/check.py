"""Check files that people write before they are used: all mistakes in plans, configuration, policy and agents.

It also returns the policy's decision about one action, and runs the policy's examples. Nothing is changed.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.app import create
from runner.engines import registry as engines
from runner.errors import MalformedFileError, RunnerError, UsageError
from runner.executor import toolbox
from runner.executor.step_run import agent_of
from runner.protocol import clarifications, config, paths, plans, policy_file, workflow
from runner.protocol.config import Config
from runner.protocol.file_models import nearest
from runner.protocol.ids import STEP_FILE
from runner.protocol.plans import Plan, QaPolicy, Step, StepKind
from runner.protocol.policy_file import Effect, Example, Isolation, PolicyFile
from runner.protocol.state import read_json
from runner.store import lookup, record
from runner.store.project import Project, Session
from runner.store.remote import Mirror
from runner.store.trusted import Trusted
from runner.tools import ToolError, files
from runner.tools import registry as tools
from runner.trust import policy, requirements, trusted_config
from runner.trust.policy import Decision, Policy, Subject

_STUBS = {paths.PLAN: b"---\ntitle: A plan\n---\n", "": b"---\ntitle: A step\nkind: human\n---\n"}
_PARSERS: dict[str, Callable[[bytes, str], object]] = {
    Path(paths.CONFIG).name: config.parse,
    Path(paths.POLICY).name: policy_file.parse,
    Path(paths.CLARIFICATIONS).name: clarifications.parse,
}


def targets(project: Project, cwd: Path, named: tuple[str, ...], find: Callable[[str], str]) -> dict[str, Path | None]:
    """Return the targets of a check, by their names in messages: a folder with a plan, a file, or (None) a protocol by its id.

    Of a plan's file the whole folder is checked.
    `find`: returns the id of the protocol that a person means. Without a name: all that people write in
    the checkout's `.protocols`, and in a protocol's worktree its plan.

    Raises:
        UsageError: a name is no folder, file or protocol.
    """
    found: dict[str, Path | None] = {}
    for name in named:
        at = cwd / name
        if at.is_dir() or (at.is_file() and paths.is_plan_file(at.name)):
            folder = at if at.is_dir() else at.parent
            found[str(Path(name) if at.is_dir() else Path(name).parent)] = folder
        elif at.is_file():
            if _parser(at) is not None:
                found[name] = at
        elif "/" in name:
            raise UsageError(f"there is no folder or file `{name}`", str(cwd), "correct the path")
        else:
            found[find(name)] = None
    if named or project.git.top is None:
        return found
    root = project.git.top / paths.ROOT
    for at in sorted([*root.glob("*.yaml"), *root.glob("agents/*.yaml"), *root.glob("workflows/*/plan.md")]):
        found[str((at.parent if at.name == paths.PLAN else at).relative_to(project.git.top))] = (
            at.parent if at.name == paths.PLAN else at
        )
    here = lookup.of_worktree(project)
    return found | ({here: None} if here else {})


def problems(project: Project, name: str, at: Path | None) -> Iterator[RunnerError]:
    """Yield each mistake in one of the `targets`."""
    if at is not None and not at.is_dir():
        yield from _of_file(at, name)
        return
    try:
        files = _of_protocol(project, name) if at is None else create.read_folder(at, Path())
    except RunnerError as error:
        yield error
        return
    yield from _of_plan(project, files, paths.folder(name) if at is None else name)


def _of_protocol(project: Project, protocol: str) -> dict[str, bytes]:
    """Return a protocol's plan files: those of its worktree, whose edits the next step picks up, else those of its branch."""
    folder = paths.folder(protocol)
    for tree in project.git.checked_out(project.branch(protocol)):
        if (tree.path / folder).is_dir():
            return create.read_folder(tree.path, Path(folder))
    there = record.folder(project.git, protocol, lookup.tip(project, protocol))
    return {file: project.git.content(entry) or b"" for file, entry in there.items() if paths.is_plan_file(file)}


def _parser(at: Path) -> Callable[[bytes, str], object] | None:
    """Return what reads a file that a person writes; None for files that the runner writes, and for others."""
    return config.parse_agent if at.parent.name == "agents" and at.suffix == ".yaml" else _PARSERS.get(at.name)


def _of_file(at: Path, name: str) -> Iterator[RunnerError]:
    """Yield the mistakes in a file that is no plan's."""
    parse = _parser(at)
    if parse is None:
        return
    try:
        parsed = parse(at.read_bytes(), name)
    except OSError as error:
        yield UsageError(f"the file cannot be read: {error.strerror}", name, "check its permissions")
        return
    except RunnerError as error:
        yield from _each(error)
        return
    if isinstance(parsed, policy_file.PolicyFile) and (named := parsed.misread()):
        yield named
    if isinstance(parsed, config.Config):
        key = parsed.engine
        for engine in dict.fromkeys((*key.default, *key.plan, *key.execute, *key.review)):
            yield from _wrong(lambda engine=engine: engines.parts_of(engine), f"{name}: engine `{engine}`")


def _each(error: RunnerError) -> list[RunnerError]:
    """Return an error and the others of its file, which it only counts."""
    if not isinstance(error, MalformedFileError) or not error.others:
        return [error]
    what = error.what.removesuffix(f" (and {len(error.others)} more)")
    return [MalformedFileError(what, error.where, error.hint), *error.others]


def _of_plan(project: Project, files: Mapping[str, bytes], where: str) -> Iterator[RunnerError]:
    """Yield the mistakes in a plan. A line with an error is left out, or else its file is replaced by an empty one, so that the next
    is found; of two files with one number the second gets another one here."""
    left, seen, meant = dict(files), set[str](), dict[str, str]()
    for error in _found_in(project, left, seen, meant, where):
        fake = next((name for name in meant if error.where.startswith(f"{where}/{name}")), None)
        if fake is None:
            yield error
        else:
            yield MalformedFileError(error.what, error.where.replace(fake, meant[fake], 1), error.hint)


def _found_in(
    project: Project, left: dict[str, bytes], seen: set[str], meant: dict[str, str], where: str
) -> Iterator[RunnerError]:
    """Yield the mistakes as `_of_plan`. `seen`: files that were emptied; `meant`: the names of those that have another one here."""
    while True:
        try:
            plan = plans.parse(left, where, project.config.checks)
            break
        except MalformedFileError as error:
            name = error.where.removeprefix(f"{where}/").rpartition(":")[0]
            if name in seen and name in left:  # its name is wrong
                del left[name]
                continue
            if (match := STEP_FILE.fullmatch(name)) and error.what.startswith("two steps have the number "):
                number = max(int(one["number"]) for one in map(STEP_FILE.fullmatch, left) if one) + 1
                fake = f"{number:02d}-{match['slug']}.md"
                left[fake], meant[fake] = left.pop(name), name
                yield error
                continue
            if not (paths.PLAN in seen and "there is no input" in error.what):  # the stub of plan.md has none
                yield from _each(error)
            if name not in left:
                return
            without = _without(left[name], [int(one.where.rpartition(":")[2] or 0) for one in _each(error)])
            if without is None:
                seen.add(name)
            left[name] = without or _STUBS.get(name, _STUBS[""])
    yield from _wrong(lambda: plans.refuse_unsupported(plan, where))
    yield from plans.unchecked(plan, where)
    if "workflows" not in Path(where).parts:
        yield from workflow.undeclared(plan, where)
    for step in plan.steps:
        if step.file not in seen:
            yield from _of_step(project, plan, step, f"{where}/{step.file}")
    yield from _wrong(lambda: requirements.of_plan(trusted_config.of(project), plan, where))


def _without(data: bytes, numbers: list[int]) -> bytes | None:
    """Return a file without these lines, each a key with its whole value; None where one is not."""
    lines = data.split(b"\n")
    for number in numbers:
        line = lines[number - 1] if 1 < number <= len(lines) else b""
        follows = lines[number] if number < len(lines) else b""
        has_more = follows[:1] in (b" ", b"\t", b"-") and follows.rstrip() != b"---"
        if (
            not re.fullmatch(rb"(?!(?:title|kind|inputs|run|tool|with):)[a-z_]+:[ ]+[^|>&*\s].*", line.rstrip())
            or has_more
        ):
            return None
        lines[number - 1] = b"#"
    return b"\n".join(lines)


def _wrong(check: Callable[..., object], where: str = "") -> list[RunnerError]:
    """Return the error of a check. `where`: its place, if that is not the one that it names itself."""
    try:
        check()
    except RunnerError as error:
        return [MalformedFileError(error.what, where, error.hint) if where else error]
    return []


def _of_step(project: Project, plan: Plan, step: Step, where: str) -> Iterator[RunnerError]:
    """Yield what a step names and the project does not have."""
    found: list[RunnerError] = []

    def line(key: str) -> str:
        return f"{where}:{step.lines.get(key, 1)}"

    if step.header.kind is StepKind.AGENT:
        found += _wrong(lambda: agent_of(project, plan, step, line("agent")))
    if engine := step.header.engine:
        found += _wrong(lambda: engines.parts_of(engine), line("engine"))
    tool = step.header.tool
    if tool and tool.startswith("mcp:"):
        found += _wrong(lambda: _of_server(project, tool), line("tool"))
    elif tool and (known := _tools(project)) is not None and tool not in known:
        found += _wrong(lambda: tools.find(tool, dict.fromkeys(known, tools.BUILTIN["echo"])), line("tool"))
    trusted, folder = trusted_config.of(project), where.rpartition("/")[0]
    start = _wrong(lambda: requirements.of_start(trusted, step, folder))
    start = start or _wrong(lambda: requirements.of_result(trusted, step, 1, folder))
    found += _references(plan, step, where)
    found += _checks(project, plan, step, line("qa"))
    yield from (*found, *start)


def _references(plan: Plan, step: Step, where: str) -> Iterator[RunnerError]:
    """Yield the references in prose that are nearly those to an input. Others may be quoted, from a CI's file for example."""
    for name in re.findall(r"\$\{\{\s*inputs\.([A-Za-z0-9_]+)", step.prose):
        if near := nearest(name, plan.header.inputs):
            yield MalformedFileError(f"there is no input `{name}`", where, f"did you mean `{near}`?")


def _checks(project: Project, plan: Plan, step: Step, where: str) -> Iterator[RunnerError]:
    """Yield the checks whose program is a file that is neither on the trusted branch nor named by what a step does, and the checks
    of plan.md that a step leaves out.

    A step that is a model's or a person's may write one that nothing names, so there only a near miss of a file is an error.
    """
    qa, of_plan = step.header.qa, plan.header.qa
    if qa and of_plan and of_plan.checks and "checks" not in qa.model_fields_set and step.qa is not QaPolicy.SKIP:
        named = f"name the checks here too: `qa: {{policy: {step.qa}, checks: […]}}`"
        hint = f"{named}; `checks: []` if none of them should run; or `qa: skip`"
        yield MalformedFileError(
            "this `qa` replaces that of plan.md, so the checks named there do not run", where, hint
        )
    for check in qa.checks if qa else ():
        name = _file_run_by(check)
        if name is None or (project.git.top and (project.git.top / name).exists()):
            continue
        done = plan.steps[: plan.steps.index(step) + 1]
        said = " ".join(str(text) for one in done for text in (one.prose, one.header.run, *one.header.outputs))
        folder, _, base = name.rpartition("/")
        there = project.git.tree(f"{project.trusted.commit}:{folder}") or {}
        if (
            base in there
            or base in said
            or any(plans.outputs_among(glob, [name]) for one in done for glob in one.header.outputs)
        ):
            continue
        near = difflib.get_close_matches(base, there, n=1, cutoff=0.75)
        if near or all(one.header.kind in (StepKind.COMMAND, StepKind.TOOL) for one in done):
            hint = (
                f"did you mean `{folder}/{near[0]}`?"
                if near
                else "correct it, or name it in `outputs` of the step that writes it"
            )
            what = f"there is no file `{name}` on {project.trusted.branch}, and no step names it"
            yield MalformedFileError(what, where, hint)


def _file_run_by(check: str) -> str | None:
    """Return the project's file that a check starts with, such as `scripts/test.sh`; None where it starts with a program."""
    with contextlib.suppress(ValueError):
        words = [word for word in shlex.split(check, comments=True) if not re.fullmatch(r"[A-Za-z_]\w*=.*", word)]
        first = words[0] if words else ""
        if "/" in first and re.fullmatch(r"[A-Za-z0-9._][A-Za-z0-9._/-]*", first) and ".." not in first.split("/"):
            return first.removeprefix("./") if "/" in first.removeprefix("./") else None
    return None


def _of_server(project: Project, tool: str) -> None:
    """Refuse a tool that no MCP server has by the list that the trusted branch pins.

    Raises:
        UsageError: there is no such server or tool, or its tools are disabled.
    """
    name = tool.removeprefix("mcp:").partition("/")[0]
    if name not in project.config.mcp:
        known = ", ".join(project.config.mcp) or "none"
        hint = f"declare it under `mcp:` of {paths.CONFIG}, and commit that on the trusted branch"
        raise UsageError(f"there is no MCP server `{name}`; there is {known}", tool, hint)

    def connect() -> Any:
        raise AssertionError("a plan is checked without calling a server")

    server = toolbox.server_tools(project, name, connect)
    tools.find(tool, server.tools, server.refused)


def _tools(project: Project) -> set[str] | None:
    """Return the names of all tools; None where a module of the project's cannot be read on the trusted branch."""
    found = {*tools.BUILTIN}
    for module in project.config.tools:
        stem = module.module.replace(".", "/")
        data = [project.trusted.blob(project.git, f"{stem}{end}") for end in (".py", "/__init__.py")]
        try:
            tree = ast.parse(next(filter(None, data)))
        except (StopIteration, SyntaxError, ValueError):
            return None
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name for alias in node.names}
        found |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


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


def fetch_trusted(session: Session) -> None:
    """Ask the remote for the trusted branch.

    Raises:
        UnreachableError: it does not answer.
    """
    mirror = Mirror.of(session.project)
    if mirror is not None:
        session.trust(mirror.look())


def use_fetched_trust(session: Session) -> None:
    """Have the session use the trusted branch as git fetched it, where that is ahead of the runner's own copy; nothing is changed."""
    trusted = session.project.trusted
    there = session.git.resolve(f"refs/remotes/{trusted.remote}/{trusted.branch}") if trusted.remote else None
    if there not in (None, trusted.commit) and session.git.is_ancestor(trusted.commit, str(there)):
        own = f"; the runner's own copy is {trusted.commit[:12]}{f', as of {trusted.time}' if trusted.time else ''}"
        note = f"{trusted.branch} of {trusted.remote}, as last fetched by git{own}"
        session.trust(Trusted(str(there), trusted.branch, trusted.remote, note, trusted.time))


def policy_in_force(project: Project) -> PolicyFile | None:
    """Return the policy of the trusted branch as last fetched, or None where it has none.

    Raises:
        MalformedFileError: it cannot be carried out.
    """
    data = project.trusted.blob(project.git, paths.POLICY)
    return None if data is None else policy_file.parse(data, f"{paths.POLICY} on {project.trusted.branch}")


def policy_in(path: Path, where: str) -> PolicyFile:
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


def call_subject(tool: str, arguments: Mapping[str, Any], effects: Effects, effect: Effect | None = None) -> Subject:
    """Return the subject of a call that is only thought of: its paths are as the arguments have them."""
    named: tuple[str, ...] | None = None
    if tool == "apply_patch":
        try:
            named = tuple(file["path"] for file in files.parse(str(arguments.get("patch", ""))))
        except ToolError:
            named = ()
    return policy.call(tool, arguments, effect=effect or effects.get(tool, "external"), paths=named)


def subject_of(run: Any, paths: tuple[str, ...], isolation: Isolation | None, engine: str | None) -> Subject:
    """Return the subject of what is no call: a step's command, a change of files, where commands run, an engine, a step's start."""
    if run is not None:
        return policy.command(run)
    if paths:
        return Subject(kind="change", effect="workspace", paths=paths)
    if isolation is not None:
        return Subject(kind="isolation", isolation=isolation)
    return Subject(kind="engine", engine=engine) if engine is not None else Subject(kind="step")


def followed(subject: Subject, top: Path) -> Subject:
    """Return the subject of a call of ours, with its paths after the links of a checkout were followed."""
    if subject.tool not in policy.BUILT_IN:
        return subject
    root = os.path.realpath(top)
    found = []
    for path in subject.paths:
        real = "" if "\0" in path else os.path.realpath(os.path.join(root, path))
        found.append(os.path.relpath(real, root) if real.startswith(root + os.sep) else path)
    return subject._replace(paths=tuple(found))


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
        subject = call_subject(example.call.tool, example.call.args, effects, example.call.effect)
        text = f"call of {example.call.tool} {json.dumps(example.call.args, ensure_ascii=False)}"
    else:
        named = (example.path,) if example.path is not None else ()
        subject = subject_of(example.command, named, example.isolation, example.engine)
        about = {"command": example.command, "change of": example.path}
        about |= {"engine": example.engine, "isolation": example.isolation, "start of step": example.step}
        text = next(f"{what} {value}" for what, value in about.items() if value is not None)
    told = f"{text} in step {example.step}" if example.step and subject.kind != "step" else text
    return subject._replace(step=example.step, untrusted=example.untrusted), told


def origin_of(ready: Policy, subject: Subject, said: Decision) -> str:
    """Return whose approval an ask needs, for people to read; empty where none is needed."""
    if said.verdict != "ask":
        return ""
    if ready.file is None:
        return "you, at a terminal"
    kind: policy_file.SubjectKind = "call"
    if subject.kind in ("step", "change"):
        kind = "step" if subject.kind == "step" else "protected-path"
    of = ready.file.content.approvals.of(kind)
    people = policy_file.people(ready.file.content, of.roles)
    who = " or ".join(of.roles) or "anybody with a role"
    return f"{of.count} of {', '.join(people)} ({who})" if people else f"nobody: no one is {who}"
