"""Signatures made with what a person's git signs with, and judged; what is missing is said so that they can act on it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.git import Git
from runner.protocol import approval_file
from runner.protocol.approval_file import Form
from runner.trust import signature, signers
from runner.trust.signature import SignatureOutcome, SigningError, SigningKey
from tests.protocol.test_approval_file import TEXT as SAID
from tests.trust import keyring
from tests.trust.keyring import Key

TEXT = b"runner-approval/v1\nreason: ok\n"
ALICE = "alice@example.test"
NOW = 1_795_000_000


class Desk:
    """A person at a repository: their HOME, and what their git is told."""

    def __init__(self, home: Path, repository: Path) -> None:
        self.home, self.repository = home, repository
        for folder in (home, repository):
            folder.mkdir()
        subprocess.run(["git", "init", "-q", repository], check=True)

    def config(self, key: str, value: str | Path, where: str = "--global") -> None:
        """Set something in the person's configuration, or in the repository's."""
        subprocess.run(["git", "config", where, key, str(value)], check=True, cwd=self.repository)

    def key(self) -> SigningKey:
        """What the person would sign with."""
        with Git.open(self.repository) as git:
            return signature.signing_key(git)

    def sign(self) -> tuple[SigningKey, bytes]:
        """A signature of the person's."""
        key = self.key()
        return key, signature.sign(key, TEXT)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in list(os.environ):
        if name.startswith(("GIT_", "SSH_", "GPG_", "GNUPG", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Desk(tmp_path / "home", tmp_path / "repository")


@pytest.fixture
def ed25519(tmp_path: Path) -> Key:
    (tmp_path / "keys").mkdir()
    return keyring.make(tmp_path / "keys", "ed25519")


@pytest.fixture
def agent(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent of the person's, without keys."""
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield
        process.terminate()


def good(made: tuple[SigningKey, bytes], key: Key) -> None:
    """Check that the signature is the key's, and counts where the key is listed."""
    known = signers.parse(f'{ALICE} namespaces="runner-approval" {key.public}\n'.encode())
    found = signature.verify(
        made[1], TEXT, namespace="runner-approval", principal=ALICE, signers=known, at=NOW, vouched=False
    )
    assert found.ok, found
    assert (made[0].form, made[0].public, made[0].fingerprint) == (Form.SSH, str(key.public), found.fingerprint)


@pytest.mark.parametrize("ending", [".pub", ""])
@pytest.mark.parametrize("said", [True, False])
def test_a_key_file(desk: Desk, ed25519: Key, ending: str, said: bool) -> None:
    if said:
        desk.config("gpg.format", "ssh")
    desk.config("user.signingkey", f"{ed25519.file}{ending}")
    good(desk.sign(), ed25519)


def test_a_key_file_at_home(desk: Desk, ed25519: Key) -> None:
    assert ed25519.file is not None
    (desk.home / ".ssh").mkdir()
    ed25519.file.rename(desk.home / ".ssh" / "id_ed25519")
    Path(f"{ed25519.file}.pub").rename(desk.home / ".ssh" / "id_ed25519.pub")
    with pytest.raises(SigningError, match="no signing key") as caught:
        desk.key()
    assert "user.signingkey ~/.ssh/id_ed25519.pub" in caught.value.hint
    subprocess.run(["sh", "-c", caught.value.hint], check=True)
    good(desk.sign(), ed25519)


@pytest.mark.parametrize("name", ["ed25519", "ecdsa-256", "rsa"])
def test_a_private_key_without_its_public_half_beside_it(desk: Desk, tmp_path: Path, name: str) -> None:
    (tmp_path / "keys").mkdir()
    key = keyring.make(tmp_path / "keys", name)
    Path(f"{key.file}.pub").unlink()
    desk.config("gpg.format", "ssh")
    desk.config("user.signingkey", str(key.file))
    good(desk.sign(), key)


def test_the_public_half_of_an_encrypted_key_is_read_without_asking(desk: Desk, ed25519: Key) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "a secret", "-f", str(ed25519.file)], check=True, capture_output=True
    )
    Path(f"{ed25519.file}.pub").unlink()
    desk.config("gpg.format", "ssh")
    desk.config("user.signingkey", str(ed25519.file))
    assert desk.key().public == str(ed25519.public)


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("literal", ["key::", ""])
def test_a_key_in_the_agent(desk: Desk, ed25519: Key, literal: str) -> None:
    subprocess.run(["ssh-add", "-q", str(ed25519.file)], check=True)
    assert ed25519.file is not None
    ed25519.file.unlink()
    desk.config("gpg.format", "ssh")
    desk.config("user.signingkey", f"{literal}{ed25519.public}")
    good(desk.sign(), ed25519)


@pytest.mark.usefixtures("agent")
def test_a_public_file_whose_private_half_is_in_the_agent(desk: Desk, ed25519: Key) -> None:
    subprocess.run(["ssh-add", "-q", str(ed25519.file)], check=True)
    assert ed25519.file is not None
    ed25519.file.unlink()
    desk.config("user.signingkey", f"{ed25519.file}.pub")
    good(desk.sign(), ed25519)


@pytest.mark.usefixtures("agent")
def test_the_agent_has_not_the_key(desk: Desk, ed25519: Key) -> None:
    desk.config("user.signingkey", f"key::{ed25519.public}")
    with pytest.raises(SigningError, match="no signature") as caught:
        desk.sign()
    assert "ssh-add -L" in caught.value.hint


def test_there_is_no_agent(desk: Desk, ed25519: Key) -> None:
    desk.config("user.signingkey", f"key::{ed25519.public}")
    with pytest.raises(SigningError, match="no signature") as caught:
        desk.sign()
    assert "none is running" in caught.value.hint


def test_the_default_key_command(desk: Desk, ed25519: Key) -> None:
    command = desk.home / "which key"
    command.write_text(f"#!/bin/sh\ncat {ed25519.file}.pub; echo more\n")
    command.chmod(0o755)
    desk.config("gpg.format", "ssh")
    desk.config("gpg.ssh.defaultKeyCommand", f"'{command}' -L")
    assert desk.key().public == str(ed25519.public)
    command.write_text("#!/bin/sh\necho nothing of use\n")
    with pytest.raises(SigningError, match="gives none: it says 'nothing of use'"):
        desk.key()
    desk.config("gpg.ssh.defaultKeyCommand", "'which key")
    with pytest.raises(SigningError, match="is not a command"):
        desk.key()


def test_a_repository_names_a_key_and_no_program(desk: Desk, ed25519: Key, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    fake.chmod(0o755)
    for key in ("gpg.ssh.program", "gpg.program", "gpg.openpgp.program", "gpg.ssh.defaultKeyCommand"):
        desk.config(key, fake, "--local")
    desk.config("gpg.format", "ssh", "--local")
    with pytest.raises(SigningError, match="no signing key"):
        desk.key()
    desk.config("user.signingkey", str(ed25519.file), "--local")
    good(desk.sign(), ed25519)
    assert not (tmp_path / "ran").exists()


def test_a_program_of_the_person_s_own(desk: Desk, ed25519: Key, tmp_path: Path) -> None:
    own = tmp_path / "my-signer"
    own.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\nexec ssh-keygen "$@"\n')
    own.chmod(0o755)
    desk.config("gpg.ssh.program", own)
    desk.config("user.signingkey", str(ed25519.file))
    good(desk.sign(), ed25519)
    assert (tmp_path / "ran").exists()


def test_a_program_that_signs_something_else_is_found_out(desk: Desk, ed25519: Key, tmp_path: Path) -> None:
    other = keyring.make(tmp_path / "keys", "ed25519")
    own = tmp_path / "my-signer"
    own.write_text(
        "#!/bin/sh\nfor last; do :; done\n" + f'ssh-keygen -q -Y sign -n runner-approval -f {other.file} "$last"\n'
    )
    own.chmod(0o755)
    desk.config("gpg.ssh.program", own)
    desk.config("user.signingkey", str(ed25519.file))
    with pytest.raises(SigningError, match="another key"):
        desk.sign()
    own.write_text('#!/bin/sh\nfor last; do :; done\necho signed > "$last.sig"\n')
    with pytest.raises(SigningError, match="made no signature"):
        desk.sign()


def test_a_security_key_is_left_to_the_program(desk: Desk, tmp_path: Path) -> None:
    key = keyring.make(tmp_path, "sk-ed25519")
    (tmp_path / "made").write_bytes(key.sign(TEXT))
    own = tmp_path / "touch-me"
    own.write_text(f'#!/bin/sh\nfor last; do :; done\ncp {tmp_path}/made "$last.sig"\n')
    own.chmod(0o755)
    desk.config("gpg.ssh.program", own)
    desk.config("user.signingkey", f"key::{key.public} at my belt")
    good(desk.sign(), key)


def test_an_encrypted_key_without_a_terminal(desk: Desk, ed25519: Key) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "a secret", "-f", str(ed25519.file)], check=True, capture_output=True
    )
    desk.config("user.signingkey", str(ed25519.file))
    script = (
        "import sys; from pathlib import Path; from runner.git import Git; from runner.trust import signature\n"
        "try: signature.sign(signature.signing_key(Git.open(Path(sys.argv[1]))), b'x')\n"
        "except signature.SigningError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, desk.repository],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal to ask at
        cwd=Path(__file__).parents[2],
        timeout=30,
    )
    assert "no signature: " in done.stdout and "without a terminal it has to be in an ssh-agent" in done.stdout


@pytest.mark.parametrize(
    ("settings", "why", "hint"),
    [
        ({}, "no signing key", "ssh-keygen -t ed25519 && git config --global gpg.format ssh"),
        ({"gpg.format": "ssh"}, "no signing key", "ssh-keygen -t ed25519"),
        ({"gpg.format": "x509"}, "not signed by x509", "gpg.format ssh"),
        ({"gpg.format": "ssh", "user.signingkey": "/nowhere/key.pub"}, "cannot be read: there is no such file", "ssh"),
        ({"gpg.format": "ssh", "user.signingkey": "/dev/zero"}, "cannot be read: there is no such file", "ssh"),
        ({"gpg.format": "ssh", "user.signingkey": "ssh-ed25519 AAAA"}, "the signing key: it", ".pub file"),
        ({"gpg.format": "ssh", "user.signingkey": "/etc/passwd"}, "as in a .pub file", ".pub file"),
    ],
)
def test_what_is_missing_is_said(desk: Desk, settings: dict[str, str], why: str, hint: str) -> None:
    for key, value in settings.items():
        desk.config(key, value)
    with pytest.raises(SigningError) as caught:
        desk.key()
    assert why in caught.value.what
    assert hint in caught.value.hint


def test_no_ssh_keygen_is_said(desk: Desk, ed25519: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.config("user.signingkey", str(ed25519.file))
    key = desk.key()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:relative:")
    with pytest.raises(SigningError, match="no ssh-keygen on this machine") as caught:
        signature.sign(key, TEXT)
    assert caught.value.hint == "install openssh-client"


# --- OpenPGP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gnupg(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The person's GNUPGHOME, with one key without a passphrase; its agent ends with the test.

    Its name is short: the agent listens there, and a socket's name has at most 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp", ignore_cleanup_errors=True) as home:
        monkeypatch.setenv("GNUPGHOME", home)
        new_key()
        yield Path(home)
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


def gpg(*words: str | Path, data: bytes = b"") -> bytes:
    """Run the person's gpg."""
    words = ("gpg", "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback", *words)
    done = subprocess.run([str(word) for word in words], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def new_key(who: str = f"Alice <{ALICE}>", *more: str) -> None:
    """Make a key of gpg's."""
    gpg("--quick-generate-key", who, "ed25519", "sign", *more)


def exported(*who: str) -> bytes:
    """The public keys, armoured."""
    return gpg("--armor", "--export", *(who or (ALICE,)))


def judged(made: bytes, key: bytes, text: bytes = TEXT, at: int | None = None) -> signature.Verdict:
    """The verdict on a signature as Alice's, whose key file this is."""
    known = signers.parse(None, None, {f"{ALICE}.asc": key})
    return signature.verify(
        made, text, namespace="runner-approval", principal=ALICE, signers=known, at=at or int(time.time()) + 60
    )


@pytest.mark.usefixtures("gnupg")
@pytest.mark.parametrize("named", [True, False])
def test_gpg_signs_and_is_judged(desk: Desk, named: bool) -> None:
    desk.config("user.email", ALICE)
    desk.config("user.name", "Alice")
    desk.config("user.signingkey" if named else "gpg.format", ALICE if named else "openpgp")
    key = desk.key()
    made = signature.sign(key, SAID)
    found = judged(made, exported(), SAID)
    assert (found.outcome, found.fingerprint, found.reason) == (SignatureOutcome.GOOD, key.fingerprint, "")
    assert key.form is Form.OPENPGP and len(key.fingerprint) == 40
    assert approval_file.parse(approval_file.join(SAID, made), "f").form is Form.OPENPGP


@pytest.mark.usefixtures("gnupg")
def test_what_may_be_wrong_with_one_of_gpg_is_told_apart() -> None:
    made, key = gpg("-bao-", data=TEXT), exported()
    assert judged(made, key).ok
    assert judged(made, key, TEXT + b" ").outcome is SignatureOutcome.BAD
    assert judged(made, key, TEXT.replace(b"\n", b"\r\n")).outcome is SignatureOutcome.BAD
    assert judged(made, key, at=1_000_000_000).outcome is SignatureOutcome.NOT_YET
    new_key("Bob <bob@example.test>")
    bob = exported("bob@example.test")
    assert judged(made, bob).outcome is SignatureOutcome.UNTRUSTED
    assert judged(made, exported(ALICE, "bob@example.test")).outcome is SignatureOutcome.UNTRUSTED
    assert "holds 2 keys" in judged(made, exported(ALICE, "bob@example.test")).reason
    assert judged(made, b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n").outcome is SignatureOutcome.UNTRUSTED
    for hostile in (
        made + made,
        made.replace(b"-----\n\n", b"-----\n\nAAAA", 1),
        b"-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n",
        gpg("-u", ALICE, "-u", "bob@example.test", "-bao-", data=TEXT),
        gpg("-u", ALICE, "--textmode", "-bao-", data=TEXT),
        gpg("-u", ALICE, "--digest-algo", "SHA1", "-bao-", data=TEXT),
    ):
        found = judged(hostile, key)
        assert found.outcome is SignatureOutcome.MALFORMED, found
    assert (
        signature.verify(
            made, TEXT, namespace="runner-approval", principal=ALICE, signers=signers.Signers(), at=NOW
        ).outcome
        is SignatureOutcome.UNTRUSTED
    )


def test_a_key_of_gpg_that_expired_or_is_revoked(gnupg: Path) -> None:
    fingerprint = gpg("--with-colons", "--list-keys").decode().split("\nfpr:")[1].split(":")[8]
    made = gpg("-bao-", data=TEXT)
    gpg("--quick-set-expire", fingerprint, "2d")
    key = exported()
    assert judged(made, key).ok
    assert judged(made, key, at=int(time.time()) + 3 * 86400).outcome is SignatureOutcome.EXPIRED_KEY
    revocation = (gnupg / "openpgp-revocs.d" / f"{fingerprint}.rev").read_bytes()
    gpg("--import", data=revocation.replace(b":-----BEGIN", b"-----BEGIN"))
    assert judged(made, exported()).outcome is SignatureOutcome.REVOKED


@pytest.mark.usefixtures("gnupg")
def test_gpg_without_a_key_or_a_terminal_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.config("user.signingkey", "nobody@example.test")
    with pytest.raises(SigningError, match="not one secret key for nobody") as caught:
        desk.key()
    assert "--list-secret-keys" in caught.value.hint
    new_key(f"Alice again <{ALICE}>")
    desk.config("user.signingkey", ALICE)
    with pytest.raises(SigningError, match="2 of them"):
        desk.key()
    monkeypatch.setattr(signature, "terminal", lambda: None)
    with pytest.raises(SigningError, match="no signature") as caught:
        signature.sign(SigningKey(Form.OPENPGP, "0" * 40, "0" * 40, "gpg", ""), TEXT)
    assert "export GPG_TTY=$(tty)" in caught.value.hint


def test_no_gpg_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_PROGRAMS", (str(tmp_path),))
    with pytest.raises(UsageError, match="no gpg on this machine"):
        judged(b"-----BEGIN PGP SIGNATURE-----\n", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
