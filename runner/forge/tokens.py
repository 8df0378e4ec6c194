"""Find a forge's token: in the environment, from the forge's own program, from git's credential helper, in that order.

A token is only sent to the forge that it is for: programs are asked for the host's token, and a variable is used for the public
forge, or for the host that CI names in another variable. RUNNER_FORGE_TOKEN alone is used for every `forge:`, since a person sets
it for the runner. A token is not stored, printed or logged; `where` may be shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from runner.forge.base import ForgeKind, ForgeProject, Token, TokenMissingError
from runner.git.identity import credential
from runner.git.process import answer, personal_environment

OWN: Final = "RUNNER_FORGE_TOKEN"
_SECONDS: Final = 10.0


def find(project: ForgeProject, environ: Mapping[str, str]) -> Token:
    """Return the token for a project; `environ`: the person's whole environment.

    Raises:
        TokenMissingError: there is none; it lists the places searched, and what to do.
    """
    kind, meant = project.kind, _host_of(project.kind, environ)
    rights = f"set {OWN} to a token with: {kind.rights}"
    searched: list[str] = []
    sources: list[tuple[str, Callable[[], str | None]]] = [(OWN, lambda: environ.get(OWN))]
    if project.host == meant:
        sources += [(name, lambda name=name: environ.get(name)) for name in kind.token_variables]  # type: ignore[misc]
    else:
        searched += [f"{name} (it is for {meant})" for name in kind.token_variables if environ.get(name)]
    program = [*kind.token_command, project.host]
    sources.append((f"`{' '.join(program)}`", lambda: _ask_program(program, environ)))
    sources.append(("git's credential helper", lambda: credential(project.site, environ)))
    for name, source in sources:
        searched.append(name)
        value = (source() or "").strip()
        if value and not value.isprintable():
            raise TokenMissingError("the value found is no token", name, rights)
        if value:
            return Token(value, name)
    raise TokenMissingError(
        f"there is no token for {project.host}", f"looked for {', '.join(searched)}", f"`{kind.login}`, or {rights}"
    )


def _host_of(kind: ForgeKind, environ: Mapping[str, str]) -> str:
    """Return the host that the token variables are for."""
    for name in kind.host_variables:
        value = environ.get(name)
        if value:
            return (urlsplit(value).netloc if "//" in value else value).lower()
    return kind.public_host


def _ask_program(argv: list[str], environ: Mapping[str, str]) -> str | None:
    """Return the output of a forge's own program; None where it is not installed or fails."""
    at = shutil.which(argv[0], path=environ.get("PATH", ""))
    if at is None:
        return None
    # The tokens of the environment were tried above, by host; the program would use them for any host.
    env = {key: value for key, value in personal_environment(environ).items() if "TOKEN" not in key}
    # Not in the repository, whose own settings these programs would read.
    out = answer([at, *argv[1:]], env=env, cwd=Path("/"), timeout=_SECONDS)
    return None if out is None else out.decode("utf-8", "replace")
