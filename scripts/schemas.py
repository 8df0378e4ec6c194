"""The JSON Schemas in `schemas/`, generated from the models: `python -m scripts.schemas` writes them.

Promises one schema a format, with its id, title and description, and the same bytes each time. A schema is for editors and
other programs: where it and a parser differ, the parser decides (a plain `2024` is a text to the parser where a text is
expected, and a number to JSON).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, with_config

from runner.protocol import events, state, transcript
from runner.protocol.clarifications import Clarifications
from runner.protocol.config import AgentFile, Config
from runner.protocol.file_models import FileModel
from runner.protocol.model_answers import Discovery, Draft, Verdict
from runner.protocol.plans import PlanHeader, StepHeader
from runner.protocol.policy_file import Policy
from runner.protocol.ref_files import Day, Lease
from runner.protocol.transcript import HeldCall
from runner.protocol.workflow import WorkflowHeader
from scripts import json_output
from scripts.pydantic_models import model_of

Schema = dict[str, Any]

_FILES: dict[str, tuple[type[FileModel], str]] = {
    "plan": (PlanHeader, "The front matter of plan.md."),
    "step": (StepHeader, "The front matter of a step file, NN-slug.md."),
    "config": (Config, "The whole of .protocols/config.yaml."),
    "clarifications": (Clarifications, "The whole of .protocols/clarifications.yaml."),
    "coworker": (AgentFile, "The whole of .protocols/agents/NAME.yaml."),
    "policy": (Policy, "The whole of .protocols/policy.yaml."),
    "discovery": (Discovery, "What a model answers that looks at a repository for `runner init --discover`."),
    "planning": (Draft, "What a model answers that is asked for a plan."),
    "qa-verdict": (Verdict, "What a model that judges a change has to answer."),
    "workflow": (WorkflowHeader, "The front matter of plan.md in .protocols/workflows/NAME/."),
}
_OUTPUT: dict[str, tuple[Any, str]] = {
    "show": (json_output.Shown, "What `runner show --json` prints."),
    "show-step": (json_output.NamedStep, "What `runner show PROTOCOL STEP --json` prints."),
    "show-output": (json_output.Outputs, "What `runner show PROTOCOL STEP --output --json` prints."),
    "doctor": (json_output.Examined, "What `runner doctor --json` prints."),
    "doctor-config": (json_output.Values, "What `runner doctor --config --json` prints."),
    "status": (json_output.Protocols, "What `runner status --json` prints."),
    "list": (json_output.Protocols, "What `runner list --json` prints."),
    "acted": (json_output.Acted, "What a command that acts prints with --json, such as `runner run --json`."),
    "check": (json_output.Checked, "What `runner check --json` prints."),
    "engines": (json_output.Engines, "What `runner engines --json` prints."),
    "policy-check": (json_output.Decision, "What `runner policy check --json` prints."),
    "policy-test": (json_output.Tested, "What `runner policy test --json` prints."),
    "verify": (json_output.Verified, "What `runner verify --json` prints."),
    "diff": (json_output.Changed, "What `runner diff --json` prints."),
    "why": (json_output.Why, "What `runner why --json` prints."),
    "watch": (json_output.Watched, "A line of what `runner watch --json` prints: something that happened."),
    "fleet": (json_output.FleetEvent, "A line of what `runner fleet --json` prints."),
}


def schemas() -> dict[str, Schema]:
    """Return every schema by its name, such as `step` for `schemas/step.schema.json`."""
    found = {}
    for name, (model, text) in _FILES.items():
        found[name] = _finish(name, _without_null(model_of(model).model_json_schema(by_alias=True)), text)
    called = model_of(HeldCall).model_json_schema(mode="validation", by_alias=True)
    called["required"] = list(called["properties"])  # `render` leaves none out
    found["call"] = _finish(
        "call", called, "The whole of calls/SLUG.ATTEMPT.N.json, a tool call that waits for an approval."
    )
    lease = model_of(Lease).model_json_schema(mode="validation", by_alias=True)
    lease["required"] = list(lease["properties"])
    found["lease"] = _finish(
        "lease", lease, "The whole of lease.json, in the commits of refs/runner/leases/* of the remote."
    )
    day = model_of(Day).model_json_schema(mode="validation", by_alias=True)
    for made in (day, *day["$defs"].values()):
        made["required"] = list(made["properties"])
    day["properties"]["open"]["additionalProperties"] = False
    found["ledger"] = _finish("ledger", day, "The whole of YYYY-MM-DD.json, in the commits of refs/runner/ledger.")
    found["state"] = _finish("state", _state(), "The whole of state.json, the runner's own record of a protocol.")
    found["events"] = _finish("events", _entries(), "An entry of log.md as JSON: one definition an event.")
    found["log"] = _finish("log", _entries(), "A line of what `runner log --json` prints: one event.")
    kinds: Any = functools.reduce(operator.or_, map(model_of, transcript.KINDS.values()))
    lines = TypeAdapter(Annotated[kinds, Field(discriminator="kind")]).json_schema()
    found["transcript"] = _finish("transcript", lines, "A line of a transcript, runs/*.jsonl of refs/runner/history/*.")
    for name, (kind, text) in _OUTPUT.items():
        found[name] = _finish(name, TypeAdapter(kind).json_schema(mode="validation"), text)
    return dict(sorted(found.items()))


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


def adapter_of(kind: type[Any]) -> TypeAdapter[Any]:
    """Return pydantic's reader of a record: strict, and unknown fields are errors."""
    return TypeAdapter(with_config(ConfigDict(extra="forbid", strict=True))(kind))


def _of_keys(kind: Any) -> Any:
    """Return a dataclass with the fields of a NamedTuple: the record has it as keys and values, and pydantic would take a list."""
    if kind not in _MADE:
        types, given = get_type_hints(kind), dict[str, Any]()
        for name, value in kind._field_defaults.items():
            given[name] = (_of_keys(type(value))() if isinstance(value, tuple) else value,)
        fields = [(name, types[name], *given.get(name, ())) for name in kind._fields]
        made: Any = dataclasses.make_dataclass(kind.__name__, fields, frozen=True, namespace={"__doc__": kind.__doc__})
        kind.__get_pydantic_core_schema__ = lambda source, handler: handler.generate_schema(made)
        _MADE[kind] = made
    return _MADE[kind]


_MADE: dict[Any, Any] = {}
for one in (state.SpentTotal, state.Artifact, state.Wait, state.StepState, state.State):
    _of_keys(one)


def _state() -> Schema:
    made = adapter_of(_of_keys(state.State)).json_schema()
    made["properties"] = {**made["properties"], "schema": {"enum": [*range(1, state.SCHEMA + 1)]}}
    made["required"] = list(made["properties"])
    made["$defs"]["StepState"]["required"] += ["status", "attempt", "result"]  # `render` leaves out the others alone
    return made


def _entries() -> Schema:
    shared: Schema = {}
    definitions: Schema = {}
    for name, kind in events.MODELS.items():
        made = adapter_of(kind).json_schema()
        shared |= made.pop("$defs", {})
        optional = kind.model_fields.keys() - kind.required
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


def _without_null(node: Any) -> Any:
    """Return the schema of a people's file: a key that may be left out may not be null."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            found[key] = {name: _without_null(item) for name, item in value.items()}
        elif key != "default":
            found[key] = _without_null(value)
        elif isinstance(value, str | bool | int):
            found[key] = value
    options = [option for option in found.pop("anyOf", []) if option != {"type": "null"}]
    return {**options[0], **found} if len(options) == 1 else {**({"anyOf": options} if options else {}), **found}


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
