"""What people are told: every error in one form, every hint as it can be typed, and nothing left unsaid."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Box, command

TWO = {"01-a": command("echo a > a.txt"), "02-b": command("true")}


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        (["stauts"], "there is no command `stauts`", "did you mean `runner status`?"),
        (["xyz"], "there is no command `xyz`", "`runner --help` lists the commands"),
        (["run", "--max-stesp", "3"], "there is no option `--max-stesp`", "did you mean `--max-steps`?"),
        (["merge", "--into", "x"], "there is no option `--into`", "`runner merge --help` lists them"),
        (["new", "-q", "x"], "there is no option `-q`", "write it before the command: `runner -q new`"),
        (["status", "-C", "x"], "there is no option `-C`", "write it before the command: `runner -C FOLDER status`"),
        (["run", "--zzz"], "there is no option `--zzz`", "`runner run --help` lists them"),
        (["run", "--max-steps", "0"], "invalid value for '--max-steps'", "`runner run --help` describes it"),
        (["run", "1", "2"], "got unexpected extra argument", "`runner run --help` describes it"),
        (["edit", "--remove"], "option '--remove' requires an argument", "`runner edit --help` describes it"),
        (["engines", "openai"], "`openai` does not say which model", "write it as openai:MODEL"),
        (["engines", "recorded:"], "`recorded:` does not say which file", "write it as recorded:FILE"),
        (["completion"], "missing argument", "`runner completion --help` describes it"),
        (["new", "--input", "a=1"], "--input goes with --workflow", "`runner new --help` describes it"),
        (["-C", "nowhere", "status"], "invalid value for '-C'", "`runner --help` describes it"),
    ],
)
def test_what_is_typed_wrongly_is_told_as_every_error_is(box: Box, args: list[str], what: str, hint: str) -> None:
    told = box.runner(*args, rc=2)
    first, second, third = told.err.splitlines()
    assert first.startswith(f"error: {what}") and second.startswith("  at:   ") and third == f"  next: {hint}"
    assert told.out == ""


def test_a_plan_that_is_no_folder_is_named_as_it_was_typed(box: Box) -> None:
    box.write("plan.md", "x")
    told = box.runner("new", "--plan", "../nowhere/./x", rc=2).err
    assert f"no folder ../nowhere/x\n  at:   {box.path.parent}/nowhere/x\n" in told
    assert "plan.md is not a folder" in box.runner("new", "--plan", "plan.md", rc=2).err


def test_every_input_that_is_missing_stands_in_the_hint(box: Box) -> None:
    told = box.runner("new", "--workflow", "echo-add", "--input", "text=x", rc=2).err
    assert "add --input a=… --input b=…" in told


def test_a_new_worktree_is_named_as_status_names_it(box: Box) -> None:
    told = box.runner("new", "--plan", box.plan(TWO), rc=0)
    protocol = told.out.strip()
    assert f"  read or edit  ../{box.worktree(protocol).parent.name}/{protocol}/.protocols/{protocol}/\n" in told.err


def test_undo_of_what_the_base_took_says_that_the_base_keeps_it(box: Box) -> None:
    protocol = box.new(TWO)
    box.runner("run", protocol, rc=0)
    assert "keeps" not in box.runner("undo", protocol, rc=0).err
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    assert "main keeps what was merged, until this is merged again" in box.runner("undo", protocol, rc=0).err
    assert box.git("show", "main:a.txt") == "a\n"


def test_clean_says_that_the_branch_of_a_cancelled_protocol_stays(box: Box) -> None:
    protocol = box.new(TWO)
    box.runner("step", protocol, rc=0)
    box.runner("cancel", protocol, rc=0)
    stays = f"left     branch     {protocol}  it was cancelled, and its base does not have its commits; `git branch -D"
    assert stays in box.runner("clean", "--yes", rc=0).err
    assert box.git("rev-parse", protocol)
    assert "nothing to remove" in (told := box.runner("clean", "--yes", rc=0).err) and "branch" not in told


def test_nothing_open_says_where_what_has_ended_is(box: Box) -> None:
    box.runner("cancel", box.new(TWO), rc=0)
    assert box.runner("status", rc=0).err == "no protocol is open; `runner list` shows what has ended\n"


def test_after_a_retry_beside_a_question_the_retry_comes_first(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    assert "next          runner run 1\n" in box.runner("retry", protocol, "--step", "a", rc=0).err
    box.runner("run", protocol, rc=3)
    box.runner("pause", protocol, rc=0)
    assert "next          runner answer 1 TEXT\n" in box.runner("resume", protocol, rc=0).err


def test_edit_takes_plan_for_plan_md(box: Box) -> None:
    protocol = box.new(TWO)
    told = box.runner("edit", protocol, "plan", rc=0, env={"EDITOR": "sed -i s/title:.*/title:\\ Changed/"})
    assert "plan.md" in told.err and "title: Changed" in box.git("show", f"{protocol}:.protocols/{protocol}/plan.md")


def test_a_reader_that_goes_away_is_no_failed_step(box: Box) -> None:
    protocol = box.new(TWO)
    line = [sys.executable, "-m", "runner", "log", protocol]
    with subprocess.Popen(line, cwd=box.path, env=box.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        told = running.stderr.read()
    assert (running.returncode, told) == (141, b"")


def test_list_tells_the_age_of_what_only_the_remote_has(box: Box) -> None:
    first = box.new(TWO)
    box.git("init", "-q", "--bare", "-b", "main", str(box.path.parent / "bare"))
    box.git("remote", "add", "origin", str(box.path.parent / "bare"))
    box.git("push", "-q", "origin", "main", first)
    box.git("fetch", "-q", "origin")
    box.git("worktree", "remove", "--force", box.worktree(first))
    box.git("branch", "-q", "-D", first)
    told = box.runner("list", rc=0).out
    assert first.split("-")[0] in told and " s " in told and "on the base" not in told


@pytest.mark.parametrize(("said", "sum_"), [("8", 11), ("0.5", 3.5), ("true", None), ("8 or so", None)])
def test_what_a_command_counted_can_be_added(box: Box, said: str, sum_: float | None) -> None:
    count = command(f'echo "count={said}" > $RUNNER_RESULT')
    add = 'kind: tool\ntool: add\nwith: {a: "${{ steps.count.result.count }}", b: 3}\n'
    protocol = box.new({"01-count": count, "02-add": add})
    told = box.runner("run", protocol, rc=1 if sum_ is None else 0)
    assert box.state(protocol)["steps"]["add"]["result"] == (None if sum_ is None else {"sum": sum_})
    assert sum_ is not None or "argument `a` should be a number" in told.err


def test_a_protocol_whose_branch_is_gone_names_what_helps(box: Box) -> None:
    protocol = box.new(TWO)
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    box.runner("clean", "--yes", rc=0)
    for args in (["run", "1"], ["step", "1", "--dry-run"], ["undo", "1"]):
        told = box.runner(*args, rc=4).err
        assert "next: `runner show 1` shows its status" in told and "git fetch" not in told
    assert "merged" in box.runner("show", protocol, rc=0).out
