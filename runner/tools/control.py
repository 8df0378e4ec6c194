"""Contracts of the tools that the agent loop executes itself: ask a person, publish an artifact, finish.

Calling one has no effect but its entry in the record, which the loop makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from runner.tools import schemas
from runner.tools.base import Contract, ToolError, check_arguments
from runner.tools.builtin import Value, contract_of

Taken = TypeVar("Taken", bound=Value)


ASK_PERSON = contract_of(
    "ask_person",
    "Ask a person and wait for the answer, which may take days. Only for what neither the files nor the plan say.",
    "read",
    schemas.AskPersonInput,
    schemas.AskPersonOutput,
)
PUBLISH_ARTIFACT = contract_of(
    "publish_artifact",
    "Name a file of the workspace as something that this step gives to people and to later steps.",
    "read",
    schemas.PublishArtifactInput,
    schemas.PublishArtifactOutput,
)
FINISH = contract_of(
    "finish",
    "Say that the step is done, or that it cannot be done and why. Nothing comes after it.",
    "read",
    schemas.FinishInput,
    schemas.FinishOutput,
)
LOOP: dict[str, Contract] = {contract.name: contract for contract in (ASK_PERSON, PUBLISH_ARTIFACT, FINISH)}


def read(contract: Contract, takes: type[Taken], arguments: Mapping[str, Any]) -> Taken:
    """Return the arguments of a call as a value of the model `takes`.

    Raises:
        ToolError: they do not fit the contract.
    """
    given = without_nulls(arguments)
    check_arguments(contract, given)
    try:
        return takes.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ToolError(f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}") from error


def without_nulls(value: Any) -> Any:
    """Return arguments without nulls, which models give for arguments that they leave out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
