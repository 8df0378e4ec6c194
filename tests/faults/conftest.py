"""Grounds that the tests of a process share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.faults.ground import Grounds, can_strike


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with contextlib.ExitStack() as held:
        yield Grounds(tmp_path_factory.mktemp("grounds"), held)


@pytest.fixture
def strikes() -> None:
    """What a sweep needs."""
    if (why := can_strike()) is not None:
        pytest.skip(why)
