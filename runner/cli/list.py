"""`runner list`."""

from __future__ import annotations

import click

from runner.cli import options, status, summary
from runner.cli.main import program
from runner.cli.session import Session
from runner.folders import matching
from runner.store import elsewhere, finding, locks, record
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
    known = finding.known(project)
    if as_json:
        session.json_rows(status.described(project, record.stream(project.git, known), known))
        return
    if not known:
        status.tell_nothing(session, False, f"no protocols; `{program()} new` makes one")
        return
    names, now, times = summary.Names(known), project.who.now(), record.times(project.git)
    merges = record.Merges(project.git, project.trusted.remote)
    behind: list[str] = []
    lines, away = [], elsewhere.leases(project.places)
    locked = {path.name for path in matching(project.places.beside / "locks", "*")}
    for row in record.stream(project.git, known):
        protocol = row["protocol"]
        here = protocol in locked and locks.is_held(project.places.lock(protocol)) is not None
        held = here or elsewhere.at_work(project, protocol, away) is not None
        word = summary.word(row, record.outlook(row), held=held)
        if word == "completed":
            word = f"completed · {'merged' if merges.holds(row, known[protocol]) else 'waits for merge'}"
        if status.is_rewritten(project, protocol):
            word = "rewritten"
        news = status.beside(project, protocol, names.short(protocol))
        if news is not None:
            behind.append(news[1])
        every = record.open_steps(row)
        done = sum(step.get("status") in record.ENDED for _, step in every)
        branch = project.branch(protocol)
        when = times.get(branch)
        if when is None and project.trusted.remote:
            when = times.get(f"refs/remotes/{project.trusted.remote}/{branch.removeprefix('refs/heads/')}")
        old = summary.age_of(now - when) if when is not None else "on the base"
        title = f"{row['title']} · {news[0]}" if news is not None else str(row["title"])
        lines.append((names.shown(protocol), word, f"{done}/{len(every)}", old, title))
    widths = [max(len(line[at]) for line in lines) for at in range(4)]
    session.lines(
        (
            f"{number.ljust(widths[0])}  ",
            (word.ljust(widths[1]), summary.COLOURS.get(word.split(" ", 1)[0], "")),
            f"  {steps.rjust(widths[2])}  {old.ljust(widths[3])}  {title}",
        )
        for number, word, steps, old, title in lines
    )
    if behind:
        session.note(f"  next          {status.as_typed(behind[0] if len(behind) == 1 else 'runner sync')}")
