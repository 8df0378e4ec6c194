"""Change a plan: a model plans the pending steps anew, or a person edits one file of it, with or without a worktree.

What a model proposes, a person accepts, edits or rejects. An accepted plan, as an edit, is a commit by the person, without an event:
the next transition records it. What a draft is written with (an editor, a web form) is the caller's. A draft is checked as the plan
that it makes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from runner.app.steer import number, refuse_ended, refuse_unplanned
from runner.errors import InTheWayError, RefusedError
from runner.executor import advance, load, planning
from runner.git import BLOB, TreeEntry
from runner.protocol import ids, paths, plans
from runner.protocol.state import ENDED
from runner.store import history, record, snapshot, worktree
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposal of a model. `files`: the plan files as they would be, `before`: as they are."""

    protocol: str
    seen: Snapshot
    before: Mapping[str, bytes]
    files: Mapping[str, bytes]
    transcript: bytes
    usd: str

    def changed(self, files: Mapping[str, bytes]) -> list[str]:
        """Return the names of the files that `files` would add, change or take away."""
        return sorted(name for name in {*self.before, *files} if self.before.get(name) != files.get(name))


@contextlib.contextmanager
def propose(
    project: Project, protocol: str, wish: str = "", *, questions: bool = True, split: str | None = None
) -> Iterator[Proposal]:
    """Have the pending steps planned anew, and give what comes of it; nothing is changed. `wish`: what should be different.

    `split`: the one step that smaller ones come in the place of.

    Raises:
        RefusedError: nothing is pending, or not that step. HeldError: a step is at work. InTheWayError: words that are not committed.
        WaitingError: the model has questions and nobody is here. EngineError: there is no plan.
    """
    project.refuse_unsupported()
    project.person()
    with load.at_work(project, protocol):
        seen = load.view(project, protocol)
        refuse_ended(seen.state, "replan")
        refuse_unplanned(seen.state, "replan")
        _refuse_unsaved(project, protocol)
        plan, _, state, _ = advance.consider(project, seen)
        assert plan is not None
    again = planning.pending(plan, state)
    if not again:
        raise RefusedError(
            "every step is done or under way: there is none to replan",
            paths.folder(protocol),
            f"write a step file of your own, or `runner edit {number(protocol)}`",
        )
    before = snapshot.words(project.git, seen)
    if split is not None:
        step = plan.step(load.find_step(state, split))
        if step is None or step.slug not in again or step.header.kind is not plans.Kind.AGENT:
            raise RefusedError(
                f"{split} cannot be split: it is no step of kind agent that has not started",
                paths.folder(protocol),
                f"`runner show {number(protocol)}` lists the steps",
            )
        task = planning.task_again(project, wish, plan, before, state, seen.tip, step)
        check, base = planning.check_split(step, plan, before), planning.Base(seen.tip, phase="decompose")
    else:
        kept = {
            name: data
            for name, data in before.items()
            if name not in {step.file for step in plan.steps if step.slug in again}
        }
        first = 1 + max((step.number for step in plan.steps if step.slug not in again), default=0)
        task = planning.task_again(project, wish, plan, before, state, seen.tip)
        replaced = {step.slug: (step, before[step.file]) for step in plan.steps if step.slug in again}
        check, base = planning.check_again(kept, first, replaced), planning.Base(seen.tip)
    with planning.written(project, task, check, questions=questions, of=(seen, plan, state), base=base) as told:
        assert isinstance(told, planning.Written)  # its questions do not wait
        usd = told.spent.get("usd", "0")
        yield Proposal(protocol, seen, before, told.files, told.transcript, usd if usd != "0" else "")


def _refuse_unsaved(project: Project, protocol: str) -> None:
    for tree in worktree.on_branch(project.git, project.branch(protocol)):
        unsaved = record.unsaved(project.git, tree, protocol)
        if unsaved:
            raise InTheWayError(
                f"changes that are not committed: {', '.join(unsaved)}",
                str(tree.path / paths.folder(protocol)),
                "commit them, then run the same command again",
            )


def check(files: Mapping[str, bytes]) -> None:
    """Say whether the files make a plan that can be carried out.

    Raises:
        MalformedFileError, UnsupportedError: they do not.
    """
    plans.refuse_unsupported(plans.parse(files, "the plan"), "the plan")


def tree_of(project: Project, proposal: Proposal, files: Mapping[str, bytes], seen: Snapshot | None = None) -> str:
    """Return the tree of the branch with these files in the place of the plan's."""
    git, seen = project.git, seen or proposal.seen
    changes: dict[str, TreeEntry | None] = {}
    for name in proposal.changed(files):
        data = files.get(name)
        entry = seen.files.get(name)
        mode = entry.mode if entry else BLOB
        changes[f"{paths.folder(proposal.protocol)}/{name}"] = (
            None if data is None else TreeEntry(mode, git.write("blob", data))
        )
    tree = git.edit_tree(seen.tree, changes)
    assert tree is not None
    return tree


def take(project: Project, proposal: Proposal, files: Mapping[str, bytes]) -> str:
    """Commit the files on the branch, as the person; return the commit. What the model said is filed in the history.

    Raises:
        InTheWayError: the plan changed, or a step advanced, meanwhile. MalformedFileError: as `check`.
    """
    git, protocol = project.git, proposal.protocol
    check(files)

    def make(seen: Snapshot) -> advance.Commit:
        _refuse_unsaved(project, protocol)
        if snapshot.words(git, seen) != proposal.before or seen.state.steps != proposal.seen.state.steps:
            raise InTheWayError(
                "the plan changed or a step advanced meanwhile",
                seen.where,
                f"run `runner plan {number(protocol)}` again",
            )
        message = f"{protocol}: plan anew\n".encode()
        tree = tree_of(project, proposal, files, seen)
        new = git.person_commit(tree, (seen.tip,), project.person(), message)
        said = {history.next_plan(git, protocol): proposal.transcript}
        return advance.Commit(new, history.add(git, protocol, said, new, project.runner()))

    with load.at_work(project, protocol):
        return advance.put(project, protocol, "runner: plan", make)


@dataclass(frozen=True, slots=True)
class Draft:
    """A file of the plan as the branch has it. `name`: in the protocol's folder; `entry`: None where it is not there yet."""

    protocol: str
    name: str
    entry: TreeEntry | None
    data: bytes
    finished: bool

    @property
    def path(self) -> str:
        """The file's path in the repository."""
        return f"{paths.folder(self.protocol)}/{self.name}"


def draft(project: Project, protocol: str, what: str | None) -> Draft:
    """Return the file to be edited: plan.md, a step's (by slug, `02-deploy` or file name), or context.md for `context`.

    Raises:
        UsageError: there is no such step. RefusedError: the protocol has ended, or its plan is still asked about.
        InTheWayError: the file has changes in a worktree that are not committed.
    """
    seen = load.view(project, protocol)
    refuse_ended(seen.state, "edit")
    refuse_unplanned(seen.state, "edit")
    name, finished = what or paths.PLAN, False
    if name not in (paths.PLAN, paths.CONTEXT):
        files = {slug: file for slug, (_, file) in plans.names(seen.files, paths.folder(protocol)).items()}
        slug = ids.find_step(name.removesuffix(".md"), files)
        if slug is None and name in ("plan", "context"):
            name = f"{name}.md"
        else:
            slug = slug or load.find_step(seen.state, name)
            name = files[slug]
            known = seen.state.steps.get(slug)
            finished = known is not None and known.status in ENDED
    entry = seen.files.get(name)
    made = Draft(protocol, name, entry, (project.git.blob(entry.oid) or b"") if entry else b"", finished)
    for tree in worktree.on_branch(project.git, project.branch(protocol)):
        if name in record.unsaved(project.git, tree, protocol):
            raise InTheWayError(
                f"{name} has changes that are not committed",
                str(tree.path / made.path),
                "edit that file itself: `runner step` commits it, or commit it yourself",
            )
    return made


def check_draft(project: Project, draft: Draft, data: bytes, tip: str | None = None) -> None:
    """Say whether the draft makes a plan that can be carried out.

    Raises:
        MalformedFileError: it does not; with the line. UnsupportedError: it asks for what this version does not do.
    """
    seen = snapshot.read(project.git, tip or load.view(project, draft.protocol).tip, draft.protocol)
    folder = paths.folder(draft.protocol)
    plans.refuse_unsupported(plans.parse({**snapshot.words(project.git, seen), draft.name: data}, folder), folder)


def commit_draft(project: Project, draft: Draft, data: bytes) -> str:
    """Commit the draft on the branch, that one file, as the person; return the commit. Worktrees follow.

    Raises:
        InTheWayError: the file changed meanwhile. MalformedFileError: as `check`.
    """
    git = project.git

    def make(seen: Snapshot) -> advance.Commit:
        if seen.files.get(draft.name) != draft.entry:
            raise InTheWayError(
                f"{draft.name} changed on the branch meanwhile", seen.where, "put your changes into the new version"
            )
        check_draft(project, draft, data, seen.tip)
        mode = draft.entry.mode if draft.entry else BLOB
        tree = git.edit_tree(seen.tree, {draft.path: TreeEntry(mode, git.write("blob", data))})
        assert tree is not None
        message = f"{draft.protocol}: edit {draft.name}\n".encode()
        return advance.Commit(git.person_commit(tree, (seen.tip,), project.person(), message))

    return advance.put(project, draft.protocol, "runner: edit", make)
