"""Compute the cost of models, and the remaining budgets (design §3, §5).

A journal's records that the history has are in the record's `spent`: both are published together. The others are in the
journals of this clone alone (a killed attempt or one without a model, a plan that was not taken, a review by hand, the work of a
lost race): they count in every budget too. An unknown price never counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from runner.executor.journal import Journal, recorded_part
from runner.executor.loop import Limits, Total
from runner.protocol import events as ev
from runner.protocol import paths, transcript
from runner.protocol.ids import digest
from runner.protocol.plans import Budget, Plan
from runner.protocol.policy_file import DayBudget
from runner.protocol.state import State
from runner.protocol.transcript import Record, Response, Summary
from runner.store import day_budget, history, record
from runner.store.environment import matching
from runner.store.project import Project, Session, SharedBudget
from runner.store.snapshot import Snapshot
from runner.trust import trusted_config
from runner.trust.policy import stricter

TURNS = 200  # of an attempt, where no budget of its own says how many


def of(records: Sequence[Record]) -> Total:
    """Return what the answers among a journal's records cost."""
    total = Total()
    for one in records:
        if isinstance(one, Response | Summary):
            total.add(one)
    return total


def planned_anew(project: Project, snapshot: Snapshot, edit: ev.PlanEdited) -> ev.PlanEdited:
    """Return the edit with the cost of the plans that people took since the record last named one's transcript."""
    entries = record.events(project.git, snapshot.protocol, snapshot.tip)
    named = {raw.fields.get("transcript") for raw in entries if raw.subject == "plan"}
    total, last = Total(), None
    for name, data in history.transcripts(project.git, snapshot.protocol, "plan."):
        if digest(data) in named:
            total, last = Total(), None
        else:
            total, last = total + of(transcript.parse(data, name)), digest(data)
    return edit.model_copy(update={"transcript": last, "spent": as_event(total)}) if last else edit


def as_event(total: Total, seconds: int = 0) -> ev.Spent:
    """Return an amount as an event tells it."""
    spent: ev.Spent = {
        "input_tokens": total.input_tokens,
        "output_tokens": total.output_tokens,
        "usd": format(total.usd, "f"),
    }
    if total.unpriced:
        spent["unpriced"] = total.unpriced
    if total.cached:
        spent["cached_tokens"] = total.cached
    if seconds:
        spent["seconds"] = seconds
    return spent


def since(journal: Journal, seconds: int, *more: Journal) -> ev.Spent:
    """Return what the record does not have yet of a journal's cost, and of `more`."""
    return as_event(of([line for one in (journal, *more) for line in one.records[one.filed :]]), seconds)


def shared_budget(session: Session, protocol: str = "") -> SharedBudget | None:
    """Return what this process has of the day's budget, for the work of a protocol; None where there is no such budget."""
    if session.shared_budget is None:
        if day(session.project) == DayBudget():
            return None
        session.shared_budget = day_budget.Reservation(session, lambda: day(session.project))
    session.shared_budget.protocol = protocol
    return session.shared_budget


def day(project: Project) -> DayBudget:
    """Return what the policy lets all runners together spend on a day."""
    ruled = trusted_config.of(project).policy
    return ruled.content.budget.day if ruled else DayBudget()


@dataclass(frozen=True, slots=True)
class Own:
    """What a journal's work may use by itself: `seconds`, and its `budgets`, each with its file, of which `used` is gone already.

    `file`: the plan file in which a person sets a budget; `timeout`: where `seconds` is set, empty where it is fixed.
    """

    file: str
    budgets: Sequence[tuple[str, Budget | None]]
    seconds: float
    timeout: str = ""
    used: Total = field(default_factory=Total)


def limits(project: Project, snapshot: Snapshot, plan: Plan, state: State, journal: Journal, own: Own) -> Limits:
    """Return the limits of a journal's work in all, with its earlier usage: the least that a budget leaves.

    The plan's budget is that of the protocol, which pays everything else too.
    """
    found = trusted_config.of(project)
    ruled, policy = found.policy, f"{paths.POLICY} on {found.branch}"
    least: dict[str, tuple[Any, str]] = {"seconds": (own.seconds, own.timeout)}

    def at_most(where: str, budget: Budget, used: Total, seconds: float = 0) -> None:
        gone = {"minutes": seconds / 60, **{key: getattr(used, key) for key in ("usd", "tokens", "turns", "calls")}}
        for key in Budget.model_fields:
            if (most := getattr(budget, key)) is not None:
                kind, left = ("seconds", 60 * (most - gone[key])) if key == "minutes" else (key, most - gone[key])
                if kind not in least or left < least[kind][0]:
                    least[kind] = left, _where_to_change(where, own.file)

    for where, budget in (*own.budgets, (policy, ruled.content.budget.step if ruled else None)):
        if budget is not None:
            at_most(where, budget, own.used)
    least.setdefault("turns", (TURNS, _where_to_change(own.file, own.file)))
    unpriced = own.used.unpriced if "usd" in least else 0
    whole = {paths.PLAN: plan.header.budget, policy: ruled.content.budget.protocol if ruled else None}
    both = stricter(*whole.values())
    if both != stricter():
        total = _of_protocol(project, snapshot, state, both) + unrecorded(project, snapshot.protocol, journal.path)
        used = total - of(journal.records[: journal.filed])
        for where, budget in whole.items():
            if budget is not None:
                at_most(where, budget, used, state.spent.seconds)
        unpriced += 0 if both.usd is None else total.unpriced
    most = {kind: max(left, type(left)(0)) for kind, (left, _) in least.items()}
    return Limits(**most, unpriced=unpriced, where={kind: where for kind, (_, where) in least.items()})


def _where_to_change(where: str, file: str) -> str:
    """Return a hint that names the file with a budget. `file`: the plan file whose edit ends the wait where that is no plan file."""
    is_here = where in (paths.PLAN, file)
    return f"see `budget:` in {where}" if is_here else f"change `budget:` in {where}, then set one in {file} too"


def _of_protocol(project: Project, snapshot: Snapshot, state: State, budget: Budget) -> Total:
    """Return what the protocol has used by its record. Turns and calls are in transcripts alone, read only for a `budget` of them."""
    total = Total() if budget.turns is None and budget.calls is None else _recorded(project, snapshot.protocol)
    spent = state.spent
    unpriced = 0 if budget.usd is None else _unpriced(project, snapshot)
    return Total(
        Decimal(spent.usd), unpriced, spent.input_tokens, spent.output_tokens, turns=total.turns, calls=total.calls
    )


def unrecorded(project: Project, protocol: str, but: Path | None = None) -> Total:
    """Return the cost of the answers in this clone's journals that no transition has recorded. `but`: a journal to leave out.

    Raises:
        IntegrityError: a journal is damaged.
    """
    total = Total()
    for _, journal in _journals(project, protocol, but):
        total += of(journal.records[journal.filed :])
    return total


def to_record(project: Project, protocol: str) -> tuple[Total, dict[str, bytes]]:
    """Return the cost that no transition has recorded, and the transcripts (name in the history to bytes) that hold it.

    Raises:
        IntegrityError: a journal is damaged.
    """
    total, files = Total(), dict[str, bytes]()
    for name, journal in _journals(project, protocol):
        cost = of(journal.records[journal.filed :])
        if cost.turns and journal.path.stem == name:  # a lost one stays here: the history has another of its name
            total += cost
            files[history.run_file(name)] = journal.transcript()
    return total, files


def _journals(project: Project, protocol: str, but: Path | None = None) -> Iterator[tuple[str, Journal]]:
    """Yield each journal of this clone with its transcript's name; its `filed` is what the record has of it."""
    for path in matching(project.dirs.journal(protocol), "*.jsonl"):
        if path != but:
            journal, name = Journal(path), path.stem.partition(".lost-")[0]
            journal.filed = journal.alike(recorded_part(project, protocol, name))
            yield name, journal


def _recorded(project: Project, protocol: str) -> Total:
    """Return the usage in the history's transcripts; turns and calls are recorded nowhere else."""
    total = Total()
    for name, data in history.transcripts(project.git, protocol):
        total += of(transcript.parse(data, f"{name} of {history.ref_of(protocol)}"))
    return total


def _unpriced(project: Project, snapshot: Snapshot) -> int:
    """Return how many recorded tokens have no known price."""
    told = [raw.fields.get("spent") or {} for raw in record.events(project.git, snapshot.protocol, snapshot.tip)]
    return sum(int(spent.get("unpriced", 0)) for spent in told)
