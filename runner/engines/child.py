"""The processes of a coding agent: the agent itself, which speaks JSON-RPC, and the commands that run for it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from typing import Final

from runner.engines import Json
from runner.sandbox.process import CHUNK, CommandOutcome, Pipes, Session, TooLongError

MOST_LINE: Final = 64 * 1024 * 1024  # bytes of one message


class EndedError(Exception):
    """The child ended, or does not keep to the protocol."""


class Pipe(Pipes):
    """JSON-RPC with a child: one message a line."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, MOST_LINE)
        self._number = 0

    def request(self, method: str, params: Json) -> int:
        """Send a request; return its id."""
        self._number += 1
        self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        return self._number

    def notify(self, method: str, params: Json) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def reply(self, number: Json, result: Json) -> None:
        """Answer a request of the child's."""
        self.send({"jsonrpc": "2.0", "id": number, "result": result})

    def refuse(self, number: Json, code: int, why: str) -> None:
        """Answer a request of the child's by an error."""
        self.send({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": why}})

    def next(self, timeout: float) -> dict[str, Json]:
        """Send pending bytes, and return the child's next message, empty where something else can be read; other lines are skipped.

        Raises:
            TimeoutError: it sent no message for so long. EndedError: it ended.
        """
        while True:
            try:
                line = self.line(timeout)
            except EOFError:
                raise EndedError("it ended") from None
            except TooLongError as error:
                raise EndedError(f"it sent a message of {error}") from None
            if line is None:
                return {}
            with contextlib.suppress(ValueError, RecursionError):
                message = json.loads(line)
                if isinstance(message, dict):
                    return message


@dataclass(slots=True)
class Terminal:
    """A command that runs for the agent. `call`: that it is part of; `most`: bytes of its output that are kept, its last ones.

    `waits`: the agent's requests that its end answers.
    """

    session: Session
    call: str
    most: int
    output: bytearray = field(default_factory=bytearray)
    is_cut: bool = False
    ended: CommandOutcome | None = None
    waits: list[Json] = field(default_factory=list)

    def take(self) -> bool:
        """Take in more of the output; return whether that is its end."""
        data = os.read(self.session.stdout.fileno(), CHUNK)
        self.output += data
        if (more := len(self.output) - self.most) > 0:
            del self.output[:more]
            self.is_cut = True
        if not data:
            self.end(1.0)
        return not data

    def end(self, grace: float = 0.0) -> None:
        """End it, and all that it started."""
        self.ended = self.ended or self.session.close(grace)

    @property
    def status(self) -> dict[str, Json]:
        """How it ended."""
        assert self.ended is not None
        code = self.ended.code
        signal = code - 128 if code > 128 else 0
        return {"exitCode": None if signal else code, "signal": str(signal) if signal else None}

    @property
    def text(self) -> str:
        """What is kept of its output."""
        data = bytes(self.output)
        if self.is_cut:  # not from the middle of a letter
            data = data.lstrip(bytes(range(0x80, 0xC0)))
        return data.decode(errors="replace")
