"""Whose keys count, and for what: `.protocols/allowed_signers` and `.protocols/revoked_keys` of the trusted branch, read and linted.

Pure: bytes in, keys out. ssh-keygen skips a line that it cannot read and goes on; here one bad line refuses the whole file, so
that no typing error takes a person's word away in silence. Who may do what with a key that is listed is the policy's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

FILE = ".protocols/allowed_signers"
REVOKED = ".protocols/revoked_keys"
OPENPGP = ".protocols/openpgp/"  # PRINCIPAL.asc: one public key, armoured
APPROVAL, GIT, SYNC, SEAL = "runner-approval", "git", "runner-sync", "runner-seal"
NAMESPACES = (GIT, APPROVAL, SYNC, SEAL)
MACHINES = frozenset({GIT, SYNC, SEAL})  # what a key of a runner's or an agent's may be listed for


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public SSH key of a known type. `blob`: as the wire has it, in its one canonical form; two keys are the same by it."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and base64 without padding, as ssh-keygen shows it."""
        raise NotImplementedError

    def __str__(self) -> str:
        """`ssh-ed25519 AAAA…`, as a line of a .pub file without its comment."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Signer:
    """A line of allowed_signers. Times in seconds since 1970, both ends within; `line` counts from 1."""

    principal: str
    namespaces: frozenset[str]
    key: PublicKey
    valid_after: int | None
    valid_before: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A line of revoked_keys. `since`: seconds since 1970 from when on it does not count, or None: it never did."""

    key: PublicKey
    since: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Signers:
    """Every key that is listed. `openpgp`: principal to the bytes of the one key file."""

    ssh: tuple[Signer, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    openpgp: Mapping[str, bytes] = field(default_factory=dict)

    def of_key(self, key: PublicKey) -> Signer | None:
        """Return the one line that lists the key, or None."""
        raise NotImplementedError

    def revocation(self, key: PublicKey) -> Revoked | None:
        """Return the line that revokes the key, or None."""
        raise NotImplementedError


def read_key(text: str) -> PublicKey:
    """Return the key that `ssh-ed25519 AAAA… comment` is, as in a .pub file.

    Raises:
        ValueError: of no known type, weak, or not in its canonical form; the message says which.
    """
    raise NotImplementedError


def key_of_blob(blob: bytes) -> PublicKey:
    """Return the key that these bytes of the wire are.

    Raises:
        ValueError: of no known type, weak, or not in its canonical form; the message says which.
    """
    raise NotImplementedError


def parse(allowed: bytes | None, revoked: bytes | None = None, openpgp: Mapping[str, bytes] | None = None) -> Signers:
    """Return what the files of the trusted branch list. None: there is no such file, and nobody is listed or revoked.

    `openpgp`: file names within OPENPGP to their bytes.

    Raises:
        MalformedFileError: a line that ssh-keygen would skip, read otherwise, or that says too much; `where` is `path:line`.
    """
    raise NotImplementedError


def check_agents(signers: Signers, agents: Collection[str]) -> None:
    """Check that no key of a runner's or an agent's is listed for approvals. `agents`: the policy's principals.

    Raises:
        MalformedFileError: one is; `where` is `path:line`.
    """
    raise NotImplementedError
