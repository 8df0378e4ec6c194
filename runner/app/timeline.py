"""Read a protocol's entries and commits in this clone, and describe an entry to people, for reports.

`runner log`, `runner show` and the page of `runner audit` print an entry in one line, with its checks and the end of an output that
failed; log.md and `--json` have every field. `why` and `audit` read all of a protocol, by its branch, its history ref or the base's
folder, as plain data. Only `verify` says whether any of it is right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from runner.app import describe
from runner.app.describe import count
from runner.errors import RunnerError, UsageError
from runner.lines import lines_of
from runner.protocol import approval_file, paths
from runner.protocol.approval_file import Statement
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry
from runner.protocol.state import OF_NO_STEP, Json
from runner.store import history, lookup, record
from runner.store.project import Project, Session

if TYPE_CHECKING:
    from runner.protocol.state import Row

_HASH = re.compile(r"\b(?:sha256:)?([0-9a-f]{12})[0-9a-f]{28,52}\b")


@dataclass(frozen=True, slots=True)
class Check:
    """A check of QA. `outcome`: `passed` or `exit 2`; `took`: its duration; `tail`: the end of what it printed, if it failed."""

    name: str
    passed: bool
    outcome: str
    took: str
    tail: str


@dataclass(frozen=True, slots=True)
class Account:
    """What one entry says. `parts`: of its line; `texts`: by their names, those of several lines; `tail`: as of a `Check`."""

    parts: tuple[str, ...]
    checks: tuple[Check, ...]
    texts: tuple[tuple[str, str], ...]
    tail: str


def account(entry: RawEntry, protocol: str) -> Account:
    """Return what an entry says. Digests are left out; a key of a newer version is shown as it is, with short hashes."""
    parts: list[str] = []
    texts: list[tuple[str, str]] = []
    for key in sorted(entry.fields, key=lambda key: _ORDER.get(key, len(_ORDER))):
        value = entry.fields[key]
        if key in _ELSEWHERE or value in (None, "", [], {}):
            continue
        first, *more = lines_of(_SHOWN.get(key, lambda value, key=key: f"{key} {_plain(value)}")(value)) or [""]
        parts.append(f"{first} …" if more else first)
        if more:
            texts.append((key, _plain(value)))
    who = _people(entry.fields.get("by"))
    if "decision" in entry.fields or entry.event == "approval-counted":
        parts.insert(0, f"{entry.fields.get('decision', 'approved')} by {who}")
    elif who and entry.event in ("approval-asked", "asked", "call-held", "budget-reached"):
        parts.append(f"asks {who}")
    elif who and who != entry.actor:
        parts.append(f"by {who}")
    if entry.fields.get("report") and isinstance(attempt := entry.fields.get("attempt"), int):
        parts.append(f"findings in {paths.folder(protocol)}/{paths.report_file(entry.subject, attempt)}")
    evidence = entry.fields.get("evidence")
    checks = tuple(_check(one) for one in evidence if isinstance(one, dict)) if isinstance(evidence, list) else ()
    failed = entry.event in ("step-failed", "step-blocked")
    return Account(
        tuple(filter(None, parts)), checks, tuple(texts), str(entry.fields.get("tail") or "") if failed else ""
    )


def _check(found: Mapping[str, Any]) -> Check:
    passed = found.get("code") == 0
    took = describe.duration(count(found.get("seconds")))
    outcome, tail = ("passed", "") if passed else (f"exit {found.get('code')}", str(found.get("tail") or ""))
    return Check(str(found.get("check")), passed, outcome, took, tail)


def _plain(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return _HASH.sub(r"\1", text)


def environment(value: Json) -> str:
    """Return the name of a step's environment for people."""
    return f"with {value}".replace("found ", "the checkout's ").replace("made ", "environment ")


def _commit(label: str) -> Callable[[Json], str]:
    """Return what names a commit after a label, in short, or the ref that keeps one."""
    return lambda value: f"{label} {value if str(value).startswith('refs/') else str(value)[:7]}"


def _names(label: str) -> Callable[[Json], str]:
    """Return what names the entries of a list, or the keys of a mapping, after a label."""
    return lambda value: f"{label} {', '.join(map(str, value))}" if isinstance(value, list | dict) else str(value)


def _steps(value: Json) -> str:
    """Return what names the steps of a plan, in its order; those of an undo have no place."""
    rows = value if isinstance(value, dict) else {}
    places = {slug: step.get("place") if isinstance(step, dict) else None for slug, step in rows.items()}
    ordered = sorted(places, key=lambda slug: place if isinstance(place := places[slug], int) else 0)
    return f"steps {', '.join(ordered)}"


def _spent(value: Json) -> str:
    cost = value if isinstance(value, dict) else {}
    return describe.spent({**cost, "unpriced": count(cost.get("unpriced"))}, tokens=True)


def _reviews(value: Json) -> str:
    rows = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    named = (f"user {one.get('user')} of {one.get('host')} on request {one.get('request')}" for one in rows)
    return f"reviews: {', '.join(named)}"


def _artifacts(value: Json) -> str:
    """Return the artifacts that a step made, or the ids of those that an undo drops."""
    rows = value if isinstance(value, list) else []
    made = [str(one.get("path")) for one in rows if isinstance(one, dict)]
    return f"made {', '.join(made)}" if made else f"without {', '.join(map(str, rows))}"


def _people(by: Json) -> str:
    return ", ".join(map(str, by)) if isinstance(by, list) else str(by or "")


# How a field is shown, in the order of a line.
_SHOWN: Final[Mapping[str, Callable[[Json], str]]] = {
    "title": str,
    "attempt": lambda value: f"attempt {value}",
    "spent": _spent,
    "wait": str,
    "call": str,
    "tool": str,
    "reason": str,
    "text": str,
    "happened": lambda value: "it happened" if value is True else "it did not happen",
    "change": str,
    "to": lambda value: f"to revision {value}",
    "status": lambda value: f"status {value}",
    "outcome": str,
    "context": str,
    "url": str,
    "base": lambda value: f"base {value}",
    "start": _commit("from"),
    "tests": str,
    "commit": _commit("commit"),
    "commits": lambda value: f"commits {', '.join(str(one)[:7] for one in value)}" if isinstance(value, list) else "",
    "kept": _commit("kept at"),
    "source": lambda value: f"from {value}",
    "steps": _steps,
    "removed": _names("removed"),
    "dropped": _names("no longer asked"),
    "done": _names("already done:"),
    "artifacts": _artifacts,
    "result": lambda value: f"result {_plain(value)}",
    "reviews": _reviews,
    "engine": str,
    "executor": str,
    "environment": environment,
}
_ORDER: Final = {key: number for number, key in enumerate(_SHOWN)}
# Fields that are part of another one's text, and digests of what `show` and git have.
_ELSEWHERE: Final = {
    *("approvals", "at", "by", "code", "decision", "digest", "evidence", "genesis", "kind", "nonce", "output", "plan"),
    *("report", "tail", "transcript", "tree"),
}


# --- a protocol's entries and commits ---------------------------------------------------------------------------------


Told = dict[str, Any]


class Timeline:
    """A protocol's own commits and events, as far as they are here: by its branch, its history ref, or the base's folder."""

    def __init__(self, session: Session, protocol: str) -> None:
        self.session, self.git, self.protocol = session, session.git, protocol
        self.tips = list(self._tips())
        self.tip = self.tips[0] if self.tips else session.project.trusted.commit
        try:
            self.entries = record.events(self.git, protocol, self.tip)
        except RunnerError:  # `verify` says what is wrong with it
            self.entries = []
        self._by_number = {entry.revision: entry for entry in self.entries}
        self._above: dict[str, list[str]] = {}

    def _tips(self) -> Iterator[str]:
        if (tip := self.session.project.tip(self.protocol)) is not None:
            yield tip
        at = self.git.resolve(history.ref_of(self.protocol))
        filed = self.git.commit(at) if at else None
        for oid in filed.parents if filed else ():
            commit = self.git.commit(oid)
            if commit is not None and not commit.message.startswith(f"{self.protocol}: history\n".encode()):
                yield oid

    @property
    def row(self) -> Row:
        """The protocol's state at its tip."""
        return record.row(self.git, self.protocol, self.tip)

    @property
    def fetch(self) -> str:
        """What brings histories that are not here."""
        return history.brings(self.protocol, self.session.to_ask)

    def why_not(self) -> str:
        """Return why a copy of its work cannot be looked into, and what brings the missing part."""
        if self.tips:
            return f"this record is none of its history's; run `runner verify {self.protocol}`"
        return f"its history would say which step it was, and is not here; {self.fetch}"

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
        return next((oid for at, oid in self._transitions(below) if at <= revision), None)

    def commit_of(self, revision: int) -> str:
        """Return the transition that has the event of a revision; the tip where it is not here."""
        found = self.tip
        for at, oid in self._transitions(self.tip):
            if at < revision:
                break
            found = oid
        return found

    def _transitions(self, tip: str) -> Iterator[tuple[int, str]]:
        """Yield (last revision, commit) of the transitions from `tip` down, newest first."""
        for oid in self._commits(tip):
            if (one := record.transition_of(self.git.commit(oid), self.protocol)) is not None:
                yield one.trailers.revision, oid

    def _commits(self, tip: str) -> list[str]:
        """Return the commits from `tip` down to the genesis, newest first."""
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
        """Return whether one commit of the protocol, or its start, comes before another."""
        commits = self._commits(self.tip)
        return old not in commits or commits.index(old) > commits.index(new)

    # --- events ------------------------------------------------------------------------------------------------------------

    def at(self, revision: int) -> RawEntry | None:
        """Return the event of a revision."""
        return self._by_number.get(revision)

    def of(self, slug: str, attempt: int) -> list[RawEntry]:
        """Return the events of a step's attempt."""
        return [entry for entry, now in self._by_attempt(slug) if now == attempt]

    def attempts(self, slug: str) -> list[int]:
        """Return the recorded attempts of a step."""
        return sorted({1, *(now for _, now in self._by_attempt(slug))})

    def _by_attempt(self, slug: str) -> Iterator[tuple[RawEntry, int]]:
        """Yield each event of a step with its attempt: a retry, an undo and a return to the plan start another one."""
        now = 1
        for number, entry in enumerate(self.entries):
            match entry.event:
                case "undone" | "plan-edited" if isinstance(steps := entry.fields.get("steps"), dict) and slug in steps:
                    told = steps[slug].get("attempt") if isinstance(steps[slug], dict) else None
                    now = count(told) or self._named(slug, number + 1) or now
            if entry.subject == slug:
                now = count(entry.fields.get("attempt")) or now
                yield entry, now

    def _named(self, slug: str, number: int) -> int:
        """Return the attempt that the next event of a step names, if no other one was started before; else 0."""
        for entry in self.entries[number:]:
            if entry.event in ("undone", "plan-edited") or (entry.subject == slug and entry.event == "step-retried"):
                return 0
            if entry.subject == slug and "attempt" in entry.fields:
                return count(entry.fields["attempt"])
        return 0

    def kept(self, slug: str, attempt: int) -> list[int]:
        """Return the attempt, and those before it whose files it started from."""
        found = [attempt]
        for entry in reversed(self.entries):
            if entry.subject == slug and entry.event == "step-retried" and entry.fields.get("attempt") == found[-1]:
                if not entry.fields.get("kept"):
                    break
                found.append(found[-1] - 1)
        return found

    def transcript(self, slug: str, attempt: int) -> str | None:
        """Return the digest that the record names of the attempt's transcript; None where it has none."""
        told = [entry.fields.get("transcript") for entry in self.of(slug, attempt) if not entry.event.startswith("qa-")]
        return next((str(digest) for digest in reversed(told) if digest), None)

    def last_of(self, slug: str, attempt: int) -> RawEntry | None:
        """Return the last event about the attempt's work."""
        return next((entry for entry in reversed(self.of(slug, attempt)) if event_type(entry.event).has_work), None)

    def checks(self, slug: str, attempt: int) -> list[Told]:
        """Return the checks of QA's last verdict on the attempt, a review among them."""
        verdicts = [entry for entry in self.of(slug, attempt) if event_type(entry.event).is_verdict]
        return [
            {"check": str(check.get("check")), "code": check.get("code"), "time": entry.time,
             "engine": entry.fields.get("engine"), "attempt": attempt}
            for entry, check in record.checks(verdicts[-1:], slug)
        ]  # fmt: skip

    def judged_in(self, slug: str, attempt: int) -> int:
        """Return the last attempt that QA judged, from this one on: a later one may leave what this one wrote as it is."""
        attempts = {entry.revision: now for entry, now in self._by_attempt(slug)}
        judged: list[int] = []
        for entry in self.entries:
            if event_type(entry.event).is_verdict and attempts.get(entry.revision, 0) >= attempt:
                judged.append(entry.revision)
            elif entry.event == "undone":
                judged = [one for one in judged if one <= count(entry.fields.get("to"))]
        return attempts[judged[-1]] if judged else attempt

    def cost(self, slug: str, attempt: int) -> Told:
        """Return what the attempt cost, its checks included."""
        return cost_of(self.of(slug, attempt))

    def approvals(self, slug: str | None, attempt: int) -> list[Told]:
        """Return the approvals that were counted on the plan, the step and its calls, and those on the merge."""
        asked = {
            f"w{entry.revision}": entry for entry in self.entries if entry.event in ("approval-asked", "call-held")
        }
        own = {entry.revision for entry in self.of(slug, attempt)} if slug else set()
        found: list[Told] = []
        for entry in self.entries:
            wait = asked.get(str(entry.fields.get("wait")))
            if entry.event not in ("approval-counted", "call-decided") or wait is None:
                continue
            kind = str(wait.fields.get("kind", "call"))
            if entry.revision not in own and kind not in OF_NO_STEP:
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

    @cached_property
    def statements(self) -> dict[str, Statement | RunnerError]:
        """The signed statements in approvals/, by the names of their files; the error of one that cannot be read."""
        folder = f"{paths.folder(self.protocol)}/{paths.APPROVALS}"
        found: dict[str, Statement | RunnerError] = {}
        for name in self.git.tree(f"{self.tip}:{folder.rstrip('/')}") or {}:
            try:
                found[name] = approval_file.parse(self.git.blob(f"{self.tip}:{folder}{name}") or b"", name).statement
            except RunnerError as error:
                found[name] = error
        return found

    def _reason(self, name: str) -> str:
        said = self.statements.get(f"{name}{approval_file.SUFFIX}")
        return said.reason if isinstance(said, Statement) else ""

    def _merge(self) -> Iterator[Told]:
        for said in self.statements.values():
            if isinstance(said, Statement) and said.subject == "merge":
                decision = {"approve": "approved", "reject": "rejected"}.get(said.decision, "taken back")
                yield {"kind": "merge", "subject": "merge", "time": said.issued, "decision": decision,
                       "by": [said.approver], "reasons": [said.reason]}  # fmt: skip


def cost_of(entries: Sequence[RawEntry]) -> Told:
    """Return what events cost together; `usd` is null where nobody knows the price of a part."""
    whole = describe.together(entry.fields.get("spent") for entry in entries)
    counts = {key: whole[key] for key in ("input_tokens", "output_tokens", "seconds")}
    return counts | {"usd": None if whole["unpriced"] else whole["usd"]}


def no_such_revision(project: Project, protocol: str, revision: int, known: Collection[int]) -> UsageError:
    """Return the error of a revision that no transition ends at; the nearest of the `known` ones are offered."""
    near = sorted(sorted(known, key=lambda one: (abs(one - revision), one))[:4])
    hint = f"near ones: {', '.join(f'{protocol}@{one}' for one in near)}"
    what, typed = f"no transition of {protocol} ends at revision {revision}", lookup.typed(project, protocol)
    return UsageError(what, paths.folder(protocol), f"{hint}; `runner log {typed}` shows all")
