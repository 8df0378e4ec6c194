"""What finished protocols leave here is taken away; what is in no commit never is."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from runner.store import locks
from tests.conftest import Box, clone, command
from tests.executor.minds import ENGINE, agent, finish, mind, say


def workspace(box: Box, protocol: str) -> Path:
    with box.session() as session:
        return session.dirs.own / protocol


def branches(box: Box) -> list[str]:
    return box.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()


@pytest.fixture
def done(box: Box) -> str:
    """A protocol that is completed and waits for its merge."""
    protocol = box.new({"01-a": command("echo a > a.txt; mkdir -p cache; echo big > cache/x"), "02-b": command("true")})
    box.runner("run", protocol, rc=0)
    assert workspace(box, protocol).is_dir()
    return protocol


@pytest.fixture
def merged(box: Box, done: str) -> str:
    """A protocol that is completed and merged."""
    box.git("merge", "-q", "--no-ff", "-m", "merge", done)
    return done


def test_what_models_answered_goes_where_the_history_has_it(box: Box) -> None:
    with mind(box, finish(), say(text="no plan"), say(text="no plan"), finish()):
        ended, open_ = box.new({"01-x": agent()}), box.new({"01-x": agent(), "02-y": agent()})
        box.runner("run", ended, rc=0)
        box.runner("new", "A plan", "--no-questions", "--engine", ENGINE, rc=69)
        box.runner("step", open_, rc=0)
    box.git("merge", "-q", "--no-ff", "-m", "merge", ended)
    folder = box.path / ".git/runner/journal"
    assert sorted(path.name for path in folder.iterdir()) == [ended, open_, "planning"]
    (paid,) = (folder / "planning").iterdir()
    shown = box.runner("clean", "--dry-run", rc=0)
    assert f"would go  journal    {folder / ended}" in shown.out
    assert f"left     journal    {paid}  answers of a model" in shown.err
    box.runner("clean", "--yes", rc=0)
    assert paid.is_file() and (folder / open_ / "x.1.jsonl").is_file() and not (folder / ended).exists()
    box.runner("show", ended, "x", "--transcript", rc=0)
    assert "nothing to remove" in box.runner("clean", "--yes", rc=0).err


def test_answers_that_the_history_does_not_have_are_left(box: Box) -> None:
    with mind(box, finish()):
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=0)
    box.git("merge", "-q", "--no-ff", "-m", "merge", protocol)
    folder = box.path / ".git/runner/journal" / protocol
    filed, lost = folder / "x.1.jsonl", folder / "x.1.lost-1.jsonl"
    lost.write_bytes(filed.read_bytes())
    told = box.runner("clean", rc=0).err
    assert f"left     journal    {folder}  its history does not have x.1.lost-1.jsonl" in told
    lost.unlink()
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    assert "its history does not have x.1.jsonl" in box.runner("clean", rc=0).err
    assert filed.is_file()


def test_a_merged_protocol_leaves_nothing(box: Box, merged: str) -> None:
    folder, space = box.worktree(merged), workspace(box, merged)
    told = box.runner("clean", rc=0)
    assert [line.split()[:2] for line in told.out.splitlines()] == [
        ["removed", "worktree"],
        ["removed", "workspace"],
        ["removed", "branch"],
    ]
    assert str(folder) in told.out and str(space) in told.out and "freed" in told.err
    assert not folder.exists() and not folder.parent.exists() and not space.exists()
    assert branches(box) == ["main"] and "worktrees" not in box.git("worktree", "list")
    assert box.git("show", "main:a.txt") == "a\n"
    assert box.git("fsck", "--no-dangling") == "" and box.git("status", "--porcelain") == ""
    assert "nothing to remove" in box.runner("clean", rc=0).err
    assert box.new({"01-a": command("true")}) == "0002-a-plan"  # its number is not given again


def test_a_dry_run_says_the_same_and_does_nothing(box: Box, merged: str) -> None:
    folder, space = box.worktree(merged), workspace(box, merged)
    would = box.runner("clean", "--dry-run", rc=0)
    assert would.out.count("would go") == 3 and "would be freed" in would.err
    assert folder.is_dir() and space.is_dir() and merged in branches(box)
    did = box.runner("clean", rc=0)
    assert would.out.replace("would go", "removed") == did.out


def test_one_that_waits_for_its_merge_is_left_and_named(box: Box, done: str) -> None:
    folder, space = box.worktree(done), workspace(box, done)
    told = box.runner("clean", rc=0)
    assert told.out == "" and f"{done} waits for its merge" in told.err
    assert folder.is_dir() and space.is_dir()
    told = box.runner("clean", done, rc=0)
    assert "worktree" in told.out and "workspace" in told.out and "branch" not in told.out
    assert not folder.exists() and not space.exists() and done in branches(box)
    box.runner("verify", done, rc=0)


def test_a_cancelled_protocol_loses_its_folders_and_keeps_its_branch(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    folder, space = box.worktree(protocol), workspace(box, protocol)
    box.runner("cancel", protocol)
    assert box.state(protocol)["status"] == "cancelled"
    box.runner("clean", rc=0)
    assert not folder.exists() and not space.exists() and protocol in branches(box)


def test_an_open_protocol_keeps_everything_unless_it_is_named(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("cat a.txt > b.txt")})
    box.runner("step", protocol, rc=0)
    folder, space = box.worktree(protocol), workspace(box, protocol)
    assert "nothing to remove" in box.runner("clean", rc=0).err
    assert space.is_dir()
    told = box.runner("clean", protocol, rc=0).out
    assert "workspace" in told and "worktree" not in told
    assert not space.exists() and folder.is_dir()
    box.runner("run", protocol, rc=0)  # it is made again
    assert box.git("show", f"{protocol}:b.txt") == "a\n"


def test_a_held_protocol_is_left(box: Box, merged: str) -> None:
    space = workspace(box, merged)
    session = box.session()
    with session, locks.hold(session.dirs.lock(merged), session.env, what=merged):
        told = box.runner("clean", rc=0)
        assert told.out == "" and "held by" in told.err
        assert "held by another runner" in box.runner("clean", merged, rc=75).err
    assert space.is_dir()


@pytest.mark.parametrize(
    ("name", "ignored"),
    [("mine.txt", False), ("a.txt", False), ("secret.env", True)],
    ids=["new", "changed", "ignored"],
)
def test_a_worktree_that_holds_what_is_in_no_commit_is_left_and_named(
    box: Box, merged: str, name: str, ignored: bool
) -> None:
    folder = box.worktree(merged)
    if ignored:
        box.write(".git/info/exclude", f"{name}\n")
    (folder / name).write_text("mine\n")
    told = box.runner("clean", rc=0)
    assert f"left     worktree   {folder}" in told.err and name in told.err
    assert (folder / name).read_text() == "mine\n"
    assert merged in branches(box) and "its worktree is left" in told.err
    assert not workspace(box, merged).exists()
    (folder / name).unlink()
    box.git("checkout", "-q", ".", cwd=folder)
    box.runner("clean", rc=0)
    assert not folder.exists() and merged not in branches(box)


def test_caches_do_not_keep_a_worktree(box: Box, merged: str) -> None:
    folder = box.worktree(merged)
    (folder / "src/__pycache__").mkdir(parents=True)
    (folder / "src/__pycache__/app.pyc").write_bytes(b"\0")
    box.runner("clean", rc=0)
    assert not folder.exists()


def test_staged_changes_a_locked_worktree_and_a_rebase_under_way_keep_it(box: Box, merged: str) -> None:
    folder = box.worktree(merged)
    (folder / "staged.txt").write_text("s\n")
    box.git("add", "staged.txt", cwd=folder)
    assert "staged.txt" in box.runner("clean", rc=0).err
    box.git("reset", "-q", "--hard", cwd=folder)
    box.git("worktree", "lock", folder)
    assert "locked" in box.runner("clean", rc=0).err
    box.git("worktree", "unlock", folder)
    git_dir = Path(box.git("rev-parse", "--absolute-git-dir", cwd=folder).strip())
    (git_dir / "MERGE_HEAD").write_text(box.git("rev-parse", "main"))
    assert "under way" in box.runner("clean", rc=0).err
    assert folder.is_dir()


def test_the_worktree_that_one_stands_in_is_left(box: Box, merged: str) -> None:
    folder = box.worktree(merged)
    assert "you are in it" in box.runner("clean", cwd=folder / "src", rc=0).err
    assert folder.is_dir()


def test_the_main_worktree_is_never_taken_away(box: Box, merged: str) -> None:
    box.git("worktree", "remove", box.worktree(merged))
    box.git("switch", "-q", merged)
    told = box.runner("clean", rc=0).err
    assert "it is the main worktree" in told
    assert (box.path / "README.md").is_file() and merged in branches(box)


def squash(box: Box, protocol: str) -> None:
    """Squash a protocol into main."""
    box.git("merge", "-q", "--squash", protocol)
    box.git("commit", "-qm", "squashed")


def test_the_branch_of_a_squashed_protocol_goes_where_its_history_has_the_commits(box: Box, done: str) -> None:
    tip, folder = box.git("rev-parse", done).strip(), box.worktree(done)
    squash(box, done)
    assert "branch" in box.runner("clean", rc=0).out
    assert branches(box) == ["main"] and not folder.exists()
    box.git("reflog", "expire", "--expire=now", "--all")
    box.git("gc", "-q", "--prune=now")
    assert box.git("cat-file", "-t", tip) == "commit\n"
    assert "verified" in box.runner("verify", done, rc=0).out
    assert "01-a" in box.runner("why", "a.txt:1", rc=0).out


def test_the_branch_of_a_squashed_protocol_stays_where_nothing_else_has_its_commits(box: Box, done: str) -> None:
    folder = box.worktree(done)
    (folder / "late.txt").write_text("late\n")
    box.git("add", "late.txt", cwd=folder)
    box.git("commit", "-qm", "late", cwd=folder)
    squash(box, done)
    told = box.runner("clean", rc=0)
    assert "  branch  " not in told.out and done in branches(box) and not folder.exists()
    assert f"left     branch     {done}  its last commits are neither in main nor in its history" in told.err
    box.git("update-ref", "-d", f"refs/runner/history/{done}")
    assert "neither in main nor in its history" in box.runner("clean", rc=0).err


def test_a_workspace_goes_whatever_is_in_it(box: Box, merged: str) -> None:
    """What a step left beside its work is nobody's; to look at it, git would read it all, and fail where a step was malicious."""
    (workspace(box, merged) / "work/half.txt").write_text("half\n")
    with (workspace(box, merged) / "work/sparse").open("wb") as file:
        file.truncate(1 << 40)
    box.runner("clean", rc=0)
    assert not workspace(box, merged).exists()


@pytest.mark.parametrize("flag", ["assume-unchanged", "skip-worktree"])
def test_a_change_that_git_was_told_not_to_look_at_keeps_a_worktree(box: Box, merged: str, flag: str) -> None:
    folder = box.worktree(merged)
    box.git("update-index", f"--{flag}", "a.txt", cwd=folder)
    (folder / "a.txt").write_text("mine\n")
    assert "git does not check a.txt for changes" in box.runner("clean", rc=0).err
    assert (folder / "a.txt").read_text() == "mine\n"


def test_merged_on_the_remote_counts(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("run", protocol, rc=0)
    remote.git("push", "-q", "origin", protocol)
    other = clone(remote, "other")
    other.git("merge", "-q", "--no-ff", "-m", "merge", f"origin/{protocol}")
    other.git("push", "-q", "origin", "main")
    remote.runner("clean", rc=0)
    assert protocol in branches(remote)
    remote.git("fetch", "-q", "origin")
    remote.runner("clean", rc=0)
    assert protocol not in branches(remote)


def test_a_branch_that_only_the_remote_has_is_not_taken_away_again_and_again(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("run", protocol, rc=0)
    remote.runner("merge", protocol, "--squash", rc=0)
    remote.git("push", "-q", "origin", "main", protocol)
    assert f"removed  branch     {protocol}" in remote.runner("clean", rc=0).out
    again = remote.runner("clean", rc=0)
    assert (again.out, "nothing" in again.err) == ("", True)
    assert remote.git("ls-remote", "origin", f"refs/heads/{protocol}") != ""


def test_a_workspace_whose_branch_is_gone_is_taken_away(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    box.git("worktree", "remove", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    space = workspace(box, protocol)
    assert space.is_dir()
    assert str(space) in box.runner("clean", rc=0).out
    assert not space.exists()


def test_a_folder_that_a_step_made_unreadable_goes_too(box: Box) -> None:
    protocol = box.new({"01-a": command("mkdir -p node_modules/x; touch node_modules/x/f; chmod 0 node_modules/x")})
    box.runner("run", protocol, rc=0)
    space = workspace(box, protocol)
    box.runner("clean", protocol, rc=0)
    assert not space.exists()


def test_nothing_else_of_the_persons_state_is_touched(box: Box, merged: str) -> None:
    own = workspace(box, merged).parent
    mark = own / "marks" / f"{merged}.json"
    before = json.loads(mark.read_bytes())
    box.runner("clean", rc=0)
    assert json.loads(mark.read_bytes()) == before
    box.runner("clean", "0009-none", rc=2)


def test_a_workspace_deeper_than_the_stack_is_removed(box: Box) -> None:
    # Python's stack has 1,000 places. Below an ignored folder: git's own `clean` takes 12 s of a processor for 1,050 folders.
    deep = "import os\nos.mkdir('node_modules'); os.chdir('node_modules')\nfor n in range(1050): os.mkdir('d'); os.chdir('d')"
    protocol = box.new(
        {"01-a": command(f'python3 -c "{deep}"'), "02-b": command("mkdir -p x/y && touch x/y/z && chmod 0 x/y x")}
    )
    box.runner("run", protocol)
    box.runner("cancel", protocol)
    (work,) = (box.home / ".local/state/protocol-runner").glob("*/*/work")
    assert (work / "node_modules/d/d/d").is_dir()
    box.runner("clean", protocol, "--yes", rc=0)
    assert not work.exists()


def test_environments_that_no_step_has_used_for_30_days_are_removed(box: Box) -> None:
    with box.session() as session:
        made = session.dirs.own / "environments"
    for name, days in (("old", 31), ("recent", 29)):
        (made / name).mkdir(parents=True)
        (made / name / "made").write_text("[]")
        os.utime(made / name / "made", (time.time() - days * 86_400,) * 2)
    shown = box.runner("clean", "--dry-run", rc=0).out
    assert f"would go  environment  {made / 'old'}" in shown and "recent" not in shown
    protocol = box.new({"01-a": command("true")})
    assert "environment" not in box.runner("clean", protocol, "--yes", rc=0).out
    assert f"removed  environment  {made / 'old'}" in box.runner("clean", "--yes", rc=0).out
    assert [path.name for path in made.iterdir()] == ["recent"]


def test_a_protocol_for_which_nothing_was_done_is_discarded_whole(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    folder, state = box.worktree(protocol), box.home / ".local/state/protocol-runner"
    assert "nothing was removed" in box.runner("discard", protocol, rc=3).err and folder.is_dir()
    assert box.runner("discard", protocol, "--yes", rc=0).out == f"discarded  {protocol}\n"
    assert (
        not folder.exists()
        and protocol not in box.git("for-each-ref")
        and "numbers/0001" not in box.git("for-each-ref")
    )
    assert not list(state.rglob(f"*{protocol}.json"))
    assert "no protocols" in box.runner("status", rc=0).err
    assert box.new({"01-a": command("true")}, title="Next").startswith("0001-")
    box.runner("doctor", rc=0)


def test_a_fork_in_which_nothing_was_done_is_discarded_and_its_source_stays(box: Box) -> None:
    source = box.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    box.runner("run", source, rc=0)
    before = box.git("rev-parse", source)
    fork = box.runner("fork", f"{source}@a", rc=0).out.strip()
    box.runner("discard", fork, "--yes", rc=0)
    assert fork not in box.git("for-each-ref") and box.git("rev-parse", source) == before
    box.runner("verify", source, rc=0)
    again = box.runner("fork", f"{source}@a", rc=0).out.strip()
    box.runner("run", again, rc=0)
    assert "it was run: `" in box.runner("discard", again, "--yes", rc=4).err


def test_what_was_run_written_or_published_is_not_discarded(remote: Box) -> None:
    ran = remote.new({"01-a": command("echo a > a.txt"), "02-b": "kind: human\n"}, title="Ran")
    remote.runner("run", ran, rc=3)
    assert "it was run: `" in (told := remote.runner("discard", ran, "--yes", rc=4).err) and "runner cancel 1" in told
    wrote = remote.new({"01-a": command("true")}, title="Wrote")
    (remote.worktree(wrote) / "mine.txt").write_text("mine\n")
    remote.runner("discard", wrote, "--yes", rc=4)
    remote.git("add", "-A", cwd=remote.worktree(wrote))
    remote.git("commit", "-qm", "mine", cwd=remote.worktree(wrote))
    assert "work beside the plan" in remote.runner("discard", wrote, "--yes", rc=4).err
    shared = remote.new({"01-a": command("true")}, title="Shared")
    remote.git("push", "-q", "origin", shared)
    assert "origin has it" in remote.runner("discard", shared, "--yes", rc=4).err
    assert all(name in remote.git("for-each-ref") for name in (ran, wrote, shared))


def test_the_workspace_of_a_plan_that_was_killed_is_removed_unless_it_is_written(box: Box, done: str) -> None:
    space = workspace(box, done).with_name("planning-0123456789abcdef0123456789abcdef")
    (space / "work").mkdir(parents=True)
    with box.session() as session, locks.hold(session.dirs.lock(space.name), session.env, what="a plan"):
        assert f"{space}  a plan is written in it" in box.runner("clean", "--yes").err
    assert space.is_dir()
    assert f"removed  workspace  {space}" in box.runner("clean", "--yes", rc=0).out
    assert not space.exists()


def test_doctor_says_what_the_runner_has_on_the_disk(box: Box, done: str) -> None:
    (workspace(box, done) / "work/big").write_bytes(b"x" * 3_000_000)
    (box.worktree(done) / "mine").write_bytes(b"x" * 4_000_000)
    told = box.runner("doctor").err
    assert re.search(r"worktrees, workspaces and environments take 7\.\d MB; `runner clean` removes", told)


def test_a_protocol_whose_merge_is_not_pushed_is_listed_without_its_branch(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo 1 > a.txt")})
    remote.runner("run", protocol, rc=0)
    remote.runner("merge", protocol, rc=0)
    remote.runner("clean", rc=0)
    for _ in range(2):
        assert "completed · merged" in remote.runner("list", rc=0).out
        assert "shown as main has it" in remote.runner("show", "1", rc=0).out
        assert "completed" in remote.runner("log", "1", rc=0).out
        remote.git("push", "-q", "origin", "main")


def test_one_whose_branch_is_gone_is_named_with_a_whole_sentence(box: Box) -> None:
    box.git("update-ref", "refs/runner/numbers/0007", "HEAD")
    said = box.runner("show", "7", rc=2).err
    assert said.endswith("`runner doctor` says whether its branch was lost\n")


@pytest.mark.parametrize("how", ["merge", "squash", "fast-forward"])
def test_the_diff_of_a_protocol_without_its_branch_is_what_its_merge_brought(box: Box, how: str) -> None:
    protocol = box.new({"01-a": command("echo 1 > a.txt"), "02-b": command("echo 2 > b.txt")})
    box.runner("run", protocol, rc=0)
    if how == "fast-forward":
        box.git("merge", "-q", "--ff-only", protocol)
    else:
        box.runner("merge", protocol, *(["--squash"] if how == "squash" else []), rc=0)
    box.write("later.txt", "later\n")
    box.commit()
    box.runner("clean", rc=0)
    assert protocol not in box.git("branch")
    names = [line.split("|")[0].strip() for line in box.runner("diff", "1", "--stat", rc=0).out.splitlines()[:-1]]
    assert names == ["a.txt", "b.txt"]
    if how != "squash":
        assert "b.txt" not in box.runner("diff", "1", "a", rc=0).out


def test_of_a_protocol_that_was_merged_into_another_branch_nothing_is_said_to_stay(box: Box) -> None:
    box.git("branch", "develop")
    plan = box.plan({"01-a": command("echo a > a.txt")})
    protocol = box.runner("new", "--plan", str(plan), "--base", "develop", rc=0).out.strip()
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    told = box.runner("clean", protocol, "--yes", rc=0)
    assert f"removed  branch     {protocol}" in told.out and "has not ended" not in told.err
