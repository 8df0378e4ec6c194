"""Print the progress of a protocol to stderr: one line per step, and what comes next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from runner.app import describe, suite
from runner.cli import output, status
from runner.cli.console import COLOURS, Console
from runner.cli.streams import program
from runner.lines import counted, headline, lines_of
from runner.protocol import decision, events, paths
from runner.protocol.state import plain
from runner.store import lookup, record

if TYPE_CHECKING:
    from runner.executor.advance import Advanced
    from runner.protocol.state import Json, State

WAITING = "waits"
RESULT = 60  # characters of a result that is printed on its step's line


@dataclass(frozen=True, slots=True)
class Spent:
    """What a step cost. `usd`: US dollars; `unpriced`: tokens whose price is not known."""

    seconds: int = 0
    usd: Decimal = Decimal(0)
    unpriced: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.usd + other.usd, self.unpriced + other.unpriced)


class Progress:
    """`each`: print every transition when it is made; else a step that will be checked is printed together with its checks."""

    def __init__(self, console: Console, *, each: bool) -> None:
        self._console, self._each = console, each
        self._held: dict[str, tuple[Spent, str]] = {}  # what was said of steps that are still to be checked
        self._told_waits: set[str] = set()
        self._told_refused: list[str] = []  # why approvals do not count
        self._width = 0
        self._slugs: list[str] = []  # of the steps that the width is of

    # --- one transition ----------------------------------------------------------------------------------------------

    def advanced(self, done: Advanced) -> None:
        """Print one transition."""
        self._widen(done.state)
        about: dict[str, list[events.Event]] = {}
        for entry in done.entries:
            about.setdefault(entry.event.subject, []).append(entry.event)
        for subject, happened in about.items():
            edit = next((event for event in happened if isinstance(event, events.PlanEdited)), None)
            planned = next((event for event in happened if isinstance(event, events.Planned)), None)
            if edit is not None:
                self._line("plan", "edited", _edited(done.state, edit))
            elif planned is not None:
                self._planned(done, planned)
            elif subject == "plan" and any(isinstance(event, events.Asked) for event in happened):
                self._waits(done.state)
            self._words(done.state, subject, happened)
            if edit is None and subject in done.state.steps:
                self._step(done, subject, happened)

    def _widen(self, state: State) -> None:
        """Make room for the labels of the steps. A transition seldom changes which steps there are."""
        slugs = [slug for slug, step in state.steps.items() if not step.removed]
        if slugs != self._slugs:
            self._width = max([self._width, *(len(_label(state, slug)) for slug in slugs)])
            self._slugs = slugs

    def _words(self, state: State, subject: str, happened: Sequence[events.Event]) -> None:
        """Print the approvals that were used, and those that do not count."""
        for event in happened:
            match event:
                case events.ApprovalCounted():
                    self._line(_label(state, subject), "approved", f"by {', '.join(event.by)}")
                case events.CallDecided():
                    self._line(_label(state, subject), event.decision, f"by {event.by}")
                case events.ApprovalRefused():
                    said = "an approval does not count" if event.approval else "not approved"
                    self._line(_label(state, subject), "refused", f"{said}: {event.reason}")
                    self._told_refused.append(event.reason)

    def _planned(self, done: Advanced, planned: events.Planned) -> None:
        self._took(
            "plan", "planned", _spent_by([planned]), counted(len(planned.steps), "step"), counted=bool(planned.spent)
        )
        for line in lines_of(done.said) if planned.transcript else ():
            self._console.line(f"  {line}", err=True)

    def _step(self, done: Advanced, slug: str, happened: Sequence[events.Event]) -> None:
        name = _label(done.state, slug)
        said = ended = ""
        spent, by_person = _spent_by(happened), False
        for event in happened:
            match event:
                case events.StepBlocked():
                    ended = "blocked"
                case events.StepFailed():
                    ended = "failed"
                case events.StepCompleted():
                    ended = "done"
                case events.StepFinished():
                    ended, said = "finished", done.said
                    by_person = event.executor == "person"
                    if done.state.steps[slug].kind in ("tool", "command"):
                        said = "   ".join(filter(None, (said, _result(event.result))))
                    elif not by_person and not event.artifacts and not _gives(event.result):
                        said = said or "no file changed"  # a model may say that it did what it did not
                case events.QaPassed():
                    said = done.said
                case events.Asked() | events.ApprovalAsked() | events.CallHeld() | events.EffectUnknown():
                    ended = WAITING
        if ended == "finished" and not self._each:
            self._held[slug] = (spent, said)
            return
        if ended in ("done", *describe.FAILED) and slug in self._held:
            before, earlier = self._held.pop(slug)
            spent, said = before + spent, "   ".join(filter(None, (earlier, said)))
        if ended in describe.FAILED:
            self._failed(done.state.protocol, name, ended, happened)
        elif ended == WAITING:
            if slug in self._held:  # its checks passed
                before, earlier = self._held.pop(slug)
                self._took(name, "finished", before + spent, "   ".join(filter(None, (earlier, said))))
            self._waits(done.state)
        elif ended:
            self._took(name, ended, spent, said, counted=not by_person or spent.seconds > 0)
        for event in happened:
            if isinstance(event, events.StepRetried):
                self._line(name, "retries", f"attempt {event.attempt}")

    def _failed(self, protocol: str, name: str, ended: str, happened: Sequence[events.Event]) -> None:
        failure = next(event for event in happened if isinstance(event, events.StepFailed))
        self._line(name, ended, headline(failure.reason))
        place = (protocol, failure.subject, failure.attempt)
        retried = any(isinstance(event, events.StepRetried) for event in happened)
        qa = next((event for event in happened if isinstance(event, events.QaFailed)), None)
        if qa is None and failure.output is not None:
            output.tell_last(self._console, place, None, failure.output, failure.tail or "", retried=retried)
        elif qa is not None:
            commands = output.commands(qa.evidence, reviewed=bool(qa.report))
            numbers = {id(check): number for number, check in enumerate(commands, 1)}
            for check in qa.evidence:
                otherwise = "" if check["tail"] in failure.reason else check["tail"]
                if check["code"] == 0:
                    continue
                if id(check) in numbers:
                    number, printed = numbers[id(check)], check["output"]
                    output.tell_last(self._console, place, number, printed, otherwise, retried=retried)
                elif otherwise:  # a promised file that is not there, or a review
                    self._console.line(f"  | {otherwise}", err=True)
            before = suite.failed_before(self._console.project, protocol, {check["check"] for check in qa.evidence})
            if before:
                self._console.line(f"  {'before':12}  {before}", err=True)
        for event in happened:
            if isinstance(event, events.QaFailed) and event.report:
                report = f"{paths.folder(protocol)}/{paths.report_file(event.subject, event.attempt)}"
                self._console.line(f"  {'findings':12}  {report}", err=True)
        if failure.kept:
            self._console.line(f"  {'its work':12}  kept at {failure.kept}", err=True)

    def _waits(self, state: State) -> None:
        row, project = plain(state), self._console.project
        for wait in row["waiting"]:
            if wait["id"] not in self._told_waits:
                tip = lookup.tip(project, state.protocol)
                text = record.asked_now(project.git, state.protocol, tip, row["steps"], wait)
                self._line(_label(state, wait["subject"]), WAITING, f"for {wait['by']}: {text}")
                self._told_waits.add(wait["id"])

    def _took(self, name: str, word: str, spent: Spent, said: str, *, counted: bool = True) -> None:
        took = describe.duration(spent.seconds) if counted else ""
        cost = describe.money(spent.usd) if spent.usd else ""
        if spent.unpriced:
            cost = f"{cost} and a price not known".removeprefix(" and a ")
        self._line(name, word, "   ".join(filter(None, (took.rjust(6), cost, said))), narrow=True)

    def _line(self, name: str, word: str, text: str, *, narrow: bool = False) -> None:
        shown = (word.ljust(8 if narrow else 10), COLOURS.get(word, ""))
        self._console.line(f"{name.ljust(self._width)}  ", shown, text, err=True)

    # --- the end -------------------------------------------------------------------------------------------------------

    def flush(self, done: Advanced) -> None:
        """Print finished steps whose checks did not run."""
        for slug, (spent, said) in self._held.items():
            self._took(_label(done.state, slug), "finished", spent, said)
        self._held.clear()

    def end(self, done: Advanced) -> None:
        """Print the status, and what to type next."""
        self.flush(done)
        console, state = self._console, done.state
        self._widen(state)
        row, session = plain(state), console.session
        name = lookup.typed(session.project, state.protocol, console.asked.get(state.protocol))
        found = describe.describe(session, row, done.commit, name)
        counted = " · ".join(filter(None, (describe.progress(row), describe.spent(row.get("spent")))))
        if state.status == "completed" and not found.to_merge:
            counted += f" · {describe.standing(session.project, row).partition(' · ')[2]}"
        if state.status in ("completed", "paused", "cancelled"):
            colour = COLOURS.get(state.status, "yellow")
            console.line("  ", (str(state.status).ljust(12), colour), f"  {counted}", err=True)
        elif state.status in describe.FAILED:
            gone = record.reopens(row) == "resume"
            why = "the step that failed is no longer in the plan" if gone else found.outlook.reason
            if gone or not done.entries:
                console.line("  ", (str(state.status).ljust(12), "red"), f"  {why}", err=True)
        elif found.outlook.waiting:
            self._waits(state)
            for one in found.approvals.values():
                status.show_approvals(console, one, err=True, told=self._told_refused)
        elif found.outlook.action == "none":
            console.line("  ", ("waits".ljust(12), "yellow"), f"  {found.outlook.reason}", err=True)
        elif not done.entries and done.said:
            console.line(f"  {done.said}", err=True)
        if found.next.text:
            console.line(f"  {'next':12}  {found.next.shown(program())}", err=True)
        elif state.status == "cancelled":
            console.line(f"  {'next':12}  {program()} undo {found.name}", err=True)

    # --- while it lasts ------------------------------------------------------------------------------------------------

    @contextmanager
    def at_work(self, protocol: str, *, verbose: bool = False) -> Iterator[None]:
        """Show the running step: on a terminal all the time, elsewhere a line a minute. `verbose`: print its output as it comes."""
        console = self._console
        if console.quiet:
            yield
            return
        session, stream = console.session, partial(console.line, err=True) if verbose else None
        live = output.Live(session.redactor, session.env.monotonic, stream)
        console.live, stop = live, None
        if not console.shows_progress():

            def beat() -> float:
                if now := live.now():
                    console.line(f"  {now}", err=True)
                return output.EVERY

            stop = session.env.beside(output.EVERY, beat)
        try:
            # Its number: at 80 columns its id would leave no room for the step.
            with console.waiting(protocol.partition("-")[0], live.now):
                yield
        finally:
            if stop is not None:
                stop()
            live.end()
            console.live = None


def _gives(result: Json) -> bool:
    """Return whether an agent's result holds more than its summary."""
    return isinstance(result, dict) and not result.keys() <= {"summary"}


def _result(value: Json) -> str:
    """Return a result that is short: `sum=5`; empty where it is none, or long."""
    parts = value.items() if isinstance(value, dict) else [("result", value)] if value is not None else []
    plain = [f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in parts]
    text = ", ".join(plain)
    return text if len(text) <= RESULT and "\n" not in text else ""


def _label(state: State, slug: str) -> str:
    return f"{state.steps[slug].place:02d}-{slug}" if slug in state.steps else slug


def _spent_by(happened: Sequence[events.Event]) -> Spent:
    found = Spent()
    for event in happened:
        if isinstance(
            event, events.StepFinished | events.StepFailed | events.QaPassed | events.QaFailed | events.Planned
        ):
            told = event.spent
            usd, unpriced = Decimal(told.get("usd", "0")), int(told.get("unpriced", 0))
            found = found + Spent(int(told.get("seconds", 0)), usd, unpriced)
    return found


def _edited(state: State, edit: events.PlanEdited) -> str:
    parts = [", ".join(_label(state, slug) for slug in edit.steps)] if edit.steps else []
    parts += [f"{', '.join(edit.removed)} removed"] if edit.removed else []
    return "; ".join(parts) or "plan or context"


# --- what would happen -----------------------------------------------------------------------------------------------


def would(action: decision.Action, state: State) -> str:
    """Return what an action would do, for `--dry-run`."""
    match action:
        case decision.WritePlan():
            return "would have the plan written, with the answers"
        case decision.RunStep(slug):
            return f"would run {_label(state, slug)}: {state.steps[slug].title}, attempt {state.steps[slug].attempt}"
        case decision.AskPerson(slug):
            return f"would ask for the work of {_label(state, slug)}: {state.steps[slug].title}"
        case decision.TakeWork(slug):
            return f"would record the commits since it was asked for as the work of {_label(state, slug)}"
        case decision.CheckStep(slug):
            return f"would check {_label(state, slug)}: qa {state.steps[slug].qa}"
        case decision.CompleteStep(slug):
            return f"would record that {_label(state, slug)} is done"
        case decision.Complete():
            return "would record that every step is done"
        case decision.Halt():
            return f"would do nothing: {action.reason}"
    raise AssertionError(f"unreachable: {action}")
