"""The endpoint of a coding agent's model: the key stays outside, tokens are counted, the cap holds, nothing else is passed on."""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from runner.engines import Usage
from runner.engines.endpoints import PORT, Egress
from runner.errors import UsageError
from runner.sandbox.bubblewrap import Bubblewrap
from runner.sandbox.process import Command
from tests.sandbox.test_sandbox import bubblewrap

KEY = {"x-api-key": "sk-very-secret"}


def sse(*events: Any) -> bytes:
    return b"".join(b"event: x\ndata: " + json.dumps(one).encode() + b"\n\n" for one in events)


ANTHROPIC = sse(
    {
        "type": "message_start",
        "message": {
            "model": "claude-x",
            "usage": {"input_tokens": 7, "cache_read_input_tokens": 90, "output_tokens": 1},
        },
    },
    {"type": "content_block_delta", "delta": {"text": 'data: {"usage": {"input_tokens": 999}}'}},
    {"type": "message_delta", "usage": {"output_tokens": 20}},
)
RESPONSES = sse(
    {"type": "response.created", "response": {"model": "gpt-x", "usage": None}},
    {
        "type": "response.completed",
        "response": {
            "model": "gpt-x",
            "usage": {"input_tokens": 97, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 90}},
        },
    },
)
CHAT = (
    sse({"model": "c", "usage": None}, {"model": "c", "usage": {"prompt_tokens": 97, "completion_tokens": 20}})
    + b"data: [DONE]\n\n"
)
_LAST = {"promptTokenCount": 97, "candidatesTokenCount": 15, "thoughtsTokenCount": 5}
GEMINI = json.dumps(
    [{"usageMetadata": {"promptTokenCount": 97}}, {"modelVersion": "g", "usageMetadata": _LAST}]
).encode()
WHOLE = json.dumps({"model": "claude-x", "usage": {"input_tokens": 97, "output_tokens": 20}}).encode()


class Provider:
    """A provider that answers with `answer` and keeps what it was sent. `cut`: bytes that it does not send; `hold`: until it ends."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.answer, self.kind, self.status, self.cut = WHOLE, "application/json", 200, 0
        self.more: list[tuple[int, dict[str, str]]] = []  # status and headers of the first answers
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Provider]:
    provider = Provider()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            provider.heard.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, headers = provider.more.pop(0) if provider.more else (provider.status, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", provider.kind)
            self.send_header("Content-Length", str(len(provider.answer) + provider.cut))
            self.send_header("Set-Cookie", "a=b")
            self.send_header("X-Request-Id", "r1")
            if provider.status == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(provider.answer)
            provider.hold.wait(20)

        do_GET = do_DELETE = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        provider.url = f"http://127.0.0.1:{server.server_port}"
        yield provider
        server.shutdown()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as found:
        yield found


@contextmanager
def opened(
    url: str, key: dict[str, str], *, cap: int | None = None, stop: Callable[[], str | None] = lambda: None
) -> Iterator[Egress]:
    """Give the endpoint at a port of this machine's own loopback, as the sandbox's proxy does inside."""
    at = Egress("anthropic", url, key, {})
    at.stop = stop if cap is None else lambda: f"the budget of {cap} tokens" if total(at) >= cap else None

    class Serving(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            at.network.serves[PORT](self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Serving) as server:
        server.daemon_threads = True
        at.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield at
        server.shutdown()


def used(at: Egress) -> Usage:
    """Return the tokens of all answers."""
    every = [one.usage for one in at.told()]
    return Usage(**{one.name: sum(getattr(usage, one.name) for usage in every) for one in dataclasses.fields(Usage)})


def total(at: Egress) -> int:
    """Return how many tokens these are."""
    return used(at).input + used(at).output


def ask(
    at: Egress, path: str = "/v1/messages", body: bytes = b"{}", method: str = "POST", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    parts = urlsplit(at.address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request(
        method, parts.path + path, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    found = connection.getresponse()
    try:
        data = found.read()
    except http.client.IncompleteRead as error:
        data = error.partial
    connection.close()
    return found.status, data, {name.lower(): value for name, value in found.getheaders()}


def test_the_key_takes_the_place_of_whatever_the_agent_sent(provider: Provider) -> None:
    with opened(provider.url, KEY) as at:
        said = ask(
            at,
            "/v1/messages?beta=true&key=own",
            b'{"a": 1}',
            X_Api_Key="own",
            Authorization="Bearer own",
            Cookie="own",
            Anthropic_Version="1",
        )
    assert said[:2] == (200, WHOLE)
    assert "set-cookie" not in said[2] and said[2]["x-request-id"] == "r1"
    [(path, headers, body)] = provider.heard
    assert (path, headers["x-api-key"], headers["anthropic-version"], body) == (
        "/v1/messages?beta=true",
        KEY["x-api-key"],
        "1",
        b'{"a": 1}',
    )
    assert "own" not in str(headers)


@pytest.mark.parametrize(
    ("path", "kind", "answer"),
    [
        ("/v1/messages", "text/event-stream", ANTHROPIC),
        ("/v1/messages", "application/json", WHOLE),
        ("/v1/responses", "text/event-stream; charset=utf-8", RESPONSES),
        ("/chat/completions", "text/event-stream", CHAT),
        ("/v1beta/models/g:streamGenerateContent", "application/json", GEMINI),
    ],
)
def test_tokens_are_counted_in_every_providers_form(provider: Provider, path: str, kind: str, answer: bytes) -> None:
    provider.answer, provider.kind = answer, kind
    with opened(provider.url, KEY) as at:
        assert ask(at, path)[1] == answer
    [one] = at.answers
    assert (one.usage.input, one.usage.output) == (97, 20)
    assert one.model in ("claude-x", "gpt-x", "c", "g")


def test_what_a_cache_held_is_told_apart(provider: Provider) -> None:
    provider.answer, provider.kind = ANTHROPIC, "text/event-stream"
    with opened(provider.url, KEY) as at:
        ask(at)
    assert used(at) == Usage(input=97, output=20, cached=90)


def test_no_request_is_sent_once_the_cap_is_reached(provider: Provider) -> None:
    with opened(provider.url, KEY, cap=200) as at:
        assert [ask(at)[0] for _ in range(4)] == [200, 200, 403, 403]
    assert len(provider.heard) == 2
    assert "budget of 200 tokens" in at.refused


@pytest.mark.parametrize(("kind", "answer"), [("text/event-stream", ANTHROPIC), ("application/json", WHOLE)])
def test_an_answer_counts_as_soon_as_the_agent_has_read_what_it_cost(
    provider: Provider, kind: str, answer: bytes
) -> None:
    """An agent may ask again before the connection of its last answer is over: then the cap is reached already."""
    provider.answer, provider.kind, provider.cut = answer, kind, 1
    provider.hold.clear()
    with opened(provider.url, KEY, cap=100) as at:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(at.address).port, timeout=20)
        connection.request("POST", "/v1/messages", b"{}")
        found, read = connection.getresponse(), b""
        while read != answer:
            read += found.read1()
        assert not at.answers  # it is under way
        assert ask(at)[0] == 403
        provider.hold.set()
        connection.close()
    assert len(provider.heard) == 1 and "budget of 100 tokens" in at.refused


def test_the_caller_may_stop_it(provider: Provider) -> None:
    with opened(provider.url, KEY, stop=lambda: "the step was cancelled") as at:
        status, said, _ = ask(at)
    assert (status, provider.heard) == (403, [])
    assert json.loads(said)["error"]["message"] == "runner: the step was cancelled"


def test_an_answer_that_does_not_say_its_tokens_is_counted_by_its_bytes(provider: Provider) -> None:
    provider.answer = b"x" * 400
    with opened(provider.url, KEY) as at:
        ask(at, "/v1/chat/completions", b'{"a":"%b"}' % (b"y" * 792))
    [one] = at.answers
    assert one.usage == Usage(input=201, output=100)


def test_an_answer_that_breaks_off_is_counted_and_is_no_whole_one_for_the_agent(provider: Provider) -> None:
    first = ANTHROPIC[: ANTHROPIC.index(b"event: x", 9)]
    provider.answer, provider.kind, provider.cut = first + b"data: " + b"x" * 400, "text/event-stream", 50
    with opened(provider.url, KEY) as at:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(at.address).port, timeout=20)
        connection.request("POST", "/v1/messages", b"{}")
        with pytest.raises(http.client.IncompleteRead):
            connection.getresponse().read()
        connection.close()
    [one] = at.answers
    assert one.usage.input == 97 and one.usage.output > 100


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/organization/admin_api_keys"),
        ("POST", "/v1/messages/../files"),
        ("POST", "/v1/files#/v1/messages"),
        ("POST", "/v1/files%2f..%2fmessages"),
        ("POST", "/x//evil.test/v1/messages"),
        ("POST", "http://evil.test/v1/messages"),
        ("DELETE", "/v1/responses"),
    ],
)
def test_only_questions_to_a_model_are_passed_on(provider: Provider, method: str, path: str) -> None:
    with opened(provider.url, KEY) as at:
        assert ask(at, path, method=method)[0] in (403, 404, 501)
    assert provider.heard == []


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"background": true}', {}),
        (b"[]", {}),
        (b"\x28\xb5\x2f\xfd", {"Content_Encoding": "zstd"}),
        (b"{}", {"Content_Length": "99"}),
        (b"{}", {"Content_Length": "+2"}),
        (b"2\r\n{}\r\n0\r\n\r\n", {"Transfer_Encoding": "gzip, chunked"}),
        (b"2\r\n{}\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked", "Content_Length": "12"}),
        (b"fffffffff\r\n{}\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked"}),
    ],
)
def test_what_would_not_be_counted_or_can_be_read_in_two_ways_is_not_passed_on(
    provider: Provider, body: bytes, headers: dict[str, str]
) -> None:
    with (
        opened(provider.url, KEY) as at,
        socket.create_connection(("127.0.0.1", urlsplit(at.address).port)) as one,
    ):
        given = {"Content_Length": str(len(body)), **headers} if "Transfer_Encoding" not in headers else headers
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
        one.sendall("\r\n".join(["POST /v1/messages HTTP/1.1", *lines, "", ""]).encode() + body)
        one.shutdown(socket.SHUT_WR)
        assert one.recv(99)[9:12] in (b"400", b"403")
    assert provider.heard == []


def test_a_body_in_chunks_is_passed_on(provider: Provider) -> None:
    with (
        opened(provider.url, KEY) as at,
        socket.create_connection(("127.0.0.1", urlsplit(at.address).port)) as one,
    ):
        head = "POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        one.sendall(head.encode() + b'4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n')
        assert one.recv(99)[9:12] == b"200"
    assert [body for _, _, body in provider.heard] == [b'{"a":1}']


def test_a_whole_answer_that_the_agent_does_not_wait_for_is_counted(provider: Provider) -> None:
    provider.answer = json.dumps({"text": "x" * 5_000_000, "usage": {"input_tokens": 97, "output_tokens": 20}}).encode()
    with opened(provider.url, KEY) as at:
        with socket.create_connection(("127.0.0.1", urlsplit(at.address).port)) as one:
            one.sendall(b"POST /v1/messages HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            one.recv(9)
        until = time.monotonic() + 20
        while not at.answers and time.monotonic() < until:
            time.sleep(0.02)
    assert used(at) == Usage(input=97, output=20)


def test_a_long_path_is_not_looked_at(provider: Provider) -> None:
    with opened(provider.url, KEY) as at:
        assert ask(at, "/a" * 20_000)[0] == 404


def test_an_answer_of_the_provider_that_is_an_error_is_passed_on_and_costs_nothing(provider: Provider) -> None:
    provider.status, provider.answer = 429, b'{"error": {"message": "slow down"}}'
    with opened(provider.url, KEY) as at:
        assert ask(at)[:2] == (429, provider.answer)
    assert [(one.status, one.usage) for one in at.answers] == [(429, Usage())]


def test_a_redirect_is_not_followed_with_the_key(provider: Provider) -> None:
    provider.status = 302
    with opened(provider.url, KEY) as at:
        assert ask(at)[0] == 302
    assert len(provider.heard) == 1


def test_a_provider_that_is_not_there_is_said(provider: Provider) -> None:
    with opened("http://127.0.0.1:9", KEY) as at:
        status, said, _ = ask(at)
    assert status == 502 and b"does not answer" in said and KEY["x-api-key"].encode() not in said


def test_a_key_does_not_go_over_the_network_in_clear_text() -> None:
    with pytest.raises(UsageError, match="https"):
        Egress("anthropic", "http://api.example.test", KEY, {})


SANDBOXED = """
import json, os, sys, urllib.request as u
asked = u.Request(sys.argv[1] + "/v1/messages", b"{}", {"x-api-key": "none"})
print(json.load(u.urlopen(asked))["model"])
try:
    u.urlopen("http://example.test/")
except Exception as error:
    print(error.code)
print("sk-" + "very" in str(os.environ) + open("/proc/1/cmdline").read() + open("/proc/self/environ").read())
"""


def test_in_the_sandbox_the_endpoint_is_all_that_an_agent_reaches(provider: Provider, tmp_path: Path) -> None:
    sandbox: Bubblewrap = bubblewrap()
    at = Egress("anthropic", provider.url, KEY, {})
    argv = ("/usr/bin/python3", "-c", SANDBOXED, at.address)
    given = Command(argv, tmp_path, {"PATH": "/usr/bin"}, 30, writable=(tmp_path,), network=at.network)
    done = sandbox.run(given)
    assert done.tail.split() == [b"claude-x", b"403", b"False"]
    assert used(at) == Usage(input=97, output=20)
    assert [(one.host, bool(one.refused)) for one in done.network] == [("example.test", True)]
