"""`runner why`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from runner.app import describe, verify, why
from runner.cli import options
from runner.cli.console import Console
from runner.errors import InsufficientHistoryError, UsageError
from runner.git import GitError
from runner.lines import lines_of
from runner.protocol.state import OF_NO_STEP

_PLACE = re.compile(r"(?P<path>.+):(?P<first>[1-9][0-9]{0,8})(?:-(?P<last>[1-9][0-9]{0,8}))?")
WIDTH = 120
Told = dict[str, Any]


@click.command("why")
@click.argument("place", metavar="PATH:LINE")
@options.fetches
@options.as_json
@click.pass_obj
def command(console: Console, place: str, yes: bool, as_json: bool) -> None:
    """Show which step, model and people wrote the line, or the lines of PATH:3-9.

    Follows squashes, moves and later edits by hand. The answer comes from the record in this clone, which `runner verify`
    verifies. Exit 5: objects about a line are missing in this clone. They are fetched if you agree, at the terminal or with
    --yes.
    """
    match = _PLACE.fullmatch(place)
    first = int(match["first"]) if match else 0
    last = int(match["last"] or first) if match else 0
    if match is None or last < first:
        raise UsageError(f"`{place}` names no line", "runner why", "write PATH:LINE, or PATH:FIRST-LAST")
    verify.fetch_nothing(console.project)
    verify.take_histories(console.project, verify.fetched_histories(console.project))
    try:
        told = why.why(console.session, console.cwd, match["path"], first, last)
    except (InsufficientHistoryError, GitError) as error:
        if not console.project.git.is_partial() or console.project.trusted.remote is None:
            raise
        if not options.fetch_missing(console, (), yes=yes, about=match["path"]):
            hint = f"`runner why {place} --yes` fetches it from {console.project.trusted.remote}"
            raise InsufficientHistoryError(
                "part of the history behind this is not in this clone", match["path"], hint
            ) from error
        told = why.why(console.session, console.cwd, match["path"], first, last)
    if options.fetch_missing(console, set(_lacking(told["origins"])), yes=yes):
        told = why.why(console.session, console.cwd, match["path"], first, last)
    if as_json:
        console.json(told)
    for number, origin in enumerate(() if as_json else told["origins"]):
        if number:
            console.line("")
        _show(console, told["path"], origin)
    if any(origin["kind"] == "unknown" for origin in told["origins"]):
        raise SystemExit(InsufficientHistoryError.exit_code)


def _lacking(origins: list[Told]) -> Iterator[str]:
    """Yield the protocols of which something is not in this clone."""
    for told in origins:
        said = told.get("transcript")
        if told["protocol"] and (told["kind"] == "unknown" or (said and not said["turn"])):
            yield told["protocol"]
        yield from _lacking(told["replaced"])


def _show(console: Console, path: str, told: Told) -> None:
    lines = f"{told['first']}" if told["first"] == told["last"] else f"{told['first']}-{told['last']}"
    shown = told["text"][0].strip() if len(told["text"]) == 1 else f"{len(told['text'])} lines"
    console.line((f"{path}:{lines}", "yellow"), f"  {_cut(shown)}")
    _give(console, told, "  ")


def _give(console: Console, told: Told, by: str) -> None:
    for name, text, colour in _rows(console, told):
        console.line(f"{by}{name.ljust(11)}", (text, colour))
    for below in told["replaced"]:
        console.line(f"{by}before that, lines {below['first']}-{below['last']}, by")
        _give(console, below, f"{by}  ")


def _rows(console: Console, told: Told) -> Iterator[tuple[str, str, str]]:
    """Yield (label, text, colour)."""
    step = f"{told['place']:02d}-{told['step']} of {told['protocol']}" if told["step"] else ""
    if told["kind"] == "step":
        yield "step", f"{step}, attempt {told['attempt']}: {_cut(str(told['step_title']))}", "green"
    elif told["kind"] == "uncommitted":
        yield "by hand", "not committed yet", "red"
    elif told["kind"] == "person":
        during = f"on the branch of {told['protocol']}" if told["protocol"] else "in no protocol"
        yield "by hand", f"{told['author']}, {f'for {step}' if step else during}", "red"
    elif told["kind"] == "unknown":
        yield "not known", f"{told['protocol']}: {told['note']}" if told["protocol"] else str(told["note"]), "red"
    else:
        yield (
            str(told["kind"]),
            f"{told['protocol']}, revision {told['revision']}: {', '.join(told['events'])}",
            "green",
        )
    if told["commit"]:
        yield "commit", f"{told['commit'][:12]}  {console.when(told['time'])}  {_cut(told['subject'])}", ""
        yield "line", f"{told['path']}:{told['line']}".replace("\n", "\\n"), ""
    if told["came_in"]:
        yield "merged in", f"{told['came_in'][:12]}, which has the protocol's work as a copy", ""
    if told["protocol"]:
        yield "protocol", f"{told['protocol']}: {_cut(str(told['title']))}", ""
    yield from _work(console, told)


def _work(console: Console, told: Told) -> Iterator[tuple[str, str, str]]:
    who = [text for text in (told.get("engine"), f"as {told['agent']}" if told.get("agent") else "") if text]
    said = told.get("transcript")
    if said and said["model"] and said["model"] not in " ".join(who):
        who.append(f"model {said['model']}")
    if told.get("actor"):
        who.append(f"started by {told['actor']}")
    if told.get("executor"):
        environment = f" with {told['environment']}" if told.get("environment") else ""
        who.append(f"on {told['executor']}{environment}")
    if who:
        yield "by", ", ".join(who), ""
    if told.get("step_file"):
        yield "step file", ": ".join(filter(None, (told["step_file"], _cut(" ".join(str(told["prose"]).split()))))), ""
    if said and said["turn"]:
        tool = f", {said['tool']}" if said["tool"] else ""
        yield "transcript", f"{said['file']}, turn {said['turn']}{tool}, {console.when(said['time'])}", ""
        for line in lines_of(said["text"]):
            yield "", f"| {_cut(line)}", ""
    elif said:
        yield "transcript", str(said["note"]), "yellow"
    for check in told.get("checks", ()):
        outcome = "passed" if check["code"] == 0 else f"exit {check['code']}"
        outcome += f" in attempt {check['attempt']}" if check["attempt"] != told["attempt"] else ""
        yield (
            "check",
            f"{_cut(check['check'])}  {outcome}  {console.when(check['time'])}",
            "" if check["code"] == 0 else "red",
        )
    for word in told.get("approvals", ()):
        about = word["kind"] if word["kind"] in OF_NO_STEP else f"{word['kind']} {word['subject']}"
        reasons = "; ".join(filter(None, word["reasons"]))
        yield (
            "approval",
            f"{about} {word['decision']} by {', '.join(word['by'])}  {console.when(word['time'])}  {_cut(reasons)}",
            "",
        )
    if (cost := told.get("cost")) is not None:
        money = (
            ["price not known"] if cost["usd"] is None else [describe.money(cost["usd"])] if cost["usd"] != "0" else []
        )
        tokens = [f"{cost['input_tokens']:,} tokens in, {cost['output_tokens']:,} out"] if cost["input_tokens"] else []
        yield "cost", " · ".join([describe.duration(cost["seconds"]), *tokens, *money]), ""


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
