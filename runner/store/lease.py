"""The lease on the remote: of all clones one runner at a time works on a protocol that is published (design §6).

Taken by compare-and-swap before something acts, in a push that also shows that the branch has not moved since it was looked at;
renewed beside the work at a third of its time; given up in the push that publishes the work, so a runner that lost it cannot
publish. In between it carries the effects that were announced. It is kept on the remote alone: here only the mirror knows of
it, and a note says which one is ours.

It is held within the protocol's `flock`: a lease that this clone took and that no process here holds is taken again at once.
Another's is taken where it has not moved for its time and the grace, as this machine has seen it pass: clocks of two machines are
never compared for that (ADR 0009).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from runner.errors import (
    ConflictError,
    HeldError,
    InsufficientHistoryError,
    IntegrityError,
    RunnerError,
    UnreachableError,
)
from runner.git import Git, Ident
from runner.protocol import log, ref_files, transcript
from runner.protocol.event_types import event_type
from runner.protocol.plans import seconds_of
from runner.protocol.ref_files import Lease
from runner.store import history, record, remote
from runner.store.environment import Clone, timestamp, write_atomically
from runner.store.project import HeldLease, Intents, Project, Session
from runner.store.remote import Mirror

RACES = 20  # how often an announcement makes way for people's commits
LEAVE_SECONDS = 10.0  # what giving a lease up may take where nothing is published with it
RENEW_SECONDS = 30.0  # what a renewal may take
LOOKS = 10  # how often a lease that seems left is looked at while it is waited for

Changes = Mapping[str, tuple[str | None, str | None]]
IsOver = Callable[[str], bool]  # whether a CI says that its job, by its address, is over


def take(session: Session, protocol: str, is_over: IsOver = lambda job: False, *, decided: str | None = None) -> bool:
    """Have the lease, where the protocol is published; False where the branch has moved on the remote: look at it, and decide again.

    `decided`: the tip here that was decided on. Another process of this clone may have fetched a later one into the mirror since, and
    a push that expects the later one would not show that this one is out of date.

    Where nothing is published from here none is taken, and in a job of a CI that of another runner is respected all the same.
    While the remote is away there is none. One that is held already is still ours when this returns.

    Raises:
        HeldError: another runner has it. UnreachableError: it could not be taken; nothing was started.
    """
    assert session.lease is None or session.lease.protocol == protocol
    mirror, publishes = session.mirror, session.project.publishes
    _let_go_if_taken_here(session)
    if session.lease is not None:
        ensure(session)
        return True
    if mirror is None or not (publishes or session.project.is_ephemeral):
        return True
    ref, branch = ref_of(protocol), session.project.branch(protocol)
    old = _left(session.project, mirror, protocol, is_over)
    if not publishes:
        return True
    there = mirror.ref(branch)
    if there is not None and decided is not None and not session.git.is_ancestor(there, decided):
        return False
    last, intents = _read(session.project, old, ref) if old is not None else (None, {})
    ttl, since = float(seconds_of(session.project.config.lease.ttl)), session.env.lasting()
    lease = Lease(
        holder=ref_files.printable(session.actor()),
        host=_host(session.project),
        ci=ci_job(session.env.environ),
        expires=session.env.timestamp(ttl),
        nonce=session.env.random_hex(32),
    )
    # Till this one is there, the last one is still ours: whoever dies in between is not locked out by itself.
    before = _mine(session.project, last) if last is not None and _is_mine(session.project, protocol, last) else ""
    write_atomically(session.dirs.lease(protocol), f"{before}{_mine(session.project, lease)}".encode())
    new = _commit(session.git, session.project.runner(), protocol, lease, intents, old)
    changes: dict[str, tuple[str | None, str | None]] = {ref: (new, old)}
    if there is not None:
        changes[branch] = (there, there)
    try:
        mirror.push(changes)
    except ConflictError:
        if before:
            write_atomically(session.dirs.lease(protocol), before.encode())
        else:
            _forget_note(session.project, protocol, lease)
        session.trust(mirror.look(branch, history.ref_of(protocol), ref))
        return False
    except UnreachableError as error:
        raise UnreachableError(
            f"the lease of {protocol} could not be taken: {error.what}",
            error.where,
            "nothing was started; `--publish never` works here alone, and `runner sync` publishes it",
        ) from error
    session.lease = held = HeldLease(protocol, lease, new, since, ttl, session.project.runner(), intents, there)
    held.stop = session.env.beside(held.every, lambda: _beat(session, held))
    with contextlib.suppress(OSError):
        session.dirs.seen_lease(protocol).unlink()
    if last is not None and (intents or last.expires is not None):
        carried = f", with what it announced: {', '.join(sorted(intents))}" if intents else ""
        session.env.say(f"took over the lease of {protocol}{carried}")
    return True


# --- another runner's --------------------------------------------------------------------------------------------------


def _left(project: Project, mirror: Mirror, protocol: str, is_over: IsOver) -> str | None:
    """Return the commit of a lease that may be taken over, None where there is none.

    Raises:
        HeldError: it is another runner's, which may be alive.
    """
    ref, env = ref_of(protocol), project.env
    old = mirror.ref(ref)
    if old is None or _may_take(project, protocol, old, is_over):
        return old
    mirror.fetch(ref)  # it may have been given up since
    old = mirror.ref(ref)
    if old is None or _may_take(project, protocol, old, is_over):
        return old
    lease = _read(project, old, ref)[0]
    patience, left = _patience(project), _seems_left(project, lease)
    if left and not project.publishes:
        return old  # such a job takes none, and what it makes decides nothing before another publishes it
    remembers = bool(not project.is_ephemeral and env.boot())
    if remembers or not left:
        until = project.env.timestamp(patience - notice(project, protocol, old))
        raise HeldError(
            f"{protocol} is held by another runner: {lease.text()}",
            mirror.url,
            f"wait for it; if it died, the same command takes over its lease from {until} on"
            if remembers
            else f"wait for it; if it died, a job watches its lease for {patience:g} s after the end, and takes it over",
        )
    # Nobody here could remember till the next command that it was seen, so it is watched by this one.
    env.say(
        f"the lease of {protocol} seems abandoned: {lease.text()}; it is taken over if it does not move for {patience:g} s"
    )
    began = env.lasting()
    while env.lasting() - began < patience:
        env.sleep(patience / LOOKS)
        mirror.fetch(ref)
        now = mirror.ref(ref)
        if now is None or (now != old and _may_take(project, protocol, now, is_over)):
            return now
        if now != old:
            raise HeldError(
                f"{protocol} is held by another runner: {_read(project, now, ref)[0].text()}",
                mirror.url,
                "wait for it: it is running",
            )
    return old


def notice(project: Project, protocol: str, oid: str) -> float:
    """Note that a lease is on the remote; return how long this machine has seen it there, standing still, in this start of its."""
    env, note = project.env, project.dirs.seen_lease(protocol)
    boot, now = env.boot(), env.lasting()
    if not boot:
        return 0.0
    try:
        noted = json.loads(note.read_bytes())
        if (noted["lease"], noted["boot"]) == (oid, boot) and noted["since"] <= now:
            return float(now - noted["since"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    write_atomically(note, json.dumps({"lease": oid, "boot": boot, "since": now}).encode() + b"\n")
    return 0.0


def _may_take(project: Project, protocol: str, oid: str, is_over: IsOver) -> bool:
    """Return whether a lease is nobody's: given up, of a dead process of this clone, of a job that is over, or seen too long."""
    lease, _ = _read(project, oid, ref_of(protocol))
    if lease.expires is None:
        return True
    if _is_mine(project, protocol, lease) and lease.host == _host(project):
        return True
    if notice(project, protocol, oid) >= _patience(project):
        return True
    return lease.ci is not None and lease.ci != ci_job(project.env.environ) and is_over(lease.ci)


def _patience(project: Project) -> float:
    return float(seconds_of(project.config.lease.ttl) + seconds_of(project.config.lease.grace))


def _seems_left(project: Project, lease: Lease) -> bool:
    """Return whether a lease has run out by this clock, or by none that agrees with it: a reason to watch, not to take it."""
    patience = _patience(project)
    grace = patience - seconds_of(project.config.lease.ttl)
    assert lease.expires is not None
    return not project.env.timestamp(-grace) <= lease.expires <= project.env.timestamp(patience)


# --- another runner's, as the remote was last seen -----------------------------------------------------------------------
# Read from the mirror's files, without the network, for display only. Whether a lease may be taken is `take`'s to say.


class Away(NamedTuple):
    """Who works elsewhere. `where`: machine and CI job; `since`: when the lease was taken; `asked`: when the remote was last asked, or
    None: that is not known."""

    who: str
    where: str
    since: str
    asked: float | None


def at_work_elsewhere(clone: Clone, protocol: str, leases: Mapping[str, str]) -> Away | None:
    """Return who works on a protocol elsewhere by the leases that are there (`remote.last_leases`); None where nobody does.

    One that has run out by this clock is of nobody who is known to work, and one that this clone took is no one else's.
    """
    git, oid = clone.git, leases.get(protocol)
    with contextlib.suppress(IntegrityError, InsufficientHistoryError):
        lease, since = _shown(clone, oid, protocol), oid
        if lease is None or lease.expires is None or lease.expires < clone.env.timestamp():
            return None
        if _is_mine(clone, protocol, lease):
            return None
        first = None
        while since is not None and (commit := git.commit(since)) is not None:
            first, since = commit, commit.parents[0] if commit.parents else None
            before = _shown(clone, since, protocol)
            if before is None or before.nonce != lease.nonce:
                break
        committed = re.search(rb"> (\d{1,11}) ", first.committer) if first is not None else None
        taken = int(committed[1]) if committed else 0  # of a commit that no runner made
        return Away(lease.holder, lease.where(), timestamp(taken), remote.last_looked(clone.dirs, protocol))
    return None


def _shown(clone: Clone, oid: str | None, protocol: str) -> Lease | None:
    """Return what a commit says of a lease, without what it announces."""
    data = clone.git.blob(f"{oid}:{ref_files.FILE}") if oid is not None else None
    return ref_files.parse(data, ref_of(protocol)) if data is not None and len(data) <= ref_files.SIZE else None


# --- ours --------------------------------------------------------------------------------------------------------------


def take_back(session: Session, protocol: str) -> None:
    """Have the lease again that this clone took and whose process is gone, so that it is given up in the next push.

    Called within the protocol's `flock`: nobody here is at work. What another clone has is left alone.
    """
    mirror, note = session.mirror, session.dirs.lease(protocol)
    _let_go_if_taken_here(session)
    if session.lease is not None or mirror is None or not note.exists():
        return
    refs = mirror.refs()
    oid = refs.get(ref_of(protocol))
    if oid is None:
        return
    lease, intents = _read(session.project, oid, ref_of(protocol))
    if _is_mine(session.project, protocol, lease):
        ttl, since = float(seconds_of(session.project.config.lease.ttl)), session.env.lasting()
        tip = refs.get(session.project.branch(protocol))
        session.lease = HeldLease(protocol, lease, oid, since, ttl, session.project.runner(), intents, tip)


def _let_go_if_taken_here(session: Session) -> None:
    """Hold a lease no more that another process of this clone took over, or gave up, between two steps of ours.

    Called within the protocol's `flock`, which is what has a say among the processes of a clone; the note's last line is the lease
    that the last of them took.
    """
    held = session.lease
    if held is None:
        return
    try:
        note = session.dirs.lease(held.protocol).read_text()
    except OSError:
        note = ""
    if not note.endswith(_mine(session.project, held.lease)):
        _let_go(session, held)


def ensure(session: Session) -> None:
    """See that the lease that is held is still ours and will be for a while: to be asked before anything is started.

    Raises:
        HeldError: it is another runner's now. UnreachableError: it runs out, and cannot be renewed.
    """
    held = session.lease
    assert held is not None
    if held.lost is None and session.env.lasting() - held.since <= held.ttl - held.every:
        return
    assert session.mirror is not None
    with held.lock, _let_go_if_lost(session, held):
        if session.env.lasting() - held.since <= held.ttl - held.every:
            return  # a renewal was under way
        try:
            _renew(session.project, held, session.mirror)
        except UnreachableError as error:
            raise UnreachableError(
                f"the lease of {held.protocol} expires and could not be renewed; no further work starts: {error.what}",
                error.where,
                "run the same command again when the remote answers; answers and work are kept here",
            ) from error


def _beat(session: Session, held: HeldLease) -> float:
    """Renew the lease beside the work, in another thread than it; return in how many seconds to come back."""
    env = session.env
    with held.lock:
        due = held.since + held.every - env.lasting()
        if held.lost is not None or session.lease is not held or due > 0:
            return max(due, held.every / 5)
        mirror = session.mirror
        if mirror is None:  # the remote is being looked at anew
            return held.every / 5
        git = session.git.another()  # what is held open there is for one thread
        try:
            mirror = mirror._replace(clone=Clone(git, mirror.dirs, env))
            _renew(session.project, held, mirror)
            held.renewed = True
            if _is_published_cancelled(session.project, held, mirror):
                env.interrupt()
        except HeldError as error:
            held.lost = error
        except (RunnerError, OSError):  # it is tried again till it runs out; whoever begins something then is told
            return held.every / 5
        finally:
            git.close()
        return held.every


def _is_published_cancelled(project: Project, held: HeldLease, mirror: Mirror) -> bool:
    """Return whether the protocol is cancelled by what others have published."""
    branch = project.branch(held.protocol)
    mirror.fetch(branch, timeout=RENEW_SECONDS)
    there = mirror.ref(branch)
    if there is None or held.tip is None or not mirror.git.is_ancestor(held.tip, there):
        return False
    return record.is_cancelled(mirror.git, held.protocol, there)


def _renew(
    project: Project, held: HeldLease, mirror: Mirror, intents: Intents | None = None, beside: Changes | None = None
) -> None:
    """Move the lease on by its whole time. `intents`: what it announces from now on; `beside`: what has to be so for that."""
    announced_now = held.intents if intents is None else intents
    since = project.env.lasting()

    def make() -> Changes:
        lease = held.lease.model_copy(update={"expires": project.env.timestamp(held.ttl)})
        author = held.author._replace(time=int(project.env.now()))
        new = _commit(mirror.git, author, held.protocol, lease, announced_now, held.oid)
        return {ref_of(held.protocol): (new, held.oid), **(beside or {})}

    changes = _push(held, mirror, make, timeout=RENEW_SECONDS)
    held.oid, held.since, held.intents = str(changes[ref_of(held.protocol)][0]), since, announced_now


@contextlib.contextmanager
def _let_go_if_lost(session: Session, held: HeldLease) -> Iterator[None]:
    """Release a lease that is found to be another runner's, by then or in the block."""
    try:
        if held.lost is not None:
            raise held.lost
        yield
    except HeldError:
        _let_go(session, held)
        raise


def announced(session: Session, protocol: str) -> Intents:
    """Return the effects that are announced on the remote, as far as it was looked at."""
    if session.lease is not None:
        return session.lease.intents
    ref = ref_of(protocol)
    oid = session.above(ref)
    return _read(session.project, oid, ref)[1] if oid is not None else {}


def unknown(project: Project, protocol: str, intents: Intents, tip: str | None, filed: str | None) -> Intents:
    """Return those announced effects of which nothing tells what came of them: neither a transcript in the history's commit `filed`,
    nor, in that a person was asked, the record at `tip`."""
    if not intents:
        return {}

    git = project.git
    over: set[tuple[str, str]] = set()
    for name in git.tree(f"{filed}:runs") or {} if filed else ():
        started: dict[str, str] = {}
        for one in transcript.parse(git.blob(f"{filed}:runs/{name}") or b"", f"{name} of {history.ref_of(protocol)}"):
            if isinstance(one, transcript.Intent):
                started[one.call] = one.time
                over.discard((one.call, one.time))  # made again within the second
            elif isinstance(one, transcript.CallOutcome) and one.call in started:
                over.add((one.call, started[one.call]))
            elif isinstance(one, transcript.Settled):
                over.add((one.call, one.of))
    events = record.events(git, protocol, tip) if tip else []
    asked = {raw.fields["call"]: raw.revision for raw in events if raw.event == "effect-unknown"}
    return {
        name: one
        for name, one in intents.items()
        if (name, one["time"]) not in over and asked.get(name, 0) <= one["revision"]
    }


def announce(session: Session, intent: dict[str, Any]) -> None:
    """Announce an effect in the lease before it starts: a runner that takes the lease over has no other way to know of it.

    The push also shows once more that no runner did the step since its branch was looked at: a push that takes a lease is no proof
    of that where it was delayed on its way, after the remote had reported the branch.

    Raises:
        HeldError: it is another runner's now; nothing may start. UnreachableError: the remote did not answer.
        ConflictError: the step was done elsewhere, or is no longer to be done.
    """
    held, mirror = session.lease, session.mirror
    if held is None:
        return
    assert mirror is not None
    with held.lock, _let_go_if_lost(session, held):
        branch = session.project.branch(held.protocol)
        asked = _asked(session.git, held.protocol, session.git.ref(branch), str(intent["call"]))
        for _ in range(RACES):
            tip = held.tip
            revision = max(len(record.events(session.git, held.protocol, tip)) if tip else 0, asked)
            intents = {**held.intents, str(intent["call"]): {**intent, "revision": revision}}
            try:
                _renew(session.project, held, mirror, intents, {branch: (tip, tip)} if tip else {})
                if session.env.lasting() - held.since <= held.ttl - held.every:
                    return
                continue  # it stood still on its way: the lease may have been taken over, and the effect asked about, since
            except ConflictError:
                mirror.fetch(branch)
                there = mirror.ref(branch)
                if there == tip or _concerns(session.project, str(intent["call"]).partition(".")[0], there, tip):
                    raise
                held.tip = there
    raise ConflictError(f"{branch} keeps moving", mirror.url, "run the same command again")


def _asked(git: Git, protocol: str, tip: str | None, call: str) -> int:
    """Return the revision at which the record here last asked about a call, which may not be published yet; 0 where it never did."""
    events = record.events(git, protocol, tip) if tip else []
    return max(
        (raw.revision for raw in events if raw.event == "effect-unknown" and raw.fields["call"] == call), default=0
    )


def _concerns(project: Project, slug: str, there: str | None, tip: str | None) -> bool:
    """Return whether the transitions published between two commits of the branch concern a step, or stop the protocol."""
    if there is None or tip is None or not project.git.is_ancestor(tip, there):
        return True
    commits = filter(None, map(project.git.commit, project.git.first_parents(there, stop=tip)))
    published = (log.parse_message(commit.message) for commit in commits)
    events = (event.split(" ") for trailers in published if trailers is not None for event in trailers.events)
    return any(about == slug or event_type(name).stops for name, about in events)


def is_due(session: Session) -> bool:
    """Return whether the work should be published now: it ends an effect that was announced, or the lease was renewed for it."""
    held = session.lease
    assert held is not None
    return bool(held.intents) or held.renewed or session.env.lasting() - held.since > held.every


def push(session: Session, changes: Changes, *, keep: bool = False) -> None:
    """Publish: move refs on the remote, and in the same push give up the lease, or renew it where more is to come (`keep`).

    Announced effects whose outcome is not in the published commits stay there, for the next holder.

    Raises:
        ConflictError: somebody published first. HeldError: the lease is another runner's now; nothing was published.
        UnreachableError: the remote did not answer, or refused.
    """
    project, held, mirror = session.project, session.lease, session.mirror
    assert held is not None and mirror is not None
    with held.lock, _let_go_if_lost(session, held):
        since, left = session.env.lasting(), _unknown_after(session, held, changes)
        moved = _push(held, mirror, lambda: {**changes, **_moved_on(project, held, left, keep)})
        if keep:
            held.oid, held.since = str(moved[ref_of(held.protocol)][0]), since
            held.intents, held.renewed = left, False
            branch = session.project.branch(held.protocol)
            held.tip = changes[branch][0] if branch in changes else held.tip
        else:
            _forget(session, held)


def drop(session: Session) -> None:
    """Give up the lease though there is nothing to publish; where that fails it runs out."""
    project, held, mirror = session.project, session.lease, session.mirror
    assert held is not None and mirror is not None
    if held.lock.acquire(timeout=LEAVE_SECONDS):  # a renewal may be under way
        try:
            with contextlib.suppress(RunnerError):
                left = _unknown_after(session, held, {})
                if held.lost is None:
                    _push(held, mirror, lambda: _moved_on(project, held, left, False), timeout=LEAVE_SECONDS)
                    _forget(session, held)
        finally:
            held.lock.release()
    _let_go(session, held)


def ref_of(protocol: str) -> str:
    """Return the ref of a protocol's lease, on the remote."""
    return f"refs/runner/leases/{protocol}"


def _unknown_after(session: Session, held: HeldLease, changes: Changes) -> Intents:
    """Return the announced effects whose outcome is unknown once `changes` are published."""
    if not held.intents:
        return {}
    assert session.mirror is not None
    after = {**session.mirror.refs(), **{name: new for name, (new, _) in changes.items()}}
    tip = after.get(session.project.branch(held.protocol))
    return unknown(session.project, held.protocol, held.intents, tip, after.get(history.ref_of(held.protocol)))


def _moved_on(project: Project, held: HeldLease, left: Intents, keep: bool) -> Changes:
    """Return how the lease's ref moves in a push: gone, nobody's with the effects that are `left`, or renewed with them."""
    lease = held.lease.model_copy(update={"expires": project.env.timestamp(held.ttl) if keep else None})
    new = _commit(project.git, project.runner(), held.protocol, lease, left, held.oid) if left or keep else None
    return {ref_of(held.protocol): (new, held.oid)}


def _push(
    held: HeldLease, mirror: Mirror, make: Callable[[], Changes], timeout: float = remote.PUSH_SECONDS
) -> Changes:
    """Push what `make()` gives, which moves the lease from `held.oid`; return it.

    Raises:
        ConflictError: another ref is not where it was expected. HeldError: the lease is another runner's now.
    """
    changes = make()
    try:
        mirror.push(changes, timeout=timeout)
        return changes
    except ConflictError:
        ref = ref_of(held.protocol)
        mirror.fetch(ref)
        now = mirror.ref(ref)
        if now == held.oid:
            raise
        lease = _read(mirror.clone, now, ref)[0] if now is not None else None
        if now is None or lease is None or lease.nonce != held.lease.nonce or lease.expires is None:
            raise HeldError(
                f"the lease of {held.protocol} ran out here, and another runner has taken it"
                f"{f': {lease.text()}' if lease else ''}",
                mirror.url,
                "nothing was published; run the same command again when the other is done",
            ) from None
    held.oid = now  # a renewal of ours, whose answer was lost
    changes = make()
    mirror.push(changes, timeout=timeout)
    return changes


def _host(project: Project) -> str:
    return ref_files.printable(project.env.host)


def ci_job(environ: Mapping[str, str]) -> str | None:
    """Return the address at which a CI shows this job, on GitHub its run; None outside a CI."""
    address = _github_run(environ) or environ.get("CI_JOB_URL")
    return ref_files.printable(address) if address else None


def ci_run(environ: Mapping[str, str]) -> str | None:
    """Return the run of a CI that this job belongs to, the same for all its jobs; a repeated run is another one. None outside a CI."""
    run = _github_run(environ)
    attempt = f"{run}/attempts/{environ.get('GITHUB_RUN_ATTEMPT', '1')}" if run else None
    name = environ.get("RUNNER_RUN") or attempt or environ.get("CI_PIPELINE_URL")
    return ref_files.printable(name) if name else None


def _github_run(environ: Mapping[str, str]) -> str | None:
    run = environ.get("GITHUB_RUN_ID")
    place = f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
    return f"{place}/actions/runs/{run}" if run else None


def _mine(clone: Clone, lease: Lease) -> str:
    """Return what this clone's note says of a lease that it took; a copy of the clone is another one."""
    return f"{lease.nonce} {os.path.realpath(clone.dirs.common)}\n"


def _is_mine(clone: Clone, protocol: str, lease: Lease) -> bool:
    try:
        return _mine(clone, lease) in clone.dirs.lease(protocol).read_text()
    except OSError:
        return False


def _let_go(session: Session, held: HeldLease) -> None:
    if session.lease is held:
        held.stop()
        session.lease = None


def _forget(session: Session, held: HeldLease) -> None:
    _let_go(session, held)
    _forget_note(session.project, held.protocol, held.lease)


def _forget_note(project: Project, protocol: str, lease: Lease) -> None:
    with contextlib.suppress(OSError):
        if _is_mine(project, protocol, lease):
            project.dirs.lease(protocol).unlink()


def _commit(git: Git, author: Ident, protocol: str, lease: Lease, intents: Intents, old: str | None) -> str:
    files = {ref_files.FILE: ref_files.render(lease)}
    files |= {f"{ref_files.INTENTS}/{name}.json": ref_files.render_intent(one) for name, one in intents.items()}
    return remote.write_files(git, files, old, author, f"{protocol}: lease")


def _read(clone: Clone, oid: str, ref: str) -> tuple[Lease, Intents]:
    """Return what a lease says, and the effects that it announces.

    Raises:
        IntegrityError: no runner wrote it.
    """
    git = clone.git
    found = git.tree(f"{oid}:")
    below = found.get(ref_files.INTENTS) if found else None
    entries = git.tree(below.oid) if below else {}
    if not found or ref_files.FILE not in found or entries is None or len(entries) > ref_files.MOST:
        raise ref_files.unreadable("it is not a folder of lease.json and intents", ref)
    data = remote.read_files(clone, [found[ref_files.FILE], *entries.values()], ref_files.SIZE)
    if data is None:
        raise ref_files.unreadable("a file of it is too large, or not here", ref)
    intents = {
        name.removesuffix(".json"): ref_files.parse_intent(one, name, ref)
        for name, one in zip(entries, data[1:], strict=True)
    }
    return ref_files.parse(data[0], ref), intents
