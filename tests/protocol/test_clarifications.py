"""clarifications.yaml: read strictly, and added to without a change of what people wrote."""

from __future__ import annotations

import pytest

from runner.errors import InTheWayError, MalformedFileError
from runner.protocol.clarifications import Question, added, parse

OURS = added(None, "c", {"Which stack?": "go"}, ["How are the tests run?"])


def told(data: bytes) -> dict[str, str | None]:
    return {one.text: one.answer for one in parse(data, "c")}


def test_what_is_written_is_read_with_the_line_of_each_answer() -> None:
    assert parse(None, "c") == ()
    assert parse(OURS, "c") == (Question("Which stack?", "go", 5), Question("How are the tests run?", None, 7))
    assert OURS.decode().splitlines()[3:] == [
        '  - question: "Which stack?"',
        '    answer: "go"',
        '  - question: "How are the tests run?"',
        "    answer:",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "questions: []\n"])
def test_a_file_without_questions_has_none(text: str) -> None:
    assert parse(text.encode(), "c") == ()


@pytest.mark.parametrize("said", ["answer:", "answer: null", 'answer: ""', "answer: ~", ""])
def test_an_empty_answer_is_none(said: str) -> None:
    assert parse(f"questions:\n  - question: a\n    {said}\n".encode(), "c")[0].answer is None


def test_an_unknown_key_is_named_with_its_line() -> None:
    with pytest.raises(MalformedFileError, match="unknown key") as refused:
        parse(b"questions:\n- question: a\n  anwser: b\n", "c.yaml")
    assert refused.value.where == "c.yaml:3" and "answer" in refused.value.hint


def test_an_answer_and_a_question_are_put_in_and_all_else_stays() -> None:
    text = b"\xef\xbb\xbf# ours\r\nquestions:\r\n  - question: a  # why\r\n    answer: \r\n  - {question: b, answer: x}\r\n"
    made = added(text, "c", {"a": 'say "it": #1'}, ["new"])
    assert told(made) == {"a": 'say "it": #1', "b": "x", "new": None}
    lines = made.split(b"\n")
    assert lines[3] == b'    answer: "say \\"it\\": #1"\r'
    assert [*lines[:3], lines[4]] == [*text.split(b"\n")[:3], text.split(b"\n")[4]]
    assert lines[5:] == [b'  - question: "new"\r', b"    answer:\r", b""]
    assert added(made, "c", {}, ["a", "new"]) == made


def test_a_question_that_has_no_such_key_is_given_one() -> None:
    made = added(b"questions:\r\n  -  question: a\r\n  - question: b\r\n    answer:\r\n", "c", {"a": "x", "b": "y"}, [])
    assert made == b'questions:\r\n  -  question: a\r\n     answer: "x"\r\n  - question: b\r\n    answer: "y"\r\n'


@pytest.mark.parametrize(
    "text",
    [
        "questions: []\n",
        "questions: [{question: a}]\n",
        "questions:\n- question: a\n",
        "questions:\n  - question: |-\n      a\n",
        "questions:\n  - {question: a}\n",
    ],
)
def test_where_nothing_can_be_added_nothing_is_spoilt(text: str) -> None:
    with pytest.raises(InTheWayError, match="nothing can be added"):
        added(text.encode(), "c", {"a": "yes"}, ["b"])
