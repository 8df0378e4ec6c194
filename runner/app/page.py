"""A protocol's page on the forge: the request's text, the one comment, the commit statuses. Pure: the same state gives the same bytes.

Text of models and plans appears as code only, in which no forge follows links, loads images or notifies people.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from runner.forge import BODY_TEXT, Status, StatusState, status_text
from runner.protocol import ids, paths
from runner.protocol.state import ENDED, State, StepState, StepStatus, Wait, wait_type
from runner.protocol.state import Status as Standing

PLAN_TEXT: Final = 20_000  # characters of the plan that are shown; the branch has it whole
TITLE_TEXT: Final = 120
MERGE: Final = "merge"  # stands for the merge among the waits, which nothing in the record asks for
REVIEW, SIGNED = "review", "signed"  # how a wait is ended, as `from:` of the policy has it
Ways = Mapping[str, Collection[str]]
NO_WAYS: Final[Ways] = {}
_STEPS: Final = 100
_STOPPED: Final = (StepStatus.FAILED, StepStatus.BLOCKED)
_WORDS: Final = re.compile(r"[A-Za-z]+(?:[ ,()]{1,2}[A-Za-z]+)*\)?")
_PLAIN: Final = frozenset(" .,:;'\"()+-_/?=")  # beside letters and digits: nothing that a forge takes for a reference


def title(state: State) -> str:
    """Return the request's title."""
    kept = "".join(c if c.isalnum() or c in _PLAIN else " " for c in state.title)
    return " ".join(f"{state.protocol.partition('-')[0]}: {' '.join(kept.split())}"[:TITLE_TEXT].split())


def body(state: State, plan: str, *, ways: Ways = NO_WAYS, merge: str = "") -> str:
    """Return the request's text: the waits and who can end them, then the progress, then the plan.

    `plan`: what people or a model wrote; `ways`, `merge`: as for `asked`.
    """
    rows, waits = [], {wait.subject for wait in state.waiting}
    steps = state.open_steps()
    for slug, step in steps[:_STEPS]:
        stands = _stands(step, slug in waits) + (f", attempt {step.attempt}" if step.attempt > 1 else "")
        rows.append(f"| `{step.place:02d}-{slug}` | {code(step.title)} | {step.kind} | {stands} | {_checked(step)} |")
    if len(steps) > _STEPS:
        rows.append(f"| … | {len(steps) - _STEPS} more | | | |")
    table = ["| step | title | kind | status | checks |", "|---|---|---|---|---|", *rows]
    parts = [
        *asked(state, ways=ways, merge=merge),
        f"### {_progress(state)}" if rows else "There is no plan yet.",
        "\n".join(table) if rows else "",
        f"Cost so far: {_spent(state)}." if _spent(state) else "",
        f"<details><summary>The plan</summary>\n\n{block(plan, PLAN_TEXT)}\n\n</details>" if plan else "",
        f"The step files are in `{paths.folder(state.protocol)}/`, among the changes; the runner picks up an edit there. "
        "Written by [protocol-runner](https://pypi.org/project/protocol-runner/).",
    ]
    return "\n\n".join(part for part in parts if part)[:BODY_TEXT]


def comment(state: State, *, ways: Ways = NO_WAYS, merge: str = "", seen: int = 0, said: Sequence[str] = ()) -> str:
    """Return what the one comment says: the waits and who can end them, and the result of each comment command.

    `ways`, `merge`: as for `asked`; `seen`: the last comment that was looked at; `said`: a line a command.
    """
    # The runner reads this line again, so it comes first, where no long text cuts it off.
    parts = [f"<!-- seen: {seen} -->", *asked(state, ways=ways, merge=merge), "\n".join(said)]
    return "\n\n".join(part for part in parts if part)[:BODY_TEXT]


def asked(state: State, *, ways: Ways = NO_WAYS, merge: str = "") -> list[str]:
    """Return paragraphs: each wait, who can end it and how; why it stopped, and how it resumes.

    `ways`: how each wait is ended, by its id; `merge`: whose approval of the merge is missing.
    """
    short, found = ids.number_of(state.protocol), []
    for wait in state.waiting:
        since = wait.since[:16].replace("T", " ")
        found += [
            f"### Waits for {_words(wait.by)}",
            f"{_about(state, wait)}{_words(wait.text)} (since {since} UTC)",
            *_how(wait.kind, wait.id, short, ways),
        ]
    stopped = [(slug, step) for slug, step in state.open_steps() if step.status in _STOPPED]
    for slug, step in stopped:
        found += [f"### `{step.place:02d}-{slug}` {_word(step)}", code(step.reason or "")]
    if state.status in (Standing.FAILED, Standing.BLOCKED):
        found += [] if stopped else [f"### It {'failed' if state.status is Standing.FAILED else 'is blocked'}"]
        verb = "retry" if stopped else "resume"
        found.append(f"- When its cause is fixed: comment `/runner {verb}`, or type `runner {verb} {short}`")
    elif state.status is Standing.PAUSED:
        found += ["### It is paused", f"- To resume: comment `/runner resume`, or type `runner resume {short}`"]
    elif state.status is Standing.CANCELLED:
        found.append("### It is cancelled")
    elif state.status is Standing.COMPLETED and merge:
        found += [f"### The merge waits for the approval of {_words(merge)}", *_how(MERGE, MERGE, short, ways)]
    elif state.status is Standing.COMPLETED:
        found.append("### Every step is done: it waits for its merge")
    return found or ["### Nothing waits for anybody"]


def _how(kind: str, wait: str, short: int, ways: Ways) -> list[str]:
    """Return how to end a wait, as a list; for an approval it adds that a comment is none."""
    if text := wait_type(kind).answer:
        return [f"- Answer: comment `/runner answer {wait} {text}`, or type `runner answer {short} {wait} {text}`"]
    if wait_type(kind).ended_by == "edit":
        return ["- Raise `budget`, or cancel it"]
    there = ways.get(wait, (SIGNED,))
    what = f"{short} merge" if kind == MERGE else str(short)
    yes = ["approve this request in a review"] * (REVIEW in there) + [f"sign with `runner approve {what}`"] * (
        SIGNED in there
    )
    no = ["request changes in a review"] * (REVIEW in there) + [f"`runner reject {what}`"] * (SIGNED in there)
    return [f"- To approve: {', or '.join(yes)}\n- To reject: {', or '.join(no)}", "A comment is no approval."]


def statuses(state: State, *, wrong: str, merge: str = "") -> list[Status]:
    """Return the four commit statuses. `wrong`: what does not hold of the record, empty where it does."""
    steps = state.open_steps()
    asked = next((wait for wait in state.waiting if wait.kind == "plan" or wait.subject == "plan"), None)
    if state.plan is None:
        plan = (StatusState.PENDING, f"waits for {asked.by}" if asked else "the plan is being written")
    elif asked is not None:
        plan = (StatusState.PENDING, f"waits for {asked.by}")
    else:
        plan = (StatusState.SUCCESS, f"{len(steps)} step{'s' if len(steps) != 1 else ''}")
    stopped = next((slug for slug, step in steps if step.status in _STOPPED), None)
    if state.status is Standing.COMPLETED:
        step = (StatusState.SUCCESS, _progress(state))
    elif state.status in (Standing.FAILED, Standing.BLOCKED, Standing.CANCELLED):
        about = f": {stopped}" if stopped else ""
        step = (StatusState.FAILURE, f"{state.status}{about}")
    else:
        waits = f"; waits for {state.waiting[0].by}" if state.waiting else ""
        paused = "; paused" if state.status is Standing.PAUSED else ""
        step = (StatusState.PENDING, f"{_progress(state)}{paused}{waits}")
    judged = (StatusState.FAILURE, wrong) if wrong else (StatusState.SUCCESS, "the record is what its history says")
    if not wrong and merge:
        judged = (StatusState.PENDING, f"the merge waits for {merge}")
    named = {"plan": plan, "step": step, "qa": _qa(steps), "verify": judged}
    return [Status(context=f"runner/{name}", state=it, text=status_text(text)) for name, (it, text) in named.items()]


def code(text: str) -> str:
    """Return untrusted text as code on one line, in a table too; no part of it means anything to a forge."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("`", "'")
    return f"`{line.replace('|', '¦')}`" if line else ""


def block(text: str, most: int) -> str:
    """Return untrusted text as a block of code, cut if it is too long; no part of it can end the block."""
    kept = "\n".join("".join(c if c.isprintable() or c == "\t" else " " for c in line) for line in text.split("\n"))
    kept = kept if len(kept) <= most else f"{kept[:most]}\n…"
    longest = max((len(run) for run in re.findall(r"`+", kept)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{kept.rstrip()}\n{fence}"


def _word(step: StepState) -> str:
    return str(step.status).replace("_", " ")


def _stands(step: StepState, waits: bool) -> str:
    """Return the status of a step, with a mark if it needs attention."""
    word = _word(step)
    if step.status is StepStatus.COMPLETED:
        return f"✔ {word}"
    if step.status in _STOPPED:
        return f"✘ **{word}**"
    if waits:
        return "▸ **waits**"
    return word if step.status is StepStatus.PENDING else f"▸ {word}"


def _checked(step: StepState) -> str:
    """Return what the step's QA says."""
    if step.passed:
        return "✔ passed"
    if step.status in _STOPPED and (step.reason or "").startswith("QA:"):
        return "✘ **failed**"
    return "none" if step.qa == "skip" else "to come" if step.status not in ENDED else ""


def _about(state: State, wait: Wait) -> str:
    step = state.steps.get(wait.subject)
    return f"`{step.place:02d}-{wait.subject}`: " if step else ""


def _words(text: str) -> str:
    """Return text as it is where it is nothing but words, which mean nothing to a forge; else as code."""
    return text if _WORDS.fullmatch(text) else code(text)


def _progress(state: State) -> str:
    steps = state.open_steps()
    done = sum(step.status in ENDED for _, step in steps)
    return f"{done} of {len(steps)} step{'s' if len(steps) != 1 else ''} done"


def _spent(state: State) -> str:
    spent = state.spent
    tokens = spent.input_tokens + spent.output_tokens
    parts = [f"${spent.usd}"] if spent.usd != "0" else []
    parts += [f"{tokens:,} tokens"] if tokens else []
    parts += [f"{spent.seconds} s"] if spent.seconds else []
    return " · ".join(parts)


def _qa(steps: Sequence[tuple[str, StepState]]) -> tuple[StatusState, str]:
    asked = [(slug, step) for slug, step in steps if step.qa != "skip" and step.status is not StepStatus.CANCELLED]
    failed = [slug for slug, step in asked if step.status in _STOPPED and (step.reason or "").startswith("QA:")]
    passed = sum(step.passed for _, step in asked)
    if failed:
        return StatusState.FAILURE, f"failed: {failed[0]}"
    if passed == len(asked):
        return StatusState.SUCCESS, f"{passed} of {passed} passed" if asked else "no step asks for QA"
    return StatusState.PENDING, f"{passed} of {len(asked)} passed"
