"""A small MCP server by the reference package: over stdio, or over HTTP with `--port`. `--ledger` has a line for each delivery."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Annotated

from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, MCPServer, Resolve
from pydantic import BaseModel

read = argparse.ArgumentParser()
read.add_argument("--ledger", type=Path, default=Path(os.devnull))
read.add_argument("--port", type=int)
said = read.parse_args()
server = MCPServer("small", version="1.2.3", log_level="CRITICAL")


class Place(BaseModel):
    """What is asked before a delivery."""

    city: str


def which() -> Elicit[Place]:
    """Ask for the city."""
    return Elicit("Where to?", Place)


@server.tool()
def look(topic: str) -> str:
    """Look something up."""
    return f"{topic} is known"


@server.tool()
def deliver(text: str, answer: Annotated[ElicitationResult[Place], Resolve(which)]) -> str:
    """Deliver a text to a city that a person names."""
    if not isinstance(answer, AcceptedElicitation):
        return "not delivered"
    with said.ledger.open("a") as ledger:
        ledger.write(f"{text} to {answer.data.city}\n")
    return f"delivered to {answer.data.city}"


if said.port:
    server.run("streamable-http", port=said.port)
else:
    server.run("stdio")
