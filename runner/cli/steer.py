"""The commands that steer a protocol: answer, pause, resume, cancel, retry, undo and merge.

Each parses the command line and calls `runner.app`. What they share with `approve`, `edit` and `fork` is here too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys

import click

from runner.app import request, steer, sync
from runner.app.merge import Wanted
from runner.app.merge import merge as merge_protocol
from runner.app.steer import Steered
from runner.app.undo import undo as undo_transitions
from runner.cli import options
from runner.cli.console import Console
from runner.cli.streams import program
from runner.errors import UsageError
from runner.executor import load
from runner.lines import counted, few, lines_of
from runner.protocol import ids, paths
from runner.store import lookup, record
from runner.store.project import Session

reason_option = click.option("-m", "reason", metavar="TEXT", help="The reason, kept in the record.")


@click.command("answer")
@options.words("[PROTOCOL] [ID] TEXT", required=True)
@options.flag("--commit", help="Commit what you changed in PROTOCOL's worktree as yours, without asking.")
@options.offline
@click.pass_obj
def answer(console: Console, words: tuple[str, ...], commit: bool) -> None:
    """Answer a question of PROTOCOL, or finish a step that a person does. The commit is yours.

    ID is the wait (w12) or its step; leave it out if only one thing waits. TEXT `-` is read from stdin. If it is unknown
    whether a call took effect, find out, and answer `happened` or `did-not`.
    """
    session = console.session
    rest: tuple[str, ...]
    if len(words) == 1:
        meant = None
        with contextlib.suppress(UsageError):
            meant = lookup.find(session, words[0])
        if meant is not None:
            what = f"`{words[0]}` is the protocol {meant}: what is the answer?"
            hint = f"runner answer {words[0]} TEXT; or, if that is the answer, runner answer PROTOCOL {words[0]}"
            raise UsageError(what, "`runner answer`", hint)
        name, rest = load.find_protocol(session, None), words
    else:
        name, rest = named(console, words)
    if not 1 <= len(rest) <= 2:
        raise click.UsageError("give one text, in quotes: runner answer PROTOCOL [ID] TEXT")
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if rest[-1] == "-" else rest[-1]
    done = steer.answer(session, name, rest[0] if len(rest) == 2 else None, text)
    if done.notes and (commit or console.is_terminal()):
        console.note(f"  {done.notes[0].partition(';')[0]}")
        if commit or console.ask("commit these changes as yours?", ("yes", "no")) == "yes":
            made = steer.commit_left(session, name, f"work for {done.said.removesuffix(' answered')}")
            done = dataclasses.replace(done, notes=(f"committed as yours: {made[:7]}",) if made else ())
    tell(console, done, decides=True)


@click.command("pause")
@options.protocol
@options.offline
@reason_option
@click.pass_obj
def pause(console: Console, protocol: str | None, reason: str | None) -> None:
    """Pause PROTOCOL. A step that is running finishes; no step starts after it."""
    tell(console, steer.pause(console.session, load.find_protocol(console.session, protocol), reason))


@click.command("resume")
@options.protocol
@options.offline
@click.pass_obj
def resume(console: Console, protocol: str | None) -> None:
    """Resume PROTOCOL where it was paused or blocked."""
    tell(console, steer.resume(console.session, load.find_protocol(console.session, protocol)))


@click.command("cancel")
@options.protocol
@options.offline
@reason_option
@click.pass_obj
def cancel(console: Console, protocol: str | None, reason: str | None) -> None:
    """Cancel PROTOCOL and stop its work: on this machine at once, on another when its lease is next renewed.

    The cost is recorded. The branch stays; `runner undo` reverts the cancellation.
    """
    tell(console, steer.cancel(console.session, load.find_protocol(console.session, protocol), reason))


@click.command("retry")
@options.protocol
@options.offline
@options.a_step("--step", metavar="SLUG", help="Retry this step. Default: the one that failed or is blocked.")
@click.option(
    "--keep/--clean",
    default=None,
    help="Start from the work of the last attempt, or from before it. [default: keep the work of an agent that ended by itself]",
)
@click.pass_obj
def retry(console: Console, protocol: str | None, step: str | None, keep: bool | None) -> None:
    """Allow a new attempt of the failed or blocked step of PROTOCOL. `runner run` then runs it.

    A step whose work waits for an approval is refused: revert that work with `runner undo`.
    """
    name = load.find_protocol(console.session, protocol)
    tell(console, steer.retry(console.session, name, step=step, keep=keep))


@click.command("undo")
@click.argument("protocol", required=False, metavar="[PROTOCOL][@REVISION]", shell_complete=options.complete_protocols)
@options.step
@options.offline
@click.pass_obj
def undo(console: Console, protocol: str | None, step: str | None) -> None:
    """Undo the last transition of PROTOCOL, or all since REVISION, or since STEP started: code and steps are as they were before.

    An undo is one more transition; no history is rewritten. The recorded cost and the plan files stay as they are.

    If the remote refused commits that were never published (a file that is too big, a secret), they are removed from the
    branch and its history instead, and kept under refs/runner/lost/.
    """
    name, point = at_revision(protocol)
    if point is not None and step is not None:
        raise click.UsageError("give a revision or a step, not both")
    found = load.find_protocol(console.session, name)
    if isinstance(point or step, str):
        point = lookup.find_step(console.project, found, str(point or step))
    tell(console, undo_transitions(console.session, found, point))


@click.command("merge")
@options.protocol
@click.option(
    "--squash/--no-ff",
    default=None,
    help="One commit with all changes, or a merge commit, which adds the commits of PROTOCOL to the base. "
    "[default: as `merge:` of config.yaml says, else a merge commit]",
)
@click.option(
    "-m", "message", metavar="TEXT", help="The message of that commit. Default: made from the titles of plan and steps."
)
@options.flag("--dry-run", help="Change nothing; print the commit that would be made.")
@options.flag("--local", help="Merge here, even if PROTOCOL has a request on the forge.")
@options.flag("--leave", help="Merge without the uncommitted changes in PROTOCOL's worktree; they stay there.")
@options.offline
@click.pass_obj
def merge(
    console: Console,
    protocol: str | None,
    squash: bool | None,
    message: str | None,
    dry_run: bool,
    local: bool,
    leave: bool,
) -> None:
    """Merge PROTOCOL into its base in this clone, by a commit of yours; nothing is pushed.

    If it cannot be merged here, the message says how to merge it.
    """
    session = console.session
    wanted = Wanted(squash=squash, message=message, local=local, leave=leave, dry_run=dry_run)
    done = merge_protocol(session, console.means(load.find_protocol(session, protocol)), wanted)
    trusted = [
        path for path in done.files if paths.is_for_people(path)
    ]  # what the runner reads from the trusted branch
    changed = f"{counted(len(done.files), 'file')} changed{f', {few(trusted)} among them' if trusted else ''}"
    brings = f"{counted(done.commits, 'new commit')} in {done.base} · {changed}"
    if done.older:
        console.note(f"{done.protocol}  {done.older}")
    if done.new and dry_run:
        console.note(f"{done.protocol}  can be merged · {brings}")
        console.lines((f"  {line}",) for line in lines_of(done.message))
        return
    console.note(f"{done.protocol}  completed · {'' if done.new else 'already '}merged in {done.commit[:7]}")
    if done.new:
        console.fact("history", brings, err=True)
    if done.new and done.pushed:
        console.fact("next", f"git push {session.project.trusted.remote} {' '.join(done.pushed)}", err=True)


# --- shared with approve, edit and fork ---------------------------------------------------------------------------------


def tell(console: Console, done: Steered, *, decides: bool = False) -> None:
    """Print the result of a command and what to type next; publish it, or say how. `decides`: others may wait for it."""
    console.note(f"{console.means(done.protocol)}  {done.said}")
    for line in done.notes:
        console.note(f"  {line}")
    if done.next.text:
        console.fact("next", done.next.shown(program()), err=True)
    sync.offer(console.session, done.protocol, by_person=decides)
    request.post_published(console.session, done.protocol)


def at_revision(words: str | None) -> tuple[str | None, int | str | None]:
    """Return the protocol's name and the revision, or the name of a step, of `[PROTOCOL][@POINT]`, each None where it is left out.

    Raises:
        UsageError: nothing follows the @, or a number that is no revision.
    """
    name, at, point = (words or "").partition("@")
    is_number = point.isascii() and point.isdigit()
    if at and (not point or (is_number and len(point) > 9)):
        raise UsageError(
            f"`{point}` is not a revision",
            "the command line",
            "write PROTOCOL@REVISION; `runner log` shows the revisions",
        )
    return name or None, (int(point) if is_number else point) if at else None


def named(console: Console, words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the protocol that the first argument names, with the commits that others pushed to it, and the other arguments.

    If the first argument names a step or a wait of the default protocol (its worktree, or the only open one), return that
    protocol and all arguments.

    Raises:
        UsageError: no protocol is meant, or it is not clear which.
    """
    session = console.session
    if not words:
        return load.find_protocol(session, None), ()
    try:
        lookup.find(session, words[0])
    except lookup.UnknownProtocolError:
        if (here := _of_this(session, words[0])) is not None:
            return load.find_protocol(session, here), words
    return load.find_protocol(session, words[0]), words[1:]


def _of_this(session: Session, word: str) -> str | None:
    """Return the default protocol if the argument names a step or a wait of it."""
    try:
        here = lookup.find(session, None)
    except UsageError:
        return None
    row = record.row(session.git, here, lookup.known(session.project)[here])
    plain = word.removesuffix(".md")
    is_its = word in [wait["id"] for wait in row["waiting"]] or plain in ("plan", "context")
    return here if is_its or ids.find_step(plain, row["steps"]) else None
