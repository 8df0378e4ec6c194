"""Fetch the reviews of a protocol's request on a forge, and count those that are approvals (design §4).

A review counts where it is its author's newest one, the author is a person of the policy's list who may write to the repository now
and wrote none of the subject, and the reviewed commit has the subject unchanged. `trust.approval` then judges whose it is by the
policy and which subject it is about, and everybody who verifies judges that again. A forge that does not answer stops nothing: signed
approvals count without it. How many approvals are needed, and by which role, is the policy's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from runner import forge as forges
from runner.protocol import ids
from runner.protocol.events import ReviewFields
from runner.trust import manifest
from runner.trust.view import ApprovalRequest, View

if TYPE_CHECKING:
    from runner.forge import Forge, Identity, Membership, Review
    from runner.protocol.state import Wait
    from runner.store.project import Session
    from runner.trust.requirements import ApprovalRequirement


class ReviewResult(NamedTuple):
    """The reviews that count: `approvals` as an event names them; `objections`: people of the role who ask for changes."""

    approvals: Sequence[ReviewFields] = ()
    objections: Sequence[str] = ()


NO_REVIEWS: Final = ReviewResult()


class Reason(StrEnum):
    """Why a review does not count."""

    BOT = "a bot's, or it is not known that a person gave it"
    UNLISTED = "its account is not in the policy's `forge:`"
    AGENT = "an agent's or a runner's"
    NO_ACCESS = "its author may not write to the repository"
    DISMISSED = "dismissed"
    OLDER_COMMIT = "of an older commit"
    COMMIT_UNKNOWN = "the forge does not report its commit"
    WROTE = "its author wrote part of what it is about"
    SUPERSEDED = "the same person reviewed again later"
    ONE_PERSON = "another account of the same person has counted"


class Counted(NamedTuple):
    """Reviews with the principal of each that counts: approvals, objections that block, and the others with the reason."""

    approvals: Mapping[str, Review]
    objections: Mapping[str, Review]
    refused: Sequence[tuple[Review, Reason]]


def count_reviews(
    reviews: Iterable[Review],
    *,
    principals: Mapping[Identity, str],
    agents: Collection[Identity],
    members: Mapping[Identity, Membership],
    fresh: Collection[str],
    authors: Collection[Identity],
) -> Counted:
    """Return which reviews count.

    `reviews`: oldest first; `principals`: the policy's people by their accounts; `fresh`: the commits that have the subject unchanged
    (the one that asked for approval, and later ones that only add approvals or entries to the record); `authors`: who wrote or pushed
    any of the subject. An account that `members` lacks may do nothing.
    """
    verdicts = [review for review in reviews if review.state is not forges.ReviewState.COMMENTED]
    newest = {review.by: review for review in verdicts}
    approvals: dict[str, Review] = {}
    objections: dict[str, Review] = {}
    refused: list[tuple[Review, Reason]] = []
    for review in verdicts:
        reason = None if newest[review.by] is review else Reason.SUPERSEDED
        reason = reason or _author_refused(review, principals, agents, members.get(review.by))
        if reason is None and review.state is forges.ReviewState.CHANGES and _in_force(review, fresh):
            # One of an unknown commit is in force on the forge, so it blocks.
            if review.commit is None or review.commit in fresh:
                objections[principals[review.by]] = review
                continue
            reason = Reason.OLDER_COMMIT
        reason = reason or _approval_refused(review, fresh, authors)
        if reason is None and principals[review.by] in approvals:
            reason = Reason.ONE_PERSON
        if reason is None:
            approvals[principals[review.by]] = review
        else:
            refused.append((review, reason))
    return Counted(approvals=approvals, objections=objections, refused=refused)


def _author_refused(
    review: Review, principals: Mapping[Identity, str], agents: Collection[Identity], member: Membership | None
) -> Reason | None:
    kinds = (review.by.kind, member.kind if member else None)
    if forges.AccountKind.BOT in kinds:
        return Reason.BOT
    if review.by in agents:
        return Reason.AGENT
    if review.by not in principals:
        return Reason.UNLISTED
    if member is None or member.access < forges.Access.WRITE:
        return Reason.NO_ACCESS
    return None if forges.AccountKind.PERSON in kinds else Reason.BOT


def _approval_refused(review: Review, fresh: Collection[str], authors: Collection[Identity]) -> Reason | None:
    if review.state is not forges.ReviewState.APPROVED or not _in_force(review, fresh):
        return Reason.DISMISSED
    if review.commit is None:
        return Reason.COMMIT_UNKNOWN
    if review.commit not in fresh:
        return Reason.OLDER_COMMIT
    return Reason.WROTE if review.by in authors else None


def _in_force(review: Review, fresh: Collection[str]) -> bool:
    """Return whether no person dismissed it: the forge itself also dismisses at a push that changes nothing of the subject."""
    return review.dismissed is None or (review.dismissed.commit is not None and review.dismissed.commit in fresh)


def fetch_reviews(
    session: Session,
    forge: Forge,
    view: View,
    requirement: ApprovalRequirement,
    wait: Wait | None,
) -> ReviewResult:
    """Return the reviews of the protocol's request that count for `requirement` at the tip, and report those that do not.

    `wait`: None for the merge, which no entry of the record asks for: it can be approved as soon as every step is done.
    """
    policy = view.trusted.policy
    people = policy.content.forge.get(forge.host, {}) if policy else {}
    asked = ApprovalRequest.of(view, wait) if wait else ApprovalRequest.at_end(view)
    if policy is None or not people or asked is None:
        return NO_REVIEWS
    fresh = _fresh(view, requirement, asked)
    principals = {forges.Identity(host=forge.host, id=one, login=""): who for who, one in people.items()}
    try:
        request = forge.request_of(ids.branch_of(session.project.pattern, view.protocol), view.state.base)
        if request is None or (wait is not None and request.state is not forges.RequestState.OPEN):
            return NO_REVIEWS
        found = forge.reviews(request.number)
        if not any(one.state is not forges.ReviewState.COMMENTED for one in found):
            return NO_REVIEWS
        authors = _authors(forge, view, requirement, request.number) if policy.content.own_work != "allow" else set()
        listed = {one.by for one in found if one.by in principals}
        members = {one: forge.membership(one) for one in listed}
    except forges.ForgeError as error:
        session.tell_once(f"reviews could not be read: {error.what}; signed approvals still count")
        return NO_REVIEWS
    if authors is None:
        session.tell_once(
            f"who pushed {requirement.subject} is no longer known, so no review counts; signed approvals do"
        )
    counted = count_reviews(
        found,
        principals=principals,
        agents={one for one, who in principals.items() if who in policy.content.agents},
        members=members,
        fresh=fresh,
        authors=listed if authors is None else authors,
    )
    for review, reason in counted.refused:
        if review.state is forges.ReviewState.APPROVED and reason is not Reason.SUPERSEDED:
            by = f"{review.by.login} (id {review.by.id})"
            session.tell_once(f"the review of {by} does not count for {requirement.subject}: {reason}")
    role = {who for need in requirement.thresholds for who in need.people}
    objections = [who for who in counted.objections if who in role]
    for who in objections:
        session.tell_once(f"{who} asks for changes in the request, which goes before approvals")
    approvals = [
        ReviewFields(host=forge.host, user=one.by.id, request=request.number, review=one.id, commit=one.commit or "")
        for one in counted.approvals.values()
    ]
    return ReviewResult(approvals, objections)


def _fresh(view: View, requirement: ApprovalRequirement, asked: ApprovalRequest) -> set[str]:
    """Return the commits that have the subject unchanged: back to the one that asked for approval, or to its last change."""
    subject, since = requirement.subject, asked.commit
    version = (view.version_of(asked.digest, subject, since) if asked.digest else None) or manifest.VERSION

    def changed_after(seen: str) -> bool:
        return view.touched_since(subject, seen, version=version) is not None

    touched = changed_after(since)
    found: set[str] = set()
    for oid, distance in view.chain.items():  # from the tip back
        if distance > view.chain[asked.commit]:
            break
        found.add(oid)
        if touched and changed_after(_before(view, oid)):
            break
    return found


def _before(view: View, oid: str) -> str:
    """Return the commit of the chain before one; the last one itself."""
    chain = list(view.chain)
    return chain[min(view.chain[oid] + 1, len(chain) - 1)]


def _authors(forge: Forge, view: View, requirement: ApprovalRequirement, number: int) -> set[Identity] | None:
    """Return the accounts that wrote or pushed any of the subject; a push whose branch is unknown counts as one.

    None where the forge reports no push for some of it: it only remembers so many.
    """
    written = {commit.oid for commit in view.authors(requirement.subject)}
    written = {oid for oid in written if not view.git.is_ancestor(oid, view.trusted.commit)}
    found: set[Identity] = set()
    if not written:
        return found
    for commit in forge.commits(number):
        if commit.oid in written:
            found |= {one for one in (commit.author, commit.committer) if one}
    left = set(written)
    for push in forge.pushes(forge.request(number).branch):
        if push.by in found and not left:
            continue
        brought = _brought(view, push.before, push.after, written)
        left -= brought
        if brought and push.by is not None:
            found.add(push.by)
    return None if left else found


def _brought(view: View, before: str | None, after: str | None, written: set[str]) -> set[str]:
    if after is None:
        return written if before is None else set()  # the forge does not report which; or the branch was deleted
    if view.git.commit(after) is None:
        return set()  # the branch was rewritten since
    stop = [f"^{before}"] if before is not None and view.git.commit(before) is not None else []
    out = view.git.run("rev-list", after, *stop, f"^{view.trusted.commit}").decode().split()
    return written.intersection(out)


def may_write(forge: Forge, who: Identity) -> bool:
    """Return whether an account is a person's and may write to the repository now."""
    member = forge.membership(who)
    kinds = (who.kind, member.kind)
    return (
        member.access >= forges.Access.WRITE
        and forges.AccountKind.PERSON in kinds
        and forges.AccountKind.BOT not in kinds
    )
