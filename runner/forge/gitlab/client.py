"""Send requests to GitLab and translate its errors, by python-gitlab's low-level requests, imported at the first one.

Each call sends one request to one host. The SDK's own retries and waits are off, and no response chooses the address of the next
request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from runner.forge import ForgeError, ForgeProject, Token
from runner.forge.response import Failures, Fields, check_page, malformed, objects

if TYPE_CHECKING:
    import gitlab
    import requests

T = TypeVar("T")

_TIMEOUT: Final = 20.0  # seconds a request
_LIMIT_SECONDS: Final = 60.0  # where GitLab does not say how long
_ONCE: Final[dict[str, Any]] = {"obey_rate_limit": False, "retry_transient_errors": False}


class Client:
    """A connection to one GitLab."""

    def __init__(self, project: ForgeProject, token: Token, now: Callable[[], float]) -> None:
        """`now`: seconds since the epoch.

        Raises:
            TokenMissingError: python-gitlab is not installed.
        """
        self._failures = Failures("GitLab", project, token)
        self._failures.check_installed("gitlab", "python-gitlab")
        self._project, self._token, self._now = project, token.value, now
        self._opened: gitlab.Gitlab | None = None
        self._headers: dict[str, str] = {}  # of the last response; the SDK's exceptions do not keep them

    def close(self) -> None:
        """Close connections; a later request opens new ones."""
        if self._opened is not None:
            self._opened.session.close()
            self._opened = None

    def one(self, path: str) -> Fields:
        """Return the object at a path.

        Raises:
            ForgeError: by its class, why there is none.
        """
        client = self._client()
        return Fields.of(self._call(f"GET {path}", lambda: client.http_get(path, **_ONCE)), f"GET {path}")

    def write(self, verb: str, path: str, body: dict[str, Any]) -> Fields:
        """Return the object that a POST or a PUT makes."""
        client, where = self._client(), f"{verb} {path}"
        send = client.http_post if verb == "POST" else client.http_put
        return Fields.of(self._call(where, lambda: send(path, post_data=body, **_ONCE)), where)

    def pages(self, path: str, query: dict[str, Any], *, limit: int | None = None) -> Iterator[Fields]:
        """Return the items of every page, or of the first `limit`."""
        client, where, number = self._client(), f"GET {path}", 1
        while limit is None or number <= limit:
            check_page(number, where)
            asked = {**query, "per_page": 100, "page": number}
            # By number, so that no response's address is followed; one page at a time, so that `limit` is kept.
            page = partial(client.http_list, path, asked, get_all=False, iterator=False, **_ONCE)
            value = self._call(where, page)
            yield from objects(value, where)
            if not self._headers.get("x-next-page"):
                return
            number += 1

    def _client(self) -> gitlab.Gitlab:
        if self._opened is None:
            import gitlab

            self._opened = gitlab.Gitlab(
                self._project.api,
                # Every kind of token may be sent as a bearer, and a redirect to another host does not take it along.
                oauth_token=self._token,
                timeout=_TIMEOUT,
                user_agent="protocol-runner",
                retry_transient_errors=False,
            )
            self._opened.session.hooks["response"].append(self._note)
        return self._opened

    def _note(self, response: requests.Response, *args: object, **kwargs: object) -> None:
        self._headers = {key.lower(): value for key, value in response.headers.items()}

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Return the result of `call`, or raise the `ForgeError` for its exception, by type and status code."""
        import gitlab
        import requests

        where = f"{what} at {self._project.host}"
        try:
            return call()
        except gitlab.exceptions.RedirectError as error:
            raise self._failures.redirected(error, where) from None
        except gitlab.exceptions.GitlabParsingError:
            raise malformed("JSON", where) from None
        except gitlab.exceptions.GitlabError as error:
            raise self._refusal(error, where) from None  # the SDK's exception holds whole answers
        except (requests.RequestException, OSError) as error:
            raise self._failures.unanswered(error, where) from None

    def _refusal(self, error: gitlab.exceptions.GitlabError, where: str) -> ForgeError:
        status = error.response_code or 0
        body = error.response_body.decode("utf-8", "replace") if isinstance(error.response_body, bytes) else ""
        scope = re.search(r'"scope"\s*:\s*"([a-z_ ]+)"', body)  # RFC 6750, `insufficient_scope`
        return self._failures.refused(
            status,
            self._failures.quoted(error.error_message or f"status {status}"),
            where,
            scope=scope[1] if scope else "",
            retry_at=self._limit() if status == 429 else None,
        )

    def _limit(self) -> float:
        """Return when GitLab accepts requests again. Docs: "Rate limits", response headers."""
        after, reset = self._headers.get("retry-after", ""), self._headers.get("ratelimit-reset", "")
        if re.fullmatch(r"\d{1,9}", after):
            return self._now() + int(after)
        return float(reset) if re.fullmatch(r"\d{1,12}", reset) else self._now() + _LIMIT_SECONDS
