"""Tools that the loop itself carries out: asking a person, publishing an artifact, and being done.

Here is what a model is told of them, and what it has to give. None of them changes anything of the world by being called:
the loop records it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from runner.tools import values
from runner.tools.base import Contract, ToolError, check_arguments
from runner.tools.builtin import Value, schema_of

Taken = TypeVar("Taken", bound=Value)


def _contract(name: str, description: str, takes: type[Value], gives: type[Value]) -> Contract:
    return Contract(
        name=name,
        description=description,
        effect="read",
        parameters=schema_of(takes),
        returns=schema_of(gives),
        source="built in",
    )


ASK_PERSON = _contract(
    "ask_person",
    "Ask a person and wait for the answer, which may take days. Only for what neither the files nor the plan say.",
    values.AskPersonInput,
    values.AskPersonOutput,
)
PUBLISH_ARTIFACT = _contract(
    "publish_artifact",
    "Name a file of the workspace as something that this step gives to people and to later steps.",
    values.PublishArtifactInput,
    values.PublishArtifactOutput,
)
FINISH = _contract(
    "finish",
    "Say that the step is done, or that it cannot be done and why. Nothing comes after it.",
    values.FinishInput,
    values.FinishOutput,
)
LOOP: dict[str, Contract] = {contract.name: contract for contract in (ASK_PERSON, PUBLISH_ARTIFACT, FINISH)}


def read(contract: Contract, takes: type[Taken], arguments: Mapping[str, Any]) -> Taken:
    """Return the arguments of a call as the model that they are of.

    Raises:
        ToolError: they are not those of the contract.
    """
    given = without_nulls(arguments)
    check_arguments(contract, given)
    try:
        return takes.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ToolError(f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}") from error


def without_nulls(value: Any) -> Any:
    """Return arguments without what is null: models say so of what they leave out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
