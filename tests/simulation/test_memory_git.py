"""The git in memory says what real git says: the same operations on both, chosen by a seed, through the runner's own code."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RunnerError
from runner.git import BLOB, Git, Ident, TreeEntry
from runner.store import workspace
from runner.store.environment import Clone, Environment, StateDir
from runner.store.remote import Mirror
from runner.store.workspace import Workspace
from tests.simulation.memory_git import Line, MemoryGit, Repository

ALICE = Ident("Alice", "alice@example.test", 1_700_000_000)
PATHS = ("a.txt", "b.txt", "d/c.txt", "d/e/f.txt")
BRANCHES = ("refs/heads/one", "refs/heads/two", "refs/runner/x/three")


class Both:
    """Two clones and a remote, in memory and real, to which the same is done."""

    def __init__(self, folder: Path) -> None:
        def git(*args: str | Path) -> None:
            subprocess.run(["git", *map(str, args)], check=True, capture_output=True)

        env = Environment(
            now=lambda: 1_700_000_000.0,
            monotonic=lambda: 0.0,
            sleep=lambda seconds: None,
            random_hex=lambda count: "0" * count,
            host="host",
            pid=1,
            state_home=folder / "state",
        )
        self.remote = Repository()
        git("init", "-q", "--bare", "-b", "main", folder / "origin.git")
        self.clones: list[tuple[Git, Git]] = []
        self.mirrors: list[tuple[Mirror, Mirror]] = []
        for name in ("here", "there"):
            at = folder / name
            git("init", "-q", "--bare", "-b", "main", at)
            git(f"--git-dir={at}", "remote", "add", "origin", folder / "origin.git")
            real = Git.open(at)
            settings = {"remote.origin.url": [str(folder / "origin.git")]}
            memory = MemoryGit(Repository(settings=settings), folder / f"memory-{name}", Line(self.remote))
            self.clones.append((memory, real))
            made = [Mirror.of(Clone(one, StateDir(one.common_dir, folder / "state"), env)) for one in (memory, real)]
            assert made[0] is not None and made[1] is not None
            self.mirrors.append((made[0], made[1]))

    def say(self, number: int, ask: Callable[[Git], Any]) -> Any:
        """Ask both gits of a clone the same, and return what both say."""
        return self._same(*self.clones[number], ask)

    def mirror(self, number: int, ask: Callable[[Mirror], Any]) -> Any:
        """Ask both mirrors of a clone the same."""
        return self._same(*self.mirrors[number], ask)

    @staticmethod
    def _same(memory: Any, real: Any, ask: Callable[[Any], Any]) -> Any:
        told = []
        for one in (memory, real):
            try:
                told.append(ask(one))
            except RunnerError as error:
                told.append(type(error).__name__)
        assert told[0] == told[1]
        return told[0]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


class Doing:
    """Does things that a seed chooses, and asks about all that comes of it. `made`: the commits that each clone has."""

    def __init__(self, both: Both, seed: int) -> None:
        self.both, self.rng = both, random.Random(seed)
        self.made: list[list[str]] = [[], []]
        for number in (0, 1):
            self.commit(number, ())

    def commit(self, number: int, parents: tuple[str, ...]) -> None:
        """Make a commit that changes a file or two of its first parent's."""
        rng = self.rng
        chosen = {path: rng.choice((b"1\n", b"2\n", b"3\n", None)) for path in rng.sample(PATHS, rng.choice((1, 1, 2)))}

        def write(git: Git) -> str:
            first = git.commit(parents[0]) if parents else None
            changes: dict[str, TreeEntry | None] = {
                path: TreeEntry(BLOB, git.write("blob", text)) if text is not None else None
                for path, text in chosen.items()
            }
            tree = git.edit_tree(first.tree if first else None, changes) or git.write_tree({})
            return git.write_commit(tree, parents, ALICE, ALICE, b"made\n")

        self.made[number].append(str(self.both.say(number, write)))

    def some(self, number: int) -> str | None:
        """Choose a commit, or none."""
        return self.rng.choice(self.made[number]) if self.rng.random() < 0.9 else None

    def one(self) -> None:
        """Do one thing, and look at all refs."""
        rng, both = self.rng, self.both
        number, name = rng.randrange(2), rng.choice(BRANCHES)
        match rng.choice(("commit", "merge", "move", "move", "push", "push", "push", "fetch", "fetch", "ask", "ask")):
            case "commit":
                self.commit(number, tuple(filter(None, (self.some(number),))))
            case "merge" if len(self.made[number]) > 1:
                self.commit(number, tuple(rng.sample(self.made[number], 2)))
            case "move":
                now = both.say(number, lambda git: git.ref(name))
                changes = {name: (self.some(number), now if rng.random() < 0.8 else self.some(number))}
                if rng.random() < 0.3:
                    changes["refs/heads/other"] = (self.some(number), None)
                if any(new is not None or old is not None for new, old in changes.values()):
                    both.say(number, lambda git: git.update_refs(changes, "test"))
            case "push":
                self._push(number, name)
            case "fetch":
                patterns = rng.sample(("refs/heads/*", "refs/heads/one", "refs/runner/x/*"), 2)
                both.mirror(number, lambda mirror: mirror.fetch(*patterns))
                there = both.mirror(number, lambda mirror: mirror.refs()).values()
                self.made[number] = list(dict.fromkeys([*self.made[number], *there]))
            case _:
                self._ask(number, name)
        both.say(number, lambda git: git.refs("refs/heads/", "refs/runner/"))
        both.mirror(number, lambda mirror: mirror.refs())

    def _push(self, number: int, name: str) -> None:
        rng, both = self.rng, self.both
        there = both.mirror(number, lambda mirror: mirror.refs())
        old = there.get(name) if rng.random() < 0.8 else self.some(number)
        changes = {name: (self.some(number), old)}
        if rng.random() < 0.4:
            kept = there.get("refs/heads/kept")
            changes["refs/heads/kept"] = (kept, kept) if kept and rng.random() < 0.5 else (self.some(number), kept)
        if all(new is not None or old is not None for new, old in changes.values()):
            both.mirror(number, lambda mirror: mirror.push(changes))

    def _ask(self, number: int, name: str) -> None:
        both, real = self.both, self.both.clones[number][1]
        one, other = (self.some(number) or self.made[number][0] for _ in range(2))
        both.say(number, lambda git: git.is_ancestor(one, other))
        both.say(number, lambda git: git.first_parents(one, stop=other))
        both.say(number, lambda git: (git.files(one), git.files(one, "d"), git.files(other, "a.txt")))
        both.say(number, lambda git: git.changed(one, other))
        code, out, _ = real.try_run("merge-base", "--all", one, other)
        if len(out.split()) <= 1:  # which one of several git names is its own affair
            both.say(number, lambda git: git.merge_base(one, other))
        if code == 0:
            both.say(number, lambda git: git.merge_trees(one, other))
        asked = (f"{one}:d/c.txt", f"{one}^{{tree}}", name, f"{name}:a.txt", "refs/heads/none", "0" * 40)
        both.say(number, lambda git: [git.object(each) for each in asked])
        both.say(number, lambda git: (git.blobs(asked), git.sizes(asked), [git.resolve(each) for each in asked]))


def go(both: Both, seed: int, count: int) -> None:
    """Do `count` things that a seed chooses."""
    doing = Doing(both, seed)
    for _ in range(count):
        doing.one()


def test_of_several_merge_bases_a_merge_is_what_it_begins_at(both: Both) -> None:
    """A merge that somebody amended, and what others did on top of it as it was: both have the same two parents (seed 4303465148)."""

    def written(parents: tuple[str, ...], **files: bytes) -> str:
        def write(git: Git) -> str:
            tree = git.edit_tree(None, {name: TreeEntry(BLOB, git.write("blob", text)) for name, text in files.items()})
            return git.write_commit(str(tree), parents, ALICE, ALICE, b"made\n")

        return str(both.say(0, write))

    root = written((), a=b"1\n", b=b"1\n")
    one, other = written((root,), a=b"2\n", b=b"1\n"), written((root,), a=b"1\n", b=b"2\n")
    merged = written((one, other), a=b"2\n", b=b"2\n")
    amended = written((one, other), a=b"2\n", b=b"2\n", more=b"more\n")
    after = written((merged,), a=b"3\n", b=b"3\n")
    tree, conflicts = both.say(0, lambda git: git.merge_trees(after, amended))
    assert conflicts == []
    assert set(both.say(0, lambda git: git.files(tree))) == {"a", "b", "more"}


def test_it_says_what_git_says(both: Both) -> None:
    go(both, 0, 20)


@pytest.mark.slow
@pytest.mark.window(3)
@pytest.mark.parametrize("seed", range(1, 7))
def test_it_says_what_git_says_whatever_is_done(both: Both, seed: int) -> None:
    go(both, seed, 80)


@pytest.mark.slow
def test_a_workspace_is_made_and_looked_through_as_git_does(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runner.store.objects.lend", lambda *_: None
    )  # what of the repository's objects it has is git's alone
    env = both.mirrors[0][0].env

    def work(git: Git) -> list[Any]:
        kind = "memory" if isinstance(git, MemoryGit) else "real"
        space = Workspace(Clone.of(git, env), tmp_path / f"work-{kind}")
        files = {"a.txt": b"a\n", "d/b.txt": b"b\n", "run": b"#!/bin/sh\n"}
        tree = git.edit_tree(None, {path: TreeEntry(BLOB, git.write("blob", data)) for path, data in files.items()})
        assert tree is not None
        start = git.write_commit(tree, (), ALICE, ALICE, b"begin\n")
        workspace.reset(space, start, "0001-x")
        (space.work / "a.txt").write_text("changed\n")
        (space.work / "d/b.txt").unlink()
        (space.work / "new").mkdir()
        (space.work / "new/c.txt").write_text("c\n")
        (space.work / "run").chmod(0o755)
        (space.work / "__pycache__").mkdir()
        (space.work / "__pycache__/x.pyc").write_text("x")
        now = workspace.tree_now(space)
        found = workspace.collect(space, start, ())
        workspace.restore(space, tree)
        again = workspace.tree_now(space)
        workspace.reset(space, start, "0001-x")
        left = sorted(str(path.relative_to(space.work)) for path in space.work.rglob("*") if ".git" not in path.parts)
        return [start, now, found, again, left]

    both.say(0, work)
