"""A git process: spawned for one act or held open for many, in an environment that is either sealed or the person's.

The caller chooses the arguments; this module starts git, ends it, and words its failures.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar

from runner.errors import RunnerError, UsageError
from runner.lines import lines_of

OLDEST = (2, 38)
CHUNK = 64 * 1024

# git exports these to hooks and aliases; inherited, they would point every command at the caller's repository. The few that
# say who somebody is or how a remote is reached are the person's own and are kept where those are asked for.
_PERSONAL = re.compile(
    r"(?!GIT_).*|GIT_(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL)|GIT_CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM)|GIT_SSH(?:_COMMAND|_VARIANT)?"
    r"|GIT_ASKPASS|GIT_SSL_.*|GIT_PROXY_.*|GIT_HTTP_.*|GIT_TRACE.*"
)


class GitError(RunnerError):
    """git failed unexpectedly; the repository or the machine has a problem."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, where: str, hint: str, *, stderr: str = "", code: int = 128) -> None:
        super().__init__(what, where, hint)
        self.stderr, self.code = stderr, code


class TooSlowError(GitError):
    """A git command did not end in the time that it was given, and was killed."""


class PromisedError(GitError):
    """An object is wanted that a partial clone has left at its remote. `oid`: which, or empty where git does not say."""

    @property
    def oid(self) -> str:
        found = re.search(r"could not fetch ([0-9a-f]{40,64}) from promisor remote", self.stderr)
        return found[1] if found else ""


def personal_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the person's environment without what git passes to its children."""
    source = os.environ if environ is None else environ
    kept = {key: value for key, value in source.items() if _PERSONAL.fullmatch(key)}
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def sealed_environment() -> dict[str, str]:
    null = os.devnull
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": null,
        "GIT_CONFIG_GLOBAL": null,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_GRAFT_FILE": f"{null}/none",
        "GIT_ALLOW_PROTOCOL": "none",  # it goes before any protocol.NAME.allow: an old git fetches what is missing unasked
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ADVICE": "0",
    }


def no_git() -> UsageError:
    """Return the error of a machine without git."""
    return UsageError("there is no git on this machine", "PATH", f"install git {OLDEST[0]}.{OLDEST[1]} or later")


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, data: bytes = b"", timeout: float | None = None
) -> tuple[int, bytes, bytes]:
    """Run to the end in a session of its own, so that Ctrl-C reaches us first and a child cannot outlive its time."""
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.exists():
            raise UsageError("the folder is gone", str(cwd), "change to a folder that exists") from error
        raise no_git() from error
    try:
        out, err = child.communicate(data, timeout=timeout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise
    return child.returncode, out, err


def answer(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, data: bytes = b"", timeout: float
) -> bytes | None:
    """Return what a program prints, or None where it is not here, has nothing to say or takes longer than `timeout` seconds."""
    try:
        code, out, _ = spawn(argv, env=env, cwd=cwd, data=data, timeout=timeout)
    except (UsageError, OSError, subprocess.TimeoutExpired):
        return None
    return out if code == 0 else None


def _unnamed_file() -> IO[bytes]:
    """Return a file that is nowhere in a folder; `tempfile` is not loaded where memory will do."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("git"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


class Held:
    """A git process that is held open: lines in, answers out. `data`: all its input, where that is known before."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], data: bytes | None = None) -> None:
        self.argv = argv
        self._errors = _unnamed_file()
        input_file = None
        if data is not None:  # in a file: it reads on while its answers wait to be read
            input_file = _unnamed_file()
            input_file.write(data)
            input_file.seek(0)
        self.process = subprocess.Popen(
            argv,
            bufsize=CHUNK,
            env=env,
            stdin=input_file or subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        stdin = input_file or self.process.stdin
        assert stdin is not None
        self.stdin: IO[bytes] = stdin
        self.stdout: IO[bytes] = self.process.stdout

    def ask(self, data: bytes) -> bytes:
        """Write and return the next line, without its newline.

        Raises:
            GitError: the process ended instead.
        """
        if data:
            self.tell(data)
        return self.answer()

    def tell(self, data: bytes) -> None:
        """Write a request whose answer is read later.

        Raises:
            GitError: the process has ended.
        """
        try:
            self.stdin.write(data)
            self.stdin.flush()
        except BrokenPipeError as error:
            raise self.died() from error
        except BaseException:
            self.close()  # cut, as by Ctrl-C: what it will answer is nobody's
            raise

    def answer(self) -> bytes:
        """Return the next line, without its newline.

        Raises:
            GitError: the process ended instead.
        """
        try:
            line = self.stdout.readline()
        except BaseException:
            self.close()
            raise
        if not line.endswith(b"\n"):
            raise self.died()
        return line[:-1]

    def read(self, size: int) -> bytes:
        """Return so many bytes of what follows a line, or less where the process ended."""
        try:
            return self.stdout.read(size)
        except BaseException:
            self.close()
            raise

    def died(self) -> GitError:
        """Return the error for a process that ended before its time."""
        self.close()
        self._errors.seek(0)
        text = self._errors.read().decode("utf-8", "replace").strip()
        return git_error(self.argv, self.process.returncode, text)

    def close(self) -> None:
        """End it; it has no work of its own left. The rest of its output, as after Ctrl-C amid an answer, is read."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        while not self.stdout.closed and self.stdout.read(CHUNK):
            pass
        self.process.wait()
        self.stdout.close()


def is_full(stderr: str) -> bool:
    """Return whether git failed because a disk, or the user's quota of it, is full."""
    return any(words in stderr for words in ("No space left", "Out of diskspace", "Disk quota exceeded"))


def git_error(argv: Sequence[str], code: int, stderr: str) -> GitError:
    words = [word for word in argv[1:] if not word.startswith(("-", "core.")) and "=" not in word]
    lines = lines_of(stderr) or [f"exit {code}"]
    fatal = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0])
    if fatal.endswith(":"):  # a list follows
        fatal += " " + ", ".join(line.strip() for line in lines if line.startswith("\t"))
    hint = "run `runner doctor`"
    if is_full(stderr):
        hint = "make room on the disk; nothing was published"
    elif "Permission denied" in stderr or "Read-only file system" in stderr or "insufficient permission" in stderr:
        hint = "the repository cannot be written here; use a clone of your own"
    elif "unknown repository extension" in stderr:
        hint = "a newer git made this repository: use one that knows it (`git --version`; refstorage came with 2.45)"
    elif "bad config" in stderr:
        hint = "fix that line in an editor; of a file that is empty or zeros: `mv` it away, and `git init` writes a new one"
    elif "invalid gitfile" in stderr:
        hint = "`runner doctor --fix` in the main worktree writes it again"
    elif ".lock" in stderr and "File exists" in stderr:
        hint = "another git is at work there, or one died: run `runner doctor --fix`"
    kind = PromisedError if "promisor remote" in stderr else GitError
    return kind(f"git {' '.join(words[:1])}: {fatal}", "git", hint, stderr=stderr, code=code)
