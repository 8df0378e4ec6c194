"""The objects that a workspace's repository has: those of its commit's own history, and no others.

The repository of a clone holds more: deleted branches, other protocols, unpublished commits. A command in the sandbox could read
it all. So the runner packs what a commit reaches into a folder of its own beside the workspace, and that folder alone is shown. It
is a list of packs; each holds what its commit reaches and the commits before it in the list do not. A later commit of the same
history adds a small one. Another workspace of the clone takes over, by hard links, those packs whose commits are in its own history
too: the first protocol pays for the whole history, the next ones for new commits.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from runner.git import Git
from runner.protocol.ids import digest
from runner.store.environment import matching
from runner.values import dataclass

MOST = 40  # packs; git looks into each of them for an object that it does not have yet
LONG = 20_000  # commits; packing takes seconds from there on, and a message says so


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack: the commit that it was made for, and its file's name without an ending."""

    commit: str
    name: str


def objects(root: Path) -> Path:
    """Return the folder of the objects that the workspace at `root` borrows."""
    return root / "objects"


def lend(git: Git, root: Path, commit: str, trusted: str | None, say: Callable[[str], None]) -> None:
    """Have the objects of `commit`'s history, and no others, in the folder of the workspace at `root`.

    `trusted`: a commit that other protocols of this clone grow out of too; what it shares with `commit` gets a pack of its own.

    Raises:
        GitError: an object of the history is damaged.
        OSError: the folder cannot be written.
    """
    folder = objects(root) / "pack"
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
        names.add(_pack_tree(git, root, commit))
    listed = {"cut": cut, "packs": [[pack.commit, pack.name] for pack in kept]}
    _write(root / "packs.json", json.dumps(listed).encode())
    for path in folder.iterdir():
        if path.stem not in names:
            path.unlink()


def _write(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all; where a crash of the machine takes it back, the packs are made again."""
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(data)
    aside.replace(path)


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
    folder = objects(root) / "pack"
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
                for path in matching(objects(other) / "pack", f"{name}.*"):
                    with contextlib.suppress(FileExistsError):
                        os.link(path, objects(root) / "pack" / path.name)
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
    return Pack(commit, _packed(git, root, ("--revs",), "\n".join(revisions).encode() + b"\n"))


def _pack_tree(git: Git, root: Path, commit: str) -> str:
    """Pack the files of one commit: in a partial clone they may have come after the packs that should have them."""
    return _packed(git, root, (), _present(git, "--no-walk", commit))


def _present(git: Git, *revisions: str) -> bytes:
    return git.run("rev-list", "--objects", "--missing=allow-any", *revisions)


def _packed(git: Git, root: Path, how: tuple[str, ...], data: bytes) -> str:
    """Write one pack into the workspace's folder, and return its file's name without an ending.

    Git's temporary files are to be there too, not in the person's repository: that may be on another file system, and read-only.
    Deltas and compression are taken as they are; looking for better ones would take longer than all the rest.
    """
    at = objects(root)
    env = {"GIT_OBJECT_DIRECTORY": str(at), "GIT_ALTERNATE_OBJECT_DIRECTORIES": quoted(git.common_dir / "objects")}
    words = ("--non-empty", "--quiet", "--delta-base-offset", "--window=0", "--missing=allow-any", *how)
    out = git.run("pack-objects", *words, str(at / "pack/pack"), data=data, env=env, config=["pack.compression=1"])
    name = out.decode().strip()
    return f"pack-{name}" if name else ""


def quoted(path: Path) -> str:
    """Return a path as git reads it in a list that is separated by colons."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
