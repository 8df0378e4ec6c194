"""`runner doctor`: find faults of the machine, the clone and its protocols, and fix them.

`checks` has the table of checks; each other module holds the checks of one subject, with their texts and their fixes.
Looking changes nothing. A fix loses nothing: what it replaces is kept under `runner/damaged/` or `refs/runner/lost/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from runner.errors import RunnerError
from runner.executor import load
from runner.git import GitError
from runner.store import trusted
from runner.store.environment import Clone, Environment
from runner.store.project import Project, Session
from runner.store.remote import Mirror
from runner.trust import verify
from runner.trust.walk import Report

REFETCH_SECONDS = 3600.0
FindingKind = Literal["here", "integrity", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind`: `here` is something missing or in the way on this machine, `integrity` a record that contradicts its history,
    `note` something to know. `consequence`: what follows; `command`: what helps; `about`: what the check's fix needs to know,
    None where nothing fixes it."""

    kind: FindingKind
    what: str
    where: str
    consequence: str
    command: str
    about: Any = None


fault, remark, contradiction = partial(Finding, "here"), partial(Finding, "note"), partial(Finding, "integrity")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine without a repository. `folders`: those that the runner writes in."""

    env: Environment
    folders: tuple[Path, ...]


def pinned_remote(clone: Clone) -> Mirror | None:
    """Return a clone's remote, if there is one and its address is the pinned one."""
    name, pin = trusted.remote_name(clone.git), trusted.read_pin(clone.dirs)
    if name is None or (pin is not None and (pin.remote, pin.url) != (name, trusted.remote_url(clone.git, name))):
        return None
    return Mirror.of(clone)


def has(clone: Clone, oid: str) -> bool:
    """Return whether an object can be read."""
    try:
        return clone.git.object(oid) is not None
    except GitError:
        return False


def put_aside(clone: Clone, path: Path) -> None:
    """Move a broken file to `runner/damaged/`."""
    damaged = clone.dirs.damaged
    damaged.mkdir(parents=True, exist_ok=True)
    name = path.parent.name + path.name if len(path.parent.name) == 2 else path.name
    aside, count = damaged / name, 1
    while aside.exists():
        aside, count = damaged / f"{name}.{count}", count + 1
    shutil.move(path, aside)  # the objects may be on a disk of their own


@dataclass(frozen=True, slots=True)
class Selection:
    """A project, and the id of the one protocol that was asked about; None: all of them."""

    session: Session
    only: str | None


class Examined:
    """A protocol whose branch is here, and what verify says of it at `tip`. `asks`: the remote is asked what it has, and its history
    settled with it; `moved`: the branch is not at `tip`, but at a commit of the base that merged it."""

    def __init__(self, session: Session, protocol: str, tip: str, *, asks: bool = False, moved: bool = False) -> None:
        self.session, self.protocol, self.tip, self.asks, self.moved = session, protocol, tip, asks, moved
        self.has_transcripts = True  # `transcripts` says so otherwise

    @cached_property
    def judged(self) -> Report:
        """What verify says of the branch."""
        return verify.verify(self.session.git, self.protocol, self.tip, self.session.project.trusted)

    @cached_property
    def old(self) -> str | None:
        """The commit that verified here last, where the branch's history no longer has it."""
        return None if self.moved else rewritten_from(self.session.project, self.protocol, self.tip)

    @cached_property
    def is_adoptable(self) -> bool:
        """Whether the history was rewritten, and is adopted as a merge into the old one."""
        old = self.old
        return old is not None and load.is_adoptable(self.session, self.protocol, self.judged, old)


def rewritten_from(project: Project, protocol: str, tip: str) -> str | None:
    """Return the commit that verified here last where the branch's history no longer has it, else None."""
    known, here = project.checkpoint_and_tip(protocol)
    tip = here or tip
    if known is None or known == tip:
        return None
    if project.git.commit(known) is None:
        return known
    return None if verify.has(project.git, protocol, tip, known) else known


Scope = TypeVar("Scope")


class Check(NamedTuple, Generic[Scope]):
    """A row of the table: `find` yields the faults in its scope, `fix` repairs a finding that it yielded.

    `fix` is called with the scope and with `Finding.about`; it returns what it did, empty where nothing was possible. `so`: what
    follows where `find` fails, which is a finding then; empty: no later check can work.
    """

    name: str
    find: Callable[[Scope], Iterator[Finding]]
    fix: Callable[[Scope, Any], str] | None = None
    so: str = ""


def of_error(error: RunnerError, consequence: str) -> Finding:
    """Return the finding of an error that says itself what helps."""
    return fault(error.what, error.where, consequence, error.hint)
