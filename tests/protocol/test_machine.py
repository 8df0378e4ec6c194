"""The machine: the whole (status x event) table as a golden file, and what holds whatever is tried."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import IllegalEventError
from runner.protocol import events as ev
from runner.protocol import machine
from runner.protocol.event_types import EVENTS
from runner.protocol.events import Event
from runner.protocol.state import WAITS, SpentTotal, State, Status, StepState, StepStatus, Wait, load, render
from tests.protocol import histories
from tests.protocol.histories import DIGEST, OID, PROTOCOL, TIME, begun, created, entry, fold, planned_step

GOLDEN = Path(__file__).parent / "golden" / "table.txt"
EVIDENCE: list[ev.CheckEvidence] = [{"check": "make test", "code": 0, "seconds": 1, "output": DIGEST, "tail": "ok"}]
TERMINAL = {Status.COMPLETED, Status.CANCELLED}


def sample(name: str) -> Event:
    """An event of each kind, about the step `a` or the protocol, that fits the states of the table."""
    made: dict[str, Event] = {
        "created": ev.Created(subject=PROTOCOL, title="t", base="main", start=OID, nonce="0" * 32),
        "planned": ev.Planned(subject="plan", plan=DIGEST, steps={"a": planned_step(1)}),
        "imported": ev.Imported(subject="plan", plan=DIGEST, steps={"a": planned_step(1)}, source="x"),
        "forked": ev.Forked(
            subject="plan", plan=DIGEST, steps={"a": planned_step(1)}, source="x", genesis=DIGEST, done={"a": 1}
        ),
        "plan-edited": ev.PlanEdited(subject="plan", plan=DIGEST, steps={"b": planned_step(2)}, removed=[], dropped=[]),
        "approval-asked": ev.ApprovalAsked(subject="a", kind="step", digest=DIGEST, text="t", by="maintainer"),
        "approval-counted": ev.ApprovalCounted(subject="a", wait="w1", approvals=["x"], by=["alice"]),
        "approval-refused": ev.ApprovalRefused(subject="a", reason="stale"),
        "call-held": ev.CallHeld(subject="a", call="a.1.1", digest=DIGEST, text="t", by="maintainer"),
        "call-decided": ev.CallDecided(subject="a", wait="w1", decision="approved", by="alice", approvals=[]),
        "effect-unknown": ev.EffectUnknown(subject="a", call="a.1.1", tool="send", digest=DIGEST, text="t"),
        "effect-decided": ev.EffectDecided(subject="a", wait="w1", happened=True, by="alice"),
        "asked": ev.Asked(subject="a", kind="question", text="t", by="anyone"),
        "answered": ev.Answered(subject="a", wait="w1", text="t", by="alice"),
        "step-finished": ev.StepFinished(subject="a", attempt=1, digest=DIGEST, start=OID, executor="host"),
        "qa-passed": ev.QaPassed(subject="a", attempt=1, tree=OID, evidence=EVIDENCE),
        "qa-failed": ev.QaFailed(subject="a", attempt=1, tree=OID, reason="r", evidence=EVIDENCE),
        "step-completed": ev.StepCompleted(subject="a", attempt=1),
        "step-failed": ev.StepFailed(subject="a", attempt=1, reason="r"),
        "step-blocked": ev.StepBlocked(subject="a", attempt=1, reason="r"),
        "step-cancelled": ev.StepCancelled(subject="a", reason="r"),
        "step-retried": ev.StepRetried(subject="a", attempt=2),
        "budget-reached": ev.BudgetReached(subject=PROTOCOL, text="t", by="maintainer"),
        "paused": ev.Paused(subject=PROTOCOL),
        "resumed": ev.Resumed(subject=PROTOCOL),
        "blocked": ev.Blocked(subject=PROTOCOL, reason="r"),
        "failed": ev.Failed(subject=PROTOCOL, reason="r"),
        "cancelled": ev.Cancelled(subject=PROTOCOL),
        "completed": ev.Completed(subject=PROTOCOL),
        "ci-reported": ev.CiReported(subject=PROTOCOL, commit=OID, outcome="passed", context="test"),
        "request-changed": ev.RequestChanged(subject=PROTOCOL, url="u", change="merged"),
        "undone": ev.Undone(
            subject=PROTOCOL,
            to=2,
            status="planned",
            steps={"a": {"status": "pending", "attempt": 2, "result": None}},
            artifacts=[],
            dropped=[],
        ),
        "record-repaired": ev.RecordRepaired(subject=PROTOCOL, commits=[OID], reason="r"),
    }
    return made[name]


def state_for(event: Event, status: Status, step: StepState | None) -> State:
    kind = {"effect-decided": "effect", "approval-refused": "step"}.get(event.name, "question")
    wait = Wait(id="w1", kind=kind, subject=event.subject, digest=None, text="t", by="anyone", since=TIME)
    steps = {"a": step} if step else {}
    return histories.state_with(steps, status, waiting=[wait] if getattr(event, "wait", None) else [])


def tried(state: State, event: Event) -> State | None:
    try:
        return machine.apply(state, entry(state.revision + 1, event))
    except IllegalEventError:
        return None


def step_cell(event: Event, step: StepState) -> str:
    after = tried(state_for(event, Status.RUNNING, step), event)
    if after is None:
        return "·"
    told = [after.steps["a"].status.value if "a" in after.steps else "gone"]
    if after.steps["a"].passed != step.passed:
        told.append("passed" if after.steps["a"].passed else "not passed")
    if after.status is not Status.RUNNING:
        told.append(f"({after.status})")
    return " ".join(told)


def protocol_cell(event: Event, status: Status) -> str:
    row = event.type
    fit = sorted(row.steps)[0] if row.about in ("step", "call") else StepStatus.PENDING
    fit = StepStatus.COMPLETED if isinstance(event, ev.Completed) else fit
    step = histories.step_state(fit, passed=isinstance(event, ev.StepCompleted))
    after = tried(state_for(event, status, None if status in (Status.PENDING, Status.PLANNING) else step), event)
    return "·" if after is None else after.status.value


def rendered(title: str, columns: dict[str, list[str]]) -> str:
    rows = [["", *columns], *([name, *(cells[at] for cells in columns.values())] for at, name in enumerate(EVENTS))]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return f"{title}\n\n" + "\n".join(lines) + "\n"


def table() -> str:
    """Both tables: what each event makes of each status. `·`: it is illegal there."""
    named = {status.value: histories.step_state(status) for status in StepStatus}
    named["needs_qa, passed"] = histories.step_state(StepStatus.NEEDS_QA, passed=True)
    named["needs_qa, skip"] = histories.step_state(StepStatus.NEEDS_QA, qa="skip")
    named["completed, removed"] = histories.step_state(StepStatus.COMPLETED, removed=True)
    steps = {name: [step_cell(sample(event), step) for event in EVENTS] for name, step in named.items()}
    protocols = {status.value: [protocol_cell(sample(event), status) for event in EVENTS] for status in Status}
    return "\n".join(
        [
            rendered("What an event makes of a step (its protocol is running; · is illegal)", steps),
            rendered("What an event makes of a protocol (its step fits the event)", protocols),
        ]
    )


def test_the_table_of_statuses_and_events(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(table(), encoding="utf-8")

    assert table() == GOLDEN.read_text(encoding="utf-8")


# --- the table of events ---------------------------------------------------------------------------------------------


def test_every_event_has_a_row_and_every_row_an_event() -> None:
    assert list(EVENTS) == list(ev.MODELS)
    assert all(name == row.name == sample(name).name and sample(name).type is row for name, row in EVENTS.items())


def test_every_kind_of_wait_is_opened_by_one_event_and_ended_by_another() -> None:
    opened = [kind for row in EVENTS.values() for kind in row.opens]

    assert sorted(opened) == sorted(WAITS)
    assert {kind for row in EVENTS.values() for kind in row.ends} == set(WAITS)
    for name, how in (("approval-refused", "approval"), ("answered", "answer"), ("effect-decided", "answer")):
        assert {WAITS[kind].ended_by for kind in EVENTS[name].ends} == {how}


def samples(name: str) -> list[Event]:
    """An event about the step `a` or the protocol; and about the plan, where it may be about either."""
    made = [sample(name)]
    if isinstance(made[0], ev.Asked):
        made.append(made[0].model_copy(update={"kind": "human"}))
    return [*made, made[0].model_copy(update={"subject": "plan"})] if EVENTS[name].about == "any" else made


# What else the machine asks of an event that its row permits.
NARROWER = {
    "created": "it is the first of all", "undone": "a plan has to be there", "completed": "no step is open",
    "step-completed": "QA passed", "asked": "a step is not asked about where the protocol is stopped", "resumed": "nothing failed",
}  # fmt: skip


@pytest.mark.parametrize("name", EVENTS)
def test_the_columns_are_what_the_machine_does(name: str) -> None:
    """Of each event in each status of the protocol and of the step."""
    row = EVENTS[name]
    for event, status, step in itertools.product(samples(name), Status, StepStatus):
        no_plan = status in (Status.PENDING, Status.PLANNING)
        state = state_for(event, status, None if no_plan else histories.step_state(step))
        after = tried(state, event)
        is_of_step = event.subject == "a" and bool(row.steps)
        fits = status in row.statuses and (not is_of_step or (not no_plan and step in row.steps))
        if after is None:
            assert not fits or name in NARROWER or (status is Status.CANCELLED and name == "cancelled"), (status, step)
            continue
        assert fits or (no_plan and row.about == "any"), (status, step)
        assert after.status is (row.status or after.status)
        if row.status is None and name not in ("resumed", "undone"):
            moved = {Status.PLANNED: Status.RUNNING, Status.PENDING: Status.PLANNING, Status.FAILED: Status.RUNNING}
            assert after.status in (status, moved.get(status), Status.RUNNING if name == "step-retried" else status)
        if is_of_step and not no_plan:
            assert after.steps["a"].status is (row.step or step)
        elif name != "undone" and not no_plan:
            assert after.steps["a"].status is step
        assert {wait.kind for wait in after.waiting if wait not in state.waiting} <= set(row.opens)
        assert len(after.waiting) > len(state.waiting) or not row.opens


@pytest.mark.parametrize("kind", WAITS)
@pytest.mark.parametrize("name", [name for name, row in EVENTS.items() if row.ends and hasattr(sample(name), "wait")])
def test_an_event_ends_the_waits_that_its_row_names(name: str, kind: str) -> None:
    event = sample(name).model_copy(update={"wait": "w1"})
    fit = next(iter(EVENTS[name].steps), StepStatus.RUNNING)
    wait = Wait(id="w1", kind=kind, subject="a", digest=None, text="t", by="anyone", since=TIME)
    after = tried(histories.state_with({"a": histories.step_state(fit)}, waiting=[wait]), event)

    if kind in EVENTS[name].ends:
        assert after is not None
        assert not after.waiting
    elif name not in ("approval-counted", "call-decided"):  # `trust.replay` judges those
        assert after is None


# --- what holds whatever is tried ------------------------------------------------------------------------------------

SLUGS = ("a", "b", "c")
# How far a step is within its attempt: it never goes back.
FAR = {
    StepStatus.PENDING: 0, StepStatus.RUNNING: 1, StepStatus.AWAITING_APPROVAL: 1, StepStatus.NEEDS_QA: 2, StepStatus.COMPLETED: 3,
    StepStatus.FAILED: 3, StepStatus.BLOCKED: 3, StepStatus.CANCELLED: 4,
}  # fmt: skip


@st.composite
def attempts(draw: st.DrawFn, state: State) -> Event:
    """An event that is likely to be legal: its numbers are those of the state, more often than not."""
    kind = draw(st.sampled_from(sorted(set(EVENTS) - {"created", "imported", "forked", "undone"})))
    slug = draw(st.sampled_from(SLUGS))
    event = sample(kind)
    step = state.steps.get(slug)
    told: dict[str, object] = {}
    if event.subject == "a":
        told["subject"] = slug
    if hasattr(event, "attempt"):
        told["attempt"] = (
            (step.attempt if step else 1) + (kind == "step-retried") + draw(st.sampled_from([0, 0, 0, 1, -1]))
        )
    if hasattr(event, "wait"):
        told["wait"] = draw(st.sampled_from([wait.id for wait in state.waiting] or ["w1"]))
    if isinstance(event, ev.QaPassed | ev.QaFailed):
        told["evidence"] = draw(st.sampled_from([EVIDENCE, []]))
    if isinstance(event, ev.Asked):
        told["kind"] = draw(st.sampled_from(["human", "question"]))
    if isinstance(event, ev.Planned):
        told["steps"] = {
            name: planned_step(at, qa=draw(st.sampled_from(["skip", "light"]))) for at, name in enumerate(SLUGS, 1)
        }
    if isinstance(event, ev.PlanEdited):
        changed = draw(st.sets(st.sampled_from(SLUGS), max_size=2))
        told["steps"] = {name: planned_step(7, qa=draw(st.sampled_from(["skip", "light"]))) for name in sorted(changed)}
        told["removed"] = sorted(draw(st.sets(st.sampled_from(SLUGS), max_size=1)) - changed)
    return event.model_copy(update=told)


@settings(max_examples=120)
@given(st.data())
def test_what_holds_in_every_history(data: st.DataObject) -> None:
    """Illegal events change nothing; attempts only grow; nothing is done without evidence; an end is the end."""
    state, found = fold([created()]), [created()]
    proven: set[tuple[str, int]] = set()
    for _ in range(data.draw(st.integers(1, 30))):
        event = data.draw(attempts(state))
        before = render(state)
        after = tried(state, event)
        assert render(state) == before
        if after is None:
            continue
        found.append(entry(after.revision, event))
        assert after.revision == state.revision + 1
        if isinstance(event, ev.QaPassed):
            assert event.evidence
            proven.add((event.subject, event.attempt))
        if isinstance(event, ev.QaFailed | ev.StepRetried):
            proven.discard((event.subject, event.attempt))
        for slug, step in after.steps.items():
            old = state.steps.get(slug)
            if old is not None:
                assert (step.attempt, FAR[step.status]) >= (old.attempt, FAR[old.status])
            if step.status is StepStatus.COMPLETED and (old is None or old.status is not StepStatus.COMPLETED):
                assert isinstance(event, ev.StepCompleted)
                assert (slug, step.attempt) in proven or step.qa == "skip"
        if isinstance(event, ev.PlanEdited):  # a step that is taken out and put in again begins anew
            proven = {(slug, attempt) for slug, attempt in proven if slug in after.steps and after.steps[slug].passed}
        if state.status in TERMINAL:
            assert after.status is state.status
            assert after.steps == state.steps
        if after.status is Status.COMPLETED and state.status is not Status.COMPLETED:
            assert not after.waiting
            assert {one.status for _, one in after.open_steps()} <= {StepStatus.COMPLETED, StepStatus.CANCELLED}
        state = after
    at = data.draw(st.integers(0, len(found)))
    assert machine.fold(machine.fold(None, found[:at]), found[at:]) == state
    assert load(render(state), "state.json") == state


@given(histories.entries, st.sampled_from(list(Status)), st.sampled_from(list(StepStatus)))
def test_arbitrary_events_are_applied_or_refused_and_nothing_else(
    one: ev.Entry, status: Status, step: StepStatus
) -> None:
    state = histories.state_with({"a": histories.step_state(step)}, status)
    for tried_on in (state, None):
        with suppress(IllegalEventError):
            after = machine.apply(tried_on, one._replace(revision=8))
            render(after)
    assert state == histories.state_with({"a": histories.step_state(step)}, status)


@pytest.mark.parametrize(
    "spent",
    [
        {"usd": "-1"}, {"usd": "1e9"}, {"usd": "NaN"}, {"usd": "1e999999999"}, {"usd": "0,5"}, {"usd": "01"}, {"usd": ""},
        {"seconds": -1}, {"input_tokens": 2**53 + 1}, {"output_tokens": -5},
        {"unpriced": -1}, {"unpriced": 2**53 + 1},
    ],
)  # fmt: skip
def test_what_was_spent_is_a_sum_of_plain_amounts(spent: ev.Spent) -> None:
    state = fold(begun({"a": planned_step(1)}))

    with pytest.raises(IllegalEventError, match="what it spent is no"):
        machine.apply(state, entry(3, ev.StepFailed(subject="a", attempt=1, reason="r", spent=spent)))


def test_what_was_spent_adds_up_exactly() -> None:
    found = begun({"a": planned_step(1)})
    for at in range(3):
        spent: ev.Spent = {"usd": "0.1", "seconds": 2, "input_tokens": 5}
        found.append(entry(3 + 2 * at, ev.StepFailed(subject="a", attempt=1 + at, reason="r", spent=spent)))
        found.append(entry(4 + 2 * at, ev.StepRetried(subject="a", attempt=2 + at)))

    assert fold(found).spent == SpentTotal(usd="0.3", input_tokens=15, output_tokens=0, seconds=6)

    steps = {"b": planned_step(2)}
    again: ev.Spent = {"usd": "0.05", "input_tokens": 5, "unpriced": 7}
    edited = ev.PlanEdited(
        subject="plan", plan=DIGEST, steps=steps, removed=[], dropped=[], transcript=DIGEST, spent=again
    )
    found.append(entry(9, edited))
    assert fold(found).spent == SpentTotal(usd="0.35", input_tokens=20, output_tokens=0, seconds=6)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"to": 0}, "no revision 0"),
        ({"to": 9}, "no revision 9"),
        ({"status": "sealed"}, "no status sealed"),
        ({"steps": {"a": {"status": "idle", "attempt": 3, "result": None}}}, "no status idle"),
        ({"steps": {"a": {"status": "pending", "attempt": 1, "result": None}}}, "a is at attempt 2"),
        ({"steps": {"z": {"status": "pending", "attempt": 1, "result": None}}}, "no step z"),
    ],
)
def test_what_cannot_be_undone(told: dict[str, object], why: str) -> None:
    state = histories.state_with({"a": histories.step_state(attempt=2)})
    event = sample("undone").model_copy(update=told)

    with pytest.raises(IllegalEventError, match=why):
        machine.apply(state, entry(8, event))


@given(st.data())
def test_what_is_picked_to_begin_has_what_it_needs(data: st.DataObject) -> None:
    known = {slug: st.sampled_from([one for one in (*SLUGS, "gone") if one != slug]) for slug in SLUGS}
    steps = {
        slug: histories.step_state(
            data.draw(st.sampled_from(list(StepStatus))),
            kind=data.draw(st.sampled_from(["command", "human"])),
            needs=data.draw(st.lists(known[slug], max_size=2)),
            place=place,
        )
        for place, slug in enumerate(SLUGS, 1)
    }
    for only in (None, *SLUGS):
        action = machine.decide(histories.state_with(steps), only)
        if isinstance(action, machine.RunStep | machine.AskPerson) and steps[action.slug].status is StepStatus.PENDING:
            there = {steps[need].status if need in steps else None for need in steps[action.slug].needs}
            assert there <= {StepStatus.COMPLETED, StepStatus.CANCELLED}


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("answered", {"human", "question"}),
        ("effect-decided", {"effect"}),
        ("approval-refused", {"plan", "step", "result", "protected-path", "merge", "call"}),
    ],
)
def test_a_wait_ends_by_what_it_waits_for(name: str, ends: set[str]) -> None:
    event, found = sample(name).model_copy(update={"wait": "w1"}), set()
    for kind in ("human", "question", "effect", "budget", "plan", "step", "result", "protected-path", "merge", "call"):
        for subject in ("a", "b"):
            wait = Wait(id="w1", kind=kind, subject=subject, digest=None, text="t", by="anyone", since=TIME)
            running = histories.step_state(StepStatus.RUNNING)
            if tried(histories.state_with({"a": running, "b": running}, waiting=[wait]), event) is not None:
                found.add((kind, subject))
    assert found == {(kind, "a") for kind in ends}


# --- a plan that is asked about before it is written --------------------------------------------------------------------


def asked(revision: int, text: str) -> ev.Entry:
    return entry(revision, ev.Asked(subject="plan", kind="question", text=text, by="anyone"))


def answered(revision: int, wait: str) -> ev.Entry:
    return entry(revision, ev.Answered(subject="plan", wait=wait, text="yes", by="alice"))


PLANNED = ev.Planned(subject="plan", plan=DIGEST, steps={"a": planned_step(1)}, engine="e", transcript=DIGEST)


def test_a_planner_goes_on_when_its_questions_are_answered() -> None:
    history = [created(), asked(2, "Formal?"), asked(3, "When?")]
    state = fold(history)
    assert (state.status, [wait.id for wait in state.waiting]) == (Status.PLANNING, ["w2", "w3"])
    action = machine.decide(state)
    assert isinstance(action, machine.Halt) and action.reason == "Formal?" and len(action.waiting) == 2
    history += [answered(4, "w3"), entry(5, ev.Paused(subject=PROTOCOL)), answered(6, "w2")]
    assert isinstance(machine.decide(fold(history)), machine.Halt)
    history += [entry(7, ev.Resumed(subject=PROTOCOL))]
    assert fold(history).status is Status.PLANNING and isinstance(machine.decide(fold(history)), machine.WritePlan)
    history += [asked(8, "Where?"), answered(9, "w8"), entry(10, PLANNED)]
    assert (fold(history).status, machine.decide(fold(history))) == (Status.PLANNED, machine.RunStep("a"))


def test_what_was_asked_ends_with_the_plan_and_the_plan_is_not_taken_back() -> None:
    state = fold([created(), asked(2, "Formal?"), entry(3, PLANNED)])
    assert (state.status, state.waiting) == (Status.PLANNED, [])
    back = ev.Undone(subject=PROTOCOL, to=2, status="planning", steps={}, artifacts=[], dropped=[])
    with pytest.raises(IllegalEventError, match="not taken back"):
        machine.apply(state, entry(4, back))


def test_a_log_begins_with_created_and_has_no_gap() -> None:
    with pytest.raises(IllegalEventError, match="a log starts with `created`"):
        machine.apply(None, entry(1, sample("planned")))
    with pytest.raises(IllegalEventError, match="a log starts with `created`"):
        machine.apply(None, entry(2, sample("created")))
    with pytest.raises(IllegalEventError, match="its revision is 3, after 1"):
        machine.apply(fold([created()]), entry(3, sample("planned")))
    with pytest.raises(IllegalEventError):
        machine.apply(fold([created()]), entry(2, sample("created")))


def test_an_event_of_an_earlier_attempt_does_not_count() -> None:
    state = histories.state_with({"a": histories.step_state(StepStatus.NEEDS_QA, attempt=2)})

    with pytest.raises(IllegalEventError, match="a is at attempt 2"):
        machine.apply(state, entry(8, sample("qa-passed")))


def test_work_on_another_version_of_the_step_s_file_does_not_count() -> None:
    state = histories.state_with({"a": histories.step_state(digest="sha256:" + "1" * 64)})

    with pytest.raises(IllegalEventError, match="another digest"):
        machine.apply(state, entry(8, sample("step-finished")))
