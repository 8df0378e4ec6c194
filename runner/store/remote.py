"""The remote: fetched from and pushed to through a git directory of our own, the mirror (design §4, §6).

The mirror has its own configuration and refs and uses the clone's object store, so nothing is brought twice and no setting of
the worked-on repository (ssh command, URL rewrites, hooks) has a say in how the remote is reached; the person's own have.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from runner.errors import (
    ConflictError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from runner.git import BLOB, TIMED_OUT, Git, GitError, Ident, TreeEntry
from runner.git.repository import token_settings
from runner.lines import lines_of
from runner.store import locks, trusted
from runner.store.environment import (
    Clone,
    Environment,
    StateDir,
    matching,
    write_atomically,
)
from runner.store.trusted import Pin, Trusted

FETCH_SECONDS = 5.0  # what a look at the remote may take before it counts as away
SLOW_SECONDS = 1800.0  # what a fetch may take from a remote that answers: it has much that is new, or the link is slow
PUSH_SECONDS = 120.0
LOCKED = 5  # how often a push is tried again that the other side could not carry out, though nobody was first
MINUTE = len("2026-11-20T06:47")  # of a timestamp: how exactly it is known when the remote was asked
RACES = 20  # how often a fetch is made again whose refs another one here moved meanwhile


class PushRefusedError(UnreachableError):
    """The remote's own rules refused a push. `said`: what it said, line by line."""

    def __init__(self, what: str, where: str, hint: str, said: Sequence[str] = ()) -> None:
        super().__init__(what, where, hint)
        self.said = tuple(said)


class Mirror(NamedTuple):
    """The git directory that talks to one remote. `remote`: its name in the clone; `url`: where it is."""

    clone: Clone
    remote: str
    url: str

    @classmethod
    def of(cls, clone: Clone) -> Mirror | None:
        """Return the clone's mirror, made ready, or None where there is no remote.

        Raises:
            UsageError: the person's state cannot be written, or the address is of a kind that runs commands.
        """
        remote = trusted.remote_name(clone.git)
        if remote is None:
            return None
        mirror = cls(clone, remote, trusted.remote_url(clone.git, remote))
        mirror._make_ready()
        return mirror

    @property
    def git(self) -> Git:
        """The clone's git, whose objects it uses."""
        return self.clone.git

    @property
    def dirs(self) -> StateDir:
        """Where the clone's things lie."""
        return self.clone.dirs

    @property
    def env(self) -> Environment:
        """The environment of the process."""
        return self.clone.env

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.dirs.mirror

    def _make_ready(self) -> None:
        if self.url.lower().startswith(("ext::", "fd::")) or self.url.startswith("-"):
            raise UsageError(
                f"the remote's address runs a command: {self.url}",
                f"remote.{self.remote}.url",
                "use ssh, https or a path",
            )
        trusted.refuse_unprotected(self.git, self.dirs, self.remote, self.url)
        partial = self.git.config(f"remote.{self.remote}.partialclonefilter") if self.git.is_partial() else None
        sha256 = self.git.object_format == "sha256"
        extensions = ("\tobjectFormat = sha256\n" if sha256 else "") + ("\tpartialClone = origin\n" if partial else "")
        quoted = self.url.replace("\\", "\\\\").replace('"', '\\"')
        config = (
            f"[core]\n\trepositoryformatversion = {int(bool(extensions))}\n\tbare = true\n"
            + (f"[extensions]\n{extensions}" if extensions else "")
            + f'[remote "origin"]\n\turl = "{quoted}"\n'
            + (f"\tpromisor = true\n\tpartialclonefilter = {partial}\n" if partial else "")
        ).encode()
        try:
            if not (self.path / "HEAD").exists():
                for folder in ("objects", "refs/heads"):
                    (self.path / folder).mkdir(parents=True, exist_ok=True)
                write_atomically(self.path / "packed-refs", self._seed())
                write_atomically(self.path / "config", config)
                write_atomically(self.path / "HEAD", b"ref: refs/heads/none\n")
            elif (self.path / "config").read_bytes() != config:
                write_atomically(self.path / "config", config)
            shallow = self.git.common_dir / "shallow"
            if shallow.exists():
                shutil.copyfile(shallow, self.path / "shallow")
            else:
                (self.path / "shallow").unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"the runner's own state cannot be written: {error.strerror}",
                str(self.path),
                "set XDG_STATE_HOME to a folder of yours",
            ) from error

    def _seed(self) -> bytes:
        """Return refs that tell the remote what this clone has already, so that nothing is brought twice."""
        prefix = f"refs/remotes/{self.remote}/"
        known = {name: oid for name, oid in self.git.refs(prefix).items() if name != f"{prefix}HEAD"}
        lines = [f"{oid} refs/seed/{name.removeprefix(prefix)}" for name, oid in sorted(known.items())]
        return "".join(f"{line}\n" for line in ["# pack-refs with: peeled fully-peeled sorted ", *lines]).encode()

    def _run(self, *args: str, timeout: float, data: bytes = b"") -> tuple[int, bytes, str]:
        env = token_settings(self.url, self.env.environ)
        done = self.git.transport(self.path, *args, timeout=timeout, env=env, data=data)
        if done[0] and ".lock" in done[2]:  # of a git that was killed here, perhaps
            dead = [locks.remove_dead(lock, self.env) for lock in matching(self.path, "**/*.lock")]
            if any(dead):
                return self.git.transport(self.path, *args, timeout=timeout, env=env, data=data)
        return done

    def refs(self) -> dict[str, str]:
        """Return what the remote had when it was last fetched: full ref name there to oid."""
        return seen(self.clone, "refs")

    def ref(self, name: str) -> str | None:
        """Return the commit that a ref had there, or None where it had none."""
        return seen(self.clone, name).get(name)

    def default_branch(self) -> str | None:
        """Ask the remote for its default branch; None where it has none.

        Raises:
            UnreachableError: it did not answer.
        """
        code, out, err = self._run("ls-remote", "--symref", "origin", "HEAD", timeout=FETCH_SECONDS)
        if code:
            raise self._unreachable(code, err)
        for line in lines_of(out.decode("utf-8", "replace")):
            if line.startswith("ref: refs/heads/"):
                return line.removeprefix("ref: refs/heads/").split("\t")[0]
        return None

    def _no_default(self) -> UnreachableError:
        _, out, _ = self._run("ls-remote", "--heads", "origin", timeout=FETCH_SECONDS)
        names = [line.partition("\t")[2] for line in lines_of(out.decode("utf-8", "replace"))]
        if not names:
            what, hint = "has no default branch yet", f"push one first: git push -u {self.remote} main"
            return UnreachableError(f"{self.remote} {what}", self.url, hint)
        name = "refs/heads/main" if "refs/heads/main" in names else names[0]
        return UnreachableError(
            f"{self.remote}'s default branch is one that it does not have",
            self.url,
            f"set it there: on the forge, or in the repository by `git symbolic-ref HEAD {shlex.quote(name)}`",
        )

    def fetch(self, *patterns: str, timeout: float | None = None) -> None:
        """Bring the refs of the patterns (`refs/heads/main`, `refs/runner/numbers/*`), and forget those that are gone there.

        A pattern that fits nothing is no error. `timeout`: seconds; without it FETCH_SECONDS, and SLOW_SECONDS once more where the
        remote answers meanwhile.

        Raises:
            UnreachableError: the remote did not answer in time, or refused.
        """
        is_look, timeout = timeout is None, FETCH_SECONDS if timeout is None else timeout
        specs = []
        for pattern in patterns:
            glob = pattern if pattern.endswith("*") else f"{pattern}*"
            specs.append(f"+{glob}:refs/there/{glob.removeprefix('refs/')}")
        argv = (
            "fetch", "--quiet", "--no-tags", "--prune", "--no-write-fetch-head", "--no-recurse-submodules", "origin", *specs,
        )  # fmt: skip
        code, _, err = self._run(*argv, timeout=timeout)
        if is_look and code == TIMED_OUT and self._run("ls-remote", "origin", "HEAD", timeout=FETCH_SECONDS)[0] == 0:
            self.env.say(f"fetching from {self.remote}: this takes a while")
            timeout = SLOW_SECONDS
            code, _, err = self._run(*argv, timeout=timeout)
        for again in range(RACES):
            if not (code and ("cannot lock ref" in err or ".lock'" in err)):
                break
            self.env.sleep(0.02 * (again + 1))  # another process of this clone fetched the same at the same time
            code, _, err = self._run(*argv, timeout=timeout)
        if code and self._forget_other_clone():
            code, _, err = self._run(*argv, timeout=timeout)
        if code:
            raise self._unreachable(code, err)
        for pattern in patterns:
            if pattern.startswith("refs/runner/leases/"):
                self._looked(pattern.rpartition("/")[2])

    def _looked(self, protocol: str) -> None:
        at = self.dirs.looked(protocol)
        with contextlib.suppress(OSError):  # a note for people alone
            at.parent.mkdir(exist_ok=True)
            at.touch()

    def _forget_other_clone(self) -> bool:
        """Start anew where the refs are those of an earlier clone at this path, whose objects went with it; return whether."""
        if all(self.git.commit(oid) is not None for oid in set(self.refs().values())):
            return False
        shutil.rmtree(self.path / "refs" / "there", ignore_errors=True)
        write_atomically(self.path / "packed-refs", self._seed())
        return True

    def push(self, changes: Mapping[str, tuple[str | None, str | None]], *, timeout: float = PUSH_SECONDS) -> None:
        """Move refs on the remote, `{name: (new, expected there)}`, all or none. One that stays has to be where it is expected.

        Raises:
            ConflictError: a ref is not where it was expected; also where all were where they should go before it was tried, which
                others did.
            PushRefusedError: its rules refused. UnreachableError: it did not answer, or could not; nothing moved.
        """
        said: list[str] = []
        for again in range(LOCKED + 1):
            left = self._push(changes, timeout)
            if left is None:
                return
            said = left
            if again < LOCKED:  # another push may be under way there
                self.env.sleep(0.1 * 2**again)
        raise UnreachableError(
            f"{self.remote} could not update a ref that is unchanged: {' '.join(said[:2]) or 'it did not say why'}",
            self.url,
            "a killed git there may have left this lock; ask the administrator to remove it. Nothing was published or lost",
        )

    def _push(self, changes: Mapping[str, tuple[str | None, str | None]], timeout: float) -> list[str] | None:
        """Push once; None where it is done. Else every ref is where it was expected, and nothing moved: what the remote said."""
        keep_rate(self.dirs, self.env, waits=timeout >= PUSH_SECONDS)  # who is about to end does not wait
        leases = [f"--force-with-lease={name}:{old or ''}" for name, (_, old) in changes.items()]
        specs = [f"{new or ''}:{name}" for name, (new, _) in changes.items()]
        code, out, err = self._run(
            "push", "--porcelain", "--atomic", "--no-verify", "--no-recurse-submodules", *leases, "origin", *specs,
            timeout=timeout,
        )  # fmt: skip
        if code == 0:
            self._note(changes)
            # Of a ref that has our commit already git says nothing was wrong, wherever it was expected. Where none was moved by
            # this push, who put them there is unknown; where one was, it is ours, and what stood in its place already is no loss.
            moving = {name for name, (new, old) in changes.items() if new != old}
            twice = moving & set(_up_to_date(out))
            if twice and twice == moving:
                raise ConflictError(
                    f"{', '.join(sorted(twice))} on {self.remote} was moved by somebody else, or by an earlier push"
                    " of this clone that was given up",
                    self.url,
                    "run the same command again, or `runner sync`",
                )
            return None
        rejected = [line.split("\t") for line in lines_of(out.decode("utf-8", "replace")) if line.startswith("!")]
        # The answer was lost, not the push; or something between here and there sent it twice, and this came of the second.
        there = self._ask(changes)
        if there is not None and all(there.get(name) == new for name, (new, _) in changes.items()):
            self._note(changes)
            return None
        said = [line.removeprefix("remote:").strip() for line in err.split("\n") if line.startswith("remote:")]
        said = ["".join(filter(str.isprintable, line)) for line in said if line]
        # git gives no code for why: its porcelain marks `[remote rejected]` what the other side's rules refused.
        refused = [
            line[-1] for line in rejected if line[-1].startswith("[remote rejected]") and "atomic" not in line[-1]
        ]
        if refused and not any("cannot lock ref" in line for line in said):
            raise PushRefusedError(
                f"{self.remote} refused the push: {refused[0].removeprefix('[remote rejected] ')} {' '.join(said[:2])}".strip(),
                self.url,
                "nothing was published and nothing is lost; ask the remote's administrator, or push from an account that may",
                said,
            )
        if rejected and there is not None and all(there.get(name) == old for name, (_, old) in changes.items()):
            return said
        if rejected:
            names = (
                ", ".join(sorted(line[1].rpartition(":")[2] for line in rejected if "atomic" not in line[-1]))
                or "a ref"
            )
            raise ConflictError(
                f"{names} moved on {self.remote}", self.url, "run the same command again, or `runner sync`"
            )
        raise self._unreachable(code, err)

    def try_push(self, refs: Mapping[str, str]) -> None:
        """Ask the remote whether it would take new refs, `{name: oid}`; nothing moves, and its own rules are not asked.

        Raises:
            UnreachableError: it did not answer, or refused.
        """
        specs = [f"{oid}:{name}" for name, oid in refs.items()]
        code, _, err = self._run(
            "push", "--dry-run", "--porcelain", "--no-verify", "--no-recurse-submodules", "origin", *specs,
            timeout=PUSH_SECONDS,
        )  # fmt: skip
        if code:
            raise self._unreachable(code, err)

    def _ask(self, changes: Mapping[str, object]) -> dict[str, str] | None:
        """Ask the remote where these refs are; None where it does not answer."""
        code, out, _ = self._run("ls-remote", "origin", *changes, timeout=FETCH_SECONDS)
        if code:
            return None
        return {name: oid for oid, name in (line.split("\t", 1) for line in lines_of(out.decode("utf-8", "replace")))}

    def _note(self, changes: Mapping[str, tuple[str | None, str | None]]) -> None:
        lines = [
            f"update refs/there/{name.removeprefix('refs/')} {new}"
            if new
            else f"delete refs/there/{name.removeprefix('refs/')}"
            for name, (new, _) in changes.items()
        ]
        self._run("update-ref", "--stdin", timeout=PUSH_SECONDS, data="".join(f"{line}\n" for line in lines).encode())

    def _unreachable(self, code: int, err: str) -> UnreachableError:
        lines = [
            line for line in lines_of(err) if line.startswith(("fatal:", "error:", "ssh:", "remote:"))
        ] or lines_of(err)
        return UnreachableError(
            f"{self.remote} could not be reached, or refused: {lines[0].strip() if lines else f'exit {code}'}",
            self.url,
            f"try `git ls-remote {self.remote}`; nothing was published and nothing is lost",
        )

    # --- the trusted branch --------------------------------------------------------------------------------------------

    def look(self, *patterns: str) -> Trusted:
        """Fetch the trusted branch, and the patterns with it, and return where it is now; pinned at first use.

        Raises:
            UnreachableError: the remote did not answer.
            RefusedError: the trusted branch is gone there.
        """
        pin = trusted.read_pin(self.dirs)
        branch = pin.branch if pin else self.default_branch()
        if branch is None:
            raise self._no_default()
        name = f"refs/heads/{branch}"
        self.fetch(name, *patterns)
        there = self.refs()
        if name not in there:
            raise RefusedError(
                f"the trusted branch {branch} is gone from {self.remote}",
                self.url,
                "`runner doctor --repin` trusts its new default branch",
            )
        oid = there[name]
        if pin is None or pin.oid != oid:
            self._refuse_going_back(pin, oid)
        now = self.env.timestamp()
        if pin is None or pin.oid != oid or pin.time[:MINUTE] != now[:MINUTE]:
            trusted.write_pin(self.dirs, Pin(self.remote, self.url, branch, oid, now))
        kept = {trusted.REF: (oid, self.git.ref(trusted.REF))}
        if kept[trusted.REF][1] != oid:
            locks.remove_dead(self.git.common_dir / f"{trusted.REF}.lock", self.env)
            self.git.update_refs(kept, "runner: fetched")
        self.track({name: oid})  # `status` then knows what is merged
        return Trusted(oid, branch, self.remote, "")

    def track(self, seen: Mapping[str, str]) -> None:
        """Let the person's own git see where branches are on the remote, as its own push or fetch would."""
        for name, oid in seen.items():
            if name.startswith("refs/heads/"):
                tracking = f"refs/remotes/{self.remote}/{name.removeprefix('refs/heads/')}"
                if (known := self.git.ref(tracking)) == oid:
                    continue
                locks.remove_dead(self.git.common_dir / f"{tracking}.lock", self.env)
                # Such as one of a branch `main/x` that is gone there.
                with contextlib.suppress(ConflictError, GitError):
                    self.git.update_refs({tracking: (oid, known)}, "runner: fetched")

    def _refuse_going_back(self, pin: Pin | None, oid: str) -> None:
        """The policy may not be rolled back: a force push of the trusted branch is a person's decision."""
        if pin is None or not pin.oid or self.git.commit(pin.oid) is None or self.git.is_ancestor(pin.oid, oid):
            return
        if self.git.is_shallow():
            return  # what lies between is not here, so it cannot be told
        raise RefusedError(
            f"the trusted branch {pin.branch} went back: {pin.oid[:12]} is no longer in it",
            self.url,
            "`runner doctor --repin` trusts it as it is now",
        )


def seen(clone: Clone, name: str) -> dict[str, str]:
    """Return a ref of the remote's, or all below it, as it was last fetched: full name there to oid. No git is started."""
    known = clone.git.refs_in(clone.dirs.mirror, f"refs/there{name.removeprefix('refs')}")
    return {f"refs{one.removeprefix('refs/there')}": oid for one, oid in known.items()}


def last_leases(clone: Clone) -> dict[str, str]:
    """Return protocol to the commit of its lease, of those that the remote was last seen to have."""
    return {name.rpartition("/")[2]: oid for name, oid in seen(clone, "refs/runner/leases").items()}


def last_looked(dirs: StateDir, protocol: str) -> float | None:
    """Return when the remote was last asked for a protocol's lease, in seconds since the epoch; None: that is not known."""
    times = []
    for file in (dirs.looked(protocol), dirs.looked("*")):
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times, default=None)


def _up_to_date(out: bytes) -> list[str]:
    """Return the refs of which `push --porcelain` says that nothing had to be done."""
    lines = [line.split("\t") for line in lines_of(out.decode("utf-8", "replace")) if line.startswith("=\t")]
    return [line[1].rpartition(":")[2] for line in lines]


def fetch_objects(clone: Clone, oids: list[str]) -> None:
    """Bring objects that a partial clone has left at its remote.

    Raises:
        UnreachableError: the remote did not answer.
    """
    mirror = Mirror.of(clone)
    if mirror is None:
        raise UnreachableError(
            "objects are missing and there is no remote", str(clone.git.common_dir), "run `git fetch --refetch`"
        )
    code, _, err = clone.git.transport(
        mirror.path,
        "-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
        "--no-recurse-submodules", "--filter=blob:none", "--stdin", "origin",
        data="".join(f"{oid}\n" for oid in oids).encode(), timeout=PUSH_SECONDS * 5,
        env=token_settings(mirror.url, clone.env.environ),
    )  # fmt: skip
    if code:
        raise mirror._unreachable(code, err)


# --- small files on a ref, such as a lease or a day's budget: replaced whole, by compare-and-swap of the ref --------------


def read_files(clone: Clone, entries: Sequence[TreeEntry], limit: int) -> list[bytes] | None:
    """Return the bytes of such files, or None: one is no file, has more than `limit` bytes, or is not here.

    A partial clone fetches them.

    Raises:
        UnreachableError: they are at a remote that does not answer.
    """
    git, oids = clone.git, [entry.oid for entry in entries]
    if git.is_partial() and (missing := [oid for oid in oids if git.object(oid) is None]):
        fetch_objects(clone, missing)
    if any(size is None or size > limit for size in git.sizes(oids)):
        return None
    found = [data for data in git.blobs(oids) if data is not None]
    return found if len(found) == len(oids) else None


def write_files(git: Git, files: Mapping[str, bytes | TreeEntry], old: str | None, author: Ident, subject: str) -> str:
    """Return a commit that has these files (paths) alone, on top of `old`; the ref is still where it was."""
    entries = {
        path: TreeEntry(BLOB, git.write("blob", data)) if isinstance(data, bytes) else data
        for path, data in files.items()
    }
    tree = git.edited(None, entries)
    return git.write_commit(tree, (old,) if old else (), author, author, f"{subject}\n".encode())


# --- how fast pushes may follow each other ----------------------------------------------------------------------------
# Forges allow a few a minute, and count those of all processes of a clone together. Each push takes the next free place of a list
# that lies beside the repository, and waits until its time has come. A place whose process died stays unused.

PUSHES_PER_MINUTE = "RUNNER_PUSHES_PER_MINUTE"
RATE_WINDOW = 60.0
FAR = 3600.0  # a time so far ahead was written by a clock that was wrong


def keep_rate(dirs: StateDir, env: Environment, *, waits: bool = True) -> None:
    """Wait until one more push keeps the limit, where one is set. Without `waits` it is made at once, and others wait for it.

    Raises:
        UsageError: the limit is no number.
    """
    limit = env.environ.get(PUSHES_PER_MINUTE)
    if not limit:
        return
    if not limit.isdecimal() or not int(limit):
        raise UsageError(
            f"`{limit}` is not a number of pushes", PUSHES_PER_MINUTE, "set it to a whole number from 1, or unset it"
        )
    with locks.hold(dirs.lock("pushes"), env, what="the list of pushes", wait=RATE_WINDOW):
        now = env.now()
        times = _pushes(dirs, now)
        at = next_push(times, now, int(limit))
        write_atomically(dirs.beside / "pushes", "".join(f"{time:.3f}\n" for time in [*times, at]).encode())
    if waits and at > now:
        if at - now >= 1:
            env.say(f"waits {at - now:.0f} s: {limit} pushes a minute are allowed")
        env.sleep(at - now)


def next_push(times: list[float], now: float, limit: int) -> float:
    """Return when one more push may be made, so that no minute has more than `limit`. `times`: of those before it, in order."""
    return max(now, times[-limit] + RATE_WINDOW) if len(times) >= limit else now


def _pushes(dirs: StateDir, now: float) -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        lines = (dirs.beside / "pushes").read_text().split()
        return sorted(time for time in map(float, lines) if now - RATE_WINDOW < time < now + FAR)
    return []
