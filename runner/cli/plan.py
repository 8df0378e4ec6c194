"""`runner plan` and `runner edit`: a model, or a person, writes plan files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import click

from runner.app import create, describe, plan, request
from runner.app.plan import Proposal
from runner.cli import log, options, steer, streams
from runner.cli.console import Console
from runner.cli.streams import program
from runner.errors import RunnerError, UsageError
from runner.executor import load
from runner.protocol import strict_yaml
from runner.store import lookup, record

YES, EDIT, DROP = "yes", "edit", "drop"
Made = TypeVar("Made")


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
        cost = f" · {price}" if (price := describe.price(describe.together([proposal.spent]))) else ""
        console.note(f"{name}  replanned, committed as yours: {commit[:7]}{cost}")
        request.post_published(session, name)


def _show(console: Console, proposal: Proposal, files: Mapping[str, bytes]) -> None:
    tree = plan.tree_of(console.project.git, proposal.seen, files)
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
            console.note("the edited plan has no changes: nothing was changed")
            return None
        _show(console, proposal, files)


def edited_files(console: Console, files: Mapping[str, bytes], changed: Sequence[str]) -> Mapping[str, bytes]:
    """Let the person edit those files of a plan, until all make one; return all."""
    with tempfile.TemporaryDirectory(prefix="runner-plan-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for name in changed:
            if name in files:
                (folder / name).write_bytes(files[name])

        def made() -> Mapping[str, bytes]:
            kept = {name: data for name, data in files.items() if name not in changed}
            all_ = kept | create.read_folder(folder, Path("."))
            plan.check(all_)
            return all_

        return _edited(console, folder, "nothing was changed; run the same command again", made)


def _edited(console: Console, folder: Path, hint: str, made: Callable[[], Made]) -> Made:
    """Have the person edit the files of a folder until `made` takes them, or they give up. `hint`: where the editor fails."""
    while True:
        _edit(console, sorted(folder.glob("*.md")), hint)
        try:
            return made()
        except RunnerError as error:
            if not console.is_terminal():
                raise
            streams.say(f"error: {error}")
            if not click.confirm("edit it again?", default=True, err=True):
                raise


@click.command("edit")
@options.words("[PROTOCOL] [STEP]")
@click.option("--add", "added", metavar="TITLE", help="Add a step, after the one of --after, or at the end.")
@options.a_step("--move", "moved", help="Move a step after the one of --after.")
@options.a_step("--remove", "removed", help="Remove a step.")
@options.a_step("--after", help="Add or move after this step; `plan` is before the first one.")
@click.option(
    "--kind", type=click.Choice(["agent", "command", "human"]), help="The kind of the added step. Default: agent."
)
@click.option("--run", metavar="LINE", help="The command of the added step.")
@options.offline
@click.pass_obj
def edit_command(console: Console, /, words: tuple[str, ...], **change: str | None) -> None:
    """Edit plan.md of PROTOCOL, the file of STEP, or `context`, in your editor; the commit is yours.

    With --add, --move or --remove, no editor opens, and later steps are renumbered if necessary. The file is validated before
    it is committed. No other file of your checkout changes.
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

    def checked() -> bytes | None:
        if not path.is_file() or (data := path.read_bytes()) == draft.data:
            return None
        plan.check_draft(console.session, draft, data)
        return data

    try:
        data = _edited(console, folder, "nothing was committed; run the same command again", checked)
        made = plan.commit_draft(console.session, draft, data) if data is not None else None
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
    notes = ("this step is finished: the edit is recorded, and nothing is done again",) if draft.finished else ()
    steer.tell(console, plan.committed(console.session, draft.protocol, made, draft.name, notes))


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
    left = plan.left_work(console.session, name)
    undo = f"`{program()} undo {lookup.typed(console.project, name)}"
    notes = tuple(f"the work of {slug} is still on the branch; {undo} {slug}` reverts it" for slug in left)
    steer.tell(console, plan.committed(console.session, name, commit, f"{said},", notes))


@click.command("skip")
@options.words("[PROTOCOL] STEP", required=True)
@options.offline
@click.pass_obj
def skip_command(console: Console, words: tuple[str, ...]) -> None:
    """Remove STEP from the plan of PROTOCOL, if it is not done; the steps after it still run. The commit is yours."""
    name, rest = steer.named(console, words)
    console.means(name)
    if len(rest) != 1:
        raise click.UsageError("name one step: runner skip PROTOCOL STEP")
    commit, slug = plan.remove_step(console.session, name, rest[0], "skip")
    _tell_step(console, name, commit, f"{slug} skipped")


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
