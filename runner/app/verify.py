"""Whether a protocol holds, wherever its chain is by now: a branch, the history that outlives it, or the base that it was merged into.

The chain is `trust.verify`'s to judge. Here it is found, and what lies beside it is compared: the transcripts with the digests that
the log names, and the record that a base holds with the chain's.
"""

from __future__ import annotations

import dataclasses

from runner.errors import InsufficientHistoryError, UsageError
from runner.protocol import ids
from runner.store import finding, history, record
from runner.store.project import Project
from runner.trust import filed, merged, sealing, verify
from runner.trust.verify import Report


def known(project: Project) -> list[str]:
    """Return the protocols that can be verified here: those that are known, and those whose history alone is left."""
    prefix = history.ref_of("")
    kept = [name.removeprefix(prefix) for name in project.git.refs(prefix)]
    found = {*finding.known(project), *(name for name in kept if ids.is_protocol_id(name))}
    return sorted(found, key=lambda name: (ids.number_of(name), name))


def find(project: Project, name: str | None) -> str:
    """Return the id of the protocol that a person means, one that only the base's past or a history has included.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    try:
        return finding.find(project, name)
    except UsageError:
        if name is None:
            raise
        number = int(name) if name.isdigit() else -1
        same = [one for one in known(project) if name == one or ids.number_of(one) == number]
        if len(same) == 1:
            return same[0]
        if ids.is_protocol_id(name) and merged.was_there(project.git, name, project.trusted.commit):
            return name
        raise


def examine(project: Project, protocol: str) -> Report:
    """Return what holds and what does not of a protocol.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell, and what it has holds.
    """
    git, trusted = project.git, project.trusted
    branch = project.protocols().get(protocol)
    tip = kept = branch or filed.last_commit(git, protocol)
    if tip is None:
        tip = merged.tip_of(git, protocol, trusted.commit, trusted.remote)
    report = verify.verify(git, protocol, tip, trusted)
    if kept is None:
        merged.refuse_copy(git, report, trusted.commit, trusted.remote)
    if report.state is None:
        return report
    bases = [trusted.commit, *record.base_tips(git, report.state.base, trusted.remote)]
    findings = [*report.findings, *merged.wrong(git, protocol, tip, bases)]
    notes = list(report.notes)
    if branch is None and merged.was_taken_away(git, protocol, trusted.commit):
        notes.append(f"its folder was taken away from {trusted.branch} again")
    there = git.ref(history.ref_of(protocol))
    try:
        findings += filed.wrong(git, protocol, report.transcripts, there, trusted.remote)
        findings += sealing.wrong(git, report, trusted)
        if not findings and (sealed := sealing.note(git, report)):
            notes.append(sealed)
    except InsufficientHistoryError:
        if not findings:
            raise
    return dataclasses.replace(report, findings=tuple(findings), notes=tuple(notes))
