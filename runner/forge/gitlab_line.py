"""How GitLab is asked, and what its refusals mean: python-gitlab's low-level requests, imported at the first question.

Promises one request a question, to one host; the SDK's own retrying and waiting are off, and no answer chooses where the next
question goes. What is asked is `gitlab.py`'s matter.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

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
    import gitlab
    import requests

T = TypeVar("T")

INSTALL: Final = "pip install 'protocol-runner[gitlab]'"
RIGHTS: Final = "scope `api` and the role Developer; Maintainer to see protected branches"
_TIMEOUT: Final = 20.0  # seconds a request
_LIMIT_SECONDS: Final = 60.0  # where GitLab does not say how long
_ONCE: Final[dict[str, Any]] = {"obey_rate_limit": False, "retry_transient_errors": False}


class Line:
    """The connection to one GitLab. Asked by one thread at a time."""

    def __init__(self, place: Place, token: str, now: Callable[[], float], source: str) -> None:
        """`now`: seconds since the epoch; `source`: where the token was found, or empty. Nothing is imported or connected to yet.

        Raises:
            TokenMissingError: python-gitlab is not installed.
        """
        if importlib.util.find_spec("gitlab") is None:
            raise TokenMissingError("python-gitlab is not installed", f"forge: gitlab, {place.host}", INSTALL)
        self._place, self._token, self._now = place, token, now
        self._named = f"the token of {source}" if source else "the token"
        self._opened: gitlab.Gitlab | None = None
        self._headers: dict[str, str] = {}  # of the last answer; the SDK's exceptions do not keep them

    def close(self) -> None:
        """Let go of connections; a later question opens new ones."""
        if self._opened is not None:
            self._opened.session.close()
            self._opened = None

    def one(self, path: str) -> Fields:
        """Return an object.

        Raises:
            ForgeError: one of its children says why there is none.
        """
        client = self._client()
        return Fields.of(self._told(f"GET {path}", lambda: client.http_get(path, **_ONCE)), f"GET {path}")

    def send(self, verb: str, path: str, body: dict[str, Any]) -> Fields:
        """Return the object that a POST or a PUT makes."""
        client, where = self._client(), f"{verb} {path}"
        send = client.http_post if verb == "POST" else client.http_put
        return Fields.of(self._told(where, lambda: send(path, post_data=body, **_ONCE)), where)

    def pages(self, path: str, query: dict[str, Any], *, limit: int | None = None) -> Iterator[Fields]:
        """Return the items of every page, or of the first `limit`."""
        client, where, number = self._client(), f"GET {path}", 1
        while limit is None or number <= limit:
            check_page(number, where)
            asked = {**query, "per_page": 100, "page": number}
            # By number, so that no answer's address is followed; one page at a time, so that a limit is a limit.
            page = partial(client.http_list, path, asked, get_all=False, iterator=False, **_ONCE)
            value = self._told(where, page)
            yield from objects(value, where)
            if not self._headers.get("x-next-page"):
                return
            number += 1

    def _client(self) -> gitlab.Gitlab:
        if self._opened is None:
            import gitlab

            self._opened = gitlab.Gitlab(
                self._place.api,
                # Every kind of token may be shown as a bearer, and a redirect to another host does not take it along.
                oauth_token=self._token,
                timeout=_TIMEOUT,
                user_agent="protocol-runner",
                retry_transient_errors=False,
            )
            self._opened.session.hooks["response"].append(self._note)
        return self._opened

    def _note(self, response: requests.Response, *args: object, **kwargs: object) -> None:
        self._headers = {key.lower(): value for key, value in response.headers.items()}

    def _told(self, what: str, call: Callable[[], T]) -> T:
        """Return what `call` returns, or raise what its exception means, by type and status code."""
        import gitlab
        import requests

        where = f"{what} at {self._place.host}"
        try:
            return call()
        except gitlab.exceptions.RedirectError as error:
            words = readable(error, [self._token])
            hint = "correct the address of the remote, or `forge:`"
            raise RequestRefusedError(f"GitLab points elsewhere ({words})", where, hint) from None
        except gitlab.exceptions.GitlabParsingError as error:
            hint = "check that `forge:` names the right address; a proxy may have answered instead"
            words = readable(error, [self._token])
            raise MalformedAnswerError(f"what came back is not the forge's format ({words})", where, hint) from None
        except gitlab.exceptions.GitlabError as error:
            raise self._refusal(error, where) from None  # the SDK's exception holds whole answers
        except (requests.RequestException, OSError) as error:
            words = readable(f"{type(error).__name__}: {error}", [self._token])
            raise NetworkError(f"no answer from GitLab ({words})", where, "check the network; run it again") from None

    def _refusal(self, error: gitlab.exceptions.GitlabError, where: str) -> ForgeError:
        status = error.response_code or 0
        words = readable(error.error_message or f"status {status}", [self._token])
        body = error.response_body.decode("utf-8", "replace") if isinstance(error.response_body, bytes) else ""
        if status == 429:
            at = self._limit()
            hint = f"run it again after {clock(at)}"
            return RateLimitError(f"GitLab asks for a pause ({words})", where, hint, retry_at=at)
        if status == 401:
            return TokenRefusedError(f"GitLab refuses {self._named} ({words})", where, f"make a new token: {RIGHTS}")
        if status == 403:
            found = re.search(r'"scope"\s*:\s*"([a-z_ ]+)"', body)  # RFC 6750, `insufficient_scope`
            scope = found[1] if found else ""
            hint = f"give the token the scope {scope}" if scope else f"give the token {RIGHTS}"
            return ScopeMissingError(f"{self._named} may not do this ({words})", where, hint, scope=scope)
        if status in (404, 410):
            hint = "check the name, and that the token sees the project"
            return NotFoundError(f"GitLab has nothing there ({words})", where, hint)
        if status >= 500:
            return ServerError(f"GitLab has a problem of its own ({words})", where, "run it again later")
        return RequestRefusedError(f"GitLab refuses the request ({words})", where, "see what it says")

    def _limit(self) -> float:
        """Return when GitLab will listen again. Docs: "Rate limits", response headers."""
        after, reset = self._headers.get("retry-after", ""), self._headers.get("ratelimit-reset", "")
        if re.fullmatch(r"\d{1,9}", after):
            return self._now() + int(after)
        return float(reset) if re.fullmatch(r"\d{1,12}", reset) else self._now() + _LIMIT_SECONDS
