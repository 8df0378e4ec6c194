"""Run a program and all that it starts, and strike at one of their system calls: `python strike.py [OPTIONS] -- PROGRAM ARGUMENT…`.

A tracer of our own, as strace counts a call for each process apart. A filter in the kernel lets all but the calls that matter pass
without a stop, so the program runs nearly as fast as by itself. Linux on x86-64 alone; nothing but the standard library.

What is printed last on stdout is JSON: `code` of the program (negative: the signal that ended it), `struck` (how many calls were),
`where` (the last of them), `left` (processes that were still there `--patience` seconds after the program had ended; they are
ended then). With `--trace FILE`, each call is a line of it: `who call argument`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import signal
import struct
import sys
import time
from collections import Counter

# x86-64's numbers. Of `openat`, only what writes: the filter looks at the flags.
CALLS = {
    "write": 1, "pwrite64": 18, "writev": 20, "connect": 42, "execve": 59, "fsync": 74, "fdatasync": 75, "ftruncate": 77,
    "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87, "openat": 257, "mkdirat": 258, "unlinkat": 263,
    "renameat": 264, "linkat": 265, "renameat2": 316,
}  # fmt: skip
NAMES = {number: name for name, number in CALLS.items()}
PATH_AT = {"openat": 1, "mkdirat": 1, "unlinkat": 1, "renameat": 3, "renameat2": 3, "linkat": 3, "rename": 1, "link": 1}
NO_PATH = ("write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "connect")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
AUDIT_ARCH = 0xC000003E

SEIZE, GETREGS, SETREGS, CONT, LISTEN, GETEVENTMSG, PEEK = 0x4206, 12, 13, 7, 0x4208, 0x4201, 2
# fork, vfork, clone, exec and seccomp are told of; and whoever traces does not leave what it traces alone behind.
OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100000
EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 4, 7, 128
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Registers(ctypes.Structure):
    """struct user_regs_struct."""

    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in (
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
            "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
        )
    ]  # fmt: skip


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    """Ask the kernel; OSError where the process is gone."""
    if _libc.ptrace(request, pid, address, data) == -1 and (number := ctypes.get_errno()):
        raise OSError(number, os.strerror(number))


def program(calls: list[str]) -> bytes:
    """Return the filter: stop at these calls, let all else pass."""

    def line(code: int, true: int, false: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, true, false, value)

    load, equal, test, leave = 0x20, 0x15, 0x45, 0x06
    found = line(load, 0, 0, 4) + line(equal, 1, 0, AUDIT_ARCH) + line(leave, 0, 0, 0x7FFF0000)
    found += line(load, 0, 0, 0)
    for name in calls:
        if name != "openat":
            found += line(equal, 0, 1, CALLS[name]) + line(leave, 0, 0, 0x7FF00000)
    if "openat" in calls:
        found += line(equal, 0, 3, CALLS["openat"]) + line(load, 0, 0, 16 + 2 * 8) + line(test, 0, 1, WRITING)
        found += line(leave, 0, 0, 0x7FF00000)
    return found + line(leave, 0, 0, 0x7FFF0000)


def start(argv: list[str], calls: list[str]) -> int:
    """Start the program, seized and with the filter, and return its process."""
    ready, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ready)
        ptrace(SEIZE, pid, 0, OPTIONS)
        os.write(go, b"x")
        os.close(go)
        return pid
    os.close(go)
    os.read(ready, 1)
    os.close(ready)
    bpf = program(calls)
    kept = ctypes.create_string_buffer(bpf)
    told = struct.pack("<HxxxxxxQ", len(bpf) // 8, ctypes.addressof(kept))
    if _libc.prctl(38, 1, 0, 0, 0) or _libc.prctl(22, 2, told, 0, 0):
        os._exit(126)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(argv[0], argv)


def who_is(pid: int, root: int) -> str:
    """Return what a thread belongs to: the runner, a git, the worker of a tool, or another program."""
    with contextlib.suppress(OSError):
        exe = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        if exe.startswith("git"):
            return "git"
        with open(f"/proc/{pid}/status") as file:
            group = next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
        if group == root:
            return "runner"
        with open(f"/proc/{pid}/cmdline", "rb") as told:
            words = told.read()
        if b"tools/child.py" in words:
            return "tool"
        if b"-m\0runner\0" in words:  # begun, and not yet another program
            return "starting"
    return "other"


class Tracer:
    """What is traced, and where it is struck."""

    def __init__(self, told: argparse.Namespace) -> None:
        self.told = told
        self.trace = open(told.trace, "w", encoding="utf-8", errors="replace") if told.trace else None  # noqa: SIM115
        self.calls = told.calls.split(",")
        self.seen: Counter[tuple[str, str]] = Counter()
        self.alive: set[int] = set()
        self.struck = 0
        self.where = ""
        self.kinds: dict[int, str] = {}

    def run(self) -> dict[str, object]:
        """Run to the end of all that was started, or what patience there is."""
        self.root = start(self.told.argv, self.calls)
        self.alive.add(self.root)
        code: int | None = None
        ended = 0.0
        left: list[str] = []
        while self.alive:
            pid, status = os.waitpid(-1, WALL | (os.WNOHANG if ended else 0))
            if pid == 0:
                if time.monotonic() > ended + self.told.patience and not left:
                    left = sorted({who_is(one, self.root) + " " + command(one) for one in self.alive})
                    self.end_all()
                time.sleep(0.002)
            elif os.WIFSTOPPED(status):
                self.alive.add(pid)
                self.stopped(pid, status)
            else:
                self.alive.discard(pid)
                self.kinds.pop(pid, None)
                if pid == self.root:
                    code, ended = os.waitstatus_to_exitcode(status), time.monotonic()
        return {"code": code, "struck": self.struck, "where": self.where, "left": left}

    def end_all(self) -> None:
        for pid in self.alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def stopped(self, pid: int, status: int) -> None:
        """Look at a stop, and let it go on."""
        number, event = os.WSTOPSIG(status), status >> 16
        go_on, passed = CONT, 0
        try:
            if event == EVENT_SECCOMP:
                self.at_call(pid)
            elif event == EVENT_EXEC:
                self.kinds.pop(pid, None)
            elif event == EVENT_STOP and number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                go_on = LISTEN
            elif event == 0:
                passed = number
            ptrace(go_on, pid, 0, passed)
        except ProcessLookupError:
            pass

    def at_call(self, pid: int) -> None:
        """A call that matters is about to be made."""
        registers = Registers()
        ptrace(GETREGS, pid, 0, ctypes.addressof(registers))
        call = NAMES[registers.orig_rax]
        who = self.kinds.get(pid) or self.kinds.setdefault(pid, who_is(pid, self.root))
        if who == "starting":
            del self.kinds[pid]
            who = "git" if call == "execve" and b"git" in text(pid, registers.rdi) else who
        about = argument(pid, call, registers)
        if call in ("write", "writev") and (not about.startswith("/") or about.startswith("/memfd:")):
            call = "send"  # no disk has a say in it
        self.seen[who, call] += 1
        if self.trace:
            self.trace.write(f"{who} {call} {about}\n")
        if self.is_meant(who, call, about):
            self.struck += 1
            self.where = f"{who} {call} {about}"
            self.strike(pid, call, registers)

    def is_meant(self, who: str, call: str, about: str) -> bool:
        told = self.told
        if not told.at or (told.at[0], told.at[1]) != (who, call):
            return False
        if told.path and told.path not in about:
            return False
        count = self.seen[who, call]
        return bool(count >= told.at[2] if told.on else count == told.at[2])

    def strike(self, pid: int, call: str, registers: Registers) -> None:
        """Do what was told."""
        told = self.told
        if told.signal:
            number = signal.Signals[f"SIG{told.signal}"]
            if told.whole:  # the machine is gone, with all that runs on it
                for one in self.alive:
                    with contextlib.suppress(OSError):
                        os.kill(one, number)
            else:
                os.kill(self.root if told.root else pid, number)
        elif told.short:
            if registers.rdx > 1:
                registers.rdx = max(1, registers.rdx // 2)
                ptrace(SETREGS, pid, 0, ctypes.addressof(registers))
        else:
            registers.orig_rax = 2**64 - 1
            registers.rax = 2**64 - getattr(errno, told.error)
            ptrace(SETREGS, pid, 0, ctypes.addressof(registers))


def command(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def text(pid: int, address: int) -> bytes:
    """Return what a process has at an address, as a C string."""
    with contextlib.suppress(OSError, ValueError, OverflowError), open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(300).split(b"\0")[0]
    return b""


def argument(pid: int, call: str, registers: Registers) -> str:
    """Return what a call is about: a path."""
    if call in NO_PATH:
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/fd/{registers.rdi}")
        return ""
    at = (registers.rdi, registers.rsi, registers.rdx, registers.r10)[PATH_AT.get(call, 0)]
    return text(pid, at).decode(errors="replace").replace("\n", "?")


def point(told: str) -> tuple[str, str, int]:
    who, call, number = told.split(":")
    return who, call, int(number)


def main() -> None:
    """Read the command line, run, and print what came of it."""
    options = argparse.ArgumentParser()
    options.add_argument(
        "--at",
        type=point,
        help="WHO:CALL:N, the N-th such call of the runner, git, tool or other; CALL is `send` for a write that is to no file",
    )
    options.add_argument("--path", default="", help="strike only where the call's path has this in it")
    options.add_argument("--calls", default=",".join(CALLS))
    options.add_argument("--signal", default="", help="KILL, TERM or INT, instead of the call")
    options.add_argument("--root", action="store_true", help="the signal goes to the runner, whoever makes the call")
    options.add_argument("--whole", action="store_true", help="the signal goes to everything")
    options.add_argument("--error", default="EIO", help="the call is not made, and fails so")
    options.add_argument("--short", action="store_true", help="only half of it is written")
    options.add_argument("--on", action="store_true", help="that call and all later ones")
    options.add_argument("--trace", default="")
    options.add_argument("--patience", type=float, default=20)
    options.add_argument("argv", nargs="+")
    tracer = Tracer(options.parse_args())
    told = tracer.run()
    if tracer.trace:
        tracer.trace.close()
    sys.stdout.flush()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
