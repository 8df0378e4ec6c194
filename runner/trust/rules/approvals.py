"""20. counted: the approvals that an event used were valid then, and enough (design §4).

An `approval-counted` or `call-decided` is valid where it is the event that `approval.decided` makes: under the policy of its
`Runner-Trusted`, in the tree and state before it, at the time of its entry; revocations are those of the trusted branch as it is now.
A chain without such an event is not asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from runner.errors import InsufficientHistoryError, MalformedFileError, RefusedError, RunnerError
from runner.protocol import events as ev
from runner.protocol import paths
from runner.protocol.approval_file import seconds
from runner.protocol.events import Entry
from runner.protocol.log import RawEntry
from runner.trust import approval
from runner.trust.approval import ApprovalStatus
from runner.trust.requirements import KEYBOARD
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import ApprovalFile, View
from runner.trust.walk import ParsedCommit, Said, Walk, edited

ApprovalEvent = ev.ApprovalCounted | ev.CallDecided


def _wrong_approvals(walk: Walk, parsed: ParsedCommit) -> Iterator[str]:
    """Yield one message for each approval event whose recorded approvals are not those that were valid at that commit.

    Raises:
        InsufficientHistoryError: an object that decides whose approval counted is not in this clone.
    """
    assert parsed.trailers is not None and parsed.parent is not None
    known = list(walk.entries())
    for entry in parsed.entries:
        event = entry.event
        if isinstance(event, ApprovalEvent):
            found = walk.config_at(parsed.trailers.trusted)
            text = found if isinstance(found, str) else _judged(walk, parsed, entry, event, found, known)
            if text is not None:
                walk.history(parsed).doubted.add(entry.revision)
                yield f"`{event.name}` of {event.subject}: {text}"
            else:
                walk.counted.update(event.approvals)
                walk.reviews += len(event.reviews)
        known.append(RawEntry(entry.revision, event.name, event.subject, entry.time, entry.actor, ev.fields_of(event)))


def _view(walk: Walk, parsed: ParsedCommit, event: ApprovalEvent) -> View | str:
    """Return what the event was judged on: the commit before it or, where the work was merged onto others', the one that it names."""
    assert parsed.parent is not None
    past = walk.history(parsed)
    commit = event.at or parsed.parent.oid
    if commit not in past.positions:
        return f"it was judged at {commit[:12]}, which is no commit of the branch before it"
    if commit != parsed.parent.oid and not any(one.type.role == "work" for one in parsed.events):
        return f"it was judged at {commit[:12]}, and no work that started there ends here"
    work = parsed.first(ev.StepFinished)
    if (
        event.at
        and isinstance(event, ev.ApprovalCounted)
        and isinstance(work, ev.StepFinished)
        and work.start != event.at
    ):
        return f"it was judged at {commit[:12]}, and the work started at {work.start[:12]}"
    found = walk.view_at(parsed, commit)
    return found if isinstance(found, str) else edited(found)


def _judged(
    walk: Walk,
    parsed: ParsedCommit,
    entry: Entry,
    event: ApprovalEvent,
    found: TrustedConfig,
    known: list[RawEntry],
) -> str | None:
    """Return why an event that used approvals does not hold, or None: it is the one that a runner would have recorded."""
    try:
        view = _view(walk, parsed, event)
    except InsufficientHistoryError:
        raise
    except RunnerError as error:
        return f"{error.what}, {error.where}"
    if isinstance(view, str):
        return view
    wait = next((one for one in view.state.waiting if one.id == event.wait), None)
    if wait is None or wait.kind not in event.type.ends:
        return f"{event.wait} is no wait that this event ends"
    if wait.subject != event.subject:
        return f"{event.wait} is about {wait.subject}"
    if event.by in (KEYBOARD, [KEYBOARD]):
        return _at_keyboard(walk, view, event, found)
    view = dataclasses.replace(view, config=found, at=seconds(entry.time), known=known)
    try:
        status = approval.status_of(view, wait, event.reviews)
    except (RefusedError, MalformedFileError) as error:
        return f"{error.what}, {error.where}"
    if status is None:
        return f"no signed approval was required by the policy of {found.commit[:12]}"
    due = approval.decided(wait, status)
    return None if dataclasses.replace(event, at=None) == due else _difference(event, due, status, view.approvals())


def _difference(
    event: ApprovalEvent, due: ApprovalEvent | None, status: ApprovalStatus, found: Sequence[ApprovalFile]
) -> str:
    """Return how the event differs from the one that was due. `found`: every approval there is."""
    faults = {one.id: f"{one.rejection}: {one.text}" for one in (*found, *status.refused) if one.rejection is not None}
    why = [faults[one] for one in event.approvals if one in faults]
    why += [f"a review, {one.rejection}: {one.text}" for one in status.reviews if one.rejection is not None]
    if not why and due is None:
        why = [f"{one.approver} rejected it" for one in status.rejected] or [f"missing: {status.missing}"]
    counted = ", ".join(one.approver for one in status.rejected or status.counted)
    return "; ".join(why[:3]) or f"other approvals count: {counted or 'none'}"


def _at_keyboard(walk: Walk, view: View, event: ApprovalEvent, found: TrustedConfig) -> str | None:
    """Return why an approval at a terminal is invalid, or None: it serves where there is no policy, and never was."""
    if event.approvals:
        return "it was given at a keyboard, and names words that are signed"
    if found.policy is not None:
        return f"it was given at a keyboard, and there was a policy in {found.commit[:12]}"
    for told, place in view.branch.told.items():
        if told != found.commit and place <= view.branch.positions[view.tip]:
            other = walk.config_at(told)
            if isinstance(other, str) or other.policy is not None:
                return f"it was given at a keyboard, and there had been a policy in {told[:12]}"
    return None


def check_counted(walk: Walk, parsed: ParsedCommit) -> Said:
    """20. The approvals that an event uses are those that counted then, and they were enough."""
    if parsed.is_judged and parsed.uses_approvals:
        for text in _wrong_approvals(walk, parsed):
            yield walk.path(paths.LOG), text
