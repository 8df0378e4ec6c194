"""Where commands run: `choose` gives the place that config.yaml's `executor` names.

`process` says what a place promises and holds what they share; `bubblewrap`, `container` and `host` keep it. Whether a command
may run at all is decided elsewhere (`runner.trust`), and so is what its outcome means (`runner.qa`, `runner.executor`).
"""

from __future__ import annotations

from pathlib import Path

from runner.errors import SandboxUnavailableError, UsageError
from runner.sandbox import bubblewrap, container, host, process

EXECUTORS = ("sandbox", "container", "host")


def choose(
    name: str,
    *,
    toolchains: tuple[Path, ...] = (),
    user_namespaces: bool = False,
    image: str | None = None,
    memory: Path | None = None,
    tries: bool = True,
) -> process.Sandbox:
    """Return the place that is called `name`, having tried that it works here, unless no command will run there (`tries`).

    `user_namespaces`: whether a sandbox lets commands make some; `image`: of containers; `memory`: the file that says what worked
    before, so that it is tried again only where something is another or a sandbox could not be made.

    Raises:
        SandboxUnavailableError: it does not.
        UsageError: there is none of that name, or no image for it.
    """
    if name not in EXECUTORS:
        from difflib import get_close_matches  # here, because few names have a mistake

        near = get_close_matches(name, EXECUTORS, n=1) or list(EXECUTORS)
        raise UsageError(f"there is no executor {name!r}", where=f"executor: {name}", hint=f"use {' or '.join(near)}")
    if name == "container":
        return container.choose(image, user_namespaces=user_namespaces)
    # On the host toolchains are where they are.
    sandbox = (
        host.Host()
        if name == "host"
        else bubblewrap.Bubblewrap(toolchains, user_namespaces=user_namespaces, memory=memory)
    )
    if tries and (why := sandbox.check()) is not None:
        raise SandboxUnavailableError(
            f"commands cannot be run in a sandbox here: {why}",
            where=f"executor: {name}",
            hint=f"{bubblewrap.remedy(Path('/proc/sys'))}; or run commands without a sandbox: `--executor host`, or"
            " RUNNER_EXECUTOR=host in the environment",
        )
    return sandbox
