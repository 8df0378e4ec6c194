"""`--ci`: the report of `step`, `run` and `verify` to a CI job, and the exit code of the first two (design §6).

A job does not fail if the protocol waits for a person or if another runner has it: it exits 0 and writes the reason to the job's
summary (`$GITHUB_STEP_SUMMARY`) and outputs (`$GITHUB_OUTPUT`). Findings of verify become annotations on GitHub, and on GitLab a
code quality report, which a merge request shows beside its changes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from runner.cli import streams
from runner.cli.console import Console
from runner.cli.streams import safe
from runner.errors import HeldError, SpentError, UsageError
from runner.store import record
from runner.store.environment import write_atomically

if TYPE_CHECKING:
    from runner.executor.advance import Advanced

WAITING = 3
REPORT = "gl-code-quality-report.json"  # as the job on GitLab names it, in its own folder


def is_on(console: Console) -> bool:
    """Return whether `--ci` was given."""
    return "ci" in console.options


@contextmanager
def job(console: Console, protocol: str) -> Iterator[None]:
    """In a job, end well where another runner has the protocol, or the day's budget is used up.

    Raises:
        SystemExit: with 0, then.
    """
    try:
        yield
    except (HeldError, SpentError) as error:
        if not is_on(console):
            raise
        held = isinstance(error, HeldError)
        console.note(f"{'held' if held else 'waits'}: {error.what}")
        _write(
            console, {"protocol": protocol, "held": str(held).lower(), "waits": str(not held).lower(), "more": "false"}
        )
        summarise(console, protocol, "held by another runner" if held else "waits: the day's budget is used up", [])
        raise SystemExit(0) from None


def end(console: Console, done: Advanced, code: int) -> int:
    """Report the status to the job, and return its exit code; without `--ci`, return `code`."""
    if not is_on(console):
        return code
    state = done.state
    found = record.outlook_of(state)
    told = {"protocol": state.protocol, "status": str(state.status), "revision": str(state.revision)}
    flags = {"held": False, "waits": code == WAITING, "more": found.action not in ("none", "ask-person")}
    _write(console, {**told, "commit": done.commit, **{name: str(flag).lower() for name, flag in flags.items()}})
    waits = [f"{wait.by}: {wait.text}" for wait in state.waiting]
    summarise(console, state.protocol, str(state.status), waits or ([found.reason] if code and found.reason else []))
    return 0 if code == WAITING else code


class Annotation(NamedTuple):
    """A finding in a file of the request. `title`: the protocol and the rule; `line`: from 1."""

    file: str
    line: int
    title: str
    text: str


def annotate(console: Console, found: Sequence[Annotation]) -> None:
    """Show findings beside the changes of a request: as annotations on GitHub, or in the report that GitLab reads.

    Raises:
        UsageError: the report cannot be written.
    """
    if console.environ.get("GITHUB_ACTIONS") == "true":
        for one in found:
            where = f"file={_property(one.file)},line={one.line},title={_property(one.title)}"
            text = f"::error {where}::{_data(one.text)}"
            sys.stderr.command(text) if isinstance(sys.stderr, streams.Escaped) else streams.say(text)
    if console.environ.get("GITLAB_CI") == "true":
        import hashlib

        told = [
            {
                "description": f"{streams.escaped(safe(one.title))}: {streams.escaped(safe(one.text))}",
                "check_name": streams.escaped(safe(one.title)),
                "fingerprint": hashlib.sha256(repr(one).encode("utf-8", "surrogateescape")).hexdigest(),
                "severity": "blocker",
                "location": {"path": streams.escaped(safe(one.file)), "lines": {"begin": one.line}},
            }
            for one in found
        ]
        at = Path(console.environ.get("CI_PROJECT_DIR") or console.cwd) / REPORT
        try:
            # Never through a link that a branch has there.
            write_atomically(at, json.dumps(told, indent=2).encode("ascii"))
        except OSError as error:
            raise UsageError(f"it cannot be written: {error.strerror}", str(at), "let the job write there") from error


def _data(text: str) -> str:
    """Return text as GitHub reads it in a command: nothing in it ends the line."""
    return streams.escaped(safe(text)).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Return text as GitHub reads it before the second `::` of a command, where commas and colons part."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _write(console: Console, values: dict[str, str]) -> None:
    """Add outputs; the values are our own constants, ids and numbers, so each is one line."""
    assert not any("\n" in value for value in values.values())
    _append(console, "GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in values.items()))


def summarise(console: Console, protocol: str, word: str, lines: list[str]) -> None:
    """Add the status of a protocol to the job's summary on GitHub."""
    told = "".join(f"- {plain(one)}\n" for one in lines)
    _append(console, "GITHUB_STEP_SUMMARY", f"### {plain(protocol)}: {plain(word)}\n\n{told}\n")


def plain(text: str) -> str:
    """Return text as Markdown and HTML show it literally: nobody is mentioned, nothing is linked."""
    shown = " ".join(text.split())
    return "".join(char if char.isalnum() or char == " " else f"&#{ord(char)};" for char in shown)


def _append(console: Console, variable: str, text: str) -> None:
    path = console.environ.get(variable)
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(
            f"{variable} cannot be written: {error.strerror}", path, "unset it, or name a file that can be written"
        ) from error


def option(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """`--ci` and `--ephemeral`: kept among the options; a job publishes its work, unless `--publish` says otherwise."""
    if not value:
        return
    console: Console = ctx.find_root().obj
    console.options[str(param.name)] = "yes"
    refuse_offline(console)
    if param.name == "ci":
        console.options["ephemeral"] = "yes"
        console.options.setdefault("publish", "always")


def refuse_offline(console: Console) -> None:
    """Refuse to leave the remote alone where this machine may vanish, and what it did with it.

    Raises:
        UsageError: both were asked for.
    """
    if console.options.get("offline") and console.options.get("ephemeral"):
        raise UsageError(
            "`--offline` does not go together with `--ci` or `--ephemeral`",
            "the command line",
            "such a machine has to publish its work itself",
        )
