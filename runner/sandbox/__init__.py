"""Where commands run: `choose` gives the place that config.yaml's `executor` names.

`process` says what a place promises and holds what they share; `bubblewrap` and `host` keep it. Whether a command
may run at all is decided elsewhere (`runner.trust`), and so is what its outcome means (`runner.qa`, `runner.executor`).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from runner.errors import UnsupportedError, UsageError
from runner.sandbox.bubblewrap import HOME, Bubblewrap, is_system, remedy, toolchains
from runner.sandbox.host import Host
from runner.sandbox.process import (
    Command,
    Limits,
    Outcome,
    Place,
    Sandbox,
    SandboxError,
    SandboxUnavailableError,
    Session,
    end_all,
    explain,
    found_outside,
)

__all__ = [
    "EXECUTORS",
    "HOME",
    "Bubblewrap",
    "Command",
    "Host",
    "Limits",
    "Outcome",
    "Place",
    "Sandbox",
    "SandboxError",
    "SandboxUnavailableError",
    "Session",
    "choose",
    "end_all",
    "explain",
    "found_outside",
    "is_system",
    "toolchains",
]

EXECUTORS: dict[str, Callable[[tuple[Path, ...], bool], Sandbox]] = {
    "sandbox": lambda toolchains, user_namespaces: Bubblewrap(toolchains, user_namespaces=user_namespaces),
    "host": lambda toolchains, user_namespaces: Host(),  # on the host they are where they are
}


def choose(name: str, *, toolchains: tuple[Path, ...] = (), user_namespaces: bool = False) -> Sandbox:
    """Return the place that is called `name`, having tried that it works here.

    `user_namespaces`: whether a sandbox lets commands make some.

    Raises:
        SandboxUnavailableError: it does not.
        UnsupportedError: this version does not have it yet.
        UsageError: there is none of that name.
    """
    if name == "container":
        raise UnsupportedError(
            "`executor: container` is not in this version; it comes with a later one",
            where=f"executor: {name}",
            hint="use `--executor sandbox` (bubblewrap) or `--executor host`",
        )
    if name not in EXECUTORS:
        near = get_close_matches(name, EXECUTORS, n=1) or list(EXECUTORS)
        raise UsageError(f"there is no executor {name!r}", where=f"executor: {name}", hint=f"use {' or '.join(near)}")
    sandbox = EXECUTORS[name](toolchains, user_namespaces)
    if (why := sandbox.check()) is not None:
        raise SandboxUnavailableError(
            f"commands cannot be run in a sandbox here: {why}",
            where=f"executor: {name}",
            hint=f"{remedy(Path('/proc/sys'))}; or run commands without a sandbox: `--executor host`, or RUNNER_EXECUTOR=host"
            " in the environment",
        )
    return sandbox
