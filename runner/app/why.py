"""`why`: which step, model, words and people brought a line of code here, as git and the record tell it. Only read, never judged.

A line is blamed; where the commit that brought it is a squash of a protocol, it is blamed on along the protocol's own chain, which
branch or history ref keep. Where a person changed it by hand, what stood there before is looked at too. That the record is right
is `verify`'s to say. What is told here is plain data, of the shape that `protocol.output.Why` describes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import RunnerError, UsageError
from runner.git import Commit
from runner.git.blame import Blamed, blame, hunks
from runner.protocol import ids, message, paths
from runner.protocol.log import RawEntry
from runner.store import history, record
from runner.store.project import Project

Told = dict[str, Any]

DEEP = 8  # edits by hand, one over the other, that are looked through
ALIKE = 0.6  # of a line that a hand changed, what has to be left of it
ALIKE_MOST = 400  # lines of one edit that are compared with what they replaced
# Events whose commit may hold a step's work.
_WORK = ("step-finished", "call-held", "effect-unknown", "asked", "budget-reached")
_QUIET = ("read_file", "list_files", "search_text", "finish", "ask_person", "publish_artifact")  # they write no line
_AGENT = re.compile(rb"^agent:[ \t]*[\"']?([a-z0-9-]+)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def why(project: Project, cwd: Path, path: str, first: int, last: int) -> Told:
    """Return where the lines `first` to `last` of a file come from; `path`: as seen from `cwd`, as it stands there now.

    Raises:
        UsageError: there is no such file, it is not committed, or has fewer lines.
    """
    inside = _inside(project, cwd, path)
    return {"path": inside, "origins": _Look(project).now(inside, first, last)}


def _inside(project: Project, cwd: Path, path: str) -> str:
    top = project.git.top
    if top is None:
        return os.path.normpath(path)
    inside = os.path.relpath(os.path.normpath(os.path.join(os.path.realpath(cwd), path)), os.path.realpath(top))
    if inside == ".." or inside.startswith("../"):
        raise UsageError("the file is not in this repository", path, f"name a file below {top}")
    return inside


class _Look:
    """One question. What was found out about protocols and commits is kept, for many lines come from few."""

    def __init__(self, project: Project) -> None:
        self.project, self.git = project, project.git
        self._chains: dict[str, _Chain] = {}
        self._grafts: dict[str, tuple[str, ...]] = {}
        self._looked: dict[str, tuple[str, ...]] = {}
        self._notes: dict[str, tuple[str, str]] = {}  # a copy's commit to (protocol, why its chain is not followed)

    def now(self, path: str, first: int, last: int) -> list[Told]:
        """Return the origins of lines as they stand in the work tree, or in HEAD where there is none."""
        if self.git.top is None:
            return self._resolve(blame(self.git, path, [(first, last)], commit="HEAD"), DEEP)
        found = blame(self.git, path, [(first, last)], work_tree=self.git.top, config=self._conversions())
        return self._resolve(found, DEEP)

    def _conversions(self) -> list[str]:
        from runner.store import worktree

        return worktree.conversions(self.git)

    # --- through squashes and copies -----------------------------------------------------------------------------------

    def _resolve(self, lines: Sequence[Blamed], deep: int, through: tuple[str, ...] = ()) -> list[Told]:
        """Return the origins of lines; `through`: copies that were looked into on the way to them."""
        found: list[Told] = []
        for group in _together(lines):
            commit = group[0].commit
            if commit is not None and commit not in through and self._parents(commit):
                found += self._resolve(self._again(group, commit), deep, (*through, commit))
            else:
                found.append(self._tell(group, deep, through))
        return found

    def _again(self, group: Sequence[Blamed], commit: str) -> list[Blamed]:
        """Return where lines come from, as seen from the commit that seemed to have brought them."""
        first, last = group[0], group[-1]
        found = blame(self.git, first.path, [(first.old, last.old)], commit=commit, grafts=self._grafts)
        return [dataclasses.replace(line, line=line.line + first.line - first.old) for line in found]

    def _parents(self, oid: str) -> tuple[str, ...]:
        """Return the parents that a copy shall have in further questions; empty where a commit is no copy."""
        if oid not in self._looked:
            self._looked[oid] = self._other_parents(oid)
            if self._looked[oid]:
                self._grafts[oid] = self._looked[oid]
        return self._looked[oid]

    def _other_parents(self, oid: str) -> tuple[str, ...]:
        """Return a copy's parents and what it was copied from: a protocol's chain that it squashed, a revision gone back to."""
        commit = self.git.commit(oid)
        if commit is None:
            return ()
        more: list[str] = []
        told = self.transition(commit)
        if told is not None:
            entry = self._chain(told.protocol).at(told.revision)
            if entry is None or entry.event != "undone" or not isinstance(entry.fields.get("to"), int):
                return ()
            more += [at for at in (self._chain(told.protocol).commit_at(int(entry.fields["to"]), oid),) if at]
        else:
            for protocol, state in self._brought(commit):
                copied = self._chain(protocol).with_state(state, commit.parents)
                if copied is None:
                    self._notes[oid] = (protocol, self._chain(protocol).why_not())
                elif copied != oid:
                    more.append(copied)
        return (*commit.parents, *more) if more else ()

    def _brought(self, commit: Commit) -> Iterator[tuple[str, str]]:
        """Yield (protocol, its state.json's oid) of those whose record is in this commit as in none of its parents."""
        root = self.git.tree(f"{commit.oid}:{paths.ROOT}") or {}
        before = [self.git.tree(f"{parent}:{paths.ROOT}") or {} for parent in commit.parents]
        for name, entry in root.items():
            if not ids.is_protocol_id(name) or any(tree.get(name) == entry for tree in before):
                continue
            state = (self.git.tree(entry.oid) or {}).get(paths.STATE)
            if state is None:
                continue
            old = [(self.git.tree(tree[name].oid) or {}).get(paths.STATE) for tree in before if name in tree]
            if state not in old:
                yield name, state.oid

    def transition(self, commit: Commit) -> message.Trailers | None:
        """Return what a transition says of itself; None where the record around it does not say the same.

        A squash may carry the last of its messages: it is no transition, for its parent is further behind.
        """
        told = message.parse(commit.message)
        if told is None:
            return None
        revisions = [self._revision(told.protocol, oid) for oid in (commit.oid, *commit.parents[:1])]
        before = revisions[1] if len(revisions) > 1 else 0
        if revisions[0] != told.revision or before != told.revision - len(told.events):
            return None
        return told

    def _revision(self, protocol: str, oid: str) -> int:
        return int(record.row(self.git, protocol, oid)["revision"])

    def _chain(self, protocol: str) -> _Chain:
        if protocol not in self._chains:
            self._chains[protocol] = _Chain(self.project, protocol)
        return self._chains[protocol]

    # --- what is told of lines ----------------------------------------------------------------------------------------------

    def _tell(self, group: Sequence[Blamed], deep: int, through: Sequence[str]) -> Told:
        first = group[0]
        told: Told = {
            "first": first.line, "last": group[-1].line, "text": [line.text for line in group], "kind": "person",
            "commit": first.commit, "path": first.path, "line": first.old, "time": None, "author": None, "subject": None,
            "came_in": through[0] if through else None, "protocol": None, "title": None, "step": None, "replaced": [], "note": "",
        }  # fmt: skip
        if first.commit is None:
            told |= {"kind": "uncommitted", "replaced": self._replaced(group, deep)}
            return told
        commit = self.git.commit(first.commit)
        assert commit is not None, "unreachable: git blamed a commit that is not here"
        told |= {"time": _time(commit.author), "author": _name(commit.author), "subject": _subject(commit)}
        if first.cut and self._is_cut(first.commit):
            told |= {"kind": "unknown", "note": "the history of this clone ends here; run `git fetch --unshallow`"}
            return told
        trailers = self.transition(commit)
        if trailers is not None and self._agrees(trailers):
            return self._transition(told, trailers, group)
        if first.commit in self._notes:
            told["kind"], (told["protocol"], told["note"]) = "unknown", self._notes[first.commit]
            told["title"] = record.row(self.git, told["protocol"], first.commit)["title"]
            return told
        self._by_hand(told, commit)
        if told["step"] is None:
            told["replaced"] = self._replaced(group, deep)
        return told

    def _is_cut(self, oid: str) -> bool:
        return self.git.is_shallow() and oid in (self.git.common_dir / "shallow").read_text("ascii").split()

    def _agrees(self, told: message.Trailers) -> bool:
        """Return whether the protocol's record has the events that a transition says it is."""
        first = told.revision - len(told.events) + 1
        there = [self._chain(told.protocol).at(number) for number in range(first, told.revision + 1)]
        return [f"{entry.event} {entry.subject}" for entry in there if entry] == list(told.events)

    def _transition(self, told: Told, trailers: message.Trailers, group: Sequence[Blamed]) -> Told:
        chain = self._chain(trailers.protocol)
        numbers = range(trailers.revision - len(trailers.events) + 1, trailers.revision + 1)
        events = [entry for number in numbers if (entry := chain.at(number))]
        commit = str(told["commit"])
        row = record.row(self.git, trailers.protocol, commit)
        told |= {"kind": "record", "protocol": trailers.protocol, "title": row["title"], "revision": trailers.revision,
                 "actor": trailers.actor, "events": list(trailers.events)}  # fmt: skip
        work = next((entry for entry in events if entry.event in _WORK and entry.subject in row["steps"]), None)
        lines = [line.text for line in group]
        inside = str(told["path"]).startswith(f"{paths.folder(trailers.protocol)}/")
        if work is not None and not inside:
            told |= {"kind": "step", **self._step(chain, row, commit, work, lines, str(told["path"]))}
        elif inside and paths.is_words(str(told["path"]).removeprefix(f"{paths.folder(trailers.protocol)}/")):
            # A model's words are `planned`; the first commit brings a person's, and says who they are.
            planned = next((entry for entry in events if entry.fields.get("transcript")), None)
            told["kind"] = "plan"
            told["approvals"] = chain.approvals(None, 0)
            if planned is not None:
                told |= {"engine": planned.fields.get("engine"), "cost": _sum([planned])}
                told["transcript"] = chain.planned(str(planned.fields["transcript"]), lines)
        return told

    def _step(
        self, chain: _Chain, row: Mapping[str, Any], commit: str, work: RawEntry, lines: list[str], path: str
    ) -> Told:
        slug = work.subject
        attempt = _count(work.fields.get("attempt")) or _count(row["steps"][slug].get("attempt")) or 1
        last = chain.last_of(slug, attempt) or work
        file, data = record.step_file(self.git, chain.protocol, commit, slug)
        plan = self.git.blob(f"{commit}:{paths.folder(chain.protocol)}/{paths.PLAN}")
        agent = next((match[1].decode() for match in map(_AGENT.search, (data or b"", plan or b"")) if match), None)
        kind = str(row["steps"][slug].get("kind"))
        return {
            "step": slug,
            "place": row["steps"][slug]["place"],
            "step_title": row["steps"][slug].get("title"),
            "step_kind": kind,
            "step_file": f"{paths.folder(chain.protocol)}/{file}" if file else None,
            "prose": record.prose(data),
            "attempt": attempt,
            "executor": last.fields.get("executor"),
            "agent": agent if kind == "agent" else None,
            "engine": last.fields.get("engine"),
            "transcript": chain.said(slug, attempt, lines, path),
            "checks": chain.checks(slug, attempt),
            "approvals": chain.approvals(slug, attempt),
            "cost": chain.cost(slug, attempt),
        }

    def _by_hand(self, told: Told, commit: Commit) -> None:
        """Say of which protocol's branch, and of which person's step, an ordinary commit is, where it is of one."""
        for protocol in self._near(commit.oid):
            chain = self._chain(protocol)
            above = chain.above(commit.oid)
            if above is None:
                continue
            row = record.row(self.git, protocol, commit.oid)
            told |= {"protocol": protocol, "title": row["title"]}
            step = next(
                (
                    entry
                    for entry in above
                    if entry.event == "step-finished"
                    and entry.fields.get("executor") == "person"
                    and chain.is_below(str(entry.fields.get("start")), commit.oid)
                ),
                None,
            )
            if step is not None:
                told |= self._step(chain, chain.row, chain.tip, step, [], "")
            return

    def _near(self, oid: str) -> list[str]:
        """Return the protocols on whose branch a commit may be: those whose folder in it is not what stands now."""
        there, now = (self.git.tree(f"{at}:{paths.ROOT}") or {} for at in (oid, self.project.trusted.commit))
        found = [name for name, entry in there.items() if ids.is_protocol_id(name) and now.get(name) != entry]
        return found[-DEEP:]

    # --- under an edit by hand ------------------------------------------------------------------------------------------------

    def _replaced(self, group: Sequence[Blamed], deep: int) -> list[Told]:
        """Return what protocols had written where a hand changed lines; empty where nothing of theirs was there."""
        before = group[0].before
        if before is None or deep == 0:
            return []
        commit, path = before
        if group[0].commit is None:
            found = hunks(self.git, f"{commit}:{path}", None, work_tree=self.git.top, config=self._conversions())
        else:
            found = hunks(self.git, f"{commit}:{path}", f"{group[0].commit}:{group[0].path}")
        spans = [hunk for hunk in found if any(line.old in hunk[1] for line in group) and len(hunk[0])]
        if not spans:
            return []
        old = (self.git.blob(f"{commit}:{path}") or b"").decode("utf-8", "replace").split("\n")
        lines = {number: old[number - 1] for was, _ in spans for number in was if number <= len(old)}
        alike = sorted({number for line in group if (number := _most_alike(line.text, lines)) is not None})
        if not alike:
            return []
        origins = self._resolve(blame(self.git, path, _ranges(alike), commit=commit), deep - 1)
        return [one for origin in origins for one in (origin["replaced"] if origin["kind"] == "person" and
                origin["step"] is None else [origin]) if one["protocol"] is not None]  # fmt: skip


class _Chain:
    """A protocol's own commits and events, as far as they are here: by its branch, its history ref, or the base's folder."""

    def __init__(self, project: Project, protocol: str) -> None:
        self.project, self.git, self.protocol = project, project.git, protocol
        self.tips = list(self._tips())
        self.tip = self.tips[0] if self.tips else project.trusted.commit
        try:
            self.entries = record.events(self.git, protocol, self.tip)
        except RunnerError:  # `verify` says what is wrong with it
            self.entries = []
        self._by_number = {entry.revision: entry for entry in self.entries}
        self._above: dict[str, list[str]] = {}

    def _tips(self) -> Iterator[str]:
        if (tip := self.project.tip(self.protocol)) is not None:
            yield tip
        at = self.git.resolve(history.ref_of(self.protocol))
        filed = self.git.commit(at) if at else None
        for oid in filed.parents if filed else ():
            commit = self.git.commit(oid)
            if commit is not None and not commit.message.startswith(f"{self.protocol}: history\n".encode()):
                yield oid

    @property
    def row(self) -> Mapping[str, Any]:
        """The protocol's state at its tip."""
        return record.row(self.git, self.protocol, self.tip)

    @property
    def fetch(self) -> str:
        """What brings histories that are not here."""
        return (
            f"run `git fetch {self.project.trusted.remote or 'origin'} 'refs/runner/history/*:refs/runner/history/*'`"
        )

    def why_not(self) -> str:
        """Return why a copy of it cannot be looked into, and what brings the missing part."""
        if self.tips:
            return f"this record is none of its history's; run `runner verify {self.protocol}`"
        return f"which step it was is told by its history, which is not here; {self.fetch}"

    # --- commits ---------------------------------------------------------------------------------------------------------

    def with_state(self, state: str, but: Sequence[str]) -> str | None:
        """Return the newest commit of the chain whose state.json is this blob; what `but` have is not looked at."""
        name = f"{paths.folder(self.protocol)}/{paths.STATE}"
        for tip in self.tips:
            code, out, _ = self.git.try_run("rev-list", "--first-parent", tip, *(f"^{oid}" for oid in but))
            commits = out.decode().split() if code == 0 else []
            for oid in commits:
                if self.git.ref(f"{oid}:{name}") == state:
                    return oid
        return None

    def commit_at(self, revision: int, below: str) -> str | None:
        """Return the transition below a commit that ended with a revision."""
        for oid in self._commits(below):
            commit = self.git.commit(oid)
            told = message.parse(commit.message) if commit else None
            if told is not None and told.protocol == self.protocol and told.revision <= revision:
                return oid
        return None

    def _commits(self, tip: str) -> list[str]:
        """Return the chain from `tip` down to where it began, newest first."""
        if tip not in self._above:
            start = self.entries[0].fields.get("start") if self.entries else None
            stop = [f"^{start}"] if isinstance(start, str) and self.git.resolve(start) else []
            code, out, _ = self.git.try_run("rev-list", "--first-parent", tip, *stop)
            self._above[tip] = out.decode().split() if code == 0 else []
        return self._above[tip]

    def above(self, oid: str) -> list[RawEntry] | None:
        """Return the events after a commit of the chain, oldest first; None where it is none of the chain's."""
        commits = self._commits(self.tip)
        if not self.tips or oid not in commits:
            return None
        revision = int(record.row(self.git, self.protocol, oid)["revision"])
        return [entry for entry in self.entries if entry.revision > revision]

    def is_below(self, old: str, new: str) -> bool:
        """Return whether one commit of the chain, or where it began, comes before another."""
        commits = self._commits(self.tip)
        return old not in commits or commits.index(old) > commits.index(new)

    # --- events ------------------------------------------------------------------------------------------------------------

    def at(self, revision: int) -> RawEntry | None:
        """Return the event of a revision."""
        return self._by_number.get(revision)

    def _of(self, slug: str, attempt: int) -> list[RawEntry]:
        """Return the events of a step's attempt."""
        found, now = [], 1
        for entry in self.entries:
            if entry.subject == slug:
                now = _count(entry.fields.get("attempt")) if entry.event == "step-retried" else now
                found += [entry] if now == attempt else []
        return found

    def last_of(self, slug: str, attempt: int) -> RawEntry | None:
        """Return the last event that tells of the attempt's work."""
        return next((entry for entry in reversed(self._of(slug, attempt)) if entry.event in _WORK), None)

    def checks(self, slug: str, attempt: int) -> list[Told]:
        """Return the checks of QA's last verdict on the attempt, a review among them."""
        verdicts = [entry for entry in self._of(slug, attempt) if entry.event in ("qa-passed", "qa-failed")]
        return [
            {"check": str(check.get("check")), "code": check.get("code"), "time": entry.time,
             "engine": entry.fields.get("engine")}
            for entry, check in record.checks(verdicts[-1:], slug)
        ]  # fmt: skip

    def cost(self, slug: str, attempt: int) -> Told:
        """Return what the attempt cost, its checks included."""
        return _sum(self._of(slug, attempt))

    def approvals(self, slug: str | None, attempt: int) -> list[Told]:
        """Return the words that were counted on the plan, the step and what it called, and those on the merge."""
        asked = {
            f"w{entry.revision}": entry for entry in self.entries if entry.event in ("approval-asked", "call-held")
        }
        own = {entry.revision for entry in self._of(slug, attempt)} if slug else set()
        found: list[Told] = []
        for entry in self.entries:
            wait = asked.get(str(entry.fields.get("wait")))
            if entry.event not in ("approval-counted", "call-decided") or wait is None:
                continue
            kind = str(wait.fields.get("kind", "call"))
            if entry.revision not in own and kind not in ("plan", "merge"):
                continue
            by = entry.fields.get("by")
            files = entry.fields.get("approvals")
            found.append({
                "kind": kind, "subject": str(wait.fields.get("call", entry.subject)), "time": entry.time,
                "decision": str(entry.fields.get("decision", "approved")),
                "by": [str(one) for one in by] if isinstance(by, list) else [str(by)],
                "reasons": [self._reason(str(name)) for name in files] if isinstance(files, list) else [],
            })  # fmt: skip
        return found + list(self._merge())

    def _reason(self, name: str) -> str:
        signed = self._word(f"{name}.approval")
        return str(signed.statement.reason) if signed is not None else ""

    def _merge(self) -> Iterator[Told]:
        for name in self.git.tree(f"{self.tip}:{paths.folder(self.protocol)}/approvals") or {}:
            signed = self._word(name)
            if signed is not None and signed.statement.subject == "merge":
                said = signed.statement
                decision = {"approve": "approved", "reject": "rejected"}.get(said.decision, "taken back")
                yield {"kind": "merge", "subject": "merge", "time": said.issued, "decision": decision,
                       "by": [said.approver], "reasons": [said.reason]}  # fmt: skip

    def _word(self, name: str) -> Any:
        from runner.protocol import statement

        data = self.git.blob(f"{self.tip}:{paths.folder(self.protocol)}/{paths.APPROVALS}{name}")
        try:
            return statement.parse(data, name) if data is not None else None
        except RunnerError:
            return None

    # --- transcripts -----------------------------------------------------------------------------------------------------------

    def said(self, slug: str, attempt: int, lines: Sequence[str], path: str) -> Told | None:
        """Return the part of the attempt's transcript that wrote lines of a file, or of one before it that it went on from."""
        told = None
        for number in self._kept(slug, attempt):
            digest = self._digest(slug, number)
            if digest is not None:
                found = self._part(f"{slug}.{number}.jsonl", digest, lines, path)
                told = told if told is not None and found["turn"] is None else found
        return told

    def planned(self, digest: str, lines: Sequence[str]) -> Told:
        """Return the part of the planner's transcript with a digest that wrote lines of the plan."""
        return self._part("plan.", digest, lines, None)

    def _digest(self, slug: str, attempt: int) -> str | None:
        told = [
            entry.fields.get("transcript") for entry in self._of(slug, attempt) if not entry.event.startswith("qa-")
        ]
        return next((str(digest) for digest in reversed(told) if digest), None)

    def _kept(self, slug: str, attempt: int) -> list[int]:
        """Return the attempt, and those before it whose files it went on from."""
        found = [attempt]
        for entry in reversed(self.entries):
            if entry.subject == slug and entry.event == "step-retried" and entry.fields.get("attempt") == found[-1]:
                if not entry.fields.get("kept"):
                    break
                found.append(found[-1] - 1)
        return found

    def _part(self, prefix: str, digest: str, lines: Sequence[str], path: str | None) -> Told:
        """Return the last call that has the longest of the lines, of the file `runs/PREFIX…` that has the digest."""
        from runner.protocol.digest import digest as digest_of

        told: Told = {
            "file": None,
            "digest": digest,
            "turn": None,
            "time": None,
            "model": None,
            "tool": None,
            "text": "",
        }
        there = list(history.transcripts(self.git, self.protocol, prefix))
        for file, data in there:
            if digest_of(data) == digest:
                wanted = max((line.strip() for line in lines), key=len, default="")
                found = _part(data, wanted, path)
                note = "" if found else "no call of it has the line: a command that it ran has written it"
                return told | {"file": file, "note": note} | (found or {})
        what = "what is here is not what the record names" if there else "it is not here"
        return told | {"note": f"{what}; {self.fetch}"}


def _part(data: bytes, wanted: str, path: str | None) -> Told | None:
    """Return the last call that has a line in it, one that names the file before others; with no `path`, what was said."""
    rows = [row for row in map(_json, data.decode("utf-8", "replace").split("\n")) if isinstance(row, dict)]
    refused = {str(one.get("id")) for row in rows for one in _objects(row.get("results")) if one.get("error")}
    found: list[tuple[bool, Told]] = []
    turn = 0
    for row in rows:
        if row.get("kind") not in ("response", "summary"):
            continue
        turn += 1
        about = {"turn": turn, "time": row.get("time"), "model": row.get("model")}
        said = [(None, [*_texts(_json(row.get("text"))), str(row.get("text"))])] if path is None else [
            (call.get("name"), list(_texts(call.get("arguments")))) for call in _objects(row.get("calls"))
            if call.get("name") not in _QUIET and str(call.get("id")) not in refused
        ]  # fmt: skip
        for tool, texts in said:
            if text := _around(texts, wanted):
                found.append((path is None or any(path in one for one in texts), {**about, "tool": tool, "text": text}))
    best = max((named for named, _ in found), default=False)
    return next((told for named, told in reversed(found) if named == best), None)


def _count(value: object) -> int:
    """Return a count as the record has it; 0 where it is none, which is `verify`'s to tell."""
    return value if isinstance(value, int) and value >= 0 else 0


def _objects(value: object) -> list[Told]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _json(text: object) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a value of JSON."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, list):
            stack += one


def _around(texts: Sequence[str], wanted: str) -> str:
    """Return the lines around the one that is wanted, where a text has it whole; a patch's lines begin with a plus."""
    for text in texts:
        rows = text.splitlines()
        for number, row in enumerate(rows):
            if wanted and wanted in (row.strip(), row.removeprefix("+").strip()):
                return "\n".join(rows[max(0, number - 2) : number + 3])
    return ""


def _together(lines: Sequence[Blamed]) -> Iterator[list[Blamed]]:
    """Yield the lines that follow each other here and in the commit that brought them."""
    group: list[Blamed] = []
    for line in lines:
        last = group[-1] if group else None
        if last is not None and (line.commit, line.path, line.line, line.old) != (
            last.commit, last.path, last.line + 1, last.old + 1
        ):  # fmt: skip
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _most_alike(text: str, lines: Mapping[int, str]) -> int | None:
    """Return the number of the line that a changed one most likely was; None where nothing of it is left."""
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(b=text.strip(), autojunk=False)
    best, number = ALIKE, None
    for at, old in list(lines.items())[:ALIKE_MOST]:
        matcher.set_seq1(old.strip())
        if matcher.real_quick_ratio() >= best and matcher.quick_ratio() >= best and (ratio := matcher.ratio()) >= best:
            best, number = ratio, at
    return number


def _sum(entries: Sequence[RawEntry]) -> Told:
    """Return what events cost together; `usd` is null where nobody knows the price of a part."""
    from decimal import Decimal, InvalidOperation

    spent = [told for entry in entries if isinstance(told := entry.fields.get("spent"), dict)]
    whole: Told = {
        key: sum(_count(told.get(key)) for told in spent) for key in ("input_tokens", "output_tokens", "seconds")
    }
    try:
        usd = sum((Decimal(str(told.get("usd") or "0")) for told in spent), Decimal(0))
    except InvalidOperation:
        usd = Decimal(0)
    return whole | {"usd": None if any(told.get("unpriced") for told in spent) else format(usd, "f")}


def _name(ident: bytes) -> str:
    return ident.rpartition(b">")[0].decode("utf-8", "replace") + ">"


def _time(ident: bytes) -> str:
    import time

    try:
        at = int(ident.split()[-2])
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    except (ValueError, IndexError, OverflowError, OSError):
        return ""


def _subject(commit: Commit) -> str:
    return commit.message.split(b"\n", 1)[0].decode("utf-8", "replace")
