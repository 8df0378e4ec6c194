"""Whether an action is allowed, or whose approval it needs (design §4).

`permit` is asked live before a step acts, and again with what that led to (`executor.permissions`), by the policy and the time of now.
`verify` asks it of every transition that did something (`rules.permissions`), by those of then. Approvals that a transition itself
counts are judged by `approval.status_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.errors import RefusedError
from runner.protocol.machine import AskPerson, CheckStep, CompleteStep, RunStep, TakeWork
from runner.protocol.plans import Plan, Step, StepKind
from runner.protocol.state import OF_WORK, StepStatus, Wait
from runner.trust import approval, policy, requirements, transitions
from runner.trust.view import ApprovalRequest, View

if TYPE_CHECKING:
    from runner.protocol.events import ReviewFields
    from runner.protocol.log import RawEntry
    from runner.trust.approval import ApprovalStatus, Extent
    from runner.trust.manifest import Subject
    from runner.trust.policy import Decision
    from runner.trust.requirements import ApprovalRequirement
    from runner.trust.transitions import StillValid
    from runner.trust.trusted_config import TrustedConfig

StepAction = RunStep | AskPerson | TakeWork | CheckStep | CompleteStep


class Allowed(NamedTuple):
    """Nothing is missing. `relies`: on an approval that an earlier transition counted."""

    relies: bool = False


class Ask(NamedTuple):
    """An approval is missing that is required. `relies`: as for `Allowed`; it may be that one which is no longer valid."""

    requirement: ApprovalRequirement
    relies: bool = False


class Denied(NamedTuple):
    """The policy denies it. `where`: the rule's line; `hint`: what a person can do."""

    what: str
    where: str
    hint: str

    @classmethod
    def by(cls, said: Decision, what: str, hint: str) -> Denied:
        """Return the denial of `what` by a rule."""
        why = f": {said.reason}" if said.reason else ""
        return cls(f"the policy does not allow {what} by `{said.rule}`{why}", said.where, hint)

    @property
    def error(self) -> RefusedError:
        """The error that refuses it."""
        return RefusedError(self.what, self.where, self.hint)


class ActionResult(NamedTuple):
    """The result of an action. `work`: (before, after) of changes that are not on the branch yet; None: all of the attempt's are.

    `then`: the step is `done` by it, its QA follows (`checked`), or it `waits` for a person.
    """

    work: tuple[str, str] | None
    then: Literal["done", "checked", "waits"] = "done"


Verdict = Allowed | Ask | Denied


def permit(view: View, action: StepAction, result: ActionResult | None = None) -> Verdict:
    """Return whether an action on a step is allowed: without `result`, before it acts; with it, whether that may be recorded.

    Work that needs an approval is not on the branch while its step waits: people approve all of it at once, when it is done.

    Raises:
        MalformedFileError: an approval is required that cannot be given.
    """
    step = view.step(action.slug)
    found: list[ApprovalRequirement] = []
    if result is None:
        try:
            found += before(view, step)
        except RefusedError as error:
            return Denied(error.what, error.where, error.hint)
    if result is not None or isinstance(action, CompleteStep):
        ended = result or ActionResult(None)
        said = _judge_work(view, step, ended.work)
        if said and said[0].verdict == "deny":
            return Denied.by(said[0], f"the changes of {step.slug}", "revert them, or change the policy")
        if said and ended.then == "waits":
            return Denied.by(
                said[0], f"the changes of {step.slug}, without an approval,", "wait until the step is done"
            )
        if ended.then == "done":
            found += _after(view, step, said)
    relies = False
    is_seen = result is None or result.work is None  # nobody has seen work that is not on the branch
    for one in found:
        given = counted(one.subject, view.entries)
        relies = relies or bool(given)
        if not is_seen or not (one.subject in view.granted or (given and _is_valid(view, one, step, given[-1]))):
            return Ask(one, relies)
    return Allowed(relies)


def merge_status(view: View, reviews: Sequence[ReviewFields] = ()) -> ApprovalStatus:
    """Return the status of the approval of a completed protocol's merge, whether the policy requires one or not."""
    asked = ApprovalRequest.at_end(view) if reviews else None
    return approval.judge(view, requirements.of_merge(view.trusted), reviews, asked)


def executor(found: TrustedConfig, name: str) -> Verdict:
    """Return whether commands may run on an executor: host, container or sandbox."""
    word = name.partition("+")[0]
    said = policy.evaluate(found.rules, policy.Subject(kind="isolation", isolation=word))  # type: ignore[arg-type]
    return _unless_allowed(said, f"the executor `{name}`", "use `--executor sandbox`, or change the policy")


def engine(found: TrustedConfig, name: str, step: str | None) -> Verdict:
    """Return whether a model may be asked, for a step or for none."""
    said = policy.evaluate(found.rules, policy.Subject(kind="engine", engine=name, step=step))
    return _unless_allowed(said, f"the engine `{name}`", "use another `--engine`, or change the policy")


def refuse_denied(verdict: Verdict) -> None:
    """Refuse what the policy denies.

    Raises:
        RefusedError: naming the rule.
    """
    if isinstance(verdict, Denied):
        raise verdict.error


def _unless_allowed(said: Decision, what: str, hint: str) -> Verdict:
    return Allowed() if said.verdict == "allow" else Denied.by(said, what, hint)


# --- what is required ------------------------------------------------------------------------------------------------------


def before(view: View, step: Step) -> list[ApprovalRequirement]:
    """Return the approvals that any action on a step requires.

    Raises:
        RefusedError: the policy denies the step. MalformedFileError: the plan asks for an approval that cannot be given.
    """
    assert view.plan is not None
    asked = (
        requirements.of_plan(view.trusted, view.plan, view.where),
        requirements.of_start(view.trusted, step, view.where, loose=view.loose),
    )
    return [one for one in asked if one]


def _judge_work(view: View, step: Step, work: tuple[str, str] | None) -> list[Decision]:
    """Return what of a step's work is denied, or requires an approval, the strictest first. `work`: as in `Result`."""
    assert view.plan is not None
    known = view.state.steps.get(step.slug)
    anew = known is None or known.status is StepStatus.PENDING
    pieces = [work] if anew and work else view.pieces(step.slug, work)
    return view.trusted.work_of(view.git, view.protocol, pieces, view.plan, step, loose=view.loose)


def _after(view: View, step: Step, said: Sequence[Decision]) -> list[ApprovalRequirement]:
    """Return the approvals that a step's work requires before the step is done. `said`: what the policy says of the work."""
    known = view.state.steps.get(step.slug)
    attempt = known.attempt if known else 1
    asked = (
        requirements.of_changes(
            view.trusted, step.slug, attempt, [f"{one.reason or one.rule} ({one.rule})" for one in said]
        ),
        requirements.of_result(view.trusted, step, attempt, view.where),
    )
    return [one for one in asked if one]


# --- what is given ---------------------------------------------------------------------------------------------------------


def _is_valid(view: View, one: ApprovalRequirement, step: Step, told: RawEntry) -> bool:
    """Return whether an approval that an earlier transition counted is still valid for the next action on `step`."""
    if told.revision in view.branch.doubted:
        return True  # rule 20 of verify has reported it
    if one.subject.kind != "plan":
        return _still_covers(view, one, step, told)
    if _is_unchanged(view, one.subject, told):
        return True
    if not _still_covers(view, one, step, told):
        return False
    if view.state.steps[step.slug].status in ("pending", "running") and step.header.kind is not StepKind.HUMAN:
        view.branch.still_valid = _still_valid(view, told)  # all of the plan was judged, not the rest after its step
    return True


def _still_covers(view: View, one: ApprovalRequirement, step: Step, told: RawEntry) -> bool:
    """Return whether an approval covers the next action on `step`, by all that happened since an entry counted it."""
    assert view.plan is not None
    last, then = told.revision, view.state.steps[step.slug]
    is_there = then.status is StepStatus.NEEDS_QA or (
        then.status is StepStatus.RUNNING and step.header.kind is StepKind.HUMAN
    )
    if one.subject.kind in ("plan", "step") and is_there:
        # Its work changed the tree, as it was to: what is still to come is what its files say of checks and of the end.
        return view.touched_by_people(one.subject, last, view.files_of(step.slug)) is None
    if one.subject.kind == "step" and not _covers(one.subject, view.plan, view.entries, last):
        return False
    if one.keyboard:
        return view.touched_by_people(one.subject, last) is None
    begun = one.subject.kind == "step" and (then.attempt > 1 or then.status is not StepStatus.PENDING)
    back = begun and _brought_back(one.subject, view.entries, last)
    return judged_again(view, one, told, approval.Extent(begun, back)).satisfied


def _still_valid(view: View, told: RawEntry) -> StillValid:
    named = told.fields.get("approvals") or []
    ends = [one.signed.statement.expires_at for one in view.approvals() if one.signed and one.id in named]
    return transitions.StillValid(
        told.revision, view.trusted.commit, view.approvals_tree, min(ends, default=2**63), view.tip
    )


def _is_unchanged(view: View, subject: Subject, told: RawEntry) -> bool:
    """Return whether nothing has changed since the plan's approvals were valid for an earlier action: each step asks again."""
    before = view.branch.still_valid
    if before is None or view.at >= before.until:
        return False
    if (before.revision, before.trusted, before.approvals) != (
        told.revision,
        view.trusted.commit,
        view.approvals_tree,
    ):
        return False
    past, start, end = view.branch, view.branch.positions[before.commit], view.branch.positions[view.tip]
    for place in range(start + 1, end + 1):
        changed = view.git.changed(past.order[place - 1], past.order[place])
        if any(view.covers(subject, path) for path in changed):
            return False
    if start <= end:
        past.still_valid = before._replace(commit=view.tip)
    return start <= end


def judged_again(view: View, one: ApprovalRequirement, told: RawEntry, extent: Extent | None = None) -> ApprovalStatus:
    """Return how far a requirement is met by now for which an earlier transition counted approvals or reviews."""
    reviews, asked = told.fields.get("reviews") or (), None
    if reviews:
        raw = next(one for one in view.entries if f"w{one.revision}" == told.fields.get("wait"))
        words = {key: str(raw.fields.get(key)) for key in ("digest", "text", "by")}
        wait = Wait(id=f"w{raw.revision}", kind=one.subject.kind, subject=raw.subject, since=raw.time, **words)
        asked = ApprovalRequest.of(view, wait)
    return approval.judge(view, one, reviews, asked, extent or approval.USUAL)


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
        elif raw.event == "step-finished" and subject.kind in OF_WORK:
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
    back, most = failed.retries
    first, again = plan.step(back) or failed, plan.step(retried.subject)
    between = again is not None and first.number <= again.number <= failed.number
    return between and int(retried.fields["attempt"]) <= most + 1
