"""A protocol's page on the forge: the request's text, the one comment, the commit statuses. Pure: the same state gives the same bytes.

What models and plans say stands there as code alone, in which no forge follows links, loads images or tells people.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from runner.forge.base import BODY_TEXT, Status, StatusState, status_text
from runner.protocol import ids
from runner.protocol.state import State, StepState, StepStatus, Wait
from runner.protocol.state import Status as Standing

PLAN_TEXT: Final = 20_000  # characters of the plan that are shown; the branch has it whole
TITLE_TEXT: Final = 120
_STEPS: Final = 100
_ENDED: Final = (StepStatus.COMPLETED, StepStatus.CANCELLED)
_STOPPED: Final = (StepStatus.FAILED, StepStatus.BLOCKED)
_ANSWERED: Final = ("human", "question", "effect")
_PLAIN: Final = frozenset(" .,:;'\"()+-_/?=")  # beside letters and digits: nothing that a forge takes for a reference


def title(state: State) -> str:
    """Return the request's title."""
    kept = "".join(c if c.isalnum() or c in _PLAIN else " " for c in state.title)
    return " ".join(f"{state.protocol}: {' '.join(kept.split())}"[:TITLE_TEXT].split())


def body(state: State, plan: str, *, merge: str = "") -> str:
    """Return the request's text. `plan`: what people or a model wrote; `merge`: whose word on the merge is missing."""
    rows = []
    steps = state.open_steps()
    for slug, step in steps[:_STEPS]:
        attempt = str(step.attempt) if step.attempt > 1 else ""
        rows.append(f"| `{step.place:02d}-{slug}` | {code(step.title)} | {step.kind} | {_word(step)} | {attempt} |")
    if len(steps) > _STEPS:
        rows.append(f"| … | {len(steps) - _STEPS} more | | | |")
    table = (
        ["| step | | kind | stands | attempt |", "|---|---|---|---|---|", *rows] if rows else ["There is no plan yet."]
    )
    parts = [
        f"A protocol of [protocol-runner](https://pypi.org/project/protocol-runner/): `{state.protocol}`.",
        f"**{_progress(state)}**{_spent(state)}",
        "\n".join(table),
        "\n".join(owed(state, merge)),
        f"<details><summary>The plan</summary>\n\n{block(plan, PLAN_TEXT)}\n\n</details>" if plan else "",
    ]
    return "\n\n".join(part for part in parts if part)[:BODY_TEXT]


def comment(state: State, *, reviews: bool, merge: str = "", seen: int = 0, said: Sequence[str] = ()) -> str:
    """Return what the one comment says: what waits, what may be done about it, what became of commands.

    `reviews`: whether a review ends what waits; `seen`: the last comment that was looked at; `said`: a line a command.
    """
    short = ids.number_of(state.protocol)
    lines = owed(state, merge) or ["Nothing waits for anybody."]
    for wait in state.waiting:
        if wait.kind in _ANSWERED:
            text = "happened|did-not" if wait.kind == "effect" else "TEXT"
            lines.append(f"Answer with a comment: `/runner answer {wait.id} {text}`")
        elif wait.kind != "budget":
            ways = ["approve this request in a review", f"sign with `runner approve {short}`"]
            lines.append(f"To say yes: {' or '.join(ways if reviews else ways[1:])}. A comment is no approval.")
    if state.status in (Standing.FAILED, Standing.BLOCKED):
        lines.append("When what made it so is mended: `/runner retry`")
    elif state.status is Standing.PAUSED:
        lines.append("To go on: `/runner resume`")
    # What is read again stands first: whatever else is long, it is never what is cut off.
    parts = [f"<!-- seen: {seen} -->", "\n\n".join(lines), "\n".join(said)]
    return "\n\n".join(part for part in parts if part)[:BODY_TEXT]


def owed(state: State, merge: str = "") -> list[str]:
    """Return a line for each thing that waits, and for whom; why it stopped; that it waits for its merge."""
    lines = [
        f"Waits for {code(wait.by)}: {_about(state, wait)}: {code(wait.text)} (since {wait.since})"
        for wait in state.waiting
    ]
    for slug, step in state.open_steps():
        if step.status in _STOPPED:
            lines.append(f"`{step.place:02d}-{slug}` {step.status}: {code(step.reason or '')}")
    if state.status is Standing.COMPLETED:
        lines.append(
            f"The merge waits for the word of {code(merge)}."
            if merge
            else "Every step is done: it waits for its merge."
        )
    elif state.status in (Standing.PAUSED, Standing.CANCELLED):
        lines.append(f"It is {state.status}.")
    return lines


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
    """Return text of anybody's as code on one line, in a table too; nothing in it means anything to a forge."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("`", "'")
    return f"`{line.replace('|', '¦')}`" if line else ""


def block(text: str, most: int) -> str:
    """Return text of anybody's as a block of code, cut where it is too long; nothing in it can end the block."""
    kept = "\n".join("".join(c if c.isprintable() or c == "\t" else " " for c in line) for line in text.split("\n"))
    kept = kept if len(kept) <= most else f"{kept[:most]}\n…"
    longest = max((len(run) for run in re.findall(r"`+", kept)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{kept.rstrip()}\n{fence}"


def _word(step: StepState) -> str:
    if step.status is StepStatus.COMPLETED and step.passed:
        return "completed, QA passed"
    return str(step.status).replace("_", " ")


def _about(state: State, wait: Wait) -> str:
    step = state.steps.get(wait.subject)
    return code(f"{step.place:02d}-{wait.subject}" if step else wait.subject)


def _progress(state: State) -> str:
    steps = state.open_steps()
    done = sum(step.status in _ENDED for _, step in steps)
    return f"{done} of {len(steps)} step{'s' if len(steps) != 1 else ''} done"


def _spent(state: State) -> str:
    spent = state.spent
    parts = [f"{spent.seconds} s"] if spent.seconds else []
    parts += [f"${spent.usd}"] if spent.usd != "0" else []
    tokens = spent.input_tokens + spent.output_tokens
    parts += [f"{tokens} tokens"] if tokens else []
    return "".join(f" · {part}" for part in parts)


def _qa(steps: Sequence[tuple[str, StepState]]) -> tuple[StatusState, str]:
    asked = [(slug, step) for slug, step in steps if step.qa != "skip" and step.status is not StepStatus.CANCELLED]
    failed = [slug for slug, step in asked if step.status in _STOPPED and (step.reason or "").startswith("QA:")]
    passed = sum(step.passed for _, step in asked)
    if failed:
        return StatusState.FAILURE, f"failed: {failed[0]}"
    if passed == len(asked):
        return StatusState.SUCCESS, f"{passed} of {passed} passed" if asked else "no step asks for QA"
    return StatusState.PENDING, f"{passed} of {len(asked)} passed"
