"""The kinds of events: a table of plain values, which commands that only read use too. The models are in `events`.

A new event is a model, a row here, a `case` in `machine` if it changes more than the status, and a stored history.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from runner.protocol.state import ACTIVE, OPEN, WAITS, Status, StepStatus


class EventType(NamedTuple):
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

    @property
    def is_verdict(self) -> bool:
        """Whether it says that QA passed or failed; `step-completed` follows from one."""
        return self.role == "qa" and self.step is None


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
