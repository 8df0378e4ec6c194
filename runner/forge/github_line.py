"""How GitHub is asked, and what its refusals mean: PyGithub's transport, imported at the first question.

Promises one request a question, to one host, with the token in one header; redirects that would leave it are refused, and no
answer chooses where the next question goes. What is asked is `github.py`'s matter.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from runner.forge.answer import Fields, check_page, clock, objects, readable
from runner.forge.base import (
    ForgeError,
    MalformedAnswerError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    ScopeMissingError,
    ServerError,
    TokenMissingError,
    TokenRefusedError,
)
from runner.forge.place import Place

if TYPE_CHECKING:
    from github import GithubException
    from github.Requester import Requester

T = TypeVar("T")

INSTALL: Final = "pip install 'protocol-runner[github]'"
# Contents write: of whoever makes a draft ready, or a draft again.
RIGHTS: Final = "Metadata and Checks read, Contents, Pull requests and Commit statuses write (a classic token: `repo`)"
_TIMEOUT: Final = 20  # seconds a request
_PAGE: Final = 100
_SECONDARY_SECONDS: Final = 60.0  # what GitHub asks to wait where a secondary limit does not say


class Line:
    """The connection to one GitHub. Asked by one thread at a time."""

    def __init__(self, place: Place, token: str, now: Callable[[], float], write_pause: float, source: str) -> None:
        """`now`: seconds since the epoch; `write_pause`: seconds between two writes, as GitHub's guidelines ask;
        `source`: where the token was found, or empty.

        Raises:
            TokenMissingError: PyGithub is not installed.
        """
        if importlib.util.find_spec("github") is None:
            raise TokenMissingError("the package pygithub is not installed", f"forge: github, {place.host}", INSTALL)
        self._place, self._token, self._now, self._write_pause = place, token, now, write_pause
        self._named = f"the token of {source}" if source else "the token"
        self._opened: Requester | None = None

    def close(self) -> None:
        """Let go of connections; a later question opens new ones."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def post(self, path: str, body: dict[str, Any]) -> Fields:
        """Return the object that a POST makes."""
        return Fields.of(self.ask("POST", path, body=body), f"POST {path}")

    def ask(self, verb: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """Return the JSON of an answer."""
        return self.send(verb, path, query=query, body=body)[1]

    def pages(self, path: str, query: dict[str, Any], *, key: str | None = None) -> Iterator[Fields]:
        """Return the items of every page; `key`: where they stand, in an answer that is an object."""
        where = f"GET {path}"
        asked: dict[str, Any] | None = {**query, "per_page": _PAGE}
        number = 1
        while asked is not None:
            check_page(number, where)
            number += 1
            headers, value = self.send("GET", path, query=asked)
            yield from objects(value, where) if key is None else Fields.of(value, where).several(key)
            # Only the query of the next address is taken: some lists go by cursors, and no answer chooses a host.
            following = re.search(r'<([^>]*)>\s*;\s*rel="next"', headers.get("link") or "")
            asked = dict(parse_qsl(urlsplit(following[1]).query)) if following else None

    def graphql(self, query: str, variables: dict[str, Any]) -> Fields:
        """Return the data of a GraphQL answer."""
        requester = self._requester()
        _, value = self._told("POST graphql", lambda: requester.graphql_query(query, variables))
        return Fields.of(value, "POST graphql").inner("data")

    def send(
        self, verb: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None
    ) -> tuple[dict[str, str], Any]:
        """Return the headers of an answer, in lower case, and its JSON.

        Raises:
            ForgeError: one of its children says why there is none.
        """
        requester = self._requester()
        return self._told(f"{verb} {path}", lambda: requester.requestJsonAndCheck(verb, path, query, None, body))

    def _requester(self) -> Requester:
        if self._opened is None:
            import github

            self._opened = github.Github(
                auth=github.Auth.Token(self._token),
                base_url=self._place.api,
                timeout=_TIMEOUT,
                per_page=_PAGE,
                retry=None,
                user_agent="protocol-runner",
                seconds_between_requests=None,
                seconds_between_writes=self._write_pause,
            ).requester
        return self._opened

    def _told(self, what: str, call: Callable[[], T]) -> T:
        """Return what `call` returns, or raise what its exception means, by type and status code."""
        import github
        import requests

        where = f"{what} at {self._place.host}"
        try:
            return call()
        except github.GithubException as error:
            raise self._refusal(error, where) from None  # the SDK's exception holds whole answers
        except (requests.RequestException, OSError) as error:
            words = readable(f"{type(error).__name__}: {error}", [self._token])
            raise NetworkError(f"no answer from GitHub ({words})", where, "check the network; run it again") from None
        except (AttributeError, ValueError, RecursionError):  # the SDK takes for an object what is none, or no JSON
            hint = "check that `forge:` names the right address; a proxy may have answered instead"
            raise MalformedAnswerError("what came back is not the forge's format", where, hint) from None
        except RuntimeError as error:  # the SDK's word for a redirect that it does not follow
            words = readable(error, [self._token])
            hint = "correct the address of the remote, or `forge:`"
            raise RequestRefusedError(f"GitHub points elsewhere ({words})", where, hint) from None

    def _refusal(self, error: GithubException, where: str) -> ForgeError:
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        data = error.data if isinstance(error.data, dict) else {}
        words = readable(data.get("message") or f"status {error.status}", [self._token])
        more = "; ".join(
            readable(each.get("message") or f"{each.get('field')}: {each.get('code')}", [self._token])
            for each in data.get("errors") or []
            if isinstance(each, dict)
        )
        words = f"{words}: {more}" if more else words
        status = error.status
        kinds = {each.get("type") for each in data.get("errors") or [] if isinstance(each, dict)}  # GraphQL's
        at = self._limit(status == 429 or "RATE_LIMITED" in kinds, headers, data)
        if at is not None and (status in (403, 429) or "RATE_LIMITED" in kinds):
            return RateLimitError(
                f"GitHub asks for a pause ({words})", where, f"run it again after {clock(at)}", retry_at=at
            )
        if status == 401:
            return TokenRefusedError(f"GitHub refuses {self._named} ({words})", where, f"make a new token: {RIGHTS}")
        if status == 403 or kinds & {"FORBIDDEN", "INSUFFICIENT_SCOPES"}:
            # Fine-grained tokens are told by the first header, classic ones by the second.
            scope = headers.get("x-accepted-github-permissions") or headers.get("x-accepted-oauth-scopes") or ""
            hint = f"give the token {scope}" if scope else f"give the token {RIGHTS}"
            return ScopeMissingError(f"{self._named} may not do this ({words})", where, hint, scope=scope)
        if status in (404, 410):
            return NotFoundError(
                f"GitHub has nothing there ({words})", where, "check the name, and that the token sees the repository"
            )
        if status >= 500:
            return ServerError(f"GitHub has a problem of its own ({words})", where, "run it again later")
        return RequestRefusedError(f"GitHub refuses the request ({words})", where, "see what it says")

    def _limit(self, is_one: bool, headers: dict[str, str], data: dict[str, Any]) -> float | None:
        """Return when GitHub will listen again; None where this is no rate limit, as far as the headers tell.

        Docs: "Rate limits for the REST API", "Rate limits and query limits for the GraphQL API".
        """
        now = self._now()
        if re.fullmatch(r"\d{1,9}", headers.get("retry-after", "")):
            return now + int(headers["retry-after"])
        if headers.get("x-ratelimit-remaining") == "0" and headers.get("x-ratelimit-reset", "").isdigit():
            return float(headers["x-ratelimit-reset"])
        if is_one or "secondary-rate-limit" in str(data.get("documentation_url")):
            return now + _SECONDARY_SECONDS
        return None
