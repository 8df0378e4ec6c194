"""`--json` of every command that acts: one object of one shape on stdout, the exit code of the command without it."""

from __future__ import annotations

import json
from typing import Any

import click
import jsonschema

from runner import resources
from runner.cli.main import COMMANDS, PLAIN, cli
from tests.conftest import Box, Result, command

CHECK = "qa: {checks: [test -s done.txt]}\n"
ONE = {"01-write": command("echo done > done.txt", CHECK), "02-read": "kind: human\n", "03-end": command("true")}
OWN = {
    "check",
    "diff",
    "doctor",
    "engines",
    "fleet",
    "list",
    "log",
    "show",
    "status",
    "verify",
    "watch",
    "why",
}  # a shape of their own
ECHO = ("do", "--workflow", "echo-add", "--input", "text=x", "--input", "a=1", "--input", "b=2")
# Typed one after the other: the command, its exit code, whether it is about a protocol, and the first word of its lines.
STORY: tuple[tuple[tuple[str, ...], int, bool, tuple[str, ...]], ...] = (
    (("new", "--plan", "../plan"), 0, True, ("0001-a-plan",)),
    (("new", "Not wanted", "--manual"), 0, True, ("0002-not-wanted",)),
    (("discard", "2", "--yes"), 0, False, ("discarded",)),
    (("plan", "1", "-m", "shorter"), 2, True, ()),
    (("edit", "1", "end"), 0, True, ()),
    (("step", "1"), 0, True, ()),
    (("undo", "1"), 0, True, ()),
    (("pause", "1"), 0, True, ()),
    (("run", "1"), 3, True, ()),
    (("resume", "1"), 0, True, ()),
    (("run", "1"), 3, True, ()),
    (("approve", "1", "--yes"), 2, True, ()),
    (("reject", "1", "--yes"), 2, True, ()),
    (("revoke", "1", "--yes"), 2, True, ()),
    (("answer", "1", "fine"), 0, True, ()),
    (("answer", "1", "fine"), 2, False, ()),
    (("run", "1"), 0, True, ()),
    (("qa", "1", "write"), 0, True, ("passed", "PASS")),
    (("fork", "1@read"), 0, True, ("0002-a-plan",)),
    (("skip", "2", "end"), 0, True, ()),
    (("cancel", "2"), 0, True, ()),
    (("retry", "2"), 4, False, ()),
    (("audit", "9"), 2, False, ()),
    (("merge", "1", "--squash"), 0, True, ()),
    (ECHO, 0, True, ("0003-echo-and-add",)),
    (("clean", "--yes"), 0, False, ("removed",)),
    (("sync", "3"), 2, False, ()),
    (("init", "--yes", "--no-try"), 0, False, ("wrote",)),
    (("new",), 2, False, ()),
)


def commands() -> set[str]:
    """The commands that act."""
    ctx = click.Context(cli)
    return {name for name in COMMANDS if "--json" in {opt for one in params(ctx, name) for opt in one.opts}} - OWN


def params(ctx: click.Context, name: str) -> list[click.Parameter]:
    found = cli.get_command(ctx, name)
    assert found is not None
    return found.params


def told(result: Result) -> Any:
    """The object on stdout, which has the shape."""
    found = json.loads(result.out)
    jsonschema.validate(found, json.loads(resources.schema("acted")))
    assert found["code"] == result.code
    return found


def test_every_command_that_acts_is_tried() -> None:
    assert commands() == {words[0] for words, *_ in STORY}
    assert not (commands() | OWN) & PLAIN


def test_a_command_that_acts_gives_one_object_and_its_exit_code(box: Box) -> None:
    box.plan(ONE)
    box.env["EDITOR"] = "sh -c 'echo an editor talks; echo More. >> \"$0\"'"
    for words, code, is_about, firsts in STORY:
        result = box.runner(*words, "--json")
        found = told(result)
        assert (found["command"], result.code) == (words[0], code), result.err
        assert (found["error"] is not None) == ("error: " in result.err), words
        assert bool(found["protocols"]) == is_about, words
        assert {line.split()[0] for line in found["lines"]} == set(firsts), words
