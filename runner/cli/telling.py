"""What people are told while a protocol goes on: one line a step, and what comes next."""

from __future__ import annotations

from runner.cli.session import Session
from runner.executor.advance import Advanced


def advanced(session: Session, done: Advanced, *, last: bool = True) -> None:
    """Tell about one transition."""
    for entry in done.entries:
        session.note(f"{entry.event.subject}  {entry.event.name}")
    if done.said:
        session.note(f"  {done.said}")


def end(session: Session, done: Advanced) -> None:
    """Tell how a run ended."""
    session.note(f"{done.state.protocol}  {done.state.status}")
