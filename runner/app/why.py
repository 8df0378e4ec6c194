"""`why`: which step, model, plan file and people wrote a line of code, by git and the record. It reads, and does not verify.

A line is blamed; if its commit is a squash of a protocol, the blame continues along the protocol's own chain, which the branch or
the history ref keeps. If a person changed the line by hand, the line before that is blamed too. `verify` proves the record. The
result is plain data, of the shape of `schemas/why.schema.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.app.describe import count
from runner.app.timeline import Timeline, Told, cost_of
from runner.errors import UsageError
from runner.git import Commit
from runner.git.repository import Blamed, blame, hunks
from runner.lines import lines_of
from runner.protocol import ids, log, paths
from runner.protocol.event_types import event_type
from runner.protocol.ids import digest as digest_of
from runner.protocol.log import RawEntry
from runner.protocol.state import read_json
from runner.store import history, record, worktree
from runner.store.environment import timestamp
from runner.store.project import Project, Session
from runner.trust.transitions import commit_of

DEEP = 8  # edits by hand, one over the other, that are looked through
ALIKE = 0.6  # of a line that a hand changed, what has to be left of it
ALIKE_MOST = 400  # lines of one edit that are compared with what they replaced
_QUIET = ("read_file", "list_files", "search_text", "finish", "ask_person", "publish_artifact")  # they write no line
_AGENT = re.compile(rb"^agent:[ \t]*[\"']?([a-z0-9-]+)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def why(session: Session, cwd: Path, path: str, first: int, last: int) -> Told:
    """Return where the lines `first` to `last` of a file come from; `path`: as seen from `cwd`, as it is there now.

    Raises:
        UsageError: there is no such file, it is not committed, or has fewer lines.
    """
    inside = _inside(session.project, cwd, path)
    return {"path": inside, "origins": _Look(session).now(inside, first, last)}


def _inside(project: Project, cwd: Path, path: str) -> str:
    top = project.git.top
    if top is None:
        return os.path.normpath(path)
    inside = os.path.relpath(os.path.normpath(os.path.join(os.path.realpath(cwd), path)), os.path.realpath(top))
    if inside == ".." or inside.startswith("../"):
        raise UsageError("the file is not in this repository", path, f"name a file below {top}")
    return inside


class _Look:
    """One question. Facts about protocols and commits are kept, since many lines come from few."""

    def __init__(self, session: Session) -> None:
        self.session, self.git = session, session.git
        self._chains: dict[str, Timeline] = {}
        self._grafts: dict[str, tuple[str, ...]] = {}
        self._looked: dict[str, tuple[str, ...]] = {}
        self._notes: dict[str, tuple[str, str]] = {}  # a copy's commit to (protocol, why its chain is not followed)

    def now(self, path: str, first: int, last: int) -> list[Told]:
        """Return the origins of lines as they are in the work tree, or in HEAD if there is none."""
        if self.git.top is None:
            return self._resolve(blame(self.git, path, [(first, last)], commit="HEAD"), DEEP)
        found = blame(self.git, path, [(first, last)], work_tree=self.git.top, config=worktree.conversions(self.git))
        return self._resolve(found, DEEP)

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
        return [line._replace(line=line.line + first.line - first.old) for line in found]

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

    def transition(self, commit: Commit) -> log.Trailers | None:
        """Return what a transition says of itself; None where the record around it does not say the same.

        A squash may carry the last of its messages: it is no transition, for its parent is further behind.
        """
        told = log.parse_message(commit.message)
        if told is None:
            return None
        revisions = [self._revision(told.protocol, oid) for oid in (commit.oid, *commit.parents[:1])]
        before = revisions[1] if len(revisions) > 1 else 0
        if revisions[0] != told.revision or before != told.revision - len(told.events):
            return None
        return told

    def _revision(self, protocol: str, oid: str) -> int:
        return int(record.row(self.git, protocol, oid)["revision"])

    def _chain(self, protocol: str) -> Timeline:
        if protocol not in self._chains:
            self._chains[protocol] = Timeline(self.session, protocol)
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
        commit = commit_of(self.git, first.commit)
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

    def _agrees(self, told: log.Trailers) -> bool:
        """Return whether the protocol's record has the events that a transition says it is."""
        first = told.revision - len(told.events) + 1
        there = [self._chain(told.protocol).at(number) for number in range(first, told.revision + 1)]
        return [f"{entry.event} {entry.subject}" for entry in there if entry] == list(told.events)

    def _transition(self, told: Told, trailers: log.Trailers, group: Sequence[Blamed]) -> Told:
        chain = self._chain(trailers.protocol)
        numbers = range(trailers.revision - len(trailers.events) + 1, trailers.revision + 1)
        events = [entry for number in numbers if (entry := chain.at(number))]
        commit = str(told["commit"])
        row = record.row(self.git, trailers.protocol, commit)
        told |= {"kind": "record", "protocol": trailers.protocol, "title": row["title"], "revision": trailers.revision,
                 "actor": trailers.actor, "events": list(trailers.events)}  # fmt: skip
        work = next(
            (entry for entry in events if event_type(entry.event).has_work and entry.subject in row["steps"]), None
        )
        lines = [line.text for line in group]
        inside = str(told["path"]).startswith(f"{paths.folder(trailers.protocol)}/")
        if work is not None and not inside:
            told |= {"kind": "step", **self._step(chain, row, commit, work, lines, str(told["path"]))}
        elif inside and paths.is_plan_file(str(told["path"]).removeprefix(f"{paths.folder(trailers.protocol)}/")):
            # A model's words are `planned`; the first commit brings a person's, and says who they are.
            planned = next((entry for entry in events if entry.fields.get("transcript")), None)
            told["kind"] = "plan"
            told["approvals"] = chain.approvals(None, 0)
            if planned is not None:
                told |= {"engine": planned.fields.get("engine"), "cost": cost_of([planned])}
                told["transcript"] = _filed(chain, "plan.", str(planned.fields["transcript"]), lines, None)
        return told

    def _step(
        self, chain: Timeline, row: Mapping[str, Any], commit: str, work: RawEntry, lines: list[str], path: str
    ) -> Told:
        slug = work.subject
        attempt = count(work.fields.get("attempt")) or count(row["steps"][slug].get("attempt")) or 1
        last, judged = chain.last_of(slug, attempt) or work, chain.judged_in(slug, attempt)
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
            "environment": last.fields.get("environment"),
            "agent": agent if kind == "agent" else None,
            "engine": last.fields.get("engine"),
            "transcript": said(chain, slug, attempt, lines, path),
            "checks": chain.checks(slug, judged),
            "approvals": chain.approvals(slug, judged),
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
                    and entry.subject in chain.row["steps"]
                    and chain.is_below(str(entry.fields.get("start")), commit.oid)
                ),
                None,
            )
            if step is not None:
                told |= self._step(chain, chain.row, chain.tip, step, [], "")
            return

    def _near(self, oid: str) -> list[str]:
        """Return the protocols on whose branch a commit may be: those whose folder in it differs from the present one."""
        there, now = (self.git.tree(f"{at}:{paths.ROOT}") or {} for at in (oid, self.session.project.trusted.commit))
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
            found = hunks(
                self.git, f"{commit}:{path}", None, work_tree=self.git.top, config=worktree.conversions(self.git)
            )
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


# --- transcripts ---------------------------------------------------------------------------------------------------------------


def said(chain: Timeline, slug: str, attempt: int, lines: Sequence[str], path: str) -> Told | None:
    """Return the part of the attempt's transcript that wrote lines of a file, or of one before it whose work it continued."""
    told = None
    for number in chain.kept(slug, attempt):
        digest = chain.transcript(slug, number)
        if digest is not None:
            found = _filed(chain, f"{slug}.{number}.jsonl", digest, lines, path)
            told = told if told is not None and found["turn"] is None else found
    return told


def _filed(chain: Timeline, prefix: str, digest: str, lines: Sequence[str], path: str | None) -> Told:
    """Return the last call that has the longest of the lines, of the file `runs/PREFIX…` that has the digest."""
    told: Told = {"file": None, "digest": digest, "turn": None, "time": None, "model": None, "tool": None, "text": ""}
    there = list(history.transcripts(chain.git, chain.protocol, prefix))
    for file, data in there:
        if digest_of(data) == digest:
            wanted = max((line.strip() for line in lines), key=len, default="")
            found = _part(data, wanted, path)
            note = "" if found else "no call has the whole line: a command wrote it, or an edit of a part of it"
            return told | {"file": file, "note": note} | (found or {})
    what = "the one in this clone is not the one that the record names" if there else "it is not here"
    return told | {"note": f"{what}; {chain.fetch}"}


def _part(data: bytes, wanted: str, path: str | None) -> Told | None:
    """Return the last call that has a line in it, one that names the file before others; without one, the message."""
    rows = [row for row in map(read_json, data.decode("utf-8", "replace").split("\n")) if isinstance(row, dict)]
    refused = {str(one.get("id")) for row in rows for one in _objects(row.get("results")) if one.get("error")}
    found: list[tuple[bool, Told]] = []
    turn = 0
    for row in rows:
        if row.get("kind") not in ("response", "summary"):
            continue
        turn += 1
        about = {"turn": turn, "time": row.get("time"), "model": row.get("model")}
        said = [(None, [*_texts(read_json(row.get("text"))), str(row.get("text"))])] if path is None else [
            (call.get("name"), list(_texts(call.get("arguments")))) for call in _objects(row.get("calls"))
            if call.get("name") not in _QUIET and str(call.get("id")) not in refused
        ]  # fmt: skip
        for tool, texts in said:
            if text := _around(texts, wanted):
                found.append((path is None or any(path in one for one in texts), {**about, "tool": tool, "text": text}))
    best = max((named for named, _ in found), default=False)
    return next((told for named, told in reversed(found) if named == best), None)


def _objects(value: object) -> list[Told]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


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
    """Return the lines around the one that is wanted, if a text has it whole; a patch's lines start with a plus."""
    for text in texts:
        rows = lines_of(text)
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


def _name(ident: bytes) -> str:
    return ident.rpartition(b">")[0].decode("utf-8", "replace") + ">"


def _time(ident: bytes) -> str:
    try:
        return timestamp(int(ident.split()[-2]))
    except (ValueError, IndexError, OverflowError, OSError):
        return ""


def _subject(commit: Commit) -> str:
    return commit.message.split(b"\n", 1)[0].decode("utf-8", "replace")
