"""docs/prompts.md says what a model is shown, in the order in which it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from runner import resources
from tests.cli.test_planning import PLAN, calls, env
from tests.conftest import Box, command
from tests.engines.wire_gemini import serving
from tests.executor.minds import agent, finish, mind, say, texts, write

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/prompts.md").read_text()
FRONT = "acceptance: [it is striped]\ninputs: {colour: black}\n"


def rows(heading: str) -> list[str]:
    """Return the first column of the table below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def shown_in_order(parts: list[str], body: Any) -> None:
    text, at = "\n" + texts(body), 0
    for part in parts:
        found = text.find(f"\n{part}", at)
        assert found >= 0, f"{part!r} is not there, or not in this place:\n{text}"
        at = found + 1


def system(body: Any) -> str:
    text: str = body["systemInstruction"]["parts"][0]["text"]
    return text


@pytest.fixture
def zoo(box: Box) -> Box:
    for name in ("AGENTS.md", "CONTRIBUTING.md", ".protocols/memory/zebra.md"):
        box.write(name, f"What {name} says.\n")
    box.write("zebra.py", "class Zebra:\n    def stripes(self):\n        return 12\n")
    box.write("tests/test_zebra.py", "assert True\n")
    box.write(".protocols/config.yaml", "checks: ['true']\nreview: {aspects: [security]}\n")
    box.commit("a zoo")
    return box


def test_a_planner_is_shown_what_the_page_says(zoo: Box) -> None:
    with serving(calls("propose_plan", **PLAN)) as wire:
        zoo.runner("new", "Paint the zebra", env=env(wire), rc=0)
    body = wire.bodies[0]
    shown_in_order(rows("The planner"), body)
    assert system(body) == resources.prompt("plan").strip()
    told = PAGE.partition("## The planner")[2].partition("\nTools: ")[2].partition(". They work")[0]
    assert re.findall(r"`(\w+)`", told) == [tool["name"] for tool in body["tools"][0]["functionDeclarations"]]


def test_an_agent_step_and_its_reviewer_are_shown_what_the_page_says(zoo: Box) -> None:
    passed = '{"verdict": "PASS", "summary": "It is striped."}'
    work = say(write("zebra.py", "x = 1\n"), write("tests/test_zebra.py", "assert 1\n"))
    first = command("echo count=12 > $RUNNER_RESULT")
    step = agent("outputs: [zebra.py]\nqa: {policy: full, checks: [echo striped]}\n")
    with mind(zoo, work, finish("painted"), say(text=passed)) as wire:
        folder = zoo.plan({"01-count": first, "02-paint": step}, front=FRONT)
        (folder / "context.md").write_text("What we know.\n")
        with (folder / "02-paint.md").open("a") as file:
            file.write("- zebra.py:1-2: the stripes\n")
        protocol = zoo.runner("new", "--plan", str(folder), rc=0).out.strip()
        zoo.runner("run", protocol, rc=0)
    assert wire.wrong == []
    shown_in_order(rows("The agent step"), wire.bodies[0])
    shown_in_order(rows("The reviewer"), wire.bodies[2])
    assert system(wire.bodies[0]) == resources.prompt("execute").strip()
    assert system(wire.bodies[2]) == resources.prompt("review").strip()
    assert [one for one in ("{", "TODO") if one in system(wire.bodies[0]) + system(wire.bodies[2])] == []


def test_the_page_names_every_text() -> None:
    there = {f"prompts/{path.name}" for path in (ROOT / "prompts").glob("*.md")} - {"prompts/README.md"}
    assert set(rows("The texts")) == there
