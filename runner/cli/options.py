"""Options and arguments that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.cli import ci
from runner.cli.session import Session
from runner.errors import RunnerError, UnreachableError
from runner.lines import few
from runner.store import lookup, record

if TYPE_CHECKING:
    from runner.store.project import Project

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _offer(look: Callable[[Project], list[str]]) -> list[str]:
    """Return completions for a shell; none if there is no project, since a shell cannot show the error."""
    session = Session(Path.cwd(), dict(os.environ), quiet=True)
    try:
        return look(session.project)
    except (RunnerError, OSError):
        return []
    finally:
        session.close()


def _protocols(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return _offer(lambda project: [name for name in lookup.known(project) if name.startswith(incomplete)])


def _steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    def look(project: Project) -> list[str]:
        name = lookup.find(project, ctx.params.get("protocol"))
        row = record.row(project.git, name, lookup.tip(project, name))
        return [slug for slug, _ in record.open_steps(row) if slug.startswith(incomplete)]

    return _offer(look)


def found(session: Session, name: str | None, step: str | None = None) -> tuple[str, str | None]:
    """Return (id of the protocol, slug of the step or None) that a person means; the remote is asked for one that is not known here.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    return looked_up(session, name, lambda name: lookup.find_with_step(session.project, name, step))


def looked_up(session: Session, name: str | None, find: Callable[[str | None], T]) -> T:
    """Return what `find` finds by a protocol's name; the remote is asked for one that is not known here.

    Raises:
        UsageError: that of `find`.
    """
    project = session.project
    try:
        return find(name)
    except lookup.UnknownProtocolError:
        if name is None or project.trusted.remote is None or not lookup.beginnings(project, name):
            raise
    from runner.store import publishing

    with contextlib.suppress(UnreachableError):
        publishing.find(project, name)
    return find(name)


def protocol(function: F) -> F:
    """The protocol: id, number, branch, or nothing where it is clear."""
    return click.argument("protocol", required=False, shell_complete=_protocols)(function)


def protocols(function: F) -> F:
    """Several of them, or none."""
    return click.argument("protocols", nargs=-1, metavar="[PROTOCOL]...", shell_complete=_protocols)(function)


def step(function: F) -> F:
    """The step of the protocol: `deploy` or `02-deploy`."""
    return click.argument("step", required=False, shell_complete=_steps)(function)


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        session: Session = ctx.find_root().obj
        session.options[str(param.name)] = value


def _offline(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    session: Session = ctx.find_root().obj
    session.options["offline"] = "yes" if value else ""  # that it could be said is known by it, too
    ci.refuse_offline(session)


def offline(function: F) -> F:
    """`--offline`: with every command that makes a commit."""
    return click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_offline,
        help="Work without the remote: publish nothing, and print the commits left to publish.",
    )(function)


def executor(function: F) -> F:
    """`--executor`: with every command that runs commands."""
    return click.option(
        "--executor",
        expose_value=False,
        callback=_keep,
        metavar="NAME",
        help="Where commands run: sandbox, container or host.",
    )(function)


def work(function: F) -> F:
    """What goes with every command that does work."""
    function = executor(offline(function))
    function = click.option(
        "--publish", expose_value=False, callback=_keep, metavar="WHEN", help="When to publish: never, ask or always."
    )(function)
    return model(function)


def model(function: F) -> F:
    """What goes with every command that asks a model."""
    function = click.option(
        "--record",
        expose_value=False,
        callback=_keep,
        metavar="FILE",
        help="Append the model's answers to a cassette file.",
    )(function)
    return click.option(
        "--engine", expose_value=False, callback=_keep, metavar="MODEL", help="The model for agent steps."
    )(function)


def job(function: F) -> F:
    """`--ci` and `--ephemeral`: in a CI job, or on a machine that may disappear."""
    function = click.option(
        "--ephemeral",
        is_flag=True,
        expose_value=False,
        callback=ci.option,
        help="This machine may disappear: announce external calls on the remote before they are made.",
    )(function)
    return click.option(
        "--ci",
        is_flag=True,
        expose_value=False,
        callback=ci.option,
        help="In a CI job: as --ephemeral, and publish; waiting is not a failure; write job summary and outputs.",
    )(function)


def verbose(function: F) -> F:
    """`-v`: print the output of commands and checks as it comes."""
    return click.option("-v", "--verbose", is_flag=True, help="Print the output of commands and checks as it comes.")(
        function
    )


def fetches(function: F) -> F:
    """`--yes`, of commands that verify and show offline: they may fetch missing objects."""
    return click.option("--yes", is_flag=True, help="Fetch missing objects from the remote without asking.")(function)


def fetch_missing(session: Session, protocols: Collection[str], *, yes: bool, about: str = "") -> bool:
    """Fetch missing objects of protocols if the person agrees; return whether they were fetched. `about`: what else lacks them.

    Raises:
        UnreachableError: the remote does not answer. IntegrityError: what it has is not taken.
    """
    from runner.app import histories

    remote = session.project.trusted.remote
    if not (protocols or about) or remote is None or session.project.mirror is not None:
        return False
    question = f"{few(sorted(protocols)) or about}: part of the proof is not in this clone. Fetch it from {remote}?"
    if not yes and session.ask(question, ("no", "yes")) != "yes":
        return False
    return histories.fetch(session.project, protocols)


def as_json(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
