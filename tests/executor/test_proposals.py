"""`finish` proposes work: its checks and its review run in the attempt, and what they find goes back to the model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.errors import MalformedFileError
from runner.protocol.plans import parse
from tests.conftest import Box, clone, command
from tests.engines.wire_gemini import Answer
from tests.executor.minds import agent, finish, mind, say, sound, texts, transcript, write
from tests.tools.agent_ground import place

FAIL = json.dumps({"verdict": "FAIL", "summary": "Rude.", "findings": [{"severity": "blocker", "text": "No please."}]})
PASS = json.dumps({"verdict": "PASS", "summary": "Fine."})
CLOSED = json.dumps({**json.loads(PASS), "earlier": [{"id": "1.1", "closed": True, "text": "It asks now."}]})


def checked(tmp_path: Path, more: str = "") -> tuple[str, Path]:
    """Return a step on the host whose check counts its runs in a file, the one before the work too, and the file."""
    count = tmp_path / "count"
    return agent(f'qa: {{checks: ["echo x >> {count}; cat a.txt; grep -q right a.txt"]{more}}}\n'), count


def runs(count: Path) -> int:
    return len(count.read_text().splitlines()) - 1


def happened(box: Box, protocol: str) -> list[str]:
    """The events of the step `a`, in order."""
    log = box.git("show", f"{protocol}:.protocols/{protocol}/log.md").splitlines()
    return [line.split()[2] for line in log if line.startswith("  <!-- ") and line.split()[3] == "a"]


def test_a_failing_check_comes_back_in_the_conversation_and_qa_takes_its_last_run_over(
    box: Box, tmp_path: Path
) -> None:
    step, count = checked(tmp_path)
    script = [say(write("a.txt", "wrong\n")), finish("I think"), say(write("a.txt", "right\n")), finish("fixed")]
    with mind(box, *script) as wire:
        protocol = box.new({"01-a": step})
        box.runner("run", protocol, "--executor", "host", rc=0)
        assert wire.wrong == [] and len(wire.bodies) == 4
    assert wire.bodies[2]["contents"][: len(wire.bodies[1]["contents"])] == wire.bodies[1]["contents"]
    assert "<<<untrusted what the checks found" in texts(wire.bodies[2]) and "wrong" in texts(wire.bodies[2])
    assert happened(box, protocol) == ["step-finished", "qa-passed", "step-completed"]
    assert runs(count) == 2  # of the first proposal and of the second
    assert box.runner("show", protocol, "a", "--output", "--check", "1", rc=0).out == "right\n"
    assert [one["kind"] for one in transcript(box, protocol, "a.1")] == ["response", "results"] * 4
    sound(box, protocol)


@pytest.mark.parametrize("executor", ["host", "sandbox"])
def test_no_request_names_a_folder_of_this_machine(box: Box, executor: str) -> None:
    """Seen: the output of checks after `finish` did, and so did the next attempt's first request and the reviewer's."""
    step = agent('qa: {policy: full, checks: ["pwd >&2; test -e b.txt"]}\non_failure: {retry: 1, then: block}\n')
    script = [finish(), finish(), finish(), say(write("b.txt", "b\n")), finish(), say(text=PASS)]
    with mind(box, *script) as wire:
        protocol = box.new({"01-a": step})
        box.runner("run", protocol, "--executor", executor, rc=0)
        assert len(wire.bodies) == 6
    said = "".join(texts(body) for body in wire.bodies)
    assert "/workspace" in said and str(box.path.parent) not in said and "/var/tmp" not in said
    sound(box, protocol)


def test_the_terminal_says_which_check_failed_and_shows_nothing_internal(box: Box, tmp_path: Path) -> None:
    step, _ = checked(tmp_path)
    with mind(box, say(write("a.txt", "wrong\n")), finish("I think"), say(write("a.txt", "right\n")), finish("fixed")):
        told = box.runner("run", box.new({"01-a": step}), "--executor", "host", rc=0).err
    assert "(run 1 of 3): exit 1, `" in told and "not_done" not in told
    assert "  · finish  fixed\n" in told


def test_after_the_last_run_the_work_is_on_the_branch_and_its_qa_failed(box: Box, tmp_path: Path) -> None:
    step, count = checked(tmp_path, ", rounds: 2")
    with mind(box, say(write("a.txt", "wrong\n")), finish(), finish()) as wire:
        protocol = box.new({"01-a": step})
        box.runner("run", protocol, "--executor", "host", rc=1)
        assert len(wire.bodies) == 3
    assert happened(box, protocol) == ["step-finished", "qa-failed", "step-failed"] and runs(count) == 2
    assert box.git("show", f"{protocol}:a.txt") == "wrong\n"
    sound(box, protocol)


@pytest.mark.parametrize("proposal", [finish("I think"), say(("submit", {"message": "I think"}))])
def test_what_the_checks_found_is_recorded_where_the_model_then_only_talks(
    box: Box, tmp_path: Path, proposal: Answer
) -> None:
    step, count = checked(tmp_path)
    with mind(box, say(write("a.txt", "wrong\n")), proposal, *[say(text="It is done.")] * 3) as wire:
        protocol = box.new({"01-a": step})
        told = box.runner("run", protocol, "--executor", "host", rc=1)
        assert len(wire.bodies) == 5
    assert happened(box, protocol) == ["step-finished", "qa-failed", "step-failed"] and runs(count) == 1
    assert "wrong" in told.err and box.git("show", f"{protocol}:a.txt") == "wrong\n"
    said = box.runner("show", protocol, "a", rc=0).out
    assert "third answer in a row" in said and "I think" in said
    sound(box, protocol)


def test_qa_in_another_process_or_of_other_files_runs_the_checks_itself(box: Box, tmp_path: Path) -> None:
    step, count = checked(tmp_path)
    with mind(box, say(write("a.txt", "right\n")), finish()):
        protocol = box.new({"01-a": step})
        box.runner("step", protocol, "--executor", "host", rc=0)
        assert runs(count) == 1
        box.runner("step", protocol, "--executor", "host", rc=0)
    assert runs(count) == 2 and box.state(protocol)["status"] == "completed"


def test_config_says_how_many_runs_there_are_where_no_step_does(box: Box, tmp_path: Path) -> None:
    box.write(".protocols/config.yaml", "qa: {rounds: 1}\n")
    box.commit("config")
    step, count = checked(tmp_path)
    with mind(box, say(write("a.txt", "wrong\n")), finish()):
        protocol = box.new({"01-a": step})
        box.runner("run", protocol, "--executor", "host", rc=1)
    assert runs(count) == 1


def test_a_promised_file_that_is_not_there_comes_back(box: Box) -> None:
    with mind(box, say(write("b.txt", "1\n")), finish(), say(write("a.txt", "1\n")), finish()) as wire:
        protocol = box.new({"01-a": agent("outputs: [a.txt]\n")})
        box.runner("run", protocol, rc=0)
    assert "the output `a.txt` is not there" in texts(wire.bodies[2])


def test_no_check_runs_on_work_that_only_people_may_do(box: Box) -> None:
    place("sandbox")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    bad = ("shell", {"command": "echo 1 > .protocols/policy.yaml"})
    with mind(box, say(bad), finish()) as wire:
        protocol = box.new({"01-a": agent('qa: {checks: ["exit 1"]}\n')})
        box.runner("run", protocol, rc=1)
        assert len(wire.bodies) == 2
    assert happened(box, protocol) == ["step-failed"]


def test_the_findings_of_a_review_come_back_and_qa_pays_for_no_second_one(box: Box) -> None:
    script = [say(write("a.txt", "go away\n")), finish("rude"), say(text=FAIL), say(write("a.txt", "please\n"))]
    with mind(box, *script, finish("polite"), say(text=CLOSED)) as wire:
        protocol = box.new({"01-a": agent("qa: full\n")})
        box.runner("run", protocol, rc=0)
        assert wire.wrong == [] and len(wire.bodies) == 6
    assert "No please." in texts(wire.bodies[3]) and "polite" in texts(wire.bodies[5])
    assert happened(box, protocol) == ["step-finished", "qa-passed", "step-completed"]
    assert box.state(protocol)["spent"]["input_tokens"] == 600
    assert len(transcript(box, protocol, "a.1.qa")) == 2
    sound(box, protocol)


def test_a_review_of_an_attempt_that_did_not_finish_is_paid_for_and_filed(box: Box) -> None:
    script = [say(write("a.txt", "go away\n")), finish("rude"), say(text=FAIL)]
    with mind(box, *script, finish("it must be rude", status="cannot")):
        protocol = box.new({"01-a": agent("qa: full\n")})
        box.runner("run", protocol, rc=1)
    assert box.state(protocol)["spent"]["input_tokens"] == 400
    assert len(transcript(box, protocol, "a.1.qa")) == 1
    sound(box, protocol)


@pytest.mark.parametrize("lost", ["*.jsonl", "a.1.qa.jsonl"])
def test_a_clone_that_did_not_make_the_attempt_s_reviews_knows_what_they_cost_and_asks_itself(
    box: Box, lost: str
) -> None:
    script = [say(write("a.txt", "go away\n")), finish("rude"), say(text=FAIL), finish("it asks"), say(text=CLOSED)]
    with mind(box, *script, say(text=PASS)) as wire:
        protocol = box.new({"01-a": agent("qa: full\n")})
        box.runner("step", protocol, rc=0)
        assert box.state(protocol)["spent"]["input_tokens"] == 500
        for one in (box.path / ".git").rglob(f"{protocol}/{lost}"):
            one.unlink()
        box.runner("run", protocol, rc=0)
        assert wire.wrong == [] and len(wire.bodies) == 6
    assert happened(box, protocol) == ["step-finished", "qa-passed", "step-completed"]
    assert box.state(protocol)["spent"]["input_tokens"] == 600
    assert [one["kind"] for one in transcript(box, protocol, "a.1.qa")] == [*["response"] * 2, "undecided", "response"]
    sound(box, protocol)


def test_another_process_of_the_clone_that_made_a_review_pays_for_no_second_one(box: Box) -> None:
    with mind(box, say(write("a.txt", "please\n")), finish(), say(text=PASS)) as wire:
        protocol = box.new({"01-a": agent("qa: full\n")})
        box.runner("step", protocol, rc=0)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.state(protocol)["spent"]["input_tokens"] == 300
    sound(box, protocol)


def test_the_budget_of_a_step_counts_reviews_that_another_clone_paid_for(box: Box) -> None:
    script = [say(write("a.txt", "go away\n")), finish("rude"), say(text=FAIL), finish("it asks"), say(text=CLOSED)]
    with mind(box, *script, say(text=PASS)) as wire:
        protocol = box.new({"01-a": agent("qa: full\nbudget: {turns: 5}\n")})
        box.runner("step", protocol, rc=0)
        for one in (box.path / ".git").rglob(f"{protocol}/*.jsonl"):
            one.unlink()
        assert "turns are used up" in box.runner("run", protocol, rc=3).err
        assert len(wire.bodies) == 5
    assert happened(box, protocol) == ["step-finished", "budget-reached"]
    sound(box, protocol)


@pytest.mark.slow
def test_qa_in_another_person_s_clone_asks_itself_and_both_clones_count_every_review_once(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    script = [say(write("a.txt", "go away\n")), finish("rude"), say(text=FAIL), finish("it asks"), say(text=CLOSED)]
    with mind(remote, *script, say(text=FAIL), say(write("a.txt", "please\n")), finish(), say(text=CLOSED)) as wire:
        protocol = remote.new({"01-a": agent("qa: full\non_failure: {retry: 1}\n")})
        remote.runner("step", protocol, rc=0)
        other = clone(remote, "bob")
        other.runner("sync", protocol, rc=0)
        other.runner("step", protocol)
        assert happened(other, protocol) == ["step-finished", "qa-failed", "step-failed", "step-retried"]
        assert other.state(protocol)["spent"]["input_tokens"] == 600
        remote.runner("sync", protocol, rc=0)
        remote.runner("run", protocol, rc=0)
        assert wire.wrong == [] and len(wire.bodies) == 9
    assert remote.state(protocol)["spent"]["input_tokens"] == 900
    sound(remote, protocol)


@pytest.mark.parametrize("then", ["fail", "block"])
def test_what_cannot_be_done_is_neither_done_nor_retried_and_the_reason_is_shown(box: Box, then: str) -> None:
    with mind(box, finish("there is no zebra here", status="cannot")) as wire:
        protocol = box.new({"01-a": agent(f"on_failure: {{retry: 2, then: {then}}}\n")})
        ran = box.runner("run", protocol, rc={"fail": 1, "block": 3}[then])
        assert len(wire.bodies) == 1
    assert box.state(protocol)["status"] == {"fail": "failed", "block": "blocked"}[then]
    for told in (ran.err, box.runner("status").out, box.runner("show", protocol, rc=0).out):
        assert "it cannot be done: there is no zebra here" in told
    sound(box, protocol)


PORT = "result: {type: object, properties: {port: {type: integer}}, required: [port]}\n"


def test_a_result_has_to_fit_the_step_s_schema_and_later_steps_refer_to_its_fields(box: Box) -> None:
    bare, wrong, right = finish("open"), finish("open", port="high"), finish("open", port=8080)
    with mind(box, bare, wrong, right) as wire:
        protocol = box.new({"01-a": agent(PORT), "02-b": command('test "$RUNNER_STEPS_A_PORT" = 8080')})
        box.runner("run", protocol, rc=0)
    (declared,) = [one for one in wire.bodies[0]["tools"][0]["functionDeclarations"] if one["name"] == "finish"]
    assert declared["parametersJsonSchema"]["properties"]["result"]["required"] == ["port"]
    assert "`result` is missing" in texts(wire.bodies[1]) and "port` should be" in texts(wire.bodies[2])
    assert box.state(protocol)["steps"]["a"]["result"] == {"summary": "open", "port": 8080}
    sound(box, protocol)


def test_what_cannot_be_done_needs_no_result(box: Box) -> None:
    with mind(box, finish("no", status="cannot")) as wire:
        protocol = box.new({"01-a": agent(PORT)})
        box.runner("run", protocol, rc=1)
        assert len(wire.bodies) == 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("result: {type: string}", "should be the JSON Schema of an object"),
        ("result: {type: object, properties: {a: {type: whole}}}", "is no JSON Schema"),
        ("result: {type: object, properties: {a: {$ref: other.json}}}", "has a `$ref`"),
        ("kind: command\nrun: make\nresult: {type: object}", "goes with a step of kind agent"),
    ],
)
def test_a_schema_that_is_none_is_named_with_its_line(line: str, what: str) -> None:
    files = {"plan.md": b"---\ntitle: T\n---\n", "01-a.md": f"---\ntitle: A\n{line}\n---\n".encode()}
    with pytest.raises(MalformedFileError, match=re.escape(f"`result` {what}")) as refused:
        parse(files, "there")
    assert refused.value.where == f"there/01-a.md:{2 + len(line.splitlines())}"


def test_a_finish_that_does_not_say_whether_it_is_done_is_asked_again(box: Box) -> None:
    with mind(box, say(("finish", {"summary": "perhaps"})), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
    assert "status" in texts({"contents": wire.bodies[1]["contents"][-1:]})
    assert box.state(protocol)["steps"]["x"]["result"] == {"summary": "done"}
    sound(box, protocol)
