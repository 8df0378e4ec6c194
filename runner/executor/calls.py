"""The calls of one attempt: each judged before it is made, and held where it needs approval (design §5).

The judge asks the trusted branch's policy, by what a call really touches. `effects` makes calls that reach outside, once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from runner import signals
from runner.errors import IntegrityError
from runner.executor import permissions
from runner.executor.effects import Effect, ExternalCalls, Made, made_of
from runner.executor.step_run import StepRun
from runner.git import Git
from runner.protocol import approval_file, log, paths, transcript
from runner.protocol import events as ev
from runner.protocol.event_types import event_type
from runner.protocol.events import Event
from runner.protocol.ids import digest, manifest_digest
from runner.protocol.transcript import CallOutcome, HeldCall, HeldRecord, Intent
from runner.store import publishing, record
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.tools import AsksError, Contract, Tool, ToolError, check_arguments, files, registry
from runner.tools.commands import WorkspaceAlias
from runner.trust import policy, trusted_config
from runner.trust.policy import Decision

if TYPE_CHECKING:
    from runner.protocol.config import AgentFile


class CallHeldError(Exception):
    """The call waits for approval. `data`: the bytes of its file."""

    def __init__(self, call: HeldCall, data: bytes) -> None:
        super().__init__(call.text())
        self.call, self.data = call, data


class DeniedError(ToolError):
    """The call may not be made; the message is for its caller. `decision`: as the transcript has it."""

    def __init__(self, message: str, decision: dict[str, str]) -> None:
        super().__init__(message)
        self.decision = decision


class Gate(Protocol):
    """What a call goes through."""

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """Make the attempt's `number`-th call, from 1, if it may be made.

        Raises:
            CallHeldError: it waits for approval. EffectError: a person has to decide about an earlier call.
            AsksError: it asks a person, and is made again with the answer. ToolError: it did not work, or may not be made.
        """
        ...


class Open:
    """Every call is made."""

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`."""
        check_arguments(tool.contract, arguments)
        return Made(tool.call(arguments))


class CallDecision(NamedTuple):
    """The decision about a held call. `digest`: of its file, as it was held; `told`: an earlier transition has it."""

    approved: bool
    by: str
    reason: str
    digest: str
    told: bool = False


@dataclass(slots=True, eq=False)
class Calls:
    """The gate of one attempt of a step. `decisions`: about held calls, by their names."""

    run: StepRun
    judge: Judge
    decisions: Mapping[str, CallDecision]
    effects: ExternalCalls

    @classmethod
    def of(cls, run: StepRun) -> Calls:
        """Return the gate of a step's attempt, which has its journal and workspace."""
        git, view = run.project.git, run.snapshot
        known = record.events(git, view.protocol, view.tip) if _was_asked(run) else []
        decisions = decisions_of(git, view, known, run.slug, run.approvals)
        return cls(run, judge_of(run), decisions, ExternalCalls.of(run, known))

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`; a runner that lost its lease makes none."""
        publishing.ensure_lease(self.run.session)
        contract, name = tool.contract, f"{self.run.name}.{number}"
        last = self.effects.last(name) if contract.effect == "external" else None
        if isinstance(last, CallOutcome):
            return made_of(last)
        if isinstance(last, Intent):
            # It started with permission, and its outcome is unknown; where the policy denies it now, it is not made again.
            said = self.judge(contract, last.arguments, untrusted)
            effect = Effect(name, tool, last.arguments, last.decision)
            return self.effects.make(effect, barred=_denied(said) if said.verdict == "deny" else None)
        decided = self.decisions.get(name)
        if (
            decided is not None
            and decided.told
            and decided.approved
            and not permissions.is_call_approved(self.run, name, decided.by)
        ):
            decided = None  # it is asked for again
        check_arguments(contract, arguments)
        written: Mapping[str, Any] = self.run.redactor.value(dict(arguments))
        if decided is not None and decided.approved:
            written = self._file(name, contract, decided)
        said = self.judge(contract, written, untrusted)
        decision: dict[str, str] = {"verdict": said.verdict, "why": said.why, "where": said.where}
        if said.verdict == "deny":
            raise _denied(said)
        if decided is None and said.verdict == "ask":
            self._hold(name, number, contract, written, decision)
        if decided is not None:
            decision |= {"word": "approved" if decided.approved else "rejected", "by": decided.by}
            if not decided.approved:
                why = f": {decided.reason}" if decided.reason else ""
                raise DeniedError(f"not done, and not to be tried again: rejected by {decided.by}{why}", decision)
            arguments = written
        if contract.effect == "external":
            return self.effects.make(Effect(name, tool, written, decision))
        shown = None if decided is None and not said.file else decision
        try:
            with signals.stoppable():  # an effect outside is let end, so that its outcome is known
                return Made(tool.call(arguments), False, shown)
        except AsksError:
            raise
        except ToolError as error:
            return Made(str(error), True, shown)

    # --- held calls ------------------------------------------------------------------------------------------------------

    def _hold(
        self, name: str, number: int, contract: Contract, arguments: Mapping[str, Any], decision: dict[str, str]
    ) -> None:
        """Stop at a call that needs approval; the file of a call that was held before stays as it is."""
        held = HeldCall(
            tool=contract.name,
            arguments=dict(arguments),
            effect=contract.effect,
            repeat=contract.repeat,
            source=contract.source,
            code=self._code(contract.source),
            step=self.run.slug,
            attempt=self.run.attempt,
            number=number,
            env=contract.env,
            network=contract.network,
        )
        data = transcript.render_call(held)
        there = self.run.snapshot.files.get(paths.call_file(name))
        if there is not None:
            data = self.run.project.git.content(there) or b""
            held = transcript.parse_call(data, f"{self.run.snapshot.where}/{paths.call_file(name)}")
        last = next((one for one in reversed(self.run.journal.records) if isinstance(one, HeldRecord)), None)
        if last is None or (last.call, last.digest) != (name, digest(data)):
            noted = HeldRecord(
                kind="held",
                time=self.effects.now(),
                call=name,
                tool=held.tool,
                digest=digest(data),
                decision=decision,
                text=held.text(),
            )
            self.effects.append(noted)
        raise CallHeldError(held, data)

    def _code(self, source: str) -> str | None:
        """Return the digest of a tool's code on the trusted branch; of an MCP server's, that of its pinned list."""
        module = source.rpartition(":")[0]
        if source.startswith("mcp:"):
            return source.partition(" ")[2]
        return code_digest(self.run.project.git, self.run.project.trusted.commit, module) if module else None

    def _file(self, name: str, contract: Contract, decided: CallDecision) -> dict[str, Any]:
        """Return the arguments of an approved call, from the very bytes that were approved.

        Raises:
            IntegrityError: the file is not the one that was held.
        """
        where = f"{self.run.snapshot.where}/{paths.call_file(name)}"
        there = self.run.snapshot.files.get(paths.call_file(name))
        data = self.run.project.git.content(there)
        if data is None or digest(data) != decided.digest:
            raise IntegrityError("the decision is for another call", where, "run `runner verify`")
        held = transcript.parse_call(data, where)
        if (held.name, held.tool) != (name, contract.name):
            raise IntegrityError(
                f"the held call is one of `{held.tool}`, not of `{contract.name}`", where, "run `runner verify`"
            )
        if (held.effect, held.source) != (contract.effect, contract.source):
            raise DeniedError(
                f"`{held.tool}` has changed since the approval; the call was not made",
                {"verdict": "deny", "why": "its declaration changed", "where": contract.source},
            )
        return held.arguments


def _was_asked(run: StepRun) -> bool:
    """Return whether the log has an event about a call or an effect; if not, the log, which grows with every step, is not parsed."""
    quiet = run.session.quiet_parts
    parts = [oid for oid in run.snapshot.files.parts if oid not in quiet]
    for oid, part in zip(("", *parts), (run.snapshot.log, *run.project.git.blobs(parts)), strict=True):
        if part is None or b" call-" in part or b" effect-" in part:
            return True
        quiet.add(oid)
    return False


def _denied(said: Decision) -> DeniedError:
    decision = {"verdict": said.verdict, "why": said.why, "where": said.where}
    return DeniedError(f"not done, and not to be tried again: denied by {said.why} ({said.where})", decision)


def code_digest(git: Git, commit: str, module: str) -> str:
    """Return the digest of a module's code in a commit: of everything below its first name, since it may import the rest."""
    root = module.partition(".")[0]
    files = {
        path: git.content(entry) or b""
        for path, entry in git.files(commit).items()
        if path.partition("/")[0] == root or path == f"{root}.py"
    }
    return manifest_digest(files)


# --- decisions ------------------------------------------------------------------------------------------------------------


def decisions_of(
    git: Git, snapshot: Snapshot, known: Iterable[log.RawEntry], slug: str, fresh: Sequence[Event]
) -> dict[str, CallDecision]:
    """Return the decisions about the calls of a step: those of the log, and `fresh`, those of this transition."""
    held: dict[str, tuple[str, str]] = {}
    found: dict[str, CallDecision] = {}
    said: list[tuple[str, str, str, Sequence[str], bool]] = []
    for raw in known:
        if raw.subject == slug and raw.event == "call-held":
            held[f"w{raw.revision}"] = (str(raw.fields["call"]), str(raw.fields["digest"]))
        elif raw.subject == slug and raw.event == "call-decided":
            fields = raw.fields
            said.append((fields["wait"], fields["decision"], fields["by"], fields.get("approvals") or (), True))
        elif event_type(raw.event).ends_attempt and (raw.subject == slug or slug in raw.fields.get("steps", {})):
            said.clear()  # a decision is about one attempt, whatever number the next one is given
    said += [
        (one.wait, one.decision, one.by, one.approvals, False)
        for one in fresh
        if isinstance(one, ev.CallDecided) and one.subject == slug
    ]
    for wait, decision, by, approvals, told in said:
        call, of = held[wait]
        found[call] = CallDecision(decision == "approved", by, _reason(git, snapshot, approvals), of, told)
    return found


def _reason(git: Git, snapshot: Snapshot, approvals: Sequence[str]) -> str:
    """Return the reasons that the statements give."""
    found = []
    for one in approvals:
        entry = snapshot.files.get(f"{paths.APPROVALS}{one}{approval_file.SUFFIX}")
        data = git.content(entry)
        if data is not None:
            found.append(approval_file.parse(data, one).statement.reason)
    return "; ".join(reason for reason in dict.fromkeys(found) if reason)


MOST_LINKS = 40  # as the tools follow

# (contract, arguments, whether the conversation has untrusted text) -> the decision about the call
Judge = Callable[[Contract, Mapping[str, Any], bool], Decision]

ALLOWED = Decision("allow", "default: it does nothing by itself")


def judge_of(run: StepRun) -> Judge:
    """Return what judges a step's calls: the policy of the trusted branch, and the stricter rules of its agent file (design §5).

    A call is judged by its real effect: paths after links are followed, a URL's host, the program's arguments. `calls` checks whether
    an approval that a rule asks for was given.
    """
    project, agent, workspace = run.project, run.agent, run.workspace
    work = workspace.space.work
    folders = workspace.own.folders if workspace.own else {}

    @cache
    def names() -> tuple[str, ...]:
        alias = WorkspaceAlias(work, workspace.sandbox.place.inside(work))
        return *alias.real, alias.name

    found = trusted_config.of(project)
    at = f"{run.agent_file} on {project.trusted.branch}" if agent else ""
    data = project.trusted.blob(project.git, run.agent_file) if agent else None
    rules = found.rules_of(agent, data or b"", at)
    listed = listed_by(agent)
    own = {contract.name for contract in registry.LOOP.values()}

    def judge(contract: Contract, arguments: Mapping[str, Any], untrusted: bool) -> Decision:
        if contract.name in own and contract.source == registry.LOOP[contract.name].source:
            return ALLOWED
        paths_of = _paths(contract, arguments, work, names, folders)
        if contract.source.startswith("mcp:"):  # a server is given whole paths, and follows links
            arguments = {**arguments, "path": None, "paths": paths_of}
        subject = policy.call(contract.name, arguments, effect=contract.effect, paths=paths_of)
        subject = subject._replace(
            step=run.slug,
            untrusted=untrusted,
            hosts=(*subject.hosts, *_reached(run.project, contract)),
            listed=at if listed(contract) else "",
            vouched=True,  # agent files are read from the trusted branch alone
            configured=paths.CONFIG if contract.network else "",
        )
        return policy.evaluate(rules, subject)

    return judge


def _reached(project: Project, contract: Contract) -> tuple[str, ...]:
    """Return the host of an MCP server's URL, which the runner itself asks; the hosts of a command are the sandbox's matter."""
    server = project.config.mcp.get(contract.source.partition(" ")[0].removeprefix("mcp:"))
    return contract.network if server is not None and server.url is not None else ()


def hosts_of(project: Project) -> Callable[[str], str | None]:
    """Return a function that gives the policy's reason against fetching from a host, or None."""
    rules = trusted_config.of(project).rules

    def wrong(host: str) -> str | None:
        said = policy.evaluate(rules, policy.Subject(tool="fetch", effect="read", hosts=(host,)))
        return None if said.verdict == "allow" else f"{said.why} ({said.where})"

    return wrong


def listed_by(agent: AgentFile | None) -> Callable[[Contract], bool]:
    """Return a test whether an agent file lists a tool: by its name, or by its module."""
    names = {tool for tool in agent.tools if isinstance(tool, str)} if agent else set()
    modules = {module.module for module in agent.tool_modules()} if agent else set()
    return lambda contract: contract.name in names or contract.source.rpartition(":")[0] in modules


def _paths(
    contract: Contract,
    arguments: Mapping[str, Any],
    work: Path,
    names: Callable[[], Sequence[str]],
    folders: Mapping[str, Path],
) -> tuple[str, ...]:
    """Return the paths of a call of the runner's own tools, and of a server's, from the root, after links are followed."""
    if contract.source.startswith("mcp:"):
        listed = arguments.get("paths")
        named: list[Any] = [arguments.get("path"), *(listed if isinstance(listed, list) else ())]
    elif contract.source != "built in":
        return tuple(path for path in (arguments.get("path"),) if isinstance(path, str) and path)
    else:
        named = [arguments.get("path")]
    if contract.name == "apply_patch":
        try:
            named = [file["path"] for file in files.parse(str(arguments.get("patch", "")))]
        except ToolError:  # it is refused when it is carried out
            named = []
    elif contract.name == "remember":
        named = [f"{paths.MEMORY}{arguments['name']}.md"] if arguments.get("name") else [paths.MEMORY.rstrip("/")]
    elif policy.is_agents(contract.name):  # what is outside, the sandbox holds
        named = [
            path for path in (*named, *arguments.get("paths", ())) if isinstance(path, str) and not path.startswith("/")
        ]
    # One that leads out is named as it was given: no rule is about it, and the tool refuses it.
    given = [path for path in named if isinstance(path, str) and path]
    if not given:
        return ()
    root = os.path.realpath(work)
    return tuple(_below(root, names(), path, folders) or path for path in given)


def _below(root: str, names: Sequence[str], path: str, folders: Mapping[str, Path]) -> str | None:
    """Return the path from the root after links, as the tools find it; None where it leads out.

    `names`: the root's, with which absolute paths and links start; `folders`: the binds over paths below it.
    """
    at, todo, links = list[str](), deque([path]), 0
    while todo:
        part = todo.popleft()
        if part.startswith("/"):
            name = next((name for name in names if part == name or part.startswith(f"{name}/")), None)
            if name is None:
                return None
            at, part = [], part[len(name) + 1 :]
        if "/" in part:
            todo.extendleft(reversed(part.lstrip("/").split("/")))
        elif part == ".." and not at:
            return None
        elif part == "..":
            at.pop()
        elif part not in ("", "."):
            inner = "/".join((*at, part))
            bound = next((name for name in folders if inner == name or inner.startswith(f"{name}/")), None)
            here = os.path.join(root, inner) if bound is None else f"{folders[bound]}{inner[len(bound) :]}"
            if os.path.islink(here) and (links := links + 1) <= MOST_LINKS:
                todo.appendleft(os.readlink(here))
            else:
                at.append(part)
    return "/".join(at) or "."
