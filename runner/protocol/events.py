"""Everything that can happen to a protocol, one model each (design §3). The log's fields are the models' fields.

An event's `subject` stands in the log's headline: a step's slug, `plan`, or the protocol's id. What an event makes of a
state is in `machine`. They are plain dataclasses so that a runner that only writes them need not load pydantic;
`parse` validates what was read.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(Event):
    """The protocol started. `nonce`: 32 random hex digits, whose digest is the genesis."""

    name: ClassVar[str] = "created"
    title: str
    base: str
    start: str  # the base's commit that the branch begins at
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
    source: str  # PROTOCOL@REVISION, whose commit the branch begins at
    genesis: str  # that protocol's
    done: dict[str, Json]  # what was completed there: slug to result


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
    start: str  # the commit that the work began at
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

    What was spent stays spent, and a step that is open again is a new attempt.
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


@dataclass(frozen=True, slots=True)
class EventType:
    """A row of `EVENTS`: what kind of event this is. Each rule about kinds of events reads a column of it.

    `about`: what its subject is; `call` is a step, for one of its tool calls. `role`: `edit` and `approval` are picked up at the
    start of a transition, `work` ends work at a step, for now or for good. `said_by`: who causes it; `either` is a person or a
    runner, `forge` is CI. `statuses` and `steps`: of the protocol and of its step before it; `status` and `step`: after it (None:
    unchanged, or computed in `machine`). `then`: what may follow in the same commit; `first`: it may be the first of a commit.
    `opens`, `ends`: kinds of waits. `has_work`: its commit may change code. `stops`: no effect may start after it.
    `command`: what a person types to record it again.
    """

    model: type[Event]
    about: Literal["protocol", "plan", "step", "call", "any"]
    role: Literal["start", "plan", "edit", "approval", "work", "qa", "ask", "answer", "status", "fact"]
    said_by: Literal["person", "runner", "either", "forge"]
    statuses: frozenset[Status] = OPEN
    status: Status | None = None
    steps: frozenset[StepStatus] = frozenset()
    step: StepStatus | None = None
    then: tuple[type[Event], ...] = ()
    first: bool = True
    opens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    has_work: bool = False
    ends_attempt: bool = False
    stops: bool = False
    command: str = ""


_P, _S = Status, StepStatus
_NEW, _EVER, _DONE = frozenset({_P.PENDING}), frozenset(Status), frozenset({_S.FAILED, _S.BLOCKED})
_BUSY = ACTIVE | {_P.PAUSED, _P.BLOCKED}  # a step that was at work at a pause still ends: its work would be lost
_WORK = frozenset({_S.PENDING, _S.RUNNING})
_HELD, _QA = _WORK | {_S.AWAITING_APPROVAL}, frozenset({_S.NEEDS_QA})
_APPROVALS = tuple(kind for kind, wait in WAITS.items() if wait.ended_by == "approval" and kind != "call")
_ROWS = (
    EventType(Created, "protocol", "start", "person", then=(Planned, Imported, Forked, Asked)),
    EventType(Planned, "plan", "plan", "either", _NEW | {_P.PLANNING}, _P.PLANNED),
    EventType(Imported, "plan", "plan", "person", _NEW, _P.PLANNED, first=False),
    EventType(Forked, "plan", "plan", "person", _NEW, _P.PLANNED, first=False),
    EventType(PlanEdited, "plan", "edit", "either", ends=("budget",)),
    EventType(ApprovalAsked, "any", "ask", "runner", steps=_WORK | _QA, opens=_APPROVALS),
    EventType(ApprovalCounted, "any", "approval", "runner", ends=_APPROVALS),
    EventType(ApprovalRefused, "any", "approval", "runner", ends=(*_APPROVALS, "call")),
    EventType(CallHeld, "call", "work", "runner", _BUSY, None, _HELD, _S.AWAITING_APPROVAL, opens=("call",), has_work=True),
    EventType(CallDecided, "call", "approval", "runner", _BUSY, None, _HELD - _WORK, _S.RUNNING, ends=("call",)),
    EventType(EffectUnknown, "call", "work", "runner", _BUSY, None, _HELD, _S.RUNNING, opens=("effect",), has_work=True),
    EventType(
        EffectDecided, "call", "answer", "person", _BUSY, None, frozenset({_S.RUNNING}), _S.RUNNING, ends=("effect",), command="answer"
    ),
    EventType(  # of a step, or the planner's questions, each a wait of its own
        Asked, "any", "work", "either", steps=_WORK, step=_S.RUNNING, then=(Asked,), opens=("human", "question"), has_work=True
    ),
    EventType(Answered, "any", "answer", "person", then=(Resumed,), ends=("human", "question"), command="answer"),
    EventType(
        StepFinished, "step", "work", "runner", _BUSY, None, _WORK, _S.NEEDS_QA, (StepCompleted, ApprovalAsked), has_work=True,
        ends_attempt=True,
    ),
    EventType(QaPassed, "step", "qa", "runner", _BUSY, None, _QA, then=(StepCompleted, ApprovalAsked)),
    EventType(QaFailed, "step", "qa", "runner", _BUSY, None, _QA, then=(StepFailed, StepBlocked)),
    EventType(StepCompleted, "step", "qa", "runner", _BUSY, None, _QA, _S.COMPLETED, (Completed,)),
    EventType(StepFailed, "step", "work", "runner", _BUSY, None, _HELD | _QA, _S.FAILED, (StepRetried, Failed), ends_attempt=True),
    EventType(StepBlocked, "step", "work", "runner", _BUSY, None, _HELD | _QA, _S.BLOCKED, (Blocked,), ends_attempt=True),
    EventType(
        StepCancelled, "step", "status", "person", _BUSY, None, _HELD | _QA | _DONE, _S.CANCELLED, (StepCancelled, Cancelled),
        ends_attempt=True,
    ),
    EventType(
        StepRetried, "step", "status", "either", OPEN - {_P.PENDING, _P.PLANNING}, None, _QA | _DONE | {_S.COMPLETED}, _S.PENDING,
        (StepRetried, Resumed), command="retry",
    ),
    EventType(BudgetReached, "any", "work", "runner", opens=("budget",)),
    EventType(Paused, "protocol", "status", "person", OPEN - {_P.PAUSED}, _P.PAUSED, stops=True, command="pause"),
    EventType(Resumed, "protocol", "status", "person", frozenset({_P.PAUSED, _P.BLOCKED, _P.FAILED}), command="resume"),
    EventType(Blocked, "protocol", "status", "runner", OPEN - {_P.BLOCKED, _P.FAILED}, _P.BLOCKED, stops=True),
    EventType(Failed, "protocol", "status", "runner", OPEN - {_P.FAILED}, _P.FAILED, stops=True),
    EventType(  # a second one has `spent` alone
        Cancelled, "protocol", "status", "person", OPEN | {_P.CANCELLED}, _P.CANCELLED, stops=True, command="cancel"
    ),
    EventType(Completed, "protocol", "status", "runner", ACTIVE, _P.COMPLETED),
    EventType(CiReported, "protocol", "fact", "forge", _EVER, then=(StepFailed, StepBlocked, Failed, Blocked)),  # as `ci:` says
    EventType(RequestChanged, "protocol", "fact", "person", _EVER),
    EventType(Undone, "protocol", "status", "person", _EVER, ends_attempt=True, stops=True, command="undo"),
    EventType(RecordRepaired, "protocol", "fact", "person", _EVER),
)  # fmt: skip
EVENTS: dict[str, EventType] = {row.model.name: row for row in _ROWS}
_UNKNOWN = EventType(Event, "any", "fact", "runner", frozenset(), first=False)


OF_PEOPLE: frozenset[str] = frozenset(  # temporary
    event.name
    for event in (
        Created, Imported, Forked, Answered, EffectDecided, StepCancelled, Paused, Resumed, Cancelled, CiReported, RequestChanged,
        Undone, RecordRepaired,
    )
)  # fmt: skip


def type_of(event: Event | str) -> EventType:
    """Return the row of an event, or of a name in a log; a name that a newer version wrote has one that permits nothing."""
    return EVENTS.get(event if isinstance(event, str) else event.name, _UNKNOWN)


def may_follow(before: Event | None, event: Event) -> bool:
    """Return whether an event may come right after another in one commit; `None`: whether it may be the first."""
    row = type_of(event)
    if before is None:
        return row.first
    if type_of(before).role in ("edit", "approval"):
        return row.role not in ("start", "plan", "edit")
    return type(event) in type_of(before).then


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

    kind = EVENTS.get(name)
    if kind is None:
        raise IntegrityError(
            f"the event `{name}` is not known to this version", where, "use the version of the runner that wrote it"
        )
    try:
        event: Event = adapter(kind.model).validate_json(json.dumps({"subject": subject, **fields}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(
            f"the event `{name}` has a bad field `{field}`: {first['msg']}",
            where,
            "run `runner verify` to see what else differs",
        ) from error
    return event
