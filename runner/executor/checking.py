"""QA: a step's work is checked in a clean export of the tip's tree, and judged by a model where the step asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.executor import permissions, reviewing, spending
from runner.executor.outcome import Outcome, completed, failed
from runner.executor.workspace_session import WorkspaceSession
from runner.git import Git
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.protocol.digest import digest
from runner.protocol.events import Event
from runner.protocol.plans import Plan, QaPolicy, Step
from runner.protocol.state import State
from runner.qa import checks
from runner.sandbox import Outcome as CommandOutcome
from runner.store import history, record, workspace
from runner.store.project import Project
from runner.store.snapshot import Snapshot

if TYPE_CHECKING:
    from runner.executor.journal import Journal
    from runner.executor.reviewing import Reviewed


def check_step(project: Project, snapshot: Snapshot, plan: Plan, step: Step, state: State) -> Outcome:
    """Check the step's work in a clean export of the tip's tree; with `full`, a model judges it after the checks."""
    verdict, executor = judge(project, snapshot, plan, step, state)
    reviewed, files = None, {}
    if verdict.passed and step.qa is QaPolicy.FULL:
        reviewed = review_step(project, snapshot, plan, step, state, verdict)
        files = {history.review_name(step.slug, state.steps[step.slug].attempt): reviewed.transcript}
    asked: list[Event] = []
    if verdict.passed:
        asked = permissions.asked_after(project, snapshot, plan, step, state)
    return dataclasses.replace(_decided(snapshot, step, state, verdict, executor, reviewed, asked), files=files)


def review_step(
    project: Project,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    verdict: checks.Verdict,
    journal: Journal | None = None,
) -> Reviewed:
    """Have a model judge the step's work; `journal`: where to note what it says, if not in the attempt's own.

    Raises:
        EngineError: it cannot be asked, or gave no verdict.
    """
    if journal is None:
        name = f"{step.slug}.{state.steps[step.slug].attempt}.qa"
        journal = spending.open_journal(project, snapshot.protocol, name)
    entries = record.events(project.git, snapshot.protocol, snapshot.tip)
    return reviewing.carry_out(project, snapshot, plan, step, state, entries, verdict.evidence, journal)


def _decided(
    snapshot: Snapshot,
    step: Step,
    state: State,
    verdict: checks.Verdict,
    executor: str | None,
    reviewed: Reviewed | None,
    asked: Sequence[Event],
) -> Outcome:
    attempt = state.steps[step.slug].attempt
    evidence, reason = list(verdict.evidence), verdict.reason
    seconds = sum(check["seconds"] for check in evidence) + (reviewed.seconds if reviewed else 0)
    spent: ev.Spent = {**(reviewed.spent if reviewed else {}), **({"seconds": seconds} if seconds else {})}
    told: dict[str, object] = {"executor": executor, "spent": spent}
    files: dict[str, bytes] = {}
    if reviewed is not None and reviewed.verdict is None:
        reached = ev.BudgetReached(subject=step.slug, text=log.cut(reviewed.stopped), by="whoever plans", spent=spent)
        return Outcome(lambda now: [reached], said=reviewed.stopped)
    if reviewed is not None and reviewed.verdict is not None:
        evidence.append(reviewed.evidence())
        files = {paths.report_file(step.slug, attempt): reviewed.report}
        told |= {
            "engine": reviewed.engine,
            "report": digest(reviewed.report),
            "transcript": digest(reviewed.transcript),
        }
        reason = "" if reviewed.verdict.passed else log.cut(f"review: {evidence[-1]['tail']}")
    fields = {"subject": step.slug, "attempt": attempt, "tree": snapshot.tree, "evidence": evidence, **told}
    if not reason:
        passed = ev.QaPassed(**fields)  # type: ignore[arg-type]
        return Outcome(lambda now: [passed, *(asked or completed(now, step.slug))], said=_said(evidence), record=files)
    bad = ev.QaFailed(reason=reason, **fields)  # type: ignore[arg-type]
    why: dict[str, object] = {"reason": log.cut(f"QA: {reason}")}
    return Outcome(lambda now: [bad, *failed(now, step, why)], failed=True, said=reason, record=files)


def _said(evidence: Sequence[ev.CheckEvidence]) -> str:
    lines = [check["check"] for check in evidence if not check["check"].startswith("outputs:")]
    names = [line if " " in line else line.rsplit("/", 1)[-1] for line in lines]
    return f"{', '.join(names)} passed" if names else ""


def judge(
    project: Project, snapshot: Snapshot, plan: Plan, step: Step, state: State
) -> tuple[checks.Verdict, str | None]:
    """Return what the checks say of the tip's tree, and where they ran. Nothing is recorded.

    Raises:
        UsageError: a step that asks for QA and names nothing to check.
    """
    if not step.checks and not step.header.outputs and step.qa is not QaPolicy.FULL:
        raise UsageError(
            f"the QA of {step.slug} has nothing to check",
            f"{paths.folder(snapshot.protocol)}/{step.file}",
            'name `outputs:`, or `qa: {policy: light, checks: ["make test"]}`',
        )
    git = project.git
    executor = None
    env: dict[str, str] = {}
    session: WorkspaceSession | None = None
    folder = None
    if step.checks:
        session = WorkspaceSession.open(project, snapshot.protocol)
        session.prepare(snapshot.tip)
        folder = workspace.export(git, session.space, snapshot.tip, project.who)
        env = session.environment(plan, step, state)
        executor = session.sandbox.name

    def execute(check: str) -> CommandOutcome:
        assert session is not None
        return session.run_for(step, check, env, cwd=folder)

    def explain(check: str, outcome: CommandOutcome) -> str | None:
        return session.explain(check, outcome) if session else None

    outputs = step.header.outputs
    verdict = checks.run(
        outputs,
        step.checks,
        files=git.files(snapshot.tip) if outputs else (),
        changed=_changed_by(git, snapshot, step.slug) if outputs else (),
        execute=execute,
        explain=explain,
    )
    return verdict, executor


def _changed_by(git: Git, snapshot: Snapshot, slug: str) -> list[str]:
    """Return what the step's work changed, by the commit that it began at."""
    start = _start_of(git, snapshot, slug)
    return list(git.changed(start, snapshot.tip)) if start else []


def _start_of(git: Git, snapshot: Snapshot, slug: str) -> str | None:
    """Return the commit that the step's work began at, by the record."""
    for raw in reversed(record.events(git, snapshot.protocol, snapshot.tip)):
        if raw.event == "step-finished" and raw.subject == slug and isinstance(raw.fields.get("start"), str):
            return str(raw.fields["start"])
    return None
