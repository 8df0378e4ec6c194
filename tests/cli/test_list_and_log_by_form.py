"""`list --mine`, `--since` and `--format`, and the log as git's log is known."""

from __future__ import annotations

import pytest

from tests.conftest import Box, clone, command
from tests.people import env_of


def test_list_shows_those_that_the_person_created(remote: Box) -> None:
    remote.new({"01-a": command("true")}, title="Alice's")
    remote.git("push", "-q", "origin", "0001-alice-s")
    other = clone(remote, "bob")
    other.env.update(env_of(other.home, "bob"))
    other.new({"01-a": command("true")}, title="Bob's")
    assert "Bob's" in (told := other.runner("list", "--mine", rc=0).out) and "Alice" not in told
    assert [row["title"] for row in other.runner("list", "--mine", "--json", rc=0).json()["protocols"]] == ["Bob's"]


def test_list_shows_those_of_a_time_and_the_columns_that_are_named(box: Box) -> None:
    protocol = box.new({"01-a": command("true")}, title="One")
    assert box.runner("list", "--since", "1h", "--format", "%(id)|%(steps)|%(title)|%(branch)", rc=0).out == (
        f"{protocol}|0/1|One|{protocol}\n"
    )
    old = {"GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z"}
    box.git("commit", "-q", "--amend", "--no-edit", cwd=box.worktree(protocol), env=old)
    assert "no match among 1 protocol: `runner list` shows all" in box.runner("list", "--since", "1h", rc=0).err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--since", "soon"), "90m"),
        (("--format", "%(nme)"), "there is no column `nme`"),
        (("--format", "{id}"), "%(NAME)"),
    ],
)
def test_what_list_does_not_know_is_named(box: Box, words: tuple[str, ...], says: str) -> None:
    assert says in box.runner("list", *words, rc=2).err


def test_log_shows_a_commit_a_line(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("edit", protocol, "--add", "C", "--run", "true", rc=0)
    box.runner("run", protocol, rc=0)
    lines = box.runner("log", protocol, "--oneline", rc=0).out.splitlines()
    assert [line.split("  ")[1] for line in lines][:2] == ["plan planned", "add c"]
    assert len(lines) == int(box.git("rev-list", "--count", "--first-parent", f"main..{protocol}"))
    assert all(line.endswith("(alice@example.test)") for line in (lines[0], *lines[2:])) and lines[1].endswith(
        "(Alice)"
    )
    assert box.git("rev-parse", protocol).startswith(lines[-1].split()[0])
    graph = box.runner("log", protocol, "--graph", rc=0).out.splitlines()
    assert graph[0].startswith("* ") and len(graph) == len(lines)
    box.runner("merge", protocol, rc=0)
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    assert "planned" in box.runner("log", protocol, "--oneline", rc=0).out
    assert "neither with --json" in box.runner("log", protocol, "--oneline", "--json", rc=2).err


def test_log_names_the_step_that_failed_and_who_decided(box: Box) -> None:
    protocol = box.new({"01-a": command("false")})
    box.runner("run", protocol, rc=1)
    box.runner("cancel", protocol, rc=0)
    *_, failed, cancelled = box.runner("log", protocol, "--oneline", rc=0).out.splitlines()
    assert failed.endswith("  a failed  (alice@example.test)") and cancelled.endswith(
        "  cancelled  (alice@example.test)"
    )
