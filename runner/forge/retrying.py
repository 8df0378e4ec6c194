"""Patience with a forge: what may pass by itself is tried again, and a limit is waited out where that is soon.

Whole abilities are tried again and never single requests: each looks first at what is there, so one whose answer was lost is not
done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from runner.forge.base import ForgeError, RateLimitError
from runner.values import dataclass

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

ATTEMPTS: Final = 4
LONGEST: Final = 60.0  # seconds; a limit that lasts longer is told instead
_FIRST: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`now`: seconds since the epoch; `sleep`: waits so many seconds."""

    now: Callable[[], float]
    sleep: Callable[[float], None]

    def with_(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, trying again what may pass by itself.

        Raises:
            ForgeError: the last one; at once where waiting cannot help or would take too long.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_attempt  # a tenth of a command's start

        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            retry=retry_if_exception(self._is_worth),
            wait=self._wait,
            sleep=self.sleep,
            reraise=True,
        )
        return retrying(call)

    def _is_worth(self, error: BaseException) -> bool:
        if isinstance(error, RateLimitError):
            return error.retry_at - self.now() <= LONGEST
        return isinstance(error, ForgeError) and error.retryable

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RateLimitError):
            return max(0.0, error.retry_at - self.now())
        return float(_FIRST * 2 ** (state.attempt_number - 1))
