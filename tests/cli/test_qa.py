"""`qa: full` and `runner qa` through the command line and the real google-genai package, beside a local endpoint."""

from __future__ import annotations

import json
import re
from typing import Any

from runner.protocol.ids import digest
from tests.conftest import Box, clone, command
from tests.engines.wire_gemini import Answer, Refusal, error
from tests.executor.minds import ENGINE, agent, finish, lead, mind, say, sound, texts, transcript, write

OTHER = "gemini:gemini-3.8-flash"
FULL = "qa: full\n"
ACCEPT = "acceptance: [the greeting is polite, there is a test]\n"
PASS = {"verdict": "PASS", "summary": "It does what it should."}
FOUND = {"severity": "blocker", "text": "It is rude.", "file": "src/app.py", "line": 1, "criterion": "1"}
FAIL = {"verdict": "FAIL", "summary": "Not polite.", "findings": [FOUND]}


def word(said: Any, tokens: tuple[int, int] = (100, 20)) -> Answer:
    """A judge's answer."""
    return say(text=said if isinstance(said, str) else json.dumps(said), tokens=tokens)


def called(body: Any) -> list[str]:
    """The names of the tools that a request offers."""
    return [tool["name"] for tool in body["tools"][0]["functionDeclarations"]]


def made(text: str = "print('hello, please')\n") -> Answer:
    """The turn that does the work."""
    return say(write("src/app.py", text))


def report(box: Box, protocol: str, name: str) -> str:
    return box.git("show", f"{protocol}:.protocols/{protocol}/reports/{name}.md")


def event(box: Box, protocol: str, name: str) -> dict[str, Any]:
    """The last event of a name."""
    lines = box.runner("log", protocol, "--json", rc=0).out.splitlines()
    found: dict[str, Any] = [one for one in map(json.loads, lines) if one["event"] == name][-1]
    return found


def test_a_judge_that_did_not_write_it_passes_the_change(box: Box) -> None:
    with mind(box, made(), finish("done"), word(PASS)) as wire:
        protocol = box.new({"01-greet": agent('qa: {policy: full, checks: ["test -f src/app.py"]}')}, front=ACCEPT)
        told = box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    asked = texts(wire.bodies[2])
    assert len(wire.bodies[2]["contents"]) == 1  # its own conversation
    assert called(wire.bodies[2]) == ["read_file", "search_text", "git", "give_verdict"]
    assert (
        "1. the greeting is polite" in asked and "+print('hello, please')" in asked and "`test -f src/app.py`" in asked
    )
    assert "review passed" in told.err and "  PASS: It does what it should.\n" in told.err
    shown = box.runner("show", protocol, "--transcript", rc=0).out
    assert '  {\n    "verdict": "PASS",\n    "summary": "It does what it should."\n  }\n' in shown
    state = box.state(protocol)
    assert state["status"] == "completed" and state["spent"]["input_tokens"] == 300
    passed = event(box, protocol, "qa-passed")
    said = report(box, protocol, "greet.1")
    assert said.startswith("# QA of greet, attempt 1: PASS\n") and passed["report"] == digest(said.encode())
    assert passed["engine"] == ENGINE and [check["check"] for check in passed["evidence"]] == [
        "test -f src/app.py",
        "review",
    ]
    filed = box.git("show", f"refs/runner/history/{protocol}:runs/greet.1.qa.jsonl")
    assert passed["transcript"] == digest(filed.encode())
    assert [one["kind"] for one in transcript(box, protocol, "greet.1.qa")] == ["response"]
    sound(box, protocol)


def test_a_fail_is_recorded_with_its_findings_and_the_retry_gets_them(box: Box) -> None:
    more = "qa: {policy: full, rounds: 1}\non_failure: {retry: 1, then: block}\n"
    said = {**PASS, "earlier": [{"id": "1.1", "closed": True, "text": "It says please."}]}
    with mind(box, made("print('go away')\n"), finish(), word(FAIL), made(), finish(), word(said)) as wire:
        protocol = box.new({"01-greet": agent(more)}, front=ACCEPT)
        told = box.runner("run", protocol).err
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    findings = f".protocols/{protocol}/reports/greet.1.md"
    assert f"failed    QA: review: Not polite.\n  findings      {findings}\n" in told
    shown = box.runner("show", protocol, "greet", rc=0).out
    assert f" · findings in {findings}\n" in shown and re.search(r"attempt 1 · (\d+ s · )?\$0\.0", shown)
    retry, second = texts(wire.bodies[3]), texts(wire.bodies[5])
    assert "It is rude." in retry and "Not polite." in retry and "src/app.py:1" in retry
    assert "1.1 (blocker, src/app.py): It is rude." in second  # which it has to answer
    assert "- `1.1` · **closed**\n\n    It says please.\n" in report(box, protocol, "greet.2")
    assert "-print('hello')" in second and "go away" not in second  # all of the step's work, as it stands
    failed = event(box, protocol, "qa-failed")
    assert failed["reason"] == "review: Not polite." and failed["evidence"][-1]["code"] == 1
    assert "It is rude." in report(box, protocol, "greet.1") and "PASS" in report(box, protocol, "greet.2")
    assert box.state(protocol)["spent"]["input_tokens"] == 600
    sound(box, protocol)


def test_a_review_without_a_verdict_is_not_paid_again_by_the_same_run(box: Box) -> None:
    """Seen: QA asked the same two things again, at once."""
    with mind(box, made(), finish(), word("Fine."), word("Just fine."), word(PASS)) as wire:
        protocol = box.new({"01-greet": agent(FULL)})
        told = box.runner("run", protocol, rc=3).err
        assert len(wire.bodies) == 4 and "error: the model's verdict is not valid, also when asked again" in told
        assert box.state(protocol)["steps"]["greet"]["status"] == "needs_qa"
        assert "does not ask again" not in box.runner("status", protocol, rc=0).out
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 5
    sound(box, protocol)


def test_failed_checks_cost_no_review(box: Box) -> None:
    with mind(box, made(), finish(), finish(), finish()) as wire:
        protocol = box.new({"01-greet": agent('qa: {policy: full, checks: ["exit 3"]}')})
        box.runner("run", protocol, rc=1)
        assert len(wire.bodies) == 4
    assert "report" not in event(box, protocol, "qa-failed")


def test_the_judge_is_config_s_before_the_step_s(box: Box) -> None:
    box.write(".protocols/config.yaml", f"engine: {{review: '{OTHER}'}}\n")
    box.commit("config")
    with mind(box, made(), finish(), word(PASS)):
        protocol = box.new({"01-greet": agent(FULL)})
        box.runner("run", protocol, rc=0)
    assert event(box, protocol, "qa-passed")["engine"] == OTHER
    assert event(box, protocol, "step-finished")["engine"] == ENGINE
    assert "conversation of its own" not in report(box, protocol, "greet.1")


def test_tests_that_the_step_touched_are_named_to_judge_and_people(box: Box) -> None:
    box.write("tests/test_app.py", "assert True\n")
    box.commit("a test")
    line = "rm tests/test_app.py; echo '*.py -diff' > .gitattributes"
    with mind(box, word(PASS)) as wire:
        protocol = box.new({"01-a": command(line, f"{FULL}engine: {ENGINE}\n")})
        assert "protected: **/.gitattributes" in box.runner("run", protocol, rc=3).err
    asked, said = texts(wire.bodies[0]), report(box, protocol, "a.1")
    for text in (asked, said):
        assert "tests/test_app.py" in text and ".gitattributes" in text
    assert "judge these first" in asked and "## Tests, CI and policy" in said and "-assert True" in asked


def test_a_malformed_verdict_is_sent_back_once(box: Box) -> None:
    with mind(box, word("It is fine!"), word(PASS)) as wire:
        protocol = box.new({"01-a": command("echo 1 > a", f"{FULL}engine: {ENGINE}\n")})
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    back = wire.bodies[1]["contents"]
    assert [content["role"] for content in back] == ["user", "model", "user"] and "This is not a verdict" in texts(
        wire.bodies[1]
    )
    assert box.state(protocol)["spent"]["input_tokens"] == 200


def test_no_verdict_twice_is_no_decision_and_the_next_run_asks_anew(box: Box) -> None:
    with mind(box, word("fine"), word({**FAIL, "findings": []}), word(PASS)) as wire:
        protocol = box.new({"01-a": command("echo 1 > a", f"{FULL}engine: {ENGINE}\n")})
        box.runner("step", protocol, rc=0)
        before = box.git("for-each-ref")
        told = box.runner("step", protocol, rc=3)
        assert "FAIL needs at least one finding" in told.err and box.git("for-each-ref") == before
        box.runner("step", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.state(protocol)["spent"]["input_tokens"] == 300  # what was paid for is counted
    assert [one["kind"] for one in transcript(box, protocol, "a.1.qa")] == [
        "response",
        "response",
        "undecided",
        "response",
    ]
    sound(box, protocol)


def test_an_endpoint_that_is_down_records_nothing(box: Box) -> None:
    refused = Refusal(code=401, body=error(401, "UNAUTHENTICATED", "no such key"))
    with mind(box, refused, word(PASS)):
        protocol = box.new({"01-a": command("echo 1 > a", f"{FULL}engine: {ENGINE}\n")})
        box.runner("step", protocol, rc=0)
        before = box.git("for-each-ref")
        box.runner("step", protocol, rc=69)
        assert box.git("for-each-ref") == before
        box.runner("step", protocol, rc=0)


def test_a_verdict_that_was_heard_is_not_asked_for_again(box: Box) -> None:
    with mind(box, word(FAIL)) as wire:
        protocol = box.new({"01-a": command("echo 1 > a", f"{FULL}engine: {ENGINE}\n")})
        box.runner("step", protocol, rc=0)
        tip = box.git("rev-parse", protocol).strip()
        box.runner("step", protocol, rc=1)
        # The process was killed between hearing the verdict and recording it: the refs are as before, the journal is not.
        box.git("update-ref", f"refs/heads/{protocol}", tip)
        box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
        box.git("reset", "-q", "--hard", cwd=box.worktree(protocol))
        for mark in (box.home / ".local/state/protocol-runner").rglob(f"marks/{protocol}.json"):
            mark.unlink()
        box.runner("step", protocol, rc=1)
        assert len(wire.bodies) == 1
    sound(box, protocol)


def test_a_review_that_a_budget_stopped_is_decided_in_another_clone(remote: Box) -> None:
    with mind(remote, word("fine", tokens=(20_000, 20)), word(PASS)) as wire:
        step = command("echo 1 > a", f"{FULL}engine: {ENGINE}\nbudget: {{tokens: 30000}}\n")
        protocol = remote.new({"01-a": step})
        remote.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1 and remote.state(protocol)["waiting"][0]["kind"] == "budget"
        assert remote.state(protocol)["spent"]["input_tokens"] == 20_000
        remote.runner("sync", protocol, rc=0)
        other = clone(remote, "bob")
        lead(other, wire.url)
        other.git("fetch", "-q", "origin", f"{protocol}:{protocol}", "+refs/runner/*:refs/runner/*")
        other.git("worktree", "add", "-q", other.path.parent / "tree", protocol)
        at = other.path.parent / f"tree/.protocols/{protocol}/01-a.md"
        at.write_text(at.read_text().replace("30000", "90000"))
        other.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2 and "This is not a verdict" in texts(wire.bodies[1])
    assert other.state(protocol)["spent"]["input_tokens"] == 20_100
    other.runner("verify", protocol, rc=0)


def test_the_review_s_budget_counts_what_the_work_has_cost(box: Box) -> None:
    dear = say(("finish", {"status": "done", "summary": "done"}), tokens=(30_000, 20))
    with mind(box, made(), dear, word(PASS)) as wire:
        protocol = box.new({"01-greet": agent(f"{FULL}budget: {{tokens: 40000}}\n")})
        box.runner("step", protocol, rc=0)
        told = box.runner("step", protocol, rc=3)
        assert "tokens" in told.err and len(wire.bodies) == 2
        at = box.worktree(protocol) / f".protocols/{protocol}/01-greet.md"
        at.write_text(at.read_text().replace("40000", "90000"))
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    spent = box.state(protocol)["spent"]
    assert (spent["input_tokens"], spent["output_tokens"]) == (30_200, 60)
    sound(box, protocol)


def test_why_names_the_engine_of_work_whose_review_reached_a_budget(box: Box) -> None:
    dear = say(("finish", {"status": "done", "summary": "done"}), tokens=(30_000, 20))
    with mind(box, made(), dear):
        protocol = box.new({"01-greet": agent(f"{FULL}budget: {{tokens: 40000}}\n")})
        box.runner("step", protocol, rc=0)
        box.runner("step", protocol, rc=3)
    assert event(box, protocol, "budget-reached")["subject"] == "greet"
    (told,) = json.loads(box.runner("why", "src/app.py:1", "--json", cwd=box.worktree(protocol), rc=0).out)["origins"]
    assert (told["engine"], told["executor"]) == (ENGINE, "host")


def test_a_step_can_be_judged_by_the_review_alone_and_people_s_work_too(box: Box) -> None:
    with mind(box, word(PASS)) as wire:
        protocol = box.new({"01-a": f"kind: human\nengine: {ENGINE}\n{FULL}"})
        box.runner("run", protocol, rc=3)
        (box.worktree(protocol) / "by-hand.txt").write_text("mine\n")
        box.commit("my work", cwd=box.worktree(protocol))
        box.runner("answer", protocol, "done", rc=0)
        box.runner("run", protocol, rc=0)
    assert "+mine" in texts(wire.bodies[0])
    sound(box, protocol)


def test_qa_by_hand_runs_no_check_that_the_policy_denies(box: Box) -> None:
    ledger = box.path.parent / "ledger"
    protocol = box.new({"01-a": command("echo a > a.txt", f"qa: {{checks: ['echo ran >> {ledger}']}}\n")})
    box.runner("run", protocol, rc=0)
    box.write(".protocols/policy.yaml", f"repo: {'6f0c' * 8}\nrules: [{{deny: {{shell: true}}}}]\n")
    box.commit("policy")
    assert "deny: {shell: true}" in box.runner("qa", protocol, "a", rc=4).err
    assert ledger.read_text() == "ran\n"


def test_qa_by_hand_records_nothing_and_says_pass_or_fail(box: Box) -> None:
    with mind(box, word(FAIL), word(PASS), word(FAIL)) as wire:
        protocol = box.new({"01-a": command("echo 1 > a", f"{FULL}engine: {ENGINE}\n")})
        assert "no step has work" in box.runner("qa", protocol, rc=2).err
        box.runner("step", protocol, rc=0)
        before = box.git("for-each-ref")
        failed = box.runner("qa", protocol, "a", rc=1)
        assert "FAIL  a, attempt 1: review: Not polite." in failed.out and "It is rude." in failed.out
        assert box.runner("qa", protocol, rc=0).out.splitlines()[-1].startswith("PASS  a, attempt 1")
        assert box.git("for-each-ref") == before
        # What it was paid stands in a journal of its own.
        assert [at.name for at in box.path.glob(".git/runner/journal/*/*")] == ["a.1.hand.jsonl"]
        box.runner("step", protocol, rc=1)  # its own question, and its own answer
        assert len(wire.bodies) == 3
    sound(box, protocol)


def test_qa_by_hand_judges_the_work_that_a_failed_check_left(box: Box) -> None:
    flag = box.path.parent / "flag"
    protocol = box.new(
        {"01-a": command("echo 1 > a", f'qa: {{checks: ["test -f a && test -f {flag}"]}}'), "02-b": command("true")}
    )
    box.runner("run", protocol, "--executor", "host", rc=1)
    before = box.git("for-each-ref")
    assert "FAIL  a, attempt 1: exit 1" in box.runner("qa", protocol, "a", "--executor", "host", rc=1).out
    flag.touch()  # what the check lacked is there now
    done = box.runner("qa", protocol, "--executor", "host", rc=0)
    assert done.out.endswith("PASS  a, attempt 1\n") and "`runner retry 1`" in done.err
    assert box.git("for-each-ref") == before
    refused = box.runner("retry", "1", "--keep", rc=4).err
    assert "the work of attempt 1 of a is on the branch" in refused and "without --keep starts from it" in refused
    box.runner("retry", "1", rc=0)
    box.runner("run", protocol, "--executor", "host", rc=0)


def test_qa_by_hand_judges_what_was_kept_of_an_attempt_whose_command_failed(box: Box) -> None:
    checks = 'outputs: [a, "src/*"]\nqa: {checks: ["cat a later.txt"]}\n'
    protocol = box.new({"01-a": command("echo of the attempt > a; rm src/app.py; exit 3", checks)})
    box.runner("run", protocol, rc=1)
    tree = box.worktree(protocol)
    (tree / "later.txt").write_text("of a person\n")
    box.commit("later", cwd=tree)
    done = box.runner("qa", protocol, rc=0)
    assert "passed  outputs: a" in done.out and "passed  outputs: src/*" in done.out  # deleted, as promised
    assert "`runner retry 1 --keep`" in done.err
    assert box.state(protocol)["steps"]["a"]["status"] == "failed"
    (tree / "a").write_text("of a person\n")
    box.commit("in its way", cwd=tree)
    refused = box.runner("qa", protocol, rc=4).err
    assert "conflicts: a" in refused and "next: `runner diff 1 a`" in refused
    assert "+of the attempt" in box.runner("diff", "1", "a", rc=0).out


def test_qa_by_hand_lets_a_model_judge_what_was_kept_of_an_attempt(box: Box) -> None:
    with mind(box, word(PASS)) as wire:
        protocol = box.new({"01-a": command("echo of the attempt > a; exit 3", f"{FULL}engine: {ENGINE}\n")})
        box.runner("run", protocol, rc=1)
        box.runner("qa", protocol, rc=0)
    assert "+of the attempt" in texts(wire.bodies[0])
    sound(box, protocol)


def test_a_failed_attempt_that_left_nothing_has_no_work_to_judge(box: Box) -> None:
    protocol = box.new({"01-a": command("exit 3", 'qa: {checks: ["true"]}\n')})
    box.runner("run", protocol, rc=1)
    assert "a has no work to judge" in box.runner("qa", protocol, "a", rc=2).err
    assert "no step has work to judge" in box.runner("qa", protocol, rc=2).err


def test_the_work_that_a_failed_check_left_is_shown_by_diff(box: Box) -> None:
    protocol = box.new({"01-a": command("echo of the attempt > a", 'qa: {checks: ["exit 3"]}\n')})
    box.runner("run", protocol, rc=1)
    assert "+of the attempt" in box.runner("diff", protocol, "a", rc=0).out


def test_qa_by_hand_of_checks_alone_and_with_full(box: Box) -> None:
    protocol = box.new(
        {"01-a": command("echo 1 > a", 'qa: {checks: ["test -f a", "test -f b"]}'), "02-b": command("true")}
    )
    box.runner("step", protocol, rc=0)
    told = box.runner("qa", protocol, rc=1)
    assert "passed  test -f a" in told.out and "exit 1  test -f b" in told.out
    assert "has no work to judge" in box.runner("qa", protocol, "b", rc=2).err
    with mind(box, word(PASS)):
        second = box.new({"01-a": command("echo 1 > a")})
        box.runner("run", second, rc=0)
        assert "# QA of a" in box.runner("qa", second, "a", "--full", "--engine", ENGINE, rc=0).out
