"""One protocol, made once by the runner itself; each attack gets a copy of its repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.forge import Forge
from tests.conftest import Box, command, make_box

STEPS = {
    "01-a": command("echo a > a.txt", "outputs: [a.txt]\n"),
    "02-b": command("echo b > b.txt", "outputs: [b.txt]\n"),
    "03-c": command("true"),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Box, str]:
    """A repository with a protocol whose first step is done: finished, checked, completed."""
    box = make_box(tmp_path_factory.mktemp("made") / "repo")
    protocol = box.new(STEPS)
    for _ in range(2):
        box.runner("step", protocol, rc=0)
    return box, protocol


@pytest.fixture
def forge(made: tuple[Box, str], tmp_path: Path) -> Iterator[Forge]:
    """A copy to forge in; it verifies as it is."""
    yield Forge.copy(*made, tmp_path)
