"""The state of a verification as it walks a history, and one parsed commit: the input of the rules (`runner.trust.rules`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import InsufficientHistoryError, MalformedFileError, RunnerError
from runner.git import BLOB, EXECUTABLE, TREE, Commit, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, machine, paths, plans, state
from runner.protocol.events import Entry, Event
from runner.protocol.ids import digest
from runner.protocol.log import RawEntry, Trailers
from runner.protocol.plans import Plan
from runner.protocol.state import OPEN, Rendered, State
from runner.store.trusted import Trusted, policy_digest
from runner.trust import signers, trusted_config
from runner.trust.transitions import History, commit_of, folder_of
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import View

if TYPE_CHECKING:
    from hashlib import _Hash

Said = Iterator[tuple[str, str]]  # (path from the tree's root, the finding in one line)


# --- what is reported -----------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """A violation of a rule. `rule`: a name from `docs/verify.md`; `text`: one line."""

    rule: str
    commit: str
    path: str
    text: str


class Named(NamedTuple):
    """A transcript that an event names by its digest; `attempt`: of the step, 0 where the subject is none."""

    commit: str
    event: str
    subject: str
    attempt: int
    digest: str


class Origin(NamedTuple):
    """A protocol that a fork continues. `fork`: the fork's first commit; `named`: the transcripts up to there."""

    protocol: str
    fork: str
    named: tuple[Named, ...]


class Report(NamedTuple):
    """What verify found for one protocol up to the commit `tip`. `walk`: as the walk along its chain left it.

    `is_foreign`: nothing of the protocol is in the whole history; the branch only has its name.
    """

    walk: Walk
    tip: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    is_foreign: bool = False

    @property
    def ok(self) -> bool:
        """Whether no rule is violated; an empty chain is never ok."""
        return not self.findings and self.transitions > 0

    @property
    def is_repairable(self) -> bool:
        """Whether ordinary commits damaged the record, and nothing else is wrong."""
        return (
            self.state is not None
            and len(self.findings) == len(self.walk.damage) > 0
            and all(paths.is_record(name_in(self.protocol, finding.path)) for finding in self.findings)
        )

    @property
    def protocol(self) -> str:
        """The protocol's id."""
        return self.walk.protocol

    @property
    def transitions(self) -> int:
        """How many transitions the walk passed."""
        return self.walk.transitions

    @property
    def state(self) -> State | None:
        """The state by the fold; None where there is none."""
        return self.walk.state

    @property
    def approvals(self) -> int:
        """How many approvals events used, and are valid."""
        return len(self.walk.counted)

    @property
    def transcripts(self) -> tuple[Named, ...]:
        """The transcripts that the log names, in the order of the chain."""
        return tuple(self.walk.named)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The protocols that a fork continues."""
        return tuple(self.walk.origins)


@dataclass(slots=True, eq=False)
class Evidence:
    """The evidence beside a chain, for the rules that a chain alone does not answer.

    `bases`: commits that may hold its record; `history`: of its history ref, None where there is none; `history_of`: returns that of a
    fork's origin; `remote`: which may have the missing objects, None where nothing more can be fetched. `notes`: for the reader, added
    to by the rules; `proven`: each transcript whose digest the log names, and its blob, added by rule 24.
    """

    trusted: Trusted
    bases: Sequence[str]
    history: str | None
    history_of: Callable[[Origin], str | None]
    remote: str | None
    notes: list[str] = field(default_factory=list)
    proven: list[tuple[Named, str]] = field(default_factory=list)


def name_in(protocol: str, path: str) -> str:
    """Return a path's name in the protocol's folder."""
    return path.removeprefix(f"{paths.folder(protocol)}/")


@dataclass(frozen=True, slots=True)
class Folder:
    """A protocol's folder in a commit: its files by name, and parts of them. A part in which nothing changed is the very one that the
    commit before had. `odd`: the names of those that are no plain files."""

    tree: str | None = None
    files: dict[str, TreeEntry] = field(default_factory=dict)
    record: dict[str, TreeEntry] = field(default_factory=dict)
    approvals: dict[str, TreeEntry] = field(default_factory=dict)
    texts: dict[str, TreeEntry] = field(default_factory=dict)  # Markdown that is not the log
    odd: frozenset[str] = frozenset()

    def next(self, git: Git, tree: str | None) -> Folder:
        """Return the folder whose tree this is, in the commit after."""
        if tree == self.tree:
            return self
        changed = {name: now for name, (_, now) in git.changed(self.tree, tree).items()}
        record = _part(self.record, changed, paths.is_record)
        odd = {name for name in self.odd if name not in changed}
        for name, entry in changed.items():
            if entry is not None and entry.mode != BLOB and (entry.mode != EXECUTABLE or name in record):
                odd.add(name)
        return Folder(
            tree,
            _part(self.files, changed, lambda name: True),
            record,
            _part(self.approvals, changed, lambda name: name.startswith(paths.APPROVALS)),
            _part(self.texts, changed, paths.is_top_markdown),
            frozenset(odd),
        )


def _part(
    before: dict[str, TreeEntry], changed: Mapping[str, TreeEntry | None], belongs: Callable[[str], bool]
) -> dict[str, TreeEntry]:
    """Return the files of a part after a change: of each name that changed its entry, None where it is gone."""
    mine = [name for name in changed if belongs(name)]
    if not mine:
        return before
    made = before.copy()
    for name in mine:
        entry = changed[name]
        if entry is not None:
            made[name] = entry
        else:
            made.pop(name, None)
    return made


# --- what is known so far -------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Walk:
    """A verification's way along a chain: the state by the fold, and the record's files as the last transition left them.

    `trusted`: the trusted branch as last seen; None where it is unknown, and no rule compares with it. `verify`: verifies another
    protocol up to a commit, at which a fork started.
    """

    git: Git
    protocol: str
    trusted: Trusted | None
    verify: Callable[[str, str], Report]
    state: State | None = None
    log: bytes = b""
    log_hash: _Hash = field(default_factory=sha256)  # of the log
    record: dict[str, TreeEntry] = field(default_factory=dict)
    rendered: Rendered = field(default_factory=Rendered)  # what state.json was rendered with
    folder: Folder = field(default_factory=lambda: Folder())  # in the commit before
    digests: dict[str, str] = field(default_factory=dict)  # of the plan files that were read last, by id
    step_files: tuple[object, dict[str, str]] = (None, {})  # files of a folder, and the name of each step's among them
    transitions: int = 0
    damage: list[Finding] = field(default_factory=list)  # by ordinary commits, not repaired yet
    damaged_by: list[str] = field(default_factory=list)  # the commits whose record is damaged
    repaired: int = 0
    put_back: int = 0  # how often ordinary commits repaired what others damaged
    moved: str | None = None  # the commit that the genesis was made on, where it is on another one now
    taken_over: list[str] = field(default_factory=list)  # notes on a fork's steps that came done
    origins: list[Origin] = field(default_factory=list)  # whose transcripts are verified beside the chain
    counted: set[str] = field(default_factory=set)  # ids of the approvals that events used, and are valid
    named: list[Named] = field(default_factory=list)  # transcripts, in the order of the chain
    reviews: int = 0  # on the forge, that events used: nothing here proves them
    signed: int = 0  # transitions with a valid signature that the policy wanted
    unseen: set[str] = field(default_factory=set)  # commits of a local trusted branch that are gone
    # What the rules keep from one transition to the next.
    known_trusted: set[str] = field(default_factory=set)  # commits that the trusted branch is known to have been at
    ancestors: dict[str, set[str]] = field(default_factory=dict)  # trusted commits that are known to be below one
    past: History | None = None  # None where the walk resumes from a known tip, and no rule has asked yet
    _entries: list[RawEntry] | None = None  # the whole log, once a rule has asked for it
    _configs: dict[str, TrustedConfig | str] = field(default_factory=dict)  # by commit
    _policies: dict[str, str | None] = field(default_factory=dict)  # their digests, by trusted commit
    _same: dict[tuple[TreeEntry | None, ...], TrustedConfig] = field(default_factory=dict)  # by the files it is made of
    _rules: dict[str, tuple[str | None, ...]] = field(default_factory=dict)  # policy and keys of a trusted commit
    _checks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # default ones, by trusted commit
    _read: tuple[object, Plan] | None = None  # the last plan that was read, and its files
    _plan: tuple[object, Plan] | None = None  # the same with the default checks, and those

    def path(self, name: str = "") -> str:
        """Return the path of a file of the protocol's folder."""
        return f"{paths.folder(self.protocol)}/{name}".rstrip("/")

    # --- the chain before a commit ----------------------------------------------------------------------------------------

    def history(self, parsed: ParsedCommit) -> History:
        """Return the chain before a commit."""
        if self.past is None:
            self.past = History.walked(self.git, self.protocol, parsed.below.oid)
        return self.past

    def entries(self) -> list[RawEntry]:
        """Return the whole log before the commit of now; it grows with the walk."""
        if self._entries is None:
            names = sorted(name for name in self.record if name.startswith("log/"))
            data = [self.git.require(self.record[name].oid, name) for name in names]
            self._entries = log.parse_raw(b"".join([*data, self.log]), self.path(paths.LOG))
        return self._entries

    def add(self, raw: list[RawEntry]) -> None:
        """Add a transition's entries to the log, where it was read."""
        if self._entries is not None:
            self._entries += raw

    def view_at(self, parsed: ParsedCommit, commit: str, *, with_edit: bool = False) -> View | str:
        """Return the protocol at a commit of the chain before the transition, or why it has none there, or none that can be read.

        `with_edit`: with the edit picked up that a transition there would start with.
        """
        try:
            found = self._view_at(parsed, commit)
            return edited(found) if with_edit and isinstance(found, View) else found
        except InsufficientHistoryError:
            raise
        except RunnerError as error:
            return f"{error.what}, {error.where}"

    def _view_at(self, parsed: ParsedCommit, commit: str) -> View | str:
        git = self.git
        assert parsed.before is not None
        where = f"{paths.folder(self.protocol)} in {commit[:12]}"
        folder, then = self.folder, parsed.before
        if commit != parsed.below.oid:
            folder = folder.next(git, folder_of(git, commit_of(git, commit).tree, self.protocol))
            data = git.content(folder.files.get(paths.STATE))
            if data is None:
                return f"there is no state in {commit[:12]}"
            then = state.load(data, where)
        checks = self.default_checks(parsed)[0]
        if self._plan is None or self._plan[0] != (folder.texts, checks):
            self._plan = (folder.texts, checks), plans.with_default_checks(self.plan_in(folder, commit, where), checks)
        return View(git, self.protocol, commit, then, self._plan[1], past=self.history(parsed))

    def plan_in(self, folder: Folder, commit: str, where: str) -> Plan:
        """Return the plan that a commit's folder has, without default checks. `where`: names it in messages.

        Raises:
            MalformedFileError: the plan cannot be read.
        """
        if self._read is None or self._read[0] != folder.texts:
            read = self.git.require_all(
                {file.oid: f"{name} of commit {commit[:12]}" for name, file in folder.texts.items()}
            )
            texts = {name: read[file.oid] for name, file in folder.texts.items()}
            self.digests = {oid: digest(text) for oid, text in read.items()}
            self._read = (folder.texts, plans.parse(texts, where))
        return self._read[1]

    # --- the trusted branch -----------------------------------------------------------------------------------------------

    def config_at(self, oid: str) -> TrustedConfig | str:
        """Return the trusted config at a commit, or why no approval can count by it."""
        if oid not in self._configs:
            git = self.git
            branch = self.trusted.branch if self.trusted else "the trusted branch"
            now = self.trusted.commit if self.trusted else oid
            for one in (oid, now):
                _refuse_partial(git, one)
            folder = git.tree(f"{oid}:{paths.ROOT}") or {}
            names = (paths.POLICY, paths.SIGNERS, paths.REVOKED, paths.CONFIG, signers.OPENPGP.rstrip("/"))
            files = tuple(folder.get(name.rpartition("/")[2]) for name in names)
            try:
                same = self._same.get(files)
                found = same.at(oid) if same is not None else trusted_config.load(git, oid, branch, revoked_at=now)
                self._configs[oid] = self._same[files] = found
            except InsufficientHistoryError:
                raise
            except RunnerError as error:
                self._configs[oid] = f"by {oid[:12]} no approval could count: {error.what}, {error.where}"
        return self._configs[oid]

    def default_checks(self, parsed: ParsedCommit) -> tuple[tuple[str, ...], ...]:
        """Return the default checks by which a transition may have read the plan: those of its trusted commit.

        Where that commit is gone nobody can tell: there were none, or those that the evidence names.

        Raises:
            InsufficientHistoryError: the configuration of that commit is not in this clone.
        """
        now = parsed.trusted
        if self.git.commit(now) is None:
            told = [
                check["check"] for event in parsed.events if isinstance(event, ev.QaPassed) for check in event.evidence
            ]
            named = tuple(filter(log.is_command, told))
            return ((), named or ("unknown",))
        if now not in self._checks:
            self._checks[now] = self._checks_of(now)
        return (self._checks[now],)

    def _checks_of(self, oid: str) -> tuple[str, ...]:
        data = self.git.blob(f"{oid}:{paths.CONFIG}")
        if data is None:
            _refuse_partial(self.git, oid)
        # Most have none, and the models of configuration need not be loaded; with an escape a key may be written otherwise.
        if b"checks" not in (data or b"") and b"\\" not in (data or b""):
            return ()
        try:
            return trusted_config.config_of(self.git, oid, "the trusted branch").checks
        except MalformedFileError:
            return ()

    def policy_digest(self, trailers: Trailers) -> str | None:
        """Return the digest of the policy that a transition's trusted commit has; where that commit is gone, what the transition says.

        Raises:
            InsufficientHistoryError: the policy of that commit is not in this clone.
        """
        oid = trailers.trusted
        if self.git.commit(oid) is None:
            return trailers.policy
        if oid not in self._policies:
            self._policies[oid] = policy_digest(self.git, oid)
            if self._policies[oid] is None:
                _refuse_partial(self.git, oid)
        return self._policies[oid]

    def rules_at(self, oid: str) -> tuple[str | None, ...]:
        """Return which policy and keys a trusted commit has, as `trusted_config.rules_of`."""
        if oid not in self._rules:
            trusted_config.there(self.git, oid)
            self._rules[oid] = trusted_config.rules_of(self.git, oid) or ()
        return self._rules[oid]


def _refuse_partial(git: Git, oid: str) -> None:
    """Raise where a file of the trusted config is not in this clone: it is not the same as one that never was."""
    trusted_config.there(git, oid)
    commit = git.commit(oid)
    assert commit is not None
    entry = git.whole_tree(commit.tree).get(paths.ROOT)
    files = git.whole_tree(entry.oid) if entry is not None and entry.mode == TREE else {}
    for path in (paths.POLICY, paths.SIGNERS, paths.REVOKED, paths.CONFIG):
        file = files.get(path.rpartition("/")[2])
        if file is not None and file.mode == BLOB and git.sizes([file.oid])[0] is None:
            raise git.missing(f"{path} of {oid[:12]}")


# --- one commit -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class ParsedCommit:
    """One commit, taken apart. `trailers` is None for an ordinary commit; the fields after it are a transition's."""

    commit: Commit
    parent: Commit | None
    folder: Folder
    lookalikes: list[str]  # paths that a file system could take for the folder
    trailers: log.Trailers | None = None
    log: bytes = b""
    log_hash: _Hash = field(default_factory=sha256)  # of the log
    entries: list[Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)  # theirs
    raw: list[RawEntry] = field(default_factory=list)  # the same, as the log has them
    before: State | None = None
    after: State | None = None
    illegal: str | None = None
    changed: tuple[str, ...] | None = None  # paths that differ from the parent's tree, once a rule has asked
    _written: list[RawEntry] = field(default_factory=list)

    @property
    def written(self) -> list[RawEntry]:
        """The entries as the runner writes what they say.

        Raises:
            UsageError: a value that could not be read again.
        """
        self._written = self._written or [log.raw_of(entry) for entry in self.entries]
        return self._written

    @property
    def trusted(self) -> str:
        """The trusted commit that a transition names."""
        assert self.trailers is not None
        return self.trailers.trusted

    @property
    def below(self) -> Commit:
        """The commit before it, of one that has any."""
        assert self.parent is not None
        return self.parent

    @property
    def files(self) -> dict[str, TreeEntry]:
        """The files of the protocol's folder, by name in it."""
        return self.folder.files

    @property
    def record(self) -> dict[str, TreeEntry]:
        """Those of them that are the runner's."""
        return self.folder.record

    @property
    def uses_approvals(self) -> bool:
        """Whether an event says that approvals were used."""
        return any(isinstance(event, ev.ApprovalCounted | ev.CallDecided) for event in self.events)

    @property
    def is_judged(self) -> bool:
        """Whether what the transition did can be judged: it is one, of a chain without violations so far."""
        return self.before is not None and self.illegal is None  # an ordinary commit has no state before it

    @property
    def action(self) -> int | None:
        """The index of the event by which the transition carried out, checked or ended a step; None where it did not."""
        for number, event in enumerate(self.events):
            role = event.type.role
            if role in ("edit", "approval"):
                continue
            again = isinstance(event, ev.CallHeld) and event.transcript is None and number > 0  # its approval had ended
            done = role in ("work", "qa") and self.after is not None and event.subject in self.after.steps
            return number if done and not again else None
        return None

    def attempt(self, slug: str) -> int:
        """Return the attempt that a step is at after the transition; 0 where there is no such step."""
        step = self.after.steps.get(slug) if self.after else None
        return step.attempt if step else 0

    def first(self, kind: type[Event]) -> Event | None:
        """Return the first event of a kind."""
        return next((event for event in self.events if isinstance(event, kind)), None)


def edited(view: View) -> View:
    """Return the view with the edit picked up that a transition there would start with."""
    assert view.plan is not None
    edit = machine.edit_of(view.state, view.plan) if view.state.status in OPEN else None
    if edit is None:
        return view
    return dataclasses.replace(view, state=machine.apply(view.state, Entry(view.state.revision + 1, "", "", edit)))


def record_of(git: Git, commit: Commit, protocol: str) -> dict[str, TreeEntry]:
    """Return the files of the runner's record in a commit, by name in the folder."""
    return folder_in(git, commit, protocol)[0].record


def folder_in(git: Git, commit: Commit, protocol: str, before: Folder | None = None) -> tuple[Folder, list[str]]:
    """Return (the protocol's folder in a commit, paths beside it that only case tells from it). `before`: in the commit before."""
    root = git.whole_tree(commit.tree)
    lookalikes = [
        name for name in root if name.startswith(".") and name != paths.ROOT and name.casefold() == paths.ROOT
    ]
    entry = root.get(paths.ROOT)
    beside = git.whole_tree(entry.oid) if entry is not None and entry.mode == TREE else {}
    lookalikes += [f"{paths.ROOT}/{name}" for name in beside if name != protocol and name.casefold() == protocol]
    entry = beside.get(protocol)
    return (before or Folder()).next(git, entry.oid if entry is not None and entry.mode == TREE else None), lookalikes
