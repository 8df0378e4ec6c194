"""The values that people's files hold: the front matter of plan and steps, and what a step asks for.

The record (state.json, log.md) has its models in `state` and `events`; configuration in `config`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runner.protocol.ids import SLUG_LIMIT, step_slug
from runner.protocol.words import Amount, Count, Int, Text, Value, Words

AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")


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
        raise ValueError("should be a duration such as 90s, 20m or 1h30m")
    return total


def _duration(text: str) -> str:
    seconds_of(text)
    return text


def _relative(path: str) -> str:
    parts = path.split("/")
    if path.startswith(("/", "~", "!")) or "\\" in path or not path or any(part in ("..", ".", "") for part in parts):
        raise ValueError("should be a path below the repository's root, with `/` and without `..`")
    if parts[0] in (".git", ".protocols") and parts[:2] != [".protocols", "memory"]:
        raise ValueError(f"should lie outside {parts[0]}/")
    return path


def _reference(text: str) -> str:
    slug = step_slug(text)
    if slug is None or len(slug) > SLUG_LIMIT:
        raise ValueError("should name a step, such as deploy or 02-deploy")
    return text


def _agent(text: str) -> str:
    if not AGENT_NAME.fullmatch(text):
        raise ValueError("should be the name of a file in .protocols/agents, without .yaml")
    return text


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _title(text: str) -> str:
    if not text.strip() or "\n" in text or len(text) > 200:
        raise ValueError("should be one line of 1 to 200 characters")
    return text


Duration = Annotated[Text, AfterValidator(_duration)]
RelativePath = Annotated[Text, AfterValidator(_relative)]
StepReference = Annotated[Text, AfterValidator(_reference)]
AgentName = Annotated[Text, AfterValidator(_agent)]
Title = Annotated[Text, AfterValidator(_title)]
Line = Annotated[Text, Field(min_length=1)]


class Budget(Words):
    """The most that may be spent; each key is optional."""

    usd: Amount | None = None
    tokens: Count | None = None
    turns: Count | None = None
    calls: Count | None = None
    minutes: Count | None = None


class Qa(Words):
    """`qa:` written out."""

    policy: QaPolicy | None = None
    checks: tuple[Line, ...] = ()


class Approval(Words):
    """`approval:` written out."""

    when: Literal["none", "before", "after"]
    roles: tuple[Line, ...] = ()
    count: Annotated[Int, Ge(1)] | None = None


class OnFailure(Words):
    """`on_failure:`: `{retry: 2, then: block}` or `{goto: context, limit: 3}`."""

    retry: Count = 0
    then: Literal["fail", "block"] = "fail"
    goto: StepReference | None = None
    limit: Annotated[Int, Ge(1)] | None = None

    @model_validator(mode="after")
    def _either(self) -> OnFailure:
        if self.limit is not None and self.goto is None:
            raise ValueError("`limit` goes with `goto`")
        if self.goto is not None and ("then" in self.model_fields_set or "retry" in self.model_fields_set):
            raise ValueError("either `goto` with `limit`, or `retry` with `then`")
        return self


def _qa(value: object) -> object:
    return {"policy": value} if isinstance(value, str) else value


def _approval(value: object) -> object:
    return {"when": value} if isinstance(value, str) else value


QaKey = Annotated[Qa, BeforeValidator(_qa)]
ApprovalKey = Annotated[Approval, BeforeValidator(_approval)]


class PlanHeader(Words):
    """The front matter of plan.md. Agent, engine and qa are the steps' defaults; budget is the protocol's."""

    title: Title
    base: Line | None = None
    agent: AgentName | None = None
    engine: Line | None = None
    budget: Budget | None = None
    qa: QaKey | None = None
    approval: ApprovalKey | None = None
    inputs: dict[Text, Value] = Field(default_factory=dict)
    links: Annotated[tuple[Line, ...], BeforeValidator(_one_or_many)] = ()
    acceptance: Annotated[tuple[Line, ...], BeforeValidator(_one_or_many)] = ()


class StepHeader(Words):
    """The front matter of a step file."""

    title: Title
    kind: Kind = Kind.AGENT
    agent: AgentName | None = None
    engine: Line | None = None
    needs: Annotated[tuple[StepReference, ...], BeforeValidator(_one_or_many)] | None = None
    run: Line | tuple[Line, ...] | None = None
    tool: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}$")] | None = None
    with_: dict[Text, Value] = Field(default_factory=dict, alias="with")
    outputs: Annotated[tuple[RelativePath, ...], BeforeValidator(_one_or_many)] = ()
    qa: QaKey | None = None
    approval: ApprovalKey | None = None
    on_failure: OnFailure = OnFailure()
    timeout: Duration | None = None
    budget: Budget | None = None

    @model_validator(mode="after")
    def _goes_with_kind(self) -> StepHeader:
        if self.kind is Kind.COMMAND and not self.run:
            raise ValueError("a step of kind command needs `run:`, the line or list to run")
        if self.kind is Kind.TOOL and not self.tool:
            raise ValueError("a step of kind tool needs `tool:`, its name")
        if self.run is not None and self.kind is not Kind.COMMAND:
            raise ValueError("`run:` goes with `kind: command`")
        if (self.tool is not None or self.with_) and self.kind is not Kind.TOOL:
            raise ValueError("`tool:` and `with:` go with `kind: tool`")
        return self
