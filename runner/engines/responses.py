"""OpenAI's Responses, over openai: the wire format of `openai:`.

Nothing is stored at the provider (`store: false`): the items of a model's turn, its encrypted reasoning among them, go back as they
came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from runner.engines import Json, ModelTurn, Request, Response, ToolTurn, Usage, UserTurn, picture_of, sees
from runner.engines.chat import STATUS, connect, kind
from runner.engines.line import Form, TornError, as_text, called, count, numbered

_ENCRYPTED: Final = "reasoning.encrypted_content"
_WITHOUT_REASONING: Final = re.compile(r"gpt-[34]|chatgpt|.*-chat-latest")  # these refuse to be asked for it


def body(request: Request, model: str, provider: str) -> dict[str, Json]:
    """Return the body of a request for a response."""
    said: dict[str, Json] = {
        "model": model,
        "input": list(_items(request, provider, sees(request, model))),
        "stream": True,
        "store": False,
        "max_output_tokens": request.max_output,
    }
    if not _WITHOUT_REASONING.match(model):
        said["include"] = [_ENCRYPTED]
    if isinstance(request.thinking, str):
        said["reasoning"] = {"effort": request.thinking}
    if request.temperature is not None:
        said["temperature"] = request.temperature
    if request.system:
        said["instructions"] = request.system
    if request.tools:
        said["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": False,  # a strict schema needs every field, and ours have optional ones
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        said["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": request.schema, "strict": False}}
    return said


def _items(request: Request, provider: str, can_see: bool) -> Iterator[Json]:
    for turn in request.turns:
        match turn:
            case UserTurn():
                yield {"role": "user", "content": turn.text}
            case ModelTurn():
                yield from turn.raw if turn.provider == provider and turn.raw else _foreign(turn)
            case ToolTurn():
                for result in turn.results:
                    text = as_text(result.content)
                    output: Json = f"error: {text}" if result.is_error else text
                    if can_see and (picture := picture_of(result.content)):
                        url = f"data:{picture[0]};base64,{picture[1]}"
                        output = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": url}]
                    yield {"type": "function_call_output", "call_id": result.id, "output": output}


def _foreign(turn: ModelTurn) -> Iterator[Json]:
    """Yield the items of a turn that another provider's model made."""
    if turn.text:
        yield {"role": "assistant", "content": turn.text}
    for call in turn.calls:
        arguments = as_text(call.arguments or {})
        yield {"type": "function_call", "call_id": call.id, "name": call.name or "unknown", "arguments": arguments}


def response(events: Sequence[Json], request: Request, provider: str) -> Response:
    """Return the events of a stream as a `Response` to `request`.

    Raises:
        TornError: the answer stops before it says that it is finished.
        ValueError: it is no answer.
    """
    ends = [event["response"] for event in events if event.get("type") in ("response.completed", "response.incomplete")]
    whole = ends[-1] if ends else next((event for event in events if event.get("object") == "response"), None)
    if whole is None:
        if any(str(event.get("type", "")).startswith("response.") for event in events):
            raise TornError("no response.completed")
        raise ValueError("the answer has no response")
    # The items of the events are whole where those of the last one are not: some servers leave them out there.
    done = [event["item"] for event in events if event.get("type") == "response.output_item.done"]
    items = [_back(item) for item in whole.get("output") or done]
    asked = [item for item in items if item.get("type") == "function_call"]
    ids = numbered([item.get("call_id") or "" for item in asked], request)
    for id, item in zip(ids, asked, strict=True):
        item["call_id"] = id
    calls = tuple(called(item["call_id"], item.get("name"), item.get("arguments") or "") for item in asked)
    for call, item in zip(calls, asked, strict=True):
        if call.arguments is None:  # half an object would be refused
            item["arguments"] = "{}"
    parts = [part for item in items if item.get("type") == "message" for part in item.get("content") or []]
    refusal = "".join(part["refusal"] for part in parts if part.get("type") == "refusal")
    reason = (whole.get("incomplete_details") or {}).get("reason")
    usage = whole.get("usage") or {}
    finish = (
        "refused" if refusal or reason == "content_filter" else "length" if reason == "max_output_tokens" else "stop"
    )
    if finish == "stop" and whole.get("status") not in (None, "completed"):
        finish, reason = "malformed", reason or whole["status"]
    return Response(
        turn=ModelTurn(
            text="".join(part["text"] for part in parts if part.get("type") == "output_text"),
            calls=calls,
            provider=provider,
            raw=items,
        ),
        thoughts="".join(_thoughts(items)),
        usage=Usage(
            input=count(usage, "input_tokens"),
            output=count(usage, "output_tokens"),
            cached=count(usage.get("input_tokens_details"), "cached_tokens"),
            cache_write=count(usage.get("input_tokens_details"), "cache_write_tokens"),
        ),
        finish=finish,
        problem=str(refusal or reason) if finish in ("refused", "malformed") else "",
        model=str(whole.get("model", "")),
        # What the request said already is not repeated in each transcript's record.
        raw={
            **{name: value for name, value in whole.items() if name not in ("instructions", "tools")},
            "output": items,
        },
    )


def _back(item: Json) -> Json:
    """Return an item as the next request takes it: its status is the provider's to set."""
    return {name: value for name, value in item.items() if name != "status"}


def _thoughts(items: Sequence[Json]) -> Iterator[str]:
    for item in items:
        if item.get("type") == "reasoning":
            yield from (part.get("text", "") for part in (item.get("summary") or item.get("content") or []))


def _failed(event: Json) -> tuple[int, Json] | None:
    error = None
    if event.get("type") == "error":
        error = event.get("error") or event
    elif event.get("type") == "response.failed":
        error = (event.get("response") or {}).get("error") or {}
    elif "error" in event and event.get("object") != "response":
        error = event["error"]
    if error is None:
        return None
    return STATUS.get(str(error.get("code")), 500), {"error": error}


FORM: Final = Form(
    body=body, response=response, failed=_failed, kind=kind, connect=connect("/responses", is_openai=True)
)
