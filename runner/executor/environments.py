"""What the sandbox shows of a person's checkout: the workspace in its place, and the project's environment (design §6).

A virtual environment, node_modules and what a build wrote are ignored by git, so a workspace lacks them, and they hold the checkout's
path. Therefore the workspace appears at that path, and such folders are bound into it, read-only. What a step could have
put there is never taken for them: a commit can bring tracked files and links into a checkout, but no ignored ones.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.git import Git
from runner.sandbox import Place
from runner.store.project import Project
from runner.store.workspace import Workspace
from runner.values import dataclass

# Folders of environments, by what makes one of them sure.
KINDS = {".venv": "pyvenv.cfg", "venv": "pyvenv.cfg", "node_modules": "", "vendor/bundle": "ruby"}
CREDENTIALS = (".env", ".netrc", ".npmrc", ".pypirc", ".yarnrc.yml", "pip.conf", "pip.ini")
MOST = 1_000_000  # bytes of a generated file
_SYSTEM = ("/", "/dev", "/etc", "/home/runner", "/opt", "/proc", "/run", "/sys", "/tmp", "/usr", "/var/tmp")


@dataclass(frozen=True, slots=True)
class ProjectEnvironment:
    """What of a checkout commands are shown: folders, and the contents of files; by their path below its top.

    `is_in_place`: whether the workspace appears at the checkout's path.
    """

    top: Path
    is_in_place: bool
    folders: Mapping[str, Path]
    generated: Mapping[str, bytes]

    @property
    def programs(self) -> tuple[str, ...]:
        """The folders of programs of its virtual environment."""
        return tuple(str(at / "bin") for name, at in self.folders.items() if KINDS.get(name) == "pyvenv.cfg")

    def place(self, space: Workspace, taken: Container[str]) -> Place:
        """Return what the sandbox shows of it, without what the commit has itself."""
        shown: dict[Path, Path] = {}
        for base in (self.top,) if self.is_in_place else (space.work, space.export):
            for name, at in self.folders.items():
                if name not in taken:
                    shown |= {base / name: at, **{base / name / file: space.empty for file in _secret(at)}}
        return Place({space.work: self.top, space.export: self.top} if self.is_in_place else {}, shown)

    def files(self, taken: Container[str]) -> dict[str, bytes]:
        """Return the generated files, without what the commit has itself."""
        return {name: data for name, data in self.generated.items() if name not in taken}

    def taken(self, git: Git, commit: str) -> set[str]:
        """Return the names at which a commit has something itself."""
        return {name for name in (*self.folders, *self.generated) if git.object(f"{commit}:{name}") is not None}


def find(project: Project, space: Workspace) -> ProjectEnvironment | None:
    """Return the environment in the main worktree; None where there is none."""
    top = main_worktree(project)
    if top is None:
        return None
    names = [name for name, sign in KINDS.items() if (top / name / sign).exists()]
    names += [name for name in project.config.workspace.share if name not in names]
    names = [name for name in names if _is_plain(top, name) and (top / name).is_dir()]
    files = [name for name in dict.fromkeys(_version_files(project)) if _is_plain(top, name) and _is_file(top / name)]
    free = _untracked(project, [*names, *files])
    is_in_place = not space.root.is_relative_to(top) and not any(Path(name).is_relative_to(top) for name in _SYSTEM)
    folders = {name: top / name for name in names if name in free}
    return ProjectEnvironment(
        top, is_in_place, folders, {name: (top / name).read_bytes() for name in files if name in free}
    )


def main_worktree(project: Project) -> Path | None:
    """Return the main worktree; None where the repository has none."""
    git = project.git
    if git.common_dir.name == ".git":
        top = git.common_dir.parent
    elif git.top is not None and git.git_dir == git.common_dir:
        top = git.top
    else:
        return None
    return Path(os.path.realpath(top))


def _is_plain(top: Path, name: str) -> bool:
    """Return whether no link is on the way: a branch that is checked out there may have put one."""
    return os.path.realpath(top / name) == os.path.join(top, name)


def _untracked(project: Project, names: list[str]) -> set[str]:
    """Return the names below which the branch that is checked out in the main worktree has no file."""
    if not names:
        return set()
    git = project.git
    files = os.fsdecode(git.run("ls-files", "-z", "--", *names, index=git.common_dir / "index")).split("\0")
    return {name for name in names if not any(path == name or path.startswith(f"{name}/") for path in files)}


def _secret(folder: Path) -> list[str]:
    return [name for name in CREDENTIALS if (folder / name).is_file()]


def _is_file(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= MOST and path.name not in CREDENTIALS


def _version_files(project: Project) -> Iterator[str]:
    data = project.trusted.blob(project.git, "pyproject.toml")
    try:
        tool = tomllib.loads((data or b"").decode()).get("tool", {})
    except ValueError:
        return
    for path in (
        ("hatch", "build", "hooks", "vcs", "version-file"),
        ("setuptools_scm", "version_file"),
        ("setuptools_scm", "write_to"),
        ("pdm", "version", "write_to"),
    ):
        found: Any = tool
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, str) and not os.path.isabs(found) and ".git" not in Path(found).parts:
            yield os.path.normpath(found)
