"""The tools that come with the runner: `echo` and `add`, which show what a tool is and do nothing to the world.

Input and output are pydantic models; the schemas that others see are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, WithJsonSchema

from runner.tools.base import Contract, Effect, ToolError, check_arguments


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


In = TypeVar("In", bound=_Value)
Out = TypeVar("Out", bound=_Value)

Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # a whole number stays one


class EchoInput(_Value):
    """What `echo` takes."""

    text: str


class EchoOutput(_Value):
    """What `echo` gives."""

    text: str


class AddInput(_Value):
    """What `add` takes."""

    a: Number
    b: Number


class AddOutput(_Value):
    """What `add` gives."""

    sum: Number


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the model's schema without titles and docstrings, which say nothing to a model that calls."""
    schema = model.model_json_schema()
    properties = {name: {k: v for k, v in of.items() if k != "title"} for name, of in schema["properties"].items()}
    return {k: v for k, v in schema.items() if k not in ("title", "description")} | {"properties": properties}


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
    ) -> Builtin[In, Out]:
        """Return the tool, its contract derived from the models."""
        contract = Contract(
            name=name,
            description=description,
            effect=effect,
            parameters=_schema(takes),
            returns=_schema(gives),
            source="built in",
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
