"""Each step kind has a module that carries it out."""

from __future__ import annotations

from importlib import import_module

import pytest

from runner.executor.steps import STEP_KINDS
from runner.protocol.plans import Kind


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_has_a_row_and_a_module(kind: Kind) -> None:
    assert callable(import_module(STEP_KINDS[kind]).carry_out)
