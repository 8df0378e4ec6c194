"""What the first request of an attempt holds: few tools, the task once, and what a rule or the plan calls for."""

from __future__ import annotations

import dataclasses
import json
import time
from decimal import Decimal
from typing import Any

import pytest

from runner.executor import feedback
from runner.lines import money
from tests.conftest import Box
from tests.engines.wire_gemini import Answer
from tests.executor.minds import ENGINE, agent, finish, mind, say, sound, texts, transcript, write
from tests.people import govern, person, policy, push
from tests.tools.agent_ground import place

TASK = "Turn the quokka counter around, so that it adds what it is given and subtracts nothing."
CORE = {"read_file", "search_text", "edit_file", "write_file", "shell", "ask_person", "finish"}


def offered(body: Any) -> set[str]:
    return {tool["name"] for tool in body["tools"][0]["functionDeclarations"]}


@pytest.fixture(name="box")
def _boxed(box: Box) -> Box:
    """A box whose steps run in the sandbox, where a model has a shell."""
    place("sandbox")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    return box


def ruled(box: Box, rules: str) -> None:
    """Put rules onto the trusted branch."""
    alice = person(box.path.parent, "alice")
    govern(box, [alice], text=policy([alice], more=f"rules:\n{rules}"))


def first(box: Box, context: str = "") -> Any:
    with mind(box, finish()) as wire:
        protocol = box.new({"01-x": agent()})
        if context:
            (box.worktree(protocol) / f".protocols/{protocol}/context.md").write_text(context)
        box.runner("run", protocol, rc=0)
        return wire.bodies[0]


def test_system_and_tools_are_small_and_the_task_is_said_once(box: Box) -> None:
    with mind(box, finish()) as wire:
        box.runner("do", TASK, "--engine", ENGINE, rc=0)
        body = wire.bodies[0]
    fixed = sum(len(json.dumps(body[key])) for key in ("systemInstruction", "tools")) // 4
    assert fixed <= 1000 and offered(body) == CORE
    assert texts(body).count(TASK[:30]) == 1
    assert "# Your task\n\nTurn the quokka" in texts(body)


def test_a_tool_that_the_plan_names_is_offered(box: Box) -> None:
    assert offered(first(box, "Give the report by `publish_artifact`.")) == {*CORE, "publish_artifact"}


def test_memory_brings_its_tools(box: Box) -> None:
    box.write(".protocols/memory/redis.md", "The tests need Redis.\n")
    box.commit("a fact")
    push(box)
    assert offered(first(box)) == {*CORE, "remember", "recall"}


def test_where_a_rule_asks_about_the_shell_other_tools_stand_in(box: Box) -> None:
    ruled(box, "  - ask: {tool: shell}\n  - allow: {tool: apply_patch}\n")
    assert offered(first(box)) == {*CORE, "run", "git", "list_files", "apply_patch"}


def test_contributing_is_for_who_plans(box: Box) -> None:
    box.write("AGENTS.md", "Indent with tabs.\n")
    box.write("CONTRIBUTING.md", "Sign the agreement.\n")
    box.commit("instructions")
    push(box)
    said = texts(first(box))
    assert "Indent with tabs." in said and "Sign the agreement." not in said


def test_a_tool_that_is_not_offered_is_there_by_the_names_that_models_know(box: Box) -> None:
    shell = ("run_shell_command", {"command": "[[ 1 == 1 ]] && cat notes", "description": "look"})
    edit = ("replace", {"file_path": "notes", "old_string": "one", "new_string": "two"})
    patch = "*** Begin Patch\n*** Update File: notes\n@@\n-two\n+three\n*** End Patch"
    calls = (("Write", {"file_path": "notes", "content": "one\n"}), edit, ("apply_patch", {"input": patch}), shell)
    with mind(box, say(*calls), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        back = wire.bodies[1]["contents"][-1]["parts"]
    assert [part["functionResponse"]["name"] for part in back] == [name for name, _ in calls]
    assert back[-1]["functionResponse"]["response"] == {"output": {"exit_code": 0, "output": "three\n"}}
    results = next(one for one in transcript(box, protocol, "x.1") if one["kind"] == "results")["results"]
    assert [one["name"] for one in results] == ["write_file", "edit_file", "apply_patch", "shell"]
    sound(box, protocol)


def test_a_rule_about_a_tool_holds_for_its_other_names(box: Box) -> None:
    ruled(box, "  - deny: {tool: [write_file, edit_file, apply_patch], path: 'kept/**'}\n  - deny: {tool: shell}\n")
    tries = (
        ("Write", {"file_path": "kept/a", "content": "x"}),
        ("replace", {"file_path": "kept/b", "old_string": "x", "new_string": "y"}),
        ("str_replace_based_edit_tool", {"command": "create", "path": "kept/c", "file_text": "x"}),
        ("apply_patch", {"input": "*** Begin Patch\n*** Add File: kept/d\n+x\n*** End Patch"}),
        ("default_api.write_file", {"path": "kept/e", "content": "x"}),
        ("Bash", {"command": "touch kept/f"}),
        ("shell", {"command": ["bash", "-lc", "touch kept/g"]}),
    )
    with mind(box, say(*tries), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
        back = wire.bodies[1]["contents"][-1]["parts"]
    assert ["denied by" in part["functionResponse"]["response"]["error"] for part in back] == [True] * len(tries)
    assert box.git("ls-tree", "-r", "--name-only", protocol, "kept") == ""


def test_a_call_by_another_name_is_verified_by_the_line_that_ran(box: Box) -> None:
    ruled(box, "  - deny: {argv: [sh, -c, '*bash*']}\n")
    calls = (("shell", {"command": ["bash", "-lc", "ls"]}), ("exec_command", {"cmd": "ls"}))
    with mind(box, say(*calls), finish()):
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
    results = next(one for one in transcript(box, protocol, "x.1") if one["kind"] == "results")["results"]
    assert [(one["name"], one["error"]) for one in results] == [("shell", False)] * 2
    sound(box, protocol)


def test_an_agent_file_that_lists_tools_limits_their_other_names_too(box: Box) -> None:
    box.write(".protocols/agents/reader.yaml", "name: reader\nobjective: Reads.\ntools: [read_file]\n")
    box.commit("agent")
    push(box)
    with mind(
        box, say(("Bash", {"command": "touch x"}), ("Write", {"file_path": "x", "content": ""})), finish()
    ) as wire:
        box.runner("run", box.new({"01-x": agent("agent: reader\n")}), rc=0)
        back = wire.bodies[1]["contents"][-1]["parts"]
        assert offered(wire.bodies[0]) == {"read_file", "ask_person", "finish"}
    assert all("there is no tool" in part["functionResponse"]["response"]["error"] for part in back)


def test_cached_input_costs_its_own_price_and_show_says_how_much_it_was(box: Box) -> None:
    def cached(reply: Answer, count: int) -> Answer:
        return dataclasses.replace(reply, usage={**reply.usage, "cachedContentTokenCount": count})

    spent = []
    for count in (0, 90_000):
        turns = [say(("read_file", {"path": "README.md"}), tokens=(100_000, 20)), finish()]
        with mind(box, cached(turns[0], count), turns[1]):
            protocol = box.new({"01-x": agent()}, title=f"Cached {count}")
            said = box.runner("run", protocol, rc=0).err
        shown = box.runner("show", protocol, rc=0).out
        assert ("89 % of the input cached" in shown) is (count > 0)
        spent.append(Decimal(box.state(protocol)["spent"]["usd"]))
        assert money(spent[-1]) in said and len(money(spent[-1])) <= 6
        sound(box, protocol)
    assert spent[1] < spent[0] / 2


FAILS = 'qa: {checks: ["sh check.sh"]}\n'


def checked(box: Box, script: str) -> None:
    """Put a check onto the trusted branch."""
    box.write("check.sh", script)
    box.commit("a check")
    push(box)


def test_the_first_request_has_the_files_and_what_the_checks_find_before_the_work(box: Box) -> None:
    checked(box, "echo canary at $PWD; seq 1000; test -f done.txt || { echo no done.txt; exit 7; }\n")
    with mind(box, say(("write_file", {"path": "done.txt", "content": "x\n"})), finish(), finish()) as wire:
        first, second = (box.new({"01-x": agent(FAILS)}, title=name) for name in ("One", "Two"))
        box.runner("run", first, rc=0)
        box.runner("step", second)
    said = texts(wire.bodies[0])
    assert "<<<untrusted files of the repository\nREADME.md\ncheck.sh\nsrc/app.py\n" in said
    assert "Before your work, the step's checks fail:\n<<<untrusted what the checks found\n" in said
    assert "sh check.sh: exit 7\n" in said and "\nno done.txt\n" in said and len(said) < 7_000
    assert said.split("Before your work")[1] == texts(wire.bodies[2]).split("Before your work")[1]
    sound(box, first)


def test_checks_run_once_before_the_work_on_the_same_files_and_never_again_where_they_are_slow(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "SECONDS", 1.0)
    checked(box, "sleep 20\n")
    with mind(box, *[say(("no_such_tool", {}))] * 9) as wire:
        for name in ("One", "Two"):
            began = time.monotonic()
            protocol = box.new({"01-x": agent("budget: {turns: 1}\n" + FAILS)}, title=name)
            box.runner("step", protocol)
            assert "Before your work" not in texts(wire.bodies[-1])
        assert time.monotonic() - began < 15


def test_the_lines_that_a_step_names_are_there(box: Box) -> None:
    box.write("src/app.py", "".join(f"line {number}\n" for number in range(1, 2001)))
    box.commit("a long file")
    with mind(box, finish(), finish()) as wire:
        folder = box.plan({"01-x": agent()})
        with (folder / "01-x.md").open("a") as file:
            file.write(
                "- src/app.py:7-9: the loop\n- src/app.py:90-1990: much\n- gone.py:1-2: not there\n- ../a:1-2\n- a:9-99999999\n"
            )
        box.runner("run", box.runner("new", "--plan", folder, rc=0).out.strip(), rc=0)
    said = texts(wire.bodies[0])
    assert "<<<untrusted lines 7 to 9 of src/app.py\nline 7\nline 8\nline 9\nuntrusted>>>" in said
    assert "line 91\n" in said and "characters left out" in said and len(said) < 7_000


def test_checks_that_pass_before_the_work_are_one_line(box: Box) -> None:
    checked(box, "echo canary\n")
    with mind(box, finish()) as wire:
        box.runner("run", box.new({"01-x": agent(FAILS)}), rc=0)
    said = texts(wire.bodies[0])
    assert "Before your work, all the step's checks pass." in said and "canary" not in said


def test_what_is_shown_while_a_model_is_asked_is_not_the_check_before(box: Box) -> None:
    checked(box, "echo canary\n")
    with mind(box, finish()):
        told = box.runner("run", box.new({"01-x": agent(FAILS)}), "--verbose", rc=0).err
    before, asked = told.index("checks before the work\n"), told.index("01-x 1/1 asks the model\n")
    assert before < asked < told.index("01-x 1/1 check 1/1\n")


def test_what_is_shown_while_a_model_is_asked_says_so_without_checks_too(box: Box) -> None:
    with mind(box, finish()):
        told = box.runner("run", box.new({"01-x": agent("")}), "--verbose", rc=0).err
    assert "01-x 1/1 asks the model\n" in told


def test_without_checks_the_manifest_says_how_the_project_is_tested(box: Box) -> None:
    box.write(
        "pyproject.toml", "[project]\nname = 'x'\n\n[tool.pytest.ini_options]\ntestpaths = 'checks'\n\n[tool.ruff]\n"
    )
    checked(box, "")
    said = texts(first(box))
    assert "pyproject.toml:\n[tool.pytest.ini_options]\ntestpaths = 'checks'\nuntrusted>>>" in said


def test_a_step_with_a_tool_that_reaches_outside_starts_without_untrusted_text(box: Box) -> None:
    box.env["RUNNER_EXECUTOR"] = "host"
    ruled(box, "  - allow: {tool: shell}\n")
    assert "<<<untrusted" not in texts(first(box))


def trusted_files(box: Box, files: dict[str, str]) -> None:
    """Put files onto the trusted branch."""
    for name, text in files.items():
        box.write(name, text)
    box.commit("files")
    push(box)


def test_instruction_files_of_all_makers_are_there_once(box: Box) -> None:
    trusted_files(box, {"AGENTS.md": "Use tabs.\n", "CLAUDE.md": "@AGENTS.md\n", "GEMINI.md": "Use tabs.\n\n"})
    said = texts(first(box))
    assert said.count("Use tabs.") == 1 and "# The project's AGENTS.md\n" in said and "GEMINI.md\n\n" not in said


def test_a_link_to_an_instruction_file_is_followed_and_no_other(box: Box) -> None:
    trusted_files(box, {"CLAUDE.md": "Use tabs.\n", "notes.md": "Use spaces.\n"})
    (box.path / "AGENTS.md").symlink_to("CLAUDE.md")
    (box.path / "GEMINI.md").symlink_to("notes.md")
    trusted_files(box, {})
    said = texts(first(box))
    assert said.count("Use tabs.") == 1 and "Use spaces." not in said


def test_instructions_of_a_folder_come_with_the_step_that_names_it_or_the_call_that_touches_it(box: Box) -> None:
    trusted_files(
        box,
        {f"{name}/AGENTS.md": f"Mind {name}.\n" for name in ("lib", "lib/deep", "api", "web", "other")}
        | {"lib/deep/a.py": "", "api/b.py": "b\n"},
    )
    patch = "*** Begin Patch\n*** Add File: web/c\n+c\n*** End Patch"
    calls = (("read_file", {"path": "api/b.py"}), ("apply_patch", {"patch": patch}))
    with mind(box, say(*calls), say(("read_file", {"path": "/workspace/api/b.py"})), finish()) as wire:
        protocol = box.new({"01-x": agent()}, title="Change lib/deep/a.py")
        box.runner("run", protocol, rc=0)
    asked, then, last = map(texts, wire.bodies)
    assert asked.index("Mind lib.") < asked.index("Mind lib/deep.") and "Mind api." not in asked
    assert "# The project's api/AGENTS.md, for work in api/\n\nMind api.\n\n# The project's web/AGENTS.md" in then
    assert last.count("Mind api.") == 1 and "Mind other." not in last
    sound(box, protocol)


def test_instructions_have_a_budget(box: Box) -> None:
    trusted_files(box, {"AGENTS.md": "x" * 11_000, "CLAUDE.md": "y" * 5_000})
    said = texts(first(box))
    assert said.count("y" * 1_000) == 1 and "[… 4,000 characters left out …]" in said


def test_searches_of_one_turn_run_in_threads_and_the_journal_has_their_order(box: Box) -> None:
    box.write("src/b.py", "beta\n")
    box.commit("a file")
    words = ("beta", "[", "gamma")
    first, *others = (("search_text", {"pattern": word}) for word in words)
    calls: list[tuple[str, dict[str, Any]]] = [
        first,
        ("git", {"args": ["status"]}),
        ("read_file", {"path": "src/b.py"}),
        *others,
    ]
    with mind(box, say(*calls), say(write("c", "c\n")), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
        back = [part["functionResponse"] for part in wire.bodies[1]["contents"][-1]["parts"]]
    assert [one["name"] for one in back] == [name for name, _ in calls]
    found, status, read, wrong, nothing = (one["response"] for one in back)
    assert found == {"output": {"matches": ["src/b.py:1:beta"]}} and nothing == {"output": {"matches": []}}
    assert status["output"]["exit_code"] == 0 and read == {"output": {"text": "beta"}} and "error" in wrong
    results = next(one for one in transcript(box, protocol, "x.1") if one["kind"] == "results")["results"]
    assert [one["name"] for one in results] == [name for name, _ in calls]
    sound(box, protocol)
