"""OpenAI's chat completions, over openai: the wire format of `compatible:`, and of every row that speaks it.

Servers differ, so what a model said is put together from whatever fields its pieces have, and its message goes back with those that a
server asks for again: reasoning, and every field of a call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from runner.engines import Call, Json, ModelTurn, Request, Response, ToolTurn, Usage, UserTurn, picture_of, sees
from runner.engines.line import JSON, Connect, Form, Hooks, Send, TornError, as_text, called, count, numbered, written

# `function_call` is the older name of `tool_calls`. A reason that is not listed is `malformed`: perhaps the answer is not whole.
_FINISH: Final = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "content_filter": "refused",
}
# Fields of a message that go back beside its text and calls: DeepSeek's and vLLM's, and OpenRouter's.
_CARRIED: Final = ("reasoning_content", "reasoning_details")
_WHOLE: Final = ("id", "type", "role", "name")  # come at once, by some servers with every piece
# Of an error that came as an event; another one is the server's own.
STATUS: Final = {
    **{"rate_limit_exceeded": 429, "insufficient_quota": 429, "invalid_api_key": 401},
    **{"invalid_prompt": 400, "context_length_exceeded": 400},
}


def body(request: Request, model: str, provider: str) -> dict[str, Json]:
    """Return the body of a request for chat completions."""
    said: dict[str, Json] = {
        "model": model,
        "messages": list(_messages(request, provider, sees(request, model))),
        "stream": True,
        "stream_options": {"include_usage": True},
        # OpenAI's own models take the newer name alone.
        ("max_completion_tokens" if provider == "azure" else "max_tokens"): request.max_output,
    }
    if isinstance(request.thinking, str):
        said["reasoning_effort"] = request.thinking
    if request.temperature is not None:
        said["temperature"] = request.temperature
    if request.tools:
        said["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        schema = {"name": "answer", "schema": request.schema}
        said["response_format"] = {"type": "json_schema", "json_schema": schema}
    return said


def _messages(request: Request, provider: str, can_see: bool) -> Iterator[Json]:
    if request.system:
        yield {"role": "system", "content": request.system}
    for turn in request.turns:
        match turn:
            case UserTurn():
                yield {"role": "user", "content": turn.text}
            case ModelTurn():
                message = turn.raw if turn.provider == provider and turn.raw else _foreign(turn)
                if message.get("content") or message.get("tool_calls"):  # an empty message is refused
                    yield message
            case ToolTurn():
                for result in turn.results:
                    text = as_text(result.content)
                    yield {
                        "role": "tool",
                        "tool_call_id": result.id,
                        "content": f"error: {text}" if result.is_error else text,
                    }
                pictures = [picture_of(one.content) for one in turn.results] if can_see else []
                shown = [
                    {"type": "image_url", "image_url": {"url": f"data:{one[0]};base64,{one[1]}"}}
                    for one in pictures
                    if one
                ]
                if shown:  # a tool's message takes text alone
                    yield {"role": "user", "content": shown}


def _foreign(turn: ModelTurn) -> Json:
    """Return a turn that another provider's model made."""
    calls = [_call(call.id, call.name, call.arguments) for call in turn.calls]
    return {"role": "assistant", "content": turn.text or None, **({"tool_calls": calls} if calls else {})}


def _call(id: str, name: str, arguments: Json) -> Json:
    return {
        "id": id,
        "type": "function",
        "function": {"name": name or "unknown", "arguments": as_text(arguments or {})},
    }


def _deltas(event: Json) -> Iterator[tuple[Json, Json]]:
    """Yield the first choice of an event and what it adds; an answer that was not streamed is one that adds all."""
    for choice in (event.get("choices") or [])[:1]:
        yield choice, choice.get("delta") or choice.get("message") or {}


def response(events: Sequence[Json], request: Request, provider: str) -> Response:
    """Return the chunks of a stream as a `Response` to `request`.

    Raises:
        TornError: the answer stops before it says that it is finished.
        ValueError: it is no answer.
    """
    message: dict[str, Json] = {}
    calls: dict[Json, Json] = {}
    whole: dict[str, Json] = {}
    reason = None
    for event in events:
        whole |= {name: value for name, value in event.items() if value is not None and name != "choices"}
        for choice, delta in _deltas(event):
            reason = choice.get("finish_reason") or reason
            for call in delta.get("tool_calls") or []:
                # Some servers number every call 0, and tell them apart by their ids.
                at = call.get("index", len(calls))
                if call.get("id") and calls.get(at, call).get("id") not in (None, call["id"]):
                    at = (at, call["id"])
                _join(calls.setdefault(at, {}), call)
            _join(message, {name: value for name, value in delta.items() if name != "tool_calls"})
    if not any(event.get("choices") for event in events):
        raise ValueError("the answer has no choice")
    if reason is None:
        raise TornError("no finish_reason")
    made = _calls(list(calls.values()), request)
    finish = _FINISH.get(str(reason), "malformed")
    text, refusal = message.get("content") or "", message.get("refusal")
    if refusal:
        finish = "refused"
    raw = {
        "role": "assistant",
        "content": text or None,
        **{name: message[name] for name in _CARRIED if message.get(name)},
        **({"tool_calls": [call for _, call in made]} if made else {}),
    }
    usage = whole.get("usage") or {}
    cached = count(usage.get("prompt_tokens_details"), "cached_tokens") or count(usage, "prompt_cache_hit_tokens")
    whole["choices"] = [{"message": {**message, **raw}, "finish_reason": reason}]
    return Response(
        turn=ModelTurn(text=text, calls=tuple(call for call, _ in made), provider=provider, raw=raw),
        thoughts=message.get("reasoning_content") or message.get("reasoning") or "",
        usage=Usage(
            input=count(usage, "prompt_tokens"),
            output=count(usage, "completion_tokens"),
            cached=cached,
            cache_write=count(usage.get("prompt_tokens_details"), "cache_write_tokens"),
        ),
        finish=finish,
        problem=str(refusal or reason) if finish in ("refused", "malformed") else "",
        model=str(whole.get("model", "")),
        raw=whole,
    )


def _join(whole: dict[str, Json], piece: dict[str, Json]) -> None:
    """Add a piece of a message to it: texts and lists grow, objects are joined, all else is replaced."""
    for name, value in piece.items():
        there: Any = whole.get(name)
        grows = type(there) is type(value) and isinstance(value, (list, str)) and name not in _WHOLE
        if isinstance(there, dict) and isinstance(value, dict):
            _join(there, value)
        elif grows:
            whole[name] = there + value
        elif value is not None:
            whole[name] = dict(value) if isinstance(value, dict) else value


def _calls(said: list[Json], request: Request) -> list[tuple[Call, Json]]:
    """Return the calls, each with its form in the message that goes back."""
    made = []
    for id, one in zip(numbered([one.get("id") or "" for one in said], request), said, strict=True):
        function = one.get("function") or {}
        call = called(id, function.get("name"), function.get("arguments") or "")
        back = {name: value for name, value in one.items() if name != "index"}
        if call.arguments is None:  # many servers parse what goes back, and fail at what is no JSON
            function = {**function, "name": call.name or "unknown", "arguments": "{}"}
        made.append((call, {**back, "id": id, "type": "function", "function": {"arguments": "{}", **function}}))
    return made


def failed(event: Json) -> tuple[int, Json] | None:
    """Return the status and JSON of an error that came as an event."""
    error = event.get("error")
    if not error:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else STATUS.get(str(code), 500), event


def kind(error: Json) -> str:
    """Return what an error's JSON says that its status does not."""
    inner = error.get("error", error) if isinstance(error, dict) else None
    code = inner.get("code") if isinstance(inner, dict) else None
    return {"insufficient_quota": "quota", "context_length_exceeded": "long", "invalid_api_key": "key"}.get(
        str(code), ""
    )


def connect(path: str, *, is_openai: bool = False) -> Connect:
    """Return what opens OpenAI's SDK for requests to `path`. `is_openai`: what the process's environment says for OpenAI (its
    organization, project and further headers, which may hold a key) is sent along."""

    def opened(key: str, base_url: str, hooks: Hooks) -> tuple[Send, Callable[[], None]]:
        openai: Any = importlib.import_module("openai")
        http = openai.DefaultHttpxClient(follow_redirects=False, event_hooks=hooks)
        # A server that needs no key gets a word in its place: without one the SDK looks into the process's environment.
        client = openai.OpenAI(api_key=key or "none", base_url=base_url, max_retries=0, http_client=http)
        if not is_openai:
            client.organization = client.project = None
            client._custom_headers = {}

        def send(model: str, body: Json, timeout: float) -> None:
            client.post(path, content=written(body), cast_to=object, options={**JSON, "timeout": timeout})

        return send, client.close

    return opened


FORM: Final = Form(body=body, response=response, failed=failed, kind=kind, connect=connect("/chat/completions"))
