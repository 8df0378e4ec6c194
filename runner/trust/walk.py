"""What a verification has seen so far, and one commit taken apart: what the rules are asked about (`runner.trust.rules`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import field

from runner.errors import InsufficientHistoryError, RunnerError
from runner.git import BLOB, SUBMODULE, TREE, Commit, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, machine, paths, plans, state
from runner.protocol.events import Entry, Event
from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan
from runner.protocol.state import Rendered, State
from runner.store.trusted import Trusted
from runner.trust import signers, trusted_config
from runner.trust.review_context import ReviewContext
from runner.trust.transitions import Past, commit_of, folder_of, missing
from runner.trust.trusted_config import TrustedConfig
from runner.values import dataclass

Said = Iterator[tuple[str, str]]  # (path from the tree's root, the finding in one line)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `rule`: a name from `docs/verify.md`; `text`: one line."""

    rule: str
    commit: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """A transcript that an event names by its digest; `attempt`: of the step, 0 where the subject is none."""

    commit: str
    event: str
    subject: str
    attempt: int
    digest: str


@dataclass(frozen=True, slots=True)
class Origin:
    """A protocol that a fork goes on from. `fork`: the fork's first commit; `named`: the transcripts up to there."""

    protocol: str
    fork: str
    named: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What verify found for one protocol. `approvals`: how many words were used, and hold.

    `transcripts`: those that its log names, which the history has; `moved`: it was begun on another commit than it stands on;
    `signed`: transitions whose signature the policy wanted, and that holds; `origins`: the protocols that a fork goes on from.
    """

    protocol: str
    transitions: int
    findings: tuple[Finding, ...]
    state: State | None
    tip: str
    notes: tuple[str, ...] = ()
    approvals: int = 0
    transcripts: tuple[Named, ...] = ()
    moved: bool = False
    signed: int = 0
    origins: tuple[Origin, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all of it holds; an empty chain never does."""
        return not self.findings and self.transitions > 0


@dataclass(frozen=True, slots=True)
class Stood:
    """That the words on a plan stood for a deed: which count, by which policy, with how many files in approvals/, until when."""

    revision: int
    trusted: str
    approvals: int
    until: int
    commit: str


@dataclass(slots=True)
class Walk:
    """What a walk has seen so far: the state by the fold, and the record's files as the last transition left them.

    `trusted`: the trusted branch as it was last seen; None where that is not known, and nothing is said of it. `verify`: verifies
    another protocol up to a commit, which a fork began at.
    """

    protocol: str
    trusted: Trusted | None
    verify: Callable[[str, str], Report]
    state: State | None = None
    log: bytes = b""
    record: dict[str, TreeEntry] = field(default_factory=dict)
    approvals: dict[str, TreeEntry] = field(default_factory=dict)
    rendered: Rendered = field(default_factory=Rendered)  # what state.json was rendered with
    names: frozenset[str] = frozenset()  # the folder's files in the commit before
    transitions: int = 0
    damage: list[Finding] = field(default_factory=list)  # by ordinary commits, not repaired yet
    damaged_by: list[str] = field(default_factory=list)  # the commits that stand on a damaged record
    repaired: int = 0
    mended: int = 0
    moved: str | None = None  # the commit that the genesis was made on, where it stands on another one now
    taken_over: list[str] = field(default_factory=list)  # what is to be said of a fork's steps that came done
    origins: list[Origin] = field(default_factory=list)  # whose transcripts are asked about beside the chain
    counted: set[str] = field(default_factory=set)  # ids of the words that events used, and that hold
    named: list[Named] = field(default_factory=list)  # transcripts, in the order of the chain
    reviews: int = 0  # on the forge, that events used: nothing here proves them
    # What the rules keep from one transition to the next.
    past: Past | None = None  # None where the walk goes on from a known tip, and nobody has asked yet
    known: list[RawEntry] | None = None  # the whole log, once somebody has asked for it
    authorities: dict[str, TrustedConfig | str] = field(default_factory=dict)  # what the trusted branch said, by commit
    said: dict[tuple[TreeEntry | None, ...], TrustedConfig] = field(
        default_factory=dict
    )  # the same, by the files that say it
    plan: tuple[tuple[tuple[str, str], ...], Plan] | None = (
        None  # the last plan that was read, and the files that it is of
    )
    rules: dict[str, tuple[str | None, ...]] = field(default_factory=dict)  # whose policy and keys a trusted commit has
    below: dict[str, set[str]] = field(default_factory=dict)  # trusted commits that are known to be below one
    was_at: set[str] = field(default_factory=set)  # those that the trusted branch is known to have been at
    doubted: set[int] = field(default_factory=set)  # revisions of the counts that do not hold
    stood: dict[str, Stood] = field(default_factory=dict)  # the words that stood for an earlier deed, by subject
    signed: int = 0  # transitions whose signature the policy wanted, and that holds
    unseen: set[str] = field(default_factory=set)  # commits of a local trusted branch that are gone


@dataclass(slots=True)
class ParsedCommit:
    """One commit, taken apart. `trailers` is None for an ordinary commit; the fields after it are a transition's."""

    commit: Commit
    parent: Commit | None
    files: dict[str, TreeEntry]  # of the protocol's folder, by name in it
    record: dict[str, TreeEntry]  # those of them that are the runner's
    approvals: dict[str, TreeEntry]
    lookalikes: list[str]  # paths that a file system could take for the folder
    trailers: log.Trailers | None = None
    log: bytes = b""
    state: bytes = b""
    entries: list[Entry] = field(default_factory=list)
    raw: list[RawEntry] = field(default_factory=list)  # the same, as they stand in the log
    before: State | None = None
    after: State | None = None
    illegal: str | None = None
    changed: tuple[str, ...] | None = None  # paths that differ from the parent's tree, once somebody has asked

    @property
    def events(self) -> list[Event]:
        """The transition's events, in order."""
        return [entry.event for entry in self.entries]

    def attempt(self, slug: str) -> int:
        """Return the attempt that a step is at after the transition; 0 where there is no such step."""
        step = self.after.steps.get(slug) if self.after else None
        return step.attempt if step else 0

    def first(self, kind: type[Event]) -> Event | None:
        """Return the first event of a kind."""
        return next((event for event in self.events if isinstance(event, kind)), None)


def at(walk: Walk, name: str = "") -> str:
    """Return the path of a file of the protocol's folder."""
    return f"{paths.folder(walk.protocol)}/{name}".rstrip("/")


def record_of(git: Git, commit: Commit, protocol: str) -> dict[str, TreeEntry]:
    """Return the files of the runner's record in a commit, by name in the folder."""
    return {name: entry for name, entry in files_of(git, commit, protocol)[0].items() if paths.is_record(name)}


def files_of(git: Git, commit: Commit, protocol: str) -> tuple[dict[str, TreeEntry], list[str]]:
    """Return (the folder's files, by name in it; paths beside it that only case tells from it)."""
    root = _tree(git, commit.tree)
    lookalikes = [
        name for name in root if name.startswith(".") and name != paths.ROOT and name.casefold() == paths.ROOT
    ]
    entry = root.get(paths.ROOT)
    beside = _tree(git, entry.oid) if entry is not None and entry.mode == TREE else {}
    lookalikes += [f"{paths.ROOT}/{name}" for name in beside if name != protocol and name.casefold() == protocol]
    entry = beside.get(protocol)
    return git.below(entry.oid) if entry is not None and entry.mode == TREE else {}, lookalikes


def _tree(git: Git, oid: str) -> dict[str, TreeEntry]:
    tree = git.tree(oid)
    if tree is None:
        raise missing(git, f"the tree {oid[:12]}")
    return tree


def past_of(git: Git, walk: Walk, look: ParsedCommit) -> Past:
    """Return the chain as it stood before the commit."""
    if walk.past is None:
        assert look.parent is not None
        walk.past = Past.walked(git, walk.protocol, look.parent.oid)
    return walk.past


def known_of(git: Git, walk: Walk) -> list[RawEntry]:
    """Return the whole log as it stood before the commit; it grows with the walk."""
    if walk.known is None:
        walk.known = _read_log(git, walk)
    return walk.known


def _read_log(git: Git, walk: Walk) -> list[RawEntry]:
    data = b""
    for name in sorted(name for name in walk.record if name.startswith("log/")):
        segment = git.blob(walk.record[name].oid)
        if segment is None:
            raise missing(git, name)
        data += segment
    return log.parse_raw(data + walk.log, at(walk, paths.LOG))


def authority_at(git: Git, walk: Walk, oid: str) -> TrustedConfig | str:
    """Return what the trusted branch said at a commit, or why nobody's word could count there."""
    if oid not in walk.authorities:
        branch = walk.trusted.branch if walk.trusted else "the trusted branch"
        now = walk.trusted.commit if walk.trusted else oid
        for one in (oid, now):
            _whole(git, one)
        folder = git.tree(f"{oid}:{paths.ROOT}") or {}
        names = (paths.POLICY, paths.SIGNERS, paths.REVOKED, paths.CONFIG, signers.OPENPGP.rstrip("/"))
        said = tuple(folder.get(name.rpartition("/")[2]) for name in names)
        try:
            same = walk.said.get(said)
            found = same.at(oid) if same is not None else trusted_config.load(git, oid, branch, revoked_at=now)
            walk.authorities[oid] = walk.said[said] = found
        except InsufficientHistoryError:
            raise
        except RunnerError as error:
            walk.authorities[oid] = f"by {oid[:12]} no word could count: {error.what}, {error.where}"
    known = walk.authorities[oid]
    assert isinstance(known, TrustedConfig | str)
    return known


def _whole(git: Git, oid: str) -> None:
    """Check that what says whose word counts is in this clone: a file that is not there is told from one that never was."""
    trusted_config.there(git, oid)
    commit = git.commit(oid)
    assert commit is not None
    root = git.tree(commit.tree)
    entry = root.get(paths.ROOT) if root is not None else None
    if root is None or (entry is not None and entry.mode == TREE and git.tree(entry.oid) is None):
        raise missing(git, f"the tree of {oid[:12]}")
    files = (git.tree(entry.oid) or {}) if entry is not None and entry.mode == TREE else {}
    for path in (paths.POLICY, paths.SIGNERS, paths.REVOKED, paths.CONFIG):
        file = files.get(path.rpartition("/")[2])
        if file is not None and file.mode == BLOB and git.sizes([file.oid])[0] is None:
            raise missing(git, f"{path} of {oid[:12]}")


def rules_at(git: Git, walk: Walk, oid: str) -> tuple[str | None, ...]:
    """Return what `rules_of` does, asked once; a commit that is not in this clone is missing."""
    if oid not in walk.rules:
        trusted_config.there(git, oid)
        walk.rules[oid] = trusted_config.rules_of(git, oid) or ()
    return walk.rules[oid]


def edited(found: Ground) -> Ground:
    """Return the ground with the edit taken up that a transition there would begin with."""
    edit = machine.edit_of(found.state, found.plan) if found.state.status in machine.OPEN else None
    if edit is None:
        return found
    then = machine.apply(found.state, Entry(found.state.revision + 1, "", "", edit))
    return dataclasses.replace(found, state=then)


def ground_at(git: Git, walk: Walk, look: ParsedCommit, commit: str) -> Ground | str:
    """Return plan and state as they stand in a commit of the chain before the transition, or why there are none.

    Raises:
        MalformedFileError: the plan cannot be read.
    """
    assert look.parent is not None and look.before is not None
    where = f"{paths.folder(walk.protocol)} in {commit[:12]}"
    folder = folder_of(git, commit_of(git, commit).tree, walk.protocol)
    files = (git.tree(folder) or {}) if folder is not None else {}
    then = look.before
    if commit != look.parent.oid:
        data = git.blob(files[paths.STATE].oid) if paths.STATE in files else None
        if data is None:
            return f"there is no state in {commit[:12]}"
        then = state.load(data, where)
    mine = tuple((name, file.oid) for name, file in files.items() if name.endswith(".md") and name != paths.LOG)
    if walk.plan is None or walk.plan[0] != mine:
        told = {}
        for name, oid in mine:
            text = git.blob(oid)
            if text is None:
                raise missing(git, f"{name} of {commit[:12]}")
            told[name] = text
        walk.plan = mine, plans.parse(told, where)
    return Ground(commit, then, walk.plan[1], past_of(git, walk, look))


def context_of(git: Git, walk: Walk, ground: Ground, found: TrustedConfig, time: int) -> ReviewContext:
    """Return what judging words takes, on what stood there then."""
    return ReviewContext(git, walk.protocol, ground.commit, ground.state, found, time, past=ground.past)


@dataclass(frozen=True, slots=True)
class Ground:
    """What one event was judged on. `commit`: the branch's tip then; `state`: with the edit that was taken up first."""

    commit: str
    state: State
    plan: Plan
    past: Past


def bytes_of(git: Git, entry: TreeEntry | None) -> bytes:
    """Return a file's bytes; of one that is not there, or is none, nothing."""
    if entry is None or entry.mode == SUBMODULE:
        return b""
    data = git.blob(entry.oid)
    if data is None:
        raise missing(git, f"the object {entry.oid[:12]}")
    return data


def uses_approvals(look: ParsedCommit) -> bool:
    return any(isinstance(event, ev.ApprovalCounted | ev.CallDecided) for event in look.events)


def is_judged(look: ParsedCommit) -> bool:
    """Return whether what a transition did, or whose words it used, can be judged: of a chain that holds so far."""
    return look.before is not None and look.illegal is None  # an ordinary commit has no state before it


def deed_of(look: ParsedCommit) -> int | None:
    """Return the place of the event by which a transition carried out, checked or ended a step; None where it did not."""
    for number, event in enumerate(look.events):
        role = event.type.role
        if role in ("edit", "approval"):
            continue
        again = isinstance(event, ev.CallHeld) and event.transcript is None and number > 0  # its word had ended
        done = role in ("work", "qa") and look.after is not None and event.subject in look.after.steps
        return number if done and not again else None
    return None
