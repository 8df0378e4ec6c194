"""Which points a sweep takes: those that always count, and others at the next commit."""

from __future__ import annotations

import pytest

from tests.faults.points import Place, always, points

TRACE = [("git", call, f"/{call}/{number}") for number in range(60) for call in ("openat", "rename", "fsync")]
WHO = ("git",)


def test_a_window_has_as_many_points_as_asked_for_and_each_once() -> None:
    for turn in (None, 0, 1, 2**32 - 1):
        for limit in (1, 7, 90, 180, 999):
            found = points(TRACE, limit, WHO, turn=turn)
            assert len(found) == len(set(found)) == min(limit, len(TRACE))


def test_the_window_moves_with_the_commit_until_each_point_was_tried() -> None:
    tried: set[str] = set()
    for turn in range(60):
        tried |= set(points(TRACE, 18, WHO, turn=turn))
    assert len(tried) == len(TRACE)


def test_kinds_that_one_window_has_no_room_for_come_in_the_next() -> None:
    kinds = {points(TRACE, 1, WHO, turn=turn)[0].split(":")[1] for turn in range(3)}
    assert kinds == {"openat", "rename", "fsync"}


def test_the_points_that_matter_most_are_found_by_what_they_are_about() -> None:
    wanted = (Place("git", "rename", r"/rename/[45]$", "", last=False), Place("git", "fsync", r"/fsync/", ""))
    assert always(TRACE, wanted) == ["git:rename:5", "git:fsync:60"]


def test_a_point_that_no_run_has_any_more_is_an_error() -> None:
    with pytest.raises(AssertionError, match="the object is complete"):
        always(TRACE, (Place("git", "link", "/objects/", "the object is complete"),))
