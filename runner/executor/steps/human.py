"""A human step: the runner asks for the work, and takes what people commit until they say that it is done."""

from __future__ import annotations

from runner.executor import permissions
from runner.executor.step_run import StepRun
from runner.executor.steps import work
from runner.executor.transition import Outcome, OutcomeKind
from runner.git import Commit
from runner.protocol import events as ev
from runner.protocol import ids, log, paths
from runner.store import record
from runner.trust import transitions
from runner.trust.permit import ActionResult


def carry_out(run: StepRun) -> Outcome:
    """Ask for the work."""
    text = record.question(run.step.header.title, run.step.prose)
    asked = ev.Asked(subject=run.slug, kind="human", text=text, by="anyone")
    return Outcome(kind=OutcomeKind.WAITS, events=(asked,), step=run.step, summary=f"asks: {text}")


def take_work(run: StepRun) -> Outcome:
    """Take what people committed since the question as the step's work."""
    git, view = run.project.git, run.snapshot
    entries = record.events(git, view.protocol, view.tip)
    if not log.is_answered(
        entries, run.slug
    ):  # it was of another kind when it started, and rule 11 of verify refuses that
        number = ids.number_of(view.protocol)
        why = f"it became a person's step after it had started: `runner retry {number}` asks for it"
        return work.blocked(run, why, work.Ran())
    answers = (
        raw.fields.get("text") for raw in reversed(entries) if raw.event == "answered" and raw.subject == run.slug
    )
    answer = next(answers, None)
    start = _start_of_work(run)
    now = (start, view.tip)
    verdict = permissions.judge_result(run, ActionResult(now))
    done = ev.StepFinished(
        subject=run.slug,
        attempt=run.attempt,
        digest=run.step.digest,
        start=start,
        executor="person",
        result={"answer": answer} if answer is not None else None,
        artifacts=work.artifacts_in(run, view.tip),
    )
    return Outcome(
        kind=OutcomeKind.FINISHED,
        events=(done,),
        step=run.step,
        asks=permissions.asks(run, verdict, now),
        summary=work.describe_changes(git, start, view.tip),
    )


def _start_of_work(run: StepRun) -> str:
    """Return the commit that asked for the work first, since the step ended last; or that of later work by a step which it needs.

    Where the person had committed something before that other work, the question's: nothing of theirs is left out.
    """
    git, protocol, tip = run.project.git, run.snapshot.protocol, run.snapshot.tip
    own, later, asked = f"{paths.folder(protocol)}/", list[Commit](), 0
    for one in transitions.transitions_below(git, protocol, tip):
        if any(one.has(end, run.slug) for end in ("step-finished", "step-retried", "step-blocked")):
            break
        later.append(one.commit)
        asked = len(later) if one.has("asked", run.slug) else asked
        if asked and run.attempt == 1:
            break  # it was asked for once
    if not asked:
        return tip
    start = later[asked - 1].oid
    for commit in reversed(later[: asked - 1]):
        before = commit.parents[0]
        is_work, is_theirs = (
            any(not path.startswith(own) for path in git.changed(old, new))
            for old, new in ((before, commit.oid), (start, before))
        )
        if is_work and not is_theirs:
            start = commit.oid
    return start
