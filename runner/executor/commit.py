"""Turn an outcome into a transition: on the commit that it started at, or merged onto what people committed meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from runner.errors import (
    ConflictError,
    HeldError,
    IllegalEventError,
    IntegrityError,
    InTheWayError,
    MalformedFileError,
    RefusedError,
    UnsupportedError,
)
from runner.executor import load, transition
from runner.executor.transition import EvaluatedAt, Outcome, attempt_ref, blocked
from runner.executor.transition import record as outcome_events
from runner.protocol import decision, log
from runner.protocol import events as ev
from runner.protocol.decision import Action, RunStep
from runner.protocol.events import Entry, Event, event_type
from runner.protocol.state import State, Status, StepStatus
from runner.store import publishing, record, transaction
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.values import dataclass

_AT_WORK = (StepStatus.PENDING, StepStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Advanced:
    """The result of one call. `entries`: empty where nothing was recorded; `action`: the decision."""

    state: State
    action: Action
    entries: tuple[Entry, ...]
    commit: str
    said: str = ""
    failed: bool = False

    @property
    def events(self) -> list[Event]:
        """The events of the commit."""
        return [entry.event for entry in self.entries]


def commit(
    project: Project,
    began: Snapshot,
    first: list[Event],
    action: Action,
    outcome: Outcome,
    evaluated: EvaluatedAt | None = None,
) -> Advanced | None:
    """Publish an outcome. A step's work is merged onto commits that people made meanwhile; it is not done again.

    None: the branch moved, and any other action has to be decided again. A verdict, for example, is about the tree that it saw.

    Raises:
        InTheWayError: a person's uncommitted files are in the way; the result is kept.
        HeldError: the lease was lost to another runner; the result is kept.
        RefusedError: the protocol was cancelled meanwhile, or is otherwise no longer where the work belongs; it is kept.
    """
    git, protocol = project.git, began.protocol
    if not isinstance(action, RunStep):
        return at_once(project, began, first, action, outcome, evaluated)
    slug, seen = action.slug, began
    before = load.applied(project, began.state, first)
    number = before.steps[slug].attempt
    aside = attempt_ref(protocol, slug, number)
    for _ in range(load.RACES):
        tree, conflict = outcome.tree, ""
        also: dict[str, tuple[str | None, str | None]] = {}
        if outcome.tree is not None and seen.tip != began.tip:
            work = _work_commit(project, began, outcome.tree)
            tree, conflicts = transaction.merge_work(git, protocol, work, seen.tip, project.runner())
            if tree is None:
                conflict = f"its work conflicts with commits that came between: {', '.join(conflicts[:3])}"
                also[aside] = (work, git.ref(aside))
        if outcome.kept is not None:
            also[aside] = (_work_commit(project, began, outcome.kept), git.ref(aside))
        is_theirs = seen is not began and _is_done_elsewhere(project, began, seen, slug)
        try:
            if is_theirs:
                raise IllegalEventError(f"{slug} was at work elsewhere too", seen.where, "run `runner status`")
            start = began.tip if seen is began else publishing.shared(git, seen.tip, began.tip)
            edits = _edits_again(project, first, seen, start) if seen is not began else first
            state = load.applied(project, seen.state, edits)
            if slug not in state.steps:
                raise IllegalEventError(f"{slug} is gone", seen.where, "run `runner status`")
            if edits is not first and _is_edited(state, before, edits, slug):
                raise IllegalEventError(f"{slug} was edited once more", seen.where, "run `runner status`")
            clash = ev.StepFailed(subject=slug, attempt=number, reason=log.cut(conflict), kept=aside)
            events = blocked(protocol, clash) if conflict else outcome_events(outcome, state)
            events = [
                dataclasses.replace(event, start=start)
                if isinstance(event, ev.StepFinished) and event.start == began.tip
                else event
                for event in events
            ]
            own = None if conflict else outcome
            made = transition.prepare(project, seen, [*edits, *events], tree, outcome=own, evaluated=evaluated)
            if start != began.tip:
                _verify_again(project, made.commit, seen)
        except (IllegalEventError, MalformedFileError, UnsupportedError) as error:
            kept = _keep(project, began, aside, outcome)
            ended = seen.state.status not in (*decision.OPEN, Status.COMPLETED)
            is_over = slug in seen.state.steps and seen.state.steps[slug].status not in _AT_WORK
            if seen is not began and not ended and (is_theirs or is_over):
                project.env.say(
                    f"{slug} was done elsewhere meanwhile{f'; its work here is kept at {kept}' if kept else ''}"
                )
                return None
            raise RefusedError(
                f"{protocol} was {seen.state.status} while {slug} was at work: it is not recorded"
                if ended
                else f"{protocol} changed while {slug} was at work, and its result no longer belongs there",
                f"its work is kept at {kept}" if kept else "it left no work",
                f"`runner undo {protocol}` reverts it"
                if ended
                else f"run `runner status {protocol}`; `runner step` resumes",
            ) from error
        try:
            transition.publish(project, seen, made, also, outcome)
        except ConflictError:
            try:
                load.again(project, protocol)
            except (IntegrityError, RefusedError) as error:  # what was pushed meanwhile is for a person to put right
                kept = _keep(project, began, aside, outcome)
                hint = f"{error.hint}{f'; its work is kept at {kept}' if kept else ''}"
                raise type(error)(error.what, error.where, hint) from error
            seen = load.view(project, protocol)
            continue
        except InTheWayError as error:
            git.update_refs({aside: (made.commit, git.ref(aside))}, "runner: kept")
            raise InTheWayError(error.what, error.where, f"{error.hint}; the result is kept at {aside}") from error
        except HeldError as error:
            kept = _keep(project, began, aside, outcome)
            raise HeldError(
                error.what, error.where, f"{error.hint}{f'; its work is kept at {kept}' if kept else ''}"
            ) from error
        return Advanced(
            made.state, action, made.entries, made.commit, conflict or outcome.summary, outcome.failed or bool(conflict)
        )
    _keep(project, began, aside, outcome)
    raise load.moves(project, protocol)


def at_once(
    project: Project,
    began: Snapshot,
    first: list[Event],
    action: Action,
    outcome: Outcome,
    evaluated: EvaluatedAt | None = None,
) -> Advanced | None:
    """Publish an outcome; None where the branch moved since, and the action has to be decided again."""
    events = [*first, *outcome_events(outcome, load.applied(project, began.state, first))]
    made = transition.prepare(project, began, events, outcome.tree, outcome=outcome, evaluated=evaluated)
    try:
        transition.publish(project, began, made, outcome=outcome)
    except ConflictError:
        return None
    return Advanced(made.state, action, made.entries, made.commit, outcome.summary, outcome.failed)


def _verify_again(project: Project, made: str, seen: Snapshot) -> None:
    """Re-verify a transition whose work started at another commit: the plan or the approvals may differ at the new base."""
    try:
        load.checker(project, seen.protocol)(made, seen.tip)
    except IntegrityError as error:
        raise IllegalEventError(error.what, error.where, error.hint) from error


def _edits_again(project: Project, first: list[Event], seen: Snapshot, start: str) -> list[Event]:
    """Return the events before the work as they are recorded at `seen`: the plan's edit that the work is based on (the next
    transition records later ones), and the counted approvals, with the commit at which they were judged."""
    if not first:
        return first
    words = [
        dataclasses.replace(event, at=start) if isinstance(event, ev.ApprovalCounted | ev.CallDecided) else event
        for event in first
        if not isinstance(event, ev.PlanEdited)
    ]
    if len(words) == len(first):
        return words
    edit = load.edit_of(project, seen, load.read_plan(project, seen))
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


def _keep(project: Project, began: Snapshot, aside: str, outcome: Outcome) -> str | None:
    tree = outcome.tree or outcome.kept
    if tree is None:
        return None
    project.git.update_refs({aside: (_work_commit(project, began, tree), project.git.ref(aside))}, "runner: kept")
    return aside
