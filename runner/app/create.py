"""Making a protocol from files of people's: those of a folder, of a workflow, or a skeleton to be written by hand.

It is made whole or not at all: branch, genesis commit and number in one movement of refs. Nothing of the person's checkout is
touched. What the files may say is `runner.protocol.plan`'s matter, which workflows there are `runner.app.workflows`'.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner import resources
from runner.errors import ConflictError, MalformedFileError, UsageError
from runner.git import BLOB, TreeEntry
from runner.protocol import events as ev
from runner.protocol import ids, machine, message, paths, workflow
from runner.protocol import plan as plan_
from runner.store import creating, marks, numbers, publishing, transaction
from runner.store.project import Project

RACES = 50


@dataclass(frozen=True, slots=True)
class Made:
    """A new protocol. `path`: the person's worktree, or None where there is none."""

    protocol: str
    steps: int
    base: str
    start: str
    path: Path | None
    note: str


def create(project: Project, title: str, files: Mapping[str, bytes], *, where: str, base: str | None = None) -> Made:
    """Begin a protocol with these people's files (name in the folder to bytes): branch, genesis commit, worktree.

    `title` names it; where it is empty, the plan's title does. `where`: what the files are called in messages.

    Raises:
        MalformedFileError: a file is not valid; nothing was made.
    """
    project.refuse_unsupported()
    plan = plan_.parse(files, where)
    plan_.refuse_unsupported(plan, where)
    git, who = project.git, project.who
    person = project.person()
    base_name, start = creating.base_of(project, base or plan.header.base)
    start_commit = git.commit(start)
    assert start_commit is not None
    trunk = git.tree(f"{start}:{paths.ROOT}") or {}
    _name_what_has_no_force(project, start)
    slug = ids.slug_of_title(title.strip() or plan.header.title)
    nonce = who.random_hex(32)
    claimed = publishing.look_at_numbers(project)
    for _ in range(RACES):
        number = max(numbers.taken(git, start, project.pattern) | claimed, default=0) + 1
        protocol = ids.protocol_id(number, slug)
        if protocol in trunk:
            continue
        entries = transaction.entries_of(
            None,
            [
                ev.Created(subject=protocol, title=plan.header.title, base=base_name, start=start, nonce=nonce),
                ev.Planned(subject="plan", plan=plan.digest, steps=machine.planned_steps(plan)),
            ],
            who.timestamp(),
            project.actor(),
        )
        after, record = transaction.record(protocol, None, b"", 0, entries)
        folder = paths.folder(protocol)
        written = {
            f"{folder}/{name}": TreeEntry(BLOB, git.write("blob", data)) for name, data in {**files, **record}.items()
        }
        tree = git.edit_tree(start_commit.tree, written)
        assert tree is not None
        commit = git.person_commit(tree, (start,), person, message.render(protocol, entries, project.trusted.commit))
        try:
            transaction.publish(
                git,
                project.places,
                who,
                branch=project.branch(protocol),
                old=None,
                new=commit,
                reason="runner: created",
                also={numbers.claim_ref(number): (commit, None)},
                push=publishing.pusher(project, protocol, commit, number=True),
            )
        except ConflictError:
            claimed = publishing.look_at_numbers(project)
            continue
        marks.write(project.places, protocol, commit, after.genesis)
        path, note = creating.add_worktree(project, protocol)
        return Made(protocol, len(plan.steps), base_name, start, path, note)
    raise ConflictError("no number could be claimed", numbers.PREFIX, "run the same command again")


def _name_what_has_no_force(project: Project, start: str) -> None:
    """Say which rules of the base are not on the trusted branch yet: a person who committed them takes them for in force."""
    git, trusted = project.git, project.trusted
    for path in (paths.CONFIG, paths.POLICY, f"{paths.ROOT}/allowed_signers"):
        here = git.blob(f"{start}:{path}")
        if here is not None and here != trusted.blob(git, path):
            remote = f"{trusted.branch} of {trusted.remote}" if trusted.remote else trusted.branch
            project.who.say(f"{path} is not on {remote} as it stands here: it has no force until it is")


def read_folder(cwd: Path, named: Path) -> dict[str, bytes]:
    """Return the plan's files of a folder of a person's: plan.md, context.md and the step files. `named`: as seen from `cwd`.

    Raises:
        UsageError: there is no such folder. MalformedFileError: a file that cannot be taken.
    """
    folder = cwd / named
    if not folder.is_dir():
        what = f"{named} is not a folder" if folder.exists() else f"there is no folder {named}"
        raise UsageError(what, os.path.normpath(folder), "name a folder with plan.md and step files")
    found = {}
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(".md") or path.name == paths.LOG:
            continue
        if path.is_symlink() or not path.is_file():
            raise MalformedFileError(f"{path.name} is not a plain file", str(path), "replace it by one")
        if path.stat().st_size > 2 * 1024 * 1024:
            raise MalformedFileError(
                f"the file has {path.stat().st_size:,} bytes; at most {1024 * 1024:,} are read",
                str(path),
                "make it smaller",
            )
        found[path.name] = path.read_bytes()
    return found


def manual(title: str) -> dict[str, bytes]:
    """Return a plan with this title and one step of a person's, to be written by hand."""
    files = {path.name: resources.for_people(path) for path in sorted(resources.template("manual").iterdir())}
    # Quoted, so that no title can say more than a title.
    told = (workflow.written(workflow.Type.STRING, title) or "").encode("utf-8", "surrogateescape")
    return {**files, paths.PLAN: files[paths.PLAN].replace(b"title: TITLE", b"title: " + told, 1)}
