"""Whose review counts (design §4): pure, from what the forge told to who approved and who objects, each with its reason.

Each person's last word stands. It counts where a person of the policy's list gave it, who may write to the repository now and
wrote none of what they approve, about a commit at which what waits stood as it stands now. How many are needed, and of which
role, is the policy's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from runner.forge.base import Access, Identity, Kind, Membership, Review, ReviewState
from runner.values import dataclass


class Why(StrEnum):
    """Why a review does not count."""

    BOT = "a bot's, or it is not known that a person gave it"
    UNLISTED = "its account is not in the policy's `forge:`"
    AGENT = "an agent's or a runner's"
    NO_ACCESS = "its author may not write to the repository"
    DISMISSED = "dismissed"
    OLDER_COMMIT = "of an older commit"
    COMMIT_UNKNOWN = "the forge does not tell of which commit"
    WROTE = "its author wrote part of what it is about"
    SUPERSEDED = "the same person said something later"
    ONE_PERSON = "another account of the same person has counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A review that counts, and the principal of the policy whose it is."""

    principal: str
    review: Review


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A review that does not count."""

    review: Review
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Approvals that count, standing requests for changes that block, and everything else with its reason."""

    approvals: tuple[Word, ...]
    objections: tuple[Word, ...]
    refused: tuple[Refused, ...]


def counting(
    reviews: Iterable[Review],
    *,
    principals: Mapping[Identity, str],
    agents: Collection[Identity],
    standings: Mapping[Identity, Membership],
    fresh: Collection[str],
    wrote: Collection[Identity],
) -> Counted:
    """Return which reviews count.

    `reviews` in the order in which they were given; `principals`: the policy's people by their accounts; `fresh`: the commits
    at which what waits stood as it stands now (the one that asked, and those after it that only add approvals or record);
    `wrote`: who wrote or pushed any of it. An account that `standings` lacks may do nothing.
    """
    words = [review for review in reviews if review.state is not ReviewState.COMMENTED]
    last = {review.by: index for index, review in enumerate(words)}
    approvals: dict[str, Word] = {}
    objections: dict[str, Word] = {}
    refused: list[Refused] = []
    for index, review in enumerate(words):
        why = None if last[review.by] == index else Why.SUPERSEDED
        why = why or _not_a_word(review, principals, agents, standings)
        if why is None and review.state is ReviewState.CHANGES and _stands(review, fresh):
            # Of a commit that nobody knows: it still stands on the forge, so it is not passed over.
            if review.commit is None or review.commit in fresh:
                objections[principals[review.by]] = Word(principal=principals[review.by], review=review)
                continue
            why = Why.OLDER_COMMIT
        why = why or _not_an_approval(review, fresh, wrote)
        if why is None and principals[review.by] in approvals:
            why = Why.ONE_PERSON
        if why is None:
            approvals[principals[review.by]] = Word(principal=principals[review.by], review=review)
        else:
            refused.append(Refused(review=review, why=why))
    return Counted(approvals=tuple(approvals.values()), objections=tuple(objections.values()), refused=tuple(refused))


def _not_a_word(
    review: Review,
    principals: Mapping[Identity, str],
    agents: Collection[Identity],
    standings: Mapping[Identity, Membership],
) -> Why | None:
    standing = standings.get(review.by, Membership(access=Access.NONE, kind=None))
    if review.by.kind is Kind.BOT or standing.kind is Kind.BOT:
        return Why.BOT
    if review.by in agents:
        return Why.AGENT
    if review.by not in principals:
        return Why.UNLISTED
    if standing.access < Access.WRITE:
        return Why.NO_ACCESS
    if Kind.PERSON not in (review.by.kind, standing.kind):
        return Why.BOT
    return None


def _not_an_approval(review: Review, fresh: Collection[str], wrote: Collection[Identity]) -> Why | None:
    if review.state is not ReviewState.APPROVED or not _stands(review, fresh):
        return Why.DISMISSED
    if review.commit is None:
        return Why.COMMIT_UNKNOWN
    if review.commit not in fresh:
        return Why.OLDER_COMMIT
    if review.by in wrote:
        return Why.WROTE
    return None


def _stands(review: Review, fresh: Collection[str]) -> bool:
    """Tell whether nobody took it back: what the forge itself dismisses at a push that changed nothing of it still stands."""
    return review.dismissed is None or (review.dismissed.commit is not None and review.dismissed.commit in fresh)
