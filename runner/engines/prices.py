"""The cost of a model's answer, from the table of the installed genai-prices: offline, and never updated on the way.

The cost is an upper bound, so that a budget stops early rather than late (ADR 0005). An unknown price is None, which people see and
which never counts as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from runner.engines.base import Usage

# Our providers as the table calls them. A recording costs what its model would have, so that budgets end it where they
# ended the original.
_PROVIDERS: Final[Mapping[str, str]] = {"gemini": "google", "recorded": ""}


def cost_usd(provider: str, model: str, usage: Usage, *, at: datetime | None = None) -> Decimal | None:
    """Return an upper bound for the price of one answer, in US dollars; None where the price is not known.

    Cached input counts as input. `at`: when it was given (default: now); prices change.
    """
    if provider not in _PROVIDERS or not model:
        return None
    try:
        import genai_prices
    except ModuleNotFoundError:
        return None
    tokens = genai_prices.Usage(input_tokens=usage.input, output_tokens=usage.output)
    try:
        price = genai_prices.calc_price(
            tokens, model.rpartition("/")[2], provider_id=_PROVIDERS[provider] or None, genai_request_timestamp=at
        )
    except LookupError:  # the table does not know the model
        return None
    return price.total_price
