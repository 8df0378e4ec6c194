"""States, entries and arbitrary events for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_type_hints

from hypothesis import strategies as st

from runner.protocol import events as ev
from runner.protocol import machine
from runner.protocol.events import Entry, Event
from runner.protocol.state import State, Status, Steps, StepState, StepStatus

PROTOCOL = "0007-rate-limit"
TIME = "2026-11-20T06:47:03Z"
DIGEST = "sha256:" + "0" * 64
OID = "a" * 40

# Texts that look like something else: to JSON, to the log's grammar, to a commit message.
ODD_TEXTS = (
    "", "true", "null", "NaN", "Infinity", "-1", "1", "0777", "1e5", "1.5", "a b", "a\nb", "\r\n", '"quoted"', "{", "[]",
    "## 9 completed x", "- time: now", "\n\n## 2 paused x\n- time: 2026-11-20T06:47:03Z\n- actor: a\n\n", "Runner-Event: x y",
    "\u202e", "\x00", "\x85", "\u2028", "ünï", "😀", "1" * 400,
)  # fmt: skip
texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
slugs = st.sampled_from(["a", "b", "c", "plan", PROTOCOL])


def any_event(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Events of one kind, their fields of the right type and else arbitrary."""
    given: dict[str, Any] = {"subject": slugs}
    types = get_type_hints(kind)
    for name in [*kind.model_fields][1:]:
        type_ = types[name]
        if type_ is Any:
            given[name] = values
        elif type_ == dict[str, Any]:
            given[name] = st.dictionaries(texts, values, max_size=3)
        elif type_ == dict[str, ev.UndoneStep]:
            step = st.fixed_dictionaries({"status": texts, "attempt": st.integers(), "result": values})
            given[name] = st.dictionaries(texts, step, max_size=2)
        elif type_ in (str, str | None):
            given[name] = texts if type_ is str else st.none() | texts
        elif name in kind.required:
            given[name] = st.from_type(type_)
    return st.builds(kind, **given)


events = st.one_of([any_event(model) for model in ev.MODELS.values()])
entries = st.builds(
    Entry,
    revision=st.integers(1, 999_999_999),
    time=st.just(TIME),
    actor=st.sampled_from(["runner", "alice@example.test", "unnamed"]),
    event=events,
)


def planned_step(place: int, *, kind: str = "command", qa: str = "light", needs: Iterable[str] = ()) -> ev.PlannedStep:
    """What `planned` says of a step."""
    return {"place": place, "title": "t", "kind": kind, "needs": list(needs), "qa": qa, "digest": DIGEST}


def entry(revision: int, event: Event) -> Entry:
    """An entry of the runner's."""
    return Entry(revision, TIME, "runner", event)


def created() -> Entry:
    """The first entry."""
    event = ev.Created(subject=PROTOCOL, title="Rate limit", base="main", start=OID, nonce="0" * 32)
    return entry(1, event)


def begun(steps: dict[str, ev.PlannedStep]) -> list[Entry]:
    """The entries of a protocol whose plan stands."""
    return [created(), entry(2, ev.Planned(subject="plan", plan=DIGEST, steps=steps))]


def state_with(steps: dict[str, StepState], status: Status = Status.RUNNING, **more: Any) -> State:
    """A state that has these steps."""
    return State(
        protocol=PROTOCOL,
        genesis=DIGEST,
        revision=7,
        status=status,
        title="Rate limit",
        base="main",
        plan=None if status in (Status.PENDING, Status.PLANNING) else DIGEST,
        steps=Steps(steps),
        **{"waiting": [], "artifacts": [], **more},
    )


def step_state(status: StepStatus = StepStatus.PENDING, **more: Any) -> StepState:
    """A step of a state."""
    return StepState(**{**planned_step(1), "status": status, **more})


def fold(found: list[Entry]) -> State:
    """The state after the entries."""
    state = machine.fold(None, found)
    assert state is not None
    return state
