"""The JSON Schemas in `schemas/`, generated from the models: `python -m runner.protocol.schema` writes them.

Promises one schema a format, with its id, title and description, and the same bytes each time. A schema is for editors and
other programs: where it and a parser differ, the parser decides (a plain `2024` is a text to the parser where a text is
expected, and a number to JSON).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, with_config

from runner.protocol import events, json_output, state, transcript
from runner.protocol.agent_file import AgentFile
from runner.protocol.budget_file import Day
from runner.protocol.call_file import HeldCall
from runner.protocol.clarifications import Clarifications
from runner.protocol.config import Config
from runner.protocol.lease_file import Lease
from runner.protocol.model_answers import Discovery, Draft, Verdict
from runner.protocol.plans import PlanHeader, StepHeader
from runner.protocol.policy_file import Policy
from runner.protocol.workflow import WorkflowHeader

Schema = dict[str, Any]

_PLAN = {
    "title": "What is to be done, in one line.",
    "base": "The branch that the work begins from and is merged into.",
    "agent": "The coworker of the steps that name none.",
    "engine": "The model of the steps that name none, such as gemini:gemini-3-pro.",
    "budget": "The most that the whole protocol may spend.",
    "qa": "How the steps that do not say are checked.",
    "approval": "Whether a person has to approve the plan before any step.",
    "inputs": "Values that steps refer to as ${{ inputs.NAME }}; a command gets them as RUNNER_INPUT_NAME.",
    "links": "Where more is to be read.",
    "acceptance": "What has to hold at the end, in words.",
}
_STEP = {
    "title": "What is to be done, in one line.",
    "kind": "What carries the step out.",
    "agent": "The coworker: the name of a file in .protocols/agents.",
    "engine": "The model, such as gemini:gemini-3-pro.",
    "needs": "The steps that have to be done before; without it, the step before this one.",
    "run": "What a command runs: a line for `sh -c`, or a list that is run as it is.",
    "tool": "The tool's name.",
    "with": "The tool's input; ${{ inputs.NAME }} and ${{ steps.SLUG.result.NAME }} are replaced.",
    "outputs": "Paths or globs that must exist or have changed afterwards; each is an artifact.",
    "qa": "How the work is checked; without it light where checks or outputs are named, else skip.",
    "approval": "Whether a person has to approve the step before it, or its work after it.",
    "on_failure": "What happens when it fails: {retry: 2, then: block} or {goto: STEP, limit: 3}.",
    "timeout": "How long it may take, such as 90s, 20m or 1h30m.",
    "budget": "The most that the step may spend.",
}
_CONFIG = {
    "base": "The branch where work is merged.",
    "branch": "The name of a protocol's branch, with {id} in it.",
    "identity": "Who the runner's commits are by.",
    "publish": "Whether branches are pushed.",
    "forge": "The forge, where it cannot be told from the remote.",
    "engine": "Which model does what; of a list, the first that answers.",
    "executor": "Where commands run.",
    "workspace": "How the runner's own checkout is made ready.",
    "worktrees": "Where people's worktrees are made.",
    "lease": "How long a runner may be silent before another takes over: `ttl`, and `grace` after it.",
    "tools": "Python modules whose functions are tools.",
    "mcp": "MCP servers.",
    "filters": "Filter drivers that may run, such as lfs.",
    "ci": "The CI that runs steps.",
    "qa": "When QA starts.",
    "clarifications": "Whether open questions of clarifications.yaml keep a protocol from being begun, or are told.",
}
_CLARIFICATIONS = {"questions": "What nobody could find out, and what people answered; an empty answer is none."}
_COWORKER = {
    "name": "Who, as people call it; plans and steps name the file.",
    "description": "What people should know of it.",
    "objective": "What it is there for.",
    "instructions": "How it works.",
    "engine": "The model, such as gemini:gemini-3-pro.",
    "tools": "What it may use: names of tools, and Python modules that hold them.",
    "policies": "What its tools may do beyond or short of the defaults.",
    "budget": "The most that one of its steps may spend.",
}
_POLICY = {
    "repo": "Names this project in approvals: 32 hex digits, made once.",
    "roles": "Who is in which role: principals of allowed_signers.",
    "agents": "The principals of runners and agents; their words never count.",
    "forge": "Host to principal to numeric id, for reviews on a forge.",
    "own_work": "Whether people may approve what they wrote themselves; signed: where those commits are signed.",
    "approvals": "Who must say yes, by what the word is about.",
    "rules": "What is denied, asked about or allowed. Deny goes over ask, ask over allow; the order decides nothing.",
    "approval_required": "Tools whose calls wait for a word; short for rules with ask and tool.",
    "protected": "Files that a person looks at when a step changed them, besides the built-in ones.",
    "limits": "What a step may change without anybody looking.",
    "budget": "The most that any step, any protocol, and all of them on a UTC day may spend.",
    "network": "The hosts that may be reached.",
    "engines": "The engines that may be chosen.",
    "isolation": "The weakest isolation that is allowed: host, container or sandbox.",
    "transitions": "Whether the runner's commits have to be signed by one of agents.",
    "examples": "What the policy is meant to say; `runner policy test` runs them.",
}
_DRAFT = {
    "title": "What is to be done, in one line.",
    "prose": "Why, what belongs to it and what does not.",
    "acceptance": "What has to hold at the end, each in one line.",
    "steps": "What is done, in this order.",
    "questions": "What has to be known before there can be a plan; without steps then.",
}
_DISCOVERY = {
    "bootstrap": "Lines of shell that make a fresh checkout ready.",
    "lint": "Lines of shell that read the code for mistakes of form.",
    "typecheck": "Lines of shell that check the types.",
    "test": "Lines of shell that run the tests.",
    "build": "Lines of shell that build what is shipped.",
    "questions": "What the material does not tell, and what would change the commands.",
}
_WORKFLOW = _PLAN | {"inputs": "What may be given with --input NAME=VALUE: the type of each, or more of it."}

# name: (model, what it is, what its keys mean)
_WORDS: dict[str, tuple[type[BaseModel], str, dict[str, str]]] = {
    "plan": (PlanHeader, "The front matter of plan.md.", _PLAN),
    "step": (StepHeader, "The front matter of a step file, NN-slug.md.", _STEP),
    "config": (Config, "The whole of .protocols/config.yaml.", _CONFIG),
    "clarifications": (Clarifications, "The whole of .protocols/clarifications.yaml.", _CLARIFICATIONS),
    "coworker": (AgentFile, "The whole of .protocols/agents/NAME.yaml.", _COWORKER),
    "policy": (Policy, "The whole of .protocols/policy.yaml.", _POLICY),
    "discovery": (
        Discovery,
        "What a model answers that looks at a repository for `runner init --discover`.",
        _DISCOVERY,
    ),
    "planning": (Draft, "What a model answers that is asked for a plan.", _DRAFT),
    "workflow": (WorkflowHeader, "The front matter of plan.md in .protocols/workflows/NAME/.", _WORKFLOW),
}
_OUTPUT: dict[str, tuple[Any, str]] = {
    "show": (json_output.Shown, "What `runner show --json` prints."),
    "status": (json_output.Protocols, "What `runner status --json` prints."),
    "list": (json_output.Protocols, "What `runner list --json` prints."),
    "verify": (json_output.Verified, "What `runner verify --json` prints."),
    "why": (json_output.Why, "What `runner why --json` prints."),
    "watch": (json_output.Watched, "A line of what `runner watch --json` prints: something that happened."),
    "fleet": (json_output.FleetEvent, "A line of what `runner fleet --json` prints."),
}


def schemas() -> dict[str, Schema]:
    """Return every schema by its name, such as `step` for `schemas/step.schema.json`."""
    found = {}
    for name, (model, text, keys) in _WORDS.items():
        made = _without_null(model.model_json_schema(by_alias=True))
        for key, told in keys.items():
            made["properties"][key]["description"] = told
        found[name] = _finish(name, made, text)
    found["qa-verdict"] = _finish("qa-verdict", qa_verdict(), "What a model that judges a change has to answer.")
    called = HeldCall.model_json_schema(mode="validation", by_alias=True)
    called["required"] = list(called["properties"])  # `render` leaves none out
    found["call"] = _finish(
        "call", called, "The whole of calls/SLUG.ATTEMPT.N.json, a tool call that waits for a word."
    )
    lease = Lease.model_json_schema(mode="validation", by_alias=True)
    lease["required"] = list(lease["properties"])
    found["lease"] = _finish(
        "lease", lease, "The whole of lease.json, in the commits of refs/runner/leases/* of the remote."
    )
    day = Day.model_json_schema(mode="validation", by_alias=True)
    for made in (day, *day["$defs"].values()):
        made["required"] = list(made["properties"])
    day["properties"]["open"]["additionalProperties"] = False
    found["ledger"] = _finish("ledger", day, "The whole of YYYY-MM-DD.json, in the commits of refs/runner/ledger.")
    found["state"] = _finish("state", _state(), "The whole of state.json, the runner's own record of a protocol.")
    found["events"] = _finish("events", _entries(), "An entry of log.md as JSON: one definition an event.")
    found["log"] = _finish("log", _entries(), "A line of what `runner log --json` prints: one event.")
    lines = transcript.ADAPTER.json_schema()
    found["transcript"] = _finish("transcript", lines, "A line of a transcript, runs/*.jsonl of refs/runner/history/*.")
    for name, (kind, text) in _OUTPUT.items():
        found[name] = _finish(name, TypeAdapter(kind).json_schema(mode="validation"), text)
    return dict(sorted(found.items()))


def qa_verdict() -> Schema:
    """Return the schema of a verdict, as a model is given it: a key that may be left out may not be null."""
    made: Schema = _without_null(Verdict.model_json_schema())
    return made


def render(schema: Schema) -> bytes:
    """Return the bytes of a schema's file."""
    return (json.dumps(schema, indent=2, ensure_ascii=False) + "\n").encode()


def write(folder: Path) -> Iterator[Path]:
    """Write every schema into `folder`, and yield those that changed."""
    for name, schema in schemas().items():
        path, data = folder / f"{name}.schema.json", render(schema)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)
            yield path


def _strict(kind: type[Any]) -> Schema:
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(kind)).json_schema()


def _state() -> Schema:
    made = _strict(state.State)
    made["properties"] = {"schema": {"const": state.SCHEMA}, **made["properties"]}
    made["required"] = list(made["properties"])
    made["$defs"]["StepState"]["required"] += ["status", "attempt", "result"]  # `render` leaves out the others alone
    return made


def _entries() -> Schema:
    shared: Schema = {}
    definitions: Schema = {}
    for name, kind in events.MODELS.items():
        made = events.adapter(kind).json_schema()
        shared |= made.pop("$defs", {})
        optional = [field.name for field in dataclasses.fields(kind) if field.name not in made.get("required", [])]
        made["properties"] = {
            "revision": {"type": "integer", "minimum": 1},
            "event": {"const": name},
            "subject": {"type": "string", "description": "A step's slug, `plan`, or the protocol's id."},
            "time": {"type": "string", "format": "date-time"},
            "actor": {"type": "string"},
            **{key: told for key, told in made["properties"].items() if key != "subject"},
        }
        made["required"] = [key for key in made["properties"] if key not in optional]
        definitions[name] = made
    return {
        "$defs": {**definitions, **dict(sorted(shared.items()))},
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
    }


def _without_null(node: Any) -> Any:
    """Return the schema of a people's file: a key that may be left out may not be null."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    found: Schema = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            found[key] = {name: _without_null(item) for name, item in value.items()}
        elif key != "default":
            found[key] = _without_null(value)
        elif isinstance(value, str | bool | int):
            found[key] = value
    options = [option for option in found.pop("anyOf", []) if option != {"type": "null"}]
    return {**options[0], **found} if len(options) == 1 else {**({"anyOf": options} if options else {}), **found}


def _finish(name: str, schema: Schema, text: str) -> Schema:
    plain = _without_titles(schema)
    plain.pop("description", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:protocol-runner:schema:{name}",
        "title": f"protocol-runner: {name}",
        "description": text,
        **plain,
    }


def _without_titles(node: Any) -> Any:
    """Return a schema without the titles that pydantic makes of names; `title` as a property's name stays."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {}
    for key, value in node.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in ("properties", "$defs"):
            found[key] = {name: _without_titles(item) for name, item in value.items()}
        elif key in ("default", "const", "enum"):
            found[key] = value
        else:
            found[key] = _without_titles(value)
    return found


if __name__ == "__main__":
    for changed in write(Path("schemas")):
        print(changed)
