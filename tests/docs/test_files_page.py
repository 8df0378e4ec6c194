"""docs/files.md says what the models say: every key, every event, and examples that the parsers accept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import config, events, log, plans, workflow
from runner.protocol.config import AgentFile, Config
from runner.protocol.event_types import EVENTS
from runner.protocol.file_models import FileModel
from runner.protocol.plans import PlanHeader, StepHeader
from runner.protocol.state import State, StepState

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/files.md"
MODELS: dict[str, type[Any]] = {
    model.__name__: model for model in (PlanHeader, StepHeader, Config, AgentFile, State, StepState)
}
BEGIN, END = "<!-- generated: events -->\n", "<!-- end generated: events -->"


def keys_of(model: type[Any]) -> set[str]:
    """The keys that a file of this model may have."""
    if issubclass(model, FileModel):
        return {field.alias or name for name, field in model.model_fields.items()}
    return set(model._fields)


def table(page: str, name: str) -> set[str]:
    """The keys that the page's table of a model names: the code words of its first column."""
    rows = page.split(f"<!-- keys: {name} -->\n")[1].split("\n\n")[0].splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])}


def examples(page: str, language: str, section: str) -> list[str]:
    """The code blocks of a language in a section."""
    text = re.split(r"\n## (?=[A-Za-z])", page.split(f"\n## {section}\n")[1])[0]  # a log entry's headline has a number
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def events_table() -> str:
    """The table of events, from their classes."""
    lines = ["| event | fields | meaning |", "|---|---|---|"]
    for name, event in events.MODELS.items():
        fields = ", ".join(f"`{field}`" for field in event.model_fields if field != "subject")
        told = " ".join((event.__doc__ or "").strip().splitlines()[0].split())
        lines.append(f"| `{name}` | {fields} | {told} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", MODELS)
def test_the_page_names_every_key_and_no_other(name: str) -> None:
    assert table(PAGE.read_text(), name) == keys_of(MODELS[name])


def test_the_pages_name_every_step_kind() -> None:
    (row,) = re.findall(r"^\| `kind` \| (.*`human`.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == list(plans.StepKind)
    assert f"# {' | '.join(plans.StepKind)}\n" in (ROOT / "docs/design.md").read_text()


def test_the_design_names_every_event() -> None:
    rows = (ROOT / "docs/design.md").read_text().split("| event | makes |\n|---|---|\n")[1].split("\n\n")[0]
    named = [name for row in rows.splitlines() for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(events.MODELS)


def test_the_page_on_verify_names_the_events_that_no_job_may_hand_over() -> None:
    told = (ROOT / "docs/verify.md").read_text().split("only a person's command or the forge causes:")[1].split(";")[0]
    caused = [name for name, row in EVENTS.items() if row.said_by in ("person", "forge")]
    assert sorted(re.findall(r"`([a-z-]+)`", told)) == sorted(caused)


def test_the_table_of_events_is_up_to_date(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    shown, after = rest.split(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(f"{before}{BEGIN}{events_table()}{END}{after}")
        return
    assert shown == events_table(), "run `make golden` and read the diff"


def test_the_examples_are_read_by_the_parsers() -> None:
    page = PAGE.read_text()
    (plan_md,) = examples(page, "markdown", "plan.md")
    steps = examples(page, "markdown", "Step files")
    assert len(steps) == 3
    context = "---\ntitle: Context\nkind: command\nrun: 'true'\n---\n"
    files = {f"{number:02d}-step{number}.md": text.encode() for number, text in enumerate(steps, 2)}
    made = plans.parse({"plan.md": plan_md.encode(), "01-context.md": context.encode(), **files}, "the page")
    assert [step.header.kind.value for step in made.steps] == ["command", "command", "tool", "human"]
    plans.refuse_unsupported(made, "the page")
    for text in examples(page, "yaml", "config.yaml"):
        assert config.parse(text.encode(), "the page").branch == "runner/{id}"
    (declared,) = examples(page, "markdown", "Workflows")
    given = workflow.instantiate(
        {"plan.md": declared.encode(), "01-context.md": context.encode()}, "it", {"text": "hi"}
    )
    assert plans.parse(given, "the page").header.inputs == {"text": "hi", "times": 1, "note": None}
    for text in examples(page, "yaml", "Agent files"):
        assert config.parse_agent(text.encode(), "the page").name == "coder"
    (entry,) = examples(page, "markdown", "log.md")
    assert log.parse(entry.encode(), "the page")[0].event.name == "step-completed"
