"""Exchange JSON lines with a child process over a session's pipes: one request, one response, within a time limit.

The caller starts the child, defines the lines' meaning, and ends a child that does not respond.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Mapping
from typing import Any

from runner.sandbox import Session
from runner.tools import ToolError

CHUNK = 64 * 1024
ANSWER_LIMIT = 16 * 1024 * 1024  # bytes of one line; what a child may answer is far below


def exchange(session: Session, request: Mapping[str, Any] | None, timeout: float) -> dict[str, Any] | None:
    """Send a request and return the child's next line; None where the child ended instead.

    Raises:
        TimeoutError: neither happened in time.
        ToolError: the line is not a JSON object, or too long.
    """
    left = memoryview(b"" if request is None else json.dumps(request, allow_nan=False).encode() + b"\n")
    by, said = time.monotonic() + timeout, bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(session.stdout, selectors.EVENT_READ)
        if left:
            os.set_blocking(session.stdin.fileno(), False)
            selector.register(session.stdin, selectors.EVENT_WRITE)
        while not said.endswith(b"\n"):
            if (wait := by - time.monotonic()) <= 0:
                raise TimeoutError
            for key, _ in selector.select(wait):
                if key.fileobj is session.stdin:
                    left = _feed(key.fd, left)
                    if not left:
                        selector.unregister(session.stdin)
                    continue
                data = os.read(key.fd, CHUNK)
                if not data:
                    return None
                said += data
                if len(said) > ANSWER_LIMIT:
                    raise ToolError(f"it answered with more than {ANSWER_LIMIT:,} bytes")
    try:
        answer = json.loads(said)
    except ValueError as error:
        raise ToolError("its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise ToolError("its answer is not an object")
    return answer


def _feed(stdin: int, left: memoryview) -> memoryview:
    try:
        return left[os.write(stdin, left[:CHUNK]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]  # the child is gone, which its stdout says too
