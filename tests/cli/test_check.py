"""`runner check`: what is wrong with plans and configuration, all at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from runner.cli import check
from tests.conftest import Box, command
from tests.people import governed, person

GOOD = "---\ntitle: Fine\nkind: command\nrun: 'true'\n---\n"


def plan(box: Box, steps: dict[str, str], head: str = "title: A plan") -> str:
    box.write("plan/plan.md", f"---\n{head}\n---\n")
    for name, text in steps.items():
        box.write(f"plan/{name}.md", text)
    return "plan"


def found(box: Box, *args: str) -> list[dict[str, str]]:
    out = box.runner("check", *args, "--json").out
    problems: list[dict[str, str]] = json.loads(out)["problems"]
    return problems


def test_a_plan_without_mistakes_is_fine_and_nothing_is_made(box: Box) -> None:
    refs = box.git("for-each-ref")
    told = box.runner("check", plan(box, {"01-a": GOOD}), rc=0)
    assert told.out == "" and "no problems; checked: plan" in told.err
    assert box.git("for-each-ref") == refs


@pytest.mark.parametrize(
    ("qa", "is_told"), [("light", True), ("full", True), ("skip", False), ("{policy: light, checks: []}", False)]
)
def test_a_step_that_leaves_out_the_checks_of_its_plan_is_named(box: Box, qa: str, is_told: bool) -> None:
    step = f"---\ntitle: Fine\nkind: command\nrun: echo > a.txt\noutputs: a.txt\nqa: {qa}\n---\n"
    problems = found(box, plan(box, {"01-a": step, "02-b": GOOD}, "title: A plan\nqa: {checks: [make test]}"))
    told = [(one["at"], one["what"]) for one in problems]
    assert told == (
        [("plan/01-a.md:6", "this `qa` replaces that of plan.md, so the checks named there do not run")]
        if is_told
        else []
    )


def test_all_mistakes_of_a_plan_are_named_with_file_and_line(box: Box) -> None:
    at = plan(
        box,
        {
            "01-a": "---\ntitle: A\nkind: comand\nrn: x\n---\n",
            "02-b": command("echo ${{ inputs.vrsion }}"),
            "03-c": "---\ntitle: C\nkind: tool\ntool: eco\n---\n",
            "04-d": "---\ntitle: D\nengine: opnai:gpt-5\nagent: nobody\n---\n",
            "05-e": "---\ntitle: E\nkind: human\nneeds: [zz]\n---\n",
            "06-f": GOOD,
        },
    )
    told = box.runner("check", at, rc=2)
    places = {line.split(": ")[0] for line in told.out.splitlines() if not line.startswith("  ")}
    assert {
        "plan/01-a.md:3",
        "plan/01-a.md:4",
        "plan/03-c.md:4",
        "plan/04-d.md:3",
        "plan/04-d.md:4",
        "plan/05-e.md:4",
    } <= places
    assert any(place.startswith("plan/02-b.md") for place in places)
    assert not any("06-f" in place for place in places)
    assert "did you mean" in told.out and f"{len(told.out.splitlines()) // 2} problems" in told.err


def test_names_of_files_that_are_no_steps_do_not_hide_the_rest(box: Box) -> None:
    at = plan(box, {"01_a": GOOD, "02-b": GOOD, "02-c": GOOD, "03-d": "---\ntitel: D\n---\n"})
    told = " ".join(one["what"] for one in found(box, at))
    assert "is not a name for a step" in told and "the number 2" in told and "titel" in told


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        (".protocols/config.yaml", "publsh: always\n", "unknown key `publsh`"),
        (".protocols/config.yaml", "engine: opnai:x\n", "there is no engine `opnai`"),
        (".protocols/policy.yaml", "schema: 1\nruls: []\n", "unknown key `ruls`"),
        (".protocols/agents/reviewer.yaml", "nme: x\n", "unknown key `nme`"),
    ],
)
def test_files_of_a_project_are_checked_as_they_are_in_the_checkout(box: Box, path: str, text: str, what: str) -> None:
    box.write(path, text)
    assert any(what in one["what"] and path in one["at"] for one in found(box, path))
    assert any(what in one["what"] for one in found(box))
    box.write("other.txt", "x")
    assert found(box, "other.txt") == []


def test_a_role_that_nobody_has_is_found_before_the_protocol_waits_for_it(tmp_path: Path) -> None:
    box = governed(tmp_path, [person(tmp_path, "alice")])
    step = "---\ntitle: A\nkind: command\nrun: 'true'\napproval: {when: before, roles: [ops]}\n---\n"
    assert any("nobody is in the role `ops`" in one["what"] for one in found(box, plan(box, {"01-a": step})))


@pytest.mark.parametrize(
    ("approval", "why"),
    [("{when: before, roles: [ops]}", "nobody is in the role `ops`"), ("{when: after, count: 3}", "3 approvals")],
)
def test_a_plan_with_an_approval_that_nobody_can_give_is_not_made(tmp_path: Path, approval: str, why: str) -> None:
    box = governed(tmp_path / "repo", [person(tmp_path, "alice")])
    refs = box.git("for-each-ref")
    step = GOOD.replace("run:", f"approval: {approval}\nrun:")
    told = box.runner("new", "--plan", plan(box, {"01-a": GOOD, "02-b": step}), rc=2)
    assert why in told.err and "02-b.md:" in told.err and told.out == ""
    assert box.git("for-each-ref") == refs
    [same] = found(box, "plan")
    assert same["what"] in told.err


def test_the_hook_of_pre_commit_runs_this_command_for_files_of_protocols() -> None:
    (hook,) = yaml.safe_load((Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text())
    assert hook["id"] == "runner-check" and hook["entry"].split() == ["runner", "check"]
    assert check.command.name == "check" and hook["language"] == "python"
    assert re.search(hook["files"], ".protocols/config.yaml") and not re.search(hook["files"], "src/app.py")


def test_a_protocol_is_checked_with_the_edits_that_the_next_step_picks_up(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    worktree = box.worktree(protocol)
    step = worktree / f".protocols/{protocol}/01-a.md"
    step.write_text("---\ntitle: A\nkind: comand\n---\n")
    refused = box.runner("run", protocol, rc=2).err
    at = f".protocols/{protocol}/01-a.md:3"
    assert at in refused
    assert [one["at"] for one in found(box, protocol)] == [at]
    for named in ([], ["."]):
        told = box.runner("check", *named, cwd=worktree if not named else step.parent, rc=2)
        assert "01-a.md:3: `kind` should be" in told.out
    assert protocol in box.runner("check", cwd=worktree, rc=2).err
    assert box.runner("check", rc=0).out == ""  # another checkout: not the plans of protocols


def test_a_protocol_is_checked_by_its_name(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    assert box.runner("check", protocol, rc=0).out == ""
    assert "there is no protocol" in box.runner("check", "77", rc=2).err
    assert "there is no folder or file `../plans`" in box.runner("check", "../plans", rc=2).err


def test_a_step_file_that_is_a_submodule_is_named_and_the_protocol_can_be_read(box: Box) -> None:
    protocol = box.new({"01-a": GOOD, "02-b": GOOD}, title="A plan")
    path = f".protocols/{protocol}/02-b.md"
    tree = box.worktree(protocol)
    box.git("update-index", "--cacheinfo", f"160000,{'1' * 40},{path}", cwd=tree)
    box.git("commit", "-qm", "a submodule in place of a step", cwd=tree)
    box.git("worktree", "remove", "--force", tree)
    for name in ("status", "show"):
        box.runner(name, protocol, rc=0)
    assert [one["at"] for one in found(box, protocol)] == [f"{path}:1"]


def test_a_mistake_hides_neither_the_next_of_its_file_nor_the_second_of_two_files_with_one_number(box: Box) -> None:
    folder = box.path.parent / "plan-of-many"
    folder.mkdir()
    for name, front in {
        "plan.md": "title: T",
        "01-a.md": "title: A\nkind: agent\nagnt: x\nagent: nobody",
        "02-b.md": "title: B\nkind: tool\ntool: nosuch",
        "02-c.md": "title: C\nkind: agent\nagent: no-one\nneeds: [zz]",
    }.items():
        (folder / name).write_text(f"---\n{front}\n---\n")
    told = box.runner("check", folder, rc=2).out
    for place, text in (("01-a.md:4", "agnt"), ("01-a.md:5", "nobody"), ("02-b.md:4", "nosuch"), ("02-c.md:1", "number 2"),
                        ("02-c.md:5", "zz"), ("02-c.md:4", "no-one")):  # fmt: skip
        assert any(f"/{place}:" in line and text in line for line in told.splitlines()), (place, told)


def test_a_check_whose_script_nothing_has_is_a_mistake(box: Box) -> None:
    box.write("scripts/ci/test.sh", "true\n")
    box.commit("a script")
    agent = "kind: agent\ntitle: T\n"
    for front, said in (
        ('qa: {checks: ["scripts/nosuch.sh --all"]}', "there is no file `scripts/nosuch.sh` on main"),
        ("qa: {checks: [scripts/ci/tets.sh]}", "did you mean `scripts/ci/test.sh`?"),
        (f"{agent}qa: {{checks: [scripts/ci/tets.sh]}}", "did you mean `scripts/ci/test.sh`?"),
        ("qa: {checks: [scripts/ci/test.sh, make test, ./run, X=1 scripts/ci/test.sh]}", ""),
        (f"{agent}qa: {{checks: [scripts/new.sh]}}", ""),
        ("qa: {checks: [scripts/new.sh]}\noutputs: scripts/*.sh", ""),
        ("qa: {checks: [bin/x]}\nrun: mkdir bin && cp /bin/true bin/x", ""),
    ):
        lines = (
            front
            if "kind:" in front
            else f"title: T\nkind: command\n{front}" + ("" if "run:" in front else "\nrun: 'true'")
        )
        told = box.runner("check", plan(box, {"01-a": f"---\n{lines}\n---\n"}), rc=2 if said else 0)
        assert said in told.out, (front, told)
    assert "01-a.md:" in told.out or not told.out


def test_a_reference_in_prose_that_is_nearly_an_input_is_a_mistake(box: Box) -> None:
    at = plan(box, {"01-a": GOOD + "Ship ${{ inputs.versio }} by ${{ github.sha }} and ${{ inputs.colour }}.\n"})
    box.write("plan/plan.md", "---\ntitle: T\ninputs: {version: 1}\n---\n")
    told = box.runner("check", at, rc=2).out
    assert "there is no input `versio`" in told and "did you mean `version`?" in told and "colour" not in told


def test_a_step_whose_qa_has_nothing_to_check_is_named_before_its_work(box: Box) -> None:
    at = plan(box, {"01-a": GOOD.replace("---\n", "---\nqa: light\n", 1), "02-b": GOOD})
    said = [(one["what"], one["at"]) for one in found(box, at)]
    assert said == [("the QA of a has nothing to check", "plan/01-a.md:2")]
    assert "nothing to check" in box.runner("new", "--plan", at, rc=2).err
    box.write(".protocols/config.yaml", "checks: ['true']\n")
    box.commit()
    assert found(box, at) == []
    at = plan(box, {"01-a": GOOD.replace("---\n", "---\nqa: light\noutputs: a\n", 1)})
    box.write(".protocols/config.yaml", "forge: none\n")
    box.commit()
    assert found(box, at) == []


def test_a_plan_gives_its_inputs_values_and_a_workflow_declares_them(box: Box) -> None:
    inputs = "inputs: {version: {type: string}, where: {host: a, type: b}}"
    at = plan(box, {"01-a": GOOD}, f"title: A plan\n{inputs}")
    assert [(one["what"], one["at"]) for one in found(box, at)] == [
        ("input `version` has no value: `type:` declares an input of a workflow", "plan/plan.md:3")
    ]
    assert "input `version` has no value" in box.runner("new", "--plan", at, rc=2).err
    box.write(".protocols/workflows/w/plan.md", "---\ntitle: W\ninputs: {version: {type: string}}\n---\n")
    box.write(".protocols/workflows/w/01-a.md", GOOD)
    assert found(box, ".protocols/workflows/w") == []
