"""`runner new`, `runner do` and `runner fork`: the commands that create a protocol."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from runner.app import create, describe, fork, request
from runner.app import run as running
from runner.app.create import Made
from runner.cli import options, run, steer, streams
from runner.cli.console import Console
from runner.cli.plan import edited_files
from runner.cli.streams import is_read_by_ci, program
from runner.errors import ExitCode, RunnerError, UsageError
from runner.git import GitError
from runner.lines import counted, lines_of
from runner.protocol import ids
from runner.store import lookup, publishing, record

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the plan of a new protocol comes from, by the options; a model writes it if none is given, or only a text for it."""

    folder: Path | None
    workflow: str | None
    inputs: tuple[str, ...]
    manual: bool
    text: Path | None
    issue: int | None

    @property
    def named(self) -> list[str]:
        """The options that were given."""
        options = {"--plan": self.folder is not None, "--workflow": bool(self.workflow), "--manual": self.manual}
        return [name for name, given in options.items() if given]

    @property
    def texts(self) -> list[str]:
        """The options that name a text which the model plans from."""
        return [name for name, given in {"--from": self.text, "--from-issue": self.issue}.items() if given is not None]

    def refuse_several(self, *, edit: bool) -> None:
        """Refuse options that do not go together.

        Raises:
            click.UsageError: naming them.
        """
        if self.texts and (self.named or edit):
            with_what = ", ".join(self.named) or "--edit"
            raise click.UsageError(f"{self.texts[0]} goes with a plan that a model writes, not with {with_what}")
        if len(self.named) > 1 or len(self.texts) > 1:
            raise click.UsageError(f"{' and '.join(self.named or self.texts)}: give only one source for the plan")
        if self.inputs and not self.workflow:
            raise click.UsageError("--input goes with --workflow")

    def about(self, console: Console) -> tuple[str, str]:
        """Return the text that the model plans from, as its reader sees it, and its name; both empty without one."""
        if self.text is not None:
            return create.text_from(console.cwd, self.text), str(self.text)
        if self.issue is not None:
            found, where = request.issue(console.project, self.issue)
            title = " ".join(create.visible(found.title).split())  # by itself: what it opens would hide the body
            return f"# {title}\n\n{create.visible(found.body)}".strip(), where
        return "", ""

    def files(self, console: Console, title: str | None) -> tuple[dict[str, bytes], str]:
        """Return (name to bytes, their source for messages) of the plan's files."""
        if self.folder is not None:
            return create.read_folder(console.cwd, self.folder), str(self.folder)
        if self.workflow:
            return create.instantiate(console.project, self.workflow, self.inputs)
        if not title:
            raise click.UsageError("a plan of your own needs a TITLE")
        return create.manual(title), "the new plan"


@click.command("new")
@click.argument("title", required=False)
@options.path("--plan", "folder", help="A folder with plan.md and step files; they are used unchanged.")
@options.workflow
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the workflow.")
@options.flag("--manual", help="Create one step, for you to write.")
@options.path(
    "--from",
    "text",
    metavar="FILE",
    help="A spec or an issue that the model plans from; it is quoted as untrusted, without invisible text.",
)
@options.number(
    "--from-issue",
    "issue",
    metavar="NUMBER",
    help="An issue of the forge in config.yaml, quoted in the same way; its title is TITLE unless you give one.",
)
@options.flag(
    "--edit", help="Edit the plan before it is created; without another source, start from the plan of --manual."
)
@click.option("--base", metavar="BRANCH", help="The branch to start from and to merge into.")
@options.flag("--no-questions", help="The model decides open questions itself.")
@options.work
@click.pass_obj
def command(
    console: Console,
    /,
    title: str | None,
    base: str | None,
    no_questions: bool,
    edit: bool,
    **source: Any,
) -> None:
    """Create the protocol TITLE and print its id.

    A model writes the plan from TITLE and the repository, and asks you first what it needs to know; or the plan comes from
    --plan, --workflow or --manual. TITLE is optional with a plan or a workflow. Without a terminal, the model's questions
    wait for `runner answer` (exit 3), and the next `runner run` writes the plan. Your checkout does not change: the plan is
    in its own worktree, and you can edit it.
    """
    plan = _Source(**source)
    plan.refuse_several(edit=edit)
    if edit and not plan.named:
        plan = dataclasses.replace(plan, manual=True)
    if not plan.named and not plan.texts and not title:
        raise click.UsageError("give a title: runner new TITLE")
    session = console.session
    publishing.look(session)
    if not plan.named:
        about, of = plan.about(console)
        with console.waiting("a model writes the plan"):
            made = create.planned(session, title or "", base=base, questions=not no_questions, text=about, where=of)
    else:
        files, where = plan.files(console, title)
        files = dict(edited_files(console, files, sorted(files))) if edit else files
        made = create.create(session, title or "", files, where=where, base=base)
    _end(console, made, first="edit {} first" if plan.manual and not edit else "")
    if made.questions and not plan.named:
        running.notify(session, made.protocol)
        raise SystemExit(ExitCode.WAITS)


def _end(console: Console, made: Made, *, first: str = "") -> None:
    """Print a new protocol and its id, and post it to the forge. `first`: a command to type before what follows."""
    tell_made(console, made, first=first)
    _give_id(console, made.protocol)
    made.printed()
    request.post_published(console.session, made.protocol)


def _give_id(console: Console, protocol: str) -> None:
    """Print the id alone, for programs: a person at a terminal has read it."""
    if streams.keeps() or not sys.stdout.isatty():
        console.result(protocol)


def tell_made(console: Console, made: Made, *, runs: bool = False, first: str = "") -> None:
    """Print a new protocol; `runs`: it is run at once, so no command follows. `first`: as in `_end`, with `{}` for its name."""
    console.means(made.protocol)
    goes_out = console.project.publishes and console.project.trusted.remote
    pushed = f" · published to {goes_out}" if goes_out else " · nothing was pushed"
    steps = counted(made.steps, "step")
    cost = f" · {price}" if (price := describe.price(describe.together([made.spent]))) else ""
    if made.questions:
        count = counted(len(made.questions), "question")
        console.note(f"{made.protocol}  planning · {count} · from {made.base[:12]} {made.start[:7]}{cost}{pushed}")
        for wait, text in made.questions:
            console.note(f"  {wait:12}  {text}")
        which = f" {made.questions[0][0]}" if len(made.questions) > 1 else ""
        name = lookup.typed(console.project, made.protocol)
        console.fact("next", f"{program()} answer {name}{which} TEXT", err=True)
        return
    if made.source:
        steps = f"{made.done} of {steps} done"
    begun = made.source or made.base[:12]
    session = console.session
    row = record.row(session.git, made.protocol, lookup.tip(session.project, made.protocol))
    console.note(f"{made.protocol}  {row['status']} · {steps} · from {begun} {made.start[:7]}{cost}{pushed}")
    if _OID.fullmatch(made.base):
        sets = f"`{program()} new --base BRANCH` sets the branch to merge into"
        console.fact("base", f"a commit, as HEAD is on no branch; {sets}", err=True)
    for line in made.outline:
        console.note(f"  {line}")
    if made.path:
        path = os.path.relpath(made.path, console.cwd)
        console.note(f"  read or edit  {path}/.protocols/{made.protocol}/")
    elif made.note:
        console.note(f"  {made.note}")
    if made.source and ids.slug_of_title(str(row["title"])) != made.protocol.partition("-")[2]:
        console.fact("title", f"{row['title']}, as its plan has it", err=True)
    if not runs:
        tip, name = lookup.tip(session.project, made.protocol), lookup.typed(session.project, made.protocol)
        if (follows := describe.describe(session, row, tip, name).next).text:
            before = f"{program()} {first.format(name)}, then " if first else ""
            console.fact("next", f"{before}{follows.shown(program())}", err=True)


@click.command("do")
@click.argument("text", required=False)
@options.workflow
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the workflow.")
@options.path(
    "-f",
    "--file",
    "coworker",
    help="An agent file; without TEXT, its objective is the task. External tools need approval if this file is not on the trusted "
    "branch.",
)
@click.option(
    "--check",
    "checks",
    multiple=True,
    metavar="CMD",
    help="A command that checks the work; repeatable. Default: `checks` of config.yaml.",
)
@click.option("--base", metavar="BRANCH", help="The branch to start from and to merge into.")
@options.work
@click.pass_context
def do_command(
    ctx: click.Context,
    text: str | None,
    workflow: str | None,
    inputs: tuple[str, ...],
    coworker: Path | None,
    checks: tuple[str, ...],
    base: str | None,
) -> None:
    """Create a protocol with one step, in which an agent does TEXT, and run it; or create and run one from a workflow.

    Prints the protocol's id and a summary of its changes. Exit codes are those of `run`.
    """
    console: Console = ctx.obj
    if coworker is not None and workflow is not None:
        raise click.UsageError("-f goes without --workflow: the plan of a workflow names its agents")
    if checks and workflow is not None:
        raise click.UsageError("--check goes with a TEXT, not with --workflow: the plan of a workflow names its checks")
    if inputs and workflow is None:
        raise click.UsageError("--input goes with --workflow")
    if text is None and workflow is None and coworker is None:
        raise UsageError("there is no task", "runner do", 'give one: `runner do "…"`, or --workflow NAME --input k=v')
    session = console.session
    publishing.look(session)
    if workflow is not None:
        files, where = create.instantiate(session.project, workflow, inputs)
        title = text or ""
    else:
        agent, objective = (
            (None, "")
            if coworker is None
            else create.agent_given(session.project, console.cwd / coworker, is_read_by_ci(console.environ))
        )
        title, files = create.task(objective if text is None else text, agent, checks)
        where = "the task"
    create.need_engine(session.project, files, where)
    made = create.create(session, title, files, where=where, base=base)
    tell_made(console, made, runs=True)
    if workflow is None and not (checks or session.project.config.checks):
        console.fact("checks", f"none; `--check CMD` names one, `{program()} init` finds the project's", err=True)
    made.printed()
    try:
        ctx.invoke(run.command, protocol=made.protocol)
    except (KeyboardInterrupt, RunnerError) as error:  # typed again, the same command would make another one
        resumes = f"{program()} run {lookup.typed(session.project, made.protocol)}"
        if type(error) is KeyboardInterrupt:
            raise KeyboardInterrupt(f"`{resumes}` resumes") from error
        console.fact("created", f"{resumes} resumes it", err=True)
        raise
    finally:
        _tell_changes(console, made.protocol, made.start)
        _give_id(console, made.protocol)  # it is there, however the run ended


def _tell_changes(console: Console, protocol: str, start: str) -> None:
    """Print the files that differ from the start of the protocol, with the number of lines."""
    git = console.project.git
    tip = git.resolve(console.project.branch(protocol))
    with contextlib.suppress(GitError):
        stat = record.diff(git, start, tip, "--stat", without=protocol) if tip is not None else b""
        for line in lines_of(stat.decode("utf-8", "replace")):
            console.note(f" {line}")


@click.command("fork")
@click.argument(
    "protocol", required=False, metavar="[PROTOCOL][@REVISION|@STEP]", shell_complete=options.complete_protocols
)
@click.option(
    "--title", metavar="TITLE", default="", help="The title that the id is made from; the plan keeps its own."
)
@click.option("--base", metavar="BRANCH", help="The branch to merge into. Default: the same as PROTOCOL's.")
@options.flag("--renumber", help="Give PROTOCOL another number, if another protocol with its id was published first.")
@options.offline
@click.pass_obj
def fork_command(console: Console, protocol: str | None, title: str, base: str | None, renumber: bool) -> None:
    """Create a protocol that continues from PROTOCOL at REVISION, or where STEP was completed (default: its last revision).

    Prints its id. It has its own number, branch and worktree, and the plan, code and finished steps of that revision; you can edit the
    steps that follow. PROTOCOL does not change. Approvals are not copied: each step that needs one asks again. A revision
    in the middle of a step's work is refused.

    With --renumber the fork replaces PROTOCOL: your later commits are copied, and PROTOCOL's branch is freed for the other
    protocol with that id, which `runner sync` fetches. The old history is kept under refs/runner/lost/.
    """
    name, revision = steer.at_revision(protocol)
    session = console.session
    origin = publishing.find(session, name)
    if isinstance(revision, str):
        revision = lookup.find_step(session.project, origin, revision)
    if renumber and (title or base):
        raise click.UsageError("--renumber keeps title and base")
    made = (
        fork.renumber(session, origin, revision)
        if renumber
        else fork.fork(session, origin, revision, title=title, base=base)
    )
    _end(console, made)
