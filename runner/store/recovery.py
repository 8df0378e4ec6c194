"""What is lost here and can be had again: objects from the remote, from work trees and from what is left of a pack; refs from
reflogs, marks, histories and the remote.

What is broken is put aside, under `runner/damaged/` beside the repository, before anything takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from runner import beneath
from runner.errors import IntegrityError, UnreachableError
from runner.folders import matching
from runner.git import Git, GitError, damage
from runner.git.person import token_settings
from runner.lines import lines_of
from runner.protocol import ids
from runner.store import history, locks, marks, trusted
from runner.store.places import Places
from runner.store.remote import Mirror
from runner.store.surroundings import Surroundings

MOST_READ = 1_000_000_000  # bytes of a file in a workspace: a step may leave one that never ends
REFETCH_SECONDS = 3600.0
BROUGHT = ("refs/heads/*", "refs/tags/*", "refs/runner/*")


def remote(git: Git, places: Places, who: Surroundings) -> Mirror | None:
    """Return the remote, where there is one at the address that is pinned."""
    name, pin = trusted.remote_name(git), trusted.read_pin(places)
    if name is None or (pin is not None and (pin.remote, pin.url) != (name, trusted.remote_url(git, name))):
        return None
    return Mirror.of(git, places, who)


def put_aside(places: Places, path: Path, *, name: str = "", stays: bool = False) -> Path:
    """Move a broken file to where nothing reads it, and return where it is now. `name`: what it is called there; `stays`: it is a copy
    that is put there, as what takes its place does so in one go."""
    places.damaged.mkdir(parents=True, exist_ok=True)
    name = name or (path.parent.name + path.name if len(path.parent.name) == 2 else path.name)
    aside, count = places.damaged / name, 1
    while aside.exists():
        aside, count = places.damaged / f"{name}.{count}", count + 1
    if stays:
        shutil.copyfile(path, aside)
    else:
        shutil.move(path, aside)  # the objects may lie on a disk of their own
    return aside


# --- objects -----------------------------------------------------------------------------------------------------------


def refetch(mirror: Mirror) -> None:
    """Bring everything that the remote has once more, whatever is here, as packs that are whole.

    Raises:
        UnreachableError: the remote did not answer, or not all of it came; nothing was changed.
    """
    git = mirror.git
    at = git.common_dir / "objects/incoming-runner"  # on their disk, so that a pack comes there whole or not at all
    shutil.rmtree(at, ignore_errors=True)
    objects = at / "objects"
    env = {**token_settings(mirror.url, mirror.who.environ), "GIT_OBJECT_DIRECTORY": str(objects)}
    specs = [f"+{name}:{name}" for name in BROUGHT]
    try:
        for argv in (
            ("init", "--quiet", "--bare", f"--object-format={git.object_format}"),
            (
                "-c",
                "fetch.unpackLimit=1",
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-recurse-submodules",
                mirror.url,
                *specs,
            ),
        ):
            code, _, err = git.transport(at, *argv, timeout=REFETCH_SECONDS, env=env)
            if code:
                told = lines_of(err)[0] if err else f"exit {code}"
                raise UnreachableError(
                    f"{mirror.remote} could not be fetched anew: {told}",
                    mirror.url,
                    f"try `git ls-remote {mirror.remote}`",
                )
        found = sorted((objects / "pack").glob("pack-*"), key=lambda path: path.suffix == ".idx")  # an index comes last
        packs = git.common_dir / "objects/pack"
        packs.mkdir(exist_ok=True)
        for path in found:
            os.replace(path, packs / path.name)
    finally:
        shutil.rmtree(at, ignore_errors=True)
    git.close()  # what is held open has looked for packs already


def deepen(mirror: Mirror) -> int:
    """Bring the history that is cut off in this clone, and return how many commits had no parents here.

    Raises:
        UnreachableError: the remote did not answer.
    """
    git, shallow = mirror.git, mirror.git.common_dir / "shallow"
    mirror.unshallow(REFETCH_SECONDS)
    cut = shallow.read_text().split()
    still = [oid for oid in cut if (commit := git.commit(oid)) and not all(is_here(git, one) for one in commit.parents)]
    if still:
        write_locked(shallow, "".join(f"{oid}\n" for oid in still).encode())
    else:
        shallow.unlink()
    git.close()
    return len(cut) - len(still)


def unpack(git: Git, pack: Path) -> None:
    """Write what a broken pack still holds as loose objects."""
    git.try_run("unpack-objects", "-r", "-q", data=pack.read_bytes())
    git.close()


def from_work_trees(git: Git, places: Places, oids: Collection[str]) -> list[str]:
    """Write the blobs and trees again that stand in a work tree or workspace as they were, and return which."""
    found: list[str] = []
    trees = [(tree.git_dir, tree.git_dir / "index", tree.path, _read) for tree in git.worktrees()]
    spaces = matching(places.own, "*/index")
    trees += [(git.common_dir, index, index.parent / "work", _read_beneath) for index in spaces]
    for git_dir, index, work, read in trees:
        if not index.exists():
            continue
        with contextlib.suppress(GitError):
            out = git.run("ls-files", "-s", "-z", git_dir=git_dir, index=index)
            for line in filter(None, out.decode("utf-8", "surrogateescape").split("\0")):
                told, _, path = line.partition("\t")
                if (oid := told.split(" ")[1]) in oids and oid not in found and _write_blob(git, read(work, path), oid):
                    found.append(oid)
            # An index of its own: in the other one stands that these trees are written.
            fresh = places.beside / "index"
            fresh.unlink(missing_ok=True)
            git.run("update-index", "-z", "--index-info", data=out, index=fresh)
            git.run("write-tree", index=fresh)
            fresh.unlink()
    return [*found, *(oid for oid in oids if oid not in found and is_here(git, oid))]


def _read(work: Path, path: str) -> bytes | None:
    at = work / path
    try:
        return os.fsencode(os.readlink(at)) if at.is_symlink() else at.read_bytes()
    except OSError:
        return None


def _read_beneath(work: Path, path: str) -> bytes | None:
    """Read what a command may have put there: never through a link, and no more than a file has."""
    target = beneath.target(work, path)
    if target is not None:
        return os.fsencode(target)
    return next(
        (beneath.read(work, path, min(found.st_size, MOST_READ)) for _, found in beneath.statuses(work, [path])), None
    )


def _write_blob(git: Git, data: bytes | None, oid: str) -> bool:
    if data is None:
        return False
    if hashlib.new(git.object_format, b"blob %d\0%s" % (len(data), data)).hexdigest() != oid:
        return False
    git.write("blob", data)
    git.settle()
    return True


def is_here(git: Git, oid: str) -> bool:
    """Return whether an object can be read."""
    try:
        return git.object(oid) is not None
    except GitError:
        return False


# --- refs --------------------------------------------------------------------------------------------------------------


def sources(git: Git, places: Places, name: str) -> Iterator[tuple[str, str]]:
    """Yield (oid, where from) of what a ref may have named, by what stands on this machine: the most trustworthy first."""
    yield from ((oid, "its reflog") for oid, _ in damage.reflog(git.common_dir, name))
    protocol = name.rpartition("/")[2]
    if name.startswith("refs/heads/") and ids.is_protocol_id(protocol):
        mark = marks.read(places, protocol)
        if mark:
            yield mark, "the mark of what verified last"
        filed = git.ref(history.ref_of(protocol))
        commit = next(history.commits(git, protocol, filed), None) if filed else None
        if commit:
            yield commit[1], "its history"
    if name == trusted.REF:
        # A damaged one is told by whoever opens the project; the rest can be mended without it.
        with contextlib.suppress(IntegrityError):
            if pin := trusted.read_pin(places):
                yield pin.oid, "the pin"
    seen = trusted.remote_name(git)
    if name.startswith("refs/heads/") and seen:
        tracked = git.ref(f"refs/remotes/{seen}/{name.removeprefix('refs/heads/')}")
        if tracked:
            yield tracked, f"what {seen} had when it was last fetched"
    packed = damage.packed_refs(git.common_dir, git.oid_length)[0].get(name)
    if packed:
        yield packed, "packed-refs, which may be older"


def best(git: Git, places: Places, name: str) -> tuple[str, str] | None:
    """Return (commit, where from) of what a ref has to name again, or None where this machine does not know.

    The first source holds, unless another one goes on from it: the last lines of a reflog may be lost too.
    """
    found: tuple[str, str] | None = None
    reflogged = False
    for oid, where in sources(git, places, name):
        if where == "its reflog" and reflogged:
            continue
        if not is_here(git, oid) or (found and (found[0] == oid or not git.is_ancestor(found[0], oid))):
            continue
        reflogged = reflogged or where == "its reflog"
        if found is None or not where.startswith(("what", "packed")):
            found = oid, where
    return found


def set_ref(places: Places, who: Surroundings, path: Path, name: str, oid: str) -> bool:
    """Have a broken ref's file name `oid`, as git would write it; git itself refuses to move what it cannot read.

    One that names something by now was not broken, or somebody mended it: it is left, and False returned.

    Raises:
        HeldError: a runner moves it just now. FileExistsError: a git does.
    """
    with locks.hold(places.publish_lock(name), who, what=name, wait=5.0):
        return write_locked(path, f"{oid}\n".encode(), unless=lambda: _names(places.common, path, name, len(oid)))


def _names(common: Path, path: Path, name: str, oid_length: int) -> bool:
    """Return whether a ref names something, by its file, or by `packed-refs` where it has none."""
    if path.is_file():
        return damage.oid_in(path, oid_length) is not None
    return name in damage.packed_refs(common, oid_length)[0]


def write_locked(path: Path, data: bytes, unless: Callable[[], bool] = lambda: False) -> bool:
    """Put a file of git's in place under git's own lock for it, on the disk; False, and nothing, where `unless` says so then.

    Raises:
        FileExistsError: a git has it locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        if unless():
            lock.unlink()
            return False
        if path.is_dir():  # git too takes folders away that nothing is in
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)
        os.rename(lock, path)
        return True
    except BaseException:
        lock.unlink(missing_ok=True)
        raise
