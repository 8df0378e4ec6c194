"""A command step: a shell line, or a program with its arguments, run in the workspace."""

from __future__ import annotations

import math

from runner.errors import UsageError
from runner.executor.step_run import TIME_LIMIT, StepRun
from runner.executor.steps import work
from runner.executor.transition import Outcome
from runner.lines import headline
from runner.protocol import events as ev
from runner.protocol import log
from runner.store import history


def carry_out(run: StepRun) -> Outcome:
    """Run the command, and take what it left in the workspace as the step's work."""
    workspace, line = work.start(run), run.step.header.run
    assert line is not None
    ended, output = run.execute(workspace, line)
    seconds = math.ceil(ended.seconds) if ended.seconds >= 0.5 else 0
    ran = work.Ran(
        executor=workspace.sandbox.name,
        environment=workspace.environment_name,
        code=ended.code,
        output=ended.digest,
        tail=log.cut_tail(ended.tail) or None,
        spent=ev.Spent(seconds=seconds) if seconds else ev.Spent(),
    )
    left = work.collect(run)
    if left.refused:
        outcome = work.failed(run, left.refused, ran)
    elif not ended.ok:
        shown = headline(line) if isinstance(line, str) else " ".join(line)
        how = f"timed out after {run.step.header.timeout or TIME_LIMIT}" if ended.timed_out else f"exit {ended.code}"
        outcome = work.failed(run, workspace.explain(line, ended) or f"{how}, `{shown}`", ran, left.work)
    elif left.work is None:
        outcome = work.blocked(run, left.too_much, ran)
    else:
        try:
            result = run.redactor.value(workspace.result())
        except UsageError as error:
            outcome = work.failed(run, error.what, ran, left.work)
        else:
            outcome = work.finished(run, left.work, ran, result)
    return outcome._replace(files={history.output_name(run.slug, run.attempt): output} if output else {})
