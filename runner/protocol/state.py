"""state.json: the fold of the log, as a value, and its bytes.

Sorted keys, two spaces, ASCII, a final newline, so that its diffs read well and two runners write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import compress
from json.encoder import encode_basestring_ascii as _text
from operator import is_not
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast, get_type_hints

from runner.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from typing import NotRequired, TypedDict, TypeGuard

Json = Any  # a value of JSON, never looked into by the machine
SCHEMA = 2  # of new protocols; one keeps the schema that it was made with


def read_json(data: object) -> Any:
    """Return the value of a JSON text, of which bytes are UTF-8; None where it is no text, or not JSON, or nested too deep."""
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data) if isinstance(data, str | bytes) else None
    except (ValueError, RecursionError):
        return None


class Status(StrEnum):
    """The status of a protocol."""

    PENDING = "pending"
    PLANNING = "planning"
    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    BLOCKED = "blocked"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


def phrased(status: Status) -> str:
    """Return a status as a sentence has it: `is paused`, `has failed`."""
    return "has failed" if status is Status.FAILED else f"is {status}"


OPEN = frozenset(
    {Status.PENDING, Status.PLANNING, Status.PLANNED, Status.RUNNING, Status.PAUSED, Status.BLOCKED, Status.FAILED}
)
ACTIVE = frozenset({Status.PLANNED, Status.RUNNING})


class StepStatus(StrEnum):
    """The status of a step, within its attempt."""

    PENDING = "pending"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    NEEDS_QA = "needs_qa"
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


# A protocol of which no transition is to come; a step of which that is so, and that lets those start that need it.
ENDED = frozenset({"completed", "cancelled"})
STOPPED = (StepStatus.FAILED, StepStatus.BLOCKED)  # a person decides what follows


class StepState(NamedTuple):
    """A step in the record. `needs`: slugs; `reason`: why it failed or is blocked; `removed`: its file is gone."""

    place: int
    title: str
    kind: str
    needs: list[str]
    qa: str
    digest: str
    status: StepStatus = StepStatus.PENDING
    attempt: int = 1
    result: Json = None
    reason: str | None = None
    passed: bool = False  # QA's verdict on this attempt
    removed: bool = False


class Steps(dict[str, StepState]):
    """The steps of a state, by slug; not changed.

    A transition changes one of a thousand, so those that are made of others (`with_`) share what is found once: the order, where the
    first that has not ended is, and which slugs changed since.
    """

    __slots__ = ("_at", "_changes", "_ended", "_order")

    def __init__(self, steps: Mapping[str, StepState] | None = None) -> None:
        super().__init__(steps or {})
        self._changes: list[str] = []  # slugs, one for each `with_`; those made of one another share it
        self._at = 0  # how many of these are in this one
        self._ended = 0  # how many of the first ones in the order have ended, at least
        self._order: tuple[list[str], list[int]] | None = None

    def with_(self, slug: str, step: StepState) -> Steps:
        """Return them with another state of the step `slug`."""
        made, old = Steps(self), self[slug]
        made[slug] = step
        if len(self._changes) == self._at:  # else others were made of this one, and `made` shares nothing with those
            self._changes.append(slug)
            made._changes, made._at = self._changes, self._at + 1
        if (step.place, step.removed) == (old.place, old.removed):
            made._order = self._order
            made._ended = 0 if old.status in ENDED and step.status not in ENDED else self._ended
        return made

    @property
    def order(self) -> tuple[list[str], list[int]]:
        """The slugs of those that still count, in the order of their places, and these places."""
        if self._order is None:
            found = sorted((item for item in self.items() if not item[1].removed), key=_place)
            self._order = [slug for slug, _ in found], [step.place for _, step in found]
        return self._order

    def left(self) -> Iterator[tuple[str, StepState]]:
        """Yield those that still count and have not ended, in the order of their places."""
        slugs = self.order[0]
        while self._ended < len(slugs) and self[slugs[self._ended]].status in ENDED:
            self._ended += 1
        for at in range(self._ended, len(slugs)):
            slug, step = slugs[at], self[slugs[at]]
            if step.status not in ENDED:
                yield slug, step

    def changed(self, before: Steps) -> list[str] | None:
        """Return the slugs whose states are other values than before; None where the slugs are not the same, in the same order.

        Values are compared by identity.
        """
        if self._changes is before._changes:
            begin, end = sorted((before._at, self._at))
            few = set(self._changes[begin:end])
            return [slug for slug in (few if len(few) < 2 else self) if slug in few and self[slug] is not before[slug]]
        if len(self) != len(before) or list(self) != list(before):
            return None
        return list(compress(self, map(is_not, self.values(), before.values())))


class Wait(NamedTuple):
    """Something that is owed: an approval, a call, an effect, a human step, a question or a budget."""

    id: str
    kind: str
    subject: str
    digest: str | None
    text: str
    by: str
    since: str

    @property
    def type(self) -> WaitType:
        """The row of its kind in `WAITS`."""
        return wait_type(self.kind)


class WaitType(NamedTuple):
    """A row of `WAITS`. `ended_by`: what a person gives; `answer`: what they type as an answer."""

    ended_by: Literal["approval", "answer", "edit", ""]
    answer: str = ""


WAITS: dict[str, WaitType] = {
    "plan": WaitType("approval"),
    "step": WaitType("approval"),
    "result": WaitType("approval"),
    "call": WaitType("approval"),
    "protected-path": WaitType("approval"),
    "merge": WaitType("approval"),
    "human": WaitType("answer", "TEXT"),
    "question": WaitType("answer", "TEXT"),
    "effect": WaitType("answer", "happened|did-not"),
    "budget": WaitType("edit"),
}
_UNKNOWN = WaitType("")
OF_WORK = ("result", "protected-path")  # the kinds that are about what an attempt made
OF_NO_STEP = ("plan", "merge")  # those that are about no step


def wait_type(kind: object) -> WaitType:
    """Return the row of a kind of wait; one that this version does not know is ended by nothing."""
    return WAITS.get(str(kind), _UNKNOWN)


class Artifact(NamedTuple):
    """A file or other thing that a step made."""

    id: str
    name: str
    kind: str
    path: str
    digest: str
    time: str
    step: str
    attempt: int


class SpentTotal(NamedTuple):
    """The costs so far. `usd`: a decimal string."""

    usd: str = "0"
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: int = 0


class State(NamedTuple):
    """The whole of state.json. `log`: digest of log.md; `plan`: of plan.md and context.md."""

    protocol: str
    genesis: str
    revision: int
    status: Status
    title: str
    base: str
    plan: str | None
    steps: Steps
    waiting: list[Wait]
    artifacts: list[Artifact]
    spent: SpentTotal = SpentTotal()
    log: str = ""
    schema: int = 1

    def open_steps(self) -> list[tuple[str, StepState]]:
        """Return the steps that still count, in the order of their places."""
        return [(slug, self.steps[slug]) for slug in self.steps.order[0]]

    @property
    def stopped(self) -> list[str]:
        """The slugs of the steps that failed or are blocked, in the order of their places."""
        return [slug for slug, step in self.open_steps() if step.status in STOPPED]


def _place(item: tuple[str, StepState]) -> int:
    return item[1].place


# --- state.json as plain data, which commands that only show it read: nothing is made of it ---------------------------------

if TYPE_CHECKING:  # only annotations name these

    class StepRow(TypedDict):
        """A step as state.json has it. Only `place`, `status` and `needs` are known to be there, and of their types."""

        place: int
        status: str
        needs: list[str]
        title: NotRequired[str]
        kind: NotRequired[str]
        qa: NotRequired[str]
        digest: NotRequired[str]
        attempt: NotRequired[int]
        result: NotRequired[Json]
        reason: NotRequired[str]
        passed: NotRequired[bool]
        removed: NotRequired[bool]

    class WaitRow(TypedDict, total=False):
        """A wait as state.json has it; an older or damaged one may lack anything."""

        id: str
        kind: str
        subject: str
        digest: str | None
        text: str
        by: str
        since: str

    class Row(TypedDict):
        """state.json as it is (`store.record.row`). What may be left out is not there of one that cannot be read."""

        protocol: str
        status: str
        title: str
        revision: int
        steps: dict[str, StepRow]
        waiting: list[WaitRow]
        base: NotRequired[str]
        genesis: NotRequired[str]
        plan: NotRequired[str | None]
        artifacts: NotRequired[list[dict[str, Json]]]
        spent: NotRequired[dict[str, Json]]
        log: NotRequired[str]
        schema: NotRequired[int]


BLOCK = 32  # steps whose lines are put together again if one of them changed


@dataclass(slots=True, eq=False)
class Rendered:
    """What state.json was rendered with last. `lines`: each step's, in their order there; `at`: slug to the place among them;
    `blocks`: BLOCK lines each, put together."""

    steps: Steps = field(default_factory=Steps)
    lines: list[bytes] = field(default_factory=list)
    at: dict[str, int] = field(default_factory=dict)
    blocks: list[bytes] = field(default_factory=list)

    def take(self, steps: Steps) -> None:
        """Render the steps that are others than last."""
        changed = steps.changed(self.steps)
        if changed is None:
            same = {slug: self.lines[at] for slug, at in self.at.items() if self.steps[slug] is steps.get(slug)}
            self.at = {slug: number for number, slug in enumerate(sorted(steps))}
            self.lines = [same.get(slug) or _step(slug, steps[slug]) for slug in self.at]
            self.blocks = [b",\n".join(self.lines[at : at + BLOCK]) for at in range(0, len(self.lines), BLOCK)]
        else:
            for slug in changed:
                at = self.at[slug]
                self.lines[at] = _step(slug, steps[slug])
                begin = at - at % BLOCK
                self.blocks[at // BLOCK] = b",\n".join(self.lines[begin : begin + BLOCK])
        self.steps = steps


def render(state: State, kept: Rendered | None = None) -> bytes:
    """Return the bytes of state.json. `kept`: what the state before was rendered with; a step that is still the same is taken from
    there.
    """
    kept = Rendered() if kept is None else kept
    kept.take(state.steps)
    data = _indented({**_outside_steps(state), "steps": {}}).encode("ascii") + b"\n"
    if not state.steps:
        return data
    # No text holds a newline as it is, so this line is there once.
    before, _, after = data.partition(b'\n  "steps": {},\n')
    blocks = [*kept.blocks]
    blocks[0] = before + b'\n  "steps": {\n' + blocks[0]
    blocks[-1] += b"\n  },\n" + after
    return b",\n".join(blocks)  # put together once: a thousand steps are some 300 kB


def _step(slug: str, step: StepState) -> bytes:
    """Return a step's lines, indented as in state.json."""
    plain = {
        key: value
        for key, value in step._asdict().items()
        if (value is not None and value is not False) or key == "result"
    }
    return f"    {_text(slug)}: {_indented(plain, chr(10) + '    ')}".encode("ascii")


def _indented(value: Json, line: str = "\n") -> str:
    """Return `json.dumps(value, indent=2, sort_keys=True)`, slow with an indent. `line`: what starts a line there."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int:
        return str(value)
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if not value and kind in (dict, list):
        return "{}" if kind is dict else "[]"
    inner = f"{line}  "
    if kind is dict and all(type(key) is str for key in value):
        rows = [f"{inner}{_text(key)}: {_indented(value[key], inner)}" for key in sorted(value)]
        return f"{{{','.join(rows)}{line}}}"
    if kind is list:
        return f"[{','.join([inner + _indented(item, inner) for item in value])}{line}]"
    return json.dumps(value, indent=2, sort_keys=True).replace("\n", line)  # fractions; what is no JSON


def plain(state: State) -> Row:
    """Return a state as plain data, as `store.record.row` reads it from state.json; it shares the state's lists."""
    return cast("Row", {**_outside_steps(state), "steps": {slug: step._asdict() for slug, step in state.steps.items()}})


def _outside_steps(state: State) -> dict[str, Any]:
    return {
        **state._asdict(),
        "waiting": [wait._asdict() for wait in state.waiting],
        "artifacts": [artifact._asdict() for artifact in state.artifacts],
        "spent": state.spent._asdict(),
    }


def load(data: bytes, where: str) -> State:
    """Return the state that the bytes hold; the runner wrote them, so nothing is corrected or guessed.

    Raises:
        UnsupportedError: a newer schema.
        IntegrityError: not what `render` writes.
    """
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(where) from error
    return from_plain(plain, where)


def from_plain(value: Json, where: str) -> State:
    """Return the state that JSON already read holds; `value` is left as it is. Raises as `load` does."""
    try:
        plain: dict[str, Any] = dict(value)
        schema = plain["schema"]
        if type(schema) is not int or schema < 1:
            raise damaged(where)
        if schema > SCHEMA:
            raise UnsupportedError(
                f"state.json has schema {schema}; this version reads {SCHEMA}", where, "use a newer protocol-runner"
            )
        steps = {
            slug: _typed(StepState, {**step, "status": _STEP_STATUSES[step["status"]]})
            for slug, step in plain.pop("steps").items()
        }
        state = _typed(
            State,
            {
                **plain,
                "status": _STATUSES[plain["status"]],
                "steps": Steps(dict(sorted(steps.items(), key=_place))),
                "waiting": [_typed(Wait, wait) for wait in plain["waiting"]],
                "artifacts": [_typed(Artifact, artifact) for artifact in plain["artifacts"]],
                "spent": _typed(SpentTotal, plain["spent"]),
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(where) from error
    return state


_STATUSES = {status.value: status for status in Status}
_STEP_STATUSES = {status.value: status for status in StepStatus}
_TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,),
    str | None: (str, NoneType),
    int: (int,),
    bool: (bool,),
    list[str]: (list,),
}
_FIELDS: dict[type, dict[str, tuple[type, ...]]] = {
    kind: {name: _TYPES[of] for name, of in get_type_hints(kind).items() if of in _TYPES}
    for kind in (State, StepState, Wait, Artifact, SpentTotal)
}
_LISTS = {kind: [name for name, of in fields.items() if list in of] for kind, fields in _FIELDS.items()}
SHAPES = 1000  # at most so many are kept: somebody may send others for ever
# A kind with the names and types of fields that are right: a thousand protocols have few.
_seen: set[tuple[object, ...]] = set()
Value = TypeVar("Value")


def is_whole(value: Json) -> TypeGuard[Row]:
    """Return whether `from_plain` takes a value, of which nothing is made: that is most of the time that thousands would take."""
    try:
        plain: dict[str, Any] = dict(value)
        schema = plain["schema"]
        for step in plain["steps"].values():
            _check(StepState, step)
            if step["status"] not in _STEP_STATUSES:
                return False
        for kind, rows in ((Wait, plain["waiting"]), (Artifact, plain["artifacts"]), (SpentTotal, [plain["spent"]])):
            for row in rows:
                _check(kind, row)
        _check(State, plain)
        return type(schema) is int and 1 <= schema <= SCHEMA and plain["status"] in _STATUSES
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _typed(kind: type[Value], plain: dict[str, Any]) -> Value:
    """Return the fields as a value of the kind. Raises as `_check` does."""
    _check(kind, plain)
    return kind(**plain)


def _check(kind: type[object], plain: dict[str, Any]) -> None:
    """Refuse fields that make no value of the kind. TypeError: one of them is not of its type, is not known or is missing."""
    shape = (kind, *plain, *map(type, plain.values()))
    if shape not in _seen:
        for name, of in _FIELDS[kind].items():
            if name in plain and type(plain[name]) not in of:
                raise TypeError(name)
        kind(**plain)
        if len(_seen) < SHAPES:
            _seen.add(shape)
    for name in _LISTS[kind]:
        for item in plain.get(name, ()):
            if type(item) is not str:
                raise TypeError(name)


def damaged(where: str) -> IntegrityError:
    """Return the error for a record that the runner did not write."""
    return IntegrityError(
        "the record is not what the runner wrote", where, "run `runner doctor --fix` to repair it from the history"
    )
