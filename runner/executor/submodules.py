"""Show commands the content of submodules and of LFS files, of which a commit has only the names (design §6).

It is in the person's clone, where git and LFS keep it by its digest. It is shown to commands in the sandbox, read-only, and never is
in the workspace itself: so a step cannot change it, and no git of ours takes it for the step's work. Neither a program of the
repository's choice nor a configuration of a submodule's is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from runner.errors import StepFailedError
from runner.executor import environments
from runner.git import BLOB, EXECUTABLE, SUBMODULE, Git, GitError
from runner.lines import few, pattern
from runner.protocol import paths, strict_yaml
from runner.store import objects, workspace, worktree
from runner.store.environment import write_atomically
from runner.store.project import Project, Session

_POINTER = pattern(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize \d+\n"
)
_LONGEST = 1024  # bytes of a pointer
FEW = 5


def lfs_pointers(git: Git, commit: str) -> dict[str, str]:
    """Return the digests of the files whose content LFS holds, by their paths."""
    files = {path: entry.oid for path, entry in git.files(commit).items() if entry.mode in (BLOB, EXECUTABLE)}
    attributes = [oid for path, oid in files.items() if path.rpartition("/")[2] == ".gitattributes"]
    if not any(b"filter=lfs" in (git.blob(oid) or b"") for oid in attributes):
        return {}
    sizes = zip(files.items(), git.sizes(list(files.values())), strict=True)
    small = {path: git.blob(oid) or b"" for (path, oid), size in sizes if size and size <= _LONGEST}
    pointers = {path: found[1].decode() for path, data in small.items() if (found := _POINTER.fullmatch(data))}
    if not pointers:
        return {}
    import tempfile  # here, because few projects have files in LFS

    with tempfile.TemporaryDirectory() as scratch:
        index, names = Path(scratch) / "index", b"".join(os.fsencode(path) + b"\0" for path in pointers)
        git.run("read-tree", commit, index=index)
        said = git.run("check-attr", "--cached", "-z", "--stdin", "filter", index=index, data=names)
    parts = os.fsdecode(said).split("\0")
    return {path: pointers[path] for path, value in zip(parts[0::3], parts[2::3], strict=False) if value == "lfs"}


def empty_submodules(project: Project, commit: str) -> Iterator[str]:
    """Yield what commands do not find in a commit's files although its project has it, with the setting that shows it."""
    config, on_host = project.config.workspace, project.source("executor")[0] == "host"
    for setting, what, find, is_shown in (
        ("submodules", "empty in steps and checks: submodule", workspace.submodules, config.submodules),
        ("lfs", "a pointer, not its content, in steps and checks: file of LFS", lfs_pointers, config.lfs),
    ):
        if found := [] if is_shown and not on_host else sorted(find(project.git, commit)):
            names = few([*map(strict_yaml.shown, found)], FEW)
            how = f"`workspace: {{{setting}: true}}` in {paths.CONFIG} shows it"
            yield f"{what} {names}; {'the sandbox alone can show it' if is_shown else how}"


def content_shown(session: Session, commit: str) -> dict[str, Path]:
    """Return what the configuration says is shown of them: folders and files of the machine, by their paths in the commit.

    A pointer to what the clone lacks stays one, and a line says so: a step may have written it.

    Raises:
        StepFailedError: this clone does not have a submodule.
    """
    git, config = session.git, session.project.config.workspace
    found = dict(_checked_out(session.project, workspace.submodules(git, commit))) if config.submodules else {}
    for path, oid in lfs_pointers(git, commit).items() if config.lfs else ():
        content = git.common_dir / "lfs/objects" / oid[:2] / oid[2:4] / oid
        if content.is_file() and not content.is_symlink():
            found[path] = content
        else:
            session.tell_once(
                f"{strict_yaml.shown(path)} stays a pointer: this clone does not have its content; `git lfs fetch` brings it"
            )
    return found


def _checked_out(project: Project, named: dict[str, str], above: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the folder with the files of each submodule, and of those in it, by path; made once for all protocols."""
    git = project.git
    env = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(map(objects.quoted, _stores(git.common_dir / "modules")))}
    for name, commit in named.items():
        path, folder = above + name, environments.shared_folder(project) / f"submodule-{commit}"
        try:
            if not environments.is_whole(folder):
                _check_out(project, commit, folder, env)
            os.utime(folder / environments.MADE, (project.env.now(),) * 2)
            lines = git.run("ls-tree", "-r", "-z", commit, env=env).split(b"\0")
        except (GitError, OSError) as error:
            raise StepFailedError(
                f"the submodule {strict_yaml.shown(path)} is not in this clone",
                commit,
                "`git submodule update --init --recursive` in the checkout; no attempt was used up",
            ) from error
        yield path, folder / "work"
        inner = [line.partition(b"\t") for line in lines if line.startswith(f"{SUBMODULE} ".encode())]
        yield from _checked_out(
            project, {os.fsdecode(at): meta.split()[2].decode() for meta, _, at in inner}, f"{path}/"
        )


def _check_out(project: Project, commit: str, folder: Path, env: dict[str, str]) -> None:
    with environments.making(project, folder) as made:
        git, work = project.git, made / "work"
        work.mkdir()
        given = worktree.conversions(git)
        git.run("read-tree", "--reset", "-u", commit, work_tree=work, index=made / "index", env=env, config=given)
        write_atomically(made / environments.MADE, b"[]")


def _stores(folder: Path) -> Iterator[Path]:
    """Yield where the submodules of a clone, and those in them, have their objects."""
    for root, folders, files in os.walk(folder):
        if "HEAD" in files and "objects" in folders:
            yield Path(root) / "objects"
            folders[:] = ["modules"] if "modules" in folders else []
