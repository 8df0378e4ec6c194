"""Print the progress of a protocol to stderr: one line per step, and what comes next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from runner.app import describe, suite
from runner.app.describe import together
from runner.cli import show, status
from runner.cli.console import COLOURS, Console
from runner.cli.streams import program
from runner.lines import WIDTH, counted, headline, lines_of, lines_of_output
from runner.protocol import events, machine, paths
from runner.protocol.state import STOPPED, plain
from runner.store import lookup, record

if TYPE_CHECKING:
    from runner.executor.advance import Advanced
    from runner.protocol.state import Json, State
    from runner.store.environment import Redactor

WAITING = "waits"
RESULT = 60  # characters of a result that is printed on its step's line
EVERY: Final = 60.0  # seconds between two lines about the running command, where there is no terminal
_WINDOW: Final = 64 * 1024  # bytes in which the last line is looked for


Cost = dict[str, Any]  # as `describe.together` returns it


class Progress:
    """`each`: print every transition when it is made; else a step that will be checked is printed together with its checks."""

    def __init__(self, console: Console, *, each: bool) -> None:
        self._console, self._each = console, each
        self._held: dict[str, tuple[Cost, str]] = {}  # what was said of steps that are still to be checked
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
            "plan",
            "planned",
            together([planned.spent]),
            counted(len(planned.steps), "step"),
            counted=bool(planned.spent),
        )
        for line in lines_of(done.said) if planned.transcript else ():
            self._console.line(f"  {line}", err=True)

    def _step(self, done: Advanced, slug: str, happened: Sequence[events.Event]) -> None:
        name = _label(done.state, slug)
        said = ended = ""
        spent, by_person = together(getattr(event, "spent", None) for event in happened), False
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
        if ended in ("done", *STOPPED) and slug in self._held:
            before, earlier = self._held.pop(slug)
            spent, said = together((before, spent)), "   ".join(filter(None, (earlier, said)))
        if ended in STOPPED:
            self._failed(done.state.protocol, name, ended, happened)
        elif ended == WAITING:
            if slug in self._held:  # its checks passed
                before, earlier = self._held.pop(slug)
                self._took(name, "finished", together((before, spent)), "   ".join(filter(None, (earlier, said))))
            self._waits(done.state)
        elif ended:
            self._took(name, ended, spent, said, counted=not by_person or spent["seconds"] > 0)
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
            show.tell_last(self._console, place, None, failure.output, failure.tail or "", retried=retried)
        elif qa is not None:
            commands = show.commands_of(qa.evidence, reviewed=bool(qa.report))
            numbers = {id(check): number for number, check in enumerate(commands, 1)}
            for check in qa.evidence:
                otherwise = "" if check["tail"] in failure.reason else check["tail"]
                if check["code"] == 0:
                    continue
                if id(check) in numbers:
                    number, printed = numbers[id(check)], check["output"]
                    show.tell_last(self._console, place, number, printed, otherwise, retried=retried)
                elif otherwise:  # a promised file that is not there, or a review
                    self._console.line(f"  | {otherwise}", err=True)
            before = suite.failed_before(self._console.project, protocol, {check["check"] for check in qa.evidence})
            if before:
                self._console.fact("before", before, err=True)
        for event in happened:
            if isinstance(event, events.QaFailed) and event.report:
                report = f"{paths.folder(protocol)}/{paths.report_file(event.subject, event.attempt)}"
                self._console.fact("findings", report, err=True)
        if failure.kept:
            self._console.fact("its work", f"kept at {failure.kept}", err=True)

    def _waits(self, state: State) -> None:
        row, project = plain(state), self._console.project
        for wait in row["waiting"]:
            if wait["id"] not in self._told_waits:
                tip = lookup.tip(project, state.protocol)
                text = record.asked_now(project.git, state.protocol, tip, row["steps"], wait)
                self._line(_label(state, wait["subject"]), WAITING, f"for {wait['by']}: {text}")
                self._told_waits.add(wait["id"])

    def _took(self, name: str, word: str, spent: Cost, said: str, *, counted: bool = True) -> None:
        took = describe.duration(spent["seconds"]) if counted else ""
        parts = (took.rjust(6), describe.price(spent), said)
        self._line(name, word, "   ".join(filter(None, parts)), narrow=True)

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
        counted = " · ".join(filter(None, (describe.progress(row), describe.spent_of(row))))
        if state.status == "completed" and not found.to_merge:
            counted += f" · {describe.status_with_merge(session.project, row).partition(' · ')[2]}"
        if state.status in ("completed", "paused", "cancelled"):
            colour = COLOURS.get(state.status, "yellow")
            console.line("  ", (str(state.status).ljust(12), colour), f"  {counted}", err=True)
        elif state.status.value in STOPPED:
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
            console.fact("next", found.next.shown(program()), err=True)
        elif state.status == "cancelled":
            console.fact("next", f"{program()} undo {found.name}", err=True)

    # --- while it lasts ------------------------------------------------------------------------------------------------

    @contextmanager
    def at_work(self, protocol: str, *, verbose: bool = False) -> Iterator[None]:
        """Show the running step: on a terminal all the time, elsewhere a line a minute. `verbose`: print its output as it comes."""
        console = self._console
        if console.quiet:
            yield
            return
        session, stream = console.session, partial(console.line, err=True) if verbose else None
        live = Live(session.redactor, session.env.monotonic, stream)
        console.on_output, stop = live.hear, None
        if not console.shows_progress():

            def beat() -> float:
                if now := live.now():
                    console.line(f"  {now}", err=True)
                return EVERY

            stop = session.env.beside(EVERY, beat)
        try:
            # Its number: at 80 columns its id would leave no room for the step.
            with console.waiting(protocol.partition("-")[0], live.now):
                yield
        finally:
            if stop is not None:
                stop()
            live.end()
            console.on_output = None


class Live:
    """The command or check of a step that runs now: its start, and the last line that it printed.

    Secrets are taken out of whole lines; of those at the end that may be the first ones of a longer secret nothing is shown yet.
    """

    def __init__(
        self, redactor: Redactor, monotonic: Callable[[], float], stream: Callable[[str], None] | None = None
    ) -> None:
        """`stream`: gets each line as it comes, a line that names what prints it before."""
        self._redactor, self._monotonic, self._stream = redactor, monotonic, stream
        self._what, self._since, self._rest = "", 0.0, b""
        # Whether the first line of the rest lacks its beginning, and may have the end of a secret.
        self._is_torn = False

    def hear(self, what: str, data: bytes) -> None:
        """Take the next part of what `what` printed; empty where it starts."""
        if what != self._what:
            self.end()
            self._what, self._since = what, self._monotonic()
            if self._stream is not None:
                self._stream(what)
        rest = self._rest + data
        if self._stream is not None:
            whole, rest = self._whole(rest)
            self._is_torn = self._is_torn and whole in ([], ["..."])
            for line in whole:
                self._show(line)
        self._is_torn = self._is_torn or len(rest) > _WINDOW
        self._rest = rest[-_WINDOW:]

    def end(self) -> None:
        """Show the rest of the output; nothing runs now."""
        rest = self._without_torn(self._redactor.data(self._rest))
        self._what, self._rest, self._is_torn = "", b"", False
        if self._stream is not None:
            for line in rest:
                self._show(line)

    def now(self) -> str:
        """Return name, place, time and last line of the running command on one line; empty where nothing runs."""
        what, rest = self._what, self._rest
        if not what:
            return ""
        took = describe.duration(self._monotonic() - self._since)
        said = "" if self._stream is not None else next(filter(None, map(_end_of, reversed(self._whole(rest)[0]))), "")
        return "  ".join(filter(None, (what, took, said)))

    def _whole(self, data: bytes) -> tuple[list[str], bytes]:
        """Return the lines of `data` that are whole, secrets taken out, and the bytes after them as they are.

        A possible start of a secret is among the latter, and a line that a secret continues from.
        """
        redact, parts = self._redactor.data, data.split(b"\n")
        all_ = redact(data)
        for count in range(len(parts) - 1 - self._redactor.lines, 0, -1):
            head, rest = redact(b"\n".join([*parts[:count], b""])), b"\n".join(parts[count:])
            if head + redact(rest) == all_:
                return self._without_torn(head), rest
        return [], data

    def _without_torn(self, data: bytes) -> list[str]:
        """Return the lines of redacted `data`, without the first ones that may have the end of a secret."""
        found = lines_of_output(data)
        return ["...", *found[1 + self._redactor.lines :]] if self._is_torn and found else found

    def _show(self, line: str) -> None:
        assert self._stream is not None
        self._stream(f"  | {line[:WIDTH]}")


def _end_of(line: str) -> str:
    """Return what a terminal would show of a line that a progress bar wrote anew again and again."""
    return line.rstrip("\r").rpartition("\r")[2].strip()


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


def _edited(state: State, edit: events.PlanEdited) -> str:
    parts = [", ".join(_label(state, slug) for slug in edit.steps)] if edit.steps else []
    parts += [f"{', '.join(edit.removed)} removed"] if edit.removed else []
    return "; ".join(parts) or "plan or context"


# --- what would happen -----------------------------------------------------------------------------------------------


def would(action: machine.Action, state: State) -> str:
    """Return what an action would do, for `--dry-run`."""
    match action:
        case machine.WritePlan():
            return "would have the plan written, with the answers"
        case machine.RunStep(slug):
            return f"would run {_label(state, slug)}: {state.steps[slug].title}, attempt {state.steps[slug].attempt}"
        case machine.AskPerson(slug):
            return f"would ask for the work of {_label(state, slug)}: {state.steps[slug].title}"
        case machine.TakeWork(slug):
            return f"would record the commits since it was asked for as the work of {_label(state, slug)}"
        case machine.CheckStep(slug):
            return f"would check {_label(state, slug)}: qa {state.steps[slug].qa}"
        case machine.CompleteStep(slug):
            return f"would record that {_label(state, slug)} is done"
        case machine.Complete():
            return "would record that every step is done"
        case machine.Halt():
            return f"would do nothing: {action.reason}"
    raise AssertionError(f"unreachable: {action}")
