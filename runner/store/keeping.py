"""Why a person's worktree has to stay: what is in it that git does not hold."""

from __future__ import annotations

import os
from pathlib import Path

from runner.git import Git, Worktree
from runner.lines import lines_of
from runner.store import workspace, worktree

CACHES = frozenset(line.strip("/") for line in workspace.EXCLUDES.split() if not line.startswith("*"))
UNDER_WAY = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG", "rebase-merge", "rebase-apply")


def keeps(git: Git, tree: Worktree, *, resumed: bool = False) -> str:
    """Return why a worktree has to stay, or nothing where git holds all that is in it. `resumed`: its removal was begun before, so
    files that are missing say nothing."""
    if tree.git_dir == git.common_dir:
        return "it is the main worktree; `git switch` to another branch there"
    if Path(os.path.realpath(git.cwd)).is_relative_to(os.path.realpath(tree.path)):
        return "you are in it"
    if (tree.git_dir / "locked").exists():
        return "it is locked: `git worktree unlock` lets it go"
    if any((tree.git_dir / name).exists() for name in UNDER_WAY):
        return "a merge, rebase or the like is under way in it"
    if (tree.git_dir / "modules").exists():
        return "it has submodules of its own"
    code, out, err = git.try_run(
        "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignored=matching",
        "--ignore-submodules=none",
        git_dir=tree.git_dir, work_tree=tree.path, config=worktree.conversions(git),
    )  # fmt: skip
    if code:
        return f"git cannot tell what is in it: {lines_of(err)[0] if err else code}"
    lines = [line for line in out.decode("utf-8", "surrogateescape").split("\0") if len(line) > 3]
    mine = [line[3:] for line in lines if not _is_cache(line[3:]) and not (resumed and line[:2] == " D")]
    if mine:
        return f"it holds what is in no commit: {listed(mine)}"
    return _hidden(git, tree)


def _hidden(git: Git, tree: Worktree) -> str:
    """Return why a worktree has to stay with files that `git status` skips; empty where there are none."""
    out = git.run("ls-files", "-v", "-z", git_dir=tree.git_dir, work_tree=tree.path, config=worktree.conversions(git))
    flagged = [
        line for line in out.decode("utf-8", "surrogateescape").split("\0") if line[:1].islower() or line[:1] == "S"
    ]
    there = [line[2:] for line in flagged if os.path.lexists(tree.path / line[2:])]
    return f"git does not check {listed(there)} for changes (`git ls-files -v`)" if there else ""


def _is_cache(path: str) -> bool:
    return path.endswith(".pyc") or any(part in CACHES for part in path.split("/"))


def listed(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
