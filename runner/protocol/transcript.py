"""Transcripts: an attempt's responses and actions, one record a line of JSON (design §2): `runs/SLUG.ATTEMPT.jsonl` of the history,

`….qa.jsonl` for a review, `runs/plan.N.jsonl` for a plan.

A journal has the same records. A model's response is kept as it came and may hold any JSON. The numbers that are summed are checked.

`calls/SLUG.ATTEMPT.N.json` is a tool call that waits for an approval: the runner writes it once and never changes it, a person
approves this file's digest, and the runner then executes its content. Sorted keys, two spaces, ASCII, a final newline, like the
whole record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from runner.errors import IntegrityError
from runner.lines import cut, pattern
from runner.protocol.file_models import (
    AfterValidator,
    Between,
    Field,
    FileModel,
    Pattern,
    first_fault,
    problem,
)
from runner.protocol.state import Json

Count = Annotated[int, Between(0, 2**53)]
Usd = Annotated[str, Pattern(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?")]


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise problem("should be text", "correct the value")
    return value


def _object(value: object) -> object:
    if not isinstance(value, dict):
        raise problem("should be an object", "correct the value")
    return value


# Whatever JSON can say: a model may say half a character, which no file of text may hold.
Text = Annotated[Any, AfterValidator(_text, {"type": "string"})]
Object = Annotated[Any, AfterValidator(_object, {"type": "object"})]


class Call(FileModel):
    """A tool that the model calls. `arguments` is null where they were malformed, and `problem` says how."""

    id: Text
    name: Text
    arguments: Object | None
    problem: Text


class Usage(FileModel):
    """Tokens that were counted. `cached`: of the input, read from a cache; `cache_write`: of the input, written to one."""

    input: Count
    output: Count
    cached: Count
    cache_write: Count = 0


class _Response(FileModel):
    time: Text
    engine: Text = Field(description="Who answered.")
    model: Text = Field(description="The model, as it calls itself.")
    text: Text
    thoughts: Text
    calls: list[Call]
    usage: Usage
    usd: Usd | None = Field(description="What it cost, in US dollars; null where the price is not known.")
    finish: Text = Field(description="stop, length, refused, malformed or failed.")
    provider: Text
    turn: Json = Field(description="The model's turn as its provider wants it back.")
    raw: Json = Field(description="The provider's whole answer.")
    problem: Text = Field(default="", description="The reason for a `finish` of refused, malformed or failed.")
    request: Text | None = Field(default=None, description="The digest of a question that stands for itself.")


class Response(_Response):
    """A model's answer."""

    kind: Literal["response"]


class Summary(_Response):
    """The model's summary of the conversation, which continues from it."""

    kind: Literal["summary"]


class Result(FileModel):
    """What a tool gave for a call. `decision`: what the policy said of it, where it was not simply allowed."""

    id: Text
    name: Text
    content: Json
    error: bool
    decision: Object | None = None


class EndOfWork(FileModel):
    """How the work ended by the calls."""

    outcome: Literal["finished", "failed", "asked", "budget"]
    text: Text
    result: Object | None


class Results(FileModel):
    """What the calls of a turn gave. `tree`: the commit of the files that they left."""

    kind: Literal["results"]
    time: Text
    results: list[Result]
    tree: Text
    ended: EndOfWork | None


class _OfCall(FileModel):
    """A call that waited or reached outside. `call`: its name, such as `deploy.1.3`; `digest`: of its file or
    arguments."""

    time: Text
    call: Text
    tool: Text
    digest: Text
    decision: Object | None


class HeldRecord(_OfCall):
    """A call that waits for an approval; `digest`: of its file."""

    kind: Literal["held"]
    text: Text


class Intent(_OfCall):
    """A call that reaches outside is about to be made; `digest`: of its arguments, `key`: what makes a repeat harmless."""

    kind: Literal["intent"]
    arguments: Object
    text: Text
    key: Text | None = None


class CallOutcome(_OfCall):
    """What came of a call that reaches outside; `wait`: what a person said of it ended this wait."""

    kind: Literal["outcome"]
    content: Json
    error: bool
    wait: Text | None = None


class Settled(FileModel):
    """How a call that was about to be made, and of which nothing was known, was settled; `of`: when it was announced."""

    kind: Literal["settled"]
    time: Text
    call: Text
    of: Text
    how: Text
    wait: Text | None = None


class Task(FileModel):
    """The material of a planner, so that it can continue in another clone."""

    kind: Literal["task"]
    time: Text
    text: Text


class Answers(FileModel):
    """What a person at the terminal said to a planner's questions."""

    kind: Literal["answers"]
    time: Text
    questions: list[Text]
    answers: list[Text]


class Undecided(FileModel):
    """The conversation up to here led nowhere; the questions are asked anew."""

    kind: Literal["undecided"]
    time: Text
    problems: list[Text]


Line = Response | Summary | Results | HeldRecord | Intent | CallOutcome | Settled | Task | Answers | Undecided
KINDS: dict[object, type[Line]] = {
    "response": Response, "summary": Summary, "results": Results, "held": HeldRecord, "intent": Intent, "outcome": CallOutcome,
    "settled": Settled, "task": Task, "answers": Answers, "undecided": Undecided,
}  # fmt: skip
_FIXED = ("kind", "outcome")  # fields whose values are the format's own


class Unknown(NamedTuple):
    """A record of a kind that this version does not know, as JSON has it."""

    row: Json


Record = Line | Unknown
Typed = TypeVar("Typed", bound=Line)
Part = TypeVar("Part", bound=FileModel)


def parse(data: bytes, where: str) -> list[Line]:
    """Return the records of a transcript.

    Raises:
        IntegrityError: naming the line that is none.
    """
    found: list[Line] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = json.loads(line)
            found.append(KINDS[row["kind"]].model_validate(row))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise IntegrityError(
                "this is no line of a transcript",
                f"{where}:{number}",
                "fetch refs/runner/history again from a clone that has it whole",
            ) from error
    return found


def record_of(row: Json) -> Record:
    """Return a record of a journal, which another version may have written.

    Raises:
        ValueError: its kind is known, and it is no record of that kind.
    """
    kind = KINDS.get(row["kind"]) if isinstance(row, dict) and isinstance(row.get("kind"), str) else None
    return kind.model_validate(row) if kind else Unknown(row)


def plain(record: Record) -> Json:
    """Return a record as JSON has it, without the optional fields that it does not use."""
    return record.row if isinstance(record, Unknown) else record.model_dump(exclude_defaults=True)


def mapped(record: Part, change: Callable[[Json], Json]) -> Part:
    """Return the record, or the part of one, with `change` applied to each of its values."""
    changed: Part = _mapped(record, change)
    return changed


def _mapped(value: Any, change: Callable[[Json], Json]) -> Any:
    if isinstance(value, FileModel):
        names = [name for name in type(value).model_fields if name not in _FIXED]
        return value.model_copy(update={name: _mapped(getattr(value, name), change) for name in names})
    if isinstance(value, list) and value and isinstance(value[0], FileModel):
        return [_mapped(one, change) for one in value]
    return change(value)


CALL_SCHEMA: Literal[1] = 1
SHOWN = 60  # characters of one argument in the line for people
_PLAIN = pattern(r"[!#-&(-\[\]-~]+")  # printable ASCII without blanks, quotes and backslashes

Digest = Annotated[str, Pattern("sha256:[0-9a-f]{64}")]


class HeldCall(FileModel):
    """One call. `number` counts the calls of the attempt, from 1; `key`: the argument that holds our idempotency key."""

    schema_: Literal[1] = Field(default=CALL_SCHEMA, alias="schema")
    tool: str = Field(min_length=1, description="Its name.")
    arguments: dict[str, Any] = Field(description="The arguments.")
    effect: Literal["read", "workspace", "external"] = Field(description="The effect of a call.")
    repeat: Literal["never", "keyed", "probed"] = Field(
        description="Whether a repeated call is safe, and how that is known."
    )
    source: str = Field(description="Where it comes from: `built in`, module:function, or mcp:SERVER and its digest.")
    code: Digest | None = Field(
        description="Of the module's code on the trusted branch, or of an MCP server's pinned list; null for a built-in one."
    )
    step: str = Field(description="The step's slug.")
    attempt: Annotated[int, Between(1)] = Field(description="The step's attempt.")
    number: Annotated[int, Between(1)] = Field(description="Which of the attempt's calls it is.")
    env: tuple[str, ...] = Field(default=(), description="The names of the environment variables that it is given.")
    network: tuple[str, ...] = Field(default=(), description="The hosts that its entry names.")

    @property
    def name(self) -> str:
        """What the record calls it, such as `deploy.1.3`."""
        return f"{self.step}.{self.attempt}.{self.number}"

    def text(self) -> str:
        """Return the call as one line for people: `send_report to=ops@example.test subject="All well"`."""
        return call_line(self.tool, self.arguments)


def call_line(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return a call as one line for people."""
    return " ".join([_short(tool), *(f"{_short(key)}={_short(value)}" for key, value in arguments.items())])


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=True)
    return cut(shown, SHOWN)


def render_call(call: HeldCall) -> bytes:
    """Return the file's bytes."""
    return json.dumps(call.model_dump(), indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def parse_call(data: bytes, where: str) -> HeldCall:
    """Return the call that a file holds.

    Raises:
        IntegrityError: it is not one that the runner wrote.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # half a character is none
        found = HeldCall.model_validate(value)
        written = render_call(found)
    except (ValueError, RecursionError) as error:
        wrong = first_fault(error)
        raise IntegrityError(f"a held call that cannot be read: {wrong}", where, "run `runner verify`") from error
    if written != data:
        raise IntegrityError("a held call that is not written as the runner writes it", where, "run `runner verify`")
    return found
