"""The filter's program, run by a small interpreter of the kernel's classic BPF: what it answers on each machine."""

from __future__ import annotations

import errno
import struct

import pytest

from runner.sandbox import seccomp

ALLOWED = 0x7FFF0000
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
OWN = {"x86_64": X86_64, "aarch64": AARCH64}
BOTH = pytest.mark.parametrize("machine", OWN)


def answer(program: bytes | None, abi: int, number: int, first: int = 0) -> int:
    """Return what the kernel would: seccomp_data is the number, the ABI, an instruction pointer, six arguments."""
    assert program is not None
    data = struct.pack("<IIQ6Q", number, abi, 0, first, 0, 0, 0, 0, 0)
    lines = list(struct.iter_unpack("<HBBI", program))
    at, value = 0, 0
    while True:
        code, yes, no, k = lines[at]
        at += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, k)[0]
        elif code == 0x06:
            return int(k)
        else:
            assert code in (0x15, 0x35, 0x45)
            at += yes if {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code] else no


def refused(code: int) -> int:
    return 0x00050000 | code


@BOTH
@pytest.mark.parametrize("name", seccomp.REFUSED)
def test_what_is_in_the_table_is_refused(machine: str, name: str) -> None:
    *numbers, code = seccomp.REFUSED[name]
    number = numbers[seccomp.MACHINES[machine][1]]
    assert answer(seccomp.filter_for(machine), OWN[machine], number) == refused(code)
    assert answer(seccomp.filter_for(machine, user_namespaces=True), OWN[machine], number) == refused(code)


@BOTH
def test_what_is_not_in_the_table_is_allowed(machine: str) -> None:
    column = seccomp.MACHINES[machine][1]
    table = {call[column] for call in (*seccomp.REFUSED.values(), seccomp.CLONE3)}
    program = seccomp.filter_for(machine)
    assert {n for n in range(1000) if answer(program, OWN[machine], n) != ALLOWED} == table


@BOTH
def test_user_namespaces_are_refused_and_other_processes_are_not(machine: str) -> None:
    column, new = seccomp.MACHINES[machine][1], 0x10000000
    strict, open_ = seccomp.filter_for(machine), seccomp.filter_for(machine, user_namespaces=True)
    for *numbers, code in seccomp.BY_FLAG.values():
        for other in (0, 17, 0x00020000, 0xFFFFFFFF_00000000):
            assert answer(strict, OWN[machine], numbers[column], other) == ALLOWED
            assert answer(strict, OWN[machine], numbers[column], new | other) == refused(code)
            assert answer(open_, OWN[machine], numbers[column], new | other) == ALLOWED
    assert answer(strict, OWN[machine], seccomp.CLONE3[column]) == refused(errno.ENOSYS)
    assert answer(open_, OWN[machine], seccomp.CLONE3[column]) == ALLOWED


@BOTH
@pytest.mark.parametrize("abi", [I386, ARM, X86_64, AARCH64, 0])
def test_every_call_of_another_abi_is_refused(machine: str, abi: int) -> None:
    said = answer(seccomp.filter_for(machine), abi, 1)
    assert said == (ALLOWED if abi == OWN[machine] else refused(errno.ENOSYS))


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 250, 0x40000000 + 520, 0xFFFFFFFF])
def test_x32_is_refused(number: int) -> None:
    assert answer(seccomp.filter_for("x86_64"), X86_64, number) == refused(errno.ENOSYS)


def test_a_machine_without_a_column_has_no_filter() -> None:
    assert seccomp.filter_for("riscv64") is None
    assert seccomp.filter_for("") is None
