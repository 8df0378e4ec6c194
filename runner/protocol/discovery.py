"""What a model answers that looks at a repository: the commands of scripts/ci, and what it has to ask. Read strictly.

A command is data until a person has seen it: all of it can be seen, for it has nothing but printable ASCII, in few and short lines.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from runner.protocol import planning
from runner.protocol.words import Line, Text, Words, problem

LINES_MOST: Final = 20
LINE_LIMIT: Final = 160
QUESTIONS_MOST: Final = 3
QUESTION_LIMIT: Final = 200
_LINE: Final = re.compile(rf"[ -~]{{0,{LINE_LIMIT}}}")


def _command(text: str) -> str:
    lines = text.strip().split("\n")
    if not text.strip() or len(lines) > LINES_MOST or not all(_LINE.fullmatch(line) for line in lines):
        raise problem(
            "should be lines of shell",
            f"write 1 to {LINES_MOST} lines of at most {LINE_LIMIT} characters, printable ASCII alone; leave out what there is not",
        )
    return "\n".join(line.rstrip() for line in lines)


def _question(text: str) -> str:
    if len(text) > QUESTION_LIMIT:
        raise problem("is too long", f"write at most {QUESTION_LIMIT} characters")
    return text


Command = Annotated[Text, AfterValidator(_command), WithJsonSchema({"type": "string", "minLength": 1})]
Asked = Annotated[
    Line, AfterValidator(_question), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": QUESTION_LIMIT})
]


class Discovery(Words):
    """What a model found out; None is what the project does not do."""

    bootstrap: Command | None = None
    lint: Command | None = None
    typecheck: Command | None = None
    test: Command | None = None
    build: Command | None = None
    questions: Annotated[tuple[Asked, ...], Field(max_length=QUESTIONS_MOST)] = ()

    def commands(self) -> dict[str, str]:
        """Return name to lines of those that there are."""
        return {name: run for name, run in self if name != "questions" and run is not None}


def read(text: str) -> Discovery:
    """Return what a model's answer holds.

    Raises:
        UnfitError: it is none; with every reason.
    """
    return planning.parsed(Discovery, text)
