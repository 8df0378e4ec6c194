"""Revert transitions: code and steps are again as they were, by one more transition; no commit is rewritten.

Transitions that the remote's rules refused, and that were never published, are removed from branch and history instead: nothing
could be published otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from runner.app import describe, timeline
from runner.app.doctor import pinned_remote
from runner.app.steer import Steered, steered
from runner.errors import InsufficientHistoryError, RefusedError, UsageError
from runner.executor import advance, journal, load
from runner.git import Commit, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import machine, paths
from runner.protocol.state import ENDED, STOPPED
from runner.store import lookup, publishing, record, snapshot, transaction
from runner.store.environment import lower_checkpoint
from runner.store.history import kept_as_lost
from runner.store.project import Project, Session
from runner.store.record import transition_of
from runner.store.snapshot import Snapshot
from runner.trust.transitions import commit_of, first_parents


@dataclass(frozen=True, slots=True)
class _History:
    """The commits from the tip to the genesis. `transitions`: last revision to commit; `others`: commits by people, oldest first,
    each with the last revision before it."""

    transitions: dict[int, Commit]
    others: list[tuple[int, Commit]]


def undo(session: Session, protocol: str, to: int | str | None = None) -> Steered:
    """Revert the last transition, or all since revision `to`, or since the step `to` (its slug) first started. Repeated, the
    first goes further back.

    Plan files and the recorded cost do not change. Unpublished transitions that the remote refused are removed instead: commits by
    people are carried over, and the old branch is kept under refs/runner/lost/.

    Raises:
        RefusedError: commits by people changed code since, or there is nothing before. UsageError: no such revision, or the step
            did not start.
    """
    target: Snapshot | None = None
    tree: str | None = None
    kept = ""

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        nonlocal target, tree, kept
        history = _walk(session.git, seen)
        revision = _target(session.project, seen, history, to)
        if revision == seen.state.revision:
            return []
        tree = _tree(session.git, seen, history, revision)
        target = snapshot.read(session.git, history.transitions[revision].oid, protocol)
        if target.state.plan is None:
            name = lookup.typed(session.project, protocol)
            raise RefusedError(
                f"at revision {revision} {protocol} had no plan yet: its questions of that time are not asked again",
                seen.where,
                f"`runner plan {name}` replans the pending steps, `runner cancel {name}` ends it"
                if seen.state.plan
                else f"`{describe.resuming(session.project, seen.state)}` resumes, `runner cancel {name}` ends it",
            )
        kept = _kept_by_base(session.project, seen)
        return [machine.undone_of(seen.state, target.state)]

    with load.at_work(session, protocol):
        out, is_whole = _take_out(session, protocol, to)
        if out is not None and (to is None or is_whole):
            return out
        done = advance.record_events(session, protocol, build, tree=lambda seen: tree)
    if not done.entries or target is None:
        return Steered(protocol, f"it is at revision {done.state.revision}: nothing was reverted")
    found = [
        (slug, step)
        for slug, step in done.state.open_steps()
        if slug in _event(done.events).steps and step.status not in ENDED
    ]
    failed = [f"{slug} (attempt {step.attempt})" for slug, step in found if step.status in STOPPED]
    again = [
        f"{slug} ({step.status.replace('_', ' ')}, attempt {step.attempt})"
        for slug, step in found
        if step.status not in STOPPED
    ]
    notes = [f"open again: {', '.join(again)}"] if again else []
    notes += [f"failed again: {', '.join(failed)}"] if failed else []
    notes += [kept] if kept else []
    left = [slug for slug in target.state.steps if slug not in dict(done.state.open_steps())]
    notes += [f"the plan stays as it is now, without {', '.join(left)}"] if left else []
    return steered(session, done.state, done.commit, f"restored to revision {target.state.revision}", notes)


def _take_out(session: Session, protocol: str, to: int | str | None) -> tuple[Steered | None, bool]:
    """Remove the unpublished transitions that the remote refused from branch and history; return (None if there are none; whether
    none that should go was published).

    Raises:
        RefusedError: a commit by a person builds on them. UsageError: no such revision.
    """
    git, branch = session.git, session.project.branch(protocol)
    mirror = pinned_remote(session.project) if publishing.was_refused(session.project, protocol) else None
    if mirror is None:
        return None, False
    session.mirror = mirror
    seen = load.read(session, protocol)
    history = _walk(git, seen)
    revision = _target(session.project, seen, history, to)
    there = mirror.ref(branch)
    base = history.transitions[revision].oid
    if there is not None and not git.is_ancestor(there, base):
        base = there  # what is published stays
    since = [commit for oid in reversed(git.first_parents(seen.tip, stop=base)) if (commit := git.commit(oid))]
    gone = [commit for commit in since if record.is_transition(commit, protocol)]
    if not gone or since[0].parents[:1] != (base,):
        return None, False
    new = base
    for commit in since:
        if commit not in gone:
            new = _carried(session, protocol, commit, new)
    load.Checker(session, protocol)(new, None)
    then = snapshot.read(git, base, protocol).state
    lost = kept_as_lost(git, protocol, seen.tip)
    also = {**lost, **publishing.history_back(session, protocol, new)}
    if any(wait.kind == "effect" for wait in seen.state.waiting):
        raise RefusedError(
            "it is unknown whether an effect happened, and an undo would drop the question",
            seen.where,
            f"answer with `{describe.resuming(session.project, seen.state)}`; then run the same command again",
        )
    journal.refuse_unknown(session.dirs, protocol)
    # Before the branch moves, or it would seem to be rewritten.
    lower_checkpoint(session.dirs, protocol, base, then.genesis)
    update = transaction.RefUpdate(branch, seen.tip, new, "runner: taken out", also)
    transaction.move_refs(session.project, update)
    journal.put_aside(session.dirs, protocol, seen.tip)  # the attempts start again
    first = then.revision + 1
    what = f"revisions {first} to {seen.state.revision}" if first < seen.state.revision else f"revision {first}"
    notes = [f"removed from branch and history: {what}, which {mirror.remote} never had; kept at {next(iter(lost))}"]
    notes.append("external effects of its steps are not undone, and happen again with them")
    if new != base:
        notes.append("commits by people since are carried over")
    now = load.read(session, protocol)
    said = steered(session, now.state, now.tip, f"restored to revision {then.revision}", notes)
    return said, then.revision <= revision


def _carried(session: Session, protocol: str, commit: Commit, onto: str) -> str:
    try:
        return publishing.carry(session, commit, onto, protocol)
    except RefusedError as error:
        raise RefusedError(
            f"commit {commit.oid[:12]} builds on what would be removed: {error.what}",
            session.project.branch(protocol),
            f"`git revert {commit.oid[:12]}` in its worktree first, or undo less",
        ) from error


def _kept_by_base(project: Project, seen: Snapshot) -> str:
    """Return a line that the base still has the protocol's merged work; empty where it has none."""
    base = record.base_tip(project.git, seen.state.base, project.trusted.remote)
    if base is None or not record.is_merged(project.git, seen.protocol, seen.tip, base):
        return ""
    return f"{seen.state.base} keeps what was merged, until this is merged again"


def _event(events: Sequence[ev.Event]) -> ev.Undone:
    return next(event for event in events if isinstance(event, ev.Undone))


def _walk(git: Git, seen: Snapshot) -> _History:
    found, others = _History({}, []), list[Commit]()
    with contextlib.suppress(InsufficientHistoryError):
        for commit in first_parents(git, seen.tip):
            at = transition_of(commit, seen.protocol)
            if at is None:
                others.append(commit)
                continue
            found.others[:0] = [(at.trailers.revision, other) for other in reversed(others)]
            others = []
            found.transitions[at.trailers.revision] = commit
            if at.has("created", seen.protocol):
                return found
    raise InsufficientHistoryError(
        f"the history of {seen.protocol} is cut off in this clone", seen.where, "run `git fetch --unshallow`"
    )


def _target(project: Project, seen: Snapshot, history: _History, to: int | str | None) -> int:
    """Return the revision that an undo goes back to; `to` as in `undo`."""
    if to is None:
        return _before(project, seen, history)
    if isinstance(to, int):
        if to not in history.transitions:
            raise timeline.no_such_revision(project, seen.protocol, to, history.transitions)
        return to
    for entry in record.without_undone(record.events(project.git, seen.protocol, seen.tip)):
        if entry.subject.partition(".")[0] == to:
            return max(revision for revision in history.transitions if revision < entry.revision)
    raise UsageError(
        f"{to} has not started: there is nothing of it to revert",
        seen.where,
        f"`runner undo {lookup.typed(project, seen.protocol)}` reverts the last transition",
    )


def _before(project: Project, seen: Snapshot, history: _History) -> int:
    """Return the revision before the last transition that is not reverted yet."""
    entries = {raw.revision: raw for raw in record.events(project.git, seen.protocol, seen.tip)}
    at = seen.state.revision
    while entries[at].event == ev.Undone.name:
        at = int(entries[at].fields["to"])
    while at > 1 and entries[at].event == entries[at - 1].event == ev.Cancelled.name:  # its recorded cost goes with it
        at -= 1
    earlier = [revision for revision in history.transitions if revision < at]
    if not earlier:
        raise RefusedError(
            f"{seen.protocol} has only just started: there is nothing to revert",
            seen.where,
            f"`runner cancel {lookup.typed(project, seen.protocol)}` ends it",
        )
    return max(earlier)


def _tree(git: Git, seen: Snapshot, history: _History, to: int) -> str:
    """Return the tree to go back to: that from which the first transition after `to` started, with what people committed until then.

    Where they reverted all of that since, it is the tree of `to`.

    Raises:
        RefusedError: people's commits since then changed code, and were not reverted.
    """
    first = history.transitions[min(one for one in history.transitions if one > to)]
    lost = _lost(git, seen, history, to + 1)
    if not lost:
        return commit_of(git, first.parents[0]).tree
    if not _lost(git, seen, history, to):
        return history.transitions[to].tree
    names = ", ".join(
        f"{commit.oid[:7]} ({commit.message.decode('utf-8', 'replace').split(chr(10))[0][:60]})" for commit in lost
    )
    merges = " (with `-m 1` for a merge)" if any(len(commit.parents) > 1 for commit in lost) else ""
    raise RefusedError(
        f"this would remove commits by people since revision {to}: {names}",
        seen.where,
        f"revert them yourself first: `git revert {' '.join(commit.oid[:7] for commit in reversed(lost))}`{merges}",
    )


def _lost(git: Git, seen: Snapshot, history: _History, since: int) -> list[Commit]:
    """Return the commits by people after a transition that ended at `since` or later, if they changed code and were not reverted."""
    own = f"{paths.folder(seen.protocol)}/"
    standing: dict[str, list[tuple[Commit, TreeEntry | None, TreeEntry | None]]] = {}
    for revision, commit in history.others:
        if revision < since:
            continue
        parent = commit_of(git, commit.parents[0])
        for path, (before, after) in git.changed(parent.tree, commit.tree).items():
            if path.startswith(own):
                continue
            changes = standing.setdefault(path, [])
            if changes and changes[-1][1:] == (after, before):
                changes.pop()
            else:
                changes.append((commit, before, after))
    left = {commit.oid for changes in standing.values() for commit, _, _ in changes}
    return [commit for _, commit in history.others if commit.oid in left]
