"""A workflow: a plan whose plan.md declares its inputs, so that it can be carried out with other values each time.

    inputs:
      text: {type: string, description: The text to repeat}
      times: {type: integer, default: 1}
      note: string                      # short for {type: string}

An input without a default is required; with `required: false` it is null where it is not given. The result is the plan's files with
the values in place of the declarations and every other byte unchanged. The callers find workflows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

from runner.errors import MalformedFileError, UsageError
from runner.protocol import paths, plans, strict_yaml
from runner.protocol.file_models import (
    AfterValidator,
    BeforeValidator,
    Field,
    FileModel,
    meant,
    model_validator,
    problem,
)
from runner.protocol.plans import PlanHeader, input_names, short_for
from runner.protocol.strict_yaml import INT, NUMBER, Bool, Plain, Script, Text


class Type(StrEnum):
    """The type of an input's value."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


_SHOULD = {
    Type.STRING: ("should be text", "write one line of text, in quotes where it looks like something else"),
    Type.INTEGER: ("should be a whole number", "write digits, such as 3"),
    Type.NUMBER: ("should be a number", "write one such as 3 or 1.50"),
    Type.BOOLEAN: ("should be true or false", "write true or false"),
}


def written(kind: Type, text: str) -> str | None:
    """Return how `text` is written in YAML as a value of this type; None where it is none."""
    match kind:
        case Type.STRING:
            # JSON's strings are YAML's, but for characters that YAML breaks lines at or does not print.
            odd = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
            return re.sub(odd, lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
        case Type.INTEGER:
            return text if INT.fullmatch(text) else None
        case Type.NUMBER:
            return text if NUMBER.fullmatch(text) else None
        case Type.BOOLEAN:
            return text if text in ("true", "false") else None


class Input(FileModel):
    """A workflow's declaration of one input. `default`: as YAML, quotes included."""

    type: Type
    description: Script | None = None
    default: str | None = Field(default=None, json_schema_extra={"type": ["string", "number", "boolean"]})
    required: Bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_of_its_type(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "default" not in value or value.get("type") not in list(Type):
            return value
        kind, given = Type(value["type"]), value["default"]
        plain = isinstance(given, Plain)
        found = None
        if isinstance(given, str) and (plain or kind is Type.STRING) and not (plain and given in ("", "null", "~")):
            found = written(kind, given)
        if found is None:
            what, hint = _SHOULD[kind]
            raise problem(what, hint, "default")
        return {**value, "default": found}

    @model_validator(mode="after")
    def _required_or_default(self) -> Input:
        if self.required and self.default is not None:
            raise problem("is true, and there is a default", "keep one of them", "required")
        return self

    @property
    def is_required(self) -> bool:
        """Whether it has to be given."""
        return self.default is None if self.required is None else self.required


class WorkflowHeader(PlanHeader):
    """The front matter of a workflow's plan.md."""

    inputs: Annotated[
        dict[Text, Annotated[Input, BeforeValidator(short_for("type"), json_schema_input_type=Type | Input)]],
        AfterValidator(input_names),
    ] = Field(
        default_factory=dict,
        description="The inputs for --input NAME=VALUE: the type of each, or its type, default and description.",
    )


def undeclared(plan: plans.Plan, where: str) -> Iterator[MalformedFileError]:
    """Yield an error for each input of a plan that is declared as a workflow's: its steps would get the declaration as the value."""
    for name, value in plan.header.inputs.items():
        if isinstance(value, Mapping) and value.get("type") in list(Type) and value.keys() <= Input.model_fields.keys():
            yield MalformedFileError(
                f"input `{name}` has no value: `type:` declares an input of a workflow",
                f"{where}/{paths.PLAN}:{plan.lines.get('inputs', 1)}",
                f"write `{name}: VALUE`; or make a workflow of it, in {paths.ROOT}/workflows: `--input {name}=VALUE` gives the value",
            )


def _read(files: Mapping[str, bytes], where: str) -> tuple[dict[str, Input], str, strict_yaml.Lines]:
    """Return (the inputs that plan.md declares, its front matter, the lines of its keys)."""
    if paths.PLAN not in files:
        raise MalformedFileError("there is no plan.md", where, "write one: front matter with `title: …`, and prose")
    at = f"{where}/{paths.PLAN}"
    front, _ = strict_yaml.split_front_matter(strict_yaml.decode(files[paths.PLAN], at), at)
    value, lines = strict_yaml.load_yaml(front, at)
    return strict_yaml.validate(WorkflowHeader, value, lines, at).inputs, front, lines


def instantiate(files: Mapping[str, bytes], where: str, given: Mapping[str, str]) -> dict[str, bytes]:
    """Return the plan's files of a workflow with the values of `given` in the place of plan.md's declarations.

    Raises:
        UsageError: an input that is unknown, missing or not of its type.
        MalformedFileError: the workflow itself is not valid.
    """
    declared, front, lines = _read(files, where)
    at = f"{where}/{paths.PLAN}"
    block_line = lines.get(("inputs",), 1)
    for name in given:
        if name not in declared:
            known = f"it takes {', '.join(declared)}" if declared else "this workflow takes none"
            raise UsageError(f"there is no input `{name}`", f"{at}:{block_line}", meant(name, declared, known))
    missing = [name for name, declaration in declared.items() if declaration.is_required and name not in given]
    if missing:
        raise UsageError(
            f"the input{'s' if len(missing) > 1 else ''} {', '.join(f'`{name}`' for name in missing)} must be given",
            f"{at}:{lines.get(('inputs', missing[0]), block_line)}",
            f"add {' '.join(f'--input {name}=…' for name in missing)}",
        )
    values = {
        name: _given(name, declaration, given[name]) if name in given else declaration.default or "null"
        for name, declaration in declared.items()
    }
    made = dict(files)
    if declared:
        made[paths.PLAN] = _with_values(files[paths.PLAN], front, lines, values, at)
    plans.parse(made, where)
    return made


def _given(name: str, declaration: Input, text: str) -> str:
    if strict_yaml.FORBIDDEN.search(text):
        raise UsageError(
            f"the input `{name}` holds a control or bidi character, or is not UTF-8",
            f"--input {name}=…",
            "give it without that character",
        )
    found = written(declaration.type, text)
    if found is None:
        what, hint = _SHOULD[declaration.type]
        raise UsageError(f"the input `{name}` {what}, not {strict_yaml.shown(text)}", f"--input {name}=…", hint)
    return found


def _with_values(data: bytes, front: str, lines: strict_yaml.Lines, values: Mapping[str, str], where: str) -> bytes:
    """Return plan.md with the `inputs:` block replaced by plain values, everything else byte for byte."""
    rows = re.findall(r"[^\n]*\n|[^\n]+\Z", data.decode())  # str.splitlines ends lines at more than LF
    first = lines[("inputs",)] - 1
    if not re.match(r"inputs[ \t]*:", rows[first]):
        raise MalformedFileError(
            "`inputs` is not on a line of its own",
            f"{where}:{first + 1}",
            "write `inputs:` at the start of a line",
        )
    later = [line - 1 for path, line in lines.items() if len(path) == 1 and line - 1 > first]
    last = min(later, default=front.count("\n"))
    while last > first + 1 and re.match(r"#|[ \t]*\r?\n", rows[last - 1]):
        last -= 1  # a comment or an empty line before the next key belongs to that
    end = "\r\n" if rows[first].endswith("\r\n") else "\n"
    block = [f"inputs:{end}", *(f"  {name}: {value}{end}" for name, value in values.items())]
    return "".join([*rows[:first], *block, *rows[last:]]).encode()
