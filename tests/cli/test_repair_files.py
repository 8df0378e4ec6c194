"""The smaller files of git's and of ours, broken or where they do not belong; and a `doctor` beside processes that live.

What is not mended names a command: here it is typed as it stands, and nothing is found afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.app.doctor import checks, clone, refs, rewritten_from
from runner.git import Git
from runner.store import locks
from tests.conftest import Box, command

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")}


@pytest.fixture
def begun(box: Box) -> str:
    """A protocol on this machine alone, whose first step of two is done."""
    protocol = box.new(STEPS)
    box.runner("step", protocol, rc=0)
    return protocol


def at(box: Box, name: str) -> Path:
    """A file of the git directory."""
    path = box.path / ".git" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def spoil(path: Path) -> Path:
    """Have a file hold zeros, as after a power cut."""
    size = path.stat().st_size
    path.chmod(0o644)
    path.write_bytes(bytes(size))
    return path


def found(box: Box, rc: int = 2) -> str:
    """What `doctor` tells."""
    return box.runner("doctor", rc=rc).out


def told(box: Box, what: str, rc: int = 2) -> list[str]:
    """The commands that `doctor` names for the first finding that says `what`."""
    blocks = re.split(r"^(?=found:|note:)", found(box, rc), flags=re.MULTILINE)
    block = next(one for one in blocks if what in one)
    return re.findall(r"`([^`]+)`", block[block.index("  next:") :])


def typed(box: Box, line: str) -> None:
    """Type a command as it stands."""
    assert "runner" not in line.split()[0]
    subprocess.run(line, shell=True, cwd=box.path, env=box.environment(), check=True, capture_output=True)


def as_a_user(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    """`doctor` of a user whom permissions stop; root drops what lets it pass them."""
    argv = [sys.executable, "-m", "runner", "doctor", *words]
    if os.getuid() == 0:
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *argv]
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(argv, cwd=box.path, env=env, capture_output=True, text=True)


def is_well(box: Box, protocol: str) -> None:
    """Nothing is found or mended any more, and the protocol runs to its end."""
    again = box.runner("doctor", "--fix", rc=0)
    assert "found:" not in again.out and again.err == "all is well\n"
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    assert box.git("fsck", "--no-dangling") == ""


# --- what is among the refs and is none ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["main~", "main copy", "a..b", "0001-a-plan~"])
def test_a_file_that_is_no_ref_is_removed_by_what_is_typed(box: Box, begun: str, name: str) -> None:
    path = at(box, f"refs/heads/{name}")
    path.write_bytes(at(box, "refs/heads/main").read_bytes())
    box.runner("doctor", "--fix", rc=2)
    assert path.exists()
    typed(box, told(box, f"git reports: ignoring ref with broken name refs/heads/{name}")[0])
    assert not path.exists()
    is_well(box, begun)


@pytest.mark.slow
@pytest.mark.parametrize("remote_too", [False, True])
def test_a_ref_that_nobody_knows_is_given_up_by_what_is_typed(remote: Box, remote_too: bool) -> None:
    if not remote_too:
        remote.git("remote", "remove", "origin")
    begun = remote.new(STEPS)
    for name, data in (("foo", ""), ("notes.txt", "hello\n")):
        at(remote, f"refs/heads/{name}").write_text(data)
    remote.runner("doctor", "--fix", rc=2)
    for name in ("foo", "notes.txt"):
        typed(remote, told(remote, f"the branch {name} is broken")[-1])
    is_well(remote, begun)


@pytest.mark.slow
def test_a_commit_that_nobody_has_is_given_up_by_what_is_typed(box: Box, begun: str) -> None:
    at(box, "refs/heads/zz").write_text(f"{'1' * 40}\n")
    at(box, "packed-refs").write_text(f"{'2' * 40} refs/tags/zz\n")
    box.runner("doctor", "--fix", rc=2)
    typed(box, told(box, "the branch zz is broken")[-1])
    typed(box, told(box, "refs/tags/zz is broken")[-1])
    is_well(box, begun)


@pytest.mark.slow
def test_what_a_tag_names_comes_again_from_the_remote(remote: Box) -> None:
    begun = remote.new(STEPS)
    oid = remote.git("commit-tree", "-m", "side", "HEAD^{tree}").strip()
    remote.git("push", "-q", "origin", f"{oid}:refs/tags/side")
    remote.git("fetch", "-q", "--tags", "origin")
    at(remote, f"objects/{oid[:2]}/{oid[2:]}").unlink()
    assert oid in found(remote)
    remote.runner("doctor", "--fix", rc=0)
    assert remote.git("cat-file", "-t", "side").strip() == "commit"
    is_well(remote, begun)


@pytest.mark.slow
def test_a_ref_that_leads_nowhere_is_a_note(box: Box, begun: str) -> None:
    box.git("symbolic-ref", "refs/heads/alias", "refs/heads/main")
    assert "leads to" not in found(box, 0)
    at(box, "refs/heads/alias").write_text("ref: refs/heads/none\n")
    typed(box, told(box, "leads to refs/heads/none", 0)[-1])
    is_well(box, begun)


@pytest.mark.slow
def test_a_folder_where_a_branch_belongs_gives_way(box: Box, begun: str) -> None:
    path = at(box, f"refs/heads/{begun}")
    was = path.read_bytes()
    path.unlink()
    (path / "deep/er").mkdir(parents=True)
    (path / "x").write_bytes(at(box, "refs/heads/main").read_bytes())
    rename, _ = told(box, f"the branch {begun} is broken")
    box.runner("doctor", "--fix", rc=2)
    typed(box, rename.replace("NAME", "moved"))
    box.runner("doctor", "--fix", rc=0)
    assert path.read_bytes() == was and box.git("rev-parse", "moved") == box.git("rev-parse", "main")
    is_well(box, begun)


@pytest.mark.slow
def test_a_name_in_packed_refs_that_no_ref_can_have_is_left_out(box: Box, begun: str) -> None:
    box.git("pack-refs", "--all")
    path = at(box, "packed-refs")
    path.write_text(path.read_text() + f"{box.git('rev-parse', 'main').strip()} refs/tags/a..b\n")
    assert "packed-refs is broken" in found(box)
    box.runner("doctor", "--fix", rc=0)
    is_well(box, begun)


@pytest.mark.parametrize("is_packed", [False, True])
def test_where_main_is_broken_a_protocols_own_branch_is_not_trusted(box: Box, begun: str, is_packed: bool) -> None:
    was = box.git("rev-parse", begun)
    if is_packed:
        box.git("pack-refs", "--all")
        path = at(box, "packed-refs")
        path.write_text(path.read_text().replace(box.git("rev-parse", "main").strip(), "1" * 40))
    else:
        spoil(at(box, "refs/heads/main"))
    refused = box.runner("step", begun, rc=2).err
    assert "the trusted branch main is broken" in refused and "doctor --fix" in refused
    assert box.git("rev-parse", begun) == was


def test_where_only_protocols_have_branches_none_is_trusted(box: Box, begun: str) -> None:
    main = box.git("rev-parse", "main").strip()
    box.git("symbolic-ref", "HEAD", "refs/heads/nothing")
    box.git("branch", "-qD", "main")
    assert "all belong to protocols" in box.runner("step", begun, rc=2).err
    box.git("branch", "trunk", main)
    assert "trunk of this clone: not protected" in box.runner("status", begun, rc=0).out


def test_a_branch_named_as_a_month_is_no_protocols_own(box: Box) -> None:
    box.git("branch", "-qm", "main", "release/2025-01")
    box.git("branch", "experiment")
    assert "release/2025-01 of this clone: not protected" in found(box, rc=0)


# --- the files between the repository and its worktrees --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["empty", "zeros", "gone"])
def test_a_worktree_that_lost_its_way_back_finds_it_again(box: Box, begun: str, how: str) -> None:
    folder = box.worktree(begun)
    (folder / "mine.txt").write_text("mine\n")
    box.git("add", "mine.txt", cwd=folder)
    link = folder / ".git"
    if how == "gone":
        link.unlink()
    else:
        link.write_bytes(b"" if how == "empty" else bytes(60))
        inside = box.runner("doctor", cwd=folder, rc=2).out
        assert "`git worktree repair` in the main worktree" in inside
    assert "does not name its repository" in (said := found(box)) and "folder is gone" not in said
    box.runner("doctor", "--fix", rc=2)
    typed(box, told(box, "does not name its repository")[0])
    assert box.git("status", "--porcelain", cwd=folder) == "A  mine.txt\n"
    is_well(box, begun)


@pytest.mark.slow
def test_a_folder_that_others_use_by_now_is_made_no_worktree_again(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    shutil.rmtree(folder)
    (folder / "unpacked").mkdir(parents=True)
    box.runner("doctor", "--fix", rc=2)
    assert not (folder / ".git").exists()
    typed(box, told(box, "does not name its repository")[1])
    is_well(box, begun)


@pytest.mark.slow
def test_what_git_keeps_of_a_worktree_is_written_again(box: Box, begun: str) -> None:
    at(box, f"worktrees/{begun}/commondir").write_bytes(b"")
    typed(box, told(box, "git's record of a worktree is broken")[0])
    is_well(box, begun)


def test_a_worktree_that_git_is_removing_is_not_broken(box: Box, begun: str) -> None:
    """Git removes one file after the other."""
    at(box, f"worktrees/{begun}/commondir").unlink()
    with box.session() as session:
        removed = session.env._replace(sleep=lambda seconds: shutil.rmtree(at(box, f"worktrees/{begun}/HEAD").parent))
        assert len(list(clone.severed_worktrees(session.project))) == 1
        assert list(clone.severed_worktrees(dataclasses.replace(session.project, env=removed))) == []


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", bytes(60)], ids=["empty", "zeros"])
def test_a_worktree_that_git_cannot_find_is_found_by_what_is_typed(box: Box, begun: str, data: bytes) -> None:
    folder = box.worktree(begun)
    at(box, f"worktrees/{begun}/gitdir").write_bytes(data)
    box.runner("doctor", "--fix", rc=2)
    repair, _ = told(box, "where a worktree is")
    typed(box, repair.replace("FOLDER", str(folder)))
    assert (folder / "a.txt").exists()
    is_well(box, begun)
    assert (folder / "b.txt").exists()  # it follows again


def test_a_worktree_that_is_being_made_or_taken_away_is_left(box: Box, begun: str) -> None:
    private = at(box, "worktrees/new/HEAD").parent
    for names in ({}, {"HEAD": "", "locked": "initializing\n"}):
        for name, data in names.items():
            (private / name).write_text(data)
        assert "found:" not in box.runner("doctor", "--fix", rc=0).out


def test_a_note_of_a_worktree_that_holds_zeros_stops_nothing(box: Box, begun: str) -> None:
    note = at(box, f"runner/making/{begun}")
    for data in (bytes(60), b""):
        note.write_bytes(data)
        box.runner("step", begun, rc=0)
        assert not note.exists()


@pytest.mark.slow
def test_a_head_that_says_nothing_is_written_again_by_what_is_typed(box: Box, begun: str) -> None:
    box.worktree(begun)
    box.git("switch", "-q", "-c", "topic")
    box.commit("on it")
    for head, branch in ((at(box, "HEAD"), "topic"), (at(box, f"worktrees/{begun}/HEAD"), begun)):
        was = head.read_bytes()
        head.write_bytes(b"")
        box.runner("doctor", "--fix", rc=2)
        write, show = told(box, "HEAD is broken")
        shown = subprocess.run(show, shell=True, capture_output=True, text=True).stdout
        assert f"/logs/refs/heads/{branch}\n" in shown and "/logs/refs/heads/main\n" not in shown
        typed(box, write.replace("BRANCH", branch))
        assert head.read_bytes() == was
    is_well(box, begun)


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", bytes(100), b"DIRC"], ids=["empty", "zeros", "cut"])
def test_a_broken_index_is_rewritten_by_what_is_typed_and_files_stay_as_they_are(
    box: Box, begun: str, data: bytes
) -> None:
    folder = box.worktree(begun)
    (folder / "src/app.py").write_text("changed\n")
    at(box, f"worktrees/{begun}/index").write_bytes(data)
    box.runner("doctor", "--fix", rc=2)
    typed(box, told(box, "index of a work tree is broken")[0])
    assert (folder / "src/app.py").read_text() == "changed\n"
    assert box.git("status", "--porcelain", cwd=folder) == " M src/app.py\n"
    is_well(box, begun)


def test_worktrees_without_a_folder_are_forgotten_by_what_is_typed(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    shutil.rmtree(folder)
    _, prune = told(box, "folder is gone", rc=0)
    typed(box, prune)
    assert str(folder) not in box.git("worktree", "list")
    box.runner("run", begun, rc=0)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["of-a-branch", "of-no-ref"])
def test_loose_objects_that_build_up_are_packed_by_what_is_typed_and_none_is_lost(
    box: Box, begun: str, named: bool
) -> None:
    lines = "".join(f"blob\nmark :{number}\ndata 9\n{number:09}\n" for number in range(1, 7001))
    tree = "".join(f"M 100644 :{number} many/{number}\n" for number in range(1, 7001))
    stream = f"{lines}commit refs/heads/many\ncommitter A <a@b.test> 1 +0000\ndata 4\nmany\n{tree}\n"
    box.git("-c", "fastimport.unpackLimit=1000000", "fast-import", "--quiet", data=stream)
    if not named:
        box.git("update-ref", "-d", "refs/heads/many")
    unneeded = box.git("hash-object", "-w", "--stdin", data="nobody's\n").strip()
    assert int(box.git("count-objects").split()[0]) > 7000
    of_refs, of_none = told(box, "loose objects", rc=0)
    typed(box, of_refs if named else of_none)
    assert "loose objects" not in found(box, rc=0)
    assert box.git("cat-file", "blob", unneeded) == "nobody's\n"
    is_well(box, begun)


# --- what git complains about, and repairs with a command of its own -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("end", [0, 30, None])
@pytest.mark.parametrize("what", ["multi-pack-index", "commit-graph", "commit-graphs"])
def test_what_git_only_keeps_to_be_faster_is_repaired_by_what_is_typed(
    box: Box, begun: str, what: str, end: int | None
) -> None:
    box.git("repack", "-adq")
    if what == "multi-pack-index":
        box.git("multi-pack-index", "write")
        path = at(box, "objects/pack/multi-pack-index")
    else:
        box.git("commit-graph", "write", "--reachable", *(["--split"] if what == "commit-graphs" else []))
        path = next(at(box, "objects/info").rglob("*.graph" if what == "commit-graphs" else "commit-graph"))
    if end is None:
        spoil(path)
    else:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:end])
    was = path.read_bytes()
    box.runner("doctor", "--fix", rc=2)
    assert path.read_bytes() == was
    typed(box, told(box, "git reports: ")[0])
    assert complaint(box) == ""
    is_well(box, begun)


def test_a_lock_beside_the_packs_is_no_broken_file(box: Box, begun: str) -> None:
    at(box, "objects/pack/multi-pack-index.lock").write_bytes(b"")
    said = box.runner("doctor", rc=2).out
    assert "found: a git process that died left its lock" in said and "git reports" not in said


def complaint(box: Box) -> str:
    """What `git fsck` complains about."""
    done = subprocess.run(["git", "fsck"], cwd=box.path, env=box.environment(), capture_output=True, text=True)
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "zeros", "gone"])
def test_the_index_of_a_pack_is_written_again_by_what_is_typed(box: Box, begun: str, how: str) -> None:
    box.git("repack", "-adq")
    (index,) = at(box, "objects/pack").glob("*.idx")
    if how == "gone":
        index.unlink()
    else:
        data = spoil(index).read_bytes()
        index.write_bytes(data[:100] if how == "cut" else data)
    box.runner("doctor", "--fix", rc=2)
    typed(box, told(box, "git reports: ")[0])
    assert complaint(box) == ""
    is_well(box, begun)


@pytest.mark.slow
@pytest.mark.parametrize("end", [None, 0, 20, -1])
def test_a_broken_pack_is_moved_by_what_is_typed_and_its_objects_come_again(remote: Box, end: int | None) -> None:
    begun = remote.new(STEPS)
    remote.git("push", "-q", "origin", "--all")
    remote.git("push", "-q", "origin", "refs/runner/*:refs/runner/*")
    remote.git("repack", "-adq")
    (pack,) = at(remote, "objects/pack").glob("*.pack")
    pack.chmod(0o644)
    data = pack.read_bytes()[:end]
    pack.unlink() if end is None else pack.write_bytes(data)
    said = remote.runner("doctor", "--fix", rc=2).out
    assert pack.stem in said and "update-ref" not in said  # no commit counts as lost while git cannot read it
    commands = told(remote, "git reports: ")
    typed(remote, commands[0])
    assert commands[-1] == "runner doctor --fix"
    assert "fetched everything that origin has again" in remote.runner("doctor", "--fix", rc=0).err
    is_well(remote, begun)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["pack", "object"])
def test_objects_that_this_user_may_not_read_are_not_called_lost(box: Box, begun: str, what: str) -> None:
    if what == "pack":
        box.git("repack", "-adq")
        (path,) = at(box, "objects/pack").glob("*.pack")
    else:
        oid = box.git("rev-parse", begun).strip()
        path = at(box, f"objects/{oid[:2]}/{oid[2:]}")
    path.chmod(0)
    for words in ((), ("--fix",)):
        said = as_a_user(box, *words).stdout
        assert "you may not read 1 file" in said and str(path) in said and "update-ref" not in said, said
    path.chmod(0o444)
    is_well(box, begun)


@pytest.mark.slow
def test_a_broken_pack_gives_what_it_still_holds_by_what_is_typed(box: Box, begun: str) -> None:
    box.git("repack", "-adq")
    (pack,) = at(box, "objects/pack").glob("*.pack")
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[:-30])  # the last object
    move, save = told(box, "git reports: ")[:2]
    typed(box, move)
    subprocess.run(save, shell=True, cwd=box.path, env=box.environment(), check=False, capture_output=True)
    assert int(box.git("count-objects").split()[0]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("what", ["empty", "full", "pack"])
def test_a_file_in_the_place_of_a_folder_of_objects_is_moved_by_what_is_typed(remote: Box, what: str) -> None:
    begun = remote.new(STEPS)
    remote.git("push", "-q", "origin", "--all")
    remote.git("push", "-q", "origin", "refs/runner/*:refs/runner/*")
    if what == "pack":
        remote.git("repack", "-adq")
    store = at(remote, "objects")
    full = store / remote.git("rev-parse", begun)[:2] if what == "full" else store / "pack"
    path = next(one for n in range(256) if not (one := store / f"{n:02x}").exists()) if what == "empty" else full
    shutil.rmtree(path, ignore_errors=True)
    path.touch()
    assert f"{path}" in found(remote)
    typed(remote, told(remote, "git reports: ")[0])
    remote.runner("doctor", "--fix", rc=0)
    assert not path.is_file()
    is_well(remote, begun)


def of_the_past(box: Box) -> str:
    """Commit a file, and that it is gone again; return its blob, which is alone in its folder of objects."""
    for number in range(200):
        box.write("old.txt", f"old {number}\n")
        box.commit("old")
        blob = box.git("rev-parse", "HEAD:old.txt").strip()
        box.git("rm", "-q", "old.txt")
        box.commit("gone")
        if os.listdir(at(box, f"objects/{blob[:2]}")) == [blob[2:]]:
            return blob
    pytest.fail("no object is alone in its folder")


@pytest.mark.slow
def test_what_lay_in_the_folder_of_objects_is_brought_again_also_where_only_the_past_needs_it(remote: Box) -> None:
    begun = remote.new(STEPS)
    blob = of_the_past(remote)
    remote.git("push", "-q", "origin", "main")
    folder = at(remote, f"objects/{blob[:2]}")
    shutil.rmtree(folder)
    folder.write_text("not git's")
    typed(remote, told(remote, "git reports: ")[0])
    remote.runner("doctor", "--fix", rc=0)
    assert remote.git("cat-file", "blob", blob).startswith("old")
    assert at(remote, f"runner/damaged/folder-{blob[:2]}").read_text() == "not git's"
    is_well(remote, begun)


@pytest.mark.slow
def test_what_lay_in_the_folder_of_objects_and_nobody_has_is_told(box: Box) -> None:
    blob = of_the_past(box)
    folder = at(box, f"objects/{blob[:2]}")
    shutil.rmtree(folder)
    folder.touch()
    typed(box, told(box, "git reports: ")[0])
    box.runner("doctor", "--fix", rc=2)
    for _ in range(2):
        assert f"a blob is missing: {blob}" in found(box)


@pytest.mark.slow
def test_a_damaged_pin_does_not_keep_refs_from_being_mended(remote: Box) -> None:
    begun = remote.new(STEPS)
    remote.runner("step", begun, rc=0)
    (pin,) = (remote.home / ".local/state/protocol-runner").glob("*/trusted.json")
    broken = [at(remote, "refs/runner/fetched/trusted"), at(remote, "refs/runner/numbers/0001")]
    for path in (pin, *broken):
        spoil(path)
    told = found(remote)
    assert all(str(path) in told for path in broken)
    fixed = remote.runner("doctor", "--fix", rc=2)
    assert str(pin) in fixed.out and not any(str(path) in fixed.out for path in broken)
    remote.runner("doctor", "--repin", rc=0)
    is_well(remote, begun)


@pytest.mark.slow
@pytest.mark.parametrize("here", [True, False], ids=["with-its-branch", "as-cloned"])
def test_a_note_of_the_cut_that_holds_zeros_costs_no_history(remote: Box, tmp_path: Path, here: bool) -> None:
    begun = remote.new(STEPS)
    remote.git("push", "-q", "origin", "--all")
    remote.git("push", "-q", "origin", "refs/runner/*:refs/runner/*")
    path = tmp_path / "cut"
    remote.git("clone", "-q", "--depth=1", "--no-single-branch", (tmp_path / "origin.git").as_uri(), path)
    cut = Box(path, remote.home, remote.env)
    if here:
        cut.git("branch", "-q", begun, f"origin/{begun}")
    spoil(at(cut, "shallow"))
    cut.runner("doctor", "--fix", rc=2)
    move, fetch = told(cut, "bad shallow line")
    typed(cut, f"{move} && {fetch}")
    cut.runner("doctor", "--fix", rc=0)
    is_well(cut, begun)


@pytest.mark.slow
def test_a_configuration_that_holds_zeros_says_what_to_type(box: Box, begun: str) -> None:
    spoil(at(box, "config"))
    for words in (("doctor",), ("doctor", "--fix")):
        said = box.runner(*words, rc=2).out
        assert "bad config" in said and "run `runner doctor`" not in said
    move, init = told(box, "bad config")
    typed(box, f"{move} .git/config .git/config.old && {init}")
    is_well(box, begun)


def test_a_repository_of_a_newer_git_is_told_so(box: Box) -> None:
    box.git("config", "core.repositoryformatversion", "1")
    box.git("config", "extensions.refstorage", "reftable")
    for words in (("doctor",), ("doctor", "--fix")):
        said = box.runner(*words, rc=2).out
        assert "extension" in said and "refstorage" in said and "a newer git made this repository" in said


def test_refs_in_tables_are_not_said_to_be_well(box: Box) -> None:
    at(box, "reftable/tables.list.lock").touch()
    said = found(box)
    assert "doctor cannot check" in said and "tables.list.lock" in said


@pytest.mark.slow
def test_a_bare_repository_without_head_is_one(box: Box, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    box.git("clone", "-q", "--bare", box.path, bare)
    (bare / "HEAD").write_bytes(b"")
    for words in (("doctor",), ("doctor", "--fix")):
        said = box.runner(*words, cwd=bare, rc=2).out
        assert "HEAD is broken" in said and f"> {bare / 'HEAD'}" in said


@pytest.mark.slow
def test_folders_of_the_project_are_taken_for_no_repository(box: Box) -> None:
    for name in ("objects", "refs"):
        (box.path / "game" / name).mkdir(parents=True)
    at(box, "HEAD").write_bytes(b"")
    assert str(box.path / ".git/HEAD") in box.runner("doctor", cwd=box.path / "game", rc=2).out


@pytest.mark.slow
def test_a_broken_mirror_of_the_remote_is_made_anew(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("publish")
    remote.git("push", "-q", "origin", "main")
    begun = remote.new(STEPS)
    mirror = next((remote.home / ".local/state/protocol-runner").glob("*/mirror"))
    (mirror / "HEAD").write_bytes(b"")
    assert "mirror of the remote is broken" in found(remote)
    remote.runner("doctor", "--fix", rc=0)
    is_well(remote, begun)
    there = remote.git("ls-remote", "origin", f"refs/heads/{begun}").split()[0]
    assert there == remote.git("rev-parse", begun).strip()


# --- this clone ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_where_our_folder_belongs_is_told(box: Box, begun: str) -> None:
    shutil.rmtree(at(box, "runner/locks"))
    at(box, "runner/locks").write_text("")
    typed(box, told(box, "a file is where the runner needs a folder")[-1])
    is_well(box, begun)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["objects", "runner/locks", "refs/heads"])
def test_what_a_sudo_left_that_we_may_not_write_is_told(box: Box, begun: str, name: str) -> None:
    at(box, name).chmod(0o500)
    done = as_a_user(box)
    at(box, name).chmod(0o755)
    assert done.returncode == 2 and "you may not write in this clone" in done.stdout, done.stdout + done.stderr
    assert f"at:   {box.path / '.git' / name}\n" in done.stdout and "chown -R" in done.stdout
    is_well(box, begun)


@pytest.mark.slow
def test_a_record_changed_by_hand_is_put_back_whole_by_what_is_typed(box: Box, begun: str) -> None:
    folder = box.worktree(begun) / f".protocols/{begun}"
    for name in ("log.md", "state.json"):
        (folder / name).write_text("mine\n")
    typed(box, told(box, "changed by hand")[-1])
    is_well(box, begun)


# --- what ended protocols left ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_ended_protocols_left_long_ago_is_a_note_and_clean_takes_it_away(box: Box, begun: str) -> None:
    done = box.new(STEPS, title="Done")
    box.runner("run", done, rc=0)
    box.git("merge", "-q", done)
    spaces = {path.parent.name: path.parent for path in (box.home / ".local/state").glob("*/*/*/index")}
    gone = spaces[done].with_name("0009-gone")
    (gone / "work").mkdir(parents=True)
    (gone / "work/mine.txt").write_text("mine\n")
    journal = at(box, "runner/journal/0009-gone/c.1.jsonl")
    journal.write_bytes(b"")
    assert "whose branch is gone" not in found(box, 0)  # what is new may still be of use
    old = time.time() - clone.UNUSED - 60
    for path in (spaces[done], spaces[begun], gone, journal.parent):
        os.utime(path, (old, old))
    said = found(box, 0)
    assert "3 workspaces and journals" in said and str(gone) in said and str(spaces[begun]) not in said
    box.runner("doctor", "--fix", rc=0)
    assert gone.exists() and spaces[done].exists()  # what a person may still want is theirs to take away
    box.runner("clean", "--yes", rc=0)  # a workspace is the runner's: it goes without a look at what is in it
    assert not spaces[done].exists() and not journal.parent.exists() and not gone.exists()
    assert "whose branch is gone" not in found(box, 0)
    is_well(box, begun)


# --- beside those that live ------------------------------------------------------------------------------------------------


@pytest.fixture
def git(box: Box) -> Iterator[Git]:
    """The repository, opened."""
    with Git.open(box.path) as opened:
        yield opened


def test_a_runner_that_moves_a_branch_meanwhile_rewrites_no_history(box: Box, begun: str) -> None:
    with box.session() as session:
        before = session.project.protocols()[begun]
        box.runner("step", begun, rc=0)
        assert list(checks.of_protocol(session, begun, before)) == []
        assert rewritten_from(session.project, begun, before) is None
        box.git("update-ref", f"refs/heads/{begun}", before)
        assert rewritten_from(session.project, begun, before) is not None


def test_a_ref_that_somebody_mended_meanwhile_is_left_as_they_did(box: Box, begun: str, git: Git) -> None:
    path = at(box, "refs/heads/mine")
    box.git("branch", "mine", begun)
    now = path.read_bytes()
    box.git("branch", "-f", "mine", "main")
    path.write_bytes(b"")
    with box.session() as session:
        here = session.project
        finding = next(refs.find(here))
        assert finding.about is not None
        path.write_bytes(now)
        assert refs.fix(here, finding.about) == "" and path.read_bytes() == now
        assert not path.with_name("mine.lock").exists()


def test_refs_that_come_and_go_meanwhile_are_not_broken(box: Box, begun: str, git: Git) -> None:
    for name in ("a", "b", "c"):
        at(box, f"refs/heads/{name}").write_bytes(b"")
    looked = refs.broken(git, git.common_dir)
    assert next(looked).name == "refs/heads/a"
    at(box, "refs/heads/b").unlink()
    box.git("branch", "zz")  # its reflog is found, and it was not seen before
    at(box, "logs/refs/heads/coming").write_bytes(at(box, "logs/refs/heads/main").read_bytes())
    at(box, "refs/heads/coming.lock").touch()
    assert [one.name for one in looked] == ["refs/heads/c"]


def test_a_worktree_that_follows_just_now_was_not_cut_off(box: Box, begun: str, git: Git) -> None:
    note = at(box, "runner/follows/x.json")
    told = {"worktree": str(box.path), "git_dir": str(box.path / ".git"), "ref": f"refs/heads/{begun}"}
    note.write_text(json.dumps({**told, "old": "0" * 40, "new": "1" * 40}))
    with box.session() as session:
        with locks.hold(session.dirs.publish_lock(f"refs/heads/{begun}"), session.env, what=begun):
            assert list(clone.cut_follows(session.project)) == []
        assert len(list(clone.cut_follows(session.project))) == 1


@pytest.mark.slow
def test_doctors_beside_a_runner_and_a_busy_git_find_and_break_nothing(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("publish")
    remote.git("push", "-q", "origin", "main")
    begun = remote.new({f"{n:02}-s{n}": command(f"echo {n} > f{n}.txt") for n in range(1, 16)})
    busy = (
        "while [ ! -e stop ]; do git branch t && git worktree add -q ../t t && git pack-refs --all && git repack -adq"
        " && git multi-pack-index write && git commit-graph write --reachable && git worktree remove ../t"
        " && git branch -qD t || exit 1; done"
    )
    looked = 0
    with (
        subprocess.Popen(["sh", "-c", busy], cwd=remote.path, env=remote.environment(), stderr=subprocess.PIPE) as git,
        remote.start("run", begun) as run,
    ):
        try:
            while run.poll() is None:
                said = remote.runner("doctor", *(["--fix"] if looked % 2 else []), rc=0)
                assert "found:" not in said.out and "restored" not in said.err and "removed" not in said.err
                looked += 1
        finally:
            (remote.path / "stop").touch()
        assert git.stderr is not None and run.stderr is not None
        assert (git.wait(), git.stderr.read()) == (0, b"")
        assert looked > 1 and run.returncode == 0, run.stderr.read()
    (remote.path / "stop").unlink()
    is_well(remote, begun)
