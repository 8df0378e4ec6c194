"""Fetch a page as text of bounded size, over https, from hosts that are allowed by name.

The caller decides for each host, those of redirects included, whether it is allowed. Requests carry no cookies, no credentials, and
use no proxy of the environment. The text is untrusted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from runner.tools import ToolError
from runner.values import dataclass

if TYPE_CHECKING:
    import http.client

MOST = 1_000_000  # bytes of a page
TIMEOUT = 30.0  # seconds for all of it
HOPS = 5
CHUNK = 64 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
TEXTS = ("application/json", "application/xml", "application/xhtml+xml", "application/javascript", "application/yaml")

Allowed = Callable[[str], str | None]  # the host -> None where it is allowed, else what forbids it


@dataclass(frozen=True, slots=True)
class Page:
    """A fetched page. `url`: its own, after redirects."""

    url: str
    status: int
    text: str


def fetch(url: str, allowed: Allowed, *, timeout: float = TIMEOUT) -> Page:
    """Return the page at a URL.

    Raises:
        ToolError: the URL or a host on the way is not allowed, there is no answer, or the page is too big or not text.
    """
    import http.client  # with ssl a tenth of a command's start, which has no other use of them

    expired = threading.Event()
    sockets: list[socket.socket] = []

    def expire() -> None:
        expired.set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    # The timeout of a socket is for one read; a server that drips would never come to an end.
    timer = threading.Timer(timeout, expire)
    timer.daemon = True
    timer.start()
    try:
        for _ in range(HOPS + 1):
            parts = _checked(url, allowed)
            answer = _ask(parts, timeout, sockets)
            if expired.is_set():  # a page that was cut off looks complete
                raise ToolError(f"timed out after {timeout:g} s")
            if isinstance(answer, Page):
                return answer
            url = urljoin(url, answer)
        raise ToolError(f"more than {HOPS} redirects")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if expired.is_set():
            raise ToolError(f"timed out after {timeout:g} s") from error
        raise ToolError(f"{urlsplit(url).hostname}: {error}") from error
    finally:
        timer.cancel()


def _checked(url: str, allowed: Allowed) -> SplitResult:
    """Return the parts of a URL that may be asked."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ToolError("a URL is plain ASCII without blanks and backslashes; encode other characters")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ToolError(f"this is no URL: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ToolError("a URL with a name or a password in it is not fetched")
    if parts.scheme not in ("https", "http") or not host:
        raise ToolError("only https URLs are fetched, such as https://example.test/page")
    if (why := allowed(host)) is not None:
        raise ToolError(f"{host} is not allowed: {why}")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ToolError(f"{host} is only asked over https")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ask(parts: SplitResult, timeout: float, sockets: list[socket.socket]) -> Page | str:
    """Return the page, or where it is instead."""
    import http.client
    import ssl

    assert parts.hostname is not None
    connection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    )
    with contextlib.closing(connection):
        connection.connect()
        sockets.append(connection.sock)
        return _read(parts, connection)


def _read(parts: SplitResult, connection: http.client.HTTPConnection) -> Page | str:
    headers = {"Accept": "text/*, application/json, */*;q=0.1", "Accept-Encoding": "identity", "User-Agent": "runner"}
    connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers)
    answer = connection.getresponse()
    place = answer.getheader("Location")
    if answer.status in REDIRECTS and place is not None:
        return place
    kind = (answer.headers.get_content_type() if answer.getheader("Content-Type") else "text/plain").lower()
    if not (kind.startswith("text/") or kind in TEXTS or kind.endswith(("+json", "+xml"))):
        raise ToolError(f"it is {kind}, and no text")
    if answer.getheader("Content-Encoding", "identity") != "identity":
        raise ToolError("it is compressed, although that was not asked for")
    data = bytearray()
    while chunk := answer.read(CHUNK):
        data += chunk
        if len(data) > MOST:
            raise ToolError(f"it has more than {MOST:,} bytes")
    try:
        text = data.decode(answer.headers.get_content_charset() or "utf-8", "replace")
    except LookupError:
        text = data.decode("utf-8", "replace")
    return Page(parts.geturl(), answer.status, text)
