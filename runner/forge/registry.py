"""Find the forge, project and token that a remote's address or `forge:` of config.yaml names, and open the forge.

A guess is offered and never used: without `forge:` nothing is posted anywhere (design §6).

A token is only sent to the forge that it is for: programs are asked for the host's token, and a variable is used for the public
forge, or for the host that CI names in another variable. RUNNER_FORGE_TOKEN alone is used for every `forge:`, since a person sets
it for the runner. A token is not stored, printed or logged; `where` may be shown.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from runner.errors import UsageError
from runner.forge import (
    Forge,
    ForgeKind,
    ForgeProject,
    Token,
    TokenMissingError,
    github,
    gitlab,
)
from runner.forge.retry import Retrying
from runner.git.process import answer, personal_environment
from runner.git.repository import credential

FORGES: Final[Mapping[str, ForgeKind]] = {kind.name: kind for kind in (github.KIND, gitlab.KIND)}
SETTINGS: Final = tuple(f"`forge: {name}`" for name in FORGES)
OWN_VARIABLE: Final = "RUNNER_FORGE_TOKEN"
PROGRAM_SECONDS: Final = 10.0  # for a forge's own program
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_PATH: Final = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+")
_HINT: Final = (
    f"write {', '.join(SETTINGS)}, `forge: none`, or add the address: `forge: gitlab https://HOST/GROUP/PROJECT`"
)


def guess(url: str) -> ForgeProject | None:
    """Return the project that a remote's address names, or None where its host is not known to be a forge."""
    found = _split(url)
    if found is None:
        return None
    host = found[1].split(":")[0].lower()
    kind = next((kind for kind in FORGES.values() if kind.is_host(host)), None)
    return _project(kind, *found) if kind else None


def is_project(url: str) -> bool:
    """Return whether a remote's address names a project on a server; the path of a folder does not."""
    return _split(url) is not None


def configured(setting: str | None, url: str | None) -> ForgeProject | None:
    """Return the project that `forge:` names; None where it is not set, or `none`. `url`: the remote's address.

    Raises:
        UsageError: there is no such forge, or the remote's address names no project.
    """
    if setting is None:
        return None
    name, _, address = setting.strip().partition(" ")
    if name == "none":
        return None
    if name not in FORGES:
        raise UsageError(f"there is no forge `{name}`", "forge: in config.yaml", _HINT)
    at = address.strip() or url or ""
    found = _split(at)
    if found is None:
        what = f"the address {at} names no project on a server" if at else "there is no remote that names a project"
        raise UsageError(what, "forge: in config.yaml", _HINT)
    scheme, host, _ = found
    if scheme == "http" and host.rsplit(":", 1)[0] not in _LOCAL:
        raise UsageError(f"a token would go to {host} unencrypted", "forge: in config.yaml", "use https")
    return _project(FORGES[name], *found)


def open_forge(
    project: ForgeProject, environ: Mapping[str, str], now: Callable[[], float], sleep: Callable[[float], None]
) -> Forge:
    """Return the project's forge, retried, with the person's token for it; no SDK is imported and nothing is connected yet.

    `environ`: the person's whole environment, which may hold tokens; `now`: seconds since the epoch.

    Raises:
        TokenMissingError: there is no token, or the forge's package is not installed.
    """
    forge = project.kind.open(project, token_of(project, environ), now)
    return cast(Forge, Retrying(forge, now, sleep))


def _split(url: str) -> tuple[str, str, str] | None:
    """Return scheme, host and path of an address as git reads it, or None where it names no project on a server."""
    short = re.fullmatch(r"(?:[^@/:]+@)?([A-Za-z0-9.-]+):(?!//)(.+)", url)
    if short:
        scheme, host, path = "https", short[1], short[2]
    else:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http", "ssh", "git+ssh") or not parts.hostname:
            return None
        host, path = parts.hostname, unquote(parts.path)
        scheme = parts.scheme if parts.scheme in ("https", "http") else "https"
        try:
            port = parts.port if parts.scheme == scheme else None  # ssh's port is not the API's
        except ValueError:
            return None
        if port and port != {"https": 443, "http": 80}[scheme]:
            host = f"{host}:{port}"
    path = path.strip("/").removesuffix(".git")
    if not _PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        return None
    return scheme, host, path


def _project(kind: ForgeKind, scheme: str, host: str, path: str) -> ForgeProject | None:
    host = kind.ssh_hosts.get(host.lower(), host.lower())
    api = kind.api(scheme, host, path)
    return ForgeProject(kind=kind, host=host, path=path, site=f"{scheme}://{host}", api=api) if api else None


def token_of(project: ForgeProject, environ: Mapping[str, str]) -> Token:
    """Return the token for a project; `environ`: the person's whole environment.

    Raises:
        TokenMissingError: there is none; it lists the places searched, and what to do.
    """
    kind, meant = project.kind, _host_of(project.kind, environ)
    rights = f"set {OWN_VARIABLE} to a token with: {kind.rights}"
    searched: list[str] = []
    sources: list[tuple[str, Callable[[], str | None]]] = [(OWN_VARIABLE, lambda: environ.get(OWN_VARIABLE))]
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
    out = answer([at, *argv[1:]], env=env, cwd=Path("/"), timeout=PROGRAM_SECONDS)
    return None if out is None else out.decode("utf-8", "replace")
