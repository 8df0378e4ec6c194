"""29. forked: the steps that a fork has as done were done, by a record that verifies, at the very commit at which it starts.

The fork's branch contains that commit, so the branch is the proof. Approvals never come along: they name a protocol and its genesis.
Nor does work that was not done there: nobody would judge it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from runner.git import Git
from runner.protocol import events as ev
from runner.protocol import ids, log, paths
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry
from runner.protocol.state import Json, State, StepStatus
from runner.store import record
from runner.trust.rules import transcripts
from runner.trust.walk import Evidence, Finding, Named, Origin, ParsedCommit, Report, Said, Walk


def wrong(walk: Walk, parsed: ParsedCommit) -> Iterator[str]:
    """Yield why a `forked` event is invalid; the notes on a valid one are kept in the walk.

    Raises:
        InsufficientHistoryError: the other protocol's history is not whole here.
    """
    event = parsed.first(ev.Forked)
    assert isinstance(event, ev.Forked)
    origin, _, revision = event.source.partition("@")
    if not (ids.is_protocol_id(origin) and revision.isascii() and revision.isdigit()) or origin == walk.protocol:
        yield f"`{event.source}` is no revision of another protocol"
        return
    told = log.parse_message(parsed.parent.message) if parsed.parent else None
    if parsed.parent is None or told is None or (told.protocol, str(told.revision)) != (origin, revision):
        yield f"it does not start at the commit of {event.source}"
        return
    report = walk.verify(origin, parsed.parent.oid)
    if not report.ok or report.state is None:
        why = f"{report.findings[0].rule}: {report.findings[0].text}" if report.findings else "it has no record"
        yield f"{event.source} does not verify: {why}"
        return
    yield from differs(event, report.state, record.events(walk.git, origin, parsed.parent.oid))
    walk.origins = [Origin(origin, parsed.commit.oid, report.transcripts), *report.origins]
    walk.taken_over = [f"started at {event.source}, which verifies", *(f"{origin}: {note}" for note in report.notes)]


def differs(event: ev.Forked, then: State, entries: Sequence[RawEntry]) -> Iterator[str]:
    """Yield how the event differs from its source. `then`: the state there; `entries`: all events up to it."""
    if event.genesis != then.genesis:
        yield f"{event.source} has another genesis"
    if left := unfinished(entries):
        yield f"the work of {left} is in the tree of {event.source}, and was not done there"
    done = completed(then)
    for slug in sorted({*done, *event.done}):
        if slug not in done:
            yield f"{slug} was not completed at {event.source}"
        elif slug not in event.done or _text(event.done[slug]) != _text(done[slug]):
            yield f"{slug} was completed at {event.source} with another result"
        elif slug in event.steps and event.steps[slug]["digest"] != then.steps[slug].digest:
            yield f"{slug} was another step at {event.source}: its file differs"


def completed(then: State) -> dict[str, Json]:
    """Return what counts as done in a fork: the completed steps of the plan, each with its result."""
    return {slug: step.result for slug, step in then.open_steps() if step.status is StepStatus.COMPLETED}


def unfinished(entries: Sequence[RawEntry]) -> str | None:
    """Return a step that has work in the tree, all or a part of it, and was not completed by the end of `entries`; or None."""
    left: dict[int, str] = {}
    at: dict[int, dict[int, str]] = {}
    for entry in entries:
        fields = entry.fields
        partly = event_type(entry.event).has_work and "transcript" in fields
        if entry.event == "step-finished" or (partly and entry.subject != "plan"):
            left = {**left, entry.revision: entry.subject}
        elif entry.event == "step-completed":
            left = {revision: slug for revision, slug in left.items() if slug != entry.subject}
        elif entry.event == "undone" and isinstance(to := fields.get("to"), int):
            left = at.get(to, left)
        at[entry.revision] = left
    return next(iter(left.values()), None)


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def check_forked(walk: Walk, parsed: ParsedCommit) -> Said:
    """29. What a fork has as done was done in the protocol that it names, at the commit at which it starts, and that verifies."""
    if parsed.first(ev.Forked) is not None and parsed.illegal is None:
        for text in wrong(walk, parsed):
            yield walk.path(paths.LOG), text


def check_origins(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """29. The transcripts of the protocols that a fork continues show nothing against them."""
    for origin in report.origins:
        yield from of_origin(git, report.protocol, origin, evidence)


def of_origin(git: Git, protocol: str, origin: Origin, evidence: Evidence) -> Iterator[Finding]:
    """Yield what the transcripts of a fork's origin show against it, as findings of the fork, which is `protocol`.

    Raises:
        InsufficientHistoryError: one is not in this clone, and the others hold.
    """
    proven: list[tuple[Named, str]] = []
    kept = evidence.history_of(origin)

    def found() -> Iterator[Finding]:
        yield from transcripts.wrong_transcripts(git, origin.protocol, origin.named, kept, evidence.remote, proven)
        yield from transcripts.wrong_calls(git, origin.protocol, proven, evidence.trusted)

    at = f"{paths.folder(protocol)}/{paths.LOG}"
    for one in found():
        yield Finding("forked", origin.fork, at, f"{origin.protocol} does not verify: {one.rule}: {one.text}")
