"""A strict local server of Gemini's wire format: streamed and plain, scripted by a test, keeping what it was asked.

Promises to answer only what the real API would take: the documented names and shapes, calls answered in their order, and
thought signatures back where they were. Anything else gets a 400 that says what is wrong. It knows nothing about engines.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = Any
KEY = "test-key-0123456789"
_PATH = re.compile(r"/v1beta/models/([A-Za-z0-9._-]+):(generateContent|streamGenerateContent\?alt=sse)")
_GENERATION = {"maxOutputTokens", "thinkingConfig", "responseMimeType", "responseJsonSchema", "temperature"}
_BODY = {"contents", "generationConfig", "systemInstruction", "tools"}
_KINDS = {"text", "functionCall", "functionResponse", "inlineData"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's turn. `pieces`: its parts, one list a chunk."""

    pieces: Sequence[Sequence[Json]]
    finish: str | None = "STOP"
    finish_message: str = ""
    usage: Json = field(
        default_factory=lambda: {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
    )
    block: str | None = None
    model: str = "gemini-3.8-flash"

    def chunks(self, number: int) -> list[Json]:
        """Return it as it is streamed; the usage comes with every chunk, the reason at the end."""
        common = {"modelVersion": self.model, "responseId": f"answer-{number}"}
        if self.block is not None:
            return [{"promptFeedback": {"blockReason": self.block}, "usageMetadata": self.usage, **common}]
        chunks = []
        for at, parts in enumerate(self.pieces):
            candidate: dict[str, Json] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
            if at == len(self.pieces) - 1 and self.finish is not None:
                candidate["finishReason"] = self.finish
                if self.finish_message:
                    candidate["finishMessage"] = self.finish_message
            chunks.append({"candidates": [candidate], "usageMetadata": self.usage, **common})
        return chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An HTTP error; `body` is JSON, or bytes as they are."""

    code: int
    body: Json
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """Bytes of a body with status 200. `cut`: the connection ends before the length that was announced."""

    data: bytes
    content_type: str = "text/event-stream"
    cut: bool = False
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Nothing more: at once, after the headers and `data`, or with a byte of a comment every `drip` seconds."""

    headers: bool = False
    data: bytes = b""
    drip: float | None = None


@dataclass(frozen=True, slots=True)
class Flood:
    """`data`, again and again, as fast as it is taken."""

    data: bytes


Reply = Answer | Refusal | Raw | Silence | Flood


def error(code: int, status: str, message: str, details: Sequence[Json] = ()) -> Json:
    """Return the JSON of an error as Google's APIs have it."""
    said: dict[str, Json] = {"code": code, "message": message, "status": status}
    return {"error": {**said, "details": list(details)} if details else said}


class Wire:
    """The server. `bodies` are the requests that arrived, `models` those that their paths name, `wrong` what was wrong with some.

    A server of another format is a class with other `paths`, `header` and `prefix` of the key, and another `_check`.
    """

    paths, header, prefix = _PATH, "x-goog-api-key", ""

    def __init__(self, script: Sequence[Reply]) -> None:
        self.script, self.bodies, self.headers, self.wrong = (
            list(script),
            list[Json](),
            list[dict[str, str]](),
            list[str](),
        )
        self.models = list[str]()
        self.arrived = threading.Event()
        self.gone = threading.Event()  # a client that was kept waiting has left
        self._said: list[Json] = []  # parts with a signature, as they went out
        self._over = threading.Event()
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                wire._post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop; whoever is kept waiting is let go."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _post(self, at: BaseHTTPRequestHandler) -> None:
        data = at.rfile.read(int(at.headers["Content-Length"]))
        path = self.paths.fullmatch(at.path)
        number = len(self.bodies)
        try:
            body = json.loads(data, parse_constant=_refuse_constant)
            self.headers.append({name.lower(): value for name, value in at.headers.items()})
            self.bodies.append(body)
            self.models += [path[1]] if path is not None and path.re.groups else []
            self.arrived.set()
            need(path is not None, f"path {at.path}")
            need(at.headers["Content-Type"] == "application/json", "Content-Type is not application/json")
            need(at.headers[self.header] == self.prefix + KEY, "another key")
            self._check(body)
            need(number < len(self.script), "more requests than the script has replies")
        except (Wrong, ValueError) as wrong:
            self.wrong.append(str(wrong))
            _send(at, 400, json.dumps(error(400, "INVALID_ARGUMENT", str(wrong))).encode())
            return
        match self.script[number]:
            case Answer() as answer:
                chunks = answer.chunks(number)
                for chunk in chunks:
                    for candidate in chunk.get("candidates", ()):
                        self._said += [part for part in candidate["content"]["parts"] if "thoughtSignature" in part]
                if path is not None and path[2] == "generateContent":
                    _send(at, 200, json.dumps(_plain(chunks)).encode())
                else:
                    _send(at, 200, b"".join(map(sse, chunks)), [("Content-Type", "text/event-stream")])
            case Refusal(code=code, body=said, headers=headers):
                _send(at, code, said if isinstance(said, bytes) else json.dumps(said).encode(), headers)
            case Raw(data=said, content_type=kind, cut=cut, headers=more):
                _send(at, 200, said, [("Content-Type", kind), ("Connection", "close"), *more], more=1000 if cut else 0)
                at.close_connection = True
            case Silence() as silence:
                self._keep_waiting(at, silence)
            case Flood(data=said):
                _send(at, 200, said, [("Content-Type", "text/event-stream")], more=1 << 40)
                with contextlib.suppress(OSError):
                    while not self._over.is_set():
                        at.wfile.write(said)
                self.gone.set()
                at.close_connection = True

    def _keep_waiting(self, at: BaseHTTPRequestHandler, silence: Silence) -> None:
        if silence.headers or silence.data or silence.drip:
            _send(at, 200, silence.data, [("Content-Type", "text/event-stream")], more=1_000_000)
        at.connection.settimeout(0.02)
        last = time.monotonic()
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                try:
                    if not at.connection.recv(1, socket.MSG_PEEK):
                        break
                except OSError as failed:
                    if isinstance(failed, TimeoutError):
                        raise
                    break
            if silence.drip and time.monotonic() - last > silence.drip:
                last = time.monotonic()
                try:
                    at.wfile.write(b":")
                except OSError:
                    break
        self.gone.set()
        at.close_connection = True

    def _check(self, body: Json) -> None:
        need(isinstance(body, dict), "the body is no object")
        known(body, _BODY, "the body")
        contents = body.get("contents")
        need(isinstance(contents, list) and contents, "contents is not specified")
        need(contents[0].get("role") == "user", "the first content is not the user's")
        calls: list[Json] = []
        for content in contents:
            known(content, {"role", "parts"}, "a content")
            need(content.get("role") in ("user", "model"), "a role is neither user nor model")
            parts = content.get("parts")
            need(isinstance(parts, list) and parts, "contents.parts must not be empty")
            answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
            need(len(answers) == len(calls), f"{len(answers)} function responses to {len(calls)} function calls")
            for call, answer in zip(calls, answers, strict=True):
                known(answer, {"id", "name", "response"}, "a functionResponse")
                need(isinstance(answer.get("response"), dict), "functionResponse.response is no object")
                need(call["name"] == answer.get("name"), "a function response to another function")
                need(call.get("id") == answer.get("id"), "a function response to another id")
            for part in parts:
                known(part, _KINDS | {"thought", "thoughtSignature"}, "a part")
                need(len(part.keys() & _KINDS) == 1, "a part is not of one kind")
                if "thoughtSignature" in part:
                    base64.b64decode(part["thoughtSignature"], validate=True)
            calls = [part["functionCall"] for part in parts if "functionCall" in part]
            need(not calls or content["role"] == "model", "a function call that no model made")
        need(not calls, "the last function calls have no responses")
        bare = [part for content in contents for part in content["parts"] if "thoughtSignature" not in part]
        for part in self._said:
            without = {name: value for name, value in part.items() if name != "thoughtSignature"}
            need(without not in bare, "a thought signature is missing, or not at its part")
        generation = body.get("generationConfig", {})
        known(generation, _GENERATION, "generationConfig")
        known(
            generation.get("thinkingConfig", {}),
            {"includeThoughts", "thinkingBudget", "thinkingLevel"},
            "thinkingConfig",
        )
        if "responseJsonSchema" in generation:
            need(generation.get("responseMimeType") == "application/json", "a schema needs responseMimeType")
        known(body.get("systemInstruction", {}), {"role", "parts"}, "systemInstruction")
        for tool in body.get("tools", ()):
            known(tool, {"functionDeclarations"}, "a tool")
            for declared in tool["functionDeclarations"]:
                known(declared, {"name", "description", "parametersJsonSchema"}, "a function declaration")
                need(_NAME.fullmatch(declared["name"]) is not None, "a function's name")
                need(declared["parametersJsonSchema"].get("type") == "object", "parametersJsonSchema is no object's")


class Wrong(Exception):
    """The request is not what the API takes."""


def need(held: Any, what: str) -> None:
    """Refuse the request where something does not hold."""
    if not held:
        raise Wrong(what)


def known(said: Json, names: set[str], where: str) -> None:
    """Refuse names that the API does not have."""
    need(isinstance(said, dict), f"{where} is no object")
    need(said.keys() <= names, f"{where} has unknown names: {sorted(said.keys() - names)}")


def sse(chunk: Json) -> bytes:
    """Return a chunk as a server-sent event."""
    return b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n"


def _plain(chunks: Sequence[Json]) -> Json:
    parts = [part for chunk in chunks for c in chunk.get("candidates", ()) for part in c["content"]["parts"]]
    whole = dict(chunks[-1])
    if "candidates" in whole:
        whole["candidates"] = [{**whole["candidates"][0], "content": {"role": "model", "parts": parts}}]
    return whole


def _send(
    at: BaseHTTPRequestHandler, code: int, data: bytes, headers: Sequence[tuple[str, str]] = (), more: int = 0
) -> None:
    at.send_response_only(code)  # no header of this server's own, above all no Date
    for name, value in headers or [("Content-Type", "application/json")]:
        at.send_header(name, value)
    at.send_header("Content-Length", str(len(data) + more))
    at.end_headers()
    at.wfile.write(data)
    at.wfile.flush()


def _refuse_constant(name: str) -> None:
    raise Wrong(f"{name} is no JSON")


@contextlib.contextmanager
def serving(*script: Reply, wire_of: type[Wire] = Wire) -> Iterator[Wire]:
    """Serve a script until the block ends."""
    wire = wire_of(script)
    try:
        yield wire
    finally:
        wire.close()
