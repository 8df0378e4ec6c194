"""Signatures: judged to a verdict with a reason, and made with what a person's own git signs with.

SSH signatures (PROTOCOL.sshsig) are judged by `cryptography`; tests hold that to the verdict of `ssh-keygen -Y verify`. OpenPGP ones
are judged by gpg's status lines in a GNUPGHOME of its own, never by its exit code. Nothing of a repository's configuration is
executed, and nothing of a person's is needed to judge. Whether an approval counts is judged above.

People sign with a key file, an ssh-agent, a security key or gpg. The programs and their arguments are those of the person's own
configuration; the repository's may name the key and nothing that is executed. A signature is verified before it is given out.
Whether the key is listed anywhere is for the caller.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from runner.errors import UsageError
from runner.git import Git
from runner.git.process import personal_environment
from runner.lines import lines_of
from runner.protocol.approval_file import NAMESPACE, PRINCIPAL, Form
from runner.trust import signers as keys
from runner.trust.signers import CURVES, ED25519, RSA, SK_ECDSA, SK_ED25519, PublicKey, Signers, Wire

LIMIT = 8192  # bytes of an armoured signature

_SSH_ARMOUR = re.compile(
    rb"-----BEGIN SSH SIGNATURE-----\n(?P<body>(?:[A-Za-z0-9+/=]{1,76}\n)+)-----END SSH SIGNATURE-----\n"
)
_PGP_BEGIN = b"-----BEGIN PGP SIGNATURE-----\n"
_L = 2**252 + 27742317777372353535851937790883648493  # the order of Ed25519's base point
_RSA_ALGORITHMS = ("rsa-sha2-256", "rsa-sha2-512")
_HASHES = ("sha256", "sha512")
_NOBODY = "nobody@example.invalid"
_LAST = 253402300799  # the last second of the year 9999
# Judging does not look at a PATH that an agent may have a folder on.
_PROGRAMS = ("/usr/bin", "/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin", "/run/current-system/sw/bin")


class SignatureOutcome(StrEnum):
    """The outcome of judging a signature. Only GOOD is good; where several hold, it is the first of these."""

    MALFORMED = "malformed"  # not one signature in canonical form, or by a key of a type that is not taken
    BAD = "bad"  # the mathematics fails: other bytes, another namespace, another key
    REVOKED = "revoked"  # sound, by a key that is in revoked_keys
    UNTRUSTED = "untrusted"  # sound, by a key that is not listed for this principal and namespace
    NOT_YET = "not-yet"  # sound, by a key that is valid later only
    EXPIRED_KEY = "expired-key"  # sound, by a key whose time is over
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a signature. `fingerprint`: of its key, `SHA256:…` or OpenPGP's 40 hex digits; empty where not known.

    `reason`: one line for a person; empty where good.
    """

    outcome: SignatureOutcome
    fingerprint: str
    reason: str

    @property
    def ok(self) -> bool:
        """Whether it is good."""
        return self.outcome is SignatureOutcome.GOOD


@dataclass(frozen=True, slots=True)
class SshSignature:
    """An SSH signature, read. `raw`: the numbers; `flags`, `counter`: a security key's own, else empty."""

    key: PublicKey
    namespace: str
    hash: str
    algorithm: str
    raw: bytes
    flags: bytes
    counter: bytes


def verify(
    signature: bytes,
    text: bytes,
    *,
    namespace: str,
    principal: str,
    signers: Signers,
    at: int,
    vouched: bool = False,
) -> Verdict:
    """Judge an armoured signature over `text` as `principal`'s, for `namespace`, with keys as they are valid at `at`.

    `principal`: any text; one that is no name is nobody's. `at`: seconds since 1970, from a trusted source; never the statement's own
    `issued`. `vouched`: that time is proven, so a revocation with a later `since` does not reach back to it. The first line
    says whether it is SSH or OpenPGP; OpenPGP has no namespaces, `text` has to say what it is for.

    Raises:
        UsageError: gpg is needed and not on this machine, or does not work.
    """
    at = min(max(at, 1), _LAST)  # a commit may claim any time; no limit of a key's lies beyond these two
    if re.fullmatch(PRINCIPAL, principal) is None:  # a commit may claim any address; such a one is nobody's
        principal, signers = _NOBODY, Signers((), signers.revoked)
    if signature.startswith(_PGP_BEGIN):
        return _openpgp(signature, text, principal, signers, at)
    try:
        found = read_ssh(signature)
    except ValueError as error:
        return Verdict(SignatureOutcome.MALFORMED, "", f"no SSH signature: {error}")
    outcome = _judge(found, text, namespace, principal, signers, at, vouched)
    return Verdict(outcome, found.key.fingerprint, _reason(outcome, found, namespace, principal, signers))


@lru_cache(maxsize=8)
def read_ssh(signature: bytes) -> SshSignature:
    """Return what an armoured SSH signature says, whether it holds or not.

    Raises:
        ValueError: it is not one signature in its canonical form, by a key of a type that is taken; the message says why.
    """
    match = _SSH_ARMOUR.fullmatch(signature) if len(signature) <= LIMIT else None
    if match is None:
        raise ValueError("the armour is not as ssh-keygen writes it")
    wire = Wire(keys.decode_base64(match["body"].replace(b"\n", b"").decode("ascii")))
    if wire.take(6) != b"SSHSIG" or wire.number() != 1:
        raise ValueError("it does not start as version 1 of the format does")
    key = keys.key_of_blob(wire.string())
    namespace, reserved, hash_, inner = wire.text(), wire.string(), wire.text(), Wire(wire.string())
    wire.end()
    if reserved:
        raise ValueError("a field that is reserved is not empty")
    if hash_ not in _HASHES:
        raise ValueError(f"the hash {hash_[:40]} is not taken")
    algorithm, raw, flags, counter = inner.text(), inner.string(), b"", b""
    if algorithm not in (_RSA_ALGORITHMS if key.type == RSA else (key.type,)):
        raise ValueError(f"a key {key.type} does not sign with {algorithm[:60]}")
    if key.type in (SK_ED25519, SK_ECDSA):
        flags, counter = inner.take(1), inner.take(4)
    inner.end()
    if key.type in (ED25519, SK_ED25519):
        # ssh-keygen takes the same signature with the group's order added to its number as well: one signature, one form.
        if len(raw) != 64 or int.from_bytes(raw[32:], "little") >= _L:
            raise ValueError("the numbers are not in their canonical form")
    elif key.type in CURVES:
        numbers = Wire(raw)
        numbers.positive(), numbers.positive()
        numbers.end()
    elif len(raw) > (_modulus(key).bit_length() + 7) // 8:
        raise ValueError("the number is longer than the key")
    return SshSignature(key, namespace, hash_, algorithm, raw, flags, counter)


def _modulus(key: PublicKey) -> int:
    wire = Wire(key.blob)
    wire.string(), wire.positive()
    return wire.positive()


def _reason(outcome: SignatureOutcome, found: SshSignature, namespace: str, principal: str, signers: Signers) -> str:
    """Return what a person should know of the outcome; nothing is decided here."""
    listed = signers.of_key(found.key)
    match outcome:
        case SignatureOutcome.GOOD:
            return ""
        case SignatureOutcome.BAD if found.namespace != namespace:
            return f"the signature was made for {found.namespace}, not for {namespace}"
        case SignatureOutcome.BAD:
            return "the signature does not match the text"
        case SignatureOutcome.REVOKED:
            line = next(one.line for one in signers.revoked if one.key == found.key)
            return f"the key is revoked, {keys.REVOKED}:{line}"
        case SignatureOutcome.UNTRUSTED if listed is None:
            return f"the key {found.key.fingerprint} is not in {keys.FILE}"
        case SignatureOutcome.UNTRUSTED if listed is not None and listed.principal != principal:
            return f"the key is that of {listed.principal}, not of {principal}, {keys.FILE}:{listed.line}"
        case SignatureOutcome.UNTRUSTED if listed is not None:
            return f"the key is not listed for {namespace}, {keys.FILE}:{listed.line}"
        case SignatureOutcome.NOT_YET | SignatureOutcome.EXPIRED_KEY if listed is not None:
            first = outcome is SignatureOutcome.NOT_YET
            limit = listed.valid_after if first else listed.valid_before
            day = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(limit or 0))
            return f"the key is valid {'from' if first else 'until'} {day} UTC, {keys.FILE}:{listed.line}"
    raise AssertionError(f"unreachable: {outcome} of {found.key.fingerprint}")


# --- SSH -------------------------------------------------------------------------------------------------------------------


def _judge(
    found: SshSignature, text: bytes, namespace: str, principal: str, signers: Signers, at: int, vouched: bool
) -> SignatureOutcome:
    if found.namespace != namespace or not holds_for(found, text):
        return SignatureOutcome.BAD
    if signers.revocation(found.key, at, vouched) is not None:
        return SignatureOutcome.REVOKED
    listed = signers.of_key(found.key)
    if listed is None or listed.principal != principal or namespace not in listed.namespaces:
        return SignatureOutcome.UNTRUSTED
    if listed.valid_after is not None and at < listed.valid_after:
        return SignatureOutcome.NOT_YET
    if listed.valid_before is not None and at > listed.valid_before:
        return SignatureOutcome.EXPIRED_KEY
    return SignatureOutcome.GOOD


@lru_cache(maxsize=1)  # the mathematics is asked about first, and then whose it is
def holds_for(found: SshSignature, text: bytes) -> bool:
    """Return whether the mathematics holds for `text` and the namespace that the signature names."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    digest = hashlib.new(found.hash, text).digest()
    signed = b"SSHSIG" + string(found.namespace.encode()) + string(b"") + string(found.hash.encode()) + string(digest)
    key = Wire(found.key.blob)
    key.string()
    try:
        if found.key.type in (ED25519, SK_ED25519):
            point = key.string()
            if found.flags:
                signed = _security_key(key.string(), found, signed)
            ed25519.Ed25519PublicKey.from_public_bytes(point).verify(found.raw, signed)
        elif found.key.type in CURVES:
            curves = {"nistp256": ec.SECP256R1(), "nistp384": ec.SECP384R1(), "nistp521": ec.SECP521R1()}
            digests = {"nistp256": hashes.SHA256(), "nistp384": hashes.SHA384(), "nistp521": hashes.SHA512()}
            curve, point = key.text(), key.string()
            if found.flags:
                signed = _security_key(key.string(), found, signed)
            numbers = Wire(found.raw)
            encoded = utils.encode_dss_signature(numbers.positive(), numbers.positive())
            public = ec.EllipticCurvePublicKey.from_encoded_point(curves[curve], point)
            public.verify(encoded, signed, ec.ECDSA(digests[curve]))
        else:
            exponent, modulus = key.positive(), key.positive()
            # A signature may come without its leading zeros, as ssh-keygen takes it.
            raw = found.raw.rjust((modulus.bit_length() + 7) // 8, b"\0")
            chosen = hashes.SHA256() if found.algorithm == "rsa-sha2-256" else hashes.SHA512()
            rsa.RSAPublicNumbers(exponent, modulus).public_key().verify(raw, signed, padding.PKCS1v15(), chosen)
    except (InvalidSignature, ValueError):  # ValueError: the key is no point of its curve
        return False
    return True


def _security_key(application: bytes, found: SshSignature, signed: bytes) -> bytes:
    """Return what a security key signs (PROTOCOL.u2f)."""
    return hashlib.sha256(application).digest() + found.flags + found.counter + hashlib.sha256(signed).digest()


# --- OpenPGP, by gpg -------------------------------------------------------------------------------------------------------

_WEAK_HASHES = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}  # RFC 4880 §9.4


def _openpgp(signature: bytes, text: bytes, principal: str, signers: Signers, at: int) -> Verdict:
    """Judge by gpg's status lines: one signature, one VALIDSIG, of exactly the one key in the principal's file.

    gpg judges keys at the clock's time and only says so; here that is done from its listing, at `at`.
    """
    listed = signers.openpgp.get(principal)
    if listed is None:
        return Verdict(SignatureOutcome.UNTRUSTED, "", f"{keys.OPENPGP} has no file of {principal}")
    program = _find("gpg", "gnupg")
    with private_folder() as folder:
        home: list[str | Path] = [
            "--homedir",
            folder,
            "--no-options",
            "--batch",
            "--no-tty",
            "--no-autostart",
            "--no-auto-key-locate",
        ]
        home += ["--no-auto-key-retrieve", "--trust-model", "always", "--ignore-time-conflict", "--ignore-valid-from"]
        _run([program, *home, "--import"], listed, folder)
        listing = _run([program, *home, "--with-colons", "--fixed-list-mode", "--list-keys"], b"", folder)[1]
        known = pgp_keys(listing.decode("utf-8", "replace"))
        primary = [one for one in known if one.primary]
        if len(primary) != 1:
            return Verdict(
                SignatureOutcome.UNTRUSTED,
                "",
                f"{keys.OPENPGP}{principal}.asc holds {len(primary)} keys, not the one of {principal}",
            )
        (folder / "signature").write_bytes(signature)
        verify = ["--status-fd", "1", "--verify", str(folder / "signature"), "-"]
        code, out, err = _run([program, *home, *verify], text, folder)
    status = [line.split()[1:] for line in lines_of(out.decode("utf-8", "replace")) if line.startswith("[GNUPG:] ")]
    told = [words[0] for words in status if words]
    if not told:
        raise UsageError(
            f"gpg did not judge a signature: {last_line(err) or code}", program, "GnuPG 2.2 or later is needed"
        )
    if told.count("NEWSIG") != 1:
        return Verdict(SignatureOutcome.MALFORMED, "", "not one OpenPGP signature")
    if "BADSIG" in told:
        return Verdict(SignatureOutcome.BAD, primary[0].fingerprint, "the signature does not match the text")
    valid = [words for words in status if words[:1] == ["VALIDSIG"]]
    if "NO_PUBKEY" in told and not valid:
        return Verdict(
            SignatureOutcome.UNTRUSTED, "", f"the key is not that of {principal}, {keys.OPENPGP}{principal}.asc"
        )
    if len(valid) != 1 or len(valid[0]) < 11:
        return Verdict(SignatureOutcome.MALFORMED, "", "gpg cannot judge the signature")
    by, created, expires, hash_, kind, of = (valid[0][index] for index in (1, 3, 4, 8, 9, 10))
    if hash_ in _WEAK_HASHES or kind != "00":
        what = (
            f"it is made with {_WEAK_HASHES[hash_]}"
            if hash_ in _WEAK_HASHES
            else "it is not over the bytes as they are"
        )
        return Verdict(SignatureOutcome.MALFORMED, of, what)
    used = [one for one in known if one.primary or one.fingerprint == by]
    if of != primary[0].fingerprint or by not in [one.fingerprint for one in known]:
        return Verdict(
            SignatureOutcome.UNTRUSTED, of, f"the key is not that of {principal}, {keys.OPENPGP}{principal}.asc"
        )
    if any(one.revoked for one in used):
        return Verdict(SignatureOutcome.REVOKED, of, f"the key is revoked, {keys.OPENPGP}{principal}.asc")
    if any(at < one.created for one in used):
        return Verdict(SignatureOutcome.NOT_YET, of, "the key was made later")
    if any(one.expires is not None and at >= one.expires for one in used) or (int(expires) and at >= int(expires)):
        return Verdict(SignatureOutcome.EXPIRED_KEY, of, "the time of the key, or of the signature, is over")
    if any(int(created) < one.created or (one.expires and int(created) >= one.expires) for one in used):
        return Verdict(SignatureOutcome.MALFORMED, of, "it says that it was made when the key was not valid")
    return Verdict(SignatureOutcome.GOOD, of, "")


@dataclass(frozen=True, slots=True)
class PgpKey:
    """A key or subkey of gpg's listing. Times in seconds since 1970."""

    primary: bool
    fingerprint: str
    created: int
    expires: int | None
    revoked: bool


def pgp_keys(listing: str) -> list[PgpKey]:
    """Return the keys and subkeys of `--with-colons` (doc/DETAILS of GnuPG)."""
    found: list[PgpKey] = []
    lines = [line.split(":") for line in lines_of(listing)]
    for parts, then in pairwise(lines):
        if parts[0] in ("pub", "sub", "sec", "ssb") and then[0] == "fpr":
            end = int(parts[6]) if parts[6] else None
            found.append(PgpKey(parts[0] in ("pub", "sec"), then[9], int(parts[5]), end, parts[1] == "r"))
    return found


# --- programs --------------------------------------------------------------------------------------------------------------


class SigningError(UsageError):
    """No signature could be made; nothing was written."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a folder that only this person can read, removed afterwards; its path is short enough for gpg's sockets."""
    import shutil
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="runner-")
    except OSError as error:
        raise UsageError(
            "no temporary folder can be written", str(error.filename), "set TMPDIR to one that can"
        ) from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find(program: str, package: str) -> str:
    """Return where a program for judging is, by fixed folders and no PATH.

    Raises:
        UsageError: it is in none of them.
    """
    from shutil import which

    found = which(program, path=os.pathsep.join(_PROGRAMS))
    if found is None:
        raise UsageError(f"there is no {program} on this machine", ", ".join(_PROGRAMS), f"install {package}")
    return found


def _run(argv: Sequence[str | Path], data: bytes, folder: Path) -> tuple[int, bytes, bytes]:
    """Run to the end with nothing of the person's environment: (exit code, output, errors)."""
    env = {"LC_ALL": "C", "TZ": "UTC", "HOME": str(folder), "PATH": os.pathsep.join(_PROGRAMS)}
    done = subprocess.run(
        [str(word) for word in argv], input=data, capture_output=True, env=env, cwd=folder, check=False
    )
    return done.returncode, done.stdout, done.stderr


def run_personal(argv: Sequence[str | Path], data: bytes, *, show_errors: bool = False) -> tuple[int, bytes, bytes]:
    """Run one of the person's programs in their environment and at their terminal: (exit code, output, errors).

    `show_errors`: they see what it says on stderr, where that is a terminal. A name is looked up in the absolute folders of
    PATH alone: the others depend on the person's current folder.
    """
    from shutil import which

    folders = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(part)]
    words = [str(word) for word in argv]
    program = which(words[0], path=os.pathsep.join(folders)) if words else None
    if program is None:
        name = words[0] if words else "an empty command"
        hint = {"ssh-keygen": "install openssh-client", "gpg": "install gnupg"}.get(name, "check the setting of git")
        raise SigningError(f"there is no {name} on this machine", "PATH", hint)
    env: Mapping[str, str] = personal_environment()
    at = terminal()
    if at is not None:
        env = {"GPG_TTY": at, **env}
    shown = show_errors and sys.stderr.isatty()
    try:
        done = subprocess.run(
            [program, *words[1:]],
            input=data,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            env=env,
            cwd="/",
            check=False,
        )
    except OSError as error:
        raise SigningError(
            f"{program} does not start: {error.strerror}", program, "check the setting of git"
        ) from error
    return done.returncode, done.stdout, done.stderr or b""


def terminal() -> str | None:
    """Return the name of the terminal that the person is at, or None."""
    for number in (0, 1, 2):
        with contextlib.suppress(OSError):
            return os.ttyname(number)
    return None


def last_line(told: bytes) -> str:
    """Return the last line of what a program said that says something."""
    lines = [line.strip() for line in lines_of(told.decode("utf-8", "replace")) if line.strip()]
    return lines[-1] if lines else ""


# --- made with what a person's own git signs with ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that a person signs with. `fingerprint` as in a Verdict. `public`: `ssh-ed25519 AAAA…`, or the OpenPGP fingerprint.

    `program`: the one to start, of the person's own configuration. `file`: what ssh-keygen's `-f` is given; empty for a key that
    only an agent has.
    """

    form: Form
    public: str
    fingerprint: str
    program: str
    file: str


def signing_key(git: Git) -> SigningKey:
    """Return the key that the person's git signs with: `user.signingkey`, a `key::` literal, `gpg.ssh.defaultKeyCommand`.

    The public half is enough; nothing is asked for yet. The repository's configuration may name the key, and no program.

    Raises:
        SigningError: none is set up, or it cannot be read; the hint says what to type.
    """
    form, named = git.setting("gpg.format"), git.setting("user.signingkey")
    if form is None and named is not None and _is_ssh(named, git):
        form = "ssh"
    if form == "ssh":
        return ssh_key(git, named)
    if form in (None, "openpgp") and (form or named):
        return _openpgp_key(git, named)
    if form is not None:
        raise SigningError(f"approvals are not signed by {form}", "gpg.format", "git config --global gpg.format ssh")
    raise SigningError("your git has no signing key", "user.signingkey", _set_up())


def check_commits(git: Git) -> None:
    """See that commits can be signed as the person's git wants them to be. Nothing is signed, and nobody is asked for anything.

    Raises:
        SigningError: no key is set up or found, its private half is nowhere, or there is no program that signs.
    """
    form, named = git.setting("gpg.format"), git.setting("user.signingkey")
    if form == "x509":
        return
    key = (
        _openpgp_key(git, named)
        if form in (None, "openpgp") and not (named and _is_ssh(named, git))
        else signing_key(git)
    )
    if key.form is not Form.SSH:
        return
    if shutil.which(key.program) is None:
        raise SigningError(f"{key.program} is not there", "gpg.ssh.program", "install OpenSSH's client")
    private = Path(key.file.removesuffix(".pub")) if key.file else None
    if not (private and private.is_file()) and not personal_environment().get("SSH_AUTH_SOCK"):
        raise SigningError(
            "the private half of the signing key is not here", f"user.signingkey {named}", _after_refusal(key)
        )


def sign(key: SigningKey, text: bytes, namespace: str = NAMESPACE) -> bytes:
    """Return the armoured signature over `text`. The program may ask for a passphrase or a touch at the terminal.

    Raises:
        SigningError: the program is missing, the agent refused, nobody touched the key, or gpg has no terminal.
    """
    return _sign_ssh(key, text, namespace) if key.form is Form.SSH else _sign_openpgp(key, text)


def _set_up() -> str:
    """Return what to type where there is no signing key: with the key that the person has already, if any."""
    for name in ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa"):
        if (Path("~/.ssh").expanduser() / f"{name}.pub").is_file():
            return f"git config --global gpg.format ssh && git config --global user.signingkey ~/.ssh/{name}.pub"
    return (
        "ssh-keygen -t ed25519 && git config --global gpg.format ssh"
        " && git config --global user.signingkey ~/.ssh/id_ed25519.pub"
    )


def _literal(named: str) -> str | None:
    """Return the key that `key::ssh-…` or `ssh-…` spells out, or None where a file is named (git-config, user.signingKey)."""
    if named.startswith("key::"):
        return named.removeprefix("key::")
    return named if named.startswith("ssh-") else None


def _key_file(named: str, git: Git) -> Path:
    return (git.top or git.cwd) / Path(named).expanduser()


def _is_ssh(named: str, git: Git) -> bool:
    return _literal(named) is not None or _key_file(named, git).is_file()


def ssh_key(git: Git, named: str | None) -> SigningKey:
    """Return the SSH key that is named as in `user.signingkey`; None: the one that git takes by default.

    Raises:
        SigningError: it cannot be read; the hint says what to type.
    """
    program = str(Path(git.setting("gpg.ssh.program", repository_too=False) or "ssh-keygen").expanduser())
    if named is None:
        named = _default_key(git)
    literal = _literal(named)
    path = _key_file(named, git)
    try:
        key = keys.read_key(literal) if literal is not None else _public_half(path)
    except OSError as error:
        raise SigningError(
            f"the signing key cannot be read: {error.strerror}", f"user.signingkey {named}", _set_up()
        ) from error
    except ValueError as error:
        raise SigningError(
            f"the signing key: {error}", f"user.signingkey {named[:80]}", "name the .pub file of an ed25519 key there"
        ) from error
    return SigningKey(Form.SSH, str(key), key.fingerprint, program, "" if literal is not None else str(path))


def _default_key(git: Git) -> str:
    """Return what `gpg.ssh.defaultKeyCommand` of the person's own configuration says, as git takes it: its first line."""
    import shlex

    command = git.setting("gpg.ssh.defaultkeycommand", repository_too=False)
    if command is None:
        raise SigningError("your git has no signing key", "user.signingkey", _set_up())
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SigningError(
            f"{command[:60]!a} is not a command: {error}", "gpg.ssh.defaultKeyCommand", _set_up()
        ) from error
    code, out, err = run_personal(words, b"")
    first = out.decode("utf-8", "replace").partition("\n")[0].strip()
    if code or _literal(first) is None:
        told = last_line(err) or (f"it says {first[:60]!a}" if first else f"exit {code}")
        raise SigningError(
            f"the command for the signing key gives none: {told}", "gpg.ssh.defaultKeyCommand", _set_up()
        )
    return first


def _public_half(path: Path) -> PublicKey:
    """Return the public key that a file names: a .pub file, or a private key with its own beside it or within."""
    if not path.is_file():  # the repository may have named a device
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    data = path.read_bytes()
    if not data.startswith(b"-----BEGIN "):
        return keys.read_key(data.decode("utf-8", "replace"))
    beside = path.with_name(f"{path.name}.pub")
    if beside.is_file():
        return keys.read_key(beside.read_text("utf-8", "replace"))
    match = re.fullmatch(
        rb"-----BEGIN OPENSSH PRIVATE KEY-----\n(.*)-----END OPENSSH PRIVATE KEY-----\s*", data, re.DOTALL
    )
    if match is None:
        raise ValueError(f"{path.name}.pub is not beside it; `ssh-keygen -y -f {path} > {beside}` makes it")
    # PROTOCOL.key: the public half stands in clear before the encrypted one.
    wire = Wire(keys.decode_base64(b"".join(match[1].split()).decode("ascii", "replace")))
    if wire.take(15) != b"openssh-key-v1\0":
        raise ValueError("the file is no private key of OpenSSH")
    wire.string(), wire.string(), wire.string()
    if wire.number() != 1:
        raise ValueError("the file holds more than one key")
    return keys.key_of_blob(wire.string())


def _sign_ssh(key: SigningKey, text: bytes, namespace: str) -> bytes:
    with private_folder() as folder:
        (folder / "statement").write_bytes(text)
        (folder / "key.pub").write_text(f"{key.public}\n")
        # A security key says on stderr when to touch it. ssh-keygen is quiet otherwise; another program may not know -q.
        touched = key.public.startswith("sk-")
        quiet = [] if touched or Path(key.program).name != "ssh-keygen" else ["-q"]
        words = [key.program, *quiet, "-Y", "sign", "-n", namespace, "-f", key.file or folder / "key.pub"]
        code, _, err = run_personal([*words, folder / "statement"], b"", show_errors=touched)
        try:
            made = (folder / "statement.sig").read_bytes()
        except OSError:
            made = b""
    if code or not made:
        raise SigningError(f"no signature: {last_line(err) or f'exit {code}'}", key.program, _after_refusal(key))
    try:
        found = read_ssh(made)
    except ValueError as error:
        raise SigningError(
            f"{key.program} made no signature: {error}", key.program, "use OpenSSH's ssh-keygen"
        ) from error
    if str(found.key) != key.public or found.namespace != namespace or not holds_for(found, text):
        raise SigningError(
            f"{key.program} signed with another key or something else",
            key.fingerprint,
            "check user.signingkey and gpg.ssh.program",
        )
    return made


def _after_refusal(key: SigningKey) -> str:
    """Return what to try where ssh-keygen made no signature."""
    if not key.file and not personal_environment().get("SSH_AUTH_SOCK"):
        return 'the key is in an ssh-agent, and none is running: eval "$(ssh-agent)" && ssh-add'
    if not key.file:
        return "the key has to be in the ssh-agent: `ssh-add -L` lists its keys, ssh-add adds one"
    if key.public.startswith("sk-"):
        return "plug the security key in and touch it when it blinks"
    return "check the passphrase, or `ssh-add` the key; without a terminal it has to be in an ssh-agent"


def _openpgp_key(git: Git, named: str | None) -> SigningKey:
    program = git.setting("gpg.openpgp.program", repository_too=False)
    program = str(Path(program or git.setting("gpg.program", repository_too=False) or "gpg").expanduser())
    wanted = named or f"<{git.person(0).email}>"
    if wanted.startswith("-"):
        raise SigningError("the signing key is no key", f"user.signingkey {wanted[:80]}", _set_up())
    words = [program, "--batch", "--with-colons", "--fixed-list-mode", "--list-secret-keys", "--", wanted]
    code, out, err = run_personal(words, b"")
    found = [one for one in pgp_keys(out.decode("utf-8", "replace")) if one.primary]
    if len(found) != 1:
        what = f"{len(found)} of them" if found else last_line(err) or f"exit {code}"
        raise SigningError(
            f"gpg has not one secret key for {wanted}: {what}",
            "user.signingkey",
            "git config --global user.signingkey FINGERPRINT; `gpg --list-secret-keys` lists them",
        )
    return SigningKey(Form.OPENPGP, found[0].fingerprint, found[0].fingerprint, program, "")


def _sign_openpgp(key: SigningKey, text: bytes) -> bytes:
    words = [key.program, "--no-comments", "--no-emit-version", "--status-fd=2", "--digest-algo", "SHA256"]
    code, out, err = run_personal([*words, "-bau", key.public], text)
    told = lines_of(err.decode("utf-8", "replace"))
    if code or not any(line.startswith("[GNUPG:] SIG_CREATED ") for line in told):
        last = next((line for line in reversed(told) if line and not line.startswith("[GNUPG:] ")), f"exit {code}")
        hint = "check that gpg can sign: echo ok | gpg --clear-sign"
        if terminal() is None and not personal_environment().get("GPG_TTY"):
            hint = "gpg has no terminal to ask at: run this at one, with export GPG_TTY=$(tty)"
        raise SigningError(f"no signature: {last}", key.program, hint)
    return out
