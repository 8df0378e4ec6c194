"""git, as this project uses it: its own plumbing, sealed, values in and bytes or ids out. The only module that starts git.

Two profiles. *Reading* (and writing objects and refs) starts from an empty environment, knows no person's configuration but
`safe.directory`, and neutralises whatever in a repository's configuration runs code. *Transport* and *identity* use the
person's own configuration (credential helpers, ssh command, URL rewrites, name, signing key) and never the repository's.

Single acts are spawned; what is done often is held open: `cat-file --batch-command`, `hash-object --stdin-paths`,
`mktree --batch`, `update-ref --stdin`. A ref moves only by compare-and-swap. Nothing here knows about protocols.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Literal

from runner.errors import ConflictError, InsufficientHistoryError, RunnerError, UsageError

OLDEST = (2, 38)
AHEAD = 200  # objects that are asked for ahead of their answers; their names fit into a pipe
TREES_KEPT = 250_000  # entries of trees that are remembered
TREE, BLOB, LINK, EXECUTABLE, SUBMODULE = "40000", "100644", "120000", "100755", "160000"

# git exports these to hooks and aliases; inherited, they would point every command at the caller's repository. The few that
# say who somebody is or how a remote is reached are the person's own and are kept where those are asked for.
_PERSONAL = re.compile(
    r"(?!GIT_).*|GIT_(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL)|GIT_CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM)|GIT_SSH(?:_COMMAND|_VARIANT)?"
    r"|GIT_ASKPASS|GIT_SSL_.*|GIT_PROXY_.*|GIT_HTTP_.*|GIT_TRACE.*"
)
# Fixed overrides of whatever the repository's configuration says; drivers are overridden by name, see `_sealed`.
_SEAL = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.commitGraph=false",
    "core.attributesFile=/dev/null",
    "core.alternateRefsCommand=true",
    "core.sparseCheckout=false",
    "core.splitIndex=false",
    "core.untrackedCache=false",
    "index.sparse=false",
    "core.quotePath=false",
    "core.pager=cat",
    "core.askPass=",
    "credential.helper=",
    "diff.external=",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "core.logAllRefUpdates=true",
    "advice.detachedHead=false",
    "advice.addEmbeddedRepo=false",
    "core.safecrlf=false",
    "protocol.allow=never",
)
_DURABLE = ("core.fsync=loose-object,pack,pack-metadata,reference", "core.fsyncMethod=fsync")


class GitError(RunnerError):
    """git said no where that was not expected; the repository or the machine has a problem."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, where: str, hint: str, *, stderr: str = "", code: int = 128) -> None:
        super().__init__(what, where, hint)
        self.stderr, self.code = stderr, code


@dataclass(frozen=True, slots=True)
class Ident:
    """Who made a commit. `time`: seconds since the epoch; `offset`: minutes east of UTC."""

    name: str
    email: str
    time: int
    offset: int = 0

    def line(self) -> bytes:
        """Return it as a commit object has it."""
        sign, minutes = ("-" if self.offset < 0 else "+"), abs(self.offset)
        return f"{self.name} <{self.email}> {self.time} {sign}{minutes // 60:02d}{minutes % 60:02d}".encode()


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit object, taken apart."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: bytes
    committer: bytes
    message: bytes
    signed: bool
    plain: bool = True  # no header but tree, parents, author, committer and a signature


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One line of a tree. `mode` without leading zero."""

    mode: str
    oid: str


@dataclass(frozen=True, slots=True)
class Worktree:
    """A work tree of the repository. `git_dir`: its own, where its index lies; `branch`: full ref name, or None."""

    path: Path
    git_dir: Path
    branch: str | None


Tree = dict[str, TreeEntry]


def personal_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the person's environment without what git passes to its children."""
    source = os.environ if environ is None else environ
    kept = {key: value for key, value in source.items() if _PERSONAL.fullmatch(key)}
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def _sealed_environment() -> dict[str, str]:
    null = os.devnull
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": null,
        "GIT_CONFIG_GLOBAL": null,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_GRAFT_FILE": f"{null}/none",
        "GIT_ALLOW_PROTOCOL": "none",  # it goes before any protocol.NAME.allow: an old git fetches what is missing unasked
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ADVICE": "0",
    }


def _spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, data: bytes = b"", timeout: float | None = None
) -> tuple[int, bytes, bytes]:
    """Run to the end in a session of its own, so that Ctrl-C reaches us first and a child cannot outlive its time."""
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.exists():
            raise UsageError("the folder is gone", str(cwd), "change to a folder that exists") from error
        raise UsageError(
            "there is no git on this machine", "PATH", f"install git {OLDEST[0]}.{OLDEST[1]} or later"
        ) from error
    try:
        out, err = child.communicate(data, timeout=timeout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise
    return child.returncode, out, err


def _unnamed_file() -> IO[bytes]:
    """Return a file that is nowhere in a folder; `tempfile` is not loaded where memory will do."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("git"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


class _Held:
    """A git process that is held open: lines in, answers out."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.argv = argv
        self._errors = _unnamed_file()
        self.process = subprocess.Popen(
            argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout

    def ask(self, data: bytes) -> bytes:
        """Write and return the next line, without its newline.

        Raises:
            GitError: the process ended instead.
        """
        try:
            self.stdin.write(data)
            self.stdin.flush()
        except BrokenPipeError as error:
            raise self.died() from error
        return self.answer()

    def answer(self) -> bytes:
        """Return the next line, without its newline.

        Raises:
            GitError: the process ended instead.
        """
        line = self.stdout.readline()
        if not line.endswith(b"\n"):
            raise self.died()
        return line[:-1]

    def died(self) -> GitError:
        """Return the error for a process that ended before its time."""
        self.close()
        self._errors.seek(0)
        text = self._errors.read().decode("utf-8", "replace").strip()
        return _git_error(self.argv, self.process.returncode, text)

    def close(self) -> None:
        """End it; it has no work of its own left."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.process.wait()
        self.stdout.close()


def _git_error(argv: Sequence[str], code: int, stderr: str) -> GitError:
    words = [word for word in argv[1:] if not word.startswith(("-", "core.")) and "=" not in word]
    told = stderr.splitlines() or [f"exit {code}"]
    fatal = next((line for line in told if line.startswith(("fatal:", "error:"))), told[0])
    hint = "run `runner doctor`"
    if "No space left" in stderr:
        hint = "make room on the disk; nothing was published"
    elif "Permission denied" in stderr or "Read-only file system" in stderr or "insufficient permission" in stderr:
        hint = "the repository cannot be written here; use a clone of your own"
    elif ".lock" in stderr and "File exists" in stderr:
        hint = "another git is at work there, or one died: run `runner doctor --fix`"
    return GitError(f"git {' '.join(words[:1])}: {fatal}", "git", hint, stderr=stderr, code=code)


class Git:
    """A repository, opened. Holds its git processes open until `close`; one thread at a time."""

    def __init__(
        self, *, cwd: Path, git_dir: Path, common_dir: Path, top: Path | None, object_format: str, trust: bool
    ) -> None:
        self.cwd, self.git_dir, self.common_dir, self.top = cwd, git_dir, common_dir, top
        self.object_format = object_format
        self.oid_length = 64 if object_format == "sha256" else 40
        self.zero = "0" * self.oid_length
        self._trust = trust  # of a repository that another user owns: the person's own git trusts it
        self._env = _sealed_environment()
        self._seals: dict[Path, dict[str, str]] = {}
        self._settings: dict[str, list[str]] | None = None
        self._personal: dict[str, list[str]] | None = None
        self._reader: _Held | None = None
        self._writers: dict[str, _Held] = {}
        self._refs: _Held | None = None
        self._reason = ""  # what that process writes into reflogs
        self._scratch: Path | None = None
        self._commits: dict[str, Commit] = {}
        self._trees: dict[str, Tree] = {}
        self._kept = 0  # entries in _trees

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, cwd: Path) -> Git:
        """Return the repository that `cwd` is in: a checkout, a linked worktree, or a bare one.

        Raises:
            UsageError: no git or too old a one, no repository, or one that is not trusted.
        """
        env = _sealed_environment()
        if "\n" in str(cwd):
            raise UsageError("the folder's name holds a line break", repr(str(cwd)), "rename it")
        code, out, _ = _spawn(["git", "version"], env=env, cwd=cwd)
        found = re.search(rb"(\d+)\.(\d+)", out)
        if code or not found or (int(found[1]), int(found[2])) < OLDEST:
            told = out.decode("utf-8", "replace").strip() or f"git version: exit {code}"
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
            code, out, err = _spawn(["git", *extra, *asked], env=env, cwd=cwd)
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
                lines = err.decode("utf-8", "replace").strip().splitlines()
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
            raise _git_error(["git", "rev-parse"], code, text)
        told = out.decode("utf-8", "surrogateescape")
        git_dir, common, object_format, inside, shown = told.split("\n", 4)
        top = Path(shown.removesuffix("\n")) if inside == "true" and not inside_git_dir else None
        return cls(
            cwd=cwd, git_dir=Path(git_dir), common_dir=Path(common), top=top, object_format=object_format, trust=trust
        )

    def close(self) -> None:
        """End the processes that are held open."""
        for held in [self._reader, self._refs, *self._writers.values()]:
            if held is not None:
                held.close()
        self._reader = self._refs = None
        self._writers = {}
        if self._scratch is not None:
            import shutil

            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def __enter__(self) -> Git:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- running -----------------------------------------------------------------------------------------------------

    def settings(self, git_dir: Path | None = None) -> Mapping[str, Sequence[str]]:
        """Return the repository's own configuration as it was when first asked for: key to values, the last one last.

        `git_dir`: as that work tree has it; asked for anew.
        """
        if git_dir is not None and git_dir != self.common_dir:
            return self._listed(git_dir)
        if self._settings is None:
            self._settings = self._listed(self.common_dir)
        return self._settings

    def personal_settings(self) -> Mapping[str, Sequence[str]]:
        """Return the person's own configuration, system's included, with its conditional includes judged for this repository."""
        if self._personal is None:
            argv = ["git", f"--git-dir={self.git_dir}", "config", "--includes", "--show-scope", "-z", "--list"]
            out = _spawn(argv, env={**personal_environment(), "LC_ALL": "C"}, cwd=None)[1]
            parts = out.decode("utf-8", "surrogateescape").split("\0")
            own = [line for scope, line in zip(parts[0::2], parts[1::2], strict=False) if scope in ("system", "global")]
            self._personal = _by_key(own)
        return self._personal

    def _listed(self, git_dir: Path) -> dict[str, list[str]]:
        argv = ["git", f"--git-dir={git_dir}", "config", "--includes", "-z", "--list"]
        return _by_key(_spawn(argv, env=self._env, cwd=None)[1].decode("utf-8", "surrogateescape").split("\0"))

    def _sealed(self, git_dir: Path | None = None) -> dict[str, str]:
        """Return the environment in which the repository's configuration runs nothing, drivers by name included.

        By environment, not `-c`: a driver's name may hold an equals sign.
        """
        at = git_dir or self.common_dir
        found = self._seals.get(at)
        if found is not None:
            return found
        settings = self.settings()
        conditional = any(key.startswith("includeif.") for key in settings)
        if conditional or (at != self.common_dir and (at / "config.worktree").exists()):
            settings = self._listed(at)
        pairs = [setting.split("=", 1) for setting in (*_SEAL, *_DURABLE)]
        if self._trust:
            pairs.append(["safe.directory", "*"])
        for name in dict.fromkeys(_driver_of(key, "filter") for key in settings):
            if name:
                # An empty `process` would also keep a person's own `clean` from running, where one is allowed.
                keys = [f"filter.{name}.{what}" for what in ("clean", "smudge", "process")]
                pairs += [[key, ""] for key in keys if key in settings]
                pairs.append([f"filter.{name}.required", "false"])
        for name in dict.fromkeys(_driver_of(key, "merge") for key in settings):
            if name:  # a driver that fails is a conflict, and a person looks
                pairs.append([f"merge.{name}.driver", "false"])
        found = {**self._env, "GIT_CONFIG_COUNT": str(len(pairs))}
        for number, (key, value) in enumerate(pairs):
            found[f"GIT_CONFIG_KEY_{number}"], found[f"GIT_CONFIG_VALUE_{number}"] = key, value
        if not conditional:
            self._seals[at] = found
        return found

    def _argv(self, args: Sequence[str], git_dir: Path | None = None) -> list[str]:
        return ["git", "--no-replace-objects", f"--git-dir={git_dir or self.common_dir}", *args]

    def try_run(
        self,
        *args: str,
        data: bytes = b"",
        git_dir: Path | None = None,
        index: Path | None = None,
        work_tree: Path | None = None,
        config: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[int, bytes, str]:
        """Run one sealed git command and return (exit code, output, errors). `config`: more `key=value` overrides."""
        env = {**self._sealed(git_dir), **(env or {})}
        if index is not None:
            env["GIT_INDEX_FILE"] = str(index)
        more = [part for setting in config for part in ("-c", setting)]
        if work_tree is not None:
            more = [f"--work-tree={work_tree}", *more]
        code, out, err = _spawn(self._argv([*more, *args], git_dir), env=env, cwd=work_tree, data=data, timeout=timeout)
        return code, out, err.decode("utf-8", "replace").strip()

    def run(
        self,
        *args: str,
        data: bytes = b"",
        git_dir: Path | None = None,
        index: Path | None = None,
        work_tree: Path | None = None,
        config: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run one sealed git command and return its output.

        Raises:
            GitError: it failed.
        """
        code, out, err = self.try_run(
            *args, data=data, git_dir=git_dir, index=index, work_tree=work_tree, config=config, env=env
        )
        if code:
            raise _git_error(["git", *args], code, err)
        return out

    def text(self, *args: str) -> str:
        """Run one sealed git command and return its output as text, without the final newline."""
        return self.run(*args).decode("utf-8", "surrogateescape").rstrip("\n")

    def scratch(self) -> Path:
        """Return a folder of this object's own, removed by `close`."""
        if self._scratch is None:
            import tempfile

            try:
                self._scratch = Path(tempfile.mkdtemp(prefix="runner-"))
            except OSError as error:
                raise UsageError(
                    "no temporary folder can be written", str(error.filename or "TMPDIR"), "set TMPDIR to one that can"
                ) from error
        return self._scratch

    # --- reading objects ---------------------------------------------------------------------------------------------

    def object(self, name: str) -> tuple[str, str, bytes] | None:
        """Return (oid, type, bytes) of what `name` names (an oid, `REV:PATH`, a ref), or None where it is not here."""
        if "\n" in name:  # a path may hold what ends a line here; its trees are gone through instead
            revision, _, path = name.partition(":")
            revision = self.ref(f"{revision}^{{tree}}") or ""
            for part in path.split("/"):
                entry = (self.tree(revision) or {}).get(part) if revision else None
                if entry is None:
                    return None
                revision = entry.oid
            return self.object(revision)
        return self._answer(b"contents " + name.encode("utf-8", "surrogateescape") + b"\n")

    def _answer(self, asked: bytes) -> tuple[str, str, bytes] | None:
        if self._reader is None:
            self._reader = _Held(self._argv(["cat-file", "--batch-command"]), self._sealed())
        try:
            header = self._reader.ask(asked)
        except GitError as error:
            self._reader = None
            if "promisor remote" in error.stderr and asked.count(b"\n") == 1:  # promised, and not fetched
                return None
            raise
        parts = header.rsplit(b" ", 2)
        if len(parts) != 3 or not parts[2].isdigit():  # `NAME missing`, `NAME ambiguous`
            return None
        size = int(parts[2])
        data = self._reader.stdout.read(size + 1)
        if len(data) != size + 1:
            raise self._reader.died()
        return parts[0].decode(), parts[1].decode(), data[:-1]

    def blobs(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of many blobs, or None where there is none of that name; asked for ahead of the answers."""
        found: list[bytes | None] = []
        for at in range(0, len(names), AHEAD):
            some = names[at : at + AHEAD]
            if any("\n" in name for name in some):
                found += [self.blob(name) for name in some]
                continue
            asked = [b"contents " + name.encode("utf-8", "surrogateescape") + b"\n" for name in some]
            found += [self._blob_of(answer) for answer in self._answers(asked)]
        return found

    def _answers(self, asked: Sequence[bytes]) -> Iterator[tuple[str, str, bytes] | None]:
        # Few enough to fit into a pipe: git may be busy answering while they are written.
        yield self._answer(b"".join(asked))
        for _ in asked[1:]:
            yield self._answer(b"")

    @staticmethod
    def _blob_of(found: tuple[str, str, bytes] | None) -> bytes | None:
        return found[2] if found and found[1] == "blob" else None

    def _info(self, name: str) -> list[bytes] | None:
        """Return [oid, type, size] of what a name means, or None where there is none."""
        if "\n" in name:
            return None
        if self._reader is None:
            self._reader = _Held(self._argv(["cat-file", "--batch-command"]), self._sealed())
        parts = self._reader.ask(b"info " + name.encode("utf-8", "surrogateescape") + b"\n").rsplit(b" ", 2)
        return parts if len(parts) == 3 and parts[2].isdigit() else None

    def blob(self, name: str) -> bytes | None:
        """Return a blob's bytes, or None where there is none of that name."""
        return self._blob_of(self.object(name))

    def tree(self, name: str) -> Tree | None:
        """Return a tree's entries by name, or None where there is no such tree. Names are text by surrogateescape."""
        cached = self._trees.get(name)
        if cached is not None:
            return dict(cached)
        found = self.object(name)
        if found is None or found[1] != "tree":
            return None
        tree = self.parse_tree(found[2])
        if len(name) == self.oid_length:
            self._keep(name, tree)
        return dict(tree)

    def _keep(self, oid: str, tree: Tree) -> None:
        self._kept += len(tree) + 8
        if self._kept > TREES_KEPT:
            self._trees.clear()
            self._kept = len(tree) + 8
        self._trees[oid] = tree

    def warm(self, names: Iterable[str]) -> None:
        """Read these commits and trees (oids) ahead of `commit` and `tree`; one that is not here, or is broken, is left to them."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._commits and name not in self._trees]
        for at in range(0, len(wanted), AHEAD):
            some = wanted[at : at + AHEAD]
            for name, found in zip(
                some, list(self._answers([f"contents {name}\n".encode() for name in some])), strict=True
            ):
                if found and found[1] == "commit":
                    self._commits[name] = parse_commit(name, found[2])
                elif found and found[1] == "tree":
                    with contextlib.suppress(GitError, ValueError):
                        self._keep(name, self.parse_tree(found[2]))

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Return how many bytes each object has, without reading it, or None where it is not here."""
        found: list[int | None] = []
        for at in range(0, len(names), AHEAD):
            some = names[at : at + AHEAD]
            if self._reader is None:
                self._reader = _Held(self._argv(["cat-file", "--batch-command"]), self._sealed())
            asked = "".join(f"info {name}\n" for name in some).encode("utf-8", "surrogateescape")
            lines = [self._reader.ask(asked), *(self._reader.ask(b"") for _ in some[1:])]
            parts = [line.rsplit(b" ", 2) for line in lines]
            found += [int(part[2]) if len(part) == 3 and part[2].isdigit() else None for part in parts]
        return found

    def parse_tree(self, data: bytes) -> Tree:
        """Return the entries of a raw tree object."""
        tree: Tree = {}
        at, width = 0, self.oid_length // 2
        while at < len(data):
            end = data.index(b"\0", at)
            mode, raw = data[at:end].split(b" ", 1)
            name = raw.decode("utf-8", "surrogateescape")
            if name in tree:  # git would take the one or the other
                raise GitError(f"a tree names {name!r} twice", "git", "run `git fsck`")
            tree[name] = TreeEntry(mode.decode(), data[end + 1 : end + 1 + width].hex())
            at = end + 1 + width
        return tree

    def commit(self, name: str) -> Commit | None:
        """Return a commit, or None where it is not here."""
        if name in self._commits:
            return self._commits[name]
        found = self.object(name)
        if found is None or found[1] != "commit":
            return None
        commit = parse_commit(found[0], found[2])
        if len(self._commits) > 4096:
            self._commits.clear()
        self._commits[commit.oid] = commit
        return commit

    def files(self, tree_ish: str, *paths: str) -> dict[str, TreeEntry]:
        """Return path to entry of all that is not a tree, below `paths` where given."""
        out = self.run("ls-tree", "-r", "-z", "--full-tree", tree_ish, "--", *paths).decode("utf-8", "surrogateescape")
        found = {}
        for line in filter(None, out.split("\0")):
            meta, _, path = line.partition("\t")
            mode, _, oid = meta.split(" ")
            found[path] = TreeEntry(mode, oid)
        return found

    def is_shallow(self) -> bool:
        """Return whether history is cut off in this clone."""
        return (self.common_dir / "shallow").exists()

    def is_partial(self) -> bool:
        """Return whether objects may be missing in this clone until they are fetched."""
        return any(
            key == "extensions.partialclone" or (key.startswith("remote.") and key.endswith(".promisor"))
            for key in self.settings()
        )

    def first_parents(self, tip: str, *, stop: str | None = None) -> list[str]:
        """Return the first-parent chain from `tip` to a root, newest first, without what `stop` has.

        Raises:
            InsufficientHistoryError: the chain is cut off in this clone before it ends.
        """
        args = ["rev-list", "--first-parent", tip, *([f"^{stop}"] if stop else []), "--"]
        code, out, err = self.try_run(*args)
        if code:
            raise InsufficientHistoryError(
                f"history is missing: {err.splitlines()[0] if err else code}",
                tip,
                "run `git fetch --unshallow`, or `git fetch`",
            )
        return out.decode().split()

    def is_ancestor(self, old: str, new: str) -> bool:
        """Return whether `new` has `old` in its history, as far as this clone knows it."""
        return self.try_run("merge-base", "--is-ancestor", old, new)[0] == 0

    def merge_base(self, one: str, other: str) -> str | None:
        """Return a best common ancestor, or None."""
        code, out, _ = self.try_run("merge-base", one, other)
        return out.decode().strip() if code == 0 else None

    def changed(self, old: str, new: str) -> dict[str, tuple[TreeEntry | None, TreeEntry | None]]:
        """Return path to (before, after) of what differs between two commits or trees; renames are not looked for.

        Only trees that differ are read, so a transition's few files cost the same in a repository of any size.
        """
        found: dict[str, tuple[TreeEntry | None, TreeEntry | None]] = {}
        stack: list[tuple[str, str | None, str | None]] = [("", old, new)]
        while stack:
            prefix, one, other = stack.pop()
            before, after = self._whole_tree(one), self._whole_tree(other)
            for name in before.keys() | after.keys():
                was, now = before.get(name), after.get(name)
                if was == now:
                    continue
                path = prefix + name
                trees = [entry.oid if entry and entry.mode == TREE else None for entry in (was, now)]
                if any(trees):
                    stack.append((f"{path}/", trees[0], trees[1]))
                files = [entry if entry and entry.mode != TREE else None for entry in (was, now)]
                if any(files):
                    found[path] = (files[0], files[1])
        return dict(sorted(found.items()))

    def _whole_tree(self, name: str | None) -> Tree:
        if name is None:
            return {}
        tree = self.tree(name)
        if tree is None:
            commit = self.commit(name)
            tree = self.tree(commit.tree) if commit else None
        if tree is None:
            raise InsufficientHistoryError(f"the tree {name[:12]} is not in this clone", name, "run `git fetch`")
        return tree

    # --- writing objects ---------------------------------------------------------------------------------------------

    def write(self, kind: Literal["blob", "tree", "commit"], data: bytes) -> str:
        """Write an object as it is, without filters, and return its id."""
        held = self._writers.get(kind)
        if held is None:
            argv = self._argv(["hash-object", "-w", "--no-filters", "-t", kind, "--stdin-paths"])
            held = self._writers[kind] = _Held(argv, self._sealed())
        path = self.scratch() / kind
        path.write_bytes(data)
        try:
            return held.ask(os.fsencode(path) + b"\n").decode()
        except GitError:
            del self._writers[kind]
            raise

    def write_tree(self, tree: Mapping[str, TreeEntry]) -> str:
        """Write a tree with these entries and return its id."""

        def key(item: tuple[str, TreeEntry]) -> bytes:
            return item[0].encode("utf-8", "surrogateescape") + (b"/" if item[1].mode == TREE else b"")

        lines = [
            f"{entry.mode} {name}\0".encode("utf-8", "surrogateescape") + bytes.fromhex(entry.oid)
            for name, entry in sorted(tree.items(), key=key)
        ]
        oid = self.write("tree", b"".join(lines))
        self._keep(oid, dict(tree))
        return oid

    def edit_tree(self, tree: str | None, changes: Mapping[str, TreeEntry | None]) -> str | None:
        """Return the id of the tree with the entries at `changes`' paths put or (None) taken out; None where nothing is left.

        Only the trees on the way are read and written, whatever the size of the rest.
        """
        entries = (self.tree(tree) if tree else None) or {}
        below: dict[str, dict[str, TreeEntry | None]] = {}
        for path, entry in changes.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = entry
            elif entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        for name, inner in below.items():
            old = entries.get(name)
            made = self.edit_tree(old.oid if old and old.mode == TREE else None, inner)
            if made is None:
                entries.pop(name, None)
            else:
                entries[name] = TreeEntry(TREE, made)
        return self.write_tree(entries) if entries else None

    def write_commit(self, tree: str, parents: Sequence[str], author: Ident, committer: Ident, message: bytes) -> str:
        """Write a commit object and return its id."""
        lines = [b"tree " + tree.encode(), *(b"parent " + parent.encode() for parent in parents)]
        lines += [b"author " + author.line(), b"committer " + committer.line(), b"", message]
        data = b"\n".join(lines)
        oid = self.write("commit", data)
        self._commits[oid] = parse_commit(oid, data)
        return oid

    def merge_trees(self, ours: str, theirs: str) -> tuple[str | None, list[str]]:
        """Return (tree, []) of the merge of two commits, or (None, paths in conflict)."""
        code, out, err = self.try_run("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs)
        parts = [part for part in out.decode("utf-8", "surrogateescape").split("\0") if part]
        if code == 0:
            return parts[0].strip(), []
        if code == 1:
            return None, sorted(set(parts[1:]))
        raise _git_error(["git", "merge-tree"], code, err)

    # --- refs --------------------------------------------------------------------------------------------------------

    def ref(self, name: str) -> str | None:
        """Return what a ref (its full name) points at, or None."""
        told = self._info(name)
        return told[0].decode() if told else None

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a revision names, or None."""
        return self.ref(f"{revision}^{{commit}}")

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
        if self._refs is not None and self._reason != reason:
            self._refs.close()
            self._refs = None
        if self._refs is None:
            self._reason = reason
            self._refs = _Held(self._argv(["update-ref", "-m", reason, "--stdin"]), self._sealed())
        held = self._refs
        try:
            told = held.ask(b"".join([*commands, b"prepare\n", b"commit\n"]))
            if [told, held.answer(), held.answer()] != [b"start: ok", b"prepare: ok", b"commit: ok"]:
                raise held.died()
        except GitError as error:
            self._refs = None
            # A lost race and a broken repository look alike in git's words: the refs themselves tell.
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
        private = {self._gitdir_target(path): path for path in self._worktree_dirs()}
        for number, block in enumerate(out.split("\0\0")):
            told = dict(line.partition(" ")[::2] for line in block.split("\0") if line)
            if "worktree" not in told or "bare" in told:
                continue
            path: Path | None = Path(told["worktree"])
            git_dir = self.common_dir if number == 0 else private.get(Path(told["worktree"]))
            if number == 0:
                path = self._main_worktree()
            if git_dir is not None and path is not None and path.is_dir():
                found.append(Worktree(path, git_dir, told.get("branch")))
        return found

    def may_be_checked_out(self, branch: str) -> bool:
        """Return False where no HEAD of the repository names the branch (its full name); its files tell, no git is started."""
        for folder in (self.common_dir, *self._worktree_dirs()):
            try:
                told = (folder / "HEAD").read_bytes()
            except OSError:
                return True
            if (folder / "HEAD").is_symlink() or told.startswith(b"ref: refs/heads/.invalid"):  # a reftable has its own
                return True
            if told.rstrip() == b"ref: " + branch.encode("utf-8", "surrogateescape"):
                return True
        return False

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

    def _worktree_dirs(self) -> list[Path]:
        folder = self.common_dir / "worktrees"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    @staticmethod
    def _gitdir_target(git_dir: Path) -> Path:
        try:
            told = Path(os.fsdecode((git_dir / "gitdir").read_bytes()).rstrip("\n")).parent
        except OSError:
            return Path()
        return told if told.is_absolute() else Path(os.path.realpath(git_dir / told))

    # --- the person ----------------------------------------------------------------------------------------------------

    def personal(self, *args: str, cwd: Path | None = None, data: bytes = b"") -> tuple[int, bytes, str]:
        """Run git with the person's own configuration, without the repository's."""
        env = {**personal_environment(), "GIT_DIR": os.devnull, "LC_ALL": "C"}
        code, out, err = _spawn(["git", *args], env=env, cwd=cwd, data=data)
        return code, out, err.decode("utf-8", "replace").strip()

    def config(self, key: str) -> str | None:
        """Return one value of the repository's own configuration, as data; it is never executed."""
        return _last(self.settings(), key)

    def person(self, time: int) -> Ident:
        """Return the person at the keyboard as their git knows them, the repository's `user.name` included.

        Raises:
            UsageError: git does not know who they are.
        """
        name = os.environ.get("GIT_AUTHOR_NAME") or self.config("user.name")
        email = os.environ.get("GIT_AUTHOR_EMAIL") or self.config("user.email")
        name = name or _last(self.personal_settings(), "user.name")
        email = email or _last(self.personal_settings(), "user.email") or os.environ.get("EMAIL")
        if not (name and email):
            raise UsageError(
                "git does not know who you are",
                "user.name and user.email",
                'git config --global user.name "Your Name" && git config --global user.email you@example.com',
            )
        clean = {ord(char): None for char in "<>\n\0"}
        return Ident(name.translate(clean).strip(), email.translate(clean).strip(), time)

    def person_commit(self, tree: str, parents: Sequence[str], who: Ident, message: bytes) -> str:
        """Write a commit of the person's: signed where their git signs commits. Hooks do not run.

        Raises:
            UsageError: it should be signed and could not be.
        """

        def setting(key: str, repository_too: bool) -> str | None:
            value = self.config(key) if repository_too else None
            return value if value is not None else _last(self.personal_settings(), key)

        if (setting("commit.gpgsign", True) or "false").lower() not in ("true", "yes", "on", "1"):
            return self.write_commit(tree, parents, who, who, message)
        overrides = []
        for key in (
            "gpg.format",
            "user.signingkey",
            "gpg.program",
            "gpg.openpgp.program",
            "gpg.ssh.program",
            "gpg.x509.program",
            "gpg.ssh.defaultkeycommand",
        ):
            # What is executed is taken from the person's own configuration alone.
            value = setting(key, key in ("gpg.format", "user.signingkey"))
            default = {
                "gpg.program": "gpg",
                "gpg.openpgp.program": setting("gpg.program", False) or "gpg",
                "gpg.ssh.program": "ssh-keygen",
                "gpg.x509.program": "gpgsm",
            }.get(key, "")
            if value is not None or default or key.endswith("command"):
                overrides += ["-c", f"{key}={value or default}"]
        env = {
            **personal_environment(),
            **{key: value for key, value in self._sealed().items() if key.startswith("GIT_")},
            "GIT_AUTHOR_NAME": who.name,
            "GIT_AUTHOR_EMAIL": who.email,
            "GIT_COMMITTER_NAME": who.name,
            "GIT_COMMITTER_EMAIL": who.email,
            "GIT_AUTHOR_DATE": f"{who.time} +0000",
            "GIT_COMMITTER_DATE": f"{who.time} +0000",
        }
        argv = self._argv(
            [*overrides, "commit-tree", "-S", tree, *(part for parent in parents for part in ("-p", parent))]
        )
        code, out, err = _spawn(argv, env=env, cwd=self.top, data=message)
        if code:
            told = err.decode("utf-8", "replace").strip().splitlines()
            raise UsageError(
                f"the commit could not be signed: {told[0] if told else code}",
                "commit.gpgsign",
                "mend the signing key, or `git config commit.gpgsign false`; nothing was written",
            )
        return out.decode().strip()

    # --- transport -----------------------------------------------------------------------------------------------------

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
        settings = ("core.hooksPath=/dev/null", "gc.auto=0", "maintenance.auto=false", *_DURABLE)
        argv = ["git", "--no-replace-objects", f"--git-dir={git_dir}", *(p for s in settings for p in ("-c", s)), *args]
        try:
            code, out, err = _spawn(argv, env=full, cwd=None, data=data, timeout=timeout)
        except subprocess.TimeoutExpired:
            return 124, b"", f"no answer within {timeout:g} s"
        return code, out, err.decode("utf-8", "replace").strip()


def _by_key(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return what `git config -z --list` told; a key without a value is a true one."""
    found: dict[str, list[str]] = {}
    for line in filter(None, lines):
        key, newline, value = line.partition("\n")
        found.setdefault(key, []).append(value if newline else "true")
    return found


def _last(settings: Mapping[str, Sequence[str]], key: str) -> str | None:
    section, _, rest = key.partition(".")
    middle, dot, name = rest.rpartition(".")
    values = settings.get(f"{section.lower()}.{middle}{dot}{name.lower()}")
    return values[-1] if values else None


def _driver_of(key: str, kind: str) -> str | None:
    section, _, rest = key.partition(".")
    return rest.rpartition(".")[0] or None if section == kind else None


def parse_commit(oid: str, data: bytes) -> Commit:
    """Return a raw commit object, taken apart."""
    # As git reads it: the tree first, then the parents, and neither anywhere else.
    head, _, message = data.partition(b"\n\n")
    pairs = [(key, value) for key, _, value in (line.partition(b" ") for line in head.split(b"\n")) if key]
    end = next((at for at, (key, _) in enumerate(pairs) if at and key != b"parent"), len(pairs))
    tree, *parents = (value.decode("ascii", "replace") for _, value in pairs[:end])
    rest = dict(pairs[end:])
    keys = [key for key, _ in pairs[end:] if key not in (b"gpgsig", b"gpgsig-sha256")]
    plain = pairs[0][0] == b"tree" and keys == [b"author", b"committer"]
    return Commit(
        oid, tree, tuple(parents), rest.get(b"author", b""), rest.get(b"committer", b""), message,
        signed=b"gpgsig" in rest or b"gpgsig-sha256" in rest, plain=plain,
    )  # fmt: skip
