"""Give a protocol another number in this clone: every ref, worktree and journal of the old id makes way for the new one.

A note says what moves before anything is visible. `finish` moves what has not moved yet; the next command on the old id calls it
(`load.at_work`), so no journal, worktree or workspace is left from which the other protocol of that id would resume.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from runner.errors import RefusedError
from runner.executor import journal
from runner.git import Git, Worktree
from runner.protocol import paths
from runner.store import locks, protocol_worktree, publishing, transaction, workspace, worktree
from runner.store.environment import StateDir, forget_checkpoint, matching, write_atomically
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.values import dataclass

Refs = dict[str, tuple[str | None, str | None]]


class RenumberedError(RefusedError):
    """The protocol has another id now. `note`: how it got it."""

    def __init__(self, note: Renumbering) -> None:
        super().__init__(
            f"{note.origin} is {note.protocol} now: it was being given that number when a command was killed, which is finished",
            paths.folder(note.protocol),
            f"`runner status {note.protocol}` shows it; {note.origin} is the id of another protocol",
        )
        self.note = note


@dataclass(frozen=True, slots=True)
class Renumbering:
    """`origin`, `old`: the id that the protocol had, and its tip; `protocol`, `genesis`, `tip`: those of its fork.

    `source`: of the fork, PROTOCOL@REVISION; `refs`: how refs move, name to (new, expected); `trees`: the worktrees that make
    way, as (path, git directory); `ends`: the status to be recorded at last, or empty; `is_finished`: all of it has moved.
    """

    origin: str
    old: str
    protocol: str
    genesis: str
    tip: str
    source: str
    refs: Refs
    trees: tuple[tuple[str, str], ...]
    ends: str = ""
    is_finished: bool = False

    def write(self, dirs: StateDir) -> None:
        """Note it; it is on the disk when this returns."""
        write_atomically(dirs.renumbering(self.origin), json.dumps(dataclasses.asdict(self)).encode() + b"\n")

    def resume(self, project: Project) -> None:
        """Finish it after a kill; the caller holds the lock of the old id and the publish lock of its branch.

        Raises:
            RenumberedError: it is finished now, so the caller's command names another protocol.
        """
        git = project.git
        if git.ref(project.branch(self.protocol)) is None and git.ref(project.branch(self.origin)) != self.old:
            forget(project.dirs, self.origin)  # its branch moved before any ref of the note did
            return
        finish(project, self, resumed=True)
        raise RenumberedError(self)


def read(dirs: StateDir, origin: str) -> Renumbering | None:
    """Return the note about a protocol that had this id, or None."""
    try:
        told = json.loads(dirs.renumbering(origin).read_bytes())
        refs = {name: (new, old) for name, (new, old) in told["refs"].items()}
        trees = tuple((path, git_dir) for path, git_dir in told["trees"])
        return Renumbering(**{**told, "refs": refs, "trees": trees})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def unfinished(dirs: StateDir) -> list[Renumbering]:
    """Return those that a killed command, or one that is at work, has not finished."""
    notes = (read(dirs, path.name) for path in matching(dirs.renumbering(""), "*"))
    return [note for note in notes if note is not None and not note.is_finished]


def forget(dirs: StateDir, origin: str) -> None:
    """Remove the note: its id was printed, or nothing came of it."""
    dirs.renumbering(origin).unlink(missing_ok=True)


def finish(project: Project, note: Renumbering, *, resumed: bool = False) -> None:
    """Move the refs that have not moved, make the new worktree where it is missing, and take away what lies here by the old id."""
    git, dirs, env = project.git, project.dirs, project.env
    moves = {name: (new, old) for name, (new, old) in note.refs.items() if new != old and git.ref(name) == old}
    if moves:
        for name in moves:
            locks.remove_dead(git.common_dir / f"{name}.lock", env)
        git.update_refs(moves, "runner: renumbered")
    if resumed:
        branch = project.branch(note.protocol)
        with locks.hold(dirs.publish_lock(branch), env, what=branch, wait=transaction.PUBLISH_WAIT):
            protocol_worktree.finish_worktree(git, dirs, env, branch, note.protocol)
            worktree.settle_all(git, dirs, branch, env)
        if not worktree.on_branch(git, branch):
            protocol_worktree.add_worktree(project, note.protocol)
    journal.put_aside(dirs, note.origin, note.old)
    forget_checkpoint(dirs, note.origin)
    for path, git_dir in note.trees:
        _remove(project, note, Worktree(Path(path), Path(git_dir), None), resumed=resumed)
    workspace.remove(workspace.place(dirs, note.origin, project.config.workspace.path))
    dataclasses.replace(note, is_finished=True).write(dirs)
    mirror = project.mirror or Mirror.of(git, dirs, env)
    name = project.branch(note.origin)
    if mirror is not None and (there := mirror.refs().get(name)) is not None:
        publishing.track(project, mirror.remote, {name: there})


def _remove(project: Project, note: Renumbering, tree: Worktree, *, resumed: bool) -> None:
    git, branch = project.git, project.branch(note.origin)
    if not tree.git_dir.is_dir():
        return
    if tree.path.exists():
        theirs = git.ref(branch)
        if theirs is not None and _index_is(git, tree, theirs):
            return  # it follows the other protocol already
        # Its branch is gone, and git could not tell what is in it, nor whether it is the other protocol's.
        git.run("update-ref", "--no-deref", "HEAD", note.old, git_dir=tree.git_dir)
        if kept := protocol_worktree.keeps(git, tree, resumed=resumed):
            project.env.say(f"{tree.path} stays, at {note.old[:12]}: {kept.why}; {kept.command}")
            return
        code, _, _ = git.try_run("worktree", "remove", "--force", str(tree.path), config=worktree.conversions(git))
        if code:  # a removal that was cut left what git knows no more
            shutil.rmtree(tree.path)
    shutil.rmtree(tree.git_dir, ignore_errors=True)


def _index_is(git: Git, tree: Worktree, commit: str) -> bool:
    code, _, _ = git.try_run("diff-index", "--cached", "--quiet", commit, git_dir=tree.git_dir, work_tree=tree.path)
    return code == 0
