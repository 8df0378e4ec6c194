"""`runner do`."""

from __future__ import annotations

from pathlib import Path

import click

from runner.app import create, workflows
from runner.cli import diff, options, run
from runner.cli.main import program
from runner.cli.new import tell_made
from runner.cli.session import Session
from runner.errors import RunnerError, UsageError
from runner.lines import lines_of
from runner.protocol import paths
from runner.store import lookup


@click.command("do")
@click.argument("text", required=False)
@click.option("--workflow", metavar="NAME", help="A workflow in .protocols/workflows, or a built-in one.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the workflow.")
@click.option(
    "-f", "--file", "coworker", type=click.Path(path_type=Path), help="An agent file, as it is on the trusted branch."
)
@click.option("--base", metavar="BRANCH", help="The branch to start from and to merge into.")
@options.work
@click.pass_context
def command(
    ctx: click.Context,
    text: str | None,
    workflow: str | None,
    inputs: tuple[str, ...],
    coworker: Path | None,
    base: str | None,
) -> None:
    """Create a protocol with one step, in which an agent does TEXT, and run it; or create and run one from a workflow.

    Prints the protocol's id and a summary of its changes. Exit codes are those of `run`.
    """
    session: Session = ctx.obj
    if coworker is not None and workflow is not None:
        raise click.UsageError("-f goes with a TEXT, not with --workflow: the plan of a workflow names its agents")
    if inputs and workflow is None:
        raise click.UsageError("--input goes with --workflow")
    if text is None and workflow is None:
        raise UsageError(
            "nothing says what to do", "runner do", 'say it: `runner do "…"`, or --workflow NAME --input k=v'
        )
    project = session.project
    create.fresh(project)
    if workflow is not None:
        files, where = workflows.instantiate(project, workflow, inputs)
        title = text or ""
    else:
        assert text is not None
        named = create.coworker_named(project, session.cwd / coworker) if coworker is not None else None
        title, files = create.task(text, named)
        where = "the task"
    create.need_engine(project, files, where)
    made = create.create(project, title, files, where=where, base=base)
    tell_made(session, made, runs=True)
    made.printed()
    try:
        ctx.invoke(run.command, protocol=made.protocol)
    except (KeyboardInterrupt, RunnerError):  # typed again, the same command would make another one
        name = lookup.typed(project, made.protocol)
        session.note(f"  created       {program()} run {name} resumes it")
        raise
    finally:
        _tell_changes(session, made.protocol, made.start)
        session.result(made.protocol)  # it is there, however the run ended


def _tell_changes(session: Session, protocol: str, start: str) -> None:
    """Print the files that differ from the start of the protocol, with the number of lines."""
    git = session.project.git
    tip = git.resolve(session.project.branch(protocol))
    leave = ("--", f":(top,exclude){paths.folder(protocol)}")
    if tip is not None:
        code, out, _ = git.try_run(
            "diff", *diff.PLAIN, "--stat", start, tip, *leave, env={"GIT_LITERAL_PATHSPECS": "0"}
        )
        for line in lines_of(out.decode("utf-8", "replace")) if code == 0 else ():
            session.note(f" {line}")
