"""The network of a sandbox: a filtering proxy on its loopback, which is all that it reaches.

The sandbox has a network namespace of its own, in which only the loopback is up. Before the command starts, a helper enters that
namespace and hands back listening sockets (`listen`); the runner answers them from outside. So nothing runs inside for it that a
command could end or replace, and raw sockets, UDP, DNS, IPv6 and abstract sockets lead nowhere.

The proxy takes CONNECT and plain HTTP. It looks names up itself, judges the addresses and connects to the very ones that it judged.
What goes through a tunnel is not looked into: another host on the same address can be asked for within it.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from runner.errors import SandboxError
from runner.lines import pattern

PROXY_PORT: Final = 3128  # of the proxy, on a sandbox's loopback
PROXIES = pattern(r"(npm_config_)?(https?|all|no)?_?proxy", re.I)  # variables that name one
AT_ONCE: Final = 128  # connections
MOST_HEAD: Final = 64 * 1024  # bytes of a request before its body
PATIENCE: Final = 30.0  # seconds for a request's head, and for connecting
MOST_LOGGED: Final = 500  # different hosts, ports and verdicts
WEB: Final = (80, 443)  # the ports of an entry without one
_CHUNK: Final = 64 * 1024
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_ENTERED_WITHIN: Final = 60.0  # seconds
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")  # NAT64: the last 32 bits are an IPv4 address
_NOT_FORWARDED: Final = {"host", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"}

# The namespace belongs to a user namespace of the runner's own, in which it may enter both. A process with threads cannot.
_ENTER: Final = """
import ctypes, fcntl, os, socket, sys
pid, back, *ports = map(int, sys.argv[1:])
enter = ctypes.CDLL(None, use_errno=True).setns
net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
user = fcntl.ioctl(net, 0xB701)  # NS_GET_USERNS
if os.fstat(net).st_ino == os.stat("/proc/self/ns/net").st_ino:
    sys.exit("it is the machine's own")
if os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino and enter(user, 0x10000000):
    sys.exit(f"user namespace: {os.strerror(ctypes.get_errno())}")
if enter(net, 0x40000000):
    sys.exit(f"network namespace: {os.strerror(ctypes.get_errno())}")
found = []
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    try:
        found += [(port, socket.create_server((address, port), family=family, backlog=128)) for port in ports]
    except OSError as error:
        if family == socket.AF_INET:  # not every machine has the other
            sys.exit(str(error))
said = " ".join(str(port) for port, _ in found).encode()
socket.send_fds(socket.socket(fileno=back), [said], [one.fileno() for _, one in found])
"""


class Network(NamedTuple):
    """What a command can reach besides its own loopback. The host cannot hold anything back.

    `hosts`: HOST, *.HOST, an address or network, each with or without a port (without: 80 and 443), through a proxy that the variables
    name; `localhost:PORT`: the machine's, at the same port; `*`: every host but the machine's own. `where`: the key that would allow
    more, for messages. `via`: variables that name the person's own proxy. `serves`: ports of its loopback, and what answers them.
    `log`: gets each host that it asked for, at its end.
    """

    hosts: tuple[str, ...] = ()
    where: str = ""
    via: Mapping[str, str] = {}
    serves: Mapping[int, Callable[[socket.socket], None]] = {}
    log: Callable[[Contact], None] | None = None


class Contact(NamedTuple):
    """A host that a command asked its proxy for. `refused`: why it was not reached; `sent`, `received`: bytes of all connections."""

    host: str
    port: int
    refused: str
    times: int
    sent: int
    received: int

    def __str__(self) -> str:
        """Return a line for people."""
        again = f", {self.times} times" if self.times > 1 else ""
        how = f"refused{again}: {self.refused}"
        if not self.refused:
            how = f"reached{again}: {self.sent} bytes sent, {self.received} received"
        return f"{self.host}:{self.port} {how}"


def with_proxy(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose programs find the proxy, and no other. The sandbox's own loopback is reached without it."""
    address, own = f"http://127.0.0.1:{PROXY_PORT}", "localhost,127.0.0.1,::1"
    names = {"HTTP_PROXY": address, "HTTPS_PROXY": address, "ALL_PROXY": address, "NO_PROXY": own}
    kept = {name: value for name, value in env.items() if not PROXIES.fullmatch(name)}
    return {**kept, **names, **{name.lower(): value for name, value in names.items()}, "NODE_USE_ENV_PROXY": "1"}


class HostRefusedError(Exception):
    """A host is not reached; the text says why."""


def listen(pid: int, ports: list[int]) -> list[tuple[int, socket.socket]]:
    """Return sockets that listen on the loopback in the network namespace of a process, by their ports.

    Raises:
        SandboxError: it cannot be entered.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = (sys.executable, "-I", "-S", "-c", _ENTER, str(pid), str(theirs.fileno()), *map(str, ports))
        done = subprocess.run(
            argv, pass_fds=(theirs.fileno(),), env={}, capture_output=True, timeout=_ENTERED_WITHIN, check=False
        )
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise SandboxError(
                f"the network of the sandbox could not be made: {why}",
                where="executor: sandbox",
                hint="check that bwrap is not setuid, and that a container engine is this user's own; or remove `network:`",
            )
        said, handles, *_ = socket.recv_fds(ours, _CHUNK, 2 * len(ports))
        return [(int(port), socket.socket(fileno=handle)) for port, handle in zip(said.split(), handles, strict=True)]


class Entry:
    """A host as `network:` names it: HOST, *.HOST or an address or network, perhaps with a port; `*` is every host."""

    def __init__(self, text: str) -> None:
        """Raises ValueError where it is none of these."""
        found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?|([0-9a-f:.]+(?:/\d+)?)", text)
        if not found:
            raise ValueError(f"{text!r} is no host")
        self.name, self.port = (found[1] or found[3]).strip("[]"), int(found[2]) if found[2] else None
        self.is_any, self.network = self.name == "*", None
        with contextlib.suppress(ValueError):
            self.network = ipaddress.ip_network(self.name, strict=False)

    def has_port(self, port: int) -> bool:
        """Return whether it allows a port."""
        return self.port == port if self.port else self.is_any or port in WEB

    def has_name(self, host: str) -> bool:
        """Return whether it names a host, which is no address."""
        return self.is_any or (host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name)


class Rules:
    """What `network:` of a command allows."""

    def __init__(self, network: Network) -> None:
        self._entries = [Entry(text) for text in network.hosts]
        self._where = network.where or "`network:`"
        self.forwarded = [one.port for one in self._entries if one.name == "localhost" and one.port]

    def addresses(self, host: str, port: int, *, by_other: bool = False) -> list[str]:
        """Return the addresses at which a host may be connected to. `by_other`: another proxy looks its name up; it may have none.

        Raises:
            RefusedError: it may not, or has none.
        """
        if host == "localhost":
            if port in self.forwarded:
                return ["127.0.0.1", "::1"]
            raise HostRefusedError(f"write `localhost:{port}` into {self._where} if it may be reached")
        literal = _address(host)
        named = [one for one in self._entries if one.has_port(port) and (one.network or one.has_name(host))]
        if not any(not one.network or (literal and literal in one.network) for one in named):
            entry = host if port in WEB else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise HostRefusedError(f"write `{entry}` into {self._where} if it may be reached")
        try:
            found = [str(literal)] if literal else _looked_up(host, port)
        except (OSError, UnicodeError):  # the latter: a label is too long
            if by_other:
                return []
            raise HostRefusedError("its name has no address") from None
        for one in found:
            self._refuse_address(ipaddress.ip_address(one.partition("%")[0]), named)
        return found

    def _refuse_address(self, given: _Ip, named: list[Entry]) -> None:
        """Refuse an address that only the machine or its network means, however it is written, unless it is declared itself.

        Raises:
            RefusedError: it is one.
        """
        ip = _plain(given)
        if ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast or ip.is_reserved or _is_own(ip):
            raise HostRefusedError(f"{ip} is this machine or its link; only a declared `localhost:PORT` is reached")
        if ip.is_global or any(one.is_any or (one.network and ip in one.network) for one in named):
            return
        raise HostRefusedError(f"{ip} is a private address; write `{ip}` into {self._where}, too, if it may be reached")


def _address(host: str) -> _Ip | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


def _plain(ip: _Ip) -> _Ip:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _TRANSLATED:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def _is_own(ip: _Ip) -> bool:
    """Return whether an address is one of this machine's: only these can be bound."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6) as probe:
        probe.bind((str(ip), 0))
        return True
    return False


def _looked_up(host: str, port: int) -> list[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def plain_host(text: str) -> str:
    """Return a host as entries are compared with it.

    Raises:
        RefusedError: it is written in a way that could be read as another one.
    """
    name = text.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    if ip := _address(name):
        return str(ip)
    last = name.rpartition(".")[2]
    if (
        len(name) > 253
        or not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name)
        or re.fullmatch(r"\d+|0x[0-9a-f]*", last)
    ):
        raise HostRefusedError("a host is named by its plain name or address")
    return name


class Proxy:
    """Answers the sockets of one command's loopback until it is closed; `contacts` lists the hosts."""

    def __init__(self, network: Network, pid: int) -> None:
        """`pid`: a process in the sandbox, where nothing of the command runs yet.

        Raises:
            SandboxError: its namespace cannot be entered.
        """
        self._rules, self._via, self._tell = Rules(network), network.via, network.log or (lambda _: None)
        answers: dict[int, Callable[[socket.socket], None]] = {
            PROXY_PORT: self._answer,
            **{port: self._forwards(port) for port in self._rules.forwarded},
            **network.serves,
        }
        self._lock, self._open, self._log = (
            threading.Lock(),
            set[socket.socket](),
            dict[tuple[str, int, str], list[int]](),
        )
        self._is_closed, self._threads = False, list[threading.Thread]()
        listening = listen(pid, list(answers))
        self._listening = [listener for _, listener in listening]
        for port, listener in listening:
            self._start(self._accept, listener, answers[port])

    def contacts(self) -> tuple[Contact, ...]:
        """Return the hosts that the command asked for, in the order of the first time."""
        with self._lock:
            return tuple(Contact(*key, *counted) for key, counted in self._log.items())

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._is_closed = True
            for one in (*self._listening, *self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + 1
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))  # one may be looking up a name
        for one in self._listening:
            one.close()
        for contact in self.contacts():
            self._tell(contact)

    def _start(self, target: Callable[..., None], *given: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=given, daemon=True)
        thread.start()
        with self._lock:
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        return thread

    def _accept(self, listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client = listener.accept()[0]
                if len(self._open) < AT_ONCE:
                    self._start(self._keep, client, answer)
                else:
                    client.close()

    def _keep(self, client: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(Exception), self._kept(client):  # a client's nonsense ends its connection alone
            answer(client)

    @contextlib.contextmanager
    def _kept(self, one: socket.socket) -> Iterator[None]:
        """Have `close` end a connection while the block lasts, and end it then."""
        with one:
            with self._lock:
                if self._is_closed:
                    raise ConnectionAbortedError
                self._open.add(one)
            try:
                yield
            finally:
                with self._lock:
                    self._open.discard(one)

    def _count(self, host: str, port: int, refused: str = "") -> list[int]:
        """Return the numbers of a host in the log, with one more connection: connections, bytes sent, bytes received."""
        key = (re.sub(r"[^\w.:-]", "?", host, flags=re.A)[:253], port, refused)
        with self._lock:
            if key not in self._log and len(self._log) >= MOST_LOGGED:
                key = ("(others)", 0, refused and "refused")
            counted = self._log.setdefault(key, [0, 0, 0])
            counted[0] += 1
        return counted

    def _answer(self, client: socket.socket) -> None:
        """Answer one request to the proxy."""
        head, rest = _read_head(client)
        asked = _Asked.of(head)
        if asked is None:
            return _say(client, "400 Bad Request", "the proxy takes CONNECT, and requests for http:// without chunks")
        host, port = asked.host, asked.port
        try:
            host = plain_host(host)
            server = self._connect(host, port, asked)
        except HostRefusedError as error:
            self._count(host, port, str(error))
            return _say(client, "403 Forbidden", f"the sandbox may not reach {asked.host}:{port}: {error}")
        except OSError as error:
            self._count(host, port, f"no connection: {error.strerror or error}")
            return _say(client, "502 Bad Gateway", f"no connection to {host}:{port}: {error.strerror or error}")
        with self._kept(server):
            if asked.is_tunnel:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._relay(client, server, rest, asked.length, self._count(host, port))

    def _connect(self, host: str, port: int, asked: _Asked) -> socket.socket:
        """Return a connection on which the rest of the request is sent, through the person's own proxy where there is one.

        Raises:
            RefusedError: the host may not be reached. OSError: it cannot be.
        """
        proxy = None if host == "localhost" else proxy_for(self._via, host, is_tunnel=asked.is_tunnel)
        addresses = self._rules.addresses(host, port, by_other=proxy is not None)
        head = asked.head(proxied=proxy is not None)
        if proxy is None:
            server = _connected(addresses, port)
        else:
            server = socket.create_connection(proxy.address, PATIENCE)
            head += [f"{name}: {value}" for name, value in proxy.headers.items()]
        try:
            if head and (proxy or not asked.is_tunnel):
                server.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
            if proxy and asked.is_tunnel and not re.match(rb"HTTP/1\.[01] 2", said := _read_head(server)[0]):
                first = said[:80].partition(b"\r\n")[0]
                raise ConnectionRefusedError(0, f"the proxy beyond says {first!r}")
            server.settimeout(None)
        except BaseException:
            server.close()
            raise
        return server

    def _forwards(self, port: int) -> Callable[[socket.socket], None]:
        """Return what connects the sandbox's own port with the same one of the machine's loopback."""

        def forward(client: socket.socket) -> None:
            server = _connected(["127.0.0.1", "::1"], port)
            with self._kept(server):
                server.settimeout(None)
                self._relay(client, server, b"", None, self._count("localhost", port))

        return forward

    def _relay(
        self, client: socket.socket, server: socket.socket, first: bytes, most: int | None, counted: list[int]
    ) -> None:
        """Carry bytes both ways until the server ends; `most`: of the client's, where it is known."""
        up = self._start(_pour, client, server, first, most, counted, 1)
        _pour(server, client, b"", None, counted, 2)
        up.join(1)  # what the client still sends would have the kernel drop what it has not read yet
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        up.join()


def _pour(
    source: socket.socket, sink: socket.socket, data: bytes, most: int | None, counted: list[int], at: int
) -> None:
    with contextlib.suppress(OSError):
        while most is None or most > 0:
            data = data or source.recv(_CHUNK)
            if not data:
                break
            data = data if most is None else data[:most]
            sink.sendall(data)
            counted[at] += len(data)
            most, data = most if most is None else most - len(data), b""
        if most is None:
            sink.shutdown(socket.SHUT_WR)


def _connected(addresses: list[str], port: int) -> socket.socket:
    for address in addresses:
        try:
            return socket.create_connection((address, port), PATIENCE)
        except OSError as error:
            last = error
    raise last


def _read_head(source: socket.socket) -> tuple[bytes, bytes]:
    """Return a request or an answer up to the empty line, and the bytes after it.

    Raises:
        OSError: it is too long, or does not come in time.
    """
    data, until = b"", time.monotonic() + PATIENCE
    while b"\r\n\r\n" not in data:
        source.settimeout(max(0.001, until - time.monotonic()))
        part = source.recv(_CHUNK)
        data += part
        if not part or (len(data) > MOST_HEAD and b"\r\n\r\n" not in data[:MOST_HEAD]):
            raise ConnectionAbortedError
    source.settimeout(None)
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _say(client: socket.socket, status: str, text: str) -> None:
    data = f"{text}\n".encode("ascii", "replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    client.sendall(head.encode() + data)
    client.shutdown(socket.SHUT_WR)
    client.settimeout(1)
    while client.recv(_CHUNK):  # what is not read when it is closed would have the kernel drop the answer
        pass


@dataclass(frozen=True, slots=True)
class Beyond:
    """A person's own proxy, and the headers that it wants."""

    address: tuple[str, int]
    headers: Mapping[str, str]


def proxy_for(via: Mapping[str, str], host: str, *, is_tunnel: bool) -> Beyond | None:
    """Return the proxy that a person's variables name for a host."""
    given = {name.lower(): value for name, value in via.items()}
    without = [one.strip().lstrip("*.") for one in given.get("no_proxy", "").lower().split(",")]
    url = given.get("https_proxy" if is_tunnel else "http_proxy") or given.get("all_proxy")
    if not url or given.get("no_proxy") == "*" or any(one and f".{host}".endswith(f".{one}") for one in without):
        return None
    parts = urlsplit(url if "//" in url else f"http://{url}")
    own = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(own).decode()}"} if parts.username is not None else {}
    return Beyond((parts.hostname or "", parts.port or 80), headers)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to the proxy. `length`: bytes of its body; None for a tunnel."""

    host: str
    port: int
    line: str
    target: str
    headers: tuple[str, ...]
    length: int | None

    @property
    def is_tunnel(self) -> bool:
        return self.length is None

    @classmethod
    def of(cls, head: bytes) -> _Asked | None:
        """Return what a request asks for; None where it could be read in two ways, or is no request."""
        first, *headers = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"([A-Z]+) ([!-~]+) HTTP/1\.[01]", first)
        if not found or not all(re.fullmatch(r"[\w!#$%&'*+.^`|~-]+:[^\r\n\0]*", line, re.A) for line in headers):
            return None
        method, target = found.groups()
        named = [(line.partition(":")[0].lower(), line.partition(":")[2].strip()) for line in headers]
        lengths = {value for name, value in named if name == "content-length"} or {"0"}
        try:
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if not host or parts.username is not None or "\\" in target:
            return None
        if method == "CONNECT":
            return cls(host, port, first, target, (), None) if port and parts.netloc == target else None
        length = lengths.pop()
        if parts.scheme != "http" or lengths or not re.fullmatch(r"\d{1,15}", length, re.A):
            return None
        if any(name == "transfer-encoding" for name, _ in named):
            return None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        kept = [line for line, (name, _) in zip(headers, named, strict=True) if name not in _NOT_FORWARDED]
        return cls(
            host,
            port or 80,
            f"{method} {path} HTTP/1.1",
            target,
            (f"Host: {parts.netloc}", "Connection: close", *kept),
            int(length),
        )

    def head(self, *, proxied: bool) -> list[str]:
        """Return the lines that are sent on; `proxied`: to another proxy, which needs the whole target."""
        method, target, version = self.line.split(" ")
        if self.is_tunnel:
            return [self.line, f"Host: {self.target}"]
        return [f"{method} {self.target if proxied else target} {version}", *self.headers]
