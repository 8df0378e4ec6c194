"""What two people say of one thing in two clones: what is published first decides, and nothing of the other's is lost unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Box, add_origin, clone, command, mostly_slow
from tests.people import Person, governed, person
from tests.store.test_offline import publish


def asked(remote: Box) -> tuple[str, Box]:
    """Return a protocol that waits for an answer, published, and the clone of another person, who has it too."""
    publish(remote)
    protocol = remote.new({"01-read": "kind: human\n", "02-b": command("echo b > b.txt")})
    remote.runner("run", protocol, rc=3)
    other = clone(remote, "bob")
    other.runner("sync", protocol, rc=0)
    return protocol, other


def messages(box: Box, protocol: str) -> str:
    return box.git("log", "--format=%an: %B", protocol)


@pytest.mark.parametrize("verb", mostly_slow(["run", "sync", "answer"], 1))
def test_an_answer_that_was_published_second_stays_in_the_history_and_its_author_reads_who_answered(
    remote: Box, verb: str
) -> None:
    protocol, bob = asked(remote)
    bob.runner("answer", "--offline", protocol, "read", "Tabs", rc=0)
    remote.runner("answer", protocol, "read", "Spaces", rc=0)
    told = bob.runner(verb, protocol, *(["read", "Tabs"] if verb == "answer" else []))
    assert "01-read was answered already, by alice@example.test: Spaces" in told.err
    assert "done again" not in told.err
    if verb == "answer":
        bob.runner("sync", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    assert remote.git("rev-parse", protocol) == bob.git("rev-parse", protocol)
    history = messages(remote, protocol)
    assert "bob: 0001-a-plan: read was answered elsewhere first" in history and "- text: Tabs" in history
    assert '"text":"Spaces"' in remote.log(protocol) and "Tabs" not in remote.log(protocol)
    remote.runner("verify", protocol, rc=0)
    remote.runner("run", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)


def test_an_answer_is_recorded_again_where_its_question_still_waits(remote: Box) -> None:
    protocol, bob = asked(remote)
    bob.runner("answer", "--offline", protocol, "read", "Tabs", rc=0)
    remote.runner("pause", protocol, rc=0)
    told = bob.runner("sync", protocol, rc=0)
    assert "your answer to 01-read is recorded again" in told.err and "done again" not in told.err
    assert not bob.state(protocol)["waiting"] and bob.state(protocol)["status"] == "paused"
    remote.runner("resume", protocol, rc=0)
    remote.runner("run", protocol, rc=0)
    assert '"text":"Tabs"' in remote.log(protocol)
    remote.runner("verify", protocol, rc=0)


def test_an_answer_to_a_question_that_is_asked_anew_is_not_taken_for_the_new_ones(remote: Box) -> None:
    protocol, bob = asked(remote)
    bob.runner("answer", "--offline", protocol, "read", "Tabs", rc=0)
    remote.runner("answer", protocol, "read", "Spaces", rc=0)
    remote.runner("undo", protocol, rc=0)
    remote.runner("run", protocol, rc=3)
    told = bob.runner("sync", protocol, rc=0)
    assert (
        "01-read was asked again elsewhere, and waits: `runner answer 1 w" in told.err
        and "yours has no effect" in told.err
    )
    assert bob.state(protocol)["waiting"][0]["subject"] == "read"
    assert "- text: Tabs" in messages(bob, protocol)
    bob.runner("verify", protocol, rc=0)


def test_an_answer_whose_clone_went_on_with_it_gives_way_with_that_work(remote: Box) -> None:
    protocol, bob = asked(remote)
    bob.runner("answer", "--offline", protocol, "read", "Tabs", rc=0)
    bob.runner("run", "--offline", protocol, rc=0)
    remote.runner("answer", protocol, "read", "Spaces", rc=0)
    told = bob.runner("run", protocol, rc=0).err
    assert "01-read was answered already, by alice@example.test: Spaces" in told and "will be done again" in told
    assert "- text: Tabs" in messages(bob, protocol) and "Tabs" not in bob.log(protocol)
    remote.runner("sync", protocol, rc=0)
    assert remote.state(protocol)["status"] == "completed"
    remote.runner("verify", protocol, rc=0)


@pytest.mark.parametrize("verb", mostly_slow(["pause", "cancel"], 1))
def test_what_else_a_person_said_is_named_with_the_command_that_says_it_again(remote: Box, verb: str) -> None:
    protocol, bob = asked(remote)
    bob.runner(verb, "--offline", protocol, rc=0)
    remote.runner("answer", protocol, "read", "Spaces", rc=0)
    told = bob.runner("sync", protocol, rc=0).err
    assert f"`{verb}` of {protocol} is not recorded" in told and f"type `runner {verb} 1`" in told
    assert "done again" not in told
    bob.runner(verb, "1", rc=0)


def test_an_answer_with_the_remote_says_who_answered_already(remote: Box) -> None:
    protocol, bob = asked(remote)
    remote.runner("answer", protocol, "read", "Spaces", rc=0)
    for args in (["read"], [], ["w3"]):
        told = bob.runner("answer", protocol, *args, "Tabs", rc=2).err
        assert "01-read was answered already, by alice@example.test: Spaces" in told


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, Box, Box, Person, Person]:
    """A step that waits for one approval, which two people may give; each has a clone, and publishes by `sync`."""
    alice, bob = person(tmp_path, "alice"), person(tmp_path, "bob")
    box = governed(tmp_path / "repo", [alice, bob])
    add_origin(box)
    protocol = box.new({"01-ship": command("echo ran >> ship.txt", "approval: before\n")})
    box.runner("step", protocol, rc=3)
    box.runner("sync", protocol, rc=0)
    other = clone(box, "second")
    other.runner("sync", protocol, rc=0)
    return protocol, box, other, alice, bob


@pytest.mark.parametrize("counted", mostly_slow([True, False], 1))
def test_an_approval_that_was_published_second_is_kept_and_its_author_reads_who_approved(
    two: tuple[str, Box, Box, Person, Person], counted: bool
) -> None:
    protocol, box, other, alice, bob = two
    other.runner("approve", protocol, "ship", "--yes", rc=0, env=bob.env)
    if counted:
        other.runner("run", protocol, rc=0)
    box.runner("approve", protocol, "ship", "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=0)
    box.runner("sync", protocol, rc=0)
    told = other.runner("sync", protocol, rc=0).err
    assert "step:ship was decided already, by alice@example.test" in told and "bob@example.test" in told
    box.runner("sync", protocol, rc=0)
    assert "bob@example.test approves step:ship" in messages(box, protocol)
    box.runner("verify", protocol, rc=0)


def test_an_approval_of_what_was_approved_says_who_did(two: tuple[str, Box, Box, Person, Person]) -> None:
    protocol, box, other, alice, bob = two
    box.runner("approve", protocol, "ship", "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=0)
    box.runner("sync", protocol, rc=0)
    told = other.runner("approve", protocol, "ship", "--yes", rc=2, env=bob.env).err
    assert "01-ship was approved already, by alice@example.test" in told
