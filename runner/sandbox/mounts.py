"""Which files and folders a sandbox shows a command, and which of them it may write.

Of /etc only what programs need is there, since the runner may be root and could read the secrets in the rest. For the same reason
nothing of /proc but processes can be written: the kernel lets uid 0 write its settings without any capability.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Container, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from runner import beneath
from runner.errors import SandboxError
from runner.sandbox.process import Command, Place

HOME = Path("/run/runner/home")  # nobody's own: what lies in a person's HOME keeps its path

# /nix/store, not /nix: the socket of the Nix daemon is beside it.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")
_IN_SYSTEM = tuple(f"{name}/" for name in SYSTEM)

# What programs need of /etc. Of ssl, pki and maven only parts: private keys and passwords are in the rest.
ETC = (
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "gai.conf", "resolv.conf", "protocols", "services"),
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf", "crypto-policies"),
    *("pki/ca-trust", "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/java"),
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "locale.alias"),
    *("locale.conf", "mime.types", "magic", "terminfo", "fonts", "os-release", "debian_version", "shells"),
    *("python*", "java*", "perl", "php", "maven/m2.conf", "maven/logging"),
)

# Version managers, whose folder as a whole holds programs and no credentials.
MANAGERS = (
    *(".pyenv", ".rbenv", ".nodenv", ".goenv", ".jenv", ".asdf", ".nvm", ".volta", ".sdkman/candidates", ".rustup"),
    *(".local/share/mise/installs", ".local/share/mise/shims", ".local/share/uv/python", ".local/share/uv/tools"),
)
_MANAGERS = tuple(Path(manager).parts for manager in MANAGERS)
BESIDE = {".cargo/bin": ".rustup"}  # folders whose programs need another one; .cargo itself holds the registry's token


def binds(command: Command, place: Place, toolchains: tuple[Path, ...] = ()) -> Iterator[tuple[bool, Path, Path]]:
    """Yield what a command is shown: whether it may write there, the path, and its path inside.

    Outer folders come first, so that an inner folder's own binding holds.

    Raises:
        SandboxError: a link or a file is in the way, or a folder leads elsewhere.
    """
    inside = place.inside
    given = {inside(path): path for path in (*command.writable, *command.readable)}
    found = [(True, path, inside(path)) for path in command.writable]
    found += [(False, path, inside(path)) for path in command.readable]
    for path in toolchains:
        # What of the checkout is below it has the commit's own files there, or is shown.
        if path.exists() and not any(path.is_relative_to(folder) for folder in given):
            found.append((False, path, path))
    for there, path in place.shown.items():
        is_inner = any(parent in place.shown for parent in there.parents)
        folder = _above(there, given)
        if folder is not None and (is_inner or _has_place(given[folder], str(there.relative_to(folder)), path)):
            found.append((False, path, there))
    for is_writable, path, there in sorted(found, key=lambda bind: len(bind[2].parts)):
        _refuse_detour(path, command.writable)
        if there not in place.shown and (folder := _above(there, given)) is not None:
            _make_way(given[folder], str(there.relative_to(folder)), path)
        yield is_writable, path, there


def home_of(command: Command) -> Path:
    """Return the HOME of a command: the one in its environment, where that may be written."""
    home = Path(command.env.get("HOME") or HOME)
    if any(home.is_relative_to(folder) for folder in command.writable) and ".." not in home.parts:
        return home
    return HOME


def _above(there: Path, given: Container[Path]) -> Path | None:
    """Return the innermost of the folders that are shown that a path inside is below, if any."""
    return next((parent for parent in there.parents if parent in given), None)


def _has_place(folder: Path, name: str, source: Path) -> bool:
    """Return whether a folder has a plain place to show `source`: a folder, made where nothing is, or a file."""
    return beneath.make(folder, name) if source.is_dir() else beneath.read(folder, name, 0) is not None


def _make_way(folder: Path, name: str, source: Path) -> None:
    """See that bubblewrap finds a plain place to show `source` in a folder that commands may have written: it would follow a link.

    Raises:
        SandboxError: a link or a file is in the way.
    """
    above = name if source.is_dir() else os.path.dirname(name)
    try:
        is_plain = (not above or beneath.make(folder, above)) and beneath.target(folder, name) is None
    except OSError:
        is_plain = False
    if not is_plain:
        raise SandboxError(
            "a link or a file is in the way of what the sandbox has to show", where=str(folder / name), hint="remove it"
        )


def _refuse_detour(path: Path, writable: tuple[Path, ...]) -> None:
    """Refuse to bind what a command before this one may have turned into a link to somewhere else.

    Raises:
        SandboxError: `path` is below a writable folder, but leads out of it.
    """
    for folder in writable:
        if path != folder and path.is_relative_to(folder) and not path.resolve().is_relative_to(folder.resolve()):
            raise SandboxError(
                f"a folder to bind leads out of {folder}", where=str(path), hint="remove the link; it was not bound"
            )


def toolchains(path: str, home: Path, known: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """Return the folders to bind so that programs on `path` (a PATH) that are not the system's can run inside.

    Below `home`: version managers, the installations (virtual environments too) whose `bin` is on the path
    or that a link there leads to, else the folder on the path alone. Never `home` itself, nor a folder that holds it.
    `known`: those of another path, which are returned too.
    """
    found = set(known)

    # For this call: most links of a folder lead into the same few, and what is installed may change before the next one.
    installation = cache(partial(_installation, home=home))
    for entry in map(Path, filter(None, path.split(os.pathsep))):
        if not entry.is_absolute() or not os.path.isdir(entry) or is_system(entry):
            continue
        found.update((installation(entry) or entry, *_needed_beside(entry)))
        with suppress(OSError), os.scandir(entry) as entries:
            for link in entries:
                if link.is_symlink() and link.is_file():
                    found.update(installation(hop.parent) or hop for hop in _hops(Path(link.path)))
    kept = [root for root in found if not home.is_relative_to(root) and not is_system(root) and root.exists()]
    return tuple(sorted(root for root in kept if not any(root != r and root.is_relative_to(r) for r in kept)))


def _installation(folder: Path, home: Path) -> Path | None:
    """Return the installation that `folder`, which holds programs, is of; None where it does not look like one."""
    for place in (folder, *folder.parents):  # HOME may be another one than the one it was installed in
        if any(place.parts[-len(manager) :] == manager for manager in _MANAGERS):
            return place
    root = folder.parent
    if (root.name, folder.name) == ("node_modules", ".bin"):  # its programs are in the packages beside it
        return root
    if folder.name not in ("bin", "sbin", "Scripts") or root == home / ".local" or home.is_relative_to(root):
        return None
    if (root / "pyvenv.cfg").is_file() or ((root / "lib").is_dir() and not (root / ".git").exists()):
        return root
    return None


def _needed_beside(folder: Path) -> list[Path]:  # HOME may be another one here, too
    return [
        Path(str(folder).removesuffix(name)) / other
        for name, other in BESIDE.items()
        if str(folder).endswith(f"/{name}")
    ]


def _hops(link: Path) -> Iterator[Path]:
    """Yield where `link` leads, link by link, and the file at the end by its real name."""
    hop, seen = link, 0
    while hop.is_symlink() and seen < 16:
        hop, seen = Path(os.path.normpath(hop.parent / os.readlink(hop))), seen + 1
        yield hop
    yield link.resolve()


def is_system(path: Path) -> bool:
    """Return whether a folder is one of the system's, which every command sees."""
    return f"{path}/".startswith(_IN_SYSTEM)


def of_etc() -> Iterator[tuple[str, os.stat_result]]:
    """Yield what of /etc is shown, and its status: of the names in `ETC` those that everybody may read."""
    there = os.listdir("/etc")
    for name in ETC:
        for one in [at for at in there if at.startswith(name[:-1])] if name.endswith("*") else (name,):
            with suppress(OSError):
                status = os.stat(f"/etc/{one}")
                if status.st_mode & stat.S_IROTH:
                    yield f"/etc/{one}", status


def hidden_of_proc() -> list[str]:
    """Return what of /proc an engine has to hide, if it cannot show it read-only: secrets, and writable files."""
    return [path for path, _ in entries_of_proc()] if sys.platform == "linux" else []


def entries_of_proc() -> Iterator[tuple[str, bool]]:
    """Yield what of /proc could be written, or read by root alone, and whether it is the latter."""
    is_root = os.geteuid() == 0
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() or entry.name == "sys" or entry.is_symlink():
                continue
            with suppress(OSError):
                mode = entry.stat().st_mode
                if is_root and not stat.S_ISDIR(mode) and (entry.name == "keys" or not mode & stat.S_IROTH):
                    yield entry.path, True
                elif stat.S_ISDIR(mode) or mode & 0o222:
                    yield entry.path, False
