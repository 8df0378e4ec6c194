"""The interface of a place to run commands in: one command in, one outcome out, and nothing survives it.

A sandbox starts programs, feeds and reads them, and ends them with everything that they started. It knows nothing of protocols,
steps or policy: the caller names the folders, the environment and the time limit of a command. People choose where commands run, by
`runner.sandbox.choose`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from runner.errors import UsageError
from runner.values import dataclass

# How shells, env and make name a program that they could not start: "sh: 1: foo: not found", "env: 'foo': No such …".
_NOT_STARTED = re.compile(
    rb"([\w.+@/-]+)['\"\xe2\x80\x99]*: (?:command not found|not found|No such file or directory|Permission denied)"
)


class SandboxError(UsageError):
    """The command could not be started as asked; nothing of it ran."""


class SandboxUnavailableError(SandboxError):
    """The chosen place to run commands in does not work on this machine."""


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run, and all that it gets: nothing else is there for it.

    Raises:
        ValueError: the caller built a command that cannot be: no argv, a NUL, a `cwd` outside the folders given.
    """

    argv: tuple[str, ...]  # run as it is, no shell
    cwd: Path  # absolute; below one of `writable` or `readable`
    env: Mapping[str, str]  # the whole environment, nothing is inherited
    timeout: float | None = None  # seconds
    writable: tuple[Path, ...] = ()  # folders bound read-write at the same path
    readable: tuple[Path, ...] = ()  # folders or files bound read-only at the same path
    links: tuple[
        tuple[str, str], ...
    ] = ()  # name and target of links that the sandbox shows besides; the host has none
    network: bool = False
    stdin: bytes = b""
    keep: int = 64 * 1024  # bytes of the output's tail that Outcome.tail holds

    def __post_init__(self) -> None:
        paths = (*self.writable, *self.readable)
        if not self.argv or self.keep < 0:
            raise ValueError("a command needs an argv, and keeps no fewer than 0 bytes")
        if not all(path.is_absolute() and ".." not in path.parts for path in (self.cwd, *paths)):
            raise ValueError("a command's paths are absolute and without ..")
        if not any(self.cwd.is_relative_to(path) for path in paths):
            raise ValueError(f"{self.cwd} is below none of the folders that the command gets")
        if any(not name or "=" in name for name in self.env):
            raise ValueError("the name of an environment variable is empty or has a =")
        # Options reach bubblewrap separated by NUL: one inside a value would be an option of the value's making.
        if any("\0" in text for text in _texts(self)):
            raise ValueError("a command holds no NUL")


def _texts(command: Command) -> tuple[str, ...]:
    paths = (*command.writable, *command.readable, command.cwd)
    links = [text for link in command.links for text in link]
    return (*command.argv, *command.env, *command.env.values(), *map(str, paths), *links)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int  # exit code; 128+N where signal N ended it; 124 where it ran out of time
    timed_out: bool
    seconds: float
    digest: str  # "sha256:..." of the whole combined stdout and stderr
    size: int  # bytes of output in all
    tail: bytes  # its last `keep` bytes

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself, with exit code 0."""
        return self.code == 0 and not self.timed_out


class Session(Protocol):
    """A child with pipes to it. The caller flushes `stdin` after writing."""

    stdin: BinaryIO
    stdout: BinaryIO

    def close(self, grace: float = 2.0) -> Outcome:
        """Close stdin, wait `grace` seconds, then end the whole group; the outcome's output is that of stderr.

        A second call gives the first one's outcome. A session that outlived the command's `timeout` was ended then:
        its stdout is at its end, and the outcome says `timed_out`.
        """
        ...


class Sandbox(Protocol):
    """A place to run commands in. Held by one suite over all of them."""

    @property
    def name(self) -> str:
        """The value of config.yaml's `executor`, and after a + each loosened protection: `sandbox+user-namespaces`."""
        ...

    def run(self, command: Command, on_output: Callable[[bytes], None] | None = None) -> Outcome:
        """Run `command` to its end, handing out its combined output as it comes.

        A program that is not there ends with 127, one that may not be run with 126. When time runs out, or an
        exception (KeyboardInterrupt, one of `on_output`'s) comes by, and likewise when the command is over, whatever
        it started is ended: SIGTERM, 2 seconds, SIGKILL. SIGTERM to the runner itself ends it without this, unless
        the command line turns it into an exception.

        Raises:
            SandboxError: the command was not started.
        """
        ...

    def open(self, command: Command) -> Session:
        """Start `command` and leave its pipes to the caller, who must `close` it; `stdin` and `keep` as in `run`.

        To be called in a thread that lives as long as the session: bubblewrap ends with the thread that started it.

        Raises:
            SandboxError: the command was not started.
        """
        ...

    def check(self) -> str | None:
        """Run `true` inside; return None where that works, else one line that says why it does not."""
        ...


def explain(outcome: Outcome, argv: tuple[str, ...], path: str) -> str | None:
    """Say that a program is outside the sandbox but not inside, where that is why the command ended; else None.

    `outcome` is that of `argv` in a sandbox, `path` the person's own PATH. The program may be one that a shell or
    script started: the last lines of the output name it. Exit code 126 or 127 and finding it on `path` decide.
    """
    if outcome.code not in (126, 127):
        return None
    words = " ".join(argv).split()
    named = [name.decode(errors="replace") for name in reversed(_NOT_STARTED.findall(outcome.tail[-2048:]))]
    for name in sorted(named, key=lambda name: name not in words):  # the one that was asked for, else the last one
        if "/" in name and not name.startswith("/"):
            continue  # a path of the workspace's, which is the same inside and outside
        if found := shutil.which(name, path=path):
            return f"{name} is found outside the sandbox ({found}) but not inside"
    return None
