"""The request that pydantic-ai makes of a conversation says the same as ours, in each wire format."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.installing import Missing, Pin, install
from runner.engines import Call, EngineError, ModelTurn, Request, ToolResult, ToolTurn, Turn, UserTurn, registry
from tests.engines.scenarios import READ, SHELL, request

ROOT = Path(__file__).parents[2]
PIN = Pin("pip", ("pydantic-ai-slim[openai,anthropic,google]==2.68.0",), "python")
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FORMS = {
    "openai": ("openai:gpt-5", "OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"),
    "anthropic": ("anthropic:claude-sonnet-4-5", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", ""),
    "compatible": ("compatible:gpt-4o", "RUNNER_COMPATIBLE_KEY", "RUNNER_COMPATIBLE_URL", "/v1"),
    "gemini": ("gemini:gemini-2.5-flash", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", ""),
}
MADE = ModelTurn(
    text="Both.",
    calls=(
        Call(id="call_a", name="read_file", arguments={"path": "grüße.py", "start_line": 3}),
        Call(id="call_b", name="shell", arguments={"command": 'ls "a b" | wc'}),
    ),
)
SEEN = ModelTurn(text="", calls=(Call(id="call_c", name="read_file", arguments={"path": "dot.png"}),))


def gave(*results: Any) -> ToolTurn:
    turn = MADE if len(results) == 2 else SEEN
    pairs = zip(turn.calls, results, strict=True)
    return ToolTurn(results=tuple(ToolResult(id=call.id, name=call.name, content=one) for call, one in pairs))


PICTURE = gave({"text": "a picture", "image": f"image/png;base64,{DOT}"})
CONVERSATIONS: dict[str, tuple[Turn, ...]] = {
    "words": (UserTurn(text="Go on."), ModelTurn(text="So I do.", calls=()), UserTurn(text="And now? 🎉")),
    "parallel calls": (UserTurn(text="Make it pass."), MADE, gave("1\tx = 1\n", "2"), UserTurn(text="Quicker.")),
    "a picture": (UserTurn(text="Look."), SEEN, PICTURE),
}

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[Any]]]:
    """The address of an endpoint that refuses each request, and the bodies that it has got."""
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


@pytest.mark.parametrize("form", FORMS)
def test_pydantic_ai_makes_equal_requests(endpoint: tuple[str, list[Any]], tmp_path: Path, form: str) -> None:
    """One process for all conversations: to load the package takes longer than to ask."""
    python = install(PIN, ROOT / "build/peers/of-pydantic-ai", limit=600.0)
    if isinstance(python, Missing):
        pytest.skip(f"allowed: pydantic-ai is {python.reason}")
    url, bodies = endpoint
    name, key, address, below = FORMS[form]
    asked = {what: request(*turns) for what, turns in CONVERSATIONS.items()}
    engine = registry.open_engine(name, {key: "sk-of-a-test", address: url + below}, tmp_path)
    for one in asked.values():
        with pytest.raises(EngineError):
            engine.ask(one, timeout=20)
    engine.close()
    given = {"form": form, "model": name.partition(":")[2], "url": url, "asked": list(map(plain, asked.values()))}
    script = ROOT / "tests/peers/second_opinion.py"
    done = subprocess.run([python, script], input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    offered = {one.name: sorted(one.parameters["properties"]) for one in (READ, SHELL)}
    count = len(asked)
    assert len(bodies) == 2 * count
    for what, ours, theirs in zip(asked, bodies[:count], bodies[count:], strict=True):
        assert said(form, ours) == said(form, theirs), what
        assert tools(ours) == tools(theirs) == offered, what


def plain(asked: Request) -> Any:
    return asked.plain() | {"system": asked.system}


def tools(body: Any) -> dict[str, list[str]]:
    """Return the names of a request's tools, with those of their arguments."""
    every = [one for tool in body["tools"] for one in tool.get("functionDeclarations", [tool])]
    found = {}
    for one in every:
        inner = one.get("function", one)
        names = ("parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema")
        schema = next(inner[key] for key in names if key in inner)
        found[inner["name"]] = sorted(schema["properties"])
    return found


def said(form: str, body: Any) -> list[tuple[Any, ...]]:
    """Return what a request says, in its order: who says what, calls, their results and pictures.

    Beside a picture the words differ: pydantic-ai names it in tags of its own, where the API takes none in a result.
    """
    found = [one for one in _SAID[form](body) if one[1:] != ("",) and not re.match("</?pyai:", str(one[1]))]
    has_picture = any(one[0] == "picture" for one in found)
    return [one[:2] if one[0] == "result" and has_picture else one for one in found]


def _of_openai(body: Any) -> Iterator[tuple[Any, ...]]:
    if body.get("instructions"):
        yield "system", body["instructions"]
    for item in body["input"]:
        match item.get("type", "message"):
            case "function_call":
                yield "call", item["call_id"], item["name"], json.loads(item["arguments"])
            case "function_call_output":
                yield from _result(item["call_id"], item["output"])
            case _:
                role = "system" if item["role"] == "developer" else item["role"]
                yield from _parts(role, item["content"])


def _of_chat(body: Any) -> Iterator[tuple[Any, ...]]:
    for message in body["messages"]:
        if message["role"] == "tool":
            yield from _result(message["tool_call_id"], message["content"])
            continue
        yield from _parts(message["role"], message.get("content") or "")
        for call in message.get("tool_calls", ()):
            yield "call", call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])


def _of_anthropic(body: Any) -> Iterator[tuple[Any, ...]]:
    yield from _parts("system", body.get("system") or "")
    for message in body["messages"]:
        for block in [message["content"]] if isinstance(message["content"], str) else message["content"]:
            if not isinstance(block, str) and block["type"] == "tool_use":
                yield "call", block["id"], block["name"], block["input"]
            elif not isinstance(block, str) and block["type"] == "tool_result":
                yield from _result(block["tool_use_id"], block["content"])
            else:
                yield from _parts(message["role"], [block])


def _of_gemini(body: Any) -> Iterator[tuple[Any, ...]]:
    for part in body["systemInstruction"]["parts"]:
        yield "system", part["text"]
    for content in body["contents"]:
        for part in content["parts"]:
            if "functionCall" in part:
                yield "call", part["functionCall"]["name"], part["functionCall"]["args"]
            elif "functionResponse" in part:
                answer = part["functionResponse"]
                yield "result", answer["name"], *(one for one in answer["response"].values())
                yield from (("picture", _data(one)) for one in answer.get("parts", ()))
            elif "text" in part:
                yield {"model": "assistant"}.get(content["role"], content["role"]), part["text"]
            else:
                yield "picture", _data(part)


_SAID = {"openai": _of_openai, "compatible": _of_chat, "anthropic": _of_anthropic, "gemini": _of_gemini}


def _parts(role: str, content: Any) -> Iterator[tuple[Any, ...]]:
    for part in [content] if isinstance(content, str) else content:
        text = part if isinstance(part, str) else part.get("text")
        yield (role, text) if text is not None else ("picture", _data(part))


def _result(call: str, content: Any) -> Iterator[tuple[Any, ...]]:
    found = [*_parts("", content)]
    yield "result", call, "".join(text for role, text in found if role == "")
    yield from (one for one in found if one[0] == "picture")


def _data(part: Any) -> str:
    """Return a picture's bytes in base64, wherever a part has them."""
    text = json.dumps(part).translate({ord("-"): "+", ord("_"): "/"})  # Google's SDK writes base64 for addresses
    assert DOT in text, text
    return DOT
