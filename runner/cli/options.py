"""Options and arguments that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.app import create, verify
from runner.cli import ci
from runner.cli.console import Console
from runner.errors import RunnerError, UnreachableError
from runner.lines import few
from runner.protocol import plans
from runner.store import lookup, publishing, record
from runner.store.project import SETTINGS

if TYPE_CHECKING:
    from runner.store.project import Session

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _offer(look: Callable[[Session], list[str]]) -> list[str]:
    """Return completions for a shell; none if there is no project, since a shell cannot show the error."""
    console = Console(Path.cwd(), dict(os.environ), quiet=True)
    try:
        return look(console.session)
    except (RunnerError, OSError):
        return []
    finally:
        console.close()


def complete_protocols(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the protocols whose ids start so."""
    return _offer(lambda session: [name for name in lookup.known(session.project) if name.startswith(incomplete)])


def complete_steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the steps of the protocol typed before, or of the one that is meant without a name, whose slugs start so."""
    return _steps_of(ctx.params.get("protocol") or next(iter(ctx.params.get("words") or ()), None), incomplete)


def _words(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    typed = ctx.params.get(str(param.name))
    return _steps_of(str(typed[0]), incomplete) if typed else complete_protocols(ctx, param, incomplete)


def _steps_of(protocol: str | None, incomplete: str) -> list[str]:
    def look(session: Session) -> list[str]:
        name = lookup.find(session, protocol)
        tip = lookup.tip(session.project, name)
        row = record.as_planned(session.git, record.row(session.git, name, tip), tip)
        return [slug for slug, _ in record.open_steps(row) if slug.startswith(incomplete)]

    return _offer(look)


def _workflows(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return _offer(lambda session: [one for one in create.workflow_names(session.project) if one.startswith(incomplete)])


def found(console: Console, name: str | None, step: str | None = None) -> tuple[str, str | None]:
    """Return (id of the protocol, slug of the step or None) that a person means; the remote is asked for one that is not known here.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    return looked_up(console, name, lambda session, name: lookup.find_with_step(session, name, step))


def looked_up(console: Console, name: str | None, find: Callable[[Session, str | None], T]) -> T:
    """Return what `find` finds by a protocol's name; the remote is asked for one that is not known here.

    Raises:
        UsageError: that of `find`.
    """
    session = console.session
    try:
        return find(session, name)
    except lookup.UnknownProtocolError:
        if name is None or session.project.trusted.remote is None or not lookup.beginnings(session.project, name):
            raise

    with contextlib.suppress(UnreachableError):
        publishing.find(session, name)
    return find(session, name)


# The protocol: id, number, branch, or nothing where it is clear; several of them, or none; its step: `deploy` or `02-deploy`.
protocol = click.argument("protocol", required=False, shell_complete=complete_protocols)
protocols = click.argument("protocols", nargs=-1, metavar="[PROTOCOL]...", shell_complete=complete_protocols)
step = click.argument("step", required=False, shell_complete=complete_steps)


def a_step(*names: str, help: str, metavar: str = "STEP") -> Callable[[F], F]:
    """Return an option that names a step."""
    return click.option(*names, metavar=metavar, shell_complete=complete_steps, help=help)


workflow = click.option(
    "--workflow",
    metavar="NAME",
    shell_complete=_workflows,
    help="A workflow in .protocols/workflows, or a built-in one.",
)


def words(metavar: str, *, name: str = "words", required: bool = False) -> Callable[[F], F]:
    """Return the argument of commands that take a protocol, which can be left out, and then a step or other words."""
    return click.argument(name, nargs=-1, required=required, metavar=metavar, shell_complete=_words)


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        console: Console = ctx.find_root().obj
        console.options[str(param.name)] = value


def _kept(name: str, metavar: str, told: str, *values: str) -> Callable[[F], F]:
    """Return an option that is kept among those of the console. `values`: those that a shell completes; they are validated later."""

    def offer(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return click.option(
        name, expose_value=False, callback=_keep, metavar=metavar, shell_complete=offer if values else None, help=told
    )


def flag(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    """Return an option without a value."""
    return click.option(*names, is_flag=True, help=help, **more)


def path(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    """Return an option that names a file or folder."""
    return click.option(*names, type=click.Path(path_type=Path), help=help, **more)


class Number(click.IntRange):
    """A whole number, called so in help and errors."""

    name = "number"


def number(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    """Return an option that is a whole number from 1 on."""
    return click.option(*names, type=Number(1), help=help, **more)


class _Time(click.ParamType[int]):
    """A time such as 90m, in seconds. `like`: how one is written, for the error."""

    name = "time"

    def __init__(self, like: str) -> None:
        self.like = like

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return plans.seconds_of(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"{error}; one is written as {self.like}", param, ctx)


def time(*names: str, like: str, help: str, **more: Any) -> Callable[[F], F]:
    """Return an option that is a time, in seconds. `like`: how one is written."""
    return click.option(*names, metavar="TIME", type=_Time(like), help=help, **more)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return several options as one; the help lists the last one first."""

    def add(function: F) -> F:
        for one in options:
            function = one(function)
        return function

    return add


def _offline(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    console: Console = ctx.find_root().obj
    console.options["offline"] = "yes" if value else ""  # that it could be said is known by it, too
    ci.refuse_offline(console)


# `--offline` goes with every command that makes a commit, `--executor` with every one that runs commands.
offline = flag(
    "--offline",
    expose_value=False,
    callback=_offline,
    help="Work without the remote: publish nothing, and print the commits left to publish.",
)
executor = _kept("--executor", "NAME", "Where commands run: sandbox, container or host.", *SETTINGS["executor"])
publish = _kept("--publish", "WHEN", "When to publish: never, ask or always.", *SETTINGS["publish"])
# What goes with every command that asks a model, and with every one that does work.
model = together(
    _kept("--record", "FILE", "Append the model's answers to a cassette file."),
    _kept("--engine", "MODEL", "The model for agent steps."),
)
work = together(offline, executor, publish, model)


def _of_job(name: str, told: str) -> Callable[[F], F]:
    return flag(name, expose_value=False, callback=ci.option, help=told)


# In a CI job, or on a machine that may disappear.
job = together(
    _of_job("--ephemeral", "This machine may disappear: announce external calls on the remote before they are made."),
    _of_job(
        "--ci", "For a CI job: imply --ephemeral, publish, exit 0 if a person is needed, write job summary and outputs."
    ),
)
verbose = flag("-v", "--verbose", help="Print the output of commands and checks as it comes.")
fetches = flag("--yes", help="Fetch missing objects from the remote without asking.")
as_json = flag("--json", "as_json", help="Print JSON.")


def fetch_missing(console: Console, protocols: Collection[str], *, yes: bool, about: str = "") -> bool:
    """Fetch missing objects of protocols if the person agrees; return whether they were fetched. `about`: what else lacks them.

    Raises:
        UnreachableError: the remote does not answer. IntegrityError: what it has is not taken.
    """
    remote = console.project.trusted.remote
    if not (protocols or about) or remote is None or console.session.mirror is not None:
        return False
    question = f"{few(sorted(protocols)) or about}: part of the proof is not in this clone. Fetch it from {remote}?"
    if not yes and console.ask(question, ("no", "yes")) != "yes":
        return False
    return verify.fetch_histories(console.session, protocols)
