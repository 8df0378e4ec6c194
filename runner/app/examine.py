"""What is wrong here: with this machine, with the clone, with the record of its protocols. Looks, and changes nothing.

A finding says what was found, where, what follows from it, and what to type. Mending is `runner.app.heal`'s.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runner import sandbox
from runner.app import clones, halves, journals, leftovers, objects, refs
from runner.app import verify as proof
from runner.app.repair import Finding, Repair
from runner.errors import InsufficientHistoryError, RunnerError
from runner.executor import remedy
from runner.folders import matching
from runner.git import Git, person
from runner.protocol import ids, paths
from runner.store import clash, locks, marks, recovery, workspace, worktree
from runner.store.places import Places, writable_state_home
from runner.store.project import Project
from runner.store.surroundings import Surroundings
from runner.store.trusted import Trusted
from runner.trust import signing, verify, walk
from runner.trust.verify import Judged, judge, name_in

ROOM = 200_000_000  # bytes on the disk below which work is likely to fail


def examine(cwd: Path, who: Surroundings, options: Mapping[str, str], only: str | None = None) -> list[Finding]:
    """Return what is found in the repository of `cwd`; of protocols, in all of them or in `only`."""
    try:
        git = Git.open(cwd)
    except RunnerError as error:
        headless = refs.headless(cwd)
        why = headless.finding if headless else _told(error, "nothing works here until it is mended")
        return [*_room((who.state_home,)), *_state(who), why]
    broken: list[Finding] = []
    with git:
        places = Places(git.common_dir, writable_state_home(who.state_home))
        found = [*_room((git.common_dir, places.state_home)), *_state(who), *_writable(places)]
        try:
            for repair in repairs(git, places, who):
                broken.append(repair.finding)
            with Project.open(cwd, who, options) as project:
                _follow_fetch(project)
                for one in _in_project(project, only):
                    broken.append(one)
        except RunnerError as error:
            if all(one.kind == "note" for one in broken):  # else git stopped at what was found already
                broken.append(_told(error, "no protocol can be worked on"))
    return [*found, *broken]


def _in_project(project: Project, only: str | None) -> Iterator[Finding]:
    yield from (*_person(project), *_settings(project), *_trusted(project), *_numbers(project))
    here = project.protocols()
    if only is not None and only not in here:
        yield Finding(
            "note", f"{only} has no branch here", project.branch(only), "it can only be looked at", "`git fetch`"
        )
    yield from (repair.finding for repair in in_project(project, only))
    yield from journals.look(project.places, only)
    yield from _workspaces(project, only)
    for protocol, tip in here.items():
        if only in (None, protocol):
            yield from _protocol(project, protocol, tip)


def _follow_fetch(project: Project) -> None:
    """Look with the trusted branch as git fetched it, where that goes on from the runner's own copy; nothing is done by it."""
    trusted = project.trusted
    there = project.git.resolve(f"refs/remotes/{trusted.remote}/{trusted.branch}") if trusted.remote else None
    if there not in (None, trusted.commit) and project.git.is_ancestor(trusted.commit, str(there)):
        own = f"; the runner's own copy is {trusted.commit[:12]}"
        note = f"trusted branch as last fetched by git{own}{f', as of {trusted.time}' if trusted.time else ''}"
        project.trust(Trusted(str(there), trusted.branch, trusted.remote, note, trusted.time))


def repairs(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield what is broken in the clone itself, each looked for after what came before it was seen to."""
    yield from leftovers.dead_locks(git, places, who)
    yield from refs.foundations(git, places, who)
    yield from leftovers.severed_worktrees(git)
    yield from objects.look(git, places, who)
    yield from refs.look(git, places, who)
    yield from leftovers.cut_follows(git, places, who)
    yield from leftovers.vanished_worktrees(git)
    yield from leftovers.temporary(git, places, who)
    yield from leftovers.build_up(git)


def in_project(project: Project, only: str | None) -> Iterator[Repair]:
    """Yield what the clone lacks, and which protocols are here by half."""
    yield from leftovers.unfinished_renumberings(project)
    yield from leftovers.unfinished_worktrees(project)
    yield from clones.look(project)
    yield from halves.look(project, only)
    if only is None:
        yield from leftovers.ended(project)


def _told(error: RunnerError, consequence: str) -> Finding:
    return Finding("here", error.what, error.where, consequence, error.hint)


# --- the machine -------------------------------------------------------------------------------------------------------


def _room(folders: Sequence[Path]) -> Iterator[Finding]:
    seen = set()
    for folder in folders:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with contextlib.suppress(OSError):
            free, device = shutil.disk_usage(folder).free, folder.stat().st_dev
            if free < ROOM and device not in seen:
                yield Finding(
                    "here",
                    f"the disk has {free // 1_000_000} MB left",
                    str(folder),
                    "steps and commits may fail; what was not published whole is not published at all",
                    "make room; `runner clean` takes away what finished protocols left",
                )
            seen.add(device)


def _state(who: Surroundings) -> Iterator[Finding]:
    real = writable_state_home(who.state_home)
    if real != who.state_home:
        yield Finding(
            "here",
            "your own state cannot be written where it belongs",
            str(who.state_home),
            f"workspaces, marks and pins lie in {real} and are gone when that is emptied",
            "make it writable, or set XDG_STATE_HOME to a folder of yours",
        )


def _writable(places: Places) -> Iterator[Finding]:
    """Tell of what is not this user's to write, as it is after a `sudo git` or `sudo runner`, and of files in folders' places."""
    common = places.common
    ours = (places.beside, places.beside / "locks", places.beside / "journal")
    wrong = [path for path in ours if os.path.lexists(path) and not path.is_dir()]
    folders = [common, common / "objects", *ours]
    folders += matching(common, "refs/**/", "logs/**/", "objects/*/")
    closed = [path for path in folders if path.is_dir() and not os.access(path, os.W_OK | os.X_OK)]
    closed += [path for path in matching(ours[1], "*") if path.is_file() and not os.access(path, os.W_OK)]
    for path in wrong:
        yield Finding(
            "here",
            "a file stands where a folder of the runner's belongs",
            str(path),
            "nothing can be run or recorded in this clone",
            f"`mv {shlex.quote(str(path))} {shlex.quote(f'{path}.old')}`",
        )
    if closed:
        yield Finding(
            "here",
            f"you may not write in this clone: {len(closed)} folder{'s' if len(closed) != 1 else ''} of it, or files",
            str(closed[0]),
            "nothing can be run or recorded here by you; reading works",
            f'`sudo chown -R "$(id -u)" {shlex.quote(str(common))}` where it is yours, or use a clone of your own',
        )


# --- the project -------------------------------------------------------------------------------------------------------


def _person(project: Project) -> Iterator[Finding]:
    try:
        project.person()
    except RunnerError as error:
        yield _told(error, "nothing that carries your words can be committed")
    if person.signs_commits(project.git):
        try:
            signing.check_commits(project.git)
        except RunnerError as error:
            yield _told(error, "your git signs commits (commit.gpgsign), and cannot: nothing of yours can be committed")


def _settings(project: Project) -> Iterator[Finding]:
    try:
        project.refuse_unsupported()
        name = project.setting("executor")
        sandbox.choose(name)
    except RunnerError as error:
        yield _told(error, "steps that run commands cannot be run")
        return
    if name == "host":
        yield Finding(
            "note",
            "commands of steps run on this machine without a sandbox",
            f"executor: host, by {project.source('executor')[1]}",
            "they can do what you can do",
            "`--executor sandbox` where bubblewrap is installed",
        )


def _trusted(project: Project) -> Iterator[Finding]:
    trusted = project.trusted
    if trusted.note:
        yield Finding(
            "note",
            trusted.note,
            f"{trusted.branch} at {trusted.commit[:12]}",
            "configuration and tools are read from there",
            f"`runner policy test --live` asks {trusted.remote} for it, and runs the policy's examples"
            if trusted.remote
            else "a remote whose default branch is protected makes it a matter of review",
        )
    if trusted.config(project.git) is None:
        yield Finding(
            "note",
            "nothing is set up",
            f"{paths.CONFIG} on {trusted.branch}",
            "the defaults hold",
            "`runner init` writes them down",
        )


def _numbers(project: Project) -> Iterator[Finding]:
    by_number: dict[int, list[str]] = {}
    for protocol in project.protocols():
        by_number.setdefault(ids.number_of(protocol), []).append(protocol)
    for number, sharing in by_number.items():
        if len(sharing) > 1:
            yield Finding(
                "note",
                f"{len(sharing)} protocols have the number {number}",
                ", ".join(sharing),
                f"`{number}` does not say which one is meant",
                "give the whole id",
            )


def _workspaces(project: Project, only: str | None) -> Iterator[Finding]:
    """Tell of workspaces that cannot be reset: what commands leave never keeps one from that, but other users' folders do."""
    configured = project.config.workspace.path
    try:
        folder = workspace.place(project.places, "0000-none", configured).root.parent
    except RunnerError as error:
        yield _told(error, "steps that run commands cannot be run")
        return
    if configured:
        beside = {_device(project.git.common_dir), _device(project.places.state_home)}
        yield from _room((folder,)) if _device(folder) not in beside else ()
    for path in matching(folder, "*"):
        if not ids.is_protocol_id(path.name) or only not in (None, path.name):
            continue
        try:
            closed: str | None = workspace.not_ours(workspace.Workspace(path))
            why = "you may not change what is in a folder of it"
        except OSError as error:
            closed, why = str(path), str(error.strerror)
        if closed is not None:
            yield Finding(
                "here",
                f"the workspace of {path.name} can be neither reset nor taken away: {why}",
                closed,
                f"no step of {path.name} that runs something can begin here",
                f"`sudo rm -r {shlex.quote(str(path))}`: nothing of worth is in it, and the next step makes it anew",
            )


def _device(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.stat().st_dev


# --- a protocol --------------------------------------------------------------------------------------------------------


def rewritten(project: Project, protocol: str, tip: str) -> str | None:
    """Return the commit that verified here last where the branch's history no longer has it, else None."""
    known = marks.read(project.places, protocol)
    tip = project.tip(protocol) or tip  # a runner that is at work moved it since, and then the mark
    if known is None or known == tip:
        return None
    if project.git.commit(known) is None:
        return known
    return None if verify.has(project.git, protocol, tip, known) else known


def of_protocol(project: Project, protocol: str) -> Iterator[Finding]:
    """Yield what is found of a protocol whose branch is here."""
    yield from _protocol(project, protocol, project.protocols()[protocol])


def _protocol(project: Project, protocol: str, tip: str) -> Iterator[Finding]:
    git, branch = project.git, project.branch(protocol)
    if (other := clash.published(project, protocol)) is not None:
        told = clash.error(project, protocol, other)
        yield Finding("integrity", told.what, told.where, "what is done of it here cannot be published", told.hint)
    try:
        judged, old = judge(git, protocol, tip, project.trusted), rewritten(project, protocol, tip)
    except InsufficientHistoryError as error:
        yield _told(error, f"nobody can tell here whether {protocol} is what its history says")
        return
    except RunnerError as error:
        yield Finding("integrity", error.what, error.where, f"{protocol} cannot be worked on", error.hint)
        return
    if old is not None:
        yield Finding(
            "integrity",
            f"the history of {protocol} was rewritten: {old[:12]} is no longer in it",
            f"{branch} at {tip[:12]}",
            "nothing goes on until a person says that this is meant",
            remedy.of_rewritten(project, protocol, judged, old),
        )
        if remedy.is_adoptable(project, protocol, judged, old):
            return
    yield from _there(project, protocol, tip, judged)
    if judged.is_whole:
        yield from _by_hand(project, protocol, tip)
        lacking = clones.transcripts(project, protocol, judged.walk)
        if lacking is not None:
            yield lacking.finding
        replaced = clones.replaced(project, protocol, judged.walk) if lacking is None else None
        if replaced is not None:
            yield replaced.finding
        yield from _beside(project, judged, told={"mark", *(("transcript",) if lacking is not None else ())})
        return
    if judged.is_foreign:
        if old is None:
            name = branch.removeprefix("refs/heads/")
            yield Finding(
                "note",
                f"the branch {name} is named like a protocol and has none",
                f"{branch} at {tip[:12]}",
                "it is listed as unreadable",
                f"`git branch -m {name} NAME` where it is another branch of yours",
            )
        return
    if not judged.has_folder and judged.is_mendable:
        yield Finding(
            "integrity",
            f"the folder of {protocol} was taken away by commit {judged.walk.damaged_by[0][:12]}",
            f"{paths.folder(protocol)} in {tip[:12]}",
            "it cannot be worked on",
            f"`runner doctor --fix {protocol}` puts it back",
        )
        return
    for finding in judged.findings:
        yield Finding(
            "integrity",
            f"{protocol} does not verify: {finding.text} ({finding.rule})",
            f"{finding.path or branch}, commit {finding.commit[:12]}",
            "nothing goes on from a record that is not the runner's",
            f"`runner doctor --fix {protocol}` mends it, with a commit that says so"
            if judged.is_mendable
            else _remaining(project, protocol, judged, finding),
        )


def _there(project: Project, protocol: str, tip: str, here: Judged) -> Iterator[Finding]:
    """Tell of a tip on the remote, as it was last seen, that does not verify."""
    there = seen_there(project, protocol, tip)
    if there is None or not here.is_whole:
        return
    try:
        judged = judge(project.git, protocol, there, project.trusted)
    except RunnerError:
        return  # it is not all here
    if not (judged.is_whole or judged.is_foreign):
        finding = judged.findings[0]
        yield Finding(
            "integrity",
            f"{protocol} does not verify on {project.trusted.remote}: {finding.text} ({finding.rule})",
            f"{finding.path or project.branch(protocol)}, commit {finding.commit[:12]}",
            "nothing is taken from there, and nothing that is here can be published; here it holds",
            remedy.of_remote(project, protocol, judged),
        )


def seen_there(project: Project, protocol: str, tip: str) -> str | None:
    """Return what the remote was last seen to have of a protocol, where that is not in the history of `tip`; else None."""
    git, name = project.git, ids.branch_of(project.pattern, protocol)
    mirror = project.mirror
    if mirror is None and (project.places.mirror / "HEAD").exists():
        mirror = recovery.remote(git, project.places, project.who)
    there = mirror.refs().get(f"refs/heads/{name}") if mirror else None
    if there is None or git.commit(there) is None or git.is_ancestor(there, tip):
        return None
    return there if clash.published(project, protocol) is None else None


def _remaining(project: Project, protocol: str, judged: Judged, finding: walk.Finding) -> str:
    if finding in judged.walk.damage:
        if paths.is_record(name_in(protocol, finding.path)):
            return "see to the others first"
        there = worktree.on_branch(project.git, project.branch(protocol))
        at = f" -C {there[0].path}" if there else ""
        return f"`git{at} rm -- {finding.path}` and commit that; a file of people's is theirs to take away"
    commit = project.git.commit(finding.commit)
    good = commit.parents[0] if commit and commit.parents and judged.walk.state is not None else None
    if good is None:
        return f"it cannot be mended; `git log {project.branch(protocol)}` shows what happened"
    back = remedy.way_back(project, protocol, judged.tip, good)
    return f"`{back}` goes back to before that commit, and `runner doctor --fix {protocol}` adopts that"


def _beside(project: Project, judged: Judged, told: set[str]) -> Iterator[Finding]:
    """Yield what `runner verify` finds of what lies beside a chain that holds. `told`: rules whose findings are reported already."""
    protocol = judged.walk.protocol
    try:
        report, code = proof.prove(project, protocol, walked=judged.report)
    except RunnerError as error:
        yield _told(error, f"nobody can tell here whether {protocol} is what its history says")
        return
    for one in report.findings:
        if one.rule in told or (code == InsufficientHistoryError.exit_code and "transcript" in told):
            continue
        if code == InsufficientHistoryError.exit_code:
            what, _, hint = one.text.rpartition(": ")
            yield Finding(
                "here", what, one.path, f"nobody can tell here whether {protocol} is what its history says", hint
            )
            continue
        yield Finding(
            "integrity",
            f"{protocol} does not verify: {one.text} ({one.rule})",
            f"{one.path}, commit {one.commit[:12]}",
            "its chain holds, and what lies beside it does not say the same",
            f"`runner verify {protocol}` shows all of it; docs/verify.md says what the rule `{one.rule}` asks",
        )


def _by_hand(project: Project, protocol: str, tip: str) -> Iterator[Finding]:
    """Tell of changes of the record in a worktree that are in no commit, but for those that a runner is making."""
    ref = project.branch(protocol)
    is_cut = project.places.making(protocol).exists() or worktree.is_cut(
        project.places, ref
    )  # which has a finding of its own
    if locks.is_held(project.places.lock(protocol)) or is_cut:
        return
    prefix = f"{paths.folder(protocol)}/"
    for tree in worktree.on_branch(project.git, project.branch(protocol)):
        changed = worktree.uncommitted(project.git, tree, prefix.rstrip("/"))
        names = sorted(path for path in changed if paths.is_record(path.removeprefix(prefix)))
        if names and project.tip(protocol) == tip:
            yield Finding(
                "here",
                f"the runner's record was changed by hand: {', '.join(names[:3])}",
                str(tree.path),
                "the next transition would overwrite it, so it is refused",
                f"`git -C {tree.path} restore --staged --worktree -- {shlex.join(names)}`",
            )
