"""`runner completion`."""

from __future__ import annotations

import click

from runner.cli import streams
from runner.cli.main import cli
from runner.cli.session import Session

HOW = {
    "bash": 'eval "$(runner completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(runner completion zsh)" in ~/.zshrc',
    "fish": "runner completion fish > ~/.config/fish/completions/runner.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(HOW)))
@click.pass_obj
def command(session: Session, shell: str) -> None:
    """Print the completion script for SHELL: commands, options, protocols and steps."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    streams.put(kind(cli, {}, "runner", "_RUNNER_COMPLETE").source())
    if session.is_terminal():
        session.note(f"# to have it in every shell: {HOW[shell]}")
