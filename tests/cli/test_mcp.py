"""`runner mcp`: an editor or agent reads protocols, proposes what a person commits, and can do nothing that is a person's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.sandbox.host import Host
from runner.sandbox.process import Command
from runner.tools import ToolError
from runner.tools.mcp_client import Connection
from tests.conftest import Box, command
from tests.executor.minds import agent, ask, finish, mind, say, sound

Call = Callable[..., str]
TOOLS = ["answer", "list_protocols", "propose_edit", "propose_protocol", "show", "status", "why"]


@pytest.fixture
def served(box: Box) -> Iterator[Callable[[], Call]]:
    """Return a function that starts `runner mcp` for the box and returns one that calls a tool of it."""
    made: list[Connection] = []

    def start(**env: str) -> Call:
        root = Path(__file__).parents[2]
        of = Command(
            argv=(sys.executable, "-m", "runner", "mcp"),
            cwd=box.path,
            env={**box.environment(env), "PYTHONPATH": str(root)},
            writable=(box.path,),
        )
        made.append(Connection("runner", lambda: Host().open(of), 60.0, lambda question: None))
        assert sorted(one["name"] for one in made[0].tools()) == TOOLS
        return lambda name, **given: made[0].call(name, given)

    yield start
    for one in made:
        one.close()


def typed(box: Box, told: str) -> None:
    """Type the command that a tool returned."""
    line = told.strip().splitlines()[-1].replace("runner ", f"{sys.executable} -m runner ", 1)
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(line, shell=True, check=True, cwd=box.path, env=env, capture_output=True)


def test_protocols_are_read_and_proposals_are_a_persons_to_make(box: Box, served: Callable[[], Call]) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")}, title="Old one")
    call = served()
    before = box.git("for-each-ref"), box.git("status", "--porcelain")
    assert json.loads(call("list_protocols"))["protocols"][0]["title"] == "Old one"
    assert protocol in json.dumps(json.loads(call("status", protocol="1")))
    assert "02-b" in call("show", protocol="1", step="b")
    with pytest.raises(ToolError, match="77"):
        call("show", protocol="77")
    with pytest.raises(ToolError, match="--help"):
        call("show", protocol="--help")  # a name, and no option
    new = call("propose_protocol", task="Write the manual\n\nIn plain words.")
    edit = call(
        "propose_edit",
        protocol="1",
        file="02-b.md",
        text="---\ntitle: B\nkind: command\nrun: echo better\n---\nBetter.\n",
    )
    with pytest.raises(ToolError, match="not a plan file"):
        call("propose_edit", protocol="1", file="../../../x.md", text="x")
    with pytest.raises(ToolError, match="not plan files"):
        call("propose_protocol", task="x", files={"plan.md": "---\ntitle: x\n---\n", "../01-a.md": "x"})
    with pytest.raises(ToolError, match="kind"):
        call("propose_edit", protocol="1", file="02-b.md", text="---\ntitle: B\nkind: magic\n---\n")
    assert (box.git("for-each-ref"), box.git("status", "--porcelain")) == before
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""
    box.runner("step", protocol, rc=0)  # nothing of a proposal is picked up
    assert "echo better" not in box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md")
    typed(box, edit)
    box.runner("run", protocol, rc=0)
    assert "echo better" in box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md")
    typed(box, new)
    assert json.loads(box.runner("show", "2", "--json", rc=0).out)["title"] == "Write the manual"
    sound(box, protocol)


def test_neither_the_package_nor_the_status_loads_anything_of_mcp(box: Box) -> None:
    box.write(".protocols/config.yaml", "mcp: {docs: {command: [serve]}}\n")
    box.commit("server")
    box.new({"01-a": command("true")})
    program = """
import contextlib, sys, runner
from runner.cli import main
for words in (["status"], ["run", "1"]):
    with contextlib.suppress(SystemExit):
        main.call(words)
print(*sorted(sys.modules.keys() & {"mcp", "mcp_types", "anyio", "httpx2", "runner.tools.mcp_client"}))
print("looked")
"""
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], cwd=box.path, env=env, capture_output=True, text=True)
    assert done.stdout.endswith("\n\nlooked\n") and "1 of 1 step done" in done.stderr, done


def test_only_a_models_question_is_answered_and_the_record_says_through_what(
    box: Box, served: Callable[[], Call]
) -> None:
    steps = {"01-a": agent(), "02-b": "kind: human\n"}
    with mind(box, say(ask("Which colour?")), finish()) as wire:
        protocol = box.new(steps)
        box.runner("run", protocol, rc=3)
        call = served()
        with pytest.raises(ToolError, match="only a model's question"):
            call("answer", protocol="1", text="blue", question="b")
        assert call("answer", protocol="1", text="blue") == "a answered"
        entry = box.git("show", f"{protocol}:.protocols/{protocol}/log.md")
        assert '"by":"mcp/alice@example.test"' in entry and '"actor":"mcp/alice@example.test"' in entry
        box.runner("run", protocol, rc=3)
        assert "blue" in json.dumps(wire.bodies[1])
    with pytest.raises(
        ToolError, match=r"only a model's question is answered here, one at a time; w\d+ \(human\) waits"
    ):
        call("answer", protocol="1", text="done")
    assert box.state(protocol)["steps"]["b"]["status"] == "running"
    sound(box, protocol)


def test_a_digest_needs_a_checkout_and_the_error_names_the_repository(box: Box, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    box.git("clone", "-q", "--bare", box.path, bare)
    told = box.runner("mcp", "pin", "docs", cwd=bare, rc=2).err
    assert "there is none here" in told and f"at:   {bare}\n" in told
