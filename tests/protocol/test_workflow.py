"""Workflows: declared inputs become plain values, and every other byte stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import resources
from runner.errors import MalformedFileError, RunnerError, UsageError
from runner.protocol import plans, strict_yaml, workflow

STEP = b"---\ntitle: a\nkind: human\n---\nDo it.\n"


def files(inputs: str, after: str = "") -> dict[str, bytes]:
    return {"plan.md": f"---\ntitle: t\n{inputs}\n{after}---\nprose\n".encode(), "01-a.md": STEP}


def values(made: dict[str, bytes]) -> dict[str, object]:
    return dict(plans.parse(made, "w").header.inputs)


EVERY = """\
inputs:
  text: {type: string, description: What is said back}
  times: {type: integer, default: 1}
  rate:
    type: number
    default: 0.50
  dry: {type: boolean, default: false}
  mode: {type: string, default: 0755}
  note: string
  extra: {type: string, required: false}
"""


def test_values_are_typed_and_put_in_for_the_declarations() -> None:
    made = workflow.instantiate(files(EVERY), "w", {"text": "no", "times": "3", "note": "12:30"})

    assert values(made) == {
        "text": "no", "times": 3, "rate": 0.5, "dry": False, "mode": "0755", "note": "12:30", "extra": None,
    }  # fmt: skip
    assert made["01-a.md"] == STEP


def test_every_other_byte_stays() -> None:
    before = b"\xef\xbb\xbf---\r\n# who\r\ntitle:   'a  b'\r\n"
    block = b"inputs: # declared\r\n  a: {type: integer,\r\n    default: 3}\r\n  # the second\r\n  b: string\r\n"
    after = b"\r\n# why\r\nbase: main # x\r\n---\r\ninputs: no\xc3\xa4\r\n"

    made = workflow.instantiate({"plan.md": before + block + after, "01-a.md": STEP}, "w", {"b": "x"})

    assert made["plan.md"] == before + b'inputs:\r\n  a: 3\r\n  b: "x"\r\n' + after


@pytest.mark.parametrize("inputs", ["", "inputs: {}"])
def test_a_workflow_without_inputs(inputs: str) -> None:
    assert values(workflow.instantiate(files(inputs), "w", {})) == {}
    with pytest.raises(UsageError, match="there is no input `a`") as refused:
        workflow.instantiate(files(inputs), "w", {"a": "1"})
    assert refused.value.hint == "this workflow takes none"


GIVEN = {"text": "x", "note": "y"}


@pytest.mark.parametrize(
    ("given_", "where", "what", "hint"),
    [
        ({}, "w/plan.md:4", "the inputs `text`, `note` must be given", "add --input text=…"),
        ({"text": "x"}, "w/plan.md:11", "the input `note` must be given", "add --input note=…"),
        ({"txt": "x"}, "w/plan.md:3", "there is no input `txt`", "did you mean `text`?"),
        ({"zzz": "x"}, "w/plan.md:3", "there is no input `zzz`", "it takes text, times, rate"),
        (
            GIVEN | {"times": "1.5"},
            "--input times=…",
            "the input `times` should be a whole number, not 1.5",
            "write digits",
        ),
        (GIVEN | {"times": ""}, "--input times=…", "the input `times` should be a whole number, not ", "write digits"),
        (GIVEN | {"times": "1" * 19}, "--input times=…", "the input `times` should be a whole number", "write digits"),
        (
            GIVEN | {"times": "010"},
            "--input times=…",
            "the input `times` should be a whole number, not 010",
            "write digits",
        ),
        (
            GIVEN | {"rate": "1e3"},
            "--input rate=…",
            "the input `rate` should be a number, not 1e3",
            "write one such as",
        ),
        (
            GIVEN | {"rate": "nan"},
            "--input rate=…",
            "the input `rate` should be a number, not nan",
            "write one such as",
        ),
        (
            GIVEN | {"dry": "yes"},
            "--input dry=…",
            "the input `dry` should be true or false, not yes",
            "write true or false",
        ),
        (
            GIVEN | {"text": "\x1b[2J"},
            "--input text=…",
            "the input `text` holds a control or bidi character",
            "give it",
        ),
        (GIVEN | {"text": "\u202e"}, "--input text=…", "the input `text` holds a control or bidi character", "give it"),
        (
            GIVEN | {"text": "\udcff"},
            "--input text=…",
            "the input `text` holds a control or bidi character, or is not",
            "give it",
        ),
        (
            GIVEN | {"times": "\x1b[2J"},
            "--input times=…",
            "the input `times` holds a control or bidi character",
            "give it",
        ),
    ],
)
def test_what_is_given_is_checked(given_: dict[str, str], where: str, what: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        workflow.instantiate(files(EVERY), "w", given_)

    assert refused.value.where == where
    assert refused.value.what.startswith(what)
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("inputs", "line", "what"),
    [
        ("inputs:", 3, "`inputs` has no value"),
        ("inputs: [a]", 3, "`inputs` should be keys and values"),
        ("inputs: {a: strng}", 3, "`inputs.a` should be 'string', 'integer', 'number' or 'boolean'"),
        ("inputs: {a: 1}", 3, "`inputs.a` should be 'string', 'integer', 'number' or 'boolean'"),
        ("inputs:\n  a: {typ: string}", 4, "unknown key `inputs.a.typ`"),
        ("inputs:\n  a: {default: 1}", 4, "the key `type` is missing in `inputs.a`"),
        ("inputs:\n  a-b: string", 4, "`inputs.a-b` is no name for an input"),
        ("inputs:\n  a:\n    type: integer\n    default: '3'", 6, "`inputs.a.default` should be a whole number"),
        ("inputs:\n  a: {type: integer, default: 1.5}", 4, "`inputs.a.default` should be a whole number"),
        ("inputs:\n  a: {type: boolean, default: yes}", 4, "`inputs.a.default` should be true or false"),
        ("inputs:\n  a: {type: string, default: [x]}", 4, "`inputs.a.default` should be text"),
        ("inputs:\n  a: {type: string, default: null}", 4, "`inputs.a.default` should be text"),
        ("inputs:\n  a: {type: string, default: x, required: true}", 4, "`inputs.a.required` is true, and there is a default"),
        ("inputs:\n  a: {type: string, required: maybe}", 4, "`inputs.a.required` should be true or false"),
    ],
)  # fmt: skip
def test_a_bad_declaration_is_told_by_line(inputs: str, line: int, what: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        workflow.instantiate(files(inputs), "w", {"a": "x"})

    assert refused.value.where == f"w/plan.md:{line}"
    assert refused.value.what.startswith(what)


def test_inputs_stand_on_a_line_of_their_own() -> None:
    with pytest.raises(MalformedFileError, match="is not on a line of its own"):
        workflow.instantiate(
            {"plan.md": b"---\n{title: t, inputs: {a: string}}\n---\n", "01-a.md": STEP}, "w", {"a": "x"}
        )


def test_the_steps_of_a_workflow_are_checked_too() -> None:
    step = b"---\ntitle: a\nkind: tool\ntool: t\nwith: {x: '${{ inputs.tex }}'}\n---\n"

    with pytest.raises(MalformedFileError, match="there is no input `tex`") as refused:
        workflow.instantiate(files("inputs: {text: string}") | {"01-a.md": step}, "w", {"text": "x"})
    assert (refused.value.where, refused.value.hint) == ("w/01-a.md:5", "did you mean `text`?")


odd = [
    "",
    "no",
    "null",
    "~",
    "0777",
    "1",
    "a\nb",
    "\r\n",
    '"',
    "\\",
    "\x85",
    "\u2028",
    "\ufeff",
    "\uffff",
    "# x",
    "x" * 5000,
]


@given(st.text(max_size=60) | st.sampled_from(odd))
def test_any_text_arrives_as_it_was_given(text: str) -> None:
    if strict_yaml.FORBIDDEN.search(text):
        return
    made = workflow.instantiate(files("inputs: {a: string}"), "w", {"a": text})

    assert values(made) == {"a": text}


@given(st.text(max_size=80), st.sampled_from(["inputs:", "inputs: {", "inputs:\n  a:", ""]))
def test_arbitrary_declarations_are_read_or_refused(text: str, start: str) -> None:
    for given_ in ({}, {"a": "x"}):
        try:
            made = workflow.instantiate(files(f"{start} {text}"), "w", given_)
        except RunnerError:
            continue
        assert set(made) == {"plan.md", "01-a.md"}


def test_the_built_in_workflows_can_be_read() -> None:
    folder = resources.template("workflows")
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    inputs = {
        "bugfix": {"bug": "it is wrong", "test": "make test"},
        "docs": {"topic": "how it is installed"},
        "echo-add": {"text": "hello", "a": "2", "b": "3"},
        "feature": {"feature": "it counts", "test": "make test"},
    }
    assert [path.name for path in found] == list(inputs)

    for path in found:
        made = workflow.instantiate(_read(path), path.name, inputs[path.name])
        plans.refuse_unsupported(plans.parse(made, path.name), path.name)
    echo_add = workflow.instantiate(_read(folder / "echo-add"), "echo-add", inputs["echo-add"])
    assert values(echo_add) == {"text": "hello", "a": 2, "b": 3}


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
