"""Which tools there are: the built-in ones, and how one is found by its name among them and a project's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.tools.base import Tool
from runner.tools.builtin import ADD, ECHO

if TYPE_CHECKING:
    from runner.sandbox import Sandbox
    from runner.tools.agent import AgentTools
    from runner.tools.fetch import Allowed

BUILTIN: dict[str, Tool] = {"add": ADD, "echo": ECHO}


class UnknownToolError(UsageError):
    """No tool, or more than one, has the name that was asked for."""


def builtin() -> dict[str, Tool]:
    """Return the built-in tools by name."""
    return dict(BUILTIN)


def find(name: str, tools: Mapping[str, Tool], refused: Mapping[str, str] | None = None) -> Tool:
    """Return the tool of that name among the built-in ones and `tools`, a project's own.

    `refused`: functions that cannot be tools, and why (`PythonTools.refused`).

    Raises:
        UnknownToolError: there is none, or a project's own has the name of a built-in one.
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


def open_agent_tools(
    sandbox: Sandbox,
    *,
    work: Path,
    env: Mapping[str, str],
    readable: tuple[Path, ...],
    writable: tuple[Path, ...],
    default_timeout: float,
    names: Collection[str] | None = None,
    allowed: Allowed | None = None,
) -> AgentTools:
    """Return the tools that a model gets, to be used as a context manager; see `runner.tools.agent.AgentTools`."""
    from runner.tools.agent import AgentTools  # here: only a step of an agent's needs them

    return AgentTools(
        sandbox,
        work=work,
        env=env,
        readable=readable,
        writable=writable,
        default_timeout=default_timeout,
        names=names,
        allowed=allowed,
    )
