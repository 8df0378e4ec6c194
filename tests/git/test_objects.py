"""Objects that no git would have written: taken as git takes them, or refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.git import Git
from runner.git.objects import (
    SUBMODULE,
    TREE,
    LongTree,
    TreeEntry,
    entries_starting,
    parse_commit,
    parse_tree,
    tree_bytes,
    tree_bytes_with,
)
from runner.git.process import GitError
from tests import second_verifier

SECOND: Any = second_verifier.Repo
OID = "a" * 40
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def git(path: Path, *words: str, data: bytes = b"") -> bytes:
    return subprocess.run(["git", *words], cwd=path, input=data, capture_output=True, check=True).stdout


def written(path: Path, kind: str, data: bytes) -> str:
    return git(path, "hash-object", "-t", kind, "-w", "--literally", "--stdin", data=data).decode().strip()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    return tmp_path


@pytest.mark.parametrize(
    "mode",
    ["100644", "100664", "100755", "100700", "120000", "0120000", "120777", "40000", "040000", "40755", "160000", "00", "7", "10644"],
)  # fmt: skip
def test_a_mode_is_the_one_that_git_takes_it_for(empty: Path, mode: str) -> None:
    oid = written(empty, "tree", f"{mode} a\0".encode() + bytes.fromhex(OID))
    told = git(empty, "ls-tree", oid).decode().split()[0]
    with Git.open(empty) as opened:
        assert opened.tree(oid) == {"a": TreeEntry(told.removeprefix("0"), OID)}
    second = SECOND(empty / ".git")
    assert second.get(oid) == {"a": (told.removeprefix("0"), OID)}
    second.cat.communicate()


@pytest.mark.parametrize(
    "data",
    [b"x", b"100644 a\0" + b"\1" * 19, b"100644 \0" + b"\1" * 20, b"100644 a/b\0" + b"\1" * 20, b"40000 ..\0" + b"\1" * 20,
     b"\xff a\0" + b"\1" * 20, b"100648 a\0" + b"\1" * 20, (b"100644 a\0" + b"\1" * 20) * 2],
)  # fmt: skip
def test_a_tree_that_is_none(data: bytes) -> None:
    with pytest.raises(GitError):
        parse_tree(data, 40)
    with pytest.raises(GitError):
        entries_starting(data, 40, ["a", "."])


@pytest.mark.parametrize(
    "data", [b"x", b"100644 a\0" + b"\1" * 19, b"100644 \0" + b"\1" * 20, b"\xff a\0" + b"\1" * 20]
)
def test_a_tree_that_cannot_be_read_has_no_entries_that_start_so(data: bytes) -> None:
    with pytest.raises(GitError):
        entries_starting(data, 40, ["b"])


@given(
    st.dictionaries(
        st.text("ab01-é\udc80\n ", min_size=1, max_size=6), st.binary(min_size=20, max_size=20), max_size=30
    ),
    st.lists(st.text("ab01-é\udc80.[", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_the_entries_that_start_so_are_those_of_all_entries(ids: dict[str, bytes], starts: list[str]) -> None:
    tree = {name: TreeEntry(TREE, oid.hex()) for name, oid in ids.items()}
    data = tree_bytes(tree)
    wanted = {name: entry for name, entry in parse_tree(data, 40).items() if name.startswith(tuple(starts))}
    assert entries_starting(data, 40, starts) == wanted


def test_an_id_that_spells_an_entry_is_none() -> None:
    """The id of a submodule is what somebody likes."""
    spelt = (b"40000 0007-x\0" + b"\1" * 20)[:20]
    data = tree_bytes({"0006-a": TreeEntry(SUBMODULE, spelt.hex()), "0008-b": TreeEntry(TREE, OID)})
    assert spelt in data
    assert entries_starting(data, 40, ["0007-"]) == {}
    assert list(entries_starting(data, 40, ["0006-", "0008-"])) == ["0006-a", "0008-b"]


def test_a_tree_of_odd_names_is_written_as_it_was() -> None:
    data = b"".join(b"100644 " + name + b"\0" + b"\1" * 20 for name in (b"\n", b" ", b"a b", b"\xff"))
    assert tree_bytes(parse_tree(data, 40)) == data


ENTRIES = st.builds(
    TreeEntry, st.sampled_from(["100644", "100755", "120000", TREE]), st.binary(min_size=20, max_size=20).map(bytes.hex)
)
NAMES = st.text("ab.-é\udcff", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


@given(st.dictionaries(NAMES, ENTRIES, min_size=1), st.data())
def test_other_ids_at_some_names_make_the_tree_that_is_sorted_anew(
    tree: dict[str, TreeEntry], data: st.DataObject
) -> None:
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(tree)), ENTRIES))
    made = tree_bytes_with(tree_bytes(tree), {name: (tree[name], new) for name, new in changes.items()})
    if any(tree[name].mode != new.mode for name, new in changes.items()):
        assert made is None
    else:
        assert made == tree_bytes({**tree, **changes})


def test_ids_that_spell_an_entry_are_not_taken_for_it() -> None:
    row = b"100644 b\0"
    tree = {
        "a": TreeEntry("100644", (b"\1" * 11 + row).hex()),
        "b": TreeEntry("100644", (row * 3)[:20].hex()),
    }
    assert tree_bytes(tree).index(row + bytes.fromhex(tree["b"].oid)) < 9 + 20  # in what is a's
    assert tree_bytes_with(tree_bytes(tree), {"b": (tree["b"], TreeEntry("100644", OID))}) is None


@pytest.mark.parametrize("change", [(None, TreeEntry("100644", OID)), (TreeEntry("100644", OID), None)])
def test_a_name_that_comes_or_goes_is_sorted_anew(change: tuple[TreeEntry | None, TreeEntry | None]) -> None:
    assert tree_bytes_with(tree_bytes({"a": TreeEntry("100644", OID)}), {"b": change}) is None


@pytest.mark.parametrize(
    "head",
    ["", "\n", "author A <a> 1 +0000\n", f" tree {EMPTY}\n", f"tree {EMPTY[:-1]}\n", "tree HEAD\n", f"tree {EMPTY}",
     f"tree {EMPTY}\nparent HEAD\n", f"tree {EMPTY}\nparent {OID}\nparent {OID} \n"],
)  # fmt: skip
def test_a_commit_that_git_cannot_read_is_refused(empty: Path, head: str) -> None:
    data = f"{head}author A <a@x.test> 1 +0000\ncommitter A <a@x.test> 1 +0000\n\nm\n".encode()
    oid = written(empty, "commit", data)
    with pytest.raises(subprocess.CalledProcessError):
        git(empty, "rev-list", "-1", oid)
    with Git.open(empty) as opened:
        opened.warm([oid])
        with pytest.raises(GitError, match="its tree and its parents"):
            opened.commit(oid)


def test_a_commit_is_its_tree_and_its_first_parents() -> None:
    found = parse_commit(OID, f"tree {EMPTY}\nparent {OID}\nauthor A\nparent {'b' * 40}\n\nm\n\nn".encode())
    assert (found.tree, found.parents, found.author, found.message) == (EMPTY, (OID,), b"A", b"m\n\nn")
    assert not found.plain and parse_commit(OID, f"tree {EMPTY}\n\nm".encode()).parents == ()


def test_a_line_that_goes_on_from_no_signature_is_not_plain() -> None:
    signed = "gpgsig -----BEGIN\n more\n -----END\n"
    for extra, plain in (("", True), (signed, True), (" hidden\n", False), (f"{signed}encoding x\n hidden\n", False)):
        head = f"tree {EMPTY}\nauthor A\ncommitter B\n{extra}"
        assert parse_commit(OID, f"{head}\nm".encode()).plain is plain
    assert not parse_commit(OID, f"tree {EMPTY}\n hidden\nauthor A\ncommitter B\n\nm".encode()).plain


def test_an_object_that_is_broken_stops_a_burst_of_questions_and_nobody_waits_for_ever(empty: Path) -> None:
    """git ends at it, its answers to those before still unread."""
    good = [written(empty, "blob", f"{number}\n".encode()) for number in range(3)]
    broken = written(empty, "blob", b"x" * 1000)
    path = empty / ".git/objects" / broken[:2] / broken[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:20])
    with Git.open(empty) as repository:
        answers = repository._answers([*good, broken, good[0]], repository._reader())
        assert next(answers) == (good[0], "blob", b"0\n")
        repository._held["read"].process.wait()
        assert [next(answers), next(answers)] == [(good[1], "blob", b"1\n"), (good[2], "blob", b"2\n")]
        with pytest.raises(GitError, match=r"stream|corrupt"):
            next(answers)
        assert repository.blob(good[0]) == b"0\n"


SEVERAL = st.lists(
    st.text("abc-.", min_size=1, max_size=6).filter(lambda name: name.strip(".")), min_size=1, max_size=12, unique=True
)
SOME_IDS = st.sampled_from(
    ["0" * 40, "61" * 20, "31303036343420" * 2 + "0" * 12, OID]
)  # the second and third read like names and modes


@given(st.data())
def test_the_next_version_of_a_long_tree_is_read_as_the_whole_of_it(data: Any) -> None:
    def tree() -> bytes:
        rows = [
            f"{data.draw(st.sampled_from(['100644', '40000']))} {name}\0".encode() + bytes.fromhex(data.draw(SOME_IDS))
            for name in names
        ]
        return b"".join(rows)

    names = data.draw(SEVERAL)
    first, other = tree(), tree()
    if data.draw(st.booleans()):
        names = data.draw(SEVERAL)
        other = tree()
    if len(first) != len(other) or first == other:
        return
    known = LongTree(OID, first, parse_tree(first, 40), [])
    found = known.next("b" * 40, other)
    if found is None:
        assert [(name, entry.mode) for name, entry in parse_tree(other, 40).items()] != [
            (name, entry.mode) for name, entry in known.entries.items()
        ]
        return
    right = parse_tree(other, 40)
    assert list(found.entries.items()) == list(right.items())
    assert set(found.changed) == {name for name in right if right[name] != known.entries[name]}
    assert known.entries == parse_tree(first, 40)
    back = found.next(OID, first)
    assert back is not None and back.entries == known.entries


def test_versions_of_a_long_folder_differ_as_git_says(empty: Path) -> None:
    found = Git.open(empty)
    blob = [found.write("blob", b"%d" % number) for number in range(3)]
    files = {f"{number:04d}-step.md": TreeEntry("100644", blob[0]) for number in range(300)}
    trees = [found.write_tree(files)]
    for name, number in (
        ("0007-step.md", 1),
        ("0299-step.md", 1),
        ("0007-step.md", 2),
        ("new.md", 1),
        ("0000-step.md", 2),
    ):
        files = {**files, name: TreeEntry("100644", blob[number])}
        trees.append(found.write_tree(files))
    found.settle()
    fresh = Git.open(empty)
    for one in trees:
        fresh.tree(one)
    for one in trees:
        for other in trees:
            told = git(empty, "diff-tree", "--name-only", one, other).decode().split()
            assert list(fresh.changed(one, other)) == sorted(told)
            assert fresh.tree(other) == parse_tree(git(empty, "cat-file", "tree", other), 40)
