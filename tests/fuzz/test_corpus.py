"""Whatever bytes somebody wrote: they are taken, or refused as documented; never anything else, and never slowly.

The corpus is what `make fuzz` found: an input for each way through a reader that another does not go, and each defect.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import RunnerError
from runner.protocol import plans, strict_yaml
from tests.fuzz.targets import CONTEXT, PLAN, STEP, TARGETS, WORDS

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 2.0  # seconds of this process for one input; the longest needs a hundredth of it
INPUTS = {name: sorted((CORPUS / name).iterdir()) for name in TARGETS if (CORPUS / name).is_dir()}


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_file_is_taken(name: str) -> None:
    assert TARGETS[name].fuzz(TARGETS[name].good)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_taken_or_refused(name: str) -> None:
    assert INPUTS[name]
    for file in INPUTS[name]:
        began = time.process_time()
        try:
            TARGETS[name].fuzz(file.read_bytes())
        except Exception as error:
            error.add_note(str(file))
            raise
        assert time.process_time() - began < LONGEST, file


def test_the_corpus_is_small_and_each_of_it_belongs_to_a_reader() -> None:
    files = [file for file in CORPUS.rglob("*") if file.is_file()]
    assert {file.parent for file in files} == {CORPUS / name for name in TARGETS}
    assert len(files) < 300
    assert max(file.stat().st_size for file in files) <= 8192


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with a few pieces cut out, doubled, moved or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 40)))
        piece = draw(st.sampled_from(WORDS) | st.binary(max_size=4) | st.just(data[at:end] * 2) | st.just(b""))
        data = data[:at] + piece + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=100)
@given(st.data())
@pytest.mark.slow
@pytest.mark.window(4)
def test_a_mutated_file_is_taken_or_refused(name: str, data: st.DataObject) -> None:
    good = st.just(TARGETS[name].good) | st.sampled_from(INPUTS[name]).map(Path.read_bytes)
    TARGETS[name].fuzz(data.draw(mutated(data.draw(good))))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50)
@given(
    st.binary(max_size=120),
    st.sampled_from([b"", b"---\n", b"---\ntitle: x\n", b"## 1 created 0001-a\n", b"- 2026-11-20 06:47:03Z "]),
)
def test_arbitrary_bytes_are_taken_or_refused(name: str, data: bytes, start: bytes) -> None:
    TARGETS[name].fuzz(start + data)
    TARGETS[name].fuzz(start + data + b"\n---\n")


names = st.text(max_size=12) | st.from_regex(r"\A[0-9]{1,3}-[a-z-]{1,4}\.md\Z")


@given(st.dictionaries(names, st.sampled_from([STEP, CONTEXT, b""]), max_size=5))
def test_arbitrary_names_are_taken_or_refused(files: dict[str, bytes]) -> None:
    try:
        plans.parse({"plan.md": PLAN, **files}, "P")
    except RunnerError as error:
        assert strict_yaml.FORBIDDEN.search(error.where) is None
