"""Read a forge's JSON responses, and its failures: a field that is missing, or of another type, is an error that names it.

`Failures` is the one table from a status to a `ForgeError`; an adapter's client says only how its SDK reports the status.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from runner.errors import installs
from runner.forge import (
    ForgeError,
    ForgeProject,
    MalformedAnswerError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    ScopeMissingError,
    ServerError,
    Token,
    TokenMissingError,
    TokenRefusedError,
)

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
            raise malformed("an object", where)
        return cls(value, where)

    def text(self, key: str) -> str:
        """Return a string; a lone surrogate in it becomes a question mark."""
        found = self.value.get(key)
        if not isinstance(found, str):
            raise malformed(f"`{key}` as text", self.where)
        return found.encode("utf-8", "replace").decode()

    def maybe(self, key: str) -> str | None:
        """Return a string, or None where it is null, absent or empty."""
        return self.text(key) if self.value.get(key) not in (None, "") else None

    def number(self, key: str) -> int:
        """Return a whole number."""
        found = self.value.get(key)
        if not isinstance(found, int) or isinstance(found, bool):
            raise malformed(f"`{key}` as a number", self.where)
        return found

    def flag(self, key: str) -> bool:
        """Return whether it is true; absent is false."""
        found = self.value.get(key)
        if found is not None and not isinstance(found, bool):
            raise malformed(f"`{key}` as true or false", self.where)
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
        raise malformed("a list", where)
    return tuple(Fields.of(each, where) for each in value)


def check_page(number: int, where: str) -> None:
    """Check the number of a list's page before it is requested: a broken server may offer pages without end.

    Raises:
        MalformedAnswerError: the list has more than `MOST_PAGES`.
    """
    if number > MOST_PAGES:
        raise MalformedAnswerError(
            f"a list does not end: it has more than {MOST_PAGES} pages", where, "look at the list on the forge"
        )


@dataclass(frozen=True, slots=True)
class Failures:
    """Turn a failed request into a `ForgeError`: `forge` is its name in messages, as people write it."""

    forge: str
    project: ForgeProject
    token: Token

    def check_installed(self, module: str, package: str) -> None:
        """Check that the forge's SDK is installed.

        Raises:
            TokenMissingError: it is not.
        """
        if importlib.util.find_spec(module) is None:
            name = self.project.kind.name
            raise TokenMissingError(
                f"{package} is not installed",
                f"forge: {name}, {self.project.host}",
                installs(name),
            )

    def quoted(self, message: object) -> str:
        """Return a forge's message on one line, cut, and without the token."""
        text = str(message).replace(self.token.value, "[token]")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= 300 else text[:299] + "…"

    def refused(
        self, status: int, message: str, where: str, *, scope: str = "", retry_at: float | None = None
    ) -> ForgeError:
        """Return the error for a status. `message`: the forge's, quoted; `scope`: the right that the token lacks, where the forge
        names it; `retry_at`: when a rate limit ends, seconds since the epoch."""
        named, rights = f"the token of {self.token.where}", self.project.kind.rights
        if retry_at is not None:
            hint = f"run it again after {clock(retry_at)}"
            return RateLimitError(f"{self.forge} asks for a pause ({message})", where, hint, retry_at=retry_at)
        if status == 401:
            return TokenRefusedError(f"{self.forge} refuses {named} ({message})", where, f"make a new token: {rights}")
        if status == 403:
            return ScopeMissingError(f"{named} may not do this ({message})", where, f"give the token {scope or rights}")
        if status in (404, 410):
            hint = "check the name, and that the token sees the repository"
            return NotFoundError(f"{self.forge} has no such thing ({message})", where, hint)
        if status >= 500:
            return ServerError(f"{self.forge} reports a server error ({message})", where, "run it again later")
        return RequestRefusedError(f"{self.forge} refuses the request ({message})", where, "read the forge's message")

    def unanswered(self, error: Exception, where: str) -> NetworkError:
        """Return the error for a request without a response."""
        message = self.quoted(f"{type(error).__name__}: {error}")
        return NetworkError(f"no answer from {self.forge} ({message})", where, "check the network; run it again")

    def redirected(self, error: Exception, where: str) -> RequestRefusedError:
        """Return the error for a redirect, which is not followed."""
        hint = "correct the address of the remote, or `forge:`"
        return RequestRefusedError(f"{self.forge} redirects elsewhere ({self.quoted(error)})", where, hint)


def clock(at: float) -> str:
    """Return a time of day for a message; `at`: seconds since the epoch."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%H:%M:%S UTC")


def malformed(wanted: str, where: str) -> MalformedAnswerError:
    """Return the error for a response in another format; `wanted`: the expected part of it."""
    return MalformedAnswerError(
        f"the response is not the forge's format: {wanted} was expected",
        where,
        "check that `forge:` names the right address; a proxy may have answered instead",
    )
