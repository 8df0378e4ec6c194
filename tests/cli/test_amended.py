"""A rebased or amended history that verifies: adopted, it keeps what its record has, and nothing is paid for twice."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from runner.executor import load
from runner.store import publishing
from runner.store.environment import matching
from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, ask, finish, mind, say, sound, write


def amend(box: Box, protocol: str) -> str:
    """Make the branch's last commit anew with the same message and files; return the one that it replaces."""
    old = box.git("rev-parse", protocol).strip()
    later = {"GIT_COMMITTER_DATE": "2031-01-01T00:00:00Z"}
    box.git("commit", "-q", "--amend", "--no-edit", cwd=box.worktree(protocol), env=later)
    assert box.git("rev-parse", protocol).strip() != old
    return old


def rebase(box: Box, protocol: str) -> str:
    """Put the branch on a base that moved; return its tip before."""
    old = box.git("rev-parse", protocol).strip()
    box.write("base.txt", "moved\n")
    box.commit("the base moves")
    box.git("rebase", "-q", "main", cwd=box.worktree(protocol))
    return old


@pytest.mark.parametrize("rewrite", mostly_slow([rebase, amend], 1))
def test_a_model_that_was_heard_is_not_asked_again(box: Box, rewrite: Callable[[Box, str], str]) -> None:
    first = say(write("a.txt", "a\n"), ask("Which colour?"))
    with mind(box, first, say(write("b.txt", "blue\n")), finish()) as wire:
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1
        rewrite(box, protocol)
        told = box.runner("doctor", "--fix", protocol, rc=0).err
        assert "no revision was lost" in told
        box.runner("answer", protocol, "blue", rc=0)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.git("show", f"{protocol}:a.txt") + box.git("show", f"{protocol}:b.txt") == "a\nblue\n"
    assert box.state(protocol)["spent"]["input_tokens"] == 300
    sound(box, protocol)


@pytest.mark.parametrize("rewrite", mostly_slow([amend, rebase], 1))
def test_the_transcripts_that_the_record_names_stay(box: Box, rewrite: Callable[[Box, str], str]) -> None:
    with mind(box, finish("one"), finish("two")):
        protocol = box.new({"01-a": agent(), "02-b": agent()})
        box.runner("run", protocol, rc=0)
    shown = box.runner("show", protocol, "a", "--transcript", rc=0).out
    old = rewrite(box, protocol)
    box.runner("doctor", "--fix", protocol, rc=0)
    assert box.runner("show", protocol, "a", "--transcript", rc=0).out == shown
    kept = box.git("rev-list", f"refs/runner/history/{protocol}").split()
    assert old not in kept  # what was taken out is not published with it
    sound(box, protocol)


def test_attempts_whose_end_was_reset_away_begin_again(box: Box) -> None:
    with mind(box, finish("one"), finish("better")) as wire:
        protocol = box.new({"01-a": agent()})
        box.runner("step", protocol, rc=0)
        box.git("reset", "-q", "--hard", "HEAD~1", cwd=box.worktree(protocol))
        box.runner("doctor", "--fix", protocol, rc=0)
        assert not matching(box.path / ".git/runner/journal" / protocol, "*.jsonl")
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2
    sound(box, protocol)


# --- of what is published ------------------------------------------------------------------------------------------------


STEPS = {"01-a": command("echo a > a.txt"), "02-ask": "kind: human\n", "03-b": command("echo b > b.txt")}


@pytest.fixture
def published(remote: Box) -> str:
    """A protocol that waits for an answer, with a commit of the person's; the remote has all of it."""
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("publish")
    remote.git("push", "-q", "origin", "main")
    protocol = remote.new(STEPS)
    remote.runner("run", protocol, rc=3)
    (remote.worktree(protocol) / "mine.txt").write_text("mine\n")
    remote.commit("mine", cwd=remote.worktree(protocol))
    remote.runner("sync", protocol, rc=0)
    return protocol


def amend_own(box: Box, protocol: str) -> str:
    """Change the person's commit at the branch's tip; return the one that it replaces."""
    old = box.git("rev-parse", protocol).strip()
    (box.worktree(protocol) / "mine.txt").write_text("changed\n")
    box.git("commit", "-qa", "--amend", "--no-edit", cwd=box.worktree(protocol))
    return old


def rebase_with_conflict(box: Box, protocol: str) -> str:
    """Put the branch on a base that has another file of the same name as the person's commit; they settle that."""
    old = box.git("rev-parse", protocol).strip()
    box.write("mine.txt", "theirs\n")
    box.commit("the base moves")
    box.git("push", "-q", "origin", "main")
    tree = box.worktree(protocol)
    box.git("rebase", "-q", "main", cwd=tree, check=False)
    (tree / "mine.txt").write_text("changed\n")
    box.git("add", "-A", cwd=tree)
    box.git("rebase", "--continue", cwd=tree, env={"GIT_EDITOR": "true"})
    return old


@pytest.mark.parametrize(
    "words", mostly_slow([(("run",),), (("sync",),), (("step",),), (("answer", "blue"),), (("pause",),), (("undo",),)])
)
def test_no_command_moves_a_branch_whose_published_commits_were_rewritten(
    remote: Box, published: str, words: tuple[str, ...]
) -> None:
    old = rebase(remote, published)
    new = remote.git("rev-parse", published).strip()
    told = remote.runner(words[0], published, *words[1:], rc=4).err
    assert "rewritten" in told and f"runner doctor --fix {published}" in told and "was first" not in told
    assert "runner doctor --fix 1" in remote.runner("status", published, rc=0).out
    listed = remote.runner("list", rc=0)
    assert "rewritten" in listed.out and "runner sync" not in listed.out + listed.err
    assert "runner sync" not in remote.runner("run", published, rc=4, env={"RUNNER_PUBLISH": "never"}).err
    assert f"runner doctor --fix {published}" in remote.runner("doctor", published, rc=4).out
    assert remote.git("rev-parse", published).strip() == new
    assert remote.git("ls-remote", "origin", published).split()[0] == old


@pytest.mark.parametrize("rewrite", mostly_slow([amend, rebase_with_conflict, amend_own, rebase]))
def test_it_is_adopted_as_a_merge_into_what_is_published(
    remote: Box, published: str, rewrite: Callable[[Box, str], str]
) -> None:
    old, tree = rewrite(remote, published), remote.worktree(published)
    files = remote.git("ls-tree", "-r", published)
    remote.runner("run", published, rc=4)
    remote.runner("doctor", "--fix", published, rc=0)
    assert remote.git("ls-tree", "-r", published) == files
    assert remote.git("merge-base", "--is-ancestor", old, published) == ""
    remote.runner("answer", published, "blue", rc=0)
    remote.runner("run", published, rc=0)
    assert remote.git("ls-remote", "origin", published).split()[0] == remote.git("rev-parse", published).strip()
    assert (tree / "mine.txt").read_text() == remote.git("show", f"{published}:mine.txt")
    assert remote.runner("status", published, rc=0).out.count("rewritten") == 0
    sound(remote, published)


def test_what_others_published_meanwhile_goes_in(remote: Box, published: str) -> None:
    other = clone(remote, "bob")
    other.runner("answer", published, "blue", rc=0)
    rebase(remote, published)
    remote.runner("run", published, rc=4)
    remote.runner("doctor", "--fix", published, rc=0)
    remote.runner("run", published, rc=0)
    assert remote.state(published)["status"] == "completed"
    assert remote.git("show", f"{published}:base.txt") == "moved\n"
    sound(remote, published)


def test_a_branch_that_is_only_behind_follows(remote: Box, published: str) -> None:
    remote.git("reset", "-q", "--hard", "HEAD~2", cwd=remote.worktree(published))
    remote.runner("answer", published, "blue", rc=0)
    remote.runner("run", published, rc=0)
    sound(remote, published)


def commands_of(told: str) -> list[list[str]]:
    """Return the commands that the `next:` of an error names."""
    return [one.split() for one in re.findall("`([^`]+)`", told.partition("next:")[2])]


@pytest.mark.parametrize("theirs", mostly_slow(["an answer too", "a commit alone"], 1))
def test_a_conflict_names_commands_that_settle_it(remote: Box, published: str, theirs: str) -> None:
    other, tree = clone(remote, "bob"), remote.worktree(published)
    remote.runner("answer", published, "red", rc=0, env={"RUNNER_PUBLISH": "never"})
    (tree / "same.txt").write_text("ours\n")
    remote.commit("ours", cwd=tree)
    other.git("checkout", "-q", published)
    other.write("same.txt", "theirs\n")
    other.commit("theirs")
    other.git("push", "-q", "origin", published)
    if theirs == "an answer too":
        other.runner("answer", published, "blue", rc=0)
    told = remote.runner("run", published, rc=4).err
    assert "same.txt" in told
    if theirs == "an answer too":
        assert "origin has 1 newer transition" in remote.runner("status", published, rc=0).out
    for words in commands_of(told):
        if words[0] == "runner":
            remote.runner(*words[1:], rc=0)
            continue
        remote.git(*words[1:], cwd=tree, check=False)
        if "reset" not in words:
            (tree / "same.txt").write_text("both\n")
            remote.git("add", "-A", cwd=tree)
            remote.git("commit", "-qm", "settled", cwd=tree)
    remote.runner("run", published, rc=0)
    assert remote.git("show", f"{published}:same.txt") == "both\n"
    assert remote.git("ls-remote", "origin", published).split()[0] == remote.git("rev-parse", published).strip()
    sound(remote, published)


@pytest.mark.parametrize("theirs", mostly_slow(["a commit alone", "an answer too"], 1))
def test_what_settles_a_conflict_leaves_the_branch_alone_that_is_checked_out(
    remote: Box, published: str, theirs: str
) -> None:
    bob, tree = clone(remote, "bob"), remote.worktree(published)
    bob.git("checkout", "-q", published)
    bob.write("same.txt", "bob's\n")
    bob.commit("bob's")
    bob.git("checkout", "-q", "main")
    (tree / "same.txt").write_text("ours\n")
    remote.commit("ours", cwd=tree)
    remote.git("push", "-q", "origin", published)
    if theirs == "an answer too":
        remote.runner("answer", published, "blue", rc=0)
        remote.runner("sync", published, rc=0)
    main = bob.git("rev-parse", "main")
    told = bob.runner("sync", published, rc=4).err
    for words in commands_of(told):
        if words[0] == "runner":
            bob.runner(*words[1:], rc=0)
            continue
        subprocess.run(" ".join(words), shell=True, cwd=bob.path, env=bob.environment(), capture_output=True)
        if "update-ref" not in words:
            bob.write("same.txt", "both\n")
            bob.commit("settled")
    assert bob.git("rev-parse", "main") == main
    bob.runner("sync", published, rc=0)
    assert bob.git("show", f"origin/{published}:same.txt") == "both\n"
    sound(bob, published)


def test_a_branch_that_another_process_moved_on_meanwhile_is_not_called_rewritten(remote: Box, published: str) -> None:
    """What a person says is recorded beside a runner that holds the protocol and has read the branch already."""
    with remote.session() as session:
        session.mirror = publishing.look(session, f"refs/heads/{published}")
        before = session.git.ref(session.project.branch(published))
        assert before is not None
        remote.runner("pause", published, rc=0)
        assert (
            publishing._refuse_rewritten(session.project, published, before, load.Checker(session, published)) != before
        )


def test_a_rewritten_history_that_the_remote_has_is_adopted_with_what_was_committed_on_it(
    remote: Box, published: str
) -> None:
    bob, tree = clone(remote, "bob"), remote.worktree(published)
    bob.git("checkout", "-q", published)
    bob.git("commit", "-q", "--amend", "-m", "mine, reworded")
    bob.git("push", "-qf", "origin", published)
    remote.git("fetch", "-q", "origin")
    remote.git("reset", "-q", "--hard", f"origin/{published}", cwd=tree)
    (tree / "more.txt").write_text("more\n")
    own = remote.commit("more", cwd=tree)
    bob.runner("answer", published, "blue", rc=0)
    remote.runner("run", published, rc=4)
    assert "adopted as it is" in remote.runner("doctor", "--fix", published, rc=0).err
    remote.runner("run", published, rc=0)
    assert own in remote.git("rev-list", published).split()
    assert remote.git("ls-remote", "origin", published).split()[0] == remote.git("rev-parse", published).strip()
    sound(remote, published)


def test_what_cannot_be_adopted_is_not_offered_to_be(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    old = box.git("rev-parse", protocol).strip()
    box.git("commit", "-q", "--amend", "-m", "my own message", cwd=box.worktree(protocol))
    said = box.runner("status", rc=0).out
    assert "rewritten" in said and "runner doctor 1" in said and "--fix" not in said
    fix = box.runner("doctor", "--fix", "1", rc=4).err
    assert f"reset --keep {old}` puts the old one back" in fix
    assert f"reset --keep {old}` puts the old one back" in box.runner("doctor", "1", rc=4).out
