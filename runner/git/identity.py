"""The person at the keyboard, as their own git knows them: who they are, and commits in their name.

What is executed for a signature comes from the person's own configuration alone; the repository's may name the key.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from runner import signals
from runner.errors import UsageError
from runner.git.database import Database
from runner.git.objects import Ident
from runner.git.process import answer, no_git, personal_environment, spawn
from runner.git.sealed import last
from runner.lines import lines_of

_HELPER_SECONDS = 10.0  # a helper that opens a window waits for somebody
_CLEANING_SECONDS = 5.0  # what git may take to remove what an interrupted clone has made


def ident(git: Database, time: int) -> Ident:
    """Return the person at the keyboard as their git knows them, the repository's `user.name` included.

    Raises:
        UsageError: git does not know who they are.
    """
    name = os.environ.get("GIT_AUTHOR_NAME") or git.config("user.name")
    email = os.environ.get("GIT_AUTHOR_EMAIL") or git.config("user.email")
    name = name or last(git.personal_settings(), "user.name")
    email = email or last(git.personal_settings(), "user.email") or os.environ.get("EMAIL")
    if not (name and email):
        raise UsageError(
            "git does not know who you are",
            "user.name and user.email",
            'git config --global user.name "Your Name" && git config --global user.email you@example.com',
        )
    clean = {ord(char): None for char in "<>\n\0"}
    return Ident(name.translate(clean).strip(), email.translate(clean).strip(), time)


def credential(url: str, environ: Mapping[str, str]) -> str | None:
    """Return the password that the person's credential helpers keep for an address; None where they have none.

    Nobody is asked for one, and the repository's own settings have no say.
    """
    env = {**personal_environment(environ), "GIT_ASKPASS": "", "SSH_ASKPASS": "", "GCM_INTERACTIVE": "never"}
    argv = ["git", "-c", "credential.interactive=false", "credential", "fill"]
    out = answer(argv, env=env, cwd=Path("/"), data=f"url={url}\n\n".encode(), timeout=_HELPER_SECONDS)
    found = [line[9:] for line in lines_of((out or b"").decode("utf-8", "replace")) if line.startswith("password=")]
    return found[0] if found else None


def token_settings(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment by which git has the token of RUNNER_GIT_TOKEN for this address's host, and for no other.

    Empty where there is no such variable, or the address is not one that keeps a token secret on its way.
    """
    token, parts = environ.get("RUNNER_GIT_TOKEN"), urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not token or not host or not (parts.scheme == "https" or local):
        return {}
    user = "gitlab-ci-token" if token == environ.get("CI_JOB_TOKEN") else "x-access-token"
    tell = f'!f() {{ test "$1" = get && printf "username={user}\\npassword=%s\\n" "$RUNNER_GIT_TOKEN"; }}; f'
    key = f"credential.{parts.scheme}://{host}.helper"
    # The empty one first takes away the helpers that the person's configuration names.
    values = ((key, ""), (key, tell))
    named = {
        f"GIT_CONFIG_{what}_{n}": pair[at] for n, pair in enumerate(values) for at, what in enumerate(("KEY", "VALUE"))
    }
    return {"GIT_CONFIG_COUNT": str(len(values)), **named, "RUNNER_GIT_TOKEN": token}


def clone(url: str, at: Path, environ: Mapping[str, str], report: Callable[[str], None]) -> int:
    """Clone with the person's own git, which may ask them for a password, and return its exit code. Interrupted, it leaves nothing.

    `told` gets each line that git says, those that a terminal would write over each other too. They are read here and by no
    thread: what git had started may outlive it with the other end of the pipe, and nobody may wait for that.
    """
    env = {**personal_environment(environ), **token_settings(url, environ)}
    if "GIT_TERMINAL_PROMPT" not in environ:
        del env["GIT_TERMINAL_PROMPT"]  # here somebody waits, and may be asked
    argv = ["git", "clone", "--progress", "--", url, str(at)]
    with contextlib.ExitStack() as stack:
        let = stack.enter_context(signals.held())
        try:
            child = stack.enter_context(
                subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        except FileNotFoundError as error:
            raise no_git() from error
        assert child.stderr is not None
        rest = b""
        try:
            let()
            while piece := os.read(child.stderr.fileno(), 65536):
                *lines, rest = re.split(rb"[\r\n]+", rest + piece)
                for line in lines:
                    report(line.decode("utf-8", "replace"))
            return child.wait()
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_CLEANING_SECONDS)
            child.kill()
            raise


def setting(git: Database, key: str, *, repository_too: bool = True) -> str | None:
    """Return a setting of the person's git. What is executed is asked for without the repository's own configuration."""
    value = git.config(key) if repository_too else None
    return value if value is not None else last(git.personal_settings(), key)


def signs_commits(git: Database) -> bool:
    """Return whether the person's git signs every commit."""
    return (setting(git, "commit.gpgsign") or "false").lower() in ("true", "yes", "on", "1")


def commit(git: Database, tree: str, parents: Sequence[str], who: Ident, message: bytes, *, sign: bool = False) -> str:
    """Write a commit of the person's: signed where their git signs commits, or with `sign`. Hooks do not run.

    Raises:
        UsageError: it should be signed and could not be.
    """
    if not sign and not signs_commits(git):
        return git.write_commit(tree, parents, who, who, message)
    overrides = []
    for key in (
        "gpg.format",
        "user.signingkey",
        "gpg.program",
        "gpg.openpgp.program",
        "gpg.ssh.program",
        "gpg.x509.program",
        "gpg.ssh.defaultkeycommand",
    ):
        # What is executed is taken from the person's own configuration alone.
        value = setting(git, key, repository_too=key in ("gpg.format", "user.signingkey"))
        default = {
            "gpg.program": "gpg",
            "gpg.openpgp.program": setting(git, "gpg.program", repository_too=False) or "gpg",
            "gpg.ssh.program": "ssh-keygen",
            "gpg.x509.program": "gpgsm",
        }.get(key, "")
        if value is not None or default or key.endswith("command"):
            overrides += ["-c", f"{key}={value or default}"]
    env = {
        **personal_environment(),
        **{key: value for key, value in git.environment().items() if key.startswith("GIT_")},
        "GIT_AUTHOR_NAME": who.name,
        "GIT_AUTHOR_EMAIL": who.email,
        "GIT_COMMITTER_NAME": who.name,
        "GIT_COMMITTER_EMAIL": who.email,
        "GIT_AUTHOR_DATE": f"{who.time} +0000",
        "GIT_COMMITTER_DATE": f"{who.time} +0000",
    }
    git.settle()
    argv = git.argv([*overrides, "commit-tree", "-S", tree, *(part for parent in parents for part in ("-p", parent))])
    code, out, err = spawn(argv, env=env, cwd=git.top, data=message)
    if code:
        lines = lines_of(err.decode("utf-8", "replace").strip())
        raise UsageError(
            f"the commit could not be signed: {lines[0] if lines else code}",
            "commit.gpgsign",
            "fix the signing key, or `git config commit.gpgsign false`; nothing was written",
        )
    return out.decode().strip()
