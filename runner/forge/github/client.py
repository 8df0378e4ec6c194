"""Send requests to GitHub and translate its errors, by PyGithub's transport, which is imported at the first request.

Each call sends one request to one host, with the token in one header. Redirects to another host are refused, and no response
chooses the address of the next request.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from runner.forge.base import (
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
from runner.forge.response import Fields, check_page, clock, objects, readable

if TYPE_CHECKING:
    from github import GithubException
    from github.Requester import Requester

T = TypeVar("T")

_TIMEOUT: Final = 20  # seconds a request
_PAGE: Final = 100
_SECONDARY_SECONDS: Final = 60.0  # the wait that GitHub asks for where a secondary limit does not say


class Client:
    """A connection to one GitHub."""

    def __init__(self, project: ForgeProject, token: Token, now: Callable[[], float], write_pause: float) -> None:
        """`now`: seconds since the epoch; `write_pause`: seconds between two writes.

        Raises:
            TokenMissingError: PyGithub is not installed.
        """
        if importlib.util.find_spec("github") is None:
            where, hint = f"forge: github, {project.host}", "pip install 'protocol-runner[github]'"
            raise TokenMissingError("the package pygithub is not installed", where, hint)
        self._project, self._token, self._now, self._write_pause = project, token.value, now, write_pause
        self._named, self._rights = f"the token of {token.where}", project.kind.rights
        self._opened: Requester | None = None

    def close(self) -> None:
        """Close connections; a later request opens new ones."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def one(self, path: str) -> Fields:
        """Return the object at a path."""
        return Fields.of(self.send("GET", path)[1], f"GET {path}")

    def write(self, verb: str, path: str, body: dict[str, Any]) -> Fields:
        """Return the object that a POST or a PATCH makes."""
        return Fields.of(self.send(verb, path, body=body)[1], f"{verb} {path}")

    def pages(self, path: str, query: dict[str, Any], *, key: str | None = None) -> Iterator[Fields]:
        """Return the items of every page; `key`: of the list, where the response is an object."""
        where = f"GET {path}"
        asked: dict[str, Any] | None = {**query, "per_page": _PAGE}
        number = 1
        while asked is not None:
            check_page(number, where)
            number += 1
            headers, value = self.send("GET", path, query=asked)
            yield from objects(value, where) if key is None else Fields.of(value, where).several(key)
            # Only the query of the next address is used: some lists have cursors, and no response chooses a host.
            following = re.search(r'<([^>]*)>\s*;\s*rel="next"', headers.get("link") or "")
            asked = dict(parse_qsl(urlsplit(following[1]).query)) if following else None

    def graphql(self, query: str, variables: dict[str, Any]) -> Fields:
        """Return the data of a GraphQL response."""
        requester = self._requester()
        _, value = self._call("POST graphql", lambda: requester.graphql_query(query, variables))
        return Fields.of(value, "POST graphql").inner("data")

    def send(
        self, verb: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None
    ) -> tuple[dict[str, str], Any]:
        """Return the headers of a response, in lower case, and its JSON.

        Raises:
            ForgeError: by its class, why there is none.
        """
        requester = self._requester()
        return self._call(f"{verb} {path}", lambda: requester.requestJsonAndCheck(verb, path, query, None, body))

    def _requester(self) -> Requester:
        if self._opened is None:
            import github

            self._opened = github.Github(
                auth=github.Auth.Token(self._token),
                base_url=self._project.api,
                timeout=_TIMEOUT,
                per_page=_PAGE,
                retry=None,
                user_agent="protocol-runner",
                seconds_between_requests=None,
                seconds_between_writes=self._write_pause,
            ).requester
        return self._opened

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Return the result of `call`, or raise the `ForgeError` for its exception, by type and status code."""
        import github
        import requests

        where = f"{what} at {self._project.host}"
        try:
            return call()
        except github.GithubException as error:
            raise self._refusal(error, where) from None  # the SDK's exception holds whole answers
        except (requests.RequestException, OSError) as error:
            words = readable(f"{type(error).__name__}: {error}", [self._token])
            raise NetworkError(f"no answer from GitHub ({words})", where, "check the network; run it again") from None
        except (AttributeError, ValueError, RecursionError):  # the SDK met no JSON, or a value of another type
            hint = "check that `forge:` names the right address; a proxy may have answered instead"
            raise MalformedAnswerError("what came back is not the forge's format", where, hint) from None
        except RuntimeError as error:  # a redirect that the SDK does not follow
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
            return TokenRefusedError(
                f"GitHub refuses {self._named} ({words})", where, f"make a new token: {self._rights}"
            )
        if status == 403 or kinds & {"FORBIDDEN", "INSUFFICIENT_SCOPES"}:
            # The first header is for fine-grained tokens, the second for classic ones.
            scope = headers.get("x-accepted-github-permissions") or headers.get("x-accepted-oauth-scopes") or ""
            hint = f"give the token {scope}" if scope else f"give the token {self._rights}"
            return ScopeMissingError(f"{self._named} may not do this ({words})", where, hint, scope=scope)
        if status in (404, 410):
            return NotFoundError(
                f"GitHub has nothing there ({words})", where, "check the name, and that the token sees the repository"
            )
        if status >= 500:
            return ServerError(f"GitHub has a problem of its own ({words})", where, "run it again later")
        return RequestRefusedError(f"GitHub refuses the request ({words})", where, "see what it says")

    def _limit(self, is_one: bool, headers: dict[str, str], data: dict[str, Any]) -> float | None:
        """Return when GitHub accepts requests again; None where neither headers nor body name a rate limit.

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
