"""`runner mcp`: the project's protocols for any editor or agent, and `runner mcp pin`."""

from __future__ import annotations

import click

from runner.app import mcp as app
from runner.cli.session import Session


@click.group("mcp")
def command() -> None:
    """Use MCP servers: pin the tools of one."""


@command.command()
@click.argument("name")
@click.pass_obj
def pin(session: Session, name: str) -> None:
    """Show how the list of tools of the MCP server NAME differs from the pinned one, and write it into the checkout.

    Read each line: a model will be shown these words. Nothing counts before you commit .protocols/mcp/NAME.json, and the digest in
    config.yaml, on the trusted branch.
    """
    done = app.pin(session.project, name)
    for line in done.changed:
        sign = line.lstrip()[:1]
        session.line((line, {"+": "green", "-": "red"}.get(sign, "bold")))
    session.result(f"{name}: {done.count} tools, {done.digest}")
    if not done.written and done.line is None:
        session.note("nothing changed")
    for path in done.written:
        session.note(f"written       {path}")
    if done.line is not None:
        session.note(f"add to the entry `{name}` under `mcp:` in config.yaml:  {done.line}")
    if done.written or done.line:
        session.note("next          read the lines above, then commit both files on the trusted branch")
