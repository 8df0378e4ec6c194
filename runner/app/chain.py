"""A protocol's commits and events as this clone has them, by its branch, its history ref or the base's folder: read as plain data.

For reports on a protocol long after: `why` and `audit`. Only `verify` says whether any of it is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.errors import RunnerError
from runner.protocol import approval_file, paths
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry
from runner.store import history, record
from runner.store.project import Project
from runner.trust.transitions import transition_of

Told = dict[str, Any]

_USD = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?")


class Chain:
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
        project = self.project
        return history.brings(self.protocol, None if project.mirror is not None else project.trusted.remote)

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
            if (one := transition_of(self.git.commit(oid), self.protocol)) is not None:
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
        verdicts = [entry for entry in self.of(slug, attempt) if entry.event in ("qa-passed", "qa-failed")]
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
            if entry.event in ("qa-passed", "qa-failed") and attempts.get(entry.revision, 0) >= attempt:
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
        data = self.git.blob(f"{self.tip}:{paths.folder(self.protocol)}/{paths.APPROVALS}{name}")
        try:
            return approval_file.parse(data, name) if data is not None else None
        except RunnerError:
            return None


def cost_of(entries: Sequence[RawEntry]) -> Told:
    """Return what events cost together; `usd` is null where nobody knows the price of a part."""
    from decimal import Decimal

    spent = [told for entry in entries if isinstance(told := entry.fields.get("spent"), dict)]
    whole: Told = {
        key: sum(count(told.get(key)) for told in spent) for key in ("input_tokens", "output_tokens", "seconds")
    }
    amounts = [told["usd"] for told in spent if isinstance(told.get("usd"), str) and _USD.fullmatch(told["usd"])]
    usd = sum(map(Decimal, amounts), Decimal(0))
    return whole | {"usd": None if any(told.get("unpriced") for told in spent) else format(usd, "f")}


def count(value: object) -> int:
    """Return a count as the record has it; 0 where it is none, which is `verify`'s to tell."""
    return value if isinstance(value, int) and value >= 0 else 0
