"""Two clones, two protocols with one id: the one published second is refused, and gets another number. Nothing is replaced."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.executor.journal import Journal
from runner.protocol.transcript import HeldRecord, Intent
from tests.conftest import Box, clone, command
from tests.executor.minds import agent, finish, mind, say, write
from tests.executor.test_calls import REPORT, kill, lines, outside, tool
from tests.store.test_remote import here, origin, publish, there

ID, OTHER = "0001-slow-one", "0002-slow-one"


@pytest.fixture
def bob(remote: Box) -> Box:
    """A clone with a finished protocol, unpublished; the remote has another one of the same id."""
    other = clone(remote, "bob")
    assert remote.new({"01-alice": command("echo alice > alice.txt")}, title="Slow one") == ID
    assert other.new({"01-bob": command("echo bob > bob.txt; echo text=B >> $RUNNER_RESULT")}, title="Slow one") == ID
    other.runner("run", ID, rc=0)
    remote.runner("sync", ID, rc=0)
    return other


def test_sync_refuses_another_protocol_of_the_same_id_and_replaces_nothing(remote: Box, bob: Box) -> None:
    mine, theirs = here(bob, ID), there(remote, ID)
    refused = bob.runner("sync", rc=4).err
    assert "another protocol" in refused and f"runner fork --renumber {ID}" in refused
    assert "yours is not published, and nothing was replaced" in refused
    assert here(bob, ID) == mine and there(remote, ID) == theirs
    assert bob.git("for-each-ref", "refs/runner/lost", "refs/runner/history") == bob.git(
        "for-each-ref", "refs/runner/history"
    )


def test_renumbered_both_go_on_and_verify_everywhere(remote: Box, bob: Box) -> None:
    mine = here(bob, ID)
    assert bob.runner("fork", "--renumber", ID, rc=0).out.strip() == OTHER
    bob.runner("sync", rc=0)
    assert here(bob, ID) == there(remote, ID)
    assert there(remote, OTHER) == here(bob, OTHER)
    assert bob.state(OTHER)["status"] == bob.state(OTHER)["steps"]["bob"]["status"] == "completed"
    assert bob.state(OTHER)["steps"]["bob"]["result"] == {"text": "B"}
    assert here(bob, f"refs/runner/lost/{ID}/{mine[:12]}") == mine
    assert f".protocols/{ID}/" not in bob.git("ls-tree", "-r", "--name-only", OTHER)
    third = clone(remote, "carol")
    for box in (remote, bob, third):
        box.git("fetch", "-q", "origin")
        for name in (ID, OTHER):
            box.runner("run", name, rc=0)
            box.runner("verify", name, rc=0)
            assert box.state(name)["status"] == "completed"
    bob.runner("doctor", rc=0)
    # Both can be merged into one base.
    bob.git("merge", "-q", "--no-ff", "-m", "bob's", OTHER)
    bob.git("merge", "-q", "--no-ff", "-m", "alice's", ID)
    for name in (ID, OTHER):
        bob.runner("verify", name, rc=0)


@pytest.mark.slow
def test_what_people_committed_since_comes_along_with_its_author(bob: Box) -> None:
    tree = bob.worktree(ID)
    (tree / "by-hand.txt").write_text("mine\n")
    plan = tree / f".protocols/{ID}/plan.md"
    plan.write_text(plan.read_text() + "More.\n")
    bob.git("add", "-A", cwd=tree)
    bob.git("commit", "-qm", "by hand", "--author", "Carol <carol@example.test>", cwd=tree)
    bob.runner("fork", "--renumber", ID, rc=0)
    assert bob.git("show", f"{OTHER}:by-hand.txt") == "mine\n"
    assert bob.git("show", f"{OTHER}:.protocols/{OTHER}/plan.md").endswith("More.\n")
    assert bob.git("log", "-1", "--format=%an", OTHER, "--", "by-hand.txt").strip() == "Carol"
    bob.runner("run", OTHER, rc=0)
    bob.runner("verify", OTHER, rc=0)


def test_a_worktree_with_uncommitted_files_is_left_and_nothing_moves(bob: Box) -> None:
    tree, mine = bob.worktree(ID), here(bob, ID)
    (tree / "notes.txt").write_text("mine\n")
    refused = bob.runner("fork", "--renumber", ID, rc=4).err
    assert "notes.txt" in refused and str(tree) in refused
    assert here(bob, ID) == mine and (tree / "notes.txt").read_text() == "mine\n"
    for typed in re.findall(r"`(git [^`]+)`", refused):  # what `next:` says, as it is
        message = ["-qm", "mine"] if typed.endswith("commit") else []
        bob.git(*shlex.split(typed)[1:], *message)
    bob.runner("fork", "--renumber", ID, rc=0)
    assert bob.git("show", f"{OTHER}:notes.txt") == "mine\n"


def test_without_a_clash_nothing_is_renumbered(remote: Box) -> None:
    protocol = remote.new({"01-a": command("true")}, title="Slow one")
    remote.runner("sync", protocol, rc=0)
    before = here(remote, protocol)
    refused = remote.runner("fork", "--renumber", protocol, rc=4).err
    assert "no other protocol" in refused
    assert here(remote, protocol) == before


def test_run_goes_on_here_and_says_so_and_is_refused_where_it_would_publish(bob: Box) -> None:
    bob.runner("undo", ID, rc=0)
    mine = here(bob, ID)
    refused = bob.runner("run", ID, rc=4, env={"RUNNER_PUBLISH": "always"}).err
    assert f"runner fork --renumber {ID}" in refused and here(bob, ID) == mine
    assert bob.runner("run", ID, rc=0).err.count(f"runner fork --renumber {ID}") == 1
    assert bob.state(ID)["status"] == "completed"
    assert bob.git("show", f"{ID}:bob.txt") == "bob\n"


@pytest.mark.slow
def test_one_that_was_merged_and_whose_branch_is_gone_counts_too(remote: Box, bob: Box) -> None:
    remote.runner("run", ID, rc=0)
    remote.git("merge", "-q", "--no-ff", "-m", "merged", ID)
    remote.git("push", "-q", "origin", "main", f":{ID}")
    assert f"runner fork --renumber {ID}" in bob.runner("sync", rc=4).err
    assert bob.runner("fork", "--renumber", ID, rc=0).out.strip() == OTHER
    bob.runner("sync", rc=0)
    assert there(remote, OTHER) == here(bob, OTHER) and not there(remote, ID)
    bob.runner("verify", OTHER, rc=0)


@pytest.mark.slow
def test_one_clash_does_not_keep_sync_from_the_others(remote: Box, bob: Box) -> None:
    fine = bob.new({"01-a": command("true")}, title="Fine")
    assert f"runner fork --renumber {ID}" in bob.runner("sync", rc=4).err
    assert there(remote, fine) == here(bob, fine)


@pytest.mark.slow
def test_what_a_model_said_before_is_proven_after(remote: Box) -> None:
    other = clone(remote, "bob")
    remote.new({"01-alice": command("true")}, title="Slow one")
    remote.runner("sync", rc=0)
    with mind(other, finish()):
        other.new({"01-a": agent(), "02-b": command("echo b > b.txt")}, title="Slow one")
        other.runner("step", ID, rc=0)
    other.runner("fork", "--renumber", ID, rc=0)
    other.runner("sync", rc=0)
    other.runner("run", OTHER, rc=0)
    other.runner("sync", rc=0)
    other.runner("verify", OTHER, rc=0)
    third = clone(remote, "carol")
    third.git("fetch", "-q", "origin", "refs/runner/history/*:refs/runner/history/*")
    third.runner("verify", OTHER, rc=0)


@pytest.mark.slow
def test_what_was_heard_for_the_old_one_is_not_taken_for_the_other(remote: Box) -> None:
    """Journals and attempts lie by the id: another protocol of the same id must not go on from them."""
    other = clone(remote, "bob")
    remote.new({"01-a": command("exit 1")}, title="Slow one")
    remote.runner("sync", rc=0)
    other.new({"01-a": command("echo b > b.txt; exit 3")}, title="Slow one")
    other.runner("run", ID, rc=1)
    assert other.git("for-each-ref", f"refs/runner/attempts/{ID}")
    other.runner("fork", "--renumber", ID, rc=0)
    assert not other.git("for-each-ref", f"refs/runner/attempts/{ID}")
    assert len(other.git("for-each-ref", f"refs/runner/lost/{ID}").splitlines()) == 2
    assert not (other.path / ".git/runner/journal" / ID).exists()


@pytest.mark.slow
def test_open_approvals_are_asked_again(remote: Box) -> None:
    other = clone(remote, "bob")
    remote.new({"01-alice": command("true")}, title="Slow one")
    remote.runner("sync", rc=0)
    other.new({"01-a": command("true"), "02-b": command("true", "approval: before\n")}, title="Slow one")
    other.runner("run", ID, rc=3)
    other.runner("fork", "--renumber", ID, rc=0)
    other.runner("run", OTHER, rc=3)
    assert other.state(OTHER)["steps"]["a"]["status"] == "completed"
    assert other.state(OTHER)["waiting"][0]["subject"] == "b"


def test_doctor_names_the_clash(bob: Box) -> None:
    bob.git("fetch", "-q", "origin")
    assert f"runner fork --renumber {ID}" in bob.runner("doctor", rc=4).out


@pytest.mark.slow
def test_with_publish_always_it_is_published_at_once(remote: Box, bob: Box) -> None:
    publish(remote)
    bob.runner("fork", "--renumber", ID, rc=0)
    assert there(remote, OTHER) == here(bob, OTHER)
    assert there(remote, "refs/runner/numbers/0002")
    assert origin(remote).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "now"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_was_stopped_stays_stopped(remote: Box, stop: str, now: str) -> None:
    """Nobody shall run what its person had stopped, since it has another number now."""
    other = clone(remote, "bob")
    remote.new({"01-a": command("true")}, title="Slow one")
    remote.runner("sync", rc=0)
    other.new({"01-a": command("echo b > b.txt")}, title="Slow one")
    other.runner(stop, ID, rc=0)
    told = other.runner("fork", "--renumber", ID, rc=0).err
    assert other.state(OTHER)["status"] == now and f"{OTHER}  {now} ·" in told
    assert ("next          runner resume 2" in told) == (now == "paused")


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "now"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_was_stopped_is_published_so_from_the_first(remote: Box, stop: str, now: str) -> None:
    """Wherever the command is killed, nobody can see it run on."""
    publish(remote)
    other = clone(remote, "bob")
    remote.new({"01-a": command("true")}, title="Slow one")
    other.runner(
        "new", "Slow one", "--plan", other.plan({"01-a": command("true")}, title="Slow one"), "--offline", rc=0
    )
    other.runner(stop, ID, "--offline", rc=0)
    hook = origin(remote) / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\nwhile read old new ref; do case $ref in refs/heads/{OTHER})\n"
        f"git show $new:.protocols/{OTHER}/state.json | grep -q -e paused -e cancelled || exit 1;; esac; done\n"
    )
    hook.chmod(0o755)
    other.runner("fork", "--renumber", ID, rc=0)
    assert there(remote, OTHER) == here(other, OTHER) and other.state(OTHER)["status"] == now
    other.runner("verify", OTHER, rc=0)


@pytest.mark.slow
def test_an_effect_of_which_nobody_knows_is_not_forgotten(remote: Box, bob: Box) -> None:
    about = {"call": "bob.1.1", "tool": "send", "digest": "sha256:0", "time": "2026-11-20T06:47:03Z", "text": "send"}
    begun = Intent(kind="intent", arguments={}, decision=None, **about)
    Journal(bob.path / ".git/runner/journal" / ID / "bob.1.jsonl").append(begun)
    mine = here(bob, ID)
    assert "bob.1.1" in bob.runner("fork", "--renumber", ID, rc=4).err
    assert here(bob, ID) == mine and (bob.path / ".git/runner/journal" / ID).exists()


HELD = HeldRecord(
    kind="held", call="bob.1.1", tool="send", digest="sha256:0", time="2026-11-20T06:47:03Z", text="send", decision=None
)


def remembered(box: Box) -> set[Path]:
    """What lies on the machine by the old id, and its refs."""
    found = (box.path / ".git/runner/journal", box.home / ".local/state/protocol-runner", box.worktree(ID))
    kept = {path for folder in found for path in folder.rglob("*") if ID in str(path) and "mirror" not in str(path)}
    return kept | {
        Path(line)
        for line in box.git("for-each-ref", "refs/heads", "refs/runner").splitlines()
        if "fetched" not in line
    }


def no_such_revision(remote: Box, bob: Box) -> tuple[str, int]:
    return f"{ID}@99", 2


def open_question(remote: Box, bob: Box) -> tuple[str, int]:
    remote.write(".protocols/clarifications.yaml", "questions:\n  - question: Who may merge?\n")
    remote.write(".protocols/config.yaml", "clarifications: block\n")
    remote.commit("a question")
    remote.git("push", "-q", "origin", "main")
    return ID, 3


def refused_push(remote: Box, bob: Box) -> tuple[str, int]:
    publish(remote)
    hook = origin(remote) / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no more branches\nexit 1\n")
    hook.chmod(0o755)
    return ID, 69


@pytest.mark.slow
@pytest.mark.parametrize("why", [no_such_revision, open_question, refused_push], ids=lambda why: why.__name__)
def test_where_it_is_refused_everything_is_as_it_was(
    remote: Box, bob: Box, why: Callable[[Box, Box], tuple[str, int]]
) -> None:
    Journal(bob.path / ".git/runner/journal" / ID / "bob.1.jsonl").append(HELD)
    named, code = why(remote, bob)
    before = remembered(bob)
    bob.runner("fork", "--renumber", named, rc=code)
    assert remembered(bob) == before


@pytest.mark.slow
def test_an_effect_that_happened_is_not_made_again_in_the_one_with_the_other_number(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n")
    other = clone(remote, "bob")
    remote.new({"01-alice": command("true")}, title="Slow one")
    remote.runner("sync", rc=0)
    other.new({"01-bob": tool("send_report", "agent: analyst\n", **REPORT[1])}, title="Slow one")
    kill(other, ledger, "after-outcome", "step", ID)
    mine = here(other, ID)
    refused = other.runner("fork", "--renumber", ID, rc=4).err
    assert "bob.1.1" in refused and f"runner run --publish never {ID}" in refused and here(other, ID) == mine
    other.runner("run", "--publish", "never", ID, rc=0, env={"RUNNER_PUBLISH": "always"})
    other.runner("fork", "--renumber", ID, rc=0)
    other.runner("run", OTHER, rc=0)
    assert lines(ledger) == ["ops@example.test All well"] and other.state(OTHER)["status"] == "completed"


@pytest.mark.slow
def test_where_work_is_half_done_the_hint_renumbers_too(remote: Box) -> None:
    other = clone(remote, "bob")
    remote.new({"01-alice": command("true")}, title="Slow one")
    remote.runner("sync", rc=0)
    with mind(other, say(write("a.txt", "a\n"), ("ask_person", {"question": "Which?"}))):
        other.new({"01-b": command("true"), "02-bob": agent()}, title="Slow one")
        other.runner("run", ID, rc=3)
    before = remembered(other)
    refused = other.runner("fork", "--renumber", ID, rc=4).err
    assert remembered(other) == before
    (line,) = [line for line in refused.splitlines() if "next:" in line]
    assert "runner fork --renumber" in line and "journals are put aside" in line, refused
    other.runner(*line.partition("`runner ")[2].partition("`")[0].split(), rc=0)
