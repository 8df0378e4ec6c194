"""`runner qa` and `runner shell`: a step's work checked by hand, and a shell as the step had it. Nothing is recorded."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Callable

import click

from runner.app import by_hand
from runner.app.by_hand import Judged
from runner.cli import options, output, progress, streams
from runner.cli.session import Session
from runner.errors import UsageError
from runner.executor import load
from runner.lines import LAST, WIDTH, lines_of, lines_of_output
from runner.sandbox import terminal


@click.command("qa")
@options.protocol
@options.step
@options.flag("--full", help="Include a model's review, even if the step does not have one.")
@options.work
@click.pass_obj
def qa_command(session: Session, protocol: str | None, step: str | None, full: bool) -> None:
    """Run the QA of STEP on its current work in PROTOCOL. After a failed attempt, that is the work that it left.

    Default: the step that waits for QA, else the one that failed, else the last that is done. Nothing is recorded. Exit 1: QA failed.
    """
    project = session.project
    name, slug = options.found(session, protocol, step)
    load.find_protocol(session.project, session.means(name))  # a branch that only the remote has is brought here
    with progress.Progress(session, each=True).at_work(name):
        done = by_hand.judge(project, name, slug, full=full)
    _tell(session, done)
    raise SystemExit(0 if done.passed else 1)


def _tell(session: Session, done: Judged) -> None:
    printed = {
        id(check): data
        for check, data in zip(output.commands(done.evidence, reviewed=bool(done.report)), done.outputs, strict=False)
    }
    for check in done.evidence:
        passed = check["code"] == 0
        session.line(
            ("passed " if passed else f"exit {check['code']} ", "green" if passed else "red"), f" {check['check']}"
        )
        if not passed:
            found = lines_of_output(printed[id(check)]) if id(check) in printed else lines_of(check["tail"])
            for line in found[-LAST:]:
                session.line(f"        {line[:WIDTH]}")
    if done.report:
        session.line("")
        for line in lines_of(done.report):
            session.line(line)
        session.line("")
    word, colour = ("PASS", "green") if done.passed else ("FAIL", "red")
    session.line((word, colour), f"  {done.step}, attempt {done.attempt}{f': {done.reason}' if done.reason else ''}")
    if done.again and done.passed:
        session.note(f"{done.step} is still recorded as failed; a new attempt from this work: `{done.again}`")


class _WithCommand(click.Command):
    """Takes the arguments after `--` for a command, and neither for a protocol nor for a step."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before `--`, and keep the others in the context's `meta`."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[__name__] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the pieces of the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@click.command("shell", cls=_WithCommand)
@options.protocol
@options.step
@options.flag("--start", help="Start without the work of STEP, from the commit that it started from.")
@options.number("--check", metavar="N", help="Start in a clean export, as check N of STEP has it.")
@options.executor
@click.pass_context
def shell_command(ctx: click.Context, protocol: str | None, step: str | None, start: bool, check: int | None) -> None:
    """Open a shell in the sandbox as STEP had it, with the work that its last attempt left. Default: at the tip of PROTOCOL.

    It has the environment of STEP, without secrets (in the sandbox also without network), and a workspace of its own: nothing is
    recorded, and your changes are discarded at the end. After `--`, COMMAND runs instead of a shell, also without a terminal. The
    exit code is that of the shell or COMMAND.
    """
    session: Session = ctx.obj
    argv, is_seen = ctx.meta[__name__], terminal.is_there()
    name, slug = options.found(session, protocol, step)
    load.find_protocol(session.project, name)  # a branch that only the remote has is brought here
    if slug is None and (start or check):
        raise UsageError(f"--{'start' if start else 'check'} is about a step", name, "name the step")
    if not argv and not is_seen:
        raise UsageError("there is no terminal for a shell", name, "add `-- COMMAND`, which needs none")
    wanted = by_hand.Wanted(slug=slug, argv=argv, start=start, check=check)
    if is_seen:
        wanted = dataclasses.replace(wanted, term=session.environ.get("TERM"))
    with by_hand.shell(session.project, name, wanted) as ready:
        session.note(f"{ready.said}; your changes are discarded at the end")
        if ready.line:
            session.line(f"check {check}: {ready.line}", err=True)
        done = ready.sandbox.attach(ready.command) if is_seen else ready.sandbox.run(ready.command, _printer())
    raise SystemExit(done.code)


def _printer() -> Callable[[bytes], None]:
    """Return what prints output as it comes; a terminal gets whole characters, and none that steer it."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def show(data: bytes) -> None:
        streams.put(streams.safe(decode(data)), nl=False)

    return lambda data: streams.put_output(data, show)
