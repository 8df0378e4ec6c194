"""The command line: finds the command, hands in the surroundings, and turns every error into words and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from runner import __version__, signals
from runner.cli import streams
from runner.errors import RunnerError, UnsupportedError, UsageError

# Name to module below runner.cli, its group in `--help`, and its help line: the module is loaded only when it is run.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Write what a team shares: .protocols/config.yaml."),
    "new": ("new", "Make a protocol: number, branch, worktree, plan."),
    "do": ("do", "Make a protocol and run it."),
    "step": ("step", "Advance a protocol by one transition, one commit."),
    "run": ("run", "Step until someone or something else is needed."),
    "watch": ("watch", "Go on with protocols as soon as they may."),
    "fleet": ("fleet", "Step every protocol that may go on, some at a time."),
    "status": ("status", "Show what waits, works and failed."),
    "list": ("list", "List the protocols."),
    "show": ("show", "Show a protocol, or one of its steps."),
    "log": ("log", "Show a protocol's events."),
    "diff": ("diff", "Show what a protocol changed."),
    "plan": ("plan", "Have the pending steps planned anew; you take, edit or drop it."),
    "edit": ("edit", "Edit a file of the plan in $EDITOR, committed as yours."),
    "approve": ("approve", "Say yes to what waits, with a signature."),
    "reject": ("reject", "Say no to what waits, with a signature."),
    "revoke": ("revoke", "Take back your own word on something."),
    "answer": ("answer", "Answer what a protocol asks."),
    "pause": ("pause", "Stop a protocol for now."),
    "resume": ("resume", "Let it go on."),
    "cancel": ("cancel", "End a protocol."),
    "retry": ("retry", "Try what failed again."),
    "undo": ("undo", "Take the last transition back, or all since a revision."),
    "fork": ("fork", "Begin another protocol where one stood at a revision."),
    "take": ("take", "Merge a protocol's work here, or say how."),
    "qa": ("qa", "Judge a step's work by hand; nothing is recorded."),
    "verify": ("verify", "Prove that the state is what the history says."),
    "why": ("why", "Tell which step, model and people brought a line here."),
    "audit": ("audit", "Write all of a protocol onto one page, for who signs off."),
    "sync": ("sync", "Publish what is here, and bring what is there."),
    "clean": ("clean", "Take finished worktrees and workspaces away."),
    "policy": ("policy", "Ask what the policy would say, or run its examples."),
    "engines": ("engines", "List the models that can be asked, or check one."),
    "doctor": ("doctor", "Find what is wrong here, and mend it."),
    "completion": ("completion", "Print the completion script for bash, zsh or fish."),
}
# The rest of design §9, refused by name until it is there.
LATER = {
    "serve", "tui", "mcp"
}  # fmt: skip


PIPE_CLOSED = 141  # as a shell has it for what ended because nobody reads on: 128 + SIGPIPE


class Commands(click.Group):
    """The commands, each loaded when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"runner.cli.{COMMANDS[cmd_name][0]}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; where nobody reads on (`runner log | head`) end quietly, and not as click does with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            streams.drop(1)
            raise SystemExit(PIPE_CLOSED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which command was probably meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            if args[0] in LATER:
                hint = "`runner --help` lists the commands that there are"
                raise UnsupportedError(f"`runner {args[0]}` is not supported by this version", "the command line", hint)
            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `runner {close[0]}`?" if close else "`runner --help` lists the commands"
            raise UsageError(f"there is no command `{args[0]}`", "the command line", hint)
        return super().resolve_command(ctx, args)


def program() -> str:
    """Return what was typed: `runner` or `git runner`."""
    return "git runner" if Path(sys.argv[0]).name == "git-runner" else "runner"


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="protocol-runner")
@click.option(
    "-C",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run as if started in this folder.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say only what was asked for.")
@click.pass_context
def cli(ctx: click.Context, folder: Path | None, quiet: bool) -> None:
    """Run AI work that lives in git: one transition, one commit, nothing without a person's word."""
    from runner.cli.session import Session

    cwd = Path(os.path.abspath(folder)) if folder else Path.cwd()
    ctx.obj = Session(cwd, dict(os.environ), quiet=quiet)
    ctx.call_on_close(ctx.obj.close)
    if ctx.invoked_subcommand is None:
        ctx.invoke(cli.get_command(ctx, "status"))  # type: ignore[arg-type]


def _on_signal(number: int, frame: object) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Write nowhere from now on instead of to a terminal that is gone, where each line would fail."""
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(fd).st_mode) and not os.isatty(fd):
                streams.drop(fd)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    streams.open_missing()
    sys.exit(call(argv))


def call(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code (design §9); where a CI reads what is printed, it is fenced."""
    from runner.cli import fence

    out, err = sys.stdout, sys.stderr
    # A question at a terminal is a line that is not whole, and no CI reads a terminal.
    if not fence.is_needed(os.environ) or err.isatty():
        return _call(argv)
    fences = fence.Fence(out), fence.Fence(err)
    sys.stdout, sys.stderr = fences
    try:
        return _call(argv)
    finally:
        sys.stdout, sys.stderr = out, err
        for number, one in enumerate(fences, 1):
            try:
                one.end()
            except OSError:
                streams.drop(number)


def _call(argv: list[str] | None) -> int:
    # Killed politely, what was started is ended too; Ctrl-C, SIGTERM and a closed terminal are one thing here.
    signal.signal(signal.SIGTERM, _on_signal)
    signals.listen()
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
        signal.signal(signal.SIGHUP, _on_signal)
    # git exports these to hooks and aliases, and they point at the caller's repository.
    for name in [
        name
        for name in os.environ
        if name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
    ]:
        del os.environ[name]
    # What other packages plug into pydantic is looked for on disk at its first use, and would run in our process.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        cli.main(args=argv, prog_name=program(), standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.Abort:
        return _say("interrupted; nothing is lost, the same command goes on", 130)
    except KeyboardInterrupt:
        return _say("interrupted; nothing is lost, the same command goes on", 130)
    except click.ClickException as error:
        return _tell(_wrong(error))
    except RunnerError as error:
        return _tell(error)
    except FileNotFoundError as error:
        if not _folder_exists():
            return _say("error: this folder is gone\n  next: change to a folder that exists", 2)
        return _bug(error)
    except OSError as error:
        return _disk(error)
    except Exception as error:
        return _bug(error)
    return 0


def _folder_exists() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _wrong(error: click.ClickException) -> UsageError:
    """Return what click found wrong with the command line in the form that every error has."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = "runner" if context is None else context.command_path.replace(program(), "runner", 1)
    if isinstance(error, click.NoSuchOption):
        near = " or ".join(f"`{name}`" for name in error.possibilities or ())
        what = f"there is no option `{error.option_name}`"
        return UsageError(what, f"`{where}`", f"did you mean {near}?" if near else f"`{where} --help` lists them")
    what = " ".join(error.format_message().split()).removesuffix(".")
    return UsageError(what[:1].lower() + what[1:], f"`{where}`", f"`{where} --help` says what it takes")


def _tell(error: RunnerError) -> int:
    from runner.cli.session import safe

    told = safe(str(error)).replace("`runner ", f"`{program()} ").replace("at:   runner ", f"at:   {program()} ")
    return _say(f"error: {told}", error.exit_code)


def _say(text: str, code: int) -> int:
    streams.say(text)
    return code


def _disk(error: OSError) -> int:
    import errno

    hint = (
        "make room on the disk"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "mend that, and run the same command again"
    )
    return _say(
        f"error: {error.strerror}\n  at:   {error.filename or 'this machine'}\n  next: {hint}; nothing was published", 2
    )


def _bug(error: BaseException) -> int:
    import platform
    import traceback

    text = "".join(traceback.format_exception(error))
    return _say(
        f"{text}\nThis is a bug in protocol-runner {__version__} (Python {platform.python_version()}, {platform.system()}).\n"
        "  next: report it with the lines above; nothing was published that is not whole",
        70,
    )
