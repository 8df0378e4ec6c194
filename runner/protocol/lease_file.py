"""lease.json of refs/runner/leases/NNNN-slug on the remote: the runner that works on a published protocol (design §6).

Everybody who may push can write it, so it says who is at work and proves nothing. Beside it, `intents/SLUG.ATTEMPT.N.json` are the
effects that were announced before they started, each as its line of the transcript, with a `revision`: that of the published record
then or, where it is later, the one at which the announcing clone had asked about the call. Only a later entry of the record, that a
person was asked or answered, can be about the effect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.errors import IntegrityError
from runner.protocol import transcript

SCHEMA: Literal[1] = 1
FILE = "lease.json"
INTENTS = "intents"  # the folder
MOST = 10_000  # intents that a lease may carry; one is usual
SIZE = 16_000_000  # bytes that a file of it may have
_ODD = re.compile(r"[^!-~]")
_CALL = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\.[1-9][0-9]{0,8}\.[1-9][0-9]{0,8}")

Word = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class Lease(BaseModel):
    """The runner that holds a protocol, and the end of its lease."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    holder: Word = Field(description="Who runs it, as the log's `actor`.")
    host: Word = Field(description="The machine's name.")
    ci: Word | None = Field(description="Where the CI shows the job; null where it is none.")
    expires: Time | None = Field(
        description="When it runs out, UTC; null where nobody has it any more, and it is there for its intents alone."
    )
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(description="Tells this taking from every other.")

    def text(self) -> str:
        """Return the holder and the end of the lease, in one line for people."""
        return f"{self.who()}, until {self.expires}"

    def who(self) -> str:
        """Return who has it, for people."""
        return f"{self.holder} on {self.host}{f', in {self.ci}' if self.ci else ''}"


def word(text: str) -> str:
    """Return a name from outside as the file takes it."""
    return _ODD.sub("?", text)[:200] or "unnamed"


def render(lease: Lease) -> bytes:
    """Return the bytes of lease.json."""
    plain = lease.model_dump(mode="json", by_alias=True)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=True).encode() + b"\n"


def parse(data: bytes, where: str) -> Lease:
    """Return the lease that a file holds.

    Raises:
        IntegrityError: it is none.
    """
    try:
        return Lease.model_validate_json(data)
    except ValidationError as error:
        raise unreadable(first_fault(error), where) from error


def first_fault(error: ValidationError) -> str:
    """Return the first error of a file of the runner's own: the field, where it is about one, and why."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:60]
    return f"`{field}` {first['msg']}" if field else first["msg"]


def render_intent(intent: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file of an announced effect, a record of a journal."""
    return json.dumps(dict(intent), sort_keys=True, ensure_ascii=True).encode() + b"\n"


def parse_intent(data: bytes, name: str, where: str) -> dict[str, Any]:
    """Return the effect that the file `intents/NAME` announces.

    Raises:
        IntegrityError: it announces none, or another one.
    """
    call = name.removesuffix(".json")
    try:
        told = json.loads(data)
        revision = told.pop("revision")
        (line,) = transcript.parse(json.dumps(told).encode(), where)
    except (IntegrityError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise unreadable("an intent that is no line of a transcript with its revision", where) from error
    if type(revision) is not int or line["kind"] != "intent" or line["call"] != call or not _CALL.fullmatch(call):
        raise unreadable("it announces no effect of that name", where)
    return {**line, "revision": revision}


def unreadable(why: str, where: str) -> IntegrityError:
    """Return the error for a lease that no runner wrote. `where`: its ref."""
    return IntegrityError(
        f"a lease that cannot be read: {why}",
        where,
        f"ask who pushed it; `git push REMOTE --delete {where}` takes it away, and what it announced with it",
    )
