"""The rules about order, all of them: what an event makes of a state, and what may happen next (design §3).

Pure: no I/O, no clock, no randomness. An event that does not belong to the state raises and changes nothing. `decide` needs no
events, so commands that only read do not load them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from runner.errors import IllegalEventError
from runner.lines import pattern
from runner.protocol import events as ev
from runner.protocol.event_types import EventType
from runner.protocol.ids import digest
from runner.protocol.state import (
    ACTIVE,
    ENDED,
    OPEN,
    SCHEMA,
    STOPPED,
    Artifact,
    SpentTotal,
    State,
    Status,
    Steps,
    StepState,
    StepStatus,
    Wait,
    phrased,
)

if TYPE_CHECKING:
    from runner.protocol.events import Entry, Event
    from runner.protocol.plans import Plan, Step
    from runner.protocol.state import Row, StepRow

# A step that was at work when somebody paused the protocol still ends: its work is done and would be lost.
WORKING = ACTIVE | {Status.PAUSED}
_S = StepStatus


def apply(state: State | None, entry: Entry) -> State:
    """Return the state after the entry; the given state is left as it was. `None` is before `created`.

    Raises:
        IllegalEventError: the event does not belong to this state.
    """
    event = entry.event
    if state is None:
        if not isinstance(event, ev.Created) or entry.revision != 1:
            raise IllegalEventError(
                f"a log starts with `created`, not `{event.name}`", f"revision {entry.revision}", "run `runner verify`"
            )
        if event.schema not in (None, SCHEMA):
            raise IllegalEventError(
                f"`created` names schema {event.schema}, and this version writes {SCHEMA}",
                f"revision {entry.revision}",
                "use the version of protocol-runner that wrote it",
            )
        return State(
            schema=event.schema or 1,
            protocol=event.subject,
            genesis=digest(event.nonce.encode()),
            revision=1,
            status=Status.PENDING,
            title=event.title,
            base=event.base,
            plan=None,
            steps=Steps(),
            waiting=[],
            artifacts=[],
        )
    if entry.revision != state.revision + 1:
        raise _illegal(state, event, f"its revision is {entry.revision}, after {state.revision}")
    return _spend(_apply(state, entry), event)._replace(revision=entry.revision)


def fold(state: State | None, entries: Iterable[Entry]) -> State | None:
    """Return the state after all the entries."""
    for entry in entries:
        state = apply(state, entry)
    return state


def _illegal(state: State, event: Event, why: str) -> IllegalEventError:
    return IllegalEventError(
        f"`{event.name} {event.subject}` cannot happen: {why}",
        f"{state.protocol} at revision {state.revision}",
        "see the status and the next command: `runner status`",
    )


def _apply(state: State, entry: Entry) -> State:
    event = entry.event
    row, was = event.type, state.status
    if state.status not in (OPEN if row.is_of_step else row.statuses):
        raise _illegal(state, event, f"{state.protocol} is {state.status}")
    if row.is_of_step:
        return _apply_to_step(state, entry, row)
    if row.status is not None:
        state = state._replace(status=row.status)
    match event:
        case ev.Created():
            raise _illegal(state, event, "it was created before")
        case ev.Planned():  # Imported and Forked too
            # What the planner still asked is not owed any more: the plan is there.
            owed = [wait for wait in state.waiting if wait.subject != event.subject]
            state = state._replace(plan=event.plan, steps=_planned(event.steps), waiting=owed)
            if isinstance(event, ev.Forked):
                for slug, result in event.done.items():
                    state = _with_step(state, event, slug, status=StepStatus.COMPLETED, result=result)
        case ev.PlanEdited():
            state = _edit(state, event)
        case ev.ApprovalAsked():
            if event.subject in state.steps and state.steps[event.subject].status not in row.steps:
                raise _illegal(state, event, f"{event.subject} is {state.steps[event.subject].status}")
            state = _wait(state, entry, event.kind)
        case ev.ApprovalCounted():
            state = _unwait(state, event, event.wait)
        case ev.ApprovalRefused():
            state = _unwait(state, event, event.wait, row.ends) if event.wait else state
        case ev.Asked():
            is_human = event.kind == "human"
            if is_human or event.subject in state.steps:
                step = _step(state, event)
                statuses, steps = (ACTIVE, {_S.PENDING}) if is_human else (WORKING, row.steps)
                if state.status not in statuses or step.status not in steps or step.removed:
                    raise _illegal(
                        state, event, f"{event.subject} is {step.status}, {state.protocol} is {state.status}"
                    )
                state = _started(_with_step(state, event, event.subject, status=_S.RUNNING))
            elif state.status is Status.PENDING:
                state = state._replace(status=Status.PLANNING)
            state = _wait(state, entry, event.kind)
        case ev.Answered():
            state = _unwait(state, event, event.wait, row.ends)
        case ev.BudgetReached():
            state = _wait(state, entry, "budget")
        case ev.Resumed():
            after = _where_it_was(state)
            if state.status is Status.FAILED and after in (Status.FAILED, Status.BLOCKED):
                raise _illegal(state, event, f"{state.protocol} is {state.status}")
            state = state._replace(status=after)
        case ev.Cancelled():
            if was is Status.CANCELLED and not event.spent:  # a second one is of the runner that was at work
                raise _illegal(state, event, f"{state.protocol} is {was}")
        case ev.Completed():
            left = [slug for slug, _ in state.steps.left()]
            if left or state.waiting:
                raise _illegal(
                    state, event, f"{left[0]} is {state.steps[left[0]].status}" if left else "something is owed"
                )
        case ev.Undone():
            state = _undo(state, event)
        case _ if row.status is not None or row.role == "fact":
            pass  # the status is set above, and a fact changes nothing
        case _:
            raise AssertionError(f"unreachable: {event.name} has a row and no case")
    return state


def _planned(steps: dict[str, ev.PlannedStep]) -> Steps:
    return Steps({slug: StepState(**step) for slug, step in steps.items()})


def _step(state: State, event: Event) -> StepState:
    step = state.steps.get(event.subject)
    if step is None:
        raise _illegal(state, event, f"there is no step {event.subject}")
    return step


def _with_step(state: State, event: Event, slug: str, **changes: object) -> State:
    if slug not in state.steps:
        raise _illegal(state, event, f"there is no step {slug}")
    step = state.steps[slug]._replace(**changes)  # type: ignore[arg-type]
    return state._replace(steps=state.steps.with_(slug, step))


def _started(state: State) -> State:
    return state._replace(status=Status.RUNNING) if state.status is Status.PLANNED else state


def _where_it_was(state: State) -> Status:
    """Return the status that a pause or a block had interrupted; it follows from the steps."""
    if state.plan is None:
        return Status.PLANNING
    standing = {step.status for _, step in state.open_steps()}
    for status, stopped in ((_S.FAILED, Status.FAILED), (_S.BLOCKED, Status.BLOCKED)):
        if status in standing:
            return stopped
    started = any(step.status is not _S.PENDING or step.attempt > 1 for step in state.steps.values())
    return Status.RUNNING if started else Status.PLANNED


def _wait(state: State, entry: Entry, kind: str) -> State:
    """An event that does not say who ends the wait leaves it to anyone."""
    event: Any = entry.event
    name, digest_, by = f"w{entry.revision}", getattr(event, "digest", None), getattr(event, "by", "anyone")
    wait = Wait(id=name, kind=kind, subject=event.subject, digest=digest_, text=event.text, by=by, since=entry.time)
    return state._replace(waiting=[*state.waiting, wait])


def _unwait(state: State, event: Event, wait: str, kinds: Collection[str] | None = None) -> State:
    """`kinds`: the kinds of waits that such an event ends; None: any, since `trust.rules.permissions` checks the approvals."""
    ended = next((found for found in state.waiting if found.id == wait), None)
    if ended is None:
        raise _illegal(state, event, f"nothing waits as {wait}")
    if kinds is not None and (ended.kind not in kinds or ended.subject != event.subject):
        raise _illegal(state, event, f"{wait} waits for something else: {ended.kind} of {ended.subject}")
    return state._replace(waiting=[found for found in state.waiting if found.id != wait])


_USD = pattern(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,12})?")
_MOST = 2**53  # what every reader of JSON keeps exactly


def _spend(state: State, event: Event) -> State:
    from decimal import Decimal  # which a command that only reads need not load

    spent = getattr(event, "spent", None)
    if not spent:
        return state
    total = state.spent
    counts = [spent.get(key, 0) for key in ("input_tokens", "cached_tokens", "output_tokens", "seconds", "unpriced")]
    if not all(isinstance(count, int) and 0 <= count <= _MOST for count in counts):
        raise _illegal(state, event, "what it spent is no count")
    if not _USD.fullmatch(str(spent.get("usd", "0"))):
        raise _illegal(state, event, "what it spent is no amount")
    return state._replace(
        spent=SpentTotal(
            usd=format(Decimal(total.usd) + Decimal(str(spent.get("usd", "0"))), "f"),
            input_tokens=total.input_tokens + int(spent.get("input_tokens", 0)),
            output_tokens=total.output_tokens + int(spent.get("output_tokens", 0)),
            seconds=total.seconds + int(spent.get("seconds", 0)),
        ),
    )


def _made(state: State, entry: Entry, artifacts: list[ev.ArtifactFields], attempt: int) -> State:
    if not artifacts:
        return state
    made = [
        Artifact(
            id=f"a{entry.revision}.{number}", time=entry.time, step=entry.event.subject, attempt=attempt, **artifact
        )
        for number, artifact in enumerate(artifacts, 1)
    ]
    return state._replace(artifacts=[*state.artifacts, *made])


def _apply_to_step(state: State, entry: Entry, row: EventType) -> State:
    event = entry.event
    step = _step(state, event)
    if step.status not in row.steps:
        raise _illegal(state, event, f"{event.subject} is {step.status}")
    if step.removed:
        raise _illegal(state, event, f"{event.subject} was removed from the plan")
    reopens = isinstance(event, ev.StepRetried)
    if state.status not in row.statuses:
        raise _illegal(state, event, f"{state.protocol} is {state.status}")
    attempt = getattr(event, "attempt", None)
    if attempt is not None and attempt != step.attempt + reopens:
        raise _illegal(state, event, f"{event.subject} is at attempt {step.attempt}")
    owed = [wait for wait in state.waiting if wait.subject == event.subject]
    state = _started(state)
    changes: dict[str, object] = {} if row.step is None else {"status": row.step}
    match event:
        case ev.CallHeld():
            if any(
                wait.kind == "call" for wait in owed
            ):  # a call is asked for again only after the wait before it has ended
                raise _illegal(state, event, "a call of it waits already")
            state = _wait(state, entry, "call")
        case ev.EffectUnknown():
            state = _wait(state, entry, "effect")
        case ev.CallDecided():
            state = _unwait(state, event, event.wait)
        case ev.EffectDecided():
            state = _unwait(state, event, event.wait, row.ends)
        case ev.StepFinished():
            if owed:
                raise _illegal(state, event, f"{owed[0].kind} {owed[0].id} is still owed")
            if event.digest != step.digest:
                raise _illegal(state, event, "the step's file has another digest")
            if step.kind == "human" and step.status is not _S.RUNNING:
                raise _illegal(state, event, "nobody was asked for this attempt of it")
            changes |= {"result": event.result, "reason": None}
            state = _made(state, entry, event.artifacts, step.attempt)
        case ev.QaPassed():
            if not event.evidence:
                raise _illegal(state, event, "it names no evidence")
            changes |= {"passed": True}
        case ev.QaFailed():
            changes |= {"passed": False, "reason": event.reason}
        case ev.StepCompleted():
            if not (step.passed or step.qa == "skip") or owed:
                raise _illegal(state, event, "QA has not passed" if not owed else f"{owed[0].kind} is still owed")
        case ev.StepFailed() | ev.StepCancelled():  # StepBlocked too
            changes |= {"reason": event.reason}
            state = state._replace(waiting=[wait for wait in state.waiting if wait not in owed])
        case ev.StepRetried():
            changes |= {"attempt": event.attempt, "passed": False, "result": None}
            if state.status in (Status.FAILED, Status.BLOCKED):
                state = state._replace(status=Status.RUNNING)
            return _to_ask_again(_with_step(state, event, event.subject, **changes), event)
        case _:
            raise AssertionError(f"unreachable: {event.name} has a row and no case")
    return _with_step(state, event, event.subject, **changes)


def _lacks_below(state: State, step: StepState) -> bool:
    """Return whether a step that this one needs is not done, or one that such a step needs, and so on."""
    seen, left = set[str](), [*step.needs]
    while left:
        slug = left.pop()
        if slug in seen:
            continue
        if slug not in state.steps or state.steps[slug].status not in ENDED:
            return True
        seen.add(slug)
        left += state.steps[slug].needs
    return False


def _to_ask_again(state: State, event: Event) -> State:
    """Return the state in which a `human` step whose needs are open again is to be asked again: what it asks about is not there.

    An answer counts for the attempt that it was given in, not for the next one.
    """
    for slug, step in [*state.steps.left()]:
        if step.kind == "human" and step.status is _S.RUNNING and _lacks_below(state, step):
            state = _with_step(state, event, slug, status=_S.PENDING, attempt=step.attempt + 1)
            state = state._replace(waiting=[wait for wait in state.waiting if wait.subject != slug])
    return state


def _edit(state: State, event: ev.PlanEdited) -> State:
    steps = dict(state.steps)
    for slug, planned in event.steps.items():
        old = steps.get(slug)
        steps[slug] = old._replace(**planned, removed=False) if old else StepState(**planned)
        if old and old.status is _S.NEEDS_QA:  # QA checked another version of the file
            steps[slug] = steps[slug]._replace(passed=False)
        if old and old.removed and old.status is not _S.COMPLETED:
            again = {"status": _S.PENDING, "attempt": old.attempt + 1, "result": None, "reason": None, "passed": False}
            steps[slug] = steps[slug]._replace(**again)  # type: ignore[arg-type]
    for slug in event.removed:
        if slug not in steps or steps[slug].removed:
            raise _illegal(state, event, f"there is no step {slug}")
        gone = steps[slug]
        if gone.status is _S.PENDING and gone.attempt == 1:
            del steps[slug]
        else:  # work that was done or started stays in the record: an attempt's number is given once
            status = gone.status if gone.status is _S.COMPLETED else _S.CANCELLED
            steps[slug] = gone._replace(removed=True, status=status)
    ids = [wait.id for wait in state.waiting]
    missing = [wait for wait in event.dropped if wait not in ids]
    if missing:
        raise _illegal(state, event, f"nothing waits as {missing[0]}")
    edited = state._replace(
        plan=event.plan,
        steps=Steps(steps),
        waiting=[wait for wait in state.waiting if wait.id not in event.dropped],
    )
    return _to_ask_again(edited, event)


def _undo(state: State, event: ev.Undone) -> State:
    if not 0 < event.to <= state.revision:
        raise _illegal(state, event, f"there is no revision {event.to}")
    if event.status not in list(Status):
        raise _illegal(state, event, f"there is no status {event.status}")
    if event.status in (Status.PENDING, Status.PLANNING):
        raise _illegal(state, event, "a plan is not taken back")
    for slug, undone in event.steps.items():
        if undone["status"] not in list(StepStatus):
            raise _illegal(state, event, f"there is no status {undone['status']} of a step")
        if slug in state.steps and undone["attempt"] < state.steps[slug].attempt:
            raise _illegal(state, event, f"{slug} is at attempt {state.steps[slug].attempt}")
        state = _with_step(
            state,
            event,
            slug,
            status=StepStatus(undone["status"]),
            attempt=undone["attempt"],
            result=undone["result"],
            passed=False,
            reason=None,
        )
    return state._replace(
        status=Status(event.status),
        artifacts=[artifact for artifact in state.artifacts if artifact.id not in event.artifacts],
        waiting=[wait for wait in state.waiting if wait.id not in event.dropped],
    )


def undone_of(now: State, then: State) -> ev.Undone:
    """Return the event that restores the state `then` from the state `now`.

    A step that is open again and was started is at a new attempt. A wait of `then` that has ended since is opened again.
    """
    steps: dict[str, ev.UndoneStep] = {}
    for slug, step in now.open_steps():
        owed = [[wait.id for wait in state.waiting if wait.subject == slug] for state in (now, then)]
        again = _again(step, then.steps.get(slug), same=owed[0] == owed[1])
        if again != {"status": step.status.value, "attempt": step.attempt, "result": step.result}:
            steps[slug] = again
    kept = {wait.id for wait in then.waiting if wait.subject not in steps}
    made = {artifact.id for artifact in then.artifacts}
    return ev.Undone(
        subject=now.protocol,
        to=then.revision,
        status=then.status.value,
        steps=steps,
        artifacts=[artifact.id for artifact in now.artifacts if artifact.id not in made],
        dropped=[wait.id for wait in now.waiting if wait.id not in kept],
    )


def _again(now: StepState, then: StepState | None, *, same: bool) -> ev.UndoneStep:
    """`same`: the step waits for what it waited for then."""
    if same and then is not None and (then.status, then.attempt) == (now.status, now.attempt):
        return {"status": now.status.value, "attempt": now.attempt, "result": now.result}
    status = then.status if then is not None and not then.removed else _S.PENDING
    if status in (_S.RUNNING, _S.AWAITING_APPROVAL):
        status = _S.PENDING  # what it waited for has ended
    started = now.status is not _S.PENDING and status not in ENDED
    worked = then is not None and status in (*ENDED, _S.NEEDS_QA)
    return {
        "status": status.value,
        "attempt": now.attempt + started,
        "result": then.result if worked and then is not None else None,
    }


# --- the plan, as events record it ------------------------------------------------------------------------------------


def planned_steps(steps: Iterable[Step]) -> dict[str, ev.PlannedStep]:
    """Return steps of a plan as `planned` records them."""
    return {
        step.slug: {
            "place": step.number,
            "title": step.header.title,
            "kind": step.header.kind.value,
            "needs": list(step.needs),
            "qa": step.qa.value,
            "digest": step.digest,
        }
        for step in steps
    }


def _is_as_planned(known: StepState | None, step: Step) -> bool:
    """Return whether the record of a step agrees with the plan; called for each step at each transition."""
    return (
        known is not None
        and known.digest == step.digest
        and not known.removed
        and (known.place, known.needs, known.qa) == (step.number, [*step.needs], step.qa)
        and (known.kind, known.title) == (step.header.kind, step.header.title)
    )


def edit_of(state: State, plan: Plan) -> ev.PlanEdited | None:
    """Return the event that picks up what people changed since the last record of the plan, or None.

    A finished step whose file changed or is gone is recorded and not done again. A step under way whose file is gone ends.
    """
    # Called at each transition, and nearly every step is the very one that was compared before.
    differ = state.steps.changed(plan.agreed[0]) if plan.agreed else None
    few = [plan.step(slug) for slug in differ or ()]
    every = differ is None or None in few  # one that is not in the plan was removed, perhaps
    fresh = plan.steps if every else [step for step in few if step is not None]
    changed = planned_steps(step for step in fresh if not _is_as_planned(state.steps.get(step.slug), step))
    now = {step.slug for step in plan.steps} if every else ()
    removed = [slug for slug, _ in state.open_steps() if slug not in now] if every and state.steps.keys() - now else []
    if not changed and not removed:
        plan.agreed[:] = [state.steps]
        if plan.digest == state.plan:
            return None
    gone = {slug for slug in removed if state.steps[slug].status not in ENDED}
    stale = gone | {slug for slug in changed if slug in state.steps}
    dropped = [
        wait.id
        for wait in state.waiting
        if wait.subject in gone
        or wait.kind == "budget"
        or (wait.digest is not None and wait.kind != "call" and wait.subject in stale)
    ]
    return ev.PlanEdited(subject="plan", plan=plan.digest, steps=changed, removed=removed, dropped=dropped)


# --- what may happen next ---------------------------------------------------------------------------------------------


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
        failed = [why(slug, state.steps[slug]) for slug in state.stopped]
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
        return step["status"] not in STOPPED and owed.isdisjoint((slug, "plan", protocol))
    return not is_open


def _place(item: tuple[str, StepRow]) -> int:
    return item[1]["place"]


def lacks(state: State, step: StepState) -> list[str]:
    """Return the steps that a step needs and that are neither completed nor cancelled."""
    return [need for need in step.needs if need not in state.steps or state.steps[need].status not in ENDED]
