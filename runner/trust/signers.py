"""Whose keys count, and for what: allowed_signers, revoked_keys and the OpenPGP key files of the trusted branch, read and linted.

Pure: bytes in, keys out. ssh-keygen skips a line that it cannot read; here one bad line refuses the whole file, so that no typing
error silently removes an approver. The files stay such that ssh-keygen reads them the same way. Who may do what with a key that is
listed is the policy's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from runner.errors import MalformedFileError
from runner.lines import pattern
from runner.protocol.approval_file import NAMESPACE as APPROVAL
from runner.protocol.approval_file import PRINCIPAL
from runner.protocol.paths import ROOT

FILE = f"{ROOT}/allowed_signers"
REVOKED = f"{ROOT}/revoked_keys"
OPENPGP = f"{ROOT}/openpgp/"  # PRINCIPAL.asc: one public key, armoured
GIT, SYNC, SEAL = "git", "runner-sync", "runner-seal"
NAMESPACES = (GIT, APPROVAL, SYNC, SEAL)
MACHINES = frozenset({GIT, SYNC, SEAL})  # what a key of a runner's or an agent's may be listed for
LIMIT = 256 * 1024  # bytes of a file
Refuse = Callable[[str, str], MalformedFileError]

ED25519, RSA = "ssh-ed25519", "ssh-rsa"
SK_ED25519, SK_ECDSA = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"
CURVES = {f"ecdsa-sha2-{curve}": curve for curve in ("nistp256", "nistp384", "nistp521")} | {SK_ECDSA: "nistp256"}
TYPES = (ED25519, *CURVES, RSA, SK_ED25519)
SMALLEST_RSA, LARGEST_RSA = 3072, 16384  # bits

_POINT = {"nistp256": 65, "nistp384": 97, "nistp521": 133}  # bytes of an uncompressed point
_P = 2**255 - 19
# The y of Ed25519's eight points of small order: under such a "key" anybody can make a signature over anything.
_ORDER_8 = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
_SMALL_ORDER = frozenset({0, 1, _P - 1, *(int.from_bytes(bytes.fromhex(y), "little") for y in _ORDER_8)})
_KEY = r"(?P<type>(?:ssh|ecdsa|sk|webauthn)-[a-zA-Z0-9@.-]+)[ \t]+(?P<key>[A-Za-z0-9+/=]+)(?:[ \t]+(?P<comment>.*))?"
_SIGNER = pattern(rf"(?P<principal>[^ \t]+)[ \t]+(?:(?P<options>[^ \t].*?)[ \t]+)?{_KEY}")
_BARE = pattern(_KEY)
_OPTION = pattern(r'(?P<name>[A-Za-z-]+)(?:="(?P<value>[^"]*)")?')
_OPTIONS = pattern(rf"{_OPTION.pattern}(?:,{_OPTION.pattern})*".replace("?P<name>", "").replace("?P<value>", ""))
_TIME = pattern(r"[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?Z")


class Wire:
    """The bytes of an SSH structure, read from the front (RFC 4251 §5). Every read raises ValueError where they do not suffice."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise ValueError("it ends too early")
        found, self._at = self._data[self._at : end], end
        return found

    def number(self) -> int:
        """Return a uint32."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """Return a string, without its length."""
        return self.take(self.number())

    def text(self) -> str:
        """Return a string that is printable ASCII."""
        data = self.string()
        if re.fullmatch(rb"[\x20-\x7e]*", data) is None:
            raise ValueError("a name in it is not printable ASCII")
        return data.decode("ascii")

    def positive(self) -> int:
        """Return an mpint above zero in its one canonical form."""
        data = self.string()
        found = int.from_bytes(data, "big")
        if found == 0 or data[0] & 0x80 or (data[0] == 0 and not data[1] & 0x80):
            raise ValueError("a number in it is not in its canonical form")
        return found

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise ValueError("there is something after its end")


class PublicKey(NamedTuple):
    """A public SSH key of a type that is taken. `blob`: as on the wire, in its one canonical form; keys are the same by it."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and base64 without padding, as ssh-keygen shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")

    def __str__(self) -> str:
        """`ssh-ed25519 AAAA…`, as a line of a .pub file without its comment."""
        return f"{self.type} {base64.b64encode(self.blob).decode('ascii')}"


class Signer(NamedTuple):
    """A line of allowed_signers. Times in seconds since 1970, both ends within; `line` counts from 1."""

    principal: str
    namespaces: frozenset[str]
    key: PublicKey
    valid_after: int | None
    valid_before: int | None
    line: int


class Revoked(NamedTuple):
    """A line of revoked_keys. `since`: seconds since 1970 from when on the key does not count; None: it never did."""

    key: PublicKey
    since: int | None
    line: int


class Signers(NamedTuple):
    """Every key that is listed. `openpgp`: principal to the bytes of their one key file."""

    ssh: tuple[Signer, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    openpgp: Mapping[str, bytes] = {}

    def of_key(self, key: PublicKey) -> Signer | None:
        """Return the one line that lists the key, or None."""
        return next((signer for signer in self.ssh if signer.key == key), None)

    def why_unable(self, principal: str, at: int) -> tuple[str, int]:
        """Return (why no key of a person's can sign approvals at that time, the line); ("", 0) where one can.

        An OpenPGP key is taken for valid: gpg alone knows its times.
        """
        listed = [one for one in self.ssh if one.principal == principal]
        signing = [one for one in listed if APPROVAL in one.namespaces]
        left = [one for one in signing if self.revocation(one.key, at, vouched=False) is None]
        if principal in self.openpgp or any((one.valid_after or at) <= at <= (one.valid_before or at) for one in left):
            return "", 0
        if left:
            is_over = left[-1].valid_before is not None and left[-1].valid_before < at
            return f"the key of {principal} {'has expired' if is_over else 'is not valid yet'}", left[-1].line
        if signing:
            return f"the key of {principal} is revoked", signing[-1].line
        if listed:
            return f"the key of {principal} is not listed for {APPROVAL}", listed[-1].line
        return f"no key of {principal} is listed", 0

    def revocation(self, key: PublicKey, at: int, vouched: bool) -> Revoked | None:
        """Return the line by which the key does not count at `at`, or None.

        A `since` reaches back to earlier approvals too, unless their time is proven (design §4).
        """
        for line in self.revoked:
            if line.key == key and (line.since is None or not vouched or at >= line.since):
                return line
        return None


def key_of_blob(blob: bytes) -> PublicKey:
    """Return the key that these bytes of the wire are.

    Raises:
        ValueError: of no type that is taken, weak, or not in its canonical form; the message says which.
    """
    wire = Wire(blob)
    kind = wire.text()
    if "-cert-" in kind:
        raise ValueError(f"{kind} is a certificate; list the key itself")
    if kind not in TYPES:
        raise ValueError(f"keys of the type {kind[:60]} are not taken; use ed25519, ecdsa or rsa")
    if kind in (ED25519, SK_ED25519):
        point = wire.string()
        y = int.from_bytes(point, "little") & (2**255 - 1)
        if len(point) != 32 or y >= _P:
            raise ValueError("the key is no Ed25519 point")
        if y in _SMALL_ORDER:
            raise ValueError("the key is weak: anybody can sign with it")
    elif kind in CURVES:
        curve, point = wire.text(), wire.string()
        if curve != CURVES[kind] or len(point) != _POINT[curve] or point[0] != 4:
            raise ValueError(f"the key is no uncompressed point of {CURVES[kind]}")
    else:
        exponent, modulus = wire.positive(), wire.positive()
        if not SMALLEST_RSA <= modulus.bit_length() <= LARGEST_RSA:
            raise ValueError(f"an RSA key of {modulus.bit_length()} bits; {SMALLEST_RSA} at least")
        if exponent % 2 == 0 or not 3 <= exponent < 2**33 or modulus % 2 == 0:
            raise ValueError("the key is no sound RSA key")
    if kind in (SK_ED25519, SK_ECDSA) and not wire.text():
        raise ValueError("the security key's application is empty")
    wire.end()
    return PublicKey(kind, blob)


def decode_base64(text: str) -> bytes:
    """Return what base64 in its one canonical form stands for.

    Raises:
        ValueError: it is not in that form.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise ValueError("it is not base64") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("it is not base64 in its canonical form")
    return data


def read_key(text: str) -> PublicKey:
    """Return the key that `ssh-ed25519 AAAA… comment` is, as in a .pub file.

    Raises:
        ValueError: of no type that is taken, weak, or not in its canonical form; the message says which.
    """
    match = _BARE.fullmatch(text.strip())
    if match is None:
        raise ValueError("it is not `KEYTYPE KEY`, as in a .pub file")
    return _key(match)


def _key(match: re.Match[str]) -> PublicKey:
    key = key_of_blob(decode_base64(match["key"]))
    if key.type != match["type"]:
        raise ValueError(f"it says {match['type']} and is {key.type}")
    return key


def parse(allowed: bytes | None, revoked: bytes | None = None, openpgp: Mapping[str, bytes] | None = None) -> Signers:
    """Return what the files of the trusted branch list. None: there is no such file, and nobody is listed or revoked in it.

    `openpgp`: the names of the files in OPENPGP to their bytes.

    Raises:
        MalformedFileError: a line that ssh-keygen would skip, read otherwise, or that says too much; `where` is `path:line`.
    """
    signers: dict[PublicKey, Signer] = {}
    for number, line in _lines(allowed or b"", FILE):
        one = _signer(line, number)
        known = signers.get(one.key)
        if known is not None:
            what = "twice" if known.principal == one.principal else f"for {known.principal} too, in line {known.line}"
            raise _error(
                f"the key of {one.principal} is listed {what}", FILE, number, "one line a key, one person a key"
            )
        signers[one.key] = one
    lines = [_revoked(line, number) for number, line in _lines(revoked or b"", REVOKED)]
    return Signers(tuple(signers.values()), tuple(lines), _openpgp(openpgp or {}))


def check_agents(signers: Signers, agents: Collection[str]) -> None:
    """Check that no key of a runner's or an agent's is listed for approvals. `agents`: the policy's principals.

    Raises:
        MalformedFileError: one is; `where` is `path:line`.
    """
    for one in signers.ssh:
        if one.principal in agents and not one.namespaces <= MACHINES:
            raise _error(
                f"{one.principal} is an agent and is listed for {APPROVAL}",
                FILE,
                one.line,
                f'list the key for namespaces="{GIT},{SYNC},{SEAL}" at most',
            )
    for principal in signers.openpgp:
        if principal in agents:
            raise _error(
                f"{principal} is an agent", f"{OPENPGP}{principal}.asc", 0, "remove the file: agents approve nothing"
            )


def _error(what: str, path: str, line: int, hint: str) -> MalformedFileError:
    return MalformedFileError(what, f"{path}:{line}" if line else path, hint)


def _lines(data: bytes, path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers."""
    if len(data) > LIMIT:
        raise _error(f"{len(data)} bytes, {LIMIT} at most", path, 0, "list fewer keys")
    if path == REVOKED and data.startswith(b"SSHKRL\n\0"):
        raise _error("a binary key revocation list", path, 0, "list each key that is revoked in a line, as text")
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _error("the line is not UTF-8", path, number, "write it anew") from error
        if not line.replace("\t", " ").isprintable():
            raise _error(
                "a character that does not show", path, number, "lines end with a newline alone; write the line again"
            )
        if line and not line.startswith("#"):
            yield number, line.rstrip(" \t")


def _refusal(path: str, number: int) -> Refuse:
    """Return what makes the error of a line, from what is wrong and what to write."""
    return lambda what, hint: _error(what, path, number, hint)


def _signer(line: str, number: int) -> Signer:
    refuse, match = _refusal(FILE, number), _SIGNER.fullmatch(line)
    if match is None:
        example = f'write: alice@example.test namespaces="{GIT},{APPROVAL}" ssh-ed25519 AAAA…'
        raise refuse("the line cannot be read", example)
    principal = match["principal"]
    if re.search(r"[*?!,\"]", principal):
        raise refuse(f"{principal!a} stands for more than one name", "one person a line, without wildcards or commas")
    if re.fullmatch(PRINCIPAL, principal) is None:
        raise refuse(f"{principal!a} is not a name", "name people as alice@example.test, in lower case")
    options = _options(match["options"] or "", refuse)
    if "namespaces" not in options:
        hint = f'add namespaces="{GIT},{APPROVAL}" before it'
        raise refuse(f"the key of {principal} would count for everything", hint)
    namespaces = options["namespaces"].split(",")
    for name in namespaces:
        if name not in NAMESPACES:
            from difflib import get_close_matches

            near = get_close_matches(name, NAMESPACES, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMESPACES)}"
            raise refuse(f"there is no namespace {name!a}", hint)
    after, before = (_time(options.get(name), name, refuse) for name in ("valid-after", "valid-before"))
    if after is not None and before is not None and after >= before:
        raise refuse("valid-before is not after valid-after", "the key would never be valid")
    try:
        key = _key(match)
    except ValueError as error:
        raise refuse(f"the key of {principal}: {error}", "copy the line of their .pub file") from error
    return Signer(principal, frozenset(namespaces), key, after, before, number)


def _options(text: str, refuse: Refuse) -> dict[str, str]:
    if text and (re.search(r"[ \t]", text) or _OPTIONS.fullmatch(text) is None):
        raise refuse(f"{text[:60]!a} are no options", 'write name="value", with commas and without spaces')
    found: dict[str, str] = {}
    for match in _OPTION.finditer(text):
        name, value = match["name"], match["value"]
        if name.lower() == "cert-authority":
            raise refuse("certificates are not taken", "list each person's own key")
        if name not in ("namespaces", "valid-after", "valid-before") or value is None:
            known = 'there are namespaces="…", valid-after="…" and valid-before="…"'
            raise refuse(f"{name} is not an option here", known)
        if name in found:
            raise refuse(f"{name} is given twice", "say it once")
        found[name] = value
    return found


def _time(text: str | None, name: str, refuse: Refuse) -> int | None:
    """Return seconds since 1970 of ssh-keygen's form of a time."""
    if text is None:
        return None
    example = "write 20261120Z or 20261120065011Z"
    if _TIME.fullmatch(text) is None:
        # Without the Z ssh-keygen takes a time for local: good here, refused elsewhere.
        raise refuse(f"{name}: {text!a} is not a time", f"{example}; Z means UTC")
    digits = text[:-1].ljust(14, "0")
    try:
        found = int(datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise refuse(f"{name}: there is no such time: {text}", example) from error
    if found <= 0:  # ssh-keygen takes nought for no limit
        raise refuse(f"{name}: {text} is before 1970", "leave it out where there is no limit")
    return found


def _revoked(line: str, number: int) -> Revoked:
    refuse, match = _refusal(REVOKED, number), _BARE.fullmatch(line)
    example = "write: ssh-ed25519 AAAA… since=20261120Z why"
    try:
        if match is None:
            raise ValueError("it is not `KEYTYPE KEY`, as in a .pub file")
        key = _revocable(match)
    except ValueError as error:
        raise refuse(f"the key: {error}", f"{example}; since= may be left out") from error
    comment = (match["comment"] or "").split()
    since = comment[0].removeprefix("since=") if comment and comment[0].startswith("since=") else None
    if since is None and any(word.lower().startswith("since") and "=" in word for word in comment):
        raise refuse("since= comes right after the key", example)
    return Revoked(key, _time(since, "since", refuse), number)


def _revocable(match: re.Match[str]) -> PublicKey:
    """Return a key to revoke: any that could be listed, and weak ones too, so that no line has to be taken out."""
    blob = decode_base64(match["key"])
    try:
        return _key(match)
    except ValueError:
        if Wire(blob).text() != match["type"]:
            raise
        return PublicKey(match["type"], blob)


def _openpgp(files: Mapping[str, bytes]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, data in sorted(files.items()):
        path, principal = f"{OPENPGP}{name}", name.removesuffix(".asc")
        if not name.endswith(".asc") or re.fullmatch(PRINCIPAL, principal) is None:
            raise _error(f"{name!a} names nobody", path, 0, "call the file alice@example.test.asc")
        if len(data) > LIMIT:
            raise _error(
                f"{len(data)} bytes, {LIMIT} at most", path, 0, "export the key with --export-options export-minimal"
            )
        begins = re.findall(rb"^-----BEGIN ([A-Z ]+)-----", data, re.MULTILINE)
        if begins != [b"PGP PUBLIC KEY BLOCK"]:
            raise _error(
                "not one armoured public key", path, 0, "gpg --armor --export-options export-minimal --export KEY"
            )
        other = next((one for one, known in found.items() if known == data), None)
        if other is not None:
            raise _error(f"it is the key of {other} too", path, 0, "one key a person")
        found[principal] = data
    return found
