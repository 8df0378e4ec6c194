"""What the world outside gives: clock, randomness, names, folders. They come in as arguments so that a test can drive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`now`: seconds since the epoch; `monotonic`: seconds; `random_hex(n)`: n hex digits; `state_home`: the person's
    own state, `$XDG_STATE_HOME/protocol-runner`; `environ`: the person's environment, keys of models included;
    `hear`: a record of a running attempt, as it is made; `say`: one line for a person; `ask(question, choices)`: the choice of
    the person at the terminal, `ask_text(question)`: their text; None where nobody is.

    `boot()`: which start of the machine this is, empty where that is unknown; `uptime()`: seconds of that start, those of
    sleep included, so that two processes can compare them; without it, `monotonic`.
    `beside(seconds, beat)`: calls `beat()` beside the work, first after `seconds`, then each time after as many as it returned,
    until the function that `beside` returned is called. `interrupt()`: stops the work of this process, from there."""

    now: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    random_hex: Callable[[int], str]
    host: str
    pid: int
    state_home: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    hear: Callable[[Mapping[str, Any]], None] = lambda record: None
    say: Callable[[str], None] = lambda line: None
    ask: Callable[[str, tuple[str, ...]], str | None] = lambda question, choices: None
    ask_text: Callable[[str], str | None] = lambda question: None
    boot: Callable[[], str] = lambda: ""
    uptime: Callable[[], float] | None = None
    beside: Callable[[float, Callable[[], float]], Callable[[], None]] = lambda seconds, beat: lambda: None

    interrupt: Callable[[], None] = lambda: None

    def lasting(self) -> float:
        """Return seconds that include those of sleep: the time that another machine sees passing."""
        return (self.uptime or self.monotonic)()

    def timestamp(self) -> str:
        """Return the time as the record writes it: UTC, whole seconds."""
        return datetime.fromtimestamp(int(self.now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
