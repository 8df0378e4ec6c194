"""Judging a step's work by hand: the checks and the review that its QA would be, with nothing recorded."""

from __future__ import annotations

import dataclasses

from runner.errors import RefusedError, UsageError
from runner.executor import load, permissions, spending
from runner.executor.step_run import StepRun
from runner.executor.steps import check, review
from runner.executor.workspace_session import with_kept
from runner.protocol import decision, paths
from runner.protocol.events import CheckEvidence
from runner.protocol.plans import QaPolicy
from runner.protocol.state import StepStatus
from runner.store import lookup, record
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import requirements
from runner.values import dataclass

_HAS_WORK = (StepStatus.NEEDS_QA, StepStatus.COMPLETED)
_STOPPED = (StepStatus.FAILED, StepStatus.BLOCKED)


@dataclass(frozen=True, slots=True)
class Judged:
    """The findings. `reason` is empty where it passed; `report` where no model judged.

    `again`: the command that starts a new attempt from this work, where it is that of one that failed.
    """

    step: str
    attempt: int
    evidence: tuple[CheckEvidence, ...]
    reason: str
    report: str = ""
    outputs: tuple[bytes, ...] = ()  # of the checks that are commands, in their order
    again: str = ""

    @property
    def passed(self) -> bool:
        """Whether the work may stay."""
        return not self.reason


def by_hand(project: Project, protocol: str, slug: str | None, *, full: bool) -> Judged:
    """Judge a step's work; `slug` None: that of the step that waits for it, else of the one that failed, else the last.

    It is judged as the branch's tip has it, with the kept work of an attempt that failed.

    Raises:
        UsageError: no such step has work, or its QA has nothing to check.
        RefusedError: the policy denies the step or its checks, a budget does not allow the review, or kept work conflicts.
        EngineError: the model cannot be asked, or gave no verdict.
    """
    project.refuse_unsupported()
    with load.at_work(project, protocol):
        seen = load.view(project, protocol)
        plan = load.read_plan(project, seen)
        found = slug or _step_of(project, seen)
        step = plan.step(found) if found else None
        work = work_of(project, seen, found) if found in seen.state.steps else None
        if step is None or found is None or work is None:
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
        run = StepRun(project, seen, plan, step, seen.state, kept=work if work != seen.tip else None)
        attempt, checked, again = run.attempt, check.check(run), _again(project, run)
        verdict, outputs = checked.verdict, checked.outputs
        if not verdict.passed or step.qa is not QaPolicy.FULL:
            return Judged(found, attempt, verdict.evidence, verdict.reason, outputs=outputs, again=again)
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
        return Judged(found, attempt, (*verdict.evidence, one), reason, report, outputs, again)


def _step_of(project: Project, seen: Snapshot) -> str | None:
    steps = seen.state.open_steps()
    waiting = [slug for slug, step in steps if step.status is StepStatus.NEEDS_QA]
    failed = [slug for slug, step in steps if step.status in _STOPPED and work_of(project, seen, slug)]
    done = [slug for slug, step in steps if step.status is StepStatus.COMPLETED]
    return next(iter([*waiting, *failed, *reversed(done)]), None)


def work_of(project: Project, seen: Snapshot, slug: str) -> str | None:
    """Return the commit that has a step's work: the tip, or the tip with the work that was kept of a failed attempt.

    None where the last attempt left none, or a new one has not ended.

    Raises:
        RefusedError: the kept work conflicts with newer commits.
    """
    status = seen.state.steps[slug].status
    if status in _HAS_WORK:
        return seen.tip
    found = record.work_of(project.git, seen.protocol, seen.tip, slug) if status in _STOPPED else None
    if found is None or project.git.is_ancestor(found[1], seen.tip):
        return seen.tip if found else None
    hint = f"`runner diff {lookup.typed(project, seen.protocol)} {slug}` shows it"
    return with_kept(project, seen.tip, found[1], hint)


def _again(project: Project, run: StepRun) -> str:
    stopped = [slug for slug, step in run.state.open_steps() if step.status in _STOPPED]
    if run.slug not in stopped or run.state.status not in decision.OPEN:
        return ""
    name = f"runner retry {lookup.typed(project, run.view.protocol)}"
    return f"{name}{f' --step {run.slug}' if len(stopped) > 1 else ''}{' --keep' if run.kept else ''}"
