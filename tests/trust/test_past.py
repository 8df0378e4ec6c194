"""What the chain tells of words and of who wrote them, and a manifest of a whole tree, each against what git says of it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.protocol import paths
from runner.trust.manifest import Contents
from runner.trust.transitions import Distances, History, unnumbered
from tests.conftest import Box, command


@pytest.fixture
def branched(box: Box) -> tuple[Box, str]:
    """A protocol's branch with edits of its words, a side branch that has more of them, a merge of both and one from main."""
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    own = f".protocols/{protocol}"

    def commit(name: str, text: str | None, said: str) -> None:
        path = box.path / own / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text) if text is not None else path.unlink()
        box.git("add", "-A")
        box.git("commit", "-qm", said)

    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("checkout", "-q", protocol)
    commit("approvals/one.approval", "a word\n", "a word")
    box.git("checkout", "-qb", "side")
    commit("02-b.md", "---\ntitle: B\n---\nby the side\n", "the side's b")
    commit("context.md", "the side's\n", "the side's context")
    box.git("checkout", "-q", protocol)
    commit("03-b.md", "---\ntitle: B\n---\nmoved\n", "b, numbered anew")
    commit("approvals/two.approval", "another\n", "another word")
    box.git("merge", "-q", "--no-commit", "-s", "ours", "side")
    commit("02-b.md", "---\ntitle: B\n---\nof neither\n", "a merge that writes b")
    commit("approvals/two.approval", None, "a word taken away")
    commit("approvals/two.approval", "another\n", "and put back")
    commit("approvals/three.approval", "a third\n", "a third word")
    box.git("checkout", "-q", "main")
    (box.path / "more.txt").write_text("more\n")
    box.git("add", "-A")
    box.git("commit", "-qm", "main goes on")
    box.git("checkout", "-q", protocol)
    box.git("merge", "-q", "-m", "main", "main")
    commit("plan.md", (box.path / own / "plan.md").read_text() + "More.\n", "plan")
    return box, protocol


def by_git(box: Box, protocol: str, tip: str, genesis: str) -> dict[str, set[str]]:
    """Return commit to words of people's, as git tells it of the whole range."""
    args = ("log", "--full-history", "-c", "--no-renames", "--format=%x01%H", "--name-only", tip, f"^{genesis}^")
    told: dict[str, set[str]] = {}
    for part in box.git(*args, "--", f".protocols/{protocol}").split("\x01")[1:]:
        oid, *files = part.split()
        names = [file.removeprefix(f".protocols/{protocol}/") for file in files]
        told[oid] = {unnumbered(name) for name in names if paths.is_plan_file(name)}
    return told


def test_who_wrote_what_is_what_git_says_at_every_commit(branched: tuple[Box, str]) -> None:
    box, protocol = branched
    with Git.open(box.path) as git:
        past = History.walked(git, protocol, box.git("rev-parse", protocol).strip())
        for tip in past.order:
            told = by_git(box, protocol, tip, past.order[0])
            for name in ("plan.md", "context.md", "-a.md", "-b.md"):
                wrote = {commit.oid for commit in past.wrote({name}, tip)}
                assert wrote == {oid for oid, names in told.items() if name in names}, (tip, name)
        subjects = [commit.message.split(b"\n")[0].decode() for commit in past.wrote({"-b.md"}, past.order[-1])]
        assert subjects[:2] == ["a merge that writes b", "the side's b"] and len(subjects) == 4


def test_a_file_name_does_not_name_another_author(branched: tuple[Box, str]) -> None:
    box, protocol = branched
    innocent = box.git("rev-parse", "main").strip()
    box.git("checkout", "-qb", "odd", protocol)
    odd = box.path / f".protocols/{protocol}/00\x01{innocent}"
    odd.write_text("x\n")
    (box.path / f".protocols/{protocol}/05-odd.md").write_text("---\ntitle: odd\n---\n")
    box.git("add", "-A")
    box.git("commit", "-qm", "the odd one")
    odd.unlink()
    box.git("commit", "-qam", "tidy")
    box.git("checkout", "-q", protocol)
    box.git("merge", "-q", "--no-ff", "-m", "merge", "odd")
    with Git.open(box.path) as git:
        tip = box.git("rev-parse", protocol).strip()
        wrote = History.walked(git, protocol, tip).wrote({unnumbered("05-odd.md")}, tip)
    assert [commit.message for commit in wrote] == [b"the odd one\n"]


def test_when_a_word_came_is_told_where_one_commit_alone_touched_it(branched: tuple[Box, str]) -> None:
    box, protocol = branched
    folder = f".protocols/{protocol}/approvals"
    with Git.open(box.path) as git:
        past = History.walked(git, protocol, box.git("rev-parse", protocol).strip())
        for tip in past.order:
            for name in ("one", "two", "three"):
                path = f"{folder}/{name}.approval"
                told = box.git(
                    "log", "--first-parent", "-m", "--no-renames", "--format=%H", "--name-status", tip, "--", path
                )
                touched = re.findall(r"([0-9a-f]{40})\n\n?([AMD])\t", told)
                alone = touched[0][0] if len(touched) == 1 and touched[0][1] == "A" else None
                assert past.added(path, tip) == alone, (tip, name)
        assert past.added(f"{folder}/two.approval", past.order[-1]) is None


def test_the_chain_below_a_commit(branched: tuple[Box, str]) -> None:
    box, protocol = branched
    with Git.open(box.path) as git:
        past = History.walked(git, protocol, box.git("rev-parse", protocol).strip())
    newest = past.order[-1]
    below = Distances(past, past.order[-3])
    assert list(below) == past.order[-3::-1] and len(below) == len(past.order) - 2
    assert list(below.values()) == list(range(len(below))) and newest not in below and "0" * 40 not in below
    first = box.git("rev-list", "--first-parent", f"{past.order[0]}^..{protocol}").split()
    assert list(Distances(past, newest)) == first


ODD = ("a.b", "a/x", "a0", "a-b", "a/b/c.txt", "ä", "tab\there", "z/\udcff.bin", "Ü/y", 'quo"te', "a/b-c", "a/b.d")


def manifest_by_git(box: Box, tree: str, protocol: str) -> bytes:
    """Return the lines as `docs/approvals.md` makes them: of `ls-tree`, sorted by the bytes of the path."""
    out = subprocess.run(["git", "ls-tree", "-r", "-z", tree], cwd=box.path, capture_output=True, check=True).stdout
    lines = []
    for line in filter(None, out.split(b"\0")):
        meta, _, path = line.partition(b"\t")
        mode, kind, oid = meta.decode().split()
        name = path.decode("utf-8", "surrogateescape")
        if name.startswith((f".protocols/{protocol}/state.json", f".protocols/{protocol}/log.md")):
            continue
        data = subprocess.run(["git", "cat-file", kind, oid], cwd=box.path, capture_output=True, check=True).stdout
        lines.append((path, f"{mode} {hashlib.sha256(data).hexdigest()} {len(data)} {json.dumps(name)}\n".encode()))
    return b"".join(line for _, line in sorted(lines))


def test_the_lines_of_a_tree_are_git_s_sorted_by_path_and_again_after_a_change(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.git("checkout", "-q", "--detach", protocol)

    def put(name: str, data: bytes) -> None:
        path = Path(box.path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    for number, name in enumerate(ODD):
        put(name, b"%d\n" % (number // 2))
    Path(box.path, "link").symlink_to("a.b")
    Path(box.path, "a0").chmod(0o755)
    with Git.open(box.path) as git:
        contents = Contents(git, protocol)
        trees = []
        for change in (None, ("a/b/c.txt", b"changed\n"), ("a/b.d", b"too\n"), ("new/deep/er.txt", b"new\n")):
            if change is not None:
                put(*change)
            box.git("add", "-A")
            trees.append(box.git("write-tree").strip())
        for tree in (*trees, *reversed(trees), *trees):
            assert contents.tree(tree) == manifest_by_git(box, tree, protocol)


def test_a_tree_that_is_not_here_is_said_to_be_missing(box: Box) -> None:
    with Git.open(box.path) as git, pytest.raises(InsufficientHistoryError, match="is not in this clone"):
        Contents(git, "0001-a").tree("1" * 40)
