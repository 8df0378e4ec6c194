"""The plan files: plan.md, context.md and the step files of one folder, parsed, and checked against each other.

An error names the file and line, and what to write; the parser corrects nothing. The record (state.json, log.md) has its models in
`state` and `events`, configuration in `config`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, reduce
from graphlib import CycleError, TopologicalSorter
from operator import or_
from typing import Annotated, ClassVar, Literal

from runner.errors import MalformedFileError, UnsupportedError
from runner.lines import pattern
from runner.protocol import ids, log, paths, references, strict_yaml
from runner.protocol.file_models import (
    AfterValidator,
    BeforeValidator,
    Between,
    Field,
    FileModel,
    Pattern,
    meant,
    model_validator,
    problem,
)
from runner.protocol.ids import SLUG_LIMIT, step_slug
from runner.protocol.state import Steps
from runner.protocol.strict_yaml import (
    NOT_EMPTY,
    Amount,
    Bool,
    Count,
    Line,
    OneOrMany,
    Positive,
    Script,
    Text,
    Value,
)

AGENT_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TOOL_NAME = pattern(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}")
INPUT_NAME = pattern(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
DURATION = pattern(r"(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s)?")
# What `git check-ref-format --branch` refuses, and nothing more.
_NO_BRANCH = pattern(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|\A[-./]|[/.]\Z|\A@\Z")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PORT = r":[1-9][0-9]{0,4}"
# A name or address, with or without a port; a network; `*`. The machine itself is `localhost` with a port alone.
_NETWORK_HOST = (
    rf"(?!localhost$|127\.)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?:{_PORT})?|\*"
    rf"|[0-9.]+/[0-9]{{1,2}}|(?!::1$)(?=[^/]*:[^/]*:)[0-9a-f:.]+(?:/[0-9]{{1,3}})?|\[[0-9a-f:.]+\]{_PORT}"
)
TITLE_LIMIT = 200


class StepKind(StrEnum):
    """What carries out a step."""

    AGENT = "agent"
    COMMAND = "command"
    TOOL = "tool"
    HUMAN = "human"

    @property
    def is_written(self) -> bool:
        """Whether the step's file says all that it does. Where a model or a tool decides, permissions are judged more strictly."""
        return self in (StepKind.COMMAND, StepKind.HUMAN)


class QaPolicy(StrEnum):
    """How much is checked after the work."""

    SKIP = "skip"
    LIGHT = "light"
    FULL = "full"


def seconds_of(text: str) -> int:
    """Return how many seconds a duration such as `90s`, `20m` or `1h30m` has.

    Raises:
        ValueError: it is not one, or zero.
    """
    match = DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if total == 0:
        raise ValueError(f"{text!r} is not a duration")
    return total


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
AMOUNT = pattern(r"([1-9][0-9]{0,5})([KMG])")


def bytes_of(amount: str) -> int:
    """Return how many bytes an amount of memory or disk such as `512M` or `4G` is, in powers of 1024.

    Raises:
        ValueError: it is not one.
    """
    match = AMOUNT.fullmatch(amount)
    if not match:
        raise ValueError(f"{amount!r} is not an amount")
    return int(match[1]) * _UNITS[match[2]]


def _duration(text: str) -> str:
    try:
        seconds_of(text)
    except ValueError as error:
        raise problem("should be a duration", "write it as 90s, 20m or 1h30m") from error
    return text


def _relative(path: str) -> str:
    parts = path.split("/")
    hint = "write it as seen from the repository's root, with `/` and without `..`, such as src/app.py"
    if path.startswith(("/", "~", "!")) or "\\" in path or any(part in ("..", ".", "") for part in parts):
        raise problem("should be a path inside the repository", hint)
    folded = [part.lower() for part in parts]
    if ".git" in folded or (folded[0] == ".protocols" and parts[:2] != [".protocols", "memory"]):
        raise problem("should not lie in .git/ or .protocols/", "name a path of the project's own")
    return path


def _reference(text: str) -> str:
    slug = step_slug(text)
    if slug is None or len(slug) > SLUG_LIMIT:
        raise problem("should name a step", "write its slug or its file's name without .md: deploy or 02-deploy")
    return text


def _title(text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1 or len(text) > TITLE_LIMIT:
        raise problem(f"should be one line of 1 to {TITLE_LIMIT} characters", "shorten it; prose goes below the `---`")
    return text


def branch_name(text: str) -> str:
    """Return `text` where git allows it as the name of a branch, else raise what a validator raises."""
    if not text or _NO_BRANCH.search(text):
        raise problem("should be the name of a branch", "write a name that git allows, such as main")
    return text


def input_names(inputs: dict[str, Value]) -> dict[str, Value]:
    """Return `inputs` where each has a name that a reference can hold, else raise what a validator raises."""
    for name in inputs:
        if not INPUT_NAME.fullmatch(name):
            raise problem("is no name for an input", "use letters, digits and _, and start with a letter", name)
    return inputs


Duration = Annotated[Text, AfterValidator(_duration, {"type": "string", "pattern": "^([0-9]+[hms])+$"})]
Bytes = Annotated[Text, Pattern(AMOUNT.pattern, "should be an amount of bytes", "write it as 512M or 4G")]
RelativePath = Annotated[Text, AfterValidator(_relative, NOT_EMPTY)]
StepReference = Annotated[Text, AfterValidator(_reference, {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"})]
AgentName = Annotated[
    Text,
    Pattern(
        AGENT_NAME.pattern,
        "should be the name of an agent file",
        "write the name of a file in .protocols/agents, without .yaml",
    ),
]
ToolName = Annotated[
    Text,
    Pattern(TOOL_NAME.pattern, "should be a tool's name", "write a name such as echo: letters, digits and _ . : / -"),
]
Title = Annotated[Text, AfterValidator(_title, {"type": "string", "minLength": 1, "maxLength": TITLE_LIMIT})]
Branch = Annotated[Text, AfterValidator(branch_name, NOT_EMPTY)]
Paths = OneOrMany[RelativePath]
Texts = OneOrMany[Script]
Needs = OneOrMany[StepReference]
NetworkHost = Annotated[
    Text,
    Pattern(
        _NETWORK_HOST,
        "should be a host that may be reached",
        "write a name in lower case, such as example.test, *.example.test, example.test:8443 or localhost:5432",
        "^({})$",
    ),
]
NetworkHosts = OneOrMany[NetworkHost]
Inputs = Annotated[dict[Text, Value], AfterValidator(input_names)]


class Resources(FileModel):
    """The most that each process of a command may use. `cpu`: time on processors; `disk`: the size of a file, and of each `/tmp`."""

    memory: Bytes | None = None
    cpu: Duration | None = None
    processes: Annotated[Count, Between(1)] | None = None
    disk: Bytes | None = None


class Budget(FileModel):
    """The most that may be spent; each key is optional."""

    usd: Amount | None = None
    tokens: Count | None = None
    turns: Count | None = None
    calls: Count | None = None
    minutes: Count | None = None


class Qa(FileModel):
    """`qa:` written out. `checks`: command lines that must exit with 0; `rounds`: how often they may run in an agent's attempt."""

    policy: QaPolicy | None = None
    checks: Texts = ()
    rounds: Positive | None = None


class Approval(FileModel):
    """`approval:` written out."""

    when: Literal["none", "before", "after"]
    roles: tuple[Line, ...] = ()
    count: Positive | None = None


class OnFailure(FileModel):
    """`on_failure:`: `{retry: 2, then: block}` or `{goto: context, limit: 3}`."""

    retry: Count = 0
    then: Literal["fail", "block"] = "fail"
    goto: StepReference | None = None
    limit: Positive | None = None

    @model_validator(mode="after")
    def _either(self) -> OnFailure:
        if self.limit is not None and self.goto is None:
            raise problem("goes with `goto`", "add `goto: STEP`, or write `retry` for more attempts", "limit")
        for other in ("then", "retry"):
            if self.goto is not None and other in self.model_fields_set:
                raise problem("does not go with `goto`", "write `goto` with `limit`, or `retry` with `then`", other)
        return self


def short_for(key: str) -> Callable[[object], object]:
    """Return what reads a text alone as the value of this key."""
    return lambda value: {key: value} if isinstance(value, str) else value


QaKey = Annotated[Qa, BeforeValidator(short_for("policy"), json_schema_input_type=QaPolicy | Qa)]
ApprovalKey = Annotated[
    Approval, BeforeValidator(short_for("when"), json_schema_input_type=Literal["none", "before", "after"] | Approval)
]


BELOW_QA = {"checks": "write `qa: {checks: [COMMAND]}`"}  # config.yaml has `checks` at its top


class PlanHeader(FileModel):
    """The front matter of plan.md. Agent, engine and qa are the steps' defaults; budget is the protocol's."""

    elsewhere: ClassVar[Mapping[str, str]] = BELOW_QA

    title: Title = Field(description="The task, in one line.")
    base: Branch | None = Field(default=None, description="The branch to start from and to merge into.")
    agent: AgentName | None = Field(default=None, description="The agent of the steps that name none.")
    engine: Line | None = Field(
        default=None, description="The model of the steps that name none, such as openai:gpt-6.1-terra."
    )
    budget: Budget | None = Field(default=None, description="The most that the whole protocol may spend.")
    qa: QaKey | None = Field(default=None, description="The checks of the steps that have no `qa`.")
    approval: ApprovalKey | None = Field(
        default=None, description="Whether the plan needs an approval before any step."
    )
    inputs: Inputs = Field(
        default_factory=dict,
        description="Values that steps refer to as ${{ inputs.NAME }}; a command gets them as RUNNER_INPUT_NAME.",
    )
    links: Texts = Field(default=(), description="Where to read more.")
    acceptance: Texts = Field(default=(), description="The acceptance criteria, in prose.")


class StepHeader(FileModel):
    """The front matter of a step file."""

    elsewhere: ClassVar[Mapping[str, str]] = BELOW_QA

    title: Title = Field(description="The task, in one line.")
    kind: StepKind = Field(default=StepKind.AGENT, description="What carries the step out.")
    agent: AgentName | None = Field(default=None, description="The name of an agent file in .protocols/agents.")
    engine: Line | None = Field(default=None, description="The model, such as openai:gpt-6.1-terra.")
    needs: Needs | None = Field(
        default=None, description="The steps that must be completed before; without it, the step before this one."
    )
    run: Script | tuple[Script, ...] | None = Field(
        default=None, description="The command: a line for `sh -c`, or a list that is run as it is."
    )
    tool: ToolName | None = Field(default=None, description="The tool's name.")
    with_: dict[Text, Value] = Field(
        default_factory=dict,
        alias="with",
        description="The tool's input; ${{ inputs.NAME }} and ${{ steps.SLUG.result.NAME }} are replaced.",
    )
    outputs: Paths = Field(
        default=(), description="Paths or globs that must exist or have changed afterwards; each is an artifact."
    )
    result: dict[Text, Value] | None = Field(
        default=None,
        description="A JSON Schema, of an object, for the result that an agent gives; later steps refer to its fields.",
    )
    qa: QaKey | None = Field(
        default=None,
        description="How the work is checked; without it light where checks or outputs are named, else skip.",
    )
    approval: ApprovalKey | None = Field(
        default=None, description="Whether the step needs an approval before it, or its work after it."
    )
    on_failure: OnFailure = Field(
        default=OnFailure.model_construct(),
        description="What a failure leads to: {retry: 2, then: block} or {goto: STEP, limit: 3}.",
    )
    timeout: Duration | None = Field(default=None, description="The time limit, such as 90s, 20m or 1h30m.")
    budget: Budget | None = Field(default=None, description="The most that the step may spend.")
    decompose: Bool = Field(default=False, description="Whether a model splits the step before it starts.")
    resources: Resources = Field(
        default=Resources.model_construct(),
        description="The most that a process of its commands and checks may use; it lowers what config.yaml says.",
    )

    network: NetworkHosts = Field(
        default=(),
        description="The hosts that its commands and checks may reach; policy.yaml has to allow each, under `network`.",
    )

    @model_validator(mode="after")
    def _goes_with_kind(self) -> StepHeader:
        if self.kind is StepKind.COMMAND and not self.run:
            raise problem("is command, and there is nothing to run", "add `run: …`, the line or list to run", "kind")
        if self.kind is StepKind.TOOL and not self.tool:
            raise problem("is tool, and no tool is named", "add `tool: …`, its name", "kind")
        if self.run is not None and self.kind is not StepKind.COMMAND:
            raise problem("goes with a step of kind command", "add `kind: command`, or remove it", "run")
        for key, given in (("tool", self.tool is not None), ("with", bool(self.with_))):
            if given and self.kind is not StepKind.TOOL:
                raise problem("goes with a step of kind tool", "add `kind: tool`, or remove it", key)
        for key, given in (("result", self.result is not None), ("decompose", self.decompose)):
            if given and self.kind is not StepKind.AGENT:
                raise problem("goes with a step of kind agent", "remove it", key)
        if self.result is not None:
            _refuse_no_schema(self.result)
        return self


def _refuse_no_schema(schema: dict[str, object]) -> None:
    import jsonschema

    hint = "write it as {type: object, properties: {port: {type: integer}}, required: [port]}"
    if schema.get("type") != "object":
        raise problem("should be the JSON Schema of an object", hint, "result")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise problem(f"is no JSON Schema: {error.message}", hint, "result") from error
    if "$ref" in str(schema):
        raise problem("has a `$ref`", "write the schema out: it is read as a part of another one", "result")


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    """Return the expression for a glob in which `**` crosses folders and `*` does not."""
    out, at = [], 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at):
            out.append(".*")
            at += 2
        elif glob[at] == "*":
            out.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return re.compile("".join(out))


def outputs_among(glob: str, files: Iterable[str]) -> list[str]:
    """Return those of the files that an output names: itself, what its glob fits, or what lies in its folder.

    What no step makes is none: the plan's files would pass for `**/*.md`, and the record differs in the very commit that names it.
    """
    pattern = _pattern(glob.rstrip("/"))
    return sorted(
        path
        for path in files
        if (pattern.fullmatch(path) or path.startswith(glob.rstrip("/") + "/")) and not paths.is_for_people(path)
    )


STEP_LIMIT = 10_000
NO_CHECKS = (
    'name `outputs:`, or `qa: {policy: light, checks: ["make test"]}`; '
    f"`checks:` of {paths.CONFIG} is the default, where it has any"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step file: its header, its prose, and what the whole plan makes of them."""

    slug: str
    number: int
    file: str  # the file's name, such as 02-deploy.md
    digest: str  # of the file's bytes
    header: StepHeader
    prose: str = field(repr=False)
    needs: tuple[str, ...]  # slugs
    goto: str | None
    qa: QaPolicy
    checks: tuple[str, ...]
    lines: Mapping[str, int] = field(repr=False, compare=False)  # of the header's keys, for messages

    @property
    def retries(self) -> tuple[str, int]:
        """Where work starts again when it fails, itself or `goto`, and after how many attempts there that ends."""
        if self.goto is not None:
            return self.goto, self.header.on_failure.limit or 1
        return self.slug, self.header.on_failure.retry

    @property
    def has_checks(self) -> bool:
        """Whether a QA of it has something to check."""
        return bool(self.checks or self.header.outputs) or self.qa is QaPolicy.FULL

    @property
    def evidence(self) -> list[str]:
        """What the evidence of a QA that passed names, in its order: outputs, checks, a model's verdict."""
        named = [*map(log.output_check, self.header.outputs), *map(log.cut, self.checks)]
        return [*named, log.REVIEW] if self.qa is QaPolicy.FULL else named


@dataclass(frozen=True, slots=True)
class Plan:
    """All that people say of a protocol. `steps` are in the order of their numbers."""

    header: PlanHeader
    prose: str = field(repr=False)
    digest: str  # of plan.md and context.md
    context: str | None
    steps: tuple[Step, ...]
    lines: Mapping[str, int] = field(repr=False, compare=False)
    # The record's steps that were seen to say the same, at most once: what `machine.edit_of` need not compare again.
    agreed: list[Steps] = field(init=False, default_factory=list, repr=False, compare=False)

    _by_slug: dict[str, Step] = field(init=False, default_factory=dict, repr=False, compare=False)

    def step(self, slug: str) -> Step | None:
        """Return the step, or None where there is none of that name."""
        if not self._by_slug:
            self._by_slug.update((step.slug, step) for step in reversed(self.steps))
        return self._by_slug.get(slug)


def parse(files: Mapping[str, bytes], where: str, checks: tuple[str, ...] = ()) -> Plan:
    """Return the plan that `files` (name in the folder to bytes) make; `where` is the folder, for messages.

    `checks`: the project's default ones.

    Raises:
        MalformedFileError: with the file and line.
    """
    if paths.PLAN not in files:
        raise MalformedFileError("there is no plan.md", where, "write one: front matter with `title: …`, and prose")
    plan_where = f"{where}/{paths.PLAN}"
    header, lines, prose = strict_yaml.read_front_matter(PlanHeader, files[paths.PLAN], plan_where)
    context = None
    if paths.CONTEXT in files:
        context = strict_yaml.decode(files[paths.CONTEXT], f"{where}/{paths.CONTEXT}")
    told = {name: files[name] for name in (paths.PLAN, paths.CONTEXT) if name in files}
    plan = Plan(
        header=header,
        prose=references.in_prose(prose, header.inputs),
        digest=ids.manifest_digest(told),
        context=context,
        steps=tuple(_steps(files, where, header)),
        lines=_key_lines(lines),
    )
    return with_default_checks(plan, checks)


def with_default_checks(plan: Plan, checks: tuple[str, ...]) -> Plan:
    """Return the plan in which `checks`, the project's, are those of each step that names none and is an agent's, or asks for QA."""
    if not checks:
        return plan

    def checked(step: Step) -> Step:
        asked = step.header.qa or plan.header.qa or Qa()
        wants = asked.policy or (QaPolicy.LIGHT if step.header.kind is StepKind.AGENT else QaPolicy.SKIP)
        if asked.checks or wants is QaPolicy.SKIP:
            return step
        return dataclasses.replace(step, qa=wants, checks=checks)

    return dataclasses.replace(plan, steps=tuple(map(checked, plan.steps)))


def names(files: Mapping[str, object], where: str) -> dict[str, tuple[int, str]]:
    """Return slug to (number, file name) of the step files, or say which two or which name does not fit.

    Raises:
        MalformedFileError: a name that is no step's, or two steps with one number or slug.
    """
    found: dict[str, tuple[int, str]] = {}
    numbers: dict[int, str] = {}
    for name in sorted(files):
        if not name.lower().endswith(".md") or name in (paths.PLAN, paths.CONTEXT, paths.LOG) or "/" in name:
            continue
        shown = name if name.isprintable() else ascii(name)

        def refuse(what: str, hint: str, at: str = f"{where}/{shown}:1") -> MalformedFileError:
            return MalformedFileError(what, at, hint)

        match = ids.STEP_FILE.fullmatch(name)
        if match is None:
            raise refuse(
                f"`{shown}` is not a name for a step", "call it NN-slug.md, with a slug of a-z, 0-9 and single hyphens"
            )
        number, slug = int(match["number"]), match["slug"]
        if len(slug) > ids.SLUG_LIMIT:
            raise refuse(f"`{slug}` is too long for a slug", f"use at most {ids.SLUG_LIMIT} characters")
        if slug == "plan":
            raise refuse("a step cannot be called plan", "in the record `plan` is plan.md; call the step planning")
        if number in numbers:
            what = f"two steps have the number {number}: {numbers[number]} and {name}"
            raise refuse(what, "give each step a number of its own")
        if slug in found:
            what = f"two steps are called {slug}: {found[slug][1]} and {name}"
            raise refuse(what, "a step is known by its slug; rename one")
        numbers[number], found[slug] = name, (number, name)
    if len(found) > STEP_LIMIT:
        raise MalformedFileError(
            f"{len(found):,} steps", where, f"at most {STEP_LIMIT:,} are run; make several protocols"
        )
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def _at(where: str, lines: strict_yaml.Lines, path: strict_yaml.Path) -> str:
    return f"{where}:{lines.get(path, 1)}"


def _key_lines(lines: strict_yaml.Lines) -> dict[str, int]:
    return {str(path[0]): line for path, line in lines.items() if len(path) == 1}


def _steps(files: Mapping[str, bytes], where: str, plan: PlanHeader) -> Iterator[Step]:
    order = names(files, where)
    if not order:
        raise MalformedFileError("the plan has no steps", where, "add a file such as 01-first.md")
    needs_of: dict[str, tuple[str, ...]] = {}
    where_of: dict[str, str] = {}
    goto_of: dict[str, tuple[str, str]] = {}
    before: str | None = None
    made = []
    for slug, (number, name) in order.items():
        at = f"{where}/{name}"
        header, lines, prose = strict_yaml.read_front_matter(StepHeader, files[name], at)
        needs: tuple[str, ...] = (before,) if before else ()
        if header.needs is not None:
            needs, where_of[slug] = (), _at(at, lines, ("needs",))
            for index, reference in enumerate(header.needs):
                here = _at(at, lines, ("needs", index) if ("needs", index) in lines else ("needs",))
                need = _resolve(reference, order, here)
                if need == slug:
                    raise MalformedFileError(f"{slug} needs itself", here, "remove it from `needs`")
                if need in needs:
                    raise MalformedFileError(f"{slug} needs {need} twice", here, "keep one of them")
                needs = (*needs, need)
        goto = None
        if header.on_failure.goto:
            here = _at(at, lines, ("on_failure", "goto"))
            goto = _resolve(header.on_failure.goto, order, here)
            goto_of[slug] = goto, here
        _check_references(header, plan.inputs, order, at, lines)
        needs_of[slug], before = needs, slug
        asked = header.qa or plan.qa
        checks = asked.checks if asked else ()
        policy = asked.policy if asked and asked.policy else None
        if policy is None:
            policy = QaPolicy.LIGHT if checks or header.outputs else QaPolicy.SKIP
        made.append(
            Step(
                slug=slug,
                number=number,
                file=name,
                digest=ids.digest(files[name]),
                header=header,
                prose=references.in_prose(prose, plan.inputs),
                needs=needs,
                goto=goto,
                qa=policy,
                checks=checks,
                lines=_key_lines(lines),
            )
        )
    _refuse_cycles(needs_of, where_of)
    _refuse_jumps(needs_of, goto_of)
    yield from made


def _resolve(reference: str, known: Mapping[str, object], where: str) -> str:
    slug = ids.find_step(reference, known)
    if slug is None:
        hint = meant(ids.step_slug(reference) or reference, known, "name a step of this plan")
        raise MalformedFileError(f"there is no step `{reference}`", where, hint)
    return slug


def _check_references(
    header: StepHeader, inputs: Mapping[str, object], steps: Mapping[str, object], where: str, lines: strict_yaml.Lines
) -> None:
    for key, value in header.with_.items():
        at = _at(where, lines, ("with", key))
        for name in references.names_in(value, at):
            kind, word = references.split(name, at)
            known = inputs if kind == "inputs" else steps
            if word not in known and not (kind == "steps" and ids.find_step(word, steps)):
                other = "name it under `inputs:` in plan.md" if kind == "inputs" else "name a step of this plan"
                what = f"there is no {'input' if kind == 'inputs' else 'step'} `{word}`"
                raise MalformedFileError(what, at, meant(word, known, other))
    spliced = next(filter(None, map(references.variable_for, _texts(header.run))), None)
    if spliced:
        raise MalformedFileError(
            "a reference in `run`, which the shell gets unchanged",
            _at(where, lines, ("run",)),
            f"write the environment variable ${spliced}",
        )


def _texts(run: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (run,) if isinstance(run, str) else run or ()


def _refuse_jumps(needs: Mapping[str, tuple[str, ...]], goto: Mapping[str, tuple[str, str]]) -> None:
    """Refuse a `goto` to a step that is not done whenever this one has failed: it goes back, or to itself. No step needs itself."""
    bit = {slug: 1 << index for index, slug in enumerate(needs)}
    before: dict[str, int] = {}  # each step and all steps that it needs
    for slug in TopologicalSorter(needs).static_order() if goto else ():
        before[slug] = reduce(or_, (before[need] for need in needs[slug]), bit[slug])
    for slug, (target, where) in goto.items():
        if not before[slug] & bit[target]:
            raise MalformedFileError(
                f"{slug} does not come after {target}", where, f"go to {slug} itself, or to a step that it needs"
            )


def _refuse_cycles(needs: Mapping[str, tuple[str, ...]], where: Mapping[str, str]) -> None:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        *circle, first = reversed(error.args[1])  # each needs the next
        shown = [*circle[:5], "…"] if len(circle) > 6 else circle
        what = f"the steps need each other: {' → '.join([*shown, first])}"
        # The others have the default, the step before.
        at = next(where[name] for name in reversed(circle) if name in where)
        raise MalformedFileError(what, at, "remove one of the needs") from error


def unchecked(plan: Plan, where: str) -> Iterator[MalformedFileError]:
    """Yield an error for each step that asks for QA and names nothing to check: its QA would fail after its work."""
    for step in plan.steps:
        if step.qa is QaPolicy.LIGHT and not step.has_checks:
            of = (step.file, step.lines) if step.header.qa else (paths.PLAN, plan.lines)
            at = f"{where}/{of[0]}:{of[1].get('qa', 1)}"
            yield MalformedFileError(f"the QA of {step.slug} has nothing to check", at, NO_CHECKS)


def refuse_unsupported(plan: Plan, where: str) -> None:
    """Refuse by name what this version does not do yet.

    Raises:
        UnsupportedError: naming file and key.
    """
    for step in plan.steps:
        if step.header.budget and step.header.kind is not StepKind.AGENT and step.qa is not QaPolicy.FULL:
            raise UnsupportedError(
                "`budget:` of a step that asks no model is not supported by this version",
                f"{where}/{step.file}:{step.lines.get('budget', 1)}",
                "remove the key; `timeout:` bounds a command",
            )
