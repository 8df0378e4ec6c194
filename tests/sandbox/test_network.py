"""The proxy that is all that a sandbox reaches: what it lets through, and what it refuses however it is asked."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from runner.sandbox.network import Network
from runner.sandbox.process import Command, CommandOutcome, Sandbox
from tests.sandbox.test_sandbox import CONTAINER, PLACES

PUBLIC = "93.184.215.14"
# Sends the bytes of argv to the proxy, one connection each, and prints the first answer's status and the last of what came.
SAY = """
import json, socket, sys
found = []
for text in json.loads(sys.argv[1]):
    one = socket.create_connection(("127.0.0.1", 3128), 20)
    try:
        one.sendall(text.encode("latin-1"))
        data = b""
        while part := one.recv(65536): data += part
    except OSError as error:
        data = type(error).__name__.encode()
    found.append(data.decode("latin-1"))
print(json.dumps(found))
"""


class _Page(BaseHTTPRequestHandler):
    """Says what it was asked for."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://elsewhere.test/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        said = {"path": self.path, "host": self.headers.get_all("Host"), "body": body, "all": self.headers.items()}
        self.wfile.write(json.dumps(said).encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def page() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(params=["sandbox", CONTAINER])
def closed(request: pytest.FixtureRequest) -> Sandbox:
    return PLACES[request.param]()


def run(closed: Sandbox, work: Path, network: Network | None, *argv: str, timeout: float = 30) -> CommandOutcome:
    return closed.run(Command(argv, work, {"PATH": "/usr/bin:/bin"}, timeout, writable=(work,), network=network))


def ask(closed: Sandbox, work: Path, hosts: tuple[str, ...], *texts: str, **more: Any) -> tuple[list[str], list[str]]:
    """Return what the proxy answers to each text, and its log."""
    done = run(closed, work, Network(hosts, **more), "python3", "-c", SAY, json.dumps(texts))
    return json.loads(done.tail), [str(one) for one in done.network]


def get(url: str, *headers: str) -> str:
    return "\r\n".join([f"GET {url} HTTP/1.1", *headers, "", ""])


def tunnel(target: str, then: str = "GET / HTTP/1.0\r\n\r\n") -> str:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{then}"


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Names and their addresses; whatever is public is the same server, which says what it was asked for."""
    names = {"good.test": PUBLIC, "a.good.test": PUBLIC, "inner.test": "10.1.2.3"}
    connect, real = socket.create_connection, socket.getaddrinfo

    def look_up(host: str, port: int, *given: Any, **named: Any) -> list[Any]:
        if host[-1].isdigit():
            return real(host, port, *given, **named)
        if host not in names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(2, 1, 6, "", (names[host], port))]

    with page() as server:

        def connected(address: tuple[str, int], timeout: float) -> socket.socket:
            return connect(("127.0.0.1", server) if address[0] in (PUBLIC, "10.1.2.3") else address, timeout)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(socket, "create_connection", connected)
        yield names


def test_a_declared_host_is_reached_by_requests_and_tunnels_and_the_log_counts_bytes(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    through = tunnel("good.test:443", "GET /in HTTP/1.0\r\n\r\n")
    answers, log = ask(closed, tmp_path, ("good.test",), get("http://good.test/x?y=1"), through)
    assert '"path": "/x?y=1"' in answers[0]
    assert answers[1].startswith("HTTP/1.1 200 Connection established\r\n\r\n")
    assert '"path": "/in"' in answers[1]
    assert [line.partition(" ")[0] for line in log] == ["good.test:80", "good.test:443"]
    assert "20 bytes sent" in log[1]


@pytest.mark.parametrize(
    ("hosts", "targets"),
    [
        (
            ("good.test",),
            (
                *("evil.test:443", "a.good.test:443", "notgood.test:443", "good.test:22", "good.test.evil.test:443"),
                *(f"{PUBLIC}:443", "1572395854:443", "0x5db8d70e:443", "[::1]:443"),
            ),
        ),
        (("*.good.test",), ("good.test:443", "xgood.test:443")),
        (("good.test:8443",), ("good.test:443",)),
        (("*",), ("127.1:80", f"{'a' * 64}.test:443")),
        ((), ("good.test:443",)),
    ],
)
def test_other_hosts_are_refused(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str], hosts: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    answers, log = ask(closed, tmp_path, hosts, *map(tunnel, targets), where="`network` of 01-x.md")
    for target, answer in zip(targets, answers, strict=True):
        assert answer.startswith("HTTP/1.1 403 ")
        assert target.rpartition(":")[0].strip("[]") in answer
    assert len(log) == len(targets) and all("refused" in line for line in log)


def test_a_refusal_says_what_to_write_where(closed: Sandbox, tmp_path: Path, internet: dict[str, str]) -> None:
    asked = (tunnel("evil.test:443"), tunnel("evil.test:22"))
    answers, _ = ask(closed, tmp_path, ("good.test",), *asked, where="`network` of 01-x.md")
    assert "evil.test:443: write `evil.test` into `network` of 01-x.md if it may be reached" in answers[0]
    assert "write `evil.test:22` into" in answers[1]


def test_a_name_is_the_same_with_a_dot_at_its_end_and_in_capitals(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    answers, log = ask(
        closed, tmp_path, ("good.test", "*.good.test"), tunnel("GOOD.test.:443"), tunnel("A.good.TEST:443")
    )
    assert [answer[9:12] for answer in answers] == ["200", "200"]
    assert [line.partition(" ")[0] for line in log] == ["good.test:443", "a.good.test:443"]


OWN = (
    *("127.0.0.1", "127.9.9.9", "10.1.2.3", "192.168.0.9", "172.16.0.1", "100.64.0.1", "169.254.169.254", "0.0.0.0"),
    *("::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::"),
)


def test_a_name_of_an_address_that_only_the_machine_or_its_network_means_is_refused(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    internet |= {f"n{number}.good.test": address for number, address in enumerate(OWN)}
    names = [f"n{number}.good.test:443" for number in range(len(OWN))]
    answers, _ = ask(closed, tmp_path, ("*.good.test",), *map(tunnel, names))
    for address, answer in zip(OWN, answers, strict=True):
        assert answer.startswith("HTTP/1.1 403 "), address
        assert "private address" in answer or "this machine or its link" in answer


@pytest.mark.parametrize("declared", ["10.1.2.3", "10.0.0.0/8", "*"])
def test_a_private_address_is_reached_where_it_is_declared(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str], declared: str
) -> None:
    [answer], _ = ask(closed, tmp_path, ("inner.test", declared), tunnel("inner.test:443"))
    assert answer.startswith("HTTP/1.1 200 ")


def test_every_host_does_not_mean_the_machines_own(closed: Sandbox, tmp_path: Path, internet: dict[str, str]) -> None:
    with page() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]  # of its card, where it has one
        asked = [tunnel(f"{host}:{port}") for host in ("127.0.0.1", "localhost", own, "169.254.169.254", "[::1]")]
        answers, _ = ask(closed, tmp_path, ("*",), *asked)
    assert [answer[9:12] for answer in answers] == ["403"] * 5


def test_the_machines_loopback_is_reached_at_a_declared_port_alone_without_a_proxy(
    closed: Sandbox, tmp_path: Path
) -> None:
    with page() as one, page() as other:
        names = ["localhost", "127.0.0.1", *(["::1"] if Path("/proc/net/if_inet6").exists() else [])]
        line = (
            "import http.client as c\n"
            f"for host in {names}:\n    one = c.HTTPConnection(host, {one}); one.request('GET', '/'); print(one.getresponse().status)"
        )
        reached = run(closed, tmp_path, Network((f"localhost:{one}",)), "python3", "-c", line)
        line = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{other}/p')"
        refused = run(closed, tmp_path, Network((f"localhost:{one}",)), "python3", "-c", line)
    assert (reached.code, reached.tail) == (0, b"200\n" * len(names))
    assert [(one.host, one.times) for one in reached.network] == [("localhost", len(names))]
    assert refused.code == 1 and b"Connection refused" in refused.tail


RAW = """
import socket, sys
port, name = int(sys.argv[1]), sys.argv[2]
def tried(what, *given):
    try:
        what(*given)
    except OSError as error:
        return "no"
    return "REACHED"
def stream(family, address):
    one = socket.socket(family); one.settimeout(3); one.connect(address)
def datagram(address):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.settimeout(1); one.sendto(b"x" * 20, address); one.recv(9)
print(tried(stream, socket.AF_INET, ("127.0.0.1", port)), tried(stream, socket.AF_INET, ("169.254.169.254", 80)),
      tried(stream, socket.AF_INET, ("1.1.1.1", 53)), tried(stream, socket.AF_INET6, ("::1", port)),
      tried(stream, socket.AF_INET6, ("2606:4700:4700::1111", 53)), tried(datagram, ("127.0.0.1", port)),
      tried(datagram, ("1.1.1.1", 53)), tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
      tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 3), tried(socket.getaddrinfo, "example.com", 80),
      tried(stream, socket.AF_UNIX, "\\0" + name))
"""


def test_whatever_does_not_ask_the_proxy_reaches_nothing(closed: Sandbox, tmp_path: Path) -> None:
    name = f"runner-{uuid4().hex}"
    with page() as port, socket.socket(socket.AF_UNIX) as abstract, socket.socket(type=socket.SOCK_DGRAM) as heard:
        abstract.bind(f"\0{name}")
        abstract.listen()
        heard.bind(("127.0.0.1", port))
        heard.settimeout(0.1)
        done = run(closed, tmp_path, Network(("*",)), "python3", "-c", RAW, str(port), name)
        with pytest.raises(TimeoutError):
            heard.recv(9)
    assert done.tail.split() == [b"no"] * 11


def test_the_host_of_the_request_line_counts_and_is_the_one_that_is_sent(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    asked = get("http://good.test/x", "Host: evil.test", "Proxy-Authorization: Basic eDp5", "X-Own: 1")
    fooled = "CONNECT evil.test:443 HTTP/1.1\r\nHost: good.test:443\r\n\r\n"
    answers, _ = ask(closed, tmp_path, ("good.test",), asked, fooled)
    assert '"host": ["good.test"]' in answers[0]
    assert "X-Own" in answers[0] and "Proxy-Auth" not in answers[0]
    assert answers[1].startswith("HTTP/1.1 403 ")


def test_a_second_request_on_the_same_connection_is_not_sent_on(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    first = "POST http://good.test/x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    [answer], _ = ask(closed, tmp_path, ("good.test",), first + "GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert '"body": "abc"' in answer
    assert "smuggled" not in answer


TWO_WAYS = (
    "GET / HTTP/1.1\r\nHost: good.test\r\n\r\n",
    "GET https://good.test/ HTTP/1.1\r\n\r\n",
    "GET http://u:p@good.test/ HTTP/1.1\r\n\r\n",
    "GET http://good.test\\@evil.test/ HTTP/1.1\r\n\r\n",
    "GET http://good.test/ HTTP/1.1\r\n folded: x\r\n\r\n",
    "GET http://good.test/ HTTP/1.1\r\nHost : x\r\n\r\n",
    "GET http://good.test/ HTTP/1.1\r\nA: b\nHost: evil.test\r\n\r\n",
    "POST http://good.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST http://good.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST http://good.test/ HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
    "CONNECT good.test HTTP/1.1\r\n\r\n",
    "CONNECT good.test:443/x HTTP/1.1\r\n\r\n",
    "CONNECT u@good.test:443 HTTP/1.1\r\n\r\n",
    "CONNECT good.test:99999 HTTP/1.1\r\n\r\n",
    "\x16\x03\x01\x02\r\n\r\n",
)


def test_what_can_be_read_in_two_ways_is_refused(closed: Sandbox, tmp_path: Path, internet: dict[str, str]) -> None:
    answers, log = ask(closed, tmp_path, ("good.test",), *TWO_WAYS)
    assert [text for text, answer in zip(TWO_WAYS, answers, strict=True) if answer[:13] != "HTTP/1.1 400 "] == []
    assert log == []


def test_a_redirect_is_the_clients_to_follow(closed: Sandbox, tmp_path: Path, internet: dict[str, str]) -> None:
    answers, log = ask(closed, tmp_path, ("good.test",), get("http://good.test/away"), get("http://elsewhere.test/"))
    assert "302" in answers[0] and answers[1].startswith("HTTP/1.1 403 ")
    assert len(log) == 2


def test_a_head_without_end_and_a_client_that_never_finishes_hold_nothing_up(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    idle = (
        "import socket\n"
        "all = [socket.create_connection(('127.0.0.1', 3128)) for _ in range(100)]\n"
        "[one.sendall(b'GET') for one in all]\n"
    )
    long = json.dumps(["GET http://good.test/ HTTP/1.1\r\nA: " + "x" * 100_000, get("http://good.test/")])
    before, started = sorted(os.listdir("/proc/self/fd")), time.monotonic()
    done = run(closed, tmp_path, Network(("good.test",)), "python3", "-c", idle + SAY, long)
    answers = json.loads(done.tail)
    assert not answers[0].startswith("HTTP/1.1 2") and '"path": "/"' in answers[1]
    assert time.monotonic() - started < 20
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not [one for one in threading.enumerate() if "_keep" in one.name or "_accept" in one.name]


def test_the_command_ends_while_its_connections_are_open(
    closed: Sandbox, tmp_path: Path, internet: dict[str, str]
) -> None:
    line = (
        "import os, socket\n"
        "one = socket.create_connection(('127.0.0.1', 3128))\n"
        "one.sendall(b'CONNECT good.test:443 HTTP/1.1\\r\\n\\r\\n')\n"
        "one.recv(9)\n"
        "os._exit(3)"
    )
    before = sorted(os.listdir("/proc/self/fd"))
    done = run(closed, tmp_path, Network(("good.test",)), "python3", "-c", line)
    assert (done.code, [one.host for one in done.network]) == (3, ["good.test"])
    until = time.monotonic() + 5
    while sorted(os.listdir("/proc/self/fd")) != before and time.monotonic() < until:  # of the page's own threads
        time.sleep(0.02)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_persons_own_proxy_is_asked_with_its_password_which_the_sandbox_does_not_see(
    closed: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as beyond:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer = beyond.accept()[0]
                    with peer:
                        heard.append(peer.recv(4096).decode())
                        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\nbeyond")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://me:s%40fe@127.0.0.1:{beyond.getsockname()[1]}"
        via = {"HTTPS_PROXY": url, "http_proxy": url, "NO_PROXY": "direct.invalid"}
        asked = (
            tunnel("far.invalid:443"),
            get("http://far.invalid/x"),
            tunnel("evil.invalid:443"),
            tunnel("direct.invalid:443"),
        )
        answers, _ = ask(closed, tmp_path, ("far.invalid", "direct.invalid"), *asked, via=via)
        inside = run(closed, tmp_path, Network(("far.invalid",), via=via), "env")
        beyond.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert [answer[9:12] for answer in answers] == ["200", "200", "403", "403"]
    assert "beyond" in answers[0] + answers[1]
    assert [one.split("\r\n")[0] for one in heard] == [
        "CONNECT far.invalid:443 HTTP/1.1",
        "GET http://far.invalid/x HTTP/1.1",
    ]
    assert all("Proxy-Authorization: Basic bWU6c0BmZQ==" in one for one in heard)
    assert b"s%40fe" not in inside.tail and b"s@fe" not in inside.tail


def test_the_usual_variables_name_the_proxy_whatever_the_caller_gave(closed: Sandbox, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://other:1", "npm_config_proxy": "http://other:1", "X": "kept"}
    told = closed.run(Command(("env",), tmp_path, env, 30, writable=(tmp_path,), network=Network())).tail.decode()
    found = dict(line.split("=", 1) for line in told.splitlines())
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    assert {found[name] for name in names} == {"http://127.0.0.1:3128"}
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1"
    assert (found["NODE_USE_ENV_PROXY"], found["X"], "npm_config_proxy" in found) == ("1", "kept", False)


def test_a_session_has_the_network_too(closed: Sandbox, tmp_path: Path, internet: dict[str, str]) -> None:
    texts = json.dumps([tunnel("evil.test:443")])
    argv = ("python3", "-c", SAY, texts)
    given = Command(argv, tmp_path, {"PATH": "/usr/bin"}, 30, writable=(tmp_path,), network=Network(("good.test",)))
    session = closed.open(given)
    assert b"403" in session.stdout.read()
    assert [one.host for one in session.close().network] == ["evil.test"]


def test_the_sandboxs_own_servers_are_reached_without_the_proxy(closed: Sandbox, tmp_path: Path) -> None:
    line = (
        "import http.server as h, os, threading as t, urllib.request as u\n"
        "s = h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler)\n"
        "t.Thread(target=s.serve_forever, daemon=True).start()\n"
        "print(u.urlopen(f'http://localhost:{s.server_port}/').status, flush=True)\n"
        "os._exit(0)"
    )
    done = run(closed, tmp_path, Network(), "python3", "-c", line)
    assert done.tail.splitlines()[-1] == b"200" and done.network == ()
