"""`gemini:MODEL`: the wire format of Google's Gemini, over google-genai, which is imported by the first request.

A model's turn is sent back unchanged, with the thought signatures at their parts. Bodies use the documented camelCase names.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from runner.engines import (
    Call,
    Json,
    ModelTurn,
    Request,
    Response,
    ToolTurn,
    Turn,
    Usage,
    UserTurn,
    picture_of,
    sees,
    without_picture,
)
from runner.engines.line import Form, Hooks, Send, TornError, called, count, numbered, seconds

_API_VERSION: Final = "v1beta"

# What a reason of Gemini's means here. One that is not listed (OTHER, or newer than this table) is `malformed`: nobody can
# say that the answer is complete, and asking again is what helps most often.
_REFUSED: Final = (
    *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "MODEL_ARMOR"),
    *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED"),
)
_FINISH: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(_REFUSED, "refused"),
}

# Google's documented stand-in (base64 of `skip_thought_signature_validator`) for the signature of a call that another
# model made: without one, Gemini refuses a conversation that another model started.
_NO_SIGNATURE: Final = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="


def body(request: Request, model: str, provider: str) -> dict[str, Json]:
    """Return the body of a `generateContent` request."""
    generation: dict[str, Json] = {"maxOutputTokens": request.max_output, "thinkingConfig": {"includeThoughts": True}}
    if isinstance(request.thinking, int):
        generation["thinkingConfig"]["thinkingBudget"] = request.thinking
    elif request.thinking:
        generation["thinkingConfig"]["thinkingLevel"] = request.thinking.upper()
    if request.temperature is not None:
        generation["temperature"] = request.temperature
    if request.schema is not None:
        generation |= {"responseMimeType": "application/json", "responseJsonSchema": request.schema}
    said: dict[str, Json] = {
        "contents": _contents(request.turns, provider, sees(request, model)),
        "generationConfig": generation,
    }
    if request.system:
        said["systemInstruction"] = {"parts": [{"text": request.system}]}
    if request.tools:
        declared = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
            for tool in request.tools
        ]
        said["tools"] = [{"functionDeclarations": declared}]
    return said


def _contents(turns: Iterable[Turn], provider: str, can_see: bool) -> list[Json]:
    contents: list[Json] = []
    named: frozenset[str] = frozenset()  # the ids that the last model turn's calls have on Gemini's side, too
    for turn in turns:
        match turn:
            case UserTurn():
                contents.append({"role": "user", "parts": [{"text": turn.text}]})
            case ModelTurn():
                content = turn.raw if turn.provider == provider and turn.raw else _foreign(turn)
                named = frozenset(
                    part["functionCall"]["id"] for part in content["parts"] if part.get("functionCall", {}).get("id")
                )
                if content["parts"]:  # a content without parts is refused
                    contents.append(content)
            case ToolTurn():
                parts = [_result(turn, at, named) for at in range(len(turn.results))]
                pictures = [picture_of(one.content) for one in turn.results] if can_see else []
                parts += [{"inlineData": {"mimeType": one[0], "data": one[1]}} for one in pictures if one]
                contents.append({"role": "user", "parts": parts})
    return contents


def _result(turn: ToolTurn, at: int, named: frozenset[str]) -> Json:
    result = turn.results[at]
    response = {"error" if result.is_error else "output": without_picture(result.content)}
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
            elif part:  # an empty one would be refused
                parts.append(part)
    if candidate:
        whole["candidates"] = [{**candidate, "content": {"role": "model", "parts": parts}}]
    return whole


def _parts(chunk: Json) -> list[Json]:
    for candidate in chunk.get("candidates", [])[:1]:
        return list(candidate.get("content", {}).get("parts", []))
    return []


def response(events: Sequence[Json], request: Request, provider: str) -> Response:
    """Return the chunks of a stream as a `Response` to `request`.

    Raises:
        TornError: the answer stops before it says that it is finished.
        ValueError: it is no answer.
    """
    whole = joined(events)
    blocked = whole.get("promptFeedback", {}).get("blockReason")
    candidate: Json = next(iter(whole.get("candidates", [])), {})
    content = candidate.get("content", {"role": "model", "parts": []})
    reason = candidate.get("finishReason")
    if reason is None and blocked is None:
        if candidate:
            raise TornError("no finishReason")
        raise ValueError("the answer has no candidate")
    finish = "refused" if blocked is not None else _FINISH.get(str(reason), "malformed")
    problem = ""
    if finish in ("refused", "malformed"):
        problem = ": ".join(str(word) for word in (blocked or reason, candidate.get("finishMessage")) if word)
    counted, parts = whole.get("usageMetadata", {}), content["parts"]
    return Response(
        turn=ModelTurn(
            text=_text(parts, is_thought=False), calls=_calls(parts, request), provider=provider, raw=content
        ),
        thoughts=_text(parts, is_thought=True),
        usage=Usage(
            input=count(counted, "promptTokenCount", "toolUsePromptTokenCount"),
            output=count(counted, "candidatesTokenCount", "thoughtsTokenCount"),
            cached=count(counted, "cachedContentTokenCount"),
        ),
        finish=finish,
        problem=problem,
        model=str(whole.get("modelVersion", "")),
        raw=whole,
    )


def _text(parts: Iterable[Json], *, is_thought: bool) -> str:
    return "".join(part["text"] for part in parts if "text" in part and bool(part.get("thought")) == is_thought)


def _calls(parts: Iterable[Json], request: Request) -> tuple[Call, ...]:
    said = [part["functionCall"] for part in parts if "functionCall" in part]
    if not all(isinstance(one.get("args") or {}, dict) for one in said):
        raise ValueError("the arguments of a call are no object")
    ids = numbered([one.get("id") or "" for one in said], request)
    return tuple(called(id, one.get("name"), one.get("args") or {}) for id, one in zip(ids, said, strict=True))


def _connect(key: str, base_url: str, hooks: Hooks) -> tuple[Send, Callable[[], None]]:
    # The SDK warns on stderr, through logging and warnings, of harmless things: two keys are set, a finish reason is newer
    # than its tables.
    logging.getLogger("google_genai").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"google\.genai\b")
    genai: Any = importlib.import_module("google.genai")
    types = genai.types
    # Each argument that is left out the SDK would read from the process's environment.
    client = genai.Client(
        api_key=key,
        vertexai=False,
        http_options=types.HttpOptions(
            base_url=base_url,
            api_version=_API_VERSION,
            retry_options=types.HttpRetryOptions(attempts=1),
            client_args={"follow_redirects": False, "event_hooks": hooks},
        ),
    )

    def send(model: str, body: Json, timeout: float) -> None:
        config = types.GenerateContentConfig(
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            automatic_continuation=False,
            http_options=types.HttpOptions(
                timeout=max(1, int(timeout * 1000)),
                extra_body=body,  # as it is: through the SDK's types, signatures and names would be written anew
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )
        list(client.models.generate_content_stream(model=model, contents=" ", config=config))  # `contents`: the body's

    return send, client.close


def _failed(event: Json) -> tuple[int, Json] | None:
    return (event["error"].get("code") or 500, event) if "error" in event else None


def _kind(error: Json) -> str:
    """Return what the typed details of an error say (`google.rpc.ErrorInfo` and its like)."""
    typed = _typed(error)
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in typed):
        return "key"
    # Waiting a little cannot help where the quota of a whole day is used up, or there is none (a quota of 0).
    violations = [v for d in typed for v in d.get("violations") or [] if isinstance(v, dict)]
    if any("PerDay" in str(v.get("quotaId", "")) or str(v.get("quotaValue", "")) == "0" for v in violations):
        return "quota"
    return ""


def _wait(error: Json) -> float | None:
    delays = [str(detail.get("retryDelay", "")).removesuffix("s") for detail in _typed(error)]
    return next((found for delay in delays if (found := seconds(delay)) is not None), None)


def _typed(error: Json) -> list[Json]:
    inner = error.get("error", error) if isinstance(error, dict) else None
    found = inner.get("details") if isinstance(inner, dict) else None
    return [detail for detail in found if isinstance(detail, dict)] if isinstance(found, list) else []


FORM: Final = Form(
    body=body,
    response=response,
    failed=_failed,
    kind=_kind,
    connect=_connect,
    wait=_wait,
    headers=lambda key: {"x-goog-api-key": key},
)
