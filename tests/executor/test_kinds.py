"""Each step kind is a module and a row of the table."""

from __future__ import annotations

import importlib

import pytest

from runner.executor.step_run import StepRun
from runner.executor.steps import STEP_KINDS, work
from runner.executor.transition import Outcome
from runner.protocol.plans import StepKind
from tests.conftest import Box, command
from tests.executor.minds import agent, finish, mind

# The header of a step of each kind.
SAMPLES = {
    StepKind.COMMAND: command("true"),
    StepKind.TOOL: "kind: tool\ntool: echo\nwith: {text: hello}\nqa: skip\n",
    StepKind.AGENT: agent(),
    StepKind.HUMAN: "kind: human\nqa: skip\n",
}


@pytest.mark.parametrize("kind", StepKind)
def test_a_kind_has_a_module_that_carries_out_an_attempt(kind: StepKind) -> None:
    assert callable(importlib.import_module(STEP_KINDS[kind]).carry_out)


def test_what_a_step_of_each_kind_records_verifies(box: Box) -> None:
    protocol = box.new({f"0{number}-{kind}": SAMPLES[kind] for number, kind in enumerate(StepKind, 1)})
    with mind(box, finish()):
        while box.runner("run", protocol).code == 3:
            box.runner("answer", protocol, "done", rc=0)
    assert box.state(protocol)["status"] == "completed"
    box.runner("verify", protocol, rc=0)


def carry_out(run: StepRun) -> Outcome:
    """Be a kind that does not say what carried its work out."""
    work.start(run)
    return work.finished(run, work.unchanged(run), work.Ran())


def test_a_kind_that_does_not_say_what_carried_it_out_records_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEP_KINDS, StepKind.COMMAND, __name__)
    protocol = box.new({"01-a": command("true")})
    before = box.git("rev-parse", protocol)
    assert "give the sandbox's name, or `runner`" in box.runner("run", protocol, rc=70).err
    assert box.git("rev-parse", protocol) == before
