"""Start an attempt's work in the workspace, and make its outcome from the files that it left there."""

from __future__ import annotations

import json
from typing import NamedTuple

from runner import qa
from runner.errors import RefusedError
from runner.executor import permissions
from runner.executor.step_run import StepRun
from runner.executor.transition import Outcome, OutcomeKind, attempt_ref
from runner.executor.transition import blocked_events as blocked_events
from runner.executor.workspace_session import WorkspaceSession
from runner.git import Git
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.protocol.ids import digest
from runner.protocol.state import Json
from runner.store import history, record, workspace
from runner.store.project import Project
from runner.store.workspace import Work
from runner.trust.permit import ActionResult, Allowed, Denied

_WITHOUT = "`runner undo` reverts the retry; then `runner retry --clean` starts without it"


def start(run: StepRun) -> WorkspaceSession:
    """Open the workspace, and make it hold the commit that the attempt starts at.

    Raises:
        RunnerError: it cannot be made ready; nothing is recorded.
    """
    run.workspace = WorkspaceSession.open(run.session, run.snapshot.protocol, run.step.header.resources)
    resumes = (run.project.dirs.journal(run.snapshot.protocol) / f"{run.name}.jsonl").exists()
    run.started = _start_of(run)
    run.workspace.prepare(
        run.started,
        clean=permissions.is_approved(run),
        attempt=run.name,
        resumes=resumes,
        approved=permissions.approved_changes(run),
    )
    run.project.env.hear_output(run.label, b"")  # the setup may have been shown
    return run.workspace


def _start_of(run: StepRun) -> str:
    """Return the commit that the attempt starts at: the tip, with the work of the attempt before where the retry says so.

    Where nobody chose that, and that work conflicts by now or is not in this clone, it is the tip.
    """
    git, tip = run.project.git, run.snapshot.tip
    if run.attempt == 1:  # no retry: the log, which grows with every step, need not be read
        return tip
    entries = [raw for raw in record.events(git, run.snapshot.protocol, tip) if raw.subject == run.slug]
    at = max((at for at, raw in enumerate(entries) if raw.event == "step-retried"), default=-1)
    kept = entries[at].fields.get("kept") if at >= 0 and entries[at].fields.get("attempt") == run.attempt else None
    if not isinstance(kept, str):
        return tip
    try:
        return with_kept(run.project, tip, kept if git.resolve(kept) else _work_noted(run) or kept, _WITHOUT)
    except RefusedError as error:
        if not at or entries[at].revision != entries[at - 1].revision + 1 or entries[at - 1].event != "step-failed":
            raise
        run.session.tell_once(f"{error.what}: attempt {run.attempt} of {run.slug} starts without it")
        return tip


def _work_noted(run: StepRun) -> str | None:
    """Return the commit of the work that the attempt before left, as its transcript names it and the history keeps it."""
    name = history.transcript_name(run.slug, run.attempt - 1)
    rows = (history.read(run.project.git, run.snapshot.protocol, name) or b"").splitlines()
    noted = next((row["tree"] for row in map(json.loads, reversed(rows)) if row.get("tree")), None)
    return str(noted) if noted and run.project.git.commit(str(noted)) else None


def with_kept(project: Project, tip: str, kept: str, hint: str) -> str:
    """Return a commit, on no branch, that is the tip with the work that was kept of a failed attempt.

    Raises:
        RefusedError: the work is gone, or conflicts with newer commits; `hint`: what helps.
    """
    oid = project.git.resolve(kept)
    if oid is None:
        raise RefusedError(f"the work of the last attempt is gone: {kept}", kept, hint)
    tree, conflicts = project.git.merge_trees(tip, oid)
    if tree is None:
        raise RefusedError(f"the work of the last attempt conflicts: {', '.join(conflicts)}", kept, hint)
    who = project.runner()
    return project.git.write_commit(tree, (tip,), who, who, b"kept\n")


class Ran(NamedTuple):
    """How an attempt ran, by its events' fields. `code`: a command's exit code; `output`: the digest of all that it printed."""

    executor: str | None = None
    environment: str | None = None
    engine: str | None = None
    code: int | None = None
    output: str | None = None
    tail: str | None = None
    transcript: str | None = None
    spent: ev.Spent = ev.Spent()


class Collected(NamedTuple):
    """The work that an attempt left, or why there is none: git `refused` it, or it is `too_much`."""

    work: Work | None = None
    refused: str = ""
    too_much: str = ""


def collect(run: StepRun) -> Collected:
    """Return what the attempt left in the workspace."""
    try:
        return Collected(work=run.workspace.collect(run.snapshot.tip, run.timeout))
    except workspace.TooMuchError as error:
        return Collected(too_much=f"{error.what}; {error.hint}")
    except RefusedError as error:
        return Collected(refused=f"{error.what}; {error.hint}")


def tools_output(run: StepRun) -> dict[str, bytes]:
    """Return, for the history, which hosts the tools of the attempt asked for, as far as their processes ended."""
    kept = run.workspace.tools_output
    return {history.output_name(run.slug, run.attempt): kept.data()} if kept else {}


def unchanged(run: StepRun) -> Work:
    """Return the work of an attempt that changed nothing."""
    return Work(run.snapshot.tree, {})


def finished(run: StepRun, work: Work, ran: Ran, result: Json = None, *, artifacts: tuple[str, ...] = ()) -> Outcome:
    """Return the outcome of an attempt whose work the policy allows; `artifacts`: files beside the step's outputs."""
    ran = ran._replace(code=None)  # it is 0, and no event records that
    forbidden = sorted(filter(paths.is_for_people, work.changed))
    if forbidden:
        return failed(run, f"it changed what only people may change: {', '.join(forbidden[:3])}", ran, work)
    git, now = run.project.git, (run.snapshot.tip, work.tree)
    verdict = permissions.judge_result(run, ActionResult(now))
    if isinstance(verdict, Denied):
        return failed(run, f"{verdict.what} ({verdict.where})", ran, work)
    assert ran.executor is not None, "verify refuses work without it: give the sandbox's name, or `runner`"
    told = ran._asdict()
    del told["code"]
    done = ev.StepFinished(
        subject=run.slug,
        attempt=run.attempt,
        digest=run.step.digest,
        start=run.snapshot.tip,
        result=result,
        artifacts=artifacts_in(run, work.tree, artifacts),
        **told,
    )
    return Outcome(
        kind=OutcomeKind.FINISHED,
        events=(done,),
        step=run.step,
        asks=permissions.asks(run, verdict, now),
        asks_first=permissions.changes_setup(run, work.changed),
        tree=work.tree if work.changed else None,
        summary=describe_changes(git, run.snapshot.tip, work.tree),
    )


def failed(run: StepRun, reason: str, ran: Ran, work: Work | None = None) -> Outcome:
    """Return the outcome of a failed attempt; the tree of its work is kept beside the branch."""
    kept = work.tree if work and work.changed else None
    ref = attempt_ref(run.snapshot.protocol, run.slug, run.attempt) if kept else None
    failure = _failure(run, reason, ran, ref)
    return Outcome(kind=OutcomeKind.FAILED, events=(failure,), step=run.step, kept=kept, summary=failure.reason)


def blocked(run: StepRun, reason: str, ran: Ran) -> Outcome:
    """Return the outcome of an attempt that a person has to look at before the step continues."""
    failure = _failure(run, reason, ran, None)
    events = tuple(blocked_events(run.snapshot.protocol, failure))
    return Outcome(kind=OutcomeKind.BLOCKED, events=events, step=run.step, summary=failure.reason)


def waits(run: StepRun, event: ev.Event, summary: str, work: Work, record: dict[str, bytes] | None = None) -> Outcome:
    """Return the outcome of an attempt that waits for a person. `work`: that so far; `record`: files that belong to the question.

    Work that needs approval reaches the branch when the step is done: people approve all of it at once.
    """
    now = (run.snapshot.tip, work.tree)
    shown = work.changed and permissions.judge_result(run, ActionResult(now, "waits")) == Allowed()
    return Outcome(
        kind=OutcomeKind.WAITS,
        events=(event,),
        step=run.step,
        tree=work.tree if shown else None,
        summary=summary,
        folder_files=record or {},
    )


def _failure(run: StepRun, reason: str, ran: Ran, kept: str | None) -> ev.StepFailed:
    return ev.StepFailed(
        subject=run.slug,
        attempt=run.attempt,
        reason=log.cut(reason),
        kept=kept,
        **ran._asdict(),
    )


def artifacts_in(run: StepRun, tree: str, more: tuple[str, ...] = ()) -> list[ev.ArtifactFields]:
    """Return the step's outputs in a tree, and the files `more`, as artifacts."""
    wanted, git = (*run.step.header.outputs, *more), run.project.git
    if not wanted:
        return []
    return qa.artifacts(wanted, git.files(tree), lambda path: digest(git.blob(f"{tree}:{path}") or b""))


def describe_changes(git: Git, old: str, new: str) -> str:
    """Return `notes.md`, or `2 files, +84 −3`, for the differences outside the record; empty if there are none."""
    changed = {path for path in git.changed(old, new) if not path.startswith(f"{paths.ROOT}/")}
    if len(changed) < 2:
        return "".join(changed)
    out = git.run(
        "diff-tree", "-r", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv", "-z", old, new
    ).decode("utf-8", "replace")
    added = removed = 0
    for line in out.split("\0"):
        plus, _, rest = line.partition("\t")
        minus, _, path = rest.partition("\t")
        if path in changed and plus.isdigit() and minus.isdigit():
            added, removed = added + int(plus), removed + int(minus)
    return f"{len(changed)} files, +{added} −{removed}"
