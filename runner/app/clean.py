"""Remove what finished protocols leave on this machine: worktrees, workspaces, journals, branches; and environments that nothing uses.

Only what git holds goes: a worktree whose files are all in commits, a journal whose records the history has filed, a branch whose
commits the base or the history has. A workspace is removed without a look: its work was committed, and a step may have left files that
git cannot read. Everything that is kept is named, with the reason. The record does not change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner import beneath
from runner.errors import ConflictError, HeldError, InTheWayError, RefusedError, RunnerError
from runner.executor import environments
from runner.executor.journal import Journal
from runner.git import Git, Worktree
from runner.lines import few, lines_of
from runner.protocol import ids, paths
from runner.protocol.state import ENDED
from runner.store import history, locks, lookup, protocol_worktree, record, trusted, workspace, worktree
from runner.store.environment import matching
from runner.store.project import Project


@dataclass(frozen=True, slots=True)
class Item:
    """Something that may be taken away. `size`: bytes on the disk; `why`: why it is left, or empty. An environment has no protocol."""

    protocol: str
    kind: Literal["worktree", "workspace", "branch", "journal", "environment"]
    name: str
    size: int
    why: str


def look(project: Project, only: str | None = None) -> list[Item]:
    """Return what finished protocols have here; with `only`, what that one has, which may be open.

    Raises:
        HeldError: `only` is being worked on.
    """
    if only is not None:
        holder = locks.is_held(project.dirs.lock(only))
        if holder:
            raise _held(project, only, holder)
        return _of(project, only, project.protocols().get(only), named=True, held=None)
    found = _of_planning(project)
    here = project.protocols()
    for protocol, tip in here.items():
        found += _of(project, protocol, tip, named=False, held=locks.is_held(project.dirs.lock(protocol)))
    for protocol in dict.fromkeys(protocol for protocol, _ in with_something(project)):
        if protocol not in here:
            held = locks.is_held(project.dirs.lock(protocol))
            found += _of(project, protocol, None, named=False, held=held)
    return found + [Item("", "environment", str(one), beneath.size(one), "") for one in environments.unused(project)]


def remove(project: Project, items: list[Item], *, named: bool) -> Iterator[Item]:
    """Take the items away, one after the other, and give each back as it ended: `why` is empty where it is gone.

    Raises:
        HeldError: with `named`, if a runner has started to work on the protocol.
    """
    for item in items:
        try:
            yield dataclasses.replace(item, why=item.why or _remove(project, item, named))
        except HeldError as error:
            if named:
                raise
            yield dataclasses.replace(item, why=error.what)


def _held(project: Project, protocol: str, holder: str) -> HeldError:
    return HeldError(
        f"{protocol} is held by another runner: {holder}", str(project.dirs.lock(protocol)), "wait for it, or stop it"
    )


def _remove(project: Project, item: Item, named: bool) -> str:
    """Take an item away; return why it is left, or nothing."""
    path, protocol = Path(item.name), item.protocol
    if item.kind == "environment":
        return _remove_folder(path) if path in environments.unused(project) else "a step uses it by now"
    with locks.hold(project.dirs.lock(protocol or path.name), project.env, what=protocol or "a plan"):
        if not protocol:
            return _remove_folder(path)
        tip = project.protocols().get(protocol)
        # A question may have stood between the look and this: what holds now decides.
        there = _of(project, protocol, tip, named=named, held=None)
        now = [one for one in there if (one.kind, one.name) == (item.kind, item.name)]
        if not now or now[0].why:
            return now[0].why if now else "it is gone already"
        try:
            match item.kind:
                case "worktree":
                    return _remove_worktree(project.git, path)
                case "branch":
                    project.git.update_refs({project.branch(protocol): (None, tip)}, "runner: clean")
                case "journal":
                    shutil.rmtree(path)
                case _:
                    return _remove_folder(path)
        except ConflictError as error:
            return error.what
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
    return ""


def _remove_worktree(git: Git, path: Path) -> str:
    code, _, err = git.try_run("worktree", "remove", "--force", str(path), config=worktree.conversions(git))
    if code:
        return lines_of(err)[0] if err else f"git worktree remove: exit {code}"
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # where it was the last one
    return ""


def _remove_folder(folder: Path) -> str:
    """Remove a folder that commands wrote; return why it is left, or nothing."""
    try:
        beneath.remove(folder)
    except OSError as error:
        return f"its files cannot be removed: {error.strerror}; `sudo rm -r {shlex.quote(str(folder))}` does"
    return ""


# --- what there is -----------------------------------------------------------------------------------------------------


def _kept(git: Git, tree: Worktree) -> str:
    kept = protocol_worktree.keeps(git, tree)
    return f"{kept.why}; {kept.command}" if kept else ""


def _of(project: Project, protocol: str, tip: str | None, *, named: bool, held: str | None) -> list[Item]:
    git = project.git
    row = record.row(git, protocol, tip or project.trusted.commit)
    ended = row["status"] in ENDED or (tip is None and row["status"] == "unreadable")
    merged = _base_with(project, protocol, tip, str(row.get("base", ""))) if tip else None
    if not (ended or named):
        return []
    waits = ended and not named and tip is not None and row["status"] == "completed" and merged is None
    why = f"held by {held}" if held else f"{protocol} waits for its merge" if waits else ""
    found: list[Item] = []
    branch = project.branch(protocol)
    if ended:
        found += [
            Item(protocol, "worktree", str(tree.path), beneath.size(tree.path), why or _kept(git, tree))
            for tree in (git.checked_out(branch) if tip else [])
        ]
    space = _workspace(project, protocol)
    if os.path.lexists(space.root):  # what is worth keeping is in commits: nobody looks whether git could take the rest
        found.append(Item(protocol, "workspace", str(space.root), beneath.size(space.root), why))
    for root in matching(space.root.parent, f"{glob.escape(protocol)}.shell-*"):  # each is removed as its shell ends
        is_open = locks.is_held(project.dirs.lock(root.name)) is not None
        found.append(
            Item(protocol, "workspace", str(root), beneath.size(root), "a shell is open in it" if is_open else why)
        )
    journal = project.dirs.journal(protocol)
    if ended and journal.is_dir():
        found.append(Item(protocol, "journal", str(journal), beneath.size(journal), why or _unfiled(project, protocol)))
    if git.ref(branch) is None:  # what follows is about the branch here, not about the remote's
        return found
    kept = git.ref(history.ref_of(protocol))
    if ended and tip and merged and (git.is_ancestor(tip, merged) or (kept and git.is_ancestor(tip, kept))):
        left = [item for item in found if item.kind == "worktree" and item.why]
        if git.symbolic_ref("HEAD", git.common_dir) == branch:
            left_why = "it is checked out"
        else:
            left_why = f"its worktree is left: {left[0].name}" if left else ""
        found.append(Item(protocol, "branch", branch.removeprefix("refs/heads/"), 0, why or left_why))
    elif ended and tip and merged and not why:
        stays = f"its last commits are neither in {row['base']} nor in its history"
        found.append(Item(protocol, "branch", branch.removeprefix("refs/heads/"), 0, stays))
    elif row["status"] == "cancelled" and tip and (found or named):
        stays = f"it was cancelled, and its base does not have its commits; {_gives_up(branch)}"
        found.append(Item(protocol, "branch", branch.removeprefix("refs/heads/"), 0, why or stays))
    return found


def _of_planning(project: Project) -> list[Item]:
    """Return what models answered to commands that made no protocol (no history has it, so it stays), and where they looked."""
    why = "answers of a model to a command that made no protocol; no history has them, and the same command resumes from them"
    spaces = matching(_workspaces(project), "planning-*")
    held = {one: locks.is_held(project.dirs.lock(one.name)) for one in spaces}
    return [
        *(Item("", "journal", str(at), at.stat().st_size, why) for at in matching(project.dirs.planning, "*.jsonl")),
        *(
            Item("", "workspace", str(at), beneath.size(at), "a plan is written in it" if held[at] else "")
            for at in spaces
        ),
    ]


def _gives_up(branch: str) -> str:
    """Return the command that deletes the branch of a cancelled protocol with its work, for people."""
    return f"`git branch -D {shlex.quote(branch.removeprefix('refs/heads/'))}` gives up its branch"


def _unfiled(project: Project, protocol: str) -> str:
    """Return why the journals of a protocol have to stay, or nothing where its history has every record of theirs."""
    lost = []
    for path in matching(project.dirs.journal(protocol), "**/*.jsonl"):
        filed = history.read(project.git, protocol, history.run_file(path.stem)) or b""
        try:
            if not filed.startswith(Journal(path).transcript()):
                lost.append(path.name)
        except RunnerError as error:
            return error.what
    return f"its history does not have {few(lost)}" if lost else ""


def _base_with(project: Project, protocol: str, tip: str, base: str) -> str | None:
    """Return the base's ref, here or as last fetched, that holds the protocol's end, by its commits or by its record."""
    git = project.git
    remote = trusted.remote_name(git)
    state = f"{paths.folder(protocol)}/{paths.STATE}"
    for ref in (f"refs/heads/{base}", f"refs/remotes/{remote}/{base}"):
        at = git.ref(ref) if base else None
        if at and (git.is_ancestor(tip, at) or git.blob(f"{at}:{state}") == git.blob(f"{tip}:{state}")):
            return ref
    return None


def taken(project: Project) -> int:
    """Return how many bytes the runner's folders have on the disk: worktrees, workspaces, environments and journals."""
    trees = [tree.path for tree in project.git.worktrees()[1:] if ids.is_protocol_id(tree.path.name)]
    own = {project.dirs.own, _workspaces(project), project.dirs.beside}
    return sum(map(beneath.size, (*own, *trees)))


def _workspace(project: Project, protocol: str) -> workspace.Workspace:
    return workspace.place(project, protocol, project.config.workspace.path)


def _workspaces(project: Project) -> Path:
    """Return the folder that has a workspace for each protocol, and for each plan that is written."""
    return _workspace(project, "0000-none").root.parent


def with_something(project: Project) -> list[tuple[str, Path]]:
    """Return (protocol, folder) of the workspaces and journals that are here, whatever became of the branches."""
    folders = (_workspaces(project), project.dirs.journal("0000-none").parent)
    found = [path for folder in folders for path in matching(folder, "*")]
    return sorted((path.name, path) for path in found if ids.is_protocol_id(path.name))


# --- a protocol that nothing was done for -----------------------------------------------------------------------------------

# What people and the runner may have recorded where no step was started.
_PLANNING = {
    "created",
    "forked",
    "planned",
    "plan-edited",
    "approval-asked",
    "paused",
    "resumed",
    "cancelled",
    "step-cancelled",
}


def discard(project: Project, protocol: str, *, check_only: bool = False) -> list[str]:
    """Remove a protocol for which nothing was done: branch, number, worktree and workspace; return their names. `check_only`: only
    say what would go.

    Raises:
        RefusedError: something was done, or others may have it. InTheWayError: its worktree has something that git does not hold.
        HeldError: a runner has it.
    """
    git, branch, number = project.git, project.branch(protocol), lookup.typed(project, protocol)

    def refuse(what: str, hint: str) -> RefusedError:
        return RefusedError(f"{protocol} is not discarded: {what}", branch, hint)

    with locks.hold(project.dirs.lock(protocol), project.env, what=protocol):
        tip, cancels = git.ref(branch), f"`runner cancel {number}` ends it, and its history stays"
        shows = f"`runner show {number}` shows it"
        if tip is not None and record.row(git, protocol, tip)["status"] in ENDED:
            has_folders = git.checked_out(branch) or os.path.lexists(_workspace(project, protocol).root)
            cleans = f"`runner clean {number}` removes its folders" if has_folders else _gives_up(branch)
            cancels = f"{cleans}; its history stays"
        remote = project.trusted.remote
        if git.tree(f"{project.trusted.commit}:{paths.folder(protocol)}") is not None:
            hint = f"`runner clean {number}` removes what is left of it here" if tip is not None else shows
            raise refuse(f"it is merged in {project.trusted.branch}, which has its record", hint)
        if tip is None:
            raise refuse("it has no branch here", shows)
        if remote and git.ref(project.tracking(branch)) is not None:
            raise refuse(f"{remote} has it, and others may work on it", cancels)
        entries = record.events(git, protocol, tip)
        done = next((one for one in entries if one.event not in _PLANNING), None)
        if done is not None:
            raise refuse(
                f"it was run: `{done.event} {done.subject}` is revision {done.revision} of its record", cancels
            )
        start = str(entries[0].fields.get("start"))
        own = f"{paths.folder(protocol)}/"
        if git.resolve(start) is None or any(not path.startswith(own) for path in git.changed(start, tip)):
            raise refuse("its branch has work beside the plan", cancels)
        trees = git.checked_out(branch)
        for tree in trees:
            if kept := protocol_worktree.keeps(git, tree):
                raise InTheWayError(f"{protocol} is not discarded: {kept.why}", str(tree.path), kept.command)
        space = _workspace(project, protocol)
        refs = (branch, lookup.claim_ref(ids.number_of(protocol)), history.ref_of(protocol))
        moves = {name: (None, oid) for name in refs if (oid := git.ref(name)) is not None}
        folders = [str(tree.path) for tree in trees] + ([str(space.root)] if os.path.lexists(space.root) else [])
        if check_only:
            return [branch.removeprefix("refs/heads/"), *folders]
        for tree in trees:
            if why := _remove_worktree(git, tree.path):
                raise InTheWayError(
                    f"{protocol} is not discarded: {why}", str(tree.path), "remove that folder yourself"
                )
        _remove_folder(space.root)
        git.update_refs(moves, "runner: discard")
        for file in (project.dirs.checkpoint(protocol), project.dirs.journal(protocol)):
            with contextlib.suppress(OSError):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    return [branch.removeprefix("refs/heads/"), *folders]
