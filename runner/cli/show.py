"""`runner show`; and what commands and checks printed, for people: the last lines after a failure, and all of it later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from runner.app import describe, timeline, verify
from runner.cli import log, options, status, streams
from runner.cli.console import COLOURS, Console
from runner.cli.streams import program
from runner.errors import UsageError
from runner.lines import LAST, WIDTH, counted, lines_of, lines_of_output
from runner.protocol import paths
from runner.protocol.event_types import event_type
from runner.protocol.ids import digest
from runner.protocol.log import RawEntry
from runner.protocol.state import ENDED, STOPPED
from runner.store import history, lookup, record
from runner.store.project import Project, Session

if TYPE_CHECKING:
    from runner.protocol.state import Row

PLAN = "plan"  # no step can be called so


@click.command("show")
@options.protocol
@options.step
@options.flag(
    "--transcript",
    help="Show the model's messages and calls in STEP, or its messages when it wrote the `plan`; with --json one record per line.",
)
@options.flag("--output", "of_output", help="Show all that the command of STEP printed; if it has none, its checks.")
@options.number("--check", metavar="N", help="With --output: the check whose output is shown.")
@options.number(
    "--attempt", metavar="N", help="The attempt whose transcript or output is shown. Default: the last one."
)
@options.fetches
@options.as_json
@click.pass_obj
def command(
    console: Console,
    protocol: str | None,
    step: str | None,
    transcript: bool,
    of_output: bool,
    check: int | None,
    attempt: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Show the plan, steps and results of PROTOCOL; or the text, attempts and check results of STEP."""
    session = console.session
    of_plan = transcript and step == PLAN
    name, slug = options.found(console, protocol, None if of_plan else step)
    tip = lookup.tip(session.project, name)
    row = record.row(session.git, name, tip)
    if slug is not None and slug not in row["steps"]:
        row = record.as_planned(session.git, row, tip)
    if of_plan or (transcript and row["status"] == "planning"):
        slug = PLAN
    if attempt is not None and not (transcript or of_output):
        raise click.UsageError("--attempt goes with --transcript or --output")
    if check is not None and not of_output:
        raise click.UsageError("--check goes with --output")
    if transcript and of_output:
        raise click.UsageError("--transcript and --output are shown one at a time")
    if not as_json:
        console.pages()
    if of_output:
        if slug is None:
            typed = lookup.typed(session.project, name)
            ran = [slug for slug, step in record.open_steps(row) if step["status"] != "pending" or step["attempt"] > 1]
            commands = " or ".join(f"`runner show {typed} {slug} --output`" for slug in ran[-3:])
            raise UsageError("no step is named", name, commands or f"none ran yet; `runner show {typed}` lists them")
        show_output(console, row, slug, attempt, check, as_json=as_json, yes=yes)
    elif transcript:
        show_transcript(console, row, slug, attempt, as_json=as_json, yes=yes)
    elif as_json:
        told = status.as_plain(session, row, protocol)
        console.json(told if slug is None else {**row["steps"][slug], "protocol": name, "step": slug})
    elif slug is None:
        show_protocol(console, session, row, tip, protocol)
    else:
        show_step(console, session, row, tip, slug)


def show_protocol(console: Console, session: Session, row: Row, tip: str, asked: str | None) -> None:
    """Give the protocol's standing, its plan's prose and what it made. `asked`: what it was found by."""
    status.show_one(console, session, row, asked)
    plan = record.prose(session.git.blob(f"{tip}:{paths.folder(row['protocol'])}/{paths.PLAN}"))
    if plan:
        console.line("")
        _indented(console, plan)
    made = [artifact for artifact in row.get("artifacts", []) if isinstance(artifact, dict)]
    if made:
        console.line("")
        console.line("  outputs")
    for artifact in made:
        by = record.label(row, str(artifact.get("step")))
        console.line(f"  {artifact.get('id')}  {artifact.get('path')}  by {by}")


def show_transcript(
    console: Console, row: Row, slug: str | None, attempt: int | None, *, as_json: bool, yes: bool
) -> None:
    """Give what the model said and called in an attempt, and then what the model said that judged it.

    Raises:
        UsageError: no step is named and not one alone has a transcript, or there is none.
    """
    import json

    session, project, protocol = console.session, console.project, row["protocol"]
    verify.take_histories(project, [protocol])
    if slug is None:
        asked = [name for name, step in record.open_steps(row) if step.get("kind") == "agent"]
        if len(asked) != 1:
            hint = f"name the step whose transcript to show: {', '.join(asked)}"
            none = f"no step asks a model; `{program()} show {protocol}` shows them all"
            raise UsageError("no step is named", protocol, hint if asked else none)
        slug = asked[0]

    def read() -> tuple[int, int, dict[str, Any]]:
        last = log.last_plan(project, protocol) if slug == PLAN else int(row["steps"][slug].get("attempt", 1))
        number = attempt or last
        kinds = ("work", "review")
        return (
            last,
            number,
            {of: log.read_transcript(project, protocol, str(slug), number, review=of == "review") for of in kinds},
        )

    last, number, found = read()
    if not any(found.values()) and number <= last and options.fetch_missing(console, [protocol], yes=yes):
        last, number, found = read()
    if not any(found.values()):
        raise _none(session, row, slug, number, last)
    for of, records in found.items():
        if as_json:
            for one in records:
                streams.put(json.dumps({"of": of, **one}, sort_keys=True))
        elif records:
            console.line(
                f"{record.label(row, slug)} of {protocol}  attempt {number}{'  review' if of == 'review' else ''}"
            )
            log.show_records(console, records)
            told = lines_of_output(kept_output(project, protocol, str(slug), number) or b"") if of == "work" else []
            for line in [*told[: log.LINES], *(["… `--output` shows the rest"] if len(told) > log.LINES else [])]:
                console.line(f"  {line[: log.WIDTH]}")
            console.line("")


def _none(session: Session, row: Row, slug: str, number: int, last: int) -> UsageError:
    """Return the error for an attempt without a transcript here, with what to type instead; `last`: the last attempt."""
    project, protocol = session.project, row["protocol"]
    step: Mapping[str, object] = row["steps"].get(slug) or {}
    name = lookup.typed(project, protocol)
    earlier = (log.read_transcript(project, protocol, slug, number - 1, review=of) for of in (False, True))
    before = f"`--attempt {number - 1}` shows the attempt before" if number > 1 and any(earlier) else ""
    if number > last:
        what, hint = f"{slug} has no attempt {number}", f"its last attempt is {last}: leave --attempt out"
    elif slug != PLAN and number == last and step.get("kind") != "agent" and step.get("qa") != "full":
        what = f"{slug} has no transcript: a step of kind {step.get('kind')} asks no model"
        hint = f"`runner show {name} {slug}` shows its attempts and checks"
    elif slug != PLAN and number == last and step.get("status") == "pending":
        what, hint = f"attempt {number} of {slug} has not started", f"`runner status {name}` shows what comes first"
        if log.read_transcript(project, protocol, PLAN, 1, review=False):
            hint = f"`runner show {name} {PLAN} --transcript` shows the messages about the plan"
        hint = before or hint
    else:
        brings = history.brings(protocol, session.to_ask, f"show {name} {slug} --transcript")
        what = f"attempt {number} of {slug} has no transcript here"
        hint = "; ".join(filter(None, (f"if it was made elsewhere, {brings}", before)))
    return UsageError(what, protocol, hint)


def show_step(console: Console, session: Session, row: Row, tip: str, slug: str) -> None:
    """Give the step's standing, its prose, its attempts and what the last of them said."""
    protocol, step = row["protocol"], row["steps"][slug]
    entries = record.events(session.git, protocol, tip)
    name = lookup.typed(session.project, protocol)
    console.line(f"{record.label(row, slug)} of {protocol}  {step.get('title')}")
    shown = str(step.get("status"))
    parts = [str(step.get("kind")), f"attempt {step.get('attempt', 1)}", f"qa {step.get('qa')}"]
    parts += [f"needs {', '.join(step['needs'])}"] if step.get("needs") else []
    parts += ["removed from the plan"] if step.get("removed") else []
    for one in entries:
        done = one.fields.get("done") if one.event == "forked" else None
        parts += [f"done at {one.fields.get('source')}"] if isinstance(done, dict) and slug in done else []
    colour = COLOURS.get(shown, "")
    console.line("  ", (shown.replace("_", " "), colour), *(f" · {part}" for part in parts))
    file, data = record.step_file(session.git, protocol, tip, slug)
    if file:
        console.line(f"  {paths.folder(protocol)}/{file}")
        text = record.with_inputs(session.git, protocol, tip, record.prose(data))
        if text:
            console.line("")
            _indented(console, text)
    found = describe.describe(session, row, tip, name)
    for wait in found.waits:
        if wait.get("subject") == slug:
            console.line("")
            console.line(f"  waits  {wait.get('id')} {describe.wait_text(row, wait, session.env.now())}")
            console.line(f"         {wait.get('text')}")
            if wait.get("id") in found.approvals:
                status.show_approvals(console, found.approvals[wait["id"]])
    about = [entry for entry in entries if entry.subject == slug]
    if about:
        console.line("")
    for entry in about:
        log.show_account(console, entry, timeline.account(entry, protocol), entry.event.ljust(16))
    last = next((entry for entry in reversed(about) if entry.fields.get("tail")), None)
    if last is not None:
        console.line("")
        console.line(f"  the end of its output, {entry_name(last)}:")
        _indented(console, str(last.fields["tail"]), "    ")
    if has_output(session.project, protocol, slug):
        console.line("")
        check = failed_check(about)
        console.line(f"  output  {program()} show {name} {slug} --output{f' --check {check}' if check else ''}")
    if step.get("result") is not None:
        import json

        console.line("")
        console.line(f"  result  {json.dumps(step['result'], sort_keys=True, ensure_ascii=False)}")
    if shown in STOPPED and row["status"] not in ENDED:
        console.line(f"  shell   {program()} shell {name} {slug}")
        console.line(f"  next    {program()} retry {name}")


def entry_name(entry: RawEntry) -> str:
    """Return how an event is named among others: `12 step-failed`."""
    return f"{entry.revision} {entry.event}"


def _indented(console: Console, text: str, by: str = "  ") -> None:
    for line in lines_of(text):
        console.line(f"{by}{line}" if line.strip() else "")


# --- what commands and checks printed ---------------------------------------------------------------------------------

_NOTHING = digest(b"")


def kept_output(project: Project, protocol: str, slug: str, attempt: int, check: int | None = None) -> bytes | None:
    """Return the output of an attempt's command, or of its QA's check, from the history; None where it is not there."""
    return history.read(project.git, protocol, history.output_name(slug, attempt, check))


def _network_of(data: bytes) -> bytes:
    """Return the lines about the network of a command that printed nothing; what it printed when it ran before is there, too."""
    last = data.rpartition(history.AGAIN)[2]
    return last if all(line.startswith(b"[network] ") for line in last.rstrip(b"\n").split(b"\n")) else b""


def has_output(project: Project, protocol: str, slug: str) -> bool:
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
    ran = enumerate(commands_of(evidence, reviewed=bool(last.fields.get("report"))), 1)
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
    data = kept_output(project, protocol, slug, attempt, check)
    data = _network_of(data or b"") if printed == _NOTHING else data
    found = lines_of(otherwise) if data is None else lines_of_output(data)
    last = found[-LAST:]
    for line in last:
        console.line(f"  | {line[:WIDTH]}", err=True)
    if data is not None and (len(found) > LAST or any(len(line) > WIDTH for line in last)):
        which = f"{f' --check {check}' if check else ''}{f' --attempt {attempt}' if retried else ''}"
        told = f"{program()} show {lookup.typed(project, protocol)} {slug} --output{which}"
        console.fact("all of it", told, err=True)


def show_output(
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
        if not check and wanted != [None] and kept_output(session.project, protocol, slug, number):
            wanted.insert(0, None)
        found = {of: kept_output(session.project, protocol, slug, number, of) for of in wanted}
        return {of: _network_of(data or b"") if printed.get(of) == _NOTHING else data for of, data in found.items()}

    found = read()
    lacks = any(data is None and of in printed for of, data in found.items())
    if lacks and options.fetch_missing(console, [protocol], yes=yes):
        found = read()
    for of, data in found.items():
        if data is None:
            raise _no_output(session, row, slug, number, of, printed)
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
        for number, one in enumerate(commands_of(evidence, reviewed=bool(entry.fields.get("report"))), 1):
            found[number] = str(one.get("output"))
    return found


def commands_of(evidence: Sequence[Mapping[str, Any]], *, reviewed: bool) -> list[Mapping[str, Any]]:
    """Return the checks of a QA's evidence that are commands: `--check` counts them.

    A promised file printed nothing that has a digest; a model's review is the last one, if there was one.
    """
    return [one for one in evidence[: -1 if reviewed else None] if one.get("output")]


def _checks_in(names: Mapping[str, object], slug: str, attempt: int) -> list[int]:
    numbers = (re.fullmatch(rf"{re.escape(slug)}\.{attempt}\.check-([0-9]+)\.txt", name) for name in names)
    return [int(number[1]) for number in numbers if number]


def _no_output(
    session: Session, row: Row, slug: str, number: int, check: int | None, printed: Mapping[int | None, str]
) -> UsageError:
    """Return why an output is not here, and what can be done."""
    protocol, last = row["protocol"], int(row["steps"][slug].get("attempt", 1))
    if check in printed:
        brings = history.brings(protocol, session.to_ask, f"show {protocol} {slug} --output")
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
