"""`gemini:MODEL`: Google's Gemini models through google-genai, which is imported by the first request.

`ask` sends one request (the SDK's retries, continuation and function calls are off), ends within `timeout` whatever the endpoint
does, and never delays KeyboardInterrupt. The key goes into one header to one host: redirects are not followed, and it is removed from
every message. Responses are streamed, which shows progress. `gemini_format` has the bodies.

The environment is an argument. Of the process's own, the SDK and its HTTP client still read proxies and SSL_CERT_FILE.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import queue
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from runner.engines import gemini_format
from runner.engines.base import (
    EngineError,
    Json,
    KeyMissingError,
    KeyRefusedError,
    MalformedResponseError,
    NetworkError,
    Request,
    Response,
)
from runner.errors import UsageError

KEYS: Final = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # the first that is set, as with Google's own programs
BASE_URLS: Final = ("GOOGLE_GEMINI_BASE_URL", "GEMINI_BASE_URL")
INSTALL: Final = "pip install 'protocol-runner[gemini]'"
_BASE_URL: Final = "https://generativelanguage.googleapis.com"
_API_VERSION: Final = "v1beta"
_CUT_SECONDS: Final = 0.5
_AGAIN: Final = "run the same command again"


class GeminiEngine:
    """One Gemini model. Asked by one thread at a time."""

    def __init__(self, model: str, environ: Mapping[str, str]) -> None:
        """Check that the package and a key exist; nothing is imported or connected yet.

        Raises:
            KeyMissingError: the package is not installed, or no key is set.
            KeyRefusedError: the key cannot be one.
            UsageError: the model's name or the base URL is none.
        """
        if not installed():
            raise KeyMissingError("the package google-genai is not installed", f"engine gemini:{model}", INSTALL)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?", model):
            raise UsageError(f"`{model}` is no name of a model", f"engine gemini:{model}", "write it as `gemini:MODEL`")
        self.provider, self.model, self.name = gemini_format.PROVIDER, model, f"{gemini_format.PROVIDER}:{model}"
        self._key, self._variable = _key(environ)
        self._base_url, host = _base_url(environ)
        self._where = f"{host}, model {model}"
        if not self._key:
            looked = " and ".join(reversed(KEYS))
            raise KeyMissingError("no key for Gemini is set", f"looked for {looked}", f"set {KEYS[-1]}")
        if not re.fullmatch(r"[!-~]+", self._key) or self._key.startswith("auth_tokens/"):
            raise KeyRefusedError(
                "the value is not an API key of Gemini", self._variable, f"set {self._variable} to an API key"
            )
        self._line: _Line | None = None

    def ask(self, request: Request, *, timeout: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Return the model's next turn. See `Engine.ask`; `timeout` is for the whole answer, in seconds."""
        if self._line is None:
            self._line = _Line(self._key, self._base_url)
        line, chunks = self._line, list[Json]()
        deadline = time.monotonic() + timeout
        arriving = line.ask(self.model, gemini_format.body(request), timeout)
        ended = False
        try:
            while True:
                try:
                    item = arriving.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    hint = f"{_AGAIN}; the step's `timeout` gives it longer"
                    raise NetworkError(f"no whole answer came within {timeout:g} seconds", self._where, hint) from None
                if item is None or isinstance(item, Exception):
                    ended = True
                    break
                try:
                    chunk = _as_json(item)
                except ValueError as error:  # nested deeper than the SDK writes
                    raise self._told(error) from error
                chunks.append(chunk)
                if on_text is not None:
                    for text in gemini_format.texts(chunk):
                        on_text(text)
        finally:
            if not ended:  # out of time, interrupted, or `on_text` raised: nobody waits for the rest
                line.cut()
                self._line = None
        if item is not None:
            raise self._told(item) from item
        return gemini_format.response(gemini_format.joined(chunks), request, self._where)

    def close(self) -> None:
        """Close connections; a later request opens new ones."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _told(self, error: Exception) -> EngineError:
        """Return the error for an exception of the SDK, by its type and status code."""
        from google.genai.errors import APIError

        if isinstance(error, APIError):
            headers = getattr(error.response, "headers", None) or {}
            words = self._readable(error.message if isinstance(error.message, str) else "")
            return gemini_format.refusal(
                error.code, error.details, headers, words, self.model, self._where, self._variable
            )
        words = self._readable(f"{type(error).__name__}: {error}")
        if isinstance(error, (OSError, *_transport_errors())):
            return NetworkError(f"no answer from the endpoint ({words})", self._where, f"check the network; {_AGAIN}")
        # Every other exception of the SDK is about the response: the request holds nothing that it could refuse.
        return MalformedResponseError(f"the response is not Gemini's format ({words})", self._where, _AGAIN)

    def _readable(self, words: str) -> str:
        """Return a provider's message on one line, cut, and without the key."""
        words = " ".join("".join(c if c.isprintable() else " " for c in words.replace(self._key, "[key]")).split())
        return words if len(words) <= 300 else words[:299] + "…"


class _Line:
    """One client of the SDK, whose connections another thread can cut."""

    def __init__(self, key: str, base_url: str) -> None:
        # The SDK warns on stderr, through logging and warnings, of harmless things: two keys are set, a finish reason is newer
        # than its tables.
        logging.getLogger("google_genai").addHandler(logging.NullHandler())
        warnings.filterwarnings("ignore", module=r"google\.genai\b")
        genai: Any = importlib.import_module("google.genai")
        self._types: Any = genai.types
        self._streams: list[Any] = []
        self._is_cut = threading.Event()
        self._thread: threading.Thread | None = None
        # Each argument that is left out the SDK would read from the process's environment.
        self._client: Any = genai.Client(
            api_key=key,
            vertexai=False,
            http_options=self._types.HttpOptions(
                base_url=base_url,
                api_version=_API_VERSION,
                retry_options=self._types.HttpRetryOptions(attempts=1),
                client_args={"follow_redirects": False, "event_hooks": {"request": [self._watch]}},
            ),
        )

    def ask(self, model: str, body: Json, timeout: float) -> queue.SimpleQueue[Any]:
        """Send a request; the queue gets the response's chunks as they arrive, then None, or the exception that ended it.

        A thread waits for the network, because much of that (looking up a name, a server that sends a byte now and then)
        neither ends in time nor reacts to an interrupt.
        """
        types = self._types
        config = types.GenerateContentConfig(
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            automatic_continuation=False,
            http_options=types.HttpOptions(
                timeout=max(1, int(timeout * 1000)),
                extra_body=body,  # as it is: through the SDK's types, signatures and names would be written anew
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )
        arriving: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def pump() -> None:
            try:
                # `contents` is replaced by the body's.
                for chunk in self._client.models.generate_content_stream(model=model, contents=" ", config=config):
                    arriving.put(chunk)
            except Exception as error:  # handed to the asking thread, which tells them apart
                arriving.put(error)
            else:
                arriving.put(None)

        self._thread = threading.Thread(target=pump, name=f"ask {model}", daemon=True)
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
        self._client.close()

    def close(self) -> None:
        """Close the connections of an idle client."""
        self._client.close()

    def _watch(self, request: Any) -> None:
        request.extensions = {**request.extensions, "trace": self._trace}

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])
        if self._is_cut.is_set() and not event.endswith((".failed", "close.started", "close.complete")):
            raise ConnectionAbortedError("nobody waits for the answer any more")


def installed() -> bool:
    """Return whether google-genai can be imported, without importing it."""
    try:
        return importlib.util.find_spec("google.genai") is not None
    except ModuleNotFoundError:  # not even a package `google`
        return False


def key_variable(environ: Mapping[str, str]) -> str | None:
    """Return the name of the variable that has the key."""
    return _key(environ)[1] or None


def _key(environ: Mapping[str, str]) -> tuple[str, str]:
    for name in KEYS:
        if value := environ.get(name, "").strip():
            return value, name
    return "", ""


def _base_url(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the endpoint's address, and its name in messages.

    Raises:
        UsageError: a variable holds no address.
    """
    for name in BASE_URLS:
        if value := environ.get(name, "").strip():
            try:
                parts = urlsplit(value)
                host, port = parts.hostname, parts.port
            except ValueError:
                parts, host, port = urlsplit(""), None, None
            if parts.scheme not in ("http", "https") or not host:
                raise UsageError("the address of the endpoint is no http:// or https:// URL", name, f"correct {name}")
            return value, host if port is None else f"{host}:{port}"
    return _BASE_URL, urlsplit(_BASE_URL).hostname or ""


def _as_json(chunk: Any) -> Json:
    """Return a chunk of the SDK as JSON, without the fields that the SDK does not know, which it drops."""
    said = chunk.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"sdk_http_response"})
    for candidate in said.get("candidates", []):
        for part in candidate.get("content", {}).get("parts", []):
            if "thoughtSignature" in part:  # pydantic writes base64 in its URL form, Gemini in the standard one
                part["thoughtSignature"] = part["thoughtSignature"].translate(str.maketrans("-_", "+/"))
    return said


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the SDK's HTTP client when there is no response; GOOGLE_GENAI_HTTP_CLIENT chooses the client."""
    return tuple(sys.modules[name].TransportError for name in ("httpx2", "httpx") if name in sys.modules)
