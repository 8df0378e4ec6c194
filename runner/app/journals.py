"""Journals of attempts that are damaged: each says what a step heard and did, so nothing is guessed, and a person decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runner.app.repair import Finding
from runner.errors import RefusedError, RunnerError
from runner.executor.journal import DamagedJournalError, Journal, Record
from runner.folders import matching
from runner.protocol.state import State, StepStatus
from runner.store.places import Places

_OPEN = (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.AWAITING_APPROVAL)  # no transition has ended the attempt


def look(places: Places, only: str | None) -> Iterator[Finding]:
    """Yield the journals that cannot be read whole, of every protocol or of `only`."""
    for path in matching(places.journal(only or ""), "**/*.jsonl"):
        try:
            Journal(path)
        except DamagedJournalError as error:
            yield Finding(
                "here",
                error.what,
                str(path),
                f"its step cannot go on: what it heard and did from record {error.number} on is not known, "
                "and a call that reaches outside may have been made",
                f"look whether such calls happened, then `mv {path} {path}.damaged`: the step begins again, "
                "pays again for what it had heard, and makes those calls again",
            )
        except RunnerError as error:
            yield Finding("here", error.what, error.where, "its step cannot go on", error.hint)


def refuse_unknown(places: Places, protocol: str, hint: str = "") -> None:
    """Refuse to put journals aside that tell of an effect of which nobody knows what came: it would happen twice in silence.

    `hint`: what finds out, where a run is not what does.

    Raises:
        RefusedError: naming the effect.
    """
    for path, effects in _effects(places, protocol):
        begun = [one["call"] for one in {one["call"]: one for one in effects}.values() if one["kind"] == "intent"]
        if begun:
            raise RefusedError(
                f"whether {begun[0]} happened is not known",
                str(path),
                hint
                or f"`runner run --publish never {protocol}` finds out, or asks a person; then the same command once more",
            )


def refuse_unrecorded(places: Places, protocol: str, state: State, hint: str = "") -> None:
    """Refuse to put journals aside that tell of an effect of an attempt that no transition has ended: it would be made again.

    Raises:
        RefusedError: naming the effect.
    """
    for path, effects in _effects(places, protocol):
        for one in effects:
            slug, attempt, _ = one["call"].rsplit(".", 2)
            step = state.steps.get(slug)
            is_open = step is not None and str(step.attempt) == attempt and step.status in _OPEN
            if one["kind"] == "outcome" and is_open:
                raise RefusedError(
                    f"{one['call']} reached outside, its step has not ended, and it would be done once more",
                    str(path),
                    hint
                    or f"end the step first: `runner run --publish never {protocol}`; then the same command once more",
                )


def _effects(places: Places, protocol: str) -> Iterator[tuple[Path, list[Record]]]:
    for path in matching(places.journal(protocol), "**/*.jsonl"):
        yield path, [one for one in Journal(path).records if one["kind"] in ("intent", "outcome", "settled")]
