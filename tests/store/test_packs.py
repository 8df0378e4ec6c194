"""A step is given the objects of its commit's own history, and no others."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from runner.git import Git
from runner.sandbox.bubblewrap import Bubblewrap
from runner.store import objects
from tests.conftest import Box, command, make_box

LOOK = {
    "01-look": command("git cat-file --batch-all-objects --batch-check='%(objectname)' > seen.txt; git fsck --full")
}


def seen(box: Box, protocol: str, path: str = "seen.txt") -> set[str]:
    return set(box.git("show", f"{protocol}:{path}").split())


def reached(box: Box, *revisions: str) -> set[str]:
    return {line.split()[0] for line in box.git("rev-list", "--objects", *revisions).splitlines()}


def secret(box: Box) -> str:
    """Return the id of a blob that was on a branch which is deleted now."""
    box.git("checkout", "-q", "-b", "gone")
    box.write("password.txt", "hunter2\n")
    box.commit("oh no")
    oid = box.git("rev-parse", "HEAD:password.txt").strip()
    box.git("checkout", "-q", "main")
    box.git("branch", "-q", "-D", "gone")
    return oid


def started(box: Box, protocol: str) -> str:
    """Return the commit that the protocol's last step began at."""
    found: list[str] = re.findall('"start":"([0-9a-f]+)"', box.log(protocol))
    return found[-1]


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_a_step_has_the_objects_of_its_own_history_and_no_others(tmp_path: Path, kind: str) -> None:
    box = make_box(tmp_path / "repo", "--object-format", kind)
    lost = secret(box)
    other = box.new({"01-x": command("echo other > other.txt")})
    box.runner("run", other, rc=0)
    protocol = box.new(LOOK)
    box.runner("run", protocol, rc=0)
    assert seen(box, protocol) == reached(box, started(box, protocol))
    assert lost not in seen(box, protocol)


def test_each_step_has_what_the_one_before_it_did(box: Box) -> None:
    protocol = box.new({
        "01-a": command("echo a > a.txt"),
        "02-b": command("git show HEAD:a.txt > b.txt; git log --format=%s -- README.md > log.txt; git fsck"),
        "03-c": command("git cat-file --batch-all-objects --batch-check='%(objectname)' > seen.txt; git fsck --full"),
    })  # fmt: skip
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "a\n"
    assert box.git("show", f"{protocol}:log.txt") == "start\n"
    assert seen(box, protocol) == reached(box, started(box, protocol))


def test_in_the_sandbox_the_person_s_repository_is_not_there(box: Box) -> None:
    """At its path is the workspace, with a repository of its own: nothing of another branch is in it."""
    if (why := Bubblewrap().check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"bubblewrap has to work where RUNNER_CI=1: {why}")
        pytest.skip(why)
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    (box.path / ".git/persons").touch()
    other = box.git("commit-tree", "-m", "of another branch", "HEAD^{tree}").strip()
    look = f"ls {box.path}/.git/persons; git cat-file -t {other}; git log --format=%s -- README.md"
    protocol = box.new({"01-look": command(f"({look}) > seen.txt 2>/dev/null; git fsck --full")})
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:seen.txt") == "start\n"


@pytest.fixture
def history(box: Box) -> list[str]:
    """Six commits, the first one oldest."""
    for number in range(5):
        box.write(f"f{number % 2}.txt", f"{number}\n" * 50)
        box.commit(f"{number}")
    return box.git("rev-list", "--reverse", "main").split()


def objects_of(box: Box, name: str) -> set[str]:
    folder = box.path.parent / "own" / name / "objects"
    env = {"GIT_OBJECT_DIRECTORY": str(folder)}
    return set(box.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)", env=env).split())


def lend(box: Box, name: str, commit: str, trusted: str | None = None) -> set[str]:
    """Return the objects that the workspace `name` has once it was lent those of `commit`."""
    with Git.open(box.path) as git:
        objects.lend(git, box.path.parent / "own" / name, commit, trusted, lambda text: None)
    return objects_of(box, name)


def test_forward_and_back_there_are_exactly_those_of_the_commit(box: Box, history: list[str]) -> None:
    for commit in (history[2], history[5], history[5], history[1], history[4], history[0]):
        assert lend(box, "0001-a", commit) == reached(box, commit)


def test_another_side_of_history_takes_the_place_of_the_first(box: Box, history: list[str]) -> None:
    assert lend(box, "0001-a", history[5]) == reached(box, history[5])
    box.git("checkout", "-q", "-b", "side", history[2])
    box.write("side.txt", "side\n")
    box.commit("side")
    side = box.git("rev-parse", "side").strip()
    assert lend(box, "0001-a", side) == reached(box, side)
    box.git("merge", "-q", "-m", "both", "main")
    both = box.git("rev-parse", "side").strip()
    assert lend(box, "0001-a", both) == reached(box, both)


def test_many_steps_leave_few_packs(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MOST", 3)
    for number in range(9):
        box.write("f.txt", f"{number}\n")
        box.commit(f"{number}")
        tip = box.git("rev-parse", "main").strip()
        assert lend(box, "0001-a", tip) == reached(box, tip)
        assert len(list((box.path.parent / "own/0001-a/objects/pack").glob("*.pack"))) <= 4


def test_the_next_protocol_packs_only_what_is_new(box: Box, history: list[str]) -> None:
    lend(box, "0001-a", history[3], trusted=history[2])
    assert lend(box, "0002-b", history[5], trusted=history[4]) == reached(box, history[5])
    one, two = ({path.name: path.stat().st_ino for path in (box.path.parent / f"own/{name}/objects/pack").glob("*.pack")}
                for name in ("0001-a", "0002-b"))  # fmt: skip
    shared = set(one.items()) & set(two.items())
    assert (
        len(shared) == 2
    )  # of what the trusted branch has, and of the first protocol's own commit, which is in the history too
    box.git("checkout", "-q", "--orphan", "alone")
    box.commit("alone")
    alone = box.git("rev-parse", "alone").strip()
    assert lend(box, "0003-c", alone, trusted=history[5]) == reached(box, alone)


def test_another_protocol_s_objects_do_not_come_along(box: Box, history: list[str]) -> None:
    box.git("checkout", "-q", "-b", "one", history[3])
    box.write("one.txt", "one\n")
    box.commit("one")
    lend(box, "0001-a", box.git("rev-parse", "one").strip(), trusted=history[3])
    assert lend(box, "0002-b", history[4], trusted=history[5]) == reached(box, history[4])


@pytest.mark.parametrize("how", ["killed", "damaged list", "a pack is gone", "the list is gone"])
def test_what_was_cut_off_is_made_again(box: Box, history: list[str], how: str) -> None:
    lend(box, "0001-a", history[3])
    root = box.path.parent / "own/0001-a"
    if how == "killed":
        (root / "objects/pack/tmp_pack_x").write_text("half")
        (root / "objects/pack/pack-0123.pack").write_text("half")
    elif how == "damaged list":
        (root / "packs.json").write_text("{")
    elif how == "a pack is gone":
        next((root / "objects/pack").glob("*.idx")).unlink()
    else:
        (root / "packs.json").unlink()
    assert lend(box, "0001-a", history[4]) == reached(box, history[4])
    assert not list((root / "objects/pack").glob("tmp*"))


def test_a_history_that_is_cut_off_and_then_is_not(remote: Box, tmp_path: Path) -> None:
    for number in range(3):
        remote.write("f.txt", f"{number}\n")
        remote.commit(f"{number}")
    remote.git("push", "-q", "origin", "main")
    remote.git("clone", "-q", "--depth", "1", f"file://{tmp_path}/origin.git", tmp_path / "shallow", cwd=tmp_path)
    box = Box(tmp_path / "shallow", remote.home, remote.env)
    tip = box.git("rev-parse", "main").strip()
    assert lend(box, "0001-a", tip) == reached(box, tip)
    box.git("fetch", "-q", "--unshallow")
    assert lend(box, "0001-a", tip) == reached(box, tip) == reached(remote, tip)


@pytest.mark.parametrize("filtered", ["blob:none", "tree:0"])
def test_in_a_partial_clone_a_step_has_what_is_here_and_its_own_files(
    remote: Box, tmp_path: Path, filtered: str
) -> None:
    for number in range(3):
        remote.write("f.txt", f"{number}\n")
        remote.commit(f"{number}")
    remote.git("push", "-q", "origin", "main")
    remote.git("config", "uploadpack.allowFilter", "true", cwd=tmp_path / "origin.git")
    remote.git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=tmp_path / "origin.git")
    remote.git(
        "clone", "-q", f"--filter={filtered}", f"file://{tmp_path}/origin.git", tmp_path / "partial", cwd=tmp_path
    )
    box = Box(tmp_path / "partial", remote.home, remote.env)
    back = "git log --format=%H > log.txt; git ls-files -s > files.txt; git cat-file blob HEAD:f.txt > was.txt"
    protocol = box.new({"01-a": command("echo 0 > f.txt; git status --short > s.txt"), "02-b": command(back)})
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:was.txt") == "0\n"
    assert len(box.git("show", f"{protocol}:log.txt").split()) >= 4


def test_a_checkout_on_another_file_system_is_not_written_to(box: Box, history: list[str]) -> None:
    before = sorted(path.name for path in (box.path / ".git/objects").rglob("*"))
    lend(box, "0001-a", history[5])
    assert sorted(path.name for path in (box.path / ".git/objects").rglob("*")) == before


@pytest.mark.parametrize("name", ['a"b', "a:b", "a\\b", "ü x"])
def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    box = make_box(tmp_path / name / "repo")
    tip = box.git("rev-parse", "main").strip()
    assert lend(box, "0001-a", tip) == reached(box, tip)
