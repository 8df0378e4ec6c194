"""Whatever bytes people's files and the record hold: they are read, or refused with a RunnerError; never anything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import RunnerError, UnsupportedError
from runner.protocol import branches, config, coworker, document, log, machine, message, plan, policy, state, workflow
from tests.protocol import histories
from tests.protocol.histories import OID, PROTOCOL, begun, planned_step
from tests.protocol.test_policy import WHOLE

STEP = b"""---
title: Deploy
kind: tool
needs: [context]
tool: deploy_prod
with: {version: "${{ inputs.version }}", count: 3, list: [a, 'b', {c: null}]}
outputs: [src/ratelimit.py]
qa: {policy: light, checks: ["scripts/ci/test.sh"]}
approval: {when: none, roles: [maintainer], count: 2}
on_failure: {goto: context, limit: 3}
timeout: 1h30m
budget: {usd: 1.50, tokens: 200000}
---
What to do, in prose.
"""
PLAN = b"---\ntitle: t\nbase: main\ninputs: {version: '1', n: 2}\nqa: skip\nlinks: [a]\n---\nprose\n"
WORKFLOW = b"---\ntitle: t\ninputs:\n  version: {type: string, default: x}\n  n: integer\nqa: skip\n---\nprose\n"
CONFIG = (
    b"base: main\nbranch: runner/{id}\nengine: [a, b]\nworkspace: {setup: make, key: [uv.lock]}\nlease: {ttl: 1h}\n"
)
COWORKER = b"name: coder\nobjective: x\ntools: [a, {module: m, effects: {f: read}}]\nbudget: {turns: 1}\n"
CONTEXT = b"---\ntitle: c\nkind: command\nrun: [make, x]\n---\n"
ENTRIES = begun({"a": planned_step(1), "b": planned_step(2, needs=["a"])})
LOG = log.append(b"", ENTRIES)
MESSAGE = message.render(PROTOCOL, ENTRIES, OID)
STATE = state.render(histories.fold(ENTRIES))


def plan_of(step: bytes, top: bytes = PLAN) -> object:
    found = plan.parse({"plan.md": top, "01-context.md": CONTEXT, "02-deploy.md": step}, "P")
    with contextlib.suppress(UnsupportedError):  # its budget
        plan.refuse_unsupported(found, "P")
    return machine.edit_of(histories.fold(ENTRIES), found)


READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "step": (STEP, plan_of),
    "plan": (PLAN, lambda data: plan_of(STEP, data)),
    "context.md": (b"text", lambda data: plan.parse({"plan.md": PLAN, "context.md": data, "01-a.md": CONTEXT}, "P")),
    "workflow": (
        WORKFLOW,
        lambda data: workflow.instantiate(
            {"plan.md": data, "01-context.md": CONTEXT, "02-deploy.md": STEP}, "W", {"n": "1"}
        ),
    ),
    "config": (CONFIG, lambda data: (branches.pattern_of(data), config.parse(data, "c.yaml"))),
    "policy": (WHOLE.encode(), lambda data: policy.parse(data, "policy.yaml")),
    "coworker": (COWORKER, lambda data: coworker.parse(data, "a.yaml")),
    "log": (LOG, lambda data: machine.fold(None, log.parse(data, "log.md"))),
    "state": (STATE, lambda data: state.load(data, "state.json")),
    "message": (MESSAGE, lambda data: (message.parse(data), message.looks_forged(data))),
}
ODD = [
    b"\0", b"\xff", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b"---\n", b"...\n", b"&a ", b"*a", b"!!int ", b"! ", b"<<: ", b"{", b"}",
    b"[", b"]",
    b"'", b'"', b"#", b": ", b"? ", b"- ", b"|\n", b">\n", b"~", b"null", b"1e999", b"9" * 50, b"-1", b"0777", b"12:30", 
    b".inf", b"NaN",
    b"true", b"${{", b"}}", b"${{ steps.x.result }}", b'"\\u202e"', b'"\\ud800"', b"\xe2\x80\xae", b"\xc2\x85", 
    b"\xef\xbb\xbf", b"[" * 40,
    b"\\", b"%YAML 9.9\n", b"## 3 paused a\n", b'{"a": 1}', b"- a: b\n", b" " * 300,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """A good file with a few pieces cut out, doubled, moved or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 40)))
        piece = draw(st.sampled_from(ODD) | st.binary(max_size=4) | st.just(data[at:end] * 2) | st.just(b""))
        data = data[:at] + piece + data[end:]
    return data


@pytest.mark.parametrize("kind", READERS)
def test_the_good_file_is_read(kind: str) -> None:
    good, read = READERS[kind]

    assert read(good) is not None


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=150)
@given(st.data())
def test_a_mutated_file_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    good, read = READERS[kind]
    try:
        read(data.draw(mutated(good)))
    except RunnerError as error:
        assert error.what and error.where and error.hint
        assert document.FORBIDDEN.search(str(error)) is None


@pytest.mark.parametrize("kind", READERS)
@given(st.binary(max_size=120), st.sampled_from([b"", b"---\n", b"---\ntitle: x\n", b"## 1 created 0001-a\n"]))
def test_arbitrary_bytes_are_read_or_refused(kind: str, data: bytes, start: bytes) -> None:
    _, read = READERS[kind]
    for candidate in (start + data, start + data + b"\n---\n"):
        try:
            read(candidate)
        except RunnerError as error:
            assert error.what and error.where and error.hint


names = st.text(max_size=12) | st.from_regex(r"\A[0-9]{1,3}-[a-z-]{1,4}\.md\Z")


@given(st.dictionaries(names, st.sampled_from([STEP, CONTEXT, b""]), max_size=5))
def test_arbitrary_names_are_taken_or_refused(files: dict[str, bytes]) -> None:
    try:
        plan.parse({"plan.md": PLAN, **files}, "P")
    except RunnerError as error:
        assert document.FORBIDDEN.search(error.where) is None
