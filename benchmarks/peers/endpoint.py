"""One endpoint on loopback for every agent: answers by a script, or passes on to a real one, and keeps what went through.

It speaks Gemini's format and Anthropic's messages (plain and streamed) and OpenAI's responses (streamed). A scripted answer
calls only a tool that the request offers; anything else is refused and kept in `wrong`. Passing on puts the real key in:
agents get one that is good for this server only, and without it nothing is passed on. Measured is the same in both: requests,
their bytes, the tokens that the answers claim, and the time that a client waits.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import itertools
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Json = Any
Call = tuple[str, dict[str, Json]]
GEMINI, RESPONSES, MESSAGES = "gemini", "responses", "messages"
CACHED_FROM = 1024  # tokens: providers keep no shorter start
_PATHS = {
    GEMINI: re.compile(r".*/(?P<name>models/[A-Za-z0-9._-]+:(?P<method>[A-Za-z]+))(?P<query>\?.*)?"),
    RESPONSES: re.compile(r".*/(?P<name>(?P<method>responses))(?P<query>\?.*)?"),
    MESSAGES: re.compile(r".*/(?P<name>(?P<method>messages(/count_tokens)?))(?P<query>\?.*)?"),
}
_COUNTS = {"countTokens": "totalTokens", "messages/count_tokens": "input_tokens"}
# Of a connection, or replaced on the way.
_DROPPED = {"host", "connection", "transfer-encoding", "content-length", "accept-encoding", "keep-alive"}
_KEYS = {GEMINI: "x-goog-api-key", RESPONSES: "authorization", MESSAGES: "x-api-key"}


@dataclass(frozen=True, slots=True)
class Turn:
    """A scripted answer: calls of tools, or the last words. `cut`: it ends at its limit."""

    calls: Sequence[Call] = ()
    text: str = "Done."
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """A real endpoint of a format. `url`: what comes before `/models/`, `/responses` or `/messages`; `key` goes nowhere else."""

    url: str
    key: str = field(repr=False)


@dataclass(slots=True)
class Exchange:
    """A request and its answer. `size`: bytes of the body; `turn`: tools were offered, so it is no side question."""

    format: str
    size: int
    turn: bool
    began: float
    ended: float = 0.0
    status: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class Endpoint:
    """The server; what it does is set anew for each run of an agent by `expect`."""

    def __init__(self, upstreams: Mapping[str, Upstream] | None = None) -> None:
        self.upstreams, self.script = upstreams, tuple[Turn, ...]()
        self.exchanges, self.wrong = list[Exchange](), list[str]()
        self._others: Mapping[str, Sequence[Turn]] = {}
        self._tools, self._seen, self._cut = True, list[list[str]](), set[int]()
        self.key = secrets.token_hex(16)
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                # Lists of models, which agents ask for when they start. Nothing depends on them.
                _send(self, 200, {"data": [], "models": []})

            def do_POST(self) -> None:
                # A client that has left, by its own choice or stopped, is no fault of the endpoint's.
                with contextlib.suppress(ConnectionError):
                    endpoint._post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def expect(
        self, script: Sequence[Turn], others: Mapping[str, Sequence[Turn]] | None = None, *, tools: bool = True
    ) -> None:
        """Forget what went through, and answer by this script from now on.

        `others`: the scripts of conversations that offer a tool of that name. `tools`: the agent offers some; without them
        the script is answered in its order.
        """
        self.script, self.exchanges, self.wrong = tuple(script), [], []
        self._others, self._tools, self._seen, self._cut = others or {}, tools, [], set()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def _post(self, at: BaseHTTPRequestHandler) -> None:
        began = time.monotonic()
        data = _body(at)
        paths = ((name, path.fullmatch(at.path)) for name, path in _PATHS.items())
        format_, found = next(((name, match) for name, match in paths if match), ("", None))
        if found is None:
            return _send(at, 404, {"error": {"code": 404, "message": f"no such path: {at.path}"}})
        given = [at.headers.get(name, "").split()[-1:] for name in _KEYS.values()]
        if [self.key] not in given and self.key != _key(at.path):
            return _send(at, 401, {"error": {"code": 401, "message": "another key"}})
        try:
            plain = gzip.decompress(data) if at.headers.get("Content-Encoding") == "gzip" else data
            asked = json.loads(plain)
        except (ValueError, OSError):
            self.wrong.append(f"{at.path.partition('?')[0]}: a body that is no JSON")
            return _send(at, 400, {"error": {"code": 400, "message": "no JSON"}})
        exchange = Exchange(format_, len(plain), bool(_offered(asked)), began)
        self.exchanges.append(exchange)
        try:
            if self.upstreams is not None:
                self._pass_on(at, f"/{found['name']}{_without_key(found['query'])}", data, exchange)
            else:
                self._answer(at, found["method"], asked, exchange)
        finally:
            exchange.ended = time.monotonic()

    def _answer(self, at: BaseHTTPRequestHandler, method: str, asked: Json, exchange: Exchange) -> None:
        if method in _COUNTS:
            exchange.status, exchange.turn = 200, False
            return _send(at, 200, {_COUNTS[method]: -(-exchange.size // 4)})
        exchange.status = 400
        if method not in ("generateContent", "streamGenerateContent", "responses", "messages"):
            self.wrong.append(f"no such method: {method}")
            return _send(at, 400, {"error": {"code": 400, "message": "no such method"}})
        offered = _offered(asked)
        said = _said(asked) if self._tools else len(self._seen)
        script = next((of for name, of in self._others.items() if name in offered), self.script)
        # An answer that was cut is no turn with calls: each is given once, before the turn that follows it.
        places = [place for place, turn in enumerate(script) if not turn.cut]
        if self._tools and not offered:
            turn = Turn(text=json.dumps(_sample(_schema(asked))))
        elif said < len(places):
            place = places[said]
            turn = script[place]
            if place and script[place - 1].cut and place not in self._cut:
                self._cut.add(place)
                turn = script[place - 1]
        else:
            self.wrong.append(f"asked for turn {said + 1} of {len(places)}")
            return _send(at, 400, {"error": {"code": 400, "message": "the script has ended"}})
        for name, _ in turn.calls:
            if name not in offered:
                self.wrong.append(f"`{name}` is not among the tools: {', '.join(sorted(offered))}")
                return _send(at, 400, {"error": {"code": 400, "message": f"no tool {name}"}})
        # No tokenizer is to be had offline: a quarter of the bytes, the same for everybody.
        exchange.status = 200
        exchange.input_tokens = -(-exchange.size // 4)
        exchange.output_tokens = -(-len(json.dumps([*turn.calls, turn.text])) // 4)
        exchange.cached_tokens = self._repeated(asked) // 4
        match method:
            case "responses":
                _send_events(at, _as_responses(turn, exchange, said))
            case "messages":
                whole = _as_message(turn, exchange, said)
                _send_events(at, _events(whole)) if asked.get("stream") else _send(at, 200, whole)
            case "streamGenerateContent":
                _send_events(at, [_as_gemini(turn, exchange, said)])
            case _:
                _send(at, 200, _as_gemini(turn, exchange, said))

    def _repeated(self, asked: Json) -> int:
        """Return the size of the longest start that this request has in common with one before it; a cache holds no short ones."""
        items = asked.get("contents") or asked.get("input") or asked.get("messages")
        names = ("tools", "systemInstruction", "system_instruction", "instructions", "system")
        system = [asked.get(key) for key in names]
        now = [json.dumps(_unmarked(block)) for block in (*system, *(items if isinstance(items, list) else [items]))]
        same = (
            itertools.takewhile(lambda pair: pair[0] == pair[1], zip(now, seen, strict=False)) for seen in self._seen
        )
        size = max((sum(len(block) for block, _ in pairs) for pairs in same), default=0)
        self._seen.append(now)
        return size if size >= 4 * CACHED_FROM else 0

    def _pass_on(self, at: BaseHTTPRequestHandler, name: str, data: bytes, exchange: Exchange) -> None:
        upstream = (self.upstreams or {}).get(exchange.format)
        if upstream is None:
            exchange.status = 404
            return _send(at, 404, {"error": {"code": 404, "message": f"no endpoint of the format {exchange.format}"}})
        to = urlsplit(upstream.url)
        headers = {key: value for key, value in at.headers.items() if key.lower() not in _DROPPED | {*_KEYS.values()}}
        headers |= {"Accept-Encoding": "identity", "Content-Length": str(len(data))}
        headers[_KEYS[exchange.format]] = f"Bearer {upstream.key}" if exchange.format == RESPONSES else upstream.key
        connect = http.client.HTTPSConnection if to.scheme == "https" else http.client.HTTPConnection
        assert to.hostname is not None, "the address of an endpoint has a host"
        link = connect(to.hostname, to.port, timeout=300)
        try:
            link.request("POST", to.path.rstrip("/") + name, body=data, headers=headers)
            reply = link.getresponse()
        except OSError as failed:
            link.close()
            exchange.status = 502
            return _send(at, 502, {"error": {"code": 502, "message": f"the real endpoint: {failed}"}})
        exchange.status = reply.status
        at.send_response_only(reply.status)
        for key, value in reply.getheaders():
            if key.lower() not in _DROPPED:
                at.send_header(key, value)
        at.send_header("Connection", "close")
        at.end_headers()
        at.close_connection = True
        kept = b""
        with contextlib.closing(link):
            while piece := reply.read1(65536):
                kept += piece
                at.wfile.write(piece)
                at.wfile.flush()
        exchange.input_tokens, exchange.output_tokens, exchange.cached_tokens = usage(kept)


@contextlib.contextmanager
def serving(upstreams: Mapping[str, Upstream] | None = None) -> Iterator[Endpoint]:
    """Serve until the block ends: by scripts, or passing on to `upstreams` by format."""
    endpoint = Endpoint(upstreams)
    try:
        yield endpoint
    finally:
        endpoint.close()


def waited(exchanges: Sequence[Exchange]) -> float:
    """Return the seconds in which at least one request was under way."""
    total, until = 0.0, 0.0
    for one in sorted(exchanges, key=lambda one: one.began):
        total += max(0.0, one.ended - max(one.began, until))
        until = max(until, one.ended)
    return total


def usage(data: bytes) -> tuple[int, int, int]:
    """Return input, output and cached tokens as an answer of any format last says, plain or as events; zeros without."""
    found = 0, 0, 0
    whole = data.decode("utf-8", "replace")
    events = [line[5:] for line in whole.splitlines() if line.startswith("data:")]
    for text in events or [whole]:
        with contextlib.suppress(ValueError):
            said = json.loads(text)
            parts = said if isinstance(said, list) else [said]
            for part in (part for part in parts if isinstance(part, dict)):
                if counted := part.get("usageMetadata"):
                    thought = counted.get("thoughtsTokenCount", 0)
                    out = counted.get("candidatesTokenCount", 0) + thought
                    found = counted.get("promptTokenCount", 0), out, counted.get("cachedContentTokenCount", 0)
                elif counted := (part.get("response") or part.get("message") or part).get("usage"):
                    found = _counted(counted, found)
    return found


def _counted(said: Json, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the counts of OpenAI's responses or Anthropic's messages, whose last event may say only the output's."""
    inputs, out = said.get("input_tokens"), said.get("output_tokens") or 0
    if inputs is None:
        return before[0], out, before[2]
    if "input_tokens_details" in said:
        return inputs, out, (said["input_tokens_details"] or {}).get("cached_tokens", 0)
    cached = said.get("cache_read_input_tokens") or 0  # the input is counted without it
    return inputs + cached + (said.get("cache_creation_input_tokens") or 0), out, cached


def _offered(asked: Json) -> set[str]:
    names = set()
    for tool in asked.get("tools") or ():
        # The API takes both spellings, and litellm has this one.
        declared = tool.get("functionDeclarations") or tool.get("function_declarations") or ()
        names |= {one["name"] for one in declared}
        if tool.get("type") == "function" or "input_schema" in tool:
            names.add(tool["name"])
    return names


def _said(asked: Json) -> int:
    """Return how many turns of a model, with calls, the conversation has already."""
    if "contents" in asked:
        parts = [content.get("parts", ()) for content in asked["contents"]]
        return sum(any("functionCall" in part or "function_call" in part for part in one) for one in parts)
    if "messages" in asked:
        blocks = [one["content"] for one in asked["messages"] if one["role"] == "assistant"]
        return sum(any(isinstance(part, dict) and part.get("type") == "tool_use" for part in one) for one in blocks)
    items = asked.get("input")
    # Each call is an item of its own, and its name begins with that of its turn.
    calls = (
        [item["call_id"] for item in items if item.get("type") == "function_call"] if isinstance(items, list) else []
    )
    return len({call.rpartition("_")[0] for call in calls})


def _schema(asked: Json) -> Json:
    generation = asked.get("generationConfig") or (asked.get("output_config") or {}).get("format") or {}
    found = (generation.get(key) for key in ("responseJsonSchema", "responseSchema", "schema"))
    return next(filter(None, found), {"type": "string"})


def _unmarked(block: Json) -> Json:
    """Return a block without the marks of where Anthropic's cache may end, which move on with each request."""
    if isinstance(block, list):
        return [_unmarked(one) for one in block]
    if isinstance(block, dict):
        return {key: _unmarked(one) for key, one in block.items() if key != "cache_control"}
    return block


def _sample(schema: Json) -> Json:
    """Return a small value of a schema, for side questions that want one."""
    if schema.get("enum"):
        return schema["enum"][0]
    match str(schema.get("type", "object")).lower():
        case "object":
            return {name: _sample(of) for name, of in schema.get("properties", {}).items()}
        case "array":
            return []
        case "boolean":
            return True
        case "integer" | "number":
            return 1
    return "user"


def _as_gemini(turn: Turn, exchange: Exchange, number: int) -> Json:
    parts: list[Json] = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in turn.calls]
    tokens = exchange.input_tokens, exchange.output_tokens
    return {
        "candidates": [
            {
                "content": {"role": "model", "parts": parts or [{"text": turn.text}]},
                "finishReason": "MAX_TOKENS" if turn.cut else "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": tokens[0],
            "candidatesTokenCount": tokens[1],
            "totalTokenCount": sum(tokens),
            "cachedContentTokenCount": exchange.cached_tokens,
        },
        "modelVersion": "scripted",
        "responseId": f"answer-{number}",
    }


def _as_responses(turn: Turn, exchange: Exchange, number: int) -> list[Json]:
    items: list[Json] = [
        {
            "type": "function_call",
            "id": f"fc_{number}_{at}",
            "call_id": f"call_{number}_{at}",
            "name": name,
            "arguments": json.dumps(arguments),
            "status": "completed",
        }
        for at, (name, arguments) in enumerate(turn.calls)
    ] or [
        {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": turn.text, "annotations": []}],
        }
    ]
    tokens = exchange.input_tokens, exchange.output_tokens
    whole = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1,
        "status": "incomplete" if turn.cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if turn.cut else None,
        "model": "scripted",
        "output": items,
        "usage": {
            "input_tokens": tokens[0],
            "input_tokens_details": {"cached_tokens": exchange.cached_tokens},
            "output_tokens": tokens[1],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(tokens),
        },
    }
    events: list[Json] = [{"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}}]
    for at, item in enumerate(items):
        events.append({"type": "response.output_item.added", "output_index": at, "item": item})
        events.append({"type": "response.output_item.done", "output_index": at, "item": item})
    events.append({"type": f"response.{whole['status']}", "response": whole})
    return [{**event, "sequence_number": at} for at, event in enumerate(events)]


def _as_message(turn: Turn, exchange: Exchange, number: int) -> Json:
    blocks: list[Json] = [
        {"type": "tool_use", "id": f"toolu_{number}_{at}", "name": name, "input": arguments}
        for at, (name, arguments) in enumerate(turn.calls)
    ]
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": blocks or [{"type": "text", "text": turn.text}],
        "stop_reason": "max_tokens" if turn.cut else "tool_use" if blocks else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": exchange.input_tokens - exchange.cached_tokens,
            "cache_read_input_tokens": exchange.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": exchange.output_tokens,
        },
    }


def _events(message: Json) -> list[Json]:
    """Return a message as the events of its stream."""
    events: list[Json] = [{"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}]
    for at, block in enumerate(message["content"]):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events.append({"type": "content_block_start", "index": at, "content_block": empty})
        events.append({"type": "content_block_delta", "index": at, "delta": delta})
        events.append({"type": "content_block_stop", "index": at})
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": message["usage"]})
    return [*events, {"type": "message_stop"}]


def _key(path: str) -> str | None:
    return dict(parse_qsl(urlsplit(path).query)).get("key")


def _without_key(query: str | None) -> str:
    kept = [(name, value) for name, value in parse_qsl((query or "")[1:]) if name != "key"]
    return f"?{urlencode(kept)}" if kept else ""


def _body(at: BaseHTTPRequestHandler) -> bytes:
    if at.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return at.rfile.read(int(at.headers.get("Content-Length") or 0))
    data = b""
    while size := int(at.rfile.readline().split(b";")[0], 16):
        data += at.rfile.read(size)
        at.rfile.readline()
    at.rfile.readline()
    return data


def _send(at: BaseHTTPRequestHandler, code: int, said: Json) -> None:
    data = json.dumps(said).encode()
    at.send_response_only(code)
    at.send_header("Content-Type", "application/json")
    at.send_header("Content-Length", str(len(data)))
    at.end_headers()
    at.wfile.write(data)


def _send_events(at: BaseHTTPRequestHandler, events: Sequence[Json]) -> None:
    data = b""
    for event in events:
        data += (f"event: {event['type']}\n".encode() if "type" in event else b"") + b"data: "
        data += json.dumps(event).encode() + b"\r\n\r\n"
    at.send_response_only(200)
    at.send_header("Content-Type", "text/event-stream")
    at.send_header("Content-Length", str(len(data)))
    at.end_headers()
    at.wfile.write(data)
