"""Give an approval: show the person its subject, sign the statement, and commit it in their name.

The statement decides, not the commit; it can be signed on another machine (`text`) and imported (`bring`). An approval that would
not count is refused before it is signed. Without a policy an approval is an answer at a terminal, and no signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.app import describe
from runner.app.pending import listed, without_force
from runner.errors import RefusedError, UsageError
from runner.executor import advance, load, permissions
from runner.executor.advance import Advanced
from runner.git import BLOB, TreeEntry
from runner.protocol import approval_file, ids, log, paths
from runner.protocol import events as ev
from runner.protocol.approval_file import Decision, Form, Signed, Statement
from runner.protocol.events import Event
from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan
from runner.protocol.state import State, Status, Wait
from runner.store import history, lookup, publishing, record
from runner.store.environment import timestamp
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust import approval, requirements, signature, signers, trusted_config
from runner.trust.approval import ApprovalStatus
from runner.trust.manifest import Subject
from runner.trust.requirements import ApprovalRequirement
from runner.trust.signature import SigningKey
from runner.trust.transitions import ApprovalFile, RejectionReason
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import View

VALID_SECONDS = 7 * 24 * 3600  # of an approval, where neither `--for` nor the policy says less
PATHS = 500  # that are named to git diff
NOUNS = {Decision.APPROVE: "approval", Decision.REJECT: "rejection", Decision.REVOKE: "revocation"}


@dataclass(frozen=True, slots=True)
class Matter:
    """The subject of an approval. `wait`: None for a plan or a merge for which no approval is pending; `is_required`: whether plan or
    policy ask for one."""

    seen: Snapshot
    plan: Plan
    state: State
    trusted: TrustedConfig
    requirement: ApprovalRequirement
    wait: Wait | None
    digest: str
    is_required: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """An approval that is ready to be signed. `text`: the bytes to sign; `key`: the key to sign them with."""

    matter: Matter
    statement: Statement
    text: bytes
    key: SigningKey | None
    reviewed: Statement | None  # the same person's last decision on the subject, to show the changes since
    stands: ApprovalFile | None  # the same approval by this person, if it counts already


def waits_here(session: Session, name: str | None) -> frozenset[tuple[str, str]]:
    """Return what waits as far as `status` can have shown it, by the branch here and as last fetched: (id, digest) of each wait, and
    (merge, commit) where the protocol is completed.

    `name`: as a person typed it, or None for the default protocol. To be asked before anything is fetched.
    """
    project, found = session.project, set[tuple[str, str]]()
    try:
        protocol = lookup.find(session, name)
    except UsageError:
        return frozenset()
    branch = project.branch(protocol)
    for tip in filter(None, map(project.git.ref, (branch, project.tracking(branch)))):
        row = record.row(project.git, protocol, tip)
        found |= {(str(wait.get("id")), str(wait.get("digest"))) for wait in row["waiting"]}
        found |= {("merge", tip)} if row["status"] == Status.COMPLETED else set()
    return frozenset(found)


def matter(session: Session, protocol: str, what: str | None) -> Matter:
    """Return the subject that waits for approval: the only one, or `what` (`step:deploy`, `deploy`, `plan`, `merge`, `call:…`, `w12`).

    Raises:
        UsageError: nothing waits, or several things do. RefusedError: the protocol is cancelled, or there was a policy and it is
            gone.
        UnreachableError: the remote that says lists the approvers does not answer.
    """
    publishing.bring(session, protocol, load.Checker(session, protocol))
    publishing.look_again(session, protocol)
    seen = load.read(session, protocol)
    if seen.state.status is Status.CANCELLED:
        raise RefusedError(
            f"{protocol} is cancelled: nothing waits for an approval",
            paths.folder(protocol),
            f"`runner undo {lookup.typed(session.project, protocol)}` reverts it",
        )
    plan, _, state, _ = advance.consider(session, seen)
    if plan is None:
        raise _no_plan(session.project, protocol)
    found = trusted_config.of(session.project)
    view = permissions.view_of(session.project, seen, plan, state)
    waits = {wait.id: wait for wait in state.waiting if wait.type.ended_by == "approval"}
    subjects = {one: requirements.subject_of(view, wait) for one, wait in waits.items()}
    chosen, subject = _choose(session.project, state, subjects, what, view.entries)
    wait = waits.get(chosen)
    required = requirements.requirement_of(view, subject, wait.text if wait else "")
    needed = required or requirements.unasked(found, subject)
    if needed.keyboard:
        _refuse_where_one_was(session.project, view)
    is_required = required is not None and (wait is not None or subject.kind != "merge" or found.requires("merge"))
    return Matter(seen, plan, state, found, needed, wait, view.digest(subject, seen.tip), is_required)


def _no_plan(project: Project, protocol: str) -> UsageError:
    short = lookup.typed(project, protocol)
    hint = f"`runner status {short}` shows the open questions"
    return UsageError("there is no plan yet: nothing waits for an approval", paths.folder(protocol), hint)


def _choose(
    project: Project, state: State, subjects: dict[str, Subject], what: str | None, known: Sequence[RawEntry]
) -> tuple[str, Subject]:
    """Return (id of the wait or empty, subject) of what a person means. `known`: the record's entries."""
    where = paths.folder(state.protocol)
    there = ", ".join(str(subject) for subject in subjects.values())
    if state.status is Status.COMPLETED:
        hint = "`merge` can be approved: it is completed"
    else:
        next_ = describe.resuming(project, state)
        follows = "continues until an approval is needed" if next_.startswith("runner run ") else "comes first"
        hint = f"what waits: {there}" if there else f"`{next_}` {follows}"
    if what is None:
        if len(subjects) == 1:
            return next(iter(subjects.items()))
        if subjects:
            raise UsageError(f"{len(subjects)} approvals are pending", where, f"name one: {there}")
        if state.status is Status.COMPLETED:
            return "", Subject("merge")
        raise UsageError(_decided(state, known, None) or "nothing waits for an approval", where, hint)
    kind, colon, name = what.removesuffix(".md").rpartition(":")
    slug = ids.step_at(name, {slug: step.place for slug, step in state.steps.items()}) or name
    found = [
        (wait, subject)
        for wait, subject in subjects.items()
        if what in (wait, str(subject), subject.name)
        or ((not colon or kind == subject.kind) and slug in (subject.slug or subject.kind, subject.name))
    ]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        named = ", ".join(str(subject) for _, subject in found)
        raise UsageError(f"`{what}` names {len(found)} pending approvals", where, f"name one: {named}")
    if what == "plan" and state.plan is not None and state.status is not Status.COMPLETED:
        return "", Subject("plan")
    if what == "merge" and state.status is Status.COMPLETED:
        return "", Subject("merge")
    raise UsageError(_decided(state, known, what, slug) or f"nothing waits for an approval as `{what}`", where, hint)


def _decided(state: State, known: Sequence[RawEntry], *which: str | None) -> str:
    """Return whose approval decided what waits no longer, for people; empty where none did. `which`: its wait or slug, or None."""
    for one in reversed(known):
        told = one.fields
        if one.event in ("approval-counted", "call-decided") and {None, one.subject, told.get("wait")} & {*which}:
            by = told["by"] if isinstance(told["by"], str) else ", ".join(told["by"])
            label = f"{state.steps[one.subject].place:02d}-{one.subject}" if one.subject in state.steps else one.subject
            return f"{label} was {told.get('decision', 'approved')} already, by {by}: nothing waits for an approval"
    return ""


def offer(
    session: Session, found: Matter, decision: Decision, reason: str, *, lasts: int | None = None, here: bool = True
) -> Offer:
    """Return the approval that the person would give. `here`: signed with their own key now; else on another machine.

    Raises:
        RefusedError: it would not count: the key is not listed, the role is another, the work is their own; or they have
            no approval to revoke.
        UsageError: there is no key to sign with.
    """
    policy = found.trusted.policy
    assert policy is not None
    email = session.person().email.lower()
    try:
        key = signature.signing_key(session.git) if here else None
        approver = listed(session.project, found.trusted, key, email) if key else email
    except (UsageError, RefusedError) as error:
        if decision is Decision.REVOKE or any(email in need.people for need in found.requirement.thresholds):
            raise
        # Nobody has to make a key, or have one listed, for an approval that does not count.
        why = f"{email} is not {found.requirement.who}"
        raise _would_not_count(
            session.project, found, decision, RejectionReason.ROLE, why, without_force(session.project, paths.POLICY)
        ) from error
    now = int(session.env.now())
    view = permissions.view_of(session.project, found.seen, found.plan, found.state)
    subject = found.requirement.subject
    same = [  # also of an earlier attempt
        one.signed.statement
        for one in view.approvals()
        if one.signed
        and one.approver == approver
        and one.signed.statement.seen in view.chain
        and one.signed.statement.subject == str(subject)
    ]
    own = [said for said in same if said.attempt == subject.attempt]
    last = (*own[-1:], *sorted(own, key=lambda one: one.issued_at)[-1:])  # in the branch, and in time
    if decision is Decision.REVOKE and all(one.decision is Decision.REVOKE for one in last):
        raise RefusedError(
            f"{approver} has no approval or rejection of it to revoke",
            str(subject),
            f"`runner status {lookup.typed(session.project, found.seen.protocol)}` shows the approvals",
        )
    said = Statement(
        repo=policy.content.repo,
        protocol=found.seen.protocol,
        genesis=found.state.genesis,
        subject=str(subject),
        attempt=subject.attempt,
        digest=found.digest,
        policy=policy.digest,
        seen=found.seen.tip,
        decision=decision,
        approver=approver,
        # Not before their last one, which may come from a machine whose clock is ahead.
        issued=timestamp(max([now, *(one.issued_at for one in own if one.issued_at <= now + approval.AHEAD)])),
        expires=timestamp(now + min(found.requirement.lasts, lasts or VALID_SECONDS)),
        nonce=session.env.random_hex(32),
        reason=reason,
    )
    text = approval_file.render(said)
    signed = Signed(said, text, b"", key.form if key else Form.SSH)
    foreseen = approval.foresee(view, found.requirement, signed, key.fingerprint if key else "")
    if foreseen.rejection is not None and not (
        decision is Decision.REVOKE and foreseen.rejection is RejectionReason.ROLE
    ):
        no_force = without_force(session.project, paths.POLICY)
        raise _would_not_count(session.project, found, decision, foreseen.rejection, foreseen.text, no_force)
    stands = approval.judge(view, found.requirement)
    given = {Decision.APPROVE: stands.counted, Decision.REJECT: stands.rejected}.get(decision, ())
    again = next((one for one in given if one.approver == approver), None)
    return Offer(found, said, text, key, same[-1] if same else None, again)


def _would_not_count(
    project: Project, found: Matter, decision: Decision, fault: RejectionReason, text: str, no_force: str = ""
) -> RefusedError:
    short = lookup.typed(project, found.seen.protocol)
    what = "rejection" if decision is Decision.REJECT else "approval"
    hints = {
        RejectionReason.ROLE: no_force or f"ask one of them; `roles` in {found.trusted.where} says who they are",
        RejectionReason.AGENT: f"a person has to approve it: {found.requirement.who}",
        RejectionReason.OWN_WORK: f"another person has to: {found.requirement.who}; or `own_work: allow` in {found.trusted.where}",
        RejectionReason.STALE: f"`runner approve {short} {found.requirement.subject}` shows the present text",
        RejectionReason.EXPIRED: f"`runner approve {short} {found.requirement.subject}` gives a new one",
        RejectionReason.OTHER: f"`runner approve {short} {found.requirement.subject}` gives one on this",
        RejectionReason.FUTURE: "correct the clock of this machine",
    }
    hint = hints.get(fault, f"`runner approve {short} {found.requirement.subject}` makes one that counts")
    return RefusedError(
        f"the {what} would not count: {text}", str(found.requirement.subject), f"{hint}; nothing was written"
    )


def give(session: Session, ready: Offer) -> str:
    """Sign the approval, commit it in the person's name, and return the commit.

    Raises:
        SigningError: no signature could be made; nothing was written.
        RefusedError: its subject changed meanwhile.
    """
    assert ready.key is not None
    return add(session, ready.matter, approval_file.join(ready.text, signature.sign(ready.key, ready.text)))


def bring(session: Session, protocol: str, data: bytes, where: str) -> tuple[Matter, str]:
    """Import an approval that was signed on another machine, and return (its subject, the commit).

    Raises:
        MalformedFileError: it is no approval. RefusedError: it would not count.
    """
    signed = approval_file.parse(data, where)
    found = matter(session, protocol, signed.statement.subject)
    if found.requirement.keyboard:
        raise no_policy(session.project, found)
    return found, add(session, found, data)


def add(session: Session, found: Matter, data: bytes) -> str:
    """Commit an approval's file, alone, as the person's, and return the commit.

    Raises:
        RefusedError: it would not count; nothing was written.
    """
    git, protocol = session.git, found.seen.protocol
    signed = approval_file.parse(data, "the approval")
    name = f"{paths.folder(protocol)}/{paths.APPROVALS}{approval_file.file_name(signed.text)}"
    verb = {Decision.APPROVE: "approves", Decision.REJECT: "rejects", Decision.REVOKE: "revokes its decision on"}
    said = signed.statement
    message = f"{protocol}: {said.approver} {verb[said.decision]} {said.subject}\n".encode()
    sign = git.setting("user.signingkey") is not None

    def make(seen: Snapshot) -> advance.PersonCommit:
        view = permissions.view_of(session.project, seen, found.plan, seen.state)
        verdict = signature.verify(
            signed.signature,
            signed.text,
            namespace=approval_file.NAMESPACE,
            principal=said.approver,
            signers=found.trusted.signers,
            at=view.at,
        )
        if not verdict.ok:
            raise _would_not_count(
                session.project,
                found,
                said.decision,
                RejectionReason.UNTRUSTED,
                verdict.reason,
                without_force(session.project, signers.FILE),
            )
        foreseen = approval.foresee(view, found.requirement, signed, verdict.fingerprint)
        if foreseen.rejection is not None and said.decision is not Decision.REVOKE:
            raise _would_not_count(session.project, found, said.decision, foreseen.rejection, foreseen.text)
        tree = git.edited(seen.tree, {name: TreeEntry(BLOB, git.write("blob", data))})
        if tree == seen.tree:
            return advance.PersonCommit(seen.tip)
        new = git.person_commit(tree, (seen.tip,), session.person(), message, sign=sign)
        if said.subject != "merge":
            return advance.PersonCommit(new)
        # No transition comes after it that the history would be filed beside, and a squash would leave it out.
        return advance.PersonCommit(new, history.add(git, protocol, {}, new, session.project.runner()))

    return advance.publish_commit(session, protocol, "runner: approval", make)


def answer(session: Session, found: Matter, decision: Decision) -> Advanced:
    """Record a decision that was made at a terminal, if there is no policy.

    Raises:
        RefusedError: it was decided meanwhile.
    """
    wait = found.wait
    if wait is None or decision is Decision.REVOKE:
        raise no_policy(session.project, found)
    by = [requirements.KEYBOARD]

    def build(seen: Snapshot) -> Sequence[Event]:
        if wait.id not in [one.id for one in seen.state.waiting]:
            raise RefusedError("it no longer waits", str(found.requirement.subject), "run `runner status`")
        if wait.kind == "call":
            decided = "approved" if decision is Decision.APPROVE else "rejected"
            return [
                ev.CallDecided(
                    subject=wait.subject, wait=wait.id, decision=decided, by=requirements.KEYBOARD, approvals=[]
                )
            ]
        if decision is Decision.REJECT:
            return []
        return [ev.ApprovalCounted(subject=wait.subject, wait=wait.id, approvals=[], by=by)]

    return advance.record_events(session, found.seen.protocol, build)


def no_policy(project: Project, found: Matter) -> RefusedError:
    """Return the error for a signature where no policy says whose counts."""
    return RefusedError(
        "there is no policy: no signature counts",
        found.trusted.where,
        without_force(project, paths.POLICY)
        or "`runner init` writes one; without it, pending approvals are given at a terminal",
    )


def _refuse_where_one_was(project: Project, view: View) -> None:
    """Refuse an approval at a terminal if an earlier transition had a policy: deleting the policy must not weaken a protocol."""
    git = project.git
    commits = filter(None, map(git.commit, view.chain))
    told = {trailers.trusted for commit in commits if (trailers := log.parse_message(commit.message)) is not None}
    for trusted in sorted(told):
        if git.blob(f"{trusted}:{paths.POLICY}") is not None:
            raise RefusedError(
                f"the policy was deleted after {trusted[:12]}; no approval counts without it",
                view.trusted.where,
                f"put it back on {view.trusted.branch}: `git checkout {trusted[:12]} -- {paths.POLICY}`, and commit that",
            )


def status_now(session: Session, found: Matter) -> ApprovalStatus:
    """Return the status of the required approval now, with the approvals that arrived since."""
    seen = load.read(session, found.seen.protocol)
    plan, _, state, _ = advance.consider(session, seen)
    if plan is None:
        raise _no_plan(session.project, seen.protocol)
    is_counted = found.wait is not None and all(one.id != found.wait.id for one in state.waiting)
    again = approval.USUAL if is_counted else None
    return approval.judge(permissions.view_of(session.project, seen, plan, state), found.requirement, again=again)


# --- what a person is shown ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an approval's subject. `command`: prints the whole part, if a long one may be cut; else it is never cut."""

    title: str
    text: str
    command: str = ""


def shown(project: Project, found: Matter, since: Statement | None) -> list[Part]:
    """Return the parts of the subject; `since`: this person's last approval or rejection, to show the changes.

    The caller makes escape sequences visible.
    """
    git, subject, seen = project.git, found.requirement.subject, found.seen
    folder = paths.folder(seen.protocol)
    view = permissions.view_of(project, seen, found.plan, found.state)
    born = list(view.chain)[-1]
    parts: list[Part] = []
    if subject.kind == "call":
        data = git.blob(f"{seen.tip}:{folder}/{paths.call_file(subject.name)}") or b""
        parts.append(Part(f"{subject}, {len(data)} bytes", _text(data)))
    elif subject.kind in ("plan", "step"):
        names = [step.file for step in found.plan.steps if subject.slug in ("", step.slug)]
        for name in (paths.PLAN, paths.CONTEXT, *names) if subject.kind == "plan" else names:
            text = git.blob(f"{seen.tip}:{folder}/{name}")
            if text is not None:
                parts.append(Part(name, _text(text)))
    if subject.kind == "step":
        parts.append(
            Part(
                f"the whole tree, changed since {born[:7]}",
                _diff(project, seen, born, "--stat") or "nothing",
                f"git diff {born[:12]} {seen.tip[:12]}",
            )
        )
    elif subject.kind not in ("plan", "call"):
        start = view.began(subject) if subject.slug else born
        parts.append(_changes(project, f"changes since {start[:7]}", start, seen))
    if since is not None and since.seen != seen.tip:
        changed = git.changed(since.seen, seen.tip).items()
        only = sorted(path for path, pair in changed if view.binds(subject, path, pair))
        title = f"changed since your last {NOUNS[since.decision]}, {since.seen[:7]}"
        parts.append(_changes(project, title, since.seen, seen, only))
    parts.append(Part("the signature covers", "\n".join(view.bound(subject))))
    return parts


def _changes(project: Project, title: str, start: str, seen: Snapshot, only: Sequence[str] | None = None) -> Part:
    """Return a diff, of the paths in `only` alone where they are given."""
    if only is not None and len(only) <= PATHS:
        text = _diff(project, seen, start, only=only) if only else ""
        return Part(title, text or "nothing that the signature covers", f"git diff {start[:12]} {seen.tip[:12]}")
    text = _diff(project, seen, start) or "nothing but the record"
    return Part(title, text, f"git diff {start[:12]} {seen.tip[:12]}")


def not_committed(project: Project, found: Matter) -> list[str]:
    """Return the plan files that are changed in a worktree and not committed: the next step picks them up."""
    protocol = found.seen.protocol
    return [name for _, names in record.unsaved(project.git, project.branch(protocol), protocol) for name in names]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# The parts of a protocol's folder that a signature does not cover.
_RECORD = ("state.json", "log.md", "log", "calls", "reports", "approvals")


def _diff(project: Project, seen: Snapshot, old: str, *options: str, only: Sequence[str] = ()) -> str:
    """Return the changes up to a snapshot but those of its protocol's record and approvals, as a diff; `only`: of these paths."""
    without, parts = ("", ()) if only else (seen.protocol, _RECORD)
    words = ("--no-renames", *options)
    out = record.diff(project.git, old, seen.tip, *words, without=without, parts=parts, only=only)
    return out.decode("utf-8", "backslashreplace")
