"""Send requests to GitHub and translate its errors, by PyGithub's transport, which is imported at the first request.

Each call sends one request to one host, with the token in one header. Redirects to another host are refused, and no response
chooses the address of the next request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from runner.forge import ForgeError, ForgeProject, Token
from runner.forge.response import Failures, Fields, check_page, malformed, objects

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
        self._failures = Failures("GitHub", project, token)
        self._failures.check_installed("github", "the package pygithub")
        self._project, self._token, self._now, self._write_pause = project, token.value, now, write_pause
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
            raise self._failures.unanswered(error, where) from None
        except (AttributeError, ValueError, RecursionError):  # the SDK met no JSON, or a value of another type
            raise malformed("JSON", where) from None
        except RuntimeError as error:  # a redirect that the SDK does not follow
            raise self._failures.redirected(error, where) from None

    def _refusal(self, error: GithubException, where: str) -> ForgeError:
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        data = error.data if isinstance(error.data, dict) else {}
        errors = [each for each in data.get("errors") or [] if isinstance(each, dict)]
        quoted = self._failures.quoted
        message = quoted(data.get("message") or f"status {error.status}")
        more = "; ".join(quoted(each.get("message") or f"{each.get('field')}: {each.get('code')}") for each in errors)
        status, kinds = error.status, {each.get("type") for each in errors}  # GraphQL answers 200 and names the kind
        is_limited = status == 429 or "RATE_LIMITED" in kinds
        at = self._limit(is_limited, headers, data)
        if kinds & {"FORBIDDEN", "INSUFFICIENT_SCOPES"} and status != 401:
            status = 403
        return self._failures.refused(
            status,
            f"{message}: {more}" if more else message,
            where,
            # The first header is for fine-grained tokens, the second for classic ones.
            scope=headers.get("x-accepted-github-permissions") or headers.get("x-accepted-oauth-scopes") or "",
            retry_at=at if is_limited or error.status == 403 else None,
        )

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
