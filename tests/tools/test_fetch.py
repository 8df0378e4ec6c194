"""Fetching pages, from a server on this machine."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner.tools import ToolError
from runner.tools.agent import MOST, fetch
from tests.conftest import slack

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    """Serve while the block lasts; what was asked is in `seen`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, dict(self.headers)))
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *args: object) -> None:
            """Nothing is printed."""

    seen: list[tuple[str, dict[str, str]]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = seen  # type: ignore[attr-defined]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def page(text: bytes, kind: str = "text/html; charset=utf-8", code: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(text)), **headers}.items():
            request.send_header(key.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(text)

    return answer


def here(host: str) -> str | None:
    return None if host in ("127.0.0.1", "localhost") else "no rule names it"


def url(server: ThreadingHTTPServer, path: str = "/a?b=c#d") -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def test_a_page_comes_as_text_and_nothing_of_ours_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(page("grüße".encode())) as server:
        found = fetch(url(server), here)
        assert (found.status, found.text) == (200, "grüße")
        ((path, headers),) = server.seen  # type: ignore[attr-defined]
    assert path == "/a?b=c"
    assert not {key.lower() for key in headers} & {"cookie", "authorization", "referer"}


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("http://example.test/", "not allowed: no rule names it"),
        ("https://example.test/", "not allowed: no rule names it"),
        ("http://user:secret@127.0.0.1/", "a name or a password"),
        ("http://127.0.0.1@example.test/", "a name or a password"),
        ("http://127.0.0.1\\@example.test/", "plain ASCII"),
        ("ftp://127.0.0.1/", "only https"),
        ("file:///etc/passwd", "only https"),
        ("http:///x", "only https"),
        ("//127.0.0.1/", "only https"),
        ("http://127.0.0.1/\r\nX: y", "plain ASCII"),
        ("http://127.0.0.1:99999/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://[::1]/", "not allowed"),
    ],
)
def test_other_hosts_and_odd_urls_are_refused(where: str, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        fetch(where, here)


def test_another_machine_is_only_asked_over_https() -> None:
    with pytest.raises(ToolError, match="only asked over https"):
        fetch("http://api.example.test/", lambda host: None)


def test_every_redirect_is_asked_about() -> None:
    away = page(b"", code=302, Location="https://evil.example.test/x?secret")
    with serving(away) as server, pytest.raises(ToolError, match=r"evil\.example\.test is not allowed"):
        fetch(url(server), here)
    with serving(page(b"", code=307, Location="/again")) as server:
        with pytest.raises(ToolError, match="redirects"):
            fetch(url(server), here)
        assert len(server.seen) == 6  # type: ignore[attr-defined]
    with serving(page(b"there")) as there, serving(page(b"", code=301, Location=url(there))) as server:
        assert fetch(url(server), here).text == "there"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (page(b"x" * (MOST + 1)), "more than 1,000,000 bytes"),
        (page(b"\x89PNG", "image/png"), "image/png, and no text"),
        (page(b"x", Content_Encoding="gzip"), "compressed"),
    ],
)
def test_what_is_too_much_or_no_text_is_refused(answer: Answer, why: str) -> None:
    with serving(answer) as server, pytest.raises(ToolError, match=why):
        fetch(url(server), here)


def test_a_status_is_told_and_no_error() -> None:
    with serving(page(b'{"no": 1}', "application/problem+json", 404)) as server:
        assert fetch(url(server), here).status == 404


def test_a_server_that_drips_comes_to_an_end() -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b".")
            time.sleep(0.1)

    began = time.monotonic()
    with serving(drip) as server, pytest.raises(ToolError, match="timed out after 1 s"):
        fetch(url(server), here, timeout=1.0)
    assert time.monotonic() - began < 5 * slack()


def test_nobody_there_is_said() -> None:
    with serving(page(b"")) as server:
        port = server.server_port
    with pytest.raises(ToolError, match=r"127\.0\.0\.1: .*refused"):
        fetch(f"http://127.0.0.1:{port}/", here)


def test_a_certificate_has_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    words += [
        "-keyout",
        str(key),
        "-out",
        str(cert),
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving(page(b"safe"), context) as server:
        at = f"https://localhost:{server.server_port}/"
        with pytest.raises(ToolError, match="certificate"):
            fetch(at, here)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert fetch(at, here).text == "safe"
        with pytest.raises(ToolError, match="certificate"):
            fetch(at.replace("localhost", "127.0.0.1"), here)
