"""Find a tool by its name, among the built-in ones and a project's own."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from runner.errors import UsageError
from runner.tools.base import Tool
from runner.tools.builtin import ADD, ECHO

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
