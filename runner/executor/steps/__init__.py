"""Carry out an action on a step. A step kind is a module of this package and a row of `STEP_KINDS`.

Nothing here moves a ref: an action leads to an `Outcome`, which `executor.advance` turns into a transition.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final

from runner.executor.step_run import StepRun
from runner.executor.transition import Outcome
from runner.executor.transition import OutcomeKind as Ended
from runner.protocol.machine import Action, AskPerson, CheckStep, CompleteStep, RunStep, TakeWork
from runner.protocol.plans import Step, StepKind

# Kind to module. A module is imported when a step of its kind runs; its `carry_out(run)` makes one attempt.
STEP_KINDS: Final[Mapping[StepKind, str]] = {
    StepKind.AGENT: "runner.executor.steps.agent",
    StepKind.COMMAND: "runner.executor.steps.command",
    StepKind.HUMAN: "runner.executor.steps.human",
    StepKind.TOOL: "runner.executor.steps.tool",
}
QA: Final = "runner.executor.steps.check"  # of every kind


def is_pure(step: Step) -> bool:
    """Return whether a step calls a built-in tool that only reads: it needs no workspace, and can be done again."""
    if step.header.kind is not StepKind.TOOL:
        return False
    from runner.tools import registry  # the other kinds need none of it

    tool = registry.BUILTIN.get(step.header.tool or "")
    return tool is not None and tool.contract.effect == "read"


def perform(action: Action, run: StepRun) -> Outcome:
    """Carry out an action on a step.

    Raises:
        RunnerError: it could not start; nothing is recorded.
    """
    match action:
        case CompleteStep():
            return Outcome(kind=Ended.COMPLETED, step=run.step, summary="done")
        case CheckStep():
            module, function = QA, "carry_out"
        case RunStep() | AskPerson():
            module, function = STEP_KINDS[run.step.header.kind], "carry_out"
        case TakeWork():
            module, function = STEP_KINDS[run.step.header.kind], "take_work"
        case _:
            raise AssertionError(f"unreachable: {action}")
    outcome: Outcome = getattr(importlib.import_module(module), function)(run)
    return outcome
