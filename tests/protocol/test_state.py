"""state.json: its bytes, and what is refused."""

from __future__ import annotations

import ast
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import IntegrityError, RunnerError, UnsupportedError
from runner.protocol import machine
from runner.protocol import state as state_file
from runner.protocol.state import (
    Artifact,
    Rendered,
    SpentTotal,
    State,
    Status,
    Steps,
    StepState,
    StepStatus,
    Wait,
    is_whole,
    load,
    read_json,
    render,
)
from tests.protocol import histories

texts, numbers = histories.texts, st.integers(0, 2**53)
steps = st.builds(
    StepState,
    place=numbers,
    title=texts,
    kind=texts,
    needs=st.lists(texts, max_size=3),
    qa=texts,
    digest=texts,
    status=st.sampled_from(list(StepStatus)),
    attempt=numbers,
    result=histories.values,
    reason=st.none() | texts,
    passed=st.booleans(),
    removed=st.booleans(),
)
states = st.builds(
    partial(State),  # whose defaults are not drawn
    protocol=texts,
    genesis=texts,
    revision=numbers,
    status=st.sampled_from(list(Status)),
    title=texts,
    base=texts,
    plan=st.none() | texts,
    steps=st.dictionaries(texts, steps, max_size=3).map(Steps),
    waiting=st.lists(st.builds(Wait, **dict.fromkeys(("id", "kind", "subject", "digest", "text", "by", "since"), texts)), max_size=2),
    artifacts=st.lists(
        st.builds(Artifact, **dict.fromkeys(("id", "name", "kind", "path", "digest", "time", "step"), texts), attempt=numbers),
        max_size=2,
    ),
    spent=st.builds(SpentTotal, usd=texts, input_tokens=numbers, output_tokens=numbers, seconds=numbers),
    log=texts,
)  # fmt: skip


@given(states)
def test_what_is_written_is_read_again(state: State) -> None:
    data = render(state)

    assert data.isascii() and data.endswith(b"\n}\n")
    assert load(data, "state.json") == state
    assert data == (json.dumps(json.loads(data), indent=2, sort_keys=True) + "\n").encode()


@given(states)
def test_what_is_plain_is_the_state_again(state: State) -> None:
    assert state_file.from_plain(state_file.plain(state), "state.json") == state


@given(st.lists(states, max_size=4))
def test_what_was_rendered_before_changes_nothing(found: list[State]) -> None:
    kept = Rendered()

    assert [render(state, kept) for state in [*found, *found]] == [render(state) for state in [*found, *found]]


@given(st.lists(st.integers(0, 99), max_size=5))
def test_of_many_steps_what_was_rendered_before_changes_nothing(changes: list[int]) -> None:
    found = histories.state_with({f"s{number}": histories.step_state(place=number) for number in range(100)})
    kept = Rendered()
    render(found, kept)
    for revision, number in enumerate(changes):
        step = histories.step_state(StepStatus.COMPLETED, place=number, result=revision)
        found = found._replace(steps=found.steps.with_(f"s{number}", step), revision=revision)
        assert render(found, kept) == render(found) == render(load(render(found), "state.json"))


@given(states)
def test_it_is_what_json_writes_with_an_indent_and_sorted_keys(found: State) -> None:
    data = render(found)
    assert data == json.dumps(json.loads(data), indent=2, sort_keys=True).encode() + b"\n"


def test_what_says_nothing_is_left_out_of_a_step() -> None:
    state = histories.state_with({"a": histories.step_state()})

    assert sorted(json.loads(render(state))["steps"]["a"]) == sorted(
        ["place", "title", "kind", "needs", "qa", "digest", "status", "attempt", "result"]
    )


def test_a_step_of_number_zero_keeps_its_place() -> None:
    state = histories.state_with({"a": histories.step_state(place=0)})

    assert load(render(state), "state.json") == state


GOOD = json.loads(render(histories.state_with({"a": histories.step_state()})))


def test_a_newer_schema_is_refused_with_the_version_that_reads_it() -> None:
    with pytest.raises(UnsupportedError, match="schema 3; this version reads 2") as refused:
        load(json.dumps(GOOD | {"schema": 3, "steps": "of another shape"}).encode(), "state.json")

    assert refused.value.exit_code == 2
    assert refused.value.hint == "use a newer protocol-runner"


STEP = GOOD["steps"]["a"]
CHANGES: list[dict[str, Any]] = [
    {"schema": 0}, {"schema": "2"}, {"schema": None}, {"schema": True}, {"schema": 1.0}, {"more": 1}, {"status": "sealed"},
    {"status": []}, {"steps": []}, {"steps": {"a": {}}}, {"steps": {"a": None}}, {"steps": None}, {"waiting": [1]}, {"waiting": [{}]},
    {"waiting": None}, {"artifacts": [{"id": "x"}]}, {"spent": []}, {"spent": {"euro": 1}},
    {"steps": {"a": STEP | {"status": "idle"}}},
    {"steps": {"a": STEP | {"more": 1}}}, {"steps": {"a": STEP | {"needs": [{}]}}}, {"steps": {"a": STEP | {"place": "1"}}},
    {"steps": {"a": STEP | {"passed": 1}}}, {"steps": {"a": STEP | {"reason": 1}}}, {"revision": "x"}, {"revision": True},
    {"plan": 1}, {"title": None}, {"waiting": [dict.fromkeys(("id", "kind", "subject", "digest", "text", "by", "since"), 1)]},
    {"spent": {"usd": 1.5}},
]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"schema": 1}',
        *(json.dumps(GOOD | change).encode() for change in CHANGES),
        *(json.dumps({name: value for name, value in GOOD.items() if name != key}).encode() for key in GOOD if key != "log"),
    ],
)  # fmt: skip
def test_what_the_runner_did_not_write_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="not what the runner wrote") as refused:
        load(data, "P/state.json")
    assert not is_whole(read_json(data))

    assert refused.value.where == "P/state.json"
    assert "runner doctor --fix" in refused.value.hint


plain = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=9),
)


@given(plain)
def test_arbitrary_json_is_read_or_refused(value: object) -> None:
    candidates = [value, *(GOOD | {key: value} for key in GOOD), GOOD | {"steps": {"a": value}}]
    for candidate in candidates:
        try:
            found = load(json.dumps(candidate).encode(), "state.json")
        except RunnerError:
            assert not is_whole(candidate)
            continue
        assert isinstance(found, State) and is_whole(candidate)


# States in which something is open: few names, so that steps need and wait for each other.
slugs = st.sampled_from(["a", "b", "c"])
open_states = st.builds(
    partial(State, artifacts=[]),
    protocol=st.just("0001-p"),
    genesis=st.just(""),
    revision=st.just(1),
    status=st.sampled_from([Status.PLANNING, Status.PLANNED, Status.RUNNING, Status.PENDING, Status.PAUSED]),
    title=st.just(""),
    base=st.just("main"),
    plan=st.none(),
    steps=st.dictionaries(
        slugs,
        st.builds(
            partial(StepState),
            place=st.integers(1, 3),
            title=st.just(""),
            kind=st.sampled_from(["command", "human"]),
            needs=st.lists(st.sampled_from(["a", "b", "c", "gone"]), max_size=2),
            qa=st.sampled_from(["skip", "full"]),
            digest=st.just(""),
            status=st.sampled_from(list(StepStatus)),
            passed=st.booleans(),
            removed=st.booleans(),
        ),
    ).map(Steps),
    waiting=st.lists(
        st.builds(
            Wait,
            id=st.just("0001"),
            kind=st.just("human"),
            subject=slugs | st.sampled_from(["plan", "0001-p", "other"]),
            digest=st.none(),
            **dict.fromkeys(("text", "by", "since"), st.just("")),
        ),
        max_size=2,
    ),
)


few_steps = st.builds(
    lambda place, status, removed: histories.step_state(status, place=place, removed=removed),
    st.integers(1, 3),
    st.sampled_from(list(StepStatus)),
    st.booleans(),
)


@given(
    st.dictionaries(slugs, few_steps), st.lists(st.tuples(st.integers(0, 9), slugs, few_steps | st.none()), max_size=8)
)
def test_what_steps_share_is_what_each_would_find_alone(
    first: dict[str, StepState], changes: list[tuple[int, str, StepState | None]]
) -> None:
    """Whatever is made of which of them, and whatever was asked of them before."""
    made = [Steps(first)]
    for number, slug, step in changes:
        of = made[number % len(made)]
        if step is None:
            list(of.left())
        elif slug in of:
            made.append(of.with_(slug, step))
    for one in made:
        count = sorted((item for item in one.items() if not item[1].removed), key=lambda item: item[1].place)
        assert one.order == ([slug for slug, _ in count], [step.place for _, step in count])
        assert list(one.left()) == [(slug, step) for slug, step in count if step.status not in state_file.ENDED]
        for other in made:
            assert one.changed(other) == [slug for slug in one if one[slug] is not other[slug]]
            assert one.changed(Steps(other)) == one.changed(other)
    assert Steps(first).changed(Steps({**first, "d": histories.step_state()})) is None


@given(open_states)
def test_plain_data_tells_whether_something_can_happen_as_the_machine_does(found: State) -> None:
    plain = json.loads(render(found))
    assert is_whole(plain)
    decided = machine.decide(load(render(found), "state.json"))
    assert machine.can_act(plain, found.protocol) == (not isinstance(decided, machine.Halt))


@pytest.mark.parametrize(("row", "value"), [("Row", State), ("StepRow", StepState), ("WaitRow", Wait)])
def test_a_row_has_the_fields_of_its_value(row: str, value: Any) -> None:
    tree = ast.parse(Path(state_file.__file__).read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == row]
    assert {ast.unparse(one.target) for one in found.body if isinstance(one, ast.AnnAssign)} == set(value._fields)
