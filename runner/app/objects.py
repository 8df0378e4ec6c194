"""Objects, packs and indexes that a crash of the machine broke: had again from the remote or from work trees, else named."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from runner.app.repair import Finding, Repair
from runner.errors import RunnerError
from runner.folders import matching
from runner.git import Git, damage
from runner.store import recovery, trusted
from runner.store.places import Places
from runner.store.surroundings import Surroundings


def look(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield what is broken; looked for anew after what came before was mended."""
    store = git.common_dir / "objects"
    for path in matching(store, "[0-9a-f][0-9a-f]", "pack", "info"):
        if path.is_file():
            yield Repair(
                Finding(
                    "here",
                    "a file stands where a folder of git's objects belongs",
                    str(path),
                    "what lay in it is lost, and git fails at each object that belongs there",
                    "`runner doctor --fix` puts it aside, and brings what is missing again",
                ),
                partial(_mend_folder, git, places, who, path),
            )
    derived = (
        store / "pack/multi-pack-index",
        store / "info/commit-graph",
        *matching(store, "info/commit-graphs/*.graph"),
    )
    for path in derived:
        if path.exists() and not damage.is_sealed(git, path) and path.exists():  # git may make it anew just now
            yield Repair(
                Finding(
                    "here",
                    f"what git keeps to find objects faster is broken: {path.name}",
                    str(path),
                    "git stops at it, or complains at every command; nothing is lost with it",
                    "`runner doctor --fix` puts it aside; `git maintenance run` makes it anew",
                ),
                partial(_put_aside, git, places, path),
            )
    for git_dir, where in _indexes(git):
        why = damage.index(git, git_dir)
        if why:
            yield Repair(
                Finding(
                    "here",
                    f"the index of a work tree is broken: {why}",
                    where,
                    "git refuses to work there; what was staged is known by nothing else, the files are as they were",
                    "`runner doctor --fix` makes it anew from the last commit",
                ),
                partial(_mend_index, git, places, git_dir, where),
            )
    for pack, why in list(damage.packs(git)):
        yield Repair(
            Finding(
                "here",
                f"a pack is broken: {why}",
                str(pack),
                "what lies in it cannot be read",
                "`runner doctor --fix` saves what it still holds and fetches the rest again from the remote",
            ),
            partial(_mend_pack, git, places, who, pack),
        )
    broken = list(damage.loose(git))
    if broken:
        yield Repair(
            Finding(
                "here",
                f"{_count(len(broken), 'object')} broken: {_listed([f'{one.oid[:12]} ({one.why})' for one in broken])}",
                str(broken[0].path),
                "what needs it cannot be read, and git does not write it again",
                "`runner doctor --fix` puts it aside and brings it again: from the remote, or from a work tree",
            ),
            partial(_mend_loose, git, places, who, broken),
        )
    for one in _lost(git, places):
        yield Repair(
            Finding(
                "here",
                f"a {one.kind} is missing: {one.oid}",
                one.name or str(git.common_dir),
                f"whatever needs it fails{': ' + one.name if one.name else ''}",
                _remains(git, one),
            ),
            partial(_mend_missing, git, places, who, one),
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s are' if number != 1 else ' is'}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _put_aside(git: Git, places: Places, path: Path) -> str:
    chain = path.with_name("commit-graph-chain")
    for one in (path, *([chain] if chain.exists() else [])):
        recovery.put_aside(places, one)
    git.close()
    return f"put {path} aside, which git can do without"


# --- indexes -----------------------------------------------------------------------------------------------------------


def _indexes(git: Git) -> list[tuple[Path, str]]:
    return [(tree.git_dir, str(tree.path)) for tree in git.worktrees()]


def _mend_index(git: Git, places: Places, git_dir: Path, where: str) -> str:
    # A copy is put aside: where there is no index git takes all files for deleted.
    aside = recovery.put_aside(places, git_dir / "index", stays=True)
    git.run("read-tree", "HEAD", git_dir=git_dir, index=git_dir / "index")
    git.try_run("update-index", "-q", "--refresh", git_dir=git_dir, work_tree=Path(where), index=git_dir / "index")
    return f"made the index of {where} anew from its last commit; the broken one is {aside}"


# --- objects -----------------------------------------------------------------------------------------------------------

_FOLDER = "folder-"  # a file that is aside under such a name stood for a folder of objects, and these may be missing


def _refetch(git: Git, places: Places, who: Surroundings) -> str:
    """Bring everything anew from the remote, where there is one, and say so."""
    try:
        mirror = recovery.remote(git, places, who)
        if mirror is None:
            return ""
        recovery.refetch(mirror)
    except RunnerError as error:
        who.say(f"{error.what}; going on with what is here")
        return ""
    return f", fetched everything that {mirror.remote} has again"


def _mend_folder(git: Git, places: Places, who: Surroundings, path: Path) -> str:
    aside = recovery.put_aside(places, path, name=f"{_FOLDER}{path.name}")
    git.close()
    fetched = _refetch(git, places, who)
    if damage.missing(git):
        return f"put the file {path} aside{fetched}: {aside}"
    if aside.stat().st_size:
        aside = recovery.put_aside(places, aside, name=path.name)  # no sign any more that something is missing
        return f"put the file {path} aside{fetched}; nothing is missing: {aside}"
    aside.unlink()
    return f"took the empty file {path} away{fetched}; nothing is missing"


def _mend_pack(git: Git, places: Places, who: Surroundings, pack: Path) -> str:
    fetched = _refetch(git, places, who)
    if not pack.exists():
        recovery.put_aside(places, pack.with_suffix(".idx"))
        return f"put the index of a pack aside that is gone{fetched}"
    aside = pack
    for path in sorted(
        pack.parent.glob(f"{pack.stem}.*"), key=lambda path: path.suffix == ".idx"
    ):  # the index goes last
        moved = recovery.put_aside(places, path)
        aside = moved if path == pack else aside
    recovery.unpack(git, aside)
    if damage.missing(git):
        return f"put a broken pack aside, saved what it still held{fetched}: {aside}"
    for path in places.damaged.glob(f"{pack.stem}.*"):
        path.unlink()
    return f"took a broken pack away, saved what it still held{fetched}: nothing is missing"


def _mend_loose(git: Git, places: Places, who: Surroundings, broken: list[damage.BrokenObject]) -> str:
    for one in broken:
        recovery.put_aside(places, one.path)
    git.close()
    left = _restore(git, places, who, {one.oid for one in broken})
    needed = {one.oid for one in damage.missing(git)} & left
    for oid in {one.oid for one in broken} - needed:  # had again, or nothing needs it
        (places.damaged / oid).unlink(missing_ok=True)
    again, unneeded = len(broken) - len(left), len(left) - len(needed)
    told = [f"{again} restored"] if again else []
    told += [f"{unneeded} that nothing needs taken away"] if unneeded else []
    told += [f"{len(needed)} put aside in {places.damaged}"] if needed else []
    return f"{_count(len(broken), 'broken object')} seen to: {', '.join(told)}"


def _restore(git: Git, places: Places, who: Surroundings, oids: set[str]) -> set[str]:
    """Bring objects again, from packs, work trees and the remote; return those that nobody here has."""
    left = {oid for oid in oids if not recovery.is_here(git, oid)}
    left -= set(recovery.from_work_trees(git, places, left)) if left else set()
    if left and _refetch(git, places, who):
        left = {oid for oid in left if not recovery.is_here(git, oid)}
        left -= set(recovery.from_work_trees(git, places, left)) if left else set()
    return left


def _lost(git: Git, places: Places) -> list[damage.Missing]:
    """Return what is missing. Everything is gone through only where there is a sign of it: that takes as long as `git fsck`."""
    if git.is_shallow() or git.is_partial():
        return []  # git knows what it lacks there
    refs = git.refs("refs/heads/", "refs/runner/")
    base = next((refs[name] for name in (trusted.REF, "refs/heads/main", "refs/heads/master") if name in refs), None)
    aside = [path.name for path in matching(places.damaged, "*")]
    is_told = any(len(name) == git.oid_length or name.endswith(".pack") or name.startswith(_FOLDER) for name in aside)
    is_told = is_told or damage.lacks(git, set(refs.values()), base)
    is_told = is_told or any(
        one.oid and not one.name.startswith("refs/remotes/") for one in damage.refs(git, git.common_dir)
    )
    return damage.missing(git) if is_told else []


def _mend_missing(git: Git, places: Places, who: Surroundings, one: damage.Missing) -> str:
    if recovery.is_here(git, one.oid):  # it came with another one
        return ""
    for pack in sorted(places.damaged.glob("*.pack")):
        recovery.unpack(git, pack)
    if _restore(git, places, who, {one.oid}):
        return ""
    (places.damaged / one.oid).unlink(missing_ok=True)
    return f"brought {one.kind} {one.oid[:12]} again"


def _remains(git: Git, one: damage.Missing) -> str:
    """Return what helps where nothing here has the object."""
    remote = trusted.remote_name(git)
    here = f"{remote} may have it: `runner doctor --fix`" if remote else "there is no remote to have it from"
    copied = f"`git -C CLONE cat-file {one.kind} {one.oid} | git hash-object -w -t {one.kind} --stdin`"
    return f"{here}; another clone that has it gives it: {copied}"
