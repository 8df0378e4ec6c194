"""`runner clean`."""

from __future__ import annotations

import click

from runner.app import clean
from runner.cli import options
from runner.cli.session import Session
from runner.store import lookup


@click.command("clean")
@options.protocol
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.pass_obj
def command(session: Session, protocol: str | None, dry_run: bool, yes: bool) -> None:
    """Remove worktrees, workspaces, journals and branches of finished protocols, if git holds their contents.

    A worktree is removed if its files are committed, a branch if the base or the protocol's history contains its commits, a
    journal if the history contains its answers. A workspace is removed with all that is in it: the work of its steps is
    committed. Everything that is kept is named, with the reason. With PROTOCOL, only its own are removed, and its workspace
    even if it is still open (it is created again when a step needs it).
    """
    project = session.project
    name = lookup.find(project, protocol) if protocol else None
    items = clean.look(project, name)
    going = [item for item in items if not item.why]
    if going and not dry_run and not yes and session.is_terminal():
        for item in going:
            session.note(f"  {item.kind:<9}  {item.name}  {size(item.size)}")
        if not click.confirm("Take these away?", default=True, err=True):
            session.note("nothing was taken away")
            return
    freed = 0
    for item in items if dry_run else clean.remove(project, items, named=name is not None):
        if item.why:
            session.note(f"left     {item.kind:<9}  {item.name}  {item.why}")
            continue
        freed += item.size
        session.result(
            f"{'would go' if dry_run else 'removed'}  {item.kind:<9}  {item.name}  {size(item.size)}".rstrip()
        )
    session.note(f"{size(freed) or 0} {'would be ' if dry_run else ''}freed" if going else "nothing to take away")


def size(count: int) -> str:
    """Return a number of bytes as people read it; nothing where there are none."""
    if count < 1000:
        return f"{count} B" if count else ""
    unit, factor = next(
        ((unit, factor) for unit, factor in (("kB", 1e3), ("MB", 1e6)) if count < 1000 * factor), ("GB", 1e9)
    )
    return f"{count / factor:.1f} {unit}"
