"""What commands and checks print, for people: as it comes, its last lines after a failure, and all of it later."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from runner.app import describe, verify
from runner.cli import options, streams
from runner.cli.streams import program
from runner.errors import UsageError
from runner.lines import LAST, WIDTH, counted, lines_of, lines_of_output
from runner.protocol.event_types import event_type
from runner.protocol.ids import digest
from runner.store import history, lookup, record

if TYPE_CHECKING:
    from runner.cli.console import Console
    from runner.protocol.log import RawEntry
    from runner.protocol.state import Row
    from runner.store.environment import Redactor
    from runner.store.project import Project, Session

EVERY: Final = 60.0  # seconds between two lines about the running command, where there is no terminal
_WINDOW: Final = 64 * 1024  # bytes in which the last line is looked for
_NOTHING = digest(b"")


def kept(project: Project, protocol: str, slug: str, attempt: int, check: int | None = None) -> bytes | None:
    """Return the output of an attempt's command, or of its QA's check, from the history; None where it is not there."""
    return history.read(project.git, protocol, history.output_name(slug, attempt, check))


def _network_of(data: bytes) -> bytes:
    """Return the lines about the network of a command that printed nothing; what it printed when it ran before is there, too."""
    last = data.rpartition(history.AGAIN)[2]
    return last if all(line.startswith(b"[network] ") for line in last.rstrip(b"\n").split(b"\n")) else b""


def is_kept(project: Project, protocol: str, slug: str) -> bool:
    """Return whether any output of a step is here."""
    return any(name.startswith(f"{slug}.") for name in history.outputs(project.git, history.ref_of(protocol)))


def failed_check(about: Sequence[RawEntry]) -> int | None:
    """Return the number of the first command that failed in QA, where that is how a step's work ended last. `about`: its events."""
    last = next(
        (entry for entry in reversed(about) if entry.event == "step-finished" or event_type(entry.event).is_verdict),
        None,
    )
    if last is None or last.event != "qa-failed":
        return None
    evidence = [check for _, check in record.checks([last], last.subject)]
    ran = enumerate(commands(evidence, reviewed=bool(last.fields.get("report"))), 1)
    return next((number for number, check in ran if check.get("code") != 0), None)


def tell_last(
    console: Console,
    place: tuple[str, str, int],
    check: int | None,
    printed: str,
    otherwise: str,
    *,
    retried: bool = False,
) -> None:
    """Print the last lines of what failed to stderr, and the command that shows the rest.

    `place`: protocol, step and attempt; `check`: None for the step's command; `printed`: the output's digest in the record;
    `otherwise`: the record's part of an output that is not kept; `retried`: another attempt follows.
    """
    protocol, slug, attempt = place
    project = console.project
    data = kept(project, protocol, slug, attempt, check)
    data = _network_of(data or b"") if printed == _NOTHING else data
    found = lines_of(otherwise) if data is None else lines_of_output(data)
    last = found[-LAST:]
    for line in last:
        console.line(f"  | {line[:WIDTH]}", err=True)
    if data is not None and (len(found) > LAST or any(len(line) > WIDTH for line in last)):
        which = f"{f' --check {check}' if check else ''}{f' --attempt {attempt}' if retried else ''}"
        told = f"{program()} show {lookup.typed(project, protocol)} {slug} --output{which}"
        console.line(f"  {'all of it':12}  {told}", err=True)


# --- `show --output` ---------------------------------------------------------------------------------------------------


def show(
    console: Console,
    row: Row,
    slug: str,
    attempt: int | None,
    check: int | None,
    *,
    as_json: bool,
    yes: bool,
) -> None:
    """Give what a step's command printed, or its checks; `attempt`: None for the last that started.

    Raises:
        UsageError: there is none, or it was not kept.
    """
    session, protocol, step = console.session, row["protocol"], row["steps"][slug]
    verify.take_histories(session.project, [protocol])
    last = int(step.get("attempt", 1))
    number = attempt or (last - 1 if last > 1 and step.get("status") == "pending" else last)
    printed = _printed(session.project, protocol, slug, number)

    def read() -> dict[int | None, bytes | None]:
        there = history.outputs(session.git, history.ref_of(protocol))
        checks = sorted(of for of in {*printed, *_checks_in(there, slug, number)} if of is not None)
        wanted: list[int | None] = [check] if check else [None] if step.get("kind") == "command" else [*checks]
        if not check and wanted != [None] and kept(session.project, protocol, slug, number):
            wanted.insert(0, None)
        found = {of: kept(session.project, protocol, slug, number, of) for of in wanted}
        return {of: _network_of(data or b"") if printed.get(of) == _NOTHING else data for of, data in found.items()}

    found = read()
    lacks = any(data is None and of in printed for of, data in found.items())
    if lacks and options.fetch_missing(console, [protocol], yes=yes):
        found = read()
    for of, data in found.items():
        if data is None:
            raise _none(session, row, slug, number, of, printed)
    if not found:
        raise UsageError(
            f"attempt {number} of {slug} ran no checks", protocol, f"`runner show {protocol} {slug}` shows what it did"
        )
    if as_json:
        told = [{"check": of, "output": (data or b"").decode("utf-8", "replace")} for of, data in found.items()]
        console.json({"protocol": protocol, "step": slug, "attempt": number, "outputs": told})
        return
    for of, data in found.items():
        if len(found) > 1:
            what = f"check {of}" if of else "the network of the tools"
            console.line(f"== {what} of {record.label(row, slug)}, attempt {number}")
        if not data:
            console.note("it printed nothing")
            shows = f"{program()} show {lookup.typed(session.project, protocol)} {slug} --output"
            said = (one for one, text in printed.items() if one is not None and text != _NOTHING)
            for one in sorted(said) if of is None else ():
                which = f"--check {one}{f' --attempt {attempt}' if attempt else ''}"
                console.note(f"  {f'check {one}':12}  {shows} {which}")
        streams.put_output(data or b"", lambda data: console.lines([(line,) for line in lines_of_output(data)]))


def _printed(project: Project, protocol: str, slug: str, attempt: int) -> dict[int | None, str]:
    """Return the digests of what an attempt's command (None) and its checks printed, as the log names them."""
    found: dict[int | None, str] = {}
    for entry in record.events(project.git, protocol, lookup.tip(project, protocol)):
        if entry.subject != slug or entry.fields.get("attempt") != attempt:
            continue
        if entry.fields.get("output"):
            found[None] = str(entry.fields["output"])
        evidence = [told for _, told in record.checks([entry], slug)]
        for number, one in enumerate(commands(evidence, reviewed=bool(entry.fields.get("report"))), 1):
            found[number] = str(one.get("output"))
    return found


def commands(evidence: Sequence[Mapping[str, Any]], *, reviewed: bool) -> list[Mapping[str, Any]]:
    """Return the checks of a QA's evidence that are commands: `--check` counts them.

    A promised file printed nothing that has a digest; a model's review is the last one, if there was one.
    """
    return [one for one in evidence[: -1 if reviewed else None] if one.get("output")]


def _checks_in(names: Mapping[str, object], slug: str, attempt: int) -> list[int]:
    numbers = (re.fullmatch(rf"{re.escape(slug)}\.{attempt}\.check-([0-9]+)\.txt", name) for name in names)
    return [int(number[1]) for number in numbers if number]


def _none(
    session: Session, row: Row, slug: str, number: int, check: int | None, printed: Mapping[int | None, str]
) -> UsageError:
    """Return why an output is not here, and what can be done."""
    protocol, last = row["protocol"], int(row["steps"][slug].get("attempt", 1))
    if check in printed:
        again = f"`runner show {protocol} {slug} --output --yes` fetches it from {session.project.trusted.remote}"
        brings = again if session.project.trusted.remote and session.mirror is None else history.brings(protocol, None)
        what = f"the output of {f'check {check} of ' if check else ''}{slug}, attempt {number}, was not kept here"
        hint = f"if another clone made it, {brings}; `runner show {protocol} {slug}` shows the end of it"
        return UsageError(what, protocol, hint)
    if number > last:
        hint = f"it is at attempt {last}"
    elif check is not None and (count := sum(of is not None for of in printed)):
        hint = f"its QA ran {counted(count, 'check')}"
    else:
        hint = f"`runner show {protocol} {slug}` shows its attempts"
    what = (
        f"check {check} of {slug} did not run in attempt {number}"
        if check
        else f"attempt {number} of {slug} ran no command"
    )
    return UsageError(what, protocol, hint)


# --- as it comes -------------------------------------------------------------------------------------------------------


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
