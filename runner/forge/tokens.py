"""Where a forge's token comes from: the environment, the forge's own program, git's credential helper; the first that has one.

Promises that a token is only ever given to the forge that it is for: what names a host is asked by that host, and the variables
that name none are taken for the public forge, or for the host that CI names beside them. RUNNER_FORGE_TOKEN alone is the
person's own word, for whatever `forge:` says. A token is not kept, printed or logged; `where` is what may be shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from runner.forge.base import TokenMissingError
from runner.forge.place import Place
from runner.git.person import credential
from runner.git.process import answer, personal_environment
from runner.values import dataclass

OWN: Final = "RUNNER_FORGE_TOKEN"
_SECONDS: Final = 10.0

# The variables of a forge, and those that say which host they are for; without one of these it is the public one.
_VARIABLES: Final = {
    "github": (("GITHUB_TOKEN", "GH_TOKEN"), ("GITHUB_SERVER_URL", "GH_HOST"), "github.com"),
    "gitlab": (("GITLAB_TOKEN",), ("CI_SERVER_URL", "GITLAB_HOST"), "gitlab.com"),
}
_PROGRAMS: Final = {
    "github": ("gh", "auth", "token", "--hostname"),
    "gitlab": ("glab", "config", "get", "token", "--host"),
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it was found. Its value stands in no `repr`."""

    value: str = field(repr=False)
    where: str


def find(place: Place, environ: Mapping[str, str], rights: str) -> Token:
    """Return the token for a place; `environ`: the person's whole environment; `rights`: what it has to be allowed.

    Raises:
        TokenMissingError: there is none; what was looked for, and what to do.
    """
    names, hosts, public = _VARIABLES[place.name]
    looked: list[str] = []
    ways: list[tuple[str, Callable[[], str | None]]] = [(OWN, lambda: environ.get(OWN))]
    if place.host == _named_host(environ, hosts, public):
        ways += [(name, lambda name=name: environ.get(name)) for name in names]  # type: ignore[misc]
    else:
        looked += [f"{name} (it is for {_named_host(environ, hosts, public)})" for name in names if environ.get(name)]
    program = [*_PROGRAMS[place.name], place.host]
    ways.append((f"`{' '.join(program)}`", lambda: _ask_program(program, environ)))
    ways.append(("git's credential helper", lambda: credential(place.site, environ)))
    for name, way in ways:
        looked.append(name)
        value = (way() or "").strip()
        if value and not value.isprintable():
            raise TokenMissingError("what was found is no token", name, f"set {OWN} to a token with: {rights}")
        if value:
            return Token(value, name)
    login = "gh auth login" if place.name == "github" else "glab auth login"
    raise TokenMissingError(
        f"there is no token for {place.host}",
        f"looked for {', '.join(looked)}",
        f"`{login}`, or set {OWN} to a token with: {rights}",
    )


def _named_host(environ: Mapping[str, str], variables: tuple[str, ...], public: str) -> str:
    for name in variables:
        value = environ.get(name)
        if value:
            return (urlsplit(value).netloc if "//" in value else value).lower()
    return public


def _ask_program(argv: list[str], environ: Mapping[str, str]) -> str | None:
    """Return what a forge's own program prints; None where it is not here or has nothing."""
    at = shutil.which(argv[0], path=environ.get("PATH", ""))
    if at is None:
        return None
    # What it would take from the environment has been judged above, by host.
    env = {key: value for key, value in personal_environment(environ).items() if "TOKEN" not in key}
    # Not in the repository, whose own settings these programs would read.
    out = answer([at, *argv[1:]], env=env, cwd=Path("/"), timeout=_SECONDS)
    return None if out is None else out.decode("utf-8", "replace")
