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

from runner.app import clones, examine, refs
from runner.app.examine import Judged
from runner.app.repair import Repair
from runner.errors import IntegrityError, RunnerError, UnreachableError, shown
from runner.executor import conclude, looking, signed
from runner.git import Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.store import marks, snapshot, transaction, trusted
from runner.store.places import Places, writable_state_home
from runner.store.project import Project
from runner.store.snapshot import Folder, Snapshot
from runner.store.surroundings import Surroundings
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
            judged = examine.judge(project.git, protocol, project.tip(protocol) or tip, project.trusted)
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
    """Put right what somebody put in the place of the protocol's history on the remote, which is asked."""
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
    with looking.at_work(project, protocol):
        git, tip = project.git, project.protocols()[protocol]
        judged, old = examine.judge(git, protocol, tip, project.trusted), examine.rewritten(project, protocol, tip)
        if judged.is_foreign and old is None:
            return
        if old is not None and not by_name:
            return  # whether that was meant is asked about each
        if not (judged.is_whole or judged.is_mendable):
            raise _refused(project, protocol, judged, old)
        adopted = _keep(project, protocol, old, tip, judged) if old is not None else ""
        if judged.is_mendable:
            _mend(project, protocol, judged, tell)
        elif old is not None:
            assert judged.walk.state is not None
            marks.write(project.places, protocol, tip, judged.walk.state.genesis)
        if adopted:
            tell(adopted)


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
        f"`{examine.way_back(project, protocol, judged.tip, old)}` puts the old one back",
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
    folder, branch = paths.folder(protocol), project.branch(protocol)
    commits = list(walk.damaged_by)
    if not judged.has_folder:
        tip = _put_words_back(project, protocol, judged)
        commits.append(tip)
    commit = git.commit(tip)
    assert commit is not None
    here = {path.removeprefix(f"{folder}/"): entry for path, entry in git.files(tip, folder).items()}
    record: dict[str, TreeEntry | None] = {
        f"{folder}/{name}": walk.record.get(name)
        for name in {*here, *walk.record}
        if paths.is_record(name) and here.get(name) != walk.record.get(name)
    }
    tree = git.edit_tree(commit.tree, record)
    assert tree is not None
    files = {name: entry for name, entry in here.items() if not paths.is_record(name)} | walk.record
    names = sorted({examine.name_in(protocol, path) for path in record})
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
        sign_with=signed.signer(project, [repaired]),
    )
    left = examine.judge(git, protocol, made.commit, project.trusted)
    if not left.is_whole:
        raise _refused(project, protocol, left, None)
    transaction.publish(
        git,
        project.places,
        project.who,
        branch=branch,
        old=judged.tip,
        new=made.commit,
        reason="runner: record-repaired",
        also=conclude.file(project, protocol, made),
    )
    marks.write(project.places, protocol, made.commit, made.state.genesis)
    told = ", ".join(oid[:12] for oid in walk.damaged_by)
    tell(f"{protocol}: the record is mended, {reason} ({told}); the code stays as they left it")


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
        path: entry
        for path, entry in git.files(had, folder).items()
        if not paths.is_record(examine.name_in(protocol, path))
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
    from runner.store.remote import Mirror

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
