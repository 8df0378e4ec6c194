"""A repository, whole: its objects, and its refs, its work trees, commits of the person's and the way to remotes.

The person at the keyboard is as their own git knows them. The programs that make a signature come from the person's own configuration
alone; the repository's may name the key.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from runner import signals
from runner.errors import ConflictError, InsufficientHistoryError, UsageError
from runner.git.database import Database
from runner.git.objects import Entries, Ident
from runner.git.process import DURABLE, GitError, answer, git_error, last, no_git, personal_environment, spawn
from runner.lines import lines_of, pattern
from runner.protocol.ids import OID


class Worktree(NamedTuple):
    """A work tree of the repository. `git_dir`: its own, where its index lies; `branch`: full ref name, or None."""

    path: Path
    git_dir: Path
    branch: str | None


_HELPER_SECONDS = 10.0  # a helper that opens a window waits for somebody
_CLEANING_SECONDS = 5.0  # what git may take to remove what an interrupted clone has made
TIMED_OUT: Final = 124  # the exit code of what took too long, as timeout(1) has it


class Git(Database):
    """A repository, opened. Holds its git processes open until `close`; one thread at a time."""

    listed: Entries | None = None  # of the index that was read or written last

    # --- refs --------------------------------------------------------------------------------------------------------

    def refs(self, *prefixes: str) -> dict[str, str]:
        """Return full ref name to oid, below the prefixes."""
        out = self.run("for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
        lines = out.decode("utf-8", "surrogateescape").split("\n")  # a ref's name may hold what `splitlines` splits at
        long = self.oid_length
        return {line[long + 1 :]: line[:long] for line in lines if line}

    def refs_in(self, git_dir: Path, name: str) -> dict[str, str]:
        """Return full ref name to oid of a ref, or of all below it, in a git directory whose refs are files. No git is started."""
        found, stack, root = dict[str, str](), [f"{git_dir}/{name}"], len(f"{git_dir}/")
        while stack:  # before the packed ones: a ref may be packed meanwhile
            at = stack.pop()
            try:
                with open(at, "rb", buffering=0) as file:
                    oid = file.read().decode("ascii", "replace").rstrip("\n")
                if OID.fullmatch(oid):
                    found[at[root:]] = oid
            except IsADirectoryError:
                with contextlib.suppress(OSError), os.scandir(at) as inside:
                    stack += [one.path for one in inside if not one.name.endswith(".lock")]
            except OSError:  # it is packed, or gone
                continue
        with contextlib.suppress(OSError):
            packed = [line.partition(" ") for line in os.fsdecode((git_dir / "packed-refs").read_bytes()).split("\n")]
            found |= {
                one: oid
                for oid, _, one in packed
                if one not in found and (one == name or one.startswith(f"{name.rstrip('/')}/"))
            }
        return dict(sorted(found.items()))

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
                path = self.main_worktree()
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

    def main_worktree(self) -> Path | None:
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
        name = os.environ.get("GIT_AUTHOR_NAME") or self.setting("user.name")
        email = os.environ.get("GIT_AUTHOR_EMAIL") or self.setting("user.email")
        email = email or os.environ.get("EMAIL")
        if not (name and email):
            raise UsageError(
                "git does not know who you are",
                "user.name and user.email",
                'git config --global user.name "Your Name" && git config --global user.email you@example.com',
            )
        clean = {ord(char): None for char in "<>\n\0"}
        return Ident(name.translate(clean).strip(), email.translate(clean).strip(), time)

    def setting(self, key: str, *, repository_too: bool = True) -> str | None:
        """Return a setting of the person's git. A program's name is read without the repository's own configuration."""
        value = self.config(key) if repository_too else None
        return value if value is not None else last(self.personal_settings(), key)

    def signs_commits(self) -> bool:
        """Return whether the person's git signs every commit."""
        return (self.setting("commit.gpgsign") or "false").lower() in ("true", "yes", "on", "1")

    def person_commit(
        self, tree: str, parents: Sequence[str], who: Ident, message: bytes, *, sign: bool = False
    ) -> str:
        """Write a commit of the person's: signed where their git signs commits, or with `sign`. Hooks do not run.

        Raises:
            UsageError: it should be signed and could not be.
        """
        if not sign and not self.signs_commits():
            return self.write_commit(tree, parents, who, who, message)
        settings = {key: self.setting(key) for key in ("gpg.format", "user.signingkey")}
        gpg = self.setting("gpg.program", repository_too=False) or "gpg"
        for key, default in (
            ("gpg.program", gpg),
            ("gpg.openpgp.program", gpg),
            ("gpg.ssh.program", "ssh-keygen"),
            ("gpg.x509.program", "gpgsm"),
            ("gpg.ssh.defaultkeycommand", ""),
        ):
            # What is executed is taken from the person's own configuration alone.
            settings[key] = self.setting(key, repository_too=False) or default
        overrides = [part for key, value in settings.items() if value is not None for part in ("-c", f"{key}={value}")]
        env = {
            **personal_environment(),
            **{key: value for key, value in self.environment().items() if key.startswith("GIT_")},
            "GIT_AUTHOR_NAME": who.name,
            "GIT_AUTHOR_EMAIL": who.email,
            "GIT_COMMITTER_NAME": who.name,
            "GIT_COMMITTER_EMAIL": who.email,
            "GIT_AUTHOR_DATE": f"{who.time} +0000",
            "GIT_COMMITTER_DATE": f"{who.time} +0000",
        }
        self.settle()
        words = ["commit-tree", "-S", tree, *(part for parent in parents for part in ("-p", parent))]
        code, out, err = spawn(self.argv([*overrides, *words]), env=env, cwd=self.top, data=message)
        if code:
            lines = lines_of(err.decode("utf-8", "replace").strip())
            raise UsageError(
                f"the commit could not be signed: {lines[0] if lines else code}",
                "commit.gpgsign",
                "fix the signing key, or `git config commit.gpgsign false`; nothing was written",
            )
        return out.decode().strip()

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


# --- what the person's git knows without a repository -------------------------------------------------------------------


def credential(url: str, environ: Mapping[str, str]) -> str | None:
    """Return the password that the person's credential helpers keep for an address; None where they have none.

    Nobody is asked for one, and the repository's own settings have no say.
    """
    env = {**personal_environment(environ), "GIT_ASKPASS": "", "SSH_ASKPASS": "", "GCM_INTERACTIVE": "never"}
    argv = ["git", "-c", "credential.interactive=false", "credential", "fill"]
    out = answer(argv, env=env, cwd=Path("/"), data=f"url={url}\n\n".encode(), timeout=_HELPER_SECONDS)
    found = [line[9:] for line in lines_of((out or b"").decode("utf-8", "replace")) if line.startswith("password=")]
    return found[0] if found else None


def token_settings(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment by which git has the token of RUNNER_GIT_TOKEN for this address's host, and for no other.

    Empty where there is no such variable, or the address is not one that keeps a token secret on its way.
    """
    token, parts = environ.get("RUNNER_GIT_TOKEN"), urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not token or not host or not (parts.scheme == "https" or local):
        return {}
    user = "gitlab-ci-token" if token == environ.get("CI_JOB_TOKEN") else "x-access-token"
    tell = f'!f() {{ test "$1" = get && printf "username={user}\\npassword=%s\\n" "$RUNNER_GIT_TOKEN"; }}; f'
    key = f"credential.{parts.scheme}://{host}.helper"
    # The empty one first takes away the helpers that the person's configuration names.
    values = ((key, ""), (key, tell))
    named = {
        f"GIT_CONFIG_{what}_{n}": pair[at] for n, pair in enumerate(values) for at, what in enumerate(("KEY", "VALUE"))
    }
    return {"GIT_CONFIG_COUNT": str(len(values)), **named, "RUNNER_GIT_TOKEN": token}


def make(at: Path) -> bool:
    """Make a folder a repository as the person's own `git init` does, where it is in none; return whether it was made.

    Raises:
        UsageError: it cannot be made.
    """
    # One that git does not open, as it is damaged or another person's, is one all the same: none is made inside it.
    if any((folder / ".git").exists() for folder in (at, *at.parents)):
        return False
    env = personal_environment()
    if spawn(["git", "rev-parse", "--git-dir"], env=env, cwd=at)[0] == 0:  # a bare one
        return False
    code, _, err = spawn(["git", "init", "--quiet"], env=env, cwd=at)
    if code:
        told = lines_of(err.decode("utf-8", "replace"))[-1:] or ["no answer"]
        raise UsageError(f"no repository can be made here: {told[0]}", str(at), "run `git init` to see why")
    return True


def clone(url: str, at: Path, environ: Mapping[str, str], report: Callable[[str], None]) -> int:
    """Clone with the person's own git, which may ask them for a password, and return its exit code. Interrupted, it leaves nothing.

    `report` gets each line that git says, those that a terminal would write over each other too. They are read here and by no
    thread: what git had started may outlive it with the other end of the pipe, and nobody may wait for that.
    """
    env = {**personal_environment(environ), **token_settings(url, environ)}
    if "GIT_TERMINAL_PROMPT" not in environ:
        del env["GIT_TERMINAL_PROMPT"]  # here somebody waits, and may be asked
    argv = ["git", "clone", "--progress", "--", url, str(at)]
    with contextlib.ExitStack() as stack:
        let = stack.enter_context(signals.held())
        try:
            child = stack.enter_context(
                subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        except FileNotFoundError as error:
            raise no_git() from error
        assert child.stderr is not None
        rest = b""
        try:
            let()
            while piece := os.read(child.stderr.fileno(), 65536):
                *lines, rest = re.split(rb"[\r\n]+", rest + piece)
                for line in lines:
                    report(line.decode("utf-8", "replace"))
            return child.wait()
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_CLEANING_SECONDS)
            child.kill()
            raise


# --- which commits the lines of a file come from ----------------------------------------------------------------------
# As `git blame` says it; nothing of the repository's configuration runs. Lines are followed through renames and, where they have 20
# letters and digits, through moves within a commit. A copy belongs to the commit that made it: a line that a commit added, and that
# is elsewhere too, is that commit's. Grafts are the caller's, for one question.

_HEADER = pattern(rb"(?P<oid>[0-9a-f]{40,64}) (?P<old>[0-9]+) (?P<now>[0-9]+)(?: [0-9]+)?")
_ESCAPE = pattern(rb"\\([abtnvfr\"\\]|[0-7]{3})")
_ESCAPES = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b'"': 34, b"\\": 92}
_HUNK = pattern(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class Blamed(NamedTuple):
    """A line, and where it comes from.

    `commit`: which brought it, None where none has it yet; `path`, `old`: its file and number there; `before`: (commit, path)
    of the file before that; `cut`: it has no parent here, so in a shallow clone an older commit may have brought it.
    """

    line: int
    text: str
    commit: str | None
    path: str
    old: int
    before: tuple[str, str] | None
    cut: bool


def blame(
    git: Database,
    path: str,
    ranges: Sequence[tuple[int, int]],
    *,
    commit: str | None = None,
    work_tree: Path | None = None,
    grafts: Mapping[str, Sequence[str]] | None = None,
    config: Sequence[str] = (),
) -> list[Blamed]:
    """Return the lines of the ranges (first and last, from 1) of a file in `commit`, or as it is in `work_tree` now.

    `grafts`: the parents that a commit shall have instead of its own.

    Raises:
        UsageError: there is no such file, or it has fewer lines.
        InsufficientHistoryError: a partial clone does not have its history.
    """
    wanted = {line for first, last in ranges for line in range(first, last + 1)}
    # An empty list: commits that a file of the tree says to pass over would be told as somebody else's.
    args = [
        "--line-porcelain",
        "--no-textconv",
        "--ignore-revs-file=",
        *(f"-L{first},{last}" for first, last in ranges),
    ]
    lines = "".join(f"{' '.join((oid, *parents))}\n" for oid, parents in (grafts or {}).items())
    args += ["-S", "/dev/stdin"] if lines else []
    args += [commit] if commit else []
    git_dir = git.git_dir if work_tree is not None else None

    def ask(*more: str) -> list[Blamed]:
        code, out, err = git.try_run(
            "blame", *more, *args, "--", path, data=lines.encode(), git_dir=git_dir, work_tree=work_tree, config=config
        )
        if code and ("no such path" in err or "has only" in err or "cannot stat path" in err or "Cannot lstat" in err):
            what = lines_of(err)[0].removeprefix("fatal: ")
            raise UsageError(what, f"{path}:{ranges[0][0]}", "name a file that is committed, and lines that it has")
        if code and git.is_partial():
            raise InsufficientHistoryError(
                "the file's history is not in this clone", path, "run `git fetch --refetch --no-filter`"
            )
        if code:
            raise git_error(["git", "blame", *more, *args], code, err)
        return _lines(out, git.zero)

    every = ask("-M", "-C20")
    found = [line for line in every if line.line in wanted]
    if len(found) < len(wanted):
        last = max((line.line for line in every), default=0)
        raise UsageError(f"the file has {last} lines", f"{path}:{max(wanted)}", "name lines that it has")
    added = {line.line: line for line in ask()}
    gone: dict[str | None, set[str]] = {}
    for at, line in enumerate(found):
        here = added[line.line]
        if (here.commit, here.path, here.old) == (line.commit, line.path, line.old):
            continue
        if here.commit not in gone:
            parents = (grafts or {}).get(here.commit or "")
            gone[here.commit] = _removed(git, here.commit, parents, git_dir=git_dir, work_tree=work_tree, config=config)
        if line.text.strip() not in gone[here.commit]:
            found[at] = here
    return found


def _removed(git: Database, commit: str | None, parents: Sequence[str] | None, **where: Any) -> set[str]:
    """Return the lines that a commit took away somewhere, or that are gone from the work tree."""
    args = ["diff", "-U0", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"]
    out = b""
    for parent in [f"{commit}^"] if parents is None else parents:
        out += git.try_run(*args, *([parent, commit] if commit else ["HEAD"]), "--", **where)[1]
    rows = (row[1:].decode("utf-8", "replace").strip() for row in out.split(b"\n") if row[:1] == b"-")
    return set(rows)


def _lines(out: bytes, zero: str) -> list[Blamed]:
    found: list[Blamed] = []
    rows = iter(out.split(b"\n"))
    for row in rows:
        head = _HEADER.fullmatch(row)
        if head is None:
            continue
        path, before, cut = "", None, False
        for row in rows:
            if row.startswith(b"\t"):
                break
            key, _, value = row.partition(b" ")
            if key == b"filename":
                path = _name(value)
            elif key == b"previous":
                older, _, name = value.partition(b" ")
                before = (older.decode(), _name(name))
            elif key == b"boundary":
                cut = True
        commit, text = head["oid"].decode(), row[1:].decode("utf-8", "replace").removesuffix("\r")
        by = None if commit == zero else commit
        found.append(Blamed(int(head["now"]), text, by, path, int(head["old"]), before, cut))
    return found


def _name(quoted: bytes) -> str:
    """Return a file's name as git quotes it in C's manner where it has to."""
    if quoted.startswith(b'"') and quoted.endswith(b'"'):
        quoted = _ESCAPE.sub(
            lambda match: bytes([_ESCAPES[match[1]] if match[1] in _ESCAPES else int(match[1], 8)]), quoted[1:-1]
        )
    return quoted.decode("utf-8", "surrogateescape")


def hunks(
    git: Database, before: str, now: str | None, *, work_tree: Path | None = None, config: Sequence[str] = ()
) -> list[tuple[range, range]]:
    """Return (lines before, lines now) of each place where two blobs differ.

    `before`, `now`: `COMMIT:PATH`; without `now`, the file at that path as it is in `work_tree`.
    """
    commit, _, path = before.partition(":")
    args = ["diff", "-U0", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"]
    args += [before, now] if now is not None else [commit, "--", path]
    git_dir = git.git_dir if work_tree is not None else None
    code, out, _ = git.try_run(*args, git_dir=git_dir, work_tree=work_tree, config=config)
    found = []
    for match in map(_HUNK.match, out.split(b"\n") if code == 0 else []):
        if match is not None:
            old, before_count, new, count = (1 if part is None else int(part) for part in match.groups())
            found.append((range(old, old + before_count), range(new, new + count)))
    return found
