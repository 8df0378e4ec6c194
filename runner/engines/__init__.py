"""The interface of an engine: one request in, one response out, and one error class per cause. `registry` has the engines.

An engine turns a conversation into the model's next turn. It has no state: the conversation is in the request, and data that a
provider must get back verbatim (thought signatures) is in `ModelTurn.raw`. The caller retries, keeps budgets and the journal, and
calls tools. Nothing here knows about protocols, steps or policy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Protocol

from runner.errors import ExitCode, RunnerError

Json = Any
MOST_OUTPUT = 16_384  # tokens of an answer, where nothing else is set


class EngineError(RunnerError):
    """The model did not answer, or the request was refused. Nothing is recorded, nothing is lost."""

    exit_code = ExitCode.UNREACHABLE
    retryable: ClassVar[bool] = False


class KeyMissingError(EngineError):
    """No key is set for the provider, or its package is not installed."""

    exit_code = ExitCode.USAGE


class KeyRefusedError(EngineError):
    """The provider refuses the key, or the key lacks a permission."""


class QuotaError(EngineError):
    """The account's quota is used up; waiting does not help."""


class RateLimitError(EngineError):
    """Too many requests; `retry_after`: seconds that the provider asks to wait, or None."""

    retryable = True

    def __init__(self, what: str, where: str, hint: str, *, retry_after: float | None = None) -> None:
        super().__init__(what, where, hint)
        self.retry_after = retry_after


class OverloadedError(EngineError):
    """The provider failed (5xx)."""

    retryable = True


class NetworkError(EngineError):
    """No response: no connection, an interrupted one, or a timeout."""

    retryable = True


class NotStartedError(NetworkError):
    """No server listens at an address of this machine; waiting does not start it."""

    retryable = False


class UnknownHostError(NetworkError):
    """No machine has the name; waiting does not change it. A resolver that does not answer is a `NetworkError`."""

    retryable = False


class MalformedResponseError(EngineError):
    """The response is not in the provider's format."""

    retryable = True


class WebPageError(MalformedResponseError):
    """The response is a web page: the address is not an endpoint's, or a proxy or network wants a login."""

    retryable = False


class ContextTooLongError(EngineError):
    """The conversation is longer than the model takes."""


class RequestRefusedError(EngineError):
    """The provider calls the request invalid; `what` quotes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it. `parameters`: a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call that a model asks for. `arguments` is None where they are malformed, and `problem` says how."""

    id: str
    name: str
    arguments: dict[str, Json] | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one response. `output` includes thoughts; `cached` (read from a cache) and `cache_write` are parts of `input`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: tokens + getattr(other, name) for name, tokens in asdict(self).items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTurn:
    """Text for the model."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTurn:
    """What the model said. `raw`: the provider's own form, sent back verbatim to the same `provider`."""

    text: str
    calls: tuple[Call, ...]
    provider: str = ""
    raw: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The result of a call, as the model is given it."""

    id: str
    name: str
    content: Json
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTurn:
    """The results of a model turn's calls, in their order."""

    results: tuple[ToolResult, ...]


Turn = UserTurn | ModelTurn | ToolTurn


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a model. `schema`: a JSON schema that the text of the answer shall fit, instead of tools.

    `thinking`: a number of tokens, or `low`, `medium` or `high`; None, as `temperature`: the provider's default. `images`: whether
    the model can see; None: by its name.
    """

    system: str
    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_output: int = MOST_OUTPUT
    schema: Mapping[str, Json] | None = None
    thinking: int | str | None = None
    temperature: float | None = None
    images: bool | None = None

    def plain(self) -> Json:
        """Return the request as JSON, without what belongs to one provider."""
        return {
            "system": self.system,
            "turns": [_plain_turn(turn) for turn in self.turns],
            "tools": [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in self.tools],
            "max_output": self.max_output,
            "schema": self.schema,
        }

    def digest(self) -> str:
        """Return the digest by which a recording finds the request: of its content, with masks for what differs from run to run."""
        return digest_of(self.plain())


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A model's answer. `finish`: stop, length, refused, malformed, or failed, where a coding agent ended.

    `raw`: the provider's whole response, as JSON;
    `problem`: the provider's reason for a `finish` that is refused or malformed; `usd`: the cost of a recorded answer, in US dollars.
    """

    turn: ModelTurn
    thoughts: str = ""
    usage: Usage = field(default_factory=Usage)
    finish: str = "stop"
    problem: str = ""
    model: str = ""
    raw: Json = None
    usd: Decimal | None = None


class Engine(Protocol):
    """One model of one provider. `name` is what people write: `openai:gpt-6.1-terra`."""

    @property
    def name(self) -> str:
        """What people write for it."""

    @property
    def provider(self) -> str:
        """Whose it is; the part of the name before the colon."""

    @property
    def model(self) -> str:
        """The model's own name, by which prices are known."""

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Return the model's next turn.

        `on_bytes` is called with each piece of the response before it is parsed (an answer without an endpoint has none).
        KeyboardInterrupt ends the request within two seconds.

        Raises:
            EngineError: one of its children says why there is no answer.
        """

    def close(self) -> None:
        """Let go of connections."""


# Durations, addresses and process numbers: the same command says others each time, and means the same.
_VOLATILE = re.compile(
    r"\b\d+(?:\.\d+)?\s?(?:s|ms|us|µs|sec|secs|seconds)\b|0x[0-9a-f]{6,16}|(?<=pid[ =:])\d+|/tmp/[A-Za-z0-9_.-]+"
)


def digest_of(plain: Json) -> str:
    """Return the digest of a request that is given as `Request.plain()` gives it."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True)
    return "sha256:" + hashlib.sha256(masked(text).encode()).hexdigest()


def masked(text: str) -> str:
    """Return `text` with what differs from run to run replaced, for comparing requests, and for one that shall be found again."""
    return _VOLATILE.sub("~", text)


IMAGE_TOKENS = 1_600  # that a picture costs, about
# Models that take pictures in the results of tools; of others, engine settings say so.
_SEES = re.compile(
    r"(?:.*[/.])?(?:gemini-|claude-(?!2|instant)|gpt-(?:4o|4\.1|[5-9])|o[34](?!-mini-high))", re.IGNORECASE
)


def sees(request: Request, model: str) -> bool:
    """Return whether a model is given pictures."""
    return request.images if request.images is not None else _SEES.match(model) is not None


def picture_of(content: Json) -> tuple[str, str] | None:
    """Return the kind of a result's picture and its bytes in base64, or None."""
    found = content.get("image") if isinstance(content, dict) else None
    kind, separator, data = found.partition(";base64,") if isinstance(found, str) else ("", "", "")
    return (kind, data) if separator else None


def without_picture(content: Json) -> Json:
    """Return a result without its picture."""
    return {key: value for key, value in content.items() if key != "image"} if picture_of(content) else content


def _plain_turn(turn: Turn) -> Json:
    match turn:
        case UserTurn():
            return {"user": turn.text}
        case ModelTurn():
            return {"model": turn.text, "calls": [asdict(call) for call in turn.calls]}
        case ToolTurn():
            return {
                "results": [
                    {"id": r.id, "name": r.name, "content": r.content, "error": r.is_error} for r in turn.results
                ]
            }
