"""The calls of one attempt: each judged before it is made, held where it needs approval, and made once (design §5, §6).

The journal announces an external call (an effect) before it starts and has its outcome after it; if the protocol is published, its
lease on the remote announces it too, since another clone may resume the step. A kill leaves an announcement without an outcome: a
keyed call is made again with the same key, a probed one is looked up, and a person decides about any other. Announcements are found
by tool and arguments in the journals of all the protocol's attempts and on the remote, also after the step was renamed; while one
is open, no other effect of the protocol starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from runner import signals
from runner.errors import IntegrityError, RunnerError, UnreachableError, UnsupportedError, WaitingError
from runner.executor import permissions, toolbox
from runner.executor.journal import Journal, Record
from runner.executor.step_run import StepRun
from runner.executor.toolbox import Judge
from runner.folders import matching
from runner.git import Git
from runner.lines import lines_of
from runner.protocol import approval_file, call_file, log, paths, transcript
from runner.protocol import events as ev
from runner.protocol.call_file import HeldCall
from runner.protocol.digest import digest, manifest_digest
from runner.protocol.event_types import event_type
from runner.protocol.events import Event
from runner.store import history, lease, publishing, record
from runner.store.snapshot import Snapshot
from runner.tools.base import Contract, OutcomeUnknownError, Probed, Tool, ToolError, check_arguments
from runner.tools.python import ToolModuleError
from runner.trust.policy import Decision
from runner.values import dataclass

HAPPENED = "a person says that it happened; its result is not known"
SAME_KEY = "made again with the same key"
REPEATS = 2  # how often a call that can be repeated is made again in one go, where its process is lost


class HeldError(Exception):
    """The call waits for approval. `data`: the bytes of its file."""

    def __init__(self, call: HeldCall, data: bytes) -> None:
        super().__init__(call.text())
        self.call, self.data = call, data


class DeniedError(ToolError):
    """The call may not be made; the message is for its caller. `decision`: as the transcript has it."""

    def __init__(self, message: str, decision: Record) -> None:
        super().__init__(message)
        self.decision = decision


class EffectError(Exception):
    """A call started, and its outcome is unknown. `intent`: its announcement in the journal."""

    def __init__(self, intent: Record, why: str = "") -> None:
        known = f": {lines_of(why)[0]}" if why else ""
        text = f"{intent['text']}: it was begun at {intent['time']}, and nobody knows whether it happened{known}"
        super().__init__(text)
        self.intent, self.text = intent, text


@dataclass(frozen=True, slots=True)
class Made:
    """The outcome of a call. `decision`: on its permission, as the transcript has it; None where a default allowed it.

    `known`: False where a person says that it happened, and its result is unknown.
    """

    content: Any
    is_error: bool = False
    decision: Record | None = None
    known: bool = True


class Gate(Protocol):
    """What a call goes through."""

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """Make the attempt's `number`-th call, from 1, if it may be made.

        Raises:
            HeldError: it waits for approval. EffectError: a person has to decide about an earlier call.
            ToolError: it did not work, or may not be made.
        """
        ...


class Open:
    """Every call is made."""

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`."""
        check_arguments(tool.contract, arguments)
        return Made(tool.call(arguments))


@dataclass(frozen=True, slots=True)
class Word:
    """The decision about a held call. `digest`: of its file, as it was held; `told`: an earlier transition has it."""

    approved: bool
    by: str
    reason: str
    digest: str
    told: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """A person's decision about an effect whose outcome was unknown. `wait`: the wait that it ended."""

    wait: str
    call: str
    tool: str
    digest: str
    happened: bool
    by: str

    def is_about(self, intent: Record) -> bool:
        """Return whether it may be about an announced effect: about that call, and asked after the effect was announced."""
        return self.call == intent["call"] and int(self.wait.removeprefix("w")) > int(intent.get("revision", 0))

    @property
    def text(self) -> str:
        """The decision as the journal has it."""
        return f"{self.by} says that it {'happened' if self.happened else 'did not happen'}"


@dataclass(slots=True)
class Calls:
    """The gate of one attempt of a step. `words`: the decisions about held calls, by their names.

    `undecided`: the effects that a person was asked about and never answered for.
    """

    run: StepRun
    judge: Judge
    words: Mapping[str, Word]
    settled: Sequence[Settled]
    undecided: Sequence[Record]
    _others: list[list[Record]] | None = field(default=None)
    _elsewhere: list[Record] | None = field(default=None)

    @classmethod
    def of(cls, run: StepRun) -> Calls:
        """Return the gate of a step's attempt, which has its journal and workspace."""
        git, view = run.project.git, run.view
        known = record.events(git, view.protocol, view.tip) if _was_asked(run) else []
        words = words_of(git, view, known, run.slug, run.approvals)
        return cls(run, toolbox.judge_of(run), words, settled_of(known), undecided_of(known))

    def make(self, number: int, tool: Tool, arguments: Mapping[str, Any], untrusted: bool) -> Made:
        """See `Gate.make`; a runner that lost its lease makes none."""
        publishing.ensure_lease(self.run.project)
        contract, name = tool.contract, f"{self.run.name}.{number}"
        last = self._last(name) if contract.effect == "external" else None
        if last is not None and last["kind"] == "outcome":
            return _made(last)
        if last is not None and last["kind"] == "intent":
            # It was begun with permission; what is open is what came of it.
            barred = self._barred(tool, last, untrusted)
            return self._effect(name, tool, last["arguments"], last["decision"], barred=barred)
        word = self.words.get(name)
        if word is not None and word.told and word.approved and not permissions.call_stands(self.run, name, word.by):
            word = None  # it is asked for again
        check_arguments(contract, arguments)
        written: Mapping[str, Any] = self.run.redactor.value(dict(arguments))
        if word is not None and word.approved:
            written = self._file(name, contract, word)
        said = self.judge(contract, written, untrusted)
        decision: Record = {"verdict": said.verdict, "why": said.why, "where": said.where}
        if said.verdict == "deny":
            raise _denied(said)
        if word is None and said.verdict == "ask":
            self._hold(name, number, contract, written, decision)
        if word is not None:
            decision |= {"word": "approved" if word.approved else "rejected", "by": word.by}
            if not word.approved:
                why = f": {word.reason}" if word.reason else ""
                raise DeniedError(f"not done, and not to be tried again: rejected by {word.by}{why}", decision)
            arguments = written
        if contract.effect == "external":
            return self._effect(name, tool, written, decision)
        shown = None if word is None and not said.file else decision
        try:
            with signals.stoppable():  # an effect outside is let end, so that its outcome is known
                return Made(tool.call(arguments), False, shown)
        except ToolError as error:
            return Made(str(error), True, shown)

    # --- held calls ------------------------------------------------------------------------------------------------------

    def _hold(self, name: str, number: int, contract: Contract, arguments: Mapping[str, Any], decision: Record) -> None:
        """Stop at a call that needs approval; the file of a call that was held before stays as it is."""
        module = contract.source.rpartition(":")[0]
        held = HeldCall(
            tool=contract.name,
            arguments=dict(arguments),
            effect=contract.effect,
            repeat=contract.repeat,
            source=contract.source,
            code=code_digest(self.run.project.git, self.run.project.trusted.commit, module) if module else None,
            step=self.run.slug,
            attempt=self.run.attempt,
            number=number,
            env=contract.env,
            network=contract.network,
        )
        data = call_file.render(held)
        there = self.run.view.files.get(paths.call_file(name))
        if there is not None:
            data = self.run.project.git.blob(there.oid) or b""
            held = call_file.parse(data, f"{self.run.view.where}/{paths.call_file(name)}")
        last = next((one for one in reversed(self.run.journal.records) if one["kind"] == "held"), None)
        if last is None or (last["call"], last["digest"]) != (name, digest(data)):
            self._append(
                {"kind": "held", "call": name, "tool": held.tool, "digest": digest(data), "text": held.text()}
                | {"decision": decision}
            )
        raise HeldError(held, data)

    def _file(self, name: str, contract: Contract, word: Word) -> dict[str, Any]:
        """Return the arguments of an approved call, from the very bytes that were approved.

        Raises:
            IntegrityError: the file is not the one that was held.
        """
        where = f"{self.run.view.where}/{paths.call_file(name)}"
        there = self.run.view.files.get(paths.call_file(name))
        data = self.run.project.git.blob(there.oid) if there else None
        if data is None or digest(data) != word.digest:
            raise IntegrityError("the held call is not the one that was decided about", where, "run `runner verify`")
        held = call_file.parse(data, where)
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

    # --- effects ---------------------------------------------------------------------------------------------------------

    def _barred(self, tool: Tool, intent: Record, untrusted: bool) -> DeniedError | None:
        """Return the error for a call that started before and that the policy denies now; None where it may be made again."""
        said = self.judge(tool.contract, intent["arguments"], untrusted)
        return _denied(said) if said.verdict == "deny" else None

    def _effect(
        self,
        name: str,
        tool: Tool,
        arguments: Mapping[str, Any],
        decision: Record,
        *,
        left: int = REPEATS,
        barred: DeniedError | UnsupportedError | UnreachableError | None = None,
    ) -> Made:
        """Make an external call, once. `left`: how often a repeatable call is repeated after its process is lost; `barred`: the error
        that forbids to make it, or to make it again."""
        contract = tool.contract
        what = (contract.name, digest(_canonical(arguments)))
        if barred is None:
            barred = self._unannounced(contract)
        self._refuse_waiting(contract)
        key, again = self._key(name, what), []
        for intent in self._open():
            mine = (intent["tool"], intent["digest"]) == what
            word = self._word(lambda one, intent=intent: one.is_about(intent))  # type: ignore[misc]
            if word is not None:
                if mine and word.happened:
                    return self._happened(name, what, HAPPENED, decision, intent, word.text, word.wait)
                self._settle(intent, word.text, word.wait)
            elif mine and contract.repeat == "keyed" and left and barred is None:
                key = str(intent.get("key") or self._key(intent["call"], what))
                if intent["call"] == name:
                    self._settle(intent, SAME_KEY)
                else:
                    again.append(intent)
            elif mine and isinstance(tool, Probed) and left:
                found = self._probe(tool, arguments, intent)
                if found is not None:
                    content = self.run.redactor.value(found)
                    return self._happened(name, what, content, decision, intent, "looked up: it is there")
                self._settle(intent, "looked up: it is not there")
            else:
                raise EffectError(intent)
        word = self._word(lambda one: (one.tool, one.digest) == what and one.wait not in self._filed())
        if word is not None:  # the journal in which it was begun is not here
            intent = {"call": word.call, "time": ""}
            if word.happened:
                return self._happened(name, what, HAPPENED, decision, intent, word.text, word.wait)
            self._settle(intent, word.text, word.wait)
        if barred is not None:
            raise barred
        self._append(
            {"kind": "intent", "call": name, "tool": what[0], "digest": what[1], "arguments": dict(arguments)}
            | {"text": call_file.line(contract.name, arguments), "decision": decision}
            | ({"key": key} if contract.key is not None else {})
        )
        begun = self.run.journal.records[-1]
        for intent in again:  # after it, so that its key is known wherever this process ends
            self._settle(intent, SAME_KEY)
        try:
            lease.announce(self.run.project, begun)
        except RunnerError:
            self._settle(begun, "not begun: it could not be announced on the remote")
            raise
        try:
            content = tool.call({**arguments, contract.key: key} if contract.key is not None else arguments)
        except OutcomeUnknownError as error:
            if contract.repeat == "never" or not left:
                raise EffectError(begun, self.run.redactor.text(error.message)) from error
            return self._effect(name, tool, arguments, decision, left=left - 1)
        except ToolModuleError:
            self._settle(begun, "not begun: its module could not be loaded")
            raise
        except ToolError as error:
            return self._conclude(name, what, self.run.redactor.text(str(error)), decision, is_error=True)
        return self._conclude(name, what, self.run.redactor.value(content), decision)

    def _unannounced(self, contract: Contract) -> UnsupportedError | UnreachableError | None:
        """Return the error for an effect that another clone could repeat, where it cannot be announced on the remote first."""
        project, number = self.run.project, self.run.view.protocol
        vanishes = bool(project.options.get("ephemeral"))
        publishes = project.trusted.remote is not None and project.setting("publish") == "always"
        publishes = publishes or (project.offline and project.is_shared)
        if project.lease is not None or not (vanishes or publishes):
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
            return UnreachableError(f"{what}, which is not asked", project.trusted.note, hint)
        return UnreachableError(
            f"{what}, which does not answer", project.trusted.note, f"run the same command again when it does{alone}"
        )

    def _refuse_waiting(self, contract: Contract) -> None:
        """Refuse an effect while a person is asked about another one of the protocol."""
        for wait in self.run.state.waiting:
            if wait.kind == "effect":
                raise WaitingError(
                    f"`{contract.name}` is not called while nobody knows whether an earlier call happened",
                    wait.text,
                    f"look, then say `runner answer {self.run.view.protocol} {wait.id} happened`, or did-not",
                )

    def _probe(self, tool: Probed, arguments: Mapping[str, Any], intent: Record) -> Any:
        try:
            return tool.probe(arguments)
        except ToolError as error:
            raise EffectError(intent, f"it could not be looked up, {self.run.redactor.text(error.message)}") from error

    def _conclude(
        self,
        name: str,
        what: tuple[str, str],
        content: Any,
        decision: Record,
        *,
        is_error: bool = False,
        wait: str = "",
    ) -> Made:
        record: Record = {"kind": "outcome", "call": name, "tool": what[0], "digest": what[1], "decision": decision}
        record |= {"content": content, "error": is_error} | ({"wait": wait} if wait else {})
        self._append(record)
        return _made(self.run.journal.records[-1])

    def _happened(
        self,
        name: str,
        what: tuple[str, str],
        content: Any,
        decision: Record,
        intent: Record,
        how: str,
        wait: str = "",
    ) -> Made:
        """Conclude a call by the outcome of its announcement. The outcome is written first: if the process ends between the two
        records, the call has one; in the other order it would look like a call that never started, and be made again."""
        made = self._conclude(name, what, content, decision, wait=wait)
        self._settle(intent, how, wait)
        return made

    def _key(self, name: str, what: tuple[str, str]) -> str:
        """Return the key that makes a repeat of the call harmless: that of its last announcement, which may be an earlier step's."""
        for one in reversed(self.run.journal.records):
            if one["kind"] == "intent" and (one["call"], one["tool"], one["digest"]) == (name, *what) and "key" in one:
                return str(one["key"])
        return digest("\0".join((self.run.state.genesis, name, *what)).encode()).removeprefix("sha256:")[:32]

    def _settle(self, intent: Record, how: str, wait: str = "") -> None:
        """Close an announcement that has no outcome, in any journal."""
        told = {"kind": "settled", "call": intent["call"], "of": intent["time"], "how": how}
        self._append(told | ({"wait": wait} if wait else {}))

    def _append(self, record: Record) -> None:
        record = {"kind": record["kind"], "time": self.run.project.who.timestamp(), **record}
        self.run.journal.append(self.run.redactor.value(record))
        self.run.project.who.hear(record)

    # --- what the journals have ------------------------------------------------------------------------------------------

    def _last(self, name: str) -> Record | None:
        """Return the last record of a call's effect in this attempt's journal; an outcome is final."""
        found = [one for one in self.run.journal.records if one["kind"] in _EFFECT and one["call"] == name]
        return next((one for one in reversed(found) if one["kind"] == "outcome"), found[-1] if found else None)

    def _journals(self) -> list[list[Record]]:
        """Return the records about effects of the other journals of the protocol's; nobody else writes to them now."""
        if self._others is None:
            found = matching(self.run.journal.path.parent, "*.jsonl")
            self._others = [
                [one for one in Journal(path).records if one["kind"] in _EFFECT]
                for path in found
                if path != self.run.journal.path
            ]
        return self._others

    def _announced(self) -> list[Record]:
        """Return another machine's announcements on the remote whose outcome is unknown."""
        if self._elsewhere is None:
            project, protocol = self.run.project, self.run.view.protocol
            filed = project.git.ref(history.ref_of(protocol))
            found = lease.unknown(project, protocol, lease.announced(project, protocol), self.run.view.tip, filed)
            known = {
                (one["call"], one["of" if one["kind"] == "settled" else "time"])
                for records in (*self._journals(), self.run.journal.records)
                for one in records
                if one["kind"] in ("intent", "settled")
            }
            self._elsewhere = [one for name, one in found.items() if (name, one["time"]) not in known]
        return self._elsewhere

    def _open(self) -> list[Record]:
        """Return the announcements without an outcome: of all journals, on the remote, and in the record. An edit or a new attempt
        ends a person's question, and the journal of the call may be on another machine."""
        own = [one for one in self.run.journal.records if one["kind"] in _EFFECT]
        closed = {(one["call"], one["of"]) for one in own if one["kind"] == "settled"}
        found = [one for one in self._announced() if (one["call"], one["time"]) not in closed]
        over = {(one["call"], one["of"]) for records in self._journals() for one in records if one["kind"] == "settled"}
        found += [one for one in self.undecided if (one["call"], one["time"]) not in closed | over]
        for records in (*self._journals(), own):
            last = {one["call"]: one for one in records}
            found += [
                one
                for one in last.values()
                if one["kind"] == "intent" and (records is own or (one["call"], one["time"]) not in closed)
            ]
        return found

    def _word(self, fits: Callable[[Settled], bool]) -> Settled | None:
        """Return a person's decision about an effect that is not used yet."""
        used = {one.get("wait") for records in (*self._journals(), self.run.journal.records) for one in records}
        return next((one for one in self.settled if one.wait not in used and fits(one)), None)

    def _filed(self) -> set[str]:
        """Return the waits whose decisions a committed transcript has used: perhaps in another clone, for an earlier call."""
        found = history.transcripts(self.run.project.git, self.run.view.protocol)
        return {one["wait"] for name, data in found for one in transcript.parse(data, name) if one.get("wait")}


_EFFECT = ("intent", "outcome", "settled")


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


def _made(outcome: Record) -> Made:
    return Made(outcome["content"], outcome["error"], outcome["decision"], known="wait" not in outcome)


def _canonical(arguments: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(arguments), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def code_digest(git: Git, commit: str, module: str) -> str:
    """Return the digest of a module's code in a commit: of everything below its first name, since it may import the rest."""
    root = module.partition(".")[0]
    files = {
        path: git.blob(entry.oid) or b""
        for path, entry in git.files(commit).items()
        if path.partition("/")[0] == root or path == f"{root}.py"
    }
    return manifest_digest(files)


# --- what people said ----------------------------------------------------------------------------------------------------


def words_of(
    git: Git, snapshot: Snapshot, known: Iterable[log.RawEntry], slug: str, words: Sequence[Event]
) -> dict[str, Word]:
    """Return the decisions about the calls of a step: those of the log, and `words`, those of this transition."""
    held: dict[str, tuple[str, str]] = {}
    found: dict[str, Word] = {}
    said: list[tuple[str, str, str, Sequence[str], bool]] = []
    for raw in known:
        if raw.subject == slug and raw.event == "call-held":
            held[f"w{raw.revision}"] = (str(raw.fields["call"]), str(raw.fields["digest"]))
        elif raw.subject == slug and raw.event == "call-decided":
            fields = raw.fields
            said.append((fields["wait"], fields["decision"], fields["by"], fields.get("approvals") or (), True))
        elif event_type(raw.event).ends_attempt and (raw.subject == slug or slug in raw.fields.get("steps", {})):
            said.clear()  # a word is about one attempt, whatever number the next one is given
    said += [
        (one.wait, one.decision, one.by, one.approvals, False)
        for one in words
        if isinstance(one, ev.CallDecided) and one.subject == slug
    ]
    for wait, decision, by, approvals, told in said:
        call, of = held[wait]
        found[call] = Word(decision == "approved", by, _reason(git, snapshot, approvals), of, told)
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


def settled_of(known: Iterable[log.RawEntry]) -> list[Settled]:
    """Return people's decisions about unknown effects of all steps; for a call with several questions, the last."""
    asked: dict[str, Mapping[str, Any]] = {}
    found: dict[str, Settled] = {}
    for raw in known:
        if raw.event == "effect-unknown":
            asked[f"w{raw.revision}"] = raw.fields
        elif raw.event == "effect-decided":
            of, fields = asked[str(raw.fields["wait"])], raw.fields
            found[of["call"]] = Settled(
                fields["wait"], of["call"], of["tool"], of["digest"], fields["happened"] is True, str(fields["by"])
            )
    return list(found.values())


def undecided_of(known: Iterable[log.RawEntry]) -> list[Record]:
    """Return the effects that a person was asked about and has not answered for, each as the announcement of a call."""
    asked: dict[str, log.RawEntry] = {}
    for raw in known:
        if raw.event == "effect-unknown":
            asked[str(raw.fields["call"])] = raw
        elif raw.event == "effect-decided":
            asked = {call: one for call, one in asked.items() if f"w{one.revision}" != raw.fields["wait"]}
    return [
        {key: raw.fields[key] for key in ("call", "tool", "digest", "text")}
        | {"kind": "intent", "time": raw.time, "revision": raw.revision}
        for raw in asked.values()
    ]
