"""A repository that git is run on while nothing of its configuration runs code: its settings and the seal.

Two profiles. *Sealed* commands start from an empty environment, know no person's configuration but `safe.directory`, and
neutralise whatever in the repository's configuration runs code. *Personal* ones use the person's own configuration (name,
signing key, conditional includes) and never the repository's.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypedDict, Unpack

from runner.errors import UsageError
from runner.git.process import (
    OLDEST,
    Held,
    PromisedError,
    TooSlowError,
    git_error,
    no_git,
    personal_environment,
    sealed_environment,
    spawn,
)
from runner.lines import lines_of
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A repository's folders. `git_dir`: of the work tree of the current folder; `top`: that work tree, or None in a bare one."""

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
    version = out.decode("utf-8", "replace").strip()
    return version if code == 0 and version else f"git version: exit {code}"


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
    version = _version(program, os.stat(program).st_mtime_ns)
    found = re.search(r"(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        raise UsageError(f"git is too old: {version}", "PATH", f"install git {OLDEST[0]}.{OLDEST[1]} or later")
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
    answer = out.decode("utf-8", "surrogateescape")
    git_dir, common, object_format, inside, shown = answer.split("\n", 4)
    top = Path(shown.removesuffix("\n")) if inside == "true" and not inside_git_dir else None
    return Location(cwd, Path(git_dir), Path(common), top, object_format, trust)


# Fixed overrides of whatever the repository's configuration says; drivers are overridden by name, see `environment`.
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
    "log.showSignature=false",  # it would run gpg.program
    "log.follow=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "core.logAllRefUpdates=true",
    "advice.detachedHead=false",
    "advice.addEmbeddedRepo=false",
    "core.safecrlf=false",
    "protocol.allow=never",
)
DURABLE = ("core.fsync=loose-object,pack,pack-metadata,reference", "core.fsyncMethod=fsync")


class Options(TypedDict, total=False):
    """How one git command is run. `config`: more `key=value` overrides; `env`: more variables; `timeout`: in seconds."""

    data: bytes
    git_dir: Path | None
    index: Path | None
    work_tree: Path | None
    config: Sequence[str]
    env: Mapping[str, str] | None
    timeout: float | None


class Sealed:
    """A repository, found. Holds its git processes open until `close`; one thread at a time."""

    def __init__(self, at: Location) -> None:
        self.at = at
        self.cwd, self.git_dir, self.common_dir, self.top = at.cwd, at.git_dir, at.common_dir, at.top
        self.object_format = at.object_format
        self.oid_length = 64 if at.object_format == "sha256" else 40
        self.zero = "0" * self.oid_length
        self._at = at
        self._trusted = at.trusted
        self._empty = sealed_environment()
        self._seals: dict[Path, dict[str, str]] = {}
        self._settings: dict[str, list[str]] | None = None
        self._personal: dict[str, list[str]] | None = None
        self._held: dict[str, Held] = {}
        # Brings objects (the one that git wants, names of what is read with it) that a partial clone has left at its remote; None:
        # they are missing, for nothing here reaches the network by itself.
        self.fetch_promised: Callable[[str, Sequence[str]], None] | None = None
        self._brought: set[str] = set()

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, cwd: Path) -> Self:
        """Return the repository that `cwd` is in: a checkout, a linked worktree, or a bare one.

        Raises:
            UsageError: no git or too old a one, no repository, or one that is not trusted.
        """
        return cls(locate(cwd))

    def another(self) -> Self:
        """Return the same repository for another thread, with nothing held open yet."""
        return type(self)(self._at)

    def close(self) -> None:
        """End the processes that are held open."""
        for held in self._held.values():
            held.close()
        self._held = {}

    def __enter__(self) -> Self:
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
            out = spawn(argv, env={**personal_environment(), "LC_ALL": "C"}, cwd=None)[1]
            parts = out.decode("utf-8", "surrogateescape").split("\0")
            own = [line for scope, line in zip(parts[0::2], parts[1::2], strict=False) if scope in ("system", "global")]
            self._personal = by_key(own)
        return self._personal

    def _listed(self, git_dir: Path) -> dict[str, list[str]]:
        argv = ["git", f"--git-dir={git_dir}", "config", "--includes", "-z", "--list"]
        return by_key(spawn(argv, env=self._empty, cwd=None)[1].decode("utf-8", "surrogateescape").split("\0"))

    def environment(self, git_dir: Path | None = None) -> dict[str, str]:
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
        pairs = [setting.split("=", 1) for setting in (*_SEAL, *DURABLE)]
        if self._trusted:
            pairs.append(["safe.directory", "*"])
        for name in dict.fromkeys(driver_of(key, "filter") for key in settings):
            if name:
                # An empty `process` would also keep a person's own `clean` from running, where one is allowed.
                keys = [f"filter.{name}.{what}" for what in ("clean", "smudge", "process")]
                pairs += [[key, ""] for key in keys if key in settings]
                pairs.append([f"filter.{name}.required", "false"])
        for name in dict.fromkeys(driver_of(key, "merge") for key in settings):
            if name:  # a driver that fails is a conflict, and a person looks
                pairs.append([f"merge.{name}.driver", "false"])
        found = {**self._empty, "GIT_CONFIG_COUNT": str(len(pairs))}
        if "core.worktree" in settings:
            # As everywhere else, where none is set: else git reads paths as seen from the folder that somebody stands in.
            found["GIT_WORK_TREE"] = "."
        for number, (key, value) in enumerate(pairs):
            found[f"GIT_CONFIG_KEY_{number}"], found[f"GIT_CONFIG_VALUE_{number}"] = key, value
        if not conditional:
            self._seals[at] = found
        return found

    def argv(self, args: Sequence[str], git_dir: Path | None = None) -> list[str]:
        """Return the argument list of one git command on this repository."""
        return ["git", "--no-replace-objects", f"--git-dir={git_dir or self.common_dir}", *args]

    def try_run(self, *args: str, **options: Unpack[Options]) -> tuple[int, bytes, str]:
        """Run one sealed git command and return (exit code, output, errors).

        Raises:
            TooSlowError: it did not end within `timeout` seconds.
        """
        self.settle()
        git_dir, work_tree = options.get("git_dir"), options.get("work_tree")
        env = {**self.environment(git_dir), **(options.get("env") or {})}
        if (index := options.get("index")) is not None:
            env["GIT_INDEX_FILE"] = str(index)
        more = [part for setting in options.get("config", ()) for part in ("-c", setting)]
        if work_tree is not None:
            more = [f"--work-tree={work_tree}", *more]
        argv, data, timeout = self.argv([*more, *args], git_dir), options.get("data", b""), options.get("timeout")
        while True:
            try:
                code, out, err = spawn(argv, env=env, cwd=work_tree, data=data, timeout=timeout)
            except subprocess.TimeoutExpired as error:
                what = f"git {args[0]} did not end within {error.timeout:.0f} s"
                raise TooSlowError(what, "git", "run the same command again where the machine is less busy") from error
            errors = err.decode("utf-8", "replace").strip()
            if (
                code == 0
                or b"promisor remote" not in err
                or not self._bring(PromisedError("", "", "", stderr=errors), args)
            ):
                return code, out, errors

    def _bring(self, error: PromisedError, names: Sequence[str]) -> bool:
        """Have an object brought that a partial clone lacks, with those that are read beside it; return whether it may be here now."""
        if self.fetch_promised is None or error.oid in self._brought:
            return False
        self._brought.add(error.oid)
        self.fetch_promised(error.oid, names)
        return True

    def run(self, *args: str, **options: Unpack[Options]) -> bytes:
        """Run one sealed git command and return its output.

        Raises:
            GitError: it failed.
        """
        code, out, err = self.try_run(*args, **options)
        if code:
            raise git_error(["git", *args], code, err)
        return out

    def _hold(self, name: str, *args: str) -> Held:
        """Return the sealed process that is held open under `name`; it is started anew where it ended or had other arguments."""
        self.settle()
        argv = self.argv(args)
        held = self._held.get(name)
        if held is not None:
            is_open = not held.stdin.closed and held.process.poll() is None  # on the host a tool may have ended it
            if is_open and held.argv == argv:
                return held
            held.close()
        held = self._held[name] = Held(argv, self.environment())
        return held

    def settle(self) -> None:
        """Make written objects readable for git; called before a git is started or asked."""

    def text(self, *args: str) -> str:
        """Run one sealed git command and return its output as text, without the final newline."""
        return self.run(*args).decode("utf-8", "surrogateescape").rstrip("\n")

    def personal(self, *args: str) -> tuple[int, bytes, str]:
        """Run git with the person's own configuration, without the repository's."""
        env = {**personal_environment(), "GIT_DIR": os.devnull, "LC_ALL": "C"}
        code, out, err = spawn(["git", *args], env=env, cwd=None)
        return code, out, err.decode("utf-8", "replace").strip()

    def config(self, key: str) -> str | None:
        """Return one value of the repository's own configuration, as data; it is never executed."""
        return last(self.settings(), key)


def by_key(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the output of `git config -z --list` by key; a key without a value is true."""
    found: dict[str, list[str]] = {}
    for line in filter(None, lines):
        key, newline, value = line.partition("\n")
        found.setdefault(key, []).append(value if newline else "true")
    return found


def last(settings: Mapping[str, Sequence[str]], key: str) -> str | None:
    section, _, rest = key.partition(".")
    middle, dot, name = rest.rpartition(".")
    values = settings.get(f"{section.lower()}.{middle}{dot}{name.lower()}")
    return values[-1] if values else None


def driver_of(key: str, kind: str) -> str | None:
    section, _, rest = key.partition(".")
    return rest.rpartition(".")[0] or None if section == kind else None
