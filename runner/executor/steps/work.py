"""The outcome of an attempt, by what it left in the workspace."""

from __future__ import annotations

from typing import NamedTuple

from runner import qa
from runner.errors import RefusedError
from runner.executor import permissions
from runner.executor.step_run import StepRun
from runner.executor.transition import Kind, Outcome, attempt_ref
from runner.executor.transition import blocked as blocked_events
from runner.git import Git
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.protocol.ids import digest
from runner.protocol.state import Json
from runner.store import history, workspace
from runner.store.workspace import Work
from runner.trust.permit import Allowed, Denied, Result


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
        return Collected(work=run.workspace.collect(run.view.tip, run.timeout))
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
    return Work(run.view.tree, {})


def finished(run: StepRun, work: Work, ran: Ran, result: Json = None, *, artifacts: tuple[str, ...] = ()) -> Outcome:
    """Return the outcome of an attempt whose work the policy allows; `artifacts`: files beside the step's outputs."""
    ran = ran._replace(code=None)  # it is 0, and no event records that
    forbidden = sorted(filter(paths.is_for_people, work.changed))
    if forbidden:
        return failed(run, f"it changed what only people may change: {', '.join(forbidden[:3])}", ran, work)
    git, now = run.project.git, (run.view.tip, work.tree)
    verdict = permissions.judge_result(run, Result(now))
    if isinstance(verdict, Denied):
        return failed(run, f"{verdict.what} ({verdict.where})", ran, work)
    told = ran._asdict()
    del told["code"]
    done = ev.StepFinished(
        subject=run.slug,
        attempt=run.attempt,
        digest=run.step.digest,
        start=run.view.tip,
        result=result,
        artifacts=artifacts_in(run, work.tree, artifacts),
        **told,
    )
    return Outcome(
        kind=Kind.FINISHED,
        events=(done,),
        step=run.step,
        asks=permissions.asks(run, verdict, now),
        asks_first=permissions.changes_setup(run, work.changed),
        tree=work.tree if work.changed else None,
        summary=describe_changes(git, run.view.tip, work.tree),
    )


def failed(run: StepRun, reason: str, ran: Ran, work: Work | None = None) -> Outcome:
    """Return the outcome of a failed attempt; the tree of its work is kept beside the branch."""
    kept = work.tree if work and work.changed else None
    ref = attempt_ref(run.view.protocol, run.slug, run.attempt) if kept else None
    failure = _failure(run, reason, ran, ref)
    return Outcome(kind=Kind.FAILED, events=(failure,), step=run.step, kept=kept, summary=failure.reason)


def blocked(run: StepRun, reason: str, ran: Ran) -> Outcome:
    """Return the outcome of an attempt that a person has to look at before the step continues."""
    failure = _failure(run, reason, ran, None)
    events = tuple(blocked_events(run.view.protocol, failure))
    return Outcome(kind=Kind.BLOCKED, events=events, step=run.step, summary=failure.reason)


def waits(run: StepRun, event: ev.Event, summary: str, work: Work, record: dict[str, bytes] | None = None) -> Outcome:
    """Return the outcome of an attempt that waits for a person. `work`: that so far; `record`: files that belong to the question.

    Work that needs approval reaches the branch when the step is done: people approve all of it at once.
    """
    now = (run.view.tip, work.tree)
    shown = work.changed and permissions.judge_result(run, Result(now, "waits")) == Allowed()
    return Outcome(
        kind=Kind.WAITS,
        events=(event,),
        step=run.step,
        tree=work.tree if shown else None,
        summary=summary,
        record=record or {},
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
