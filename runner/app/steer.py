"""Commands that steer a protocol: pause, resume, cancel, retry, answer.

Each is one transition, recorded while a runner may be at work on a step; repeating one changes nothing. `undo` reverts
transitions, `edit` changes the plan.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from runner import signals
from runner.app import describe
from runner.app.describe import Next
from runner.errors import HeldError, RefusedError, UnreachableError, UsageError
from runner.executor import advance, divergence, load
from runner.executor.transition import attempt_ref
from runner.git import Options, Worktree
from runner.lines import few, headline
from runner.protocol import events as ev
from runner.protocol import ids, log, machine, paths, strict_yaml
from runner.protocol.event_types import event_type
from runner.protocol.plans import StepKind, seconds_of
from runner.protocol.state import ACTIVE, ENDED, OF_WORK, State, Status, StepStatus, Wait, phrased, plain
from runner.store import lease, locks, lookup, record, remote, transaction, worktree
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust.transitions import before_work

EFFECT = {"happened": True, "did-not": False}  # the answers about an effect without a known outcome
STOPS_WITHIN = 8.0  # seconds in which a runner that gets the stop signal has ended its command and recorded its cost


@dataclass(frozen=True, slots=True)
class Steered:
    """The result of a command: `said`, in a few words; `notes`, further lines; `next`, the command to type then."""

    protocol: str
    said: str
    next: Next = field(default_factory=Next)
    notes: tuple[str, ...] = ()


def steered(session: Session, state: State, tip: str, said: str, notes: Sequence[str] = ()) -> Steered:
    """Return what a command did, with the command to type next. `state`: the protocol's, at the commit `tip`."""
    name = lookup.typed(session.project, state.protocol)
    found = describe.describe(session, plain(state), tip, name)
    return Steered(state.protocol, said, found.next, tuple(notes))


def text_of(text: str, what: str) -> str:
    """Return a person's text as the record keeps it, whole.

    Raises:
        UsageError: it is empty or too long. MalformedFileError: a control or bidi character in it.
    """
    text = strict_yaml.decode(text.encode("utf-8", "surrogateescape"), what).strip()
    if not text:
        raise UsageError(f"{what} is empty", "the command line", "say something")
    if len(text) > log.TEXT_LIMIT:
        raise UsageError(
            f"{what} has {len(text):,} characters; the record keeps {log.TEXT_LIMIT}",
            "the command line",
            "write it into a file of the branch, commit that, and name it here",
        )
    return text


def refuse_ended(project: Project, state: State, verb: str, step: str | None = None) -> None:
    """Refuse to steer a protocol that has ended. `step`: the name of the one that is meant, where the command names one.

    Raises:
        RefusedError: saying how it ended.
    """
    if state.status in ENDED:
        name = lookup.typed(project, state.protocol)
        back = f"`runner undo {name}` opens it again"
        if step is not None:
            slug = load.find_step(state, step)
            back = f"`runner undo {name} {slug}` goes back to before {slug}"
        what = f"{state.protocol} is {state.status}: there is nothing to {verb}"
        raise RefusedError(what, f"revision {state.revision}", back)


def refuse_unplanned(project: Project, state: State, verb: str) -> None:
    """Refuse a command about the plan while the planner's questions are open.

    Raises:
        RefusedError: naming the command that resumes.
    """
    if state.plan is None:
        raise RefusedError(
            f"{state.protocol} has no plan yet: there is nothing to {verb}",
            paths.folder(state.protocol),
            f"`{describe.resuming(project, state)}` resumes; or write plan.md and step files there yourself",
        )


def pause(session: Session, protocol: str, reason: str | None = None) -> Steered:
    """Stop the protocol for now. A step that is at work ends and is recorded; nothing follows it."""
    reason = text_of(reason, "the reason") if reason is not None else None

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        refuse_ended(session.project, seen.state, "pause")
        return [] if seen.state.status is Status.PAUSED else [ev.Paused(subject=protocol, reason=reason)]

    done = advance.record_events(session, protocol, build)
    if not done.entries:
        return steered(session, done.state, done.commit, "already paused")
    at_work = locks.is_held(session.dirs.lock(protocol)) is not None
    notes = ("the running step finishes and is recorded; no other step starts",) if at_work else ()
    return steered(session, done.state, done.commit, "paused", notes)


def resume(session: Session, protocol: str) -> Steered:
    """Resume a protocol that is paused, or that failed or is blocked although none of its steps is.

    A step whose file was deleted, committed or not, is no longer in the plan.

    Raises:
        RefusedError: it has ended, or a step failed or is blocked: that is for a retry.
    """

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        state, edit = seen.state, None
        refuse_ended(session.project, state, "resume")
        if state.status not in (Status.PAUSED, Status.BLOCKED, Status.FAILED):
            return []
        if state.status is not Status.PAUSED and state.stopped:
            _, edit, state, _ = advance.consider(session, seen)
        if state.status is not Status.PAUSED and (stopped := state.stopped):
            raise RefusedError(
                f"{protocol} {phrased(state.status)}: {machine.why(stopped[0], state.steps[stopped[0]])}",
                paths.folder(protocol),
                f"fix the cause, then `runner retry {lookup.typed(session.project, protocol)}`",
            )
        return [*([edit] if edit else []), ev.Resumed(subject=protocol)]

    seen, git = load.read(session, protocol), session.git
    trees = git.checked_out(session.project.branch(protocol))
    is_stopped = seen.state.status in (Status.FAILED, Status.BLOCKED)
    if is_stopped and record.out_of_plan(git, protocol, seen.tip, trees, seen.state.stopped):
        load.pick_up_edits(session, protocol, adopt=True)
    done = advance.record_events(session, protocol, build)
    said = "resumed" if done.entries else "it is not paused"
    return steered(session, done.state, done.commit, said)


def cancel(session: Session, protocol: str, reason: str | None = None) -> Steered:
    """End the protocol and stop its work: here at once, on other machines as they renew their lease. Its cost is recorded."""
    reason = text_of(reason, "the reason") if reason is not None else None

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        if seen.state.status is Status.CANCELLED:
            return []
        refuse_ended(session.project, seen.state, "cancel")
        return [ev.Cancelled(subject=protocol, reason=reason)]

    done = advance.record_events(session, protocol, build)
    said = "cancelled" if done.entries else "already cancelled"
    return Steered(protocol, said, notes=tuple(_stop(session, protocol)))


def _stop(session: Session, protocol: str) -> Iterator[str]:
    """Stop the runner of a cancelled protocol, and record its cost; yield the lines to print."""
    lock = session.dirs.lock(protocol)
    stopped = locks.signal_holder(lock, session.env, signals.STOP)
    try:
        with load.at_work(session, protocol, wait=STOPS_WITHIN if stopped else 0.0):
            paid = advance.record_paid(session, protocol)
    except HeldError as error:
        yield f"{error.what}: it stops when its step ends, and discards the result"
        return
    if stopped:
        yield "the running step was stopped"
    if paid:
        yield f"its cost so far, {paid}, is now recorded"
    if session.mirror is not None and session.project.publishes:
        with contextlib.suppress(UnreachableError):
            session.mirror.fetch(lease.ref_of(protocol))
        away = lease.at_work_elsewhere(session.project, protocol, remote.last_leases(session.project))
        if away is not None:
            within = seconds_of(session.project.config.lease.ttl) // 3
            yield f"{away.who} is running it elsewhere, and stops within {within} s, when it renews its lease"


def retry(session: Session, protocol: str, *, step: str | None = None, keep: bool | None = None) -> Steered:
    """Start a new attempt of a step: the failed or blocked one, or `step`. `keep`: from the work of the last attempt; without it,
    that of an agent that ended by itself, where it fits.

    Raises:
        RefusedError: nothing failed, or there is no work to keep. UsageError: it is not clear which step.
    """
    made = ""

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        nonlocal made
        state = seen.state
        name = lookup.typed(session.project, protocol)
        refuse_ended(session.project, state, "retry", step)
        slug = _to_retry(session.project, seen, step)
        attempt, kept = state.steps[slug].attempt, None
        ref = attempt_ref(protocol, slug, attempt)
        oid = session.git.ref(ref)
        if keep is False and record.work_of(session.git, protocol, seen.tip, slug) and not oid:
            back = f"`runner undo {name}@{before_work(session.git, protocol, seen.tip, slug)}` reverts it"
            raise RefusedError(f"the work of attempt {attempt} of {slug} is on the branch", seen.where, back)
        if keep is None and state.steps[slug].kind == StepKind.AGENT and _continues(session.project, seen, slug, oid):
            kept = ref
        if keep:
            kept, anew = ref, f"`runner retry {name}` without --keep starts over"
            if oid is None and record.work_of(session.git, protocol, seen.tip, slug):
                what = f"the work of attempt {attempt} of {slug} is on the branch, where every retry starts"
                raise RefusedError(what, seen.where, f"`runner retry {name}` without --keep starts from it")
            if oid is None:
                raise RefusedError(f"attempt {attempt} of {slug} left no work to start from", kept, anew)
            tree, conflicts = session.git.merge_trees(seen.tip, oid)
            if tree is None:
                raise RefusedError(f"the work of attempt {attempt} conflicts: {', '.join(conflicts[:5])}", kept, anew)
        made = f"{slug} will be retried (attempt {attempt + 1}{', from the work of the last one' if kept else ''})"
        return [ev.StepRetried(subject=slug, attempt=attempt + 1, kept=kept)]

    done = advance.record_events(session, protocol, build)
    return steered(session, done.state, done.commit, made)


def _continues(project: Project, seen: Snapshot, slug: str, oid: str | None) -> bool:
    """Return whether a retry starts from the kept work of the last attempt, `oid`: of one that failed, in files that steps may
    change, and without conflicts with newer commits."""
    if oid is None or seen.state.steps[slug].status is not StepStatus.FAILED:
        return False
    tree, _ = project.git.merge_trees(seen.tip, oid)
    return tree is not None and not any(map(paths.is_for_people, project.git.changed(seen.tip, tree)))


def _to_retry(project: Project, seen: Snapshot, name: str | None) -> str:
    state, where = seen.state, paths.folder(seen.protocol)
    stopped = state.stopped
    typed = lookup.typed(project, state.protocol)
    if name is None:
        if not stopped:
            trees = project.git.checked_out(project.branch(seen.protocol))
            can = state.status in ACTIVE and not any(worktree.uncommitted(project.git, tree, where) for tree in trees)
            known = state.open_steps() if can else ()
            again = [slug for slug, _ in known if _is_retriable(state, slug)]
            more = f"; `runner retry {typed} --step {again[-1]}` does that step again" if again else ""
            raise RefusedError(
                "nothing failed: there is no step to retry",
                where,
                f"`{describe.resuming(project, state)}` resumes{more}",
            )
        if len(stopped) > 1:
            raise UsageError(f"{len(stopped)} steps failed: {', '.join(stopped)}", where, "name one: --step SLUG")
        return stopped[0]
    slug = load.find_step(state, name)
    status = state.steps[slug].status
    if status not in event_type("step-retried").steps:
        wait = next((one for one in state.waiting if one.subject == slug), None)
        ends = f"runner answer {typed} {slug} {wait.type.answer}" if wait and wait.type.answer else ""
        what = f"{slug} waits for {wait.by}" if wait else f"{slug} is {status}"
        hint = f"`{ends or describe.resuming(project, state)}` continues it"
        if stopped:
            hint = f"`runner retry {typed}` without --step retries {stopped[0]}, which failed"
        raise RefusedError(f"{what}: it did not fail", where, hint)
    if not _is_retriable(state, slug):
        revision = before_work(project.git, state.protocol, seen.tip, slug)
        back = f"`runner undo {typed}@{revision}` reverts it, and the next run does the step again"
        raise RefusedError(f"the work of {slug} waits for an approval", where, back)
    return slug


def _is_retriable(state: State, slug: str) -> bool:
    """Return whether a step ended, and its work does not wait for an approval."""
    waits = any(wait.subject == slug and wait.kind in OF_WORK for wait in state.waiting)
    return state.steps[slug].status in event_type("step-retried").steps and not waits


def answer(session: Session, protocol: str, which: str | None, text: str) -> Steered:
    """Answer what waits for a person: `which` names the wait (w12) or its step; None where one thing waits.

    For an effect without a known outcome, `text` is `happened` or `did-not`.

    Raises:
        UsageError: nothing waits, several things wait, or the answer is not one of those that are possible.
    """
    text = text_of(text, "the answer")
    answered: Wait | None = None

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        nonlocal answered
        if seen.state.status in ENDED and (
            earlier := divergence.last_answer(session.project, seen, _subject(seen, which))
        ):
            where = f"revision {seen.state.revision}"
            hint = f"`runner log {lookup.typed(session.project, protocol)}` shows it"
            raise RefusedError(f"{protocol} {phrased(seen.state.status)}; {earlier}", where, hint)
        refuse_ended(session.project, seen.state, "answer")
        answered = _to_answer(session.project, seen, which)
        if answered.kind == "effect":
            return [_decided(answered, text, session.actor())]
        return [ev.Answered(subject=answered.subject, wait=answered.id, text=text, by=session.actor())]

    done = advance.record_events(session, protocol, build, as_person=True)
    assert answered is not None
    notes = left_out(session.project, protocol) if answered.kind == "human" else ()
    return steered(session, done.state, done.commit, f"{answered.subject} answered", notes)


def _decided(wait: Wait, text: str, by: str) -> ev.EffectDecided:
    if text not in EFFECT:
        raise UsageError(
            f"`{text}` does not say whether it happened",
            f"{wait.subject}: {wait.text}",
            "check whether it is there, then answer `happened` or `did-not`",
        )
    return ev.EffectDecided(subject=wait.subject, wait=wait.id, happened=EFFECT[text], by=by)


def _to_answer(project: Project, seen: Snapshot, which: str | None) -> Wait:
    state, where = seen.state, paths.folder(seen.protocol)
    subject = _subject(seen, which)
    typed = lookup.typed(project, state.protocol)
    if which is None:
        found = [wait for wait in state.waiting if wait.type.ended_by == "answer"]
    else:
        found = [wait for wait in state.waiting if which == wait.id] or [
            wait for wait in state.waiting if wait.subject == subject
        ]
    there = ", ".join(f"{wait.id} ({wait.subject})" for wait in state.waiting if wait.type.ended_by == "answer")
    others = [f"{wait.id} waits for {wait.kind} {wait.subject}" for wait in state.waiting]
    if not found and which is None and others and not there:
        hint = f"`runner status {typed}` shows what to type"
        raise RefusedError(f"{', '.join(others)}, not for an answer", where, hint)
    if not found:
        next_ = describe.resuming(project, state)
        shows = f"run `runner status {typed}` to see its status"
        runs = f"`{next_}` continues until one is asked for" if next_.startswith("runner run ") else shows
        raise UsageError(
            divergence.last_answer(project, seen, subject)
            or f"nothing waits for an answer{f' as `{which}`' if which else ''}",
            where,
            f"what waits: {there}" if there else runs,
        )
    if len(found) > 1:
        answers = f"runner answer {typed}"
        named = "; ".join(f"`{answers} {one.id} TEXT` (`{one.subject}`: {headline(one.text)})" for one in found)
        raise UsageError(f"{len(found)} questions wait for an answer", where, named)
    if found[0].type.ended_by != "answer":
        raise RefusedError(f"{found[0].id} waits for {found[0].kind}, not for an answer", where, found[0].text)
    return found[0]


def _subject(seen: Snapshot, which: str | None) -> str | None:
    """Return the slug of the step that `which` names, or `which` itself if it names a wait."""
    places = {slug: step.place for slug, step in seen.state.steps.items()}
    return which and (ids.step_at(which, places) or which)


def left_out(project: Project, protocol: str) -> tuple[str, ...]:
    """Return a line about the person's changes that are in no commit, so no part of the step that they have just ended."""
    for tree, changed in _uncommitted(project, protocol):
        at = shlex.quote(str(tree.path))
        return (f"not committed, so not part of it: {few(changed)}; `cd {at} && git add -A && git commit` adds it",)
    return ()


def _uncommitted(project: Project, protocol: str) -> Iterator[tuple[Worktree, list[str]]]:
    """Yield the worktrees of a protocol that have changes which are in no commit, with the paths."""
    git = project.git
    for tree in git.checked_out(project.branch(protocol)):
        code, out, _ = git.try_run(
            "status", "--porcelain=v1", "-z", "--untracked-files=normal", "--no-renames",
            git_dir=tree.git_dir, work_tree=tree.path, config=worktree.conversions(git),
        )  # fmt: skip
        changed = [line[3:] for line in out.decode("utf-8", "surrogateescape").split("\0") if len(line) > 3]
        if code == 0 and changed:
            yield tree, changed


def commit_left(session: Session, protocol: str, text: str) -> str | None:
    """Commit, as the person, what they wrote in the protocol's worktree but for plan files, which are picked up by themselves.

    None where there is nothing. What else is staged stays staged.

    Raises:
        ConflictError: the branch moved meanwhile.
    """
    git, branch = session.git, session.project.branch(protocol)
    for tree, changed in _uncommitted(session.project, protocol):
        named = [path for path in changed if not path.startswith(f"{paths.ROOT}/")]
        old = git.ref(branch)
        if not named or old is None:
            continue
        at = Options(git_dir=tree.git_dir, work_tree=tree.path, config=worktree.conversions(git))
        git.run("add", "--all", "--", *named, **at)
        with worktree.locked(tree, session.env) as index:  # without what else is staged
            apart = Options(git_dir=tree.git_dir, work_tree=tree.path, config=at["config"], index=index)
            git.run("read-tree", old, **apart)
            git.run("add", "--all", "--", *named, **apart)
            made = git.run("write-tree", **apart).decode().strip()
        new = git.person_commit(made, (old,), session.person(), f"{protocol}: {text}\n".encode())
        with locks.hold(session.dirs.publish_lock(branch), session.env, what=branch, wait=transaction.PUBLISH_WAIT):
            git.update_refs({branch: (new, old)}, "runner: answer")
        return new
    return None
