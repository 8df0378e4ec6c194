"""The object database of a repository: read and write objects, walk histories, and compare trees.

Objects are read through one held-open `cat-file --batch-command`, written as loose ones, and those that
never change (commits, trees) are remembered. Nothing here moves a ref.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from runner.errors import InsufficientHistoryError
from runner.git.objects import (
    SUBMODULE,
    TREE,
    Commit,
    Ident,
    LongTree,
    Loose,
    Tree,
    TreeEntry,
    commit_bytes,
    entries_starting,
    parse_commit,
    parse_tree,
    read_loose,
    signed_bytes,
    tree_bytes,
    tree_bytes_with,
)
from runner.git.pack import Pack, whole
from runner.git.process import (
    GitError,
    HeldProcess,
    Location,
    PromisedError,
    Sealed,
    git_error,
    sealed_environment,
    spawn,
)
from runner.lines import lines_of
from runner.protocol.ids import OID

AHEAD = 2048  # bytes of names that are asked for in one go; twice as much fits into any pipe
FEW = 100  # blobs for which no git of their own is started
IN_TURN = 250  # blobs; with their answers they fill about half of a pipe
NEAR = 4  # commits that are looked at one by one
SIZES_AHEAD = 200  # objects whose sizes are asked for in one go: names and answers are short
COMMITS_KEPT = 4096
T = TypeVar("T")
TREES_KEPT = 50_000  # entries of trees that are remembered
LONG = 4096  # bytes from which on a tree is read by what differs from the last one of its length
LONG_KEPT = 8
SPELT_KEPT = 16  # trees whose bytes are remembered, too
ABSENT_KEPT = 1024  # paths that a commit does not have
LOOSE = 6  # objects, of one transition, that are not worth a pack of their own
MOST_PACKED = 4_000_000  # bytes of new objects that no git is started for to pack them
MOST_COLLECTED = 64 * 1024 * 1024  # bytes of a pack in the making, in memory with what it is made of


class Database(Sealed):
    """A repository's objects, with bounded caches of them."""

    def __init__(self, at: Location) -> None:
        super().__init__(at)
        self._commits: dict[str, Commit] = {}
        self._trees: dict[str, Tree] = {}
        self._kept = 0  # entries in _trees
        self._long: dict[int, LongTree] = {}  # by the number of their bytes
        self._near: dict[
            str, tuple[str, tuple[str, ...]]
        ] = {}  # a tree: another one, and the names with other ids there
        self._absent: set[str] = set()  # `COMMIT:PATH`, by a commit's id, which is for ever
        self._spelt: dict[str, bytes] = {}  # the bytes of trees that were written last, until they are edited
        self._loose: Loose | None = None
        self._pack: Pack | None = None  # what is collected
        self.packs: list[str] = []  # the names of those that were written of it, without an ending

    # --- reading -----------------------------------------------------------------------------------------------------

    def object(self, name: str) -> tuple[str, str, bytes] | None:
        """Return (oid, type, bytes) of what `name` names (an oid, `REV:PATH`, a ref), or None where it is not here.

        Raises:
            InsufficientHistoryError: a revision that is here has the path, and this clone lacks an object of it.
        """
        if name in self._absent:
            return None
        if "\n" in name:  # a path may hold what ends a line here; its trees are gone through instead
            entry = self._entry(name)
            return self.object(entry.oid) if entry is not None else None
        if self._is_collected(name):
            assert self._pack is not None
            collected = self._pack.entries[name]
            return name, collected.kind, collected.data
        if self._loose is not None:
            self._loose.settle()
        if OID.fullmatch(name) and (found := read_loose(self.common_dir / "objects", name)) is not None:
            return name, *found
        asked = b"contents " + name.encode("utf-8", "surrogateescape") + b"\n"
        try:
            answer = self._promised([name], lambda: self._answer(asked))
        except PromisedError:  # and nothing here may bring it
            answer = None
        if answer is None:
            self._refuse_lost(name)
        return answer

    def _entry(self, name: str) -> TreeEntry | None:
        """Return the entry that `REV:PATH` names, or None: no path, no such revision here, or it has no such path.

        Raises:
            InsufficientHistoryError: a tree on the way is not in this clone.
        """
        revision, colon, path = name.partition(":")
        if colon and OID.fullmatch(revision):
            self.commit(revision)  # it is kept, and what it does not have need not be asked for again
        if not colon or (revision not in self._commits and self.ref(revision) is None):
            return None
        root = revision if revision in self._commits else self.resolve(revision) or revision
        if not path:
            self.whole_tree(root)
        entry: TreeEntry | None = TreeEntry(TREE, root)
        parts = [part for part in path.split("/") if part]
        for at, part in enumerate(parts):
            if entry is None or entry.mode != TREE:
                return None
            try:
                entry = self.whole_tree(entry.oid, (part,)).get(part)
            except InsufficientHistoryError as error:
                raise self._missing_at(revision, "/".join(parts[:at])) if at else error from None
        return entry

    def _refuse_lost(self, name: str) -> None:
        """Refuse `REV:PATH` whose object is lost: a policy, a log or a day's spending must not read as one that never was.

        What a partial clone has left at a remote that may not be asked is not lost: the caller says how to fetch it.
        """
        if ":" not in name or name in self._absent or (self.fetch_promised is None and self.is_partial()):
            return
        entry = self._entry(name)
        if entry is None and name.partition(":")[0] in self._commits:
            if len(self._absent) >= ABSENT_KEPT:
                self._absent.clear()
            self._absent.add(name)
        if entry is None or entry.mode == SUBMODULE:
            return
        with contextlib.suppress(PromisedError):
            if self.ref(entry.oid) is not None:
                return
        raise self._missing_at(*name.split(":", 1))

    def _missing_at(self, revision: str, path: str) -> InsufficientHistoryError:
        short = revision[:12] if len(revision) == self.oid_length else revision
        return self.missing(f"{path or 'the tree'} of {short}")

    def missing(self, what: str) -> InsufficientHistoryError:
        """Return the error for an object that is not in this clone, with the command that brings it. `what`: names it."""
        if self.is_shallow():
            hint = "run `git fetch --unshallow`, then the same command again"
        elif self.is_partial():
            hint = "run `git fetch --refetch --no-filter`, then the same command again"
        else:
            hint = "run `git fsck` to see all that is lost, and `git fetch --refetch` where a remote has it"
        return InsufficientHistoryError(f"{what} is not in this clone", str(self.common_dir), hint)

    def _promised(self, names: Sequence[str], ask: Callable[[], T]) -> T:
        """Return what `ask` gives, once what it wants of a partial clone's remote is here. `names`: all that is asked for."""
        while True:
            try:
                return ask()
            except PromisedError as error:
                if not self._bring(error, names):
                    raise

    def _reader(self) -> HeldProcess:
        if self._loose is not None:
            self._loose.settle()
        # Nothing that git knows leads to what is collected: only a question that names it is in need of it.
        return self._hold("read", "cat-file", "--batch-command", settled=True)

    def _is_collected(self, name: str) -> bool:
        """Return whether an id is that of a collected object. For a path or the like in one all that is collected is written."""
        if self._pack is None or name[: self.oid_length] not in self._pack.entries:
            return False
        if len(name) == self.oid_length:
            return True
        self.settle()
        return False

    def _answer(self, asked: bytes, reader: HeldProcess | None = None) -> tuple[str, str, bytes] | None:
        reader = reader or self._reader()
        parts = reader.ask(asked).rsplit(b" ", 2)
        if len(parts) != 3 or not parts[2].isdigit():  # `NAME missing`, `NAME ambiguous`
            return None
        size = int(parts[2])
        data = reader.read(size + 1)
        if len(data) != size + 1:
            raise reader.died()
        return parts[0].decode(), parts[1].decode(), data[:-1]

    def blobs(self, names: Sequence[str]) -> list[bytes | None]:
        """Return what `blob` does of many names; asked for ahead of the answers."""
        found = self._objects(names)
        return [self._content(name, one, "blob") for name, one in zip(names, found, strict=True)]

    def require_all(self, names: Mapping[str, str]) -> dict[str, bytes]:
        """Return the bytes of many blobs by their names, as `require` does of one. `names`: of each, what names it in the error."""
        read: dict[str, bytes] = {}
        for (name, what), found in zip(names.items(), self._objects([*names]), strict=True):
            if found is None or found[1] != "blob":
                raise self.missing(what)
            read[name] = found[2]
        return read

    def _objects(self, names: Sequence[str]) -> list[tuple[str, str, bytes] | None]:
        """Return what `object` does of many names; asked for ahead of the answers."""
        if len(names) <= 1 or any("\n" in name or self._is_collected(name) for name in names):
            return [self.object(name) for name in names]

        def read() -> list[tuple[str, str, bytes] | None]:
            with contextlib.closing(self._answers(names, self._reader())) as answers:
                return list(answers)

        found = self._promised(names, read)
        for name, one in zip(names, found, strict=True):
            if one is None:
                self._refuse_lost(name)
        return found

    def stream(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Give what `blobs` returns one by one, by a git of its own that reads ahead while the caller works; no name has a newline."""
        if len(names) <= FEW:
            yield from self.blobs(names)
            return
        at = 0
        while at < len(names):
            try:
                for found in self._streamed(names[at:]):
                    if found is None:
                        self._refuse_lost(names[at])
                    at += 1
                    yield found
            except PromisedError as error:
                if not self._bring(error, names[at:]):
                    raise

    def _streamed(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Give the blobs, by two gits that take turns: each reads ahead as much as a pipe holds while the other is listened to."""
        self.settle()
        parts = [names[at : at + IN_TURN] for at in range(0, len(names), IN_TURN)]
        argv, env, readers = self.argv(["cat-file", "--batch", "--buffer"]), self.environment(), list[HeldProcess]()
        try:
            for turns in filter(None, (parts[::2], parts[1::2])):
                asked = "".join([f"{name}\n" for part in turns for name in part])
                readers.append(HeldProcess(argv, env, asked.encode("utf-8", "surrogateescape")))
            answers = list(map(_all_blobs, readers))
            for at, part in enumerate(parts):
                yield from islice(answers[at % 2], len(part))
        finally:
            for reader in readers:
                reader.process.kill()  # where the caller had enough, what is left is nobody's
                reader.close()

    def _answers(
        self, names: Sequence[str], reader: HeldProcess
    ) -> Generator[tuple[str, str, bytes] | None, None, None]:
        # The same reader for all: it may have died at a broken one, its answers to those before still to be read. git may be
        # busy answering while the next are asked for, so all that is under way has to fit into the smallest pipe there is.
        parts = [(b"", 0)]
        for name in names:
            line = b"contents " + name.encode("utf-8", "surrogateescape") + b"\n"
            asked, count = parts[-1]
            if count and len(asked) + len(line) > AHEAD:
                parts.append((line, 1))
            else:
                parts[-1] = asked + line, count + 1
        asked_for, whole = 0, False
        try:
            for at, (_, count) in enumerate(parts):
                while asked_for == at or (asked_for == at + 1 < len(parts) and len(parts[asked_for][0]) <= AHEAD):
                    reader.tell(parts[asked_for][0])
                    asked_for += 1
                for _ in range(count):
                    yield self._answer(b"", reader)
            whole = True
        finally:
            if not whole:  # nobody else may take what it still answers for an answer of theirs
                reader.close()

    def _content(self, name: str, found: tuple[str, str, bytes] | None, kind: str) -> bytes | None:
        """Return the bytes of an object of a kind, None where the name leads to nothing, or to another kind.

        `found`: what `object` says, or would say. Who has an id read it somewhere: no object of that id is one that is lost.
        """
        if found is None and OID.fullmatch(name):
            raise self.missing(f"the {kind} {name[:12]}")
        return found[2] if found is not None and found[1] == kind else None

    def _info(self, name: str) -> list[bytes] | None:
        """Return [oid, type, size] of what a name means, or None where there is none."""
        if "\n" in name:
            return None
        if self._is_collected(name):
            assert self._pack is not None
            entry = self._pack.entries[name]
            return [name.encode(), entry.kind.encode(), b"%d" % len(entry.data)]
        asked = b"info " + name.encode("utf-8", "surrogateescape") + b"\n"
        parts = self._promised([name], lambda: self._reader().ask(asked)).rsplit(b" ", 2)
        return parts if len(parts) == 3 and parts[2].isdigit() else None

    def ref(self, name: str) -> str | None:
        """Return what a ref (its full name) points at, or None."""
        info = self._info(name)
        return info[0].decode() if info else None

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a revision names, or None."""
        return self.ref(f"{revision}^{{commit}}")

    def blob(self, name: str) -> bytes | None:
        """Return a blob's bytes, or None where the name (`REV:PATH`, a ref, an id) leads to nothing, or to no blob.

        Raises:
            InsufficientHistoryError: it is not in this clone: an id names an object that is there, or lost.
        """
        return self._content(name, self.object(name), "blob")

    def content(self, entry: TreeEntry | None) -> bytes | None:
        """Return the bytes of a tree's entry as `blob` does; None for a submodule too, whose id is a commit elsewhere."""
        return None if entry is None or entry.mode == SUBMODULE else self.blob(entry.oid)

    def require(self, name: str, what: str) -> bytes:
        """Return a blob's bytes. `what`: names it in the error.

        Raises:
            InsufficientHistoryError: it is not in this clone.
        """
        found = self.object(name)
        if found is None or found[1] != "blob":
            raise self.missing(what)
        return found[2]

    def tree(self, name: str) -> Tree | None:
        """Return a tree's entries by name, or None as `blob` does. Names are text by surrogateescape."""
        tree = self._tree(name)
        return dict(tree) if tree is not None else None

    def starting(self, name: str, starts: Sequence[str]) -> Tree:
        """Return the entries of a tree whose names start with one of `starts`; none where there is no such tree."""
        tree = self._tree(name, starts) or {}
        return {one: entry for one, entry in tree.items() if one.startswith(tuple(starts))}

    def _tree(self, name: str, starts: Sequence[str] = ()) -> Tree | None:
        """Return what `tree` does, the very one that is remembered: nobody changes it. `starts`: those entries are enough."""
        cached = self._trees.get(name)
        if cached is not None:
            return cached
        found = self.object(name)
        data = self._content(name, found, "tree")
        if found is None or data is None:
            return None
        if starts and len(data) >= LONG:
            return entries_starting(data, self.oid_length, starts)
        tree = self._parsed(found[0], data)
        if OID.fullmatch(name.partition(":")[0]):
            self._keep(name, tree)
        return tree

    def _parsed(self, oid: str, data: bytes) -> Tree:
        """Return a tree's entries. Versions of a long one differ in a few ids, and those alone are read of the next one."""
        if len(data) < LONG:
            return parse_tree(data, self.oid_length)
        last = self._long.pop(len(data), None)
        if last is not None and last.oid == oid:
            found = last
        else:
            found = (last and last.next(oid, data)) or LongTree(oid, data, parse_tree(data, self.oid_length), [])
        self._long[len(data)] = found
        if len(self._long) > LONG_KEPT:
            del self._long[next(iter(self._long))]
        if found.before:
            if len(self._near) >= COMMITS_KEPT:
                self._near.clear()
            self._near[oid] = found.before, found.changed
        return found.entries

    def other_ids(self, one: str | None, other: str | None) -> Sequence[str] | None:
        """Return the names whose ids differ between two trees that are else the same; None where that is not known."""
        for new, old in ((other, one), (one, other)):
            found = self._near.get(new or "")
            if found is not None and found[0] == old:
                return found[1]
        return None

    def _keep(self, name: str, tree: Tree) -> None:
        """Remember the tree of an id, or of a path in a commit's id: a name that means the same for ever."""
        self._kept += len(tree) + 8 - (len(self._trees.pop(name)) + 8 if name in self._trees else 0)
        self._trees[name] = tree
        while self._kept > TREES_KEPT and len(self._trees) > 1:  # the oldest go: those after them were read ahead
            self._kept -= len(self._trees.pop(next(iter(self._trees)))) + 8

    def warm(self, names: Iterable[str]) -> None:
        """Read these commits and trees (oids) ahead of `commit` and `tree`; one that is not here, or is broken, is left to them."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._commits and name not in self._trees]
        if not wanted:
            return

        def read() -> None:
            with contextlib.closing(self._answers(wanted, self._reader())) as answers:
                for name, found in zip(wanted, answers, strict=True):
                    if found and found[1] == "commit":
                        with contextlib.suppress(GitError):
                            self._keep_commit(parse_commit(name, found[2]))
                    elif found and found[1] == "tree":
                        with contextlib.suppress(GitError):
                            self._keep(name, self._parsed(found[0], found[2]))

        with contextlib.suppress(GitError):
            self._promised(wanted, read)

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Return how many bytes each object has, without reading it, or None where it is not here."""
        if any(map(self._is_collected, names)):
            self.settle()
        found: list[int | None] = []
        for at in range(0, len(names), SIZES_AHEAD):
            some = names[at : at + SIZES_AHEAD]
            lines = self._promised(some, partial(self._infos, some))
            parts = [line.rsplit(b" ", 2) for line in lines]
            found += [int(part[2]) if len(part) == 3 and part[2].isdigit() else None for part in parts]
        return found

    def _infos(self, names: Sequence[str]) -> list[bytes]:
        reader = self._reader()
        asked = "".join(f"info {name}\n" for name in names).encode("utf-8", "surrogateescape")
        return [reader.ask(asked), *(reader.ask(b"") for _ in names[1:])]

    def commit(self, name: str) -> Commit | None:
        """Return a commit, or None where it is not here."""
        if name in self._commits:
            return self._commits[name]
        found = self.object(name)
        if found is None or found[1] != "commit":
            return None
        commit = parse_commit(found[0], found[2])
        self._keep_commit(commit)
        return commit

    def _keep_commit(self, commit: Commit) -> None:
        if len(self._commits) >= COMMITS_KEPT:
            self._commits.clear()
        self._commits[commit.oid] = commit

    def files(self, tree_ish: str, *paths: str) -> dict[str, TreeEntry]:
        """Return path to entry of all that is not a tree, below `paths` where given."""
        out = self.run("ls-tree", "-r", "-z", "--full-tree", tree_ish, "--", *paths).decode("utf-8", "surrogateescape")
        found = {}
        for line in filter(None, out.split("\0")):
            meta, _, path = line.partition("\t")
            mode, _, oid = meta.split(" ")
            found[path] = TreeEntry(mode, oid)
        return found

    def is_shallow(self) -> bool:
        """Return whether history is cut off in this clone."""
        return (self.common_dir / "shallow").exists()

    def is_partial(self) -> bool:
        """Return whether objects may be missing in this clone until they are fetched."""
        return any(
            key == "extensions.partialclone" or (key.startswith("remote.") and key.endswith(".promisor"))
            for key in self.settings()
        )

    def first_parents(self, tip: str, *, stop: str | None = None) -> list[str]:
        """Return the first-parent chain from `tip` to a root, newest first, without what `stop` has.

        Raises:
            InsufficientHistoryError: the chain is cut off in this clone before it ends.
        """
        args = ["rev-list", "--first-parent", tip, *([f"^{stop}"] if stop else []), "--"]
        code, out, err = self.try_run(*args)
        if code:
            raise InsufficientHistoryError(
                f"history is missing: {lines_of(err)[0] if err else code}",
                tip,
                "run `git fetch --unshallow`, or `git fetch`",
            )
        return out.decode().split()

    def is_ancestor(self, old: str, new: str) -> bool:
        """Return whether `new` has `old` in its history, as far as this clone knows it."""
        near: str | None = new if len(new) == len(old) == self.oid_length and not self.is_shallow() else None
        for _ in range(NEAR):  # as what is asked mostly is: no git is started for that
            commit = self.commit(near) if near else None
            if commit is None:
                break
            if commit.oid == old:
                return True
            near = commit.parents[0] if commit.parents else None
        return self.try_run("merge-base", "--is-ancestor", old, new)[0] == 0

    def merge_base(self, one: str, other: str) -> str | None:
        """Return a best common ancestor, or None."""
        code, out, _ = self.try_run("merge-base", one, other)
        return out.decode().strip() if code == 0 else None

    def below(self, tree: str) -> dict[str, TreeEntry]:
        """Return path to entry of all that is not a tree below a tree (oid), as `files` does, from the cache.

        Raises:
            InsufficientHistoryError: a tree is not in this clone.
        """
        found: dict[str, TreeEntry] = {}
        stack = [("", tree)]
        while stack:
            prefix, oid = stack.pop()
            for name, entry in self.whole_tree(oid).items():
                if entry.mode == TREE:
                    stack.append((f"{prefix}{name}/", entry.oid))
                else:
                    found[prefix + name] = entry
        return found

    def changed(self, old: str | None, new: str | None) -> dict[str, tuple[TreeEntry | None, TreeEntry | None]]:
        """Return path to (before, after) of what differs between two commits or trees; None: an empty one. Renames are not looked for.

        Only trees that differ are read, so a transition's few files cost the same in a repository of any size.
        """
        found: dict[str, tuple[TreeEntry | None, TreeEntry | None]] = {}
        stack: list[tuple[str, str | None, str | None]] = [("", old, new)]
        while stack:
            prefix, one, other = stack.pop()
            if one == other or (one in self._commits and self._commits[one].tree == other):
                continue
            before, after = self.whole_tree(one), self.whole_tree(other)
            names = self.other_ids(one, other)
            for name in {name for name, _ in before.items() ^ after.items()} if names is None else names:
                was, now = before.get(name), after.get(name)
                path = prefix + name
                trees = [entry.oid if entry and entry.mode == TREE else None for entry in (was, now)]
                if any(trees):
                    stack.append((f"{path}/", trees[0], trees[1]))
                files = [entry if entry and entry.mode != TREE else None for entry in (was, now)]
                if any(files):
                    found[path] = (files[0], files[1])
        return dict(sorted(found.items()))

    def whole_tree(self, name: str | None, starts: Sequence[str] = ()) -> Tree:
        """Return the entries of a commit's or a tree's tree (oid), which no caller changes; None: an empty one. `starts`: if given,
        those whose names start so are enough.

        Raises:
            InsufficientHistoryError: it is not in this clone.
        """
        if name is None:
            return {}
        known = self._commits.get(name)
        tree = self._tree(known.tree if known else name, starts)
        if tree is None:
            commit = self.commit(name)
            tree = self._tree(commit.tree, starts) if commit else None
        if tree is None:
            raise self.missing(f"the tree {name[:12]}")
        return tree

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, kind: Literal["blob", "tree", "commit"], data: bytes, base: str | None = None) -> str:
        """Write an object as it is, without filters, and return its id. A commit is there, with all before it, when this returns.

        `base`: the id of the version before, if there is one. While objects are collected, none is there before `settle`.
        """
        if self._pack is not None:
            if self._pack.size > MOST_COLLECTED:
                self.settle()
            return self._pack.add(kind, data, base)
        oid = self._own().write(kind, data)
        if kind == "commit":
            self._own().settle()
        return oid

    def _own(self) -> Loose:
        if self._loose is None:
            shared = self.settings().get("core.sharedrepository")
            self._loose = Loose(self.common_dir / "objects", self.object_format, shared[-1] if shared else None)
        return self._loose

    def settle(self) -> None:
        if self._pack is not None and self._pack.entries:
            pack, self._pack = self._pack, Pack(self.object_format)
            self._keep_pack(pack)
        if self._loose is not None:
            self._loose.settle()

    def _keep_pack(self, pack: Pack) -> None:
        """Have the objects of a pack on the disk, where git finds them."""
        if len(pack.entries) <= LOOSE:
            for entry in pack.entries.values():
                self._own().write(entry.kind, entry.data)
        else:
            name, data, index = pack.files()
            self._own().write_pack(name, data, index)
            self.packs.append(name)

    # --- collecting: many objects for one pack -----------------------------------------------------------------------

    def collect(self) -> None:
        """Collect what is written from now on, until `collected` or `drop`. Before git itself is started, `settle` writes it."""
        assert self._pack is None
        self._pack = Pack(self.object_format)

    def newly_collected(self) -> tuple[bool, int, bytes]:
        """Return what was collected since this was called last and is not written yet: whether a pack starts with it, how many
        objects it has, and their bytes in that pack."""
        assert self._pack is not None
        return self._pack.since()

    def collected(self) -> None:
        """Write the collected objects, and end collecting."""
        try:
            self.settle()
        finally:
            self.drop()

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the objects written inside, and write it at the end; nothing of it after an error."""
        self.collect()
        try:
            yield
            self.collected()
        finally:
            self.drop()

    def drop(self) -> None:
        """End collecting; objects not written are gone."""
        self._pack = None

    def pack_new(self, objects: Path, commit: str, known: str) -> str | None:
        """Write a pack of what a commit reaches and `known`, a few commits before it, does not; return its name without an ending.

        None: it is more than a few small objects, or commits were merged in between: `git pack-objects` has to do it. `objects`: the
        folder, which has another `pack` than this repository's.
        """
        pack, at = Pack(self.object_format), commit
        for _ in range(NEAR):
            found = self.commit(at)
            before = self.commit(found.parents[0]) if found is not None and len(found.parents) == 1 else None
            if found is None or before is None:
                return None
            new = [at, *self._new_below(before.tree, found.tree)]
            if len(new) > FEW or sum(size or 0 for size in self.sizes(new)) > MOST_PACKED:
                return None
            for oid in new:
                one = self.object(oid)
                if one is None:
                    return None
                pack.add(one[1], one[2])
            if before.oid == known:
                name, data, index = pack.files()
                Loose(objects, self.object_format, None).write_pack(name, data, index)
                return name
            at = before.oid
        return None

    def _new_below(self, old: str, new: str) -> list[str]:
        """Return the ids of a tree and of all below it that another tree does not have at the same path."""
        found, stack = list[str](), list[tuple[str | None, str]]([(old, new)])
        while stack:
            one, other = stack.pop()
            if one == other:
                continue
            found.append(other)
            before = self.whole_tree(one)
            for name, entry in self.whole_tree(other).items():
                was = before.get(name)
                if entry.mode == TREE:
                    stack.append((was.oid if was is not None and was.mode == TREE else None, entry.oid))
                elif entry != was and entry.mode != SUBMODULE:
                    found.append(entry.oid)
        return found

    def unpack(self, count: int, objects: bytes) -> None:
        """Write the objects of a pack that was never written. `objects`: as `newly_collected` gave them, one after the other.

        Raises:
            GitError: they are no such objects.
        """
        self.run("index-pack", "--stdin", data=whole(count, [objects], self.object_format))

    def close(self) -> None:
        self.drop()
        if self._loose is not None:
            self._loose.forget()
        super().close()

    def write_tree(self, tree: Mapping[str, TreeEntry]) -> str:
        """Write a tree with these entries and return its id."""
        return self._write_tree(dict(tree), tree_bytes(tree))

    def _write_tree(self, tree: Tree, data: bytes, base: str | None = None) -> str:
        oid = self.write("tree", data, base)
        self._keep(oid, tree)
        if len(self._spelt) >= SPELT_KEPT:
            self._spelt.clear()
        self._spelt[oid] = data
        return oid

    def edit_tree(self, tree: str | None, changes: Mapping[str, TreeEntry | None]) -> str | None:
        """Return the id of the tree with the entries at `changes`' paths put or (None) taken out; None where nothing is left.

        Only the trees on the way are read and written, whatever the size of the rest.

        Raises:
            InsufficientHistoryError: one of them is not in this clone.
        """
        old_entries = self.whole_tree(tree)
        entries = dict(old_entries)
        below: dict[str, dict[str, TreeEntry | None]] = {}
        for path, entry in changes.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = entry
            elif entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        for name, inner in below.items():
            old = entries.get(name)
            made = self.edit_tree(old.oid if old and old.mode == TREE else None, inner)
            if made is None:
                entries.pop(name, None)
            else:
                entries[name] = TreeEntry(TREE, made)
        if not entries:
            return None
        names = {path.partition("/")[0] for path in changes}
        spelt = self._spelt.pop(tree, None) if tree else None
        data = spelt and tree_bytes_with(spelt, {name: (old_entries.get(name), entries.get(name)) for name in names})
        return self._write_tree(entries, data or tree_bytes(entries), tree)

    def edited(self, tree: str | None, changes: Mapping[str, TreeEntry | None]) -> str:
        """Return what `edit_tree` does, where something is left."""
        made = self.edit_tree(tree, changes)
        assert made is not None
        return made

    def write_commit(
        self,
        tree: str,
        parents: Sequence[str],
        author: Ident,
        committer: Ident,
        message: bytes,
        sign: Callable[[bytes], bytes] | None = None,
    ) -> str:
        """Write a commit object and return its id. `sign`: makes the armoured signature over it that it carries."""
        data = commit_bytes(tree, parents, author, committer, message)
        if sign is not None:
            data = signed_bytes(data, sign(data))
        oid = self.write("commit", data)
        self._commits[oid] = parse_commit(oid, data)
        return oid

    def plain_merge(self, ours: str, theirs: str) -> str | None:
        """Return the tree of git's own merge of two commits, or None where they conflict; nothing is written.

        It is the same in every clone: no setting, attribute or driver of this one has a say.

        Raises:
            InsufficientHistoryError: what it takes is not in this clone.
        """
        import tempfile  # here: few merges are looked at, and it is slow to load

        self.settle()
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            (at / "refs").mkdir()
            (at / "objects/info").mkdir(parents=True)
            (at / "HEAD").write_text("ref: refs/heads/none\n")
            sha256 = self.object_format == "sha256"
            more = "[extensions]\n\tobjectFormat = sha256\n" if sha256 else ""
            (at / "config").write_text(f"[core]\n\tbare = true\n\trepositoryFormatVersion = {int(sha256)}\n{more}")
            (at / "objects/info/alternates").write_text(f"{self.common_dir / 'objects'}\n")
            shallow = self.common_dir / "shallow"
            if shallow.exists():
                (at / "shallow").write_bytes(shallow.read_bytes())
            words = ["git", "--no-replace-objects", f"--git-dir={at}", "merge-tree", "--write-tree", "--no-messages"]
            code, out, err = spawn([*words, ours, theirs], env=sealed_environment(), cwd=at)
        if code == 0:
            return out.decode("ascii").strip()
        if code == 1:
            return None
        what = lines_of(err.decode("utf-8", "replace"))[:1] or [f"exit {code}"]
        raise InsufficientHistoryError(f"a merge cannot be made again: {what[0]}", ours, "run `git fetch --unshallow`")

    def merge_trees(self, ours: str, theirs: str) -> tuple[str | None, list[str]]:
        """Return (tree, []) of the merge of two commits, or (None, paths in conflict)."""
        code, out, err = self.try_run("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs)
        parts = [part for part in out.decode("utf-8", "surrogateescape").split("\0") if part]
        if code == 0:
            return parts[0].strip(), []
        if code == 1:
            return None, sorted(set(parts[1:]))
        raise git_error(["git", "merge-tree"], code, err)

    def merge_onto(self, base: str, ours: str, theirs: str, who: Ident) -> tuple[str | None, list[str]]:
        """Return what `merge_trees` does, of two trees and their base. git finds a base by itself: three commits say which it is."""
        start = self.write_commit(base, (), who, who, b"base\n")
        return self.merge_trees(*(self.write_commit(side, (start,), who, who, b"side\n") for side in (ours, theirs)))


def _all_blobs(reader: HeldProcess) -> Iterator[bytes | None]:
    """Give the answers of a `cat-file --batch`: the bytes of a blob, None where it is none. It never ends: git does, which raises."""
    data, at = b"", 0
    while True:
        while (end := data.find(b"\n", at)) < 0:
            data, at = data[at:] + reader.some(), 0
        header, at = data[at:end], end + 1
        *_, kind, size = header.rsplit(b" ", 2)
        if not size.isdigit():  # `NAME missing`, `NAME ambiguous`
            yield None
            continue
        stop = at + int(size)
        if stop >= len(data):
            parts, missing = [data[at:]], stop + 1 - len(data)
            while missing > 0:
                parts.append(reader.some())
                missing -= len(parts[-1])
            data, at, stop = b"".join(parts), 0, int(size)
        yield data[at:stop] if kind == b"blob" else None
        at = stop + 1
