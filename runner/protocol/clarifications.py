"""clarifications.yaml: open questions about the project from its setup, and people's answers (design §2).

People own the file. `runner init` adds a question, or an answer from the terminal, as lines of its own and changes nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from runner.errors import InTheWayError, MalformedFileError
from runner.protocol import strict_yaml
from runner.protocol.file_models import BeforeValidator, Field, FileModel, WithJsonSchema
from runner.protocol.strict_yaml import Line, Plain
from runner.protocol.workflow import Type, written

_HEAD: Final = (
    "# Open questions. Write each answer after `answer:`, in quotes, or run `runner init`, which asks.\n"
    "# With `clarifications: block` in config.yaml no protocol starts while one of them is open.\n"
    "questions:\n"
)
_UNANSWERED: Final = re.compile(r"( *)answer:[ \t]*(?=\r?$)")
_ALONE: Final = re.compile(r"( *)- +question:[^\r]*(?=\r?$)")


def _nothing(value: object) -> object:
    return None if value == "" or (isinstance(value, Plain) and value in ("null", "~")) else value


class Clarification(FileModel):
    """A question. `answer`: as the person wrote it; None while it is open."""

    question: Line
    answer: Annotated[Line | None, BeforeValidator(_nothing), WithJsonSchema({"type": ["string", "null"]})] = None


class Clarifications(FileModel):
    """The whole of clarifications.yaml."""

    questions: tuple[Clarification, ...] = Field(
        default=(), description="Questions about the project and people's answers; one without an answer is open."
    )


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the file. `line`: of its answer or, while there is no such key, of the question."""

    text: str
    answer: str | None
    line: int


def parse(data: bytes | None, where: str) -> tuple[Question, ...]:
    """Return the file's questions, in their order; none where there is no file.

    Raises:
        MalformedFileError: with the line.
    """
    if data is None:
        return ()
    found, lines = strict_yaml.read(Clarifications, data, where, may_be_empty=True)
    return tuple(
        Question(one.question, one.answer, lines.get(("questions", at, "answer"), lines[("questions", at)]))
        for at, one in enumerate(found.questions)
    )


def added(data: bytes | None, where: str, answers: Mapping[str, str], open_: Iterable[str]) -> bytes:
    """Return the file with these answers, and with those of the questions that it does not have yet.

    Raises:
        InTheWayError: it is not written such that lines can be added to it.
    """
    known = parse(data, where)
    wanted = {one.text: one.answer for one in known}
    wanted |= {text: answers.get(text) for text in (*answers, *open_) if text not in wanted} | dict(answers)
    lines = (_HEAD if data is None else data.decode()).split("\n")
    for one in reversed(known):
        if one.answer is None and one.text in answers:
            lines[one.line - 1 : one.line] = _answered(lines[one.line - 1], _quoted(answers[one.text]))
    end = "\r" if len(lines) > 1 and lines[0].endswith("\r") else ""
    lines += [""] if lines[-1] else []
    for text, answer in wanted.items():
        if text not in {one.text for one in known}:
            line = f"    answer: {_quoted(answer)}" if answer else "    answer:"
            lines[-1:] = [f"  - question: {_quoted(text)}{end}", line + end, ""]
    made = "\n".join(lines).encode()
    if not _says(made, wanted):
        raise InTheWayError(
            "nothing can be added to the file as it is written",
            where,
            'write it there yourself: `- question: "…"` and `answer: "…"`, a line each',
        )
    return made


def _answered(line: str, answer: str) -> list[str]:
    """Return the line of an answer, or of a question that has none, with one."""
    if empty := _UNANSWERED.match(line):
        return [f"{empty[1]}answer: {answer}{line[empty.end() :]}"]
    if alone := _ALONE.match(line):
        return [line, f"{' ' * line.index('question:')}answer: {answer}{line[alone.end() :]}"]
    return [line]


def _says(data: bytes, wanted: Mapping[str, str | None]) -> bool:
    try:
        return {one.text: one.answer for one in parse(data, "")} == wanted
    except MalformedFileError:
        return False


def _quoted(text: str) -> str:
    return written(Type.STRING, text) or ""
