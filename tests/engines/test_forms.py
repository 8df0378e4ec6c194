"""What is of one wire format alone, as pure functions; and what the line hands on."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from runner.engines import (
    ModelTurn,
    NetworkError,
    NotStartedError,
    Request,
    ToolResult,
    ToolTurn,
    UserTurn,
    anthropic,
    chat,
    registry,
    responses,
)
from runner.engines.line import LineEngine, Place, _Stream
from tests.engines.scenarios import HELLO, READ, SCENARIOS
from tests.engines.wire_gemini import Raw, Wire, serving
from tests.engines.wires import FORMATS, Format, event

LIMITED = Request(system="", turns=(UserTurn(text="hi"),), max_output=16_000)


def chunk(reason: str | None = None, **delta: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call(text: str, index: int = 0, **more: Any) -> Any:
    return {"index": index, "type": "function", "function": {"name": "shell", "arguments": text}, **more}


def opened(format: Format, wire: Wire) -> LineEngine:
    engine = registry.open_engine(*format.environ(wire), Path())
    assert isinstance(engine, LineEngine)
    return engine


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("claude-3-5-haiku-latest", None),
        ("claude-3-7-sonnet-latest", "enabled"),
        ("claude-sonnet-4-5-20250929", "enabled"),
        ("claude-opus-4-1", "enabled"),
        ("claude-opus-4-20250514", "enabled"),
        ("claude-opus-4-6", "adaptive"),
        ("claude-sonnet-5-5", "adaptive"),
        ("claude-mythos-9", "adaptive"),
    ],
)
def test_claude_thinks_as_the_model_takes_it(model: str, kind: str | None) -> None:
    thinking = anthropic.body(LIMITED, model, "anthropic").get("thinking")
    assert (thinking and thinking["type"]) == kind


def test_system_tools_and_the_last_turn_are_marked_for_the_cache_and_nothing_else_is() -> None:
    turn = ModelTurn(
        text="", calls=(), provider="anthropic", raw=[{"type": "tool_use", "id": "t", "name": "shell", "input": {}}]
    )
    results = ToolTurn(results=(ToolResult(id="t", name="shell", content="ok"),))
    body = anthropic.body(
        Request(system="s", turns=(UserTurn(text="hi"), turn, results), tools=(READ, READ)), "claude-x", "anthropic"
    )
    marks = [json.dumps(one).count("cache_control") for one in (body["system"], body["tools"], body["messages"])]
    assert marks == [1, 1, 1]
    assert "cache_control" in body["tools"][-1] and "cache_control" in body["messages"][-1]["content"][-1]


def test_claudes_arguments_that_are_no_json_are_told_and_do_not_go_back() -> None:
    start = {"type": "tool_use", "id": "t", "name": "shell", "input": {}}
    events = [
        {"type": "message_start", "message": {"type": "message"}},
        {"type": "content_block_start", "index": 0, "content_block": start},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"comm'}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
    ]
    response = anthropic.response(events, HELLO, "anthropic")
    (made,) = response.turn.calls
    assert (response.finish, made.arguments, bool(made.problem)) == ("length", None, True)
    assert response.turn.raw == [start]


def test_what_a_model_without_reasoning_refuses_is_not_asked_of_it() -> None:
    assert "include" not in responses.body(HELLO, "gpt-4.1-mini", "openai")
    assert responses.body(HELLO, "o3", "openai")["include"] == ["reasoning.encrypted_content"]


def test_openais_answer_is_kept_without_a_copy_of_the_request() -> None:
    whole = {"object": "response", "status": "completed", "instructions": "x", "tools": [1], "output": [], "id": "r"}
    response = responses.response([{"type": "response.completed", "response": whole}], HELLO, "openai")
    assert response.raw == {"object": "response", "status": "completed", "output": [], "id": "r"}


def test_openais_arguments_that_are_no_json_are_told_and_do_not_go_back() -> None:
    item = {"type": "function_call", "call_id": "a", "name": "shell", "arguments": '{"comm'}
    whole = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [item]}
    response = responses.response([{"type": "response.incomplete", "response": whole}], HELLO, "openai")
    (made,) = response.turn.calls
    assert (response.finish, made.arguments, bool(made.problem)) == ("length", None, True)
    assert response.turn.raw == [{**item, "arguments": "{}"}]


def test_fields_at_a_call_that_nobody_knows_go_back_with_it() -> None:
    signed = call("{}", id="a", extra_content={"google": {"thought_signature": "AAA="}})
    response = chat.response([chunk(tool_calls=[signed]), chunk("tool_calls")], HELLO, "vertex")
    asked = Request(system="", turns=(*HELLO.turns, response.turn))
    (back,) = chat.body(asked, "m", "vertex")["messages"][-1]["tool_calls"]
    assert back["extra_content"] == {"google": {"thought_signature": "AAA="}}


def test_reasoning_goes_back_to_the_server_that_gave_it_and_to_no_other() -> None:
    response = chat.response(
        [chunk(reasoning_content="a"), chunk(reasoning_content="b"), chunk("stop", content="x")], HELLO, "vllm"
    )
    asked = Request(system="", turns=(*HELLO.turns, response.turn))
    assert response.thoughts == "ab"
    assert chat.body(asked, "m", "vllm")["messages"][-1]["reasoning_content"] == "ab"
    assert chat.body(asked, "m", "ollama")["messages"][-1] == {"role": "assistant", "content": "x"}


def test_arguments_that_are_no_json_are_told_and_do_not_go_back() -> None:
    response = chat.response([chunk(tool_calls=[call('{"comm', id="a")]), chunk("length")], HELLO, "vllm")
    (made,) = response.turn.calls
    assert (made.arguments, bool(made.problem)) == (None, True)
    assert response.turn.raw["tool_calls"][0]["function"]["arguments"] == "{}"


def test_calls_that_a_server_numbers_all_alike_are_told_apart() -> None:
    calls = [call('{"command": "a"}', id="x"), call('{"command": "b"}', id="y")]
    response = chat.response([chunk(tool_calls=[one]) for one in calls] + [chunk("tool_calls")], HELLO, "ollama")
    assert [(one.id, one.arguments) for one in response.turn.calls] == [
        ("x", {"command": "a"}),
        ("y", {"command": "b"}),
    ]


def test_azure_takes_the_newer_name_of_the_limit() -> None:
    assert "max_completion_tokens" in chat.body(HELLO, "m", "azure")
    assert "max_tokens" in chat.body(HELLO, "m", "ollama")


def test_a_server_that_does_not_stream_is_understood() -> None:
    whole = {"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
    reply = Raw(data=json.dumps(whole, indent=1).encode(), content_type="application/json")
    with serving(reply, wire_of=FORMATS["compatible"].wire) as wire:
        engine = opened(FORMATS["compatible"], wire)
        assert engine.ask(HELLO, timeout=20).turn.text == "hi"
        engine.close()


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_byte_is_handed_on_before_it_is_parsed(name: str) -> None:
    format = FORMATS[name]
    reply = format.answer(SCENARIOS["answer"].script[0], 0)
    seen: list[bytes] = []
    broken = Raw(data=reply.data + b"data: {no json\n\n")
    with serving(reply, broken, wire_of=format.wire) as wire:
        engine = opened(format, wire)
        assert engine.ask(HELLO, timeout=20, on_bytes=seen.append).turn.text == "Hello, world."
        assert b"".join(seen) == reply.data
        seen.clear()
        with pytest.raises(Exception, match=r"cut off|format"):
            engine.ask(HELLO, timeout=20, on_bytes=seen.append)
        assert b"".join(seen) == broken.data
        engine.close()


@pytest.mark.parametrize("name", list(FORMATS))
def test_without_a_key_no_key_of_the_process_is_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    format = FORMATS[name]
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-process")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-process")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    with serving(format.answer(SCENARIOS["answer"].script[0], 0), wire_of=format.wire) as wire:
        engine = opened(format, wire)
        assert engine.ask(HELLO, timeout=20).turn.text == "Hello, world."
        engine.close()
    assert wire.wrong == []
    assert "of-the-process" not in json.dumps(wire.headers)


def test_a_compressed_answer_is_read() -> None:
    format = FORMATS["compatible"]
    reply = format.answer(SCENARIOS["answer"].script[0], 0)
    packed = Raw(data=gzip.compress(reply.data), headers=(("Content-Encoding", "gzip"),))
    with serving(packed, wire_of=format.wire) as wire:
        engine = opened(format, wire)
        assert engine.ask(HELLO, timeout=20).turn.text == "Hello, world."
        engine.close()


def test_events_in_pieces_of_any_size_are_the_same_events() -> None:
    events = [chunk(content="grüße"), chunk("stop")]
    data = b": ping\r\n\r\n" + b"".join(map(event, events)).replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n"
    for size in (1, 2, 7, len(data)):
        stream = _Stream()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [one for piece in [*pieces, None] for one in stream.events(piece)] == events


@pytest.mark.parametrize(
    ("name", "variable", "start"),
    [
        ("ollama:m", "OLLAMA_BASE_URL", "with `ollama serve`"),
        ("vllm:some/model", "VLLM_BASE_URL", "with `vllm serve some/model`"),
        ("lmstudio:m", "LMSTUDIO_BASE_URL", "with `lms server start`"),
        ("compatible:m", "RUNNER_COMPATIBLE_URL", "there"),
    ],
)
def test_a_server_of_this_machine_that_is_not_started_is_what_to_start(name: str, variable: str, start: str) -> None:
    engine = registry.open_engine(name, {variable: "http://127.0.0.1:9/v1"}, Path())
    with pytest.raises(NotStartedError) as told:
        engine.ask(HELLO, timeout=20)
    engine.close()
    assert told.value.hint == f"start the server {start}, or set {variable} to where it is"
    assert not told.value.retryable


def test_a_name_that_no_machine_has_is_not_asked_for_again() -> None:
    engine = registry.open_engine("compatible:m", {"RUNNER_COMPATIBLE_URL": "http://nosuch.invalid/v1"}, Path())
    with pytest.raises(NetworkError) as told:
        engine.ask(HELLO, timeout=20)
    engine.close()
    if "Temporary failure" in told.value.what:
        pytest.skip("allowed: no resolver answers here")
    assert "nosuch.invalid cannot be found" in told.value.what and "RUNNER_COMPATIBLE_URL" in told.value.hint
    assert not told.value.retryable


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), socket.gaierror(socket.EAI_AGAIN, "later")])
def test_another_machine_that_cannot_be_reached_for_now_is_tried_again(error: OSError) -> None:
    place = Place(
        provider="openai", model="m", who="OpenAI", key="", variable="", base_url="", host="10.0.0.1:80", address=""
    )
    told = LineEngine(chat.FORM, place)._told(error)
    assert type(told) is NetworkError and told.retryable
