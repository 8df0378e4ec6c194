"""Find leftovers of dead processes, and parts that a clone lacks: locks, interrupted updates, worktrees without a folder,
temporary files of the runner's, too many loose objects, history that was cut off.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner import beneath
from runner.app import clean
from runner.app.doctor import Finding, Selection, fault, remark
from runner.executor import divergence, load
from runner.git import Git
from runner.lines import counted, few, lines_of
from runner.protocol import ids
from runner.protocol.state import ENDED
from runner.store import locks, protocol_worktree, record, transaction, worktree
from runner.store.environment import Clone, matching

ABANDONED = 3600.0  # seconds after which nobody still writes a temporary file
UNUSED = 14 * 86400.0  # seconds after which doctor mentions what an ended protocol left
LOOSE = 6700  # objects: git's own gc.auto
_REMOVED_WITHIN = 0.2  # seconds
_LOCKS = (
    "*.lock",
    "refs/**/*.lock",
    "logs/**/*.lock",
    "info/*.lock",
    "reftable/*.lock",
    "worktrees/*/**/*.lock",
    "objects/*.lock",
    "objects/info/**/*.lock",
    "objects/pack/*.lock",
    "runner/*.lock",
)


def dead_locks(clone: Clone) -> Iterator[Finding]:
    """Yield git's lock files, in this clone, its mirror and its workspaces; the fix removes those without a process."""
    dirs = clone.dirs
    found = matching(clone.git.common_dir, *_LOCKS)
    found += matching(dirs.own, "*/index.lock") + matching(dirs.mirror, "*.lock", "refs/**/*.lock")
    for lock in sorted(set(found)):
        if locks.is_dead(lock, clone.env.now()):
            yield fault(
                "a git process that died left its lock",
                str(lock),
                "git refuses to write there",
                "`runner doctor --fix` removes it",
                lock,
            )
        elif lock.exists():
            yield remark(
                "a git process is running here and holds a lock",
                str(lock),
                "other git commands have to wait for it",
                "wait for it",
            )


def remove_lock(clone: Clone, lock: Path) -> str:
    """Remove a lock file without a process."""
    if lock.is_dir():  # no lock of git's, but in the way of one
        lock.rmdir()
        return f"removed an empty folder in the place of a lock: {lock}"
    locks.remove_dead(lock, clone.env)
    return ""


# --- worktrees ---------------------------------------------------------------------------------------------------------


def cut_follows(clone: Clone) -> Iterator[Finding]:
    """Yield the worktrees whose update to a new tip of their branch was interrupted."""
    for note, cut in worktree.cut_follows(clone.dirs):
        ref = (cut.tree.branch or "") if cut is not None else ""
        lock = clone.dirs.publish_lock(ref)
        # A runner may be at it: it has the lock, or has ended since the note was read, or is at the next one already.
        if ref and (locks.is_held(lock) or not note.exists() or locks.is_held(lock)):
            continue
        yield fault(
            f"the update of a worktree of {ref or 'a branch'} was interrupted",
            str(note),
            "its files may be older than its branch, and `git commit -a` there would put them back",
            "`runner doctor --fix` finishes it",
            (note, ref),
        )


def finish_follow(clone: Clone, about: tuple[Path, str]) -> str:
    """Update the worktrees of a branch to its tip."""
    note, ref = about
    if not ref:
        note.unlink(missing_ok=True)
        return "removed a note that cannot be read"
    with locks.hold(clone.dirs.publish_lock(ref), clone.env, what=ref, wait=transaction.PUBLISH_WAIT):
        worktree.finish_follows(clone, ref)
    return f"updated the worktree of {ref.removeprefix('refs/heads/')}"


def unfinished_worktrees(chosen: Selection) -> Iterator[Finding]:
    """Yield the worktrees whose creation was interrupted before they had files."""
    project = chosen.session.project
    for protocol, tip in project.protocols().items():
        ref = project.branch(protocol)
        if not project.dirs.making(protocol).exists() or locks.is_held(project.dirs.publish_lock(ref)):
            continue
        yield fault(
            f"the worktree of {protocol} was not finished",
            f"{ref} at {tip[:12]}",
            "there is no folder to edit its files in",
            "`runner doctor --fix` finishes it",
            protocol,
        )


def finish_worktree(chosen: Selection, protocol: str) -> str:
    """Finish a worktree."""
    project = chosen.session.project
    ref = project.branch(protocol)
    with locks.hold(project.dirs.publish_lock(ref), project.env, what=ref, wait=transaction.PUBLISH_WAIT):
        protocol_worktree.finish_worktree(project, ref, protocol)
    return f"finished the worktree of {protocol}"


def unfinished_renumberings(chosen: Selection) -> Iterator[Finding]:
    """Yield the protocols that a killed command was giving another number."""
    dirs = chosen.session.dirs
    for note in divergence.unfinished_renumberings(dirs):
        if locks.is_held(dirs.lock(note.origin)):
            continue
        yield fault(
            f"a command was killed while it gave {note.origin} another number, {note.protocol}",
            str(dirs.renumbering(note.origin)),
            "its files here under the old id do not belong to the other protocol that has it",
            "`runner doctor --fix` finishes it",
            note.origin,
        )


def finish_renumbering(chosen: Selection, origin: str) -> str:
    """Finish giving a protocol another number."""
    return load.finish_renumbering(chosen.session, origin)


def severed_worktrees(clone: Clone) -> Iterator[Finding]:
    """Yield the worktrees that do not find the repository, or it them: one of the files between them is empty or gone."""
    found = list(_severed(clone))
    if found:  # a git that removes a worktree removes one file after the other
        clone.env.sleep(_REMOVED_WITHIN)
        again = [one.where for one in _severed(clone)]
        found = [one for one in found if one.where in again]
    yield from found


def _severed(clone: Clone) -> Iterator[Finding]:
    for private in [path.parent for path in matching(clone.git.common_dir, "worktrees/*/HEAD")]:
        if _line(private / "locked") == "initializing":
            continue  # a git is making it
        if not _line(private / "commondir"):
            yield fault(
                "git's record of a worktree is broken",
                str(private / "commondir"),
                "git stops at it, here and in every worktree",
                f"`echo ../.. > {shlex.quote(str(private / 'commondir'))}`",
            )
        link, forget = _link(private), f"`rm -r {shlex.quote(str(private))}`"
        if link is None:
            yield fault(
                "git no longer knows where a worktree is",
                str(private / "gitdir"),
                "it is not visible from here, and does not follow its branch",
                f"`git worktree repair FOLDER` with its folder; where that is gone, {forget}",
            )
        elif _is_left(link):
            yield fault(
                "a worktree does not name its repository",
                str(link),
                "git does not work in it, and it does not follow its branch",
                f"`git worktree repair` writes it again; if the files there now belong to something else, {forget}",
            )


def _line(path: Path) -> str:
    """Return the path in a file of git's; empty where the file is gone, empty or zeros."""
    try:
        return os.fsdecode(path.read_bytes()).strip("\0\n ")
    except OSError:
        return ""


def _link(private: Path) -> Path | None:
    """Return the `.git` of a worktree, by the folder that git keeps of it."""
    path = _line(private / "gitdir")
    return Path(os.path.normpath(private / path)) if path else None  # git 2.48 may have it relative to this folder


def _is_left(link: Path) -> bool:
    """Return whether a worktree's files are there and its `.git` is gone, or empty."""
    return not link.is_dir() and not _line(link) and link.parent.is_dir() and bool(matching(link.parent, "*"))


def vanished_worktrees(clone: Clone) -> Iterator[Finding]:
    """Yield the worktrees that git knows and whose folders are gone."""
    for private in matching(clone.git.common_dir, "worktrees/*/gitdir"):
        with contextlib.suppress(OSError):
            pointed = _link(private.parent)
            if pointed is None or pointed.exists() or _is_left(pointed) or (private.parent / "locked").exists():
                continue
            yield remark(
                "a worktree's folder is gone",
                str(pointed.parent),
                "git still counts its branch as checked out there",
                "`git worktree repair FOLDER` where it was moved; else `git worktree prune` forgets it",
            )


# --- what takes room ---------------------------------------------------------------------------------------------------


def temporary(clone: Clone) -> Iterator[Finding]:
    """Yield that processes which died left temporary files of the runner's; git removes its own by `git gc`."""
    left = []
    for folder in (clone.dirs.beside, clone.dirs.own):
        for path in matching(folder, ".*.*", "*/.*.*"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and clone.env.now() - status.st_mtime > ABANDONED:
                    left.append(path)
    if left:
        yield fault(
            f"{counted(len(left), 'temporary file')} of processes that died",
            few(left),
            "they take up space, and nothing reads them",
            "`runner doctor --fix` removes them",
            left,
        )


def remove_temporary(_: Clone, paths: Sequence[Path]) -> str:
    """Remove temporary files."""
    for path in paths:
        path.unlink(missing_ok=True)
    return f"removed {counted(len(paths), 'temporary file')}"


def of_ended(chosen: Selection) -> Iterator[Finding]:
    """Yield that protocols which ended, or have no branch any more, have workspaces or journals that were not used for long."""
    if chosen.only is not None:
        return
    project = chosen.session.project
    old, here = [], project.protocols()
    for protocol, folder in clean.with_something(project):
        with contextlib.suppress(OSError):
            if project.env.now() - folder.stat().st_mtime > UNUSED and (
                protocol not in here or record.row(project.git, protocol, here[protocol])["status"] in ENDED
            ):
                old.append(folder)
    if old:
        kept = "1 workspace or journal" if len(old) == 1 else f"{len(old)} workspaces and journals"
        yield remark(
            f"{kept} of protocols that ended, or whose branch is gone, {_size(sum(map(beneath.size, old)))}",
            few(old),
            f"they take up space; they were not used for {UNUSED / 86400:.0f} days",
            "`runner clean` removes those whose contents git has, and names the others with the reason: "
            "`rm -r` those that you do not need",
        )


def many_loose_objects(clone: Clone) -> Iterator[Finding]:
    """Yield that there are more loose objects than git works well with: the runner packs only batches unasked."""
    count, size = _counted(clone.git)
    if count > LOOSE:
        yield remark(
            f"{count} loose objects, {_size(size)}",
            str(clone.git.common_dir / "objects"),
            "each is a file of its own, which makes git slower, and every fetch",
            "`git repack -d` packs them, and deletes nothing;"
            " `git maintenance run --task=loose-objects && git prune-packed` packs those that no ref has",
        )


def _counted(git: Git) -> tuple[int, int]:
    """Return how many loose objects there are, and how many bytes they take on the disk."""
    lines = dict(line.split(": ", 1) for line in lines_of(git.text("count-objects", "-v")) if ": " in line)
    return int(lines.get("count", 0)), int(lines.get("size", 0)) * 1024


def _size(size: float) -> str:
    return f"{size / 1_000_000:.1f} MB" if size >= 100_000 else f"{size / 1000:.0f} kB"


# --- what a clone was made without -------------------------------------------------------------------------------------


def shallow(chosen: Selection) -> Iterator[Finding]:
    """Yield that the history is cut off in this clone."""
    git, remote = chosen.session.git, chosen.session.project.trusted.remote
    if git.is_shallow():
        yield (fault if remote else remark)(
            "history is cut off in this clone",
            str(git.common_dir / "shallow"),
            "earlier commits are not here, so no protocol can be verified",
            "`git fetch --unshallow` fetches the rest; in CI: `fetch-depth: 0`",
        )


def partial(chosen: Selection) -> Iterator[Finding]:
    """Yield that this clone has left objects, or other branches, at the remote."""
    git, remote = chosen.session.git, chosen.session.project.trusted.remote
    if git.is_partial():
        yield remark(
            "this is a partial clone: objects stay on the remote until something needs them",
            str(git.common_dir / "config"),
            "commands fetch what they need; `runner verify` asks nobody, and may lack objects",
            "`runner verify --all --yes` fetches what a proof needs, `git fetch --refetch --no-filter` everything",
        )
    specs = git.settings().get(f"remote.{remote}.fetch", []) if remote else []
    wanted = f"refs/heads/{ids.branch_of(chosen.session.project.pattern, '0001-x')}".partition("0001-x")[0]
    if specs and not any("*" in spec and wanted.startswith(spec.lstrip("+").partition("*")[0]) for spec in specs):
        yield remark(
            f"this clone follows only some branches of {remote}: {', '.join(specs)}",
            str(git.common_dir / "config"),
            "protocols that others started are not seen",
            f"`git remote set-branches {remote} '*' && git fetch {remote}`",
        )
