"""What is done below a folder that commands may write: no link is followed, no depth is too deep, no lock keeps it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import beneath

Act = Callable[[Path, Path], object]  # (the folder, a folder elsewhere)

ACTS: dict[str, Act] = {
    "remove": lambda root, out: beneath.remove(root, "a/b"),
    "remove all": lambda root, out: beneath.remove(root),
    "ensure": lambda root, out: beneath.ensure(root, "a/b"),
    "put": lambda root, out: beneath.put(root, "a/c", root / "full"),
    "link": lambda root, out: beneath.link(root, "a/c", out),
    "read": lambda root, out: _nothing(beneath.read(root, "a/b/thesis", 10)),
    "target": lambda root, out: _nothing(beneath.target(root, "a/link")),
    "names": lambda root, out: _nothing(beneath.names(root, "a/b")),
    "statuses": lambda root, out: _nothing(list(beneath.statuses(root, ["a/b", "a/b/thesis"]))),
    "walk": lambda root, out: _nothing([at.path for at in beneath.walk(root) if at.path not in ("", "full")]),
    "size": lambda root, out: _nothing(beneath.size(root) > 100),
}


def _nothing(found: object) -> None:
    assert not found, found


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that commands write, with a link at `a`; and the folder elsewhere that it leads to."""
    root, out = tmp_path / "work", tmp_path / "elsewhere"
    (out / "b").mkdir(parents=True)
    (out / "b/thesis").write_text("x" * 1000)
    (out / "link").symlink_to("b")
    (root / "full").mkdir(parents=True)
    (root / "a").symlink_to(out)
    return root, out


@pytest.mark.parametrize("act", ACTS)
def test_nothing_reaches_through_a_link(places: tuple[Path, Path], act: str) -> None:
    root, out = places
    before = sorted(path.lstat() for path in out.rglob("*"))
    with contextlib.suppress(OSError):
        ACTS[act](root, out)
    assert sorted(path.lstat() for path in out.rglob("*")) == before


@pytest.mark.parametrize("act", ["remove", "ensure", "put", "link"])
def test_what_would_change_something_says_that_it_could_not(places: tuple[Path, Path], act: str) -> None:
    with pytest.raises(OSError):
        ACTS[act](*places)


def test_a_root_that_is_a_link_is_removed_and_not_what_it_leads_to(places: tuple[Path, Path]) -> None:
    root, out = places
    beneath.remove(root / "a")
    assert not (root / "a").is_symlink() and (out / "b/thesis").exists()


@pytest.mark.parametrize("path", ["../elsewhere", "a/../../elsewhere", "/etc", "a//b", "."])
def test_a_path_that_leads_out_is_refused(places: tuple[Path, Path], path: str) -> None:
    for act in (beneath.remove, beneath.ensure, lambda root, path: beneath.link(root, path, root)):
        with pytest.raises(OSError):
            act(places[0], path)


def nest(root: Path, depth: int, name: str = "d" * 20) -> None:
    """Make folders in one another, with a file in the last."""
    at = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


def test_folders_deeper_than_paths_stack_and_open_files_are_walked_and_removed(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    nest(root, 1500)
    (root / "beside").mkdir()
    found = list(beneath.walk(root))
    assert len(found) == 1502 and {entry.name for at in found for entry in at.entries} >= {"last", "beside"}
    assert max(len(at.path) for at in found) < beneath.LONGEST + 100
    assert {at.is_deep for at in found} == {True, False}
    beneath.remove(root)
    assert not root.exists()


def test_open_files_do_not_grow_with_the_depth(tmp_path: Path) -> None:
    nest(tmp_path, 60, "d")
    few = len(os.listdir("/proc/self/fd"))
    assert max(len(os.listdir("/proc/self/fd")) for _ in beneath.walk(tmp_path)) <= few + 3
    assert len(os.listdir("/proc/self/fd")) == few


def test_a_walk_that_is_left_in_the_middle_leaves_nothing_open(tmp_path: Path) -> None:
    nest(tmp_path, 9)
    before = len(os.listdir("/proc/self/fd"))
    for at in beneath.walk(tmp_path):
        if at.path.count("/") == 4:
            break
    del at
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_that_is_taken_out_is_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "c/d").mkdir(parents=True)
    seen = []
    for at in beneath.walk(tmp_path):
        seen.append(at.path)
        if "a" in at.folders:
            at.folders.remove("a")
    assert seen == ["", "c", "c/d"]


def as_user(do: Callable[[], object]) -> int:
    """Return how a child that is not root ends: 0 where `do` raised nothing."""
    if os.geteuid() != 0:
        do()
        return 0
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that other users reach too, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100, 0o500])
def test_what_its_owner_locked_is_walked_and_removed(everybodys: Path, mode: int) -> None:
    def do() -> None:
        root = everybodys / "work"
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/f").touch()
        for path in (root / "a/b/f", root / "a/b", root / "a", root):
            path.chmod(mode)
        assert beneath.size(root) == 0
        assert [at.path for at in beneath.walk(root)] == ["", "a", "a/b"]
        for path in (root / "a/b", root / "a", root):
            path.chmod(mode)
        assert beneath.names(root, "a/b") == ["f"]
        for path in (root / "a/b", root / "a", root):
            path.chmod(mode)
        beneath.remove(root)
        assert not root.exists()

    assert as_user(do) == 0


def test_what_a_dying_process_still_writes_is_removed_too(tmp_path: Path) -> None:
    root, gone = tmp_path / "work", threading.Event()
    (root / "a").mkdir(parents=True)

    def write() -> None:
        for number in range(3000):
            try:
                (root / f"a/{number}").touch()
            except OSError:
                return
        gone.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        beneath.remove(root)
    except OSError:  # it was faster than five tries; then at the end
        writer.join()
        beneath.remove(root)
    writer.join()
    assert not root.exists()


def test_a_folder_that_is_swapped_for_a_link_while_it_is_walked_leads_nowhere(places: tuple[Path, Path]) -> None:
    root, out = places
    (root / "x/y").mkdir(parents=True)
    seen = []
    for at in beneath.walk(root):
        seen.append(at.path)
        if at.path == "":
            (root / "x").rename(root / "moved")
            (root / "x").symlink_to(out)
    assert "x" not in seen and "x/b" not in seen


def test_a_folder_that_is_moved_away_while_it_is_walked_ends_the_walk(places: tuple[Path, Path]) -> None:
    root, out = places
    (root / "x/y/z").mkdir(parents=True)
    (root / "a").unlink()
    (out / "b").rename(root / "b")
    with pytest.raises(OSError, match="moved"):
        for at in beneath.walk(root):
            if at.path == "x/y/z":
                (root / "x/y").rename(out / "y")
    assert (root / "b/thesis").exists()


def test_a_folder_is_made_in_place_of_what_is_there(places: tuple[Path, Path]) -> None:
    root, out = places
    assert beneath.ensure(root, "a") and (root / "a").is_dir() and not (root / "a").is_symlink()
    assert not beneath.ensure(root, "a")
    (root / "file").touch()
    assert beneath.ensure(root, "file") and (root / "file").is_dir()
    assert (out / "b/thesis").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    assert beneath.read(tmp_path, "p", 10) is None
    (tmp_path / "f").write_bytes(b"x" * 20)
    assert beneath.read(tmp_path, "f", 10) == b"x" * 10
