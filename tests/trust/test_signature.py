"""SSH signatures: one suite that holds the library and ssh-keygen to the same verdicts, on hostile bytes too."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.trust import signature, signers
from runner.trust.signature import SignatureOutcome, Verdict
from runner.trust.signers import Signers
from tests.trust import keyring, ssh_keygen
from tests.trust.keyring import Key, armour, blob, dearmour, string

NOW = 1_795_000_000
TEXT = b"runner-approval/v1\nreason: looked at it\n"
ALICE, BOB = "alice@example.test", "bob@example.test"
APPROVAL = "runner-approval"
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: keyring.make(folder, name) for name in keyring.NAMES} | {"other": keyring.make(folder, "ed25519")}


@pytest.fixture(scope="module")
def signed(keys: dict[str, Key]) -> dict[str, bytes]:
    return {name: key.sign(TEXT) for name, key in keys.items()}


def listed(key: Key, options: str = f'namespaces="git,{APPROVAL}"', who: str = ALICE, revoked: str = "") -> Signers:
    return signers.parse(f"{who} {options} {key.public}\n".encode(), revoked.encode())


def both(
    made: bytes,
    known: Signers,
    text: bytes = TEXT,
    *,
    who: str = ALICE,
    namespace: str = APPROVAL,
    at: int = NOW,
    vouched: bool = False,
) -> Verdict:
    """Return the verdict, after the two agreed on it."""
    verdict = signature.verify(made, text, namespace=namespace, principal=who, signers=known, at=at, vouched=vouched)
    if verdict.outcome is not SignatureOutcome.MALFORMED:
        assert ssh_keygen.outcome(made, text, namespace, who, known, at, vouched) is verdict.outcome
    return verdict


def stock(made: bytes, key: Key, folder: Path, text: bytes = TEXT) -> bool:
    """Return whether a person who runs ssh-keygen by hand is told Good."""
    (folder / "sig").write_bytes(made)
    (folder / "allowed").write_text(f'{ALICE} namespaces="git,{APPROVAL}" {key.public}\n')
    words = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", ALICE, "-n", APPROVAL, "-s", "sig"]
    return subprocess.run(words, input=text, capture_output=True, cwd=folder).returncode == 0


@pytest.mark.parametrize("name", keyring.NAMES)
@pytest.mark.parametrize("hash_", ["sha256", "sha512"])
def test_a_good_one(keys: dict[str, Key], name: str, hash_: str, tmp_path: Path) -> None:
    key = keys[name]
    made = key.sign(TEXT, hash_=hash_)
    assert both(made, listed(key)) == Verdict(SignatureOutcome.GOOD, key.public.fingerprint, "")
    assert stock(made, key, tmp_path)


@pytest.mark.parametrize("name", keyring.NAMES)
def test_each_thing_that_may_be_wrong_is_told_apart(keys: dict[str, Key], signed: dict[str, bytes], name: str) -> None:
    key, made = keys[name], signed[name]
    public, other = str(key.public), keys["other"]

    def judge(known: Signers, text: bytes = TEXT, who: str = ALICE, sig: bytes = made) -> tuple[SignatureOutcome, str]:
        found = both(sig, known, text, who=who)
        assert found.fingerprint == key.public.fingerprint
        return found.outcome, found.reason

    assert judge(listed(key), TEXT + b" ")[0] is SignatureOutcome.BAD
    wrong = key.sign(TEXT, namespace="git")
    assert judge(listed(key), sig=wrong) == (
        SignatureOutcome.BAD,
        "the signature was made for git, not for runner-approval",
    )
    assert judge(listed(other)) == (
        SignatureOutcome.UNTRUSTED,
        f"the key {key.public.fingerprint} is not in .protocols/allowed_signers",
    )
    assert judge(Signers())[0] is SignatureOutcome.UNTRUSTED
    assert judge(listed(key), who=BOB) == (
        SignatureOutcome.UNTRUSTED,
        f"the key is that of {ALICE}, not of {BOB}, .protocols/allowed_signers:1",
    )
    assert judge(listed(key, 'namespaces="git,runner-seal"')) == (
        SignatureOutcome.UNTRUSTED,
        "the key is not listed for runner-approval, .protocols/allowed_signers:1",
    )
    assert judge(listed(key, f'namespaces="{APPROVAL}",valid-after="20270101Z"')) == (
        SignatureOutcome.NOT_YET,
        "the key is valid from 2027-01-01 00:00:00 UTC, .protocols/allowed_signers:1",
    )
    assert judge(listed(key, f'namespaces="{APPROVAL}",valid-before="20260101Z"')) == (
        SignatureOutcome.EXPIRED_KEY,
        "the key is valid until 2026-01-01 00:00:00 UTC, .protocols/allowed_signers:1",
    )
    assert judge(listed(key, revoked=f"# gone\n{public}\n")) == (
        SignatureOutcome.REVOKED,
        "the key is revoked, .protocols/revoked_keys:2",
    )


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        (1767225599, SignatureOutcome.NOT_YET),
        (1767225600, SignatureOutcome.GOOD),
        (1798804800, SignatureOutcome.GOOD),
        (1798804801, SignatureOutcome.EXPIRED_KEY),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_a_key_s_time_to_the_second_wherever_one_is(
    keys: dict[str, Key],
    signed: dict[str, bytes],
    at: int,
    outcome: SignatureOutcome,
    zone: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", zone)
    options = f'namespaces="{APPROVAL}",valid-after="20260101Z",valid-before="20270101120000Z"'
    assert both(signed["ed25519"], listed(keys["ed25519"], options), at=at).outcome is outcome


@pytest.mark.parametrize(
    ("at", "vouched", "outcome"),
    [
        (1767225599, True, SignatureOutcome.GOOD),
        (1767225600, True, SignatureOutcome.REVOKED),
        (1767225599, False, SignatureOutcome.REVOKED),
    ],
)
def test_a_revocation_with_a_time_spares_what_somebody_vouches_for(
    keys: dict[str, Key], signed: dict[str, bytes], at: int, vouched: bool, outcome: SignatureOutcome
) -> None:
    key = keys["ed25519"]
    known = listed(key, revoked=f"{key.public} since=20260101Z\n{keys['other'].public}\n")
    assert both(signed["ed25519"], known, at=at, vouched=vouched).outcome is outcome


def test_revoked_is_told_before_all_that_else_is_wrong_with_the_key(
    keys: dict[str, Key], signed: dict[str, bytes]
) -> None:
    key = keys["ed25519"]
    known = listed(key, 'namespaces="git",valid-before="20200101Z"', BOB, revoked=f"{key.public}\n")
    assert both(signed["ed25519"], known).outcome is SignatureOutcome.REVOKED
    assert both(signed["ed25519"], known, TEXT + b"x").outcome is SignatureOutcome.BAD


def test_a_later_line_of_another_person_does_not_help(keys: dict[str, Key], signed: dict[str, bytes]) -> None:
    known = signers.parse(
        f'{BOB} namespaces="{APPROVAL}" {keys["ed25519"].public}\n{ALICE} namespaces="{APPROVAL}" {keys["other"].public}\n'.encode()
    )
    assert both(signed["ed25519"], known).outcome is SignatureOutcome.UNTRUSTED
    assert both(signed["ed25519"], known, who=BOB).ok
    assert both(signed["other"], known).ok


@pytest.mark.parametrize(
    "who", ["", "*", "*@example.test", "-n", "Alice@example.test", "a b", "x\ny", "\x1b[2J", f"{ALICE},{BOB}"]
)
def test_a_name_that_a_commit_claims_may_be_anything(keys: dict[str, Key], signed: dict[str, bytes], who: str) -> None:
    found = both(signed["ed25519"], listed(keys["ed25519"]), who=who)
    assert found.outcome is SignatureOutcome.UNTRUSTED
    assert found.reason.isprintable()
    assert both(signed["ed25519"], listed(keys["ed25519"]), TEXT + b"x", who=who).outcome is SignatureOutcome.BAD


@pytest.mark.parametrize("at", [-(10**20), -1, 0, 1, 10**11, 10**12, 10**20])
def test_a_time_that_a_commit_claims_may_be_anything(keys: dict[str, Key], signed: dict[str, bytes], at: int) -> None:
    key = keys["ed25519"]
    assert both(signed["ed25519"], listed(key), at=at).ok
    limited = listed(key, f'namespaces="{APPROVAL}",valid-after="19700102Z",valid-before="20260101Z"')
    assert both(signed["ed25519"], limited, at=at).outcome is (
        SignatureOutcome.NOT_YET if at < 2 else SignatureOutcome.EXPIRED_KEY
    )


# --- hostile bytes -----------------------------------------------------------------------------------------------------


def add_order(made: bytes) -> bytes:
    """Return the same Ed25519 signature in its second form."""
    data = dearmour(made)
    number = int.from_bytes(data[-32:], "little") + ORDER
    return armour(data[:-32] + number.to_bytes(32, "little"))


def armoured(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda made: armour(change(dearmour(made)))


def loose_base64(made: bytes) -> bytes:
    """Return a signature whose last letter has a bit set that decoding drops."""
    lines = made.splitlines(keepends=True)
    body = lines[-2].rstrip(b"\n")
    assert body.endswith(b"="), "the fixture's length leaves bits over"
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = body.rstrip(b"=")
    last = letters[letters.index(bare[-1:]) + 1 :][:1]
    return b"".join([*lines[:-2], bare[:-1] + last + body[len(bare) :] + b"\n", lines[-1]])


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda made: b"",
    "no armour": dearmour,
    "no last newline": lambda made: made[:-1],
    "trailing words": lambda made: made + b"x\n",
    "leading line": lambda made: b"\n" + made,
    "second block": lambda made: made + made,
    "carriage returns": lambda made: made.replace(b"\n", b"\r\n"),
    "blank line": lambda made: made.replace(b"\n", b"\n\n", 1),
    "spaces in the base64": lambda made: made.replace(b"AAAA", b"AA AA", 1),
    "padding amid the base64": lambda made: made.replace(b"\n", b"\n====\n", 1),
    "loose base64": loose_base64,
    "too long": lambda made: made.replace(b"-----\n", b"-----\n" + b"A" * 70 + b"\n", 1) + b"\n" * 9000,
    "long body": lambda made: armour(dearmour(made) + bytes(8000)),
    "wrong magic": armoured(lambda data: b"SSHSIH" + data[6:]),
    "version 0": armoured(lambda data: data[:9] + b"\0" + data[10:]),
    "version 2": armoured(lambda data: data[:9] + b"\2" + data[10:]),
    "trailing bytes": armoured(lambda data: data + b"\0"),
    "cut": armoured(lambda data: data[:-1]),
    "second form of the number": add_order,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_no_signature(keys: dict[str, Key], signed: dict[str, bytes], name: str) -> None:
    found = both(HOSTILE[name](signed["ed25519"]), listed(keys["ed25519"]))
    assert (found.outcome, found.fingerprint) == (SignatureOutcome.MALFORMED, "")
    assert found.reason.startswith("no SSH signature: ")


def test_hostile_fields_are_no_signature(keys: dict[str, Key], signed: dict[str, bytes]) -> None:
    key, space = keys["ed25519"].public.blob, APPROVAL.encode()
    data = dearmour(signed["ed25519"])
    inner = data[data.index(string(b"sha512")) + 10 + 4 :]
    assert armour(blob(key, inner, space)) == signed["ed25519"], "the control"
    rsa, rsa_made = keys["rsa"].public.blob, dearmour(signed["rsa"])
    number = rsa_made[-384:]
    for made in (
        blob(key, inner, space, reserved=b"x"),
        blob(key, inner, space, hash_=b"sha1"),
        blob(key, inner, space, hash_=b"SHA512"),
        blob(key, inner, space, hash_=b"sha512\0"),
        blob(key, inner + b"\0", space),
        blob(key, string(b"ssh-rsa") + inner[15:], space),
        blob(key, string(b"ssh-ed25519") + string(inner[-63:]), space),
        blob(key + b"\0", inner, space),
        blob(string(b"ssh-ed25519-cert-v01@openssh.com") + key[15:], inner, space),
        blob(rsa, string(b"ssh-rsa") + string(number), space),  # SHA-1
        blob(rsa, string(b"rsa-sha2-512") + string(b"\0" + number), space),
        blob(rsa, string(b"ssh-ed25519") + string(number), space),
    ):
        for name in ("ed25519", "rsa"):
            assert both(armour(made), listed(keys[name])).outcome is SignatureOutcome.MALFORMED


def test_a_number_without_its_leading_noughts_is_taken_as_ssh_keygen_takes_it(
    keys: dict[str, Key], tmp_path: Path
) -> None:
    key = keys["rsa"]
    assert key.file is not None
    private = load_ssh_private_key(key.file.read_bytes(), None)
    assert isinstance(private, RSAPrivateKey)
    for count in range(10_000):  # one in 256 begins with a nought
        text = TEXT + str(count).encode()
        number = private.sign(keyring.signed_bytes(text, APPROVAL.encode(), "sha512"), PKCS1v15(), SHA512())
        if number[0] == 0:
            break
    short = armour(blob(key.public.blob, string(b"rsa-sha2-512") + string(number.lstrip(b"\0")), APPROVAL.encode()))
    assert len(number.lstrip(b"\0")) < 384
    assert both(short, listed(key), text).ok and stock(short, key, tmp_path, text)


def test_a_key_that_anybody_can_sign_with_is_no_key(tmp_path: Path, keys: dict[str, Key]) -> None:
    """Under Ed25519's neutral point as a key the signature of any text is (S·B, S); with S = 0 that is the point itself."""
    neutral = b"\x01" + bytes(31)
    key = string(b"ssh-ed25519") + string(neutral)
    made = armour(blob(key, string(b"ssh-ed25519") + string(neutral + bytes(32)), APPROVAL.encode()))
    assert both(made, listed(keys["ed25519"])).outcome is SignatureOutcome.MALFORMED
    weak = f"ssh-ed25519 {base64.b64encode(key).decode()}"
    (tmp_path / "sig").write_bytes(made)
    (tmp_path / "allowed").write_text(f"{ALICE} {weak}\n")
    words = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", ALICE, "-n", APPROVAL, "-s", "sig"]
    told = subprocess.run(words, input=b"whatever", capture_output=True, cwd=tmp_path)
    assert told.returncode == 0, "ssh-keygen takes it, which is why our lint does not"


def test_another_s_key_put_into_a_signature_is_bad(keys: dict[str, Key], signed: dict[str, bytes]) -> None:
    data = dearmour(signed["ed25519"]).replace(keys["ed25519"].public.blob, keys["other"].public.blob)
    found = both(armour(data), listed(keys["other"]))
    assert (found.outcome, found.fingerprint) == (SignatureOutcome.BAD, keys["other"].public.fingerprint)


def test_a_point_beside_the_curve_is_bad(keys: dict[str, Key], signed: dict[str, bytes]) -> None:
    data, key = dearmour(signed["ecdsa-256"]), keys["ecdsa-256"].public.blob
    beside = key[:-1] + bytes([key[-1] ^ 1])
    assert both(armour(data.replace(key, beside)), listed(keys["ecdsa-256"])).outcome is SignatureOutcome.BAD


@given(st.sampled_from(keyring.NAMES), st.booleans(), st.data())
@settings(max_examples=250)
def test_no_changed_byte_is_good_and_both_say_the_same(
    keys: dict[str, Key],
    signed: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    within: bool,
    data: st.DataObject,
) -> None:
    made = dearmour(signed[name]) if within else signed[name]
    changed = bytearray(made)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(changed) - 1))
        if data.draw(st.booleans()):
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            changed[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    put = armour(bytes(changed)) if within else bytes(changed)
    found = both(put, listed(keys[name]))
    if put != signed[name] and found.ok:
        assert dearmour(put) == dearmour(signed[name])  # only where the armour's lines end
    if found.ok:
        assert stock(put, keys[name], tmp_path_factory.mktemp("stock"))


@pytest.mark.slow
@given(
    st.sampled_from(keyring.NAMES),
    st.sampled_from([ALICE, BOB]),
    st.sampled_from(["git", APPROVAL, f"git,{APPROVAL}", "runner-seal"]),
    st.sampled_from([None, "20260101Z", "20261231Z"]),
    st.sampled_from([None, "20260601Z", "20270101Z"]),
    st.sampled_from([None, "", " since=20260701Z", " since=20270701Z"]),
    st.sampled_from([1767225599, 1767225600, 1780272000, 1780272001, NOW, 1830000000]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=80)
def test_both_say_the_same_of_any_listing(
    keys: dict[str, Key],
    signed: dict[str, bytes],
    name: str,
    who: str,
    namespaces: str,
    after: str | None,
    before: str | None,
    revoked: str | None,
    at: int,
    vouched: bool,
    present: bool,
) -> None:
    if after == "20261231Z" and before == "20260601Z":
        before = None
    options = f'namespaces="{namespaces}"'
    options += f',valid-after="{after}"' if after else ""
    options += f',valid-before="{before}"' if before else ""
    key = keys[name if present else "other"]
    gone = "" if revoked is None else f"{keys[name].public}{revoked}\n"
    known = signers.parse(f"# c\n{who} {options} {key.public}\n".encode(), gone.encode())
    both(signed[name], known, at=at, vouched=vouched)


# --- the programs ------------------------------------------------------------------------------------------------------


def test_no_ssh_keygen_is_said(
    keys: dict[str, Key], signed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(signature, "_PROGRAMS", (str(tmp_path),))
    words = {"namespace": APPROVAL, "principal": ALICE, "signers": listed(keys["ed25519"]), "at": NOW}
    assert signature.verify(signed["ed25519"], TEXT, **words).ok  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no ssh-keygen"):
        ssh_keygen.outcome(signed["ed25519"], TEXT, APPROVAL, ALICE, listed(keys["ed25519"]), NOW, False)


@pytest.mark.parametrize(
    "answer",
    [
        "echo 'Good \"runner-approval\" signature'",
        f"echo 'Good \"runner-approval\" signature for {ALICE} with ED25519 key SHA256:x'",
        "exit 0",
        "echo unknown option -- Y >&2; exit 1",
        "echo 'No user exists for uid 4711' >&2; exit 255",
    ],
)
def test_a_program_that_does_not_judge_is_no_verdict(
    keys: dict[str, Key], signed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
) -> None:
    (tmp_path / "ssh-keygen").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "ssh-keygen").chmod(0o755)
    monkeypatch.setattr(signature, "_PROGRAMS", (str(tmp_path), "/bin"))
    with pytest.raises(UsageError, match="did not judge"):
        ssh_keygen.outcome(signed["ed25519"], TEXT, APPROVAL, ALICE, listed(keys["ed25519"]), NOW, False)


def test_a_hostile_path_is_not_looked_at(
    keys: dict[str, Key], signed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ssh-keygen").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "ssh-keygen").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert both(signed["ed25519"], listed(keys["ed25519"])).ok
    assert not (tmp_path / "ran").exists()


def test_the_library_is_loaded_where_a_signature_is_judged_and_not_before() -> None:
    code = (
        "import sys; import runner.trust.signature; print({'cryptography', 'tempfile', 'difflib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "set()\n", done.stderr
