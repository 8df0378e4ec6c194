"""QA by review: a model that did not write the change judges it against the task (design §3).

It sees the change with whole functions, the ends of the checks' output and the findings of the review before, each of which it has to
call closed or open, and it can read the commit (`asking`). Its answers are in the journal before they are used, so that a killed run
asks nothing twice. An answer that is no verdict is sent back once with its errors; after a second one, QA is undecided and nothing
is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runner import qa, resources
from runner.engines import EngineError, Request, Turn, UserTurn, masked
from runner.errors import ExitCode
from runner.executor import asking, feedback, prompting, spending
from runner.executor.asking import Consultation
from runner.executor.journal import Journal, open_journal
from runner.executor.loop import BudgetStop, Limits
from runner.executor.step_run import StepRun
from runner.protocol import events as ev
from runner.protocol import log, model_answers, transcript
from runner.protocol.config import Reviewer
from runner.protocol.ids import digest
from runner.protocol.model_answers import Finding, Verdict
from runner.store import history, record
from runner.tools import Contract
from runner.tools.commands import folded
from runner.tools.registry import without_nulls
from runner.trust.transitions import transitions_below

ANSWER: Final = "give_verdict"
# What `review: {aspects: […]}` of config.yaml may name; any other text stands for itself.
ASPECTS: Final = {
    "correctness": "wrong results, forgotten cases, errors that are swallowed, damage to what worked before",
    "security": "input that is trusted without a check, injection, paths that lead out, secrets, weaker permissions or crypto",
    "tests": "tests that were weakened, skipped or deleted, and changes that no test would notice",
}
TIMEOUT = 1200.0  # seconds that a review may take in all


class UndecidedError(EngineError):
    """The model answered, and what it answered is no verdict: a person names another model, or asks again, which is paid again."""

    exit_code = ExitCode.WAITS


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The result of a review. `verdict`: None where a budget stopped it; `stopped`: which one."""

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
            "check": log.REVIEW,
            "code": 0 if self.verdict.passed else 1,
            "seconds": self.seconds,
            "output": digest(_compact(self.verdict)),
            "tail": log.cut(qa.plain(self.verdict.summary)),
        }


def _compact(verdict: Verdict) -> bytes:
    """Return the verdict as JSON, without what it leaves out."""
    return json.dumps(without_nulls(verdict.model_dump()), separators=(",", ":"), ensure_ascii=False).encode()


def of_step(run: StepRun, evidence: Sequence[ev.CheckEvidence], journal: Journal | None = None) -> Reviewed:
    """Have a model judge the step's work. `evidence`: of the checks; `journal`: the attempt's own by default.

    Raises:
        EngineError: no engine answered, or its answer is no verdict; the answers are in the journal.
    """
    session, view, step = run.session, run.snapshot, run.step
    entries = record.events(session.git, view.protocol, view.tip)
    if journal is None:
        journal = _journal(run, entries)
    started = session.env.monotonic()
    seen = qa.change(session.git, view.protocol, start_of_work(run, entries), run.judged, step.checks)
    reviewers = session.project.config.review.reviewers or (Reviewer(aspects=session.project.config.review.aspects),)
    reviews, own = _earlier(run, len(reviewers)), _rounds(_verdicts(journal.records), len(reviewers))
    stopped, found = "", None
    said, judges = dict[str, Verdict](), dict[str, str]()  # by reviewer
    before: dict[str, Finding] = {}
    for at, reviewer in enumerate(reviewers):
        with asking.open_engines(session.project, _judges(run, reviewer), run.slug) as engines:
            loop = asking.questioner(session, journal, engines, run.redactor, _limits(run, journal), view.protocol)
            loop.told = session.env.hear
            # A review that was made is found by what it was asked, which had the ones before it.
            for rounds in range(len(own) + 1) if at == 0 else ():
                before = _open_findings([*reviews, *own[:rounds]])
                if loop.known(_request(UserTurn(text=run.redactor.text(_task(run, reviewer, evidence, seen, before))))):
                    break
            task = run.redactor.text(_task(run, reviewer, evidence, seen, before))
            try:
                with asking.open_tools(session, view.protocol, run.judged, loop, _proposal(before)):
                    verdict, engine = _judged(loop, task, run.where, before)
            except BudgetStop as stop:
                stopped = f"QA: {stop}"
                break
            name = (
                engine if len(reviewers) == 1 else f"{at + 1}: {engine} ({', '.join(reviewer.aspects) or 'everything'})"
            )
            said[name], judges[name] = verdict, engine
    else:
        found = model_answers.merged(said)
    seconds = round(session.env.monotonic() - started)
    report = b""
    if found:
        ended = (raw for raw in reversed(entries) if raw.subject == run.slug and raw.event == "step-finished")
        author = next((str(raw.fields["engine"]) for raw in ended if raw.fields.get("engine")), "")
        commit = session.git.commit(run.judged)
        tree = commit.tree if commit else ""
        made = qa.Report(
            run.slug, run.attempt, found, judges=judges, author=author, tree=tree, evidence=evidence, seen=seen
        )
        report = run.redactor.data(made.render())
    by = next(iter(judges.values()), _judges(run, reviewers[0])[0])
    return Reviewed(found, stopped, by, report, journal.transcript(), spending.since(journal, 0), seconds)


def _journal(run: StepRun, entries: Sequence[log.RawEntry]) -> Journal:
    """Return the journal of the attempt's reviews. QA takes one over that this clone was given: one that another clone filed with the
    step's work is paid for, and does not judge it here. The answers of another clone's QA are resumed from."""
    ends = ("step-finished", "budget-reached")
    last = next((raw.event for raw in reversed(entries) if raw.subject == run.slug and raw.event in ends), "")
    then: list[transcript.Record] = []
    if run.proposed is None and last == "step-finished":
        why = ["the reviews before were made in another clone, during the attempt"]
        then = [transcript.Undecided(kind="undecided", time=run.project.env.timestamp(), problems=why)]
    return open_journal(run.session, run.snapshot.protocol, f"{run.name}.qa", then)


def _request(*turns: Turn) -> Request:
    return Request(system=resources.prompt("review").strip(), turns=turns, schema=asking.answer_schema("qa-verdict"))


def _proposal(before: Collection[str]) -> Contract:
    """Return the tool that a reviewer answers with; without findings of earlier reviews it cannot answer any."""
    takes = asking.answer_schema("qa-verdict")
    if not before:
        del takes["properties"]["earlier"]
    return asking.proposal(ANSWER, "Answer with the verdict.", takes)


def _judged(loop: Consultation, task: str, where: str, before: Collection[str]) -> tuple[Verdict, str]:
    """Return the verdict and the engine that gave it. `before`: the ids of the findings that it has to answer.

    Raises:
        BudgetStop: asking could cost more than is left. EngineError: nobody answered, or not with a verdict.
    """
    turns: list[Turn] = [UserTurn(text=task)]
    problems: tuple[str, ...] = ()
    for _ in range(2):
        record, heard = loop.consult(_request(*turns))
        if record.finish == "refused":
            loop.undecided("the model refused to judge")
            raise UndecidedError(
                "the model refused to judge",
                where,
                "name another model: `engine: {review: …}` in config.yaml, or --engine",
            )
        found, problems = model_answers.read_verdict(record.text, before)
        if found is not None:
            return found, record.engine
        turns += heard
        turns.append(
            UserTurn(text="This is not a verdict:\n" + "\n".join(f"- {line}" for line in problems) + "\nAnswer again.")
        )
    loop.undecided(*problems)
    raise UndecidedError(
        f"the model's verdict is not valid, also when asked again: {'; '.join(problems)}",
        where,
        "run the same command again, or name another model; nothing is recorded",
    )


def _limits(run: StepRun, journal: Journal) -> Limits:
    """Return the limits of the review: the rest of the protocol's budget, and of the step's after the work of its attempt."""
    name, protocol = history.transcript_name(run.slug, run.attempt), run.snapshot.protocol
    if run.proposed is not None:
        work = spending.of(run.journal.records)
    else:
        data = history.read(run.project.git, protocol, name) or b""
        work = spending.of(transcript.parse(data, f"{name} of {history.ref_of(protocol)}"))
    own = spending.Own(run.step.file, ((run.step.file, run.step.header.budget),), TIMEOUT, used=work)
    return spending.limits(run.project, run.snapshot, run.plan, run.state, journal, own)


def _judges(run: StepRun, reviewer: Reviewer) -> tuple[str, ...]:
    """Return the engines that judge: from option, environment, the reviewer or config's `review`, else those of the step."""
    project = run.project
    said = project.options.get("engine") or project.env.environ.get("RUNNER_ENGINE")
    if said:
        return (said,)
    if reviewer.engine or project.config.engine.review:
        return reviewer.engine or project.config.engine.review
    return asking.engine_names(project, run.plan, run.step, run.agent, phase="review")


def start_of_work(run: StepRun, entries: Sequence[log.RawEntry]) -> str:
    """Return the commit before the step's work, and before the work of its earlier attempts that is still on the branch."""
    git, view, slug = run.project.git, run.snapshot, run.slug
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
        return view.tip
    first = known[ended + 1]
    if first.fields.get("executor") == "person":
        return str(first.fields["start"])
    below = transitions_below(git, view.protocol, view.tip)
    return next((one.commit.parents[0] for one in below if first.revision in one.revisions), view.tip)


def _earlier(run: StepRun, count: int) -> list[Sequence[Verdict]]:
    """Return the verdicts on the step's earlier attempts, as the history has them, in rounds of `count` reviewers."""
    git, protocol = run.project.git, run.snapshot.protocol
    found: list[Sequence[Verdict]] = []
    for attempt in range(1, run.attempt):
        name = history.review_name(run.slug, attempt)
        data = history.read(git, protocol, name) or b""
        found += _rounds(_verdicts(transcript.parse(data, f"{name} of {history.ref_of(protocol)}")), count)
    return found


def _rounds(verdicts: Sequence[Verdict], count: int) -> list[Sequence[Verdict]]:
    return [verdicts[at : at + count] for at in range(0, len(verdicts), count)]


def _verdicts(records: Iterable[transcript.Record]) -> list[Verdict]:
    """Return the verdicts since the last one that nothing was made of."""
    found: list[Verdict] = []
    for one in records:
        if isinstance(one, transcript.Undecided):
            found = []
        elif (verdict := _said(one)) is not None:
            found.append(verdict)
    return found


def _open_findings(rounds: Iterable[Sequence[Verdict]]) -> dict[str, Finding]:
    """Return the findings that were to be fixed and that no later round called closed, by id: the number of the review and that of
    the finding in it, `1.2`. What one reviewer of a round calls open is open."""
    found: dict[str, Finding] = {}
    number = 0
    for verdicts in rounds:
        answers = [one for verdict in verdicts for one in verdict.earlier or ()]
        closed = {one.id for one in answers if one.closed} - {one.id for one in answers if not one.closed}
        found = {id: one for id, one in found.items() if id not in closed}
        for verdict in verdicts:
            number += 1
            for at, one in enumerate(verdict.findings, 1):
                if one.severity in ("blocker", "major") and one not in found.values():
                    found[f"{number}.{at}"] = one
    return found


def _said(line: transcript.Record) -> Verdict | None:
    """Return the verdict of an answer, whichever findings it speaks of."""
    if not isinstance(line, transcript.Response):
        return None
    calls = [json.dumps(call.arguments) for call in line.calls if call.name == ANSWER]
    try:
        return model_answers.parse(Verdict, calls[0] if calls else line.text, is_shown=True)
    except model_answers.UnfitError:
        return None


def _task(
    run: StepRun,
    reviewer: Reviewer,
    evidence: Sequence[ev.CheckEvidence],
    seen: qa.Change,
    before: Mapping[str, Finding],
) -> str:
    """Return the judge's task. Plan files are instructions; everything that the work made is quoted as untrusted."""
    plan, step = run.plan, run.step
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
    if len(others) > 1:
        parts.append("Its steps:\n" + "\n".join(others))
    parts.append(f"# The step to judge: {step.header.title}\n\n{step.prose.strip()}")
    if step.header.outputs:
        parts.append("It must leave: " + ", ".join(step.header.outputs))
    if reviewer.aspects:
        told = "\n".join(f"- {one}" + (f": {ASPECTS[one]}" if one in ASPECTS else "") for one in reviewer.aspects)
        parts.append(f"Judge it under each of these aspects, one after the other:\n{told}")
    if evidence:
        parts.append("Checks that passed: " + "; ".join(f"`{check['check']}`" for check in evidence))
        # What differs from run to run is left out: a review that was made is found by what it was asked.
        told = "\n\n".join(
            f"$ {check['check']}\n{feedback.for_model(run, masked(folded(check['tail'])))}"
            for check in evidence
            if check["tail"]
        )
        parts.append(prompting.fence(told, "the ends of what they printed") if told else "")
    if before:
        told = "\n".join(
            f"{id} ({one.severity}{f', {one.file}' if one.file else ''}): {one.text}" for id, one in before.items()
        )
        parts.append(
            "Earlier reviews of this step asked for these; say of each, in `earlier`, whether the change closes it. One that is open"
            " is a FAIL.\n" + prompting.fence(told, "findings of earlier reviews")
        )
    result = run.proposed or run.state.steps[step.slug].result
    if result is not None:
        shown = json.dumps(result, indent=1, ensure_ascii=False)[: prompting.RESULT_LIMIT]
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
    parts.append("# The change")
    if seen.left_out:
        told = "\n".join(seen.left_out[: qa.NAMES_LIMIT])
        parts.append(prompting.fence("\n".join(seen.files), "names of files"))
        parts.append("Not all of it is shown:\n" + prompting.fence(told, "what is not shown"))
    parts.append(prompting.fence(seen.diff, "the change"))
    return "\n\n".join(part for part in parts if part)
