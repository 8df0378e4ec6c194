"""Retries of a forge's methods: how often, how long between two, and which errors are worth it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from runner.forge import Forge, ForgeError, RateLimitError

if TYPE_CHECKING:
    from tenacity import RetryCallState

ATTEMPTS: Final = 4
LONGEST: Final = 60.0  # seconds; a rate limit that lasts longer is raised
_FIRST: Final = 1.0


class Retrying:
    """A forge each of whose methods is retried; the last `ForgeError` is raised, at once where waiting cannot help.

    A rate limit is waited out where it ends soon. Whole methods of `Forge` are retried and never single HTTP requests: each method
    looks at the forge before it writes, so one whose response was lost is not done twice.
    """

    def __init__(self, forge: Forge, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        """`now`: seconds since the epoch; `sleep`: waits so many seconds."""
        self._forge, self._now, self._sleep = forge, now, sleep
        self.close = forge.close

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._forge, name)
        if not callable(found):
            return found
        from tenacity import Retrying, retry_if_exception, stop_after_attempt  # a tenth of a command's start

        return Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            retry=retry_if_exception(self._is_worth),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        ).wraps(found)

    def _is_worth(self, error: BaseException) -> bool:
        if isinstance(error, RateLimitError):
            return error.retry_at - self._now() <= LONGEST
        return isinstance(error, ForgeError) and error.retryable

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RateLimitError):
            return max(0.0, error.retry_at - self._now())
        return float(_FIRST * 2 ** (state.attempt_number - 1))
