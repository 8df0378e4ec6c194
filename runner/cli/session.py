"""What every command needs: the project, opened once; words for people on stderr, results on stdout."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.store.surroundings import Surroundings

if TYPE_CHECKING:
    from runner.store.project import Project


def safe(text: str) -> str:
    """Return text that cannot steer a terminal: control and bidi characters are shown as escapes."""
    return "".join(
        char
        if char in "\n\t"
        or (char.isprintable() and not "\u202a" <= char <= "\u202e" and not "\u2066" <= char <= "\u2069")
        else char.encode("unicode_escape").decode()
        for char in text
    )


def state_home(environ: dict[str, str]) -> Path:
    """Return where the person's own state lies; absolute, as the XDG specification wants."""
    given = environ.get("XDG_STATE_HOME", "")
    if given.startswith("/"):
        return Path(given) / "protocol-runner"
    home = environ.get("HOME") or "/nonexistent"
    return Path(home) / ".local/state/protocol-runner"


class Session:
    """One call of the command line."""

    def __init__(self, cwd: Path, environ: dict[str, str], *, quiet: bool = False) -> None:
        self.cwd, self.environ, self.quiet = cwd, environ, quiet
        self.options: dict[str, str] = {}
        self._project: Project | None = None

    def surroundings(self) -> Surroundings:
        """Return clock, randomness and names of this machine."""
        return Surroundings(
            now=time.time,
            monotonic=time.monotonic,
            sleep=time.sleep,
            random_hex=lambda count: os.urandom((count + 1) // 2).hex()[:count],
            host=os.uname().nodename,
            pid=os.getpid(),
            state_home=state_home(self.environ),
            environ=self.environ,
            say=self.note,
        )

    @property
    def project(self) -> Project:
        """The project of the folder that the command runs in."""
        if self._project is None:
            from runner.store.project import Project

            self._project = Project.open(self.cwd, self.surroundings(), self.options)
        return self._project

    def close(self) -> None:
        """End what is held open."""
        if self._project is not None:
            self._project.close()

    def note(self, line: str) -> None:
        """Say something to the person, on stderr."""
        if not self.quiet:
            click.echo(safe(line), err=True)

    def result(self, line: str) -> None:
        """Give a line of the result, on stdout."""
        click.echo(safe(line))

    def json(self, value: Any) -> None:
        """Give a result as JSON, on stdout."""
        import json

        click.echo(json.dumps(value, indent=2, sort_keys=True))

    def is_terminal(self) -> bool:
        """Return whether a person can be asked here."""
        return sys.stdin.isatty() and sys.stderr.isatty()
