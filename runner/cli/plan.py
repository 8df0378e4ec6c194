"""`runner plan` and `runner edit`: a model, or a person, writes plan files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from runner.app import create, describe, plan, request, sync
from runner.app.plan import Draft, Proposal
from runner.app.steer import number
from runner.cli import log, options, steer, streams
from runner.cli.console import Console
from runner.cli.streams import program
from runner.errors import RunnerError, UsageError
from runner.executor import load
from runner.protocol import strict_yaml
from runner.store import record

YES, EDIT, DROP = "yes", "edit", "drop"


@click.command("plan")
@options.protocol
@click.option("-m", "--message", "wish", metavar="TEXT", default="", help="What to change in the plan.")
@options.a_step("--split", help="Only split STEP, which has not started, into smaller steps.")
@options.flag("-y", "--yes", help="Accept the proposal.")
@options.flag("--no-questions", help="The model decides open questions itself.")
@options.work
@click.pass_obj
def command(
    console: Console, protocol: str | None, wish: str, split: str | None, yes: bool, no_questions: bool
) -> None:
    """Let a model plan the pending steps of PROTOCOL again, and show the changes that it proposes.

    At a terminal you accept the proposal, edit it in your editor first, or discard it; without a terminal, --yes accepts it.
    The commit is yours.
    """
    session = console.session
    name = console.means(load.find_protocol(session, protocol))
    wish = strict_yaml.decode(wish.encode("utf-8", "surrogateescape"), "TEXT").strip()
    with contextlib.ExitStack() as stack:
        with console.waiting(f"a model splits {split}" if split else "a model plans the pending steps"):
            made = plan.propose(session, name, wish, questions=not no_questions, split=split)
            proposal = stack.enter_context(made)
        if not proposal.changed(proposal.files):
            console.note(f"{name}  the steps stay as they are")
            return
        _show(console, proposal, proposal.files)
        chosen = proposal.files if yes else _chosen(console, proposal)
        if chosen is None:
            return
        commit = plan.take(session, proposal, chosen)
        cost = f" · {describe.money(proposal.usd)}" if proposal.usd else ""
        console.note(f"{name}  replanned, committed as yours: {commit[:7]}{cost}")
        request.post_published(session, name)


def _show(console: Console, proposal: Proposal, files: Mapping[str, bytes]) -> None:
    tree = plan.tree_of(console.project, proposal, files)
    log.show_diff(console, record.diff(console.project.git, proposal.seen.tree, tree))


def _chosen(console: Console, proposal: Proposal) -> Mapping[str, bytes] | None:
    """Return what the person at the terminal takes; None where they drop it.

    Raises:
        SystemExit: nobody is there; what the model said is kept for the same command with --yes.
    """
    files: Mapping[str, bytes] = proposal.files
    while True:
        said = console.ask("use it?", (YES, EDIT, DROP))
        if said is None:
            console.note("nothing was changed; `--yes` uses it without asking a model again")
            raise SystemExit(0)
        if said == YES:
            return files
        if said == DROP:
            console.note("dropped: nothing was changed")
            return None
        files = edited_files(console, files, proposal.changed(files))
        if not proposal.changed(files):
            console.note("nothing is left of it: nothing was changed")
            return None
        _show(console, proposal, files)


def edited_files(console: Console, files: Mapping[str, bytes], changed: Sequence[str]) -> Mapping[str, bytes]:
    """Let the person edit those files of a plan, until all make one; return all."""
    folder = Path(tempfile.mkdtemp(prefix="runner-plan-"))
    for name in changed:
        if name in files:
            (folder / name).write_bytes(files[name])
    try:
        while True:
            _edit(console, sorted(folder.iterdir()), "nothing was changed; run the same command again")
            made = {name: data for name, data in files.items() if name not in changed} | create.read_folder(
                folder, Path(".")
            )
            try:
                plan.check(made)
            except RunnerError as error:
                streams.say(f"error: {error}")
                if not click.confirm("edit it again?", default=True, err=True):
                    raise
                continue
            return made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@click.command("edit")
@options.words("[PROTOCOL] [STEP]")
@click.option("--add", "added", metavar="TITLE", help="Add a step instead, after --after, or as the last.")
@options.a_step("--move", "moved", help="Move a step behind the one of --after.")
@options.a_step("--remove", "removed", help="Remove a step.")
@options.a_step("--after", help="Where a step is added or moved to; `plan` is before the first.")
@click.option(
    "--kind", type=click.Choice(["agent", "command", "human"]), help="Of a step that is added. Default: agent."
)
@click.option("--run", metavar="LINE", help="The command of a step that is added.")
@options.offline
@click.pass_obj
def edit_command(console: Console, /, words: tuple[str, ...], **change: str | None) -> None:
    """Edit plan.md of PROTOCOL, the file of STEP, or `context`, in your editor; the commit is yours.

    With --add, --move or --remove no editor is opened: steps that follow get new numbers where that is necessary. The file
    is validated before it is committed. No other file of your checkout changes.
    """
    name, rest = steer.named(console, words)
    console.means(name)
    if any(value is not None for value in change.values()):
        if rest:
            raise click.UsageError("name one step: runner edit PROTOCOL --move STEP --after STEP")
        _tell_step(console, name, *_changed(console, name, **change))
        return
    if len(rest) > 1:
        raise click.UsageError("name one step: runner edit PROTOCOL [STEP]")
    draft = plan.draft(console.session, name, rest[0] if rest else None)
    folder = Path(tempfile.mkdtemp(prefix="runner-edit-"))
    path = folder / draft.name
    path.write_bytes(draft.data)
    try:
        made = _after_editing(console, draft, path)
    except BaseException:
        if path.is_file() and path.read_bytes() != draft.data:
            console.note(f"your draft is kept at {path}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    if made is None:
        console.note(f"{draft.protocol}  {draft.name}: nothing changed")
        return
    console.note(f"{draft.protocol}  {draft.name} committed as yours: {made[:7]}")
    if draft.finished:
        console.note("  this step is finished: the edit is recorded, and nothing is done again")
    sync.offer(console.session, draft.protocol)
    request.post_published(console.session, draft.protocol)


def _changed(
    console: Console,
    name: str,
    *,
    added: str | None,
    moved: str | None,
    removed: str | None,
    after: str | None,
    **given: str | None,
) -> tuple[str, str]:
    """Change the steps as the options say; return (the person's commit, what became of which)."""
    if [added, moved, removed].count(None) != 2:
        raise click.UsageError("give one of --add, --move and --remove")
    if (given["kind"] or given["run"]) and added is None:
        raise click.UsageError("--kind and --run go with --add")
    if added is not None:
        commit, file = plan.add_step(console.session, name, added, after, kind=given["kind"], run=given["run"] or "")
        return commit, f"added {file}"
    if moved is not None:
        if after is None:
            raise click.UsageError("--move goes with --after STEP")
        commit, file = plan.move_step(console.session, name, moved, after)
        return commit, f"moved to {file}"
    if after is not None:
        raise click.UsageError("--after goes with --add and --move")
    commit, slug = plan.remove_step(console.session, name, str(removed))
    return commit, f"removed {slug}"


def _tell_step(console: Console, name: str, commit: str, said: str) -> None:
    console.note(f"{name}  {said}, committed as yours: {commit[:7]}")
    for slug in plan.left_work(console.session, name):
        undoes = f"{program()} undo {number(name)} {slug}"
        console.note(f"  the work of {slug} is still on the branch; `{undoes}` takes it back")
    sync.offer(console.session, name)
    request.post_published(console.session, name)


@click.command("skip")
@options.words("[PROTOCOL] STEP", required=True)
@options.offline
@click.pass_obj
def skip_command(console: Console, words: tuple[str, ...]) -> None:
    """Take STEP, which is not done, out of the plan of PROTOCOL; what follows runs without it. The commit is yours."""
    name, rest = steer.named(console, words)
    console.means(name)
    if len(rest) != 1:
        raise click.UsageError("name one step: runner skip PROTOCOL STEP")
    commit, slug = plan.remove_step(console.session, name, rest[0], "skip")
    _tell_step(console, name, commit, f"{slug} skipped")


def _after_editing(console: Console, draft: Draft, path: Path) -> str | None:
    """Let the person edit until the file is valid or they give up; return the commit, or None where nothing changed."""
    while True:
        _edit(console, [path], "nothing was committed; run the same command again")
        if not path.is_file() or (data := path.read_bytes()) == draft.data:
            return None
        try:
            plan.check_draft(console.session, draft, data)
        except RunnerError as error:
            if not console.is_terminal():
                raise
            streams.say(f"error: {error}")
            if not click.confirm("edit it again?", default=True, err=True):
                raise
            continue
        return plan.commit_draft(console.session, draft, data)


def _edit(console: Console, files: Sequence[Path], hint: str) -> None:
    """Open files in the person's editor. `hint`: of the error where it ends with one."""
    line = editor(console)
    argv = ["sh", "-c", f'{line} "$@"', line, *map(str, files)]
    if code := subprocess.run(argv, check=False, stdout=streams.for_child()).returncode:
        raise UsageError(f"the editor ended with {code}", line, hint)


def editor(console: Console) -> str:
    """Return the person's editor, found as git finds it, but never in the repository's own configuration.

    Raises:
        UsageError: none is set, and there is no terminal for the default one.
    """
    environ = console.environ
    code, out, _ = console.project.git.personal("config", "--get", "core.editor")
    configured = os.fsdecode(out).rstrip("\n") if code == 0 else ""
    found = environ.get("GIT_EDITOR") or configured or environ.get("VISUAL") or environ.get("EDITOR")
    if found:
        return found
    if not console.is_terminal():
        raise UsageError("no editor is set", "$VISUAL, $EDITOR", "set one, such as EDITOR=nano")
    return "vi"
