"""Fetching what a proof needs: at a yes at the terminal, or `--yes`; never unasked."""

from __future__ import annotations

from collections.abc import Collection

from runner.app import histories
from runner.cli.session import Session


def offer(session: Session, protocols: Collection[str], *, yes: bool) -> bool:
    """Fetch missing objects of protocols if the person agrees; return whether they were fetched.

    Raises:
        UnreachableError: the remote does not answer. IntegrityError: what it has is not taken.
    """
    remote = session.project.trusted.remote
    if not protocols or remote is None or session.project.mirror is not None:
        return False
    names = ", ".join(sorted(protocols)[:3]) + (f" and {len(protocols) - 3} more" if len(protocols) > 3 else "")
    question = f"{names}: what proves it is not all in this clone. Fetch it from {remote}?"
    if not yes and session.ask(question, ("no", "yes")) != "yes":
        return False
    return histories.fetch(session.project, protocols)
