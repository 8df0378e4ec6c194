"""`runner init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.session import Session

if TYPE_CHECKING:
    from runner.app.init import File


@click.command("init", short_help="Write what a team shares: .protocols/config.yaml.")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--commit", is_flag=True, help="Commit exactly those files, as you.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--init-if-needed", is_flag=True, help="Make a git repository first, where there is none.")
@click.option("--clone", "url", metavar="URL", help="Clone URL into FOLDER first, and set that up.")
@click.option("--forge", metavar="NAME", hidden=True)
@click.option("--discover", is_flag=True, hidden=True)
@click.pass_obj
def command(
    session: Session,
    folder: Path | None,
    commit: bool,
    yes: bool,
    init_if_needed: bool,
    url: str | None,
    forge: str | None,
    discover: bool,
) -> None:
    """Write .protocols/config.yaml and .protocols/.gitattributes into the checkout.

    What is there already is never overwritten: where it differs, the difference is shown. Nothing needs to be set up
    for the other commands to work.
    """
    from runner.app import init
    from runner.errors import UnsupportedError
    from runner.git import Git
    from runner.store.places import Places, writable_state_home

    for name, given in (("--forge", forge), ("--discover", discover)):
        if given:
            raise UnsupportedError(f"`{name}` is not supported by this version", "runner init", "leave it out")
    cwd = session.cwd
    if url is not None:
        cwd = init.clone(url, folder, cwd, session.note)
        session.note(f"cloned into {cwd}")
    elif folder is not None:
        raise click.UsageError("FOLDER goes with --clone; to set another folder up, `runner -C FOLDER init`")
    if init_if_needed and init.begin_if_needed(cwd):
        session.note(f"made a git repository in {cwd}")
    with Git.open(cwd) as git:
        who = session.surroundings()
        author = git.person(int(who.now())) if commit else None
        files = init.look(git)
        missing = [file for file in files if file.here is None]
        if missing and not yes and session.is_terminal():
            names = " and ".join(file.path for file in missing)
            if not click.confirm(f"Write {names}?", default=True, err=True):
                session.note("nothing was written")
                return
        init.write(git, files)
        for file in files:
            _tell(session, file)
        if author is None:
            if missing:
                session.note("  next          commit them (`runner init --commit`); the trusted branch's are used")
            return
        made = init.commit(git, Places(git.common_dir, writable_state_home(who.state_home)), who, files, author)
        session.note(f"committed as {made[:12]}" if made else "there is nothing to commit")


def _tell(session: Session, file: File) -> None:
    if file.here is None:
        session.result(f"wrote  {file.path}")
    elif file.here == file.data:
        session.result(f"there  {file.path}")
    else:
        import difflib

        session.result(f"left   {file.path}, which differs from what would be written:")
        old, new = (data.decode("utf-8", "replace").splitlines() for data in (file.here, file.data))
        for line in difflib.unified_diff(old, new, file.path, "as it would be written", lineterm=""):
            session.note(line)
