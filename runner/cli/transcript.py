"""The transcript of an attempt for people: messages, calls and results, turn by turn. `--json` has all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.cli.session import Session
from runner.executor.journal import Journal
from runner.lines import lines_of
from runner.store import history
from runner.store.project import Project

Record = Mapping[str, Any]
LINES = 24  # of one output that are shown
BRIEF = 3  # of them where a running step is followed
WIDTH = 160  # characters of a line


def read(project: Project, protocol: str, slug: str, attempt: int, *, review: bool) -> list[Record]:
    """Return the records of an attempt, or of its review: from the history, or from the journal where that has more.

    No lock is taken: a record that is being written is not seen yet.

    Raises:
        IntegrityError: the journal is damaged.
    """
    name = history.review_name(slug, attempt) if review else history.transcript_name(slug, attempt)
    filed: list[Record] = [json.loads(line) for line in (history.read(project.git, protocol, name) or b"").splitlines()]
    noted = Journal(project.dirs.journal(protocol) / name.removeprefix("runs/")).rows
    return noted if len(noted) > len(filed) else filed


def plans(project: Project, protocol: str) -> int:
    """Return the number of the last plan that a model wrote, whose transcript is here; 1 where there is none."""
    count = 1
    while history.read(project.git, protocol, history.transcript_name("plan", count + 1)) is not None:
        count += 1
    return count


def show(session: Session, records: Sequence[Record], *, after: int = 0, brief: bool = False) -> None:
    """Give the records but the first `after`; `brief`: as they are followed, thoughts left out and outputs short."""
    turn = 0
    for number, record in enumerate(records):
        turn += record["kind"] in ("response", "summary")
        if number < after:
            continue
        match record["kind"]:
            case "response":
                _response(session, record, turn, brief)
            case "summary":
                session.line("")
                session.line((f"turn {turn}", "yellow"), "  the conversation was summarized, and continues from this:")
                _text(session, str(record["text"]), BRIEF if brief else LINES)
            case "results":
                _results(session, record, brief)
            case "held":
                session.line("  ", ("held", "yellow"), f"  {record['text']}"[:WIDTH])
                session.line(f"      {record['decision']['why']} ({record['decision']['where']})"[:WIDTH])
            case "intent":
                session.line("  ", ("starts", "yellow"), f"  {record['text']}"[:WIDTH])
            case "outcome":
                session.line(
                    "  ", ("ended", "yellow"), f"  {record['tool']}{', with an error' if record['error'] else ''}"
                )
            case "settled":
                session.line("  ", ("settled", "yellow"), f"  {record['how']}"[:WIDTH])
            case "task":
                session.line("")
                session.line("its task")
                _text(session, str(record["text"]), BRIEF if brief else LINES)
            case "answers":
                session.line("")
                for asked, said in zip(record["questions"], record["answers"], strict=True):
                    session.line("  ", ("answered", "green"), f"  {asked}  {said}")
            case "undecided":
                session.line("")
                session.line(("nothing was decided", "red"), f"  {'; '.join(map(str, record.get('problems', ())))}")
            case _:
                session.line(f"  {record['kind']}")


def _response(session: Session, record: Record, turn: int, brief: bool) -> None:
    usage = record["usage"]
    told = [str(record["engine"]), f"{usage['input']:,} in, {usage['output']:,} out"]
    told.append(f"${record['usd']}" if record["usd"] is not None else "price not known")
    told += [str(record["finish"])] if record["finish"] not in ("stop", "") else []
    if not brief or turn == 1:
        session.line("")
    session.line((f"turn {turn}", "yellow"), f"  {record['time']}  {' · '.join(told)}")
    if record["thoughts"] and not brief:
        session.line("  thinks")
        _text(session, str(record["thoughts"]), LINES, "    ")
    _text(session, _indented(str(record["text"])), BRIEF if brief else LINES)
    for call in record["calls"]:
        arguments = call["arguments"]
        if arguments is None:
            session.line("  → ", (str(call["name"]), "cyan"), f"  malformed: {call['problem']}")
            continue
        short, long = _apart(arguments)
        session.line("  → ", (str(call["name"]), "cyan"), f"  {short}")
        _blocks(session, long, brief)


def _results(session: Session, record: Record, brief: bool) -> None:
    for one in record["results"]:
        session.line(
            "  ← ", (str(one["name"]), "red" if one["error"] else "green"), "  refused" if one["error"] else ""
        )
        if (decision := one.get("decision")) is not None:
            word = f"{decision['word']} by {decision['by']}: " if "word" in decision else f"{decision['verdict']}: "
            session.line(f"      {word}{decision['why']} ({decision['where']})"[:WIDTH])
        content = one["content"]
        if isinstance(content, dict):
            short, long = _apart({key: value for key, value in content.items() if value not in ("", None)})
            if short:
                session.line(f"      {short}"[: WIDTH + 6])
            _blocks(session, long, brief)
        else:
            _text(session, _plain(content), BRIEF if brief else LINES, "      ")
    ended = record.get("ended")
    if ended is not None:
        session.line(
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


def _blocks(session: Session, values: Mapping[str, object], brief: bool) -> None:
    for key, value in values.items():
        session.line(f"      {key}:")
        _text(session, "\n".join(_spread(value)), BRIEF if brief else LINES, "        ")


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


def _text(session: Session, text: str, most: int, by: str = "  ") -> None:
    lines = lines_of(text.strip("\n").rstrip())  # the first keeps its indentation: it may be a file's, with numbers
    shown = lines if len(lines) <= most + 1 else lines[:most]
    for line in shown:
        session.line(f"{by}{line[:WIDTH]}{'…' if len(line) > WIDTH else ''}")
    if len(shown) < len(lines):
        session.line(f"{by}… {len(lines) - len(shown):,} more lines")


def _indented(text: str) -> str:
    """Return text that is a JSON object, such as a plan or a verdict, over several lines; other text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict) else text


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
