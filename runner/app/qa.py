"""Judging a step's work by hand: the checks and the review that its QA would be, with nothing recorded."""

from __future__ import annotations

import dataclasses

from runner.errors import RefusedError, UsageError
from runner.executor import load, permissions, spending
from runner.executor.step_run import StepRun
from runner.executor.steps import check, review
from runner.protocol import paths
from runner.protocol.events import CheckEvidence
from runner.protocol.plans import QaPolicy
from runner.protocol.state import State, StepStatus
from runner.store.project import Project
from runner.trust import requirements
from runner.values import dataclass

_HAS_WORK = (StepStatus.NEEDS_QA, StepStatus.COMPLETED)


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found. `reason` is empty where it passed; `report` where no model judged."""

    step: str
    attempt: int
    evidence: tuple[CheckEvidence, ...]
    reason: str
    report: str = ""
    outputs: tuple[bytes, ...] = ()  # of the checks that are commands, in their order

    @property
    def passed(self) -> bool:
        """Whether the work may stay."""
        return not self.reason


def by_hand(project: Project, protocol: str, slug: str | None, *, full: bool) -> Judged:
    """Judge a step's work as the branch's tip has it; `slug` None: the step that waits for it, else the last with work.

    Raises:
        UsageError: no such step has work, or its QA has nothing to check.
        RefusedError: the policy denies the step or its checks, or a budget does not allow the review.
        EngineError: the model cannot be asked, or gave no verdict.
    """
    project.refuse_unsupported()
    with load.at_work(project, protocol):
        seen = load.view(project, protocol)
        plan = load.read_plan(project, seen)
        found = slug or _step_of(seen.state)
        step = plan.step(found) if found else None
        if (
            step is None
            or found is None
            or found not in seen.state.steps
            or seen.state.steps[found].status not in _HAS_WORK
        ):
            raise UsageError(
                f"{found} has no work to judge" if found else "no step has work to judge",
                protocol,
                f"`runner status {protocol}` shows its status",
            )
        requirements.of_start(
            permissions.trusted_config(project), step, paths.folder(protocol)
        )  # what the policy denies is not run by hand either
        if full:
            step = dataclasses.replace(step, qa=QaPolicy.FULL)
        run = StepRun(project, seen, plan, step, seen.state)
        attempt, checked = run.attempt, check.check(run)
        verdict, outputs = checked.verdict, checked.outputs
        if not verdict.passed or step.qa is not QaPolicy.FULL:
            return Judged(found, attempt, verdict.evidence, verdict.reason, outputs=outputs)
        journal = spending.open_journal(
            project, protocol, f"{found}.{attempt}.hand"
        )  # what it costs counts in the budgets
        if journal.records:
            journal.undecided(project.env.timestamp(), "it is judged again")
        reviewed = review.of_step(run, verdict.evidence, journal)
        if reviewed.verdict is None:
            raise RefusedError(reviewed.stopped, f"{protocol}, {found}", "raise it, and run the same command again")
        one = reviewed.evidence()
        reason = "" if reviewed.verdict.passed else f"review: {one['tail']}"
        report = reviewed.report.decode("utf-8", "replace")
        return Judged(found, attempt, (*verdict.evidence, one), reason, report, outputs)


def _step_of(state: State) -> str | None:
    steps = state.open_steps()
    waiting = [slug for slug, step in steps if step.status is StepStatus.NEEDS_QA]
    done = [slug for slug, step in steps if step.status is StepStatus.COMPLETED]
    return waiting[0] if waiting else done[-1] if done else None
