"""The two signed files (design §4). An approval file, `runner-approval/v1`: one person's decision on exactly one subject, and the
signature over it. A seal, `runner-seal/v1`, below.

This module has the grammar: one anchored expression over bytes, each field once and in its place, nothing optional, nothing after
the end. `trust.signature` verifies the signature; the code above that decides whether the approval counts.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from runner.errors import IntegrityError, MalformedFileError
from runner.lines import pattern
from runner.protocol.ids import DIGEST, OID, SLUG, SLUG_LIMIT, is_protocol_id

VERSION = "runner-approval/v1"
NAMESPACE = "runner-approval"
SUFFIX = ".approval"
LIMIT = 8192  # bytes of a file
LONGEST_CALL = 24 * 60 * 60  # seconds from issued to expires
LONGEST = 30 * LONGEST_CALL


class Decision(StrEnum):
    """A person's decision; `revoke` takes back their own approval or rejection of the same subject and digest."""

    APPROVE = "approve"
    REJECT = "reject"
    REVOKE = "revoke"


class Form(StrEnum):
    """Whose kind of signature it is, as its first line says."""

    SSH = "SSH"
    OPENPGP = "PGP"


class Rule(StrEnum):
    """Which rule of the format a file breaks."""

    SIZE = "size"
    ASCII = "ascii"
    LINE_ENDS = "line-ends"
    VERSION = "version"
    FIELDS = "fields"
    VALUE = "value"
    LIFETIME = "lifetime"
    SIGNATURE = "signature"
    TRAILING = "trailing"
    NAME = "name"


class MalformedStatementError(MalformedFileError):
    """A file in approvals/ is not in the format; `rule` says which rule it breaks."""

    def __init__(self, rule: Rule, what: str, where: str) -> None:
        super().__init__(what, where, "make a new file with `runner approve`; an approval file is never edited")
        self.rule = rule


class Statement(NamedTuple):
    """The signed text, a field a line, in the order of the lines. Build one and `render` it; `render` checks.

    `repo`: 32 hex digits. `genesis`, `digest`, `policy`: `sha256:` and 64 hex digits. `subject`: `plan`, `merge`,
    `step:SLUG`, `result:SLUG`, `call:SLUG.ATTEMPT.N` or `protected-path:SLUG`. `attempt`: 0 for plan, merge and step.
    `seen`: an object id. `issued`, `expires`: `2026-11-20T06:50:11Z`. `nonce`: 32 hex digits. `reason`: printable ASCII,
    may be empty.
    """

    repo: str
    protocol: str
    genesis: str
    subject: str
    attempt: int
    digest: str
    policy: str
    seen: str
    decision: Decision
    approver: str
    issued: str
    expires: str
    nonce: str
    reason: str

    @property
    def kind(self) -> str:
        """The subject's kind: `plan`, `merge`, `step`, `result`, `call` or `protected-path`."""
        return self.subject.partition(":")[0]

    @property
    def slug(self) -> str:
        """The step that it is about; empty for plan and merge."""
        return self.subject.partition(":")[2].partition(".")[0]

    @property
    def issued_at(self) -> int:
        """The time of issue that it claims, in seconds since 1970. Never proof of a time."""
        return seconds(self.issued)

    @property
    def expires_at(self) -> int:
        """The time from which it no longer counts, in seconds since 1970."""
        return seconds(self.expires)


class Signed(NamedTuple):
    """An approval file, parsed. `text`: the signed bytes; `signature`: the armour, from its first line to the last newline."""

    statement: Statement
    text: bytes
    signature: bytes
    form: Form

    @property
    def id(self) -> str:
        """The first 32 hex digits of the sha256 of the signed bytes."""
        return statement_id(self.text)


_SLUG = rf"(?=[^\n.]{{1,{SLUG_LIMIT}}}(?:[\n.]|\Z)){SLUG}"
_NATURAL = "[1-9][0-9]{0,5}"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
PRINCIPAL = r"[a-z0-9][a-z0-9._+-]{0,63}@[a-z0-9](?:[a-z0-9.-]{0,118}[a-z0-9])?"

# In the file's order. What a name may be beyond its letters (a number's width, a date that exists) is checked after the match.
_VALUES: dict[str, str] = {
    "repo": "[0-9a-f]{32}",
    "protocol": rf"[0-9]{{4,9}}-{_SLUG}",
    "genesis": DIGEST.pattern,
    "subject": rf"plan|merge|(?:step|result|protected-path):{_SLUG}|call:{_SLUG}\.{_NATURAL}\.{_NATURAL}",
    "attempt": f"0|{_NATURAL}",
    "digest": DIGEST.pattern,
    "policy": DIGEST.pattern,
    "seen": OID.pattern,
    "decision": "|".join(Decision),
    "approver": PRINCIPAL,
    "issued": _TIME,
    "expires": _TIME,
    "nonce": "[0-9a-f]{32}",
    "reason": r"[\x20-\x7e]{0,500}",
}

_TEXT = rf"{VERSION}\n" + "".join(rf"{name}: (?P<{name}>{value})\n" for name, value in _VALUES.items())
# The armour's letters; the verifier checks that they decode to one signature.
_SSH = r"-----BEGIN SSH SIGNATURE-----\n(?:[A-Za-z0-9+/=]{1,76}\n){1,90}-----END SSH SIGNATURE-----\n"
_PGP = (
    r"-----BEGIN PGP SIGNATURE-----\n\n(?:[A-Za-z0-9+/]{1,76}={0,2}\n){1,90}(?:=[A-Za-z0-9+/]{4}\n)?"
    r"-----END PGP SIGNATURE-----\n"
)
# Not compiled before there is one to read: every command comes by here.
_STATEMENT = _TEXT.encode("ascii")
_FILE = rf"(?P<text>{_TEXT})(?P<signature>{_SSH}|{_PGP})".encode("ascii")
_BEGIN = pattern(rb"^-----BEGIN (SSH|PGP) SIGNATURE-----$", re.MULTILINE)


@lru_cache(maxsize=1024)
def seconds(time: str) -> int:
    """Return the seconds since 1970 of a time in the file's form.

    Raises:
        ValueError: there is no such time.
    """
    return int(datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def statement_id(text: bytes) -> str:
    """Return the id of a statement: the first 32 hex digits of the sha256 of its signed bytes."""
    return hashlib.sha256(text).hexdigest()[:32]


def file_name(text: bytes) -> str:
    """Return what the file with these signed bytes is called."""
    return statement_id(text) + SUFFIX


def render(statement: Statement) -> bytes:
    """Return the bytes to sign.

    Raises:
        MalformedStatementError: a value is not one that the format has; `where` names the field.
    """
    lines = [f"{name}: {value}\n" for name, value in statement._asdict().items()]
    text = f"{VERSION}\n{''.join(lines)}".encode("utf-8", "surrogatepass")
    if read(text, "the statement") != statement:
        raise AssertionError("unreachable: a statement that is read is the one that was written")
    return text


def read(text: bytes, where: str) -> Statement:
    """Return what the bytes to sign say, as `runner approve --print` gave them out; there is no signature in them.

    Raises:
        MalformedStatementError: they are not in the format.
    """
    match = re.fullmatch(_STATEMENT, text) if len(text) <= LIMIT else None
    if match is None:
        raise _why(text, where, signed=False)
    return _checked(match, where)


def parse(data: bytes, where: str) -> Signed:
    """Return the approval that a file's bytes are. `where`: the file, for the error.

    Raises:
        MalformedStatementError: they are not in the format.
    """
    match = re.fullmatch(_FILE, data) if len(data) <= LIMIT else None
    if match is None:
        raise _why(data, where, signed=True)
    form = Form.SSH if match["signature"].startswith(b"-----BEGIN SSH") else Form.OPENPGP
    return Signed(_checked(match, where), match["text"], match["signature"], form)


def check_name(signed: Signed, name: str, where: str) -> None:
    """Check that a file has the name that its signed bytes give it. `name`: without its folder.

    Raises:
        MalformedStatementError: it has another.
    """
    if name != file_name(signed.text):
        raise MalformedStatementError(
            Rule.NAME, f"the file is called {name!a} and its content makes {file_name(signed.text)}", where
        )


def join(text: bytes, signature: bytes) -> bytes:
    """Return the file for the signed bytes and an armoured signature over them.

    Raises:
        MalformedStatementError: the two are no file of the format.
    """
    data = text + signature
    if parse(data, "the approval").text != text:
        raise AssertionError("unreachable: the signature's first line ends the statement")
    return data


def _checked(match: re.Match[bytes], where: str) -> Statement:
    """Return the statement of a match, after what no expression can say."""
    value = {name: match[name].decode("ascii") for name in _VALUES}
    found = Statement(**{**value, "attempt": int(value["attempt"]), "decision": Decision(value["decision"])})  # type: ignore[arg-type]
    if not is_protocol_id(found.protocol):
        raise MalformedStatementError(Rule.VALUE, f"protocol: {found.protocol} is no protocol's id", where)
    for name in ("issued", "expires"):
        try:
            seconds(value[name])
        except ValueError as error:
            raise MalformedStatementError(Rule.VALUE, f"{name}: there is no such time: {value[name]}", where) from error
    whole = found.kind in ("plan", "merge", "step")
    if whole != (found.attempt == 0):
        needed = "is 0" if whole else "is the step's attempt, from 1 on"
        raise MalformedStatementError(Rule.VALUE, f"attempt: for {found.kind} it {needed}", where)
    if found.kind == "call" and found.subject.split(".")[1] != value["attempt"]:
        raise MalformedStatementError(Rule.VALUE, f"attempt: {found.attempt} is not that of {found.subject}", where)
    lasts, longest = found.expires_at - found.issued_at, LONGEST_CALL if found.kind == "call" else LONGEST
    if lasts <= 0:
        raise MalformedStatementError(Rule.LIFETIME, "expires: not after issued", where)
    if lasts > longest:
        allowed = "24 hours for a call" if found.kind == "call" else "30 days"
        raise MalformedStatementError(Rule.LIFETIME, f"expires: later than is allowed, {allowed}", where)
    return found


def _why(data: bytes, where: str, *, signed: bool) -> MalformedStatementError:
    """Return the error for bytes that the expression refused. Only words: nothing here lets anything through."""

    def error(rule: Rule, what: str, line: int = 0) -> MalformedStatementError:
        return MalformedStatementError(rule, what, f"{where}:{line}" if line else where)

    if len(data) > LIMIT:
        return error(Rule.SIZE, f"{len(data)} bytes, {LIMIT} at most")
    for number, line in enumerate(data.split(b"\n"), 1):
        if b"\r" in line:
            return error(Rule.LINE_ENDS, "a carriage return; lines end with a newline alone", number)
        if re.search(rb"[^\x20-\x7e]", line):
            return error(Rule.ASCII, f"a byte that is not printable ASCII: {line[:60]!a}", number)
    lines = data.decode("ascii").split("\n")
    if lines[0] != VERSION:
        return error(Rule.VERSION, f"the first line is {lines[0][:40]!a}, not {VERSION}", 1)
    for number, name in enumerate(_VALUES, 2):
        key, colon, value = (lines[number - 1] if number <= len(lines) else "").partition(": ")
        if key != name or not colon:
            return error(Rule.FIELDS, f"the field {name} is expected, and here is {key[:40]!a}", number)
        if re.fullmatch(_VALUES[name], value) is None:
            return error(Rule.VALUE, f"{name}: {value[:80]!a} is not of the format", number)
    after = len(_VALUES) + 2
    rest = "\n".join(lines[after - 1 :])
    if not signed:
        return error(Rule.TRAILING if rest else Rule.FIELDS, "after the reason comes a newline and nothing else", after)
    if _BEGIN.match(rest.encode("ascii")) is None:
        return error(Rule.SIGNATURE, "the first line of a signature is expected after the reason", after)
    end = re.search(r"^-----END (?:SSH|PGP) SIGNATURE-----\n", rest, re.MULTILINE)
    if end is not None and rest[end.end() :]:
        return error(Rule.TRAILING, "there is text after the END line", after + rest[: end.end()].count("\n"))
    return error(Rule.SIGNATURE, "the signature is not armoured as ssh-keygen and gpg do it", after)


# --- seals ------------------------------------------------------------------------------------------------------------
# `runner-seal/v1`: what a protocol came to, signed by a runner, as the file `seal` of its history's last commit.
# Whose signature it is, and whether the chain came to that, is judged in trust/rules/ends.py.

SEAL_NAMESPACE = "runner-seal"


class Seal(NamedTuple):
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


_SEAL_VALUES = {
    "repo": "[0-9a-f]{32}",
    "protocol": r"[0-9]{4,9}-[a-z0-9-]{1,60}",
    "genesis": DIGEST.pattern,
    "revision": "[1-9][0-9]{0,9}",
    "tip": OID.pattern,
    "tree": OID.pattern,
    "state": DIGEST.pattern,
    "signer": PRINCIPAL,
    "time": _TIME,
}
_SEAL_TEXT = "runner-seal/v1\n" + "".join(rf"{name}: (?P<{name}>{value})\n" for name, value in _SEAL_VALUES.items())
_SEAL = rf"(?P<text>{_SEAL_TEXT})(?P<signature>{_SSH})".encode("ascii")


def render_seal(seal: Seal) -> bytes:
    """Return the bytes that are signed; the signature follows them in the file."""
    lines = [f"{name}: {getattr(seal, name)}\n" for name in _SEAL_VALUES]
    return ("runner-seal/v1\n" + "".join(lines)).encode("ascii")


def parse_seal(data: bytes, where: str) -> tuple[Seal, bytes, bytes]:
    """Return (the seal, the signed bytes, the armoured signature).

    Raises:
        IntegrityError: it is no seal.
    """
    match = re.fullmatch(_SEAL, data) if len(data) <= LIMIT else None
    if match is None:
        raise IntegrityError(
            "it is no seal in its form", where, "fetch the history again, from a clone that has it whole"
        )
    return Seal(**{name: match[name].decode() for name in _SEAL_VALUES}), match["text"], match["signature"]
