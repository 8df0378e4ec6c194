"""Entries of an index that are replaced in place: git then says what it says of an index that it wrote itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.git import objects
from tests.conftest import Box, make_box

NAMES = st.sampled_from(["a", "b.md", "zz", "é", "x y", "n" * 60, "m" * 200])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def replaced(
    box: Box, paths: list[str], at: str = ".git/index", last: objects.Entries | None = None, text: str = "other content"
) -> objects.Entries:
    """Give files other content, and the index their objects without git. `last`: what was made before."""
    file, sha256 = box.path / at, box.git("rev-parse", "--show-object-format").strip() == "sha256"
    entries = objects.entries(file.read_bytes(), paths, 32 if sha256 else 20, last)
    assert entries is not None
    changes = {}
    for path in paths:
        assert entries.entry(path).oid == box.git("rev-parse", f":{path}").strip()
        box.write(path, f"{text} of {path}")
        changes[path] = (box.git("hash-object", "-w", "--", path).strip(), (box.path / path).lstat())
    made = entries.replaced(changes)
    file.write_bytes(made.data)
    return made


def holds(box: Box) -> None:
    """git takes the index as it is: nothing is to be looked at again, and its trees are those of its files."""
    assert box.git("diff-files") == ""
    assert box.git("update-index", "--refresh") == ""
    tree = box.git("write-tree")
    listed = box.git("ls-files", "-s", "-z")
    box.git("read-tree", "--empty")
    box.git("update-index", "-z", "--index-info", data=listed)
    assert box.git("write-tree") == tree


@given(st.lists(PATHS, min_size=1, max_size=12, unique=True), st.data(), st.sampled_from([2, 3]))
def test_git_reads_it_as_its_own(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], data: st.DataObject, version: int
) -> None:
    box = make_box(tmp_path_factory.mktemp("index") / "repo")
    for path in paths:
        if not any(other != path and other.startswith(f"{path}/") for other in paths):
            box.write(path, path)
    box.git("update-index", "--index-version", str(version))
    box.commit()
    there = box.git("ls-files", "-z").split("\0")[:-1]
    changed = data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=3, unique=True))
    replaced(box, changed)
    assert set(box.git("diff", "--cached", "--name-only", "-z").split("\0")[:-1]) == set(changed)
    holds(box)


def test_what_was_found_before_is_found_again_in_the_same_bytes_alone(box: Box) -> None:
    for path in ("a/1", "a/2", "b/c/3", "top"):
        box.write(path, path)
    box.commit()
    box.git("write-tree")  # it keeps the trees that it made
    last = replaced(box, ["a/1", "b/c/3"])
    again = replaced(box, ["a/1"], last=last, text="third")
    assert again.at is last.at  # not looked for
    wider = replaced(box, ["top", "a/2"], last=again, text="fourth")
    assert set(wider.at) == {"top", "a/2"}
    box.git(
        "update-index", "--add", "--cacheinfo", f"100644,{box.git('rev-parse', ':top').strip()},a/0"
    )  # moves the others
    box.git("checkout-index", "a/0")
    assert replaced(box, ["a/2"], last=wider, text="fifth").at["a/2"] != wider.at["a/2"]
    box.git("update-index", "a/0")
    holds(box)


@pytest.mark.parametrize("init", [(), ("--object-format=sha256",)])
def test_offsets_of_a_large_index_are_left_out(tmp_path: Path, init: tuple[str, ...]) -> None:
    box = make_box(tmp_path / "repo", *init)
    for number in range(300):
        box.write(f"d{number % 7}/{number}", str(number))
    box.git("config", "index.threads", "2")
    box.git("config", "index.recordEndOfIndexEntries", "true")
    box.git("config", "index.recordOffsetTable", "true")
    box.commit()
    assert b"EOIE" in (box.path / ".git/index").read_bytes()
    replaced(box, ["d3/10", "README.md"])
    holds(box)


@pytest.mark.parametrize(
    "words",
    [
        ("update-index", "--index-version", "4"),
        ("update-index", "--split-index"),
        ("update-index", "--assume-unchanged", "README.md"),
        ("update-index", "--skip-worktree", "src/app.py"),
        ("update-index", "--force-remove", "README.md"),
        ("update-index", "--fsmonitor"),
    ],
)
def test_what_is_not_plain_is_left_to_git(box: Box, words: tuple[str, ...]) -> None:
    box.git(*words)
    assert objects.entries((box.path / ".git/index").read_bytes(), ["README.md"], 20) is None


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_index_is_left_to_git(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    box = make_box(tmp_path_factory.mktemp("damaged") / "repo")
    data = bytearray((box.path / ".git/index").read_bytes())
    at %= len(data)
    if data[at] != byte:
        data[at] = byte
        assert objects.entries(bytes(data), ["README.md"], 20) is None
    assert objects.entries(bytes(data[:at]), ["README.md"], 20) is None


@pytest.mark.parametrize("path", ["src/app.py", "src", "src/app.py/x", "README.md/a/b"])
def test_a_path_that_the_index_has_is_not_free(box: Box, path: str) -> None:
    assert objects.entries((box.path / ".git/index").read_bytes(), ["README.md"], 20, free=[path]) is None


@pytest.mark.parametrize("path", ["src/app.pyx", "src/app", "sr", "app.py", "src.py/app.py"])
def test_a_path_that_only_looks_like_one_of_the_index_is_free(box: Box, path: str) -> None:
    data = (box.path / ".git/index").read_bytes()
    known = objects.entries(data, ["README.md"], 20)
    assert objects.entries(data, ["README.md"], 20, known, free=[path]) == known
    box.write("src/app.py", "theirs")
    box.git("update-index", "-z", "--index-info", data="".join(
        f"100644 {box.git('rev-parse', 'HEAD:src/app.py').strip()} {stage}\tsrc/app.py\0" for stage in (2, 3)
    ))  # fmt: skip
    assert objects.entries((box.path / ".git/index").read_bytes(), ["README.md"], 20, free=[path]) is None
