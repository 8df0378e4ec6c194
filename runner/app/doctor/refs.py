"""Find broken refs; restore them from reflogs, checkpoints, histories and the remote, or report the loss.

git stops at the first broken one, or ignores it. After a power cut, files are found empty, cut short or full of zeros.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.app.doctor import REFETCH_SECONDS, Finding, fault, has, pinned_remote, put_aside, remark
from runner.errors import IntegrityError, RunnerError
from runner.git import Git, GitError
from runner.protocol import ids
from runner.store import history, locks, lookup, trusted
from runner.store.environment import Clone, matching, read_checkpoint
from runner.trust import transitions

_MADE_WITHIN = 0.3  # seconds that git may take to write the HEAD of a worktree, or to remove the worktree
_CACHES = ("refs/remotes/", trusted.REF)  # a fetch makes them again


@dataclass(frozen=True, slots=True)
class BrokenRef:
    """A ref that names nothing. `why`: as a message says it; `oid`: the object that it names and that is not here, or None."""

    name: str
    path: Path
    why: str
    oid: str | None = None
    is_gone: bool = False  # its reflog alone is left
    is_link: bool = False  # it is one to another ref


# --- the files without which git does not work -------------------------------------------------------------------------


def packed(clone: Clone) -> Iterator[Finding]:
    """Yield that the file of packed refs is broken."""
    if not _packed_refs(clone.git.common_dir, clone.git.oid_length)[1]:
        path = clone.git.common_dir / "packed-refs"
        yield fault(
            "packed-refs is broken",
            str(path),
            "git fails, or misses refs; a ref that only this file has is lost",
            "`runner doctor --fix` keeps what can be read, and looks for the others",
            path,
        )


def fix_packed(clone: Clone, path: Path) -> str:
    """Write the readable lines of packed-refs again, and restore the other refs from their reflogs."""
    git = clone.git
    found, _ = _packed_refs(git.common_dir, git.oid_length)
    put_aside(clone, path)
    lines = ["# pack-refs with: sorted ", *(f"{oid} {name}" for name, oid in sorted(found.items()))]
    write_locked(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    git.close()
    for one in list(broken(git, git.common_dir)):
        known = best(clone, one.name) if one.is_gone else None
        if known:
            found[one.name] = known[0]
            _write_ref(clone, one.path, one.name, known[0])
    git.close()
    return f"packed-refs was rewritten, with {len(found)} refs; the broken one is {clone.dirs.damaged / path.name}"


def heads(clone: Clone) -> Iterator[Finding]:
    """Yield the HEADs, of the repository and of its worktrees, that name nothing."""
    common = clone.git.common_dir
    trees = (path.parent for path in matching(common, "worktrees/*/HEAD") if (path.parent / "gitdir").exists())
    broken = [tree for tree in (common, *trees) if _has_broken_head(tree)]
    if broken:  # a worktree that is being made or removed does not have all its files
        clone.env.sleep(_MADE_WITHIN)
    yield from (_head(tree, common) for tree in broken if _has_broken_head(tree))


def headless(cwd: Path) -> Finding | None:
    """Return that the HEAD of a repository is broken: git takes that for no repository at all."""
    for folder in (cwd, *cwd.parents):
        at = folder / ".git"
        if not at.exists() and all((folder / name).exists() for name in ("objects", "refs", "config")):
            at = folder  # a bare one, or we are in a `.git`
        if at.is_file():
            at = folder / at.read_text("utf-8", "surrogateescape").removeprefix("gitdir: ").rstrip("\n")
        if at.is_dir():
            shared = at / "commondir"
            common = at / shared.read_text("utf-8", "surrogateescape").rstrip("\n") if shared.exists() else at
            return _head(at, common) if _has_broken_head(at) and (common / "objects").is_dir() else None
    return None


def _head(git_dir: Path, common: Path) -> Finding:
    path, log, heads = git_dir / "HEAD", git_dir / "logs/HEAD", os.path.normpath(common / "logs/refs/heads")
    command = f"write the branch's name into it: `echo 'ref: refs/heads/BRANCH' > {shlex.quote(str(path))}`"
    if log.exists():
        last, at = f"tail -n 1 {shlex.quote(str(log))}", f"awk 'END {{print $2}}' {shlex.quote(str(log))}"
        # Where the last move was no checkout, it names no branch: the one that had the commit is the one.
        command += f'; `{last} && grep -rl "$({at})" {shlex.quote(heads)}` shows its last move, and the branches that were there'
    return fault("HEAD is broken", str(path), "git does not know which branch is checked out there", command)


# --- refs --------------------------------------------------------------------------------------------------------------


def tables(clone: Clone) -> Iterator[Finding]:
    """Yield that the refs are in a format which nothing here reads."""
    if _is_reftable(clone.git.common_dir):
        yield remark(
            "the refs of this repository are in tables (a reftable), which doctor cannot check",
            str(clone.git.common_dir / "reftable"),
            "doctor neither finds nor fixes a ref that is broken there",
            "`git refs verify` (git 2.47) and `git fsck` check them",
        )


def find(clone: Clone) -> Iterator[Finding]:
    """Yield the refs that are broken; the objects are restored before, so that a commit that a ref may name can be read."""
    for one in list(broken(clone.git, clone.git.common_dir)):
        yield _finding(clone, one)


def _finding(clone: Clone, one: BrokenRef) -> Finding:
    git, short = clone.git, one.name.removeprefix("refs/heads/")
    kind = "branch" if one.name.startswith("refs/heads/") else "ref"
    what = f"the {kind} {short} is broken: {one.why}"
    known, remote = best(clone, one.name), trusted.remote_name(git)
    is_ours = not one.name.startswith("refs/heads/") or ids.is_protocol_id(one.name.rpartition("/")[2])
    about: tuple[BrokenRef, tuple[str, str] | None] | None = None
    if one.is_link:
        command = f"`git symbolic-ref -d {one.name}` removes it"
        return remark(what, str(one.path), "git ignores it, and `git fsck` calls it an error", command)
    if one.name.startswith(_CACHES):
        command, about = "`runner doctor --fix` removes it; the next fetch restores it", (one, known)
    elif one.oid is not None:  # the ref is sound, and its commit lost: only a person can decide to leave that
        before = f"`git update-ref {one.name} {known[0]} {one.oid}` goes back to what {known[1]} has" if known else ""
        command = before or _elsewhere(git, one, None)
    elif one.is_gone and not is_ours:
        command = f"`git branch {short} {known[0]}` restores it; " if known else ""
        command += _given_up(git, one)
        return remark(what, str(one.path), "some program or a crash deleted only half of it", command)
    elif known and (there := _in_the_way(one.path)):
        other = there.relative_to(git.common_dir / "refs/heads").as_posix() if kind == "branch" else str(there)
        command = f"`git branch -m {other} NAME` moves that ref out of its way; then `runner doctor --fix`"
    elif known:
        command, about = f"`runner doctor --fix` restores it at {known[0][:12]}, from {known[1]}", (one, known)
    else:
        command, about = _elsewhere(git, one, remote), (one, None)
    return fault(what, str(one.path), _consequence(one), command, about)


def mirror(clone: Clone) -> Iterator[Finding]:
    """Yield that the runner's mirror of the remote is broken."""
    at = clone.dirs.mirror
    if at.is_dir() and (
        clone.git.try_run("rev-parse", "--git-dir", git_dir=at)[0]
        or any(one.oid is None for one in broken(clone.git, at))
    ):
        yield fault(
            "the runner's mirror of the remote is broken",
            str(at),
            "nothing can be fetched or published",
            "`runner doctor --fix` removes it; the next command that contacts the remote makes it again",
            at,
        )


def fix_mirror(clone: Clone, at: Path) -> str:
    """Remove the mirror."""
    shutil.rmtree(at)
    return "removed the mirror of the remote; the next command that contacts the remote makes it again"


_CONSEQUENCES = {
    "refs/heads/": "git does not see its commits",
    "refs/tags/": "git does not see the tag; tags have no reflog, so only the remote has it",
    "refs/runner/history/": "the transcripts of its steps are not found, and after a squash neither are its transitions",
    "refs/runner/numbers/": "its number counts as free",
    "refs/runner/attempts/": "the work of an attempt that failed, or was in the way, is not found",
    "refs/runner/lost/": "a history that was replaced is not found",
}


def _consequence(one: BrokenRef) -> str:
    if one.oid is not None:
        return f"commit {one.oid} is lost here, with everything that only it has"
    known = (text for prefix, text in _CONSEQUENCES.items() if one.name.startswith(prefix))
    return next(known, "git does not see what it named")


def _elsewhere(git: Git, one: BrokenRef, remote: str | None) -> str:
    asked = f"`runner doctor --fix` asks {remote} for it; else " if remote else ""
    asked = asked or ("" if one.oid or trusted.remote_name(git) else "there is no remote to ask; ")
    return f"{asked}`git fsck --lost-found` lists commits that no ref names, and {_given_up(git, one)}"


def _given_up(git: Git, one: BrokenRef) -> str:
    if one.oid is not None:
        return f"`git update-ref -d {one.name}` gives it up"
    path = git.common_dir / "logs" / one.name if one.is_gone else one.path
    return f"`rm {shlex.quote(str(path))}` gives it up"


def _in_the_way(path: Path) -> Path | None:
    """Return a ref's file below a folder in the place of another ref's file."""
    return next((one for one in matching(path, "**/*") if not one.is_dir()), None)


def fix(clone: Clone, about: tuple[BrokenRef, tuple[str, str] | None]) -> str:
    """Restore a ref from a source here, or else from the remote; remove one that a fetch restores."""
    one, known = about
    if one.name.startswith(_CACHES):
        return _drop(clone, one)
    return _set(clone, one, *known) if known else _set_from_remote(clone, one)


def _set(clone: Clone, one: BrokenRef, oid: str, where: str) -> str:
    if not _write_ref(clone, one.path, one.name, oid):
        return ""
    clone.git.close()
    return f"restored {one.name} at {oid[:12]}, from {where}"


def _drop(clone: Clone, one: BrokenRef) -> str:
    """Remove a ref that a fetch restores, or set it to its known value."""
    git, known = clone.git, best(clone, one.name)
    if known and one.oid is None:
        return _set(clone, one, *known)
    one.path.unlink(missing_ok=True)
    git.close()
    if git.ref(one.name) is not None:
        git.run("update-ref", "-d", one.name)
    return f"removed {one.name}; the next fetch restores it"


def _set_from_remote(clone: Clone, one: BrokenRef) -> str:
    found = _of_branch(clone.git, one.name)
    if found:
        return _set(clone, one, found, "its branch")
    try:
        mirror = pinned_remote(clone)
        if mirror is None:
            return ""
        mirror.fetch(one.name, timeout=REFETCH_SECONDS)
        there = mirror.ref(one.name)
    except RunnerError as error:
        clone.env.say(f"{error.what}; {one.name} is unchanged")
        return ""
    return _set(clone, one, there, mirror.remote) if there else ""


def _of_branch(git: Git, name: str) -> str | None:
    """Return the genesis of the protocol whose number a ref claims, from its branch."""
    if not name.startswith(lookup.NUMBERS):
        return None
    for branch, tip in git.refs("refs/heads/").items():
        protocol = branch.rpartition("/")[2]
        if ids.is_protocol_id(protocol) and lookup.claim_ref(ids.number_of(protocol)) == name:
            chain = transitions.chain_of(git, protocol, tip)
            return chain[0] if chain else None
    return None


# --- what is known of a ref --------------------------------------------------------------------------------------------


def _sources(clone: Clone, name: str) -> Iterator[tuple[str, str]]:
    """Yield (oid, where from) of what a ref may have named, as this machine knows it: the most trustworthy first."""
    git, dirs = clone.git, clone.dirs
    yield from ((oid, "its reflog") for oid, _ in reflog(git.common_dir, name))
    protocol = name.rpartition("/")[2]
    if name.startswith("refs/heads/") and ids.is_protocol_id(protocol):
        mark = read_checkpoint(dirs, protocol)
        if mark:
            yield mark, "the commit that verified last"
        filed = git.ref(history.ref_of(protocol))
        commit = next(history.commits(git, protocol, filed), None) if filed else None
        if commit:
            yield commit[1], "its history"
    if name == trusted.REF:
        # A damaged one is reported when the project is opened; the rest can be fixed without it.
        with contextlib.suppress(IntegrityError):
            if pin := trusted.read_pin(dirs):
                yield pin.oid, "the pin"
    seen = trusted.remote_name(git)
    if name.startswith("refs/heads/") and seen:
        tracked = git.ref(f"refs/remotes/{seen}/{name.removeprefix('refs/heads/')}")
        if tracked:
            yield tracked, f"what {seen} had when it was last fetched"
    packed = _packed_refs(git.common_dir, git.oid_length)[0].get(name)
    if packed:
        yield packed, "packed-refs, which may be older"


def best(clone: Clone, name: str) -> tuple[str, str] | None:
    """Return (commit, where from) of what a ref has to name again, or None where this machine does not know.

    The first source decides, unless a later one is a descendant: the last lines of a reflog may be lost too.
    """
    found: tuple[str, str] | None = None
    reflogged = False
    for oid, where in _sources(clone, name):
        if where == "its reflog" and reflogged:
            continue
        if not has(clone, oid) or (found and (found[0] == oid or not clone.git.is_ancestor(found[0], oid))):
            continue
        reflogged = reflogged or where == "its reflog"
        if found is None or not where.startswith(("what", "packed")):
            found = oid, where
    return found


def _write_ref(clone: Clone, path: Path, name: str, oid: str) -> bool:
    """Make a broken ref's file name `oid`, as git would write it; git itself refuses to move a ref that it cannot read.

    One that names something by now was not broken, or was repaired meanwhile: it is left, and False returned.

    Raises:
        HeldError: a runner moves it just now. FileExistsError: a git does.
    """
    with locks.hold(clone.dirs.publish_lock(name), clone.env, what=name, wait=5.0):
        return write_locked(path, f"{oid}\n".encode(), unless=lambda: _names(clone.dirs.common, path, name, len(oid)))


def _names(common: Path, path: Path, name: str, oid_length: int) -> bool:
    """Return whether a ref names something, by its file, or by `packed-refs` where it has none."""
    if path.is_file():
        return _oid_in(path, oid_length) is not None
    return name in _packed_refs(common, oid_length)[0]


def write_locked(path: Path, data: bytes, unless: Callable[[], bool] = lambda: False) -> bool:
    """Replace a file of git's under git's own lock for it, on the disk; do nothing and return False where `unless` then says so.

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
        if path.is_dir():  # git too removes empty folders
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)
        os.rename(lock, path)
        return True
    except BaseException:
        lock.unlink(missing_ok=True)
        raise


# --- what git's files say --------------------------------------------------------------------------------------------

_NO_NAME = re.compile(r"(?:^|/)\.|\.\.|[\0- \x7f~^:?*\[\\]|@\{|\.lock(?:/|$)|\.$")  # git check-ref-format


def broken(git: Git, folder: Path) -> Iterator[BrokenRef]:
    """Yield the refs of a git directory that name nothing, those too whose reflog alone is left of them."""
    if _is_reftable(folder):
        return
    seen = set()
    for path in matching(folder / "refs", "**/*"):
        if path.is_dir() or path.name.endswith(".lock"):
            continue
        name = path.relative_to(folder).as_posix()
        seen.add(name)
        data = _read(path)
        if _NO_NAME.search(name):
            continue  # git complains of it: `objects.complaints`
        if data.startswith(b"ref: refs/"):
            if not _is_here(git, name):
                target = data[5:].decode("utf-8", "replace").strip()
                yield BrokenRef(name, path, f"it leads to {target}, which is not here", is_link=True)
            continue
        value = _oid_in(path, git.oid_length)
        if value is None and os.path.lexists(path):  # else it was deleted, or packed, meanwhile
            yield BrokenRef(name, path, "it is empty" if not data.strip(b"\0\n ") else "it is not a ref")
        elif value is not None and not _is_here(git, value):
            yield BrokenRef(name, path, f"the object that it names, {value[:12]}, is not here", value)
    packed = _packed_refs(folder, git.oid_length)[0]
    for name, value in packed.items():
        if name not in seen and not _is_here(git, value):
            yield BrokenRef(name, folder / name, f"the object that it names, {value[:12]}, is not here", value)
    logs = folder / "logs"
    for path in matching(logs / "refs/heads", "**/*"):
        name = path.relative_to(logs).as_posix()
        if not path.is_file() or name.endswith(".lock"):
            continue
        if _NO_NAME.search(name):
            continue
        if name not in seen and name not in packed and not _is_coming(folder / name):
            yield BrokenRef(name, folder / name, "it is gone, and its reflog is still here", is_gone=True)


def _is_coming(path: Path) -> bool:
    """Return whether a ref was made since others were looked at, or a git is making it: the reflog comes first."""
    return path.is_file() or path.with_name(f"{path.name}.lock").exists()


def _oid_in(path: Path, oid_length: int) -> str | None:
    """Return the object that a ref's file names, or None where it names none."""
    value = _read(path).strip().decode("ascii", "replace")
    return value if re.fullmatch(rf"[0-9a-f]{{{oid_length}}}", value) and value.strip("0") else None


def _packed_refs(folder: Path, oid_length: int) -> tuple[dict[str, str], bool]:
    """Return the refs in `packed-refs`, and whether every line of it can be read."""
    data = _read(folder / "packed-refs")
    found: dict[str, str] = {}
    if not data:
        return found, not (folder / "packed-refs").exists()  # git writes none that is empty
    whole = data.endswith(b"\n")
    lines = data.split(b"\n")
    for line in lines[:-1] if whole else lines:
        told = re.fullmatch(rb"([0-9a-f]{%d}) (refs/[^\0 ]+)" % oid_length, line)
        name = told[2].decode("utf-8", "surrogateescape") if told else ""
        if told and (whole or line is not lines[-1]) and not _NO_NAME.search(name):
            found[name] = told[1].decode()
        elif not re.fullmatch(rb"#.*|\^[0-9a-f]{%d}" % oid_length, line):
            whole = False
    return found, whole


def _has_broken_head(git_dir: Path) -> bool:
    """Return whether the HEAD of a git directory names neither a branch nor a commit."""
    data = _read(git_dir / "HEAD")
    return not re.fullmatch(rb"(ref: refs/[^\0\n]+|[0-9a-f]{40}|[0-9a-f]{64})\n?", data) and git_dir.is_dir()


def reflog(folder: Path, name: str) -> list[tuple[str, str]]:
    """Return (oid, message) of a ref's reflog, the newest first; lines that cannot be read are left out."""
    found = []
    for line in _read(folder / "logs" / name).split(b"\n"):
        told = re.fullmatch(rb"(?:[0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40,64}) [^\0\t]*(?:\t([^\0]*))?", line)
        if told:
            found.append((told[1].decode(), (told[2] or b"").decode("utf-8", "replace")))
    return found[::-1]


def _is_reftable(folder: Path) -> bool:
    """Return whether the refs are in tables, and not in files."""
    return (folder / "reftable").is_dir()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_here(git: Git, oid: str) -> bool:
    """Return whether there is such an object; one whose file is broken is."""
    try:
        return git.ref(oid) is not None
    except GitError:
        return True
