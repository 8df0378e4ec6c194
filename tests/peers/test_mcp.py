"""MCP with programs nobody here wrote: the reference servers in the sandbox, and the inspector against `runner mcp`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.installing import Missing, Pin, install
from tests.conftest import Box, command
from tests.executor.minds import sound
from tests.executor.test_calls import tool, wait

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "@modelcontextprotocol/server-everything@2026.8.31",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
    "@modelcontextprotocol/inspector@0.15.0",
)
CONFIG = """mcp:
  every:
    command: [node_modules/.bin/mcp-server-everything]
    effects: {echo: read, get-sum: read, trigger-elicitation-request: read}
  files:
    command: [node_modules/.bin/mcp-server-filesystem, "{workspace}"]
    effects: {read_text_file: read, write_file: workspace}
"""

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]


@pytest.fixture
def programs() -> Path:
    """The folder with the programs; the test is skipped where there is none to be had."""
    found = install(Pin("npm", PACKAGES, "mcp-inspector"), ROOT / "build/peers/of-mcp", limit=600.0)
    if isinstance(found, Missing):
        pytest.skip(f"allowed: the MCP reference servers are {found.reason}")
    return found.parent.parent


def test_the_reference_servers_are_pinned_and_called_in_the_sandbox(box: Box, programs: Path) -> None:
    subprocess.run(["cp", "-r", str(programs), str(box.path / "node_modules")], check=True)
    box.write(".gitignore", "node_modules\n")
    box.write(".protocols/config.yaml", CONFIG)
    box.commit("servers")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    for name in ("every", "files"):
        assert "+ description:" in box.runner("mcp", "pin", name, rc=0).out
        assert "nothing changed" in box.runner("mcp", "pin", name, rc=0).err
    box.commit("pins")
    steps = {
        "01-sum": tool("mcp:every/get-sum", a=2, b=3),
        "02-put": tool("mcp:files/write_file", path="hello.txt", content="hello"),
        "03-get": tool("mcp:files/read_text_file", path="hello.txt"),
        "04-out": tool("mcp:files/read_text_file", path="/etc/passwd"),
    }
    protocol = box.new(steps)
    box.runner("run", protocol)
    found: Any = box.state(protocol)["steps"]
    assert "5" in found["sum"]["result"] and found["get"]["result"] == {"content": "hello"}
    assert found["out"]["status"] == "failed" and "denied" in found["out"]["reason"]
    assert box.git("show", f"{protocol}:hello.txt") == "hello"
    sound(box, protocol)
    held = box.new({"01-move": tool("mcp:files/move_file", source="README.md", destination="b.md")}, title="held")
    box.runner("run", held, rc=3)
    assert wait(box, held)["kind"] == "call"  # whatever the server's annotations say


def test_the_inspector_reads_protocols(box: Box, programs: Path) -> None:
    protocol = box.new({"01-a": command("true")})
    env = {**box.environment(), "PYTHONPATH": str(ROOT)}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env["PATH"]))

    def inspect(*words: str) -> Any:
        argv = [str(programs / ".bin/mcp-inspector"), "--cli", sys.executable, "-m", "runner", "mcp", *words]
        done = subprocess.run(
            argv, cwd=box.path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    names = {one["name"] for one in inspect("--method", "tools/list")["tools"]}
    assert {"show", "propose_edit", "answer"} <= names and not names & {"approve", "run", "merge"}
    shown = inspect("--method", "tools/call", "--tool-name", "status", "--tool-arg", "protocol=1")
    assert protocol in shown["content"][0]["text"]
