"""`runner doctor` and `runner clean`."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import NoReturn

import click

from runner.app import clean
from runner.app.describe import as_typed
from runner.app.doctor import Finding, checks, fix, forge, machine, protocols
from runner.cli import options
from runner.cli.console import Console
from runner.cli.streams import program
from runner.errors import RunnerError, UsageError
from runner.protocol import ids
from runner.store import lookup, publishing


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
        checks.fix_protocols(console.session, name, console.note)
    found = checks.examine(console.cwd, who, console.options, name)
    with contextlib.suppress(RunnerError):  # the findings say why
        if action is None and not as_json and (size := clean.taken(console.project)):
            console.note(
                f"worktrees, workspaces and environments take {_size(size)}; `{program()} clean` removes what is done"
            )
    _tell_all(console, found, as_json)


def _find(console: Console, name: str) -> str:
    """Return the id of the protocol that is meant, one whose branch is gone included."""
    try:
        return options.looked_up(console, name, partial(lookup.find, console.session))
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
    return 4 if "integrity" in kinds else 2 if "here" in kinds else 0


def _tell(console: Console, one: Finding) -> None:
    lines = [
        f"{'note' if one.kind == 'note' else 'found'}: {one.what}",
        f"  at:   {one.where}",
        f"  so:   {one.consequence}",
    ]
    lines += [f"  next: {as_typed(one.command, program())}"] if one.command else []
    for line in lines:
        console.result(line.replace("`runner ", f"`{program()} "))


def _config(console: Console, as_json: bool) -> None:
    found = machine.values(console.project)
    if as_json:
        console.json({"config": [{"key": one.key, "value": one.value, "source": one.source} for one in found]})
        return
    width = max(len(one.key) for one in found)
    for one in found:
        console.result(
            f"{one.key:<{width}}  {'not set' if one.value is None else json.dumps(one.value, ensure_ascii=False)}  ({one.source})"
        )


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
    name = options.looked_up(console, protocol, partial(lookup.find, session)) if protocol else None
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


@click.command("discard")
@options.protocol
@options.flag("--yes", help="Discard without asking.")
@click.pass_obj
def discard_command(console: Console, protocol: str | None, yes: bool) -> None:
    """Remove PROTOCOL, if nothing was done for it and nobody else has it: branch, number, worktree and workspace.

    You are asked first. One that was run or published is refused: `runner cancel` ends that one.
    """
    session = console.session
    name = console.means(publishing.find(session, protocol))
    going = clean.discard(session.project, name, check_only=True)
    if not yes:
        for one in going:
            console.note(f"  {one}")
        if console.ask(f"Discard {name}?", ("no", "yes")) != "yes":
            console.note(
                "nothing was removed" + ("" if console.is_terminal() else "; add --yes where nobody can be asked")
            )
            return
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
