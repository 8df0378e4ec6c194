"""Rules 25, 26, 28 and 29: where a history starts and ends: base, merge, seal and fork (design §4).

Base: the base's tree is what proves a squashed protocol; the history ref only explains it. A record that is not, blob for blob, the
one that a transition of the chain left is a finding: of a history that was swapped, or of a base that a person edited. The chain of a
branch that is gone is found by the record too.

Merge: it is judged once the trusted branch holds the record as the chain leaves it: by the policy of the trusted branch before the
merge came, and the approvals that the merge brought. Which commit of the protocol's added them is not asked, for a squash leaves
none: an approval names its subject by digest, and is signed. That a merge brought nothing else is the base's to guard.

Seal: it is judged by the policy and the keys of the transition that it seals, and by the revocations of now. A protocol without one is
as good as the policy that asked for none.

Fork: its branch contains the commit at which it starts, so the branch is the proof. Approvals never come along: they name a protocol
and its genesis. Nor does work that was not done there: nobody would judge it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from runner.errors import InsufficientHistoryError, IntegrityError, RunnerError
from runner.git import Git
from runner.lines import few
from runner.protocol import approval_file, ids, log, paths, state
from runner.protocol import events as ev
from runner.protocol.approval_file import Seal, seconds
from runner.protocol.event_types import event_type
from runner.protocol.ids import digest
from runner.protocol.log import RawEntry
from runner.protocol.state import ENDED, Json, State, StepStatus
from runner.store import history, record
from runner.store.record import is_transition, transition_of
from runner.store.trusted import Trusted
from runner.trust import permit, trusted_config
from runner.trust.requirements import ApprovalRequirement
from runner.trust.rules import transcripts
from runner.trust.transitions import RejectionReason, chain_of, transitions_below
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import View
from runner.trust.walk import Evidence, Finding, Named, Origin, ParsedCommit, Report, Said, Walk, record_of

LOOK_BACK = 100  # commits of a base that touched the record


def tip_of(git: Git, protocol: str, base: str, remote: str | None) -> str:
    """Return the transition that a base's folder comes from, or came from where it was taken away again.

    It is the newest of the base's history whose record is the base's own.

    Raises:
        InsufficientHistoryError: the base holds the folder, and not its history: it was squashed, rebased or copied.
    """
    commit = git.commit(base)
    assert commit is not None
    here = record_of(git, commit, protocol)
    for oid in _touched(git, protocol, base):
        found = git.commit(oid)
        if found is None or not is_transition(found, protocol):
            continue
        there = record_of(git, found, protocol)
        if there and there == (here or there):
            return oid
    if git.is_shallow() or git.is_partial():
        raise git.missing(f"the history of {paths.folder(protocol)}")
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
    is_whole = first is not None and first.events[0].startswith("created ") and report.walk.moved is None
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


def check_base(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """25. The record that a base holds is one of the chain's.

    Raises:
        InsufficientHistoryError: one continues the chain of this clone, which is before the protocol's end.
    """
    protocol, tip = report.protocol, report.tip
    for base in dict.fromkeys(evidence.bases):
        commit = git.commit(base)
        there = record_of(git, commit, protocol) if commit is not None else {}
        if not there or any(there == one for one in _records(git, protocol, tip)):
            continue
        if record.row(git, protocol, tip)["status"] not in ENDED and _goes_on(git, protocol, tip, base):
            raise InsufficientHistoryError(
                f"{protocol} ends at an older commit here than what {base[:12]} holds of it",
                f"commit {tip[:12]}",
                f"{history.brings(protocol, evidence.remote)}; `runner sync {protocol}` brings the branch",
            )
        yield Finding("base", base, paths.folder(protocol), "the record that the base holds is none of this history's")


def _goes_on(git: Git, protocol: str, tip: str, base: str) -> bool:
    """Return whether the whole of the chain's log is the start of the log that a base holds."""
    try:
        here, there = (record.events(git, protocol, at) for at in (tip, base))
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


# --- 28: the approval of the merge ---


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
    last = next(transitions_below(git, protocol, report.tip), None) if is_copy else None
    ruled = (last.trailers.trusted if last else None) if is_copy else before
    if ruled is None:
        return
    if git.commit(ruled) is None:
        raise git.missing(f"commit {ruled[:12]} of {trusted.branch}")
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
            f"its merge required {standing.missing}; a review may have given it (said by the forge, not provable offline)"
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


def _seconds(ident: bytes) -> int:
    """Return when a commit says that it was made, as seconds since 1970; 0 where it says nothing that can be read."""
    found = re.search(rb" ([0-9]{1,12}) [+-][0-9]{4}$", ident)
    return int(found[1]) if found else 0


def seal_of(git: Git, protocol: str, repo: str, signer: str, tip: str, time: str) -> Seal | None:
    """Return the seal of a transition of the protocol's; None where it is none."""
    commit = git.commit(tip)
    own = transition_of(commit, protocol)
    data = git.blob(f"{tip}:{paths.folder(protocol)}/{paths.STATE}")
    if commit is None or own is None or data is None:
        return None
    genesis = state.load(data, paths.STATE).genesis
    return Seal(repo, protocol, genesis, str(own.trailers.revision), tip, commit.tree, digest(data), signer, time)


def check_seal(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """26. The seal that the history ends with, where it has one, is a runner's and says what the chain came to."""
    found = read_seal(git, report.protocol)
    if found is None:
        return
    where = f"{history.ref_of(report.protocol)}:{paths.SEAL}"
    try:
        for text in _wrong_seal(git, report, evidence.trusted, found, where):
            yield Finding("seal", "", where, text)
    except RunnerError as error:
        if not isinstance(error, IntegrityError):
            raise
        yield Finding("seal", "", where, error.what)


def read_seal(git: Git, protocol: str) -> bytes | None:
    """Return the file with which a history was sealed, or None."""
    return history.read(git, protocol, paths.SEAL)


def _wrong_seal(git: Git, report: Report, trusted: Trusted, data: bytes, where: str) -> Iterator[str]:
    said, text, armour = approval_file.parse_seal(data, where)
    if said.tip not in (report.tip, *git.first_parents(report.tip)):
        yield f"it seals {said.tip[:12]}, which is no commit of this history"
        return
    there = seal_of(git, report.protocol, said.repo, said.signer, said.tip, said.time)
    if there != said:
        yield f"it does not match {said.tip[:12]}"
        return
    own = transition_of(git.commit(said.tip), report.protocol)
    assert own is not None  # `of` read it
    ruled = own.trailers.trusted
    if git.commit(ruled) is None:
        raise git.missing(f"commit {ruled[:12]} of the trusted branch")
    found = trusted_config.load(git, ruled, trusted.branch, revoked_at=trusted.commit)
    if found.repo != said.repo:
        yield "it is of another repository"
    elif said.signer not in found.agents:
        yield f"{said.signer} is none of `agents` in {found.where}"
    else:
        verdict = found.judge(text, armour, said.signer, seconds(said.time), namespace=approval_file.SEAL_NAMESPACE)
        if not verdict.ok:
            yield verdict.reason


def seal_note(git: Git, report: Report) -> str | None:
    """Return what a reader should know of a seal that holds."""
    data = read_seal(git, report.protocol)
    if data is None:
        return None
    said, _, _ = approval_file.parse_seal(data, paths.SEAL)
    return f"sealed by {said.signer} at revision {said.revision}, {said.time} by its own account"


def older_policies(git: Git, protocol: str, tip: str, trusted: Trusted, told: Iterable[str]) -> str | None:
    """Return a note on transitions that are judged by another policy than the trusted branch has, or had when it got the record.

    `told`: the trusted commits that they name.
    Nothing in a history proves when it was made: one that starts on an old commit is judged by the policy of then. Where the
    trusted branch got the record while that policy was its own, its order is the proof.
    """
    now = trusted.commit
    if record.is_merged(git, protocol, tip, now):
        merge = git.commit(record.merged_in(git, protocol, now) or "")
        now = next(iter(merge.parents), now) if merge is not None else now
    current = trusted_config.rules_of(git, now)
    if current is None or current[0] is None:
        return None
    then = {oid: trusted_config.rules_of(git, oid) for oid in dict.fromkeys(told)}
    older = [oid[:12] for oid, rules in then.items() if rules is not None and rules[0] != current[0]]
    if not older:
        return None
    return (
        f"judged by the policy at {few(older)}, which {trusted.branch} has changed since;"
        " nothing proves that it was made before that"
    )


def wrong_fork(walk: Walk, parsed: ParsedCommit) -> Iterator[str]:
    """Yield why a `forked` event is invalid; the notes on a valid one are kept in the walk.

    Raises:
        InsufficientHistoryError: the other protocol's history is not whole here.
    """
    event = parsed.first(ev.Forked)
    assert isinstance(event, ev.Forked)
    origin, _, revision = event.source.partition("@")
    if not (ids.is_protocol_id(origin) and revision.isascii() and revision.isdigit()) or origin == walk.protocol:
        yield f"`{event.source}` is no revision of another protocol"
        return
    told = log.parse_message(parsed.parent.message) if parsed.parent else None
    if parsed.parent is None or told is None or (told.protocol, str(told.revision)) != (origin, revision):
        yield f"it does not start at the commit of {event.source}"
        return
    report = walk.verify(origin, parsed.parent.oid)
    if not report.ok or report.state is None:
        why = f"{report.findings[0].rule}: {report.findings[0].text}" if report.findings else "it has no record"
        yield f"{event.source} does not verify: {why}"
        return
    yield from differs(event, report.state, record.events(walk.git, origin, parsed.parent.oid))
    walk.origins = [Origin(origin, parsed.commit.oid, report.transcripts), *report.origins]
    walk.taken_over = [f"started at {event.source}, which verifies", *(f"{origin}: {note}" for note in report.notes)]


def differs(event: ev.Forked, then: State, entries: Sequence[RawEntry]) -> Iterator[str]:
    """Yield how the event differs from its source. `then`: the state there; `entries`: all events up to it."""
    if event.genesis != then.genesis:
        yield f"{event.source} has another genesis"
    if left := unfinished(entries):
        yield f"the work of {left} is in the tree of {event.source}, and was not done there"
    done = completed(then)
    for slug in sorted({*done, *event.done}):
        if slug not in done:
            yield f"{slug} was not completed at {event.source}"
        elif slug not in event.done or _text(event.done[slug]) != _text(done[slug]):
            yield f"{slug} was completed at {event.source} with another result"
        elif slug in event.steps and event.steps[slug]["digest"] != then.steps[slug].digest:
            yield f"{slug} was another step at {event.source}: its file differs"


def completed(then: State) -> dict[str, Json]:
    """Return what counts as done in a fork: the completed steps of the plan, each with its result."""
    return {slug: step.result for slug, step in then.open_steps() if step.status is StepStatus.COMPLETED}


def unfinished(entries: Sequence[RawEntry]) -> str | None:
    """Return a step that has work in the tree, all or a part of it, and was not completed by the end of `entries`; or None."""
    left: dict[int, str] = {}
    at: dict[int, dict[int, str]] = {}
    for entry in entries:
        fields = entry.fields
        partly = event_type(entry.event).has_work and "transcript" in fields
        if entry.event == "step-finished" or (partly and entry.subject != "plan"):
            left = {**left, entry.revision: entry.subject}
        elif entry.event == "step-completed":
            left = {revision: slug for revision, slug in left.items() if slug != entry.subject}
        elif entry.event == "undone" and isinstance(to := fields.get("to"), int):
            left = at.get(to, left)
        at[entry.revision] = left
    return next(iter(left.values()), None)


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def check_forked(walk: Walk, parsed: ParsedCommit) -> Said:
    """29. What a fork has as done was done in the protocol that it names, at the commit at which it starts, and that verifies."""
    if parsed.first(ev.Forked) is not None and parsed.illegal is None:
        for text in wrong_fork(walk, parsed):
            yield walk.path(paths.LOG), text


def check_origins(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """29. The transcripts of the protocols that a fork continues show nothing against them."""
    for origin in report.origins:
        yield from of_origin(git, report.protocol, origin, evidence)


def of_origin(git: Git, protocol: str, origin: Origin, evidence: Evidence) -> Iterator[Finding]:
    """Yield what the transcripts of a fork's origin show against it, as findings of the fork, which is `protocol`.

    Raises:
        InsufficientHistoryError: one is not in this clone, and the others hold.
    """
    proven: list[tuple[Named, str]] = []
    kept = evidence.history_of(origin)

    def found() -> Iterator[Finding]:
        yield from transcripts.wrong_transcripts(git, origin.protocol, origin.named, kept, evidence.remote, proven)
        yield from transcripts.wrong_calls(git, origin.protocol, proven, evidence.trusted)

    at = f"{paths.folder(protocol)}/{paths.LOG}"
    for one in found():
        yield Finding("forked", origin.fork, at, f"{origin.protocol} does not verify: {one.rule}: {one.text}")
