"""`runner status`, and `runner` alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli import options, summary
from runner.cli.main import program
from runner.cli.session import Session
from runner.errors import RunnerError
from runner.folders import matching
from runner.protocol import paths
from runner.protocol.state import wait_type
from runner.store import clash, elsewhere, finding, history, locks, marks, record
from runner.store.record import Outlook, Row
from runner.store.trusted import NoCommitsError

if TYPE_CHECKING:
    from runner.app.approve import Heard
    from runner.store.project import Project

REWRITTEN = "what verified here is not in its branch any more"
SAID = {"approve": "approves", "reject": "rejects", "revoke": "revokes"}


@click.command("status")
@options.protocol
@options.as_json
@click.pass_obj
def command(session: Session, protocol: str | None, as_json: bool) -> None:
    """Show which protocols wait, run or failed, one per line; or the status of PROTOCOL, step by step.

    Exits with 0, whatever the status is.
    """
    try:
        project = session.project
    except NoCommitsError as error:
        tell_nothing(session, as_json, f"{error.what}; {error.hint}")
        return
    if protocol is not None:
        name = finding.find(project, protocol)
        row = record.row(project.git, name, finding.tip(project, name))
        if as_json:
            session.json_rows([describe(project, row, protocol)])
        else:
            show_one(session, project, row, protocol)
        return
    known = finding.known(project)
    merges = record.Merges(project.git, project.trusted.remote)
    found = []
    for row in record.rows(project.git, known):
        ended = row["status"] == "cancelled" or (
            row["status"] == "completed" and merges.holds(row, known[row["protocol"]])
        )
        if not ended:
            found.append(row)
    if as_json:
        session.json_rows(described(project, found, known))
    elif not known:
        tell_nothing(session, False, f"no protocols; `{program()} new` makes one")
    elif not found:
        session.note(f"no protocol is open; `{program()} list` shows what has ended")
    else:
        show_all(session, project, found[::-1], known)


def tell_nothing(session: Session, as_json: bool, text: str) -> None:
    """Print that there is no protocol, and the command that creates one."""
    if as_json:
        session.json_rows([])
    else:
        session.note(text)


def described(project: Project, rows: Iterable[Row], known: Mapping[str, str]) -> Iterator[Row]:
    """Give rows as `--json` has them, one by one. `known`: the tip of each protocol that there is."""
    names, trees = summary.Names(known), record.worktree_paths(project.git)
    merges = record.Merges(project.git, project.trusted.remote)
    for row in rows:
        protocol = row["protocol"]
        to_merge = row["status"] == "completed" and not merges.holds(row, known[protocol])
        path = _path(project, protocol, trees)
        name = names.short(protocol)
        merging = finding.merging(project, row, name) if to_merge else None
        made = summary.described(row, name, path, merging=merging)
        if _is_approve(made["command"]) and record.untaken(project.git, protocol, known[protocol]):
            made["command"] = f"runner run {name}"  # an edited plan is asked about anew first
        yield made


def describe(project: Project, row: Row, asked: str | None = None) -> Row:
    """Return one row as `--json` gives it. `asked`: what its protocol was found by."""
    protocol, tip = row["protocol"], finding.tip(project, row["protocol"])
    names = finding.alike(project, protocol, asked)
    made = next(described(project, [row], dict.fromkeys(names, tip)))
    made["command"] = next_of(project, row, finding.typed(project, protocol, asked))[0]
    if row["status"] == "cancelled":
        made["reason"] = cancelled_for(project, protocol, tip) or made["reason"]
        made["undo"] = f"runner undo {finding.typed(project, protocol, asked)}"
    return made


def cancelled_for(project: Project, protocol: str, tip: str) -> str:
    """Return the recorded reason why a protocol was cancelled; empty if none was given."""
    try:
        entries = record.events(project.git, protocol, tip)
    except RunnerError:  # `doctor` names a damaged log
        return ""
    return next((str(one.fields.get("reason") or "") for one in reversed(entries) if one.event == "cancelled"), "")


def _path(project: Project, protocol: str, trees: Mapping[str, str]) -> str | None:
    path = trees.get(project.branch(protocol))
    return path if path and Path(path, paths.folder(protocol)).is_dir() else None


def show_all(session: Session, project: Project, rows: list[Row], known: Mapping[str, str]) -> None:
    """Print one line per protocol: its status, the reason, and the command to type."""
    names, now, there = summary.Names(known), project.who.now(), elsewhere.leases(project.places)
    lines = []
    for row in rows:
        protocol = row["protocol"]
        found, (held, again) = record.outlook(row), at_work(project, protocol, names.short(protocol), there)
        word, text = summary.word(row, found, held=held is not None), summary.situation(row, found, now)
        typed = summary.command(row, found, names.short(protocol))
        for one in heard(project, row, finding.tip(project, protocol)):
            if one.wait in found.waiting:
                text = " · ".join(
                    [text, *(f"{word.approver} {SAID[word.decision]}" for word in one.words if not word.fault)]
                )
                typed = typed if one.missing else f"runner run {names.short(protocol)}"
        if _is_approve(typed) and record.untaken(project.git, protocol, finding.tip(project, protocol)):
            typed = f"runner run {names.short(protocol)}"  # what was asked about was edited: it is asked anew first
        if row["status"] == "completed":
            text, typed = f"waits for merge: {row['title']}", as_merged(project, row, names.short(protocol))
        elif word == "works":
            text, typed = f"{text} · {held}", again
        if is_rewritten(project, protocol):
            word, text, typed = "rewritten", REWRITTEN, f"runner doctor --fix {names.short(protocol)}"
        elif (news := beside(project, protocol, names.short(protocol))) is not None:
            text, typed = f"{text} · {news[0]}", news[1]
        typed = by_whom(project, protocol, finding.tip(project, protocol), found, typed)  # last: it judges approvals
        lines.append((names.shown(protocol), word, text, typed or ""))
    widths = [max(len(line[at]) for line in lines) for at in range(3)]
    session.lines(
        (
            f"{number.ljust(widths[0])}  ",
            (word.ljust(widths[1]), summary.COLOURS.get(word, "")),
            f"  {text.ljust(min(widths[2], 60))}  {as_typed(typed)}",
        )
        for number, word, text, typed in lines
    )


def _is_approve(typed: str | None) -> bool:
    return typed is not None and typed.startswith("runner approve ")


def by_whom(project: Project, protocol: str, tip: str, found: Outlook, typed: str | None) -> str | None:
    """Return what to type next; where that is an approval which the person here cannot give, who can, or what else to do."""
    if not _is_approve(typed) or not found.waiting:
        return typed
    from runner.app import approve

    try:
        return approve.instead(project, protocol, tip, found.waiting[0]) or typed
    except RunnerError:
        return typed


def next_of(project: Project, row: Row, name: str) -> tuple[str | None, str | None]:
    """Return the command to type next, and how it is shown; the first is None if there is none for this person.

    Considers the record and the branch: a history that was rewritten, commits of others, approvals and edits that are not yet
    recorded. `name`: the protocol's name in a command.
    """
    protocol, found = row["protocol"], record.outlook(row)
    git, tip, branch = project.git, finding.tip(project, protocol), project.branch(protocol)
    typed = summary.command(row, found, name)
    if is_rewritten(project, protocol):
        typed = f"runner doctor --fix {name}"
    elif (news := beside(project, protocol, name)) is not None:
        typed = news[1]
    elif standing(project, row).endswith("waits for merge"):
        return finding.merging(project, row, name), as_merged(project, row, name)
    elif row["status"] in ("failed", "blocked"):
        stuck = [slug for slug, step in record.open_steps(row) if step["status"] in ("failed", "blocked")]
        if record.out_of_plan(git, protocol, tip, [tree for tree in git.worktrees() if tree.branch == branch], stuck):
            typed = f"runner resume {name}"  # what failed leaves the plan with that
        elif record.reopens(row) == "retry":
            return typed, f"{typed}, then {program()} retry {name}"
    elif _is_approve(typed):
        said = [one for one in heard(project, row, tip) if one.wait in found.waiting]
        if any(not one.missing for one in said) or record.untaken(git, protocol, tip):
            typed = f"runner run {name}"  # it is counted, or what was asked about was edited and is asked anew
        else:
            shown = by_whom(project, protocol, tip, found, typed)
            return typed if shown == typed else None, shown
    return typed, typed


def as_typed(command: str) -> str:
    """Return a command as the person types it: `runner` or `git runner`."""
    return command.replace("runner", program(), 1) if command.startswith("runner ") else command


def as_merged(project: Project, row: Row, name: str) -> str:
    """Return what merges a completed protocol, as people read it."""
    typed = finding.merging(project, row, name)
    return f"merge its request, then {as_typed(typed)}" if typed.startswith("runner sync") else typed


def standing(project: Project, row: Row) -> str:
    """Return a protocol's status with the facts that git knows: `completed · merged in 4f1c2e9`."""
    status = str(row["status"])
    if status != "completed":
        return status
    merges = record.Merges(project.git, project.trusted.remote)
    base = merges.base_with(row, finding.tip(project, row["protocol"]))
    if base is None:
        return f"{status} · waits for merge"
    commit = record.merged_in(project.git, row["protocol"], base)
    return f"{status} · merged in {commit[:7]}" if commit else f"{status} · merged"


def show_one(session: Session, project: Project, row: Row, asked: str | None = None) -> None:
    """Print the status of one protocol: steps, waits, the runner at work, the next command. `asked`: the name that was typed."""
    protocol, now = row["protocol"], project.who.now()
    name = finding.typed(project, protocol, asked)
    session.line(f"{protocol}  {row['title']}")
    stands = standing(project, row)
    parts = [summary.progress(row), f"from {row['base']}" if row.get("base") else "", summary.spent(row)]
    session.line("  ", (stands, summary.COLOURS.get(row["status"], "")), *(f" · {part}" for part in parts if part))
    if row["status"] == "cancelled" and (why := cancelled_for(project, protocol, finding.tip(project, protocol))):
        session.line(f"  {'reason':12}  {why}")
    more = unrecorded(project, protocol)
    if more:
        session.line(f"  {'not recorded':12}  {more}")
    show_steps(session, row)
    words = {one.wait: one for one in heard(project, row, finding.tip(project, protocol))}
    for wait in row["waiting"]:
        session.line(f"  {'waits':12}  {wait.get('id')} {summary.wait_text(row, wait, now)}")
        if wait.get("text"):
            session.line(f"  {'':12}  {wait['text']}")
        if wait.get("id") in words:
            show_words(session, words[wait["id"]])
    held, again = at_work(project, protocol, name, elsewhere.leases(project.places))
    if held:
        session.line(f"  {'works':12}  {held}")
    branch = project.branch(protocol)
    edited = record.untaken(project.git, protocol, finding.tip(project, protocol))
    for tree in project.git.worktrees():
        if tree.branch == branch:
            session.line(f"  {'worktree':12}  {os.path.relpath(tree.path, session.cwd)}")
            edited += record.unsaved(project.git, tree, protocol)
    if edited and row["status"] not in record.ENDED:
        session.line(f"  {'not yet in':12}  {', '.join(sorted({*edited}))}: the next step takes these edits up")
    if project.git.resolve(branch) is None and project.tip(protocol) is not None:
        there = f"on {project.trusted.remote}, as last fetched; none here yet"
        session.line(f"  {'branch':12}  {there}")
    elif project.git.resolve(branch) is None:
        session.line(f"  {'branch':12}  gone; this is how {project.trusted.branch} has it")
        if project.git.ref(history.ref_of(protocol)) is None:
            session.line(f"  {'history':12}  not here; {history.brings(protocol, project.trusted.remote)}")
    if (news := beside(project, protocol, name)) is not None:
        label = "behind" if news[1].startswith("runner sync ") else "clash"
        session.line(f"  {label:12}  {news[0]}, as last fetched")
    if is_rewritten(project, protocol):
        session.line(f"  {'history':12}  ", ("rewritten", "red"), f": {REWRITTEN}")
    session.line(f"  {'trusted':12}  {project.trusted.note}")
    typed = next_of(project, row, name)[1]
    if typed and not held:
        session.line(f"  {'next':12}  {as_typed(typed)}")
    elif row["status"] == "cancelled" and project.git.ref(project.branch(protocol)) is not None:
        session.line(f"  {'undo':12}  {as_typed(f'runner undo {name}')} takes that back")
    elif again:
        session.line(f"  {'look again':12}  {as_typed(again)}")


def beside(project: Project, protocol: str, name: str) -> tuple[str, str] | None:
    """Return what the remote has that the branch here has not, and the command for it; None where it has no more.

    `name`: what is typed for the protocol.
    """
    newer = behind(project, protocol)
    if newer and clash.published(project, protocol) is not None:
        return f"{project.trusted.remote} has another protocol with this id", f"runner fork --renumber {protocol}"
    return (newer, f"runner sync {name}") if newer else None


def behind(project: Project, protocol: str) -> str:
    """Return how many transitions git fetched that the branch here has not: `origin has 2 newer transitions`; empty for none.

    Those that a rewritten branch replaced are not newer, and `sync` refuses it.
    """
    remote, branch = project.trusted.remote, project.branch(protocol)
    if remote is None or is_rewritten(project, protocol):
        return ""
    there = project.git.ref(f"refs/remotes/{remote}/{branch.removeprefix('refs/heads/')}")
    count = record.newer(project.git, protocol, project.git.ref(branch), there)
    return f"{remote} has {count} newer transition{'s' if count != 1 else ''}" if count else ""


def is_rewritten(project: Project, protocol: str) -> bool:
    """Return whether the branch no longer contains the checkpoint of this machine, so that every command refuses it."""
    known, tip = marks.read(project.places, protocol), project.git.ref(project.branch(protocol))
    return known not in (None, tip) and tip is not None and not project.git.is_ancestor(str(known), tip)


def unrecorded(project: Project, protocol: str) -> str:
    """Return the cost that is in no transition yet, such as that of a step that was killed; empty if there is none."""
    if not matching(project.places.journal(protocol), "*.jsonl"):
        return ""
    from runner.executor import spending

    try:
        total = spending.unrecorded(project, protocol)
    except RunnerError:  # `doctor` names a damaged journal
        return ""
    price = f"${total.usd:f}" if not total.unpriced else f"${total.usd:f} and {total.unpriced:,} tokens without a price"
    return (
        f"{price}, {total.turns} answers: kept here, so a step that resumes does not ask again" if total.turns else ""
    )


def at_work(project: Project, protocol: str, typed: str, there: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the runner at work on a protocol, of this clone or by the leases in `there`, and the command to look again."""
    held = locks.is_held(project.places.lock(protocol))
    away = None if held else elsewhere.at_work(project, protocol, there)
    if away is None:
        return held, None
    seen = (
        f"as seen {summary.age_of(project.who.now() - away.seen)} ago" if away.seen else "as the remote was last seen"
    )
    return f"elsewhere: {away.who}, since {away.since}, {seen}", f"runner sync {typed}"


def heard(project: Project, row: Row, tip: str) -> list[Heard]:
    """Return the approvals of current waits that no transition has recorded yet, with their status; none if it is unknown.

    The modules that evaluate them are loaded only if the branch has an approval that the log does not name.
    """
    if not any(wait_type(wait.get("kind")).ended_by == "approval" for wait in row["waiting"]):
        return []
    at = f"{tip}:{paths.folder(row['protocol'])}"
    there = project.git.tree(f"{at}/{paths.APPROVALS.rstrip('/')}")
    if not there:
        return []
    log = project.git.blob(f"{at}/{paths.LOG}") or b""
    if all(name.partition(".")[0].encode() in log for name in there):
        return []
    from runner.app import approve

    try:
        return approve.heard(project, row["protocol"], tip)
    except RunnerError as error:
        project.who.say(f"{row['protocol']}: what people said cannot be judged: {error.what} ({error.where})")
        return []


def show_words(session: Session, found: Heard, *, err: bool = False) -> None:
    """Print one line per approval: who decided what, and the reason if it does not count."""
    for word in found.words:
        why = (f": {word.fault}", "red") if word.fault else ""
        text = f": {word.text}" if word.fault else f": {word.reason}" if word.reason else ""
        session.line(f"  {'':12}  {word.approver} {SAID[word.decision]}", why, text, err=err)
    if found.missing:
        session.line(f"  {'':12}  still needed: {found.missing}", err=err)


def show_steps(session: Session, row: Row) -> None:
    """Give a line a step: place and slug, status, attempt, why it failed or what it needs."""
    steps = record.open_steps(row)
    width = max((len(record.label(row, slug)) for slug, _ in steps), default=0)
    for slug, step in steps:
        status = str(step["status"])
        said = str(step.get("reason") or "") if status in ("failed", "blocked", "cancelled") else ""
        missing = [need for need in step["needs"] if _is_open(row, need)]
        if not said and status == "pending" and missing:
            said = f"needs {', '.join(missing)}"
        again = f"attempt {step['attempt']}" if step.get("attempt", 1) > 1 else ""
        told = " · ".join(filter(None, (again, said or str(step.get("title") or ""))))
        session.line(
            f"  {record.label(row, slug).ljust(width)}  ",
            (status.replace("_", " ").ljust(10), summary.COLOURS.get(status, "")),
            f"  {told}",
        )


def _is_open(row: Row, slug: str) -> bool:
    return slug not in row["steps"] or row["steps"][slug]["status"] not in ("completed", "cancelled")
