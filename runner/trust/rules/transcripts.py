"""24. transcript, 22. needed: the history has the transcripts that the log names, and no call in them was against the policy.

A history commit has the files of every attempt so far; the one that a transition filed is in the commit beside it, and a later
one of the same attempt may be longer. So a name's transcripts are all that any commit of the history has under it, and the newest
commit, which every reader reads, has one of them, or a longer one.

A transcript leaves some facts of a call out: paths after links were followed, whether untrusted text was in the context, which module
a tool is of, whether the attempt was killed and resumed under another policy. Each is taken in the runner's favour. So a finding here
was not permitted; a person who reads the transcript may still object to others.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from runner.errors import InsufficientHistoryError, IntegrityError, RunnerError
from runner.git import Git
from runner.lines import few
from runner.protocol import aliases, config, paths, plans, transcript
from runner.protocol.event_types import event_type
from runner.protocol.ids import digest
from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan, Step
from runner.store import history, record
from runner.store.trusted import Trusted
from runner.trust import policy, trusted_config
from runner.trust.transitions import transitions_below
from runner.trust.trusted_config import TrustedConfig
from runner.trust.walk import Evidence, Finding, Named, Report

if TYPE_CHECKING:
    from runner.protocol.transcript import Call, HeldCall, Line, Response, Result

_OWN = ("finish", "ask_person", "publish_artifact")  # of the loop itself: they do nothing


# --- 24: the transcripts that the log names ---


def wrong_transcripts(
    git: Git,
    protocol: str,
    named: Sequence[Named],
    tip: str | None,
    remote: str | None,
    told: list[tuple[Named, str]],
) -> Iterator[Finding]:
    """Return the transcripts of the history up to `tip` that are not the ones that the log names. `told` gets the blobs of those
    that are.

    Raises:
        InsufficientHistoryError: a transcript that the log names is not in this clone, and nothing else is in its place.
    """
    if not named:
        return
    there = _files(git, protocol, tip) if tip is not None else {}
    lacking: list[str] = []
    digests: dict[str, str] = {}
    proven: dict[str, list[tuple[Named, str]]] = {}
    for one in named:
        names = _names(one, there)
        oids = [oid for name in names for oid in there.get(name, ())]
        for oid in oids:
            if oid not in digests:
                digests[oid] = digest(git.require(oid, f"{names[0]} of the history"))
        right = next((oid for oid in oids if digests[oid] == one.digest), None)
        if right is not None:
            told.append((one, right))
            at = next(name for name in names if right in there.get(name, ()))
            proven.setdefault(at, []).append((one, right))
        elif oids:
            at = f"{history.ref_of(protocol)}:{names[0]}"
            yield Finding("transcript", one.commit, at, f"it is not the transcript that `{one.event}` names")
        else:
            lacking.append(names[0])
    yield from _wrong_at_tip(git, protocol, tip, proven)
    if lacking:
        raise InsufficientHistoryError(
            f"{few(lacking, 1)} of its transcripts is not in this clone",
            history.ref_of(protocol),
            history.brings(protocol, remote)
            + (
                ""
                if tip is None
                else f", or `runner doctor --fix {protocol}` in a clone that has it publishes it again"
            ),
        )


def _wrong_at_tip(
    git: Git, protocol: str, tip: str | None, proven: dict[str, list[tuple[Named, str]]]
) -> Iterator[Finding]:
    """Return the transcripts that an older commit of the history has and the newest one lacks, or has changed."""
    now = (git.tree(f"{tip}:runs") or {}) if tip is not None else {}
    for name, versions in proven.items():
        last, oid = versions[-1]
        kept, where = now.get(name.removeprefix("runs/")), f"{history.ref_of(protocol)}:{name}"
        if kept is None:
            yield Finding("transcript", last.commit, where, "it was taken out of the history")
        elif kept.oid not in [one for _, one in versions]:
            before, after = (git.require(one, f"{name} of the history") for one in (oid, kept.oid))
            if not after.startswith(before):
                yield Finding("transcript", last.commit, where, f"it is not the one that `{last.event}` names any more")


def _names(one: Named, there: dict[str, list[str]]) -> list[str]:
    """Return where a transcript may lie, the likeliest first; the log does not number a plan's."""
    if one.attempt == 0:
        plans = [name for name in there if re.fullmatch(r"runs/plan\.[0-9]+\.jsonl", name)]
        return plans or [history.transcript_name(one.subject, 1)]
    if event_type(one.event).is_verdict:
        return [history.review_name(one.subject, one.attempt)]
    return [history.transcript_name(one.subject, one.attempt)]


def _files(git: Git, protocol: str, tip: str) -> dict[str, list[str]]:
    """Return name to blobs of all that any commit of the history has."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for commit, _ in history.commits(git, protocol, tip):
        runs = git.whole_tree(commit.tree).get("runs")
        if runs is None or runs.oid in seen:
            continue
        seen.add(runs.oid)
        for name, entry in (git.tree(runs.oid) or {}).items():
            known = found.setdefault(f"runs/{name}", [])
            if entry.oid not in known:
                known.append(entry.oid)
    return found


def last_commit(git: Git, protocol: str, tip: str) -> str | None:
    """Return the branch's commit that the history up to `tip` was last filed beside."""
    return next((branch for _, branch in history.commits(git, protocol, tip)), None)


# --- 22: the calls in them ---


def wrong_calls(git: Git, protocol: str, told: Sequence[tuple[Named, str]], trusted: Trusted) -> Iterator[Finding]:
    """Return the calls that were made against the policy. `told`: each transcript that the log names, in its order, and its blob."""
    known, at = list[RawEntry](), f"{paths.folder(protocol)}/{paths.LOG}"
    seen: dict[tuple[str, int], int] = {}  # how many lines of an attempt's transcript were asked about already
    for one, oid in told:
        if one.attempt == 0 or event_type(one.event).is_verdict:
            continue  # planners and reviewers only look

        try:
            lines = transcript.parse(git.blob(oid) or b"", f"the transcript that {one.commit[:12]} names")
        except IntegrityError as error:
            yield Finding("transcript", one.commit, at, f"{error.what}: {error.where}")
            continue
        for wrong in _unsaid(lines):
            yield Finding("transcript", one.commit, at, f"{one.subject}: {wrong}")
        start = seen.get((one.subject, one.attempt), 0)
        seen[one.subject, one.attempt] = max(start, len(lines))
        made = _made(lines, start)
        if not made:
            continue
        # As the last of these transitions left it: people's commits may have damaged it since.
        known = known or record.events(git, protocol, told[-1][0].commit)
        text = None
        for oid in _policies(git, protocol, one.commit):
            try:
                text = _call_wrong(git, protocol, one, made, _approved(known, one), oid, trusted.branch)
            except RunnerError as error:
                text = f"{error.what}, {error.where}"
            if text is None:
                break
        if text is not None:
            yield Finding("needed", one.commit, at, f"{one.subject}: {text}")


def _policies(git: Git, protocol: str, commit: str) -> Iterator[str]:
    """Yield the trusted commits whose policy may have held: the later transition that records a killed call has its own."""
    for one in islice(transitions_below(git, protocol, commit), 2):
        yield one.trailers.trusted


def _made(lines: Sequence[Line], start: int) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Return (tool, arguments, whether it reached outside) of the calls that were made, from the line `start` on."""
    found: list[tuple[str, Mapping[str, Any], bool]] = []
    asked: dict[str, list[Call]] = {}  # by its id, which two calls of a turn may have; the next one last
    for number, line in enumerate(lines):
        if line.kind == "response" or line.kind == "summary":
            asked = {}
            for call in reversed(line.calls):
                asked.setdefault(call.id, []).append(call)
        elif number >= start and line.kind == "intent":
            found.append((line.tool, line.arguments, True))
        elif line.kind == "results":
            for one in line.results:
                calls = asked.get(one.id, [])
                tool, given = _as_made(one, calls.pop() if len(calls) > 1 else calls[0]) if calls else (one.name, {})
                if number >= start and not one.error and tool not in _OWN:
                    found.append((tool, given, False))
    return found


def _unsaid(lines: Sequence[Line]) -> Iterator[str]:
    """Yield where a coding agent's calls differ from its own output, which the transcript has byte for byte.

    A call that is recorded has to be there; and where the agent ended its turn, each that is there has to be recorded, or be part of
    one that is: a file that it writes by the runner, the tool of a server, an edit that was approved before.
    """
    turns = [
        line for line in lines if line.kind == "response" and line.provider == "acp" and isinstance(line.raw, dict)
    ]
    said: dict[str, tuple[set[str], list[str]]] = {}  # by its id: its kinds, and all texts of it
    for one, kinds, texts in _said(turns):
        known = said.setdefault(one, (set(), []))
        known[0].update(kinds)
        known[1].extend(texts)
    calls = [call for turn in turns for call in turn.calls]
    for call in (call for call in calls if policy.is_agents(call.name)):
        if call.id not in said:
            yield f"its transcript has a call of {call.name} that is missing from the agent's output"
        elif not _is_said(call, *said[call.id]):
            yield f"its transcript has a call of {call.name} that is another one in the agent's own output"
    ends = [number for number, turn in enumerate(turns, 1) if any(call.name == "finish" for call in turn.calls)]
    there = {call.id for call in calls}
    for one in _made_by(turns[: ends[-1]] if ends else []):
        if one not in there and not any(_covers(call, *said[one]) for call in calls):
            kind = next(iter(sorted(said[one][0] - {"None"})), "other")
            yield f"its transcript leaves out a call that the agent's own output has: {one}, of the kind {kind}"


def _messages(turns: Sequence[Response]) -> Iterator[dict[str, Any]]:
    """Yield the messages of an agent's output."""
    output = "".join(str(turn.raw.get("stdout", "")) for turn in turns)
    with contextlib.suppress(ValueError):  # a letter may be cut in two between two records
        output = output.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    for line in output.split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


def _call_in(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a message says of a call, with its `toolCallId`; empty where it is about none."""
    params = message.get("params")
    if not isinstance(params, dict):
        return {}
    kinds = {
        "fs/write_text_file": ("write", "edit"),
        "fs/read_text_file": ("read", "read"),
        "terminal/create": ("terminal", "execute"),
    }
    if message.get("method") in kinds:
        name, kind = kinds[message["method"]]
        return {**params, "toolCallId": f"{name}-{message.get('id')}", "kind": kind, "status": "asked"}
    update, asked = params.get("update"), params.get("toolCall")
    if isinstance(update, dict) and "toolCallId" in update:
        return update
    return {**asked, "status": "asked"} if isinstance(asked, dict) else {}


def _said(turns: Sequence[Response]) -> Iterator[tuple[str, set[str], list[str]]]:
    """Yield each message about a call: its id, its kind and its texts."""
    for found in filter(None, map(_call_in, _messages(turns))):
        texts = _texts(found)
        if found.get("status") == "asked" and "command" in found:
            with contextlib.suppress(TypeError):
                texts.append(aliases.line_of(found))
        if isinstance(raw := found.get("rawInput"), dict) and (line := aliases.command_of(raw)):
            texts.append(line)
        yield str(found.get("toolCallId")), {str(found.get("kind"))}, texts


def _made_by(turns: Sequence[Response]) -> dict[str, None]:
    """Return the ids of the calls that an agent asked for or made in turns that it ended, but for those of an old session."""
    made: dict[str, None] = {}
    of_turn: dict[str, None] = {}
    is_starting = False
    for message in _messages(turns):
        result, found = message.get("result"), _call_in(message)
        if "method" not in message and isinstance(result, dict | None) and "result" in message:
            is_starting = "protocolVersion" in (result or {})
            made |= of_turn if "stopReason" in (result or {}) else {}
            of_turn = {}
        elif found and not is_starting and found.get("status") in ("asked", "in_progress", "completed", "failed"):
            of_turn[str(found["toolCallId"])] = None
    return made


def _is_said(call: Call, kinds: set[str], texts: Sequence[str]) -> bool:
    """Return whether what an agent said of a call has its kind and all texts of its arguments."""
    # Half a letter, as a title that was cut may end with, is recorded by its number.
    kind, whole = call.name.rpartition("/")[2], " ".join(texts).encode("utf-8", "backslashreplace").decode()
    return kind in {*kinds, "other"} and all(piece in whole for piece in _pieces(call.arguments or {}))


def _covers(call: Call, kinds: set[str], texts: Sequence[str]) -> bool:
    """Return whether a recorded call is about what an agent said of another: the same server's tool, or its very path or command."""
    given = call.arguments or {}
    if call.name.startswith("mcp:"):
        return _words(call.name.rpartition("/")[2]) in _words(" ".join(texts))
    about = [str(given[key]) for key in (("command",) if "command" in given else ("path", "url")) if key in given]
    is_there = all(any(text == one or text.endswith(f"/{one}") for text in texts) for one in about)
    return policy.is_agents(call.name) and call.name.rpartition("/")[2] in kinds and bool(about) and is_there


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text)


def _pieces(value: Any, key: str = "") -> Iterator[str]:
    """Yield what the agent's output has of a call's arguments, where paths start elsewhere and secrets are other texts."""
    if isinstance(value, str):
        between = r"/workspace|\[\w+\]" + ("|/" if key in ("path", "paths") else "")
        yield from (piece for piece in re.split(between, value) if piece != ".")
    for name, one in value.items() if isinstance(value, dict) else ():
        yield from _pieces(one, name)
    for one in value if isinstance(value, list) else ():
        yield from _pieces(one, key)


def _texts(value: Any) -> list[str]:
    """Return all texts of a JSON value, in their order."""
    if isinstance(value, dict | list):
        return [text for one in (value.values() if isinstance(value, dict) else value) for text in _texts(one)]
    return [str(value)] if isinstance(value, str | int) else []


def _as_made(one: Result, call: Call) -> tuple[str, Mapping[str, Any]]:
    """Return the tool and the arguments of a call that has a result, in the runner's form."""
    name, given = aliases.named(call.name, call.arguments or {}, (one.name,))
    return name, aliases.translated(name, given) if name in policy.BUILT_IN else given


def _approved(known: Sequence[RawEntry], one: Named) -> set[str]:
    """Return the names of the attempt's held calls that were approved."""
    held = {f"w{raw.revision}": str(raw.fields.get("call")) for raw in known if raw.event == "call-held"}
    decided = [raw for raw in known if raw.event == "call-decided" and raw.fields.get("decision") == "approved"]
    names = {held.get(str(raw.fields.get("wait")), "") for raw in decided}
    return {name for name in names if name.rpartition(".")[0] == f"{one.subject}.{one.attempt}"}


def _call_wrong(
    git: Git,
    protocol: str,
    one: Named,
    made: Sequence[tuple[str, Mapping[str, Any], bool]],
    approved: set[str],
    trusted: str,
    branch: str,
) -> str | None:
    if git.commit(trusted) is None:
        return None  # the chain's own walk tells of that
    found = trusted_config.load(git, trusted, branch)
    files = git.tree(f"{one.commit}:{paths.folder(protocol)}") or {}
    words = {name: git.content(entry) or b"" for name, entry in files.items() if paths.is_plan_file(name)}
    plan = plans.parse(words, f"{paths.folder(protocol)} in {one.commit[:12]}")
    step = plan.step(one.subject)
    if step is None:
        return None
    rules, listed, modules = _rules(git, found, plan, step)
    held = [call for name in approved if (call := _call_of(git, one.commit, protocol, name)) is not None]
    allowed = {call.tool for call in held if not policy.is_agents(call.tool)}
    for tool, arguments, outside in made:
        is_agents = policy.is_agents(tool)  # of one, the transcript has the paths as they were judged, but for links
        effect = "external" if outside else policy.effect_of(tool) or "read"
        subject = policy.call(tool, arguments, effect=effect, paths=None if is_agents else ())
        is_listed = tool in listed or (modules and policy.effect_of(tool) is None)
        said = policy.evaluate(
            rules,
            subject._replace(
                paths=subject.paths if is_agents else (),
                step=one.subject,
                listed="the agent file" if is_listed else "",
                vouched=True,
                configured=paths.CONFIG,
            ),
            loose=True,
        )
        if said.verdict == "deny":
            return f"the policy denies the call of {tool} by `{said.rule}`, and it was made"
        if (
            said.verdict == "ask"
            and tool not in allowed
            and (tool, dict(arguments)) not in [(c.tool, c.arguments) for c in held]
        ):
            return f"the call of {tool} needed an approval by `{said.rule}`, and was made without one"
    return None


def _rules(git: Git, found: TrustedConfig, plan: Plan, step: Step) -> tuple[policy.Policy, set[str], bool]:
    """Return the rules with those of the step's agent file, the tools that it lists by name, and whether it lists modules."""
    name = step.header.agent or plan.header.agent
    if name is None:
        return found.rules, set(), False
    path = paths.agent_file(name)
    data, where = git.blob(f"{found.commit}:{path}"), f"{path} on {found.branch}"
    if data is None:
        return found.rules, set(), False

    one = config.parse_agent(data, where)
    return (
        found.rules_of(one, data, where),
        {tool for tool in one.tools if isinstance(tool, str)},
        bool(one.tool_modules()),
    )


def _call_of(git: Git, commit: str, protocol: str, name: str) -> HeldCall | None:
    data = git.blob(f"{commit}:{paths.folder(protocol)}/{paths.call_file(name)}")
    return transcript.parse_call(data, name) if data is not None else None


def check_transcripts(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """24. The transcripts of the history are those that the log names."""
    named = report.transcripts
    yield from wrong_transcripts(git, report.protocol, named, evidence.history, evidence.remote, evidence.proven)


def check_tool_calls(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """22. No call in a transcript was made against the policy, or without the approval that it required."""
    yield from wrong_calls(git, report.protocol, evidence.proven, evidence.trusted)
