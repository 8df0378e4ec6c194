"""The small real tasks: each fails before, and the recorded answers solve it; every recorded answer is still asked for."""

from __future__ import annotations

import pytest

from benchmarks.agent.__main__ import ANSWERS, report
from benchmarks.agent.running import carry_out
from benchmarks.agent.tasks import TASKS, Task
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
