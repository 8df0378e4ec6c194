"""28. merge: where the policy of then required an approval of the merge, it was given (design §4).

Asked of the trusted branch, once it holds the record as the chain leaves it. The policy is that of the trusted branch before the merge
came; the approvals are those that the merge brought. Which commit of the protocol's added them is not asked, for a squash leaves none:
an approval names its subject by digest, and is signed. That a merge brought nothing else is the base's to guard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.errors import InsufficientHistoryError, RunnerError
from runner.git import Git
from runner.protocol import log, paths
from runner.store import record
from runner.trust import permit, trusted_config
from runner.trust.requirements import ApprovalRequirement
from runner.trust.transitions import missing, transitions_below
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import RejectionReason, View
from runner.trust.walk import Evidence, Finding, Report


def check_merge(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """28. The merge into the trusted branch had the approval that the policy required then.

    Raises:
        InsufficientHistoryError: the commit that was merged onto is not in this clone.
    """
    protocol, state, trusted, notes = report.protocol, report.state, evidence.trusted, evidence.notes
    if state is None or not record.is_merged(git, protocol, report.tip, trusted.commit):
        return
    merge = git.commit(record.merged_in(git, protocol, trusted.commit) or "")
    if merge is None:
        return
    # Fast-forwarded or rebased, main's commits are the protocol's or copies of them, and what they have as a policy is not main's.
    told, before = log.parse_message(merge.message), next(iter(merge.parents), None)
    is_copy = told is not None and before is not None and git.tree(f"{before}:{paths.folder(protocol)}") is not None
    ruled = _last_trusted(git, report) if is_copy else before
    if ruled is None:
        return
    if git.commit(ruled) is None:
        raise missing(git, f"commit {ruled[:12]} of {trusted.branch}")
    where = paths.folder(protocol)
    try:
        found = trusted_config.load(git, ruled, trusted.branch, revoked_at=trusted.commit)
        if not found.requires("merge"):
            return
        approvals_in = trusted.commit if is_copy else merge.oid
        view = View(git, protocol, report.tip, state, None, found, _seconds(merge.committer), approvals_in=approvals_in)
        if is_copy:  # the words came after it, and nothing says when it was merged
            issued = [word.signed.statement.issued_at for word in view.approvals() if word.signed is not None]
            view.at = max([view.at, *issued])
        standing = permit.merge_status(view)
    except InsufficientHistoryError:
        raise
    except RunnerError as error:
        yield Finding("merge", merge.oid, where, f"{error.what}, {error.where}")
        return
    if standing.rejected:
        who = ", ".join(word.approver for word in standing.rejected)
        yield Finding("merge", merge.oid, where, f"it was merged, and rejected by {who}")
    elif standing.satisfied:
        said = ", ".join(word.approver for word in standing.counted)
        notes.append(f"its merge was approved by {said}")
    elif standing.requirement.reviews and _has_accounts(found, standing.requirement):
        notes.append(
            f"its merge needed {standing.missing}: a review may have said it; said by the forge, not provable offline"
        )
    elif any(word.rejection is RejectionReason.UNSEEN for word in standing.refused):
        notes.append("whether its merge was approved is unknown: the reviewed commit is not in this clone")
    else:
        why = "".join(f"; {word.approver}'s does not count: {word.text}" for word in standing.refused)
        yield Finding("merge", merge.oid, where, f"it was merged without the approval of {standing.missing}{why}")


def _has_accounts(found: TrustedConfig, wanted: ApprovalRequirement) -> bool:
    """Return whether the policy knows an account of a person who can approve: else no review counts."""
    people = frozenset().union(*(need.people for need in wanted.thresholds))
    accounts = found.policy.content.forge.values() if found.policy is not None else ()
    return any(person in people for known in accounts for person in known)


def _last_trusted(git: Git, report: Report) -> str | None:
    """Return the trusted commit that the chain's last transition names."""
    return next((one.trailers.trusted for one in transitions_below(git, report.protocol, report.tip)), None)


def _seconds(ident: bytes) -> int:
    """Return when a commit says that it was made, as seconds since 1970; 0 where it says nothing that can be read."""
    found = re.search(rb" ([0-9]{1,12}) [+-][0-9]{4}$", ident)
    return int(found[1]) if found else 0
