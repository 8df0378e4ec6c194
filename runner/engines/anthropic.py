"""`anthropic:MODEL`: the wire format of Anthropic's messages, over anthropic.

The blocks of a model's turn, its thinking with the signatures among them, go back as they came. The system, the tools and the last
turn are marked for the cache, so that a request pays in full for its new part alone.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from runner.engines import Json, ModelTurn, Request, Response, ToolTurn, Usage, UserTurn, picture_of, sees
from runner.engines.line import JSON, Form, Hooks, Send, TornError, as_text, called, count, written

_MARK: Final = {"cache_control": {"type": "ephemeral"}}
_FINISH: Final = {
    "end_turn": "stop",
    "tool_use": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
# Models that think without being asked to, or within a budget; all newer ones decide themselves, and refuse a budget.
_NO_THINKING: Final = re.compile(r"claude-(v|2|instant|3-(haiku|sonnet|opus|5))")
_BUDGET: Final = re.compile(r"claude-(3-7|(opus|sonnet|haiku)-4(-[015])?(-\d{8}|$))")
_MOST_THINKING: Final = 8_192


def body(request: Request, model: str, provider: str) -> dict[str, Json]:
    """Return the body of a request for a message."""
    said: dict[str, Json] = {
        "model": model,
        "max_tokens": request.max_output,
        "messages": _messages(request, provider, sees(request, model)),
        "stream": True,
        **_thinking(model, request),
    }
    if request.temperature is not None:
        said["temperature"] = request.temperature
    if request.system:
        said["system"] = [{"type": "text", "text": request.system, **_MARK}]
    if request.tools:
        said["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in request.tools
        ]
        said["tools"][-1] |= _MARK
    output: dict[str, Json] = {"effort": request.thinking} if isinstance(request.thinking, str) else {}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": request.schema}
    if output:
        said["output_config"] = output
    return said


def _thinking(model: str, request: Request) -> Json:
    most = request.max_output
    if isinstance(request.thinking, int):  # less than 1,024 is refused, and so is as much as the whole output
        budget = min(request.thinking, most - 1)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= 1_024 else {}
    if _NO_THINKING.match(model):
        return {}
    if not _BUDGET.match(model):
        return {"thinking": {"type": "adaptive", "display": "summarized"}}
    budget = min(_MOST_THINKING, most // 2)  # of the output; less than 1,024 is refused
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= 1_024 else {}


def _messages(request: Request, provider: str, can_see: bool) -> list[Json]:
    messages: list[Json] = []
    for turn in request.turns:
        match turn:
            case UserTurn():
                role, blocks = "user", [{"type": "text", "text": turn.text}]
            case ModelTurn():
                role = "assistant"
                blocks = list(turn.raw if turn.provider == provider and turn.raw else _foreign(turn))
            case ToolTurn():
                role, blocks = "user", [_result(turn, at, can_see) for at in range(len(turn.results))]
        blocks = [block for block in blocks if block.get("type") != "text" or block["text"].strip()]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:  # a message without blocks is refused, as is a text without letters
            messages.append({"role": role, "content": blocks})
    if messages and messages[-1]["role"] == "user":
        last = messages[-1]["content"]
        last[-1] = {**last[-1], **_MARK}
    return messages


def _result(turn: ToolTurn, at: int, can_see: bool) -> Json:
    result = turn.results[at]
    said: Json = {"type": "tool_result", "tool_use_id": result.id, "content": as_text(result.content)}
    if can_see and (picture := picture_of(result.content)):
        source = {"type": "base64", "media_type": picture[0], "data": picture[1]}
        said["content"] = [{"type": "text", "text": said["content"]}, {"type": "image", "source": source}]
    return {**said, "is_error": True} if result.is_error else said


def _foreign(turn: ModelTurn) -> Iterator[Json]:
    """Yield the blocks of a turn that another provider's model made."""
    if turn.text:
        yield {"type": "text", "text": turn.text}
    for call in turn.calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name or "unknown", "input": call.arguments or {}}


def response(events: Sequence[Json], request: Request, provider: str) -> Response:
    """Return the events of a stream as a `Response` to `request`.

    Raises:
        TornError: the answer stops before it says that it is finished.
        ValueError: it is no answer.
    """
    whole, inputs = _joined(events)
    reason = whole.get("stop_reason")
    if reason is None:
        raise TornError("no stop_reason")
    blocks = whole["content"]
    calls = tuple(
        called(block["id"], block.get("name"), inputs.get(at, block.get("input")))
        for at, block in enumerate(blocks)
        if block.get("type") == "tool_use"
    )
    finish = _FINISH.get(str(reason), "malformed")
    detail = (whole.get("stop_details") or {}).get("explanation")
    usage = whole.get("usage") or {}
    return Response(
        turn=ModelTurn(
            text="".join(block["text"] for block in blocks if block.get("type") == "text"),
            calls=calls,
            provider=provider,
            raw=blocks,
        ),
        thoughts="".join(block.get("thinking", "") for block in blocks if block.get("type") == "thinking"),
        usage=Usage(
            input=count(usage, "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
            output=count(usage, "output_tokens"),
            cached=count(usage, "cache_read_input_tokens"),
            cache_write=count(usage, "cache_creation_input_tokens"),
        ),
        finish=finish,
        problem=": ".join(filter(None, (str(reason), detail))) if finish in ("refused", "malformed") else "",
        model=str(whole.get("model", "")),
        raw=whole,
    )


def _joined(events: Sequence[Json]) -> tuple[Json, dict[int, str]]:
    """Return the message that the events are the pieces of, and the arguments of its calls as they came, by the calls' places."""
    whole: dict[str, Json] = {}
    blocks: dict[int, Json] = {}
    texts: dict[int, str] = {}
    for event in events:
        match event.get("type"):
            case "message":  # it was not streamed
                return event, {}
            case "message_start":
                whole = dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                for name, value in delta.items():
                    if name == "partial_json":
                        texts[event["index"]] = texts.get(event["index"], "") + value
                    elif name != "type" and isinstance(value, str):
                        block[name] = block.get(name, "") + value
                    elif name == "citation":
                        block["citations"] = [*(block.get("citations") or []), value]
            case "message_delta":
                whole = {**whole, **event["delta"]}
                whole["usage"] = {**(whole.get("usage") or {}), **_counted(event.get("usage") or {})}
    if not whole:
        raise ValueError("the answer has no message")
    order = sorted(blocks)
    for at, text in texts.items():
        try:
            said = json.loads(text or "{}")
        except (ValueError, RecursionError):
            said = {}
        blocks[at]["input"] = said if isinstance(said, dict) else {}  # the API takes nothing but an object back
    inputs = {order.index(at): text for at, text in texts.items() if text}
    return {**whole, "content": [blocks[at] for at in order]}, inputs


def _counted(usage: Json) -> Json:
    return {name: value for name, value in usage.items() if value is not None}


def _failed(event: Json) -> tuple[int, Json] | None:
    if event.get("type") != "error":
        return None
    return _STATUS.get(str((event.get("error") or {}).get("type")), 500), event


def _kind(error: Json) -> str:
    inner = error.get("error") if isinstance(error, dict) else None
    found = inner.get("type") if isinstance(inner, dict) else None
    return {"billing_error": "quota", "request_too_large": "long", "authentication_error": "key"}.get(str(found), "")


def _connect(key: str, base_url: str, hooks: Hooks) -> tuple[Send, Callable[[], None]]:
    anthropic: Any = importlib.import_module("anthropic")
    http = anthropic.DefaultHttpxClient(follow_redirects=False, event_hooks=hooks)
    client = anthropic.Anthropic(api_key=key, base_url=base_url, max_retries=0, http_client=http)

    def send(model: str, body: Json, timeout: float) -> None:
        client.post("/v1/messages", content=written(body), cast_to=object, options={**JSON, "timeout": timeout})

    return send, client.close


FORM: Final = Form(
    body=body,
    response=response,
    failed=_failed,
    kind=_kind,
    connect=_connect,
    headers=lambda key: {"x-api-key": key},
)
