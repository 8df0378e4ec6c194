"""A git process, spawned for one act or held open for many, and its environment: sealed, or the person's.

The caller chooses the arguments; this module starts git, ends it, and words its failures.

Nothing of a repository's configuration runs code. *Sealed* commands start from an empty environment, know no person's configuration
but `safe.directory`, and neutralise whatever in the repository's configuration runs code. *Personal* ones use the person's own
configuration (name, signing key, conditional includes) and never the repository's.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, NamedTuple, Self, TypedDict, Unpack

from runner.errors import RunnerError, UsageError
from runner.lines import lines_of, pattern

OLDEST = (2, 38)
CHUNK = 64 * 1024
MUCH = 1024 * 1024  # bytes that are read at once of many objects: as many as a pipe may hold

# git exports these to hooks and aliases; inherited, they would point every command at the caller's repository. The few that
# say who somebody is or how a remote is reached are the person's own and are kept where those are asked for.
_PERSONAL = pattern(
    r"(?!GIT_).*|GIT_(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL)|GIT_CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM)|GIT_SSH(?:_COMMAND|_VARIANT)?"
    r"|GIT_ASKPASS|GIT_SSL_.*|GIT_PROXY_.*|GIT_HTTP_.*|GIT_TRACE.*"
)


class GitError(RunnerError):
    """git failed unexpectedly; the repository or the machine has a problem."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, where: str, hint: str, *, stderr: str = "", code: int = 128) -> None:
        super().__init__(what, where, hint)
        self.stderr, self.code = stderr, code


class TooSlowError(GitError):
    """A git command did not end in the time that it was given, and was killed."""


class PromisedError(GitError):
    """An object is wanted that a partial clone has left at its remote. `oid`: which, or empty where git does not say."""

    @property
    def oid(self) -> str:
        found = re.search(r"could not fetch ([0-9a-f]{40,64}) from promisor remote", self.stderr)
        return found[1] if found else ""


def personal_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the person's environment without what git passes to its children."""
    source = os.environ if environ is None else environ
    kept = {key: value for key, value in source.items() if _PERSONAL.fullmatch(key)}
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def sealed_environment() -> dict[str, str]:
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


def no_git() -> UsageError:
    """Return the error of a machine without git."""
    return UsageError("there is no git on this machine", "PATH", f"install git {OLDEST[0]}.{OLDEST[1]} or later")


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, data: bytes = b"", timeout: float | None = None
) -> tuple[int, bytes, bytes]:
    """Run to the end in a session of its own, so that Ctrl-C reaches us first and a child cannot outlive its time."""
    input_file = _input_file(data) if len(data) > CHUNK else None  # `communicate` writes 512 bytes at a time
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=input_file or subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.exists():
            raise UsageError("the folder is gone", str(cwd), "change to a folder that exists") from error
        raise no_git() from error
    finally:
        if input_file is not None:
            input_file.close()
    try:
        out, err = child.communicate(None if input_file is not None else data, timeout=timeout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise
    return child.returncode, out, err


def answer(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, data: bytes = b"", timeout: float
) -> bytes | None:
    """Return what a program prints, or None where it is not here, has nothing to say or takes longer than `timeout` seconds."""
    try:
        code, out, _ = spawn(argv, env=env, cwd=cwd, data=data, timeout=timeout)
    except (UsageError, OSError, subprocess.TimeoutExpired):
        return None
    return out if code == 0 else None


def _unnamed_file() -> IO[bytes]:
    """Return a file that is nowhere in a folder; `tempfile` is not loaded where memory will do."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("git"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


def _input_file(data: bytes) -> IO[bytes]:
    """Return an unnamed file that a process reads the data from."""
    file = _unnamed_file()
    file.write(data)
    file.seek(0)
    return file


class HeldProcess:
    """A git process that is held open: lines in, answers out. `data`: all its input, where that is known before."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], data: bytes | None = None) -> None:
        self.argv = argv
        self._errors = _unnamed_file()
        # In a file: it reads on while its answers wait to be read.
        input_file = _input_file(data) if data is not None else None
        self.process = subprocess.Popen(
            argv,
            bufsize=CHUNK,
            env=env,
            stdin=input_file or subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        stdin = input_file or self.process.stdin
        assert stdin is not None
        self.stdin: IO[bytes] = stdin
        self.stdout: IO[bytes] = self.process.stdout
        if data is not None:
            with contextlib.suppress(AttributeError, OSError):  # not on Linux, or more than this user may have
                fcntl.fcntl(self.stdout, fcntl.F_SETPIPE_SZ, MUCH)

    def ask(self, data: bytes) -> bytes:
        """Write and return the next line, without its newline.

        Raises:
            GitError: the process ended instead.
        """
        if data:
            self.tell(data)
        return self.answer()

    def tell(self, data: bytes) -> None:
        """Write a request whose answer is read later.

        Raises:
            GitError: the process has ended.
        """
        try:
            self.stdin.write(data)
            self.stdin.flush()
        except BrokenPipeError as error:
            raise self.died() from error
        except BaseException:
            self.close()  # cut, as by Ctrl-C: what it will answer is nobody's
            raise

    def answer(self) -> bytes:
        """Return the next line, without its newline.

        Raises:
            GitError: the process ended instead.
        """
        try:
            line = self.stdout.readline()
        except BaseException:
            self.close()
            raise
        if not line.endswith(b"\n"):
            raise self.died()
        return line[:-1]

    def read(self, size: int) -> bytes:
        """Return so many bytes of what follows a line, or less where the process ended."""
        try:
            return self.stdout.read(size)
        except BaseException:
            self.close()
            raise

    def some(self) -> bytes:
        """Return what there is of the output, waiting for the first of it; only where nothing else reads it.

        Raises:
            GitError: the process ended instead.
        """
        found = os.read(self.stdout.fileno(), MUCH)
        if not found:
            raise self.died()
        return found

    def died(self) -> GitError:
        """Return the error for a process that ended before its time."""
        self.close()
        self._errors.seek(0)
        text = self._errors.read().decode("utf-8", "replace").strip()
        return git_error(self.argv, self.process.returncode, text)

    def close(self) -> None:
        """End it; it has no work of its own left. The rest of its output, as after Ctrl-C amid an answer, is read."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        while not self.stdout.closed and self.stdout.read(CHUNK):
            pass
        self.process.wait()
        self.stdout.close()


def is_full(stderr: str) -> bool:
    """Return whether git failed because a disk, or the user's quota of it, is full."""
    return any(words in stderr for words in ("No space left", "Out of diskspace", "Disk quota exceeded"))


def git_error(argv: Sequence[str], code: int, stderr: str) -> GitError:
    words = [word for word in argv[1:] if not word.startswith(("-", "core.")) and "=" not in word]
    lines = lines_of(stderr) or [f"exit {code}"]
    fatal = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0])
    if fatal.endswith(":"):  # a list follows
        fatal += " " + ", ".join(line.strip() for line in lines if line.startswith("\t"))
    hint = "run `runner doctor`"
    if is_full(stderr):
        hint = "make room on the disk; nothing was published"
    elif "Permission denied" in stderr or "Read-only file system" in stderr or "insufficient permission" in stderr:
        hint = "the repository cannot be written here; use a clone of your own"
    elif "unknown repository extension" in stderr:
        hint = "a newer git made this repository: use one that knows it (`git --version`; refstorage came with 2.45)"
    elif "bad config" in stderr:
        hint = "fix that line in an editor; of a file that is empty or zeros: `mv` it away, and `git init` writes a new one"
    elif "invalid gitfile" in stderr:
        hint = "`git worktree repair` in the main worktree writes it again"
    elif ".lock" in stderr and "File exists" in stderr:
        hint = "another git is at work there, or one died: run `runner doctor --fix`"
    kind = PromisedError if "promisor remote" in stderr else GitError
    return kind(f"git {' '.join(words[:1])}: {fatal}", "git", hint, stderr=stderr, code=code)


class Location(NamedTuple):
    """A repository's folders. `git_dir`: of the work tree of the current folder; `top`: that work tree, or None in a bare one."""

    cwd: Path
    git_dir: Path
    common_dir: Path
    top: Path | None
    object_format: str
    trusted: bool  # another user's, and the person's own git trusts it


@functools.cache
def _version(program: str, changed: tuple[int, ...], memory: Path | None) -> str:
    """Return what a git says of its version: once for a program that does not change. `memory`: a file with what it said before."""
    known = f"{program} {' '.join(map(str, changed))}\n"
    with contextlib.suppress(OSError, ValueError):
        if memory is not None and (told := memory.read_text("utf-8")).startswith(known):
            return told.removeprefix(known)
    code, out, _ = spawn([program, "version"], env=sealed_environment(), cwd=None)
    version = out.decode("utf-8", "replace").strip()
    if code or not version:
        return f"git version: exit {code}"
    if memory is not None and memory.parent.is_dir():
        made = memory.with_name(f"{memory.name}.{os.getpid()}")
        with contextlib.suppress(OSError, ValueError):
            made.write_text(known + version, "utf-8")
            os.replace(made, memory)
    return version


def locate(cwd: Path, state: Path | None = None) -> Location:
    """Return where the repository is that `cwd` is in: a checkout, a linked worktree, or a bare one.

    `state`: the person's state folder, where git's version is remembered.

    Raises:
        UsageError: no git or too old a one, no repository, or one that is not trusted.
    """
    env = sealed_environment()
    if "\n" in str(cwd):
        raise UsageError("the folder's name holds a line break", repr(str(cwd)), "rename it")
    program = shutil.which("git")
    if program is None:
        raise no_git()
    of = os.stat(program)
    changed = (of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns)
    version = _version(program, changed, state / "git-version" if state else None)
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
            raise UsageError("this is not a git repository", str(cwd), "`cd` to a repository, or run `git init`")
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
    "core.ignoreStat=false",  # a changed file would count as unchanged
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
        self._trusted = at.trusted
        self._empty = sealed_environment()
        self._seals: dict[Path, dict[str, str]] = {}
        self._settings: dict[str, list[str]] | None = None
        self._personal: dict[str, list[str]] | None = None
        self._held: dict[str, HeldProcess] = {}
        self._packed: dict[
            str, tuple[int, int, int] | None
        ] = {}  # by the name of a held process: the packed refs at its start
        self._packed_file = os.fspath(self.common_dir / "packed-refs")
        # Brings objects (the one that git wants, names of what is read with it) that a partial clone has left at its remote; None:
        # they are missing, for nothing here reaches the network by itself.
        self.fetch_promised: Callable[[str, Sequence[str]], None] | None = None
        self._brought: set[str] = set()

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, cwd: Path, state: Path | None = None) -> Self:
        """Return the repository that `cwd` is in: a checkout, a linked worktree, or a bare one. `state`: see `locate`.

        Raises:
            UsageError: no git or too old a one, no repository, or one that is not trusted.
        """
        return cls(locate(cwd, state))

    def another(self) -> Self:
        """Return the same repository for another thread, with nothing held open yet."""
        return type(self)(self.at)

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
            if self.git_dir == self.common_dir:
                self._ask_for_both()
            if self._settings is None:
                self._settings = self._listed(self.common_dir)
        return self._settings

    def personal_settings(self) -> Mapping[str, Sequence[str]]:
        """Return the person's own configuration, system's included, with its conditional includes judged for this repository."""
        if self._personal is None:
            self._personal = by_key([line for scope, line in self._scoped()[1] if scope in ("system", "global")])
        return self._personal

    def _ask_for_both(self) -> None:
        """Ask one git for the repository's configuration and the person's, where what the repository's says is the same either way.

        What it includes, it may include for the person alone, and a worktree of it may have settings of its own.
        """
        code, found = self._scoped()
        if code or any(
            scope == "worktree" or (scope == "local" and line.startswith("include")) for scope, line in found
        ):
            return
        self._settings = by_key([line for scope, line in found if scope == "local"])
        self._personal = by_key([line for scope, line in found if scope in ("system", "global")])

    def _scoped(self) -> tuple[int, list[tuple[str, str]]]:
        argv = ["git", f"--git-dir={self.git_dir}", "config", "--includes", "--show-scope", "-z", "--list"]
        code, out, _ = spawn(argv, env={**personal_environment(), "LC_ALL": "C"}, cwd=None)
        parts = out.decode("utf-8", "surrogateescape").split("\0")
        return code, list(zip(parts[0::2], parts[1::2], strict=False))

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
                raise TooSlowError(what, "git", "run the same command again when the machine is less busy") from error
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

    def _hold(self, name: str, *args: str, settled: bool = False) -> HeldProcess:
        """Return the sealed process that is held open under `name`; it is started anew where it ended, had other arguments, or may
        answer by refs that were packed since.

        `settled`: it may be asked at once.
        """
        if not settled:
            self.settle()
        held, packed = self._held.get(name), self._packed_refs()
        if held is not None:
            is_open = not held.stdin.closed and held.process.poll() is None  # on the host a tool may have ended it
            if is_open and held.argv[-len(args) :] == [*args] and self._packed[name] == packed:
                return held
            held.close()
        held = self._held[name] = HeldProcess(self.argv(args), self.environment())
        self._packed[name] = packed
        return held

    def _packed_refs(self) -> tuple[int, int, int] | None:
        """Return what tells one file of packed refs from the next. git compares its time in whole seconds, so a process that has read
        one takes a second one after it for the same, where that got its size and its inode."""
        try:
            found = os.stat(self._packed_file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

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
