"""Fork a protocol: a new one that starts at a revision of another one, with its plan files and its completed steps.

The branch starts at that very commit, so its history proves the completed steps. The other protocol does not change.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial

from runner.app import create, steer, sync, timeline
from runner.app import verify as judging
from runner.app.timeline import Timeline
from runner.errors import (
    ConflictError,
    InsufficientHistoryError,
    IntegrityError,
    InTheWayError,
    RefusedError,
    RunnerError,
    UnreachableError,
    UsageError,
)
from runner.executor import advance, divergence, journal, load, transition
from runner.executor.transition import attempt_ref
from runner.git import Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import ids, machine, paths, plans
from runner.protocol.log import RawEntry
from runner.protocol.state import ENDED, OPEN, Status, StepStatus
from runner.store import (
    history,
    locks,
    lookup,
    protocol_worktree,
    publishing,
    record,
    snapshot,
    transaction,
)
from runner.store.project import Session
from runner.store.record import transition_of
from runner.store.remote import Mirror, PushRefusedError
from runner.trust import verify, walk
from runner.trust.rules.ends import completed, differs, unfinished
from runner.trust.transitions import commit_of, transitions_below

_STOPPED = (Status.CANCELLED, Status.PAUSED, Status.BLOCKED, Status.FAILED)


Then = Callable[[str, str, str], tuple[str, create.Refs]]


def fork(
    session: Session,
    origin: str,
    revision: int | str | None = None,
    *,
    title: str = "",
    base: str | None = None,
    then: Then | None = None,
) -> create.Made:
    """Create a protocol that continues `origin` from a revision (default: its last), or from where a step (its slug) was completed;
    later edits by people are not copied.

    `title`: the text that the id is made from; if it is empty, the plan's title. `base`: default the other one's.
    `then(start, id, genesis)`: as of `create.make`.

    Raises:
        UsageError: no transition ends at the revision. IntegrityError: the other protocol does not verify.
        RefusedError: it had no plan then, or unfinished work. InsufficientHistoryError: its history is not here.
    """
    git = session.git
    publishing.look(session)
    session.project.refuse_unsupported()
    create.heed_open_questions(session)
    transitions = _transitions(session, origin)
    at = (
        _completed_at(git, origin, transitions, revision)
        if isinstance(revision, str)
        else max(transitions)
        if revision is None
        else revision
    )
    if at not in transitions:
        raise timeline.no_such_revision(session.project, origin, at, transitions)
    start = transitions[at]
    trusted = session.project.trusted
    report = verify.verify(git, origin, start, trusted)
    stood = report.state if report.ok and report.state else verify.advance(git, origin, start, None, trusted)
    _refuse_washing(session, report)
    seen, source = snapshot.read(git, start, origin), f"{origin}@{at}"
    if stood.plan is None:
        raise RefusedError(
            f"{source} has no plan yet", seen.where, "fork a later revision, or `runner new` creates another one"
        )
    entries = record.events(git, origin, start)
    if left := unfinished(entries):
        raise RefusedError(
            f"the work of {left} was not checked yet at {source}, and a fork would not check it",
            seen.where,
            _whole(
                origin,
                at,
                transitions,
                record.events(git, origin, transitions[max(transitions)]),
                renumber=then is not None,
            ),
        )
    files, where = snapshot.plan_files(git, seen), f"{paths.folder(origin)} at revision {at}"
    plan = plans.parse(files, where, session.project.config.checks)
    plans.refuse_unsupported(plan, where)
    event = ev.Forked(
        subject="plan",
        plan=plan.digest,
        steps=machine.planned_steps(plan.steps),
        source=source,
        genesis=stood.genesis,
        done=completed(stood),
    )
    if why := next(differs(event, stood, entries), None):
        raise RefusedError(why, seen.where, "fork the next revision, which records the edits")
    genesis = create.Genesis(plan.header.title, [event], files, title.strip(), base or stood.base, start=start)
    made = create.make(session, genesis, partial(then, start) if then is not None else None)
    return dataclasses.replace(made, source=source, done=len(event.done))


def _completed_at(git: Git, origin: str, transitions: dict[int, str], slug: str) -> int:
    """Return the revision of the transition that completed a step last."""
    last = max(transitions)
    for entry in reversed(record.without_undone(record.events(git, origin, transitions[last]))):
        if (entry.event, entry.subject) == ("step-completed", slug):
            return min(revision for revision in transitions if revision >= entry.revision)
    raise UsageError(
        f"{slug} was not completed in {origin}", paths.folder(origin), f"`runner log {origin}` shows the revisions"
    )


# --- another number ----------------------------------------------------------------------------------------------------


def renumber(session: Session, origin: str, revision: int | str | None = None) -> create.Made:
    """Give a protocol another number, if another one with its id was published first: fork its last transition, with the commits
    by people since. The old branch is removed: its commits stay in the fork's history, and under `refs/runner/lost/`.

    What a killed command left unfinished is finished instead. `revision`: fork that one; only `refs/runner/lost/` keeps the rest.

    Raises:
        RefusedError: no other protocol has the id, its work is not at an end, or an effect was made of which no transition tells;
            as `fork`. InTheWayError: a worktree of it has
            files in no commit. UnreachableError: the remote does not answer.
    """
    try:
        with load.at_work(session, origin):
            note = divergence.renumbering_of(session.dirs, origin)
            if note is not None and lookup.clash(session, origin) is not None:
                note = None  # it is another one of this id that is given a number now
            made = _make(session, origin, revision) if note is None else None
    except divergence.RenumberedError as done:
        note, made = done.note, None
        session.env.say(
            f"{note.protocol} was left unfinished by an earlier, killed run of this command; it is complete now"
        )
    note = note or divergence.renumbering_of(session.dirs, origin)
    assert note is not None
    return _end(session, note, made)


def _make(session: Session, origin: str, revision: int | str | None) -> create.Made:
    """Make the fork that replaces `origin`; the caller holds its lock."""
    git, branch = session.git, session.project.branch(origin)
    _look(session)
    seen = load.read(session, origin)
    if lookup.clash(session, origin) is None:
        raise RefusedError(
            f"no other protocol has the id {origin}",
            f"{branch} at {seen.tip[:12]}",
            f"`runner fork {origin}` creates another protocol that continues it",
        )
    if seen.state.status in OPEN and load.pick_up_edits(session, origin, adopt=True):
        seen = load.read(session, origin)
    trees = git.checked_out(branch)
    for tree in trees:
        if kept := protocol_worktree.keeps(git, tree):
            raise InTheWayError(
                f"the worktree of {origin} cannot be removed: {kept.why}",
                str(tree.path),
                f"{kept.command}; then run the same command again",
            )
    stood = seen.state.status if revision is None else None

    def then(start: str, protocol: str, genesis: str) -> tuple[str, create.Refs]:
        if git.ref(branch) != seen.tip:
            raise ConflictError(f"{branch} moved meanwhile", f"expected {seen.tip[:12]}", "run the same command again")
        since = git.first_parents(seen.tip, stop=start)[::-1] if revision is None else []
        tip = _without_folder(session, origin, protocol, genesis)
        for oid in since:
            tip = _moved(session, origin, protocol, genesis, oid, tip)
        if stood in _STOPPED:  # in the same push: no one may run it unasked, wherever this process ends
            paused = ev.Paused(subject=protocol, reason=f"{origin}, which it continues, was {stood}")
            tip = transition.prepare(session, snapshot.read(git, tip, protocol), [paused], None).commit
        refs = _make_way(session, origin, protocol, genesis, seen.tip)
        claim = {lookup.claim_ref(ids.number_of(protocol)): (genesis, None)}
        divergence.Renumbering(
            origin=origin,
            old=seen.tip,
            protocol=protocol,
            genesis=genesis,
            tip=tip,
            source=_source(git, origin, start),
            refs={**claim, **refs, session.project.branch(protocol): (tip, None)},
            trees=tuple((str(tree.path), str(tree.git_dir)) for tree in trees),
            ends=stood if stood in ENDED else "",
        ).write(session.dirs)
        return tip, refs

    journal.refuse_unknown(session.dirs, origin)
    journal.refuse_unrecorded(session.dirs, origin, seen.state)
    with locks.hold(session.dirs.publish_lock(branch), session.env, what=branch, wait=transaction.PUBLISH_WAIT):
        try:
            made = fork(session, origin, revision, then=then)
        except RunnerError as error:
            note = divergence.renumbering_of(session.dirs, origin)
            # A push without an answer may have arrived; all else was refused, and here nothing moved.
            is_known = not isinstance(error, UnreachableError) or isinstance(error, PushRefusedError)
            is_begun = note is not None and _is_begun(session, note)
            if is_known and not is_begun:
                divergence.forget_renumbering(session.dirs, origin)
            raise
        note = divergence.renumbering_of(session.dirs, origin)
        assert note is not None
        divergence.finish_renumbering(session, note)
    return made


def _is_begun(session: Session, note: divergence.Renumbering) -> bool:
    """Return whether a ref of the note has moved, here or on the remote."""
    if session.above(session.project.branch(note.protocol)) == note.tip:
        return True
    return any(session.git.ref(one) == new for one, (new, old) in note.refs.items() if new != old)


def _source(git: Git, origin: str, start: str) -> str:
    at = transition_of(git.commit(start), origin)
    assert at is not None
    return f"{origin}@{at.trailers.revision}"


def _end(session: Session, note: divergence.Renumbering, made: create.Made | None) -> create.Made:
    """Publish the protocol with its new number, and end it as the old one had ended; `made`: this command made it."""
    protocol = note.protocol
    if made is None and session.project.publishes:
        _look(session)
        sync.settle_and_push(session, protocol)
    with load.at_work(session, protocol):
        seen = load.read(session, protocol)
    is_as_made = seen.tip == note.tip  # else another command has advanced it since
    if is_as_made and note.ends == Status.COMPLETED:  # nothing is left to do: record that again
        advance.step(session, protocol)
    elif is_as_made and note.ends == Status.CANCELLED:
        steer.cancel(session, protocol, f"as {note.origin} was, which it continues")
    if made is None:
        genesis = commit_of(session.git, note.genesis)
        there = session.git.checked_out(session.project.branch(protocol))
        done = sum(step.status is StepStatus.COMPLETED for _, step in seen.state.open_steps())
        made = create.Made(
            protocol,
            len(seen.state.steps),
            seen.state.base,
            genesis.parents[0],
            there[0].path if there else None,
            "",
            source=note.source,
            done=done,
        )
    return dataclasses.replace(made, printed=lambda: divergence.forget_renumbering(session.dirs, note.origin))


def _look(session: Session) -> None:
    mirror = Mirror.of(session.project)
    if mirror is None:
        raise UsageError("there is no remote", str(session.git.common_dir), "`runner fork` needs none")
    session.trust(mirror.look("refs/heads/*", f"{lookup.NUMBERS}*"))
    session.looked, session.mirror = True, mirror


def _without_folder(session: Session, origin: str, protocol: str, genesis: str) -> str:
    """Return a commit by the person that removes the old folder: merged, it would clash with that of the other protocol."""
    git = session.git
    commit = commit_of(git, genesis)
    tree = git.edited(commit.tree, {paths.folder(origin): None})
    text = f"{protocol}: remove the folder of {origin}, whose id another protocol has\n"
    return git.person_commit(tree, (genesis,), session.person(), text.encode())


def _moved(session: Session, origin: str, protocol: str, genesis: str, oid: str, onto: str) -> str:
    """Return a commit by a person, copied from the old branch onto `onto`; its changes of the old plan are made in the new one."""
    git = session.git
    commit, below, folder = commit_of(git, oid), commit_of(git, onto), paths.folder(protocol)
    own = git.tree(f"{genesis}:{paths.ROOT}") or {}
    words = {name: entry for name, entry in git.files(oid, paths.folder(origin)).items() if _is_plan(origin, name)}
    changes: dict[str, TreeEntry | None] = {paths.folder(origin): None, folder: own[protocol]}
    tree = git.edit_tree(commit.tree, changes)
    gone = {name: None for name in git.files(genesis, folder) if _is_plan(protocol, name)}
    there = {folder + name.removeprefix(paths.folder(origin)): entry for name, entry in words.items()}
    tree = git.edited(tree, {**gone, **there})
    if tree == below.tree and len(commit.parents) == 1:
        return onto  # it added an approval of the old id, which does not count here
    return publishing.done_again(session, commit, tree, (onto, *commit.parents[1:]))


def _is_plan(protocol: str, path: str) -> bool:
    return paths.is_plan_file(path.removeprefix(f"{paths.folder(protocol)}/"))


def _make_way(
    session: Session, origin: str, protocol: str, genesis: str, tip: str
) -> dict[str, tuple[str | None, str | None]]:
    """Return how the refs of the old id move: each is kept under `refs/runner/lost/`, and the fork's history keeps the old one."""
    git, old = session.git, history.ref_of(origin)
    attempts = attempt_ref(origin, "", 0).rpartition("/")[0]
    kept = {session.project.branch(origin): tip[:12]}
    if (filed := git.ref(old)) is not None:
        kept[old] = f"history-{filed[:12]}"
    kept |= {name: f"attempt-{name.rpartition('/')[2]}" for name in git.refs(f"{attempts}/")}
    refs: dict[str, tuple[str | None, str | None]] = {}
    for name, short in kept.items():
        lost, oid = f"refs/runner/lost/{origin}/{short}", git.ref(name)
        refs |= {lost: (oid, git.ref(lost)), name: (None, oid)}
    claim = lookup.claim_ref(ids.number_of(origin))
    assert session.mirror is not None
    if (mine := git.ref(claim)) is not None:
        refs[claim] = (session.mirror.ref(claim), mine)
    if filed is not None:  # the transcripts of what counts as done
        refs[history.ref_of(protocol)] = history.add(git, protocol, {}, genesis, session.project.runner(), [filed])
    return refs


def _refuse_washing(session: Session, report: walk.Report) -> None:
    """Refuse a fork that transcripts contradict; those that are not here are left to `verify` of the fork."""
    with contextlib.suppress(InsufficientHistoryError):
        for one in (walk.Origin(report.protocol, report.tip, report.transcripts), *report.origins):
            for found in judging.washed(session, report.protocol, one):
                where = f"{found.path}, commit {report.tip[:12]}"
                raise IntegrityError(found.text, where, f"run `runner verify {report.protocol}` to see all of it")


def _transitions(session: Session, origin: str) -> dict[int, str]:
    """Return the protocol's transitions as far as they are here: last revision to commit."""
    git, chain = session.git, Timeline(session, origin)
    found: dict[int, str] = {}
    for tip in chain.tips:
        for one in transitions_below(git, origin, tip):
            found.setdefault(one.trailers.revision, one.commit.oid)
    if not found:
        raise InsufficientHistoryError(f"the history of {origin} is not here", paths.folder(origin), chain.fetch)
    return found


def _whole(
    origin: str, at: int, transitions: dict[int, str], entries: list[RawEntry], *, renumber: bool = False
) -> str:
    """Return which revisions before and after one can be forked."""
    fit = [
        number
        for number in sorted(transitions)
        if unfinished([entry for entry in entries if entry.revision <= number]) is None
    ]
    near = [*[number for number in fit if number < at][-1:], *[number for number in fit if number > at][:1]]
    if renumber and near:
        commands = " or ".join(f"`runner fork --renumber {origin}@{number}`" for number in near)
        return (
            f"{commands} drops what came later: its commits stay under refs/runner/lost/, "
            "and its journals are put aside, so these steps ask the model again"
        )
    if renumber:
        return f"finish the step first: `runner run --publish never {origin}`"
    commands = " or ".join(f"`runner fork {origin}@{number}`" for number in near)
    return commands or f"finish the step first: `runner run {origin}`"
