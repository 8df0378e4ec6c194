"""The values that people's files hold: the front matter of plan and steps, and what a step asks for.

The record (state.json, log.md) has its models in `state` and `events`; configuration in `config`. What the keys mean to a
reader is told in `schema`; how the files of one plan go together, in `plan`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from runner.protocol.ids import SLUG_LIMIT, step_slug
from runner.protocol.words import Amount, Count, Line, Positive, Script, Text, Value, Words, one_or_many, problem

AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}")
INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
DURATION = re.compile(r"(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s)?")
# What `git check-ref-format --branch` refuses, and nothing more.
_NO_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|\A[-./]|[/.]\Z|\A@\Z")
TITLE_LIMIT = 200


class Kind(StrEnum):
    """What carries out a step."""

    AGENT = "agent"
    COMMAND = "command"
    TOOL = "tool"
    HUMAN = "human"


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
        raise ValueError(f"{text!r} is no duration")
    return total


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


def _agent(text: str) -> str:
    if not AGENT_NAME.fullmatch(text):
        raise problem("should be a coworker's name", "write the name of a file in .protocols/agents, without .yaml")
    return text


def _tool(text: str) -> str:
    if not TOOL_NAME.fullmatch(text):
        raise problem("should be a tool's name", "write a name such as echo: letters, digits and _ . : / -")
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
            raise problem("is no name for an input", "use letters, digits and _, and begin with a letter", name)
    return inputs


Duration = Annotated[Text, AfterValidator(_duration), WithJsonSchema({"type": "string", "pattern": "^([0-9]+[hms])+$"})]
RelativePath = Annotated[Text, AfterValidator(_relative), WithJsonSchema({"type": "string", "minLength": 1})]
StepReference = Annotated[
    Text,
    AfterValidator(_reference),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"}),
]
AgentName = Annotated[
    Text, AfterValidator(_agent), WithJsonSchema({"type": "string", "pattern": f"^{AGENT_NAME.pattern}$"})
]
ToolName = Annotated[
    Text, AfterValidator(_tool), WithJsonSchema({"type": "string", "pattern": f"^{TOOL_NAME.pattern}$"})
]
Title = Annotated[
    Text, AfterValidator(_title), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": TITLE_LIMIT})
]
Branch = Annotated[Text, AfterValidator(branch_name), WithJsonSchema({"type": "string", "minLength": 1})]
Paths = Annotated[
    tuple[RelativePath, ...],
    BeforeValidator(one_or_many, json_schema_input_type=RelativePath | tuple[RelativePath, ...]),
]
Texts = Annotated[tuple[Script, ...], BeforeValidator(one_or_many, json_schema_input_type=Script | tuple[Script, ...])]
Needs = Annotated[
    tuple[StepReference, ...],
    BeforeValidator(one_or_many, json_schema_input_type=StepReference | tuple[StepReference, ...]),
]
Inputs = Annotated[dict[Text, Value], AfterValidator(input_names)]


class Budget(Words):
    """The most that may be spent; each key is optional."""

    usd: Amount | None = None
    tokens: Count | None = None
    turns: Count | None = None
    calls: Count | None = None
    minutes: Count | None = None


class Qa(Words):
    """`qa:` written out. `checks`: command lines that must exit with 0."""

    policy: QaPolicy | None = None
    checks: Texts = ()


class Approval(Words):
    """`approval:` written out."""

    when: Literal["none", "before", "after"]
    roles: tuple[Line, ...] = ()
    count: Positive | None = None


class OnFailure(Words):
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


def _qa(value: object) -> object:
    return {"policy": value} if isinstance(value, str) else value


def _approval(value: object) -> object:
    return {"when": value} if isinstance(value, str) else value


QaKey = Annotated[Qa, BeforeValidator(_qa, json_schema_input_type=QaPolicy | Qa)]
ApprovalKey = Annotated[
    Approval, BeforeValidator(_approval, json_schema_input_type=Literal["none", "before", "after"] | Approval)
]


class PlanHeader(Words):
    """The front matter of plan.md. Agent, engine and qa are the steps' defaults; budget is the protocol's."""

    title: Title
    base: Branch | None = None
    agent: AgentName | None = None
    engine: Line | None = None
    budget: Budget | None = None
    qa: QaKey | None = None
    approval: ApprovalKey | None = None
    inputs: Inputs = Field(default_factory=dict)
    links: Texts = ()
    acceptance: Texts = ()


class StepHeader(Words):
    """The front matter of a step file."""

    title: Title
    kind: Kind = Kind.AGENT
    agent: AgentName | None = None
    engine: Line | None = None
    needs: Needs | None = None
    run: Script | tuple[Script, ...] | None = None
    tool: ToolName | None = None
    with_: dict[Text, Value] = Field(default_factory=dict, alias="with")
    outputs: Paths = ()
    qa: QaKey | None = None
    approval: ApprovalKey | None = None
    on_failure: OnFailure = OnFailure.model_construct()
    timeout: Duration | None = None
    budget: Budget | None = None

    @model_validator(mode="after")
    def _goes_with_kind(self) -> StepHeader:
        if self.kind is Kind.COMMAND and not self.run:
            raise problem("is command, and there is nothing to run", "add `run: …`, the line or list to run", "kind")
        if self.kind is Kind.TOOL and not self.tool:
            raise problem("is tool, and no tool is named", "add `tool: …`, its name", "kind")
        if self.run is not None and self.kind is not Kind.COMMAND:
            raise problem("goes with a step of kind command", "add `kind: command`, or remove it", "run")
        for key, given in (("tool", self.tool is not None), ("with", bool(self.with_))):
            if given and self.kind is not Kind.TOOL:
                raise problem("goes with a step of kind tool", "add `kind: tool`, or remove it", key)
        return self
