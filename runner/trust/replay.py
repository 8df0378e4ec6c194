"""Words judged again, at each event that used them, as they stood then (design §4).

An `approval-counted` or `call-decided` holds where `approval.judge` finds the same words to count: under the policy of the event's
`Runner-Trusted`, in the tree and state before it, at the time that its entry tells; revocations are those of the trusted branch as it
is now. Nothing here is asked of a chain that has no such event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.errors import InsufficientHistoryError, IntegrityError, RunnerError
from runner.git import BLOB, TREE, Git
from runner.protocol import events as ev
from runner.protocol import log, machine, message, paths, state
from runner.protocol import plan as plan_
from runner.protocol.events import Entry
from runner.protocol.log import RawEntry
from runner.protocol.plan import Plan
from runner.protocol.state import State
from runner.protocol.statement import seconds
from runner.trust import approval, authority, waits
from runner.trust.approval import Asked, Bench, Standing
from runner.trust.authority import Authority
from runner.trust.checks import Chain, Look, at, missing
from runner.trust.demand import KEYBOARD

Word = ev.ApprovalCounted | ev.CallDecided
# How a transition in which a step was at work can end; only then may people's commits have come between.
_WORK = (
    ev.StepFinished, ev.StepFailed, ev.StepBlocked, ev.CallHeld, ev.Asked, ev.EffectUnknown, ev.BudgetReached,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ground:
    """What one event was judged on. `commit`: the branch's tip then; `state`: with the edit that was taken up first."""

    commit: str
    state: State
    plan: Plan
    chain: dict[str, int]


def wrong(git: Git, walk: Chain, look: Look) -> Iterator[str]:
    """Return what does not hold of the words that a transition's events used.

    Raises:
        InsufficientHistoryError: an object that says whose word counted is not in this clone.
    """
    assert look.trailers is not None and look.parent is not None
    known = _known(git, walk)
    for entry in look.entries:
        event = entry.event
        if isinstance(event, Word):
            found = _authority(git, walk, look.trailers.trusted)
            text = found if isinstance(found, str) else _judged(git, walk, look, entry, event, found, known)
            if text is not None:
                yield f"`{event.name}` of {event.subject}: {text}"
            else:
                walk.counted.update(event.approvals)
                walk.reviews += len(event.reviews)
        known.append(RawEntry(entry.revision, event.name, event.subject, entry.time, entry.actor, ev.fields_of(event)))


def went_back(git: Git, walk: Chain, look: Look) -> Iterator[str]:
    """Return what is wrong with the policy that a transition's words were counted under: that it is an older one, or no one's."""
    assert look.trailers is not None and look.parent is not None
    now = look.trailers.trusted
    _there(git, now)
    chain = approval.chain_of(git, walk.protocol, look.parent.oid)
    if now in chain:
        yield f"the policy is taken from {now[:12]}, a commit of the protocol's own branch"
        return
    if walk.trusted is not None and walk.trusted.remote is None:
        return  # a local branch, which whoever works here may rewrite
    judged = {getattr(event, "at", None) for event in look.events if isinstance(event, Word)}
    since = min((oid for oid in judged if oid in chain), key=chain.__getitem__, default=look.parent.oid)
    for before in newer(git, walk.protocol, since, now):
        yield f"the policy went back: it was that of {before[:12]} before, and is that of {now[:12]}"
    if walk.trusted is not None and walk.trusted.commit != now:
        yield from _off_branch(git, walk.trusted.commit, now, walk.trusted.branch)


def newer(git: Git, protocol: str, tip: str, now: str) -> Iterator[str]:
    """Return the trusted branch's commits that the chain up to `tip` tells of and that `now` does not go on from.

    Raises:
        InsufficientHistoryError: one of them is not in this clone.
    """
    told = (message.parse(_message(git, oid)) for oid in approval.chain_of(git, protocol, tip))
    for before in dict.fromkeys(one.trusted for one in told if one and one.protocol == protocol):
        if before != now and not _is_below(git, before, now):
            yield before


def _off_branch(git: Git, seen: str, now: str, branch: str) -> Iterator[str]:
    _there(git, seen)
    if git.is_ancestor(now, seen):
        between = git.first_parents(seen, stop=now)
        last = git.commit(between[-1]) if between else None
        if last is None or last.parents[:1] != (now,):
            yield f"the policy is that of {now[:12]}, which {branch} never was at"
    elif git.is_ancestor(seen, now):
        raise InsufficientHistoryError(
            f"{branch} was last seen here at {seen[:12]}, before the policy of {now[:12]} held",
            f"{branch}, last seen",
            "run `runner sync` to look at it again, then `runner verify`",
        )
    elif git.is_shallow():
        raise missing(git, f"the history of {branch}")
    else:
        yield f"the policy is that of {now[:12]}, which {branch} never was at"


def _is_below(git: Git, old: str, new: str) -> bool:
    _there(git, old)
    if git.is_ancestor(old, new):
        return True
    if git.is_shallow():
        raise missing(git, f"the history of {new[:12]}")
    return False


def _there(git: Git, oid: str) -> None:
    if git.commit(oid) is None:
        raise missing(git, f"commit {oid[:12]} of the trusted branch")


def _message(git: Git, oid: str) -> bytes:
    commit = git.commit(oid)
    assert commit is not None  # of a chain that was walked
    return commit.message


def _known(git: Git, walk: Chain) -> list[RawEntry]:
    """Return the whole log as it stood before the commit."""
    data = b""
    for name in sorted(name for name in walk.record if name.startswith("log/")):
        segment = git.blob(walk.record[name].oid)
        if segment is None:
            raise missing(git, name)
        data += segment
    return log.parse_raw(data + walk.log, at(walk, paths.LOG))


def _authority(git: Git, walk: Chain, oid: str) -> Authority | str:
    """Return what the trusted branch said at a commit, or why nobody's word could count there."""
    if oid not in walk.authorities:
        branch = walk.trusted.branch if walk.trusted else "the trusted branch"
        now = walk.trusted.commit if walk.trusted else oid
        for one in (oid, now):
            _whole(git, one)
        try:
            walk.authorities[oid] = authority.load(git, oid, branch, revoked_at=now)
        except InsufficientHistoryError:
            raise
        except RunnerError as error:
            walk.authorities[oid] = f"by {oid[:12]} no word could count: {error.what}, {error.where}"
    found = walk.authorities[oid]
    assert isinstance(found, Authority | str)
    return found


def _whole(git: Git, oid: str) -> None:
    """Check that what says whose word counts is in this clone: a file that is not there is told from one that never was."""
    _there(git, oid)
    commit = git.commit(oid)
    assert commit is not None
    root = git.tree(commit.tree)
    entry = root.get(paths.ROOT) if root is not None else None
    if root is None or (entry is not None and entry.mode == TREE and git.tree(entry.oid) is None):
        raise missing(git, f"the tree of {oid[:12]}")
    files = (git.tree(entry.oid) or {}) if entry is not None and entry.mode == TREE else {}
    for path in (paths.POLICY, paths.SIGNERS, paths.REVOKED, paths.CONFIG):
        file = files.get(path.rpartition("/")[2])
        if file is not None and file.mode == BLOB and git.sizes([file.oid])[0] is None:
            raise missing(git, f"{path} of {oid[:12]}")


def _ground(git: Git, walk: Chain, look: Look, event: Word) -> Ground | str:
    """Return what the event was judged on: the commit before it or, where the work was merged onto others', the one that it names."""
    assert look.parent is not None and look.before is not None
    chain = approval.chain_of(git, walk.protocol, look.parent.oid)
    commit, then = event.at or look.parent.oid, look.before
    if commit not in chain:
        return f"it was judged at {commit[:12]}, which is no commit of the branch before it"
    if commit != look.parent.oid and not any(isinstance(one, _WORK) for one in look.events):
        return f"it was judged at {commit[:12]}, and no work that began there ends here"
    work = look.first(ev.StepFinished)
    if (
        event.at
        and isinstance(event, ev.ApprovalCounted)
        and isinstance(work, ev.StepFinished)
        and work.start != event.at
    ):
        return f"it was judged at {commit[:12]}, and the work began at {work.start[:12]}"
    where = f"{paths.folder(walk.protocol)} in {commit[:12]}"
    files = git.tree(f"{commit}:{paths.folder(walk.protocol)}") or {}
    if event.at:
        data = git.blob(files[paths.STATE].oid) if paths.STATE in files else None
        if data is None:
            return f"there is no state in {commit[:12]}"
        then = state.load(data, where)
    told = {}
    for name, file in files.items():
        if name.endswith(".md") and name != paths.LOG:
            text = git.blob(file.oid)
            if text is None:
                raise missing(git, f"{name} of {commit[:12]}")
            told[name] = text
    plan = plan_.parse(told, where)
    edit = machine.edit_of(then, plan) if then.status in machine.OPEN else None
    if edit is not None:
        then = machine.apply(then, Entry(then.revision + 1, "", "", edit))
    return Ground(commit, then, plan, chain)


def _judged(
    git: Git, walk: Chain, look: Look, entry: Entry, event: Word, found: Authority, known: list[RawEntry]
) -> str | None:
    """Return why an event that used words does not hold, or None."""
    try:
        ground = _ground(git, walk, look, event)
    except InsufficientHistoryError:
        raise
    except RunnerError as error:
        return f"{error.what}, {error.where}"
    if isinstance(ground, str):
        return ground
    wait = next((one for one in ground.state.waiting if one.id == event.wait), None)
    if wait is None or wait.kind not in waits.KINDS or (wait.kind == "call") != isinstance(event, ev.CallDecided):
        return f"{event.wait} is no wait for such a word"
    if wait.subject != event.subject:
        return f"{event.wait} is about {wait.subject}"
    if event.by in (KEYBOARD, [KEYBOARD]):
        return _at_keyboard(git, walk, ground, event, found)
    try:
        subject = waits.subject_of(wait, ground.state, known)
        asked = waits.demanded(found, subject, wait.text, ground.plan, paths.folder(walk.protocol))
    except RunnerError as error:
        return f"{error.what}, {error.where}"
    if asked is None or asked.keyboard:
        return f"no signed word was needed by the policy of {found.commit[:12]}"
    time = seconds(entry.time)
    if time <= 0:
        return f"there was no such time: {entry.time}"
    bench = Bench(git, walk.protocol, ground.commit, ground.state, found, time)
    try:
        asking = Asked.of(bench, wait) if event.reviews else None
        standing = approval.judge(bench, asked, ground.plan, waits.used(subject, known), event.reviews, asking)
    except IntegrityError as error:
        if git.is_partial() or git.is_shallow():
            raise missing(git, error.what) from error
        raise
    return _differs(event, standing, bench.words())


def _differs(event: Word, standing: Standing, found: Sequence[approval.Word]) -> str | None:
    """Return how the event differs from what is found, or None. `found`: every word there is."""
    words, by = standing.rejected or standing.counted, event.by
    if isinstance(event, ev.CallDecided):
        decided = "rejected" if standing.rejected else "approved" if standing.satisfied else ""
        holds, by = event.decision == decided, event.by.split(", ")
    else:
        holds = standing.satisfied
    reviews = [] if standing.rejected else [one for one in standing.reviews if one.fault is None]
    names = [word.approver for word in words] + [one.approver for one in reviews]
    told = [one.fields for one in reviews]
    if holds and event.approvals == [word.id for word in words] and by == names and event.reviews == told:
        return None
    faults = {word.id: f"{word.fault}: {word.text}" for word in (*found, *standing.refused) if word.fault is not None}
    why = [faults[one] for one in event.approvals if one in faults]
    why += [f"a review, {one.fault}: {one.text}" for one in standing.reviews if one.fault is not None]
    if not why and not holds:
        why = [f"{word.approver} rejected it" for word in standing.rejected] or [f"missing: {standing.missing}"]
    return "; ".join(why[:3]) or f"other words count: {', '.join(word.approver for word in words) or 'none'}"


def _at_keyboard(git: Git, walk: Chain, ground: Ground, event: Word, found: Authority) -> str | None:
    """Return why a word that was given at a terminal does not hold, or None: it serves where there is no policy, and never was."""
    if event.approvals:
        return "it was given at a keyboard, and names words that are signed"
    if found.policy is not None:
        return f"it was given at a keyboard, and there was a policy in {found.commit[:12]}"
    for oid in ground.chain:
        told = message.parse(_message(git, oid))
        if told and told.protocol == walk.protocol and told.trusted != found.commit:
            other = _authority(git, walk, told.trusted)
            if isinstance(other, str) or other.policy is not None:
                return f"it was given at a keyboard, and there had been a policy in {told.trusted[:12]}"
    return None
