"""The history of a protocol: its transitions, the chain below a commit, when an approval came, and who wrote the plan files.

It grows with the walk that verifies it. A commit is read once, when a rule first asks about it or a later one. `verify` says whether
the chain is valid; `approval`, whether an approval in it counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from runner.git import BLOB, TREE, Commit, Git, TreeEntry
from runner.protocol import approval_file, ids, paths
from runner.protocol.event_types import event_type
from runner.store.record import Transition, is_transition, transition_of
from runner.trust.manifest import Contents

if TYPE_CHECKING:
    from runner.protocol.approval_file import Signed, Statement


AHEAD = 16  # commits whose objects are asked for at once
FAR = 256  # the same, of a long chain


class RejectionReason(StrEnum):
    """Why an approval does not count."""

    MALFORMED = "malformed"
    MISPLACED = "misplaced"
    OTHER = "other"  # of another repository, protocol or life of it
    FUTURE = "future"
    EXPIRED = "expired"
    BAD = "bad"
    UNTRUSTED = "untrusted"
    REVOKED_KEY = "revoked-key"
    STALE = "stale"
    AGENT = "agent"
    ROLE = "wrong-role"
    OWN_WORK = "own-work"
    USED = "used"
    UNSEEN = "unseen"  # of a commit that is not here: the branch is gone


class ApprovalFile(NamedTuple):
    """A file below approvals/ in the branch. `commit`: the one that added it; `order`: its place among the approvals of the chain."""

    id: str
    path: str
    commit: str
    order: int
    signed: Signed | None
    fingerprint: str = ""
    rejection: RejectionReason | None = None
    text: str = ""  # why it does not count

    @property
    def statement(self) -> Statement:
        """The statement of one that can be read."""
        assert self.signed is not None
        return self.signed.statement

    @property
    def approver(self) -> str:
        """Whom the statement names, or empty where it cannot be read."""
        return self.signed.statement.approver if self.signed else ""

    def reject(self, rejection: RejectionReason, text: str) -> ApprovalFile:
        """Return the approval as one that does not count, and why."""
        return self._replace(rejection=rejection, text=text)


class StillValid(NamedTuple):
    """That the approvals of a plan were valid for an earlier action at a commit.

    `revision`: of the entry that counted them; `trusted`: by which policy; `approvals`: the tree of all there were; `until`: when.
    """

    revision: int
    trusted: str
    approvals: str
    until: int
    commit: str


class History:
    """A chain's commits so far, oldest first, and the trusted commits that they name, each with the place of the first that does."""

    def __init__(self, git: Git, protocol: str) -> None:
        self.git, self.protocol = git, protocol
        self.order: list[str] = []
        self.positions: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.contents = Contents(git, protocol)
        self._approvals: dict[tuple[str, TreeEntry], ApprovalFile] = {}  # by path and file
        self.doubted: set[int] = set()  # revisions of the approval events that verify found invalid
        self.still_valid: StillValid | None = None  # of the plan's approvals
        self._walked = 0  # how many commits `walked` found; those that are added later are looked at one by one
        self._relevant: set[str] | None = None
        self._seen = 0  # how many commits were looked at
        self._touched: dict[
            str, list[tuple[int, bool]]
        ] = {}  # a file of approvals/: by which places, and whether it was new
        self._worked: dict[str, int] = {}  # a file outside the protocol's folder: the first transition that touched it
        self._worked_to = 0
        self._wrote: list[
            tuple[int, str, frozenset[str]]
        ] = []  # place, commit, and the words of people's that it wrote

    @classmethod
    def walked(cls, git: Git, protocol: str, tip: str) -> History:
        """Return the chain from a tip down to the protocol's genesis.

        Raises:
            InsufficientHistoryError: it leaves this clone before that.
        """
        found: list[tuple[str, str | None]] = []
        for commit in first_parents(git, tip):
            own = transition_of(commit, protocol)
            found.append((commit.oid, own.trailers.trusted if own else None))
            if own is not None and own.has("created", protocol):
                break
        past = cls(git, protocol)
        for oid, trusted in reversed(found):
            past.add(oid, trusted)
        past._walked = len(past.order)
        return past

    def add(self, oid: str, trusted: str | None) -> None:
        """Take in the next commit; `trusted`: what a transition names."""
        self.positions[oid] = len(self.order)
        if trusted is not None:
            self.told.setdefault(trusted, len(self.order))
        self.order.append(oid)

    def added(self, path: str, tip: str) -> str | None:
        """Return the one commit up to `tip` that touched a file of approvals/, where it was added by it."""
        last = self.positions[tip]
        self._look(last)
        touched = [(place, new) for place, new in self._touched.get(path, ()) if place <= last]
        return self.order[touched[0][0]] if len(touched) == 1 and touched[0][1] else None

    def wrote(self, names: Collection[str], tip: str) -> list[Commit]:
        """Return the commits up to `tip`, side branches included, that wrote one of the files, newest first.

        `names`: of plan files, as `unnumbered` returns them. A merge wrote what differs from all of its parents.
        """
        last = self.positions[tip]
        self._look(last)
        found = [oid for place, oid, told in self._wrote if place <= last and not told.isdisjoint(names)]
        return [commit_of(self.git, oid) for oid in dict.fromkeys(reversed(found))]

    def worked(self, path: str, tip: str) -> bool:
        """Return whether a transition up to `tip` touched a file: a step wrote it."""
        last, own = self.positions[tip], f"{paths.folder(self.protocol)}/"
        for place in range(self._worked_to, last + 1):
            commit = commit_of(self.git, self.order[place])
            if is_transition(commit, self.protocol) and commit.parents:
                for one in self.git.changed(commit.parents[0], commit.oid):
                    if not one.startswith(own):
                        self._worked.setdefault(one, place)
        self._worked_to = max(self._worked_to, last + 1)
        return self._worked.get(path, last + 1) <= last

    def approval(self, path: str, entry: TreeEntry) -> ApprovalFile:
        """Return what a file of approvals/ says, read and not judged; the commit and the order are the caller's.

        Raises:
            InsufficientHistoryError: it is not in this clone.
        """
        if (path, entry) not in self._approvals:
            self._approvals[path, entry] = self._parsed(path, entry)
        return self._approvals[path, entry]

    def _parsed(self, path: str, entry: TreeEntry) -> ApprovalFile:
        name = path.rpartition("/")[2]
        word = ApprovalFile(name.removesuffix(approval_file.SUFFIX)[:64], path, "", 0, None)
        if entry.mode != BLOB:
            return word.reject(RejectionReason.MISPLACED, "it is not a plain file")
        size = self.git.sizes([entry.oid])[0]
        if size is not None and size > approval_file.LIMIT:  # never read: it may be as big as its writer likes
            return word.reject(RejectionReason.MALFORMED, f"{size} bytes, {approval_file.LIMIT} at most")
        data = self.git.require(entry.oid, path)
        try:
            signed = approval_file.parse(data, path)
            approval_file.check_name(signed, name, path)
        except approval_file.MalformedStatementError as error:
            return word.reject(RejectionReason.MALFORMED, error.what)
        return ApprovalFile(signed.id, path, "", 0, signed)

    # --- what a commit did -----------------------------------------------------------------------------------------------

    def _look(self, last: int) -> None:
        if self._seen == 0 and self._walked:
            self._relevant = self._beside_the_record(self.order[self._walked - 1])
        while self._seen <= last:
            relevant = self._relevant if self._seen < self._walked else None
            if relevant is None and self._seen % 64 == 0:
                self.git.warm(self.order[self._seen : self._seen + 64])
            commit = commit_of(self.git, self.order[self._seen])
            if relevant is None or len(commit.parents) > 1 or commit.oid in relevant:
                self._look_at(commit)
            self._seen += 1

    def _beside_the_record(self, tip: str) -> set[str] | None:
        """Return the chain's commits that change more of the protocol's folder than the record, or None: git cannot tell.

        Few of a long chain do, and git finds them many times faster than their trees are read here.
        """
        folder = paths.folder(self.protocol)
        start = [f"^{parent}" for parent in commit_of(self.git, self.order[0]).parents[:1]]
        record = (f":(exclude){folder}/{name}" for name in (paths.STATE, paths.LOG, "log"))
        args = ("rev-list", "--first-parent", tip, *start, "--", folder, *record)
        code, out, _ = self.git.try_run(*args, env={"GIT_LITERAL_PATHSPECS": "0"})
        return set(out.decode().split()) if code == 0 else None

    def _look_at(self, commit: Commit) -> None:
        changed = self._changed(commit, commit.parents[0] if commit.parents else None)
        told = [(commit.oid, changed.keys())] if len(commit.parents) < 2 else self._merged(commit, changed)
        for path, (before, _) in changed.items():
            if path.startswith(paths.APPROVALS):
                whole = f"{paths.folder(self.protocol)}/{path}"
                self._touched.setdefault(whole, []).append((self._seen, before is None))
        for oid, files in told:
            names = frozenset(unnumbered(name) for name in files if paths.is_plan_file(name))
            if names:
                self._wrote.append((self._seen, oid, names))

    def _changed(self, commit: Commit, parent: str | None) -> Mapping[str, tuple[TreeEntry | None, TreeEntry | None]]:
        before = folder_of(self.git, commit_of(self.git, parent).tree, self.protocol) if parent is not None else None
        return self.git.changed(before, folder_of(self.git, commit.tree, self.protocol))

    def _merged(self, commit: Commit, changed: Collection[str]) -> list[tuple[str, Collection[str]]]:
        """Return what a merge and the commits that it brought wrote, oldest first.

        Those below the genesis brought nothing, but for words that the merge has from there: main may have had them once.
        """
        stop = [f"^{parent}" for parent in (commit.parents[0], *commit_of(self.git, self.order[0]).parents)]
        found = self._log([commit.oid, *stop], [""])
        if words := [name for name in changed if paths.is_plan_file(name)]:
            found = [*(one for one in self._log([commit.oid], words) if one[0] not in self.positions), *found]
        return found

    def _log(self, commits: Sequence[str], names: Sequence[str]) -> list[tuple[str, Collection[str]]]:
        """Return which of the files below the folder each commit wrote, oldest first; a merge what it has from none of its parents."""
        folder = f"{paths.folder(self.protocol)}/"
        wanted = [folder + name for name in names]
        found: list[tuple[str, Collection[str]]] = []
        for oid in touched(self.git, ["--full-history", *commits], wanted):
            commit = commit_of(self.git, oid)
            known = [parent for parent in commit.parents if self.git.commit(parent) is not None]
            written = set.intersection(*({*self._changed(commit, parent)} for parent in known or (None,)))
            found.append((oid, [path for path in written if names == [""] or path in names]))
        return found[::-1]


class Distances(Mapping[str, int]):
    """The chain from one of its commits down: commit to its distance, newest first."""

    def __init__(self, past: History, tip: str) -> None:
        self._past, self._last = past, past.positions[tip]

    def __getitem__(self, oid: str) -> int:
        place = self._past.positions[oid]
        if place > self._last:
            raise KeyError(oid)
        return self._last - place

    def __iter__(self) -> Iterator[str]:
        return (self._past.order[place] for place in range(self._last, -1, -1))

    def __len__(self) -> int:
        return self._last + 1


# --- one transition -------------------------------------------------------------------------------------------------------


def first_parents(git: Git, tip: str) -> Iterator[Commit]:
    """Yield the first-parent chain from `tip`, newest first.

    Raises:
        InsufficientHistoryError: it leaves this clone.
    """
    at: str | None = tip
    count = 0
    while at is not None:
        if count % FAR == AHEAD:  # a long one: the next commits are asked for at once
            git.warm(git.try_run("rev-list", "--first-parent", f"--max-count={FAR}", at)[1].decode().split())
        commit = git.commit(at)
        if commit is None:
            raise git.missing(f"commit {at[:12]}, {count} commits below {tip[:12]}")
        yield commit
        count, at = count + 1, commit.parents[0] if commit.parents else None


def before_work(git: Git, protocol: str, tip: str, slug: str) -> int:
    """Return the revision before a step's last work, to which `undo` reverts it.

    Raises:
        InsufficientHistoryError: the chain leaves this clone before that.
    """
    return next(one for one in transitions_below(git, protocol, tip) if one.has("step-finished", slug)).revisions[0] - 1


def transitions_below(git: Git, protocol: str, tip: str) -> Iterator[Transition]:
    """Yield the protocol's transitions from `tip` down to its genesis, newest first.

    Raises:
        InsufficientHistoryError: the chain leaves this clone before that.
    """
    for commit in first_parents(git, tip):
        found = transition_of(commit, protocol)
        if found is not None:
            yield found
            if found.has("created", protocol):
                return


# --- what they are made of -------------------------------------------------------------------------------------------------


def commit_of(git: Git, oid: str) -> Commit:
    """Return a commit of a history that has to be here.

    Raises:
        InsufficientHistoryError: it is not.
    """
    commit = git.commit(oid)
    if commit is None:
        raise git.missing(f"commit {oid[:12]}")
    return commit


def folder_of(git: Git, tree: str, protocol: str) -> str | None:
    """Return the tree of the protocol's folder in a commit's tree, or None where there is none.

    Raises:
        InsufficientHistoryError: a tree on the way is not in this clone.
    """
    for name in (paths.ROOT, protocol):
        there = git.whole_tree(tree)
        if name not in there or there[name].mode != TREE:
            return None
        tree = there[name].oid
    return tree


def touched(git: Git, revisions: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the commits that touched one of the paths, newest first; all of them where none is named.

    Git is asked for ids alone: what a commit did is read from its trees, since a name may hold any byte that a list is split at.

    Raises:
        InsufficientHistoryError: their history is not in this clone.
    """
    code, out, _ = git.try_run("rev-list", *revisions, "--", *names)
    if code:
        raise git.missing(f"the history of {', '.join(names) or 'the branch'}")
    return out.decode().split()


def brought(git: Git, merge: Commit, protocol: str) -> set[tuple[str, TreeEntry]]:
    """Return (name in the protocol's folder, entry) of each file that approvals/ has in a commit which a merge brought.

    Commits that are below its first parent were there before; also yields what a later one of those that it brought deleted again.

    Raises:
        InsufficientHistoryError: what the merge brought is not all in this clone.
    """
    where = f"{paths.folder(protocol)}/{paths.APPROVALS}".rstrip("/")
    new = (merge.oid, f"^{merge.parents[0]}")
    told = touched(git, ["--full-history", *new], [where])
    if git.is_shallow() and any(commit_of(git, oid).parents for oid in touched(git, ["--max-parents=0", *new], [])):
        raise git.missing(f"the history that the merge {merge.oid[:12]} brought")
    found: set[tuple[str, TreeEntry]] = set()
    for oid in told:
        folder = folder_of(git, commit_of(git, oid).tree, protocol)
        files = git.below(folder) if folder is not None else {}
        found.update((name, entry) for name, entry in files.items() if name.startswith(paths.APPROVALS))
    return found


def unnumbered(name: str) -> str:
    """Return a plan file by the part of its name that stays when steps are numbered anew."""
    match = ids.STEP_FILE.fullmatch(name)
    return f"-{match['slug']}.md" if match else name


def is_done(names: Iterable[str]) -> bool:
    """Return whether one of these events started, planned, carried out or checked something: its policy was compared then."""
    return any(row.role in ("start", "plan", "work", "qa") and not row.opens for row in map(event_type, names))


def trusted_commits(git: Git, protocol: str, tip: str, *, whole: bool) -> Iterator[str]:
    """Yield the trusted commits that the chain up to `tip` names.

    Without `whole` back to the last transition that did something.
    """
    found: set[str] = set()
    for one in transitions_below(git, protocol, tip):
        if one.trailers.trusted not in found:
            found.add(one.trailers.trusted)
            yield one.trailers.trusted
        if not whole and is_done(name for name, _ in one.events):
            return


def chain_of(git: Git, protocol: str, tip: str) -> list[str]:
    """Return the first-parent chain from genesis (the oldest commit whose parent has no such folder) to `tip`.

    Commits from which the folder is gone lie on the chain where an older one has it.

    Raises:
        InsufficientHistoryError: the chain leaves this clone before its genesis.
    """
    found: list[str] = []
    stop: str | None = None  # an older commit that touched the folder
    for commit in first_parents(git, tip):
        if stop is None and not is_transition(commit, protocol) and folder_of(git, commit.tree, protocol) is None:
            stop = _older(git, commit.oid, protocol)
            if stop is None:
                break
        if commit.oid == stop:
            stop = None
        found.append(commit.oid)
    return found[::-1]


def _older(git: Git, tip: str, protocol: str) -> str | None:
    """Return the newest commit down the first parents that touched the folder, or None; grafts are not followed."""
    args = ("rev-list", "--first-parent", "--max-count=1", tip, "--", paths.folder(protocol))
    code, out, _ = git.try_run(*args, env={"GIT_GRAFT_FILE": "/dev/null"})
    return out.decode().strip() or None if code == 0 else None
