"""`runner log`, `diff` and `why`, and the transcript of an attempt for people: messages, calls and results, turn by turn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from runner.app import describe, timeline, verify, why
from runner.app.timeline import Account
from runner.cli import options, streams
from runner.cli.console import Console
from runner.errors import InsufficientHistoryError, RunnerError, UsageError
from runner.executor import journal
from runner.git import GitError
from runner.lines import cut, lines_of, money
from runner.protocol import paths
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry, parse_message
from runner.protocol.state import ENDED, OF_NO_STEP, read_json
from runner.store import history, lookup, record
from runner.store.environment import matching
from runner.store.project import Project

Record = Mapping[str, Any]
LINES = 24  # of one output that are shown
BRIEF = 3  # of them where a running step is followed
WIDTH = 160  # characters of a line
POLL = 0.5  # seconds between two looks at the branch


@click.command("log")
@options.protocol
@options.as_json
@options.flag("--follow", help="Print new events, and the turns of a running step, until the protocol ends.")
@click.option("--oneline", "form", flag_value="oneline", help="One line per commit: transitions, and edits.")
@click.option("--graph", "form", flag_value="graph", help="As --oneline, with git's graph and merges.")
@click.pass_obj
def command(console: Console, protocol: str | None, as_json: bool, follow: bool, form: str | None) -> None:
    """Show the events of PROTOCOL, oldest first, one a line; at a terminal in local time, else in UTC.

    With --json, one object per line with all fields, as log.md has them.
    """
    session = console.session
    if form and (as_json or follow):
        raise click.UsageError(f"--{form} goes neither with --json nor with --follow")
    name, _ = options.found(console, protocol)
    if not as_json and not follow:
        console.pages()
    if form:
        _commits(console, name, graph=form == "graph")
        return
    show: Show = _json if as_json else partial(_line, console, name)
    tip = lookup.tip(session.project, name)
    shown = _show(show, record.events(session.git, name, tip), 0)
    look = _AtWork(console, session.project, name).look if follow and not as_json else lambda: None
    while follow and record.row(session.git, name, tip)["status"] not in ENDED:
        while (now := lookup.tip(session.project, name)) == tip:
            look()
            time.sleep(POLL)
        look()  # what was written between the two
        tip = now
        shown = _show(show, record.events(session.git, name, tip), shown)


def _commits(console: Console, name: str, *, graph: bool) -> None:
    """Print the commits of a protocol's branch since its start, a line each: with --oneline the oldest first, as the events."""
    project, tip = console.project, lookup.tip(console.project, name)
    start, has_branch = _start(console, name, tip), project.tip(name) is not None
    way = ["--graph"] if graph else ["--reverse", *(["--first-parent"] if has_branch else [])]
    only = [tip] if has_branch else [tip, "--", paths.folder(name)]  # of the base: what touches it
    since = [f"^{start}"] if start else []
    out = project.git.run("log", *way, "--no-color", f"--format={_COMMIT}", *since, *only)
    for line in out.decode("utf-8", "replace").split("\n")[:-1]:
        left, *rest = line.split("\0")
        if len(rest) == 4:
            said, author, actor, happened = rest
            said = said.removeprefix(f"{name}: ")
            if said == "failed" and happened.startswith("step-failed "):
                said = f"{happened.partition(',')[0].removeprefix('step-failed ')} failed"
            console.line((left, "yellow"), f"  {said}  ({actor or author})")
        else:
            console.line(left)


# Commit, subject, author, and of a transition: the person or program that caused it, and its events.
_COMMIT = "%x00".join(
    ("%h", "%s", "%an", *(f"%(trailers:key=Runner-{key},valueonly,separator=%x2C)" for key in ("Actor", "Event")))
)


Show = Callable[[RawEntry], None]


class _AtWork:
    """The journals of a protocol's attempts, read beside the runner that writes them; no lock is taken."""

    def __init__(self, console: Console, project: Project, protocol: str) -> None:
        self._console, self._folder = console, project.dirs.journal(protocol)
        self._sizes: dict[str, int] = {}
        self._shown: dict[str, int] = {}
        row = record.row(project.git, protocol, lookup.tip(project, protocol))
        open_now = {
            f"{slug}.{step.get('attempt', 1)}{'.qa' if step['status'] == 'needs_qa' else ''}.jsonl"
            for slug, step in row["steps"].items()
            if step["status"] in ("pending", "running", "needs_qa")
        }
        for path in self._files():
            if path.name not in open_now:  # what has ended stands in the history
                self._shown[path.name] = len(self._records(path))

    def _files(self) -> list[Path]:
        return [path for path in matching(self._folder, "*.jsonl") if ".lost-" not in path.name]

    def _records(self, path: Path) -> list[dict[str, Any]]:
        try:
            self._sizes[path.name] = path.stat().st_size
            return _rows(path)
        except (RunnerError, OSError):  # it is being replaced, or damaged: whoever runs the step says so
            return []

    def look(self) -> None:
        """Show the new entries since the last call."""
        for path in self._files():
            try:
                if path.stat().st_size == self._sizes.get(path.name, 0):
                    continue
            except OSError:
                continue
            found, before = self._records(path), self._shown.get(path.name, 0)
            if len(found) > before:
                if before == 0:
                    self._console.line("")
                    self._console.line((path.name.removesuffix(".jsonl"), "yellow"), "  is at work")
                show_records(self._console, found, after=before, brief=True)
                self._shown[path.name] = len(found)


def _show(show: Show, entries: Sequence[RawEntry], after: int) -> int:
    for entry in entries:
        if entry.revision > after:
            show(entry)
    return max(after, entries[-1].revision) if entries else after


def _json(entry: RawEntry) -> None:
    told = {"revision": entry.revision, "event": entry.event, "subject": entry.subject}
    streams.put(json.dumps({**told, "time": entry.time, "actor": entry.actor, **entry.fields}))


def _line(console: Console, protocol: str, entry: RawEntry) -> None:
    is_short = event_type(entry.event).about == "protocol" and entry.revision > 1
    name = entry.event if is_short else f"{entry.event} {entry.subject}"
    found = timeline.account(entry, protocol)
    show_account(console, entry, found, name.ljust(24), actor=True)
    for line in lines_of(found.tail):
        console.line(f"          {line}")


def show_account(console: Console, entry: RawEntry, found: Account, event: str, *, actor: bool = False) -> None:
    """Give what an entry says: a line, then its checks and texts of several lines. `event`: how the line names it."""
    who = f"  ({entry.actor})" if actor else ""
    console.line(
        (f"{entry.revision:>4}", "yellow"), f"  {console.when(entry.time)}  {event}  {' · '.join(found.parts)}{who}"
    )
    for check in found.checks:
        colour = "green" if check.passed else "red"
        console.line(f"        {check.name}  ", (check.outcome, colour), f"  {check.took}")
        for line in lines_of(check.tail):
            console.line(f"          {line}")
    for name, text in found.texts:
        console.line(f"        {name}:")
        for line in lines_of(text):
            console.line(f"          {line}")


@click.command("diff")
@options.protocol
@options.step
@options.flag("--stat", help="Print only the files and the number of lines.")
@options.flag("--record", "with_record", help="Include the protocol's own folder.")
@options.as_json
@click.pass_obj
def diff_command(
    console: Console, protocol: str | None, step: str | None, stat: bool, with_record: bool, as_json: bool
) -> None:
    """Show what PROTOCOL changed against its base, or what the last attempt of STEP changed, without the protocol's own folder.

    With --json, the two commits and the files that differ between them, with the number of lines added and removed.
    """
    if stat and as_json:
        raise click.UsageError("--stat does not go with --json, which has the numbers of lines")
    session = console.session
    git = session.git
    name, slug = options.found(console, protocol, step)
    if not as_json:
        console.pages()
    tip, squash = _end(session.project, name)
    if slug is not None:
        work = record.work_of(git, name, tip, slug)
        if work is None:
            console.note(f"{slug} has no work to show")
            if as_json:
                console.json({"protocol": name, "step": slug, "from": None, "to": None, "files": []})
            return
        before, after = work
    else:
        row = record.row(git, name, tip)
        common = record.left_base(git, tip, str(row.get("base", "")), session.project.trusted.remote)
        if common == tip:  # merged: its work is what it had brought when it was
            common = squash or _start(console, name, tip)
        if common is None:
            raise InsufficientHistoryError(
                f"where {name} left {row.get('base')} is not known here", str(row.get("base")), "run `git fetch`"
            )
        before, after = common, tip
    without = "" if with_record else name
    if as_json:
        out = record.diff(git, before, after, "--numstat", "--no-renames", "-z", without=without)
        console.json({"protocol": name, "step": slug, "from": before, "to": after, "files": list(_changed(out))})
        return
    out = record.diff(git, before, after, *(["--stat"] if stat else []), without=without)
    if not out:
        console.note(f"{slug or name} changed nothing")
    show_diff(console, out)


def _changed(numstat: bytes) -> Iterator[dict[str, str | int | None]]:
    """Yield the files of `git diff --numstat -z`, with the lines added and removed; None where a file is binary."""
    for row in numstat.decode("utf-8", "replace").split("\0")[:-1]:
        added, removed, path = row.split("\t", 2)
        is_binary = added == "-"
        yield {"path": path, "added": None if is_binary else int(added), "removed": None if is_binary else int(removed)}


def _end(project: Project, name: str) -> tuple[str, str | None]:
    """Return the last commit of a protocol, and, where its branch is gone and its merge was a squash, the commit before that."""
    git, tip = project.git, lookup.tip(project, name)
    brought = git.commit(record.merged_in(git, name, tip) or "") if project.tip(name) is None else None
    if brought is None or not brought.parents:
        return tip, None
    if len(brought.parents) > 1:
        return brought.parents[1], None
    return brought.oid, None if parse_message(brought.message) else brought.parents[0]


def _start(console: Console, name: str, tip: str) -> str | None:
    """Return the commit of the base that the protocol started from, by its first event."""
    entries = record.events(console.project.git, name, tip)
    start = entries[0].fields.get("start") if entries else None
    return console.project.git.resolve(start) if isinstance(start, str) else None


def show_diff(console: Console, out: bytes) -> None:
    """Print a diff as it is; on a terminal nothing in it can steer the terminal, and it has colours."""
    colours = {"+": "green", "-": "red", "@": "cyan"}

    def show(out: bytes) -> None:
        for line in out.decode("utf-8", "replace").split("\n")[:-1]:
            console.line((line, colours.get(line[:1], "")), verbatim=True)

    streams.put_output(out, show)


# --- the transcript of an attempt ---------------------------------------------------------------------------------------


def read_transcript(project: Project, protocol: str, slug: str, attempt: int, *, review: bool) -> list[Record]:
    """Return the records of an attempt, or of its review: from the history, or from the journal where that has more.

    No lock is taken: a record that is being written is not seen yet.

    Raises:
        IntegrityError: the journal is damaged.
    """
    name = history.review_name(slug, attempt) if review else history.transcript_name(slug, attempt)
    data = history.read(project.git, protocol, name) or b""
    filed: list[Record] = [json.loads(line) for line in data.split(b"\n") if line]
    noted = _rows(project.dirs.journal(protocol) / name.removeprefix("runs/"))
    return list(noted) if len(noted) > len(filed) else filed


def _rows(path: Path) -> list[dict[str, Any]]:
    return journal.Journal(path).rows


def last_plan(project: Project, protocol: str) -> int:
    """Return the number of the last plan that a model wrote, whose transcript is here; 1 where there is none."""
    count = 1
    while history.read(project.git, protocol, history.transcript_name("plan", count + 1)) is not None:
        count += 1
    return count


def show_records(console: Console, records: Sequence[Record], *, after: int = 0, brief: bool = False) -> None:
    """Give the records but the first `after`; `brief`: as they are followed, thoughts left out and outputs short."""
    turn = 0
    for number, row in enumerate(records):
        turn += row["kind"] in ("response", "summary")
        if number < after:
            continue
        match row["kind"]:
            case "response":
                _response(console, row, turn, brief)
            case "summary":
                console.line("")
                console.line((f"turn {turn}", "yellow"), "  the conversation was summarized, and continues from this:")
                _text(console, str(row["text"]), BRIEF if brief else LINES)
            case "results":
                _results(console, row, brief)
            case "held":
                console.line("  ", ("held", "yellow"), f"  {row['text']}"[:WIDTH])
                console.line(f"      {row['decision']['why']} ({row['decision']['where']})"[:WIDTH])
            case "intent":
                console.line("  ", ("starts", "yellow"), f"  {row['text']}"[:WIDTH])
            case "outcome":
                console.line("  ", ("ended", "yellow"), f"  {row['tool']}{', with an error' if row['error'] else ''}")
            case "settled":
                console.line("  ", ("settled", "yellow"), f"  {row['how']}"[:WIDTH])
            case "task":
                console.line("")
                console.line("its task")
                _text(console, str(row["text"]), BRIEF if brief else LINES)
            case "answers":
                console.line("")
                for asked, said in zip(row["questions"], row["answers"], strict=True):
                    console.line("  ", ("answered", "green"), f"  {asked}  {said}")
            case "undecided":
                console.line("")
                problems = "; ".join(map(str, row.get("problems", ()))).replace("\n", " ")
                console.line(("nothing was decided", "red"), f"  {problems}")
            case _:
                console.line(f"  {row['kind']}")


def _response(console: Console, row: Record, turn: int, brief: bool) -> None:
    usage = row["usage"]
    told = [str(row["engine"]), f"{usage['input']:,} in, {usage['output']:,} out"]
    told[-1] += f" ({usage['cached']:,} of the input cached)" if usage.get("cached") else ""
    told.append(money(row["usd"]) if row["usd"] is not None else "price not known")
    told += [str(row["finish"])] if row["finish"] not in ("stop", "") else []
    if not brief or turn == 1:
        console.line("")
    console.line((f"turn {turn}", "yellow"), f"  {console.when(str(row['time']))}  {' · '.join(told)}")
    if row["thoughts"] and not brief:
        console.line("  thinks")
        _text(console, str(row["thoughts"]), LINES, "    ")
    _text(console, _indented(str(row["text"])), BRIEF if brief else LINES)
    for call in row["calls"]:
        arguments = call["arguments"]
        if arguments is None:
            console.line("  → ", (str(call["name"]), "cyan"), f"  malformed: {call['problem']}")
            continue
        short, long = _apart(arguments)
        console.line("  → ", (str(call["name"]), "cyan"), f"  {short}")
        _blocks(console, long, brief)


def _results(console: Console, row: Record, brief: bool) -> None:
    for one in row["results"]:
        console.line(
            "  ← ", (str(one["name"]), "red" if one["error"] else "green"), "  refused" if one["error"] else ""
        )
        if (decision := one.get("decision")) is not None:
            word = f"{decision['word']} by {decision['by']}: " if "word" in decision else f"{decision['verdict']}: "
            console.line(f"      {word}{decision['why']} ({decision['where']})"[:WIDTH])
        content = one["content"]
        if isinstance(content, dict):
            short, long = _apart({key: value for key, value in content.items() if value not in ("", None)})
            if short:
                console.line(f"      {short}"[: WIDTH + 6])
            _blocks(console, long, brief)
        else:
            _text(console, _plain(content), BRIEF if brief else LINES, "      ")
    ended = row.get("ended")
    if ended is not None:
        console.line(
            "  ended  ",
            (str(ended["outcome"]), "green" if ended["outcome"] == "finished" else "yellow"),
            f"  {ended['text']}"[:500],
        )


def _apart(values: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Return the values that fit into one line together, and those that want lines of their own."""
    long = {
        key: value
        for key, value in values.items()
        if len(_plain(value)) > 80 or "\n" in _plain(value) or (isinstance(value, list) and _has_parts(value))
    }
    return "  ".join(f"{key}={_plain(value)}" for key, value in values.items() if key not in long), long


def _blocks(console: Console, values: Mapping[str, object], brief: bool) -> None:
    for key, value in values.items():
        console.line(f"      {key}:")
        _text(console, "\n".join(_spread(value)), BRIEF if brief else LINES, "        ")


def _spread(value: object) -> Iterator[str]:
    """Return the lines of a value that was JSON: a list's parts below each other, text as it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            first, *more = [*_spread(inner)] or [""]
            yield from [f"{key}:", f"  {first}", *(f"  {line}" for line in more)] if more else [f"{key}: {first}"]
    elif isinstance(value, list) and _has_parts(value):
        for inner in value:
            first, *more = [*_spread(inner)] or [""]
            yield from [f"- {first}", *(f"  {line}" for line in more)]
    elif isinstance(value, list):
        yield from map(_plain, value)
    else:
        yield from _plain(value).split("\n")


def _has_parts(values: Sequence[object]) -> bool:
    return any(isinstance(value, dict | list) for value in values)


def _text(console: Console, text: str, most: int, by: str = "  ") -> None:
    lines = lines_of(text.strip("\n").rstrip())  # the first keeps its indentation: it may be a file's, with numbers
    shown = lines if len(lines) <= most + 1 else lines[:most]
    for line in shown:
        console.line(f"{by}{line[:WIDTH]}{'…' if len(line) > WIDTH else ''}")
    if len(shown) < len(lines):
        console.line(f"{by}… {len(lines) - len(shown):,} more lines")


def _indented(text: str) -> str:
    """Return text that is a JSON object, such as a plan or a verdict, over several lines; other text as it is."""
    value = read_json(text)
    return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict) else text


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- which step, model and people wrote a line ------------------------------------------------------------------------

_PLACE = re.compile(r"(?P<path>.+):(?P<first>[1-9][0-9]{0,8})(?:-(?P<last>[1-9][0-9]{0,8}))?")
Told = dict[str, Any]
_short = partial(cut, most=120)


@click.command("why")
@click.argument("place", metavar="PATH:LINE")
@options.fetches
@options.as_json
@click.pass_obj
def why_command(console: Console, place: str, yes: bool, as_json: bool) -> None:
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
            hint = history.brings("", console.project.trusted.remote, f"why {place}")
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
        _show_origin(console, told["path"], origin)
    if any(origin["kind"] == "unknown" for origin in told["origins"]):
        raise SystemExit(InsufficientHistoryError.exit_code)


def _lacking(origins: list[Told]) -> Iterator[str]:
    """Yield the protocols of which something is not in this clone."""
    for told in origins:
        said = told.get("transcript")
        if told["protocol"] and (told["kind"] == "unknown" or (said and not said["turn"])):
            yield told["protocol"]
        yield from _lacking(told["replaced"])


def _show_origin(console: Console, path: str, told: Told) -> None:
    lines = f"{told['first']}" if told["first"] == told["last"] else f"{told['first']}-{told['last']}"
    shown = told["text"][0].strip() if len(told["text"]) == 1 else f"{len(told['text'])} lines"
    console.line((f"{path}:{lines}", "yellow"), f"  {_short(shown)}")
    _show_facts(console, told, "  ")


def _show_facts(console: Console, told: Told, by: str) -> None:
    for name, text, colour in _facts(console, told):
        console.line(f"{by}{name.ljust(11)}", (text, colour))
    for below in told["replaced"]:
        console.line(f"{by}before that, lines {below['first']}-{below['last']}, by")
        _show_facts(console, below, f"{by}  ")


def _facts(console: Console, told: Told) -> Iterator[tuple[str, str, str]]:
    """Yield (label, text, colour)."""
    step = f"{told['place']:02d}-{told['step']} of {told['protocol']}" if told["step"] else ""
    if told["kind"] == "step":
        yield "step", f"{step}, attempt {told['attempt']}: {_short(str(told['step_title']))}", "green"
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
        yield "commit", f"{told['commit'][:12]}  {console.when(told['time'])}  {_short(told['subject'])}", ""
        yield "line", f"{told['path']}:{told['line']}".replace("\n", "\\n"), ""
    if told["came_in"]:
        yield "merged in", f"{told['came_in'][:12]}, which has the protocol's work as a copy", ""
    if told["protocol"]:
        yield "protocol", f"{told['protocol']}: {_short(str(told['title']))}", ""
    yield from _work_facts(console, told)


def _work_facts(console: Console, told: Told) -> Iterator[tuple[str, str, str]]:
    who = [text for text in (told.get("engine"), f"as {told['agent']}" if told.get("agent") else "") if text]
    said = told.get("transcript")
    if said and said["model"] and said["model"] not in " ".join(who):
        who.append(f"model {said['model']}")
    if told.get("actor"):
        who.append(f"started by {told['actor']}")
    if told.get("executor"):
        environment = f" {timeline.environment(told['environment'])}" if told.get("environment") else ""
        who.append(f"on {told['executor']}{environment}")
    if who:
        yield "by", ", ".join(who), ""
    if told.get("step_file"):
        yield (
            "step file",
            ": ".join(filter(None, (told["step_file"], _short(" ".join(str(told["prose"]).split()))))),
            "",
        )
    if said and said["turn"]:
        tool = f", {said['tool']}" if said["tool"] else ""
        yield "transcript", f"{said['file']}, turn {said['turn']}{tool}, {console.when(said['time'])}", ""
        for line in lines_of(said["text"]):
            yield "", f"| {_short(line)}", ""
    elif said:
        yield "transcript", str(said["note"]), "yellow"
    for check in told.get("checks", ()):
        outcome = "passed" if check["code"] == 0 else f"exit {check['code']}"
        outcome += f" in attempt {check['attempt']}" if check["attempt"] != told["attempt"] else ""
        yield (
            "check",
            f"{_short(check['check'])}  {outcome}  {console.when(check['time'])}",
            "" if check["code"] == 0 else "red",
        )
    for word in told.get("approvals", ()):
        about = word["kind"] if word["kind"] in OF_NO_STEP else f"{word['kind']} {word['subject']}"
        reasons = "; ".join(filter(None, word["reasons"]))
        yield (
            "approval",
            f"{about} {word['decision']} by {', '.join(word['by'])}  {console.when(word['time'])}  {_short(reasons)}",
            "",
        )
    cost = told.get("cost")
    if cost is not None and (text := describe.spent({**cost, "unpriced": cost["usd"] is None}, tokens=True)):
        yield "cost", text, ""
