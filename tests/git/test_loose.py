"""Loose objects: git reads them as its own, they are on the disk before they have a name, and nothing is left of what failed."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.git import BLOB, Git, TreeEntry
from runner.git.process import GitError
from tests.conftest import Box

OBJECTS: tuple[tuple[Literal["blob", "tree"], bytes], ...] = (
    ("blob", b""),
    ("blob", b"a\0b\r\n" * 9999),
    ("tree", b""),
)


def files(box: Box) -> set[Path]:
    return {path for path in (box.path / ".git/objects").rglob("*") if path.is_file()}


def git_says(box: Box, kind: str, data: bytes) -> str:
    done = subprocess.run(
        ["git", "hash-object", "-t", kind, "--stdin"], cwd=box.path, input=data, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=3000))
def test_any_bytes_are_the_object_that_git_makes_of_them(box: Box, data: bytes) -> None:
    with Git.open(box.path) as git:
        oid = git.write("blob", data)
        assert oid == git_says(box, "blob", data) and git.blob(oid) == data


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_git_finds_nothing_wrong_with_them(tmp_path: Path, object_format: str) -> None:
    subprocess.run(["git", "init", "-q", f"--object-format={object_format}", "."], cwd=tmp_path, check=True)
    with Git.open(tmp_path) as git:
        oids = [git.write(kind, data) for kind, data in OBJECTS]
        tree = git.edit_tree(None, {"a/b": TreeEntry(BLOB, oids[1]), "c": TreeEntry(BLOB, oids[0])})
        assert tree is not None and git.files(tree).keys() == {"a/b", "c"}
    out = subprocess.run(
        ["git", "fsck", "--full", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "error" not in out.stdout + out.stderr
    names = subprocess.run(["git", "count-objects", "-v"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "garbage: 0" in names.stdout and f"count: {len({*oids, tree}) + 1}" in names.stdout


def test_one_that_is_there_is_not_written_again_but_counts_as_new(box: Box) -> None:
    with Git.open(box.path) as git:
        oid = git.write("blob", b"once")
        assert git.blob(oid) == b"once"
        there = box.path / f".git/objects/{oid[:2]}/{oid[2:]}"
        os.utime(there, (0, 0))
        before, inode = files(box), there.stat().st_ino
        assert git.write("blob", b"once") == oid and git.blob(oid) == b"once"
    assert files(box) == before and there.stat().st_ino == inode and there.stat().st_mtime > 1e9


def test_an_empty_file_that_a_power_cut_left_in_its_place_is_replaced(box: Box) -> None:
    oid = git_says(box, "blob", b"lost")
    there = box.path / f".git/objects/{oid[:2]}/{oid[2:]}"
    there.parent.mkdir(exist_ok=True)
    there.touch()
    with Git.open(box.path) as git:
        git.write("blob", b"lost")
        git.settle()
    assert box.git("cat-file", "blob", oid) == "lost"


def test_it_has_no_name_before_it_is_settled_and_nothing_is_left_of_one_that_never_is(box: Box) -> None:
    before = files(box)
    with Git.open(box.path) as git:
        oid = git.write("blob", b"aside")
        [aside] = files(box) - before
        assert aside.name.startswith("tmp_obj_") and aside.parent.name == oid[:2]
    assert files(box) == before


def test_no_more_threads_than_wait_for_the_disk(box: Box) -> None:
    before = threading.active_count()
    with Git.open(box.path) as git:
        oids = [git.write("blob", b"%d" % number) for number in range(200)]
        assert threading.active_count() <= before + 4
        assert git.blobs(oids) == [b"%d" % number for number in range(200)]
    until = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < until, "they end when it is closed"
        time.sleep(0.01)


FULL = """
import pathlib, resource, signal, sys
from runner.git import BLOB, Git, TreeEntry
from runner.git.process import GitError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Git.open(pathlib.Path(sys.argv[1])) as git:
    git.write("blob", b"fits")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        git.write("blob", bytes(range(256)) * 40)
    except GitError as error:
        print(error.what)
"""


def test_a_disk_that_takes_no_more_is_told_and_nothing_that_was_begun_stays(box: Box) -> None:
    before = files(box)
    done = subprocess.run([sys.executable, "-c", FULL, str(box.path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("File too large") and files(box) == before


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fails_when_it_is_waited_for_is_told(box: Box, tmp_path: Path, call: str) -> None:
    script = FULL.replace(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))", "git.settle(); git.write('blob', b'not')"
    )
    script = script.replace('git.write("blob", bytes(range(256)) * 40)', "git.settle()")
    before = files(box)
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=2",
         sys.executable, "-c", script, str(box.path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip().endswith("Input/output error")
    assert len(files(box) - before) == 1  # the first one, which was settled


CTRL_C = """
import os, pathlib, signal, sys, threading
from runner.git import Git
with Git.open(pathlib.Path(sys.argv[1])) as git:
    git.write("blob", b"done")
    git.settle()
    for number in range(200):  # one thread has waited for the disk once already: the next time it takes long
        git.write("blob", b"half done %d" % number)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    git.settle()
"""


@pytest.mark.slow
def test_ctrl_c_while_the_disk_is_waited_for_leaves_nothing_begun(box: Box, tmp_path: Path) -> None:
    before = files(box)
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3000000:when=2",
         sys.executable, "-c", CTRL_C, str(box.path)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "KeyboardInterrupt" in done.stderr
    assert len(files(box) - before) == 1


@pytest.mark.parametrize(
    ("told", "file", "folder"), [("group", 0o440, 0o2770), ("all", 0o444, 0o2775), ("0640", 0o440, 0o2750)]
)
def test_a_shared_repository_can_be_read_by_those_it_is_shared_with(
    box: Box, told: str, file: int, folder: int
) -> None:
    old = os.umask(0o077)
    try:
        box.git("config", "core.sharedRepository", told)
        with Git.open(box.path) as git:
            for number in range(1000):  # until there is no folder yet
                oid = git.write("blob", b"shared %d" % number)
                at = box.path / f".git/objects/{oid[:2]}"
                if at.stat().st_mode & stat.S_ISGID:
                    break
            git.settle()
    finally:
        os.umask(old)
    assert stat.S_IMODE((at / oid[2:]).stat().st_mode) == file
    assert stat.S_IMODE(at.stat().st_mode) & folder == folder
    done = subprocess.run(
        ["git", "-c", f"core.sharedRepository={told}", "hash-object", "-w", "--stdin"],
        cwd=box.path,
        input=b"git",
        capture_output=True,
        check=True,
    )
    theirs = done.stdout.decode().strip()
    by_git = (box.path / f".git/objects/{theirs[:2]}/{theirs[2:]}").stat().st_mode
    assert stat.S_IMODE(by_git) & 0o070 == file & 0o070


def test_a_store_that_cannot_be_written_is_told(box: Box) -> None:
    folders = (
        (data, box.path / f".git/objects/{git_says(box, 'blob', data)[:2]}") for data in (b"no", b"nor", b"not", b"now")
    )
    data, there = next(one for one in folders if not one[1].exists())
    with Git.open(box.path) as git:
        there.write_bytes(b"")  # where a folder would have to be
        with pytest.raises(GitError, match="Not a directory") as told:
            git.write("blob", data)
        assert "runner doctor" in told.value.hint


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_a_large_tree_is_stored_as_it_is_and_a_small_one_compressed(tmp_path: Path, object_format: str) -> None:
    subprocess.run(["git", "init", "-q", f"--object-format={object_format}", "."], cwd=tmp_path, check=True)
    with Git.open(tmp_path) as git:
        blob = git.write("blob", b"")
        for count, is_stored in ((100, False), (3000, True)):
            tree = git.edit_tree(None, {f"{number:06d}-a-name": TreeEntry(BLOB, blob) for number in range(count)})
            assert tree is not None
            git.settle()
            size = git.sizes([tree])[0]
            there = (tmp_path / ".git/objects" / tree[:2] / tree[2:]).stat().st_size
            assert size is not None and (there > size) == is_stored
    subprocess.run(["git", "fsck", "--full", "--strict"], cwd=tmp_path, check=True)
    subprocess.run(["git", "gc", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "cat-file", "-e", f"{tree}^{{tree}}"], cwd=tmp_path, check=True)


def test_a_loose_object_is_read_without_git_and_a_damaged_one_by_it(box: Box) -> None:
    with Git.open(box.path) as git:
        oid = git.write("blob", b"a\0b" * 99)
        git.settle()
    path = box.path / f".git/objects/{oid[:2]}/{oid[2:]}"
    with Git.open(box.path) as git:
        assert git.object(oid) == (oid, "blob", b"a\0b" * 99) and "read" not in git._held
    path.chmod(0o644)
    for damaged in (b"", path.read_bytes()[:-9], b"no object"):
        path.write_bytes(damaged)
        with Git.open(box.path) as git:
            found = None
            with contextlib.suppress(GitError):  # or git says that it is missing
                found = git.object(oid)
            assert found is None and "read" in git._held
    path.unlink()
    box.git("gc", "-q")
    with Git.open(box.path) as git:
        assert git.object(oid) is None
        head = box.git("rev-parse", "HEAD").strip()
        found = git.object(head)
        assert found is not None and found[1] == "commit"


def test_a_folder_that_a_repack_removes_before_the_object_is_in_it_is_made_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git repack -d` removes a folder as soon as it is empty."""
    made, mkdir = list[str](), os.mkdir

    def removed_twice(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        made.append(path)
        if len(made) < 3:
            os.rmdir(path)

    with Git.open(box.path) as git:
        monkeypatch.setattr(os, "mkdir", removed_twice)
        oid = git.write("blob", b"between two repacks")
        git.settle()
    assert len(made) == 3 and box.git("cat-file", "blob", oid) == "between two repacks"
