"""Describe a protocol: its status in one term, the reason, what it waits for, and the command to type next.

`recorded` decides it by the record alone, the same for everybody: the request's page renders that. `describe` adds what this clone
and this person know; `status`, `list`, `show`, `new`, the end of a run and the commands that steer render it. Nothing is written,
and the network is not asked.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.app import pending
from runner.errors import RunnerError, UsageError
from runner.executor import load, spending
from runner.lines import counted, headline, money
from runner.protocol import ids, paths
from runner.protocol.state import ENDED, STOPPED, Json, State, plain, wait_type
from runner.store import lease, locks, lookup, record, remote, worktree
from runner.store.environment import matching, read_checkpoint
from runner.store.project import Project, Session
from runner.store.record import Brief, Outlook
from runner.trust import trusted_config

if TYPE_CHECKING:
    from runner.app.pending import Pending, Unrecorded
    from runner.executor.loop import Total
    from runner.git import Git
    from runner.protocol.state import Row, WaitRow

REWRITTEN = "its branch no longer contains the commit that verified here"
SAID = {"approve": "approved", "reject": "rejected", "revoke": "revoked"}
FEW = 100  # protocols whose branches are asked for one by one
_USD = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?")
_COMMAND = r"(?:^|(?<=then )|(?<=or ))runner "  # where a command starts in `Next.text`


class Next(NamedTuple):
    """What to do next. `command`: what the person here types, or None; `text`: the same for people, or who has to type what;
    `then`: the command that follows it, or empty."""

    command: str | None = None
    text: str = ""
    then: str = ""

    @classmethod
    def typed(cls, command: str | None, then: str = "") -> Next:
        """Return a next command that the person here can type."""
        return cls(command, command or "", then)

    def shown(self, program: str) -> str:
        """Return the whole text with commands as the person types them."""
        return as_typed(f"{self.text}, then {self.then}" if self.then else self.text, program)


class Ahead(NamedTuple):
    """What the remote, as last fetched, has that the branch here lacks. `label`: behind, or clash; `command`: what resolves it."""

    label: str
    text: str
    command: str


class Recorded(NamedTuple):
    """A protocol's status by its record alone.

    `name`: its name in commands; `term`: waits, ready, failed, completed …; `waits`: those that are open.
    """

    row: Row
    name: str
    term: str
    outlook: Outlook
    waits: tuple[WaitRow, ...]

    @property
    def stopped(self) -> tuple[str, ...]:
        """The slugs of the steps that failed or are blocked, and can be retried."""
        if self.row["status"] in ENDED:
            return ()
        return tuple(slug for slug, step in record.open_steps(self.row) if step["status"] in STOPPED)

    def ending(self, wait: Mapping[str, Any], *, later: bool = False) -> str:
        """Return the command that ends one of the waits. `later`: it may be typed when another one waits, so it names this one."""
        kind = wait_type(wait.get("kind"))
        alone = not later and [wait_type(one.get("kind")).ended_by for one in self.waits].count(kind.ended_by) == 1
        which = self.name if alone else f"{self.name} {wait.get('id')}"
        if kind.answer:
            return f"runner answer {which} {kind.answer}"
        if kind.ended_by == "edit":
            is_plan = str(wait.get("text")).endswith(f" {paths.PLAN}")  # the budget that was reached is there
            return f"runner edit {self.name} {'' if is_plan else wait.get('subject', '')}".rstrip()
        return f"runner approve {which}"

    @property
    def resuming(self) -> str:
        """The command by which it resumes: where a step failed, the one that retries it. Empty for one that is cancelled."""
        status = self.row["status"]
        if status in STOPPED:
            return f"runner {record.reopens(self.row)} {self.name}"
        if status == "completed":
            return f"runner show {self.name}"
        if status != "paused" and self.stopped:
            return f"runner retry {self.name}"
        typed = self.command or ""
        # The next transition may record an approval that is there, or ask anew about a plan that was edited.
        return f"runner run {self.name}" if is_approve(typed) else typed

    @property
    def command(self) -> str | None:
        """What to type next, or None if there is nothing to do."""
        status, found, name = self.row["status"], self.outlook, self.name
        if status == record.UNREADABLE:
            return f"runner doctor {name}"
        if status == "paused":
            return f"runner resume {name}"
        if status in STOPPED:
            if record.reopens(self.row) == "resume":
                return f"runner resume {name}"
            if not found.step:
                return f"runner show {name}"
            step = self.row["steps"][found.step]
            # A person fixes the work on the branch, and its QA as it is there by now says whether a retry would pass.
            is_persons = step.get("kind") == "human" and str(step.get("reason")).startswith("QA: ")
            return f"runner {'qa' if is_persons else 'show'} {name} {found.step}"
        if status in ENDED:
            return None
        if found.action != "none":
            return f"runner run {name}"
        owed = [wait for wait in self.waits if wait.get("id") in found.waiting]
        return self.ending(owed[0]) if owed else f"runner show {name}"


def recorded(row: Row, name: str) -> Recorded:
    """Return the status of a protocol by its record `row`; `name`: its name in commands."""
    found = record.outlook(row)
    waits = () if row["status"] in ENDED else tuple(row["waiting"])
    return Recorded(row, name, status_term(row["status"], acts=found.action != "none"), found, waits)


class Description(NamedTuple):
    """A protocol's status for people.

    `name`: its name in commands; `term`: waits, works, ready, failed, completed, rewritten …; `reason`: half a line; `waits`:
    those that are still open; `approvals`: by wait, those that no transition has recorded yet; `held`: the runner at work on
    it, `look`: the command to see whether that is still so; `to_merge`: it is completed, and no base has its work; `rebase`:
    the folder of git in which a person rebases its branch.
    """

    row: Row
    name: str
    term: str
    reason: str
    outlook: Outlook
    waits: tuple[WaitRow, ...]
    next: Next
    approvals: Mapping[str, Unrecorded]
    held: str | None
    look: str | None
    to_merge: bool
    ahead: Ahead | None
    rebase: str | None


class Listed(NamedTuple):
    """What a line of `list` says of a protocol beside its record; see `Description`."""

    term: str
    to_merge: bool
    ahead: Ahead | None


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


class Describer:
    """Describes protocols of a project. What they share (bases, leases, the time) is read once.

    `branches`: those of the protocols, as `Project.branches` returns them, where there are many to describe.
    """

    def __init__(self, session: Session, branches: Mapping[str, str] | None = None) -> None:
        self._session, self._now = session, session.env.now()
        self._ref = session.git.ref if branches is None else branches.get
        self._merges = record.Merges(session.git, session.project.trusted.remote)
        self._leases = remote.last_leases(session.project) if session.project.trusted.remote is not None else {}
        self._rebases = worktree.rebases(session.git)
        self._locks = _names(session.dirs.lock("")) if branches is not None else None
        self._checkpoints = _names(session.dirs.checkpoint("").parent) if branches is not None else None

    def _is_merged(self, protocol: str, status: str, base: str, tip: str) -> bool:
        return status == "completed" and self._merges.holds(protocol, base, tip)

    def listed(self, protocol: str, found: Brief, tip: str, names: Names) -> Listed:
        """Describe a protocol in one line; `tip`: as for `describe`. No approval is judged, which reads its history."""
        session = self._session
        is_merged, is_held = self._is_merged(protocol, found.status, found.base, tip), False
        if not is_merged and (self._locks is None or protocol in self._locks):
            is_held = locks.is_held(session.dirs.lock(protocol)) is not None
        if not is_merged and not is_held and protocol in self._leases:
            is_held = lease.at_work_elsewhere(session.project, protocol, self._leases) is not None
        is_rewritten = self._is_rewritten(protocol)
        ahead = None if is_rewritten else self._ahead(protocol, names.short(protocol))
        term = "rewritten" if is_rewritten else status_term(found.status, acts=found.acts, held=is_held)
        return Listed(term, found.status == "completed" and not is_merged, ahead)

    def describe(self, row: Row, tip: str, name: str) -> Description:
        """Describe a protocol whose record is `row` at the commit `tip`; `name`: its name in commands."""
        session, protocol, known = self._session, row["protocol"], recorded(row, name)
        found = known.outlook
        waits = tuple(
            wait | {"text": record.asked_now(session.git, protocol, tip, row["steps"], wait)}
            if wait.get("kind") == "human"
            else wait
            for wait in known.waits
        )
        is_merged = self._is_merged(protocol, row["status"], row.get("base", ""), tip)
        held, look = (None, None) if is_merged else at_work(session.project, row, name, self._leases)
        rewritten = self._is_rewritten(protocol)
        ahead = None if rewritten else self._ahead(protocol, name)
        rebase = self._rebases.get(session.project.branch(protocol))
        to_merge = row["status"] == "completed" and not is_merged
        asks = any(wait_type(wait.get("kind")).ended_by == "approval" for wait in waits)
        judged = pending.Pending(session, protocol, tip, name) if asks else None
        approvals = {one.wait: one for one in judged.unrecorded()} if judged else {}
        term = status_term(row["status"], acts=found.action != "none", held=held is not None)
        reason = situation(row, found, self._now)
        said = [one for one in approvals.values() if one.wait in found.waiting]
        given = [each for one in said for each in one.approvals if not each.rejection]
        reason = " · ".join([reason, *(f"{each.approver} {SAID[each.statement.decision]}" for each in given)])
        if found.action == "run-step" and (total := _not_recorded(session.project, protocol)):
            reason = f"{reason} · this attempt so far: {price_of(total)}"
        before = self._before_merge(protocol, tip, name) if to_merge else None
        if to_merge:
            reason = f"waits for {'an approval of its ' if before else ''}merge: {row['title']}"
        elif term == "works":
            reason = f"{reason} · {held}"
        if rewritten:
            term, reason = "rewritten", REWRITTEN
        elif rebase is not None:
            reason = f"{reason} · a rebase of it is under way"
        elif ahead is not None:
            reason = f"{reason} · {ahead.text}"
        if rewritten:
            follows = Next.typed(f"runner doctor{' --fix' if load.can_adopt(session, protocol, tip) else ''} {name}")
        elif rebase is not None:
            follows = Next(text="git rebase --continue, or git rebase --abort")
        elif ahead is not None:
            follows = Next.typed(ahead.command)
        elif to_merge:
            follows = before or _merging(session.project, row, name)
        elif held is not None:
            follows = Next.typed(known.command)
        else:
            follows = _following(session, known, tip, judged, decided=any(not one.missing for one in said))
        return Description(
            row, name, term, reason, found, waits, follows, approvals, held, look, to_merge, ahead, rebase
        )

    def command(self, row: Row, tip: str, name: str) -> tuple[Outlook, str | None]:
        """Return what would follow, and what to type next as `--json` has it for many protocols: by the record and the plan files,
        approvals not judged."""
        known = recorded(row, name)
        if row["status"] == "completed" and not self._is_merged(row["protocol"], "completed", row.get("base", ""), tip):
            before = self._before_merge(row["protocol"], tip, name)
            return known.outlook, before.command if before else lookup.merging(self._session.project, row, name)
        return known.outlook, _following(self._session, known, tip, None, decided=False).command

    @cached_property
    def _policy_counts(self) -> bool:
        """Whether the trusted branch has a policy, and merges are not requests, whose reviews are not fetched here."""
        project = self._session.project
        return not project.has_requests and project.git.blob(f"{project.trusted.commit}:{paths.POLICY}") is not None

    def _before_merge(self, protocol: str, tip: str, name: str) -> Next | None:
        """Return the approval of the merge that is missing, where the policy requires one, and who gives it."""
        if not self._policy_counts:
            return None
        session = self._session
        try:
            is_required = trusted_config.of(session.project).requires("merge")
            if not (is_required or record.has_unrecorded_approvals(session.git, protocol, tip)):
                return None
            other = pending.Pending(session, protocol, tip, name).before_merge()
        except RunnerError:  # `merge` says what is wrong
            return None
        if other is None:
            return None
        return Next(text=other) if other else Next.typed(f"runner approve {name}")

    def _is_rewritten(self, protocol: str) -> bool:
        """Return whether the branch no longer contains the checkpoint of this machine, so that every command refuses it."""
        git, project = self._session.git, self._session.project
        if self._checkpoints is not None:  # of many: most are told without asking git
            if f"{protocol}.json" not in self._checkpoints:
                return False
            if read_checkpoint(project.dirs, protocol) == self._ref(project.branch(protocol)):
                return False
        known, tip = project.checkpoint_and_tip(protocol)
        return known not in (None, tip) and tip is not None and not git.is_ancestor(str(known), tip)

    def _ahead(self, protocol: str, name: str) -> Ahead | None:
        """Return what the remote, as last fetched, has that the branch here lacks; None if nothing. `name`: its name in commands.

        Not for a rewritten branch: transitions that it replaced are not newer, and `sync` refuses it.
        """
        session, remote = self._session, self._session.project.trusted.remote
        if remote is None:
            return None
        branch = session.project.branch(protocol)
        there = self._ref(session.project.tracking(branch))
        count = record.newer(session.git, protocol, self._ref(branch), there)
        if not count:
            return None
        if lookup.clash(session, protocol) is not None:
            return Ahead("clash", f"{remote} has another protocol with this id", f"runner fork --renumber {protocol}")
        return Ahead("behind", f"{remote} has {counted(count, 'newer transition')}", f"runner sync {name}")


def describe(session: Session, row: Row, tip: str, name: str) -> Description:
    """Describe one protocol; see `Describer.describe`."""
    return Describer(session).describe(row, tip, name)


# --- the command to type next --------------------------------------------------------------------------------------------


def is_approve(typed: str | None) -> bool:
    """Return whether a command gives an approval."""
    return typed is not None and typed.startswith("runner approve ")


def resuming(project: Project, state: State) -> str:
    """Return the command by which a protocol resumes, as `Recorded.resuming`."""
    return recorded(plain(state), lookup.typed(project, state.protocol)).resuming


def _merging(project: Project, row: Row, name: str) -> Next:
    """Return what merges a completed protocol."""
    typed = lookup.merging(project, row, name)
    return Next(typed, f"merge its request, then {typed}" if typed.startswith("runner sync") else typed)


def _following(session: Session, known: Recorded, tip: str, judged: Pending | None, *, decided: bool) -> Next:
    """Return what follows by the record, the branch and its worktrees. `judged`: the approvals, where one is waited for and they are
    judged; `decided`: one only has to be recorded."""
    row, name, typed = known.row, known.name, known.command
    git, protocol = session.git, row["protocol"]
    if row["status"] in STOPPED:
        trees = git.checked_out(session.project.branch(protocol))
        if record.out_of_plan(git, protocol, tip, trees, list(known.stopped)):
            return Next.typed(f"runner resume {name}")  # that removes from the plan what failed
        return Next.typed(typed, f"runner retry {name}" if record.reopens(row) == "retry" else "")
    if slug := _to_split(git, row, tip, known.outlook):
        return Next.typed(f"runner plan {name} --split {slug}", typed or "")
    if is_approve(typed) and (decided or record.untaken(git, protocol, tip)):
        return Next.typed(f"runner run {name}")  # it is counted, or what was asked about was edited and is asked anew
    if judged is None or not is_approve(typed):
        return Next.typed(typed)
    try:
        session.person()
        other = judged.instead(known.outlook.waiting[0])
    except UsageError:
        return Next(text=f"set user.name and user.email in git, then {typed}")
    except RunnerError:
        other = ""
    return Next(text=other) if other else Next.typed(typed)


def _to_split(git: Git, row: Row, tip: str, found: Outlook) -> str | None:
    """Return the slug of the step that comes next if a model has to split it before it may start; by its file."""
    step = row["steps"].get(str(found.step)) if found.action == "run-step" else None
    if step is None or (step["kind"], step["status"], step["attempt"]) != ("agent", "pending", 1):
        return None
    _, data = record.step_file(git, row["protocol"], tip, str(found.step))
    header, _, _ = (data or b"").partition(b"\n---")
    return found.step if re.search(rb"(?m)^decompose:[ \t]*true\b", header) else None


def as_typed(text: str, program: str) -> str:
    """Return a text with commands as the person types them: `runner` or `git runner`."""
    return text if program == "runner" else re.sub(_COMMAND, f"{program} ", text)


# --- what the record says ------------------------------------------------------------------------------------------------


def status_term(status: str, *, acts: bool, held: bool = False) -> str:
    """Return the status of a protocol in one term: waits, works, ready, failed, blocked, paused, completed …"""
    if status not in ("planned", "running", "pending", "planning"):
        return status
    if held:
        return "works"
    return "ready" if acts else "waits"


def situation(row: Row, found: Outlook, now: float) -> str:
    """Return in half a line what waits, failed or comes next."""
    steps, status = row["steps"], row["status"]
    if status == record.UNREADABLE:
        return "its record is damaged, or not in this clone"
    if status in ENDED:
        return f"{row['title']}"
    if status in STOPPED:
        if found.step is None:
            return f"{row['title']}, {progress(row)}"
        step = steps[found.step]
        attempt = step.get("attempt", 1)
        failed = f"{record.label(row, found.step)}: {headline(str(step.get('reason') or found.reason))}"
        return f"{failed}, attempt {attempt}" if attempt > 1 else failed
    if status == "paused":
        return f"{row['title']}, {progress(row)}"
    if found.action == "none":
        owed = [wait for wait in row["waiting"] if wait.get("id") in found.waiting]
        if owed and owed[0].get("kind") == "question":  # who reads it knows whether the answer is theirs
            return f"{wait_text(row, owed[0], now)}: {headline(str(owed[0].get('text') or ''))}"
        return wait_text(row, owed[0], now) if owed else found.reason
    if found.action == "write-plan":
        return f"a model writes the plan: {row['title']}"
    if found.step is None:
        return progress(row)
    what = {"check-step": "its checks", "take-work": "answered", "ask-person": "for a person"}.get(found.action, "")
    title = steps[found.step].get("title") or ""
    return f"{record.label(row, found.step)}{f' ({what})' if what else ''}: {title}, {progress(row)}"


def wait_text(row: Row, wait: WaitRow, now: float) -> str:
    """Return what the protocol waits for: `for alice: step:deploy, since 4 min`."""
    kind, subject = str(wait.get("kind")), str(wait.get("subject"))
    named = record.label(row, subject) if subject in row["steps"] else subject
    if kind in ("human", "question"):
        about = named
    elif kind == "budget":
        about = f"{kind} of {named}"
    else:
        about = kind if kind == subject else f"{kind}:{subject}"
    return f"for {wait.get('by') or 'anyone'}: {about}, since {age(str(wait.get('since')), now)}"


def progress(row: Row) -> str:
    """Return how many steps are done: `1 of 3 steps done`."""
    every = record.open_steps(row)
    done = sum(step.get("status") in ENDED for _, step in every)
    return f"{done} of {counted(len(every), 'step')} done" if every else "no steps yet"


def cancelled_for(project: Project, protocol: str, tip: str) -> str:
    """Return the recorded reason why a protocol was cancelled; empty if none was given."""
    try:
        entries = record.events(project.git, protocol, tip)
    except RunnerError:  # `doctor` names a damaged log
        return ""
    return next((str(one.fields.get("reason") or "") for one in reversed(entries) if one.event == "cancelled"), "")


# --- what git knows ------------------------------------------------------------------------------------------------------


def status_with_merge(project: Project, row: Row) -> str:
    """Return a protocol's status with the facts that git knows: `completed · merged in 4f1c2e9`."""
    status = str(row["status"])
    if status != "completed":
        return status
    merges = record.Merges(project.git, project.trusted.remote)
    base = merges.base_with(row["protocol"], row.get("base", ""), lookup.tip(project, row["protocol"]))
    if base is None:
        return f"{status} · waits for merge"
    commit = record.merged_in(project.git, row["protocol"], base)
    return f"{status} · merged in {commit[:7]}" if commit else f"{status} · merged"


def at_work(project: Project, row: Row, name: str, leases: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the runner at work on a protocol, here or by the leases of the remote, and the command to look again."""
    protocol, now = row["protocol"], project.env.now()
    held = locks.is_held(project.dirs.lock(protocol))
    away = lease.at_work_elsewhere(project, protocol, leases) if not held and protocol in leases else None
    if away is None:
        return held, None
    seen = f"as seen {age_of(now - away.asked)} ago" if away.asked else "as the remote was last seen"
    step = record.outlook(row).step
    what = f"works on {record.label(row, step)}" if step else "works"
    return f"{away.who}'s runner {what}, since {age(away.since, now)} ({away.where}, {seen})", f"runner sync {name}"


def unrecorded_cost(project: Project, protocol: str) -> str:
    """Return the cost that is in no transition yet, such as that of a step that was killed; empty if there is none."""
    total = _not_recorded(project, protocol)
    if total is None:
        return ""
    return f"{price_of(total)}, {counted(total.turns, 'answer')}: in no transition yet; a resumed step asks only what has no answer"


def price_of(total: Total) -> str:
    """Return what models cost, also where that is nothing: `$0.00`."""
    return price(spending.as_event(total)) or money(total.usd)


def _not_recorded(project: Project, protocol: str) -> Total | None:
    """Return the usage that is in no transition yet; None if there is none."""
    if not matching(project.dirs.journal(protocol), "*.jsonl"):
        return None
    try:
        total = spending.unrecorded(project, protocol)
    except RunnerError:  # `doctor` names a damaged journal
        return None
    return total if total.turns else None


def edited(project: Project, row: Row, tip: str) -> str:
    """Return which plan files people changed since the last transition, and what becomes of that; empty where there are none."""
    git, protocol = project.git, row["protocol"]
    found = {name for _, names in record.unsaved(git, project.branch(protocol), protocol) for name in names}
    names = ", ".join(sorted(found.union(record.untaken(git, protocol, tip))))
    if not names or row["status"] not in ENDED:
        return f"{names}: the next step picks these edits up" if names else ""
    return f"{names}: no step picks these edits up; `runner undo {lookup.typed(project, protocol)}` opens the protocol again"


# --- names and times -----------------------------------------------------------------------------------------------------


class Names:
    """How protocols are named in commands: by number, and by the whole id where two have one number."""

    def __init__(self, protocols: Iterable[str]) -> None:
        count = Counter(map(ids.number_of, protocols))
        self._shared = {number for number, times in count.items() if times > 1}

    def short(self, protocol: str) -> str:
        """Return the name of a protocol in a command."""
        number = ids.number_of(protocol)
        return protocol if number in self._shared else str(number)

    def shown(self, protocol: str) -> str:
        """Return its name at the start of a line: `0007`, or the whole id."""
        is_shared = self._shared and ids.number_of(protocol) in self._shared
        return protocol if is_shared else protocol.partition("-")[0]


def age(since: str, now: float) -> str:
    """Return how long ago a timestamp of the record was: `4 min`, `3 h`, `12 days`; the text itself if it is none."""
    try:
        then = datetime.fromisoformat(since).timestamp()
    except ValueError:
        return since
    return age_of(now - then)


def age_of(seconds: float) -> str:
    """Return a duration in its biggest unit: `4 min`, `12 days`."""
    passed = max(0, int(seconds))
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if passed >= size:
            count = passed // size
            return f"{count} {unit}{'s' if unit == 'day' and count != 1 else ''}"
    return f"{passed} s"


def duration(seconds: float) -> str:
    """Return a duration: `<1 s`, `12 s`, `1m 40s`, `2h 05m`."""
    whole = int(seconds)
    if whole < 1:
        return "<1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


# What an amount of work cost has the fields of `spent` of an event; see `runner.protocol.events.Spent`.
_COUNTS = ("seconds", "input_tokens", "cached_tokens", "output_tokens", "unpriced")


def together(costs: Iterable[object]) -> dict[str, Any]:
    """Return what costs amount to together. Nobody validated them: what is no count or no amount is left out."""
    from decimal import Decimal  # which a command that only reads need not load

    told = [one for one in costs if isinstance(one, dict)]
    amounts = [one["usd"] for one in told if isinstance(one.get("usd"), str) and _USD.fullmatch(one["usd"])]
    usd = sum(map(Decimal, amounts), Decimal(0))
    return {key: sum(count(one.get(key)) for one in told) for key in _COUNTS} | {
        "usd": format(usd, "f") if usd else "0"
    }


def price(cost: Mapping[str, Any]) -> str:
    """Return the price of a cost: `$0.08`, `$0.08 and a price not known`; empty where nothing was asked or it cost nothing."""
    known = money(cost["usd"]) if cost.get("usd") not in (None, "0") else ""
    return " and a ".join(filter(None, (known, "price not known" if cost.get("unpriced") else "")))


def spent(cost: Json, *, tokens: bool = False) -> str:
    """Return what work cost: `1m 40s · $0.08`, with `tokens` also `1,200 tokens in, 60 out`; empty where nothing was counted."""
    if not isinstance(cost, dict):
        return ""
    seconds, whole, cached = (count(cost.get(key)) for key in ("seconds", "input_tokens", "cached_tokens"))
    parts = [duration(seconds) if seconds else "", price(cost)]
    parts += [f"{100 * cached // whole} % of the input cached"] if cached and whole else []
    if tokens and (out := count(cost.get("output_tokens"))) + whole:
        parts.append(f"{whole:,} tokens in, {out:,} out")
    return " · ".join(filter(None, parts))


def spent_of(row: Row) -> str:
    """Return what a protocol cost by its state.json, which does not say how many tokens have no price: all, where nothing has one."""
    cost = row.get("spent")
    if isinstance(cost, dict) and cost.get("usd") == "0":
        cost = {**cost, "unpriced": count(cost.get("input_tokens"))}
    return spent(cost)


def count(value: object) -> int:
    """Return a count as the record has it; 0 for anything else: nobody validated the entry, which may be forged."""
    return value if isinstance(value, int) and value >= 0 else 0
