"""The small real tasks: each fails before, and the recorded answers solve it; every recorded answer is still asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.agent.__main__ import ANSWERS, report
from benchmarks.agent.packages import packages
from benchmarks.agent.running import Scratch, carry_out
from benchmarks.agent.tasks import TASKS, Edit, Task
from runner.engines.recorded import read


def test_there_are_twelve_tasks_and_answers_for_sandbox_and_host() -> None:
    assert len({task.name for task in TASKS}) >= 12
    assert len(read(ANSWERS)) == 2 * 3 * len(TASKS)


@pytest.mark.parametrize("task", TASKS[::3], ids=lambda task: task.name)
@pytest.mark.slow
def test_a_task_is_solved_by_its_recorded_answers(task: Task) -> None:
    outcome = carry_out(task, f"recorded:{ANSWERS}", "host")
    assert outcome.solved, outcome.said
    assert (outcome.turns, outcome.input_tokens) == (3, 300)
    assert f"| {task.name} | yes | 3 |" in report([outcome])


def test_a_task_that_nobody_answers_is_not_solved() -> None:
    outcome = carry_out(TASKS[0], "recorded:/nowhere.jsonl", "host")
    assert not outcome.solved
    assert "cannot be read" in outcome.said


def test_a_task_whose_test_holds_before_anything_is_done_is_refused(tmp_path: Path) -> None:
    harmless = replace(TASKS[0], asserts="assert encode")
    with pytest.raises(SystemExit, match="holds before anything is done"):
        Scratch(tmp_path, "host", {}).lay(harmless)


def test_each_package_has_a_patch_and_thoughts_that_undo_it() -> None:
    assert len({task.name for task in packages()}) == 15
    for task in packages():
        assert bool(task.breaks) != bool(task.adds), task.name
        edits = [thought for thought in task.thoughts if isinstance(thought, Edit)]
        assert len(edits) == sum(line.startswith("@@ ") for line in (task.adds or task.breaks).splitlines())
        assert all(edit.old != edit.new for edit in edits)
        counts = re.findall(r"^@@ -\d+,(\d+) \+\d+,(\d+) @@", task.adds or task.breaks, re.MULTILINE)
        lines = sorted((edit.old.count("\n"), edit.new.count("\n")) for edit in edits)
        assert lines == sorted((int(a), int(b)) if task.adds else (int(b), int(a)) for a, b in counts), task.name
    assert {task.wrong for task in packages()} == {"", "cut", "patch", "check"}


@pytest.mark.parametrize("name", ["h11-bug", "inflection-ordinal", "click-duration"])
@pytest.mark.slow
@pytest.mark.window(3)
def test_a_package_fails_before_and_passes_with_its_reference_solution(name: str, tmp_path: Path) -> None:
    task = next(task for task in packages() if task.name == name)
    scratch = Scratch(tmp_path, "host", {})
    scratch.lay(task)  # refuses a task whose hidden test holds
    task.reference(tmp_path / "reference")
    assert scratch.holds(task, tmp_path / "reference")
