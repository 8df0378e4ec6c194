"""The soak, reduced: 100 protocols, 1,000 transitions. `make soak` is the whole of it."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import Box
from tests.slow.soak import EACH, soak

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="allowed: /proc tells of memory and descriptors"),
]
PROTOCOLS = 100


@pytest.mark.timeout(1800)
def test_memory_and_descriptors_are_flat(box: Box) -> None:
    found = soak(box, PROTOCOLS, print)
    print(found.text())
    assert found.transitions == PROTOCOLS * EACH
    early, late = found.ends()
    assert late.memory <= early.memory * 1.1, (early, late)
    assert late.files <= early.files + 3, (early, late)
    assert late.threads <= early.threads + 1, (early, late)
    (before, _), (after, loose) = found.sizes
    assert after < before / 3
    assert loose < 100
