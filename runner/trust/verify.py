"""`verify`: that a protocol's state is what its history says. Offline, from git's objects alone.

The chain is walked by first parents from genesis to tip. At each commit:

 1. the protocol's folder holds plain files with plain names;
 2. a transition is told from an ordinary commit by its trailers, and its message is exactly what its entries render to;
 3. the log is the log before with those entries added; older segments stay as they were;
 4. the events are legal, one transition a commit, revisions without a gap;
 5. state.json is the fold, byte for byte;
 6. digests: the plan and steps that an event names are the files of that commit; work stands where work may stand;
 7. an ordinary commit leaves the record as it was, and only adds approvals.

`advance` does the same for what is new since a tip that verified before; every runner does that before it acts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.errors import InsufficientHistoryError, IntegrityError, RunnerError
from runner.git import TREE, Commit, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, machine, message, paths, state
from runner.protocol.digest import digest, manifest_digest
from runner.protocol.events import Entry
from runner.protocol.state import State, Status

# Events that a transition may stand on when a plan's edit has not been taken up.
_SEGMENT_NAME = re.compile(r"log/(\d{4,})\.md")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `rule`: a name from `docs/verify.md`; `text`: one line."""

    rule: str
    commit: str
    path: str
    text: str


@dataclass(slots=True)
class Chain:
    """What a walk has seen so far: the state by the fold, and the record's files as the last transition left them."""

    protocol: str
    state: State | None = None
    log: bytes = b""
    record: dict[str, TreeEntry] = field(default_factory=dict)
    approvals: dict[str, TreeEntry] = field(default_factory=dict)
    trees: dict[int, str] = field(default_factory=dict)  # revision to tree, for `undone`
    transitions: int = 0
    damage: list[Finding] = field(default_factory=list)  # by ordinary commits, not repaired yet
    damaged_by: list[str] = field(default_factory=list)
    repaired: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What verify found for one protocol."""

    protocol: str
    transitions: int
    findings: tuple[Finding, ...]
    state: State | None
    tip: str
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all of it holds; an empty chain never does."""
        return not self.findings and self.transitions > 0


class _Broken(Exception):
    """A finding after which the walk cannot go on."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


def chain_of(git: Git, protocol: str, tip: str) -> list[Commit]:
    """Return the first-parent chain from genesis (the oldest commit whose parent has no such folder) to `tip`.

    Raises:
        InsufficientHistoryError: the chain leaves this clone before its genesis.
    """
    folder = paths.folder(protocol)
    found: list[Commit] = []
    at: str | None = tip
    while at is not None:
        commit = git.commit(at)
        if commit is None:
            raise InsufficientHistoryError(
                f"commit {at[:12]} of {protocol} is not in this clone",
                f"{len(found)} commits below {tip[:12]}",
                "run `git fetch --unshallow`" if git.is_shallow() else "run `git fetch`, then `runner verify` again",
            )
        if _entry(git, commit.tree, folder) is None:
            break
        found.append(commit)
        at = commit.parents[0] if commit.parents else None
    return found[::-1]


def _entry(git: Git, tree: str, path: str) -> TreeEntry | None:
    entry = TreeEntry(TREE, tree)
    for part in path.split("/"):
        entries = git.tree(entry.oid) if entry.mode == TREE else None
        if entries is None:
            raise InsufficientHistoryError(
                f"the tree {entry.oid[:12]} is not in this clone",
                path,
                "run `git fetch --refetch`, or verify in a full clone",
            )
        if part not in entries:
            return None
        entry = entries[part]
    return entry


def verify(git: Git, protocol: str, tip: str) -> Report:
    """Return what holds and what does not for the protocol whose branch is at `tip`.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell.
    """
    commits = chain_of(git, protocol, tip)
    if not commits:
        return Report(protocol, 0, (Finding("chain", tip, paths.folder(protocol), "there is no history"),), None, tip)
    walk = Chain(protocol)
    findings = walk_commits(git, walk, commits)
    notes = (f"{walk.repaired} damaged by ordinary commits and repaired",) if walk.repaired else ()
    return Report(protocol, walk.transitions, tuple(findings), walk.state, tip, notes)


def walk_commits(git: Git, walk: Chain, commits: Sequence[Commit]) -> list[Finding]:
    """Check `commits` (oldest first), going on from what `walk` has seen, and return what does not hold."""
    findings: list[Finding] = []
    for commit in commits:
        try:
            findings += _check(git, walk, commit)
        except _Broken as broken:
            findings.append(broken.finding)
            return [*walk.damage, *findings]
        except InsufficientHistoryError:
            raise
        except RunnerError as error:
            findings.append(Finding("format", commit.oid, error.where, error.what))
            return [*walk.damage, *findings]
    return [*walk.damage, *findings]


def advance(git: Git, protocol: str, tip: str, since: tuple[str, State] | None) -> State:
    """Return the state at `tip`, having checked what is new since a tip that verified before (else all of it).

    Raises:
        IntegrityError: the first finding, with the way out.
        InsufficientHistoryError: this clone does not have enough to tell.
    """
    if since is not None:
        old, known = since
        commits = [
            commit for oid in reversed(git.first_parents(tip, stop=old)) if (commit := git.commit(oid)) is not None
        ]
        if not commits or commits[0].parents[:1] != (old,):
            raise went_back(protocol, old, tip)
        walk = resume(git, protocol, old, known)
    else:
        commits = chain_of(git, protocol, tip)
        walk = Chain(protocol)
    findings = walk_commits(git, walk, commits)
    if findings or walk.state is None:
        finding = findings[0] if findings else Finding("chain", tip, paths.folder(protocol), "there is no history")
        raise IntegrityError(
            f"{protocol} does not verify: {finding.text}",
            f"{finding.path}, commit {finding.commit[:12]}",
            f"run `runner verify {protocol}` to see all of it, `runner doctor --fix {protocol}` to mend the record",
        )
    return walk.state


def went_back(protocol: str, old: str, tip: str) -> IntegrityError:
    """Return the error for a branch whose history was rewritten."""
    return IntegrityError(
        f"the history of {protocol} was rewritten: {old[:12]} is no longer in it",
        f"its branch is at {tip[:12]}",
        f"`runner doctor --fix {protocol}` adopts it as it is, and keeps the old one; `git reflog {protocol}` shows who moved it",
    )


def resume(git: Git, protocol: str, tip: str, known: State) -> Chain:
    """Return a walk that has come as far as `tip`, whose state is known."""
    walk = Chain(protocol, state=known)
    files = _folder(git, tip, protocol)
    data = git.blob(files[paths.LOG].oid)
    assert data is not None
    walk.log = data
    walk.record = {name: entry for name, entry in files.items() if paths.is_record(name)}
    walk.approvals = {name: entry for name, entry in files.items() if name.startswith("approvals/")}
    return walk


def _folder(git: Git, commit: str, protocol: str) -> dict[str, TreeEntry]:
    from runner.store.snapshot import folder_files

    return folder_files(git, commit, protocol) or {}


def _check(git: Git, walk: Chain, commit: Commit) -> list[Finding]:
    files = _folder(git, commit.oid, walk.protocol)  # 1.
    record = {name: entry for name, entry in files.items() if paths.is_record(name)}
    approvals = {name: entry for name, entry in files.items() if name.startswith("approvals/")}
    findings = _approvals(walk, commit, approvals)
    walk.approvals = approvals
    trailers = message.parse(commit.message)  # 2.
    if trailers is None or (trailers.protocol != walk.protocol):
        findings += _ordinary(walk, commit, record, forged=trailers is None and message.looks_forged(commit.message))
        return findings
    _transition(git, walk, commit, trailers, files, record, findings)
    return findings


def _approvals(walk: Chain, commit: Commit, approvals: dict[str, TreeEntry]) -> list[Finding]:
    return [
        Finding("approvals-only-added", commit.oid, _path(walk, name), "an approval was changed or deleted")
        for name, entry in walk.approvals.items()
        if approvals.get(name) != entry
    ]


def _path(walk: Chain, name: str) -> str:
    return f"{paths.folder(walk.protocol)}/{name}"


def _ordinary(walk: Chain, commit: Commit, record: dict[str, TreeEntry], *, forged: bool) -> list[Finding]:
    """7."""
    if walk.state is None:
        raise _Broken(
            Finding("genesis", commit.oid, paths.folder(walk.protocol), "the folder was not made by the runner")
        )
    if forged:
        return [Finding("trailers", commit.oid, "", "a commit that is no transition carries a Runner- trailer")]
    if record == walk.record:
        if walk.damage:  # put back by hand
            walk.damage, walk.damaged_by = [], []
        return []
    names = sorted(name for name in {*record, *walk.record} if record.get(name) != walk.record.get(name))
    walk.damage = [
        Finding("record-changed", commit.oid, _path(walk, name), "an ordinary commit changed the runner's record")
        for name in names
    ]
    walk.damaged_by.append(commit.oid)
    return []


def _transition(
    git: Git,
    walk: Chain,
    commit: Commit,
    trailers: message.Trailers,
    files: dict[str, TreeEntry],
    record: dict[str, TreeEntry],
    findings: list[Finding],
) -> None:
    def broken(rule: str, name: str, text: str) -> _Broken:
        return _Broken(Finding(rule, commit.oid, _path(walk, name) if name else "", text))

    if paths.LOG not in record or paths.STATE not in record:
        raise broken("record", paths.STATE, "a transition without its record")
    new_log, new_state = git.blob(record[paths.LOG].oid), git.blob(record[paths.STATE].oid)
    if new_log is None or new_state is None:
        raise InsufficientHistoryError(
            "the record's objects are not in this clone",
            commit.oid,
            "run `git fetch --refetch`, or verify in a full clone",
        )
    # 3. the log before, whole, either goes on or lies under the next name in log/
    old_log, rotated = walk.log, None
    if len(old_log) > log.SEGMENT:
        number = 1 + sum(_SEGMENT_NAME.fullmatch(name) is not None for name in walk.record)
        rotated, old_log = f"log/{number:04d}.md", b""
        entry = record.get(rotated)
        if entry is None or git.blob(entry.oid) != walk.log:
            raise broken("log", rotated, "the full log was not kept whole")
    if not new_log.startswith(old_log):
        raise broken("log", paths.LOG, "the log does not go on from the one before")
    raw = log.parse_raw(new_log[len(old_log) :], f"{_path(walk, paths.LOG)} in {commit.oid[:12]}")
    entries: list[Entry] = [log.entry_of(one, _path(walk, paths.LOG)) for one in raw]
    if not entries:
        raise broken("log", paths.LOG, "a transition without an event")
    # 4.
    repair = any(isinstance(entry.event, ev.RecordRepaired) for entry in entries)
    kept = {name: entry for name, entry in walk.record.items() if name not in (paths.LOG, paths.STATE)}
    for name, entry in kept.items():
        if record.get(name) != entry:
            raise broken("record-changed", name, "a transition changed a file of the record that is never changed")
    odd = [name for name in record if name not in walk.record and name.startswith("log/") and name != rotated]
    if odd:
        raise broken("log", odd[0], "a segment of the log that was not due")
    before = walk.state
    try:
        walk.state = machine.fold(walk.state, entries)
    except RunnerError as error:
        raise broken("legality", paths.LOG, error.what) from error
    assert walk.state is not None
    walk.state = dataclasses.replace(walk.state, log=digest(new_log))
    if walk.state.protocol != walk.protocol:
        raise broken("genesis", paths.LOG, f"the log is of {walk.state.protocol}")
    # 5.
    if state.render(walk.state) != new_state:
        raise broken("fold", paths.STATE, "state.json is not the fold of the log")
    # 2. the message says the same as the log
    if message.render(walk.protocol, entries, trailers.trusted) != commit.message:
        findings.append(Finding("message", commit.oid, "", "the commit's message is not that of its events"))
    if walk.damage:
        if not repair:
            raise _Broken(walk.damage[0])
        told = next(entry.event for entry in entries if isinstance(entry.event, ev.RecordRepaired))
        if not set(walk.damaged_by) <= set(told.commits):
            raise broken("record-repaired", paths.LOG, "it does not name the commits that it repairs")
        walk.repaired += len(walk.damaged_by)
        walk.damage, walk.damaged_by = [], []
    findings += _digests(git, walk, commit, entries, files)  # 6.
    findings += _work(git, walk, commit, entries, before)
    walk.log, walk.record = new_log, record
    walk.trees[walk.state.revision] = commit.tree
    walk.transitions += 1


def _digests(
    git: Git, walk: Chain, commit: Commit, entries: Sequence[Entry], files: dict[str, TreeEntry]
) -> list[Finding]:
    """6. What an event says of people's files is what stands in its commit."""
    assert walk.state is not None
    if not any(isinstance(entry.event, ev.Planned | ev.PlanEdited) for entry in entries):
        return []
    found = []
    told = {name: git.blob(files[name].oid) or b"" for name in (paths.PLAN, paths.CONTEXT) if name in files}
    if manifest_digest(told) != walk.state.plan:
        found.append(
            Finding("digest", commit.oid, _path(walk, paths.PLAN), "the plan's digest is not that of its files")
        )
    standing = {}
    for name, entry in files.items():
        if paths.is_words(name) and name not in (paths.PLAN, paths.CONTEXT):
            standing[name.partition("-")[2].removesuffix(".md")] = (int(name.partition("-")[0]), entry)
    for slug, step in walk.state.open_steps():
        place = standing.pop(slug, None)
        data = git.blob(place[1].oid) if place else None
        if place is None or data is None or digest(data) != step.digest or place[0] != step.place:
            found.append(
                Finding(
                    "digest",
                    commit.oid,
                    _path(walk, f"{step.place:02d}-{slug}.md"),
                    "the step's digest is not that of its file",
                )
            )
    found += [
        Finding("digest", commit.oid, _path(walk, f"{place:02d}-{slug}.md"), "a step that the record does not have")
        for slug, (place, _) in standing.items()
    ]
    return found


def _work(git: Git, walk: Chain, commit: Commit, entries: Sequence[Entry], before: State | None) -> list[Finding]:
    """6. A transition changes no words of people's, and code only where its events bring work."""
    found: list[Finding] = []
    if before is None or not commit.parents:
        if before is None and walk.state is not None and walk.state.status is Status.PENDING and len(entries) > 1:
            found.append(Finding("genesis", commit.oid, paths.folder(walk.protocol), "it did not begin with a plan"))
        return found
    parent = git.commit(commit.parents[0])
    if parent is None:
        return found
    undone = next((entry.event for entry in entries if isinstance(entry.event, ev.Undone)), None)
    own = f"{paths.folder(walk.protocol)}/"
    may_work = any(isinstance(entry.event, ev.StepFinished) for entry in entries)
    for path in git.changed(parent.tree, commit.tree):
        if path.startswith(own):
            if not paths.is_record(path.removeprefix(own)):
                found.append(Finding("words", commit.oid, path, "a transition changed people's words"))
        elif undone is not None:
            continue
        elif not may_work and len(commit.parents) < 2:
            found.append(Finding("work", commit.oid, path, "a transition without work changed this"))
        elif path.startswith(f"{paths.ROOT}/") and not path.startswith(paths.MEMORY):
            found.append(Finding("work", commit.oid, path, "a step changed what only people may change"))
    if undone is not None and undone.to in walk.trees:
        for path in git.changed(walk.trees[undone.to], commit.tree):
            if not path.startswith(f"{paths.ROOT}/"):
                found.append(Finding("undone", commit.oid, path, f"it is not as it was at revision {undone.to}"))
    for entry in entries:
        if isinstance(entry.event, ev.QaPassed | ev.QaFailed) and entry.event.tree != parent.tree:
            found.append(Finding("evidence", commit.oid, "", "QA did not look at the tree that it speaks of"))
    return found
