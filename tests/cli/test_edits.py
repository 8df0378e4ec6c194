"""People edit plan, steps and code by hand at any point; what is theirs is taken up and never written over (design §3)."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Box, command, mostly_slow


def folder(box: Box, protocol: str) -> Path:
    """Where a person edits the plan."""
    return box.worktree(protocol) / f".protocols/{protocol}"


def step_file(line: str) -> str:
    return f"---\ntitle: a step\nkind: command\nrun: {line}\n---\nDo it.\n"


def two(box: Box) -> str:
    """A protocol whose first of two steps is done."""
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    box.runner("step", protocol, rc=0)
    return protocol


def healthy(box: Box, protocol: str, left: str = "") -> None:
    """The history verifies, nothing is lost, and the worktree holds what is left of the person's."""
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--no-dangling") == ""
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == left


def untouched(box: Box, protocol: str, *args: str, rc: int) -> str:
    """Run a command that must not move the branch or touch the worktree; return what it said."""
    tree = box.worktree(protocol)
    before = (box.git("rev-parse", protocol), box.git("status", "--porcelain=v2", cwd=tree), box.git("diff", cwd=tree))
    told = box.runner(*args, rc=rc).err
    after = (box.git("rev-parse", protocol), box.git("status", "--porcelain=v2", cwd=tree), box.git("diff", cwd=tree))
    assert before == after
    return told


# --- hand edits of the plan --------------------------------------------------------------------------------------------


def _edit(box: Box, protocol: str) -> None:
    (folder(box, protocol) / "02-b.md").write_text(step_file("echo bee > b.txt"))


def _stage(box: Box, protocol: str) -> None:
    _edit(box, protocol)
    box.git("add", "-A", cwd=box.worktree(protocol))


def _commit(box: Box, protocol: str) -> None:
    _edit(box, protocol)
    box.commit("an edit", cwd=box.worktree(protocol))


def _rename(box: Box, protocol: str) -> None:
    (folder(box, protocol) / "02-b.md").rename(folder(box, protocol) / "05-b.md")
    (folder(box, protocol) / "05-b.md").write_text(step_file("echo bee > b.txt"))


@pytest.mark.parametrize("edit", mostly_slow([_rename, _edit, _stage, _commit]))
def test_an_edit_of_a_pending_step_is_taken_up(box: Box, edit: object) -> None:
    protocol = two(box)
    assert callable(edit)
    edit(box, protocol)
    before = box.count(protocol)
    box.runner("step", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "bee\n"
    assert "plan-edited plan" in box.log(protocol)
    assert box.count(protocol) == before + (1 if edit is _commit else 2)
    if edit is not _commit:  # their words, in a commit of theirs
        shown = "02-b.md, 05-b.md" if edit is _rename else "02-b.md"
        assert box.git("log", "-1", "--format=%an|%s", f"{protocol}~1") == f"Alice|{protocol}: edit {shown}\n"
    healthy(box, protocol)


def test_only_the_plans_files_are_taken_up(box: Box) -> None:
    protocol = two(box)
    tree = box.worktree(protocol)
    _edit(box, protocol)
    (tree / "README.md").write_text("half done\n")
    (tree / "staged.txt").write_text("staged\n")
    box.git("add", "staged.txt", cwd=tree)
    (folder(box, protocol) / ".#02-b.md").symlink_to("alice@host.1234")  # an editor's lock
    box.runner("step", protocol, rc=0)
    changed = box.git("show", "--name-only", "--format=", f"{protocol}~1")
    assert changed == f".protocols/{protocol}/02-b.md\n"
    left = f" M README.md\nA  staged.txt\n?? .protocols/{protocol}/.#02-b.md\n"
    healthy(box, protocol, left)


def test_a_step_staged_one_way_and_edited_on_is_taken_as_it_stands_on_disk(box: Box) -> None:
    protocol = two(box)
    _stage(box, protocol)
    (folder(box, protocol) / "02-b.md").write_text(step_file("echo last > b.txt"))
    box.runner("step", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "last\n"
    assert (folder(box, protocol) / "02-b.md").read_text() == step_file("echo last > b.txt")
    box.runner("verify", protocol, rc=0)


@pytest.mark.parametrize("how", mostly_slow(["rm", "git rm", "committed"], keep=1))
def test_a_step_that_is_deleted_does_not_run(box: Box, how: str) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("echo b > b.txt"), "03-c": command("echo c > c.txt")})
    tree = box.worktree(protocol)
    if how == "rm":
        (folder(box, protocol) / "02-b.md").unlink()
    else:
        box.git("rm", "-q", f".protocols/{protocol}/02-b.md", cwd=tree)
    if how == "committed":
        box.commit("without b", cwd=tree)
    box.runner("run", protocol, rc=0)
    state = box.state(protocol)
    assert state["status"] == "completed" and sorted(state["steps"]) == ["a", "c"]
    assert not (tree / "b.txt").exists() and (tree / "c.txt").exists()
    healthy(box, protocol)


def test_a_new_step_file_is_carried_out(box: Box) -> None:
    protocol = two(box)
    (folder(box, protocol) / "015-between.md").write_text(step_file("echo x > x.txt"))
    (folder(box, protocol) / "03-c.md").write_bytes(step_file("echo c > c.txt").replace("\n", "\r\n").encode())
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:c.txt") == "c\n" and box.git("show", f"{protocol}:x.txt") == "x\n"
    assert b"\r\n" in (folder(box, protocol) / "03-c.md").read_bytes()
    healthy(box, protocol)


def test_a_step_that_is_new_and_fails_at_once_is_recorded(box: Box) -> None:
    protocol = two(box)
    (folder(box, protocol) / "02-b.md").unlink()
    (folder(box, protocol) / "03-c.md").write_text(step_file("echo c > c.txt; exit 7"))
    box.runner("step", protocol, rc=1)
    assert box.state(protocol)["steps"]["c"]["status"] == "failed"
    assert box.git("show", f"refs/runner/attempts/{protocol}/c.1:c.txt") == "c\n"
    healthy(box, protocol)


def test_a_renumbered_step_is_the_same_step(box: Box) -> None:
    protocol = box.new(
        {
            "01-a": command("true"),
            "02-b": command("cat c.txt > b.txt"),
            "03-c": command("echo c > c.txt", "needs: [a]\n"),
        }
    )
    box.runner("step", protocol, rc=0)
    box.git("mv", f".protocols/{protocol}/02-b.md", f".protocols/{protocol}/04-b.md", cwd=box.worktree(protocol))
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "c\n"
    assert box.state(protocol)["steps"]["b"]["place"] == 4
    healthy(box, protocol)


def test_an_edited_finished_step_is_recorded_and_not_done_again(box: Box) -> None:
    protocol = two(box)
    (folder(box, protocol) / "01-a.md").write_text(step_file("echo again > a.txt"))
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    assert box.log(protocol).count("step-finished a") == 1 and "plan-edited" in box.log(protocol)
    healthy(box, protocol)


def test_a_removed_finished_step_is_recorded(box: Box) -> None:
    protocol = two(box)
    (folder(box, protocol) / "01-a.md").unlink()
    box.runner("run", protocol, rc=0)
    state = box.state(protocol)
    assert state["status"] == "completed"
    assert state["steps"]["a"]["removed"] is True and state["steps"]["a"]["status"] == "completed"
    healthy(box, protocol)


def test_only_the_plans_edit_is_left_to_record(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-review": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    (folder(box, protocol) / "context.md").write_text("Remember.\n")
    box.runner("step", protocol, rc=3)
    assert "plan-edited plan" in box.log(protocol)
    tip = box.git("rev-parse", protocol)
    box.runner("step", protocol, rc=3)
    assert box.git("rev-parse", protocol) == tip
    healthy(box, protocol)


def test_nothing_of_a_finished_protocol_is_taken_up(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    (folder(box, protocol) / "01-a.md").write_text(step_file("false"))
    untouched(box, protocol, "step", protocol, rc=0)


# --- what is refused ---------------------------------------------------------------------------------------------------


def _unknown_key(at: Path) -> str:
    (at / "02-b.md").write_text("---\ntitle: b\nkind: command\nrum: echo b\n---\n")
    return "02-b.md:4"


def _stray_name(at: Path) -> str:
    (at / "2-b.md").write_text(step_file("true"))
    return "2-b.md"


def _link(at: Path) -> str:
    (at / "03-c.md").symlink_to("/etc/passwd")
    return "symbolic link"


def _same_number(at: Path) -> str:
    (at / "02-c.md").write_text(step_file("true"))
    return "two steps have the number 2"


def _no_plan(at: Path) -> str:
    (at / "plan.md").unlink()
    return "there is no plan.md"


@pytest.mark.parametrize("damage", mostly_slow([_unknown_key, _stray_name, _link, _same_number, _no_plan]))
@pytest.mark.parametrize("committed", [False, True])
def test_an_edit_that_is_not_valid_changes_nothing(box: Box, damage: object, committed: bool) -> None:
    protocol = two(box)
    assert callable(damage)
    what = damage(folder(box, protocol))
    if committed:
        box.commit("an edit", cwd=box.worktree(protocol))
    # a link below .protocols is refused as what it is once it stands in the history
    told = untouched(box, protocol, "step", protocol, rc=4 if damage is _link else 2)
    assert what in told
    untouched(box, protocol, "run", protocol, rc=4 if damage is _link else 2)


def test_no_adopt_refuses_what_is_not_committed(box: Box) -> None:
    protocol = two(box)
    _edit(box, protocol)
    assert "02-b.md" in untouched(box, protocol, "step", protocol, "--no-adopt", rc=4)
    assert "02-b.md" in untouched(box, protocol, "run", protocol, "--no-adopt", rc=4)
    box.commit("an edit", cwd=box.worktree(protocol))
    box.runner("step", protocol, "--no-adopt", rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "bee\n"


def test_an_uncommitted_edit_of_the_record_is_refused_before_anything_runs(box: Box, tmp_path: Path) -> None:
    protocol = box.new({"01-a": command(f"touch {tmp_path}/ran")})
    at = folder(box, protocol) / "state.json"
    at.write_text(at.read_text().replace("pending", "completed"))
    told = untouched(box, protocol, "step", protocol, rc=4)
    assert "state.json" in told and "restore" in told
    assert not (tmp_path / "ran").exists()
    box.git("restore", "--staged", "--worktree", "--", f".protocols/{protocol}/state.json", cwd=box.worktree(protocol))
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def test_an_edit_by_nobody_is_refused(box: Box) -> None:
    protocol = two(box)
    _edit(box, protocol)
    (box.home / ".gitconfig").write_text("")
    nobody = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"), "")
    tip = box.git("rev-parse", protocol)
    assert "who you are" in box.runner("step", protocol, rc=2, env=nobody).err
    assert box.git("rev-parse", protocol) == tip


def _amend(box: Box, tree: Path) -> None:
    box.git("commit", "-q", "--amend", "-m", "amended", cwd=tree)


def _reset(box: Box, tree: Path) -> None:
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=tree)


def _rebase(box: Box, tree: Path) -> None:
    box.write("more.txt", "more\n")
    box.commit("more")
    box.git("rebase", "-q", "main", cwd=tree)


@pytest.mark.parametrize("rewrite", mostly_slow([_amend, _rebase, _reset]))
def test_a_rewritten_history_is_refused_with_the_way_out(box: Box, rewrite: object) -> None:
    protocol = two(box)
    box.runner("step", protocol, rc=0)
    assert callable(rewrite)
    rewrite(box, box.worktree(protocol))
    told = untouched(box, protocol, "step", protocol, rc=4)
    assert "was rewritten" in told and f"runner doctor --fix {protocol}" in told
    untouched(box, protocol, "pause", protocol, rc=4)


def test_a_merge_of_the_base_and_code_of_peoples_are_ordinary(box: Box) -> None:
    protocol = two(box)
    box.write("src/new.py", "x = 1\n")
    box.commit("meanwhile")
    tree = box.worktree(protocol)
    box.git("merge", "-q", "--no-edit", "main", cwd=tree)
    (tree / "mine.txt").write_text("mine\n")
    box.commit("mine", cwd=tree)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:src/new.py") == "x = 1\n"
    assert box.git("show", f"{protocol}:mine.txt") == "mine\n"
    assert "plan-edited" not in box.log(protocol)
    healthy(box, protocol)


# --- while a step is at work -------------------------------------------------------------------------------------------


def at_work(box: Box, tmp_path: Path, then: str, *, more: str = "") -> tuple[str, subprocess.Popen[str]]:
    """A protocol whose first step has begun and waits for `go` to be there."""
    line = (
        f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo x >> {tmp_path}/ran; {then}"
    )
    protocol = box.new({"01-a": command(line, more), "02-b": command("echo b > b.txt")})
    process = box.start("step", protocol)
    until = time.monotonic() + 100
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until, "the step did not begin"
        time.sleep(0.02)
    return protocol, process


def let_go(tmp_path: Path, process: subprocess.Popen[str]) -> tuple[int, str]:
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=100)
    return process.returncode, err


def test_commits_to_code_and_plan_during_a_step_are_carried_over(box: Box, tmp_path: Path) -> None:
    protocol, process = at_work(box, tmp_path, "echo a > a.txt")
    tree = box.worktree(protocol)
    (tree / "mine.txt").write_text("mine\n")
    mine = box.commit("mine", cwd=tree)
    _edit(box, protocol)
    box.commit("replan", cwd=tree)
    code, err = let_go(tmp_path, process)
    assert code == 0, err
    assert box.git("show", f"{protocol}:a.txt") == "a\n" and box.git("show", f"{protocol}:mine.txt") == "mine\n"
    assert mine in box.git("rev-list", protocol)
    assert (tmp_path / "ran").read_text() == "x\n"
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "bee\n"
    assert (tmp_path / "ran").read_text() == "x\n"
    healthy(box, protocol)


def test_an_edit_of_the_very_step_during_it_is_recorded_after_it(box: Box, tmp_path: Path) -> None:
    protocol, process = at_work(box, tmp_path, "echo a > a.txt")
    (folder(box, protocol) / "01-a.md").write_text(step_file("echo other > a.txt"))
    box.commit("replan", cwd=box.worktree(protocol))
    assert let_go(tmp_path, process)[0] == 0
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    healthy(box, protocol)


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.slow
def test_an_edit_that_was_taken_up_first_survives_a_commit_during_the_step(
    box: Box, tmp_path: Path, committed: bool
) -> None:
    line = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo n > n.txt"
    protocol = box.new({"02-a": command("true")})
    (folder(box, protocol) / "01-new.md").write_text(f"---\ntitle: new\nkind: command\nrun: {line!r}\n---\n")
    if committed:
        box.commit("a step before", cwd=box.worktree(protocol))
    process = box.start("step", protocol)
    until = time.monotonic() + 100
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(0.02)
    (box.worktree(protocol) / "mine.txt").write_text("mine\n")
    box.commit("mine", cwd=box.worktree(protocol))
    code, err = let_go(tmp_path, process)
    assert code == 0, err
    assert box.git("show", f"{protocol}:n.txt") == "n\n" and box.git("show", f"{protocol}:mine.txt") == "mine\n"
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def test_a_conflict_with_a_commit_during_a_step_blocks_and_keeps_the_work(box: Box, tmp_path: Path) -> None:
    protocol, process = at_work(box, tmp_path, "echo ours > README.md")
    tree = box.worktree(protocol)
    (tree / "README.md").write_text("mine\n")
    box.commit("mine", cwd=tree)
    code, err = let_go(tmp_path, process)
    assert code == 3 and "README.md" in err
    state = box.state(protocol)
    assert state["status"] == "blocked" and state["steps"]["a"]["status"] == "blocked"
    assert box.git("show", f"refs/runner/attempts/{protocol}/a.1:README.md") == "ours\n"
    assert (tree / "README.md").read_text() == "mine\n"
    healthy(box, protocol)
    assert "without --keep" in box.runner("retry", protocol, "--keep", rc=4).err
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:README.md") == "ours\n"
    healthy(box, protocol)


def test_a_commit_while_checks_run_is_checked_too(box: Box, tmp_path: Path) -> None:
    check = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; test ! -e bad.txt"
    qa = f"qa: {{policy: light, checks: ['{check}']}}\n"
    protocol = box.new({"01-a": command("echo a > a.txt", qa)})
    box.runner("step", protocol, rc=0)
    process = box.start("step", protocol)
    until = time.monotonic() + 100
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    (box.worktree(protocol) / "bad.txt").write_text("bad\n")
    box.commit("bad", cwd=box.worktree(protocol))
    assert let_go(tmp_path, process)[0] == 1
    assert box.state(protocol)["status"] == "failed"
    healthy(box, protocol)


def test_uncommitted_work_in_the_way_keeps_the_result(box: Box, tmp_path: Path) -> None:
    protocol, process = at_work(box, tmp_path, "echo ours > README.md")
    tree = box.worktree(protocol)
    (tree / "README.md").write_text("mine\n")
    tip = box.git("rev-parse", protocol)
    code, err = let_go(tmp_path, process)
    assert code == 4 and "README.md" in err and f"refs/runner/attempts/{protocol}/a.1" in err
    assert box.git("rev-parse", protocol) == tip and (tree / "README.md").read_text() == "mine\n"
    assert box.git("show", f"refs/runner/attempts/{protocol}/a.1:README.md") == "ours\n"


# --- people's own steps ------------------------------------------------------------------------------------------------


def test_what_a_person_commits_is_the_work_of_their_step(box: Box) -> None:
    qa = "outputs: [docs/review.md]\nqa: {policy: light, checks: ['test -s docs/review.md']}\n"
    protocol = box.new({"01-review": f"kind: human\n{qa}", "02-b": command("true")})
    box.runner("run", protocol, rc=3)
    state = box.state(protocol)
    assert [wait["kind"] for wait in state["waiting"]] == ["human"]
    box.runner("run", protocol, rc=3)
    tree = box.worktree(protocol)
    (tree / "docs").mkdir()
    (tree / "docs/review.md").write_text("good\n")
    box.commit("review", cwd=tree)
    box.runner("run", protocol, rc=3)
    box.runner("answer", protocol, "it is good", rc=0)
    box.runner("run", protocol, rc=0)
    state = box.state(protocol)
    assert state["steps"]["review"]["result"] == {"answer": "it is good"}
    assert [artifact["path"] for artifact in state["artifacts"]] == ["docs/review.md"]
    healthy(box, protocol)


def test_a_persons_step_whose_check_fails_is_asked_for_again(box: Box) -> None:
    qa = "qa: {policy: light, checks: ['test -s review.md']}\n"
    protocol = box.new({"01-review": f"kind: human\n{qa}"})
    box.runner("run", protocol, rc=3)
    box.runner("answer", protocol, "done", rc=0)
    box.runner("run", protocol, rc=1)
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=3)
    (box.worktree(protocol) / "review.md").write_text("now\n")
    box.commit("review", cwd=box.worktree(protocol))
    box.runner("answer", protocol, "done now", rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["steps"]["review"]["attempt"] == 2
    healthy(box, protocol)


@pytest.mark.parametrize("first", [False, True])
def test_a_step_that_is_inserted_before_a_persons_is_no_work_of_theirs(box: Box, first: bool) -> None:
    """Where the person committed before the inserted step ran, nothing of that is left out."""
    protocol = box.new({"05-mine": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    tree = box.worktree(protocol)

    def work() -> None:
        (tree / "work.txt").write_text("x\n")
        box.commit("my work", cwd=tree)

    if first:
        work()
    added = tree / f".protocols/{protocol}/01-early.md"
    added.write_text("---\ntitle: Early\nkind: command\nrun: echo e > early.txt\n---\n")
    assert "01-early  done" in box.runner("run", protocol, rc=3).err
    if not first:
        work()
    box.runner("answer", protocol, "done", rc=0)
    told = box.runner("run", protocol, rc=0).err
    files = box.runner("diff", protocol, "mine", "--stat", rc=0).out
    assert "work.txt" in files
    if not first:
        assert "early.txt" not in files and re.search(r"05-mine +done +work\.txt\n", told)
    box.runner("verify", protocol, rc=0)


@pytest.mark.parametrize("committed", [False, True])
def test_a_persons_step_is_edited_while_it_waits(box: Box, committed: bool) -> None:
    protocol = box.new({"01-review": "kind: human\n", "02-b": command("true")})
    box.runner("run", protocol, rc=3)
    at = folder(box, protocol) / "01-review.md"
    at.write_text(at.read_text() + "And look twice.\n")
    if committed:
        box.commit("more words", cwd=box.worktree(protocol))
    box.runner("answer", protocol, "done", rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    healthy(box, protocol)


def test_a_persons_step_that_is_removed_while_it_waits_is_not_owed_any_more(box: Box) -> None:
    protocol = box.new({"01-review": "kind: human\n", "02-b": command("echo b > b.txt")})
    box.runner("run", protocol, rc=3)
    (folder(box, protocol) / "01-review.md").unlink()
    box.runner("run", protocol, rc=0)
    state = box.state(protocol)
    assert state["status"] == "completed" and state["waiting"] == []
    assert state["steps"]["review"]["removed"] and state["steps"]["review"]["status"] == "cancelled"
    healthy(box, protocol)


# --- `runner edit` -------------------------------------------------------------------------------------------------------


def editor(tmp_path: Path, script: str) -> dict[str, str]:
    """An editor that does what the shell script says to "$1"."""
    path = tmp_path / "an editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"EDITOR": f"'{path}'"}


def test_edit_commits_one_file_as_the_person_and_the_worktree_follows(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    tree = box.worktree(protocol)
    (tree / "README.md").write_text("half done\n")
    env = editor(tmp_path, f'basename "$1" > {tmp_path}/name; sed -i "s/echo b/echo bee/" "$1"')
    told = box.runner("edit", protocol, "b", rc=0, env=env)
    assert "02-b.md committed as yours" in told.err
    assert (tmp_path / "name").read_text() == "02-b.md\n"
    assert box.git("log", "-1", "--format=%an|%s", protocol) == f"Alice|{protocol}: edit 02-b.md\n"
    assert box.git("show", "--name-only", "--format=", protocol) == f".protocols/{protocol}/02-b.md\n"
    assert "echo bee" in (folder(box, protocol) / "02-b.md").read_text()
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "bee\n"
    healthy(box, protocol, " M README.md\n")


@pytest.mark.parametrize(
    ("what", "name"),
    mostly_slow([([], "plan.md"), (["02-b"], "02-b.md"), (["context"], "context.md"), (["02-b.md"], "02-b.md")]),
)
def test_edit_finds_the_file(box: Box, tmp_path: Path, what: list[str], name: str) -> None:
    protocol = two(box)
    box.runner("edit", "1", *what, rc=0, env=editor(tmp_path, 'echo "More." >> "$1"'))
    assert box.git("show", "--name-only", "--format=", protocol) == f".protocols/{protocol}/{name}\n"
    assert box.git("show", f"{protocol}:.protocols/{protocol}/{name}").endswith("More.\n")
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def test_edit_in_the_worktree_needs_no_name(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    env = editor(tmp_path, 'echo "More." >> "$1"')
    box.runner("edit", "b", rc=0, env=env, cwd=box.worktree(protocol))
    assert box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md").endswith("More.\n")
    assert "did you mean" in box.runner("edit", protocol, "bb", rc=2, env=env).err


def test_edit_without_a_change_does_nothing(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    assert "nothing changed" in box.runner("edit", protocol, rc=0, env=editor(tmp_path, "true")).err
    assert untouched(box, protocol, "edit", protocol, "b", rc=2)  # no editor is set, and no terminal is here


def test_edit_keeps_a_draft_that_is_not_valid(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    tip = box.git("rev-parse", protocol)
    told = box.runner("edit", protocol, "b", rc=2, env=editor(tmp_path, 'sed -i "s/run:/rum:/" "$1"')).err
    assert "02-b.md:4" in told and "rum" in told
    draft = Path(told.split("your draft is kept at ")[1].splitlines()[0])
    assert "rum:" in draft.read_text() and box.git("rev-parse", protocol) == tip
    told = box.runner("edit", protocol, "b", rc=2, env=editor(tmp_path, "exit 1")).err
    assert "the editor ended with 1" in told and "your draft" not in told
    box.runner("run", protocol, rc=0)


def test_edit_without_a_worktree(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    box.git("worktree", "remove", box.worktree(protocol))
    box.runner("edit", protocol, "b", rc=0, env=editor(tmp_path, 'sed -i "s/echo b/echo bee/" "$1"'))
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "bee\n"
    box.runner("verify", protocol, rc=0)


def test_edit_leaves_a_file_with_uncommitted_changes_alone(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    _edit(box, protocol)
    told = box.runner("edit", protocol, "b", rc=4, env=editor(tmp_path, 'echo "More." >> "$1"')).err
    assert str(folder(box, protocol) / "02-b.md") in told
    box.runner("edit", protocol, rc=0, env=editor(tmp_path, 'echo "More." >> "$1"'))
    assert (folder(box, protocol) / "02-b.md").read_text() == step_file("echo bee > b.txt")


def test_edit_refuses_where_the_file_changed_meanwhile(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    at = folder(box, protocol)
    script = f'cd {at} && echo "Theirs." >> 02-b.md && git commit -qam theirs; cd /; echo "Mine." >> "$1"'
    told = box.runner("edit", protocol, "b", rc=4, env=editor(tmp_path, script)).err
    assert "changed on the branch meanwhile" in told and "your draft is kept at" in told
    assert box.git("log", "-1", "--format=%s", protocol) == "theirs\n"
    script = f'cd {at} && echo "Theirs." >> plan.md && git commit -qam again; cd /; echo "Mine." >> "$1"'
    box.runner("edit", protocol, "b", rc=0, env=editor(tmp_path, script))
    text = box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md")
    assert text.endswith("Theirs.\nMine.\n")
    box.runner("run", protocol, rc=0)
    healthy(box, protocol)


def test_the_persons_own_git_names_the_editor_and_the_repository_does_not(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    box.git("config", "core.editor", f"touch {tmp_path}/never; false")
    box.git("config", "--global", "core.editor", editor(tmp_path, 'echo "More." >> "$1"')["EDITOR"])
    box.runner("edit", protocol, "b", rc=0)
    assert not (tmp_path / "never").exists()
    assert box.git("show", f"{protocol}:.protocols/{protocol}/02-b.md").endswith("More.\n")


def test_an_edit_of_a_finished_step_says_that_nothing_is_done_again(box: Box, tmp_path: Path) -> None:
    protocol = two(box)
    told = box.runner("edit", protocol, "a", rc=0, env=editor(tmp_path, 'echo "More." >> "$1"')).err
    assert "nothing is done again" in told


def test_an_edit_of_a_completed_protocol_is_named_and_picked_up_once_it_is_open_again(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    (folder(box, protocol) / "02-b.md").write_text(step_file("echo b > b.txt"))
    says = "02-b.md: no step picks these edits up; `runner undo 1` opens the protocol again"
    assert says in box.runner("run", protocol, rc=0).err
    assert says in box.runner("show", protocol, rc=0).out
    box.runner("undo", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["steps"]["b"]["status"] == "completed"
    healthy(box, protocol)
