"""The agent file `.protocols/agents/NAME.yaml`, read from the trusted branch only. Plans and steps name the agent by its NAME."""

from __future__ import annotations

from runner.protocol import strict_yaml
from runner.protocol.config import ToolModule
from runner.protocol.file_models import Field, FileModel
from runner.protocol.plans import Budget, ToolName
from runner.protocol.policy_file import Narrowing
from runner.protocol.strict_yaml import Line, Script, Text


class AgentFile(FileModel):
    """The whole of an agent file. `name`, `description`: for people; `tools`: names of tools, and modules that hold them; `policies`:
    rules that make the policy stricter."""

    name: Line = Field(description="The agent's name for people; plans and steps name the file.")
    description: Text = Field(default="", description="What people should know about the agent.")
    objective: Script = Field(description="The agent's purpose.")
    instructions: Text = Field(default="", description="How the agent works.")
    engine: Line | None = Field(default=None, description="The model, such as openai:gpt-6.1-terra.")
    tools: tuple[ToolName | ToolModule, ...] = Field(
        default=(), description="The tools that the agent may use: names, and Python modules with tools."
    )
    policies: Narrowing | None = Field(default=None, description="Rules that make the policy stricter for this agent.")
    budget: Budget | None = Field(default=None, description="The most that one of the agent's steps may spend.")

    def tool_modules(self) -> list[ToolModule]:
        """Return the modules among its tools."""
        return [tool for tool in self.tools if isinstance(tool, ToolModule)]


def parse(data: bytes, where: str) -> AgentFile:
    """Return the agent file that the bytes hold.

    Raises:
        MalformedFileError: with the line.
    """
    value, lines = strict_yaml.load_yaml(strict_yaml.decode(data, where), where)
    return strict_yaml.validate(AgentFile, value, lines, where)
