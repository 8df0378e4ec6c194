"""A protocol at a commit: its approvals, each a file below `approvals/`, and the digest of each subject (design §4).

`permit` and `approval` judge it, live and in `verify`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import InsufficientHistoryError, IntegrityError
from runner.git import Commit, Git, TreeEntry
from runner.protocol import ids, log, paths
from runner.protocol.event_types import event_type
from runner.protocol.state import ENDED, OF_WORK, State, Wait
from runner.protocol.state import load as load_state
from runner.store import record
from runner.trust import manifest, transitions
from runner.trust.manifest import Cover, Subject, is_plain

if TYPE_CHECKING:
    from runner.protocol.log import RawEntry
    from runner.protocol.plans import Plan, Step
    from runner.store.record import Transition
    from runner.trust.transitions import ApprovalFile, History
    from runner.trust.trusted_config import TrustedConfig


class ApprovalRequest(NamedTuple):
    """When something was asked for: the commit that asked, and the digest of what it was about; None where that is no manifest's."""

    commit: str
    digest: str | None

    @classmethod
    def at_end(cls, view: View) -> ApprovalRequest | None:
        """Return when the merge of a completed protocol became a question: nothing in the record asks it."""
        for one in transitions.transitions_below(view.git, view.protocol, view.tip):
            if one.has("completed", view.protocol):
                return cls(one.commit.oid, None)
        return None

    @classmethod
    def of(cls, view: View, wait: Wait) -> ApprovalRequest | None:
        """Return when a wait of the view's branch was asked for."""
        revision = int(wait.id.removeprefix("w"))
        for one in transitions.transitions_below(view.git, view.protocol, view.tip):
            if revision in one.revisions:
                return cls(one.commit.oid, None if wait.kind == "call" else wait.digest)
        return None


@dataclass(slots=True, eq=False)
class View:
    """A protocol at the commit `tip` of its chain, and by what its approvals are judged there: a trusted config, and a time.

    `state`: with the edits and approvals that the next transition records first; `plan`: None where only the merge is judged.
    `config`: None where no approval is; `at`: seconds since 1970; `vouched`: somebody proves that time. `past`: the chain, where it
    is walked already; its caches serve many questions. `known`: the entries of the record, where they are read already.
    `approvals_in`: the commit that has the approvals where the tip has not; their order is that of their issue. `granted`: subjects
    whose approvals the next transition counts itself; `loose`: as for `policy.evaluate`.
    """

    git: Git
    protocol: str
    tip: str
    state: State
    plan: Plan | None
    config: TrustedConfig | None = None
    at: int = 0
    vouched: bool = False
    past: History | None = None
    known: Sequence[RawEntry] | None = None
    approvals_in: str | None = None
    granted: Collection[Subject] = ()
    loose: bool = False
    _approvals: list[ApprovalFile] | None = field(init=False, default_factory=lambda: None)
    _digests: dict[tuple[Subject, str, int], str] = field(init=False, default_factory=dict)
    _covers: dict[tuple[str, str], Cover | None] = field(init=False, default_factory=dict)
    _authors: dict[Subject, list[Commit]] = field(init=False, default_factory=dict)

    # --- the branch ------------------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The protocol's folder."""
        return paths.folder(self.protocol)

    @property
    def trusted(self) -> TrustedConfig:
        """The policy and the keys that judge it."""
        assert self.config is not None
        return self.config

    @property
    def entries(self) -> Sequence[RawEntry]:
        """The record's entries."""
        if self.known is None:
            self.known = record.events(self.git, self.protocol, self.tip)
        return self.known

    @property
    def branch(self) -> History:
        """The branch's history."""
        if self.past is None:
            self.past = transitions.History.walked(self.git, self.protocol, self.tip)
        return self.past

    @property
    def chain(self) -> Mapping[str, int]:
        """The first-parent chain from the tip to the genesis: commit to its distance from the tip, newest first."""
        return transitions.Distances(self.branch, self.tip)

    def step(self, slug: str) -> Step:
        """Return a step of the plan."""
        step = self.plan.step(slug) if self.plan is not None else None
        assert step is not None, slug
        return step

    @property
    def approvals_tree(self) -> str:
        """The id of the tree of approvals/ at the tip; empty where there is none."""
        entry = self._folder().get(paths.APPROVALS.rstrip("/"))
        return entry.oid if entry is not None else ""

    def _folder(self) -> Mapping[str, TreeEntry]:
        at = transitions.folder_of(self.git, self._root(self.tip), self.protocol)
        return (self.git.tree(at) or {}) if at is not None else {}

    def approvals(self) -> list[ApprovalFile]:
        """Return every file below approvals/ of the tip, in the order in which the chain got them, read and not judged."""
        if self._approvals is None:
            own, positions = f"{paths.folder(self.protocol)}/", self.branch.positions
            there = self._own(self.approvals_in)
            files = {own + name: entry for name, entry in there.items() if name.startswith(paths.APPROVALS)}
            if self.approvals_in is not None:
                found = [self.branch.approval(path, entry)._replace(commit="") for path, entry in sorted(files.items())]
                found.sort(key=lambda word: word.signed.statement.issued_at if word.signed is not None else 0)
            else:
                added = {path: self.branch.added(path, self.tip) for path in files}
                # One that no commit added alone comes last, as it would where the tip had.
                last = positions[self.tip]
                order = sorted(files, key=lambda path: (positions.get(added[path] or "", last), path))
                found = [self.branch.approval(path, files[path])._replace(commit=added[path] or "") for path in order]
            self._approvals = [word._replace(order=number) for number, word in enumerate(found)]
        return self._approvals

    def _own(self, commit: str | None = None) -> dict[str, TreeEntry]:
        """Return the files of the protocol's folder at a commit or tree, the tip's where none is named, by name in it."""
        at = transitions.folder_of(self.git, self._root(commit or self.tip), self.protocol)
        return self.git.below(at) if at is not None else {}

    def _root(self, name: str) -> str:
        """Return the tree of a commit; a tree is its own."""
        commit = self.git.commit(name)
        return commit.tree if commit is not None else name

    # --- what words are about --------------------------------------------------------------------------------------------

    def digest(
        self,
        subject: Subject,
        commit: str,
        began: str | None = None,
        version: int = manifest.VERSION,
    ) -> str:
        """Return the digest of `subject` at a commit of the chain, by the view's trusted config.

        `began`: the commit at which a result's work started, where `commit` is a tree that is not on the branch yet.
        """
        return manifest.digest_of(subject, self.sections(subject, commit, began, version), version)

    def version_of(self, digest: str, subject: Subject, seen: str) -> int | None:
        """Return the version of the manifest of `subject` at `seen` whose digest this is, or None: it is of something else.

        A commit that a person damaged may have no record; what names it as seen counts nowhere, and stops nothing.
        """
        for version in range(manifest.VERSION, 0, -1):
            with contextlib.suppress(IntegrityError):
                if self.digest_at(subject, seen, version) == digest:
                    return version
        return None

    def sections(
        self,
        subject: Subject,
        commit: str,
        began: str | None = None,
        version: int = manifest.VERSION,
    ) -> list[tuple[str, bytes]]:
        """Return the manifest's sections; the plan at the tip says what will be loaded."""
        lines = self.branch.contents.lines
        done: set[str] = set()
        match subject.kind:
            case "plan":
                files = self._own(commit)
                done = self._done_at(commit, files)
                found = [("words", lines(manifest.plan_files(self.protocol, files, done)))]
            case "step" if version > 1:
                cover, files = self.cover(subject, commit), self._own(commit)
                found = [
                    ("tree", self._covered(commit, cover)),
                    ("inputs", manifest.results(self._state_at(commit, files), subject.slug)),
                    ("exceptions", cover.exceptions if cover is not None else b""),
                ]
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
        if subject.kind in ("plan", "step", "call") and self.plan is not None:
            loaded = self.trusted.loaded(_steps_of(subject, self.plan, done), self.plan)
            if subject.kind == "call" and version > 1:  # no model is asked again
                loaded = loaded._replace(prompts=False)
            found.append(("trusted", lines(self.trusted.files(self.git, loaded, version))))
            if version > 1:
                found.append(("tools", self.trusted.tools(loaded)))
        return found

    def cover(self, subject: Subject, commit: str) -> Cover | None:
        """Return what an approval of a step's start leaves out at a commit; None: nothing, or it is about something else."""
        plan = self.plan
        step = plan.step(subject.slug) if plan is not None and subject.kind == "step" else None
        if plan is None or step is None:
            return None
        if (subject.slug, commit) not in self._covers:
            entry, found = self._own(commit).get(step.file), None
            if entry is not None:
                data = self.git.require(entry.oid, f"{step.file} of {commit[:12]}")
                found = self.trusted.cover(self.protocol, plan, step, data)
            self._covers[subject.slug, commit] = found
        return self._covers[subject.slug, commit]

    def binds(self, subject: Subject, path: str, entries: tuple[TreeEntry | None, TreeEntry | None]) -> bool:
        """Return whether an approval at the tip would bind a file; `entries`: the file there, and at some commit before."""
        if not self.covers(subject, path):
            return False
        cover = self.cover(subject, self.tip)
        left_out = cover is not None and (cover.is_later(path) or self._is_harmless(cover, path, self.tip))
        return not (left_out and is_plain(*entries))

    def bound(self, subject: Subject) -> list[str]:
        """Return what an approval at the tip would bind, for people: a line for each section of the manifest."""
        sections = {title: lines.count(b"\n") for title, lines in self.sections(subject, self.tip)}
        cover = self.cover(subject, self.tip)
        told, names = (
            [],
            {"words": "the plan", "call": "the call", "before": "the tree before", "after": "the tree after"},
        )
        for title, count in sections.items():
            files = "1 file" if count == 1 else f"{count:,} files"
            match title:
                case "tree" if cover is not None:
                    free = ", ".join(["later steps' files", *cover.harmless])
                    told.append(f"{files} of the tree, without the record")
                    told.append(f"a person may edit these and the approval stays valid: {free}")
                    if cover.keeps_base:
                        told.append("a clean merge of the trusted branch leaves the approval valid")
                case "inputs" if count:
                    told.append("1 result of an earlier step" if count == 1 else f"{count} results of earlier steps")
                case "trusted" if count:
                    told.append(f"{files} of {self.trusted.branch} that it loads")
                case "tools" if count:
                    told.append(f"the tools' entries in {paths.CONFIG} of {self.trusted.branch}")
                case "tree" | "words" | "call" | "before" | "after":
                    told.append(f"{files} of {names.get(title, 'the tree')}")
        return told

    def _covered(self, commit: str, cover: Cover | None) -> bytes:
        code = self._code(commit)
        if cover is None:
            return code
        return manifest.kept(code, lambda path: cover.is_later(path) or self._is_harmless(cover, path, commit))

    def _is_harmless(self, cover: Cover, path: str, commit: str) -> bool:
        """Return whether a plain file is left out at a commit: what a step of the protocol wrote never is."""
        return cover.is_harmless(path) and not self.branch.worked(path, commit)

    def _state_at(self, commit: str, files: Mapping[str, TreeEntry]) -> State:
        """Return what state.json says at a commit.

        Raises:
            InsufficientHistoryError: it is not in this clone. IntegrityError: it is no record, or there is none.
        """
        where = f"{paths.STATE} in {commit[:12]}"
        if paths.STATE not in files:
            raise IntegrityError("there is no record", where, "run `runner verify`")
        return load_state(self.git.require(files[paths.STATE].oid, where), where)

    def _code(self, commit: str) -> bytes:
        """Return the whole tree outside record and approvals; the plan files are in it."""
        return self.branch.contents.tree(self._root(commit))

    def _changed(self, before: str, after: str) -> dict[str, tuple[TreeEntry | None, TreeEntry | None]]:
        changed = self.git.changed(before, after)
        return {path: pair for path, pair in changed.items() if manifest.is_code(self.protocol, path)}

    def _done_at(self, commit: str, files: Mapping[str, TreeEntry]) -> set[str]:
        """Return the steps whose files have dropped out of the plan at a commit: those that were done there."""
        if commit == self.tip:
            return {slug for slug, step in self.state.steps.items() if step.status in ENDED}
        data = self.git.content(files.get(paths.STATE))
        if data is None:
            return set()
        then = load_state(data, f"{paths.STATE} in {commit[:12]}")
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
            start = self._start(done, slug) if kind == "human" else None
            now = (start if start is not None and start in self.chain else at, done.oid)
        found = [now]
        for one in (
            transitions.transitions_below(self.git, self.protocol, at) if at is not None and kind == "agent" else ()
        ):
            parents = one.commit.parents
            told = [event_type(name) for name, about in one.events if about == slug]
            is_first = not parents or one.has("created", self.protocol)
            if is_first or any(row.ends_attempt for row in told) or slug in self._taken_back(one):
                break
            if any(row.has_work for row in told):
                found.append((parents[0], one.commit.oid))
        return found

    def began(self, subject: Subject) -> str:
        """Return the commit at which the attempt's work started.

        Raises:
            InsufficientHistoryError: the chain has no such work.
        """
        done = self.finished(subject.slug)
        _, *before = self.pieces(subject.slug)
        start = before[-1][0] if before else self._start(done, subject.slug)
        return start if start is not None and start in self.chain else done.parents[0]

    def finished(self, slug: str) -> Commit:
        """Return the transition that brought a step's last work.

        Raises:
            InsufficientHistoryError: the chain has no such work.
        """
        # Down from the tip: the whole chain may be long, and the work is mostly near.
        for one in transitions.transitions_below(self.git, self.protocol, self.tip):
            if one.has("step-finished", slug):
                return one.commit
        raise InsufficientHistoryError(
            f"no transition says where the work of {slug} started", self.protocol, "run `runner verify`"
        )

    def _start(self, commit: Commit, slug: str) -> str | None:
        """Return the `start` that a transition's `step-finished` entry names."""
        entries = record.added(self.git, self.protocol, commit)
        found = (entry.fields for entry in entries if (entry.event, entry.subject) == ("step-finished", slug))
        return next((str(fields["start"]) for fields in found), None)

    def _taken_back(self, one: Transition) -> set[str]:
        """Return the steps that a transition's `undone` entry is about."""
        has_undone = any(name == "undone" for name, _ in one.events)
        entries = record.added(self.git, self.protocol, one.commit) if has_undone else []
        return {slug for entry in entries if entry.event == "undone" for slug in entry.fields["steps"]}

    def covers(self, subject: Subject, path: str) -> bool:
        """Return whether a change of `path` makes an approval of the subject stale, by version 1; of a step, 2 leaves more out."""
        own = f"{paths.folder(self.protocol)}/"
        if not manifest.is_code(self.protocol, path):
            return subject.kind == "call" and path == own + paths.call_file(subject.name)
        name = path.removeprefix(own) if path.startswith(own) else ""
        if subject.kind == "plan":
            slug = ids.STEP_FILE.fullmatch(name)
            known = self.state.steps.get(slug["slug"]) if slug else None
            return paths.is_plan_file(name) and (known is None or known.status not in ENDED)
        return subject.kind != "call"

    def files_of(self, slug: str) -> frozenset[str]:
        """Return the paths of what people wrote of a step: plan, context and its own file."""
        return frozenset(manifest.step_files(self.protocol, self._own(), slug))

    def touched_since(
        self,
        subject: Subject,
        seen: str,
        *,
        version: int = manifest.VERSION,
        by_people: bool = False,
        whole: bool = False,
    ) -> tuple[str, str] | None:
        """Return (commit, path) of the first commit after `seen` that touched the subject, or None.

        `by_people`: a step's own work does not count; `whole`: later steps' files count too.
        """
        cover = self.cover(subject, seen) if version > 1 else None
        for oid in reversed(list(islice(self.chain, self.chain[seen]))):
            commit = transitions.commit_of(self.git, oid)
            if not commit.parents or (by_people and record.is_transition(commit, self.protocol)):
                continue
            if cover is not None and self._keeps_base(cover, commit):
                continue
            path = self._touches(subject, cover, commit, oid, whole=whole)
            if path is not None:
                return oid, path
            if (
                cover is not None
                and record.is_transition(commit, self.protocol)
                and self._results_differ(subject, commit)
            ):
                return oid, "a result that it gets"
        return None

    def kept_base(self, subject: Subject, seen: str) -> bool:
        """Return whether a merge of the trusted branch that changes nothing for the subject came after `seen`."""
        cover = self.cover(subject, seen)
        after = islice(self.chain, self.chain[seen])
        return cover is not None and any(self._keeps_base(cover, transitions.commit_of(self.git, oid)) for oid in after)

    def _touches(self, subject: Subject, cover: Cover | None, commit: Commit, place: str, *, whole: bool) -> str | None:
        """Return a path that a commit changed and that the subject is about, or None. `place`: the commit of the chain that has it."""
        harmless = None
        for path, entries in self.git.changed(commit.parents[0], commit.oid).items():
            if not self.covers(subject, path):
                continue
            if cover is None or not self._leaves_out(cover, commit, path, entries, place, whole=whole):
                return path
            harmless = path if harmless is None and not cover.is_later(path) else harmless
        if cover is None or harmless is None or commit.oid != place or len(commit.parents) == 1:
            return None
        return None if self._brings_harmless(subject, cover, commit, whole) else harmless

    def _leaves_out(
        self,
        cover: Cover,
        commit: Commit,
        path: str,
        entries: tuple[TreeEntry | None, TreeEntry | None],
        place: str,
        *,
        whole: bool,
    ) -> bool:
        """Return whether a commit's change of a path is left out: of a later step's file, or a person's of a harmless one's bytes."""
        if not is_plain(*entries):
            return False
        if cover.is_later(path):
            return not whole
        if any(email.casefold() in self.trusted.agents for email in commit.emails):
            return False
        return self._is_harmless(cover, path, place)

    def _brings_harmless(self, subject: Subject, cover: Cover, merge: Commit, whole: bool) -> bool:
        """Return whether each commit that a merge of two brought changed nothing but harmless files, as in sync's of two clones.

        So a merge hides no step's or agent's work, and nothing that was changed and taken back.

        Raises:
            InsufficientHistoryError: what it brought is not all in this clone.
        """
        if len(merge.parents) != 2:
            return False
        for oid in transitions.touched(self.git, [merge.oid, f"^{merge.parents[0]}"], []):
            commit = transitions.commit_of(self.git, oid)
            if oid != merge.oid and (
                len(commit.parents) not in (1, 2)
                or log.parse_message(commit.message) is not None
                or self._touches(subject, cover, commit, merge.oid, whole=whole) is not None
            ):
                if self.git.is_shallow():  # the first parent may have it too
                    raise self.git.missing(f"the history of the merge {merge.oid[:12]}")
                return False
        return True

    def _keeps_base(self, cover: Cover, commit: Commit) -> bool:
        """Return whether a commit is git's own merge of the trusted branch, where the policy says that this changes nothing.

        Raises:
            InsufficientHistoryError: what says so is not in this clone.
        """
        if not cover.keeps_base or len(commit.parents) != 2:
            return False
        ours, theirs = commit.parents
        own = f"{paths.folder(self.protocol)}/"  # every transition writes there
        if any(path.startswith(own) for path in self.git.changed(ours, commit.oid)):
            return False
        if not self._was_trusted(theirs):
            return False
        is_plain_merge = self.git.plain_merge(ours, theirs) == commit.tree
        if not is_plain_merge and self.git.is_shallow():  # it may have another base here
            raise self.git.missing(f"the history of the merge {commit.oid[:12]}")
        return is_plain_merge

    def _was_trusted(self, oid: str) -> bool:
        """Return whether the trusted branch was at a commit: that of the trusted config, or one of its first parents."""
        now = self.trusted.commit
        if oid == now:
            return True
        if self.git.is_shallow() and not self.git.is_ancestor(oid, now):
            raise self.git.missing(f"the history of {now[:12]}")
        between = self.git.first_parents(now, stop=oid)  # none where it goes on from now
        return bool(between) and transitions.commit_of(self.git, between[-1]).parents[:1] == (oid,)

    def _results_differ(self, subject: Subject, commit: Commit) -> bool:
        """Return whether a transition changed a result that the step gets, since the one before: a commit between may be damage."""
        before = transitions.commit_of(self.git, commit.parents[0])
        while before.parents and not record.is_transition(before, self.protocol):
            before = transitions.commit_of(self.git, before.parents[0])
        now, then = (
            manifest.results(self._state_at(oid, self._own(oid)), subject.slug) for oid in (commit.oid, before.oid)
        )
        return now != then

    def touched_by_people(self, subject: Subject, revision: int, only: Collection[str] | None = None) -> str | None:
        """Return a person's first commit after the transition that holds a revision which touched the subject, or None.

        `only`: the paths that count, where not all of the subject's do.
        """
        found = None
        for oid in self.chain:
            commit = transitions.commit_of(self.git, oid)
            if (own := record.transition_of(commit, self.protocol)) is not None:
                if own.revisions[0] <= revision:
                    break
            elif commit.parents and any(
                path in only if only is not None else self.covers(subject, path)
                for path in self.git.changed(commit.parents[0], oid)
            ):
                found = oid
        return found

    # --- who wrote it ----------------------------------------------------------------------------------------------------

    def authors(self, subject: Subject) -> list[Commit]:
        """Return the commits, side branches included, that wrote the subject's plan files, whatever their number was."""
        if subject not in self._authors:
            self._authors[subject] = self._authors_of(subject)
        return self._authors[subject]

    def digest_at(self, subject: Subject, commit: str, version: int = manifest.VERSION) -> str:
        """Return what `digest` does, made once for each commit."""
        if (subject, commit, version) not in self._digests:
            self._digests[subject, commit, version] = self.digest(subject, commit, version=version)
        return self._digests[subject, commit, version]

    def _authors_of(self, subject: Subject) -> list[Commit]:
        if subject.kind == "call":
            return []
        own = f"{paths.folder(self.protocol)}/"
        names = self._own()
        if subject.kind == "merge":
            wanted = [name for name in names if paths.is_plan_file(name)]
        elif subject.kind == "plan":
            wanted = [name for name in names if self.covers(subject, own + name)]
        else:
            wanted = [path.removeprefix(own) for path in manifest.step_files(self.protocol, names, subject.slug)]
        found = self.branch.wrote({transitions.unnumbered(name) for name in wanted}, self.tip)
        if subject.kind in OF_WORK and subject.slug in self.state.steps:
            out = self.git.run("rev-list", self.tip, f"^{self.began(subject)}", f"^{self.trusted.commit}")
            found += [
                commit for oid in out.decode().split() if self._is_work(commit := transitions.commit_of(self.git, oid))
            ]
        return found

    def _is_work(self, commit: Commit) -> bool:
        """Return whether a commit is a person's that changes code; a merge's are what it has from none of its parents."""
        if log.parse_message(commit.message) is not None:
            return False
        changed = [set(self.git.changed(parent, commit.oid)) for parent in commit.parents]
        return any(manifest.is_code(self.protocol, path) for path in set.intersection(*changed)) if changed else True


def _steps_of(subject: Subject, plan: Plan, done: Collection[str]) -> list[Step]:
    """Return the steps whose doing the subject is about; of a plan, all that were not done where it was seen."""
    if subject.slug:
        return [step for step in plan.steps if step.slug == subject.slug]
    return [step for step in plan.steps if step.slug not in done]
