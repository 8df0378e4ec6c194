"""Asks a model by pydantic-ai, once with each conversation that comes as JSON on stdin; run in an environment that has it."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from typing import Any

from pydantic_ai import messages as m
from pydantic_ai.direct import model_request_sync
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

given: dict[str, Any] = json.load(sys.stdin)
form, model, url, key = given["form"], given["model"], given["url"], "sk-of-a-test"
match form:
    case "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        made: Any = AnthropicModel(model, provider=AnthropicProvider(api_key=key, base_url=url))
    case "gemini":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        made = GoogleModel(model, provider=GoogleProvider(api_key=key, base_url=url))
    case _:
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        kind: Any = OpenAIResponsesModel if form == "openai" else OpenAIChatModel
        made = kind(model, provider=OpenAIProvider(api_key=key, base_url=f"{url}/v1"))


def content(one: Any) -> Any:
    """Return a tool's result, with a picture as pydantic-ai has it."""
    if not isinstance(one, dict) or "image" not in one:
        return one
    kind, _, data = one["image"].partition(";base64,")
    return [one["text"], m.BinaryContent(data=base64.b64decode(data), media_type=kind)]


def ask(asked: dict[str, Any]) -> None:
    turns: list[Any] = []
    for turn in asked["turns"]:
        if "user" in turn:
            first = [m.SystemPromptPart(asked["system"])] if not turns else []
            turns.append(m.ModelRequest(parts=[*first, m.UserPromptPart(turn["user"])]))
        elif "model" in turn:
            calls = [m.ToolCallPart(one["name"], one["arguments"], one["id"]) for one in turn["calls"]]
            said = [m.TextPart(turn["model"])] if turn["model"] else []
            turns.append(m.ModelResponse(parts=[*said, *calls]))
        else:
            parts = [m.ToolReturnPart(one["name"], content(one["content"]), one["id"]) for one in turn["results"]]
            turns.append(m.ModelRequest(parts=parts))
    tools = [
        ToolDefinition(name=one["name"], description=one["description"], parameters_json_schema=one["parameters"])
        for one in asked["tools"]
    ]
    with contextlib.suppress(Exception):  # the endpoint refuses what it has recorded
        model_request_sync(made, turns, model_request_parameters=ModelRequestParameters(function_tools=tools))


for one in given["asked"]:
    ask(one)
