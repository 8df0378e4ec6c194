"""A git in memory: repositories as dicts, spoken to with the very commands that the runner gives to git.

Only what would start a git process is replaced; everything above it (how a lost race is told from a broken repository, what an
answer of a push means) is the runner's own code. `test_memory_git` holds it against real git, command by command.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, Unpack

from runner.git import BLOB, EXECUTABLE, TREE, Git, GitError, Ident, Options, TreeEntry, Worktree
from runner.git.objects import commit_bytes, parse_commit, parse_tree, tree_bytes
from runner.git.pack import Pack
from runner.git.process import HeldProcess, Location, git_error

ZERO = "0" * 40
NOBODY = Ident("nobody", "nobody@example.test", 0)
Object = tuple[str, bytes]
Seam = Callable[..., None]  # (what kind of moment, a few words)
IGNORED = ("__pycache__/*", "*.pyc", ".git/*", ".git")


def no_seam(kind: str, text: str = "") -> None:
    """Nothing happens in between."""


@dataclass(slots=True)
class Repository:
    """What a git directory holds. `mirrors`: refs of further git directories that use its objects, by their paths."""

    objects: dict[str, Object] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    head: str = "refs/heads/main"
    settings: dict[str, list[str]] = field(default_factory=dict)
    mirrors: dict[Path, dict[str, str]] = field(default_factory=dict)

    # --- names -------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> str | None:
        """Return the id that a name means: an id, a ref, `REV:PATH`, `REV^{tree}`, `REV^{commit}`; or None."""
        if name.endswith(("^{commit}", "^{tree}")):
            name, _, kind = name[:-1].rpartition("^{")
            oid = self.find(name)
            return self._peel(oid, kind) if oid is not None else None
        revision, colon, path = name.partition(":")
        if colon:
            oid = self.find(f"{revision}^{{tree}}")
            for part in filter(None, path.split("/")):
                kind, data = self.objects.get(oid or "", ("", b""))
                entry = parse_tree(data, 40).get(part) if kind == "tree" else None
                if entry is None:
                    return None
                oid = entry.oid
            return oid if oid in self.objects else None
        if len(name) == 40 and name.strip("0123456789abcdef") == "":
            return name if name in self.objects else None
        if name == "HEAD":
            name = self.head
        for full in (name, f"refs/{name}", f"refs/tags/{name}", f"refs/heads/{name}", f"refs/remotes/{name}"):
            if full in self.refs:
                return self.refs[full]
        return None

    def _peel(self, oid: str, kind: str) -> str | None:
        found, data = self.objects.get(oid, ("", b""))
        if found == "commit" and kind == "tree":
            return parse_commit(oid, data).tree
        return oid if found == kind else None

    # --- history -----------------------------------------------------------------------------------------------------

    def parents(self, oid: str) -> tuple[str, ...]:
        """Return a commit's parents.

        Raises:
            KeyError: it is not here.
        """
        kind, data = self.objects[oid]
        return parse_commit(oid, data).parents if kind == "commit" else ()

    def ancestors(self, *tips: str) -> dict[str, int]:
        """Return the commits that these have in their histories, themselves included, with how far they are at least."""
        found = {oid: 0 for oid in tips}
        left = list(found)
        for oid in left:
            for parent in self.parents(oid):
                if parent not in found:
                    found[parent] = found[oid] + 1
                    left.append(parent)
        return found

    def merge_base(self, one: str, other: str) -> str | None:
        """Return the best common ancestor; of several, the nearest."""
        return next(iter(self._merge_bases(one, other)), None)

    def _merge_bases(self, one: str, other: str) -> list[str]:
        mine, theirs = self.ancestors(one), self.ancestors(other)
        common = [oid for oid in mine if oid in theirs]
        below = {oid for each in common for oid in self.ancestors(*self.parents(each))} if common else set()
        best = [oid for oid in common if oid not in below]
        return sorted(best, key=lambda oid: (mine[oid] + theirs[oid], oid))

    def files(self, tree: str | None) -> dict[str, TreeEntry]:
        """Return path to entry of all files below a tree or a commit."""
        found: dict[str, TreeEntry] = {}
        root = self._peel(tree, "tree") if tree else None
        stack = [("", root)] if root else []
        while stack:
            prefix, oid = stack.pop()
            for name, entry in parse_tree(self.objects[oid][1], 40).items():
                if entry.mode == TREE:
                    stack.append((f"{prefix}{name}/", entry.oid))
                else:
                    found[prefix + name] = entry
        return dict(sorted(found.items()))

    def put(self, kind: str, data: bytes) -> str:
        """Keep an object and return its id."""
        oid = name_of(kind, data)
        self.objects.setdefault(oid, (kind, data))
        return oid

    def tree_of(self, files: Mapping[str, TreeEntry]) -> str:
        """Return the tree with these files."""
        here: dict[str, TreeEntry] = {}
        below: dict[str, dict[str, TreeEntry]] = {}
        for path, entry in files.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = entry
            else:
                here[name] = entry
        for name, inner in below.items():
            here[name] = TreeEntry(TREE, self.tree_of(inner))
        return self.put("tree", tree_bytes(here))

    def merge(self, ours: str, theirs: str) -> tuple[str | None, list[str]]:
        """Return (tree, []) of a merge by whole files, or (None, paths in conflict)."""
        made, conflicts = self._merged(ours, theirs)
        return (None, sorted(conflicts)) if conflicts else (self.tree_of(made), [])

    def _base(self, ours: str, theirs: str) -> str | None:
        """Return the commit that a merge begins at: of several merge bases, a merge of them, as git makes it."""
        base, *more = list[str | None](self._merge_bases(ours, theirs)) or [None]
        for other in more:
            assert base is not None and other is not None
            made, conflicts = self._merged(base, other)
            for path in conflicts:  # has what neither has
                made[path] = TreeEntry(BLOB, self.put("blob", f"{path} of {base} and {other}\n".encode()))
            base = self.put("commit", commit_bytes(self.tree_of(made), (base, other), NOBODY, NOBODY, b"bases\n"))
        return base

    def _merged(self, ours: str, theirs: str) -> tuple[dict[str, TreeEntry], list[str]]:
        base = self.files(self._base(ours, theirs))
        mine, other = self.files(ours), self.files(theirs)
        made, conflicts = dict(mine), list[str]()
        for path in {*base, *mine, *other}:
            was, one, two = base.get(path), mine.get(path), other.get(path)
            if one == two or two == was:
                continue
            if one != was:
                conflicts.append(path)
            elif two is None:
                del made[path]
            else:
                made[path] = two
        return made, conflicts

    def closure(self, *oids: str, have: Mapping[str, Object]) -> Iterator[tuple[str, Object]]:
        """Yield the objects that are needed for `oids` beyond what `have` has; what it has it has whole.

        Raises:
            KeyError: one is not here.
        """
        left, seen = list(oids), set(oids)
        while left:
            oid = left.pop()
            if oid in have:
                continue
            kind, data = self.objects[oid]
            yield oid, (kind, data)
            more: Iterable[str] = ()
            if kind == "commit":
                commit = parse_commit(oid, data)
                more = (commit.tree, *commit.parents)
            elif kind == "tree":
                more = [entry.oid for entry in parse_tree(data, 40).values()]
            for one in more:
                if one not in seen:
                    seen.add(one)
                    left.append(one)


def name_of(kind: str, data: bytes) -> str:
    """Return the id of an object."""
    return hashlib.sha1(b"%s %d\0%s" % (kind.encode(), len(data), data)).hexdigest()


def transaction(refs: dict[str, str], changes: Mapping[str, tuple[str | None, str | None]]) -> str | None:
    """Move all refs, `{name: (new, expected or None where it may be anywhere)}`, or none; return the first that refuses.

    `ZERO` as expected: it must not be there; None as new: it is deleted.
    """
    for name, (_, old) in changes.items():
        if old is not None and refs.get(name, ZERO) != old:
            return name
    for name, (new, _) in changes.items():
        if new is None:
            refs.pop(name, None)
        else:
            refs[name] = new
    return None


class Line:
    """The way to a remote. What is lost on it is for whoever made it to say."""

    def __init__(self, remote: Repository) -> None:
        self.remote = remote

    def reach(self, what: str) -> None:
        """Be called before the remote is asked; `LineError`: it does not answer."""

    def receive(self, changes: Mapping[str, tuple[str | None, str | None]]) -> str | None:
        """Have the remote move its refs, all or none; return the ref that refuses. `LineError`: no answer came."""
        return transaction(self.remote.refs, changes)

    def repeats(self) -> bool:
        """Return whether what was just asked is asked once more, from the beginning, and that answer given."""
        return False


class LineError(Exception):
    """No answer; what was asked may have been done."""


def unpacked(data: bytes) -> list[Object]:
    """Return the objects of a pack whose deltas have their bases before them, by gitformat-pack(5).

    Raises:
        AssertionError, IndexError, zlib.error: it is none.
    """
    assert data[:8] == b"PACK\0\0\0\2" and hashlib.sha1(data[:-20]).digest() == data[-20:], "not a pack"
    at, found = 12, dict[int, Object]()
    for _ in range(int.from_bytes(data[8:12])):
        begin, byte = at, data[at]
        kind, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 128:
            at += 1
            byte = data[at]
            size |= (byte & 127) << shift
            shift += 7
        at += 1
        base = None
        if kind == 6:
            back = data[at] & 127
            while data[at] & 128:
                at += 1
                back = back + 1 << 7 | data[at] & 127
            at += 1
            base = found.get(begin - back)
            assert base is not None, "a base that is not before it"
        packer = zlib.decompressobj()
        content = packer.decompress(data[at:])
        at = len(data) - len(packer.unused_data)
        assert len(content) == size, "another size"
        found[begin] = (base[0], patched(base[1], content)) if base else (("", "commit", "tree", "blob")[kind], content)
    assert at == len(data) - 20, "more than its objects"
    return list(found.values())


def patched(old: bytes, instructions: bytes) -> bytes:
    """Return what a delta makes of its base, by gitformat-pack(5)."""
    at = 0

    def number() -> int:
        nonlocal at
        found = shift = 0
        while True:
            byte = instructions[at]
            at += 1
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found

    assert number() == len(old), "another base"
    size, made = number(), b""
    while at < len(instructions):
        code = instructions[at]
        at += 1
        if code < 128:
            assert code, "a reserved instruction"
            made += instructions[at : at + code]
            at += code
            continue
        fields = [0] * 7
        for bit in range(7):
            if code & 1 << bit:
                fields[bit] = instructions[at]
                at += 1
        offset = int.from_bytes(bytes(fields[:4]), "little")
        length = int.from_bytes(bytes(fields[4:]), "little") or 0x10000
        assert offset + length <= len(old), "more than there is"
        made += old[offset : offset + length]
    assert len(made) == size, "another size"
    return made


class _Updates(HeldProcess):
    """`update-ref --stdin`, held open."""

    def __init__(self, git: MemoryGit, argv: Sequence[str]) -> None:
        self.argv, self._git = argv, git
        self._told: list[bytes] = []

    def ask(self, data: bytes) -> bytes:
        changes: dict[str, tuple[str | None, str | None]] = {}
        for line in data.decode().splitlines():
            match line.split(" "):
                case ["update", name, new]:
                    changes[name] = (new, None)
                case ["update", name, new, old]:
                    changes[name] = (new, old)
                case ["delete", name]:
                    changes[name] = (None, None)
                case ["delete", name, old]:
                    changes[name] = (None, old)
                case ["start" | "prepare" | "commit"]:
                    continue
                case _:
                    raise AssertionError(f"unreachable: {line}")
        words = " ".join(sorted(changes))
        self._git.seam("move", f"update-ref {words}")
        repository = self._git.repository
        missing = [new for new, _ in changes.values() if new is not None and new not in repository.objects]
        refused = transaction(repository.refs, changes) if not missing else missing[0]
        self._git.seam("written", f"update-ref {words}")
        if refused is not None:
            raise git_error(self.argv, 128, f"fatal: prepare: cannot lock ref '{refused}'")
        self._told = [b"prepare: ok", b"commit: ok"]
        return b"start: ok"

    def answer(self) -> bytes:
        return self._told.pop(0)

    def died(self) -> GitError:
        return git_error(self.argv, 128, "fatal: it died")

    def close(self) -> None:
        return


class MemoryGit(Git):
    """git on a repository in memory. `folder`: its common directory, a real one, for what the runner keeps beside it."""

    def __init__(self, repository: Repository, folder: Path, line: Line | None = None, seam: Seam = no_seam) -> None:
        super().__init__(Location(folder, folder, folder, None, "sha1", False))
        self.repository, self.line, self.seam = repository, line, seam
        self._begun: dict[str, Object] = {}  # objects that have no name on the disk yet, and go with the process
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "HEAD").exists():
            (folder / "HEAD").write_text(f"ref: {repository.head}\n")

    def another(self) -> Self:
        return type(self)(self.repository, self.common_dir, self.line, self.seam)

    # --- what is answered without a process ------------------------------------------------------------------------------

    def settings(self, git_dir: Path | None = None) -> Mapping[str, Sequence[str]]:
        return self.repository.settings

    def personal_settings(self) -> Mapping[str, Sequence[str]]:
        return {}

    def personal(self, *args: str) -> tuple[int, bytes, str]:
        return 1, b"", ""

    def worktrees(self) -> list[Worktree]:
        return []

    # --- objects ---------------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> str | None:
        self._name_begun()
        if name[:40].strip("0123456789abcdef"):  # a ref is read
            self.seam("read", name)
        return self.repository.find(name)

    def object(self, name: str) -> tuple[str, str, bytes] | None:
        if self._is_collected(name):
            return super().object(name)
        oid = self._find(name)
        if oid is None or oid not in self.repository.objects:
            return None
        return (oid, *self.repository.objects[oid])

    def blobs(self, names: Sequence[str]) -> list[bytes | None]:
        return [self.blob(name) for name in names]

    def _objects(self, names: Sequence[str]) -> list[tuple[str, str, bytes] | None]:
        return [self.object(name) for name in names]

    def stream(self, names: Sequence[str]) -> Iterator[bytes | None]:
        return map(self.blob, names)

    def _info(self, name: str) -> list[bytes] | None:
        found = self.object(name)
        return [found[0].encode(), found[1].encode(), b"%d" % len(found[2])] if found else None

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        return [len(found[2]) if found else None for found in map(self.object, names)]

    def warm(self, names: Iterable[str]) -> None:
        return

    def write(self, kind: Literal["blob", "tree", "commit"], data: bytes, base: str | None = None) -> str:
        if self._pack is not None:
            return super().write(kind, data, base)
        oid = name_of(kind, data)
        if oid not in self.repository.objects:
            self._begun[oid] = (kind, data)
        if kind == "commit":
            self.settle()
        return oid

    def _keep_pack(self, pack: Pack) -> None:
        self.seam("write", "a pack")
        for entry in pack.entries.values():
            self.repository.put(entry.kind, entry.data)

    def settle(self) -> None:
        super().settle()
        self._name_begun()

    def _name_begun(self) -> None:
        if self._begun:
            self.seam("write", "objects")
            self.repository.objects.update(self._begun)
            self._begun.clear()

    def close(self) -> None:
        self.drop()
        self._held.clear()

    # --- commands --------------------------------------------------------------------------------------------------------

    def _hold(self, name: str, *args: str, settled: bool = False) -> HeldProcess:
        self.settle()
        assert args[0] == "update-ref", args
        return self._held.setdefault(name, _Updates(self, self.argv(args)))

    def try_run(self, *args: str, **options: Unpack[Options]) -> tuple[int, bytes, str]:
        index, work_tree, data = options.get("index"), options.get("work_tree"), options.get("data", b"")
        self.settle()
        self.seam("read" if index is None else "write", f"git {args[0]}")
        work = Work(self.repository, index, work_tree) if index is not None and work_tree is not None else None
        do = getattr(self, f"_do_{args[0].replace('-', '_')}", None)
        assert work or do, f"not in memory: git {' '.join(args)}"
        try:
            done: tuple[int, bytes, str] = work.run(args, data) if work else do(args[1:], data)  # type: ignore[misc]
        except KeyError as error:
            done = 128, b"", f"fatal: bad object {error}"
        if work is not None:
            self.seam("written", f"git {args[0]}")
        return done

    def _do_for_each_ref(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        form, *prefixes = args
        assert form == "--format=%(objectname) %(refname)", form
        lines = [f"{oid} {name}\n" for name, oid in sorted(self.repository.refs.items()) if _below(name, prefixes)]
        return 0, "".join(lines).encode(), ""

    def _do_symbolic_ref(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        return (0, f"{self.repository.head}\n".encode(), "") if args[-1] == "HEAD" else (1, b"", "")

    def _do_ls_tree(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        assert args[:3] == ("-r", "-z", "--full-tree") and args[4] == "--", args
        oid, wanted = self.repository.find(args[3]), args[5:]
        if oid is None:
            return 128, b"", f"fatal: Not a valid object name {args[3]}"
        found = self.repository.files(oid)
        lines = [
            f"{entry.mode} blob {entry.oid}\t{path}\0"
            for path, entry in found.items()
            if not wanted or any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in wanted)
        ]
        return 0, "".join(lines).encode(), ""

    def _do_index_pack(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        try:
            found = unpacked(data)
        except (AssertionError, IndexError, zlib.error) as error:
            return 128, b"", f"fatal: {error}"
        for kind, content in found:
            self.repository.put(kind, content)
        return 0, b"", ""

    def _do_merge_base(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        if args[0] == "--is-ancestor":
            old, new = (self.repository.find(name) for name in args[1:])
            if old is None or new is None:
                return 128, b"", "fatal: Not a valid commit name"
            return (0 if old in self.repository.ancestors(new) else 1), b"", ""
        one, other = (self.repository.find(name) for name in args)
        base = self.repository.merge_base(one, other) if one and other else None
        return (0, f"{base}\n".encode(), "") if base else (1, b"", "")

    def _do_merge_tree(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        ours, theirs = args[-2:]
        tree, conflicts = self.repository.merge(ours, theirs)
        if tree is None:
            return 1, "\0".join([ZERO, *conflicts, ""]).encode(), ""
        return 0, f"{tree}\0".encode(), ""

    def _do_rev_list(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        words, _, paths = _split(args)
        first = "--first-parent" in words
        most = next((int(word.partition("=")[2]) for word in words if word.startswith("--max-count=")), None)
        found = [self.repository.find(word.removeprefix("^")) for word in words if not word.startswith("-")]
        if None in found:
            return 128, b"", "fatal: bad revision"
        named = [word for word in words if not word.startswith("-")]
        tips = [oid for word, oid in zip(named, found, strict=True) if oid and not word.startswith("^")]
        stops = [oid for word, oid in zip(named, found, strict=True) if oid and word.startswith("^")]
        without = self.repository.ancestors(*stops) if stops else {}
        told: list[str] = []
        left, seen = list(tips), set(tips)
        for oid in left:
            parents = self.repository.parents(oid)
            parents = parents[:1] if first else parents
            if oid in without:
                continue
            if not paths or self._touched(oid, parents, paths):
                told.append(oid)
            for parent in parents:
                if parent not in seen:
                    seen.add(parent)
                    left.append(parent)
        return 0, "".join(f"{oid}\n" for oid in told[:most]).encode(), ""

    def _touched(self, oid: str, parents: Sequence[str], paths: Sequence[str]) -> bool:
        now = [self.repository.find(f"{oid}:{path}") for path in paths]
        before = [[self.repository.find(f"{parent}:{path}") for path in paths] for parent in parents]
        return all(now != one for one in before) if before else any(now)

    def _do_diff_tree(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        assert "--numstat" in args, args
        old, new = args[-2:]
        changed = self.changed(old, new)
        return 0, "".join(f"1\t0\t{path}\0" for path in changed).encode(), ""

    # --- remotes ---------------------------------------------------------------------------------------------------------

    def transport(
        self,
        git_dir: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        data: bytes = b"",
    ) -> tuple[int, bytes, str]:
        self.settle()
        self.seam("write", f"git {args[0]}")
        do = getattr(self, f"_at_{args[0].replace('-', '_')}")
        try:
            refs = self.repository.mirrors.setdefault(git_dir, {})
            done: tuple[int, bytes, str] = do(refs, args[1:], data)
            if args[0] == "push" and self.line is not None and self.line.repeats():
                done = do(refs, args[1:], data)
        except LineError as error:
            done = 128, b"", f"fatal: unable to access the remote: {error}"
        self.seam("written", f"git {args[0]}")
        return done

    def refs_in(self, git_dir: Path, name: str) -> dict[str, str]:
        self.seam("read", "refs")
        refs = self.repository.mirrors.get(git_dir, {})
        return {one: oid for one, oid in sorted(refs.items()) if _below(one, [name])}

    def _at_update_ref(self, refs: dict[str, str], args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        for line in data.decode().splitlines():
            verb, name, *new = line.split(" ")
            transaction(refs, {name: (new[0] if verb == "update" else None, None)})
        return 0, b"", ""

    def _at_ls_remote(self, refs: dict[str, str], args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        assert self.line is not None
        self.line.reach("ls-remote")
        remote = self.line.remote
        if args[0] == "--symref":
            oid = remote.refs.get(remote.head)
            return 0, f"ref: {remote.head}\tHEAD\n{oid}\tHEAD\n".encode() if oid else b"", ""
        lines = [f"{oid}\t{name}\n" for name, oid in sorted(remote.refs.items()) if name in args[1:]]
        return 0, "".join(lines).encode(), ""

    def _at_fetch(self, refs: dict[str, str], args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        assert self.line is not None
        self.line.reach("fetch")
        remote, there = self.line.remote, dict(self.line.remote.refs)
        self.seam("fetch", "its objects come")
        for spec in (word for word in args if word.startswith("+")):
            theirs, _, ours = spec.removeprefix("+").partition(":")
            begin, mine = theirs.removesuffix("*"), ours.removesuffix("*")
            found = {name: oid for name, oid in there.items() if name.startswith(begin)}
            self.repository.objects.update(remote.closure(*found.values(), have=self.repository.objects))
            for name in [name for name in refs if name.startswith(mine)]:
                if begin + name.removeprefix(mine) not in found:
                    del refs[name]
            refs.update({mine + name.removeprefix(begin): oid for name, oid in found.items()})
        return 0, b"", ""

    def _at_push(self, refs: dict[str, str], args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        assert self.line is not None and "--atomic" in args
        self.line.reach("push")
        remote = self.line.remote
        announced = dict(remote.refs)
        leases = dict(
            word.removeprefix("--force-with-lease=").split(":", 1) for word in args if word.startswith("--force-w")
        )
        specs = [word.rpartition(":") for word in args[args.index("origin") + 1 :]]
        lines: dict[str, str] = {}
        wanted: dict[str, tuple[str | None, str | None]] = {}
        rejected = False
        for new, _, name in specs:
            at = announced.get(name)
            if new and new == at:  # git looks at this first, whatever was expected
                lines[name] = f"=\t{new}:{name}\t[up to date]"
            elif leases.get(name, at or "") != (at or "") or (not new and at is None):
                lines[name] = f"!\t{new}:{name}\t[rejected] (stale info)"
                rejected = True
            else:
                lines[name] = f"{'-' if not new else '*' if at is None else ' '}\t{new}:{name}\tdone"
                wanted[name] = (new or None, at or ZERO)
        if rejected:
            lines |= {
                name: f"!\t{new or ''}:{name}\t[rejected] (atomic push failed)" for name, (new, _) in wanted.items()
            }
        elif wanted:
            self.seam("push", "its objects go")
            news = [new for new, _ in wanted.values() if new]
            remote.objects.update(self.repository.closure(*news, have=remote.objects))
            if self.line.receive(wanted) is not None:
                rejected = True
                lines |= {
                    name: f"!\t{new or ''}:{name}\t[remote rejected] (atomic transaction failed)"
                    for name, (new, _) in wanted.items()
                }
        told = ["To origin", *lines.values(), *([] if rejected else ["Done"])]
        return int(rejected), "".join(f"{line}\n" for line in told).encode(), "error: failed to push" * rejected


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return not prefixes or any(name == one or name.startswith(f"{one.rstrip('/')}/") for one in prefixes)


def _split(args: Sequence[str]) -> tuple[Sequence[str], str, Sequence[str]]:
    at = args.index("--") if "--" in args else len(args)
    return args[:at], "--", args[at + 1 :]


@dataclass(frozen=True, slots=True)
class Work:
    """A folder of real files, and an index of it, which is a file too."""

    repository: Repository
    index: Path
    folder: Path

    def run(self, args: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        """Run one command of those that the workspace needs."""
        out = ""
        match args:
            case ["read-tree", "--reset", "-u", revision]:
                tree = self.repository.find(revision)
                if tree is None:
                    return 128, b"", f"fatal: {revision}"
                self._check_out(self.repository.files(tree))
            case ["clean", _, *more]:
                for path in [path for path in self._found() if path not in self._known()]:
                    (self.folder / path).unlink()
                if more:
                    shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)
                self._forget_empty()
            case ["diff-files", *_]:  # no simulated step leaves more than it may
                pass
            case ["ls-files", "--stage", "-z"]:
                out = "".join(f"{one.mode} {one.oid} 0\t{path}\0" for path, one in self._known().items())
            case ["ls-files", *_]:
                known, here = self._known(), {path: self._entry(path) for path in self._found()}
                out = "".join(f"{path}\0" for path in {**known, **here} if known.get(path) != here.get(path))
            case ["update-index", "--add", "--remove", "--replace", "-z", "--stdin"]:
                named = [path for path in data.decode().split("\0") if path]
                kept = {path: entry for path, entry in self._known().items() if path not in named}
                self._keep({**kept, **{path: self._entry(path) for path in named if (self.folder / path).is_file()}})
            case ["add", "-A", *_]:
                self._keep({path: self._entry(path) for path in self._found()})
            case ["write-tree"]:
                out = self.repository.tree_of(self._known()) + "\n"
            case ["check-attr", *_, "filter"]:
                out = "".join(f"{path}\0filter\0unspecified\0" for path in data.decode().split("\0") if path)
            case _:
                raise AssertionError(f"not in memory: git {' '.join(args)}")
        return 0, out.encode(), ""

    def _known(self) -> dict[str, TreeEntry]:
        try:
            return {path: TreeEntry(*entry) for path, entry in json.loads(self.index.read_text()).items()}
        except FileNotFoundError:
            return {}

    def _keep(self, files: Mapping[str, TreeEntry]) -> None:
        self.index.write_text(json.dumps(dict(sorted(files.items()))))

    def _entry(self, path: str) -> TreeEntry:
        at = self.folder / path
        mode = EXECUTABLE if os.access(at, os.X_OK) and at.stat().st_mode & 0o100 else BLOB
        return TreeEntry(mode, self.repository.put("blob", at.read_bytes()))

    def _found(self) -> list[str]:
        found = []
        for at, folders, names in os.walk(self.folder):
            folders.sort()
            for name in sorted(names):
                path = os.path.relpath(os.path.join(at, name), self.folder)
                if not any(fnmatch.fnmatch(path, one) for one in IGNORED):
                    found.append(path)
        return found

    def _check_out(self, files: Mapping[str, TreeEntry]) -> None:
        for path in self._known():
            if path not in files:
                (self.folder / path).unlink(missing_ok=True)
        for path, entry in files.items():
            at, data = self.folder / path, self.repository.objects[entry.oid][1]
            executable = entry.mode == EXECUTABLE
            if at.is_file() and at.read_bytes() == data and bool(at.stat().st_mode & 0o100) == executable:
                continue
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(data)
            at.chmod(0o755 if executable else 0o644)
        self._forget_empty()
        self._keep(files)

    def _forget_empty(self) -> None:
        for at, _, _ in os.walk(self.folder, topdown=False):
            inside = os.path.relpath(at, self.folder)
            if inside != "." and inside.split("/")[0] != ".git" and not os.listdir(at):
                os.rmdir(at)
