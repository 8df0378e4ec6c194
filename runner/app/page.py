"""A protocol's page on the forge: the request's text, the one comment, the commit statuses. One record gives the same bytes.

Its status, waits and commands are those of `describe.recorded`. Text of models and plans appears as code only, in which no forge
follows links, loads images or notifies people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runner.app import describe
from runner.app.describe import Recorded
from runner.forge import BODY_TEXT, Status, StatusState, status_text
from runner.lines import counted, pattern
from runner.protocol import paths
from runner.protocol.state import ENDED, STOPPED, State, StepState, StepStatus, wait_type
from runner.store import record

PLAN_TEXT: Final = 20_000  # characters of the plan that are shown; the branch has it whole
TITLE_TEXT: Final = 120
MERGE: Final = "merge"  # the key of the merge in `Page.ways`; no wait of a record has it
REVIEW, SIGNED = "review", "signed"  # how an approval is given, as `from:` of the policy has it
COMMENTS: Final = ("retry", "pause", "resume", "answer", "step")  # commands that a comment can give
_STEPS: Final = 100
_WORDS: Final = pattern(r"[A-Za-z]+(?:[ ,()]{1,2}[A-Za-z]+)*\)?")
_PLAIN: Final = frozenset(" .,:;'\"()+-_/?=")  # beside letters and digits: nothing that a forge takes for a reference


@dataclass(frozen=True, slots=True)
class Page:
    """A protocol for its page. `found`: its status; `ways`: how each approval that waits can be given, by the wait's id; `merge`:
    whose approval of the merge is missing, or empty."""

    state: State
    found: Recorded
    ways: Mapping[str, Sequence[str]]
    merge: str


def title(state: State) -> str:
    """Return the request's title."""
    kept = "".join(c if c.isalnum() or c in _PLAIN else " " for c in state.title)
    return " ".join(f"{state.protocol.partition('-')[0]}: {' '.join(kept.split())}"[:TITLE_TEXT].split())


def body(page: Page, plan: str) -> str:
    """Return the request's text: the waits and who can end them, then the progress, then the plan.

    `plan`: what people or a model wrote.
    """
    state, rows = page.state, []
    waits = {str(wait["subject"]) for wait in page.found.waits}
    steps = state.open_steps()
    for slug, step in steps[:_STEPS]:
        status = _status(step, slug in waits) + (f", attempt {step.attempt}" if step.attempt > 1 else "")
        rows.append(f"| `{step.place:02d}-{slug}` | {code(step.title)} | {step.kind} | {status} | {_checked(step)} |")
    if len(steps) > _STEPS:
        rows.append(f"| … | {len(steps) - _STEPS} more | | | |")
    cost = describe.spent(page.found.row.get("spent"), tokens=True)
    table = ["| step | title | kind | status | checks |", "|---|---|---|---|---|", *rows]
    parts = [
        *asked(page),
        f"### {describe.progress(page.found.row)}" if rows else "There is no plan yet.",
        "\n".join(table) if rows else "",
        f"Cost so far: {cost}." if cost else "",
        f"<details><summary>The plan</summary>\n\n{block(plan, PLAN_TEXT)}\n\n</details>" if plan else "",
        f"The step files are in `{paths.folder(state.protocol)}/`, among the changes; the runner picks up an edit there. "
        "Written by [protocol-runner](https://pypi.org/project/protocol-runner/).",
    ]
    return "\n\n".join(part for part in parts if part)[:BODY_TEXT]


def comment(page: Page, *, seen: int = 0, said: Sequence[str] = ()) -> str:
    """Return the one comment: the waits and who can end them, and the result of each comment command.

    `seen`: the last comment that was read; `said`: a line a command.
    """
    # The runner reads this line again, so it comes first, where no long text cuts it off.
    parts = [f"<!-- seen: {seen} -->", *asked(page), "\n".join(said)]
    return "\n\n".join(part for part in parts if part)[:BODY_TEXT]


def asked(page: Page) -> list[str]:
    """Return paragraphs: each wait, who can end it and how; why it stopped, and how it resumes."""
    found, parts = page.found, []
    for wait in found.waits:
        since = str(wait["since"])[:16].replace("T", " ")
        slug = str(wait["subject"])
        about = f"`{record.label(found.row, slug)}`: " if slug in page.state.steps else ""
        parts += [
            f"### Waits for {_words(wait['by'])}",
            f"{about}{_words(wait['text'])} (since {since} UTC)",
            *_how(page, wait),
        ]
    for slug in found.stopped:
        step = page.state.steps[slug]
        parts += [f"### `{record.label(found.row, slug)}` {_word(step)}", code(step.reason or "")]
    match found.term:
        case "failed" | "blocked":
            parts += [] if found.stopped else [f"### {found.term.capitalize()}"]
            parts.append(f"- When the cause is fixed: {_typed(found.resuming)}")
        case "paused":
            parts += ["### Paused", f"- To resume: {_typed(found.resuming)}"]
        case "cancelled":
            parts.append("### Cancelled")
        case "completed" if page.merge:
            parts += [f"### The merge waits for the approval of {_words(page.merge)}", *_approve(page, MERGE)]
        case "completed":
            parts.append("### Every step is done: merge this request")
    return parts or ["### Waits for nobody", f"- To continue: {_typed(found.resuming)}"]


def _how(page: Page, wait: Mapping[str, Any]) -> list[str]:
    """Return how to end a wait, as a list; for an approval it adds that a comment is none."""
    match wait_type(wait["kind"]).ended_by:
        case "answer":
            return [f"- Answer: {_typed(page.found.ending(wait, later=True))}"]
        case "edit":
            return [f"- Raise `budget` in the step file: {_typed(page.found.ending(wait))}"]
    return _approve(page, str(wait["id"]), page.found.ending(wait))


def _approve(page: Page, wait: str, typed: str = "") -> list[str]:
    """Return how an approval is given. `typed`: the command, if it is not that of the merge."""
    ways, typed = page.ways.get(wait, (SIGNED,)), typed or f"runner approve {page.found.name} merge"
    reject = typed.replace(" approve ", " reject ", 1)
    yes = ["approve this request in a review"] * (REVIEW in ways) + [f"sign with `{typed}`"] * (SIGNED in ways)
    no = ["request changes in a review"] * (REVIEW in ways) + [f"`{reject}`"] * (SIGNED in ways)
    return [f"- To approve: {', or '.join(yes)}\n- To reject: {', or '.join(no)}", "A comment is no approval."]


def _typed(command: str) -> str:
    """Return how people give a command: in a comment, where one can give it, or in a terminal."""
    _, verb, rest = command.split(" ", 2)
    said = " ".join(["/runner", verb, *rest.split(" ")[1:]])
    return f"comment `{said}`, or type `{command}`" if verb in COMMENTS else f"type `{command}`"


def statuses(page: Page, *, wrong: str) -> list[Status]:
    """Return the four commit statuses. `wrong`: what does not hold of the record, empty where it does."""
    found, steps = page.found, page.state.open_steps()
    judged = (StatusState.FAILURE, wrong) if wrong else (StatusState.SUCCESS, "the record is what its history says")
    if not wrong and page.merge:
        judged = (StatusState.PENDING, f"the merge waits for {page.merge}")
    named = {"plan": _plan(page), "step": _step(found), "qa": _qa(steps), "verify": judged}
    return [Status(context=f"runner/{name}", state=it, text=status_text(text)) for name, (it, text) in named.items()]


def _plan(page: Page) -> tuple[StatusState, str]:
    found = page.found
    asked = next((wait for wait in found.waits if "plan" in (wait["kind"], wait["subject"])), None)
    if asked is not None:
        return StatusState.PENDING, f"waits for {asked['by']}"
    if page.state.plan is not None:
        return StatusState.SUCCESS, counted(len(page.state.open_steps()), "step")
    if found.term in (*STOPPED, "cancelled"):
        return StatusState.FAILURE, f"{found.term} before there was a plan"
    return StatusState.PENDING, "there is no plan yet"


def _step(found: Recorded) -> tuple[StatusState, str]:
    if found.term == "completed":
        return StatusState.SUCCESS, describe.progress(found.row)
    if found.term in (*STOPPED, "cancelled"):
        return StatusState.FAILURE, ": ".join([found.term, *found.stopped[:1]])
    paused = ["paused"] if found.term == "paused" else []
    waits = [f"waits for {wait['by']}" for wait in found.waits[:1]]
    return StatusState.PENDING, "; ".join([describe.progress(found.row), *paused, *waits])


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


def _status(step: StepState, waits: bool) -> str:
    """Return the status of a step, with a mark if it needs attention."""
    word = _word(step)
    if step.status is StepStatus.COMPLETED:
        return f"✔ {word}"
    if step.status in STOPPED:
        return f"✘ **{word}**"
    if waits:
        return "▸ **waits**"
    return word if step.status is StepStatus.PENDING else f"▸ {word}"


def _checked(step: StepState) -> str:
    """Return what the step's QA says."""
    if step.passed:
        return "✔ passed"
    if step.status in STOPPED and (step.reason or "").startswith("QA:"):
        return "✘ **failed**"
    return "none" if step.qa == "skip" else "to come" if step.status not in ENDED else ""


def _words(text: str) -> str:
    """Return text as it is where it is nothing but words, which mean nothing to a forge; else as code."""
    return text if _WORDS.fullmatch(text) else code(text)


def _qa(steps: Sequence[tuple[str, StepState]]) -> tuple[StatusState, str]:
    asked = [(slug, step) for slug, step in steps if step.qa != "skip" and step.status is not StepStatus.CANCELLED]
    failed = [slug for slug, step in asked if step.status in STOPPED and (step.reason or "").startswith("QA:")]
    passed = sum(step.passed for _, step in asked)
    if failed:
        return StatusState.FAILURE, f"failed: {failed[0]}"
    if passed == len(asked):
        return StatusState.SUCCESS, f"{passed} of {passed} passed" if asked else "no step asks for QA"
    return StatusState.PENDING, f"{passed} of {len(asked)} passed"
