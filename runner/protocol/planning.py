"""A plan as a model gives it: one JSON value, read strictly, and the files that a person would have written for it.

What is wrong with an answer is told in lines that can be given back to the model. Whether the files make a plan that can be
carried out is `plan`'s matter; asking the model is the planner's.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, model_validator

from runner.errors import MalformedFileError
from runner.lines import lines_of
from runner.protocol import document, ids, paths
from runner.protocol.document import FORBIDDEN
from runner.protocol.model import RelativePath, StepReference, Title
from runner.protocol.plan import Step
from runner.protocol.words import Line, Model, Script, Text, Words, problem
from runner.protocol.workflow import Type, written

STEPS_MOST = 30
QUESTIONS_MOST = 5
_PROBLEMS_MOST = 12
_AGENTS = ("agent", "engine", "budget")
_PEOPLES = (*_AGENTS, "on_failure", "timeout", "approval")  # keys of a step that a draft has no words for
# What YAML reads as it stands, without quotes, also between the brackets of a list.
_PLAIN = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9 ./_*()=+@-]*")


class UnfitError(Exception):
    """The answer is not what was asked for; `problems` say why, one line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def _slug(text: str) -> str:
    if not re.fullmatch(ids.SLUG, text) or len(text) > ids.SLUG_LIMIT or text == "plan":
        raise problem("should be a slug", "write a-z, 0-9 and single hyphens, such as fix-the-sign; `plan` is taken")
    return text


Slug = Annotated[
    Text, AfterValidator(_slug), WithJsonSchema({"type": "string", "pattern": f"^{ids.SLUG}$", "maxLength": 60})
]


class DraftStep(Words):
    """A step of a model's plan."""

    slug: Slug
    title: Title
    kind: Literal["agent", "command", "human"] = "agent"
    run: Script | None = None
    outputs: tuple[RelativePath, ...] = ()
    checks: tuple[Script, ...] = ()
    needs: tuple[StepReference, ...] | None = None
    prose: Script


class Draft(Words):
    """The whole of a model's plan, or its questions instead of one."""

    title: Title
    prose: Text = ""
    acceptance: tuple[Line, ...] = ()
    steps: Annotated[tuple[DraftStep, ...], Field(max_length=STEPS_MOST)] = ()
    questions: Annotated[tuple[Line, ...], Field(max_length=QUESTIONS_MOST)] = ()

    @model_validator(mode="after")
    def _something(self) -> Draft:
        if not self.steps and not self.questions:
            raise problem("is empty", "give at least one step", "steps")
        return self


def read(text: str) -> Draft:
    """Return the plan that a model's answer holds.

    Raises:
        UnfitError: it is none; with every reason.
    """
    return parsed(Draft, text)


def parsed(model: type[Model], text: str) -> Model:
    """Return the `model` that a model's answer holds, as JSON.

    Raises:
        UnfitError: it is none; with every reason.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnfitError([f"it is not JSON: {error}"]) from error
    odd = next(_odd(value), None)
    if odd:
        raise UnfitError([f"it holds a control or bidi character, U+{ord(odd):04X}"])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UnfitError(_problems(error)) from error


def _odd(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        found = FORBIDDEN.search(value)
        if found:
            yield found[0]
    elif isinstance(value, dict | list):
        for item in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            yield from _odd(item)


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False)[:_PROBLEMS_MOST]:
        at = ".".join(str(part) for part in item["loc"])
        context: dict[str, Any] = item.get("ctx", {})
        if item["type"] == "words":
            at = ".".join(filter(None, (at, context.get("key"))))
            yield f"{at} {context['what']}: {context['hint']}"
        else:
            yield f"{at or 'the answer'}: {item['msg']}"


def step_files(
    steps: Iterable[DraftStep], first: int = 1, before: Mapping[str, tuple[Step, bytes]] | None = None
) -> dict[str, bytes]:
    """Return the step files of a plan, numbered from `first` on, as a person would write them.

    `before`: by slug, steps that there were and their files. What only people say of a step stays with its slug.
    """
    known = before or {}
    return {
        f"{number:02d}-{step.slug}.md": _step(step, known.get(step.slug)) for number, step in enumerate(steps, first)
    }


def files(draft: Draft) -> dict[str, bytes]:
    """Return plan.md and the step files, as a person would write them."""
    front = [f"title: {_value(draft.title)}"]
    if draft.acceptance:
        front += ["acceptance:", *(f"  - {_value(line)}" for line in draft.acceptance)]
    return {paths.PLAN: _file(front, draft.prose), **step_files(draft.steps)}


def _step(step: DraftStep, before: tuple[Step, bytes] | None) -> bytes:
    front = [f"title: {_value(step.title)}", f"kind: {step.kind}"]
    if step.run is not None:
        front.append(f"run: {_script(step.run)}")
    if step.needs is not None:
        front.append(f"needs: {_list(step.needs)}")
    if step.outputs:
        front.append(f"outputs: {_list(step.outputs)}")
    policy = before[0].header.qa.policy if before and before[0].header.qa else None
    if step.checks or policy:
        front += ["qa:", *([f"  policy: {policy}"] if policy else [])]
        front += ["  checks:", *(f"    - {_value(check)}" for check in step.checks)] if step.checks else []
    if before:
        front += _kept(step, *before)
    return _file(front, step.prose)


def _kept(draft: DraftStep, step: Step, file: bytes) -> Iterator[str]:
    """Return the lines of the keys that a model cannot write, as they stand in the step's file."""
    lines = lines_of(file.decode("utf-8-sig").replace("\r\n", "\n"))
    for key in _PEOPLES:
        at = step.lines.get(key)
        if at is not None and lines[at - 1].startswith(f"{key}:") and (draft.kind == "agent" or key not in _AGENTS):
            yield lines[at - 1]
            yield from itertools.takewhile(lambda line: line[:1] == " ", lines[at:])


def _file(front: Iterable[str], prose: str) -> bytes:
    return "\n".join(["---", *front, "---", prose.strip(), ""]).encode()


def _value(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text == text.strip() and text.lower() not in ("null", "true", "false")
    return text if plain else written(Type.STRING, text) or ""


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_value, texts))}]"


def _script(text: str) -> str:
    """Return a script as YAML: several lines as a block where that reads back as the same."""
    if "\n" in text.rstrip("\n"):
        lines = text.rstrip("\n").split("\n")
        block = "\n  ".join(["|" if text.endswith("\n") else "|-", *lines])
        try:
            if document.load_yaml(f"run: {block}\n", "run")[0] == {"run": text}:
                return block
        except MalformedFileError:
            pass
    return _value(text)
