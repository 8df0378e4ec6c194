"""Two protocols with one id: told apart by their genesis; neither ever takes the other's place (design §2, ids).

Clones that create protocols without publishing give the same number to two protocols, and with one title the same id. The one that is
published second is refused until it has another number.
"""

from __future__ import annotations

import os

from runner.errors import RefusedError
from runner.git import Git
from runner.protocol import ids
from runner.store import record, worktree
from runner.store.project import Project


class ClashError(RefusedError):
    """Another protocol with the same id is published."""


def genesis(git: Git, protocol: str, tip: str) -> str | None:
    """Return the genesis of the protocol's record at a commit: by the newest of its history that can be read; None without one."""
    found = record.row(git, protocol, tip).get("genesis")
    if found is None:  # damaged at the tip, or no protocol at all
        rows = (record.row(git, protocol, oid).get("genesis") for oid in git.first_parents(tip))
        found = next(filter(None, rows), None)
    return str(found) if found is not None else None


def published(project: Project, protocol: str) -> tuple[str, str] | None:
    """Return (where, commit) of another protocol with this id, on the remote as it was last looked at or merged into the trusted
    branch; None where there is none."""
    git, remote, branch = project.git, project.trusted.remote, project.branch(protocol)
    here = git.ref(branch)
    if here is None or remote is None:
        return None
    name = ids.branch_of(project.pattern, protocol)
    there = (
        project.mirror.refs().get(f"refs/heads/{name}") if project.mirror else git.ref(f"refs/remotes/{remote}/{name}")
    )
    ours: str | None = None
    for where, tip in ((f"{name} of {remote}", there), (project.trusted.branch, project.trusted.commit)):
        if tip in (None, here):
            continue
        assert tip is not None
        theirs = record.row(git, protocol, tip).get("genesis")
        ours = ours or genesis(git, protocol, here) if theirs else None
        if ours and theirs and theirs != ours:
            return where, tip
    return None


def error(project: Project, protocol: str, there: tuple[str, str]) -> ClashError:
    """Return the error for a clash, with the one command that ends it."""
    here, (where, tip) = project.git.ref(project.branch(protocol)) or "", there
    hint = f"`runner fork --renumber {protocol}` gives yours another number; what is done stays done"
    cwd = os.path.realpath(project.git.cwd)
    trees = worktree.on_branch(project.git, project.branch(protocol))
    if any(os.path.commonpath([cwd, os.path.realpath(tree.path)]) == os.path.realpath(tree.path) for tree in trees):
        hint = f"in {project.git.worktrees()[0].path}: {hint}"  # the worktree goes, and nobody may stand in it
    return ClashError(
        f"{project.trusted.remote} has another protocol with the id {protocol}; yours is not published, and nothing was replaced",
        f"here {here[:12]}, {where} {tip[:12]}",
        hint,
    )


def refuse(project: Project, protocol: str) -> None:
    """Refuse where another protocol with this id is published.

    Raises:
        ClashError: with the command that gives this one another number.
    """
    there = published(project, protocol)
    if there is not None:
        raise error(project, protocol, there)
