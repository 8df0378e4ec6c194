"""`runner step`: lock, load, decide, act, and commit once; after a lost race it starts again from the new tip.

People's events and commits are published the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from runner import signals
from runner.errors import ConflictError, RefusedError, WaitingError
from runner.executor import commit, load, permissions, steps, transition
from runner.executor.commit import Advanced, Start
from runner.executor.step_run import StepRun
from runner.executor.transition import EvaluatedAt, Kind, Outcome, recording
from runner.forge import Forge, ForgeError
from runner.protocol import decision, ids, machine, paths
from runner.protocol import events as ev
from runner.protocol.decision import Action, CheckStep, Complete, Halt, RunStep, WritePlan
from runner.protocol.events import Event
from runner.protocol.plans import Plan
from runner.protocol.state import State, Status, StepStatus
from runner.store import history, lease, publishing, record, transaction, worktree
from runner.store.environment import write_checkpoint
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.values import dataclass


def consider(
    project: Project, seen: Snapshot, only: str | None = None
) -> tuple[Plan | None, ev.PlanEdited | ev.Planned | None, State, Action]:
    """Return the plan, the edit that the next transition records, the state after it, and the next action.

    There is no plan while a planner's questions are open; a plan that people write then is the edit (`planned`).
    """
    state = seen.state
    if state.plan is None:
        if state.status is not Status.PLANNING or not load.is_written(seen):
            return None, None, state, _decide(state, only)
        plan = load.read_plan(project, seen)
        planned = ev.Planned(subject="plan", plan=plan.digest, steps=machine.planned_steps(plan))
        state = load.applied(project, state, [planned])
        return plan, planned, state, decision.decide(state)
    plan = load.read_plan(project, seen)
    edit = None
    if state.status in decision.OPEN:
        edit = load.edit_of(project, seen, plan)
        if edit is not None:
            state = load.applied(project, state, [edit])
    return plan, edit, state, _decide(state, only)


def _decide(state: State, only: str | None) -> Action:
    return decision.decide(state, load.find_step(state, only) if only is not None else None)


def step(
    project: Project,
    protocol: str,
    *,
    only: str | None = None,
    adopt: bool = True,
    forge: Forge | None = None,
    wait: float = 0.0,
) -> Advanced:
    """Advance the protocol by one transition, one commit. `only`: a step, as a person names it; `forge`: where reviews are read;
    `wait`: seconds in which another runner may let go of it.

    Raises:
        RunnerError: nothing was recorded; the message says what to do.
    """
    project.refuse_unsupported()
    with load.at_work(project, protocol, wait=wait):
        signals.begin_work()
        worktree.refuse_rebased(project.git, project.branch(protocol))  # before a model is paid for nothing
        publishing.bring(project, protocol, load.checker(project, protocol))
        project.tell_unread_edits()
        for _ in range(load.RACES):
            try:
                seen = load.view(project, protocol)
                if seen.state.status in decision.OPEN and load.pick_up_edits(project, protocol, adopt=adopt):
                    seen = load.view(project, protocol)
            except ConflictError:  # a person was faster
                continue
            try:
                done = _step(project, seen, only, forge)
            except signals.StopRequested as stop:
                project.batch = False  # what came of it is published at once, and what others published is looked at
                load.again(project, protocol)
                if record.is_cancelled(project.git, protocol, project.git.ref(project.branch(protocol))):
                    raise _cancelled(protocol, record_paid(project, protocol)) from stop
                signals.begin_work()  # it was meant for another protocol, and came too late
                continue
            except RefusedError:
                if record.is_cancelled(project.git, protocol, project.git.ref(project.branch(protocol))):
                    record_paid(project, protocol)
                raise
            if done is not None:
                return done
            load.again(project, protocol)
    raise load.moves(project, protocol)


def _cancelled(protocol: str, paid: str) -> RefusedError:
    short = ids.number_of(protocol)
    return RefusedError(
        f"{protocol} was cancelled, and its work was stopped{f'; the {paid} that it had cost is recorded' if paid else ''}",
        paths.folder(protocol),
        f"`runner undo {short}` reverts it; then `runner run {short}` resumes",
    )


def record_paid(project: Project, protocol: str) -> str:
    """Record the unrecorded cost of a cancelled protocol; return it as people read it, empty for none.

    The caller holds the protocol's lock.

    Raises:
        IntegrityError: a journal or the record is damaged. UnreachableError: it is to be published, and the remote does not answer.
    """
    from runner.executor import spending

    total, files = spending.to_record(project, protocol)
    if not files:
        return ""
    project.batch = False  # nothing follows that it could be published with
    for seen in load.views(project, protocol):
        paid = ev.Cancelled(subject=protocol, spent=spending.told(total))
        outcome = Outcome(kind=Kind.RECORDED, events=(paid,), files=files)
        made = transition.prepare(project, seen, outcome.events)
        with contextlib.suppress(ConflictError):
            transition.publish(project, seen, made, outcome=outcome)
            break
    return f"${total.usd:f}"


def _step(project: Project, seen: Snapshot, only: str | None, forge: Forge | None) -> Advanced | None:
    """Carry out the next action; None where the branch or the trusted one moved meanwhile, and it has to be decided again."""
    trusted = project.trusted.commit
    plan, edit, state, action = consider(project, seen, only)
    if not load.is_quiet(project, plan, action):
        return None
    if isinstance(edit, ev.Planned):
        outcome = recording("the plan that people wrote is recorded")
        return commit.at_once(Start(project, seen, [edit]), WritePlan(), outcome)
    first: list[Event] = [edit] if edit else []
    time = project.env.timestamp()
    approvals = permissions.settle(project, seen, plan, state, time, forge) if plan else []
    if project.trusted.commit != trusted:  # whose default checks the plan was read with
        return None
    evaluated = EvaluatedAt(time, trusted) if approvals else None
    if approvals:
        first += approvals
        state = load.applied(project, state, approvals)
        action = _decide(state, only)
    start = Start(project, seen, first, evaluated)
    if isinstance(action, Halt):
        if not first:
            return Advanced(state, action, (), seen.tip, action.reason)
        said = "the plan's edit is recorded" if edit else "it is recorded who said what"
        return commit.at_once(start, action, recording(said))
    if isinstance(action, WritePlan):
        if not _lease(project, seen, forge):
            return None
        from runner.executor import planning  # loads the engines

        return commit.at_once(start, action, planning.write_plan(project, seen))
    assert plan is not None
    outcome, run = recording("all done", [ev.Completed(subject=seen.protocol)]), None
    if not isinstance(action, Complete):
        step = plan.step(action.slug)
        assert step is not None, action.slug
        run = StepRun(project, seen, plan, step, state, approvals)
        if (
            step.header.decompose
            and isinstance(action, RunStep)
            and state.steps[step.slug].status is StepStatus.PENDING
        ):
            _refuse_whole(run)
        held = permissions.hold(run, action)
        if project.trusted.commit != trusted:
            return None
        if held is not None:
            return commit.at_once(start, action, recording(f"waits: {held.text}", [held]))
    transition.signer(project)  # before anything is done that nobody could sign
    if isinstance(action, RunStep | CheckStep) and not _lease(project, seen, forge):
        return None
    # What is done is done by the policy of now, whatever the trusted branch says when it is recorded.
    start = Start(project, seen, first, evaluated or EvaluatedAt(time, project.trusted.commit))
    if run is not None:
        if isinstance(action, RunStep | CheckStep):
            project.env.hear_output(run.label, b"")
        outcome = steps.perform(action, run)
    return commit.commit(start, action, outcome)


def _refuse_whole(run: StepRun) -> None:
    """Refuse to start a step that is to be split: nothing is paid, or asked of people, for the whole of it.

    Raises:
        WaitingError: unless an attempt was made before `decompose` was written.
    """
    if run.attempt == 1:
        raise WaitingError(
            f"{run.slug} has to be split before it starts: its file says `decompose: true`",
            f"{paths.folder(run.view.protocol)}/{run.step.file}:{run.step.lines.get('decompose', 1)}",
            f"`runner plan {ids.number_of(run.view.protocol)} --split {run.slug}`, or remove the key",
        )


def _lease(project: Project, seen: Snapshot, forge: Forge | None) -> bool:
    """Take the lease before something acts; False where others published meanwhile: their commits are here now."""
    if project.mirror is None:
        return True

    def is_over(job: str) -> bool:
        try:
            return forge is not None and forge.is_over(job)
        except ForgeError:  # then it is waited for, as where there is none
            return False

    if not lease.take(project, seen.protocol, is_over, decided=seen.tip):
        publishing.settle(project, seen.protocol, project.mirror, load.checker(project, seen.protocol))
        return False
    return True


@dataclass(frozen=True, slots=True)
class Commit:
    """A person's commit. `filed`: the history's commit that keeps its transcript, and the one before."""

    oid: str
    filed: tuple[str, str | None] | None = None


def put(project: Project, protocol: str, reason: str, make: Callable[[Snapshot], Commit]) -> str:
    """Publish a commit of a person's, made anew by `make(snapshot)` wherever the branch has moved; return its id.

    One that is the tip itself says that there is nothing to publish.
    """
    for seen in load.views(project, protocol):
        made = make(seen)
        if made.oid == seen.tip:
            return made.oid
        try:
            also = {history.ref_of(protocol): made.filed} if made.filed else {}
            update = transaction.RefUpdate(project.branch(protocol), seen.tip, made.oid, reason, also)
            push = publishing.pusher(project, protocol, made.oid, filed=made.filed[0] if made.filed else None)
            transaction.publish(project.git, project.dirs, project.env, update, push)
        except ConflictError:
            continue
        # An approval, a rejection or an edit is no transition: rolled back to before it, the branch would look as it was.
        write_checkpoint(project.dirs, protocol, made.oid, seen.state.genesis)
        return made.oid
    raise AssertionError("unreachable: `views` ends with an error")


def tell(
    project: Project,
    protocol: str,
    build: Callable[[Snapshot], Sequence[Event]],
    *,
    as_person: bool = False,
    tree: Callable[[Snapshot], str | None] = lambda seen: None,
) -> Advanced:
    """Record a person's event (pause, answer, retry …), by compare-and-swap, beside a runner that may be at work.

    `build(view)` returns the events, none if they are recorded already, or raises the error for the person; `tree(view)` returns the
    tree of their commit.
    """
    project.refuse_unsupported()
    for seen in load.views(project, protocol):
        events = build(seen)
        if not events:
            return Advanced(seen.state, decision.decide(seen.state), (), seen.tip)
        made = transition.prepare(project, seen, events, tree(seen), as_person=as_person)
        with contextlib.suppress(ConflictError):
            transition.publish(project, seen, made)
            return Advanced(made.state, decision.decide(made.state), made.entries, made.commit)
    raise AssertionError("unreachable: `views` ends with an error")
