"""What nobody could find out about a project: told before anything is begun, or in its way; recorded and answered by `init`."""

from __future__ import annotations

import subprocess

import pytest

from runner.protocol.clarifications import parse
from tests.conftest import JOBS, Box, clone, command
from tests.people import at_terminal

PATH = ".protocols/clarifications.yaml"
OPEN = "questions:\n  - question: How are the tests run?\n    answer:\n  - question: Who may merge?\n"
BLOCK = "clarifications: block\n"
STEP = {"01-a": command("true")}


def asked(box: Box, questions: str = OPEN, config: str = BLOCK) -> None:
    """Put questions onto the trusted branch."""
    box.write(".protocols/config.yaml", config)
    box.write(PATH, questions)
    box.commit("questions")


# --- before anything is begun ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["plan", "manual", "workflow", "model"])
def test_open_questions_keep_anything_from_being_begun(box: Box, begin: str) -> None:
    asked(box)
    before = box.git("for-each-ref")
    args = {
        "plan": ["new", "X", "--plan", str(box.plan(STEP))],
        "manual": ["new", "X", "--manual"],
        "workflow": ["do", "--workflow", "echo-add", "--input", "text=x", "--input", "a=1", "--input", "b=2"],
        "model": ["new", "X"],  # no model is there: it is not even looked for
    }[begin]
    told = box.runner(*args, rc=3)
    assert "2 questions are open" in told.err and "- How are the tests run?" in told.err and "- Who may" in told.err
    assert f"at:   {PATH} on main:3" in told.err and "`runner init`" in told.err and told.out == ""
    assert box.git("for-each-ref") == before


def test_once_they_are_answered_it_is_begun(box: Box) -> None:
    asked(box, OPEN.replace("answer:", "answer: make test"))
    told = box.runner("new", "X", "--manual", rc=3)
    assert "a question is open" in told.err and f"{PATH} on main:4" in told.err and "tests" not in told.err
    asked(box, OPEN.replace("answer:", "answer: make test") + "    answer: Alice\n")
    assert "open" not in box.runner("new", "X", "--manual", rc=0).err


def test_doctor_names_what_is_open(box: Box) -> None:
    asked(box, OPEN.replace("answer:", "answer: make test"), config="")
    told = box.runner("doctor").out
    assert f"note: open question: Who may merge?\n  at:   {PATH} on main:4\n" in told and "tests are run" not in told


@pytest.mark.parametrize("config", ["", "clarifications: warn\n"])
def test_without_block_each_is_told_once_and_it_goes_on(box: Box, config: str) -> None:
    asked(box, config=config)
    told = box.runner("new", "X", "--plan", box.plan(STEP), rc=0)
    assert told.err.count("open question: ") == 2
    assert f"open question: Who may merge? ({PATH} on main:4)" in told.err
    assert "open question" not in box.runner("new", "X", "--plan", box.plan(STEP), rc=0).err
    asked(box, OPEN.replace("answer:", "answer: make test"), config=config)
    assert box.runner("new", "X", "--plan", box.plan(STEP), rc=0).err.count("open question: ") == 1


def test_a_file_that_is_none_is_named_before_anything_is_made(box: Box) -> None:
    asked(box, "questions:\n  - question: a\n    anser: b\n", config="")
    assert f"{PATH} on main:3" in box.runner("new", "X", "--manual", rc=2).err
    assert "0001" not in box.git("for-each-ref")


def test_what_counts_is_the_trusted_branch_as_it_is_now(remote: Box) -> None:
    asked(remote)
    remote.git("push", "-q", "origin", "main")
    other = clone(remote, "bob")
    told = other.runner("new", "X", "--manual", rc=3)
    assert "git push origin main" in told.err
    other.write(PATH, "questions: []\n")
    other.commit("answered")
    assert "2 questions are open" in other.runner("new", "X", "--manual", rc=3).err  # it is not pushed yet
    other.git("push", "-q", "origin", "main")
    assert remote.runner("new", "X", "--manual", rc=0).out == "0001-x\n"  # this clone fetched nothing itself


# --- what `init` could not find out ------------------------------------------------------------------------------------------

TESTS = "How are the tests run? A line of shell."


def questions(box: Box) -> dict[str, str | None]:
    return {one.text: one.answer for one in parse((box.path / PATH).read_bytes(), PATH)}


def test_what_nobody_answered_is_kept_and_again_changes_nothing(box: Box) -> None:
    box.write("package.json", "{}")
    box.write("go.mod", "module x\n")
    box.git("remote", "add", "origin", "https://example.test/o/r.git")
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    stack = "Which stack are the scripts of scripts/ci for: node, go, other?"
    forge = "On which forge is the remote origin: none, github, gitlab?"
    assert questions(box) == {forge: None, stack: None}
    assert f"kept   {PATH}\n" in box.runner("init", "--ci", env=JOBS, rc=0).out
    box.write(PATH, (box.path / PATH).read_text().replace("answer:\n", "answer: go\n").replace("go\n", "none\n", 1))
    assert questions(box) == {forge: "none", stack: "go"}
    told = box.runner("init", "--ci", env=JOBS, rc=0)
    assert f"kept   {PATH}\n" in told.out and "stack go" in told.err
    assert (
        "kept   scripts/ci/test.sh, which differs" in told.out and "go test" in told.err
    )  # it was written for node, and is theirs


def test_a_remote_that_is_a_folder_is_on_no_forge_and_nobody_is_asked(box: Box) -> None:
    box.write("package.json", "{}")
    box.git("remote", "add", "origin", str(box.path.parent / "origin.git"))
    told = box.runner("init", "--yes", rc=0)
    assert "remote origin · forge none" in told.err and "open" not in told.err and PATH not in told.out


def test_a_project_that_says_nothing_of_tests_is_asked_about_them_and_the_answer_becomes_the_script(box: Box) -> None:
    told = box.runner("init", "--commit", rc=0)
    assert f"open   {TESTS}" in told.err and f"answer in {PATH}" in told.err
    assert questions(box) == {TESTS: None} and not (box.path / "scripts/ci/test.sh").exists()
    told = box.runner("new", "X", "--manual", rc=0)
    assert f"open question: {TESTS}" in told.err
    box.write(PATH, (box.path / PATH).read_text().replace("answer:", 'answer: "echo tested; exit 3"'))
    assert "wrote  scripts/ci/test.sh\n" in box.runner("init", "--ci", "--commit", env=JOBS, rc=0).out
    done = subprocess.run([box.path / "scripts/ci/test.sh"], cwd=box.path / "src", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "tested\n")
    assert box.git("status", "--porcelain") == "" and "echo tested" in box.git("show", f"HEAD:{PATH}")
    assert "wrote" not in box.runner("init", "--commit", rc=0).out
    assert "open question" not in box.runner("new", "X", "--manual", rc=0).err


def test_a_project_whose_script_is_there_is_not_asked(box: Box) -> None:
    box.write("scripts/ci/test.sh", "#!/bin/sh\n")
    assert PATH not in box.runner("init", rc=0).out and not (box.path / PATH).exists()


def test_at_a_terminal_init_asks_what_is_open_and_puts_the_answers_in(box: Box) -> None:
    asked(box)
    typed = {
        b"A line of shell": b"true\n",
        b"How are the tests run?": b"\n",
        b"Who may merge?": b'Alice: "always"\n',
        b"Write": b"y\n",
    }
    code, shown = at_terminal(box, typed, "init", "--commit")
    assert code == 0 and f"wrote  {PATH}" in shown, shown
    assert questions(box) == {"How are the tests run?": None, "Who may merge?": 'Alice: "always"', TESTS: "true"}
    assert (box.path / PATH).read_text().startswith(OPEN.rstrip())
    assert box.git("status", "--porcelain") == ""
    told = box.runner("new", "X", "--manual", rc=3)
    assert "a question is open" in told.err


def test_an_answer_that_is_none_is_named_with_its_line(box: Box) -> None:
    box.write("package.json", "{}")
    box.write("go.mod", "module x\n")
    box.runner("init", "--ci", env=JOBS, rc=0)
    box.write(PATH, (box.path / PATH).read_text().replace("answer:", "answer: cobol"))
    before = box.git("status", "--porcelain", "-uall")
    told = box.runner("init", "--ci", env=JOBS, rc=2)
    assert "`cobol` is not an answer to: Which stack" in told.err and f"{PATH}:5" in told.err and "node, go" in told.err
    assert box.git("status", "--porcelain", "-uall") == before


def test_where_the_file_cannot_be_added_to_init_says_so_and_writes_nothing(box: Box) -> None:
    box.write(PATH, "questions: [{question: a}]\n")
    assert "nothing can be added" in box.runner("init", rc=4).err
    assert [path.name for path in (box.path / ".protocols").iterdir()] == ["clarifications.yaml"]
