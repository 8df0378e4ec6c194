"""What `runner doctor` finds, and how it is mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from runner.values import dataclass

Kind = Literal["here", "integrity", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind`: `here` is something missing or in the way on this machine, `integrity` a record that is not what its
    history says, `note` something to know. `consequence`: what follows; `command`: what helps."""

    kind: Kind
    what: str
    where: str
    consequence: str
    command: str


@dataclass(frozen=True, slots=True)
class Repair:
    """A finding, and what mends it without losing anything: it returns what was done, or nothing where that was not possible."""

    finding: Finding
    mend: Callable[[], str] | None = None
