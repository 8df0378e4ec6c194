"""Pack the objects that a workspace gets, and fetch those that a partial clone left at its remote (design §7).

The repository of a clone holds more than a workspace may see: deleted branches, other protocols, unpublished commits. A command in
the sandbox could read it all. So the runner packs what a commit reaches into a folder of its own beside the workspace, and that
folder alone is shown. It is a list of packs; each holds what its commit reaches and the commits before it in the list do not. A later
commit of the same history adds a small one. Another workspace of the clone takes over, by hard links, those packs whose commits are in
its own history too: the first protocol pays for the whole history, the next ones for new commits.

The objects that a partial clone left at its remote are fetched when they are read, all that is read together in one fetch. git would
fetch them by itself, an object at a time and by the repository's own settings. Here they come through the mirror, with the person's.
Of a protocol's folder everything along its branch comes at once: the reader of one file reads the others next.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runner.errors import UnreachableError
from runner.git import Git, GitError
from runner.lines import lines_of
from runner.protocol import ids, paths
from runner.protocol.ids import digest
from runner.store import remote
from runner.store.environment import Clone, matching, write_loosely

MOST = 40  # packs; git looks into each of them for an object that it does not have yet
BORROWED = "objects"  # the folder, beside a workspace, of the objects that it borrows
LONG = 20_000  # commits; packing takes seconds from there on, and a message says so


class Pack(NamedTuple):
    """One pack: the commit that it was made for, and its file's name without an ending."""

    commit: str
    name: str


def lend(git: Git, root: Path, commit: str, trusted: str | None, say: Callable[[str], None]) -> None:
    """Have the objects of `commit`'s history, and no others, in the folder of the workspace at `root`.

    `trusted`: a commit that other protocols of this clone grow out of too; what it shares with `commit` gets a pack of its own.

    Raises:
        GitError: an object of the history is damaged.
        OSError: the folder cannot be written.
    """
    folder = root / BORROWED / "pack"
    folder.mkdir(parents=True, exist_ok=True)
    cut = _cut(git)
    kept = _of_history(git, _listed(root, cut), commit)
    if not kept:
        kept = _taken_over(git, root, cut, commit)
    if not kept:
        base = git.merge_base(commit, trusted) if trusted and trusted != commit else None
        if int(git.text("rev-list", "--count", "--max-count", str(LONG), commit)) == LONG:
            say("packing the history for the workspace, once per clone: this may take a minute")
        kept = [_pack(git, root, base, [])] if base else []
    if len(kept) > MOST:
        kept = kept[:1]
    if not kept or kept[-1].commit != commit:
        kept = [*kept, _pack(git, root, commit, kept)]
    names = {pack.name for pack in kept}
    if git.is_partial():
        # The files of this commit may have come after the packs that should have them.
        names.add(_packed(git, root, (), _present(git, "--no-walk", commit)))
    listed = {"cut": cut, "packs": [[pack.commit, pack.name] for pack in kept]}
    write_loosely(root / "packs.json", json.dumps(listed).encode())  # without it the packs are made again
    for path in folder.iterdir():
        if path.stem not in names:
            path.unlink()


def _cut(git: Git) -> str:
    """Return the digest of where history ends in this clone: a pack made with one end does not do for another."""
    try:
        return digest((git.common_dir / "shallow").read_bytes())
    except FileNotFoundError:
        return ""


def _listed(root: Path, cut: str) -> list[Pack]:
    """Return the packs of a workspace as far as they are all there; none where history ended elsewhere then."""
    try:
        listed = json.loads((root / "packs.json").read_bytes())
        if listed["cut"] != cut:
            return []
        packs = [Pack(commit, name) for commit, name in listed["packs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    folder = root / BORROWED / "pack"
    there = [
        pack
        for pack in packs
        if not pack.name or all((folder / f"{pack.name}{end}").is_file() for end in (".pack", ".idx"))
    ]
    return packs if there == packs else []


def _of_history(git: Git, packs: list[Pack], commit: str) -> list[Pack]:
    """Return the first packs of a list, up to the last one whose commit is in the history of `commit`."""
    for count in range(len(packs), 0, -1):
        if packs[count - 1].commit == commit or git.is_ancestor(packs[count - 1].commit, commit):
            return packs[:count]
    return []


def _taken_over(git: Git, root: Path, cut: str, commit: str) -> list[Pack]:
    """Link the packs of another workspace of this clone that are `commit`'s history too; of the one that was used last."""
    others = [path.parent for path in matching(root.parent, "*/packs.json") if path.parent != root]
    for other in sorted(others, key=_last_used, reverse=True):
        found = _of_history(git, _listed(other, cut), commit)
        if not found:
            continue
        with contextlib.suppress(OSError):  # it was taken away meanwhile, or is on another file system
            for name in filter(None, (pack.name for pack in found)):
                for path in matching(other / BORROWED / "pack", f"{name}.*"):
                    with contextlib.suppress(FileExistsError):
                        os.link(path, root / BORROWED / "pack" / path.name)
            return found
    return []


def _last_used(root: Path) -> float:
    try:
        return (root / "packs.json").stat().st_mtime
    except OSError:
        return 0.0


def _pack(git: Git, root: Path, commit: str, known: list[Pack]) -> Pack:
    """Pack what `commit` reaches and the commits of `known` do not; the name is empty where that is nothing."""
    revisions = [commit, *(f"^{pack.commit}" for pack in known)]
    if git.is_partial():  # pack-objects itself ends at a tree that is missing
        return Pack(commit, _packed(git, root, (), _present(git, *revisions)))
    if known and (name := git.pack_new(root / BORROWED, commit, known[-1].commit)):
        return Pack(commit, name)
    return Pack(commit, _packed(git, root, ("--revs",), "\n".join(revisions).encode() + b"\n"))


def _present(git: Git, *revisions: str) -> bytes:
    return git.run("rev-list", "--objects", "--missing=allow-any", *revisions)


def _packed(git: Git, root: Path, how: tuple[str, ...], data: bytes) -> str:
    """Write one pack into the workspace's folder, and return its file's name without an ending.

    Git's temporary files are to be there too, not in the person's repository: that may be on another file system, and read-only.
    Deltas and compression are taken as they are; looking for better ones would take longer than all the rest.
    """
    at = root / BORROWED
    env = {"GIT_OBJECT_DIRECTORY": str(at), "GIT_ALTERNATE_OBJECT_DIRECTORIES": quoted(git.common_dir / "objects")}
    words = ("--non-empty", "--quiet", "--delta-base-offset", "--window=0", "--missing=allow-any", *how)
    out = git.run("pack-objects", *words, str(at / "pack/pack"), data=data, env=env, config=["pack.compression=1"])
    name = out.decode().strip()
    return f"pack-{name}" if name else ""


def quoted(path: Path) -> str:
    """Return a path as git reads it in a list that is separated by colons."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


ROUNDS = 32  # how often it is looked what is missing below what has come: a round a level, where trees are missing too


class Promised(NamedTuple):
    """The objects that a partial clone has left at its remote. `base`: the trusted commit, nothing of whose history is brought
    with a protocol; `offline`: the remote is not asked."""

    clone: Clone
    base: str
    offline: bool

    def bring(self, oid: str, names: Sequence[str]) -> None:
        """Bring an object that is missing and those that are read with it. `names`: oids and `REVISION:PATH`, or a command's words.

        Raises:
            UnreachableError: the remote does not answer.
        """
        with self._by_hand():
            if all(ids.OID.fullmatch(name) for name in names):
                self._fetch([oid, *(name for name in names if name != oid)])  # those that are here already cost little
                return
            if oid not in bring_all(self.clone.git, self._fetch, *self._scope(names)):
                self._fetch([oid])

    def ahead(self, protocol: str, tip: str) -> None:
        """In a partial clone, bring every version of a protocol's folder along its branch: a verification reads them all.

        Raises:
            UnreachableError: the remote does not answer.
        """
        if self.clone.git.fetch_promised is not None:
            with self._by_hand():
                bring_all(self.clone.git, self._fetch, *self._chain(protocol, [tip]))

    @contextlib.contextmanager
    def _by_hand(self) -> Iterator[None]:
        """Let nothing be fetched unasked meanwhile: the block only asks which objects are missing."""
        git = self.clone.git
        usual, git.fetch_promised = git.fetch_promised, None
        try:
            yield
        finally:
            git.fetch_promised = usual

    def _fetch(self, oids: list[str]) -> None:
        if self.offline:
            raise UnreachableError(
                "this is a partial clone, and the objects that are needed are on its remote, which --offline does not contact",
                oids[0],
                "run the same command again without --offline",
            )
        try:
            remote.fetch_objects(self.clone, oids)
        except UnreachableError as error:
            raise UnreachableError(
                f"this is a partial clone, and the objects that are needed are on its remote: {error.what}",
                error.where,
                error.hint,
            ) from error

    def _scope(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return (commits, paths) of all that comes along with the objects that are read."""
        git = self.clone.git
        split = [name.partition(":") for name in names if ":" in name and "\n" not in name]
        pairs = {(revision, path) for revision, _, path in split if _is_commit(git, revision)}
        if not pairs:  # a git command: the whole trees of the commits that it is about
            return [name for name in names if ids.OID.fullmatch(name) and _is_commit(git, name)], []
        folders = {path.split("/")[1] for _, path in pairs if path.startswith(f"{paths.ROOT}/") and path.count("/") > 1}
        tips = sorted({revision for revision, _ in pairs})
        if len(folders) == 1 and ids.is_protocol_id(name := folders.pop()):
            return self._chain(name, tips)
        return tips, sorted({path for _, path in pairs})

    def _chain(self, protocol: str, tips: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return (commits, paths) of every version of a protocol's folder that the trusted branch has not."""
        commits = self.clone.git.try_run("rev-list", *tips, f"^{self.base}", "--")[1].decode()
        return [*tips, *commits.split()], [paths.folder(protocol)]


def bring_all(
    git: Git, fetch: Callable[[list[str]], None], revisions: Sequence[str], below: Sequence[str] = ()
) -> set[str]:
    """Fetch the missing objects of these commits' trees, below the paths alone where there are any; return their ids.

    Trees come first, each with those below it: a server that is asked for a tree and for a file in it leaves the file out.
    """
    asked: set[str] = set()
    for only in (("--filter=blob:none",), ()):
        for _ in range(ROUNDS):
            wanted = _missing(git, revisions, below, *only)
            if not wanted or asked.issuperset(wanted):
                break
            fetch(wanted)
            asked |= set(wanted)
    return asked


def _missing(git: Git, revisions: Sequence[str], below: Sequence[str] = (), *options: str) -> list[str]:
    """Return the objects of these commits' trees that are not here, those below the paths alone where there are any."""
    if not revisions:
        return []
    lines_in = "".join(f"{line}\n" for line in (*revisions, "--", *below)).encode("utf-8", "surrogateescape")
    args = ("rev-list", "--objects", "--no-object-names", "--no-walk", "--missing=print", *options, "--stdin")
    code, out, _ = git.try_run(*args, data=lines_in)
    lines = lines_of(out.decode("utf-8", "surrogateescape")) if code == 0 else []
    return [line[1:] for line in lines if line.startswith("?")]


def _is_commit(git: Git, revision: str) -> bool:
    try:
        return git.resolve(revision) is not None
    except GitError:
        return False
