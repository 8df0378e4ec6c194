"""A job of a CI: what `step` and `run` tell it with `--ci`, and what they exit with there (design §6).

That somebody else is needed, or that another runner has the protocol, is no failure of a job: it exits 0 and says so in the job's
summary (`$GITHUB_STEP_SUMMARY`) and its outputs (`$GITHUB_OUTPUT`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from runner.cli.session import Session
from runner.errors import HeldError, UsageError

if TYPE_CHECKING:
    from runner.executor.advance import Advanced

WAITS = 3


def is_on(session: Session) -> bool:
    """Return whether `--ci` was given."""
    return "ci" in session.options


@contextmanager
def job(session: Session, protocol: str) -> Iterator[None]:
    """In a job, end well where another runner has the protocol.

    Raises:
        SystemExit: with 0, then.
    """
    try:
        yield
    except HeldError as error:
        if not is_on(session):
            raise
        session.note(f"held: {error.what}")
        _write(session, {"protocol": protocol, "held": "true", "waits": "false", "more": "false"})
        _summarise(session, protocol, "held by another runner", [])
        raise SystemExit(0) from None


def end(session: Session, done: Advanced, code: int) -> int:
    """Tell the job how it stands, and return what it exits with; without `--ci`, `code` as it is."""
    if not is_on(session):
        return code
    import dataclasses

    from runner.store import record

    state = done.state
    found = record.outlook({"schema": 1, **dataclasses.asdict(state)})
    told = {"protocol": state.protocol, "status": str(state.status), "revision": str(state.revision)}
    flags = {"held": False, "waits": code == WAITS, "more": found.action not in ("none", "ask-person")}
    _write(session, {**told, "commit": done.commit, **{name: str(flag).lower() for name, flag in flags.items()}})
    waits = [f"{wait.by}: {wait.text}" for wait in state.waiting]
    _summarise(session, state.protocol, str(state.status), waits or ([found.reason] if code and found.reason else []))
    return 0 if code == WAITS else code


def _write(session: Session, values: dict[str, str]) -> None:
    """Add outputs; the values are words of ours, ids and numbers, so a line is a value."""
    assert not any("\n" in value for value in values.values())
    _append(session, "GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in values.items()))


def _summarise(session: Session, protocol: str, word: str, lines: list[str]) -> None:
    told = "".join(f"- {plain(one)}\n" for one in lines)
    _append(session, "GITHUB_STEP_SUMMARY", f"### {plain(protocol)}: {plain(word)}\n\n{told}\n")


def plain(text: str) -> str:
    """Return text as Markdown and HTML show it literally: nobody is mentioned, nothing is linked."""
    shown = " ".join(text.split())
    return "".join(char if char.isalnum() or char == " " else f"&#{ord(char)};" for char in shown)


def _append(session: Session, variable: str, text: str) -> None:
    path = session.environ.get(variable)
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{variable} cannot be written: {error.strerror}", path, "unset it, or mend it") from error


def option(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """`--ci` and `--ephemeral`: kept among the options; in a job what is done is published, unless `--publish` says otherwise."""
    if not value:
        return
    session: Session = ctx.find_root().obj
    session.options[str(param.name)] = "yes"
    if param.name == "ci":
        session.options["ephemeral"] = "yes"
        session.options.setdefault("publish", "always")
