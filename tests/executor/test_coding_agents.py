"""Coding agents: what they ask goes through the policy, is held and resumed; what they do is judged; the sandbox holds them."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runner.engines.acp import relative
from runner.engines.line import wait_told
from runner.protocol.transcript import Response as parsed
from runner.tools import servers
from runner.trust.rules import transcripts
from runner.trust.walk import Named
from tests.conftest import Box
from tests.engines.test_endpoints import serving
from tests.executor.minds import agent, sound, transcript
from tests.executor.test_reached import GET
from tests.people import Person, govern, person, policy, push
from tests.tools.test_mcp import PINNED, RUDE, WORDS

FAKE = (Path(__file__).parent / "fake_acp.py").read_text()
RULES = """\
rules:
  - deny: {path: "secret/**"}
  - ask: {path: "deploy/**"}
  - deny: {tool: "acp:back/execute"}
  - ask: {tool: "acp:load/execute"}
"""


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "carol")


@pytest.fixture
def agents(box: Box, alice: Person, tmp_path: Path) -> Box:
    """A project with the policy above, and agents of its own: `fake`, `back`, which resumes, `lax`, `lost`, and `cli:tool`."""
    programs = tmp_path / "agents/bin"
    programs.mkdir(parents=True)
    (programs / "fake-acp").write_text(f"#!/usr/bin/env python3\n{FAKE}")
    (programs / "tool").write_text('#!/bin/sh\ncat "$2" > "$HOME/asked"\n[ -e out ] && echo more >> out\n. ./plan.sh\n')
    for one in programs.iterdir():
        one.chmod(0o755)
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    box.env["PATH"] = f"{programs}:{box.environment()['PATH']}"
    govern(box, [alice], text=policy([alice], more=RULES))
    box.write(
        ".protocols/config.yaml",
        "acp:\n  fake: {command: [fake-acp], mode: ask}\n  back: {command: [fake-acp, --resume], mode: ask}\n"
        "  lax: {command: [fake-acp], mode: plan}\n  none: {command: [fake-acp]}\n  lost: {command: [no-such-program], mode: ask}\n"
        "  asks: {command: [fake-acp], mode: ask, endpoint: [MODEL_URL], speaks: openai}\n"
        "  deaf: {command: [fake-acp, --deaf], mode: ask}\n"
        "  load: {command: [fake-acp, --load], mode: ask}\n"
        "cli:\n  tool: {command: [tool, --file, '{prompt_file}'], env: [LETTER]}\n",
    )
    box.write("plan.sh", "exit 0\n")
    box.commit("agents")
    push(box)
    return box


def made(box: Box, text: str, more: str = "", engine: str = "acp:fake") -> str:
    plan = box.plan({"01-do": agent(more, engine=engine)})
    step = plan / "01-do.md"
    step.write_text(step.read_text().replace("Do it.", text))
    return box.runner("new", "A plan", "--plan", plan, rc=0).out.strip()


def said(box: Box, protocol: str, name: str = "do.1") -> str:
    return "".join(one["text"] for one in transcript(box, protocol, name) if one["kind"] == "response")


def calls(box: Box, protocol: str, name: str = "do.1") -> list[str]:
    records = [one for one in transcript(box, protocol, name) if one["kind"] == "response"]
    return [call["name"] for one in records for call in one["calls"]]


def approved(box: Box, alice: Person, protocol: str) -> None:
    for wait in box.state(protocol)["waiting"]:
        box.runner("approve", protocol, wait["subject"], "--yes", env=alice.env, rc=0)


def test_a_call_is_allowed_made_and_counted(agents: Box) -> None:
    protocol = made(agents, "edit docs/a.txt hello\nsay fine", 'qa: {checks: ["grep -q hello docs/a.txt"]}')
    agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:docs/a.txt") == "hello\n"
    assert calls(agents, protocol) == ["acp:fake/edit", "finish"]
    assert "mode ask" in said(agents, protocol) and "docs/a.txt edit: allow_once" in said(agents, protocol)
    spent = agents.state(protocol)["spent"]
    assert (spent["usd"], spent["input_tokens"], spent["output_tokens"]) == ("0.25", 20, 10)
    sound(agents, protocol)


@pytest.mark.slow
def test_the_agents_output_is_kept_byte_for_byte(agents: Box) -> None:
    protocol = made(agents, "say ünïcode")
    agents.runner("run", protocol, rc=0)
    raw = "".join(one["raw"]["stdout"] for one in transcript(agents, protocol, "do.1") if one["kind"] == "response")
    rows = [json.loads(line) for line in raw.splitlines()]
    assert (
        raw.endswith("\n")
        and rows[0]["result"]["protocolVersion"] == 1
        and rows[-1]["result"]["stopReason"] == "end_turn"
    )


def test_a_denied_call_is_refused_and_the_agent_does_otherwise(agents: Box) -> None:
    protocol = made(agents, "edit secret/a no\nexec true\nedit docs/b.txt yes", engine="acp:back")
    agents.runner("run", protocol, rc=0)
    assert "secret/a edit: reject_once" in said(agents, protocol) and "exec: reject_once" in said(agents, protocol)
    assert "docs/b.txt" in agents.git("ls-tree", "-r", "--name-only", protocol)
    assert "secret/a" not in agents.git("ls-tree", "-r", "--name-only", protocol)
    sound(agents, protocol)


@pytest.mark.slow
def test_a_path_that_leads_elsewhere_by_a_link_is_judged_there(agents: Box) -> None:
    protocol = made(agents, "exec ln -s secret open\nexec mkdir secret\nedit open/a no\nexec rm -r open secret")
    agents.runner("run", protocol, rc=0)
    assert "open/a edit: reject_once" in said(agents, protocol)


@pytest.mark.parametrize("engine", ["acp:fake", "acp:back", "acp:load"])
def test_a_held_call_waits_and_is_made_after_the_approval(agents: Box, alice: Person, engine: str) -> None:
    """In another process: by the transcript alone, by the session that it resumes, and by one that tells all of it again."""
    protocol = made(agents, "edit docs/a.txt first\nedit deploy/a.txt now", engine=engine)
    agents.runner("run", protocol, rc=3)
    tip = agents.git("rev-parse", protocol)
    agents.runner("run", protocol, rc=3)
    assert agents.git("rev-parse", protocol) == tip
    (wait,) = agents.state(protocol)["waiting"]
    assert wait["kind"] == "call" and "deploy/a.txt" in wait["text"]
    assert "deploy" not in agents.git("ls-tree", "-r", "--name-only", protocol).replace(".protocols", "")
    approved(agents, alice, protocol)
    assert agents.runner("run", protocol).code == 3  # what the step changed is judged as always
    assert calls(agents, protocol).count(f"{engine}/edit") <= 3
    approved(agents, alice, protocol)
    agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:deploy/a.txt") == "now\n"
    assert agents.git("show", f"{protocol}:docs/a.txt") == "first\n"
    sessions = {one["turn"]["session"] for one in transcript(agents, protocol, "do.1") if one["kind"] == "response"}
    assert len(sessions) == (2 if engine == "acp:fake" else 1)  # anew, or the one of the first process
    method = {"acp:fake": "session/new", "acp:back": "session/resume", "acp:load": "session/load"}[engine]
    assert f"opened by {method}" in said(agents, protocol)
    assert "of-old" not in json.dumps([one.get("calls") for one in transcript(agents, protocol, "do.1")])
    sound(agents, protocol)


@pytest.mark.slow
def test_a_rejected_call_is_refused_after_the_wait(agents: Box, alice: Person) -> None:
    protocol = made(agents, "edit deploy/a.txt now")
    agents.runner("run", protocol, rc=3)
    (wait,) = agents.state(protocol)["waiting"]
    agents.runner("reject", protocol, wait["subject"], "--yes", env=alice.env, rc=0)
    agents.runner("run", protocol)
    assert "deploy/a.txt" not in agents.git("ls-tree", "-r", "--name-only", protocol)
    assert "rejected by" in json.dumps(transcript(agents, protocol, "do.1"))


def test_a_call_that_it_makes_without_asking_fails_the_attempt_where_it_needed_an_approval(agents: Box) -> None:
    protocol = made(agents, "sneak deploy/a.txt")
    result = agents.runner("run", protocol)
    assert result.code not in (0, 3)
    assert "without asking" in agents.state(protocol)["steps"]["do"]["reason"]
    assert "deploy/a.txt" not in agents.git("ls-tree", "-r", "--name-only", protocol)


def test_a_call_that_fails_before_it_asks_fails_no_attempt(agents: Box) -> None:
    protocol = made(agents, "miss deploy/a.txt x\nedit docs/a.txt x")
    agents.runner("run", protocol, rc=0)
    assert calls(agents, protocol) == ["acp:fake/edit", "acp:fake/edit", "finish"]
    sound(agents, protocol)


def test_a_call_that_it_makes_without_asking_is_in_the_transcript(agents: Box) -> None:
    protocol = made(agents, "sneak docs/a.txt")
    agents.runner("run", protocol, rc=0)
    assert calls(agents, protocol) == ["acp:fake/edit", "finish"]
    sound(agents, protocol)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("acp:lax", "no mode `plan`: it offers yolo, ask"),
        ("acp:none", "has modes, and none is named"),
        ("acp:lost", "`no-such-program` is not on the PATH"),
        ("acp:fak", "did you mean acp:fake?"),
        ("cli:aider", "write it as cli:aider:MODEL"),
    ],
)
def test_an_agent_that_cannot_be_held_is_refused(agents: Box, engine: str, words: str) -> None:
    protocol = made(agents, "edit docs/a.txt x", engine=engine)
    result = agents.runner("run", protocol)
    assert result.code == 2 and words in result.err
    assert agents.state(protocol)["steps"]["do"]["attempt"] == 1


@pytest.mark.parametrize(("line", "words"), [("fail", "exit code 7: it broke"), ("leave", "it left the mode `ask`")])
def test_an_agent_that_breaks_off_fails_its_attempt(agents: Box, line: str, words: str) -> None:
    protocol = made(agents, f"edit docs/a.txt x\n{line}\nedit docs/b.txt x")
    assert agents.runner("run", protocol).code == 1
    assert words in agents.state(protocol)["steps"]["do"]["reason"]


# --- what the runner does for it: files and commands ---


def told(box: Box, protocol: str, word: str) -> list[str]:
    """What the agent says came of its lines that start with `word`."""
    return [line.partition(": ")[2] for line in said(box, protocol).splitlines() if line.startswith(f"{word}: ")]


def results(box: Box, protocol: str) -> list[dict[str, Any]]:
    return [one for row in transcript(box, protocol, "do.1") if row["kind"] == "results" for one in row["results"]]


def test_it_reads_and_writes_files_by_the_runner_where_the_policy_allows_that(agents: Box) -> None:
    agents.write("secret/key", "hidden\n")
    agents.write("two.txt", "one\r\ntwo\n")
    agents.commit("files")
    push(agents)
    lines = "write docs/a.txt hello\nread docs/a.txt\nread two.txt x\nread none\nread secret/key\nwrite secret/a no\nread ../x"
    protocol = made(agents, lines)
    agents.runner("run", protocol, rc=0)
    written, denied = told(agents, protocol, "write")
    whole, part, none, secret, outside = map(json.loads, told(agents, protocol, "read"))
    assert (written, whole["content"], part["content"]) == ("{}", "hello\n", "two\n")
    assert none["code"] == -32002 and "not found" in none["message"]
    assert "not allowed" in secret["message"] and "not allowed" in denied and "code" in outside
    assert agents.git("show", f"{protocol}:docs/a.txt") == "hello\n"
    assert "secret/a" not in agents.git("ls-tree", "-r", "--name-only", protocol)
    kinds = ["edit", "read", "read", "read", "read", "edit", "read"]  # each judged once
    assert calls(agents, protocol) == [*(f"acp:fake/{kind}" for kind in kinds), "finish"]
    sound(agents, protocol)


def test_its_commands_run_in_the_sandbox_and_what_they_say_is_journaled_and_bounded(agents: Box) -> None:
    lines = (
        "run echo made > out; echo wrong >&2; exit 3\nrun seq 1 2000\nrun echo $HOME $MODEL_URL; cat /etc/shadow /etc/x"
        "\nin docs pwd\nin none true\nrun kill -9 $$\nsay fine"
    )
    agents.write("docs/here", "")
    agents.commit("docs")
    push(agents)
    protocol = made(agents, lines)
    agents.runner("run", protocol, rc=0)
    first, long, sandboxed, killed = told(agents, protocol, "run")
    here, _ = told(agents, protocol, "in")
    assert first == "3/None 'wrong\\n' False" and agents.git("show", f"{protocol}:out") == "made\n"
    assert long.endswith("2000\\n' True") and len(long) < 2500
    assert sandboxed.startswith("1/None") and "root:" not in sandboxed
    assert here.startswith("0/None") and here.endswith("/docs\\n' False")
    assert killed.startswith("None/9") or killed.startswith("137/None")
    assert calls(agents, protocol) == [*["acp:fake/execute"] * 6, "finish"]
    (ran,) = results(agents, protocol)[0]["content"]["ran"]
    assert ran == {"exit_code": 3, "output": "wrong\n"}
    sound(agents, protocol)


def test_a_command_of_its_terminal_is_judged_by_its_words_and_a_denied_one_is_told(agents: Box) -> None:
    protocol = made(agents, "run touch no\nin docs touch no\nedit docs/a.txt x", engine="acp:back")
    agents.runner("run", protocol, rc=0)
    assert "no" not in agents.git("ls-tree", "-r", "--name-only", protocol).replace("/", "\n").split()
    ((first,), (second,)) = told(agents, protocol, "run"), told(agents, protocol, "in")
    assert "not allowed" in first and "not allowed" in second
    denied = [one["decision"]["where"] for one in results(agents, protocol) if one.get("decision")]
    assert len(denied) == 2 and all("policy.yaml" in one for one in denied)
    assert calls(agents, protocol) == ["acp:back/execute", "acp:back/execute", "acp:back/edit", "finish"]
    assert agents.git("show", f"{protocol}:docs/a.txt") == "x\n"
    sound(agents, protocol)


def test_several_commands_of_one_call_are_shown_and_approved_as_one_text(agents: Box, alice: Person) -> None:
    """As some agents have it: `commands`, and no `command`. A title alone would not show a person what runs."""
    protocol = made(agents, "execs echo a > a && echo b > b", engine="acp:load")
    agents.runner("run", protocol, rc=3)
    (wait,) = agents.state(protocol)["waiting"]
    assert 'acp:load/execute command="echo a > a\\necho b > b"' in wait["text"]
    approved(agents, alice, protocol)
    agents.runner("run", protocol, rc=0)
    records = [one for one in transcript(agents, protocol, "do.1") if one["kind"] == "response"]
    lines = [call["arguments"].get("command") for one in records for call in one["calls"]]
    assert lines == ["echo a > a\necho b > b", None]
    assert {"a", "b"} < set(agents.git("ls-tree", "--name-only", protocol).split())
    sound(agents, protocol)


@pytest.mark.parametrize("word", ["asked", "run"])
def test_a_command_that_was_approved_is_not_judged_again_when_the_runner_runs_it(
    agents: Box, alice: Person, word: str
) -> None:
    protocol = made(agents, f"{word} echo made > out", engine="acp:load")
    agents.runner("run", protocol, rc=3)
    (wait,) = agents.state(protocol)["waiting"]
    assert wait["kind"] == "call" and 'acp:load/execute command="echo made > out"' in wait["text"]
    approved(agents, alice, protocol)
    agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:out") == "made\n" and calls(agents, protocol).count("acp:load/execute") == 1
    sound(agents, protocol)


def test_a_command_of_its_terminal_ends_when_it_is_killed_and_none_outlives_the_step(agents: Box) -> None:
    protocol = made(agents, "start echo up; sleep 600\nstop\nstart sleep 601\nedit docs/a.txt x")
    began = time.monotonic()
    agents.runner("run", protocol, rc=0)
    (stopped,) = told(agents, protocol, "stop")
    assert time.monotonic() - began < 60 and not stopped.startswith("0/")
    left = [one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline") if one.exists()]
    assert not any(b"sleep\x00601" in one for one in left)


# --- a limit of an agent that has a key of its own ---


@pytest.mark.parametrize("engine", ["acp:fake", pytest.param("acp:back", marks=pytest.mark.slow)])
def test_a_limit_that_the_agent_itself_reports_is_a_wait_and_no_failure(agents: Box, engine: str) -> None:
    words = "You've hit your usage limit, try again in 2 hours 30 minutes."
    protocol = made(agents, f"edit docs/a.txt x\nlimit {words}", engine=engine)
    result = agents.runner("run", protocol, rc=69)
    assert f"{engine} is at a limit of its model" in result.err
    assert re.search(r"wait 2 h 30 min, until (\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)? UTC", result.err)
    assert agents.state(protocol)["steps"]["do"]["attempt"] == 1
    agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:docs/a.txt") == "x\n"
    assert agents.state(protocol)["steps"]["do"]["attempt"] == 1
    sound(agents, protocol)


def test_a_limit_without_a_time_is_asked_about_again(agents: Box) -> None:
    protocol = made(agents, "limit 429 Too Many Requests\nedit docs/a.txt x")
    result = agents.runner("run", protocol, rc=0)
    assert "acp:fake is at a limit of its model; asked again in 1 s" in result.err
    sound(agents, protocol)


def test_another_error_of_an_agent_fails_its_attempt(agents: Box) -> None:
    protocol = made(agents, "limit the model does not exist")
    assert agents.runner("run", protocol).code == 1
    assert "it reports an error" in agents.state(protocol)["steps"]["do"]["reason"]


NOW = 1_784_000_000.0  # 2026-07-14 03:33:20 UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('{"code": 429, "data": {"retryAfter": 30}}', 30),
        ('{"data": {"retry_after_ms": 1500}}', 1.5),
        ('{"details": "{\\"retryDelay\\": \\"12.5s\\"}"}', 12.5),
        ('{"_meta": {"resetsAt": 1784003600}}', 3600),
        ("Claude AI usage limit reached|1784000060", 60),
        ("try again in 3 days 5 hours 2 minutes.", 277_320),
        ("Please try again in 1h 5m", 3_900),
        ("Rate limit reached, please wait 20 seconds", 20),
        ("You've hit your session limit · resets 5am (Europe/Berlin)", 84_400),
        ("resets at 04:00", 1_600),
        ("try again at 3:40 AM", 400),
        ("try again at noon (Nowhere/None)", None),
        ("429", None),
    ],
)
def test_until_when_a_limit_holds_is_read_from_what_agents_say(text: str, seconds: float | None) -> None:
    assert wait_told(text, NOW) == seconds


@pytest.mark.slow
def test_the_end_of_its_turn_is_no_proof_and_checks_come_back_to_it(agents: Box) -> None:
    protocol = made(agents, "edit docs/a.txt x", 'qa: {checks: ["test -e docs/none"]}')
    assert agents.runner("run", protocol).code == 1
    assert calls(agents, protocol).count("finish") == 3


@pytest.mark.slow
def test_it_sees_no_variable_but_those_that_are_named(agents: Box) -> None:
    protocol = made(agents, "show")
    agents.runner("run", protocol, rc=0, env={"OPENAI_API_KEY": "sk-canary-canary", "LETTER": "x"})
    assert "OPENAI_API_KEY" not in said(agents, protocol) and "LETTER" not in said(agents, protocol)


@pytest.mark.parametrize("engine", ["acp:fake", pytest.param("acp:back", marks=pytest.mark.slow)])
def test_a_killed_attempt_resumes_with_what_it_has_done(agents: Box, engine: str) -> None:
    protocol = made(agents, "edit docs/a.txt x\nhang", engine=engine)
    at = agents.start("run", protocol)
    by, kinds = time.monotonic() + 60, list[str]()
    while kinds != ["response", "results"]:
        assert time.monotonic() < by and at.poll() is None
        time.sleep(0.1)
        journals = [*(agents.path / ".git").rglob("do.1.jsonl")]
        rows = journals[0].read_bytes().splitlines() if journals else []
        kinds = [json.loads(row.split(b" ", 2)[2])["kind"] for row in rows]
    at.send_signal(signal.SIGKILL)
    at.wait()
    agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:docs/a.txt") == "x\n"
    assert calls(agents, protocol) == [f"{engine}/edit", f"{engine}/edit", "finish"]
    sound(agents, protocol)


def serve(box: Box, effects: str = "{look: read}") -> None:
    """Put an MCP server on the trusted branch, with its pinned words; its ledger is a file of the step's work."""
    command = json.dumps(["python3", "tools/rude.py", "--ledger", "{workspace}/ledger"])
    box.write("tools/rude.py", RUDE.read_text())
    config = box.path / ".protocols/config.yaml"
    there = config.read_text() if config.exists() else ""
    entry = f"mcp:\n  docs: {{command: {command}, tools: '{PINNED}', effects: {effects}}}\n"
    box.write(".protocols/config.yaml", there + entry)
    box.write(".protocols/mcp/docs.json", servers.render(WORDS))
    box.commit("server")
    push(box)


@pytest.mark.parametrize("engine", ["acp:fake", pytest.param("acp:back", marks=pytest.mark.slow)])
def test_it_calls_the_tools_of_servers_which_are_judged_held_and_made_once(
    agents: Box, alice: Person, engine: str
) -> None:
    serve(agents)
    protocol = made(agents, "tool docs look red\ntool docs send word\nsay fine", engine=engine)
    agents.runner("run", protocol, rc=3)
    (wait,) = agents.state(protocol)["waiting"]
    assert wait["kind"] == "call" and "mcp:docs/send how=word" in wait["text"]
    assert agents.git("show", f"{protocol}:ledger") == "red\n"
    approved(agents, alice, protocol)
    agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:ledger") == "red\nword\n"
    assert calls(agents, protocol) == ["mcp:docs/look", "mcp:docs/send", "finish"]
    assert "look of ['look', 'send']: False did red" in said(agents, protocol)
    sound(agents, protocol)


def test_a_call_of_a_servers_tool_that_is_denied_is_not_made_and_the_agent_is_told(agents: Box, alice: Person) -> None:
    serve(agents)
    govern(agents, [alice], text=policy([alice], more='rules:\n  - deny: {tool: "mcp:docs/look"}\n'))
    protocol = made(agents, "tool docs look red\ntool docs none red\nedit docs/a.txt fine")
    agents.runner("run", protocol, rc=0)
    assert "look of ['look', 'send']: True not done" in said(agents, protocol)
    assert "none of ['look', 'send']: None None" in said(agents, protocol)  # an error of JSON-RPC
    assert "ledger" not in agents.git("ls-tree", "-r", "--name-only", protocol)
    sound(agents, protocol)


def test_a_call_that_only_seems_to_be_of_a_servers_tool_is_judged_as_what_it_is(agents: Box, alice: Person) -> None:
    """A model chooses the title: by the words of a pinned tool the agent is let do another thing, which it does not get away with."""
    serve(agents)
    govern(agents, [alice], text=policy([alice], more='rules:\n  - ask: {tool: "acp:fake/other"}\n'))
    protocol = made(agents, "tool docs look red\npose docs mcp__docs__look deploy/a.txt")
    assert agents.runner("run", protocol).code not in (0, 3)
    assert "without asking" in agents.state(protocol)["steps"]["do"]["reason"]
    assert "deploy/a.txt" not in agents.git("ls-tree", "-r", "--name-only", protocol)
    assert calls(agents, protocol) == ["mcp:docs/look", "acp:fake/other"]  # the true one is judged once


def test_an_agent_that_cannot_reach_the_servers_is_refused(agents: Box) -> None:
    serve(agents)
    result = agents.runner("run", made(agents, "say hello", engine="acp:deaf"))
    assert result.code == 2 and "does not support MCP servers over HTTP" in result.err


KEY = "sk-a-key-that-stays-outside"


def test_its_model_is_asked_through_the_runner_which_adds_the_key_and_counts(agents: Box) -> None:
    protocol = made(agents, "model\nshow", engine="acp:asks")
    with serving() as provider:
        environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{provider.url}/v1"}
        agents.runner("run", protocol, rc=0, env=environ)
    ((path, headers, _),) = provider.heard
    assert (path, headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    spent = agents.state(protocol)["spent"]
    assert (spent["input_tokens"], spent["output_tokens"]) == (97, 20)
    assert "model: 200" in said(agents, protocol) and KEY not in json.dumps(transcript(agents, protocol, "do.1"))
    sound(agents, protocol)


def test_a_limit_of_its_model_is_a_wait_that_says_until_when_and_no_failure(agents: Box) -> None:
    protocol = made(agents, "model", engine="acp:asks")
    with serving() as provider:
        provider.more = [(429, {"Retry-After": "9000"})]
        environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{provider.url}/v1"}
        result = agents.runner("run", protocol, rc=69, env=environ)
        assert re.search(r"wait 2 h 30 min, until (\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)? UTC", result.err)
        provider.more = [(429, {"Retry-After": "1"})]
        result = agents.runner("run", protocol, rc=0, env=environ)
        assert "takes no more requests for now (429); asked again in 1 s" in result.err
    assert agents.state(protocol)["steps"]["do"]["attempt"] == 1
    sound(agents, protocol)


@pytest.mark.slow
def test_its_model_is_not_asked_past_the_budget(agents: Box) -> None:
    protocol = made(agents, "\n".join(["model"] * 160), "budget: {tokens: 18000}", engine="acp:asks")
    with serving() as provider:
        environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{provider.url}/v1"}
        result = agents.runner("run", protocol, env=environ)
    assert result.code == 3 and "of 18,000 tokens are used" in result.err
    assert (
        len(provider.heard) == 154
    )  # of 117 tokens each: the last one reaches the budget, and is the only one that exceeds it
    assert "the budget of 18,000 tokens is used up" in said(agents, protocol)


def test_without_a_key_for_its_model_it_does_not_start(agents: Box) -> None:
    protocol = made(agents, "model", engine="acp:asks")
    result = agents.runner("run", protocol)
    assert result.code == 2 and "no key for the model of acp:asks is set" in result.err


def test_it_neither_plans_nor_reviews(agents: Box) -> None:
    result = agents.runner("plan", "--engine", "acp:fake", "something")
    assert result.code == 2 and "Traceback" not in result.err


def test_a_program_with_a_command_line_works_and_its_diff_is_the_proof(agents: Box) -> None:
    agents.write("plan.sh", "echo made > out\necho done\n")
    agents.commit("a plan")
    push(agents)
    protocol = made(agents, "Make out.", 'qa: {checks: ["grep -q made out"]}', engine="cli:tool")
    result = agents.runner("run", protocol, rc=0)
    assert agents.git("show", f"{protocol}:out") == "made\n"
    assert "price not known" in result.err
    sound(agents, protocol)


def test_what_a_program_was_refused_is_the_attempts_output(agents: Box) -> None:
    config = (agents.path / ".protocols/config.yaml").read_text()
    agents.write(".protocols/config.yaml", config.replace("env: [LETTER]", "network: [example.test]"))
    agents.write("plan.sh", f"{GET} http://other.test/ 2> /dev/null || echo made > out\n")
    agents.commit("a plan")
    push(agents)
    protocol = made(agents, "Make out.", engine="cli:tool")
    agents.runner("run", protocol, rc=0)
    assert "[network] other.test:80 refused: " in agents.runner("show", protocol, "--output", "do", rc=0).out


@pytest.mark.parametrize(("script", "words"), [("exit 0", "changed no file"), ("echo bad; exit 4", "exit 4: bad")])
def test_a_program_that_fails_or_changes_nothing_fails_its_attempt(agents: Box, script: str, words: str) -> None:
    agents.write("plan.sh", f"{script}\n")
    agents.commit("a plan")
    push(agents)
    protocol = made(agents, "Make out.", engine="cli:tool")
    assert agents.runner("run", protocol).code == 1
    assert words in agents.state(protocol)["steps"]["do"]["reason"]


def test_engines_tells_whether_an_agents_program_is_there(agents: Box) -> None:
    assert "acp:fake  is there" in agents.runner("engines", "acp:fake", rc=0).out
    result = agents.runner("engines", "acp:lost")
    assert result.code == 2 and "is not on the PATH" in result.err


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("acp:fake/edit", {"path": "docs/a.txt"}), ""),
        (("acp:fake/edit", {"path": "secret/a"}), "the policy denies the call of acp:fake/edit"),
        (("acp:fake/edit", {"path": "docs/b", "paths": ["docs/b", "deploy/a"]}), "needed an approval"),
        (("acp:back/execute", {"command": "true"}), "the policy denies the call of acp:back/execute"),
    ],
)
def test_verify_refuses_a_call_that_the_policy_does_not_allow(agents: Box, call: tuple[str, Any], words: str) -> None:
    protocol = made(agents, "say hello")
    git, commit = agents.session().git, agents.git("rev-parse", protocol).strip()
    named = Named(commit, "step-finished", "do", 1, "")
    trusted = agents.git("rev-parse", "main").strip()
    found = transcripts._call_wrong(git, protocol, named, [(*call, False)], set(), trusted, "main")
    assert words in (found or "") and bool(found) == bool(words)


def test_verify_compares_the_calls_with_the_agents_own_output(agents: Box) -> None:
    protocol = made(agents, "half\nedit docs/a.txt hello")
    agents.runner("run", protocol, rc=0)
    lines = transcript(agents, protocol, "do.1")
    for old, new, words in (
        ('"docs/a.txt"', '"docs/b.txt"', "is another one in the agent's own output"),
        ('"acp:fake/edit"', '"acp:fake/execute"', "is another one in the agent's own output"),
        ('"content": "hello"', '"content": "other"', "is another one in the agent's own output"),
        ('"id": "call-', '"id": "all-', "is missing from"),
        ("a", "a", ""),
    ):
        forged = [
            {**json.loads(json.dumps({**row, "raw": None}).replace(old, new)), "raw": row["raw"]}
            for row in lines
            if row["kind"] == "response"
        ]
        found = "".join(transcripts._unsaid([parsed.model_validate(row) for row in forged]))
        assert words in found and bool(found) == bool(words)


@pytest.mark.parametrize(
    "line", ["edit docs/a.txt x", "sneak docs/a.txt", "write docs/a.txt x", "run true", "read docs/b"]
)
def test_verify_finds_a_call_that_was_left_out_of_the_record(agents: Box, line: str) -> None:
    protocol = made(agents, f"edit docs/b x\n{line}\nedit docs/c x")
    agents.runner("run", protocol, rc=0)
    lines = [row for row in transcript(agents, protocol, "do.1") if row["kind"] == "response"]
    assert not [*transcripts._unsaid([parsed.model_validate(row) for row in lines])]
    lines[1]["calls"] = []
    found = [*transcripts._unsaid([parsed.model_validate(row) for row in lines])]
    assert found and all("leaves out a call that the agent's own output has" in one for one in found)


@pytest.mark.parametrize(
    "path", ["/w/t/secret/a", "/w/./t/secret/a", "//w/t//secret/a", "/w/t/docs/../secret/a", "secret/a"]
)
def test_a_path_is_the_same_however_it_is_spelled(path: str) -> None:
    assert relative(path, ("/w/t",)) == "secret/a"
