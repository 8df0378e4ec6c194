"""One function an action of the machine's: it acts in the workspace and says which events come of it.

Nothing here moves a ref. What an action brings about is an `Attempt`: events as a function of the state that they will be
applied to (a person may have gone on meanwhile), the tree that holds the work, and what to tell people.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.errors import RefusedError, UsageError, WaitingError
from runner.executor import permissions
from runner.executor.outcome import Outcome, attempt_ref, completed, failed, finished
from runner.executor.workspace_session import WorkspaceSession, results_of, timeout_of
from runner.git import Git, Ident
from runner.lines import lines_of
from runner.protocol import events as ev
from runner.protocol import ids, log, machine, paths, plans, references
from runner.protocol.digest import digest
from runner.protocol.events import Event
from runner.protocol.machine import Action, AskPerson, CheckStep, Complete, CompleteStep, RunStep, TakeWork
from runner.protocol.plans import Kind, Plan, Step
from runner.protocol.state import State
from runner.qa import checks
from runner.sandbox import Outcome as CommandOutcome
from runner.store import history, record, transaction, workspace
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.store.snapshot import words as words_of
from runner.trust import requirements

if TYPE_CHECKING:
    from runner.executor.calls import DeniedError, EffectError, HeldError

_AUTHOR = re.compile(r"([^<>\n]*) <([^<>\n]*)> .*")
_WITHOUT = "`runner undo` takes the retry back; then run `runner retry` without --keep"


def perform(
    project: Project, snapshot: Snapshot, plan: Plan, state: State, action: Action, words: Sequence[Event] = ()
) -> Outcome:
    """Carry out an action, which is neither `Halt` nor `WritePlan`. `words`: what people said that it takes up.

    Raises:
        RunnerError: it could not be begun; nothing is recorded.
    """
    protocol = snapshot.protocol
    match action:
        case RunStep(slug):
            return run_step(project, snapshot, plan, _step(plan, slug), state, words)
        case AskPerson(slug):
            return ask_person(_step(plan, slug), protocol)
        case TakeWork(slug):
            return take_work(project, snapshot, plan, _step(plan, slug), state)
        case CheckStep(slug):
            from runner.executor import checking

            return checking.check_step(project, snapshot, plan, _step(plan, slug), state)
        case CompleteStep(slug):
            return Outcome(lambda now: completed(now, slug), said="done")
        case Complete():
            return Outcome(lambda now: [ev.Completed(subject=protocol)], said="all done")
        case _:
            raise AssertionError(f"unreachable: {action}")


def write_plan(project: Project, snapshot: Snapshot) -> Outcome:
    """Let the planner go on with the answers that it got: its plan, or further questions come of it.

    Raises:
        RunnerError: there is neither; nothing is recorded, and what was heard is kept.
    """
    from runner.executor import planning

    told = planning.go_on(project, snapshot)
    files = {history.transcript_name("plan", 1): told.transcript}
    if isinstance(told, planning.Asking):
        asked = told.events()
        return Outcome(lambda now: [*asked], said=f"asks: {' '.join(told.questions)}", files=files)
    words = {**words_of(project.git, snapshot), **told.files}
    plan = plans.parse(words, snapshot.where)
    planned = ev.Planned(
        subject="plan",
        plan=plan.digest,
        steps=machine.planned_steps(plan),
        engine=told.engine,
        transcript=digest(told.transcript),
        spent=told.spent,
    )
    return Outcome(
        lambda now: [planned],
        said="\n".join(planning.outline(words)),
        files=files,
        record=told.files,
        author=_begun_by(project, snapshot),
    )


def _begun_by(project: Project, snapshot: Snapshot) -> Ident:
    """Return the person at whose word the plan is written: who began the protocol."""
    git, now = project.git, project.runner()
    for oid in git.first_parents(snapshot.tip):
        commit = git.commit(oid)
        told = log.parse_message(commit.message) if commit else None
        if commit and told and told.events[0] == f"created {snapshot.protocol}":
            found = _AUTHOR.fullmatch(commit.author.decode("utf-8", "replace"))
            return dataclasses.replace(now, name=found[1], email=found[2]) if found else now
    return now


def _step(plan: Plan, slug: str) -> Step:
    step = plan.step(slug)
    assert step is not None, slug
    return step


def _spent(outcome: CommandOutcome) -> ev.Spent:
    seconds = math.ceil(outcome.seconds) if outcome.seconds >= 0.5 else 0
    return {"seconds": seconds} if seconds else {}


# --- commands and tools ----------------------------------------------------------------------------------------------


def run_step(
    project: Project, snapshot: Snapshot, plan: Plan, step: Step, state: State, words: Sequence[Event]
) -> Outcome:
    """Run a command or a tool in the workspace, and take what it left there as the step's work."""
    where = f"{paths.folder(snapshot.protocol)}/{step.file}"
    session = WorkspaceSession.open(project, snapshot.protocol)
    if not _stays_outside(step):
        session.prepare(_start(project, snapshot, step, state), clean=permissions.is_approved(project, step, where))
    if step.header.kind is Kind.COMMAND:
        return _run_command(session, snapshot, plan, step, state)
    if step.header.kind is Kind.TOOL:
        return _run_tool(session, snapshot, plan, step, state, words, where)
    if step.header.kind is Kind.AGENT:
        return _run_agent(session, snapshot, plan, step, state, words, where)
    raise AssertionError(f"unreachable: {step.header.kind}")


def _stays_outside(step: Step) -> bool:
    """Return whether the step is a call of a function of ours that knows of no workspace: none is made ready for it."""
    if step.header.kind is not Kind.TOOL:
        return False
    from runner.tools import registry

    return step.header.tool in registry.BUILTIN


def _run_agent(
    session: WorkspaceSession,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    words: Sequence[Event],
    where: str,
) -> Outcome:
    """Let the model do the step: its work, something that it waits for, a budget that is used up, or a failure come of it."""
    from runner.executor import agent, spending

    project, attempt = session.project, state.steps[step.slug].attempt
    began = project.who.monotonic()
    ended, journal, engine = agent.carry_out(
        session, snapshot, plan, step, state, words, timeout=timeout_of(step), where=where
    )
    seconds = round(project.who.monotonic() - began)
    spent = spending.since(journal, seconds)
    data, transcript = agent.transcript(journal)
    ended = dataclasses.replace(
        ended, text=session.redactor.text(ended.text), result=session.redactor.value(ended.result)
    )
    files = {history.transcript_name(step.slug, attempt): data}
    if ended.outcome == "budget":
        text = log.cut(f"{ended.text}; {agent.budgets_stand_in(project, plan, step, where)}")
        reached = ev.BudgetReached(subject=step.slug, text=text, by="whoever plans", spent=spent)
        return Outcome(lambda now: [reached], said=text, files=files, keeps=agent.work_so_far(journal))
    told: dict[str, object] = {
        "executor": session.sandbox.name,
        "engine": engine,
        "transcript": transcript,
        "spent": spent,
    }
    work, too_much = None, None
    try:
        work = session.collect(snapshot.tip, timeout_of(step))
    except workspace.TooMuchError as error:
        too_much = error
    except RefusedError as error:
        reason = {"reason": log.cut(f"{error.what}; {error.hint}"), **told}
        return dataclasses.replace(_failed(session, snapshot, step, reason, None), files=files)
    if ended.outcome == "failed":
        reason = {"reason": log.cut(ended.text), **told}
        return dataclasses.replace(_failed(session, snapshot, step, reason, work), files=files)
    if work is None and ended.outcome in ("asked", "held", "unknown"):
        work = workspace.Work(snapshot.tree, {})  # it may be less by the end
    if work is None:
        return dataclasses.replace(_blocked(snapshot, step, _told(too_much), told), files=files)
    if ended.outcome in ("asked", "held", "unknown") and not transaction.paths_outside(work.changed):
        made = _waits(session, snapshot, plan, step, state, ended.why or ended.text, work, transcript, spent)
        return dataclasses.replace(made, files=files, keeps=agent.work_so_far(journal))
    made = _worked(session, snapshot, plan, step, state, work, ended.result, told, more=ended.artifacts)
    return dataclasses.replace(made, files=files)


def _waits(
    session: WorkspaceSession,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    why: HeldError | EffectError | str,
    work: workspace.Work,
    transcript: str | None,
    spent: ev.Spent,
) -> Outcome:
    """Return the attempt that waits for a person, with the work so far. `why`: a call, an effect, or a question's text.

    Work that needs a word of its own is not on the branch before the step is done, when all of it is looked at.
    """
    from runner.executor.calls import EffectError

    record: dict[str, bytes] = {}
    found = permissions.trusted_config(session.project)
    event: Event
    if isinstance(why, str):
        said = f"asks: {why}"
        event = ev.Asked(
            subject=step.slug, kind="question", text=log.cut(why), by="anyone", transcript=transcript, spent=spent
        )
    elif isinstance(why, EffectError):
        said, intent = why.text, why.intent
        event = ev.EffectUnknown(
            subject=step.slug,
            call=intent["call"],
            tool=intent["tool"],
            digest=intent["digest"],
            text=log.cut(why.text),
            transcript=transcript,
            spent=spent,
        )
    else:
        held = why.call
        said, record = f"holds: {held.text()}", {paths.call_file(held.name): why.data}
        event = ev.CallHeld(
            subject=step.slug,
            call=held.name,
            digest=digest(why.data),
            text=log.cut(held.text()),
            by=log.cut(requirements.of_call(found, held.name, held.attempt, held.text()).who),
            transcript=transcript,
            spent=spent,
        )
    shown = work.changed and all(
        one.verdict == "allow"
        for one in permissions.work_of(session.project, snapshot, plan, step, state, (snapshot.tip, work.tree))
    )
    return Outcome(lambda now: [event], tree=work.tree if shown else None, said=said, record=record)


def _start(project: Project, snapshot: Snapshot, step: Step, state: State) -> str:
    """Return the commit that the attempt begins at: the tip, or what a retry with `--keep` goes on from."""
    if state.steps[step.slug].attempt == 1:  # no retry: the log, which grows with every step, need not be read
        return snapshot.tip
    for raw in reversed(record.events(project.git, snapshot.protocol, snapshot.tip)):
        if raw.event == "step-retried" and raw.subject == step.slug:
            kept = raw.fields.get("kept")
            if raw.fields.get("attempt") == state.steps[step.slug].attempt and isinstance(kept, str):
                oid = project.git.resolve(kept)
                if oid is None:
                    raise RefusedError(f"the work of the last attempt is gone: {kept}", kept, _WITHOUT)
                tree, conflicts = project.git.merge_trees(snapshot.tip, oid)
                if tree is None:
                    raise RefusedError(
                        f"the work of the last attempt conflicts: {', '.join(conflicts)}", kept, _WITHOUT
                    )
                who = project.runner()
                return project.git.write_commit(tree, (snapshot.tip,), who, who, b"kept\n")
            break
    return snapshot.tip


def _run_command(session: WorkspaceSession, snapshot: Snapshot, plan: Plan, step: Step, state: State) -> Outcome:
    run = step.header.run
    assert run is not None
    outcome = session.run_for(step, run, session.environment(plan, step, state))
    shown = run if isinstance(run, str) else " ".join(run)
    told: dict[str, object] = {
        "executor": session.sandbox.name,
        "output": outcome.digest,
        "tail": log.cut_tail(outcome.tail) or None,
        "spent": _spent(outcome),
    }
    work, too_much = None, None
    try:
        work = session.collect(snapshot.tip, timeout_of(step))
    except workspace.TooMuchError as error:
        too_much = error
    except RefusedError as error:
        reason = {"reason": log.cut(f"{error.what}; {error.hint}"), "code": outcome.code, **told}
        return _failed(session, snapshot, step, reason, None)
    if not outcome.ok:
        ended = f"no end after {step.header.timeout or '1h'}" if outcome.timed_out else f"exit {outcome.code}"
        reason = {
            "reason": log.cut(session.explain(run, outcome) or f"{ended}, `{shown}`"),
            "code": outcome.code,
            **told,
        }
        return _failed(session, snapshot, step, reason, work)
    if work is None:
        return _blocked(snapshot, step, _told(too_much), {"code": outcome.code, **told})
    try:
        result = session.redactor.value(session.result())
    except UsageError as error:
        return _failed(session, snapshot, step, {"reason": error.what, "code": outcome.code, **told}, work)
    return _worked(session, snapshot, plan, step, state, work, result, told)


def _run_tool(
    session: WorkspaceSession,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    words: Sequence[Event],
    where: str,
) -> Outcome:
    """Call the tool: its result, something that it waits for, or a failure come of it."""
    from runner.executor import agent, spending, toolbox
    from runner.executor.calls import DeniedError, EffectError, HeldError
    from runner.tools.base import ToolError, typed

    began = session.project.who.monotonic()
    names = references.names_in(step.header.with_, where)
    try:
        results = results_of(state) if names else {}
        arguments = references.resolve(step.header.with_, plan.header.inputs, results, where)
    except WaitingError as error:  # a result that nobody knows: a person has to say how it goes on
        return _blocked(snapshot, step, f"{error.what}; {error.hint}", {})
    assert isinstance(arguments, dict) and step.header.tool is not None
    # What stands in the step's file is its author's word; what an earlier step gave is nobody's.
    untrusted = any(references.split(name, where)[0] == "steps" for name in names)
    told: dict[str, object] = {"executor": session.sandbox.name}
    problem, result = None, None
    stop: DeniedError | HeldError | EffectError | None = None
    attempt = state.steps[step.slug].attempt
    journal = spending.open_journal(session.project, snapshot.protocol, f"{step.slug}.{attempt}")
    coworker = agent.coworker_of(session.project, plan, step, where)
    gate = agent.gate_of(session, snapshot, plan, step, state, coworker, journal, words)
    with toolbox.open_tool(session, plan, step, where) as tool:
        try:
            made = gate.make(1, tool, typed(tool.contract, arguments), untrusted)
            result = session.redactor.value(made.content) if made.known else None
            problem = str(result) if made.is_error else None
        except (DeniedError, HeldError, EffectError) as error:
            stop = error
        except ToolError as error:
            problem = session.redactor.text(str(error))
    seconds = round(session.project.who.monotonic() - began)
    spent: ev.Spent = {"seconds": seconds} if seconds else {}
    told["spent"] = spent
    files: dict[str, bytes] = {}
    transcript = None
    if journal.records:
        data, transcript = agent.transcript(journal)
        told["transcript"] = transcript
        files = {history.transcript_name(step.slug, attempt): data}
    if isinstance(stop, DeniedError):
        return dataclasses.replace(_blocked(snapshot, step, f"{step.header.tool}: {stop.message}", told), files=files)
    nothing = workspace.Work(snapshot.tree, {})
    work, too_much = None, None
    try:
        work = nothing if _stays_outside(step) else session.collect(snapshot.tip, timeout_of(step))
    except workspace.TooMuchError as error:
        too_much = error
    except RefusedError as error:
        reason = {"reason": log.cut(f"{error.what}; {error.hint}"), **told}
        return dataclasses.replace(_failed(session, snapshot, step, reason, None), files=files)
    if stop is not None:
        return dataclasses.replace(
            _waits(session, snapshot, plan, step, state, stop, nothing, transcript, spent), files=files
        )
    if problem is not None:
        reason = {"reason": log.cut(f"{step.header.tool}: {problem}"), **told}
        return dataclasses.replace(_failed(session, snapshot, step, reason, work), files=files)
    if work is None:
        return dataclasses.replace(_blocked(snapshot, step, _told(too_much), told), files=files)
    return dataclasses.replace(_worked(session, snapshot, plan, step, state, work, result, told), files=files)


def _told(error: RefusedError | None) -> str:
    assert error is not None
    return f"{error.what}; {error.hint}"


def _blocked(snapshot: Snapshot, step: Step, why: str, told: dict[str, object]) -> Outcome:
    """Return the attempt that a person has to look at before it goes on."""
    reason = log.cut(why)
    blocked = ev.StepBlocked(subject=step.slug, attempt=_attempt_of(snapshot, step), reason=reason, **told)  # type: ignore[arg-type]
    stopped = ev.Blocked(subject=snapshot.protocol, reason=log.cut(f"{step.slug}: {reason}"))
    return Outcome(lambda now: [blocked, stopped], failed=True, said=reason)


def _attempt_of(snapshot: Snapshot, step: Step) -> int:
    """Return the attempt that is carried out; a step that the snapshot's record does not have yet is at its first."""
    known = snapshot.state.steps.get(step.slug)
    return known.attempt if known else 1


def _worked(
    session: WorkspaceSession,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    work: workspace.Work,
    result: object,
    told: dict[str, object],
    *,
    more: tuple[str, ...] = (),
) -> Outcome:
    """Return the attempt whose work is in the tree; `more`: artifacts beside the step's outputs."""
    forbidden = transaction.paths_outside(work.changed)
    if forbidden:
        reason = f"it changed what only people may change: {', '.join(forbidden[:3])}"
        return _failed(session, snapshot, step, {"reason": log.cut(reason), **told}, work)
    git = session.project.git
    now = (snapshot.tip, work.tree)
    said = permissions.work_of(session.project, snapshot, plan, step, state, now)
    if said and said[0].verdict == "deny":
        denied = f"the policy denies it: {said[0].reason or said[0].rule} ({said[0].rule}, {said[0].where})"
        return _failed(session, snapshot, step, {"reason": log.cut(denied), **told}, work)
    asked = permissions.asked_after(session.project, snapshot, plan, step, state, now)
    done = ev.StepFinished(
        subject=step.slug,
        attempt=_attempt_of(snapshot, step),
        digest=step.digest,
        start=snapshot.tip,
        result=result,
        artifacts=checks.artifacts(
            (*step.header.outputs, *more), git.files(work.tree), lambda path: _digest_at(git, work.tree, path)
        )
        if step.header.outputs or more
        else [],
        **told,  # type: ignore[arg-type]
    )
    return Outcome(
        lambda now: finished(now, step, done, asked),
        tree=work.tree if work.changed else None,
        said=describe_changes(git, snapshot.tip, work.tree),
        changed=tuple(work.changed),
    )


def _failed(
    session: WorkspaceSession, snapshot: Snapshot, step: Step, told: dict[str, object], work: workspace.Work | None
) -> Outcome:
    kept = work.tree if work and work.changed else None
    ref = attempt_ref(snapshot.protocol, step.slug, _attempt_of(snapshot, step)) if kept else None
    return Outcome(lambda state: failed(state, step, told, kept=ref), kept=kept, failed=True, said=str(told["reason"]))


def _digest_at(git: Git, tree: str, path: str) -> str:
    data = git.blob(f"{tree}:{path}")
    return digest(data) if data is not None else digest(b"")


def describe_changes(git: Git, old: str, new: str) -> str:
    """Return `notes.md`, or `2 files, +84 −3`, for what differs outside the record; empty where nothing does."""
    changed = {path: pair for path, pair in git.changed(old, new).items() if not path.startswith(f"{paths.ROOT}/")}
    if not changed:
        return ""
    if len(changed) == 1:
        return next(iter(changed))
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


# --- people ----------------------------------------------------------------------------------------------------------


def ask_person(step: Step, protocol: str) -> Outcome:
    """Ask for the work of a human step."""
    lines = [line.strip() for line in lines_of(step.prose) if line.strip()]
    text = log.cut(f"{step.header.title}: {lines[0]}" if lines else step.header.title)
    asked = ev.Asked(subject=step.slug, kind="human", text=text, by="anyone")
    return Outcome(lambda state: [asked], said=f"asks: {text}")


def take_work(project: Project, snapshot: Snapshot, plan: Plan, step: Step, state: State) -> Outcome:
    """Take what people committed since they were asked as a human step's work."""
    start, answer = snapshot.tip, None
    entries = record.events(project.git, snapshot.protocol, snapshot.tip)
    if not log.is_answered(
        entries, step.slug
    ):  # it was no person's step when it began, and rule 11 of verify asks for that
        why = f"it became a person's step after it had begun: `runner retry {ids.number_of(snapshot.protocol)}` asks for it"
        return _blocked(snapshot, step, why, {})
    for raw in reversed(entries):
        if raw.event == "answered" and raw.subject == step.slug:
            answer = raw.fields.get("text")
            break
    for oid in project.git.first_parents(snapshot.tip):
        commit = project.git.commit(oid)
        trailers = log.parse_message(commit.message) if commit else None
        if commit and trailers and f"asked {step.slug}" in trailers.events:
            start = oid
            break
    git = project.git
    files = git.files(snapshot.tip) if step.header.outputs else {}
    done = ev.StepFinished(
        subject=step.slug,
        attempt=state.steps[step.slug].attempt,
        digest=step.digest,
        start=start,
        executor="person",
        result={"answer": answer} if answer is not None else None,
        artifacts=checks.artifacts(step.header.outputs, files, lambda path: _digest_at(git, snapshot.tip, path)),
    )
    asked = permissions.asked_after(project, snapshot, plan, step, state, (start, snapshot.tip))
    return Outcome(lambda now: finished(now, step, done, asked), said=describe_changes(git, start, snapshot.tip))
