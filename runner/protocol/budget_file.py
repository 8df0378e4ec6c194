"""YYYY-MM-DD.json of refs/runner/ledger: the day budget that all runners of a project spent and reserved (design §6).

A reservation counts as spent until it is settled. A runner that died in between used up its reservation, since nobody else knows
its charges; so the sum of a day never passes the budget. Everybody who may push can write this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.errors import IntegrityError, SpentError
from runner.protocol.lease_file import Time, Word, first_fault
from runner.protocol.policy_file import DayBudget

SCHEMA: Literal[1] = 1
MOST = 10_000  # reservations that a day may have
DAYS = 31  # files that are kept in the tree; older ones are in the ref's history
SIZE = 4_000_000  # bytes that a file may have
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"

Usd = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})(\.[0-9]{1,18})?$")]
Number = Annotated[int, Field(ge=0, le=10**15)]


class Reserved(BaseModel):
    """What one runner may spend."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    by: Word = Field(description="Who runs it, as the log's `actor`.")
    host: Word = Field(description="The machine's name.")
    ci: Word | None = Field(description="Where the CI shows the job; null where it is none.")
    protocol: Word | None = Field(
        description="The protocol that it is for; null where it is for any work of the runner."
    )
    time: Time = Field(description="When it was reserved, UTC.")
    usd: Usd = Field(description="US dollars.")
    tokens: Number


class Day(BaseModel):
    """The budget of one UTC day."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    day: Annotated[str, Field(pattern=f"^{DAY}$")] = Field(description="The UTC day.")
    usd: Usd = Field(default="0", description="US dollars that were spent and settled.")
    tokens: Number = Field(default=0, description="Input and output tokens that were used and settled.")
    unpriced: Number = Field(
        default=0, description="The tokens among them whose price is unknown; `usd` is without them."
    )
    open: Annotated[dict[Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")], Reserved], Field(max_length=MOST)] = Field(
        default_factory=dict, description="The reservations by their nonces; they count as spent."
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
        if len(self.open) >= MOST and nonce not in self.open:
            raise SpentError(
                f"{MOST:,} reservations of {self.day} (UTC) were never settled",
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
    """Return US dollars as the file has them."""
    text = format(usd.quantize(Decimal("1e-12")), "f")
    return text.rstrip("0").rstrip(".") or "0"


def file(day: str) -> str:
    """Return the name of a day's file."""
    return f"{day}.json"


def kept(names: Mapping[str, object], day: str) -> list[str]:
    """Return the files that stay in the tree: the last days, and `day` whatever others are named."""
    return sorted({*sorted(names)[-DAYS:], file(day)})


def render(day: Day) -> bytes:
    """Return the bytes of a day's file."""
    plain = day.model_dump(mode="json", by_alias=True)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=True).encode() + b"\n"


def parse(data: bytes, day: str, where: str) -> Day:
    """Return the day that a file holds.

    Raises:
        IntegrityError: it is none, or another one.
    """
    try:
        found = Day.model_validate_json(data)
    except ValidationError as error:
        raise unreadable(first_fault(error), where) from error
    if found.day != day:
        raise unreadable("it is of another day", where)
    return found


def unreadable(why: str, where: str) -> IntegrityError:
    """Return the error for a ledger that no runner wrote. `where`: its ref, and the file."""
    return IntegrityError(
        f"a ledger that cannot be read: {why}",
        where,
        "ask who pushed it; the commits of the ref show how it was before, and one of them can be pushed there again",
    )
