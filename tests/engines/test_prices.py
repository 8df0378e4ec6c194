"""Prices: as they are, offline, and None where they are not known."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from runner.engines import Usage
from runner.engines.registry import DEFAULT_GEMINI_MODEL, cost_usd

MILLION = Usage(input=100_000, output=1_000_000)
DAY = datetime(2026, 11, 1, tzinfo=UTC)


def test_a_known_model_costs_what_the_table_says() -> None:
    cost = cost_usd("gemini", "gemini-3.1-pro-preview", MILLION, at=DAY)
    assert cost == Decimal("12.2")  # 2 and 12 dollars a million


def test_the_default_model_has_a_price() -> None:
    assert cost_usd("gemini", DEFAULT_GEMINI_MODEL, MILLION) is not None


def test_cached_input_has_its_own_price() -> None:
    model, whole = "gemini-3.1-pro-preview", Usage(input=100_000, cached=100_000)
    assert cost_usd("gemini", model, whole, at=DAY) == Decimal("0.02")  # 0.2 dollars a million, not 2
    assert cost_usd("gemini", model, Usage(input=100_000, cached=50_000), at=DAY) == Decimal("0.11")
    assert cost_usd("gemini", model, Usage(input=10, cached=11), at=DAY) == Decimal("0.000002")  # miscounted


def test_a_long_conversation_costs_more_a_token() -> None:
    short = cost_usd("gemini", "gemini-3.1-pro-preview", Usage(input=100_000), at=DAY)
    long = cost_usd("gemini", "gemini-3.1-pro-preview", Usage(input=300_000), at=DAY)
    assert short is not None
    assert long is not None
    assert long > 3 * short


def test_a_recording_costs_what_its_model_does() -> None:
    model = "gemini-3.1-pro-preview"
    assert cost_usd("recorded", model, MILLION, at=DAY) == cost_usd("gemini", model, MILLION, at=DAY)


@pytest.mark.parametrize(
    ("provider", "model"),
    [("gemini", "no-such-model"), ("gemini", ""), ("nobody", DEFAULT_GEMINI_MODEL), ("recorded", "x"), ("", "")],
)
def test_an_unknown_price_is_none_and_not_nothing(provider: str, model: str) -> None:
    assert cost_usd(provider, model, MILLION) is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert cost_usd("gemini", DEFAULT_GEMINI_MODEL, MILLION) is not None


def test_input_that_is_written_to_a_cache_has_its_own_price() -> None:
    model, million = "claude-sonnet-4-5", 100_000
    assert cost_usd("anthropic", model, Usage(input=million), at=DAY) == Decimal("0.3")
    assert cost_usd("anthropic", model, Usage(input=million, cache_write=million), at=DAY) == Decimal("0.375")
    half = Usage(input=million, cached=million // 2, cache_write=million // 2)
    assert cost_usd("anthropic", model, half, at=DAY) == Decimal("0.2025")
    assert cost_usd("openai", "gpt-5", Usage(input=10, cache_write=10)) == cost_usd("openai", "gpt-5", Usage(input=10))
