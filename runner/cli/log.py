"""`runner log`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from runner.cli import options
from runner.cli.session import Session
from runner.store import finding, record

if TYPE_CHECKING:
    from runner.protocol.log import RawEntry
    from runner.store.project import Project

POLL = 0.5  # seconds between two looks at the branch


@click.command("log", short_help="Show a protocol's events.")
@options.protocol
@options.as_json
@click.option("--follow", is_flag=True, help="Go on showing what happens, until the protocol ends.")
@click.pass_obj
def command(session: Session, protocol: str | None, as_json: bool, follow: bool) -> None:
    """Show PROTOCOL's events, the oldest first. With --json one object a line."""
    project = session.project
    name = finding.find(project, protocol)
    show = _json if as_json else _block
    tip = finding.tip(project, name)
    shown = _show(session, show, record.events(project.git, name, tip), 0)
    while follow and record.row(project.git, name, tip)["status"] not in record.ENDED:
        tip, shown = _next(session, project, name, tip, shown, show)


Show = Callable[[Session, "RawEntry"], None]


def _next(session: Session, project: Project, name: str, tip: str, shown: int, show: Show) -> tuple[str, int]:
    while (now := finding.tip(project, name)) == tip:
        time.sleep(POLL)
    return now, _show(session, show, record.events(project.git, name, now), shown)


def _show(session: Session, show: Show, entries: Sequence[RawEntry], after: int) -> int:
    for entry in entries:
        if entry.revision > after:
            show(session, entry)
    return max(after, entries[-1].revision) if entries else after


def _json(session: Session, entry: RawEntry) -> None:
    told = {"revision": entry.revision, "event": entry.event, "subject": entry.subject}
    click.echo(json.dumps({**told, "time": entry.time, "actor": entry.actor, **entry.fields}))


def _block(session: Session, entry: RawEntry) -> None:
    if entry.revision > 1:
        session.line("")
    session.line((f"{entry.revision:>4}", "yellow"), f"  {entry.event} {entry.subject}")
    session.line(f"      {entry.time}  by {entry.actor}")
    for key, value in entry.fields.items():
        if isinstance(value, str) and "\n" in value:
            session.line(f"      {key}:")
            for line in value.splitlines():
                session.line(f"        {line}")
        else:
            session.line(f"      {key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
