"""Times, taken in turns, and the figures that come of them. What is measured is the other modules' matter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Act = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds that one act took, over the rounds."""

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.times)

    @property
    def least(self) -> float:
        """The one that nothing disturbed."""
        return min(self.times)

    def text(self) -> str:
        """Return median and minimum, for people."""
        return f"{duration(self.median)}, min {duration(self.least)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    `ratio`: to what the name says after `against`, else to `import click`; `met`: None where there is no goal.
    """

    name: str
    figure: str
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def at_most(name: str, figure: Spread, base: Spread, goal: float | None = None) -> Figure:
    """Return the row of an act against another one: the ratio of the medians; minima stand beside them for comparison."""
    ratio = figure.median / base.median
    return Figure(name, figure.text(), ratio, f"≤ {goal:g}x" if goal else "", ratio <= goal if goal else None)


def within(name: str, figure: Spread, goal: float, base: Spread, beyond: Spread | None = None) -> Figure:
    """Return the row of a time that has an upper bound in seconds, `beyond` another one where that is given.

    Seconds are judged by the minimum, which a busy neighbour disturbs least; the ratio, of the medians, says what they are
    worth: it is to `base`, a process that everybody knows.
    """
    more = figure.least - (beyond.least if beyond else 0.0)
    shown = f"{figure.text()}{f', {duration(max(more, 0.0))} more' if beyond else ''}"
    return Figure(name, shown, figure.median / base.median, f"< {goal:g} s", more < goal)


def in_turns(rounds: int, acts: Mapping[str, Act], *, warm: int = 1) -> dict[str, Spread]:
    """Run every act once a round, each round beginning with another one, and return what they took."""
    names = list(acts)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = timed(acts[name])
            if number >= 0:
                times[name].append(seconds)
    return {name: Spread(tuple(found)) for name, found in times.items()}


def timed(act: Act) -> float:
    """Return the seconds that an act took."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as one Markdown table."""
    rows = [("name", "figure", "ratio", "goal", "met")]
    for figure in figures:
        ratio = f"{figure.ratio:.2f}x" if figure.ratio is not None else ""
        met = "" if figure.met is None else "yes" if figure.met else "no"
        rows.append((figure.name, figure.figure, ratio, figure.goal, met))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
