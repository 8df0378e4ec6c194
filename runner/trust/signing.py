"""Signatures, made with what a person's own git signs with: a key file, an ssh-agent, a security key, gpg.

The programs and their arguments are those of the person's own configuration; the repository's may name the key and nothing that is
executed. A signature is verified before it is given out. Whether the key is listed anywhere is for the caller.
"""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from runner.git import Git
from runner.git.process import personal_environment
from runner.lines import lines_of
from runner.protocol.approval_file import NAMESPACE, Form
from runner.trust import signers as keys
from runner.trust.signature import (
    SigningError,
    holds_for,
    last_line,
    pgp_keys,
    private_folder,
    read_ssh,
    run_personal,
    terminal,
)
from runner.trust.signers import PublicKey, Wire
from runner.values import dataclass


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
