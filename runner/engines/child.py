"""The processes of a coding agent: the agent itself, which speaks JSON-RPC, and the commands that run for it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from runner.engines import Json
from runner.sandbox.process import Outcome, Session

MOST_LINE: Final = 64 * 1024 * 1024  # bytes of one message
_CHUNK: Final = 64 * 1024


class EndedError(Exception):
    """The child ended, or does not keep to the protocol."""


class Pipe:
    """JSON-RPC with a child: one message a line. `take` gets its output before it is parsed; `wake`: what else may end a wait, and
    `beside`: what to call where another file can be read."""

    def __init__(self, session: Session, wake: int | None) -> None:
        self.session, self._wake = session, wake
        self.take: Callable[[bytes], None] = lambda data: None
        self.beside: dict[int, Callable[[], None]] = {}
        self._in, self._out, self._number = bytearray(), bytearray(), 0
        os.set_blocking(session.stdin.fileno(), False)

    def request(self, method: str, params: Json) -> int:
        """Send a request; return its id."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        return self._number

    def notify(self, method: str, params: Json) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def reply(self, number: Json, result: Json) -> None:
        """Answer a request of the child's."""
        self._send({"id": number, "result": result})

    def refuse(self, number: Json, code: int, why: str) -> None:
        """Answer a request of the child's by an error."""
        self._send({"id": number, "error": {"code": code, "message": why}})

    def _send(self, message: dict[str, Json]) -> None:
        self._out += json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"

    def next(self, timeout: float) -> dict[str, Json]:
        """Send pending bytes, and return the child's next message, empty where something else can be read; other lines are skipped.

        Raises:
            TimeoutError: it said nothing for so long. EndedError: it ended.
        """
        while True:
            line, newline, rest = self._in.partition(b"\n")
            if newline:
                self._in = rest
                with contextlib.suppress(ValueError, RecursionError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        return message
                continue
            if len(self._in) > MOST_LINE:
                raise EndedError(f"it sent a message of more than {MOST_LINE:,} bytes")
            if not self._exchange(timeout):
                return {}

    def _exchange(self, timeout: float) -> bool:
        """Send and receive until there is output, or something else can be read; return whether there is output."""
        by = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.session.stdout, selectors.EVENT_READ)
            if self._wake is not None:
                selector.register(self._wake, selectors.EVENT_READ)
            for number in self.beside:
                selector.register(number, selectors.EVENT_READ)
            if self._out:
                selector.register(self.session.stdin, selectors.EVENT_WRITE)
            while (wait := by - time.monotonic()) > 0:
                for key, _ in selector.select(wait):
                    if key.fileobj is self.session.stdout:
                        data = os.read(key.fd, _CHUNK)
                        if not data:
                            raise EndedError("it ended")
                        self._in += data
                        self.take(data)
                        return True
                    if key.fileobj == self._wake:
                        return False
                    if key.fd in self.beside:
                        self.beside[key.fd]()
                        return False
                    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # that it ended, its output says too
                        del self._out[: os.write(key.fd, self._out[:_CHUNK])]
                    if not self._out:
                        selector.unregister(self.session.stdin)
        raise TimeoutError

    def flush(self, seconds: float = 1.0) -> None:
        """Send the rest, for so long at most."""
        by, self._wake = time.monotonic() + seconds, None
        self.beside.clear()
        with contextlib.suppress(OSError, EndedError, TimeoutError):
            while self._out and (left := by - time.monotonic()) > 0:
                self._exchange(left)


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
    ended: Outcome | None = None
    waits: list[Json] = field(default_factory=list)

    def take(self) -> bool:
        """Take in more of the output; return whether that is its end."""
        data = os.read(self.session.stdout.fileno(), _CHUNK)
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
