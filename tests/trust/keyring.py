"""Real keys, made once per run by ssh-keygen; security keys made of software, since no test can touch one."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from runner.trust import signers
from runner.trust.signers import PublicKey

MADE = {
    "ed25519": ("-t", "ed25519"),
    "ecdsa-256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa-384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa-521": ("-t", "ecdsa", "-b", "521"),
    "rsa": ("-t", "rsa", "-b", "3072"),
}
NAMES = (*MADE, "sk-ed25519", "sk-ecdsa")
APPLICATION = b"ssh:"


def string(data: bytes) -> bytes:
    """Return an SSH string."""
    return len(data).to_bytes(4, "big") + data


def mpint(number: int) -> bytes:
    """Return an SSH mpint."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def armour(blob: bytes) -> bytes:
    """Return a signature as ssh-keygen writes it."""
    text = base64.b64encode(blob).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def dearmour(signature: bytes) -> bytes:
    """Return what is in the armour."""
    return base64.b64decode(b"".join(signature.splitlines()[1:-1]))


def signed_bytes(text: bytes, namespace: bytes, hash_: str) -> bytes:
    """Return what the key really signs (PROTOCOL.sshsig)."""
    digest = hashlib.new(hash_, text).digest()
    return b"SSHSIG" + string(namespace) + string(b"") + string(hash_.encode()) + string(digest)


def blob(
    key: bytes,
    inner: bytes,
    namespace: bytes,
    *,
    hash_: bytes = b"sha512",
    magic: bytes = b"SSHSIG\0\0\0\1",
    reserved: bytes = b"",
) -> bytes:
    """Return the bytes of a signature."""
    return magic + string(key) + string(namespace) + string(reserved) + string(hash_) + string(inner)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and how it signs. `file`: the private half, where ssh-keygen made it."""

    name: str
    public: PublicKey
    file: Path | None
    inner: Callable[[bytes], bytes]

    def sign(self, text: bytes, namespace: str = "runner-approval", hash_: str = "sha512") -> bytes:
        """Return an armoured signature, by ssh-keygen where it made the key."""
        if self.file is not None:
            words = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(self.file), "-O", f"hashalg={hash_}"]
            return subprocess.run(words, input=text, capture_output=True, check=True).stdout
        inner = self.inner(signed_bytes(text, namespace.encode(), hash_))
        return armour(blob(self.public.blob, inner, namespace.encode(), hash_=hash_.encode()))


def _by_software(name: str) -> Key:
    kind = signers.SK_ED25519 if name == "sk-ed25519" else signers.SK_ECDSA
    extra = b"\x01" + (7).to_bytes(4, "big")  # touched, the seventh time

    def message(data: bytes) -> bytes:
        return hashlib.sha256(APPLICATION).digest() + extra + hashlib.sha256(data).digest()

    if name == "sk-ed25519":
        private = ed25519.Ed25519PrivateKey.generate()
        point = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        public = string(kind.encode()) + string(point) + string(APPLICATION)
        return Key(
            name,
            signers.key_of_blob(public),
            None,
            lambda data: string(kind.encode()) + string(private.sign(message(data))) + extra,
        )
    secret = ec.generate_private_key(ec.SECP256R1())
    point = secret.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    public = string(kind.encode()) + string(b"nistp256") + string(point) + string(APPLICATION)

    def inner(data: bytes) -> bytes:
        r, s = utils.decode_dss_signature(secret.sign(message(data), ec.ECDSA(hashes.SHA256())))
        return string(kind.encode()) + string(mpint(r) + mpint(s)) + extra

    return Key(name, signers.key_of_blob(public), None, inner)


def make(folder: Path, name: str) -> Key:
    """Make a key of one of NAMES."""
    if name not in MADE:
        return _by_software(name)
    file = folder / f"{name}-{len(list(folder.iterdir()))}"
    subprocess.run(["ssh-keygen", "-q", *MADE[name], "-N", "", "-C", name, "-f", str(file)], check=True)
    public = signers.read_key(Path(f"{file}.pub").read_text())

    def inner(data: bytes) -> bytes:
        raise AssertionError(f"{name} signs by ssh-keygen")

    return Key(name, public, file, inner)
