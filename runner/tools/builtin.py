"""The tools that come with the runner: `echo` and `add`, which show what a tool is and do nothing to the world.

Input and output are pydantic models; the schemas that others see are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, WithJsonSchema

from runner.tools.base import Contract, Effect, ToolError, check_arguments
from runner.values import dataclass


class Value(BaseModel):
    """What goes into a tool of ours, or comes out."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


In = TypeVar("In", bound=Value)
Out = TypeVar("Out", bound=Value)

Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # a whole number stays one


class EchoInput(Value):
    """What `echo` takes."""

    text: str


class EchoOutput(Value):
    """What `echo` gives."""

    text: str


class AddInput(Value):
    """What `add` takes."""

    a: Number
    b: Number


class AddOutput(Value):
    """What `add` gives."""

    sum: Number


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the model's schema as one that calls is shown it: nothing but what it has to know.

    Titles and docstrings are left out, what is referred to stands in its place, and what may be left out is not said to
    be null as well.
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


@dataclass(frozen=True, slots=True)
class Builtin(Generic[In, Out]):
    """A function of ours as a tool."""

    contract: Contract
    takes: type[In]
    function: Callable[[In], Out]

    @classmethod
    def of(
        cls,
        name: str,
        description: str,
        effect: Effect,
        takes: type[In],
        gives: type[Out],
        function: Callable[[In], Out],
        timeout: float | None = None,
    ) -> Builtin[In, Out]:
        """Return the tool, its contract derived from the models."""
        contract = Contract(
            name=name,
            description=description,
            effect=effect,
            parameters=schema_of(takes),
            returns=schema_of(gives),
            source="built in",
            timeout=timeout,
        )
        return cls(contract, takes, function)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Check the arguments and do it; see `Tool.call`."""
        check_arguments(self.contract, arguments)
        try:
            return self.function(self.takes.model_validate(dict(arguments))).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ToolError(f"`{place}`: {first['msg']}") from error
        except OverflowError as error:
            raise ToolError(f"the numbers are too big: {error}") from error


def _add(given: AddInput) -> AddOutput:
    return AddOutput(sum=given.a + given.b)


ECHO = Builtin.of(
    "echo", "Give the text back.", "read", EchoInput, EchoOutput, lambda given: EchoOutput(text=given.text)
)
ADD = Builtin.of("add", "Add two numbers.", "read", AddInput, AddOutput, _add)
