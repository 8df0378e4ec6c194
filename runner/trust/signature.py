"""Signatures: made with what a person's own git signs with, and judged to a value that says what is wrong with one.

SSH signatures (PROTOCOL.sshsig) are judged by `cryptography`, and by `ssh-keygen -Y verify` the same: tests hold the two to one
verdict. OpenPGP ones are judged by gpg's status lines in a GNUPGHOME of its own, never by its exit code. Nothing of a
repository's configuration is executed, and nothing of a person's is needed to judge. Whether a word counts is judged above.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runner.errors import UsageError
from runner.git import Git
from runner.protocol.statement import NAMESPACE, Form
from runner.trust.signers import Signers


class Outcome(StrEnum):
    """What a signature is. Only GOOD is good; the order is that in which they are told where several hold."""

    MALFORMED = "malformed"  # not one signature in canonical form, or by a key of a type that is not taken
    BAD = "bad"  # the mathematics fails: other bytes, another namespace, another key
    REVOKED = "revoked"  # sound, by a key that is in revoked_keys
    UNTRUSTED = "untrusted"  # sound, by a key that is not listed for this principal and namespace
    NOT_YET = "not-yet"  # sound, by a key that is valid later only
    EXPIRED_KEY = "expired-key"  # sound, by a key whose time is over
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `fingerprint`: the key that made it, `SHA256:…` or OpenPGP's 40 hex digits; empty where malformed.

    `reason`: one line for a person; empty where good.
    """

    outcome: Outcome
    fingerprint: str
    reason: str

    @property
    def ok(self) -> bool:
        """Whether it is good."""
        return self.outcome is Outcome.GOOD


class Method(StrEnum):
    """Which implementation judges an SSH signature."""

    LIBRARY = "cryptography"
    SSH_KEYGEN = "ssh-keygen"


def verify(
    signature: bytes,
    text: bytes,
    *,
    namespace: str,
    principal: str,
    signers: Signers,
    at: int,
    vouched: bool = False,
    method: Method = Method.LIBRARY,
) -> Verdict:
    """Judge an armoured signature over `text` as `principal`'s, for `namespace`, with keys as they are valid at `at`.

    `at`: seconds since 1970, told by somebody who is trusted; never the statement's own `issued`. `vouched`: somebody vouches
    for that time, so a revocation with a later `since` does not reach back to it. The signature's first line says whether it is
    SSH or OpenPGP.

    Raises:
        UsageError: the program that is needed (ssh-keygen, gpg) is not on this machine, or does not work.
    """
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What the person signs with. `fingerprint` as in a Verdict. `public`: `ssh-ed25519 AAAA…`, or the OpenPGP fingerprint.

    `program`: the words that start the program, of the person's own configuration. `file`: what ssh-keygen's `-f` is given;
    empty for a key that only the agent has.
    """

    form: Form
    public: str
    fingerprint: str
    program: tuple[str, ...]
    file: str


class SigningError(UsageError):
    """No signature could be made; nothing was written."""


def signing_key(git: Git) -> SigningKey:
    """Return the key that the person's git signs with: `user.signingkey`, a `key::` literal, `gpg.ssh.defaultKeyCommand`.

    The public half is enough; nothing is asked for yet.

    Raises:
        SigningError: none is set up, or it cannot be read; the hint says what to type.
    """
    raise NotImplementedError


def sign(key: SigningKey, text: bytes, namespace: str = NAMESPACE) -> bytes:
    """Return the armoured signature over `text`. The program may ask for a passphrase or a touch at the terminal.

    Raises:
        SigningError: the program is missing, the agent refused, nobody touched the key, or gpg has no terminal.
    """
    raise NotImplementedError
