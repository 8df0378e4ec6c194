"""The schemas: as the models are, agreeing with the parsers, and true of what the program writes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runner import resources
from runner.errors import MalformedFileError
from runner.protocol import events, log, strict_yaml
from runner.protocol.file_models import FileModel
from runner.protocol.plans import PlanHeader, StepHeader
from runner.protocol.policy_file import Policy
from runner.protocol.workflow import WorkflowHeader
from scripts import schemas
from tests.conftest import Box, command
from tests.protocol import histories
from tests.protocol.test_machine import sample
from tests.protocol.test_policy_file import PEOPLE, WHOLE

FOLDER = Path(__file__).parents[2] / "schemas"
SCHEMAS = schemas.schemas()


def validator(name: str) -> Any:
    """What checks values by a schema as it was shipped."""
    return jsonschema.Draft202012Validator(json.loads(resources.schema(name)))


def test_the_files_are_what_the_models_give() -> None:
    there = {path.name.removesuffix(".schema.json"): path.read_bytes() for path in FOLDER.glob("*.schema.json")}

    assert sorted(there) == sorted(SCHEMAS), "run `make schemas`"
    for name, made in SCHEMAS.items():
        assert there[name] == schemas.render(made), f"{name}: run `make schemas`"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_says_what_it_is(name: str) -> None:
    made = SCHEMAS[name]

    jsonschema.Draft202012Validator.check_schema(made)
    assert made["$id"] == f"urn:protocol-runner:schema:{name}"
    assert made["title"] and made["description"].endswith(".")


@pytest.mark.parametrize("name", ["plan", "step", "config", "coworker", "workflow", "policy"])
def test_every_key_of_a_people_s_file_is_described(name: str) -> None:
    for key, told in SCHEMAS[name]["properties"].items():
        assert told.get("description"), f"{name}: {key}"


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    assert len(list(schemas.write(tmp_path))) == len(SCHEMAS)
    assert list(schemas.write(tmp_path)) == []


GOOD: list[tuple[str, type[FileModel], str]] = [
    ("plan", PlanHeader, "title: t"),
    ("plan", PlanHeader, "title: t\nqa: skip\napproval: before\ninputs: {a: 1, b: [x]}\nlinks: x\nacceptance: [a, b]"),
    ("plan", PlanHeader, "title: t\nqa: {policy: full, checks: [x]}\napproval: {when: after, count: 2}\nbudget: {usd: 1.5}"),
    ("step", StepHeader, "title: t\nkind: command\nrun: x\nneeds: a\noutputs: x"),
    ("step", StepHeader, "title: t\nkind: command\nrun: [x, y]\nneeds: [a, 02-b]\noutputs: [x]\ntimeout: 1h30m"),
    ("step", StepHeader, "title: t\nresources: {memory: 4G, cpu: 30m, processes: 512, disk: 5G}"),
    ("step", StepHeader, "title: t\nkind: tool\ntool: deploy_prod\nwith: {a: 1, b: null}\non_failure: {retry: 2, then: block}"),
    ("step", StepHeader, "title: t\nagent: coder\nengine: a:b\non_failure: {goto: a, limit: 3}\nqa: {checks: x}"),
    ("workflow", WorkflowHeader, "title: t\ninputs: {a: string, b: {type: integer, default: 3, description: x}}"),
    ("policy", Policy, WHOLE),
    ("policy", Policy, PEOPLE + "rules: [{ask: {tool: [run, shell], shell: true}, reason: x}]\nlimits: {file_size: 10KB}"),
]  # fmt: skip
BAD: list[tuple[str, type[FileModel], str]] = [
    ("plan", PlanHeader, "base: main"),
    ("plan", PlanHeader, "title: [t]"),
    ("plan", PlanHeader, "title: t\nkind: human"),
    ("plan", PlanHeader, "title: t\nqa: lite"),
    ("plan", PlanHeader, "title: t\nagent: null"),
    ("step", StepHeader, "title: t\nkind: comand"),
    ("step", StepHeader, "title: t\nresources: {memory: 4GB}"),
    ("step", StepHeader, "title: t\ntimeout: soon"),
    ("step", StepHeader, "title: t\nbudget: {usd: -1}"),
    ("step", StepHeader, "title: t\nbudget: {tokens: 1.5}"),
    ("step", StepHeader, "title: t\non_failure: {limit: 0, goto: a}"),
    ("step", StepHeader, "title: t\nneeds: [A]"),
    ("step", StepHeader, "title: t\nkind: tool\ntool: a b"),
    ("workflow", WorkflowHeader, "title: t\ninputs: {a: strng}"),
    ("workflow", WorkflowHeader, "title: t\ninputs: {a: {default: 3}}"),
    ("policy", Policy, "own_work: refuse"),
    ("policy", Policy, "repo: abc"),
    ("policy", Policy, PEOPLE + "rules: [{deny: {tol: x}}]"),
    ("policy", Policy, PEOPLE + "rules: [{deny: {effect: write}}]"),
    ("policy", Policy, PEOPLE + "agents: [Robot]"),
    ("policy", Policy, PEOPLE + "isolation: none"),
    ("policy", Policy, PEOPLE + "network: {allow: ['a b']}"),
    ("policy", Policy, PEOPLE + "approvals: {plan: {count: 0}}"),
]


@pytest.mark.parametrize(("name", "model", "text"), GOOD)
def test_what_a_parser_takes_the_schema_takes(name: str, model: type[FileModel], text: str) -> None:
    value, lines = strict_yaml.load_yaml(text, "f.md")
    strict_yaml.validate(model, value, lines, "f.md")

    validator(name).validate(strict_yaml.resolve(value))


@pytest.mark.parametrize(("name", "model", "text"), BAD)
def test_what_a_schema_refuses_the_parser_refuses(name: str, model: type[FileModel], text: str) -> None:
    value, lines = strict_yaml.load_yaml(text, "f.md")

    assert not validator(name).is_valid(strict_yaml.resolve(value))
    with pytest.raises(MalformedFileError):
        strict_yaml.validate(model, value, lines, "f.md")


def test_templates_are_valid() -> None:
    found = sorted(resources.template("workflows").rglob("*.md"))
    assert found
    for path in found:
        front, _ = strict_yaml.split_front_matter(path.read_text(), str(path))
        value, _ = strict_yaml.load_yaml(front, str(path))
        validator("workflow" if path.name == "plan.md" else "step").validate(strict_yaml.resolve(value))


@pytest.mark.parametrize("name", events.MODELS)
@pytest.mark.slow
def test_an_event_takes_its_own_fields_alone(name: str) -> None:
    kind = events.MODELS[name]
    assert not {"revision", "event", "time", "actor"} & set(kind.model_fields)
    (raw,) = log.parse_raw(log.append(b"", [histories.entry(1, sample(name))], 2), "log.md")
    told = {
        "revision": 1,
        "event": raw.event,
        "subject": raw.subject,
        "time": raw.time,
        "actor": raw.actor,
        **raw.fields,
    }

    for shape in ("events", "log"):
        validator(shape).validate(told)
        assert not validator(shape).is_valid(told | {"more": 1})
        assert not validator(shape).is_valid(told | {"event": "exploded"})
        for key in told.keys() - {field for field in raw.fields if kind.model_fields[field].default is None}:
            left = {other: value for other, value in told.items() if other != key}
            assert not validator(shape).is_valid(left), f"{name} without {key}"


def test_what_is_written_and_printed_is_of_its_schema(box: Box) -> None:
    add = "kind: tool\ntool: add\nwith: {a: 1, b: 2}\n"
    protocol = box.new(
        {"01-a": command("echo 1 > out.txt", "outputs: [out.txt]\n"), "02-b": add, "03-c": "kind: human\n"}
    )
    broken = box.new({"01-a": command("false")})
    told = [box.state(protocol)]
    box.runner("run", protocol, rc=3)
    box.runner("run", broken, rc=1)
    told += [box.state(protocol), box.state(broken)]

    for state in told:
        validator("state").validate(state)
        assert not validator("state").is_valid(state | {"more": 1})
    validator("show").validate(box.runner("show", protocol, "--json", rc=0).json())
    validator("status").validate(box.runner("status", "--json", rc=0).json())
    validator("list").validate(box.runner("list", "--json", rc=0).json())
    for line in box.runner("log", protocol, "--json", rc=0).out.splitlines():
        validator("log").validate(json.loads(line))
    proof = box.runner("verify", protocol, "--json", rc=0).json()
    validator("verify").validate(proof)
    assert proof["ok"] and not validator("verify").is_valid(proof | {"ok": "yes"})


def test_a_protocol_that_cannot_be_read_is_shown_as_unreadable(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    path = box.worktree(protocol) / f".protocols/{protocol}/state.json"
    path.write_text("{}")
    box.commit("forge", cwd=path.parent)

    shown = box.runner("show", protocol, "--json", rc=0).json()
    assert shown["status"] == "unreadable"
    validator("show").validate(shown)
    validator("list").validate(box.runner("list", "--json", rc=0).json())
