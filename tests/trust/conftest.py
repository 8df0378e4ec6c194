"""The protocol and the copies of it that the attacks use too."""

from tests.attacks.conftest import forge, made

__all__ = ["forge", "made"]
