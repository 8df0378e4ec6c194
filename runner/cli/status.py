"""`runner status`, `runner` alone, and `runner list`; and `--json` of a command that acts.

A command that acts prints one object at its end, whatever its end is, and nothing else on stdout (design §9).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner import signals
from runner.app import describe
from runner.app.describe import SAID, Describer, Names
from runner.cli import options, streams
from runner.cli.console import COLOURS, Cell, Console, in_columns
from runner.cli.streams import program
from runner.errors import RunnerError
from runner.lines import counted, cut, headline
from runner.protocol import paths
from runner.protocol.state import ENDED, STOPPED, Json
from runner.store import history, lookup, record
from runner.store.record import Outlook
from runner.store.trusted import NoCommitsError

if TYPE_CHECKING:
    from runner.app.pending import Unrecorded
    from runner.protocol.state import Row
    from runner.store.project import Project, Session

REASON = 30  # columns that the reason has in a narrow terminal


@click.command("status")
@options.protocol
@options.as_json
@click.pass_obj
def command(console: Console, protocol: str | None, as_json: bool) -> None:
    """Show which protocols wait, run or failed, one per line; or the status of PROTOCOL, step by step.

    Exits with 0, whatever the status is.
    """
    _status(console, protocol, as_json)


def home(console: Console) -> None:
    """Print what `runner` alone does: what waits for this person first, then what waits for others or can run."""
    _status(console, None, as_json=False, mine_first=True)


FIRST = (
    ("runner init", "write config and policy, list your key"),
    ("runner new TITLE", "a model writes the plan; --manual or --workflow NAME does without one"),
    ("runner run", "run the steps until a person is needed"),
)


def _status(console: Console, protocol: str | None, as_json: bool, *, mine_first: bool = False) -> None:
    try:
        session = console.session
    except NoCommitsError as error:
        tell_nothing(console, as_json, f"{error.what}; {error.hint}")
        return
    if protocol is not None:
        name, _ = options.found(console, protocol)
        row = record.row(session.git, name, lookup.tip(session.project, name))
        if as_json:
            console.json_rows([as_plain(session, row, protocol)])
        else:
            show_one(console, session, row, protocol)
        return
    branches = session.project.branches()
    known = lookup.known(session.project, branched=session.project.protocols(branches=branches))
    merges = record.Merges(session.git, session.project.trusted.remote)
    found = []
    for row in _rows(session, known, branches):
        ended = row["status"] == "cancelled" or (
            row["status"] == "completed" and merges.holds(row["protocol"], row.get("base", ""), known[row["protocol"]])
        )
        if not ended:
            found.append(row)
    if as_json:
        console.json_rows(plain_rows(session, found, known))
    elif not known:
        tell_nothing(console, False, f"no protocols; `{program()} new` makes one")
        is_set_up = session.git.blob(f"{session.project.trusted.commit}:{paths.CONFIG}") is not None
        for typed, what in FIRST[is_set_up:] if mine_first else ():
            console.note(f"  {describe.as_typed(typed, program()):22}  {what}")
    elif not found:
        console.note(f"no protocol is open; `{program()} list` shows what has ended")
    else:
        show_all(console, found[::-1], known, mine_first=mine_first)
    if mine_first and (trusted := session.project.trusted).remote and trusted.time:
        old = describe.age(trusted.time, session.env.now())
        console.note(f"{trusted.branch} of {trusted.remote} as of {old} ago; `{program()} sync` fetches and publishes")


def _rows(session: Session, known: dict[str, str], branches: Mapping[str, str]) -> Iterator[Row]:
    """Yield the rows of protocols one by one. What is shown as a base has it is moved there in `known`."""
    follow = lookup.follower(session.project, known, branches)
    for row in record.stream(session.git, known):
        protocol = row["protocol"]
        yield record.row(session.git, protocol, known[protocol]) if follow(protocol, row["status"]) else row


def tell_nothing(console: Console, as_json: bool, text: str) -> None:
    """Print that there is no protocol, and the command that creates one."""
    if as_json:
        console.json_rows([])
    else:
        console.note(text)


# --- JSON ----------------------------------------------------------------------------------------------------------------


def plain_rows(
    session: Session, rows: Iterable[Row], known: Mapping[str, str], only: str | None = None
) -> Iterator[dict[str, Json]]:
    """Yield rows as `--json` has them, one by one. `known`: the tip of each protocol that there is; `only`: as in `_is_listed`."""
    names, trees, describer = Names(known), record.worktree_paths(session.git), Describer(session)
    for row in rows:
        found, typed = describer.command(row, known[row["protocol"]], names.short(row["protocol"]))
        to_merge = row["status"] == "completed" and typed is not None
        if _is_listed(only, row["status"], acts=found.action != "none", to_merge=to_merge):
            yield _plain(session.project, row, found, typed, trees)


def _is_listed(only: str | None, status: str, *, acts: bool, to_merge: bool) -> bool:
    """Return whether `list` shows a protocol of this status. `acts`: something can happen next; `only`: None (all), `open`, or of
    these `ready` or `waiting`."""
    if only is None:
        return True
    is_open = status not in ENDED or to_merge
    return is_open and (only == "open" or (only == "ready") == acts)


def as_plain(session: Session, row: Row, asked: str | None = None) -> dict[str, Json]:
    """Return one row as `--json` has it. `asked`: what its protocol was found by."""
    protocol, tip = row["protocol"], lookup.tip(session.project, row["protocol"])
    name = lookup.typed(session.project, protocol, asked)
    found = describe.describe(session, row, tip, name)
    made = _plain(session.project, row, found.outlook, found.next.command, record.worktree_paths(session.git))
    if row["status"] == "cancelled":
        made["reason"] = describe.cancelled_for(session.project, protocol, tip) or made["reason"]
        made["undo"] = f"runner undo {name}"
    return made


def _plain(project: Project, row: Row, found: Outlook, typed: str | None, trees: Mapping[str, str]) -> dict[str, Json]:
    protocol = row["protocol"]
    path = trees.get(project.branch(protocol))
    return {
        **row,
        "done": row["status"] in ENDED,
        "next": {"action": found.action, "step": found.step, "by": found.by},
        "reason": found.reason,
        "command": typed,
        "path": path if path and Path(path, paths.folder(protocol)).is_dir() else None,
    }


# --- for people ----------------------------------------------------------------------------------------------------------


def show_all(console: Console, rows: list[Row], known: Mapping[str, str], *, mine_first: bool = False) -> None:
    """Print one line per protocol: its status, the reason, and the command to type. `mine_first`: below headings, first those that
    wait for this person."""
    branches = console.project.branches() if len(rows) > describe.FEW else None
    names, describer, lines, waits = Names(known), Describer(console.session, branches), [], list[bool]()
    for row in rows:
        protocol = row["protocol"]
        found = describer.describe(row, known[protocol], names.short(protocol))
        is_works = found.term == "works" and found.ahead is None
        typed = describe.as_typed(found.look or "" if is_works else found.next.text, program())
        lines.append((names.shown(protocol), found.term, found.reason, typed))
        waits.append(found.next.command is not None and found.outlook.action == "none" and found.term != "works")
    most = sys.maxsize
    if console.is_terminal():  # where a line that is wrapped breaks the table; the whole text is in `runner status N`
        taken = sum(max(len(line[at]) for line in lines) for at in (0, 1, 3))
        most = max(shutil.get_terminal_size().columns - taken - 6, REASON)
    cells = [(number, (term, COLOURS.get(term, "")), cut(text, most), typed) for number, term, text, typed in lines]
    made = list(in_columns(cells))
    if not mine_first:
        console.lines(made)
        return
    for heading, mine in (("for you", True), ("for others, or ready to run", False)):
        if shown := [line for line, its in zip(made, waits, strict=True) if its == mine]:
            console.line(heading)
            console.lines(shown)


def _spent(project: Project, row: Row, tip: str) -> str:
    """Return what a protocol cost, with what the log alone has: the share of cached input, tokens without a price."""
    cost = row.get("spent")
    if isinstance(cost, dict) and cost.get("input_tokens"):
        whole = describe.together(raw.fields.get("spent") for raw in record.events(project.git, row["protocol"], tip))
        cost = {**cost, "cached_tokens": whole["cached_tokens"], "unpriced": whole["unpriced"]}
    return describe.spent(cost)


def show_one(console: Console, session: Session, row: Row, asked: str | None = None) -> None:
    """Print the status of one protocol: steps, waits, the runner at work, the next command. `asked`: the name that was typed."""
    project, protocol, now = session.project, row["protocol"], session.env.now()
    name, tip = lookup.typed(project, protocol, asked), lookup.tip(project, protocol)
    found, planned = describe.describe(session, row, tip, name), record.as_planned(session.git, row, tip)
    console.line(f"{protocol}  {row['title']}")
    parts = [describe.progress(planned), f"from {row['base']}" if row.get("base") else "", _spent(project, row, tip)]
    acts = found.term in ("waits", "ready", "works")
    status = (found.term if acts else describe.status_with_merge(project, row), COLOURS.get(found.term, ""))
    console.line("  ", status, *(f" · {part}" for part in parts if part))
    for label, text in _facts(project, row, tip):
        console.fact(label, text)
    show_steps(console, planned)
    for wait in found.waits:
        console.fact("waits", f"{wait.get('id')} {describe.wait_text(planned, wait, now)}")
        if wait.get("text"):
            console.fact("", wait["text"])
        if wait.get("id") in found.approvals:
            show_approvals(console, found.approvals[wait["id"]])
    if found.held:
        console.fact("works", found.held)
    for label, text in _places(console, project, row, tip):
        console.fact(label, text)
    if found.ahead is not None:
        console.fact(found.ahead.label, f"{found.ahead.text}, as last fetched")
    if found.term == "rewritten":
        console.fact("history", ("rewritten", "red"), f": {describe.REWRITTEN}")
    elif found.rebase is not None:
        console.fact("rebase", ("under way", "red"), f" in {found.rebase}: no command moves the branch")
    since = project.trusted.time
    note = project.trusted.note.replace(since, console.when(since)) if since else project.trusted.note
    console.fact("trusted", note)
    if found.next.text and not found.held:
        console.fact("next", found.next.shown(program()))
    elif row["status"] == "cancelled" and session.git.ref(project.branch(protocol)) is not None:
        console.fact("undo", f"{describe.as_typed(f'runner undo {name}', program())} reverts it")
    elif found.look:
        console.fact("refresh", describe.as_typed(found.look, program()))


def _facts(project: Project, row: Row, tip: str) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of what explains the status."""
    if row["status"] == "cancelled" and (why := describe.cancelled_for(project, row["protocol"], tip)):
        yield "reason", why
    if more := describe.unrecorded_cost(project, row["protocol"]):
        yield "not recorded", more


def _places(console: Console, project: Project, row: Row, tip: str) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of where the protocol is: its worktrees, edits that are not recorded, its branch and history."""
    protocol, branch, remote = row["protocol"], project.branch(row["protocol"]), project.trusted.remote
    for tree in project.git.worktrees():
        if tree.branch == branch:
            yield "worktree", os.path.relpath(tree.path, console.cwd)
    if edited := describe.edited(project, row, tip):
        yield "edited", edited
    if project.git.resolve(branch) is not None:
        return
    if project.tip(protocol) is not None:
        yield "branch", f"on {remote}, as last fetched; none here yet"
        return
    yield "branch", f"not here; shown as {project.trusted.branch} has it"
    if project.git.ref(history.ref_of(protocol)) is None:
        yield "history", f"not here; {history.brings(protocol, remote)}"


def show_approvals(console: Console, found: Unrecorded, *, err: bool = False, told: Collection[str] = ()) -> None:
    """Print one line per approval: who decided what, and the reason if it does not count. `told`: those that were printed before."""
    for one in found.approvals:
        why, said = one.rejection, one.statement
        if any(text.startswith(f"{one.approver}: {why or ''}") for text in told):
            continue
        text = f": {one.text}" if why else f": {said.reason}" if said.reason else ""
        console.fact("", f"{one.approver} {SAID[said.decision]}", (f": {why}", "red") if why else "", text, err=err)
    if found.missing:
        console.fact("", f"still needed: {found.missing}", err=err)


def show_steps(console: Console, row: Row) -> None:
    """Print one line per step: place and slug, status, attempt, title, why it failed or what it needs."""
    steps, waiting = record.open_steps(row), set[str]()
    if row["status"] not in ENDED:
        waiting = {str(wait.get("subject")) for wait in row["waiting"]}
    shown: list[tuple[Cell, ...]] = []
    for slug, step in steps:
        status = str(step["status"])
        said = headline(str(step.get("reason") or "")) if status in ("failed", "blocked", "cancelled") else ""
        missing = [need for need in step["needs"] if _is_open(row, need)]
        if not said and status == "pending" and missing:
            said = f"needs {', '.join(missing)}"
        again = f"attempt {step['attempt']}" if step.get("attempt", 1) > 1 else ""
        text = " · ".join(filter(None, (again, str(step.get("title") or ""), said)))
        term = "waits" if slug in waiting and status not in STOPPED else status.replace("_", " ")
        if status == "running" and step.get("kind") == "human" and slug not in waiting:
            term = "answered"
        shown.append((record.label(row, slug), (term.ljust(10), COLOURS.get(term, COLOURS.get(status, ""))), text))
    console.lines(in_columns(shown, "  "), breaks=True)


def _is_open(row: Row, slug: str) -> bool:
    return slug not in row["steps"] or row["steps"][slug]["status"] not in ENDED


@click.command("list")
@click.option("--open", "only", flag_value="open", help="Only those that are not finished, or not merged.")
@click.option("--ready", "only", flag_value="ready", help="Only those that the runner can advance.")
@click.option(
    "--waiting", "only", flag_value="waiting", help="Only those that wait for a person: an answer, a retry, a merge."
)
@options.flag("--mine", help="Only those that you created.")
@options.time("--since", like="90m or 72h", help="Only those with a commit in this time, such as 90m or 72h.")
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="One line per protocol, such as '%(number) %(title)': id, number, status, steps, age, title, base, branch.",
)
@options.as_json
@click.pass_obj
def list_command(
    console: Console, as_json: bool, only: str | None, mine: bool, since: int | None, form: str | None
) -> None:
    """List all protocols, including finished ones: number, status, steps done, age of the last commit, title."""
    form = None if form is None else _format(form)
    try:
        session = console.session
    except NoCommitsError as error:
        tell_nothing(console, as_json, f"{error.what}; {error.hint}")
        return
    if not as_json:
        console.pages()
    branches = session.project.branches()
    branched, now = session.project.protocols(branches=branches), session.env.now()
    known = lookup.known(session.project, branched=branched)
    describer = Describer(session, branches if len(known) > describe.FEW else None)
    made = cache(lambda: record.times(session.git, known.values()))
    me = session.actor() if mine else ""
    after = now - since if since is not None else None

    def when_of(protocol: str) -> int | None:
        """Return when the last commit of the protocol's branch was made; None where only the base has it."""
        return made().get(known[protocol]) if protocol in branched else None

    def wanted(protocol: str) -> bool:
        if after is not None and (when_of(protocol) or 0) < after:
            return False
        return not mine or _creator(session.project, protocol, known[protocol]) == me

    if as_json:
        rows = (row for row in _rows(session, known, branches) if wanted(row["protocol"]))
        console.json_rows(plain_rows(session, rows, known, only))
        return
    if not known:
        tell_nothing(console, False, f"no protocols; `{program()} new` makes one")
        return
    names, is_filtered = Names(known), only is not None or mine or after is not None
    behind: list[str] = []
    lines, follow = [], lookup.follower(session.project, known, branches)
    for protocol, row in record.briefs(session.git, known, session.dirs.briefs):
        if follow(protocol, row.status):
            [(_, row)] = record.briefs(session.git, {protocol: known[protocol]}, session.dirs.briefs)
        found = describer.listed(protocol, row, known[protocol], names)
        if is_filtered and not (
            _is_listed(only, row.status, acts=row.acts, to_merge=found.to_merge) and wanted(protocol)
        ):
            continue
        term = found.term
        if term == "completed":
            term = f"completed · {'waits for merge' if found.to_merge else 'merged'}"
        if found.ahead is not None:
            behind.append(found.ahead.command)
        when = None
        if protocol in branched:
            when = row.when or when_of(protocol)
        old = describe.age_of(now - when) if when is not None else "on the base"
        title = f"{row.title} · {found.ahead.text}" if found.ahead is not None else row.title
        lines.append((names.shown(protocol), term, f"{row.done}/{row.steps}", old, title))
        if form is not None:
            shown = {"id": protocol, "base": row.base, "title": row.title}
            shown |= {"branch": session.project.branch(protocol).removeprefix("refs/heads/")}
            cells = shown | dict(zip(("number", "status", "steps", "age"), lines[-1], strict=False))
            parts = re.split(r"%\((\w+)\)", form)
            console.line("".join(cells[part] if at % 2 else part for at, part in enumerate(parts)))
    if form is not None:
        return
    if not lines:
        console.note(f"no match among {counted(len(known), 'protocol')}: `{program()} list` shows all")
        return
    most = max(len(line[2]) for line in lines)
    table = [
        (number, (term, COLOURS.get(term.partition(" ")[0], "")), steps.rjust(most), old, title)
        for number, term, steps, old, title in lines
    ]
    console.lines(in_columns(table), breaks=True)
    if behind:
        typed = behind[0] if len(behind) == 1 else "runner sync"
        console.fact("next", describe.as_typed(typed, program()), err=True)


_COLUMNS = ("id", "number", "status", "steps", "age", "title", "base", "branch")


def _format(form: str) -> str:
    """Return a format whose columns are known.

    Raises:
        click.UsageError: one is not.
    """
    for name in re.findall(r"%\((.*?)\)", form):
        if name not in _COLUMNS:
            raise click.UsageError(f"--format: there is no column `{name}`; there is {', '.join(_COLUMNS)}")
    if "%(" not in form:
        raise click.UsageError(f"--format names no column; write %(NAME), with one of {', '.join(_COLUMNS)}")
    return form


def _creator(project: Project, protocol: str, tip: str) -> str:
    """Return who created a protocol, by its record; empty where that cannot be read."""
    try:
        return next(iter(record.events(project.git, protocol, tip))).actor
    except (RunnerError, StopIteration):  # `doctor` names a damaged log
        return ""


def end_acted(console: Console, code: int, error: BaseException | None) -> None:
    """Print the object of a command that ends now; `error`: what ended it, where it did not end by itself."""
    told: dict[str, Any] = {"command": console.acts, "code": code, "error": _error(error), "lines": streams.kept()}
    console.json({**told, "protocols": _protocols(console)})


def _error(error: BaseException | None) -> dict[str, str] | None:
    if isinstance(error, RunnerError):
        return {"what": error.what, "at": error.where, "next": error.hint}
    if error is None or isinstance(error, SystemExit | click.exceptions.Exit):
        return None
    if isinstance(error, KeyboardInterrupt | click.Abort):
        what, hint = signals.told(error)
        return {"what": what, "at": "", "next": hint}
    return {"what": f"{type(error).__name__}: {error}", "at": "", "next": ""}


def _protocols(console: Console) -> list[Any]:
    """Return what `show --json` prints of each protocol that the command was about, as it is now."""
    found = []
    for name in dict.fromkeys(console.about):
        with suppress(RunnerError):  # of one that cannot be shown, the command's own result is not lost
            session = console.session
            if lookup.find(session, name) == name:
                found.append(as_plain(session, record.row(session.git, name, lookup.tip(session.project, name))))
    return found
