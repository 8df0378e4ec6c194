"""The day's budget that all runners of a project share: reserved on refs/runner/ledger before it is spent, settled after (design §6).

The ref is the remote's where work is published there, else this clone's, and moves by compare-and-swap alone. A process reserves what
its next request can cost, and twice as much as before each time that is used up; an unsettled reservation counts whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

from runner.errors import ConflictError, IntegrityError, RunnerError, SpentError, UnreachableError
from runner.git import TreeEntry
from runner.protocol import ref_files
from runner.protocol.policy_file import DayBudget
from runner.protocol.ref_files import Day, Reserved, printable
from runner.store import remote
from runner.store.lease import ci_run
from runner.store.project import Project, Session
from runner.store.remote import Mirror

REF = "refs/runner/ledger"
RACES = 200  # how often a lost race is run again before it is told
PAUSE = 0.05  # seconds before that, at first and at most: each waits another while
LONGEST = 2.0
LATER = (
    "nothing is lost: the same command continues once the other runners gave back what they did not spend, after 00:00 UTC,"
    " or once the budget is raised on the trusted branch"
)


@dataclass(slots=True)
class Reservation:
    """What this process may spend of the day's budget. `cap`: what the policy of now says; `protocol`: whose work it pays for.

    `day`: of the reservation; `usd`, `tokens`: reserved; `paid_usd`, `paid_tokens`, `unpriced`: spent of it.
    """

    session: Session
    cap: Callable[[], DayBudget]
    protocol: str = ""
    day: str = ""
    usd: Decimal = Decimal(0)
    tokens: int = 0
    paid_usd: Decimal = Decimal(0)
    paid_tokens: int = 0
    unpriced: int = 0
    _nonce: str = field(default="", repr=False)

    def reserve(self, engine: str, usd: Decimal | None, tokens: int) -> None:
        """Have enough reserved for a request that may cost so much. `usd`: None where the engine's price is not known.

        Raises:
            SpentError: the day's budget does not have it. UnreachableError: the ledger is on a remote that does not answer.
        """
        cap = self.cap()
        if cap.usd is None and cap.tokens is None:
            return
        if cap.usd is not None and usd is None:
            raise self._over(f"the price of {engine} is not known, so a budget in money cannot be kept")
        today = day_of(self.session.project)
        if self.day and self.day != today and not self.session.project.hands_over:
            self.close()
        need_usd = Decimal(0) if cap.usd is None or usd is None else self.paid_usd + usd
        need_tokens = 0 if cap.tokens is None else self.paid_tokens + tokens
        if self.session.project.hands_over and not self.day:
            self._take_given()
        if (
            self.day
            and need_usd <= self.usd
            and need_tokens <= self.tokens
            and not (self.unpriced and cap.usd is not None)
        ):
            return
        if self.session.project.hands_over:
            raise self._over(
                f"this job may spend ${ref_files.amount(self.usd)} and {self.tokens:,} tokens, and needs more"
            )
        self._reserve(today, cap, need_usd, need_tokens)

    def charge(self, usd: Decimal | None, tokens: int) -> None:
        """Note what a request did cost."""
        self.paid_tokens += tokens
        if usd is None:
            self.unpriced += tokens
        else:
            self.paid_usd += usd

    def close(self) -> None:
        """Settle: the spent amount replaces the reserved one; where that fails, the whole reservation counts."""
        if self._nonce:
            spent = (self.paid_usd, self.paid_tokens, self.unpriced)
            try:
                change(self.session, self.day, lambda day: day.settle(self._nonce, *spent))
            except RunnerError as error:
                self.session.env.say(
                    f"the spending is not settled: {error.what}; ${ref_files.amount(self.usd)} and {self.tokens:,} tokens"
                    f" of the budget of {self.day} stay reserved"
                )
        self._nonce = self.day = ""
        self.usd = self.paid_usd = Decimal(0)
        self.tokens = self.paid_tokens = self.unpriced = 0

    def _reserve(self, today: str, cap: DayBudget, usd: Decimal, tokens: int) -> None:
        nonce = self._nonce or self.session.env.random_hex(32)
        granted = (Decimal(0), 0)

        def make(day: Day) -> Day:
            nonlocal granted
            left_usd, left_tokens = day.left(cap, but=nonce)
            others = [one for name, one in day.open.items() if name != nonce]
            if left_usd is not None and (unpriced := day.unpriced + self.unpriced):
                raise self._over(
                    f"the price of {unpriced:,} tokens that were used today is not known, so a budget in money cannot be kept"
                )
            if left_usd is not None and usd > left_usd:
                kept = sum((Decimal(one.usd) for one in others), Decimal(0))
                raise self._over(
                    f"${ref_files.amount(max(left_usd, Decimal(0)))} of ${cap.usd} are left of {today} (UTC)"
                    f"{f', ${ref_files.amount(kept)} more are reserved by others,' if kept else ','} and the next request could cost"
                    f" ${usd - self.paid_usd:.4f}",
                    LATER if kept else "",
                )
            if left_tokens is not None and tokens > left_tokens:
                kept_tokens = sum(one.tokens for one in others)
                raise self._over(
                    f"{max(left_tokens, 0):,} of {cap.tokens:,} tokens are left of {today} (UTC)"
                    f"{f', {kept_tokens:,} more are reserved by others,' if kept_tokens else ','} and the next request could need"
                    f" {tokens - self.paid_tokens:,}",
                    LATER if kept_tokens else "",
                )
            granted = (
                Decimal(0) if left_usd is None else min(max(usd, 2 * self.usd), left_usd),
                0 if left_tokens is None else min(max(tokens, 2 * self.tokens), left_tokens),
            )
            return day.reserve(nonce, reserved(self.session, *granted))

        change(self.session, today, make)
        self._nonce, self.day = nonce, today
        self.usd, self.tokens = granted

    def _take_given(self) -> None:
        project = self.session.project
        mirror = Mirror.of(project)
        assert mirror is not None
        for day, _, one in _given(project, mirror, [self.protocol]):
            self.day, self.usd, self.tokens = day, Decimal(one.usd), one.tokens
            return
        raise self._over(
            "this CI job has no budget left: none was reserved for it, or an earlier job of this run used it",
            "let the job that plans reserve it: `runner fleet plan --reserve USD`, or the variable RUNNER_RESERVE (docs/fleet.md)",
        )

    def _over(self, why: str, hint: str = "") -> SpentError:
        return SpentError(
            f"the day's budget: {why}",
            f"policy.yaml, budget: {{day: …}}, and {REF}",
            hint
            or "nothing is lost: the same command continues after 00:00 UTC, or once the budget is raised on the trusted branch",
        )


def reserved(session: Session, usd: Decimal, tokens: int, protocol: str | None = None) -> Reserved:
    """Return a reservation of this process. `protocol`: the one that it is for alone, in another job of this run."""
    return Reserved(
        by=printable(session.actor()),
        host=printable(session.env.host),
        ci=ci_run(session.env.environ),
        protocol=protocol,
        time=session.env.timestamp(),
        usd=ref_files.amount(usd),
        tokens=tokens,
    )


def use(session: Session, mirror: Mirror, protocols: Sequence[str]) -> None:
    """Settle the reservations for jobs of this run as spent whole, so that a repeated job finds none.

    Raises:
        ConflictError, UnreachableError, IntegrityError: as `change`.
    """
    for day, nonce, one in _given(session.project, mirror, protocols):
        change(session, day, partial(_used, nonce, one), mirror)


def _used(nonce: str, one: Reserved, day: Day) -> Day:
    return day.settle(nonce, Decimal(one.usd), one.tokens, 0) if nonce in day.open else day


def _given(project: Project, mirror: Mirror, protocols: Sequence[str]) -> Iterator[tuple[str, str, Reserved]]:
    """Give what another job of this run reserved for each of the protocols alone: its day, nonce and amount."""
    mirror.fetch(REF)
    oid, run, found = mirror.ref(REF), ci_run(project.env.environ), set[str | None]()
    for day in (day_of(project), day_of(project, -1)) if oid else ():
        for nonce, one in read(project, oid, day).open.items():
            if one.ci == run and one.protocol in protocols and one.protocol not in found:
                found.add(one.protocol)
                yield day, nonce, one


def change(session: Session, day: str, make: Callable[[Day], Day], at: Mirror | None = None) -> None:
    """Move the ledger from what it says of the day to what `make` makes of that; a lost race is run again from the new state.

    `at`: the remote that has it, where that is known without the setting.

    What `make` raises, or that it cannot be read, is believed only of the ledger's newest commit.

    Raises:
        ConflictError: it was lost each time. UnreachableError: it is on a remote that does not answer. IntegrityError: no runner
            wrote it.
    """
    git, mirror, env, pause = session.git, at or _mirror(session), session.env, PAUSE
    is_fresh = mirror is None
    for _ in range(RACES):
        old = mirror.ref(REF) if mirror else git.ref(REF)
        try:
            if old is not None and git.commit(old) is None:
                if is_fresh:
                    raise ref_files.unreadable_day("it is not a commit", REF)
                old = None  # of an earlier clone
            made = make(read(session.project, old, day))
        except (SpentError, IntegrityError):
            if is_fresh:
                raise
            assert mirror is not None
            mirror.fetch(REF)
            is_fresh = True
            continue
        new = _commit(session.project, made, old)
        try:
            if mirror is not None:
                mirror.push({REF: (new, old)})
            else:
                git.update_refs({REF: (new, old)}, "runner: ledger")
            return
        except ConflictError:
            env.sleep(pause * (1 + int(env.random_hex(4), 16) / 0x10000))
            pause = min(2 * pause, LONGEST)
            if mirror is not None:
                mirror.fetch(REF)
                is_fresh = True
                there = mirror.ref(REF)
                if there is not None and git.commit(there) is not None and git.is_ancestor(new, there):
                    return  # heard twice, and answered by what came of the second; others may have gone on from it since
    raise ConflictError(f"{REF} keeps moving", mirror.url if mirror else REF, "run the same command again")


def read(project: Project, oid: str | None, day: str) -> Day:
    """Return what the ledger's commit says of a day.

    Raises:
        IntegrityError: no runner wrote it.
    """
    git, name = project.git, ref_files.day_file(day)
    entry = (git.tree(f"{oid}:") or {}).get(name) if oid else None
    if entry is None:
        return Day(day=day)
    where = f"{name} of {REF}"
    data = remote.read_files(project, [entry], ref_files.DAY_SIZE)
    if data is None:
        raise ref_files.unreadable_day("it is too large, or not here", where)
    return ref_files.parse_day(data[0], day, where)


def _commit(project: Project, day: Day, old: str | None) -> str:
    git, who = project.git, project.runner()
    files: dict[str, bytes | TreeEntry] = dict(git.tree(f"{old}:") or {}) if old else {}
    files[ref_files.day_file(day.day)] = ref_files.render(day)
    kept = {name: files[name] for name in ref_files.kept_days(files, day.day)}
    return remote.write_files(git, kept, old, who, f"ledger: {day.day}")


def _mirror(session: Session) -> Mirror | None:
    """Return the remote where the ledger is, or None where it is this clone's.

    Raises:
        UnreachableError: it is the remote's, which is not to be asked.
    """
    if session.project.offline and session.project.is_shared:
        raise UnreachableError(
            f"the day's budget is kept on {session.project.trusted.remote}, and --offline does not contact it",
            REF,
            "run the same command again without --offline",
        )
    if not session.project.publishes:
        return None
    return session.mirror or Mirror.of(session.project)


def day_of(project: Project, days: int = 0) -> str:
    """Return the UTC day of now, or so many days from it."""
    return (datetime.fromtimestamp(int(project.env.now()), UTC) + timedelta(days=days)).strftime("%Y-%m-%d")
