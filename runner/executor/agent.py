"""An agent step: the engine, the tools, the limits and the journal put together around the loop, and what comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from decimal import Decimal

from runner import resources
from runner.engines import prices, registry
from runner.engines.base import Engine, Usage
from runner.engines.recorded import Recorder
from runner.errors import MalformedFileError, RefusedError
from runner.executor import calls, permission, permissions, prompting, spending, toolbox
from runner.executor.calls import Calls
from runner.executor.journal import Journal
from runner.executor.loop import Ended, Limits, Loop
from runner.executor.redact import Redactor
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import agent_file, log, paths
from runner.protocol.agent_file import AgentFile
from runner.protocol.digest import digest
from runner.protocol.events import Event
from runner.protocol.plans import Plan, Step
from runner.protocol.state import State
from runner.store import publishing, record, transaction, workspace
from runner.store.project import Project
from runner.store.snapshot import Snapshot


def coworker_of(project: Project, plan: Plan, step: Step, where: str) -> AgentFile | None:
    """Return the coworker that a step names, or its plan; read from the trusted branch.

    Raises:
        MalformedFileError: there is none, or it is not valid.
    """
    name = step.header.agent or plan.header.agent
    if name is None:
        return None
    path = paths.agent_file(name)
    data = project.trusted.blob(project.git, path)
    if data is None:
        raise MalformedFileError(
            f"there is no coworker `{name}`", where, f"write {path} on {project.trusted.branch}, the trusted branch"
        )
    return agent_file.parse(data, f"{path} on {project.trusted.branch}")


def engine_names(
    project: Project, plan: Plan | None, step: Step | None, coworker: AgentFile | None, phase: str = "execute"
) -> tuple[str, ...]:
    """Return the engines for a phase, the first that answers counts: option, environment, step, plan, coworker, config.

    `plan`, `step`: None where there is none yet, or the phase is not about one.

    Raises:
        UsageError: nobody said which model, and none can be found: what was looked for, and what to set.
    """
    environ = project.who.environ
    headers = [of.header.engine for of in (step, plan) if of is not None]
    for one in (project.options.get("engine"), environ.get("RUNNER_ENGINE"), *headers):
        if one:
            return (one,)
    if coworker and coworker.engine:
        return (coworker.engine,)
    config = project.config.engine
    named: tuple[str, ...] = getattr(config, phase) or config.default
    return named or (registry.default_name(environ),)


@contextlib.contextmanager
def open_engines(project: Project, names: tuple[str, ...], step: str | None = None) -> Iterator[tuple[Engine, ...]]:
    """Open the engines; with the option `record`, what they answer is added to that cassette. Files are seen from the top.

    `step`: whose attempt it is for.

    Raises:
        RefusedError: the policy does not allow one of them.
    """
    top, record = project.git.top or project.git.cwd, project.options.get("record")
    with contextlib.ExitStack() as stack:
        found = []
        for name in names:
            permissions.refuse_engine(project, name, step)
            engine = registry.open_engine(name, project.who.environ, top)
            if record:
                engine = Recorder(engine, top / record, price, Redactor(project.who.environ).value)
            stack.callback(engine.close)
            found.append(engine)
        yield tuple(found)


def questioner(
    project: Project,
    journal: Journal,
    engines: tuple[Engine, ...],
    redactor: Redactor,
    limits: Limits,
    protocol: str = "",
) -> Loop:
    """Return what asks questions that stand for themselves and journals the answers: there are no tools."""
    return Loop(
        journal=journal,
        engines=engines,
        tools={},
        system="",
        task="",
        summarize="",
        limits=limits,
        redactor=redactor,
        tree=lambda: "",
        restore=lambda tree: None,
        price=price,
        now=project.who.timestamp,
        monotonic=project.who.monotonic,
        sleep=project.who.sleep,
        say=project.who.say,
        ensure=lambda: publishing.ensure_lease(project),
        total=spending.of(journal.records),
        purse=spending.purse(project, protocol),
    )


def price(engine: Engine, usage: Usage) -> Decimal | None:
    """Return an upper bound for what a response costs, in US dollars; a recorded one's, at the price of its model."""
    return prices.cost_usd(engine.provider, engine.model, usage)


def gate_of(
    session: WorkspaceSession,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    coworker: AgentFile | None,
    journal: Journal,
    words: Sequence[Event],
) -> Calls:
    """Return what the calls of a step's attempt go through. `words`: what people said that this transition takes up."""
    project = session.project
    known = record.events(project.git, snapshot.protocol, snapshot.tip) if _was_asked(project, snapshot) else []
    return Calls(
        project=project,
        snapshot=snapshot,
        state=state,
        slug=step.slug,
        attempt=state.steps[step.slug].attempt,
        journal=journal,
        judge=permission.judge_of(project, plan, step, coworker, session.space.work),
        redactor=session.redactor,
        words=calls.words_of(project.git, snapshot, known, step.slug, words),
        settled=calls.settled_of(known),
        undecided=calls.undecided_of(known),
        stands=lambda call, by: permissions.call_stands(project, snapshot, plan, state, call, by),
        told=project.who.hear,
    )


def _was_asked(project: Project, snapshot: Snapshot) -> bool:
    """Return whether a call or an effect was ever asked about: else the log, which grows with every step, is not parsed."""
    quiet = project.kept.setdefault("parts of logs that tell of no call", set())
    parts = [oid for oid in snapshot.files.parts if oid not in quiet]
    for oid, part in zip(("", *parts), (snapshot.log, *project.git.blobs(parts)), strict=True):
        if part is None or b" call-" in part or b" effect-" in part:
            return True
        quiet.add(oid)
    return False


def carry_out(
    session: WorkspaceSession,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    words: Sequence[Event],
    *,
    timeout: float,
    where: str,
) -> tuple[Ended, Journal, str]:
    """Run the agent's loop in the workspace; return how it ended, its journal, and the engine's name.

    Raises:
        EngineError: no engine answered; what was heard is in the journal, and no attempt is used up.
    """
    project, attempt = session.project, state.steps[step.slug].attempt
    coworker = coworker_of(project, plan, step, where)
    names = engine_names(project, plan, step, coworker)
    journal = spending.open_journal(project, snapshot.protocol, f"{step.slug}.{attempt}")
    own = (step.header.budget, coworker.budget if coworker else None)
    redactor = Redactor(project.who.environ)
    told = f"You are {coworker.name}. {coworker.objective}\n{coworker.instructions}" if coworker else None
    with (
        open_engines(project, names, step.slug) as engines,
        toolbox.open_agent_tools(session, plan, step, state, coworker, where) as tools,
    ):
        task = prompting.task(project, snapshot, plan, step, state)
        loop = Loop(
            gate=gate_of(session, snapshot, plan, step, state, coworker, journal, words),
            untrusted=prompting.FENCE in task,
            journal=journal,
            engines=engines,
            tools=tools,
            system=prompting.system(told),
            task=task,
            summarize=resources.prompt("summarize").strip(),
            limits=spending.limits(project, snapshot, plan, state, journal, own, timeout),
            redactor=redactor,
            tree=lambda: _note(session, snapshot.tip),
            restore=lambda noted: _go_back(session, snapshot.tip, noted, journal),
            price=price,
            now=project.who.timestamp,
            monotonic=project.who.monotonic,
            sleep=project.who.sleep,
            told=project.who.hear,
            say=project.who.say,
            ensure=lambda: publishing.ensure_lease(project),
            purse=spending.purse(project, snapshot.protocol),
        )
        ended = loop.run(_answers(project, snapshot, step.slug) if journal.records else ())
    return ended, journal, names[0]


def budgets_stand_in(project: Project, plan: Plan, step: Step, where: str) -> str:
    """Return where a person looks for the budget that a step has reached: the files with those that hold for it."""
    coworker = coworker_of(project, plan, step, where)
    files = [step.file] if step.header.budget else []
    files += [paths.PLAN] if plan.header.budget else []
    name = step.header.agent or plan.header.agent
    files += [paths.agent_file(name)] if name and coworker and coworker.budget else []
    return f"see `budget:` in {' and '.join(files or [step.file])}"


def work_so_far(journal: Journal) -> tuple[str, ...]:
    """Return the commit of what the tools had left when they last ended; empty where none was called."""
    return tuple(one["tree"] for one in journal.records if one["kind"] == "results")[-1:]


def _note(session: WorkspaceSession, start: str) -> str:
    """Return a commit of the workspace as it is now, on what the attempt stands on: on no branch, to be gone back to."""
    git, who = session.project.git, session.project.runner()
    return git.write_commit(
        workspace.tree_now(git, session.space, session.bounds()), (start,), who, who, b"work so far\n"
    )


def _go_back(session: WorkspaceSession, start: str, noted: str, journal: Journal) -> None:
    """Make the workspace hold the work so far, merged with what came to the branch since.

    Raises:
        RefusedError: it is not in this clone, or conflicts.
    """
    git = session.project.git
    found = git.commit(noted)
    if found is None:
        raise RefusedError(
            "the work so far of the step is not in this clone",
            noted,
            f"`runner sync {session.protocol}` in the clone where it waits publishes it; where git pruned it, look whether calls that "
            "reach outside "
            f"happened, then `mv {journal.path} {journal.lost()}`: the step begins again, pays again for what it had heard, "
            "and makes those calls again",
        )
    if found.parents == (start,):
        workspace.restore(git, session.space, found.tree)
        return
    tree, conflicts = transaction.merge_work(git, session.protocol, noted, start, session.project.runner())
    if tree is None:
        raise RefusedError(
            f"the work so far of the step conflicts with commits that came since: {', '.join(conflicts[:3])}",
            noted,
            "revert those commits, or take the step away and write it anew: it begins again then",
        )
    workspace.restore(git, session.space, tree)


def _answers(project: Project, snapshot: Snapshot, slug: str) -> list[str]:
    """Return what people answered to the questions of this attempt, in order."""
    found: list[str] = []
    for raw in record.events(project.git, snapshot.protocol, snapshot.tip):
        if raw.subject == slug and raw.event == "answered":
            found.append(str(raw.fields.get("text", "")))
        elif _is_anew(raw, slug):
            found = []
    return found


def _is_anew(raw: log.RawEntry, slug: str) -> bool:
    """Return whether an entry makes the step's next attempt."""
    match raw.event:
        case "step-retried":
            return raw.subject == slug
        case "undone":
            return slug in raw.fields.get("steps", {})
        case "plan-edited":
            return slug in raw.fields.get("removed", [])
    return False


def transcript(journal: Journal) -> tuple[bytes, str]:
    """Return the attempt's transcript and its digest."""
    data = journal.transcript()
    return data, digest(data)
