"""`runner list` and what it is narrowed to."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.git import Tree, database
from runner.git.database import LONG
from runner.git.objects import parse_tree
from runner.store import lookup
from tests.conftest import Box, command


@pytest.fixture
def four(box: Box) -> dict[str, str]:
    """A protocol that is ready, one that failed, one to be merged and one that is merged."""
    made = {
        name: box.new({"01-a": command(run)}, title=name)
        for name, run in (("ready", "true"), ("failed", "false"), ("done", "echo a > a"), ("merged", "echo b > b"))
    }
    box.runner("run", made["failed"], rc=1)
    for name in ("done", "merged"):
        box.runner("run", made[name], rc=0)
    box.runner("merge", made["merged"], rc=0)
    return made


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ([], {"ready", "failed", "done", "merged"}),
        (["--open"], {"ready", "failed", "done"}),
        (["--ready"], {"ready"}),
        (["--waiting"], {"failed", "done"}),
    ],
)
def test_a_list_is_narrowed_to_what_is_asked_for(
    box: Box, four: dict[str, str], option: list[str], shown: set[str]
) -> None:
    out = box.runner("list", *option, rc=0).out
    assert {name for name in four if out and name in {line.split()[-1] for line in out.splitlines()}} == shown
    rows = box.runner("list", "--json", *option, rc=0).json()["protocols"]
    assert {row["title"] for row in rows} == shown


def test_a_list_without_a_match_says_so(box: Box) -> None:
    box.new({"01-a": command("true")})
    told = box.runner("list", "--waiting", rc=0)
    assert told.out == "" and "runner list` shows all" in told.err


@pytest.fixture
def many(box: Box, four: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same four, listed as many are: from what was kept of them."""
    monkeypatch.setattr("runner.store.record.MANY", 1)
    monkeypatch.setattr("runner.store.record._FEW", 0)
    monkeypatch.setattr("runner.app.describe.FEW", 1)
    return four


def kept(box: Box) -> Path:
    """Return where the briefs of a clone's protocols are kept."""
    return box.session().dirs.briefs


def listed(box: Box, *options: str) -> str:
    """Return the list; what is younger than an hour is of no age."""
    return re.sub(r"\d+ (s|min) +", "now ", box.runner("list", *options, rc=0).out)


def fresh(box: Box) -> str:
    """Return the list with nothing kept."""
    kept(box).unlink(missing_ok=True)
    return listed(box)


def test_a_list_that_is_kept_shows_what_it_showed(box: Box, many: dict[str, str]) -> None:
    first = fresh(box)
    assert kept(box).is_file() and len(lines_of(kept(box))) == len(many) + 2
    assert listed(box) == first
    for option in ("--open", "--ready", "--waiting"):
        warm = listed(box, option)
        kept(box).unlink()
        assert listed(box, option) == warm


def test_no_change_is_hidden_by_what_a_list_kept(box: Box, many: dict[str, str]) -> None:
    for change in (
        ("pause", many["ready"]),
        ("resume", many["ready"]),
        ("run", many["ready"]),
        ("merge", many["done"]),
        ("cancel", many["failed"]),
    ):
        box.runner("list", rc=0)
        box.runner(*change, rc=0)
        warm = listed(box)
        assert warm == fresh(box)
    word = {line.split()[-1]: line for line in warm.splitlines()}
    assert "merged" in word["done"] and "cancelled" in word["failed"] and "waits for merge" in word["ready"]


def test_a_branch_that_is_gone_or_shares_a_commit_is_listed_as_without_anything_kept(
    box: Box, many: dict[str, str]
) -> None:
    box.git("checkout", "-q", "--detach")
    box.git("branch", "-f", "main", many["merged"])  # one commit for both: main's folder and the branch's
    before = listed(box)
    assert before == fresh(box) and "on the base" not in before
    box.git("worktree", "remove", "--force", str(box.worktree(many["merged"])))
    box.git("branch", "-qD", many["merged"])
    after = listed(box)
    assert after == fresh(box) and "on the base" in after
    box.git("branch", many["merged"], "main")
    assert listed(box) == before


def test_a_held_protocol_works_in_a_list_that_is_kept(box: Box, many: dict[str, str]) -> None:
    before = listed(box)
    path = box.session().dirs.lock(many["ready"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "works" in listed(box)
    assert listed(box) == before


def lines_of(path: Path) -> list[str]:
    return path.read_text().split("\n")


SPOILT: tuple[Callable[[list[str]], list[str]], ...] = (
    lambda lines: ["0", *lines[1:]],  # another version's
    lambda lines: [*lines[:1], *(line.partition("\t")[0] for line in lines[1:-1]), lines[-1]],
    lambda lines: [*lines[:1], *(line.rpartition("\t")[0] for line in lines[1:-1]), lines[-1]],
    lambda lines: [*lines[:1], *(line.replace("\t0\t", "\tx\t") for line in lines[1:-1]), lines[-1]],
    lambda lines: [*lines[:1], *(line.replace("\t", "", 1) for line in lines[1:-1]), lines[-1]],
    lambda lines: lines[:-1],
    lambda lines: [],
)


def test_what_was_not_kept_by_this_version_is_read_anew(box: Box, many: dict[str, str]) -> None:
    right = fresh(box)
    for spoil in SPOILT:
        kept(box).write_text("\n".join(spoil(lines_of(kept(box)))))
        assert listed(box) == right
    kept(box).write_bytes(kept(box).read_bytes()[:-20])
    assert listed(box) == right
    kept(box).write_bytes(kept(box).read_bytes() + b"\xff")
    assert listed(box) == right
    kept(box).unlink()
    kept(box).mkdir()  # it cannot be written
    assert listed(box) == right


def test_a_record_that_cannot_be_read_is_not_kept_so(box: Box, many: dict[str, str]) -> None:
    right, record = fresh(box), f"{many['ready']}:.protocols/{many['ready']}/state.json"
    kept(box).unlink()
    oid = box.git("rev-parse", record).strip()
    file = box.path / ".git/objects" / oid[:2] / oid[2:]
    data = file.read_bytes()
    file.unlink()
    box.runner("list")
    file.write_bytes(data)
    assert listed(box) == right


def git_calls(box: Box) -> list[str]:
    """Return the git commands that `list` starts, each by its name and first option."""
    folder, log = box.path.parent / "logged", box.path.parent / "git-calls"
    folder.mkdir(exist_ok=True)
    (folder / "git").write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("git")} "$@"\n')
    (folder / "git").chmod(0o755)
    log.write_text("")
    box.runner("list", rc=0, env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})
    return re.findall(r"(?:^| )(for-each-ref|rev-list|cat-file --[a-z-]+)", log.read_text(), re.MULTILINE)


def test_refs_are_read_once_and_records_by_one_git_if_they_are_new(
    box: Box, many: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.git.database.FEW", 1)
    kept(box).unlink(missing_ok=True)
    warm = ["cat-file --batch-command", "for-each-ref"]
    assert sorted(git_calls(box)) == ["cat-file --batch", *warm, "rev-list"]
    assert sorted(git_calls(box)) == warm
    box.runner("run", many["ready"], rc=0)
    assert sorted(git_calls(box)) == [*warm, "rev-list"]  # one record: the git that is there reads it


def test_one_among_many_folders_is_shown_and_their_tree_is_not_parsed(
    box: Box, four: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tree of many folders a command that is about one protocol reads the entries that have its number."""
    record = box.git("show", f"main:.protocols/{four['merged']}/state.json")
    for name in ["0004-other", "00004-another", "0044-not", *(f"{number:04d}-old" for number in range(100, 300))]:
        box.write(f".protocols/{name}/state.json", record.replace(four["merged"], name))
    box.commit("many folders")
    parsed = list[int]()

    def parse(data: bytes, oid_length: int) -> Tree:
        parsed.append(len(data))
        return parse_tree(data, oid_length)

    monkeypatch.setattr(database, "parse_tree", parse)
    assert "`4` is ambiguous: 00004-another, 0004-merged, 0004-other" in box.runner("status", "4").err
    assert box.runner("status", "200", rc=0).out.startswith("0200-old  merged\n  completed · merged")
    assert box.runner("status", four["done"], rc=0).out.count("waits for merge") == 1
    assert box.runner("status", four["merged"], rc=0).out.count("completed · merged") == 1
    assert parsed and max(parsed) < LONG
    with box.session() as session:
        assert len(lookup.known(session.project)) == 4 + 3 + 200
        assert list(lookup.known(session.project, 4)) == ["00004-another", "0004-merged", "0004-other"]
    assert max(parsed) > LONG
