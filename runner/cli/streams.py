"""The standard streams: open in every case, and a message that cannot be written never decides what a command did."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from runner.errors import UsageError


class LostResultError(UsageError):
    """stdout took not all of a result: a reader must not take what it got for the whole."""


def program() -> str:
    """Return the name that was typed: `runner` or `git runner`."""
    return "git runner" if Path(sys.argv[0]).name == "git-runner" else "runner"


def open_missing() -> None:
    """Open `/dev/null` in the place of each standard stream that this process was started without.

    Else the next file that is opened gets the number 2, and messages would be written into a journal or a lock.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # open() takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            stream = os.fdopen(
                number, "w" if number else "r", encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def say(text: str) -> None:
    """Write a message to stderr; where that cannot be written, this and all that follow are dropped."""
    try:
        click.echo(text, err=True)
    except OSError:
        drop(2)


def drop(number: int) -> None:
    """Let all that is still written to a standard stream vanish, what its buffer holds too."""
    with contextlib.suppress(OSError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)


def put(text: str | bytes, *, nl: bool = True) -> None:
    """Write a part of the result to stdout.

    Raises:
        LostResultError: stdout cannot be written. BrokenPipeError: nobody reads it any more.
    """
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop(1)
        what = f"the result could not be written: {error.strerror}"
        raise LostResultError(what, "stdout", "write it somewhere else; what the command did stays done") from error
