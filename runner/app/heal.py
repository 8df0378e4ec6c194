"""Mending what `runner.app.examine` finds: dead locks, cut follows, damaged records, rewritten histories.

Nothing is thrown away by it: an old history stays under `refs/runner/lost/`, and a record is mended by a commit that names
what had damaged it. Where mending would have to guess, it is refused, with the command that leads back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.app import clones, examine, journals, refs
from runner.app.repair import Repair
from runner.errors import IntegrityError, RunnerError, UnreachableError, shown
from runner.executor import journal, load, remedy, transition
from runner.git import Git, TreeEntry, damage
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.protocol.ids import branch_of
from runner.store import history, marks, publishing, record, snapshot, transaction, trusted
from runner.store.places import Places, writable_state_home
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.store.snapshot import Folder, Snapshot
from runner.store.surroundings import Surroundings
from runner.trust import transitions
from runner.trust.verify import Judged, is_rebased, judge, name_in, replaced
from runner.values import dataclass

LOST = "refs/runner/lost"


def fix_clone(cwd: Path, who: Surroundings) -> None:
    """Mend what is broken in the clone itself, and say what was done; what cannot be mended is left to the examination to tell."""
    headless = refs.headless(cwd)
    if headless is not None and headless.mend is not None:
        who.say(headless.mend())
    try:
        git = Git.open(cwd)
    except RunnerError:
        return  # the examination tells why
    with git:
        places = Places(git.common_dir, writable_state_home(who.state_home))
        for repair in examine.repairs(git, places, who):
            _carry_out(repair, who.say)


def _carry_out(repair: Repair, tell: Callable[[str], None]) -> None:
    if repair.mend is None:
        return
    try:
        done = repair.mend()
    except RunnerError as error:
        done = f"{repair.finding.where}: {error.what}\n  next: {error.hint}"
    except OSError as error:  # a git that lives has it locked, or the disk says no
        done = f"{repair.finding.where}: {error.strerror}: {error.filename}"
    if done:
        tell(done)


def fix_protocols(project: Project, only: str | None, tell: Callable[[str], None]) -> None:
    """Mend the record of every protocol here, or of `only`; with `only`, what cannot be mended is raised, else told.

    Raises:
        RunnerError: `only` cannot be mended; nothing was changed.
    """
    for repair in examine.in_project(project, only):
        _carry_out(repair, tell)
    for protocol, tip in project.protocols().items():
        if only not in (None, protocol):
            continue
        try:
            fix(project, protocol, tell, by_name=only is not None)
            judged = judge(project.git, protocol, project.tip(protocol) or tip, project.trusted)
        except RunnerError as error:
            if only is not None:
                raise
            tell(f"{protocol}: {error.what}\n  at:   {error.where}\n  next: {error.hint}")
            continue
        lacking = clones.transcripts(project, protocol, judged.walk) if judged.is_whole else None
        if lacking is not None:
            _carry_out(lacking, tell)
        if judged.is_whole and only is not None:
            _settle_history(project, protocol, judged, tell)


def _settle_history(project: Project, protocol: str, judged: Judged, tell: Callable[[str], None]) -> None:
    """Publish the right history of the protocol where another one was pushed over it; asks the remote."""
    try:
        replaced = clones.replaced(project, protocol, judged.walk, ask=True)
    except UnreachableError as error:
        tell(f"{error.what}; whether its history is as it was published is not known")
        return
    if replaced is not None:
        _carry_out(replaced, tell)


def fix(project: Project, protocol: str, tell: Callable[[str], None], *, by_name: bool) -> None:
    """Mend a protocol's damaged record, where it verifies afterwards; `by_name`, adopt its rewritten history too.

    Raises:
        IntegrityError: it would not; nothing was changed, and the hint leads back.
        HeldError: another runner is at work on it.
        InTheWayError: the mended files would overwrite a person's.
    """
    with load.at_work(project, protocol):
        git, branch = project.git, project.branch(protocol)
        if by_name:
            publishing.look(project, f"refs/heads/{branch_of(project.pattern, protocol)}", history.ref_of(protocol))
        here = git.ref(branch)
        tip = here or _seen_there(project, protocol) or project.protocols()[protocol]
        judged, old = judge(git, protocol, tip, project.trusted), examine.rewritten(project, protocol, tip)
        if judged.is_foreign and old is None:
            return
        if here is None and not by_name:
            return  # a branch is made here only where it is asked for
        if old is not None and not by_name:
            return  # whether that was meant is asked about each
        if old is not None and remedy.is_adoptable(project, protocol, judged, old):
            _merge(project, protocol, _whole_of(project, protocol, old, tip), judged, tell)
            return
        if not (judged.is_whole or judged.is_mendable):
            raise _refused(project, protocol, judged, old)
        back: Mapping[str, tuple[str | None, str | None]] = {}
        is_left = False  # whether journals tell of what the record no longer has
        if old is not None and not judged.is_mendable:
            is_here = git.commit(old) is not None
            now = replaced(git, protocol, old, tip) if is_here else None
            back = publishing.history_back(project, protocol, tip, now)
            is_left = now is None and (is_here or bool(back)) and not _gives_way(project, protocol, old, tip)
            if is_left:
                _refuse_forgetting(project, protocol, tip, old)
        adopted = _keep(project, protocol, old, tip, judged) if old is not None else ""
        if judged.is_mendable:
            _mend(project, protocol, judged, tell)
        elif old is not None:
            assert judged.walk.state is not None
            if is_left:
                journal.put_aside(project.places, protocol, old)
            if back:  # it would keep what was taken out, and be published with it
                git.update_refs(back, "runner: lost")
            marks.write(project.places, protocol, tip, judged.walk.state.genesis)
        if adopted:
            tell(adopted)
        if by_name and here is not None:
            _fix_there(project, protocol, tell)


def _gives_way(project: Project, protocol: str, old: str, tip: str) -> bool:
    """Return whether `tip` has transitions that others published beside those of `old`, which are done again, as where clones are
    settled: the journals stay, so what was heard is not asked again, nor an effect made again.
    """
    git, there = project.git, remedy.published(project, protocol, tip)
    if there is None or git.commit(old) is None:
        return False
    return any(publishing.is_transition(one, protocol) for one in record.since(git, there, old)[0])


def _refuse_forgetting(project: Project, protocol: str, tip: str, old: str) -> None:
    """Refuse to leave a history behind whose journals have an effect that no transition records: it would happen twice.

    Raises:
        RefusedError: naming the effect, and the way back to where it is found out.
    """
    way = f"the old history, {old[:12]}, is not in this clone: fetch it from where it is"
    if project.git.commit(old) is None:
        journals.refuse_unknown(project.places, protocol, way)
        return
    way = f"`{remedy.way_back(project, protocol, tip, old)}` puts the old history back, where `runner run {protocol}` goes on with it"
    journals.refuse_unknown(project.places, protocol, way)
    journals.refuse_unrecorded(project.places, protocol, snapshot.read(project.git, old, protocol).state, way)


def _seen_there(project: Project, protocol: str) -> str | None:
    mirror = project.mirror
    return mirror.refs().get(f"refs/heads/{branch_of(project.pattern, protocol)}") if mirror is not None else None


def _fix_there(project: Project, protocol: str, tell: Callable[[str], None]) -> None:
    """Repair what the remote has, where that does not verify and does not go on from what is here.

    Raises:
        IntegrityError: it cannot be repaired from here; the hint says who has to.
    """
    git, here = project.git, project.git.ref(project.branch(protocol))
    assert here is not None
    there = examine.seen_there(project, protocol, here)
    judged = judge(git, protocol, there, project.trusted) if there is not None else None
    if there is None or judged is None or judged.is_whole or judged.is_foreign:
        return
    if judged.is_mendable:
        _mend(project, protocol, judged, tell)
    elif remedy.is_adoptable(project, protocol, judged, here):
        _merge(project, protocol, here, judged, tell)
    else:
        remote = project.trusted.remote
        raise IntegrityError(
            f"what {remote} has of {protocol} cannot be repaired: {judged.findings[0].text}",
            f"{judged.findings[0].path or project.branch(protocol)}, commit {judged.findings[0].commit[:12]}",
            remedy.of_remote(project, protocol, judged),
        )


def _merge(project: Project, protocol: str, old: str, rewritten: Judged, tell: Callable[[str], None]) -> None:
    """Adopt a rebased or amended history that lacks commits which approvals are for, or which are published.

    `old`, which has them and holds, goes on with a merge of the person's: the record as it was, all else as the new history has it.
    """
    git, tip, folder = project.git, rewritten.tip, paths.folder(protocol)
    here = git.ref(project.branch(protocol))
    was, now = git.commit(old), git.commit(tip)
    assert was is not None and now is not None
    files = [
        {path: entry for path, entry in git.files(oid, folder).items() if _is_proof(protocol, path)}
        for oid in (old, tip)
    ]
    # Approvals that came with the new history stay: they are only ever added.
    record = {
        path: files[0].get(path)
        for path in {**files[0], **files[1]}
        if path in files[0] or not _is_word(protocol, path)
    }
    tree = git.edit_tree(now.tree, record)
    assert tree is not None
    onto = _side(project, protocol, old, tip)
    new = old
    if tree != was.tree or onto is not None:
        parents = (old, onto) if onto is not None else (old,)
        text = f"{protocol}: take over what the rewritten history changed\n"
        new = git.person_commit(tree, parents, project.person(), text.encode())
    judged = judge(git, protocol, new, project.trusted)
    if not judged.is_whole:
        raise _refused(project, protocol, judged, old)
    lost = f"{LOST}/{protocol}/{tip[:12]}"
    why = remedy.why_merged(project, rewritten)
    _publish(project, judged, here, "runner: adopted", {lost: (tip, git.ref(lost))})
    tell(
        f"{protocol}: adopted as a merge into the old history, {why}, at {new[:12]}; {remedy.GIVEN_AGAIN};"
        f" the rewritten history is kept at {lost}"
    )
    _tell_unpublished(project, protocol, new, tell)


def _publish(
    project: Project,
    repaired: Judged,
    here: str | None,
    reason: str,
    also: Mapping[str, tuple[str | None, str | None]],
    filed: str | None = None,
) -> None:
    """Move the branch from `here` to the tip that repairs it; on the remote too, where that goes on from what it has."""
    protocol, new, state = repaired.walk.protocol, repaired.tip, repaired.walk.state
    git, branch, there = project.git, project.branch(protocol), _seen_there(project, protocol)
    assert state is not None
    is_out = there is not None and git.is_ancestor(there, new)
    push = publishing.pusher(project, protocol, new, filed=filed) if is_out else None
    transaction.publish(
        git, project.places, project.who, branch=branch, old=here, new=new, reason=reason, also=also, push=push
    )
    marks.write(project.places, protocol, new, state.genesis)


def _whole_of(project: Project, protocol: str, old: str, tip: str) -> str:
    """Return the end of the history that was rewritten: `old`, or what the branch's reflog has of it since, as people's commits."""
    git = project.git
    for oid, _ in damage.reflog(git.common_dir, project.branch(protocol)):
        commit = git.commit(oid)
        if commit is None or oid == tip or not git.is_ancestor(old, oid) or git.is_ancestor(oid, old):
            continue
        if judge(git, protocol, oid, project.trusted).is_whole and is_rebased(git, protocol, oid, tip):
            return oid
    return old


def _side(project: Project, protocol: str, old: str, tip: str) -> str | None:
    """Return what is merged into `old`: the new history where it was pushed, else what it was put on; None: nothing."""
    git = project.git
    first = git.commit(transitions.chain_of(git, protocol, tip)[0])
    onto = first.parents[0] if first is not None and first.parents else None
    there = _seen_there(project, protocol)
    if there is not None and git.is_ancestor(there, tip) and not git.is_ancestor(there, old):
        onto = there
    return onto if onto is not None and not git.is_ancestor(onto, old) else None


def _is_word(protocol: str, path: str) -> bool:
    return name_in(protocol, path).startswith(paths.APPROVALS)


def _is_proof(protocol: str, path: str) -> bool:
    return paths.is_record(name_in(protocol, path)) or _is_word(protocol, path)


def _refused(project: Project, protocol: str, judged: Judged, old: str | None) -> IntegrityError:
    where = f"{project.branch(protocol)} at {judged.tip[:12]}"
    why = judged.findings[0].text if judged.findings else "there is no folder of it"
    if old is None:
        return IntegrityError(
            f"{protocol} cannot be mended: {why}", where, f"`runner doctor {protocol}` says what remains possible"
        )
    if project.git.commit(old) is None:
        return IntegrityError(
            f"the rewritten history of {protocol} does not verify: {why}",
            where,
            f"the old one, {old[:12]}, is not in this clone; fetch it from where it is",
        )
    return IntegrityError(
        f"the rewritten history of {protocol} does not verify, so it is not adopted: {why}",
        where,
        f"`{remedy.way_back(project, protocol, judged.tip, old)}` puts the old one back",
    )


def _keep(project: Project, protocol: str, old: str, tip: str, judged: Judged) -> str:
    """Keep the history that is no longer in the branch, and return what is lost by leaving it."""
    git, now = project.git, judged.walk.state
    assert now is not None
    if git.commit(old) is None:
        return f"{protocol}: adopted as it is at {tip[:12]}; the old history, {old[:12]}, is not in this clone any more"
    ref = f"{LOST}/{protocol}/{old[:12]}"
    git.update_refs({ref: (old, git.ref(ref))}, "runner: lost")
    before = snapshot.read(git, old, protocol).state
    if before.genesis != now.genesis:
        lost = "it is another protocol of the same name now"
    elif _gives_way(project, protocol, old, tip):
        lost = "what was done here beside what was published is done again"
    elif before.revision > now.revision:
        gone = range(now.revision + 1, before.revision + 1)
        lost = f"revision {gone[0]} is" if len(gone) == 1 else f"revisions {gone[0]} to {gone[-1]} are"
        lost += " no longer in it"
    else:
        lost = "no revision was lost"
    return f"{protocol}: adopted as it is at {tip[:12]}; {lost}; the old history is kept at {ref}"


def _mend(project: Project, protocol: str, judged: Judged, tell: Callable[[str], None]) -> None:
    """Commit the record as the history has it; where the folder was taken away, first people's files, as the person's."""
    git, walk, tip = project.git, judged.walk, judged.tip
    assert walk.state is not None
    here, there = git.ref(project.branch(protocol)), _seen_there(project, protocol)
    if here is None and there == tip:
        publishing.bring_history(project, protocol)
    folder = paths.folder(protocol)
    commits = list(walk.damaged_by)
    if not judged.has_folder:
        tip = _put_words_back(project, protocol, judged)
        commits.append(tip)
    commit = git.commit(tip)
    assert commit is not None
    now = {path.removeprefix(f"{folder}/"): entry for path, entry in git.files(tip, folder).items()}
    record: dict[str, TreeEntry | None] = {
        f"{folder}/{name}": walk.record.get(name)
        for name in {*now, *walk.record}
        if paths.is_record(name) and now.get(name) != walk.record.get(name)
    }
    tree = git.edit_tree(commit.tree, record)
    assert tree is not None
    files = {name: entry for name, entry in now.items() if not paths.is_record(name)} | walk.record
    names = sorted({name_in(protocol, path) for path in record})
    reason = f"changed by ordinary commits: {', '.join(names)}"
    repaired = ev.RecordRepaired(subject=protocol, commits=commits, reason=log.cut(reason))
    made = transaction.prepare(
        git,
        Snapshot(protocol, tip, tree, Folder(files), walk.state, walk.log),
        [repaired],
        time=project.who.timestamp(),
        actor=project.actor(),
        trusted=project.trusted.commit,
        author=project.runner(),
        sign_with=transition.signer(project, [repaired]),
    )
    left = judge(git, protocol, made.commit, project.trusted)
    if not left.is_whole:
        raise _refused(project, protocol, left, None)
    told = ", ".join(oid[:12] for oid in walk.damaged_by)
    told = f"{protocol}: the record is mended, {reason} ({told}); the code stays as they left it"
    if here not in (None, judged.tip) and not git.is_ancestor(here or "", judged.tip):
        _take_up(project, protocol, made, tell, told)
        return
    filed = transition.file(project, protocol, made)
    history_tip = next((new for new, _ in filed.values()), None)
    _publish(project, left, here, "runner: record-repaired", filed, history_tip)
    tell(told)
    _tell_unpublished(project, protocol, made.commit, tell)


def _take_up(
    project: Project, protocol: str, made: transaction.Transition, tell: Callable[[str], None], told: str
) -> None:
    """Have the branch here, which went on beside the damage, settle with the repair as with any tip that others published."""
    assert project.mirror is not None
    check = load.checker(project, protocol)
    # Before anything is pushed: the history here may tell of transitions that give way.
    publishing.settle(project, protocol, project.mirror, check, there=made.commit)
    tell(told)
    if project.setting("publish") == "always":
        tip = project.git.ref(project.branch(protocol))
        assert tip is not None
        publishing.push(project, protocol, tip)
    _tell_unpublished(project, protocol, made.commit, tell)


def _tell_unpublished(project: Project, protocol: str, oid: str, tell: Callable[[str], None]) -> None:
    there = _seen_there(project, protocol)
    if there is not None and not project.git.is_ancestor(oid, there):
        tell(f"{protocol}: the repair is here alone; `runner sync {protocol}` publishes it")


def _put_words_back(project: Project, protocol: str, judged: Judged) -> str:
    """Write a commit of the person's that puts their files of a folder back that one of theirs took away."""
    git, folder = project.git, paths.folder(protocol)
    tip = git.commit(judged.tip)
    assert tip is not None
    had: str | None = tip.oid
    while had is not None and git.tree(f"{had}:{folder}") is None:
        commit = git.commit(had)
        had = commit.parents[0] if commit and commit.parents else None
    assert had is not None
    words: dict[str, TreeEntry | None] = {
        path: entry for path, entry in git.files(had, folder).items() if not paths.is_record(name_in(protocol, path))
    }
    tree = git.edit_tree(tip.tree, words)
    assert tree is not None
    return git.person_commit(tree, (tip.oid,), project.person(), f"{protocol}: put plan and steps back\n".encode())


# --- what a person says about trust ------------------------------------------------------------------------------------


def repin(cwd: Path, who: Surroundings) -> str:
    """Trust the remote's default branch as it is now, at its address of now, and return what is trusted.

    Raises:
        RunnerError: there is no remote's branch to trust; what was pinned stays so.
    """
    with Git.open(cwd) as git:
        places = Places(git.common_dir, writable_state_home(who.state_home))
        before = places.pin.with_name(f"{places.pin.name}.before")
        with contextlib.suppress(FileNotFoundError):
            os.replace(places.pin, before)  # as it is: it may be damaged
        try:
            told = _pin_anew(git, places, who)
        except BaseException:  # Ctrl-C too, while the remote is asked
            with contextlib.suppress(FileNotFoundError):
                os.replace(before, places.pin)
            raise
        shutil.rmtree(before) if before.is_dir() else before.unlink(missing_ok=True)
        return told


def _pin_anew(git: Git, places: Places, who: Surroundings) -> str:
    remote = trusted.remote_name(git)
    if remote is None:
        return f"there is no remote: {trusted.last_seen(git, places).note}"
    try:
        mirror = Mirror.of(git, places, who)
        assert mirror is not None
        now = mirror.look()
    except UnreachableError:
        # Not reached: the address is a person's word and holds; which branch, its first answer says.
        return (
            f"{shown(trusted.remote_url(git, remote))} is trusted from its first answer on; it could not be reached now"
        )
    return f"{now.branch} of {shown(trusted.remote_url(git, remote))} is trusted, at {now.commit[:12]}"


def forget(project: Project, protocol: str) -> bool:
    """Take the protocol as it stands the next time it is looked at; return whether anything was remembered."""
    known = marks.read(project.places, protocol) is not None
    marks.forget(project.places, protocol)
    return known


# --- configuration -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """A key of config.yaml, what holds for it, and where that was said."""

    key: str
    value: Any
    source: str


def values(project: Project) -> list[Value]:
    """Return what holds for every key, and where it came from: option, environment, config.yaml, default.

    Raises:
        MalformedFileError: config.yaml is not valid.
    """
    config = project.config.model_dump(mode="json")
    told = project.config.model_dump(mode="json", exclude_unset=True)
    return [_overridden(project, one) for one in _flat("", config, told)]


def _overridden(project: Project, one: Value) -> Value:
    environ = project.who.environ
    match one.key:
        case "executor" | "publish":
            return Value(one.key, *project.source(one.key))
        case "engine.default" if project.options.get("engine"):
            return Value(one.key, [project.options["engine"]], "--engine")
    name = {"engine.default": "RUNNER_ENGINE", "identity.name": "RUNNER_NAME", "identity.email": "RUNNER_EMAIL"}.get(
        one.key, ""
    )
    if not environ.get(name):
        return one
    return Value(one.key, [environ[name]] if isinstance(one.value, list) else environ[name], name)


def _flat(prefix: str, config: Mapping[str, Any], told: Mapping[str, Any]) -> list[Value]:
    found: list[Value] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            inner = told.get(key)
            found += _flat(f"{name}.", value, inner if isinstance(inner, dict) else {})
        else:
            found.append(Value(name, value, paths.CONFIG if key in told else "default"))
    return found
