"""A record that somebody damaged or rewrote and pushed: any clone repairs it and publishes that, or is told who has to."""

from __future__ import annotations

import pytest

from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, ask, finish, mind, say, write
from tests.store.test_remote import STEPS, here, origin, publish, there


@pytest.fixture
def protocol(remote: Box) -> str:
    """A published protocol with one step done, of which another clone pushed a damaged record."""
    publish(remote)
    protocol = remote.new(STEPS, title="Hurt")
    remote.runner("step", protocol, rc=0)
    return protocol


def hurt(remote: Box, protocol: str) -> Box:
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    other.write(f".protocols/{protocol}/log.md", other.log(protocol).replace('"title":"Hurt', '"title":"Hrut'))
    other.write("bobs.txt", "bob\n")
    other.commit("typo")
    other.git("push", "-q", "origin", protocol)
    return other


def amended(remote: Box, protocol: str, path: str, text: str, *, message: str = "") -> Box:
    """A clone whose person amended the last transition and pushed that by force."""
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    other.write(path, text)
    other.git("add", "-A")
    other.git("commit", "-q", "--amend", *(("-m", message) if message else ("--no-edit",)))
    other.git("push", "-qf", "origin", protocol)
    return other


@pytest.mark.parametrize("which", mostly_slow(["with the good tip", "without a branch", "that pushed it"], 1))
def test_any_clone_repairs_it_and_publishes_that(remote: Box, protocol: str, which: str) -> None:
    bob = hurt(remote, protocol)
    at = {"without a branch": clone(remote, "carol"), "with the good tip": remote, "that pushed it": bob}[which]
    refused = at.runner("run", protocol, rc=4).err
    assert f"runner doctor --fix {protocol}" in refused
    assert f"runner doctor --fix {protocol}" in at.runner("doctor", rc=4).out
    at.runner("doctor", "--fix", protocol, rc=0)
    assert there(remote, protocol) == here(at, protocol)
    assert at.git("show", f"{protocol}:bobs.txt") == "bob\n"
    at.runner("run", protocol, rc=0)
    for other in (remote, bob, clone(remote, "dave")):
        other.runner("sync", protocol, rc=0)
        other.runner("run", protocol, rc=0)
        other.runner("verify", protocol, rc=0)
        assert other.state(protocol)["status"] == "completed"
        other.runner("doctor", protocol, rc=0)


@pytest.mark.slow
def test_where_nothing_is_published_unasked_the_repair_stays_here_until_sync(remote: Box, protocol: str) -> None:
    hurt(remote, protocol)
    remote.env["RUNNER_PUBLISH"] = "never"
    before = there(remote, protocol)
    refused = remote.runner("sync", protocol, rc=4).err
    assert f"runner doctor --fix {protocol}" in refused and "runner sync" in refused
    told = remote.runner("doctor", "--fix", protocol, rc=0).err
    assert there(remote, protocol) == before and f"runner sync {protocol}" in told
    remote.runner("sync", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol) != before


@pytest.mark.slow
def test_transitions_made_beside_the_damage_are_done_again(remote: Box, protocol: str) -> None:
    """This clone had gone on, unpublished, when the damaged record was pushed."""
    remote.runner("step", protocol, rc=0, env={"RUNNER_PUBLISH": "never"})
    mine = here(remote, protocol)
    hurt(remote, protocol)
    remote.runner("run", protocol, rc=4)
    told = remote.runner("doctor", "--fix", protocol, rc=0).err
    assert "done again" in told
    assert here(remote, f"refs/runner/lost/{protocol}/{mine[:12]}") == mine
    assert there(remote, protocol) == here(remote, protocol)
    remote.runner("run", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_an_amended_transition_that_hurts_the_record_is_repaired_in_either(remote: Box, protocol: str) -> None:
    log = remote.log(protocol).replace('"title":"Hurt', '"title":"Hrut')
    amended(remote, protocol, f".protocols/{protocol}/log.md", log, message="typo")
    remote.runner("run", protocol, rc=4)
    remote.runner("doctor", "--fix", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)
    remote.runner("run", protocol, rc=0)
    clone(remote, "carol").runner("verify", "--live", protocol)


def test_what_cannot_be_repaired_names_who_pushed_it_and_what_puts_it_back(remote: Box, protocol: str) -> None:
    good = here(remote, protocol)
    bob = amended(remote, protocol, "code.txt", "bob\n", message="mine\n\nRunner-Protocol: 0009-other")
    bad = there(remote, protocol)
    for words in (("run", protocol), ("sync", protocol), ("doctor", "--fix", protocol)):
        refused = remote.runner(*words, rc=4).err
        assert f"git push --force-with-lease=refs/heads/{protocol}:{bad} origin {good}:refs/heads/{protocol}" in refused
        assert "doctor --fix" not in refused
    carol = clone(remote, "carol")
    refused = carol.runner("run", protocol, rc=4).err
    assert "bob" in refused and "doctor --fix" not in refused
    command_line = f"--force-with-lease=refs/heads/{protocol}:{bad} origin {good}:refs/heads/{protocol}"
    remote.git("push", "-q", *command_line.split())
    remote.runner("run", protocol, rc=0)
    carol.runner("run", protocol, rc=0)
    bob.git("fetch", "-q", "origin")


@pytest.mark.slow
def test_a_file_that_a_folder_cannot_have_is_put_back_by_a_commit_and_the_advice_says_so(
    remote: Box, protocol: str
) -> None:
    """`doctor --fix` cannot adopt it: the commit would bring the link along."""
    bob = clone(remote, "bob")
    bob.git("checkout", "-q", protocol)
    name = f".protocols/{protocol}/context.md"
    (bob.path / name).symlink_to("/etc/passwd")
    bob.commit("notes")
    bob.git("push", "-q", "origin", protocol)
    advice = f"a commit on {protocol}, pushed to origin, that puts {name} back or removes it"
    for at in (remote, clone(remote, "carol")):
        refused = at.runner("run", protocol, rc=4)
        assert "a symbolic link" in refused.err and advice in refused.err, refused.err
        assert "doctor --fix" not in refused.err
        assert "cannot be repaired" in at.runner("doctor", "--fix", protocol, rc=4).err
        found = at.runner("doctor", protocol, rc=4).out
        assert advice in found or f"`git rm -- {name}` and commit that" in found
    bob.git("rm", "-q", name)
    bob.git("commit", "-qm", "sorry")
    bob.git("push", "-q", "origin", protocol)
    remote.runner("run", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)


def test_an_amended_transition_is_taken_as_a_persons_change(remote: Box, protocol: str) -> None:
    """Its message is that of the transition still, and its record is not: the one here holds, and goes on with the rest."""
    good = here(remote, protocol)
    log = f".protocols/{protocol}/log.md"
    bob = amended(remote, protocol, log, "no log\n")
    assert f"runner doctor --fix {protocol}" in remote.runner("run", protocol, rc=4).err
    remote.runner("doctor", "--fix", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol) and good in remote.git("rev-list", protocol).split()
    for box in (remote, bob, clone(remote, "carol")):
        box.runner("run", protocol, rc=0)
        box.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_a_merge_the_wrong_way_round_takes_no_transition_back(remote: Box, protocol: str) -> None:
    """Its first parent is an older transition, and what is here its second: it goes on from ours by name alone."""
    good, bob = here(remote, protocol), clone(remote, "bob")
    bob.git("fetch", "-q", "origin")
    merge = ("commit-tree", f"{good}~1^{{tree}}", "-p", f"{good}~1", "-p", good, "-m", "merge")
    bob.git("push", "-q", "origin", f"{bob.git(*merge).strip()}:refs/heads/{protocol}")
    remote.runner("run", protocol, rc=4)
    assert here(remote, protocol) == good


def test_the_work_of_a_step_is_kept_where_the_damage_comes_meanwhile(remote: Box) -> None:
    publish(remote)
    hub, at = origin(remote), remote.path.parent / "mallory"
    script = (
        f"git clone -q {hub} {at} && cd {at} && git checkout -q 0001-hurt"
        " && sed -i 's/:.Hurt/&x/' .protocols/0001-hurt/log.md"
        " && git -c user.name=m -c user.email=m@example.test commit -qam typo && git push -q origin 0001-hurt"
    )
    protocol = remote.new({"01-a": command(f"echo work > work.txt; {script}")}, title="Hurt")
    refused = remote.runner("step", protocol, rc=4).err
    assert f"kept at refs/runner/attempts/{protocol}/a.1" in refused
    assert remote.git("show", f"refs/runner/attempts/{protocol}/a.1:work.txt") == "work\n"


def test_a_damage_that_both_sides_have_is_not_merged_and_published(remote: Box, protocol: str) -> None:
    """What a clone and the remote have in common was verified by neither."""
    bob = hurt(remote, protocol)
    bob.runner("verify", protocol, rc=4)
    carol = clone(remote, "carol")
    carol.git("checkout", "-q", protocol)
    for box, name in ((carol, "carols.txt"), (bob, "more.txt")):
        box.write(name, "x\n")
        box.commit(name)
    carol.git("push", "-q", "origin", protocol)
    before = there(remote, protocol)
    assert f"runner doctor --fix {protocol}" in bob.runner("sync", protocol, rc=4).err
    assert there(remote, protocol) == before
    bob.runner("doctor", "--fix", protocol, rc=0)
    bob.runner("run", protocol, rc=0)
    assert bob.state(protocol)["status"] == "completed"
    assert {"bobs.txt", "carols.txt", "more.txt"} <= set(bob.git("ls-tree", "--name-only", protocol).split())
    bob.runner("verify", protocol, rc=0)


def test_a_repair_that_is_not_published_goes_on_with_what_others_push_on_the_damage(remote: Box, protocol: str) -> None:
    bob = hurt(remote, protocol)
    never = {"RUNNER_PUBLISH": "never"}
    remote.runner("doctor", "--fix", protocol, rc=0, env=never)
    bob.write("more.txt", "bob\n")
    bob.commit("more")
    bob.git("push", "-q", "origin", protocol)
    remote.runner("sync", protocol, rc=0, env=never)
    assert there(remote, protocol) == here(remote, protocol)
    remote.runner("run", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)


def test_a_repair_publishes_no_transcript_of_a_transition_that_gives_way(remote: Box) -> None:
    publish(remote)
    with mind(remote, say(write("a.txt", "a\n"), ask("Which?")), finish("again")):
        protocol = remote.new({"01-first": command("true"), "02-a": agent()}, title="Hurt")
        remote.runner("step", protocol, rc=0)
        remote.runner("step", protocol, rc=3, env={"RUNNER_PUBLISH": "never"})
        assert "runs/a.1.jsonl" in remote.git("ls-tree", "-r", "--name-only", f"refs/runner/history/{protocol}")
        hurt(remote, protocol)
        assert "done again" in remote.runner("doctor", "--fix", protocol, rc=0).err
    assert there(remote, protocol) == here(remote, protocol)
    kept = remote.git("ls-remote", "origin", f"refs/runner/history/{protocol}").split()[:1]
    assert not kept or "runs/a.1.jsonl" not in remote.git("ls-tree", "-r", "--name-only", kept[0])
