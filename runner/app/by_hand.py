"""Judge a step's work by hand (checks, review), or open a shell in the step's sandbox, in a workspace of its own.

Neither records anything, and the shell's changes are discarded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import HeldError, RefusedError, UsageError
from runner.executor import load
from runner.executor.journal import open_journal
from runner.executor.step_run import StepRun
from runner.executor.steps import check, review
from runner.executor.steps.work import with_kept
from runner.executor.workspace_session import WorkspaceSession
from runner.lines import counted
from runner.protocol import paths
from runner.protocol.events import CheckEvidence
from runner.protocol.plans import QaPolicy
from runner.protocol.state import ENDED, STOPPED, StepStatus
from runner.sandbox.mounts import is_system
from runner.sandbox.process import Command, Sandbox, end_all
from runner.store import locks, lookup, record
from runner.store import workspace as workspaces
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.store.workspace import Workspace
from runner.trust import requirements, trusted_config

_HAS_WORK = (StepStatus.NEEDS_QA, StepStatus.COMPLETED)


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


def judge(session: Session, protocol: str, slug: str | None, *, full: bool) -> Judged:
    """Judge a step's work; `slug` None: that of the step that waits for it, else of the one that failed, else the last.

    It is judged as the branch's tip has it, with the kept work of an attempt that failed.

    Raises:
        UsageError: no such step has work, or its QA has nothing to check.
        RefusedError: the policy denies the step or its checks, a budget does not allow the review, or kept work conflicts.
        EngineError: the model cannot be asked, or gave no verdict.
    """
    session.project.refuse_unsupported()
    with load.at_work(session, protocol):
        seen = load.read(session, protocol)
        plan = load.read_plan(session, seen)
        found = slug or _step_of(session.project, seen)
        step = plan.step(found) if found else None
        work = work_of(session.project, seen, found) if found is not None and found in seen.state.steps else None
        if step is None or found is None or work is None:
            raise UsageError(
                f"{found} has no work to judge" if found else "no step has work to judge",
                protocol,
                f"`runner status {protocol}` shows its status",
            )
        # What the policy denies is not run by hand either.
        requirements.of_start(trusted_config.of(session.project), step, paths.folder(protocol))
        if full:
            step = dataclasses.replace(step, qa=QaPolicy.FULL)
        run = StepRun(session, seen, plan, step, seen.state, kept=work if work != seen.tip else None)
        attempt, checked, again = run.attempt, check.check(run), _again(session.project, run)
        verdict, outputs = checked.verdict, checked.outputs
        if not verdict.passed or step.qa is not QaPolicy.FULL:
            return Judged(found, attempt, verdict.evidence, verdict.reason, outputs=outputs, again=again)
        journal = open_journal(session, protocol, f"{found}.{attempt}.hand")  # what it costs counts in the budgets
        if journal.records:
            journal.undecided(session.env.timestamp(), "it is judged again")
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
    failed = [slug for slug, step in steps if step.status in STOPPED and work_of(project, seen, slug)]
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
    found = record.work_of(project.git, seen.protocol, seen.tip, slug) if status in STOPPED else None
    if found is None or project.git.is_ancestor(found[1], seen.tip):
        return seen.tip if found else None
    hint = f"`runner diff {lookup.typed(project, seen.protocol)} {slug}` shows it"
    return with_kept(project, seen.tip, found[1], hint)


def _again(project: Project, run: StepRun) -> str:
    stopped = run.state.stopped
    if run.slug not in stopped or run.state.status in ENDED:
        return ""
    name = f"runner retry {lookup.typed(project, run.snapshot.protocol)}"
    return f"{name}{f' --step {run.slug}' if len(stopped) > 1 else ''}{' --keep' if run.kept else ''}"


MOST = 20  # shells of one protocol at a time
_NONE = ("nologin", "false", "true")  # the shells of accounts that have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person asks for. `slug`: the step, None for the protocol's tip; `argv`: the command, empty for the person's own shell.

    `start`: without the step's work; `check`: in a clean export, as this check of the step has it; `term`: the person's terminal.
    """

    slug: str | None
    argv: tuple[str, ...] = ()
    start: bool = False
    check: int | None = None
    term: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A command that is ready to run. `said`: where it starts, for people; `line`: that of the check."""

    sandbox: Sandbox
    command: Command
    said: str
    line: str = ""


@contextlib.contextmanager
def shell(session: Session, protocol: str, wanted: Wanted) -> Iterator[Opened]:
    """Make a workspace as a step had it, and remove it afterwards. The protocol may be at work: no lock or lease of it is taken.

    It has the work that the step's last attempt left, failed or not; with `start`, or where there is none, what the step starts from.

    Raises:
        UsageError: there is no such check, the step is not in the plan, or no sandbox works here.
        RefusedError: the policy does not allow this executor, or kept work conflicts with newer commits.
        StepFailedError: the workspace's setup failed.
    """
    seen = load.read(session, protocol)
    run = _run(session, seen, wanted) if wanted.slug else None
    commit, attempt, said = _start(run, wanted) if run else (seen.tip, 0, f"{protocol} at {seen.tip[:7]}")
    with space_for(session.project, protocol) as space:
        workspace = WorkspaceSession.open(session, protocol, run.step.header.resources if run else None, space)
        workspace.prepare(commit)
        line = run.step.checks[wanted.check - 1] if run and wanted.check else ""
        folder = workspace.export(commit) if line else space.work
        env = run.environment(workspace, folder) if run else workspace.environment(folder)
        if run:
            env["RUNNER_ATTEMPT"] = str(attempt)
        if wanted.term:
            env["TERM"] = wanted.term
        if not wanted.argv:  # inside, the folder has the path of the person's own checkout
            env["PS1"] = f"({protocol}{f' {wanted.slug}' if wanted.slug else ''}) $ "
        argv = wanted.argv or (_shell(workspace),)
        yield Opened(workspace.sandbox, workspace.command(argv, env, timeout=None, cwd=folder), said, line)


def _run(session: Session, seen: Snapshot, wanted: Wanted) -> StepRun:
    plan, slug = load.read_plan(session, seen), wanted.slug or ""
    step = plan.step(slug)
    if step is None or slug not in seen.state.steps:
        raise UsageError(f"{slug} is not in the plan", seen.where, "leave the step out: the shell is at the tip then")
    if wanted.check and wanted.check > len(step.checks):
        count = counted(len(step.checks), "check")
        shows = f"`runner show {lookup.typed(session.project, seen.protocol)} {slug}` shows the step"
        raise UsageError(f"{slug} has {count}", f"{seen.where}, {step.file}", shows)
    return StepRun(session, seen, plan, step, seen.state)


def _start(run: StepRun, wanted: Wanted) -> tuple[str, int, str]:
    """Return the commit that the shell starts at, the attempt whose it is, and both for people."""
    git, seen, slug, attempt = run.project.git, run.snapshot, run.slug, run.attempt
    name, status = f"{seen.protocol}, {run.state.steps[slug].place:02d}-{slug}", run.state.steps[slug].status
    found = record.work_of(git, seen.protocol, seen.tip, slug)
    if status is StepStatus.PENDING and attempt > 1 and found:
        attempt -= 1  # a retry that has not started: the attempt before is what there is to look at
    if found is None or wanted.start:
        commit, said = (found[0] if found else seen.tip), "starts" if found is None else f"started in attempt {attempt}"
        return commit, attempt, f"{name} as it {said}"
    commit = found[1]
    if not git.is_ancestor(commit, seen.tip):
        commit = with_kept(run.project, seen.tip, commit, "add --start: the shell starts without that work then")
    elif status is not StepStatus.COMPLETED:
        commit = seen.tip  # with what people committed since, as its QA would judge it
    return commit, attempt, f"{name} as attempt {attempt} left it"


def _shell(workspace: WorkspaceSession) -> str:
    """Return the person's own shell, where the sandbox has it."""
    given = Path(workspace.project.env.environ.get("SHELL", ""))
    is_inside = workspace.sandbox.name == "host" or (is_system(given) and workspace.sandbox.image is None)
    return str(given) if is_inside and given.name not in _NONE and os.access(given, os.X_OK) else "sh"


@contextlib.contextmanager
def space_for(project: Project, protocol: str) -> Iterator[Workspace]:
    """Yield an empty workspace for one shell; one that a killed runner left is taken."""
    place = workspaces.place(project, protocol, project.config.workspace.path)
    for number in range(1, MOST + 1):
        space = workspaces.shell(place, number)
        with contextlib.ExitStack() as stack:
            try:
                lock = project.dirs.lock(space.root.name)
                was_cut = stack.enter_context(locks.hold(lock, project.env, what=f"shell {number} of {protocol}"))
            except HeldError:
                continue
            try:
                if was_cut:  # on the host, its processes are still there
                    end_all(b"HOME=" + os.fsencode(space.home))
                workspaces.remove(space)
            except OSError as error:
                raise workspaces.unusable(space, error) from error
            try:
                yield space
            finally:
                try:
                    workspaces.remove(space)
                except OSError as error:
                    project.env.say(f"{space.root} is left: {error.strerror}")
            return
    raise HeldError(f"{MOST} shells of {protocol} are open", str(place.root.parent), "leave one of them")
