"""The peers' harness: real processes against the real endpoint. The peers themselves are run by `make peers`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.agent.record import script
from benchmarks.agent.running import ROOT, Scratch
from benchmarks.agent.tasks import TASKS, Task
from benchmarks.peers.__main__ import failed
from benchmarks.peers.agents import AGENTS, Agent, shell
from benchmarks.peers.endpoint import GEMINI, MESSAGES, RESPONSES, Exchange, Turn, Upstream, serving, waited
from benchmarks.peers.installing import Missing, Pin, install, pins
from benchmarks.peers.running import Row, Run, markdown, run_peer, run_runner
from runner.engines import Request, ToolResult, ToolSpec, ToolTurn, UserTurn
from runner.engines.registry import open_engine
from tests.conftest import mostly_slow
from tests.engines import wire_gemini

# An agent of OpenAI's responses format, as small as can be: it has one tool, and ends when no call comes.
SMALL = """
import json, os, subprocess, sys, urllib.request
said = [{"role": "user", "content": sys.argv[2]}]
while True:
    body = {"model": "m", "stream": True, "input": said, "tools": [{"type": "function", "name": "exec_command"}]}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["ONE_KEY"]}
    asked = urllib.request.Request(sys.argv[1] + "/v1/responses", json.dumps(body).encode(), headers)
    lines = [line[6:] for line in urllib.request.urlopen(asked).read().decode().splitlines() if line.startswith("data: ")]
    calls = [item for item in json.loads(lines[-1])["response"]["output"] if item["type"] == "function_call"]
    if not calls:
        break
    for call in calls:
        done = subprocess.run(json.loads(call["arguments"])["cmd"], shell=True, capture_output=True, text=True)
        said += [call, {"type": "function_call_output", "call_id": call["call_id"], "output": done.stdout}]
"""


def peer(tmp_path: Path, code: str, turns: Sequence[Turn] | None = None) -> tuple[Agent, Path]:
    """Return an agent that is a Python program, and the program."""
    program = tmp_path / "agent.py"
    program.write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
    program.chmod(0o755)
    codex = next(agent for agent in AGENTS if agent.name == "codex")
    agent = Agent(
        "small",
        RESPONSES,
        argv=lambda program, url, _model, text: [str(program), url, text],
        env=lambda _url, key: {"ONE_KEY": key},
        script=codex.script if turns is None else lambda _task: turns,
    )
    return agent, program


def run(tmp_path: Path, code: str, turns: Sequence[Turn] | None = None, limit: float = 60) -> Run | Missing:
    agent, program = peer(tmp_path, code, turns)
    with serving() as endpoint:
        return run_peer(agent, program, TASKS[0], endpoint, "m", "host", limit)


@pytest.mark.parametrize("task", mostly_slow(TASKS, 3), ids=lambda task: task.name)
def test_the_shells_commands_solve_a_task(task: Task, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, "host", {})
    scratch.lay(task)
    assert not scratch.holds(task, scratch.at)
    look, edit = (command for thought in task.thoughts for command in shell(thought))
    assert task.wrong in scratch.do("bash", "-c", look).stdout
    scratch.do("bash", "-c", edit)
    assert scratch.holds(task, scratch.at)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_blocks_of_aider_replace_whole_lines_of_a_task(task: Task) -> None:
    block = next(one for one in AGENTS if one.name == "aider").script(task)[1].text
    path, old, new = (
        block.partition("\n")[0],
        *block.partition("SEARCH\n")[2].partition(">>>>>>>")[0].split("=======\n"),
    )
    mended = f"\n{task.files()[path]}".replace(f"\n{old}", f"\n{new}")
    assert mended[1:] == task.files()[path].replace(task.wrong, task.right, 1) != task.files()[path]


def test_the_runner_does_a_task_against_the_endpoint() -> None:
    with serving() as endpoint:
        done = run_runner(TASKS[0], endpoint, "gemini-2.5-flash", "host")
        assert isinstance(done, Run)
        assert (done.solved, done.turns, done.requests, done.said) == (True, 2, 2, "")
        assert 2 * done.first_bytes < done.bytes_sent <= 4 * done.input_tokens
        assert 0 < done.outside < done.seconds


@pytest.mark.parametrize("astray", ["cut", "patch", "check"])
@pytest.mark.slow
def test_the_runner_solves_a_task_in_one_attempt_whatever_goes_wrong_on_the_way(astray: str) -> None:
    with serving() as endpoint:
        done = run_runner(replace(TASKS[0], astray=astray), endpoint, "gemini-2.5-flash", "host", "runner do")
        assert isinstance(done, Run)
        assert (done.solved, done.turns, done.said) == (True, 3, "")


@pytest.mark.slow
def test_requests_are_passed_on_with_the_real_key_and_counted_as_the_model_counts() -> None:
    # The strict server refuses any other key, and whatever Gemini's API would not take.
    with (
        wire_gemini.serving(*script(TASKS[0])) as wire,
        serving({GEMINI: Upstream(f"{wire.url}/v1beta", wire_gemini.KEY)}) as endpoint,
    ):
        done = run_runner(TASKS[0], endpoint, "gemini-2.5-flash", "host")
        assert not wire.wrong
        assert isinstance(done, Run)
        assert (done.solved, done.turns, done.input_tokens, done.output_tokens) == (True, 3, 300, 60)


def test_a_peer_is_a_process_that_asks_the_endpoint(tmp_path: Path) -> None:
    done = run(tmp_path, SMALL)
    assert isinstance(done, Run)
    assert (done.solved, done.turns, done.requests, done.said) == (True, 3, 3, "")
    assert 0 < done.outside < done.seconds


def test_the_other_format_is_passed_on_too(tmp_path: Path) -> None:
    agent, program = peer(tmp_path, SMALL)
    with serving() as real, serving({RESPONSES: Upstream(f"{real.url}/v1", real.key)}) as endpoint:
        real.expect(agent.script(TASKS[0]))
        done = run_peer(agent, program, TASKS[0], endpoint, "m", "host", 60)
        assert isinstance(done, Run)
        assert (done.solved, done.turns) == (True, 3)
        assert done.input_tokens == sum(one.input_tokens for one in real.exchanges) > 100
        assert done.bytes_sent == sum(one.size for one in real.exchanges)


@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
def test_an_answer_is_read_by_the_providers_own_client_and_counted_alike_when_it_is_passed_on(
    provider: str, tmp_path: Path
) -> None:
    tool = ToolSpec(name="shell", description="x" * 5000, parameters={"type": "object"})
    request = Request(system="s", turns=(UserTurn(text="hi"),), tools=(tool,))
    call = ("shell", {"command": "true"})
    with serving() as real:
        passed = {GEMINI: Upstream(f"{real.url}/v1beta", real.key), MESSAGES: Upstream(f"{real.url}/v1", real.key)}
        with serving(passed) as endpoint:
            real.expect([Turn([call, call]), Turn(cut=True), Turn(text="That is all.")])
            names = {"anthropic": "ANTHROPIC_BASE_URL", "gemini": "GOOGLE_GEMINI_BASE_URL"}
            env = {f"{provider.upper()}_API_KEY": endpoint.key, names[provider]: endpoint.url}
            engine = open_engine(f"{provider}:m", env, tmp_path)
            first = engine.ask(request, timeout=10)
            assert [(one.name, one.arguments) for one in first.turn.calls] == [call, call]
            results = ToolTurn(
                results=tuple(ToolResult(id=one.id, name="shell", content="ok") for one in first.turn.calls)
            )
            longer = replace(request, turns=(*request.turns, first.turn, results))
            assert engine.ask(longer, timeout=10).finish == "length"
            last = engine.ask(longer, timeout=10)
            assert last.turn.text == "That is all."
            counted = [(one.input_tokens, one.output_tokens, one.cached_tokens) for one in endpoint.exchanges]
            assert counted == [(one.input_tokens, one.output_tokens, one.cached_tokens) for one in real.exchanges]
            assert (last.usage.input, last.usage.output, last.usage.cached) == counted[-1]
            assert 1024 <= counted[-1][2] < counted[-1][0]


def test_nothing_is_passed_on_without_the_servers_own_key(tmp_path: Path) -> None:
    agent, program = peer(tmp_path, SMALL)
    stranger = replace(agent, env=lambda _url, _key: {"ONE_KEY": "another"})
    with serving() as real, serving({RESPONSES: Upstream(f"{real.url}/v1", real.key)}) as endpoint:
        real.expect(agent.script(TASKS[0]))
        done = run_peer(stranger, program, TASKS[0], endpoint, "m", "host", 60)
        assert isinstance(done, Missing)
        assert "401" in done.reason
        assert not real.exchanges


def test_a_peer_that_asks_nothing_has_not_started(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys; sys.exit('no such setting')")
    assert done == Missing("does not start: exit 1: no such setting")


def test_a_peer_that_changes_the_test_has_not_solved_the_task(tmp_path: Path) -> None:
    call = ("exec_command", {"cmd": "echo \"print('ok')\" > test_mdurl.py"})
    done = run(tmp_path, SMALL, [Turn([call]), Turn()])
    assert isinstance(done, Run)
    assert (done.solved, done.turns) == (False, 2)


def test_a_tool_that_a_peer_does_not_offer_is_not_called(tmp_path: Path) -> None:
    done = run(tmp_path, SMALL, [Turn([("bash", {"command": "true"})])])
    assert isinstance(done, Run)
    assert (done.solved, done.turns) == (False, 0)
    assert done.said == "`bash` is not among the tools: exec_command"


def test_an_answer_that_is_cut_is_given_once_and_what_repeats_is_counted_as_cached(tmp_path: Path) -> None:
    # It asks again after the first answer without calls, and a long tool makes the start of its requests worth keeping.
    again = SMALL.replace("    if not calls:\n        break", "    ends += not calls\n    if ends == 2:\n        break")
    again = again.replace('"name": "exec_command"', '"name": "exec_command", "description": "x" * 5000')
    call = ("exec_command", {"cmd": "true"})
    done = run(tmp_path, f"ends = 0\n{again}", [Turn(text="The bug", cut=True), Turn([call]), Turn()])
    assert isinstance(done, Run)
    assert (done.turns, done.requests) == (3, 3)
    assert 2 * 1024 <= done.cached_tokens < done.input_tokens


def test_a_peer_that_does_not_end_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    call = ("exec_command", {"cmd": f"exec 3> {held}; echo started >&3; exec sleep 100"})
    done = run(tmp_path, SMALL, [Turn([call])], limit=2)
    assert isinstance(done, Run)
    assert not done.solved
    assert done.said.startswith("stopped after 2 s")
    assert os.read(reader, 100) == b"started\n"
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end comes when nobody holds it any more
    os.close(reader)


def test_what_cannot_be_installed_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = install(Pin("pip", ("nothing==1",), "nothing"), tmp_path / "late", limit=0.01)
    assert late == Missing("not installed: pip took longer than 0 s")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install(pins()["codex"], tmp_path / "codex") == Missing("not installed: there is no npm here")


def test_every_peer_is_pinned_to_a_version() -> None:
    assert set(pins()) == {agent.name for agent in AGENTS}
    for pin in pins().values():
        assert all(package.lstrip("@").count("==" if pin.client == "pip" else "@") == 1 for package in pin.packages)
        assert pin.version[0].isdigit()


def test_what_was_not_measured_is_an_empty_cell_and_no_failure() -> None:
    measured = Run("runner", "a", True, 3, 3, 9000, 2500, 2250, 20, 1.5, 1.25, "")
    rows = [Row("runner", "1.0", [measured]), Row("codex", "2.0", [Missing("not installed: there is no npm here")])]
    lines = markdown(rows, counted="tokens").splitlines()
    assert lines[2] == "| runner 1.0 | 1 of 1 | 3 | 3 | 2.5 kB | 9 kB | 2,250 | 0 | 20 |  | 1.50 s | 1.25 s |  |"
    assert lines[3] == "| codex 2.0 | | | | | | | | | | | | not installed: there is no npm here |"
    assert {line.count("|") for line in lines} == {14}
    assert not failed(rows)
    assert failed([Row("runner", "1.0", [Missing("does not start")])])
    assert failed([Row("codex", "2.0", [Run("codex", "a", False, 1, 1, 9, 9, 3, 1, 1.0, 1.0, "exit 1")])])


def test_requests_at_the_same_time_are_waited_for_once() -> None:
    spans = [(1.0, 3.0), (2.0, 4.0), (2.5, 2.6), (6.0, 7.0)]
    assert waited([Exchange(GEMINI, 1, True, began, ended) for began, ended in spans]) == 4.0


def test_a_real_model_without_a_key_is_refused() -> None:
    env = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    argv = [sys.executable, "-m", "benchmarks.peers", "--agent", "codex", "--openai", "m"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in done.stderr or "bubblewrap" in done.stderr
