"""Ids, references, digests: pure functions of text."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import MalformedFileError, WaitingError
from runner.protocol import ids, paths, references


@given(st.text(max_size=120), st.integers(1, 99_999))
def test_a_title_gives_an_id(title: str, number: int) -> None:
    protocol = ids.protocol_id(number, ids.slug_of_title(title))

    assert ids.is_protocol_id(protocol)
    assert ids.number_of(protocol) == number


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Straße, größer; Łódź", "strasse-grosser-lodz"),
        ("Rate limit the API", "rate-limit-the-api"),
        ("  Überprüfung: 2. Teil!", "uberprufung-2-teil"),
        ("日本", "task"),
        ("a" * 59 + " bc", "a" * 59),
        ("x" * 100, "x" * 60),
        ("A " + "x" * 100, "a-" + "x" * 58),
        ("ab " * 20 + "end", "-".join(["ab"] * 20)),
        ("a" * 50 + " of the function", "a" * 50 + "-of-the"),
    ],
)
def test_slug_of_a_title(title: str, slug: str) -> None:
    assert ids.slug_of_title(title) == slug


@pytest.mark.parametrize(
    "text",
    ["", "7-a", "007-a", "0007", "0007-", "0007--a", "0007-a-", "0007-A", "0007-ä", "0007-a\n", " 0007-a", "٠٠٠٧-a",
     "0007-a/b", "0007-a.b", "1234567890-a", "0007-" + "a" * 61],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    assert not ids.is_protocol_id(text)


@given(
    st.from_regex(ids.PROTOCOL_ID.pattern, fullmatch=True).filter(ids.is_protocol_id),
    st.sampled_from(["{id}", "runner/{id}", "x-{id}-y"]),
)
def test_a_branch_names_its_protocol(protocol: str, pattern: str) -> None:
    assert ids.protocol_of_branch(pattern, ids.branch_of(pattern, protocol)) == protocol


@pytest.mark.parametrize("branch", ["main", "runner/main", "runner/", "0007-a", "runner/0007-a/x", "runner/0007-A"])
def test_other_branches_are_nobody_s(branch: str) -> None:
    assert ids.protocol_of_branch("runner/{id}", branch) is None


@pytest.mark.parametrize(
    ("reference", "slug"),
    [("deploy", "deploy"), ("02-deploy", "deploy"), ("002-deploy", "deploy"), ("2fa", "2fa"), ("02-2fa", "2fa"), ("10-4", "10-4"),
     ("01-10-4", "10-4"), ("deplo", None), ("Deploy", None), ("2-deploy", None), ("02-deploy.md", None), ("", None)],
)  # fmt: skip
def test_a_step_is_named_by_its_slug_or_its_file(reference: str, slug: str | None) -> None:
    assert ids.find_step(reference, {"deploy", "2fa", "10-4"}) == slug


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        (None, "{id}"), (b"", "{id}"), (b"branch: runner/{id}\n", "runner/{id}"), (b"a: 1\r\nbranch: 'x-{id}'  # why\r\n", "x-{id}"),
        (b"branch: main\n", "{id}"), (b"branch: {id}{id}\n", "{id}"), (b"  branch: x{id}\n", "{id}"), (b"# branch: x{id}\n", "{id}"),
    ],
)  # fmt: skip
def test_the_branch_s_pattern_is_read_without_yaml(config: bytes | None, pattern: str) -> None:
    assert ids.branch_pattern(config) == pattern


def test_digests_say_their_kind() -> None:
    assert ids.digest(b"x") == "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert ids.DIGEST.fullmatch(ids.digest(b""))


def test_a_manifest_is_one_line_a_file_by_path() -> None:
    inner = {name: hashlib.sha256(data).hexdigest() for name, data in (("a", b"1"), ("b", b"22"))}
    text = f"100644 {inner['a']} 1 a\n100644 {inner['b']} 2 b\n"

    assert ids.manifest_digest({"b": b"22", "a": b"1"}) == ids.digest(text.encode())


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.binary(max_size=5), max_size=4), st.data())
def test_a_manifest_changes_with_each_of_its_files(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.text(min_size=1, max_size=5))
    other = files | {name: data.draw(st.binary(max_size=5))}

    assert (ids.manifest_digest(files) == ids.manifest_digest(other)) is (files == other)


@pytest.mark.parametrize(
    "path", [".protocols", ".protocols/policy.yaml", ".Protocols/memory/x", ".protocols/Memory/x", ".protocols/memory"]
)
def test_a_step_may_not_change_what_is_for_people(path: str) -> None:
    assert paths.is_for_people(path)


@pytest.mark.parametrize("path", [".protocols/memory/x.md", "src/.protocols/x", ".protocolsx", "a.py"])
def test_a_step_may_change_memory_and_the_project(path: str) -> None:
    assert not paths.is_for_people(path)


def test_names_that_files_of_the_folder_cannot_have() -> None:
    names = ["plan.md", "Plan.md", "ä.md", "a\\b", "a\x7f", "notes.md"]
    assert list(paths.odd_names(names)) == [("Plan.md", "plan.md"), ("ä.md", ""), ("a\\b", ""), ("a\x7f", "")]


def test_which_files_are_whose() -> None:
    for name in ("plan.md", "context.md", "01-a.md", "000001-a.md"):
        assert paths.is_plan_file(name) and not paths.is_record(name)
    for name in ("state.json", "log.md", "log/0001.md", "calls/a.1.1.json", "reports/a.1.md"):
        assert paths.is_record(name) and not paths.is_plan_file(name)
    for name in ("1-a.md", "notes.md", "approvals/x", "sub/01-a.md", "01-a.md\n"):
        assert not paths.is_plan_file(name) and not paths.is_record(name)


# --- references ------------------------------------------------------------------------------------------------------

INPUTS = {"version": "1.2", "count": 3, "dry": False, "none": None}
RESULTS = {"context": {"text": "hi", "list": [1]}, "2fa": {"ok": True}, "lost": None}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("${{ inputs.count }}", 3),
        ("${{inputs.dry}}", False),
        ("${{ inputs.none }}", None),
        ("v${{ inputs.version }}-${{ inputs.count }}", "v1.2-3"),
        ("${{ steps.context.result }}", RESULTS["context"]),
        ("${{ steps.context.result.text }}", "hi"),
        ("${{ steps.01-context.result.text }}", "hi"),
        ("${{ steps.2fa.result.ok }}", True),
        ("a ${{ steps.context.result.list }}", "a [1]"),
        ({"a": ["${{ inputs.count }}", 1]}, {"a": [3, 1]}),
        ("$ {{ inputs.count }}", "$ {{ inputs.count }}"),
        (5, 5),
    ],
)
def test_a_reference_is_replaced_by_what_it_names(value: object, found: object) -> None:
    assert references.resolve(value, INPUTS, RESULTS, "f:1") == found


def test_what_stands_in_a_value_is_not_looked_at_again() -> None:
    inputs = {"a": "${{ inputs.b }}", "b": "secret"}

    assert references.resolve("x${{ inputs.a }}", inputs, {}, "f:1") == "x${{ inputs.b }}"


@pytest.mark.parametrize(
    "name",
    ["inputs.zzz", "steps.zzz.result", "steps.context.result.zzz", "steps.context.text", "inputs", "", "env.HOME",
     "inputs.version.__class__", "steps.context.result.text.x", "inputs.version | x"],
)  # fmt: skip
def test_a_reference_to_nothing_is_refused(name: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        references.resolve(f"${{{{ {name} }}}}", INPUTS, RESULTS, "f:1")

    assert refused.value.where == "f:1"


def test_a_result_that_nobody_knows_waits_for_a_person() -> None:
    with pytest.raises(WaitingError, match="is not known"):
        references.resolve("${{ steps.lost.result.text }}", INPUTS, RESULTS, "f:1")


def test_commands_get_inputs_and_results_as_environment() -> None:
    assert references.environment({"version": "1", "n": 2, "z": "a\0b"}, {"two-fa": {"ok-é": True}, "x": None}) == {
        "RUNNER_INPUT_VERSION": "1",
        "RUNNER_INPUT_N": "2",
        "RUNNER_STEPS_TWO_FA_OK__": "true",
    }


def test_a_long_line_of_braces_is_read_in_no_time() -> None:
    began = time.process_time()
    for text in ("${{" + " " * 200_000, "${{ " * 50_000, "${{ inputs." + "a." * 100_000):
        assert references.resolve(text, {}, {}, "f:1") == text
    assert time.process_time() - began < 5
