"""A tool step: one call of a tool that its file names, with the arguments that it gives."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from runner.errors import WaitingError
from runner.executor import toolbox
from runner.executor.calls import CallHeldError, Calls, DeniedError
from runner.executor.effects import EffectError
from runner.executor.journal import open_journal
from runner.executor.step_run import StepRun
from runner.executor.steps import work
from runner.executor.transition import Outcome
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import events as ev
from runner.protocol import log, paths, references
from runner.protocol.ids import digest
from runner.store import history
from runner.store.workspace import Work
from runner.tools import AsksError, Tool, ToolError, registry, typed
from runner.trust import requirements, trusted_config


def carry_out(run: StepRun) -> Outcome:
    """Call the tool: its result, a wait or a failure is the outcome."""
    is_builtin = run.step.header.tool in registry.BUILTIN  # a function of the runner's own, which needs no workspace
    if is_builtin:
        run.workspace = _session(run)
    else:
        work.start(run)
    started, given, where = run.project.env.monotonic(), run.step.header.with_, run.where
    names = references.names_in(given, where)
    try:
        arguments = references.resolve(given, run.plan.header.inputs, run.results if names else {}, where)
    except WaitingError as error:  # nobody knows the result of an earlier call: a person decides how to continue
        return work.blocked(run, f"{error.what}; {error.hint}", work.Ran())
    assert isinstance(arguments, dict)
    # The author of the step's file vouches for the text in it, nobody for the result of an earlier step.
    untrusted = any(references.split(name, where)[0] == "steps" for name in names)
    problem, result = None, None
    stop: DeniedError | CallHeldError | EffectError | None = None
    run.journal = open_journal(run.session, run.snapshot.protocol, run.name)
    calls = Calls.of(run)
    with _opened(run) as tool:
        try:
            made = calls.make(1, tool, typed(tool.contract, arguments), untrusted)
            result = run.redactor.value(made.content) if made.known else None
            problem = str(result) if made.is_error else None
        except (DeniedError, CallHeldError, EffectError) as error:
            stop = error
        except AsksError as asks:
            problem = f"it asks a person, which only an agent's call can wait for: {run.redactor.text(asks.message)}"
        except ToolError as error:
            problem = run.redactor.text(str(error))
    seconds = round(run.project.env.monotonic() - started)
    ran = work.Ran(executor=run.workspace.sandbox.name, spent=ev.Spent(seconds=seconds) if seconds else ev.Spent())
    files = work.tools_output(run)
    if run.journal.records:
        transcript = run.journal.transcript()
        files[history.transcript_name(run.slug, run.attempt)] = transcript
        ran = ran._replace(transcript=digest(transcript))
    if problem is not None:
        problem = f"{run.step.header.tool}: {problem}"
    if isinstance(stop, DeniedError):
        outcome = work.blocked(run, f"{run.step.header.tool}: {stop.message}", ran)
    else:
        left = work.Collected(work=work.unchanged(run)) if is_builtin else work.collect(run)
        if left.refused:
            outcome = work.failed(run, left.refused, ran)
        elif stop is not None:
            outcome = waits(run, stop, work.unchanged(run), ran)
        elif problem is not None:
            outcome = work.failed(run, problem, ran, left.work)
        elif left.work is None:
            outcome = work.blocked(run, left.too_much, ran)
        else:
            outcome = work.finished(run, left.work, ran, result)
    return outcome._replace(files=files)


def _session(run: StepRun) -> WorkspaceSession:
    """Return the workspace of a built-in tool: the same for all steps of a batch."""
    batch = run.session.pending
    found: WorkspaceSession | None = batch.workspace if batch is not None else None
    if found is None:
        found = WorkspaceSession.open(run.session, run.snapshot.protocol, runs_commands=bool(run.project.config.tools))
        if batch is not None:
            batch.workspace = found
    return found


def _opened(run: StepRun) -> AbstractContextManager[Tool]:
    """Give the tool that the step names; a project's modules are looked through for another one of a built-in one's name."""
    own = registry.BUILTIN.get(run.step.header.tool or "")
    if own is not None and not run.project.config.tools:
        return nullcontext(own)
    return toolbox.open_tool(run)


def waits(run: StepRun, stop: CallHeldError | EffectError, left: Work, ran: work.Ran) -> Outcome:
    """Return the outcome of an attempt with a held call, or with a call that may have happened. `left`: its work so far."""
    if isinstance(stop, EffectError):
        unknown = ev.EffectUnknown(
            subject=run.slug,
            call=stop.intent.call,
            tool=stop.intent.tool,
            digest=stop.intent.digest,
            text=log.cut(stop.text),
            transcript=ran.transcript,
            spent=ran.spent,
        )
        return work.waits(run, unknown, stop.text, left)
    held, found = stop.call, trusted_config.of(run.project)
    event = ev.CallHeld(
        subject=run.slug,
        call=held.name,
        digest=digest(stop.data),
        text=log.cut(held.text()),
        by=log.cut(requirements.of_call(found, held.name, held.attempt, held.text()).who),
        transcript=ran.transcript,
        spent=ran.spent,
    )
    return work.waits(run, event, f"holds: {held.text()}", left, {paths.call_file(held.name): stop.data})
