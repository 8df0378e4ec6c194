"""Which approvals a step requires by the policy and the plan, and whether one that was counted is still valid (design §4).

Asked live before anything is done (`executor.permissions`), with the policy and the time of now, and by `verify` for every transition
that did something (`rules.permissions`), with those of then. Approvals that the transition itself counts are judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from runner.errors import RefusedError
from runner.protocol.log import RawEntry
from runner.protocol.plans import Kind, Plan, Step
from runner.protocol.state import StepStatus, Wait
from runner.trust import approval, requirements
from runner.trust.approval import USUAL, ApprovalStatus, Extent
from runner.trust.manifest import Subject
from runner.trust.policy import Decision
from runner.trust.requirements import ApprovalRequirement
from runner.trust.view import ApprovalRequest, View


def before(view: View, step: Step, *, loose: bool = False) -> list[ApprovalRequirement]:
    """Return the approvals that any action on a step requires. `loose`: as for `policy.evaluate`.

    Raises:
        RefusedError: the policy denies the step. MalformedFileError: the plan asks for an approval that cannot be given.
    """
    assert view.plan is not None
    found = view.trusted
    return [
        one
        for one in (
            requirements.of_plan(found, view.plan, view.where),
            requirements.of_start(found, step, view.where, loose=loose),
        )
        if one
    ]


def work_of(view: View, step: Step, now: tuple[str, str] | None = None) -> list[Decision]:
    """Return what the policy says of all that a step's attempt did, the strictest first; `now`: as for `after`."""
    assert view.plan is not None
    known = view.state.steps.get(step.slug)
    anew = known is None or known.status is StepStatus.PENDING
    pieces = [now] if anew and now else view.pieces(step.slug, now)
    return view.trusted.work_of(view.git, view.protocol, pieces, view.plan, step)


def after(view: View, step: Step, now: tuple[str, str] | None = None) -> list[ApprovalRequirement]:
    """Return the approvals that a step's work requires before the step is done.

    `now`: the (before, after) of the work that is not on the branch yet; None where all of it is.

    Raises:
        RefusedError: the policy denies the changes.
    """
    found, known = view.trusted, view.state.steps.get(step.slug)
    attempt = known.attempt if known else 1
    said = work_of(view, step, now)
    if said and said[0].verdict == "deny":
        why = f": {said[0].reason}" if said[0].reason else ""
        raise RefusedError(
            f"the policy does not allow the changes of {step.slug} by `{said[0].rule}`{why}",
            said[0].where,
            "revert them, or change the policy",
        )
    why_asked = [f"{one.reason or one.rule} ({one.rule})" for one in said]
    asked = (
        requirements.of_changes(found, step.slug, attempt, why_asked),
        requirements.of_result(found, step, attempt, view.where),
    )
    return [one for one in asked if one]


def first(
    view: View, step: Step, asked: Sequence[ApprovalRequirement], now: Collection[Subject]
) -> ApprovalRequirement | None:
    """Return the first requirement without a valid approval. `now`: subjects whose approvals this transition itself counts."""
    return next((one for one in asked if one.subject not in now and not stands(view, one, step)), None)


def stands(view: View, one: ApprovalRequirement, step: Step) -> bool:
    """Return whether an approval that an earlier transition counted is still valid for the next action on `step`."""
    assert view.plan is not None
    told = counted(one.subject, view.entries)
    if not told:
        return False
    last, then = told[-1].revision, view.state.steps[step.slug]
    is_there = then.status is StepStatus.NEEDS_QA or (
        then.status is StepStatus.RUNNING and step.header.kind is Kind.HUMAN
    )
    if one.subject.kind in ("plan", "step") and is_there:
        # Its work changed the tree, as it was to: what is still to come is what its words say of checks and of the end.
        return view.touched_by_people(one.subject, last, view.words_of(step.slug)) is None
    if one.subject.kind == "step" and not _covers(one.subject, view.plan, view.entries, last):
        return False
    if one.keyboard:
        return view.touched_by_people(one.subject, last) is None
    begun = one.subject.kind == "step" and (then.attempt > 1 or then.status is not StepStatus.PENDING)
    back = begun and _brought_back(one.subject, view.entries, last)
    return judged_again(view, one, told[-1], Extent(begun, back)).satisfied


def judged_again(view: View, one: ApprovalRequirement, told: RawEntry, extent: Extent = USUAL) -> ApprovalStatus:
    """Return how far a requirement is met by now for which an earlier transition counted approvals or reviews."""
    reviews, asked = told.fields.get("reviews") or (), None
    if reviews:
        raw = next(one for one in view.entries if f"w{one.revision}" == told.fields.get("wait"))
        words = {key: str(raw.fields.get(key)) for key in ("digest", "text", "by")}
        wait = Wait(id=f"w{raw.revision}", kind=one.subject.kind, subject=raw.subject, since=raw.time, **words)
        asked = ApprovalRequest.of(view, wait)
    return approval.judge(view, one, (), reviews, asked, extent)


def counted(subject: Subject, known: Iterable[RawEntry]) -> list[RawEntry]:
    """Return the entries that counted approvals on the subject; of an attempt's result, those after its work."""
    asked: set[str] = set()
    found: list[RawEntry] = []
    about = subject.slug or subject.kind
    for raw in known:
        if raw.subject != about:
            continue
        if raw.event == "approval-asked" and raw.fields.get("kind") == subject.kind:
            asked.add(f"w{raw.revision}")
        elif raw.event == "approval-counted" and raw.fields.get("wait") in asked:
            found.append(raw)
        elif raw.event == "step-finished" and subject.kind in ("result", "protected-path"):
            found.clear()
    return found


def _covers(subject: Subject, plan: Plan, known: Sequence[RawEntry], revision: int) -> bool:
    """Return whether `on_failure` made every retry since an approval counted: no undo, and no person's retry."""
    since = [raw for raw in known if raw.revision >= revision]
    failed: Step | None = None
    for raw in since:
        if raw.event == "step-failed":
            failed = plan.step(raw.subject)
        elif raw.event != "step-retried":
            failed = None
        elif raw.subject == subject.slug and not _makes(plan, failed, raw):
            return False
        if raw.event == "undone":  # an edit is a commit of people's, which makes the word stale
            return False
    return True


def _brought_back(subject: Subject, known: Sequence[RawEntry], revision: int) -> bool:
    """Return whether another step's failure caused a retry since the approval counted: that step's file says so."""
    failed = ""
    for raw in known:
        if raw.revision < revision:
            continue
        if raw.event == "step-failed":
            failed = raw.subject
        elif raw.event == "step-retried" and raw.subject == subject.slug and failed != subject.slug:
            return True
    return False


def _makes(plan: Plan, failed: Step | None, retried: RawEntry) -> bool:
    """Return whether the `on_failure` of a step that failed makes this retry."""
    if failed is None:
        return False
    first, most = failed, failed.on_failure.retry
    if failed.goto is not None:
        first, most = plan.step(failed.goto) or failed, failed.on_failure.limit or 1
    again = plan.step(retried.subject)
    between = again is not None and first.number <= again.number <= failed.number
    return between and int(retried.fields["attempt"]) <= most + 1
