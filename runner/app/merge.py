"""Merge the work of a protocol into its base, in this clone: one merge commit by the person, which keeps the protocol's commits."""

from __future__ import annotations

from runner.app import describe
from runner.app.steer import number
from runner.errors import ConflictError, RefusedError
from runner.executor import load, permissions
from runner.git import Git
from runner.protocol import ids
from runner.protocol.state import State, Status, phrased
from runner.store import protocol_worktree, publishing, record, transaction
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import permit
from runner.values import dataclass

RACES = 20


@dataclass(frozen=True, slots=True)
class Merged:
    """`commit`: the commit of the base that has the work; `new`: whether this call made it."""

    protocol: str
    base: str
    commit: str
    new: bool


def merge(project: Project, protocol: str) -> Merged:
    """Merge the branch of a completed protocol into its base, in this clone, and update the worktrees of the base.

    Raises:
        RefusedError: it is not completed, an approval that the policy requires is missing, the base cannot be moved in this
            clone, or the two conflict; the hint says what to do by hand.
        UnreachableError: the policy requires an approval, and the remote, which has the current approvers, does not answer.
        InTheWayError: uncommitted files of a person would be overwritten.
    """
    git = project.git
    with load.at_work(project, protocol):
        seen = load.view(project, protocol)
        for _ in range(RACES):
            branch = f"refs/heads/{seen.state.base}"
            transaction.settle(git, project.dirs, project.env, branch)  # a merge that was interrupted may have moved it
            here = git.ref(branch)
            # A base that was never checked out here, or is behind, is merged as the remote has it, so that it can be pushed.
            base = None if ids.OID.fullmatch(seen.state.base) else protocol_worktree.tip_of(git, seen.state.base)
            _refuse_unready(project, seen.state)
            if base is not None and git.is_ancestor(seen.tip, base):
                return _already(git, seen, base)
            if base is None or project.has_requests:
                raise _elsewhere(project, seen.state)
            _refuse_unapproved(project, seen)
            tree, conflicts = git.merge_trees(base, seen.tip)
            if tree is None:
                raise _conflict(project, protocol, seen.state.base, conflicts)
            there = git.commit(base)
            assert there is not None
            if tree == there.tree and record.is_merged(git, protocol, seen.tip, base):  # squashed, or picked
                return _already(git, seen, base)
            # No text of the plan or a model is in the message: the id is enough to find the rest.
            text = f"Merge {protocol}\n".encode()
            new = git.person_commit(tree, (base, seen.tip), project.person(), text)
            try:
                update = transaction.RefUpdate(branch, here, new, f"runner: merge {protocol}")
                transaction.publish(git, project.dirs, project.env, update)
            except ConflictError:
                continue
            return Merged(protocol, seen.state.base, new, new=True)
    raise ConflictError(
        f"{seen.state.base} moved {RACES} times while it was merged", branch, "run the same command again"
    )


def _already(git: Git, seen: Snapshot, base: str) -> Merged:
    commit = record.merged_in(git, seen.protocol, base) or base
    return Merged(seen.protocol, seen.state.base, commit, new=False)


def _refuse_unready(project: Project, state: State) -> None:
    if state.status is not Status.COMPLETED:
        command, name = describe.resuming(state), ids.branch_of(project.pattern, state.protocol)
        raise RefusedError(
            f"{state.protocol} {phrased(state.status)}: only a completed protocol can be merged",
            f"revision {state.revision}",
            f"`{command}` continues" if command else f"`git merge {name}` merges it without the runner",
        )


def _refuse_unapproved(project: Project, seen: Snapshot) -> None:
    """Refuse a merge that lacks an approval that the policy requires, or that an approver rejected."""
    if permissions.trusted_config(project).policy is None:
        return
    if permissions.trusted_config(project).requires("merge"):
        publishing.look_again(project, seen.protocol)
    found = permissions.trusted_config(project)
    view = permissions.view_of(project, seen, None, seen.state)
    standing = permit.merge_status(view)
    if not (standing.rejected or (found.requires("merge") and standing.missing)):
        return
    said = [f"{word.approver}'s does not count: {word.text}" for word in standing.refused]
    why = (
        f"rejected by {', '.join(word.approver for word in standing.rejected)}" if standing.rejected else "not approved"
    )
    raise RefusedError(
        f"the merge of {seen.protocol} is {why}; it needs {standing.requirement.who}{''.join(f'; {one}' for one in said)}",
        found.where,
        f"`runner {'revoke' if standing.rejected else 'approve'} {number(seen.protocol)} merge`, by "
        + (", ".join(word.approver for word in standing.rejected) or standing.missing),
    )


def _elsewhere(project: Project, state: State) -> RefusedError:
    short, name = number(state.protocol), ids.branch_of(project.pattern, state.protocol)
    where = f"base `{state.base}`"
    if project.has_requests:
        opens = "" if project.setting("publish") == "always" else f"`runner sync {short}` opens its request; "
        return RefusedError(
            f"{state.protocol} is merged by its request on the forge",
            where,
            f"{opens}merge its request; `runner sync {short}` then shows it as merged",
        )
    return RefusedError(
        f"there is no branch `{state.base}` here", where, f"`git merge {name}` on the branch of your choice merges it"
    )


def _conflict(project: Project, protocol: str, base: str, conflicts: list[str]) -> RefusedError:
    name = ids.branch_of(project.pattern, protocol)
    more = f" and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
    return RefusedError(
        f"{protocol} and {base} conflict: {', '.join(conflicts[:5])}{more}",
        f"nothing was changed; base `{base}`",
        f"`git switch {base} && git merge {name}`, resolve it, commit; `runner status {number(protocol)}` then shows it as merged",
    )
