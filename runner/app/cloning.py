"""Create a repository in a folder, or clone one: completely, or nothing is left."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from runner.errors import UnreachableError, UsageError
from runner.git import repository
from runner.lines import lines_of
from runner.store.environment import Environment


def init_if_needed(folder: Path) -> bool:
    """Make `folder` a git repository, as `git init` does for this person, where it is in none; return whether it was made.

    Raises:
        UsageError: it cannot be made.
    """
    gitpython = _gitpython()
    with contextlib.suppress(gitpython.exc.InvalidGitRepositoryError):
        gitpython.Repo(folder, search_parent_directories=True).close()
        return False
    try:
        gitpython.Repo.init(folder).close()
        return True
    except (gitpython.exc.GitError, OSError) as error:
        raise UsageError(
            f"no repository can be made here: {_told(error)}", str(folder), "run `git init` to see why"
        ) from error


def clone(url: str, folder: Path | None, cwd: Path, env: Environment) -> Path:
    """Clone a repository with the person's own git, and the token of RUNNER_GIT_TOKEN, and return its folder. Progress is
    printed. Interrupted, it leaves nothing.

    Raises:
        UsageError: the address is not one that is safe to clone from, or the folder is taken.
        UnreachableError: the remote did not answer, or refused us.
    """
    name = re.split(r"[/:\\]", url.rstrip("/"))[-1].removesuffix(".git")
    if folder is None and (not name or name.startswith((".", "-"))):
        raise UsageError(f"`{url}` does not say what its folder is called", "--clone", "name the folder after it")
    at = cwd / (folder or name)
    if at.exists() and (not at.is_dir() or any(at.iterdir())):
        raise UsageError(
            f"{at} is there already, and not empty",
            str(at),
            f"name another folder; `runner -C {shlex.quote(str(at))} init` sets this one up",
        )
    if "://" not in url and "::" not in url and (cwd / url).exists():
        url = os.path.abspath(cwd / url)
    if re.match(r"[A-Za-z0-9+.-]+::", url):
        raise UsageError(
            f"`{_without_password(url)}` is not an address that is safe to clone from",
            "--clone",
            "use https, ssh, or a path",
        )
    stages: set[str] = set()
    wrong: list[str] = []

    def tell(line: str) -> None:
        """Print the first and the last line of each of git's stages, and all other lines."""
        line = _without_password(line.strip())
        stage = re.match(r"(.+?): +\d+%", line)
        if line.startswith(("fatal:", "error:")):
            wrong.append(line)
        elif line and (stage is None or stage[1] not in stages or line.endswith("done.")):
            stages.update([stage[1]] if stage else [])
            env.say(line)

    made = not at.exists()
    try:
        failed = repository.clone(url, at, env.environ, tell)
    except BaseException:
        # git takes away what it made, but not where the signal came while it was making it, and not if it had to be killed.
        for left in [at] if made else list(at.iterdir()):
            shutil.rmtree(left, ignore_errors=True)
        raise
    if failed:
        if made:
            with contextlib.suppress(OSError):
                at.rmdir()
        raise UnreachableError(
            f"it could not be cloned: {wrong[0] if wrong else 'git gives no reason'}",
            _without_password(url),
            "try `git clone` with that address; nothing was left here",
        )
    return at


def _without_password(text: str) -> str:
    """Return the text without who signs in, where an address in it says so."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _gitpython() -> Any:
    """Return GitPython; it is loaded late, and says by ImportError that there is no git."""
    try:
        import git
    except ImportError as error:
        raise UsageError(
            "there is no git on this machine", "PATH", "install git 2.38 or later, and run the same command again"
        ) from error
    return git


def _told(error: Exception) -> str:
    text = str(getattr(error, "stderr", "") or error)
    lines = [line.strip().strip("'") for line in lines_of(text) if line.strip()]
    told = next((line for line in lines if "fatal:" in line or "error:" in line), lines[-1] if lines else "no answer")
    return told.removeprefix("stderr:").strip().strip("'")
