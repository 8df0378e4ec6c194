"""What a wait in the record stands for: its subject by the log, whose word it needs by the policy, which words were used up."""

from __future__ import annotations

from collections.abc import Iterable

from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan
from runner.protocol.state import State, Wait
from runner.trust import demand
from runner.trust.authority import Authority
from runner.trust.demand import Demand
from runner.trust.manifest import Subject


def subject_of(wait: Wait, state: State, known: Iterable[RawEntry]) -> Subject:
    """Return what a wait is about; a held call's name stands in the log entry that the wait is called after."""
    if wait.kind == "call":
        call = next(str(raw.fields.get("call")) for raw in known if f"w{raw.revision}" == wait.id)
        return Subject("call", call, int(call.split(".")[1]))
    if wait.kind in ("plan", "merge"):
        return Subject(wait.kind)
    attempt = state.steps[wait.subject].attempt if wait.kind != "step" else 0
    return Subject(wait.kind, wait.subject, attempt)


def demanded(found: Authority, subject: Subject, text: str, plan: Plan, where: str) -> Demand | None:
    """Return the demand that a wait on the subject stands for; None where nothing asks for it any more. `text`: the wait's.

    Raises:
        RefusedError: the policy denies what waits. MalformedFileError: it cannot be carried out.
    """
    step = plan.step(subject.slug) if subject.slug else None
    match subject.kind:
        case "plan":
            return demand.of_plan(found, plan, where)
        case "call":
            return demand.of_call(found, subject.name, subject.attempt, text)
        case "merge":
            return demand.of_merge(found)
        case "protected-path":
            return demand.of_changes(found, subject.name, subject.attempt, [text])
        case _ if step is None:
            return None
        case "step":
            return demand.of_start(found, step, where)
        case _:
            return demand.of_result(found, step, subject.attempt, where)


def used(subject: Subject, known: Iterable[RawEntry]) -> list[str]:
    """Return the words that were used up: a word on a call counts once, one on a step's start for that start."""
    event = {"step": "approval-counted", "call": "call-decided"}.get(subject.kind)
    return [one for raw in known if raw.event == event for one in raw.fields.get("approvals") or []]
