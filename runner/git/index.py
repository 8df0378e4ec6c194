"""A few entries of a work tree's index given a new object in place, as gitformat-index(5) has them.

git itself looks at every file of the work tree for that, twice. It still has to do it for other versions than 2 and 3, a split
or sparse index, a file system monitor, entries in conflict or hidden by flags.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Mapping
from typing import Final

from runner.git.objects import TreeEntry
from runner.values import dataclass

_STAT: Final = 40  # bytes of ten numbers: ctime and mtime as seconds and nanoseconds, dev, ino, mode, uid, gid, size
_PACK, _MOST = struct.Struct(">6I4s3I").pack, 0xFFFFFFFF
_NAME_LENGTH, _LONG_NAME = 0x0FFF, 0x0FFF
_CACHED_TREES = b"TREE"
_OFFSETS = (
    b"EOIE",
    b"IEOT",
)  # of entries and extensions, for threads; optional, and wrong once an extension has another size
_HARMLESS = (b"REUC", b"UNTR")


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of some paths in an index. `at`: path to its entry's offset; `end`: offset after the last entry of all."""

    data: bytes
    at: Mapping[str, int]
    end: int
    size: int  # of an object's name, in bytes

    def entry(self, path: str) -> TreeEntry:
        """Return what the index has at `path`."""
        at = self.at[path]
        mode = int.from_bytes(self.data[at + 24 : at + 28], "big")
        return TreeEntry(f"{mode:o}", self.data[at + _STAT : at + _STAT + self.size].hex())

    def is_as_listed(self, path: str, file: os.stat_result) -> bool:
        """Return whether a file (as lstat has it) is the one that the index lists, by all that it says of a file."""
        at = self.at[path]
        return self.data[at : at + _STAT] == _numbers(file, self.data[at + 24 : at + 28])

    def replaced(self, changes: Mapping[str, tuple[str, os.stat_result]]) -> bytes:
        """Return the index with another object and file for each path: (name in hex, the file as lstat has it)."""
        head = bytearray(self.data[: self.end])
        for path, (oid, file) in changes.items():
            at = self.at[path]
            head[at : at + _STAT + self.size] = _numbers(file, bytes(head[at + 24 : at + 28])) + bytes.fromhex(oid)
        rest, tail = [], self.data[self.end : -self.size]
        folders = {path[:end] for path in changes for end, sign in enumerate(path) if sign == "/"} | {""}
        for name, body in _extensions(tail):
            if name in _OFFSETS:
                continue
            body = _forgotten(body, folders, self.size) if name == _CACHED_TREES else body
            rest.append(name + len(body).to_bytes(4, "big") + body)
        whole = bytes(head) + b"".join(rest)
        return whole + _digest(whole, self.size)


def entries(data: bytes, paths: Collection[str], size: int) -> Entries | None:
    """Return the entries of `paths` in an index's bytes, None where git has to do it. `size`: of an object's name, in bytes."""
    if len(data) < 12 + size or data[:4] != b"DIRC" or int.from_bytes(data[4:8], "big") not in (2, 3):
        return None
    if data[-size:] not in (_digest(data[:-size], size), bytes(size)):  # zeros where `index.skipHash` is set
        return None
    at, found, last = 12, dict[str, int](), len(data) - size
    wanted = {path.encode("utf-8", "surrogateescape"): path for path in paths}
    lengths, to_name = set(map(len, wanted)), _STAT + size + 2
    for _ in range(int.from_bytes(data[8:12], "big")):
        if at + to_name >= last:
            return None
        flags = data[at + to_name - 2] << 8 | data[at + to_name - 1]
        length = flags & _NAME_LENGTH
        if length == _LONG_NAME:
            length = data.index(0, at + to_name) - at - to_name
        if flags & 0x4000:  # more flags follow: a hidden entry, or one that is only meant to be added
            return None
        if length in lengths and (path := wanted.get(data[at + to_name : at + to_name + length])) is not None:
            if flags & 0xB000:  # assumed to be unchanged, or in conflict
                return None
            found[path] = at
        at += (to_name + length + 8) & ~7
    names = {name for name, _ in _extensions(data[at:last])}
    plain = names <= {_CACHED_TREES, *_OFFSETS, *_HARMLESS, b""} and b"" not in names
    return Entries(data, found, at, size) if plain and len(found) == len(wanted) else None


def _extensions(tail: bytes) -> list[tuple[bytes, bytes]]:
    """Return the extensions, name and content each; a nameless one where they do not fill the rest of the file."""
    found, at = [], 0
    while at + 8 <= len(tail):
        length = int.from_bytes(tail[at + 4 : at + 8], "big")
        found.append((tail[at : at + 4], tail[at + 8 : at + 8 + length]))
        at += 8 + length
    return found if at == len(tail) else [(b"", b"")]


def _forgotten(trees: bytes, folders: Collection[str], size: int) -> bytes:
    """Return the cached trees without the objects of `folders`, which have to be made anew.

    Each is `NAME NUL ENTRIES SP SUBTREES LF OBJECT`, its subtrees follow it; ENTRIES is -1 and OBJECT missing where it is not known.
    """
    out, at, left = bytearray(), 0, len(folders)
    above: list[str | None] = [""]  # the folders that the next one may be in; None: one whose content is not asked for
    open_ = [1]  # how many folders each of those still has
    while at < len(trees) and left:
        while open_ and not open_[-1]:
            open_.pop()
            above.pop()
        if not open_:
            break
        open_[-1] -= 1
        nul = trees.index(0, at)
        line = trees.index(b"\n", nul)
        count, subtrees = trees[nul + 1 : line].split(b" ")
        after = line + 1 + (size if int(count) >= 0 else 0)
        name, parent = trees[at:nul].decode("utf-8", "surrogateescape"), above[-1]
        path = None if parent is None else f"{parent}/{name}" if parent else name
        if path in folders:
            out += trees[at : nul + 1] + b"-1 " + subtrees + b"\n"
            left -= 1
        else:
            out += trees[at:after]
            path = None
        above.append(path)
        open_.append(int(subtrees))
        at = after
    return bytes(out) + trees[at:]


def _numbers(file: os.stat_result, mode: bytes) -> bytes:
    """Return what an index says of a file; its mode stays as git wrote it."""
    changed, written = divmod(file.st_ctime_ns, 10**9), divmod(file.st_mtime_ns, 10**9)
    times = changed[0] & _MOST, changed[1], written[0] & _MOST, written[1]
    rest = file.st_uid & _MOST, file.st_gid & _MOST, file.st_size & _MOST
    return _PACK(*times, file.st_dev & _MOST, file.st_ino & _MOST, mode, *rest)


def _digest(data: bytes, size: int) -> bytes:
    return (hashlib.sha1(data, usedforsecurity=False) if size == 20 else hashlib.sha256(data)).digest()
