"""Protocols of which a part is gone: the branch, or the claim of the number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner.app.repair import Finding, Repair
from runner.protocol import ids
from runner.store import history, numbers, record, recovery
from runner.store.project import Project
from runner.trust import transitions
from runner.trust.rules import base


def look(project: Project, only: str | None) -> Iterator[Repair]:
    """Yield them; a branch is put back where it is named, as somebody may have meant it to go."""
    for protocol in gone(project):
        if only not in (None, protocol):
            continue
        branch = project.branch(protocol)
        common = project.git.common_dir
        if (common / branch).is_file() or (common / "logs" / branch).is_file():
            continue  # one that is broken, or was deleted in halves (`refs.look`)
        known = recovery.best(project.git, project.places, branch)
        if known is None:
            continue
        row = record.row(project.git, protocol, known[0])
        if row["status"] in record.ENDED:
            continue
        yield Repair(
            Finding(
                "note",
                f"the branch of {protocol} is gone, and it had not ended: {row['status']} at revision {row['revision']}",
                branch,
                "it is not listed and does not go on; its number stays taken",
                f"`runner doctor --fix {protocol}` puts it back at {known[0][:12]}, from {known[1]}",
            ),
            partial(_put_back, project, protocol, branch, *known) if only == protocol else None,
        )
    if project.trusted.remote is None:
        for protocol, tip in project.protocols().items():
            claim = numbers.claim_ref(ids.number_of(protocol))
            chain = transitions.chain_of(project.git, protocol, tip) if project.git.ref(claim) is None else []
            if chain and only in (None, protocol):
                yield Repair(
                    Finding(
                        "note",
                        f"the number of {protocol} is not claimed",
                        claim,
                        "once its branch is gone, the number is given again",
                        "`runner doctor --fix` claims it",
                    ),
                    partial(_claim, project, claim, chain[0]),
                )


def gone(project: Project) -> list[str]:
    """Return the protocols that have no branch, and that the trusted branch never had, of which something is left here."""
    git, here = project.git, project.protocols()
    prefix = history.ref_of("")
    names = {name.removeprefix(prefix) for name in git.refs(prefix)}
    names |= {path.stem for path in project.places.mark("0001-x").parent.glob("*.json")}
    return sorted(
        name
        for name in names
        if ids.is_protocol_id(name) and name not in here and not base.was_there(git, name, project.trusted.commit)
    )


def _put_back(project: Project, protocol: str, branch: str, oid: str, where: str) -> str:
    project.git.update_refs({branch: (oid, None)}, "runner: put back")
    return f"{protocol}: its branch is back at {oid[:12]}, from {where}"


def _claim(project: Project, claim: str, genesis: str) -> str:
    project.git.update_refs({claim: (genesis, None)}, "runner: claimed")
    return f"{claim} claims its number again"
