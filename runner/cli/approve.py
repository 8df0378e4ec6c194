"""`runner approve`, `reject` and `revoke`: show the subject, ask once, sign the statement, commit it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from runner.app import approve, pending
from runner.app import steer as steering
from runner.app.approve import Matter, Offer
from runner.app.describe import SAID, Next
from runner.app.steer import Steered, text_of
from runner.cli import options, progress, steer, streams
from runner.cli.console import Console
from runner.cli.streams import program
from runner.errors import ExitCode, UsageError, WaitingError
from runner.executor import load
from runner.lines import lines_of
from runner.protocol import approval_file
from runner.protocol.approval_file import Decision, Statement
from runner.protocol.state import OF_NO_STEP, Status
from runner.store import lookup

SHOWN = 400  # lines of a diff that are shown; the command that prints the rest is named


# What the three commands share.
words = options.together(
    click.option("--yes", is_flag=True, help="Sign without asking."),
    click.option("-m", "reason", metavar="TEXT", default="", help="The reason, in one line."),
    options.words("[PROTOCOL] [SUBJECT]", name="named"),
)


@click.command("approve")
@words
@options.time(
    "--for", "lasts", like="90m, 24h or 168h", help="How long the approval is valid, such as 24h. Default: 7 days."
)
@options.flag("--print", "only_print", help="Print the statement, to sign it on another machine.")
@options.path("--import", "file", metavar="FILE", help="Add a statement signed on another machine.")
@click.pass_obj
def command(console: Console, /, named: tuple[str, ...], reason: str, file: Path | None, **given: Any) -> None:
    """Approve SUBJECT of PROTOCOL, or the one thing that waits. The approval is signed with your git's key, the commit is yours.

    SUBJECT is plan, step:SLUG, result:SLUG, call:SLUG.ATTEMPT.N, protected-path:SLUG or merge; a step's name is enough if it
    is clear.
    """
    if file is not None:
        _bring(console, named, file)
        return
    _decide(console, "approve", named, reason, **given)


@click.command("reject")
@words
@click.pass_obj
def reject(console: Console, named: tuple[str, ...], reason: str, yes: bool) -> None:
    """Reject SUBJECT of PROTOCOL, or the one thing that waits.

    The rejection is in force until you approve the subject or revoke the rejection, or the subject changes. It does not expire.
    """
    _decide(console, "reject", named, reason, yes=yes)


@click.command("revoke")
@words
@click.pass_obj
def revoke(console: Console, named: tuple[str, ...], reason: str, yes: bool) -> None:
    """Revoke your own approval or rejection of SUBJECT of PROTOCOL, if it was not used yet."""
    _decide(console, "revoke", named, reason, yes=yes)


def _decide(
    console: Console,
    verb: str,
    named: tuple[str, ...],
    reason: str,
    *,
    yes: bool,
    lasts: int | None = None,
    only_print: bool = False,
) -> None:
    """Carry the command out."""
    session = console.session
    known = approve.waits_here(session, named[0] if named else None) if yes else frozenset()
    protocol, rest = _named(console, named)
    console.means(protocol)
    if len(rest) > 1:
        raise click.UsageError(f"name one subject: {program()} {verb} PROTOCOL [SUBJECT]")
    reason = text_of(reason, "the reason") if reason else ""
    found = approve.matter(session, protocol, rest[0] if rest else None)
    decision = Decision(verb)
    if found.requirement.keyboard:
        _at_keyboard(console, found, decision, yes)
        return
    ready = approve.offer(session, found, decision, _ascii(reason), lasts=lasts, here=not only_print)
    subject, short = ready.statement.subject, lookup.typed(session.project, protocol)
    if ready.stands is not None:
        said = f"{subject}: you {SAID[verb]} it already, in {ready.stands.commit[:7]}; nothing was written"
        steer.tell(
            console, Steered(protocol, said, Next.typed(f"runner run {short}" if found.wait else None)), decides=True
        )
        return
    if only_print:
        streams.put(ready.text.decode("ascii"), nl=False)
        console.note("sign a file of exactly these bytes, append the signature, and import the result:")
        console.note("  ssh-keygen -Y sign -n runner-approval -f KEY FILE && cat FILE FILE.sig > SIGNED")
        console.fact("next", f"{program()} approve {short} --import SIGNED", err=True)
        return
    show(console, found, ready)
    about = (found.wait.id, str(found.wait.digest)) if found.wait is not None else ("merge", found.seen.tip)
    if yes and not rest and about not in known:
        raise WaitingError(
            "it came with the fetch just now, so nothing was signed",
            str(found.requirement.subject),
            f"read what is shown above, then name it: `{program()} {verb} {short} {subject} --yes`",
        )
    if not yes and console.ask(f"{verb} this?", ("no", "yes")) != "yes":
        console.note("nothing was signed" + ("" if console.is_terminal() else "; without a terminal, add --yes"))
        raise SystemExit(ExitCode.WAITS)
    made = approve.give(session, ready)
    _given(console, found, made, f"{subject}: {SAID[verb]} as {ready.statement.approver}, signed in {made[:7]}")


def _given(console: Console, found: Matter, tip: str, said: str) -> None:
    """Print the decision, which the commit `tip` has, the approvals that are still missing, and what to type next, as status does."""
    session = console.session
    standing = approve.status_now(session, found)
    missing = pending.missing(standing) if found.is_required or standing.rejected else ""
    done = steering.steered(session, found.state, tip, said, (f"still needed: {missing}",) if missing else ())
    if missing and found.state.status is Status.COMPLETED:
        done = replace(done, next=Next())  # not to be merged yet
    steer.tell(console, done, decides=True)


def _named(console: Console, named: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the protocol and the rest of the arguments; a subject alone belongs to the default protocol."""
    if named and (":" in named[0] or named[0] in OF_NO_STEP):
        return load.find_protocol(console.session, None), named
    return steer.named(console, named)


def _ascii(text: str) -> str:
    """Return a reason as a statement holds it: printable ASCII, one line."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")[:500]


def _at_keyboard(console: Console, found: Matter, decision: Decision, yes: bool) -> None:
    if found.wait is None or decision.value == "revoke":
        raise approve.no_policy(console.project, found)
    can_ask = console.is_terminal() and not streams.is_read_by_ci(console.environ) and not yes
    if can_ask:
        _show_subject(console, found, None)
    question = f"there is no policy, so nothing is signed: {decision.value} this?"
    if not can_ask:
        raise WaitingError(
            "without a policy, only a person at a terminal can decide, not CI and not --yes",
            str(found.requirement.subject),
            approve.no_policy(console.project, found).hint,
        )
    if console.ask(question, ("no", "yes")) != "yes":
        console.note("nothing was decided")
        raise SystemExit(ExitCode.WAITS)
    done = approve.answer(console.session, found, decision)
    if not done.entries:
        console.note(f"{found.seen.protocol}  {found.requirement.subject}: not approved; it still waits")
        raise SystemExit(ExitCode.WAITS)
    console.note(f"{found.seen.protocol}  {found.requirement.subject}: {SAID[decision.value]}, without a signature")
    progress.Progress(console, each=True).end(done)


def _bring(console: Console, named: tuple[str, ...], file: Path) -> None:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"it cannot be read: {error.strerror}", str(file), "name the file with the signed statement"
        ) from error
    said = approval_file.parse(data, str(file)).statement
    protocol = _named(console, named)[0] if named else said.protocol
    found, made = approve.bring(console.session, protocol, data, str(file))
    _given(console, found, made, f"{found.requirement.subject}: added in {made[:7]}")


# --- the statement, shown ---------------------------------------------------------------------------------------------


def show(console: Console, found: Matter, ready: Offer) -> None:
    """Show the whole subject, the changes since the person's last decision, and the statement to be signed."""
    _show_subject(console, found, ready.reviewed)
    said = ready.statement
    console.line("  ", ("decision".ljust(12), "cyan"), f"  {said.decision} {said.subject} as {said.approver}", err=True)
    console.fact("digest", said.digest, err=True)
    until = said.expires if said.decision is Decision.APPROVE else "your next decision on it, or until it changes"
    console.fact("valid until", until, err=True)
    if said.reason:
        console.fact("reason", said.reason, err=True)
    assert ready.key is not None
    console.fact("your key", ready.key.fingerprint, err=True)


def _show_subject(console: Console, found: Matter, since: Statement | None) -> None:
    for part in approve.shown(console.project, found, since):
        console.line("  ", (part.title, "cyan"), err=True)
        lines = lines_of(part.text)
        cut = SHOWN if part.command else len(lines)
        for line in lines[:cut]:
            console.line(f"  | {line}", err=True)
        if len(lines) > cut:
            console.line(f"  | … {len(lines) - cut} more lines: `{part.command}` shows them", err=True)
    for name in approve.not_committed(console.project, found):
        console.fact(
            "not covered",
            f"your uncommitted edit of {name}; committing it makes this approval stale",
            err=True,
        )
