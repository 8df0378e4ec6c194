"""Everything that can happen to a protocol, one model each (design §3). The log's fields are the models' fields.

An event's `subject` is part of the log's headline: a step's slug, `plan`, or the protocol's id. `event_types` says what kind of
event each is, `machine` what it makes of a state. `parse` validates an entry of a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypedDict

from runner.errors import IntegrityError
from runner.protocol.event_types import EVENTS, EventType
from runner.protocol.file_models import Field, FileModel, UnfitError
from runner.protocol.state import Json


class Spent(TypedDict, total=False):
    """What an attempt cost. `usd`: a decimal string, without the `unpriced` of the tokens, whose price is not known.

    `cached_tokens`: of the input, at the price of cached input.
    """

    seconds: int
    input_tokens: int
    cached_tokens: int
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


class Event(FileModel):
    """Base of the events. A constructor takes values of the fields' types; `parse` validates what a log has."""

    name: ClassVar[str]  # of `StepFinished`: `step-finished`
    required: ClassVar[frozenset[str]]
    subject: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = re.sub("(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
        cls.required = frozenset(name for name, field in cls.model_fields.items() if field.required)

    def __init__(self, **given: Any) -> None:
        if not self.required <= given.keys() <= self.model_fields.keys():
            raise TypeError(f"{type(self).__name__} has other fields than {', '.join(given)}")
        vars(self).update(given)

    @property
    def type(self) -> EventType:
        """Its row in `EVENTS`."""
        return EVENTS[self.name]


class Created(Event):
    """The protocol started. `nonce`: 32 random hex digits, whose digest is the genesis; `tests`: those that failed there before it.

    `schema`: of the record and of the messages of its commits, where that is not 1.
    """

    title: str
    base: str
    start: str  # the base's commit where the branch starts
    nonce: str
    tests: str | None = None
    schema: int | None = None


class Planned(Event):
    """The plan is complete. `engine`, `transcript` (digest of runs/plan.1.jsonl in the history), `spent`: where a model wrote it."""

    plan: str
    steps: dict[str, PlannedStep]
    engine: str | None = None
    transcript: str | None = None
    spent: Spent = Field(default_factory=Spent)


class Imported(Planned):
    """The plan is complete, imported from `source`."""

    source: str


class Forked(Planned):
    """The plan is complete, with the finished steps of another protocol's revision."""

    source: str  # PROTOCOL@REVISION, whose commit the branch starts at
    genesis: str  # that protocol's
    done: dict[str, Json]  # the steps that were completed there: slug to result


class PlanEdited(Event):
    """People changed plan, context or steps. `steps`: added, changed or moved; `dropped`: stale waits; `spent`: to plan anew.

    `transcript`: the digest of the last runs/plan.N.jsonl that `spent` has, and those before it.
    """

    plan: str
    steps: dict[str, PlannedStep]
    removed: list[str]
    dropped: list[str]
    transcript: str | None = None
    spent: Spent = Field(default_factory=Spent)


class ApprovalAsked(Event):
    """An approval is needed. `kind`: plan, step, result, protected-path or merge."""

    kind: str
    digest: str
    text: str
    by: str


class ApprovalCounted(Event):
    """A wait has the approvals that it asked for: signed ones first in `by`, then `reviews` on the forge.

    `at`: the commit at which they were judged, where it is not the one before.
    """

    wait: str
    approvals: list[str]
    by: list[str]
    at: str | None = None
    reviews: list[ReviewFields] = Field(default_factory=list)


class ApprovalRefused(Event):
    """Why an approval did not count; with `wait`, a held call that expired is dropped."""

    reason: str
    approval: str | None = None
    wait: str | None = None


class CallHeld(Event):
    """A tool call waits for approval. `call`: its file's name, such as `deploy.1.3`; `spent`: by the step so far."""

    call: str
    digest: str  # of its file
    text: str
    by: str
    transcript: str | None = None  # with it, the commit holds the step's work so far
    spent: Spent = Field(default_factory=Spent)


class CallDecided(Event):
    """A held call was approved or rejected."""

    wait: str
    decision: str
    by: str
    approvals: list[str]
    at: str | None = None  # as in `approval-counted`
    reviews: list[ReviewFields] = Field(default_factory=list)


class EffectUnknown(Event):
    """An effect was started, and it is unknown whether it happened."""

    call: str
    tool: str
    digest: str  # of the arguments
    text: str
    transcript: str | None = None  # as in `call-held`
    spent: Spent = Field(default_factory=Spent)


class EffectDecided(Event):
    """A person says whether the effect happened."""

    wait: str
    happened: bool
    by: str
    result: Json = None


class Asked(Event):
    """A person is asked. `kind`: human (a step for a person) or question; `spent`: with a question, the cost so far."""

    kind: str
    text: str
    by: str
    transcript: str | None = None
    spent: Spent = Field(default_factory=Spent)


class Answered(Event):
    """A person answered."""

    wait: str
    text: str
    by: str


class StepFinished(Event):
    """The step's work is in the tree. `digest`: of the step's file as it was carried out."""

    attempt: int
    digest: str
    start: str  # the commit that the work started at
    executor: str
    environment: str | None = None  # of commands in the sandbox: `found NAMES`, `made DIGEST`
    result: Json = None
    artifacts: list[ArtifactFields] = Field(default_factory=list)
    output: str | None = None
    tail: str | None = None
    engine: str | None = None
    transcript: str | None = None  # digest of runs/SLUG.ATTEMPT.jsonl in the history
    spent: Spent = Field(default_factory=Spent)


class QaPassed(Event):
    """The checks passed on `tree`."""

    attempt: int
    tree: str
    evidence: list[CheckEvidence]
    executor: str | None = None
    environment: str | None = None
    engine: str | None = None
    report: str | None = None  # digest of reports/SLUG.ATTEMPT.md
    transcript: str | None = None  # digest of runs/SLUG.ATTEMPT.qa.jsonl in the history
    spent: Spent = Field(default_factory=Spent)


class QaFailed(Event):
    """A check failed on `tree`."""

    attempt: int
    tree: str
    reason: str
    evidence: list[CheckEvidence]
    executor: str | None = None
    environment: str | None = None
    engine: str | None = None
    report: str | None = None
    transcript: str | None = None
    spent: Spent = Field(default_factory=Spent)


class StepCompleted(Event):
    """The step is done."""

    attempt: int


class StepFailed(Event):
    """The attempt failed. Where it left work, its tree is at `kept`."""

    attempt: int
    reason: str
    code: int | None = None
    executor: str | None = None
    environment: str | None = None
    output: str | None = None
    tail: str | None = None
    kept: str | None = None
    engine: str | None = None
    transcript: str | None = None
    spent: Spent = Field(default_factory=Spent)


class StepBlocked(StepFailed):
    """The attempt cannot continue without a person."""


class StepCancelled(Event):
    """The step will not be done."""

    reason: str


class StepRetried(Event):
    """A new attempt of the step may start; `kept`: from the tree of the attempt before."""

    attempt: int
    kept: str | None = None


class BudgetReached(Event):
    """Continuing would exceed a budget."""

    text: str
    by: str
    spent: Spent = Field(default_factory=Spent)


class Paused(Event):
    """A person stopped the protocol for now."""

    reason: str | None = None


class Resumed(Event):
    """The protocol continues from where it stopped."""


class Blocked(Event):
    """The protocol cannot continue without a person."""

    reason: str


class Failed(Event):
    """The protocol failed; a retry reopens it."""

    reason: str


class Cancelled(Event):
    """A person ended the protocol. A runner that was at work stops and adds a second `cancelled`, which has `spent` alone."""

    reason: str | None = None
    spent: Spent = Field(default_factory=Spent)


class Completed(Event):
    """Every step is done."""


class CiReported(Event):
    """CI reported a result for a commit."""

    commit: str
    outcome: str
    context: str
    url: str | None = None


class RequestChanged(Event):
    """The request on the forge was closed, reopened or merged."""

    url: str
    change: str
    by: str | None = None


class UndoneStep(TypedDict):
    """What a step is again after `undone`."""

    status: str
    attempt: int
    result: Json


class Undone(Event):
    """The steps' status is that of revision `to`; so is the tree outside the folder, with what people committed until the next one.

    The costs stay, and a step that is open again is a new attempt.
    """

    to: int
    status: str
    steps: dict[str, UndoneStep]
    artifacts: list[str]  # ids of the dropped ones
    dropped: list[str]  # ids of waits


class RecordRepaired(Event):
    """The record is the fold again; `commits` had damaged it."""

    commits: list[str]
    reason: str


MODELS: dict[str, type[Event]] = {
    one.name: one for one in [*vars().values()] if isinstance(one, type) and issubclass(one, Event) and one is not Event
}


class Entry(NamedTuple):
    """One event as the log has it. `time`: UTC, `2026-11-20T06:47:03Z`; `actor`: who typed the command."""

    revision: int
    time: str
    actor: str
    event: Event


def fields_of(event: Event) -> dict[str, Json]:
    """Return the event's fields but its subject, in order, without those that are None or empty by default."""
    found = {}
    for name, field in event.model_fields.items():
        value = getattr(event, name)
        if name == "subject" or value is None or (value in ([], {}) and field.default in ([], {})):
            continue
        found[name] = value
    return found


def parse(name: str, subject: str, fields: Mapping[str, Json], where: str) -> Event:
    """Return the event that a log entry names, validated.

    Raises:
        IntegrityError: no such event, or a field that does not belong there.
    """
    kind = MODELS.get(name)
    if kind is None:
        raise IntegrityError(
            f"the event `{name}` is not known to this version", where, "use the version of the runner that wrote it"
        )
    try:
        return kind.model_validate({"subject": subject, **fields})
    except UnfitError as error:
        first = error.faults[0]
        field = ".".join(str(part) for part in first.at if part is not None)
        raise bad_field(name, field, first.what, where) from error


def bad_field(name: str, field: str, why: str, where: str) -> IntegrityError:
    """Return the error for a field that does not belong to an event as it is."""
    hint = "run `runner verify` to see what else differs"
    return IntegrityError(f"the event `{name}` has a bad field `{field}`: {why}", where, hint)
