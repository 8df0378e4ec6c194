"""Gemini's wire format: a request to its body, chunks to a response, a refusal to an error. Pure; `gemini` sends them.

A model's turn is sent back unchanged, with the thought signatures at their parts. Errors are distinguished by status codes and typed
details, never by a message's text. Bodies use the documented camelCase names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final

from runner.engines.base import (
    Call,
    ContextTooLongError,
    EngineError,
    Json,
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
    generation: dict[str, Json] = {
        "maxOutputTokens": request.max_output,
        "thinkingConfig": {"includeThoughts": True},
    }
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
        return RequestRefusedError(f"Gemini knows no model `{model}` (404){said}", where, hint)
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
            f"Gemini has a problem of its own ({code}){said}", where, "run the same command again later"
        )
    if code is not None and 300 <= code < 400:
        hint = "set GOOGLE_GEMINI_BASE_URL to where the endpoint is"
        return RequestRefusedError(
            f"the endpoint wants to be asked elsewhere ({code}); the key is not sent there", where, hint
        )
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
