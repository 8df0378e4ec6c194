"""What lies in folders that others write in at the same time."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest

from runner.store.environment import matching


def test_paths_are_sorted_told_once_and_dot_files_are_among_them(tmp_path: Path) -> None:
    for name in ("b/.x.lock", "b/c/y.lock", "a.lock", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = matching(tmp_path, "**/*.lock", "*.lock")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.lock", "b/.x.lock", "b/c/y.lock"]
    assert matching(tmp_path, "b/**/") == [tmp_path / "b", tmp_path / "b/c"]


def test_a_folder_that_is_not_there_or_is_a_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert matching(tmp_path / "gone", "*", "**/*") == matching(tmp_path / "file", "*", "**/*") == []


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            matching(tmp_path, "*")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_with_the_signs_of_a_pattern_in_its_name_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "[ab]*").mkdir()
    (tmp_path / "[ab]*/one").touch()
    assert matching(tmp_path / "[ab]*", "*") == [tmp_path / "[ab]*/one"]


def test_folders_that_go_away_while_they_are_read_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "stays").touch()
    done = threading.Event()

    def busy() -> None:
        while not done.is_set():
            (tmp_path / "a/b").mkdir(parents=True)
            (tmp_path / "a/b").rmdir()
            (tmp_path / "a").rmdir()

    other = threading.Thread(target=busy)
    other.start()
    try:
        for _ in range(3000):
            assert tmp_path / "stays" in matching(tmp_path, "*", "*/*/*", "**/*.lock")
    finally:
        done.set()
        other.join()
