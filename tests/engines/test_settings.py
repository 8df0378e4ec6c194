"""Thinking, temperature and output limit, from config.yaml to each wire format."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from runner.engines import Request, UserTurn, anthropic, chat, gemini, registry, responses
from tests.conftest import Box
from tests.executor.minds import agent, finish, mind

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
