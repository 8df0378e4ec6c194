"""`runner step`: lock, look, decide, act, and make one commit of it; a lost race starts again from what it finds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from runner.errors import (
    ConflictError,
    HeldError,
    IllegalEventError,
    IntegrityError,
    InTheWayError,
    MalformedFileError,
    RefusedError,
    UnsupportedError,
    UsageError,
)
from runner.executor import consent, perform, signed
from runner.executor.attempt import Attempt, attempt_ref
from runner.forge.base import Forge, ForgeError
from runner.git import Ident, TreeEntry
from runner.protocol import events as ev
from runner.protocol import ids, log, machine, paths
from runner.protocol import plan as plan_
from runner.protocol.events import Entry, Event
from runner.protocol.machine import Action, CheckStep, Halt, RunStep, WritePlan
from runner.protocol.plan import Plan
from runner.protocol.state import State, Status, StepStatus
from runner.store import creating, history, locks, marks, publishing, snapshot, transaction, worktree
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import verify
from runner.values import dataclass

RACES = 20  # how often a lost race is started again before it is told
_AT_WORK = (StepStatus.PENDING, StepStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Advanced:
    """What one call brought about. `entries` is empty where nothing was recorded; `action` is what was decided."""

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


@dataclass(frozen=True, slots=True)
class Court:
    """When words were judged, and the trusted branch's commit whose policy said so: work takes long, and both go on."""

    time: str
    trusted: str


@contextlib.contextmanager
def at_work(project: Project, protocol: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the protocol while it is worked on.

    Raises:
        HeldError: another runner has it, still after `wait` seconds.
    """
    branch = project.branch(protocol)
    with locks.hold(project.places.lock(protocol), project.who, what=protocol, wait=wait) as was_cut:
        if was_cut:
            from runner.executor import site

            site.end_left(project, protocol)
        # Whoever records a person's word does so beside us: a lock or a note of theirs is neither dead nor cut off.
        with locks.hold(project.places.publish_lock(branch), project.who, what=branch, wait=transaction.PUBLISH_WAIT):
            for name in (branch, "packed-refs", history.ref_of(protocol), _tracking(project, branch)):
                locks.remove_dead(project.git.common_dir / f"{name}.lock", project.who)
            creating.finish_worktree(project.git, project.places, project.who, branch, protocol)
            worktree.settle_all(project.git, project.places, branch, project.who)
        try:
            yield
        finally:
            if not project.batch:
                publishing.drop_lease(project)


def _tracking(project: Project, branch: str) -> str:
    """Return the ref by which the person's own git sees the branch on the remote."""
    return f"refs/remotes/{project.trusted.remote}/{branch.removeprefix('refs/heads/')}"


def look(project: Project, protocol: str) -> Snapshot:
    """Return the protocol as its branch has it, checked as far as it is new here.

    Raises:
        IntegrityError: the record is not what the history says.
    """
    git = project.git
    tip = git.ref(project.branch(protocol))
    if tip is None:
        raise RefusedError(
            f"{protocol} has no branch here",
            project.branch(protocol),
            f"`runner show {protocol}` says how it stands; `runner sync {protocol}` brings a branch that the remote has",
        )
    known = marks.read(project.places, protocol)
    if known == tip:
        return _read(project, tip, protocol)
    since = None
    if known is not None:
        if git.commit(known) is None:
            raise verify.went_back(protocol, known, tip)
        since = (known, snapshot.read(git, known, protocol).state)
    state = verify.advance(git, protocol, tip, since, project.trusted)
    marks.write(project.places, protocol, tip, state.genesis)
    return _read(project, tip, protocol)


def _read(project: Project, tip: str, protocol: str) -> Snapshot:
    """Return the protocol at a commit that holds: what was read, or made, in this process is not read again."""
    if project.seen is None or (project.seen.tip, project.seen.protocol) != (tip, protocol):
        project.seen = snapshot.read(project.git, tip, protocol)
    return project.seen


def checker(project: Project, protocol: str) -> Callable[[str, str | None], None]:
    """Return what verifies a tip that came from elsewhere, before it is taken up."""

    def check(tip: str, since: str | None) -> None:
        git = project.git
        known = (
            snapshot.read(git, since, protocol).state if since and snapshot.folder_files(git, since, protocol) else None
        )
        verify.advance(git, protocol, tip, (since, known) if since and known else None, project.trusted)

    return check


def read_plan(project: Project, seen: Snapshot) -> Plan:
    """Return the plan as it stands in the snapshot's commit.

    Raises:
        RefusedError: nobody has written one yet.
        MalformedFileError: a file of people's is not valid; UnsupportedError: it asks for what this version does not do.
    """
    where = paths.folder(seen.protocol)
    if seen.state.plan is None and not _is_written(seen):
        raise RefusedError(
            f"{seen.protocol} has no plan yet: it is {seen.state.status}",
            where,
            f"`runner status {seen.protocol}` says what it waits for",
        )
    files = (where, seen.files.words)
    if project.plan is None or project.plan[0] != files:
        plan = plan_.parse(snapshot.words(project.git, seen), where)
        plan_.refuse_unsupported(plan, where)
        project.plan = files, plan
    return project.plan[1]


def _is_written(seen: Snapshot) -> bool:
    """Return whether somebody wrote a plan, or began to; notes alone are none."""
    return any(paths.is_words(name) and name != paths.CONTEXT for name in seen.files)


def take_up_edits(project: Project, protocol: str, *, adopt: bool) -> bool:
    """Commit, as the person, what they changed in the protocol's words in a worktree and did not commit; return whether there was any.

    Raises:
        InTheWayError: `adopt` is not wanted and there are such changes.
    """
    git, branch = project.git, project.branch(protocol)
    prefix = f"{paths.folder(protocol)}/"
    taken = False
    for tree in worktree.on_branch(git, branch):
        changed = worktree.uncommitted(git, tree, prefix.rstrip("/"))
        names = {path.removeprefix(prefix): entry for path, entry in changed.items()}
        record = sorted(prefix + name for name in names if paths.is_record(name))
        if record:
            raise InTheWayError(
                f"a change of the runner's own record that is not committed: {', '.join(record)}",
                str(tree.path),
                f"run `git -C {tree.path} restore --staged --worktree -- {record[0]}`; people steer by plan and steps",
            )
        stray = [
            name
            for name in names
            if name.endswith(".md") and "/" not in name and not name.startswith(".") and not paths.is_words(name)
        ]
        plan_.names(dict.fromkeys(stray), str(tree.path / prefix.rstrip("/")))
        words: dict[str, TreeEntry | None] = {
            prefix + name: entry for name, entry in names.items() if paths.is_words(name)
        }
        if not words:
            continue
        if not adopt:
            raise InTheWayError(
                f"changes that are not committed: {', '.join(sorted(words))}",
                str(tree.path),
                f"commit or undo them; `runner run {protocol}` without --no-adopt commits them as yours",
            )
        old = git.ref(branch)
        assert old is not None
        _refuse_malformed(project, protocol, old, words)
        shown = ", ".join(sorted(path.removeprefix(prefix) for path in words))
        transaction.adopt(
            git,
            project.places,
            project.who,
            branch=branch,
            old=old,
            files=words,
            author=project.person(),
            subject=log.cut(f"{protocol}: edit {shown}"),
        )
        project.who.say(f"took up your changes of {shown}")
        taken = True
    return taken


def _refuse_malformed(project: Project, protocol: str, tip: str, words: dict[str, TreeEntry | None]) -> None:
    """Refuse an edit that could not be read, before it becomes a commit."""
    git, folder = project.git, paths.folder(protocol)
    files = snapshot.folder_files(git, tip, protocol) or {}
    began = paths.PLAN in files
    for path, entry in words.items():
        if entry is None:
            files.pop(path.removeprefix(f"{folder}/"), None)
        else:
            files[path.removeprefix(f"{folder}/")] = entry
    snapshot.refuse_odd_names(files, folder)
    told = {
        name: git.blob(entry.oid) or b""
        for name, entry in files.items()
        if "/" not in name and name.endswith(".md") and name != paths.LOG
    }
    if not began and told.keys() <= {paths.CONTEXT}:
        return  # notes, while the plan is still asked about
    plan_.refuse_unsupported(plan_.parse(told, folder), folder)


def consider(
    project: Project, seen: Snapshot, only: str | None = None
) -> tuple[Plan | None, ev.PlanEdited | ev.Planned | None, State, Action]:
    """Return the plan, the edit that the next transition takes up, the state after it, and what may happen then.

    There is no plan while a planner's questions are open; one that people write then is the edit (`planned`).
    """
    state = seen.state
    if state.plan is None:
        if state.status is not Status.PLANNING or not _is_written(seen):
            return None, None, state, machine.decide(state, find_step(state, only) if only is not None else None)
        plan = read_plan(project, seen)
        planned = ev.Planned(subject="plan", plan=plan.digest, steps=machine.planned_steps(plan))
        state = _edited(project, state, [planned])
        return plan, planned, state, machine.decide(state)
    plan = read_plan(project, seen)
    edit = None
    if state.status in machine.OPEN:
        edit = _edit(project, seen, plan)
        if edit is not None:
            state = _edited(project, state, [edit])
    return plan, edit, state, machine.decide(state, find_step(state, only) if only is not None else None)


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
    with at_work(project, protocol, wait=wait):
        publishing.bring(project, protocol, checker(project, protocol))
        for _ in range(RACES):
            try:
                seen = look(project, protocol)
                if seen.state.status in machine.OPEN and take_up_edits(project, protocol, adopt=adopt):
                    seen = look(project, protocol)
            except ConflictError:  # a person was faster
                continue
            done = _step(project, seen, only, forge)
            if done is not None:
                return done
            publishing.again(project, protocol, checker(project, protocol))
    raise moves(project, protocol)


def _step(project: Project, seen: Snapshot, only: str | None, forge: Forge | None) -> Advanced | None:
    """Do what may happen next; None where the branch moved under it and it has to be decided again."""
    plan, edit, state, action = consider(project, seen, only)
    if isinstance(edit, ev.Planned):
        told = Attempt(lambda now: [], said="the plan that people wrote stands")
        return _conclude_at_once(project, seen, [edit], WritePlan(), told)
    first: list[Event] = [edit] if edit else []
    time = project.who.timestamp()
    words = consent.settle(project, seen, plan, state, time, forge) if plan else []
    court = Court(time, project.trusted.commit) if words else None
    if words:
        first += words
        state = _edited(project, state, words)
        action = machine.decide(state, find_step(state, only) if only is not None else None)
    if isinstance(action, Halt):
        if not first:
            return Advanced(state, action, (), seen.tip, action.reason)
        said = "the plan's edit is recorded" if edit else "it is recorded who said what"
        return _conclude_at_once(project, seen, first, action, Attempt(lambda now: [], said=said), court)
    if isinstance(action, WritePlan):
        if not _lease(project, seen, forge):
            return None
        return _conclude_at_once(project, seen, first, action, perform.write_plan(project, seen), court)
    assert plan is not None
    held = consent.hold(project, seen, plan, state, action, words)
    if held is not None:
        asked = held.event
        return _conclude_at_once(
            project, seen, first, action, Attempt(lambda now: [asked], said=f"waits: {asked.text}"), court
        )
    signed.signer(project)  # before anything is done that nobody could sign
    if isinstance(action, RunStep | CheckStep) and not _lease(project, seen, forge):
        return None
    # What is done is done by the policy of now, whatever the trusted branch says when it is recorded.
    court = court or Court(time, project.trusted.commit)
    return conclude(project, seen, first, action, perform.perform(project, seen, plan, state, action, words), court)


def _lease(project: Project, seen: Snapshot, forge: Forge | None) -> bool:
    """Have the lease before something acts; False where others published since the remote was looked at, which is taken up."""
    if project.mirror is None:
        return True
    from runner.store import lease

    def is_over(job: str) -> bool:
        try:
            return forge is not None and forge.is_over(job)
        except ForgeError:  # then it is waited for, as where there is none
            return False

    if not lease.take(project, seen.protocol, is_over):
        publishing.settle(project, seen.protocol, project.mirror, checker(project, seen.protocol))
        return False
    return True


def find_step(state: State, name: str) -> str:
    """Return the slug of the step that a person means.

    Raises:
        UsageError: there is none; near ones are offered.
    """
    known = dict(state.open_steps())
    slug = ids.find_step(name.removesuffix(".md"), known)
    if slug is None:
        close = get_close_matches(ids.step_slug(name) or name, known, n=1, cutoff=0.4)
        hint = f"did you mean `{close[0]}`?" if close else f"`runner show {state.protocol}` names them"
        raise UsageError(f"there is no step `{name}`", paths.folder(state.protocol), hint)
    return slug


def moves(project: Project, protocol: str) -> ConflictError:
    """Return the error for a branch that moved under every try."""
    return ConflictError(
        f"the branch of {protocol} moves all the time", project.branch(protocol), "run the same command again"
    )


def _publish(
    project: Project,
    seen: Snapshot,
    made: transaction.Transition,
    also: dict[str, tuple[str | None, str | None]] | None = None,
    files: Mapping[str, bytes] | None = None,
    keeps: Sequence[str] = (),
) -> None:
    branch = project.branch(seen.protocol)
    filed = file(project, seen.protocol, made, files, keeps)
    transaction.publish(
        project.git,
        project.places,
        project.who,
        branch=branch,
        old=seen.tip,
        new=made.commit,
        reason="runner: transition",
        also={**(also or {}), **filed},
        push=publishing.pusher(
            project, seen.protocol, made.commit, filed=next((new for new, _ in filed.values()), None)
        ),
    )
    marks.write(project.places, seen.protocol, made.commit, made.state.genesis)
    project.seen = made.seen


def file(
    project: Project,
    protocol: str,
    made: transaction.Transition,
    files: Mapping[str, bytes] | None = None,
    keeps: Sequence[str] = (),
) -> dict[str, tuple[str, str | None]]:
    """Write the history commit that belongs to a transition; return how the history's ref has to move with the branch.

    There is one where files are to be filed, and beside every transition of a protocol that has ended, each of which may be the last.
    """
    ended = made.state.status in (Status.COMPLETED, Status.CANCELLED)
    if ended:
        files = {**(files or {}), **signed.seal(project, protocol, made.commit)}
    if not (files or ended):
        return {}
    return {
        history.ref_of(protocol): history.add(project.git, protocol, files or {}, made.commit, project.runner(), keeps)
    }


def conclude(
    project: Project,
    began: Snapshot,
    first: list[Event],
    action: Action,
    attempt: Attempt,
    court: Court | None = None,
) -> Advanced | None:
    """Publish what acting brought about. Where a person's commits came between, a step's work is merged onto them; it is
    not done again. Whatever else was decided is decided again (None): a verdict speaks of the tree that it saw.

    Raises:
        InTheWayError: a person's uncommitted files are in the way; the result is kept.
        HeldError: the lease was lost to another runner; the result is kept.
        RefusedError: the protocol was cancelled meanwhile, or is otherwise no longer where the work belongs; it is kept.
    """
    git, protocol = project.git, began.protocol
    if not isinstance(action, RunStep):
        return _conclude_at_once(project, began, first, action, attempt, court)
    slug, seen = action.slug, began
    number = began.state.steps[slug].attempt if slug in began.state.steps else 1
    aside = attempt_ref(protocol, slug, number)
    for _ in range(RACES):
        tree, conflict = attempt.tree, ""
        also: dict[str, tuple[str | None, str | None]] = {}
        if attempt.tree is not None and seen.tip != began.tip:
            work = _work_commit(project, began, attempt.tree)
            tree, conflicts = transaction.merge_work(git, protocol, work, seen.tip, project.runner())
            if tree is None:
                conflict = f"its work conflicts with commits that came between: {', '.join(conflicts[:3])}"
                also[aside] = (work, git.ref(aside))
        if attempt.kept is not None:
            also[aside] = (_work_commit(project, began, attempt.kept), git.ref(aside))
        try:
            start = began.tip if seen is began else publishing.shared(git, seen.tip, began.tip)
            edits = _edits_again(project, first, seen, start) if seen is not began else first
            state = _edited(project, seen.state, edits)
            if slug not in state.steps:
                raise IllegalEventError(f"{slug} is gone", seen.where, "run `runner status`")
            if edits is not first and _is_edited(state, _edited(project, began.state, first), edits, slug):
                raise IllegalEventError(f"{slug} was edited once more", seen.where, "run `runner status`")
            events = _blocked(state, slug, number, conflict, aside) if conflict else attempt.events(state)
            events = [
                dataclasses.replace(event, start=start)
                if isinstance(event, ev.StepFinished) and event.start == began.tip
                else event
                for event in events
            ]
            made = _prepare(
                project, seen, [*edits, *events], tree, more={} if conflict else attempt.record, court=court
            )
            if start != began.tip:
                _see_that_it_holds(project, made.commit, seen)
        except (IllegalEventError, MalformedFileError, UnsupportedError) as error:
            kept = _keep(project, began, aside, attempt)
            ended = seen.state.status not in (*machine.OPEN, Status.COMPLETED)
            if not ended and slug in seen.state.steps and seen.state.steps[slug].status not in _AT_WORK:
                project.who.say(
                    f"{slug} was done elsewhere meanwhile{f'; its work here is kept at {kept}' if kept else ''}"
                )
                return None
            raise RefusedError(
                f"{protocol} was {seen.state.status} while {slug} was at work: it is not recorded"
                if ended
                else f"{protocol} changed while {slug} was at work, and its result no longer belongs there",
                f"its work is kept at {kept}" if kept else "it left no work",
                f"`runner undo {protocol}` takes that back"
                if ended
                else f"run `runner status {protocol}`; `runner step` goes on from there",
            ) from error
        try:
            _publish(project, seen, made, also, attempt.files, attempt.keeps)
        except ConflictError:
            publishing.again(project, protocol, checker(project, protocol))
            seen = look(project, protocol)
            continue
        except InTheWayError as error:
            git.update_refs({aside: (made.commit, git.ref(aside))}, "runner: kept")
            raise InTheWayError(error.what, error.where, f"{error.hint}; the result is kept at {aside}") from error
        except HeldError as error:
            kept = _keep(project, began, aside, attempt)
            raise HeldError(
                error.what, error.where, f"{error.hint}{f'; its work is kept at {kept}' if kept else ''}"
            ) from error
        return Advanced(
            made.state, action, made.entries, made.commit, conflict or attempt.said, attempt.failed or bool(conflict)
        )
    _keep(project, began, aside, attempt)
    raise moves(project, protocol)


def _conclude_at_once(
    project: Project,
    began: Snapshot,
    first: list[Event],
    action: Action,
    attempt: Attempt,
    court: Court | None = None,
) -> Advanced | None:
    events = [*first, *attempt.events(_edited(project, began.state, first))]
    made = _prepare(project, began, events, attempt.tree, more=attempt.record, author=attempt.author, court=court)
    try:
        _publish(project, began, made, files=attempt.files, keeps=attempt.keeps)
    except ConflictError:
        return None
    return Advanced(made.state, action, made.entries, made.commit, attempt.said, attempt.failed)


def _see_that_it_holds(project: Project, made: str, seen: Snapshot) -> None:
    """Refuse a transition whose work began at a commit that is not on the chain (it was merged there otherwise), where what is told
    of the commit that both have is not so: its step had other words, or a word was not there yet."""
    try:
        checker(project, seen.protocol)(made, seen.tip)
    except IntegrityError as error:
        raise IllegalEventError(error.what, error.where, error.hint) from error


def _edits_again(project: Project, first: list[Event], seen: Snapshot, start: str) -> list[Event]:
    """Return what came before the work, as it has to be told at `seen`: the plan's edit that it stands on (later ones are the
    next transition's), and the words that were counted, with the commit that they were judged at."""
    if not first:
        return first
    words = [
        dataclasses.replace(event, at=start) if isinstance(event, ev.ApprovalCounted | ev.CallDecided) else event
        for event in first
        if not isinstance(event, ev.PlanEdited)
    ]
    if len(words) == len(first):
        return words
    edit = _edit(project, seen, read_plan(project, seen))
    return [edit, *words] if edit else words


def _is_edited(state: State, then: State, edits: Sequence[Event], slug: str) -> bool:
    """Return whether an edit that is told with the work has other words of the step than those that were carried out."""
    told = any(isinstance(event, ev.PlanEdited) for event in edits)
    return told and state.steps[slug].digest != then.steps[slug].digest


def _edit(project: Project, seen: Snapshot, plan: Plan) -> ev.PlanEdited | None:
    """Return the edit that the next transition takes up, with what a model was paid for it where one planned anew."""
    edit = machine.edit_of(seen.state, plan)
    if edit is None or next(history.transcripts(project.git, seen.protocol, "plan."), None) is None:
        return edit
    from runner.executor import spending

    return spending.planned_anew(project, seen, edit)


def _edited(project: Project, state: State, edits: Sequence[Event]) -> State:
    for edit in edits:
        state = machine.apply(state, Entry(state.revision + 1, project.who.timestamp(), "runner", edit))
    return state


def _prepare(
    project: Project,
    seen: Snapshot,
    events: Sequence[Event],
    tree: str | None,
    *,
    as_person: bool = False,
    author: Ident | None = None,
    more: Mapping[str, bytes] | None = None,
    court: Court | None = None,
) -> transaction.Transition:
    return transaction.prepare(
        project.git,
        seen,
        events,
        time=project.who.timestamp(),
        actor=project.actor(),
        trusted=court.trusted if court else project.trusted.commit,
        judged=court.time if court else None,
        author=project.person() if as_person else author or project.runner(),
        committer=project.runner() if author else None,
        tree=tree,
        more=more,
        sign=as_person and not project.speaker,
        sign_with=signed.signer(project, events),
    )


def _work_commit(project: Project, began: Snapshot, tree: str) -> str:
    who = project.runner()
    return project.git.write_commit(tree, (began.tip,), who, who, f"{began.protocol}: work\n".encode())


def _keep(project: Project, began: Snapshot, aside: str, attempt: Attempt) -> str | None:
    tree = attempt.tree or attempt.kept
    if tree is None:
        return None
    project.git.update_refs({aside: (_work_commit(project, began, tree), project.git.ref(aside))}, "runner: kept")
    return aside


def _blocked(state: State, slug: str, number: int, reason: str, kept: str) -> list[Event]:
    return [
        ev.StepBlocked(subject=slug, attempt=number, reason=log.cut(reason), kept=kept),
        ev.Blocked(subject=state.protocol, reason=log.cut(f"{slug}: {reason}")),
    ]


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a person's that carries words. `filed`: the history's commit that keeps what belongs to it, and the one before."""

    oid: str
    filed: tuple[str, str | None] | None = None


def put(project: Project, protocol: str, reason: str, make: Callable[[Snapshot], Commit]) -> str:
    """Publish a commit of a person's, made anew by `make(snapshot)` wherever the branch has moved; return its id.

    One that is the tip itself says that there is nothing to publish.
    """
    for _ in range(RACES):
        seen = look(project, protocol)
        made = make(seen)
        if made.oid == seen.tip:
            return made.oid
        try:
            transaction.publish(
                project.git,
                project.places,
                project.who,
                branch=project.branch(protocol),
                old=seen.tip,
                new=made.oid,
                reason=reason,
                also={history.ref_of(protocol): made.filed} if made.filed else None,
                push=publishing.pusher(project, protocol, made.oid, filed=made.filed[0] if made.filed else None),
            )
        except ConflictError:
            publishing.again(project, protocol, checker(project, protocol))
            continue
        return made.oid
    raise moves(project, protocol)


def tell(
    project: Project,
    protocol: str,
    build: Callable[[Snapshot], Sequence[Event]],
    *,
    as_person: bool = False,
    tree: Callable[[Snapshot], str | None] = lambda seen: None,
) -> Advanced:
    """Record what a person says (pause, answer, retry …), by compare-and-swap, beside a runner that may be at work.

    `build(snapshot)` gives the events for what is found, none where it is so already, or raises what is to be told;
    `tree(snapshot)`: the tree that comes with them.
    """
    project.refuse_unsupported()
    for _ in range(RACES):
        seen = look(project, protocol)
        events = build(seen)
        if not events:
            return Advanced(seen.state, machine.decide(seen.state), (), seen.tip)
        made = _prepare(project, seen, events, tree(seen), as_person=as_person)
        try:
            _publish(project, seen, made)
        except ConflictError:
            publishing.again(project, protocol, checker(project, protocol))
            continue
        return Advanced(made.state, machine.decide(made.state), made.entries, made.commit)
    raise moves(project, protocol)
