"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from runner.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    import os
    from pathlib import Path

    from runner.cli.session import Session

    try:
        session = Session(Path.cwd(), dict(os.environ), quiet=True)
        return [name for name in session.project.protocols() if name.startswith(incomplete)]
    except Exception:
        return []


def protocol(function: F) -> F:
    """The protocol: id, number, branch, or nothing where it is clear."""
    return click.argument("protocol", required=False, shell_complete=_complete)(function)


def work(function: F) -> F:
    """What goes with every command that does work."""

    def keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value:
            session: Session = ctx.find_root().obj
            session.options[str(param.name)] = value

    function = click.option(
        "--executor", expose_value=False, callback=keep, metavar="NAME", help="Where commands run: sandbox or host."
    )(function)
    function = click.option(
        "--publish", expose_value=False, callback=keep, metavar="WHEN", help="never, ask or always."
    )(function)
    return click.option(
        "--engine", expose_value=False, callback=keep, metavar="MODEL", help="The model for agent steps."
    )(function)


def as_json(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
