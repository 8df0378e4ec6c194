"""Bounds on all processes of a command together, where systemd makes a cgroup for it: a scope of the user's own manager, or root's.

A scope is used only where one that was made for the purpose had the bounds that it was given (cgroups version 2). Elsewhere what
each process may use (`Limits.options`) is all that holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from runner.sandbox.process import Limits

_WITHIN = 20.0  # seconds for the trial
_ROOT = "/sys/fs/cgroup"
_SHOW = f'read -r own </proc/self/cgroup && cat "{_ROOT}${{own#0::}}/memory.max" "{_ROOT}${{own#0::}}/pids.max"'


def scope(limits: Limits) -> tuple[str, ...]:
    """Return the arguments before a command that put it into a scope, with no environment; none where nothing is bounded.

    systemd-run, which needs `environment`, becomes the command, so that this is the caller's own child.
    """
    if limits.memory is None and limits.processes is None:
        return ()
    systemd = shutil.which("systemd-run")
    trial = Limits(memory=64 << 20, processes=64)
    return _words(systemd, limits) if systemd and _shown(_words(systemd, trial)) == b"67108864\n64\n" else ()


def environment() -> dict[str, str]:
    """Return the variables by which systemd-run finds the user's manager."""
    return {name: os.environ[name] for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS") if name in os.environ}


def open_events(pid: int) -> int | None:
    """Open what counts the kills for want of memory in a process's cgroup; None where there is none. The caller closes it."""
    with contextlib.suppress(OSError):
        own = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("0::")[2]
        return os.open(f"{_ROOT}{own}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    return None


def has_killed(events: int) -> bool:
    """Return whether a process was killed; not where systemd has removed the cgroup already."""
    try:
        data = os.pread(events, 4096, 0)
    except OSError:
        return False
    return any(line.startswith(b"oom_kill ") and line.split()[1] != b"0" for line in data.split(b"\n"))


def _words(systemd: str, limits: Limits) -> tuple[str, ...]:
    bounds = (
        [f"--property=MemoryMax={limits.memory}", "--property=MemorySwapMax=0"] if limits.memory is not None else []
    )
    bounds += [f"--property=TasksMax={limits.processes}"] if limits.processes is not None else []
    manager = () if os.geteuid() == 0 else ("--user",)
    return (systemd, *manager, "--scope", "--quiet", "--collect", *bounds, "--", "/usr/bin/env", "-i")


@cache
def _shown(words: tuple[str, ...]) -> bytes:
    """Return the bounds that a process has in a scope."""
    try:
        done = subprocess.run(
            (*words, "/bin/sh", "-c", _SHOW),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=_WITHIN,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout
