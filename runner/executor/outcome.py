"""What carrying out an action led to, as data, and the events that record it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from enum import StrEnum

from runner.git import Ident
from runner.protocol import events as ev
from runner.protocol import log
from runner.protocol.decision import ACTIVE
from runner.protocol.events import Event
from runner.protocol.plans import Step
from runner.protocol.state import ENDED, State, StepStatus
from runner.values import dataclass


class Kind(StrEnum):
    """How carrying out an action ended."""

    FINISHED = "finished"  # the step's work is in the tree
    CHECKED = "checked"  # its QA passed
    COMPLETED = "completed"  # nothing is left to do for the step
    FAILED = "failed"  # the attempt or its QA failed: `on_failure` says what follows
    BLOCKED = "blocked"  # a person has to look at it
    WAITS = "waits"  # for an approval, an answer or a decision
    OVER_BUDGET = "over-budget"
    RECORDED = "recorded"  # the events are all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an action led to. `events`: what happened; `record` adds what follows from it.

    `asks`: the event that asks for approval of the work, before the step is completed. `tree`: with the work, None for a transition
    that only records; `kept`: a tree that is kept beside the branch.
    """

    kind: Kind
    events: tuple[Event, ...] = ()
    step: Step | None = None  # None: no step's
    asks: tuple[Event, ...] = ()
    tree: str | None = None
    kept: str | None = None
    summary: str = ""  # for people
    files: dict[str, bytes] = field(default_factory=dict)  # for the history: transcripts, long outputs
    keeps: tuple[str, ...] = ()  # commits for the history to keep: the work so far of a step that waits
    record: dict[str, bytes] = field(
        default_factory=dict
    )  # more files of the protocol's folder: reports, a planner's plan
    author: Ident | None = None  # the commit's, if not the runner

    @property
    def failed(self) -> bool:
        """Whether the step, its check or its review failed."""
        return self.kind in (Kind.FAILED, Kind.BLOCKED)


def recording(summary: str, events: Sequence[Event] = ()) -> Outcome:
    """Return the outcome of an action that only records events."""
    return Outcome(kind=Kind.RECORDED, events=tuple(events), summary=summary)


def record(outcome: Outcome, state: State) -> list[Event]:
    """Return the events of an outcome. `state`: at the time of publishing, after what people recorded while the step ran."""
    events, step = [*outcome.events], outcome.step
    match outcome.kind:
        case Kind.FINISHED | Kind.CHECKED | Kind.COMPLETED:
            assert step is not None
            if outcome.kind is Kind.FINISHED and state.steps[step.slug].qa != "skip":
                return events
            return [*events, *(outcome.asks or completed(state, step.slug))]
        case Kind.FAILED:
            failure = events.pop()
            assert step is not None and isinstance(failure, ev.StepFailed)
            return [*events, *failed(state, step, failure)]
    return events


def attempt_ref(protocol: str, slug: str, attempt: int) -> str:
    """Return the ref that keeps a failed attempt's tree."""
    return f"refs/runner/attempts/{protocol}/{slug}.{attempt}"


def completed(state: State, slug: str) -> list[Event]:
    """Return the events that complete a step, and with the last step the protocol."""
    found: list[Event] = [ev.StepCompleted(subject=slug, attempt=state.steps[slug].attempt)]
    done = all(step.status in ENDED or step.removed or name == slug for name, step in state.steps.items())
    if done and not state.waiting and state.status in ACTIVE:  # paused while the last step was at work: it stays paused
        found.append(ev.Completed(subject=state.protocol))
    return found


def failed(state: State, step: Step, failure: ev.StepFailed) -> list[Event]:
    """Return the events of an attempt that failed, as the step's `on_failure` says."""
    now, rule = state.steps[step.slug], step.on_failure
    failure = dataclasses.replace(failure, attempt=now.attempt)
    reason = log.cut(f"{step.slug}: {failure.reason}")
    if step.goto is not None and state.steps[step.goto].attempt <= (rule.limit or 1):
        again = _between(state, step.goto, step.slug)
        return [failure, *(ev.StepRetried(subject=slug, attempt=state.steps[slug].attempt + 1) for slug in again)]
    if step.goto is None and now.attempt <= rule.retry:
        return [failure, ev.StepRetried(subject=step.slug, attempt=now.attempt + 1)]
    if rule.then == "block":
        return blocked(state.protocol, failure)
    return [failure, ev.Failed(subject=state.protocol, reason=reason)]


def blocked(protocol: str, failure: ev.StepFailed) -> list[Event]:
    """Return the events of an attempt that a person has to look at."""
    fields = {one.name: getattr(failure, one.name) for one in dataclasses.fields(failure)}
    reason = log.cut(f"{failure.subject}: {failure.reason}")
    return [ev.StepBlocked(**fields), ev.Blocked(subject=protocol, reason=reason)]


def _between(state: State, first: str, last: str) -> list[str]:
    """Return the steps that are done again when work goes back from `last` to `first`: both, and the completed ones that need them."""
    again = {first, last}
    for slug, step in state.open_steps():
        if step.status is StepStatus.COMPLETED and again & set(step.needs):
            again.add(slug)
    return [slug for slug, _ in state.open_steps() if slug in again]
