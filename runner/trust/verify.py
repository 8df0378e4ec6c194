"""`verify`: that a protocol's state is what its history says. Offline, from git's objects alone.

The chain is walked by first parents from genesis to tip, and every commit is asked the rules of `rules.OF_COMMIT`:

 1. paths            plain files with plain names, nothing that could be taken for the folder
 2. approvals        only added, and none is left out by a merge; those that an event counts are there
 3. genesis          the first commit is a transition with `created`, the only one
 4. trailers         an ordinary commit has none, nor what looks like one
 5. record-changed   an ordinary commit leaves the record alone (or it is repaired, by name, before anything else happens)
 6. commit           a transition has one parent and plain headers
 7. message          its message is what its entries render to
 8. log              the log before, whole, and the entries added
 9. record           the record's other files never change; a new one is named by an event
10. transition       one transition a commit
11. legality         each event may happen then, revisions without a gap
12. fold             state.json is the fold, byte for byte
13. repair           after damage comes `record-repaired`, which names the commits that did it
14. words            a transition changes no plan files; a planner's plan is added once
15. work             code changes only where work ends
16. plan             plan and steps are recorded as the files say
17. digest           the step that was carried out, and its artifacts, are those that are named
18. evidence         QA looked at the tree before, at all that the step wants, and nothing of it failed; none was left out
19. undone           an undo restores the tree and the record of its revision
20. counted          the approvals that an event uses counted then, and were enough
21. trusted          approvals were counted, and work was done, under the trusted branch's policy, never an older one than before
22. needed           each action had the approvals that the policy of then and the plan required
23. signed           a transition is signed by a key that is listed, where the policy wants that
29. forked           steps that a fork has as done were done at the commit where it starts, by a record that verifies

Those of `rules.OF_PROTOCOL` are asked about what lies beside the chain: 24. transcript, 25. base, 26. seal, 28. merge; `app.verify`
asks what the person's own machine has seen: 27. mark.

A commit is a transition by its trailers alone. Where the policy asks for no signatures, this proves consistency, not who ran them.
`advance` verifies only commits since a tip that verified before; every runner does that before it acts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from runner.errors import InsufficientHistoryError, IntegrityError, RunnerError, UnsupportedError
from runner.git import TREE, Commit, Git, GitError
from runner.git.objects import name_of
from runner.lines import few
from runner.protocol import events as ev
from runner.protocol import log, machine, paths, state
from runner.protocol.log import RawEntry
from runner.protocol.state import State
from runner.store import record
from runner.store.record import is_transition, transition_of
from runner.store.trusted import Trusted
from runner.trust import rules
from runner.trust.rules import ends
from runner.trust.transitions import AHEAD, History, chain_of, commit_of, first_parents
from runner.trust.walk import Evidence, Finding, Named, ParsedCommit, Report, Walk, folder_in

SMALL = 512 * 1024  # bytes of a record's file that is read ahead
RECORD_MOST = 64 * 1024 * 1024  # bytes of log.md or state.json; more is not read
# After these the fold means nothing any more, and the walk ends.
FATAL = frozenset({"genesis", "log", "legality", "fold", "repair", "readable"})
# What a file that nobody's runner wrote can make of the parsers.
_UNREADABLE = (ValueError, ArithmeticError, LookupError, TypeError, RecursionError)


def verify(git: Git, protocol: str, tip: str, trusted: Trusted | None = None) -> Report:
    """Verify the whole chain of the protocol whose branch is at `tip`; `beside` then verifies what lies beside it.

    `trusted`: the trusted branch as last seen, whose revocations count; None: only what the chain names is known.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell.
    """
    walk = _start(git, protocol, trusted)
    try:
        commits = chain_of(git, protocol, tip)
    except InsufficientHistoryError:
        raise
    except (RunnerError, *_UNREADABLE) as error:
        _refuse_missing(git, error, tip)
        return Report(walk, tip, (_unreadable(walk, tip, error),))
    if not commits:
        nothing = Finding("genesis", tip, paths.folder(protocol), "there is no history")
        return Report(walk, tip, (nothing,), is_foreign=True)
    findings = walk_commits(walk, commits) or list(_damaged(walk, tip))
    return Report(walk, tip, tuple(findings), tuple(_notes(walk)))


def _damaged(walk: Walk, tip: str) -> Iterator[Finding]:
    """Yield a finding if state.json of the last commit, which every command shows, has other bytes than its id says."""
    oid = walk.record[paths.STATE].oid
    if name_of("blob", walk.git.require(oid, walk.path(paths.STATE)), walk.git.object_format) != oid:
        told = "its bytes are not those of its id; `git fsck` says which objects are damaged"
        yield Finding("fold", tip, walk.path(paths.STATE), told)


def beside(git: Git, report: Report, evidence: Evidence) -> Report:
    """Verify what lies beside a chain: bases, transcripts, the origins of a fork, its merge and its seal.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell, and nothing was found.
    """
    findings = list(report.findings)
    try:
        for _, _, rule in rules.OF_PROTOCOL:
            findings += rule(git, report, evidence)
    except RunnerError:
        if not findings:  # else they are reported, though not all can be verified
            raise
    if not findings and (sealed := ends.seal_note(git, report)):
        evidence.notes.append(sealed)
    told = report.walk.past.told if report.walk.past is not None else ()
    if not findings and (older := ends.older_policies(git, report.protocol, report.tip, evidence.trusted, told)):
        evidence.notes.append(older)
    return report._replace(findings=tuple(findings), notes=(*report.notes, *evidence.notes))


def unknown(git: Git, protocol: str, finding: Finding) -> Report:
    """Return the report of a protocol that this clone lacks parts of; `finding` names them."""
    return Report(_start(git, protocol, None), "", (finding,))


def _start(git: Git, protocol: str, trusted: Trusted | None) -> Walk:
    def of_origin(origin: str, tip: str) -> Report:
        return verify(git, origin, tip, trusted)

    return Walk(git, protocol, trusted, of_origin, past=History(git, protocol))


def _notes(walk: Walk) -> Iterator[str]:
    if walk.repaired:
        count = "an ordinary commit" if walk.repaired == 1 else f"{walk.repaired} ordinary commits"
        yield f"the record was damaged by {count}, and repaired"
    if walk.put_back:
        yield "ordinary commits damaged the record, and a person reverted them"
    if walk.moved:
        yield f"the branch was moved: it was started on {walk.moved[:12]}"
    yield from walk.taken_over
    if walk.reviews:
        plural = "a review" if walk.reviews == 1 else f"{walk.reviews} reviews"
        yield f"{plural} on the forge: said by the forge, not provable offline"
    if walk.counted:
        yield "timestamps are unproven: keys and approvals were judged at the times of the record"
    if walk.unseen:
        gone = ", ".join(sorted(oid[:12] for oid in walk.unseen)[:3])
        yield f"whose approval was required is unknown where the trusted branch's commit is gone: {gone}"
    if unused := _unused(walk):
        yield f"not needed: {few(unused)}"


def _unused(walk: Walk) -> list[str]:
    """Return the files in approvals/ that no event used: they count for nothing."""
    return [
        name for name in sorted(walk.folder.approvals) if name[len(paths.APPROVALS) :].split(".")[0] not in walk.counted
    ]


def walk_commits(walk: Walk, commits: Sequence[str]) -> list[Finding]:
    """Check `commits` (oldest first), from where `walk` is, and return the findings."""
    findings: list[Finding] = []
    read = Ahead()
    for number, oid in enumerate(commits):
        if number % AHEAD == 0:
            read = Ahead()
            with contextlib.suppress(RunnerError, *_UNREADABLE):  # told of the commit that it stands in
                read = _ahead(walk.git, walk.protocol, commits[number : number + AHEAD])
        try:
            commit = commit_of(walk.git, oid)
            found = _check(walk, commit, read)
            if walk.past is not None:
                own = transition_of(commit, walk.protocol)
                walk.past.add(commit.oid, own.trailers.trusted if own is not None else None)
        except InsufficientHistoryError:
            raise
        except (RunnerError, *_UNREADABLE) as error:
            _refuse_missing(walk.git, error, oid)
            found = [_unreadable(walk, oid, error)]
        findings += found
        if any(finding.rule in FATAL for finding in found):
            break
    return [*findings, *walk.damage]


class Ahead(NamedTuple):
    """Files that were read ahead: log.md that is not too big, by id, and the ids of each state.json that is here."""

    logs: Mapping[str, bytes] = {}
    states: Collection[str] = ()


def _ahead(git: Git, protocol: str, oids: Sequence[str]) -> Ahead:
    """Have git read what these commits will be asked for."""
    git.warm(oids)
    commits = [commit_of(git, oid) for oid in oids]
    git.warm(commit.tree for commit in commits)
    found = [git.tree(commit.tree) or {} for commit in commits]
    for name in (paths.ROOT, protocol):
        trees = [tree[name].oid for tree in found if name in tree and tree[name].mode == TREE]
        git.warm(trees)
        found = [git.tree(oid) or {} for oid in trees]
    inner = [name for name, entry in found[-1].items() if entry.mode == TREE] if found else []
    git.warm(tree[name].oid for tree in found for name in inner if name in tree and tree[name].mode == TREE)
    logs, states = ([tree[name].oid for tree in found if name in tree] for name in (paths.LOG, paths.STATE))
    sizes = dict(zip([*logs, *states], git.sizes([*logs, *states]), strict=True))
    small = [oid for oid in dict.fromkeys(logs) if (sizes[oid] or SMALL) < SMALL]
    return Ahead(_logs(git, small, sizes), {oid for oid in states if sizes[oid] is not None})


def _logs(git: Git, oids: Sequence[str], sizes: Mapping[str, int | None]) -> dict[str, bytes]:
    """Return the bytes of logs that are here, given in the order of their commits.

    A log is the start of the next one: what has the id of such a start is not read.
    """
    found, last, others = dict[str, bytes](), git.blob(oids[-1]) if oids else None, list[str]()
    for oid in reversed(oids):
        start = (last or b"")[: sizes[oid]]
        if len(start) == sizes[oid] and name_of("blob", start, git.object_format) == oid:
            found[oid] = start
        else:
            others.append(oid)
    read = zip(others, git.blobs(others), strict=True)
    return found | {oid: data for oid, data in read if data is not None}


def _refuse_missing(git: Git, error: BaseException, oid: str) -> None:
    """Say that an object is missing where git failed on the way, and a commit has not all of its objects here."""
    if isinstance(error, GitError):
        _, out, _ = git.try_run("rev-list", "--objects", "--missing=print", "--no-object-names", oid)
        if b"\n?" in out:
            raise git.missing("an object of its history") from error


def _unreadable(walk: Walk, commit: str, error: BaseException) -> Finding:
    if isinstance(error, RunnerError):
        return Finding("readable", commit, error.where, error.what)
    return Finding("readable", commit, paths.folder(walk.protocol), f"it cannot be read: {type(error).__name__}")


def _check(walk: Walk, commit: Commit, read: Ahead) -> list[Finding]:
    parsed = take(walk, commit, read)
    found = [
        Finding(rule, commit.oid, path, text)
        for _, rule, check in rules.OF_COMMIT
        for path, text in check(walk, parsed)
    ]
    walk.folder = parsed.folder
    if parsed.trailers is None:
        # What an ordinary commit does to the folder can be put back; what it says of itself cannot.
        damage = [finding for finding in found if finding.rule in ("paths", "record-changed")]
        if walk.damaged_by and not damage:
            walk.damaged_by, walk.put_back = [], walk.put_back + 1
        if any(finding.rule == "record-changed" for finding in damage):
            walk.damaged_by.append(commit.oid)
        walk.damage = damage
        return [finding for finding in found if finding not in damage]
    if any(finding.rule == "repair" for finding in found):
        return found
    walk.repaired += len(walk.damaged_by)
    walk.damage, walk.damaged_by = [], []
    _note(walk, parsed)
    walk.state, walk.record = parsed.after, parsed.record
    walk.log, walk.log_hash = parsed.log, parsed.log_hash
    walk.add(parsed.raw)
    walk.named += [
        Named(
            parsed.commit.oid, event.name, event.subject, getattr(event, "attempt", parsed.attempt(event.subject)), told
        )
        for event in parsed.events  # a step that is retried at once is at the next attempt already
        if (told := getattr(event, "transcript", None)) is not None
    ]
    walk.transitions += 1
    return found


def _note(walk: Walk, parsed: ParsedCommit) -> None:
    created = parsed.first(ev.Created)
    if isinstance(created, ev.Created) and parsed.commit.parents and created.start != parsed.commit.parents[0]:
        walk.moved = created.start


def take(walk: Walk, commit: Commit, read: Ahead) -> ParsedCommit:
    """Take a commit apart: its files and, where its trailers say that it is a transition, its entries and what they make.

    state.json is the fold where its id is that of the fold's bytes (rule 12), so that of a transition is only looked for.
    """
    parent = walk.git.commit(commit.parents[0]) if commit.parents else None
    if commit.parents and parent is None:
        raise walk.git.missing(f"commit {commit.parents[0][:12]}")
    parsed = ParsedCommit(commit, parent, *folder_in(walk.git, commit, walk.protocol, walk.folder))
    own = transition_of(commit, walk.protocol)
    if own is None:
        return parsed
    parsed.trailers, parsed.before = own.trailers, walk.state
    for name in (paths.LOG, paths.STATE):
        if name not in parsed.files:
            told = f"{name}, commit {commit.oid[:12]}"
            raise IntegrityError("a transition without its record", told, "run `git show` to see what it changed")
    there = parsed.files[paths.LOG].oid
    parsed.log = read.logs[there] if there in read.logs else _record(walk.git, parsed, paths.LOG)
    there = parsed.files[paths.STATE].oid
    if there not in read.states and walk.git.sizes([there])[0] is None:
        raise walk.git.missing(f"{paths.STATE} of commit {commit.oid[:12]}")
    where = f"{walk.path(paths.LOG)} in {commit.oid[:12]}"
    known = walk.state.revision if walk.state else 0
    if walk.log and parsed.log.startswith(walk.log):
        added = parsed.log[len(walk.log) :]
        parsed.log_hash = walk.log_hash.copy()
        parsed.log_hash.update(added)
        raw = log.parse_raw(added, where)
    else:
        parsed.log_hash = sha256(parsed.log)
        raw = log.parse_raw(parsed.log, where)
        raw = [entry for entry in raw if entry.revision > known] or raw
    parsed.entries, parsed.raw = [log.entry_of(entry, where) for entry in raw], raw
    parsed.events = [entry.event for entry in parsed.entries]
    if not parsed.entries:
        raise IntegrityError("a transition without an event", where, "run `git show` to see what it changed")
    try:
        parsed.after = machine.fold(walk.state, parsed.entries)
    except RunnerError as error:
        parsed.illegal = error.what
    except _UNREADABLE as error:
        parsed.illegal = f"its fields make no sense: {type(error).__name__}"
    if parsed.after is None:  # told as illegal; what else is wrong is told of the state that the commit claims
        with contextlib.suppress(RunnerError):
            parsed.after = state.load(_record(walk.git, parsed, paths.STATE), where)
    if parsed.after is not None:
        parsed.after = parsed.after._replace(log=f"sha256:{parsed.log_hash.hexdigest()}")
    return parsed


def _record(git: Git, parsed: ParsedCommit, name: str) -> bytes:
    entry, where = parsed.files[name], f"{name}, commit {parsed.commit.oid[:12]}"
    size = git.sizes([entry.oid])[0]
    if size is not None and size > RECORD_MOST:
        raise IntegrityError(f"{size:,} bytes are not read", where, "run `git log` to see who wrote them")
    return git.require(entry.oid, f"{name} of commit {parsed.commit.oid[:12]}")


# --- what is new since a tip that verified ---------------------------------------------------------------------------


def advance(
    git: Git, protocol: str, tip: str, since: tuple[str, State] | None, trusted: Trusted | None = None
) -> State:
    """Return the state at `tip`, having verified all that is new since a tip that verified before (else the whole chain).

    `trusted`: as for `verify`.

    Raises:
        IntegrityError: the first finding, with the way out.
        InsufficientHistoryError: this clone does not have enough to tell.
        UnsupportedError: a newer version has written there.
    """
    if since is None:
        report = verify(git, protocol, tip, trusted)
        findings, known = list(report.findings), report.state
    else:
        old, state_then = since
        commits = _since(git, tip, old)
        if commits is None:
            began = _beside(git, protocol, tip, old)
            commits = _since(git, tip, began) if began is not None else None
            if began is None or commits is None:
                raise went_back(protocol, old, tip)
            old = began
        walk = resume(git, protocol, old, state_then, trusted)
        findings, known = walk_commits(walk, commits), walk.state
    if findings or known is None:
        _refuse_newer(git, protocol, tip)
        finding = findings[0] if findings else Finding("genesis", tip, paths.folder(protocol), "there is no history")
        raise IntegrityError(
            f"{protocol} does not verify: {finding.text}",
            f"{finding.path or 'its message'}, commit {finding.commit[:12]}",
            f"run `runner verify {protocol}` to see all of it, `runner doctor --fix {protocol}` to repair the record",
        )
    return known


def _refuse_newer(git: Git, protocol: str, tip: str) -> None:
    """Tell a record of a newer version from a damaged one: a repair would remove the newer version's entries."""
    folder = paths.folder(protocol)
    with contextlib.suppress(IntegrityError):
        where = f"{folder}/{paths.STATE}"
        state.load(git.blob(f"{tip}:{where}") or b"", where)
    with contextlib.suppress(IntegrityError):
        where = f"{folder}/{paths.LOG}"
        for raw in log.parse_raw(git.blob(f"{tip}:{where}") or b"", where):
            if raw.event not in ev.MODELS:
                raise UnsupportedError(
                    f"the event `{raw.event}` is not known to this version", where, "use a newer protocol-runner"
                )


def has(git: Git, protocol: str, tip: str, old: str) -> bool:
    """Return whether the branch at `tip` still has a commit that it had: on its chain, or people's alone, which a merge brought.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell.
    """
    return _since(git, tip, old) is not None or _beside(git, protocol, tip, old) is not None


def _beside(git: Git, protocol: str, tip: str, old: str) -> str | None:
    """Return the commit of `tip`'s chain beyond which `old` has people's commits alone, that a merge brought; else None.

    So it is where a clone had made transitions when people's commits were pushed, and merged those in. What they said stays
    said: that the merge, which is on the chain above, has each of their approvals is rule 2's to ask.
    """
    if not git.is_ancestor(old, tip):
        return None
    chain = set(git.first_parents(tip))
    for commit in first_parents(git, old):
        if commit.oid in chain:
            return commit.oid
        if is_transition(commit, protocol):
            return None
    return None


def _since(git: Git, tip: str, old: str) -> list[str] | None:
    """Return the commits of the chain above `old`, oldest first; None where it is not on the chain."""
    found: list[str] = []
    for commit in first_parents(git, tip):
        if commit.oid == old:
            return found[::-1]
        found.append(commit.oid)
    return None


class RewrittenError(IntegrityError):
    """The history of a branch no longer has the commit that verified last."""


def went_back(protocol: str, old: str, tip: str) -> RewrittenError:
    """Return the error for a branch whose history was rewritten."""
    return RewrittenError(
        f"the history of {protocol} was rewritten: {old[:12]} is no longer in it",
        f"its branch is at {tip[:12]}",
        f"`runner doctor --fix {protocol}` adopts it as it is, and keeps the old one; `git reflog {protocol}` shows who moved it",
    )


def resume(git: Git, protocol: str, tip: str, known: State, trusted: Trusted | None) -> Walk:
    """Return a walk that has come as far as `tip`, whose state is known."""
    walk = _start(git, protocol, trusted)
    walk.past, walk.state = None, known
    commit = git.commit(tip)
    assert commit is not None
    walk.folder, _ = folder_in(git, commit, protocol)
    walk.record = walk.folder.record
    data = git.content(walk.record.get(paths.LOG))
    if data is None:
        raise git.missing(f"{paths.LOG} of commit {tip[:12]}")
    walk.log, walk.log_hash = data, sha256(data)
    return walk


# --- one history and another --------------------------------------------------------------------------------------------


def is_rebased(git: Git, protocol: str, old: str, new: str) -> bool:
    """Return whether two histories have the same transitions, entry by entry: one is the other, rebased or amended."""
    before, after = _transitions(git, protocol, old), _transitions(git, protocol, new)
    return before != [] and len(before) == len(after) and _are_alike(git, protocol, before, after)


def replaced(git: Git, protocol: str, old: str, new: str) -> dict[str, str] | None:
    """Return the commit in `new` of each transition of `old`, by its commit there; None where `new` lacks one, or has another."""
    before, after = _transitions(git, protocol, old), _transitions(git, protocol, new)
    if len(before) > len(after) or not _are_alike(git, protocol, before, after):
        return None
    return {one.oid: other.oid for one, other in zip(before, after, strict=False)}


def _are_alike(git: Git, protocol: str, before: Sequence[Commit], after: Sequence[Commit]) -> bool:
    """Return whether each transition of `before` says what its counterpart says.

    Entries are compared and no messages: where a rebase stopped at a conflict, git's clean-up took lines that start with `#` out of
    them. But a commit whose message was kept, and whose log was damaged, is the same transition still.
    """
    for one, other in zip(before, after, strict=False):
        try:
            if _of(git, protocol, one) != _of(git, protocol, other):
                return False
        except IntegrityError:
            if one.message != other.message:
                return False
    return True


def _of(git: Git, protocol: str, commit: Commit) -> tuple[str, list[RawEntry]]:
    """Return what a transition says: its trusted commit and its entries."""
    own = transition_of(commit, protocol)
    assert own is not None
    return own.trailers.trusted, record.added(git, protocol, commit)


def _transitions(git: Git, protocol: str, tip: str) -> list[Commit]:
    commits = filter(None, map(git.commit, chain_of(git, protocol, tip)))
    return [commit for commit in commits if is_transition(commit, protocol)]
