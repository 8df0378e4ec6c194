"""24. transcript: what the history has is what the log names, by digest (design §2).

A history commit has the files of every attempt so far; the one that a transition filed is in the commit beside it, and a later
one of the same attempt may be longer. So a name's transcripts are all that any commit of the history has under it, and the newest
commit, which every reader reads, has one of them, or a longer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.protocol.ids import digest
from runner.store import history
from runner.trust.transitions import missing
from runner.trust.walk import Evidence, Finding, Named, Report


def wrong(
    git: Git,
    protocol: str,
    named: Sequence[Named],
    tip: str | None,
    remote: str | None,
    told: list[tuple[Named, str]],
) -> Iterator[Finding]:
    """Return the transcripts of the history up to `tip` that are not the ones that the log names. `told` gets the blobs of those
    that are.

    Raises:
        InsufficientHistoryError: a transcript that the log names is not in this clone, and nothing else is in its place.
    """
    if not named:
        return
    there = _files(git, protocol, tip) if tip is not None else {}
    lacking: list[str] = []
    digests: dict[str, str] = {}
    proven: dict[str, list[tuple[Named, str]]] = {}
    for one in named:
        names = _names(one, there)
        oids = [oid for name in names for oid in there.get(name, ())]
        for oid in oids:
            if oid not in digests:
                data = git.blob(oid)
                if data is None:
                    raise missing(git, f"{names[0]} of the history")
                digests[oid] = digest(data)
        right = next((oid for oid in oids if digests[oid] == one.digest), None)
        if right is not None:
            told.append((one, right))
            at = next(name for name in names if right in there.get(name, ()))
            proven.setdefault(at, []).append((one, right))
        elif oids:
            at = f"{history.ref_of(protocol)}:{names[0]}"
            yield Finding("transcript", one.commit, at, f"it is not the transcript that `{one.event}` names")
        else:
            lacking.append(names[0])
    yield from _wrong_at_tip(git, protocol, tip, proven)
    if lacking:
        more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
        raise InsufficientHistoryError(
            f"{lacking[0]}{more} of its transcripts is not in this clone",
            history.ref_of(protocol),
            history.brings(protocol, remote)
            + (
                ""
                if tip is None
                else f", or `runner doctor --fix {protocol}` in a clone that has it publishes it again"
            ),
        )


def _wrong_at_tip(
    git: Git, protocol: str, tip: str | None, proven: dict[str, list[tuple[Named, str]]]
) -> Iterator[Finding]:
    """Return the transcripts that an older commit of the history has and the newest one lacks, or has changed."""
    now = (git.tree(f"{tip}:runs") or {}) if tip is not None else {}
    for name, versions in proven.items():
        last, oid = versions[-1]
        kept, where = now.get(name.removeprefix("runs/")), f"{history.ref_of(protocol)}:{name}"
        if kept is None:
            yield Finding("transcript", last.commit, where, "it was taken out of the history")
        elif kept.oid not in [one for _, one in versions]:
            before, after = git.blob(oid), git.blob(kept.oid)
            if after is None or before is None:
                raise missing(git, f"{name} of the history")
            if not after.startswith(before):
                yield Finding("transcript", last.commit, where, f"it is not the one that `{last.event}` names any more")


def _names(one: Named, there: dict[str, list[str]]) -> list[str]:
    """Return where a transcript may lie, the likeliest first; the log does not number a plan's."""
    if one.attempt == 0:
        plans = [name for name in there if re.fullmatch(r"runs/plan\.[0-9]+\.jsonl", name)]
        return plans or [history.transcript_name(one.subject, 1)]
    if one.event in ("qa-passed", "qa-failed"):
        return [history.review_name(one.subject, one.attempt)]
    return [history.transcript_name(one.subject, one.attempt)]


def _files(git: Git, protocol: str, tip: str) -> dict[str, list[str]]:
    """Return name to blobs of all that any commit of the history has."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for commit, _ in history.commits(git, protocol, tip):
        tree = git.tree(commit.tree)
        if tree is None:
            raise missing(git, f"a tree of {history.ref_of(protocol)}")
        runs = tree.get("runs")
        if runs is None or runs.oid in seen:
            continue
        seen.add(runs.oid)
        for name, entry in (git.tree(runs.oid) or {}).items():
            known = found.setdefault(f"runs/{name}", [])
            if entry.oid not in known:
                known.append(entry.oid)
    return found


def last_commit(git: Git, protocol: str, tip: str) -> str | None:
    """Return the branch's commit that the history up to `tip` was last filed beside."""
    return next((branch for _, branch in history.commits(git, protocol, tip)), None)


def check_transcripts(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """24. The transcripts of the history are those that the log names."""
    named = report.transcripts
    yield from wrong(git, report.protocol, named, evidence.history, evidence.remote, evidence.proven)
