"""The environment of a runner that no history records: clock, randomness, prompts, and the secrets in its variables; where locks,
notes and the person's own state lie; and the checkpoints, the tips that verified on this machine. The outside comes in as arguments
so that a test can drive it."""

from __future__ import annotations

import binascii
import contextlib
import glob
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from runner.errors import UsageError
from runner.git.objects import sync_folder
from runner.lines import pattern
from runner.protocol.ids import OID

if TYPE_CHECKING:
    from runner.git import Git
    from runner.protocol.transcript import Line


class Environment(NamedTuple):
    """`now`: seconds since the epoch; `monotonic`: seconds; `random_hex(n)`: n hex digits; `state_home`: the person's
    own state, `$XDG_STATE_HOME/protocol-runner`; `environ`: the person's environment, keys of models included;
    `hear`: a record of a running attempt, as it is made; `hear_output(what, output)`: the next part of what a step's command or check
    prints, secrets included, where `what` names the step and its place; `say`: one line for a person; `ask(question, choices)`: the
    choice of the person at the terminal, `ask_text(question)`: their text; None where nobody is.

    `boot()`: which start of the machine this is, empty where that is unknown; `uptime()`: seconds of that start, those of
    sleep included, so that two processes can compare them; without it, `monotonic`.
    `beside(seconds, beat)`: calls `beat()` beside the work, first after `seconds`, then each time after as many as it returned,
    until the function that `beside` returned is called. `interrupt()`: stops the work of this process, from there."""

    now: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    random_hex: Callable[[int], str]
    host: str
    pid: int
    state_home: Path
    environ: Mapping[str, str] = {}
    hear: Callable[[Line], None] = lambda record: None
    hear_output: Callable[[str, bytes], None] = lambda what, output: None
    say: Callable[[str], None] = lambda line: None
    ask: Callable[[str, tuple[str, ...]], str | None] = lambda question, choices: None
    ask_text: Callable[[str], str | None] = lambda question: None
    boot: Callable[[], str] = lambda: ""
    uptime: Callable[[], float] | None = None
    beside: Callable[[float, Callable[[], float]], Callable[[], None]] = lambda seconds, beat: lambda: None

    interrupt: Callable[[], None] = lambda: None

    def lasting(self) -> float:
        """Return seconds that include those of sleep: the time that another machine sees passing."""
        return (self.uptime or self.monotonic)()

    def timestamp(self, more: float = 0) -> str:
        """Return the time, or that of so many seconds later, as the record writes it."""
        return timestamp(int(self.now() + more))


@lru_cache(8)
def timestamp(seconds: int) -> str:
    """Return a time in seconds since the epoch as the record writes it: in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- secrets ---------------------------------------------------------------------------------------------------------------

SHORTEST = 8  # a shorter value would take words out of ordinary text
# The password of an address, or what stands there alone, as tokens do over HTTP; and headers that authenticate.
_IN_ADDRESSES = pattern(r"\b(?:[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@|https?://([^\s/:@]+)@)", re.IGNORECASE)
_IN_HEADERS = pattern(
    r"^[\w-]*(?:auth|key|token|secret|password|cookie|credential)[\w-]*[ \t]*:[ \t]*(?:(?:Bearer|Basic)[ \t]+)?(\S.*?)[ \t\r]*$",
    re.IGNORECASE | re.MULTILINE,
)
_FOR_URLS = str.maketrans("+/", "-_")  # of the digits of base64
_NAMES = pattern(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.IGNORECASE)


class Redactor:
    """Takes secrets out of what is written: as they are, and in base64, hex, URL and JSON form.

    Secrets are the values of variables whose names say what they hold, or that are `named`; in all
    others the passwords of addresses, in `*_CUSTOM_HEADERS` the headers that authenticate.

    `forms`: the texts by which a value is known, and its variable's name.
    """

    def __init__(self, environ: Mapping[str, str], named: Collection[str] = ()) -> None:
        forms: dict[str, str] = {}
        for name, value in environ.items():
            secrets = [value] if name in named or _NAMES.search(name) else _inside(name, value)
            for secret in secrets:
                if len(secret) < SHORTEST:
                    continue
                raw = secret.encode("utf-8", "surrogateescape")
                for form in (
                    secret,
                    json.dumps(secret)[1:-1],
                    *_urls(secret),
                    raw.hex(),
                    raw.hex().upper(),
                    *_base64(raw),
                ):
                    if len(form) >= SHORTEST:
                        forms[form] = name
        self.forms = forms
        longest_first = sorted(forms, key=len, reverse=True)
        self.longest = max((len(form.encode("utf-8", "surrogateescape")) for form in forms), default=0)  # bytes
        self.lines = max((form.count("\n") for form in forms), default=0)  # ends of lines that a secret has inside
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def text(self, text: str) -> str:
        """Return the text with each secret replaced by the name of its variable."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"[{self.forms[match[0]]}]", text)

    def data(self, data: bytes) -> bytes:
        """Return the bytes without secrets."""
        if self._pattern is None:
            return data
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets, keys of objects included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def _inside(name: str, value: str) -> list[str]:
    """Return the secrets in a variable that is not one as a whole; what an address quotes, also unquoted."""
    found = [hit[1] or hit[2] for hit in _IN_ADDRESSES.finditer(value)] if "@" in value else []
    found += [unquote(secret) for secret in found]
    if name.upper().endswith("_CUSTOM_HEADERS"):  # of the providers' SDKs
        found += _IN_HEADERS.findall(value)
    return found


def _urls(value: str) -> list[str]:
    """Return the forms of a value in a URL: as a part of it, or as a path; programs differ in the case of the digits."""
    found = [quote(value, safe=safe, errors="surrogateescape") for safe in ("", "/")]
    return [*found, *(re.sub("%..", lambda match: match[0].lower(), form) for form in found)]


def _base64(raw: bytes) -> list[str]:
    """Return the forms of a secret in base64 text, one an offset: the part that does not depend on its neighbours."""
    found = []
    for shift in range(3):
        plain = binascii.b2a_base64(b"\0" * shift + raw, newline=False).decode().rstrip("=")
        for text in (plain, plain.translate(_FOR_URLS)):
            # The first characters mix with what stands before, the last with what comes after.
            begin = (0, 2, 3)[shift]
            end = len(text) if (shift + len(raw)) % 3 == 0 else len(text) - 1
            found.append(text[begin:end])
    return found


# --- where things lie --------------------------------------------------------------------------------------------------------


@cache
def _name(common: Path) -> str:
    """Return what a clone's folder in the person's state is called: its name, and a digest of where it really is."""
    import hashlib

    real = os.path.realpath(common)
    named = Path(real).parent.name if Path(real).name == ".git" else Path(real).name.removesuffix(".git")
    return f"{named}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:12]}"


class StateDir:
    """Where the notes about a clone and the person's state for it are: folders and files, by what they hold.

    `common`: the repository's common git directory; `state_home`: the person's own state folder for all repositories.
    """

    def __init__(self, common: Path, state_home: Path) -> None:
        self.common, self.state_home = common, state_home
        self.beside = common / "runner"  # what belongs to this clone: locks, notes
        self.follows = self.beside / "follows"  # notes of worktrees that are about to follow a ref
        self.setup = self.beside / "setup"  # the files that `runner init` wrote into this clone, a path a line
        self.packs = self.beside / "packs"  # the packs of batches, a line each: how often it was folded, and its name
        self.damaged = self.beside / "damaged"  # where broken files of git's are put aside
        # The answers of models while they plan a protocol that does not exist yet; names of protocols begin with a number.
        self.planning = self.journal("planning")
        # The person's own state for this clone: mirror, marks, workspaces. Nothing in the repository can write there.
        self.own = state_home / _name(common)
        self.pin = self.own / "trusted.json"  # which remote and branch are trusted
        self.mirror = self.own / "mirror"  # the git directory that talks to the remote, with the person's configuration
        self.briefs = self.own / "list"  # what `list` read of many protocols, kept by the ids of their commits

    def publish_lock(self, branch: str) -> Path:
        """The file whose `flock` says that a process moves this branch (its full ref name)."""
        return self.lock(f"{branch.replace('/', '%')}.publish")

    def lock(self, name: str) -> Path:
        """The file whose `flock` says that a process works on `name`."""
        return self.beside / "locks" / name

    def lease(self, protocol: str) -> Path:
        """The note of the lease that this clone took on the remote."""
        return self.beside / "leases" / protocol

    def journal(self, protocol: str) -> Path:
        """The folder of the journals of a protocol's attempts."""
        return self.beside / "journal" / protocol

    def refused(self, protocol: str) -> Path:
        """The note that the remote's rules refused the unpublished commits of a protocol."""
        return self.beside / "refused" / protocol

    def lost(self, name: str) -> Path:
        """A folder of journals that are resumed by nothing any more."""
        return self.beside / "lost" / name

    def making(self, protocol: str) -> Path:
        """The note that a protocol's worktree is being made."""
        return self.beside / "making" / protocol

    def renumbering(self, protocol: str) -> Path:
        """The note that a protocol is given another number, by the id that it had."""
        return self.beside / "renumbering" / protocol

    def unfinished(self, request: str) -> Path:
        """The note of the protocol that a command creates, by the digest (hex) of its request."""
        return self.beside / "unfinished" / request

    def seen_lease(self, protocol: str) -> Path:
        """The note since when another runner's lease of a protocol has not moved."""
        return self.own / "leases" / f"{protocol}.json"

    def looked(self, protocol: str) -> Path:
        """The file whose time says when the remote was last asked for a protocol's lease; of `*`, for all of them."""
        return self.mirror / "looked" / (protocol if protocol != "*" else "all")

    def pending(self, protocol: str) -> Path:
        """The transitions of a protocol that are on the disk and not on its branch yet."""
        return self.beside / "pending" / protocol

    def checkpoint(self, protocol: str) -> Path:
        """The last tip of a protocol that verified here."""
        return self.own / "marks" / f"{protocol}.json"


@dataclass(frozen=True, slots=True, eq=False)
class Clone:
    """A repository, with the runner's own files for it and its environment: what is there where no project can be opened."""

    git: Git
    dirs: StateDir
    env: Environment

    @classmethod
    def of(cls, git: Git, env: Environment) -> Clone:
        """Return the clone of an opened repository.

        Raises:
            UsageError: no folder for the person's state can be written.
        """
        return cls(git, StateDir(git.common_dir, writable_state_home(env.state_home)), env)


def writable_state_home(wanted: Path) -> Path:
    """Return `wanted` where it can be written, else a folder of this user's in the temporary folder.

    Raises:
        UsageError: there is no place for it.
    """
    probe = wanted
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    if os.access(probe, os.W_OK | os.X_OK) and probe.is_dir() and not wanted.is_relative_to("/nonexistent"):
        return wanted
    import tempfile

    folder = Path(tempfile.gettempdir()) / f"protocol-runner-{os.getuid()}"
    # Its name can be guessed and others write there too: it is used where it is this user's and nobody else can write it.
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UsageError(
            f"the runner's own state cannot be written: {error.strerror}",
            str(folder),
            "set XDG_STATE_HOME to a folder of yours",
        ) from error
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise UsageError(
            "the folder for the runner's own state is not yours alone",
            str(folder),
            "set XDG_STATE_HOME to a folder of yours",
        )
    return folder


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, and on the disk before this returns.

    The folder is made. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # a signal may come when it has its name already
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


# --- checkpoints: the last tip of each protocol that verified on this machine -------------------------------------------
# Only new commits are verified, and a history that goes back is seen.


def read_checkpoint(dirs: StateDir, protocol: str) -> str | None:
    """Return the commit that verified last, or None where freshness is not proven."""
    try:
        tip = json.loads(dirs.checkpoint(protocol).read_bytes())["tip"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tip if isinstance(tip, str) and OID.fullmatch(tip) else None


def write_loosely(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, where that can be done; a power cut may lose it. For what can be had again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)  # no fsync: every transition would wait for it
    except OSError:
        return


def write_checkpoint(
    dirs: StateDir, protocol: str, tip: str, genesis: str, write: Callable[[Path, bytes], None] = write_loosely
) -> None:
    """Remember a tip that verified; where the state cannot be written, or is lost, it is verified again next time."""
    write(dirs.checkpoint(protocol), json.dumps({"tip": tip, "genesis": genesis}).encode() + b"\n")


def lower_checkpoint(dirs: StateDir, protocol: str, tip: str, genesis: str) -> None:
    """Remember an earlier tip, for certain: the later one comes back from no power cut, behind which the branch would seem to be.

    Raises OSError.
    """
    write_checkpoint(dirs, protocol, tip, genesis, write_atomically)


def forget_checkpoint(dirs: StateDir, protocol: str) -> None:
    """Accept a protocol as it is the next time it is loaded; on the disk before this returns."""
    path = dirs.checkpoint(protocol)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def matching(folder: Path, *patterns: str) -> list[Path]:
    """Return the paths below a folder that match one of the patterns, dot files too, sorted; what goes away meanwhile is left out.

    A folder that is not there, or may not be read, holds nothing. `Path.glob` ends with FileNotFoundError, before Python 3.13, where
    one goes away between being seen and being read. A path may be gone when it is used. `**` stands for any number of folders, links
    to folders too; a name that is no pattern has to be escaped with `glob.escape`.

    Raises:
        OSError: the folder is there and could not be read: a bad disk, too many open files.
    """
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(
        {
            folder / name
            for pattern in patterns
            for name in glob.iglob(pattern, root_dir=folder, recursive=True, include_hidden=True)
        }
    )
