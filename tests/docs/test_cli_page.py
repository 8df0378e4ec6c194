"""docs/cli.md and docs/man/runner.1 have the help of every command as the program prints it; `--update-golden` writes both."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runner import __version__
from runner.cli.main import COMMANDS, GROUPS, cli

PAGE = Path(__file__).parents[2] / "docs/cli.md"
MANUAL = PAGE.parent / "man/runner.1"
BEGIN, END = "<!-- generated: help -->\n", "<!-- end generated: help -->"
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


# --- the manual page --------------------------------------------------------------------------------------------------

INTRO = """\
Run AI work that is recorded in git. The plan of a protocol is a folder of Markdown files on a branch. Each step, by a command, a
model or a person, is one commit on that branch with its record, and `runner verify` verifies the record offline.

The command works in any git repository. Name a protocol by id (0007-rate-limit), number (7) or branch; leave the name out inside its
worktree, or where only one protocol is open. `runner` alone is `runner status`.
"""


def escaped(text: str) -> str:
    """Markdown of one paragraph as roff: words in backticks are bold, a link is its text."""
    text = " ".join(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).split()).replace("\\|", "|")
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fP", text)
    return f"\\&{text}" if text[:1] in (".", "'") else text


def paragraphs(text: str) -> Iterator[str]:
    for part in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        yield escaped(part)


def entries(rows: list[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield from (".TP", f".B {escaped(name)}", escaped(text) or "\\&")


def options(command: click.Command, ctx: click.Context) -> list[tuple[str, str]]:
    every = (one.get_help_record(ctx) for one in command.get_params(ctx) if isinstance(one, click.Option))
    return [found for found in every if found is not None]


def described(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """One command, and those that it has."""
    with click.Context(command, info_name=name, parent=parent) as ctx:
        pieces = " ".join(command.collect_usage_pieces(ctx))
        yield f'.SS "{escaped(f"{ctx.command_path} {pieces}")}"'
        yield from paragraphs(command.help or "")
        yield from entries([row for row in options(command, ctx) if "--help" not in row[0]])
        for inner, below in command.commands.items() if isinstance(command, click.Group) else ():
            yield from described(below, inner, ctx)


def table(head: str) -> list[tuple[str, str]]:
    """The rows of the table of docs/cli.md with this head, without links to other pages at a row's end."""
    rows = PAGE.read_text().split(f"| {head} | meaning |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    cells = (re.fullmatch(r"\| (.+?) \| (.+?)(?::(?: \[[^]]+\]\([^)]+\),?)+)? \|", row) for row in rows)
    return [(found[1].replace("`", ""), found[2]) for found in cells if found]


def manual() -> str:
    ctx = click.Context(cli, info_name="runner", help_option_names=["-h", "--help"])
    lines = [
        '.\\" Made from the commands by tests/docs/test_cli_page.py; `make golden` writes it.',
        f'.TH RUNNER 1 "" "protocol\\-runner {__version__}" "protocol\\-runner"',
        ".SH NAME",
        "runner \\- run AI work that is recorded in git",
        ".SH SYNOPSIS",
        *(".B runner", "[\\fIOPTIONS\\fP] \\fICOMMAND\\fP [\\fIARGS\\fP]...", ".br"),
        *(".B git runner", "[\\fIOPTIONS\\fP] \\fICOMMAND\\fP [\\fIARGS\\fP]..."),
        *(".SH DESCRIPTION", *paragraphs(INTRO)),
        *(".SH OPTIONS", *entries(options(cli, ctx))),
        ".SH COMMANDS",
    ]
    for heading, rows in GROUPS.items():
        lines += [f'.SS "{heading}"', *entries([(name, text) for name, text, *_ in rows])]
    lines.append(".SH COMMANDS IN DETAIL")
    for name in COMMANDS:
        command = cli.get_command(ctx, name)
        assert command is not None
        lines += described(command, name, ctx)
    lines += [".SH EXIT STATUS", *entries(table("code"))]
    lines += [".SH ENVIRONMENT", *paragraphs("An option overrides a variable, and a variable overrides `config.yaml`.")]
    lines += entries(table("variable"))
    lines += [
        ".SH FILES",
        *entries([(".protocols/", "The protocols, and what a team shares: configuration, policy, keys.")]),
    ]
    lines += [".SH SEE ALSO", "\\fBgit\\fP(1), \\fBssh\\-keygen\\fP(1)"]
    return "\n".join(lines) + "\n"


def test_the_man_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        MANUAL.write_text(manual())
    assert MANUAL.read_text() == manual(), "run `make golden` and read the diff"


@pytest.mark.skipif(shutil.which("groff") is None, reason="allowed: groff is not installed")
def test_groff_reads_the_man_page_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Kutf8", "-z", str(MANUAL)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
