"""The table of doctor's checks, and the two ways through it: report the findings, and fix those that can be fixed.

A new check is a function in the module of its subject and a row here. The order of rows counts: a check relies on what the
ones before it found, or fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from runner.app.check import use_fetched_trust
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
from runner.errors import InsufficientHistoryError, RunnerError
from runner.executor import load
from runner.git import Git
from runner.store.environment import Clone, Environment
from runner.store.project import Session

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
    Check("HEAD", refs.heads),
    Check("links of worktrees", clone.severed_worktrees),
    Check("complaints of git", objects.complaints),
    Check("indexes", objects.indexes),
    Check("loose objects", objects.loose, objects.fix_loose),
    Check("missing objects", objects.missing, objects.fix_missing),
    Check("reftable", refs.tables),
    Check("refs", refs.find, refs.fix),
    Check("mirror of the remote", refs.mirror, refs.fix_mirror),
    Check("interrupted updates of worktrees", clone.cut_follows, clone.finish_follow),
    Check("worktrees without a folder", clone.vanished_worktrees),
    Check("temporary files", clone.temporary, clone.remove_temporary),
    Check("number of loose objects", clone.many_loose_objects),
)
PROJECT: tuple[Check[Selection], ...] = (
    Check("identity", machine.identity),
    Check("executor", machine.executor, so="steps that run commands cannot be run"),
    Check("ignored files in the source", machine.ignored_sources),
    Check("submodules and files of LFS", machine.empty_content),
    Check("trusted branch", machine.trusted_branch),
    Check("policy and keys", machine.policy, so="no step starts, and no approval counts"),
    Check("the runner's key", machine.runner_key),
    Check("tests", machine.tests),
    Check("open questions", machine.questions, so="`runner new` is refused"),
    Check("shared numbers", machine.shared_numbers),
    Check("interrupted renumbering", clone.unfinished_renumberings, clone.finish_renumbering),
    Check("unfinished worktrees", clone.unfinished_worktrees, clone.finish_worktree),
    Check("shallow clone", clone.shallow),
    Check("partial clone", clone.partial),
    Check("branches that are gone", protocols.gone_branches, protocols.restore_branch),
    Check("unclaimed numbers", protocols.unclaimed_numbers, protocols.claim_number),
    Check("leftovers of ended protocols", clone.of_ended),
    Check("journals", protocols.damaged_journals),
    Check("workspaces", machine.workspaces),
    Check("name clashes", protocols.name_clashes),
    Check("unfinished rebases", protocols.rebases),
)
# A record that does not verify is repaired by `fix.fix`, which verifies it again under the protocol's lock; these are for one
# that verifies, and is not adopted as a merge.
PROTOCOL: tuple[Check[Examined], ...] = (
    Check("record on the remote", protocols.remote_record),
    Check("uncommitted changes of the record", protocols.uncommitted_record),
    Check("transcripts", protocols.transcripts, protocols.fetch_history),
    Check("history on the remote", protocols.replaced, protocols.settle_history),
    Check("proof", protocols.proven),
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
                use_fetched_trust(session)
                for finding in _in_project(session, only):
                    found.append(finding)
        except RunnerError as error:
            if all(one.kind == "note" for one in found[before:]):  # else git stopped at what was found already
                found.append(of_error(error, "no protocol can be worked on"))
    return found


def _run(checks: tuple[Check[Scope], ...], scope: Scope) -> Iterator[Finding]:
    for check in checks:
        try:
            yield from check.find(scope)
        except RunnerError as error:
            if not check.so:
                raise
            yield of_error(error, check.so)


def _in_project(session: Session, only: str | None) -> Iterator[Finding]:
    yield from _run(PROJECT, Selection(session, only))
    for protocol, tip in session.project.protocols().items():
        if only in (None, protocol):
            yield from of_protocol(session, protocol, tip)


def of_protocol(session: Session, protocol: str, tip: str) -> Iterator[Finding]:
    """Yield the findings of a protocol whose branch is here."""
    one = Examined(session, protocol, tip)
    try:
        judged, old = one.judged, one.old  # these raise, and every check needs them
        end = None if judged.ok and old is None else load.end_below(session.project, protocol, tip)
    except InsufficientHistoryError as error:
        yield of_error(error, f"{protocol} cannot be verified here")
    except RunnerError as error:
        yield contradiction(error.what, error.where, f"{protocol} cannot be worked on", error.hint)
    else:
        if end is not None:
            yield protocols.moved_to_base(session, protocol, tip, end)
            one = Examined(session, protocol, end, moved=True)
        yield from protocols.rewritten_history(one)
        if not one.is_adoptable:
            yield from _run(PROTOCOL, one) if one.judged.ok else protocols.damaged_record(one)
        yield from protocols.unattainable_approvals(one)


# --- fixing ------------------------------------------------------------------------------------------------------------


def fix_clone(cwd: Path, env: Environment) -> None:
    """Fix the clone itself, and print each fix; `examine` reports the rest."""
    try:
        git = Git.open(cwd)
    except RunnerError:
        return  # `examine` says why
    with git:
        here = Clone.of(git, env)
        try:
            _fix(CLONE, here, env)
        except RunnerError:
            return  # git cannot read its objects: `examine` says why


def _fix(checks: Iterable[Check[Scope]], scope: Scope, env: Environment) -> None:
    for check in checks:
        for finding in check.find(scope):
            if check.fix is None or finding.about is None:
                continue
            try:
                done = check.fix(scope, finding.about)
            except RunnerError as error:
                done = f"{finding.where}: {error.what}\n  next: {error.hint}"
            except OSError as error:  # a running git has it locked, or the disk refuses
                done = f"{finding.where}: {error.strerror}: {error.filename}"
            if done:
                env.say(done)


def fix_protocols(session: Session, only: str | None) -> None:
    """Repair every protocol here, or `only`; a failure is printed, and raised with `only`.

    Raises:
        RunnerError: `only` cannot be repaired; nothing was changed.
    """
    _fix((check for check in PROJECT if check.fix), Selection(session, only), session.env)
    for protocol, tip in session.project.protocols().items():
        if only not in (None, protocol):
            continue
        try:
            fix.fix(session, protocol, by_name=only is not None)
            one = Examined(session, protocol, session.project.tip(protocol) or tip, asks=only is not None)
            is_whole = one.judged.ok
        except RunnerError as error:
            if only is not None:
                raise
            session.env.say(f"{protocol}: {error.what}\n  at:   {error.where}\n  next: {error.hint}")
            continue
        if is_whole:
            _fix((check for check in PROTOCOL if check.fix), one, session.env)
