"""`new`, `plan` and `do` with a model, through google-genai before the local server of its wire format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.protocol.ids import digest
from tests.attacks.forge import second
from tests.conftest import Box, clone, command
from tests.engines.wire_gemini import KEY, Answer, Refusal, Wire, error, serving
from tests.executor.minds import texts, transcript
from tests.executor.test_resume import kill
from tests.people import at_terminal
from tests.store.test_remote import publish

STEPS: list[dict[str, Any]] = [
    {"slug": "look", "title": "Look at it", "kind": "command", "run": "cat src/app.py", "prose": "See what it says."},
    {"slug": "greet", "title": "Greet", "kind": "human", "checks": ["true"], "prose": "Say it."},
]
PLAN = {"title": "A better greeting", "prose": "It is curt.", "acceptance": ["It greets"], "steps": STEPS}


def says(value: Any) -> Answer:
    return Answer(pieces=[[{"text": value if isinstance(value, str) else json.dumps(value)}]])


def calls(name: str, **arguments: Any) -> Answer:
    return Answer(pieces=[[{"functionCall": {"name": name, "args": arguments}}]])


def env(wire: Wire) -> dict[str, str]:
    return {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": wire.url, "RUNNER_ENGINE": "gemini:gemini-3.8-flash"}


def refs(box: Box) -> str:
    return box.git("for-each-ref")


def prompt(wire: Wire, number: int = 0) -> str:
    found: str = wire.bodies[number]["contents"][-1]["parts"][0]["text"]
    return found


# --- new ---------------------------------------------------------------------------------------------------------------


def test_new_has_the_plan_written_from_what_the_repository_holds(box: Box) -> None:
    box.write("AGENTS.md", "Speak plainly.\n")
    box.commit("rules")
    box.write("src/app.py", "uncommitted\n")
    with serving(says(PLAN)) as wire:
        made = box.runner("new", "Improve the greeting of app.py", env=env(wire), rc=0)
        told = prompt(wire)
    assert made.out == "0001-improve-the-greeting-of-app-py\n"
    assert "planned · 2 steps" in made.err and "$ cat src/app.py" in made.err
    for part in ("Improve the greeting", "Speak plainly.", "src/app.py", "rules"):
        assert part in told, part
    assert "print('hello')" not in told  # it reads what it needs (test_looking)
    assert "propose_plan" in json.dumps(wire.bodies[0]["tools"])
    protocol = made.out.strip()
    folder = f"{protocol}:.protocols/{protocol}"
    look = "---\ntitle: Look at it\nkind: command\nrun: cat src/app.py\n---\nSee what it says.\n"
    assert box.git("show", f"{folder}/01-look.md") == look
    state = box.state(protocol)
    assert state["status"] == "planned" and state["spent"]["input_tokens"] == 100
    assert box.git("log", "-1", "--format=%an", protocol).strip() == "Alice"
    transcript = box.git("show", f"refs/runner/history/{protocol}:runs/plan.1.jsonl")
    assert json.loads(transcript)["text"] == json.dumps(PLAN)
    assert not list((box.path / ".git/runner/journal/planning").iterdir())
    box.runner("verify", protocol, rc=0)
    done = box.runner("run", protocol, rc=3)
    assert "look" in done.err


def test_a_plan_that_is_none_twice_makes_nothing(box: Box) -> None:
    before = refs(box)
    with serving(says("no plan"), says({**PLAN, "steps": [{**STEPS[0], "run": "make ${{ inputs.x }}"}]})) as wire:
        refused = box.runner("new", "A task", env=env(wire), rc=69)
        assert "not JSON" in prompt(wire, 1)
    assert "a reference in `run`" in refused.err and refused.out == "" and "nothing was made" in refused.err
    assert refs(box) == before
    with serving(says(PLAN)) as wire:
        box.runner("new", "A task", env=env(wire), rc=0)


def test_an_endpoint_that_is_down_makes_nothing_and_what_was_heard_is_kept(box: Box) -> None:
    before = refs(box)
    with serving(says("no plan"), Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no"))) as wire:
        box.runner("new", "A task", env=env(wire), rc=69)
    assert refs(box) == before
    with serving(says(PLAN)) as wire:
        box.runner("new", "A task", env=env(wire), rc=0)
        assert "not JSON" in prompt(wire) and len(wire.bodies) == 1


QUESTIONS = {"title": "x", "questions": ["Formal or not?", "In which language?"]}
WRITTEN = ["01-look.md", "02-greet.md"]


def asked(box: Box, *, questions: Any = QUESTIONS, options: tuple[str, ...] = ()) -> str:
    """Begin a protocol whose planner has questions, with nobody here."""
    with serving(says(questions)) as wire:
        return box.runner("new", "Greet", *options, env=env(wire), rc=3).out.strip()


def test_questions_with_nobody_here_wait_in_the_record(box: Box) -> None:
    with serving(says(QUESTIONS)) as wire:
        told = box.runner("new", "Greet\nand be kind", env=env(wire), rc=3)
    assert told.out == "0001-greet-and-be-kind\n"
    assert ": Formal or not?  runner answer 1 " in box.runner(rc=0).out
    assert "planning · 2 questions" in told.err and "runner answer 1 w2 TEXT" in told.err
    protocol = told.out.strip()
    state = box.state(protocol)
    assert (state["status"], state["title"], state["plan"], state["steps"]) == ("planning", "Greet", None, {})
    assert [(wait["id"], wait["text"]) for wait in state["waiting"]] == [
        ("w2", "Formal or not?"),
        ("w3", "In which language?"),
    ]
    assert state["spent"]["input_tokens"] == 100
    assert box.git("log", "-1", "--format=%an", protocol).strip() == "Alice" and words(box, protocol) == []
    for shown in (box.runner("status", protocol, rc=0).out, box.runner("show", protocol, rc=0).out):
        assert "" not in shown.rstrip("\n").split("\n")[:3], "a line for the steps, of which there are none"
        assert "Formal or not?" in shown and "no steps yet" in shown
    assert "waits" in box.runner("status", rc=0).out
    assert box.runner("show", protocol, "--json", rc=0).json()["command"] == "runner answer 1 w2 TEXT"
    assert "Formal or not?" in box.runner("run", protocol, rc=3).err
    assert "would do nothing" in box.runner("step", protocol, "--dry-run", rc=3).out
    unclear = box.runner("answer", protocol, "yes", rc=2).err
    assert (
        "next: `runner answer 1 w2 TEXT` (`plan`: Formal or not?); `runner answer 1 w3 TEXT` (`plan`: In which"
        in unclear
    )
    assert box.runner("verify", protocol, rc=0) and second(box.path, protocol)[0] == 0


def test_the_plan_comes_with_the_answers(box: Box) -> None:
    protocol = asked(box)
    transcribed = box.runner("show", protocol, "--transcript", rc=0).out
    assert "runner answer 1 TEXT" in box.runner("answer", protocol, "w3", "English", rc=0).err
    told = box.runner("answer", protocol, "formal", rc=0)
    assert "runner run 1" in told.err
    assert "a model writes the plan" in box.runner("status", rc=0).out
    assert "would have the plan written" in box.runner("step", protocol, "--dry-run", rc=0).out
    box.git("config", "user.name", "Bob")
    with serving(says(PLAN)) as wire:
        done = box.runner("step", protocol, env=env(wire), rc=0)
        assert prompt(wire, 0) == "Formal or not?\nformal\n\nIn which language?\nEnglish"
        assert len(wire.bodies) == 1 and "# What is wanted\n\nGreet\n" in texts(wire.bodies[0])
    assert "planned" in done.err and "$ cat src/app.py" in done.err
    assert words(box, protocol) == WRITTEN
    assert box.git("log", "-1", "--format=%an, %cn", protocol) == "Alice, protocol-runner\n"
    assert (box.worktree(protocol) / f".protocols/{protocol}/01-look.md").exists()
    state = box.state(protocol)
    assert (state["status"], state["waiting"], state["spent"]["input_tokens"]) == ("planned", [], 200)
    transcript = box.git("show", f"refs/runner/history/{protocol}:runs/plan.1.jsonl")
    assert f'"transcript":"{digest(transcript.encode())}"' in box.log(protocol)
    shown = box.runner("show", protocol, "plan", "--transcript", rc=0).out
    assert "Look at it" not in transcribed
    assert "Formal or not?" in shown and "Look at it" in shown and "its task" in shown
    box.runner("run", protocol, rc=3)
    box.runner("verify", protocol, rc=0)
    assert second(box.path, protocol)[0] == 0
    assert "had no plan yet" in box.runner("undo", f"{protocol}@3", rc=4).err


def test_a_run_plans_and_goes_on(box: Box) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    box.runner("answer", protocol, "formal", rc=0)
    with serving(says(PLAN)) as wire:
        done = box.runner("run", protocol, env=env(wire), rc=3)
    assert "look" in done.err and "runner answer 1" in done.err
    assert box.state(protocol)["steps"]["look"]["status"] == "completed"


def test_a_model_may_ask_again_and_then_has_to_decide(box: Box) -> None:
    ask = [{"title": "x", "questions": [f"What about {number}?"]} for number in range(4)]
    protocol = asked(box, questions=ask[0])
    for number in (1, 2):
        box.runner("answer", protocol, f"answer {number}", rc=0)
        with serving(says(ask[number])) as wire:
            told = box.runner("run", protocol, env=env(wire), rc=3)
            assert prompt(wire) == f"What about {number - 1}?\nanswer {number}" and len(wire.bodies) == 1
        assert f"What about {number}?" in told.err
    box.runner("answer", protocol, "answer 3", rc=0)
    with serving(says(ask[3]), says(PLAN)) as wire:
        box.runner("step", protocol, env=env(wire), rc=0)
        assert "no more questions" in prompt(wire, 1)
    assert words(box, protocol) == WRITTEN
    assert box.state(protocol)["spent"]["input_tokens"] == 500
    box.runner("verify", protocol, rc=0)
    assert second(box.path, protocol)[0] == 0


def test_what_is_no_plan_waits_with_its_reasons_and_is_tried_again(box: Box) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    box.runner("answer", protocol, "formal", rc=0)
    with serving(says("no plan"), says("still none")) as wire:
        told = box.runner("run", protocol, env=env(wire), rc=3).err
        assert len(wire.bodies) == 2
    assert "not JSON" in told and "what should be different?" in told
    assert box.state(protocol)["status"] == "planning" and words(box, protocol) == []
    assert "`runner answer 1 TEXT` resumes" in box.runner("retry", protocol, rc=4).err
    box.runner("answer", protocol, "JSON, please", rc=0)
    refusal = Answer(pieces=[[{"text": "I will not"}]], finish="SAFETY")
    with serving(refusal) as wire:
        told = box.runner("run", protocol, env=env(wire), rc=3).err
        assert prompt(wire) == "JSON, please\n\nGive the whole plan."
    assert "refused" in told
    box.runner("answer", protocol, "it is harmless", rc=0)
    with serving(says(PLAN)) as wire:
        box.runner("step", protocol, env=env(wire), rc=0)
    assert words(box, protocol) == WRITTEN
    box.runner("verify", protocol, rc=0)


def test_a_planning_that_found_no_endpoint_records_nothing_and_loses_nothing(box: Box) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    box.runner("answer", protocol, "formal", rc=0)
    tip = box.git("rev-parse", protocol)
    with serving(says("no plan"), Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no"))) as wire:
        box.runner("step", protocol, env=env(wire), rc=69)
    assert box.git("rev-parse", protocol) == tip
    with serving(says(PLAN)) as wire:
        box.runner("step", protocol, env=env(wire), rc=0)
        assert "not JSON" in prompt(wire) and len(wire.bodies) == 1
    assert box.state(protocol)["spent"]["input_tokens"] == 300


def test_questions_that_a_kill_kept_from_the_record_are_not_paid_for_again(box: Box) -> None:
    with serving(says(QUESTIONS)) as wire:
        box.env.update(env(wire))
        kill(box, "after", 1, "new", "Greet")
        box.runner("new", "Greet", rc=3)
        assert len(wire.bodies) == 1
    assert [one["kind"] for one in transcript(box, "0001-greet", "plan.1")] == ["response", "task"]


def test_a_planning_whose_beginning_is_not_here_says_what_to_fetch(box: Box) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    box.runner("answer", protocol, "formal", rc=0)
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    with serving() as wire:
        missing = box.runner("step", protocol, env=env(wire), rc=4).err
    assert f"`runner sync {protocol}`" in missing and not wire.bodies


@pytest.mark.parametrize("where", ["after", "before-refs", "after-refs"])
@pytest.mark.slow
def test_a_planning_that_was_killed_asks_nothing_twice(box: Box, where: str) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    box.runner("answer", protocol, "formal", rc=0)
    with serving(says(PLAN)) as wire:
        box.env.update(env(wire))
        kill(box, where, 0, "step", protocol)
        box.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1
    assert words(box, protocol) == WRITTEN
    assert box.state(protocol)["spent"]["input_tokens"] == 200
    box.runner("verify", protocol, rc=0)


def test_the_planning_goes_on_in_another_clone(remote: Box) -> None:
    publish(remote)
    protocol = asked(remote, options=("--publish", "always"))
    other = clone(remote, "bob")
    other.runner("sync", protocol, rc=0)
    other.runner("answer", protocol, "w2", "formal", rc=0)
    other.runner("answer", protocol, "English", rc=0)
    with serving(says(PLAN)) as wire:
        other.runner("step", protocol, env=env(wire), rc=0)
        assert len(wire.bodies) == 1 and prompt(wire).startswith("Formal or not?\nformal")
    assert words(other, protocol) == WRITTEN
    other.runner("verify", protocol, rc=0)


def test_a_plan_that_people_write_meanwhile_stands(box: Box) -> None:
    protocol = asked(box)
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    (folder / "context.md").write_text("Notes.\n")
    assert "Formal or not?" in box.runner("step", protocol, rc=3).err  # the notes alone are no plan
    (folder / "01-mine.md").write_text("---\ntitle: Mine\nkind: command\nrun: 'true'\n---\n")
    assert "plan.md" in box.runner("step", protocol, rc=2).err
    (folder / "plan.md").write_text("---\ntitle: By hand\n---\n")
    box.commit("by hand", cwd=box.worktree(protocol))
    assert "the plan that people wrote" in box.runner("step", protocol, "--dry-run", rc=0).out
    assert "planned" in box.runner("step", protocol, rc=0).err
    state = box.state(protocol)
    assert (state["status"], list(state["steps"]), state["waiting"]) == ("planned", ["mine"], [])
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert second(box.path, protocol)[0] == 0


def test_notes_that_people_wrote_meanwhile_stay(box: Box) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    (box.worktree(protocol) / f".protocols/{protocol}/context.md").write_text("Notes.\n")
    box.runner("answer", protocol, "formal", rc=0)
    with serving(says(PLAN)) as wire:
        box.runner("step", protocol, env=env(wire), rc=0)
    assert box.git("show", f"{protocol}:.protocols/{protocol}/context.md") == "Notes.\n"
    box.runner("step", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert second(box.path, protocol)[0] == 0


def test_a_protocol_that_is_asked_about_can_be_steered(box: Box) -> None:
    protocol = asked(box)
    for verb in ("edit", "plan"):
        assert "has no plan yet" in box.runner(verb, protocol, env={"RUNNER_ENGINE": "gemini:x"}, rc=4).err
    assert "has no plan yet" in box.runner("qa", protocol, rc=4).err
    assert "nothing to revert" in box.runner("undo", protocol, rc=4).err
    box.runner("pause", protocol, rc=0)
    box.runner("answer", protocol, "w2", "formal", rc=0)
    box.runner("answer", protocol, "English", rc=0)
    box.runner("run", protocol, rc=3)
    assert "resumed" in box.runner("resume", protocol, rc=0).err
    assert "had no plan yet" in box.runner("undo", protocol, rc=4).err
    assert "no step" in box.runner("step", protocol, "--step", "look", rc=2).err
    box.runner("cancel", protocol, rc=0)
    assert box.runner("step", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert second(box.path, protocol)[0] == 0
    box.runner("clean", "--yes", rc=0)


def test_without_questions_the_model_decides(box: Box) -> None:
    with serving(says(PLAN)) as wire:
        box.runner("new", "Greet", "--no-questions", env=env(wire), rc=0)
        assert "Ask no questions" in prompt(wire)


def test_questions_are_asked_at_a_terminal(box: Box) -> None:
    with serving(says({"title": "x", "questions": ["Formal or not?"]}), says(PLAN)) as wire:
        code, shown = at_terminal(box, {b"Formal or not?": b"formal\n"}, "new", "Greet", env=env(wire))
        assert code == 0, shown
        assert shown.startswith("Formal or not? (Enter: the model decides)\r\n> formal\r\n"), shown
        assert prompt(wire, 1) == "Formal or not?\nformal"
    transcript = box.git("show", "refs/runner/history/0001-greet:runs/plan.1.jsonl").splitlines()
    assert json.loads(transcript[1])["answers"] == ["formal"]
    box.runner("verify", "0001-greet", rc=0)


@pytest.mark.parametrize("said", ["yes", "no"])
def test_a_plan_after_an_answer_is_shown_and_asked_for_at_a_terminal(box: Box, said: str) -> None:
    protocol = asked(box, questions={"title": "x", "questions": ["Formal or not?"]})
    box.runner("answer", protocol, "formal", rc=0)
    with serving(says(PLAN)) as wire:
        code, shown = at_terminal(box, {b"Carry out this plan?": said.encode() + b"\n"}, "run", protocol, env=env(wire))
    assert shown.index("$ cat src/app.py") < shown.index("Carry out this plan?")
    assert (code, box.state(protocol)["steps"]["look"]["status"]) == {"yes": (3, "completed"), "no": (0, "pending")}[
        said
    ]
    assert "runner run 1" in shown.partition("Carry out")[2] or said == "yes"
    box.runner("verify", protocol, rc=0)


def test_what_the_model_said_is_pushed_with_the_plan(remote: Box) -> None:
    with serving(says(PLAN), says({"title": "x", "steps": [STEPS[0]]})) as wire:
        protocol = remote.runner("new", "Greet", "--publish", "always", env=env(wire), rc=0).out.strip()
        remote.runner("plan", protocol, "--yes", "--publish", "always", env=env(wire), rc=0)
    there = remote.git("ls-remote", "origin")
    for ref in (f"refs/heads/{protocol}", f"refs/runner/history/{protocol}"):
        assert f"{remote.git('rev-parse', ref).strip()}\t{ref}\n" in there
    names = remote.git("ls-tree", "-r", "--name-only", f"refs/runner/history/{protocol}").split()
    assert names == ["runs/plan.1.jsonl", "runs/plan.2.jsonl"]


def test_a_key_in_the_repository_does_not_reach_the_model(box: Box) -> None:
    box.write("src/settings.py", f"greeting = '{KEY}'\n")
    box.commit("a slip")
    with serving(calls("read_file", path="src/settings.py"), says(PLAN)) as wire:
        box.runner("new", "The greeting in settings.py", env=env(wire), rc=0)
        told = json.dumps(wire.bodies[1])
        assert "greeting = '[GEMINI_API_KEY]'" in told and KEY not in told


def test_do_without_a_model_makes_nothing(box: Box) -> None:
    before = box.git("for-each-ref")
    assert "GEMINI_API_KEY" in box.runner("do", "A task", rc=2).err
    assert "set GEMINI_API_KEY" in box.runner("do", "A task", "--engine", "gemini:x", rc=2).err
    assert "there is no engine" in box.runner("do", "A task", env={"RUNNER_ENGINE": "gemni:x"}, rc=2).err
    assert box.git("for-each-ref") == before and box.runner("list", rc=0).out == ""


def test_do_that_cannot_end_says_how_it_goes_on(box: Box) -> None:
    with serving(Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no"))) as wire:
        told = box.runner("do", "A task", env=env(wire), rc=69)
    assert "  created       runner run 1 resumes it\n" in told.err and told.out == "0001-a-task\n"


def test_why_an_answer_does_not_come_is_said_while_it_is_waited_for(box: Box) -> None:
    busy = Refusal(code=503, body=error(503, "UNAVAILABLE", "overloaded"))
    with serving(busy, says(PLAN)) as wire:
        told = box.runner("new", "Greet", env=env(wire), rc=0).err
    (line,) = [line for line in told.splitlines() if "asked again in" in line]
    assert "overloaded" in line and line.endswith("asked again in 1 s")


def test_without_a_model_it_is_told_what_to_set(box: Box) -> None:
    told = box.runner("new", "A task", rc=2).err
    assert "GEMINI_API_KEY" in told and "GOOGLE_API_KEY" in told
    box.runner("new", rc=2)
    box.runner("new", "  ", env={"RUNNER_ENGINE": "gemini:x"}, rc=2)


# --- plan --------------------------------------------------------------------------------------------------------------

SHOUT = {"slug": "shout", "title": "Shout", "kind": "command", "run": "true", "prose": "Loud."}
AGAIN = {"title": "unused", "steps": [SHOUT]}


def begun(box: Box) -> str:
    protocol = box.new({"01-look": command("true"), "02-greet": command("true"), "03-end": command("true")})
    box.runner("step", protocol, rc=0)
    return protocol


def words(box: Box, protocol: str) -> list[str]:
    names = box.git("ls-tree", "--name-only", f"{protocol}:.protocols/{protocol}").split()
    return [name for name in names if name[0].isdigit()]


def test_pending_steps_are_planned_anew_and_taken_with_yes_without_asking_again(box: Box) -> None:
    protocol = begun(box)
    tip = box.git("rev-parse", protocol)
    with serving(says(AGAIN)) as wire:
        shown = box.runner("plan", protocol, "-m", "louder", env=env(wire), rc=0)
        assert "+title: Shout" in shown.out and "deleted file" in shown.out and "--yes" in shown.err
        assert box.git("rev-parse", protocol) == tip
        told = prompt(wire)
        box.runner("plan", protocol, "-m", "louder", "--yes", env=env(wire), rc=0)
        assert len(wire.bodies) == 1
    assert "louder" in told and "01-look (stays: completed)" in told and "02-greet (to be planned anew)" in told
    assert words(box, protocol) == ["01-look.md", "02-shout.md"]
    assert box.git("log", "-1", "--format=%an %s", protocol) == f"Alice {protocol}: plan anew\n"
    assert "Shout" in box.git("show", f"refs/runner/history/{protocol}:runs/plan.1.jsonl")
    assert (box.worktree(protocol) / f".protocols/{protocol}/02-shout.md").exists()
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert {"look", "shout"} == {
        slug for slug, step in box.state(protocol)["steps"].items() if step["status"] == "completed"
    }


def test_what_only_people_say_of_a_step_stays_with_its_slug(box: Box) -> None:
    mine = "engine: gemini:gemini-2.5-flash\nbudget:\n  usd: 2\n  turns: 40\non_failure: {retry: 1, then: block}\n"
    front = f'qa: {{policy: full, checks: ["true"]}}\n{mine}timeout: 20m\n'
    protocol = box.new({"01-greet": f"kind: agent\n{front}", "02-end": command("true", "qa: full\ntimeout: 5m\n")})
    greet = {"slug": "greet", "title": "Greet twice", "checks": ["false"], "prose": "Hello, hello."}
    draft = {"title": "x", "steps": [greet, {**SHOUT, "slug": "end"}, {"slug": "new", "title": "N", "prose": "N"}]}
    with serving(says(draft)) as wire:
        box.runner("plan", protocol, "--yes", env=env(wire), rc=0)
        assert len(wire.bodies) == 1
    folder = f"{protocol}:.protocols/{protocol}"
    assert box.git("show", f"{folder}/01-greet.md") == (
        f'---\ntitle: Greet twice\nkind: agent\nqa:\n  policy: full\n  checks:\n    - "false"\n{mine}timeout: 20m\n---\n'
        "Hello, hello.\n"
    )
    assert "qa:\n  policy: full\ntimeout: 5m\n---" in box.git("show", f"{folder}/02-end.md")
    assert "timeout" not in box.git("show", f"{folder}/03-new.md")


@pytest.mark.parametrize(("said", "taken"), [(b"yes\n", True), (b"drop\n", False)])
@pytest.mark.slow
def test_at_a_terminal_a_person_takes_or_drops_it(box: Box, said: bytes, taken: bool) -> None:
    protocol = begun(box)
    with serving(says(AGAIN)) as wire:
        code, shown = at_terminal(box, {b"use it?": said}, "plan", protocol, env=env(wire))
    assert code == 0, shown
    assert ("02-shout.md" in words(box, protocol)) == taken
    box.runner("verify", protocol, rc=0)


def test_at_a_terminal_a_person_edits_it(box: Box, tmp_path: Path) -> None:
    protocol = begun(box)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/Shout/Whisper/' \"$@\"\n")
    editor.chmod(0o755)
    with serving(says(AGAIN)) as wire:
        code, shown = at_terminal(
            box,
            {b"use it?": b"edit\n", b"Whisper": b"yes\n"},
            "plan",
            protocol,
            env={**env(wire), "GIT_EDITOR": str(editor)},
        )
    assert code == 0, shown
    assert "title: Whisper" in box.git("show", f"{protocol}:.protocols/{protocol}/02-shout.md")


def test_a_slug_that_stays_is_refused_and_so_is_planning_what_is_done(box: Box) -> None:
    protocol = begun(box)
    wrong = {"title": "x", "steps": [{**SHOUT, "slug": "look"}]}
    with serving(says(wrong), says(wrong)) as wire:
        assert "two steps are called look" in box.runner("plan", protocol, env=env(wire), rc=69).err
    (box.worktree(protocol) / f".protocols/{protocol}/02-greet.md").write_text("---\ntitle: mine\nkind: human\n---\n")
    assert "not committed: 02-greet.md" in box.runner("plan", protocol, env={"RUNNER_ENGINE": "gemini:x"}, rc=4).err
    other = box.new({"01-look": command("false")})
    box.runner("step", other, rc=1)
    assert "none to replan" in box.runner("plan", other, env={"RUNNER_ENGINE": "gemini:x"}, rc=4).err


def test_a_budget_stops_planning_before_the_request(box: Box) -> None:
    protocol = box.new({"01-look": command("true")}, front="budget: {tokens: 10}\n")
    with serving() as wire:
        assert "budget" in box.runner("plan", protocol, env=env(wire), rc=3).err
        assert not wire.bodies


@pytest.mark.slow
def test_what_planning_anew_cost_is_in_the_record_and_every_budget(box: Box) -> None:
    protocol = begun(box)
    journal = box.path / f".git/runner/journal/{protocol}"
    with serving(says(AGAIN), says("none"), says("none"), says(AGAIN)) as wire:
        code, shown = at_terminal(box, {b"use it?": b"drop\n"}, "plan", protocol, env=env(wire))
        assert code == 0, shown
        assert box.state(protocol)["spent"]["input_tokens"] == 0 and list(journal.glob("plan.1.jsonl"))
        box.runner("plan", protocol, env=env(wire), rc=69)
        plan = box.worktree(protocol) / f".protocols/{protocol}/plan.md"
        plan.write_text(plan.read_text().replace("title: A plan", "title: A plan\nbudget: {tokens: 17000}"))
        box.runner("step", protocol, rc=0)
        stopped = box.runner("plan", protocol, env=env(wire), rc=3)  # three answers stand in the journal alone
        assert "360 of 17,000" in stopped.err and len(wire.bodies) == 3
        plan.write_text(plan.read_text().replace("17000", "90000"))
        box.commit("more", cwd=plan.parent)
        box.runner("plan", protocol, "-m", "louder", "--yes", env=env(wire), rc=0)
    assert not list(journal.glob("plan.*"))
    box.runner("run", protocol, rc=0)
    spent = box.state(protocol)["spent"]
    assert (spent["input_tokens"], spent["output_tokens"]) == (400, 80)
    log = box.log(protocol)
    assert log.count('"transcript":') == 1 and log.count('"input_tokens"') == 1
    box.runner("verify", protocol, rc=0)
    assert second(box.path, protocol)[0] == 0


def test_what_a_plan_cost_that_was_none_is_in_the_record_of_the_one_that_was(box: Box) -> None:
    with serving(says("none"), says("none"), says(PLAN)) as wire:
        box.runner("new", "Greet", env=env(wire), rc=69)
        protocol = box.runner("new", "Greet", env=env(wire), rc=0).out.strip()
    assert box.state(protocol)["spent"]["input_tokens"] == 300
    assert [one["kind"] for one in transcript(box, protocol, "plan.1")] == ["response"] * 2 + ["undecided", "response"]
    assert not list((box.path / ".git/runner/journal/planning").iterdir())


# --- do ----------------------------------------------------------------------------------------------------------------


def test_do_lets_an_agent_do_it_and_tells_what_changed(box: Box) -> None:
    edit = calls("write_file", path="src/app.py", content="print('good day')\n")
    with serving(edit, calls("finish", status="done", summary="greets")) as wire:
        done = box.runner("do", "Greet politely\nand say good day", env=env(wire), rc=0)
        assert "and say good day" in prompt(wire)
    protocol = done.out.splitlines()[-1]
    assert protocol == "0001-greet-politely"
    assert "src/app.py | 2 +-" in done.err and "runner merge 1" in done.err
    assert "  checks        none; `--check CMD` names one, `runner init` finds the project's\n" in done.err
    assert box.git("show", f"{protocol}:src/app.py") == "print('good day')\n"
    box.runner("verify", protocol, rc=0)
    box.runner("merge", protocol, rc=0)


COWORKER = "name: greeter\nobjective: Greets people.\ninstructions: Be kind.\n"


def test_do_with_a_coworker_says_whether_the_trusted_branch_has_it(box: Box) -> None:
    box.write("greeter.yaml", COWORKER)
    before = refs(box)
    refused = box.runner("do", "-f", "greeter.yaml", "Greet", rc=2).err
    assert (
        "greeter.yaml is not on main: its text is used, but not its list of tools" in refused
        and "there is no m" in refused
    )
    assert refs(box) == before
    box.write(".protocols/agents/greeter.yaml", COWORKER)
    box.commit("a coworker")
    with serving(calls("finish", status="done", summary="nothing to do")) as wire:
        box.runner("do", "-f", "greeter.yaml", "Greet", env=env(wire), rc=0)
        assert "Be kind." in wire.bodies[0]["systemInstruction"]["parts"][0]["text"]
    box.runner("do", "-f", "nowhere.yaml", "Greet", rc=2)
    box.runner("do", "-f", "greeter.yaml", "--workflow", "echo-add", rc=2)


def test_the_bugfix_workflow_is_carried_out(box: Box) -> None:
    box.write("calc.py", "def add(a, b):\n    return a - b\n")
    box.commit("a bug")
    test = "from calc import add\nassert add(2, 3) == 5\n"
    script = [
        calls("write_file", path="test_calc.py", content=test),
        calls("finish", status="done", summary="the sign is wrong"),
        calls("write_file", path="calc.py", content="def add(a, b):\n    return a + b\n"),
        calls("finish", status="done", summary="mended"),
    ]
    with serving(*script) as wire:
        inputs = ("--input", "bug=add(2, 3) is -1", "--input", "test=python3 test_calc.py")
        done = box.runner("do", "--workflow", "bugfix", *inputs, env=env(wire), rc=0)
        assert "add(2, 3) is -1" in prompt(wire)
    protocol = done.out.splitlines()[-1]
    assert box.state(protocol)["status"] == "completed" and "qa-passed" in box.log(protocol)
