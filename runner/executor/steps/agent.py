"""An agent step: a model works in the workspace with the step's tools, within its limits (design §5)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner import resources
from runner.engines import Engine, EngineError, agents
from runner.errors import RefusedError, StepFailedError
from runner.executor import asking, coding_agents, feedback, permissions, prompting, spending, toolbox
from runner.executor.calls import Calls, Gate
from runner.executor.journal import Journal, open_journal
from runner.executor.loop import Ended, Limits, Loop
from runner.executor.step_run import StepRun
from runner.executor.steps import check, review, tool, work
from runner.executor.transition import Outcome, OutcomeKind
from runner.protocol import events as ev
from runner.protocol import log, paths
from runner.protocol.ids import digest
from runner.protocol.plans import QaPolicy
from runner.protocol.transcript import Results
from runner.store import history, publishing, record, transaction
from runner.store import workspace as workspaces
from runner.tools import Tool
from runner.tools.commands import WorkspaceAlias
from runner.trust.permit import ActionResult, Denied

if TYPE_CHECKING:
    from runner.engines.endpoints import Egress

    Opened = tuple[tuple[Engine, ...], Mapping[str, Tool], Gate, Egress | None]


def carry_out(run: StepRun) -> Outcome:
    """Let the model do the step: its work, a wait, a budget that is used up or a failure is the outcome."""
    work.start(run)
    env = run.project.env
    started = env.monotonic()
    ended, engine = _loop(run)
    transcript, reviews = run.journal.transcript(), _reviews(run)
    ran = work.Ran(
        executor=run.workspace.sandbox.name,
        environment=run.workspace.environment_name,
        engine=engine,
        transcript=digest(transcript),
        spent=spending.since(run.journal, round(env.monotonic() - started), reviews),
    )
    text, result = run.redactor.text(ended.text), run.redactor.value(ended.result)
    files = {history.transcript_name(run.slug, run.attempt): transcript, **work.tools_output(run)}
    if reviews.records:
        files[history.review_name(run.slug, run.attempt)] = reviews.transcript()
    outcome = _outcome(run, dataclasses.replace(ended, text=text, result=result), ran)
    return outcome._replace(files=files)


def _outcome(run: StepRun, ended: Ended, ran: work.Ran) -> Outcome:
    so_far = tuple(one.tree for one in run.journal.records if isinstance(one, Results))[-1:]
    if ended.outcome == "budget":
        text = log.cut(ended.text)
        reached = ev.BudgetReached(subject=run.slug, text=text, by="anyone", spent=ran.spent)
        return Outcome(kind=OutcomeKind.OVER_BUDGET, events=(reached,), step=run.step, summary=text, keeps=so_far)
    left = work.collect(run)
    if left.refused:
        return work.failed(run, left.refused, ran)
    if ended.outcome == "failed":
        cannot = ended.result is not None and ended.result.get("status") == "cannot"
        outcome = work.failed(run, ended.text, ran, left.work)
        own = left.work is not None and not any(map(paths.is_for_people, left.work.changed))
        return outcome._replace(final=cannot, continues=own, keeps=so_far)
    is_waiting = ended.outcome in ("asked", "held", "unknown")
    done = left.work or (work.unchanged(run) if is_waiting else None)  # too much now may be less by the end
    if done is None:
        return work.blocked(run, left.too_much, ran)
    if is_waiting and not any(map(paths.is_for_people, done.changed)):
        if ended.stop is not None:
            outcome = tool.waits(run, ended.stop, done, ran)
        else:
            asked = ev.Asked(
                subject=run.slug,
                kind="question",
                text=log.cut(ended.text),
                by="anyone",
                transcript=ran.transcript,
                spent=ran.spent,
            )
            outcome = work.waits(run, asked, f"asks: {ended.text}", done)
        return outcome._replace(keeps=so_far)
    return work.finished(run, done, ran, ended.result, artifacts=ended.artifacts)


def _loop(run: StepRun) -> tuple[Ended, str]:
    """Run the agent's loop in the workspace; return how it ended, and the engine's name.

    Raises:
        EngineError: no engine answered; its answers are in the journal, and no attempt is used up.
    """
    session, agent = run.session, run.agent
    names = asking.engine_names(session.project, run.plan, run.step, agent)
    run.journal = open_journal(session, run.snapshot.protocol, run.name)
    own = ((run.step.file, run.step.header.budget), (run.agent_file, agent.budget if agent else None))
    answered: dict[str, str] = {}
    about = f"You are {agent.name}. {agent.objective}\n{agent.instructions}" if agent else None
    with _opened(run, names, answered) as (engines, tools, gate, meter):
        is_agent = agents.is_agent(names[0])
        is_first = run.attempt == 1 and not any(result is not None for result in run.results.values())
        entries = () if is_first else record.events(session.git, run.snapshot.protocol, run.snapshot.tip)
        before = review.start_of_work(run, entries) if run.attempt > 1 else run.snapshot.tip
        work = run.workspace.space.work
        alias = WorkspaceAlias(work, run.workspace.sandbox.place.inside(work))
        guides = prompting.Instructions(session.project, (*alias.real, alias.name))
        words = f"{run.plan.header.title}\n{run.step.header.title}\n{run.step.prose}"
        told = [
            *guides.of([*prompting.named_in(words), *run.step.header.outputs]),
            *prompting.memory(session.project, words),
            *([] if is_agent else feedback.of_start(run, tools)),
        ]
        task = prompting.task(run, [*told, *feedback.of_earlier(run, entries, before)])

        def limits() -> Limits:  # a review within the attempt is paid from the same budgets
            used = spending.of(_reviews(run).records)
            paid = spending.Own(run.step.file, own, run.timeout, f"see `timeout:` in {run.step.file}", used)
            return spending.limits(session.project, run.snapshot, run.plan, run.state, run.journal, paid)

        def asks() -> None:
            session.env.hear_output(f"{run.label} asks the model", b"")

        def check_work(result: dict[str, Any]) -> str:
            found = _found_wrong(run, run.redactor.value(result))
            loop.limits = limits()
            asks()
            return found

        loop = Loop(
            gate=gate,
            answered=answered,
            untrusted=prompting.FENCE in task,
            journal=run.journal,
            engines=engines,
            tools=tools,
            offered=frozenset() if is_agent else toolbox.offered(run, tools),
            system=prompting.system(about, "coding-agent" if is_agent else "execute"),
            context=None if is_agent else functools.cache(lambda: asking.context_of(session, engines)),
            task=task,
            summarize=resources.prompt("summarize").strip(),
            limits=limits(),
            redactor=run.redactor,
            tree=lambda: _note(run),
            restore=lambda noted: _restore(run, noted),
            price=meter.price if meter else asking.price,
            most_output=asking.most_output,
            settings=asking.settings_of(session),
            env=session.env,
            told=session.env.hear,
            ensure=lambda: publishing.ensure_lease(session),
            check=check_work,
            rounds=run.rounds,
            guide=lambda places: "\n\n".join(guides.of(places)),
            shared_budget=spending.shared_budget(session, run.snapshot.protocol),
        )
        if meter is not None:
            meter.stop = lambda: coding_agents.used_up(loop.limits, loop.total, meter)
        asks()
        ended = loop.run(_answers(run) if run.journal.records else ())
    return ended, names[0]


@contextlib.contextmanager
def _opened(run: StepRun, names: tuple[str, ...], answered: dict[str, str]) -> Iterator[Opened]:
    """Give the engines of a step's work, their tools, the gate of these, and what counts a coding agent's requests."""
    if agents.is_agent(names[0]):
        with coding_agents.open_agent(run, names[0], answered) as (engine, tools, gate, meter):
            yield (engine,), tools, gate, meter
        return
    with asking.open_engines(run.project, names, run.slug) as engines, toolbox.open_agent_tools(run, answered) as tools:
        yield engines, tools, Calls.of(run), None


def _found_wrong(run: StepRun, result: dict[str, Any]) -> str:
    """Return what the step's checks and its review find wrong in the work as it is now; empty where nothing is, or they cannot tell.

    What they find is for the model alone: QA records it, of the commit that has the work.
    """
    try:
        commit = _note(run)
    except RefusedError:  # what cannot be collected fails the attempt
        return ""
    if not _is_checkable(run, commit):
        return ""
    try:
        checked = check.propose(run, commit)
    except StepFailedError:  # what the setup or a submodule lacks is QA's to say, once the work is on the branch
        return ""
    if checked is None:
        return ""
    if not checked.verdict.passed:
        return feedback.of_checks(run, checked.verdict.evidence, checked.verdict.reason, checked.outputs)
    if run.step.qa is not QaPolicy.FULL:
        return ""
    proposed = dataclasses.replace(run, kept=commit, proposed=result)
    proposed.journal = run.journal
    try:
        verdict = review.of_step(proposed, checked.verdict.evidence).verdict
    except review.UndecidedError as error:
        check.note_undecided(proposed, error)
        return ""
    except EngineError:  # QA asks again, once the work is on the branch
        return ""
    return "" if verdict is None or verdict.passed else feedback.of_review(verdict)


def _is_checkable(run: StepRun, commit: str) -> bool:
    """Return whether the checks of the work can run now: nothing runs on work that fails the attempt in any case, or that a person
    has to approve before its QA, which then has another environment."""
    git, tip = run.project.git, run.snapshot.tip
    found = git.commit(commit)
    if found is None:
        return False
    changed = git.changed(tip, commit)
    if any(map(paths.is_for_people, changed)) or permissions.changes_setup(run, changed):
        return False
    return not isinstance(permissions.judge_result(run, ActionResult((tip, found.tree))), Denied)


def _reviews(run: StepRun) -> Journal:
    return open_journal(run.session, run.snapshot.protocol, f"{run.name}.qa")


def _note(run: StepRun) -> str:
    """Return a commit of the workspace on the commit where the attempt started: on no branch, for `_restore`."""
    git, who, workspace = run.project.git, run.project.runner(), run.workspace
    tree = workspaces.tree_now(workspace.space, workspace.bounds())
    return git.write_commit(tree, (run.snapshot.tip,), who, who, b"work so far\n")


def _restore(run: StepRun, noted: str) -> None:
    """Make the workspace hold the work so far, merged with newer commits of the branch.

    Raises:
        RefusedError: it is not in this clone, or conflicts.
    """
    git, protocol, start = run.project.git, run.snapshot.protocol, run.snapshot.tip
    found = git.commit(noted)
    if found is None:
        raise RefusedError(
            "the work so far of the step is not in this clone",
            noted,
            f"`runner sync {protocol}` in the clone where it waits publishes it; if git pruned it, check whether external calls "
            f"took effect, then `mv {run.journal.path} {run.journal.lost()}` restarts the step: it repeats its model requests and "
            "those calls",
        )
    if found.parents == (start,):
        workspaces.restore(run.workspace.space, found.tree)
        return
    tree, conflicts = transaction.merge_work(git, protocol, noted, start, run.project.runner())
    if tree is None:
        raise RefusedError(
            f"the work so far of the step conflicts with newer commits: {', '.join(conflicts[:3])}",
            noted,
            "revert those commits, or remove the step and write it again: it restarts then",
        )
    workspaces.restore(run.workspace.space, tree)


def _answers(run: StepRun) -> list[str]:
    """Return people's answers to the questions of this attempt, in order."""
    found: list[str] = []
    for raw in record.events(run.project.git, run.snapshot.protocol, run.snapshot.tip):
        if raw.subject == run.slug and raw.event == "answered":
            found.append(str(raw.fields.get("text", "")))
        elif log.starts_anew(raw, run.slug):
            found = []
    return found
