"""`runner edit`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from runner.app import edit, request, sync
from runner.app.edit import Draft
from runner.cli import options, steer, streams
from runner.cli.session import Session
from runner.errors import RunnerError, UsageError


@click.command("edit")
@click.argument("words", nargs=-1, metavar="[PROTOCOL] [STEP]")
@options.offline
@click.pass_obj
def command(session: Session, words: tuple[str, ...]) -> None:
    """Edit plan.md of PROTOCOL, the file of STEP, or `context`, in your editor; the commit is yours.

    The file is validated before it is committed. No other file of your checkout changes.
    """
    name, rest = steer.named(session, words)
    if len(rest) > 1:
        raise click.UsageError("name one step: runner edit PROTOCOL [STEP]")
    draft = edit.draft(session.project, name, rest[0] if rest else None)
    folder = Path(tempfile.mkdtemp(prefix="runner-edit-"))
    path = folder / draft.name
    path.write_bytes(draft.data)
    try:
        made = _edited(session, draft, path)
    except BaseException:
        if path.is_file() and path.read_bytes() != draft.data:
            session.note(f"your draft is kept at {path}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    if made is None:
        session.note(f"{draft.protocol}  {draft.name}: nothing changed")
        return
    session.note(f"{draft.protocol}  {draft.name} committed as yours: {made[:7]}")
    if draft.finished:
        session.note("  this step is finished: the edit is recorded, and nothing is done again")
    sync.offer(session.project, draft.protocol, by_person=True)
    request.post_published(session.project, draft.protocol)


def _edited(session: Session, draft: Draft, path: Path) -> str | None:
    """Let the person edit until the file is valid or they give up; return the commit, or None where nothing changed."""
    while True:
        line = editor(session)
        code = subprocess.run(["sh", "-c", f'{line} "$@"', line, str(path)], check=False).returncode
        if code:
            raise UsageError(f"the editor ended with {code}", line, "nothing was committed; run the same command again")
        if not path.is_file() or (data := path.read_bytes()) == draft.data:
            return None
        try:
            edit.check(session.project, draft, data)
        except RunnerError as error:
            if not session.is_terminal():
                raise
            streams.say(f"error: {error}")
            if not click.confirm("edit it again?", default=True, err=True):
                raise
            continue
        return edit.commit(session.project, draft, data)


def editor(session: Session) -> str:
    """Return the person's editor, found as git finds it, but never in the repository's own configuration.

    Raises:
        UsageError: none is set, and there is no terminal for the default one.
    """
    environ = session.environ
    code, out, _ = session.project.git.personal("config", "--get", "core.editor")
    configured = os.fsdecode(out).rstrip("\n") if code == 0 else ""
    found = environ.get("GIT_EDITOR") or configured or environ.get("VISUAL") or environ.get("EDITOR")
    if found:
        return found
    if not session.is_terminal():
        raise UsageError("no editor is set", "$VISUAL, $EDITOR", "set one, such as EDITOR=nano")
    return "vi"
