"""Each step kind is a module and a row of the table."""

from __future__ import annotations

import importlib

import pytest

from runner.executor.steps import STEP_KINDS
from runner.protocol.plans import Kind


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_has_a_module_that_carries_out_an_attempt(kind: Kind) -> None:
    assert callable(importlib.import_module(STEP_KINDS[kind]).carry_out)
