"""Which forges there are, and how one is opened. Promises that nothing of an SDK's is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from runner.forge import github, github_line, gitlab, gitlab_line
from runner.forge.base import Forge
from runner.forge.none import NoForge
from runner.forge.place import Place
from runner.forge.retrying import Patience
from runner.forge.tokens import find


def open_forge(place: Place | None, environ: Mapping[str, str], patience: Patience) -> Forge:
    """Return the forge of a place (`place.configured`), with the person's token for it; None is `none`.

    `environ`: the person's whole environment, since tokens stand in it under the forges' own names.

    Raises:
        TokenMissingError: there is no token, or the forge's package is not installed.
    """
    if place is None:
        return NoForge()
    if place.name == "github":
        found = find(place, environ, github_line.RIGHTS)
        return github.GitHub(place, found.value, patience, source=found.where)
    if place.name == "gitlab":
        found = find(place, environ, gitlab_line.RIGHTS)
        return gitlab.GitLab(place, found.value, patience, source=found.where)
    raise AssertionError(f"unreachable: place.py knows no forge {place.name!r}")
