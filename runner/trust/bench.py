"""What one branch tells of the words in it: each file below `approvals/`, and what it is about (design §4). `approval` judges them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import field, replace
from enum import StrEnum
from itertools import islice

from runner.errors import InsufficientHistoryError
from runner.git import BLOB, Commit, Git, TreeEntry
from runner.protocol import ids, message, paths, statement
from runner.protocol.plan import Plan, Step
from runner.protocol.state import ENDED, State, Wait
from runner.protocol.statement import MalformedStatementError, Signed
from runner.trust import manifest
from runner.trust.authority import Authority
from runner.trust.manifest import Subject
from runner.trust.past import Below, Past, commit_of, folder_of, unnumbered
from runner.values import dataclass


class Fault(StrEnum):
    """Why a word does not count."""

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


@dataclass(frozen=True, slots=True)
class Word:
    """An approval's file in the branch. `commit`: the one that added it; `order`: its place among the words of the chain."""

    id: str
    path: str
    commit: str
    order: int
    signed: Signed | None
    fingerprint: str = ""
    fault: Fault | None = None
    text: str = ""  # why it does not count

    @property
    def approver(self) -> str:
        """Whom the statement names, or empty where it cannot be read."""
        return self.signed.statement.approver if self.signed else ""

    def faulty(self, fault: Fault, text: str) -> Word:
        """Return the word as one that does not count, and why."""
        return replace(self, fault=fault, text=text)


@dataclass(frozen=True, slots=True)
class Asked:
    """When something was asked for: the commit that asked, and the digest of what it was about; None where that is no manifest's."""

    commit: str
    digest: str | None

    @classmethod
    def at_end(cls, bench: Bench) -> Asked | None:
        """Return when the merge of a completed protocol became a question: nothing in the record asks it."""
        for oid in bench.chain:
            told = message.parse(commit_of(bench.git, oid).message)
            if told and told.protocol == bench.protocol and f"completed {bench.protocol}" in told.events:
                return cls(oid, None)
        return None

    @classmethod
    def of(cls, bench: Bench, wait: Wait) -> Asked | None:
        """Return when a wait of the bench's branch was asked for."""
        revision = int(wait.id.removeprefix("w"))
        for oid in bench.chain:
            told = message.parse(commit_of(bench.git, oid).message)
            if (
                told
                and told.protocol == bench.protocol
                and told.revision - len(told.events) < revision <= told.revision
            ):
                return cls(oid, None if wait.kind == "call" else wait.digest)
        return None


@dataclass(slots=True)
class Bench:
    """What judging one branch takes: the objects, the authority, the time. `vouched`: somebody vouches for the time.

    `at`: seconds since 1970. `past`: the chain, where somebody walked it already; what it keeps serves many questions. `words_in`: a
    commit that has the words, where not the tip does: wherever they came from, in the order in which they were issued.
    """

    git: Git
    protocol: str
    tip: str
    state: State
    authority: Authority
    at: int
    vouched: bool = False
    past: Past | None = None
    words_in: str | None = None
    _words: list[Word] | None = None
    _digests: dict[tuple[Subject, str], str] = field(default_factory=dict)
    _authors: dict[Subject, list[Commit]] = field(default_factory=dict)

    # --- the branch ------------------------------------------------------------------------------------------------------

    @property
    def branch(self) -> Past:
        """The branch's commits, and what is known of them."""
        if self.past is None:
            self.past = Past.walked(self.git, self.protocol, self.tip)
        return self.past

    @property
    def chain(self) -> Mapping[str, int]:
        """The first-parent chain from the tip to the genesis: commit to its distance from the tip, newest first."""
        return Below(self.branch, self.tip)

    def words(self) -> list[Word]:
        """Return every file below approvals/ of the tip, in the order in which the chain got them, read and not judged."""
        if self._words is None:
            own, places = f"{paths.folder(self.protocol)}/", self.branch.places
            there = self._own(self.words_in)
            files = {own + name: entry for name, entry in there.items() if name.startswith(paths.APPROVALS)}
            if self.words_in is not None:
                found = [replace(self._read(path, entry), commit="") for path, entry in sorted(files.items())]
                found.sort(key=lambda word: word.signed.statement.issued_at if word.signed is not None else 0)
            else:
                added = {path: self.branch.added(path, self.tip) for path in files}
                # One that no commit added alone comes last, as it would where the tip had.
                last = places[self.tip]
                order = sorted(files, key=lambda path: (places.get(added[path] or "", last), path))
                found = [replace(self._read(path, files[path]), commit=added[path] or "") for path in order]
            self._words = [replace(word, order=number) for number, word in enumerate(found)]
        return self._words

    def _own(self, commit: str | None = None) -> dict[str, TreeEntry]:
        """Return the files of the protocol's folder at a commit or tree, the tip's where none is named, by name in it."""
        at = folder_of(self.git, self._root(commit or self.tip), self.protocol)
        return self.git.below(at) if at is not None else {}

    def _root(self, name: str) -> str:
        """Return the tree of a commit; a tree is its own."""
        commit = self.git.commit(name)
        return commit.tree if commit is not None else name

    def _read(self, path: str, entry: TreeEntry) -> Word:
        read = self.branch.read
        if (path, entry) not in read:
            read[path, entry] = self._parsed(path, entry)
        return read[path, entry]

    def _parsed(self, path: str, entry: TreeEntry) -> Word:
        name = path.rpartition("/")[2]
        word = Word(name.removesuffix(statement.SUFFIX)[:64], path, "", 0, None)
        if entry.mode != BLOB:
            return word.faulty(Fault.MISPLACED, "it is not a plain file")
        size = self.git.sizes([entry.oid])[0]
        if size is not None and size > statement.LIMIT:  # never read: it may be as big as its writer likes
            return word.faulty(Fault.MALFORMED, f"{size} bytes, {statement.LIMIT} at most")
        data = self.git.blob(entry.oid)
        if data is None:
            raise InsufficientHistoryError(f"{path} is not in this clone", entry.oid, "run `git fetch --refetch`")
        try:
            signed = statement.parse(data, path)
            statement.check_name(signed, name, path)
        except MalformedStatementError as error:
            return word.faulty(Fault.MALFORMED, error.what)
        return Word(signed.id, path, "", 0, signed)

    # --- what words are about --------------------------------------------------------------------------------------------

    def digest(self, subject: Subject, commit: str, plan: Plan | None, began: str | None = None) -> str:
        """Return the digest of what `subject` is at a commit of the chain; the trusted branch is the authority's.

        `began`: the commit that a result's work began at, where `commit` is a tree that is not on the branch yet.
        """
        return manifest.digest_of(subject, self.sections(subject, commit, plan, began))

    def sections(
        self, subject: Subject, commit: str, plan: Plan | None, began: str | None = None
    ) -> list[tuple[str, bytes]]:
        """Return the manifest's sections; `plan`: the plan at the tip, which says what will be loaded."""
        lines = self.branch.contents.lines
        done: set[str] = set()
        match subject.kind:
            case "plan":
                files = self._own(commit)
                done = self._done_at(commit, files)
                found = [("words", lines(manifest.plan_files(self.protocol, files, done)))]
            case "step":
                found = [("tree", self._code(commit))]
            case "result":
                before = began or self.began(subject)
                found = [("before", self._code(before)), ("after", self._code(commit))]
            case "protected-path":
                changed = self._changed(began or self.began(subject), commit)
                found = [
                    ("before", lines({path: one for path, (one, _) in changed.items() if one})),
                    ("after", lines({path: one for path, (_, one) in changed.items() if one})),
                ]
            case "call":
                name, files = paths.call_file(subject.name), self._own(commit)
                held = {f"{paths.folder(self.protocol)}/{name}": files[name]} if name in files else {}
                found = [("call", lines(held))]
            case _:
                found = [("tree", self._code(commit))]
        if subject.kind in ("plan", "step", "call") and plan is not None:
            loaded = self.authority.loaded(_steps_of(subject, plan, done), plan)
            found.append(("trusted", lines(self.authority.files(self.git, loaded))))
        return found

    def _code(self, commit: str) -> bytes:
        """Return the whole tree outside record and approvals; the words of people's are in it."""
        return self.branch.contents.tree(self._root(commit))

    def _changed(self, before: str, after: str) -> dict[str, tuple[TreeEntry | None, TreeEntry | None]]:
        changed = self.git.changed(before, after)
        return {path: pair for path, pair in changed.items() if manifest.is_code(self.protocol, path)}

    def _done_at(self, commit: str, files: Mapping[str, TreeEntry]) -> set[str]:
        """Return the steps whose files have dropped out of the plan at a commit: those that were done there."""
        if commit == self.tip:
            return {slug for slug, step in self.state.steps.items() if step.status in ENDED}
        from runner.protocol import state as state_

        data = self.git.blob(files[paths.STATE].oid) if paths.STATE in files else None
        if data is None:
            return set()
        then = state_.load(data, f"{paths.STATE} in {commit[:12]}")
        return {slug for slug, step in then.steps.items() if step.status in ENDED}

    def pieces(self, slug: str, now: tuple[str, str] | None = None) -> list[tuple[str, str]]:
        """Return the (before, after) of what a step's attempt did, newest first: its last piece, and those that it waited after.

        `now`: the last one, where it is not on the branch yet.
        """
        kind = self.state.steps[slug].kind if slug in self.state.steps else ""
        at: str | None = self.tip
        if now is None:
            done = self.finished(slug)
            at = done.parents[0]
            start = _start_of(done.message, slug) if kind == "human" else None
            now = (start if start is not None and start in self.chain else at, done.oid)
        found = [now]
        while at is not None and kind == "agent":
            commit = commit_of(self.git, at)
            at = commit.parents[0] if commit.parents else None
            trailers = message.parse(commit.message)
            if trailers is None or trailers.protocol != self.protocol or at is None:
                continue
            told = {event for event, about in (one.split(" ") for one in trailers.events) if about == slug}
            if told & _BEGINS or f"created {self.protocol}" in trailers.events or _takes_back(commit.message, slug):
                break
            if told & _WAITS:
                found.append((at, commit.oid))
        return found

    def began(self, subject: Subject) -> str:
        """Return the commit that the attempt's work began at.

        Raises:
            InsufficientHistoryError: the chain has no such work.
        """
        done = self.finished(subject.slug)
        _, *before = self.pieces(subject.slug)
        start = before[-1][0] if before else _start_of(done.message, subject.slug)
        return start if start is not None and start in self.chain else done.parents[0]

    def finished(self, slug: str) -> Commit:
        """Return the transition that brought a step's last work.

        Raises:
            InsufficientHistoryError: the chain has no such work.
        """
        at: str | None = self.tip  # down from the tip: the whole chain may be long, and the work is mostly near
        while at is not None:
            commit = commit_of(self.git, at)
            trailers = message.parse(commit.message)
            events = trailers.events if trailers and trailers.protocol == self.protocol else ()
            if f"step-finished {slug}" in events:
                return commit
            at = commit.parents[0] if commit.parents and f"created {self.protocol}" not in events else None
        raise InsufficientHistoryError(
            f"nothing says where the work of {slug} began", self.protocol, "run `runner verify`"
        )

    def covers(self, subject: Subject, path: str) -> bool:
        """Return whether a change of `path` makes a word on the subject stale."""
        own = f"{paths.folder(self.protocol)}/"
        if not manifest.is_code(self.protocol, path):
            return subject.kind == "call" and path == own + paths.call_file(subject.name)
        name = path.removeprefix(own) if path.startswith(own) else ""
        if subject.kind == "plan":
            slug = ids.STEP_FILE.fullmatch(name)
            known = self.state.steps.get(slug["slug"]) if slug else None
            return paths.is_words(name) and (known is None or known.status not in ENDED)
        return subject.kind != "call"

    def words_of(self, slug: str) -> frozenset[str]:
        """Return the paths of what people wrote of a step: plan, context and its own file."""
        return frozenset(manifest.step_words(self.protocol, self._own(), slug))

    def touched_since(self, subject: Subject, seen: str, *, by_people: bool = False) -> tuple[str, str] | None:
        """Return (commit, path) of the first commit after `seen` that touched what the subject is about, or None.

        `by_people`: a step's own work is no change of what it began on.
        """
        for oid in reversed(list(islice(self.chain, self.chain[seen]))):
            commit = commit_of(self.git, oid)
            if not commit.parents or (by_people and self._is_transition(commit)):
                continue
            for path in self.git.changed(commit.parents[0], oid):
                if self.covers(subject, path):
                    return oid, path
        return None

    def touched_by_people(self, subject: Subject, revision: int, only: Collection[str] | None = None) -> str | None:
        """Return the first commit of people's after the transition that holds a revision which touched the subject, or None.

        `only`: the paths that count, where not all that it is about does.
        """
        found = None
        for oid in self.chain:
            commit = commit_of(self.git, oid)
            trailers = message.parse(commit.message)
            if trailers and trailers.protocol == self.protocol:
                if trailers.revision - len(trailers.events) < revision:
                    break
            elif commit.parents and any(
                path in only if only is not None else self.covers(subject, path)
                for path in self.git.changed(commit.parents[0], oid)
            ):
                found = oid
        return found

    def _is_transition(self, commit: Commit) -> bool:
        trailers = message.parse(commit.message)
        return trailers is not None and trailers.protocol == self.protocol

    # --- who wrote it ----------------------------------------------------------------------------------------------------

    def authors(self, subject: Subject) -> list[Commit]:
        """Return the commits, side branches included, that wrote the words which the subject is about, whatever their number was."""
        if subject not in self._authors:
            self._authors[subject] = self._authors_of(subject)
        return self._authors[subject]

    def digest_at(self, subject: Subject, commit: str, plan: Plan | None) -> str:
        """Return what `digest` does, made once for each commit; `plan`: that of the tip."""
        if (subject, commit) not in self._digests:
            self._digests[subject, commit] = self.digest(subject, commit, plan)
        return self._digests[subject, commit]

    def _authors_of(self, subject: Subject) -> list[Commit]:
        if subject.kind == "call":
            return []
        own = f"{paths.folder(self.protocol)}/"
        names = self._own()
        if subject.kind == "merge":
            wanted = [name for name in names if paths.is_words(name)]
        elif subject.kind == "plan":
            wanted = [name for name in names if self.covers(subject, own + name)]
        else:
            wanted = [path.removeprefix(own) for path in manifest.step_words(self.protocol, names, subject.slug)]
        found = self.branch.wrote({unnumbered(name) for name in wanted}, self.tip)
        if subject.kind in ("result", "protected-path") and subject.slug in self.state.steps:
            out = self.git.run("rev-list", self.tip, f"^{self.began(subject)}", f"^{self.authority.commit}")
            found += [commit for oid in out.decode().split() if self._is_work(commit := commit_of(self.git, oid))]
        return found

    def _is_work(self, commit: Commit) -> bool:
        """Return whether a commit is a person's that changes code; a merge's are what it has from none of its parents."""
        if message.parse(commit.message) is not None:
            return False
        changed = [set(self.git.changed(parent, commit.oid)) for parent in commit.parents]
        return any(manifest.is_code(self.protocol, path) for path in set.intersection(*changed)) if changed else True


def _start_of(text: bytes, slug: str) -> str | None:
    """Return the `start` that a transition's `step-finished` entry names in its message."""
    match = re.search(
        rf"^## [0-9]+ step-finished {re.escape(slug)}\n(?:- [^\n]*\n)*?- start: ([0-9a-f]{{40,64}})\n".encode(),
        text,
        re.MULTILINE,
    )
    return match[1].decode() if match else None


_WAITS = frozenset(("asked", "call-held", "effect-unknown"))
_BEGINS = frozenset(("step-finished", "step-retried"))  # what lies before belongs to an earlier attempt


def _takes_back(text: bytes, slug: str) -> bool:
    """Return whether a transition's `undone` entry is about a step."""
    match = re.search(rb"^## [0-9]+ undone [^\n]*\n(?:- [^\n]*\n)*?- steps: (\{[^\n]*\})\n", text, re.MULTILINE)
    return match is not None and slug in json.loads(match[1])


def _steps_of(subject: Subject, plan: Plan, done: Collection[str]) -> list[Step]:
    """Return the steps whose doing the subject is about; of a plan, all that were not done where it was seen."""
    if subject.slug:
        return [step for step in plan.steps if step.slug == subject.slug]
    return [step for step in plan.steps if step.slug not in done]
