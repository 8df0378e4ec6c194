"""What a protocol proves after its end: however it was merged, with its branch gone, with and without its history."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, finish, mind, say, write

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")}
Merge = Callable[[Box, str], object]


def squash(box: Box, protocol: str) -> None:
    box.git("merge", "-q", "--squash", protocol)
    box.commit("squashed")


def squash_as_a_forge(box: Box, protocol: str) -> None:
    """The message is that of all its commits, so its last paragraph reads like a transition's trailers."""
    box.git("merge", "-q", "--squash", protocol)
    told = box.git("log", "--reverse", "--format=* %B", f"main..{protocol}")
    box.git("commit", "-q", "-F", "-", data=f"Title\n\n{told}")


def rebase(box: Box, protocol: str) -> None:
    box.git("cherry-pick", "--allow-empty", f"main..{protocol}", env={"GIT_COMMITTER_NAME": "The forge"})


def no_ff(box: Box, protocol: str) -> None:
    box.git("merge", "-q", "--no-ff", "-m", "Merge", protocol)


def fast_forward(box: Box, protocol: str) -> None:
    box.git("merge", "-q", "--ff-only", protocol)


def foxtrot(box: Box, protocol: str) -> None:
    """Main was merged into the branch, and main moved there: its first parents are the protocol's."""
    box.git("checkout", "-q", "--detach", protocol)
    box.git("merge", "-q", "--no-ff", "-m", "Merge main", "main")
    box.git("checkout", "-q", "-B", "main")


WHOLE, LOST = (no_ff, fast_forward, foxtrot), (squash, squash_as_a_forge, rebase)


def ended(box: Box, merge: Merge, *, moved: bool = True) -> str:
    """Do a protocol, merge it, and take its branch away. `moved`: main went on meanwhile, where the merge allows it."""
    protocol = box.new(STEPS)
    box.runner("run", protocol, rc=0)
    if moved and merge is not fast_forward:
        box.write("other.txt", "x\n")
        box.commit("main goes on")
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    merge(box, protocol)
    box.git("branch", "-qD", protocol)
    return protocol


def forget(box: Box, protocol: str) -> None:
    """Take the history away, as a plain clone has none."""
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")


@pytest.mark.parametrize("merge", [*mostly_slow(WHOLE, 1), *mostly_slow(LOST, 1)], ids=lambda merge: merge.__name__)
def test_what_was_merged_proves_itself_while_its_history_is_here(box: Box, merge: Merge) -> None:
    protocol = ended(box, merge)
    assert "verified · 3 transitions" in box.runner("verify", protocol, rc=0).out
    assert protocol in box.runner("verify", "--all", rc=0).out


def test_what_came_after_the_end_is_proved_by_the_history_too(box: Box) -> None:
    protocol = box.new(STEPS)
    box.runner("run", protocol, rc=0)
    folder = box.worktree(protocol)
    (folder / f".protocols/{protocol}/state.json").write_text("{}\n")
    box.commit("damaged", cwd=folder)
    box.runner("doctor", protocol, "--fix", rc=0)
    box.git("worktree", "remove", "--force", folder)
    squash(box, protocol)
    box.git("branch", "-qD", protocol)
    assert "verified · 4 transitions" in box.runner("verify", protocol, rc=0).out


@pytest.mark.parametrize("merge", [*mostly_slow(WHOLE, 1), *mostly_slow(LOST, 1)], ids=lambda merge: merge.__name__)
def test_what_is_said_where_the_history_is_missing(box: Box, merge: Merge) -> None:
    protocol = ended(box, merge)
    forget(box, protocol)
    if merge in WHOLE:
        assert "verified · 3 transitions" in box.runner("verify", protocol, rc=0).out
        return
    if merge is rebase:  # its copies are whole, and nobody's words are about the commits that were lost
        assert "the branch was moved" in box.runner("verify", protocol, rc=0).err
        return
    told = box.runner("verify", protocol, rc=5)
    assert "squashed" in told.out and "git fetch CLONE '+refs/runner/*:refs/runner-remote/*'" in told.out


def command_in(told: str) -> list[str]:
    """The words of the first command of ours that a message shows, as a shell has them."""
    return shlex.split(told[told.index("`runner ") + 1 :].partition("`")[0])[1:]


def test_what_brings_the_history_is_said_and_works_as_it_is_printed(remote: Box) -> None:
    with mind(remote, say(write("a.txt", "a\n")), finish()):
        protocol = remote.new({"01-x": agent()})
        remote.runner("run", protocol, "--publish", "always", rc=0)
    squash(remote, protocol)
    remote.git("push", "-q", "origin", "main", f":{protocol}")
    other = clone(remote, "other")
    asked = {
        ("verify", protocol): 5,
        ("why", "a.txt:1"): 5,
        ("audit", protocol): 5,
        ("show", protocol): 0,
        ("show", protocol, "x", "--transcript"): 2,
    }
    for words, code in asked.items():
        told = other.runner(*words, rc=code)
        other.runner(*command_in(told.out + told.err), rc=0)
        again = other.runner(*words, rc=0)
        assert "--yes" not in again.out + again.err, words
        other.git("update-ref", "-d", f"refs/runner/history/{protocol}")


def test_a_clone_that_is_behind_the_end_cannot_tell_and_is_no_witness_against_the_base(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, "--publish", "always", rc=0)
    other = clone(remote, "other")
    other.git("fetch", "-q", "origin", "refs/runner/*:refs/runner/*", f"refs/heads/{protocol}:refs/heads/{protocol}")
    other.runner("verify", protocol, rc=0)
    remote.runner("run", protocol, "--publish", "always", rc=0)
    squash(remote, protocol)
    remote.git("push", "-q", "origin", "main", f":{protocol}")
    other.git("fetch", "-q", "--prune", "origin")
    told = other.runner("verify", protocol, rc=5).out
    assert f"{protocol} ends at an older commit here than what" in told
    other.runner(*command_in(told), rc=0)
    now = other.runner("verify", protocol, rc=0)
    assert "the branch here is behind" in now.err and "verified · 3 transitions" in now.out


def test_a_record_of_the_base_that_does_not_go_on_from_the_history_is_found_before_the_end_too(box: Box) -> None:
    protocol = box.new(STEPS)
    box.runner("step", protocol, rc=0)
    squash(box, protocol)
    state = box.path / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"running"', '"completed"'))
    box.commit("edited")
    (found,) = box.runner("verify", protocol, "--json", rc=4).json()["protocols"][0]["findings"]
    assert found["rule"] == "base"


@pytest.mark.parametrize("merge", [no_ff, squash], ids=lambda merge: merge.__name__)
def test_a_folder_that_was_taken_away_from_the_base_again(box: Box, merge: Merge) -> None:
    protocol = ended(box, merge)
    box.git("revert", "--no-edit", *(["-m", "1"] if merge is no_ff else []), "HEAD")
    told = box.runner("verify", protocol, rc=0)
    assert "verified · 3 transitions" in told.out and "removed from main again" in told.err
    forget(box, protocol)
    box.runner("verify", protocol, rc=0 if merge is no_ff else 5)


def test_a_base_that_somebody_edited_is_found(box: Box) -> None:
    protocol = ended(box, squash)
    log = box.path / f".protocols/{protocol}/log.md"
    log.write_text(log.read_text().replace('"attempt":1', '"attempt":2', 1))
    box.commit("a small correction")
    told = box.runner("verify", protocol, "--json", rc=4).json()
    assert [one["rule"] for one in told["protocols"][0]["findings"]] == ["base"]


def test_a_history_that_was_swapped_for_another_good_one_is_found(box: Box, tmp_path: Path) -> None:
    """The same protocol, done again otherwise from the same start: it holds, and the base has another one."""
    protocol = box.new(STEPS)
    start = box.git("rev-parse", protocol).strip()
    there = box.worktree(protocol)
    box.runner("run", protocol, rc=0)
    other = box.git("rev-parse", f"refs/runner/history/{protocol}").strip()
    box.git("worktree", "remove", "--force", there)
    box.git("update-ref", f"refs/heads/{protocol}", start)
    forget(box, protocol)
    again = {"XDG_STATE_HOME": str(tmp_path / "state"), "RUNNER_NAME": "R", "RUNNER_EMAIL": "other@example.test"}
    box.runner("run", protocol, rc=0, env=again)
    squash(box, protocol)
    box.git("branch", "-qD", protocol)
    box.runner("verify", protocol, rc=0)
    box.git("update-ref", f"refs/runner/history/{protocol}", other)
    told = box.runner("verify", protocol, "--json", rc=4).json()
    assert [one["rule"] for one in told["protocols"][0]["findings"]] == ["base"]


# --- transcripts ---------------------------------------------------------------------------------------------------------


def talked(box: Box) -> str:
    with mind(box, say(write("a.txt", "a\n")), finish()):
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=0)
    return protocol


def test_a_transcript_is_the_one_that_the_log_names(box: Box) -> None:
    protocol = talked(box)
    box.runner("verify", protocol, rc=0)
    ref = f"refs/runner/history/{protocol}"
    said = box.git("show", f"{ref}:runs/a.1.jsonl")
    blob = box.git("hash-object", "-w", "--stdin", data=said.replace("a.txt", "b.txt")).strip()
    runs = box.git("mktree", data=f"100644 blob {blob}\ta.1.jsonl\n").strip()
    tree = box.git("mktree", data=f"040000 tree {runs}\truns\n").strip()
    tip = box.git("rev-parse", protocol).strip()
    text = f"{protocol}: history\n"
    box.git("update-ref", ref, box.git("commit-tree", tree, "-p", tip, data=text).strip())
    told = box.runner("verify", protocol, "--json", rc=4).json()
    (found,) = told["protocols"][0]["findings"]
    assert (found["rule"], found["path"]) == ("transcript", f"{ref}:runs/a.1.jsonl")
    forget(box, protocol)
    missing = box.runner("verify", protocol, rc=5).out
    assert "runs/a.1.jsonl" in missing and "'+refs/runner/*:refs/runner-remote/*'" in missing


# --- what only the remote, or this machine, knows ----------------------------------------------------------------------------


def test_what_the_remote_has_beyond_this_clone_is_judged_live(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.git("push", "-q", "origin", protocol)
    other = clone(remote, "other")
    assert "freshness not proven" in other.runner("verify", protocol, rc=0).err
    remote.runner("run", protocol, "--publish", "always", rc=0)
    assert "verified · 1 transition ·" in other.runner("verify", protocol, rc=0).out
    told = other.runner("verify", protocol, "--live", rc=0)
    assert "verified · 3 transitions ·" in told.out and "this clone is behind" in told.err
    other.git("fetch", "-q", "origin")
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    told = other.runner("verify", protocol, "--live", rc=0)
    assert told.err == ""
    (other.path.parent / "origin.git").rename(other.path.parent / "gone.git")
    other.runner("verify", protocol, rc=0)
    assert "does not answer" in other.runner("verify", protocol, "--live", rc=69).err


def test_a_history_that_went_back_is_found(box: Box) -> None:
    protocol = box.new(STEPS)
    start = box.git("rev-parse", protocol).strip()
    box.runner("run", protocol, rc=0)
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("update-ref", f"refs/heads/{protocol}", start)
    (found,) = box.runner("verify", protocol, "--json", rc=4).json()["protocols"][0]["findings"]
    assert found["rule"] == "mark"
    other = {"XDG_STATE_HOME": str(box.path.parent / "state")}
    box.runner("verify", protocol, rc=0, env=other)
