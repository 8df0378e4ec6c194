"""Load a protocol for work: lock it, verify new commits, read the plan, commit the person's unsaved edits.

Where its history does not verify, here or on the remote, the error has what the person can type: only what will not be refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner import __version__
from runner.errors import (
    ConflictError,
    InsufficientHistoryError,
    IntegrityError,
    InTheWayError,
    MalformedFileError,
    RefusedError,
    RunnerError,
    UnsupportedError,
    UsageError,
)
from runner.executor import divergence, spending, workspace_session
from runner.git import Commit, Git, TreeEntry
from runner.lines import few
from runner.protocol import events as ev
from runner.protocol import ids, log, machine, paths, plans, strict_yaml
from runner.protocol.events import Entry, Event
from runner.protocol.machine import Action, RunStep
from runner.protocol.plans import Plan
from runner.protocol.state import ENDED, State, StepStatus, phrased
from runner.store import (
    batch,
    history,
    locks,
    lookup,
    protocol_worktree,
    publishing,
    record,
    snapshot,
    transaction,
    worktree,
)
from runner.store.environment import StateDir, read_checkpoint, write_checkpoint, write_loosely
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust import rules, verify

if TYPE_CHECKING:
    from runner.trust.walk import Report

RACES = 20  # how often a lost race is started again before it is told


@contextlib.contextmanager
def at_work(session: Session, protocol: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the protocol while it is worked on.

    Raises:
        HeldError: another runner has it, still after `wait` seconds.
        RenumberedError: it has another id now: a command that gave it one was killed, and that is finished.
    """
    branch = session.project.branch(protocol)
    with locks.hold(session.dirs.lock(protocol), session.env, what=protocol, wait=wait) as was_cut:
        if was_cut:
            workspace_session.end_left(session.project, protocol)
        # Whoever records a person's word does so beside us: a lock or a note of theirs is neither dead nor cut off.
        with locks.hold(session.dirs.publish_lock(branch), session.env, what=branch, wait=transaction.PUBLISH_WAIT):
            seen = [session.project.tracking(branch)] if session.project.trusted.remote else []
            for name in (branch, "packed-refs", history.ref_of(protocol), *seen):
                locks.remove_dead(session.git.common_dir / f"{name}.lock", session.env)
            if session.dirs.making(protocol).exists():
                protocol_worktree.finish_worktree(session.project, branch, protocol)
            worktree.finish_follows(session.project, branch)
            if note := _unfinished(session.project, protocol):
                note.resume(session)
        if session.dirs.pending(protocol).exists():
            batch.recover(session.project, branch, protocol)
        try:
            yield
        finally:
            if not session.batch:
                publishing.drop_lease(session)


def _unfinished(project: Project, protocol: str) -> divergence.Renumbering | None:
    """Return the change of the protocol's number that a killed command left unfinished, or None."""
    if not project.dirs.renumbering(protocol).exists():
        return None
    note = divergence.renumbering_of(project.dirs, protocol)
    return note if note is not None and not note.is_finished else None


def finish_renumbering(session: Session, protocol: str) -> str:
    """Finish the change of a protocol's number that a killed command left unfinished; return the message about it.

    Raises:
        HeldError: another process works on it.
    """
    try:
        with at_work(session, protocol):
            return ""
    except divergence.RenumberedError as done:
        return done.what


def branchless(project: Project, protocol: str) -> RefusedError:
    """Return the error for a protocol that is known by something else than a branch of this clone."""
    at, name, remote = lookup.tip(project, protocol), lookup.typed(project, protocol), project.trusted.remote
    if base := record.holder(project.git, protocol, at, remote):
        merge = (record.merged_in(project.git, protocol, base) or base)[:7]
        what, brings = f"{protocol} is merged in {merge}: it has no branch here any more", ""
    else:
        what = f"{protocol} has no branch here"
        brings = f"; `runner sync {name}` brings a branch that the remote has" if remote else ""
    return RefusedError(what, project.branch(protocol), f"`runner show {name}` shows its status{brings}")


def read(session: Session, protocol: str) -> Snapshot:
    """Return the protocol as its branch has it, checked as far as it is new here.

    Raises:
        IntegrityError: the record is not what the history says.
    """
    git, (known, tip) = session.git, session.project.checkpoint_and_tip(protocol)
    if tip is None:
        raise branchless(session.project, protocol)
    session.project.promised.ahead(protocol, tip)
    if known != tip:
        _verify(session, protocol, tip, known)
    # What this process read or made is not read again.
    if session.snapshot is None or (session.snapshot.tip, session.snapshot.protocol) != (tip, protocol):
        session.snapshot = snapshot.read(git, tip, protocol)
    return session.snapshot


def _verify(session: Session, protocol: str, tip: str, known: str | None) -> None:
    """Verify the commits of a protocol that are new since `known`, and note that they are."""
    git, since = session.git, None
    try:
        if known is not None:
            if git.commit(known) is None:
                raise verify.went_back(protocol, known, tip)
            since = (known, snapshot.read(git, known, protocol).state)
        state = verify.advance(git, protocol, tip, since, session.project.trusted)
    except IntegrityError as error:
        raise refused(session, protocol, tip, error) from error
    write_checkpoint(session.dirs, protocol, tip, state.genesis)


class Checker(NamedTuple):
    """Verifies a protocol's commits that were fetched, before the branch here moves to them."""

    session: Session
    protocol: str

    def __call__(self, tip: str, since: str | None) -> None:
        """Verify a tip. `since`: an ancestor that is verified already."""
        session, protocol, git = self.session, self.protocol, self.session.git
        session.project.promised.ahead(protocol, tip)
        known = (
            snapshot.read(git, since, protocol).state if since and snapshot.folder_files(git, since, protocol) else None
        )
        try:
            if since is not None and git.commit(since) is None:
                raise verify.went_back(protocol, since, tip)
            verify.advance(git, protocol, tip, (since, known) if since and known else None, session.project.trusted)
        except IntegrityError as error:
            if since and known and not verify.verify(git, protocol, since, session.project.trusted).ok:
                with contextlib.suppress(IntegrityError):  # what did not hold here was repaired elsewhere
                    verify.advance(git, protocol, tip, None, session.project.trusted)
                    return
            raise refused(session, protocol, tip, error) from error

    def give_again(self, commit: Commit, onto: str, theirs: Sequence[Commit]) -> str:
        """Return the commit on `onto` that keeps a person's answer, as `divergence.answer_again` does."""
        return divergence.answer_again(self.session, self.protocol, commit, onto, theirs)

    def tell(self, ours: Sequence[Commit], theirs: Sequence[Commit], kept: str | None) -> None:
        """Say what of ours does not count as it was made, as `divergence.tell` does."""
        divergence.tell(self.session.project, self.protocol, ours, theirs, kept)


def again(session: Session, protocol: str) -> None:
    """Fetch the commits that moved the branch, after a lost race."""
    publishing.again(session, protocol, Checker(session, protocol))


def snapshots(session: Session, protocol: str) -> Iterator[Snapshot]:
    """Yield the protocol for a publication by compare-and-swap, and again after each lost race.

    Raises:
        ConflictError: every race was lost.
    """
    for turn in range(RACES):
        if turn:
            again(session, protocol)
        yield read(session, protocol)
    again(session, protocol)
    raise moves(session.project, protocol)


def find_protocol(session: Session, name: str | None) -> str:
    """Return the id of the protocol that a command which writes is about, once what others pushed of it is picked up.

    Raises:
        UsageError: there is none, here or on the remote, or it is not clear which.
        IntegrityError: the pushed commits do not verify; nothing here changed.
    """
    protocol = publishing.find(session, name)
    if _unfinished(session.project, protocol):  # before a branch is brought that is another protocol's
        with at_work(session, protocol):
            pass
    publishing.bring(session, protocol, Checker(session, protocol))
    return protocol


def read_plan(session: Session, seen: Snapshot) -> Plan:
    """Return the plan at the snapshot's commit.

    Raises:
        RefusedError: nobody has written one yet.
        MalformedFileError: a plan file is not valid; UnsupportedError: it needs another version.
    """
    where = paths.folder(seen.protocol)
    if seen.state.plan is None and not is_written(seen):
        raise RefusedError(
            f"{seen.protocol} has no plan yet: it {phrased(seen.state.status)}",
            where,
            f"`runner status {seen.protocol}` says what it waits for",
        )
    files = (where, seen.files.plan_files, session.project.config.checks)
    if session.plan is None or session.plan[0] != files:
        with _located(session.project, seen.protocol):
            plan = plans.parse(snapshot.plan_files(session.git, seen), where, session.project.config.checks)
            plans.refuse_unsupported(plan, where)
        session.plan = files, plan
    return session.plan[1]


@contextlib.contextmanager
def _located(project: Project, protocol: str) -> Iterator[None]:
    """Let errors of plan files name the file where a person finds it: in the branch's worktree, else as `git show` does."""
    try:
        yield
    except (MalformedFileError, UnsupportedError) as error:
        branch = project.branch(protocol)
        trees = [tree.path for tree in project.git.checked_out(branch)]
        if project.git.top in trees:
            raise
        where = f"{trees[0]}/{error.where}" if trees else f"{branch.removeprefix('refs/heads/')}:{error.where}"
        raise type(error)(error.what, where, error.hint) from error


def edit_of(session: Session, seen: Snapshot, plan: Plan) -> ev.PlanEdited | None:
    """Return the edit that the next transition records, with the cost of the model that planned it, if one did."""
    edit = machine.edit_of(seen.state, plan)
    for slug in edit.steps if edit is not None else ():
        step, number = seen.state.steps.get(slug), lookup.typed(session.project, seen.protocol)
        kind = edit.steps[slug]["kind"] if edit is not None else ""
        if step is not None and step.status is StepStatus.RUNNING and step.kind == "human" != kind:
            why = f"{slug} was asked of a person before this edit"
            session.tell_once(f"{why}; `runner undo {number} {slug}` starts it as {kind}")
    if edit is None or next(history.transcripts(session.git, seen.protocol, "plan."), None) is None:
        return edit
    return spending.planned_anew(session.project, seen, edit)


def applied(project: Project, state: State, edits: Sequence[Event]) -> State:
    """Return the state after events that a transition records before its action."""
    for edit in edits:
        state = machine.apply(state, Entry(state.revision + 1, project.env.timestamp(), "runner", edit))
    return state


def is_written(seen: Snapshot) -> bool:
    """Return whether there is a plan, complete or not; notes alone are none."""
    return any(paths.is_plan_file(name) and name != paths.CONTEXT for name in seen.files)


def pick_up_edits(session: Session, protocol: str, *, adopt: bool) -> bool:
    """Commit, as the person, their uncommitted edits of plan files in a worktree; return whether there were any.

    A run of steps looks once in `LOOK_SECONDS`, and `is_quiet` at what a step uses.

    Raises:
        InTheWayError: there are some, and `adopt` is False.
    """
    git, branch, now = session.git, session.project.branch(protocol), session.env.monotonic()
    known, session.quiet = session.quiet, None
    if session.batch and known is not None and known.branch == branch and now < known.until:
        session.quiet = known
        return False
    prefix = f"{paths.folder(protocol)}/"
    taken, trees, quiet = False, git.checked_out(branch), None
    if session.batch:
        quiet, is_known = worktree.look(branch, trees, prefix.rstrip("/"), now, (paths.LOG, paths.STATE), known)
        if is_known:
            session.quiet = quiet
            return False
    for tree in trees:
        changed = worktree.uncommitted(git, tree, prefix.rstrip("/"))
        names = {path.removeprefix(prefix): entry for path, entry in changed.items()}
        record = sorted(prefix + name for name in names if paths.is_record(name))
        if record:
            raise InTheWayError(
                f"an uncommitted change of the runner's own record: {', '.join(record)}",
                str(tree.path),
                f"run `git -C {tree.path} restore --staged --worktree -- {record[0]}`; to steer, edit plan and steps",
            )
        stray = [
            name
            for name in names
            if name.endswith(".md") and "/" not in name and not name.startswith(".") and not paths.is_plan_file(name)
        ]
        plans.names(dict.fromkeys(stray), str(tree.path / prefix.rstrip("/")))
        words: dict[str, TreeEntry | None] = {
            prefix + name: entry for name, entry in names.items() if paths.is_plan_file(name)
        }
        if not words:
            continue
        if not adopt:
            raise InTheWayError(
                f"changes that are not committed: {', '.join(sorted(words))}",
                str(tree.path),
                f"commit or undo them; `runner run {protocol}` without --no-adopt commits them as yours",
            )
        old = git.ref(branch)
        assert old is not None
        _refuse_malformed(session.project, protocol, old, words)
        shown = ", ".join(sorted(path.removeprefix(prefix) for path in words))
        subject = log.cut(f"{protocol}: edit {shown}")
        edit = transaction.PersonEdit(branch, old, words, session.person(), subject)
        transaction.adopt(session.project, edit)
        session.env.say(f"picked up your changes of {shown}")
        taken = True
    session.quiet = None if taken else quiet
    return taken


def is_quiet(session: Session, plan: Plan | None, action: Action) -> bool:
    """Return whether no person's edit came since the last look: in the files that a tool step uses, or in any for another action."""
    if session.quiet is None:
        return True  # this very step looked, and asked git
    step = plan.step(action.slug) if plan is not None and isinstance(action, RunStep) else None
    is_tool = step is not None and step.header.kind is plans.StepKind.TOOL
    if session.quiet.holds([paths.PLAN, paths.CONTEXT, step.file] if step is not None and is_tool else None):
        return True
    session.quiet = None
    return False


def _refuse_malformed(project: Project, protocol: str, tip: str, words: dict[str, TreeEntry | None]) -> None:
    """Refuse an edit that could not be read, before it becomes a commit."""
    git, folder = project.git, paths.folder(protocol)
    files = snapshot.folder_files(git, tip, protocol) or {}
    began = paths.PLAN in files
    for path, entry in words.items():
        if entry is None:
            files.pop(path.removeprefix(f"{folder}/"), None)
        else:
            files[path.removeprefix(f"{folder}/")] = entry
    snapshot.refuse_odd_names(files, folder)
    told = {name: git.content(entry) or b"" for name, entry in files.items() if paths.is_top_markdown(name)}
    if not began and told.keys() <= {paths.CONTEXT}:
        return  # notes, while the plan is still asked about
    with _located(project, protocol):
        plans.refuse_unsupported(plans.parse(told, folder), folder)


def find_step(state: State, name: str) -> str:
    """Return the slug of the step that a person means.

    Raises:
        UsageError: there is none; near ones are offered.
    """
    known = dict(state.open_steps())
    slug = ids.step_at(name, {slug: step.place for slug, step in known.items()})
    if slug is None:
        from difflib import get_close_matches  # here, because few names have a mistake

        close = get_close_matches(ids.step_slug(name) or name, known, n=1, cutoff=0.4)
        hint = f"did you mean `{close[0]}`?" if close else f"`runner show {state.protocol}` names them"
        raise UsageError(f"there is no step `{name}`", paths.folder(state.protocol), hint)
    return slug


def moves(project: Project, protocol: str) -> ConflictError:
    """Return the error for a branch that moved under every try."""
    return ConflictError(
        f"the branch of {protocol} keeps moving", project.branch(protocol), "run the same command again"
    )


@contextlib.contextmanager
def documents_kept(dirs: StateDir) -> Iterator[None]:
    """Have the YAML of plans and configuration that was read before not parsed again: what it says is kept in the person's own state.

    It depends on the bytes and on the reader alone, so it is dropped with another version of that and by nothing else. Proofs do
    without: `runner verify` reads every file itself.
    """
    path, found = dirs.own / "documents.json", dict[str, str]()
    try:
        reader = Path(strict_yaml.__file__).stat()
    except OSError:  # it is no file of its own, as in an archive, and nothing says when it changes
        yield
        return
    read_by = [__version__, reader.st_mtime_ns, reader.st_size]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(path.read_bytes())
        found = dict(told["documents"]) if told["reader"] == read_by else {}
    strict_yaml.known, count = found, len(found)
    try:
        yield
    finally:
        strict_yaml.known = None
        if len(found) != count:
            write_loosely(path, json.dumps({"reader": read_by, "documents": found}).encode())


# --- what helps where a history does not verify -----------------------------------------------------------------------

GIVEN_AGAIN = "approvals of what it changed have to be given again"


def end_below(project: Project, protocol: str, tip: str) -> str | None:
    """Return the commit of a protocol's end where a fast-forward to the base that merged it took its branch, at `tip`; else None.

    `git merge main` in its worktree does that. Nothing is lost: the base has all of it.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell.
    """
    git, row = project.git, record.row(project.git, protocol, tip)
    commit = git.commit(tip)
    if row["status"] not in ENDED or commit is None or record.is_transition(commit, protocol):
        return None
    if not any(
        git.is_ancestor(tip, base) for base in record.base_tips(git, row.get("base", ""), project.trusted.remote)
    ):
        return None
    try:
        end = rules.ends.tip_of(git, protocol, tip, project.trusted.remote)
    except InsufficientHistoryError:  # it was squashed, or the base has another record
        return None
    return None if verify.has(git, protocol, tip, end) else end


def way_back(project: Project, protocol: str, tip: str, old: str) -> str:
    """Return the command that puts the branch back to `old`."""
    return worktree.way_back(project.git, project.branch(protocol), tip, old)


def hint_of_rewritten(session: Session, protocol: str, judged: Report, old: str) -> str:
    """Return what helps where the branch's history was rewritten, of which `old` verified here last."""
    fix = f"`runner doctor --fix {protocol}`"
    if is_adoptable(session, protocol, judged, old):
        return f"{fix} adopts it as a merge into the old history, {why_merged(session.project, judged)}; {GIVEN_AGAIN}"
    if judged.ok or judged.is_repairable:
        return f"{fix} adopts it as it is, and keeps the old one; {GIVEN_AGAIN}"
    return hint_of_old(session.project, protocol, judged.tip, old)


def hint_of_old(project: Project, protocol: str, tip: str, old: str) -> str:
    """Return what brings the history back that the one at `tip` replaced."""
    if project.git.commit(old) is None:
        return f"the old one, {old[:12]}, is not in this clone; fetch it from where it is"
    return f"`{way_back(project, protocol, tip, old)}` puts the old one back"


def can_adopt(session: Session, protocol: str, tip: str) -> bool:
    """Return whether `doctor --fix` adopts the rewritten history at `tip`, as it is or as a merge; False if nobody can tell here."""
    old = read_checkpoint(session.dirs, protocol)
    try:
        judged = verify.verify(session.git, protocol, tip, session.project.trusted)
        sound = judged.ok or judged.is_repairable
        return sound or (old is not None and is_adoptable(session, protocol, judged, old))
    except RunnerError:
        return False


def is_adoptable(session: Session, protocol: str, judged: Report, old: str) -> bool:
    """Return whether a rewritten history is adopted as a merge into `old`, which verified: it has the same transitions, and does not
    verify itself, or lacks commits that are published."""
    sound = judged.ok or judged.is_repairable
    if _is_odd_file(session.git, judged, old):
        return False
    if session.git.commit(old) is None or (sound and not _lacks_published(session, protocol, old, judged.tip)):
        return False
    return verify.is_rebased(session.git, protocol, old, judged.tip)


def _is_odd_file(git: Git, judged: Report, old: str | None) -> bool:
    """Return whether all that is wrong is a file that people added, or changed, onto `old`: merged, it would be there again."""
    onto = old is None or (git.commit(old) is not None and git.is_ancestor(old, judged.tip))
    return onto and bool(judged.findings) and all(found.rule == "paths" for found in judged.findings)


def why_merged(project: Project, judged: Report) -> str:
    """Return why a rewritten history is adopted as a merge, as an attribute of the old one."""
    if judged.ok or judged.is_repairable:
        return f"which {project.trusted.remote} has"
    return "whose approvals and verdicts were for other commits"


def published(session: Session, protocol: str, tip: str) -> str | None:
    """Return the newest commit that `tip` and the remote, as it was seen last, both have; None where there is none."""
    git, branch = session.git, session.project.branch(protocol)
    there = session.above(branch) if session.mirror else git.ref(session.project.tracking(branch))
    return git.merge_base(tip, there) if there is not None and git.commit(there) is not None else None


def _lacks_published(session: Session, protocol: str, old: str, tip: str) -> bool:
    """Return whether the remote, as it was seen last, has commits of `old` that `tip` replaced."""
    there = published(session, protocol, old)
    return there is not None and not session.git.is_ancestor(there, tip)


def hint_of_damaged(protocol: str, judged: Report) -> str:
    """Return what helps where the branch here does not verify."""
    if judged.is_repairable:
        return f"run `runner verify {protocol}` to see all of it, `runner doctor --fix {protocol}` to repair the record"
    return f"`runner doctor {protocol}` says what remains possible"


def hint_of_remote(session: Session, protocol: str, judged: Report) -> str:
    """Return what helps where the remote has a tip that does not verify: any clone can repair it, or who has to."""
    git, remote, there = session.git, session.project.trusted.remote, judged.tip
    here, fix = good_tip(session.project, protocol), f"`runner doctor --fix {protocol}`"
    goes_out = session.project.publishes
    if judged.is_repairable:
        return f"{fix} repairs it" + (
            " and publishes that" if goes_out else f" here; `runner sync {protocol}` then publishes that"
        )
    if _is_odd_file(git, judged, here):
        files, name = few([found.path for found in judged.findings]), ids.branch_of(session.project.pattern, protocol)
        return f"a commit on {name}, pushed to {remote}, that puts {files} back or removes it"
    if here is not None and is_adoptable(session, protocol, judged, here):
        return f"{fix} adopts it as a merge; {GIVEN_AGAIN}" + (
            "" if goes_out else f"; `runner sync {protocol}` then publishes that"
        )
    if here is not None:
        name = session.project.branch(protocol)
        return f"`git push --force-with-lease={name}:{there} {remote} {here}:{name}` restores the tip of this clone, which verifies"
    commit = git.commit(judged.findings[0].commit if judged.findings else there)
    told = commit.committer.decode("utf-8", "replace").partition(" <")[0] if commit is not None else ""
    by = "".join(filter(str.isprintable, told)) or "its committer"
    return f"this clone cannot repair it: {by} made that commit and has to push the earlier tip again, or a clone that has that tip"


def good_tip(project: Project, protocol: str) -> str | None:
    """Return the commit of the branch here where it verifies; None where there is none, or it does not."""
    known, here = project.checkpoint_and_tip(protocol)
    if here is None or here == known:
        return here
    with contextlib.suppress(RunnerError):
        return here if verify.verify(project.git, protocol, here, project.trusted).ok else None
    return None


def refused(session: Session, protocol: str, tip: str, error: IntegrityError) -> IntegrityError:
    """Return an error of verification with what helps: of the branch here, or of what the remote has at `tip`."""
    try:
        judged = verify.verify(session.git, protocol, tip, session.project.trusted)
        old, here = session.project.checkpoint_and_tip(protocol)
        if tip != here:
            if session.mirror is None or session.above(session.project.branch(protocol)) != tip or judged.ok:
                return error
            found = error.what.removeprefix(f"{protocol} does not verify: ")
            what = f"{protocol} does not verify on {session.mirror.remote}: {found}"
            return type(error)(what, error.where, hint_of_remote(session, protocol, judged))
        if isinstance(error, verify.RewrittenError) and (end := end_below(session.project, protocol, tip)):
            what = f"the branch of {protocol} was moved to its base, which has merged it"
            return type(error)(
                what, error.where, f"`{way_back(session.project, protocol, tip, end)}` moves it back to its end"
            )
        if isinstance(error, verify.RewrittenError):
            return (
                type(error)(error.what, error.where, hint_of_rewritten(session, protocol, judged, old))
                if old
                else error
            )
        return type(error)(error.what, error.where, hint_of_damaged(protocol, judged))
    except RunnerError:  # then what was found first is said as it is
        return error
