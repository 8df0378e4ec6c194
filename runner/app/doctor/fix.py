"""Repair a protocol's record: one that ordinary commits damaged, or a history that was rewritten.

Nothing is thrown away: an old history stays under `refs/runner/lost/`, and a record is repaired by a commit that names what
had damaged it. Where a repair would have to guess, it is refused, with the command that leads back.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.app.doctor import rewritten_from
from runner.app.doctor.protocols import seen_there
from runner.app.doctor.refs import reflog
from runner.errors import IntegrityError
from runner.executor import journal, load, transition
from runner.git import TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.store import history, publishing, record, snapshot, transaction
from runner.store.environment import forget_checkpoint, read_checkpoint, write_checkpoint
from runner.store.project import Project, Session
from runner.store.snapshot import Folder, Snapshot
from runner.trust import transitions, verify
from runner.trust.transitions import commit_of
from runner.trust.verify import is_rebased, replaced
from runner.trust.walk import Report, name_in


def fix(session: Session, protocol: str, *, by_name: bool) -> None:
    """Repair a protocol's damaged record, if it verifies afterwards; `by_name`, adopt its rewritten history too.

    Raises:
        IntegrityError: it would not; nothing was changed, and the hint leads back.
        HeldError: another runner is at work on it.
        InTheWayError: the repaired files would overwrite a person's.
    """
    with load.at_work(session, protocol):
        git, branch = session.git, session.project.branch(protocol)
        if by_name:
            publishing.look(session, branch, history.ref_of(protocol))
        here = git.ref(branch)
        tip = here or session.above(branch) or session.project.protocols()[protocol]
        judged = verify.verify(git, protocol, tip, session.project.trusted)
        old = rewritten_from(session.project, protocol, tip)
        if not judged.ok and load.end_below(session.project, protocol, tip) is not None:
            return  # nothing is broken; `doctor` says how the branch is moved back
        if judged.is_foreign and old is None:
            return
        if not by_name and (here is None or old is not None):
            return  # a branch is made here only where it is asked for; whether a rewriting was meant is asked about each
        if old is not None and load.is_adoptable(session, protocol, judged, old):
            _merge(session, protocol, _whole_of(session.project, protocol, old, tip), judged)
            return
        if not (judged.ok or judged.is_repairable):
            raise _refused(session.project, protocol, judged, old)
        if judged.is_repairable:
            adopted = _keep(session, protocol, old, judged) if old is not None else ""
            _repair(session, protocol, judged)
        else:
            adopted = _adopt(session, protocol, old, judged) if old is not None else ""
        if adopted:
            session.env.say(adopted)
        if by_name and here is not None:
            _fix_there(session, protocol)


def _adopt(session: Session, protocol: str, old: str, judged: Report) -> str:
    """Accept a rewritten history that verifies as it is, and return what the protocol loses with it."""
    git, tip = session.git, judged.tip
    is_here = git.commit(old) is not None
    now = replaced(git, protocol, old, tip) if is_here else None
    back = publishing.history_back(session, protocol, tip, now)
    # Whether journals have what the record no longer has.
    is_left = now is None and (is_here or bool(back)) and not _gives_way(session, protocol, old, tip)
    if is_left:
        _refuse_forgetting(session.project, protocol, tip, old)
    adopted = _keep(session, protocol, old, judged)
    if is_left:
        journal.put_aside(session.dirs, protocol, old)
    if back:  # it would keep what was taken out, and be published with it
        git.update_refs(back, "runner: lost")
    assert judged.walk.state is not None
    write_checkpoint(session.dirs, protocol, tip, judged.walk.state.genesis)
    return adopted


def _gives_way(session: Session, protocol: str, old: str, tip: str) -> bool:
    """Return whether `tip` has transitions that others published beside those of `old`, which are done again, as after a sync of
    diverged clones: the journals stay, so no model is asked again and no effect happens again.
    """
    git, there = session.git, load.published(session, protocol, tip)
    if there is None or git.commit(old) is None:
        return False
    return any(record.is_transition(one, protocol) for one in record.since(git, there, old)[0])


def _refuse_forgetting(project: Project, protocol: str, tip: str, old: str) -> None:
    """Refuse to replace a history whose journals have an effect that no transition records: it would happen twice.

    Raises:
        RefusedError: naming the effect, and the way back to where its outcome is found.
    """
    way = f"the old history, {old[:12]}, is not in this clone: fetch it from where it is"
    if project.git.commit(old) is None:
        journal.refuse_unknown(project.dirs, protocol, way)
        return
    way = f"`{load.way_back(project, protocol, tip, old)}` puts the old history back, where `runner run {protocol}` resumes"
    journal.refuse_unknown(project.dirs, protocol, way)
    journal.refuse_unrecorded(project.dirs, protocol, snapshot.read(project.git, old, protocol).state, way)


def _fix_there(session: Session, protocol: str) -> None:
    """Repair what the remote has, where that does not verify and is no descendant of the branch here.

    Raises:
        IntegrityError: it cannot be repaired from here; the hint says who has to.
    """
    git, here = session.git, session.git.ref(session.project.branch(protocol))
    assert here is not None
    there = seen_there(session, protocol, here)
    judged = verify.verify(git, protocol, there, session.project.trusted) if there is not None else None
    if there is None or judged is None or judged.ok or judged.is_foreign:
        return
    if judged.is_repairable:
        _repair(session, protocol, judged)
    elif load.is_adoptable(session, protocol, judged, here):
        _merge(session, protocol, here, judged)
    else:
        remote = session.project.trusted.remote
        raise IntegrityError(
            f"what {remote} has of {protocol} cannot be repaired: {judged.findings[0].text}",
            f"{judged.findings[0].path or session.project.branch(protocol)}, commit {judged.findings[0].commit[:12]}",
            load.hint_of_remote(session, protocol, judged),
        )


def _merge(session: Session, protocol: str, old: str, rewritten: Report) -> None:
    """Adopt a rebased or amended history that lacks commits which approvals are for, or which are published.

    `old` has them and verifies: a merge by the person continues it, with its record, and all other files of the new history.
    """
    git, tip, folder = session.git, rewritten.tip, paths.folder(protocol)
    here = git.ref(session.project.branch(protocol))
    was, now = commit_of(git, old), commit_of(git, tip)
    files = [
        {path: entry for path, entry in git.files(oid, folder).items() if _is_proof(protocol, path)}
        for oid in (old, tip)
    ]
    # Approvals that came with the new history stay: they are only ever added.
    record = {
        path: files[0].get(path)
        for path in {**files[0], **files[1]}
        if path in files[0] or not _is_approval(protocol, path)
    }
    tree = git.edited(now.tree, record)
    onto = _side(session, protocol, old, tip)
    new = old
    if tree != was.tree or onto is not None:
        parents = (old, onto) if onto is not None else (old,)
        text = f"{protocol}: take over what the rewritten history changed\n"
        new = git.person_commit(tree, parents, session.person(), text.encode())
    judged = verify.verify(git, protocol, new, session.project.trusted)
    if not judged.ok:
        raise _refused(session.project, protocol, judged, old)
    lost = history.kept_as_lost(git, protocol, tip)
    why = load.why_merged(session.project, rewritten)
    _publish(session, judged, here, "runner: adopted", lost)
    session.env.say(
        f"{protocol}: adopted as a merge into the old history, {why}, at {new[:12]}; {load.GIVEN_AGAIN};"
        f" the rewritten history is kept at {next(iter(lost))}"
    )
    _tell_unpublished(session, protocol, new)


def _publish(
    session: Session,
    repaired: Report,
    here: str | None,
    reason: str,
    also: Mapping[str, tuple[str | None, str | None]],
    filed: str | None = None,
) -> None:
    """Move the branch from `here` to the tip that repairs it; on the remote too, where that is a fast-forward."""
    protocol, new, state = repaired.walk.protocol, repaired.tip, repaired.walk.state
    git, branch, there = session.git, session.project.branch(protocol), session.above(session.project.branch(protocol))
    assert state is not None
    is_out = there is not None and git.is_ancestor(there, new)
    push = publishing.pusher(session, protocol, new, filed=filed) if is_out else None
    update = transaction.RefUpdate(branch, here, new, reason, also)
    transaction.move_refs(session.project, update, push)
    write_checkpoint(session.dirs, protocol, new, state.genesis)


def _whole_of(project: Project, protocol: str, old: str, tip: str) -> str:
    """Return the end of the history that was rewritten: `old`, or what the branch's reflog has of it since, as people's commits."""
    git = project.git
    for oid, _ in reflog(git.common_dir, project.branch(protocol)):
        commit = git.commit(oid)
        if commit is None or oid == tip or not git.is_ancestor(old, oid) or git.is_ancestor(oid, old):
            continue
        if verify.verify(git, protocol, oid, project.trusted).ok and is_rebased(git, protocol, oid, tip):
            return oid
    return old


def _side(session: Session, protocol: str, old: str, tip: str) -> str | None:
    """Return the commit to merge into `old`: the new history where it was pushed, else what it was put on; None: nothing."""
    git = session.git
    first = git.commit(transitions.chain_of(git, protocol, tip)[0])
    onto = first.parents[0] if first is not None and first.parents else None
    there = session.above(session.project.branch(protocol))
    if there is not None and git.is_ancestor(there, tip) and not git.is_ancestor(there, old):
        onto = there
    return onto if onto is not None and not git.is_ancestor(onto, old) else None


def _is_approval(protocol: str, path: str) -> bool:
    return name_in(protocol, path).startswith(paths.APPROVALS)


def _is_proof(protocol: str, path: str) -> bool:
    return paths.is_record(name_in(protocol, path)) or _is_approval(protocol, path)


def _refused(project: Project, protocol: str, judged: Report, old: str | None) -> IntegrityError:
    where = f"{project.branch(protocol)} at {judged.tip[:12]}"
    why = judged.findings[0].text if judged.findings else "there is no folder of it"
    if old is None:
        what, hint = f"{protocol} cannot be repaired", f"`runner doctor {protocol}` says what remains possible"
    else:
        what = f"the rewritten history of {protocol} does not verify, so it is not adopted"
        hint = load.hint_of_old(project, protocol, judged.tip, old)
    return IntegrityError(f"{what}: {why}", where, hint)


def _keep(session: Session, protocol: str, old: str, judged: Report) -> str:
    """Keep the history that is no longer in the branch, and return what the protocol loses with it."""
    git, tip, now = session.git, judged.tip, judged.walk.state
    assert now is not None
    if git.commit(old) is None:
        return f"{protocol}: adopted as it is at {tip[:12]}; the old history, {old[:12]}, is not in this clone any more"
    kept = history.kept_as_lost(git, protocol, old)
    git.update_refs(kept, "runner: lost")
    before = snapshot.read(git, old, protocol).state
    if before.genesis != now.genesis:
        lost = "it is another protocol of the same name now"
    elif _gives_way(session, protocol, old, tip):
        lost = "transitions made here beside the published ones are made again"
    elif before.revision > now.revision:
        gone = range(now.revision + 1, before.revision + 1)
        lost = f"revision {gone[0]} is" if len(gone) == 1 else f"revisions {gone[0]} to {gone[-1]} are"
        lost += " no longer in it"
    else:
        lost = "no revision was lost"
    return f"{protocol}: adopted as it is at {tip[:12]}; {lost}; the old history is kept at {next(iter(kept))}"


def _repair(session: Session, protocol: str, judged: Report) -> None:
    """Commit the record as its events make it; where the folder was deleted, first the plan files, in the person's name."""
    git, project, walk, tip = session.git, session.project, judged.walk, judged.tip
    assert walk.state is not None
    here, there = git.ref(project.branch(protocol)), session.above(project.branch(protocol))
    if here is None and there == tip:
        publishing.bring_history(session, protocol)
    folder = paths.folder(protocol)
    commits = list(walk.damaged_by)
    if not judged.walk.folder.files:
        tip = _restore_plan_files(session, protocol, judged)
        commits.append(tip)
    commit = commit_of(git, tip)
    now = {path.removeprefix(f"{folder}/"): entry for path, entry in git.files(tip, folder).items()}
    record: dict[str, TreeEntry | None] = {
        f"{folder}/{name}": walk.record.get(name)
        for name in {*now, *walk.record}
        if paths.is_record(name) and now.get(name) != walk.record.get(name)
    }
    tree = git.edited(commit.tree, record)
    files = {name: entry for name, entry in now.items() if not paths.is_record(name)} | walk.record
    names = sorted({name_in(protocol, path) for path in record})
    reason = f"changed by ordinary commits: {', '.join(names)}"
    repaired = ev.RecordRepaired(subject=protocol, commits=commits, reason=log.cut(reason))
    made = transaction.prepare(
        git,
        Snapshot(protocol, tip, tree, Folder(files), walk.state, walk.log),
        [repaired],
        transaction.Provenance(
            time=session.env.timestamp(),
            actor=session.actor(),
            trusted=project.trusted.commit,
            author=project.runner(),
            sign_with=transition.signer(project, [repaired]),
        ),
    )
    left = verify.verify(git, protocol, made.commit, project.trusted)
    if not left.ok:
        raise _refused(project, protocol, left, None)
    by = ", ".join(oid[:12] for oid in walk.damaged_by)
    done = f"{protocol}: the record is repaired, {reason} ({by}); the code is unchanged"
    if here not in (None, judged.tip) and not git.is_ancestor(here or "", judged.tip):
        _settle_with(session, protocol, made, done)
        return
    filed = transition.file(project, protocol, made)
    history_tip = next((new for new, _ in filed.values()), None)
    _publish(session, left, here, "runner: record-repaired", filed, history_tip)
    session.env.say(done)
    _tell_unpublished(session, protocol, made.commit)


def _settle_with(session: Session, protocol: str, made: transaction.Transition, done: str) -> None:
    """Bring the branch here, which has commits beside the damage, together with the repair, as with any tip that others published."""
    assert session.mirror is not None
    check = load.Checker(session, protocol)
    # Before anything is pushed: the history here may have transcripts of transitions that are dropped.
    publishing.settle(session, protocol, session.mirror, check, there=made.commit)
    session.env.say(done)
    if session.project.publishes:
        tip = session.git.ref(session.project.branch(protocol))
        assert tip is not None
        publishing.push(session, protocol, tip)
    _tell_unpublished(session, protocol, made.commit)


def _tell_unpublished(session: Session, protocol: str, oid: str) -> None:
    there = session.above(session.project.branch(protocol))
    if there is not None and not session.git.is_ancestor(oid, there):
        session.env.say(f"{protocol}: the repair is here alone; `runner sync {protocol}` publishes it")


def _restore_plan_files(session: Session, protocol: str, judged: Report) -> str:
    """Commit, in the person's name, the plan files of a folder that a commit deleted."""
    git, folder = session.git, paths.folder(protocol)
    tip = commit_of(git, judged.tip)
    had: str | None = tip.oid
    while had is not None and git.tree(f"{had}:{folder}") is None:
        commit = git.commit(had)
        had = commit.parents[0] if commit and commit.parents else None
    assert had is not None
    files: dict[str, TreeEntry | None] = {
        path: entry for path, entry in git.files(had, folder).items() if not paths.is_record(name_in(protocol, path))
    }
    tree = git.edited(tip.tree, files)
    return git.person_commit(tree, (tip.oid,), session.person(), f"{protocol}: put plan and steps back\n".encode())


def forget(project: Project, protocol: str) -> bool:
    """Remove the checkpoint, so that the current history is accepted; return whether there was one."""
    known = read_checkpoint(project.dirs, protocol) is not None
    forget_checkpoint(project.dirs, protocol)
    return known
