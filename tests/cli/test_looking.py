"""A planner and a reviewer that look: they read the commit and run the project's tests before they answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.executor import planning
from runner.executor.asking import LOOKS
from runner.protocol.model_answers import read_verdict
from runner.sandbox.bubblewrap import Bubblewrap
from tests.cli.test_planning import PLAN, calls, env, prompt, refs, says
from tests.cli.test_qa import report, word
from tests.conftest import Box, command
from tests.engines.wire_gemini import Answer, Refusal, Wire, error, serving
from tests.executor.minds import ENGINE, agent, finish, mind, say, sound, texts, transcript, write
from tests.people import REPO

FAULTY = "def add(a, b):\n    return a - b\n\n\nclass Sum:\n    def total(self):\n        return add(1, 1)\n"
TEST = """import unittest

from calc import add


class Adds(unittest.TestCase):
    def test_adds(self):
        self.assertEqual(add(2, 3), 5)
"""
CHECK = "python3 -m unittest -q test_calc"
STEP = {
    "slug": "fix",
    "title": "Make test_adds pass",
    "prose": "`add` subtracts.",
    "checks": [CHECK],
    "files": ["calc.py:1-2: the wrong sign"],
}
FIX = {"title": "Make test_adds pass", "steps": [STEP]}


@pytest.fixture
def calc(box: Box) -> Box:
    box.write("calc.py", FAULTY)
    box.write("test_calc.py", TEST)
    box.write(".protocols/config.yaml", f"checks: [{CHECK}]\n")
    box.commit("a package with a fault")
    return box


def turn(*made: tuple[str, dict[str, Any]]) -> Answer:
    return Answer(pieces=[[{"functionCall": {"name": name, "args": arguments}} for name, arguments in made]])


def results(wire: Wire, number: int) -> list[dict[str, Any]]:
    """Return the results of the calls before the request."""
    parts = [part for content in wire.bodies[number]["contents"] for part in content["parts"]]
    return [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]


# --- the planner -------------------------------------------------------------------------------------------------------


def test_a_failing_test_is_found_by_running_it_and_named_in_the_step(calc: Box) -> None:
    look = turn(("run_check", {"command": CHECK}), ("read_file", {"path": "calc.py", "end_line": 2}))
    with serving(look, calls("propose_plan", **FIX)) as wire:
        made = calc.runner("new", "Make the failing test pass", env=env(wire), rc=0)
        ran, read = results(wire, 1)
        shown = prompt(wire)
    assert "calc.py: add 1, Sum 5, .total 6" in shown and "return a - b" not in shown
    assert "test_adds" in json.dumps(ran) and "-1 != 5" in json.dumps(ran) and "return a - b" in json.dumps(read)
    protocol = made.out.strip()
    step = calc.git("show", f"{protocol}:.protocols/{protocol}/01-fix.md")
    assert step == (
        f"---\ntitle: Make test_adds pass\nkind: agent\nqa:\n  checks:\n    - {CHECK}\n---\n"
        "`add` subtracts.\n\nFiles that matter:\n\n- calc.py:1-2: the wrong sign\n"
    )
    kinds = [one["kind"] for one in transcript(calc, protocol, "plan.1")]  # a slow call's result is a record of its own
    assert kinds.count("response") == 2 and kinds[-1] == "results"
    assert f"$ {CHECK}\n" in made.err and "not tried" not in made.err
    calc.runner("verify", protocol, rc=0)
    assert calc.state(protocol)["spent"]["input_tokens"] == 200


def test_a_planner_that_proposes_at_once_makes_no_workspace(calc: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.store.workspace.reset", lambda *args, **more: pytest.fail("a workspace was made"))
    with serving(calls("propose_plan", **FIX)) as wire:
        calc.runner("new", "Make the failing test pass", env=env(wire), rc=0)
        assert len(wire.bodies) == 1


def test_nothing_of_a_look_is_left_behind(calc: Box) -> None:
    calc.runner("list", rc=0)
    with serving(calls("read_file", path="calc.py"), calls("propose_plan", **FIX)) as wire:
        calc.runner("new", "Make the failing test pass", env=env(wire), rc=0)
    assert calc.git("status", "--porcelain") == ""
    assert not [path for path in Path(calc.home).rglob("*shell-0*") if path.is_dir()]


def test_a_planner_that_was_killed_neither_asks_nor_runs_again(calc: Box) -> None:
    count = calc.home / "count"
    line = f"sh -c 'echo ran >> {count}; exit 1'"
    calc.write(".protocols/config.yaml", f"checks: [{json.dumps(line)}]\n")
    calc.commit("a check that counts")
    fix = {**FIX, "steps": [{**STEP, "checks": [line]}]}
    with serving(
        calls("run_check", command=line), Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no"))
    ) as wire:
        calc.runner("new", "Make it pass", env=env(wire), rc=69)
    assert count.read_text() == "ran\n"
    with serving(calls("propose_plan", **fix)) as wire:
        calc.runner("new", "Make it pass", env=env(wire), rc=0)
        assert len(wire.bodies) == 1 and len(results(wire, 0)) == 1
    assert count.read_text() == "ran\n"


def test_the_test_command_that_a_request_names_runs_before_the_first_request_and_once(calc: Box) -> None:
    count = calc.home / "count"
    line = f"sh {calc.home}/tests.sh"
    (calc.home / "tests.sh").write_text(f"echo ran >> {count}; echo $* is not 5; exit 1\n")
    calc.write(".protocols/config.yaml", f"checks: [{line}]\n")
    calc.commit("a check that counts")
    fix = {**FIX, "steps": [{**STEP, "checks": [f"{line}"]}]}
    wish = f"`{line}` fails. Fix it, and `rm -r /` too."
    with serving(Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no"))) as wire:
        calc.runner("new", wish, env=env(wire), rc=69)
    with serving(calls("propose_plan", **fix)) as wire:
        made = calc.runner("new", wish, env=env(wire), rc=0)
        assert len(wire.bodies) == 1
        shown = prompt(wire)
    assert (
        f"`{line}`, run in a clean checkout as `run_check` does, ended with exit code 1:\n<<<untrusted what it printed\nis not 5\n"
        in shown
    )
    assert count.read_text() == "ran\n" and "not tried" not in made.err
    kinds = [one["kind"] for one in transcript(calc, made.out.strip(), "plan.1")]
    assert kinds[0] == "task" and kinds.count("response") == 1
    calc.runner("verify", made.out.strip(), rc=0)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ("`python -m pytest -q tests/test_more.py` fails", "python -m pytest -q tests/test_more.py"),
        ("`foo` and `make test`", "make test"),
        ("`make testing` fails", ""),
        ("`make test; rm -r x` fails", ""),
        ("make test fails", ""),
        ("Describe `python`", ""),
    ],
)
def test_a_command_is_named_in_backquotes_and_is_one_of_the_project_s(request_: str, named: str) -> None:
    assert planning.named_command(request_, ("make test", "python3 -m pytest")) == named


def test_without_checks_in_the_configuration_nothing_is_run_on_the_host(box: Box) -> None:
    box.write("test_calc.py", TEST)
    box.commit("tests")
    with serving(calls("propose_plan", **FIX)) as wire:
        box.runner("new", "Make the failing test pass", env=env(wire), rc=0)
        assert "run_check" not in json.dumps(wire.bodies[0]["tools"])


def test_the_tools_only_read(calc: Box) -> None:
    before = refs(calc)
    wrong = turn(("run_check", {"command": "rm -r /"}), ("write_file", {"path": "a", "content": "b"}))
    with serving(wrong, Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no"))) as wire:
        calc.runner("new", "Make the failing test pass", env=env(wire), rc=69)
        refused, missing = results(wire, 1)
    assert "on this machine only these are run" in json.dumps(
        refused
    ) and "there is no tool `write_file`" in json.dumps(missing)
    assert refs(calc) == before


@pytest.fixture
def sandbox() -> None:
    if (why := Bubblewrap().check()) is not None:
        pytest.skip(f"allowed: no sandbox here: {why}")


def test_in_the_sandbox_it_tries_any_check_and_changes_nothing(calc: Box, sandbox: None) -> None:
    tried = turn(
        ("run_check", {"command": "python3 -m unittest test_calc.Adds.test_adds"}),
        ("run_check", {"command": "touch made && ls"}),
        ("run_check", {"command": "ls made; no-such-program"}),
        ("git", {"args": ["log", "--oneline"]}),
    )
    fix = {**FIX, "steps": [{**STEP, "checks": ["python3 -m unittest test_calc.Adds.test_adds", "no-such-program"]}]}
    with serving(tried, calls("propose_plan", **fix), calls("propose_plan", **fix)) as wire:
        made = calc.runner("new", "Make the failing test pass", env={**env(wire), "RUNNER_EXECUTOR": "sandbox"}, rc=0)
        test, touched, missing, log = (json.dumps(one) for one in results(wire, 1))
        assert "not seen to run here: `no-such-program`. Run" in prompt(wire, 2)
    assert (
        "-1 != 5" in test
        and "/workspace/test_calc.py" in test
        and str(calc.path) not in test
        and "made" in touched
        and "cannot access" in missing
        and "a package with a fault" in log
    )
    assert "test_adds\n" in made.err and "$ no-such-program  (not tried)" in made.err


def test_the_policy_holds_for_what_a_planner_runs(calc: Box, sandbox: None) -> None:
    calc.write(
        ".protocols/policy.yaml",
        f"repo: {REPO}\nrules:\n  - deny: {{tool: shell}}\n    reason: no commands by models\n",
    )
    calc.commit("a policy")
    looks = turn(("run_check", {"command": "echo other"}), ("run_check", {"command": CHECK}))
    with serving(looks, calls("propose_plan", **FIX)) as wire:
        calc.runner("new", "Make it pass", env={**env(wire), "RUNNER_EXECUTOR": "sandbox"}, rc=0)
        other, own = (json.dumps(one) for one in results(wire, 1))
    assert "no commands by models" in other and "-1 != 5" in own


def test_a_planner_that_only_looks_has_to_answer(calc: Box) -> None:
    with serving(*[calls("read_file", path="calc.py")] * (LOOKS + 1), calls("propose_plan", **FIX)) as wire:
        calc.runner("new", "Make the failing test pass", env=env(wire), rc=0)
        said = [json.dumps(one) for one in results(wire, LOOKS + 1)]
    assert "return a - b" in said[LOOKS - 1] and "answer now, with `propose_plan`" in said[LOOKS]
    with serving(*[calls("read_file", path="calc.py")] * 40) as wire:
        calc.runner("new", "Make it pass for ever", env=env(wire), rc=69)
        assert len(wire.bodies) < 20


def test_a_plan_is_also_taken_as_text(calc: Box) -> None:
    with serving(calls("read_file", path="calc.py"), says(PLAN)) as wire:
        assert "planned · 2 steps" in calc.runner("new", "A greeting", env=env(wire), rc=0).err


# --- the reviewer ------------------------------------------------------------------------------------------------------

OPEN = {"id": "1.1", "closed": False, "text": "It is as it was."}
RUDE = {"severity": "major", "text": "subtract() has the same fault.", "file": "calc.py", "line": 5}
FAIL: dict[str, Any] = {"verdict": "FAIL", "summary": "Half of it.", "findings": [RUDE]}
PASS = {"verdict": "PASS", "summary": "It adds."}
LONG = (
    "def add(a, b):\n"
    + "".join(f"    line = {n}\n" for n in range(12))
    + "    return a - b\n\n\ndef other():\n    return 1\n"
)


def reviewed(box: Box, more: str = "") -> str:
    step = command(
        "sed -i 's/a - b/a + b/' calc.py; echo checked",
        f"qa: {{policy: full, checks: [echo well done]}}\nengine: {ENGINE}\n{more}",
    )
    return box.new({"01-fix": step})


def test_a_reviewer_sees_whole_functions_and_what_checks_printed_and_reads_the_commit(calc: Box) -> None:
    calc.write("calc.py", LONG)
    calc.commit("a long one")
    with mind(calc, calls("read_file", path="test_calc.py"), calls("give_verdict", **PASS)) as wire:
        protocol = reviewed(calc)
        calc.runner("run", protocol, rc=0)
        assert wire.wrong == []
        asked = texts(wire.bodies[0])
        assert "class Adds" in json.dumps(results(wire, 1))
    assert "\n def add(a, b):\n" in asked and "+    return a + b" in asked and "return 1" not in asked
    assert "$ echo well done\nwell done" in asked
    kinds = [one["kind"] for one in transcript(calc, protocol, "fix.1.qa")]
    assert kinds.count("response") == 2 and kinds[-1] == "results"
    sound(calc, protocol)


def test_a_review_has_to_answer_each_finding_of_the_one_before(calc: Box) -> None:
    closed = {**PASS, "earlier": [{**OPEN, "closed": True}]}
    retry = "on_failure: {retry: 1, then: block}\n"
    with mind(calc, word(FAIL), word(PASS), calls("give_verdict", **closed)) as wire:
        protocol = reviewed(calc, retry)
        calc.runner("run", protocol)
        calc.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert "earlier: say of the finding 1.1 whether it is closed" in texts(wire.bodies[2])
    assert "FAIL" in report(calc, protocol, "fix.1") and "`1.1` · **closed**" in report(calc, protocol, "fix.2")
    sound(calc, protocol)


def test_a_second_review_within_an_attempt_knows_the_first_and_qa_takes_it_over(calc: Box) -> None:
    closed = {**PASS, "earlier": [{**OPEN, "closed": True}]}
    edits = [say(write("calc.py", FAULTY.replace("a - b", f"{sign} + b"))) for sign in ("b", "a")]
    with mind(calc, edits[0], finish(), word(FAIL), edits[1], finish(), word(closed)) as wire:
        protocol = calc.new({"01-fix": agent("qa: {policy: full, checks: [echo took 0.$$ s]}\n")})
        calc.runner("run", protocol, rc=0)
        assert wire.wrong == [] and len(wire.bodies) == 6  # QA asks nothing again
        assert "1.1 (major, calc.py): subtract() has the same fault." in texts(wire.bodies[5])
    assert "`1.1` · **closed**" in report(calc, protocol, "fix.1")
    sound(calc, protocol)


def test_an_open_finding_is_no_pass() -> None:
    assert read_verdict(json.dumps({**PASS, "earlier": [OPEN]}), ["1.1"])[1] == (
        "verdict is PASS beside the open finding 1.1: say FAIL, or call it closed or minor",
    )
    assert read_verdict(json.dumps({**FAIL, "findings": [], "earlier": [OPEN]}), ["1.1"])[0] is not None
    assert read_verdict(json.dumps({**FAIL, "earlier": [OPEN]}))[1] == ("earlier: there is no open finding 1.1",)


def test_the_aspects_of_the_configuration_are_asked_for(calc: Box) -> None:
    calc.write(".protocols/config.yaml", "review: {aspects: [security, Public functions have docstrings]}\n")
    calc.commit("aspects")
    with mind(calc, word(PASS)) as wire:
        calc.runner("run", reviewed(calc), rc=0)
        asked = texts(wire.bodies[0])
    assert "- security: input that is trusted" in asked and "\n- Public functions have docstrings\n" in asked


TWO = "review: {reviewers: [{aspects: [correctness]}, {aspects: [security], engine: gemini:gemini-2.5-pro}]}\n"


def test_several_reviewers_judge_one_change_each_with_its_aspects_and_engine(calc: Box) -> None:
    calc.write(".protocols/config.yaml", TWO)
    calc.commit("reviewers")
    note = {**FAIL["findings"][0], "severity": "note"}
    with mind(calc, word({**PASS, "findings": [note]}), word({**FAIL, "findings": [*FAIL["findings"], note]})) as wire:
        protocol = reviewed(calc)
        calc.runner("run", protocol, rc=1)
        first, second = map(texts, wire.bodies)
    assert "- correctness: " in first and "- security: " not in first
    assert "- security: " in second and "findings of earlier" not in second
    shown = report(calc, protocol, "fix.1")
    assert "FAIL" in shown and "## Findings: 2" in shown and shown.index("**major**") < shown.index("**note**")
    assert "gemini-2.5-pro (security)" in shown
    sound(calc, protocol)


def test_a_finding_is_closed_once_every_reviewer_says_so(calc: Box) -> None:
    calc.write(".protocols/config.yaml", TWO)
    calc.commit("reviewers")
    opened = {"verdict": "FAIL", "summary": "No.", "earlier": [{**OPEN, "id": "2.1"}], "findings": []}
    closed = {**PASS, "earlier": [{**OPEN, "id": "2.1", "closed": True}]}
    words = [word(one) for one in (PASS, FAIL, closed, opened, closed, closed)]
    with mind(calc, *words) as wire:
        protocol = reviewed(calc, "on_failure: {retry: 2, then: block}\n")
        for _ in range(3):
            calc.runner("run", protocol)
        assert wire.wrong == [] and len(wire.bodies) == 6
        assert all("2.1 (major, calc.py)" in texts(body) for body in wire.bodies[2:])
    assert "`2.1` · **open**" in report(calc, protocol, "fix.2") and "PASS" in report(calc, protocol, "fix.3")
    sound(calc, protocol)
