"""Answers of a model, read strictly: a plan, the commands of scripts/ci, and a verdict on a change.

The problems of an answer are lines that can be given back to the model. `plans` checks whether the files of a plan can be carried
out; `executor` asks the model.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar

from runner.errors import MalformedFileError
from runner.lines import lines_of
from runner.protocol import file_models, ids, paths, strict_yaml
from runner.protocol.file_models import AfterValidator, Between, Field, FileModel, model_validator, problem
from runner.protocol.plans import RelativePath, Step, StepReference, Title
from runner.protocol.strict_yaml import FORBIDDEN, NOT_EMPTY, Line, Script, Text
from runner.protocol.workflow import Type, written

STEPS_MOST = 30
QUESTIONS_MOST = 5
FILES_MOST = 12  # of a step
_PROBLEMS_MOST = 12
_AGENTS = ("agent", "engine", "budget", "result", "decompose")
_PEOPLES = (*_AGENTS, "on_failure", "timeout", "approval")  # keys of a step that a draft cannot hold
# Text that YAML reads unchanged without quotes, also between the brackets of a list.
_PLAIN = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9 ./_*()=+@-]*")


class UnfitError(Exception):
    """The answer does not fit the question; `problems` say why, one line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def _slug(text: str) -> str:
    if not re.fullmatch(ids.SLUG, text) or len(text) > ids.SLUG_LIMIT or text == "plan":
        raise problem("should be a slug", "write a-z, 0-9 and single hyphens, such as fix-the-sign; `plan` is taken")
    return text


Slug = Annotated[Text, AfterValidator(_slug, {"type": "string", "pattern": f"^{ids.SLUG}$", "maxLength": 60})]


Model = TypeVar("Model", bound=FileModel)


class DraftStep(FileModel):
    """A step of a model's plan."""

    slug: Slug
    title: Title
    kind: Literal["agent", "command", "human"] = "agent"
    run: Script | None = None
    outputs: tuple[RelativePath, ...] = ()
    checks: tuple[Script, ...] = ()
    needs: tuple[StepReference, ...] | None = None
    files: tuple[Line, ...] = Field(
        default=(),
        max_length=FILES_MOST,
        description="The files that matter, with lines: src/app.py:10-40: what is there.",
    )
    prose: Script


class Draft(FileModel):
    """The whole of a model's plan, or its questions instead of one."""

    title: Title = Field(description="What is to be done, in one line.")
    prose: Text = Field(default="", description="Why, what belongs to it and what does not.")
    acceptance: tuple[Line, ...] = Field(default=(), description="What has to hold at the end, each in one line.")
    steps: tuple[DraftStep, ...] = Field(default=(), max_length=STEPS_MOST, description="What is done, in this order.")
    questions: tuple[Line, ...] = Field(
        default=(),
        max_length=QUESTIONS_MOST,
        description="What has to be known before there can be a plan; without steps then.",
    )

    @model_validator(mode="after")
    def _something(self) -> Draft:
        if not self.steps and not self.questions:
            raise problem("is empty", "give at least one step", "steps")
        return self


def parse(model: type[Model], text: str, *, is_shown: bool = False) -> Model:
    """Return the `model` that a model's answer holds, as JSON. `is_shown`: it only is shown, and may quote what a terminal obeys.

    Raises:
        UnfitError: it is none; with every reason.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnfitError([f"the answer is not JSON: {error}"]) from error
    if not is_shown and (odd := next(_odd(value), None)):
        raise UnfitError([f"it holds a control or bidi character, U+{ord(odd):04X}"])
    try:
        return model.model_validate(value)
    except file_models.UnfitError as error:
        raise UnfitError(map(_told, error.faults[:_PROBLEMS_MOST])) from error


def _odd(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        found = FORBIDDEN.search(value)
        if found:
            yield found[0]
    elif isinstance(value, dict | list):
        for item in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            yield from _odd(item)


def _told(fault: file_models.Fault) -> str:
    at = ".".join(str(part) for part in (*fault.at, fault.key) if part is not None)
    return f"{at or 'the answer'} {fault.what}: {fault.hint}"


def step_files(
    steps: Iterable[DraftStep], first: int = 1, before: Mapping[str, tuple[Step, bytes]] | None = None
) -> dict[str, bytes]:
    """Return the step files of a plan, numbered from `first` on, as a person would write them.

    `before`: earlier steps and their files, by slug. A step keeps the keys that only people write.
    """
    known = before or {}
    return {
        f"{number:02d}-{step.slug}.md": _step(step, known.get(step.slug)) for number, step in enumerate(steps, first)
    }


def split_files(steps: Sequence[DraftStep], step: Step, file: bytes) -> dict[str, bytes]:
    """Return the step files that come in the place of one: the last has its slug, so that what refers to the step holds, and each has
    the keys that only people write; what one step needs, the first needs.

    Raises:
        UnfitError: the last one has another slug.
    """
    if steps[-1].slug != step.slug:
        raise UnfitError([f"the last step is not `{step.slug}`; it keeps that slug, since others may refer to it"])
    needs = tuple(step.header.needs) if step.header.needs is not None else None
    steps = [one.model_copy(update={"needs": needs if at == 0 else one.needs}) for at, one in enumerate(steps)]
    before = {}
    for one in steps:
        gone = ("decompose",) if one is steps[-1] else ("decompose", "result")
        lines = {key: line for key, line in step.lines.items() if key not in gone}
        before[one.slug] = replace(step, lines=lines), file
    return step_files(steps, step.number, before)


def plan_files(draft: Draft) -> dict[str, bytes]:
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
    told = (
        "\n".join(["", "", "Files that matter:", "", *(f"- {one.strip()}" for one in step.files)]) if step.files else ""
    )
    return _file(front, step.prose.strip() + told)


def _kept(draft: DraftStep, step: Step, file: bytes) -> Iterator[str]:
    """Return the lines of the step's file that have the keys which a model cannot write."""
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
            if strict_yaml.load_yaml(f"run: {block}\n", "run")[0] == {"run": text}:
                return block
        except MalformedFileError:
            pass
    return _value(text)


LINES_MOST: Final = 20
LINE_LIMIT: Final = 160
DISCOVERY_QUESTIONS_MOST: Final = 3
QUESTION_LIMIT: Final = 200
_LINE: Final = re.compile(rf"[ -~]{{0,{LINE_LIMIT}}}")


def _command(text: str) -> str:
    lines = text.strip().split("\n")
    if not text.strip() or len(lines) > LINES_MOST or not all(_LINE.fullmatch(line) for line in lines):
        raise problem(
            "should be lines of shell",
            f"write 1 to {LINES_MOST} lines of at most {LINE_LIMIT} characters, printable ASCII alone; leave out what there is not",
        )
    return "\n".join(line.rstrip() for line in lines)


def _question(text: str) -> str:
    if len(text) > QUESTION_LIMIT:
        raise problem("is too long", f"write at most {QUESTION_LIMIT} characters")
    return text


Command = Annotated[Text, AfterValidator(_command, NOT_EMPTY)]
Asked = Annotated[Line, AfterValidator(_question, {"type": "string", "minLength": 1, "maxLength": QUESTION_LIMIT})]


class Discovery(FileModel):
    """The commands that a model found; None where the project has no such command."""

    bootstrap: Command | None = Field(default=None, description="Lines of shell that make a fresh checkout ready.")
    lint: Command | None = Field(default=None, description="Lines of shell that read the code for mistakes of form.")
    typecheck: Command | None = Field(default=None, description="Lines of shell that check the types.")
    test: Command | None = Field(default=None, description="Lines of shell that run the tests.")
    build: Command | None = Field(default=None, description="Lines of shell that build what is shipped.")
    questions: tuple[Asked, ...] = Field(
        default=(),
        max_length=DISCOVERY_QUESTIONS_MOST,
        description="What the material does not tell, and what would change the commands.",
    )

    def commands(self) -> dict[str, str]:
        """Return the commands that the project has: name to lines of shell."""
        return {name: run for name in self.model_fields if name != "questions" and (run := getattr(self, name))}


FINDINGS_MOST = 100  # findings of one verdict


class Finding(FileModel):
    """Something about the change. What is not about a file, a line or a criterion leaves that out."""

    severity: Literal["blocker", "major", "minor", "note"] = Field(
        description="blocker and major: it cannot stay so; minor and note: it may."
    )
    text: str = Field(min_length=1, description="What is wrong, and what would be right.")
    file: str | None = Field(default=None, description="The file, from the top of the repository.")
    line: Annotated[int, Between(1)] | None = Field(
        default=None, description="The line in the file as it is after the change."
    )
    criterion: str | None = Field(default=None, description="The number of the acceptance criterion, or its words.")


class Earlier(FileModel):
    """What became of a finding of an earlier review."""

    id: str = Field(min_length=1, description="The id of the finding, such as 1.2.")
    closed: bool = Field(description="Whether the change does what the finding asks for.")
    text: str = Field(min_length=1, description="What shows it, in one sentence.")


_GRAVITY = ("blocker", "major", "minor", "note")
_EITHER = "say FAIL, or call it closed or minor"


class Verdict(FileModel):
    """PASS or FAIL, why in a few words, and the findings."""

    verdict: Literal["PASS", "FAIL"] = Field(
        description="FAIL where a criterion does not hold or a finding cannot stay."
    )
    summary: str = Field(min_length=1, description="Why, in one to three sentences.")
    findings: tuple[Finding, ...] = Field(
        default=(), max_length=FINDINGS_MOST, description="What was found, the worst first."
    )
    earlier: tuple[Earlier, ...] | None = Field(
        default=None, max_length=FINDINGS_MOST, description="Of each finding of an earlier review that you were given."
    )

    @model_validator(mode="after")
    def _agrees(self) -> Verdict:
        grave = [one for one in self.findings if one.severity in ("blocker", "major")]
        if self.verdict == "PASS" and grave:
            raise problem(f"is PASS beside a finding of severity {grave[0].severity}", _EITHER, "verdict")
        if self.verdict == "PASS" and (left := [one.id for one in self.earlier or () if not one.closed]):
            raise problem(f"is PASS beside the open finding {left[0]}", _EITHER, "verdict")
        if self.verdict == "FAIL" and not self.findings and all(one.closed for one in self.earlier or ()):
            raise problem("FAIL needs at least one finding", "add it, or say PASS", "verdict")
        return self

    @property
    def passed(self) -> bool:
        """Whether the change may stay as it is."""
        return self.verdict == "PASS"


def merged(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Return the verdict of several reviewers, by their names: PASS where each says so, a finding of two once, the worst first."""
    every = list(verdicts.values())
    if len(every) == 1:
        return every[0]
    findings = dict.fromkeys(one for verdict in every for one in verdict.findings)
    answers: dict[str, Earlier] = {}
    for one in (one for verdict in every for one in verdict.earlier or ()):
        answers[one.id] = answers[one.id] if one.id in answers and not answers[one.id].closed else one
    return Verdict(
        verdict="PASS" if all(verdict.passed for verdict in every) else "FAIL",
        summary="\n".join(f"{name}: {verdict.summary}" for name, verdict in verdicts.items()),
        findings=tuple(sorted(findings, key=lambda one: _GRAVITY.index(one.severity)))[:FINDINGS_MOST],
        earlier=tuple(answers.values())[:FINDINGS_MOST] if answers else None,
    )


def read_verdict(text: str, open_ids: Collection[str] = ()) -> tuple[Verdict | None, tuple[str, ...]]:
    """Return the verdict in a model's text, or None and the problems of the text, a line each.

    `open_ids`: of the findings of earlier reviews, each of which it has to answer.
    """
    try:
        found = parse(Verdict, text, is_shown=True)
    except UnfitError as error:
        return None, error.problems
    said = [one.id for one in found.earlier or ()]
    wrong = [f"earlier: say of the finding {one} whether it is closed" for one in open_ids if one not in said]
    wrong += [f"earlier: there is no open finding {one}" for one in said if one not in open_ids]
    return (None, tuple(wrong)) if wrong else (found, ())
