"""Why the commits of a protocol are not published: the remote's rules refuse a file in them, or its id is taken.

Clones that create protocols without publishing give the same number to two of them, and with one title the same id. Their genesis
tells them apart; neither ever replaces the other, and the one that is published second is refused until it has another number
(design §2, ids).
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass

from runner.errors import RefusedError, RunnerError
from runner.git import BLOB, EXECUTABLE, Commit, Git
from runner.protocol import log
from runner.store import history, record, worktree
from runner.store.environment import write_atomically
from runner.store.project import Project, Session
from runner.store.remote import PushRefusedError

_MOST_SAID = 4  # lines of the remote's that are shown


@dataclass(frozen=True, slots=True)
class _File:
    """A file that a push brings. `commit`: the branch's that brings it; `before`: the revision of the last transition below that."""

    path: str
    size: int
    commit: Commit
    before: int | None


def note(project: Project, protocol: str, tip: str) -> None:
    """Remember that the remote refused this branch: `runner undo` then removes the unpublished commits from it."""
    with contextlib.suppress(OSError):
        write_atomically(project.dirs.refused(protocol), f"{tip}\n".encode())


def forget(project: Project, protocol: str) -> None:
    """Forget it: a push of the protocol went through."""
    with contextlib.suppress(OSError):
        project.dirs.refused(protocol).unlink(missing_ok=True)


def is_noted(project: Project, protocol: str) -> bool:
    """Return whether the remote refused the commits here."""
    return project.dirs.refused(protocol).exists()


def explain(project: Project, protocol: str, error: PushRefusedError, new: str, old: str | None) -> PushRefusedError:
    """Return the error with the step, file and commit that it is about, as far as that is known, and the way out.

    `new`: the refused commit; `old`: the one that the remote has.
    """
    git, branch = project.git, project.branch(protocol)
    try:
        found = _files(git, protocol, new, old or project.trusted.commit)
    except RunnerError:  # the history is cut off here, or broken: the remote's own words have to do
        return error
    if not found:
        return error
    said = "\n".join(error.said)
    named = [one for one in found if re.search(rf"(?<![\w./-]){re.escape(one.path)}(?![\w/-]|\.\w)", said)]
    one = max(named or found, key=lambda file: len(file.path) if named else file.size)
    step = _step(git, protocol, one)
    by = f"which {step} made" if step else f"which {_author(one.commit)} committed"
    what = error.what.partition(": ")[2] if not error.said else " ".join(error.said[:_MOST_SAID])
    guess = "" if named else "it names no file; the largest that is new is "
    remote = project.trusted.remote
    tip = git.ref(branch) or new
    if one.before is None:
        hint = f"take it out of the plan, `runner new` with that, and give this one up: `git update-ref -d {branch}`"
    elif step:
        hint = (
            f"`runner undo {protocol}@{one.before}` takes out of branch and history again what {remote} does not have"
        )
    else:
        parent = one.commit.parents[0]
        back = worktree.way_back(git, branch, tip, parent)
        hint = f"`{back}` goes back to before it, and `runner doctor --fix {protocol}` adopts that"
    others = ""
    if project.setting("publish") == "always":
        others = "; until it is published, others may do the same steps"
    return PushRefusedError(
        f"{remote} refused the push: {what}; {guess}{one.path} ({_size(one.size)}), {by} in commit {one.commit.oid[:12]}",
        error.where,
        f"{hint}; or ask who keeps {remote}. Nothing is lost{others}",
        error.said,
    )


def _files(git: Git, protocol: str, new: str, old: str) -> list[_File]:
    """Return the files that the branch's commits bring which `old` does not have, with those that its history files beside them."""
    chain, at = record.since(git, new, old)
    before = int(record.row(git, protocol, at)["revision"]) or None if at is not None else None
    found: list[_File] = []
    revisions: dict[str, int | None] = {}
    for commit in chain:
        revisions[commit.oid] = before
        parent = git.commit(commit.parents[0]) if commit.parents else None
        found += _of(git, parent.tree if parent else None, commit.tree, commit, before)
        trailers = log.parse_message(commit.message)
        if trailers is not None and trailers.protocol == protocol:
            before = trailers.revision
    filed = git.ref(history.ref_of(protocol))
    seen: set[str] = set()
    for entry, beside in history.commits(git, protocol, filed) if filed is not None else ():
        owner = git.commit(beside) if beside in revisions else None
        if owner is not None and beside not in seen:
            seen.add(beside)
            parent = git.commit(entry.parents[0]) if entry.parents else None
            old_tree = parent.tree if parent is not None and parent.message == entry.message else None
            found += _of(git, old_tree, entry.tree, owner, revisions[beside])
    return found


def _of(git: Git, old: str | None, new: str, commit: Commit, before: int | None) -> list[_File]:
    changed = {
        path: entry.oid
        for path, (_, entry) in git.changed(old, new).items()
        if entry is not None and entry.mode in (BLOB, EXECUTABLE)
    }
    sizes = git.sizes(list(changed.values()))
    return [_File(path, size or 0, commit, before) for path, size in zip(changed, sizes, strict=True)]


def _step(git: Git, protocol: str, one: _File) -> str:
    """Return the step (`02-model`) whose transition a commit is; empty where it is a person's."""
    trailers = log.parse_message(one.commit.message)
    if trailers is None or trailers.protocol != protocol:
        return ""
    steps = record.row(git, protocol, one.commit.oid)["steps"]
    slugs = [event.partition(" ")[2] for event in trailers.events]
    slug = next((slug for slug in slugs if slug in steps), "")
    return f"{steps[slug]['place']:02d}-{slug}" if slug else protocol


def _author(commit: Commit) -> str:
    return "".join(filter(str.isprintable, commit.author.decode("utf-8", "replace").partition(" <")[0]))


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


# --- another protocol with the same id -------------------------------------------------------------------------------


class ClashError(RefusedError):
    """Another protocol with the same id is published."""


def genesis(git: Git, protocol: str, tip: str) -> str | None:
    """Return the genesis of the protocol's record at a commit: by the newest of its history that can be read; None without one."""
    found = record.row(git, protocol, tip).get("genesis")
    if found is None:  # damaged at the tip, or no protocol at all
        rows = (record.row(git, protocol, oid).get("genesis") for oid in git.first_parents(tip))
        found = next(filter(None, rows), None)
    return str(found) if found is not None else None


def clash(session: Session, protocol: str) -> tuple[str, str] | None:
    """Return (where, commit) of another protocol with this id, on the remote as it was last looked at or merged into the trusted
    branch; None where there is none."""
    git, trusted, branch = session.git, session.project.trusted, session.project.branch(protocol)
    here = git.ref(branch)
    if here is None or trusted.remote is None:
        return None
    name = branch.removeprefix("refs/heads/")
    there = session.above(branch) if session.mirror else git.ref(session.project.tracking(branch))
    ours: str | None = None
    for where, tip in ((f"{name} of {trusted.remote}", there), (trusted.branch, trusted.commit)):
        if tip in (None, here):
            continue
        assert tip is not None
        theirs = record.row(git, protocol, tip).get("genesis")
        ours = ours or genesis(git, protocol, here) if theirs else None
        if ours and theirs and theirs != ours:
            return where, tip
    return None


def clash_error(project: Project, protocol: str, there: tuple[str, str]) -> ClashError:
    """Return the error for a clash, with the one command that ends it."""
    here, (where, tip) = project.git.ref(project.branch(protocol)) or "", there
    hint = f"`runner fork --renumber {protocol}` gives yours another number; completed steps stay completed"
    cwd = os.path.realpath(project.git.cwd)
    trees = project.git.checked_out(project.branch(protocol))
    if any(os.path.commonpath([cwd, os.path.realpath(tree.path)]) == os.path.realpath(tree.path) for tree in trees):
        hint = f"in {project.git.worktrees()[0].path}: {hint}"  # the worktree goes, and nobody may stand in it
    return ClashError(
        f"{project.trusted.remote} has another protocol with the id {protocol}; yours is not published, and nothing was replaced",
        f"here {here[:12]}, {where} {tip[:12]}",
        hint,
    )


def refuse_clash(session: Session, protocol: str) -> None:
    """Refuse where another protocol with this id is published.

    Raises:
        ClashError: with the command that gives this one another number.
    """
    there = clash(session, protocol)
    if there is not None:
        raise clash_error(session.project, protocol, there)
