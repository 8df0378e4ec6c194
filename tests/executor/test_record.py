"""What `outcome_events` makes of outcomes and what rule 10 of verify allows in one commit are the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from runner.executor.transition import Outcome, OutcomeKind, blocked_events, outcome_events
from runner.protocol import events as ev
from runner.protocol import machine, plans
from runner.protocol.event_types import EVENTS, may_follow
from runner.protocol.events import Event
from runner.protocol.plans import Step
from runner.protocol.state import State, StepStatus
from tests.protocol import histories
from tests.protocol.histories import OID, PROTOCOL, step_state

RULES = ("{}", "{then: block}", "{retry: 1}", "{retry: 1, then: block}", "{goto: a, limit: 1}")
ASKED = ev.ApprovalAsked(subject="b", kind="result", digest="sha256:" + "1" * 64, text="t", by="alice")


def step(on_failure: str) -> Step:
    files = {
        "plan.md": b"---\ntitle: A plan\n---\n",
        "01-a.md": b"---\ntitle: a\nkind: command\nrun: 'true'\n---\n",
        "02-b.md": f"---\ntitle: b\nkind: command\nrun: 'true'\nneeds: [a]\non_failure: {on_failure}\n---\n".encode(),
    }
    found = plans.parse(files, PROTOCOL).step("b")
    assert found is not None
    return found


def states(status: StepStatus, *, passed: bool = False) -> Iterator[State]:
    """The step `b` with each way of QA, at its first and second attempt, as the last step and before another one."""
    for qa, attempt, is_last in itertools.product(("light", "skip"), (1, 2), (True, False)):
        steps = {
            "a": step_state(StepStatus.COMPLETED),
            "b": step_state(status, qa=qa, attempt=attempt, passed=passed, place=2, needs=["a"]),
            "c": step_state(StepStatus.COMPLETED if is_last else StepStatus.PENDING, place=3),
        }
        yield histories.state_with(steps)


def outcomes() -> Iterator[tuple[Outcome, State]]:
    """Every kind of outcome of a step's attempt and of its QA, at each state that it can be at."""
    for state in states(StepStatus.RUNNING):
        attempt = state.steps["b"].attempt
        done = ev.StepFinished(subject="b", attempt=attempt, digest=histories.DIGEST, start=OID, executor="host")
        for asks, first in itertools.product(((), (ASKED,)), (False, True)):
            yield Outcome(OutcomeKind.FINISHED, (done,), step("{}"), asks=asks, asks_first=first), state
        failure = ev.StepFailed(subject="b", attempt=attempt, reason="exit 1", kept="refs/runner/attempts/x")
        yield Outcome(OutcomeKind.BLOCKED, tuple(blocked_events(PROTOCOL, failure)), step("{}")), state
        for rule, final, continues in itertools.product(RULES, (False, True), (False, True)):
            yield Outcome(OutcomeKind.FAILED, (failure,), step(rule), final=final, continues=continues), state
    for state in states(StepStatus.NEEDS_QA):
        attempt = state.steps["b"].attempt
        checked: ev.CheckEvidence = {"check": "true", "code": 0, "seconds": 0, "output": histories.DIGEST, "tail": ""}
        seen = ev.QaPassed(subject="b", attempt=attempt, tree=OID, evidence=[checked])
        for asks in ((), (ASKED,)):
            yield Outcome(OutcomeKind.CHECKED, (seen,), step("{}"), asks=asks), state
        failure = ev.StepFailed(subject="b", attempt=attempt, reason="QA: exit 1")
        for rule in RULES:
            yield Outcome(OutcomeKind.FAILED, (ev.QaFailed(reason="exit 1", **vars(seen)), failure), step(rule)), state
    for state in states(StepStatus.NEEDS_QA, passed=True):
        yield Outcome(OutcomeKind.COMPLETED, step=step("{}")), state


def test_the_events_of_an_outcome_are_legal_and_those_of_one_transition() -> None:
    for outcome, state in outcomes():
        made, after = outcome_events(outcome, state), state
        for number, event in enumerate(made, 1):
            after = machine.apply(after, histories.entry(state.revision + number, event))
        rows = [None, *(event.type for event in made)]
        assert all(may_follow(before, event) for before, event in itertools.pairwise(rows) if event is not None)
        assert {event.subject for event in made if event.type.is_of_step and event.name != "step-retried"} == {"b"}


def test_rule_10_allows_after_an_event_of_a_runner_what_some_outcome_records_there_and_nothing_else() -> None:
    found: dict[str, set[str]] = {}
    for outcome, state in outcomes():
        made: list[Event] = outcome_events(outcome, state)
        for before, event in itertools.pairwise(made):
            found.setdefault(before.name, set()).add(event.name)
    found["step-retried"].add("resumed")  # `runner retry`, of a person
    assert found == {before: set(EVENTS[before].then) for before in found}
