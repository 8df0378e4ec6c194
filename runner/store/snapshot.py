"""A protocol as it is in one commit: its files read from git's objects, never from a work tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from runner.errors import IntegrityError, MalformedFileError
from runner.git import BLOB, EXECUTABLE, LINK, SUBMODULE, Git, TreeEntry
from runner.protocol import paths, state
from runner.protocol.state import Rendered, State


class Folder(dict[str, TreeEntry]):
    """Every file of a protocol's folder, by its name in it; not changed. The parts that each transition needs are picked out once."""

    @cached_property
    def plan_files(self) -> dict[str, TreeEntry]:
        """Those that people write."""
        return {name: entry for name, entry in self.items() if paths.is_top_markdown(name)}

    @cached_property
    def parts(self) -> list[str]:
        """The ids of those that hold an earlier part of the log."""
        return [entry.oid for name, entry in self.items() if _is_part(name)]

    def with_(self, changes: Mapping[str, TreeEntry]) -> Folder:
        """Return the folder with these files written."""
        made = Folder(self)
        made.update(changes)
        for name, belongs in (("plan_files", paths.is_top_markdown), ("parts", _is_part)):
            if name in self.__dict__ and not any(map(belongs, changes)):
                made.__dict__[name] = self.__dict__[name]
        return made


def _is_part(name: str) -> bool:
    return name.startswith("log/")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A protocol in the commit `tip`; `rendered`: what those after it share."""

    protocol: str
    tip: str
    tree: str
    files: Folder = field(repr=False)
    state: State
    log: bytes = field(repr=False)
    rendered: Rendered = field(default_factory=Rendered, repr=False, compare=False)

    @property
    def where(self) -> str:
        """The folder and the commit, for messages."""
        return f"{paths.folder(self.protocol)} in {self.tip[:8]}"


def folder_files(git: Git, tip: str, protocol: str) -> dict[str, TreeEntry] | None:
    """Return the files below the protocol's folder in a commit, by name in the folder; None where there is no folder.

    Raises:
        IntegrityError: a symbolic link, a submodule or names that differ in case only.
    """
    if git.tree(f"{tip}:{paths.folder(protocol)}") is None:
        return None
    found = git.below(f"{tip}:{paths.folder(protocol)}")
    refuse_odd_names(found, f"{paths.folder(protocol)} in {tip[:12]}")
    return found


def refuse_odd_names(files: dict[str, TreeEntry], where: str) -> None:
    """Refuse files that must not be below .protocols: links, submodules, case collisions, names that are not ASCII.

    Raises:
        IntegrityError: naming it.
    """
    for path, entry in files.items():
        if entry.mode in (LINK, SUBMODULE):
            kind = "a symbolic link" if entry.mode == LINK else "a submodule"
            raise IntegrityError(f"{path!r} is {kind}", where, "remove it; files below .protocols are plain files")
    for path, other in paths.odd_names(files):
        if other:
            raise IntegrityError(f"{other} and {path} differ in case only", where, "rename one of them")
        raise IntegrityError(f"{path!r} is not plain ASCII", where, "rename it")


def read(git: Git, tip: str, protocol: str) -> Snapshot:
    """Return the protocol as it is in the commit `tip`; that the record is right is checked elsewhere.

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
    data, log = (git.require(files[name].oid, f"{name} of commit {tip[:12]}") for name in (paths.STATE, paths.LOG))
    return Snapshot(protocol, commit.oid, commit.tree, Folder(files), state.load(data, f"{where}/{paths.STATE}"), log)


def plan_files(git: Git, snapshot: Snapshot) -> dict[str, bytes]:
    """Return the plan files of a snapshot: name in the folder to bytes.

    Raises:
        MalformedFileError: a file is a link or a submodule. InsufficientHistoryError: it is not in this clone.
    """
    files = snapshot.files.plan_files
    for name, entry in files.items():
        if entry.mode not in (BLOB, EXECUTABLE):
            raise MalformedFileError(f"{name} is not a plain file", snapshot.where, "replace it by one")
    at = f"of commit {snapshot.tip[:12]}"
    found = git.require_all({entry.oid: f"{name} {at}" for name, entry in files.items()})
    return {name: found[entry.oid] for name, entry in files.items()}
