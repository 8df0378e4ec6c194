"""Installs the peers, each in a folder of its own, as pinned in `pinned.toml`: by pip and npm, as they are configured here.

A peer that cannot be installed comes back as a reason. What stands already, by the same pins, is left as it is.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

PINNED = Path(__file__).resolve().with_name("pinned.toml")
LIBRARIES = PINNED.with_name("libraries.toml")
WATCHERS = PINNED.with_name("watchers.toml")
LIMIT = 600.0  # seconds for one peer


@dataclass(frozen=True, slots=True)
class Pin:
    """What a peer is made of. `client`: pip or npm; `python`: the oldest that it runs with, where that is not ours."""

    client: str
    packages: tuple[str, ...]
    program: str
    python: str = ""

    @property
    def version(self) -> str:
        """The version of the peer itself, which is the first of its packages."""
        return self.packages[0].replace("==", "@").rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is nothing to run or to show, in a line."""

    reason: str


def pins(path: Path = PINNED) -> dict[str, Pin]:
    """Return what is pinned, by name."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Pin(one["with"], tuple(one["packages"]), one["program"]) for name, one in table.items()}


def install(pin: Pin, folder: Path, *, limit: float = LIMIT) -> Path | Missing:
    """Return the program, installed below `folder` (absolute), or why it is not. Another process that wants it waits meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _install(pin, folder, limit)


def _install(pin: Pin, folder: Path, limit: float) -> Path | Missing:
    stamp, asked = folder / "installed.json", json.dumps([pin.client, pin.packages])
    program = folder / ("bin" if pin.client == "pip" else "node_modules/.bin") / pin.program
    if stamp.exists() and stamp.read_text(encoding="utf-8") == asked and program.exists():
        return program
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for argv in _commands(pin, folder):
        try:
            done = subprocess.run(
                argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit
            )
        except FileNotFoundError:
            return Missing(f"not installed: there is no {argv[0]} here")
        except subprocess.TimeoutExpired:
            return Missing(f"not installed: {pin.client} took longer than {limit:.0f} s")
        if done.returncode:
            return Missing(f"not installed: {pin.client}, exit {done.returncode}: {last_line(done.stderr)}")
    if not program.exists():
        return Missing(f"not installed: the packages brought no {pin.program}")
    stamp.write_text(asked, encoding="utf-8")
    return program


def last_line(said: str) -> str:
    """Return the last line with something in it, shortened so that it fits into a cell."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else "nothing was said")[:160].replace("|", "/")


def _python(least: str) -> str:
    """Return a Python of that version or a later one, by its name where ours is older."""
    major, minor = (int(one) for one in (least or "3.0").split("."))
    if sys.version_info[:2] >= (major, minor):
        return sys.executable
    names = [f"python{major}.{later}" for later in range(minor, minor + 4)]
    return next(filter(shutil.which, names), names[0])


def _commands(pin: Pin, folder: Path) -> list[list[str]]:
    if pin.client == "pip":
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
        return [
            [_python(pin.python), "-m", "venv", str(folder)],
            [str(folder / "bin/python"), "-m", "pip", "install", *quiet, *pin.packages],
        ]
    # No package's script is run: none of the peers needs one.
    quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    return [["npm", "install", "--prefix", str(folder), *quiet, *pin.packages]]
