"""Tools of the runner's own, whose contracts come from pydantic models; and two examples without effect, `echo` and `add`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, WithJsonSchema

from runner.tools.base import Contract, Effect, ToolError, check_arguments
from runner.values import dataclass


class Value(BaseModel):
    """Base of the arguments and results of the runner's own tools."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


In = TypeVar("In", bound=Value)
Out = TypeVar("Out", bound=Value)

Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # a whole number stays one


class EchoInput(Value):
    """Arguments of `echo`."""

    text: str


class EchoOutput(Value):
    """Result of `echo`."""

    text: str


class AddInput(Value):
    """Arguments of `add`."""

    a: Number
    b: Number


class AddOutput(Value):
    """Result of `add`."""

    sum: Number


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the model's JSON schema as a caller sees it: without titles and docstrings, with references resolved.

    An argument that may be left out is not declared nullable as well.
    """
    schema = model.model_json_schema()
    shown: dict[str, Any] = _shown({**schema, "description": None}, schema.get("$defs", {}))
    return shown


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
    name: str,
    description: str,
    effect: Effect,
    takes: type[Value],
    gives: type[Value],
    timeout: float | None = None,
) -> Contract:
    """Return the contract of one of the runner's own tools, from the models of its arguments and its result."""
    parameters, returns = schema_of(takes), schema_of(gives)
    return Contract(
        name=name,
        description=description,
        effect=effect,
        parameters=parameters,
        returns=returns,
        source="built in",
        timeout=timeout,
    )


@dataclass(frozen=True, slots=True)
class Builtin(Generic[In, Out]):
    """A function of the runner's as a tool."""

    contract: Contract
    takes: type[In]
    function: Callable[[In], Out]

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Check the arguments and call the function; see `Tool.call`."""
        check_arguments(self.contract, arguments)
        try:
            return self.function(self.takes.model_validate(dict(arguments))).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ToolError(f"`{place}`: {first['msg']}") from error
        except OverflowError as error:
            raise ToolError(f"the numbers are too big: {error}") from error


ECHO = Builtin(
    contract_of("echo", "Give the text back.", "read", EchoInput, EchoOutput),
    EchoInput,
    lambda given: EchoOutput(text=given.text),
)
ADD = Builtin(
    contract_of("add", "Add two numbers.", "read", AddInput, AddOutput),
    AddInput,
    lambda given: AddOutput(sum=given.a + given.b),
)
