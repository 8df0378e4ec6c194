"""`runner show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from runner.app import describe, timeline, verify
from runner.cli import log, options, output, status, streams
from runner.cli.console import COLOURS, Console
from runner.cli.streams import program
from runner.errors import UsageError
from runner.lines import lines_of, lines_of_output
from runner.protocol import paths
from runner.protocol.log import RawEntry
from runner.protocol.state import STOPPED
from runner.store import history, lookup, record
from runner.store.project import Session

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
            steps = [name for name, _ in record.open_steps(row)]
            raise UsageError("no step is named", name, f"name the step whose output to show: {', '.join(steps)}")
        output.show(console, row, slug, attempt, check, as_json=as_json, yes=yes)
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
    for artifact in made:
        console.line(
            f"  {artifact.get('id')}  {artifact.get('path')}  by {record.label(row, str(artifact.get('step')))}"
        )


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
            told = lines_of_output(output.kept(project, protocol, str(slug), number) or b"") if of == "work" else []
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
        again = f"`runner show {name} {slug} --transcript --yes` fetches it from {project.trusted.remote}"
        brings = again if project.trusted.remote and session.mirror is None else history.brings(protocol, None)
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
    if output.is_kept(session.project, protocol, slug):
        console.line("")
        check = output.failed_check(about)
        console.line(f"  output  {program()} show {name} {slug} --output{f' --check {check}' if check else ''}")
    if step.get("result") is not None:
        import json

        console.line("")
        console.line(f"  result  {json.dumps(step['result'], sort_keys=True, ensure_ascii=False)}")
    if shown in STOPPED and row["status"] not in record.ENDED:
        console.line(f"  shell   {program()} shell {name} {slug}")
        console.line(f"  next    {program()} retry {name}")


def entry_name(entry: RawEntry) -> str:
    """Return how an event is named among others: `12 step-failed`."""
    return f"{entry.revision} {entry.event}"


def _indented(console: Console, text: str, by: str = "  ") -> None:
    for line in lines_of(text):
        console.line(f"{by}{line}" if line.strip() else "")
