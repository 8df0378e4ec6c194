"""Find objects and indexes that a machine crash broke; restore them from work trees or the remote, or report them.

Broken packs, and what git only keeps to be faster, are left to git's own commands: git's complaint is shown with the command.
Broken files are moved to `runner/damaged/` beside the repository before anything takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner import beneath
from runner.app.doctor import REFETCH_SECONDS, Finding, fault, has, pinned_remote, put_aside, refs
from runner.errors import RunnerError, UnreachableError
from runner.git import Git, GitError
from runner.git.repository import token_settings
from runner.lines import few, lines_of
from runner.store import trusted
from runner.store.environment import Clone, matching
from runner.store.remote import Mirror

MOST_READ = 1_000_000_000  # bytes of a file in a workspace: a step may leave one that never ends
CHUNK = 1 << 20
FETCHED = ("refs/heads/*", "refs/tags/*", "refs/runner/*")
# A file in `damaged` with such a name was in the place of a folder of objects, which may be missing.
_FOLDER = "folder-"


@dataclass(frozen=True, slots=True)
class BrokenObject:
    """A loose object whose file does not hold it."""

    oid: str
    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Missing:
    """An object that something refers to and that is not here. `kind`: its type; `name`: where, as `BRANCH:PATH`."""

    oid: str
    kind: str
    name: str


# --- what git complains about ------------------------------------------------------------------------------------------

_PROBES = (
    ("for-each-ref",),
    ("count-objects", "-v"),
    ("-c", "core.commitGraph=true", "rev-list", "--all", "--max-count=1"),
)


def complaints(clone: Clone) -> Iterator[Finding]:
    """Yield git's complaints about its own files, each with the command of git that helps.

    Raises:
        GitError: git does not find its objects, so no later check can work.
    """
    git = clone.git
    found = _complaints(clone)
    if found:  # a git that is packing removes files between two looks
        again = _complaints(clone)
        found = {key: one for key, one in found.items() if key in again}
    yield from found.values()
    if any(not key.endswith(("commit-graph", "name")) for key in found):
        raise GitError("git cannot read its objects", str(git.common_dir), "`git fsck` says more")


def _complaints(clone: Clone) -> dict[str, Finding]:
    """Return what git complains about, by file: each once."""
    found: dict[str, Finding] = {}
    for probe in _PROBES:
        for line in lines_of(clone.git.try_run(*probe)[2]):
            if line.endswith(".lock"):
                continue  # `clone.dead_locks` judges locks
            for pattern, advise in _ADVICE:
                if said := re.search(pattern, line):
                    key, where, consequence, command = advise(clone, said)
                    text = line.removeprefix("error: ").removeprefix("fatal: ").removeprefix("warning: ")
                    found.setdefault(key, fault(f"git reports: {text}", where, consequence, command))
                    break
    return found


_Advice = tuple[str, str, str, str]  # the file as a key, where it is, the consequence, the command


def _multi_pack_index(clone: Clone, said: re.Match[str]) -> _Advice:
    path = clone.git.common_dir / "objects/pack/multi-pack-index"
    return (
        str(path),
        str(path),
        "git complains or stops at every command; nothing is lost with it",
        f"`rm {_quoted(path)}`: git works without this file",
    )


def _commit_graph(clone: Clone, said: re.Match[str]) -> _Advice:
    path = clone.git.common_dir / "objects/info"
    consequence = "git complains at every command; nothing is lost with it"
    return f"{path}/commit-graph", str(path), consequence, "`git commit-graph write --reachable` rewrites it"


def _ref_name(clone: Clone, said: re.Match[str]) -> _Advice:
    path = clone.git.common_dir / said[1]
    return f"{path}/name", str(path), "no ref can have this name; git ignores the file", f"`rm {_quoted(path)}`"


def _pack_index(clone: Clone, said: re.Match[str]) -> _Advice:
    name = said[1] or said[2]
    pack = clone.git.common_dir / "objects/pack" / f"{name}.pack"
    command = f"`git index-pack {_quoted(pack)}` rebuilds the index" if pack.exists() else _moved(clone, name)
    return f"{pack}", str(pack.with_suffix(".idx")), "git does not find the objects in this pack", command


def _pack(clone: Clone, said: re.Match[str]) -> _Advice:
    pack = clone.git.common_dir / "objects/pack" / f"{said[1]}.pack"
    aside = _quoted(clone.dirs.damaged / pack.name)
    save = f"`git unpack-objects -r < {aside}` saves what it still holds; "
    return f"{pack}", str(pack), "git cannot read the objects in this pack", _moved(clone, said[1], save)


def _cut(clone: Clone, said: re.Match[str]) -> _Advice:
    path = clone.git.common_dir / "shallow"
    command = f"`mv {_quoted(path)} {_quoted(path)}.broken`; then `git fetch --refetch` fetches the missing commits"
    return str(path), str(path), "git does not know where the history of this clone ends, and does not work", command


def _folder(clone: Clone, said: re.Match[str]) -> _Advice:
    path = clone.git.common_dir / "objects" / said[1]
    command = _moved(clone, said[1])
    return str(path), str(path), "a file is in the place of a folder; git does not find the objects of it", command


def _moved(clone: Clone, name: str, save: str = "") -> str:
    """Return the command that moves a file away, and what brings its objects again. `name`: a pack's, or a folder's of objects."""
    damaged, objects = _quoted(clone.dirs.damaged), clone.git.common_dir / "objects"
    is_pack = name.startswith("pack-")
    source = f"{_quoted(objects / 'pack' / name)}.*" if is_pack else _quoted(objects / name)
    target = damaged if is_pack else _quoted(clone.dirs.damaged / f"{_FOLDER}{name}")
    remote = trusted.remote_name(clone.git)
    again = f"`runner doctor --fix` fetches the missing objects again from {remote}" if remote else ""
    again = again or "`runner doctor` names the missing objects"
    return f"`mkdir -p {damaged} && mv {source} {target}`; then {save}{again}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


_ADVICE = (
    (r"multi-pack-index", _multi_pack_index),
    (r"commit-graph", _commit_graph),
    (r"ignoring ref with broken name (.+)", _ref_name),
    (r"(pack-[0-9a-f]+)\.idx|no corresponding \.idx: .*(pack-[0-9a-f]+)\.pack", _pack_index),
    (r"(pack-[0-9a-f]+)\.pack", _pack),
    (r"bad shallow line", _cut),
    (r"unable to open .*objects/([0-9a-f]{2}|pack): Not a directory", _folder),
)


# --- indexes -----------------------------------------------------------------------------------------------------------


def indexes(clone: Clone) -> Iterator[Finding]:
    """Yield the work trees whose index git cannot read."""
    for tree in clone.git.worktrees():
        why = _wrong_index(clone.git, tree.git_dir)
        if why:
            yield fault(
                f"the index of a work tree is broken: {why}",
                str(tree.path),
                "git refuses to work there; the staged changes are lost, the files are unchanged",
                f"`git -C {_quoted(tree.path)} read-tree HEAD` rewrites it from the last commit",
            )


def _wrong_index(git: Git, git_dir: Path) -> str:
    """Return why a work tree's index cannot be read, or nothing. A complete one that a newer git wrote is not broken."""
    if not (git_dir / "index").exists():
        return ""
    with contextlib.suppress(GitError):
        code, _, err = git.try_run("ls-files", "--error-unmatch", "--", "", git_dir=git_dir)
        lines = [line for line in lines_of(err) if "index" in line and code == 128]
        is_newer = lines and re.search("index uses .* extension|bad index version", lines[0])
        if is_newer and _has_digest(git, git_dir / "index"):
            return ""
        return lines[0].removeprefix("error: ").removeprefix("fatal: ") if lines else ""
    return ""


def _has_digest(git: Git, path: Path) -> bool:
    """Return whether a file ends with the digest of its content."""
    try:
        data, width = path.read_bytes(), git.oid_length // 2
    except OSError:
        return False
    return hashlib.new(git.object_format, data[:-width]).digest() == data[-width:]


# --- loose objects -----------------------------------------------------------------------------------------------------


def loose(clone: Clone) -> Iterator[Finding]:
    """Yield that loose objects are broken; every one is read."""
    broken = list(_broken(clone.git))
    if broken:
        names = [f"{one.oid[:12]} ({one.why})" for one in broken]
        yield fault(
            f"{_count(len(broken), 'object')} broken: {few(names)}",
            str(broken[0].path),
            "git cannot read it, and does not write it again",
            "`runner doctor --fix` moves it aside and restores it from a work tree or from the remote",
            broken,
        )


def _broken(git: Git) -> Iterator[BrokenObject]:
    objects = git.common_dir / "objects"
    for folder in matching(objects, "[0-9a-f][0-9a-f]"):
        for path in matching(folder, "*"):
            oid = folder.name + path.name
            if len(oid) == git.oid_length and (why := _wrong(path, oid, git.object_format)):
                yield BrokenObject(oid, path, why)


def _wrong(path: Path, oid: str, algorithm: str) -> str:
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        made, digest = zlib.decompressobj(), hashlib.new(algorithm)
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(made.decompress(data))
    except FileNotFoundError:  # packed meanwhile
        return ""
    except (OSError, zlib.error) as error:
        return f"it cannot be read: {error}"
    if not made.eof:
        return "it is cut short"
    return "" if digest.hexdigest() == oid else "it holds something else"


def fix_loose(clone: Clone, broken: list[BrokenObject]) -> str:
    """Move broken objects aside, and restore those that something needs."""
    git, dirs = clone.git, clone.dirs
    for one in broken:
        put_aside(clone, one.path)
    git.close()
    left = _restore(clone, {one.oid for one in broken})
    needed = {one.oid for one in _missing(git)} & left
    for oid in {one.oid for one in broken} - needed:  # restored, or nothing needs it
        (dirs.damaged / oid).unlink(missing_ok=True)
    again, unneeded = len(broken) - len(left), len(left) - len(needed)
    done = [f"{again} restored"] if again else []
    done += [f"{unneeded} that nothing needs removed"] if unneeded else []
    done += [f"{len(needed)} moved to {dirs.damaged}"] if needed else []
    return f"{_count(len(broken), 'object')} broken: {', '.join(done)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s are' if number != 1 else ' is'}"


# --- missing objects ---------------------------------------------------------------------------------------------------


def missing(clone: Clone) -> Iterator[Finding]:
    """Yield the objects that are missing; `git fsck` reads everything, and is asked only where there is a sign of it."""
    git, remote = clone.git, trusted.remote_name(clone.git)
    lost = _missing(git) if _is_incomplete(clone) else []
    wanted = {one.oid for one in lost}
    for one in lost:
        here = f"{remote} may have it: `runner doctor --fix`" if remote else "there is no remote to have it from"
        copied = f"`git -C CLONE cat-file {one.kind} {one.oid} | git hash-object -w -t {one.kind} --stdin`"
        yield fault(
            f"a {one.kind} is missing: {one.oid}",
            one.name or str(git.common_dir),
            f"what needs it fails{': ' + one.name if one.name else ''}",
            f"{here}; another clone that has it gives it: {copied}",
            wanted,
        )


def _is_incomplete(clone: Clone) -> bool:
    """Return whether there is a sign that objects are missing."""
    git, dirs = clone.git, clone.dirs
    if git.is_shallow() or git.is_partial():
        return False  # git knows what it lacks there
    tips = git.refs("refs/heads/", "refs/runner/")
    base = next((tips[name] for name in (trusted.REF, "refs/heads/main", "refs/heads/master") if name in tips), None)
    aside = [path.name for path in matching(dirs.damaged, "*")]
    return (
        any(len(name) == git.oid_length or name.endswith(".pack") or name.startswith(_FOLDER) for name in aside)
        or _lacks(git, set(tips.values()), base)
        or any(one.oid and not one.name.startswith("refs/remotes/") for one in refs.broken(git, git.common_dir))
    )


def _lacks(git: Git, tips: Collection[str], base: str | None) -> bool:
    """Return whether an object is missing that these commits have and `base` does not: what work here has added."""
    asked = "".join(f"{tip}\n" for tip in (*tips, *([f"^{base}"] if base else [])))
    return git.try_run("rev-list", "--objects", "--quiet", "--stdin", data=asked.encode())[0] != 0


_LACKS = re.compile(r"missing (\w+) ([0-9a-f]{40,64})(?: \((.*)\))?")
_REF = re.compile(r"error: (\S+): invalid sha1 pointer ([0-9a-f]{40,64})")


def _missing(git: Git) -> list[Missing]:
    """Return what refs, reflogs and indexes refer to and is not here."""
    argv = ("fsck", "--connectivity-only", "--name-objects", "--no-dangling", "--no-progress")
    _, out, err = git.try_run(*argv)
    found: dict[str, Missing] = {}
    for line in [*lines_of(out.decode("utf-8", "replace")), *lines_of(err)]:
        if said := _LACKS.fullmatch(line):
            found[said[2]] = Missing(said[2], said[1], said[3] or "")
        elif (said := _REF.fullmatch(line)) and said[2] != git.zero:
            found.setdefault(said[2], Missing(said[2], "commit", said[1]))
    return list(found.values())


def fix_missing(clone: Clone, wanted: set[str]) -> str:
    """Restore the missing objects, all at the first call, from work trees or the remote."""
    here = wanted - _restore(clone, wanted) if wanted else set()
    wanted.clear()
    for oid in here:
        (clone.dirs.damaged / oid).unlink(missing_ok=True)
    return f"{_count(len(here), 'missing object')} restored" if here else ""


def _restore(clone: Clone, oids: set[str]) -> set[str]:
    """Restore objects from packs, work trees and the remote; return those that none of them has."""
    left = {oid for oid in oids if not has(clone, oid)}
    left -= set(from_work_trees(clone, left)) if left else set()
    if left and _refetch(clone):
        left = {oid for oid in left if not has(clone, oid)}
        left -= set(from_work_trees(clone, left)) if left else set()
    return left


def _refetch(clone: Clone) -> bool:
    """Fetch everything again from the remote, and return whether it came."""
    try:
        mirror = pinned_remote(clone)
        if mirror is None:
            return False
        refetch(mirror)
    except RunnerError as error:
        clone.env.say(f"{error.what}; only objects that are here can be used")
        return False
    clone.env.say(f"fetched everything that {mirror.remote} has again")
    return True


def refetch(mirror: Mirror) -> None:
    """Fetch everything that the remote has once more, whatever is here, as complete packs.

    Raises:
        UnreachableError: the remote did not answer, or not all of it came; nothing was changed.
    """
    git = mirror.git
    at = git.common_dir / "objects/incoming-runner"  # on their disk, so that a pack comes there complete or not at all
    shutil.rmtree(at, ignore_errors=True)
    objects = at / "objects"
    env = {**token_settings(mirror.url, mirror.env.environ), "GIT_OBJECT_DIRECTORY": str(objects)}
    specs = [f"+{name}:{name}" for name in FETCHED]
    fetch = ("-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", mirror.url)
    try:
        for argv in (("init", "--quiet", "--bare", f"--object-format={git.object_format}"), (*fetch, *specs)):
            code, _, err = git.transport(at, *argv, timeout=REFETCH_SECONDS, env=env)
            if code:
                said = lines_of(err)[0] if err else f"exit {code}"
                raise UnreachableError(
                    f"{mirror.remote} could not be fetched again: {said}",
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


def from_work_trees(clone: Clone, oids: Collection[str]) -> list[str]:
    """Write the blobs and trees again that a work tree or workspace still has, and return which."""
    git, dirs, found = clone.git, clone.dirs, list[str]()
    trees = [(tree.git_dir, tree.git_dir / "index", tree.path, _read) for tree in git.worktrees()]
    spaces = matching(dirs.own, "*/index")
    trees += [(git.common_dir, index, index.parent / "work", _read_beneath) for index in spaces]
    for git_dir, index, work, read in trees:
        if not index.exists():
            continue
        with contextlib.suppress(GitError):
            out = git.run("ls-files", "-s", "-z", git_dir=git_dir, index=index)
            for line in filter(None, out.decode("utf-8", "surrogateescape").split("\0")):
                said, _, path = line.partition("\t")
                if (oid := said.split(" ")[1]) in oids and oid not in found and _write_blob(git, read(work, path), oid):
                    found.append(oid)
            # An index of its own: the other one records these trees as written.
            fresh = dirs.beside / "index"
            fresh.unlink(missing_ok=True)
            git.run("update-index", "-z", "--index-info", data=out, index=fresh)
            git.run("write-tree", index=fresh)
            fresh.unlink()
    return [*found, *(oid for oid in oids if oid not in found and has(clone, oid))]


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
