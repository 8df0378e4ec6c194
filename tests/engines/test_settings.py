"""Thinking, temperature, output limit and pictures, from config.yaml and the tools to each wire format."""

from __future__ import annotations

import base64
import json
from types import ModuleType
from typing import Any

import pytest

from runner.engines import (
    Call,
    ModelTurn,
    Request,
    ToolResult,
    ToolTurn,
    UserTurn,
    anthropic,
    chat,
    gemini,
    registry,
    responses,
    sees,
)
from tests.conftest import Box
from tests.executor.minds import agent, finish, mind, say, sound

MODELS = {gemini: "gemini-3.8-flash", anthropic: "claude-opus-5-5", chat: "x", responses: "gpt-6.1-terra"}


@pytest.mark.parametrize(
    ("form", "thinking", "sent"),
    [
        (gemini, 9_000, {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": 9_000}}}),
        (gemini, "high", {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "HIGH"}}}),
        (anthropic, 9_000, {"thinking": {"type": "enabled", "budget_tokens": 9_000}}),
        (anthropic, "low", {"output_config": {"effort": "low"}}),
        (chat, "low", {"reasoning_effort": "low"}),
        (responses, "medium", {"reasoning": {"effort": "medium"}}),
    ],
)
def test_each_form_carries_the_settings(form: ModuleType, thinking: int | str, sent: Any) -> None:
    asked = Request(system="", turns=(UserTurn(text="x"),), thinking=thinking, temperature=0.5)
    body = form.body(asked, MODELS[form], "p")
    flat = body | body.get("generationConfig", {})
    assert flat["temperature"] == 0.5
    for key, value in (sent.get("generationConfig") or sent).items():
        assert flat[key] == value
    plain = form.body(Request(system="", turns=(UserTurn(text="x"),)), MODELS[form], "p")
    assert "temperature" not in str(plain) and "effort" not in str(plain)


def test_a_thinking_budget_leaves_room_for_an_answer() -> None:
    asked = Request(system="", turns=(UserTurn(text="x"),), thinking=90_000, max_output=4_000)
    assert anthropic.body(asked, "claude-opus-5-5", "anthropic")["thinking"]["budget_tokens"] == 3_999


SETTINGS = "engine: {settings: {'gemini:gemini-2.5-flash': {thinking: 2000, temperature: 0.1, output: 5000}}}\n"


def test_the_settings_of_config_reach_the_model_wherever_it_is_named(box: Box) -> None:
    box.write(".protocols/config.yaml", SETTINGS)
    box.commit("settings")
    with mind(box, finish()) as wire:
        box.runner("run", box.new({"01-x": agent(engine="gemini:gemini-2.5-flash")}), rc=0)
    said = wire.bodies[0]["generationConfig"]
    assert (said["maxOutputTokens"], said["temperature"]) == (5000, 0.1)
    assert said["thinkingConfig"]["thinkingBudget"] == 2000


def test_the_window_of_a_model_is_known_and_that_of_a_strange_one_is_not() -> None:
    assert registry.window("openai", "gpt-4o") == 128_000
    assert registry.window("ollama", "strange") is None


# --- pictures ----------------------------------------------------------------------------------------------------------

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SHOWN = base64.b64encode(DOT).decode()


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (gemini, {"inlineData": {"mimeType": "image/png", "data": SHOWN}}),
        (anthropic, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SHOWN}}),
        (chat, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SHOWN}"}}),
        (responses, {"type": "input_image", "image_url": f"data:image/png;base64,{SHOWN}"}),
    ],
)
def test_a_picture_goes_to_a_model_that_can_see_and_a_line_to_one_that_cannot(form: ModuleType, sent: Any) -> None:
    content = {"text": "a picture, image/png, 70 bytes", "image": f"image/png;base64,{SHOWN}"}
    result = ToolResult(id="1", name="read_file", content=content)
    call = Call(id="1", name="read_file", arguments={"path": "dot.png"})
    turns = (UserTurn(text="x"), ModelTurn(text="", calls=(call,)), ToolTurn(results=(result,)))
    for can_see in (True, False):
        body = json.dumps(form.body(Request(system="", turns=turns, images=can_see), MODELS[form], "p"))
        assert (json.dumps(sent) in body, body.count(SHOWN)) == (can_see, can_see)
        assert "a picture, image/png, 70 bytes" in body


def test_which_models_can_see_is_known_by_their_names() -> None:
    asked = Request(system="", turns=())
    for model in ("gemini-3.8-flash", "claude-opus-5-5", "openai/gpt-4o-mini", "gpt-6.1-terra"):
        assert sees(asked, model)
    for model in ("deepseek-chat", "gpt-3.5-turbo", "claude-2.1", "llama3.1"):
        assert not sees(asked, model)


def test_an_agent_reads_a_picture_of_the_repository_which_weighs_little(box: Box) -> None:
    (box.path / "dot.png").write_bytes(DOT + bytes(90_000))
    (box.path / "big.gif").write_bytes(b"GIF89a" + bytes(600_000))
    box.commit("pictures")
    look = say(("read_file", {"path": "dot.png"}), ("read_file", {"path": "big.gif"}))
    with mind(box, look, finish()) as wire:
        protocol = box.new({"01-x": agent("budget: {tokens: 60000}\n")})
        box.runner("run", protocol, rc=0)
        first, second, *pictures = wire.bodies[1]["contents"][-1]["parts"]
    assert first["functionResponse"]["response"]["output"]["text"].startswith("a picture, image/png, 90,0")
    assert "too big" in second["functionResponse"]["response"]["output"]["text"]
    assert [one["inlineData"]["mimeType"] for one in pictures] == ["image/png"]
    shown = box.runner("show", protocol, "x", "--transcript", rc=0).out
    assert len(shown) < 20_000
    sound(box, protocol)
