"""People with keys, and a repository whose trusted branch says whose word counts; keys and signatures are ssh-keygen's."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import GITCONFIG, Box, add_origin, make_box

REPO = "6f0c" * 8
APPROVALS = "  plan: {roles: [maintainer]}\n  step: {roles: [maintainer]}\n"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a HOME, an address and a signing key; `env`: what makes a command theirs."""

    name: str
    home: Path
    key: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def email(self) -> str:
        """Their address, and their principal."""
        return f"{self.name}@example.test"

    @property
    def public(self) -> str:
        """The public half, `ssh-ed25519 AAAA…`."""
        return " ".join(Path(f"{self.key}.pub").read_text().split()[:2])

    def line(self, namespaces: str = "git,runner-approval") -> str:
        """Their line in allowed_signers."""
        return f'{self.email} namespaces="{namespaces}" {self.public}\n'

    def sign(self, statement: str, namespace: str = "runner-approval") -> str:
        """Return a statement with their signature, as ssh-keygen makes it."""
        words = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(self.key)]
        made = subprocess.run(words, input=statement, capture_output=True, text=True, check=True)
        return statement + made.stdout


def person(folder: Path, name: str, *, signs: bool = True) -> Person:
    """Make somebody. `signs`: their git knows the key."""
    home = folder / f"home-of-{name}"
    home.mkdir(parents=True)
    key = home / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True)
    signing = f" signingkey = {key}.pub\n[gpg]\n format = ssh\n" if signs else ""
    (home / ".gitconfig").write_text(
        f"[user]\n name = {name}\n email = {name}@example.test\n{signing}[init]\n defaultBranch = main\n{GITCONFIG}"
    )
    return Person(name, home, key, env_of(home, name))


def env_of(home: Path, name: str) -> dict[str, str]:
    """Return what makes a command somebody's: HOME, state and name."""
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", name), ("EMAIL", f"{name}@example.test"))}  # fmt: skip
    return {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), **who}


def policy(maintainers: Iterable[Person], *, approvals: str = APPROVALS, more: str = "") -> str:
    """Return a policy.yaml."""
    names = ", ".join(one.email for one in maintainers)
    return (
        f"repo: {REPO}\nroles:\n  maintainer: [{names}]\nagents: [runner@example.test]\napprovals:\n{approvals}{more}"
    )


def govern(box: Box, maintainers: Iterable[Person], listed: Iterable[Person] = (), *, text: str | None = None) -> None:
    """Put policy and keys onto the trusted branch of a box, and onto its remote where it has one. `listed`: further keys."""
    maintainers = list(maintainers)
    box.write(".protocols/policy.yaml", policy(maintainers) if text is None else text)
    box.write(".protocols/allowed_signers", "".join(one.line() for one in [*maintainers, *listed]))
    box.commit("policy")
    push(box)


def push(box: Box) -> None:
    """Push main, where there is a remote."""
    if box.git("remote").strip():
        box.git("push", "-q", "origin", "main")
        box.git("fetch", "-q", "origin")


def governed(
    path: Path, maintainers: Iterable[Person], listed: Iterable[Person] = (), *, remote: bool = False, **options: str
) -> Box:
    """Make a repository that has a policy; whoever works in it is Dana, who approves nothing.

    `remote`: it has an `origin` beside it, `origin.git`, where everything is published; `options`: of `policy`.
    """
    box = make_box(path)
    if remote:
        box.write(".protocols/config.yaml", "publish: always\n")
        add_origin(box)
    box.env.update(
        {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Dana"), ("EMAIL", "dana@example.test"))
        }
    )
    govern(box, maintainers, listed, text=policy(maintainers, **options) if options else None)
    return box


def at_terminal(
    box: Box, typed: Mapping[bytes, bytes], *args: str, env: Mapping[str, str] | None = None, columns: int = 0
) -> tuple[int, str]:
    """Run the command line at a real terminal; what stands there is answered as `typed` says, each once. `columns`: its width, of
    24 lines.

    Return (exit code, what was shown).
    """
    ours, theirs = pty.openpty()
    if columns:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "runner", *args],
        cwd=box.path,
        env={**box.environment({"TERM": "dumb", **(env or {})}), "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, new, left = b"", b"", dict(typed)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            data = os.read(ours, 65536)
        except OSError:
            break
        if not data:
            break
        shown, new = shown + data, new + data
        wanted = next((text for text in left if text in new and new.rstrip().endswith((b":", b">"))), None)
        if wanted is not None:
            os.write(ours, left.pop(wanted))
            new = b""
    os.close(ours)
    return child.wait(timeout=100), shown.decode("utf-8", "replace")
