"""calls/SLUG.ATTEMPT.N.json: a tool call that waits for an approval, the very bytes that will be executed (design §4).

The runner writes it once and never changes it: a person approves this file's digest, and the runner then executes its content.
Sorted keys, two spaces, ASCII, a final newline, like the whole record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from runner.errors import IntegrityError
from runner.protocol.file_models import Between, Field, FileModel, Pattern, first_fault

SCHEMA: Literal[1] = 1
SHOWN = 60  # characters of one argument in the line for people
_PLAIN = re.compile(r"[!#-&(-\[\]-~]+")  # printable ASCII without blanks, quotes and backslashes

Digest = Annotated[str, Pattern("sha256:[0-9a-f]{64}")]


class HeldCall(FileModel):
    """One call. `number` counts the calls of the attempt, from 1; `key`: the argument that holds our idempotency key."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    tool: str = Field(min_length=1, description="Its name.")
    arguments: dict[str, Any] = Field(description="The arguments.")
    effect: Literal["read", "workspace", "external"] = Field(description="The effect of a call.")
    repeat: Literal["never", "keyed", "probed"] = Field(
        description="Whether a repeated call is safe, and how that is known."
    )
    source: str = Field(description="Where it comes from: `built in`, module:function, or mcp:SERVER and its digest.")
    code: Digest | None = Field(
        description="Of the module's code on the trusted branch, or of an MCP server's pinned list; null for a built-in one."
    )
    step: str = Field(description="The step's slug.")
    attempt: Annotated[int, Between(1)] = Field(description="The step's attempt.")
    number: Annotated[int, Between(1)] = Field(description="Which of the attempt's calls it is.")
    env: tuple[str, ...] = Field(default=(), description="The names of the environment variables that it is given.")
    network: tuple[str, ...] = Field(default=(), description="The hosts that its entry names.")

    @property
    def name(self) -> str:
        """What the record calls it, such as `deploy.1.3`."""
        return f"{self.step}.{self.attempt}.{self.number}"

    def text(self) -> str:
        """Return the call as one line for people: `send_report to=ops@example.test subject="All well"`."""
        return line(self.tool, self.arguments)


def line(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return a call as one line for people."""
    return " ".join([_short(tool), *(f"{_short(key)}={_short(value)}" for key, value in arguments.items())])


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=True)
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"


def render(call: HeldCall) -> bytes:
    """Return the file's bytes."""
    return json.dumps(call.model_dump(), indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def parse(data: bytes, where: str) -> HeldCall:
    """Return the call that a file holds.

    Raises:
        IntegrityError: it is not one that the runner wrote.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # half a character is none
        found = HeldCall.model_validate(value)
        written = render(found)
    except (ValueError, RecursionError) as error:
        wrong = first_fault(error)
        raise IntegrityError(f"a held call that cannot be read: {wrong}", where, "run `runner verify`") from error
    if written != data:
        raise IntegrityError("a held call that is not written as the runner writes it", where, "run `runner verify`")
    return found
