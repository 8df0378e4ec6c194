"""Words judged again, at each event that used them, as they stood then (design §4).

An `approval-counted` or `call-decided` holds where `approval.judge` finds the same words to count: under the policy of the event's
`Runner-Trusted`, in the tree and state before it, at the time that its entry tells; revocations are those of the trusted branch as it
is now. Nothing here is asked of a chain that has no such event.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from runner.errors import InsufficientHistoryError, RunnerError
from runner.git import BLOB, TREE, Git
from runner.protocol import events as ev
from runner.protocol import log, machine, paths, plans, state
from runner.protocol.approval_file import seconds
from runner.protocol.event_types import event_type
from runner.protocol.events import Entry
from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan
from runner.protocol.state import State
from runner.trust import approval, authority, signers, waits
from runner.trust import bench as bench_
from runner.trust.approval import Standing
from runner.trust.authority import Authority
from runner.trust.bench import Asked, Bench
from runner.trust.checks import Chain, Look, at
from runner.trust.demand import KEYBOARD
from runner.trust.past import Past, commit_of, folder_of, missing
from runner.values import dataclass

Word = ev.ApprovalCounted | ev.CallDecided


@dataclass(frozen=True, slots=True)
class Ground:
    """What one event was judged on. `commit`: the branch's tip then; `state`: with the edit that was taken up first."""

    commit: str
    state: State
    plan: Plan
    past: Past


def wrong(git: Git, walk: Chain, look: Look) -> Iterator[str]:
    """Return what does not hold of the words that a transition's events used.

    Raises:
        InsufficientHistoryError: an object that says whose word counted is not in this clone.
    """
    assert look.trailers is not None and look.parent is not None
    known = list(known_of(git, walk))
    for entry in look.entries:
        event = entry.event
        if isinstance(event, Word):
            found = authority_at(git, walk, look.trailers.trusted)
            text = found if isinstance(found, str) else _judged(git, walk, look, entry, event, found, known)
            if text is not None:
                walk.doubted.add(entry.revision)
                yield f"`{event.name}` of {event.subject}: {text}"
            else:
                walk.counted.update(event.approvals)
                walk.reviews += len(event.reviews)
        known.append(RawEntry(entry.revision, event.name, event.subject, entry.time, entry.actor, ev.fields_of(event)))


def is_done(names: Iterable[str]) -> bool:
    """Return whether one of these events started, planned, carried out or checked something: its policy was compared then."""
    return any(row.role in ("start", "plan", "work", "qa") and not row.opens for row in map(event_type, names))


def told(git: Git, protocol: str, tip: str, *, whole: bool) -> Iterator[str]:
    """Return the trusted commits that the chain up to `tip` tells of.

    Without `whole` back to the last transition that did something.
    """
    found: set[str] = set()
    at: str | None = tip
    while at is not None:
        commit = git.commit(at)
        if commit is None:
            raise missing(git, f"commit {at[:12]}")
        trailers = log.parse_message(commit.message)
        at = commit.parents[0] if commit.parents else None
        if trailers is None or trailers.protocol != protocol:
            continue
        if trailers.trusted not in found:
            found.add(trailers.trusted)
            yield trailers.trusted
        names = {event.partition(" ")[0] for event in trailers.events}
        if "created" in names or (not whole and is_done(names)):
            return


def rules_of(git: Git, oid: str) -> tuple[str | None, ...] | None:
    """Return which policy, keys, configuration and coworkers a trusted commit has, the policy first.

    None where it is not in this clone.
    """
    if git.commit(oid) is None:
        return None
    files = git.tree(f"{oid}:{paths.ROOT}") or {}
    said = (paths.POLICY, paths.SIGNERS, signers.OPENPGP, paths.CONFIG, paths.AGENTS)
    names = [path.rstrip("/").rpartition("/")[2] for path in said]
    return tuple(files[name].oid if name in files else None for name in names)


def rules_at(git: Git, walk: Chain, oid: str) -> tuple[str | None, ...]:
    """Return what `rules_of` does, asked once; a commit that is not in this clone is missing."""
    if oid not in walk.rules:
        there(git, oid)
        walk.rules[oid] = rules_of(git, oid) or ()
    return walk.rules[oid]


def differs(git: Git, one: str, other: str) -> bool:
    """Return whether two trusted commits may say something else about who may do what.

    Where one is not in this clone, that is so wherever the other has a policy.
    """
    if one == other:
        return False
    known, now = rules_of(git, one), rules_of(git, other)
    return known != now if known is not None else now is None or now[0] is not None


def is_below(git: Git, old: str, new: str) -> bool:
    there(git, old)
    if git.is_ancestor(old, new):
        return True
    if git.is_shallow():
        raise missing(git, f"the history of {new[:12]}")
    return False


def there(git: Git, oid: str) -> None:
    if git.commit(oid) is None:
        raise missing(git, f"commit {oid[:12]} of the trusted branch")


def past_of(git: Git, walk: Chain, look: Look) -> Past:
    """Return the chain as it stood before the commit."""
    if walk.past is None:
        assert look.parent is not None
        walk.past = Past.walked(git, walk.protocol, look.parent.oid)
    return walk.past


def known_of(git: Git, walk: Chain) -> list[RawEntry]:
    """Return the whole log as it stood before the commit; it grows with the walk."""
    if walk.known is None:
        walk.known = _read_log(git, walk)
    return walk.known


def _read_log(git: Git, walk: Chain) -> list[RawEntry]:
    data = b""
    for name in sorted(name for name in walk.record if name.startswith("log/")):
        segment = git.blob(walk.record[name].oid)
        if segment is None:
            raise missing(git, name)
        data += segment
    return log.parse_raw(data + walk.log, at(walk, paths.LOG))


def authority_at(git: Git, walk: Chain, oid: str) -> Authority | str:
    """Return what the trusted branch said at a commit, or why nobody's word could count there."""
    if oid not in walk.authorities:
        branch = walk.trusted.branch if walk.trusted else "the trusted branch"
        now = walk.trusted.commit if walk.trusted else oid
        for one in (oid, now):
            _whole(git, one)
        folder = git.tree(f"{oid}:{paths.ROOT}") or {}
        names = (paths.POLICY, paths.SIGNERS, paths.REVOKED, paths.CONFIG, signers.OPENPGP.rstrip("/"))
        said = tuple(folder.get(name.rpartition("/")[2]) for name in names)
        try:
            same = walk.said.get(said)
            found = same.at(oid) if same is not None else authority.load(git, oid, branch, revoked_at=now)
            walk.authorities[oid] = walk.said[said] = found
        except InsufficientHistoryError:
            raise
        except RunnerError as error:
            walk.authorities[oid] = f"by {oid[:12]} no word could count: {error.what}, {error.where}"
    known = walk.authorities[oid]
    assert isinstance(known, Authority | str)
    return known


def _whole(git: Git, oid: str) -> None:
    """Check that what says whose word counts is in this clone: a file that is not there is told from one that never was."""
    there(git, oid)
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
    assert look.parent is not None
    past = past_of(git, walk, look)
    commit = event.at or look.parent.oid
    if commit not in past.places:
        return f"it was judged at {commit[:12]}, which is no commit of the branch before it"
    if commit != look.parent.oid and not any(one.type.role == "work" for one in look.events):
        return f"it was judged at {commit[:12]}, and no work that began there ends here"
    work = look.first(ev.StepFinished)
    if (
        event.at
        and isinstance(event, ev.ApprovalCounted)
        and isinstance(work, ev.StepFinished)
        and work.start != event.at
    ):
        return f"it was judged at {commit[:12]}, and the work began at {work.start[:12]}"
    found = ground_at(git, walk, look, commit)
    return found if isinstance(found, str) else edited(found)


def edited(found: Ground) -> Ground:
    """Return the ground with the edit taken up that a transition there would begin with."""
    edit = machine.edit_of(found.state, found.plan) if found.state.status in machine.OPEN else None
    if edit is None:
        return found
    then = machine.apply(found.state, Entry(found.state.revision + 1, "", "", edit))
    return dataclasses.replace(found, state=then)


def ground_at(git: Git, walk: Chain, look: Look, commit: str) -> Ground | str:
    """Return plan and state as they stand in a commit of the chain before the transition, or why there are none.

    Raises:
        MalformedFileError: the plan cannot be read.
    """
    assert look.parent is not None and look.before is not None
    where = f"{paths.folder(walk.protocol)} in {commit[:12]}"
    folder = folder_of(git, commit_of(git, commit).tree, walk.protocol)
    files = (git.tree(folder) or {}) if folder is not None else {}
    then = look.before
    if commit != look.parent.oid:
        data = git.blob(files[paths.STATE].oid) if paths.STATE in files else None
        if data is None:
            return f"there is no state in {commit[:12]}"
        then = state.load(data, where)
    mine = tuple((name, file.oid) for name, file in files.items() if name.endswith(".md") and name != paths.LOG)
    if walk.plan is None or walk.plan[0] != mine:
        told = {}
        for name, oid in mine:
            text = git.blob(oid)
            if text is None:
                raise missing(git, f"{name} of {commit[:12]}")
            told[name] = text
        walk.plan = mine, plans.parse(told, where)
    return Ground(commit, then, walk.plan[1], past_of(git, walk, look))


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
    if wait is None or wait.kind not in event.type.ends:
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
    if asked is None:
        return f"no signed word was needed by the policy of {found.commit[:12]}"
    bench = bench_of(git, walk, ground, found, seconds(entry.time))
    asking = Asked.of(bench, wait) if event.reviews else None
    standing = approval.judge(bench, asked, ground.plan, waits.used(subject, known), event.reviews, asking)
    return _differs(event, standing, bench.words())


def bench_of(git: Git, walk: Chain, ground: Ground, found: Authority, time: int) -> Bench:
    """Return what judging words takes, on what stood there then."""
    return Bench(git, walk.protocol, ground.commit, ground.state, found, time, past=ground.past)


def _differs(event: Word, standing: Standing, found: Sequence[bench_.Word]) -> str | None:
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
    for told, place in ground.past.told.items():
        if told != found.commit and place <= ground.past.places[ground.commit]:
            other = authority_at(git, walk, told)
            if isinstance(other, str) or other.policy is not None:
                return f"it was given at a keyboard, and there had been a policy in {told[:12]}"
    return None
