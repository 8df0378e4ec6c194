"""Reviews on the forge, read live for the one thing that waits (design §4).

Whether a review is still standing, a person's, of somebody who may write and who pushed none of it is judged here, from what the
forge tells; whose it is by the policy and what it is about is judged by `approval`, and again by everybody who verifies. A forge
that cannot be asked stops nothing: signed words count all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from runner.forge.base import Access, Forge, ForgeError, Identity, Kind, RequestState, Review, ReviewState
from runner.forge.counting import Why, counting
from runner.protocol import ids
from runner.protocol.events import ReviewFields
from runner.protocol.plan import Plan
from runner.protocol.state import Wait
from runner.store.project import Project
from runner.trust import manifest
from runner.trust.bench import Asked, Bench
from runner.trust.demand import Demand
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.protocol.policy import Policy


@dataclass(frozen=True, slots=True)
class Heard:
    """What was read: `approvals` as an event names them; `objections`: who of the role asks for changes."""

    approvals: Sequence[ReviewFields] = ()
    objections: Sequence[str] = ()


NOTHING: Final = Heard()


def hear(project: Project, forge: Forge, bench: Bench, demand: Demand, wait: Wait | None, plan: Plan | None) -> Heard:
    """Return the reviews of the protocol's request that speak of what waits at the bench's tip; None of them is recorded.

    `wait`: None for the merge, which nothing in the record asks for: it is a question as soon as every step is done. `plan`: None for
    the merge.
    """
    policy = bench.authority.policy
    people = policy.words.forge.get(forge.host, {}) if policy else {}
    asked = Asked.of(bench, wait) if wait else Asked.at_end(bench)
    if policy is None or not people or asked is None:
        return NOTHING
    fresh = _fresh(bench, demand, asked, plan)
    try:
        request = forge.request_of(ids.branch_of(project.pattern, bench.protocol), bench.state.base)
        if request is None or (wait is not None and request.state is not RequestState.OPEN):
            return NOTHING
        said = forge.reviews(request.number)
        if not any(one.state is not ReviewState.COMMENTED for one in said):
            return NOTHING
        wrote = _wrote(forge, bench, demand, request.number) if policy.words.own_work != "allow" else set()
        if wrote is None:
            project.tell_once(
                f"who pushed {demand.subject} cannot be told any more, so no review counts; signed words do"
            )
        return _judged(project, forge, said, demand, request.number, fresh, policy.words, wrote)
    except ForgeError as error:
        project.tell_once(f"reviews could not be read: {error.what}; signed words count all the same")
        return NOTHING


def _judged(
    project: Project,
    forge: Forge,
    said: Sequence[Review],
    demand: Demand,
    number: int,
    fresh: Collection[str],
    policy: Policy,
    wrote: set[Identity] | None,
) -> Heard:
    """Return what the reviews come to, and say which do not count; `wrote`: None where everybody may have."""
    people = policy.forge[forge.host]
    principals = {Identity(host=forge.host, id=one, login=""): who for who, one in people.items()}
    heard = {one.by for one in said if one.by in principals}
    counted = counting(
        said,
        principals=principals,
        agents={one for one, who in principals.items() if who in policy.agents},
        standings={one: forge.membership(one) for one in heard},
        fresh=fresh,
        wrote=heard if wrote is None else wrote,
    )
    role = {who for need in demand.needs for who in need.people}
    objections = [one.principal for one in counted.objections if one.principal in role]
    for refused in counted.refused:
        by = refused.review.by
        if refused.review.state is ReviewState.APPROVED and refused.why is not Why.SUPERSEDED:
            project.tell_once(
                f"the review of {by.login} (id {by.id}) does not count for {demand.subject}: {refused.why}"
            )
    for who in objections:
        project.tell_once(f"{who} asks for changes in the request, which goes before approvals")
    return Heard(
        [
            ReviewFields(
                host=forge.host,
                user=one.review.by.id,
                request=number,
                review=one.review.id,
                commit=one.review.commit or "",
            )
            for one in counted.approvals
        ],
        objections,
    )


def _fresh(bench: Bench, demand: Demand, asked: Asked, plan: Plan | None) -> set[str]:
    """Return the commits at which what waits stood as it stands now: back to the one that asked, or to the last that changed it."""
    subject, since = demand.subject, asked.commit
    version = (bench.version_of(asked.digest, subject, since, plan) if asked.digest else None) or manifest.VERSION

    def changed_after(seen: str) -> bool:
        return bench.touched_since(subject, seen, plan, version=version) is not None

    touched = changed_after(since)
    found: set[str] = set()
    for oid, distance in bench.chain.items():  # from the tip back
        if distance > bench.chain[asked.commit]:
            break
        found.add(oid)
        if touched and changed_after(_before(bench, oid)):
            break
    return found


def _before(bench: Bench, oid: str) -> str:
    """Return the commit of the chain before one; the last one itself."""
    chain = list(bench.chain)
    return chain[min(bench.chain[oid] + 1, len(chain) - 1)]


def _wrote(forge: Forge, bench: Bench, demand: Demand, number: int) -> set[Identity] | None:
    """Return the accounts that wrote or pushed any of what is approved; a push that cannot be told apart counts as one.

    None where the forge tells of no push that brought some of it: it remembers only so many.
    """
    written = {commit.oid for commit in bench.authors(demand.subject)}
    written = {oid for oid in written if not bench.git.is_ancestor(oid, bench.authority.commit)}
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
        brought = _brought(bench, push.before, push.after, written)
        left -= brought
        if brought and push.by is not None:
            found.add(push.by)
    return None if left else found


def _brought(bench: Bench, before: str | None, after: str | None, written: set[str]) -> set[str]:
    if after is None:
        return written if before is None else set()  # the forge does not tell which; or deleted
    if bench.git.commit(after) is None:
        return set()  # of a branch that has been rewritten since
    stop = [f"^{before}"] if before is not None and bench.git.commit(before) is not None else []
    out = bench.git.run("rev-list", after, *stop, f"^{bench.authority.commit}").decode().split()
    return written.intersection(out)


def may_write(forge: Forge, who: Identity) -> bool:
    """Return whether an account is a person's who may write to the repository now."""
    standing = forge.membership(who)
    kinds = (who.kind, standing.kind)
    return standing.access >= Access.WRITE and Kind.PERSON in kinds and Kind.BOT not in kinds
