"""The calls of one attempt: each judged before it is made, and held where it needs approval (design §5).

`effects` makes those that reach outside, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from runner import signals
from runner.errors import IntegrityError
from runner.executor import judging, permissions
from runner.executor.effects import Effect, ExternalCalls, Made, made_of
from runner.executor.judging import Judge
from runner.executor.step_run import StepRun
from runner.git import Git
from runner.protocol import approval_file, log, paths, transcript
from runner.protocol import events as ev
from runner.protocol.event_types import event_type
from runner.protocol.events import Event
from runner.protocol.ids import digest, manifest_digest
from runner.protocol.transcript import Held, HeldCall, Intent, Outcome
from runner.store import publishing, record
from runner.store.snapshot import Snapshot
from runner.tools import AsksError, Contract, Tool, ToolError, check_arguments
from runner.trust.policy import Decision
from runner.values import dataclass

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


class HeldError(Exception):
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
            HeldError: it waits for approval. EffectError: a person has to decide about an earlier call.
            AsksError: it asks a person, and is made again with the answer. ToolError: it did not work, or may not be made.
        """
        ...


@dataclass(slots=True)
class Concurrent:
    """A tool whose call starts in a thread of the pool: the caller waits for `started`."""

    tool: Tool
    pool: ThreadPoolExecutor
    started: Future[Any] | None = None

    @property
    def contract(self) -> Contract:
        """The tool's own."""
        return self.tool.contract

    def call(self, arguments: Mapping[str, Any]) -> None:
        """Start the call."""
        self.started = self.pool.submit(self.tool.call, arguments)


class Open:
    """Every call is made."""

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`."""
        check_arguments(tool.contract, arguments)
        return Made(tool.call(arguments))


@dataclass(frozen=True, slots=True)
class CallDecision:
    """The decision about a held call. `digest`: of its file, as it was held; `told`: an earlier transition has it."""

    approved: bool
    by: str
    reason: str
    digest: str
    told: bool = False


@dataclass(slots=True)
class Calls:
    """The gate of one attempt of a step. `decisions`: about held calls, by their names."""

    run: StepRun
    judge: Judge
    decisions: Mapping[str, CallDecision]
    effects: ExternalCalls

    @classmethod
    def of(cls, run: StepRun) -> Calls:
        """Return the gate of a step's attempt, which has its journal and workspace."""
        git, view = run.project.git, run.view
        known = record.events(git, view.protocol, view.tip) if _was_asked(run) else []
        decisions = decisions_of(git, view, known, run.slug, run.approvals)
        return cls(run, judging.judge_of(run), decisions, ExternalCalls.of(run, known))

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`; a runner that lost its lease makes none."""
        publishing.ensure_lease(self.run.project)
        contract, name = tool.contract, f"{self.run.name}.{number}"
        last = self.effects.last(name) if contract.effect == "external" else None
        if isinstance(last, Outcome):
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
        there = self.run.view.files.get(paths.call_file(name))
        if there is not None:
            data = self.run.project.git.blob(there.oid) or b""
            held = transcript.parse_call(data, f"{self.run.view.where}/{paths.call_file(name)}")
        last = next((one for one in reversed(self.run.journal.records) if isinstance(one, Held)), None)
        if last is None or (last.call, last.digest) != (name, digest(data)):
            noted = Held(
                kind="held",
                time=self.effects.now(),
                call=name,
                tool=held.tool,
                digest=digest(data),
                decision=decision,
                text=held.text(),
            )
            self.effects.append(noted)
        raise HeldError(held, data)

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
        where = f"{self.run.view.where}/{paths.call_file(name)}"
        there = self.run.view.files.get(paths.call_file(name))
        data = self.run.project.git.blob(there.oid) if there else None
        if data is None or digest(data) != decided.digest:
            raise IntegrityError("the held call is not the one that was decided about", where, "run `runner verify`")
        held = transcript.parse_call(data, where)
        if (held.name, held.tool) != (name, contract.name):
            raise IntegrityError(
                f"the held call is one of `{held.tool}`, not of `{contract.name}`", where, "run `runner verify`"
            )
        if (held.effect, held.source) != (contract.effect, contract.source):
            raise DeniedError(
                f"not done: `{held.tool}` is not what it was when the call was approved",
                {"verdict": "deny", "why": "the tool was declared anew since", "where": contract.source},
            )
        return held.arguments


def _was_asked(run: StepRun) -> bool:
    """Return whether the log has an event about a call or an effect; if not, the log, which grows with every step, is not parsed."""
    quiet = run.project.kept.setdefault("log parts without a call", set())
    parts = [oid for oid in run.view.files.parts if oid not in quiet]
    for oid, part in zip(("", *parts), (run.view.log, *run.project.git.blobs(parts)), strict=True):
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
        path: git.blob(entry.oid) or b""
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
        data = git.blob(entry.oid) if entry else None
        if data is not None:
            found.append(approval_file.parse(data, one).statement.reason)
    return "; ".join(reason for reason in dict.fromkeys(found) if reason)
