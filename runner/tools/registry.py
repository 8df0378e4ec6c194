"""Find a tool by its name, among the built-in ones (`echo` and `add`, two examples without effect) and a project's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Generic, TypeVar

from pydantic import ValidationError, WithJsonSchema

from runner.errors import UsageError
from runner.tools import Contract, Tool, ToolError, check_arguments
from runner.tools.contracts import Value, contract_of
from runner.values import dataclass

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

BUILTIN: dict[str, Tool] = {"add": ADD, "echo": ECHO}


class UnknownToolError(UsageError):
    """No tool, or more than one, has the wanted name."""


def builtin() -> dict[str, Tool]:
    """Return the built-in tools by name."""
    return dict(BUILTIN)


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
    known = sorted({*BUILTIN, *tools})
    near = get_close_matches(name, known)
    raise UnknownToolError(
        f"there is no tool `{name}`",
        where,
        f"did you mean {' or '.join(near)}?"
        if near
        else f"there is {', '.join(known)}; name modules of others under `tools:`",
    )
