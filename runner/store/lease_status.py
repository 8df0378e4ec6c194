"""Who is at work on a protocol in another clone, as the remote was last seen: read from the mirror's files, without the network.

For display only. Whether a lease may be taken is `runner.store.lease`'s to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runner.errors import InsufficientHistoryError, IntegrityError
from runner.lines import lines_of
from runner.store.environment import StateDir
from runner.store.project import Project
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.protocol.lease_file import Lease

_REFS = "refs/there/runner/leases"


@dataclass(frozen=True, slots=True)
class Away:
    """Who works elsewhere. `since`: when the lease was taken; `seen`: when the remote was last asked, or None: that is not known."""

    who: str
    since: str
    seen: float | None


def leases(places: StateDir) -> dict[str, str]:
    """Return protocol to the commit of its lease, of those that the remote was last seen to have. No git is started."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in lines_of((places.mirror / "packed-refs").read_text()):
            oid, _, name = line.partition(" ")
            if name.startswith(f"{_REFS}/"):
                found[name.removeprefix(f"{_REFS}/")] = oid
    with contextlib.suppress(OSError):
        for file in (places.mirror / _REFS).iterdir():
            if file.suffix != ".lock":
                found[file.name] = file.read_text().strip()
    return found


def at_work(project: Project, protocol: str, there: Mapping[str, str]) -> Away | None:
    """Return who works on a protocol elsewhere by the leases that are `there`; None where nobody does.

    One that has run out by this clock is of nobody who is known to work, and one that this clone took is no one else's.
    """
    oid = there.get(protocol)
    if oid is None:
        return None
    git, where = project.git, f"refs/runner/leases/{protocol}"
    with contextlib.suppress(IntegrityError, InsufficientHistoryError):
        words = _words(project, oid, where)
        now = datetime.fromtimestamp(int(project.who.now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if words is None or words.expires is None or words.expires < now or _is_ours(project, protocol, words.nonce):
            return None
        since = oid
        commit = git.commit(oid)
        while commit is not None:
            since = commit.oid
            parent = _words(project, commit.parents[0], where) if commit.parents else None
            commit = git.commit(commit.parents[0]) if parent is not None and parent.nonce == words.nonce else None
        first = git.commit(since)
        then = int(first.committer.rpartition(b"> ")[2].split()[0]) if first else 0
        begun = datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Away(words.who(), begun, _seen(project.places, protocol))
    return None


def _seen(places: StateDir, protocol: str) -> float | None:
    times = []
    for file in (places.looked(protocol), places.looked("*")):
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times, default=None)


def _words(project: Project, oid: str, where: str) -> Lease | None:
    from runner.protocol import lease_file

    data = project.git.blob(f"{oid}:{lease_file.FILE}")
    return lease_file.parse(data, where) if data is not None and len(data) <= lease_file.SIZE else None


def _is_ours(project: Project, protocol: str, nonce: str) -> bool:
    try:
        noted = lines_of(project.places.lease(protocol).read_text())
    except OSError:
        return False
    return any(line.split(" ")[0] == nonce for line in noted)
