"""`runner check` and `runner policy`: files and the policy, before they are used. `runner qa` and `runner shell`: work, by hand.

Nothing of it is recorded.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from runner.app import by_hand, check, describe
from runner.app.by_hand import Judged
from runner.app.check import Effects
from runner.cli import options, progress, show, streams
from runner.cli.console import Console
from runner.errors import ExitCode, MalformedFileError, UsageError
from runner.executor import load
from runner.lines import LAST, WIDTH, counted, lines_of, lines_of_output
from runner.protocol import paths
from runner.protocol.config import Config
from runner.protocol.ids import digest
from runner.protocol.policy_file import Effect, Isolation, PolicyFile
from runner.sandbox import terminal
from runner.store import lookup
from runner.trust import policy
from runner.trust.policy import Subject

COLOURS = {"allow": "green", "ask": "yellow", "deny": "red"}
CODES = {"allow": ExitCode.DONE, "ask": ExitCode.WAITS, "deny": ExitCode.REFUSED}


@dataclass(frozen=True, slots=True)
class _Question:
    """The options of `policy check` that say what the policy is asked about."""

    tool: str | None
    given: tuple[str, ...]
    effect: Effect | None
    run: str | None
    paths: tuple[str, ...]
    engine: str | None
    isolation: Isolation | None
    step: str | None
    untrusted: bool

    def refuse_unclear(self) -> None:
        """Refuse options that name nothing, or two things.

        Raises:
            UsageError: saying which options go together.
        """
        kinds = (self.tool, self.run, self.isolation)
        if sum(one is not None for one in kinds) > 1 or not (any(kinds) or self.paths or self.engine or self.step):
            raise UsageError(
                "one of --tool, --command, --path, --engine, --isolation and --step is needed",
                "runner policy check",
                "such as `runner policy check --tool write_file --args path=src/app.py`",
            )
        if (self.given or self.effect) and self.tool is None:
            raise UsageError("--args and --effect go with --tool", "runner policy check", "name the tool")

    def subject(self, console: Console) -> Subject:
        """Return the subject that the policy evaluates."""
        if self.tool is not None:
            found = self._call(console, self.tool)
        else:
            found = check.subject_of(self.run, self.paths, self.isolation, self.engine)
        return found._replace(step=self.step, untrusted=self.untrusted)

    def _call(self, console: Console, tool: str) -> Subject:
        effects = _effects(console)
        found = check.call_subject(tool, check.arguments(self.given), effects, self.effect)._replace(engine=self.engine)
        found = found._replace(paths=self.paths) if self.paths else _followed(console, found)
        if self.effect is None and tool not in effects:
            console.note(f"{tool} is not a known tool: treated as external, unless --effect says otherwise")
        return found


live = click.option("--live", is_flag=True, help="Fetch the trusted branch from the remote first.")
from_file = click.option(
    "-f", "--file", type=click.Path(path_type=Path), help="Use this file instead of the policy on the trusted branch."
)


@click.group("policy", no_args_is_help=False)
def policy_command() -> None:
    """Ask the policy for a decision, or test its examples. Changes nothing."""


@policy_command.command("check", short_help="Ask for a decision, and the rule behind it.")
@click.option("--tool", help="A call to this tool.")
@click.option(
    "--args",
    "given",
    multiple=True,
    metavar="JSON|NAME=VALUE",
    help="An argument of the call, or all as JSON; repeatable.",
)
@click.option(
    "--effect",
    type=click.Choice(["read", "workspace", "external"]),
    help="The effect of the call, if the tool is neither built in nor in config.yaml. On the host, `run` and `shell` are external.",
)
@click.option("--command", "run", metavar="LINE", help="The line of a command step.")
@click.option("--path", "paths", multiple=True, help="A step's change to this file; with --tool, a resolved path.")
@click.option("--engine", help="The use of this engine; with --tool, the engine that makes the call.")
@click.option("--isolation", type=click.Choice(["host", "container", "sandbox"]), help="The place where commands run.")
@click.option("--step", help="The start of this step; with another option, the step in which it happens.")
@options.flag("--untrusted", help="The context contains untrusted text.")
@live
@from_file
@options.as_json
@click.pass_obj
def policy_check(console: Console, /, live: bool, file: Path | None, as_json: bool, **asked: Any) -> None:
    """Print the decision and the rule behind it.

    Exit 0: allowed; 3: it would wait for an approval; 4: denied.
    """
    question = _Question(**asked)
    question.refuse_unclear()
    _look(console, "check", live=live, file=file)
    subject = question.subject(console)
    ready = policy.compiled(_policy(console, file))
    said = policy.evaluate(ready, subject)
    where, why, needs = said.where or None, said.reason or None, check.origin_of(ready, subject, said) or None
    if as_json:
        console.json({"verdict": said.verdict, "rule": said.rule, "at": where, "why": why, "needs": needs})
        raise SystemExit(CODES[said.verdict])
    console.line((said.verdict, COLOURS[said.verdict]), f"  {said.rule}")
    for name, text in (("at", where), ("why", why), ("from", needs)):
        if text:
            console.result(f"  {name.ljust(5)}{text}")
    raise SystemExit(CODES[said.verdict])


@policy_command.command("test", short_help="Test the examples of the policy.")
@live
@from_file
@options.as_json
@click.pass_obj
def policy_test(console: Console, live: bool, file: Path | None, as_json: bool) -> None:
    """Test the policy's `examples`, and point out rules that match less than they seem to. Exit 1: an example failed."""
    _look(console, "test", live=live, file=file)
    found = _policy(console, file)
    if found is None:
        if as_json:
            console.json({"examples": [], "notes": []})
        return
    notes = [(f"{found.where}:{line}", text) for line, text in policy.notes(found)]
    tried = list(check.examples(found, _effects(console)))
    failed = [one for one in tried if not one.holds]
    if as_json:
        told = [
            {
                "at": one.where,
                "text": one.text,
                "expected": one.expected,
                "verdict": one.said.verdict,
                "why": one.said.why,
                "rule_at": one.said.where,
            }
            for one in tried
        ]
        console.json({"examples": told, "notes": [{"at": at, "text": text} for at, text in notes]})
        raise SystemExit(ExitCode.FAILED if failed else ExitCode.DONE)
    for at, text in notes:
        console.note(f"{at}  note: {text}")
    for one in failed:
        console.line(f"{one.where}  ", ("does not hold", "red"), f"  {one.text}")
        console.result(f"  expected {one.expected}, and it is {one.said.verdict}: {one.said.why} ({one.said.where})")
    if not tried:
        console.note(f"{found.where} has no examples")
    elif failed:
        console.result(f"{len(failed)} of {len(tried)} examples do not hold")
        raise SystemExit(ExitCode.FAILED)
    else:
        console.result("1 example holds" if len(tried) == 1 else f"{len(tried)} examples hold")


def _look(console: Console, verb: str, *, live: bool, file: Path | None) -> None:
    """Fetch the trusted branch if that is wanted; else print the age of the last fetch."""
    if live:
        check.fetch_trusted(console.session)
    elif file is None and (remote := console.project.trusted.remote) is not None:
        own, now = console.project.trusted.commit, console.project.env.now()
        check.use_fetched_trust(console.session)
        trusted = console.project.trusted
        if trusted.commit != own:
            console.note(trusted.note)
            return
        age = f"as of {describe.age(trusted.time, now)} ago" if trusted.time else "as last fetched"
        console.note(f"{trusted.branch} of {remote} {age}; `runner policy {verb} --live` fetches it first")


def _policy(console: Console, file: Path | None) -> PolicyFile | None:
    if file is not None:
        return check.policy_in(console.cwd / file, str(file))
    project = console.project
    found = check.policy_in_force(project)
    if found is None:
        console.note(f"there is no {paths.POLICY} on {project.trusted.branch}, the trusted branch: the defaults apply")
    here = project.git.top / paths.POLICY if project.git.top else None
    if here is not None and here.is_file() and (found is None or digest(here.read_bytes()) != found.digest):
        there = project.trusted.branch
        differs = f"{paths.POLICY} here differs from {there}: this version takes effect once it is there"
        console.note(f"{differs}; `--file {here}` uses it now")
    return found


def _followed(console: Console, subject: Subject) -> Subject:
    """Follow the links of the checkout that a call's paths lead through, and say where they lead."""
    top = console.here.git.top if console.here is not None else None
    if top is None:
        return subject
    found = check.followed(subject, top)
    for path, real in zip(subject.paths, found.paths, strict=True):
        if path != real:
            console.note(f"{path} leads to {real} here")
    return found


def _effects(console: Console) -> Effects:
    """Return the effects of the tools that the repository's configuration knows; of ours alone outside of one."""
    return check.effects_of(console.here.config if console.here is not None else Config())


@click.command("check")
@click.argument("named", nargs=-1, metavar="[FOLDER|FILE|PROTOCOL]...")
@options.as_json
@click.pass_obj
def command(console: Console, named: tuple[str, ...], as_json: bool) -> None:
    """Check plans, configuration, policy and agent files before they are used; print every mistake.

    A plan is checked with what the trusted branch has: agents, engines, tools, roles. Default: the files in .protocols of the
    checkout; in a protocol's worktree, its plan too. PROTOCOL is checked with the edits in its worktree. Generated files are
    ignored. Exit 2: something is wrong.
    """
    session = console.session
    find = partial(options.looked_up, console, find=lookup.find)
    targets = check.targets(session.project, console.cwd, named, find)
    found = [error for name, at in targets.items() for error in check.problems(session.project, name, at)]
    if as_json:
        console.json({"problems": [{"what": one.what, "at": one.where, "next": one.hint} for one in found]})
    else:
        for one in found:
            console.line(f"{one.where}: ", (one.what, "red"))
            console.line(f"  next: {one.hint}")
        many = counted(len(found), "problem") if found else "no problems"
        console.note(f"{many}; checked: {', '.join(targets) or 'nothing'}")
    raise SystemExit(MalformedFileError.exit_code if found else 0)


# --- a step's work, by hand -------------------------------------------------------------------------------------------


@click.command("qa")
@options.protocol
@options.step
@options.flag("--full", help="Include a model's review, even if the step does not have one.")
@options.work
@click.pass_obj
def qa_command(console: Console, protocol: str | None, step: str | None, full: bool) -> None:
    """Run the QA of STEP on its current work in PROTOCOL. After a failed attempt, that is the work that it left.

    Default: the step that waits for QA, else the one that failed, else the last that is done. Nothing is recorded. Exit 1: QA failed.
    """
    session = console.session
    name, slug = options.found(console, protocol, step)
    load.find_protocol(console.session, console.means(name))  # a branch that only the remote has is brought here
    with progress.Progress(console, each=True).at_work(name):
        done = by_hand.judge(session, name, slug, full=full)
    _tell(console, done)
    raise SystemExit(ExitCode.DONE if done.passed else ExitCode.FAILED)


def _tell(console: Console, done: Judged) -> None:
    printed = {
        id(one): data
        for one, data in zip(show.commands_of(done.evidence, reviewed=bool(done.report)), done.outputs, strict=False)
    }
    for one in done.evidence:
        passed = one["code"] == 0
        console.line(
            ("passed " if passed else f"exit {one['code']} ", "green" if passed else "red"), f" {one['check']}"
        )
        if not passed:
            found = lines_of_output(printed[id(one)]) if id(one) in printed else lines_of(one["tail"])
            for line in found[-LAST:]:
                console.line(f"        {line[:WIDTH]}")
    if done.report:
        console.line("")
        for line in lines_of(done.report):
            console.line(line)
        console.line("")
    word, colour = ("PASS", "green") if done.passed else ("FAIL", "red")
    console.line((word, colour), f"  {done.step}, attempt {done.attempt}{f': {done.reason}' if done.reason else ''}")
    if done.again and done.passed:
        console.note(f"{done.step} is still recorded as failed; a new attempt from this work: `{done.again}`")


class _WithCommand(click.Command):
    """Takes the arguments after `--` for a command, and neither for a protocol nor for a step."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before `--`, and keep the others in the context's `meta`."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[__name__] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the pieces of the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@click.command("shell", cls=_WithCommand)
@options.protocol
@options.step
@options.flag("--start", help="Start without the work of STEP, from the commit that it started from.")
@options.number("--check", metavar="N", help="Start in a clean export, as check N of STEP has it.")
@options.executor
@click.pass_context
def shell_command(ctx: click.Context, protocol: str | None, step: str | None, start: bool, check: int | None) -> None:
    """Open a shell in the sandbox of STEP, with the work of its last attempt. Default: at the tip of PROTOCOL.

    It has the environment of STEP, without secrets (in the sandbox also without network), and a workspace of its own: nothing is
    recorded, and your changes are discarded at the end. After `--`, COMMAND runs instead of a shell, also without a terminal. The
    exit code is that of the shell or COMMAND.
    """
    console: Console = ctx.obj
    argv, is_seen = ctx.meta[__name__], terminal.is_there()
    name, slug = options.found(console, protocol, step)
    load.find_protocol(console.session, name)  # a branch that only the remote has is brought here
    if slug is None and (start or check):
        raise UsageError(f"--{'start' if start else 'check'} is about a step", name, "name the step")
    if not argv and not is_seen:
        raise UsageError("there is no terminal for a shell", name, "add `-- COMMAND`, which needs none")
    wanted = by_hand.Wanted(slug=slug, argv=argv, start=start, check=check)
    if is_seen:
        wanted = dataclasses.replace(wanted, term=console.environ.get("TERM"))
    with by_hand.shell(console.session, name, wanted) as ready:
        console.note(f"{ready.said}; your changes are discarded at the end")
        if ready.line:
            console.line(f"check {check}: {ready.line}", err=True)
        done = ready.sandbox.attach(ready.command) if is_seen else ready.sandbox.run(ready.command, _printer())
    raise SystemExit(done.code)


def _printer() -> Callable[[bytes], None]:
    """Return what prints output as it comes; a terminal gets whole characters, and none that steer it."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def show(data: bytes) -> None:
        streams.put(streams.safe(decode(data)), nl=False)

    return lambda data: streams.put_output(data, show)
