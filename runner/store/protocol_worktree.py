"""The worktree that a person gets for a protocol: where it starts, how it is made, and why it has to stay (design §6, new)."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from runner.errors import UsageError
from runner.git import Git, GitError, Worktree
from runner.lines import few, lines_of
from runner.protocol import ids, paths
from runner.store import locks, snapshot, transaction, trusted, workspace, worktree
from runner.store.environment import Clone, matching, write_atomically
from runner.store.project import Project


def base_of(project: Project, named: str | None) -> tuple[str, str]:
    """Return (the base's name, the commit that it is at): `--base` or plan.md, config, origin/HEAD, the current branch.

    Raises:
        UsageError: there is no such branch, or no commit yet.
    """
    git = project.git
    named = named or project.config.base
    if named:
        commit = tip_of(git, named)
        if commit is None:
            raise UsageError(
                f"there is no branch `{named}`", "base", "name a branch or commit of this repository: --base NAME"
            )
        return named, commit
    remote = trusted.remote_name(git)
    if remote:
        head = git.symbolic_ref(f"refs/remotes/{remote}/HEAD")
        if head and (commit := git.resolve(head)):
            return head.removeprefix(f"refs/remotes/{remote}/"), commit
    head = git.symbolic_ref("HEAD", git.git_dir)
    if head is None:
        code, out, _ = git.try_run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", git_dir=git.git_dir)
        if code:
            raise trusted.NoCommitsError(str(git.cwd))
        oid = out.decode().strip()
        return oid, oid
    branch = head.removeprefix("refs/heads/")
    protocol = ids.protocol_of_branch(project.pattern, branch)
    if protocol:  # a protocol does not start from another one's branch, but from where that one was
        tip = git.resolve(head)
        assert tip is not None
        return base_of(project, snapshot.read(git, tip, protocol).state.base)
    commit = git.resolve(head)
    if commit is None:
        raise trusted.NoCommitsError(str(git.cwd))
    return branch, commit


def tip_of(git: Git, name: str) -> str | None:
    """Return the commit that a base is at: of the branch here and the remote's the one that has the other, else the one here."""
    remote = trusted.remote_name(git)
    local = git.resolve(f"refs/heads/{name}")
    fetched = git.resolve(f"refs/remotes/{remote}/{name}") if remote else None
    if local and fetched:
        return fetched if git.is_ancestor(local, fetched) else local
    return local or fetched or (git.resolve(name) if ids.OID.fullmatch(name) else None)


def worktree_path(project: Project, protocol: str) -> Path | None:
    """Return where a protocol's worktree belongs: `../shop.worktrees/0007-slug`; None in a bare repository."""
    git = project.git
    trees = git.worktrees()
    if not trees:
        return None
    main = trees[0].path
    configured = project.config.worktrees.path
    folder = Path(configured or f"../{main.name}.worktrees")
    if configured and configured.startswith("~/"):
        folder = folder.expanduser()
    return Path((main / folder).resolve()) / protocol


def add_worktree(project: Project, protocol: str) -> tuple[Path | None, str]:
    """Make the person's worktree and return (its path, a note for them); a machine that cannot have one works without."""
    path = worktree_path(project, protocol)
    if path is None:
        return None, "a bare repository has no worktrees"
    branch = ids.branch_of(project.pattern, protocol)
    if path.exists():
        return None, f"{path} is there already: no worktree was made"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return None, f"no worktree: {path.parent}: {error.strerror}"
    workspace.fetch_missing(project, branch)
    ref = f"refs/heads/{branch}"
    with locks.hold(project.dirs.publish_lock(ref), project.env, what=branch, wait=transaction.PUBLISH_WAIT):
        return _make_worktree(project, ref, protocol, path)


def finish_worktree(clone: Clone, ref: str, protocol: str) -> None:
    """Make the worktree again whose making a crash cut; git cannot read an incomplete one.

    The caller holds the branch's publish lock.
    """
    dirs = clone.dirs
    try:
        note = dirs.making(protocol).read_bytes()
    except OSError:
        return
    path = Path(os.fsdecode(note))
    if b"\0" in note or not path.is_absolute():  # the power went, and nobody knows where it was
        dirs.making(protocol).unlink()
        return
    _unmake_worktree(clone, protocol, path)
    if clone.git.ref(ref) is not None and not path.exists():
        made, why = _make_worktree(clone, ref, protocol, path)
        clone.env.say(why or f"made the worktree that was not finished: {made}")


def _make_worktree(clone: Clone, ref: str, protocol: str, path: Path) -> tuple[Path | None, str]:
    git, dirs = clone.git, clone.dirs
    # A crash before the files are written is known by one note, while they are by that of a worktree that follows its branch.
    write_atomically(dirs.making(protocol), os.fsencode(path))
    branch = ref.removeprefix("refs/heads/")
    code, _, err = git.try_run(
        "worktree", "add", "--quiet", "--no-checkout", str(path), branch, env={"GIT_LITERAL_PATHSPECS": "0"}
    )
    if code:
        _unmake_worktree(clone, protocol, path)
        return None, f"no worktree: {lines_of(err)[0] if err else code}"
    tree = next((tree for tree in git.checked_out(ref) if tree.path in (path, path.resolve())), None)
    tip = git.ref(ref)
    if tree is None or tip is None:
        _unmake_worktree(clone, protocol, path)
        return None, f"no worktree: {path} was not made"
    _be_sparse(git, tree, protocol)
    note = worktree.note(dirs, tree, ref, git.write("tree", b""), tip)
    dirs.making(protocol).unlink()
    try:
        git.run(
            "read-tree",
            "-m",
            "-u",
            "HEAD",
            git_dir=tree.git_dir,
            work_tree=tree.path,
            index=tree.git_dir / "index",
            config=worktree.settings_of(git, tree),
        )
    except GitError as error:
        return path, f"{path} is not complete ({error.what}); the next command completes it"
    note.unlink(missing_ok=True)
    return path, ""


def _be_sparse(git: Git, tree: Worktree, protocol: str) -> None:
    """Have a new worktree leave out what a sparse checkout leaves out of the main one, but not the protocol's own folder."""
    folders = (str(git.common_dir), *git.worktree_folders())
    if not any(os.path.exists(f"{folder}/info/sparse-checkout") for folder in folders):
        return  # else git looks at every worktree
    main = git.worktrees()[0]
    settings = git.settings(main.git_dir)
    if settings.get("core.sparsecheckout", ("false",))[-1].lower() != "true":
        return
    with contextlib.suppress(FileNotFoundError):
        lines = (main.git_dir / "info/sparse-checkout").read_text("utf-8", "surrogateescape").rstrip("\n").split("\n")
        root, others = f"/{paths.ROOT}/", f"!/{paths.ROOT}/*/"
        is_cone = settings.get("core.sparsecheckoutcone", ("false",))[-1].lower() == "true"
        if is_cone and root not in lines:  # a cone names each folder above
            lines += [root, others]
        if not is_cone or others in lines:
            lines.append(f"{root}{protocol}/")
        at = tree.git_dir / "info/sparse-checkout"
        at.parent.mkdir(exist_ok=True)
        at.write_text("\n".join([*lines, ""]), "utf-8", "surrogateescape")


def _unmake_worktree(clone: Clone, protocol: str, path: Path) -> None:
    """Remove an incomplete worktree, whose making was cut, before it had files: nobody can have worked in it."""
    with contextlib.suppress(FileNotFoundError):
        if set(os.listdir(path)) - {".git"}:
            clone.dirs.making(protocol).unlink(missing_ok=True)
            return
    wanted = os.fsencode(path / ".git")
    for private in matching(clone.git.common_dir, f"worktrees/{protocol}*"):
        gitdir = private / "gitdir"
        if not gitdir.exists() or wanted.startswith(gitdir.read_bytes().rstrip(b"\n")):
            shutil.rmtree(private)
    with contextlib.suppress(OSError):
        (path / ".git").unlink(missing_ok=True)
        path.rmdir()
    clone.dirs.making(protocol).unlink(missing_ok=True)


# --- why it has to stay ----------------------------------------------------------------------------------------------

UNDER_WAY = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG", "rebase-merge", "rebase-apply")


class Kept(NamedTuple):
    """`why`: why a worktree has to stay; `command`: what makes it removable without a loss."""

    why: str
    command: str


def keeps(git: Git, tree: Worktree, *, resumed: bool = False) -> Kept | None:
    """Return why a worktree has to stay, or None where git holds all that is in it. `resumed`: its removal was started before, so
    missing files do not count."""
    at = f"git -C {shlex.quote(str(tree.path))}"
    if tree.git_dir == git.common_dir:
        return Kept("it is the main worktree", f"`{at} switch BRANCH` to another branch")
    if Path(os.path.realpath(git.cwd)).is_relative_to(os.path.realpath(tree.path)):
        return Kept("you are in it", "change to another folder")
    if (tree.git_dir / "locked").exists():
        return Kept("it is locked", f"`git worktree unlock {shlex.quote(str(tree.path))}`")
    if any((tree.git_dir / name).exists() for name in UNDER_WAY):
        return Kept("a merge, rebase or the like is under way in it", f"finish or abort it: `{at} status` says how")
    if (tree.git_dir / "modules").exists():
        remove = f"`git worktree remove --force {shlex.quote(str(tree.path))}`"
        return Kept("it has submodules of its own", f"save what they hold, then {remove}")
    code, out, err = git.try_run(
        "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignored=matching",
        "--ignore-submodules=none",
        git_dir=tree.git_dir, work_tree=tree.path, config=worktree.conversions(git),
    )  # fmt: skip
    if code:
        return Kept(f"git cannot read it: {lines_of(err)[0] if err else code}", "`runner doctor` says more")
    lines = [line for line in out.decode("utf-8", "surrogateescape").split("\0") if len(line) > 3]
    mine = [line[3:] for line in lines if not _is_cache(line[3:]) and not (resumed and line[:2] == " D")]
    if mine:
        names = shlex.join(mine) if len(mine) <= 3 else "FILES"
        command = f"commit them (`{at} add -f -- {names}`, then `{at} commit`), or move them to another folder"
        return Kept(f"it holds files that are in no commit: {few(mine)}", command)
    return _hidden(git, tree, at)


def _hidden(git: Git, tree: Worktree, at: str) -> Kept | None:
    """Return why a worktree has to stay with files that `git status` skips; None where there are none."""
    out = git.run("ls-files", "-v", "-z", git_dir=tree.git_dir, work_tree=tree.path, config=worktree.conversions(git))
    flagged = [
        line for line in out.decode("utf-8", "surrogateescape").split("\0") if line[:1].islower() or line[:1] == "S"
    ]
    there = [line[2:] for line in flagged if os.path.lexists(tree.path / line[2:])]
    if not there:
        return None
    checks = f"`{at} update-index --no-assume-unchanged --no-skip-worktree -- FILE` makes git check it"
    return Kept(f"git does not check {few(there)} for changes (`git ls-files -v`)", checks)


def _is_cache(path: str) -> bool:
    caches = {line.strip("/") for line in workspace.EXCLUDES.split() if not line.startswith("*")}
    return path.endswith(".pyc") or any(part in caches for part in path.split("/"))
