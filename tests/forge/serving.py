"""A JSON server in a thread, which notes what it is asked and can fail on purpose. What it answers is its children's matter."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `path` is not unquoted; `body` is what its JSON says, None where there is none."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: Mapping[str, str]

    @property
    def token(self) -> str:
        """What was shown as a token, however it was shown."""
        return self.headers.get("PRIVATE-TOKEN") or (self.headers.get("Authorization") or "").split(" ")[-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `body` is written as JSON, bytes as they are."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """What happens instead, `times` times, to requests whose `METHOD /path` has `match` in it. No status: the line is cut;
    `after`: it is cut only when the request has been carried out."""

    match: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default_factory=lambda: {"message": "on purpose"})
    times: int = 1
    after: bool = False


class Server:
    """Serves on a port of its own until it is closed."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self._lock = threading.RLock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                if outer.take(self):
                    return
                length = int(self.headers.get("Content-Length") or 0)
                data = self.rfile.read(length)
                parts = urlsplit(self.path)
                asked = Asked(
                    self.command,
                    parts.path,
                    dict(parse_qsl(parts.query, keep_blank_values=True)),
                    json.loads(data) if data else None,
                    dict(self.headers.items()),
                )
                answer = outer.respond(asked)
                if answer is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for key, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("localhost", 0), Handler)
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]
        self.url = f"http://localhost:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()

    def take(self, handler: BaseHTTPRequestHandler) -> bool:
        """Answer what is no question in JSON; return whether that was done."""
        return False

    def respond(self, asked: Asked) -> Answer | None:
        """Return the answer, or None to cut the line."""
        with self._lock:
            self.asked.append(asked)
            for fault in self.faults:
                if fault.times > 0 and fault.match in f"{asked.method} {asked.path}":
                    fault.times -= 1
                    if fault.after:
                        self.handle(asked)
                    return None if fault.status is None else Answer(fault.status, fault.body, fault.headers)
            return self.handle(asked)

    def handle(self, asked: Asked) -> Answer:
        """Return the answer."""
        raise NotImplementedError

    def writes(self) -> list[str]:
        """The requests that changed something, as METHOD path."""
        return [f"{each.method} {each.path}" for each in self.asked if each.method != "GET"]


def paged(asked: Asked, items: list[Any], *, key: str | None = None, gitlab: bool = False) -> Answer:
    """Return one page of a list, with the headers by which the next is found."""
    size = min(int(asked.query.get("per_page", 20 if gitlab else 30)), 100)
    number = int(asked.query.get("page", 1))
    piece, last = items[(number - 1) * size : number * size], max(1, -(-len(items) // size))
    headers: dict[str, str] = {}
    if number < last:
        query = "&".join(f"{k}={v}" for k, v in {**asked.query, "page": str(number + 1)}.items())
        headers["Link"] = f'<http://{asked.headers["Host"]}{asked.path}?{query}>; rel="next"'
    if gitlab:
        headers |= {
            "X-Page": str(number),
            "X-Per-Page": str(size),
            "X-Total": str(len(items)),
            "X-Total-Pages": str(last),
            "X-Next-Page": str(number + 1) if number < last else "",
        }
    return Answer(200, piece if key is None else {"total_count": len(items), key: piece}, headers)
