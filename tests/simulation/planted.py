"""Bugs that are planted one at a time: the simulation has to find each of them, so it looks where such bugs would be.

Each takes one protection away, as a mistake in the code would. The seeds that found them last are in seeds.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from runner.errors import RunnerError
from runner.executor import effects
from runner.executor.journal import Journal
from runner.git import Git
from runner.protocol import transcript
from runner.protocol.plans import seconds_of
from runner.store import lease, publishing, remote
from runner.store.remote import Mirror
from runner.tools import ToolError, python

Changes = Mapping[str, tuple[str | None, str | None]]
MOST = 300  # seeds within which each is found

_push, _append, _notice, _moved_on = Mirror.push, effects.ExternalCalls.append, lease.notice, lease._moved_on


def _blind_push(self: Mirror, changes: Changes, **named: Any) -> None:
    self.fetch(*changes)
    there = self.refs()
    _push(self, {name: (new, there.get(name)) for name, (new, _) in changes.items()}, **named)


def _blind_update(self: Git, changes: Changes, reason: str) -> None:
    # git is told of no expected value: one that was read here would still protect from whoever comes after the reading.
    lines = [f"update {name} {new}" if new else f"delete {name}" for name, (new, _) in changes.items()]
    held = self._hold("refs", "update-ref", "-m", reason, "--stdin")
    held.ask("\n".join(["start", *lines, "prepare", "commit", ""]).encode())
    held.answer(), held.answer()


def _append_without_intent(self: effects.ExternalCalls, record: Any) -> Any:
    if record.kind != "intent":
        return _append(self, record)
    # What the rest of the process goes by is there, and nothing is on the disk.
    self.run.journal.rows.append(transcript.plain(record))
    return record


def _never_waits(project: Any, protocol: str, oid: str) -> float:
    _notice(project, protocol, oid)
    return float("inf")


def _without_grace(project: Any) -> float:
    return float(seconds_of(project.config.lease.ttl))


def _takes_without_intents(clone: Any, oid: str, ref: str) -> tuple[Any, Mapping[str, Any]]:
    return _read(clone, oid, ref)[0], {}


_read = lease._read


def _drops_all(project: Any, held: Any, left: Any, keep: bool) -> Changes:
    return _moved_on(project, held, {}, keep)


def _unfenced(session: Any, changes: Changes, *, keep: bool = False) -> None:
    held, mirror = session.lease, session.mirror
    mirror.push(changes)
    if not keep:
        with contextlib.suppress(RunnerError):
            _push_lease(session, {}, keep=False)
        lease._let_go(session, held)


_push_lease = lease.push


def _unsynced(self: Journal, lines: bytes) -> None:
    self.path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(handle, self._length)
        os.pwrite(handle, lines, self._length)
    finally:
        os.close(handle)


Planted = tuple[tuple[object, str, Callable[..., Any]], ...]
PLANTED: Mapping[str, Planted] = {
    "a call is not announced before it begins": ((lease, "announce", lambda session, intent: None),),
    "a push moves a ref wherever it is": ((Mirror, "push", _blind_push),),
    "a lost answer of a tool is taken for a failure": ((python, "OutcomeUnknownError", ToolError),),
    "people's commits are not carried over": ((publishing, "carry", lambda session, commit, onto, protocol: onto),),
    "a local ref moves wherever it is": ((Git, "update_refs", _blind_update),),
    "a push that moved nothing is taken for done": ((remote, "_up_to_date", lambda out: []),),
    "an effect is not in the journal before it begins": ((effects.ExternalCalls, "append", _append_without_intent),),
    "the lease is not looked at before something begins": ((lease, "ensure", lambda session: None),),
    "an announcement does not look at what the branch says": ((lease, "_concerns", lambda *about: False),),
    "the torn end of a journal is taken for damage": ((Journal, "_is_torn", lambda self, data, at: False),),
    "a lease is taken over at once": ((lease, "notice", _never_waits),),
    "a lease is taken over without grace": ((lease, "_patience", _without_grace),),
    "who takes a lease over forgets what it announced": ((lease, "_read", _takes_without_intents),),
    "who gives a lease up drops what it announced": ((lease, "_moved_on", _drops_all),),
    "work is published without the lease": ((lease, "push", _unfenced),),
    "a journal is not waited for": ((Journal, "_put", _unsynced),),
}


@contextlib.contextmanager
def planted(what: str) -> Iterator[None]:
    """Have the bug in the code while the block lasts."""
    with contextlib.ExitStack() as stack:
        for where, name, wrong in PLANTED[what]:
            stack.enter_context(mock.patch.object(where, name, wrong))
        yield
