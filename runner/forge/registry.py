"""Which forges there are, which project a remote's address or `forge:` of config.yaml names, and how it is opened.

A guess is offered and never used: without `forge:` nothing is posted anywhere (design §6).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from runner.errors import UsageError
from runner.forge import github, gitlab, tokens
from runner.forge.base import Forge, ForgeKind, ForgeProject
from runner.forge.retrying import Retrying

FORGES: Final[Mapping[str, ForgeKind]] = {kind.name: kind for kind in (github.KIND, gitlab.KIND)}
SETTINGS: Final = tuple(f"`forge: {name}`" for name in FORGES)
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
    found = _split(address.strip() or url or "")
    if found is None:
        raise UsageError("the remote's address does not tell the repository", "forge: in config.yaml", _HINT)
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
    forge = project.kind.open(project, tokens.find(project, environ), now)
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
