"""A pack in the making: git's objects in one file, whole or as copies of an earlier object in it, and the index of that file.

Formats: gitformat-pack(5), version 2 of both. A pack is complete in itself: the base of each delta is in it, before it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, islice
from typing import Literal, NamedTuple

from runner.git.objects import deflater, name_of

KINDS = {"commit": 1, "tree": 2, "blob": 3}
OFS_DELTA = 6
DEPTH = 50  # deltas in a row, as git's own packs have; a reader goes through all of them
SHORT = 256  # bytes; less is not worth a delta
COPY = 0x10000  # bytes that one instruction copies, at most
INSERT = 127  # bytes that one instruction adds, at most
FIRST = 64  # bytes that are compared at once, and four times as many each time that they are alike
PROBE = 32  # bytes by which the place is found again at which two texts go on alike
NEAR = 4096  # bytes in which it is looked for
TRIES = 4  # places that are looked at for the same few bytes
LONG = 1024  # bytes: what is alike for so long is the same place
LONGEST = 2**31 - 1  # bytes of a pack: more would need the index's table of long offsets
_INDEX = b"\377tOc\0\0\0\2"  # an index begins so: its version is 2


class Entry(NamedTuple):
    """An object in a pack. `part`: its bytes there; `depth`: how many deltas lead to it."""

    kind: str
    data: bytes
    offset: int
    part: bytes
    depth: int


class Pack:
    """Objects in the order in which they are added. `algorithm`: hashlib's name of the object format."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._given = 0  # entries that `since` has given
        self.size = 12
        self.entries: dict[str, Entry] = {}

    def add(self, kind: str, data: bytes, base: str | None = None) -> str:
        """Add an object and return its id. `base`: the id of one like it, if there is one; its version before."""
        oid = name_of(kind, data, self._algorithm)
        if oid in self.entries:
            return oid
        near, header, packed, depth = self.entries.get(base or ""), b"", data, 0
        if near is not None and near.kind == kind and near.depth < DEPTH and len(data) >= SHORT:
            copies = delta(near.data, data)
            if copies is not None:
                header = _header(OFS_DELTA, len(copies)) + _distance(self.size - near.offset)
                packed, depth = copies, near.depth + 1
        packer = deflater(len(packed))
        part = (header or _header(KINDS[kind], len(data))) + packer.compress(packed) + packer.flush()
        # Whole or not at all: Ctrl-C may come at any place.
        self.entries[oid] = Entry(kind, data, self.size, part, depth)
        self.size += len(part)
        return oid

    def since(self) -> tuple[bool, int, bytes]:
        """Return what was added since this was called last: whether it is the first, how many objects, and their bytes in the pack."""
        is_first, new = not self._given, [one.part for one in islice(self.entries.values(), self._given, None)]
        self._given += len(new)
        return is_first, len(new), b"".join(new)

    def files(self) -> tuple[str, bytes, bytes]:
        """Return the name of the pack without an ending, its bytes, and those of its index."""
        assert self.size <= LONGEST
        data = whole(len(self.entries), (one.part for one in self.entries.values()), self._algorithm)
        checksum = data[-hashlib.new(self._algorithm, usedforsecurity=False).digest_size :]
        rows = sorted((bytes.fromhex(oid), entry) for oid, entry in self.entries.items())
        counts = [0] * 256
        for oid, _ in rows:
            counts[oid[0]] += 1
        index = b"".join(
            (
                _INDEX,
                struct.pack(">256I", *accumulate(counts)),
                *(oid for oid, _ in rows),
                struct.pack(f">{len(rows)}I", *(zlib.crc32(entry.part) for _, entry in rows)),
                struct.pack(f">{len(rows)}I", *(entry.offset for _, entry in rows)),
                checksum,
            )
        )
        digest = hashlib.new(self._algorithm, index, usedforsecurity=False).digest()
        return f"pack-{checksum.hex()}", data, index + digest


def whole(count: int, parts: Iterable[bytes], algorithm: str) -> bytes:
    """Return the pack of so many objects, whose bytes are given."""
    data = b"PACK" + struct.pack(">II", 2, count) + b"".join(parts)
    return data + hashlib.new(algorithm, data, usedforsecurity=False).digest()


def listed(index: bytes, algorithm: str) -> list[str]:
    """Return the ids of the objects in a pack, by the bytes of its index.

    Raises:
        ValueError: it is damaged, or of another version than that of `Pack.files`.
    """
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if index[:8] != _INDEX or hashlib.new(algorithm, index[:-size], usedforsecurity=False).digest() != index[-size:]:
        raise ValueError("no index of a pack that can be read")
    first = 8 + 4 * 256  # after the number of those below each first byte
    end = first + size * int.from_bytes(index[first - 4 : first], "big")
    return [index[at : at + size].hex() for at in range(first, end, size)]


def _header(kind: int, size: int) -> bytes:
    return _number(size >> 4, kind << 4 | size & 15) if size > 15 else bytes((kind << 4 | size,))


def _number(rest: int, first: int | None = None) -> bytes:
    """Return a number seven bits a byte, the lowest first. `first`: the bits of a first byte before them."""
    found = bytearray() if first is None else bytearray((first | 128,))
    while rest > 127:
        found.append(rest & 127 | 128)
        rest >>= 7
    found.append(rest)
    return bytes(found)


def _distance(back: int) -> bytes:
    """Return how far before a delta its base starts."""
    found = [back & 127]
    while back := back >> 7:
        back -= 1
        found.append(back & 127 | 128)
    return bytes(reversed(found))


def delta(old: bytes, new: bytes) -> bytes | None:
    """Return the instructions that make `new` of `old`; None where they would be about as long as `new` itself.

    What both have is found from the end, then from the front, and again soon after each difference: versions of a record differ in a
    few lines. The end comes first because steps are so alike that after a difference one could be taken for the next.
    """
    made = [_number(len(old)), _number(len(new))]
    view = memoryview(new)
    tail = _alike_at_the_end(old, view)
    rest = view[: len(new) - tail]
    at = here = added = 0  # in `old`, in `rest`; bytes that no copy has
    while here < len(rest):
        length = _alike(old, at, rest, here)
        made += _copies(at, length)
        at, here = at + length, here + length
        if here == len(rest):
            break
        skipped, there = _again(old, at, rest, here)
        added += skipped
        if added > len(new) // 2:
            return None
        made += [
            bytes((len(part),)) + part
            for part in (rest[i : min(i + INSERT, here + skipped)] for i in range(here, here + skipped, INSERT))
        ]
        at, here = there, here + skipped
    return b"".join([*made, *_copies(len(old) - tail, tail)])


def _copies(offset: int, length: int) -> Sequence[bytes]:
    found = []
    for begin in range(offset, offset + length, COPY):
        size = min(COPY, offset + length - begin)
        code, more = 0x80, bytearray()
        for bit, byte in enumerate((*begin.to_bytes(4, "little"), *(size % COPY).to_bytes(2, "little"))):
            if byte:
                code |= 1 << bit
                more.append(byte)
        found.append(bytes((code,)) + more)
    return found


def _alike(old: bytes, at: int, new: memoryview, here: int) -> int:
    """Return how many bytes are the same in `old` from `at` and in `new` from `here`."""

    def is_alike(begin: int, end: int) -> bool:
        return old.startswith(new[here + begin : here + end], at + begin)  # copies nothing

    begin, end = _differ(is_alike, min(len(old) - at, len(new) - here))
    return begin + _same(old[at + begin : at + end], bytes(new[here + begin : here + end]), "big")


def _alike_at_the_end(old: bytes, new: memoryview) -> int:
    """Return how many bytes both end with."""
    last, end_of_new = len(old), len(new)

    def is_alike(begin: int, end: int) -> bool:
        return old.endswith(new[end_of_new - end : end_of_new - begin], 0, last - begin)

    begin, end = _differ(is_alike, min(last, end_of_new))
    return begin + _same(old[last - end : last - begin], bytes(new[end_of_new - end : end_of_new - begin]), "little")


def _differ(is_alike: Callable[[int, int], bool], most: int) -> tuple[int, int]:
    """Return two places up to `most`, not far from each other: all before the first one is alike, not all before the second one."""
    begin, step = 0, FIRST
    while begin < most:
        end = min(begin + step, most)
        if not is_alike(begin, end):
            break
        begin, step = end, 4 * step
    else:
        return most, most
    while end - begin > FIRST:
        half = (begin + end) // 2
        begin, end = (half, end) if is_alike(begin, half) else (begin, half)
    return begin, end


def _same(one: bytes, two: bytes, order: Literal["big", "little"]) -> int:
    """Return how many bytes two short texts of one length start with alike (big) or end with alike (little)."""
    differing = int.from_bytes(one, order) ^ int.from_bytes(two, order)
    return len(one) - (differing.bit_length() + 7) // 8


def _again(old: bytes, at: int, new: memoryview, here: int) -> tuple[int, int]:
    """Return how many bytes of `new` from `here` are to be added, and where in `old` a copy continues after them.

    Entries of a record are much alike: a place counts at once where both go on alike for long, else the one where they do longest.
    """
    end = min(here + NEAR, len(new))
    best, found = 0, (end - here, at)
    for begin in range(here, end - PROBE + 1, PROBE):
        probe, there = new[begin : begin + PROBE], at - 1
        for _ in range(TRIES):
            there = old.find(probe, there + 1, at + 2 * NEAR)
            if there < 0:
                break
            length = _alike(old, there, new, begin)
            if length > best:
                best, found = length, (begin - here, there)
            if length >= LONG or begin + length == len(new):
                break
        if best >= LONG or begin + best == len(new):
            break
    skipped, there = found
    while best and there > at and skipped and old[there - 1] == new[here + skipped - 1]:
        there, skipped = there - 1, skipped - 1
    return skipped, there
