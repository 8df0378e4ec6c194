"""`runner list`."""

from __future__ import annotations

import click

from runner.app import describe
from runner.app.describe import Describer, Names
from runner.cli import options, status
from runner.cli.main import program
from runner.cli.session import Session
from runner.store import lookup, record
from runner.store.trusted import NoCommitsError


@click.command("list")
@options.as_json
@click.pass_obj
def command(session: Session, as_json: bool) -> None:
    """List all protocols, including finished ones: number, status, steps done, age of the last commit, title."""
    try:
        project = session.project
    except NoCommitsError as error:
        status.tell_nothing(session, as_json, f"{error.what}; {error.hint}")
        return
    known = lookup.known(project)
    if as_json:
        session.json_rows(status.plain_rows(project, record.stream(project.git, known), known))
        return
    if not known:
        status.tell_nothing(session, False, f"no protocols; `{program()} new` makes one")
        return
    names, now, times, describer = Names(known), project.who.now(), record.times(project.git), Describer(project)
    behind: list[str] = []
    lines = []
    for row in record.stream(project.git, known):
        protocol = row["protocol"]
        found = describer.describe(row, known[protocol], names.short(protocol))
        word = found.word
        if word == "completed":
            word = f"completed · {'waits for merge' if found.to_merge else 'merged'}"
        if found.ahead is not None:
            behind.append(found.ahead.command)
        every = record.open_steps(row)
        done = sum(step.get("status") in record.ENDED for _, step in every)
        branch = project.branch(protocol)
        when = times.get(branch)
        if when is None and project.trusted.remote:
            when = times.get(f"refs/remotes/{project.trusted.remote}/{branch.removeprefix('refs/heads/')}")
        old = describe.age_of(now - when) if when is not None else "on the base"
        title = f"{row['title']} · {found.ahead.text}" if found.ahead is not None else str(row["title"])
        lines.append((names.shown(protocol), word, f"{done}/{len(every)}", old, title))
    widths = [max(len(line[at]) for line in lines) for at in range(4)]
    session.lines(
        (
            f"{number.ljust(widths[0])}  ",
            (word.ljust(widths[1]), status.COLOURS.get(word.split(" ", 1)[0], "")),
            f"  {steps.rjust(widths[2])}  {old.ljust(widths[3])}  {title}",
        )
        for number, word, steps, old, title in lines
    )
    if behind:
        session.note(
            f"  next          {describe.as_typed(behind[0] if len(behind) == 1 else 'runner sync', program())}"
        )
