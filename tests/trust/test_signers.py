"""allowed_signers and revoked_keys: read as ssh-keygen reads them, or refused with the line."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import MalformedFileError
from runner.trust import signers
from runner.trust.signers import PublicKey
from tests.trust import keyring
from tests.trust.keyring import Key, mpint, string

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIFXDAuhBDH3eSs09yjLFPDHFGKPKLUpTqNsTwqvSJ35"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
SPACES = 'namespaces="git,runner-approval"'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: keyring.make(folder, name) for name in keyring.NAMES}


def text_of(blob: bytes, kind: str) -> str:
    return f"{kind} {base64.b64encode(blob).decode()}"


def ed25519(point: bytes) -> str:
    return text_of(string(b"ssh-ed25519") + string(point), "ssh-ed25519")


def rsa(modulus: int, exponent: int = 65537) -> str:
    return text_of(string(b"ssh-rsa") + mpint(exponent) + mpint(modulus), "ssh-rsa")


def test_a_file_as_people_write_it() -> None:
    found = signers.parse(
        f"# who may say yes\n\nalice@example.test {SPACES} {KEY} alice's laptop, Köln\n"
        f'ci@example.test\tnamespaces="runner-seal",valid-after="20260101Z",valid-before="20270101120000Z"  {OTHER}'.encode()
    )
    alice, ci = found.ssh
    assert (alice.principal, alice.namespaces, alice.line) == (
        "alice@example.test",
        frozenset({"git", "runner-approval"}),
        3,
    )
    assert (alice.valid_after, alice.valid_before) == (None, None)
    assert (ci.valid_after, ci.valid_before, str(ci.key)) == (1767225600, 1798804800, OTHER)
    assert found.of_key(signers.read_key(KEY)) == alice
    assert signers.parse(None).ssh == signers.parse(b"").ssh == ()


@pytest.mark.parametrize("name", keyring.NAMES)
def test_a_key_is_the_one_that_ssh_keygen_knows(keys: dict[str, Key], name: str, tmp_path: Path) -> None:
    key = keys[name].public
    (tmp_path / "key.pub").write_text(f"{key} comment\n")
    told = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert told.stdout.split()[1] == key.fingerprint
    assert signers.read_key(f"{key} comment") == signers.key_of_blob(key.blob) == key


BAD_LINES = {
    "no namespaces": (f"a@x.test {KEY}", "would count for everything"),
    "no namespaces, a time": (f'a@x.test valid-before="20270101Z" {KEY}', "would count for everything"),
    "unknown namespace": (f'a@x.test namespaces="runner-aproval" {KEY}', "no namespace 'runner-aproval'"),
    "namespace pattern": (f'a@x.test namespaces="*" {KEY}', "no namespace"),
    "namespace not this": (f'a@x.test namespaces="git,!runner-approval" {KEY}', "no namespace"),
    "empty namespaces": (f'a@x.test namespaces="" {KEY}', "no namespace"),
    "space in namespaces": (f'a@x.test namespaces="git, runner-approval" {KEY}', "are no options"),
    "namespaces without quotes": (f"a@x.test namespaces=git {KEY}", "are no options"),
    "namespaces twice": (f'a@x.test {SPACES},namespaces="git" {KEY}', "given twice"),
    "everybody": (f"* {SPACES} {KEY}", "more than one name"),
    "everybody there": (f"*@x.test {SPACES} {KEY}", "more than one name"),
    "question mark": (f"a?@x.test {SPACES} {KEY}", "more than one name"),
    "not him": (f"!a@x.test,*@x.test {SPACES} {KEY}", "more than one name"),
    "two people": (f"a@x.test,b@x.test {SPACES} {KEY}", "more than one name"),
    "quoted people": (f'"a@x.test" {SPACES} {KEY}', "more than one name"),
    "capital": (f"A@x.test {SPACES} {KEY}", "is not a name"),
    "no address": (f"alice {SPACES} {KEY}", "is not a name"),
    "authority": (f"a@x.test cert-authority,{SPACES} {KEY}", "certificates are not taken"),
    "capital authority": (f"a@x.test CERT-AUTHORITY,{SPACES} {KEY}", "certificates are not taken"),
    "unknown option": (f"a@x.test {SPACES},no-touch-required {KEY}", "is not an option here"),
    "capital option": (f'a@x.test Namespaces="git" {KEY}', "is not an option here"),
    "option of another colon": (f'a@x.test {SPACES};valid-after="20260101Z" {KEY}', "are no options"),
    "key in an option": (f'a@x.test namespaces="{OTHER}" {KEY}', "are no options"),
    "local time": (f'a@x.test {SPACES},valid-after="20260101" {KEY}', "is not a time"),
    "time with dashes": (f'a@x.test {SPACES},valid-after="2026-01-01Z" {KEY}', "is not a time"),
    "no such day": (f'a@x.test {SPACES},valid-after="20260231Z" {KEY}', "no such time"),
    "time before time": (f'a@x.test {SPACES},valid-after="19691231Z" {KEY}', "before 1970"),
    "the beginning of time": (f'a@x.test {SPACES},valid-before="19700101Z" {KEY}', "before 1970"),
    "never valid": (
        f'a@x.test {SPACES},valid-after="20270101Z",valid-before="20270101Z" {KEY}',
        "not after valid-after",
    ),
    "no key": (f"a@x.test {SPACES}", "cannot be read"),
    "cut key": (f"a@x.test {SPACES} {KEY[:-4]}", "ends too early"),
    "cut base64": (f"a@x.test {SPACES} {KEY[:-1]}", "not base64"),
    "loose base64": (f"a@x.test {SPACES} ssh-ed25519 AB==", "not base64"),
    "another type": (f"a@x.test {SPACES} {KEY.replace('ssh-ed25519', 'ssh-rsa')}", "says ssh-rsa and is ssh-ed25519"),
    "longer key": (f"a@x.test {SPACES} {ed25519(bytes(33))}", "no Ed25519 point"),
    "after the key": (
        f"a@x.test {SPACES} {text_of(base64.b64decode(KEY.split()[1]) + b'x', 'ssh-ed25519')}",
        "after its",
    ),
    "dsa": (f"a@x.test {SPACES} {text_of(string(b'ssh-dss'), 'ssh-dss')}", "are not taken"),
    "certificate": (
        f"a@x.test {SPACES} {text_of(string(b'ssh-ed25519-cert-v01@openssh.com'), 'ssh-ed25519-cert-v01@openssh.com')}",
        "is a certificate",
    ),
    "short rsa": (f"a@x.test {SPACES} {rsa(2**2047 + 1)}", "RSA key of 2048 bits"),
    "even rsa": (f"a@x.test {SPACES} {rsa(2**3071)}", "no sound RSA key"),
    "rsa of exponent 1": (f"a@x.test {SPACES} {rsa(2**3071 + 1, 1)}", "no sound RSA key"),
    "a point of order 1": (f"a@x.test {SPACES} {ed25519((1).to_bytes(32, 'little'))}", "anybody can sign"),
    "a point of order 2": (f"a@x.test {SPACES} {ed25519((2**255 - 20).to_bytes(32, 'little'))}", "anybody can sign"),
    "a point of order 4": (f"a@x.test {SPACES} {ed25519((2**255).to_bytes(32, 'little'))}", "anybody can sign"),
    "a point of order 8": (
        f"a@x.test {SPACES} "
        + ed25519(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85")),
        "anybody can sign",
    ),
    "a point twice over": (f"a@x.test {SPACES} {ed25519((2**255 - 18).to_bytes(32, 'little'))}", "no Ed25519 point"),
    "compressed point": (
        f"a@x.test {SPACES} "
        + text_of(
            string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x02" + bytes(32)), "ecdsa-sha2-nistp256"
        ),
        "no uncompressed point",
    ),
    "carriage return": (f"a@x.test {SPACES} {KEY}\r", "does not show"),
    "escape": (f"a@x.test {SPACES} {KEY} \x1b[2K", "does not show"),
    "turned around": (f"a@x.test {SPACES} {KEY} \u202e", "does not show"),
    "byte order mark": (f"\ufeffa@x.test {SPACES} {KEY}", "does not show"),
    "leading space": (f" a@x.test {SPACES} {KEY}", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_refuses_the_file_and_is_named(name: str) -> None:
    line, why = BAD_LINES[name]
    with pytest.raises(MalformedFileError) as caught:
        signers.parse(f"# first\nb@x.test {SPACES} {OTHER}\n{line}\n".encode())
    assert why in caught.value.what
    assert caught.value.where == ".protocols/allowed_signers:3"


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(MalformedFileError, match="not UTF-8"):
        signers.parse(f"a@x.test {SPACES} {KEY} ".encode() + b"\xff\n")
    with pytest.raises(MalformedFileError, match="at most"):
        signers.parse(b"#" * (signers.LIMIT + 1))


def test_a_near_namespace_is_offered() -> None:
    with pytest.raises(MalformedFileError) as caught:
        signers.parse(f'a@x.test namespaces="runner-aproval" {KEY}\n'.encode())
    assert caught.value.hint == "did you mean runner-approval?"


@pytest.mark.parametrize(("second", "why"), [("a@x.test", "listed twice"), ("b@x.test", "for a@x.test too, in line 1")])
def test_one_key_one_person(second: str, why: str) -> None:
    with pytest.raises(MalformedFileError, match=why) as caught:
        signers.parse(f'a@x.test {SPACES} {KEY}\n{second} namespaces="runner-seal" {KEY} another\n'.encode())
    assert caught.value.where.endswith(":2")


def test_a_person_may_have_two_keys() -> None:
    assert len(signers.parse(f"a@x.test {SPACES} {KEY}\na@x.test {SPACES} {OTHER}\n".encode()).ssh) == 2


def test_an_agent_approves_nothing() -> None:
    found = signers.parse(
        f'a@x.test {SPACES} {KEY}\nbot@x.test namespaces="git,runner-sync,runner-seal" {OTHER}\n'.encode(),
        openpgp={"c@x.test.asc": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"},
    )
    signers.check_agents(found, ["bot@x.test"])
    with pytest.raises(MalformedFileError) as caught:
        signers.check_agents(found, ["bot@x.test", "a@x.test"])
    assert caught.value.where.endswith("allowed_signers:1")
    with pytest.raises(MalformedFileError, match=r"c@x\.test is an agent"):
        signers.check_agents(found, ["c@x.test"])


# --- revoked_keys ------------------------------------------------------------------------------------------------------


def test_revoked_keys_with_and_without_a_time() -> None:
    found = signers.parse(None, f"# gone\n{KEY} left the team\n{OTHER} since=20260101Z stolen\n".encode())
    always, later = found.revoked
    assert (always.since, always.line, later.since, later.line) == (None, 2, 1767225600, 3)
    key = signers.read_key(OTHER)
    assert found.revocation(key, 1767225599, vouched=True) is None
    assert found.revocation(key, 1767225600, vouched=True) is later
    assert found.revocation(key, 1767225599, vouched=False) is later
    assert found.revocation(signers.read_key(KEY), 1, vouched=True) is always


def test_a_weak_key_may_be_revoked() -> None:
    weak = rsa(2**1023 + 1)
    assert len(signers.parse(None, f"{weak}\n".encode()).revoked) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"a@x.test {KEY}", "as in a .pub file"),
        (KEY[:-1], "not base64"),
        (f"{KEY} since=20260101", "is not a time"),
        (f"{KEY} since=20260231Z", "no such time"),
        (f"{KEY} stolen since=20260101Z", "right after the key"),
        (f"{KEY} Since=20260101Z", "right after the key"),
        (KEY.replace("ssh-ed25519", "ssh-rsa"), "says ssh-rsa"),
        ("SHA256:47DEQpj8HBSa", "as in a .pub file"),
    ],
)
def test_a_revocation_that_would_be_skipped_is_refused(line: str, why: str) -> None:
    with pytest.raises(MalformedFileError, match=why) as caught:
        signers.parse(None, f"{OTHER}\n{line}\n".encode())
    assert caught.value.where == ".protocols/revoked_keys:2"


def test_a_binary_list_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", tmp_path / "krl", tmp_path / "key.pub"], check=True)
    with pytest.raises(MalformedFileError, match="binary key revocation list"):
        signers.parse(None, (tmp_path / "krl").read_bytes())


# --- OpenPGP files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"alice.asc": b""}, "names nobody"),
        ({"a@x.test.gpg": b""}, "names nobody"),
        ({"a@x.test.asc": b"no armour"}, "not one armoured public key"),
        ({"a@x.test.asc": b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n"}, "not one armoured public key"),
        ({"a@x.test.asc": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" * 2}, "not one armoured public key"),
        ({f"{n}@x.test.asc": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" for n in "ab"}, "key of a@x.test too"),
    ],
)
def test_a_key_file_that_is_not_one_person_s(files: dict[str, bytes], why: str) -> None:
    with pytest.raises(MalformedFileError, match=why):
        signers.parse(None, None, files)


# --- whatever the bytes ------------------------------------------------------------------------------------------------

LINES = f'# c\na@x.test {SPACES},valid-after="20260101Z" {KEY} c\nb@x.test namespaces="git" {OTHER} since=20260101Z\n'


@given(st.integers(0, len(LINES)), st.integers(0, 30), st.binary(max_size=4))
def test_any_bytes_are_read_or_refused(at: int, cut: int, put: bytes) -> None:
    data = LINES.encode()
    data = data[:at] + put + data[at + cut :]
    for allowed, revoked in (
        (data, None),
        (None, data),
        (None, b"\n".join(x.partition(b'" ')[2] for x in data.split(b"\n"))),
    ):
        try:
            found = signers.parse(allowed, revoked)
        except MalformedFileError as error:
            assert error.where.startswith(".protocols/")
        else:
            assert all(one.namespaces <= set(signers.NAMESPACES) and one.namespaces for one in found.ssh)


@given(st.sampled_from(keyring.NAMES), st.data())
def test_a_key_has_one_form(keys: dict[str, Key], name: str, data: st.DataObject) -> None:
    blob = bytearray(keys[name].public.blob)
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        found = signers.key_of_blob(bytes(blob))
    except ValueError as error:
        assert str(error)
    else:
        assert found == PublicKey(found.type, bytes(blob))
        assert signers.read_key(str(found)) == found
