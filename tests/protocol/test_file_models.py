"""The reader of people's files agrees with pydantic on the same models: what is taken, what is refused, and every word of it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from runner.errors import IntegrityError, MalformedFileError
from runner.lines import counted
from runner.protocol import events, strict_yaml
from runner.protocol.clarifications import Clarifications
from runner.protocol.config import AgentFile, Config
from runner.protocol.event_types import EVENTS
from runner.protocol.events import Event
from runner.protocol.file_models import FileModel, Pattern, ProblemError, nearest
from runner.protocol.plans import Budget, PlanHeader, StepHeader
from runner.protocol.policy_file import Policy
from runner.protocol.ref_files import Day, Lease
from runner.protocol.strict_yaml import Lines, Path, Plain, shown
from runner.protocol.workflow import WorkflowHeader
from runner.tools import registry
from scripts.pydantic_models import model_of
from scripts.schemas import adapter_of
from tests.fuzz import targets
from tests.fuzz.test_corpus import INPUTS
from tests.protocol.test_machine import sample
from tests.protocol.test_policy_file import WHOLE

MODELS: list[type[FileModel]] = [PlanHeader, StepHeader, WorkflowHeader, Config, Policy, AgentFile, Clarifications]
STEPS = [
    b"---\ntitle: a\nkind: agent\nresult: {type: object, properties: {a: {type: integer}}}\ndecompose: true\n---\n",
    b"---\ntitle: a\nresources: {memory: 4G, cpu: 30m, processes: 3}\nnetwork: [a.test, '*.b.test:80']\nneeds: 01-a\n---\n",
]
WIDE = b"""
forge: github https://a.test/b
engine: {default: a, execute: [b, c], settings: {a: {thinking: low, temperature: 0.5, images: true}, b: {thinking: 4}}}
review: {aspects: [x], reviewers: [{engine: a}, {aspects: [y]}, {}, {}, {}]}
workspace: {network: [a.test], image: "a@sha256:%s", setup: make, env: [A], on_change: ask}
tools: [{module: a.b, effects: {f: read, g: {external: keyed, key: k}}}]
mcp: {a: {command: [x], tools: "sha256:%s"}, b: {url: "https://a.test", bearer: T}}
acp: {a: {command: x, endpoint: [U], speaks: openai}}
checks: [a, b]
""" % (b"0" * 64, b"0" * 64)
GOOD = [
    *(targets.PLAN, targets.STEP, targets.WORKFLOW, targets.CONFIG, targets.COWORKER, targets.CLARIFICATIONS),
    *(WHOLE.encode(), WIDE, *STEPS),
]


SCHEMAS = {model: model_of(model).model_json_schema() for model in MODELS}


def documents(data: bytes) -> Iterator[tuple[Any, Lines]]:
    """The YAML of every file that the bytes hold, where it is any."""
    for part in data.split(b"\0"):
        try:
            text = strict_yaml.decode(part, "f")
            if text.startswith("---"):
                text, _ = strict_yaml.split_front_matter(text, "f")
            yield strict_yaml.load_yaml(text, "f")
        except MalformedFileError:
            continue


def ours(model: type[FileModel], value: Any, lines: Lines) -> Any:
    try:
        return plain(strict_yaml.validate(model, value, lines, "f"))
    except MalformedFileError as error:
        # pydantic's error for a missing key does not have its choices; tests/protocol/test_plans.py has one that ours names
        return [re.sub(r"(: …`), '.*", r"\1", str(one)) for one in (error, *error.others)]


def plain(value: Any) -> Any:
    """What was given, with the types of the values, whichever library's model it is."""
    if isinstance(value, FileModel | BaseModel):
        return {name: plain(getattr(value, name)) for name in sorted(value.model_fields_set)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return type(value).__name__, value


def theirs(model: type[FileModel], value: Any, lines: Lines) -> Any:
    """What pydantic says of the same value, its errors in the same words."""
    if not isinstance(value, dict):
        return ours(model, value, lines)
    try:
        return plain(model_of(model).model_validate(value))
    except ValidationError as error:
        by_key: dict[Path, list[Any]] = {}
        for item in error.errors(include_url=False):
            path: Path = ()
            for part in item["loc"]:
                path = (*path, part) if (*path, part) in lines else path
            problem = item.get("ctx", {}).get("error")
            if isinstance(problem, ProblemError) and problem.key and (*path, problem.key) in lines:
                path = (*path, problem.key)
            by_key.setdefault(path, []).append(item)
        found = [
            explained(model, path, max(items, key=lambda one: len(one["loc"])), lines) for path, items in by_key.items()
        ]
        found.sort(key=lambda one: (one[1].startswith("the key"), one[0], not one[1].startswith("unknown"), one[1]))
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        said = [(line, what + (more if not at else ""), hint) for at, (line, what, hint) in enumerate(found)]
        return [str(MalformedFileError(what, f"f:{line}", hint)) for line, what, hint in said]


def explained(model: type[FileModel], path: Path, item: Any, lines: Mapping[Path, int]) -> tuple[int, str, str]:
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    line = lines.get(path, 1)
    name = shown(".".join(str(part) for part in path) or "the file")
    if kind == "extra_forbidden":
        known = sorted(keys(model, path[:-1]))
        close = nearest(str(item["loc"][-1]), known)
        hint = f"did you mean `{close}`?" if close else f"known keys: {', '.join(known)}"
        return line, f"unknown key `{name}`", model.elsewhere.get(name, hint) if len(path) == 1 else hint
    if kind == "missing":
        inside = f" in `{name}`" if path else ""
        return line, f"the key `{item['loc'][-1]}` is missing{inside}", f"add `{item['loc'][-1]}: …`"
    if isinstance(given, Plain) and given == "":
        return line, f"`{name}` has no value", "write one, or remove the key"
    if isinstance(problem := context.get("error"), ProblemError):
        return line, f"`{name}` {problem.what}", problem.hint
    if kind in ("literal_error", "enum"):
        close = nearest(str(given), re.findall(r"'([^']*)'", context["expected"]))
        hint = f"did you mean `{close}`?" if close else f"write one of {context['expected']}"
        return line, f"`{name}` should be {context['expected']}", hint
    if kind == "greater_than_equal":
        return line, f"`{name}` should be at least {context['ge']}", f"write {context['ge']} or more"
    if kind == "tuple_type":
        return line, f"`{name}` should be a list", "write `[a, b]`, or one item a line after `- `"
    if kind in ("dict_type", "model_type"):
        hint = "write `{key: value}`, or an indented line for each key"
        return line, f"`{name}` should be keys and values", hint
    assert kind == "too_long", item
    most = counted(context["max_length"], "item")
    return line, f"`{name}` should have at most {most}, not {context['actual_length']}", "remove some"


def keys(model: type[FileModel], path: Path) -> set[str]:
    """The keys that the schema allows there."""
    schema = SCHEMAS[model]

    def expand(node: Any) -> list[Any]:
        if "$ref" in node:
            return expand(schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
        return [found for part in node.get("anyOf", []) for found in expand(part)] or [node]

    nodes = [schema]
    for part in path:
        below = [
            one.get("items")
            if isinstance(part, int)
            else one.get("properties", {}).get(part, one.get("additionalProperties"))
            for node in nodes
            for one in expand(node)
        ]
        nodes = [found for child in below if isinstance(child, dict) for found in expand(child)]
    return {key for node in nodes for one in expand(node) for key in one.get("properties", {})}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_both_read_the_fuzz_corpus_alike(model: type[FileModel]) -> None:
    inputs = [*GOOD, *(file.read_bytes() for files in INPUTS.values() for file in files)]
    found = [one for data in inputs for one in documents(data)]
    assert len(found) > 100
    for value, lines in found:
        assert ours(model, value, lines) == theirs(model, value, lines)


WORDS = sorted({word for data in GOOD for word in re.findall(r"[^\s\[\]{},'\"]+", data.decode())})
leaves = (
    st.sampled_from([*map(Plain, WORDS), *WORDS])
    | st.sampled_from(["", "a b", "a\nb", "x" * 300, "../a", "a.lock", "0", "-1", "1.5", "true", "null", "~"]).flatmap(
        lambda text: st.sampled_from([text, Plain(text)])
    )
    | st.text(max_size=5).filter(lambda text: not strict_yaml.FORBIDDEN.search(text)).map(Plain)
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=6,
)
EVERY = [value for data in GOOD for value, _ in documents(data) if isinstance(value, dict)]


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A good file's value in which a few things are something else, are called something else, or are not there."""
    whole = json.loads(json.dumps(["", draw(st.sampled_from(EVERY))]), cls=_Plainly)
    for _ in range(draw(st.integers(1, 3))):
        at, key = whole, 1
        while isinstance(at[key], dict | list) and at[key] and draw(st.integers(0, 3)):
            at, key = (
                at[key],
                draw(st.sampled_from(sorted(at[key]) if isinstance(at[key], dict) else range(len(at[key])))),
            )
        act = draw(st.integers(0, 3))
        if act == 0 and isinstance(at, dict):
            at[draw(st.sampled_from(WORDS))] = at.pop(key)
        elif act == 1 and isinstance(at, dict):
            del at[key]
        else:
            at[key] = draw(anything)
    return whole[1]


class _Plainly(json.JSONDecoder):
    """Makes every text what YAML makes of one without quotes."""

    def decode(self, s: str, *_: Any) -> Any:
        def made(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: made(one) for key, one in value.items()}
            return [made(one) for one in value] if isinstance(value, list) else Plain(value)

        return made(super().decode(s))


def numbered(value: Any) -> Lines:
    """A line for each key and item, as if each were on one of its own."""
    lines: Lines = {}

    def walk(value: Any, path: Path) -> None:
        lines[path] = len(lines) + 1
        for key, one in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            walk(one, (*path, key))

    walk(value, ())
    return lines


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), changed() | anything)
def test_both_read_whatever_somebody_may_write_alike(model: type[FileModel], value: Any) -> None:
    lines = numbered(value)
    assert ours(model, value, lines) == theirs(model, value, lines)


@given(st.sampled_from([Lease, Day]), anything)
def test_neither_takes_for_a_file_of_the_runner_what_is_none(model: type[FileModel], value: Any) -> None:
    for read in (model, model_of(model)):
        with pytest.raises(ValueError):
            read.model_validate(value)


def test_a_pattern_is_of_the_whole_text() -> None:
    read = Pattern("[a-z]+").over(lambda value: value)
    assert read("ab") == "ab"
    for wrong in ("ab\n", "\nab", "AB", "a b", ""):
        with pytest.raises(ValueError):
            read(wrong)


def test_a_model_cannot_be_changed_and_a_copy_differs_from_it() -> None:
    budget = Budget.model_construct(usd=Decimal(1))
    with pytest.raises(AttributeError):
        budget.turns = 1  # type: ignore[misc]
    more = budget.model_copy(update={"turns": 1})
    assert (budget.turns, more.turns, more.usd) == (None, 1, Decimal(1)) and more != budget
    assert hash(budget) == hash(same := Budget(usd=1)) and budget == same  # type: ignore[arg-type]
    assert (more.model_fields_set, Budget.model_construct().model_fields_set) == ({"usd", "turns"}, set())


@functools.cache
def adapter(name: str) -> Any:
    return adapter_of(events.MODELS[name])


def of_event(kind: type[Event], fields: dict[str, Any]) -> tuple[Any, Any]:
    """What an entry's fields are read as, by ours and by pydantic; for what is refused, the field."""
    try:
        ours = plain(events.parse(kind.name, "a", fields, "l"))
    except IntegrityError as error:
        ours = error.what.split("`")[3].split(".")[0]
    try:
        return ours, plain(adapter(kind.name).validate_json(json.dumps({"subject": "a", **fields})))
    except ValidationError as error:
        named = {str(one["loc"][0]) for one in error.errors()}
        return ours, ours if ours in named else named


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(EVENTS)), st.data())
def test_both_read_the_fields_of_an_event_alike(name: str, data: st.DataObject) -> None:
    fields = json.loads(json.dumps(events.fields_of(sample(name))))
    every = [field for field in events.MODELS[name].model_fields if field != "subject"]
    json_ = st.recursive(
        st.none() | st.booleans() | st.integers(-2, 2) | st.floats(0, 2) | st.text(max_size=2),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "usd", "place"]), inner, max_size=2)
        ),
        max_leaves=3,
    )
    for key in data.draw(st.lists(st.sampled_from([*every, "more"]), max_size=2)):
        fields[key] = data.draw(json_)
    for key in data.draw(st.lists(st.sampled_from([*every, "more"]), max_size=1)):
        fields.pop(key, None)
    ours, theirs = of_event(events.MODELS[name], fields)
    assert ours == theirs


def test_the_contract_of_a_built_in_tool_is_as_pydantic_would_write_it() -> None:
    given = registry.Given  # the module runs when something of it is used
    models = [one for one in vars(registry).values() if isinstance(one, type) and issubclass(one, given)]
    assert len(models) > 15
    for model in models:
        theirs = registry.inlined(model_of(model).model_json_schema())
        assert json.dumps(registry.schema_of(model)) == json.dumps(theirs)
