"""`--json` of a command that acts: one object at its end, whatever its end is, and nothing else on stdout (design §9)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from runner.cli import status, streams
from runner.cli.session import Session
from runner.errors import RunnerError
from runner.store import lookup, record


def end(session: Session, code: int, error: BaseException | None) -> None:
    """Print the object of a command that ends now; `error`: what ended it, where it did not end by itself."""
    told: dict[str, Any] = {"command": session.acts, "code": code, "error": _error(error), "lines": streams.kept()}
    session.json({**told, "protocols": _protocols(session)})


def _error(error: BaseException | None) -> dict[str, str] | None:
    if isinstance(error, RunnerError):
        return {"what": error.what, "at": error.where, "next": error.hint}
    if error is None or isinstance(error, SystemExit | click.exceptions.Exit):
        return None
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return {"what": "interrupted", "at": "", "next": "the same command resumes"}
    return {"what": f"{type(error).__name__}: {error}", "at": "", "next": ""}


def _protocols(session: Session) -> list[Any]:
    """Return what `show --json` prints of each protocol that the command was about, as it is now."""
    found = []
    for name in dict.fromkeys(session.about):
        with suppress(RunnerError):  # of one that cannot be shown, the command's own result is not lost
            project = session.project
            if lookup.find(project, name) == name:
                found.append(status.as_plain(project, record.row(project.git, name, lookup.tip(project, name))))
    return found
