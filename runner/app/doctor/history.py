"""The history refs of protocols: transcripts that were not fetched, and histories that another push replaced on the remote."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runner.app.doctor import REFETCH_SECONDS, Clone, Examined, Finding
from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.protocol.ids import branch_of
from runner.store import history, publishing
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.trust.rules import transcript
from runner.trust.walk import Named, Walk


def find(one: Examined) -> Iterator[Finding]:
    """Yield that transcripts are missing here, or else that the remote's history may not replace the one here."""
    if one.is_adoptable or not one.judged.ok:
        return
    lacking = transcripts(one)
    one.has_transcripts = lacking is None
    found = lacking or replaced(one)
    if found is not None:
        yield found


def transcripts(one: Examined) -> Finding | None:
    """Return that the history lacks transcripts that the log names: it was not fetched, or went back."""
    git, ref, remote = one.project.git, history.ref_of(one.protocol), one.project.trusted.remote
    try:
        for wrong in transcript.wrong(git, one.protocol, one.judged.walk.named, git.ref(ref), remote, []):
            return Finding(
                "integrity",
                f"{one.protocol} does not verify: {wrong.text} ({wrong.rule})",
                wrong.path,
                "the transcript is not the one that the log names",
                f"`runner doctor --fix {one.protocol}` where the remote has the right one; else in a clone that has it",
            )
    except InsufficientHistoryError as error:
        elsewhere = f"there is no remote; where another clone has it: `git fetch CLONE '{ref}:{ref}'`"
        return Finding(
            "here",
            error.what,
            ref,
            "it can be neither shown nor verified, and a budget does not know what it cost",
            "`runner doctor --fix` fetches it" if remote else f"{elsewhere}; else it is lost, and the record remains",
            fetch if remote else None,
        )
    return None


def fix(one: Examined, about: Callable[[Examined], str]) -> str:
    """Fetch a history, or publish the right one: what the finding names."""
    return about(one)


def _mirror(project: Project) -> Mirror | None:
    return Clone(project.git, project.places, project.who).remote()


def fetch(one: Examined) -> str:
    """Fetch the history of a protocol, where the remote's has more of the transcripts that the log names."""
    project, protocol, walk = one.project, one.protocol, one.judged.walk
    git, mirror, ref = project.git, _mirror(project), history.ref_of(protocol)
    if mirror is None:
        return ""
    _fetch(project, mirror, protocol)
    here, there = git.ref(ref), mirror.refs().get(ref)
    if there is None or there == here:
        return ""
    changes: dict[str, tuple[str | None, str | None]] = {ref: (there, here)}
    if here is not None and not history.follows(git, protocol, here, there):
        if _worth(project, protocol, walk, there) <= _worth(project, protocol, walk, here):
            return ""
        changes |= _lost(git, protocol, here)
    git.update_refs(changes, "runner: fetched")
    return f"fetched {ref} from {mirror.remote}: {there[:12]}"


def _lost(git: Git, protocol: str, tip: str) -> dict[str, tuple[str | None, str | None]]:
    ref = f"refs/runner/lost/{protocol}/history-{tip[:12]}"
    return {ref: (tip, git.ref(ref))}


def replaced(one: Examined, *, ask: bool = False) -> Finding | None:
    """Return that the remote's history may not replace the one here. `ask`: fetch it, else as it was last seen.

    Raises:
        UnreachableError: `ask`, and the remote does not answer.
    """
    project, protocol = one.project, one.protocol
    mirror = _mirror(project) if ask or (project.places.mirror / "HEAD").exists() else None
    if mirror is None:
        return None
    if ask:
        _fetch(project, mirror, protocol)
    theirs = mirror.refs().get(history.ref_of(protocol))
    if theirs is None or _compare(project, mirror, protocol, theirs).kind is not history.Kind.REPLACED:
        return None
    error = publishing.history_replaced(project, protocol, theirs)
    return Finding(
        "integrity",
        error.what,
        error.where,
        "nothing of it is published or fetched, and other clones may lack its transcripts",
        f"`runner doctor --fix {protocol}` compares both with the log, and publishes the right one",
        settle,
    )


def _fetch(project: Project, mirror: Mirror, protocol: str) -> None:
    branch = f"refs/heads/{branch_of(project.pattern, protocol)}"
    mirror.fetch(branch, history.ref_of(protocol), timeout=REFETCH_SECONDS)


def _compare(project: Project, mirror: Mirror, protocol: str, theirs: str) -> history.Offer:
    published = mirror.refs().get(f"refs/heads/{branch_of(project.pattern, protocol)}")
    tip = project.git.ref(project.branch(protocol)) or published or theirs
    return history.compare(project.git, protocol, theirs, tip=tip, published=published)


def settle(one: Examined) -> str:
    """Publish the history here again in place of the remote's, or fetch the remote's: the one that has what the log names.

    Where each has some of it, theirs is added on top of ours. The replaced one is kept under refs/runner/lost/.

    Raises:
        UnreachableError: the remote did not answer, or refused. ConflictError: it moved meanwhile.
    """
    project, protocol, walk = one.project, one.protocol, one.judged.walk
    git, ref, mirror = project.git, history.ref_of(protocol), _mirror(project)
    if mirror is None:
        return ""
    _fetch(project, mirror, protocol)
    ours, theirs = git.ref(ref), mirror.refs().get(ref)
    if ours is None or theirs is None or _compare(project, mirror, protocol, theirs).kind is not history.Kind.REPLACED:
        return ""
    mine, hers = _worth(project, protocol, walk, ours), _worth(project, protocol, walk, theirs)
    new = ours if mine >= hers else theirs
    more = hers.proven - mine.proven
    if more and mine.proven - hers.proven:
        new = _joined(project, protocol, ours, theirs, more)
    gone = ours if new == theirs else theirs
    lost = _lost(git, protocol, gone)
    git.update_refs(lost, "runner: lost")  # before the remote lets go of it
    if new != theirs:
        mirror.push({ref: (new, theirs)})
    if new != ours:
        git.update_refs({ref: (new, ours)}, "runner: settled")
    at = next(iter(lost))
    if new == theirs:
        return f"{protocol}: took the history that {mirror.remote} has, {theirs[:12]}; the one here is kept at {at}"
    return f"{protocol}: published its history again, {new[:12]}; {mirror.remote} had {theirs[:12]}, kept at {at}"


@dataclass(frozen=True, slots=True, order=True)
class _Worth:
    """The worth of a history, the greater the better: transcripts that the log names first, then whether it can be read."""

    count: int
    is_right: bool
    is_readable: bool
    files: int
    proven: frozenset[str] = field(compare=False)


def _worth(project: Project, protocol: str, walk: Walk, tip: str) -> _Worth:
    git, found, is_right = project.git, list[tuple[Named, str]](), True
    with contextlib.suppress(InsufficientHistoryError):
        for _ in transcript.wrong(git, protocol, walk.named, tip, project.trusted.remote, found):
            is_right = False
    try:
        is_readable = bool(list(history.commits(git, protocol, tip)))
    except InsufficientHistoryError:
        is_readable = False
    proven = frozenset(oid for _, oid in found)
    return _Worth(len(proven), is_right, is_readable, len(git.files(tip)) if is_readable else 0, proven)


def _joined(project: Project, protocol: str, ours: str, theirs: str, wanted: frozenset[str]) -> str:
    """Write a history that continues ours and has the files `wanted` of theirs too; return its commit."""
    git = project.git
    mine = next(history.commits(git, protocol, ours))
    hers = [
        one
        for one in history.commits(git, protocol, theirs)
        if any(entry.oid in wanted for entry in git.files(one[0].oid).values())
    ]
    return history.file_again(git, protocol, [*reversed(hers), mine], ours, project.runner())
