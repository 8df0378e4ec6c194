"""Pydantic models of the arguments and results of a model's tools; their descriptions are written for the model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from runner.tools.builtin import Value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 3.0 is an integer to JSON Schema


Line = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Most = Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)]
Seconds = Annotated[float, Field(gt=0, le=3600, description="seconds until it is ended")]
Path = Annotated[str, Field(description="relative to the workspace")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="lower case letters, digits and -")]


class Given(Value):
    """What a tool takes: what a model may leave out, it may give as null."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ReadFileInput(Given):
    path: Path
    start_line: Line | None = None
    end_line: Line | None = None


class ReadFileOutput(Value):
    path: str
    text: str = Field(description="lines with their numbers and a tab before them")
    lines: int = Field(description="how many the file has in all")
    note: str


class WriteFileInput(Given):
    path: Path
    content: str


class WriteFileOutput(Value):
    path: str
    bytes: int
    created: bool


class Edit(Given):
    old: str = Field(description="what stands there, exactly, without line numbers")
    new: str = Field(description="what shall stand there")
    all: bool | None = Field(None, description="replace it everywhere; without this it has to stand there once")


class EditFileInput(Given):
    path: Path
    edits: list[Edit] = Field(min_length=1, description="made one after the other; all of them, or none")


class EditFileOutput(Value):
    path: str
    replaced: int
    lines: list[int] = Field(description="where, in the file as it was when each edit was made")


class ApplyPatchInput(Given):
    patch: str = Field(description="a unified diff as git writes it; several files, creation and deletion")


class Change(Value):
    path: str
    change: str


class ApplyPatchOutput(Value):
    files: list[Change]


class ListFilesInput(Given):
    path: Path | None = None
    glob: str | None = Field(None, description="such as *.py or src/**/test_*.py")
    depth: Line | None = Field(None, description="how many levels of folders")


class ListFilesOutput(Value):
    files: list[str]
    note: str


class SearchTextInput(Given):
    pattern: str = Field(min_length=1, description="a regular expression; lines are searched one by one")
    path: Path | None = None
    glob: str | None = Field(None, description="such as *.py or src/**")
    ignore_case: bool | None = None
    max: Most | None = Field(None, description="how many matches; 100 where it is not given")


class SearchTextOutput(Value):
    matches: list[str] = Field(description="path:line:text")
    note: str


class RunInput(Given):
    argv: list[str] = Field(min_length=1, description="program and arguments, no shell")
    timeout: Seconds | None = None


class ShellInput(Given):
    command: str = Field(min_length=1, description="for sh -c")
    timeout: Seconds | None = None


class Result(Value):
    """How a command ended."""

    exit_code: int
    output: str
    timed_out: bool
    truncated: bool


class GitInput(Given):
    args: list[str] = Field(min_length=1, description="such as [diff, --stat, HEAD~1, --, src]")


class FetchInput(Given):
    url: str


class FetchOutput(Value):
    status: int
    text: str
    note: str


class RememberInput(Given):
    text: str = Field(min_length=1, max_length=4000, description="one fact")
    name: Name | None = None


class RememberOutput(Value):
    path: str
    replaced: bool


class RecallInput(Given):
    query: str | None = Field(None, description="words; facts with more of them come first")


class Fact(Value):
    name: str
    text: str


class RecallOutput(Value):
    facts: list[Fact]
    note: str


class AskPersonInput(Given):
    question: str = Field(min_length=1, max_length=4000)


class AskPersonOutput(Value):
    answer: str


class PublishArtifactInput(Given):
    path: Path
    name: Name | None = None


class PublishArtifactOutput(Value):
    id: str
    digest: str


class FinishInput(Given):
    summary: str = Field(min_length=1, max_length=20_000, description="what was done, and what was not")
    result: dict[str, Any] | None = Field(None, description="values for later steps")


class FinishOutput(Value):
    """`finish` gives nothing back; the attempt is over."""
