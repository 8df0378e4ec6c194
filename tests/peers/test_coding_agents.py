"""Coding agents that nobody here wrote, in the sandbox: each writes a file, asked for by a model that the test plays.

Their model speaks OpenAI's chat completions. claude, codex and gemini speak another API and are not here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.installing import Missing, Pin, install
from tests.conftest import Box
from tests.executor.minds import agent, sound
from tests.executor.test_calls import allow
from tests.people import Person, person

ROOT = Path(__file__).parents[2]
KEY = "sk-a-key-that-stays-outside"
NPM = ("node@22", "opencode-ai@1.18.33", "@qwen-code/qwen-code@0.15.10", "@github/copilot@1.0.102")
PINS = {
    "acp:opencode:played": Pin("npm", NPM, "opencode"),
    "acp:qwen:played": Pin("npm", NPM, "qwen"),
    "acp:copilot:played": Pin("npm", NPM, "copilot"),
    "cli:mini-swe-agent:played": Pin("pip", ("mini-swe-agent==2.4.6", "mcp>=2,<3"), "mini"),
}
# A tool that an agent may offer, and the arguments by which it writes a file.
WRITING: dict[str, Callable[[str], dict[str, Any]]] = {
    "write_file": lambda path: {"file_path": path, "content": "made\n"},
    "write": lambda path: {"filePath": path, "content": "made\n"},
    "bash": lambda path: {"command": f"echo made > {path}", "description": "make it"},
}

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]


class Model(BaseHTTPRequestHandler):
    """Calls the tool that writes `path`, then says that it is done."""

    path_to_write = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        offered = {tool["function"]["name"] for tool in asked.get("tools", ())}
        name = next((one for one in WRITING if one in offered), None)
        turns = sum(turn["role"] == "tool" for turn in asked["messages"])
        if name is not None and (not turns or offered == {"bash"}):  # mini ends by a command
            given = WRITING[name](self.path_to_write)
            if turns:
                given["command"] = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
            call = {
                "id": f"call_{turns}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given)},
            }
            said, why = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call}]}, "tool_calls"
        else:
            said, why = {"role": "assistant", "content": "done"}, "stop"
        usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "played", "usage": usage}
        key = "delta" if asked.get("stream") else "message"
        whole["choices"] = [{"index": 0, key: said, "finish_reason": why}]
        streamed = {**whole, "object": "chat.completion.chunk"}
        data = f"data: {json.dumps(streamed)}\n\ndata: [DONE]\n\n" if asked.get("stream") else json.dumps(whole)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if asked.get("stream") else "application/json")
        self.send_header("Content-Length", str(len(data.encode())))
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def model(box: Box) -> Iterator[str]:
    played = type("Played", (Model,), {"path_to_write": str(box.path / "made.txt")})
    with ThreadingHTTPServer(("127.0.0.1", 0), played) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "carol")


@pytest.mark.parametrize("engine", PINS)
def test_an_agent_does_a_step_and_its_key_stays_outside(box: Box, alice: Person, model: str, engine: str) -> None:
    pin = PINS[engine]
    found = install(pin, ROOT / f"build/peers/of-{'npm' if pin.client == 'npm' else 'mini'}-agents", limit=900.0)
    if isinstance(found, Missing):
        pytest.skip(f"allowed: {engine} is {found.reason}")
    allow(box, alice, 'rules:\n  - deny: {path: "secret/**"}\n')
    path = f"{found.parent}:{box.environment()['PATH']}"
    box.env |= {"RUNNER_EXECUTOR": "sandbox", "PATH": path, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": model}
    protocol = box.new({"01-do": agent('qa: {checks: ["grep -q made made.txt"]}', engine=engine)})
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:made.txt") == "made\n"
    assert box.state(protocol)["spent"]["input_tokens"] >= 90
    assert KEY not in box.runner("show", protocol, "do", "--transcript", rc=0).out
    sound(box, protocol)
