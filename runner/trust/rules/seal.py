"""26. seal: the seal of a history, where it has one, is a runner's, and says what the chain came to (design §4).

It is judged by the policy and the keys of the transition that it seals, and by the revocations of now. A protocol without one is
as good as the policy that asked for none.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import IntegrityError, RunnerError
from runner.git import Git
from runner.protocol import approval_file, paths, state
from runner.protocol.approval_file import Seal, seconds
from runner.protocol.ids import digest
from runner.store import history
from runner.store.trusted import Trusted
from runner.trust import trusted_config
from runner.trust.transitions import missing, transition_of
from runner.trust.walk import Evidence, Finding, Report


def of(git: Git, protocol: str, repo: str, signer: str, tip: str, time: str) -> Seal | None:
    """Return the seal of a transition of the protocol's; None where it is none."""
    commit = git.commit(tip)
    own = transition_of(commit, protocol)
    data = git.blob(f"{tip}:{paths.folder(protocol)}/{paths.STATE}")
    if commit is None or own is None or data is None:
        return None
    genesis = state.load(data, paths.STATE).genesis
    return Seal(repo, protocol, genesis, str(own.trailers.revision), tip, commit.tree, digest(data), signer, time)


def check_seal(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """26. The seal that the history ends with, where it has one, is a runner's and says what the chain came to."""
    found = read(git, report.protocol)
    if found is None:
        return
    where = f"{history.ref_of(report.protocol)}:{paths.SEAL}"
    try:
        for text in _wrong(git, report, evidence.trusted, found, where):
            yield Finding("seal", "", where, text)
    except RunnerError as error:
        if not isinstance(error, IntegrityError):
            raise
        yield Finding("seal", "", where, error.what)


def read(git: Git, protocol: str) -> bytes | None:
    """Return the file with which a history was sealed, or None."""
    return history.read(git, protocol, paths.SEAL)


def _wrong(git: Git, report: Report, trusted: Trusted, data: bytes, where: str) -> Iterator[str]:
    said, text, armour = approval_file.parse_seal(data, where)
    if said.tip not in (report.tip, *git.first_parents(report.tip)):
        yield f"it seals {said.tip[:12]}, which is no commit of this history"
        return
    there = of(git, report.protocol, said.repo, said.signer, said.tip, said.time)
    if there != said:
        yield f"it does not match {said.tip[:12]}"
        return
    own = transition_of(git.commit(said.tip), report.protocol)
    assert own is not None  # `of` read it
    ruled = own.trailers.trusted
    if git.commit(ruled) is None:
        raise missing(git, f"commit {ruled[:12]} of the trusted branch")
    found = trusted_config.load(git, ruled, trusted.branch, revoked_at=trusted.commit)
    if found.repo != said.repo:
        yield "it is of another repository"
    elif said.signer not in found.agents:
        yield f"{said.signer} is none of `agents` in {found.where}"
    else:
        verdict = found.judge(text, armour, said.signer, seconds(said.time), namespace=approval_file.SEAL_NAMESPACE)
        if not verdict.ok:
            yield verdict.reason


def note(git: Git, report: Report) -> str | None:
    """Return what a reader should know of a seal that holds."""
    data = read(git, report.protocol)
    if data is None:
        return None
    said, _, _ = approval_file.parse_seal(data, paths.SEAL)
    return f"sealed by {said.signer} at revision {said.revision}, {said.time} by its own account"
