"""`runner answer`."""

from __future__ import annotations

import contextlib
import sys

import click

from runner.app import steer
from runner.cli import options, steering
from runner.cli.session import Session
from runner.errors import UsageError
from runner.executor import looking
from runner.store import finding


@click.command("answer", short_help="Answer what a protocol asks.")
@click.argument("words", nargs=-1, required=True, metavar="[PROTOCOL] [ID] TEXT")
@options.offline
@click.pass_obj
def command(session: Session, words: tuple[str, ...]) -> None:
    """Answer what PROTOCOL asks, or end a step of yours. The commit is yours.

    ID is the wait (w12) or its step, and is not needed where one thing waits. TEXT `-` is read from stdin. Where nobody knows
    whether a call happened, look, and answer `happened` or `did-not`.
    """
    project = session.project
    rest: tuple[str, ...]
    if len(words) == 1:
        with contextlib.suppress(UsageError):
            meant = finding.find(project, words[0])
            raise click.UsageError(f"`{words[0]}` is the protocol {meant}: what is the answer?")
        name, rest = looking.find_protocol(project, None), words
    else:
        name, rest = steering.named(session, words)
    if not 1 <= len(rest) <= 2:
        raise click.UsageError("give one text, in quotes: runner answer PROTOCOL [ID] TEXT")
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if rest[-1] == "-" else rest[-1]
    steering.tell(session, steer.answer(project, name, rest[0] if len(rest) == 2 else None, text))
