"""A seal, `runner-seal/v1`: what a protocol came to, signed by a runner, as the file `seal` of its history's last commit (design §4).

Promised here is the grammar: one anchored expression over bytes. Whose signature it is, and whether the chain came to that, is
trust.sealing's.
"""

from __future__ import annotations

import re
from dataclasses import fields

from runner.errors import IntegrityError
from runner.protocol.approval_file import PRINCIPAL
from runner.protocol.ids import DIGEST, OID
from runner.values import dataclass

NAMESPACE = "runner-seal"
LIMIT = 8192  # bytes


@dataclass(frozen=True, slots=True)
class Seal:
    """The signed text, a field a line. `tip`: the transition that ended it; `state`: the digest of its state.json's bytes, which
    names the log's; `signer`: the principal whose line in allowed_signers has the key."""

    repo: str
    protocol: str
    genesis: str
    revision: str
    tip: str
    tree: str
    state: str
    signer: str
    time: str


_VALUES = {
    "repo": "[0-9a-f]{32}",
    "protocol": r"[0-9]{4,9}-[a-z0-9-]{1,60}",
    "genesis": DIGEST.pattern,
    "revision": "[1-9][0-9]{0,9}",
    "tip": OID.pattern,
    "tree": OID.pattern,
    "state": DIGEST.pattern,
    "signer": PRINCIPAL,
    "time": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
}
assert list(_VALUES) == [field.name for field in fields(Seal)]
_FILE = re.compile(
    (
        "(?P<text>runner-seal/v1\n"
        + "".join(rf"{name}: (?P<{name}>{value})\n" for name, value in _VALUES.items())
        + r")(?P<signature>-----BEGIN SSH SIGNATURE-----\n(?:[A-Za-z0-9+/=]{1,76}\n){1,90}-----END SSH SIGNATURE-----\n)"
    ).encode()
)


def render(seal: Seal) -> bytes:
    """Return the bytes that are signed; the signature follows them in the file."""
    lines = [f"{name}: {getattr(seal, name)}\n" for name in _VALUES]
    return ("runner-seal/v1\n" + "".join(lines)).encode("ascii")


def parse(data: bytes, where: str) -> tuple[Seal, bytes, bytes]:
    """Return (the seal, the signed bytes, the armoured signature).

    Raises:
        IntegrityError: it is no seal.
    """
    match = _FILE.fullmatch(data) if len(data) <= LIMIT else None
    if match is None:
        raise IntegrityError(
            "it is no seal in its form", where, "fetch the history anew, from a clone that has it whole"
        )
    return Seal(**{name: match[name].decode() for name in _VALUES}), match["text"], match["signature"]
