"""`gemini:MODEL`: Google's Gemini models through google-genai, which is imported by the first request.

`ask` sends one request (the SDK's retries, continuation and function calls are off), ends within `timeout` whatever the endpoint
does, and never delays KeyboardInterrupt. The key goes into one header to one host: redirects are not followed, and it is removed from
every message. Responses are streamed, which shows progress.

The wire format is the second half, which is pure: a request to its body, chunks to a response, a refusal to an error. A model's turn
is sent back unchanged, with the thought signatures at their parts. Errors are distinguished by status codes and typed details, never
by a message's text. Bodies use the documented camelCase names.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from runner.engines import (
    Call,
    ContextTooLongError,
    EngineError,
    Json,
    KeyMissingError,
    KeyRefusedError,
    MalformedResponseError,
    ModelTurn,
    NetworkError,
    OverloadedError,
    QuotaError,
    RateLimitError,
    Request,
    RequestRefusedError,
    Response,
    ToolTurn,
    Turn,
    Usage,
    UserTurn,
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
            raise UsageError(
                f"`{model}` is not the name of a model", f"engine gemini:{model}", "write it as `gemini:MODEL`"
            )
        self.provider, self.model, self.name = PROVIDER, model, f"{PROVIDER}:{model}"
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
        arriving = line.ask(self.model, body(request), timeout)
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
                    for text in texts(chunk):
                        on_text(text)
        finally:
            if not ended:  # out of time, interrupted, or `on_text` raised: nobody waits for the rest
                line.cut()
                self._line = None
        if item is not None:
            raise self._told(item) from item
        return response(joined(chunks), request, self._where)

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
            return refusal(error.code, error.details, headers, words, self.model, self._where, self._variable)
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


# --- the wire format --------------------------------------------------------------------------------------------------

PROVIDER: Final = "gemini"

# What a reason of Gemini's means here. One that is not listed (OTHER, or newer than this table) is `malformed`: nobody can
# say that the answer is complete, and asking again is what helps most often.
_FINISH: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "refused",
    "RECITATION": "refused",
    "LANGUAGE": "refused",
    "BLOCKLIST": "refused",
    "PROHIBITED_CONTENT": "refused",
    "SPII": "refused",
    "IMAGE_SAFETY": "refused",
    "IMAGE_PROHIBITED_CONTENT": "refused",
    "IMAGE_RECITATION": "refused",
    "ESCALATION": "refused",
    "PUP_LIMITED_DISABLED": "refused",
    "MODEL_ARMOR": "refused",
}

_MOST_TOKENS: Final = 10**9  # of one answer; budgets could not be kept by a count that is none

# Google's documented stand-in (base64 of `skip_thought_signature_validator`) for the signature of a call that another
# model made: without one, Gemini refuses a conversation that another model started.
_NO_SIGNATURE: Final = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="


def body(request: Request) -> dict[str, Json]:
    """Return the body of a `generateContent` request."""
    generation: dict[str, Json] = {"maxOutputTokens": request.max_output, "thinkingConfig": {"includeThoughts": True}}
    if request.schema is not None:
        generation |= {"responseMimeType": "application/json", "responseJsonSchema": request.schema}
    said: dict[str, Json] = {"contents": _contents(request.turns), "generationConfig": generation}
    if request.system:
        said["systemInstruction"] = {"parts": [{"text": request.system}]}
    if request.tools:
        declared = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
            for tool in request.tools
        ]
        said["tools"] = [{"functionDeclarations": declared}]
    return said


def _contents(turns: Iterable[Turn]) -> list[Json]:
    contents: list[Json] = []
    named: frozenset[str] = frozenset()  # the ids that the last model turn's calls have on Gemini's side, too
    for turn in turns:
        match turn:
            case UserTurn():
                contents.append({"role": "user", "parts": [{"text": turn.text}]})
            case ModelTurn():
                content = turn.raw if turn.provider == PROVIDER and turn.raw else _foreign(turn)
                named = frozenset(
                    part["functionCall"]["id"] for part in content["parts"] if part.get("functionCall", {}).get("id")
                )
                if content["parts"]:  # a content without parts is refused
                    contents.append(content)
            case ToolTurn():
                contents.append(
                    {"role": "user", "parts": [_result(turn, at, named) for at in range(len(turn.results))]}
                )
    return contents


def _result(turn: ToolTurn, at: int, named: frozenset[str]) -> Json:
    result = turn.results[at]
    response = {"error" if result.is_error else "output": result.content}
    said = {"name": result.name, "response": response}
    return {"functionResponse": {"id": result.id, **said} if result.id in named else said}


def _foreign(turn: ModelTurn) -> Json:
    """Return a turn that another provider's model made, in Gemini's form."""
    parts: list[Json] = [{"text": turn.text}] if turn.text else []
    for number, call in enumerate(turn.calls):
        part: dict[str, Json] = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments or {}}}
        if number == 0:
            part["thoughtSignature"] = _NO_SIGNATURE
        parts.append(part)
    return {"role": "model", "parts": parts}


def texts(chunk: Json) -> list[str]:
    """Return the pieces of the answer's text in a chunk, thoughts left out."""
    return [part["text"] for part in _parts(chunk) if "text" in part and not part.get("thought")]


def joined(chunks: Sequence[Json]) -> Json:
    """Return the chunks of a stream as the one response that they are the pieces of.

    Neighbouring texts become one part; a part that carries anything more, as a signature, stays as it is.
    """
    whole: dict[str, Json] = {}
    candidate: dict[str, Json] = {}
    parts: list[Json] = []
    for chunk in chunks:
        whole |= chunk
        for found in chunk.get("candidates", [])[:1]:
            candidate |= found
        for part in _parts(chunk):
            last = parts[-1] if parts else {}
            if "text" in part and part.keys() == last.keys() <= {"text", "thought"}:
                parts[-1] = {**part, "text": last["text"] + part["text"]}
            elif part:  # a part of a kind that the SDK does not know is left empty by it, and would be refused
                parts.append(part)
    if candidate:
        whole["candidates"] = [{**candidate, "content": {"role": "model", "parts": parts}}]
    return whole


def _parts(chunk: Json) -> list[Json]:
    for candidate in chunk.get("candidates", [])[:1]:
        return list(candidate.get("content", {}).get("parts", []))
    return []


def response(whole: Json, request: Request, where: str) -> Response:
    """Return a joined response as a `Response` to `request`.

    Raises:
        NetworkError: the answer stops before it says that it is finished.
        MalformedResponseError: it is no answer.
    """
    blocked = whole.get("promptFeedback", {}).get("blockReason")
    candidate: Json = next(iter(whole.get("candidates", [])), {})
    content = candidate.get("content", {"role": "model", "parts": []})
    reason = candidate.get("finishReason")
    if reason is None and blocked is None:
        if candidate:
            raise NetworkError("the answer was cut off in the middle", where, "run the same command again")
        raise MalformedResponseError("the answer has no candidate", where, "run the same command again")
    finish = "refused" if blocked is not None else _FINISH.get(str(reason), "malformed")
    problem = ""
    if finish in ("refused", "malformed"):
        problem = ": ".join(str(word) for word in (blocked or reason, candidate.get("finishMessage")) if word)
    counted = whole.get("usageMetadata", {})

    def count(*names: str) -> int:
        found = [counted.get(name) or 0 for name in names]
        if not all(0 <= one <= _MOST_TOKENS for one in found):
            raise MalformedResponseError("its tokens are counted wrongly", where, "run the same command again")
        return sum(found)

    parts = content["parts"]
    return Response(
        turn=ModelTurn(text="".join(texts(whole)), calls=_calls(parts, request), provider=PROVIDER, raw=content),
        thoughts="".join(part["text"] for part in parts if "text" in part and part.get("thought")),
        usage=Usage(
            input=count("promptTokenCount", "toolUsePromptTokenCount"),
            output=count("candidatesTokenCount", "thoughtsTokenCount"),
            cached=count("cachedContentTokenCount"),
        ),
        finish=finish,
        problem=problem,
        model=str(whole.get("modelVersion", "")),
        raw=whole,
    )


def _calls(parts: Iterable[Json], request: Request) -> tuple[Call, ...]:
    """Return the calls of a turn. One that came without an id is numbered, on from the calls that `request` holds."""
    taken = {call.id for turn in request.turns if isinstance(turn, ModelTurn) for call in turn.calls}
    number, calls = len(taken), []
    for part in parts:
        if "functionCall" not in part:
            continue
        said = part["functionCall"]
        name, id = said.get("name") or "", said.get("id") or ""
        while not id or (id in taken and not said.get("id")):
            number += 1
            id = f"c{number}" if f"c{number}" not in taken else ""
        taken.add(id)
        if name:
            calls.append(Call(id=id, name=name, arguments=said.get("args") or {}))
        else:
            calls.append(Call(id=id, name="", arguments=None, problem="the call does not name a function"))
    return tuple(calls)


def refusal(
    code: int | None, details: Json, headers: Mapping[str, str], words: str, model: str, where: str, variable: str
) -> EngineError:
    """Return what an error response means; `details` is its JSON, `words` its message as people may read it.

    `variable`: the one that the key was taken from.
    """
    typed = _typed(details)
    said = f": {words}" if words else ""
    if code in (401, 403) or any(detail.get("reason") == "API_KEY_INVALID" for detail in typed):
        return KeyRefusedError(
            f"Gemini refuses the API key, or what it may do ({code}){said}",
            where,
            f"set {variable} to a key that is valid",
        )
    if code == 429:
        if _used_up(typed):
            hint = "wait for the next day, raise the quota, or use another engine with --engine"
            return QuotaError(f"the quota of the Gemini account is used up (429){said}", where, hint)
        wait = _wait(typed, headers)
        hint = "wait a little" if wait is None else f"wait {wait:g} seconds"
        return RateLimitError(f"Gemini takes no more requests for now (429){said}", where, hint, retry_after=wait)
    if code == 404:
        hint = "check the model's name, and GOOGLE_GEMINI_BASE_URL if it is set"
        return RequestRefusedError(f"Gemini has no model `{model}` (404){said}", where, hint)
    if code == 413:
        return ContextTooLongError(
            f"the conversation is longer than {model} takes (413){said}",
            where,
            "give the step less to read, or split it",
        )
    if code == 408:
        return NetworkError(f"the request did not arrive in time (408){said}", where, "run the same command again")
    if code is not None and 500 <= code < 600:
        return OverloadedError(
            f"Gemini reports a server error ({code}){said}", where, "run the same command again later"
        )
    if code is not None and 300 <= code < 400:
        hint = "set GOOGLE_GEMINI_BASE_URL to where the endpoint is"
        return RequestRefusedError(f"the endpoint redirects elsewhere ({code}); the key is not sent there", where, hint)
    if code is not None and 400 <= code < 500:
        hint = "check the model's name and what the step gives it"
        return RequestRefusedError(f"Gemini calls the request invalid ({code}){said}", where, hint)
    return MalformedResponseError(
        f"the response is not Gemini's format ({code}){said}", where, "run the same command again"
    )


def _typed(details: Json) -> list[Json]:
    """Return the typed details of an error (`google.rpc.ErrorInfo` and its like), whatever else the body is."""
    error = details.get("error", details) if isinstance(details, dict) else None
    found = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in found if isinstance(detail, dict)] if isinstance(found, list) else []


def _used_up(typed: Iterable[Json]) -> bool:
    """Return whether waiting a little cannot help: a quota of a whole day is used up, or there is none (a quota of 0)."""
    violations = [v for d in typed for v in d.get("violations") or [] if isinstance(v, dict)]
    return any("PerDay" in str(v.get("quotaId", "")) or str(v.get("quotaValue", "")) == "0" for v in violations)


def _wait(typed: Iterable[Json], headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a 429 asks to wait: `Retry-After` (RFC 9110 §10.2.3), or `google.rpc.RetryInfo`."""
    asked = headers.get("retry-after", "")
    if (seconds := _seconds(asked)) is not None:
        return seconds
    try:  # a date is counted from the server's own clock
        return max(0.0, (parsedate_to_datetime(asked) - parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    except (ValueError, TypeError):
        pass
    delays = [str(detail.get("retryDelay", "")) for detail in typed]
    return next((found for delay in delays if (found := _seconds(delay.removesuffix("s"))) is not None), None)


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else None
