"""Ask `trust.permit` about the next action, and record the approvals that people gave, in files or in reviews (design §4).

`count_approvals` turns the approvals that came in into events; `hold` returns the question that the next action has to wait for. An
approval is only used after the trusted branch was fetched, if there is a remote.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from runner.errors import MalformedFileError, RefusedError
from runner.executor import forge_reviews
from runner.executor.step_run import StepRun
from runner.protocol import approval_file, log
from runner.protocol import events as ev
from runner.protocol.events import Event
from runner.protocol.machine import RunStep
from runner.protocol.plans import Plan
from runner.protocol.state import ACTIVE, State, StepStatus, Wait
from runner.store import publishing
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust import approval, permit, requirements, transitions, trusted_config
from runner.trust.manifest import Subject
from runner.trust.permit import ActionResult, Ask, Denied, StepAction, Verdict
from runner.trust.transitions import RejectionReason
from runner.trust.trusted_config import differs, is_below
from runner.trust.view import View

if TYPE_CHECKING:
    from runner.forge import Forge
    from runner.trust.approval import ApprovalStatus
    from runner.trust.requirements import ApprovalRequirement


def view_of(project: Project, seen: Snapshot, plan: Plan | None, state: State, time: str | None = None) -> View:
    """Return the protocol as approvals are judged, by the trusted branch as last seen, at the present time or at `time`."""
    now = approval_file.seconds(time) if time else int(project.env.now())
    return View(project.git, seen.protocol, seen.tip, state, plan, trusted_config.of(project), now)


def view_of_run(run: StepRun) -> View:
    """Return the protocol as the approvals of a step's attempt are judged, at the present time."""
    view = view_of(run.project, run.snapshot, run.plan, run.state)
    waits = {one.id: one for one in run.snapshot.state.waiting}
    counted = [waits[one.wait] for one in run.approvals if isinstance(one, ev.ApprovalCounted)]
    return dataclasses.replace(view, granted=[requirements.subject_of(view, wait) for wait in counted])


def count_approvals(
    session: Session, seen: Snapshot, plan: Plan, state: State, time: str, forge: Forge | None = None
) -> list[Event]:
    """Return the events of the approvals that came in: counted, decided, or refused with the reason, each recorded once.

    `time`: when they are judged, as the record says; `forge`: where the reviews of the one thing that waits are fetched.

    Raises:
        RefusedError: the trusted branch is older than the policy that the record names.
        UnreachableError: an approval would be used, and the remote that has the policy does not answer.
    """
    waits = [wait for wait in state.waiting if wait.type.ended_by == "approval"]
    if not waits or state.status not in ACTIVE:
        return []
    made: list[Event] = []
    view = view_of(session.project, seen, plan, state, time)
    refused = {raw.fields.get("approval") for raw in view.entries if raw.event == "approval-refused"}
    for wait in waits:
        subject = requirements.subject_of(view, wait)
        fetched = forge_reviews.NO_REVIEWS
        status = approval.status_of(view, wait)
        if status is not None and forge is not None and status.requirement.reviews and not status.requirement.keyboard:
            fetched = forge_reviews.fetch_reviews(session, forge, view, status.requirement, wait)
            if session.project.hands_over:  # its report of a review is not trusted: `sync` counts it
                fetched = fetched._replace(approvals=())
            status = approval.status_of(view, wait, fetched.approvals)
            for one in status.reviews if status else ():
                if one.rejection is not None:
                    session.tell_once(f"the review of {one.approver} does not count for {subject}: {one.text}")
        if status is None:
            gone = ev.ApprovalRefused(subject=wait.subject, reason="no approval is required any more", wait=wait.id)
            made.append(gone)
            continue
        if status.counted or status.rejected or status.refused or status.reviews:
            if _refresh(session, seen.protocol):
                view = dataclasses.replace(view, config=trusted_config.of(session.project))
                status = approval.status_of(view, wait, fetched.approvals) or status
            _refuse_rolled_back(session, seen)
            given = (*status.counted, *status.rejected, *status.refused)
            last = {one.approver: one.order for one in sorted(given, key=lambda one: one.order)}
            made += [
                ev.ApprovalRefused(
                    subject=wait.subject,
                    reason=log.cut(f"{one.approver}: {one.rejection}: {one.text}"),
                    approval=one.id,
                )
                for one in status.refused
                # One that its person has replaced is no news.
                if one.id not in refused
                and one.rejection is not RejectionReason.USED
                and one.order == last[one.approver]
            ]
        if status.rejected or not fetched.objections:
            made += _decided(session.project, wait, status)
    return made


def _refuse_rolled_back(session: Session, seen: Snapshot, *, used: bool = True) -> None:
    """Refuse to act under an older policy than one that the record names: verify would refuse the transition.

    `used`: whether approvals are counted by it; if not, only the entries since the last action are looked at.

    Raises:
        RefusedError: the trusted branch went back. UnreachableError: it may be newer on the remote, which does not answer.
    """
    remote = session.project.trusted.remote
    if remote is None:
        return
    told = list(transitions.trusted_commits(session.git, seen.protocol, seen.tip, whole=used))
    if not used and any(differs(session.git, one, session.project.trusted.commit) for one in told):
        _refresh(session, seen.protocol)
        told = [one for one in told if differs(session.git, one, session.project.trusted.commit)]
    elif not used:
        return
    trusted = session.project.trusted
    for newer in told:
        if newer != trusted.commit and not is_below(session.git, newer, trusted.commit):
            raise RefusedError(
                f"{trusted.branch} went back: it was at {newer[:12]}, and is at {trusted.commit[:12]}",
                trusted.note,
                f"ask someone to restore {newer[:12]} on {trusted.branch} of {remote}, or to merge it there",
            )


def _decided(project: Project, wait: Wait, status: ApprovalStatus) -> list[Event]:
    done = approval.decided(wait, status)
    if done is not None:
        return [done]
    if wait.kind == "call" and project.env.now() > approval_file.seconds(wait.since) + status.requirement.lasts:
        hours = status.requirement.lasts // 3600
        assert wait.digest is not None
        return [
            ev.ApprovalRefused(subject=wait.subject, reason=f"nobody decided within {hours} h", wait=wait.id),
            ev.CallHeld(
                subject=wait.subject,
                call=status.requirement.subject.name,
                digest=wait.digest,
                text=wait.text,
                by=wait.by,
            ),
        ]
    return []


def _refresh(session: Session, protocol: str) -> bool:
    """Fetch the trusted branch just before an approval is used; return whether it moved."""
    before = session.project.trusted.commit
    publishing.look_again(session, protocol)
    return session.project.trusted.commit != before


def hold(run: StepRun, action: StepAction) -> ev.ApprovalAsked | None:
    """Return the event that asks for the first approval that is missing before `action` on the run's step, or None.

    A step that resumes asks again: the record alone proves no start, and the step's file may have been edited.

    Raises:
        RefusedError: the policy denies it, or is older than the one that the record names.
        UnreachableError: an approval would be used, and the remote that has the policy does not answer.
    """
    _refuse_rolled_back(run.session, run.snapshot, used=False)
    view = view_of_run(run)
    verdict = permit.permit(view, action)
    if not isinstance(verdict, Denied) and verdict.relies and _refresh(run.session, view.protocol):
        view = dataclasses.replace(view, config=trusted_config.of(run.project))
        verdict = permit.permit(view, action)
    permit.refuse_denied(verdict)
    if not isinstance(verdict, Ask):
        return None
    _refuse_unreachable(view, verdict.requirement)
    return _asked(verdict.requirement, view.digest(verdict.requirement.subject, view.tip))


def is_approved(run: StepRun) -> bool:
    """Return whether the step starts on an approval: then its workspace may hold no file that git does not track."""
    return requirements.of_start(trusted_config.of(run.project), run.step, run.where) is not None


def judge_result(run: StepRun, result: ActionResult) -> Verdict:
    """Return whether what an action on the run's step led to may be recorded; which action it was makes no difference.

    No earlier approval counts for it: one is used only after the trusted branch was fetched again, as `hold` does.
    """
    return permit.permit(dataclasses.replace(view_of_run(run), known=()), RunStep(run.slug), result)


def asks(run: StepRun, verdict: Verdict, work: tuple[str, str] | None = None) -> tuple[Event, ...]:
    """Return the event that asks for the approval which a step's work needs, or nothing. `work`: as in `Result`.

    Raises:
        RefusedError: the policy denies the work.
    """
    permit.refuse_denied(verdict)
    if not isinstance(verdict, Ask):
        return ()
    view, subject = view_of_run(run), verdict.requirement.subject
    began = view.pieces(run.slug, work)[-1][0] if work else None
    return (_asked(verdict.requirement, view.digest(subject, work[1] if work else view.tip, began=began)),)


def changes_setup(run: StepRun, changed: Iterable[str]) -> bool:
    """Return whether a person is asked for another environment, because a step changed a file that the setup reads."""
    return trusted_config.of(run.project).asks_on_change and any(
        map(run.project.config.workspace.is_read_by_setup, changed)
    )


def approved_changes(run: StepRun) -> Iterator[tuple[str, str]]:
    """Yield the (before, after) of steps' work that a person approved, newest first: of the run's step only while that is valid.

    An approval at a keyboard proves nothing later: it counts for its own step.
    """
    view, found = view_of_run(run), list[tuple[float, str]]()
    for slug, step in view.state.steps.items():
        subject = Subject("protected-path", slug, step.attempt)
        given = permit.counted(subject, view.entries)
        if slug == run.slug and subject in view.granted:
            found.append((math.inf, slug))
        elif slug == run.slug and given:
            required = requirements.of_changes(view.trusted, slug, step.attempt, ["its changes"])
            assert required is not None
            found += [(math.inf, slug)] if permit.judged_again(view, required, given[-1]).satisfied else []
        elif given and step.status is StepStatus.COMPLETED and given[-1].fields.get("by") != [requirements.KEYBOARD]:
            found.append((given[-1].revision, slug))
    for _, slug in sorted(found, reverse=True):
        yield from view.pieces(slug)


def _asked(requirement: ApprovalRequirement, digest: str) -> ev.ApprovalAsked:
    subject = requirement.subject
    return ev.ApprovalAsked(
        subject=subject.slug or subject.kind,
        kind=subject.kind,
        digest=digest,
        text=log.cut(requirement.text),
        by=log.cut(requirement.who),
    )


def _refuse_unreachable(view: View, asked: ApprovalRequirement) -> None:
    """Refuse to wait for more people than the policy allows to approve, without the authors of the work: it would wait forever.

    Raises:
        MalformedFileError: naming the policy's line.
    """
    found = view.trusted
    for need in asked.thresholds:
        out = {one for one in need.people if approval.wrote(view, asked.subject, one) is not None}
        if need.count > 1 and len(need.people) - len(out) < need.count:
            assert found.policy is not None
            kind = "step" if asked.subject.kind == "result" else asked.subject.kind
            raise MalformedFileError(
                f"{asked.subject} needs approval by {need.who}, and `own_work: {found.own_work}` leaves out {', '.join(sorted(out))}, "
                "who wrote some of it",
                found.policy.at("approvals", kind),
                f"list more people in the role, ask for fewer, or write `own_work: allow`, in {found.where}",
            )


def is_call_approved(run: StepRun, call: str, by: str) -> bool:
    """Return whether the approval of a held call that an earlier transition counted is still valid: the record does not prove it, and
    it may have ended since.

    Raises:
        UnreachableError: the remote that has the policy does not answer.
    """
    session = run.session
    _refresh(session, run.snapshot.protocol)
    found = trusted_config.of(session.project)
    required = requirements.of_call(found, call, int(call.split(".")[1]), "")
    if required.keyboard:
        return by == requirements.KEYBOARD
    view = view_of_run(run)
    held = {f"w{raw.revision}" for raw in view.entries if raw.event == "call-held" and raw.fields.get("call") == call}
    decided = [raw for raw in view.entries if raw.event == "call-decided" and raw.fields.get("wait") in held]
    return bool(decided) and permit.judged_again(view, required, decided[-1]).satisfied
