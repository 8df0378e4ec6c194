"""An object that this clone has lost is never read as one that never was: no command runs, decides or commits without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import InsufficientHistoryError
from runner.git import BLOB, Git, TreeEntry
from runner.store import day_budget
from tests.conftest import Box, command
from tests.people import govern, person

STEP = {"01-a": command("echo a > a")}


def lose(box: Box, revision: str) -> None:
    """Take away the loose object that a revision names."""
    oid = box.git("rev-parse", revision).strip()
    (box.path / ".git/objects" / oid[:2] / oid[2:]).unlink()


def assert_refused(box: Box, protocol: str, lost: str) -> None:
    """Assert that a step names what is lost, says what to do next, and commits nothing."""
    before = box.git("rev-parse", protocol)
    told = box.runner("step", protocol, rc=5).err
    assert told.startswith(f"error: {lost}") and " is not in this clone\n  at: " in told
    assert "\n  next: run `git fsck`" in told
    assert box.git("rev-parse", protocol) == before


@pytest.mark.no_agreement  # the second verifier reads no policy where no approval counts
@pytest.mark.parametrize("name", ["", "/policy.yaml", "/allowed_signers"])
def test_a_policy_that_is_lost_stops_a_step(box: Box, tmp_path: Path, name: str) -> None:
    govern(box, [person(tmp_path, "bob")])
    protocol = box.new(STEP)
    box.write("README.md", "main and the protocol share no tree by now\n")
    box.write(".protocols/memory/a.md", "a\n")
    box.commit()
    lose(box, f"main:.protocols{name}")
    assert_refused(box, protocol, f".protocols{name}")


def test_a_history_whose_tree_is_lost_is_not_begun_anew(box: Box) -> None:
    protocol = box.new(STEP)
    with Git.open(box.path) as git:
        filed = {"runs/a.1.jsonl": TreeEntry(BLOB, git.write("blob", b"{}\n"))}
        tree = git.edit_tree(None, filed)
        assert tree is not None
        git.settle()
    ref = f"refs/runner/history/{protocol}"
    parent = box.git("rev-parse", protocol).strip()
    box.git("update-ref", ref, box.git("commit-tree", "-m", f"{protocol}: history", "-p", parent, tree).strip())
    lose(box, f"{ref}^{{tree}}")
    assert_refused(box, protocol, f"the tree {tree[:12]}")


def test_a_folder_that_is_lost_is_not_edited_as_an_empty_one(box: Box) -> None:
    with Git.open(box.path) as git:
        root = git.edit_tree(None, {f"{name}/old": TreeEntry(BLOB, git.write("blob", name.encode())) for name in "ab"})
        git.settle()
    lose(box, f"{root}:a")
    with Git.open(box.path) as git:
        for path in ("a/new", "a/inner/new", "a"):
            change = {f"{path}/file": TreeEntry(BLOB, git.write("blob", b"new\n"))}
            with pytest.raises(InsufficientHistoryError, match=r"the tree .* is not in this clone"):
                git.edit_tree(root, change)
        assert git.edit_tree(root, {"b/new": TreeEntry(BLOB, git.write("blob", b""))}) is not None


@pytest.mark.parametrize("lost", ["a", "a/b", "a/b/file"])
def test_a_path_that_is_lost_is_told_from_one_that_never_was(box: Box, lost: str) -> None:
    with Git.open(box.path) as git:
        root = git.edit_tree(None, {"a/b/file": TreeEntry(BLOB, git.write("blob", b"x\n"))})
        git.settle()
    lose(box, f"{root}:{lost}")
    with Git.open(box.path) as git:
        for read in (
            git.blob,
            git.object,
            lambda name: git.blobs([name, name]),
            lambda name: [*git.stream([name] * 200)],
        ):
            with pytest.raises(InsufficientHistoryError, match="is not in this clone"):
                read(f"{root}:a/b/file")


def test_a_commit_whose_tree_is_lost_is_not_an_empty_one(box: Box) -> None:
    lose(box, "HEAD^{tree}")
    with Git.open(box.path) as git:
        for name in ("HEAD:", "HEAD:src", f"{git.resolve('HEAD')}:"):
            with pytest.raises(InsufficientHistoryError, match=r"the tree .* is not in this clone"):
                git.tree(name)


def test_a_day_budget_whose_tree_is_lost_does_not_start_at_nothing(box: Box) -> None:
    with box.session() as session:
        day_budget.change(session, "2026-11-22", lambda day: day)
        lose(box, f"{day_budget.REF}^{{tree}}")
    before = box.git("rev-parse", day_budget.REF)
    with box.session() as session, pytest.raises(InsufficientHistoryError, match="is not in this clone"):
        day_budget.change(session, "2026-11-22", lambda day: day)
    assert box.git("rev-parse", day_budget.REF) == before


def test_a_record_that_is_lost_is_not_a_damaged_one(box: Box) -> None:
    protocol = box.new(STEP)
    for name in ("log.md", "01-a.md"):
        oid = box.git("rev-parse", f"{protocol}:.protocols/{protocol}/{name}").strip()
        kept = box.git("cat-file", "blob", oid)
        lose(box, oid)
        assert f"error: {name} of commit " in box.runner("step", protocol, rc=5).err
        assert box.git("hash-object", "-w", "--stdin", data=kept).strip() == oid


@pytest.mark.no_agreement  # git reads no such tree for the second verifier
@pytest.mark.parametrize("name", ["{}/context.md", "{}/02-b.md", "evil.txt"])
def test_a_tree_in_the_place_of_a_file_is_not_read_as_an_empty_one(box: Box, tmp_path: Path, name: str) -> None:
    """No git writes such a tree, and a server takes one from anybody."""
    alice = person(tmp_path, "alice")
    govern(box, [alice])
    protocol = box.new({"01-a": command("true"), "02-b": command("true", "approval: {when: before}\n")})
    box.runner("run", protocol, rc=3)
    box.git("worktree", "remove", box.worktree(protocol))
    path = name.format(f".protocols/{protocol}")
    with box.session() as session:
        git = session.git
        tip = git.commit(git.resolve(protocol) or "")
        assert tip is not None
        src = box.git("rev-parse", "HEAD:src").strip()
        tree, who = git.edited(tip.tree, {path: TreeEntry(BLOB, src)}), session.person()
        made = git.write_commit(tree, (tip.oid,), who, who, b"evil\n")
        git.settle()
        box.git("update-ref", f"refs/heads/{protocol}", made)
    told = box.runner("approve", protocol, "--yes", env=alice.env, rc=5).err
    assert "is not in this clone\n" in told and (
        path == "evil.txt" or f"error: {path.rpartition('/')[2]} of commit" in told
    )
    assert box.git("rev-parse", protocol).strip() == made


def test_what_an_id_names_is_there_or_lost(box: Box) -> None:
    blob, tree = (box.git("rev-parse", f"HEAD:{path}").strip() for path in ("src/app.py", "src"))
    with Git.open(box.path) as git:
        assert (git.blob(tree), git.tree(blob), git.blobs([tree, blob])[0]) == (None, None, None)
        assert git.commit(git.zero) is None
    lose(box, blob)
    lose(box, tree)
    with Git.open(box.path) as git:
        for read in (git.blob, lambda oid: git.blobs([oid, oid]), lambda oid: git.require(oid, "the blob of app.py")):
            with pytest.raises(InsufficientHistoryError, match=r"the blob .* is not in this clone"):
                read(blob)
        with pytest.raises(InsufficientHistoryError, match=r"the tree .* is not in this clone"):
            git.tree(tree)


def test_a_path_that_never_was_is_none(box: Box) -> None:
    with Git.open(box.path) as git:
        for name in (
            "HEAD:none",
            "HEAD:src/none",
            "HEAD:README.md/none",
            "HEAD:none/at/all",
            "none:src",
            f"{git.zero}:src",
        ):
            assert (git.object(name), git.tree(name), git.blob(name)) == (None, None, None)
            assert git.blobs([name, "HEAD:README.md"]) == [None, b"# a project\n"]
            assert [*git.stream([name] * 200)] == [None] * 200
        assert git.blob("HEAD:src") is None
        assert git.tree("HEAD:README.md") is None
        assert git.tree("HEAD:") == git.tree("HEAD^{tree}")
