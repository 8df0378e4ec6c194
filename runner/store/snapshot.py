"""A protocol as it stands in one commit: its files read from git's objects, never from a work tree."""

from __future__ import annotations

from dataclasses import field

from runner.errors import IntegrityError, MalformedFileError
from runner.git import BLOB, EXECUTABLE, LINK, SUBMODULE, TREE, Git, TreeEntry
from runner.protocol import paths, state
from runner.protocol.state import Rendered, State
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`tip`: the commit; `files`: every file of the protocol's folder, by its name in it; `rendered`: what those after it share."""

    protocol: str
    tip: str
    tree: str
    files: dict[str, TreeEntry] = field(repr=False)
    state: State
    log: bytes = field(repr=False)
    rendered: Rendered = field(default_factory=dict, repr=False, compare=False)

    @property
    def where(self) -> str:
        """The folder and the commit, for messages."""
        return f"{paths.folder(self.protocol)} in {self.tip[:8]}"


def folder_files(git: Git, tip: str, protocol: str) -> dict[str, TreeEntry] | None:
    """Return the files below the protocol's folder in a commit, by name in the folder; None where there is no folder.

    Raises:
        IntegrityError: a symbolic link, a submodule or names that differ in case only.
    """
    root = git.tree(f"{tip}:{paths.folder(protocol)}")
    if root is None:
        return None
    found: dict[str, TreeEntry] = {}
    stack = [("", root)]
    while stack:
        prefix, tree = stack.pop()
        for name, entry in tree.items():
            path = prefix + name
            if entry.mode == TREE:
                inner = git.tree(entry.oid)
                if inner is None:
                    raise IntegrityError(f"{path}/ is missing", f"commit {tip[:12]}", "run `git fsck`, or `git fetch`")
                stack.append((f"{path}/", inner))
            else:
                found[path] = entry
    refuse_odd_names(found, f"{paths.folder(protocol)} in {tip[:12]}")
    return found


def refuse_odd_names(files: dict[str, TreeEntry], where: str) -> None:
    """Refuse what must not stand below .protocols: links, submodules, case collisions, names that are not ASCII.

    Raises:
        IntegrityError: naming it.
    """
    folded: dict[str, str] = {}
    for path, entry in files.items():
        if entry.mode in (LINK, SUBMODULE):
            kind = "a symbolic link" if entry.mode == LINK else "a submodule"
            raise IntegrityError(f"{path!r} is {kind}", where, "remove it; files below .protocols are plain files")
        if not path.isascii() or not path.isprintable() or "\\" in path:
            raise IntegrityError(f"{path!r} is not plain ASCII", where, "rename it")
        other = folded.setdefault(path.lower(), path)
        if other != path:
            raise IntegrityError(f"{other} and {path} differ in case only", where, "rename one of them")


def read(git: Git, tip: str, protocol: str) -> Snapshot:
    """Return the protocol as it stands in the commit `tip`; that the record is right is checked elsewhere.

    Raises:
        IntegrityError: there is no record, or it cannot be read.
    """
    commit = git.commit(tip)
    files = folder_files(git, tip, protocol)
    where = f"{paths.folder(protocol)} in {tip[:12]}"
    if commit is None or files is None or paths.STATE not in files or paths.LOG not in files:
        raise IntegrityError(
            f"there is no record of {protocol}", where, "run `runner doctor`, or `git log` to see who took it away"
        )
    data = git.blob(files[paths.STATE].oid)
    log = git.blob(files[paths.LOG].oid)
    if data is None or log is None:
        raise IntegrityError("the record's objects are missing", where, "run `git fsck`, or `git fetch`")
    return Snapshot(protocol, commit.oid, commit.tree, files, state.load(data, f"{where}/{paths.STATE}"), log)


def word_files(snapshot: Snapshot) -> dict[str, TreeEntry]:
    """Return the entries of the people's files of a snapshot, by their names in the folder."""
    return {
        name: entry
        for name, entry in snapshot.files.items()
        if name.endswith(".md") and name != paths.LOG and "/" not in name
    }


def words(git: Git, snapshot: Snapshot) -> dict[str, bytes]:
    """Return the people's files of a snapshot: name in the folder to bytes.

    Raises:
        MalformedFileError: a file is executable or too big to be read.
    """
    found = {}
    files = word_files(snapshot)
    for name, entry in files.items():
        if entry.mode not in (BLOB, EXECUTABLE):
            raise MalformedFileError(f"{name} is not a plain file", snapshot.where, "replace it by one")
    for name, data in zip(files, git.blobs([entry.oid for entry in files.values()]), strict=True):
        if data is None:
            raise IntegrityError(f"{name} is missing", snapshot.where, "run `git fsck`, or `git fetch`")
        found[name] = data
    return found
