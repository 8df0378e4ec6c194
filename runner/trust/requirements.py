"""Approval requirements: who has to approve, by the policy and the plan. A step may ask for more than the policy, never less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import MalformedFileError, RefusedError
from runner.lines import few
from runner.protocol import approval_file, paths, policy_file
from runner.protocol.file_models import meant
from runner.protocol.plans import Approval, Plan, Step, seconds_of
from runner.protocol.state import OF_NO_STEP, Wait
from runner.trust.manifest import Subject

if TYPE_CHECKING:
    from runner.trust.trusted_config import TrustedConfig
    from runner.trust.view import View

KEYBOARD = "keyboard"  # who said it where there is no policy: somebody at a terminal


@dataclass(frozen=True, slots=True)
class Threshold:
    """So many distinct people out of these. `who`: as people read it, such as `a maintainer (alice, bob)`."""

    who: str
    people: frozenset[str]
    count: int

    def implies(self, other: Threshold) -> bool:
        """Return whether those who meet this one meet the other."""
        return self.people <= other.people and self.count >= other.count


class ApprovalRequirement(NamedTuple):
    """An approval that is required. `thresholds`: all of them; one person may serve several. `lasts`: seconds that one may be valid.

    `text`: the action that waits, for people. `signed`: whether a signature counts; `reviews`: whether a review on the forge does.
    """

    subject: Subject
    thresholds: tuple[Threshold, ...]
    lasts: int
    text: str
    signed: bool = True
    reviews: bool = False

    @property
    def binding(self) -> tuple[Threshold, ...]:
        """The thresholds without those that another one implies."""
        every = self.thresholds
        return tuple(
            one
            for at, one in enumerate(every)
            if not any(more.implies(one) and (not one.implies(more) or every.index(more) > at) for more in every)
        )

    @property
    def who(self) -> str:
        """The people who can approve, as people read it."""
        return " and ".join(dict.fromkeys(one.who for one in self.binding))

    @property
    def keyboard(self) -> bool:
        """Whether an answer at a terminal is the approval: where there is no policy."""
        return any(KEYBOARD in need.people for need in self.thresholds)


def of_plan(trusted: TrustedConfig, plan: Plan, where: str) -> ApprovalRequirement | None:
    """Return the requirement of an approval of the plan, or None.

    Raises:
        MalformedFileError: the plan asks for one afterwards.
    """
    asked = plan.header.approval
    if asked is not None and asked.when == "after":
        line = plan.lines.get("approval", 1)
        raise MalformedFileError(
            "`approval: after` has no meaning for a plan",
            f"{where}/{paths.PLAN}:{line}",
            "write `approval: before` here, or `approval: after` in a step",
        )
    wanted = asked is not None and asked.when == "before"
    if not wanted and not trusted.requires("plan"):
        return None
    at = f"{where}/{paths.PLAN}:{plan.lines.get('approval', 1)}"
    return _requirement(trusted, Subject("plan"), asked if wanted else None, "approval of the plan", at)


def of_start(trusted: TrustedConfig, step: Step, where: str, *, loose: bool = False) -> ApprovalRequirement | None:
    """Return the requirement of an approval before a step starts, or None. `loose`: as for `policy.evaluate`.

    Raises:
        RefusedError: the policy denies the step.
    """
    asked = step.header.approval
    decision = trusted.start_of(step, loose=loose)
    if decision.verdict == "deny":
        why = f": {decision.reason}" if decision.reason else ""
        raise RefusedError(
            f"the policy denies the step {step.slug} by `{decision.rule}`{why}",
            decision.where,
            "change the policy on the trusted branch, or take the step out of the plan",
        )
    wanted = asked is not None and asked.when == "before"
    if not wanted and decision.verdict != "ask":
        return None
    at = f"{where}/{step.file}:{step.lines.get('approval', 1)}"
    return _requirement(trusted, Subject("step", step.slug), asked if wanted else None, "approval before it starts", at)


def of_result(trusted: TrustedConfig, step: Step, attempt: int, where: str) -> ApprovalRequirement | None:
    """Return the requirement of an approval of a step's result, or None."""
    asked = step.header.approval
    if asked is None or asked.when != "after":
        return None
    at = f"{where}/{step.file}:{step.lines.get('approval', 1)}"
    return _requirement(trusted, Subject("result", step.slug, attempt), asked, "approval of its result", at)


def of_changes(trusted: TrustedConfig, slug: str, attempt: int, why: Sequence[str]) -> ApprovalRequirement | None:
    """Return the requirement of an approval of changes; `why`: which changes, and the rule for each. None without any."""
    if not why:
        return None
    text = f"approval of its changes: {few(why, between='; ')}"
    return _requirement(trusted, Subject("protected-path", slug, attempt), None, text)


def of_call(trusted: TrustedConfig, call: str, attempt: int, text: str) -> ApprovalRequirement:
    """Return the requirement of an approval of a held call."""
    return _requirement(trusted, Subject("call", call, attempt), None, text)


def of_merge(trusted: TrustedConfig) -> ApprovalRequirement:
    """Return the requirement of an approval of the merge."""
    return _requirement(trusted, Subject("merge"), None, "approval of the merge")


def unasked(trusted: TrustedConfig, subject: Subject) -> ApprovalRequirement:
    """Return the requirement that an approval of the plan meets although nothing has asked for it yet."""
    return _requirement(trusted, subject, None, f"approval of the {subject.kind}")


def _requirement(
    trusted: TrustedConfig, subject: Subject, asked: Approval | None, text: str, where: str = ""
) -> ApprovalRequirement:
    longest = approval_file.LONGEST_CALL if subject.kind == "call" else approval_file.LONGEST
    if trusted.policy is None:
        return ApprovalRequirement(subject, (Threshold("you, at a terminal", frozenset({KEYBOARD}), 1),), longest, text)
    kind = "step" if subject.kind == "result" else subject.kind
    rule = trusted.approval(kind)
    needs = _needs(trusted, kind, asked, where)
    return ApprovalRequirement(
        subject,
        needs,
        min(longest, seconds_of(rule.expires)),
        text,
        signed="signed" in rule.from_,
        reviews="review" in rule.from_,
    )


def _needs(trusted: TrustedConfig, kind: str, asked: Approval | None, where: str) -> tuple[Threshold, ...]:
    """Return the thresholds, all of which have to be met. A plan or step may ask for more, by roles and count, never for less.

    Raises:
        MalformedFileError: a role is not there or empty, or the count cannot be reached.
    """
    assert trusted.policy is not None
    rule, known = trusted.approval(kind), trusted.policy.content.roles
    roles, count = (asked.roles, asked.count or 1) if asked else ((), 1)
    for role in roles:
        if not known.get(role):
            manned = [name for name, members in known.items() if members]
            hint = meant(role, manned, f"list its people under `roles` in {trusted.where}")
            raise MalformedFileError(f"nobody is in the role `{role}`", where, hint)
    found = [_need(trusted, rule.roles, max(rule.count, 1 if roles else count), where)]
    if roles and set(roles) != set(rule.roles):
        found.append(_need(trusted, roles, count, where))
    elif roles:
        found = [_need(trusted, rule.roles, max(rule.count, count), where)]
    return tuple(found)


def _need(trusted: TrustedConfig, roles: Sequence[str], count: int, where: str) -> Threshold:
    assert trusted.policy is not None

    people = policy_file.people(trusted.policy.content, tuple(roles))
    if len(people) < count:
        could = f"{len(people)} could approve" if people else "nobody is in a role that could give it"
        raise MalformedFileError(
            f"{count} approvals are required here, and {could}"
            if count > 1
            else f"an approval is required here, and {could}",
            where or trusted.where,
            f"list people under `roles` in {trusted.where}, or ask for fewer",
        )
    names = ", ".join(_short(people))
    role = " or ".join(roles) if roles else "person with a role"
    article = "an" if role[0] in "aeiou" else "a"
    return Threshold(
        f"{article} {role} ({names})" if count == 1 else f"{count} of {role} ({names})", frozenset(people), count
    )


def _short(people: Sequence[str]) -> list[str]:
    """Return people by the part before the @, where that is unique."""
    short = [person.partition("@")[0] for person in people]
    return short if len(set(short)) == len(short) else list(people)


# --- what waits in the record ----------------------------------------------------------------------------------------


def subject_of(view: View, wait: Wait) -> Subject:
    """Return the subject of a wait; a held call's name is in the log entry that the wait is named after."""
    if wait.kind == "call":
        call = next(str(raw.fields.get("call")) for raw in view.entries if f"w{raw.revision}" == wait.id)
        return Subject("call", call, int(call.split(".")[1]))
    if wait.kind in OF_NO_STEP:
        return Subject(wait.kind)
    attempt = view.state.steps[wait.subject].attempt if wait.kind != "step" else 0
    return Subject(wait.kind, wait.subject, attempt)


def requirement_of(view: View, subject: Subject, text: str) -> ApprovalRequirement | None:
    """Return the requirement that a wait on the subject is for; None where nothing asks for it any more. `text`: the wait's.

    Raises:
        RefusedError: the policy denies the action that waits. MalformedFileError: it cannot be carried out.
    """
    found, plan = view.trusted, view.plan
    assert plan is not None
    step = plan.step(subject.slug) if subject.slug else None
    match subject.kind:
        case "plan":
            return of_plan(found, plan, view.where)
        case "call":
            return of_call(found, subject.name, subject.attempt, text)
        case "merge":
            return of_merge(found)
        case "protected-path":
            return of_changes(found, subject.name, subject.attempt, [text])
        case _ if step is None:
            return None
        case "step":
            return of_start(found, step, view.where)
        case _:
            return of_result(found, step, subject.attempt, view.where)
