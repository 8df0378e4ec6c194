"""What a clone lacks that its remote has: history that was cut off, objects, branches, transcripts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from runner.app.repair import Finding, Repair
from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.protocol.ids import branch_of
from runner.store import history, publishing, recovery
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.trust.rules import transcript
from runner.trust.walk import Named, Walk


def look(project: Project) -> Iterator[Repair]:
    """Yield what this clone was made without."""
    git, remote = project.git, project.trusted.remote
    if git.is_shallow():
        yield Repair(
            Finding(
                "here" if remote else "note",
                "history is cut off in this clone",
                str(git.common_dir / "shallow"),
                "what was done before is not here, so nobody can tell whether a protocol is what its history says",
                "`runner doctor --fix` fetches the rest, as `git fetch --unshallow` does; in CI: `fetch-depth: 0`",
            ),
            partial(_deepen, project) if remote else None,
        )
    if git.is_partial():
        yield Repair(
            Finding(
                "note",
                "this is a partial clone: objects are left at the remote until something needs them",
                str(git.common_dir / "config"),
                "commands fetch what they need; `runner verify` asks nobody, and may not be able to tell",
                "`runner verify --all --yes` fetches what a proof needs, `git fetch --refetch --no-filter` everything",
            )
        )
    specs = git.settings().get(f"remote.{remote}.fetch", []) if remote else []
    wanted = f"refs/heads/{branch_of(project.pattern, '0001-x')}".partition("0001-x")[0]
    if specs and not any("*" in spec and wanted.startswith(spec.lstrip("+").partition("*")[0]) for spec in specs):
        yield Repair(
            Finding(
                "note",
                f"this clone follows only some branches of {remote}: {', '.join(specs)}",
                str(git.common_dir / "config"),
                "protocols that others began are not seen",
                f"`git remote set-branches {remote} '*' && git fetch {remote}`",
            )
        )


def _deepen(project: Project) -> str:
    mirror = _mirror(project)
    if mirror is None:
        return ""
    return f"fetched the history that was cut off: {recovery.deepen(mirror)} commits had no parents here"


def _mirror(project: Project) -> Mirror | None:
    return recovery.remote(project.git, project.places, project.who)


def transcripts(project: Project, protocol: str, walk: Walk) -> Repair | None:
    """Return that the history lacks transcripts which the log names: it was not fetched, or went back behind what was seen."""
    git, ref = project.git, history.ref_of(protocol)
    try:
        for wrong in transcript.wrong(git, protocol, walk.named, git.ref(ref), project.trusted.remote, []):
            return Repair(
                Finding(
                    "integrity",
                    f"{protocol} does not verify: {wrong.text} ({wrong.rule})",
                    wrong.path,
                    "what a model said and did is not what the log names",
                    f"`runner doctor --fix {protocol}` where the remote has the right one; else in a clone that has it",
                )
            )
    except InsufficientHistoryError as error:
        remote = project.trusted.remote
        return Repair(
            Finding(
                "here",
                error.what,
                ref,
                "it can be neither shown nor verified, and what it cost is not known to a budget",
                "`runner doctor --fix` fetches it"
                if remote
                else "there is no remote; where another clone has it: "
                f"`git fetch CLONE '{ref}:{ref}'`; else it is lost, and the record stands without it",
            ),
            partial(_fetch_history, project, protocol, walk) if remote else None,
        )
    return None


def _fetch_history(project: Project, protocol: str, walk: Walk) -> str:
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
    return f"took up {ref} from {mirror.remote}: {there[:12]}"


def _lost(git: Git, protocol: str, tip: str) -> dict[str, tuple[str | None, str | None]]:
    ref = f"refs/runner/lost/{protocol}/history-{tip[:12]}"
    return {ref: (tip, git.ref(ref))}


def replaced(project: Project, protocol: str, walk: Walk, *, ask: bool = False) -> Repair | None:
    """Return that the remote's history is not one that may take the place of the one here. `ask`: look there, else as last seen.

    Raises:
        UnreachableError: `ask`, and the remote does not answer.
    """
    mirror = _mirror(project) if ask or (project.places.mirror / "HEAD").exists() else None
    if mirror is None:
        return None
    if ask:
        _fetch(project, mirror, protocol)
    theirs = mirror.refs().get(history.ref_of(protocol))
    if theirs is None or _compare(project, mirror, protocol, theirs).kind is not history.Kind.REPLACED:
        return None
    error = publishing.history_replaced(project, protocol, theirs)
    return Repair(
        Finding(
            "integrity",
            error.what,
            error.where,
            "nothing is published or taken of it, and other clones may lack its transcripts",
            f"`runner doctor --fix {protocol}` compares both with the log, and publishes the right one",
        ),
        partial(_settle_history, project, protocol, walk),
    )


def _fetch(project: Project, mirror: Mirror, protocol: str) -> None:
    branch = f"refs/heads/{branch_of(project.pattern, protocol)}"
    mirror.fetch(branch, history.ref_of(protocol), timeout=recovery.REFETCH_SECONDS)


def _compare(project: Project, mirror: Mirror, protocol: str, theirs: str) -> history.Offer:
    published = mirror.refs().get(f"refs/heads/{branch_of(project.pattern, protocol)}")
    tip = project.git.ref(project.branch(protocol)) or published or theirs
    return history.compare(project.git, protocol, theirs, tip=tip, published=published)


def _settle_history(project: Project, protocol: str, walk: Walk) -> str:
    """Publish the history here again in the place of the remote's, or take the remote's: the one that has what the log names.

    Where each has some of it, theirs is filed on top of ours. What gives way is kept under refs/runner/lost/.

    Raises:
        UnreachableError: the remote did not answer, or refused. ConflictError: it moved meanwhile.
    """
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
    """What a history is worth, the greater the better: transcripts that the log names first, then whether it can be read."""

    count: int
    is_right: bool
    is_readable: bool
    files: int
    proven: frozenset[str] = field(compare=False)


def _worth(project: Project, protocol: str, walk: Walk, tip: str) -> _Worth:
    git, told, is_right = project.git, list[tuple[Named, str]](), True
    with contextlib.suppress(InsufficientHistoryError):
        for _ in transcript.wrong(git, protocol, walk.named, tip, project.trusted.remote, told):
            is_right = False
    try:
        is_readable = bool(list(history.commits(git, protocol, tip)))
    except InsufficientHistoryError:
        is_readable = False
    proven = frozenset(oid for _, oid in told)
    return _Worth(len(proven), is_right, is_readable, len(git.files(tip)) if is_readable else 0, proven)


def _joined(project: Project, protocol: str, ours: str, theirs: str, wanted: frozenset[str]) -> str:
    """Write a history that goes on from ours and has the files `wanted` of theirs too; return its commit."""
    git = project.git
    mine = next(history.commits(git, protocol, ours))
    hers = [
        one
        for one in history.commits(git, protocol, theirs)
        if any(entry.oid in wanted for entry in git.files(one[0].oid).values())
    ]
    return history.file_again(git, protocol, [*reversed(hers), mine], ours, project.runner())
