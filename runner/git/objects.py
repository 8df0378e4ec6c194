"""Git's objects: values, parsed from raw bytes and rendered again, and written as loose objects; and entries of an index.

No git is started. A few entries of a work tree's index are given a new object in place, as gitformat-index(5) has them: git itself
looks at every file of the work tree for that, twice. It still has to do it for other versions than 2 and 3, a split or sparse index,
a file system monitor, entries in conflict or hidden by flags.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
import threading
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from runner.git.process import GitError, git_error
from runner.lines import pattern

TREE, BLOB, LINK, EXECUTABLE, SUBMODULE = "40000", "100644", "120000", "100755", "160000"


class Ident(NamedTuple):
    """Who made a commit. `time`: seconds since the epoch; `offset`: minutes east of UTC."""

    name: str
    email: str
    time: int
    offset: int = 0

    def line(self) -> bytes:
        """Return it as a commit object has it."""
        sign, minutes = ("-" if self.offset < 0 else "+"), abs(self.offset)
        return f"{self.name} <{self.email}> {self.time} {sign}{minutes // 60:02d}{minutes % 60:02d}".encode()


class Commit(NamedTuple):
    """A commit object, taken apart."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: bytes
    committer: bytes
    message: bytes
    plain: bool = True  # no header but tree, parents, author, committer and a signature
    signed: bool = False  # whether it has a signature, whatever that is worth

    @property
    def emails(self) -> tuple[str, str]:
        """The author's and the committer's address, verbatim."""
        found = [who.rpartition(b"<")[2].partition(b">")[0] for who in (self.author, self.committer)]
        return found[0].decode("utf-8", "replace"), found[1].decode("utf-8", "replace")


class TreeEntry(NamedTuple):
    """One line of a tree. `mode` without leading zero."""

    mode: str
    oid: str


Tree = dict[str, TreeEntry]


_ID = rb"[0-9a-f]{40}(?:[0-9a-f]{24})?"
_COMMIT = pattern(rb"tree (?P<tree>" + _ID + rb")\n(?P<parents>(?:parent " + _ID + rb"\n)*)")


def parse_commit(oid: str, data: bytes) -> Commit:
    """Return a raw commit object, taken apart.

    Raises:
        GitError: git could not read it either.
    """
    # As git reads it: the tree first, then the parents, and neither anywhere else.
    begin = _COMMIT.match(data)
    if begin is None or data.startswith(b"parent ", begin.end()):
        raise GitError(f"the commit {oid} does not start with its tree and its parents", "git", "run `git fsck`")
    bare, armour = split_signature(data)
    head, _, message = bare.partition(b"\n\n")
    lines = (head + b"\n")[begin.end() : -1].split(b"\n")
    pairs = [(key, value) for key, _, value in (line.partition(b" ") for line in lines)]
    parents = tuple(line[7:].decode() for line in begin["parents"].splitlines())
    rest = dict(pairs)
    plain = [key for key, _ in pairs] == [b"author", b"committer"]  # without a line that goes on, either
    return Commit(
        oid, begin["tree"].decode(), parents, rest.get(b"author", b""), rest.get(b"committer", b""), message,
        plain=plain, signed=bool(armour),
    )  # fmt: skip


def signed_bytes(data: bytes, armour: bytes) -> bytes:
    """Return a raw commit object with the signature over it, in the header that git looks for it in."""
    head, blank, message = data.partition(b"\n\n")
    name = b"gpgsig" if len(head.partition(b"\n")[0]) == len("tree ") + 40 else b"gpgsig-sha256"
    return head + b"\n" + name + b" " + armour.rstrip(b"\n").replace(b"\n", b"\n ") + blank + message


def split_signature(data: bytes) -> tuple[bytes, bytes]:
    """Return (the signed bytes, the armoured signature) of a raw commit object; the signature is empty where there is none."""
    head, blank, message = data.partition(b"\n\n")
    kept: list[bytes] = []
    found: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        if line.startswith(b" "):
            (found if inside else kept).append(line[1:] if inside else line)
            continue
        key, _, value = line.partition(b" ")
        inside = key in (b"gpgsig", b"gpgsig-sha256")
        if inside:
            found.append(value)
        else:
            kept.append(line)
    return b"\n".join(kept) + blank + message, b"\n".join(found) + b"\n" if found else b""


_ENTRIES = {width: re.compile(rb"([0-7]{1,10}) ([^\0/]+)\0(.{%d})" % width, re.DOTALL) for width in (20, 32)}


def parse_tree(data: bytes, oid_length: int) -> Tree:
    """Return the entries of a raw tree object, their modes as git takes them; `oid_length`: of the repository's ids in hex.

    Raises:
        GitError: it names something twice or what no path can be, or git could not read it.
    """
    width = oid_length // 2
    entries = _ENTRIES[width].findall(data)
    tree = {
        name.decode("utf-8", "surrogateescape"): TreeEntry(_MODES.get(mode) or _mode(mode), oid.hex())
        for mode, name, oid in entries
    }
    if sum(len(mode) + len(name) for mode, name, _ in entries) + (width + 2) * len(entries) != len(data) or (
        "." in tree or ".." in tree
    ):
        raise GitError("a tree has an entry that is none", "git", "run `git fsck`")
    if len(tree) != len(entries):  # git would take the one or the other
        names = [name for _, name, _ in entries]
        twice = next(name for name in names if names.count(name) > 1).decode("utf-8", "replace")
        raise GitError(f"a tree names {twice!r} twice", "git", "run `git fsck`")
    return tree


def entries_starting(data: bytes, oid_length: int, starts: Sequence[str]) -> Tree:
    """Return the entries of a raw tree object whose names start with one of `starts`; passing over the others is a tenth of the work.

    Raises:
        GitError: it names one of these twice, or git could not read it.
    """
    wanted = b"|".join(re.escape(start.encode("utf-8", "surrogateescape")) for start in starts)
    others = re.compile(rb"(?:[0-7]{1,10}+ (?!%s)[^\0/]++\0.{%d})*+" % (wanted, oid_length // 2), re.DOTALL)
    found, at = list[bytes](), 0
    while (at := others.match(data, at).end()) < len(data):  # type: ignore[union-attr]  # it matches nothing, too
        entry = _ENTRIES[oid_length // 2].match(data, at)
        if entry is None:
            break
        found.append(entry[0])
        at = entry.end()
    return parse_tree(b"".join(found) + data[at:], oid_length)


class LongTree(NamedTuple):
    """A tree of many entries, with what it takes to read the next version of it by what differs. `ends`: where each entry ends, once
    it was needed; `changed`: the names with another id than in the tree `before`, which has the same names and modes."""

    oid: str
    data: bytes
    entries: Tree
    ends: list[int]
    before: str = ""
    changed: tuple[str, ...] = ()

    def next(self, oid: str, data: bytes) -> LongTree | None:
        """Return a tree whose bytes are as many; None where more than ids differ, or what differs cannot be read."""
        old, pattern = self.data, _ENTRIES[32 if len(oid) == 64 else 20]
        first, last = _differing(old, data)
        if not self.ends:
            self.ends.extend(match.end() for match in pattern.finditer(old))
        begin, end = bisect_right(self.ends, first), bisect_left(self.ends, last)
        start, stop = self.ends[begin - 1] if begin else 0, self.ends[end]
        was, now = pattern.findall(old[start:stop]), pattern.findall(data[start:stop])
        if [entry[:2] for entry in was] != [entry[:2] for entry in now]:
            return None
        entries = self.entries.copy()
        changed = []
        for (_, written, new), entry in zip(now, was, strict=True):
            if new != entry[2]:
                name = written.decode("utf-8", "surrogateescape")
                entries[name] = TreeEntry(entries[name].mode, new.hex())
                changed.append(name)
        return LongTree(oid, data, entries, self.ends, self.oid, tuple(changed))


def _differing(one: bytes, other: bytes) -> tuple[int, int]:
    """Return the first place at which two texts of one length differ, and the end of the last one; they are not the same."""
    size = len(one)
    first, end = 0, size
    while end - first > 1:
        middle = (first + end) // 2
        if one[first:middle] == other[first:middle]:
            first = middle
        else:
            end = middle
    start, last = first, size
    while last - start > 1:
        middle = (start + last) // 2
        if one[middle:last] == other[middle:last]:
            last = middle
        else:
            start = middle
    return first, last


_MODES = {mode.encode(): mode for mode in (TREE, BLOB, LINK, EXECUTABLE, SUBMODULE)}


def _mode(written: bytes) -> str:
    """Return which of its five modes git takes any other for: 0120777 is checked out as a link too."""
    mode = int(written, 8)
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFREG:
        return EXECUTABLE if mode & 0o100 else BLOB
    return {stat.S_IFLNK: LINK, stat.S_IFDIR: TREE}.get(kind, SUBMODULE)


def tree_bytes(tree: Mapping[str, TreeEntry]) -> bytes:
    """Return a raw tree object, its entries in git's order."""
    rows = []
    for name, entry in tree.items():
        raw, mode = name.encode("utf-8", "surrogateescape"), entry.mode
        rows.append(
            (raw + b"/" if mode == TREE else raw, b"%s %s\0%s" % (mode.encode(), raw, bytes.fromhex(entry.oid)))
        )
    rows.sort()
    return b"".join([row for _, row in rows])


def tree_bytes_with(data: bytes, changes: Mapping[str, tuple[TreeEntry | None, TreeEntry | None]]) -> bytes | None:
    """Return a raw tree with other ids at some names (name to entry before and after); None where more than ids is different.

    So a file of a folder of thousands costs no sorting of all the others.
    """
    for name, (old, new) in changes.items():
        if old is None or new is None or old.mode != new.mode:
            return None
        row = b"%s %s\0" % (old.mode.encode(), name.encode("utf-8", "surrogateescape"))
        was = row + bytes.fromhex(old.oid)
        at = data.find(was)
        if at < 0 or data.find(was, at + 1) >= 0:  # the ids of others spell it, too
            return None
        data = data[:at] + row + bytes.fromhex(new.oid) + data[at + len(was) :]
    return data


def commit_bytes(tree: str, parents: Sequence[str], author: Ident, committer: Ident, message: bytes) -> bytes:
    """Return a raw commit object."""
    lines = [b"tree " + tree.encode(), *(b"parent " + parent.encode() for parent in parents)]
    lines += [b"author " + author.line(), b"committer " + committer.line(), b"", message]
    return b"\n".join(lines)


# --- loose objects ------------------------------------------------------------------------------------------------------


_TRIES = 5  # `git repack -d` removes folders that it emptied
LEVEL = 1  # of zlib, git's own for loose objects: they are packed later
_SHORT = 32 * 1024  # bytes for which a window of 4 kB does
_LARGE_TREE = (
    64 * 1024
)  # bytes; such a tree is stored as it is: most of it are ids, and a third less would take ten times as long
_THREADS = 4  # that wait for the disk, whose journal serves them all at once; more bring nothing


def name_of(kind: str, data: bytes, algorithm: str) -> str:
    """Return the id that git gives an object. `algorithm`: sha1 or sha256."""
    make = hashlib.sha1 if algorithm == "sha1" else hashlib.sha256  # `hashlib.new` looks for it each time
    digest = make(b"%s %d\0" % (kind.encode(), len(data)), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def deflater(size: int, level: int = LEVEL) -> zlib._Compress:
    """Return what packs so many bytes.

    The memory for zlib's whole window is asked of the system anew each time, which takes 70 µs; packing 400 bytes takes 6.
    """
    return zlib.compressobj(level, zlib.DEFLATED, 12, 6) if size <= _SHORT else zlib.compressobj(level)


class Loose:
    """Writes into an `objects` folder as `git hash-object -w` does: as durable, with less waiting. For one thread; those that wait
    for the disk are its own.

    git waits for the disk once for each object. Here each is sent to it as soon as it is written, and they are waited for together
    (`settle`), before anything can name or read one: only then does an object get its name, so a power cut leaves it whole or not
    at all. The disk is asked as `core.fsync=loose-object` with `core.fsyncMethod=fsync` asks it.

    `algorithm`: hashlib's name of the object format; `shared`: core.sharedRepository, if it is set.
    """

    def __init__(self, objects: Path, algorithm: str, shared: str | None) -> None:
        self._objects, self._algorithm = os.fspath(objects), algorithm
        self._bits, self._exactly = _shared(shared)
        self._begun: dict[str, str] = {}  # the temporary name of each object that has none of its own yet
        self._begin()

    def _begin(self) -> None:
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._answers: SimpleQueue[OSError | None] = SimpleQueue()
        self._threads = 0

    def write(self, kind: str, data: bytes) -> str:
        """Start to write an object and return its id; `settle` completes it.

        Raises:
            GitError: it cannot be written; no unsettled object is kept.
        """
        header = b"%s %d\0" % (kind.encode(), len(data))
        oid = name_of(kind, data, self._algorithm)
        folder, name = f"{self._objects}/{oid[:2]}", self._name(oid)
        if oid in self._begun or _is_there(name):
            return oid
        temporary = f"{folder}/tmp_obj_{os.urandom(6).hex()}"  # by this name `git gc` knows what a crash left behind
        handle = -1
        try:
            self._begun[oid] = temporary
            handle = self._open(folder, temporary)
            packer = deflater(len(data), 0 if kind == "tree" and len(data) >= _LARGE_TREE else LEVEL)
            _write_all(handle, packer.compress(header) + packer.compress(data) + packer.flush())
            if self._bits:
                self._share(handle, 0o444)
            if self._threads < min(_THREADS, len(self._begun)):
                self._threads += 1
                threading.Thread(target=_wait, args=(self._asked, self._answers), daemon=True).start()
            self._asked.put(handle)
        except OSError as error:
            if handle >= 0:
                os.close(handle)
            self.forget()
            raise _failed(error, name) from error
        except BaseException:  # Ctrl-C
            self.forget()
            raise
        return oid

    def settle(self) -> None:
        """Wait until all started objects are on the disk, and rename them to their ids.

        Raises:
            GitError: the disk refused; no unsettled object is kept.
        """
        if not self._begun:
            return
        try:
            errors = [error for error in (self._answers.get() for _ in self._begun) if error is not None]
            if errors:
                raise errors[0]
            for oid, temporary in self._begun.items():
                os.rename(temporary, self._name(oid))
            self._begun = {}
        except OSError as error:
            self.forget()
            raise _failed(error, self._objects) from error
        except BaseException:  # Ctrl-C: how many answers were heard is not known any more
            self.forget()
            raise

    def write_pack(self, name: str, data: bytes, index: bytes) -> None:
        """Write a pack and its index, on the disk and with their names before this returns. `name`: without an ending.

        Raises:
            GitError: they cannot be written; nothing of them is kept.
        """
        folder, begun = f"{self._objects}/pack", dict[str, str]()
        try:
            for kind, content in (("pack", data), ("idx", index)):  # git looks for the second, and then for the first
                temporary = f"{folder}/tmp_{kind}_{os.urandom(6).hex()}"
                begun[temporary] = f"{folder}/{name}.{kind}"
                handle = self._open(folder, temporary)
                try:
                    _write_all(handle, content)
                    if self._bits:
                        self._share(handle, 0o444)
                    os.fsync(handle)
                finally:
                    os.close(handle)
            for temporary in list(begun):
                os.rename(temporary, begun[temporary])
                del begun[temporary]
            sync_folder(folder)
        except OSError as error:
            raise _failed(error, folder) from error
        finally:
            for temporary in begun:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def forget(self) -> None:
        """Remove unsettled objects, and let the threads end. Nothing is waited for: that could be for ever."""
        for temporary in self._begun.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        self._begun = {}
        for _ in range(self._threads):
            self._asked.put(None)
        self._begin()

    def _name(self, oid: str) -> str:
        return f"{self._objects}/{oid[:2]}/{oid[2:]}"

    def _open(self, folder: str, temporary: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return os.open(temporary, flags, 0o444)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
                if self._bits:
                    self._share(folder, 0o777)
        return os.open(temporary, flags, 0o444)

    def _share(self, at: int | str, most: int) -> None:
        """Let those read a file (`most`: 0o444), and use a folder (0o777), whom the repository is shared with."""
        bits = (self._bits | (self._bits & 0o444) >> 2) & most
        bits |= stat.S_ISGID if most == 0o777 else 0
        os.chmod(at, bits if self._exactly else stat.S_IMODE(os.stat(at).st_mode) | bits)


def read_loose(objects: Path, oid: str) -> tuple[str, bytes] | None:
    """Return the type and bytes of an object that lies alone in an `objects` folder, as those of the last transitions do.

    None: it does not, or is damaged; git then finds it elsewhere or says why not.
    """
    try:
        with open(f"{objects}/{oid[:2]}/{oid[2:]}", "rb", buffering=0) as file:
            header, _, data = zlib.decompress(file.read()).partition(b"\0")
    except (OSError, zlib.error):
        return None
    kind, _, size = header.partition(b" ")
    return (kind.decode("ascii", "replace"), data) if size == b"%d" % len(data) else None


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_folder(folder: str | Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _wait(asked: SimpleQueue[int | None], answers: SimpleQueue[OSError | None]) -> None:
    """Wait for the disk, a file at a time, and close it, until there is to be an end."""
    while (handle := asked.get()) is not None:
        error = None
        try:
            os.fsync(handle)
        except OSError as failure:
            error = failure
        try:
            os.close(handle)
        except OSError as failure:
            error = error or failure
        answers.put(error)


def _is_there(name: str) -> bool:
    """Return whether the object is there, and have it count as new, so that nothing prunes it. An empty file is a power cut's."""
    try:
        if os.stat(name).st_size == 0:
            return False
        with contextlib.suppress(PermissionError):
            os.utime(name)
        return True
    except OSError:  # whatever it is, writing it says so
        return False


def _shared(value: str | None) -> tuple[int, bool]:
    """Return (permissions, whether exactly those) for core.sharedRepository; 0: as the person's umask has it."""
    setting = (value or "umask").lower()
    if setting in ("group", "true", "yes", "on", "1"):
        return 0o660, False
    if setting in ("all", "world", "everybody", "2"):
        return 0o664, False
    if setting[0] == "0" and setting.strip("01234567") == "" and setting != "0":
        return int(setting, 8) & 0o666, True
    return 0, False


def _failed(error: OSError, where: str) -> GitError:
    return git_error(["git", "hash-object"], 128, f"fatal: {where}: {error.strerror}")


_STAT: Final = 40  # bytes of ten numbers: ctime and mtime as seconds and nanoseconds, dev, ino, mode, uid, gid, size
_PACK, _MOST = struct.Struct(">6I4s3I").pack, 0xFFFFFFFF
_NAME_LENGTH, _LONG_NAME = 0x0FFF, 0x0FFF
_CACHED_TREES = b"TREE"
_OFFSETS = (
    b"EOIE",
    b"IEOT",
)  # of entries and extensions, for threads; optional, and wrong once an extension has another size
_HARMLESS = (b"REUC", b"UNTR")


class Entries(NamedTuple):
    """The entries of some paths in an index. `at`: path to its entry's offset; `end`: offset after the last entry of all;
    `forgotten`: folders whose cached trees it does not have, as far as that is known."""

    data: bytes | bytearray
    at: Mapping[str, int]
    end: int
    size: int  # of an object's name, in bytes
    forgotten: Collection[str] = ()

    def entry(self, path: str) -> TreeEntry:
        """Return what the index has at `path`."""
        at = self.at[path]
        mode = int.from_bytes(self.data[at + 24 : at + 28], "big")
        return TreeEntry(f"{mode:o}", self.data[at + _STAT : at + _STAT + self.size].hex())

    def is_as_listed(self, path: str, file: os.stat_result) -> bool:
        """Return whether a file (as lstat has it) is the one that the index lists, by all that it says of a file."""
        at = self.at[path]
        return self.data[at : at + _STAT] == _numbers(file, self.data[at + 24 : at + 28])

    def replaced(self, changes: Mapping[str, tuple[str, os.stat_result]]) -> Entries:
        """Return the index with another object and file for each path: (name in hex, the file as lstat has it)."""
        data = bytearray(self.data)  # some megabytes, so nothing is copied twice
        for path, (oid, file) in changes.items():
            at = self.at[path]
            data[at : at + _STAT + self.size] = _numbers(file, data[at + 24 : at + 28]) + bytes.fromhex(oid)
        folders = {path[:end] for path in changes for end, sign in enumerate(path) if sign == "/"} | {""}
        if not folders <= {*self.forgotten}:
            rest = []
            for name, body in _extensions(bytes(data[self.end : -self.size])):
                if name in _OFFSETS:
                    continue
                body = _forgotten(body, folders, self.size) if name == _CACHED_TREES else body
                rest.append(name + len(body).to_bytes(4, "big") + body)
            data[self.end :] = b"".join([*rest, bytes(self.size)])
        data[-self.size :] = _digest(memoryview(data)[: -self.size], self.size)
        return self._replace(data=data, forgotten=folders.union(self.forgotten))


def entries(
    data: bytes, paths: Collection[str], size: int, known: Entries | None = None, *, free: Collection[str] = ()
) -> Entries | None:
    """Return the entries of `paths` in an index's bytes, None where git has to do it. `size`: of an object's name, in bytes; `known`:
    what was found or made before, in which paths are not looked for again where the bytes are the same. `free`: paths at which, below
    which and on the way to which the index has to have nothing; nothing may be in conflict then."""
    known = known if known is not None and known.data == data else None
    if known is not None and not free and all(path in known.at for path in paths):
        return known
    if len(data) < 12 + size or data[:4] != b"DIRC" or int.from_bytes(data[4:8], "big") not in (2, 3):
        return None
    if known is None and data[-size:] not in (
        _digest(memoryview(data)[:-size], size),
        bytes(size),
    ):  # zeros where `index.skipHash` is set
        return None
    at, found, last = 12, dict[str, int](), len(data) - size
    wanted = {path.encode("utf-8", "surrogateescape"): path for path in paths}
    lengths, to_name = set(map(len, wanted)), _STAT + size + 2
    new = [path.encode("utf-8", "surrogateescape") for path in free]
    taken = {path[:end] for path in new for end, sign in enumerate(path + b"/") if sign == 0x2F}
    below = tuple(path + b"/" for path in new)
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
        if new:
            name = data[at + to_name : at + to_name + length]
            if flags & 0x3000 or name in taken or name.startswith(below):  # a merge that is not finished; in the way
                return None
        at += (to_name + length + 8) & ~7
    names = {name for name, _ in _extensions(data[at:last])}
    plain = names <= {_CACHED_TREES, *_OFFSETS, *_HARMLESS, b""} and b"" not in names
    if not plain or len(found) < len(wanted):
        return None
    return Entries(data, found, at, size, known.forgotten if known is not None else ())


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


def _numbers(file: os.stat_result, mode: bytes | bytearray) -> bytes:
    """Return what an index says of a file; its mode stays as git wrote it."""
    changed, written = divmod(file.st_ctime_ns, 10**9), divmod(file.st_mtime_ns, 10**9)
    times = changed[0] & _MOST, changed[1], written[0] & _MOST, written[1]
    rest = file.st_uid & _MOST, file.st_gid & _MOST, file.st_size & _MOST
    return _PACK(*times, file.st_dev & _MOST, file.st_ino & _MOST, mode, *rest)


def _digest(data: bytes | memoryview, size: int) -> bytes:
    return (hashlib.sha1(data, usedforsecurity=False) if size == 20 else hashlib.sha256(data)).digest()
