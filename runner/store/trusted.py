"""The trusted branch: where policy, keys, configuration and tools' code come from (design §4).

It is the default branch of the remote, as last fetched into a mirror of our own, else a local branch. Which remote and branch
that is, is pinned in the person's own state from its first use on; a branch that an agent can write never counts.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from runner.errors import IntegrityError, RefusedError, UsageError
from runner.git import Git
from runner.lines import pattern
from runner.protocol import ids, paths
from runner.store.environment import StateDir, write_atomically

REF = "refs/runner/fetched/trusted"  # kept here so that no `git gc` takes its objects away


class NoCommitsError(UsageError):
    """There is no commit to trust or to start from yet."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "the repository has no commits yet", where, "make a first commit: git commit --allow-empty -m start"
        )


class OnlyProtocolsError(UsageError):
    """All branches that are known here are protocols' own, as in a clone of one of them."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "there is no branch to trust here: all belong to protocols",
            where,
            "`git branch main COMMIT` makes one; add the remote where it has one: `git remote add origin URL`",
        )


class Pin(NamedTuple):
    """The pinned commit. `time`: when the branch was last fetched, or empty."""

    remote: str
    url: str
    branch: str
    oid: str
    time: str


class Trusted(NamedTuple):
    """`commit`: the trusted branch's; `note`: what a reader should know about it, or empty.

    `time`: when the remote was asked, where that was not just now and is known.
    """

    commit: str
    branch: str
    remote: str | None
    note: str
    time: str = ""

    def blob(self, git: Git, path: str) -> bytes | None:
        """Return a file of the trusted branch, or None. Links are not followed."""
        return git.blob(f"{self.commit}:{path}")


def policy_digest(git: Git, commit: str) -> str | None:
    """Return the digest of the policy that a commit has, or None where it has none."""
    data = git.blob(f"{commit}:{paths.POLICY}")
    return ids.digest(data) if data is not None else None


def remote_name(git: Git) -> str | None:
    """Return `origin`, or the only remote, or None."""
    names = [
        key[len("remote.") : -len(".url")]
        for key in git.settings()
        if key.startswith("remote.") and key.endswith(".url") and len(key) > len("remote..url")
    ]
    if not names:
        return None
    return "origin" if "origin" in names else names[0] if len(set(names)) == 1 else None


def remote_url(git: Git, remote: str) -> str:
    """Return the remote's address as configured; a relative path is made absolute, by the main worktree from every other."""
    url = git.settings().get(f"remote.{remote}.url", [""])[-1]
    if url and "://" not in url and not url.startswith("/") and ":" not in url.split("/", 1)[0]:
        return str(((git.main_worktree() or git.common_dir) / url).resolve())
    return url


def refuse_unprotected(git: Git, dirs: StateDir, remote: str, url: str) -> None:
    """Refuse a remote whose answers anybody on the way could have written: it says who may approve, and which commands run.

    Raises:
        RefusedError: it is reached by http, git or ftp, and is not this machine.
    """
    scheme, colon, _ = url.partition("://")
    if not colon or scheme.lower() not in ("http", "git", "ftp"):
        return
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if _is_loopback(host):
        return
    name = f"[{host}]" if ":" in host else host
    there = f"https://{name or 'HOST'}{f':{port}' if port not in (None, 80, 9418, 21) else ''}{parts.path}"
    pinned = ", then `runner doctor --repin`" if dirs.pin.exists() else ""
    raise RefusedError(
        f"the remote {remote} is fetched over {scheme.lower()}://, where anybody on the network path can change what is trusted here",
        f"remote.{remote}.url in {git.common_dir / 'config'}",
        f"`git remote set-url {shlex.quote(remote)} {shlex.quote(there)}`{pinned}",
    )


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_pin(dirs: StateDir) -> Pin | None:
    """Return this clone's pin, or None at first use.

    Raises:
        IntegrityError: it cannot be read; taken for none, whatever the remote has by now would be trusted silently.
    """
    try:
        pin = Pin(**json.loads(dirs.pin.read_bytes()))
        if all(isinstance(getattr(pin, name), str) for name in Pin._fields):
            return pin
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    raise IntegrityError(
        "the note of which remote and branch this clone trusts is damaged",
        str(dirs.pin),
        "`runner doctor --repin` trusts the remote's default branch as it is now",
    )


def write_pin(dirs: StateDir, pin: Pin) -> None:
    """Pin it; where the state cannot be written, it is first use again next time."""
    try:
        write_atomically(dirs.pin, json.dumps(pin._asdict(), indent=2).encode() + b"\n")
    except OSError:
        return


def _local(git: Git) -> tuple[str, str]:
    """Return the local branch to trust, and its commit.

    Raises as `_local_branch` does.
    """
    branch = _local_branch(git)
    commit = git.resolve(f"refs/heads/{branch}")
    if commit is None:
        raise NoCommitsError(str(git.cwd))
    return branch, commit


def _local_branch(git: Git) -> str:
    """Return the name of the local branch to trust: main, master, the checked-out one, else the first. A protocol's own never is.

    Raises:
        UsageError: the one that it would be is broken, and nobody said that another is trusted.
        OnlyProtocolsError: all are protocols' own. NoCommitsError: there is none.
    """
    for one in ("refs/heads/main", "refs/heads/master", "HEAD"):
        ref = git.symbolic_ref(one) if one == "HEAD" else one
        if ref is None:
            continue
        name = ref.removeprefix("refs/heads/")
        if git.ref(ref):
            if _is_own(git, ref):
                continue
            return name
        if _is_named(git, ref) and not ids.is_protocol_id(name.rpartition("/")[2]):
            raise UsageError(
                f"the trusted branch {name} is broken",
                str(git.common_dir / ref),
                "`runner doctor` says what is lost, and `runner doctor --fix` brings it back where it can",
            )
    heads = list(git.refs("refs/heads/"))
    if not heads:
        raise NoCommitsError(str(git.cwd))
    for name in heads:
        if not _is_own(git, name):
            return name.removeprefix("refs/heads/")
    raise OnlyProtocolsError(str(git.cwd))


_ID_START = pattern(r"(?=([0-9]{4,9}-))")


def _is_own(git: Git, ref: str) -> bool:
    """Return whether a branch is that of a protocol whose folder it has: its name alone may be a year and a month."""
    starts = _ID_START.findall(ref)  # `main` has none, and what it holds need not be read
    return bool(starts) and any(
        name in ref and ids.is_protocol_id(name) for name in git.starting(f"{ref}:{paths.ROOT}", starts)
    )


def _is_named(git: Git, ref: str) -> bool:
    """Return whether there is such a ref, whatever it names."""
    if (git.common_dir / ref).is_file():
        return True
    try:
        return f" {ref}\n".encode() in (git.common_dir / "packed-refs").read_bytes()
    except OSError:
        return False


def last_seen(git: Git, dirs: StateDir) -> Trusted:
    """Return the trusted branch without asking the network.

    Raises:
        RefusedError: the remote's address is no longer the pinned one, or the remote is gone.
        UsageError: there is no commit to trust yet.
        OnlyProtocolsError: all that is known here are protocols' own branches.
    """
    remote, pin = remote_name(git), read_pin(dirs)
    if remote is None and pin is not None:
        raise RefusedError(
            f"the remote {pin.remote} is no longer configured, and its {pin.branch} is the trusted branch",
            str(Path(git.common_dir) / "config"),
            f"`git remote add {pin.remote} {pin.url}` puts it back; `runner doctor --repin` trusts a local branch",
        )
    if remote is None:
        branch, commit = _local(git)
        return Trusted(commit, branch, None, f"{branch} of this clone: not protected")
    url = remote_url(git, remote)
    refuse_unprotected(git, dirs, remote, url)
    if pin is not None and (pin.url, pin.remote) != (url, remote):
        raise RefusedError(
            f"the remote {remote} is at another address now: {url}, pinned {pin.url}",
            str(Path(git.common_dir) / "config"),
            "`runner doctor --repin` trusts the new one",
        )
    if pin is not None and pin.oid and git.commit(pin.oid):
        return Trusted(pin.oid, pin.branch, remote, f"{pin.branch} of {remote}, as of {pin.time}", pin.time)
    head = git.symbolic_ref(f"refs/remotes/{remote}/HEAD")
    names = [head.removeprefix(f"refs/remotes/{remote}/")] if head else []
    for branch in [*names, "main", "master"]:
        if fetched := git.resolve(f"refs/remotes/{remote}/{branch}"):
            return Trusted(fetched, branch, remote, f"{branch} of {remote}, as last fetched by git")
    # A remote that was added and never fetched from or pushed to: nothing of it is known yet.
    branch, commit = _local(git)
    return Trusted(commit, branch, remote, f"{branch} of this clone, not protected: nothing of {remote} is known yet")
