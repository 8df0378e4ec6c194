"""Send requests to a model's endpoint, for every provider: an engine is a wire format (`Form`) and an address (`Place`).

A provider's SDK authenticates, finds the address and connects. From there on the body is the form's and the answer is ours: the hook
of its HTTP client reads the response before the SDK would, hands every byte on before anybody parses it, and lets the SDK see none.
So no field is dropped, no chunk is written anew and nothing is asked again. A form is pure: a request to its body, events to a
response, an error's JSON to its kind. The meaning of a status code is defined here once.

`ask` sends one request, ends within `timeout` whatever the endpoint does, and never delays KeyboardInterrupt. The key goes into one
header to one host: redirects are not followed, and it is removed from every message. The environment is an argument; of the process's
own, the SDKs and their HTTP client still read proxies, SSL_CERT_FILE and a person's custom headers.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from runner.engines import (
    Call,
    ContextTooLongError,
    EngineError,
    Json,
    KeyRefusedError,
    MalformedResponseError,
    ModelTurn,
    NetworkError,
    NotStartedError,
    OverloadedError,
    QuotaError,
    RateLimitError,
    Request,
    RequestRefusedError,
    Response,
    UnknownHostError,
    WebPageError,
    without_picture,
)
from runner.lines import one_line

JSON: Final[Mapping[str, Json]] = {"headers": {"Content-Type": "application/json"}}
AGAIN: Final = "run the same command again"
_CUT_SECONDS: Final = 0.5
_MOST_TOKENS: Final = 10**9  # of one answer; budgets could not be kept by a count that is none
_MOST_ERROR: Final = 1_000_000  # bytes that are read of an error's body
_MOST_ANSWER: Final = 64 * 1024 * 1024  # bytes that are read of an answer
_DEEPEST: Final = 100  # levels of JSON; what comes after us (redaction, the journal) goes through them one call each
# Until when an agent says that its model takes no more requests: each has words of its own.
RESETS: Final = re.compile(r"""(?:resets?_?at["\\]*:\s*|limit reached\|)(\d{10})\b""", re.I)
_AFTER: Final = re.compile(r"""retry[-_ ]?(?:after|delay)(_?ms)?["\\:\s]*(\d{1,9}(?:\.\d+)?)""", re.I)
_IN: Final = re.compile(
    r"\b(?:in|after|wait) ((?:[\d.]+ ?(?:days?|d|hours?|h|minutes?|min|m|seconds?|s)\b[ ,]*(?:and )?)+)", re.I
)
_CLOCK: Final = re.compile(r"(?:resets?|again)(?: at)? (\d{1,2})(?::(\d\d))? ?([ap]m)?\b(?: \(([\w/+-]+)\))?", re.I)
_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

Hooks = Mapping[str, list[Callable[[Any], None]]]
Send = Callable[[str, Json, float], object]  # model, body, seconds
Connect = Callable[
    [str, str, Hooks], tuple[Send, Callable[[], None]]
]  # key, address, hooks: what sends, and what closes
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A provider's wire format.

    `body(request, model, provider)`: the body; `response(events, request, provider)`: the whole answer, or a ValueError (`TornError`
    where it stops before its end);
    `failed(event)`: the status and JSON of an error that came as an event, else None; `kind(error)`: what an error's JSON says that
    its status does not: key, quota, long or nothing; `wait(error)`: the seconds that it asks to wait; `connect`: opens the SDK;
    `headers(key)`: those that carry the key where a coding agent's requests are passed on, without the SDK.
    """

    body: Callable[[Request, str, str], dict[str, Json]]
    response: Callable[[Sequence[Json], Request, str], Response]
    failed: Callable[[Json], tuple[int, Json] | None]
    kind: Callable[[Json], str]
    connect: Connect
    wait: Callable[[Json], float | None] = lambda error: None
    headers: Callable[[str], dict[str, str]] = lambda key: {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model is asked. `who`: the provider in messages; `variable`: has the key; `address`: the variable to set for another
    endpoint; `start`: what starts the server on this machine."""

    provider: str
    model: str
    who: str
    key: str
    variable: str
    base_url: str
    host: str
    address: str
    start: str = ""

    @property
    def where(self) -> str:
        """The place in messages."""
        return f"{self.host}, model {self.model}"

    def cut_off(self) -> NetworkError:
        """Return the error for an answer that stops before its end."""
        return NetworkError("the answer was cut off in the middle", self.where, AGAIN)

    def malformed(self, how: str, hint: str = AGAIN) -> MalformedResponseError:
        """Return the error for a response that is not in the form."""
        return MalformedResponseError(how, self.where, hint)


@dataclass(frozen=True, slots=True)
class Refused:
    """A response with an error's status."""

    code: int
    headers: Mapping[str, str]
    body: bytes


class LineEngine:
    """One model at one place. Asked by one thread at a time."""

    def __init__(self, form: Form, place: Place) -> None:
        self.provider, self.model, self.name = place.provider, place.model, f"{place.provider}:{place.model}"
        self._form, self._place = form, place
        self._line: Line | None = None

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Return the model's next turn. See `Engine.ask`; `timeout` is for the whole answer, in seconds."""
        if self._line is None:
            try:
                self._line = Line(self._form.connect, self._place)
            except Exception as error:  # each SDK has its own for an address that it cannot read
                words, place = self._readable(f"{type(error).__name__}: {error}"), self._place
                hint = f"correct {place.address}"
                raise RequestRefusedError(
                    f"no request can be made to the endpoint ({words})", place.where, hint
                ) from error
        line, form, place = self._line, self._form, self._place
        events, stream = list[Json](), _Stream()
        deadline = time.monotonic() + timeout
        arriving = line.ask(form.body(request, place.model, place.provider), timeout)
        item: object = b""
        try:
            while isinstance(item, bytes):
                left = deadline - time.monotonic()
                try:
                    if left <= 0:  # an answer without end may come faster than it is read
                        raise queue.Empty
                    item = arriving.get(timeout=left)
                except queue.Empty:
                    hint = f"{AGAIN}; the step's `timeout` gives it longer"
                    raise NetworkError(f"no whole answer came within {timeout:g} seconds", place.where, hint) from None
                if isinstance(item, bytes) and on_bytes is not None:
                    on_bytes(item)
                if isinstance(item, bytes) or item is None:
                    for event in self._read(stream.events, item):
                        events.append(event)
                        if (found := self._read(form.failed, event)) is not None:  # an error
                            raise self._refusal(*found, {})
        finally:
            if isinstance(item, bytes):  # out of time, interrupted, or the reader raised: nobody waits for the rest
                line.cut()
                self._line = None
        if isinstance(item, Refused):
            raise self._refusal(item.code, _json(item.body), item.headers)
        if isinstance(item, Exception):
            raise self._told(item) from item
        return self._read(form.response, events, request, place.provider)

    def close(self) -> None:
        """Close connections; a later request opens new ones."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _read(self, parse: Callable[..., Read], *given: Any) -> Read:
        """Return what a parser says of something that the endpoint sent.

        Raises:
            MalformedResponseError: it is not of the form.
        """
        try:
            return parse(*given)
        except TornError as error:
            raise self._place.cut_off() from error
        except _PageError as error:
            hint = f"log in if it is the page of a proxy or network, or check {self._place.address}"
            what = f"{self._place.host} sends a web page instead of a model's answer"
            raise WebPageError(what, self._place.where, hint) from error
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            words = self._readable(f"{type(error).__name__}: {error}")
            raise self._place.malformed(f"the response is not {self._place.who}'s format ({words})") from error

    def _told(self, error: Exception) -> EngineError:
        """Return the error for an exception of the SDK or its HTTP client."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (OSError, *_transport_errors())):
            cause = cause.__cause__
        words, place = self._readable(f"{type(cause or error).__name__}: {cause or error}"), self._place
        root = cause
        while root is not None and not isinstance(root, (ConnectionRefusedError, socket.gaierror)):
            root = root.__cause__ or root.__context__
        if isinstance(root, socket.gaierror) and root.errno == socket.EAI_NONAME:
            hint = f"check the network, and {place.address} and the address of a proxy if they are set"
            return UnknownHostError(f"{place.host} cannot be found: there is no such name", place.where, hint)
        if isinstance(root, ConnectionRefusedError) and _is_loopback(place.host):
            by = f"with `{place.start.format(model=place.model)}`" if place.start else "there"
            hint = f"start the server {by}, or set {place.address} to where it is"
            return NotStartedError(f"no server listens at {place.host}", place.where, hint)
        if cause is not None:
            return NetworkError(f"no answer from the endpoint ({words})", place.where, f"check the network; {AGAIN}")
        return self._place.malformed(f"the response is not {self._place.who}'s format ({words})")

    def _refusal(self, code: int, error: Json, headers: Mapping[str, str]) -> EngineError:
        """Return what a response with an error's status means; `error` is its JSON, None where it is none."""
        place, form = self._place, self._form
        inner = error.get("error", error) if isinstance(error, dict) else None
        words = inner.get("message") if isinstance(inner, dict) else inner
        said = f" ({code})" + (f": {self._readable(words)}" if isinstance(words, str) and words else "")
        kind, who, where = form.kind(error), place.who, place.where
        if code in (401, 403) or kind == "key":
            hint = f"set {place.variable} to a key that is valid"
            return KeyRefusedError(f"{who} refuses the API key, or it lacks a permission{said}", where, hint)
        if code == 402 or kind == "quota":
            hint = "wait for the next day, raise the quota, or use another engine with --engine"
            return QuotaError(f"{who} says that the quota of your account is used up{said}", where, hint)
        if code == 413 or kind == "long":
            hint = "give the step less to read, or split it"
            return ContextTooLongError(f"the conversation is longer than {place.model} takes{said}", where, hint)
        if code == 429:
            wait = wait_of(headers)
            wait = form.wait(error) if wait is None else wait
            hint = "wait a little" if wait is None else f"wait {duration(wait)}"
            return RateLimitError(f"{who} takes no more requests for now{said}", where, hint, retry_after=wait)
        if code == 404:
            hint = f"check the model's name, and {place.address} if it is set"
            return RequestRefusedError(f"{who} has no model `{place.model}`{said}", where, hint)
        if code == 408:
            return NetworkError(f"the request did not arrive in time{said}", where, AGAIN)
        if 500 <= code < 600:
            return OverloadedError(f"{who} reports a server error{said}", where, f"{AGAIN} later")
        if 300 <= code < 400:
            hint = f"set {place.address} to where the endpoint is"
            return RequestRefusedError(
                f"the endpoint redirects elsewhere ({code}); the key is not sent there", where, hint
            )
        if 400 <= code < 500:
            hint = "check the model's name and what the step gives it"
            return RequestRefusedError(f"{who} calls the request invalid{said}", where, hint)
        return place.malformed(f"the response is not {who}'s format{said}")

    def _readable(self, words: str) -> str:
        """Return a provider's message on one line, cut, and without the key."""
        return one_line(words.replace(self._place.key, "[key]") if self._place.key else words, 300)


class Line:
    """One client of an SDK, whose connections another thread can cut."""

    def __init__(self, connect: Connect, place: Place) -> None:
        self._model = place.model
        self._streams: list[Any] = []
        self._is_cut = threading.Event()
        self._thread: threading.Thread | None = None
        self._arriving: queue.SimpleQueue[object] = queue.SimpleQueue()
        hooks: Hooks = {"request": [self._watch], "response": [self._take]}
        self._send, self._close = connect(place.key, place.base_url, hooks)

    def ask(self, body: Json, timeout: float) -> queue.SimpleQueue[object]:
        """Send a request; the queue gets the response's bytes as they arrive, then None; or what ended it, an exception or `Refused`.

        A thread waits for the network, because much of that (looking up a name, a server that sends a byte now and then)
        neither ends in time nor reacts to an interrupt.
        """
        arriving = self._arriving = queue.SimpleQueue()

        def pump() -> None:
            try:
                self._send(self._model, body, timeout)
            except _Taken:
                pass
            except Exception as error:  # handed to the asking thread, which tells them apart
                arriving.put(error)
            else:
                arriving.put(None)

        self._thread = threading.Thread(target=pump, name=f"ask {self._model}", daemon=True)
        self._thread.start()
        return arriving

    def cut(self) -> None:
        """End every connection now, even one in use; the client must not be used again."""
        self._is_cut.set()
        for stream in self._streams:
            connection = stream.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(_CUT_SECONDS)
            if self._thread.is_alive():  # still looking up a name or connecting; `_trace` ends it after that
                return
        self._close()

    def close(self) -> None:
        """Close the connections of an idle client."""
        self._close()

    def _watch(self, request: Any) -> None:
        request.extensions = {**request.extensions, "trace": self._trace}

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])
        if self._is_cut.is_set() and not event.endswith((".failed", "close.started", "close.complete")):
            raise ConnectionAbortedError("nobody waits for the answer any more")

    def _take(self, response: Any) -> None:
        """Read a response in the SDK's place, and end its call."""
        arriving = self._arriving
        try:
            if 200 <= response.status_code < 300:
                read = 0
                for piece in response.iter_bytes():
                    if (read := read + len(piece)) > _MOST_ANSWER:
                        raise ValueError("it is longer than 64 MiB")
                    arriving.put(piece)
                arriving.put(None)
            else:
                body = b""
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > _MOST_ERROR:
                        break
                arriving.put(Refused(response.status_code, response.headers, body))
        except Exception as error:
            arriving.put(error)
        raise _Taken


class _Taken(BaseException):
    """The response was read; the SDK has nothing more to do. No SDK catches it, for it is no Exception."""


class TornError(ValueError):
    """The stream ends in the middle of an event."""


class _PageError(ValueError):
    """The response is HTML."""


class _Stream:
    """The events of a stream (server-sent events, whose `data` is JSON), parsed as the bytes come."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._count = 0
        self._is_stream: bool | None = None  # an endpoint that does not stream sends one object

    def events(self, piece: bytes | None) -> list[Json]:
        """Return the events that are whole with this piece of the stream; None is its end.

        Raises:
            ValueError: the data of one is no JSON.
        """
        self._rest += piece or b""
        start = self._rest.lstrip() if self._is_stream is None else b""
        if len(start) >= len(b"retry:") or (start and piece is None):
            self._is_stream = start.startswith((b"data:", b"event:", b"id:", b"retry:", b":"))
        if not self._is_stream:
            return self._event(self._rest) if piece is None and self._rest.strip() else []
        *lines, self._rest = (self._rest + (b"\n\n" if piece is None else b"")).split(b"\n")
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                try:
                    found += self._event(b"\n".join(self._data))
                except ValueError as error:
                    if piece is None and self._count > 1:  # it is the last one, after others
                        raise TornError("the last event is no whole one") from error
                    raise
                self._data = []
        return found

    def _event(self, data: bytes) -> list[Json]:
        if data.strip() == b"[DONE]":
            return []
        self._count += 1
        if data.lstrip().startswith(b"<"):
            raise _PageError
        event = json.loads(data)
        if not isinstance(event, dict) or not _is_shallow(event):
            raise ValueError("an event is no object, or nested without end")
        return [event]


def _is_shallow(value: Json, left: int = _DEEPEST) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_shallow(one, left - 1) for one in inner)


def _json(body: bytes) -> Json:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_loopback(host: str) -> bool:
    """Return whether `HOST` or `HOST:PORT` is this machine."""
    return re.fullmatch(r"(127(\.\d+){3}|localhost|::1)(:\d+)?", host) is not None


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the SDKs' HTTP clients when there is no response."""
    return tuple(sys.modules[name].TransportError for name in ("httpx2", "httpx") if name in sys.modules)


def duration(seconds: float) -> str:
    """Return a wait as people say it; one that is longer than minutes in whole minutes, rounded up."""
    if seconds < 120:
        return f"{seconds:g} seconds"
    hours, minutes = divmod(-(-int(seconds) // 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait: `Retry-After` (RFC 9110 §10.2.3), or OpenAI's in milliseconds."""
    if (finer := seconds(headers.get("retry-after-ms", ""))) is not None:
        return finer / 1000
    asked = headers.get("retry-after", "")
    if (whole := seconds(asked)) is not None:
        return whole
    try:  # a date is counted from the server's own clock
        return max(0.0, (parsedate_to_datetime(asked) - parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    except (ValueError, TypeError):
        return None


# --- what the forms share ---------------------------------------------------------------------------------------------


def wait_told(text: str, now: float) -> float | None:
    """Return the seconds until a limit ends, as an agent's error says it in one of several ways; None where it does not.

    `now`: in seconds since the epoch; an hour without a zone is one of UTC, as clocks in the sandbox are.
    """
    if (found := RESETS.search(text)) is not None:
        return float(found[1]) - now
    if (found := _AFTER.search(text)) is not None:
        return float(found[2]) / (1000 if found[1] else 1)
    if (found := _IN.search(text)) is not None:
        parts = re.findall(r"([\d.]+) ?([a-z])", found[1], re.I)
        with contextlib.suppress(ValueError):
            return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)
    if (found := _CLOCK.search(text)) is not None and (found[2] or found[3]):
        hour = int(found[1]) % 12 + 12 * (found[3].lower() == "pm") if found[3] else int(found[1])
        with contextlib.suppress(ValueError, OSError):  # no such hour, or no such zone here
            here = datetime.fromtimestamp(now, ZoneInfo(found[4] or "UTC"))
            at = here.replace(hour=hour, minute=int(found[2] or 0), second=0, microsecond=0)
            return (at - here).total_seconds() % 86_400
    return None


def written(body: Json) -> bytes:
    """Return a body as it is sent: in ASCII, since half a character, as a file's name may have, has no UTF-8."""
    return json.dumps(body, separators=(",", ":")).encode()


def seconds(text: str) -> float | None:
    """Return a number of seconds, None where the text is none."""
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else None


def count(counted: Json, *names: str) -> int:
    """Return the sum of these counts of tokens; one that is missing or null is none.

    Raises:
        ValueError: one is no count of tokens.
    """
    found = [(counted or {}).get(name) or 0 for name in names]
    if not all(type(one) is int and 0 <= one <= _MOST_TOKENS for one in found):
        raise ValueError("its tokens are counted wrongly")
    return sum(found)


def numbered(given: Iterable[str], request: Request) -> list[str]:
    """Return the ids of a turn's calls. One that came without is numbered, on from the calls that `request` holds."""
    taken = {call.id for turn in request.turns if isinstance(turn, ModelTurn) for call in turn.calls}
    number, ids = len(taken), list[str]()
    for id in given:
        while not id:
            number += 1
            id = f"c{number}" if f"c{number}" not in taken else ""
        taken.add(id)
        ids.append(id)
    return ids


def called(id: str, name: Json, arguments: Json) -> Call:
    """Return a call whose arguments came as text, or as an object."""
    problem = ""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            arguments, problem = None, f"its arguments are not JSON: {error}"
    if not problem and not (isinstance(arguments, dict) and _is_shallow(arguments)):
        arguments, problem = None, "its arguments are not an object"
    if not name or not isinstance(name, str):
        return Call(id=id, name="", arguments=None, problem="the call does not name a function")
    return Call(id=id, name=name, arguments=arguments, problem=problem)


def as_text(content: Json) -> str:
    """Return a tool's result as text, for the providers that take no other."""
    content = without_picture(content)
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
