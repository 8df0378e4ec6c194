"""`ssh-keygen -Y verify`, asked for the same outcomes as `runner.trust.signature` has: what the library's verdict is compared with."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from runner.errors import UsageError
from runner.protocol.approval_file import PRINCIPAL
from runner.trust.signature import _LAST, _NOBODY, SignatureOutcome, _find, _run, last_line, private_folder, read_ssh
from runner.trust.signers import Signer, Signers


def outcome(
    signature: bytes, text: bytes, namespace: str, principal: str, signers: Signers, at: int, vouched: bool
) -> SignatureOutcome:
    """Ask ssh-keygen once where it is good; where it is not, ask on with less, since it does not say why."""
    found, at = read_ssh(signature), min(max(at, 1), _LAST)
    if re.fullmatch(PRINCIPAL, principal) is None:  # it would take an option, a pattern or a list for something else
        principal, signers = _NOBODY, Signers((), signers.revoked)
    program = _find("ssh-keygen", "openssh-client")
    with private_folder() as folder:

        def file(name: str, data: bytes) -> Path:
            (folder / name).write_bytes(data)
            return folder / name

        # Our own copies: an older ssh-keygen knows no Z at a time's end, and every one reads it as UTC under TZ=UTC.
        def line(one: Signer, *, after: bool = True, before: bool = True) -> str:
            options = [f'namespaces="{",".join(sorted(one.namespaces))}"']
            options += [f'valid-after="{_stamp(one.valid_after)}"'] if after and one.valid_after is not None else []
            options += [f'valid-before="{_stamp(one.valid_before)}"'] if before and one.valid_before is not None else []
            return f"{one.principal} {','.join(options)} {one.key}\n"

        revoked = [one for one in signers.revoked if one.since is None or not vouched or at >= one.since]
        revocations = file("revoked", "".join(f"{one.key}\n" for one in revoked).encode())
        ours = file("signature", signature)

        def holds(name: str, allowed: str, *more: str | Path) -> bool:
            listed = file(name, allowed.encode())
            words: list[str | Path] = [
                "-Y",
                "verify",
                "-f",
                listed,
                "-I",
                principal,
                "-n",
                namespace,
                "-s",
                ours,
                *more,
            ]
            told = f" for {principal} with [A-Z0-9-]+ key {re.escape(found.key.fingerprint)}"
            return _ask(program, words, text, folder, namespace, told)

        when = ("-O", f"verify-time={_stamp(at)}")
        if holds("all", "".join(line(one) for one in signers.ssh), *when, "-r", revocations):
            return SignatureOutcome.GOOD
        told = f" with [A-Z0-9-]+ key {re.escape(found.key.fingerprint)}"
        words: list[str | Path] = ["-Y", "check-novalidate", "-n", namespace, "-s", ours]
        if not _ask(program, words, text, folder, namespace, told):
            return SignatureOutcome.BAD
        if not holds("anybody", f"{principal} {found.key}\n", "-r", revocations):
            return SignatureOutcome.REVOKED
        if not holds("timeless", "".join(line(one, after=False, before=False) for one in signers.ssh)):
            return SignatureOutcome.UNTRUSTED
        if not holds("after", "".join(line(one, before=False) for one in signers.ssh), *when):
            return SignatureOutcome.NOT_YET
        return SignatureOutcome.EXPIRED_KEY


def _ask(program: str, words: Sequence[str | Path], text: bytes, folder: Path, namespace: str, told: str) -> bool:
    """Return whether it says Good, literally; that it refuses must be its own message as well."""
    code, out, err = _run([program, *words], text, folder)
    if code == 0 and re.fullmatch(rf'Good "{re.escape(namespace)}" signature{told}\n', out.decode("utf-8", "replace")):
        return True
    if code != 0 and out == b"Could not verify signature.\n":
        return False
    raise UsageError(
        f"ssh-keygen did not judge a signature: {last_line(err) or f'exit {code}'}",
        program,
        "OpenSSH 8.9 or later is needed",
    )


def _stamp(at: int) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(at))
