"""`runner step`: lock, look, decide, act, and make one commit of it; a lost race starts again from what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runner.errors import (
    ConflictError,
    IllegalEventError,
    InTheWayError,
    RefusedError,
)
from runner.executor import perform
from runner.executor.perform import Attempt
from runner.git import TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, machine, paths
from runner.protocol import plan as plan_
from runner.protocol.events import Entry, Event
from runner.protocol.machine import Action, Halt
from runner.protocol.plan import Plan
from runner.protocol.state import State
from runner.store import locks, marks, publishing, snapshot, transaction, worktree
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import verify

RACES = 20  # how often a lost race is started again before it is told


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


@contextlib.contextmanager
def at_work(project: Project, protocol: str) -> Iterator[None]:
    """Hold the protocol while it is worked on.

    Raises:
        HeldError: another runner has it.
    """
    with locks.hold(project.places.lock(protocol), project.who, what=protocol):
        locks.remove_dead(project.git.common_dir / f"{project.branch(protocol)}.lock", project.who)
        locks.remove_dead(project.git.common_dir / "packed-refs.lock", project.who)
        worktree.settle_all(project.git, project.places, project.branch(protocol), project.who)
        yield


def look(project: Project, protocol: str) -> Snapshot:
    """Return the protocol as its branch has it, checked as far as it is new here.

    Raises:
        IntegrityError: the record is not what the history says.
    """
    git = project.git
    tip = git.ref(project.branch(protocol))
    if tip is None:
        raise RefusedError(
            f"{protocol} has no branch here", project.branch(protocol), f"run `git fetch`, or `runner show {protocol}`"
        )
    known = marks.read(project.places, protocol)
    if known == tip:
        return snapshot.read(git, tip, protocol)
    since = None
    if known is not None:
        if git.commit(known) is None:
            raise verify.went_back(protocol, known, tip)
        since = (known, snapshot.read(git, known, protocol).state)
    state = verify.advance(git, protocol, tip, since)
    marks.write(project.places, protocol, tip, state.genesis)
    return snapshot.read(git, tip, protocol)


def checker(project: Project, protocol: str) -> Callable[[str, str | None], None]:
    """Return what verifies a tip that came from elsewhere, before it is taken up."""

    def check(tip: str, since: str | None) -> None:
        git = project.git
        known = (
            snapshot.read(git, since, protocol).state if since and snapshot.folder_files(git, since, protocol) else None
        )
        verify.advance(git, protocol, tip, (since, known) if since and known else None)

    return check


def read_plan(project: Project, seen: Snapshot) -> Plan:
    """Return the plan as it stands in the snapshot's commit.

    Raises:
        MalformedFileError: a file of people's is not valid; UnsupportedError: it asks for what this version does not do.
    """
    where = paths.folder(seen.protocol)
    plan = plan_.parse(snapshot.words(project.git, seen), where)
    plan_.refuse_unsupported(plan, where)
    return plan


def take_up_edits(project: Project, protocol: str, *, adopt: bool) -> None:
    """Commit, as the person, what they changed in the protocol's words in a worktree and did not commit.

    Raises:
        InTheWayError: `adopt` is not wanted and there are such changes.
    """
    git, branch = project.git, project.branch(protocol)
    folder = paths.folder(protocol)
    for tree in worktree.on_branch(git, branch):
        changed = worktree.uncommitted(git, tree, folder)
        words: dict[str, TreeEntry | None] = {
            path: entry for path, entry in changed.items() if paths.is_words(path.removeprefix(f"{folder}/"))
        }
        stray = [
            path
            for path in changed
            if path not in words
            and path.endswith(".md")
            and "/" not in path.removeprefix(f"{folder}/")
            and path.removeprefix(f"{folder}/") != paths.LOG
        ]
        if stray:
            plan_.names({path.removeprefix(f"{folder}/"): b"" for path in stray}, str(tree.path / folder))
        if not words:
            continue
        if not adopt:
            raise InTheWayError(
                f"changes that are not committed: {', '.join(sorted(words))}",
                str(tree.path),
                "commit them, or run without --no-adopt",
            )
        old = git.ref(branch)
        assert old is not None
        _refuse_malformed(project, protocol, old, words)
        names = ", ".join(sorted(path.rsplit("/", 1)[1] for path in words))
        subject = log.cut(f"{protocol}: edit {names}")
        transaction.adopt(
            git,
            project.places,
            project.who,
            branch=branch,
            old=old,
            files=words,
            author=project.person(),
            subject=subject,
        )
        project.who.say(f"took up your changes of {names}")


def _refuse_malformed(project: Project, protocol: str, tip: str, words: dict[str, TreeEntry | None]) -> None:
    """Refuse an edit that could not be read, before it becomes a commit."""
    git = project.git
    files = snapshot.folder_files(git, tip, protocol) or {}
    prefix = f"{paths.folder(protocol)}/"
    for path, entry in words.items():
        if entry is None:
            files.pop(path.removeprefix(prefix), None)
        else:
            files[path.removeprefix(prefix)] = entry
    told = {
        name: git.blob(entry.oid) or b""
        for name, entry in files.items()
        if "/" not in name and name.endswith(".md") and name != paths.LOG
    }
    plan = plan_.parse(told, paths.folder(protocol))
    plan_.refuse_unsupported(plan, paths.folder(protocol))


def consider(
    project: Project, seen: Snapshot, only: str | None = None
) -> tuple[Plan, ev.PlanEdited | None, State, Action]:
    """Return the plan, the edit that the next transition takes up, the state after it, and what may happen then."""
    plan = read_plan(project, seen)
    state, edit = seen.state, None
    if state.status in machine.OPEN:
        edit = machine.edit_of(state, plan)
        if edit is not None:
            state = machine.apply(state, Entry(state.revision + 1, project.who.timestamp(), "runner", edit))
    return plan, edit, state, machine.decide(state, only)


def step(project: Project, protocol: str, *, only: str | None = None, adopt: bool = True) -> Advanced:
    """Advance the protocol by one transition, one commit.

    Raises:
        RunnerError: nothing was recorded; the message says what to do.
    """
    project.refuse_unsupported()
    with at_work(project, protocol):
        publishing.bring(project, protocol, checker(project, protocol))
        look(project, protocol)
        take_up_edits(project, protocol, adopt=adopt)
        seen = look(project, protocol)
        plan, edit, state, action = consider(project, seen, only)
        first: list[Event] = [edit] if edit else []
        if isinstance(action, Halt):
            if not first:
                return Advanced(state, action, (), seen.tip, action.reason)
            made = record(project, seen, first)
            return Advanced(made.state, action, made.entries, made.commit, "the plan's edit is recorded")
        attempt = perform.perform(project, seen, plan, state, action)
        return conclude(project, seen, first, action, attempt)


def record(
    project: Project, seen: Snapshot, events: Sequence[Event], *, tree: str | None = None
) -> transaction.Transition:
    """Publish a transition of these events on what was seen.

    Raises:
        ConflictError: the branch moved meanwhile.
    """
    made = transaction.prepare(
        project.git,
        seen,
        events,
        time=project.who.timestamp(),
        actor=project.actor(),
        trusted=project.trusted.commit,
        author=project.runner(),
        tree=tree,
    )
    _publish(project, seen, made)
    return made


def _publish(
    project: Project,
    seen: Snapshot,
    made: transaction.Transition,
    also: dict[str, tuple[str | None, str | None]] | None = None,
) -> None:
    branch = project.branch(seen.protocol)
    transaction.publish(
        project.git,
        project.places,
        project.who,
        branch=branch,
        old=seen.tip,
        new=made.commit,
        reason=f"runner: {made.entries[-1].event.name}",
        also=also,
        push=publishing.pusher(project, seen.protocol, made.commit),
    )
    marks.write(project.places, seen.protocol, made.commit, made.state.genesis)


def conclude(project: Project, began: Snapshot, first: list[Event], action: Action, attempt: Attempt) -> Advanced:
    """Publish what acting brought about. Where a person's commits came between, the work is merged onto them; it is not done again.

    Raises:
        InTheWayError: a person's uncommitted files are in the way; the result is kept.
        RefusedError: the protocol was cancelled meanwhile, or is otherwise no longer where the work belongs; it is kept.
    """
    git, protocol = project.git, began.protocol
    slug = getattr(action, "slug", "")
    number = began.state.steps[slug].attempt if slug in began.state.steps else 1
    aside = perform.attempt_ref(protocol, slug, number)
    seen = began
    for _ in range(RACES):
        edits = first if seen is began else []
        state = began_state = seen.state
        if edits:
            state = machine.apply(
                began_state, Entry(began_state.revision + 1, project.who.timestamp(), "runner", edits[0])
            )
        tree, conflict = attempt.tree, ""
        also: dict[str, tuple[str | None, str | None]] = {}
        if attempt.tree is not None and seen.tip != began.tip:
            work = _work_commit(project, began, attempt.tree)
            tree, conflicts = git.merge_trees(seen.tip, work)
            if tree is None:
                conflict = f"its work conflicts with commits that came between: {', '.join(conflicts[:3])}"
                also[aside] = (work, git.ref(aside))
        try:
            events = _blocked(state, slug, number, conflict, aside) if conflict else attempt.events(state)
            if attempt.kept is not None:
                also[aside] = (_work_commit(project, began, attempt.kept), git.ref(aside))
            made = transaction.prepare(
                git,
                seen,
                [*edits, *events],
                time=project.who.timestamp(),
                actor=project.actor(),
                trusted=project.trusted.commit,
                author=project.runner(),
                tree=tree,
            )
        except (IllegalEventError, KeyError) as error:
            kept = _keep(project, began, aside, attempt)
            if seen.state.status in machine.ACTIVE and seen.tip != began.tip:
                raise ConflictError(
                    f"another runner was first with {slug or protocol}: its result stands",
                    kept or project.branch(protocol),
                    f"`runner step {protocol}` goes on from there",
                ) from error
            raise RefusedError(
                f"{protocol} changed while {slug or 'it'} was at work, and its result no longer belongs there",
                kept or project.branch(protocol),
                f"run `runner status {protocol}`; `runner step` goes on from there",
            ) from error
        try:
            _publish(project, seen, made, also)
        except ConflictError:
            publishing.again(project, protocol, checker(project, protocol))
            seen = look(project, protocol)
            continue
        except InTheWayError as error:
            git.update_refs({aside: (made.commit, git.ref(aside))}, "runner: kept")
            raise InTheWayError(error.what, error.where, f"{error.hint}; the result is kept at {aside}") from error
        return Advanced(
            made.state, action, made.entries, made.commit, conflict or attempt.said, attempt.failed or bool(conflict)
        )
    raise ConflictError(
        f"the branch of {protocol} moves all the time", project.branch(protocol), "run the same command again"
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


def tell(
    project: Project, protocol: str, build: Callable[[Snapshot], list[Event]], *, as_person: bool = False
) -> Advanced:
    """Record what a person says (pause, answer, retry …), by compare-and-swap, beside a runner that may be at work.

    `build(snapshot)` gives the events for what is found, or raises what is to be told.
    """
    project.refuse_unsupported()
    for _ in range(RACES):
        worktree.settle_all(project.git, project.places, project.branch(protocol), project.who)
        seen = look(project, protocol)
        events = build(seen)
        made = transaction.prepare(
            project.git,
            seen,
            events,
            time=project.who.timestamp(),
            actor=project.actor(),
            trusted=project.trusted.commit,
            author=project.person() if as_person else project.runner(),
            sign=as_person,
        )
        try:
            _publish(project, seen, made)
        except ConflictError:
            continue
        return Advanced(made.state, machine.decide(made.state), made.entries, made.commit)
    raise ConflictError(
        f"the branch of {protocol} moves all the time", project.branch(protocol), "run the same command again"
    )
