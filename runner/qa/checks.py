"""Checks: commands that are run in a clean export of a commit, and the outputs that a step has promised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from runner.protocol import log, plans
from runner.protocol.events import ArtifactFields, CheckEvidence
from runner.protocol.plans import outputs_among
from runner.values import dataclass

if TYPE_CHECKING:  # outputs are found without a sandbox
    from runner.sandbox import Outcome


@dataclass(frozen=True, slots=True)
class Verdict:
    """What QA says: `reason` is empty where it passed."""

    evidence: tuple[CheckEvidence, ...]
    reason: str

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return not self.reason


def artifacts(outputs: Iterable[str], files: Iterable[str], digest_of: Callable[[str], str]) -> list[ArtifactFields]:
    """Return the artifacts that a step's outputs name among the tree's files."""
    known = list(files)
    found = {path for glob in outputs for path in outputs_among(glob, known)}
    return [
        {"name": path.rsplit("/", 1)[-1], "kind": "file", "path": path, "digest": digest_of(path)}
        for path in sorted(found)
    ]


def run(
    outputs: Iterable[str],
    commands: Iterable[str],
    *,
    files: Iterable[str],
    changed: Iterable[str],
    execute: Callable[[str], Outcome],
    explain: Callable[[str, Outcome], str | None],
) -> Verdict:
    """Look for the outputs among `files` (or `changed`, where one was deleted), then run the commands, in order.

    All of them run, so that a person sees everything that is wrong at once.
    """
    known, touched = list(files), list(changed)
    evidence: list[CheckEvidence] = []
    reasons = []
    for glob in outputs:
        found = outputs_among(glob, known) or outputs_among(glob, touched)
        evidence.append(
            {
                "check": plans.output_check(glob),
                "code": 0 if found else 1,
                "seconds": 0,
                "output": "",
                "tail": ", ".join(found[:5]),
            }
        )
        if not found:
            reasons.append(f"the output `{glob}` is not there")
    for command in commands:
        outcome = execute(command)
        evidence.append(
            {
                "check": log.cut(command),
                "code": outcome.code,
                "seconds": round(outcome.seconds),
                "output": outcome.digest,
                "tail": log.cut_tail(outcome.tail),
            }
        )
        if not outcome.ok:
            told = "ran out of time" if outcome.timed_out else f"exit {outcome.code}"
            reasons.append(explain(command, outcome) or f"{told}, `{command}`")
    return Verdict(tuple(evidence), log.cut("; ".join(reasons)))
