"""Forking: a new protocol that begins where another one stood at a revision, with that one's words, and with what was done there.

The branch begins at that very commit, so its history proves what it takes over. Nothing of the other protocol is touched.
"""

from __future__ import annotations

import contextlib
import dataclasses

from runner.app import create
from runner.app import verify as judging
from runner.app.chain import Chain
from runner.errors import InsufficientHistoryError, IntegrityError, RefusedError, UsageError
from runner.protocol import events as ev
from runner.protocol import machine, message, paths
from runner.protocol import plan as plan_
from runner.protocol.log import RawEntry
from runner.store import record, snapshot
from runner.store.project import Project
from runner.trust import checks, forked, verify


def fork(
    project: Project, origin: str, revision: int | None = None, *, title: str = "", base: str | None = None
) -> create.Made:
    """Begin a protocol that goes on from `origin` as it stood at a revision (default: its last); people's edits since are not taken.

    `title` names it; where it is empty, the plan's title does. `base`: default the other one's.

    Raises:
        UsageError: no transition ends at the revision. IntegrityError: the other protocol does not verify.
        RefusedError: it had no plan then, or work that was not done. InsufficientHistoryError: its history is not here.
    """
    git = project.git
    project.refuse_unsupported()
    create.heed_open_questions(project)
    transitions = _transitions(project, origin)
    at = max(transitions) if revision is None else revision
    if at not in transitions:
        near = sorted(sorted(transitions, key=lambda known: (abs(known - at), known))[:4])
        raise UsageError(
            f"no transition of {origin} ends at revision {at}",
            paths.folder(origin),
            f"near ones: {_named(origin, near)}; `runner log {origin}` shows all",
        )
    start = transitions[at]
    report = verify.verify(git, origin, start, project.trusted)
    then = report.state if report.ok and report.state else verify.advance(git, origin, start, None, project.trusted)
    _refuse_washing(project, report)
    seen, source = snapshot.read(git, start, origin), f"{origin}@{at}"
    if then.plan is None:
        raise RefusedError(
            f"{source} has no plan yet", seen.where, "fork a later revision, or `runner new` begins another one"
        )
    entries = record.events(git, origin, start)
    if left := forked.unfinished(entries):
        raise RefusedError(
            f"the work of {left} was not done at {source}, and nobody would judge it in another protocol",
            seen.where,
            _whole(origin, at, transitions, record.events(git, origin, transitions[max(transitions)])),
        )
    files, where = snapshot.words(git, seen), f"{paths.folder(origin)} at revision {at}"
    plan = plan_.parse(files, where)
    plan_.refuse_unsupported(plan, where)
    event = ev.Forked(
        subject="plan",
        plan=plan.digest,
        steps=machine.planned_steps(plan),
        source=source,
        genesis=then.genesis,
        done=forked.completed(then),
    )
    if why := next(forked.differs(event, then, entries), None):
        raise RefusedError(why, seen.where, "fork the next revision, which takes up what people changed")
    made = create.begin(
        project, plan.header.title, [event], files, name=title.strip(), base=base or then.base, start=start
    )
    return dataclasses.replace(made, source=source, done=len(event.done))


def _refuse_washing(project: Project, report: verify.Report) -> None:
    """Refuse what the transcripts tell against: one that is not here tells nothing, and `verify` says so of the fork."""
    with contextlib.suppress(InsufficientHistoryError):
        for one in (checks.Origin(report.protocol, report.tip, report.transcripts), *report.origins):
            for found in judging.washed(project, report.protocol, one):
                where = f"{found.path}, commit {report.tip[:12]}"
                raise IntegrityError(found.text, where, f"run `runner verify {report.protocol}` to see all of it")


def _transitions(project: Project, origin: str) -> dict[int, str]:
    """Return the protocol's transitions as far as they are here: last revision to commit."""
    git, chain = project.git, Chain(project, origin)
    found: dict[int, str] = {}
    for tip in chain.tips:
        for oid in verify.chain_of(git, origin, tip):
            commit = git.commit(oid)
            told = message.parse(commit.message) if commit is not None else None
            if told is not None and told.protocol == origin:
                found.setdefault(told.revision, oid)
    if not found:
        raise InsufficientHistoryError(f"the history of {origin} is not here", paths.folder(origin), chain.fetch)
    return found


def _whole(origin: str, at: int, transitions: dict[int, str], entries: list[RawEntry]) -> str:
    """Return which revisions before and after one can be forked."""
    fit = [
        number
        for number in sorted(transitions)
        if forked.unfinished([entry for entry in entries if entry.revision <= number]) is None
    ]
    near = [*[number for number in fit if number < at][-1:], *[number for number in fit if number > at][:1]]
    return f"fork {_named(origin, near)}" if near else f"finish the step first: `runner run {origin}`"


def _named(origin: str, revisions: list[int]) -> str:
    return " or ".join(f"{origin}@{number}" for number in revisions)
