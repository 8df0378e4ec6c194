"""Resolve conflicts of two clones that worked apart: two answers to one question, or one id for two protocols (design §2, §3).

An answer whose question still waits is recorded again on top of the transitions that were published first. If it does not wait any
more, the answer stays in the history as its author's commit, which changes nothing, and its author reads who answered. An approval's
commit stays in any case.

A protocol whose id another clone published gets another number here: every ref, worktree and journal of the old id makes way for the
new one. A note says what moves before anything is visible. `finish_renumbering` moves what has not moved yet; the next command on the
old id calls it (`load.at_work`), so no journal, worktree or workspace is left from which the other protocol of that id would resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import IllegalEventError, MalformedFileError, RefusedError
from runner.executor import journal, transition
from runner.git import Commit, Git, Worktree
from runner.lines import cut, lines_of
from runner.protocol import approval_file, log, paths
from runner.protocol import events as ev
from runner.protocol.approval_file import Signed, statement_id
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry
from runner.protocol.state import OPEN, Wait
from runner.store import (
    locks,
    lookup,
    protocol_worktree,
    publishing,
    record,
    snapshot,
    transaction,
    workspace,
    worktree,
)
from runner.store.environment import StateDir, forget_checkpoint, matching, write_atomically
from runner.store.project import Project, Session
from runner.store.remote import Mirror
from runner.store.snapshot import Snapshot
from runner.trust.requirements import KEYBOARD

Refs = dict[str, tuple[str | None, str | None]]


class RenumberedError(RefusedError):
    """The protocol has another id now. `note`: how it got it."""

    def __init__(self, note: Renumbering) -> None:
        super().__init__(
            f"{note.origin} is {note.protocol} now: it was being given that number when a command was killed, which is finished",
            paths.folder(note.protocol),
            f"`runner status {note.protocol}` shows it; {note.origin} is the id of another protocol",
        )
        self.note = note


@dataclass(frozen=True, slots=True)
class Renumbering:
    """`origin`, `old`: the id that the protocol had, and its tip; `protocol`, `genesis`, `tip`: those of its fork.

    `source`: of the fork, PROTOCOL@REVISION; `refs`: how refs move, name to (new, expected); `trees`: the worktrees that make
    way, as (path, git directory); `ends`: the status to be recorded at last, or empty; `is_finished`: all of it has moved.
    """

    origin: str
    old: str
    protocol: str
    genesis: str
    tip: str
    source: str
    refs: Refs
    trees: tuple[tuple[str, str], ...]
    ends: str = ""
    is_finished: bool = False

    def write(self, dirs: StateDir) -> None:
        """Note it; it is on the disk when this returns."""
        write_atomically(dirs.renumbering(self.origin), json.dumps(dataclasses.asdict(self)).encode() + b"\n")

    def resume(self, session: Session) -> None:
        """Finish it after a kill; the caller holds the lock of the old id and the publish lock of its branch.

        Raises:
            RenumberedError: it is finished now, so the caller's command names another protocol.
        """
        git, branch = session.git, session.project.branch
        if git.ref(branch(self.protocol)) is None and git.ref(branch(self.origin)) != self.old:
            forget_renumbering(session.dirs, self.origin)  # its branch moved before any ref of the note did
            return
        finish_renumbering(session, self, resumed=True)
        raise RenumberedError(self)


def renumbering_of(dirs: StateDir, origin: str) -> Renumbering | None:
    """Return the note about a protocol that had this id, or None."""
    try:
        told = json.loads(dirs.renumbering(origin).read_bytes())
        refs = {name: (new, old) for name, (new, old) in told["refs"].items()}
        trees = tuple((path, git_dir) for path, git_dir in told["trees"])
        return Renumbering(**{**told, "refs": refs, "trees": trees})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def unfinished_renumberings(dirs: StateDir) -> list[Renumbering]:
    """Return those that a killed command, or one that is at work, has not finished."""
    notes = (renumbering_of(dirs, path.name) for path in matching(dirs.renumbering(""), "*"))
    return [note for note in notes if note is not None and not note.is_finished]


def forget_renumbering(dirs: StateDir, origin: str) -> None:
    """Remove the note: its id was printed, or nothing came of it."""
    dirs.renumbering(origin).unlink(missing_ok=True)


def finish_renumbering(session: Session, note: Renumbering, *, resumed: bool = False) -> None:
    """Move the refs that have not moved, make the new worktree where it is missing, and take away what lies here by the old id."""
    git, project, dirs, env = session.git, session.project, session.dirs, session.env
    moves = {name: (new, old) for name, (new, old) in note.refs.items() if new != old and git.ref(name) == old}
    if moves:
        for name in moves:
            locks.remove_dead(git.common_dir / f"{name}.lock", env)
        git.update_refs(moves, "runner: renumbered")
    if resumed:
        branch = project.branch(note.protocol)
        with locks.hold(dirs.publish_lock(branch), env, what=branch, wait=transaction.PUBLISH_WAIT):
            protocol_worktree.finish_worktree(project, branch, note.protocol)
            worktree.finish_follows(project, branch)
        if not git.checked_out(branch):
            protocol_worktree.add_worktree(project, note.protocol)
    journal.put_aside(dirs, note.origin, note.old)
    forget_checkpoint(dirs, note.origin)
    for path, git_dir in note.trees:
        _remove(project, note, Worktree(Path(path), Path(git_dir), None), resumed=resumed)
    workspace.remove(workspace.place(project, note.origin, project.config.workspace.path))
    dataclasses.replace(note, is_finished=True).write(dirs)
    mirror = session.mirror or Mirror.of(project)
    name = project.branch(note.origin)
    if mirror is not None and (there := mirror.ref(name)) is not None:
        mirror.track({name: there})


def _remove(project: Project, note: Renumbering, tree: Worktree, *, resumed: bool) -> None:
    git, branch = project.git, project.branch(note.origin)
    if not tree.git_dir.is_dir():
        return
    if tree.path.exists():
        theirs = git.ref(branch)
        if theirs is not None and _index_is(git, tree, theirs):
            return  # it follows the other protocol already
        # Its branch is gone, and git could not tell what is in it, nor whether it is the other protocol's.
        locks.remove_dead(tree.git_dir / "HEAD.lock", project.env)
        git.run("update-ref", "--no-deref", "HEAD", note.old, git_dir=tree.git_dir)
        if kept := protocol_worktree.keeps(git, tree, resumed=resumed):
            project.env.say(f"{tree.path} stays, at {note.old[:12]}: {kept.why}; {kept.command}")
            return
        code, _, _ = git.try_run("worktree", "remove", "--force", str(tree.path), config=worktree.conversions(git))
        if code:  # a removal that was cut left what git knows no more
            shutil.rmtree(tree.path)
    shutil.rmtree(tree.git_dir, ignore_errors=True)


def _index_is(git: Git, tree: Worktree, commit: str) -> bool:
    code, _, _ = git.try_run("diff-index", "--cached", "--quiet", commit, git_dir=tree.git_dir, work_tree=tree.path)
    return code == 0


# --- one question, answered in two clones -----------------------------------------------------------------------------


_SHOWN = 60  # characters of an answer in a message


def answer_again(session: Session, protocol: str, commit: Commit, onto: str, theirs: Sequence[Commit]) -> str:
    """Return the commit on `onto` that keeps the answer of `commit`, a transition. `theirs`: the commits that were published first."""
    git = session.git
    first = log.entry_of(publishing.entries_of(git, commit, protocol)[0], commit.oid[:12])
    event = first.event
    assert isinstance(event, ev.Answered | ev.EffectDecided)
    before, now = snapshot.read(git, commit.parents[0], protocol), snapshot.read(git, onto, protocol)
    asked = next((wait for wait in before.state.waiting if wait.id == event.wait), None)
    what = record.label(record.row(git, protocol, onto), event.subject)
    # Equal in everything, its time included: a question that was asked anew may not be answered by what was said before.
    is_open = now.state.status in OPEN
    if is_open and asked in now.state.waiting:
        try:
            made = transition.prepare(session, now, [event], None, as_person=True)
        except IllegalEventError:
            pass
        else:
            session.env.say(f"your answer to {what} is recorded again, after the transitions that were published first")
            return made.commit
    entries = [entry for their in theirs for entry in publishing.entries_of(git, their, protocol)]
    anew = [wait.id for wait in now.state.waiting if is_open and asked and _is_alike(wait, asked)]
    why = answered(entries, event.wait, event.subject, what) or f"{what} does not wait for that answer any more"
    if anew:
        answers = f"runner answer {lookup.typed(session.project, protocol)} {anew[0]} TEXT"
        why = f"{what} was asked again elsewhere, and waits: `{answers}` answers it"
    body = log.render(first).encode("ascii")
    subject = f"{protocol}: {event.subject} was answered elsewhere first\n\n".encode()
    kept = commit._replace(message=subject + body)
    new = publishing.done_again(session, kept, now.tree, (onto,))
    session.env.say(f"{why}; yours has no effect, and the history keeps it as commit {new[:7]}")
    return new


def _is_alike(one: Wait, other: Wait) -> bool:
    return (one.kind, one.subject, one.text) == (other.kind, other.subject, other.text)


def answered(entries: Iterable[RawEntry], wait: str, subject: str, what: str) -> str:
    """Return by whom a question was answered first, and how, for people; empty where it was not. `what`: its name for them."""
    found = [one for one in entries if event_type(one.event).role == "answer" and one.subject == subject]
    # The plan has several questions at a time; a step has one, which two clones may have recorded under two ids.
    same = [one for one in found if one.fields.get("wait") == wait] or (found if subject != "plan" else [])
    return _shown(same[0], what) if same else ""


def last_answer(project: Project, seen: Snapshot, which: str | None) -> str:
    """Return by whom a question was answered that waits no longer, for people; empty where there was none. `which`: its wait or
    subject, else the last answer of all."""
    found = [
        one
        for one in record.events(project.git, seen.protocol, seen.tip)
        if event_type(one.event).role == "answer" and which in (None, one.subject, one.fields.get("wait"))
    ]
    row = record.row(project.git, seen.protocol, seen.tip)
    return _shown(found[-1], record.label(row, found[-1].subject)) if found else ""


def _shown(entry: RawEntry, what: str) -> str:
    text = entry.fields.get("text") or ("happened" if entry.fields.get("happened") else "did-not")
    shown = cut(lines_of(str(text))[0], _SHOWN)
    return f"{what} was answered already, by {entry.fields.get('by')}: {shown}"


def tell(project: Project, protocol: str, ours: Sequence[Commit], theirs: Sequence[Commit], kept: str | None) -> None:
    """Say what of this clone's the runner does again, and what only its author can say again. `kept`: the ref of our transitions."""
    first, short = project.trusted.remote, lookup.typed(project, protocol)
    transitions = [
        entries for commit in ours if kept and (entries := publishing.entries_of(project.git, commit, protocol))
    ]
    again = {command: None for entries in transitions if (command := _said(entries))}
    count = sum(not _said(entries) and event_type(entries[0].event).role != "answer" for entries in transitions)
    if count:
        are, s = ("are", "s") if count != 1 else ("is", "")
        project.env.say(
            f"{first} was first: {count} transition{s} of {protocol} made here will be done again, and {are} kept at {kept}"
        )
    for command in again:
        project.env.say(
            f"{first} was first: `{command}` of {protocol} is not recorded, and is kept at {kept};"
            f" if you still want it, type `runner {command} {short}`"
        )
    _tell_decided(project, protocol, ours, theirs)


def _said(entries: Sequence[RawEntry]) -> str:
    """Return the command by which a person said what a transition records, where only a person can say it again; else empty."""
    first = entries[0]
    if len(entries) == 1 and first.fields.get("by") in (KEYBOARD, [KEYBOARD]):
        return "reject" if first.fields.get("decision") == "rejected" else "approve"
    return event_type(first.event).command


def _tell_decided(project: Project, protocol: str, ours: Sequence[Commit], theirs: Sequence[Commit]) -> None:
    """Say of our approvals whose approvals were counted first, for the same thing."""
    mine = [one for commit in ours for one in _approvals(project, protocol, commit.tree, _before(project, commit))]
    counted = {
        str(name)
        for commit in theirs
        for one in publishing.entries_of(project.git, commit, protocol)
        for name in one.fields.get("approvals", ())
    }
    if not mine or not counted:
        return
    used = [one for one in _approvals(project, protocol, theirs[-1].tree, None) if statement_id(one.text) in counted]
    for one in mine:
        said = one.statement
        by = [
            other.statement.approver
            for other in used
            if (other.statement.subject, other.statement.attempt) == (said.subject, said.attempt)
        ]
        if by and statement_id(one.text) not in counted:
            project.env.say(
                f"{said.subject} was decided already, by {', '.join(dict.fromkeys(by))};"
                f" the decision of {said.approver} is kept as a commit and has no effect"
            )


def _before(project: Project, commit: Commit) -> str | None:
    parent = project.git.commit(commit.parents[0]) if commit.parents else None
    return parent.tree if parent else None


def _approvals(project: Project, protocol: str, tree: str, before: str | None) -> list[Signed]:
    """Return the approvals that a tree has and the tree `before` has not."""
    git, folder = project.git, f"{paths.folder(protocol)}/{paths.APPROVALS.rstrip('/')}"
    known = git.tree(f"{before}:{folder}") or {} if before else {}
    found = []
    for name, entry in (git.tree(f"{tree}:{folder}") or {}).items():
        if name not in known:
            with contextlib.suppress(MalformedFileError):  # `status` says that it does not count
                found.append(approval_file.parse(git.content(entry) or b"", name))
    return found
