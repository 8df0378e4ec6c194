"""QA: the work of a step is checked in a clean export of the tip, and judged by a model where the step asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner import qa
from runner.errors import RunnerError, UsageError
from runner.executor import permissions
from runner.executor.step_run import StepRun
from runner.executor.steps import review
from runner.executor.transition import Outcome, OutcomeKind
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.protocol.ids import digest
from runner.protocol.plans import NO_CHECKS, QaPolicy
from runner.qa import CheckResult
from runner.sandbox.process import CommandOutcome
from runner.store import history, record
from runner.store.workspace import left_ignored, place
from runner.trust.permit import ActionResult

if TYPE_CHECKING:
    from runner.executor.steps.review import Reviewed, UndecidedError


@dataclass(frozen=True, slots=True)
class Checked:
    """What QA found. `executor`, `environment`: of the checks; `outputs`: what each printed; `review`: of a model that judged it;
    `undecided`: it was asked as the attempt ended, and gave no verdict."""

    verdict: CheckResult
    executor: str | None
    environment: str | None = None
    outputs: tuple[bytes, ...] = ()
    is_counted: bool = False  # the attempt's time has that of the checks
    review: Reviewed | None = None
    undecided: UndecidedError | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the checks found in the work of an attempt, before a transition has it. `commit`: with that work, on no branch."""

    commit: str
    checks: tuple[str, ...]
    checked: Checked


def carry_out(run: StepRun) -> Outcome:
    """Check the step's work; with `full`, a model judges it after the checks passed.

    Raises:
        UndecidedError: its answer is no verdict. It is not asked again in the process in which that was so.
    """
    checked = check(run)
    if checked.undecided is not None:
        raise checked.undecided
    outputs = {
        history.output_name(run.slug, run.attempt, number): output
        for number, output in enumerate(checked.outputs, 1)
        if output
    }
    if not checked.verdict.passed or run.step.qa is not QaPolicy.FULL:
        return _outcome(run, checked)._replace(files=outputs)
    reviewed = review.of_step(run, checked.verdict.evidence)
    files = {history.review_name(run.slug, run.attempt): reviewed.transcript}
    if reviewed.verdict is not None:
        files |= outputs  # without a verdict the attempt's checks run again, and a file of the history never changes
    return _outcome(run, dataclasses.replace(checked, review=reviewed))._replace(files=files)


def _outcome(run: StepRun, checked: Checked) -> Outcome:
    verdict, review = checked.verdict, checked.review
    asks: tuple[ev.Event, ...] = ()
    if verdict.passed:
        asks = permissions.asks(run, permissions.judge_result(run, ActionResult(None)))
    evidence, reason = list(verdict.evidence), verdict.reason
    seconds = 0 if checked.is_counted else sum(check["seconds"] for check in evidence)
    seconds += review.seconds if review else 0
    spent: ev.Spent = {**(review.spent if review else {}), **({"seconds": seconds} if seconds else {})}
    if review is not None and review.verdict is None:
        reached = ev.BudgetReached(subject=run.slug, text=log.cut(review.stopped), by="anyone", spent=spent)
        return Outcome(kind=OutcomeKind.OVER_BUDGET, events=(reached,), step=run.step, summary=review.stopped)
    reports: dict[str, bytes] = {}
    engine = report = transcript = None
    if review is not None and review.verdict is not None:
        evidence.append(review.evidence())
        reports = {paths.report_file(run.slug, run.attempt): review.report}
        engine, report, transcript = review.engine, digest(review.report), digest(review.transcript)
        reason = "" if review.verdict.passed else log.cut(f"review: {evidence[-1]['tail']}")
    passed = ev.QaPassed(
        subject=run.slug,
        attempt=run.attempt,
        tree=run.snapshot.tree,
        evidence=evidence,
        executor=checked.executor,
        environment=checked.environment,
        engine=engine,
        report=report,
        transcript=transcript,
        spent=spent,
    )
    if not reason:
        lines = [check["check"] for check in evidence if not check["check"].startswith("outputs:")]
        names = ", ".join(line if " " in line else line.rsplit("/", 1)[-1] for line in lines)
        said = f"{names} passed" if names else ""
        return Outcome(
            kind=OutcomeKind.CHECKED,
            events=(passed,),
            step=run.step,
            asks=tuple(asks),
            summary=said,
            folder_files=reports,
        )
    failure = ev.StepFailed(subject=run.slug, attempt=run.attempt, reason=log.cut(f"QA: {reason}"))
    events = (ev.QaFailed(reason=reason, **vars(passed)), failure)
    return Outcome(kind=OutcomeKind.FAILED, events=events, step=run.step, summary=reason, folder_files=reports)


def check(run: StepRun) -> Checked:
    """Return what the checks find in the tree of the commit that is judged. Nothing is recorded.

    What they found when this process ran them on the same work, as the attempt ended, is taken over.

    Raises:
        UsageError: a step that asks for QA and names nothing to check.
    """
    step, view = run.step, run.snapshot
    asked = step.header.qa or run.plan.header.qa
    if step.qa is QaPolicy.SKIP and asked is not None and asked.policy is QaPolicy.SKIP:
        whose, line = (step.file, step.lines) if step.header.qa else (paths.PLAN, run.plan.lines)
        raise UsageError(
            f"{run.slug} has no QA: {whose} says `qa: skip`",
            f"{paths.folder(view.protocol)}/{whose}:{line.get('qa', 1)}",
            f"`runner edit {view.protocol} {run.slug if step.header.qa else ''}".rstrip() + "` changes that",
        )
    if not step.has_checks:
        raise UsageError(f"the QA of {run.slug} has nothing to check", run.where, NO_CHECKS)
    made = run.session.proposals.pop(_key(run), None)
    if isinstance(made, Proposal) and made.checks == step.checks and _is_work_of(run, made.commit):
        return made.checked
    workspace = None
    if step.checks:
        run.workspace = workspace = WorkspaceSession.open(run.session, view.protocol, step.header.resources)
        workspace.prepare(run.judged, approved=permissions.approved_changes(run))
    return _checked(run, workspace, _changed(run) if step.header.outputs else ())


def propose(run: StepRun, commit: str) -> Checked | None:
    """Return what the checks find in `commit`, the work so far of an attempt, as its QA would; None where there are none.

    It is kept for the QA of that work, in this process.
    """
    if run.step.qa is QaPolicy.SKIP or not run.step.has_checks:
        return None
    workspace = None
    if run.step.checks:
        approved = permissions.approved_changes(run)
        workspace = run.workspace.beside(commit, run.step.header.resources, approved)
    changed = list(run.project.git.changed(run.snapshot.tip, commit))
    found = _checked(dataclasses.replace(run, kept=commit), workspace, changed)
    run.session.proposals[_key(run)] = Proposal(commit, run.step.checks, dataclasses.replace(found, is_counted=True))
    return found


def note_undecided(run: StepRun, error: UndecidedError) -> None:
    """Keep for the QA of the work proposed last that its review gave no verdict."""
    made = run.session.proposals[_key(run)]
    assert isinstance(made, Proposal)
    checked = dataclasses.replace(made.checked, undecided=error)
    run.session.proposals[_key(run)] = dataclasses.replace(made, checked=checked)


def _key(run: StepRun) -> str:
    return f"{run.snapshot.protocol} {run.name}"


def _is_work_of(run: StepRun, commit: str) -> bool:
    """Return whether the commit that is judged has the files of `commit`, but for the record."""
    folder = f"{paths.folder(run.snapshot.protocol)}/"
    changed = run.project.git.changed(commit, run.judged)
    return all(path.startswith(folder) and paths.is_record(path.removeprefix(folder)) for path in changed)


def _checked(run: StepRun, workspace: WorkspaceSession | None, changed: Sequence[str]) -> Checked:
    """Run the checks in a clean export of the commit that is judged. `workspace`: None where none is a command."""
    step, git = run.step, run.project.git
    folder = workspace.export(run.judged) if workspace else None
    outputs: list[bytes] = []

    def execute(line: str) -> CommandOutcome:
        assert workspace is not None
        part = f"check {len(outputs) + 1}/{len(step.checks)}"
        outcome, output = run.execute(workspace, line, cwd=folder, part=part)
        outputs.append(output)
        return outcome

    verdict = qa.run_checks(
        step.header.outputs,
        step.checks,
        files=git.files(run.judged) if step.header.outputs else (),
        changed=changed,
        ignored=lambda: _left_ignored(run),
        execute=execute,
        explain=lambda line, ended: workspace.explain(line, ended) if workspace else None,
    )
    executor, environment = (workspace.sandbox.name, workspace.environment_name) if workspace else (None, None)
    return Checked(verdict, executor, environment, tuple(outputs))


def _left_ignored(run: StepRun) -> list[str]:
    """Return the files that git ignores in the step's workspace; none where it is gone or broken, as only a message names them."""
    try:
        return left_ignored(place(run.project, run.snapshot.protocol, run.project.config.workspace.path))
    except (RunnerError, OSError):
        return []


def _changed(run: StepRun) -> list[str]:
    """Return what the step's work changed since the commit that it started at, which the record names."""
    git, view = run.project.git, run.snapshot
    for raw in reversed(record.events(git, view.protocol, view.tip)):
        if raw.event == "step-finished" and raw.subject == run.slug and isinstance(raw.fields.get("start"), str):
            return list(git.changed(raw.fields["start"], run.judged))
    return list(git.changed(view.tip, run.judged))
