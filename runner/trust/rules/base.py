"""25. base, 28. merge: the record that a base holds is one of the protocol's history, and its merge was approved (design §4).

The base's tree is what proves a squashed protocol; the history ref only explains it. A record that is not, blob for blob, the one
that a transition of the chain left is a finding: of a history that was swapped, or of a base that a person edited. The chain of a
branch that is gone is found by the record too.

The merge is judged once the trusted branch holds the record as the chain leaves it: by the policy of the trusted branch before the
merge came, and the approvals that the merge brought. Which commit of the protocol's added them is not asked, for a squash leaves
none: an approval names its subject by digest, and is signed. That a merge brought nothing else is the base's to guard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner.errors import InsufficientHistoryError, RunnerError
from runner.git import Git
from runner.protocol import log, paths
from runner.store import history
from runner.store import record as record_
from runner.trust import permit, trusted_config
from runner.trust.requirements import ApprovalRequirement
from runner.trust.transitions import chain_of, is_transition, missing, transitions_below
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import RejectionReason, View
from runner.trust.walk import Evidence, Finding, Report, record_of

LOOK_BACK = 100  # commits of a base that touched the record


def tip_of(git: Git, protocol: str, base: str, remote: str | None) -> str:
    """Return the transition that a base's folder comes from, or came from where it was taken away again.

    It is the newest of the base's history whose record is the base's own.

    Raises:
        InsufficientHistoryError: the base holds the folder, and not its history: it was squashed, rebased or copied.
    """
    commit = git.commit(base)
    assert commit is not None
    record = record_of(git, commit, protocol)
    for oid in _touched(git, protocol, base):
        found = git.commit(oid)
        if found is None or not is_transition(found, protocol):
            continue
        there = record_of(git, found, protocol)
        if there and there == (record or there):
            return oid
    if git.is_shallow() or git.is_partial():
        raise missing(git, f"the history of {paths.folder(protocol)}")
    raise _gone(protocol, base, remote)


def _gone(protocol: str, base: str, remote: str | None) -> InsufficientHistoryError:
    return InsufficientHistoryError(
        f"the history of {protocol} is not here: its branch is gone, and it was squashed, rebased or copied",
        f"{paths.folder(protocol)} in {base[:12]}",
        history.brings(protocol, remote),
    )


def refuse_copy(git: Git, report: Report, base: str, remote: str | None) -> None:
    """Refuse to call a chain of the base's a forgery that is only a copy: a squash of many commits, or a rebase.

    Raises:
        InsufficientHistoryError: it is invalid, and lies where a forge puts a squash or a rebase.
    """
    chain = chain_of(git, report.protocol, report.tip)
    genesis = git.commit(chain[0]) if chain else None
    first = log.parse_message(genesis.message) if genesis is not None else None
    is_whole = first is not None and first.events[0].startswith("created ") and not report.moved
    if report.findings and not is_whole and report.tip in git.first_parents(base):
        raise _gone(report.protocol, base, remote)


def _touched(git: Git, protocol: str, base: str) -> list[str]:
    """Return the commits of a base's history that touched the record, the newest first."""
    path = f"{paths.folder(protocol)}/{paths.STATE}"
    args = ("rev-list", f"--max-count={LOOK_BACK}", base, "--", path)
    code, out, _ = git.try_run(*args, env={"GIT_GRAFT_FILE": "/dev/null"})
    return out.decode().split() if code == 0 else []


def was_taken_away(git: Git, protocol: str, base: str) -> bool:
    """Return whether a base held the protocol's folder and does not any more."""
    return git.tree(f"{base}:{paths.folder(protocol)}") is None and was_there(git, protocol, base)


def was_there(git: Git, protocol: str, base: str) -> bool:
    """Return whether a base holds, or ever held, the protocol's record."""
    return bool(_touched(git, protocol, base))


def wrong(git: Git, protocol: str, tip: str, bases: Sequence[str], remote: str | None) -> Iterator[Finding]:
    """Yield the bases that hold a record which no commit of the chain up to `tip` has.

    Raises:
        InsufficientHistoryError: one continues the chain of this clone, which is before the protocol's end.
    """
    for base in dict.fromkeys(bases):
        commit = git.commit(base)
        record = record_of(git, commit, protocol) if commit is not None else {}
        if not record or any(record == one for one in _records(git, protocol, tip)):
            continue
        if record_.row(git, protocol, tip)["status"] not in record_.ENDED and _goes_on(git, protocol, tip, base):
            raise InsufficientHistoryError(
                f"{protocol} ends at an older commit here than what {base[:12]} holds of it",
                f"commit {tip[:12]}",
                f"{history.brings(protocol, remote)}; `runner sync {protocol}` brings the branch",
            )
        yield Finding("base", base, paths.folder(protocol), "the record that the base holds is none of this history's")


def _goes_on(git: Git, protocol: str, tip: str, base: str) -> bool:
    """Return whether the whole of the chain's log is the start of the log that a base holds."""
    try:
        here, there = (record_.events(git, protocol, at) for at in (tip, base))
    except RunnerError:
        return False
    return len(there) > len(here) and there[: len(here)] == here


def _records(git: Git, protocol: str, tip: str) -> Iterator[dict[str, object]]:
    for oid in (tip, *git.first_parents(tip)):
        commit = git.commit(oid)
        if commit is None:
            return
        if oid == tip or is_transition(commit, protocol):
            found = record_of(git, commit, protocol)
            if found:
                yield dict(found)


def check_base(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """25. The record that a base holds is one of the chain's."""
    yield from wrong(git, report.protocol, report.tip, evidence.bases, evidence.remote)


# --- 28: the approval of the merge ---


def check_merge(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """28. The merge into the trusted branch had the approval that the policy required then.

    Raises:
        InsufficientHistoryError: the commit that was merged onto is not in this clone.
    """
    protocol, state, trusted, notes = report.protocol, report.state, evidence.trusted, evidence.notes
    if state is None or not record_.is_merged(git, protocol, report.tip, trusted.commit):
        return
    merge = git.commit(record_.merged_in(git, protocol, trusted.commit) or "")
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
