"""The files of the refs that all runners of a project share: a lease, and below it the day budget (design §6).

lease.json of refs/runner/leases/NNNN-slug on the remote names the runner that works on a published protocol. Everybody who may push
can write it, so it says who is at work and proves nothing. Beside it, `intents/SLUG.ATTEMPT.N.json` are the effects that were
announced before they started, each as its line of the transcript, with a `revision`: that of the published record then or, where it
is later, the one at which the announcing clone had asked about the call. Only a later entry of the record, that a person was asked or
answered, can be about the effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from runner.errors import IntegrityError, SpentError
from runner.lines import pattern
from runner.protocol import transcript
from runner.protocol.file_models import Between, Field, FileModel, Pattern, first_fault

if TYPE_CHECKING:
    from runner.protocol.policy_file import DayBudget

SCHEMA: Literal[1] = 1
FILE = "lease.json"
INTENTS = "intents"  # the folder
MOST = 10_000  # intents that a lease may carry; one is usual
SIZE = 16_000_000  # bytes that a file of it may have
_ODD = pattern(r"[^!-~]")
_CALL = pattern(r"[a-z0-9]+(?:-[a-z0-9]+)*\.[1-9][0-9]{0,8}\.[1-9][0-9]{0,8}")

Word = Annotated[str, Pattern("[!-~]{1,200}")]
Time = Annotated[str, Pattern("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")]


class Lease(FileModel):
    """The runner that holds a protocol, and the end of its lease."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    holder: Word = Field(description="Who runs it, as the log's `actor`.")
    host: Word = Field(description="The machine's name.")
    ci: Word | None = Field(description="Where the CI shows the job; null where it is none.")
    expires: Time | None = Field(
        description="When it runs out, UTC; null where nobody has it any more, and it is there for its intents alone."
    )
    nonce: Annotated[str, Pattern("[0-9a-f]{32}")] = Field(description="Tells this taking from every other.")

    def text(self) -> str:
        """Return the holder and the end of the lease, in one line for people."""
        return f"{self.who()}, until {self.expires}"

    def who(self) -> str:
        """Return who has it, for people."""
        return f"{self.holder} on {self.where()}"

    def where(self) -> str:
        """Return the machine, and the CI job, in which it is held."""
        return f"{self.host}{f', in {self.ci}' if self.ci else ''}"


def printable(text: str) -> str:
    """Return a name from outside as the file takes it."""
    return _ODD.sub("?", text)[:200] or "unnamed"


def render(file: Lease | Day) -> bytes:
    """Return the bytes of lease.json, or of a day's file."""
    return json.dumps(file.model_dump(), indent=2, sort_keys=True, ensure_ascii=True).encode() + b"\n"


def parse(data: bytes, where: str) -> Lease:
    """Return the lease that a file holds.

    Raises:
        IntegrityError: it is none.
    """
    try:
        return Lease.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise unreadable(first_fault(error), where) from error


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
    found = line.call if isinstance(line, transcript.Intent) and type(revision) is int else ""
    if found != call or not _CALL.fullmatch(call):
        raise unreadable("it announces no effect of that name", where)
    return {**told, "revision": revision}


def unreadable(why: str, where: str) -> IntegrityError:
    """Return the error for a lease that no runner wrote. `where`: its ref."""
    return IntegrityError(
        f"a lease that cannot be read: {why}",
        where,
        f"ask who pushed it; `git push REMOTE --delete {where}` takes it away, and what it announced with it",
    )


# --- the day budget ---------------------------------------------------------------------------------------------------
# YYYY-MM-DD.json of refs/runner/ledger: what all runners of a project spent and reserved. A reservation counts as spent until it is
# settled. A runner that died in between used up its reservation, since nobody else knows its charges; so the sum of a day never
# passes the budget. Everybody who may push can write this file.

MOST_RESERVATIONS = 10_000  # reservations that a day may have
DAYS = 31  # files that are kept in the tree; older ones are in the ref's history
DAY_SIZE = 4_000_000  # bytes that a file may have
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"

Usd = Annotated[str, Pattern(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,18})?")]
Number = Annotated[int, Between(0, 10**15)]


class Reserved(FileModel):
    """What one runner may spend."""

    by: Word = Field(description="Who runs it, as the log's `actor`.")
    host: Word = Field(description="The machine's name.")
    ci: Word | None = Field(description="Where the CI shows the job; null where it is none.")
    protocol: Word | None = Field(
        description="The protocol that it is for; null where it is for any work of the runner."
    )
    time: Time = Field(description="When it was reserved, UTC.")
    usd: Usd = Field(description="US dollars.")
    tokens: Number


class Day(FileModel):
    """The budget of one UTC day."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    day: Annotated[str, Pattern(DAY)] = Field(description="The UTC day.")
    usd: Usd = Field(default="0", description="US dollars that were spent and settled.")
    tokens: Number = Field(default=0, description="Input and output tokens that were used and settled.")
    unpriced: Number = Field(
        default=0, description="The tokens among them whose price is unknown; `usd` is without them."
    )
    open: dict[Annotated[str, Pattern("[0-9a-f]{32}")], Reserved] = Field(
        default_factory=dict,
        max_length=MOST_RESERVATIONS,
        description="The reservations by their nonces; they count as spent.",
    )

    def left(self, cap: DayBudget, but: str = "") -> tuple[Decimal | None, int | None]:
        """Return the US dollars and tokens that a day's budget leaves; None is no limit. `but`: a reservation not to count."""
        others = [one for nonce, one in self.open.items() if nonce != but]
        usd = (
            None
            if cap.usd is None
            else cap.usd - Decimal(self.usd) - sum((Decimal(one.usd) for one in others), Decimal(0))
        )
        tokens = None if cap.tokens is None else cap.tokens - self.tokens - sum(one.tokens for one in others)
        return usd, tokens

    def reserve(self, nonce: str, one: Reserved) -> Day:
        """Return the day with a reservation, in place of one of the same nonce.

        Raises:
            SpentError: there are too many.
        """
        if len(self.open) >= MOST_RESERVATIONS and nonce not in self.open:
            raise SpentError(
                f"{MOST_RESERVATIONS:,} reservations of {self.day} (UTC) were never settled",
                "the day's budget",
                "tomorrow has a list of its own",
            )
        return self.model_copy(update={"open": {**self.open, nonce: one}})

    def settle(self, nonce: str, usd: Decimal, tokens: int, unpriced: int) -> Day:
        """Return the day with the actual cost in place of a reservation."""
        return self.model_copy(
            update={
                "open": {name: one for name, one in self.open.items() if name != nonce},
                "usd": amount(Decimal(self.usd) + usd),
                "tokens": self.tokens + tokens,
                "unpriced": self.unpriced + unpriced,
            }
        )


def amount(usd: Decimal) -> str:
    """Return US dollars as the day_file has them."""
    text = format(usd.quantize(Decimal("1e-12")), "f")
    return text.rstrip("0").rstrip(".") or "0"


def day_file(day: str) -> str:
    """Return the name of a day's day_file."""
    return f"{day}.json"


def kept_days(names: Mapping[str, object], day: str) -> list[str]:
    """Return the files that stay in the tree: the last days, and `day` whatever others are named."""
    return sorted({*sorted(names)[-DAYS:], day_file(day)})


def parse_day(data: bytes, day: str, where: str) -> Day:
    """Return the day that a day_file holds.

    Raises:
        IntegrityError: it is none, or another one.
    """
    try:
        found = Day.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise unreadable_day(first_fault(error), where) from error
    if found.day != day:
        raise unreadable_day("it is of another day", where)
    return found


def unreadable_day(why: str, where: str) -> IntegrityError:
    """Return the error for a ledger that no runner wrote. `where`: its ref, and the day_file."""
    return IntegrityError(
        f"a ledger that cannot be read: {why}",
        where,
        "ask who pushed it; the commits of the ref show how it was before, and one of them can be pushed there again",
    )
