"""A terminal for demonstrations: it types commands as a person would and shows what they print, real output only.

Nothing of the person's own is read or written: HOME is a folder of the demonstration's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path


class Failed(Exception):
    """Something in the demo is not as it should be."""


class Terminal:
    """Types commands in a folder, as a person would, and shows what they print."""

    def __init__(self, home: Path) -> None:
        """Make the folder `home`, and begin in it."""
        home.mkdir(parents=True)
        # What the make that started this tells its children would show in the demonstration's own.
        foreign = ("GIT_", "RUNNER_", "XDG_", "MAKE", "MFLAGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        scripts = sysconfig.get_path("scripts")
        self.env = {
            **kept,
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(home),  # nothing of the person's own is read or written
            "GIT_CONFIG_NOSYSTEM": "1",
            "NO_COLOR": "1",
        }
        self.home = self.cwd = home
        self.prompt, self.code = "$", 0  # what stands before a command; the exit code of the last one

    def run(
        self, *words: str, code: int | None = 0, hide: bool = False, shown: str | None = None, cwd: Path | None = None
    ) -> str:
        """Run a command and show it, unless `hide`; return what it printed. `cwd`: where, if not here.

        Any other exit code than `code` ends the demo, unless that is None.
        """
        if not hide:
            say(f"{self.prompt} {shown or shlex.join(words)}")
        done = subprocess.run(
            words,
            cwd=cwd or self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        text = done.stdout.decode("utf-8", "replace")
        if not hide:
            if text.strip():
                say(textwrap.indent(text.rstrip("\n"), "  ", lambda line: line != "\n"))
            if done.returncode:
                say(f"  [exit {done.returncode}]")
        self.code = done.returncode
        if code is not None and done.returncode != code:
            if hide:
                say(f"{self.prompt} {shlex.join(words)}\n{text}")
            raise Failed(f"`{shlex.join(words)}` ended with exit {done.returncode}, not {code}")
        return text


def say(text: str) -> None:
    """Print at once; what a terminal cannot show is replaced."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def tell(text: str) -> None:
    """Say what comes next."""
    say("\n" + textwrap.fill(" ".join(text.split()), 110))


def expect(held: bool, what: str) -> None:
    """End the demo where something does not hold."""
    if not held:
        raise Failed(what)


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files below a folder; their text is dedented."""
    for name, text in files.items():
        at = folder / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")


def choose_executor(term: Terminal) -> None:
    """Let the steps' commands run in the sandbox where it works, else on the host, and say which."""
    bwrap = shutil.which("bwrap", path=term.env["PATH"])
    trial = [bwrap or "", "--unshare-all", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc"]
    if bwrap and subprocess.run([*trial, sys.executable, "-c", ""], capture_output=True, env=term.env).returncode == 0:
        tell("bubblewrap is here: the steps' commands run in a sandbox, without network and without your home.")
        return
    why = "does not work" if bwrap else "is not installed"
    term.env["RUNNER_EXECUTOR"] = "host"
    tell(f"bubblewrap {why} here, so the steps' commands run on the host, unprotected (RUNNER_EXECUTOR=host).")
