"""What processes that died left in this clone: locks, follows that were cut, worktrees without a folder, temporary files, and
more loose objects than git works well with."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from runner import beneath
from runner.app import tidy
from runner.app.repair import Finding, Repair
from runner.executor import load, renumbering
from runner.folders import matching
from runner.git import Git
from runner.lines import lines_of
from runner.protocol import ids
from runner.store import creating, locks, record, recovery, transaction, worktree
from runner.store.places import Places
from runner.store.project import Project
from runner.store.surroundings import Surroundings

ABANDONED = 3600.0  # seconds after which a temporary file that nobody has open is nobody's
UNUSED = 14 * 86400.0  # seconds after which what an ended protocol left is worth a word
LOOSE = 6700  # objects: git's own gc.auto


def dead_locks(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield git's lock files in this clone, its mirror and its workspaces that have no owner any more, and tell of the others."""
    patterns = (
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
    found = matching(git.common_dir, *patterns)
    found += matching(places.own, "*/index.lock") + matching(places.mirror, "*.lock", "refs/**/*.lock")
    for lock in sorted(set(found)):
        if locks.is_dead(lock, who.now()):
            yield Repair(
                Finding(
                    "here",
                    "a git that died left its lock",
                    str(lock),
                    "git refuses to write there",
                    "`runner doctor --fix` takes it away",
                ),
                partial(_remove_lock, lock, who),
            )
        elif lock.exists():
            yield Repair(
                Finding(
                    "note",
                    "a git is at work here and has a lock",
                    str(lock),
                    "another one has to wait for it",
                    "wait for it",
                )
            )


def _remove_lock(lock: Path, who: Surroundings) -> str:
    if lock.is_dir():  # no git's, and as much in its way
        lock.rmdir()
        return f"took an empty folder away that stood where a lock belongs: {lock}"
    locks.remove_dead(lock, who)
    return ""


def cut_follows(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield the worktrees that were cut off while they followed their branch."""
    for note in matching(places.follows, "*.json"):
        ref = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            ref = str(json.loads(note.read_bytes())["ref"])
        if ref and locks.is_held(places.publish_lock(ref)):
            continue  # a runner is at it
        yield Repair(
            Finding(
                "here",
                f"a worktree of {ref or 'a branch'} was cut off while it followed",
                str(note),
                "its files may be older than its branch, and `git commit -a` there would put them back",
                "`runner doctor --fix` brings it along",
            ),
            partial(_bring_along, git, places, who, note, ref),
        )


def unfinished_worktrees(project: Project) -> Iterator[Repair]:
    """Yield the worktrees whose making was cut before they had files."""
    for protocol, tip in project.protocols().items():
        ref = project.branch(protocol)
        if not project.places.making(protocol).exists() or locks.is_held(project.places.publish_lock(ref)):
            continue
        yield Repair(
            Finding(
                "here",
                f"the worktree of {protocol} was not finished",
                f"{ref} at {tip[:12]}",
                "there is no folder to edit its files in",
                "`runner doctor --fix` finishes it",
            ),
            partial(_finish_worktree, project, protocol, ref),
        )


def unfinished_renumberings(project: Project) -> Iterator[Repair]:
    """Yield the protocols that a killed command was giving another number."""
    for note in renumbering.unfinished(project.places):
        if locks.is_held(project.places.lock(note.origin)):
            continue
        yield Repair(
            Finding(
                "here",
                f"{note.origin} was being given another number, {note.protocol}, when a command was killed",
                str(project.places.renumbering(note.origin)),
                "what lies here by the old id is not the other protocol's that has it",
                "`runner doctor --fix` finishes it",
            ),
            partial(load.finish_renumbering, project, note.origin),
        )


def _finish_worktree(project: Project, protocol: str, ref: str) -> str:
    with locks.hold(project.places.publish_lock(ref), project.who, what=ref, wait=transaction.PUBLISH_WAIT):
        creating.finish_worktree(project.git, project.places, project.who, ref, protocol)
    return f"finished the worktree of {protocol}"


def _bring_along(git: Git, places: Places, who: Surroundings, note: Path, ref: str) -> str:
    if not ref:
        note.unlink(missing_ok=True)
        return "took a note away that nobody can read"
    with locks.hold(places.publish_lock(ref), who, what=ref, wait=transaction.PUBLISH_WAIT):
        worktree.settle_all(git, places, ref, who)
    return f"brought the worktree of {ref.removeprefix('refs/heads/')} along"


def severed_worktrees(git: Git) -> Iterator[Repair]:
    """Yield the worktrees that do not find the repository, or it them: one of the files between them is empty or gone."""
    for private in [path.parent for path in matching(git.common_dir, "worktrees/*/HEAD")]:
        if _line(private / "locked") == "initializing":
            continue  # a git is making it
        if not _line(private / "commondir"):
            yield Repair(
                Finding(
                    "here",
                    "what git keeps of a worktree is broken",
                    str(private / "commondir"),
                    "git stops at it, here and in every worktree",
                    "`runner doctor --fix` writes it again",
                ),
                partial(_write_commondir, private / "commondir"),
            )
        link = _link(private)
        if link is None:
            yield Repair(
                Finding(
                    "here",
                    "git does not know any more where a worktree is",
                    str(private / "gitdir"),
                    "it is not seen from here, and does not follow its branch",
                    f"`git worktree repair FOLDER` with its folder; where that is gone, `rm -r {shlex.quote(str(private))}`",
                )
            )
        elif _is_left(link):
            known = _is_known(git, private, link.parent)
            yield Repair(
                Finding(
                    "here",
                    "a worktree does not know which repository it is of",
                    str(link),
                    "git does not work in it, and it does not follow its branch",
                    "`runner doctor --fix` writes it again, as `git worktree repair` does"
                    if known
                    else f"the files there are not the worktree's, it seems: `rm -r {shlex.quote(str(private))}` has git forget it",
                ),
                partial(_write_link, private, link) if known else None,
            )


def _line(path: Path) -> str:
    """Return what a file says that git keeps a path in; nothing where it is gone, empty or zeros."""
    try:
        return os.fsdecode(path.read_bytes()).strip("\0\n ")
    except OSError:
        return ""


def _link(private: Path) -> Path | None:
    """Return the `.git` of a worktree, by the folder that git keeps of it."""
    told = _line(private / "gitdir")
    # git 2.48 may have it relative to where it stands.
    return Path(os.path.normpath(private / told)) if told else None


def _is_left(link: Path) -> bool:
    """Return whether a worktree's files are there and its `.git` is gone, or says nothing."""
    return not link.is_dir() and not _line(link) and link.parent.is_dir() and bool(matching(link.parent, "*"))


def _write_commondir(path: Path) -> str:
    recovery.write_locked(path, b"../..\n")
    return f"wrote {path} again"


def _is_known(git: Git, private: Path, folder: Path) -> bool:
    """Return whether the files in a folder are the worktree's, by its index: somebody may have put others there since."""
    code, out, _ = git.try_run("ls-files", "-z", git_dir=private, index=private / "index")
    names = [os.fsdecode(name) for name in out.split(b"\0") if name][:1000]
    there = sum(os.path.lexists(folder / name) for name in names)
    return code == 0 and there * 2 > len(names)


def _write_link(private: Path, link: Path) -> str:
    recovery.write_locked(link, b"gitdir: " + os.fsencode(private) + b"\n")
    return f"wrote {link} again"


def vanished_worktrees(git: Git) -> Iterator[Repair]:
    """Yield the worktrees that git knows and whose folders are gone; of protocols they are forgotten, others are people's."""
    for private in matching(git.common_dir, "worktrees/*/gitdir"):
        with contextlib.suppress(OSError):
            pointed = _link(private.parent)
            head = (private.parent / "HEAD").read_text("utf-8", "surrogateescape").strip().rpartition("/")[2]
            if pointed is None or pointed.exists() or _is_left(pointed) or (private.parent / "locked").exists():
                continue
            ours = ids.is_protocol_id(head)
            yield Repair(
                Finding(
                    "note",
                    "a worktree's folder is gone",
                    str(pointed.parent),
                    "git still counts its branch as checked out there",
                    "`git worktree repair FOLDER` where it was moved; else "
                    + ("`runner doctor --fix` forgets it" if ours else "`git worktree prune` forgets it"),
                ),
                partial(_forget_worktree, private.parent, pointed.parent) if ours else None,
            )


def _forget_worktree(private: Path, folder: Path) -> str:
    shutil.rmtree(private)
    with contextlib.suppress(OSError):
        private.parent.rmdir()  # git has none where there are no worktrees
    return f"forgot a worktree whose folder is gone: {folder}"


def temporary(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield the temporary files of processes that died."""
    patterns = ("??/tmp_obj_*", "pack/tmp_*", "pack/.tmp-*", "tmp_objdir-*", "incoming-*")
    found = matching(git.common_dir / "objects", *patterns)
    found += [path for folder in (places.beside, places.own) for path in matching(folder, ".*.*", "*/.*.*")]
    old = []
    for path in found:
        with contextlib.suppress(OSError):
            told = path.lstat()
            if who.now() - told.st_mtime > ABANDONED:
                old.append((path, told.st_size))
    opened = locks.opened() if old else set()
    opened |= {str(folder) for path in opened for folder in Path(path).parents}  # what somebody writes in is theirs too
    left = [(path, size) for path, size in old if os.path.realpath(path) not in opened]
    if left:
        files = "1 temporary file" if len(left) == 1 else f"{len(left)} temporary files"
        yield Repair(
            Finding(
                "here",
                f"{files} of processes that died, {_size(sum(size for _, size in left))}",
                str(left[0][0]),
                "they take room, and nothing reads them",
                "`runner doctor --fix` takes them away",
            ),
            partial(_remove_temporary, [path for path, _ in left]),
        )


def _remove_temporary(paths: list[Path]) -> str:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return f"took {len(paths)} temporary file{'s' if len(paths) != 1 else ''} away"


# --- what ended protocols left -----------------------------------------------------------------------------------------


def ended(project: Project) -> Iterator[Repair]:
    """Yield that protocols which ended, or have no branch any more, have workspaces or journals here that nobody used for long."""
    old, here = [], project.protocols()
    for protocol, folder in tidy.with_something(project):
        with contextlib.suppress(OSError):
            if project.who.now() - folder.stat().st_mtime > UNUSED and (
                protocol not in here or record.row(project.git, protocol, here[protocol])["status"] in record.ENDED
            ):
                old.append(folder)
    if old:
        kept = "1 workspace or journal" if len(old) == 1 else f"{len(old)} workspaces and journals"
        yield Repair(
            Finding(
                "note",
                f"{kept} of protocols that ended, or whose branch is gone, {_size(sum(map(beneath.size, old)))}",
                ", ".join(map(str, old[:3])) + (f" and {len(old) - 3} more" if len(old) > 3 else ""),
                f"they take room; nothing was done in them for {UNUSED / 86400:.0f} days",
                "`runner clean` takes away what git holds, and names the rest with the reason: "
                "`rm -r` what you do not need of that",
            )
        )


# --- loose objects -----------------------------------------------------------------------------------------------------


def build_up(git: Git) -> Iterator[Repair]:
    """Yield that there are more loose objects than git works well with: nothing here packs them unasked."""
    count, size = _counted(git)
    if count > LOOSE:
        yield Repair(
            Finding(
                "note",
                f"{count} loose objects, {_size(size)}",
                str(git.common_dir / "objects"),
                "each takes a file of its own; git gets slower, and so does every fetch",
                "`runner doctor --fix` packs them and throws nothing away; so does `git maintenance run --task=loose-objects`",
            ),
            partial(_pack, git),
        )


def _pack(git: Git) -> str:
    before = _counted(git)
    git.run("pack-refs", "--all")
    git.run("repack", "-d", "-l", "-q")
    if _counted(git)[0] > LOOSE:  # those that no ref has; they are kept all the same
        git.run("maintenance", "run", "--task=loose-objects", "--quiet")
        git.run("prune-packed", "-q")
    git.close()
    after = _counted(git)
    packed = beneath.size(git.common_dir / "objects/pack")
    return f"packed {before[0] - after[0]} loose objects: {_size(before[1])} before, {_size(packed + after[1])} now with all packs"


def _counted(git: Git) -> tuple[int, int]:
    """Return how many loose objects there are, and how many bytes they take on the disk."""
    told = dict(line.split(": ", 1) for line in lines_of(git.text("count-objects", "-v")) if ": " in line)
    return int(told.get("count", 0)), int(told.get("size", 0)) * 1024


def _size(size: float) -> str:
    return f"{size / 1_000_000:.1f} MB" if size >= 100_000 else f"{size / 1000:.0f} kB"
