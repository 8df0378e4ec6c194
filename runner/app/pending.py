"""Approvals of a protocol that no transition has recorded yet, and who can give the one that is missing.

Judged by the trusted branch as last fetched; the network is not asked, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from runner.errors import MalformedFileError, RefusedError, RunnerError
from runner.executor import advance, permissions
from runner.git import Git
from runner.protocol import approval_file
from runner.protocol import events as ev
from runner.protocol.approval_file import Form
from runner.protocol.state import ACTIVE, OF_WORK, State, Wait
from runner.store import record, snapshot
from runner.store.project import Project, Session
from runner.trust import approval, permit, signature, signers
from runner.trust.approval import ApprovalStatus
from runner.trust.manifest import Subject
from runner.trust.requirements import ApprovalRequirement
from runner.trust.signature import SigningKey
from runner.trust.transitions import ApprovalFile, before_work
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import View


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """The unrecorded approvals of a wait. `missing`: whose approval it still needs; empty if the next transition resumes it."""

    wait: str
    approvals: tuple[ApprovalFile, ...]
    missing: str


class Pending:
    """The approvals of a protocol at the commit `tip` that no transition has recorded. `name`: the protocol's, in commands."""

    def __init__(self, session: Session, protocol: str, tip: str, name: str) -> None:
        self._session, self._protocol, self._tip, self._name = session, protocol, tip, name

    @cached_property
    def _view(self) -> View:
        seen = snapshot.read(self._session.git, self._tip, self._protocol)
        plan = advance.consider(self._session, seen)[0]
        return permissions.view_of(self._session.project, seen, plan, seen.state)

    @property
    def _state(self) -> State:
        return self._view.state

    @property
    def _trusted(self) -> TrustedConfig:
        return self._view.trusted

    def unrecorded(self) -> list[Unrecorded]:
        """Return the unrecorded approvals of each wait that has some; none if that is unknown.

        They are judged only if the branch has an approval that the log does not name.
        """
        if not record.has_unrecorded_approvals(self._session.git, self._protocol, self._tip):
            return []
        try:
            return self._judged()
        except RunnerError as error:
            self._session.env.say(f"{self._protocol}: its approvals cannot be judged: {error.what} ({error.where})")
            return []

    def _judged(self) -> list[Unrecorded]:
        made = []
        for wait in self._state.waiting:
            if (status := self._status(wait)) is None:
                continue
            found = sorted((*status.counted, *status.rejected, *status.refused), key=lambda one: one.order)
            if found:
                last = {one.approver: one.order for one in found}
                given = (one for one in found if one.rejection is None or one.order == last[one.approver])
                made.append(Unrecorded(wait.id, tuple(given), missing(status)))
        return made

    def decided(self) -> list[ev.ApprovalCounted | ev.CallDecided]:
        """Return the events by which the next transition records the waits that have all their approvals."""
        if self._state.status not in ACTIVE:
            return []
        judged = ((wait, self._status(wait)) for wait in self._state.waiting)
        return [event for wait, status in judged if status and (event := approval.decided(wait, status)) is not None]

    def instead(self, wait: str) -> str:
        """Return who can give the approval that waits, or how another person's could count; empty if the person here can."""
        waits = next((one for one in self._state.waiting if one.id == wait), None)
        status = None if waits is None or self._trusted.policy is None else self._status(waits)
        return "" if status is None else self._instead(status)

    def before_merge(self) -> str | None:
        """Return who can approve the merge, where the policy requires that, or end its rejection; empty if the person here can.

        None: it can be merged.
        """
        status = permit.merge_status(self._view)
        is_due = status.rejected or (self._trusted.requires("merge") and status.missing)
        return self._instead(status) if is_due else None

    def _instead(self, status: ApprovalStatus) -> str:
        trusted, name = self._trusted, self._name
        if status.rejected:
            return self._withdrawn(status)
        given = {one.approver for one in status.counted}
        needs = status.requirement.thresholds
        wanted = frozenset[str]().union(*(need.people for need in needs if len(given & need.people) < need.count))
        if not wanted:
            return ""
        subject = status.requirement.subject
        if (unsigned := approval.unsigned(self._view, subject)) is not None:
            return (
                f"sign {unsigned.oid[:12]}, which wrote it, by a listed key, then runner doctor --fix {name}; "
                f"or change `own_work` in {trusted.where}"
            )
        left = sorted(one for one in wanted - given if not self._wrote(subject, one))
        if (me := _me(self._session, trusted)) in left:
            return self._unsigned(status.requirement, me)
        unable = {one: why for one in left if (why := self._why_unable(status.requirement, one)) is not None}
        if left and len(unable) == len(left):
            return unable[left[0]].hint
        if left:
            return f"runner approve {name}, by {' or '.join(one for one in left if one not in unable)}"
        people = ", ".join(sorted(wanted))
        return f"add another person to a role in {trusted.where}, or write `own_work: allow` there: {people} wrote it"

    def _unsigned(self, needed: ApprovalRequirement, me: str) -> str:
        """Return how the person here, who may approve, comes to a key that counts; empty if they have one or can review instead."""
        trusted = self._trusted
        if trusted.policy is None or (needed.reviews and any(me in of for of in trusted.policy.content.forge.values())):
            return ""
        try:
            listed(self._session.project, trusted, signature.signing_key(self._session.git), me)
        except RunnerError as error:
            return f"{error.hint}, then runner approve {self._name}"
        return ""

    def unattainable(self) -> Iterator[RunnerError]:
        """Yield an error for each wait that no person can end: no such role, or too few people who can approve it."""
        for wait in self._state.waiting:
            try:
                status = self._status(wait)
            except (MalformedFileError, RefusedError) as error:
                yield error
                continue
            why = self._too_few(status) if status is not None else None
            if why is not None:
                yield why

    def _too_few(self, status: ApprovalStatus) -> RunnerError | None:
        """Return the error of an approval that too few people can give; None where enough can."""
        given, needed = {one.approver for one in status.counted}, status.requirement
        for need in needed.binding:
            left = sorted(need.people - given)
            unable = [why for one in left if (why := self._why_unable(needed, one)) is not None]
            if len(need.people) - len(unable) < need.count:
                what = f"{needed.subject} waits for {need.who}: {'; '.join(one.what for one in unable)}"
                return MalformedFileError(what, unable[0].where, unable[0].hint)
        return None

    def _why_unable(self, needed: ApprovalRequirement, person: str) -> RunnerError | None:
        """Return why a person cannot approve: they wrote it, or have no key that counts. None where they can."""
        trusted = self._trusted
        assert trusted.policy is not None
        if self._wrote(needed.subject, person):
            return MalformedFileError(
                f"{person} wrote it",
                trusted.policy.at("own_work"),
                f"add another person to a role in {trusted.where}, or write `own_work: allow` there",
            )
        if needed.reviews and any(person in accounts for accounts in trusted.policy.content.forge.values()):
            return None
        if not needed.signed:
            hint = f"add the number of their account to `forge:` in {trusted.where}"
            return MalformedFileError(f"no account of {person} is listed", trusted.policy.at("forge"), hint)
        why, line = trusted.signers.why_unable(person, self._view.at)
        if not why:
            return None
        where, about = f"{signers.FILE} on {trusted.branch}", approval_file.NAMESPACE
        one = next((one for one in trusted.signers.ssh if one.line == line), None)
        new = "new " if one is not None else ""
        hint = (
            f'add the line `{person} namespaces="git,{about}" KEY` to {where}, '
            f"where KEY is the first two words of their {new}.pub file"
        )
        if one is not None and about not in one.namespaces:
            hint = f'write namespaces="{",".join(sorted({*one.namespaces, about}))}" in line {line} of {where}'
        elif one is not None and trusted.signers.revocation(one.key, self._view.at, vouched=False) is None:
            hint = f"change the times in line {line} of {where}; or, for another key, {hint}"
        return MalformedFileError(why, f"{where}:{line}" if line else where, hint)

    def _wrote(self, subject: Subject, person: str) -> bool:
        keys = {line.key.fingerprint for line in self._trusted.signers.ssh if line.principal == person}
        return approval.wrote(self._view, subject, person, keys) is not None

    def _status(self, wait: Wait) -> ApprovalStatus | None:
        """Return the status of a wait; None if it needs no signed approval."""
        if wait.type.ended_by != "approval" or self._view.plan is None:
            return None
        status = approval.status_of(self._view, wait)
        return None if status is None or status.requirement.keyboard else status

    def _withdrawn(self, status: ApprovalStatus) -> str:
        """Return what ends a rejection; empty if it is only the person's here, who can approve instead."""
        me, subject = _me(self._session, self._trusted), status.requirement.subject
        others = sorted({one.approver for one in status.rejected} - {me})
        instead = after_rejection(self._session.git, self._state.protocol, self._view.tip, subject, self._name)
        if not others and (
            approval.unsigned(self._view, subject) or self._wrote(subject, me)
        ):  # their approval would not count
            return f"runner revoke {self._name}{f', or {instead}' if instead else ''}"
        if not others:
            return f"{instead}, or runner approve {self._name}" if instead else ""
        return f"runner revoke {self._name}, by {' and '.join(others)}{f', or {instead}' if instead else ''}"


def after_rejection(git: Git, protocol: str, tip: str, subject: Subject, name: str) -> str:
    """Return the command that changes the rejected work: it edits the plan file, or reverts the work so that the step runs again.

    Empty where there is none. `name`: the protocol's, in commands.
    """
    if subject.kind in OF_WORK:
        return f"runner undo {name}@{before_work(git, protocol, tip, subject.slug)}"
    return f"runner edit {name} {subject.slug}".rstrip() if subject.kind in ("plan", "step") else ""


def missing(stands: ApprovalStatus) -> str:
    """Return what a required approval still waits for, for people; empty if nothing is missing."""
    if stands.rejected and stands.requirement.subject.kind == "call":
        return ""  # its agent gets the rejection as a result, and continues
    if stands.rejected:
        who = " and ".join(one.approver for one in stands.rejected)
        return f"a revocation by {who}, or an edit of the rejected content"
    return stands.missing


def _me(session: Session, found: TrustedConfig) -> str:
    """Return whose approval the person's here would be: by their key, else by their address."""
    email = session.person().email.lower()
    try:
        return listed(session.project, found, signature.signing_key(session.git), email)
    except RunnerError:
        return email


def listed(project: Project, found: TrustedConfig, key: SigningKey, email: str) -> str:
    """Return the principal whose key it is.

    Raises:
        RefusedError: the trusted branch does not list it for approvals.
    """
    if key.form is Form.OPENPGP:
        if email in found.signers.openpgp:
            return email
        raise RefusedError(
            f"your OpenPGP key {key.fingerprint} is not listed",
            f"{signers.OPENPGP} on {found.branch}",
            f"have `gpg --armor --export {key.fingerprint}` put into {signers.OPENPGP}{email}.asc there",
        )
    public = signers.read_key(key.public)
    line = found.signers.of_key(public)
    where = f"{signers.FILE} on {found.branch}"
    if line is None:
        lists = ""
        if project.trusted.blob(project.git, signers.FILE) is None:  # what `init` does once
            lists = "`runner init --commit --yes` lists it in the branch that you are on, if it is yours to change; or "
        raise RefusedError(
            f"your key {key.fingerprint} is not listed",
            where,
            without_force(project, signers.FILE)
            or f'{lists}have this line added there: {email} namespaces="git,{approval_file.NAMESPACE}" {public}',
        )
    if approval_file.NAMESPACE not in line.namespaces:
        raise RefusedError(
            f"your key {key.fingerprint} is listed for {', '.join(sorted(line.namespaces))}, not for approvals",
            f"{where}:{line.line}",
            f'have "{approval_file.NAMESPACE}" added to its namespaces',
        )
    if found.signers.revocation(public, at=0, vouched=False) is not None:
        raise RefusedError(
            f"your key {key.fingerprint} is revoked", f"{signers.REVOKED} on {found.branch}", "use your new key"
        )
    return line.principal


def without_force(project: Project, path: str) -> str:
    """Return what gives a file of the trusted branch force that was changed here and is not there yet; else empty."""
    git, trusted = project.git, project.trusted
    if trusted.remote is None:
        head = git.resolve("HEAD")
        here, how = head, f"merge that into {trusted.branch}"
    else:
        here = git.resolve(f"refs/heads/{trusted.branch}")
        how = f"`git push {trusted.remote} {trusted.branch}`"
    data = git.blob(f"{here}:{path}") if here else None
    if here is None or data is None or data == trusted.blob(git, path):
        return ""
    shared = git.merge_base(here, trusted.commit)
    if shared is not None and data == git.blob(f"{shared}:{path}"):
        return ""  # it was changed there since, not here: this checkout is behind
    there = f"{trusted.branch} of {trusted.remote}" if trusted.remote else trusted.branch
    return f"{path} as committed here has no effect until it is on {there}: {how}"
