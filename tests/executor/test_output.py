"""What commands and checks print is kept beside the transcripts: whole up to a limit, and without secrets."""

from __future__ import annotations

import re

import pytest

from runner.executor.workspace_session import OUTPUT_LIMIT, KeptOutput
from runner.store.environment import Redactor
from tests.conftest import Box, command

SECRET = "sk-0123456789-abcdefghij"
NONE = Redactor({})


def kept(box: Box, protocol: str) -> list[str]:
    """The names of the output files in the history."""
    return box.git("ls-tree", "-r", "--name-only", f"refs/runner/history/{protocol}", "output/", check=False).split()


def output(box: Box, protocol: str, name: str) -> str:
    return box.git("show", f"refs/runner/history/{protocol}:output/{name}.txt")


def collected(data: bytes, redactor: Redactor = NONE, *, limit: int = OUTPUT_LIMIT, size: int = 7) -> bytes:
    """What is kept of `data` that comes in parts of `size` bytes."""
    found = KeptOutput(redactor, limit)
    for at in range(0, len(data), size):
        found.take(data[at : at + size])
    return found.data()


def test_the_output_of_a_command_and_of_each_check_is_filed(box: Box) -> None:
    protocol = box.new(
        {"01-a": command("echo one; echo two >&2", 'qa: {checks: ["echo three", "true", "echo four"]}\n')}
    )
    box.runner("run", protocol, rc=0)
    assert kept(box, protocol) == ["output/a.1.check-1.txt", "output/a.1.check-3.txt", "output/a.1.txt"]
    assert output(box, protocol, "a.1") == "one\ntwo\n"
    assert output(box, protocol, "a.1.check-3") == "four\n"
    box.runner("verify", protocol, rc=0)


def test_each_attempt_has_its_own_output(box: Box) -> None:
    protocol = box.new({"01-a": command("echo attempt $RUNNER_ATTEMPT; exit 3", "on_failure: {retry: 1}\n")})
    box.runner("run", protocol, rc=1)
    assert [output(box, protocol, f"a.{number}") for number in (1, 2)] == ["attempt 1\n", "attempt 2\n"]


def test_the_output_of_a_failed_check_is_filed(box: Box) -> None:
    protocol = box.new({"01-a": command("true", 'qa: {checks: ["echo wrong; exit 1"]}\n')})
    box.runner("run", protocol, rc=1)
    assert output(box, protocol, "a.1.check-1") == "wrong\n"


def test_a_command_that_prints_nothing_files_nothing(box: Box) -> None:
    protocol = box.new({"01-a": command("true", 'qa: {checks: ["true"]}\n'), "02-b": command("true")})
    for _ in range(2):
        box.runner("step", protocol, rc=0)
    assert box.git("rev-parse", "-q", "--verify", f"refs/runner/history/{protocol}", check=False) == ""


def test_a_secret_is_not_kept(box: Box) -> None:
    box.env["DEPLOY_TOKEN"] = SECRET
    say = f"printf 'it is {SECRET[:9]}%s\\\\n' {SECRET[9:]}"
    protocol = box.new({"01-a": command(say, f'qa: {{checks: ["{say}"]}}\n'.replace("\\\\n", "\\\\\\\\n"))})
    box.runner("run", protocol)
    for name in ("a.1", "a.1.check-1"):
        assert "[DEPLOY_TOKEN]" in output(box, protocol, name) and SECRET not in output(box, protocol, name)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_of_a_long_output_the_first_and_the_last_whole_lines_are_kept(size: int) -> None:
    lines = [f"line {number}" for number in range(20_000)]
    found = collected("\n".join(lines).encode(), limit=4000, size=size).decode().split("\n")
    at = next(number for number, line in enumerate(found) if line.startswith("[... the middle of "))
    assert found[:at] == lines[:at] and found[at + 1 :] == lines[-(len(found) - at - 1) :]
    assert 3800 < len("\n".join(found)) < 4100


def test_what_just_fits_is_kept_as_it_is() -> None:
    data = b"x" * 3999 + b"\n"
    assert collected(data, limit=4000) == data
    assert len(collected(data + b"y", limit=4000)) < 4100 and b"4001 bytes" in collected(data + b"y", limit=4000)


def test_output_without_any_line_is_cut_all_the_same() -> None:
    found = collected(b"x" * 100_000, limit=4000)
    assert re.fullmatch(rb"x{2000}\n\[[^\n]*\]\nx{2000}", found)


def test_no_cut_leaves_a_part_of_a_secret() -> None:
    redactor = Redactor({"DEPLOY_TOKEN": SECRET})
    for before in range(150, 260):  # the cuts are at 200 bytes from each end, and as much further as the secret is long
        data = b"a" * before + SECRET.encode() + b"b" * 500 + SECRET.encode() + b"c" * before
        found = collected(data, redactor, limit=400).decode()
        assert not any(SECRET[at : at + 4] in found for at in range(len(SECRET) - 3)), (before, found)


def test_a_secret_of_several_lines_is_not_left_in_part() -> None:
    secret = "\n".join(f"line-{number}-of-a-key" for number in range(8))
    redactor = Redactor({"SIGNING_KEY": secret})
    for before in range(0, 400, 3):
        data = (b"a\n" * 200)[:before] + secret.encode() + b"\n" + b"b\n" * 600
        assert b"of-a-key" not in collected(data, redactor, limit=600)
        assert b"of-a-key" not in collected(data[::-1], Redactor({"SIGNING_KEY": secret[::-1]}), limit=600)[::-1]
