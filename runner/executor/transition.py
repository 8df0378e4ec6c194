"""The commit of a transition: prepared with the project's identities, signed where the policy says so, and published.

RUNNER_SIGNING_KEY names the key that signs, a file like that of `user.signingkey`; the default is the key that the person's git signs
with (design §4, §5). One of the policy's `agents` signs the work of a runner; a person may sign their own events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.executor import permissions
from runner.executor.outcome import Outcome
from runner.protocol import approval_file, paths
from runner.protocol.events import Event
from runner.protocol.state import Status
from runner.store import history, publishing, transaction
from runner.store.environment import write_checkpoint
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.store.transaction import RefUpdate
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.trust.signing import SigningKey

KEY = "RUNNER_SIGNING_KEY"


@dataclass(frozen=True, slots=True)
class EvaluatedAt:
    """The time at which approvals were judged, and the trusted commit whose policy judged them: work takes long, and both change."""

    time: str
    trusted: str


def prepare(
    project: Project,
    seen: Snapshot,
    events: Sequence[Event],
    tree: str | None = None,
    *,
    as_person: bool = False,
    outcome: Outcome | None = None,
    evaluated: EvaluatedAt | None = None,
) -> transaction.Transition:
    """Write the commit of a transition. `outcome`: has its author and more files; `evaluated`: None where no approval was judged."""
    author = outcome.author if outcome else None
    return transaction.prepare(
        project.git,
        seen,
        events,
        transaction.Provenance(
            time=project.env.timestamp(),
            actor=project.actor(),
            trusted=evaluated.trusted if evaluated else project.trusted.commit,
            judged=evaluated.time if evaluated else None,
            author=project.person() if as_person else author or project.runner(),
            committer=project.runner() if author else None,
            sign=as_person and not project.speaker,
            sign_with=signer(project, events),
        ),
        tree=tree,
        more=outcome.record if outcome else None,
    )


def publish(
    project: Project,
    seen: Snapshot,
    made: transaction.Transition,
    also: dict[str, tuple[str | None, str | None]] | None = None,
    outcome: Outcome | None = None,
) -> None:
    """Move the branch to a transition, here and on the remote as the project is configured, with the refs that belong to it.

    Raises:
        ConflictError: the branch moved since `seen`. InTheWayError, HeldError: as for `commit`.
    """
    branch = project.branch(seen.protocol)
    filed = file(project, seen.protocol, made, outcome)
    update = RefUpdate(branch, seen.tip, made.commit, "runner: transition", {**(also or {}), **filed})
    push = publishing.pusher(project, seen.protocol, made.commit, filed=next((new for new, _ in filed.values()), None))
    transaction.publish(project.git, project.dirs, project.env, update, push)
    write_checkpoint(project.dirs, seen.protocol, made.commit, made.state.genesis)
    project.seen = made.seen


def file(
    project: Project,
    protocol: str,
    made: transaction.Transition,
    outcome: Outcome | None = None,
) -> dict[str, tuple[str, str | None]]:
    """Write the history commit of a transition; return how the history's ref has to move with the branch.

    There is one for the outcome's files, and beside every transition of a protocol that has ended, each of which may be the last.
    """
    ended = made.state.status in (Status.COMPLETED, Status.CANCELLED)
    files, keeps = (outcome.files, outcome.keeps) if outcome else ({}, ())
    if ended:
        files = {**files, **seal(project, protocol, made.commit)}
    if not (files or ended):
        return {}
    added = history.add(project.git, protocol, files, made.commit, project.runner(), keeps)
    return {history.ref_of(protocol): added}


# --- signatures --------------------------------------------------------------------------------------------------------


def signer(project: Project, events: Sequence[Event] | None = None) -> Callable[[bytes], bytes] | None:
    """Return what signs a transition with these events; None where none is wanted. Without `events`: one that does something.

    Raises:
        UsageError: there is no such key here, or it is not listed for that.
    """
    if not permissions.is_read(project) and project.trusted.blob(project.git, paths.POLICY) is None:
        return None
    found = permissions.trusted_config(project)
    if found.policy is None or found.policy.content.transitions != "signed":
        return None
    from runner.trust import signers, signing
    from runner.trust.rules.permissions import is_said

    named = project.env.environ.get(KEY)
    key = signing.ssh_key(project.git, named) if named else signing.signing_key(project.git)
    lines = [one for one in found.signers.ssh if signers.GIT in one.namespaces and str(one.key) == key.public]
    said = events is not None and all(map(is_said, events))
    if not any(one.principal in found.agents or said for one in lines):
        whose = f"is {lines[0].principal}'s" if lines else "is not listed"
        raise UsageError(
            f"what a runner does has to be signed by one of `agents`, and the key {key.fingerprint} {whose}",
            f"{found.policy.at('transitions')}; {KEY if named else 'user.signingkey'}",
            f'name a key in {KEY} that .protocols/allowed_signers has for one of `agents`, with namespaces="git"',
        )
    return lambda data: signing.sign(key, data, namespace=signers.GIT)


def seal(project: Project, protocol: str, tip: str) -> dict[str, bytes]:
    """Return the file that seals a protocol which ended with the transition `tip`, by its name in the history.

    There is none without a policy, or where RUNNER_SIGNING_KEY names no key that is listed to seal for one of `agents`.
    """
    named = project.env.environ.get(KEY)
    if not named or project.trusted.blob(project.git, paths.POLICY) is None:
        return {}
    from runner.trust import signers, signing
    from runner.trust.rules import seal

    found = permissions.trusted_config(project)
    key: SigningKey = signing.ssh_key(project.git, named)
    lines = [one for one in found.signers.ssh if signers.SEAL in one.namespaces and str(one.key) == key.public]
    who = next((one.principal for one in lines if one.principal in found.agents), None)
    if who is None:
        return {}
    said = seal.of(project.git, protocol, found.repo, who, tip, project.env.timestamp())
    assert said is not None  # a transition, made just now
    text = approval_file.render_seal(said)
    return {paths.SEAL: text + signing.sign(key, text, namespace=approval_file.SEAL_NAMESPACE)}
