"""`runner watch`: advance every protocol as soon as it can (ADR 0012).

Level-triggered: each look opens the repository anew, reads the refs, and compares them with those of the last look; an event only
causes a look. A protocol advances by the loop of `runner run`, a turn at a time, so that a long one does not block the others. A
failure is printed once and retried later, at once if the protocol moved. Only commits count: a file that a person is still writing
is no plan, unless `adopt` says after how long it is one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from runner.app import notify, request, run
from runner.engines import RateLimitError
from runner.errors import HeldError, InTheWayError, RunnerError, UnreachableError, UsageError
from runner.executor.advance import Advanced
from runner.executor.steps.review import UndecidedError
from runner.forge import Forge
from runner.protocol import ids, log, paths
from runner.protocol.machine import Halt
from runner.protocol.state import ACTIVE, ENDED
from runner.store import lookup, publishing, record, worktree
from runner.store.changes import Changes, Why, is_being_edited
from runner.store.project import Project, Session
from runner.store.remote import Mirror

if TYPE_CHECKING:
    from runner.protocol.state import Row

TURN = 20  # transitions of one protocol before the others are looked at
ROUND = 0.5  # seconds of work after which the refs are read anew before the next protocol
FIRST, LONGEST = 2.0, 300.0  # seconds until what failed is tried again: at first, at most
DAY = 86_400.0  # seconds that a provider is waited for at most, whatever it asks for, and a review that gave no verdict

HappenedKind = Literal[
    "watching", "polling", "lost", "woke", "fetched", "unreachable", "started", "advanced", "rests", "held-up", "failed"
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """`protocols`: ids, all that have a branch here where empty; `everything`: those that only the remote has too.

    `fetch_every`, `look_every`: seconds; `adopt`: seconds that an edit was left alone before it is committed, None: never.
    """

    protocols: tuple[str, ...] = ()
    everything: bool = False
    fetch_every: float = 60.0
    look_every: float = 60.0
    adopt: float | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """Something to tell. `done`: the transition, or how a protocol rests; `facts`: what else there is to it."""

    kind: HappenedKind
    time: str
    protocol: str | None = None
    done: Advanced | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


Key = tuple[str, str | None, str]  # the tip, the remote's as last fetched, the trusted commit


@dataclass(slots=True)
class _Standing:
    """The last turn of a protocol. `key`: the refs then; `again`: when to try once more, by the monotonic clock."""

    key: Key | None = None
    again: float = math.inf
    delay: float = FIRST
    said: str = ""
    folder: Path | None = None  # where a person's edits are that hold it up


def watch(
    reopen: Callable[[], Session], changes: Changes, wanted: Wanted, tell: Callable[[Happened], None]
) -> NoReturn:
    """Advance the protocols that can advance, for ever. `reopen` gives the session anew; it is closed here.

    Raises:
        UsageError: the repository is gone.
        RunnerError: it cannot be worked in at all.
    """
    watcher = _Watcher(reopen, changes, wanted, tell)
    try:
        while True:
            watcher.woke(changes.wait(watcher.look()))
    except (RunnerError, OSError) as error:
        if changes.is_gone():
            raise gone(changes) from error
        raise


def gone(changes: Changes) -> UsageError:
    """Return the error of a repository that was deleted while it was watched."""
    return UsageError(
        "the repository is gone: there is nothing left to watch",
        str(changes.common),
        "`runner watch` in the repository's new place, where it was moved",
    )


class _Watcher:
    def __init__(
        self, reopen: Callable[[], Session], changes: Changes, wanted: Wanted, tell: Callable[[Happened], None]
    ) -> None:
        self._reopen, self._changes, self._wanted, self._tell = reopen, changes, wanted, tell
        self._known: dict[str, _Standing] = {}
        self._ids: tuple[str, ...] | None = None
        self._there: dict[str, str] = {}
        self._fetch_at = -math.inf
        self._fetch_delay = wanted.fetch_every
        self._away = ""  # what the remote was told to be wrong with
        self._polls: str | None = None
        self._broken = FIRST
        self._woken: list[HappenedKind] = []
        self._is_first = True
        self._turns: dict[str, int] = {}  # protocol to the number of its last turn
        self._turn = 0
        self._time = self._said = ""  # when it looked last, and what was wrong with the repository as a whole

        self._tips: dict[str, str] = {}  # of which people were notified last
        self._remind_at = math.inf

    # --- looking -----------------------------------------------------------------------------------------------------

    def woke(self, why: set[Why]) -> None:
        """Note why the watch looks again."""
        if "woke" in why:
            self._fetch_at = -math.inf
        kinds: tuple[HappenedKind, ...] = ("lost", "woke")
        self._woken = [kind for kind in kinds if kind in why]

    def look(self) -> float:
        """Look at everything once, do what may be done, and return for how long there is nothing to do."""
        if self._changes.is_gone():
            raise gone(self._changes)
        try:
            session = self._reopen()
        except RunnerError as error:
            if self._ids is None or self._changes.is_gone():
                raise
            delay, self._broken = self._broken, min(self._broken * 2, LONGEST)
            if error.what != self._said:
                self._tell(Happened("failed", self._time, None, None, _words(error) | {"again": round(delay)}))
            self._said = error.what
            return delay
        self._broken, self._said = FIRST, ""
        with session:
            return self._look(session)

    def _look(self, session: Session) -> float:
        env = session.env
        began, self._time = env.monotonic(), env.timestamp()
        # Before the refs are read: what moves after this is noticed.
        self._changes.arm(self._folders(session.project))
        if self._ids is None:
            self._ids = tuple(lookup.find(session, name) for name in self._wanted.protocols)
        for kind in self._woken:
            self._happened(session.project, kind)
        self._woken = []
        if self._changes.polls != self._polls:
            self._polls = self._changes.polls
            self._happened(session.project, "polling", reason=self._polls)
        publishes = self._fetch(session)
        keys = self._keys(session.project)
        for protocol in self._known.keys() - keys.keys():
            del self._known[protocol]
            self._turns.pop(protocol, None)
        for protocol in self._changes.edited():
            if protocol in self._known and (self._wanted.adopt or self._known[protocol].folder):
                self._known[protocol].again = -math.inf
        due = self._due(session, keys)
        if self._is_first:
            self._is_first = False
            by, fetches = (
                "polling" if self._changes.polls else "events",
                self._wanted.fetch_every if publishes else None,
            )
            self._happened(session.project, "watching", protocols=len(keys), due=len(due), by=by, fetches=fetches)
        if publishes and self._away:
            return self._pause(session)
        forge = request.available(session.project) if publishes and due else None
        with contextlib.closing(forge) if forge else contextlib.nullcontext():
            for protocol, acts in due.items():
                self._go(session, protocol, keys[protocol], forge, acts)
                if env.monotonic() - began > ROUND:
                    return 0.0
        return self._pause(session)

    def _pause(self, session: Session) -> float:
        """Notify people of what waits for them now, and return the seconds until something is due by itself."""
        tips = {name: one.key[0] for name, one in self._known.items() if one.key is not None}
        if tips != self._tips or session.env.monotonic() >= self._remind_at:
            self._tips, self._remind_at = tips, session.env.monotonic() + notify.tell(session, tips)
        now = session.env.monotonic()
        again = min((self._remind_at, *(one.again for one in self._known.values())))
        return max(0.0, min(self._wanted.look_every, self._fetch_at - now, again - now))

    def _folders(self, project: Project) -> dict[str, Path]:
        """Return the folders in which an edit is a reason to look, by their protocols."""
        if self._wanted.adopt is None:
            return {name: one.folder for name, one in self._known.items() if one.folder is not None}
        found = {}
        for tree in project.git.worktrees():
            protocol = ids.protocol_of_branch(project.pattern, (tree.branch or "").removeprefix("refs/heads/"))
            if protocol and self._is_wanted(protocol):
                found[protocol] = tree.path / paths.folder(protocol)
        return dict(sorted(found.items(), reverse=True))

    def _is_wanted(self, protocol: str) -> bool:
        return not self._ids or protocol in self._ids

    def _keys(self, project: Project) -> dict[str, Key]:
        found: dict[str, Key] = {}
        before = project.pattern.partition("{id}")[0]
        folder = f"refs/heads/{before.rpartition('/')[0]}/" if "/" in before else "refs/heads/"
        here = {name.removeprefix("refs/heads/"): oid for name, oid in project.git.refs(folder).items()}
        there = {name.removeprefix("refs/heads/"): oid for name, oid in self._there.items()}
        for name in [*here, *(name for name in there if name not in here)]:
            protocol = ids.protocol_of_branch(project.pattern, name)
            if protocol is None or not self._is_wanted(protocol):
                continue
            if name in here or self._wanted.everything or self._ids:
                found[protocol] = (here.get(name) or there[name], there.get(name), project.trusted.commit)
        return dict(sorted(found.items(), key=lambda item: (ids.number_of(item[0]), item[0])))

    def _due(self, session: Session, keys: Mapping[str, Key]) -> dict[str, bool]:
        """Return the protocols to advance, those with work first, and whether each has work by its record."""
        now = session.env.monotonic()
        again = {name for name in keys if name in self._known and self._known[name].again <= now}
        new = {name: key for name, key in keys.items() if name not in self._known or self._known[name].key != key}
        session.git.warm([key[0] for key in new.values()])
        found: dict[str, bool] = dict.fromkeys(again, False)
        for row in record.rows(session.git, {name: key[0] for name, key in new.items()}):
            name = str(row["protocol"])
            acts = record.outlook(row).action != "none"
            if acts or name in again or self._is_news(session, row, keys[name]):
                found[name] = acts
            else:
                self._known[name] = _Standing(keys[name])
        # Whoever had no turn for the longest time comes first; the sort keeps the order of numbers.
        ordered = {name: found[name] for name in keys if name in found}
        return dict(sorted(ordered.items(), key=lambda item: (not item[1], self._turns.get(item[0], 0))))

    def _is_news(self, session: Session, row: Row, key: Key) -> bool:
        """Return whether a protocol that rests has to be looked at: a person committed, others pushed, or the policy moved since."""
        tip, there, trusted = key
        if row["status"] in ENDED:
            return there is not None and there != tip
        commit = session.git.commit(tip)
        told = log.parse_message(commit.message) if commit else None
        if told is None or told.protocol != row["protocol"] or there not in (tip, None):
            return True
        return told.trusted != trusted or (there is None and session.mirror is not None)

    # --- the remote --------------------------------------------------------------------------------------------------

    def _fetch(self, session: Session) -> bool:
        """Ask the remote where it is time to, and return whether protocols are published at all: else it is left alone."""
        env = session.env
        session.looked = True  # what was fetched last serves; `run` does not ask on its own
        if not session.project.publishes or session.project.trusted.remote is None:
            self._fetch_at, self._there, self._away = math.inf, {}, ""
            if self._wanted.everything:
                where = "where `publish` is `always`, and there is a remote"
                raise UsageError("nothing can be fetched", "`--all`", f"use it only {where}")
            return False
        mirror = Mirror.of(session.project)
        assert mirror is not None
        session.mirror = mirror
        if env.monotonic() < self._fetch_at:
            self._there = _heads(mirror)
            return True
        before = _heads(mirror)
        try:
            session.trust(mirror.look(*self._patterns(session.project)))
        except UnreachableError as error:
            self._fetch_delay = min(self._fetch_delay * 2, max(LONGEST, self._wanted.fetch_every))
            if self._away != error.what:
                self._away = error.what
                self._happened(session.project, "unreachable", **_words(error))
        else:
            self._fetch_delay, self._away = self._wanted.fetch_every, ""
            session.looked_at = env.monotonic()
        self._there = _heads(mirror)
        moved = [name for name, oid in self._there.items() if before.get(name) != oid]
        found = [ids.protocol_of_branch(session.project.pattern, name.removeprefix("refs/heads/")) for name in moved]
        if not self._is_first and any(found):
            self._happened(session.project, "fetched", protocols=sorted(filter(None, found)))
        self._fetch_at = env.monotonic() + self._fetch_delay * (0.8 + 0.4 * _chance(session.project))
        return True

    def _patterns(self, project: Project) -> Iterator[str]:
        for protocol in self._ids or ():
            yield from publishing.refs_of(project, protocol)
        if not self._ids:
            yield from publishing.patterns(project)

    # --- going on ----------------------------------------------------------------------------------------------------

    def _go(self, session: Session, protocol: str, key: Key, forge: Forge | None, acts: bool) -> None:
        """Advance one protocol for a turn, and remember the result."""
        self._turn += 1
        self._turns[protocol] = self._turn
        was_told = acts or (protocol in self._known and bool(self._known[protocol].said))
        project = session.project
        adopt, wait = self._adopts(project, protocol)
        why = worktree.under_way(session.git, project.branch(protocol)) if wait is None else "it is being edited"
        if why is not None:
            self._later(project, protocol, key, "held-up", {"reason": why}, wait=wait)
            return
        if acts:
            self._happened(project, "started", protocol)
        last: Advanced | None = None
        made = 0

        def tell(done: Advanced) -> None:
            nonlocal made
            made += 1
            self._happened(session.project, "advanced", protocol, done)

        try:
            for done in run.run(session, protocol, max_steps=TURN, adopt=adopt, tell=tell, forge=forge):
                last = done
        except RunnerError as error:
            if self._changes.is_gone():
                raise
            kind: HappenedKind = (
                "held-up" if isinstance(error, InTheWayError | HeldError | RateLimitError) else "failed"
            )
            # A provider that says until when it takes no more requests is waited for, and not asked before.
            asked = error.retry_after if isinstance(error, RateLimitError) else None
            if isinstance(error, UndecidedError):
                asked = DAY  # it was paid; a person names another model, or runs it again
                # What this turn made before is no reason to ask at once.
                key = (last.commit, key[1], session.project.trusted.commit) if last is not None else key
            facts = {"reason": error.what} | _words(error)
            if asked is not None and asked > DAY:
                asked, facts["hint"] = DAY, f"{error.hint}; `watch` waits a day at most"
            self._later(session.project, protocol, key, kind, facts, wait=asked)
            return
        finally:
            session.batch = False
        assert last is not None
        request.post_quietly(session, forge if made else None, protocol)
        if isinstance(last.action, Halt) or last.state.status not in ACTIVE:
            self._known[protocol] = _Standing((last.commit, key[1], session.project.trusted.commit))
            if made or was_told:
                self._happened(session.project, "rests", protocol, last)
        elif made:
            self._known[protocol] = _Standing()
        else:
            self._later(session.project, protocol, key, "held-up", {"reason": "nothing came of it"})

    def _adopts(self, project: Project, protocol: str) -> tuple[bool, float | None]:
        """Return whether a person's edits are committed now, and in how many seconds to ask again where it is too early."""
        if self._wanted.adopt is None:
            return False, None
        for tree, changed in record.unsaved(project.git, project.branch(protocol), protocol):
            folder = tree.path / paths.folder(protocol)
            if is_being_edited(folder):
                return False, self._wanted.adopt
            at = [_changed_at(folder / name) for name in changed]
            left = self._wanted.adopt - (project.env.now() - max([_changed_at(folder), *at]))
            if left > 0:
                return False, min(left, self._wanted.adopt)
        return True, None

    def _later(
        self,
        project: Project,
        protocol: str,
        key: Key,
        kind: HappenedKind,
        facts: Mapping[str, Any],
        wait: float | None = None,
    ) -> None:
        """Remember to try a protocol again, and tell why, once."""
        before = self._known.get(protocol)
        same = before is not None and before.key == key and before.said == str(facts.get("reason"))
        delay = min(before.delay * 2, LONGEST) if same and before else FIRST
        after = wait if wait is not None else delay * (0.8 + 0.4 * _chance(project))
        trees = project.git.checked_out(project.branch(protocol)) if kind == "held-up" else []
        folder = trees[0].path / paths.folder(protocol) if trees else None
        again = project.env.monotonic() + after
        self._known[protocol] = _Standing(key, again, delay, str(facts.get("reason")), folder)
        if folder is not None:
            self._changes.arm(self._folders(project))
        if not same:
            self._happened(project, kind, protocol, **facts, again=round(after))

    def _happened(
        self,
        project: Project,
        kind: HappenedKind,
        protocol: str | None = None,
        done: Advanced | None = None,
        **facts: Any,
    ) -> None:
        self._tell(Happened(kind, project.env.timestamp(), protocol, done, facts))


def _heads(mirror: Mirror) -> dict[str, str]:
    return {name: oid for name, oid in mirror.refs().items() if name.startswith("refs/heads/")}


def _chance(project: Project) -> float:
    return int(project.env.random_hex(4), 16) / 65536


def _words(error: RunnerError) -> dict[str, Any]:
    return {"code": error.exit_code, "what": error.what, "where": error.where, "hint": error.hint}


def _changed_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def unattended(session: Session) -> Session:
    """Return the session with nobody at the terminal: a question is printed instead, and retried."""
    env = session.env._replace(ask=lambda question, choices: None, ask_text=lambda question: None)
    session.project = replace(session.project, env=env)
    return session
