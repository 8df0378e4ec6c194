"""Whether an approval requirement is met: the approvals in the branch, judged one by one (design §4).

An approval is a file below `approvals/` whose statement is signed. The statement alone decides; the commit that added it says only
when in the chain it came. `judge` serves live, with the present time, and `verify` for each event that used an approval, with the
time of that event. The conditions are checked in the order of `_CHECKS`; the first that fails is the rejection reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.protocol import approval_file, paths
from runner.protocol import events as ev
from runner.protocol.approval_file import Decision, Signed, Statement
from runner.protocol.strict_yaml import shown
from runner.trust import manifest, requirements
from runner.trust.transitions import ApprovalFile, RejectionReason, commit_of
from runner.trust.view import ApprovalRequest, View

if TYPE_CHECKING:
    from runner.git import Commit
    from runner.protocol.events import ReviewFields
    from runner.protocol.state import Wait
    from runner.trust.manifest import Subject
    from runner.trust.requirements import ApprovalRequirement

# By a signature's outcome; of any other, its key is not trusted.
_OF_SIGNATURES: dict[str, RejectionReason] = {
    "malformed": RejectionReason.BAD,
    "bad": RejectionReason.BAD,
    "revoked": RejectionReason.REVOKED_KEY,
}
_USED = "it was used before, and counts once"
_OVERTAKEN = "it is older than what the same person decided since"
AHEAD = 300  # seconds that a statement may have been issued after the present time: clocks differ


class Extent(NamedTuple):
    """Which changes make an approval stale.

    `begun`: the step started on it, and the tree has its own work by now, which does not count; `whole`: a later step caused a retry,
    so later steps' files count too.
    """

    begun: bool = False
    whole: bool = False


USUAL = Extent()  # any change of the subject


class _Case(NamedTuple):
    """A requirement in a view, for which approvals are judged."""

    view: View
    requirement: ApprovalRequirement
    extent: Extent


_Check = Callable[[_Case, ApprovalFile], ApprovalFile | None]


class Review(NamedTuple):
    """A review on the forge as far as git can judge it. `approver`: whose account it is, by the policy; else empty."""

    fields: ReviewFields
    approver: str
    rejection: RejectionReason | None = None
    text: str = ""  # why it does not count


class ApprovalStatus(NamedTuple):
    """How far an approval requirement is met. `counted`: approvals that count, one a person.

    `rejected`: rejections in force by people whose approval counts; `refused`: files on this subject that do not count, and why;
    `reviews`: those on the forge that were asked about, one a person where they count.
    """

    requirement: ApprovalRequirement
    counted: tuple[ApprovalFile, ...]
    rejected: tuple[ApprovalFile, ...]
    refused: tuple[ApprovalFile, ...]
    reviews: tuple[Review, ...] = ()

    @property
    def satisfied(self) -> bool:
        """Whether each required approval was given, and nobody rejected it."""
        return not self.rejected and not self.missing

    @property
    def missing(self) -> str:
        """The approvals that are still missing, as people read it; empty where there are none."""
        said = {approval.approver for approval in self.counted} | {
            one.approver for one in self.reviews if one.rejection is None
        }
        for need in self.requirement.thresholds:
            have = len(said & need.people)
            if have < need.count:
                return f"{need.who}, {have} so far" if need.count > 1 else need.who
        return ""


def judge(
    view: View,
    requirement: ApprovalRequirement,
    reviews: Sequence[ReviewFields] = (),
    asked: ApprovalRequest | None = None,
    again: Extent | None = None,
) -> ApprovalStatus:
    """Return how far a requirement is met in a view.

    `reviews`: as the forge reports them, of which git can judge whose they are and what they are about; `asked`: when the approval
    was requested, without which no review counts. `again`: which changes make an approval stale that was counted for the same action
    before; None: none was, and one that was used up does not count.
    """
    case = _Case(view, requirement, again or USUAL)
    used = _used(view, requirement.subject) if again is None else ()
    good: dict[str, ApprovalFile] = {}  # by person: the last one in the chain is in force
    since: dict[str, int] = {}  # by person: when the newest of their rejections and revocations was issued
    refused: list[ApprovalFile] = []
    for approval in view.approvals():
        if approval.signed is None:
            continue
        statement = approval.signed.statement
        if (statement.subject, statement.attempt) != (str(requirement.subject), requirement.subject.attempt):
            continue
        is_used = approval.id in used
        judged = approval.reject(RejectionReason.USED, _USED) if is_used else _judge(case, approval)
        before, newest = good.get(statement.approver), since.get(statement.approver, 0)
        if judged.rejection is None and statement.issued_at < newest and _frees(statement, before):
            judged = approval.reject(RejectionReason.OTHER, _OVERTAKEN)
        if judged.rejection is None:
            good[statement.approver] = judged
            if statement.decision is not Decision.APPROVE:
                since[statement.approver] = max(statement.issued_at, newest)
            continue
        refused.append(judged)
        newest = max(newest, before.statement.issued_at if before else 0)
        if before is None or judged.rejection not in _OVER or statement.issued_at < newest:
            continue  # an old approval that somebody kept, and adds now, replaces nothing
        if _judge(case, approval, _LASTING).rejection is None:
            del good[statement.approver]  # the person approved after it, whatever became of that approval
    standing = sorted(good.values(), key=lambda approval: approval.order)
    approved = [approval for approval in standing if approval.statement.decision is Decision.APPROVE]
    rejected = [approval for approval in standing if approval.statement.decision is Decision.REJECT]
    counted = _distinct(approved)
    people = {approval.approver for approval in counted}
    heard: list[Review] = []
    for fields in reviews:
        one = _judge_review(case, fields, asked)
        if one.rejection is None and one.approver in people:
            continue  # one person's approval counts once
        people |= {one.approver} if one.rejection is None else set()
        heard.append(one)
    return ApprovalStatus(requirement, tuple(counted), tuple(rejected), tuple(refused), tuple(heard))


def _used(view: View, subject: Subject) -> list[str]:
    """Return the approvals that were used up: one on a call counts once, one on a step's start for that start."""
    event = {"step": "approval-counted", "call": "call-decided"}.get(subject.kind)
    return (
        [one for raw in view.entries if raw.event == event for one in raw.fields.get("approvals") or []]
        if event
        else []
    )


def status_of(view: View, wait: Wait, reviews: Sequence[ReviewFields] = ()) -> ApprovalStatus | None:
    """Return the status of the approval that a wait is about; None where no approval is required any more.

    Raises:
        RefusedError: the policy denies the action that waits. MalformedFileError: it cannot be carried out.
    """
    subject = requirements.subject_of(view, wait)
    required = requirements.requirement_of(view, subject, wait.text)
    if required is None:
        return None
    if required.keyboard:  # given at a terminal, and recorded at once
        return ApprovalStatus(required, (), (), ())
    asked = ApprovalRequest.of(view, wait) if reviews else None
    return judge(view, required, reviews, asked)


def decided(wait: Wait, status: ApprovalStatus) -> ev.ApprovalCounted | ev.CallDecided | None:
    """Return the event that ends a wait by the approvals that count; None while one is missing, or where one was rejected.

    A rejection decides a call alone: its agent gets that as a result, and continues.
    """
    given = status.rejected or status.counted
    reviews = [one for one in status.reviews if one.rejection is None and not status.rejected]
    ids, said = [one.id for one in given], [one.fields for one in reviews]
    by = [one.approver for one in given] + [one.approver for one in reviews]
    if wait.kind == "call" and (status.satisfied or status.rejected):
        decision = "rejected" if status.rejected else "approved"
        return ev.CallDecided(
            subject=wait.subject, wait=wait.id, decision=decision, by=", ".join(by), approvals=ids, reviews=said
        )
    if status.satisfied:
        return ev.ApprovalCounted(subject=wait.subject, wait=wait.id, approvals=ids, by=by, reviews=said)
    return None


def _judge_review(case: _Case, fields: ReviewFields, asked: ApprovalRequest | None) -> Review:
    """Return what git can judge of a review: whose it is, that its subject is unchanged, and that they wrote none of it."""
    policy = case.view.trusted.policy
    people = policy.content.forge.get(fields["host"], {}) if policy else {}
    who = next((one for one, number in people.items() if number == fields["user"]), "")
    where, subject, seen = case.view.trusted.where, case.requirement.subject, fields["commit"]

    def faulty(fault: RejectionReason, text: str) -> Review:
        return Review(fields, who, fault, text)

    if not case.requirement.reviews:
        return faulty(RejectionReason.UNTRUSTED, f"no review counts here, by {where}")
    if not who:
        return faulty(
            RejectionReason.UNTRUSTED, f"account {fields['user']} of {fields['host']} is not in `forge:` of {where}"
        )
    if who in case.view.trusted.agents:
        return faulty(RejectionReason.AGENT, f"{who} is a runner or an agent")
    if not any(who in need.people for need in case.requirement.thresholds):
        return faulty(RejectionReason.ROLE, f"{who} is not {case.requirement.who}")
    if asked is None or asked.commit not in case.view.chain or seen not in case.view.chain:
        return faulty(RejectionReason.OTHER, f"the reviewed commit, {seen[:12]}, is no commit of the branch")
    if case.view.chain[seen] > case.view.chain[asked.commit]:
        return faulty(RejectionReason.STALE, f"it is of {seen[:12]}, before it was asked for")
    version = case.view.version_of(asked.digest, subject, seen) if asked.digest is not None else None
    touched = _touched(case, seen, version)
    if touched is not None:
        return faulty(RejectionReason.STALE, f"{shown(touched[1])} was changed since, by {touched[0][:12]}")
    if asked.digest is not None:
        if version is None:
            return faulty(RejectionReason.STALE, "the digest that the request named is not that of the reviewed commit")
        if _differs_now(case, seen, asked.digest, version):
            return faulty(RejectionReason.STALE, "it has changed since the approval was requested")
    why = _own_work(case, who)
    if why is not None:
        return faulty(RejectionReason.OWN_WORK, why)
    return Review(fields, who)


def foresee(view: View, requirement: ApprovalRequirement, signed: Signed, fingerprint: str) -> ApprovalFile:
    """Return an approval that is about to be given, with the reason why it would not count, if any."""
    case = _Case(view, requirement, USUAL)
    approval = ApprovalFile(signed.id, "", view.tip, len(view.approvals()), signed, fingerprint)
    for check in (_is_of_this, _is_issued, _is_timely, _is_in_role, _is_fresh, _is_of_others):
        judged = check(case, approval)
        if judged is not None and judged.rejection is not None:
            return judged
    said = signed.statement
    for other in view.approvals() if said.decision is Decision.APPROVE else ():
        then = other.signed.statement if other.signed else said
        is_same = (then.approver, then.subject, then.attempt) == (said.approver, said.subject, said.attempt)
        is_newer = then.decision is not Decision.APPROVE and said.issued_at < then.issued_at
        if is_same and is_newer and _judge(case, other).rejection is None:
            return approval.reject(RejectionReason.OTHER, _OVERTAKEN)
    return approval


def _frees(said: Statement, before: ApprovalFile | None) -> bool:
    """Return whether a decision lets start what the same person's earlier one holds back: an approval, or the end of a rejection."""
    is_rejected = before is not None and before.statement.decision is Decision.REJECT
    return said.decision is Decision.APPROVE or (said.decision is Decision.REVOKE and is_rejected)


def _distinct(approvals: Sequence[ApprovalFile]) -> list[ApprovalFile]:
    """Return the approvals of distinct people with distinct keys."""
    found: list[ApprovalFile] = []
    for approval in approvals:
        if all((approval.approver != other.approver and approval.fingerprint != other.fingerprint) for other in found):
            found.append(approval)
    return found


def _judge(case: _Case, approval: ApprovalFile, checks: Sequence[_Check] | None = None) -> ApprovalFile:
    """Return the approval with its rejection reason, if it has one. `checks`: those that are asked; None: all."""
    for check in _CHECKS if checks is None else checks:
        judged = check(case, approval)
        if isinstance(judged, ApprovalFile):
            approval = judged
            if approval.rejection is not None:
                return approval
    return approval


def _is_placed(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    """It came by a commit of the chain that adds approvals and changes nothing else, after what the person saw."""
    folder = f"{paths.folder(case.view.protocol)}/{paths.APPROVALS}"
    if case.view.approvals_in is not None:
        return None
    if approval.commit not in case.view.chain:
        return approval.reject(
            RejectionReason.MISPLACED, "no commit of the branch added it alone and for the first time"
        )
    commit = commit_of(case.view.git, approval.commit)
    changed = case.view.git.changed(commit.parents[0], commit.oid) if commit.parents else {}
    for path, (before, _) in changed.items():
        if not path.startswith(folder) or before is not None:
            return approval.reject(
                RejectionReason.MISPLACED, f"the commit that added it, {commit.oid[:12]}, changes {shown(path)} too"
            )
    seen = approval.statement.seen
    if seen not in case.view.chain:  # no approval can name a commit that comes after its own
        return approval.reject(
            RejectionReason.OTHER, f"the commit that they saw, {seen[:12]}, is no commit of the branch before it"
        )
    return None


def _is_of_this(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    """It speaks of this repository, this protocol, and this life of it."""
    statement = approval.statement
    for name, told, right in (
        ("repository", statement.repo, case.view.trusted.repo),
        ("protocol", statement.protocol, case.view.protocol),
        ("genesis", statement.genesis, case.view.state.genesis),
    ):
        if told != right:
            return approval.reject(RejectionReason.OTHER, f"it is about another {name}: {told}")
    return None


def _is_issued(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    statement = approval.statement
    if statement.issued_at > case.view.at + AHEAD:
        return approval.reject(RejectionReason.FUTURE, f"it is issued in the future: {statement.issued}")
    return None


def _is_timely(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    """It has not expired, if it is an approval. Time ends no rejection or revocation: an older approval would count again."""
    statement = approval.statement
    if statement.decision is not Decision.APPROVE:
        return None
    if statement.expires_at <= case.view.at:
        return approval.reject(RejectionReason.EXPIRED, f"it expired at {statement.expires}")
    if statement.expires_at - statement.issued_at > case.requirement.lasts:
        return approval.reject(
            RejectionReason.EXPIRED,
            f"it would last longer than {case.requirement.lasts // 3600} h, which policy.yaml allows",
        )
    return None


def _is_signed(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    signed, view = approval.signed, case.view
    assert signed is not None
    told, about = (signed.text, signed.signature), approval_file.NAMESPACE
    verdict = view.trusted.judge(*told, approval.approver, view.at, namespace=about, vouched=view.vouched)
    if verdict.outcome == "expired-key" and signed.statement.decision is not Decision.APPROVE:
        at = min(view.at, signed.statement.issued_at)  # the end of its key's time ends no rejection or revocation
        verdict = view.trusted.judge(*told, approval.approver, at, namespace=about, vouched=view.vouched)
    if verdict.ok:
        return ApprovalFile(approval.id, approval.path, approval.commit, approval.order, signed, verdict.fingerprint)
    return approval.reject(_OF_SIGNATURES.get(verdict.outcome, RejectionReason.UNTRUSTED), verdict.reason)


def _is_in_role(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    if not case.requirement.signed:
        return approval.reject(
            RejectionReason.UNTRUSTED, f"only reviews count here, no signed approvals, by {case.view.trusted.where}"
        )
    if approval.approver in case.view.trusted.agents:
        return approval.reject(RejectionReason.AGENT, f"{approval.approver} is a runner or an agent")
    if not any(approval.approver in need.people for need in case.requirement.thresholds):
        return approval.reject(RejectionReason.ROLE, f"{approval.approver} is not {case.requirement.who}")
    return None


def _is_fresh(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    """It names the subject as it is now, and nothing touched that since it was seen, even if the bytes came back.

    Its digest tells which version of the manifest that is; the rules are those of the version.
    """
    said, subject = approval.statement, case.requirement.subject
    if said.seen not in case.view.chain:
        return None  # `_is_seen` tells it
    version = case.view.version_of(said.digest, subject, said.seen)
    touched = _touched(case, said.seen, version)
    if touched is not None:
        oid, path = touched
        commit = commit_of(case.view.git, oid)
        line = commit.message.split(b"\n", 1)[0].decode("utf-8", "replace")[:60]
        return approval.reject(
            RejectionReason.STALE, f"{shown(path)} was changed since, by {oid[:12]} ({ascii(line)[1:-1]})"
        )
    if version is None:
        return approval.reject(
            RejectionReason.STALE, "its digest is not that of the commit that they saw, by the current trusted branch"
        )
    if version < manifest.VERSION and said.issued_at >= manifest.OLD_UNTIL:
        return approval.reject(
            RejectionReason.OTHER, f"it names a manifest of version {version}, which was given up before it was issued"
        )
    if _differs_now(case, said.seen, said.digest, version):
        return approval.reject(RejectionReason.STALE, "its digest is not that of the current content")
    return None


def _touched(case: _Case, seen: str, version: int | None) -> tuple[str, str] | None:
    """Return what touched the subject since it was seen, by the rules of a manifest's version: the newest where none is known."""
    by_people, whole, subject = case.extent.begun, case.extent.whole, case.requirement.subject
    known = version or manifest.VERSION
    return case.view.touched_since(subject, seen, version=known, by_people=by_people, whole=whole)


def _differs_now(case: _Case, seen: str, digest: str, version: int) -> bool:
    """Return whether the subject has another digest by now; asked where nothing has touched it.

    A plan loses the steps that are done. A step's own work is no change, nor is the base's where the policy says so.
    """
    view, subject = case.view, case.requirement.subject
    if case.extent.begun or subject.kind == "plan":
        return False
    if version > 1 and view.kept_base(subject, seen):
        return False
    return digest != view.digest_at(subject, view.tip, version)


def _is_of_others(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    """The approver wrote none of it: neither as author or committer, nor by the signature's key."""
    why = (
        _own_work(case, approval.approver, approval.fingerprint)
        if approval.statement.decision is Decision.APPROVE
        else None
    )
    return approval.reject(RejectionReason.OWN_WORK, why) if why is not None else None


def _own_work(case: _Case, approver: str, key: str = "") -> str | None:
    """Return how an approver may have written what they approve, where the policy minds; else None. `key`: they signed with it."""
    view, subject = case.view, case.requirement.subject
    if (commit := wrote(view, subject, approver, {key} - {""})) is not None:
        return f"{approver} wrote what it approves, in {commit.oid[:12]}"
    if (commit := unsigned(view, subject)) is not None:
        return f"{commit.oid[:12]} wrote what it approves and is not signed by a listed key"
    return None


def wrote(view: View, subject: Subject, person: str, keys: Collection[str] = ()) -> Commit | None:
    """Return a commit by which a person wrote the subject: as author or committer, or signed by one of their `keys` (fingerprints).

    None where they wrote none of it, or the policy does not mind (`own_work: allow`).
    """
    if view.trusted.own_work == "allow":
        return None
    for commit in view.authors(subject):
        if person in {email.casefold() for email in commit.emails}:
            return commit
        if keys and view.trusted.signing_key(view.git, commit) in keys:
            return commit
    return None


def unsigned(view: View, subject: Subject) -> Commit | None:
    """Return a commit that wrote the subject and does not prove by whom, where the policy wants that (`own_work: signed`)."""
    if view.trusted.own_work != "signed":
        return None
    return next((one for one in view.authors(subject) if not view.trusted.vouches_for(view.git, one, view.at)), None)


def _is_seen(case: _Case, approval: ApprovalFile) -> ApprovalFile | None:
    """Last, for else it is sound: what it is about can be looked at."""
    seen = approval.statement.seen
    if seen in case.view.chain:
        return None
    return approval.reject(RejectionReason.UNSEEN, f"the commit that they saw, {seen[:12]}, is not in this clone")


_CHECKS: tuple[_Check, ...] = (
    _is_placed,
    _is_of_this,
    _is_issued,
    _is_timely,
    _is_signed,
    _is_in_role,
    _is_fresh,
    _is_of_others,
    _is_seen,
)
_LASTING = tuple(check for check in _CHECKS if check is not _is_timely)
_OVER = (RejectionReason.EXPIRED, RejectionReason.USED)  # it counted once, or could have
