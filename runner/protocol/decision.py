"""Decide the next action from a state: the second half of the machine's rules (design §3).

Commands that only read decide too, and need none of `machine`, which has the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, assert_never

from runner.protocol.state import ENDED, State, Status, StepState, StepStatus, Wait, phrased

if TYPE_CHECKING:
    from runner.protocol.state import Row, StepRow

OPEN = frozenset(
    {Status.PENDING, Status.PLANNING, Status.PLANNED, Status.RUNNING, Status.PAUSED, Status.BLOCKED, Status.FAILED}
)
ACTIVE = frozenset({Status.PLANNED, Status.RUNNING})
_S = StepStatus


class WritePlan:
    """Let the planner continue: its questions are answered."""


@dataclass(frozen=True, slots=True)
class _OfStep:
    slug: str


class RunStep(_OfStep):
    """Carry out the step's attempt: a command, a tool, an agent."""


class AskPerson(_OfStep):
    """Ask for the work of a `human` step."""


class TakeWork(_OfStep):
    """A person ended their step: what they committed is its work."""


class CheckStep(_OfStep):
    """Run the step's QA."""


class CompleteStep(_OfStep):
    """Record that a step whose QA passed, or is skipped by now, is done."""


class Complete:
    """Record that every step is done."""


class Halt(NamedTuple):
    """No action is possible now. `status`: of the protocol; `waiting`: the open waits."""

    status: Status
    waiting: tuple[Wait, ...]
    reason: str


Action = WritePlan | RunStep | AskPerson | TakeWork | CheckStep | CompleteStep | Complete | Halt


def decide(state: State, only: str | None = None) -> Action:
    """Return the next action for a state that has picked up the plan's last edit.

    `only` asks for one step: the action is that step's where it can continue now.
    """
    if state.status is Status.PLANNING:
        owed = tuple(state.waiting)
        return Halt(state.status, owed, owed[0].text) if owed else WritePlan()
    if state.status not in ACTIVE:
        failed = [why(slug, step) for slug, step in state.open_steps() if step.status in (_S.FAILED, _S.BLOCKED)]
        return Halt(state.status, tuple(state.waiting), failed[0] if failed else f"it {phrased(state.status)}")
    for slug, step in state.steps.left():
        if only is not None and slug != only:
            continue
        owed = tuple(wait for wait in state.waiting if wait.subject in (slug, "plan", state.protocol))
        match step.status:
            case _S.NEEDS_QA:
                if owed:
                    return Halt(state.status, owed, owed[0].text)
                return CompleteStep(slug) if step.passed or step.qa == "skip" else CheckStep(slug)
            case _S.RUNNING | _S.AWAITING_APPROVAL:
                if owed:
                    return Halt(state.status, owed, owed[0].text)
                return TakeWork(slug) if step.kind == "human" else RunStep(slug)
            case _S.PENDING:
                if lacks(state, step):
                    continue
                if owed:
                    return Halt(state.status, owed, owed[0].text)
                return AskPerson(slug) if step.kind == "human" else RunStep(slug)
            case _S.FAILED | _S.BLOCKED:
                return Halt(state.status, (), why(slug, step))
            case _S.COMPLETED | _S.CANCELLED:
                raise AssertionError(f"unreachable: {slug} has ended")
            case _:
                assert_never(step.status)
    if any(state.steps.left()):
        return Halt(
            state.status,
            tuple(state.waiting),
            f"{only} cannot continue yet"
            if only
            else "no step can continue: the steps that they need are not completed",
        )
    return Complete()


def why(slug: str, step: StepState) -> str:
    """Return why a step that failed or is blocked does not continue; an undone retry leaves no reason."""
    if step.reason:
        return f"{slug}: {step.reason}"
    return f"{slug} failed" if step.status is _S.FAILED else f"{slug} is blocked"


def can_act(row: Row, protocol: str) -> bool:
    """Return whether `decide` finds an action for the state that state.json holds as plain data (`is_whole`)."""
    status, steps = row["status"], row["steps"]
    if status == "planning":
        return not row["waiting"]
    if status not in ACTIVE:
        return False
    owed = {wait["subject"] for wait in row["waiting"]}
    is_open = False
    for slug, step in sorted(steps.items(), key=_place):
        if step["status"] in ENDED or step.get("removed"):
            continue
        is_open = True
        if step["status"] == "pending" and any(
            need not in steps or steps[need]["status"] not in ENDED for need in step["needs"]
        ):
            continue
        return step["status"] not in ("failed", "blocked") and owed.isdisjoint((slug, "plan", protocol))
    return not is_open


def _place(item: tuple[str, StepRow]) -> int:
    return item[1]["place"]


def lacks(state: State, step: StepState) -> list[str]:
    """Return the steps that a step needs and that are neither completed nor cancelled."""
    return [need for need in step.needs if need not in state.steps or state.steps[need].status not in ENDED]
