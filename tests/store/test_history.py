"""The history ref of a remote is taken only where it goes on from the one here and keeps what is filed there (design §2)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import Script, agent, ask, finish, mind, say, texts
from tests.store.test_remote import origin, publish

STEPS = {"01-a": agent(), "02-b": command("echo b > b.txt"), "03-c": command("echo c > c.txt")}
TRANSCRIPT = "runs/a.1.jsonl"


def ref_of(protocol: str) -> str:
    return f"refs/runner/history/{protocol}"


def at(box: Box, name: str) -> str:
    return box.git("rev-parse", "-q", "--verify", name, check=False).strip()


def there(box: Box, name: str) -> str:
    return box.git("rev-parse", "-q", "--verify", name, cwd=origin(box), check=False).strip()


@pytest.fixture
def asked(remote: Box) -> str:
    """A protocol whose first step a model did, so that its history has a transcript; published."""
    publish(remote)
    with mind(remote, finish()):
        protocol = remote.new(STEPS)
        remote.runner("step", protocol, rc=0)
    return protocol


# --- what somebody who may push can put in its place: each takes (mallory's clone, ref) and returns a commit


def unrelated(box: Box, protocol: str) -> str:
    return box.git("commit-tree", "main^{tree}", "-m", "mine").strip()


def same_message(box: Box, protocol: str) -> str:
    """Looks like a first history commit: nothing is filed, and it stands beside the branch."""
    return commit(box, "", [f"origin/{protocol}"], protocol)


def ours_second(box: Box, protocol: str) -> str:
    """Has ours among its ancestors, but not as the history before it."""
    return commit(box, "", [f"origin/{protocol}", ref_of(protocol)], protocol)


def without_the_transcript(box: Box, protocol: str) -> str:
    return commit(box, "", [ref_of(protocol), f"origin/{protocol}"], protocol)


def another_transcript(box: Box, protocol: str) -> str:
    blob = box.git("hash-object", "-w", "--stdin", data='{"kind": "made up"}\n').strip()
    runs = box.git("mktree", data=f"100644 blob {blob}\ta.1.jsonl\n").strip()
    return commit(box, f"040000 tree {runs}\truns\n", [ref_of(protocol), f"origin/{protocol}"], protocol)


SWAPS = [unrelated, same_message, ours_second, without_the_transcript, another_transcript]


def commit(box: Box, tree: str, parents: list[str], protocol: str) -> str:
    oid = box.git("mktree", data=tree).strip()
    options = [part for parent in parents for part in ("-p", at(box, parent))]
    return box.git("commit-tree", oid, *options, "-m", f"{protocol}: history").strip()


def swap(remote: Box, protocol: str, how: Callable[[Box, str], str] = unrelated) -> str:
    """Have mallory, who may push, put another commit in the place of the history."""
    mallory = clone(remote, "mallory")
    mallory.git("fetch", "-q", "origin", f"{ref_of(protocol)}:{ref_of(protocol)}")
    made = how(mallory, protocol)
    mallory.git("push", "-q", "-f", "origin", f"{made}:{ref_of(protocol)}")
    return made


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(
            how, id=how.__name__, marks=() if how in (ours_second, without_the_transcript) else pytest.mark.slow
        )
        for how in SWAPS
    ],
)
def test_a_swapped_history_is_reported_and_not_taken(remote: Box, asked: str, how: Callable[[Box, str], str]) -> None:
    ours = at(remote, ref_of(asked))
    swap(remote, asked, how)
    for command_ in ("sync", "run"):
        done = remote.runner(command_, asked, rc=4)
        assert f"runner doctor --fix {asked}" in done.err and "git fetch" not in done.err
    assert at(remote, ref_of(asked)) == ours
    remote.runner("verify", asked, rc=0)
    found = remote.runner("doctor", asked, rc=4)
    assert f"runner doctor --fix {asked}" in found.out and "git fetch" not in found.out
    live = remote.runner("verify", "--live", asked, rc=4)
    assert "git fetch" not in live.out + live.err


@pytest.mark.parametrize("how", mostly_slow(SWAPS, 1), ids=lambda how: how.__name__)
def test_doctor_publishes_ours_again(remote: Box, asked: str, how: Callable[[Box, str], str]) -> None:
    ours = at(remote, ref_of(asked))
    hers = swap(remote, asked, how)
    remote.runner("sync", asked, rc=4)
    told = remote.runner("doctor", "--fix", asked, rc=0).err
    assert hers[:12] in told
    assert there(remote, ref_of(asked)) == ours
    assert at(remote, f"refs/runner/lost/{asked}/history-{hers[:12]}") == hers
    remote.runner("sync", asked, rc=0)
    remote.runner("run", asked, rc=0)
    other = clone(remote, "bob")
    other.runner("sync", asked, rc=0)
    other.runner("verify", asked, rc=0)


@pytest.mark.slow
def test_what_gives_way_on_the_remote_is_kept_here_before_it_does(remote: Box, asked: str) -> None:
    hers, seen = swap(remote, asked), remote.path.parent / "seen"
    remote.runner("sync", asked, rc=4)
    hook = origin(remote) / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ngit --git-dir={remote.path}/.git for-each-ref refs/runner/lost > {seen}\n")
    hook.chmod(0o755)
    remote.runner("doctor", "--fix", asked, rc=0)
    assert hers in seen.read_text()


def test_what_goes_on_from_ours_is_taken(remote: Box, asked: str) -> None:
    other = clone(remote, "bob")
    other.runner("run", asked, rc=0)
    remote.runner("sync", asked, rc=0)
    assert at(remote, ref_of(asked)) == at(other, ref_of(asked)) == there(remote, ref_of(asked))


def test_a_clone_that_has_none_takes_what_is_there_and_verify_judges_it(remote: Box, asked: str) -> None:
    swap(remote, asked, another_transcript)
    other = clone(remote, "bob")
    other.runner("sync", asked, rc=0)
    found = other.runner("verify", asked, rc=4)
    assert "transcript" in found.out and "git fetch" not in found.out + found.err


def test_a_clone_that_took_the_swapped_one_takes_the_right_one_at_doctors_word(remote: Box, asked: str) -> None:
    ours, hers = at(remote, ref_of(asked)), swap(remote, asked)
    other = clone(remote, "bob")
    other.runner("sync", asked, rc=0)
    assert at(other, ref_of(asked)) == hers
    remote.runner("doctor", "--fix", asked, rc=0)
    assert f"runner doctor --fix {asked}" in other.runner("sync", asked, rc=4).err
    other.runner("doctor", "--fix", asked, rc=0)
    assert at(other, ref_of(asked)) == there(remote, ref_of(asked)) == ours
    other.runner("verify", asked, rc=0)
    other.runner("run", asked, rc=0)


def test_the_second_swap_of_the_same_history_is_reported_too(remote: Box, asked: str) -> None:
    hers = swap(remote, asked)
    remote.runner("doctor", "--fix", asked, rc=0)
    remote.git("push", "-q", "-f", "origin", f"{hers}:{ref_of(asked)}")
    remote.runner("sync", asked, rc=4)
    remote.runner("doctor", "--fix", asked, rc=0)
    remote.runner("sync", asked, rc=0)


def test_what_a_clone_without_the_history_filed_while_the_remote_was_away_is_added_to_it(remote: Box) -> None:
    """Its own history begins anew there; both are kept."""
    publish(remote)
    with mind(remote, finish(), finish()):
        protocol = remote.new({"01-a": agent(), "02-b": agent(), "03-c": command("true")})
        remote.runner("step", protocol, rc=0)
        other = clone(remote, "bob")
        other.env |= {"RUNNER_PUBLISH": "never"} | {k: v for k, v in remote.env.items() if k.startswith("RUNNER_")}
        other.env["RUNNER_PUBLISH"] = "never"
        other.git("branch", "-q", protocol, f"origin/{protocol}")
        origin(remote).rename(origin(remote).with_suffix(".away"))
        other.runner("step", protocol, rc=0)
        origin(remote).with_suffix(".away").rename(origin(remote))
    other.runner("sync", protocol, rc=0)
    names = other.git("ls-tree", "-r", "--name-only", ref_of(protocol)).split()
    assert names == ["runs/a.1.jsonl", "runs/b.1.jsonl"]
    other.runner("verify", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)


def test_where_two_clones_advanced_apart_the_history_of_what_gave_way_gives_way(remote: Box) -> None:
    publish(remote)
    with mind(remote, finish(), finish()):
        protocol = remote.new({"01-a": agent(), "02-b": command("true")})
        other = clone(remote, "bob")
        other.env |= {k: v for k, v in remote.env.items() if k.startswith("RUNNER_")}
        other.runner("step", protocol, rc=0)
        remote.env["RUNNER_PUBLISH"] = "never"
        origin(remote).rename(origin(remote).with_suffix(".away"))
        remote.runner("step", protocol, rc=0)
        origin(remote).with_suffix(".away").rename(origin(remote))
    ours = at(remote, ref_of(protocol))
    remote.runner("step", protocol)  # apart: it goes on here, with the history that is of this side
    assert at(remote, f"{ref_of(protocol)}:{TRANSCRIPT}") == at(remote, f"{ours}:{TRANSCRIPT}")
    remote.runner("verify", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    assert at(remote, ref_of(protocol)) == there(remote, ref_of(protocol))
    remote.runner("verify", protocol, rc=0)


@pytest.mark.parametrize(
    "filed",
    [
        pytest.param(True, id="the remote has a history"),
        pytest.param(False, id="the remote has none", marks=pytest.mark.slow),
    ],
)
def test_what_a_transition_that_gave_way_had_filed_is_not_published(remote: Box, filed: bool) -> None:
    """Others would go on from its transcript, and do not have its work."""
    publish(remote)
    with mind(remote, finish(), finish()):
        protocol = remote.new({"01-a": agent() if filed else command("true"), "02-b": agent()})
        remote.runner("step", protocol, rc=0)
        published = there(remote, ref_of(protocol))
        assert bool(published) == filed
        remote.runner("step", protocol, "--publish", "never", rc=0)
    mine = at(remote, ref_of(protocol))
    clone(remote, "bob").runner("pause", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    assert there(remote, ref_of(protocol)) == at(remote, ref_of(protocol)) == published
    assert at(remote, f"refs/runner/lost/{protocol}/history-{mine[:12]}") == mine


@pytest.mark.slow
def test_work_at_a_step_that_waited_and_was_answered_elsewhere_meanwhile_files_nothing(remote: Box) -> None:
    """By its status the step is at work, as when ours began; the transcript that is published would be replaced."""
    publish(remote)
    with mind(remote, say(ask("Which shape?")), say(ask("Which colour?")), finish()) as wire:
        protocol = remote.new({"01-a": agent()})
        other = clone(remote, "bob")
        other.env["RUNNER_PUBLISH"] = "never"
        other.runner("sync", protocol, rc=0)

        held = threading.Event()
        assert isinstance(wire.script, Script)
        wire.script.before[0] = lambda: held.wait(60)
        ours = remote.start("step", protocol)
        assert wire.arrived.wait(60)
        other.runner("step", protocol, rc=3)
        other.runner("answer", protocol, "Blue.", rc=0)
        other.runner("sync", protocol, rc=0)
        held.set()
        _, err = ours.communicate(timeout=60)
        assert ours.returncode == 0 and "was done elsewhere meanwhile" in err, err
        assert "Blue." in texts(wire.bodies[2])
    assert "Which shape?" not in remote.git("show", f"{ref_of(protocol)}:{TRANSCRIPT}")
    for box in (other, remote):
        box.runner("sync", protocol, rc=0)
        box.runner("verify", protocol, rc=0)
    assert at(other, ref_of(protocol)) == there(remote, ref_of(protocol))
