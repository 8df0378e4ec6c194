"""The tests of engines see nothing of the machine's own set-up."""

from __future__ import annotations

import os

import pytest

from tests.conftest import one_authority


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine's stands before the endpoint, and keys of the machine's are none of the tests'."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("GEMINI_", "GOOGLE_", "OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", one_authority())
