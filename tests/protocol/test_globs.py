"""Globs mean what they say, compared with a matcher that tries everything; and no path makes them slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.protocol import globs


def fits(glob: str, path: str) -> bool:
    return globs.compiled([globs.path_pattern(glob)]).fullmatch(path) is not None


def fits_name(glob: str, name: str) -> bool:
    return globs.compiled([globs.name_pattern(glob)]).fullmatch(name) is not None


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("migrations/**", ["migrations/1.sql", "migrations/a/b", "migrations"], ["migrations2/a", "a/migrations/b"]),
        ("migrations", ["migrations", "migrations/1.sql"], ["migrations2", "a/migrations"]),
        ("*.sql", ["a.sql", ".sql"], ["a/b.sql", "a.sql/b"]),
        ("**/*.sql", ["a.sql", "a/b.sql", "a/b/c.sql"], ["a.sqlx", "a.sql/b"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c", "a/b/c/d"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["a", "ac", "a/b/cd"]),
        ("a/**/b/**/c", ["a/b/c", "a/x/b/y/c", "a/b/b/c"], ["a/c", "a/c/b"]),
        ("**/b/**", ["b", "a/b", "b/c", "a/b/c"], ["ab/c", "a/bc"]),
        ("**", ["a", "a/b"], []),
        ("?.py", ["a.py"], ["ab.py", "/.py", ".py"]),
        (".github/**", [".github/workflows/ci.yml"], ["x.github/a", "github/a"]),
        ("a+(b)|c", ["a+(b)|c"], ["c", "aab"]),
        ("src/*", ["src/.hidden", "src/a\nb"], ["src/a/b"]),
    ],
)
def test_what_a_path_glob_names(glob: str, yes: list[str], no: list[str]) -> None:
    assert globs.wrong_path(glob) is None
    assert [path for path in yes if not fits(glob, path)] == []
    assert [path for path in no if fits(glob, path)] == []


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("mcp:docs/*", ["mcp:docs/get", "mcp:docs/a/b", "mcp:docs/"], ["mcp:doc/get", "xmcp:docs/a"]),
        ("*release*", ["release", "pre-release-2"], ["relase"]),
        ("deploy_prod", ["deploy_prod"], ["deploy_prod2", "Deploy_prod"]),
        ("g?t", ["git", "got"], ["gt", "giit"]),
    ],
)
def test_what_a_name_glob_names(glob: str, yes: list[str], no: list[str]) -> None:
    assert globs.wrong(glob) is None
    assert [name for name in yes if not fits_name(glob, name)] == []
    assert [name for name in no if fits_name(glob, name)] == []


@pytest.mark.parametrize(
    "glob",
    [
        "",
        " ",
        "/a",
        "a/",
        "a//b",
        "./a",
        "a/../b",
        "~/a",
        "!a",
        "a[b]",
        "{a,b}",
        "a\\b",
        "a**",
        "**a/b",
        "a\nb",
        "x" * 501,
    ],
)
def test_what_would_mean_something_else_elsewhere_is_refused(glob: str) -> None:
    assert globs.wrong_path(glob) is not None


def slow(glob: list[str], path: list[str]) -> bool:
    """The same by trying everything."""
    if not glob:
        return not path
    if glob[0] == "**":
        return slow(glob[1:], path) or (bool(path) and slow(glob, path[1:]))
    return bool(path) and slow_segment(glob[0], path[0]) and slow(glob[1:], path[1:])


def slow_segment(glob: str, text: str) -> bool:
    if not glob:
        return not text
    if glob[0] == "*":
        return slow_segment(glob[1:], text) or (bool(text) and slow_segment(glob, text[1:]))
    return bool(text) and (glob[0] in ("?", text[0])) and slow_segment(glob[1:], text[1:])


segments = st.text("ab*?", min_size=1, max_size=4).filter(lambda text: "**" not in text) | st.just("**")


@settings(max_examples=600)
@given(
    st.lists(segments, min_size=1, max_size=5), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5)
)
def test_globs_agree_with_trying_everything(glob: list[str], path: list[str]) -> None:
    written = "/".join(glob)
    below = set("*?") & set(written)
    wanted = slow(glob, path) if below else path[: len(glob)] == glob
    assert fits(written, "/".join(path)) is wanted


@settings(max_examples=400)
@given(st.text("ab/*?", min_size=1, max_size=7).filter(lambda text: "**" not in text), st.text("ab/", max_size=7))
def test_name_globs_agree_with_trying_everything(glob: str, name: str) -> None:
    assert fits_name(glob, name) is slow_segment(glob, name)


@pytest.mark.parametrize(
    "glob", ["**/*a*a*a*a*a*b", "**/a/**/a/**/a/**/b", "**/*a*/**/*a*/**/*a*b", "*" + "?a*" * 20 + "b"]
)
@pytest.mark.parametrize(
    "path", ["a" * 4000, "a/" * 1500 + "a", ("a" * 50 + "/") * 70 + "a"], ids=["long", "deep", "both"]
)
def test_no_path_makes_a_glob_slow(glob: str, path: str) -> None:
    began = time.process_time()
    assert not fits(glob, path)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("one", "other"), [("Migrations", "migrations"), ("e\u0301", "\xe9"), ("a\u200bb", "ab"), ("STRASSE", "straße")]
)
def test_names_that_a_file_system_may_take_for_one(one: str, other: str) -> None:
    assert globs.fold(one) == globs.fold(other)


def test_what_stands_above() -> None:
    assert globs.could_hold("scripts/ci/**", "scripts") and globs.could_hold("a/*/c", "a/x")
    assert not globs.could_hold("scripts/ci/**", "scripts/ci")
    assert not globs.could_hold("scripts/ci/**", "script") and not globs.could_hold("**/AGENTS.md", "a")
