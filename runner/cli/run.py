"""`runner run`, `runner step` and `runner sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click

from runner.app import describe, pending, request, run, sync
from runner.cli import ci, options, progress
from runner.cli.console import Console
from runner.cli.streams import program
from runner.errors import UsageError
from runner.executor import advance, load, permissions
from runner.executor.advance import Advanced
from runner.protocol import events, ids, machine, paths
from runner.protocol.state import ENDED, Status, plain
from runner.store import lookup, publishing, record, snapshot
from runner.store.project import Project
from runner.trust import permit

if TYPE_CHECKING:
    from runner.forge import Forge
    from runner.protocol.state import Row


@click.command("run")
@options.protocol
@options.number("--max-steps", default=100, show_default=True, help="The maximum number of transitions.")
@options.a_step("--until", help="Stop when this step is done.")
@options.flag("--step-at-a-time", "each", help="Stop after a step; at a terminal, ask before the next one.")
@options.flag("--no-adopt", help="Refuse to run with uncommitted changes to plan files.")
@options.verbose
@options.job
@options.work
@click.pass_obj
def command(
    console: Console,
    protocol: str | None,
    max_steps: int,
    no_adopt: bool,
    verbose: bool,
    until: str | None,
    each: bool,
) -> None:
    """Run PROTOCOL, step by step, until it is done, fails, or needs a person."""
    session = console.session
    console.closing.enter_context(load.documents_kept(session.dirs))
    name = console.means(publishing.find(session, protocol), protocol)
    row = record.row(session.git, name, lookup.tip(session.project, name))
    last = _until(session.project, row, until) if until is not None else None
    if last in row["steps"] and (status := row["steps"][last]["status"]) in ENDED:
        console.note(f"{name}  {last} is {status}")
        raise SystemExit(0)
    forge = request.available(session.project) if session.project.config.forge else None
    teller = progress.Progress(console, each=False)
    done: Advanced | None = None
    waits = False

    def ask(done: Advanced) -> bool:
        """Ask about a plan that a model has just written; where nobody is here it is carried out."""
        if each and any(isinstance(event, events.StepCompleted) for event in done.events):
            return console.ask("Run the next step?", ("yes", "no")) == "yes"
        if not any(isinstance(event, events.Planned) and event.engine for event in done.events):
            return True
        return console.ask("Carry out this plan?", ("yes", "no")) != "no"

    try:
        with ci.job(console, name), teller.at_work(name, verbose=verbose):
            steps = run.run(
                session,
                name,
                max_steps=max_steps,
                adopt=not no_adopt,
                tell=teller.advanced,
                forge=forge,
                pace=run.Pace(last, each, ask),
            )
            for one in steps:
                done = one
                waits = waits or run.begins_to_wait(done)
    except BaseException:
        if done is not None:
            teller.flush(done)
            sync.unpublished(session.project, name)
        raise
    assert done is not None  # --max-steps is at least one
    _end(console, teller, done, forge, waits=waits)


def _end(console: Console, teller: progress.Progress, done: Advanced, forge: Forge | None, *, waits: bool) -> NoReturn:
    """Print a protocol's status now, publish it or say how, and exit. `waits`: for people, who are notified."""
    session, name = console.session, done.state.protocol
    teller.end(done)
    if done.state.status is Status.COMPLETED and isinstance(done.action, machine.Halt):
        tip = lookup.tip(session.project, name)
        if edited := describe.edited(session.project, record.row(session.git, name, tip), tip):
            console.note(f"  edited        {edited}")
    if session.project.trusted.remote is not None:
        sync.offer(session, name)
    if forge is not None:
        request.post_quietly(session, forge, name)
    if waits:
        run.notify(session, name)
    raise SystemExit(ci.end(console, done, run.exit_code(done)))


@click.command("step")
@options.protocol
@options.a_step("--step", "only", metavar="SLUG", help="Run this step, if it can run now.")
@options.flag("--dry-run", help="Print what would happen, and do nothing.")
@options.flag("--no-adopt", help="Refuse to run with uncommitted changes to plan files.")
@options.verbose
@options.job
@options.work
@click.pass_obj
def step_command(
    console: Console, protocol: str | None, only: str | None, dry_run: bool, no_adopt: bool, verbose: bool
) -> None:
    """Advance PROTOCOL by one transition, one commit."""
    session = console.session
    console.closing.enter_context(load.documents_kept(session.dirs))
    name = console.means(publishing.find(session, protocol), protocol)
    slug = _slug(session.project, name, only) if only is not None else None
    if dry_run:
        raise SystemExit(_try_out(console, name, slug))
    forge = request.available(session.project) if session.project.config.forge else None
    teller = progress.Progress(console, each=True)
    with ci.job(console, name), teller.at_work(name, verbose=verbose):
        done = advance.step(session, name, only=slug, adopt=not no_adopt, forge=forge)
    if only is not None and isinstance(done.action, machine.Halt) and slug not in done.state.steps:
        lookup.find_step(session.project, name, only)
    teller.advanced(done)
    _end(console, teller, done, forge, waits=run.begins_to_wait(done))


def _until(project: Project, row: Row, name: str) -> str:
    """Return the slug of a step of the plan, also of one that a person has just added: the run picks it up.

    Raises:
        UsageError: the plan has no such step, or a person has just taken it out.
    """
    git, protocol = project.git, row["protocol"]
    trees = git.checked_out(project.branch(protocol))
    planned = record.planned(git, protocol, lookup.tip(project, protocol), trees)
    found = ids.find_step(name, row["steps"]) or ids.find_step(name, set().union(*planned))
    found = found or lookup.find_step(project, protocol, name)
    known = row["steps"].get(found)
    is_open = known is not None and known["status"] not in ENDED
    if is_open and any(found not in there for there in planned if there):
        hint = f"`runner run {lookup.typed(project, protocol)}` runs the rest"
        raise UsageError(f"{found} was taken out of the plan", paths.folder(protocol), hint)
    return found


def _slug(project: Project, protocol: str, name: str) -> str:
    """Return the slug that a person means; one that is not in the record may be in an edit that is about to be picked up."""
    row = record.row(project.git, protocol, lookup.tip(project, protocol))
    return ids.find_step(name, row["steps"]) or ids.step_slug(name) or name


def _try_out(console: Console, protocol: str, only: str | None) -> int:
    """Print what `step` would do; write nothing, and do not pick up a person's edits."""
    session = console.session
    git = session.git
    session.project.refuse_unsupported()
    tip = session.project.tip(protocol)
    if tip is None:
        raise load.branchless(session.project, protocol)
    for _, unsaved in record.unsaved(git, session.project.branch(protocol), protocol):
        console.result(f"would first commit your changes of {', '.join(unsaved)}; they are not looked at here")
    seen = snapshot.read(git, tip, protocol)
    plan, edit, state, action = advance.consider(session, seen, only)
    if isinstance(edit, events.Planned):
        console.result("would pick up the plan that people wrote")
        return 0
    given: list[events.ApprovalCounted | events.CallDecided] = []
    if edit is not None:
        console.result("would record the plan's edit")
    elif state.waiting:
        given += pending.Pending(session, protocol, tip, protocol).decided()
    for one in given:
        by = one.by if isinstance(one.by, str) else ", ".join(one.by)
        console.result(f"would record the decision of {by} on {one.subject}")
    if given:
        state = load.applied(session.project, state, given)
        action = machine.decide(state, load.find_step(state, only) if only is not None else None)
    if plan is not None and not isinstance(action, machine.WritePlan | machine.Complete | machine.Halt):
        attempt = advance.attempt(advance.Start(session, seen, [*given], state), plan, action, given)
        verdict = permit.permit(permissions.view_of_run(attempt), action)
        permit.refuse_denied(verdict)
        if isinstance(verdict, permit.Ask):
            console.result(f"would ask {verdict.requirement.who} for {verdict.requirement.text}")
            return 0
    console.result(progress.would(action, state))
    if isinstance(action, machine.Halt):
        found = describe.describe(session, plain(state), tip, lookup.typed(session.project, protocol))
        if found.next.text:
            console.fact("next", found.next.shown(program()), err=True)
    return run.exit_code(Advanced(state, action, (), tip))


@click.command("sync")
@options.protocol
@options.flag("--no-work", help="Record approvals and answers, but leave the work that follows to `runner run`.")
@click.pass_obj
def sync_command(console: Console, protocol: str | None, no_work: bool) -> None:
    """Fetch PROTOCOL (default: every protocol, here and on the remote), reconcile diverged branches, and push.

    With `forge:`, also read the request (reviews, comment commands, CI, close and merge), resume the protocol if they
    allow it, and update request, comment and statuses.

    If both sides advanced, the remote's transitions are kept; those of this clone are saved under refs/runner/lost/ and are
    repeated. Commits and answers by people are kept on both sides; of two answers to one question, the remote's is used.
    """
    session = console.session
    every = sync.sync(session, [publishing.find(session, protocol)] if protocol else None, work=not no_work)
    if not every:
        console.note("there is no protocol to publish")
    for done in every:
        console.means(done.protocol)
        said = f"error: {done.error.what}" if done.error else done.action
        console.note("  ".join(filter(None, (done.protocol, said, done.tip[:7], done.title, done.url))))
    for done in every:
        if done.error is not None:  # once the others are reported
            raise done.error
