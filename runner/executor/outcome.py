"""What carrying out an action brought about, and the events with which an attempt at a step ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from runner.git import Ident
from runner.protocol import events as ev
from runner.protocol import log
from runner.protocol.events import Event
from runner.protocol.machine import ACTIVE
from runner.protocol.plans import Step
from runner.protocol.state import ENDED, State, StepStatus
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What acting brought about. `events(state)`: given the state at the time of publishing.

    `tree`: the tree with the work on the branch, or None for a transition that only records. `kept`: a tree that is not for
    the branch, kept aside. `failed`: the step, check or verdict failed.
    """

    events: Callable[[State], list[Event]]
    tree: str | None = None
    kept: str | None = None
    failed: bool = False
    said: str = ""
    changed: tuple[str, ...] = field(default=())
    files: dict[str, bytes] = field(default_factory=dict)  # for the history: transcripts, long outputs
    keeps: tuple[str, ...] = field(default=())  # commits for the history to keep: the work so far of a step that waits
    record: dict[str, bytes] = field(default_factory=dict)  # further files of its folder: reports, a planner's plan
    author: Ident | None = None  # at whose word it was written, where that is not the runner


def attempt_ref(protocol: str, slug: str, attempt: int) -> str:
    """Return the ref that keeps a failed attempt's tree."""
    return f"refs/runner/attempts/{protocol}/{slug}.{attempt}"


def completed(state: State, slug: str) -> list[Event]:
    """Return the events with which a step is done, and with the last one the protocol."""
    found: list[Event] = [ev.StepCompleted(subject=slug, attempt=state.steps[slug].attempt)]
    done = all(step.status in ENDED or step.removed or name == slug for name, step in state.steps.items())
    if done and not state.waiting and state.status in ACTIVE:  # paused while the last step was at work: it stays paused
        found.append(ev.Completed(subject=state.protocol))
    return found


def finished(state: State, step: Step, done: ev.StepFinished, asked: Sequence[Event]) -> list[Event]:
    """Return the events of work that is in the tree: where QA is `skip`, a word is `asked` for, or the step is done with it."""
    if state.steps[step.slug].qa != "skip":
        return [done]
    return [done, *(asked or completed(state, step.slug))]


def failed(state: State, step: Step, told: dict[str, object], *, kept: str | None = None) -> list[Event]:
    """Return the events of an attempt that failed, as the step's `on_failure` says."""
    now, rule = state.steps[step.slug], step.on_failure
    fields = {"subject": step.slug, "attempt": now.attempt, "kept": kept, **told}
    reason = log.cut(f"{step.slug}: {told['reason']}")
    if step.goto is not None and state.steps[step.goto].attempt <= (rule.limit or 1):
        again = _from(state, step.goto, step.slug)
        return [
            ev.StepFailed(**fields),  # type: ignore[arg-type]
            *(ev.StepRetried(subject=slug, attempt=state.steps[slug].attempt + 1) for slug in again),
        ]
    if step.goto is None and now.attempt <= rule.retry:
        return [ev.StepFailed(**fields), ev.StepRetried(subject=step.slug, attempt=now.attempt + 1)]  # type: ignore[arg-type]
    if rule.then == "block":
        return [ev.StepBlocked(**fields), ev.Blocked(subject=state.protocol, reason=reason)]  # type: ignore[arg-type]
    return [ev.StepFailed(**fields), ev.Failed(subject=state.protocol, reason=reason)]  # type: ignore[arg-type]


def _from(state: State, first: str, last: str) -> list[str]:
    """Return the steps that are done again when work goes back from `last` to `first`: those that need it, and both."""
    again = {first, last}
    for slug, step in state.open_steps():
        if step.status is StepStatus.COMPLETED and again & set(step.needs):
            again.add(slug)
    return [slug for slug, _ in state.open_steps() if slug in again]
