"""Run the ready steps of many protocols, some at a time: one turn each, the one that waited longest first (design §6).

Level-triggered: each round reads the refs. There is no queue that could lose anything, and nothing is written here; the result of
a turn is read from git. A fleet remembers only, for each protocol, the tip at which a turn changed nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from runner.errors import ExitCode
from runner.executor import spending
from runner.forge.gitlab import JOBS
from runner.lines import lines_of
from runner.protocol import ids
from runner.protocol.ref_files import Day
from runner.store import day_budget, lease, publishing, record
from runner.store.project import Project, Session

if TYPE_CHECKING:
    from runner.protocol.state import Row

CAN_ADVANCE: Final = ("planning", "planned", "running")
AGAIN: Final = (
    ExitCode.HELD,
    ExitCode.UNREACHABLE,
)  # held by another runner, or the network is away: it may be otherwise in a moment
TRIES: Final = 5  # turns of one protocol that end so, one after the other, before it is left
LONGEST: Final = 30.0  # seconds between two of them
_SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
# What a fleet ends with, where its protocols ended with several: the first of these.
WORST: Final = (
    ExitCode.BUG, ExitCode.REFUSED, ExitCode.USAGE, ExitCode.INSUFFICIENT, ExitCode.UNREACHABLE, ExitCode.FAILED, ExitCode.HELD,
    ExitCode.WAITS, ExitCode.DONE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ready:
    """A protocol that can advance. `action`, `step`: what would follow; `since`: when its last commit was made, in seconds."""

    protocol: str
    tip: str
    action: str
    step: str | None
    title: str
    since: int


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """How a turn ended. `said`: its last words, where it ended with an error."""

    protocol: str
    code: int
    said: str = ""


class Crew(Protocol):
    """Who carries turns out, side by side."""

    def start(self, one: Ready) -> None:
        """Start a turn."""

    def next(self, timeout: float) -> EndedTurn | None:
        """Return a turn that ended; None where none does within so many seconds."""


Tell = Callable[[str, Ready, EndedTurn | None], None]


@dataclass(slots=True)
class Sight:
    """The protocols as their tips show them; each is read again where its tip moved."""

    session: Session
    _found: dict[str, tuple[tuple[str, str | None], Ready | None]] = field(default_factory=dict)
    _there: dict[str, str] = field(default_factory=dict)  # the remote's tips, where what is here is published

    def tips(self) -> dict[str, tuple[str, int]]:
        """Return id to (commit, its time): the branch's, or the remote's as last fetched where that is ahead of it."""
        project = self.session.project
        remote = project.trusted.remote
        roots = ["refs/heads/", *([f"refs/remotes/{remote}/"] if remote else [])]
        form = "--format=%(objectname) %(committerdate:unix) %(refname)"
        here: dict[str, tuple[str, int]] = {}
        there: dict[str, tuple[str, int]] = {}
        for line in lines_of(project.git.run("for-each-ref", form, *roots).decode("utf-8", "replace")):
            oid, when, name = line.split(" ", 2)
            root = next(root for root in roots if name.startswith(root))
            protocol = ids.protocol_of_branch(project.pattern, name.removeprefix(root))
            if protocol is not None and when.isdigit():
                (here if root == "refs/heads/" else there)[protocol] = (oid, int(when))
        self._there = {name: oid for name, (oid, _) in there.items()} if project.publishes else {}
        for protocol, seen in there.items():
            mine = here.get(protocol)
            if mine is None or (mine[0] != seen[0] and project.git.is_ancestor(mine[0], seen[0])):
                here[protocol] = seen
        return here

    def rows(self, tips: dict[str, tuple[str, int]]) -> dict[str, Row]:
        """Return the record of each."""
        found = record.rows(self.session.git, {name: tip for name, (tip, _) in tips.items()})
        return dict(zip(tips, found, strict=True))

    def ready(self, only: Iterable[str] | None = None) -> list[Ready]:
        """Return the protocols that can advance, the one that waited longest first. `only`: these alone."""
        tips = self.tips()
        wanted = tips if only is None else {name: tips[name] for name in only if name in tips}
        keys = {name: (tip, self._there.get(name)) for name, (tip, _) in wanted.items()}
        new = {
            name: wanted[name] for name, key in keys.items() if name not in self._found or self._found[name][0] != key
        }
        for name, row in self.rows(new).items():
            self._found[name] = (keys[name], self._judge(row, name, *wanted[name]))
        found = [one for name in wanted if (one := self._found[name][1]) is not None]
        return sorted(found, key=lambda one: (one.since, ids.number_of(one.protocol), one.protocol))

    def _judge(self, row: Row, name: str, tip: str, since: int) -> Ready | None:
        what = record.outlook(row)
        if row["status"] in CAN_ADVANCE:
            if what.action != "none":
                return Ready(name, tip, what.action, what.step, what.reason, since)
            if self._has_news(name, tip):
                return Ready(name, tip, "take-up", what.step, "what people committed since", since)
        # A run that was killed, or met a remote that was away. A branch that is gone there was taken.
        if self._there.get(name, tip) != tip:
            return Ready(name, tip, "publish", None, "not on the remote yet", since)
        return None

    def _has_news(self, protocol: str, tip: str) -> bool:
        """Return whether people committed something since the last transition: an approval, an edit, or one that only looks so."""
        commit = self.session.git.commit(tip)
        return commit is not None and not record.is_transition(commit, protocol)


def look(session: Session) -> None:
    """Look at what the remote has of protocols; if it does not answer, at this clone."""
    session.looked = False
    if (mirror := publishing.look(session, "refs/heads/*")) is not None:
        publishing.track_protocols(session.project, mirror)


def run(session: Session, crew: Crew, *, jobs: int, tell: Tell) -> dict[str, int]:
    """Give turns, `jobs` at a time, until nothing is ready; return how the last turn of each protocol ended.

    Where that was held by another runner, which has brought it so far since that it is not ready, there was nothing to do.
    """
    sight, env = Sight(session), session.env
    served: dict[str, int] = {}  # in which order they had their last turn
    settled: dict[str, str] = {}  # the tip at which a turn changed nothing
    tries: dict[str, int] = {}
    rests: dict[str, float] = {}  # till when, by the monotonic clock
    working: dict[str, Ready] = {}
    codes: dict[str, int] = {}
    turns, is_fresh = 0, True
    look(session)
    while True:
        now = env.monotonic()
        ready = [one for one in sight.ready() if one.protocol not in working and settled.get(one.protocol) != one.tip]
        waiting = [one for one in ready if rests.get(one.protocol, now) <= now]
        waiting.sort(key=lambda one: served.get(one.protocol, -1))  # stable: who had none yet by how long they wait
        for one in waiting[: jobs - len(working)]:
            tell("started", one, None)
            crew.start(one)
            working[one.protocol], served[one.protocol] = one, turns
            turns, is_fresh = turns + 1, False
        if not working and ready:  # each rests
            env.sleep(max(0.0, min(rests[one.protocol] for one in ready) - now))
            continue
        if not working:
            if is_fresh:
                left = {one.protocol for one in sight.ready()}
                return {name: 0 if code == ExitCode.HELD and name not in left else code for name, code in codes.items()}
            look(session)
            is_fresh = True
            continue
        resting = [rests[one.protocol] - now for one in ready if one not in waiting]
        ended = crew.next(max(0.0, min(resting, default=LONGEST)))
        if ended is None:
            continue
        began = working.pop(ended.protocol)
        codes[ended.protocol] = ended.code
        tell("ended", began, ended)
        tip = sight.tips().get(ended.protocol, ("", 0))[0]
        if is_tried_again(ended):
            tries[ended.protocol] = tries.get(ended.protocol, 0) + 1 if tip == began.tip else 1
            rests[ended.protocol] = env.monotonic() + min(2.0 ** (tries[ended.protocol] - 1), LONGEST)
            if tries[ended.protocol] >= TRIES:
                settled[ended.protocol] = tip
        elif ended.code not in (ExitCode.DONE, ExitCode.FAILED, ExitCode.WAITS) or tip == began.tip:
            settled[ended.protocol] = tip


def is_tried_again(ended: EndedTurn) -> bool:
    """Return whether a turn that ended so may end otherwise in a moment."""
    return ended.code in AGAIN or ended.code > 128


def exit_code(codes: Iterable[int]) -> int:
    """Return what a fleet ends with: the worst of its protocols' last turns (design §9)."""
    found = set(codes)
    odd = any(code not in WORST for code in found)
    return ExitCode.BUG if odd else next(code for code in WORST if code in found or code == 0)


# --- a plan for a CI ---------------------------------------------------------------------------------------------------


def described(one: Ready) -> dict[str, str]:
    """Return a protocol as a matrix has it: ids and numbers only, no free text."""
    return {
        "protocol": one.protocol,
        "action": one.action,
        "step": one.step if one.step and _SLUG.fullmatch(one.step) else "",
    }


def child_pipeline(project: Project, found: Sequence[Ready]) -> str:
    """Return a pipeline for GitLab that works on each protocol side by side, and publishes what each handed over.

    It is JSON, which is YAML, so that nothing in it can be read as anything but a string.
    """
    run = lease.ci_run(project.env.environ)
    told: dict[str, Any] = {"include": [{"local": JOBS}]}
    for one in found:
        words = {"PROTOCOL": one.protocol, **({"RUNNER_RUN": run} if run and "$" not in run else {})}
        work, publish = f"protocol-work {one.protocol}", f"protocol-publish {one.protocol}"
        told[work] = {"extends": ".protocol-work", "variables": words}
        needs = [{"job": work, "artifacts": True}]
        told[publish] = {"extends": ".protocol-publish", "variables": words, "needs": needs}
    if not found:
        told["protocol-none"] = {"script": ["echo no protocol can advance"], "variables": {"GIT_STRATEGY": "none"}}
    return json.dumps(told, indent=2) + "\n"


def reserve(session: Session, found: Sequence[Ready], usd: Decimal, tokens: int) -> tuple[list[Ready], list[Ready]]:
    """Reserve a part of the day's budget for each that asks a model next, to be spent by jobs that may not push.

    Returns those that advance, and those for which too little is left.

    Raises:
        UnreachableError: the ledger is on a remote that does not answer.
    """
    cap = spending.day(session.project)
    if cap.usd is None and cap.tokens is None:
        return list(found), []
    publishing.look(session)
    given: list[Ready] = []
    nonces = {one.protocol: session.env.random_hex(32) for one in found}
    rows = Sight(session).rows({one.protocol: (one.tip, 0) for one in found})

    def make(day: Day) -> Day:
        given.clear()
        for one in found:
            if asks_a_model(rows[one.protocol], one):
                left_usd, left_tokens = day.left(cap)
                if left_usd is not None and (left_usd < usd or day.unpriced):
                    continue
                if left_tokens is not None and left_tokens < tokens:
                    continue
                part = (usd if left_usd is not None else Decimal(0), tokens if left_tokens is not None else 0)
                day = day.reserve(nonces[one.protocol], day_budget.reserved(session, *part, one.protocol))
            given.append(one)
        return day

    day_budget.change(session, day_budget.day_of(session.project), make)
    return given, [one for one in found if one not in given]


def asks_a_model(row: Row, one: Ready) -> bool:
    """Return whether what would follow asks a model, by the record alone."""
    step: Mapping[str, object] = row["steps"].get(one.step or "") or {}
    match one.action:
        case "write-plan" | "take-up":  # of the second nobody knows before it is taken up
            return True
        case "run-step":
            return bool(step.get("kind") == "agent" or step.get("qa") == "full")
        case "check-step":
            return bool(step.get("qa") == "full")
    return False
