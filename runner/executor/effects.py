"""External calls (effects): announced before they start, made once, and concluded (design §6).

The journal announces an effect before it starts and has its outcome after it; if the protocol is published, its lease on the remote
announces it too, since another clone may resume the step. A kill leaves an announcement without an outcome: a keyed call is made
again with the same key, a probed one is looked up, and a person decides about any other. Announcements are found by tool and
arguments in the journals of all the protocol's attempts and on the remote, also after the step was renamed; while one is open, no
other effect of the protocol starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.errors import RunnerError, UnreachableError, UnsupportedError, WaitingError
from runner.executor.journal import Journal, Noted
from runner.executor.step_run import StepRun
from runner.lines import lines_of
from runner.protocol import log, transcript
from runner.protocol.ids import digest
from runner.protocol.transcript import CallOutcome, Intent, Settled, Typed
from runner.store import history, lease
from runner.store.environment import matching
from runner.tools import AsksError, Contract, OutcomeUnknownError, Tool, ToolError, python

HAPPENED = "a person says that it happened; its result is not known"
SAME_KEY = "made again with the same key"
REPEATS = 2  # how often a repeatable call is repeated at once after its process is lost


class Announced(NamedTuple):
    """An effect that was announced, in a journal or on the remote, or that a person was asked about.

    `revision`: of the record when it was announced on the remote, or of the question; 0 where a journal has it.
    """

    call: str
    tool: str
    digest: str
    text: str
    time: str
    key: str | None = None
    revision: int = 0

    @classmethod
    def of(cls, intent: Intent, revision: int = 0) -> Announced:
        """Return what a journal's record announces."""
        return cls(intent.call, intent.tool, intent.digest, intent.text, intent.time, intent.key, revision)


class EffectError(Exception):
    """A call started, and its outcome is unknown. `intent`: its announcement."""

    def __init__(self, intent: Announced, why: str = "") -> None:
        known = f": {lines_of(why)[0]}" if why else ""
        text = f"{intent.text}: it started at {intent.time}, and it is unknown whether it happened{known}"
        super().__init__(text)
        self.intent, self.text = intent, text


class Made(NamedTuple):
    """The outcome of a call. `decision`: on its permission, as the transcript has it; None where a default allowed it.

    `known`: False where a person says that it happened, and its result is unknown.
    """

    content: Any
    is_error: bool = False
    decision: Mapping[str, Any] | None = None
    known: bool = True


class EffectDecision(NamedTuple):
    """A person's decision about an effect whose outcome was unknown. `wait`: the wait that it ended."""

    wait: str
    call: str
    tool: str
    digest: str
    happened: bool
    by: str

    def is_about(self, intent: Announced) -> bool:
        """Return whether it may be about an announced effect: about that call, and asked after the effect was announced."""
        return self.call == intent.call and int(self.wait.removeprefix("w")) > intent.revision

    @property
    def text(self) -> str:
        """The decision as the journal has it."""
        return f"{self.by} says that it {'happened' if self.happened else 'did not happen'}"


class Effect(NamedTuple):
    """An external call. `name`: the attempt's name of it; `decision`: on its permission."""

    name: str
    tool: Tool
    arguments: Mapping[str, Any]
    decision: Mapping[str, Any] | None

    @property
    def contract(self) -> Contract:
        """The contract of its tool."""
        return self.tool.contract

    @property
    def what(self) -> tuple[str, str]:
        """What identifies it in every attempt: its tool, and the digest of its arguments."""
        text = json.dumps(dict(self.arguments), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return self.contract.name, digest(text.encode())


@dataclass(slots=True, eq=False)
class ExternalCalls:
    """The effects of one attempt of a step. `decisions`: people's, about effects whose outcome was unknown.

    `undecided`: the effects that a person was asked about and never answered for.
    """

    run: StepRun
    decisions: Sequence[EffectDecision]
    undecided: Sequence[Announced]
    _others: list[list[Noted]] | None = field(default=None)
    _elsewhere: list[Announced] | None = field(default=None)

    @classmethod
    def of(cls, run: StepRun, known: Sequence[log.RawEntry]) -> ExternalCalls:
        """Return the effects of a step's attempt. `known`: the entries of the record."""
        return cls(run, decisions_of(known), undecided_of(known))

    def make(
        self,
        effect: Effect,
        *,
        barred: ToolError | UnsupportedError | UnreachableError | None = None,
        left: int = REPEATS,
    ) -> Made:
        """Make an external call, once. `barred`: the error that forbids to make it, or to make it again; `left`: how often a
        repeatable call is repeated after its process is lost.

        Raises:
            EffectError: a person has to decide about an earlier call. ToolError: it did not work.
        """
        contract, tool, what = effect.contract, effect.tool, effect.what
        if barred is None:
            barred = self._unannounced(contract)
        self._refuse_waiting(contract)
        key, again = self._key(effect.name, what), []
        for intent in self._open():
            mine = (intent.tool, intent.digest) == what
            decided = self._decision(lambda one, intent=intent: one.is_about(intent))  # type: ignore[misc]
            if decided is not None:
                if mine and decided.happened:
                    return self._happened(effect, intent, HAPPENED, decided.text, decided.wait)
                self._settle(intent, decided.text, decided.wait)
            elif mine and contract.repeat == "keyed" and left and barred is None:
                key = intent.key or self._key(intent.call, what)
                if intent.call == effect.name:
                    self._settle(intent, SAME_KEY)
                else:
                    again.append(intent)
            elif mine and tool.probe is not None and left:
                found = self._probe(tool.probe, effect.arguments, intent)
                if found is not None:
                    content = self.run.redactor.value(found)
                    return self._happened(effect, intent, content, "looked up: it is there")
                self._settle(intent, "looked up: it is not there")
            else:
                raise EffectError(intent)
        decided = self._decision(lambda one: (one.tool, one.digest) == what and one.wait not in self._filed())
        if decided is not None:  # the journal with its announcement is not here
            intent = Announced(decided.call, decided.tool, decided.digest, text="", time="")
            if decided.happened:
                return self._happened(effect, intent, HAPPENED, decided.text, decided.wait)
            self._settle(intent, decided.text, decided.wait)
        if barred is not None:
            raise barred
        begun = self._announce(effect, key)
        for intent in again:  # after it, so that its key is known wherever this process ends
            self._settle(intent, SAME_KEY)
        try:
            lease.announce(self.run.session, transcript.plain(begun))
        except RunnerError:
            self._settle(Announced.of(begun), "not started: the remote did not accept the announcement")
            raise
        arguments = effect.arguments
        try:
            content = tool.call({**arguments, contract.key: key} if contract.key is not None else arguments)
        except OutcomeUnknownError as error:
            if contract.repeat == "never" or not left:
                raise EffectError(Announced.of(begun), self.run.redactor.text(error.message)) from error
            return self.make(effect, left=left - 1)
        except AsksError:
            self._settle(Announced.of(begun), "not done: it asks a person first")
            raise
        except python.ToolModuleError:
            self._settle(Announced.of(begun), "not started: its module or server could not be loaded")
            raise
        except ToolError as error:
            return self._conclude(effect, self.run.redactor.text(str(error)), is_error=True)
        return self._conclude(effect, self.run.redactor.value(content))

    def _announce(self, effect: Effect, key: str) -> Intent:
        """Write the announcement of a call that starts now, and return it."""
        tool, of = effect.what
        intent = Intent(
            kind="intent",
            time=self._unused_second(effect.name),
            call=effect.name,
            tool=tool,
            digest=of,
            decision=effect.decision,
            arguments=dict(effect.arguments),
            text=transcript.call_line(tool, effect.arguments),
            key=key if effect.contract.key is not None else None,
        )
        return self.append(intent)

    def _unused_second(self, call: str) -> str:
        """Return the time, in a second in which the call was not announced before: an announcement is known by its call and time."""
        env = self.run.project.env
        journals = (*self._journals(), self.run.journal.noted())
        used = {one.time for records in journals for one in records if isinstance(one, Intent) and one.call == call}
        used |= {one.time for one in self._announced() if one.call == call}
        while (now := self.now()) in used:
            env.sleep(0.05)
        return now

    def _unannounced(self, contract: Contract) -> UnsupportedError | UnreachableError | None:
        """Return the error for an effect that another clone could repeat, where it cannot be announced on the remote first."""
        project, number = self.run.project, self.run.snapshot.protocol
        vanishes = project.is_ephemeral
        publishes = project.trusted.remote is not None and project.publishes
        publishes = publishes or (project.offline and project.is_shared)
        if self.run.session.lease is not None or not (vanishes or publishes):
            return None
        why = "this machine may vanish" if vanishes else "another clone may make the same call"
        what = f"`{contract.name}` reaches outside, and {why}: that has to be on the remote first"
        if not publishes:
            return UnsupportedError(
                f"{what}, and nothing is published from here",
                "--ephemeral",
                f"`runner run {number}` on a permanent machine resumes it, or a job that may push, with `--publish always`",
            )
        alone = "" if vanishes else "; `--publish never` makes it for this clone alone"
        if project.offline:
            hint = "run the same command again without --offline"
            return UnreachableError(f"{what}, and --offline does not contact it", project.trusted.note, hint)
        return UnreachableError(
            f"{what}, which does not answer", project.trusted.note, f"run the same command again when it does{alone}"
        )

    def _refuse_waiting(self, contract: Contract) -> None:
        """Refuse an effect while a person is asked about another one of the protocol."""
        for wait in self.run.state.waiting:
            if wait.kind == "effect":
                raise WaitingError(
                    f"`{contract.name}` is not called while the outcome of an earlier call is unknown",
                    wait.text,
                    f"check whether it happened, then type `runner answer {self.run.snapshot.protocol} {wait.id} happened`, "
                    "or `did-not`",
                )

    def _probe(self, probe: Callable[[Mapping[str, Any]], Any], arguments: Mapping[str, Any], intent: Announced) -> Any:
        try:
            return probe(arguments)
        except ToolError as error:
            raise EffectError(intent, f"it could not be looked up, {self.run.redactor.text(error.message)}") from error

    def _conclude(self, effect: Effect, content: Any, *, is_error: bool = False, wait: str = "") -> Made:
        tool, of = effect.what
        outcome = CallOutcome(
            kind="outcome",
            time=self.now(),
            call=effect.name,
            tool=tool,
            digest=of,
            decision=effect.decision,
            content=content,
            error=is_error,
            wait=wait or None,
        )
        return made_of(self.append(outcome))

    def _happened(self, effect: Effect, intent: Announced, content: Any, how: str, wait: str = "") -> Made:
        """Conclude a call by the outcome of its announcement. The outcome is written first: if the process ends between the two
        records, the call has one; in the other order it would look like a call that never started, and be made again."""
        made = self._conclude(effect, content, wait=wait)
        self._settle(intent, how, wait)
        return made

    def _key(self, name: str, what: tuple[str, str]) -> str:
        """Return the key that makes a repeat of the call harmless: that of its last announcement, which may be an earlier step's."""
        for one in reversed(self.run.journal.records):
            if isinstance(one, Intent) and (one.call, one.tool, one.digest) == (name, *what) and one.key is not None:
                return str(one.key)
        return digest("\0".join((self.run.state.genesis, name, *what)).encode()).removeprefix("sha256:")[:32]

    def _settle(self, intent: Announced, how: str, wait: str = "") -> None:
        """Close an announcement that has no outcome, in any journal."""
        closed = Settled(kind="settled", time=self.now(), call=intent.call, of=intent.time, how=how, wait=wait or None)
        self.append(closed)

    def now(self) -> str:
        """Return the time of a record that is made now."""
        return self.run.project.env.timestamp()

    def append(self, record: Typed) -> Typed:
        """Write a record without its secrets; return it as it is on the disk."""
        record = transcript.mapped(record, self.run.redactor.value)
        self.run.journal.append(record)
        self.run.project.env.hear(record)
        return record

    # --- what the journals have ------------------------------------------------------------------------------------------

    def last(self, name: str) -> Noted | None:
        """Return the last record of a call's effect in this attempt's journal; an outcome is final."""
        found = [one for one in self.run.journal.noted() if one.call == name]
        return next((one for one in reversed(found) if isinstance(one, CallOutcome)), found[-1] if found else None)

    def _journals(self) -> list[list[Noted]]:
        """Return the records about effects of the other journals of the protocol's; nobody else writes to them now."""
        if self._others is None:
            found = matching(self.run.journal.path.parent, "*.jsonl")
            self._others = [Journal(path).noted() for path in found if path != self.run.journal.path]
        return self._others

    def _announced(self) -> list[Announced]:
        """Return another machine's announcements on the remote whose outcome is unknown."""
        if self._elsewhere is None:
            session, project, protocol = self.run.session, self.run.project, self.run.snapshot.protocol
            filed = session.git.ref(history.ref_of(protocol))
            found = lease.unknown(project, protocol, lease.announced(session, protocol), self.run.snapshot.tip, filed)
            known = {
                (one.call, one.of if isinstance(one, Settled) else one.time)
                for records in (*self._journals(), self.run.journal.noted())
                for one in records
                if not isinstance(one, CallOutcome)
            }
            rows = [one for name, one in found.items() if (name, one["time"]) not in known]
            keys = ("call", "tool", "digest", "text", "time", "key", "revision")
            self._elsewhere = [Announced(**{key: row[key] for key in keys if key in row}) for row in rows]
        return self._elsewhere

    def _open(self) -> list[Announced]:
        """Return the announcements without an outcome: of all journals, on the remote, and in the record. An edit or a new attempt
        ends a person's question, and the journal of the call may be on another machine."""
        own = self.run.journal.noted()
        closed = {(one.call, one.of) for one in own if isinstance(one, Settled)}
        found = [one for one in self._announced() if (one.call, one.time) not in closed]
        over = {(one.call, one.of) for records in self._journals() for one in records if isinstance(one, Settled)}
        found += [one for one in self.undecided if (one.call, one.time) not in closed | over]
        for records in (*self._journals(), own):
            last = {one.call: one for one in records}
            found += [
                Announced.of(one)
                for one in last.values()
                if isinstance(one, Intent) and (records is own or (one.call, one.time) not in closed)
            ]
        return found

    def _decision(self, fits: Callable[[EffectDecision], bool]) -> EffectDecision | None:
        """Return a person's decision about an effect that is not used yet."""
        records = (*self._journals(), self.run.journal.noted())
        used = {one.wait for every in records for one in every if not isinstance(one, Intent)}
        return next((one for one in self.decisions if one.wait not in used and fits(one)), None)

    def _filed(self) -> set[str]:
        """Return the waits whose decisions a committed transcript has used: perhaps in another clone, for an earlier call."""
        found = history.transcripts(self.run.project.git, self.run.snapshot.protocol)
        records = (one for name, data in found for one in transcript.parse(data, name))
        return {str(one.wait) for one in records if isinstance(one, CallOutcome | Settled) and one.wait}


def made_of(outcome: CallOutcome) -> Made:
    """Return the outcome of a call that the journal has."""
    return Made(outcome.content, outcome.error, outcome.decision, known=outcome.wait is None)


def decisions_of(known: Iterable[log.RawEntry]) -> list[EffectDecision]:
    """Return people's decisions about unknown effects of all steps; for a call with several questions, the last."""
    asked: dict[str, Mapping[str, Any]] = {}
    found: dict[str, EffectDecision] = {}
    for raw in known:
        if raw.event == "effect-unknown":
            asked[f"w{raw.revision}"] = raw.fields
        elif raw.event == "effect-decided":
            of, fields = asked[str(raw.fields["wait"])], raw.fields
            found[of["call"]] = EffectDecision(
                fields["wait"], of["call"], of["tool"], of["digest"], fields["happened"] is True, str(fields["by"])
            )
    return list(found.values())


def undecided_of(known: Iterable[log.RawEntry]) -> list[Announced]:
    """Return the effects that a person was asked about and has not answered for."""
    asked: dict[str, Announced] = {}
    for raw in known:
        if raw.event == "effect-unknown":
            call, tool, of, text = (raw.fields[key] for key in ("call", "tool", "digest", "text"))
            asked[call] = Announced(call, tool, of, text, raw.time, revision=raw.revision)
        elif raw.event == "effect-decided":
            asked = {call: one for call, one in asked.items() if f"w{one.revision}" != raw.fields["wait"]}
    return list(asked.values())
