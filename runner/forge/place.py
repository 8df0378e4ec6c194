"""Which repository on which forge: told from the remote's address, or by `forge:` of config.yaml. Pure.

A guess is offered, never used: without `forge:` nothing is posted anywhere (design §6).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from runner.errors import UsageError
from runner.values import dataclass

NAMES: Final = ("github", "gitlab", "none")
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_PATH: Final = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+")
_HINT: Final = "write `forge: github`, `forge: gitlab`, `forge: none`, or add the address: `forge: gitlab https://HOST/GROUP/PROJECT`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`name`: the kind of forge; `host`: whose ids count, with the port where it is not the usual one; `path`: OWNER/REPO or
    GROUP/…/PROJECT; `site`: where people look; `api`: where programs ask."""

    name: str
    host: str
    path: str
    site: str
    api: str


def guess(url: str) -> Place | None:
    """Return the place that a remote's address points to, where its host tells; None where it does not."""
    found = _split(url)
    if found is None:
        return None
    host = found[1].split(":")[0].lower()
    labels = host.split(".")
    name = "github" if "github" in labels or host.endswith(".ghe.com") else "gitlab" if "gitlab" in labels else None
    return _place(name, *found) if name else None


def configured(setting: str | None, url: str | None) -> Place | None:
    """Return the place that `forge:` names; None where it is not set, or `none`. `url`: the remote's.

    Raises:
        UsageError: it names no forge, or none can be told from it and the remote.
    """
    if setting is None:
        return None
    name, _, address = setting.strip().partition(" ")
    if name not in NAMES:
        raise UsageError(f"there is no forge `{name}`", "forge: in config.yaml", _HINT)
    if name == "none":
        return None
    found = _split(address.strip() or url or "")
    if found is None:
        raise UsageError("the remote's address does not tell the repository", "forge: in config.yaml", _HINT)
    scheme, host, _ = found
    if scheme == "http" and host.rsplit(":", 1)[0] not in _LOCAL:
        raise UsageError(f"a token would go to {host} unencrypted", "forge: in config.yaml", "use https")
    return _place(name, *found)


def _split(url: str) -> tuple[str, str, str] | None:
    """Return scheme, host and path of an address as git takes it."""
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


def _place(name: str, scheme: str, host: str, path: str) -> Place | None:
    host = {"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com"}.get(host.lower(), host.lower())
    if name == "github":
        if path.count("/") != 1:
            return None
        if host == "github.com":
            api = "https://api.github.com"
        elif host.endswith(".ghe.com"):
            api = f"https://api.{host}"
        else:
            api = f"{scheme}://{host}/api/v3"
    else:
        api = f"{scheme}://{host}"
    return Place(name=name, host=host, path=path, site=f"{scheme}://{host}", api=api)
