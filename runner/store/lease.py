"""The lease on the remote: of all clones one runner at a time works on a protocol that is published (design §6).

Taken by compare-and-swap before something acts, in a push that also shows that the branch has not moved since it was looked at;
given up in the push that publishes the work, so whoever lost it cannot publish. In between it carries the effects that were
announced (`--ephemeral`). It is kept on the remote alone: here only the mirror knows of it, and a note says which one is ours.

It is held within the protocol's `flock`: a lease that this clone took and that nobody here has any more is taken again at once.
A lease that is left stands till it runs out; one in the middle of a long step is not renewed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runner.errors import ConflictError, HeldError, RunnerError, UnreachableError
from runner.git import BLOB, TreeEntry
from runner.protocol import ids, message, transcript
from runner.protocol import lease as format_
from runner.protocol.lease import Lease
from runner.protocol.model import seconds_of
from runner.store import history, record, remote
from runner.store.places import write_atomically
from runner.store.project import Project

RACES = 20  # how often an announcement makes way for people's commits
LEAVE_SECONDS = 10.0  # what giving a lease up may take where nothing is published with it

Changes = Mapping[str, tuple[str | None, str | None]]
Intents = Mapping[str, dict[str, Any]]


@dataclass(slots=True)
class Held:
    """The lease that this process has. `oid`: its commit; `since`: when it was last moved, by the monotonic clock.

    `intents`: the effects that it announces, by their calls' names; `seen`: the branch's commit on the remote that was looked at.
    """

    protocol: str
    words: Lease
    oid: str
    since: float
    intents: Intents = field(default_factory=dict)
    seen: str | None = None


def take(project: Project, protocol: str) -> bool:
    """Have the lease, where the protocol is published; False where the branch has moved on the remote: look at it, and decide again.

    Where nothing is published from here none is taken, and in a job of a CI that of another runner is respected all the same.
    While the remote is away there is none.

    Raises:
        HeldError: another runner has it. UnreachableError: it could not be taken; nothing was begun.
    """
    assert project.lease is None or project.lease.protocol == protocol
    mirror, publishes = project.mirror, project.setting("publish") == "always"
    if project.lease is not None or mirror is None or not (publishes or "ephemeral" in project.options):
        return True
    ref, branch = ref_of(protocol), f"refs/heads/{ids.branch_of(project.pattern, protocol)}"
    old = mirror.refs().get(ref)
    if old is not None and _is_others(project, protocol, old):
        mirror.fetch(ref)  # it may have been given up since
        old = mirror.refs().get(ref)
        if old is not None and _is_others(project, protocol, old):
            raise HeldError(
                f"{protocol} is held by another runner: {_read(project, old, ref)[0].text()}",
                mirror.url,
                f"wait for it; where it died, its lease can be taken {project.config.lease.grace} after that",
            )
    if not publishes:
        return True
    intents = _read(project, old, ref)[1] if old is not None else {}
    words = _words(project, project.who.random_hex(32))
    write_atomically(project.places.lease(protocol), _mine(project, words).encode())
    new = _commit(project, protocol, words, intents, old)
    changes: dict[str, tuple[str | None, str | None]] = {ref: (new, old)}
    if (there := mirror.refs().get(branch)) is not None:
        changes[branch] = (there, there)
    try:
        mirror.push(changes)
    except ConflictError:
        project.trust(mirror.look(branch, history.ref_of(protocol), ref))
        return False
    except UnreachableError as error:
        raise UnreachableError(
            f"the lease of {protocol} could not be taken: {error.what}",
            error.where,
            "nothing was begun; `--publish never` works here alone, and `runner sync` publishes it",
        ) from error
    project.lease = Held(protocol, words, new, project.who.monotonic(), intents, there)
    if intents:
        project.who.say(f"took over the lease of {protocol}, with what it announced: {', '.join(sorted(intents))}")
    return True


def announced(project: Project, protocol: str) -> Intents:
    """Return the effects that are announced on the remote, as far as it was looked at."""
    if project.lease is not None:
        return project.lease.intents
    ref = ref_of(protocol)
    oid = project.mirror.refs().get(ref) if project.mirror else None
    return _read(project, oid, ref)[1] if oid is not None else {}


def unknown(project: Project, protocol: str, intents: Intents, tip: str | None, filed: str | None) -> Intents:
    """Return those announced effects of which nothing tells what came of them: neither a transcript in the history's commit `filed`,
    nor, in that a person was asked, the record at `tip`."""
    if not intents:
        return {}
    git = project.git
    over: set[tuple[str, str]] = set()
    for name in git.tree(f"{filed}:runs") or {} if filed else ():
        begun: dict[str, str] = {}
        for one in transcript.parse(git.blob(f"{filed}:runs/{name}") or b"", f"{name} of {history.ref_of(protocol)}"):
            if one["kind"] == "intent":
                begun[one["call"]] = one["time"]
                over.discard((one["call"], one["time"]))  # made again within the second
            elif one["kind"] == "outcome" and one["call"] in begun:
                over.add((one["call"], begun[one["call"]]))
            elif one["kind"] == "settled":
                over.add((one["call"], one["of"]))
    events = record.events(git, protocol, tip) if tip else []
    asked = {raw.fields["call"]: raw.revision for raw in events if raw.event == "effect-unknown"}
    return {
        name: one
        for name, one in intents.items()
        if (name, one["time"]) not in over and asked.get(name, 0) <= one["revision"]
    }


def announce(project: Project, intent: dict[str, Any]) -> None:
    """Have the lease tell of an effect that is about to begin: whoever takes it over has no other way to know of it.

    The push also shows once more that nobody did the step since its branch was looked at: a push that takes a lease is no proof
    of that where it stood still on its way, after the remote had told where the branch is.

    Raises:
        HeldError: it is another runner's now; nothing may begin. UnreachableError: the remote did not answer.
        ConflictError: the step was done elsewhere, or is no longer to be done.
    """
    held, mirror = project.lease, project.mirror
    if held is None:
        return
    assert mirror is not None
    branch, seen = f"refs/heads/{ids.branch_of(project.pattern, held.protocol)}", held.seen
    words = _words(project, held.words.nonce)
    for _ in range(RACES):
        revision = len(record.events(project.git, held.protocol, seen)) if seen else 0
        intents = {**held.intents, str(intent["call"]): {**intent, "revision": revision}}
        new = _commit(project, held.protocol, words, intents, held.oid)
        changes: dict[str, tuple[str | None, str | None]] = {ref_of(held.protocol): (new, held.oid)}
        if seen is not None:
            changes[branch] = (seen, seen)
        try:
            _push(project, held, changes)
        except ConflictError:
            mirror.fetch(branch)
            there = mirror.refs().get(branch)
            if there == seen or _concerns(project, str(intent["call"]).partition(".")[0], there, seen):
                raise
            seen = there
            continue
        project.lease = Held(held.protocol, words, new, project.who.monotonic(), intents, seen)
        return
    raise ConflictError(f"{branch} moves all the time", mirror.url, "run the same command again")


def _concerns(project: Project, slug: str, there: str | None, seen: str | None) -> bool:
    """Return whether what was published between two commits of the branch says something of a step."""
    if there is None or seen is None or not project.git.is_ancestor(seen, there):
        return True
    for oid in project.git.first_parents(there, stop=seen):
        commit = project.git.commit(oid)
        told = message.parse(commit.message) if commit else None
        if told is not None and any(slug in event.split(" ")[1:] for event in told.events):
            return True
    return False


def is_due(project: Project) -> bool:
    """Return whether what was done should be published now: it ends an effect that was announced, or the lease grows old."""
    held = project.lease
    assert held is not None
    return bool(held.intents) or _is_old(project, held)


def push(project: Project, changes: Changes) -> None:
    """Publish: move refs on the remote, and give up the lease in the same push.

    Announced effects of which what is published then does not tell what came of them are left there, for whoever takes it next.

    Raises:
        ConflictError: somebody published first. HeldError: the lease is another runner's now; nothing was published.
        UnreachableError: the remote did not answer, or refused.
    """
    held = project.lease
    assert held is not None
    _push(project, held, {**changes, **_given_up(project, held, changes)})
    _forget(project, held)


def drop(project: Project) -> None:
    """Give up the lease though there is nothing to publish; where that fails it runs out."""
    held = project.lease
    assert held is not None
    with contextlib.suppress(RunnerError):
        _push(project, held, _given_up(project, held, {}), timeout=LEAVE_SECONDS)
        _forget(project, held)
    project.lease = None


def ref_of(protocol: str) -> str:
    """Return the ref of a protocol's lease, on the remote."""
    return f"refs/runner/leases/{protocol}"


def _given_up(project: Project, held: Held, changes: Changes) -> Changes:
    """Return how the lease's ref moves in a push with `changes`."""
    assert project.mirror is not None
    after = {**project.mirror.refs(), **{name: new for name, (new, _) in changes.items()}} if held.intents else {}
    tip = after.get(f"refs/heads/{ids.branch_of(project.pattern, held.protocol)}")
    left = unknown(project, held.protocol, held.intents, tip, after.get(history.ref_of(held.protocol)))
    free = held.words.model_copy(update={"expires": None})
    new = _commit(project, held.protocol, free, left, held.oid) if left else None
    return {ref_of(held.protocol): (new, held.oid)}


def _push(project: Project, held: Held, changes: Changes, timeout: float = remote.PUSH_SECONDS) -> None:
    mirror = project.mirror
    assert mirror is not None
    try:
        mirror.push(changes, timeout=timeout)
    except ConflictError:
        ref = ref_of(held.protocol)
        mirror.fetch(ref)
        now = mirror.refs().get(ref)
        if now == held.oid:
            raise
        project.lease = None
        whose = f": {_read(project, now, ref)[0].text()}" if now is not None else ""
        raise HeldError(
            f"the lease of {held.protocol} ran out here, and another runner has taken it{whose}",
            mirror.url,
            "nothing was published; run the same command again when the other is done",
        ) from None


def _is_old(project: Project, held: Held) -> bool:
    return project.who.monotonic() - held.since > seconds_of(project.config.lease.ttl) / 3


def _is_others(project: Project, protocol: str, oid: str) -> bool:
    """Return whether a lease is another living runner's, for all that can be told."""
    words, _ = _read(project, oid, ref_of(protocol))
    if words.expires is None or words.expires < _time(project, -seconds_of(project.config.lease.grace)):
        return False
    try:
        return project.places.lease(protocol).read_text() != _mine(project, words) or words.host != _host(project)
    except OSError:
        return True


def _words(project: Project, nonce: str) -> Lease:
    return Lease(
        holder=format_.word(project.actor()),
        host=_host(project),
        ci=_job(project.who.environ),
        expires=_time(project, seconds_of(project.config.lease.ttl)),
        nonce=nonce,
    )


def _host(project: Project) -> str:
    return format_.word(project.who.host)


def _job(environ: Mapping[str, str]) -> str | None:
    """Return where a CI shows this job, as GitHub and GitLab tell it."""
    if run := environ.get("GITHUB_RUN_ID"):
        place = f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
        return format_.word(f"{place}/actions/runs/{run}")
    url = environ.get("CI_JOB_URL")
    return format_.word(url) if url else None


def _time(project: Project, more: float) -> str:
    return datetime.fromtimestamp(int(project.who.now() + more), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mine(project: Project, words: Lease) -> str:
    """Return what this clone's note says of a lease that it took; a copy of the clone is another one."""
    return f"{words.nonce} {os.path.realpath(project.places.common)}\n"


def _forget(project: Project, held: Held) -> None:
    project.lease = None
    note = project.places.lease(held.protocol)
    with contextlib.suppress(OSError):
        if note.read_text() == _mine(project, held.words):
            note.unlink()


def _commit(project: Project, protocol: str, words: Lease, intents: Intents, old: str | None) -> str:
    git, who = project.git, project.runner()
    files = {format_.FILE: format_.render(words)}
    files |= {f"{format_.INTENTS}/{name}.json": format_.render_intent(one) for name, one in intents.items()}
    tree = git.edit_tree(None, {path: TreeEntry(BLOB, git.write("blob", data)) for path, data in files.items()})
    assert tree is not None
    return git.write_commit(tree, (old,) if old else (), who, who, f"{protocol}: lease\n".encode())


def _read(project: Project, oid: str, ref: str) -> tuple[Lease, Intents]:
    """Return what a lease says, and the effects that it announces.

    Raises:
        IntegrityError: no runner wrote it.
    """
    git = project.git
    found = git.tree(f"{oid}^{{tree}}")
    below = found.get(format_.INTENTS) if found else None
    entries = git.tree(below.oid) if below else {}
    if not found or format_.FILE not in found or entries is None or len(entries) > format_.MOST:
        raise format_.unreadable("it is no folder of lease.json and intents", ref)
    blobs = [found[format_.FILE].oid, *(entry.oid for entry in entries.values())]
    missing = [oid for oid in blobs if git.is_partial() and git.blob(oid) is None]
    if missing:
        remote.fetch_objects(git, missing, project.who)
    if any(size is None or size > format_.SIZE for size in git.sizes(blobs)):
        raise format_.unreadable("a file of it is too large, or not here", ref)
    data = [one or b"" for one in git.blobs(blobs)]
    intents = {
        name.removesuffix(".json"): format_.parse_intent(one, name, ref)
        for name, one in zip(entries, data[1:], strict=True)
    }
    return format_.parse(data[0], ref), intents
