"""The seccomp filter of a sandbox: the system calls that it refuses, and its program for the kernel.

It refuses calls that widen the part of the kernel in reach of a command and that no build or test needs: kernel keys (they belong
to the user, not to the sandbox), bpf, userfaultfd, perf events, io_uring, user namespaces (unless asked for), and the machine's
other ABIs, whose calls have numbers that the table does not know.
"""

from __future__ import annotations

import errno
import struct
from functools import cache
from typing import Final

# linux/filter.h, linux/seccomp.h, linux/audit.h
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
# struct seccomp_data: the call's number, the ABI it was made by, the low half of its first argument (both machines are little-endian).
_NUMBER: Final = 0
_ABI: Final = 4
_FIRST_ARGUMENT: Final = 16

_X32: Final = 0x40000000  # set in the number of an x32 call, which has the ABI of x86-64
NEW_USER_NAMESPACE: Final = 0x10000000  # CLONE_NEWUSER


# What `uname -m` says of a kernel whose programs are 64-bit ones: the machine's own ABI (linux/audit.h), and its column of `REFUSED`.
MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Name: number on x86-64, number on arm64, answer. ENOSYS, as a kernel without it, where programs then do without.
REFUSED: Final = {
    "add_key": (248, 217, errno.EPERM),
    "request_key": (249, 218, errno.EPERM),
    "keyctl": (250, 219, errno.EPERM),
    "perf_event_open": (298, 241, errno.EPERM),
    "bpf": (321, 280, errno.EPERM),
    "userfaultfd": (323, 282, errno.EPERM),
    "io_uring_setup": (425, 425, errno.ENOSYS),
    "io_uring_enter": (426, 426, errno.ENOSYS),
    "io_uring_register": (427, 427, errno.ENOSYS),
}
# The same of user namespaces. clone3 has its flags in memory, where a filter cannot look; C libraries fall back on clone.
CLONE3: Final = (435, 435, errno.ENOSYS)
BY_FLAG: Final = {"clone": (56, 220, errno.EPERM), "unshare": (272, 97, errno.EPERM)}


@cache
def filter_for(machine: str, *, user_namespaces: bool = False) -> bytes | None:
    """Return the filter for `machine` (as uname calls it), or None where the table has no column for it.

    `user_namespaces`: whether commands may make some, for sandboxes of their own.
    """
    if machine not in MACHINES:
        return None
    abi, column = MACHINES[machine]
    lines = [
        (_LOAD, 0, 0, _ABI),
        (_EQUAL, 1, 0, abi),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for call in (*REFUSED.values(), *(() if user_namespaces else (CLONE3,))):
        lines += [(_EQUAL, 0, 1, call[column]), (_RETURN, 0, 0, _ERRNO | call[2])]
    for call in () if user_namespaces else BY_FLAG.values():
        lines += [
            (_EQUAL, 0, 4, call[column]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_ANY_BIT, 0, 1, NEW_USER_NAMESPACE),
            (_RETURN, 0, 0, _ERRNO | call[2]),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
