"""Read a forge's JSON responses field by field: a missing field, or one of another type, is an error that names it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from runner.forge.base import MalformedAnswerError
from runner.values import dataclass

MOST_PAGES: Final = 1000  # of a list, a hundred items each


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object of a response; `where`: the request that returned it."""

    value: dict[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """Return the fields of a response that must be an object.

        Raises:
            MalformedAnswerError: it is not one.
        """
        if not isinstance(value, dict):
            raise _malformed("an object", where)
        return cls(value, where)

    def text(self, key: str) -> str:
        """Return a string; a lone surrogate in it becomes a question mark."""
        found = self.value.get(key)
        if not isinstance(found, str):
            raise _malformed(f"`{key}` as text", self.where)
        return found.encode("utf-8", "replace").decode()

    def maybe(self, key: str) -> str | None:
        """Return a string, or None where it is null, absent or empty."""
        return self.text(key) if self.value.get(key) not in (None, "") else None

    def number(self, key: str) -> int:
        """Return a whole number."""
        found = self.value.get(key)
        if not isinstance(found, int) or isinstance(found, bool):
            raise _malformed(f"`{key}` as a number", self.where)
        return found

    def flag(self, key: str) -> bool:
        """Return whether it is true; absent is false."""
        found = self.value.get(key)
        if found is not None and not isinstance(found, bool):
            raise _malformed(f"`{key}` as true or false", self.where)
        return bool(found)

    def maybe_flag(self, key: str) -> bool | None:
        """Return whether it is true, or None where it is null or absent."""
        return None if self.value.get(key) is None else self.flag(key)

    def inner(self, key: str) -> Fields:
        """Return an object inside."""
        return Fields.of(self.value.get(key), f"{self.where}, `{key}`")

    def maybe_inner(self, key: str) -> Fields | None:
        """Return an object inside, or None where it is null or absent."""
        return None if self.value.get(key) is None else self.inner(key)

    def several(self, key: str) -> tuple[Fields, ...]:
        """Return the objects of a list inside; absent is none."""
        return objects(self.value.get(key) or [], f"{self.where}, `{key}`")


def objects(value: Any, where: str) -> tuple[Fields, ...]:
    """Return the objects of a response that must be a list of them.

    Raises:
        MalformedAnswerError: it is not one.
    """
    if not isinstance(value, list):
        raise _malformed("a list", where)
    return tuple(Fields.of(each, where) for each in value)


def check_page(number: int, where: str) -> None:
    """Check the number of a list's page before it is requested: a broken server may offer pages without end.

    Raises:
        MalformedAnswerError: the list has more than `MOST_PAGES`.
    """
    if number > MOST_PAGES:
        raise MalformedAnswerError(
            f"a list does not end: it has more than {MOST_PAGES} pages", where, "see what the forge shows there"
        )


def readable(words: object, secrets: Iterable[str] = ()) -> str:
    """Return a forge's message on one line, cut, and without the secrets."""
    text = str(words)
    for secret in secrets:
        text = text.replace(secret, "[token]")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 300 else text[:299] + "…"


def clock(at: float) -> str:
    """Return a time of day for a message; `at`: seconds since the epoch."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%H:%M:%S UTC")


def _malformed(wanted: str, where: str) -> MalformedAnswerError:
    return MalformedAnswerError(
        f"what came back is not the forge's format: {wanted} was expected",
        where,
        "check that `forge:` names the right address; a proxy may have answered instead",
    )
