"""The table of doctor's checks, and the two ways through it: report the findings, and fix those that can be fixed.

A new check is a function in the module of its subject and a row here. The order of rows counts: a check relies on what the
ones before it found, or fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from runner.app.doctor import (
    Check,
    Examined,
    Finding,
    Machine,
    Scope,
    Selection,
    clone,
    contradiction,
    fix,
    machine,
    objects,
    of_error,
    protocols,
    refs,
)
from runner.errors import InsufficientHistoryError, RunnerError, UnreachableError
from runner.git import Git
from runner.store.environment import Clone, Environment
from runner.store.project import Session
from runner.store.trusted import Trusted

MACHINE: tuple[Check[Machine], ...] = (
    Check("room on the disk", machine.room),
    Check("state folder", machine.state_home),
    Check("bytecode", machine.bytecode),
)
CLONE: tuple[Check[Clone], ...] = (
    Check("permission to write", machine.writable),
    Check("permission to read", machine.readable),
    Check("dead locks", clone.dead_locks, clone.remove_lock),
    Check("packed refs", refs.packed, refs.fix_packed),
    Check("end of a shallow clone", refs.cut, refs.fix_cut),
    Check("HEAD", refs.heads, refs.fix_head),
    Check("links of worktrees", clone.severed_worktrees, clone.write_link),
    Check("complaints of git", objects.complaints),
    Check("indexes", objects.indexes, objects.fix_index),
    Check("loose objects", objects.loose, objects.fix_loose),
    Check("missing objects", objects.missing, objects.fix_missing),
    Check("reftable", refs.tables),
    Check("refs", refs.find, refs.fix),
    Check("mirror of the remote", refs.mirror, refs.fix_mirror),
    Check("interrupted updates of worktrees", clone.cut_follows, clone.finish_follow),
    Check("worktrees without a folder", clone.vanished_worktrees, clone.forget_worktree),
    Check("temporary files", clone.temporary, clone.remove_temporary),
    Check("number of loose objects", clone.many_loose_objects, clone.pack),
)
PROJECT: tuple[Check[Selection], ...] = (
    Check("identity", machine.identity),
    Check("executor", machine.executor),
    Check("ignored files in the source", machine.ignored_sources),
    Check("submodules and files of LFS", machine.empty_content),
    Check("trusted branch", machine.trusted_branch),
    Check("policy and keys", machine.policy),
    Check("tests", machine.tests),
    Check("open questions", machine.questions),
    Check("shared numbers", machine.shared_numbers),
    Check("interrupted renumbering", clone.unfinished_renumberings, clone.finish_renumbering),
    Check("unfinished worktrees", clone.unfinished_worktrees, clone.finish_worktree),
    Check("shallow clone", clone.shallow, clone.deepen),
    Check("partial clone", clone.partial),
    Check("branches that are gone", protocols.gone_branches, protocols.restore_branch),
    Check("unclaimed numbers", protocols.unclaimed_numbers, protocols.claim_number),
    Check("leftovers of ended protocols", clone.of_ended),
    Check("journals", protocols.damaged_journals),
    Check("workspaces", machine.workspaces),
    Check("name clashes", protocols.name_clashes),
    Check("unfinished rebases", protocols.rebases),
)
# The record itself is repaired by `fix.fix`, which verifies it again under the protocol's lock; its history by `_fix_history`.
PROTOCOL: tuple[Check[Examined], ...] = (
    Check("rewritten history", protocols.rewritten_history),
    Check("record on the remote", protocols.remote_record),
    Check("uncommitted changes of the record", protocols.uncommitted_record),
    Check("transcripts", protocols.transcripts_missing),
    Check("proof", protocols.proven),
    Check("record", protocols.damaged_record),
    Check("approvals", protocols.unattainable_approvals),
)


def examine(cwd: Path, env: Environment, options: Mapping[str, str], only: str | None = None) -> list[Finding]:
    """Return the findings in the repository of `cwd`; of protocols, in all of them or in `only`."""
    try:
        git = Git.open(cwd)
    except RunnerError as error:
        why = refs.headless(cwd) or of_error(error, "nothing works here until this is repaired")
        return [*_run(MACHINE, Machine(env, (env.state_home,))), why]
    found: list[Finding] = []
    with git:
        here = Clone.of(git, env)
        found += _run(MACHINE, Machine(env, (git.common_dir, here.dirs.state_home)))
        before = len(found)
        try:
            for finding in _run(CLONE, here):
                found.append(finding)
            with Session.open(cwd, env, options) as session:
                _use_fetched_trust(session)
                for finding in _in_project(session, only):
                    found.append(finding)
        except RunnerError as error:
            if all(one.kind == "note" for one in found[before:]):  # else git stopped at what was found already
                found.append(of_error(error, "no protocol can be worked on"))
    return found


def _run(checks: tuple[Check[Scope], ...], scope: Scope) -> Iterator[Finding]:
    for check in checks:
        yield from check.find(scope)


def _in_project(session: Session, only: str | None) -> Iterator[Finding]:
    yield from _run(PROJECT, Selection(session, only))
    for protocol, tip in session.project.protocols().items():
        if only in (None, protocol):
            yield from of_protocol(session, protocol, tip)


def _use_fetched_trust(session: Session) -> None:
    """Examine with the trusted branch as git fetched it, where that is ahead of the runner's own copy; nothing is changed."""
    trusted = session.project.trusted
    there = session.git.resolve(f"refs/remotes/{trusted.remote}/{trusted.branch}") if trusted.remote else None
    if there not in (None, trusted.commit) and session.git.is_ancestor(trusted.commit, str(there)):
        own = f"; the runner's own copy is {trusted.commit[:12]}{f', as of {trusted.time}' if trusted.time else ''}"
        note = f"{trusted.branch} of {trusted.remote}, as last fetched by git{own}"
        session.trust(Trusted(str(there), trusted.branch, trusted.remote, note, trusted.time))


def of_protocol(session: Session, protocol: str, tip: str) -> Iterator[Finding]:
    """Yield the findings of a protocol whose branch is here."""
    one = Examined(session, protocol, tip)
    try:
        _ = one.judged, one.old  # these raise, and every check needs them
    except InsufficientHistoryError as error:
        yield of_error(error, f"{protocol} cannot be verified here")
    except RunnerError as error:
        yield contradiction(error.what, error.where, f"{protocol} cannot be worked on", error.hint)
    else:
        yield from _run(PROTOCOL, one)


# --- fixing ------------------------------------------------------------------------------------------------------------


def fix_clone(cwd: Path, env: Environment) -> None:
    """Fix the clone itself, and print each fix; `examine` reports the rest."""
    headless = refs.headless(cwd)
    if headless is not None and headless.about is not None:
        env.say(refs.fix_head(None, headless.about))
    try:
        git = Git.open(cwd)
    except RunnerError:
        return  # `examine` says why
    with git:
        here = Clone.of(git, env)
        try:
            _fix(CLONE, here, env.say)
        except RunnerError:
            return  # git cannot read its objects: `examine` says why


def _fix(checks: tuple[Check[Scope], ...], scope: Scope, tell: Callable[[str], None]) -> None:
    for check in checks:
        for finding in check.find(scope):
            if check.fix is not None and finding.about is not None:
                _carry_out(finding, partial(check.fix, scope, finding.about), tell)


def _carry_out(finding: Finding, fix: Callable[[], str], tell: Callable[[str], None]) -> None:
    try:
        done = fix()
    except RunnerError as error:
        done = f"{finding.where}: {error.what}\n  next: {error.hint}"
    except OSError as error:  # a running git has it locked, or the disk refuses
        done = f"{finding.where}: {error.strerror}: {error.filename}"
    if done:
        tell(done)


def fix_protocols(session: Session, only: str | None, tell: Callable[[str], None]) -> None:
    """Repair every protocol here, or `only`; a failure is reported with `tell`, and raised with `only`.

    Raises:
        RunnerError: `only` cannot be repaired; nothing was changed.
    """
    _fix(tuple(check for check in PROJECT if check.fix), Selection(session, only), tell)
    for protocol, tip in session.project.protocols().items():
        if only not in (None, protocol):
            continue
        try:
            fix.fix(session, protocol, tell, by_name=only is not None)
            one = Examined(session, protocol, session.project.tip(protocol) or tip)
            is_whole = one.judged.ok
        except RunnerError as error:
            if only is not None:
                raise
            tell(f"{protocol}: {error.what}\n  at:   {error.where}\n  next: {error.hint}")
            continue
        if is_whole:
            _fix_history(one, tell, ask=only is not None)


def _fix_history(one: Examined, tell: Callable[[str], None], *, ask: bool) -> None:
    """Fetch missing transcripts; `ask`: publish the right history where another one was pushed over it."""
    lacking = protocols.transcripts(one)
    if lacking is not None and lacking.about is not None:
        _carry_out(lacking, partial(lacking.about, one), tell)
    if not ask:
        return
    try:
        replaced = protocols.replaced(one, ask=True)
    except UnreachableError as error:
        tell(f"{error.what}; whether its history is as it was published is not known")
        return
    if replaced is not None:
        _carry_out(replaced, partial(replaced.about, one), tell)
