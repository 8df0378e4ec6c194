"""An agent step through the command line and the real google-genai package, beside a local endpoint of Gemini's format."""

from __future__ import annotations

import base64
import importlib
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.executor import spending
from runner.protocol.ids import digest
from tests.conftest import Box, command, mostly_slow, slack
from tests.engines.wire_gemini import KEY, Refusal, Reply, Silence, error, sse
from tests.executor.minds import (
    ENGINE,
    Script,
    agent,
    ask,
    finish,
    lead,
    mind,
    say,
    sound,
    texts,
    transcript,
    write,
)
from tests.tools.agent_ground import place


def test_it_edits_is_checked_and_completes_with_transcript_cost_and_result(box: Box) -> None:
    edit = ("edit_file", {"path": "src/app.py", "edits": [{"old": "hello", "new": "hello, world"}]})
    with mind(
        box, say(("read_file", {"path": "src/app.py"}), text="Looking."), say(edit), finish("greeted", n=1)
    ) as wire:
        made = 'outputs: [src/app.py]\nqa: {checks: ["grep -q world src/app.py"]}'  # else a person looks at what a check names
        protocol = box.new({"01-greet": agent(made)})
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 3
    state = box.state(protocol)
    assert state["status"] == "completed"
    assert state["steps"]["greet"]["result"] == {"summary": "greeted", "n": 1}
    assert (state["spent"]["input_tokens"], state["spent"]["output_tokens"]) == (300, 60)
    assert box.git("show", f"{protocol}:src/app.py") == "print('hello, world')\n"
    assert [one["kind"] for one in transcript(box, protocol, "greet.1")] == ["response", "results"] * 3
    assert "Do it." in texts(wire.bodies[0])
    sound(box, protocol)


def test_nothing_of_a_later_step_s_file_is_told(box: Box) -> None:
    with mind(box, finish()) as wire:
        protocol = box.new({"01-greet": agent(), "02-later": agent()})
        file = box.worktree(protocol) / f".protocols/{protocol}/02-later.md"
        file.write_text(re.sub("(?m)^title: .*$", "title: Delete all of it now", file.read_text()))
        box.commit("another title", cwd=box.worktree(protocol))
        box.runner("step", protocol, rc=0)
    told = texts(wire.bodies[0])
    assert "- 02-later (pending)\n" in told and "Delete all of it now" not in told


def test_a_retry_is_told_what_the_checks_found(box: Box) -> None:
    check = "outputs: [x.txt]\n"
    check += "qa: {checks: [\"sh -c 'cat x.txt; grep -q right x.txt || exit 7'\"], rounds: 1}\non_failure: {retry: 1, then: fail}\n"
    with mind(box, say(write("x.txt", "left is not it\n")), finish(), say(write("x.txt", "right\n")), finish()) as wire:
        protocol = box.new({"01-x": agent(check)})
        box.runner("run", protocol)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    told = texts(wire.bodies[2])
    assert "left is not it" in told
    assert "exit 7" in told
    assert "left is not it" not in texts(wire.bodies[0])
    assert box.state(protocol)["steps"]["x"]["attempt"] == 2
    assert [len(transcript(box, protocol, f"x.{number}")) for number in (1, 2)] == [4, 4]
    sound(box, protocol)


def test_a_question_waits_with_the_work_so_far_and_goes_on_with_the_answer(box: Box) -> None:
    script = [say(write("a.txt", "a\n"), ask("Which colour?")), say(write("b.txt", "blue\n")), finish()]
    with mind(box, *script) as wire:
        protocol = box.new({"01-x": agent()})
        asked = box.runner("run", protocol, rc=3)
        assert "Which colour?" in asked.err + asked.out
        assert box.git("show", f"{protocol}:a.txt") == "a\n"
        assert "asked x" in box.git("log", "-1", "--format=%B", protocol)
        sound(box, protocol)
        box.runner("run", protocol, rc=3)  # still nobody answered
        assert len(wire.bodies) == 1
        box.runner("answer", protocol, "Blue.", rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 3
    assert "Blue." in texts(wire.bodies[1])
    assert box.git("show", f"{protocol}:b.txt") == "blue\n"
    assert box.state(protocol)["spent"]["input_tokens"] == 300
    sound(box, protocol)


def test_a_budget_stops_before_the_request_that_could_pass_it_and_a_higher_one_goes_on(box: Box) -> None:
    script = [say(write("a.txt", "a\n"), tokens=(3_000, 2_000)), say(write("b.txt", "b\n")), finish()]
    with mind(box, *script) as wire:
        protocol = box.new({"01-x": agent()}, front="budget: {tokens: 21500}\n")
        stopped = box.runner("run", protocol, rc=3)
        assert "5,000 of 21,500 tokens" in stopped.err + stopped.out
        assert len(wire.bodies) == 1
        assert "budget-reached x" in box.git("log", "-1", "--format=%B", protocol)
        assert box.state(protocol)["spent"]["input_tokens"] == 3_000
        sound(box, protocol)
        box.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1
        plan = box.worktree(protocol) / ".protocols" / protocol / "plan.md"
        plan.write_text(plan.read_text().replace("21500", "90000"))
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
        assert wire.wrong == []
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    assert box.state(protocol)["spent"]["input_tokens"] == 3_200
    sound(box, protocol)


def test_work_that_changed_no_file_says_so(box: Box) -> None:
    with mind(box, finish("NEWS.md is written"), say(write("a.txt", "a\n")), finish()):
        protocol = box.new({"01-x": agent(), "02-y": agent()})
        lines = box.runner("run", protocol, rc=0).err.splitlines()
    first, second = (next(line for line in lines if line.startswith(name)) for name in ("01-x", "02-y"))
    assert "no file changed" in first and second.endswith("a.txt")


def test_a_budget_of_the_policy_is_named_and_raised_there_and_in_the_step(box: Box) -> None:
    def budget(usd: str) -> None:
        box.write(".protocols/policy.yaml", f"repo: {'6f0c' * 8}\nbudget: {{step: {{usd: {usd}}}}}\n")
        box.commit(f"budget {usd}")

    budget("0.05")
    with mind(box, say(write("a.txt", "a\n"), tokens=(10_000, 16_000)), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        assert (
            "; change `budget:` in .protocols/policy.yaml on main, then set one in 01-x.md too\n"
            in box.runner("run", protocol, rc=3).err
        )
        assert len(wire.bodies) == 1
        budget("5")
        step = box.worktree(protocol) / f".protocols/{protocol}/01-x.md"
        step.write_text(step.read_text().replace("kind: agent\n", "kind: agent\nbudget: {usd: 5}\n"))
        box.runner("run", protocol, rc=0)
    sound(box, protocol)


def test_a_budget_in_money_is_kept(box: Box) -> None:
    script = [say(write("a.txt", "a\n"), tokens=(10_000, 16_000)), finish()]
    with mind(box, *script) as wire:
        protocol = box.new({"01-x": agent("budget: {usd: 0.05}\n")})
        stopped = box.runner("run", protocol, rc=3)
        assert "$0.05" in stopped.err + stopped.out
        assert "; see `budget:` in 01-x.md\n" in stopped.err
        assert "$0.0" in stopped.err and "of $0.05 are used" in stopped.err
        assert "next          runner edit 1 x\n" in stopped.err
        status = box.runner("status", protocol, rc=0).out
        assert "for anyone: budget of 01-x, since" in status and status.endswith("  runner edit 1 x\n")
        assert len(wire.bodies) == 1
    sound(box, protocol)


@pytest.mark.parametrize(
    ("step", "plan", "file", "typed"),
    [("", "{tokens: 9000}", "plan.md", "1"), ("{tokens: 9000}", "{usd: 9, tokens: 90000}", "01-x.md", "1 x"),
     ("{tokens: 90000}", "{turns: 1}", "plan.md", "1"), ("{turns: 1}", "{turns: 1}", "01-x.md", "1 x")],
)  # fmt: skip
def test_a_budget_that_is_reached_names_its_own_file_and_that_alone(
    box: Box, step: str, plan: str, file: str, typed: str
) -> None:
    """Seen: with the limit in plan.md, what to type opened the step's file, again and again."""
    with mind(box, say(write("a.txt", "a\n"), tokens=(5_000, 500)), finish()):
        protocol = box.new({"01-x": agent(f"budget: {step}\n" if step else "")}, front=f"budget: {plan}\n")
        stopped = box.runner("run", protocol, rc=3).err
        assert f"; see `budget:` in {file}\n" in stopped and f"next          runner edit {typed}\n" in stopped
        assert box.runner("status", protocol, rc=0).out.endswith(f"  runner edit {typed}\n")


def test_turns_that_nobody_limited_end_too_and_the_step_may_be_given_more(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "TURNS", 1)
    with mind(box, say(write("a.txt", "a\n")), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        stopped = box.runner("run", protocol, rc=3)
        assert "1 of 1 turns are used up; see `budget:` in 01-x.md\n" in stopped.err
        step = box.worktree(protocol) / ".protocols" / protocol / "01-x.md"
        step.write_text(step.read_text().replace("kind: agent", "kind: agent\nbudget: {turns: 2}"))
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2
    sound(box, protocol)


def test_a_price_that_is_not_known_is_said_where_money_is_limited(box: Box) -> None:
    with mind(box, finish()) as wire:
        protocol = box.new({"01-x": agent("budget: {usd: 5}\n", engine="gemini:nobody-has-priced-this")})
        stopped = box.runner("run", protocol, rc=3)
        assert "price" in stopped.err + stopped.out
        assert wire.bodies == []
    sound(box, protocol)


def test_a_third_reply_in_a_row_without_a_call_fails_the_attempt_with_the_reason(box: Box) -> None:
    with mind(box, say(text="Hm."), say(text="Hm?"), say(text="Hm!")) as wire:
        protocol = box.new({"01-x": agent()})
        assert "called no tool" in box.runner("run", protocol, rc=1).err
        assert len(wire.bodies) == 3
    assert box.state(protocol)["steps"]["x"]["status"] == "failed"
    sound(box, protocol)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_said_and_nothing_is_recorded(box: Box, status: int) -> None:
    with mind(box, Refusal(code=status, body=error(status, "UNAUTHENTICATED", "no such key"))):
        protocol = box.new({"01-x": agent()})
        before = box.git("rev-parse", protocol)
        refused = box.runner("step", protocol, rc=69)
        assert "key" in refused.err
        assert box.git("rev-parse", protocol) == before
    sound(box, protocol)


@pytest.mark.slow
def test_an_endpoint_that_is_down_records_nothing_and_loses_nothing(box: Box) -> None:
    script: list[Reply] = [
        say(write("a.txt", "a\n")),
        Refusal(code=400, body=error(400, "INVALID_ARGUMENT", "no")),
        finish(),
    ]
    importlib.import_module("google.genai")  # takes seconds where the machine is busy
    with mind(box, *script) as wire:
        protocol = box.new({"01-x": agent(f"timeout: {math.ceil(5 * slack())}s\n")})
        before = box.git("rev-parse", protocol)
        box.runner("step", protocol, rc=69)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            lead(box, f"http://127.0.0.1:{taken.getsockname()[1]}")
            down = box.runner("step", protocol, rc=69)
        assert len([line for line in down.err.splitlines() if "; asked again in " not in line]) == 3
        assert "Traceback" not in down.err
        assert box.git("rev-parse", protocol) == before
        sound(box, protocol)
        lead(box, wire.url)
        box.runner("step", protocol, rc=0)
        assert len(wire.bodies) == 3  # the first answer was not asked for again
        assert wire.wrong == []
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    sound(box, protocol)


def test_interrupted_it_ends_within_two_seconds_and_goes_on(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n")), Silence(), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        before = box.git("rev-parse", protocol)
        process = box.start("run", protocol)
        by = time.monotonic() + 100
        while len(wire.bodies) < 2 and time.monotonic() < by and process.poll() is None:
            time.sleep(0.02)
        assert len(wire.bodies) == 2, process.communicate()
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=100)
        # Two seconds where a core is free; as much longer as others wait for one.
        assert time.monotonic() - began < 2 * slack()
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert box.git("rev-parse", protocol) == before
        sound(box, protocol)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    sound(box, protocol)


def test_killed_in_an_answer_its_bytes_are_there_until_the_next_one_is_whole(box: Box) -> None:
    half = sse({"candidates": [{"content": {"role": "model", "parts": [{"text": "Hel"}]}, "index": 0}]})

    def kept() -> list[bytes]:
        return [path.read_bytes() for path in (box.path / ".git").rglob("*.arriving")]

    with mind(box, say(write("a.txt", "a\n")), Silence(data=half), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        process = box.start("run", protocol)
        by = time.monotonic() + 100
        while kept() != [half] and time.monotonic() < by and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=100)
        assert kept() == [half]
        box.runner("run", protocol, rc=0)
        assert (len(wire.bodies), kept()) == (3, [])
    sound(box, protocol)


def test_an_artifact_behind_a_link_is_not_looked_at(box: Box, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("canary")
    (box.path / "lead").symlink_to(tmp_path / "outside")
    box.commit("a link that leads out")
    asked = [
        ("publish_artifact", {"path": path})
        for path in ("lead/secret", "lead/none", "x" * 5000, "/workspace/README.md")
    ]
    with mind(box, say(*asked), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
        answers = [part["functionResponse"]["response"] for part in wire.bodies[1]["contents"][-1]["parts"]]
    assert [list(answer) for answer in answers] == [["error"], ["error"], ["error"], ["output"]]
    assert "canary" not in str(answers) and digest(b"canary") not in str(answers)
    assert answers[3]["output"] == {"path": "README.md", "digest": digest(b"# a project\n")}
    sound(box, protocol)


def test_a_result_that_the_log_cannot_hold_goes_back_to_the_model(box: Box) -> None:
    deep: object = 1
    for _ in range(80):
        deep = [deep]
    with mind(box, finish("big", n=10**400), finish("deep", n=deep), finish("done", n=1)) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
        assert "300 digits" in texts(wire.bodies[1])
        assert "nested" in texts(wire.bodies[2])
    assert box.state(protocol)["steps"]["x"]["result"] == {"summary": "done", "n": 1}
    sound(box, protocol)


def test_a_repository_that_the_model_makes_in_the_workspace_does_not_stop_the_step(box: Box) -> None:
    place("sandbox")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    lines = ("git init -q sub && echo x > sub/x", "rm -rf sub && echo y > y.txt")
    with mind(box, *(say(("shell", {"command": line})) for line in lines), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.git("show", f"{protocol}:y.txt") == "y\n"
    sound(box, protocol)


@pytest.mark.parametrize("kind", ["agent", "command"])
@pytest.mark.parametrize("known", mostly_slow([True, False], 1))
def test_a_repository_in_the_workspace_runs_nothing_outside_the_sandbox(
    box: Box, tmp_path: Path, kind: str, known: bool
) -> None:
    place("sandbox")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    if known:  # as a submodule that nobody set up, and that .gitmodules does not name
        box.git("update-index", "--add", "--cacheinfo", f"160000,{box.git('rev-parse', 'HEAD').strip()},sub")
        box.git("commit", "-qm", "a submodule")
    flag = tmp_path / "outside"  # the sandbox has a /tmp of its own
    lines = (
        "mkdir -p sub && cd sub && git init -q && echo x > x && git add x",
        "git -c user.name=t -c user.email=t@example.test commit -qm x",
        f"git config filter.f.clean 'touch {flag}' && git config core.fsmonitor 'touch {flag}'",
        "echo '* filter=f' > .gitattributes && echo y > x",
    )
    evil = " && ".join(lines)
    with mind(box, say(("shell", {"command": evil})), say(write("a.txt", "a\n")), say(write("b.txt", "b\n")), finish()):
        protocol = box.new({"01-x": agent() if kind == "agent" else command(evil)})
        assert "a repository of its own" in box.runner("run", protocol, rc=1).err
    assert not flag.exists()
    box.runner("verify", protocol, rc=0)


@pytest.mark.parametrize(
    "line",
    [
        "mkfifo .gitignore",
        pytest.param("mkdir d && touch d/x && mkfifo d/.gitattributes", marks=pytest.mark.slow),
        pytest.param("rm README.md && mkfifo README.md", marks=pytest.mark.slow),
        pytest.param("mkdir -p d/.git && mkfifo d/.git/HEAD", marks=pytest.mark.slow),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_at(box: Box, line: str) -> None:
    place("sandbox")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    with mind(box, say(("shell", {"command": line})), finish()):
        protocol = box.new({"01-x": agent()})
        process = box.start("run", protocol)
        try:
            _, said = process.communicate(timeout=100)
        finally:
            process.kill()
        assert process.returncode == 0, said
    sound(box, protocol)


def test_an_encoding_that_the_files_are_not_in_fails_the_attempt_and_stops_no_more(box: Box) -> None:
    box.write(".gitattributes", "*.u16 working-tree-encoding=UTF-16\n")
    box.commit("attributes")
    with mind(box, say(write("x.u16", "no mark of its order\n")), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        assert "UTF-16" in box.runner("run", protocol, rc=1).err
        assert len(wire.bodies) == 1
    assert box.state(protocol)["steps"]["x"]["status"] == "failed"
    sound(box, protocol)


def test_a_coworkers_engine_and_budget_hold(box: Box) -> None:
    told = f"name: coder\nobjective: o\ninstructions: i\nengine: {ENGINE}\nbudget: {{calls: 1}}\n"
    box.write(".protocols/agents/coder.yaml", told)
    box.commit("a coworker")
    with mind(box, say(write("a.txt", "a\n"), write("b.txt", "b\n")), finish()) as wire:
        protocol = box.new({"01-x": "kind: agent\nagent: coder\n"})
        assert "1 calls are used up" in box.runner("run", protocol, rc=3).err
        assert len(wire.bodies) == 1
    sound(box, protocol)


def test_a_budget_of_calls_that_is_raised_goes_on(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n"), write("b.txt", "b\n")), say(write("c.txt", "c\n")), finish()) as wire:
        protocol = box.new({"01-x": agent("budget: {calls: 1}\n")})
        box.runner("run", protocol, rc=3)
        step = box.worktree(protocol) / ".protocols" / protocol / "01-x.md"
        step.write_text(step.read_text().replace("calls: 1", "calls: 9"))
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.git("show", f"{protocol}:c.txt") == "c\n"
    sound(box, protocol)


def test_without_the_package_one_line_says_what_to_install(box: Box, tmp_path: Path) -> None:
    (tmp_path / "bare/google").mkdir(parents=True)
    (tmp_path / "bare/google/__init__.py").write_text("")  # a namespace that has no genai in it
    protocol = box.new({"01-x": agent()})
    done = subprocess.run(
        [sys.executable, "-m", "runner", "step", protocol],
        cwd=box.path,
        env={
            **box.environment({"GEMINI_API_KEY": "k" * 20}),
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "bare"), str(Path(__file__).parents[2])]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'protocol-runner[gemini]'" in done.stderr
    assert "Traceback" not in done.stderr
    sound(box, protocol)


def test_without_a_key_it_says_which_were_looked_for(box: Box) -> None:
    protocol = box.new({"01-x": agent()})
    refused = box.runner("step", protocol, rc=2)
    assert "GEMINI_API_KEY" in refused.err
    assert "GOOGLE_API_KEY" in refused.err
    sound(box, protocol)


def test_a_persons_commit_during_the_step_is_carried_over_without_new_requests(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n")), finish()) as wire:
        protocol = box.new({"01-x": agent(), "02-y": command("cat a.txt theirs.txt > both.txt")})
        at = box.worktree(protocol)

        def commit() -> None:
            (at / "theirs.txt").write_text("theirs\n")
            box.commit("theirs", cwd=at)

        assert isinstance(wire.script, Script)
        wire.script.before[1] = commit
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2
    assert box.git("show", f"{protocol}:both.txt") == "a\ntheirs\n"
    assert "theirs" in box.git("log", "--format=%s", protocol).splitlines()
    sound(box, protocol)


def test_a_recording_made_with_record_answers_the_same_step_without_a_network(box: Box, tmp_path: Path) -> None:
    cassette = tmp_path / "one.jsonl"
    with mind(box, say(write("a.txt", "a\n")), finish()):
        first = box.new({"01-x": agent()}, title="Same")
        box.runner("run", first, "--record", cassette, rc=0)
    lead(box, "http://127.0.0.1:9")
    again = box.new({"01-x": agent()}, title="Same")
    box.runner("run", again, "--engine", f"recorded:{cassette}", rc=0)
    assert box.git("show", f"{again}:a.txt") == "a\n"
    assert box.state(again)["spent"]["usd"] == box.state(first)["spent"]["usd"]
    sound(box, again)


def test_a_recording_holds_no_key_and_answers_as_the_model_did(box: Box, tmp_path: Path) -> None:
    cassette, hidden = tmp_path / "one.jsonl", base64.b64encode(KEY.encode()).decode()
    echo = say(write("a.txt", f"{KEY} {hidden}\n"), text=KEY)
    with mind(box, echo, finish()):
        first = box.new({"01-x": agent()}, title="Same")
        box.runner("run", first, "--record", cassette, rc=0)
    assert KEY not in cassette.read_text() and hidden not in cassette.read_text()
    lead(box, "http://127.0.0.1:9")
    again = box.new({"01-x": agent()}, title="Same")
    box.runner("run", again, "--engine", f"recorded:{cassette}", rc=0)
    assert box.git("show", f"{again}:a.txt") == box.git("show", f"{first}:a.txt")
    assert "[GEMINI_API_KEY] [GEMINI_API_KEY]" in box.git("show", f"{again}:a.txt")
    sound(box, again)


def test_what_record_wrote_recorded_reads_wherever_both_are_typed(box: Box, tmp_path: Path) -> None:
    box.write("src/deep/keep.txt", "")
    box.commit("a folder")
    with mind(box, finish()):
        first = box.new({"01-x": agent()}, title="Same")
        box.runner("run", first, "--record", "../one.jsonl", cwd=box.path / "src/deep", rc=0)
    again, other = box.new({"01-x": agent()}, title="Same"), box.new({"01-x": agent()}, title="Same")
    box.runner("run", again, "--engine", "recorded:../one.jsonl", rc=0)
    box.runner("-C", box.path, "run", other, "--engine", "recorded:../one.jsonl", cwd=tmp_path, rc=0)


@pytest.mark.slow
def test_neither_sdk_nor_prices_are_imported_by_a_command_step_or_a_recorded_one(box: Box, tmp_path: Path) -> None:
    cassette = tmp_path / "one.jsonl"
    with mind(box, finish()):
        first = box.new({"01-x": agent()}, title="Same")
        box.runner("run", first, "--record", cassette, rc=0)
    for args in (
        (box.new({"01-x": agent()}, title="Same"), "--engine", f"recorded:{cassette}"),
        (box.new({"01-c": command("true")}),),
    ):
        _, names = box.loaded("step", *map(str, args))
        assert "runner.executor.steps" in names
        assert not [name for name in names if name.split(".")[0] in ("google", "genai_prices", "httpx2")]


def test_a_command_step_without_a_policy_loads_nothing_of_policies_tools_and_signatures(box: Box) -> None:
    _, names = box.loaded("step", box.new({"01-c": command("echo x > x.txt")}))
    assert "runner.trust.trusted_config" in names
    unused = ("runner.protocol.policy_file", "runner.executor.calls", "runner.trust.signature")
    assert not [name for name in names if name in unused or name.startswith(("runner.tools", "cryptography"))]
