"""Where a repository is: found from a folder as git finds it, without trusting what lies in wait there."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from runner.errors import UsageError
from runner.git.process import OLDEST, git_error, no_git, personal_environment, sealed_environment, spawn
from runner.lines import lines_of
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A repository's folders. `git_dir`: of the work tree that was stood in; `top`: that work tree, or None in a bare one."""

    cwd: Path
    git_dir: Path
    common_dir: Path
    top: Path | None
    object_format: str
    trusted: bool  # another user's, and the person's own git trusts it


@functools.cache
def _version(program: str, modified: int) -> str:
    """Return what a git says of its version: once for a program that does not change."""
    code, out, _ = spawn([program, "version"], env=sealed_environment(), cwd=None)
    told = out.decode("utf-8", "replace").strip()
    return told if code == 0 and told else f"git version: exit {code}"


def locate(cwd: Path) -> Location:
    """Return where the repository is that `cwd` is in: a checkout, a linked worktree, or a bare one.

    Raises:
        UsageError: no git or too old a one, no repository, or one that is not trusted.
    """
    env = sealed_environment()
    if "\n" in str(cwd):
        raise UsageError("the folder's name holds a line break", repr(str(cwd)), "rename it")
    program = shutil.which("git")
    if program is None:
        raise no_git()
    told = _version(program, os.stat(program).st_mtime_ns)
    found = re.search(r"(\d+)\.(\d+)", told)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        raise UsageError(f"git is too old: {told}", "PATH", f"install git {OLDEST[0]}.{OLDEST[1]} or later")
    asked = [
        "rev-parse",
        "--path-format=absolute",
        "--git-dir",
        "--git-common-dir",
        "--show-object-format",
        "--is-inside-work-tree",
        "--show-toplevel",  # the last: outside a work tree git ends with an error here, and has answered the others
    ]

    def ask(*extra: str, env: Mapping[str, str] = env) -> tuple[int, bytes, bytes]:
        code, out, err = spawn(["git", *extra, *asked], env=env, cwd=cwd)
        return (0 if code == 0 or (out.count(b"\n") == 4 and out.endswith(b"\nfalse\n")) else code), out, err

    trust = inside_git_dir = False
    extra: list[str] = ["-c", "safe.bareRepository=explicit"]
    code, out, err = ask(*extra)
    if code and b"dubious ownership" in err:
        trust = ask(*extra, env=personal_environment())[0] == 0
        if trust:
            extra += ["-c", "safe.directory=*"]
            code, out, err = ask(*extra)
        else:
            lines = lines_of(err.decode("utf-8", "replace").strip())
            raise UsageError(
                "this repository belongs to another user",
                str(cwd),
                lines[-1].strip() if lines else "see git's safe.directory",
            )
    if code and all((cwd / name).exists() for name in ("HEAD", "objects", "refs")):
        # A bare repository is opened where a person stands in one, never found by searching upwards: one that is
        # hidden inside a tree is somebody's trap.
        code, out, err = ask(f"--git-dir={cwd}")
        inside_git_dir = True
    if code:
        text = err.decode("utf-8", "replace").strip()
        if b"not a git repository" in err or b"safe.bareRepository" in err:
            raise UsageError("this is not a git repository", str(cwd), "change to one, or run `git init`")
        raise git_error(["git", "rev-parse"], code, text)
    told = out.decode("utf-8", "surrogateescape")
    git_dir, common, object_format, inside, shown = told.split("\n", 4)
    top = Path(shown.removesuffix("\n")) if inside == "true" and not inside_git_dir else None
    return Location(cwd, Path(git_dir), Path(common), top, object_format, trust)
