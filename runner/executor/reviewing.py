"""QA by review: a model that did not write the change judges it against what was asked (design §3).

It is asked once; what it answers is in the journal before it is used, so that a run that was killed asks nothing twice. An answer
that is no verdict is sent back once with what is wrong; then QA is not decided and nothing is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from runner import resources
from runner.engines.base import EngineError, ModelTurn, Request, Turn, UserTurn
from runner.executor import agent, prompting, spending
from runner.executor.journal import Journal
from runner.executor.loop import BudgetStop, Limits, Loop
from runner.executor.redact import Redactor
from runner.protocol import events as ev
from runner.protocol import log, model_answers, paths, schema, transcript
from runner.protocol.digest import digest
from runner.protocol.model_answers import Verdict
from runner.protocol.plans import REVIEW, Plan, Step
from runner.protocol.state import State
from runner.qa import review
from runner.store import history
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.values import dataclass

TIMEOUT = 1200.0  # seconds that a review may take in all
RESULT_LIMIT = 4_000  # characters of the step's result


class UndecidedError(EngineError):
    """The model answered, and what it answered is no verdict."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What came of a review. `verdict` is None where a budget stopped it, and `stopped` says which."""

    verdict: Verdict | None
    stopped: str
    engine: str
    report: bytes
    transcript: bytes
    spent: ev.Spent
    seconds: int

    def evidence(self) -> ev.CheckEvidence:
        """Return the review as one more check of the event's evidence."""
        assert self.verdict is not None
        return {
            "check": REVIEW,
            "code": 0 if self.verdict.passed else 1,
            "seconds": self.seconds,
            "output": digest(self.verdict.model_dump_json(exclude_none=True).encode()),
            "tail": log.cut(review.plain(self.verdict.summary)),
        }


def carry_out(
    project: Project,
    snapshot: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    entries: Sequence[log.RawEntry],
    evidence: Sequence[ev.CheckEvidence],
    journal: Journal,
) -> Reviewed:
    """Have the step's work judged as it stands in the snapshot's commit; `entries`: the whole log.

    Raises:
        EngineError: no engine answered, or what it answered is no verdict; what was heard is in the journal.
    """
    began = project.who.monotonic()
    redactor = Redactor(project.who.environ)
    attempt = state.steps[step.slug].attempt
    seen = review.change(
        project.git, snapshot.protocol, start_of_work(project, snapshot, step.slug, entries), snapshot.tip, step.checks
    )
    task = redactor.text(_task(plan, step, state, evidence, seen))
    where = f"{paths.folder(snapshot.protocol)}/{step.file}"
    names = _judges(project, plan, step, where)
    stopped, found, by = "", None, names[0]
    with agent.open_engines(project, names, step.slug) as engines:
        limits = _limits(project, snapshot, plan, step, state, journal)
        loop = agent.questioner(project, journal, engines, redactor, limits, snapshot.protocol)
        loop.told = project.who.hear
        try:
            found, by = _judged(loop, journal, task, where)
        except BudgetStop as stop:
            stopped = f"QA: {stop}; {agent.budgets_stand_in(project, plan, step, where)}"
    seconds = round(project.who.monotonic() - began)
    spent = spending.since(journal, 0)
    author = next(
        (
            str(raw.fields["engine"])
            for raw in reversed(entries)
            if raw.subject == step.slug and raw.event == "step-finished" and raw.fields.get("engine")
        ),
        "",
    )
    told = (
        redactor.data(
            review.report(
                step.slug, attempt, found, judge=by, author=author, tree=snapshot.tree, evidence=evidence, seen=seen
            )
        )
        if found
        else b""
    )
    return Reviewed(found, stopped, by, told, journal.transcript(), spent, seconds)


def _judged(loop: Loop, journal: Journal, task: str, where: str) -> tuple[Verdict, str]:
    """Return the verdict and the engine that gave it.

    Raises:
        BudgetStop: asking could cost more than is left. EngineError: nobody answered, or not with a verdict.
    """
    system = resources.prompt("review").strip()
    turns: list[Turn] = [UserTurn(text=task)]
    problems: tuple[str, ...] = ()
    for _ in range(2):
        request = Request(system=system, turns=tuple(turns), schema=schema.qa_verdict())
        record = loop.question(request)
        if record["finish"] == "refused":
            journal.append({"kind": "undecided", "time": loop.now(), "problems": ["the model refused to judge"]})
            raise UndecidedError(
                "the model refused to judge",
                where,
                "name another model: `engine: {review: …}` in config.yaml, or --engine",
            )
        found, problems = model_answers.read_verdict(record["text"])
        if found is not None:
            return found, str(record["engine"])
        turns.append(ModelTurn(text=record["text"], calls=(), provider=record["provider"], raw=record["turn"]))
        turns.append(
            UserTurn(text="This is not a verdict:\n" + "\n".join(f"- {line}" for line in problems) + "\nAnswer again.")
        )
    journal.append({"kind": "undecided", "time": loop.now(), "problems": list(problems)})
    raise UndecidedError(
        f"the model's verdict is not valid, also when asked again: {'; '.join(problems)}",
        where,
        "run the same command again to ask anew, or name another model; nothing is recorded",
    )


def _limits(project: Project, snapshot: Snapshot, plan: Plan, step: Step, state: State, journal: Journal) -> Limits:
    """Return what the review may use: what the protocol's budget leaves, and the step's after its attempt's work."""
    name = history.transcript_name(step.slug, state.steps[step.slug].attempt)
    data = history.read(project.git, snapshot.protocol, name) or b""
    work = spending.of(transcript.parse(data, f"{name} of {history.ref_of(snapshot.protocol)}"))
    return spending.limits(project, snapshot, plan, state, journal, (step.header.budget,), TIMEOUT, before=work)


def _judges(project: Project, plan: Plan, step: Step, where: str) -> tuple[str, ...]:
    """Return the engines that judge: option, environment, config's for reviews, else those of the step."""
    said = project.options.get("engine") or project.who.environ.get("RUNNER_ENGINE")
    if said:
        return (said,)
    if project.config.engine.review:
        return tuple(project.config.engine.review)
    return agent.engine_names(project, plan, step, agent.coworker_of(project, plan, step, where), phase="review")


def start_of_work(project: Project, snapshot: Snapshot, slug: str, entries: Sequence[log.RawEntry]) -> str:
    """Return the commit before the step's work, that of earlier attempts included which still stands on the branch."""
    known: list[log.RawEntry] = []
    for raw in entries:
        if raw.event == "undone":
            known = [one for one in known if one.revision <= int(raw.fields["to"])]
        elif raw.subject == slug and (
            raw.event in ("step-finished", "step-completed") or (raw.event == "asked" and raw.fields.get("transcript"))
        ):
            known.append(raw)
    while known and known[-1].event == "step-completed":
        known.pop()
    ended = max((at for at, one in enumerate(known) if one.event == "step-completed"), default=-1)
    if ended + 1 >= len(known):
        return snapshot.tip
    first = known[ended + 1]
    if first.fields.get("executor") == "person":
        return str(first.fields["start"])
    for oid in project.git.first_parents(snapshot.tip):
        commit = project.git.commit(oid)
        told = log.parse_message(commit.message) if commit else None
        if (
            commit
            and told
            and told.protocol == snapshot.protocol
            and told.revision - len(told.events) < first.revision <= told.revision
        ):
            return commit.parents[0]
    return snapshot.tip


def _task(plan: Plan, step: Step, state: State, evidence: Sequence[ev.CheckEvidence], seen: review.Change) -> str:
    """Return what the judge is shown. People's words are what is asked; all that the work made is fenced."""
    parts = [f"# The work: {plan.header.title}", plan.prose.strip()]
    if plan.header.acceptance:
        told = "\n".join(f"{number}. {line}" for number, line in enumerate(plan.header.acceptance, 1))
        parts.append(f"The whole work, of which this is one step, is accepted when:\n{told}")
    if plan.context:
        parts.append(f"# Notes\n\n{plan.context.strip()}")
    mark = {step.slug: " (the one to judge)"}
    others = [
        f"- {one.number:02d}-{one.slug}{mark.get(one.slug, '')}" + f": {one.header.title}" * (one.number <= step.number)
        for one in plan.steps  # no later one's title: an approval of this step leaves their files out
    ]
    parts.append("Its steps:\n" + "\n".join(others))
    parts.append(f"# The step to judge: {step.header.title}\n\n{step.prose.strip()}")
    if step.header.outputs:
        parts.append("It must leave: " + ", ".join(step.header.outputs))
    if evidence:
        parts.append("Checks that passed: " + "; ".join(f"`{check['check']}`" for check in evidence))
    result = state.steps[step.slug].result
    if result is not None:
        shown = json.dumps(result, indent=1, ensure_ascii=False)[:RESULT_LIMIT]
        parts.append(prompting.fence(shown, "what the step says of itself"))
    if seen.touched.lines():
        told = "\n".join(seen.touched.lines())
        parts.append(
            "The change touches files that decide whether a fault is noticed; judge these first:\n"
            + prompting.fence(told, "names of files")
        )
    if not seen.files:
        parts.append("The step changed no file.")
        return "\n\n".join(part for part in parts if part)
    parts.append("# The change\n\n" + prompting.fence("\n".join(seen.files), "names of files"))
    if seen.left_out:
        told = "\n".join(seen.left_out[: review.NAMES_LIMIT])
        parts.append("Not all of it is shown:\n" + prompting.fence(told, "what is not shown"))
    parts.append(prompting.fence(seen.diff, "the change"))
    return "\n\n".join(part for part in parts if part)
