"""What a message says to type next is what helps, and what it names is where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.people import governed, person

MINE = {"01-mine": "kind: human\n", "02-b": command("true")}


def broken(box: Box) -> str:
    """A protocol whose second step's file cannot be read, by a commit in its worktree."""
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    tree = box.worktree(protocol)
    file = tree / f".protocols/{protocol}/02-b.md"
    file.write_text(file.read_text().replace("kind: command", "kind: comand"))
    box.commit("broken", cwd=tree)
    return protocol


@pytest.mark.parametrize(
    ("step", "what", "hint"),
    [
        ((), "nothing failed", "`runner answer 1 TEXT` resumes\n"),
        (("--step", "mine"), "mine waits for anyone", "`runner answer 1 mine TEXT` continues it"),
        (("--step", "b"), "b is pending", "`runner answer 1 TEXT` continues it"),
    ],
)
def test_a_retry_while_a_person_s_step_waits_names_the_answer(
    box: Box, step: tuple[str, ...], what: str, hint: str
) -> None:
    protocol = box.new(MINE)
    box.runner("run", protocol, rc=3)
    said = box.runner("retry", protocol, *step, rc=4).err
    assert what in said and f"next: {hint}" in said


def test_a_retry_of_nothing_offers_a_step_that_can_be_done_again(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-mine": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    assert "; `runner retry 1 --step a` does that step again" in box.runner("retry", protocol, rc=4).err
    box.runner("retry", protocol, "--step", "a", rc=0)


def test_a_retry_of_another_step_than_the_failed_one_names_that(box: Box) -> None:
    protocol = box.new({"01-a": command("false"), "02-b": command("true")})
    box.runner("run", protocol, rc=1)
    said = box.runner("retry", protocol, "--step", "b", rc=4).err
    assert "b is pending: it did not fail" in said and "`runner retry 1` without --step retries a, which failed" in said


def test_a_rejection_of_a_result_names_undo_and_one_of_a_start_the_edit(tmp_path: Path) -> None:
    alice, bob = person(tmp_path, "alice"), person(tmp_path, "bob")
    box = governed(tmp_path / "repo", [alice, bob])
    protocol = box.new(
        {
            "01-a": command("echo a > a.txt", "approval: {when: before}\n"),
            "02-b": command("echo b > b.txt", "approval: after\nqa: {policy: light, checks: ['true']}\n"),
        }
    )
    box.runner("run", protocol, rc=3)
    said = box.runner("reject", protocol, "--yes", rc=0, env=alice.env).err
    assert "next          runner edit 1 a, or runner approve 1\n" in said
    box.runner("approve", protocol, "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=3)
    hint = "next          runner undo 1@6, or runner approve 1\n"
    assert hint in box.runner("reject", protocol, "--yes", rc=0, env=alice.env).err
    assert "runner undo 1@6, or runner approve 1" in box.runner("status", protocol, env=alice.env).out
    for one in ("run", "status"):
        told = box.runner(one, protocol, env=bob.env)
        assert "runner revoke 1, by alice@example.test, or runner undo 1@6" in told.out + told.err
    assert "`runner undo 1@6` reverts it" in box.runner("retry", protocol, "--step", "b", rc=4).err
    box.runner("undo", f"{protocol}@6", rc=0)
    assert [box.state(protocol)["steps"]["b"][name] for name in ("status", "attempt")] == ["pending", 2]
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "--yes", rc=0, env=bob.env)
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)


def test_a_step_is_finished_before_its_result_waits(tmp_path: Path) -> None:
    box = governed(tmp_path / "repo", [person(tmp_path, "alice")])
    protocol = box.new({"01-a": command("echo a > a.txt", "approval: after\nqa: {policy: light, checks: ['true']}\n")})
    told = box.runner("run", protocol, rc=3).err
    assert 0 <= told.find("01-a  finished") < told.find("01-a  waits"), told


def test_an_error_of_a_plan_file_names_it_in_the_worktree_of_its_branch(box: Box) -> None:
    protocol = broken(box)
    tree = box.worktree(protocol)
    assert f"  at:   {tree}/.protocols/{protocol}/02-b.md:3\n" in box.runner("run", protocol, rc=2).err
    assert f"  at:   .protocols/{protocol}/02-b.md:3\n" in box.runner("run", protocol, rc=2, cwd=tree).err


def test_an_error_of_a_plan_file_of_a_branch_that_is_not_checked_out_names_it_as_git_show_does(box: Box) -> None:
    protocol = broken(box)
    box.git("worktree", "remove", "--force", str(box.worktree(protocol)))
    said = box.runner("run", protocol, rc=2).err
    assert f"  at:   {protocol}:.protocols/{protocol}/02-b.md:3\n" in said
    assert "comand" in box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md")


def test_an_edit_that_cannot_be_read_is_named_where_it_was_made(box: Box) -> None:
    protocol = box.new(MINE)
    file = box.worktree(protocol) / f".protocols/{protocol}/02-b.md"
    file.write_text("no front matter\n")
    assert f"  at:   {file}" in box.runner("run", protocol, rc=2).err


def test_a_plan_by_hand_is_edited_before_it_is_run(box: Box) -> None:
    said = box.runner("new", "By hand", "--manual", rc=0).err
    assert "next          runner edit 1 first, then runner run 1" in said
    box.runner(
        "edit", "1", "first", env={"EDITOR": "sed -i 's/kind: human.*/kind: command\\nrun: echo hi > hi.txt/'"}, rc=0
    )
    box.runner("run", "1", rc=0)
    said = box.runner("new", "At once", "--manual", "--edit", env={"EDITOR": "true"}, rc=0).err
    assert "next          runner run 2" in said


def test_a_step_that_waits_for_a_person_says_how_it_becomes_of_another_kind(box: Box) -> None:
    protocol = box.new({"01-a": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    (box.worktree(protocol) / f".protocols/{protocol}/01-a.md").write_text(
        "---\ntitle: A\nkind: command\nrun: 'true'\n---\n"
    )
    said = box.runner("run", protocol, rc=3).err
    assert said.count("`runner undo 1 a` starts it as command") == 1
    box.runner("undo", "1", "a", rc=0)
    box.runner("run", protocol, rc=0)


def test_what_is_cancelled_and_cannot_be_discarded_is_not_to_be_cancelled_again(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    assert "next: `runner cancel 1`" in box.runner("discard", "1", "--yes", rc=4).err
    box.runner("cancel", "1", rc=0)
    assert "next: `runner clean 1`" in box.runner("discard", "1", "--yes", rc=4).err
    gives_up = f"`git branch -D {protocol}` gives up its branch"
    assert gives_up in box.runner("clean", "1", "--yes", rc=0).err
    assert f"next: {gives_up}; its history stays" in box.runner("discard", "1", "--yes", rc=4).err
    box.git("branch", "-D", protocol)
    assert "all is well" in box.runner("doctor", rc=0).err and protocol not in box.runner("list", rc=0).out


def test_what_is_merged_and_cleaned_is_not_discarded(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    assert "next: `runner clean 1` removes" in box.runner("discard", "1", "--yes", rc=4).err
    box.runner("clean", "--yes", rc=0)
    left = box.runner("discard", "1", "--yes", rc=4).err
    assert "is not discarded: it is merged in main, which has its record" in left and "runner clean" not in left


def test_clean_says_that_the_protocol_which_it_was_given_is_open(box: Box) -> None:
    box.new({"01-a": command("true")})
    said = box.runner("clean", "1", "--yes", rc=0).err
    assert "0001-a-plan has not ended: its worktree and branch stay" in said


def test_the_work_of_a_person_that_failed_is_judged_again_before_it_is_asked_for_again(box: Box) -> None:
    protocol = box.new({"01-a": "kind: human\nqa: {checks: ['test -f done.txt']}\n"})
    box.runner("run", protocol, rc=3)
    box.runner("answer", protocol, "done", rc=0)
    assert "next          runner qa 1 a, then runner retry 1\n" in box.runner("run", protocol, rc=1).err
    assert "runner qa 1 a, then runner retry 1\n" in box.runner("status", protocol, rc=0).out
    assert "test -f done.txt" in box.runner("qa", "1", "a", rc=1).out
    (box.worktree(protocol) / "done.txt").write_text("x\n")
    box.git("add", "-A", cwd=box.worktree(protocol))
    box.git("commit", "-q", "-m", "done", cwd=box.worktree(protocol))
    assert "runner retry 1" in box.runner("qa", "1", "a", rc=0).err


def test_init_is_named_for_a_key_only_where_it_lists_the_key(box: Box, tmp_path: Path) -> None:
    """In a list of other people's keys `init` writes nothing."""
    box.runner("init", "--commit", "--yes", "--no-try", rc=0)
    protocol = box.new({"01-a": "kind: command\nrun: 'true'\napproval: before\n"})
    box.runner("run", protocol, rc=3)
    alice, bob = person(tmp_path, "alice"), person(tmp_path, "bob")
    box.write(".protocols/allowed_signers", f'bob@example.test namespaces="git,runner-approval" {bob.public}\n')
    box.commit("Bob's key")
    box.git("config", "--global", "gpg.format", "ssh")
    box.git("config", "--global", "user.signingkey", alice.key)
    said = box.runner("approve", protocol, "--yes", rc=4).err
    assert "runner init" not in said and "next: have this line added there: alice@example.test " in said


def test_a_team_of_one_whose_key_is_not_listed_yet_is_led_to_an_approval(box: Box, tmp_path: Path) -> None:
    """The policy is there, then the key is made, then `approve` is typed: each `next:` leads on."""
    box.runner("init", "--commit", "--yes", "--no-try", rc=0)
    protocol = box.new({"01-a": "kind: command\nrun: 'true'\napproval: before\n"})
    box.runner("run", protocol, rc=3)
    alice = person(tmp_path, "alice")
    box.git("config", "--global", "gpg.format", "ssh")
    box.git("config", "--global", "user.signingkey", alice.key)
    said = box.runner("approve", protocol, "--yes", rc=4).err
    assert "next: `runner init --commit --yes` lists it" in said
    box.runner("init", "--commit", "--yes", rc=0)
    box.runner("approve", protocol, "--yes", rc=0)
    box.runner("run", protocol, rc=0)


def test_where_two_protocols_have_one_number_each_error_names_a_command_that_is_not_ambiguous(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": "kind: human\n"})
    box.write(".protocols/0001-another/state.json", "{}\n")
    box.commit("a folder with the same number")
    assert "is ambiguous" in box.runner("pause", "1", rc=2).err

    def refused(*words: str) -> None:
        told = box.runner(*words).err
        named = re.findall(r"`runner [a-z]+ ([^ `@]+)", told)
        assert named and set(named) == {protocol}, (words, told)

    refused("retry", protocol)
    refused("answer", protocol, "x")
    refused("undo", protocol)
    refused("undo", f"{protocol}@99")
    refused("merge", protocol)
    refused("approve", protocol)
    box.runner("run", protocol, rc=3)
    refused("skip", protocol, "a")
    refused("discard", protocol)
    refused("retry", protocol, "--step", "b")
    box.runner("cancel", protocol, rc=0)
    for words in (["pause"], ["edit"], ["approve"], ["answer", "x"], ["retry", "--step", "a"]):
        refused(words[0], protocol, *words[1:])
