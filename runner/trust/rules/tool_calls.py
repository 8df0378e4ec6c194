"""22. needed, of tool calls: by its transcript, no call was made that the policy of then denies, or without a required approval.

A transcript leaves some facts out: paths after links were followed, whether untrusted text was in the context, which module a tool is
of, whether the attempt was killed and resumed under another policy. Each is taken in the runner's favour. So a finding here was not
permitted; a person who reads the transcript may still object to others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from runner.errors import IntegrityError, RunnerError
from runner.git import Git
from runner.protocol import paths, plans, transcript
from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan, Step
from runner.protocol.transcript import Intent, Line, Response, Results, Summary
from runner.store import record
from runner.store.trusted import Trusted
from runner.trust import policy, trusted_config
from runner.trust.transitions import transitions_below
from runner.trust.trusted_config import TrustedConfig
from runner.trust.walk import Evidence, Finding, Named, Report

_OWN = ("finish", "ask_person", "publish_artifact")  # of the loop itself: they do nothing


def wrong(git: Git, protocol: str, told: Sequence[tuple[Named, str]], trusted: Trusted) -> Iterator[Finding]:
    """Return the calls that were made against the policy. `told`: each transcript that the log names, in its order, and its blob."""
    known: list[RawEntry] | None = None
    seen: dict[tuple[str, int], int] = {}  # how many lines of an attempt's transcript were asked about already
    for one, oid in told:
        if one.attempt == 0 or one.event in ("qa-passed", "qa-failed"):
            continue  # planners and reviewers only look
        try:
            lines = transcript.parse(git.blob(oid) or b"", f"the transcript that {one.commit[:12]} names")
        except IntegrityError as error:
            yield Finding(
                "transcript", one.commit, f"{paths.folder(protocol)}/{paths.LOG}", f"{error.what}: {error.where}"
            )
            continue
        start = seen.get((one.subject, one.attempt), 0)
        seen[one.subject, one.attempt] = max(start, len(lines))
        made = _made(lines, start)
        if not made:
            continue
        # As the last of these transitions left it: people's commits may have damaged it since.
        known = record.events(git, protocol, told[-1][0].commit) if known is None else known
        text = None
        for oid in _policies(git, protocol, one.commit):
            try:
                text = _wrong(git, protocol, one, made, _approved(known, one), oid, trusted.branch)
            except RunnerError as error:
                text = f"{error.what}, {error.where}"
            if text is None:
                break
        if text is not None:
            yield Finding("needed", one.commit, f"{paths.folder(protocol)}/{paths.LOG}", f"{one.subject}: {text}")


def _policies(git: Git, protocol: str, commit: str) -> Iterator[str]:
    """Yield the trusted commits whose policy may have held: the later transition that records a killed call has its own."""
    for one in islice(transitions_below(git, protocol, commit), 2):
        yield one.trailers.trusted


def _made(lines: Sequence[Line], start: int) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Return (tool, arguments, whether it reached outside) of the calls that were made, from the line `start` on."""
    found: list[tuple[str, Mapping[str, Any], bool]] = []
    asked: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(lines):
        if isinstance(line, Response | Summary):
            asked = {call.id: call.arguments or {} for call in line.calls}
        elif number >= start and isinstance(line, Intent):
            found.append((line.tool, line.arguments, True))
        elif number >= start and isinstance(line, Results):
            found += [
                (one.name, asked.get(one.id, {}), False)
                for one in line.results
                if not one.error and one.name not in _OWN
            ]
    return found


def _approved(known: Sequence[RawEntry], one: Named) -> set[str]:
    """Return the names of the attempt's held calls that were approved."""
    held = {f"w{raw.revision}": str(raw.fields.get("call")) for raw in known if raw.event == "call-held"}
    decided = [raw for raw in known if raw.event == "call-decided" and raw.fields.get("decision") == "approved"]
    names = {held.get(str(raw.fields.get("wait")), "") for raw in decided}
    return {name for name in names if name.rpartition(".")[0] == f"{one.subject}.{one.attempt}"}


def _wrong(
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
    words = {name: git.blob(entry.oid) or b"" for name, entry in files.items() if paths.is_words(name)}
    plan = plans.parse(words, f"{paths.folder(protocol)} in {one.commit[:12]}")
    step = plan.step(one.subject)
    if step is None:
        return None
    rules, listed, modules = _rules(git, found, plan, step)
    allowed = {_tool_of(git, one.commit, protocol, name) for name in approved}
    for tool, arguments, outside in made:
        effect = "external" if outside else policy.BUILT_IN.get(tool, "read")
        subject = policy.call(tool, arguments, effect=effect, paths=())
        is_listed = tool in listed or (modules and tool not in policy.BUILT_IN)
        said = policy.evaluate(
            rules,
            dataclasses.replace(
                subject,
                paths=(),
                step=one.subject,
                listed="the agent file" if is_listed else "",
                vouched=True,
                configured=paths.CONFIG,
            ),
            loose=True,
        )
        if said.verdict == "deny":
            return f"the policy denies the call of {tool} by `{said.rule}`, and it was made"
        if said.verdict == "ask" and tool not in allowed:
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
    from runner.protocol import agent_file  # loads the models of policies

    one = agent_file.parse(data, where)
    return (
        found.rules_of(one, data, where),
        {tool for tool in one.tools if isinstance(tool, str)},
        bool(one.tool_modules()),
    )


def _tool_of(git: Git, commit: str, protocol: str, name: str) -> str:
    from runner.protocol import call_file

    data = git.blob(f"{commit}:{paths.folder(protocol)}/{paths.call_file(name)}")
    return call_file.parse(data, name).tool if data is not None else ""


def check_tool_calls(git: Git, report: Report, evidence: Evidence) -> Iterator[Finding]:
    """22. No call in a transcript was made against the policy, or without the approval that it required."""
    yield from wrong(git, report.protocol, evidence.proven, evidence.trusted)
