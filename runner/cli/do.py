"""`runner do`."""

from __future__ import annotations

import click

from runner.cli import options
from runner.cli.session import Session


@click.command("do", short_help="Make a protocol and run it.")
@click.argument("text", required=False)
@click.option("--workflow", metavar="NAME", help="A workflow of .protocols/workflows, or a built-in one.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the workflow.")
@click.option("-f", "--file", "coworker", metavar="FILE", hidden=True)
@click.option("--base", metavar="BRANCH", help="The branch that it starts from and is merged into.")
@options.work
@click.pass_context
def command(
    ctx: click.Context,
    text: str | None,
    workflow: str | None,
    inputs: tuple[str, ...],
    coworker: str | None,
    base: str | None,
) -> None:
    """Make a protocol from a workflow and run it; print its id.

    It exits as `run` does. `runner do "some text"`, which a model carries out, comes with a later version.
    """
    from runner.app import create, workflows
    from runner.cli import run
    from runner.cli.new import tell_made
    from runner.errors import UnsupportedError, UsageError

    session: Session = ctx.obj
    if coworker is not None:
        raise UnsupportedError(
            "a coworker file (`-f`) is not supported by this version", coworker, "use --workflow NAME, or `runner new`"
        )
    if text is not None and workflow is None:
        raise UnsupportedError(
            "a task in words needs an agent step, which this version does not run",
            'runner do "…"',
            "use --workflow NAME, or write the plan by hand: `runner new TITLE --manual`",
        )
    if workflow is None:
        raise UsageError("nothing says what to do", "runner do", "name a workflow: --workflow NAME --input k=v")
    project = session.project
    files, where = workflows.instantiate(project, workflow, inputs)
    made = create.create(project, text or "", files, where=where, base=base)
    tell_made(session, made, runs=True)
    try:
        ctx.invoke(run.command, protocol=made.protocol)
    finally:
        session.result(made.protocol)  # it is there, however the run ended
