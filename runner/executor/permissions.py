"""Between deciding and acting: is somebody's word needed, was it given, and does it still stand (design §4).

`settle` turns the words that came in into events; `hold` says whether what may happen next has to wait for one. Nothing is acted
here, and a word is only used after the trusted branch was fetched, where there is a remote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.errors import MalformedFileError, RefusedError
from runner.executor import reviews
from runner.forge.base import Forge
from runner.protocol import events as ev
from runner.protocol import log, machine, paths
from runner.protocol.approval_file import seconds
from runner.protocol.events import Event
from runner.protocol.machine import Action, AskPerson, CheckStep, CompleteStep, RunStep, TakeWork
from runner.protocol.plans import Plan, Step
from runner.protocol.state import State, Wait
from runner.store import publishing, record
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import approval, permit, requirements, transitions
from runner.trust.approval import ApprovalStatus
from runner.trust.manifest import Subject
from runner.trust.requirements import ApprovalRequirement
from runner.trust.requirements import requirement_of as requirement_of
from runner.trust.requirements import subject_of as subject_of
from runner.trust.requirements import used as used
from runner.trust.review_context import ApprovalRequest, RejectionReason, ReviewContext
from runner.trust.trusted_config import TrustedConfig, differs, is_below
from runner.trust.trusted_config import load as load_trusted_config
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.trust.policy import Decision


@dataclass(frozen=True, slots=True)
class AskApproval:
    """What may happen next has to wait: `demand` is to be asked for, `digest` is what it is about now."""

    demand: ApprovalRequirement
    digest: str

    @property
    def event(self) -> ev.ApprovalAsked:
        """The event that asks."""
        subject = self.demand.subject
        return ev.ApprovalAsked(
            subject=subject.slug or subject.kind,
            kind=subject.kind,
            digest=self.digest,
            text=log.cut(self.demand.text),
            by=log.cut(self.demand.who),
        )


def is_read(project: Project) -> bool:
    """Return whether `of` has been asked, so that asking it again costs nothing."""
    return "authority" in project.kept


def trusted_config(project: Project) -> TrustedConfig:
    """Return what the trusted branch says, as this process last saw it."""
    if not is_read(project):
        trusted = project.trusted
        project.kept["authority"] = load_trusted_config(project.git, trusted.commit, trusted.branch, project.config)
    found: TrustedConfig = project.kept["authority"]
    return found


def refuse_isolation(project: Project, executor: str) -> None:
    """Refuse to run commands where the policy wants them better kept apart.

    Raises:
        RefusedError: naming the rule.
    """
    _refuse(
        trusted_config(project).isolation(executor),
        f"the executor `{executor}`",
        "use `--executor sandbox`, or change the policy",
    )


def refuse_engine(project: Project, engine: str, step: str | None = None) -> None:
    """Refuse to ask a model that the policy does not allow.

    Raises:
        RefusedError: naming the rule.
    """
    _refuse(
        trusted_config(project).engine(engine, step),
        f"the engine `{engine}`",
        "use another `--engine`, or change the policy",
    )


def _refuse(said: Decision, what: str, hint: str) -> None:
    if said.verdict != "allow":
        why = f": {said.reason}" if said.reason else ""
        raise RefusedError(f"the policy does not allow {what} by `{said.rule}`{why}", said.where, hint)


def bench(
    project: Project, seen: Snapshot, state: State, found: TrustedConfig, time: str | None = None
) -> ReviewContext:
    """Return what judging words takes, at the present time or at `time`."""
    now = seconds(time) if time else int(project.who.now())
    return ReviewContext(project.git, seen.protocol, seen.tip, state, found, now)


def settle(
    project: Project, seen: Snapshot, plan: Plan, state: State, time: str, forge: Forge | None = None
) -> list[Event]:
    """Return the events that the words which came in make: counted, decided, or refused with the reason, each told once.

    `time`: at which they are judged, and which the record tells; `forge`: where reviews are read, for the one thing that waits.

    Raises:
        RefusedError: the trusted branch went back behind the policy that the record tells of.
        UnreachableError: a word would be used, and the remote that says whose word counts does not answer.
    """
    waits = [wait for wait in state.waiting if wait.type.ended_by == "approval"]
    if not waits or state.status not in machine.ACTIVE:
        return []
    made: list[Event] = []
    known = record.events(project.git, seen.protocol, seen.tip)
    told = {raw.fields.get("approval") for raw in known if raw.event == "approval-refused"}
    for wait in waits:
        subject = subject_of(wait, state, known)
        heard = reviews.NONE
        standing = _standing(project, seen, plan, state, wait, subject, known, time, heard)
        if (
            standing is not None
            and forge is not None
            and standing.requirement.reviews
            and not standing.requirement.keyboard
        ):
            judged = bench(project, seen, state, trusted_config(project), time)
            heard = reviews.fetch(project, forge, judged, standing.requirement, wait, plan)
            if project.options.get("ephemeral") and project.setting("publish") == "never":
                # What is done here is handed over, and no review that such a job tells of is believed: `sync` counts it.
                heard = dataclasses.replace(heard, approvals=())
            standing = _standing(project, seen, plan, state, wait, subject, known, time, heard)
            for one in standing.reviews if standing else ():
                if one.rejection is not None:
                    project.tell_once(f"the review of {one.approver} does not count for {subject}: {one.text}")
        if standing is None:
            gone = ev.ApprovalRefused(subject=wait.subject, reason="no word is needed for it any more", wait=wait.id)
            made.append(gone)
            continue
        if standing.counted or standing.rejected or standing.refused or standing.reviews:
            if _refresh(project, seen.protocol):
                standing = _standing(project, seen, plan, state, wait, subject, known, time, heard) or standing
            _refuse_rolled_back(project, seen)
            given = (*standing.counted, *standing.rejected, *standing.refused)
            last = {word.approver: word.order for word in sorted(given, key=lambda word: word.order)}
            made += [
                ev.ApprovalRefused(
                    subject=wait.subject,
                    reason=log.cut(f"{word.approver}: {word.rejection}: {word.text}"),
                    approval=word.id,
                )
                for word in standing.refused
                # One that its person has replaced is no news.
                if word.id not in told
                and word.rejection is not RejectionReason.USED
                and word.order == last[word.approver]
            ]
        if standing.rejected or not heard.objections:
            made += _decided(project, wait, standing)
    return made


def _standing(
    project: Project,
    seen: Snapshot,
    plan: Plan,
    state: State,
    wait: Wait,
    subject: Subject,
    known: Sequence[log.RawEntry],
    time: str,
    heard: reviews.ReviewResult,
) -> ApprovalStatus | None:
    found = trusted_config(project)
    asked = requirement_of(found, subject, wait.text, plan, paths.folder(seen.protocol))
    if asked is None:
        return None
    if asked.keyboard:  # said at a terminal, when it is said
        return ApprovalStatus(asked, (), (), ())
    judged = bench(project, seen, state, found, time)
    asking = ApprovalRequest.of(judged, wait) if heard.approvals else None
    return approval.judge(judged, asked, plan, used(subject, known), heard.approvals, asking)


def _refuse_rolled_back(project: Project, seen: Snapshot, *, used: bool = True) -> None:
    """Refuse to act under an older policy than one that the record tells of: verify would never hold it for good.

    `used`: whether words are counted by it; else only what was told since something was last done is looked at.

    Raises:
        RefusedError: the trusted branch went back. UnreachableError: it may have gone on, and the remote does not answer.
    """
    remote = project.trusted.remote
    if remote is None:
        return
    told = list(transitions.trusted_commits(project.git, seen.protocol, seen.tip, whole=used))
    if not used and any(differs(project.git, one, project.trusted.commit) for one in told):
        _refresh(project, seen.protocol)
        told = [one for one in told if differs(project.git, one, project.trusted.commit)]
    elif not used:
        return
    trusted = project.trusted
    for newer in told:
        if newer != trusted.commit and not is_below(project.git, newer, trusted.commit):
            raise RefusedError(
                f"{trusted.branch} went back: it was at {newer[:12]}, and is at {trusted.commit[:12]}",
                trusted.note,
                f"have somebody put {newer[:12]} back onto {trusted.branch} of {remote}, or merge it there",
            )


def _decided(project: Project, wait: Wait, standing: ApprovalStatus) -> list[Event]:
    words = standing.rejected or standing.counted
    by, ids = [word.approver for word in words], [word.id for word in words]
    told = [one for one in standing.reviews if one.rejection is None] if not standing.rejected else []
    by, said = by + [one.approver for one in told], [one.fields for one in told]
    if wait.kind == "call" and (standing.satisfied or standing.rejected):
        decision = "rejected" if standing.rejected else "approved"
        who = ", ".join(by)
        return [
            ev.CallDecided(subject=wait.subject, wait=wait.id, decision=decision, by=who, approvals=ids, reviews=said)
        ]
    if standing.satisfied:
        return [ev.ApprovalCounted(subject=wait.subject, wait=wait.id, approvals=ids, by=by, reviews=said)]
    if wait.kind == "call" and project.who.now() > seconds(wait.since) + standing.requirement.lasts:
        hours = standing.requirement.lasts // 3600
        assert wait.digest is not None
        return [
            ev.ApprovalRefused(subject=wait.subject, reason=f"nobody decided within {hours} h", wait=wait.id),
            ev.CallHeld(
                subject=wait.subject,
                call=standing.requirement.subject.name,
                digest=wait.digest,
                text=wait.text,
                by=wait.by,
            ),
        ]
    return []


def _refresh(project: Project, protocol: str) -> bool:
    """Fetch the trusted branch just before a word is used; return whether it moved."""
    before = project.trusted.commit
    publishing.look_again(project, protocol)
    return project.trusted.commit != before


# What is done on somebody's word, where one is needed.
_NEEDING = (RunStep, AskPerson, TakeWork, CheckStep, CompleteStep)


def hold(
    project: Project, seen: Snapshot, plan: Plan, state: State, action: Action, words: Sequence[Event]
) -> AskApproval | None:
    """Return what has to be asked for before `action` may happen, the first of all; `words`: what this transition settled.

    What a step began on is asked for again as it goes on: the record alone proves no start, and its file may have been edited.

    Raises:
        RefusedError: the policy denies it, or is an older one than the record tells of.
        UnreachableError: a word would be used, and the remote that says whose word counts does not answer.
    """
    step = plan.step(action.slug) if isinstance(action, _NEEDING) else None
    if step is None:
        return None
    _refuse_rolled_back(project, seen, used=False)
    asked = _asked(project, seen, plan, step, state, action)
    if not asked:
        return None
    known = record.events(project.git, seen.protocol, seen.tip)
    if any(permit.counted(one.subject, known) for one in asked) and _refresh(project, seen.protocol):
        asked = _asked(project, seen, plan, step, state, action)
    return _first(project, seen, plan, state, step, asked, words, known)


def _asked(
    project: Project, seen: Snapshot, plan: Plan, step: Step, state: State, action: Action
) -> list[ApprovalRequirement]:
    judged = bench(project, seen, state, trusted_config(project))
    asked = permit.before(judged, plan, step)
    return [*asked, *permit.after(judged, plan, step)] if isinstance(action, CompleteStep) else asked


def is_approved(project: Project, step: Step, where: str) -> bool:
    """Return whether a step starts on somebody's word: then nothing that git does not track may be there."""
    return requirements.of_start(trusted_config(project), step, where) is not None


def work_of(
    project: Project, seen: Snapshot, plan: Plan, step: Step, state: State, now: tuple[str, str] | None = None
) -> list[Decision]:
    """Return what the policy says of all that a step's attempt did, the strictest first; `now`: as for `permit.after`."""
    return permit.work_of(bench(project, seen, state, trusted_config(project)), plan, step, now)


def asked_after(
    project: Project, seen: Snapshot, plan: Plan, step: Step, state: State, now: tuple[str, str] | None = None
) -> list[Event]:
    """Return the event that asks for the first word that a step's work needs, none where it needs none.

    `now`: as for `permit.after`.
    """
    judged = bench(project, seen, state, trusted_config(project))
    for one in permit.after(judged, plan, step, now):
        began = judged.pieces(step.slug, now)[-1][0] if now else None
        return [AskApproval(one, judged.digest(one.subject, now[1] if now else seen.tip, plan, began=began)).event]
    return []


def _first(
    project: Project,
    seen: Snapshot,
    plan: Plan,
    state: State,
    step: Step,
    asked: Sequence[ApprovalRequirement],
    words: Sequence[Event],
    known: Sequence[log.RawEntry],
) -> AskApproval | None:
    judged = bench(project, seen, state, trusted_config(project))
    waits = {wait.id: wait for wait in seen.state.waiting}
    now = [subject_of(waits[one.wait], state, known) for one in words if isinstance(one, ev.ApprovalCounted)]
    one = permit.first(judged, plan, step, asked, now, known)
    if one is not None:
        _refuse_unreachable(judged, one)
    return AskApproval(one, judged.digest(one.subject, seen.tip, plan)) if one else None


def _refuse_unreachable(judged: ReviewContext, asked: ApprovalRequirement) -> None:
    """Refuse to wait for several people where too few are left once the authors are out: it would wait for ever.

    Raises:
        MalformedFileError: naming the policy's line.
    """
    found = judged.trusted
    wrote = {email.casefold() for commit in judged.authors(asked.subject) for email in commit.emails}
    for need in asked.thresholds if found.own_work != "allow" else ():
        out = need.people & wrote
        if need.count > 1 and len(need.people) - len(out) < need.count:
            assert found.policy is not None
            kind = "step" if asked.subject.kind == "result" else asked.subject.kind
            raise MalformedFileError(
                f"{asked.subject} needs approval by {need.who}, and `own_work: {found.own_work}` leaves out {', '.join(sorted(out))}, "
                "who wrote what is to be approved",
                found.policy.at("approvals", kind),
                f"list more people in the role, ask for fewer, or write `own_work: allow`, in {found.where}",
            )


def call_stands(project: Project, seen: Snapshot, plan: Plan, state: State, call: str, by: str) -> bool:
    """Return whether the word on a held call that an earlier transition counted still stands: a decision in the record is not
    signed, and the word may have ended since.

    Raises:
        UnreachableError: the remote that says whose word counts does not answer.
    """
    _refresh(project, seen.protocol)
    found = trusted_config(project)
    asked = requirements.of_call(found, call, int(call.split(".")[1]), "")
    if asked.keyboard:
        return by == requirements.KEYBOARD
    known = record.events(project.git, seen.protocol, seen.tip)
    held = {f"w{raw.revision}" for raw in known if raw.event == "call-held" and raw.fields.get("call") == call}
    decided = [raw for raw in known if raw.event == "call-decided" and raw.fields.get("wait") in held]
    judged = bench(project, seen, state, found)
    return bool(decided) and permit.judged_again(judged, asked, plan, decided[-1], known).satisfied
