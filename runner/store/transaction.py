"""One transition, one commit: prepared aside as objects, published by compare-and-swap, able to lose (design §1.1).

The worktrees that have the branch checked out are shown to be able to follow before the ref moves, and follow after it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from runner.errors import ConflictError
from runner.git import BLOB, Git, Ident, TreeEntry, git_error
from runner.git.objects import sync_folder
from runner.protocol import log, machine, paths, state
from runner.protocol.events import Entry, Event
from runner.protocol.ids import digest
from runner.protocol.state import State
from runner.store import locks, remote, worktree
from runner.store.environment import Clone, matching
from runner.store.snapshot import Snapshot
from runner.store.trusted import policy_digest

PUBLISH_WAIT = 30.0  # seconds that another process may take to move the same branch


class Transition(NamedTuple):
    """A commit that is prepared and not published yet. `snapshot`: the protocol as it is in it."""

    commit: str
    state: State
    entries: tuple[Entry, ...]
    snapshot: Snapshot


def entries_of(
    before: State | None, events: Sequence[Event], time: str, actor: str, judged: str | None = None
) -> tuple[Entry, ...]:
    """Return the log entries for events that follow `before`. `judged`: when words were judged, where that was earlier."""
    first = before.revision + 1 if before else 1
    return tuple(
        Entry(first + number, judged if judged and event.type.role == "approval" else time, log.actor(actor), event)
        for number, event in enumerate(events)
    )


def render_record(
    before: State | None,
    old_log: bytes,
    segments: int,
    entries: Sequence[Entry],
    rendered: state.Rendered | None = None,
    raws: Sequence[log.RawEntry] | None = None,
) -> tuple[State, dict[str, bytes]]:
    """Return the state after the entries, and the files of the record that change (name in the folder to bytes).

    `segments`: how many whole segments of the log lie in log/ already; `rendered`: what state.json was made of before; `raws`: what
    `raw_of` returned of each entry, where the caller has it.

    Raises:
        IllegalEventError: an event does not belong there.
    """
    after = machine.fold(before, entries)
    assert after is not None
    files = {log.segment_name(segments): old_log} if log.is_full(old_log) else {}
    raws = [log.raw_of(entry) for entry in entries] if raws is None else raws
    files[paths.LOG] = log.continued(old_log, raws, after.schema)
    after = after._replace(log=digest(files[paths.LOG]))
    files[paths.STATE] = state.render(after, rendered)
    return after, files


class Provenance(NamedTuple):
    """Who records a transition, when, and by which commit of the trusted branch.

    `actor`: as the log names them; `committer`: where it is not the author; `judged`: when the approvals that it uses were judged,
    where that was before `time`. `sign`: as a commit of the person's; `sign_with`: makes the signature that the policy requires.
    """

    time: str
    actor: str
    trusted: str
    author: Ident
    committer: Ident | None = None
    judged: str | None = None
    sign: bool = False
    sign_with: Callable[[bytes], bytes] | None = None


def prepare(
    git: Git,
    snapshot: Snapshot,
    events: Sequence[Event],
    by: Provenance,
    *,
    tree: str | None = None,
    more: Mapping[str, bytes] | None = None,
) -> Transition:
    """Write the objects of a transition that follows `snapshot`.

    `tree`: the tree that holds its work (default: the snapshot's); the protocol's folder is always the snapshot's, with the
    record of `events` and the files `more`.
    """
    entries = entries_of(snapshot.state, events, by.time, by.actor, by.judged)
    raws, parts = [log.raw_of(entry) for entry in entries], len(snapshot.files.parts)
    after, files = render_record(snapshot.state, snapshot.log, parts, entries, snapshot.rendered, raws)
    folder = paths.folder(snapshot.protocol)
    if tree is not None and tree != snapshot.tree:
        own = git.tree(f"{snapshot.tip}:{paths.ROOT}")
        assert own is not None
        tree = git.edit_tree(tree, {folder: own[snapshot.protocol]})
    written = {
        f"{folder}/{name}": TreeEntry(
            BLOB, git.write("blob", data, before.oid if (before := snapshot.files.get(name)) else None)
        )
        for name, data in {**files, **(more or {})}.items()
    }
    made = git.edited(tree or snapshot.tree, written)
    policy = policy_digest(git, by.trusted) if after.schema > 1 else None
    text = log.render_message(
        snapshot.protocol, entries, by.trusted, schema=after.schema, plan=after.plan, policy=policy, raws=raws
    )
    if by.sign and by.sign_with is None:
        commit = git.person_commit(made, (snapshot.tip,), by.author, text)
    else:
        commit = git.write_commit(made, (snapshot.tip,), by.author, by.committer or by.author, text, by.sign_with)
    folder_now = snapshot.files.with_({path.removeprefix(f"{folder}/"): entry for path, entry in written.items()})
    there = dataclasses.replace(snapshot, tip=commit, tree=made, files=folder_now, state=after, log=files[paths.LOG])
    return Transition(commit, after, entries, there)


class RefUpdate(NamedTuple):
    """A branch (full ref name) that moves from `old` (None: it is new) to `new`, and the refs that move with it.

    `reason`: for the reflog.
    """

    branch: str
    old: str | None
    new: str
    reason: str
    also: Mapping[str, tuple[str | None, str | None]] = {}


def move_refs(clone: Clone, update: RefUpdate, push: Callable[[], None] | None = None) -> None:
    """Move the refs of an update by compare-and-swap, and let the worktrees on the branch follow.

    `push` is called when everything here is shown to be possible, before anything moves.

    Raises:
        PushRefusedError: the remote's rules refused it; here it moved, so that it can be looked at and taken back.
        ConflictError: the branch is not at `old`; nothing was published.
        InTheWayError: a person's files, or a rebase that is not finished, are in the way; nothing was published.
    """
    git, env, branch, old, new = clone.git, clone.env, update.branch, update.old, update.new
    with locks.hold(clone.dirs.publish_lock(branch), env, what=branch, wait=PUBLISH_WAIT):
        worktree.finish_follows(clone, branch)
        for name in (*update.also, branch, "HEAD", "packed-refs"):
            locks.remove_dead(git.common_dir / f"{name}.lock", env)
        if old is not None and git.ref(branch) != old:
            raise ConflictError(
                f"{branch} moved meanwhile", f"expected {old[:12]}", "run the same command again; nothing was written"
            )
        # In this order: where git dies between two of them, what the branch tells of is there.
        refs = {**update.also, branch: (new, old)}
        worktree.refuse_rebased(git, branch)
        if old is None:
            if push:
                push()
            git.update_refs(refs, update.reason)
            _sync(git, branch)
            return
        refused: remote.PushRefusedError | None = None
        with worktree.prepare(clone, branch, old, new) as follows:
            try:
                if push:
                    push()
            except remote.PushRefusedError as error:
                refused = error  # by a rule about what is in it: nobody was first, and it is done here
            try:
                git.update_refs(refs, update.reason)
            except ConflictError:
                if git.ref(branch) != new:
                    for follow in follows:
                        follow.forget()
                raise
            for follow in follows:
                follow.finish()
        _sync(git, branch)
        if refused is not None:
            raise refused


def _sync(git: Git, branch: str) -> None:
    """Wait until the branch's move is on the disk: git waits for the file of a ref, and not for its name."""
    folder = os.path.dirname(git.common_dir / branch)
    try:
        sync_folder(folder)
    except FileNotFoundError:  # git keeps its refs elsewhere
        return
    except OSError as error:
        raise git_error(["git", "update-ref"], 128, f"fatal: {folder}: {error.strerror}") from error


def finish_follows(clone: Clone, branch: str) -> None:
    """Bring the worktrees on a branch along that a crash left behind it, where nothing is to be published on it."""
    if matching(clone.dirs.follows, "*.json"):
        with locks.hold(clone.dirs.publish_lock(branch), clone.env, what=branch, wait=PUBLISH_WAIT):
            worktree.finish_follows(clone, branch)


class PersonEdit(NamedTuple):
    """A person's uncommitted files on a branch (full ref name) whose tip is `old`; None: the file is deleted."""

    branch: str
    old: str
    files: Mapping[str, TreeEntry | None]
    author: Ident
    subject: str


def adopt(clone: Clone, edit: PersonEdit) -> str:
    """Commit a person's own uncommitted files, exactly those, as the person, and return the commit.

    The bytes are in their worktree already; only its index follows.
    """
    git, branch, old = clone.git, edit.branch, edit.old
    commit = git.commit(old)
    assert commit is not None
    tree = git.edited(commit.tree, edit.files)
    new = git.person_commit(tree, (old,), edit.author, edit.subject.encode() + b"\n")
    with locks.hold(clone.dirs.publish_lock(branch), clone.env, what=branch, wait=PUBLISH_WAIT):
        for there in git.checked_out(branch):
            worktree.note(clone.dirs, there, branch, old, new)
        git.update_refs({branch: (new, old)}, "runner: adopt")
        worktree.finish_follows(clone, branch)
    return new


def merge_work(git: Git, protocol: str, work: str, onto: str, who: Ident) -> tuple[str | None, list[str]]:
    """Return (tree, []) of a step's work, a commit on its starting point, merged onto another tip, or (None, paths in conflict).

    The protocol's folder is that of `onto`: the transitions below the work may have given way to another clone's.
    """
    made, target = git.commit(work), git.commit(onto)
    start = git.commit(made.parents[0]) if made is not None and made.parents else None
    if made is None or target is None or start is None or git.is_ancestor(start.oid, onto):
        return git.merge_trees(onto, work)
    own = {paths.folder(protocol): (git.tree(f"{target.tree}:{paths.ROOT}") or {})[protocol]}
    trees = [git.edit_tree(commit.tree, own) or commit.tree for commit in (start, made)]
    return git.merge_onto(trees[0], target.tree, trees[1], who)
