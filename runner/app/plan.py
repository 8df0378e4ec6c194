"""Change a plan: a model plans the pending steps anew, or a person edits one file of it, with or without a worktree.

What a model proposes, a person accepts, edits or rejects. An accepted plan, as an edit, is a commit by the person, without an event:
the next transition records it. What a draft is written with (an editor, a web form) is the caller's. A draft is checked as the plan
that it makes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.app.steer import Steered, refuse_ended, refuse_unplanned, steered
from runner.errors import InTheWayError, RefusedError, UsageError
from runner.executor import advance, load, planning
from runner.git import BLOB, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import ids, model_answers, paths, plans, strict_yaml, workflow
from runner.protocol.state import ENDED, StepStatus
from runner.store import history, lookup, record, snapshot
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposal of a model. `files`: the plan files as they would be, `before`: as they are."""

    protocol: str
    seen: Snapshot
    before: Mapping[str, bytes]
    files: Mapping[str, bytes]
    transcript: bytes
    spent: ev.Spent

    def changed(self, files: Mapping[str, bytes]) -> list[str]:
        """Return the names of the files that `files` would add, change or take away."""
        return _changed(self.before, files)


@contextlib.contextmanager
def propose(
    session: Session, protocol: str, wish: str = "", *, questions: bool = True, split: str | None = None
) -> Iterator[Proposal]:
    """Have the pending steps planned anew, and give what comes of it; nothing is changed. `wish`: what should be different.

    `split`: the one step that smaller ones come in the place of.

    Raises:
        RefusedError: nothing is pending, or not that step. HeldError: a step is at work. InTheWayError: words that are not committed.
        WaitingError: the model has questions and nobody is here. EngineError: there is no plan.
    """
    session.project.refuse_unsupported()
    session.person()
    name = lookup.typed(session.project, protocol)
    with load.at_work(session, protocol):
        seen = load.read(session, protocol)
        refuse_ended(session.project, seen.state, "replan")
        refuse_unplanned(session.project, seen.state, "replan")
        _refuse_unsaved(session.project, protocol)
        plan, _, state, _ = advance.consider(session, seen)
        assert plan is not None
    again = planning.pending(plan, state)
    if not again:
        raise RefusedError(
            "every step is done or under way: there is none to replan",
            paths.folder(protocol),
            f"write a step file of your own, or `runner edit {name}`",
        )
    before = snapshot.plan_files(session.git, seen)
    if split is not None:
        step = plan.step(load.find_step(state, split))
        if step is None or step.slug not in again or step.header.kind is not plans.StepKind.AGENT:
            raise RefusedError(
                f"{split} cannot be split: only agent steps that have not started can be",
                paths.folder(protocol),
                f"`runner show {name}` lists the steps",
            )
        task = planning.task_again(session.project, wish, plan, before, state, seen.tip, step)
        make: planning.Make = functools.partial(planning.split, step=step, plan=plan, before=before)
        base = planning.Base(seen.tip, phase="decompose")
    else:
        kept = {
            name: data
            for name, data in before.items()
            if name not in {step.file for step in plan.steps if step.slug in again}
        }
        first = 1 + max((step.number for step in plan.steps if step.slug not in again), default=0)
        task = planning.task_again(session.project, wish, plan, before, state, seen.tip)
        replaced = {step.slug: (step, before[step.file]) for step in plan.steps if step.slug in again}
        make = lambda draft: {**kept, **model_answers.step_files(draft.steps, first, replaced)}  # noqa: E731
        base = planning.Base(seen.tip)
    with planning.written(session, task, make, questions=questions, of=(seen, plan, state), base=base) as told:
        assert isinstance(told, planning.Written)  # its questions do not wait
        yield Proposal(protocol, seen, before, told.files, told.transcript, told.spent)


def _refuse_unsaved(project: Project, protocol: str) -> None:
    for tree, unsaved in record.unsaved(project.git, project.branch(protocol), protocol):
        raise InTheWayError(
            f"changes that are not committed: {', '.join(unsaved)}",
            str(tree.path / paths.folder(protocol)),
            "commit them, then run the same command again",
        )


def check(files: Mapping[str, bytes], where: str = "the plan") -> None:
    """Say whether the files make a plan that can be carried out.

    Raises:
        MalformedFileError, UnsupportedError: they do not.
    """
    plans.refuse_unsupported(plans.parse(files, where), where)


def _changed(before: Mapping[str, bytes], files: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in {*before, *files} if before.get(name) != files.get(name))


def tree_of(git: Git, seen: Snapshot, files: Mapping[str, bytes]) -> str:
    """Return the tree of a branch with these files in the place of its plan's."""
    changes: dict[str, TreeEntry | None] = {}
    for name in _changed(snapshot.plan_files(git, seen), files):
        mode = seen.files[name].mode if name in seen.files else BLOB
        entry = TreeEntry(mode, git.write("blob", files[name])) if name in files else None
        changes[f"{paths.folder(seen.protocol)}/{name}"] = entry
    return git.edited(seen.tree, changes)


def _committed(session: Session, seen: Snapshot, files: Mapping[str, bytes], subject: str) -> str:
    """Commit these files in the place of the plan's, as the person; return the commit, which no branch has yet."""
    tree, text = tree_of(session.git, seen, files), f"{seen.protocol}: {subject}\n".encode()
    return session.git.person_commit(tree, (seen.tip,), session.person(), text)


def take(session: Session, proposal: Proposal, files: Mapping[str, bytes]) -> str:
    """Commit the files on the branch, as the person; return the commit. What the model said is filed in the history.

    Raises:
        InTheWayError: the plan changed, or a step advanced, meanwhile. MalformedFileError: as `check`.
    """
    git, protocol = session.git, proposal.protocol
    check(files)

    def make(seen: Snapshot) -> advance.PersonCommit:
        _refuse_unsaved(session.project, protocol)
        if snapshot.plan_files(git, seen) != proposal.before or seen.state.steps != proposal.seen.state.steps:
            raise InTheWayError(
                "the plan changed or a step advanced meanwhile",
                seen.where,
                f"run `runner plan {lookup.typed(session.project, protocol)}` again",
            )
        new = _committed(session, seen, files, "plan anew")
        said = {history.run_file(history.next_plan(git, protocol)): proposal.transcript}
        return advance.PersonCommit(new, history.add(git, protocol, said, new, session.project.runner()))

    with load.at_work(session, protocol):
        return advance.publish_commit(session, protocol, "runner: plan", make)


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


def draft(session: Session, protocol: str, what: str | None) -> Draft:
    """Return the file to be edited: plan.md, a step's (by slug, `02-deploy` or file name), or context.md for `context`.

    Raises:
        UsageError: there is no such step. RefusedError: the protocol has ended, or its plan is still asked about.
        InTheWayError: the file has changes in a worktree that are not committed.
    """
    seen = load.read(session, protocol)
    refuse_ended(session.project, seen.state, "edit")
    refuse_unplanned(session.project, seen.state, "edit")
    name, finished = what or paths.PLAN, False
    if name not in (paths.PLAN, paths.CONTEXT):
        files = plans.names(seen.files, paths.folder(protocol))
        slug = ids.step_at(name, {one: place for one, (place, _) in files.items()})
        if slug is None and name in ("plan", "context"):
            name = f"{name}.md"
        else:
            slug = slug or load.find_step(seen.state, name)
            name = files[slug][1]
            known = seen.state.steps.get(slug)
            finished = known is not None and known.status in ENDED
    entry = seen.files.get(name)
    made = Draft(protocol, name, entry, session.git.content(entry) or b"", finished)
    for tree, unsaved in record.unsaved(session.git, session.project.branch(protocol), protocol):
        if name in unsaved:
            raise InTheWayError(
                f"{name} has changes that are not committed",
                str(tree.path / made.path),
                "edit that file itself: `runner step` commits it, or commit it yourself",
            )
    return made


def check_draft(session: Session, draft: Draft, data: bytes, seen: Snapshot | None = None) -> Mapping[str, bytes]:
    """Return the plan that the draft makes, if it can be carried out.

    Raises:
        MalformedFileError: it cannot; with the line. UnsupportedError: it asks for what this version does not do.
    """
    files = {**snapshot.plan_files(session.git, seen or load.read(session, draft.protocol)), draft.name: data}
    check(files, paths.folder(draft.protocol))
    return files


def commit_draft(session: Session, draft: Draft, data: bytes) -> str:
    """Commit the draft on the branch, that one file, as the person; return the commit. Worktrees follow.

    Raises:
        InTheWayError: the file changed meanwhile. MalformedFileError: as `check`.
    """

    def make(seen: Snapshot) -> advance.PersonCommit:
        if seen.files.get(draft.name) != draft.entry:
            raise InTheWayError(
                f"{draft.name} changed on the branch meanwhile", seen.where, "put your changes into the new version"
            )
        return advance.PersonCommit(
            _committed(session, seen, check_draft(session, draft, data, seen), f"edit {draft.name}")
        )

    return advance.publish_commit(session, draft.protocol, "runner: edit", make)


# --- steps, added, moved and removed ----------------------------------------------------------------------------------------


def add_step(
    session: Session, protocol: str, title: str, after: str | None, *, kind: str | None = None, run: str = ""
) -> tuple[str, str]:
    """Add a step after another one, by default as the last; return (the person's commit, the new file's name).

    Raises:
        UsageError: the title is empty, or a command has no line to run. MalformedFileError: it makes no plan.
    """
    title = strict_yaml.decode(title.encode("utf-8", "surrogateescape"), "TITLE").strip()
    kind = kind or ("command" if run else "agent")
    if not title or (kind == "command") != bool(run):
        what = "TITLE is empty" if not title else "`--run` and `--kind command` go together"
        raise UsageError(what, "the command line", "give a title, and of a command the line that it runs")
    front = {"title": title, "kind": kind, **({"run": run} if run else {})}
    head = "".join(f"{key}: {workflow.written(workflow.Type.STRING, value)}\n" for key, value in front.items())

    def change(steps: _Steps) -> str:
        files, order = steps.files, steps.order
        slug = made = ids.slug_of_title(title)
        number = 2
        while made in order:
            made, number = f"{slug}-{number}", number + 1
        order.insert(steps.behind(after) if after else len(order), made)
        files[made] = f"---\n{head}---\n{title}\n".encode()
        return made

    commit, _, name = _rearranged(session, protocol, "add", change)
    return commit, name


def move_step(session: Session, protocol: str, step: str, after: str) -> tuple[str, str]:
    """Move a step behind another one; `after`: that one, or `plan` for the first place. Return as `add_step`."""

    def change(steps: _Steps) -> str:
        moved = steps.find(step)
        if after != "plan" and steps.find(after) == moved:
            raise UsageError("a step cannot be moved behind itself", step, "name another one after --after")
        steps.order.remove(moved)
        steps.order.insert(steps.behind(after), moved)
        steps.numbers[moved] = 0  # it gets the number of its place
        return moved

    commit, _, name = _rearranged(session, protocol, "move", change)
    return commit, name


def remove_step(session: Session, protocol: str, step: str, verb: str = "remove") -> tuple[str, str]:
    """Remove a step that is not done; return as `add_step`. `verb`: what the commit's subject calls it."""
    seen = load.read(session, protocol)
    name = lookup.typed(session.project, protocol)

    def change(steps: _Steps) -> str:
        gone = steps.find(step)
        known = seen.state.steps.get(gone)
        if known is not None and known.status in ENDED:
            hint = f"`runner undo {name} {gone}` reverts it"
            raise RefusedError(f"{gone} is {known.status}: there is nothing to {verb}", paths.folder(protocol), hint)
        if len(steps.order) == 1:
            hint = f"`runner cancel {name}` ends the protocol"
            raise RefusedError(f"{gone} is the only step of the plan", paths.folder(protocol), hint)
        steps.order.remove(gone)
        return gone

    return _rearranged(session, protocol, verb, change)[:2]


def committed(session: Session, protocol: str, commit: str, said: str, notes: Sequence[str] = ()) -> Steered:
    """Return what a commit of the person's did, with the command to type next. `said`: what is committed."""
    seen = load.read(session, protocol)
    return steered(session, seen.state, seen.tip, f"{said} committed as yours: {commit[:7]}", notes)


def left_work(session: Session, protocol: str) -> list[str]:
    """Return the steps that are no longer in the plan, whose work, which failed its checks or was not checked, is on the branch."""
    seen = load.read(session, protocol)
    there = plans.names(seen.files, paths.folder(protocol))
    found = []
    for slug, step in seen.state.steps.items():
        if slug in there or step.status in (StepStatus.PENDING, *ENDED):
            continue
        work = record.work_of(session.git, protocol, seen.tip, slug)
        if work is not None and session.git.is_ancestor(work[1], seen.tip):
            found.append(slug)
    return found


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of a plan by slug: their files, their numbers, and their order, which `change` of `_rearranged` may change."""

    files: dict[str, bytes]
    numbers: dict[str, int]
    order: list[str]

    def find(self, name: str) -> str:
        """Return the slug of the step that a person means: `deploy`, `02-deploy` or `02`.

        Raises:
            UsageError: there is none.
        """
        slug = ids.step_at(name, {one: self.numbers[one] for one in self.order})
        if slug is None:
            there = ", ".join(self.order) or "none yet"
            raise UsageError(f"there is no step `{name}`", "the plan", f"name one of its steps: {there}")
        return slug

    def behind(self, after: str) -> int:
        """Return the index of the place behind a step; `plan`: the first."""
        return 0 if after == "plan" else self.order.index(self.find(after)) + 1


def _rearranged(session: Session, protocol: str, verb: str, change: Callable[[_Steps], str]) -> tuple[str, str, str]:
    """Commit, as the person, the plan with its steps changed; return the commit, and slug and file of the step that `change` returns;
    no file of one that is gone. `verb`: what the commit's subject says of it.

    A step keeps its number where that still is its place.
    """
    folder, slug, names = paths.folder(protocol), "", dict[str, str]()

    def make(seen: Snapshot) -> advance.PersonCommit:
        nonlocal slug
        refuse_ended(session.project, seen.state, "edit")
        refuse_unplanned(session.project, seen.state, "edit")
        _refuse_unsaved(session.project, protocol)
        words = snapshot.plan_files(session.git, seen)
        places = plans.names(words, folder)
        numbers = {slug: number for slug, (number, _) in sorted(places.items(), key=lambda item: item[1])}
        steps = _Steps({slug: words[places[slug][1]] for slug in numbers}, numbers, list(numbers))
        slug, last = change(steps), 0
        names.clear()
        for one in steps.order:
            known = numbers.get(one, 0)
            last = known if known > last else last + 1
            names[one] = f"{last:02d}-{one}.md"
        made = {name: data for name, data in words.items() if name in (paths.PLAN, paths.CONTEXT)}
        made |= {names[one]: steps.files[one] for one in steps.order}
        check(made, folder)
        return advance.PersonCommit(_committed(session, seen, made, f"{verb} {slug}"))

    return advance.publish_commit(session, protocol, "runner: edit", make), slug, names.get(slug, "")
