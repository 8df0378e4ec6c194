"""docs/cli.md shows the help of every command as the program prints it; `--update-golden` writes it there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runner.cli.main import COMMANDS, cli

PAGE = Path(__file__).parents[2] / "docs/cli.md"
BEGIN, END = "<!-- begin generated: help -->\n", "<!-- end generated: help -->"
NAMED = re.compile(r"`runner ([a-z]+)[^`]*`")


def helps(name: str) -> Iterator[tuple[str, str]]:
    """What `runner NAME --help` prints, 100 columns wide, and what its commands' do where it has some."""
    parent = click.Context(
        cli, info_name="runner", max_content_width=100, terminal_width=100, help_option_names=["-h", "--help"]
    )
    command = cli.get_command(parent, name)
    assert command is not None
    with click.Context(command, info_name=name, parent=parent) as ctx:
        yield name, command.get_help(ctx)
        for inner, below in command.commands.items() if isinstance(command, click.Group) else ():
            with click.Context(below, info_name=inner, parent=ctx) as further:
                yield f"{name} {inner}", below.get_help(further)


def generated() -> str:
    """The page's part that is made from the program."""
    every = [told for name in COMMANDS for told in helps(name)]
    return "".join(f"### {name}\n\n```text\n{text}\n```\n\n" for name, text in every)


def test_the_help_of_every_command_is_up_to_date(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    shown, after = rest.split(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(f"{before}{BEGIN}{generated()}{END}{after}")
        return
    assert shown == generated(), "run `make golden` and read the diff"


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/concepts.md", "docs/files.md", "docs/cli.md", "docs/agents.md", "docs/audit.md", "SECURITY.md"],
)
def test_the_pages_name_only_commands_that_there_are(page: str) -> None:
    text = (PAGE.parents[1] / page).read_text()
    assert set(NAMED.findall(text)) <= {*COMMANDS, "/"}
