"""Contracts of the built-in tools, and finding a tool by its name, among the built-in ones and a project's own.

The models of a model's tools have descriptions that are written for the model. `LOOP` has the tools that the agent loop executes
itself: ask a person, publish an artifact, finish. A call of one has no effect but its entry in the record, which the loop makes.
`echo` and `add` are two examples without effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from runner.errors import UsageError
from runner.protocol import aliases
from runner.protocol.file_models import (
    BeforeValidator,
    Between,
    Field,
    FileModel,
    Pattern,
    UnfitError,
    WithJsonSchema,
    first_fault,
)
from runner.tools import Contract, Effect, Tool, ToolError, check_arguments, typed

Taken = TypeVar("Taken", bound="Given")


class Given(FileModel):
    """What a tool takes: what a model may leave out, it may give as null."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 3.0 is an integer to JSON Schema


Line = Annotated[int, Between(1), BeforeValidator(_whole), WithJsonSchema({"minimum": 1, "type": "integer"})]
Most = Annotated[
    int, Between(1, 1000), BeforeValidator(_whole), WithJsonSchema({"maximum": 1000, "minimum": 1, "type": "integer"})
]
Seconds = Annotated[
    float,
    Between(0, 3600, above=True),
    WithJsonSchema(
        {"description": "seconds until it is ended", "exclusiveMinimum": 0, "maximum": 3600, "type": "number"}
    ),
]
Name = Annotated[
    str,
    Pattern("[a-z0-9][a-z0-9-]{0,63}"),
    WithJsonSchema(
        {
            "description": "lower case letters, digits and -",
            "pattern": "^[a-z0-9][a-z0-9-]{0,63}$",
            "type": "string",
        }
    ),
]


class ReadFileInput(Given):
    path: str
    start_line: Line | None = None
    end_line: Line | None = None


class WriteFileInput(Given):
    path: str
    content: str


class Edit(Given):
    old: str = Field(description="the exact text, which is there once")
    new: str
    all: bool | None = Field(default=None, description="replace it everywhere")


class EditFileInput(Given):
    path: str
    edits: list[Edit] = Field(min_length=1, description="in order; all of them, or none")


class ApplyPatchInput(Given):
    patch: str = Field(description="a unified diff as git writes it; several files, creation and deletion")


class ListFilesInput(Given):
    path: str | None = None
    glob: str | None = Field(default=None, description="such as *.py or src/**/test_*.py")
    depth: Line | None = Field(default=None, description="how many levels of folders")


class SearchTextInput(Given):
    pattern: str = Field(min_length=1, description="regular expression, for one line")
    path: str | None = None
    glob: str | None = Field(default=None, description="such as src/**/*.py")
    ignore_case: bool | None = None
    max: Most | None = Field(default=None, description="matches; default 100")


class RunInput(Given):
    argv: list[str] = Field(min_length=1, description="program and arguments, no shell")
    timeout: Seconds | None = None


class ShellInput(Given):
    command: str = Field(min_length=1)
    timeout: Seconds | None = None


class GitInput(Given):
    args: list[str] = Field(min_length=1, description="such as [diff, --stat, HEAD~1, --, src]")


class FetchInput(Given):
    url: str


class RememberInput(Given):
    text: str = Field(min_length=1, max_length=4000, description="one fact")
    name: Name | None = None


class RecallInput(Given):
    query: str | None = Field(default=None, description="words; facts with more of them come first")


class AskPersonInput(Given):
    question: str = Field(min_length=1, max_length=4000)


class PublishArtifactInput(Given):
    path: str
    name: Name | None = None


class FinishInput(Given):
    status: Literal["done", "cannot"] = Field(description="cannot: it cannot be done; the summary says why")
    summary: str = Field(min_length=1, max_length=20_000, description="what was done, and what was not")
    result: dict[str, Any] | None = Field(default=None, description="values for later steps")


def schema_of(model: type[Given]) -> dict[str, Any]:
    """Return the JSON schema of what a tool takes."""
    return inlined(_schema(model))


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema as a caller of a tool sees it: without titles and docstrings, with references resolved.

    An argument that may be left out is not declared nullable as well.
    """
    shown: dict[str, Any] = _shown({**schema, "description": None}, schema.get("$defs", {}))
    return shown


_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type, its keys in the order of the alphabet, as pydantic has them."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        given = [dict(one.schema) for one in parts if isinstance(one, WithJsonSchema)]
        return given[0] if given else _schema(parts[0])
    if NoneType in parts:
        return {"anyOf": [{"type": "null"} if one is NoneType else _schema(one) for one in parts]}
    if origin is list:
        return {"items": _schema(parts[0]), "type": "array"}
    if origin is dict:
        return {"additionalProperties": True, "type": "object"}
    if origin is Literal:
        return {"enum": list(parts), "type": "string"}
    if kind in _NAMES:
        return {"type": _NAMES[kind]}
    types, keys = get_type_hints(kind, include_extras=True), {}
    for name, field in kind.model_fields.items():
        told, said = _schema(types[name]), field.given
        of = "Items" if told.get("type") == "array" else "Length"
        bounds = {f"{end}{of}": said[f"{end}_length"] for end in ("min", "max") if f"{end}_length" in said}
        told |= {key: said[key] for key in ("default", "description") if key in said}
        keys[name] = dict(sorted((told | bounds).items()))
    needed = [name for name, field in kind.model_fields.items() if "default" not in field.given]
    found = {"additionalProperties": False, "properties": keys, "required": needed, "type": "object"}
    return found if needed else {key: one for key, one in found.items() if key != "required"}


def _shown(part: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_shown(item, known) for item in part]
    if not isinstance(part, dict):
        return part
    if (name := str(part.get("$ref", "")).removeprefix("#/$defs/")) in known:
        return _shown({**known[name], "description": part.get("description")}, known)
    if {"type": "null"} in (choices := part.get("anyOf", [])) and len(choices) == 2:
        (one,) = [choice for choice in choices if choice != {"type": "null"}]
        part = {**one, **{key: value for key, value in part.items() if key not in ("anyOf", "default")}}
        return _shown(part, known)
    found = {key: _shown(value, known) for key, value in part.items() if key not in ("title", "properties", "$defs")}
    if "properties" in part:  # a property may be called title
        found["properties"] = {name: _shown(value, known) for name, value in part["properties"].items()}
    return {key: value for key, value in found.items() if value is not None}


def contract_of(
    name: str, description: str, effect: Effect, takes: type[Given], timeout: float | None = None
) -> Contract:
    """Return the contract of one of the runner's own tools, from the model of its arguments."""
    return Contract(
        name=name,
        description=description,
        effect=effect,
        parameters=schema_of(takes),
        returns=None,
        source="built in",
        timeout=timeout,
    )


ASK_PERSON = contract_of(
    "ask_person",
    "Ask a person, who may take days, what only a person can decide.",
    "read",
    AskPersonInput,
)
PUBLISH_ARTIFACT = contract_of(
    "publish_artifact",
    "Name a file of the workspace as something that this step gives to people and to later steps.",
    "read",
    PublishArtifactInput,
)
FINISH = contract_of(
    "finish",
    "Propose that the step is done: its checks run at once, and what fails comes back to be fixed. Or say that it cannot be done.",
    "read",
    FinishInput,
)
_BOUNDS = (
    *("additionalProperties", "default", "pattern", "minLength", "maxLength"),
    *("minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum"),
)


def finish_with(schema: Mapping[str, Any]) -> Contract:
    """Return the contract of `finish` for a step whose result has a schema."""
    parameters = {**FINISH.parameters, "properties": {**FINISH.parameters["properties"], "result": schema}}
    return dataclasses.replace(FINISH, parameters=parameters)


LOOP: dict[str, Contract] = {contract.name: contract for contract in (ASK_PERSON, PUBLISH_ARTIFACT, FINISH)}


def shown(contract: Contract) -> Mapping[str, Any]:
    """Return the schema of a tool's arguments as a model sees it: of the runner's own without the bounds, which an error names."""
    found: Mapping[str, Any] = _plain(contract.parameters) if contract.source == "built in" else contract.parameters
    own = contract.parameters.get("properties", {}).get("result")
    if contract.name != FINISH.name or own in (None, FINISH.parameters["properties"]["result"]):
        return found
    return {
        **found,
        "properties": {**found["properties"], "result": own},
    }  # a step's schema, which the model has to see whole


def _plain(part: Any) -> Any:
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, Mapping):
        return part
    found = {key: _plain(value) for key, value in part.items() if key not in (*_BOUNDS, "properties")}
    return found | (
        {"properties": {n: _plain(v) for n, v in part["properties"].items()}} if "properties" in part else {}
    )


def read_arguments(contract: Contract, takes: type[Taken], arguments: Mapping[str, Any]) -> Taken:
    """Return the arguments of a call as a value of the model `takes`.

    Raises:
        ToolError: they do not fit the contract.
    """
    given = without_nulls(arguments)
    check_arguments(contract, given)
    try:
        return takes.model_validate(given)
    except UnfitError as error:
        raise ToolError(first_fault(error)) from error


def without_nulls(value: Any) -> Any:
    """Return arguments without nulls, which models give for arguments that they leave out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


LEFT_OUT = ("note", "image", "replaced", "timed_out", "truncated")  # of a result, where it says nothing or no


def own(contract: Contract, takes: type[Given], do: Callable[[dict[str, Any]], dict[str, Any]]) -> Tool:
    """Return one of the runner's own tools. `do` gets the checked arguments, None for one that was left out."""

    def call(arguments: Mapping[str, Any]) -> dict[str, Any]:
        found = do(read_arguments(contract, takes, arguments).model_dump())
        return {name: value for name, value in found.items() if value or name not in LEFT_OUT}

    return Tool(contract, call)


Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # a whole number stays one


class EchoInput(Given):
    """Arguments of `echo`."""

    text: str


class AddInput(Given):
    """Arguments of `add`."""

    a: Number
    b: Number


def _add(given: dict[str, Any]) -> dict[str, Any]:
    try:
        total = given["a"] + given["b"]
    except OverflowError as error:
        raise ToolError(f"the numbers are too big: {error}") from error
    if abs(total) == math.inf:
        raise ToolError(f"the numbers are too big: their sum is {total}")
    return {"sum": total}


def _exact(contract: Contract, takes: type[Given], do: Callable[[dict[str, Any]], dict[str, Any]]) -> Tool:
    """Return a tool for a step's file, whose author leaves nothing out by a null."""
    tool = own(contract, takes, do)

    def call(arguments: Mapping[str, Any]) -> dict[str, Any]:
        check_arguments(contract, arguments)
        found: dict[str, Any] = tool.call(arguments)
        return found

    return Tool(contract, call)


BUILTIN: dict[str, Tool] = {
    "add": _exact(contract_of("add", "Add two numbers.", "read", AddInput), AddInput, _add),
    "echo": _exact(contract_of("echo", "Give the text back.", "read", EchoInput), EchoInput, dict),
}


class UnknownToolError(UsageError):
    """No tool, or more than one, has the wanted name."""


def canonical(name: str, arguments: Mapping[str, Any], tools: Mapping[str, Tool]) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments by which the tools that are there know a call; of an unknown one, those that it has.

    Text that stands for a number or a truth value is read as that.
    """
    name, given = aliases.named(name, arguments, tools)
    tool = tools.get(name)
    if tool is None:
        return name, given
    if tool.contract.source == "built in":
        given = aliases.translated(name, given, tool.contract.parameters.get("properties", {}))
    return name, typed(tool.contract, given)


def find(name: str, tools: Mapping[str, Tool], refused: Mapping[str, str] | None = None) -> Tool:
    """Return the tool of that name among the built-in ones and `tools`, a project's own.

    `refused`: functions that cannot be tools, to the reason (`PythonTools.refused`).

    Raises:
        UnknownToolError: no tool has the name, or a project's own has that of a built-in one.
    """
    where = f"tool: {name}"
    own, ours = tools.get(name), BUILTIN.get(name)
    if own is not None and ours is not None and own is not ours:
        raise UnknownToolError(
            f"two tools are called `{name}`: {own.contract.source}, and a built-in one",
            where,
            "give the function another name",
        )
    if (found := own or ours) is not None:
        return found
    if refused and name in refused:
        raise UnknownToolError(
            f"the function `{name}` cannot be a tool: {refused[name]}",
            where,
            "change how it is declared, on the trusted branch",
        )
    from difflib import get_close_matches  # here, because few names have a mistake

    known = sorted({*BUILTIN, *tools})
    near = get_close_matches(name, known)
    raise UnknownToolError(
        f"there is no tool `{name}`",
        where,
        f"did you mean {' or '.join(near)}?"
        if near
        else f"there is {', '.join(known)}; list the modules of others under `tools:` in config.yaml",
    )
