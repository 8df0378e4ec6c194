"""The forges on which the one suite runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge.grounds import GitHubGround, GitLabGround, Ground, github_ground, gitlab_ground
from tests.forge.journey import Town, town
from tests.forge.prism import Prism


@pytest.fixture
def gitlab() -> Iterator[GitLabGround]:
    """The GitLab of the tests."""
    with gitlab_ground() as ground:
        yield ground


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHubGround]:
    """`emulate` and its front; installed by `make forge`."""
    with github_ground(tmp_path) as ground:
        yield ground


@pytest.fixture(params=["gitlab", pytest.param("github", marks=pytest.mark.peers)])
def ground(request: pytest.FixtureRequest) -> Ground:
    """Each forge in turn."""
    found: Ground = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Town]:
    """A town on the GitLab of the tests."""
    made = town(tmp_path)
    try:
        yield made
    finally:
        made.fake.close()


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    """Prism; installed by `make forge`. Its `objections` are whoever uses it's to look at."""
    running = Prism(tmp_path_factory.mktemp("prism"))
    try:
        yield running
    finally:
        running.close()
