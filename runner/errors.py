"""The errors that are shown to a person rather than as a traceback.

Each says what happened, where, and what to type next, and carries its own exit code (design §9). An error that a single
room raises is defined beside the code that raises it and derives from one of these.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


def shown(text: str) -> str:
    """Return text with web addresses that have no name and token for logging in."""
    return re.sub(r"(https?://)[^/@\s]*@", r"\1", text, flags=re.IGNORECASE)


def installs(extra: str) -> str:
    """Return the command that installs an extra where this runner is installed: another pip would install another runner."""
    import shlex  # here, because few messages say it

    return f"{shlex.quote(sys.executable)} -m pip install 'protocol-runner[{extra}]'"


class ExitCode(IntEnum):
    """How a command ends (design §9)."""

    DONE = 0  # advanced, or nothing to do
    FAILED = 1  # a step, a check or a review
    USAGE = 2  # wrong usage, an invalid file, or something missing on this machine
    WAITS = 3  # for a person
    REFUSED = 4  # by policy, signature or integrity, or since a person's work would be lost
    INSUFFICIENT = 5  # history or objects that it needs are not here
    UNREACHABLE = 69  # a model, the remote or the forge, or it refused
    BUG = 70
    HELD = 75  # by another runner
    INTERRUPTED = 130


class RunnerError(Exception):
    """Base of every error that is shown to a person rather than as a traceback."""

    exit_code: ClassVar[int]  # each child says its own (design §9); there is no default to forget

    def __init__(self, what: str, where: str, hint: str) -> None:
        what, where, hint = shown(what), shown(where), shown(hint)
        super().__init__(what, where, hint)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        return f"{self.what}\n  at:   {self.where}\n  next: {self.hint}"


class UsageError(RunnerError):
    """Wrong usage, or something missing on this machine."""

    exit_code = ExitCode.USAGE


class SandboxError(UsageError):
    """The command could not be started as asked; nothing of it ran."""


class SandboxUnavailableError(SandboxError):
    """The chosen place to run commands in does not work on this machine."""


class MalformedFileError(RunnerError):
    """A file that a person wrote is not in its format; `where` is `path:line`, `others` what else is wrong with that file."""

    exit_code = ExitCode.USAGE

    def __init__(self, what: str, where: str, hint: str, others: tuple[MalformedFileError, ...] = ()) -> None:
        super().__init__(what, where, hint)
        self.others = others


class UnsupportedError(RunnerError):
    """The file asks for something that this version does not do; it is refused by name, never ignored."""

    exit_code = ExitCode.USAGE


class IllegalEventError(RunnerError):
    """An event does not belong to the state that it was applied to."""

    exit_code = ExitCode.REFUSED


class IntegrityError(RunnerError):
    """The record is not what the history says, or a history was rewritten."""

    exit_code = ExitCode.REFUSED


class InTheWayError(RunnerError):
    """Continuing would overwrite a person's work."""

    exit_code = ExitCode.REFUSED


class RefusedError(RunnerError):
    """Policy, or the state of things, does not allow this."""

    exit_code = ExitCode.REFUSED


class WaitingError(RunnerError):
    """A person has to say something first."""

    exit_code = ExitCode.WAITS


class SpentError(WaitingError):
    """The day's budget does not have what comes next; tomorrow's may."""


class ConflictError(RunnerError):
    """A ref moved while a change was being prepared; nothing was written, the same call may be made again."""

    exit_code = ExitCode.HELD


class HeldError(RunnerError):
    """Another runner works on this protocol."""

    exit_code = ExitCode.HELD


class UnreachableError(RunnerError):
    """The model, the remote or the forge could not be reached or refused us."""

    exit_code = ExitCode.UNREACHABLE


class InsufficientHistoryError(RunnerError):
    """`verify` cannot tell: history or objects are not in this clone."""

    exit_code = ExitCode.INSUFFICIENT


class StepFailedError(RunnerError):
    """A step, a check or a QA verdict failed. `printed`: the last lines of its output, which are shown with the error."""

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, where: str, hint: str, *, printed: Sequence[str] = ()) -> None:
        super().__init__(what, where, hint)
        self.printed = tuple(printed)

    def __str__(self) -> str:
        shown = "".join(f"\n  | {line}" for line in self.printed)
        return f"{self.what}{shown}\n  at:   {self.where}\n  next: {self.hint}"
