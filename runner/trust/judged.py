"""A protocol's history as verify sees it, and what of it can be repaired."""

from __future__ import annotations

from runner.git import Commit, Git
from runner.protocol import paths
from runner.store.trusted import Trusted
from runner.trust import checks, verify
from runner.trust.past import Past
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """A protocol's chain as verify sees it, as far as `walk` has come."""

    tip: str
    findings: tuple[checks.Finding, ...]
    walk: checks.Chain
    has_folder: bool  # at the tip

    @property
    def report(self) -> verify.Report:
        """What `verify` returns for the chain."""
        return verify.report_of(self.walk, self.findings, self.tip)

    @property
    def is_whole(self) -> bool:
        """Whether verify holds."""
        return not self.findings and self.walk.transitions > 0

    @property
    def is_foreign(self) -> bool:
        """Whether nothing of the protocol is in the whole history: a branch that only has its name."""
        return not self.findings and self.walk.transitions == 0

    @property
    def is_mendable(self) -> bool:
        """Whether ordinary commits damaged the record, and nothing else is wrong."""
        return (
            self.walk.state is not None
            and len(self.findings) == len(self.walk.damage) > 0
            and all(paths.is_record(name_in(self.walk.protocol, finding.path)) for finding in self.findings)
        )


def name_in(protocol: str, path: str) -> str:
    """Return a path's name in the protocol's folder."""
    return path.removeprefix(f"{paths.folder(protocol)}/")


def judge(git: Git, protocol: str, tip: str, trusted: Trusted) -> Judged:
    """Return what verify says of a protocol's chain.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell.
    """
    walk = checks.Chain(protocol, trusted, past=Past(git, protocol))
    chain = verify.chain_of(git, protocol, tip)
    findings = verify.walk_commits(git, walk, chain)
    return Judged(tip, tuple(findings), walk, git.tree(f"{tip}:{paths.folder(protocol)}") is not None)


def is_rebased(git: Git, protocol: str, old: str, new: str) -> bool:
    """Return whether two histories have the same transitions, entry by entry: one is the other, rebased or amended.

    Where a rebase stopped at a conflict, git's clean-up took the headlines of entries out of the message, as comments.
    """
    return _told(git, protocol, old) == _told(git, protocol, new) != []


def replaced(git: Git, protocol: str, old: str, new: str) -> dict[str, str] | None:
    """Return the commit in `new` of each transition of `old`, by its commit there; None where `new` lacks one, or has another."""
    before, after = _transitions(git, protocol, old), _transitions(git, protocol, new)
    pairs = list(zip(before, after, strict=False))
    if len(before) > len(after) or any(one.message != other.message for one, other in pairs):
        return None
    return {one.oid: other.oid for one, other in pairs}


def _told(git: Git, protocol: str, tip: str) -> list[list[bytes]]:
    lines = (commit.message.split(b"\n") for commit in _transitions(git, protocol, tip))
    return [[line for line in one if line.strip() and not line.startswith(b"#")] for one in lines]


def _transitions(git: Git, protocol: str, tip: str) -> list[Commit]:
    commits = filter(None, map(git.commit, verify.chain_of(git, protocol, tip)))
    return [commit for commit in commits if verify.is_transition(commit, protocol)]
