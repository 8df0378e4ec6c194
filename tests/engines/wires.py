"""Strict local servers of three more wire formats: OpenAI's Responses and chat completions, and Anthropic's messages.

Like Gemini's (`wire_gemini`), each answers only what the real API would take, and a request that it would refuse gets a 400 that says
what is wrong. Beside each, what a model says in a scenario, as that API streams it. Nothing here knows about engines.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.engines.scenarios import Said
from tests.engines.wire_gemini import KEY, Json, Raw, Refusal, Reply, Silence, Wire, known, need


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One provider's format before the conformance suite. `half`: a stream that stops after "Hel"; `errors`: its own faults."""

    engine: str
    address: str
    key: str
    wire: type[Wire]
    below: str = ""
    half: Sequence[Json]
    errors: Mapping[str, Reply] = field(default_factory=dict)

    def environ(self, wire: Wire) -> tuple[str, dict[str, str]]:
        """Return the engine's name and the variables that lead to the server."""
        return self.engine, {self.key: KEY, self.address: wire.url + self.below}

    def answer(self, said: Said, number: int) -> Raw:
        """Return what a model says as this format streams it."""
        stream: Any = self.wire.stream(said, number)  # type: ignore[attr-defined]
        return Raw(data=b"".join(map(event, stream)))

    def signatures(self, body: Json) -> list[bytes]:
        """Return the provider's own tokens that a request sends back, in their order."""
        return [base64.b64decode(one) for one in self.wire.signatures(body) if one]  # type: ignore[attr-defined]

    @property
    def faults(self) -> dict[str, Reply]:
        """The faults that every endpoint can have, and this one's own."""
        half = b"".join(map(event, self.half))
        return {
            **{str(code): Refusal(code=code, body=said("no")) for code in (400, 401, 403, 404, 413, 429, 500, 503)},
            "429-header": Refusal(code=429, body=said(""), headers=[("Retry-After", "7")]),
            "429-date": Refusal(
                code=429,
                body=said(""),
                headers=[("Date", "Fri, 31 Dec 1999 23:59:50 GMT"), ("Retry-After", "Sat, 01 Jan 2000 00:00:02 GMT")],
            ),
            "503-html": Refusal(code=503, body=b"<html>down</html>", headers=[("Content-Type", "text/html")]),
            "redirect": Refusal(code=307, body=b"", headers=[("Location", "/elsewhere")]),
            "html": Raw(data=b"<html>\n<body>Log in to the hotel's network</body>\n</html>", content_type="text/html"),
            "not-utf8": Raw(data=b"\xff\xfe\x00\n\n"),
            "no-object": Raw(data=b"data: [1, 2]\n\n"),
            "empty": Raw(data=b""),
            "cut": Raw(data=half, cut=True),
            "cut-in-a-chunk": Raw(data=half + b'data: {"candi', cut=True),
            "cut-between": Raw(data=half),
            "cut-in-a-last-chunk": Raw(data=half + b'data: {"candi'),
            "silence": Silence(),
            "silence-after-headers": Silence(headers=True),
            "silence-in-the-middle": Silence(data=half),
            "drip": Silence(drip=0.05),
            **self.errors,
        }


def event(said: Json) -> bytes:
    """Return a server-sent event."""
    name = f"event: {said['type']}\n" if "type" in said else ""
    return f"{name}data: {json.dumps(said)}\n\n".encode()


def said(message: str, **more: Json) -> Json:
    """Return the JSON of an error, which these APIs have alike."""
    return {"type": "error", "error": {"message": message, "type": "some_error", **more}}


def tools_are_right(body: Json, at: str, schema: str) -> None:
    """Refuse tools without a name and a schema of an object."""
    for tool in body.get("tools", ()):
        declared = tool.get("function", tool)
        known(declared, {"name", "description", schema, "type", "strict", "cache_control"}, at)
        need(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", declared["name"]), "a tool's name")
        need(declared[schema].get("type") == "object", "a tool's schema is no object's")


class ChatWire(Wire):
    """Chat completions."""

    paths = re.compile(r"/v1/chat/completions")
    header, prefix = "authorization", "Bearer "

    def _check(self, body: Json) -> None:
        top = {"model", "messages", "stream", "stream_options", "max_tokens", "tools", "response_format"}
        known(body, top, "the body")
        need(body["stream"] is True and body["stream_options"] == {"include_usage": True}, "no usage is asked for")
        tools_are_right(body, "a tool", "parameters")
        waiting: list[str] = []
        for message in body["messages"]:
            role = message["role"]
            if role == "tool":
                known(message, {"role", "tool_call_id", "content"}, "a tool's message")
                need(waiting and waiting.pop(0) == message["tool_call_id"], "a result to no call")
                need(isinstance(message["content"], str), "a result that is no text")
                continue
            need(not waiting, "calls without results")
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                known(part, {"type", "image_url"}, "a part")
                known(part["image_url"], {"url"}, "a picture")
                need(role == "user" and part["image_url"]["url"].startswith("data:image/"), "a picture elsewhere")
            need(role in ("system", "user", "assistant"), "a role")
            need(message.get("content") or message.get("tool_calls"), "an empty message")
            for call in message.get("tool_calls", ()):
                known(call, {"id", "type", "function"}, "a call")
                known(call["function"], {"name", "arguments"}, "a call's function")
                json.loads(call["function"]["arguments"])
                waiting.append(call["id"])
        need(not waiting, "the last calls have no results")

    @staticmethod
    def stream(said: Said, number: int) -> list[Json]:
        """Return the chunks of an answer. A call has an id only where the scenario gives it one, as with some servers."""
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": text} for text in said.thoughts]
        if said.signature:
            token = base64.b64encode(said.signature).decode()
            deltas.append({"reasoning_details": [{"type": "reasoning.encrypted", "data": token}]})
        deltas += [{"content": text} for text in said.text]
        for at, call in enumerate(said.calls):
            text = json.dumps(call.arguments)
            start = {"index": at, "type": "function", "function": {"name": call.name, "arguments": ""}}
            deltas.append({"tool_calls": [{**start, "id": call.id} if call.id else start]})
            for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                deltas.append({"tool_calls": [{"index": at, "function": {"arguments": half}}]})
        reason = {"length": "length", "refused": "content_filter", "malformed": "error"}.get(said.finish)
        reason = reason or ("tool_calls" if said.calls else "stop")
        common = {"id": f"c{number}", "object": "chat.completion.chunk", "model": "fake-1", "x_vendor": {"a": 1}}
        chunks = [{**common, "choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in deltas]
        chunks.append({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        usage = {"prompt_tokens": said.usage.input, "completion_tokens": said.usage.output}
        details = {"cached_tokens": said.usage.cached, "cache_write_tokens": said.usage.cache_write}
        usage["prompt_tokens_details"] = details  # type: ignore[assignment]
        return [*chunks, {**common, "choices": [], "usage": usage}]

    @staticmethod
    def signatures(body: Json) -> list[str]:
        """Return the encrypted reasoning of a body."""
        details = [one.get("reasoning_details", ()) for one in body["messages"]]
        return [one["data"] for one in itertools.chain.from_iterable(details)]


class ResponsesWire(Wire):
    """OpenAI's Responses."""

    paths = re.compile(r"/v1/responses")
    header, prefix = "authorization", "Bearer "

    def _check(self, body: Json) -> None:
        top = {"model", "input", "stream", "store", "include", "max_output_tokens", "instructions", "tools", "text"}
        known(body, top, "the body")
        need(body["store"] is False and body["include"] == ["reasoning.encrypted_content"], "it would be stored")
        tools_are_right(body, "a tool", "parameters")
        waiting: list[str] = []
        for item in body["input"]:
            match item.get("type", "message"):
                case "function_call_output":
                    need(waiting and waiting.pop(0) == item["call_id"], "an output to no call")
                    output = item["output"]
                    need(isinstance(output, str | list), "an output that is no text")
                    for part in output if isinstance(output, list) else ():
                        word = {"input_text": "text", "input_image": "image_url"}[part["type"]]
                        known(part, {"type", word}, "a part")
                        need(word == "text" or part[word].startswith("data:image/"), "a picture without bytes")
                case "function_call":
                    known(item, {"type", "id", "call_id", "name", "arguments"}, "a call")
                    waiting.append(item["call_id"])
                case "reasoning":
                    need(item["encrypted_content"], "reasoning that is not encrypted")
                case "message":
                    need(not waiting, "calls without outputs")
                    need(item["role"] in ("user", "assistant"), "a role")
                case other:
                    need(False, f"an item of type {other}")
        need(not waiting, "the last calls have no outputs")

    @staticmethod
    def stream(said: Said, number: int) -> list[Json]:
        """Return the events of an answer."""
        items: list[Json] = []
        if said.thoughts or said.signature:
            summary = [{"type": "summary_text", "text": text} for text in said.thoughts]
            token = base64.b64encode(said.signature).decode() or "encrypted"
            items.append({"type": "reasoning", "id": f"rs_{number}", "summary": summary, "encrypted_content": token})
        if said.text:
            part = {"type": "output_text", "text": "".join(said.text), "annotations": []}
            items.append({"type": "message", "id": f"m_{number}", "role": "assistant", "content": [part]})
        for at, call in enumerate(said.calls):
            id = call.id or f"call_{number}_{at}"
            text = json.dumps(call.arguments)
            items.append(
                {"type": "function_call", "id": f"fc_{at}", "call_id": id, "name": call.name, "arguments": text}
            )
        for item in items:
            item["status"] = "completed"
        reason = {"length": "max_output_tokens", "refused": "content_filter", "malformed": "of a new kind"}
        status = "completed" if said.finish == "stop" else "incomplete"
        begun: Json = {
            "id": f"r{number}",
            "object": "response",
            "status": "in_progress",
            "model": "fake-1",
            "output": [],
        }
        begun["x_vendor"] = {"a": 1}
        usage = {
            "input_tokens": said.usage.input,
            "input_tokens_details": {"cached_tokens": said.usage.cached, "cache_write_tokens": said.usage.cache_write},
            "output_tokens": said.usage.output,
        }
        details = {"reason": reason[said.finish]} if said.finish != "stop" else None
        whole = {
            **begun,
            "status": status,
            "output": items,
            "usage": usage,
            "incomplete_details": details,
            "error": None,
        }
        pieces = [{"type": "response.output_text.delta", "delta": text} for text in said.text]
        return [
            {"type": "response.created", "response": begun},
            {"type": "response.of_a_new_kind", "x_vendor": {"a": 1}},
            *pieces,
            *({"type": "response.output_item.done", "item": item} for item in items),
            {"type": f"response.{status}", "response": whole},
        ]

    @staticmethod
    def signatures(body: Json) -> list[str]:
        """Return the encrypted reasoning of a body."""
        return [item["encrypted_content"] for item in body["input"] if item.get("type") == "reasoning"]


class AnthropicWire(Wire):
    """Anthropic's messages."""

    paths = re.compile(r"/v1/messages")
    header, prefix = "authorization", "Bearer "

    def _check(self, body: Json) -> None:
        top = {"model", "max_tokens", "messages", "stream", "thinking", "system", "tools", "output_config"}
        known(body, top, "the body")
        need(body["max_tokens"] > 0, "max_tokens")
        budget = body.get("thinking", {}).get("budget_tokens")
        need(budget is None or budget in range(1024, body["max_tokens"]), "the budget for thinking")
        tools_are_right(body, "a tool", "input_schema")
        need(json.dumps(body).count("cache_control") <= 4, "more than four cache marks")
        waiting: set[str] = set()
        for at, message in enumerate(body["messages"]):
            need(message["role"] == ("user", "assistant")[at % 2], "the roles do not alternate")
            need(message["content"], "a message without blocks")
            answered = [one["tool_use_id"] for one in message["content"] if one["type"] == "tool_result"]
            need(sorted(answered) == sorted(waiting), "tool_use without tool_result, or the other way round")
            waiting = set()
            for block in message["content"]:
                match block["type"]:
                    case "text":
                        need(block["text"].strip(), "a text without letters")
                    case "tool_use":
                        need(re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]), "the id of a tool_use")
                        need(isinstance(block["input"], dict), "an input that is no object")
                        waiting.add(block["id"])
                    case "thinking":
                        need(block["signature"], "thinking without a signature")
                    case "tool_result":
                        content = block["content"]
                        need(isinstance(content, str | list), "a result that is no text")
                        for part in content if isinstance(content, list) else ():
                            known(part, {"type", {"text": "text", "image": "source"}[part["type"]]}, "a part")
                            if part["type"] == "image":
                                known(part["source"], {"type", "media_type", "data"}, "a picture")
                                need(part["source"]["type"] == "base64", "a picture without bytes")
                    case other:
                        need(False, f"a block of type {other}")
        need(not waiting, "the last calls have no results")

    @staticmethod
    def stream(said: Said, number: int) -> list[Json]:
        """Return the events of an answer."""
        blocks: list[tuple[Json, list[Json]]] = []
        if said.thoughts or said.signature:
            token = base64.b64encode(said.signature).decode() or "c2lnbmVk"
            pieces: list[Json] = [{"type": "thinking_delta", "thinking": text} for text in said.thoughts]
            pieces.append({"type": "signature_delta", "signature": token})
            blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, pieces))
        if said.text:
            blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in said.text]))
        for at, call in enumerate(said.calls):
            text = json.dumps(call.arguments) if call.arguments else ""  # a call without arguments has no piece of them
            start = {"type": "tool_use", "id": call.id or f"toolu_{number}_{at}", "name": call.name, "input": {}}
            halves = (text[: len(text) // 2], text[len(text) // 2 :])
            blocks.append((start, [{"type": "input_json_delta", "partial_json": half} for half in halves]))
        reason = {"length": "max_tokens", "refused": "refusal", "malformed": "pause_turn"}.get(said.finish)
        reason = reason or ("tool_use" if said.calls else "end_turn")
        usage = {"input_tokens": said.usage.input - said.usage.cached - said.usage.cache_write, "output_tokens": 1}
        usage["cache_read_input_tokens"] = said.usage.cached
        usage["cache_creation_input_tokens"] = said.usage.cache_write
        message: Json = {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": "fake-1",
            "content": [],
        }
        message["x_vendor"] = {"a": 1}
        events: list[Json] = [{"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}]
        for at, (start, deltas) in enumerate(blocks):
            events.append({"type": "content_block_start", "index": at, "content_block": start})
            events += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": at})
        end = {"stop_reason": reason, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": said.usage.output}})
        events.insert(1, {"type": "of_a_new_kind", "x_vendor": {"a": 1}})
        return [*events, {"type": "message_stop", "x_vendor": {"a": 1}}]

    @staticmethod
    def signatures(body: Json) -> list[str]:
        """Return the signatures of a body's thinking."""
        blocks = itertools.chain.from_iterable(message["content"] for message in body["messages"])
        return [block["signature"] for block in blocks if block["type"] == "thinking"]


def _raw(half: Sequence[Json], error: Json) -> Raw:
    return Raw(data=b"".join(map(event, [*half, error])))


_CHAT = [{"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]}]
_RESPONSES = [
    {"type": "response.created", "response": {"object": "response", "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Hel"},
]
_ANTHROPIC = [
    {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
]
_OPENAI: dict[str, Reply] = {
    "key-invalid": Refusal(code=400, body=said(f"{KEY} is wrong", code="invalid_api_key")),
    "quota": Refusal(code=429, body=said("", code="insufficient_quota")),
    "429-details": Refusal(code=429, body=said(""), headers=[("retry-after-ms", "34500"), ("retry-after", "35")]),
    "too-long": Refusal(code=400, body=said("", code="context_length_exceeded")),
}
FORMATS = {
    "openai": Format(
        engine="openai:gpt-6.1-terra",
        address="OPENAI_BASE_URL",
        key="OPENAI_API_KEY",
        wire=ResponsesWire,
        below="/v1",
        half=_RESPONSES,
        errors={
            **_OPENAI,
            "error-in-stream": _raw(_RESPONSES, {"type": "error", "code": "server_error", "message": "overloaded"}),
            "failed-in-stream": _raw(
                _RESPONSES,
                {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "slow"}}},
            ),
        },
    ),
    "anthropic": Format(
        engine="anthropic:claude-sonnet-4-5",
        address="ANTHROPIC_BASE_URL",
        key="ANTHROPIC_API_KEY",
        wire=AnthropicWire,
        half=_ANTHROPIC,
        errors={
            "key-invalid": Refusal(code=400, body={"error": {"type": "authentication_error", "message": KEY}}),
            "quota": Refusal(code=402, body={"error": {"type": "billing_error", "message": ""}}),
            "529": Refusal(code=529, body={"error": {"type": "overloaded_error", "message": ""}}),
            "error-in-stream": _raw(
                _ANTHROPIC, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            ),
        },
    ),
    "compatible": Format(
        engine="compatible:fake-1",
        address="RUNNER_COMPATIBLE_URL",
        key="RUNNER_COMPATIBLE_KEY",
        wire=ChatWire,
        below="/v1",
        half=_CHAT,
        errors={
            **_OPENAI,
            "error-in-stream": _raw(_CHAT, {"error": {"code": 503, "message": "overloaded"}}),
            "refused-in-stream": _raw(_CHAT, {"error": {"code": "invalid_prompt", "message": "no"}}),
            "error-instead-of-a-stream": Raw(data=b'{"error": {"code": 502, "message": "no provider"}}'),
        },
    ),
}
