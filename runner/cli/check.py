"""`runner check`."""

from __future__ import annotations

from functools import partial

import click

from runner.app import lint
from runner.cli import options
from runner.cli.session import Session
from runner.errors import MalformedFileError
from runner.lines import counted
from runner.store import lookup


@click.command("check")
@click.argument("named", nargs=-1, metavar="[FOLDER|FILE|PROTOCOL]...")
@options.as_json
@click.pass_obj
def command(session: Session, named: tuple[str, ...], as_json: bool) -> None:
    """Check plans, configuration, policy and agent files before they are used; print all that is wrong with them.

    A plan is checked with what the trusted branch has: agents, engines, tools, roles. Default: the files in .protocols of the
    checkout, but not the plans of protocols. Files that people do not write are ignored. Exit 2: something is wrong.
    """
    project = session.project
    targets = lint.targets(
        project, session.cwd, named, lambda name: options.looked_up(session, name, partial(lookup.find, project))
    )
    found = [error for name, at in targets.items() for error in lint.problems(project, name, at)]
    if as_json:
        session.json({"problems": [{"what": one.what, "at": one.where, "next": one.hint} for one in found]})
    else:
        for one in found:
            session.line(f"{one.where}: ", (one.what, "red"))
            session.line(f"  next: {one.hint}")
        many = counted(len(found), "problem") if found else "no problems"
        session.note(f"{many}; checked: {', '.join(targets) or 'nothing'}")
    raise SystemExit(MalformedFileError.exit_code if found else 0)
