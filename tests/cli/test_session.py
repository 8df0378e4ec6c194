"""The session of design §9 in form, and every command's `--help`: what a person sees, held as files that people review."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.cli.main import COMMANDS, GROUPS
from tests.conftest import Box, command

GOLDEN = Path(__file__).parent / "golden"
# What differs from run to run: ids, times and the room that they are given, and where the test's folder is.
_TIMES = re.compile(r" *(?:<1 s|\b\d+ (?:s|min)\b|\b\d+m \d\ds\b) *|\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SPENT = re.compile(r" · (?:\d+ s|\d+m \d\ds)$", re.MULTILINE)  # a quick machine counts none
_OIDS = re.compile(r"\b[0-9a-f]{7}\b|\b[0-9a-f]{40}\b")


def hold(name: str, text: str, request: pytest.FixtureRequest) -> None:
    """Compare a text with its golden file; `--update-golden` rewrites it."""
    path = GOLDEN / name
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.is_file(), f"{path.name} is missing: run pytest with --update-golden, and look at the diff"
    assert text == path.read_text()


def masked(text: str, box: Box) -> str:
    """Replace what differs from run to run."""
    text = text.replace(str(box.path.parent.resolve()), "..")
    text = _TIMES.sub("  TIME  ", _SPENT.sub("", text))
    text = re.sub(" +$", "", text, flags=re.MULTILINE)
    return _OIDS.sub(lambda found: "f" * len(found[0]), text)


class Person:
    """Types commands, and keeps what was typed and what was seen."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.seen: list[str] = []

    def types(self, line: str) -> None:
        """Run `runner …` and keep both outputs, and the exit code where it is not 0."""
        words = re.findall(r'"([^"]*)"|(\S+)', line.removeprefix("runner "))
        done = self.box.runner(*(quoted or plain for quoted, plain in words))
        self.seen.append(f"$ {line}\n{done.err}{done.out}" + (f"# exit {done.code}\n" if done.code else ""))

    def session(self) -> str:
        """All of it, masked."""
        return masked("".join(self.seen), self.box)


@pytest.fixture
def person(box: Box) -> Person:
    """A person in a shop with seven protocols' worth of history: the next is 0007."""
    box.write("scripts/test.sh", "#!/bin/sh\ntest -f src/ratelimit.py && echo ok\n").chmod(0o755)
    box.commit("a check")
    for number in range(1, 6):
        made = box.new({"01-a": command("true")}, title=f"Earlier {number}")
        box.runner("cancel", made, rc=0)
    return Person(box)


def test_the_session_of_the_design(box: Box, person: Person, request: pytest.FixtureRequest) -> None:
    box.new({"01-build": command("true"), "02-tests": command("echo '2 failed'; exit 1")}, title="Speed up the tests")
    box.runner("run", "6", rc=1)
    middleware = (
        "mkdir -p src; printf 'limit = 10\\nwindow = 60\\n' > src/ratelimit.py; printf 'on = True\\n' > src/settings.py"
    )
    box.plan(
        {
            "01-context": command("echo 'what there is' > notes.md"),
            "02-middleware": command(middleware, 'qa: {policy: light, checks: ["scripts/test.sh"]}\n'),
            "03-deploy": "kind: human\n",
        },
        title="Rate limit the API",
    )
    person.types('runner new "Rate limit the API" --plan ../plan')
    person.types("runner run 7")
    person.types("runner status")
    person.types("runner show 6 tests")
    person.types('runner answer 7 "it may go out"')
    person.types("runner run 7")
    person.types("runner status 7")
    person.types("runner diff 7 --stat")
    person.types("runner verify 7")
    person.types("runner merge 7")
    person.types("runner status 7")
    person.types("runner list")
    hold("session.txt", person.session(), request)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(box: Box, name: str, request: pytest.FixtureRequest) -> None:
    shown = box.runner(*([name] if name else []), "--help", rc=0, env={"COLUMNS": "100"})
    assert shown.err == ""
    hold(f"help/{name or 'runner'}.txt", shown.out, request)


def test_the_commands_are_listed_in_groups_and_none_of_their_modules_is_loaded(box: Box) -> None:
    told, loaded = box.loaded("--help")
    groups = dict(re.findall(r"^([A-Z][a-z ]+):\n((?:  .*\n)+)", told, re.MULTILINE))
    del groups["Options"]
    listed = {heading: re.findall(r"^  (\S+)", rows, re.MULTILINE) for heading, rows in groups.items()}
    assert listed == {heading: [name for name, *_ in rows] for heading, rows in GROUPS.items()} and len(listed) > 4
    modules = {f"runner.cli.{where.partition(':')[0]}" for where in COMMANDS.values()} - {"runner.cli.main"}
    assert not modules & loaded


@pytest.mark.parametrize("words", [[], ["step"], ["fleet"], ["policy", "check"]], ids=" ".join)
def test_help_and_a_command_print_what_the_command_prints_with_help(box: Box, words: list[str]) -> None:
    assert box.runner("help", *words, rc=0).out == box.runner(*words, "--help", rc=0).out


def test_help_of_an_unknown_command_names_the_nearest(box: Box) -> None:
    assert "did you mean `runner verify`?" in box.runner("help", "verfy", rc=2).err
    assert "Did you mean 'check'?" in box.runner("help", "policy", "chek", rc=2).err
    assert "it has no command `x`" in box.runner("help", "step", "x", rc=2).err
