"""Damaged journals of attempts. A journal has the answers and calls of a step, so nothing is guessed: a person decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runner.app.doctor import Finding, Selection
from runner.errors import RefusedError, RunnerError
from runner.executor.journal import DamagedJournalError, Journal, Noted
from runner.protocol.state import State, StepStatus
from runner.protocol.transcript import Intent, Outcome
from runner.store.environment import StateDir, matching

_OPEN = (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.AWAITING_APPROVAL)  # no transition has ended the attempt


def find(chosen: Selection) -> Iterator[Finding]:
    """Yield the journals that cannot be read completely."""
    for path in matching(chosen.project.dirs.journal(chosen.only or ""), "**/*.jsonl"):
        try:
            Journal(path)
        except DamagedJournalError as error:
            yield Finding(
                "here",
                error.what,
                str(path),
                f"its step cannot continue: the answers and calls from record {error.number} on are lost, "
                "and an external call may be among them",
                f"check whether external calls took effect; then `mv {path} {path}.damaged` restarts the step: it repeats its "
                "model requests and those calls, and pays for them again",
            )
        except RunnerError as error:
            yield Finding("here", error.what, error.where, "its step cannot continue", error.hint)


def refuse_unknown(dirs: StateDir, protocol: str, hint: str = "") -> None:
    """Refuse to put journals aside that have an effect without an outcome: it could happen twice in silence.

    `hint`: what finds the outcome, where a run does not.

    Raises:
        RefusedError: naming the effect.
    """
    for path, effects in _effects(dirs, protocol):
        started = [one.call for one in {one.call: one for one in effects}.values() if isinstance(one, Intent)]
        if started:
            raise RefusedError(
                f"whether {started[0]} happened is not known",
                str(path),
                hint
                or f"`runner run --publish never {protocol}` finds out, or asks a person; then the same command once more",
            )


def refuse_unrecorded(dirs: StateDir, protocol: str, state: State, hint: str = "") -> None:
    """Refuse to put journals aside that have an effect of an attempt that no transition has ended: it would happen again.

    Raises:
        RefusedError: naming the effect.
    """
    for path, effects in _effects(dirs, protocol):
        for one in effects:
            slug, attempt, _ = one.call.rsplit(".", 2)
            step = state.steps.get(slug)
            is_open = step is not None and str(step.attempt) == attempt and step.status in _OPEN
            if isinstance(one, Outcome) and is_open:
                raise RefusedError(
                    f"{one.call} reached outside, its step has not ended, and it would be done once more",
                    str(path),
                    hint
                    or f"end the step first: `runner run --publish never {protocol}`; then the same command once more",
                )


def _effects(dirs: StateDir, protocol: str) -> Iterator[tuple[Path, list[Noted]]]:
    for path in matching(dirs.journal(protocol), "**/*.jsonl"):
        yield path, Journal(path).noted()
