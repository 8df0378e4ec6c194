"""`runner doctor`, `engines`, `clean` and `discard`: check this machine and clone, and remove leftovers."""

from __future__ import annotations

import contextlib
import json
from typing import NoReturn

import click

from runner.app import clean, describe
from runner.app.doctor import Finding, checks, fix, forge, machine, protocols
from runner.cli import options
from runner.cli.console import Console, in_columns
from runner.cli.streams import program
from runner.engines import EngineError, agents, registry
from runner.errors import ExitCode, RunnerError, UsageError, WaitingError
from runner.lines import money
from runner.protocol import config, ids
from runner.protocol.state import ENDED
from runner.store import lookup, publishing, record


@click.command("doctor")
@options.protocol
@click.option("--fix", "action", flag_value="fix", help="Fix what can be fixed without losing anything.")
@click.option("--config", "action", flag_value="config", help="Print each setting and its source.")
@click.option(
    "--forge",
    "action",
    flag_value="forge",
    help="Read the project's settings on the forge, and report what will not work.",
)
@click.option("--repin", "action", flag_value="repin", help="Trust the current default branch of the remote.")
@click.option(
    "--forget", "action", flag_value="forget", help="Accept the current history of PROTOCOL, even if it was rewritten."
)
@options.work
@options.as_json
@click.pass_obj
def command(console: Console, protocol: str | None, action: str | None, as_json: bool) -> None:
    """Check this machine, this clone and its protocols, or PROTOCOL alone; print each problem and its fix.

    Exit 0: no problem; 2: something is missing or in the way on this machine; 4: a record does not follow from its
    history. --fix does not decide about a change that a person may have intended (a rewritten history, a deleted
    branch), unless PROTOCOL is named.
    """
    who = console.environment()
    if action == "repin":
        console.note(machine.repin(console.cwd, who))
        return
    if action == "config":
        _config(console, as_json)
        return
    if action == "fix":
        checks.fix_clone(console.cwd, who)
    if action == "forge":
        _tell_all(console, forge.examine(console.project), as_json)
    name = _find(console, protocol) if protocol is not None else None
    if action == "forget":
        if name is None:
            raise click.UsageError("--forget needs a PROTOCOL")
        known = fix.forget(console.project, name)
        console.note(
            f"{name}: its checkpoint is removed; its current history is accepted"
            if known
            else f"{name}: it has no checkpoint"
        )
        return
    if action == "fix" and not _cannot_open(console):
        checks.fix_protocols(console.session, name)
    found = checks.examine(console.cwd, who, console.options, name)
    with contextlib.suppress(RunnerError):  # the findings say why
        if action is None and not as_json and (size := clean.taken(console.project)):
            console.note(
                f"worktrees, workspaces and environments take {_size(size)}; `{program()} clean` removes those not in use"
            )
    _tell_all(console, found, as_json)


def _find(console: Console, name: str) -> str:
    """Return the id of the protocol that is meant, one whose branch is gone included."""
    try:
        return options.looked_up(console, name, lookup.find)
    except UsageError:
        gone = protocols.gone(console.project)
        branch = ids.protocol_of_branch(console.project.pattern, name.removeprefix("refs/heads/"))
        number = int(name) if name.isdecimal() and name.isascii() else None
        meant = [one for one in gone if one in (name, branch) or ids.number_of(one) == number]
        if len(meant) > 1:
            raise UsageError(
                f"`{name}` is ambiguous: {', '.join(meant)}", "the protocol's name", "give the whole id"
            ) from None
        if not meant:
            raise
        return meant[0]


def _tell_all(console: Console, found: list[Finding], as_json: bool) -> NoReturn:
    """Print the findings, and exit."""
    if as_json:
        rows = [
            {key: getattr(one, key) for key in ("kind", "what", "where", "consequence", "command")} for one in found
        ]
        console.json({"ok": _exit_code(found) == 0, "findings": rows})
    else:
        for one in found:
            _tell(console, one)
        console.note("all is well" if _exit_code(found) == 0 else f"{sum(one.kind != 'note' for one in found)} found")
    raise SystemExit(_exit_code(found))


def _cannot_open(console: Console) -> bool:
    """Return whether the project cannot be opened; the examination then says why."""
    try:
        return console.project is None
    except RunnerError:
        return True


def _exit_code(found: list[Finding]) -> int:
    kinds = {one.kind for one in found}
    return ExitCode.REFUSED if "integrity" in kinds else ExitCode.USAGE if "here" in kinds else ExitCode.DONE


def _tell(console: Console, one: Finding) -> None:
    lines = [
        f"{'note' if one.kind == 'note' else 'found'}: {one.what}",
        f"  at:   {one.where}",
        f"  so:   {one.consequence}",
    ]
    lines += [f"  next: {describe.as_typed(one.command, program())}"] if one.command else []
    for line in lines:
        console.result(line.replace("`runner ", f"`{program()} "))


def _config(console: Console, as_json: bool) -> None:
    found = machine.values(console.project)
    if as_json:
        console.json({"config": [{"key": one.key, "value": one.value, "source": one.source} for one in found]})
        return
    values = ["not set" if one.value is None else json.dumps(one.value, ensure_ascii=False) for one in found]
    rows = [(one.key, f"{value}  ({one.source})") for one, value in zip(found, values, strict=True)]
    console.lines(in_columns(rows), breaks=True)


@click.command("clean")
@options.protocol
@options.flag("--dry-run", help="Print what would be removed, and remove nothing.")
@options.flag("--yes", help="Remove without asking.")
@click.pass_obj
def clean_command(console: Console, protocol: str | None, dry_run: bool, yes: bool) -> None:
    """Remove worktrees, workspaces, journals and branches of finished protocols, if git holds their contents.

    A worktree is removed if its files are committed, a branch if the base or the protocol's history contains its commits, a
    journal if the history contains its answers. A workspace is removed with all that is in it: the work of its steps is
    committed. An environment that `workspace.setup` made is removed if no step has used it for 30 days. Everything that is kept
    is named, with the reason. With PROTOCOL, only its own are removed, and its workspace even if it is still open (it is
    created again when a step needs it).
    """
    session = console.session
    name = options.looked_up(console, protocol, lookup.find) if protocol else None
    # Read before anything is removed: where the branch is gone, its tip is not found.
    row = record.row(session.git, name, lookup.tip(session.project, name)) if name else None
    is_open = row is not None and row["status"] not in ENDED
    items = clean.look(session.project, console.means(name) if name else None)
    going = [item for item in items if not item.why]
    if going and not dry_run and not yes and console.is_terminal():
        for item in going:
            console.note(f"  {item.kind:<9}  {item.name}  {_size(item.size)}")
        if not click.confirm("Remove these?", default=True, err=True):
            console.note("nothing was removed")
            return
    freed = 0
    for item in items if dry_run else clean.remove(session.project, items, named=name is not None):
        if item.why:
            console.note(f"left     {item.kind:<9}  {item.name}  {item.why}")
            continue
        freed += item.size
        console.result(
            f"{'would go' if dry_run else 'removed'}  {item.kind:<9}  {item.name}  {_size(item.size)}".rstrip()
        )
    console.note(f"{_size(freed) or 0} {'would be ' if dry_run else ''}freed" if going else "nothing to remove")
    if is_open:
        console.note(f"{name} has not ended: its worktree and branch stay")


@click.command("discard")
@options.protocol
@options.flag("--yes", help="Discard without asking.")
@click.pass_obj
def discard_command(console: Console, protocol: str | None, yes: bool) -> None:
    """Remove PROTOCOL, if it has no work and was never published: its branch, number, worktree and workspace.

    You are asked first. Any other protocol is refused: `runner cancel` ends it.
    """
    session = console.session
    name = console.means(publishing.find(session, protocol))
    going = clean.discard(session.project, name, check_only=True)
    if not yes:
        for one in going:
            console.note(f"  {one}")
        if console.ask(f"Discard {name}?", ("no", "yes")) != "yes":
            if console.is_terminal():
                console.note("nothing was removed")
                return
            raise WaitingError(
                "it was not confirmed, so nothing was removed", name, "add --yes where nobody can be asked"
            )
    clean.discard(session.project, name)
    console.result(f"discarded  {name}")


def _size(count: int) -> str:
    """Return a number of bytes as people read it; nothing where there are none."""
    if count < 1000:
        return f"{count} B" if count else ""
    unit, factor = next(
        ((unit, factor) for unit, factor in (("kB", 1e3), ("MB", 1e6)) if count < 1000 * factor), ("GB", 1e9)
    )
    return f"{count / factor:.1f} {unit}"


@click.command("engines")
@click.argument("name", required=False)
@options.flag("--check", "check_all", help="Send one small request to each engine that is configured here.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    type=click.FloatRange(1),
    help="How long to wait for an answer.",
)
@options.as_json
@click.pass_obj
def engines_command(console: Console, name: str | None, check_all: bool, timeout: float, as_json: bool) -> None:
    """List the engines and what each needs on this machine; with NAME, such as openai:MODEL, send it one small request."""
    if as_json and (name is not None or check_all):
        raise click.UsageError(
            "--json goes with the list, not with NAME or --check; their exit code says whether the engine answers"
        )
    if name is not None:
        _check(console, name, timeout)
        return
    if check_all:
        _check_all(console, timeout)
        return
    every = registry.listed(console.environ)
    if as_json:
        told = [{"name": one.form, "about": one.about, "missing": one.missing or None} for one in every]
        console.json({"engines": told})
        return
    states = [(one.missing, "yellow") if one.missing else (one.found, "green") for one in every]
    rows = [(one.form, one.about, state) for one, state in zip(every, states, strict=True)]
    console.lines(in_columns(rows), breaks=True)


def _check_all(console: Console, timeout: float) -> None:
    """Ask each configured engine; print what each says, and end with the first error."""
    names = _configured(console)
    if not names:
        raise UsageError(
            "no engine is configured",
            "option, environment and .protocols/config.yaml",
            "set RUNNER_ENGINE or a provider's key; `runner engines` lists them",
        )
    failed: EngineError | None = None
    for name in names:
        try:
            _check(console, name, timeout)
        except EngineError as error:
            console.line(f"{name}  ", (f"does not answer: {error.what}", "red"))
            failed = failed or error
    if failed is not None:
        raise failed


def _configured(console: Console) -> list[str]:
    """Return the engines that this machine would ask: of option, environment, phases and reviewers, and of the keys here."""
    named = [console.options.get("engine"), console.environ.get("RUNNER_ENGINE")]
    if (project := console.here) is not None:
        engine, review = project.config.engine, project.config.review
        named += [*engine.plan, *engine.decompose, *engine.execute, *engine.review]
        named += [*(name for one in review.reviewers for name in one.engine), *engine.default]
    named += registry.defaults(console.environ)
    return list(dict.fromkeys(filter(None, named)))


def _check(console: Console, name: str, timeout: float) -> None:
    import time

    if agents.is_agent(name):
        own = console.here.config if console.here is not None else config.Config.model_construct()
        row = agents.need(name, own, console.environ.get("PATH", ""))
        console.result(f"{name}  is there  {' '.join(row.command[:2])}")
        return
    began = time.monotonic()
    git = console.here.git if console.here is not None else None
    base = (git.top or git.cwd) if git is not None else console.cwd  # that files are relative to
    response = registry.check(name, console.environ, base, timeout=timeout)
    if response is None:
        console.result(f"{name}  is readable")
        return
    took = time.monotonic() - began
    cost = registry.cost_usd(response.turn.provider, name.partition(":")[2], response.usage)
    told = money(cost) if cost is not None else "its price is not known: a budget in money cannot be kept"
    usage = response.usage
    console.result(f"{name}  answers  {took:.1f} s · {usage.input:,} tokens in, {usage.output:,} out · {told}")
