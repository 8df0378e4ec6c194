"""A coworker: `.protocols/agents/NAME.yaml`, read from the trusted branch only. Plans and steps know it by its file's NAME."""

from __future__ import annotations

from runner.protocol import strict_yaml
from runner.protocol.config import ToolModule
from runner.protocol.plans import Budget, ToolName
from runner.protocol.policy_file import Narrowing
from runner.protocol.strict_yaml import FileModel, Line, Script, Text


class AgentFile(FileModel):
    """The whole of a coworker's file. `name`, `description`: as people call it; `tools`: names of tools, and modules that hold
    them; `policies`: what makes it stricter."""

    name: Line
    description: Text = ""
    objective: Script
    instructions: Text = ""
    engine: Line | None = None
    tools: tuple[ToolName | ToolModule, ...] = ()
    policies: Narrowing | None = None
    budget: Budget | None = None

    def tool_modules(self) -> list[ToolModule]:
        """Return the modules among its tools."""
        return [tool for tool in self.tools if isinstance(tool, ToolModule)]


def parse(data: bytes, where: str) -> AgentFile:
    """Return the coworker that the bytes describe.

    Raises:
        MalformedFileError: with the line.
    """
    value, lines = strict_yaml.load_yaml(strict_yaml.decode(data, where), where)
    return strict_yaml.validate(AgentFile, value, lines, where)
