"""The report: `python -m benchmarks.agent [--engine NAME] [TASK...]`; exit 1 where a task was not solved.

Without `--engine` it is run on `answers.jsonl`. Those answers were written by hand with the solution known (`record.py`): they
show that tasks and harness hold, and nothing of what a model can do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.agent.running import Outcome, carry_out, executor_here
from benchmarks.agent.tasks import TASKS

ANSWERS = Path(__file__).resolve().with_name("answers.jsonl")


def report(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table, with the sum."""
    lines = ["| task | solved | turns | input | output | cost | seconds |", "|---|---|---|---|---|---|---|"]
    for one in outcomes:
        lines.append(
            f"| {one.task} | {'yes' if one.solved else 'no'} | {one.turns} | {one.input_tokens:,} | {one.output_tokens:,} |"
            f" {f'${one.usd}' if one.usd not in (None, '0') else 'not known'} | {one.seconds:.1f} |"
        )
    solved = sum(one.solved for one in outcomes)
    tokens = sum(one.input_tokens for one in outcomes), sum(one.output_tokens for one in outcomes)
    lines.append(
        f"| {len(outcomes)} tasks | {solved} | {sum(one.turns for one in outcomes)} | {tokens[0]:,} | {tokens[1]:,} | |"
        f" {sum(one.seconds for one in outcomes):.1f} |"
    )
    return "\n".join(lines)


def main() -> None:
    """Run what was named, all where nothing was, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent", description="Run the tasks on an engine.")
    parser.add_argument("names", nargs="*", metavar="TASK", help="default: all")
    parser.add_argument("--engine", default=f"recorded:{ANSWERS}", help="default: the recorded answers")
    parser.add_argument("--executor", choices=("sandbox", "host"), help="default: the sandbox, where it works")
    asked = parser.parse_args()
    known = {task.name: task for task in TASKS}
    for name in asked.names:
        if name not in known:
            parser.error(f"there is no task `{name}`; there are {', '.join(known)}")
    executor = asked.executor or executor_here()
    outcomes = []
    for name in asked.names or known:
        outcomes.append(carry_out(known[name], asked.engine, executor))
        if not outcomes[-1].solved:
            print(f"{name}: {outcomes[-1].said}", file=sys.stderr)
    print(report(outcomes))
    sys.exit(0 if all(one.solved for one in outcomes) else 1)


if __name__ == "__main__":
    main()
