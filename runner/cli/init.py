"""`runner init`."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from runner.app import init, suite, verify
from runner.app.init import File, Look, Wanted
from runner.app.suite import Candidate, Tried
from runner.cli import options
from runner.cli.console import Console
from runner.cli.streams import program
from runner.engines import EngineError
from runner.errors import RunnerError
from runner.executor import planning
from runner.forge.registry import FORGES
from runner.git import Git, repository
from runner.lines import counted, lines_of, money
from runner.protocol.paths import CLARIFICATIONS, CONFIG
from runner.store import trusted
from runner.store.environment import Clone, Environment
from runner.store.project import Session


@click.command("init")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@options.flag(
    "--commit", help="Commit exactly these files, with your edits of them. The commit is yours; hooks do not run."
)
@options.flag("--yes", help="Answer yes to every question.")
@options.flag("--ci", help="Also write scripts/ci/, and CI jobs and a request template for the forge.")
@options.flag("--prompts", help="Also write prompts for other agents, into .protocols/prompts/.")
@options.flag("--schemas", help="Also write JSON Schemas for editors, into .protocols/schemas/.")
@options.flag(
    "--update", help="Replace the files that are unchanged since init wrote them; show how the others differ."
)
@options.flag("--init-if-needed", help="Create a git repository first, if there is none.")
@click.option("--clone", "url", metavar="URL", help="Clone URL into FOLDER first, and set up the clone.")
@click.option(
    "--forge",
    metavar="NAME",
    help=f"{', '.join(FORGES)} or none, with the project's address if the remote's URL does not give it.",
)
@options.flag(
    "--discover", help="Write scripts/ci/ with commands that a model finds; you see them before they are written."
)
@options.flag("--no-try", help="Do not run the project's tests to find the command that works.")
@options.model
@click.pass_obj
def command(console: Console, /, **given: Any) -> None:
    """Write the files that a team shares into the checkout.

    These are .protocols/config.yaml, policy.yaml and .gitattributes. The first policy names you as maintainer, and
    .protocols/allowed_signers lists the key that your git signs with; you are asked first. --ci, --prompts and
    --schemas add the rest, now or later. No file that a person edited is overwritten: differences are shown.

    All other commands work without this set-up, and the files take effect once they are on the trusted branch. Your answers are
    kept in .protocols/clarifications.yaml.

    The command that runs the project's tests becomes `checks:` of config.yaml, the default check of steps. To find it,
    `init` runs the candidates in the project's files on the last commit in the sandbox, as a check would run: for ten minutes
    at most, and Ctrl-C skips this. A later `init` can add the command too, if nobody has edited config.yaml.

    CI jobs install the runner from the source in $RUNNER_PACKAGE, else from the address and commit that this runner was
    installed from. If neither is known, you are asked, and without an answer no jobs are written.
    """
    chosen = _Choices(**given)
    cwd = _checkout(console, chosen)
    with Git.open(cwd) as git:
        who = console.environment()
        author = git.person(int(who.now())) if chosen.commit else None
        clone = Clone.of(git, who)
        looked = _look(console, clone, cwd, chosen)
        if looked is None:
            console.note("nothing was written")
            return
        found, unanswered, todo = looked
        init.write(clone, found.files)
        if (remote := verify.keep_histories_apart(git)) is not None:
            console.result(
                f"set    remote.{remote}.fetch: `git fetch {remote}` also fetches the histories of protocols"
            )
        for file in found.files:
            _tell(console, file, brief=author is not None, update=chosen.update)
        for text in unanswered:
            console.note(f"open   {text}")
        if unanswered:
            console.note(f"       answer in .protocols/clarifications.yaml, or run `{program()} init` at a terminal")
        for text in todo:
            console.note(f"to do  {text}")
        made = init.commit(clone, found.files, author) if author is not None else None
        written = {file.path for file in found.files if file.is_new}
        if made is not None:
            shown = [path for path in made.paths if path not in written]
            console.note(f"committed {counted(len(made.paths), 'file')} as {made.commit[:7]}{':' if shown else ''}")
            for path in shown:
                console.note(f"  {path}{', with your edits' if path in made.edited else ''}")
            if left_out := init.hooks(git):
                console.note(f"{', '.join(left_out)} did not run: the runner does not run a repository's hooks")
                if git.resolve(f"{made.commit}^"):
                    console.note("  to run it: git reset --soft HEAD~1 && git commit -C ORIG_HEAD")
        elif author is not None:
            console.note("there is nothing to commit")
        waits = author is None and any(git.blob(f"HEAD:{file.path}") is None for file in found.files)
        if made is not None or waits or (author is None and written):
            _next(console, git, found.facts.base or "the default branch", committed=made is not None)


@dataclass(frozen=True, slots=True)
class _Choices:
    """The options. `url`: what to clone into `folder` first."""

    folder: Path | None
    commit: bool
    yes: bool
    ci: bool
    prompts: bool
    schemas: bool
    update: bool
    init_if_needed: bool
    url: str | None
    forge: str | None
    discover: bool
    no_try: bool


def _checkout(console: Console, chosen: _Choices) -> Path:
    """Return the folder to set up, cloned or made a repository if the options say so."""
    cwd = console.cwd
    if chosen.url is not None:
        cwd = init.clone(chosen.url, chosen.folder, cwd, console.environment())
        console.note(f"cloned into {cwd}")
    elif chosen.folder is not None:
        raise click.UsageError("FOLDER goes with --clone; to set another folder up, `runner -C FOLDER init`")
    if chosen.init_if_needed and repository.make(cwd):
        console.note(f"made a git repository in {cwd}")
    return cwd


def _look(console: Console, clone: Clone, cwd: Path, chosen: _Choices) -> tuple[Look, list[str], list[str]] | None:
    """Return (what to write; questions without an answer; what a person has to do beside it), after the questions; None if the person
    decided to write nothing."""
    git, silent = clone.git, dataclasses.replace(clone, env=_silent(console.environment()))
    asks = silent if chosen.yes else dataclasses.replace(clone, env=console.environment())
    wanted = Wanted(
        chosen.ci or chosen.discover, chosen.ci, chosen.prompts, chosen.schemas, chosen.forge, chosen.update
    )
    if not chosen.yes and console.is_terminal():
        known = init.look(silent, init.questions(git, silent.env), wanted)
        console.note(_facts(known))
        missing = [file.path for file in known.files if file.is_new]
        for path in missing:
            console.note(f"  {path}")
        if missing and not click.confirm(f"Write {'these' if len(missing) > 1 else 'it'}?", default=True, err=True):
            return None
    asked = init.questions(git, asks.env)
    proposed = _proposed(console, cwd, asked, chosen.yes) if chosen.discover else {}
    if chosen.no_try:
        unnamed = (
            [] if init.configuration(git).checks else [f"name the command that runs the tests: `checks:` of {CONFIG}"]
        )
        proved, lacks = None, unnamed
    else:
        proved, lacks = _proved(console, git, cwd, asked)
    wanted = dataclasses.replace(wanted, proposed=proposed, check=proved.line if proved else "")
    found = init.look(asks, asked, wanted)
    if init.TESTS in asked.left:
        lacks = []  # the question says it
    if chosen.yes or not console.is_terminal():
        console.note(_facts(found))
    if found.package:
        console.note(f"jobs   install {found.package}")
    elif wanted.ci:
        lacks.append(
            f"name in {CLARIFICATIONS} or $RUNNER_PACKAGE what CI jobs install, and run `{program()} init --ci`"
        )
    key, files, todo = init.listing(git), list(found.files), [*lacks, *([found.todo] if found.todo else [])]
    config = next(file for file in files if file.path == CONFIG)
    if proved and not config.is_new and proved.line not in init.configuration(git).checks:
        todo.append(f"write into {CONFIG}: {init.checks_line(proved.line)}")
    if key.file is not None:
        is_listed = not key.fingerprint
        if is_listed or chosen.yes or _confirms_key(console, key.fingerprint):
            files.append(key.file)
        else:
            todo.append(f"list your key {key.fingerprint} for approvals: {program()} init --yes")
    elif key.todo:
        todo.append(f"list your key for approvals: {key.todo}")
    return dataclasses.replace(found, files=files), asked.left, todo


def _proved(console: Console, git: Git, cwd: Path, asked: init.Questions) -> tuple[Tried | None, list[str]]:
    """Return the command that runs the tests of the last commit, as tried in the sandbox, and what a person has to do where there is
    none. Nothing is run where the configuration names checks, or where commands run without a sandbox."""
    commit, named = git.resolve("HEAD"), init.configuration(git).checks
    if commit is None:
        return None, [f"commit your project and run `{program()} init` again: it tries the tests on the last commit"]
    if named and not init.is_untouched(git):
        return None, []
    try:
        with Session.open(cwd, _silent(console.environment()), console.options) as session:
            if session.project.setting("executor") == "host" or (named and not suite.failed(session.project, named[0])):
                return None, []
            answer = asked.answers().get(init.TESTS)
            found = suite.candidates(git, commit, [answer] if answer else ())
            if not found and console.is_terminal() and (answer := asked.ask(init.TESTS)):
                found = [Candidate(answer, "your answer")]
            at, ended = commit[:7], list[Tried]()
            known = suite.noted(session.project, commit)
            if known is not None and known.passed and known.line in [one.line for one in found]:
                ended.append(known)
            elif found:
                _try(console, session, commit, found, ended)
            best = suite.best(ended)
            if best is not None:
                suite.note(session.project, commit, best)
                where = f" on {at}{'' if best.passed else ', before any change'}"
                console.note(f"checks {best.line} · {best.text(where)}")
                return best, [f"install what is missing and run `{program()} init` again"] if best.cause else []
    except RunnerError as error:
        return None, [f"name the command that runs the tests as `checks:` of {CONFIG}; none was tried: {error.what}"]
    for one in ended:
        console.note(f"no check: `{one.line}` ({one.source}): {one.text()}")
    if not found:
        return None, [f"no command that runs tests was found: name it as `checks:` of {CONFIG}"]
    return None, [
        f"make one of these commands work and run `{program()} init` again, or name one as `checks:` of {CONFIG}"
    ]


def _try(console: Console, session: Session, commit: str, found: list[Candidate], ended: list[Tried]) -> None:
    """Try the candidates, at a terminal until the person types Ctrl-C."""
    now = [""]

    def starts(one: Candidate) -> None:
        now[0] = one.line
        if not console.shows_progress():
            console.note(f"trying `{one.line}` ({one.source}) in the sandbox")

    def skip(number: int, frame: object) -> None:
        raise _Skipped

    before = signal.getsignal(signal.SIGINT)
    try:
        if before != signal.SIG_IGN:  # as in a job in the background
            signal.signal(signal.SIGINT, skip)
        with console.waiting("trying the tests in the sandbox (Ctrl-C skips)", lambda: now[0]):
            for one in suite.tried(session, commit, found, starts):
                ended.append(one)
    except _Skipped:
        console.note("skipped: no more commands are tried")
    finally:
        signal.signal(signal.SIGINT, before)


class _Skipped(KeyboardInterrupt):
    """The person wants no more tries. Whatever tidies up after Ctrl-C tidies up after this."""


def _confirms_key(console: Console, fingerprint: str) -> bool:
    return console.is_terminal() and click.confirm(
        f"List your key {fingerprint} for approvals?", default=True, err=True
    )


def _next(console: Console, git: Git, base: str, *, committed: bool) -> None:
    """Print what makes the files take effect."""
    remote, branch = trusted.remote_name(git), git.symbolic_ref("HEAD", git.git_dir) or "HEAD"
    steps = [] if committed else [f"{program()} init --commit"]
    steps += [f"git push {remote} {branch.removeprefix('refs/heads/')}"] if remote else []
    lacks = _lacks_model(console, git) if committed else ""
    if lacks:
        console.note(f"no model can write plans yet: {lacks}")
    if steps:
        console.note(f"the files take effect once they are on {base}{f' of {remote}' if remote else ''}")
    steps += [f"{program()} new {'--manual ' if lacks else ''}TITLE"] if not steps else []
    console.fact("next", ", then ".join(steps), err=True)


def _lacks_model(console: Console, git: Git) -> str:
    """Return what a model lacks to write a plan; empty where that is nothing, or the configuration cannot be read yet."""
    try:
        with Session.open(git.top or git.cwd, console.environment(), console.options) as session:
            planning.need_model(session.project)
    except EngineError as error:
        return error.hint
    except RunnerError:
        return ""
    return ""


def _proposed(console: Console, cwd: Path, asked: init.Questions, yes: bool) -> dict[str, bytes]:
    """Return the scripts that a model proposes and the person accepts, having seen those that would be new.

    Raises:
        SystemExit: there is no terminal; the model's answer is kept for the same command with --yes.
    """

    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session.open(cwd, console.environment(), console.options))
        with console.waiting("a model reads the repository"):
            proposal = stack.enter_context(init.propose(session, asked))
        new = [file for file in proposal.files if file.here is None]
        cost = f" · {money(proposal.usd)}" if proposal.usd else ""
        console.note(f"{proposal.engine} proposes {len(new) or 'no'} new script{'s' if len(new) != 1 else ''}{cost}")
        for file in new:
            console.result(f"--- /dev/null\n+++ {file.path}")
            for line in lines_of(file.data.decode()):
                console.line(f"+{line}", verbatim=True)
        said = "yes" if yes or not new else console.ask("use them?", ("yes", "no"))
        if said is None:
            console.note("nothing was written; `--yes` uses these scripts without asking a model again")
            raise SystemExit(0)
        if said == "no":
            asked.drop(proposal.questions)
            return {}
        return proposal.taken()


def _facts(found: Look) -> str:
    """Return the facts."""
    place = f"{found.forge.kind.name} ({found.forge.host}/{found.forge.path})" if found.forge else None
    named = (("base", found.facts.base), ("remote", found.facts.remote), ("forge", place), ("stack", found.stack))
    return " · ".join(f"{name} {value or 'none'}" for name, value in named)


def _silent(env: Environment) -> Environment:
    return env._replace(ask=lambda question, choices: None, ask_text=lambda question: None)


def _tell(console: Console, file: File, *, brief: bool, update: bool) -> None:
    """Print what became of a file; nothing of one that is as it should be, if `brief`."""
    differs = file.here is not None and not file.own and _bare(file.here) != _bare(file.data)
    if file.is_new:
        console.result(f"wrote  {file.path}")
    elif not differs:
        if not brief:
            console.result(f"kept   {file.path}")
    else:
        console.result(f"kept   {file.path}, which differs from what `runner init` would write:")
    if differs and (update or not file.is_new):
        old, new = (lines_of(data.decode("utf-8", "replace")) for data in (file.here or b"", file.data))
        known = {_bare(line.encode()): line for line in old}
        new = [known.get(_bare(line.encode()), line) for line in new]
        for line in difflib.unified_diff(old, new, file.path, f"as `{program()} init` would write it", lineterm=""):
            console.note(line)


def _bare(data: bytes) -> bytes:
    """Return the bytes of a file without quotes, which people write as they like."""
    return data.translate(None, b"\"'")
