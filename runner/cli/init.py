"""`runner init`."""

from __future__ import annotations

from pathlib import Path

import click

from runner.app import cloning, histories, init
from runner.app.init import File, Look
from runner.cli import options
from runner.cli.session import Session
from runner.forge.registry import FORGES
from runner.git import Git
from runner.lines import lines_of
from runner.store import trusted
from runner.store.environment import Environment, StateDir, writable_state_home
from runner.store.project import Project


@click.command("init")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--commit", is_flag=True, help="Commit exactly these files, with your edits of them. The commit is yours."
)
@click.option("--yes", is_flag=True, help="Answer yes to every question.")
@click.option("--init-if-needed", is_flag=True, help="Create a git repository first, if there is none.")
@click.option("--clone", "url", metavar="URL", help="Clone URL into FOLDER first, and set up the clone.")
@click.option(
    "--forge", metavar="NAME", help=f"{', '.join(FORGES)} or none, with an address if the remote does not have it."
)
@click.option(
    "--discover",
    is_flag=True,
    help="Let a model find the commands for scripts/ci/; you see them before they are written.",
)
@options.model
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
    """Write the files that a team shares into the checkout.

    These are .protocols/config.yaml, policy.yaml and .gitattributes; scripts/ci/ for the stack that it detects; CI jobs and
    a request template for the forge of the remote; and prompts for other agents in .protocols/prompts/.

    The first policy names you as maintainer, and .protocols/allowed_signers lists the key that your git signs with; you are
    asked first. Existing files are never overwritten: differences are shown. All other commands work without this set-up,
    and the files take effect once they are on the trusted branch. Your answers are kept in .protocols/clarifications.yaml.
    """
    cwd = session.cwd
    if url is not None:
        cwd = cloning.clone(url, folder, cwd, session.environment())
        session.note(f"cloned into {cwd}")
    elif folder is not None:
        raise click.UsageError("FOLDER goes with --clone; to set another folder up, `runner -C FOLDER init`")
    if init_if_needed and cloning.init_if_needed(cwd):
        session.note(f"made a git repository in {cwd}")
    with Git.open(cwd) as git:
        who = session.environment()
        author = git.person(int(who.now())) if commit else None
        here = _silent(who) if yes else who
        asked = init.questions(git, here)
        proposed = _proposed(session, cwd, asked, yes) if discover else None
        found = init.look(git, here, asked, forge=forge, proposed=proposed)
        files = found.files
        session.note(_facts(found))
        missing = [file for file in files if file.is_new]
        if missing and not yes and session.is_terminal():
            for file in missing:
                session.note(f"  {file.path}")
            if not click.confirm(f"Write {'these' if len(missing) > 1 else 'it'}?", default=True, err=True):
                session.note("nothing was written")
                return
        key, todo = init.listing(git), ""
        if key.file is not None and not key.fingerprint:
            files.append(key.file)
        elif key.file is not None:
            if yes or (
                session.is_terminal()
                and click.confirm(f"List your key {key.fingerprint} for approvals?", default=True, err=True)
            ):
                files.append(key.file)
                missing.append(key.file)
            else:
                todo = "`runner init --yes` lists it"
        dirs = StateDir(git.common_dir, writable_state_home(who.state_home))
        init.write(git, dirs, files)
        if (remote := histories.keep_apart(git)) is not None:
            session.result(
                f"set    remote.{remote}.fetch: `git fetch {remote}` brings what others filed beside yours, too"
            )
        for file in files:
            _tell(session, file)
        for text in asked.left:
            session.note(f"open   {text}")
        if asked.left:
            session.note("       answer in .protocols/clarifications.yaml, or run `runner init` at a terminal")
        if found.todo:
            session.note(found.todo)
        if todo or key.todo:
            which = f"your key {key.fingerprint}" if key.fingerprint else "no key of yours"
            session.note(f"{which} {'is not' if key.fingerprint else 'is'} listed for approvals: {todo or key.todo}")
        remote, branch = trusted.remote_name(git), git.symbolic_ref("HEAD", git.git_dir) or "HEAD"
        push = f"git push {remote} {branch.removeprefix('refs/heads/')}" if remote else ""
        if author is None:
            if missing:
                session.note("  next          commit them: runner init --commit" + (f", then {push}" if push else ""))
                session.note(f"                they have force once they are on the trusted branch{of_remote(remote)}")
            return
        made = init.commit(git, dirs, who, files, author)
        session.note(f"committed as {made.commit[:12]}:" if made else "there is nothing to commit")
        for path in made.paths if made else ():
            session.note(f"  {path}{', as you edited it' if made and path in made.edited else ''}")
        if made and push:
            session.note(
                f"  next          {push}: they have force once they are on the trusted branch{of_remote(remote)}"
            )


def _proposed(session: Session, cwd: Path, asked: init.Questions, yes: bool) -> dict[str, bytes]:
    """Return the scripts that a model proposes and the person takes, having seen those that would be new.

    Raises:
        SystemExit: nobody is there; what the model said is kept for the same command with --yes.
    """
    import contextlib

    with contextlib.ExitStack() as stack:
        project = stack.enter_context(Project.open(cwd, session.environment(), session.options))
        with session.waiting("a model reads the repository"):
            proposal = stack.enter_context(init.propose(project, asked))
        new = [file for file in proposal.files if file.here is None]
        cost = f" · ${proposal.usd}" if proposal.usd else ""
        session.note(f"{proposal.engine} proposes {len(new) or 'no'} new script{'s' if len(new) != 1 else ''}{cost}")
        for file in new:
            session.result(f"--- /dev/null\n+++ {file.path}")
            for line in lines_of(file.data.decode()):
                session.result(f"+{line}")
        said = "yes" if yes or not new else session.ask("take them?", ("yes", "no"))
        if said is None:
            session.note("nothing was written; the same command with --yes takes them, and asks no model again")
            raise SystemExit(0)
        if said == "no":
            asked.drop(proposal.questions)
            return {}
        return proposal.taken()


def _facts(found: Look) -> str:
    """Return the facts."""
    place = f"{found.forge.kind.name} ({found.forge.host}/{found.forge.path})" if found.forge else "none known"
    told = (("base", found.facts.base), ("remote", found.facts.remote), ("forge", place), ("stack", found.stack))
    return " · ".join(f"{name} {value or 'none'}" for name, value in told)


def _silent(who: Environment) -> Environment:
    import dataclasses

    return dataclasses.replace(who, ask=lambda question, choices: None, ask_text=lambda question: None)


def of_remote(remote: str | None) -> str:
    """Return where the trusted branch is, after its name."""
    return f", the default branch of {remote}" if remote else ""


def _tell(session: Session, file: File) -> None:
    if file.is_new:
        session.result(f"wrote  {file.path}")
    elif file.own or file.here == file.data:
        session.result(f"there  {file.path}")
    else:
        import difflib

        session.result(f"left   {file.path}, which differs from what would be written:")
        old, new = (lines_of(data.decode("utf-8", "replace")) for data in (file.here or b"", file.data))
        for line in difflib.unified_diff(old, new, file.path, "as it would be written", lineterm=""):
            session.note(line)
