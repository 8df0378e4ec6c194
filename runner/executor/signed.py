"""The runner's signature under its transitions, where the policy says `transitions: signed` (design §4, §5).

The key is the one that RUNNER_SIGNING_KEY names, a file as `user.signingkey` has it; else the one that the person's git signs with.
What a runner does has to be signed by one of the policy's `agents`; what a person says may have that person's own key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.executor import consent
from runner.protocol import paths
from runner.protocol import seal as seal_
from runner.protocol.events import Event
from runner.store.project import Project

if TYPE_CHECKING:
    from runner.trust.signing import SigningKey

KEY = "RUNNER_SIGNING_KEY"


def signer(project: Project, events: Sequence[Event] | None = None) -> Callable[[bytes], bytes] | None:
    """Return what signs a transition with these events; None where none is wanted. Without `events`: one that does something.

    Raises:
        UsageError: there is no such key here, or it is not listed for that.
    """
    if not consent.is_read(project) and project.trusted.blob(project.git, paths.POLICY) is None:
        return None
    found = consent.of(project)
    if found.policy is None or found.policy.words.transitions != "signed":
        return None
    from runner.trust import signers, signing
    from runner.trust.acts import is_said

    named = project.who.environ.get(KEY)
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
    named = project.who.environ.get(KEY)
    if not named or project.trusted.blob(project.git, paths.POLICY) is None:
        return {}
    from runner.trust import sealing, signers, signing

    found = consent.of(project)
    key: SigningKey = signing.ssh_key(project.git, named)
    lines = [one for one in found.signers.ssh if signers.SEAL in one.namespaces and str(one.key) == key.public]
    who = next((one.principal for one in lines if one.principal in found.agents), None)
    if who is None:
        return {}
    said = sealing.of(project.git, protocol, found.repo, who, tip, project.who.timestamp())
    assert said is not None  # a transition, made just now
    text = seal_.render(said)
    return {seal_.FILE: text + signing.sign(key, text, namespace=seal_.NAMESPACE)}
