"""A coworker: `.protocols/agents/NAME.yaml`, read from the trusted branch only."""

from __future__ import annotations

from runner.protocol import document, words
from runner.protocol.config import ToolModule
from runner.protocol.model import AgentName, Budget, ToolName
from runner.protocol.policy import Narrowing
from runner.protocol.words import Line, Script, Text, Words


class Coworker(Words):
    """The whole of a coworker's file. `tools`: names of tools, and modules that hold them; `policies`: what makes it stricter."""

    name: AgentName
    objective: Script
    instructions: Text = ""
    engine: Line | None = None
    tools: tuple[ToolName | ToolModule, ...] = ()
    policies: Narrowing | None = None
    budget: Budget | None = None

    def tool_modules(self) -> list[ToolModule]:
        """Return the modules among its tools."""
        return [tool for tool in self.tools if isinstance(tool, ToolModule)]


def parse(data: bytes, where: str) -> Coworker:
    """Return the coworker that the bytes describe.

    Raises:
        MalformedFileError: with the line.
    """
    value, lines = document.load_yaml(document.decode(data, where), where)
    return words.validate(Coworker, value, lines, where)
