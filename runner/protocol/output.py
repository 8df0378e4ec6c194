"""What the command line prints with `--json`: the types that its schemas are generated from (design §9).

`show --json` is one `Shown`, `status` and `list` a `Protocols`, `log` one entry of `events` a line, `verify` a `Verified`.
Readers must expect further keys. Nothing is computed here.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic refuses typing.TypedDict before Python 3.12

from runner.protocol.state import Artifact, Json, SpentTotal, Status, Wait


class Next(TypedDict):
    """The action that would follow. `by`: who owes it, empty where nobody does."""

    action: Literal[
        "write-plan", "run-step", "ask-person", "take-work", "check-step", "complete-step", "complete", "none"
    ]
    step: str | None
    by: str


class ShownStep(TypedDict):
    """A step of state.json; `reason`, `passed` and `removed` stand there only where they say something."""

    place: int
    title: str
    kind: str
    needs: list[str]
    qa: str
    digest: str
    status: str
    attempt: int
    result: Json
    reason: NotRequired[str]
    passed: NotRequired[bool]
    removed: NotRequired[bool]


class Readable(TypedDict):
    """The content of state.json, and what follows from it."""

    schema: int
    protocol: str
    genesis: str
    revision: int
    status: Status
    title: str
    base: str
    plan: str | None
    steps: dict[str, ShownStep]
    waiting: list[Wait]
    artifacts: list[Artifact]
    spent: SpentTotal
    log: str
    next: Next
    reason: str
    command: str | None
    path: str | None


class Unreadable(TypedDict):
    """A protocol whose state.json is missing or damaged; `runner verify` says how."""

    protocol: str
    status: Literal["unreadable"]
    title: str
    revision: int
    steps: dict[str, Json]
    waiting: list[Json]
    next: Next
    reason: str
    command: str | None
    path: str | None


Shown = Readable | Unreadable


class Protocols(TypedDict):
    """Several protocols."""

    protocols: list[Shown]


class FindingRow(TypedDict):
    """Something that is not as it should be. `rule`: a name of `docs/verify.md`; `text`: one line."""

    rule: str
    commit: str
    path: str
    text: str


class VerifiedProtocol(TypedDict):
    """What verify found for one protocol."""

    protocol: str
    ok: bool
    transitions: int
    approvals: int
    findings: list[FindingRow]


class Verified(TypedDict):
    """Whether all of it holds, and what was found."""

    ok: bool
    protocols: list[VerifiedProtocol]
