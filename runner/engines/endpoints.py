"""The endpoints of a coding agent, on its sandbox's loopback: `Egress`, where its model is asked, and `Tools`, of MCP servers.

A model's is plain HTTP inside the sandbox and TLS to the provider, with a key that stays out here. Only the requests pass that ask a
model for an answer, count tokens or list models: the key is good for more. The tokens of each answer
are counted as it streams by, and once its caller says so, no further request is sent. An answer that is under way is not cut, so a
cap is overshot by at most `AT_ONCE` answers. What a request brings of keys and cookies is dropped; redirects are not followed.

Each MCP server has an address of its own. A call of a tool waits there until the loop has judged and made it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import urlsplit

from runner.engines import Engine, Json, RateLimitError, ToolResult, ToolSpec, Usage, agents, registry
from runner.engines.line import as_text, duration, wait_of
from runner.errors import UsageError
from runner.sandbox.network import Network, proxy_for

PORT: Final = 3129  # on the sandbox's loopback
TOOLS_PORT: Final = 3130
MOST_CALLS: Final = 32  # that wait for their results
_MCP: Final = ("2025-06-18", "2025-03-26", "2025-11-25")  # versions whose requests are the same here
AT_ONCE: Final = 4  # requests; others wait
MOST: Final = 64 * 1024 * 1024  # bytes of a request, and of an answer that is counted
MOST_PATH: Final = 300  # characters
SILENCE: Final = 600.0  # seconds that a provider, or an agent, may say nothing
_CHUNK: Final = 64 * 1024
_BYTES_OF_TOKEN: Final = 4  # where nobody counted
_ANSWERS: Final = r"/(responses|chat/completions|messages|[\w.@:/-]+:(stream)?[gG]enerateContent)"
_FREE: Final = r"/(responses/input_tokens|messages/count_tokens|models(/[\w.:@/-]+)?|[\w.@:/-]+:countTokens)"
_PARAMETERS: Final = ("alt", "beta", "api-version", "pageSize", "limit")  # `key` is none: it would be the agent's own
_DROPPED: Final = {
    *("host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "content-length"),
    *("authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "set-cookie", "accept-encoding"),
    *("proxy-authorization", "proxy-connection", "x-forwarded-for", "forwarded"),
}
# Each line is one provider's way; a server that speaks two says the same in both.
_INPUT: Final = (
    ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    ("prompt_tokens",),
    ("promptTokenCount", "toolUsePromptTokenCount"),
)
_OUTPUT: Final = (("output_tokens",), ("completion_tokens",), ("candidatesTokenCount", "thoughtsTokenCount"))
_CACHED: Final = (
    *(("cache_read_input_tokens",), ("cachedContentTokenCount",)),
    *(("input_tokens_details.cached_tokens",), ("prompt_tokens_details.cached_tokens",)),
)
_WRITTEN: Final = (
    ("cache_creation_input_tokens",),
    *(("input_tokens_details.cache_write_tokens",), ("prompt_tokens_details.cache_write_tokens",)),
)


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that the provider answered. `usage`: by its bytes, where it did not say; `wait`: the seconds that it asks to wait."""

    status: int
    model: str
    usage: Usage
    wait: float | None = None


class Egress:
    """The endpoint of a model for an agent in the sandbox, in the place of `upstream`, the provider's base URL. `address`: its own.

    `network`: of the agent's `Command`, which reaches nothing else. `answers`: those that are over. `stop`: asked before each request,
    why it may not be sent; `refused`: why the last one was not, where one was not. `provider`: whose prices hold.
    """

    def __init__(self, provider: str, upstream: str, key: Mapping[str, str], via: Mapping[str, str]) -> None:
        """`key`: the headers that carry it, such as `{"x-api-key": …}`; `via`: variables that name the person's own proxy.

        Raises:
            UsageError: the key would go over the network in clear text.
        """
        self.provider, self.upstream, self.key, self.via = provider, urlsplit(upstream.rstrip("/")), key, via
        if self.upstream.scheme != "https" and self.upstream.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise UsageError("a model's endpoint has to use https", upstream, "name it with https://")
        self.address, self.network = f"http://127.0.0.1:{PORT}", _serving(PORT, _Answer, self)
        self.answers, self.refused = list[Answered](), ""
        self.stop: Callable[[], str | None] = lambda: None
        self._coming, self._asked = list[_Counter](), 0  # answers and requests under way
        self._taken = 0  # answers
        self._lock, self.turns = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)

    def told(self, start: int = 0) -> list[Answered]:
        """Return the answers that are over, from one on, and those under way that have said what they cost.

        The agent has read that by then, and may ask again before they are over.
        """
        return [*self.answers[start:], *filter(None, (one.so_far() for one in tuple(self._coming)))]

    def begin(self, counter: _Counter) -> None:
        """Take note of an answer that is under way."""
        with self._lock:
            self._coming.append(counter)

    def end(self, counter: _Counter, answer: Answered) -> None:
        """Take note of an answer that is over."""
        with self._lock:  # at no moment it counts twice, or not at all
            self._coming.remove(counter)
            self.answers.append(answer)

    def take(self) -> tuple[Usage, Decimal | None]:
        """Return the tokens since the last time, and their cost, None where it is not known."""
        self._wait()
        found = self._sum(self.answers[self._taken :])
        self._taken = len(self.answers)
        return found

    def since(self) -> tuple[Usage, Decimal | None]:
        """Return the tokens since they were last taken, and their cost, also of answers under way."""
        return self._sum(self.told(self._taken))

    def _sum(self, answers: Sequence[Answered]) -> tuple[Usage, Decimal | None]:
        costs = [registry.cost_usd(self.provider, one.model, one.usage) for one in answers if one.usage != Usage()]
        usage = sum((one.usage for one in answers), Usage())
        return usage, None if None in costs else sum(filter(None, costs), Decimal(0))

    def price(self, engine: Engine, usage: Usage) -> Decimal | None:
        """Return what tokens of the model that the engine names cost; None where it names none, or nobody knows."""
        return registry.cost_usd(self.provider, agents.split(engine.name)[2], usage)

    @property
    def limit(self) -> RateLimitError | None:
        """The provider's refusal of the last request, where it takes no more for now."""
        self._wait()  # an agent may end its turn before its last answer is counted
        last = self.answers[-1] if self.answers else None
        if last is None or last.status != 429:
            return None
        what, hint = "the provider takes no more requests for now (429)", "wait a little"
        if last.wait is not None:
            hint = f"wait {duration(last.wait)}"
        return RateLimitError(what, self.upstream.hostname or "", hint, retry_after=last.wait)

    def _wait(self, seconds: float = 2.0) -> None:
        """Wait until each request that is under way is counted, for so long at most."""
        for _ in range(int(seconds / 0.02)):
            if not self._asked:
                return
            time.sleep(0.02)

    @contextlib.contextmanager
    def turn(self) -> Iterator[str | None]:
        """Give why a request is not sent, or None; it counts as under way until the block ends."""
        with self._lock:
            why = self.stop()
            self.refused = why or self.refused
            self._asked += 1
        try:
            yield why
        finally:
            with self._lock:
                self._asked -= 1

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the provider."""
        host, secure = self.upstream.hostname or "", self.upstream.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        beyond = proxy_for(self.via, host, is_tunnel=True) if secure else None
        if beyond is None:
            return kind(host, self.upstream.port, timeout=SILENCE)
        made = kind(*beyond.address, timeout=SILENCE)
        made.set_tunnel(host, self.upstream.port, headers=dict(beyond.headers))
        return made


def _serving(port: int, kind: type[_Http], of: Egress | Tools) -> Network:
    """Return the network whose connections to a port of the loopback are answered by a handler of a kind."""
    answer = type(kind.__name__, (kind,), {"of": of})
    return Network(serves={port: lambda one: answer(one, ("sandbox", 0), None)})


class _Http(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the answers are."""

    def _body(self) -> bytes:
        """Return the request's body.

        Raises:
            ValueError: it is too long, or its length can be read in two ways.
        """
        coding, lengths = self.headers.get_all("Transfer-Encoding"), self.headers.get_all("Content-Length") or ["0"]
        if coding is None:
            if len(lengths) > 1 or not lengths[0].isdecimal() or int(lengths[0]) > MOST:
                raise ValueError
            if len(body := self.rfile.read(int(lengths[0]))) < int(lengths[0]):
                raise ValueError
            return body
        chunks = bytearray()
        while coding == ["chunked"] and "Content-Length" not in self.headers:
            size = int(self.rfile.readline(20).strip() or b"x", 16)
            if not 0 <= size <= MOST - len(chunks):
                raise ValueError
            chunks += self.rfile.read(size)
            if self.rfile.readline(3) != b"\r\n":
                raise ValueError
            if not size:
                return bytes(chunks)
        raise ValueError

    def _json(self, status: int, value: Json) -> None:
        data = json.dumps(value).encode() if value is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


class _Answer(_Http):
    """Passes questions to a model on."""

    of: Egress

    def do_POST(self) -> None:
        self._ends, self.close_connection = self.close_connection, True  # an error leaves a body that was not read
        path, _, query = self.path.partition("?")
        if len(path) > MOST_PATH:
            return self._refuse(404, "the path is too long")
        costs = re.fullmatch(rf"(/[\w.@-]+)*?{_ANSWERS}", path, re.A) is not None and self.command == "POST"
        free = re.fullmatch(rf"(/[\w.@-]+)*?{_FREE}", path, re.A)
        if not (costs or free) or "/.." in path or "//" in path:
            return self._refuse(403, f"{self.command} {path} is not passed on: only questions to a model are")
        query = "&".join(one for one in query.split("&") if one.partition("=")[0] in _PARAMETERS)
        with self.of.turns:  # also while a body is read: what all hold together is bounded
            try:
                body = self._body()
                asked = json.loads(body) if costs else {}
            except (ValueError, RecursionError):
                return self._refuse(400, f"a request is JSON of at most {MOST:,} bytes, not compressed")
            if not isinstance(asked, dict) or asked.get("background"):
                return self._refuse(403, "an answer in the background is not counted, and is not passed on")
            with self.of.turn() as why, contextlib.closing(self.of.connect()) as connection:
                if why is not None:
                    return self._refuse(403, why)
                self._ask(connection, path + (f"?{query}" if query else ""), body, costs)

    do_GET = do_POST

    def _ask(self, connection: http.client.HTTPConnection, path: str, body: bytes, costs: bool) -> None:
        dropped = {*_DROPPED, *map(str.lower, self.of.key)}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        given = {**kept, **self.of.key, "Accept-Encoding": "identity", "Connection": "close"}
        try:
            connection.request(self.command, self.of.upstream.path + path, body or None, given)
            found = connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            return self._refuse(502, f"{self.of.upstream.hostname} does not answer: {type(error).__name__}")
        counter = _Counter(path, found.status, len(body), found.headers.get_content_type())
        if costs:
            self.of.begin(counter)
        try:
            self.send_response(found.status)
            for name, value in found.getheaders():
                if name.lower() not in _DROPPED | {"date", "server"}:
                    self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while data := found.read1(_CHUNK):
                counter.take(data)
                try:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                except OSError:
                    if counter.is_stream:
                        raise
                    # The provider made all of it already, and says what it cost at any place.
            if found.length:
                raise http.client.IncompleteRead(b"", found.length)
            counter.is_whole = True
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = self._ends
        except (OSError, http.client.HTTPException):
            pass  # one of both sides went away: what came until then is counted
        finally:
            if costs and found.status < 300:
                self.of.end(counter, counter.answered())
            elif costs:
                headers = {name.lower(): value for name, value in found.getheaders()}
                self.of.end(counter, Answered(found.status, "", Usage(), wait_of(headers)))

    def _refuse(self, status: int, why: str) -> None:
        self._json(status, {"type": "error", "error": {"type": "permission_error", "message": f"runner: {why}"}})


class _Counter:
    """Finds the tokens of an answer as it comes: JSON, or events of a stream, which repeat and extend what they counted before."""

    def __init__(self, path: str, status: int, asked: int, kind: str) -> None:
        """`asked`: bytes of the request; `kind`: the answer's Content-Type."""
        self.is_whole, self._asked, self._size = False, asked, 0
        self._path, self._status = path, status
        self.is_stream, self._rest = kind.startswith("text/event-stream"), bytearray()
        self._counted, self._model = dict[str, int](), ""

    def take(self, data: bytes) -> None:
        """Add the next part of the answer."""
        self._size += len(data)
        self._rest += data[: max(0, MOST - len(self._rest))]
        if self.is_stream and b"\n" in data:
            *lines, rest = self._rest.split(b"\n")
            self._rest = bytearray(rest)
            for line in lines:
                self._read(line.removeprefix(b"data:"))

    def so_far(self) -> Answered | None:
        """Return what the answer has said that it cost, None where it has not."""
        usage = self._usage()
        return Answered(self._status, self._named(), usage) if usage != Usage() else None

    def answered(self) -> Answered:
        """Return what the answer says that it cost; the more of that and its bytes, where it broke off."""
        usage = self._usage()
        if self.is_whole and usage.input + usage.output:
            return Answered(self._status, self._named(), usage)
        least = {"input": self._asked // _BYTES_OF_TOKEN + 1, "output": self._size // _BYTES_OF_TOKEN}
        more = {name: max(getattr(usage, name), count) for name, count in least.items()}
        return Answered(self._status, self._named(), dataclasses.replace(usage, **more))

    def _usage(self) -> Usage:
        self._read(self._rest.removeprefix(b"data:"))
        every = (("input", _INPUT), ("output", _OUTPUT), ("cached", _CACHED), ("cache_write", _WRITTEN))
        return Usage(
            **{name: max(sum(self._counted.get(one, 0) for one in names) for names in ways) for name, ways in every}
        )

    def _named(self) -> str:
        return self._model or (match[1] if (match := re.search(r"/models/([^/:]+):", self._path)) else "")

    def _read(self, data: bytes | bytearray) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(data)
            for event in value if isinstance(value, list) else [value]:
                for one in (event, event.get("message"), event.get("response")) if isinstance(event, dict) else ():
                    if isinstance(one, dict):
                        self._model = str(one.get("model") or one.get("modelVersion") or self._model)[:100]
                        self._count(one.get("usage") or one.get("usageMetadata"))

    def _count(self, usage: Json, above: str = "") -> None:
        for name, value in usage.items() if isinstance(usage, dict) else ():
            if isinstance(value, dict):
                self._count(value, f"{above}{name}.")
            elif type(value) is int and 0 <= value <= 10**9:
                self._counted[above + name] = max(value, self._counted.get(above + name, 0))


# --- the tools of MCP servers ------------------------------------------------------------------------------------------


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
        self.network = _serving(TOOLS_PORT, _Serve, self) if specs else Network()

    def servers(self) -> list[Json]:
        """Return the servers, as `session/new` takes them."""
        names = dict.fromkeys(name.removeprefix("mcp:").partition("/")[0] for name in self.specs)
        return [
            {"type": "http", "name": one, "url": f"http://127.0.0.1:{TOOLS_PORT}/{one}", "headers": []} for one in names
        ]

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


class _Serve(_Http):
    """Speaks MCP over HTTP, as far as a server does that only has tools: no session, no stream."""

    of: Tools

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
                    for name, one in self.of.specs.items()
                    if name.startswith(prefix)
                ]
                return {"result": {"tools": listed}}
            case "tools/call" if (name := f"{prefix}{params.get('name')}") in self.of.specs:
                given = params.get("arguments") or {}
                made = self.of.call(name, given) if isinstance(given, dict) else None
                if made is None:
                    return {"error": {"code": -32602, "message": "too many calls wait, or the arguments are no object"}}
                said: Json = [{"type": "text", "text": as_text(made.content)}]
                return {"result": {"content": said, "isError": made.is_error}}
        return {
            "error": {"code": -32601 if method != "tools/call" else -32602, "message": "there is no such thing here"}
        }
