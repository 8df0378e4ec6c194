"""A repository, whole: its objects, and its refs, its work trees, commits of the person's and the way to remotes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from runner.errors import ConflictError
from runner.git import identity
from runner.git.database import Database
from runner.git.objects import Ident
from runner.git.process import GitError, personal_environment, spawn
from runner.git.sealed import DURABLE
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Worktree:
    """A work tree of the repository. `git_dir`: its own, where its index lies; `branch`: full ref name, or None."""

    path: Path
    git_dir: Path
    branch: str | None


TIMED_OUT: Final = 124  # the exit code of what took too long, as timeout(1) has it


class Git(Database):
    """A repository, opened. Holds its git processes open until `close`; one thread at a time."""

    # --- refs --------------------------------------------------------------------------------------------------------

    def refs(self, *prefixes: str) -> dict[str, str]:
        """Return full ref name to oid, below the prefixes."""
        out = self.run("for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
        lines = out.decode("utf-8", "surrogateescape").split("\n")  # a ref's name may hold what `splitlines` splits at
        return {name: oid for oid, name in (line.split(" ", 1) for line in lines if line)}

    def symbolic_ref(self, name: str, git_dir: Path | None = None) -> str | None:
        """Return the ref that a symbolic ref names, or None where it is none."""
        code, out, _ = self.try_run("symbolic-ref", "--quiet", name, git_dir=git_dir)
        return out.decode().strip() if code == 0 else None

    def update_refs(self, changes: Mapping[str, tuple[str | None, str | None]], reason: str) -> None:
        """Move all the refs, `{name: (new, expected)}`, or none. None as expected: must not exist; as new: delete it.

        Raises:
            ConflictError: a ref is not where it was expected; nothing moved.
            GitError: the repository could not be written.
        """
        commands = [b"start\n"]
        for name, (new, old) in changes.items():
            if new is None:
                commands.append(f"delete {name} {old or ''}".rstrip().encode() + b"\n")
            else:
                commands.append(f"update {name} {new} {old or self.zero}\n".encode())
        held = self._hold("refs", "update-ref", "-m", reason, "--stdin")
        try:
            answer = held.ask(b"".join([*commands, b"prepare\n", b"commit\n"]))
            if [answer, held.answer(), held.answer()] != [b"start: ok", b"prepare: ok", b"commit: ok"]:
                raise held.died()
        except GitError as error:
            # A lost race and a broken repository look alike in git's words: the refs themselves tell.
            if all(self.ref(name) == new for name, (new, _) in changes.items()):
                return  # it died after its work, before its word
            for name, (_, old) in changes.items():
                if self.ref(name) != old:
                    raise ConflictError(
                        f"{name} moved while this change was being prepared",
                        f"{name}, expected {(old or 'no commit')[:12]}",
                        "run the same command again; nothing was written",
                    ) from error
            raise

    # --- worktrees ---------------------------------------------------------------------------------------------------

    def worktrees(self) -> list[Worktree]:
        """Return the work trees, the main one first; those whose folder is gone are left out."""
        out = self.run("worktree", "list", "--porcelain", "-z").decode("utf-8", "surrogateescape")
        found: list[Worktree] = []
        private = {self._gitdir_target(path): path for path in map(Path, self.worktree_folders())}
        for number, block in enumerate(out.split("\0\0")):
            fields = dict(line.partition(" ")[::2] for line in block.split("\0") if line)
            if "worktree" not in fields or "bare" in fields:
                continue
            path: Path | None = Path(fields["worktree"])
            git_dir = self.common_dir if number == 0 else private.get(Path(fields["worktree"]))
            if number == 0:
                path = self._main_worktree()
            if git_dir is not None and path is not None and path.is_dir():
                found.append(Worktree(path, git_dir, fields.get("branch")))
        return found

    def checked_out(self, branch: str) -> list[Worktree]:
        """Return the work trees that have the branch (its full name) checked out.

        Files tell, for git would look at a thousand work trees one by one; it is asked about the main one, and where HEAD is no file.
        """
        wanted, found = b"ref: " + branch.encode("utf-8", "surrogateescape"), []
        main = str(self.common_dir)
        for folder in (main, *self.worktree_folders()):
            head = f"{folder}/HEAD"
            try:
                with open(head, "rb", buffering=0) as file:
                    content = file.read()
            except OSError:
                break
            if content.startswith(b"ref: refs/heads/.invalid") or os.path.islink(head):  # a reftable has its own
                break
            if content.rstrip() != wanted:
                continue
            if folder == main:
                break
            path = self._gitdir_target(Path(folder))
            if path != Path() and path.is_dir():
                found.append(Worktree(path, Path(folder), branch))
        else:
            return found
        return [tree for tree in self.worktrees() if tree.branch == branch]

    def worktree_folders(self) -> list[str]:
        """Return the folders that git keeps for the work trees beside the main one."""
        folder = f"{self.common_dir}/worktrees"
        try:
            return [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
        except OSError:
            return []

    def _main_worktree(self) -> Path | None:
        """Return the main work tree; git itself names the git directory where it is a submodule's or a separate one.

        What configuration names as a work tree is one only where a `.git` in it leads back here.
        """
        configured = self.config("core.worktree")
        candidates = [self.common_dir.parent] if self.common_dir.name == ".git" and configured is None else []
        candidates += [self.common_dir / configured] if configured else []
        candidates += [self.top] if self.top is not None and self.git_dir == self.common_dir else []
        for path in candidates:
            try:
                at = path / ".git"
                if at.is_file():
                    at = path / os.fsdecode(at.read_bytes()).removeprefix("gitdir: ").rstrip("\n")
                if at.is_dir() and at.samefile(self.common_dir):
                    return Path(os.path.realpath(path))
            except OSError:
                continue
        return None

    @staticmethod
    def _gitdir_target(git_dir: Path) -> Path:
        try:
            target = Path(os.fsdecode((git_dir / "gitdir").read_bytes()).rstrip("\n")).parent
        except OSError:
            return Path()
        if target == Path() or "\0" in str(target):  # cut short when the power went
            return Path()
        return target if target.is_absolute() else Path(os.path.realpath(git_dir / target))

    # --- the person --------------------------------------------------------------------------------------------------

    def person(self, time: int) -> Ident:
        """Return the person at the keyboard as their git knows them, the repository's `user.name` included.

        Raises:
            UsageError: git does not know who they are.
        """
        return identity.ident(self, time)

    def person_commit(
        self, tree: str, parents: Sequence[str], who: Ident, message: bytes, *, sign: bool = False
    ) -> str:
        """Write a commit of the person's: signed where their git signs commits, or with `sign`. Hooks do not run.

        Raises:
            UsageError: it should be signed and could not be.
        """
        return identity.commit(self, tree, parents, who, message, sign=sign)

    # --- transport ---------------------------------------------------------------------------------------------------

    def transport(
        self,
        git_dir: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        data: bytes = b"",
    ) -> tuple[int, bytes, str]:
        """Run one git command that talks to a remote: the person's configuration, `git_dir`'s own, never this repository's.

        Objects are read from and written to this repository's store. Exit 124 where it took longer than `timeout` seconds.
        """
        full = {
            **personal_environment(),
            "LC_ALL": "C",
            "GIT_OBJECT_DIRECTORY": str(self.common_dir / "objects"),
            **(env or {}),
        }
        settings = ("core.hooksPath=/dev/null", "gc.auto=0", "maintenance.auto=false", *DURABLE)
        self.settle()
        argv = ["git", "--no-replace-objects", f"--git-dir={git_dir}", *(p for s in settings for p in ("-c", s)), *args]
        try:
            code, out, err = spawn(argv, env=full, cwd=None, data=data, timeout=timeout)
        except subprocess.TimeoutExpired:
            return TIMED_OUT, b"", f"no answer within {timeout:g} s"
        return code, out, err.decode("utf-8", "replace").strip()
