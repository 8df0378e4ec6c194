"""`runner engines`."""

from __future__ import annotations

from pathlib import Path

import click

from runner.cli.session import Session
from runner.engines import registry
from runner.errors import UsageError


@click.command("engines")
@click.argument("name", required=False)
@click.option(
    "--timeout", default=30.0, show_default=True, type=click.FloatRange(1), help="Seconds to wait for an answer."
)
@click.pass_obj
def command(session: Session, name: str | None, timeout: float) -> None:
    """List the engines and what each needs on this machine; with NAME, such as gemini:MODEL, send it one small request."""
    if name is not None:
        _check(session, name, timeout)
        return
    every = registry.listed(session.environ)
    form, about = max(len(one.form) for one in every), max(len(one.about) for one in every)
    for one in every:
        state = (one.missing, "yellow") if one.missing else ("ready", "green")
        session.line(f"{one.form.ljust(form)}  {one.about.ljust(about)}  ", state)


def _check(session: Session, name: str, timeout: float) -> None:
    import time

    began = time.monotonic()
    response = registry.check(name, session.environ, _base(session), timeout=timeout)
    if response is None:
        session.result(f"{name}  is readable")
        return
    took = time.monotonic() - began
    cost = registry.cost_usd(response.turn.provider, name.partition(":")[2], response.usage)
    told = f"${format(cost, 'f')}" if cost is not None else "its price is not known: a budget in money cannot be kept"
    usage = response.usage
    session.result(f"{name}  answers  {took:.1f} s · {usage.input:,} tokens in, {usage.output:,} out · {told}")


def _base(session: Session) -> Path:
    """Return the folder that files are relative to: the repository's, else the one that the command runs in."""
    try:
        git = session.project.git
    except UsageError:
        return session.cwd
    return git.top or git.cwd
