"""The tools of MCP servers for a coding agent: an address for each server on its sandbox's loopback.

A call of one waits there until the loop has judged and made it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from runner.engines import Json, ToolResult, ToolSpec
from runner.engines.egress import Http
from runner.engines.line import as_text
from runner.sandbox import Network
from runner.values import dataclass

PORT: Final = 3130  # on the sandbox's loopback
MOST_CALLS: Final = 32  # that wait for their results
_MCP: Final = ("2025-06-18", "2025-03-26", "2025-11-25")  # versions whose requests are the same here


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, by the loop's name for it, that waits until its result is put."""

    name: str
    arguments: dict[str, Json]
    result: queue.SimpleQueue[ToolResult] = field(default_factory=queue.SimpleQueue)


class Tools:
    """The tools of MCP servers for an agent in the sandbox: `specs`, by their names `mcp:SERVER/TOOL`.

    `wake`: can be read once a call has come. `network`: of the agent's `Command`.
    """

    def __init__(self, specs: Mapping[str, ToolSpec]) -> None:
        self.specs, self._calls, self._open = specs, queue.SimpleQueue[ToolCall](), list[ToolCall]()
        self._lock, self._is_closed = threading.Lock(), False
        self.wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        answer = type("Serve", (_Serve,), {"tools": self})
        self.network = Network(serves={PORT: lambda one: answer(one, ("sandbox", 0), None)} if specs else {})

    def servers(self) -> list[Json]:
        """Return the servers, as `session/new` takes them."""
        names = dict.fromkeys(name.removeprefix("mcp:").partition("/")[0] for name in self.specs)
        return [{"type": "http", "name": one, "url": f"http://127.0.0.1:{PORT}/{one}", "headers": []} for one in names]

    def call(self, name: str, arguments: dict[str, Json]) -> ToolResult | None:
        """Return the result of a call, once there is one; None where too many wait."""
        made = ToolCall(name, arguments)
        with self._lock:
            if self._is_closed or len(self._open) >= MOST_CALLS:
                return None
            self._open.append(made)
            self._calls.put(made)
            with contextlib.suppress(BlockingIOError):
                os.write(self._waker, b"x")
        return made.result.get()

    def arrived(self) -> list[ToolCall]:
        """Return the calls that came since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        return [self._calls.get() for _ in range(self._calls.qsize())]

    def answer(self, call: ToolCall, result: ToolResult) -> None:
        """Give a call its result."""
        with self._lock, contextlib.suppress(ValueError):
            self._open.remove(call)
        call.result.put(result)

    def release(self) -> None:
        """Answer what still waits: its agent ends."""
        self.arrived()
        for one in tuple(self._open):
            self.answer(one, ToolResult(id="", name=one.name, content="not done: the step stops here", is_error=True))

    def close(self) -> None:
        """Take no more calls."""
        with self._lock:
            self._is_closed = True
        self.release()
        os.close(self.wake)
        os.close(self._waker)


class _Serve(Http):
    """Speaks MCP over HTTP, as far as a server does that only has tools: no session, no stream."""

    tools: Tools

    def do_GET(self) -> None:
        self._json(405, {"error": "there is no stream"})

    do_DELETE = do_GET

    def do_POST(self) -> None:
        self.close_connection = True
        try:
            asked = json.loads(self._body())
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return self._json(400, {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "no request"}})
        if "id" not in asked:
            return self._json(202, None)
        params = asked.get("params")
        found = self._found(asked.get("method"), params if isinstance(params, dict) else {})
        self._json(200, {"jsonrpc": "2.0", "id": asked["id"], **found})

    def _found(self, method: Json, params: Mapping[str, Json]) -> dict[str, Json]:
        """Return what answers a request: its result, or an error."""
        prefix = f"mcp:{self.path.strip('/')}/"
        match method:
            case "initialize":
                about = {"name": prefix[4:-1], "version": "1"}
                version = params.get("protocolVersion")
                version = version if version in _MCP else _MCP[0]
                return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}}
            case "ping":
                return {"result": {}}
            case "tools/list":
                listed = [
                    {"name": name.removeprefix(prefix), "description": one.description, "inputSchema": one.parameters}
                    for name, one in self.tools.specs.items()
                    if name.startswith(prefix)
                ]
                return {"result": {"tools": listed}}
            case "tools/call" if (name := f"{prefix}{params.get('name')}") in self.tools.specs:
                given = params.get("arguments") or {}
                made = self.tools.call(name, given) if isinstance(given, dict) else None
                if made is None:
                    return {"error": {"code": -32602, "message": "too many calls wait, or the arguments are no object"}}
                said: Json = [{"type": "text", "text": as_text(made.content)}]
                return {"result": {"content": said, "isError": made.is_error}}
        return {
            "error": {"code": -32601 if method != "tools/call" else -32602, "message": "there is no such thing here"}
        }
