"""Whose word something needs, by the policy and by what the plan asks for: a step may ask for more than the policy, never less."""

from __future__ import annotations

from collections.abc import Sequence

from runner.errors import MalformedFileError, RefusedError
from runner.protocol import paths, strict_yaml
from runner.protocol.approval_file import LONGEST, LONGEST_CALL
from runner.protocol.plans import Approval, Plan, Step, seconds_of
from runner.trust.authority import Authority
from runner.trust.manifest import Subject
from runner.values import dataclass

KEYBOARD = "keyboard"  # who said it where there is no policy: somebody at a terminal


@dataclass(frozen=True, slots=True)
class Need:
    """So many distinct people out of these. `who`: as people read it, such as `a maintainer (alice, bob)`."""

    who: str
    people: frozenset[str]
    count: int


@dataclass(frozen=True, slots=True)
class Demand:
    """A word that is needed. `needs`: all of them; one person may serve several. `lasts`: seconds that a word may be valid.

    `text`: what waits, for people. `signed`: whether a signature counts; `reviews`: whether a review on the forge does.
    """

    subject: Subject
    needs: tuple[Need, ...]
    lasts: int
    text: str
    signed: bool = True
    reviews: bool = False

    @property
    def who(self) -> str:
        """Whose word it is, as people read it."""
        return " and ".join(dict.fromkeys(need.who for need in self.needs))

    @property
    def keyboard(self) -> bool:
        """Whether a question answered at a terminal is the word: where there is no policy."""
        return any(KEYBOARD in need.people for need in self.needs)


def of_plan(authority: Authority, plan: Plan, where: str) -> Demand | None:
    """Return the demand for a word on the plan, if one is needed.

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
    if not wanted and not authority.requires("plan"):
        return None
    at = f"{where}/{paths.PLAN}:{plan.lines.get('approval', 1)}"
    return _demand(authority, Subject("plan"), asked if wanted else None, "approval of the plan", at)


def of_start(authority: Authority, step: Step, where: str, *, loose: bool = False) -> Demand | None:
    """Return the demand for a word before a step starts, if one is needed. `loose`: as for `policy.evaluate`.

    Raises:
        RefusedError: the policy denies the step.
    """
    asked = step.header.approval
    decision = authority.start_of(step, loose=loose)
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
    return _demand(authority, Subject("step", step.slug), asked if wanted else None, "approval before it starts", at)


def of_result(authority: Authority, step: Step, attempt: int, where: str) -> Demand | None:
    """Return the demand for a word on a step's result, if one is needed."""
    asked = step.header.approval
    if asked is None or asked.when != "after":
        return None
    at = f"{where}/{step.file}:{step.lines.get('approval', 1)}"
    return _demand(authority, Subject("result", step.slug, attempt), asked, "approval of its result", at)


def of_changes(authority: Authority, slug: str, attempt: int, why: Sequence[str]) -> Demand | None:
    """Return the demand for a word on changes that somebody has to look at; `why`: which, and what says so."""
    if not why:
        return None
    more = f" and {len(why) - 3} more" if len(why) > 3 else ""
    text = f"approval of its changes: {'; '.join(why[:3])}{more}"
    return _demand(authority, Subject("protected-path", slug, attempt), None, text)


def of_call(authority: Authority, call: str, attempt: int, text: str) -> Demand:
    """Return the demand for a word on a held call."""
    return _demand(authority, Subject("call", call, attempt), None, text)


def of_merge(authority: Authority) -> Demand:
    """Return the demand for a word on the merge."""
    return _demand(authority, Subject("merge"), None, "approval of the merge")


def unasked(authority: Authority, subject: Subject) -> Demand:
    """Return the demand that a word on a plan serves although nobody asked for it yet."""
    return _demand(authority, subject, None, f"approval of the {subject.kind}")


def _demand(authority: Authority, subject: Subject, asked: Approval | None, text: str, where: str = "") -> Demand:
    longest = LONGEST_CALL if subject.kind == "call" else LONGEST
    if authority.policy is None:
        return Demand(subject, (Need("you, at a terminal", frozenset({KEYBOARD}), 1),), longest, text)
    kind = "step" if subject.kind == "result" else subject.kind
    rule = authority.approval(kind)
    needs = _needs(authority, kind, asked, where)
    return Demand(
        subject,
        needs,
        min(longest, seconds_of(rule.expires)),
        text,
        signed="signed" in rule.from_,
        reviews="review" in rule.from_,
    )


def _needs(authority: Authority, kind: str, asked: Approval | None, where: str) -> tuple[Need, ...]:
    """Return whose words are needed: each of them. A plan or step may ask for more, by roles and count, never for less.

    Raises:
        MalformedFileError: a role is not there or empty, or the count cannot be reached.
    """
    assert authority.policy is not None
    rule, known = authority.approval(kind), authority.policy.words.roles
    roles, count = (asked.roles, asked.count or 1) if asked else ((), 1)
    for role in roles:
        if not known.get(role):
            near = strict_yaml.nearest(role, [name for name, members in known.items() if members])
            hint = f"did you mean `{near}`?" if near else f"list its people under `roles` in {authority.where}"
            raise MalformedFileError(f"nobody is in the role `{role}`", where, hint)
    found = [_need(authority, rule.roles, max(rule.count, 1 if roles else count), where)]
    if roles and set(roles) != set(rule.roles):
        found.append(_need(authority, roles, count, where))
    elif roles:
        found = [_need(authority, rule.roles, max(rule.count, count), where)]
    return tuple(found)


def _need(authority: Authority, roles: Sequence[str], count: int, where: str) -> Need:
    assert authority.policy is not None
    from runner.protocol import policy_file

    people = policy_file.people(authority.policy.words, tuple(roles))
    if len(people) < count:
        could = f"{len(people)} could say yes" if people else "nobody is in a role that could give it"
        raise MalformedFileError(
            f"the word of {count} is needed here, and {could}" if count > 1 else f"a word is needed here, and {could}",
            where or authority.where,
            f"list people under `roles` in {authority.where}, or ask for fewer",
        )
    names = ", ".join(_short(people))
    role = " or ".join(roles) if roles else "person with a role"
    article = "an" if role[0] in "aeiou" else "a"
    return Need(
        f"{article} {role} ({names})" if count == 1 else f"{count} of {role} ({names})", frozenset(people), count
    )


def _short(people: Sequence[str]) -> list[str]:
    """Return people by what stands before the @, where that tells them apart."""
    short = [person.partition("@")[0] for person in people]
    return short if len(set(short)) == len(short) else list(people)
