"""log.md: one entry an event, readable on any forge, parsed by a strict grammar. It is the event store.

An entry is a line for people and its data, which a forge does not show:

    - 2026-11-20 06:47:03Z middleware finished (attempt 1, $0.08)
      <!-- 12 step-finished middleware {"actor":"runner","attempt":1,"spent":{"usd":"0.08"}} -->

That is schema 2. A protocol that was made with schema 1 keeps it:

    ## 12 step-finished middleware
    - time: 2026-11-20T06:47:03Z
    - actor: runner
    - attempt: 1
    - spent: {"usd": "0.08"}

There a value is a bare word or one line of ASCII JSON, and an empty line ends an entry. In both, a log past `SEGMENT` bytes is
renamed, whole, and a new one is started. What is parsed is written again and compared, so there is one way to write an entry.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from runner.errors import IntegrityError, UsageError
from runner.lines import cut as cut_at
from runner.lines import lines_of, pattern
from runner.protocol.state import Json

if TYPE_CHECKING:
    from runner.protocol.events import Entry

SEGMENT: Final = 64 * 1024
TEXT_LIMIT: Final = 500  # characters of long text; the whole of it is in the transcript

DEPTH_LIMIT: Final = 64  # of a value; readers bound what they follow

BARE = pattern(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]*")
_JSON_WORD = pattern(r"true|false|null|NaN|Infinity|(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
HEADLINE = pattern(r"## (?P<revision>[1-9][0-9]{0,8}) (?P<event>[a-z]+(?:-[a-z]+)*) (?P<subject>[a-z0-9][a-z0-9-]*)")
FIELD = pattern(r"- (?P<key>[a-z_]+): (?P<value>[ -~]+)")
TIME = pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class RawEntry(NamedTuple):
    """An entry whose event is not validated yet."""

    revision: int
    event: str
    subject: str
    time: str
    actor: str
    fields: dict[str, Json]


def cut(text: str) -> str:
    """Return `text` as the log keeps it: its first 500 characters."""
    return cut_at(text, TEXT_LIMIT)


def cut_tail(data: bytes) -> str:
    """Return the end of a command's output as the log keeps it: valid text, its last 500 characters."""
    text = data.decode("utf-8", "replace").strip()
    return text if len(text) <= TEXT_LIMIT else "…" + text[1 - TEXT_LIMIT :]


REVIEW = "review"  # what QA's evidence calls a model's verdict


def output_check(glob: str) -> str:
    """Return what QA's evidence calls the look for an output."""
    return f"outputs: {cut(glob)}"


def is_command(check: str) -> bool:
    """Return whether a check of QA's evidence is a command, by its name: no promised file, and no model's verdict."""
    return check != REVIEW and not check.startswith(output_check(""))


def is_bare(text: str) -> bool:
    """Return whether a text needs no quotes."""
    return BARE.fullmatch(text) is not None and _JSON_WORD.fullmatch(text) is None


def actor(text: str) -> str:
    """Return a name as the log's `actor` and the commit's trailer show it; `unnamed` where it is no bare word."""
    return text if is_bare(text) and len(text) <= 254 else "unnamed"


def _value(value: Json) -> str:
    if isinstance(value, str) and is_bare(value):
        return value
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(", ", ": "), allow_nan=False)


def refuse_unreadable(value: Json, where: str, depth: int = 0) -> None:
    """Refuse a value that could be written and not be read again: half characters, infinity, endless nesting."""
    if depth <= DEPTH_LIMIT and type(value) is str and value.isascii():  # most are
        return
    hint = "give it as valid UTF-8 text, finite numbers, and not nested deeper"
    if depth > DEPTH_LIMIT:
        raise UsageError(f"a value that is nested deeper than {DEPTH_LIMIT}", where, hint)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UsageError("a text that is not valid Unicode", where, hint) from error
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError("a number that is not finite", where, hint)
    elif isinstance(value, int) and abs(value) >= 10**300:
        raise UsageError("a number of more than 300 digits", where, hint)
    elif isinstance(value, dict):
        for key, item in value.items():
            refuse_unreadable(key, where, depth)
            refuse_unreadable(item, where, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_unreadable(item, where, depth + 1)


def raw_of(entry: Entry) -> RawEntry:
    """Return an entry as the log has it.

    Raises:
        UsageError: a value that could not be read again.
    """
    from runner.protocol import events

    event, fields = entry.event, events.fields_of(entry.event)
    for key, value in fields.items():
        refuse_unreadable(value, f"the field `{key}` of `{event.name} {event.subject}`")
    return RawEntry(entry.revision, event.name, event.subject, entry.time, entry.actor, fields)


# --- schema 2: a line for people, and its data in a comment -----------------------------------------------------------

_LINE = pattern(r"- (?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}) (?P<clock>[0-9]{2}:[0-9]{2}:[0-9]{2}Z) [ -~]+")
_DATA = pattern(rf"  <!-- {HEADLINE.pattern.removeprefix('## ')} (?P<data>\{{[ -~]*\}}) -->")
_AMOUNT = pattern(r"[0-9]{1,15}(?:\.[0-9]{1,12})?")
_ASKS = frozenset({"approval-asked", "asked", "budget-reached", "call-held"})  # their `by` is who has to answer
_TEXTS = ("reason", "text", "title", "decision", "outcome", "change")
QUOTED = 72  # characters of a text in a line


def quoted(text: str) -> str:
    """Return a text as a line quotes it: printable ASCII between backquotes, so that no Markdown or HTML in it has an effect."""
    shown = re.sub(r"[^ -~]", "?", re.sub(r"[\t\n\r ]+", " ", text).strip(" ").replace("`", "'"))
    return f"`{shown if len(shown) <= QUOTED else f'{shown[: QUOTED - 3]}...'}`" if shown else ""


def _usd(fields: Mapping[str, Json]) -> str:
    spent = fields.get("spent")
    usd = spent.get("usd") if isinstance(spent, dict) else None
    return usd if isinstance(usd, str) and _AMOUNT.fullmatch(usd) else ""


def sentence(entry: RawEntry, *, texts: bool) -> str:
    """Return what an entry says, in a line. `texts`: with what people, plans and models wrote, and names, quoted."""
    words, fields = entry.event.removeprefix("step-").replace("-", " "), entry.fields
    found = words if entry.subject == "plan" and words.startswith("plan") else f"{entry.subject} {words}"
    by, attempt, usd = fields.get("by"), fields.get("attempt"), _usd(fields)
    if texts and (
        who := quoted(", ".join(map(str, by)) if isinstance(by, list) else by if isinstance(by, str) else "")
    ):
        found += f" {'for' if entry.event in _ASKS else 'by'} {who}"
    facts = ([f"attempt {attempt}"] if type(attempt) is int else []) + ([f"${usd}"] if usd else [])
    found += f" ({', '.join(facts)})" if facts else ""
    text = next((shown for key in _TEXTS if isinstance(one := fields.get(key), str) and (shown := quoted(one))), "")
    return f"{found}: {text}" if texts and text else found


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _lines(entry: RawEntry) -> str:
    """Return an entry of schema 2. No `--`, `<` or `>` is in its data: nothing there ends the comment, or starts another one."""
    data = _COMPACT.encode({"actor": entry.actor, **entry.fields})
    data = data.replace("--", "-\\u002d").replace("<", "\\u003c").replace(">", "\\u003e")
    line = f"- {entry.time.replace('T', ' ')} {sentence(entry, texts=True)}"
    return f"{line}\n  <!-- {entry.revision} {entry.event} {entry.subject} {data} -->\n"


def _parse_lines(text: str, refuse: Callable[[int, str], IntegrityError]) -> Iterator[RawEntry]:
    lines = text.split("\n")
    if lines.pop() or len(lines) % 2:
        raise refuse(len(lines) + 1, "the log's last entry is cut off")
    for number, (line, data) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        when, match = _LINE.fullmatch(line), _DATA.fullmatch(data)
        if not when:
            raise refuse(2 * number + 1, "this is no line of a log entry")
        if not match:
            raise refuse(2 * number + 2, "this is no data of a log entry")
        try:
            fields: dict[str, Json] = json.loads(match["data"])
            actor_name, time = fields.pop("actor", None), f"{when['date']}T{when['clock']}"
            if not isinstance(actor_name, str):
                raise refuse(2 * number + 2, "the entry does not say by whom")
            entry = RawEntry(int(match["revision"]), match["event"], match["subject"], time, actor_name, fields)
            written = _lines(entry)
        except RecursionError as error:
            raise refuse(2 * number + 2, "the data is nested too deep") from error
        except ValueError as error:
            raise refuse(2 * number + 2, "the data of the entry is not JSON") from error
        if written != f"{line}\n{data}\n":
            raise refuse(2 * number + 1, "this entry is not written as the runner writes it")
        yield entry


# --- schema 1 --------------------------------------------------------------------------------------------------------


def render(entry: Entry) -> str:
    """Return the entry's lines by schema 1, ending in a newline.

    Raises:
        UsageError: a value that could not be read again.
    """
    return _render(raw_of(entry))


def _render(raw: RawEntry) -> str:
    lines = [f"## {raw.revision} {raw.event} {raw.subject}", f"- time: {raw.time}", f"- actor: {raw.actor}"]
    lines += [f"- {key}: {_value(value)}" for key, value in raw.fields.items()]
    return "\n".join(lines) + "\n"


def append(log: bytes, entries: Iterable[Entry], schema: int) -> bytes:
    """Return the log with the entries added; `schema`: the protocol's."""
    return log + added(map(raw_of, entries), schema)


def added(entries: Iterable[RawEntry], schema: int) -> bytes:
    """Return what entries add to a log."""
    return "".join([_render(raw) + "\n" if schema == 1 else _lines(raw) for raw in entries]).encode("ascii")


def is_full(data: bytes) -> bool:
    """Return whether a log is kept whole as a segment before the next entry, which starts it anew."""
    return len(data) > SEGMENT


def segment_name(before: int) -> str:
    """Return the name in the folder of the segment that follows `before` others."""
    return f"log/{before + 1:04d}.md"


def continued(data: bytes, entries: Iterable[RawEntry], schema: int) -> bytes:
    """Return log.md after the entries: they follow the log before, or start it anew where that one is full."""
    return (b"" if is_full(data) else data) + added(entries, schema)


def parse_raw(data: bytes, where: str) -> list[RawEntry]:
    """Return the entries of a log, or of a part of it. A log is of one schema: its first bytes say which.

    Raises:
        IntegrityError: naming the line that is not of the grammar.
    """

    def refuse(number: int, what: str) -> IntegrityError:
        return IntegrityError(what, f"{where}:{number}", "run `runner doctor --fix` to repair it from the history")

    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise refuse(data.count(b"\n", 0, error.start) + 1, "the log holds a byte that is not ASCII") from error
    if text.startswith("- "):
        return list(_parse_lines(text, refuse))
    if text.endswith("\n\n\n"):
        raise refuse(text.count("\n"), "this is no headline of a log entry")
    if text and not text.endswith("\n\n"):
        raise refuse(text.count("\n") + 1, "the log's last entry is cut off")
    found = []
    number = 1
    for block in text.split("\n\n")[:-1]:
        headline, *rest = block.split("\n")
        match = HEADLINE.fullmatch(headline)
        if not match:
            raise refuse(number, "this is no headline of a log entry")
        fields: dict[str, Json] = {}
        for offset, line in enumerate(rest, 1):
            pair = FIELD.fullmatch(line)
            if not pair or pair["key"] in fields:
                raise refuse(number + offset, "this is no field of a log entry")
            fields[pair["key"]] = _read(pair["value"], number + offset, refuse)
        time, actor_name = fields.pop("time", None), fields.pop("actor", None)
        if not isinstance(time, str) or not TIME.fullmatch(time) or not isinstance(actor_name, str):
            raise refuse(number, "the entry does not say when and by whom")
        found.append(RawEntry(int(match["revision"]), match["event"], match["subject"], time, actor_name, fields))
        number += len(rest) + 2
    return found


def _read(text: str, number: int, refuse: Callable[[int, str], IntegrityError]) -> Json:
    if is_bare(text):
        return text
    try:
        value = json.loads(text)
        written = _value(value)
    except RecursionError as error:
        raise refuse(number, "the value is nested too deep") from error
    except ValueError as error:
        raise refuse(number, "this value is neither a bare word nor JSON") from error
    if written != text:
        raise refuse(number, "this value is not written as the runner writes it")
    return value


def parse(data: bytes, where: str) -> list[Entry]:
    """Return the entries of a log, each event validated.

    Raises:
        IntegrityError: naming the line or the entry.
    """
    return [entry_of(raw, where) for raw in parse_raw(data, where)]


def entry_of(raw: RawEntry, where: str) -> Entry:
    """Return the validated entry of a raw one."""
    from runner.protocol import events

    at = f"{where}, entry {raw.revision}"
    for key, value in raw.fields.items():
        try:
            refuse_unreadable(value, at)
        except UsageError as error:
            raise events.bad_field(raw.event, key, error.what, at) from error
    event = events.parse(raw.event, raw.subject, raw.fields, at)
    return events.Entry(raw.revision, raw.time, raw.actor, event)


def is_answered(entries: Iterable[RawEntry], slug: str) -> bool:
    """Return whether a person was asked about the step's current attempt, and answered.

    `entries`: the whole log up to there. A new attempt is asked about anew.
    """
    asked: set[str] = set()
    answered = False
    for one in entries:
        if one.event == "asked" and one.subject == slug:
            asked.add(f"w{one.revision}")
        elif one.event == "answered":
            answered = answered or one.fields.get("wait") in asked
        elif starts_anew(one, slug):
            asked, answered = set(), False
    return answered


def starts_anew(entry: RawEntry, slug: str) -> bool:
    """Return whether an entry makes the step's next attempt, or takes the step away."""
    match entry.event:
        case "step-retried":
            return entry.subject == slug
        case "undone":
            return slug in entry.fields.get("steps", ())
        case "plan-edited":
            return slug in entry.fields.get("removed", ())
    return False


# --- the commit's message ---

_TRAILERS = pattern(
    r"Runner-Protocol: (?P<protocol>[0-9]{4,9}-[a-z0-9-]+)\n"
    r"Runner-Revision: (?P<revision>[1-9][0-9]{0,8})\n"
    r"(?P<events>(?:Runner-Event: [a-z-]+ [a-z0-9-]+\n)+)"
    r"Runner-Trusted: (?P<trusted>[0-9a-f]{40}(?:[0-9a-f]{24})?)\n"
    r"Runner-Actor: (?P<actor>[A-Za-z0-9][A-Za-z0-9_.:/@+-]*)\n"
    # Of schema 2, where they apply.
    r"(?:Runner-Plan: (?P<plan>sha256:[0-9a-f]{64})\n)?"
    r"(?:Runner-Policy: (?P<policy>sha256:[0-9a-f]{64})\n)?"
    r"(?:Runner-Engine: [A-Za-z0-9][A-Za-z0-9_.:/@+-]*\n)*"
    r"(?:Runner-Cost: \$[0-9]+(?:\.[0-9]+)?\n)?"
    r"(?:Runner-Verdict: (?:passed|failed)\n)*"
)
_FORGED = pattern(r"^runner-[a-z]+[ \t]*[:=]", re.IGNORECASE | re.MULTILINE)

# What a headline says of an event, after the subject's name; events that are not here are named as they are.
_SAYS = {
    "step-finished": "finished",
    "step-completed": "completed",
    "step-failed": "failed",
    "step-blocked": "blocked",
    "step-retried": "to be tried again",
    "qa-passed": "passed",
    "qa-failed": "did not pass",
    "plan-edited": "edited",
}
# The most telling event of a transition gives its subject line.
_TELLING = (
    "completed",
    "failed",
    "blocked",
    "step-failed",
    "step-blocked",
    "qa-failed",
    "step-completed",
    "step-finished",
    "planned",
)


class Trailers(NamedTuple):
    """What a transition's commit says of itself."""

    protocol: str
    revision: int
    events: tuple[str, ...]  # `step-completed middleware`
    trusted: str
    actor: str
    policy: str | None = None  # of schema 2: digest of the policy that was in force


def headline(protocol: str, entries: Sequence[Entry]) -> str:
    """Return the subject line for a transition."""
    about = entries[-1].event
    for name in _TELLING:
        events = [entry.event for entry in entries if entry.event.name == name]
        if events:
            about = events[-1]
            break
    says = _SAYS.get(about.name, about.name)
    if about.subject == protocol:
        steps = [entry.event for entry in entries if entry.event.name.startswith("step-") and about.name == "completed"]
        also = f"{steps[-1].subject} {_SAYS.get(steps[-1].name, steps[-1].name)}, " if steps else ""
        return f"{protocol}: {also}{'all done' if about.name == 'completed' else says}"
    return f"{protocol}: {about.subject} {says}"


def render_message(
    protocol: str,
    entries: Sequence[Entry],
    trusted: str,
    *,
    schema: int,
    plan: str | None = None,
    policy: str | None = None,
    raws: Sequence[RawEntry] | None = None,
) -> bytes:
    """Return the commit's message.

    `schema`: the protocol's; from 2 on it says little more than its trailers. `plan`, `policy`: their digests after the entries;
    `raws`: what `raw_of` returned of each entry, where the caller has it.
    """
    raws = [raw_of(entry) for entry in entries] if raws is None else raws
    said = (f"{sentence(raw, texts=False)}\n" for raw in raws)
    body = "\n".join(map(_render, raws)) if schema == 1 else "".join(said)
    lines = [
        f"Runner-Protocol: {protocol}",
        f"Runner-Revision: {entries[-1].revision}",
        *(f"Runner-Event: {entry.event.name} {entry.event.subject}" for entry in entries),
        f"Runner-Trusted: {trusted}",
        f"Runner-Actor: {entries[-1].actor}",
        *(_more(raws, plan, policy) if schema > 1 else ()),
    ]
    return f"{headline(protocol, entries)}\n\n{body}\n".encode("ascii") + "\n".join(lines).encode("ascii") + b"\n"


def _more(raws: Sequence[RawEntry], plan: str | None, policy: str | None) -> Iterator[str]:
    """Yield the trailers that schema 2 adds, each where it applies."""
    fields = [(raw.event, raw.fields) for raw in raws]
    if plan is not None:
        yield f"Runner-Plan: {plan}"
    if policy is not None:
        yield f"Runner-Policy: {policy}"
    engines = [engine for _, one in fields if isinstance(engine := one.get("engine"), str) and is_bare(engine)]
    yield from (f"Runner-Engine: {engine}" for engine in dict.fromkeys(engines))
    if amounts := [usd for _, one in fields if (usd := _usd(one))]:
        yield f"Runner-Cost: ${_sum(amounts)}"
    yield from (
        f"Runner-Verdict: {name.removeprefix('qa-')}" for name, _ in fields if name in ("qa-passed", "qa-failed")
    )


def _sum(amounts: Sequence[str]) -> str:
    """Return the sum of decimal texts, exactly, with as many digits after the point as the longest has."""
    pairs = [amount.partition(".")[::2] for amount in amounts]
    places = max(len(fraction) for _, fraction in pairs)
    total = str(sum(int(whole + fraction.ljust(places, "0")) for whole, fraction in pairs)).zfill(places + 1)
    return f"{total[: len(total) - places]}.{total[len(total) - places :]}" if places else total


@lru_cache(maxsize=4096)  # of a commit it is asked several times
def parse_message(message: bytes) -> Trailers | None:
    """Return what the message's last paragraph says, or None where it is not exactly a transition's."""
    try:
        text = message.decode("ascii")
    except UnicodeDecodeError:
        return None
    _, blank, last = text.rpartition("\n\n")
    match = _TRAILERS.fullmatch(last) if blank else None
    if not match:
        return None
    return Trailers(
        protocol=match["protocol"],
        revision=int(match["revision"]),
        events=tuple(line.removeprefix("Runner-Event: ") for line in lines_of(match["events"])),
        trusted=match["trusted"],
        actor=match["actor"],
        policy=match["policy"],
    )


def has_forged_trailer(message: bytes) -> bool:
    """Return whether a commit that is no transition has a line that could be taken for one of our trailers."""
    return _FORGED.search(message.decode("utf-8", "replace")) is not None
