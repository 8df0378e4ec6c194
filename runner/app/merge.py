"""Merge the work of a protocol into its base, in this clone, by one commit of the person's.

It is a merge commit, which brings the protocol's commits with it, or (squash) an ordinary one that has all of their changes.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from runner.app import describe
from runner.errors import ConflictError, RefusedError, UsageError
from runner.executor import load, permissions
from runner.git import Git
from runner.lines import counted, few, is_harmless
from runner.protocol import ids, log, paths
from runner.protocol.state import ACTIVE, State, Status, phrased
from runner.store import history, lookup, protocol_worktree, publishing, record, transaction, worktree
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust import permit, trusted_config
from runner.trust.rules import ends
from runner.trust.transitions import commit_of, transitions_below

RACES = 20
_TRAILER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a protocol is merged. `squash`: by a commit without the protocol's commits, None: as config.yaml says; `message`: of that
    commit, else the runner makes one; `local`: here, even if its request is on the forge; `leave`: leave uncommitted changes of its
    worktree out; `dry_run`: only look whether it can be merged."""

    squash: bool | None = None
    message: str | None = None
    local: bool = False
    leave: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Merged:
    """`commit`: the commit of the base that has the work; `new`: whether this call made it, or would have made it.

    `message`, `commits`, `files`: of what it made: the commit's message, how many commits the base gets, and the paths that changed
    outside the protocol's own folder; `pushed`: the refs to push for others to have it, and its proof; `older`: a note on the policy
    that its history is judged by.
    """

    protocol: str
    base: str
    commit: str
    new: bool
    message: str = ""
    commits: int = 0
    files: tuple[str, ...] = ()
    pushed: tuple[str, ...] = ()
    older: str | None = None


def merge(session: Session, protocol: str, wanted: Wanted | None = None) -> Merged:
    """Merge the branch of a completed protocol into its base, in this clone, and update the worktrees of the base.

    Raises:
        RefusedError: it is not completed, an approval that the policy requires is missing, its worktree has uncommitted changes,
            it lacks commits of the base and config.yaml wants them, the base cannot be moved in this clone, or the two conflict; the
            hint says what to do by hand.
        UnreachableError: the policy requires an approval, and the remote, which has the current approvers, does not answer.
        InTheWayError: uncommitted files of a person would be overwritten.
    """
    git, wanted = session.git, wanted or Wanted()
    squash = session.project.config.merge.as_ == "squash" if wanted.squash is None else wanted.squash
    with load.at_work(session, protocol):
        seen = load.read(session, protocol)
        for _ in range(RACES):
            branch = f"refs/heads/{seen.state.base}"
            transaction.finish_follows(session.project, branch)  # a merge that was interrupted may have moved it
            here = git.ref(branch)
            # A base that was never checked out here, or is behind, is merged as the remote has it, so that it can be pushed.
            base = None if ids.OID.fullmatch(seen.state.base) else protocol_worktree.tip_of(git, seen.state.base)
            _refuse_unready(session.project, seen.state)
            if base is not None and git.is_ancestor(seen.tip, base):
                return _already(git, seen, base)
            if base is None or (session.project.has_requests and not wanted.local):
                raise _elsewhere(session.project, seen.state)
            if session.project.config.merge.base == "up-to-date":
                _refuse_behind(session.project, seen, base)
            _refuse_unapproved(session, seen)
            tree, conflicts = git.merge_trees(base, seen.tip)
            if f"{paths.folder(protocol)}/{paths.STATE}" in conflicts:
                # A squash has no parent that says what of the branch it brought; the record that it brought does.
                before = (one for one in git.first_parents(seen.tip) if record.is_merged(git, protocol, one, base))
                if (end := next(before, None)) is None:
                    raise _two_ends(session.project, seen)
                brought, ours, theirs = (commit_of(git, one).tree for one in (end, base, seen.tip))
                tree, conflicts = git.merge_onto(brought, ours, theirs, session.project.runner())
            if tree is None:
                raise _conflict(session.project, protocol, seen.state.base, conflicts, squash=squash)
            there = commit_of(git, base)
            if tree == there.tree and record.is_merged(git, protocol, seen.tip, base):  # squashed, or picked
                return _already(git, seen, base)
            if not wanted.leave:
                _refuse_uncommitted(session.project, protocol)
            if wanted.message is not None and not wanted.message.strip():
                raise UsageError("the message is empty", "-m", "write one, or leave -m out")
            text = wanted.message or _message(seen, squash=squash)
            if session.project.config.merge.assisted_by:
                text = _with_trailers(text, _assistants(git, seen))
            own = f"{paths.folder(protocol)}/"
            told = (one.trailers.trusted for one in transitions_below(git, protocol, seen.tip))
            made = Merged(
                protocol,
                seen.state.base,
                "",
                True,
                text,
                1 if squash else 1 + int(git.text("rev-list", "--count", seen.tip, f"^{base}")),
                tuple(sorted(path for path in git.changed(base, tree) if not path.startswith(own))),
                _to_push(session.project, seen),
                ends.older_policies(git, protocol, seen.tip, session.project.trusted, told),
            )
            if wanted.dry_run:
                return made
            parents = (base,) if squash else (base, seen.tip)
            new = git.person_commit(tree, parents, session.person(), f"{text}\n".encode())
            try:
                update = transaction.RefUpdate(branch, here, new, f"runner: merge {protocol}")
                transaction.move_refs(session.project, update)
            except ConflictError:
                continue
            return dataclasses.replace(made, commit=new)
    raise ConflictError(
        f"{seen.state.base} moved {RACES} times while it was merged", branch, "run the same command again"
    )


def _already(git: Git, seen: Snapshot, base: str) -> Merged:
    commit = record.merged_in(git, seen.protocol, base) or base
    return Merged(seen.protocol, seen.state.base, commit, new=False)


def _to_push(project: Project, seen: Snapshot) -> tuple[str, ...]:
    """Return the base and, where no runner pushes them, a published branch that is behind and the history ref.

    Without the one a colleague's clone continues from where it was published, without the other it has nothing that proves a squash.
    """
    if project.trusted.remote is None:
        return ()
    refs = [seen.state.base]
    if not project.is_shared:
        branch, ref = project.branch(seen.protocol), history.ref_of(seen.protocol)
        if project.git.ref(project.tracking(branch)) not in (None, seen.tip):
            refs.append(branch.removeprefix("refs/heads/"))
        if project.git.ref(ref) is not None:
            refs.append(ref)
    return tuple(refs)


def _message(seen: Snapshot, *, squash: bool) -> str:
    """Return the message of the commit that merges; no text of a model is in it, but titles that a person saw."""
    if not squash:
        return f"Merge {seen.protocol}"
    steps = [f"- {_shown(step.title)}" for _, step in seen.state.open_steps()]
    return "\n".join([_shown(seen.state.title), "", *steps, "", f"Protocol: {seen.protocol}"])


def _assistants(git: Git, seen: Snapshot) -> list[str]:
    """Return a trailer for each model whose work is in the tree."""
    done = record.without_undone(record.events(git, seen.protocol, seen.tip))
    models = [str(one.fields.get("engine", "")) for one in done if one.event == "step-finished"]
    return [f"Assisted-by: {model} ({seen.protocol})" for model in dict.fromkeys(models) if log.is_bare(model)]


def _with_trailers(text: str, trailers: Sequence[str]) -> str:
    """Return a message with trailers at its end, in the last paragraph where that has trailers alone."""
    text = text.rstrip("\n")
    last = text.rpartition("\n\n")[2] if "\n\n" in text else ""
    is_block = bool(last) and all(_TRAILER.match(line) for line in last.split("\n"))
    return text + ("\n" if is_block else "\n\n") + "\n".join(trailers) if trailers else text


def _shown(title: str) -> str:
    return "".join(filter(is_harmless, title))


def _refuse_uncommitted(project: Project, protocol: str) -> None:
    """Refuse to merge what a person worked on beside the protocol's commits, and has not committed: it would be left behind."""
    for tree in project.git.checked_out(project.branch(protocol)):
        names = worktree.unsaved(project.git, tree)
        if names:
            raise RefusedError(
                f"changes in its worktree are in no commit: {few(names, 5)}",
                str(tree.path),
                f"commit them there, or `runner merge {lookup.typed(project, protocol)} --leave` merges without them",
            )


def _refuse_unready(project: Project, state: State) -> None:
    if state.status is not Status.COMPLETED:
        command, name = describe.resuming(project, state), ids.branch_of(project.pattern, state.protocol)
        hint = f"`{command}` continues" if command else f"`git merge {name}` merges it without the runner"
        if state.waiting and state.status in ACTIVE:
            hint = f"`runner status {lookup.typed(project, state.protocol)}` shows what it waits for"
        raise RefusedError(
            f"{state.protocol} {phrased(state.status)}: only a completed protocol can be merged",
            f"revision {state.revision}",
            hint,
        )


def _refuse_behind(project: Project, seen: Snapshot, base: str) -> None:
    """Refuse to merge work that was not made and checked on top of all that its base has."""
    count = int(project.git.text("rev-list", "--count", base, f"^{seen.tip}"))
    if not count:
        return
    name = ids.branch_of(project.pattern, seen.protocol)
    ref = seen.state.base if project.git.ref(f"refs/heads/{seen.state.base}") == base else base
    tree = next(iter(project.git.checked_out(project.branch(seen.protocol))), None)
    how = f"`git -C {shlex.quote(str(tree.path))} merge {ref}`" if tree else f"`git switch {name} && git merge {ref}`"
    raise RefusedError(
        f"{seen.state.base} has {counted(count, 'commit')} that {seen.protocol} does not have",
        f"`merge: {{base: up-to-date}}` in {paths.CONFIG} on {project.trusted.branch}",
        f"{how}, then `runner merge {lookup.typed(project, seen.protocol)}`",
    )


def _refuse_unapproved(session: Session, seen: Snapshot) -> None:
    """Refuse a merge that lacks an approval that the policy requires, or that an approver rejected."""
    if trusted_config.of(session.project).policy is None:
        return
    if trusted_config.of(session.project).requires("merge"):
        publishing.look_again(session, seen.protocol)
    found = trusted_config.of(session.project)
    view = permissions.view_of(session.project, seen, None, seen.state)
    standing = permit.merge_status(view)
    if not (standing.rejected or (found.requires("merge") and standing.missing)):
        return
    said = [f"{one.approver}'s does not count: {one.text}" for one in standing.refused]
    why = f"rejected by {', '.join(one.approver for one in standing.rejected)}" if standing.rejected else "not approved"
    raise RefusedError(
        f"the merge of {seen.protocol} is {why}; it needs {standing.requirement.who}{''.join(f'; {one}' for one in said)}",
        found.where,
        f"`runner {'revoke' if standing.rejected else 'approve'} {lookup.typed(session.project, seen.protocol)} merge`, by "
        + (", ".join(one.approver for one in standing.rejected) or standing.missing),
    )


def _elsewhere(project: Project, state: State) -> RefusedError:
    short, name = lookup.typed(project, state.protocol), ids.branch_of(project.pattern, state.protocol)
    where = f"base `{state.base}`"
    if project.has_requests:
        opens = "" if project.publishes else f"`runner sync {short}` opens its request; "
        return RefusedError(
            f"{state.protocol} is merged by its request on the forge",
            where,
            f"{opens}merge its request; `runner sync {short}` then shows it as merged; `runner merge {short} --local` merges it here",
        )
    return RefusedError(
        f"there is no branch `{state.base}` here", where, f"`git merge {name}` on the branch of your choice merges it"
    )


def _two_ends(project: Project, seen: Snapshot) -> RefusedError:
    """Return the error for a protocol that others merged, while the branch here moved without them: no record has both."""
    base, name = seen.state.base, ids.branch_of(project.pattern, seen.protocol)
    return RefusedError(
        f"{seen.protocol} was already merged into {base}, and has newer commits here",
        name,
        f"`git log {base}..{name}` shows them; `git cherry-pick` those that you need onto {base}",
    )


def _conflict(project: Project, protocol: str, base: str, conflicts: list[str], *, squash: bool) -> RefusedError:
    name, typed = ids.branch_of(project.pattern, protocol), lookup.typed(project, protocol)
    merge = f"git merge --squash {name}" if squash else f"git merge {name}"
    # Git has a branch in one worktree at a time: in another one it refuses to switch to it.
    trees = [tree.path for tree in project.git.checked_out(f"refs/heads/{base}") if tree.path != project.git.top]
    go = f"cd {shlex.quote(str(trees[0]))}" if trees else f"git switch {base}"
    return RefusedError(
        f"{protocol} and {base} conflict: {few(conflicts, 5)}",
        f"nothing was changed; base `{base}`",
        f"`{go} && {merge}`, resolve it, commit; `runner status {typed}` then shows it as merged",
    )
