"""`runner step`: lock, load, decide, act, and commit once; after a lost race it starts again from the new tip.

An outcome is committed where the step started, or merged onto what people committed meanwhile. People's events and commits are
published the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner import forge as forges
from runner import signals
from runner.errors import (
    ConflictError,
    HeldError,
    IllegalEventError,
    IntegrityError,
    InTheWayError,
    MalformedFileError,
    RefusedError,
    RunnerError,
    UnsupportedError,
    WaitingError,
)
from runner.executor import load, permissions, planning, spending, steps, transition
from runner.executor.step_run import StepRun
from runner.executor.transition import (
    EvaluatedAt,
    Outcome,
    OutcomeKind,
    attempt_ref,
    blocked_events,
    outcome_events,
    recording,
)
from runner.git import GitError
from runner.protocol import events as ev
from runner.protocol import log, machine, paths
from runner.protocol.event_types import event_type
from runner.protocol.events import Entry, Event
from runner.protocol.machine import Action, CheckStep, Complete, Halt, RunStep, WritePlan
from runner.protocol.plans import Plan
from runner.protocol.state import OPEN, State, Status, StepStatus
from runner.store import batch as batches
from runner.store import history, lease, lookup, publishing, record, transaction, worktree
from runner.store.environment import write_checkpoint
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust.permit import StepAction

if TYPE_CHECKING:
    from runner.forge import Forge

_AT_WORK = (StepStatus.PENDING, StepStatus.RUNNING)


class Advanced(NamedTuple):
    """The result of one call. `entries`: empty where nothing was recorded; `action`: the decision; `before`: the earlier transitions
    of its batch, which were published with it."""

    state: State
    action: Action
    entries: tuple[Entry, ...]
    commit: str
    said: str = ""
    failed: bool = False
    before: tuple[Advanced, ...] = ()

    @property
    def events(self) -> list[Event]:
        """The events of the commit."""
        return [entry.event for entry in self.entries]


class Start(NamedTuple):
    """Where a transition starts. `first`: the events that it records before its action; `state`: after these; `evaluated`: None where
    no approval was judged."""

    session: Session
    snapshot: Snapshot
    first: list[Event]
    state: State
    evaluated: EvaluatedAt | None = None


Considered = tuple[Plan | None, ev.PlanEdited | ev.Planned | None, State, Action]
More = Callable[[Sequence[Advanced]], bool]


def consider(session: Session, seen: Snapshot, only: str | None = None) -> Considered:
    """Return the plan, the edit that the next transition records, the state after it, and the next action.

    There is no plan while a planner's questions are open; a plan that people write then is the edit (`planned`).
    """
    state = seen.state
    if state.plan is None:
        if state.status is not Status.PLANNING or not load.is_written(seen):
            return None, None, state, _decide(state, only)
        plan = load.read_plan(session, seen)
        planned = ev.Planned(subject="plan", plan=plan.digest, steps=machine.planned_steps(plan.steps))
        state = load.applied(session.project, state, [planned])
        return plan, planned, state, machine.decide(state)
    plan = load.read_plan(session, seen)
    edit = None
    if state.status in OPEN:
        edit = load.edit_of(session, seen, plan)
        if edit is not None:
            state = load.applied(session.project, state, [edit])
    return plan, edit, state, _decide(state, only)


def _decide(state: State, only: str | None) -> Action:
    return machine.decide(state, load.find_step(state, only) if only is not None else None)


def step(
    session: Session,
    protocol: str,
    *,
    only: str | None = None,
    adopt: bool = True,
    forge: Forge | None = None,
    wait: float = 0.0,
    more: More | None = None,
) -> Advanced:
    """Advance the protocol by one transition, one commit. `only`: a step, as a person names it; `forge`: where reviews are read;
    `wait`: seconds in which another runner may let go of it; `more`: whether another transition may follow these, for a batch.

    Raises:
        RunnerError: nothing was recorded; the message says what to do.
    """
    session.project.refuse_unsupported()
    with load.at_work(session, protocol, wait=wait):
        signals.begin_work()
        worktree.refuse_rebased(session.git, session.project.branch(protocol))  # before a model is paid for nothing
        publishing.bring(session, protocol, load.Checker(session, protocol))
        session.tell_unread_edits()
        for turn in range(load.RACES):
            try:
                seen = load.read(session, protocol)
                if seen.state.status in OPEN and load.pick_up_edits(session, protocol, adopt=adopt):
                    seen = load.read(session, protocol)
            except ConflictError:  # a person was faster
                continue
            try:
                considered = consider(session, seen, only)
                # After a lost race one alone: a batch takes longer, and would lose the next one too.
                if more is not None and session.batch and not turn and _is_pure(session.project, considered):
                    done = _batch(session, seen, considered, forge, more)
                else:
                    done = _step(session, seen, considered, only, forge)
            except signals.StopRequested as stop:
                session.batch = False  # what came of it is published at once, and what others published is looked at
                load.again(session, protocol)
                if record.is_cancelled(session.git, protocol, session.git.ref(session.project.branch(protocol))):
                    raise _cancelled(session.project, protocol, record_paid(session, protocol)) from stop
                signals.begin_work()  # it was meant for another protocol, and came too late
                continue
            except RefusedError:
                if record.is_cancelled(session.git, protocol, session.git.ref(session.project.branch(protocol))):
                    record_paid(session, protocol)
                raise
            if done is not None:
                return done
            load.again(session, protocol)
    raise load.moves(session.project, protocol)


def _cancelled(project: Project, protocol: str, paid: str) -> RefusedError:
    short = lookup.typed(project, protocol)
    return RefusedError(
        f"{protocol} was cancelled, and its work was stopped{f'; the {paid} that it had cost is recorded' if paid else ''}",
        paths.folder(protocol),
        f"`runner undo {short}` reverts it; then `runner run {short}` resumes",
    )


def record_paid(session: Session, protocol: str) -> str:
    """Record the unrecorded cost of a cancelled protocol; return it as people read it, empty for none.

    The caller holds the protocol's lock.

    Raises:
        IntegrityError: a journal or the record is damaged. UnreachableError: it is to be published, and the remote does not answer.
    """
    total, files = spending.to_record(session.project, protocol)
    if not files:
        return ""
    session.batch = False  # nothing follows that it could be published with
    for seen in load.snapshots(session, protocol):
        paid = ev.Cancelled(subject=protocol, spent=spending.as_event(total))
        outcome = Outcome(kind=OutcomeKind.RECORDED, events=(paid,), files=files)
        made = transition.prepare(session, seen, outcome.events)
        with contextlib.suppress(ConflictError):
            transition.publish(session, seen, made, outcome=outcome)
            break
    return f"${total.usd:f}"


def _is_pure(project: Project, considered: Considered) -> bool:
    """Return whether the next action can be in a batch: a pure step that is not the last one. A project's own tools would be started
    beside it."""
    plan, edit, state, action = considered
    if plan is None or edit is not None or state.waiting or not isinstance(action, RunStep):
        return False
    step = plan.step(action.slug)
    if step is None or step.header.agent or project.config.tools:
        return False
    return any(slug != step.slug for slug, _ in state.steps.left()) and steps.is_pure(step)


def _batch(
    session: Session, seen: Snapshot, considered: Considered, forge: Forge | None, more: More
) -> Advanced | None:
    """Carry out pure steps and publish their transitions together (ADR 0019). None: as for `_step`, and nothing was published."""
    protocol, env, branch = seen.protocol, session.env, session.project.branch(seen.protocol)
    done: list[Advanced] = []
    batch = session.pending = batches.Batch.begin(session.project, branch, protocol, seen.tip)
    try:
        while _is_pure(session.project, considered):
            batch.note()
            one = _step(session, seen, considered, None, forge)
            if one is not None:
                done.append(one)
            if one is None or one.commit != batch.tip:
                break
            if len(done) == batches.MOST or env.monotonic() >= batch.until or not more(done):
                break
            assert session.snapshot is not None
            seen = session.snapshot
            considered = consider(session, seen)
    except GitError:
        batch.close()
        raise
    except (RunnerError, batches.UnfitError):
        if not done:
            batch.close()
            raise  # else it comes up again, once the others are published
    except BaseException:  # Ctrl-C, or a cancel, which has moved the branch
        with contextlib.suppress(RunnerError):
            batch.end()
        raise
    finally:
        session.pending = None
    try:
        batch.end()
    except ConflictError:
        return None
    if not done:
        return None
    if batch.tips:
        write_checkpoint(session.dirs, protocol, batch.tip, done[-1].state.genesis)
    return done[-1]._replace(before=tuple(done[:-1]))


def _step(
    session: Session, seen: Snapshot, considered: Considered, only: str | None, forge: Forge | None
) -> Advanced | None:
    """Carry out the next action; None where the branch or the trusted one moved meanwhile, and it has to be decided again."""
    trusted = session.project.trusted.commit
    plan, edit, state, action = considered
    if not load.is_quiet(session, plan, action):
        return None
    if isinstance(edit, ev.Planned):
        outcome = recording("the plan that people wrote is recorded")
        return at_once(Start(session, seen, [edit], state), WritePlan(), outcome)
    first: list[Event] = [edit] if edit else []
    time = session.env.timestamp()
    approvals = permissions.count_approvals(session, seen, plan, state, time, forge) if plan else []
    if session.project.trusted.commit != trusted:  # whose default checks the plan was read with
        return None
    evaluated = EvaluatedAt(time, trusted) if approvals else None
    if approvals:
        first += approvals
        state = load.applied(session.project, state, approvals)
        action = _decide(state, only)
    start = Start(session, seen, first, state, evaluated)
    if isinstance(action, Halt):
        if not first:
            return Advanced(state, action, (), seen.tip, action.reason)
        said = "the plan's edit is recorded" if edit else "it is recorded who said what"
        return at_once(start, action, recording(said))
    if isinstance(action, WritePlan):
        if not _lease(session, seen, forge):
            return None
        return at_once(start, action, planning.write_plan(session, seen))
    assert plan is not None
    run = None
    if not isinstance(action, Complete):
        run = attempt(start, plan, action, approvals)
        held = permissions.hold(run, action)
        if session.project.trusted.commit != trusted:
            return None
        if held is not None:
            return at_once(start, action, recording(f"waits: {held.text}", [held]))
    transition.signer(session.project)  # before anything is done that nobody could sign
    if isinstance(action, RunStep | CheckStep) and not _lease(session, seen, forge):
        return None
    # What is done is done by the policy of now, whatever the trusted branch says when it is recorded.
    start = start._replace(evaluated=evaluated or EvaluatedAt(time, session.project.trusted.commit))
    if run is None:
        return at_once(start, action, recording("all done", [ev.Completed(subject=seen.protocol)]))
    if isinstance(action, RunStep | CheckStep):
        session.env.hear_output(run.label, b"")
    return publish_outcome(start, action, steps.perform(action, run))


def attempt(start: Start, plan: Plan, action: StepAction, approvals: Sequence[Event]) -> StepRun:
    """Return the attempt that an action on a step is about. `approvals`: the events of `start` that approvals made.

    Raises:
        WaitingError: the step is to be split first. Nothing is paid, or asked of people, for the whole of it, unless an attempt was
            made before `decompose` was written.
    """
    step = plan.step(action.slug)
    assert step is not None, action.slug
    run = StepRun(start.session, start.snapshot, plan, step, start.state, approvals)
    starts = isinstance(action, RunStep) and start.state.steps[step.slug].status is StepStatus.PENDING
    if step.header.decompose and starts and run.attempt == 1:
        raise WaitingError(
            f"{run.slug} has to be split before it starts: its file says `decompose: true`",
            f"{paths.folder(run.snapshot.protocol)}/{step.file}:{step.lines.get('decompose', 1)}",
            f"`runner plan {lookup.typed(run.project, run.snapshot.protocol)} --split {run.slug}`, or remove the key",
        )
    return run


def _lease(session: Session, seen: Snapshot, forge: Forge | None) -> bool:
    """Take the lease before something acts; False where others published meanwhile: their commits are here now."""
    if session.mirror is None:
        return True

    def is_over(job: str) -> bool:
        try:
            return forge is not None and forge.is_over(job)
        except forges.ForgeError:  # then it is waited for, as where there is none
            return False

    if not lease.take(session, seen.protocol, is_over, decided=seen.tip):
        publishing.settle(session, seen.protocol, session.mirror, load.Checker(session, seen.protocol))
        return False
    return True


class PersonCommit(NamedTuple):
    """A person's commit. `filed`: the history's commit that keeps its transcript, and the one before."""

    oid: str
    filed: tuple[str, str | None] | None = None


def publish_commit(session: Session, protocol: str, reason: str, make: Callable[[Snapshot], PersonCommit]) -> str:
    """Publish a commit of a person's, made anew by `make(snapshot)` wherever the branch has moved; return its id.

    One that is the tip itself says that there is nothing to publish.
    """
    for seen in load.snapshots(session, protocol):
        made = make(seen)
        if made.oid == seen.tip:
            return made.oid
        try:
            also = {history.ref_of(protocol): made.filed} if made.filed else {}
            update = transaction.RefUpdate(session.project.branch(protocol), seen.tip, made.oid, reason, also)
            push = publishing.pusher(session, protocol, made.oid, filed=made.filed[0] if made.filed else None)
            transaction.move_refs(session.project, update, push)
        except ConflictError:
            continue
        # An approval, a rejection or an edit is no transition: rolled back to before it, the branch would look as it was.
        write_checkpoint(session.dirs, protocol, made.oid, seen.state.genesis)
        return made.oid
    raise AssertionError("unreachable: `snapshots` ends with an error")


def record_events(
    session: Session,
    protocol: str,
    build: Callable[[Snapshot], Sequence[Event]],
    *,
    as_person: bool = False,
    tree: Callable[[Snapshot], str | None] = lambda seen: None,
) -> Advanced:
    """Record a person's event (pause, answer, retry …), by compare-and-swap, beside a runner that may be at work.

    `build(snapshot)` returns the events, none if they are recorded already, or raises the error for the person; `tree(snapshot)`
    returns the tree of their commit.
    """
    session.project.refuse_unsupported()
    for seen in load.snapshots(session, protocol):
        events = build(seen)
        if not events:
            return Advanced(seen.state, machine.decide(seen.state), (), seen.tip)
        made = transition.prepare(session, seen, events, tree(seen), as_person=as_person)
        with contextlib.suppress(ConflictError):
            transition.publish(session, seen, made)
            return Advanced(made.state, machine.decide(made.state), made.entries, made.commit)
    raise AssertionError("unreachable: `snapshots` ends with an error")


# --- from an outcome to a transition -----------------------------------------------------------------------------------


def publish_outcome(start: Start, action: Action, outcome: Outcome) -> Advanced | None:
    """Publish an outcome. A step's work is merged onto commits that people made meanwhile; it is not done again.

    None: the branch moved, and any other action has to be decided again. A verdict, for example, is about the tree that it saw.

    Raises:
        InTheWayError: a person's uncommitted files are in the way; the result is kept.
        HeldError: the lease was lost to another runner; the result is kept.
        RefusedError: the protocol was cancelled meanwhile, or is otherwise no longer where the work belongs; it is kept.
    """
    if not isinstance(action, RunStep):
        return at_once(start, action, outcome)
    session, seen, work = start.session, start.snapshot, _Work(start, action.slug, outcome)
    for _ in range(load.RACES):
        merged = work.merged(seen)
        is_theirs = seen is not start.snapshot and _is_done_elsewhere(
            session.project, start.snapshot, seen, action.slug
        )
        try:
            made = work.prepared(seen, merged, is_theirs)
        except (IllegalEventError, MalformedFileError, UnsupportedError) as error:
            if work.is_done(seen, is_theirs):
                session.env.say(f"{action.slug} was done elsewhere meanwhile{work.kept('; its work here')}")
                return None
            raise work.refused(seen) from error
        try:
            transition.publish(session, seen, made, merged.also, outcome)
        except ConflictError:
            seen = work.newer()
        except InTheWayError as error:
            session.git.update_refs({work.aside: (made.commit, session.git.ref(work.aside))}, "runner: kept")
            raise InTheWayError(error.what, error.where, f"{error.hint}; the result is kept at {work.aside}") from error
        except HeldError as error:
            raise HeldError(error.what, error.where, f"{error.hint}{work.kept('; its work')}") from error
        else:
            said, failed = merged.conflict or outcome.summary, outcome.failed or bool(merged.conflict)
            return Advanced(made.state, action, made.entries, made.commit, said, failed)
    work.kept()
    raise load.moves(session.project, start.snapshot.protocol)


def at_once(start: Start, action: Action, outcome: Outcome) -> Advanced | None:
    """Publish an outcome; None where the branch moved since, and the action has to be decided again."""
    session, seen, evaluated = start.session, start.snapshot, start.evaluated
    events = [*start.first, *outcome_events(outcome, start.state)]
    made = transition.prepare(session, seen, events, outcome.tree, outcome=outcome, evaluated=evaluated)
    try:
        transition.publish(session, seen, made, outcome=outcome)
    except ConflictError:
        return None
    return Advanced(made.state, action, made.entries, made.commit, outcome.summary, outcome.failed)


class _Merged(NamedTuple):
    """A step's work on a commit. `conflict`: why there is no `tree`; `also`: the refs that keep work beside the branch."""

    tree: str | None
    conflict: str
    also: dict[str, tuple[str | None, str | None]]


class _Work(NamedTuple):
    """The work of one attempt of a step: recorded where it started, or merged onto the commits that came between."""

    start: Start
    slug: str
    outcome: Outcome

    @property
    def aside(self) -> str:
        """The ref that keeps the work beside the branch."""
        return attempt_ref(self.start.snapshot.protocol, self.slug, self.start.state.steps[self.slug].attempt)

    def merged(self, seen: Snapshot) -> _Merged:
        """Return the work on the commit of a snapshot."""
        project, began, outcome = self.start.session.project, self.start.snapshot, self.outcome
        tree, conflict = outcome.tree, ""
        also: dict[str, tuple[str | None, str | None]] = {}
        if outcome.tree is not None and seen.tip != began.tip:
            work = _work_commit(project, began, outcome.tree)
            tree, conflicts = transaction.merge_work(project.git, began.protocol, work, seen.tip, project.runner())
            if tree is None:
                conflict = f"its work conflicts with commits that came between: {', '.join(conflicts[:3])}"
                also[self.aside] = (work, project.git.ref(self.aside))
        if outcome.kept is not None:
            also[self.aside] = (_work_commit(project, began, outcome.kept), project.git.ref(self.aside))
        return _Merged(tree, conflict, also)

    def prepared(self, seen: Snapshot, merged: _Merged, is_theirs: bool) -> transaction.Transition:
        """Write the transition on a snapshot. `is_theirs`: the record has other work at the step since.

        Raises:
            IllegalEventError, MalformedFileError, UnsupportedError: the work does not belong there any more.
        """
        session, began, first, slug = self.start.session, self.start.snapshot, self.start.first, self.slug
        if is_theirs:
            raise IllegalEventError(f"{slug} ran elsewhere too", seen.where, "run `runner status`")
        base, edits, state = began.tip, first, self.start.state
        if seen is not began:
            base = publishing.shared(session.git, seen.tip, began.tip)
            edits = _edits_again(session, first, seen, base)
            state = load.applied(session.project, seen.state, edits)
        if slug not in state.steps:
            raise IllegalEventError(f"{slug} is gone", seen.where, "run `runner status`")
        if edits is not first and _is_edited(state, self.start.state, edits, slug):
            raise IllegalEventError(f"{slug} was edited again", seen.where, "run `runner status`")
        outcome = None if merged.conflict else self.outcome
        if outcome is None:
            number, reason = self.start.state.steps[slug].attempt, log.cut(merged.conflict)
            clash = ev.StepFailed(subject=slug, attempt=number, reason=reason, kept=self.aside)
            events = blocked_events(began.protocol, clash)
        else:
            events = outcome_events(outcome, state)
            if base != began.tip:
                events = [_started_at(event, began.tip, base) for event in events]
        made = transition.prepare(
            session, seen, [*edits, *events], merged.tree, outcome=outcome, evaluated=self.start.evaluated
        )
        if base != began.tip:
            _verify_again(session, made.commit, seen)
        return made

    def is_done(self, seen: Snapshot, is_theirs: bool) -> bool:
        """Return whether the step was done elsewhere, and the protocol continues."""
        is_over = self.slug in seen.state.steps and seen.state.steps[self.slug].status not in _AT_WORK
        return seen is not self.start.snapshot and seen.state.status is not Status.CANCELLED and (is_theirs or is_over)

    def refused(self, seen: Snapshot) -> RefusedError:
        """Return the error for work that does not belong on the branch any more. The work is kept."""
        protocol, where = self.start.snapshot.protocol, self.kept("its work") or "it left no work"
        if seen.state.status is Status.CANCELLED:
            what = f"{protocol} was {seen.state.status} while {self.slug} was at work: it is not recorded"
            return RefusedError(what, where, f"`runner undo {protocol}` reverts it")
        what = f"{protocol} changed while {self.slug} was at work, and its result no longer belongs there"
        return RefusedError(what, where, f"run `runner status {protocol}`; `runner step` resumes")

    def newer(self) -> Snapshot:
        """Return the protocol after a lost race.

        Raises:
            IntegrityError, RefusedError: a person has to repair the commits that were published first; the work is kept.
        """
        session, protocol = self.start.session, self.start.snapshot.protocol
        try:
            load.again(session, protocol)
        except (IntegrityError, RefusedError) as error:
            raise type(error)(error.what, error.where, f"{error.hint}{self.kept('; its work')}") from error
        return load.read(session, protocol)

    def kept(self, what: str = "") -> str:
        """Keep the work beside the branch, and return where for people, after `what`; empty where there is none."""
        git, tree, aside = self.start.session.git, self.outcome.tree or self.outcome.kept, self.aside
        if tree is None:
            return ""
        work = _work_commit(self.start.session.project, self.start.snapshot, tree)
        git.update_refs({aside: (work, git.ref(aside))}, "runner: kept")
        return f"{what} is kept at {aside}"


def _started_at(event: Event, old: str, new: str) -> Event:
    """Return an event of work that started at the commit `old` as one of work that started at `new`."""
    if isinstance(event, ev.StepFinished) and event.start == old:
        return event.model_copy(update={"start": new})
    return event


def _verify_again(session: Session, made: str, seen: Snapshot) -> None:
    """Re-verify a transition whose work started at another commit: the plan or the approvals may differ at the new base."""
    try:
        load.Checker(session, seen.protocol)(made, seen.tip)
    except IntegrityError as error:
        raise IllegalEventError(error.what, error.where, error.hint) from error


def _edits_again(session: Session, first: list[Event], seen: Snapshot, start: str) -> list[Event]:
    """Return the events before the work as they are recorded at `seen`: the plan's edit that the work is based on (the next
    transition records later ones), and the counted approvals, with the commit at which they were judged."""
    if not first:
        return first
    words = [
        event.model_copy(update={"at": start}) if isinstance(event, ev.ApprovalCounted | ev.CallDecided) else event
        for event in first
        if not isinstance(event, ev.PlanEdited)
    ]
    if len(words) == len(first):
        return words
    edit = load.edit_of(session, seen, load.read_plan(session, seen))
    return [edit, *words] if edit else words


def _is_done_elsewhere(project: Project, began: Snapshot, seen: Snapshot, slug: str) -> bool:
    """Return whether the record has other work at the step since. The step's status does not always show it: an answered question of
    that work lets the step resume from that transcript, which ours would replace."""

    def work(tip: str) -> list[log.RawEntry]:
        entries = record.events(project.git, seen.protocol, tip)
        return [one for one in entries if one.subject == slug and event_type(one.event).role == "work"]

    known = work(began.tip)
    return any(one not in known for one in work(seen.tip))


def _is_edited(state: State, then: State, edits: Sequence[Event], slug: str) -> bool:
    """Return whether an edit that is recorded with the work has another version of the step than the one that ran."""
    told = any(isinstance(event, ev.PlanEdited) for event in edits)
    return told and state.steps[slug].digest != then.steps[slug].digest


def _work_commit(project: Project, began: Snapshot, tree: str) -> str:
    who = project.runner()
    return project.git.write_commit(tree, (began.tip,), who, who, f"{began.protocol}: work\n".encode())
