"""Everything that can happen to a protocol, one model each (design §3). The log's fields are the models' fields.

An event's `subject` is part of the log's headline: a step's slug, `plan`, or the protocol's id. `EVENTS` says what kind of
event each is, `machine` what it makes of a state. A new event is a model, a row of `EVENTS`, a `case` in `machine` if it changes
more than the status, and a stored history. They are plain dataclasses so that a runner that only writes them need not load
pydantic; `parse` validates an entry of a log.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from typing_extensions import TypedDict  # pydantic refuses typing.TypedDict before Python 3.12

from runner.errors import IntegrityError
from runner.protocol.decision import ACTIVE, OPEN
from runner.protocol.state import WAITS, Json, Status, StepStatus
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class EventType:
    """A row of `EVENTS`: what kind of event this is. Each rule about kinds of events reads a column of it.

    `about`: what its subject is; `call` is a step, for one of its tool calls. `role`: `edit` and `approval` are picked up at the
    start of a transition; `work` ends work at a step, for now or for good; `qa` checks it. `said_by`: who causes it; `either` is a
    person or a runner, `forge` is CI. `statuses` and `steps`: of the protocol and of its step before it; `status` and `step`: after
    it (None: unchanged, or computed in `machine`). `then`: what may follow in the same commit; `first`: it may be the first of a
    commit. `opens`, `ends`: kinds of waits. `has_work`: its commit may change code. `stops`: no effect may start after it.
    `command`: what a person types to record it again, where the runner does not.
    """

    name: str
    about: Literal["protocol", "plan", "step", "call", "any"]
    role: Literal["start", "plan", "edit", "approval", "work", "qa", "ask", "answer", "status", "fact"]
    said_by: Literal["person", "runner", "either", "forge"]
    statuses: frozenset[Status] = OPEN
    status: Status | None = None
    steps: frozenset[StepStatus] = frozenset()
    step: StepStatus | None = None
    then: tuple[str, ...] = ()
    first: bool = True
    opens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    has_work: bool = False
    ends_attempt: bool = False
    stops: bool = False
    command: str = ""

    @property
    def is_of_step(self) -> bool:
        """Whether its subject is always a step."""
        return self.about in ("step", "call")


_P, _S = Status, StepStatus
_NEW, _EVER = frozenset({_P.PENDING}), frozenset(Status)
_BUSY = ACTIVE | {_P.PAUSED, _P.BLOCKED}  # a step that was at work at a pause still ends: its work would be lost
_WORK, _QA = frozenset({_S.PENDING, _S.RUNNING}), frozenset({_S.NEEDS_QA})
_HELD = _WORK | {_S.AWAITING_APPROVAL}
_LEFT = _QA | {_S.FAILED, _S.BLOCKED}
_APPROVALS = tuple(kind for kind, wait in WAITS.items() if wait.ended_by == "approval" and kind != "call")
_ROWS = (
    EventType("created", "protocol", "start", "person", then=("planned", "imported", "forked", "asked")),
    EventType("planned", "plan", "plan", "either", _NEW | {_P.PLANNING}, _P.PLANNED),
    EventType("imported", "plan", "plan", "person", _NEW, _P.PLANNED, first=False),
    EventType("forked", "plan", "plan", "person", _NEW, _P.PLANNED, first=False),
    EventType("plan-edited", "plan", "edit", "either", ends=("budget",)),
    EventType("approval-asked", "any", "ask", "runner", steps=_WORK | _QA, opens=_APPROVALS),
    EventType("approval-counted", "any", "approval", "runner", ends=_APPROVALS),
    EventType("approval-refused", "any", "approval", "runner", ends=(*_APPROVALS, "call")),
    EventType("call-held", "call", "work", "runner", _BUSY, None, _HELD, _S.AWAITING_APPROVAL,
              opens=("call",), has_work=True),
    EventType("call-decided", "call", "approval", "runner", _BUSY, None, _HELD - _WORK, _S.RUNNING, ends=("call",)),
    EventType("effect-unknown", "call", "work", "runner", _BUSY, None, _HELD, _S.RUNNING,
              opens=("effect",), has_work=True),
    EventType("effect-decided", "call", "answer", "person", _BUSY, None, _WORK - {_S.PENDING}, _S.RUNNING,
              ends=("effect",)),
    EventType("asked", "any", "work", "either", steps=_WORK, step=_S.RUNNING,
              then=("asked",), opens=("human", "question"), has_work=True),  # the planner asks several questions at once
    EventType("answered", "any", "answer", "person", then=("resumed",), ends=("human", "question")),
    EventType("step-finished", "step", "work", "runner", _BUSY, None, _WORK, _S.NEEDS_QA,
              then=("step-completed", "approval-asked"), has_work=True, ends_attempt=True),
    EventType("qa-passed", "step", "qa", "runner", _BUSY, None, _QA, then=("step-completed", "approval-asked")),
    EventType("qa-failed", "step", "qa", "runner", _BUSY, None, _QA, then=("step-failed", "step-blocked")),
    EventType("step-completed", "step", "qa", "runner", _BUSY, None, _QA, _S.COMPLETED, then=("completed",)),
    EventType("step-failed", "step", "work", "runner", _BUSY, None, _HELD | _QA, _S.FAILED,
              then=("step-retried", "failed"), ends_attempt=True),
    EventType("step-blocked", "step", "work", "runner", _BUSY, None, _HELD | _QA, _S.BLOCKED,
              then=("blocked",), ends_attempt=True),
    EventType("step-cancelled", "step", "status", "person", _BUSY, None, _HELD | _LEFT, _S.CANCELLED,
              then=("step-cancelled", "cancelled"), ends_attempt=True),
    EventType("step-retried", "step", "status", "either", OPEN - _NEW - {_P.PLANNING}, None, _LEFT | {_S.COMPLETED},
              _S.PENDING, then=("step-retried", "resumed"), command="retry"),
    EventType("budget-reached", "any", "work", "runner", opens=("budget",)),
    EventType("paused", "protocol", "status", "person", OPEN - {_P.PAUSED}, _P.PAUSED, stops=True, command="pause"),
    EventType("resumed", "protocol", "status", "person", _BUSY - ACTIVE | {_P.FAILED}, command="resume"),
    EventType("blocked", "protocol", "status", "runner", OPEN - {_P.BLOCKED, _P.FAILED}, _P.BLOCKED, stops=True),
    EventType("failed", "protocol", "status", "runner", OPEN - {_P.FAILED}, _P.FAILED, stops=True),
    EventType("cancelled", "protocol", "status", "person", OPEN | {_P.CANCELLED}, _P.CANCELLED,
              stops=True, command="cancel"),
    EventType("completed", "protocol", "status", "runner", ACTIVE, _P.COMPLETED),
    EventType("ci-reported", "protocol", "fact", "forge", _EVER,
              then=("step-failed", "step-blocked", "failed", "blocked")),  # as `ci:` says
    EventType("request-changed", "protocol", "fact", "person", _EVER),
    EventType("undone", "protocol", "status", "person", _EVER, ends_attempt=True, stops=True, command="undo"),
    EventType("record-repaired", "protocol", "fact", "person", _EVER),
)  # fmt: skip
EVENTS: dict[str, EventType] = {row.name: row for row in _ROWS}
_UNKNOWN = EventType("", "any", "fact", "runner", frozenset(), first=False)


def event_type(name: str) -> EventType:
    """Return the row of an event by its name in a log; one that only a newer version knows has a row that permits nothing."""
    return EVENTS.get(name, _UNKNOWN)


def may_follow(before: EventType | None, event: EventType) -> bool:
    """Return whether an event may come right after another in one commit; `None`: whether it may be the first."""
    if before is None:
        return event.first
    if before.role in ("edit", "approval"):
        return event.role not in ("start", "plan", "edit")
    return event.name in before.then


class Spent(TypedDict, total=False):
    """What an attempt cost. `usd`: a decimal string, without the `unpriced` of the tokens, whose price is not known."""

    seconds: int
    input_tokens: int
    output_tokens: int
    usd: str
    unpriced: int


class PlannedStep(TypedDict):
    """What `planned` and `plan-edited` say of a step."""

    place: int
    title: str
    kind: str
    needs: list[str]
    qa: str
    digest: str


class ArtifactFields(TypedDict):
    """An artifact as an event names it; step, attempt and time come from the entry."""

    name: str
    kind: str
    path: str
    digest: str


class CheckEvidence(TypedDict):
    """What one check was, and what came of it. `tail` is at most 500 characters of its output's end."""

    check: str
    code: int
    seconds: int
    output: str
    tail: str


class ReviewFields(TypedDict):
    """A review on the forge: whose account it is of (`host`, numeric `user`), of which request and commit."""

    host: str
    user: int
    request: int
    review: str
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of the events."""

    name: ClassVar[str]
    subject: str

    @property
    def type(self) -> EventType:
        """Its row in `EVENTS`."""
        return EVENTS[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(Event):
    """The protocol started. `nonce`: 32 random hex digits, whose digest is the genesis."""

    name: ClassVar[str] = "created"
    title: str
    base: str
    start: str  # the base's commit where the branch starts
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """The plan is complete. `engine`, `transcript` (digest of runs/plan.1.jsonl in the history), `spent`: where a model wrote it."""

    name: ClassVar[str] = "planned"
    plan: str
    steps: dict[str, PlannedStep]
    engine: str | None = None
    transcript: str | None = None
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported(Planned):
    """The plan is complete, imported from `source`."""

    name: ClassVar[str] = "imported"
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked(Planned):
    """The plan is complete, with the finished steps of another protocol's revision."""

    name: ClassVar[str] = "forked"
    source: str  # PROTOCOL@REVISION, whose commit the branch starts at
    genesis: str  # that protocol's
    done: dict[str, Json]  # the steps that were completed there: slug to result


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEdited(Event):
    """People changed plan, context or steps. `steps`: added, changed or moved; `dropped`: stale waits; `spent`: to plan anew.

    `transcript`: the digest of the last runs/plan.N.jsonl that `spent` has, and those before it.
    """

    name: ClassVar[str] = "plan-edited"
    plan: str
    steps: dict[str, PlannedStep]
    removed: list[str]
    dropped: list[str]
    transcript: str | None = None
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAsked(Event):
    """An approval is needed. `kind`: plan, step, result, protected-path or merge."""

    name: ClassVar[str] = "approval-asked"
    kind: str
    digest: str
    text: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalCounted(Event):
    """A wait has the approvals that it asked for: signed ones first in `by`, then `reviews` on the forge.

    `at`: the commit at which they were judged, where it is not the one before.
    """

    name: ClassVar[str] = "approval-counted"
    wait: str
    approvals: list[str]
    by: list[str]
    at: str | None = None
    reviews: list[ReviewFields] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRefused(Event):
    """Why an approval did not count; with `wait`, a held call that expired is dropped."""

    name: ClassVar[str] = "approval-refused"
    reason: str
    approval: str | None = None
    wait: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHeld(Event):
    """A tool call waits for approval. `call`: its file's name, such as `deploy.1.3`; `spent`: by the step so far."""

    name: ClassVar[str] = "call-held"
    call: str
    digest: str  # of its file
    text: str
    by: str
    transcript: str | None = None  # with it, the commit holds the step's work so far
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDecided(Event):
    """A held call was approved or rejected."""

    name: ClassVar[str] = "call-decided"
    wait: str
    decision: str
    by: str
    approvals: list[str]
    at: str | None = None  # as in `approval-counted`
    reviews: list[ReviewFields] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectUnknown(Event):
    """An effect was started, and it is unknown whether it happened."""

    name: ClassVar[str] = "effect-unknown"
    call: str
    tool: str
    digest: str  # of the arguments
    text: str
    transcript: str | None = None  # as in `call-held`
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectDecided(Event):
    """A person says whether the effect happened."""

    name: ClassVar[str] = "effect-decided"
    wait: str
    happened: bool
    by: str
    result: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Event):
    """A person is asked. `kind`: human (a step for a person) or question; `spent`: with a question, the cost so far."""

    name: ClassVar[str] = "asked"
    kind: str
    text: str
    by: str
    transcript: str | None = None
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Event):
    """A person answered."""

    name: ClassVar[str] = "answered"
    wait: str
    text: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(Event):
    """The step's work is in the tree. `digest`: of the step's file as it was carried out."""

    name: ClassVar[str] = "step-finished"
    attempt: int
    digest: str
    start: str  # the commit that the work started at
    executor: str
    result: Json = None
    artifacts: list[ArtifactFields] = dataclasses.field(default_factory=list)
    output: str | None = None
    tail: str | None = None
    engine: str | None = None
    transcript: str | None = None  # digest of runs/SLUG.ATTEMPT.jsonl in the history
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class QaPassed(Event):
    """The checks passed on `tree`."""

    name: ClassVar[str] = "qa-passed"
    attempt: int
    tree: str
    evidence: list[CheckEvidence]
    executor: str | None = None
    engine: str | None = None
    report: str | None = None  # digest of reports/SLUG.ATTEMPT.md
    transcript: str | None = None  # digest of runs/SLUG.ATTEMPT.qa.jsonl in the history
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class QaFailed(Event):
    """A check failed on `tree`."""

    name: ClassVar[str] = "qa-failed"
    attempt: int
    tree: str
    reason: str
    evidence: list[CheckEvidence]
    executor: str | None = None
    engine: str | None = None
    report: str | None = None
    transcript: str | None = None
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(Event):
    """The step is done."""

    name: ClassVar[str] = "step-completed"
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed(Event):
    """The attempt failed. Where it left work, its tree is at `kept`."""

    name: ClassVar[str] = "step-failed"
    attempt: int
    reason: str
    code: int | None = None
    executor: str | None = None
    output: str | None = None
    tail: str | None = None
    kept: str | None = None
    engine: str | None = None
    transcript: str | None = None
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBlocked(StepFailed):
    """The attempt cannot continue without a person."""

    name: ClassVar[str] = "step-blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCancelled(Event):
    """The step will not be done."""

    name: ClassVar[str] = "step-cancelled"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRetried(Event):
    """A new attempt of the step may start; `kept`: from the tree of the attempt before."""

    name: ClassVar[str] = "step-retried"
    attempt: int
    kept: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReached(Event):
    """Continuing would exceed a budget."""

    name: ClassVar[str] = "budget-reached"
    text: str
    by: str
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """A person stopped the protocol for now."""

    name: ClassVar[str] = "paused"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """The protocol continues from where it stopped."""

    name: ClassVar[str] = "resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked(Event):
    """The protocol cannot continue without a person."""

    name: ClassVar[str] = "blocked"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The protocol failed; a retry reopens it."""

    name: ClassVar[str] = "failed"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Event):
    """A person ended the protocol. A runner that was at work stops and adds a second `cancelled`, which has `spent` alone."""

    name: ClassVar[str] = "cancelled"
    reason: str | None = None
    spent: Spent = dataclasses.field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Event):
    """Every step is done."""

    name: ClassVar[str] = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CiReported(Event):
    """CI reported a result for a commit."""

    name: ClassVar[str] = "ci-reported"
    commit: str
    outcome: str
    context: str
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChanged(Event):
    """The request on the forge was closed, reopened or merged."""

    name: ClassVar[str] = "request-changed"
    url: str
    change: str
    by: str | None = None


class UndoneStep(TypedDict):
    """What a step is again after `undone`."""

    status: str
    attempt: int
    result: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone(Event):
    """The tree outside the protocol's folder and the steps' status are those of revision `to`.

    The costs stay, and a step that is open again is a new attempt.
    """

    name: ClassVar[str] = "undone"
    to: int
    status: str
    steps: dict[str, UndoneStep]
    artifacts: list[str]  # ids of the dropped ones
    dropped: list[str]  # ids of waits


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRepaired(Event):
    """The record is the fold again; `commits` had damaged it."""

    name: ClassVar[str] = "record-repaired"
    commits: list[str]
    reason: str


MODELS: dict[str, type[Event]] = {
    one.name: one for one in [*vars().values()] if isinstance(one, type) and issubclass(one, Event) and one is not Event
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as the log has it. `time`: UTC, `2026-11-20T06:47:03Z`; `actor`: who typed the command."""

    revision: int
    time: str
    actor: str
    event: Event


def fields_of(event: Event) -> dict[str, Json]:
    """Return the event's fields but its subject, in order, without those that are None or empty by default."""
    found = {}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if (
            field.name == "subject"
            or value is None
            or (value in ([], {}) and field.default_factory is not dataclasses.MISSING)
        ):
            continue
        found[field.name] = value
    return found


_adapters: dict[str, Any] = {}


def adapter(event: type[Event]) -> Any:
    """Return pydantic's adapter of an event's model: strict, and unknown fields are errors."""
    from pydantic import ConfigDict, TypeAdapter, with_config

    if event.name not in _adapters:
        _adapters[event.name] = TypeAdapter(with_config(ConfigDict(extra="forbid", strict=True))(event))
    return _adapters[event.name]


def parse(name: str, subject: str, fields: Mapping[str, Json], where: str) -> Event:
    """Return the event that a log entry names, validated.

    Raises:
        IntegrityError: no such event, or a field that does not belong there.
    """
    from pydantic import ValidationError

    kind = MODELS.get(name)
    if kind is None:
        raise IntegrityError(
            f"the event `{name}` is not known to this version", where, "use the version of the runner that wrote it"
        )
    try:
        event: Event = adapter(kind).validate_json(json.dumps({"subject": subject, **fields}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(
            f"the event `{name}` has a bad field `{field}`: {first['msg']}",
            where,
            "run `runner verify` to see what else differs",
        ) from error
    return event
