"""Commands run directly on this machine, with the given environment and nothing held back from them.

For people who say so (`executor: host`), where no sandbox is to be had. `writable`, `readable` and `network` are not
enforced. What this place can do is end what it started: each command has a session of its own, and on Linux the runner
adopts what daemonises itself away (PR_SET_CHILD_SUBREAPER) and finds it in /proc.

What it cannot do: end anything when the runner itself is killed by SIGKILL (the runner that resumes the protocol does, by
`end_all`); find, where there is no /proc (macOS), a process that left its group by setsid; end a service that the command
asked another process to start (systemd-run, cron, docker). While two host commands run at once, in threads, a daemon of
one may be ended with the other; likewise a child of the runner's that others start in a session of its own meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Self

from runner.sandbox import terminal
from runner.sandbox.process import (
    Command,
    CommandOutcome,
    Group,
    Limits,
    Place,
    Sandbox,
    Stdio,
    descendants,
    limited_by,
    not_started,
    process_of,
    processes,
    program,
    started,
)

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_live: set[int] = set()  # the commands that run now, by process id: nobody's orphans
_live_lock = threading.Lock()


class Host(Sandbox):
    """Runs commands on this machine as they are."""

    name = "host"

    def limited(self, limits: Limits) -> Self:
        """Return a host whose commands may use no more than `limits`: but for processes, which are all of this user's here."""
        return super().limited(limits._replace(processes=None))

    def placed(self, place: Place) -> Self:
        """Return this: on the host everything is where it is."""
        return self

    def attach(self, command: Command) -> CommandOutcome:
        """Run `command` at a terminal of its own; see `Sandbox.attach`."""
        argv = (sys.executable, "-I", "-S", "-c", terminal.TAKE, "/usr/bin/env", "--", *command.argv)
        return terminal.attach(self._spawn, dataclasses.replace(command, argv=argv))

    def _spawn(self, command: Command, stdio: Stdio) -> Group:
        argv = (*limited_by(self.limits.options(), asked=True), *program(command))
        with _live_lock:
            if not _live:
                _adopt(True)
            me = os.getpid()
            before = {(pid, process.started) for pid, process in processes().items() if process.parent == me}
            try:
                process = started(argv, stdio, cwd=command.cwd, env=dict(command.env))
            except OSError as error:
                if not _live:
                    _adopt(False)
                raise not_started(command, error) from error
            _live.add(process.pid)
        return _HostGroup(process, before)

    def check(self) -> str | None:
        """Return None: a machine that runs the runner runs commands."""
        return None


class _HostGroup(Group):
    def __init__(self, process: subprocess.Popen[bytes], before: set[tuple[int, int]]) -> None:
        """`before`: the children that the runner had (process id and start), which are none of the command's."""
        self.process, self._before = process, before
        own = process_of(process.pid)
        self._started = own.started if own is not None else None

    def _members(self) -> set[int]:
        """Return the processes of the command that live, having buried those that are left to us to bury."""
        table, me, here = processes(), os.getpid(), os.getsid(0)
        found = {pid for pid, process in table.items() if process.session == self.process.pid}
        for pid, process in table.items():
            # Adopted: our child out of our session, and neither a command that runs now nor ours before (git, held open).
            ours = pid in _live or (pid, process.started) in self._before
            if process.parent == me and process.session != here and not ours:
                if process.zombie:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                elif self._started is not None and process.started >= self._started:
                    found.add(pid)
        if self.process.poll() is None:
            found.add(self.process.pid)
        return {pid for pid in descendants(found, table) if pid in table and not table[pid].zombie}

    def remains(self) -> bool:
        if self._started is not None:
            return bool(self._members())
        if self.process.poll() is None:
            return True
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS says the latter where only zombies are left
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        if self._started is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)
            return
        for pid in self._members():
            with suppress(ProcessLookupError, PermissionError):  # gone meanwhile, or became another user's by setuid
                os.kill(pid, number)

    def release(self, said: bytes) -> None:
        with _live_lock:
            _live.discard(self.process.pid)
            if not _live:
                _adopt(False)


def _adopt(on: bool) -> None:
    """Have orphans of the commands become our children, on Linux; or let them go to init again."""
    if sys.platform == "linux":
        import ctypes  # here, because most uses of this package never come by

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)
