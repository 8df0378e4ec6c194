"""What nobody could find out about a project: told before anything is begun, or in its way; recorded and answered by `init`."""

from __future__ import annotations

import pytest

from tests.conftest import Box, clone, command

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


@pytest.mark.parametrize("config", ["", "clarifications: warn\n"])
def test_without_block_each_is_told_once_and_it_goes_on(box: Box, config: str) -> None:
    asked(box, config=config)
    told = box.runner("new", "X", "--plan", box.plan(STEP), rc=0)
    assert told.err.count("open question: ") == 2
    assert f"open question: Who may merge? ({PATH} on main:4)" in told.err


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
