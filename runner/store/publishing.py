"""What leaves this machine, and what comes in (design §3, §6): nothing unasked, by `publish: never`, the default.

Commits that others pushed are merged where they extend the branch here. Where two clones have diverged, the one that publishes
second loses: its people's commits are carried over, its transitions are kept under refs/runner/lost/ and done again.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runner import signals
from runner.errors import (
    ConflictError,
    InsufficientHistoryError,
    IntegrityError,
    RefusedError,
    RunnerError,
    UnreachableError,
)
from runner.git import BLOB, EXECUTABLE, Commit, Git
from runner.lines import counted
from runner.protocol import ids, paths
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry
from runner.store import history, lease, locks, lookup, record, remote, snapshot, transaction, worktree
from runner.store.environment import forget_checkpoint, lower_checkpoint, read_checkpoint, write_atomically
from runner.store.project import Project, Session
from runner.store.transaction import RefUpdate

if TYPE_CHECKING:
    from runner.store.remote import Mirror

FRESH = 5.0  # seconds that a look at the remote serves


class Check(Protocol):
    """What the executor does with commits that came from elsewhere."""

    def __call__(self, tip: str, since: str | None) -> None:
        """Verify `tip`, of which `since` is a verified ancestor; raise where the history does not hold."""

    def give_again(self, commit: Commit, onto: str, theirs: Sequence[Commit]) -> str:
        """Return the commit on `onto` that keeps a person's answer. `theirs`: the published commit before it."""

    def tell(self, ours: Sequence[Commit], theirs: Sequence[Commit], kept: str | None) -> None:
        """Say what of ours does not count as it was made. `kept`: the ref of our transitions, where they gave way."""


def look(session: Session, *patterns: str) -> Mirror | None:
    """Look at the remote once a process: the trusted branch, and `patterns`.

    Unreachable, work continues with the local state where it is not published as it advances.

    Raises:
        UnreachableError: it is, and without the remote there is no lease: another clone would do the same.
    """
    try:
        return _ask(session, *patterns)
    except UnreachableError as error:
        if session.project.publishes:
            session.looked = False
            alone = "; with `--offline` it works here alone, and `runner sync` publishes that later"
            raise UnreachableError(
                f"{error.what}; nothing was started: `publish` is `always`",
                error.where,
                f"run the same command again when it answers{alone if 'offline' in session.project.options else ''}",
            ) from error
        session.env.say(f"{error.what}; continuing with the local state, {session.project.trusted.note}")
        return None


def _ask(session: Session, *patterns: str) -> Mirror | None:
    """Look at the remote once a process; offline, and where there is none, at nothing."""
    if session.looked:
        return session.mirror
    session.looked, session.looked_at = True, session.env.monotonic()
    mirror = None if session.project.offline else remote.Mirror.of(session.project)
    if mirror is not None:
        session.trust(mirror.look(*patterns))
        session.mirror = mirror
    return session.mirror


def look_again(session: Session, protocol: str) -> None:
    """Look at the remote just before something of the trusted branch is used; a look of a few seconds ago is one.

    Raises:
        UnreachableError: the trusted branch is the remote's, which does not answer.
    """
    if session.project.trusted.remote is None:
        return
    if not session.looked or session.env.monotonic() - session.looked_at > FRESH:
        known, session.looked, session.mirror = session.mirror, False, None
        try:
            with contextlib.suppress(UnreachableError):  # raised below
                _ask(session, session.project.branch(protocol), history.ref_of(protocol))
        finally:
            answers = session.mirror is not None
            session.mirror = session.mirror or known  # a lease that was taken is given up by it, whatever was raised
    else:
        answers = session.mirror is not None
    if not answers:
        session.looked = False
        offline = session.project.offline
        why, then = ("is not asked", "without --offline") if offline else ("does not answer", "when it does")
        raise UnreachableError(
            f"{session.project.trusted.remote} {why}, and its {session.project.trusted.branch} says whose approvals count",
            session.project.trusted.note,
            f"run the same command again {then}; nothing was recorded",
        )


def look_at_numbers(session: Session, *, always: bool = False) -> set[int]:
    """Return the numbers that are claimed on the remote, where protocols are published there as they are made (or `always`).

    Raises:
        UnreachableError: the remote does not answer.
    """
    if not (always or session.project.publishes):
        return set()
    session.looked = False
    mirror = look(session, f"{lookup.NUMBERS}*", "refs/heads/*")
    refs = mirror.refs() if mirror else {}
    return lookup.numbers_of(
        (name for name in refs if name.startswith(("refs/heads/", lookup.NUMBERS))), session.project.pattern
    )


def find(session: Session, name: str | None) -> str:
    """Return the id of the protocol that a person means; asks the remote for one that this clone does not have.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    try:
        return lookup.find(session, name)
    except lookup.UnknownProtocolError:
        begins = lookup.beginnings(session.project, name) if name is not None else []
        mirror = look(session, *patterns(session.project, begins)) if begins else None
        if mirror is None or name is None:
            raise
    track_protocols(session.project, mirror)
    return lookup.find(session, name)


def refs_of(project: Project, protocol: str) -> tuple[str, ...]:
    """Return the refs of a protocol that runners share: its branch, its history and its lease."""
    return project.branch(protocol), history.ref_of(protocol), lease.ref_of(protocol)


def patterns(project: Project, begins: Sequence[str] = tuple("0123456789")) -> list[str]:
    """Return the refspecs of the protocols whose ids start so: branches, histories and leases. Without `begins`: of all."""
    before = project.pattern.partition("{id}")[0]
    roots = (f"refs/heads/{before}", history.ref_of(""), "refs/runner/leases/")
    return [f"{root}{one}*" for root in roots for one in begins]


def track_protocols(project: Project, mirror: Mirror) -> list[str]:
    """Let git here know the protocols' branches that the remote was seen to have; return their ids."""
    found = {}
    for name, oid in mirror.refs().items():
        protocol = ids.protocol_of_branch(project.pattern, name.removeprefix("refs/heads/"))
        if protocol is not None and name.startswith("refs/heads/"):
            found[protocol] = name, oid
    mirror.track(dict(found.values()))
    return list(found)


def bring(session: Session, protocol: str, check: Check) -> None:
    """Fast-forward to the commits that others pushed of the protocol; report where the branches have diverged.

    Raises:
        IntegrityError: the pushed commits do not verify; nothing here changed.
        ClashError: it is another protocol, and this one would be published.
    """
    if session.project.trusted.remote is None:
        return
    name = session.project.branch(protocol)
    mirror = look(session, name, history.ref_of(protocol), f"refs/runner/leases/{protocol}")
    other = lookup.clash(session, protocol)
    if other is not None:
        clashes = lookup.clash_error(session.project, protocol, other)
        if session.project.publishes:
            raise clashes
        session.tell_once(f"{clashes.what}: work continues here; {clashes.hint}")
        return
    here, there = session.git.ref(name), mirror.ref(name) if mirror else None
    if mirror is None and here is None:  # never looked at here, and the remote is away
        there = session.git.ref(session.project.tracking(name))
    _notice(session, protocol)
    if here is None and there is not None and _is_over(session.project, protocol, there):
        return  # `runner sync` alone brings the branch that was left behind
    if there is not None and there != here and (here is None or session.git.is_ancestor(here, there)):
        forward(session.project, protocol, here, there, check)
        here = there
        if mirror is not None:
            mirror.track({name: there})
    seen = there if mirror is not None else session.git.ref(session.project.tracking(name))
    if here is not None and seen in (None, here):
        left = follow(session.project, protocol, mirror, check)
        if left is not None:
            raise left
    elif there is None or here is None:
        pass
    elif mirror is not None and not session.git.is_ancestor(there, here):
        _refuse_rewritten(session.project, protocol, here, check)
        if session.project.publishes:
            settle(session, protocol, mirror, check)
        else:
            mirror.track({name: there})  # `status` then says so too
            settles = f"`runner sync {protocol}` settles it"
            session.tell_once(f"{protocol} has diverged from {mirror.remote}: work continues here; {settles}")
        return  # the histories are apart as the branches are
    bring_history(session, protocol)


def _is_over(project: Project, protocol: str, there: str) -> bool:
    """Return whether a base has the end of a protocol, as the remote's branch has it or beyond that."""
    is_merged = record.holder(project.git, protocol, there, project.trusted.remote) is not None
    return is_merged or lookup.ended_in(project, protocol, there) is not None


def _notice(session: Session, protocol: str) -> None:
    """Note since when the lease that is on the remote is seen there."""
    oid = session.above(lease.ref_of(protocol))
    if oid is not None and session.lease is None:
        lease.notice(session.project, protocol, oid)


def bring_history(session: Session, protocol: str) -> None:
    """Take the history that the remote was seen to have, by the rule of `history.compare`; the branch here is settled already.

    Raises:
        IntegrityError: it is refused: a push replaced published commits.
    """
    there = session.mirror.refs() if session.mirror else {}
    theirs = there.get(history.ref_of(protocol))
    if theirs is not None:
        published = there.get(session.project.branch(protocol))
        take_history(session.project, protocol, theirs, published=published)


def take_history(project: Project, protocol: str, theirs: str, *, published: str | None) -> bool:
    """Have the history here be one that was fetched, where it may be (`history.compare`); return whether the ref moved.

    `published`: the branch of the repository that it was fetched from. A history here that it does not extend is kept under
    refs/runner/lost/.

    Raises:
        IntegrityError: it is not taken: it lacks, or changed, published commits.
    """
    tip = project.git.ref(project.branch(protocol))
    changes = _history_changes(project, protocol, theirs, tip or published or theirs, published)
    if changes:
        locks.remove_dead(project.git.common_dir / f"{history.ref_of(protocol)}.lock", project.env)
        project.git.update_refs(changes, "runner: fetched")
    return bool(changes)


def _history_changes(
    project: Project, protocol: str, theirs: str, tip: str, published: str | None
) -> dict[str, tuple[str | None, str | None]]:
    """Return how refs move so that the history here is theirs, with the branch at `tip`; nothing where ours extends it.

    Raises:
        IntegrityError: theirs lacks, or changed, published commits.
    """
    git, name = project.git, history.ref_of(protocol)
    ours, offer = git.ref(name), history.compare(git, protocol, theirs, tip=tip, published=published)
    if offer.kind is history.Comparison.KNOWN:
        return {}
    if offer.kind is history.Comparison.REPLACED:
        raise history_replaced(project, protocol, theirs)
    new = history.file_again(git, protocol, offer.ours, theirs, project.runner())
    lost = {} if ours is None or git.is_ancestor(ours, new) else history.kept_as_lost(git, protocol, ours, "history-")
    return {name: (new, ours), **lost}


def history_back(
    session: Session, protocol: str, tip: str, now: Mapping[str, str] | None = None
) -> dict[str, tuple[str | None, str | None]]:
    """Return how the history ref follows a branch that was reset or rewritten to `tip`.

    It goes back to the commits filed beside those that the branch still has, and never behind the published ones. The history that
    it leaves is kept under refs/runner/lost/. `now`: rewritten commits, to those that replaced them: the files of the former are
    filed again beside the latter.
    """
    git, name = session.git, history.ref_of(protocol)
    ours, theirs = git.ref(name), session.above(name)
    if ours is None:
        return {}
    back, again = None, list[tuple[Commit, str]]()
    try:
        for commit, beside in history.commits(git, protocol, ours):
            if git.is_ancestor(beside, tip):
                back = commit.oid
                break
            if now and beside in now:
                again.append((commit, beside))
    except InsufficientHistoryError:  # cut off: `runner doctor` says so, and what is here stays
        return {}
    if theirs is not None and git.commit(theirs) is not None and (back is None or git.is_ancestor(back, theirs)):
        again = [one for one in again if not git.is_ancestor(one[0].oid, theirs)]
        back = theirs
    new = history.file_again(git, protocol, again[::-1], back, session.project.runner(), now) if again else back
    return {} if new == ours else {name: (new, ours), **history.kept_as_lost(git, protocol, ours, "history-")}


def history_replaced(project: Project, protocol: str, theirs: str) -> IntegrityError:
    """Return the error for a history on the remote that is not taken."""
    remote = project.trusted.remote or "the remote"
    return IntegrityError(
        f"the transcripts of {protocol} were replaced on {remote}: its history does not extend the one here",
        f"{history.ref_of(protocol)} at {theirs[:12]}",
        f"run `runner doctor --fix {protocol}`: it compares both with the log, and publishes the right one",
    )


def follow(project: Project, protocol: str, mirror: Mirror | None, check: Check) -> RefusedError | None:
    """Move the branch here to the end of a protocol that others merged, and whose branch the remote deleted or left behind.

    The base, as the remote was seen to have it, or was last fetched where it is not asked, tells that it ended; the merge, or the
    history's ref, keeps the commit. Returns what keeps the branch from moving: something here that did not go in with it, or that
    the end is not there.
    """
    git, here, remote = project.git, project.git.ref(project.branch(protocol)), project.trusted.remote
    if here is None:
        return None
    now, kept = record.row(git, protocol, here), history.ref_of(protocol)
    name, there = f"refs/heads/{now.get('base')}", mirror.refs() if mirror is not None else None
    base = git.ref(project.tracking(name)) if there is None else there.get(name)
    if base is None or not lookup.is_left_behind(git, protocol, here, base):
        return None
    merge = record.merged_in(git, protocol, base)
    filed = git.ref(history.fetched(protocol)) if there is None else there.get(kept)
    at = [commit for oid in (merge, filed) if oid and (commit := git.commit(oid)) is not None]
    may_be = [oid for one in at for oid in (*one.parents, *([one.oid] if record.is_transition(one, protocol) else []))]
    ends = [end for end in may_be if record.is_merged(git, protocol, end, base)]
    if mirror is not None:
        mirror.track({name: base})
    for end in ends:
        if git.is_ancestor(here, end):
            forward(project, protocol, here, end, check)
            return None
    name, into = ids.branch_of(project.pattern, protocol), f"{remote}/{now['base']}"
    what = f"{protocol} ended and was merged into {now['base']}"
    if not ends:
        hint = f"ask the person who merged it to type `git push {remote} {kept}`"
        hint += f"; until then, `runner show {protocol}` shows its final status"
        return RefusedError(f"{what}; its last commits are not on {remote}", name, hint)
    count = len(record.since(git, here, ends[0])[0])
    return RefusedError(
        f"{what}, without {counted(count, 'commit')} that {'are' if count != 1 else 'is'} here",
        name,
        f"`git log {into}..{name}` shows them; take over what you need, then `git branch -D {name}`",
    )


def again(session: Session, protocol: str, check: Check) -> None:
    """After a lost race: where it was lost on the remote, fetch the winner's commits.

    Raises:
        UnreachableError: the remote does not answer any more.
    """
    if session.mirror is None or session.batch or not session.project.publishes:
        return
    session.trust(session.mirror.look(session.project.branch(protocol), history.ref_of(protocol)))
    settle(session, protocol, session.mirror, check)


def forward(project: Project, protocol: str, here: str | None, there: str, check: Check) -> None:
    """Move the branch here to the pushed commit, having verified it."""
    check(there, here)
    update = RefUpdate(project.branch(protocol), here, there, "runner: fetched")
    transaction.move_refs(project, update)
    how = (
        f"fetched {protocol}, which others pushed"
        if here is None
        else f"fast-forwarded {protocol} to what others pushed"
    )
    project.env.say(f"{how}: {there[:7]}")


def pusher(
    session: Session, protocol: str, new: str, *, genesis: str | None = None, filed: str | None = None
) -> Callable[[], None] | None:
    """Return what pushes the new commit before the local ref moves, or None where publishing is not `always`.

    `genesis`: of a new protocol, whose number is claimed in the same push; `filed`: the history's commit that goes with it.
    """
    if session.batch or not session.project.publishes:
        return None
    return lambda: push(session, protocol, new, genesis=genesis, filed=filed)


def push(
    session: Session,
    protocol: str,
    new: str,
    *,
    genesis: str | None = None,
    filed: str | None = None,
    keep: bool = False,
) -> None:
    """Publish a commit as the protocol's branch, by compare-and-swap with what the remote was seen to have.

    A lease ends with it, or is renewed where more is to come (`keep`).

    Raises:
        ConflictError: somebody published first. HeldError: the lease was lost to another runner.
        UnreachableError: the remote did not answer, or refused. ClashError: it has another protocol with this id.
    """
    project, mirror = session.project, session.mirror or remote.Mirror.of(session.project)
    if mirror is None:
        return
    session.mirror = mirror
    lookup.refuse_clash(session, protocol)
    there = mirror.refs()
    name = project.branch(protocol)
    changes: dict[str, tuple[str | None, str | None]] = {}
    if there.get(name) != new:
        changes[name] = (new, there.get(name))
    claim = lookup.claim_ref(ids.number_of(protocol))
    mine = session.git.ref(claim)
    if genesis is not None:
        changes[claim] = (genesis, None)
    elif mine is not None and claim not in there:
        changes[claim] = (mine, None)
    kept = history.ref_of(protocol)
    filed = filed or session.git.ref(kept)
    if filed is not None and there.get(kept) != filed:
        changes[kept] = (filed, there.get(kept))
    # What is expected is what was seen last, and the mirror may have been looked at since this was prepared.
    for moved in (name, kept):
        if moved in changes and not _goes_on(session.git, *changes[moved]):
            raise ConflictError(
                f"{moved} moved on {mirror.remote}", mirror.url, "run the same command again, or `runner sync`"
            )
    try:
        if session.lease is not None and session.lease.protocol == protocol:
            lease.push(session, changes, keep=keep)
        elif changes:
            mirror.push(changes)
    except remote.PushRefusedError as error:
        if genesis is None:
            note_refusal(project, protocol, new)
        raise explain_refusal(project, protocol, error, new, there.get(name)) from error
    if changes:
        forget_refusal(project, protocol)
        mirror.track({ref: oid for ref, (oid, _) in changes.items() if oid})


def _goes_on(git: Git, new: str | None, old: str | None) -> bool:
    commit = git.commit(new) if new is not None else None
    return old is None or (commit is not None and (old in commit.parents or git.is_ancestor(old, commit.oid)))


def ensure_lease(session: Session) -> None:
    """See that the lease, where one is held, is still ours: asked before a command, a call or a request to a model starts.

    Raises:
        HeldError: another runner has it. UnreachableError: it runs out, and cannot be renewed.
        StopRequested: the protocol was cancelled.
    """
    signals.check_stop()
    if session.lease is not None:
        lease.ensure(session)


def drop_lease(session: Session) -> None:
    """Give up a lease that is still held though there is nothing more to publish; where that fails it runs out."""
    if session.lease is not None:
        lease.drop(session)


def entries_of(git: Git, commit: Commit, protocol: str) -> list[RawEntry]:
    """Return the entries that a transition's commit added; none of another commit, or of one whose log is damaged."""
    try:
        return record.added(git, protocol, commit)
    except IntegrityError:
        return []


def settle(session: Session, protocol: str, mirror: Mirror, check: Check, *, there: str | None = None) -> None:
    """Reconcile two clones that have diverged, here. `there`: a tip to be taken for the remote's.

    People's commits are merged in. Where both sides hold transitions, those of this side are kept under refs/runner/lost/ and
    done again; people's answers among them are recorded again, or stay in the history as commits of theirs.
    A branch that was rewritten here did not advance: settling would silently undo what the person did.

    Raises:
        RefusedError: people's commits conflict; both sides stay as they are. ClashError: the remote has another protocol.
        IntegrityError: the branch here no longer has the commit that verified last; both sides stay as they are.
    """
    lookup.refuse_clash(session, protocol)
    git, project, branch = session.git, session.project, session.project.branch(protocol)
    here, name = git.ref(branch), project.branch(protocol)
    there = there or mirror.ref(name)
    if there is None or here is None or here == there or git.is_ancestor(there, here):
        bring_history(session, protocol)
        return
    if git.is_ancestor(here, there):
        forward(project, protocol, here, there, check)
        bring_history(session, protocol)
        return
    known = _refuse_rewritten(project, protocol, here, check)
    theirs, common = record.since(git, there, here)
    ours, left = record.since(git, here, there)
    check(there, _verified(project, protocol, common))
    lost: dict[str, tuple[str | None, str | None]] = {}
    is_work_here, is_work_there = (any(record.is_transition(one, protocol) for one in side) for side in (ours, theirs))
    # An approval has to come by a commit of the chain that brings nothing else (`approval._is_placed`).
    decided = not is_work_there and _decides(git, ours, protocol) and not _decides(git, theirs, protocol)
    try:
        if not is_work_here and not decided:
            new = _merge(session, there, here, protocol)
        elif not is_work_there:
            new = _merge(session, here, there, protocol)
            common = left  # theirs may have come to this chain by a merge alone
        else:
            new = there
            for commit in ours:
                if not record.is_transition(commit, protocol):
                    new = carry(session, commit, new, protocol)
                elif any(event_type(entry.event).role == "answer" for entry in entries_of(git, commit, protocol)[:1]):
                    new = check.give_again(commit, new, theirs)
    except _MergeConflictError as error:
        if mirror.ref(name) == there:  # so that `status` and the person's git see that it is there
            mirror.track({name: there})
        raise RefusedError(error.what, error.where, _by_hand(project, protocol, ours, there, is_work_there)) from error
    if is_work_here and is_work_there:
        lost = history.kept_as_lost(git, protocol, here)
        # In the same transaction: ours tells of transitions that give way, as if they stood. Others would publish that, and go on
        # from transcripts whose work they do not have.
        filed, mine = mirror.ref(history.ref_of(protocol)), git.ref(history.ref_of(protocol))
        if filed is None or (mine is not None and git.is_ancestor(filed, mine)):
            lost |= history_back(session, protocol, new)
        else:
            lost |= _history_changes(project, protocol, filed, new, there)
    check(new, _verified(project, protocol, common))
    if known is None or not git.is_ancestor(known, new):
        _lower_mark(project, protocol, common)
    transaction.move_refs(session.project, RefUpdate(branch, here, new, "runner: settled", lost))
    if lost:
        check.tell(ours, theirs, next(iter(lost)))
    else:
        bring_history(session, protocol)
        session.env.say(f"merged what others pushed of {protocol}: {new[:7]}")
        check.tell(ours, theirs, None)


def _refuse_rewritten(project: Project, protocol: str, here: str, check: Check) -> str | None:
    """Refuse a branch that no longer has the commit that verified last; return that commit, or None where there is none.

    `here`: where the branch was, if it is gone meanwhile.

    Raises:
        IntegrityError: with what adopts the branch.
    """
    known, tip = project.checkpoint_and_tip(protocol)
    if known is not None and not project.git.is_ancestor(known, tip or here):
        check(tip or here, known)
    return known


def _lower_mark(project: Project, protocol: str, commit: str | None) -> None:
    """Let the mark go back to the last transition up to `commit`, before the branch does: else a crash would leave it in front.

    Not to `commit` itself, which may be a person's that damaged the record, before a transition repaired it.
    """
    git, at = project.git, commit
    while at is not None and (found := git.commit(at)) is not None and not record.is_transition(found, protocol):
        at = found.parents[0] if found.parents else None
    if at is not None and snapshot.folder_files(git, at, protocol):
        lower_checkpoint(project.dirs, protocol, at, snapshot.read(git, at, protocol).state.genesis)
    else:
        forget_checkpoint(project.dirs, protocol)


def _decides(git: Git, commits: Sequence[Commit], protocol: str) -> bool:
    """Return whether one of the commits touches an approval of the protocol's."""
    folder = f"{paths.folder(protocol)}/{paths.APPROVALS}"
    return any(
        path.startswith(folder) for one in commits if one.parents for path in git.changed(one.parents[0], one.oid)
    )


def _verified(project: Project, protocol: str, commit: str | None) -> str | None:
    """Return the last commit up to one that is known to hold here; None where all of it has to be verified.

    That two clones have a commit says nothing of it: one of them may have been damaged by what the other one pulled.
    """
    known = read_checkpoint(project.dirs, protocol)
    if known is None or commit is None or project.git.commit(known) is None:
        return None
    if project.git.is_ancestor(commit, known):
        return commit
    return known if project.git.is_ancestor(known, commit) else None


def shared(git: Git, tip: str, other: str) -> str:
    """Return the newest commit of `tip`'s first-parent chain that `other` has too: `other` itself where it is on that chain."""
    found = record.since(git, tip, other)[1]
    return other if found is None else found


def _merge(session: Session, first: str, second: str, protocol: str) -> str:
    """Return a merge commit of the person's; its first parent continues the chain."""
    tree, conflicts = session.git.merge_trees(first, second)
    if tree is None:
        raise _conflict(protocol, conflicts)
    who = session.person()
    return session.git.person_commit(tree, (first, second), who, f"Merge {second[:12]} into {protocol}\n".encode())


def carry(session: Session, commit: Commit, onto: str, protocol: str) -> str:
    """Return the person's commit done again on `onto`, with its author, date and message; a merge with what it brought.

    Of a merge of what `onto` has already, only the files that a person changed in it by hand; where that is nothing, it is
    `onto` itself.
    """
    git = session.git
    brought = [parent for parent in commit.parents[1:] if not git.is_ancestor(parent, onto)]
    parent, target = git.commit(commit.parents[0]), git.commit(onto)
    assert parent is not None and target is not None
    before = parent.tree
    if len(commit.parents) == 2 and not brought:
        before = git.merge_trees(*commit.parents)[0] or before
        if before == commit.tree:
            return onto
    tree, conflicts = git.merge_onto(before, target.tree, commit.tree, session.project.runner())
    if tree is None:
        raise _conflict(protocol, conflicts)
    return done_again(session, commit, tree, (onto, *brought))


def done_again(session: Session, commit: Commit, tree: str, parents: Sequence[str]) -> str:
    """Return a person's commit with another tree and other parents: its author, date and message, committed by who is here."""
    head = [f"tree {tree}".encode(), *(f"parent {one}".encode() for one in parents), b"author " + commit.author]
    lines = [*head, b"committer " + session.person().line(), b"", commit.message]
    return session.git.write("commit", b"\n".join(lines))


class _MergeConflictError(RefusedError):
    """Commits of people on both sides changed the same places."""


def _conflict(protocol: str, paths: list[str]) -> _MergeConflictError:
    return _MergeConflictError(
        f"{protocol} was changed in the same places here and on the remote: {', '.join(paths[:5])}",
        "both sides are as they were",
        "one of them has to change",
    )


def _by_hand(project: Project, protocol: str, ours: Sequence[Commit], there: str, advanced: bool) -> str:
    """Return what settles a conflict with what the remote has. `advanced`: there are transitions there.

    These have to stay on the chain of first parents, and a merge into the branch here would leave them beside it.
    """
    git, branch = project.git, project.branch(protocol)
    trees = git.checked_out(branch)
    # Where no worktree has the branch, what is typed would go to the one that the person is in.
    at = (
        f"git -C {shlex.quote(str(trees[0].path))}"
        if trees
        else f"git switch {branch.removeprefix('refs/heads/')} && git"
    )
    if not advanced:
        return f"`{at} merge {there[:12]}`, resolve the conflict and commit, then `runner sync {protocol}`"
    tip = git.ref(branch) or ""
    mine = [commit for commit in ours if not record.is_transition(commit, protocol)]
    own = [commit.oid[:12] for commit in mine if len(commit.parents) == 1]
    brought = [one[:12] for commit in mine for one in commit.parents[1:] if not git.is_ancestor(one, there)]
    back = [f"`{at} cherry-pick {' '.join(own)}`"] if own else []
    back += [f"`{at} merge {one}`" for one in brought]
    return f"`{worktree.way_back(git, branch, tip, there)}` takes theirs, then `runner doctor --fix {protocol}`" + (
        f"; {', '.join(back)} brings yours back, for you to resolve the conflict" if back else ""
    )


# --- a push that the remote's rules refuse ----------------------------------------------------------------------------

_MOST_SAID = 4  # lines of the remote's that are shown


@dataclass(frozen=True, slots=True)
class _File:
    """A file that a push brings. `commit`: the branch's that brings it; `before`: the revision of the last transition below that."""

    path: str
    size: int
    commit: Commit
    before: int | None


def note_refusal(project: Project, protocol: str, tip: str) -> None:
    """Remember that the remote refused this branch: `runner undo` then removes the unpublished commits from it."""
    with contextlib.suppress(OSError):
        write_atomically(project.dirs.refused(protocol), f"{tip}\n".encode())


def forget_refusal(project: Project, protocol: str) -> None:
    """Forget it: a push of the protocol went through."""
    with contextlib.suppress(OSError):
        project.dirs.refused(protocol).unlink(missing_ok=True)


def was_refused(project: Project, protocol: str) -> bool:
    """Return whether the remote refused the commits here."""
    return project.dirs.refused(protocol).exists()


def explain_refusal(
    project: Project, protocol: str, error: remote.PushRefusedError, new: str, old: str | None
) -> remote.PushRefusedError:
    """Return the error with the step, file and commit that it is about, as far as that is known, and the way out.

    `new`: the refused commit; `old`: the one that the remote has.
    """
    git, branch = project.git, project.branch(protocol)
    try:
        found = _files(git, protocol, new, old or project.trusted.commit)
    except RunnerError:  # the history is cut off here, or broken: the remote's own words have to do
        return error
    if not found:
        return error
    said = "\n".join(error.said)
    named = [one for one in found if re.search(rf"(?<![\w./-]){re.escape(one.path)}(?![\w/-]|\.\w)", said)]
    one = max(named or found, key=lambda file: len(file.path) if named else file.size)
    step = _step(git, protocol, one)
    by = f"which {step} made" if step else f"which {_author(one.commit)} committed"
    what = error.what.partition(": ")[2] if not error.said else " ".join(error.said[:_MOST_SAID])
    guess = "" if named else "it names no file; the largest that is new is "
    at = project.trusted.remote
    tip = git.ref(branch) or new
    if one.before is None:
        hint = f"take it out of the plan, `runner new` with that, and give this one up: `git update-ref -d {branch}`"
    elif step:
        hint = f"`runner undo {protocol}@{one.before}` takes out of branch and history again what {at} does not have"
    else:
        parent = one.commit.parents[0]
        back = worktree.way_back(git, branch, tip, parent)
        hint = f"`{back}` goes back to before it, and `runner doctor --fix {protocol}` adopts that"
    others = ""
    if project.publishes:
        others = "; until it is published, others may do the same steps"
    return remote.PushRefusedError(
        f"{at} refused the push: {what}; {guess}{one.path} ({_size(one.size)}), {by} in commit {one.commit.oid[:12]}",
        error.where,
        f"{hint}; or ask the administrator of {at}. Nothing is lost{others}",
        error.said,
    )


def _files(git: Git, protocol: str, new: str, old: str) -> list[_File]:
    """Return the files that the branch's commits bring which `old` does not have, with those that its history files beside them."""
    chain, at = record.since(git, new, old)
    before = int(record.row(git, protocol, at)["revision"]) or None if at is not None else None
    found: list[_File] = []
    revisions: dict[str, int | None] = {}
    for commit in chain:
        revisions[commit.oid] = before
        parent = git.commit(commit.parents[0]) if commit.parents else None
        found += _of(git, parent.tree if parent else None, commit.tree, commit, before)
        own = record.transition_of(commit, protocol)
        before = own.trailers.revision if own is not None else before
    filed = git.ref(history.ref_of(protocol))
    seen: set[str] = set()
    for entry, beside in history.commits(git, protocol, filed) if filed is not None else ():
        owner = git.commit(beside) if beside in revisions else None
        if owner is not None and beside not in seen:
            seen.add(beside)
            parent = git.commit(entry.parents[0]) if entry.parents else None
            old_tree = parent.tree if parent is not None and parent.message == entry.message else None
            found += _of(git, old_tree, entry.tree, owner, revisions[beside])
    return found


def _of(git: Git, old: str | None, new: str, commit: Commit, before: int | None) -> list[_File]:
    changed = {
        path: entry.oid
        for path, (_, entry) in git.changed(old, new).items()
        if entry is not None and entry.mode in (BLOB, EXECUTABLE)
    }
    sizes = git.sizes(list(changed.values()))
    return [_File(path, size or 0, commit, before) for path, size in zip(changed, sizes, strict=True)]


def _step(git: Git, protocol: str, one: _File) -> str:
    """Return the step (`02-model`) whose transition a commit is; empty where it is a person's."""
    own = record.transition_of(one.commit, protocol)
    if own is None:
        return ""
    steps = record.row(git, protocol, one.commit.oid)["steps"]
    slug = next((about for _, about in own.events if about in steps), "")
    return f"{steps[slug]['place']:02d}-{slug}" if slug else protocol


def _author(commit: Commit) -> str:
    return "".join(filter(str.isprintable, commit.author.decode("utf-8", "replace").partition(" <")[0]))


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
