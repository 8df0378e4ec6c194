"""A person's edit of one file of the plan, committed on the branch as theirs, with or without a worktree.

What a draft is written with (an editor, a web form) is the caller's. A draft is checked as the plan that it makes.
"""

from __future__ import annotations

from runner.app.steer import refuse_ended, refuse_unplanned
from runner.errors import InTheWayError
from runner.executor import advance, load
from runner.git import BLOB, TreeEntry
from runner.protocol import ids, paths, plans
from runner.protocol.state import ENDED
from runner.store import record, snapshot, worktree
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.values import dataclass


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


def check(project: Project, draft: Draft, data: bytes, tip: str | None = None) -> None:
    """Say whether the draft makes a plan that can be carried out.

    Raises:
        MalformedFileError: it does not; with the line. UnsupportedError: it asks for what this version does not do.
    """
    seen = snapshot.read(project.git, tip or load.view(project, draft.protocol).tip, draft.protocol)
    folder = paths.folder(draft.protocol)
    plans.refuse_unsupported(plans.parse({**snapshot.words(project.git, seen), draft.name: data}, folder), folder)


def commit(project: Project, draft: Draft, data: bytes) -> str:
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
        check(project, draft, data, seen.tip)
        mode = draft.entry.mode if draft.entry else BLOB
        tree = git.edit_tree(seen.tree, {draft.path: TreeEntry(mode, git.write("blob", data))})
        assert tree is not None
        message = f"{draft.protocol}: edit {draft.name}\n".encode()
        return advance.Commit(git.person_commit(tree, (seen.tip,), project.person(), message))

    return advance.put(project, draft.protocol, "runner: edit", make)
