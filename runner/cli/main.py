"""The command line: finds the command, passes in the environment, and turns every error into a message and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import signal
import stat
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from runner import __version__, resources, signals
from runner.cli import streams
from runner.cli.streams import program
from runner.errors import ExitCode, RunnerError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from runner.cli.console import Console

# The commands of `--help` by heading: name, help line, and where the command is below runner.cli: `module:attribute`, or
# `command` in the module of its name. A module is loaded only when its command is run.
GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Start a protocol": (
        ("new", "Create a protocol: number, branch, worktree, plan."),
        ("do", "Create a protocol for one task, and run it.", "new:do_command"),
        ("fork", "Create a protocol from a revision of another one.", "new:fork_command"),
    ),
    "Run it": (
        ("step", "Advance a protocol by one transition, one commit.", "run:step_command"),
        ("run", "Run the steps until a person is needed."),
        ("watch", "Run protocols whenever they can advance."),
        ("fleet", "Run all protocols that can advance, several at a time.", "watch:fleet_command"),
    ),
    "See what happened": (
        ("status", "Show which protocols wait, run or failed, and what to type next."),
        ("list", "List all protocols.", "status:list_command"),
        ("show", "Show a protocol, or one of its steps."),
        ("log", "Show the events of a protocol."),
        ("diff", "Show what a protocol changed.", "log:diff_command"),
        ("why", "Show which step, model and people wrote a line.", "log:why_command"),
    ),
    "Steer and decide": (
        ("plan", "Let a model plan the pending steps again."),
        ("edit", "Edit a plan file in $EDITOR, and commit it as yours.", "plan:edit_command"),
        ("skip", "Remove a step from the plan.", "plan:skip_command"),
        ("answer", "Answer a question of a protocol.", "steer:answer"),
        ("approve", "Approve what waits, with a signature."),
        ("reject", "Reject what waits, with a signature.", "approve:reject"),
        ("revoke", "Revoke your own approval or rejection.", "approve:revoke"),
        ("pause", "Pause a protocol.", "steer:pause"),
        ("resume", "Resume a protocol that is paused or blocked.", "steer:resume"),
        ("cancel", "Cancel a protocol.", "steer:cancel"),
        ("discard", "Remove a protocol that has no work yet.", "doctor:discard_command"),
        ("retry", "Allow a new attempt of a failed step.", "steer:retry"),
        ("undo", "Undo the last transition, or all since a revision.", "steer:undo"),
    ),
    "Check and share": (
        ("check", "Check plans and configuration before they are used."),
        ("shell", "Open a shell in the sandbox of a step; its changes are discarded.", "check:shell_command"),
        ("qa", "Check the work of a step by hand; nothing is recorded.", "check:qa_command"),
        ("verify", "Verify that the state of a protocol follows from its history."),
        ("audit", "Write everything about a protocol on one HTML page.", "verify:audit_command"),
        ("merge", "Merge the work of a protocol.", "steer:merge"),
        ("sync", "Fetch, reconcile and push protocols and their requests.", "run:sync_command"),
    ),
    "Set up and repair": (
        ("init", "Write the files that a team shares into the checkout."),
        ("policy", "Ask the policy for a decision, or test its examples.", "check:policy_command"),
        ("engines", "List the models that can be used, or test one.", "doctor:engines_command"),
        ("mcp", "Serve protocols to editors and agents by MCP, or pin a server's tools."),
        ("clean", "Remove finished worktrees, workspaces and branches.", "doctor:clean_command"),
        ("doctor", "Find problems on this machine and in this clone, and fix them."),
        ("completion", "Print the completion script for bash, zsh or fish.", "main:completion_command"),
        ("schema", "Print the JSON Schema of a file or of a command's JSON.", "main:schema_command"),
        ("help", "Show the help of a command.", "main:help_command"),
    ),
}
COMMANDS = {name: where[0] if where else f"{name}:command" for rows in GROUPS.values() for name, _, *where in rows}
LATER = {"serve", "tui"}  # the rest of design §9, refused by name until it is there
# Those that do not act and have no `--json` of their own: what they print is for people, or has a format of its own.
PLAIN = {"completion", "help", "mcp", "policy", "schema", "shell"}
PIPE_CLOSED = 141  # as in a shell: 128 + SIGPIPE


class Commands(click.Group):
    """The commands, each loaded when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"runner.cli.{module}"), attribute)
        if cmd_name not in PLAIN and not any("--json" in one.opts for one in command.params):
            command.params.append(_json_option())
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; if stdout is closed (`runner log | head`), exit silently, and not with 1 as click does."""
        streams.keep(on=False)
        try:
            try:
                found = super().invoke(ctx)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                if isinstance(error, click.UsageError) and error.ctx is None and ctx.invoked_subcommand:
                    # click's parser raises some without the command that it reads
                    error.ctx = click.Context(self, info_name=ctx.invoked_subcommand, parent=ctx)
                _end(ctx.obj, error)
                raise
            _end(ctx.obj)
            return found
        except BrokenPipeError:
            streams.drop(1)
            raise SystemExit(PIPE_CLOSED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups, as `git help` does, without loading them."""
        width = max(map(len, COMMANDS))
        for heading, rows in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text, *_ in rows])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an unknown one is an error that names the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            if args[0] in LATER:
                hint = "`runner --help` lists the commands"
                raise UnsupportedError(f"`runner {args[0]}` is not supported by this version", "the command line", hint)
            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `runner {close[0]}`?" if close else "`runner --help` lists the commands"
            raise UsageError(f"there is no command `{args[0]}`", "the command line", hint)
        return super().resolve_command(ctx, args)


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
@click.option("-q", "--quiet", is_flag=True, help="Print only results.")
@click.pass_context
def cli(ctx: click.Context, folder: Path | None, quiet: bool) -> None:
    """Run AI work that is recorded in git: one commit per transition, approved by people.

    PROTOCOL is a number (7), an id or a branch; leave it out in its worktree, or if only one is open. STEP is a slug (deploy), a
    number (3) or both (03-deploy).
    """
    from runner.cli.console import Console

    cwd = Path(os.path.abspath(folder)) if folder else Path.cwd()
    ctx.obj = Console(cwd, dict(os.environ), quiet=quiet)
    ctx.call_on_close(ctx.obj.close)
    if ctx.invoked_subcommand is None:
        import_module("runner.cli.status").home(ctx.obj)


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(incomplete)]


@click.command("help")
@click.argument("names", nargs=-1, metavar="[COMMAND]...", shell_complete=_names)
@click.pass_context
def help_command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Show the help of COMMAND, as `runner COMMAND --help` does; without COMMAND, the list of commands."""
    found: click.Command = cli
    ctx = ctx.find_root()
    for name in names:
        if not isinstance(found, click.Group):
            raise click.UsageError(f"it has no command `{name}`", ctx)
        _, inner, _ = found.resolve_command(ctx, [name])
        assert inner is not None
        found, ctx = inner, click.Context(inner, info_name=name, parent=ctx)
    streams.put(ctx.get_help())


def _schemas(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in resources.schemas() if name.startswith(incomplete)]


@click.command("schema")
@click.argument("name", required=False, shell_complete=_schemas)
def schema_command(name: str | None) -> None:
    """Print the JSON Schema NAME; without NAME, list the names."""
    names = resources.schemas()
    if name is None:
        streams.put("\n".join(names))
        return
    if name not in names:
        raise UsageError(f"there is no schema `{name}`", "the command line", f"there is {', '.join(names)}")
    streams.put(resources.schema(name), nl=False)


HOW = {
    "bash": 'eval "$(runner completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(runner completion zsh)" in ~/.zshrc',
    "fish": "runner completion fish > ~/.config/fish/completions/runner.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(HOW)))
@click.pass_obj
def completion_command(console: Console, shell: str) -> None:
    """Print the completion script for SHELL: commands, options, protocols and steps."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    streams.put(kind(cli, {}, "runner", "_RUNNER_COMPLETE").source())
    if console.is_terminal():
        console.note(f"# to have it in every shell: {HOW[shell]}")


def _on_signal(number: int, frame: object) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Discard further output to a terminal that is gone, where each line would fail."""
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(fd).st_mode) and not os.isatty(fd):
                streams.drop(fd)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    # A command loads 40,000 objects that stay; Python would look for cycles among them sixty times, a twentieth of a `runner step`.
    gc.set_threshold(50_000)
    sys.unraisablehook = signals.send_again
    streams.open_missing()
    try:
        code = call(argv)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        code = ended.code
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Exit as `sys.exit` does, without taking apart what was loaded: that took Python a tenth of a `runner step`."""
    with contextlib.suppress(OSError, ValueError):  # a stream that takes nothing more is Python's to report
        if all(one.daemon or one is threading.main_thread() for one in threading.enumerate()):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def call(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code (design §9); text that a CI would run as a command is escaped."""
    out, err = sys.stdout, sys.stderr
    # A question at a terminal is a line that is not whole, and no CI reads a terminal.
    if not streams.is_read_by_ci(os.environ) or err.isatty():
        return _call(argv)
    fences = streams.Escaped(out), streams.Escaped(err)
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
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"):
        os.environ.pop(name, None)
    # What other packages plug into pydantic is looked for on disk at its first use, and would run in our process.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        cli.main(args=argv, prog_name=program(), standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code, text = _ended(error)
        if text:
            streams.say(text)
        return code
    return 0


def _json_option() -> click.Option:
    """Return `--json` of a command that acts (`runner.cli.status`)."""

    def start(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.find_root().obj.acts = ctx.info_name
            streams.keep()

    told = "Print the result as one JSON object, and nothing else on stdout."
    return click.Option(["--json"], is_flag=True, is_eager=True, expose_value=False, callback=start, help=told)


def _end(console: Console | None, error: BaseException | None = None) -> None:
    """End a command that acts with its JSON, where that is wanted."""
    if console is not None and console.acts:
        told = _wrong(error) if isinstance(error, click.ClickException) else error
        import_module("runner.cli.status").end_acted(console, _code(error), told)


def _code(error: BaseException | None) -> int:
    """Return the exit code of a command that an exception ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0 if error is None else _ended(error)[0]


def _ended(error: BaseException) -> tuple[int, str]:
    """Return the exit code of a command that an exception ends (design §9), and what a person reads of it."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code, ""
        case click.exceptions.Abort() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED, ", ".join(signals.told(error))
        case click.ClickException():
            return _ended(_wrong(error))
        case RunnerError():
            text = streams.safe(f"error: {error}").replace("`runner ", f"`{program()} ")
            return error.exit_code, text.replace("at:   runner ", f"at:   {program()} ")
        case FileNotFoundError() if not _folder_exists():
            return UsageError.exit_code, "error: this folder is gone\n  next: change to a folder that exists"
        case OSError() if not isinstance(error, FileNotFoundError):
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "make room on the disk" if is_full else "fix that, and run the same command again"
            text = f"error: {error.strerror}\n  at:   {error.filename or 'this machine'}\n  next: {hint}; nothing was published"
            return UsageError.exit_code, text
    import platform
    import traceback

    text = f"This is a bug in protocol-runner {__version__} (Python {platform.python_version()}, {platform.system()})."
    hint = "report it with the lines above; nothing incomplete was published"
    return ExitCode.BUG, f"{''.join(traceback.format_exception(error))}\n{text}\n  next: {hint}"


def _folder_exists() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _meant_option(error: click.NoSuchOption, where: str) -> str:
    """Return the hint about an option that the command `where` does not have."""
    from difflib import SequenceMatcher

    name = error.option_name
    option = next((one for one in cli.params if isinstance(one, click.Option) and name in one.opts), None)
    if option is not None and " " in where:
        typed = name if option.is_flag else f"{name} {str(option.name).upper()}"
        return f"write it before the command: `{where.replace(' ', f' {typed} ', 1)}`"
    # Click compares the dashes too: with them, `--into` is like `--no-ff`.
    near = [
        f"`{one}`"
        for one in error.possibilities or ()
        if SequenceMatcher(None, one.strip("-"), name.strip("-")).ratio() >= 0.6
    ]
    return f"did you mean {' or '.join(near)}?" if near else f"`{where} --help` lists them"


def _wrong(error: click.ClickException) -> UsageError:
    """Return an error of click in the form that every error has."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = "runner" if context is None else context.command_path.replace(program(), "runner", 1)
    if isinstance(error, click.NoSuchOption):
        what = f"there is no option `{error.option_name}`"
        return UsageError(what, f"`{where}`", _meant_option(error, where))
    what = " ".join(error.format_message().split()).removesuffix(".")
    return UsageError(what[:1].lower() + what[1:], f"`{where}`", f"`{where} --help` describes it")
