"""`runner run`."""

from __future__ import annotations

import click

from runner.app import go, request, sync
from runner.cli import ci, options, telling
from runner.cli.session import Session
from runner.executor.commit import Advanced
from runner.store import publishing


@click.command("run")
@options.protocol
@click.option(
    "--max-steps", default=100, show_default=True, type=click.IntRange(1), help="The maximum number of transitions."
)
@click.option("--no-adopt", is_flag=True, help="Refuse to run with uncommitted changes of plan files.")
@options.job
@options.work
@click.pass_obj
def command(session: Session, protocol: str | None, max_steps: int, no_adopt: bool) -> None:
    """Step PROTOCOL until a person or something else is needed."""
    project = session.project
    name = publishing.find(project, protocol)
    forge = request.available(project)
    teller = telling.Teller(session, each=False)
    done: Advanced | None = None
    try:
        with ci.job(session, name), teller.at_work(name):
            steps = go.run(project, name, max_steps=max_steps, adopt=not no_adopt, tell=teller.advanced, forge=forge)
            for one in steps:
                done = one
    except BaseException:
        if done is not None:
            teller.flush(done)
            sync.unpublished(project, name)
        raise
    assert done is not None  # --max-steps is at least one
    teller.end(done)
    sync.offer(project, name)
    request.post_quietly(project, forge, name)
    raise SystemExit(ci.end(session, done, go.exit_code(done)))
