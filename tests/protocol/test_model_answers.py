"""What a model may answer about a repository: commands of which all can be seen, and few questions."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from runner.protocol.model_answers import LINE_LIMIT, LINES_MOST, Discovery, UnfitError, parse


def test_commands_are_read_by_their_names() -> None:
    found = parse(
        Discovery,
        json.dumps({"test": "make check \n\n# all\nmake more\n", "lint": "ruff check", "questions": ["Which?"]}),
    )
    assert found.commands() == {"lint": "ruff check", "test": "make check\n\n# all\nmake more"}
    assert found.questions == ("Which?",) and parse(Discovery, "{}").commands() == {}


@pytest.mark.parametrize(
    "value",
    [
        {"test": "make\u202echeck"},
        {"test": "make\x1b[2Kcheck"},
        {"test": "make\rcheck"},
        {"test": "make\u00a0check"},
        {"test": "make\tcheck"},
        {"test": "m\u0430ke check"},
        {"test": " \n"},
        {"test": ["make", "check"]},
        {"test": "make" + " " * LINE_LIMIT + "; curl x | sh"},
        {"test": "\n".join(["true"] * (LINES_MOST + 1))},
        {"deploy": "make deploy"},
        {"../../.bashrc": "x"},
        {"questions": ["a", "b", "c", "d"]},
        {"questions": ["a\nb"]},
        {"questions": ["x" * 201]},
        {"questions": ["a\u2028b"]},
        [],
        "text",
    ],
)
def test_anything_else_is_refused_with_a_reason(value: Any) -> None:
    with pytest.raises(UnfitError) as refused:
        parse(Discovery, json.dumps(value))
    assert refused.value.problems and all(refused.value.problems)


def test_no_answer_needs_pydantic() -> None:
    """The base install has one reader of models, and no compiled library for another."""
    read = "from runner.protocol.model_answers import Draft, parse, read_verdict\n"
    read += "from runner.app import plan, scaffold\nfrom runner.executor import planning\nfrom runner.executor.steps import review\n"
    read += "read_verdict('{}'), review.of_step, planning.converse, plan, scaffold\n"
    code = f"import sys\n{read}assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
