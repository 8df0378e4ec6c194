"""Let a model write a plan: the prompt about the project, the questions that the model may ask, and the parsing of its answer.

The model may look first: it reads the plan's base and runs tests there (`asking`); one that proposes at once pays for none of it.
The errors of an answer are fed back once, and so are checks that were not seen to run. Each answer is journaled under its request, so
that the same command pays for none twice after a kill. Without a terminal the caller gets the questions: they wait in the record,
and `write_plan` resumes the conversation in any clone. The callers turn the files into commits, after a person accepted them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner import resources
from runner.engines import EngineError, KeyMissingError, Request, Turn, UserTurn, registry
from runner.errors import MalformedFileError, RefusedError, UnsupportedError, WaitingError
from runner.executor import asking, prompting, spending
from runner.executor.asking import Consultation
from runner.executor.journal import Journal, open_journal
from runner.executor.loop import BudgetStop, Limits
from runner.executor.transition import Outcome, OutcomeKind
from runner.git import Ident
from runner.lines import lines_of
from runner.protocol import events as ev
from runner.protocol import log, machine, model_answers, paths, plans, strict_yaml
from runner.protocol.ids import digest
from runner.protocol.model_answers import Draft, UnfitError
from runner.protocol.plans import Plan, Step
from runner.protocol.state import State
from runner.protocol.transcript import Answers, Response, Results, Task, Undecided
from runner.store import history, locks, record, snapshot
from runner.store.environment import Redactor
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.tools import ToolError
from runner.trust.transitions import transitions_below

ROUNDS = 3  # how often the model may ask questions
SECONDS = 1800.0
UNBOUNDED = Limits(seconds=SECONDS)  # where no plan says how much it may cost
SPLIT = (
    "Split the step `{0}` into smaller ones, each of which one agent can finish and a check can tell from undone. `steps` holds those"
    " that come in its place, in their order; the last of them keeps the slug `{0}`. They do together what the step asks, no more. If"
    " it is small enough, give it alone. Other steps stay, and are not repeated. `title`, `prose` and `acceptance` are not changed."
)
AGAIN = (
    "Plan the steps anew that are to be planned anew: `steps` holds those that shall stand in their place, after the ones that"
    " stay, which are not repeated and whose slugs are taken. What is right already is given again as it stands."
    " `title`, `prose` and `acceptance` are not changed."
)
UNTRIED = (
    "These checks were not seen to run here: {}. Run them with `run_check`, or name others or none: a step that names none has the"
    " project's own. Then give the whole plan again."
)
REQUEST_LIMIT = 12_000  # characters of what a person asks for
WHY_MOST = 460  # characters of why there is no plan; with the question they fit into the record
_BY_HAND = "write the plan by hand: `runner new --manual TITLE`, or `runner edit` of one that is there"
_QUOTED = re.compile(r"`([^`\n;&|<>$()\\]+)`")  # a simple command
_AUTHOR = re.compile(r"([^<>\n]*) <([^<>\n]*)> .*")


class NoPlanError(EngineError):
    """The model gave no valid plan, even after its errors were fed back."""


@dataclass(frozen=True, slots=True)
class Written:
    """A model's plan that holds. `files`: name in the protocol's folder to bytes; `transcript`: of the conversation, JSON Lines.

    `untried`: its checks that were not seen to run, where some could be.
    """

    draft: Draft
    files: dict[str, bytes]
    engine: str
    transcript: bytes
    spent: ev.Spent
    untried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asking:
    """The model's questions, without a person at a terminal to answer. `spent`: since its last questions."""

    questions: tuple[str, ...]
    transcript: bytes
    spent: ev.Spent

    def events(self) -> list[ev.Asked]:
        """Return the events with which a question each waits in the record."""
        return [
            ev.Asked(
                subject="plan",
                kind="question",
                text=log.cut(question),
                by="anyone",
                transcript=digest(self.transcript),
                spent=self.spent if number == 0 else {},
            )
            for number, question in enumerate(self.questions)
        ]


@dataclass(frozen=True, slots=True)
class Base:
    """What a planner may look at: a commit, and the commands that may run the project's tests there, beside its own `checks:`.

    `phase`: whose engines are asked; `named`: the one of the commands that the request names, which runs before the first request.
    """

    commit: str
    commands: tuple[str, ...] = ()
    phase: str = "plan"
    named: str = ""


class _Open(Exception):
    """Questions without an answer yet."""

    def __init__(self, questions: Sequence[str]) -> None:
        super().__init__(*questions)
        self.questions = tuple(questions)


Answer = Callable[[Sequence[str]], list[str]]  # what people say to questions, in their order; empty: decide yourself
Files = dict[str, bytes]  # plan files, by name
Make = Callable[[Draft], Files]  # what becomes of a draft
Consult = Callable[[Request], tuple[Response, Sequence[Turn]]]  # the answer, and the turns from the request to it
ANSWER = "propose_plan", "Answer with the plan, or with questions instead of one."


# --- the conversation --------------------------------------------------------------------------------------------------


def converse(
    ask: Consult,
    task: str,
    make: Make,
    answer: Answer | None,
    *,
    helped: bool = False,
    known: Mapping[str, bytes] | None = None,
    untried: Callable[[Draft], list[str]] = lambda draft: [],
) -> tuple[Draft, dict[str, bytes]]:
    """Return the model's plan and its files. `answer`: gives people's answers to its questions; None: it may ask none.

    `helped`: without a plan, people get the reason and are asked what should be different. `known`: plan files that exist already.
    `untried`: the checks of a draft that were not seen to run; the model gets them once. If what it answers is no plan, the plan
    that they are of is taken.

    Raises:
        NoPlanError: it gave no valid plan, even after its errors were fed back. EngineError: it refused, or did not answer.
    """
    schema, system = asking.answer_schema("planning"), resources.prompt("plan").strip()
    turns: list[Turn] = [
        UserTurn(text=task if answer else f"{task}\n\nAsk no questions: decide what is open yourself.")
    ]
    rounds, told = 0, False
    valid: tuple[Draft, dict[str, bytes]] | None = None
    helps = answer if helped else None
    while True:
        record, heard = ask(Request(system=system, turns=tuple(turns), schema=schema))
        turns += heard
        if valid is not None and record.finish == "refused":
            return valid
        if record.finish == "refused":
            why = f"the model refused to plan: {record.text[:300] or 'no reason given'}"
            if helps is None:
                hint = f"rephrase the task, or {_BY_HAND}"
                raise NoPlanError(why, f"engine {record.engine}", hint)
            turns.append(_help(helps, why))
            told = False
            continue
        try:
            if record.finish == "length":
                raise UnfitError(["it was cut off, for it is too long; write a shorter plan"])
            draft = model_answers.parse(model_answers.Draft, record.text)
            if draft.questions and answer is not None and rounds < ROUNDS:
                rounds += 1
                said = zip(draft.questions, answer(draft.questions), strict=True)
                turns.append(
                    UserTurn(text="\n\n".join(f"{asked}\n{text or 'Decide this yourself.'}" for asked, text in said))
                )
                continue
            if not draft.steps:
                raise UnfitError(["no more questions are answered: decide what is open yourself, and give the steps"])
            try:
                files = make(draft)
                plans.refuse_unsupported(plans.parse({**(known or {}), **files}, "the plan"), "the plan")
            except (MalformedFileError, UnsupportedError) as error:
                raise UnfitError([f"{error.where}: {error.what}; {error.hint}"]) from error
            if valid is not None or not (unseen := untried(draft)):
                return draft, files
            valid = draft, files
            turns.append(UserTurn(text=UNTRIED.format("; ".join(f"`{line}`" for line in unseen))))
        except UnfitError as error:
            reasons = "\n".join(f"- {one}" for one in error.problems)
            if not told:
                turns.append(
                    UserTurn(text=f"This is no plan yet:\n{reasons}\nGive the whole plan again, with that fixed.")
                )
            elif valid is not None:
                return valid
            elif helps is not None:
                why = f"the model gave no plan that can be carried out: {'; '.join(error.problems)}"
                turns.append(_help(helps, why))
            else:
                raise NoPlanError(
                    f"the model wrote no valid plan, even after it was told the errors:\n{reasons}",
                    f"engine {record.engine}",
                    f"nothing was made; run the same command again, or {_BY_HAND}",
                ) from error
            told = not told


def _help(answer: Answer, why: str) -> UserTurn:
    """Return people's advice to a model that gave no plan; they are given the reason."""
    (said,) = answer([f"{why[:WHY_MOST]}; what should be different?"])
    return UserTurn(text=f"{said or 'Try it again.'}\n\nGive the whole plan.")


@contextlib.contextmanager
def written(
    session: Session,
    task: str,
    make: Make = model_answers.plan_files,
    *,
    questions: bool,
    waits: bool = False,
    of: tuple[Snapshot, Plan, State] | None = None,
    base: Base,
) -> Iterator[Written | Asking]:
    """Let a model write a plan, and yield it; its answers are kept until they are filed.

    If the plan is not taken, the next call asks anew.

    `waits`: its questions can wait where nobody is here, and are given then. `of`: a protocol that there is already; its
    budget holds.

    Raises:
        WaitingError: the model has questions and nobody is here, or the budget is used up. EngineError: there is no plan.
        HeldError: the same is being planned by another process.
    """
    redactor = session.redactor
    task = redactor.text(task)
    names = asking.engine_names(session.project, of[1] if of else None, None, None, base.phase)
    asked = Request(system=" ".join(names), turns=(UserTurn(text=f"{questions}\n{task}"),))
    key = of[0].protocol if of else asked.digest().removeprefix("sha256:")[:32]
    with locks.hold(session.dirs.lock(f"planning-{key}"), session.env, what="this plan"):
        if of is not None:
            name = history.next_plan(session.git, key)
            journal = open_journal(session, key, name)
        else:
            journal = Journal(session.dirs.planning / f"{key}.jsonl")
        with asking.open_engines(session.project, names) as engines:
            limits = (
                spending.limits(session.project, *of, journal, spending.Own(paths.PLAN, (), SECONDS))
                if of
                else UNBOUNDED
            )
            loop = asking.questioner(session, journal, engines, redactor, limits)
            answer = _asker(session.project, journal, redactor, waits) if questions else None
            try:
                made = _planned(session, loop, task, base, key, functools.partial(converse, make=make, answer=answer))
            except BudgetStop as stop:
                raise WaitingError(
                    f"the budget does not allow planning: {stop}", "plan.md, budget", "raise it, and run the same again"
                ) from stop
            except NoPlanError as error:
                journal.undecided(session.env.timestamp(), error.what)
                raise
        yield made
        if of and history.read(session.git, key, history.run_file(journal.path.stem)) is None:
            journal.undecided(session.env.timestamp(), "nobody took it")
        else:
            journal.path.unlink(missing_ok=True)


def _planned(
    session: Session, loop: Consultation, task: str, base: Base, key: str, hold: Callable[..., tuple[Draft, Files]]
) -> Written | Asking:
    """Return the plan that a conversation leads to, or the questions at which it stops. `hold`: `converse`, with what is known."""
    journal, began = loop.journal, session.env.monotonic()
    try:
        with _looking(session, f"planning-{key}", loop, base) as untried:
            task = _with_named(session.project, loop, task, base.named)
            draft, files = hold(loop.consult, task, untried=untried)
    except _Open as left:
        if _task_of(journal, task) is None:
            journal.append(Task(kind="task", time=session.env.timestamp(), text=task))
        cost = spending.since(journal, round(session.env.monotonic() - began))
        return Asking(left.questions, journal.transcript(), cost)
    cost = spending.since(journal, round(session.env.monotonic() - began))
    last = next(one for one in reversed(journal.records) if isinstance(one, Response))
    return Written(draft, files, last.engine, journal.transcript(), cost, tuple(untried(draft)))


@contextlib.contextmanager
def _looking(session: Session, name: str, loop: Consultation, base: Base) -> Iterator[Callable[[Draft], list[str]]]:
    """Let the loop's model look at the base; yield what finds the checks of a draft that it did not see run, where it can run any."""
    commands = tuple(dict.fromkeys((*session.project.config.checks, *base.commands)))
    answers = asking.proposal(*ANSWER, asking.answer_schema("planning"))
    with asking.open_tools(session, name, base.commit, loop, answers, commands) as any_command:
        is_able = any_command and "run_check" in loop.tools
        yield lambda one: _untried({*session.project.config.checks, base.named}, loop.journal, one) if is_able else []


def _with_named(project: Project, loop: Consultation, task: str, line: str) -> str:
    """Return the task with what the command that the request names printed on the base: no request is made to ask for that.

    It runs once: the journal has the task.
    """
    known = _task_of(loop.journal, task)
    if known is not None or not line or "run_check" not in loop.tools:
        return known or task
    try:
        ran = loop.tools["run_check"].call({"command": line})
    except ToolError:  # the model may say another
        return task
    printed = prompting.fence(loop.redactor.text(ran["output"]), "what it printed")
    told = f"{task}\n\n`{line}`, run in a clean checkout as `run_check` does, ended with exit code {ran['exit_code']}:\n{printed}"
    loop.journal.append(Task(kind="task", time=project.env.timestamp(), text=told))
    return told


def _task_of(journal: Journal, task: str) -> str | None:
    """Return the task as the journal has it, since the last plan that was not taken."""
    found = None
    for one in journal.records:
        if isinstance(one, Task) and one.text.startswith(task):
            found = one.text
        elif isinstance(one, Undecided):
            found = None
    return found


def _untried(known: set[str], journal: Journal, draft: Draft) -> list[str]:
    """Return the checks of a draft that are not `known`, and that no call of the journal ran."""
    ran, asked = known, dict[str, str]()
    for one in journal.records:
        if isinstance(one, Response):
            asked |= {call.id: str((call.arguments or {}).get("command", "")).strip() for call in one.calls}
        elif isinstance(one, Results):
            ran |= {asked.get(result.id, "") for result in one.results if asking.has_run(result)}
    return [
        check for check in dict.fromkeys(check for step in draft.steps for check in step.checks) if check not in ran
    ]


def _asker(project: Project, journal: Journal, redactor: Redactor, waits: bool) -> Answer:
    """Return a function that asks the person at the terminal; an earlier answer is not asked for again."""

    def answer(questions: Sequence[str]) -> list[str]:
        for one in journal.records:
            if isinstance(one, Answers) and one.questions == [*questions]:
                return list(one.answers)
        said = []
        for question in questions:
            text = project.env.ask_text(f"{question} (Enter: the model decides)")
            if text is None and waits:
                raise _Open(questions)
            if text is None:
                raise WaitingError(
                    f"the model has questions: {' '.join(questions)}",
                    "the plan",
                    "nothing was created; answer them in the TITLE, run the same command at a terminal, or use --no-questions",
                )
            said.append(
                redactor.text(strict_yaml.decode(text.encode("utf-8", "surrogateescape"), "the answer").strip())
            )
        time = project.env.timestamp()
        journal.append(Answers(kind="answers", time=time, questions=[*questions], answers=said))
        return said

    return answer


def write_plan(session: Session, seen: Snapshot) -> Outcome:
    """Continue the planning of a protocol with the answers to its questions: a plan or more questions are the outcome.

    Raises:
        RefusedError: the planner's task is not in this clone. EngineError: no engine answered; its earlier answers are kept.
        WaitingError: it takes too long.
    """
    told = _resume(session, seen)
    files = {history.transcript_name("plan", 1): told.transcript}
    if isinstance(told, Asking):
        summary = f"asks: {' '.join(told.questions)}"
        return Outcome(kind=OutcomeKind.WAITS, events=tuple(told.events()), summary=summary, files=files)
    words = {**snapshot.plan_files(session.git, seen), **told.files}
    plan = plans.parse(words, seen.where, session.project.config.checks)
    planned = ev.Planned(
        subject="plan",
        plan=plan.digest,
        steps=machine.planned_steps(plan.steps),
        engine=told.engine,
        transcript=digest(told.transcript),
        spent=told.spent,
    )
    return Outcome(
        kind=OutcomeKind.RECORDED,
        events=(planned,),
        summary="\n".join(outline(words, told.untried)),
        files=files,
        folder_files=told.files,
        author=_creator(session.project, seen),
    )


def _creator(project: Project, seen: Snapshot) -> Ident:
    """Return the person who created the protocol: its plan is written for them."""
    git, now = project.git, project.runner()
    for one in transitions_below(git, seen.protocol, seen.tip):
        if one.has("created", seen.protocol):
            found = _AUTHOR.fullmatch(one.commit.author.decode("utf-8", "replace"))
            return now._replace(name=found[1], email=found[2]) if found else now
    return now


def need_model(project: Project, title: str = "TITLE", source: str = "") -> None:
    """Check that a model can be asked for a new plan; no request is made. `title`: the plan's, to be typed without a model;
    `source`: of the text that the model would plan from.

    Raises:
        KeyMissingError: none can. UsageError: the name of the one that is configured is unknown.
    """
    try:
        for name in asking.engine_names(project, None, None, None, "plan"):
            registry.open_engine(name, project.env.environ, project.git.top or project.git.cwd).close()
    except KeyMissingError as error:
        by_hand = f"`runner new --manual {shlex.quote(title)}` makes a plan for you to write"
        by_hand += f"; copy into it what you want of {source}" if source else ""
        raise KeyMissingError(error.what, error.where, f"{error.hint}; without a model, {by_hand}") from error


def _resume(session: Session, seen: Snapshot) -> Written | Asking:
    """Continue the conversation from its journal."""
    redactor = session.redactor
    journal = open_journal(session, seen.protocol, "plan.1")
    task = next((one.text for one in reversed(journal.records) if isinstance(one, Task)), None)
    if task is None:
        raise RefusedError(
            "the planner's task is not in this clone",
            f"{history.run_file('plan.1')} of {history.ref_of(seen.protocol)}",
            f"run `runner sync {seen.protocol}` in the clone that asked the model, then here",
        )
    names = asking.engine_names(session.project, None, None, None, "plan")
    known = {name: data for name, data in snapshot.plan_files(session.git, seen).items() if name == paths.CONTEXT}
    with asking.open_engines(session.project, names) as engines:
        loop = asking.questioner(session, journal, engines, redactor, UNBOUNDED, seen.protocol)
        answers = _answers(session.project, seen, redactor)
        hold = functools.partial(converse, make=model_answers.plan_files, answer=answers, helped=True, known=known)
        try:
            return _planned(session, loop, task, Base(seen.tip), seen.protocol, hold)
        except BudgetStop as stop:
            raise WaitingError(f"the planning stopped: {stop}", seen.where, "run the same command again") from stop


def _answers(project: Project, seen: Snapshot, redactor: Redactor) -> Answer:
    """Return a function that finds the answers in the record, each for the first question with its text."""
    entries = record.events(project.git, seen.protocol, seen.tip)
    said = {raw.fields["wait"]: str(raw.fields["text"]) for raw in entries if raw.event == "answered"}
    left = [
        (str(raw.fields["text"]), said[f"w{raw.revision}"])
        for raw in entries
        if raw.event == "asked" and raw.subject == "plan" and f"w{raw.revision}" in said
    ]

    def answer(questions: Sequence[str]) -> list[str]:
        found, still = [], []
        for question in questions:
            pair = next((one for one in left if one[0] == log.cut(question)), None)
            if pair is None:
                still.append(question)
            else:
                left.remove(pair)
                found.append(redactor.text(pair[1]))
        if still:
            raise _Open(still)
        return found

    return answer


def named_command(request: str, commands: Sequence[str]) -> str:
    """Return the first of the commands that a person's request has in backquotes, with the further arguments that it has there."""
    for line in _QUOTED.findall(request):
        words = line.replace("python3 ", "python ").split()
        if any(words[: len(one.split())] == one.replace("python3 ", "python ").split() for one in commands):
            return str(line).strip()
    return ""


# --- what it is told ---------------------------------------------------------------------------------------------------


def task_of_new(project: Project, request: str, start: str, *, text: str = "", where: str = "") -> str:
    """Return the prompt of a model that plans new work; `start`: the plan's first commit; `text`: untrusted, of `where`."""
    about = prompting.fence(prompting.cut(text, REQUEST_LIMIT), where)
    wanted = f"Plan the work that this text describes:\n\n{about}" if text else prompting.cut(request, REQUEST_LIMIT)
    if text and request != lines_of(text)[0].lstrip("#").strip():
        wanted = f"{prompting.cut(request, REQUEST_LIMIT)}\n\nIt is described in this text:\n\n{about}"
    parts = [
        f"# What is wanted\n\n{wanted}",
        *prompting.instructions_for_planner(project, request),
    ]
    return "\n\n".join([*parts, *prompting.context(project, request, start)])


def task_again(
    project: Project,
    wish: str,
    plan: Plan,
    files: Mapping[str, bytes],
    state: State,
    tip: str,
    split: Step | None = None,
) -> str:
    """Return the prompt of a model that plans the pending steps of a protocol anew, or that splits one of them."""
    parts = [f"# The work: {plan.header.title}", plan.prose.strip()]
    if plan.header.acceptance:
        parts.append("It is accepted when:\n" + "\n".join(f"- {line}" for line in plan.header.acceptance))
    if plan.context:
        parts.append(f"# Notes\n\n{plan.context.strip()}")
    again = [split.slug] if split else pending(plan, state)
    for step in plan.steps:
        known = state.steps.get(step.slug)
        mark = "to be split" if split else "to be planned anew"
        standing = mark if step.slug in again else f"stays: {known.status if known else 'pending'}"
        parts.append(
            f"# Step {step.number:02d}-{step.slug} ({standing})\n\n{files[step.file].decode('utf-8', 'replace').strip()}"
        )
        if known is not None and (known.result is not None or known.reason):
            told = known.reason or json.dumps(known.result, ensure_ascii=False)
            parts.append(prompting.fence(told[: prompting.RESULT_LIMIT], f"what came of {step.slug}"))
    parts.append(SPLIT.format(split.slug) if split else AGAIN)
    if wish:
        parts.append(f"# What should be different\n\n{prompting.cut(wish, REQUEST_LIMIT)}")
    about = f"{plan.header.title} {wish}"
    parts += prompting.instructions_for_planner(project, about)
    return "\n\n".join([*filter(None, parts), *prompting.context(project, about, tip)])


def pending(plan: Plan, state: State) -> list[str]:
    """Return the steps without any attempt; they may be planned anew."""
    return [
        step.slug
        for step in plan.steps
        if (known := state.steps.get(step.slug)) is None or (known.status == "pending" and known.attempt == 1)
    ]


def outline(files: Mapping[str, bytes], untried: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines that a person wants to read before they run another's plan: the steps, and their commands.

    `untried`: checks that were not seen to run.
    """
    for step in plans.parse(files, "the plan").steps:
        yield f"{step.number:02d}-{step.slug}  {step.header.kind}  {step.header.title}"
        lines = [step.header.run] if isinstance(step.header.run, str) else [" ".join(step.header.run or ())]
        for line in filter(None, [*lines, *step.checks]):
            more = " …" if len(lines_of(line.strip())) > 1 else ""
            yield f"    $ {lines_of(line.strip())[0]}{more}{'  (not tried)' if line in untried else ''}"


def split(draft: Draft, step: Step, plan: Plan, before: Files) -> Files:
    """Return the files of a plan in which a draft's steps come in the place of a step; later ones get later numbers.

    `before`: the plan files.
    """
    made, by = model_answers.split_files(draft.steps, step, before[step.file]), len(draft.steps) - 1
    names = {one.file: f"{one.number + by:02d}-{one.slug}.md" for one in plan.steps if one.number > step.number}
    return {names.get(name, name): data for name, data in before.items() if name != step.file} | made
